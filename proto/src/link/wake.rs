//! The sleep flag: a side is notified only if it has said that it sleeps.
//!
//! A wake through the kernel costs tens of microseconds, a look at shared memory a hundred nanoseconds. So the
//! sleeper raises its flag and looks once more before it parks; the other side pushes, then looks at the flag. With
//! a full fence between the two steps on both sides, one of them must see the other's: no wake is lost.

use super::atomic::{AtomicU64, Ordering, fence};

/// Raises the flag of a side that is about to sleep. It must look for work once more after this.
pub(super) fn fall_asleep(flag: &AtomicU64) {
    flag.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Lowers the flag of a side that is awake.
pub(super) fn wake_up(flag: &AtomicU64) {
    flag.store(0, Ordering::Relaxed);
}

/// Whether the other side sleeps and must be woken; called after pushing. Lowers the flag, so that a sleeper is
/// woken once.
pub(super) fn must_wake(flag: &AtomicU64) -> bool {
    fence(Ordering::SeqCst);
    flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::Relaxed) != 0
}
