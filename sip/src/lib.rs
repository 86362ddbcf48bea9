//! The telephone gateway: telephones on one side, by SIP and RTP; on the other side, for each call, a peer of a room, by the
//! public doors and the crate `client`. Neither plane knows of it.
//!
//! ```text
//! datagram ─▶ message ─▶ agent (transaction, dialog, limits) ─▶ gateway ─▶ call ─▶ room
//! RTP ─▶ leg (SRTP, jitter, G.711, dtmf) ─▶ bridge (Opus, mixer) ─▶ room ─▶ bridge ─▶ leg ─▶ RTP
//! ```
//! Everything but `gateway`, `call`, `connections`, `tls`, `control`, `orders` and `ask` is without sockets, clock and runtime.

mod agent;
mod ask;
mod bridge;
mod call;
mod connections;
mod control;
mod counters;
mod dialog;
mod digest;
mod dtmf;
mod entry;
mod g711;
mod gateway;
pub mod hostile;
mod jitter;
mod known;
mod leg;
mod limits;
mod message;
mod orders;
mod reception;
mod reports;
mod sdp;
mod settings;
mod tls;
mod transaction;
mod voice;

pub use call::Tokens;
pub use gateway::{Listening, RunError, run};
pub use settings::{Settings, SettingsError};
