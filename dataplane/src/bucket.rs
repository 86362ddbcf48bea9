//! Leaf: a token bucket. Whatever a worker limits by rate, it limits by this.

use crate::config::{Micros, SECOND};

/// `burst` at once, then `rate` a second. It counts in millionths of a token, so that each microsecond earns `rate` of them and
/// nothing is lost by rounding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    level: u64,
    burst: u64,
    rate: u32,
    refilled: Micros,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(burst: u32, rate: u32, now: Micros) -> Self {
        let burst = u64::from(burst) * SECOND;
        Bucket { level: burst, burst, rate, refilled: now }
    }

    /// Another burst and rate from now on. What is in it stays, as far as it fits.
    pub(crate) fn set(&mut self, burst: u32, rate: u32, now: Micros) {
        self.refill(now);
        self.burst = u64::from(burst) * SECOND;
        self.level = self.level.min(self.burst);
        self.rate = rate;
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Micros) -> bool {
        self.has(1, now) && {
            self.spend(1);
            true
        }
    }

    /// Whether there are so many tokens.
    #[inline]
    pub(crate) fn has(&mut self, count: u32, now: Micros) -> bool {
        self.refill(now);
        self.level >= u64::from(count) * SECOND
    }

    /// Takes so many, which are there.
    #[inline]
    pub(crate) fn spend(&mut self, count: u32) {
        self.level = self.level.saturating_sub(u64::from(count) * SECOND);
    }

    #[inline]
    fn refill(&mut self, now: Micros) {
        let earned = now.saturating_sub(self.refilled).saturating_mul(self.rate.into());
        self.level = self.level.saturating_add(earned).min(self.burst);
        self.refilled = self.refilled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut bucket = Bucket::new(3, 10, 0);
        assert_eq!((0..5).filter(|_| bucket.take(0)).count(), 3);
        assert!(!bucket.take(99_999));
        assert!(bucket.take(100_000));
        assert!(!bucket.take(100_001));
        assert_eq!((0..50).filter(|_| bucket.take(60 * SECOND)).count(), 3, "never more than the burst");
    }

    #[test]
    fn a_rate_of_millions_and_a_time_that_goes_back_are_exact() {
        let mut bucket = Bucket::new(u32::MAX, u32::MAX, 5);
        assert!(bucket.has(u32::MAX, 0));
        bucket.spend(u32::MAX);
        assert!(!bucket.has(1, 5) && bucket.has(4294, 6) && !bucket.has(4295, 6));
        assert!(bucket.has(u32::MAX, Micros::MAX));
    }

    #[test]
    fn another_rate_keeps_what_fits() {
        let mut bucket = Bucket::new(100, 100, 0);
        bucket.set(10, 1, 0);
        assert!(bucket.has(10, 0) && !bucket.has(11, 0));
        bucket.spend(10);
        bucket.set(100, 50, SECOND);
        assert!(bucket.has(1, SECOND) && !bucket.has(2, SECOND), "what the former rate earned");
        assert!(bucket.has(51, 2 * SECOND));
    }
}
