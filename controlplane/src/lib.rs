//! Decides for uprtc: who may join, who hears whom, with which keys and ids. It touches no SRTP packet.
//!
//! The modules in the order in which a call meets them: a signalling socket brings an offer ([`sdp`], [`ice`]), the
//! [`engine`] makes a peer of it, punted DTLS ([`dtls`]) gives its keys, the room finds slots for its tracks, and
//! what is desired becomes commands for the worker.
//!
//! Around that core stand its drivers, which know tokio: [`http`] with the doors (behind [`tls`] if a certificate is given), [`link`] with the engine's task and
//! the shared memory, [`logbook`] with the operator's log of people, [`stun_server`], and [`run()`], which starts and ends them.

pub mod auth;
pub mod dtls;
pub mod engine;
pub mod happening;
pub mod http;
pub mod ice;
pub mod link;
pub mod logbook;
pub mod metrics;
pub mod policy;
pub mod registry;
pub mod sdp;
pub mod snapshot;
pub mod stun_server;
pub mod tls;

mod gate;
mod ids;
mod journal;
mod negotiation;
mod peer;
mod placement;
mod random;
mod reconcile;
mod room;
mod run;
mod session;
mod slots;
mod terms;
mod timers;

pub use run::{Config, Error, LOCK_FILE, Listening, RUNNING_FILE, Reload, run, serve};
