//! Settings of a dataplane and every limit of a worker, each with its reason. Relations between limits are
//! asserted here, at compile time.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use proto::link::{SLOT_TALLIES_MAX, STREAM_TALLIES_MAX};
use proto::plane::{STREAM_SETS_PART_LEN, STREAM_SETS_PARTS_MAX};

/// Time on the worker's clock: microseconds since an arbitrary moment, never backwards.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
/// One millisecond.
pub const MILLISECOND: Micros = 1_000;

/// Peers of one worker. At 30 packets a second each way this is beyond what a core forwards.
pub const PEERS_MAX: usize = 8192;
/// Streams of one worker: four for each peer (microphone, camera, screen and its sound).
pub const STREAMS_MAX: usize = 4 * PEERS_MAX;
/// Slots of one worker: sixteen for each peer (7 audio, 8 video, one to spare).
pub const SLOTS_MAX: usize = 16 * PEERS_MAX;
/// Routes of one worker: a slot carries one at a time.
pub const ROUTES_MAX: usize = SLOTS_MAX;
/// Streams of one peer. Bounds the search for an SSRC.
pub const PEER_STREAMS_MAX: usize = 16;
/// Slots of one peer. Bounds the work of one RTCP packet.
pub const PEER_SLOTS_MAX: usize = 64;
/// SSRCs of one peer that may send RTCP: its streams (and their RTX), and one for its reports.
pub const RTCP_SENDERS_MAX: usize = 2 * PEER_STREAMS_MAX + 1;
/// SSRCs that one peer may send from in its life: those of its streams (and their RTX), and some for renegotiation, other
/// encodings, and changes without signalling, of which browsers make none. Each is remembered with its replay window.
pub const PEER_SSRCS_MAX: usize = 2 * PEER_STREAMS_MAX + 32;
/// Packets of one peer that are tried under a second roll-over counter at once: some for each SSRC that it may send from.
pub const SECOND_TRIES_BURST: u32 = PEER_SSRCS_MAX as u32;
/// … and in a second: enough that the few packets between forged ones that are authentic have their turn, and as much work
/// as a stream of audio makes.
pub const SECOND_TRIES_RATE: u32 = 32;
/// Bytes of the parameter sets of one stream of H.264, each with a byte for its length. Those of x264, openh264 and hardware
/// encoders take 20 to 60; what SDP may tell ([`STREAM_SETS_PARTS_MAX`]) is less than this.
pub const SETS_LEN_MAX: usize = 256;
const _: () = assert!(SETS_LEN_MAX >= STREAM_SETS_PART_LEN * STREAM_SETS_PARTS_MAX);
const _: () = assert!(SETS_LEN_MAX <= FRAME_LEN, "they fit a message between workers");
/// A stream goes on with another of its SSRCs when the one that it was carried from has been silent for this long: twice what
/// libwebrtc waits before it repeats the picture of a still screen (`kZeroHertzIdleRepeatRatePeriod`).
pub const SSRC_SILENCE: Micros = 2 * SECOND;
/// … or, of video, when others have sent so many frames meanwhile: half a second of them.
pub const SSRC_SILENCE_FRAMES: u8 = 16;
/// SSRCs that we may send to one peer from in its life: its slots (and their RTX), each renegotiated once.
pub const PEER_SLOT_SSRCS_MAX: usize = 4 * PEER_SLOTS_MAX;
/// Streams of one worker that it hands on to another, counted for each worker that gets them.
pub const TAPS_MAX: usize = STREAMS_MAX;
/// Routes of one stream on one worker; larger rooms spread over workers.
pub const STREAM_ROUTES_MAX: usize = 1024;
/// Commands between two commits. A room of eight that appears at once is about 500.
pub const STAGED_MAX: usize = 16_384;

/// Addresses of one peer that authenticated checks have validated; the least recently checked one makes room.
pub const PEER_PATHS_MAX: usize = 8;
/// An address belongs to the peer that checked from it within this time: twice the interval of consent checks (RFC 7675
/// §5.1: 5 s). A request proves no more than that its sender can write a source address.
pub const PATH_HELD: Micros = 10 * SECOND;
/// How often authentic media renews what a check has given, at most.
pub const HEARD_INTERVAL: Micros = SECOND;

