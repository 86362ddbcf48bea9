//! Decides for uprtc: who may join, who hears whom, with which keys and ids. It touches no SRTP packet.
//!
//! The modules in the order in which a call meets them: a signalling socket ([`http`]) brings an offer ([`sdp`], [`ice`]), the
//! [`engine`] makes a peer of it, punted DTLS ([`dtls`]) gives its keys, the room assigns tracks to slots, `wiring` says
//! what workers carry for that, `view` what clients are told of it, and `reconcile` makes commands for the workers.
//!
//! Around that core stand its drivers, which know tokio: [`http`] (behind [`tls`] if a certificate is given), [`driver`] with the
//! engine's task and the shared memory, [`logbook`] with the operator's log of people, [`stun_server`], [`nodes`] with the other
//! edges, and [`run()`], which starts and ends them.

pub mod administering;
pub mod auth;
pub mod bus;
pub mod driver;
pub mod dtls;
pub mod engine;
pub mod happening;
pub mod http;
pub mod ice;
pub mod limited;
pub mod logbook;
pub mod metrics;
pub mod nodes;
pub mod overlay;
pub mod policy;
pub mod quality;
pub mod registry;
pub mod revocations;
pub mod sdp;
pub mod shared;
pub mod snapshot;
pub mod stun_server;
pub mod tls;

mod bucket;
mod data;
mod edges;
mod gate;
mod hex;
mod ids;
mod journal;
mod last_n;
mod member;
mod memory;
mod negotiated;
mod negotiation;
mod peer;
mod placement;
mod random;
mod rates;
mod reconcile;
mod refusal;
mod room;
mod run;
mod services;
mod session;
mod shares;
mod shown;
mod slots;
mod speakers;
mod timers;
mod view;
mod wiring;
mod wishes;

pub use data::hostile;
pub use run::{Config, Error, LOCK_FILE, Listening, RUNNING_FILE, Reload, run, serve};
