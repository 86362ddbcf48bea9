//! The paths between this edge and another one: which is the best, directly or through one other edge, and which stand by.
//!
//! What it takes is known by the two ends alone: this edge has measured its legs to the edges that relay, and the other one tells what its own are. So
//! an edge that relays, or any third one, cannot draw traffic to itself by what it says; and one that lies of its own legs harms what is sent to
//! itself. What the worker measures of a whole path counts more than the sum of its legs.
//!
//! Sans-IO: legs, what the worker measured, and the time in; an order of paths out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Number of an edge within its cluster.
pub type NodeNumber = u16;

/// Paths that stand by: the worker probes them and the best one.
pub const STANDBY_MAX: usize = 2;
/// … and as many as this while none of them is good.
pub const STANDBY_IN_NEED_MAX: usize = 7;

/// What was measured between two edges that can reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leg {
    /// Round trip, microseconds.
    pub rtt_us: u32,
    /// Mean difference of round trips, microseconds.
    pub jitter_us: u32,
    /// Share lost, in a million.
    pub loss_ppm: u32,
}

/// 1 % of loss costs as much as 30 ms: about what waiting for a repair in that share of cases, and what is not repaired in time, are worth.
const LOSS_COST_PER_PPM: u64 = 3;
/// Jitter is waited for in every receiver's buffer, in both directions.
const JITTER_COST: u64 = 2;

impl Leg {
    /// What it costs to send media on it, as microseconds of round trip.
    pub fn cost(&self) -> u64 {
        u64::from(self.rtt_us)
            + JITTER_COST * u64::from(self.jitter_us)
            + LOSS_COST_PER_PPM * u64::from(self.loss_ppm.min(1_000_000))
    }

    /// This leg and then that one.
    pub fn and(self, then: Leg) -> Leg {
        let arrives = |leg: Leg| u64::from(1_000_000 - leg.loss_ppm.min(1_000_000));
        Leg {
            rtt_us: self.rtt_us.saturating_add(then.rtt_us),
            jitter_us: self.jitter_us.saturating_add(then.jitter_us),
            loss_ppm: 1_000_000 - (arrives(self) * arrives(then) / 1_000_000) as u32,
        }
    }
}

/// Legs of one edge, by the other end; those that do not answer are missing.
pub type Legs = BTreeMap<NodeNumber, Leg>;

/// A way to another edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Via {
    /// Directly.
    Direct,
    /// Through this edge.
    Relay(NodeNumber),
}

/// Where an edge is: what two paths may have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// Which edge.
    pub node: NodeNumber,
    /// Its carrier, numbered within the cluster.
    pub carrier: u16,
    /// Its region, numbered within the cluster.
    pub region: u16,
}

/// What both ends have measured of their legs.
#[derive(Clone, Copy, Debug)]
pub struct Legged<'a> {
    /// This edge.
    pub here: Site,
    /// The other end.
    pub there: Site,
    /// The edges that relay.
    pub relays: &'a [Site],
    /// What this edge has measured.
    pub ours: &'a Legs,
    /// What the other end says it has measured.
    pub theirs: &'a Legs,
}

/// What is known when paths are chosen.
struct Known<'a> {
    legged: Legged<'a>,
    /// What the worker measured of whole paths; `None` for one that it found dead or bad.
    whole: &'a [(Via, Option<Leg>)],
}

/// A relay must be cheaper by this, percent: it costs another edge's traffic.
const RELAY_PERCENT: u64 = 2;
/// The best path stays until another one is cheaper by this, percent …
const MARGIN_PERCENT: u64 = 6;
/// … and this, microseconds.
const MARGIN: u64 = 800;
/// The direct path may cost so much more than a relayed one and is preferred; less than the margin, so that it is not taken and left in turn.
const DIRECT_MORE: u64 = 700;
/// What stands by may cost so many times as much as the best …
const STANDBY_FACTOR: u64 = 2;
/// … or this more, microseconds; if there is any.
const STANDBY_MORE: u64 = 30_000;

/// A path that was found dead or bad comes after all others for so long.
const REFUSED_FOR: Duration = Duration::from_secs(20);

/// How a path was that the worker probes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Good, and this was measured of it.
    Good(Leg),
    /// Dead or bad.
    Refused,
}

