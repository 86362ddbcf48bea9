//! Settings of a dataplane and every limit of a worker, each with its reason. Relations between limits are
//! asserted here, at compile time.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use proto::link::{Endpoint, PEER_TALLIES_MAX, SLOT_TALLIES_MAX, STREAM_TALLIES_MAX};
use proto::plane::{STREAM_SETS_PART_LEN, STREAM_SETS_PARTS_MAX, TRACK_ENCODINGS_MAX};

/// Time on the worker's clock: microseconds since an arbitrary moment, never backwards.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
/// One millisecond.
pub const MILLISECOND: Micros = 1_000;

/// Peers of one worker, as the contract between the planes says.
pub use proto::plane::{PEERS_MAX, RELAYS_MAX};
/// Whom a worker sends to: peers, and those to whom it passes on.
pub const DESTINATIONS_MAX: usize = PEERS_MAX + RELAYS_MAX;
/// Streams of one worker: eight for each peer (microphone, camera, screen and its sound, and as many mirrors of other workers'
/// streams).
pub const STREAMS_MAX: usize = 8 * PEERS_MAX;
/// Slots of one worker: 32 for each peer, twice what a room of eight with screens needs (7 audio, 8 video, one to spare), for
/// large rooms.
pub const SLOTS_MAX: usize = 32 * PEERS_MAX;
/// Routes of one worker: a slot has one from each encoding of the track that is in it.
pub const ROUTES_MAX: usize = TRACK_ENCODINGS_MAX * SLOTS_MAX;
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
/// encoders take 20 to 60; what SDP may bring ([`STREAM_SETS_PARTS_MAX`]) is less than this.
pub const SETS_LEN_MAX: usize = 256;
const _: () = assert!(SETS_LEN_MAX >= STREAM_SETS_PART_LEN * STREAM_SETS_PARTS_MAX);
const _: () = assert!(SETS_LEN_MAX <= FRAME_LEN, "they fit a message between workers");
/// A stream goes on with another of its SSRCs when the one that it was carried from has been silent for this long: twice what
/// libwebrtc waits before it repeats the picture of a still screen (`kZeroHertzIdleRepeatRatePeriod`).
pub const SSRC_SILENCE: Micros = 2 * SECOND;
/// … or, of video, when others have sent so many frames meanwhile: half a second of them.
pub const SSRC_SILENCE_FRAMES: u8 = 16;
/// One encoding of a track is stopped by its publisher when it has been silent for this long: six frames at 30 frames a second …
pub const ENCODING_SILENCE: Micros = 200 * MILLISECOND;
/// … and so many frames of the track's other encodings have ended meanwhile. An encoder that has to save bits leaves out a frame
/// or two.
pub const ENCODING_SILENCE_FRAMES: u8 = 6;
/// … or when it says so itself (`video-layers-allocation`), and nothing of it has come for this long: packets of its last frame may be behind
/// those of another encoding.
pub const ENCODING_STOPPED: Micros = 50 * MILLISECOND;
/// A publisher may say this often that pictures of an encoding have another size: all its receivers choose anew.
pub const ENCODING_RESIZED: Micros = 100 * MILLISECOND;
/// Packets of a keyframe that a receiver is sent at once when it changes to another encoding: what the quota of an encoding keeps.
pub const ENTERED_MAX: u64 = ENCODING_KEPT_MAX as u64;
/// Reports of a publisher between which nobody wanted an encoding, after which it is idle: 4.4 to 5.6 s, longer than a slot is
/// undecided between two encodings.
pub const ENCODING_IDLE_REPORTS: u8 = 5;
/// How often the workers of a publisher and of its receivers tell each other how an encoding is, and whether it is taken, beside
/// when that changes: a message that found its lane full is made up for.
pub const ENCODING_TOLD_INTERVAL: Micros = SECOND;
/// SSRCs that we may send to one peer from in its life: its slots (and their RTX), each renegotiated once.
pub const PEER_SLOT_SSRCS_MAX: usize = 4 * PEER_SLOTS_MAX;
/// Streams of one worker that it relays to another, counted for each worker that gets them.
pub const TAPS_MAX: usize = STREAMS_MAX;
/// Routes of one stream on one worker; larger rooms spread over workers.
pub const STREAM_ROUTES_MAX: usize = 1024;
/// Commands between two commits. A room of eight that appears at once is about 500.
pub const STAGED_MAX: usize = 16_384;

