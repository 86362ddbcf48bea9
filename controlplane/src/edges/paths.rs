//! The ways from here to a worker of another edge, as the edge decides them whose name comes first: directly, or through a third edge. The
//! choice is [`crate::overlay`]'s; here it gets names and flows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::plane::PathState;
use serde::{Deserialize, Serialize};

use super::message::FLOW_BITS;
use crate::bus::NodeNews;
use crate::overlay::{Found, Leg, Legged, Legs, NodeNumber, Paths, Site, Via};
use crate::random::Random;

/// Edges that are considered as third ones: those nearest by name, so that both ends measure the same.
pub(crate) const RELAYS_MAX: usize = 40;

/// How often a third edge is told what it passes on, and for how long it does without being told.
pub(crate) const TOLD_INTERVAL: Duration = Duration::from_secs(20);
pub(crate) const PASSED_ON: Duration = Duration::from_secs(70);

/// How old a measurement may be.
const MEASURED: Duration = Duration::from_secs(15);

/// A way to the other end of a link.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Way {
    /// Directly.
    Direct,
    /// Through this node.
    Through(String),
}

/// The flows of a way through a third edge, at both ends of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Flows {
    /// In which this end sends, and receives.
    pub(crate) ours: (u64, u64),
    /// The same of the other end.
    pub(crate) theirs: (u64, u64),
}

impl Flows {
    fn new(random: &mut Random) -> Flows {
        let mut flow = || (u64::from_le_bytes(random.bytes()) & ((1 << FLOW_BITS) - 1)).max(1);
        Flows { ours: (flow(), flow()), theirs: (flow(), flow()) }
    }
}

/// Numbers that stand for names: nodes, carriers and regions. A name keeps its number.
#[derive(Default)]
pub(crate) struct Numbers {
    names: BTreeMap<String, u16>,
}

impl Numbers {
    /// That of a name. After 65,535 names, which no cluster has, they share the last.
    pub(crate) fn of(&mut self, name: &str) -> u16 {
        let next = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        *self.names.entry(name.to_owned()).or_insert(next)
    }

    fn name(&self, number: u16) -> Option<&String> {
        self.names.iter().find(|(_, of_name)| **of_name == number).map(|(name, _)| name)
    }
}

/// The ways of one link. What was measured of them is not journaled: the worker says it again.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Ways {
    /// As they are told to the worker, the preferred one first.
    pub(crate) order: Vec<Way>,
    flows: BTreeMap<String, Flows>,
    #[serde(skip)]
    found: BTreeMap<Way, (Instant, Leg, PathState)>,
    #[serde(skip)]
    paths: Paths,
    /// What the other end has measured to third edges.
    #[serde(skip)]
    pub(crate) theirs: BTreeMap<String, Leg>,
    /// When third edges and the other end were last told.
    #[serde(skip)]
    pub(crate) told_at: Option<Instant>,
}

impl Ways {
    /// Flows of the way through a node, if there is one.
    pub(crate) fn flows(&self, node: &str) -> Option<Flows> {
        self.flows.get(node).copied()
    }

    /// The worker has measured the way of this place.
    pub(crate) fn measured(&mut self, now: Instant, place: u8, leg: Leg, state: PathState) {
        let way = self.order.get(usize::from(place)).cloned();
        let way = way.or_else(|| (place == 0 && self.order.is_empty()).then_some(Way::Direct));
        if let Some(way) = way {
            self.found.insert(way, (now, leg, state));
        }
    }

    /// Whether no way answers, as far as they are measured.
    pub(crate) fn are_dead(&self, now: Instant) -> bool {
        let mut known = self.found.values().filter(|(at, ..)| now < *at + MEASURED).peekable();
        known.peek().is_some() && known.all(|(_, _, state)| *state == PathState::Dead)
    }

    /// What is known of the direct way, if it answers.
    pub(crate) fn direct(&self, now: Instant) -> Option<Leg> {
        let (at, leg, state) = self.found.get(&Way::Direct)?;
        // A leg is probed so slowly that it takes a while until it is judged; that it answers is enough.
        let answers = *state != PathState::Dead && leg.rtt_us > 0;
        (answers && now < *at + MEASURED).then_some(*leg)
    }

    /// What is known of each way: the node that it goes through, if any, what was measured, and how it is.
    pub(crate) fn known(&self, now: Instant) -> impl Iterator<Item = (Option<&str>, Leg, PathState)> {
        self.found.iter().filter(move |(_, (at, ..))| now < *at + MEASURED).map(|(way, (_, leg, state))| match way {
            Way::Direct => (None, *leg, *state),
            Way::Through(node) => (Some(node.as_str()), *leg, *state),
        })
    }

