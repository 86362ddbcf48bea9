//! Timers of a worker: a wheel of ten-millisecond buckets. Setting and firing cost the same for ten peers and for
//! ten thousand, and a deadline is never missed by more than a bucket.

use proto::id::{PeerId, StreamId};

use crate::config::{MILLISECOND, Micros};

/// Width of a bucket. Nothing that a timer drives is finer than this.
pub(crate) const BUCKET: Micros = 10 * MILLISECOND;
/// Buckets of the wheel; timers further away go round.
const BUCKETS: usize = 256;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// Sender and receiver reports to a peer.
    Report { peer: PeerId },
    /// Transport-cc feedback to a publisher.
    TransportCc { peer: PeerId },
    /// Whether a peer still consents, which it is asked.
    Consent { peer: PeerId },
    /// Addresses of a peer to ask again.
    Check { peer: PeerId },
    /// Packets of video that wait for a receiver, and its probe.
    Pace { peer: PeerId },
    /// Missing packets of a stream to ask for.
    Nack { stream: StreamId },
    /// A keyframe request of a stream that was held back, or not answered.
    Keyframe { stream: StreamId },
    /// The worker that receives an encoding is told again whether its mirror is taken.
    Taken { stream: StreamId },
}

/// Timers that one peer has pending at most: one of each kind.
pub(crate) const PEER_TIMERS: usize = 5;
/// Timers that one stream has pending at most: one for its missing packets or, of a mirror, for whether it is taken, and one for
/// keyframes with those that earlier ones have overtaken within a second.
pub(crate) const STREAM_TIMERS: usize = 8;

/// A pending timer, linked to the next in its bucket.
#[derive(Clone, Copy)]
struct Node {
    at: Micros,
    timer: Timer,
    next: u32,
}

const END: u32 = u32::MAX;

/// Pending timers. Whoever sets one remembers that it is set; a timer names its object with the generation, so that
/// one whose object is gone fires in vain, even if another has taken the place.
pub(crate) struct Timers {
    nodes: Vec<Node>,
    /// First of the nodes that are not in use.
    free: u32,
    buckets: Box<[u32; BUCKETS]>,
    /// The bucket that is being emptied.
    due: u32,
    /// Number of the next bucket to look at (time divided by bucket width).
    next: u64,
    pending: usize,
}

impl Timers {
    pub(crate) fn new(now: Micros) -> Self {
        Timers {
            nodes: Vec::new(),
            free: END,
            buckets: Box::new([END; BUCKETS]),
            due: END,
            next: now / BUCKET,
            pending: 0,
        }
    }

    /// Takes memory for this many timers in all, so that setting one does not.
    pub(crate) fn reserve(&mut self, timers: usize) {
        self.nodes.reserve(timers.saturating_sub(self.nodes.len()));
    }

    /// Fires `timer` in the turn after `at`.
    pub(crate) fn set(&mut self, at: Micros, timer: Timer) {
        let node = match self.free {
            END => {
                self.nodes.push(Node { at, timer, next: END });
                self.nodes.len() as u32 - 1
            }
            node => {
                self.free = self.nodes[node as usize].next;
                self.nodes[node as usize] = Node { at, timer, next: END };
                node
            }
        };
        self.link(node);
        self.pending += 1;
    }

    fn link(&mut self, node: u32) {
        let number = self.nodes[node as usize].at.div_ceil(BUCKET).max(self.next);
        let bucket = &mut self.buckets[number as usize % BUCKETS];
        self.nodes[node as usize].next = std::mem::replace(bucket, node);
    }

    /// When the next timer may be due.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        if self.pending == 0 {
            return None;
        }
        if self.due != END {
            // A turn stopped half way through a bucket, to flush.
            return Some((self.next - 1) * BUCKET);
        }
        let ahead = (0..BUCKETS as u64).find(|ahead| self.buckets[(self.next + ahead) as usize % BUCKETS] != END)?;
        Some((self.next + ahead) * BUCKET)
    }

    /// Takes one timer that is due at `now`.
    pub(crate) fn pop(&mut self, now: Micros) -> Option<Timer> {
        loop {
            if self.due != END {
                let taken = self.due;
                let Node { at, timer, next } = self.nodes[taken as usize];
                self.due = next;
                if at > now {
                    // A later round of the wheel.
                    self.link(taken);
                    continue;
                }
                self.nodes[taken as usize].next = std::mem::replace(&mut self.free, taken);
                self.pending -= 1;
                return Some(timer);
            }
            if self.next * BUCKET > now {
                return None;
            }
            if self.pending == 0 {
                self.next = now / BUCKET + 1;
                return None;
            }
            self.due = std::mem::replace(&mut self.buckets[self.next as usize % BUCKETS], END);
            self.next += 1;
        }
    }

    /// Forgets all timers.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.buckets.fill(END);
        (self.free, self.due, self.pending) = (END, END, 0);
    }

    /// How many timers are pending.
    pub(crate) fn len(&self) -> usize {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(timers: &mut Timers, now: Micros) -> Vec<u32> {
        let mut due = Vec::new();
        while let Some(Timer::Report { peer }) = timers.pop(now) {
            due.push(peer.index);
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
                timers.set(start + delay, Timer::Report { peer: PeerId::new(i as u32, 1) });
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

    #[test]
    fn a_turn_that_stops_half_way_is_due_again_at_once() {
        let mut timers = Timers::new(0);
        for index in 0..3 {
            timers.set(15_000, Timer::Report { peer: PeerId::new(index, 1) });
        }
        assert!(timers.pop(20_000).is_some());
        assert!(timers.deadline().is_some_and(|deadline| deadline <= 20_000));
        assert_eq!(drain(&mut timers, 20_000).len(), 2);
        assert_eq!(timers.deadline(), None);
    }

    #[test]
    fn timers_that_were_reserved_take_no_more_memory() {
        let mut timers = Timers::new(0);
        timers.reserve(4);
        let capacity = timers.nodes.capacity();
        for now in (0..100_000_000).step_by(7_000) {
            while timers.pending < 4 {
                timers.set(now + 3_000_000, Timer::Report { peer: PeerId::new(1, 1) });
            }
            drain(&mut timers, now);
        }
        assert_eq!((timers.nodes.capacity(), timers.len()), (capacity, 4));
    }
}