/// Addresses of one peer from which authenticated checks came; the least recently checked one makes room.
pub const PEER_PATHS_MAX: usize = 8;
/// An address belongs to the peer that checked from it within this time: twice the interval of consent checks (RFC 7675
/// §5.1: 5 s). A request proves no more than that its sender can write a source address.
pub const PATH_HELD: Micros = 10 * SECOND;
/// How often authentic media is noted as a sign of life, at most.
pub const HEARD_INTERVAL: Micros = SECOND;
/// An address that has not answered a check is sent so many times the bytes that came from it, at most (RFC 9000 §8.1). An
/// answer to a check, and a check of ours, are together less than twice the check that they follow; a flight of DTLS with a
/// certificate of P-256 is less than three times a ClientHello.
pub const UNANSWERED_FACTOR: u32 = 3;
/// How long an address has to answer our first check before it is sent again; after that twice as long each time. RFC 8445
/// §14.3 has 500 ms for checks in both directions; here the peer's own check has just come the same way, and it waits.
pub const CHECK_INTERVAL: Micros = 100 * MILLISECOND;
/// How often a check of ours is sent before the address is given up, 6.3 s after the first (RFC 8489 §6.2.1 has 7).
pub const CHECK_TRIES_MAX: u8 = 6;
/// A candidate of another edge is asked again after this long, as long as no address of it answers; before that more often, as
/// above.
pub const CANDIDATE_INTERVAL_MAX: Micros = SECOND;
/// Longest check of ours: the username of a peer with a fragment of 256 characters (RFC 8839 §5.4), and 80 bytes around it.
pub const CHECK_LEN_MAX: usize = 384;

/// A TCP path that is nominated does not take over from a UDP path that was heard of within this time. libwebrtc calls a path
/// weak after 2.5 s (`WEAK_CONNECTION_RECEIVE_TIMEOUT`), and only then nominates another one.
pub const UDP_QUIET: Micros = 3 * SECOND;
/// … and that has answered a check of ours within this time: the longest interval of consent checks, and a second.
pub const UDP_UNANSWERED: Micros = CONSENT_INTERVAL * 6 / 5 + SECOND;

