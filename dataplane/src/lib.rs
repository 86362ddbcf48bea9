//! The dataplane moves packets. It knows transports, streams, routes and keys; it knows no room, no name, no SDP,
//! no DTLS and no JSON.
//!
//! A packet's way, which is also the order of the modules: `io` takes it from the kernel, [`mod@forward`] gives it
//! one of four fates (forwarded, consumed, punted, dropped with a name) by what `demux` says it is; SRTP is
//! unprotected in place ([`srtp`]), written into each slot that its stream is routed to (`rewrite`), protected in
//! the [`outbox`] and leaves in trains. RTCP ends in `feedback`, losses are mended by `repair`, and what only the
//! controlplane can answer is punted. Receivers on another core get a packet by the lanes of [`relay`].

pub mod config;
mod run;
mod worker;

mod latency;

pub mod io;
pub mod outbox;

mod demux;
mod packet;
mod punt;
mod table;
mod timer;
mod transport;

pub mod codec;
pub mod picture;
pub mod rtcp;
pub mod rtp;
pub mod sets;
mod spin;
pub mod srtp;
pub mod twcc;

mod feedback;
mod remb;
mod repair;
mod rewrite;
mod route;
mod silence;
mod ssrc;
mod tally;

mod edit;
mod fanout;
pub mod forward;
pub mod relay;

pub use config::{Config, Micros};
pub use run::{Dataplane, Error, run};
pub use worker::Stepped;
