//! The rate of a flow over the last half second.

use crate::config::{MILLISECOND, Micros, SECOND};

const BUCKETS: usize = 10;
const BUCKET: Micros = 50 * MILLISECOND;

/// Bytes of the last half second, in buckets.
pub(super) struct Rate {
    bytes: [u32; BUCKETS],
    /// Number of the newest bucket, and of the first.
    newest: u64,
    first: Option<u64>,
}

impl Rate {
    pub(super) const fn new() -> Self {
        Rate { bytes: [0; BUCKETS], newest: 0, first: None }
    }

    fn advance(&mut self, now: Micros) {
        let number = now / BUCKET;
        // After a pause longer than the window everything is counted anew.
        if self.first.is_none() || number > self.newest + BUCKETS as u64 {
            *self = Rate { newest: number, first: Some(number), ..Rate::new() };
        }
        while self.newest < number {
            self.newest += 1;
            self.bytes[self.newest as usize % BUCKETS] = 0;
        }
    }

    /// So many bytes came or left.
    pub(super) fn add(&mut self, len: usize, now: Micros) {
        self.advance(now);
        let bucket = &mut self.bytes[self.newest as usize % BUCKETS];
        *bucket = bucket.saturating_add(len as u32);
    }

    /// Bit/s; `None` before there is half a window of it.
    pub(super) fn bps(&mut self, now: Micros) -> Option<f64> {
        self.advance(now);
        // The newest bucket is not over yet, so it is left out.
        let covered = (self.newest - self.first?).min(BUCKETS as u64 - 1);
        let is_whole = |age: &u64| *age >= 1 && *age <= covered;
        let bytes: u64 = (0..BUCKETS as u64)
            .filter(is_whole)
            .map(|age| u64::from(self.bytes[(self.newest - age) as usize % BUCKETS]))
            .sum();
        (covered >= BUCKETS as u64 / 2).then(|| (bytes * 8 * SECOND) as f64 / (covered * BUCKET) as f64)
    }
}
