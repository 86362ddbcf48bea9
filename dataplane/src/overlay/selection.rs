//! Which of the paths to another edge carries the media now.
//!
//! The controlplane says in which order they are to be preferred, and says so again when that changes, some seconds after it has. The worker looks at
//! what it measures itself:
//!
//! - A path that is dead is left at once for the first that is good, else for the first that answers.
//! - One that is bad is left for the first that is good and has lost nothing lately; where none is, for one that costs less by a margin.
//! - While the path in use loses much, audio goes by a second path as well, the one that costs least of those that answer. That lasts until nothing much
//!   has been lost for [`OVERLAY_HOLD`], or the media has moved to a path that does not.
//! - Back to a path that is preferred, or on to one that is preferred now, when that has been good, and preferred, for [`OVERLAY_HOLD`]. If it is left again within a
//!   minute of that, the next wait is twice as long, and so on up to [`OVERLAY_HOLD_MAX`]: a path that comes and goes is not followed.

use crate::config::{
    Micros, OVERLAY_HOLD, OVERLAY_HOLD_MAX, OVERLAY_PATHS_MAX, OVERLAY_RELAPSE, OVERLAY_TRUST, OVERLAY_TRUST_AGAIN,
};
use crate::overlay::monitor::{Measured, State};

/// A way to another edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Via {
    /// Directly.
    Direct,
    /// Through this edge, by the number that the controlplane has given it.
    Relay(u16),
}

/// What is known of a path at a look.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Look<V = Via> {
    /// Which one.
    pub via: V,
    /// How it is.
    pub state: State,
    /// Whether nothing was lost on it lately ([`Monitor::is_clean`](crate::overlay::Monitor::is_clean)).
    pub is_clean: bool,
    /// Whether it loses more than a path may ([`Monitor::is_lossy`](crate::overlay::Monitor::is_lossy)).
    pub is_lossy: bool,
    /// What was measured of it.
    pub measured: Option<Measured>,
}

/// What a million parts of loss cost, in microseconds of round trip: 1 % costs 30 ms, about what waiting for a repair in that share of cases and
/// what is not repaired in time are worth.
const LOSS_COST_PER_PPM: u64 = 3;
/// Jitter is waited for in every receiver's buffer, in both directions.
const JITTER_COST: u64 = 2;
/// A path that is bad is left for another one that is bad and costs at least so much less, percent …
const MARGIN_PERCENT: u64 = 25;
/// … and this, microseconds.
const MARGIN: Micros = 5_000;

impl Measured {
    /// What it costs to send media on such a path, as microseconds of round trip.
    pub fn cost(&self) -> Micros {
        self.rtt + JITTER_COST * self.jitter + LOSS_COST_PER_PPM * u64::from(self.loss_ppm)
    }
}

#[derive(Clone, Copy)]
struct Entry<V> {
    via: V,
    /// Since when it has been good.
    good_since: Option<Micros>,
    /// Since when it has been good and preferred to the one that carries the media.
    wanted_since: Option<Micros>,
    /// How long it must have been good before it is taken without need.
    hold: Micros,
    /// When it was last taken without need.
    returned_at: Option<Micros>,
    /// When it was last left because it was dead or bad.
    left_at: Option<Micros>,
}

impl<V> Entry<V> {
    fn new(via: V) -> Self {
        Self { via, good_since: None, wanted_since: None, hold: OVERLAY_HOLD, returned_at: None, left_at: None }
    }
}

/// See the module. Paths have names of any kind.
pub struct Selection<V = Via> {
    /// In order of preference; never empty.
    entries: Vec<Entry<V>>,
    current: V,
    moves: u32,
    /// By which path audio goes as well.
    second: Option<V>,
    /// When the one that carries the media was last seen to lose much.
    lossy_at: Option<Micros>,
}

impl Selection {
    /// Media goes directly until something better is known.
    pub fn new() -> Self {
        Self::at(Via::Direct)
    }
}

impl<V: Copy + PartialEq> Selection<V> {
    /// Media goes by this path until something better is known.
    pub fn at(current: V) -> Self {
        Self { entries: vec![Entry::new(current)], current, moves: 0, second: None, lossy_at: None }
    }

