//! The load generator: hundreds of WebRTC peers of another stack for each core, and what they saw.
//!
//! A peer joins like any client, through the server's public doors: the signalling socket, WHIP or WHEP, then ICE, DTLS
//! and SRTP. What it saves is what a server cannot see. It does not decode; it counts packets by their headers, which
//! are in the clear, and authenticates one of [`Settings::verify_every`], compares that one to the byte, and reads
//! from it when it was sent.
//!
//! In the order in which it happens: [`door`] (HTTP, rooms, tokens), [`join`] (from an offer to keys), [`source`] (what
//! is sent), [`tally`] (what is received), `peer` (one peer with keys), `crew` (the thread that carries many),
//! [`process`] (CPU and memory of the server, from outside), [`run`] (scenarios) and [`report`] (what is said at the end).

mod crew;
pub mod door;
pub mod join;
mod peer;
pub mod process;
pub mod report;
pub mod run;
pub mod source;
pub mod tally;
mod wire;

use std::time::Duration;

use crate::secure::Profile;
use source::Media;

/// How peers behave and what is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What each sender sends.
    pub media: Media,
    /// SRTP profiles that are offered, in this order.
    pub profiles: Vec<Profile>,
    /// One received packet of so many is authenticated, compared and timed.
    pub verify_every: u32,
    /// Packets of a hundred that each peer loses, each way, on its own socket.
    pub loss_percent: f64,
    /// Threads that carry the peers' media.
    pub threads: usize,
    /// Joins that may be under way at the same time.
    pub joins_at_once: usize,
    /// How long is measured.
    pub window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            media: Media::default(),
            profiles: Profile::CHROMIUM.to_vec(),
            verify_every: 16,
            loss_percent: 0.0,
            threads: 1,
            joins_at_once: 8,
            window: Duration::from_secs(10),
        }
    }
}

/// Why nothing can be measured. One line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The server did not do what was asked at one of its doors.
    #[error("{0}")]
    Door(String),
    /// A socket or a file of this machine.
    #[error("{what}: {error}")]
    Machine {
        /// What was wanted.
        what: &'static str,
        /// What became of it.
        error: std::io::Error,
    },
    /// A peer could not join.
    #[error("{0}")]
    Join(String),
}

impl LoadError {
    pub(crate) fn machine(what: &'static str) -> impl FnOnce(std::io::Error) -> LoadError {
        move |error| LoadError::Machine { what, error }
    }
}
