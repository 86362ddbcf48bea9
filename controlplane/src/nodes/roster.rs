//! Who is here: the nodes of the cluster as this one knows them, from the records that it is told of. Without I/O and without a
//! clock of its own.
//!
//! A node is gone when it has not renewed its record for the time of a lease, and all that time this node could itself renew its own, and was
//! told that it did: while the engine is away, takes no writes, or tells nothing, nobody's silence counts, and when it is back each node has a
//! whole lease. Three servers that elect leaders can take writes for many seconds and tell nobody of them.
//! No time of another machine is compared with ours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{Record, Refusal};
use super::seal::Seals;
use crate::bus::{NodeNews, Sender};

/// Nodes that are remembered.
pub(super) const NODES_MAX: usize = 1024;

/// Keys that are remembered with why what stands there is refused.
pub(super) const REFUSED_MAX: usize = 64;

/// How long a node that is gone is shown.
const GONE_KEPT: Duration = Duration::from_secs(3600);

/// How a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It renews its record.
    Here,
    /// Its lease ended.
    Gone,
    /// It said that it stops.
    Left,
}

/// A node that is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Known {
    /// What it said last.
    pub(super) record: Record,
    /// Revision of that record. It only grows.
    pub(super) revision: u64,
    /// Whether it is here.
    pub(super) state: State,
    /// When it was last heard.
    pub(super) heard_at: Instant,
}

impl Known {
    /// Whether another record under this name is later. One that was put there again is not; one of another state folder is if the
    /// node that is known is not here any more.
    fn gives_way_to(&self, record: &Record) -> bool {
        let is_free = self.state != State::Here && self.record.instance != record.instance;
        is_free || record.is_after(&self.record)
    }
}

/// What the bucket says.
#[derive(Clone, Debug)]
pub(super) enum Told<'a> {
    /// Something stands under this key.
    Put {
        /// The key.
        key: &'a str,
        /// Its revision in the bucket.
        revision: u64,
        /// What stands there.
        bytes: &'a [u8],
    },
    /// What stood under this key was removed. Anybody can have done that; a node that stops writes a record that says so.
    Removed {
        /// The key.
        key: &'a str,
    },
}

/// What changed, for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// A node came, came back, or started again.
    Came(String),
    /// A node's lease ended.
    Gone(String),
    /// A node said that it stops.
    Left(String),
    /// What stands under this key is refused from now on.
    Refused(String, Refusal),
}

/// The nodes of a cluster.
#[derive(Debug)]
pub(super) struct Roster {
    lease: Duration,
    seals: Arc<Seals>,
    nodes: BTreeMap<String, Known>,
    refused: BTreeMap<String, Refusal>,
    refusals: [u64; Refusal::NAMES.len()],
    /// Since when this node can renew its own record without a break.
    reachable_since: Option<Instant>,
    /// Since when this node is told without a break what is written, and when it last was told of its own record.
    told: Option<(Instant, Instant)>,
    /// Another one whenever what others need to know of the nodes that are here has changed.
    version: u64,
}

impl Roster {
    /// Nobody yet. `lease`: how long a record stands that is not renewed.
    pub(super) fn new(lease: Duration, seals: Arc<Seals>) -> Roster {
        Roster {
            lease,
            seals,
            nodes: BTreeMap::new(),
            refused: BTreeMap::new(),
            refusals: [0; Refusal::NAMES.len()],
            reachable_since: None,
            told: None,
            version: 0,
        }
    }

    /// How long a record stands that is not renewed.
    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// Takes what the bucket says.
    pub(super) fn take(&mut self, now: Instant, told: &Told<'_>) -> Option<Change> {
        match *told {
            Told::Put { key, revision, bytes } => match self.put(now, key, revision, bytes) {
                Ok(change) => {
                    self.refused.remove(key);
                    change
                }
                Err(refusal) => self.refuse(key, refusal),
            },
            Told::Removed { key } => {
                self.refused.remove(key);
                None
            }
        }
    }

