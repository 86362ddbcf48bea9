//! Memory that clients can make the server hold, shared by owners: messages that are not whole yet, and signals that a client has not
//! taken yet. An owner may hold as much as is left for all others ([`crate::shares`]).

use std::sync::{Arc, Mutex, PoisonError};

use crate::limited::Owner;
use crate::shares::Pool;

/// So many bytes for all.
#[derive(Debug)]
pub(crate) struct Memory(Mutex<Pool<Owner>>);

impl Memory {
    pub(crate) fn new(bytes: usize) -> Arc<Memory> {
        Arc::new(Memory(Mutex::new(Pool::new(bytes))))
    }

    /// Nothing of it yet, for this owner.
    pub(crate) fn lease(self: &Arc<Memory>, owner: Owner) -> Lease {
        Lease { memory: self.clone(), owner, bytes: 0 }
    }
}

/// What one socket has of it, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    memory: Arc<Memory>,
    owner: Owner,
    bytes: usize,
}

impl Lease {
    /// Has so many bytes from now on, if the owner may have them.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        let mut pool = self.memory.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > self.bytes {
            if !pool.take(&self.owner, bytes - self.bytes) {
                return false;
            }
        } else {
            pool.give(&self.owner, self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back() {
        let memory = Memory::new(1000);
        let mut lease = memory.lease(Owner::Room("a".into()));
        assert!(lease.set(900) && lease.set(100));
        let mut other = memory.lease(Owner::Room("b".into()));
        assert!(other.set(800) && !other.set(901) && !lease.set(900));
        drop(other);
        assert!(lease.set(300));
    }
}
