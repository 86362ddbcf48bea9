//! The dataplane moves packets. It knows transports, streams, routes and keys; it knows no room, no name, no SDP,
//! no DTLS and no JSON.
//!
//! The modules in the order of a packet's way: [`io`] receives datagrams from the kernel and [`mod@forward`] gives each of
//! them one of four fates (forwarded, consumed, punted, dropped with a name) by what `demux` says it is. SRTP is
//! unprotected in place ([`srtp`]), rewritten for each slot that its stream is routed to (`rewrite`), protected in the
//! [`outbox`], and leaves in trains. RTCP ends in `forward::rtcp`, losses are repaired by `repair`, and datagrams that only
//! the controlplane can answer are punted. Receivers on another core get a packet through the lanes of [`relay`].

pub mod config;

mod latency;
mod run;
mod spin;
mod worker;

pub mod io;

mod asks;
mod bucket;
mod hash;
pub mod headroom;
pub mod path;
mod slab;
mod sockets;
mod table;
mod timer;
mod transaction;

mod demux;
mod paths;
mod police;
mod punt;
#[cfg(test)]
#[path = "../../tests/require/mod.rs"]
mod require;
mod transport;

pub mod codec;
pub mod dependency;
pub mod layers_allocation;
pub mod picture;
pub mod red;
pub mod rtcp;
pub mod rtp;
pub mod sets;
pub mod size;
pub mod srtp;
pub mod twcc;
pub mod vp9;

mod packet;

mod choice;
mod encodings;
mod layer;
mod layering;
mod losing;
mod playout;
mod rate;
mod reception;
mod silence;
mod simulcast;
mod slot;
mod speech;
mod stream;
mod tally;

mod left_out;
mod repair;
mod rewrite;

pub mod bwe;

mod allocate;
mod pacer;
mod sending;

pub mod store;

mod earlier;

pub mod outbox;
pub mod overlay;
pub mod relay;

pub mod forward;

pub use config::{Config, Micros};
pub use run::{Dataplane, Error, run};
pub use worker::Stepped;
