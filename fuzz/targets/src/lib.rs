//! What reads strangers' bytes in uprtc, each as one function of bytes. A function panics if what it holds is not so; it holds at
//! least that the reader ends, stays within the bytes and does not panic itself.
//!
//! `fuzz/fuzz_targets` gives them to libFuzzer (`make fuzz`), `tests/replay.rs` gives them the files of `fuzz/corpus` in every test
//! run. Where a target takes several inputs one after the other, [`SEPARATOR`] stands between them.

mod engine;
mod media;
mod socket;
mod token;
mod wire;

/// Workers, clients and virtual time around an engine, as in its tests.
#[path = "../../../controlplane/tests/world/mod.rs"]
mod world;

pub use controlplane::hostile::data;
pub use feed::hostile::{flv, rtmp};
pub use sip::hostile::{calls, sip};

pub use engine::{adopted, journal, journal_entries, sdp_offers};
pub use media::{allocations, descriptors, red, rtcp, rtp};
pub use socket::websocket;
pub use token::tokens;
pub use wire::{records, stun};

/// ASCII's record separator, which is in no SDP, JSON or JWS.
pub const SEPARATOR: u8 = 0x1e;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 16] = [
    ("websocket", websocket),
    ("sdp_offers", sdp_offers),
    ("rtcp", rtcp),
    ("rtp", rtp),
    ("red", red),
    ("descriptors", descriptors),
    ("allocations", allocations),
    ("stun", stun),
    ("journal", journal),
    ("records", records),
    ("tokens", tokens),
    ("sip", sip),
    ("calls", calls),
    ("rtmp", rtmp),
    ("flv", flv),
    ("data", data),
];

fn pieces(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == SEPARATOR)
}