/// TCP connections of one worker: two for each of its peers would be more than any room needs where UDP is blocked for some.
/// Each takes [`TCP_WAITING_LEN`] of memory and as much again in the kernel.
pub const TCP_CONNECTIONS_MAX: usize = 1024;
/// … of one source, an IPv4 address or an IPv6 /64: an office behind one address, and not the whole worker.
pub const TCP_SOURCE_MAX: usize = 256;
/// … of one source that no peer owns yet. A browser makes one connection for each of its networks, within a second.
pub const TCP_SOURCE_UNOWNED_MAX: usize = 32;
/// How long a connection may be without a peer that it belongs to: until the first authenticated check, and after its peer has
/// left. A check comes one round trip after the connection; libwebrtc repeats it each 50 ms until it is answered.
pub const TCP_UNOWNED_MAX: Micros = 5 * SECOND;
/// How often connections without a peer are looked for.
pub const TCP_REVIEW_INTERVAL: Micros = SECOND;
/// Shortest frame of a connection: an SRTCP packet or RTP header takes 12 bytes, a record of DTLS 13, STUN 20. Shorter ones would
/// only cost work.
pub const TCP_FRAME_LEN_MIN: usize = 12;
/// Longest frame of a connection: more than any path's MTU leaves for a packet (RFC 6544 has no limit, RFC 4571 has 65,535).
pub const TCP_FRAME_LEN_MAX: usize = 2048;
/// Bytes that wait for one connection when the kernel takes no more: a third of a second at 1.5 Mbit/s.
pub const TCP_WAITING_LEN: usize = 64 * 1024;
/// No packet of video is added beyond this, so that audio, RTCP and checks have room: 16 KiB are a hundred packets of audio.
pub const TCP_WAITING_VIDEO: usize = TCP_WAITING_LEN * 3 / 4;
/// Once video was dropped, none is added until so little waits.
pub const TCP_WAITING_LOW: usize = TCP_WAITING_LEN / 2;
/// Bytes that the kernel takes of a connection beyond those in flight (TCP_NOTSENT_LOWAT): what waits there cannot be dropped
/// any more.
pub const TCP_UNSENT_BYTES: usize = 32 * 1024;
/// What the kernel may hold of a connection, each way: 10 Mbit/s at a round trip of 200 ms.
pub const TCP_BUFFER_BYTES: usize = 256 * 1024;
/// A connection whose bytes were not acknowledged for so long has ended (RFC 5482): as long as consent holds.
pub const TCP_USER_TIMEOUT: Micros = CONSENT_TIMEOUT;
/// Connections that wait to be accepted: what the kernel allows by default (`net.core.somaxconn`), so that one flood does not make
/// others' SYN wait for its repetition.
pub const TCP_BACKLOG: i32 = 4096;
/// Connections that are read in one look, and the bytes of each: as many as a batch of UDP commonly has.
pub const TCP_READS_MAX: usize = 8;
/// See [`TCP_READS_MAX`].
pub const TCP_READ_LEN: usize = 8 * 1024;
/// Connections that one look accepts.
pub const TCP_ACCEPTS_MAX: usize = 8;
/// Connections that the controlplane may hand over between two looks: one more is closed.
pub const TCP_HANDED_MAX: usize = 64;
/// How often a worker that does not sleep looks for TCP; one that sleeps is woken.
pub const TCP_LOOK_INTERVAL: Micros = MILLISECOND;

/// Bytes of an outgoing packet: an Ethernet MTU, and slack for header extensions and the tag.
pub const FRAME_LEN: usize = 1600;
/// Largest RTP payload that is forwarded, so that header, extensions and tag always fit a frame.
pub const PAYLOAD_LEN_MAX: usize = FRAME_LEN - 152;
/// Packets of one video frame are padded to a multiple of this many bytes. Encoders cut a frame into packets of about equal
/// length (libwebrtc `RtpPacketizer::SplitAboutEqually`: some are one byte longer than the others), and UDP_SEGMENT takes
/// only equal ones: so each frame would be two trains. On average it adds half of this to a packet, 0.7 %.
pub const EVEN_LEN: usize = 16;
/// Longest packet, without SRTP's tag, that padding may make: what libwebrtc itself sends (`kVideoMtu` of 1200 bytes), so
/// that no path is too narrow for it.
pub const EVEN_LEN_MAX: usize = 1200;
/// Packets that are pending together until they are fanned out: a large frame of video. Their payloads are still in the first
/// cache when the last receiver's copies are made.
pub const PENDING_MAX: usize = 32;
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

/// Packets that one worker keeps for repair, shared by its video streams: at 2000 video packets a second two seconds of them,
/// which is longer than any receiver's jitter buffer waits for a repair.
pub const KEPT_PACKETS_MAX: usize = 4096;
/// Of them, the quota of each of a peer's first [`STREAMS_KEPT_WHOLE`] streams of video: half a second of the busiest.
pub const STREAM_KEPT_MAX: usize = 512;
/// Streams of video of a peer that have the whole quota: its camera and its screen.
pub const STREAMS_KEPT_WHOLE: usize = 2;
/// … and of each encoding of them that comes by RID: a second of 2.5 Mb/s. Both together have less than half of what is kept.
pub const ENCODING_KEPT_MAX: usize = 256;
/// The quota of each further one, so that one peer holds less than half of what is kept.
pub const STREAM_KEPT_MIN: usize = 64;
/// Packets of audio that one worker keeps for repair, shared by its streams: at 16,000 a second, which are 320 microphones that
/// are spoken into, one second of them. 6 MiB, of which only what was used takes memory.
pub const AUDIO_KEPT_MAX: usize = 16_384;
/// Of them, the quota of each stream: 0.6 s of packets of 20 ms. A packet is asked for while its receiver's jitter buffer can wait for it
/// (libwebrtc `NackTracker`), which is as long as the jitter and a round trip; 64 took 22 KiB for each microphone.
pub const STREAM_AUDIO_KEPT: usize = 32;
/// Longest packet of audio that is kept, header included: 100 kb/s at 20 ms. Longer ones are not repaired.
pub const AUDIO_KEPT_LEN: usize = 320;
/// Packets in the clear that one turn needs between two flushes: those that are pending, and as many again that are relayed
/// only.
pub const PASSING_PACKETS_MAX: usize = 128;

