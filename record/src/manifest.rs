//! `recording.json`: who was recorded, in which files, when, and why it ended.

use serde::Serialize;

/// The shape of this file; another number is another shape.
pub const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, Serialize)]
pub struct Manifest {
    /// [`VERSION`]
    pub version: u32,
    /// The room.
    pub room: String,
    /// When time 0 of all files was.
    pub started: String,
    /// When it ended; absent while it goes on, and where the process was killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Why: `stopped`, `quota`, `disk_full`, `disk_error`, `files`, `removed`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// When this was written.
    pub updated: String,
    /// Packets that were dropped because this process was too slow.
    pub packets_overflowed: u64,
    /// Who was in the room.
    pub peers: Vec<Peer>,
    /// The files, in the order in which they began.
    pub files: Vec<File>,
}

/// Somebody in the room.
#[derive(Clone, Debug, Serialize)]
pub struct Peer {
    /// Its id.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// When it was first seen.
    pub joined: String,
    /// When it left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

/// One file: one track of one peer, in one codec and size.
#[derive(Clone, Debug, Serialize)]
pub struct File {
    /// Its name in this folder.
    pub file: String,
    /// Whose.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// The track's id in the room.
    pub track: String,
    /// What the track shows: `microphone`, `camera`, `screen`, `screen_audio`.
    pub source: String,
    /// `opus`, `h264`, `vp8`, `vp9`, `av1`
    pub codec: String,
    /// Pixels, of video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<u16>,
    /// Pixels, of video.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<u16>,
    /// When its first frame was captured.
    pub started: String,
    /// When its last one was, so far.
    pub ended: String,
    /// Bytes that were handed to the disk.
    pub bytes: u64,
    /// Frames in it.
    pub frames: u64,
    /// Packets that came.
    pub packets: u64,
    /// Packets that never came.
    pub packets_lost: u64,
    /// Holes in it, of silence, of a camera that was off or of loss.
    pub gaps: u64,
    /// Fragments that the disk was too slow for.
    pub fragments_lost: u64,
    /// `sender_reports`, or `arrival` before the first of them came.
    pub clock: &'static str,
    /// Why nothing more comes: `track_ended`, `config_changed`, `recording_ended`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<&'static str>,
}
