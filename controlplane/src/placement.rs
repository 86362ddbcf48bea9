//! Which worker carries a room.
//!
//! A room lives on one worker, so that no packet crosses cores; a new room goes where the fewest peers are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::ice;
use crate::reconcile::Plan;

/// A worker as the engine sees it.
pub(crate) struct Worker {
    /// What it should have and what it has.
    pub(crate) plan: Plan,
    /// Our candidates there.
    pub(crate) candidates: Vec<String>,
    /// What an earlier controlplane left, until the worker has said what it has.
    pub(crate) journal: Option<Vec<(u32, Vec<u8>)>>,
}

impl Worker {
    /// A worker whose link came up.
    pub(crate) fn new(plan: Plan, addresses: &[SocketAddr], journal: Vec<(u32, Vec<u8>)>) -> Self {
        Self { plan, candidates: ice::host_candidates(addresses), journal: Some(journal) }
    }

    /// Whether it takes joins: whatever an earlier controlplane left there is adopted.
    pub(crate) fn is_ready(&self) -> bool {
        self.journal.is_none()
    }
}

/// The worker for a new room. `None` while any worker may still bring back a room of that name.
pub(crate) fn place(workers: &BTreeMap<usize, Worker>) -> Option<usize> {
    if !workers.values().all(Worker::is_ready) {
        return None;
    }
    workers.iter().min_by_key(|(_, worker)| worker.plan.peer_count()).map(|(&index, _)| index)
}