    fn put(&mut self, now: Instant, key: &str, revision: u64, bytes: &[u8]) -> Result<Option<Change>, Refusal> {
        // A watch that begins anew tells once more what is known.
        if self.nodes.get(key).is_some_and(|known| known.revision == revision) {
            return Ok(None);
        }
        if self.nodes.get(key).is_some_and(|known| known.revision > revision) {
            return Err(Refusal::Stale);
        }
        let record = Record::open(&self.seals, key, bytes)?;
        if self.nodes.get(key).is_some_and(|known| !known.gives_way_to(&record)) {
            return Err(Refusal::Stale);
        }
        if record.has_left {
            return Ok(self.farewell(key, revision, record));
        }
        if !self.nodes.contains_key(key) && self.nodes.len() >= NODES_MAX && !self.forget_one() {
            return Err(Refusal::TooMany);
        }
        let was = self.nodes.get(key).filter(|was| was.state == State::Here);
        let is_news = was.is_none_or(|was| was.record.run != record.run);
        self.version += u64::from(was.is_none_or(|was| !was.record.is_reached_as(&record)));
        self.nodes.insert(key.to_owned(), Known { record, revision, state: State::Here, heard_at: now });
        Ok(is_news.then(|| Change::Came(key.to_owned())))
    }

    fn farewell(&mut self, key: &str, revision: u64, record: Record) -> Option<Change> {
        let known = self.nodes.get_mut(key)?;
        (known.revision, known.record) = (revision, record);
        let was = std::mem::replace(&mut known.state, State::Left);
        self.version += u64::from(was == State::Here);
        (was == State::Here).then(|| Change::Left(key.to_owned()))
    }

    fn refuse(&mut self, key: &str, refusal: Refusal) -> Option<Change> {
        self.refusals[refusal.index()] += 1;
        if refusal == Refusal::Stale {
            return None; // Of the past. The record that is known stands.
        }
        if !self.refused.contains_key(key) && self.refused.len() >= REFUSED_MAX {
            return None;
        }
        let was = self.refused.insert(key.to_owned(), refusal);
        (was.map(Refusal::index) != Some(refusal.index())).then(|| Change::Refused(key.to_owned(), refusal))
    }

    /// Makes room by forgetting the node that has been away for longest.
    fn forget_one(&mut self) -> bool {
        let away = self.nodes.iter().filter(|(_, known)| known.state != State::Here);
        let oldest = away.min_by_key(|(_, known)| known.heard_at).map(|(key, _)| key.clone());
        oldest.is_some_and(|key| self.nodes.remove(&key).is_some())
    }

    /// This node has just renewed its own record, or has not been able to.
    pub(super) fn set_reachable(&mut self, now: Instant, is_reachable: bool) {
        match is_reachable {
            true => drop(self.reachable_since.get_or_insert(now)),
            false => self.reachable_since = None,
        }
    }

    /// This node was told of its own record. It writes that three times in a lease.
    pub(super) fn told_of_itself(&mut self, now: Instant) {
        let since = self.told.filter(|(_, last)| now.saturating_duration_since(*last) <= self.lease / 2);
        self.told = Some((since.map_or(now, |(since, _)| since), now));
    }

    /// The bucket is another one than before: its revisions begin anew. Who is known stays until its lease ends.
    pub(super) fn begin_anew(&mut self) {
        self.nodes.values_mut().for_each(|known| known.revision = 0);
        self.refused.clear();
    }

    fn deadline(&self, known: &Known) -> Option<Instant> {
        let (told_since, told_at) = self.told?;
        let since = known.heard_at.max(self.reachable_since?).max(told_since);
        (known.state == State::Here && told_at >= since + self.lease / 2).then(|| since + self.lease)
    }

