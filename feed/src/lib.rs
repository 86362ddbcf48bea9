//! Feeds into rooms: what an encoder such as OBS sends by RTMP or SRT is a peer of a room, through the public doors, as every client
//! (docs/FEEDS.md, docs/decisions/0076).
//!
//! In the order in which a frame meets them: `door` (who may send: `key`, `rtmp` with `chunk` and `amf`), `flv` (frames),
//! `run` (the peer), `timeline`, `plan` (as it came, or encoded anew), `media` with `child` (ffmpeg) and `avc` (packets).
//! `ffmpeg` looks at what is installed.

mod amf;
mod avc;
mod child;
mod chunk;
mod door;
mod ffmpeg;
mod flv;
pub mod hostile;
mod key;
mod media;
mod plan;
mod rtmp;
mod run;
mod timeline;

pub use child::Launcher;
pub use door::FeedEnd;
pub use ffmpeg::FfmpegError;
pub use key::{KEY_LEN_MAX, KEY_LEN_MIN, Key, KeyError};
pub use run::{Error, Report, Settings, run};
