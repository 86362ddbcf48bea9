//! Single-producer, single-consumer ring of fixed-size records, laid over shared words.
//!
//! A ring is a slice of atomic words: one line with the *tail* (how many records were ever pushed, written by the
//! producer only), one with the *head* (how many were ever popped, written by the consumer only), then the records.
//! Both run freely and are masked on use, so full and empty differ without a spare place.
//!
//! Each end keeps its own index in private memory and only publishes it; the other end's index is input. An index
//! that is further away than the capacity cannot be true, so the ring then reads as full to the producer and as
//! empty to the consumer, for good: a hostile or broken peer stops its own ring and nothing else. Record bytes are
//! copied out word by word before anybody parses them, so what was checked is what is used.

use super::atomic::{AtomicU64, Ordering};

/// Words in a padded line: 128 bytes, two cache lines, because the adjacent-line prefetcher works on pairs.
pub(super) const LINE: usize = 16;

const TAIL: usize = 0;
const HEAD: usize = LINE;
const RECORDS: usize = 2 * LINE;

/// Words that a ring of `capacity` records of `record_len` bytes takes.
pub(super) const fn ring_words(capacity: usize, record_len: usize) -> usize {
    assert!(capacity.is_power_of_two(), "indices are masked, so the capacity must be a power of two");
    assert!(record_len.is_multiple_of(8), "records are copied word by word");
    RECORDS + capacity * (record_len / 8)
}

/// The pushing end: private state of one ring.
#[derive(Debug)]
pub(super) struct Producer<const LEN: usize> {
    capacity: u64,
    tail: u64,
    head_seen: u64,
}

impl<const LEN: usize> Producer<LEN> {
    /// The pushing end of a fresh ring (both indices zero).
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity: capacity as u64, tail: 0, head_seen: 0 }
    }

    /// How many records may be pushed now, 0 to the capacity.
    pub(super) fn space(&mut self, ring: &[AtomicU64]) -> usize {
        // Acquire: the consumer has finished copying out of every place that its head has passed.
        self.head_seen = ring[HEAD].load(Ordering::Acquire);
        self.space_seen() as usize
    }

    fn space_seen(&self) -> u64 {
        // More in flight than fits: the head is a lie, and the ring is full for good.
        self.capacity.saturating_sub(self.tail.wrapping_sub(self.head_seen))
    }

    /// Copies a record in and publishes it; false if the ring is full.
    pub(super) fn push(&mut self, ring: &[AtomicU64], record: &[u8; LEN]) -> bool {
        self.push_with(ring, |words| copy_in(words, record))
    }

    /// Lets `write` fill the words of a record and publishes it; false, and nothing was written, if the ring is full.
    pub(super) fn push_with(&mut self, ring: &[AtomicU64], write: impl FnOnce(&[AtomicU64])) -> bool {
        if self.space_seen() == 0 && self.space(ring) == 0 {
            return false;
        }
        write(&ring[place::<LEN>(self.tail, self.capacity)]);
        self.tail = self.tail.wrapping_add(1);
        // Release: the record is whole before the consumer can see the tail move.
        ring[TAIL].store(self.tail, Ordering::Release);
        true
    }
}

/// The popping end: private state of one ring.
#[derive(Debug)]
pub(super) struct Consumer<const LEN: usize> {
    capacity: u64,
    head: u64,
    tail_seen: u64,
}