    /// When [`Roster::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.nodes.values().filter_map(|known| self.deadline(known)).min()
    }

    /// Ends the leases that are over, and forgets who has been away for long.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Change> {
        let is_over = |known: &Known| self.deadline(known).is_some_and(|deadline| deadline <= now);
        let gone: Vec<String> =
            self.nodes.iter().filter(|(_, known)| is_over(known)).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            if let Some(known) = self.nodes.get_mut(key) {
                known.state = State::Gone;
                self.version += 1;
            }
        }
        self.nodes.retain(|_, known| known.state == State::Here || now < known.heard_at + self.lease + GONE_KEPT);
        gone.into_iter().map(Change::Gone).collect()
    }

    /// Another number whenever [`Roster::others`] has changed.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Those that are here, for the engine of the node `own`.
    pub(super) fn others(&self, own: &str) -> Vec<NodeNews> {
        let here = self.nodes.values().filter(|known| known.state == State::Here && known.record.node != own);
        here.map(|known| known.record.news()).collect()
    }

    /// The runs of the others that are here, and how much each has said at least.
    pub(super) fn counts(&self, own: &str) -> Vec<(Sender, u64)> {
        let here = self.nodes.values().filter(|known| known.state == State::Here && known.record.node != own);
        let of = |Record { node, run, count, .. }: &Record| (Sender { node: node.clone(), run: run.clone() }, *count);
        here.map(|known| of(&known.record)).collect()
    }

    /// All nodes that are known, by name.
    pub(super) fn nodes(&self) -> &BTreeMap<String, Known> {
        &self.nodes
    }

    /// Keys with something that is refused, and why.
    pub(super) fn refused(&self) -> &BTreeMap<String, Refusal> {
        &self.refused
    }

    /// How many records were refused, in the order of [`Refusal::NAMES`].
    pub(super) fn refusals(&self) -> [u64; Refusal::NAMES.len()] {
        self.refusals
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::super::seal::tests::seals;
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    struct World {
        roster: Roster,
        now: Instant,
        revision: u64,
        count: u64,
        /// Whether the engine tells what is written.
        is_told: bool,
    }

    impl World {
        fn new() -> World {
            let (mut roster, now) = (Roster::new(LEASE, seals(7)), Instant::now());
            roster.set_reachable(now, true);
            roster.told_of_itself(now);
            World { roster, now, revision: 0, count: 0, is_told: true }
        }

        fn put(&mut self, key: &str, bytes: &[u8]) -> Option<Change> {
            self.revision += 1;
            self.put_at(key, self.revision, bytes)
        }

        fn put_at(&mut self, key: &str, revision: u64, bytes: &[u8]) -> Option<Change> {
            self.roster.take(self.now, &Told::Put { key, revision, bytes })
        }

        fn renew(&mut self, key: &str) -> Option<Change> {
            let bytes = self.sealed(record(key));
            self.put(key, &bytes)
        }

        /// A record that its node writes now.
        fn sealed(&mut self, record: Record) -> Vec<u8> {
            self.count += 1;
            Record { count: self.count, ..record }.close(&seals(7)).unwrap()
        }

        fn pass(&mut self, seconds: u64) -> Vec<Change> {
            let (end, mut changes) = (self.now + Duration::from_secs(seconds), Vec::new());
            while self.now < end {
                self.now = end.min(self.now + LEASE / 3);
                if self.is_told {
                    self.roster.told_of_itself(self.now);
                }
                changes.extend(self.roster.handle_timeout(self.now));
            }
            changes
        }

        fn state(&self, key: &str) -> State {
            self.roster.nodes()[key].state
        }
    }

    fn came(key: &str) -> Option<Change> {
        Some(Change::Came(key.to_owned()))
    }

    #[test]
    fn a_node_that_does_not_renew_is_gone_after_its_lease_and_may_come_back() {
        let mut world = World::new();
        assert_eq!((world.renew("a"), world.renew("b"), world.renew("a")), (came("a"), came("b"), None));
        assert_eq!(world.pass(10), []);
        world.renew("a");
        assert_eq!(world.roster.poll_timeout(), Some(world.now + Duration::from_secs(5)));
        assert_eq!(world.pass(5), [Change::Gone("b".into())]);
        assert_eq!((world.state("a"), world.state("b")), (State::Here, State::Gone));
        assert_eq!(world.pass(1), [], "it is said once");
        assert_eq!(world.renew("b"), came("b"));
        assert_eq!(world.state("b"), State::Here);
    }

    #[test]
    fn a_restart_is_seen_at_once_and_a_farewell_too() {
        let mut world = World::new();
        world.renew("a");
        let again = Record { run: "ffffffffffffffff".into(), ..record("a") };
        let bytes = world.sealed(again.clone());
        assert_eq!(world.put("a", &bytes), came("a"));
        assert_eq!(world.roster.take(world.now, &Told::Removed { key: "a" }), None, "by whoever can remove it");
        assert_eq!(world.state("a"), State::Here);
        let farewell = world.sealed(Record { has_left: true, ..again });
        assert_eq!(world.put("a", &farewell), Some(Change::Left("a".into())));
        assert_eq!((world.state("a"), world.roster.poll_timeout()), (State::Left, None));
        assert!(world.put("a", &farewell).is_none() && world.state("a") == State::Left, "again");
        let stranger = world.sealed(Record { has_left: true, ..record("x") });
        assert_eq!(world.put("x", &stranger), None);
        assert!(!world.roster.nodes().contains_key("x"));
    }

    #[test]
    fn nobody_is_gone_because_the_engine_is() {
        let mut world = World::new();
        world.renew("a");
        world.pass(14);
        world.roster.set_reachable(world.now, false);
        assert_eq!(world.roster.poll_timeout(), None);
        assert_eq!(world.pass(3600), []);
        world.roster.set_reachable(world.now, true);
        assert_eq!(world.pass(14), [], "each has a whole lease to come back");
        world.roster.set_reachable(world.now, true);
        assert_eq!(world.pass(1), [Change::Gone("a".into())]);
    }

    #[test]
    fn nobody_is_gone_while_the_engine_takes_what_is_written_and_tells_nothing() {
        let mut world = World::new();
        world.renew("a");
        world.pass(4);
        world.is_told = false;
        assert_eq!(world.pass(60), []);
        // It tells of this node first, and of the others in a moment.
        world.roster.told_of_itself(world.now);
        assert_eq!((world.roster.poll_timeout(), world.pass(0)), (None, vec![]));
        world.is_told = true;
        assert_eq!(world.pass(14), [], "each has a whole lease to be heard");
        assert_eq!(world.pass(1), [Change::Gone("a".into())]);
    }

    #[test]
    fn what_is_refused_harms_nobody_else_and_is_said_once() {
        let mut world = World::new();
        world.renew("a");
        let newer = seals(7).wrap(super::super::seal::Kind::Record, &["b"], b"{\"version\":3}");
        let refused = |refusal| Some(Change::Refused("b".into(), refusal));
        assert_eq!(world.put("b", &newer), refused(Refusal::OtherVersion(3)));
        assert_eq!(world.put("b", &newer), None);
        assert_eq!(world.put("b", &vec![b'x'; 16 << 20]), refused(Refusal::TooLong(16 << 20)));
        assert_eq!(world.roster.refused()["b"].name(), "too_long");
        assert_eq!(world.roster.refusals()[Refusal::OtherVersion(0).index()], 2);
        assert_eq!((world.state("a"), world.roster.nodes().len()), (State::Here, 1));
        assert_eq!(world.renew("b"), came("b"));
        assert!(world.roster.refused().is_empty(), "it is mended");
        // A node that is known and then writes nonsense is as one that is silent.
        world.put("b", b"nonsense");
        world.pass(10);
        world.renew("a");
        assert_eq!(world.pass(5), [Change::Gone("b".into())]);
    }

    #[test]
    fn a_dead_epoch_is_refused_and_another_bucket_begins_anew() {
        let mut world = World::new();
        world.revision = 40;
        world.renew("a");
        let ghost = world.sealed(Record { run: "ffffffffffffffff".into(), ..record("a") });
        assert_eq!(world.put_at("a", 40, &ghost), None, "lower");
        assert_eq!(world.put_at("a", 41, &ghost), None, "or equal");
        assert_eq!(world.roster.nodes()["a"].record.run, record("a").run);
        assert_eq!(world.roster.refusals()[Refusal::Stale.index()], 1, "an equal one is what a new watch tells again");
        world.roster.begin_anew();
        assert_eq!(world.state("a"), State::Here, "as long as its lease");
        let renewed = world.sealed(record("a"));
        assert_eq!(world.put_at("a", 1, &renewed), None, "it is the same start");
        assert_eq!(world.put_at("a", 2, &ghost), came("a"));
    }

    #[test]
    fn a_record_that_is_put_there_again_or_by_another_hand_changes_nothing() {
        let mut world = World::new();
        let dead = world.sealed(Record { fingerprint: "cd".repeat(32), ..record("a") });
        world.put("a", &dead);
        let live = world.sealed(Record { run: "1123456789abcdef".into(), ..record("a") });
        assert_eq!(world.put("a", &live), came("a"));
        let stale = Refusal::Stale.index();
        // Of the run before, and of this run: the certificate that is known stands, and the node is not heard by it.
        world.pass(10);
        for again in [&dead, &live] {
            assert_eq!(world.put("a", again), None);
        }
        assert_eq!(
            (world.roster.refusals()[stale], world.roster.nodes()["a"].record.fingerprint.as_str()),
            (2, "ab".repeat(32).as_str())
        );
        assert_eq!(world.pass(5), [Change::Gone("a".into())]);
        for again in [&dead, &live] {
            world.put("a", again);
        }
        assert_eq!(
            (world.state("a"), world.roster.refusals()[stale]),
            (State::Gone, 4),
            "nor does it come back by them"
        );
        // Of a key that is none of ours, and of none.
        let forged = Record { count: 99, ..record("b") }.close(&seals(8)).unwrap();
        assert_eq!(world.put("b", &forged), Some(Change::Refused("b".into(), Refusal::UnknownKey)));
        assert!(!world.roster.nodes().contains_key("b"));
        // Another state folder has the name when the node is gone, although its clock is behind, and not before.
        let other = |world: &mut World, run: &str| {
            let instance = "f".repeat(32);
            world.sealed(Record { instance, run: run.into(), ..record("a") })
        };
        let bytes = other(&mut world, "00000000aaaaaaaa");
        assert_eq!(world.put("a", &bytes), came("a"));
        let was = world.sealed(record("a"));
        assert_eq!(world.put("a", &was), came("a"), "a later run");
        let bytes = other(&mut world, "00000000aaaaaaaa");
        assert_eq!((world.put("a", &bytes), world.roster.refusals()[stale]), (None, 5));
    }

    #[test]
    fn memory_is_bounded_and_who_is_away_makes_room() {
        let mut world = World::new();
        for number in 0..NODES_MAX {
            assert!(world.renew(&format!("n{number}")).is_some());
        }
        let too_many = Some(Change::Refused("late".into(), Refusal::TooMany));
        assert_eq!(world.renew("late"), too_many);
        world.pass(20);
        assert_eq!(world.renew("late"), came("late"));
        assert_eq!(world.roster.nodes().len(), NODES_MAX);
        for number in 0..2 * REFUSED_MAX {
            world.put(&format!("bad{number}"), b"");
        }
        assert_eq!(world.roster.refused().len(), REFUSED_MAX);
        world.pass(3500);
        assert_eq!(world.state("late"), State::Gone);
        world.pass(200);
        assert!(world.roster.nodes().is_empty(), "who is gone is shown for an hour");
    }
}