/// Packets of video of one worker that wait until receivers' paths are ready for them: 400 ms of 100 receivers with 1 Mb/s each.
pub const WAITING_MAX: usize = 4096;

/// Consent to send expires when the selected path has not answered for this long (RFC 7675 §5.1).
pub const CONSENT_TIMEOUT: Micros = 30 * SECOND;
/// How often the selected path is asked for its consent; each time 0.8 to 1.2 times this long (RFC 7675 §5.1).
pub const CONSENT_INTERVAL: Micros = 5 * SECOND;

/// How much of its rate a peer or a track may send at once. Congestion control probes with several times the rate for 15 to
/// 100 ms (libwebrtc `ProbeController`), a keyframe is several times a mean frame, and a network that stood still hands over
/// what it had.
pub const POLICE_BURST_SECONDS: u32 = 2;
/// … and so many bytes at least: a keyframe of a screen at a small rate.
pub const POLICE_BURST_LEN_MIN: u32 = 128 * 1024;
/// How often a stream whose packets are cut is asked for a keyframe, at most. Each is more to send.
pub const POLICE_KEYFRAME_INTERVAL: Micros = 2 * SECOND;

/// Punts of one peer in a burst: a DTLS handshake with a post-quantum key share and an RSA certificate is 8
/// datagrams each way when nothing is lost.
pub const PEER_PUNT_BURST: u32 = 32;
/// Punts of one peer per second after the burst.
pub const PEER_PUNT_RATE: u32 = 16;
/// Punts of one peer's application data (SCTP of data channels) in a burst, after its handshake.
pub const PEER_DATA_PUNT_BURST: u32 = 1024;
/// … and per second after the burst: 240 Mb/s of full datagrams. What a peer may send by its room's policy is less, and the
/// controlplane's to judge.
pub const PEER_DATA_PUNT_RATE: u32 = 25_000;
/// Punts of a worker's application data in a burst.
pub const DATA_PUNT_BURST: u32 = 2048;
/// … and per second after the burst.
pub const DATA_PUNT_RATE: u32 = 50_000;

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
/// Gaps in a publisher's transport-wide numbers that are further apart say nothing together.
pub const LOSING_KEPT: Micros = 5 * SECOND;
/// That a publisher's packets are being lost is told at most so often.
pub const LOSING_REPEAT: Micros = 5 * SECOND;

/// Transport-wide sequence numbers of one publisher that are remembered: libwebrtc's window of 500 ms, at 1000 packets a
/// second, and five times as many as come between two reports. 2 KiB for each peer that sends.
pub const ARRIVALS_MAX: usize = 512;

/// Missing packets that are tracked for one stream; more at once is an outage, answered by a keyframe request.
pub const MISSING_MAX: usize = 256;
/// How often a missing packet is asked for (libwebrtc `NackRequester::kMaxNackRetries`).
pub const NACK_TRIES_MAX: u8 = 10;
/// Missing packets that are tracked for one stream of audio: more at once is an outage that no jitter buffer bridges.
pub const AUDIO_MISSING_MAX: usize = 32;
/// For about how long a missing packet of audio is asked for, once in each round trip: what comes later, the receivers' jitter
/// buffers have concealed. Where a round trip takes longer it is not asked for at all.
pub const AUDIO_REPAIR_TIME: Micros = 400 * MILLISECOND;
/// How long after a NACK it is sent once more: the first may be lost, and waiting for the next round trip takes longer than a jitter
/// buffer holds. libwebrtc sends a packet once in a round trip, however often it is asked (`RtpPacketHistory::VerifyRtt`).
pub const NACK_REPEAT: Micros = 15 * MILLISECOND;
/// For video it is sent once more where a round trip takes as long as this.
pub const NACK_REPEAT_RTT: Micros = 3 * NACK_REPEAT;
/// How long a missing packet may be filled by mere reordering before it is asked for.
pub const NACK_DELAY: Micros = 10 * MILLISECOND;
/// Round trip assumed until it is measured (libwebrtc `NackRequester::kDefaultRtt`).
pub const RTT_DEFAULT: Micros = 100 * MILLISECOND;

