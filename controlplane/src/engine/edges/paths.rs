//! Paths between edges: what is measured, which ways links take, and what this edge passes on for others.
//!
//! Of the two ends of a link the one whose name comes first decides for both: it has measured its legs to third edges, and the other end
//! tells it its own. The worker leaves a way that is dead or bad by itself, within a second; the order of what it may take is decided here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::plane::PathMeasured;

use super::super::{Engine, Handle};
use crate::bus::Sender;
use crate::edges::link::LinkKey;
use crate::edges::message::{LEGS_MAX, LegSaid, RelaySaid, Telling, WaySaid, WaysSaid};
use crate::edges::paths::{RELAYS_MAX, TOLD_INTERVAL, Way, site, site_of};
use crate::edges::relay::PairKey;
use crate::overlay::{Leg, Legs};
use crate::placement::plan_of;
use crate::snapshot::EdgePath;

impl Engine {
    /// A worker has measured a way of a link.
    pub(in crate::engine) fn path_measured(&mut self, now: Instant, worker: usize, measured: &PathMeasured) {
        let Some(key) = self.link_at(Handle { worker, peer: measured.peer }) else { return };
        let PathMeasured { rtt_us, jitter_us, loss_ppm, .. } = *measured;
        if let Some(link) = self.edges.links.get_mut(&key) {
            link.ways.measured(now, measured.place, Leg { rtt_us, jitter_us, loss_ppm }, measured.state);
        }
    }

    /// Looks after the ways of all links: measures, decides, and tells.
    pub(super) fn look_after_paths(&mut self, now: Instant, used: &[LinkKey]) {
        for (worker, relays) in self.edges.relays.expire(now) {
            if let Some(plan) = plan_of(&mut self.workers, worker) {
                relays.into_iter().for_each(|relay| plan.unwant_relay(relay));
            }
        }
        // Without the cluster nobody can be told of another order.
        if used.is_empty() || self.edges.nodes.len() < 2 || !self.edges.is_connected {
            return;
        }
        // Legs to third edges are measured while anything crosses to anybody.
        for node in self.third_edges() {
            let key = LinkKey { node, ours: 0, theirs: 0 };
            self.link_to(now, &key);
        }
        let Some(ours) = self.edges.node.clone() else { return };
        let legs = self.legs(now);
        for key in used {
            match *ours < *key.node {
                true => self.decide_ways(now, key),
                false => self.tell_node(&key.node, &Telling::Legs { legs: legs.clone() }),
            }
        }
    }

    /// The paths to other edges of which something is known. Of several pairs of workers of the same two edges the first is taken: their paths
    /// are the same network's.
    pub fn edge_paths(&self, now: Instant) -> Vec<EdgePath> {
        let mut paths: Vec<EdgePath> = Vec::new();
        for (key, link) in &self.edges.links {
            for (through, leg, state) in link.ways.known(now) {
                if paths.iter().any(|path| path.node == key.node && path.through.as_deref() == through) {
                    continue;
                }
                paths.push(EdgePath {
                    node: key.node.clone(),
                    through: through.map(str::to_owned),
                    round_trip: (leg.rtt_us > 0).then(|| Duration::from_micros(leg.rtt_us.into())),
                    jitter: Duration::from_micros(leg.jitter_us.into()),
                    loss: f64::from(leg.loss_ppm) / 1e6,
                    state,
                });
            }
        }
        paths
    }

    /// Nodes through which links may go.
    fn third_edges(&self) -> Vec<String> {
        self.edges.nodes.keys().take(RELAYS_MAX).cloned().collect()
    }

    /// What this edge has measured to others.
    fn legs(&self, now: Instant) -> Vec<LegSaid> {
        let mut legs: Vec<LegSaid> = Vec::new();
        for (key, link) in &self.edges.links {
            let is_told = legs.iter().any(|leg| leg.node == key.node);
            if let Some(leg) = link.ways.direct(now).filter(|_| !is_told && legs.len() < LEGS_MAX) {
                let Leg { rtt_us, jitter_us, loss_ppm } = leg;
                legs.push(LegSaid { node: key.node.clone(), rtt_us, jitter_us, loss_ppm });
            }
        }
        legs
    }

    /// Another edge tells what it has measured.
    pub(super) fn legs_told(&mut self, from: &Sender, legs: &[LegSaid]) {
        for (_, link) in self.edges.links.iter_mut().filter(|(key, _)| key.node == from.node) {
            let leg = |said: &LegSaid| {
                let LegSaid { node, rtt_us, jitter_us, loss_ppm } = said.clone();
                (node, Leg { rtt_us, jitter_us, loss_ppm })
            };
            link.ways.theirs = legs.iter().map(leg).collect();
        }
    }

