//! How many DTLS handshakes may be begun: so many a second, and so many at a time.
//!
//! A handshake costs a signature and a few tens of kilobytes, and it is begun by whoever holds a token. What the gate
//! turns away is only put off: a client repeats its hello, each time after a longer wait.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Counts handshakes of things named by `K`.
pub(crate) struct Gate<K> {
    half_open: BTreeSet<K>,
    half_open_max: usize,
    per_second: u32,
    /// Handshakes that may be begun at `since`; one second's worth at most.
    tokens: f64,
    since: Option<Instant>,
}

impl<K: Ord> Gate<K> {
    /// An open gate.
    pub(crate) fn new(half_open_max: usize, per_second: u32) -> Self {
        Self { half_open: BTreeSet::new(), half_open_max, per_second, tokens: f64::from(per_second), since: None }
    }

    /// Other limits from now on. Handshakes that are under way go on.
    pub(crate) fn set_limits(&mut self, half_open_max: usize, per_second: u32) {
        (self.half_open_max, self.per_second) = (half_open_max, per_second);
    }

    /// How many handshakes are under way.
    pub(crate) fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Whether a handshake may begin now; if so it counts until [`Gate::ended`].
    pub(crate) fn admit(&mut self, now: Instant, key: K) -> bool {
        let since = self.since.replace(now).map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let earned = since.as_secs_f64() * f64::from(self.per_second);
        self.tokens = (self.tokens + earned).min(f64::from(self.per_second));
        if self.tokens < 1.0 || self.half_open.len() >= self.half_open_max {
            return false;
        }
        self.tokens -= 1.0;
        self.half_open.insert(key)
    }

    /// A handshake is complete or given up.
    pub(crate) fn ended(&mut self, key: K) {
        self.half_open.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_a_time() {
        let now = Instant::now();
        let mut gate = Gate::new(2, 100);
        assert!(gate.admit(now, 1) && gate.admit(now, 2) && !gate.admit(now, 3));
        gate.ended(1);
        gate.ended(7);
        assert!(gate.admit(now, 3));
        assert_eq!(gate.half_open(), 2);
    }

    #[test]
    fn other_limits_hold_at_once() {
        let now = Instant::now();
        let mut gate = Gate::new(1, 100);
        assert!(gate.admit(now, 1) && !gate.admit(now, 2));
        gate.set_limits(2, 100);
        assert!(gate.admit(now, 2) && !gate.admit(now, 3));
        gate.set_limits(9, 5);
        assert_eq!((3..50).filter(|&k| gate.admit(now, k)).count(), 5, "the burst shrinks too");
    }

    #[test]
    fn so_many_a_second() {
        let now = Instant::now();
        let mut gate = Gate::new(1000, 10);
        assert_eq!((0..50).filter(|&k| gate.admit(now, k)).count(), 10);
        let later = now + Duration::from_millis(550);
        assert_eq!((50..99).filter(|&k| gate.admit(later, k)).count(), 5);
        let much_later = later + Duration::from_secs(60);
        assert_eq!((100..200).filter(|&k| gate.admit(much_later, k)).count(), 10);
    }
}