/// The paths to one other edge.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    order: Vec<Via>,
    /// Those that were found dead or bad, and when.
    refused: Vec<(Via, Instant)>,
}

impl Paths {
    /// The order from now on, of what is known and of how the worker found those that it can judge.
    pub fn update(&mut self, now: Instant, known: &Legged<'_>, found: &[(Via, Found)]) -> &[Via] {
        let is_found = |via: Via| found.iter().any(|(found, _)| *found == via);
        self.refused.retain(|&(via, at)| now < at + REFUSED_FOR && !is_found(via));
        let mut whole = Vec::new();
        for &(via, found) in found {
            match found {
                Found::Good(leg) => whole.push((via, Some(leg))),
                Found::Refused => self.refused.push((via, now)),
            }
        }
        whole.extend(self.refused.iter().map(|&(via, _)| (via, None)));
        self.order = choose(&Known { legged: *known, whole: &whole }, &self.order);
        &self.order
    }
}

/// A leg of which the other end has told nothing, in need: after all that are told.
const UNTOLD: Leg = Leg { rtt_us: 300_000, jitter_us: 0, loss_ppm: 100_000 };

/// The paths in order, the best first: at least one, at most 1 + [`STANDBY_MAX`], or 1 + [`STANDBY_IN_NEED_MAX`] while
/// none that the worker probes is good. `current` is the order that was chosen before.
fn choose(known: &Known<'_>, current: &[Via]) -> Vec<Via> {
    let is_in_need = !known.whole.is_empty() && known.whole.iter().all(|(_, leg)| leg.is_none());
    let mut paths: Vec<(u64, Via)> = candidates(known, is_in_need).collect();
    // What the worker found to be dead or bad comes after all others, and is not forgotten: it may be all that there is.
    let is_refused = |via: Via| known.whole.iter().any(|(whole, leg)| *whole == via && leg.is_none());
    paths.sort_by_key(|&(cost, via)| (is_refused(via), cost, via));
    let Some(&(least, mut best)) = paths.first() else { return vec![Via::Direct] };
    if let Some(&before) = current.first()
        && let Some(&(cost, _)) = paths.iter().find(|(_, via)| *via == before)
        && is_refused(before) == is_refused(best)
        && (cost * (100 - MARGIN_PERCENT) <= least * 100 || cost <= least + MARGIN)
    {
        best = before;
    }
    // Back to the direct path as soon as it costs about as much: it takes nothing of a third edge's.
    let cost_of = |path: Via| paths.iter().find(|(_, via)| *via == path).map(|&(cost, _)| cost);
    if let Some((direct, chosen)) = cost_of(Via::Direct).zip(cost_of(best))
        && !is_refused(Via::Direct)
        && direct <= chosen + DIRECT_MORE
    {
        best = Via::Direct;
    }
    let most = if is_in_need { STANDBY_IN_NEED_MAX } else { STANDBY_MAX };
    let mut order = vec![best];
    let worst = (STANDBY_FACTOR * least).max(least + STANDBY_MORE);
    while order.len() <= most {
        let next = paths.iter().filter(|(_, via)| !order.contains(via)).min_by_key(|&&(cost, via)| {
            let shared: u32 = order.iter().map(|&other| shared(known, via, other)).sum();
            let keeps = current.contains(&via);
            (is_refused(via), cost > worst, shared, if keeps { cost - cost * MARGIN_PERCENT / 100 } else { cost }, via)
        });
        match next {
            Some(&(_, via)) => order.push(via),
            None => break,
        }
    }
    // The direct path is probed always: nobody else measures it.
    if !order.contains(&Via::Direct) {
        order.truncate(most);
        order.push(Via::Direct);
    }
    order
}

