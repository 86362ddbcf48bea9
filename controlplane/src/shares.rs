//! What many want and nobody may have alone: how a capacity is shared by its owners.
//!
//! An **owner** is whoever a use is charged to: a [`Source`] of connections, a token, a room. There are two rules, one for what can be
//! taken back and one for what can wait; for rates the second one holds as well ([`crate::rates`]):
//!
//! - [`Shares`]: places. When all are taken, one more takes the place of the owner that holds most (max-min fairness), so that an
//!   owner who holds little is let in however much another one wants.
//! - [`Pool`]: amounts. An owner may hold as much as is left for everybody else, so there is always something left (dynamic
//!   thresholds: Choudhury and Hahne, 1998).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that one client usually has: an IPv4 address, or an IPv6 /64 (RFC 6177: no customer has less).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Source {
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u64),
}

impl From<IpAddr> for Source {
    /// An IPv4 address that came by an IPv6 socket counts as IPv4.
    fn from(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(address) => Source::V4(address),
            IpAddr::V6(address) => Source::V6((u128::from(address) >> 64) as u64),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::V4(address) => write!(f, "{address}"),
            Source::V6(prefix) => write!(f, "{}/64", Ipv6Addr::from(u128::from(*prefix) << 64)),
        }
    }
}

/// A place that is held.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Place(u64);

/// Which place the owner that holds most gives up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gives {
    /// The oldest: what takes long is idle, and must not keep others out.
    Oldest,
    /// The newest: who is in stays in.
    Newest,
}

/// Places, shared by owners. An owner has `DEPTH` parts, the outermost first, such as a room, an address in it, and a token from
/// there: room shares with room, and within a room address with address. Each operation takes O(log n).
#[derive(Debug)]
pub(crate) struct Shares<O, const DEPTH: usize> {
    capacity: usize,
    gives: Gives,
    /// Counts places and uses of them.
    next: u64,
    held: BTreeMap<Place, (u64, [O; DEPTH])>,
    /// By the first parts of owners; the one without any is the root.
    nodes: BTreeMap<Vec<O>, Node<O>>,
}

/// All places of the owners whose first parts are the same.
#[derive(Debug)]
struct Node<O> {
    /// By their last use.
    places: BTreeMap<u64, Place>,
    /// The nodes below by what they hold; the last one gives.
    below: BTreeSet<(usize, i64, O)>,
}

