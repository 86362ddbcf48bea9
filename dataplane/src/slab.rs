//! CAGE: memory that packets lie in: whole pages of its own, so that a kernel can share it.

#![allow(unsafe_code)] // Mapping pages has no safe form; each use says why it is sound.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Zeroed pages, mapped until it is dropped.
pub(crate) struct Slab {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory alone, as a boxed slice does.
unsafe impl Send for Slab {}

impl Slab {
    /// Maps `len` bytes; the kernel gives memory to the pages that get used.
    pub(crate) fn new(len: usize) -> io::Result<Slab> {
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let start =
            unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) }?;
        // Fewer misses in the address cache where the kernel has large pages to give; where it has none, nothing is lost.
        // SAFETY: advice about a mapping of our own changes none of its bytes.
        let _ = unsafe { madvise(start, len, Advice::LinuxHugepage) };
        let start = NonNull::new(start.cast()).expect("the kernel maps nothing at address 0");
        Ok(Slab { start, len })
    }

    /// Its first byte, for what is written by others than the owner of a `&mut`: a kernel, or in parts.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Slab {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, zeroed or written since, and `self` is borrowed as long as the slice.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else in this process writes there. A kernel that shares the pages only reads.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and no slice of it outlives `self`.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
