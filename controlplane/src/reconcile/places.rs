//! Commands by the place that each fills: a map of rows of them.
//!
//! Ids are dense, the lowest free one first, so rows are full. A map of single commands would be half empty: its nodes
//! split in the middle, and nothing is filled in later behind ids that only grow. Commands are kept as the records that they are on
//! their way to the worker: whatever a command holds, it takes 64 bytes.

use std::collections::BTreeMap;

use proto::plane::{Command, RECORD_LEN, Record};

use super::place::Place;

/// Places of one class that lie together.
const ROW_LEN: u32 = 16;

/// One record for each place. No command has the tag 0, so zeros are none.
type Row = Box<[Record; ROW_LEN as usize]>;
const NONE: Record = [0; RECORD_LEN];

/// What fills places, at most one command each; in their order.
#[derive(Default, Debug)]
pub(super) struct Places {
    /// By the first place of each. None is empty.
    rows: BTreeMap<Place, Row>,
}

/// The first place of the row that a place is in, and which of it it is.
fn row_of(place: Place) -> (Place, usize) {
    let within = place.index % ROW_LEN;
    (Place::new(place.class, place.index - within), within as usize)
}

/// The command of a record that was written here.
fn read(record: &Record) -> Option<Command> {
    (*record != NONE).then(|| Command::read(record).expect("what was written here is a command"))
}

impl Places {
    pub(super) fn get(&self, place: &Place) -> Option<Command> {
        let (first, at) = row_of(*place);
        read(&self.rows.get(&first)?[at])
    }

    /// Makes a place hold this, or nothing.
    pub(super) fn put(&mut self, place: Place, command: Option<Command>) {
        let (first, at) = row_of(place);
        if let Some(command) = command {
            let row = self.rows.entry(first).or_insert_with(|| Box::new([NONE; ROW_LEN as usize]));
            row[at] = command.write();
        } else if let Some(row) = self.rows.get_mut(&first) {
            row[at] = NONE;
            if row.iter().all(|record| *record == NONE) {
                self.rows.remove(&first);
            }
        }
    }

    fn records(&self) -> impl Iterator<Item = (Place, &Record)> {
        self.rows.iter().flat_map(|(first, row)| {
            let places = (first.index..).map(|index| Place::new(first.class, index));
            places.zip(row.iter()).filter(|(_, record)| **record != NONE)
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, Command)> {
        self.records().filter_map(|(place, record)| Some((place, read(record)?)))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Place> {
        self.records().map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::id::PeerId;
    use proto::plane::PeerClose;

    use super::super::place::Class;
    use super::*;

    proptest! {
        #[test]
        fn they_are_as_a_map_has_them(puts in prop::collection::vec((0..3usize, 0..70u32, any::<bool>()), 0..200)) {
            let (mut places, mut map) = (Places::default(), BTreeMap::new());
            for (n, (class, index, is_there)) in puts.into_iter().enumerate() {
                let place = Place::new(Class::ALL[class], index);
                let command = Command::from(PeerClose { peer: PeerId::new(index, n as u32 + 1) });
                places.put(place, is_there.then_some(command));
                if is_there { map.insert(place, command) } else { map.remove(&place) };
                prop_assert_eq!(places.get(&place), map.get(&place).copied());
            }
            prop_assert!(places.iter().eq(map.iter().map(|(&place, &command)| (place, command))));
            prop_assert!(places.keys().eq(map.keys().copied()));
            map.keys().for_each(|&place| places.put(place, None));
            prop_assert!(places.rows.is_empty());
        }
    }
}
