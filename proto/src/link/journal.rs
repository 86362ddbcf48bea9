//! The journal: what the controlplane writes down so that its successor can adopt the rooms of this worker.
//!
//! It lives in the link's memory and dies with the dataplane, never on disk. Each slot has two copies. A write goes
//! into the copy that is not current, sequence number and checksum last, so a controlplane that is killed in the
//! middle leaves the previous value standing. A bitmap says which slots may hold something; reading the others would
//! make the kernel give memory to them.

use super::atomic::{AtomicU64, Ordering};
use super::ring::{copy_in, copy_out};
use crate::plane::PEERS_MAX;

/// Entries of a worker's journal: one per peer that a worker can carry.
pub const JOURNAL_SLOTS: u32 = PEERS_MAX as u32;

/// Longest entry, bytes.
pub const JOURNAL_ENTRY_LEN_MAX: usize = (COPY_WORDS - ENTRY_HEADER_WORDS) * 8;

/// Two pages for each copy: a peer's negotiated sections are 2 to 6 KiB of JSON.
const COPY_WORDS: usize = 1024;
const ENTRY_HEADER_WORDS: usize = 2;
const SLOT_WORDS: usize = 2 * COPY_WORDS;
const BITMAP_WORDS: usize = JOURNAL_SLOTS as usize / 64;
/// The slots begin on a page, so that no copy touches a page of its neighbour.
const SLOTS_AT: usize = 512;
const _: () = assert!(BITMAP_WORDS <= SLOTS_AT);

/// Words of the journal. It must begin on a page.
pub(super) const JOURNAL_WORDS: usize = SLOTS_AT + JOURNAL_SLOTS as usize * SLOT_WORDS;

/// Why an entry was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JournalError {
    /// The entry is longer than [`JOURNAL_ENTRY_LEN_MAX`].
    #[error("a journal entry of {len} bytes is longer than {JOURNAL_ENTRY_LEN_MAX}")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// There is no such slot.
    #[error("journal slot {slot} is not below {JOURNAL_SLOTS}")]
    NoSuchSlot {
        /// The slot asked for.
        slot: u32,
    },
}

/// The newest valid copy in a slot.
struct Current {
    copy: usize,
    sequence: u64,
    bytes: Vec<u8>,
}

/// Writes an entry; the previous one stands until the new one is whole.
pub(super) fn write(journal: &[AtomicU64], slot: u32, bytes: &[u8]) -> Result<(), JournalError> {
    if bytes.len() > JOURNAL_ENTRY_LEN_MAX {
        return Err(JournalError::TooLong { len: bytes.len() });
    }
    let words = slot_words(journal, slot)?;
    let (copy, sequence) = match is_used(journal, slot).then(|| current(words, slot)).flatten() {
        Some(current) => (1 - current.copy, current.sequence.wrapping_add(1).max(1)),
        None => (0, 1),
    };
    let bit = &journal[slot as usize / 64];
    bit.store(bit.load(Ordering::Relaxed) | 1 << (slot % 64), Ordering::Relaxed);
    write_copy(copy_of(words, copy), slot, sequence, bytes);
    Ok(())
}

/// Removes an entry and wipes its bytes.
pub(super) fn clear(journal: &[AtomicU64], slot: u32) -> Result<(), JournalError> {
    let words = slot_words(journal, slot)?;
    if !is_used(journal, slot) {
        return Ok(());
    }
    // The older copy first: a kill between the two must not bring an older value back.
    let newest = current(words, slot).map_or(0, |current| current.copy);
    for copy in [1 - newest, newest] {
        let copy = copy_of(words, copy);
        let len = (copy[1].load(Ordering::Relaxed) as u32 as usize).min(JOURNAL_ENTRY_LEN_MAX);
        copy[0].store(0, Ordering::Release);
        for word in &copy[1..ENTRY_HEADER_WORDS + len.div_ceil(8)] {
            word.store(0, Ordering::Relaxed);
        }
    }
    let bit = &journal[slot as usize / 64];
    bit.store(bit.load(Ordering::Relaxed) & !(1 << (slot % 64)), Ordering::Release);
    Ok(())
}

