//! Tables of what a worker knows, addressed by the dense index of an id and guarded by its generation.

use proto::plane::Refusal;

/// Objects by index; each knows the generation under which it was opened.
pub(crate) struct Table<T> {
    entries: Vec<Option<(u32, T)>>,
    len_max: usize,
    occupied: usize,
}

impl<T> Table<T> {
    /// An empty table that admits indices below `len_max`.
    pub(crate) fn new(len_max: usize) -> Self {
        Table { entries: Vec::new(), len_max, occupied: 0 }
    }

    /// Puts an object at its index.
    pub(crate) fn open(&mut self, index: u32, generation: u32, object: T) -> Result<(), Refusal> {
        let at = index as usize;
        if at >= self.len_max {
            return Err(Refusal::TableFull);
        }
        if at >= self.entries.len() {
            self.entries.resize_with(at + 1, || None);
        }
        if self.entries[at].is_some() {
            return Err(Refusal::Occupied);
        }
        self.entries[at] = Some((generation, object));
        self.occupied += 1;
        Ok(())
    }

    /// Takes an object out, if it is the one that is meant.
    pub(crate) fn close(&mut self, index: u32, generation: u32) -> Option<T> {
        self.find(index, generation)?;
        self.occupied -= 1;
        self.entries[index as usize].take().map(|(_, object)| object)
    }

    /// The object of an id.
    pub(crate) fn find(&self, index: u32, generation: u32) -> Option<&T> {
        match self.entries.get(index as usize) {
            Some(Some((g, object))) if *g == generation => Some(object),
            _ => None,
        }
    }

    /// The object of an id, to change.
    pub(crate) fn find_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        match self.entries.get_mut(index as usize) {
            Some(Some((g, object))) if *g == generation => Some(object),
            _ => None,
        }
    }

    /// The object at an index, whoever it is now.
    pub(crate) fn at(&self, index: u32) -> Option<&T> {
        self.entries.get(index as usize)?.as_ref().map(|(_, object)| object)
    }

    /// The object at an index, whoever it is now, to change.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.get_mut(index as usize)?.as_mut().map(|(_, object)| object)
    }

    /// How many objects there are.
    pub(crate) fn occupied(&self) -> usize {
        self.occupied
    }

    /// One past the highest index ever used.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Takes everything out.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.occupied = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_id_does_not_reach_the_next_occupant() {
        let mut table = Table::new(4);
        table.open(2, 1, "first").unwrap();
        assert_eq!(table.open(2, 2, "second"), Err(Refusal::Occupied));
        assert_eq!(table.close(2, 1), Some("first"));
        table.open(2, 2, "second").unwrap();
        assert_eq!(table.find(2, 1), None);
        assert_eq!(table.close(2, 1), None);
        assert_eq!(table.find(2, 2), Some(&"second"));
        assert_eq!(table.open(4, 1, "beyond"), Err(Refusal::TableFull));
        assert_eq!(table.occupied(), 1);
    }
}
