//! Which worker carries a peer.
//!
//! A new room goes to the least loaded worker, and its next peers follow it, so that no packet crosses cores. When it
//! has as many of them there as the settings allow, or that worker is busy, they go to the least loaded other one, and
//! the room's streams are handed on between the two ([`crate::room`]).
//!
//! **Load** is the share of its core that a worker was busy lately, and something for each of its peers: those who came
//! just now send nothing yet, and a burst of joins must not all go to the worker that was idle before it.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::PeerId;
use proto::link::Addresses;

use crate::ice;
use crate::policy::PEERS_PER_WORKER_CEILING;
use crate::reconcile::Plan;

/// What a peer counts for before its media does, in thousandths of a core: five hundred fill one, which is what
/// `peers_per_worker_max` admits unless it was set.
const PEER_LOAD: u32 = 2;

/// A worker that is busy for more thousandths of its time than this takes no further peers of a room if there is another
/// that is not: the rest is for bursts, and for the peers that are there.
const BUSY_MAX: u32 = 800;

/// The workers of this node, by number.
pub(crate) type Workers = BTreeMap<usize, Worker>;

/// A worker as the engine sees it.
pub(crate) struct Worker {
    /// What it should have and what it has.
    pub(crate) plan: Plan,
    /// Our candidates there.
    pub(crate) candidates: Vec<String>,
    /// What an earlier controlplane left, until the worker has said what it has.
    pub(crate) journal: Option<Vec<(u32, Vec<u8>)>>,
    /// Peers that are not adopted yet and whose consent has ended already.
    pub(crate) expired: BTreeSet<PeerId>,
    /// Thousandths of its core that it was busy lately.
    pub(crate) busy: u32,
}

impl Worker {
    /// A worker whose link came up.
    pub(crate) fn new(plan: Plan, addresses: &Addresses, journal: Vec<(u32, Vec<u8>)>) -> Self {
        let mut candidates = ice::host_candidates(&addresses.udp);
        candidates.extend(ice::tcp_candidates(&addresses.tcp, addresses.udp.len()));
        Self { plan, candidates, journal: Some(journal), expired: BTreeSet::new(), busy: 0 }
    }

    /// Whether whatever an earlier controlplane left there is adopted.
    pub(crate) fn is_ready(&self) -> bool {
        self.journal.is_none()
    }

    /// The consent of a peer that may be about to be adopted has ended.
    pub(crate) fn expire(&mut self, peer: PeerId) {
        if !self.is_ready() && self.expired.len() < PEERS_PER_WORKER_CEILING {
            self.expired.insert(peer);
        }
    }

    /// How busy it was in the last second or so, thousandths; smoothed over a few of them.
    pub(crate) fn was_busy(&mut self, permille: u32) {
        self.busy = (self.busy + permille.min(1000)).div_ceil(2);
    }

    fn load(&self) -> u32 {
        self.busy + PEER_LOAD * self.plan.peer_count() as u32
    }
}

/// The plan of a worker, if it is there.
pub(crate) fn plan_of(workers: &mut Workers, worker: usize) -> Option<&mut Plan> {
    workers.get_mut(&worker).map(|worker| &mut worker.plan)
}

/// The worker for another peer of a room that has `members` so far, by worker, of which one shall have no more than
/// `members_max`. `None` while a worker may still bring back a room of that name, or there is none.
pub(crate) fn place(workers: &Workers, members: &BTreeMap<usize, usize>, members_max: usize) -> Option<usize> {
    if !workers.values().all(Worker::is_ready) {
        return None;
    }
    let of_room = |index: &usize| members.get(index).copied().unwrap_or(0);
    let rank = |(index, worker): &(&usize, &Worker)| {
        let is_full = !worker.plan.has_room(0, 0);
        let is_enough = of_room(index) >= members_max || worker.busy > BUSY_MAX;
        // The room's own come first, those with most of it before the others.
        let apart = if is_enough { 0 } else { usize::MAX - of_room(index) };
        (is_full, is_enough, apart, worker.load(), **index)
    };
    workers.iter().min_by_key(rank).map(|(&index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Capacity;

    /// Workers with so many peers and thousandths of business each.
    fn workers(of: &[(usize, u32)]) -> Workers {
        let worker = |(index, &(peers, busy)): (usize, &(usize, u32))| {
            let capacity = Capacity { peers: 100, remote: 0, streams: 100, slots: 100 };
            let mut worker = Worker::new(Plan::new(index, capacity, 1), &Addresses::default(), Vec::new());
            worker.journal = None;
            worker.busy = busy;
            for _ in 0..peers {
                worker.plan.issue_peer().unwrap();
            }
            (index, worker)
        };
        of.iter().enumerate().map(worker).collect()
    }

    fn place_of<const N: usize>(of: &[(usize, u32)], members: [(usize, usize); N]) -> Option<usize> {
        place(&workers(of), &members.into(), 4)
    }

    #[test]
    fn a_new_room_goes_where_least_is_done() {
        assert_eq!(place_of(&[], []), None);
        assert_eq!(place_of(&[(0, 0), (0, 0)], []), Some(0));
        assert_eq!(place_of(&[(3, 0), (2, 0), (2, 0)], []), Some(1), "fewest peers");
        assert_eq!(place_of(&[(3, 100), (20, 10)], []), Some(1), "business weighs more than peers that do nothing");
        assert_eq!(place_of(&[(60, 10), (3, 100)], []), Some(1), "who came just now will do something soon");
        assert_eq!(place_of(&[(100, 0), (99, 900)], []), Some(1), "the other is full");
    }

    #[test]
    fn a_room_stays_together_until_a_worker_has_enough_of_it() {
        let idle = [(3, 0), (0, 0), (1, 0)];
        assert_eq!(place_of(&idle, [(0, 3)]), Some(0));
        assert_eq!(place_of(&idle, [(0, 4)]), Some(1));
        assert_eq!(place_of(&idle, [(0, 4), (2, 1)]), Some(2), "no third worker while the second has room");
        assert_eq!(place_of(&idle, [(0, 3), (2, 1)]), Some(0), "who left made room");
        assert_eq!(place_of(&idle, [(0, 4), (1, 5), (2, 4)]), Some(1), "everywhere enough: the least loaded");
        assert_eq!(place_of(&[(3, 801), (0, 100)], [(0, 3)]), Some(1), "a busy worker keeps what it has");
        assert_eq!(place_of(&[(3, 801), (0, 900)], [(0, 3)]), Some(0), "unless they all are");
    }

    #[test]
    fn business_is_smoothed_and_comes_to_rest() {
        let mut workers = workers(&[(0, 0)]);
        let worker = workers.get_mut(&0).unwrap();
        (0..10).for_each(|_| worker.was_busy(700));
        assert_eq!(worker.busy, 700);
        worker.was_busy(5_000_000);
        assert_eq!(worker.busy, 850);
        (0..20).for_each(|_| worker.was_busy(0));
        assert!(worker.busy <= 1);
    }
}