impl<const LEN: usize> Consumer<LEN> {
    /// The popping end of a fresh ring (both indices zero).
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity: capacity as u64, head: 0, tail_seen: 0 }
    }

    /// How many records wait, 0 to the capacity.
    pub(super) fn waiting(&mut self, ring: &[AtomicU64]) -> usize {
        // Acquire: pairs with the producer's release of the tail, so the records below it are whole.
        self.tail_seen = ring[TAIL].load(Ordering::Acquire);
        self.waiting_seen() as usize
    }

    fn waiting_seen(&self) -> u64 {
        let waiting = self.tail_seen.wrapping_sub(self.head);
        // More than fits: the tail is a lie, and the ring is empty for good.
        if waiting > self.capacity { 0 } else { waiting }
    }

    /// Copies the oldest record out and frees its place; false if the ring is empty.
    pub(super) fn pop(&mut self, ring: &[AtomicU64], record: &mut [u8; LEN]) -> bool {
        self.pop_with(ring, |words| copy_out(words, record))
    }

    /// Lets `read` copy the oldest record out of its words and frees its place; false if the ring is empty.
    pub(super) fn pop_with(&mut self, ring: &[AtomicU64], read: impl FnOnce(&[AtomicU64])) -> bool {
        if self.waiting_seen() == 0 && self.waiting(ring) == 0 {
            return false;
        }
        read(&ring[place::<LEN>(self.head, self.capacity)]);
        self.head = self.head.wrapping_add(1);
        // Release: the copy is done before the producer may write here again.
        ring[HEAD].store(self.head, Ordering::Release);
        true
    }
}

/// Where the record with this free-running index lies.
fn place<const LEN: usize>(index: u64, capacity: u64) -> std::ops::Range<usize> {
    let words = LEN / 8;
    let start = RECORDS + (index & (capacity - 1)) as usize * words;
    start..start + words
}

/// Writes bytes into words, as memory order has them; the last word is padded with zeros.
pub(super) fn copy_in(words: &[AtomicU64], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut value = [0; 8];
        value[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
    }
}

/// Reads bytes out of words, as memory order has them.
pub(super) fn copy_out(words: &[AtomicU64], bytes: &mut [u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks_mut(8)) {
        let value = word.load(Ordering::Relaxed).to_ne_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const CAPACITY: usize = 4;
    const RECORD: usize = 16;

    /// Ring memory and both ends, with indices that start anywhere, also just before they wrap.
    fn ring_at(start: u64) -> (Vec<AtomicU64>, Producer<RECORD>, Consumer<RECORD>) {
        let ring: Vec<_> = (0..ring_words(CAPACITY, RECORD)).map(|_| AtomicU64::new(0)).collect();
        ring[TAIL].store(start, Ordering::Relaxed);
        ring[HEAD].store(start, Ordering::Relaxed);
        let producer = Producer { tail: start, head_seen: start, ..Producer::new(CAPACITY) };
        let consumer = Consumer { head: start, tail_seen: start, ..Consumer::new(CAPACITY) };
        (ring, producer, consumer)
    }

    fn record(value: u64) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&value.to_le_bytes());
        record[8..].copy_from_slice(&(!value).to_le_bytes());
        record
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push,
        Pop,
        AskSpace,
        AskWaiting,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![3 => Just(Step::Push), 3 => Just(Step::Pop), 1 => Just(Step::AskSpace), 1 => Just(Step::AskWaiting)];
        prop::collection::vec(step, 0..64)
    }

    proptest! {
        // Miri interprets each step; a few cases show it every path.
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 512 }, failure_persistence: None, ..Default::default() })]

        #[test]
        fn it_behaves_like_a_bounded_queue(steps in steps(), start in prop_oneof![Just(0), Just(u64::MAX - 3), any::<u64>()]) {
            let (ring, mut producer, mut consumer) = ring_at(start);
            let mut oracle = VecDeque::new();
            for (value, step) in (0u64..).zip(steps) {
                match step {
                    Step::Push => {
                        let fits = oracle.len() < CAPACITY;
                        prop_assert_eq!(producer.push(&ring, &record(value)), fits);
                        if fits {
                            oracle.push_back(record(value));
                        }
                    }
                    Step::Pop => {
                        let mut popped = [0; RECORD];
                        let popped = consumer.pop(&ring, &mut popped).then_some(popped);
                        prop_assert_eq!(popped, oracle.pop_front());
                    }
                    Step::AskSpace => prop_assert_eq!(producer.space(&ring), CAPACITY - oracle.len()),
                    Step::AskWaiting => prop_assert_eq!(consumer.waiting(&ring), oracle.len()),
                }
            }
        }

        /// Whatever the other side writes over an index, an end moves at most a ring full and stays in bounds.
        #[test]
        fn a_lying_index_stops_the_ring(lies in prop::collection::vec(any::<u64>(), 1..8)) {
            let (ring, mut producer, mut consumer) = ring_at(0);
            for lie in lies {
                ring[HEAD].store(lie, Ordering::Relaxed);
                ring[TAIL].store(lie, Ordering::Relaxed);
                prop_assert!(producer.space(&ring) <= CAPACITY && consumer.waiting(&ring) <= CAPACITY);
                let pushed = (0..2 * CAPACITY).take_while(|_| producer.push(&ring, &[0; RECORD])).count();
                prop_assert!(pushed <= CAPACITY);
                ring[TAIL].store(lie, Ordering::Relaxed);
                let popped = (0..2 * CAPACITY).take_while(|_| consumer.pop(&ring, &mut [0; RECORD])).count();
                prop_assert!(popped <= CAPACITY);
            }
        }
    }

    #[test]
    fn two_threads_pass_whole_records_in_order() {
        let count = if cfg!(miri) { 40 } else { 200_000 };
        let (ring, mut producer, mut consumer) = ring_at(u64::MAX - 20);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in 0..count {
                    while !producer.push(&ring, &record(value)) {
                        std::thread::yield_now();
                    }
                }
            });
            for value in 0..count {
                let mut popped = [0; RECORD];
                while !consumer.pop(&ring, &mut popped) {
                    std::thread::yield_now();
                }
                assert_eq!(popped, record(value));
            }
        });
    }

    #[test]
    fn bytes_that_do_not_fill_a_word_are_padded() {
        let words: [AtomicU64; 2] = std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        copy_in(&words, b"0123456789");
        let mut bytes = [1; 12];
        copy_out(&words, &mut bytes);
        assert_eq!(&bytes, b"0123456789\0\0");
    }
}

