//! The stats page and the tallies: a worker's numbers under a sequence lock, so that a reader gets one moment of all of
//! them without ever holding the worker up. The page holds the counters; each stream and each slot has a row of its own
//! behind it, with a lock of its own, so that writing one takes as long as it has words.

use super::atomic::{AtomicU64, Ordering, fence};
use super::ring::LINE;
use crate::plane::{TALLY_WORDS_MAX, TallyWords};

/// Counters that the page has room for.
const COUNTERS_MAX: usize = 128;

/// Words of the page.
pub(super) const PAGE_WORDS: usize = LINE + COUNTERS_MAX;

/// Words of a row: its sequence and what it guards.
const ROW_WORDS: usize = 1 + TALLY_WORDS_MAX;
const _: () = assert!(ROW_WORDS == LINE, "a row is a line, so no two are written in one");

/// Words of so many rows.
pub(super) const fn rows_words(rows: usize) -> usize {
    rows * ROW_WORDS
}

/// How often a reader tries again before it concludes that the writer died while writing. A write takes well under
/// a microsecond, this many tries many times that.
const TRIES_MAX: usize = 1024;

/// Writes the counters. One writer only.
pub(super) fn publish<const COUNT: usize>(page: &[AtomicU64], counters: &[u64; COUNT]) {
    const { assert!(COUNT <= COUNTERS_MAX, "the stats page is too small for the counters") };
    write(&page[0], &page[LINE..], counters);
}

/// Reads the counters as they were at one moment; `None` if the writer seems to have died while writing.
pub(super) fn read<const COUNT: usize>(page: &[AtomicU64]) -> Option<[u64; COUNT]> {
    const { assert!(COUNT <= COUNTERS_MAX, "the stats page is too small for the counters") };
    read_whole(&page[0], &page[LINE..])
}

/// Writes a row; one writer only. Nothing happens where there is no such row.
pub(super) fn publish_row(rows: &[AtomicU64], index: u32, words: &TallyWords) {
    if let Some((sequence, place)) = row(rows, index) {
        write(sequence, place, words);
    }
}

/// Reads a row as it was at one moment; `None` if there is none, or if the writer seems to have died while writing.
pub(super) fn read_row(rows: &[AtomicU64], index: u32) -> Option<TallyWords> {
    let (sequence, place) = row(rows, index)?;
    read_whole(sequence, place)
}

fn row(rows: &[AtomicU64], index: u32) -> Option<(&AtomicU64, &[AtomicU64])> {
    let start = (index as usize).checked_mul(ROW_WORDS)?;
    rows.get(start..start.checked_add(ROW_WORDS)?)?.split_first()
}

fn write(sequence: &AtomicU64, words: &[AtomicU64], values: &[u64]) {
    // Odd while writing. A worker that died while writing left an odd number in memory that nobody reads again.
    let odd = sequence.load(Ordering::Relaxed) | 1;
    sequence.store(odd, Ordering::Relaxed);
    // A reader that sees any of the new values also sees the odd number.
    fence(Ordering::Release);
    for (word, &value) in words.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
    sequence.store(odd.wrapping_add(1), Ordering::Release);
}

fn read_whole<const COUNT: usize>(sequence: &AtomicU64, words: &[AtomicU64]) -> Option<[u64; COUNT]> {
    for _ in 0..TRIES_MAX {
        if let Some(values) = try_read(sequence, words) {
            return Some(values);
        }
        std::hint::spin_loop();
    }
    None
}

fn try_read<const COUNT: usize>(sequence: &AtomicU64, words: &[AtomicU64]) -> Option<[u64; COUNT]> {
    let before = sequence.load(Ordering::Acquire);
    if before % 2 == 1 {
        return None;
    }
    let mut values = [0; COUNT];
    for (value, word) in values.iter_mut().zip(words) {
        *value = word.load(Ordering::Relaxed);
    }
    // The values were read before the sequence is read again.
    fence(Ordering::Acquire);
    (sequence.load(Ordering::Relaxed) == before).then_some(values)
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
    fn rows_are_apart_and_end_where_they_end() {
        let rows: Vec<AtomicU64> = (0..rows_words(3)).map(|_| AtomicU64::new(0)).collect();
        publish_row(&rows, 1, &[7; TALLY_WORDS_MAX]);
        let all = [0, 1, 2].map(|row| read_row(&rows, row));
        assert_eq!(all, [0, 7, 0].map(|value| Some([value; TALLY_WORDS_MAX])));
        for beyond in [3, 4, u32::MAX] {
            publish_row(&rows, beyond, &[9; TALLY_WORDS_MAX]);
            assert_eq!(read_row(&rows, beyond), None);
        }
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
            if let Some([first, second]) = try_read(&page[0], &page[LINE..]) {
                assert_eq!(first, second);
            }
            writer.join().unwrap();
            assert_eq!(try_read(&page[0], &page[LINE..]), Some([2, 2]));
        });
    }
}