/// All paths of which something is known, with what they cost. In need those, too, of which the other end has not told anything good: its last row came
/// on a path that is dead now, and may be from a moment at which nothing answered it.
fn candidates<'a>(known: &'a Known<'_>, is_in_need: bool) -> impl Iterator<Item = (u64, Via)> + 'a {
    let whole = |via: Via| known.whole.iter().find(|(whole, _)| *whole == via).and_then(|(_, leg)| *leg);
    let direct = whole(Via::Direct).or_else(|| known.legged.ours.get(&known.legged.there.node).copied());
    let relayed = known.legged.relays.iter().filter_map(move |relay| {
        if relay.node == known.legged.here.node || relay.node == known.legged.there.node {
            return None;
        }
        let via = Via::Relay(relay.node);
        let theirs = || known.legged.theirs.get(&relay.node).copied().or(is_in_need.then_some(UNTOLD));
        let legs = || Some(known.legged.ours.get(&relay.node)?.and(theirs()?));
        let cost = whole(via).or_else(legs)?.cost();
        Some((cost + cost * RELAY_PERCENT / 100, via))
    });
    direct.map(|leg| (leg.cost(), Via::Direct)).into_iter().chain(relayed)
}

/// How much two paths have in common: a change from one carrier's network to another's, and the place of the relay.
fn shared(known: &Known<'_>, one: Via, other: Via) -> u32 {
    let relay = |via: Via| match via {
        Via::Direct => None,
        Via::Relay(node) => known.legged.relays.iter().find(|site| site.node == node),
    };
    let crossings = |via: Via| -> Vec<(u16, u16)> {
        let carriers = match relay(via) {
            None => vec![known.legged.here.carrier, known.legged.there.carrier],
            Some(site) => vec![known.legged.here.carrier, site.carrier, known.legged.there.carrier],
        };
        let ordered = carriers.windows(2).map(|two| (two[0].min(two[1]), two[0].max(two[1])));
        ordered.filter(|(a, b)| a != b).collect()
    };
    let (of_one, of_other) = (crossings(one), crossings(other));
    let carriers = of_one.iter().filter(|crossing| of_other.contains(crossing)).count() as u32;
    let place = match (relay(one), relay(other)) {
        (Some(one), Some(other)) => u32::from(one.region == other.region),
        _ => 0,
    };
    carriers + place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(rtt_ms: u32) -> Leg {
        Leg { rtt_us: rtt_ms * 1000, jitter_us: 0, loss_ppm: 0 }
    }

    fn site(node: NodeNumber, carrier: u16, region: u16) -> Site {
        Site { node, carrier, region }
    }

    const RELAYS: [Site; 3] = [
        Site { node: 2, carrier: 0, region: 2 },
        Site { node: 3, carrier: 1, region: 2 },
        Site { node: 4, carrier: 1, region: 3 },
    ];

    fn order(ours: &[(u16, u32)], theirs: &[(u16, u32)], whole: &[(Via, Option<Leg>)], current: &[Via]) -> Vec<Via> {
        let legs = |of: &[(u16, u32)]| of.iter().map(|&(node, rtt)| (node, leg(rtt))).collect::<Legs>();
        let (ours, theirs) = (legs(ours), legs(theirs));
        let (here, there) = (site(0, 0, 0), site(1, 1, 1));
        let legged = Legged { here, there, relays: &RELAYS, ours: &ours, theirs: &theirs };
        choose(&Known { legged, whole }, current)
    }

    #[test]
    fn the_best_is_direct_unless_a_relay_is_cheaper() {
        assert_eq!(order(&[(1, 50), (2, 20)], &[(2, 40)], &[], &[]), [Via::Direct, Via::Relay(2)]);
        assert_eq!(order(&[(1, 90), (2, 20)], &[(2, 40)], &[], &[]), [Via::Relay(2), Via::Direct]);
        assert_eq!(
            order(&[(2, 20)], &[(2, 40)], &[], &[]),
            [Via::Relay(2), Via::Direct],
            "the direct one does not answer"
        );
        assert_eq!(order(&[], &[], &[], &[]), [Via::Direct], "nothing is known");
    }

    #[test]
    fn an_edge_that_the_other_end_does_not_reach_relays_nothing_to_it() {
        assert_eq!(order(&[(1, 90), (2, 1)], &[], &[], &[]), [Via::Direct]);
        assert_eq!(
            order(&[(1, 90), (0, 1), (7, 1)], &[(0, 1), (1, 1), (7, 1)], &[], &[]),
            [Via::Direct],
            "neither end, nor who does not relay"
        );
    }

    #[test]
    fn the_best_stays_until_another_one_is_cheaper_by_a_margin() {
        let before = [Via::Relay(2), Via::Direct];
        assert_eq!(order(&[(1, 62), (2, 20)], &[(2, 40)], &[], &before)[0], Via::Relay(2));
        assert_eq!(order(&[(1, 50), (2, 20)], &[(2, 40)], &[], &before)[0], Via::Direct);
    }

    #[test]
    fn the_direct_path_comes_back_already_when_it_costs_as_much() {
        let before = [Via::Relay(2), Via::Direct];
        let direct = |ms| [(Via::Direct, Some(leg(ms))), (Via::Relay(2), Some(leg(60)))];
        assert_eq!(order(&[(2, 20)], &[(2, 40)], &direct(61), &before)[0], Via::Direct);
        assert_eq!(order(&[(2, 20)], &[(2, 40)], &direct(62), &before)[0], Via::Relay(2));
        assert_eq!(
            order(&[(2, 20)], &[(2, 40)], &direct(62), &[Via::Direct])[0],
            Via::Direct,
            "nor is it left for that"
        );
    }

    #[test]
    fn what_the_worker_found_dead_comes_last_and_is_kept() {
        let whole = [(Via::Direct, None)];
        assert_eq!(order(&[(1, 50), (2, 20)], &[(2, 40)], &whole, &[Via::Direct]), [Via::Relay(2), Via::Direct]);
        assert_eq!(order(&[(1, 50)], &[], &whole, &[Via::Direct]), [Via::Direct]);
        let whole = [(Via::Relay(2), Some(leg(200)))];
        assert_eq!(
            order(&[(1, 100), (2, 20)], &[(2, 40)], &whole, &[]),
            [Via::Direct, Via::Relay(2)],
            "measured as a whole"
        );
    }

    #[test]
    fn in_need_an_edge_is_tried_of_which_the_other_end_has_told_nothing() {
        let whole = [(Via::Direct, None), (Via::Relay(2), None)];
        let paths = order(&[(1, 50), (2, 20), (3, 20)], &[(2, 40)], &whole, &[Via::Direct]);
        assert_eq!(paths[0], Via::Relay(3));
    }

    #[test]
    fn what_stands_by_shares_as_little_as_possible() {
        // From carrier 0 to carrier 1 all cross from 0 to 1 once; 3 and 2 are of one region.
        let ours = [(1, 90), (2, 20), (3, 22), (4, 25)];
        let theirs = [(2, 30), (3, 30), (4, 30)];
        let paths = order(&ours, &theirs, &[], &[]);
        assert_eq!(paths[0], Via::Relay(2));
        assert_eq!(paths[1], Via::Relay(4), "not of the same region: {paths:?}");
        assert_eq!(paths.len(), 1 + STANDBY_MAX);
    }

    #[test]
    fn a_path_that_was_refused_comes_last_until_it_is_found_good_or_for_some_time() {
        let (here, there, now) = (site(0, 0, 0), site(1, 1, 1), Instant::now());
        let (ours, theirs) = (Legs::from([(1, leg(50)), (2, leg(40))]), Legs::from([(2, leg(40))]));
        let legged = Legged { here, there, relays: &RELAYS, ours: &ours, theirs: &theirs };
        let mut paths = Paths::default();
        let mut first =
            |after: u64, found: &[(Via, Found)]| paths.update(now + Duration::from_secs(after), &legged, found)[0];
        assert_eq!(first(0, &[]), Via::Direct);
        assert_eq!(first(1, &[(Via::Direct, Found::Refused)]), Via::Relay(2));
        assert_eq!(first(2, &[]), Via::Relay(2), "it is remembered while nobody looks");
        assert_eq!(first(3, &[(Via::Direct, Found::Good(leg(50)))]), Via::Direct);
        assert_eq!(first(4, &[(Via::Direct, Found::Refused)]), Via::Relay(2));
        assert_eq!(first(30, &[]), Via::Direct, "after twenty seconds it may be tried again");
    }

    #[test]
    fn legs_add_up() {
        let one = Leg { rtt_us: 10, jitter_us: 1, loss_ppm: 500_000 };
        assert_eq!(one.and(one), Leg { rtt_us: 20, jitter_us: 2, loss_ppm: 750_000 });
        let most = Leg { rtt_us: u32::MAX, jitter_us: u32::MAX, loss_ppm: u32::MAX };
        assert_eq!(most.and(most).loss_ppm, 1_000_000);
        assert!(most.and(most).cost() > 0);
    }
}
