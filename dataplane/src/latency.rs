//! How long a packet takes through the worker: from the kernel's receive stamp until the send calls of the flush that it
//! leaves in are done, for each of its copies. What another worker relays keeps the stamp from there, and counts where it
//! leaves.

use proto::histogram::Histogram;

use crate::config::{BATCH_LEN_MAX, Micros, RELAYS_PER_TURN_MAX};

/// Times of arrival that a turn may find: those of its batch, and those of what other workers relay.
const WAITING_MAX: usize = BATCH_LEN_MAX + RELAYS_PER_TURN_MAX;

/// Notes when packets arrived that wait in the outbox, and counts them when they have left.
pub(crate) struct Latency {
    /// Time of arrival and how many packets left because of it. Datagrams that the kernel merged share both.
    waiting: Vec<(Micros, u64)>,
    histogram: Histogram,
}

impl Latency {
    /// Nothing noted.
    pub(crate) fn new() -> Latency {
        Latency { waiting: Vec::with_capacity(WAITING_MAX), histogram: Histogram::default() }
    }

    /// A datagram that arrived at `at` put so many packets into the outbox.
    pub(crate) fn note(&mut self, at: Micros, packets: u64) {
        let is_full = self.waiting.len() == WAITING_MAX;
        match self.waiting.last_mut() {
            _ if packets == 0 => {}
            // A turn has no more times than there is room for; if it had, they would count as the last.
            Some(last) if last.0 == at || is_full => last.1 += packets,
            _ => self.waiting.push((at, packets)),
        }
    }

    /// Whether anything was noted since the last flush.
    pub(crate) fn is_due(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All that was noted has left by now; `publish` is told of each bucket that changed.
    pub(crate) fn settle(&mut self, now: Micros, mut publish: impl FnMut(&Histogram, usize)) {
        for (at, packets) in self.waiting.drain(..) {
            let bucket = self.histogram.record(now.saturating_sub(at), packets);
            publish(&self.histogram, bucket);
        }
    }

    /// All that was counted.
    pub(crate) fn histogram(&self) -> &Histogram {
        &self.histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_together_is_counted_together_and_nothing_is_lost() {
        let mut latency = Latency::new();
        for (at, packets) in [(100, 7), (100, 7), (150, 0), (160, 1)] {
            latency.note(at, packets);
        }
        let mut told = Vec::new();
        latency.settle(200, |latencies, bucket| told.push(latencies.counts[bucket]));
        assert_eq!(told, [14, 1]);
        assert!(!latency.is_due());
        // More arrivals than a turn can have: they are counted with the last, and memory does not grow.
        (0..3 * WAITING_MAX as u64).for_each(|at| latency.note(at, 1));
        assert_eq!(latency.waiting.len(), WAITING_MAX);
        latency.settle(1000, |_, _| ());
        assert_eq!(latency.histogram().count(), 15 + 3 * WAITING_MAX as u64);
    }
}