/// Lowest REMB, bit/s: below it video is unusable, and growing back would take minutes.
pub const REMB_BPS_MIN: u32 = 30_000;

/// Keyframe requests to one publisher's stream are at least this far apart.
pub const KEYFRAME_INTERVAL: Micros = 200 * MILLISECOND;
/// A receiver whose repair was refused because its path is full, and which has not had it this long after, is given a keyframe.
pub const REFUSED_MAX: Micros = SECOND;
/// A keyframe that was asked for and did not come is asked for again after this long.
pub const KEYFRAME_RETRY: Micros = SECOND;
/// Keyframe requests to one stream that all together may cause in a burst: several receivers that come at once and lose
/// something.
pub const KEYFRAME_BURST: u32 = 10;
/// … and in a second after that. A publisher that is asked more often sends nothing but keyframes.
pub const KEYFRAME_RATE: u32 = 1;
/// Keyframe requests to one stream that one receiver may cause in [`KEYFRAME_WINDOW`].
pub const KEYFRAME_REQUESTS_MAX: u8 = 3;
/// Who enters a stream more often than that waits so long for its keyframe, at most.
pub const KEYFRAME_PAUSE: Micros = 2 * SECOND;
/// Streams of which is remembered what one receiver asked last: more than fit a page of pictures.
pub const KEYFRAME_ASKS_MAX: usize = 16;
/// See [`KEYFRAME_REQUESTS_MAX`].
pub const KEYFRAME_WINDOW: Micros = 10 * SECOND;

/// Share of a slot's egress that repair may add, as a divisor of the bytes sent: one half.
pub const REPAIR_SHARE_DIVISOR: u32 = 2;
/// Bytes of repair that a slot may send in a burst.
pub const REPAIR_BURST: u32 = 64 * 1024;
/// The same for a slot that carries audio: half a second of speech.
pub const AUDIO_REPAIR_BURST: u32 = 8 * 1024;
/// A receiver that asks for audio at so many moments in [`COPIES_WINDOW`] loses about 3 % and more: it gets one more copy of each
/// packet of the slot.
pub const COPIES_REQUESTS: u8 = 3;
/// See [`COPIES_REQUESTS`].
pub const COPIES_WINDOW: Micros = 2 * SECOND;
/// Requests this close to each other are one moment: more copies do not help against a burst of losses.
pub const COPIES_MOMENT: Micros = 100 * MILLISECOND;
/// For how long after the last request; then one fewer. Of a tenth lost, one in a hundred is lost twice: one in two seconds.
pub const COPIES_HELD: Micros = 5 * SECOND;
/// Copies of a packet beside the first, at most: of three in ten lost, three in a hundred are lost three times.
pub const COPIES_MAX: u8 = 2;
/// A receiver whose reports say that it lost this much, in 256ths, gets each repair of video twice, where its path has room: of a tenth
/// lost, a repair and its NACK fail together in two of ten cases, and in one with a copy. 5 %.
pub const REPAIR_COPY_LOSS: u8 = 13;
/// Pictures are held back at the receiver from this loss on its path on, until a repair has come. Below it fewer than one frame in 30 is lost, which
/// is not worth a round trip of delay.
pub const HOLD_LOSS: f64 = 0.03;
/// … and from this one on until a second one has: of 15 % lost both ways a NACK or its two answers fail in a sixth of all cases.
pub const HOLD_LOSS_TWICE: f64 = 0.15;
/// … for so long at most. With a way of 100 ms what is said is heard after less than 450 ms: from 400 ms on people who talk notice it (ITU-T G.114).
pub const HOLD_MAX: Micros = 320 * MILLISECOND;
/// … and for as long after it was last needed: each change is seen.
pub const HOLD_KEPT: Micros = 10 * SECOND;
/// What is held back for longer than the repair takes: timers of both ends, and libwebrtc has a frame decoded 10 ms and more before it is due.
pub const HOLD_SPARE: Micros = 30 * MILLISECOND;
/// How late packets of a stream are is seen of this time, and of as much before it.
pub const LATE_WINDOW: Micros = 4 * SECOND;
/// One packet in so many may come later than what is held back for.
pub const LATE_SHARE_DIVISOR: u16 = 50;
/// A sequence number is not repaired again for one receiver within this (or seven eighths of its round trip, if longer).
pub const REPAIR_REPEAT_MIN: Micros = 20 * MILLISECOND;

