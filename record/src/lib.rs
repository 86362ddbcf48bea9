//! A peer that writes what a room sends to fragmented MP4, a file for each track, and who was in it to `recording.json`
//! (docs/RECORDING.md, docs/decisions/0073-record-as-a-peer.md).
//!
//! In the order in which a packet meets them: `client::room` brings it, [`order`] puts it behind those before it, [`depacketize`] makes
//! frames, [`clock`] says when each was captured, `track` and [`mp4`] make fragments, [`disk`] writes them. [`manifest`] is the list.
//! `recorder` has all of it.

pub mod clock;
pub mod depacketize;
pub mod disk;
pub mod manifest;
pub mod mp4;
pub mod order;
mod recorder;
pub mod time;
mod track;

pub use recorder::{End, RecordError, Recorder, Settings};
