//! A peer that sends a room on to a large audience as low-latency HLS, and by RTMP (docs/LIVE.md, docs/decisions/0075-store-and-live.md).
//!
//! ```text
//! client::room ─▶ record::feed ─▶ choose ─▶ picture ─┐
//!                              └▶ mix ─▶ encode ─────┴▶ cut ─▶ window ─▶ serve, folder; push
//! ```
//! [`Live`] has all of it: it is started with its settings, runs until it is told to stop, and says why it ended. [`Server`] serves what is
//! in a [`Hub`]. Neither prints or ends the process.

mod adts;
mod black;
mod choose;
mod cut;
mod encode;
mod folder;
mod hub;
mod live;
mod mix;
mod push;
#[cfg(test)]
#[path = "../../tests/require/mod.rs"]
mod require;
mod serve;
mod window;

pub use hub::Hub;
pub use live::{End, Live, LiveError, Settings};
pub use push::Target;
pub use serve::Server;