impl<O: Clone + Ord, const DEPTH: usize> Shares<O, DEPTH> {
    pub(crate) fn new(capacity: usize, gives: Gives) -> Self {
        Shares { capacity, gives, next: 0, held: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    /// Takes a place, and says which one is to be given up for it. That is this place itself where no owner holds more, and who is in
    /// stays in ([`Gives::Newest`]).
    pub(crate) fn enter(&mut self, owner: [O; DEPTH]) -> (Place, Option<Place>) {
        self.next += 1;
        let place = Place(self.next);
        self.put(place, self.next, owner);
        let given = (self.held.len() > self.capacity).then(|| self.given());
        if let Some(given) = given {
            self.leave(given);
        }
        (place, given)
    }

    /// Whether this owner would get a place now.
    pub(crate) fn admits(&mut self, owner: [O; DEPTH]) -> bool {
        if self.held.len() < self.capacity {
            return true;
        }
        let place = Place(self.next + 1);
        self.put(place, self.next + 1, owner);
        let given = self.given();
        self.leave(place);
        given != place
    }

    /// The place is used now: it is as new as one just taken.
    pub(crate) fn touch(&mut self, place: Place) {
        if let Some((_, owner)) = self.held.get(&place).cloned() {
            self.leave(place);
            self.next += 1;
            self.put(place, self.next, owner);
        }
    }

    /// Gives a place back. It may have been given up before.
    pub(crate) fn leave(&mut self, place: Place) {
        let Some((used, owner)) = self.held.remove(&place) else { return };
        for depth in (0..=DEPTH).rev() {
            self.edit(&owner[..depth], |places| places.remove(&used));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Places of the owners whose first parts are these.
    #[cfg(test)]
    pub(crate) fn held_by(&self, owner: &[O]) -> usize {
        self.nodes.get(owner).map_or(0, |node| node.places.len())
    }

    fn put(&mut self, place: Place, used: u64, owner: [O; DEPTH]) {
        for depth in (0..=DEPTH).rev() {
            self.edit(&owner[..depth], |places| places.insert(used, place));
        }
        self.held.insert(place, (used, owner));
    }

    /// Changes the places of a node, and where it stands among its siblings.
    fn edit(&mut self, path: &[O], edit: impl FnOnce(&mut BTreeMap<u64, Place>) -> Option<Place>) {
        let empty = || Node { places: BTreeMap::new(), below: BTreeSet::new() };
        let node = self.nodes.entry(path.to_vec()).or_insert_with(empty);
        let before = rank(&node.places, self.gives);
        edit(&mut node.places);
        let after = rank(&node.places, self.gives);
        if after.is_none() {
            self.nodes.remove(path);
        }
        let Some((last, parent)) = path.split_last() else { return };
        let below = &mut self.nodes.entry(parent.to_vec()).or_insert_with(empty).below;
        if let Some((held, order)) = before {
            below.remove(&(held, order, last.clone()));
        }
        if let Some((held, order)) = after {
            below.insert((held, order, last.clone()));
        }
    }

    /// The place that is to be given up: of the node that holds most, and there again.
    fn given(&self) -> Place {
        let mut path = Vec::with_capacity(DEPTH);
        loop {
            let node = &self.nodes[&path];
            match node.below.last() {
                Some((.., part)) => path.push(part.clone()),
                None => return end(&node.places, self.gives).expect("a node has places").1,
            }
        }
    }
}

/// The place that a node would give.
fn end(places: &BTreeMap<u64, Place>, gives: Gives) -> Option<(u64, Place)> {
    let end = if gives == Gives::Oldest { places.first_key_value() } else { places.last_key_value() };
    end.map(|(&used, &place)| (used, place))
}

/// Where a node stands among its siblings: by what it holds, and of those that hold as much by the place that it would give.
fn rank(places: &BTreeMap<u64, Place>, gives: Gives) -> Option<(usize, i64)> {
    let (used, _) = end(places, gives)?;
    let order = if gives == Gives::Oldest { -(used as i64) } else { used as i64 };
    Some((places.len(), order))
}

/// An amount of something, shared by owners.
#[derive(Debug)]
pub(crate) struct Pool<O> {
    capacity: usize,
    used: usize,
    held: BTreeMap<O, usize>,
}

impl<O: Clone + Ord> Pool<O> {
    pub(crate) fn new(capacity: usize) -> Self {
        Pool { capacity, used: 0, held: BTreeMap::new() }
    }

    /// Another capacity from now on. What is held stays.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Takes so much more, if the owner holds less than is left and there is so much. If not, it waits until something is given back.
    pub(crate) fn take(&mut self, owner: &O, amount: usize) -> bool {
        let (left, holds) = (self.capacity.saturating_sub(self.used), self.held_by(owner));
        if holds >= left || amount > left {
            return false;
        }
        self.used += amount;
        *self.held.entry(owner.clone()).or_insert(0) += amount;
        true
    }

    /// Gives so much back.
    pub(crate) fn give(&mut self, owner: &O, amount: usize) {
        let Some(holds) = self.held.get_mut(owner) else { return };
        let amount = amount.min(*holds);
        *holds -= amount;
        self.used -= amount;
        if *holds == 0 {
            self.held.remove(owner);
        }
    }

    /// Whether an owner that holds nothing would get something now.
    pub(crate) fn has_some_left(&self) -> bool {
        self.used < self.capacity
    }

    fn held_by(&self, owner: &O) -> usize {
        self.held.get(owner).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_owner_that_holds_most_gives_its_oldest_place() {
        let mut shares = Shares::new(3, Gives::Oldest);
        let places = [9, 9, 9].map(|owner| shares.enter([owner]).0);
        assert_eq!(shares.enter([1]).1, Some(places[0]));
        assert_eq!(shares.enter([9]).1, Some(places[1]), "one that holds most takes from itself");
        shares.touch(places[2]);
        let (_, given) = shares.enter([2]);
        assert!(given.is_some() && given != Some(places[2]), "what is in use is not the oldest");
        assert_eq!([1, 2, 9].map(|owner| shares.held_by(&[owner])), [1, 1, 1]);
        // All hold as much: the oldest of all goes.
        let (third, given) = shares.enter([3]);
        assert!(given.is_some() && given != Some(third) && shares.held_by(&[3]) == 1 && shares.len() == 3);
    }

    #[test]
    fn who_is_in_stays_in_unless_it_holds_more() {
        let mut shares = Shares::new(2, Gives::Newest);
        let (first, _) = shares.enter(["a"]);
        let (second, _) = shares.enter(["a"]);
        assert!(!shares.admits(["a"]) && shares.admits(["b"]));
        let (third, given) = shares.enter(["a"]);
        assert_eq!(given, Some(third), "it is refused");
        assert_eq!(shares.enter(["b"]).1, Some(second));
        let (fourth, given) = shares.enter(["c"]);
        assert_eq!(given, Some(fourth), "nobody holds more than one");
        assert!(!shares.admits(["c"]));
        shares.leave(first);
        shares.leave(first);
        assert_eq!((shares.len(), shares.held_by(&["a"])), (1, 0));
    }

    #[test]
    fn within_a_room_addresses_share_what_it_has() {
        let mut shares = Shares::new(4, Gives::Newest);
        shares.enter(["large", "x"]);
        shares.enter(["large", "y"]);
        let (newest_of_y, _) = shares.enter(["large", "y"]);
        shares.enter(["small", "z"]);
        assert_eq!(
            shares.enter(["small", "z"]).1,
            Some(newest_of_y),
            "room against room, and there address against address"
        );
        let (own, given) = shares.enter(["large", "w"]);
        assert_eq!(given, Some(own), "two and two is fair");
    }

    #[test]
    fn a_pool_always_has_something_left() {
        let mut pool = Pool::new(64);
        let greedy = (0..1000).filter(|_| pool.take(&"greedy", 1)).count();
        assert_eq!(greedy, 32);
        assert_eq!((0..1000).filter(|_| pool.take(&"second", 1)).count(), 16);
        assert!(pool.take(&"third", 8) && !pool.take(&"fourth", 9) && pool.take(&"fourth", 1));
        pool.give(&"greedy", 32);
        pool.give(&"nobody", 9);
        assert_eq!((pool.used, pool.held_by(&"greedy")), (25, 0));
        pool.set_capacity(10);
        assert!(!pool.take(&"greedy", 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Against a model that counts by hand: the capacity holds, and who gives is one of those that hold most.
        #[test]
        fn who_gives_holds_most(
            capacity in 1usize..12,
            steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..8), 0..120),
            oldest in any::<bool>(),
        ) {
            let gives = if oldest { Gives::Oldest } else { Gives::Newest };
            let mut shares = Shares::new(capacity, gives);
            let mut model: Vec<(Place, [u8; 2])> = Vec::new();
            for (room, token, what) in steps {
                match what {
                    0..=5 => {
                        let expected = { let mut copy = model.clone(); copy.push((Place(0), [room, token])); copy };
                        let admitted = shares.admits([room, token]);
                        let (place, given) = shares.enter([room, token]);
                        model.push((place, [room, token]));
                        if let Some(given) = given {
                            let of = |part: usize, owner: [u8; 2]| {
                                expected.iter().filter(|(_, other)| other[..=part] == owner[..=part]).count()
                            };
                            let at = model.iter().position(|(place, _)| *place == given).unwrap();
                            let (_, giver) = model.remove(at);
                            prop_assert!(expected.iter().all(|(_, other)| of(0, *other) <= of(0, giver)));
                            let mut siblings = expected.iter().filter(|(_, other)| other[0] == giver[0]);
                            prop_assert!(siblings.all(|(_, other)| of(1, *other) <= of(1, giver)));
                        }
                        prop_assert_eq!(admitted, given != Some(place));
                    }
                    6 if !model.is_empty() => shares.touch(model[usize::from(room) % model.len()].0),
                    _ if !model.is_empty() => shares.leave(model.remove(usize::from(token) % model.len()).0),
                    _ => {}
                }
                prop_assert!(shares.len() == model.len() && model.len() <= capacity);
                let held = model.iter().filter(|(_, owner)| owner[0] == room).count();
                prop_assert_eq!(shares.held_by(&[room]), held);
                prop_assert!(shares.nodes.len() <= 1 + 2 * model.len(), "nothing is left of who is gone");
            }
        }
    }
}