const _: () =
    assert!(PEER_QUIET_REPORTS as u64 * (REPORT_INTERVAL * 7 / 8) >= 7 * SECOND, "checks are up to 6 s apart");
const _: () = assert!(WORKERS_MAX <= u16::MAX as usize, "TapOpen::worker is 16 bits");
const _: () = assert!(OUTBOX_LEN >= 2 * STREAM_ROUTES_MAX * FRAME_LEN, "a fan-out must fit a half-full outbox");
const _: () = assert!(CHUNKS_MAX >= 2 * STREAM_ROUTES_MAX, "a fan-out must fit a half-full outbox");
const _: () = assert!(OUTBOX_PACKETS_MAX >= PACKETS_ENOUGH + STREAM_ROUTES_MAX, "a fan-out must fit behind enough");
const _: () = assert!(TALLIES_MAX >= 2 * (PEER_STREAMS_MAX + PEER_SLOTS_MAX), "a peer's tallies must fit");
const _: () = assert!(STREAMS_MAX <= STREAM_TALLIES_MAX && SLOTS_MAX <= SLOT_TALLIES_MAX, "each has its row");
const _: () = assert!(PEERS_MAX <= PEER_TALLIES_MAX, "each has its row");
const _: () = assert!(STREAM_KEPT_MAX.is_power_of_two() && STREAM_KEPT_MIN.is_power_of_two());
const _: () = assert!(ENCODING_KEPT_MAX.is_power_of_two());
const _: () = assert!(
    STREAMS_KEPT_WHOLE * TRACK_ENCODINGS_MAX * ENCODING_KEPT_MAX + PEER_STREAMS_MAX * STREAM_KEPT_MIN
        < KEPT_PACKETS_MAX,
    "no peer holds all that is kept"
);
const _: () = assert!(STREAM_KEPT_MAX <= KEPT_PACKETS_MAX && PASSING_PACKETS_MAX >= 2 * PENDING_MAX);
const _: () = assert!(OUTBOX_LEN < u32::MAX as usize);
/// Where a dataplane listens and how its workers run: what the operator sets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Addresses of this machine that media arrives at. Each worker opens a socket on each of them.
    pub media_ips: Vec<IpAddr>,
    /// UDP port of worker 0; worker i listens on `media_port + i`. 0 leaves the choice to the kernel.
    pub media_port: u16,
    /// Whether workers accept TCP connections, too, for peers whose network blocks UDP: each at the number of its UDP port.
    pub ice_tcp: bool,
    /// Threads, each with its core, ports and peers.
    pub workers: usize,
    /// The Unix socket at which a controlplane attaches; its folder must exist.
    pub link: Endpoint,
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
            ice_tcp: true,
            workers: 1,
            link: Path::new("dataplane.sock").into(),
            is_pinned: true,
            driver: Driver::Auto,
            backend: Backend::Udp,
            spin_us: 0,
        }
    }
}

