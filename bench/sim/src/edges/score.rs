//! The figures of a run of many edges, and the law.

use std::fmt;

use controlplane::overlay::Leg;

use super::world::{Micros, Plan, SECOND, Truth};

/// A path that is dead is not used for longer than this while another one has been well for some seconds. Most are left within half a second; where
/// all that were probed are dead at once, others have to be found.
pub const DEAD_MAX: Micros = 1_500_000;

/// One look at a path in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) used: Truth,
    pub(super) best: Truth,
    pub(super) direct: Truth,
    /// Whether the best path has been the same one for a quarter of a minute.
    pub(super) is_settled: bool,
    /// Why it costs more than it may.
    pub(super) cause: Option<Cause>,
}

impl Sample {
    /// What a path costs, as the controlplane counts it.
    pub(super) fn cost(truth: Truth) -> u64 {
        let leg = Leg { rtt_us: truth.rtt_us, jitter_us: truth.jitter_us, loss_ppm: truth.loss_ppm };
        if truth.is_dead { u64::MAX } else { leg.cost() }
    }

    /// Whether it is as good as 1.10 times the best.
    pub(super) fn is_near(truth: Truth, best: Truth) -> bool {
        Sample::cost(truth) as f64 <= 1.10 * Sample::cost(best) as f64
    }
}

/// How a path in use is: worth leaving, or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    None,
    Bad,
    Dead,
}

impl Trouble {
    pub(super) fn of(truth: Truth) -> Trouble {
        if truth.is_dead {
            Trouble::Dead
        } else if truth.loss_ppm >= 100_000 || truth.rtt_us >= 400_000 {
            Trouble::Bad
        } else {
            Trouble::None
        }
    }
}

#[derive(Clone, Default)]
struct OfFlow {
    /// How long it has been dead, or bad, while another path was well.
    dead: Micros,
    bad: Micros,
    moves: Vec<Micros>,
}

/// See the module.
#[derive(Clone)]
pub struct Score {
    plan: Plan,
    flows: Vec<OfFlow>,
    /// Each time that a path in use was dead, or bad, while another was well: how long.
    dead: Vec<Micros>,
    bad: Vec<Micros>,
    samples: Vec<Sample>,
    /// Bytes that each edge has sent, by what for.
    sent: Vec<[u64; TRAFFIC]>,
    relays: Vec<bool>,
}

/// What control traffic is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Traffic {
    /// Probes of legs, and their answers.
    Legs,
    /// Rows of legs that the other end of a pair is told.
    Rows,
    /// Probes of paths between two edges that have a room in common, and their answers.
    Paths,
    /// The same of other edges, which an edge passes on.
    PassedOn,
}

const TRAFFIC: usize = 4;

impl Score {
    pub(super) fn new(plan: Plan, flows: usize, relays: Vec<bool>) -> Self {
        Score {
            plan,
            flows: vec![OfFlow::default(); flows],
            dead: Vec::new(),
            bad: Vec::new(),
            samples: Vec::new(),
            sent: vec![[0; TRAFFIC]; plan.edges],
            relays,
        }
    }

    pub(super) fn sent(&mut self, edge: u16, what: Traffic, bytes: u64) {
        self.sent[usize::from(edge)][what as usize] += bytes;
    }

    pub(super) fn moved(&mut self, flow: usize, now: Micros) {
        self.flows[flow].moves.push(now);
    }

