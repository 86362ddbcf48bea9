//! Who is in a room through one other edge, as that edge has said it.
//!
//! Messages have consecutive numbers. One that is missing means that something is not known: then the whole is asked for, and until it is
//! said what was known stands. The whole may come in several messages; who was not named in any of them has left.

use std::collections::BTreeMap;

use proto::signal::LeaveReason;

use super::message::{Here, Person};
use crate::bus::Sender;
use crate::policy::PEERS_MAX_CEILING;

/// People of one edge in one room: as many as a room may admit at all.
const PEOPLE_MAX: usize = PEERS_MAX_CEILING as usize;

/// See the module.
#[derive(Debug)]
pub(crate) struct Part {
    /// In which run the edge is that said it.
    run: String,
    /// The number of its next message; `None` while the whole is to be said.
    next: Option<u64>,
    people: BTreeMap<String, Known>,
    /// How often the whole was asked for since it was last said.
    asked: u32,
}

#[derive(Debug)]
struct Known {
    person: Person,
    /// Whether it was known before the whole began to be said, and has not been named since.
    is_doubtful: bool,
}

/// What has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Somebody is there, or is otherwise than before.
    Is(Box<Person>),
    /// Somebody is not there any more.
    Left(String, LeaveReason),
}

/// Something was missed: the whole is to be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gap;

impl Part {
    /// Nothing is known.
    pub(crate) fn new(run: &str) -> Part {
        Part { run: run.to_owned(), next: None, people: BTreeMap::new(), asked: 0 }
    }

    /// In which run of its edge it was said.
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    /// Whether the whole is known.
    pub(crate) fn is_whole(&self) -> bool {
        self.next.is_some() && self.people.values().all(|known| !known.is_doubtful)
    }

    /// The ids of all who are there.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &String> {
        self.people.keys()
    }

    /// Somebody was there when this was left to a successor.
    pub(crate) fn adopt(&mut self, person: Person) {
        self.people.insert(person.id.clone(), Known { person, is_doubtful: true });
    }

    /// The whole is asked for.
    pub(crate) fn ask(&mut self) {
        self.asked = self.asked.saturating_add(1);
    }

    /// How often it was since it was last said.
    pub(crate) fn asked(&self) -> u32 {
        self.asked
    }

    /// What was said while nobody listened is lost.
    pub(crate) fn doubt(&mut self) {
        self.next = None;
    }

    /// Takes a message.
    pub(crate) fn take(&mut self, from: &Sender, here: Here) -> Result<Vec<Change>, Gap> {
        if self.run != from.run {
            // Whom the process before has left to its successor, that one says again.
            self.run.clone_from(&from.run);
            self.next = None;
        }
        if here.begins {
            self.people.values_mut().for_each(|known| known.is_doubtful = true);
        } else if self.next != Some(here.seq) {
            self.next = None;
            return Err(Gap);
        }
        self.next = here.seq.checked_add(1);
        let mut changes = Vec::new();
        for person in here.people {
            let is_known = self.people.contains_key(&person.id);
            if !is_known && self.people.len() >= PEOPLE_MAX {
                continue;
            }
            let known = Known { person: person.clone(), is_doubtful: false };
            let before = self.people.insert(person.id.clone(), known);
            if before.is_none_or(|before| before.person != person) {
                changes.push(Change::Is(person.into()));
            }
        }
        for (id, reason) in here.left {
            if self.people.remove(&id).is_some() {
                changes.push(Change::Left(id, reason));
            }
        }
        if here.ends {
            self.asked = 0;
            let gone = self.people.extract_if(.., |_, known| known.is_doubtful);
            changes.extend(gone.map(|(id, _)| Change::Left(id, LeaveReason::Left)));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::person;
    use super::*;
    use proptest::prelude::*;

    fn from(run: &str) -> Sender {
        Sender { node: "fra1".into(), run: run.into() }
    }

    fn here(seq: u64, (begins, ends): (bool, bool), ids: &[&str]) -> Here {
        Here { seq, begins, ends, people: ids.iter().map(|id| person(id)).collect(), left: Vec::new() }
    }

    fn names(changes: Result<Vec<Change>, Gap>) -> Result<Vec<String>, Gap> {
        let name = |change| match change {
            Change::Is(person) => format!("+{}", person.id),
            Change::Left(id, _) => format!("-{id}"),
        };
        changes.map(|changes| changes.into_iter().map(name).collect())
    }

    #[test]
    fn what_was_missed_is_asked_for_and_what_was_known_stands() {
        let (mut part, a) = (Part::new("1"), from("1"));
        assert_eq!(part.take(&a, here(4, (false, false), &["x"])), Err(Gap), "nothing is known yet");
        assert_eq!(names(part.take(&a, here(5, (true, true), &["x", "y"]))).unwrap(), ["+x", "+y"]);
        assert_eq!(names(part.take(&a, here(6, (false, false), &["x"]))).unwrap(), [""; 0], "it is as it was");
        assert_eq!(part.take(&a, here(8, (false, false), &["z"])), Err(Gap));
        assert_eq!(part.ids().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(part.take(&a, here(9, (false, false), &["z"])), Err(Gap), "as long as the whole is not said");
        assert_eq!(names(part.take(&a, here(10, (true, false), &["z"]))).unwrap(), ["+z"]);
        assert!(!part.is_whole());
        assert_eq!(names(part.take(&a, here(11, (false, true), &["y"]))).unwrap(), ["-x"]);
        assert!(part.is_whole());
    }

    #[test]
    fn a_successor_says_anew_whom_it_has_taken_over() {
        let mut part = Part::new("1");
        part.take(&from("1"), here(0, (true, true), &["x", "y"])).unwrap();
        assert_eq!(part.take(&from("2"), here(1, (false, false), &[])), Err(Gap), "the number is another run's");
        assert_eq!(names(part.take(&from("2"), here(0, (true, true), &["y"]))).unwrap(), ["-x"]);
        assert_eq!(part.run(), "2");
    }

    #[test]
    fn no_more_are_known_than_a_room_may_admit() {
        let mut part = Part::new("1");
        part.take(&from("1"), here(0, (true, true), &[])).unwrap();
        for n in 0..PEOPLE_MAX + 10 {
            part.take(&from("1"), here(n as u64 + 1, (false, false), &[&n.to_string()])).unwrap();
        }
        assert_eq!(part.ids().count(), PEOPLE_MAX);
    }

    proptest! {
        /// Whatever is lost, after a whole that was said without a gap exactly those are known whom it named.
        #[test]
        fn a_whole_is_the_truth(lost in prop::collection::vec(any::<bool>(), 0..40), wholes in prop::collection::vec(any::<bool>(), 40)) {
            let mut part = Part::new("1");
            let mut there: Vec<String> = Vec::new();
            for (n, is_lost) in lost.into_iter().enumerate() {
                let id = (n % 5).to_string();
                let mut message = Here { seq: n as u64, ..Here::default() };
                if let Some(at) = there.iter().position(|other| *other == id) {
                    there.remove(at);
                    message.left.push((id, LeaveReason::Left));
                } else {
                    there.push(id.clone());
                    message.people.push(person(&id));
                }
                if wholes[n] {
                    (message.begins, message.ends, message.left) = (true, true, Vec::new());
                    message.people = there.iter().map(|id| person(id)).collect();
                }
                if !is_lost && part.take(&from("1"), message).is_ok() {
                    let mut expected = there.clone();
                    expected.sort();
                    prop_assert_eq!(part.ids().cloned().collect::<Vec<_>>(), expected);
                }
            }
        }
    }
}
