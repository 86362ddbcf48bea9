//! What an edge passes on between two others: who orders it, between which of their workers, and until when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use proto::id::RelayId;
use proto::plane::{RelayOpen, RelayRate};

use super::message::RelaySaid;
use super::paths::PASSED_ON;
use crate::reconcile::Plan;

/// Pairs of others between whom an edge passes something on.
const PAIRS_MAX: usize = 1024;

/// What one pair may send through this edge in each direction, bit/s: more than a full room of them, and a part of a port of 1 Gb/s.
const BPS_MAX: u32 = 200_000_000;

/// A pair: the two nodes and their workers, and the worker here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct PairKey {
    /// The node that orders it, and its worker.
    pub(crate) orderer: (String, u16),
    /// The other end.
    pub(crate) other: (String, u16),
    /// The worker that passes it on.
    pub(crate) worker: usize,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Relays {
    pairs: BTreeMap<PairKey, Pair>,
}

struct Pair {
    /// There, and back.
    relays: [RelayId; 2],
    said: RelaySaid,
    addresses: [SocketAddr; 2],
    told_at: Instant,
}

impl Relays {
    /// Pairs that there are.
    pub(crate) fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Passes on what these two send each other, from now on. The addresses are those of the workers that were named, by what is known of
    /// their nodes here.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        key: PairKey,
        said: &RelaySaid,
        addresses: [SocketAddr; 2],
        plan: &mut Plan,
    ) {
        if let Some(pair) = self.pairs.get_mut(&key) {
            pair.told_at = now;
            if pair.said == *said && pair.addresses == addresses {
                return;
            }
            let pair = self.pairs.remove(&key).expect("it was there just now");
            pair.relays.into_iter().for_each(|relay| plan.unwant_relay(relay));
        }
        if self.pairs.len() >= PAIRS_MAX {
            return;
        }
        let [orderer, other] = addresses;
        let there = plan.want_relay(|relay| RelayOpen {
            relay,
            flow: said.sends,
            from: orderer,
            to: other,
            to_flow: said.other_receives,
        });
        let back = plan.want_relay(|relay| RelayOpen {
            relay,
            flow: said.other_sends,
            from: other,
            to: orderer,
            to_flow: said.receives,
        });
        let (Some(there), Some(back)) = (there, back) else {
            there.into_iter().chain(back).for_each(|relay| plan.unwant_relay(relay));
            return;
        };
        for relay in [there, back] {
            plan.want(RelayRate { relay, bps_max: BPS_MAX });
        }
        self.pairs.insert(key, Pair { relays: [there, back], said: said.clone(), addresses, told_at: now });
    }

    /// Ends what nobody has ordered for a while; the relays that are to be closed, with their worker.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(usize, [RelayId; 2])> {
        let over = self.pairs.extract_if(.., |_, pair| pair.told_at + PASSED_ON <= now);
        over.map(|(key, pair)| (key.worker, pair.relays)).collect()
    }

    /// A worker is gone.
    pub(crate) fn lose_worker(&mut self, worker: usize) {
        self.pairs.retain(|key, _| key.worker != worker);
    }
}
