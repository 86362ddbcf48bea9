//! Timers of a worker: a wheel of ten-millisecond buckets. Setting and firing cost the same for ten peers and for
//! ten thousand, and a deadline is never missed by more than a bucket.

use crate::config::{MILLISECOND, Micros};

/// Width of a bucket. Nothing that a timer drives is finer than this.
const BUCKET: Micros = 10 * MILLISECOND;
/// Buckets of the wheel; timers further away go round.
const BUCKETS: usize = 256;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// Sender and receiver reports to a peer.
    Report { peer: u32 },
    /// Transport-cc feedback to a publisher.
    TransportCc { peer: u32 },
    /// Whether a peer still consents.
    Consent { peer: u32 },
    /// Holes of a stream to ask for.
    Nack { stream: u32 },
    /// A keyframe request of a stream that was held back, or not answered.
    Keyframe { stream: u32 },
}

/// Pending timers. Whoever sets one remembers that it is set; a timer for an object that is gone fires in vain.
pub(crate) struct Timers {
    buckets: Box<[Vec<(Micros, Timer)>]>,
    /// Scratch into which a due bucket is emptied; keeps its capacity.
    due: Vec<(Micros, Timer)>,
    /// Number of the next bucket to look at (time divided by bucket width).
    next: u64,
    pending: usize,
}

impl Timers {
    pub(crate) fn new(now: Micros) -> Self {
        Timers { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), due: Vec::new(), next: now / BUCKET, pending: 0 }
    }

    /// Fires `timer` in the turn after `at`.
    pub(crate) fn set(&mut self, at: Micros, timer: Timer) {
        let number = at.div_ceil(BUCKET).max(self.next);
        self.buckets[number as usize % BUCKETS].push((at, timer));
        self.pending += 1;
    }

    /// When the next timer may be due.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        if self.pending == 0 {
            return None;
        }
        let ahead =
            (0..BUCKETS as u64).find(|ahead| !self.buckets[(self.next + ahead) as usize % BUCKETS].is_empty())?;
        Some((self.next + ahead) * BUCKET)
    }

    /// Takes one timer that is due at `now`.
    pub(crate) fn pop(&mut self, now: Micros) -> Option<Timer> {
        loop {
            if let Some((at, timer)) = self.due.pop() {
                if at <= now {
                    self.pending -= 1;
                    return Some(timer);
                }
                // A later round of the wheel.
                let number = at.div_ceil(BUCKET).max(self.next);
                self.buckets[number as usize % BUCKETS].push((at, timer));
                continue;
            }
            if self.next * BUCKET > now {
                return None;
            }
            if self.pending == 0 {
                self.next = now / BUCKET + 1;
                return None;
            }
            std::mem::swap(&mut self.due, &mut self.buckets[self.next as usize % BUCKETS]);
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(timers: &mut Timers, now: Micros) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(Timer::Report { peer }) = timers.pop(now) {
            due.push(peer);
        }
        due.sort_unstable();
        due
    }

    proptest! {
        /// Against a plain list: nothing early, nothing later than a bucket after its time, nothing lost.
        #[test]
        fn fires_each_timer_once_and_in_time(
            start in 0u64..1 << 40,
            delays in prop::collection::vec(0u64..10_000_000, 1..60),
            steps in prop::collection::vec(1u64..700_000, 1..60),
        ) {
            let mut timers = Timers::new(start);
            for (i, delay) in delays.iter().enumerate() {
                timers.set(start + delay, Timer::Report { peer: i as u32 });
            }
            let mut fired = vec![false; delays.len()];
            let mut now = start;
            for step in steps.iter().chain(std::iter::once(&11_000_000)) {
                now += step;
                if let Some(deadline) = timers.deadline() {
                    let earliest = fired.iter().zip(&delays).filter(|(f, _)| !**f).map(|(_, d)| start + d).min();
                    prop_assert!(deadline < earliest.unwrap() + BUCKET);
                } else {
                    prop_assert!(fired.iter().all(|f| *f));
                }
                for i in drain(&mut timers, now) {
                    prop_assert!(!fired[i as usize]);
                    prop_assert!(start + delays[i as usize] <= now);
                    fired[i as usize] = true;
                }
                for (i, f) in fired.iter().enumerate() {
                    prop_assert!(*f || start + delays[i] + BUCKET > now, "timer {i} is late");
                }
            }
        }
    }
}