/// Every interleaving and every permitted stale read: `RUSTFLAGS="--cfg loom" cargo test -p proto --lib link::`.
#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::link::wake;

    fn ring() -> Arc<Vec<AtomicU64>> {
        Arc::new((0..ring_words(2, 16)).map(|_| AtomicU64::new(0)).collect())
    }

    fn record(value: u8) -> [u8; 16] {
        [value; 16]
    }

    /// Three records through two places: each arrives whole, in order, and never before it is pushed.
    #[test]
    fn records_arrive_whole_and_in_order() {
        loom::model(|| {
            let ring = ring();
            let theirs = ring.clone();
            let producer = thread::spawn(move || {
                let mut producer = Producer::<16>::new(2);
                for value in 1..=3 {
                    while !producer.push(&theirs, &record(value)) {
                        thread::yield_now();
                    }
                }
            });
            let mut consumer = Consumer::<16>::new(2);
            for value in 1..=3 {
                let mut popped = record(0);
                while !consumer.pop(&ring, &mut popped) {
                    thread::yield_now();
                }
                assert_eq!(popped, record(value));
            }
            producer.join().unwrap();
        });
    }

    /// A consumer that parks because it saw nothing is woken by the producer that pushed.
    #[test]
    fn no_wake_is_lost() {
        loom::model(|| {
            let ring = ring();
            let asleep = Arc::new(AtomicU64::new(0));
            let (their_ring, their_asleep) = (ring.clone(), asleep.clone());
            let producer = thread::spawn(move || {
                assert!(Producer::<16>::new(2).push(&their_ring, &record(1)));
                wake::must_wake(&their_asleep)
            });
            let mut consumer = Consumer::<16>::new(2);
            wake::fall_asleep(&asleep);
            let parks = consumer.waiting(&ring) == 0;
            let is_woken = producer.join().unwrap();
            assert!(!parks || is_woken, "parked with a record in the ring and nobody to wake it");
        });
    }
}
