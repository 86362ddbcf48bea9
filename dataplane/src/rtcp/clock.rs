//! Leaf: the clocks that sender reports relate to each other (RFC 3550 §6.4.1).

use crate::config::{Micros, SECOND};

/// A point at which a stream's RTP clock and the worker's NTP clock are known together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SenderClock {
    pub(crate) ntp: u64,
    pub(crate) rtp: u32,
    pub(crate) at: Micros,
}

/// NTP timestamp (RFC 5905 §6, 32.32) of a moment on the worker's clock. The epoch is arbitrary, as RFC 3550 §6.4.1
/// permits; a day keeps it from zero, which means "none".
pub(crate) fn ntp(now: Micros) -> u64 {
    let seconds = now / SECOND + 86_400;
    let fraction = ((now % SECOND) << 32) / SECOND;
    seconds << 32 | fraction
}