    /// Decides the ways of a link for both of its ends, and has third edges pass on what they are needed for.
    fn decide_ways(&mut self, now: Instant, key: &LinkKey) {
        let Some(own) = self.edges.node.clone() else { return };
        let legs = self.legs(now);
        let third = self.third_edges();
        let Engine { edges, random, .. } = self;
        let Some(there) = edges.nodes.get(&key.node) else { return };
        let there = site_of(&mut edges.numbers, there);
        let (carrier, region) = edges.place.clone();
        let here = site(&mut edges.numbers, &own, &carrier, &region);
        let mut relays = Vec::new();
        for node in third.iter().filter_map(|node| edges.nodes.get(node)) {
            relays.push(site_of(&mut edges.numbers, node));
        }
        let ours: Legs = legs
            .iter()
            .map(|leg| {
                let LegSaid { rtt_us, jitter_us, loss_ppm, .. } = *leg;
                (edges.numbers.of(&leg.node), Leg { rtt_us, jitter_us, loss_ppm })
            })
            .collect();
        let Some(link) = edges.links.get_mut(key).filter(|link| link.ways.are_measured()) else { return };
        let is_other = link.ways.decide(now, (here, there), &relays, &ours, &mut edges.numbers, random);
        let is_due = link.ways.told_at.is_none_or(|at| at + TOLD_INTERVAL <= now);
        let is_plain = link.ways.order == [Way::Direct];
        if !is_other && (!is_due || is_plain) {
            return;
        }
        link.ways.told_at = Some(now);
        self.tell_ways(key);
    }

    /// Tells the other end of a link by which ways it is reached, third edges what they pass on, and our worker what it asks.
    fn tell_ways(&mut self, key: &LinkKey) {
        let Some(link) = self.edges.links.get(key) else { return };
        let ours = u16::try_from(key.ours).unwrap_or(u16::MAX);
        let (mut here, mut there, mut relays) = (Vec::new(), Vec::new(), Vec::new());
        for way in &link.ways.order {
            let Way::Through(third) = way else {
                here.push(WaySaid { through: None, flows: (0, 0) });
                there.push(WaySaid { through: None, flows: (0, 0) });
                continue;
            };
            let (Some(flows), Some(node)) = (link.ways.flows(third), self.edges.nodes.get(third)) else { continue };
            let workers = u16::try_from(node.workers.len()).unwrap_or(u16::MAX).max(1);
            let worker = ours.wrapping_add(key.theirs) % workers;
            here.push(WaySaid { through: Some((third.clone(), worker)), flows: flows.ours });
            there.push(WaySaid { through: Some((third.clone(), worker)), flows: flows.theirs });
            let said = RelaySaid {
                worker,
                ours,
                other: (key.node.clone(), key.theirs),
                sends: flows.ours.0,
                receives: flows.ours.1,
                other_sends: flows.theirs.0,
                other_receives: flows.theirs.1,
            };
            relays.push((third.clone(), said));
        }
        for (third, said) in relays {
            self.tell_node(&third, &Telling::Relay(said));
        }
        let said = WaysSaid { ours, theirs: key.theirs, ways: there };
        self.tell_node(&key.node, &Telling::Ways(said));
        self.take_ways(key, &here);
    }

    /// The other end of a link tells by which ways it is reached. It is believed only if it is the one that decides.
    pub(super) fn ways_told(&mut self, from: &Sender, said: &WaysSaid) {
        let key = LinkKey { node: from.node.clone(), ours: usize::from(said.theirs), theirs: said.ours };
        let decides = self.edges.node.as_ref().is_some_and(|own| *from.node < **own);
        if decides && self.edges.links.contains_key(&key) {
            self.take_ways(&key, &said.ways);
        }
    }

    /// A worker is told the ways of a link. Addresses are those that nodes have told of themselves.
    fn take_ways(&mut self, key: &LinkKey, ways: &[WaySaid]) {
        let Engine { edges, workers, .. } = self;
        let address =
            |node: &str, worker: u16| edges.nodes.get(node)?.workers.get(usize::from(worker))?.first().copied();
        let Some(direct) = address(&key.node, key.theirs) else { return };
        let mut reached: Vec<(SocketAddr, (u64, u64))> = Vec::new();
        let mut order = Vec::new();
        for way in ways {
            match &way.through {
                None => {
                    reached.push((direct, (0, 0)));
                    order.push(Way::Direct);
                }
                Some((node, worker)) => {
                    let Some(remote) = address(node, *worker).filter(|at| at.is_ipv4() == direct.is_ipv4()) else {
                        continue;
                    };
                    reached.push((remote, way.flows));
                    order.push(Way::Through(node.clone()));
                }
            }
        }
        let (Some(link), Some(plan)) = (edges.links.get_mut(key), plan_of(workers, key.ours)) else { return };
        link.ways.order = order;
        link.reach(&reached, plan);
        self.journal_link(key);
    }

    /// Another edge wants this one to pass on what it and a third one send each other.
    pub(super) fn relay_ordered(&mut self, now: Instant, from: &Sender, said: &RelaySaid) {
        let Engine { edges, workers, .. } = self;
        if edges.node.as_ref() == Some(&said.other.0) || from.node == said.other.0 {
            return;
        }
        let address =
            |node: &str, worker: u16| edges.nodes.get(node)?.workers.get(usize::from(worker))?.first().copied();
        let Some(orderer) = address(&from.node, said.ours) else { return };
        let Some(other) = address(&said.other.0, said.other.1) else { return };
        let worker = usize::from(said.worker);
        let Some(plan) = plan_of(workers, worker) else { return };
        let key = PairKey { orderer: (from.node.clone(), said.ours), other: said.other.clone(), worker };
        edges.relays.open(now, key, said, [orderer, other], plan);
        self.set_look_timer(now);
    }
}
