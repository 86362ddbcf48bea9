//! Who may still be admitted to a room that is on several edges. One edge owns that: it knows how many members each of them has, and gives
//! the others as many seats as fit. The claim stands in the cluster, and its revision, which only rises, is its epoch.
//!
//! - The edge to which somebody comes first claims the room.
//! - Another one asks the owner for a seat more when it needs one, and tells when it needs fewer.
//! - When the owner is gone, or another process than before, an edge with members claims the room in its place. It takes for given what
//!   each edge has said that it has.
//! - While the cluster is away, or nobody answers, an edge admits by what it knows of the room: a call must not wait for the cluster.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bus::{Claim, Sender};
use crate::sdp::OpusParams;

/// How long an answer is waited for before an edge decides by itself: two round trips around the world, and less than a person notices.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// How long an answer that did not come is not waited for again.
const UNANSWERED: Duration = Duration::from_secs(5);

/// Who owns the admission to a room.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Owner {
    /// Nobody knows yet.
    Unknown,
    /// This edge.
    Ours { revision: u64 },
    /// Another one.
    Theirs { owner: Sender, revision: u64 },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Seats {
    owner: Owner,
    /// Seats that the owner gave this edge.
    granted: usize,
    /// Seats that this edge has asked for.
    asked: usize,
    /// Seats that were given to other edges, by this one as the owner.
    given: BTreeMap<String, usize>,
    /// Since when an answer is waited for.
    waits_since: Option<Instant>,
    /// Until when it is not waited for, because it did not come.
    alone_until: Option<Instant>,
    /// What those who receive in the room declare of Opus together, as the owner has last said it.
    hears: Option<OpusParams>,
}

/// Whether there is a seat for one more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seat {
    /// There is.
    Free,
    /// There is not.
    Full,
    /// It is not known yet: somebody was asked, or is to be.
    Wait,
}

/// What is to be said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Claim the room, in the place of this revision.
    Claim(u64),
    /// Ask its owner for so many seats.
    Ask(Sender, usize),
}

impl Default for Seats {
    fn default() -> Self {
        Seats {
            owner: Owner::Unknown,
            granted: 0,
            asked: 0,
            given: BTreeMap::new(),
            waits_since: None,
            alone_until: None,
            hears: None,
        }
    }
}

impl Seats {
    /// Whether there is a seat for one more than the `own` members of this edge. `others`: members that the other edges have said they have;
    /// `max`: as many as the room admits.
    pub(crate) fn seat(&mut self, now: Instant, own: usize, others: usize, max: usize) -> (Seat, Option<Step>) {
        let by_view = if own + others < max { Seat::Free } else { Seat::Full };
        if self.alone_until.is_some_and(|until| now < until) {
            return (by_view, None);
        }
        if let Some(since) = self.waits_since {
            if now.saturating_duration_since(since) < ANSWER_TIMEOUT {
                return (Seat::Wait, None);
            }
            (self.waits_since, self.alone_until) = (None, Some(now + UNANSWERED));
            return (by_view, None);
        }
        match &self.owner {
            Owner::Ours { .. } => {
                let given: usize = self.given.values().sum();
                (if own + given < max { Seat::Free } else { Seat::Full }, None)
            }
            Owner::Theirs { .. } if own < self.granted => (Seat::Free, None),
            Owner::Theirs { .. } if self.asked > own => {
                self.asked = self.granted; // It has said that there is none. It is asked anew for the next one.
                (Seat::Full, None)
            }
            Owner::Theirs { owner, .. } => {
                let (owner, count) = (owner.clone(), own + 1);
                (self.waits_since, self.asked) = (Some(now), count);
                (Seat::Wait, Some(Step::Ask(owner, count)))
            }
            Owner::Unknown => {
                self.waits_since = Some(now);
                (Seat::Wait, Some(Step::Claim(0)))
            }
        }
    }

    /// The answer to a claim. `parts`: how many members each other edge has said that it has.
    pub(crate) fn claimed(
        &mut self,
        now: Instant,
        claim: Claim,
        ours: &str,
        parts: BTreeMap<String, usize>,
        own: usize,
    ) -> Option<Step> {
        let has_waited = self.waits_since.take().is_some();
        match claim {
            Claim::Ours { revision } => {
                if !matches!(self.owner, Owner::Ours { .. }) {
                    self.given = parts;
                }
                self.owner = Owner::Ours { revision };
                None
            }
            // An earlier process of this edge.
            Claim::Theirs { owner, revision } if owner.node == ours => Some(Step::Claim(revision)),
            Claim::Theirs { owner, revision } => {
                self.given.clear();
                self.owner = Owner::Theirs { owner: owner.clone(), revision };
                (self.granted, self.asked) = (0, own);
                (own > 0).then_some(Step::Ask(owner, own))
            }
            // The cluster does not say, and would not if it were asked again at once.
            Claim::Unknown => {
                if has_waited {
                    self.alone_until = Some(now + UNANSWERED);
                }
                None
            }
        }
    }