/// The valid entries in slot order, each copied out before it is checked.
pub(super) fn entries(journal: &[AtomicU64]) -> impl Iterator<Item = (u32, Vec<u8>)> {
    (0..JOURNAL_SLOTS).filter(|&slot| is_used(journal, slot)).filter_map(|slot| {
        let words = slot_words(journal, slot).ok()?;
        Some((slot, current(words, slot)?.bytes))
    })
}

fn is_used(journal: &[AtomicU64], slot: u32) -> bool {
    journal[slot as usize / 64].load(Ordering::Acquire) >> (slot % 64) & 1 == 1
}

fn slot_words(journal: &[AtomicU64], slot: u32) -> Result<&[AtomicU64], JournalError> {
    if slot >= JOURNAL_SLOTS {
        return Err(JournalError::NoSuchSlot { slot });
    }
    Ok(&journal[SLOTS_AT + slot as usize * SLOT_WORDS..][..SLOT_WORDS])
}

fn copy_of(slot: &[AtomicU64], copy: usize) -> &[AtomicU64] {
    &slot[copy * COPY_WORDS..][..COPY_WORDS]
}

fn current(words: &[AtomicU64], slot: u32) -> Option<Current> {
    (0..2)
        .filter_map(|copy| {
            let (sequence, bytes) = read_copy(copy_of(words, copy), slot)?;
            Some(Current { copy, sequence, bytes })
        })
        .max_by_key(|current| current.sequence)
}

/// A copy: sequence (0: none), checksum and length, bytes.
fn write_copy(copy: &[AtomicU64], slot: u32, sequence: u64, bytes: &[u8]) {
    copy[0].store(0, Ordering::Relaxed);
    copy_in(&copy[ENTRY_HEADER_WORDS..], bytes);
    let checksum = u64::from(checksum(slot, sequence, bytes));
    copy[1].store(checksum << 32 | bytes.len() as u64, Ordering::Relaxed);
    copy[0].store(sequence, Ordering::Release);
}

fn read_copy(copy: &[AtomicU64], slot: u32) -> Option<(u64, Vec<u8>)> {
    let sequence = copy[0].load(Ordering::Acquire);
    let header = copy[1].load(Ordering::Relaxed);
    let len = header as u32 as usize;
    if sequence == 0 || len > JOURNAL_ENTRY_LEN_MAX {
        return None;
    }
    let mut bytes = vec![0; len];
    copy_out(&copy[ENTRY_HEADER_WORDS..], &mut bytes);
    (checksum(slot, sequence, &bytes) == (header >> 32) as u32).then_some((sequence, bytes))
}