/// Bytes of an outgoing packet: an Ethernet MTU, and slack for header extensions and the tag.
pub const FRAME_LEN: usize = 1600;
/// Largest RTP payload that is forwarded, so that header, extensions and tag always fit a frame.
pub const PAYLOAD_LEN_MAX: usize = FRAME_LEN - 132;
/// Packets of one video frame are padded to a multiple of this many bytes. Encoders cut a frame into packets of about equal
/// length (libwebrtc `RtpPacketizer::SplitAboutEqually`: some are one byte longer than the others), and UDP_SEGMENT takes
/// only equal ones: so each frame would be two trains. On average it adds half of this to a packet, 0.7 %.
pub const EVEN_LEN: usize = 16;
/// Longest packet, without SRTP's tag, that padding may make: what libwebrtc itself sends (`kVideoMtu` of 1200 bytes), so
/// that no path is too narrow for it.
pub const EVEN_LEN_MAX: usize = 1200;
/// Packets that wait together to be fanned out: a large frame of video. Their payloads are still in the first cache when
/// the last receiver's copies are made.
pub const BURST_LEN_MAX: usize = 32;
/// Bytes of the outbox slab: what is flushed at once, and room for one of the widest fan-outs.
pub const OUTBOX_LEN: usize = 4 << 20;
/// Packets of the outbox between two flushes.
pub const OUTBOX_PACKETS_MAX: usize = 2048;
/// Chunks of an outbox whose packets leave where they lie, 8 MiB of them: the widest fan-out twice over, and as much again
/// in flight.
pub const CHUNKS_MAX: usize = 4096;
/// Packets after which an outbox is flushed. They are still in the cache when the kernel reads them, and do not wait for
/// those of other receivers; fewer would make more system calls (measured in docs/decisions/0021).
pub const PACKETS_ENOUGH: usize = 128;
/// Packets of one length, after the first, from which on a train by the socket costs no more than as many frames (measured:
/// docs/MEASURING.md).
pub const TRAIN_WORTH: u32 = 3;
/// How long packets go by the socket after a device refused frames: it is down, or gone.
pub const FRAMES_PAUSE: Micros = SECOND;
/// How often a device that did not take all frames at once is offered the rest.
pub const FRAMES_RETRY: Micros = MILLISECOND;
/// Reports that wait for the event ring.
pub const REPORTS_MAX: usize = 4096;

/// Packets of the repair history of one worker, shared by its video streams: at 2000 video packets a second two
/// seconds of them, which is longer than any receiver's jitter buffer waits for a repair.
pub const HISTORY_PACKETS: usize = 4096;
/// Packets of one stream that the history can find again.
pub const HISTORY_PER_STREAM: usize = 512;

/// Consent to send expires without an authenticated check for this long (RFC 7675 §5.1).
pub const CONSENT_TIMEOUT: Micros = 30 * SECOND;

/// Punts of one peer in a burst: a DTLS handshake with a post-quantum key share and an RSA certificate is 8
/// datagrams each way when nothing is lost.
pub const PEER_PUNT_BURST: u32 = 32;
/// Punts of one peer per second after the burst.
pub const PEER_PUNT_RATE: u32 = 16;
/// Punts of a worker in a burst.
pub const PUNT_BURST: u32 = 2048;
/// Punts of a worker per second after the burst.
pub const PUNT_RATE: u32 = 8192;

/// Reports (SR, RR) to a peer (RFC 3550 §6.2: five seconds for large sessions; libwebrtc sends video's each second).
pub const REPORT_INTERVAL: Micros = SECOND;
/// Reports of a peer without a packet of a stream, after which it is silent: 1.75 to 3.4 s. Longer than any pause of a source
/// that is on: DTX sends each 0.4 s, a still screen or a dark camera once a second (libwebrtc's zero-hertz mode).
pub const STREAM_QUIET_REPORTS: u8 = 2;
/// Reports of a peer without anything from it, after which it is silent: 7 to 10 s. RFC 7675 §5.1 has a check at least each
/// 6 s, browsers check each 2.5 s.
pub const PEER_QUIET_REPORTS: u8 = 8;
/// What a receiver reported of a slot is shown this long: three times the longest interval of RTCP (RFC 3550 §6.2).
pub const REPORT_HELD: Micros = 15 * SECOND;
/// Rates are of the time since the mark before the last, and marks are this far apart.
pub const TALLY_MARK_INTERVAL: Micros = 2 * SECOND;
/// Tallies that wait for the link: those of a dozen peers with everything.
pub const TALLIES_MAX: usize = 1024;
/// Transport-cc feedback to a publisher (libwebrtc `TransportSequenceNumberFeedbackGenerator` default interval).
pub const TRANSPORT_CC_INTERVAL: Micros = 100 * MILLISECOND;

