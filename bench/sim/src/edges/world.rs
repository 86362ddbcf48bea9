//! Edges in a country: where they are, whose networks they are in, and what happens between them.
//!
//! Carriers meet at a few peering points only, so the way from one to another may be long, and it may be congested while everything within a carrier is
//! well. Some edges are in the networks of several carriers: through these there is a better way (a violation of the triangle inequality).

use controlplane::overlay::Site;

use crate::random::Random;

/// A moment, microseconds.
pub(super) type Micros = u64;
pub(super) const SECOND: Micros = 1_000_000;

/// Kilometres per millisecond of round trip: light in glass both ways, on ways that are a third longer than the straight one.
const KM_PER_RTT_MS: f64 = 75.0;
/// Size of the country, kilometres.
const COUNTRY: (u64, u64) = (4500, 3000);

/// How large, how long, and how bad.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many edges there are.
    pub edges: usize,
    /// Edges that relay for others.
    pub relays: usize,
    /// Pairs of edges that have a room in common.
    pub pairs: usize,
    /// How long it takes.
    pub seconds: u64,
    /// What goes wrong in ten seconds.
    pub calamities: u64,
}

impl Plan {
    /// 200 edges of five carriers.
    pub const COUNTRY: Plan = Plan { edges: 200, relays: 40, pairs: 1000, seconds: 120, calamities: 15 };
    /// Small enough for many seeds.
    pub const SMALL: Plan = Plan { edges: 12, relays: 6, pairs: 20, seconds: 40, calamities: 10 };
}

/// One edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    city: usize,
    /// Bits of the carriers whose networks it is in.
    carriers: u8,
    /// The carrier that it has in its record.
    main: u16,
    pub(super) relays: bool,
}

/// What a packet meets between two edges now.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Truth {
    pub(super) rtt_us: u32,
    pub(super) jitter_us: u32,
    pub(super) loss_ppm: u32,
    pub(super) is_dead: bool,
}

impl Truth {
    /// This way and then that one.
    pub(super) fn and(self, then: Truth) -> Truth {
        let arrives = |truth: Truth| u64::from(1_000_000 - truth.loss_ppm);
        Truth {
            rtt_us: self.rtt_us + then.rtt_us,
            jitter_us: self.jitter_us + then.jitter_us,
            loss_ppm: 1_000_000 - (arrives(self) * arrives(then) / 1_000_000) as u32,
            is_dead: self.is_dead || then.is_dead,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Fault {
    Dead,
    Loss(u32),
    Delay(u32),
    /// Dead and alive, so long each.
    Flap(Micros),
}

/// Where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    Pair(u16, u16),
    /// A peering point of two carriers.
    Crossing(u16),
    Edge(u16),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) scope: Scope,
    pub(super) fault: Fault,
    pub(super) from: Micros,
    pub(super) to: Micros,
}

#[derive(Clone, Copy)]
struct Way {
    rtt_us: u32,
    jitter_us: u32,
    loss_ppm: u32,
    /// The peering point on it, if there is one.
    crossing: Option<u16>,
}

pub(super) struct World {
    pub(super) edges: Vec<Edge>,
    cities: Vec<(f64, f64)>,
    /// Of the pair (a, b) at a × edges + b.
    ways: Vec<Way>,
    /// What will happen, in order.
    pub(super) events: Vec<Event>,
    foreseen: usize,
    active: Vec<Event>,
}

impl World {
    /// Edges of five carriers, three of them large.
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let Plan { edges, relays, seconds, calamities, .. } = plan;
        let mut random = Random::new(seed, 10);
        let cities: Vec<(f64, f64)> = (0..(edges / 4).clamp(4, 48))
            .map(|_| (random.below(COUNTRY.0) as f64, random.below(COUNTRY.1) as f64))
            .collect();
        // Carrier 0, 1 and 2 have three quarters of the edges.
        let carrier =
            |random: &mut Random| if random.permille(850) { random.below(3) } else { 3 + random.below(2) } as u16;
        let edges: Vec<Edge> = (0..edges)
            .map(|at| {
                let main = carrier(&mut random);
                // Who relays is well connected: an operator puts such edges where carriers meet.
                let others = if at < relays { 2 } else { u64::from(random.permille(100)) };
                let carriers = (0..others).fold(1u8 << main, |bits, _| bits | 1 << carrier(&mut random));
                Edge { city: random.below(cities.len() as u64) as usize, carriers, main, relays: at < relays }
            })
            .collect();
        let mut world = World { edges, cities, ways: Vec::new(), events: Vec::new(), foreseen: 0, active: Vec::new() };
        world.lay_ways(&mut random);
        world.foresee(&mut random, seconds, calamities);
        world
    }

    pub(super) fn site(&self, edge: u16) -> Site {
        let of = self.edges[usize::from(edge)];
        Site { node: edge, carrier: of.main, region: of.city as u16 }
    }

    /// The clock goes on: what begins, and what has ended.
    pub(super) fn advance(&mut self, now: Micros) {
        self.active.retain(|event| now < event.to);
        while let Some(event) = self.events.get(self.foreseen).filter(|event| event.from <= now) {
            self.active.push(*event);
            self.foreseen += 1;
        }
    }

    /// What a packet from `a` to `b` and its answer meet now.
    pub(super) fn truth(&self, a: u16, b: u16, now: Micros) -> Truth {
        self.truth_with(self.active.iter(), a, b, now)
    }

