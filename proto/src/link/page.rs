//! The stats page: a worker's counters under a sequence lock, so that a reader gets one moment of all of them
//! without ever holding the worker up.

use super::atomic::{AtomicU64, Ordering, fence};
use super::ring::LINE;

/// Counters that the page has room for.
const COUNTERS_MAX: usize = 128;

/// Words of the page.
pub(super) const PAGE_WORDS: usize = LINE + COUNTERS_MAX;

/// How often a reader tries again before it concludes that the writer died while writing. A write takes well under
/// a microsecond, this many tries many times that.
const TRIES_MAX: usize = 1024;

/// Writes the counters. One writer only.
pub(super) fn publish<const COUNT: usize>(page: &[AtomicU64], counters: &[u64; COUNT]) {
    const { assert!(COUNT <= COUNTERS_MAX, "the stats page is too small for the counters") };
    // Odd while writing. A worker that died while writing left an odd number in a page that nobody reads again.
    let sequence = page[0].load(Ordering::Relaxed) | 1;
    page[0].store(sequence, Ordering::Relaxed);
    // A reader that sees any of the new values also sees the odd number.
    fence(Ordering::Release);
    for (word, &counter) in page[LINE..].iter().zip(counters) {
        word.store(counter, Ordering::Relaxed);
    }
    page[0].store(sequence.wrapping_add(1), Ordering::Release);
}

/// Reads the counters as they were at one moment; `None` if the writer seems to have died while writing.
pub(super) fn read<const COUNT: usize>(page: &[AtomicU64]) -> Option<[u64; COUNT]> {
    const { assert!(COUNT <= COUNTERS_MAX, "the stats page is too small for the counters") };
    for _ in 0..TRIES_MAX {
        if let Some(counters) = try_read(page) {
            return Some(counters);
        }
        std::hint::spin_loop();
    }
    None
}

fn try_read<const COUNT: usize>(page: &[AtomicU64]) -> Option<[u64; COUNT]> {
    let before = page[0].load(Ordering::Acquire);
    if before % 2 == 1 {
        return None;
    }
    let mut counters = [0; COUNT];
    for (counter, word) in counters.iter_mut().zip(&page[LINE..]) {
        *counter = word.load(Ordering::Relaxed);
    }
    // The values were read before the sequence is read again.
    fence(Ordering::Acquire);
    (page[0].load(Ordering::Relaxed) == before).then_some(counters)
}