    /// Whether something is known of each way that the worker has: before, another order would be a guess.
    pub(crate) fn are_measured(&self) -> bool {
        self.order.iter().all(|way| self.found.contains_key(way))
    }

    /// Decides the order anew. `ours`: what this edge has measured to third edges. Whether it is another one than before.
    pub(crate) fn decide(
        &mut self,
        now: Instant,
        (here, there): (Site, Site),
        relays: &[Site],
        ours: &Legs,
        numbers: &mut Numbers,
        random: &mut Random,
    ) -> bool {
        let theirs: Legs = self.theirs.iter().map(|(node, leg)| (numbers.of(node), *leg)).collect();
        let mut found = Vec::new();
        for (way, (at, leg, state)) in &self.found {
            let via = match way {
                Way::Direct => Via::Direct,
                Way::Through(node) => Via::Relay(numbers.of(node.as_str())),
            };
            match state {
                _ if now >= *at + MEASURED => {}
                PathState::Good => found.push((via, Found::Good(*leg))),
                PathState::Bad | PathState::Dead => found.push((via, Found::Refused)),
                PathState::Unknown => {}
            }
        }
        let legged = Legged { here, there, relays, ours, theirs: &theirs };
        let order = self.paths.update(now, &legged, &found);
        let way = |via: &Via| match via {
            Via::Direct => Some(Way::Direct),
            Via::Relay(number) => numbers.name(*number).cloned().map(Way::Through),
        };
        let mut order: Vec<Way> = order.iter().filter_map(way).collect();
        // The direct one is the last of the list, where it is not the best, and is probed always.
        let most = proto::plane::PEER_CANDIDATES_MAX;
        if order.len() > most {
            order.retain(|way| *way != Way::Direct);
            order.truncate(most - 1);
            order.push(Way::Direct);
        }
        for way in &order {
            if let Way::Through(node) = way {
                self.flows.entry(node.clone()).or_insert_with(|| Flows::new(random));
            }
        }
        self.flows.retain(|node, _| order.contains(&Way::Through(node.clone())));
        self.found.retain(|way, _| order.contains(way) || *way == Way::Direct);
        let is_other = self.order != order;
        self.order = order;
        is_other
    }
}

/// Where a node is.
pub(crate) fn site_of(numbers: &mut Numbers, node: &NodeNews) -> Site {
    site(numbers, &node.node.node, &node.carrier, &node.region)
}

/// The same by its words.
pub(crate) fn site(numbers: &mut Numbers, node: &str, carrier: &str, region: &str) -> Site {
    let number: NodeNumber = numbers.of(node);
    Site {
        node: number,
        carrier: numbers.of(&format!("carrier {carrier}")),
        region: numbers.of(&format!("region {region}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(rtt_us: u32) -> Leg {
        Leg { rtt_us, jitter_us: 0, loss_ppm: 0 }
    }

    #[test]
    fn a_third_edge_is_chosen_where_it_is_nearer_and_has_flows_of_its_own() {
        let (mut numbers, mut random, now) = (Numbers::default(), Random::new(&[1; 32]), Instant::now());
        let [here, there, third] = ["a", "b", "c"].map(|node| site(&mut numbers, node, "", ""));
        let mut ways = Ways::default();
        let ours = Legs::from([(third.node, leg(20_000))]);
        ways.measured(now, 0, leg(150_000), PathState::Good);
        assert!(ways.decide(now, (here, there), &[third], &ours, &mut numbers, &mut random));
        assert_eq!(ways.order, [Way::Direct], "nobody has told of the other half");
        ways.theirs.insert("c".into(), leg(30_000));
        assert!(ways.decide(now, (here, there), &[third], &ours, &mut numbers, &mut random));
        assert_eq!(ways.order, [Way::Through("c".into()), Way::Direct]);
        let flows = ways.flows("c").unwrap();
        assert!(!ways.decide(now, (here, there), &[third], &ours, &mut numbers, &mut random));
        assert_eq!(ways.flows("c"), Some(flows), "they stay");
        ways.measured(now, 0, leg(0), PathState::Dead);
        assert!(ways.decide(now, (here, there), &[third], &ours, &mut numbers, &mut random));
        assert_eq!(ways.order[0], Way::Direct, "the worker has found the other one dead");
    }
}
