//! A token bucket: so many a second, and a burst of so many. Whatever this plane limits by rate, it limits by this.

use std::time::{Duration, Instant};

/// Full at first, and refilled as time passes, which is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    burst: f64,
    per_second: f64,
    left: f64,
    /// When it was last refilled; `None` before the first time.
    at: Option<Instant>,
}

impl TokenBucket {
    /// A bucket that holds `burst`, and gets `per_second` back.
    pub(crate) const fn new(burst: f64, per_second: f64) -> Self {
        Self { burst, per_second, left: burst, at: None }
    }

    /// A bucket that holds one second's worth.
    pub(crate) fn per_second(rate: u32) -> Self {
        Self::new(f64::from(rate), f64::from(rate))
    }

    /// Another rate from now on, with one second's worth of it at most.
    pub(crate) fn set_per_second(&mut self, rate: u32) {
        (self.burst, self.per_second) = (f64::from(rate), f64::from(rate));
    }

    /// How much is there now.
    pub(crate) fn left(&mut self, now: Instant) -> f64 {
        self.refill(now);
        self.left
    }

    /// Takes one, if it is there.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let has_one = self.left >= 1.0;
        if has_one {
            self.left -= 1.0;
        }
        has_one
    }

    /// Takes `cost` in any case, and says how long it lasts until that much is there.
    pub(crate) fn spend(&mut self, now: Instant, cost: usize) -> Duration {
        self.refill(now);
        self.left -= cost as f64;
        Duration::from_secs_f64((-self.left / self.per_second).max(0.0))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.left = (self.left + elapsed.as_secs_f64() * self.per_second).min(self.burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(50.0, 5.0);
        assert!(bucket.left(now) >= 50.0);
        assert_eq!((0..1000).filter(|_| bucket.take(now)).count(), 50);
        assert_eq!((0..1000).filter(|_| bucket.take(now + Duration::from_secs(3))).count(), 15);
        assert_eq!((0..1000).filter(|_| bucket.take(now + Duration::from_secs(86_400))).count(), 50);
    }

    #[test]
    fn what_is_spent_in_advance_must_be_waited_for() {
        let now = Instant::now();
        let mut bucket = TokenBucket::per_second(100);
        assert_eq!(bucket.spend(now, 100), Duration::ZERO);
        assert_eq!(bucket.spend(now, 50), Duration::from_millis(500));
        assert!(!bucket.take(now + Duration::from_millis(500)) && bucket.take(now + Duration::from_millis(510)));
    }

    #[test]
    fn another_rate_shrinks_the_burst() {
        let now = Instant::now();
        let mut bucket = TokenBucket::per_second(100);
        bucket.set_per_second(5);
        assert_eq!((0..50).filter(|_| bucket.take(now)).count(), 5);
    }
}
