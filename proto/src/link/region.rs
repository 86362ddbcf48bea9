//! The memory of one worker's link: a sealed memfd, and where everything lies in it.
//!
//! The dataplane makes it at its full size and seals the size, so neither side can ever be killed by SIGBUS through
//! the other's truncation. Both sides see it as a slice of atomic words and never as anything else: whatever the
//! other process writes there, reading it is a plain load of some number.

#![allow(unsafe_code)] // The cage: mapping memory that another process writes has no safe form.

use std::ops::{Deref, Range};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::atomic::{AtomicU64, Ordering};
use super::journal::JOURNAL_WORDS;
use super::page::{LATENCY_WORDS, PAGE_WORDS, rows_words};
use super::ring::{LINE, ring_words};
use super::{
    COMMANDS_MAX, CONTRACT, EVENTS_MAX, INJECTS_MAX, LinkError, PEER_TALLIES_MAX, PUNTS_MAX, SLOT_TALLIES_MAX,
    STREAM_TALLIES_MAX,
};
use crate::plane::{DATAGRAM_RECORD_LEN, RECORD_LEN};

const MAGIC: u64 = u64::from_le_bytes(*b"uprtc\0ln");

const HEADER_MAGIC: usize = 0;
const HEADER_VERSION: usize = 1;
const HEADER_LAYOUT: usize = 2;
const HEADER_SIZE: usize = 3;
const HEADER_EPOCH: usize = 4;

/// Raised by the worker before it parks.
pub(super) const WORKER_ASLEEP: usize = LINE;
/// Raised by the controlplane before it parks.
pub(super) const CONTROL_ASLEEP: usize = 2 * LINE;
/// Raised by the worker when it had to drop an event.
pub(super) const RESYNC: usize = 3 * LINE;

pub(super) const COMMANDS: Range<usize> = after(4 * LINE, ring_words(COMMANDS_MAX, RECORD_LEN));
pub(super) const EVENTS: Range<usize> = after(COMMANDS.end, ring_words(EVENTS_MAX, RECORD_LEN));
pub(super) const INJECTS: Range<usize> = after(EVENTS.end, ring_words(INJECTS_MAX, DATAGRAM_RECORD_LEN));
pub(super) const PUNTS: Range<usize> = after(INJECTS.end, ring_words(PUNTS_MAX, DATAGRAM_RECORD_LEN));
pub(super) const PAGE: Range<usize> = after(PUNTS.end, PAGE_WORDS);
pub(super) const JOURNAL: Range<usize> = after(PAGE.end.next_multiple_of(PAGE_SIZE_WORDS), JOURNAL_WORDS);
pub(super) const STREAM_TALLIES: Range<usize> = after(JOURNAL.end, rows_words(STREAM_TALLIES_MAX));
pub(super) const SLOT_TALLIES: Range<usize> = after(STREAM_TALLIES.end, rows_words(SLOT_TALLIES_MAX));
pub(super) const PEER_TALLIES: Range<usize> = after(SLOT_TALLIES.end, rows_words(PEER_TALLIES_MAX));
pub(super) const LATENCY: Range<usize> = after(PEER_TALLIES.end, LATENCY_WORDS);

const PAGE_SIZE_WORDS: usize = 4096 / 8;

/// Words of a region. Nearly all of it is journal and tallies, and the kernel gives memory only to what is touched.
pub(super) const WORDS: usize = LATENCY.end;
const LEN: usize = WORDS * 8;

/// The size cannot change, and nobody can undo that.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

const fn after(start: usize, len: usize) -> Range<usize> {
    assert!(start.is_multiple_of(LINE), "each part begins on its own line");
    start..start + len.next_multiple_of(LINE)
}

/// A mapped region: a slice of [`WORDS`] atomic words.
#[derive(Debug)]
pub(super) struct Region {
    words: NonNull<AtomicU64>,
}

