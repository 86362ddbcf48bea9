//! When packets of video leave toward a receiver whose path is known to be narrow: not faster than the path takes them, so that
//! a keyframe does not stand in a router's queue before other people's sound.
//!
//! What leaves adds to a debt, which the rate pays back. While the debt is small, packets leave at once, in trains as always:
//! a receiver whose path carries more than it is sent never waits. Sound and repairs do not wait, and add to the debt.
//!
//! Packets that wait are in [`Queues`], one pool for all receivers of a worker. They are held by handle: a packet that waits
//! for too long is not in the store any more, and is lost like one that the network lost.

use crate::config::{MILLISECOND, Micros, SECOND};

/// What may leave at once, as time at the rate: two ticks of the timer that goes on, so that the rate is reached.
const BURST: Micros = 20 * MILLISECOND;
/// … and one packet at the least, bytes.
const BURST_LEN_MIN: u64 = 1500;
/// Longest debt, as time at the rate. Sound and repairs may make it longer than video can wait for (libwebrtc
/// `kMaxDebtInTime`).
const DEBT_MAX: Micros = 500 * MILLISECOND;
/// Longest wait, as time at the rate. A video that waits longer than this is too much for the path, and is given up until its
/// next keyframe: people who talk notice a delay of more than 400 ms (ITU-T G.114).
const WAIT_MAX: Micros = 400 * MILLISECOND;
/// The same of a shared screen, of a keyframe, and of what follows a keyframe until nothing waits any more. They are bursts: if one is
/// given up, the next one is as large, and nothing is shown at all (libwebrtc `kMaxExpectedQueueLength`).
const BURST_WAIT_MAX: Micros = 2 * SECOND;

/// The debt of one receiver.
#[derive(Debug)]
pub(crate) struct Pacer {
    /// Bit/s; 0 if nothing is known of the path. Each packet looks at it, so it is as small as it can be.
    bps: u64,
    paid_at: Micros,
    debt: u32,
}

impl Pacer {
    pub(crate) fn new(now: Micros) -> Self {
        Pacer { bps: 0, debt: 0, paid_at: now }
    }

    /// The rate from now on, bit/s; `None` for no limit.
    pub(crate) fn set_rate(&mut self, now: Micros, bps: Option<u64>) {
        self.pay(now);
        self.bps = bps.map_or(0, |bps| bps.max(1));
    }

    /// Bytes at the rate in this time.
    fn bytes_in(&self, time: Micros) -> u64 {
        if self.bps == 0 { u64::MAX } else { self.bps.saturating_mul(time) / (8 * SECOND) }
    }

    fn pay(&mut self, now: Micros) {
        let paid = self.bytes_in(now.saturating_sub(self.paid_at));
        if paid >= self.debt.into() {
            (self.debt, self.paid_at) = (0, now);
        } else {
            self.debt -= paid as u32;
            // Not `now`: the rest of a byte is paid later.
            self.paid_at += paid * 8 * SECOND / self.bps;
        }
    }

    /// Something of so many bytes has left.
    #[inline]
    pub(crate) fn sent(&mut self, now: Micros, len: usize) {
        if self.bps > 0 {
            self.pay(now);
            let most = self.bytes_in(DEBT_MAX).max(BURST_LEN_MIN).min(u32::MAX.into());
            self.debt = (u64::from(self.debt) + len as u64).min(most) as u32;
        }
    }

    /// Whether what has left is so much time ahead of the rate.
    pub(crate) fn is_ahead(&mut self, now: Micros, time: Micros) -> bool {
        self.bps > 0 && {
            self.pay(now);
            u64::from(self.debt) >= self.bytes_in(time).max(BURST_LEN_MIN)
        }
    }

    /// Whether a packet of video has to wait.
    #[inline]
    pub(crate) fn must_wait(&mut self, now: Micros) -> bool {
        self.is_ahead(now, BURST)
    }

    /// Whether so many bytes would wait for too long.
    pub(crate) fn is_too_much(&self, waiting: u64, is_burst: bool) -> bool {
        waiting > self.bytes_in(if is_burst { BURST_WAIT_MAX } else { WAIT_MAX })
    }
}

/// What waits for one receiver, in a pool that all of them share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queue {
    head: u32,
    tail: u32,
    count: u32,
    /// Fewer than a pool of whole packets has.
    bytes: u32,
}

