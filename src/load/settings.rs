//! How load peers behave, and why a load cannot run.

use std::time::Duration;

use super::source::Media;

/// How peers behave and what is measured.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// What each sender sends.
    pub(super) media: Media,
    /// One received packet of so many is authenticated, compared and timed.
    pub(super) verify_every: u32,
    /// Packets of a hundred that each peer loses, each way, on its own socket.
    pub(super) loss_percent: f64,
    /// Threads that carry the peers' media.
    pub(super) threads: usize,
    /// Joins that may be under way at the same time.
    pub(super) joins_at_once: usize,
    /// How long is measured.
    pub(super) window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            media: Media::default(),
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
pub(super) enum LoadError {
    /// The server did not do what was asked of it by HTTP.
    #[error("{0}")]
    Server(String),
    /// The operator has stopped the run.
    #[error("interrupted")]
    Interrupted,
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
    pub(super) fn machine(what: &'static str) -> impl FnOnce(std::io::Error) -> LoadError {
        move |error| LoadError::Machine { what, error }
    }
}
