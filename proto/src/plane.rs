//! The plane contract: what the controlplane tells a worker (commands), what a worker tells the controlplane
//! (events), the datagrams that pass between them, and the counters of the stats page.
//!
//! Every record is a fixed array of bytes written and read field by field, little endian, so that the two
//! processes agree on it without sharing a Rust layout. Reading checks the tag and each field; a record that does
//! not parse is refused whole. The declarations of the records are the only source: the codec, the size assertions
//! and the layout hash are made from them.

mod command;
mod counter;
mod datagram;
mod event;
mod extension;
mod field;
mod record;
mod remote;
mod tally;
mod value;

pub use self::command::{
    Command, Commit, Describe, KEY_LEN_MAX, MirrorOpen, PEER_CANDIDATES_MAX, PEER_REMOTE_PART_LEN,
    PEER_REMOTE_PARTS_MAX, PWD_LEN, PeerCandidate, PeerClose, PeerEdge, PeerExtensions, PeerIce, PeerKeys, PeerLimit,
    PeerOpen, PeerRate, PeerRemote, RelayClose, RelayOpen, RelayRate, Reset, RouteClose, RouteCodec, RouteOpen,
    SALT_LEN_MAX, SHOWN_LINES_ANY, STREAM_ENCODINGS_MAX, STREAM_SETS_PART_LEN, STREAM_SETS_PARTS_MAX, SlotClose,
    SlotOpen, SlotShown, StreamClose, StreamCodec, StreamEncoding, StreamEncodings, StreamGate, StreamOpen, StreamRate,
    StreamSets, TRACK_ENCODINGS_MAX, TapClose, TapOpen, UFRAG_LEN, feedback, weight,
};
pub use self::counter::Counter;
pub use self::datagram::DatagramHeader;
pub use self::event::{
    Committed, Described, EncodingIdle, EncodingRate, EncodingWanted, Event, PathMeasured, PeerExpired, PeerLosing,
    PeerPath, PeerResumed, PeerSilent, Refused, Report, StreamQuiet, StreamResumed, StreamSilent, StreamSpeaks,
};
pub use self::extension::{EXTENSION_COUNT_MAX, Extension, ExtensionIds};
pub use self::tally::{PeerTally, SlotTally, StreamTally, TALLY_WORDS_MAX, Tally, TallyWords};
pub use self::value::{Codec, DatagramKind, Direction, Gate, PathState, Refusal, SrtpProfile};

/// Version of the contract. Raised when the meaning of a record changes without its layout.
pub const CONTRACT_VERSION: u32 = 8;

/// Peers that one worker carries. A peer's index is also its slot in the link's journal, two copies of 8 KiB each, so this is
/// 64 MiB of address space for each worker; and at 30 packets a second each way so many are beyond what a core forwards.
pub const PEERS_MAX: usize = 4096;

/// Directions in which one worker passes on datagrams of other edges: two for each pair of workers between which it lies.
pub const RELAYS_MAX: usize = 4096;

/// Bytes of a command or an event: one cache line.
pub const RECORD_LEN: usize = 64;

/// Largest datagram that is punted or injected, bytes. An Ethernet frame carries 1472 bytes of UDP payload.
pub const DATAGRAM_LEN_MAX: usize = 1500;

/// Bytes of a datagram record: header and payload, a multiple of the cache line.
pub const DATAGRAM_RECORD_LEN: usize = 1600;

/// One command or event as it lies in a ring.
pub type Record = [u8; RECORD_LEN];

/// FNV-1a over the declarations above; two builds that disagree on any record refuse each other.
pub const LAYOUT_HASH: u64 = {
    let hash = fnv1a(0xcbf2_9ce4_8422_2325, command::COMMAND_LAYOUT.as_bytes());
    let hash = fnv1a(hash, event::EVENT_LAYOUT.as_bytes());
    let hash = fnv1a(hash, datagram::DATAGRAM_LAYOUT.as_bytes());
    let hash = fnv1a(hash, counter::COUNTER_LAYOUT.as_bytes());
    let hash = fnv1a(fnv1a(hash, tally::LAYOUTS[0].as_bytes()), tally::LAYOUTS[1].as_bytes());
    fnv1a(hash, crate::histogram::LAYOUT.as_bytes())
};

const fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}
