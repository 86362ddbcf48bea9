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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn page() -> Vec<AtomicU64> {
        (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn what_is_published_is_read() {
        let page = page();
        assert_eq!(read(&page), Some([0; 3]));
        publish(&page, &[1, 2, 3]);
        assert_eq!(read(&page), Some([1, 2, 3]));
        publish(&page, &[4; COUNTERS_MAX]);
        assert_eq!(read(&page), Some([4; COUNTERS_MAX]));
    }

    #[test]
    fn a_writer_that_died_in_the_middle_does_not_hold_the_reader() {
        let page = page();
        publish(&page, &[1, 2, 3]);
        page[0].fetch_add(1, Ordering::Relaxed);
        assert_eq!(read::<3>(&page), None);
        publish(&page, &[4, 5, 6]);
        assert_eq!(read(&page), Some([4, 5, 6]), "a page that was scribbled over heals");
    }

    #[test]
    fn a_reader_never_sees_half_a_write() {
        let count = if cfg!(miri) { 20 } else { 20_000 };
        let page = page();
        std::thread::scope(|scope| {
            scope.spawn(|| (1..=count).for_each(|value| publish(&page, &[value; 8])));
            let mut seen = 0;
            while seen < count {
                if let Some(counters) = read::<8>(&page) {
                    assert_eq!(counters, [counters[0]; 8]);
                    assert!(counters[0] >= seen, "counters went back");
                    seen = counters[0];
                }
                std::thread::yield_now();
            }
        });
    }
}

#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn a_reader_never_sees_half_a_write() {
        loom::model(|| {
            let page: Arc<Vec<AtomicU64>> = Arc::new((0..LINE + 2).map(|_| AtomicU64::new(0)).collect());
            let theirs = page.clone();
            let writer = thread::spawn(move || {
                publish(&theirs, &[1, 1]);
                publish(&theirs, &[2, 2]);
            });
            if let Some([first, second]) = try_read(&page) {
                assert_eq!(first, second);
            }
            writer.join().unwrap();
            assert_eq!(try_read(&page), Some([2, 2]));
        });
    }
}
