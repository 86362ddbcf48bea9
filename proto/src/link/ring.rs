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
        if self.space_seen() == 0 && self.space(ring) == 0 {
            return false;
        }
        copy_in(&ring[place::<LEN>(self.tail, self.capacity)], record);
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
        if self.waiting_seen() == 0 && self.waiting(ring) == 0 {
            return false;
        }
        copy_out(&ring[place::<LEN>(self.head, self.capacity)], record);
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
