//! A peer that writes what a room sends to fragmented MP4, a file for each track, and who was in it to `recording.json`
//! (docs/RECORDING.md, docs/decisions/0073-record-as-a-peer.md).
//!
//! In the order in which a packet meets them: `client::room` brings it, [`order`] puts it behind those before it, [`depacketize`] makes
//! frames, [`clock`] says when each was captured ([`feed`] is these four), `track` and [`mp4`] make fragments, [`disk`] writes them. [`manifest`] is the list. [`store`] has what
//! goes to an S3-compatible store, which is what `disk` has finished.
//! `recorder` has all of it: it is started with its settings, runs until it is told to stop, and says why it ended. It neither prints
//! nor ends the process.

pub mod clock;
pub mod depacketize;
pub mod disk;
pub mod feed;
pub mod manifest;
pub mod mp4;
pub mod order;
pub mod quota;
mod recorder;
#[cfg(test)]
#[path = "../../tests/require/mod.rs"]
mod require;
pub mod store;
pub mod time;
mod track;

pub use recorder::{End, RecordError, Recorder, Settings};