    pub(super) fn sampled(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    /// Time has passed on the path in use, while another one was well or none was.
    pub(super) fn passed(&mut self, flow: usize, time: Micros, trouble: Trouble, has_other: bool) {
        let of = &mut self.flows[flow];
        let end = |lasted: &mut Micros, times: &mut Vec<Micros>| {
            if *lasted > 0 {
                times.push(std::mem::take(lasted));
            }
        };
        match trouble {
            Trouble::Dead if has_other => of.dead += time,
            _ => end(&mut of.dead, &mut self.dead),
        }
        match trouble {
            Trouble::Bad if has_other => of.bad += time,
            _ => end(&mut of.bad, &mut self.bad),
        }
    }

    /// Most moves of one flow within a minute.
    pub fn moves_max(&self) -> usize {
        let within = |moves: &[Micros]| {
            let starts =
                moves.iter().map(|&from| moves.iter().filter(|&&at| at >= from && at < from + 60 * SECOND).count());
            starts.max().unwrap_or(0)
        };
        self.flows.iter().map(|flow| within(&flow.moves)).max().unwrap_or(0)
    }

    /// Mean cost of the paths in use, and of the best ones, milliseconds of round trip.
    pub fn costs(&self) -> (f64, f64) {
        (self.mean(&|sample| sample.used), self.mean(&|sample| sample.best))
    }

    fn mean(&self, of: &dyn Fn(&Sample) -> Truth) -> f64 {
        let costs = self.samples.iter().filter(|sample| !of(sample).is_dead && !sample.best.is_dead);
        costs.clone().map(|sample| Sample::cost(of(sample)) as f64).sum::<f64>() / costs.count().max(1) as f64 / 1000.0
    }

    /// Longest that a path was dead in use while another was well, microseconds.
    pub fn dead_max(&self) -> Micros {
        self.dead.iter().copied().chain(self.flows.iter().map(|flow| flow.dead)).max().unwrap_or(0)
    }
}

impl Score {
    /// What edges that relay have sent, and those that do not.
    fn write_sent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kbps = |bytes: u64| bytes as f64 * 8.0 / 1000.0 / self.plan.seconds as f64;
        for (who, relays) in [("that do not relay", false), ("that relay", true)] {
            let of = || self.sent.iter().zip(&self.relays).filter(|(_, relay)| **relay == relays).map(|(sent, _)| sent);
            let count = of().count().max(1) as f64;
            let mean = |what: Traffic| of().map(|sent| kbps(sent[what as usize])).sum::<f64>() / count;
            let all = || of().map(|sent| kbps(sent.iter().sum()));
            let (legs, rows) = (mean(Traffic::Legs), mean(Traffic::Rows));
            let (paths, passed) = (mean(Traffic::Paths), mean(Traffic::PassedOn));
            let (mean, most) = (all().sum::<f64>() / count, all().fold(0.0, f64::max));
            let (within, within_percent) = (all().filter(|all| *all <= 50.0).count(), 100.0 / count);
            writeln!(
                f,
                "  sent by edges {who}: {mean:.1} kb/s, at most {most:.1}, {:.0} % within 50 \
                 (legs {legs:.1}, rows {rows:.1}, paths {paths:.1}, passed on {passed:.1})",
                within as f64 * within_percent
            )?;
        }
        Ok(())
    }

    /// Why a path in use costs more than 1.10 times the best, in percent of the time.
    fn write_causes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alive = || self.samples.iter().filter(|sample| !sample.best.is_dead);
        let mut counts = std::collections::BTreeMap::new();
        for cause in alive().filter_map(|sample| sample.cause) {
            *counts.entry(cause).or_insert(0u64) += 1;
        }
        let count = alive().count().max(1) as f64;
        let said: Vec<_> =
            counts.iter().map(|(cause, n)| format!("{cause:?} {:.2}", 100.0 * *n as f64 / count)).collect();
        write!(f, "  more than 1.10 times the best because of, % of the time: {}", said.join(", "))
    }
}

/// Why a path in use costs more than 1.10 times the best.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Cause {
    /// It is dead, or bad, and has not been left yet.
    Trouble,
    /// The best one is not probed as a whole.
    NotProbed,
    /// The best one is probed, and not known to be good.
    NotTrusted,
    /// The best one is good and preferred, and has not been for long enough.
    Waits,
    /// The best one is good, and another one is preferred.
    NotPreferred,
}

fn percentile(sorted: &[Micros], percent: usize) -> Micros {
    sorted.get((sorted.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(0)
}

fn times(times: &[Micros]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let ms = |percent| percentile(&sorted, percent) / 1000;
    format!("{} times; median {} ms, p99 {} ms, longest {} ms", sorted.len(), ms(50), ms(99), ms(100))
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { edges, relays, seconds, .. } = self.plan;
        writeln!(f, "{edges} edges, {relays} of them relay, {} flows, {seconds} s", self.flows.len())?;
        let share = |is: &dyn Fn(&Sample) -> bool| {
            let alive = self.samples.iter().filter(|sample| !sample.best.is_dead);
            100.0 * alive.clone().filter(|sample| is(sample)).count() as f64 / alive.count().max(1) as f64
        };
        let near = share(&|sample| Sample::is_near(sample.used, sample.best));
        let direct = share(&|sample| Sample::is_near(sample.direct, sample.best));
        writeln!(f, "  at most 1.10 times the best path: {near:.1} % of the time (directly: {direct:.1} %)")?;
        let settled = share(&|sample| sample.is_settled);
        let near =
            share(&|sample| sample.is_settled && Sample::is_near(sample.used, sample.best)) * 100.0 / settled.max(1.0);
        writeln!(f, "  … while the best has been the same for 15 s ({settled:.1} % of the time): {near:.1} %")?;
        let ((used, best), alone) = (self.costs(), self.mean(&|sample| sample.direct));
        writeln!(f, "  mean cost: {used:.1} ms in use, {best:.1} the best, {alone:.1} directly")?;
        writeln!(f, "  dead in use while another was well: {}", times(&self.dead))?;
        writeln!(f, "  20 % lost or 400 ms in use while another was well: {}", times(&self.bad))?;
        writeln!(f, "  moves of one flow within a minute: at most {}", self.moves_max())?;
        self.write_sent(f)?;
        self.write_causes(f)
    }
}