fn checksum(slot: u32, sequence: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&slot.to_ne_bytes());
    hasher.update(&sequence.to_ne_bytes());
    hasher.update(&(bytes.len() as u32).to_ne_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOTS: usize = 3;

    /// Memory of the first slots only; the tests stay below.
    fn journal() -> Vec<AtomicU64> {
        (0..SLOTS_AT + SLOTS * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn all(journal: &[AtomicU64]) -> Vec<(u32, Vec<u8>)> {
        entries(journal).collect()
    }

    fn snapshot(journal: &[AtomicU64]) -> Vec<u64> {
        journal.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn entries_are_written_replaced_and_cleared() {
        let journal = journal();
        assert_eq!(all(&journal), []);
        write(&journal, 2, b"two").unwrap();
        write(&journal, 0, b"zero").unwrap();
        assert_eq!(all(&journal), [(0, b"zero".to_vec()), (2, b"two".to_vec())]);
        for text in [&b"a"[..], b"bb", b"", b"dddd"] {
            write(&journal, 2, text).unwrap();
            assert_eq!(all(&journal)[1], (2, text.to_vec()));
        }
        clear(&journal, 2).unwrap();
        assert_eq!(all(&journal), [(0, b"zero".to_vec())]);
        clear(&journal, 2).unwrap();
        write(&journal, 2, b"again").unwrap();
        assert_eq!(all(&journal)[1], (2, b"again".to_vec()));
    }

    #[test]
    fn clearing_wipes_the_bytes() {
        let journal = journal();
        write(&journal, 1, b"a secret that is long enough").unwrap();
        write(&journal, 1, b"its successor, a little longer yet").unwrap();
        clear(&journal, 1).unwrap();
        assert!(snapshot(&journal).iter().all(|&word| word == 0));
    }

    #[test]
    fn limits_are_named() {
        let journal = journal();
        assert_eq!(JOURNAL_ENTRY_LEN_MAX, 8176);
        write(&journal, 0, &[7; JOURNAL_ENTRY_LEN_MAX]).unwrap();
        assert_eq!(all(&journal), [(0, vec![7; JOURNAL_ENTRY_LEN_MAX])]);
        let len = JOURNAL_ENTRY_LEN_MAX + 1;
        assert_eq!(write(&journal, 0, &vec![8; len]), Err(JournalError::TooLong { len }));
        let slot = JOURNAL_SLOTS;
        assert_eq!(write(&journal, slot, b""), Err(JournalError::NoSuchSlot { slot }));
        assert_eq!(clear(&journal, u32::MAX), Err(JournalError::NoSuchSlot { slot: u32::MAX }));
        assert_eq!(all(&journal), [(0, vec![7; JOURNAL_ENTRY_LEN_MAX])], "refusals change nothing");
    }

    fn entry() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        /// A write of which any subset of the words reached memory leaves the old entry or the new one.
        #[test]
        #[cfg_attr(miri, ignore = "too much memory to interpret")]
        fn a_torn_write_leaves_old_or_new(history in prop::collection::vec(entry(), 1..4), new in entry(), keep in any::<u64>()) {
            let journal = journal();
            for old in &history {
                write(&journal, 1, old).unwrap();
            }
            let before = snapshot(&journal);
            write(&journal, 1, &new).unwrap();
            let after = snapshot(&journal);
            let changed: Vec<_> = (0..before.len()).filter(|&i| after[i] != before[i]).collect();
            for (nth, &at) in changed.iter().enumerate() {
                if keep >> (nth % 64) & 1 == 0 {
                    journal[at].store(before[at], Ordering::Relaxed);
                }
            }
            let left = all(&journal);
            let old = (1, history.last().unwrap().clone());
            prop_assert!(left == [old] || left == [(1, new)], "{:?}", left);
        }

        /// A clear that was cut short leaves the newest entry or none, never an older one.
        #[test]
        #[cfg_attr(miri, ignore = "too much memory to interpret")]
        fn a_torn_clear_brings_nothing_back(stop in 0usize..4) {
            let journal = journal();
            write(&journal, 0, b"old").unwrap();
            write(&journal, 0, b"new").unwrap();
            let before = snapshot(&journal);
            // The order of `clear`: the older copy's sequence, the newer copy's sequence, the bit.
            let words = slot_words(&journal, 0).unwrap();
            let newest = current(words, 0).unwrap().copy;
            let order = [1 - newest, newest].map(|copy| SLOTS_AT + copy * COPY_WORDS);
            clear(&journal, 0).unwrap();
            for (nth, at) in order.into_iter().chain([0]).enumerate() {
                if nth >= stop {
                    for i in if at == 0 { at..1 } else { at..at + COPY_WORDS } {
                        journal[i].store(before[i], Ordering::Relaxed);
                    }
                }
            }
            prop_assert!(all(&journal).iter().all(|(_, bytes)| bytes == b"new"));
        }

        /// Random words anywhere: no panic, and nothing longer than an entry comes out.
        #[test]
        #[cfg_attr(miri, ignore = "too much memory to interpret")]
        fn scribbles_do_no_harm(scribbles in prop::collection::vec((0..SLOTS_AT / 8 + 4 * ENTRY_HEADER_WORDS, any::<u64>()), 0..40)) {
            let journal = journal();
            write(&journal, 1, b"entry").unwrap();
            for (which, word) in scribbles {
                let at = match which {
                    // Only slots that this test has memory for may be marked as used.
                    0 => { journal[0].store(word & 7, Ordering::Relaxed); continue }
                    n => SLOTS_AT + (n * 509) % (SLOTS * SLOT_WORDS),
                };
                journal[at].store(word, Ordering::Relaxed);
            }
            for (_, bytes) in entries(&journal) {
                prop_assert!(bytes.len() <= JOURNAL_ENTRY_LEN_MAX);
            }
            write(&journal, 1, b"after").unwrap();
            clear(&journal, 0).unwrap();
        }
    }
}