// SAFETY: the mapping belongs to no thread, and it is reached only as `&[AtomicU64]`, which is Send and Sync.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// A fresh region, all zeros but for its header, and the memfd to hand to the controlplane.
    pub(super) fn create(epoch: u64) -> Result<(Region, OwnedFd), LinkError> {
        let os = LinkError::os("make the shared memory of a worker");
        let fd = rustix::fs::memfd_create("uprtc-link", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(os)?;
        rustix::fs::ftruncate(&fd, LEN as u64).map_err(os)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS).map_err(os)?;
        let region = Region::map(rustix::fd::AsFd::as_fd(&fd)).map_err(os)?;
        region[HEADER_MAGIC].store(MAGIC, Ordering::Relaxed);
        region[HEADER_VERSION].store(u64::from(CONTRACT.version), Ordering::Relaxed);
        region[HEADER_LAYOUT].store(CONTRACT.layout, Ordering::Relaxed);
        region[HEADER_SIZE].store(WORDS as u64, Ordering::Relaxed);
        region[HEADER_EPOCH].store(epoch, Ordering::Release);
        Ok((region, fd))
    }

    /// Maps a region that the dataplane sent, after checking that it is what it should be.
    pub(super) fn open(fd: BorrowedFd<'_>) -> Result<Region, LinkError> {
        let os = LinkError::os("open the shared memory of a worker");
        let len = rustix::fs::fstat(fd).map_err(os)?.st_size;
        if u64::try_from(len) != Ok(LEN as u64) {
            return Err(LinkError::Protocol("the shared memory has another size"));
        }
        if !rustix::fs::fcntl_get_seals(fd).map_err(os)?.contains(SEALS) {
            return Err(LinkError::Protocol("the shared memory is not sealed against resizing"));
        }
        let region = Region::map(fd).map_err(os)?;
        let header = [HEADER_MAGIC, HEADER_VERSION, HEADER_LAYOUT, HEADER_SIZE].map(|at| region.load(at));
        if header != [MAGIC, u64::from(CONTRACT.version), CONTRACT.layout, WORDS as u64] {
            return Err(LinkError::Protocol("the shared memory has another header"));
        }
        Ok(region)
    }

    /// Which attachment this memory belongs to; each later one has a higher number.
    pub(super) fn epoch(&self) -> u64 {
        self.load(HEADER_EPOCH)
    }

    fn load(&self, at: usize) -> u64 {
        self[at].load(Ordering::Acquire)
    }

    fn map(fd: BorrowedFd<'_>) -> rustix::io::Result<Region> {
        // SAFETY: a new mapping at an address of the kernel's choice aliases no Rust object. The file is at least
        // LEN long and sealed against shrinking (`create` and `open` see to both), so no access can fault.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), LEN, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }?;
        let words = NonNull::new(start.cast()).expect("the kernel does not map page 0 unasked");
        Ok(Region { words })
    }
}

impl Deref for Region {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is WORDS words long, page-aligned and lives as long as `self`. Every bit
        // pattern is a valid AtomicU64, which may be written through shared references, also by another process.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), WORDS) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `map` made exactly this mapping, and no reference into it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.words.as_ptr().cast(), LEN) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::link::journal;

    fn touched(fd: &OwnedFd) -> i64 {
        rustix::fs::fstat(fd).unwrap().st_blocks * 512
    }

    #[test]
    fn only_what_is_touched_takes_memory() {
        let (region, fd) = Region::create(1).unwrap();
        journal::write(&region[JOURNAL], 0, &[1; 3000]).unwrap();
        journal::write(&region[JOURNAL], 4095, &[1; 3000]).unwrap();
        let before = touched(&fd);
        assert!(before <= 8 * 4096, "{before} bytes for a header and two entries");
        assert_eq!(journal::entries(&region[JOURNAL]).count(), 2);
        assert!(touched(&fd) <= before + 2 * 4096, "reading looks at the two copies of a used slot and no further");
    }

    #[test]
    fn what_is_opened_is_what_was_made() {
        let (region, fd) = Region::create(9).unwrap();
        let theirs = Region::open(fd.as_fd()).unwrap();
        assert_eq!(theirs.epoch(), 9);
        region[RESYNC].store(5, Ordering::Relaxed);
        assert_eq!(theirs[RESYNC].load(Ordering::Relaxed), 5);
        assert!(rustix::fs::ftruncate(&fd, 4096).is_err(), "sealed against shrinking");
        assert!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE).is_err(), "sealed against more seals");
    }

    #[test]
    fn what_is_no_region_is_refused() {
        let memfd = |len: usize, seals| {
            let fd = rustix::fs::memfd_create("not-a-link", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::fs::ftruncate(&fd, len as u64).unwrap();
            rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
            Region::open(fd.as_fd()).unwrap_err().to_string()
        };
        assert!(memfd(4096, SEALS).contains("size"));
        assert!(memfd(LEN, SealFlags::SHRINK).contains("sealed"));
        assert!(memfd(LEN, SEALS).contains("header"));
        let (read_end, _) = std::io::pipe().unwrap();
        assert!(Region::open(read_end.as_fd()).is_err());
    }
}