/// Transport-wide sequence numbers of one publisher that are remembered: libwebrtc's window of 500 ms, at 2000 packets a
/// second. 4 KiB for each peer that sends.
pub const ARRIVALS_MAX: usize = 1024;

/// Holes that are tracked for one stream; more at once is an outage, answered by a keyframe request.
pub const HOLES_MAX: usize = 256;
/// How often a hole is asked for (libwebrtc `NackRequester::kMaxNackRetries`).
pub const NACK_TRIES_MAX: u8 = 10;
/// How long a hole may be filled by mere reordering before it is asked for.
pub const NACK_DELAY: Micros = 10 * MILLISECOND;
/// Round trip assumed until it is measured (libwebrtc `NackRequester::kDefaultRtt`).
pub const RTT_DEFAULT: Micros = 100 * MILLISECOND;

/// Least that REMB tells a publisher, bit/s: below it no picture moves, and the way back up would take minutes.
pub const REMB_BPS_MIN: u32 = 30_000;

/// Keyframe requests to one publisher's stream are at least this far apart.
pub const KEYFRAME_INTERVAL: Micros = 200 * MILLISECOND;
/// A keyframe that was asked for and did not come is asked for again after this long.
pub const KEYFRAME_RETRY: Micros = SECOND;
/// Keyframe requests that one receiver's slot may cause in [`KEYFRAME_WINDOW`].
pub const KEYFRAME_REQUESTS_MAX: u8 = 3;
/// See [`KEYFRAME_REQUESTS_MAX`].
pub const KEYFRAME_WINDOW: Micros = 10 * SECOND;

/// Share of a slot's egress that repair may add, as a divisor of the bytes sent: one half.
pub const REPAIR_SHARE_DIVISOR: u32 = 2;
/// Bytes of repair that a slot may send in a burst.
pub const REPAIR_BURST: u32 = 64 * 1024;
/// A sequence number is not repaired again for one receiver within this (or its round trip, if longer).
pub const REPAIR_REPEAT_MIN: Micros = 20 * MILLISECOND;

const _: () =
    assert!(PEER_QUIET_REPORTS as u64 * (REPORT_INTERVAL * 7 / 8) >= 7 * SECOND, "checks are up to 6 s apart");
const _: () = assert!(WORKERS_MAX <= u16::MAX as usize, "TapOpen::worker is 16 bits");
const _: () = assert!(OUTBOX_LEN >= 2 * STREAM_ROUTES_MAX * FRAME_LEN, "a fan-out must fit a half-full outbox");
const _: () = assert!(CHUNKS_MAX >= 2 * STREAM_ROUTES_MAX, "a fan-out must fit a half-full outbox");
const _: () = assert!(OUTBOX_PACKETS_MAX >= PACKETS_ENOUGH + STREAM_ROUTES_MAX, "a fan-out must fit behind enough");
const _: () = assert!(TALLIES_MAX >= 2 * (PEER_STREAMS_MAX + PEER_SLOTS_MAX), "a peer's tallies must fit");
const _: () = assert!(STREAMS_MAX <= STREAM_TALLIES_MAX && SLOTS_MAX <= SLOT_TALLIES_MAX, "each has its row");
const _: () = assert!(HISTORY_PER_STREAM.is_power_of_two() && HISTORY_PER_STREAM <= HISTORY_PACKETS);
const _: () = assert!(OUTBOX_LEN < u32::MAX as usize);
/// Where a dataplane listens and how its workers run: what the operator sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Addresses of this machine that media arrives at. Each worker opens a socket on each of them.
    pub media_ips: Vec<IpAddr>,
    /// UDP port of worker 0; worker i listens on `media_port + i`. 0 leaves the choice to the kernel.
    pub media_port: u16,
    /// Threads, each with its core, ports and peers.
    pub workers: usize,
    /// The Unix socket at which a controlplane attaches; its folder must exist.
    pub socket_path: PathBuf,
    /// Whether each worker is bound to one core.
    pub is_pinned: bool,
    /// How idle workers wait.
    pub driver: Driver,
    /// How packets leave.
    pub backend: Backend,
    /// For how long a worker looks for more work before it parks, at most, microseconds.
    pub spin_us: Micros,
}

