//! How things are named: sockets, and the objects of workers by dense indices with generations, which are issued here.

use std::collections::BTreeSet;

use proto::id::{PeerId, RelayId, RouteId, SlotId, StreamId, TapId};

/// Names one signalling socket; the driver never uses a number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u64);

/// Bits of a generation that count. The ones above name the worker, so that an id is unique among all workers: a room
/// may have peers on several.
const COUNT_BITS: u32 = 22;
const COUNT_MASK: u32 = (1 << COUNT_BITS) - 1;

/// An id made of an index and a generation.
pub(crate) trait SlabId: Copy {
    /// From its parts.
    fn from_parts(index: u32, generation: u32) -> Self;
    /// Its parts.
    fn parts(self) -> (u32, u32);
    /// The worker to which it was issued.
    fn worker(self) -> usize {
        (self.parts().1 >> COUNT_BITS) as usize
    }
}

macro_rules! slab_ids {
    ($($t:ty),*) => {$(
        impl SlabId for $t {
            fn from_parts(index: u32, generation: u32) -> Self { Self::new(index, generation) }
            fn parts(self) -> (u32, u32) { (self.index, self.generation) }
        }
    )*};
}
slab_ids!(PeerId, StreamId, SlotId, RouteId, TapId, RelayId);

/// How the journal writes an id: `[index, generation]`.
pub(crate) mod pair {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::SlabId;

    /// Writes an id.
    pub(crate) fn serialize<I: SlabId, S: Serializer>(id: &I, serializer: S) -> Result<S::Ok, S::Error> {
        id.parts().serialize(serializer)
    }

    /// Reads an id.
    pub(crate) fn deserialize<'de, I: SlabId, D: Deserializer<'de>>(deserializer: D) -> Result<I, D::Error> {
        let (index, generation) = Deserialize::deserialize(deserializer)?;
        Ok(I::from_parts(index, generation))
    }
}

/// The ids of one table of one worker: the lowest free index first, so that the worker's table stays dense, and a
/// new generation each time.
///
/// The first generation is random: a controlplane that takes over does not know which ones its predecessor used
/// for indices that are free now, and a late datagram for one of those must not reach a newcomer.
pub(crate) struct Ids {
    /// The last generation issued of each index.
    generations: Vec<u32>,
    /// Indices below `generations.len()` that are free.
    free: BTreeSet<u32>,
    max: usize,
    worker: usize,
    generation_before: u32,
}

impl Ids {
    /// An empty table of a worker that never holds more than `max` ids.
    pub(crate) fn new(worker: usize, max: usize, first_generation: u32) -> Self {
        assert!(worker <= (u32::MAX >> COUNT_BITS) as usize, "a dataplane has at most 1024 workers");
        Self {
            generations: Vec::new(),
            free: BTreeSet::new(),
            max,
            worker,
            generation_before: first_generation.wrapping_sub(1) & COUNT_MASK,
        }
    }

    /// How many ids are out.
    pub(crate) fn taken(&self) -> usize {
        self.generations.len() - self.free.len()
    }

    /// How many there can be.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many can still be issued.
    pub(crate) fn left(&self) -> usize {
        self.max - self.taken()
    }

    /// A fresh id, or `None` at the limit.
    pub(crate) fn issue<I: SlabId>(&mut self) -> Option<I> {
        if self.free.is_empty() && self.generations.len() < self.max {
            self.grow(self.generations.len() + 1);
        }
        let index = self.free.pop_first()?;
        let generation = &mut self.generations[index as usize];
        let count = (generation.wrapping_add(1) & COUNT_MASK).max(1);
        *generation = (self.worker as u32) << COUNT_BITS | count;
        Some(I::from_parts(index, *generation))
    }

    /// Takes an id that a predecessor issued. `false` if its place is taken or beyond the limit, or another worker's.
    pub(crate) fn adopt<I: SlabId>(&mut self, id: I) -> bool {
        let (index, generation) = id.parts();
        if index as usize >= self.max || id.worker() != self.worker {
            return false;
        }
        if index as usize >= self.generations.len() {
            self.grow(index as usize + 1);
        }
        if !self.free.remove(&index) {
            return false;
        }
        self.generations[index as usize] = generation;
        true
    }

    /// Takes all of these, or none and says `false`.
    pub(crate) fn adopt_all<I: SlabId>(&mut self, ids: &[I]) -> bool {
        for (n, &id) in ids.iter().enumerate() {
            if !self.adopt(id) {
                ids[..n].iter().for_each(|&taken| self.release(taken));
                return false;
            }
        }
        true
    }

    /// Gives an id back.
    pub(crate) fn release<I: SlabId>(&mut self, id: I) {
        let (index, generation) = id.parts();
        assert_eq!(self.generations[index as usize], generation, "an id is released by who was issued it");
        assert!(self.free.insert(index), "an id is released once");
    }

    fn grow(&mut self, len: usize) {
        self.free.extend(self.generations.len() as u32..len as u32);
        self.generations.resize(len, self.generation_before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_under_another_generation() {
        let mut ids = Ids::new(0, 2, 7);
        let a: PeerId = ids.issue().unwrap();
        let b: PeerId = ids.issue().unwrap();
        assert_eq!((a, b), (PeerId::new(0, 7), PeerId::new(1, 7)));
        assert_eq!(ids.issue::<PeerId>(), None);
        ids.release(a);
        assert_eq!((ids.taken(), ids.left()), (1, 1));
        assert_eq!(ids.issue(), Some(PeerId::new(0, 8)));
    }

    #[test]
    fn generation_zero_is_never_issued() {
        let mut ids = Ids::new(0, 1, u32::MAX);
        let a: StreamId = ids.issue().unwrap();
        assert_eq!(a.generation, COUNT_MASK);
        ids.release(a);
        assert_eq!(ids.issue::<StreamId>().unwrap().generation, 1);
        assert_eq!(Ids::new(0, 1, 0).issue::<StreamId>().unwrap().generation, 1);
    }

    #[test]
    fn an_id_names_its_worker() {
        let mut tables = [0, 1, 1023].map(|worker| Ids::new(worker, 2, u32::MAX));
        let ids: Vec<PeerId> = tables.iter_mut().map(|ids| ids.issue().unwrap()).collect();
        assert_eq!(ids.iter().map(|id| (id.index, id.worker())).collect::<Vec<_>>(), [(0, 0), (0, 1), (0, 1023)]);
        tables[1].release(ids[1]);
        assert_eq!(tables[1].issue::<PeerId>().unwrap().worker(), 1, "also after the count has begun again");
        assert!(!tables[0].adopt(PeerId::new(1, ids[1].generation)), "of another worker");
        assert!(tables[1].adopt(PeerId::new(1, ids[1].generation)));
    }

    #[test]
    fn an_adopted_id_holds_its_place() {
        let mut ids = Ids::new(0, 4, 50);
        assert!(!ids.adopt_all(&[PeerId::new(2, 8), PeerId::new(2, 8)]));
        assert_eq!(ids.taken(), 0);
        assert!(ids.adopt(PeerId::new(2, 9)));
        assert!(!ids.adopt(PeerId::new(2, 10)));
        assert!(!ids.adopt(PeerId::new(4, 1)));
        assert_eq!(ids.issue(), Some(PeerId::new(0, 50)));
        assert_eq!(ids.issue(), Some(PeerId::new(1, 50)));
        assert_eq!(ids.issue(), Some(PeerId::new(3, 50)));
        ids.release(PeerId::new(2, 9));
        assert_eq!(ids.issue(), Some(PeerId::new(2, 10)));
    }
}