    /// What they met at another time.
    pub(super) fn truth_at(&self, a: u16, b: u16, at: Micros) -> Truth {
        self.truth_with(self.events.iter().filter(|event| (event.from..event.to).contains(&at)), a, b, at)
    }

    fn truth_with<'a>(&self, events: impl Iterator<Item = &'a Event>, a: u16, b: u16, now: Micros) -> Truth {
        let way = self.ways[usize::from(a) * self.edges.len() + usize::from(b)];
        let mut truth = Truth { rtt_us: way.rtt_us, jitter_us: way.jitter_us, loss_ppm: way.loss_ppm, is_dead: false };
        for event in events {
            let concerns = match event.scope {
                Scope::Pair(one, other) => (one, other) == (a, b) || (other, one) == (a, b),
                Scope::Crossing(crossing) => way.crossing == Some(crossing),
                Scope::Edge(edge) => edge == a || edge == b,
            };
            if !concerns {
                continue;
            }
            match event.fault {
                Fault::Dead => truth.is_dead = true,
                Fault::Flap(each) => truth.is_dead |= ((now - event.from) / each).is_multiple_of(2),
                Fault::Loss(ppm) => truth = truth.and(Truth { rtt_us: 0, jitter_us: 0, loss_ppm: ppm, is_dead: false }),
                Fault::Delay(us) => {
                    truth.rtt_us += us;
                    truth.jitter_us += 2_000;
                }
            }
        }
        truth
    }

    fn km(&self, a: usize, b: usize) -> f64 {
        let ((ax, ay), (bx, by)) = (self.cities[a], self.cities[b]);
        ((ax - bx).powi(2) + (ay - by).powi(2)).sqrt()
    }

    fn lay_ways(&mut self, random: &mut Random) {
        // Each two carriers meet in three cities, the small ones in one.
        let mut crossings: Vec<(u16, u16, usize, u32)> = Vec::new();
        for one in 0..5u16 {
            for other in one + 1..5 {
                for _ in 0..if other < 3 { 3 } else { 1 } {
                    let loss = random.between(500, 6_000) as u32;
                    crossings.push((one, other, random.below(self.cities.len() as u64) as usize, loss));
                }
            }
        }
        let count = self.edges.len();
        let mut ways = vec![Way { rtt_us: 0, jitter_us: 0, loss_ppm: 0, crossing: None }; count * count];
        for a in 0..count {
            for b in a + 1..count {
                let (one, other) = (self.edges[a], self.edges[b]);
                let detour = 1.0 + random.below(40) as f64 / 100.0;
                let rtt = |km: f64| (km / KM_PER_RTT_MS * detour * 1000.0) as u32 + 800;
                let inner = Way {
                    rtt_us: rtt(self.km(one.city, other.city)),
                    jitter_us: random.between(100, 900) as u32,
                    loss_ppm: random.between(20, 500) as u32,
                    crossing: None,
                };
                let way = if one.carriers & other.carriers != 0 {
                    inner
                } else {
                    let meet = |&(c, d, ..): &&(u16, u16, usize, u32)| {
                        (one.carriers >> c & 1 == 1 && other.carriers >> d & 1 == 1)
                            || (one.carriers >> d & 1 == 1 && other.carriers >> c & 1 == 1)
                    };
                    // Routes between carriers follow contracts and not the map.
                    let meeting: Vec<_> = crossings.iter().enumerate().filter(|(_, crossing)| meet(crossing)).collect();
                    let &(number, &(_, _, city, loss)) = random.pick(&meeting);
                    Way {
                        rtt_us: rtt(self.km(one.city, city) + self.km(city, other.city)) + 3_000,
                        jitter_us: random.between(1_000, 4_000) as u32,
                        loss_ppm: inner.loss_ppm + loss,
                        crossing: Some(number as u16),
                    }
                };
                ways[a * count + b] = way;
                ways[b * count + a] = way;
            }
        }
        self.ways = ways;
    }

    /// What will go wrong: `calamities` in ten seconds.
    fn foresee(&mut self, random: &mut Random, seconds: u64, calamities: u64) {
        let count = self.edges.len() as u64;
        for _ in 0..seconds * calamities / 10 {
            let from = random.between(12 * SECOND, seconds * SECOND);
            let lasts = random.between(5, 40) * SECOND;
            let (scope, fault) = match random.below(10) {
                0 => (Scope::Edge(random.below(count) as u16), Fault::Dead),
                1..4 => {
                    let fault = match random.below(3) {
                        0 => Fault::Loss(random.between(50_000, 300_000) as u32),
                        1 => Fault::Delay(random.between(80_000, 400_000) as u32),
                        _ => Fault::Dead,
                    };
                    (Scope::Crossing(random.below(15) as u16), fault)
                }
                of => {
                    let pair = Scope::Pair(random.below(count) as u16, random.below(count) as u16);
                    let fault = match of {
                        4 | 5 => Fault::Dead,
                        6 | 7 => Fault::Loss(random.between(100_000, 300_000) as u32),
                        8 => Fault::Delay(random.between(200_000, 500_000) as u32),
                        _ => Fault::Flap(2 * SECOND),
                    };
                    (pair, fault)
                }
            };
            self.events.push(Event { scope, fault, from, to: from + lasts });
        }
        self.events.sort_by_key(|event| event.from);
    }
}