impl Default for Config {
    /// One worker on 127.0.0.1, port 40000: what a developer needs.
    fn default() -> Self {
        Config {
            media_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            media_port: 40_000,
            workers: 1,
            socket_path: PathBuf::from("dataplane.sock"),
            is_pinned: true,
            driver: Driver::Auto,
            backend: Backend::Udp,
            spin_us: 0,
        }
    }
}

/// How packets come and leave. They always come in by a worker's sockets. Which of the first two is cheaper here, a
/// [probe](crate::io::probe) tells.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Backend {
    /// By the sockets.
    #[default]
    Udp,
    /// By the sockets, through io_urings of the worker's own. Where the kernel has none, by system calls.
    Uring,
    /// As Ethernet frames, past the kernel's UDP, IP, firewall and traffic control. Where that cannot be, by the sockets.
    Frames,
}

impl Backend {
    /// All of them.
    pub const ALL: [Backend; 3] = [Backend::Udp, Backend::Uring, Backend::Frames];

    /// Its name in settings and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Udp => "udp",
            Backend::Uring => "uring",
            Backend::Frames => "frames",
        }
    }
}

/// How a worker with nothing to do waits for its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Driver {
    /// By io_uring where the kernel allows it, else by epoll.
    #[default]
    Auto,
    /// By io_uring.
    Uring,
    /// By epoll.
    Epoll,
}

/// Media addresses of a dataplane. A path names its socket by a byte, and every socket costs a system call a turn.
pub const MEDIA_IPS_MAX: usize = 16;
/// Workers of a dataplane; more than one for each core is never useful.
pub const WORKERS_MAX: usize = 1024;
/// What each socket asks the kernel for, each way: 40 ms of a worker's 100 MB/s.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Buffers of a batch. Each takes one datagram, or up to 64 that UDP_GRO merged; beyond 32 the system call's share
/// of the cost does not shrink any further.
pub const BATCH_LEN_MAX: usize = 32;
/// Messages in one sendmmsg; beyond 64 the system call's share of the cost does not shrink any further.
pub const MESSAGES_MAX: usize = 64;
/// Packets of a train: UDP_MAX_SEGMENTS of kernels before 6.9, later ones allow 128.
pub const TRAIN_SEGMENTS_MAX: usize = 64;
/// Bytes of a train: the largest UDP payload over IPv4.
pub const TRAIN_BYTES_MAX: usize = 65_507;
/// How long one flush may wait in all for a full send buffer. Longer, and the peers of this worker that are not to
/// blame hear it.
pub const SEND_WAIT_MAX: Duration = Duration::from_millis(1);
/// Commands that are read in one turn: at 0.1 to 1 µs each, a small part of a packet's due time.
pub const COMMANDS_PER_TURN_MAX: usize = 256;
/// Injected datagrams that are read in one turn.
pub const INJECTS_PER_TURN_MAX: usize = 64;
/// Timers that are run in one turn. The longest, a peer's reports and tallies, takes some 20 µs.
pub const TIMERS_PER_TURN_MAX: usize = 8;
/// Messages of other workers that are read in one turn: as many as packets in a batch, and at 2000 packets a second and
/// stream more than a turn ever finds unless it is far behind.
pub const RELAYS_PER_TURN_MAX: usize = 256;
/// Longest spin that may be set: a wake takes less.
pub const SPIN_US_MAX: Micros = 1000;
/// A worker spins for at most one in so many microseconds, however often it finds nothing to do.
pub const SPIN_SHARE_DIVISOR: Micros = 2;
/// What it may save up for a burst of short pauses.
pub const SPIN_CREDIT_MAX: Micros = 10 * MILLISECOND;
/// How often a busy worker publishes its counters. An idle one publishes before it parks.
pub const PUBLISH_INTERVAL: Micros = 100 * MILLISECOND;
/// Places of the event ring that echoes of a description leave to events.
pub const ECHO_HEADROOM: usize = 1024;
/// How soon a worker looks again whether the controlplane has read, when a description has filled the event ring.
pub const ECHO_RETRY: Micros = 5 * MILLISECOND;
/// How long a destination that refused a train is sent single packets.
pub const REFUSED_TRAINS_TIMEOUT: Micros = 10 * SECOND;

const _: () = assert!(MEDIA_IPS_MAX <= u8::MAX as usize + 1, "Path::socket is a byte");
const _: () = assert!(TRAIN_BYTES_MAX <= 65_507 && TRAIN_SEGMENTS_MAX <= 64, "what every kernel takes");
