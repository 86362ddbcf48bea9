//! The clock of many edges.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use controlplane::overlay::{Legged, Legs, Site};
use dataplane::config::OVERLAY_PROBE_INTERVAL;
use dataplane::overlay::{Monitor, State, Via};

use super::flow::{self, Flow};
use super::score::{Cause, Sample, Score, Traffic, Trouble};
use super::world::{Micros, Plan, SECOND, Truth, World};
use crate::random::Random;

/// How often an edge probes the edges that relay, which its own media does not use now.
const MESH_INTERVAL: Micros = 2 * SECOND;
/// How often the ends of a pair tell each other what they measure, and choose anew.
const ROW_INTERVAL: Micros = 2 * SECOND;
/// How often a worker looks at its paths, and media is reported.
const LOOK_INTERVAL: Micros = 100_000;
/// Packets of media between two looks: a voice and a small picture.
const PACKETS: u32 = 10;
/// How often the choice is compared with the best one.
const SAMPLE_INTERVAL: Micros = SECOND;
/// A path that is well has been so for this long before it is missed: nobody can know sooner.
const KNOWN_AFTER: Micros = 2_500_000;
/// What is before this is the start.
const START: Micros = 10 * SECOND;

/// Bytes on the wire of a probe: headers of IPv4 and UDP, and a Binding request with USERNAME, PRIORITY, ICE-CONTROLLED, MESSAGE-INTEGRITY and
/// FINGERPRINT.
const PROBE_LEN: u64 = 28 + 20 + 24 + 8 + 12 + 24 + 8;
/// … and of its answer, which has XOR-MAPPED-ADDRESS.
const ANSWER_LEN: u64 = 28 + 20 + 12 + 24 + 8;
/// The header of a flow, on what another edge passes on.
const FLOW_LEN: u64 = 8;
/// Bytes of a row: its headers, and a leg.
const ROW_LEN: u64 = 28 + 40;
const LEG_LEN: u64 = 6;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Probe(usize, Via),
    Answer(usize, Via, u32),
    MeshProbe(usize),
    MeshAnswer(usize, u32),
    Look(usize),
    Row(usize),
    Sample(usize),
}

struct Clock {
    due: BinaryHeap<Reverse<(Micros, u64, Due)>>,
    count: u64,
}

impl Clock {
    fn at(&mut self, time: Micros, due: Due) {
        self.count += 1;
        self.due.push(Reverse((time, self.count, due)));
    }
}

struct Run {
    world: World,
    random: Random,
    clock: Clock,
    flows: Vec<Flow>,
    /// From, to, and what is measured between them.
    mesh: Vec<(u16, u16, Monitor)>,
    /// Index of the first of each edge in `mesh`.
    mesh_of: Vec<std::ops::Range<usize>>,
    relays: Vec<Site>,
    /// What the other end of each flow has last told of its legs.
    rows: Vec<Legs>,
    /// The best path of each flow, and since when it is.
    best: Vec<(Via, Micros)>,
    score: Score,
}

/// Runs a plan with a seed.
pub fn run(plan: Plan, seed: u64) -> Score {
    let world = World::new(seed, plan);
    let mut random = Random::new(seed, 11);
    let mut clock = Clock { due: BinaryHeap::new(), count: 0 };
    let relays: Vec<Site> =
        (0..plan.edges as u16).filter(|&at| world.edges[usize::from(at)].relays).map(|at| world.site(at)).collect();

    let mut flows = Vec::new();
    for _ in 0..plan.pairs {
        let (a, b) = (random.below(plan.edges as u64) as u16, random.below(plan.edges as u64) as u16);
        if a != b && !flows.iter().any(|flow: &Flow| (flow.from, flow.to) == (a, b) || (flow.from, flow.to) == (b, a)) {
            flows.push(Flow::new(a, b, 0, OVERLAY_PROBE_INTERVAL));
            flows.push(Flow::new(b, a, 0, OVERLAY_PROBE_INTERVAL));
        }
    }
    let (mut mesh, mut mesh_of) = (Vec::new(), Vec::new());
    for from in 0..plan.edges as u16 {
        let first = mesh.len();
        for relay in relays.iter().filter(|relay| relay.node != from) {
            mesh.push((from, relay.node, Monitor::new(0, MESH_INTERVAL)));
        }
        mesh_of.push(first..mesh.len());
    }
    for at in 0..flows.len() {
        clock.at(random.below(OVERLAY_PROBE_INTERVAL), Due::Probe(at, Via::Direct));
        clock.at(random.below(LOOK_INTERVAL), Due::Look(at));
        clock.at(3 * SECOND + random.below(ROW_INTERVAL), Due::Row(at));
        clock.at(START + random.below(SAMPLE_INTERVAL), Due::Sample(at));
    }
    for at in 0..mesh.len() {
        clock.at(random.below(MESH_INTERVAL), Due::MeshProbe(at));
    }
    let is_relay = world.edges.iter().map(|edge| edge.relays).collect();
    let score = Score::new(plan, flows.len(), is_relay);
    let rows = vec![Legs::new(); flows.len()];
    let best = vec![(Via::Direct, 0); flows.len()];
    let mut run = Run { world, random, clock, flows, mesh, mesh_of, relays, rows, best, score };
    run.until(plan.seconds * SECOND);
    run.score
}

