//! Settings of a dataplane and every limit of a worker, each with its reason. Relations between limits are
//! asserted here, at compile time.

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
/// SSRCs that one peer may send from in its life: those of its streams (and their RTX), and some for renegotiation and
/// for changes without signalling, of which browsers make none. Each is remembered with its replay window.
pub const PEER_SSRCS_MAX: usize = 2 * PEER_STREAMS_MAX + 32;
/// SSRCs that we may send to one peer from in its life: its slots (and their RTX), each renegotiated once.
pub const PEER_SLOT_SSRCS_MAX: usize = 4 * PEER_SLOTS_MAX;
/// Routes of one stream on one worker; larger rooms spread over workers.
pub const STREAM_ROUTES_MAX: usize = 1024;
/// Commands between two commits. A room of eight that appears at once is about 500.
pub const STAGED_MAX: usize = 16_384;

/// Addresses of one peer that authenticated checks have validated; the least recently checked one makes room.
pub const PEER_PATHS_MAX: usize = 8;
/// An address belongs to the peer that checked from it within this time: twice the interval of consent checks (RFC 7675
/// §5.1: 5 s). A request proves no more than that its sender can write a source address.
pub const PATH_HELD: Micros = 10 * SECOND;

/// Bytes of an outgoing packet: an Ethernet MTU, and slack for header extensions and the tag.
pub const FRAME_LEN: usize = 1600;
/// Largest RTP payload that is forwarded, so that header, extensions and tag always fit a frame.
pub const PAYLOAD_LEN_MAX: usize = FRAME_LEN - 132;
/// Bytes of the outbox slab; two of the widest fan-outs.
pub const OUTBOX_LEN: usize = 4 << 20;
/// Packets of the outbox between two flushes.
pub const OUTBOX_PACKETS_MAX: usize = 16_384;
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
/// Transport-cc feedback to a publisher (libwebrtc `TransportSequenceNumberFeedbackGenerator` default interval).
pub const TRANSPORT_CC_INTERVAL: Micros = 100 * MILLISECOND;

/// Transport-wide sequence numbers of one publisher that are remembered: libwebrtc's window of 500 ms, at 2000 packets a
/// second. 8 KiB for each peer that sends.
pub const ARRIVALS_MAX: usize = 1024;

/// Holes that are tracked for one stream; more at once is an outage, answered by a keyframe request.
pub const HOLES_MAX: usize = 256;
/// How often a hole is asked for (libwebrtc `NackRequester::kMaxNackRetries`).
pub const NACK_TRIES_MAX: u8 = 10;
/// How long a hole may be filled by mere reordering before it is asked for.
pub const NACK_DELAY: Micros = 10 * MILLISECOND;
/// Round trip assumed until it is measured (libwebrtc `NackRequester::kDefaultRtt`).
pub const RTT_DEFAULT: Micros = 100 * MILLISECOND;

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

const _: () = assert!(OUTBOX_LEN >= 2 * STREAM_ROUTES_MAX * FRAME_LEN, "a fan-out must fit a half-full outbox");
const _: () = assert!(OUTBOX_PACKETS_MAX >= 2 * STREAM_ROUTES_MAX, "a fan-out must fit a half-full outbox");
const _: () = assert!(HISTORY_PER_STREAM.is_power_of_two() && HISTORY_PER_STREAM <= HISTORY_PACKETS);
const _: () = assert!(OUTBOX_LEN < u32::MAX as usize);