/// How packets come and leave. They always come in by a worker's sockets. Which of the first two is cheaper here is measured by
/// `io::probe`.
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
/// How long one flush may wait in all for a full send buffer. Longer, and the other peers of this
/// worker would notice it.
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
/// A path between two edges in use is probed this often: what dies is seen within 400 ms, for about 8 kb/s (a probe and its answer have 100 bytes).
pub const OVERLAY_PROBE_INTERVAL: Micros = 100 * MILLISECOND;
/// … and one that is not in use and dead this often …
pub const OVERLAY_DEAD_INTERVAL: Micros = SECOND;
/// … and each while nothing is sent between the two this often.
pub const OVERLAY_LEG_INTERVAL: Micros = 2 * SECOND;
/// What is measured of a path is told this often …
pub const OVERLAY_TOLD_INTERVAL: Micros = SECOND;
/// … and while nothing is sent between the two this often.
pub const OVERLAY_LEG_TOLD_INTERVAL: Micros = 5 * SECOND;
/// After a probe that was lost or late so many …
pub const OVERLAY_PROBES_SUSPECTED: u8 = 10;
/// … follow this soon: a fifth of a second says as much as one second before.
pub const OVERLAY_PROBE_SUSPECTED: Micros = 20 * MILLISECOND;
/// … and while nothing is sent between the two so many: with the first three in a row, of a path that is dead.
pub const OVERLAY_LEG_PROBES_SUSPECTED: u8 = 2;
/// Probes of a path that are remembered: those of a second and a half when they follow soon, and more than a round trip has.
pub const OVERLAY_PROBES_KEPT: usize = 64;
/// What media shows of a path counts this often: what one burst of losses says, whatever it carries, is one of these …
pub const OVERLAY_MEDIA_INTERVAL: Micros = 100 * MILLISECOND;
/// … and of a path that has just been taken from here on: what is told before is of packets that went by another one.
pub const OVERLAY_MEDIA_SETTLED: Micros = 500 * MILLISECOND;
/// Fewer packets than this in such an interval say less than what probes add that follow soon.
pub const OVERLAY_MEDIA_SCANT: u32 = 10;
/// A path between edges that has answered nothing for so long is dead: three probes.
pub const OVERLAY_SILENCE: Micros = 300 * MILLISECOND;
/// A probe is late after its path's round trip and at least this.
pub const OVERLAY_TIMEOUT_MIN: Micros = 40 * MILLISECOND;
/// … and before the first round trip is known after this.
pub const OVERLAY_TIMEOUT_FIRST: Micros = 500 * MILLISECOND;
/// Beyond these a path between edges is bad (VIA, SIGCOMM 2016: a round trip of 320 ms, 1.2 % lost, 12 ms of jitter).
pub const OVERLAY_RTT_MAX: Micros = 320 * MILLISECOND;
/// See [`OVERLAY_RTT_MAX`]; in a million.
pub const OVERLAY_LOSS_MAX_PPM: u32 = 12_000;
/// See [`OVERLAY_RTT_MAX`].
pub const OVERLAY_JITTER_MAX: Micros = 12 * MILLISECOND;
/// Paths to one edge that are probed at once: the best, and two that stand by, or seven while none is good.
pub const OVERLAY_PATHS_MAX: usize = 8;
/// Where the path in use is bad, another one is trusted when it has been good for so long: a dozen probes of a path that is new …
pub const OVERLAY_TRUST: Micros = 400 * MILLISECOND;
/// … and one that was left within the last minute when it has been good for so long.
pub const OVERLAY_TRUST_AGAIN: Micros = 3 * SECOND;
/// A path that is preferred is taken when it has been good for so long …
pub const OVERLAY_HOLD: Micros = 10 * SECOND;
/// … at most this, after it was left again and again …
pub const OVERLAY_HOLD_MAX: Micros = 300 * SECOND;
/// … within this time of its return.
pub const OVERLAY_RELAPSE: Micros = 60 * SECOND;

const _: () = assert!(TCP_FRAME_LEN_MAX >= FRAME_LEN && TCP_READ_LEN > TCP_FRAME_LEN_MAX, "a read makes progress");
const _: () = assert!(TCP_WAITING_LEN >= 4 * FRAME_LEN, "what a partial write leaves always fits");
const _: () = assert!(TRAIN_BYTES_MAX <= 65_507 && TRAIN_SEGMENTS_MAX <= 64, "what every kernel takes");