    /// Another edge asks for so many seats; how many it has now. `None`: this edge does not own the room.
    pub(crate) fn asked(&mut self, node: &str, count: usize, own: usize, max: usize) -> Option<usize> {
        if !matches!(self.owner, Owner::Ours { .. }) {
            return None;
        }
        let others: usize = self.given.iter().filter(|(other, _)| *other != node).map(|(_, given)| given).sum();
        let before = self.given.get(node).copied().unwrap_or(0);
        // Who is in stays, whatever the room admits now.
        let given = count.min(max.saturating_sub(own + others).max(before));
        match given {
            0 => drop(self.given.remove(node)),
            given => drop(self.given.insert(node.to_owned(), given)),
        }
        Some(given)
    }

    /// The owner has given so many seats.
    pub(crate) fn granted(&mut self, from: &Sender, count: usize, hears: Option<OpusParams>) {
        if matches!(&self.owner, Owner::Theirs { owner, .. } if owner == from) {
            (self.granted, self.hears) = (count, hears);
            self.waits_since = None;
        }
    }

    /// What those who receive in the room declare of Opus, if the owner has said it.
    pub(crate) fn hears(&self) -> Option<OpusParams> {
        self.hears
    }

    /// This edge has fewer members than it has seats.
    pub(crate) fn returned(&mut self, own: usize) -> Option<Step> {
        match &self.owner {
            Owner::Theirs { owner, .. } if own < self.granted && self.waits_since.is_none() => {
                let owner = owner.clone();
                (self.granted, self.asked) = (own, own);
                Some(Step::Ask(owner, own))
            }
            _ => None,
        }
    }

    /// The edge that was asked does not own the room, or is gone: who does is asked anew.
    pub(crate) fn disowned(&mut self, node: &str) -> Option<Step> {
        let Owner::Theirs { owner, revision } = &self.owner else { return None };
        if owner.node != node {
            return None;
        }
        let revision = *revision;
        self.owner = Owner::Unknown;
        self.waits_since = None;
        Some(Step::Claim(revision))
    }

    /// Another edge is gone, with its members.
    pub(crate) fn lost(&mut self, node: &str) {
        self.given.remove(node);
    }

    /// The cluster is there again: whether the claim still stands is asked.
    pub(crate) fn reconnected(&mut self) -> Option<Step> {
        (self.waits_since, self.alone_until) = (None, None);
        match &self.owner {
            Owner::Ours { revision } => Some(Step::Claim(*revision)),
            Owner::Theirs { .. } | Owner::Unknown => {
                self.owner = Owner::Unknown;
                Some(Step::Claim(0))
            }
        }
    }

    /// The claim that is to be released: no edge has members any more. `None`: it is not ours, or some have.
    pub(crate) fn over(&self, own: usize) -> Option<u64> {
        match self.owner {
            Owner::Ours { revision } if own == 0 && self.given.is_empty() => Some(revision),
            _ => None,
        }
    }

    /// Whether nothing of it is worth remembering.
    pub(crate) fn is_idle(&self, own: usize) -> bool {
        own == 0 && !matches!(self.owner, Owner::Ours { .. }) && self.waits_since.is_none()
    }

