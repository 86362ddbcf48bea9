//! The shared-memory link between a worker and the controlplane.
//!
//! One worker, one link, one memory: a sealed memfd with a command ring and an inject ring down, an event ring and a
//! punt ring up, a stats page, the tallies and the journal. The dataplane makes it and hands it over a Unix socket
//! ([`LinkServer`], [`attach`]) with an eventfd for each direction. Pushing and popping are memory accesses; the
//! eventfd is written only when the other side has said that it sleeps.
//!
//! ```text
//!   ControlLink ── push_command ──▶ commands ── pop_command ──▶ WorkerLink
//!               ── push_inject  ──▶ injects  ── pop_inject  ──▶
//!               ◀── pop_report ─── events   ◀── push_report ──
//!               ◀── pop_punt  ──── punts    ◀── push_punt  ───
//!               ◀── counters ───── page     ◀── publish ──────
//!               ◀── *_tally ────── rows     ◀── publish_tally
//!               ◀── journal ─────▶
//! ```
//!
//! The same ring joins two workers of one dataplane ([`Lane`]), in memory of their process.
//!
//! Who is trusted: nobody. Every word of the other process is read atomically, copied out, and checked; a lying
//! index stops its own ring; no input makes this module panic, wait, or touch memory outside the region.
//!
//! Who is fenced: every attachment gets *fresh* memory with a higher epoch, into which the journal is copied. An
//! earlier controlplane that still runs writes into memory that nobody reads any more.
//!
//! The CAGE is `region.rs`: mmap has no safe form, so `unsafe` stands there and only there. Everything above it is
//! safe code over `&[AtomicU64]`. It was worth it: a ring costs 5 to 216 ns a record, a socket 22 to 46 µs a wake.
//! The proofs: an oracle property test, Miri and the loom model of the rings, the sleep flag and the page
//! (`cargo +nightly miri test -p proto --lib -- link::ring link::page` and
//! `RUSTFLAGS="--cfg loom" cargo test -p proto --lib link::`), a peer that scribbles over everything (`hostile.rs`),
//! and two processes that kill each other (`tests/two_processes.rs`).

#![cfg_attr(loom, allow(dead_code))]

/// The atomics of the machine, or of the loom model.
mod atomic {
    #[cfg(loom)]
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
    #[cfg(not(loom))]
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

mod lane;
mod page;
mod ring;
mod wake;

// What maps memory cannot live in the model, which has its own atomics.
#[cfg(not(loom))]
mod ends;
#[cfg(not(loom))]
mod handshake;
#[cfg(all(test, not(loom)))]
mod hostile;
#[cfg(not(loom))]
mod journal;
#[cfg(not(loom))]
mod region;

#[cfg(not(loom))]
pub use self::{
    ends::{ControlLink, Malformed, WorkerLink, pair},
    handshake::{
        Access, Addresses, Attached, Contract, Endpoint, LinkError, LinkServer, LinkSocket, Lost, WorkerInfo, attach,
    },
    journal::{JOURNAL_ENTRY_LEN_MAX, JOURNAL_SLOTS, JournalError},
    lane::{Bell, LANE_LEN, LANE_RECORD_LEN, Lane, LaneReceiver, LaneSender},
};

/// Commands that may wait for a worker. A room of eight takes about 300 (peers, keys, streams, slots, routes), so a
/// dozen rooms are replayed before the controlplane has to wait for the worker's next turn.
pub const COMMANDS_MAX: usize = 4096;
/// Events and echoes that may wait for the controlplane. Twice the commands, because a description echoes everything.
pub const EVENTS_MAX: usize = 8192;
/// Datagrams that may wait for a worker: what one message of 256 KiB takes to two receivers.
pub const INJECTS_MAX: usize = 512;
/// Datagrams that may wait for the controlplane.
pub const PUNTS_MAX: usize = 1024;
/// Of these and of those for a worker, places that are kept for handshakes: data of data channels does not take the last of them.
pub const HANDSHAKES_KEPT: usize = 256;
/// Streams of a worker that have a row for their tally; the rows take memory once they are written.
pub const STREAM_TALLIES_MAX: usize = 32_768;
/// Slots of a worker that have a row for their tally.
pub const SLOT_TALLIES_MAX: usize = 131_072;
/// Peers of a worker that have a row for their tally.
pub const PEER_TALLIES_MAX: usize = 4096;

/// The contract of this build.
#[cfg(not(loom))]
pub const CONTRACT: Contract = Contract { version: crate::plane::CONTRACT_VERSION, layout: layout_hash() };

/// The records' hash mixed with the sizes that this module adds; two builds that disagree refuse each other.
#[cfg(not(loom))]
const fn layout_hash() -> u64 {
    let sizes = [
        COMMANDS_MAX,
        EVENTS_MAX,
        INJECTS_MAX,
        PUNTS_MAX,
        HANDSHAKES_KEPT,
        STREAM_TALLIES_MAX,
        SLOT_TALLIES_MAX,
        PEER_TALLIES_MAX,
        JOURNAL_SLOTS as usize,
        JOURNAL_ENTRY_LEN_MAX,
        region::WORDS,
    ];
    let mut hash = crate::plane::LAYOUT_HASH;
    let mut i = 0;
    while i < sizes.len() {
        hash = (hash.rotate_left(23) ^ sizes[i] as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        i += 1;
    }
    hash
}
