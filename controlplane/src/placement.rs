//! Which worker carries a room.
//!
//! A room lives on one worker, so that no packet crosses cores; a new room goes where the fewest peers are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use proto::id::PeerId;

use crate::ice;
use crate::policy::PEERS_PER_WORKER_CEILING;
use crate::reconcile::Plan;

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
}

impl Worker {
    /// A worker whose link came up.
    pub(crate) fn new(plan: Plan, addresses: &[SocketAddr], journal: Vec<(u32, Vec<u8>)>) -> Self {
        Self { plan, candidates: ice::host_candidates(addresses), journal: Some(journal), expired: BTreeSet::new() }
    }

    /// Whether it takes joins: whatever an earlier controlplane left there is adopted.
    pub(crate) fn is_ready(&self) -> bool {
        self.journal.is_none()
    }

    /// The consent of a peer that may be about to be adopted has ended.
    pub(crate) fn expire(&mut self, peer: PeerId) {
        if !self.is_ready() && self.expired.len() < PEERS_PER_WORKER_CEILING {
            self.expired.insert(peer);
        }
    }
}

/// The worker for a new room. `None` while any worker may still bring back a room of that name.
pub(crate) fn place(workers: &BTreeMap<usize, Worker>) -> Option<usize> {
    if !workers.values().all(Worker::is_ready) {
        return None;
    }
    workers.iter().min_by_key(|(_, worker)| worker.plan.peer_count()).map(|(&index, _)| index)
}
