//! What operators decide on many nodes comes to the same on all, in whatever order they learn of it and however their clocks are set.

use std::collections::BTreeMap;

use controlplane::engine::RoomPolicy;
use controlplane::registry::{Rules, Taken};
use controlplane::revocations::{Revocation, Whose};
use controlplane::shared::{Content, Document, Subject};
use proptest::prelude::*;

const NOW: u64 = 1_795_415_232;
const YEARS: u64 = 3 * 365 * 86_400;

/// A node, and the bucket as it is reached when NATS is there.
struct Node {
    rules: Rules,
    clock: u64,
}

type Bucket = BTreeMap<Subject, Document>;

fn node(name: &str, clock: u64) -> Node {
    let mut rules = Rules::default();
    rules.join(name);
    Node { rules, clock }
}

impl Node {
    /// As the task does it: takes what is there, and writes what is later or missing.
    fn meet(&mut self, bucket: &mut Bucket) {
        for document in bucket.values() {
            self.rules.take(document, self.clock).unwrap();
        }
        let missing: Vec<Subject> =
            self.rules.ledger.subjects().filter(|of| !bucket.contains_key(of)).cloned().collect();
        missing.into_iter().for_each(|subject| self.rules.ledger.unsay(subject));
        for subject in self.rules.ledger.unsaid().clone() {
            bucket.insert(subject.clone(), self.rules.document(&subject).unwrap());
            self.rules.ledger.said(&subject);
        }
    }

    fn shown(&self) -> (BTreeMap<String, RoomPolicy>, Vec<Revocation>) {
        (self.rules.rooms.clone(), self.rules.revocations.all())
    }

    fn set(&mut self, room: &str, peers_max: u32) {
        self.rules.set_room(room, RoomPolicy { peers_max: Some(peers_max), ..RoomPolicy::default() });
    }

    fn revoke(&mut self, room: &str, whose: Whose) {
        let revocation = Revocation { room: room.into(), whose, issued_until: self.clock };
        self.rules.revoke(revocation, self.clock).unwrap();
    }
}

#[test]
fn the_later_decision_is_the_one_that_stands_on_more_of_them() {
    let (mut a, mut b, mut bucket) = (node("a", NOW), node("b", NOW + YEARS), Bucket::new());
    a.set("one", 4);
    a.set("two", 4);
    a.meet(&mut bucket);
    b.meet(&mut bucket);
    assert_eq!(a.shown(), b.shown());
    // While NATS is away: a decides twice of one, b once; both once of two; b takes back what a then gives again.
    a.set("one", 5);
    a.set("one", 6);
    b.set("one", 9);
    a.set("two", 5);
    b.set("two", 9);
    b.rules.remove_room("three", b.clock);
    a.set("three", 3);
    a.set("three", 7);
    for _ in 0..2 {
        b.meet(&mut bucket);
        a.meet(&mut bucket);
    }
    assert_eq!(a.shown(), b.shown());
    let peers = |room: &str| a.rules.rooms[room].peers_max;
    assert_eq!([peers("one"), peers("two"), peers("three")], [Some(6), Some(9), Some(7)], "b is the later name of two");
}

#[test]
fn what_was_taken_back_does_not_come_back_and_what_nats_lost_does() {
    let (mut a, mut b, mut bucket) = (node("a", NOW), node("b", NOW), Bucket::new());
    a.set("one", 4);
    a.revoke("one", Whose::Name("Ada".into()));
    a.revoke("one", Whose::Name("Eve".into()));
    a.meet(&mut bucket);
    b.meet(&mut bucket);
    // b is away while a takes back; everybody's revocation takes the place of those of names, on b too.
    a.rules.remove_room("one", NOW);
    a.revoke("one", Whose::Everybody);
    a.meet(&mut bucket);
    b.meet(&mut bucket);
    assert_eq!((b.rules.rooms.len(), b.rules.revocations.of("one").len()), (0, 1));
    assert_eq!(a.shown(), b.shown());
    // The bucket is lost with what both knew, and a third node has no part in it.
    bucket.clear();
    let mut c = node("c", NOW);
    c.meet(&mut bucket);
    b.meet(&mut bucket);
    c.meet(&mut bucket);
    assert_eq!(c.shown(), a.shown());
    // What was decided before there was a cluster gives way to what was decided in it, and else stands.
    let mut d = Node { rules: Rules::default(), clock: NOW };
    d.set("one", 99);
    d.set("own", 2);
    d.rules.join("zzz");
    d.meet(&mut bucket);
    a.meet(&mut bucket);
    assert_eq!((d.shown(), a.rules.rooms.len()), (a.shown(), 1), "and a room that is gone stays gone");
}