impl Run {
    fn until(&mut self, end: Micros) {
        while let Some(Reverse((now, _, due))) = self.clock.due.pop() {
            if now >= end {
                return;
            }
            self.world.advance(now);
            match due {
                Due::Probe(flow, via) => self.probe(now, flow, via),
                Due::Answer(flow, via, number) => {
                    if let Some(monitor) = self.flows[flow].monitor(via) {
                        monitor.answered(now, number);
                    }
                }
                Due::MeshProbe(at) => self.mesh_probe(now, at),
                Due::MeshAnswer(at, number) => {
                    self.mesh[at].2.answered(now, number);
                }
                Due::Look(flow) => self.look(now, flow),
                Due::Row(flow) => self.row(now, flow),
                Due::Sample(flow) => self.sample(now, flow),
            }
        }
    }

    /// What a packet and its answer meet on a path.
    fn truth(&self, from: u16, to: u16, via: Via, now: Micros) -> Truth {
        match via {
            Via::Direct => self.world.truth(from, to, now),
            Via::Relay(relay) => self.world.truth(from, relay, now).and(self.world.truth(relay, to, now)),
        }
    }

    /// All paths between two edges.
    fn paths(&self, from: u16, to: u16) -> impl Iterator<Item = Via> + '_ {
        let relays = self.relays.iter().filter(move |relay| relay.node != from && relay.node != to);
        relays.map(|relay| Via::Relay(relay.node)).chain([Via::Direct])
    }

    /// Whether a path is good, and has been for as long as it takes to know.
    fn is_well(&self, from: u16, to: u16, via: Via, now: Micros) -> bool {
        let is_well =
            |truth: Truth| Trouble::of(truth) == Trouble::None && truth.loss_ppm < 12_000 && truth.rtt_us < 320_000;
        let before = now.saturating_sub(KNOWN_AFTER);
        is_well(self.truth(from, to, via, now))
            && is_well(match via {
                Via::Direct => self.world.truth_at(from, to, before),
                Via::Relay(relay) => {
                    self.world.truth_at(from, relay, before).and(self.world.truth_at(relay, to, before))
                }
            })
    }

    /// When an answer comes, if it does.
    fn answered_at(&mut self, truth: Truth, now: Micros) -> Option<Micros> {
        let is_lost = truth.is_dead || self.random.below(1_000_000) < u64::from(truth.loss_ppm);
        let jitter = self.random.below(2 * u64::from(truth.jitter_us) + 1);
        (!is_lost).then(|| now + u64::from(truth.rtt_us) + jitter)
    }

    fn probe(&mut self, now: Micros, at: usize, via: Via) {
        let (from, to) = (self.flows[at].from, self.flows[at].to);
        let Some(monitor) = self.flows[at].monitor(via) else { return };
        let number = monitor.poll_probe(now);
        let next = monitor.poll_timeout().max(now + 1_000);
        if let Some(number) = number {
            let truth = self.truth(from, to, via, now);
            let answered_at = self.answered_at(truth, now);
            self.count_probe((from, to), via, answered_at.is_some(), Traffic::Paths);
            if let Some(at_time) = answered_at {
                self.clock.at(at_time, Due::Answer(at, via, number));
            }
        }
        self.clock.at(next, Due::Probe(at, via));
    }

    /// What a probe and its answer take: of the two ends, and of the edge that passes them on. What is lost counts as sent by who asks alone.
    fn count_probe(&mut self, (from, to): (u16, u16), via: Via, is_answered: bool, what: Traffic) {
        let header = if via == Via::Direct { 0 } else { FLOW_LEN };
        let answer = if is_answered { ANSWER_LEN + header } else { 0 };
        self.score.sent(from, what, PROBE_LEN + header);
        self.score.sent(to, what, answer);
        if let Via::Relay(relay) = via {
            self.score.sent(relay, Traffic::PassedOn, PROBE_LEN + header + answer);
        }
    }

    fn mesh_probe(&mut self, now: Micros, at: usize) {
        let (from, to, monitor) = &mut self.mesh[at];
        let (from, to) = (*from, *to);
        let number = monitor.poll_probe(now);
        let next = monitor.poll_timeout().max(now + 1_000);
        if let Some(number) = number {
            let truth = self.world.truth(from, to, now);
            let answered_at = self.answered_at(truth, now);
            self.count_probe((from, to), Via::Direct, answered_at.is_some(), Traffic::Legs);
            if let Some(at_time) = answered_at {
                self.clock.at(at_time, Due::MeshAnswer(at, number));
            }
        }
        self.clock.at(next, Due::MeshProbe(at));
    }

    /// The other end reports what media has arrived, and the worker looks at its paths.
    fn look(&mut self, now: Micros, at: usize) {
        let (from, to, via) = (self.flows[at].from, self.flows[at].to, self.flows[at].selection.current());
        let truth = self.truth(from, to, via, now);
        let lost = match truth.is_dead {
            true => PACKETS,
            false => (0..PACKETS).filter(|_| self.random.below(1_000_000) < u64::from(truth.loss_ppm)).count() as u32,
        };
        let trouble = Trouble::of(truth);
        let has_other = trouble != Trouble::None && self.paths(from, to).any(|via| self.is_well(from, to, via, now));
        self.score.passed(at, LOOK_INTERVAL, trouble, has_other);
        // On a dead path no report comes either.
        if !truth.is_dead
            && let Some(monitor) = self.flows[at].monitor(via)
        {
            monitor.carried(now, PACKETS - lost, lost);
        }
        let (moved, wants_others) = self.flows[at].look(now);
        if moved.is_some() {
            self.score.moved(at, now);
        }
        if moved.is_some() || wants_others {
            self.order(now, at);
        }
        self.clock.at(now + LOOK_INTERVAL, Due::Look(at));
    }

    /// What an edge has measured toward those that relay, and to the other end.
    fn legs(&self, of: u16, now: Micros) -> Legs {
        let mesh = &self.mesh[self.mesh_of[usize::from(of)].clone()];
        let answering = mesh.iter().filter(|(_, _, monitor)| monitor.state(now) != dataplane::overlay::State::Dead);
        answering.filter_map(|(_, to, monitor)| Some((*to, flow::leg(monitor.measured()?)))).collect()
    }

    fn order(&mut self, now: Micros, at: usize) {
        let (from, to) = (self.flows[at].from, self.flows[at].to);
        let sites = (self.world.site(from), self.world.site(to));
        let ours = self.legs(from, now);
        // Rows ride on the path that carries the media: with a dead one no new row comes, and the last one counts.
        if !self.truth(from, to, self.flows[at].selection.current(), now).is_dead {
            self.rows[at] = self.legs(to, now);
        }
        let before: Vec<_> = self.flows[at].monitors.iter().map(|(via, _)| *via).collect();
        let (here, there) = sites;
        let legged = Legged { here, there, relays: &self.relays, ours: &ours, theirs: &self.rows[at] };
        self.flows[at].order(now, &legged);
        let new: Vec<_> =
            self.flows[at].monitors.iter().map(|(via, _)| *via).filter(|via| !before.contains(via)).collect();
        for via in new {
            self.clock.at(now, Due::Probe(at, via));
        }
    }

    fn row(&mut self, now: Micros, at: usize) {
        self.score.sent(self.flows[at].from, Traffic::Rows, ROW_LEN + LEG_LEN * self.relays.len() as u64);
        self.order(now, at);
        self.clock.at(now + ROW_INTERVAL, Due::Row(at));
    }

    /// Compares the path in use with the best that there is.
    fn sample(&mut self, now: Micros, at: usize) {
        let (from, to) = (self.flows[at].from, self.flows[at].to);
        let used = self.truth(from, to, self.flows[at].selection.current(), now);
        let all = self.paths(from, to).map(|via| (via, self.truth(from, to, via, now)));
        let (via, best) = all.min_by_key(|(_, truth)| Sample::cost(*truth)).expect("direct is one");
        let (before, since) = self.best[at];
        if before != via {
            self.best[at] = (via, now);
        }
        let is_settled = before == via && now - since > 15 * SECOND;
        let direct = self.truth(from, to, Via::Direct, now);
        let cause = (!Sample::is_near(used, best)).then(|| self.cause(now, at, used, via));
        self.score.sampled(Sample { used, best, direct, is_settled, cause });
        self.clock.at(now + SAMPLE_INTERVAL, Due::Sample(at));
    }

    /// Why the path in use costs so much more than the best.
    fn cause(&self, now: Micros, at: usize, used: Truth, best: Via) -> Cause {
        let flow = &self.flows[at];
        let state = flow.monitors.iter().find(|(via, _)| *via == best).map(|(_, monitor)| monitor.state(now));
        let first = flow.selection.paths().find(|via| *via == best || *via == flow.selection.current());
        match state {
            _ if Trouble::of(used) != Trouble::None => Cause::Trouble,
            None => Cause::NotProbed,
            Some(State::Good) if first == Some(best) => Cause::Waits,
            Some(State::Good) => Cause::NotPreferred,
            Some(_) => Cause::NotTrusted,
        }
    }
}