    /// Media goes by this path, whatever was chosen here.
    pub(crate) fn is_at(&mut self, current: V) {
        self.current = current;
    }

    /// The path that carries the media.
    pub fn current(&self) -> V {
        self.current
    }

    /// The path by which audio goes as well, if any.
    pub fn second(&self) -> Option<V> {
        self.second
    }

    /// How often the media has moved.
    pub fn moves(&self) -> u32 {
        self.moves
    }

    /// The paths, the preferred one first; at most [`OVERLAY_PATHS_MAX`], what is beyond that is left out. The one that carries the media stays among
    /// them until another one does. None at all changes nothing.
    pub fn prefer(&mut self, order: &[V]) {
        let Some(order) = order.get(..order.len().min(OVERLAY_PATHS_MAX)).filter(|order| !order.is_empty()) else {
            return;
        };
        let known = std::mem::take(&mut self.entries);
        let of = |via: V| known.iter().find(|entry| entry.via == via).copied().unwrap_or(Entry::new(via));
        for &via in order {
            if !self.entries.iter().any(|entry| entry.via == via) {
                self.entries.push(of(via));
            }
        }
        if !self.entries.iter().any(|entry| entry.via == self.current) {
            self.entries.push(of(self.current));
        }
    }

    /// The paths that are to be probed: those that are preferred, and the one that carries the media.
    pub fn paths(&self) -> impl Iterator<Item = V> + '_ {
        self.entries.iter().map(|entry| entry.via)
    }

    /// Whether none of the paths is one to go to, so that others are wanted at once.
    pub fn is_in_need(looks: &[Look<V>]) -> bool {
        !looks.iter().any(|look| look.state == State::Good && look.is_clean)
    }

    /// Looks at all paths; the new one if the media moves.
    pub fn look(&mut self, now: Micros, looks: &[Look<V>]) -> Option<V> {
        let moved = self.look_for_better(now, looks);
        if moved.is_some() {
            self.lossy_at = None;
        }
        self.look_for_second(now, looks);
        moved
    }

    fn look_for_second(&mut self, now: Micros, looks: &[Look<V>]) {
        if looks.iter().any(|look| look.via == self.current && look.is_lossy) {
            self.lossy_at = Some(now);
        }
        let is_wanted = self.lossy_at.is_some_and(|at| now.saturating_sub(at) < OVERLAY_HOLD);
        let answers = |look: &&Look<V>| look.via != self.current && matches!(look.state, State::Good | State::Bad);
        let mut others = looks.iter().filter(answers);
        self.second = match self.second.filter(|_| is_wanted) {
            Some(second) if others.any(|look| look.via == second) => Some(second),
            _ if is_wanted => {
                let cost = |look: &&Look<V>| look.measured.map_or(Micros::MAX, |measured| measured.cost());
                looks.iter().filter(answers).min_by_key(cost).map(|look| look.via)
            }
            _ => None,
        };
    }

    fn look_for_better(&mut self, now: Micros, looks: &[Look<V>]) -> Option<V> {
        let mut is_before = true;
        for entry in &mut self.entries {
            is_before &= entry.via != self.current;
            let is_good = looks.iter().any(|look| look.via == entry.via && look.state == State::Good);
            entry.good_since = is_good.then(|| entry.good_since.unwrap_or(now));
            entry.wanted_since = (is_good && is_before).then(|| entry.wanted_since.unwrap_or(now));
            if entry.left_at.is_some_and(|at| now.saturating_sub(at) > OVERLAY_HOLD_MAX) {
                (entry.hold, entry.left_at) = (OVERLAY_HOLD, None);
            }
        }
        let (to, is_needed) = match self.escape(now, looks) {
            Some(via) => (via, true),
            None => (self.preferred(now)?, false),
        };
        if is_needed {
            let current = self.current;
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.via == current) {
                let is_relapse = entry.returned_at.is_some_and(|at| now.saturating_sub(at) < OVERLAY_RELAPSE);
                entry.hold = if is_relapse { (2 * entry.hold).min(OVERLAY_HOLD_MAX) } else { entry.hold };
                entry.left_at = Some(now);
            }
        } else if let Some(entry) = self.entries.iter_mut().find(|entry| entry.via == to) {
            entry.returned_at = Some(now);
        }
        self.current = to;
        self.moves += 1;
        Some(to)
    }

    /// Where to go from a path that is dead or bad.
    fn escape(&self, now: Micros, looks: &[Look<V>]) -> Option<V> {
        let of = |via: V| looks.iter().find(|look| look.via == via);
        let current = of(self.current);
        let others = || self.entries.iter().filter_map(|entry| of(entry.via)).filter(|look| look.via != self.current);
        match current.map_or(State::Unknown, |look| look.state) {
            State::Good | State::Unknown => None,
            State::Dead => {
                let first = |state: State| others().find(|look| look.state == state).map(|look| look.via);
                first(State::Good).or_else(|| first(State::Bad))
            }
            State::Bad => {
                let cost = current.and_then(|look| look.measured)?.cost();
                let is_cheaper =
                    |look: &Look<V>| look.measured.is_some_and(|measured| costs_less(measured.cost(), cost));
                // One that was left lately must have been good for some time, or two paths that are bad in turn would be changed for each other.
                let is_trusted = |via: V| {
                    let entry = self.entries.iter().find(|entry| entry.via == via)?;
                    let is_recent = entry.left_at.is_some_and(|at| now.saturating_sub(at) < OVERLAY_RELAPSE);
                    let least = if is_recent { OVERLAY_TRUST_AGAIN } else { OVERLAY_TRUST };
                    Some(entry.good_since.is_some_and(|since| now.saturating_sub(since) >= least))
                };
                let is_refuge =
                    |look: &&Look<V>| look.state == State::Good && look.is_clean && is_trusted(look.via) == Some(true);
                let good = others().find(is_refuge);
                good.or_else(|| others().find(|look| look.state == State::Bad && is_cheaper(look))).map(|look| look.via)
            }
        }
    }

    /// A path before the current one in the order that has been good for long enough.
    fn preferred(&self, now: Micros) -> Option<V> {
        let is_due =
            |entry: &&Entry<V>| entry.wanted_since.is_some_and(|since| now.saturating_sub(since) >= entry.hold);
        self.entries.iter().find(is_due).map(|entry| entry.via)
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for Selection<u8> {
    fn default() -> Self {
        Self::at(0)
    }
}

/// Whether `cost` is less than `than` by the margin.
fn costs_less(cost: Micros, than: Micros) -> bool {
    cost + MARGIN < than && cost * 100 < than * (100 - MARGIN_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SECOND;

    const A: Via = Via::Relay(1);
    const B: Via = Via::Relay(2);

    fn look(via: Via, state: State) -> Look {
        Look {
            via,
            state,
            is_clean: true,
            is_lossy: false,
            measured: Some(Measured { rtt: 50_000, jitter: 0, loss_ppm: 0 }),
        }
    }

    fn direct(state: State) -> [Look; 2] {
        [look(Via::Direct, state), look(A, State::Good)]
    }

    fn with_a_relay() -> Selection {
        let mut selection = Selection::new();
        selection.prefer(&[Via::Direct, A]);
        selection
    }

    #[test]
    fn a_dead_path_is_left_at_once_and_taken_again_after_ten_good_seconds() {
        let mut selection = with_a_relay();
        assert_eq!(selection.look(0, &direct(State::Good)), None);
        assert_eq!(selection.look(SECOND, &direct(State::Dead)), Some(A));
        assert_eq!(selection.look(2 * SECOND, &direct(State::Good)), None);
        assert_eq!(selection.look(11 * SECOND, &direct(State::Good)), None);
        assert_eq!(selection.look(12 * SECOND, &direct(State::Good)), Some(Via::Direct));
    }

    #[test]
    fn audio_goes_twice_while_all_paths_lose_much() {
        let mut selection = with_a_relay();
        let lossy = |via| Look { is_clean: false, is_lossy: true, ..look(via, State::Bad) };
        let (good, both) = (direct(State::Good), [lossy(Via::Direct), lossy(A)]);
        selection.look(0, &good);
        assert_eq!(selection.second(), None);
        selection.look(SECOND, &both);
        assert_eq!((selection.current(), selection.second()), (Via::Direct, Some(A)));
        // The second does not answer any more: there is no other.
        selection.look(2 * SECOND, &[lossy(Via::Direct), look(A, State::Dead)]);
        assert_eq!(selection.second(), None);
        selection.look(3 * SECOND, &both);
        // The first is good again: some seconds more.
        selection.look(4 * SECOND, &good);
        assert_eq!(selection.second(), Some(A));
        selection.look(13 * SECOND, &good);
        assert_eq!(selection.second(), None);
        // Who moves to a path that is good needs none.
        let mut selection = with_a_relay();
        selection.look(0, &good);
        assert_eq!(selection.look(SECOND, &[lossy(Via::Direct), look(A, State::Good)]), Some(A));
        assert_eq!(selection.second(), None);
    }

    #[test]
    fn a_path_that_comes_and_goes_is_not_followed() {
        let mut selection = with_a_relay();
        for tick in 0..600 {
            let state = if tick / 20 % 2 == 0 { State::Dead } else { State::Good };
            selection.look(tick * SECOND / 10, &direct(state));
        }
        assert_eq!(selection.moves(), 1, "good for 2 s at a time");

        // Good for 11 s, dead for 1 s: once bitten, and once more when five minutes are over.
        let mut selection = with_a_relay();
        for tick in 0..6_000 {
            let state = if tick % 120 < 110 { State::Good } else { State::Dead };
            selection.look(tick * SECOND / 10, &direct(state));
        }
        assert!(selection.moves() <= 5, "{} moves in ten minutes", selection.moves());
    }

    #[test]
    fn from_a_dead_path_the_first_that_answers_is_better_than_none() {
        let mut selection = Selection::new();
        selection.prefer(&[Via::Direct, A, B]);
        let looks = [look(Via::Direct, State::Dead), look(A, State::Dead), look(B, State::Bad)];
        assert_eq!(selection.look(0, &looks), Some(B));
        let looks = [look(Via::Direct, State::Dead), look(A, State::Dead), look(B, State::Dead)];
        assert_eq!(selection.look(1, &looks), None, "there is nowhere to go");
    }

    #[test]
    fn where_all_are_bad_the_cheaper_one_is_taken() {
        let mut selection = with_a_relay();
        let bad = |via, rtt, loss_ppm| Look {
            measured: Some(Measured { rtt, jitter: 0, loss_ppm }),
            ..look(via, State::Bad)
        };
        assert_eq!(selection.look(0, &[bad(Via::Direct, 330_000, 5_000), bad(A, 350_000, 0)]), None);
        assert_eq!(selection.look(1, &[bad(Via::Direct, 330_000, 200_000), bad(A, 350_000, 0)]), Some(A));
    }

    #[test]
    fn what_is_preferred_now_is_taken_when_it_has_been_good_for_long_enough() {
        let mut selection = Selection::new();
        selection.prefer(&[B, Via::Direct]);
        let looks = [look(Via::Direct, State::Good), look(B, State::Good)];
        assert_eq!(selection.look(0, &looks), None);
        assert_eq!(selection.look(10 * SECOND, &looks), Some(B));
    }

    #[test]
    fn the_path_that_carries_the_media_stays_when_it_is_no_longer_named() {
        let mut selection = with_a_relay();
        selection.look(0, &direct(State::Dead));
        selection.prefer(&[Via::Direct, B]);
        assert_eq!(selection.current(), A);
        assert_eq!(selection.paths().collect::<Vec<_>>(), [Via::Direct, B, A]);
        selection.prefer(&[]);
        assert_eq!(selection.paths().count(), 3, "an empty order changes nothing");
        let many: Vec<_> = (0..100).map(Via::Relay).collect();
        selection.prefer(&many);
        assert!(selection.paths().count() <= OVERLAY_PATHS_MAX + 1);
    }
}