    /// When an answer is overdue.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waits_since.map(|since| since + ANSWER_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sender(node: &str) -> Sender {
        Sender { node: node.into(), run: "1".into() }
    }

    fn theirs(node: &str, revision: u64) -> Claim {
        Claim::Theirs { owner: sender(node), revision }
    }

    #[test]
    fn the_owner_gives_as_many_seats_as_fit() {
        let now = Instant::now();
        let mut seats = Seats::default();
        assert_eq!(seats.seat(now, 0, 0, 3), (Seat::Wait, Some(Step::Claim(0))));
        assert_eq!(seats.claimed(now, Claim::Ours { revision: 4 }, "a", BTreeMap::new(), 0), None);
        assert_eq!(seats.seat(now, 0, 0, 3), (Seat::Free, None));
        assert_eq!(seats.asked("b", 1, 1, 3), Some(1));
        assert_eq!(seats.asked("c", 5, 1, 3), Some(1), "one is left");
        assert_eq!(seats.seat(now, 1, 0, 3).0, Seat::Full);
        assert_eq!(seats.asked("c", 1, 2, 2), Some(1), "who is in stays, although the room admits fewer now");
        assert_eq!(seats.asked("b", 0, 1, 3), Some(0));
        assert_eq!(seats.over(0), None);
        assert_eq!((seats.asked("c", 0, 0, 3), seats.over(0)), (Some(0), Some(4)));
    }

    #[test]
    fn another_edge_asks_and_gives_back() {
        let now = Instant::now();
        let mut seats = Seats::default();
        seats.seat(now, 0, 0, 3);
        assert_eq!(seats.claimed(now, theirs("b", 7), "a", BTreeMap::new(), 0), None);
        assert_eq!(seats.seat(now, 0, 2, 3), (Seat::Wait, Some(Step::Ask(sender("b"), 1))));
        seats.granted(&sender("c"), 9, None);
        assert_eq!(seats.seat(now, 0, 2, 3).0, Seat::Wait, "it is not its owner");
        seats.granted(&sender("b"), 1, None);
        assert_eq!(seats.seat(now, 0, 2, 3).0, Seat::Free);
        assert_eq!(seats.seat(now, 1, 2, 3), (Seat::Wait, Some(Step::Ask(sender("b"), 2))));
        seats.granted(&sender("b"), 1, None);
        assert_eq!(seats.seat(now, 1, 2, 3), (Seat::Full, None));
        assert_eq!(seats.seat(now, 1, 2, 3).0, Seat::Wait, "it is asked anew for the next one");
        seats.granted(&sender("b"), 1, None);
        assert_eq!(seats.returned(0), Some(Step::Ask(sender("b"), 0)));
        assert_eq!(seats.asked("c", 1, 0, 3), None, "this edge does not own it");
    }

    #[test]
    fn without_an_answer_an_edge_decides_by_what_it_knows() {
        let now = Instant::now();
        let mut seats = Seats::default();
        assert_eq!(seats.seat(now, 0, 2, 3).0, Seat::Wait);
        let later = now + ANSWER_TIMEOUT;
        assert_eq!(seats.seat(later, 0, 2, 3).0, Seat::Free);
        assert_eq!(seats.seat(later, 1, 2, 3).0, Seat::Full);
        assert_eq!(seats.seat(later + UNANSWERED, 0, 2, 3), (Seat::Wait, Some(Step::Claim(0))), "it is tried again");
        // A cluster that says at once that it cannot say is not asked again and again.
        assert_eq!(seats.claimed(later + UNANSWERED, Claim::Unknown, "a", BTreeMap::new(), 0), None);
        assert_eq!(seats.seat(later + UNANSWERED, 0, 2, 3), (Seat::Free, None));
        assert_eq!(seats.seat(later + 2 * UNANSWERED, 0, 2, 3), (Seat::Wait, Some(Step::Claim(0))));
    }

    #[test]
    fn a_claim_moves_when_its_owner_is_gone() {
        let now = Instant::now();
        let mut seats = Seats::default();
        seats.claimed(now, theirs("b", 7), "a", BTreeMap::new(), 1);
        assert_eq!(seats.disowned("c"), None);
        assert_eq!(seats.disowned("b"), Some(Step::Claim(7)));
        let parts = BTreeMap::from([("c".to_owned(), 2)]);
        seats.claimed(now, Claim::Ours { revision: 8 }, "a", parts, 1);
        assert_eq!(seats.seat(Instant::now(), 1, 2, 3).0, Seat::Full, "what others have said they have is given");
        assert_eq!(seats.reconnected(), Some(Step::Claim(8)));
        assert_eq!(seats.claimed(now, theirs("c", 9), "a", BTreeMap::new(), 1), Some(Step::Ask(sender("c"), 1)));
        assert_eq!(
            seats.claimed(now, theirs("a", 9), "a", BTreeMap::new(), 1),
            Some(Step::Claim(9)),
            "of an earlier process"
        );
    }

    proptest! {
        /// Whatever is asked in whatever order, the seats that are given and taken are never more than the room admits.
        #[test]
        fn no_more_are_seated_than_the_room_admits(steps in prop::collection::vec((0..4usize, 0..6usize), 1..60), max in 1..9usize) {
            let (mut seats, now) = (Seats::default(), Instant::now());
            seats.claimed(now, Claim::Ours { revision: 1 }, "a", BTreeMap::new(), 0);
            let mut own = 0;
            for (who, count) in steps {
                if who > 0 {
                    seats.asked(&who.to_string(), count, own, max);
                } else if count == 0 {
                    own = own.saturating_sub(1);
                } else if seats.seat(now, own, 0, max).0 == Seat::Free {
                    own += 1;
                }
                prop_assert!(own + seats.given.values().sum::<usize>() <= max);
            }
        }
    }
}