#[test]
fn a_revocation_of_two_clocks_holds_until_the_later() {
    let (mut a, mut b, mut bucket) = (node("a", NOW), node("b", NOW - 3600), Bucket::new());
    a.revoke("one", Whose::Everybody);
    b.revoke("one", Whose::Everybody);
    for _ in 0..3 {
        a.meet(&mut bucket);
        b.meet(&mut bucket);
    }
    assert_eq!(a.shown(), b.shown());
    assert_eq!(a.rules.revocations.of("one")[0].issued_until, NOW);
    // To a clock that is years ahead every token that it concerns has expired, and so has it.
    let mut ahead = node("c", NOW + YEARS);
    let document = bucket.values().find(|document| matches!(document.content, Some(Content::Revocation(_)))).unwrap();
    assert_eq!(ahead.rules.take(document, ahead.clock), Ok(Taken::Known));
    assert_eq!(ahead.rules.revocations.count(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, u8, u32),
    Remove(usize, u8),
    Revoke(usize, u8, u8),
    TakeBack(usize, u8, u8),
    Meet(usize),
    Lose,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (0..3usize, 0..2u8);
    prop_oneof![
        (at(), 1..9u32).prop_map(|((node, room), peers)| Step::Set(node, room, peers)),
        at().prop_map(|(node, room)| Step::Remove(node, room)),
        (at(), 0..3u8).prop_map(|((node, room), whose)| Step::Revoke(node, room, whose)),
        (at(), 0..3u8).prop_map(|((node, room), whose)| Step::TakeBack(node, room, whose)),
        (0..3usize).prop_map(Step::Meet),
        Just(Step::Lose),
    ]
}

fn whose(number: u8) -> Whose {
    [Whose::Everybody, Whose::Name("Ada".into()), Whose::Token("t".into())][usize::from(number)].clone()
}

proptest! {
    #[test]
    fn nodes_come_to_the_same_whatever_happened(steps in prop::collection::vec(step(), 0..40)) {
        // Clocks within the life of a revocation of each other: beyond, it is over for one of them.
        let mut nodes = [node("a", NOW), node("b", NOW + 86_400 * 90), node("c", NOW - 86_400 * 90)];
        let mut bucket = Bucket::new();
        for step in steps {
            let room = |room: u8| format!("r{room}");
            match step {
                Step::Set(at, of, peers) => nodes[at].set(&room(of), peers),
                Step::Remove(at, of) => drop({ let now = nodes[at].clock; nodes[at].rules.remove_room(&room(of), now) }),
                Step::Revoke(at, of, number) => nodes[at].revoke(&room(of), whose(number)),
                Step::TakeBack(at, of, number) => {
                    let now = nodes[at].clock;
                    nodes[at].rules.take_back(&room(of), &whose(number).id(), now);
                }
                Step::Meet(at) => nodes[at].meet(&mut bucket),
                Step::Lose => bucket.clear(),
            }
            for node in &mut nodes {
                node.clock += 1;
            }
        }
        for _ in 0..4 {
            for node in &mut nodes {
                node.meet(&mut bucket);
            }
        }
        prop_assert_eq!(nodes[0].shown(), nodes[1].shown());
        prop_assert_eq!(nodes[0].shown(), nodes[2].shown());
        for node in &nodes {
            prop_assert!(node.rules.ledger.unsaid().is_empty());
        }
    }
}
