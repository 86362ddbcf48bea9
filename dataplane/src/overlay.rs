//! Which way the media between two edges takes: directly, or through one other edge (a resilient overlay network, RON 2001).
//!
//! The controlplane names the path that is best and those that stand by, because it knows what all edges measure. The worker that sends the media
//! probes each of them, looks at what the media itself shows ([`Monitor`]), and leaves one that is dead or bad by itself ([`Selection`]): a path is left within a second, and nothing
//! that is further away than the path itself is asked.
//!
//! Sans-IO: the time and what was answered go in; probes that are due, and the path to send on, come out.

mod crossing;
mod monitor;
mod probing;
mod selection;

pub(crate) use crossing::Crossed;
pub(crate) use probing::Probing;

pub use monitor::{Measured, Monitor, State};
pub use selection::{Look, Selection, Via};