impl Queue {
    pub(crate) const fn new() -> Queue {
        Queue { head: END, tail: END, count: 0, bytes: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.into()
    }
}

const END: u32 = u32::MAX;

struct Node<T> {
    value: T,
    len: u32,
    next: u32,
}

/// The pool. Its memory is taken as it is needed, up to `max` packets, and kept.
pub(crate) struct Queues<T> {
    nodes: Vec<Node<T>>,
    free: u32,
}

impl<T: Copy> Queues<T> {
    /// Memory for so many packets.
    pub(crate) fn new(max: usize) -> Self {
        Queues { nodes: Vec::with_capacity(max), free: END }
    }

    /// Forgets all that waits.
    pub(crate) fn clear(&mut self) {
        self.nodes.clear();
        self.free = END;
    }

    /// Adds a packet of so many bytes; false if the pool is full.
    pub(crate) fn push(&mut self, queue: &mut Queue, value: T, len: usize) -> bool {
        let node = Node { value, len: len as u32, next: END };
        let place = match self.free {
            END if self.nodes.len() == self.nodes.capacity() => return false,
            END => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
            place => {
                self.free = std::mem::replace(&mut self.nodes[place as usize], node).next;
                place
            }
        };
        match queue.tail {
            END => queue.head = place,
            tail => self.nodes[tail as usize].next = place,
        }
        queue.tail = place;
        queue.count += 1;
        queue.bytes += len as u32;
        true
    }

    /// Takes the packet that has waited longest.
    pub(crate) fn pop(&mut self, queue: &mut Queue) -> Option<T> {
        let place = queue.head;
        let node = self.nodes.get_mut(place as usize)?;
        (queue.head, queue.bytes) = (node.next, queue.bytes - node.len);
        queue.count -= 1;
        if queue.head == END {
            queue.tail = END;
        }
        node.next = self.free;
        self.free = place;
        Some(node.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_follows_the_rate() {
        let mut pacer = Pacer::new(0);
        assert!(!pacer.must_wait(0), "nothing is known");
        pacer.set_rate(0, Some(800_000)); // 100 bytes in a millisecond
        let (mut sent, mut now) = (0, 0);
        while now < SECOND {
            while !pacer.must_wait(now) {
                pacer.sent(now, 1000);
                sent += 1000;
            }
            now += 10 * MILLISECOND;
        }
        assert!((100_000..=103_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_saves_nothing_up() {
        let mut pacer = Pacer::new(0);
        pacer.set_rate(0, Some(800_000));
        let mut burst = 0;
        while !pacer.must_wait(60 * SECOND) {
            pacer.sent(60 * SECOND, 100);
            burst += 100;
        }
        assert_eq!(burst, 2000, "20 ms of it");
    }

    #[test]
    fn sound_makes_video_wait_but_not_for_ever() {
        let mut pacer = Pacer::new(0);
        pacer.set_rate(0, Some(80_000)); // 10 bytes in a millisecond
        (0..100).for_each(|_| pacer.sent(0, 1000));
        assert!(pacer.must_wait(300 * MILLISECOND));
        assert!(!pacer.must_wait(DEBT_MAX), "the longest debt is 500 ms");
        assert!(!pacer.is_too_much(4000, false) && pacer.is_too_much(4001, false));
        assert!(!pacer.is_too_much(20_000, true) && pacer.is_too_much(20_001, true));
    }

    #[test]
    fn small_payments_add_up() {
        let mut pacer = Pacer::new(0);
        pacer.set_rate(0, Some(84_000)); // 10.5 bytes in a millisecond
        pacer.sent(0, BURST_LEN_MIN as usize + 1050);
        let mut now = 0;
        while pacer.must_wait(now) {
            now += 100;
        }
        assert!((99 * MILLISECOND..101 * MILLISECOND).contains(&now), "{now}");
    }

    #[test]
    fn queues_share_a_pool_and_keep_their_order() {
        let mut queues = Queues::new(4);
        let (mut a, mut b) = (Queue::new(), Queue::new());
        for round in 0..100 {
            assert!(queues.push(&mut a, (round, 'a'), 10) && queues.push(&mut b, (round, 'b'), 1));
            assert!(queues.push(&mut a, (round, 'c'), 5) && queues.push(&mut b, (round, 'd'), 1));
            assert!(!queues.push(&mut b, (round, 'e'), 1), "the pool is full");
            assert_eq!((a.bytes(), b.bytes()), (15, 2));
            assert_eq!([queues.pop(&mut a), queues.pop(&mut b)], [Some((round, 'a')), Some((round, 'b'))]);
            assert_eq!([queues.pop(&mut b), queues.pop(&mut a)], [Some((round, 'd')), Some((round, 'c'))]);
            assert_eq!((queues.pop(&mut a), a, b), (None, Queue::new(), Queue::new()));
        }
        assert_eq!(queues.nodes.len(), 4);
    }
}
