//! What of an estimate each video of one receiver gets: which encoding of its track, or none.
//!
//! Videos are served in the order of their weight ([`weight`]): a shared screen gets all that it can use before what is pinned gets
//! anything, and that before the others. Among the others first each gets its lowest encoding; then, one step after the other, the
//! better ones, as long as they fit. So nobody has the best picture while another person is not seen, and who speaks
//! is raised first. What does not fit even in its lowest encoding is paused, the lightest first. None gets a larger encoding than
//! it is shown, and what is hidden gets nothing.
//!
//! What is left over is room for those that are given to be sent at a higher rate ([`crate::headroom`]). An encoding costs what it
//! sends, or what its publisher would give it of its own, if it was told more. Rates move all the time, and a receiver that goes up and
//! down with them sees a keyframe each time: so what is taken may exceed the budget a little, what would be new must leave some of it
//! free, and nothing is raised soon after something was lowered.

use proto::plane::{SHOWN_LINES_ANY, TRACK_ENCODINGS_MAX, weight};

use crate::config::{MILLISECOND, Micros, PEER_SLOTS_MAX, SECOND};
use crate::headroom::{Headroom, Share, divide};
use crate::layer::LOWER;

/// What is taken already stays until all together exceed the budget by this fraction: measured rates move by as much.
const KEEP: f64 = 1.05;
/// ... and the lowest encodings by this one, of what the path has just carried: a video that is paused is worse than a queue for a
/// moment. Overuse lowers an estimate by more than it has to, several times in a row; if the path is really that narrow, it
/// carries less soon.
const KEEP_LOWEST: f64 = 1.15;
/// What would be new is taken if all together leave this fraction of the budget free: its first keyframe has to fit.
const RAISE: f64 = 0.92;
/// ... or this one, if it is more of the temporal layers that a video has: they begin without a keyframe.
const RAISE_LAYERS: f64 = 0.98;
/// What is taken already ends at once if all together exceed the budget by this factor: a queue grows while a keyframe is waited
/// for.
const URGENT: f64 = 1.5;
/// Nothing is raised for this long after something was lowered. (mediasoup waits 10 s; a probe has found more by then.)
const RAISE_AFTER: Micros = 3 * SECOND;
/// What was lowered again this soon after it had been raised was tried in vain: the next time is after twice as long, up to the longest, or
/// when there is so much more to give.
const IN_VAIN: Micros = 5 * SECOND;
const RAISE_AFTER_MAX: Micros = 12 * SECOND;
const MORE: f64 = 1.1;
/// What is raised together may cost this fraction of the budget, or is one video, and the next may be after the time: each begins with a keyframe,
/// which is several times as long as another frame, and together they would stand in the path's queue.
const RAISE_SHARE: f64 = 0.25;
const RAISE_EACH: Micros = 250 * MILLISECOND;
/// What is paused may go on after this long.
const RESUME_AFTER: Micros = SECOND;
/// A lowest encoding that does not fit is paused after this long, if nothing is heavier. An estimate that fell comes back in part within it, and the pace
/// keeps the path free meanwhile.
const PAUSE_AFTER: Micros = 2 * SECOND;
/// What of an encoding's rate the next better one is assumed to have, until it was seen: half the width and height.
const STEP: u32 = 3;

/// An encoding with this fraction of the lines that are shown is enough: a tenth of enlargement is not seen, and tiles of all
/// widths differ from the usual sizes by a few lines.
const ENOUGH: f64 = 0.9;

/// What is heavy keeps for this long what the path has just carried of it after something lighter was lowered: an estimate falls by
/// more than it has to, and is back in part by then.
const GIVE_WAY: Micros = 2 * SECOND;

/// Videos may fill this fraction of the budget.
const FILL: f64 = 0.95;
/// A video that a receiver may get.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Video {
    /// Index of its slot.
    pub(crate) slot: u32,
    /// One of [`weight`]. Among equals the one that comes first is served first.
    pub(crate) weight: u8,
    /// Rates of its encodings, bit/s, the worst first; 0 where it is not known.
    pub(crate) bps: [u32; TRACK_ENCODINGS_MAX],
    /// What they send now, which is more than that if their publisher was told to send more.
    pub(crate) measured: [u32; TRACK_ENCODINGS_MAX],
    /// Rates of the lower temporal layers of the worst one that is sent, bit/s: the base alone, and with the next one; 0 if there is none above.
    pub(crate) layers_bps: [u32; LOWER],
    /// The highest temporal layer that it was allowed last; `None`: all.
    pub(crate) layers_before: Option<u8>,
    /// The highest one that it is allowed now.
    pub(crate) layers: Option<u8>,
    /// How many it has. Of a track in one encoding with spatial layers, those are meant.
    pub(crate) encodings: u8,
    /// Whether they are spatial layers.
    pub(crate) is_spatial: bool,
    /// The best one that it may get: more would not be seen.
    pub(crate) rank_max: u8,
    /// Whether it is not shown at all.
    pub(crate) is_hidden: bool,
    /// What it was given last, if it was ever.
    pub(crate) before: Option<Option<u8>>,
    /// What it is given now.
    pub(crate) now: Option<u8>,
    /// What it had is too much by far: it ends at once, and not at the next keyframe of what it gets.
    pub(crate) is_urgent: bool,
    /// What there is room for of the encoding that it is given, bit/s on the path.
    pub(crate) room: Headroom,
}

impl Video {
    /// Bit/s of its encoding of this rank. One that has not been seen is assumed to be a step above the one below.
    fn cost(&self, rank: u8) -> f64 {
        let rank = usize::from(rank);
        let below = self.bps[..rank].iter().enumerate().rev().find(|(_, bps)| **bps > 0);
        let assumed = below.map_or(0, |(at, bps)| bps.saturating_mul(STEP.pow((rank - at) as u32)));
        f64::from(if self.bps[rank] > 0 { self.bps[rank] } else { assumed })
    }

    fn top(&self) -> u8 {
        self.rank_max.min(self.encodings.saturating_sub(1))
    }

    /// Whether there is something to give it.
    fn is_wanted(&self) -> bool {
        self.encodings > 0 && !self.is_hidden
    }

    /// What it gets where nothing limits it.
    pub(crate) fn best(&self) -> Option<u8> {
        self.is_wanted().then(|| self.top())
    }

    /// Those of another class are served whole before, or after. Who speaks changes each few seconds, and pauses nobody.
    fn class(&self) -> u8 {
        self.weight.max(weight::SPEAKER)
    }

    /// What it costs on a level, bit/s: first the temporal layers of its worst encoding, then that one whole, then the others.
    fn level_bps(&self, level: usize) -> Option<f64> {
        match level.checked_sub(LOWER) {
            None => Some(self.layers_bps[level]).filter(|bps| *bps > 0).map(f64::from),
            Some(rank) => (rank <= self.top().into()).then(|| self.cost(rank as u8)),
        }
    }

    /// The level that it had.
    fn level_before(&self) -> Option<usize> {
        level_of(self.before.flatten()?, self.layers_before)
    }

    /// The level that it is given.
    fn level(&self) -> Option<usize> {
        level_of(self.now?, self.layers)
    }

    /// What it sends in the encoding that it is given, bit/s.
    fn sends(&self) -> f64 {
        self.now.map_or(0.0, |rank| match self.measured[usize::from(rank)] {
            0 => self.cost(rank),
            measured => f64::from(measured),
        })
    }

    /// What the encoding that it is given costs of its own, bit/s.
    fn own(&self) -> f64 {
        self.now.map_or(0.0, |rank| self.cost(rank))
    }

    /// Whether it is given another encoding than the best one, whole: that may be sent at a higher rate.
    fn may_grow(&self) -> bool {
        self.layers.is_none() && !self.is_spatial && self.now.is_some_and(|rank| rank + 1 < self.encodings)
    }

    fn set_level(&mut self, level: usize) {
        self.now = Some(level.saturating_sub(LOWER) as u8);
        self.layers = (level < LOWER).then_some(level as u8);
    }
}

/// Temporal layers of the worst encoding, and encodings.
const LEVELS: usize = LOWER + TRACK_ENCODINGS_MAX;

fn level_of(rank: u8, layers: Option<u8>) -> Option<usize> {
    let layers = layers.filter(|_| rank == 0).map(usize::from);
    Some(layers.unwrap_or(LOWER + usize::from(rank)))
}

/// What there is to give, bit/s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Budget {
    /// Of the estimate.
    pub(crate) bps: u64,
    /// What the path has just carried of video. `None`: there was no feedback, nothing is known, and nothing is paused.
    pub(crate) carried: Option<u64>,
    /// Whether nothing limits the estimate: no queue grows, nothing is lost.
    pub(crate) is_calm: bool,
    /// Whether the path loses packets, and not because they are too many: the lowest encodings are given.
    pub(crate) is_lossy: bool,
}

/// The allocation of one receiver.
#[derive(Default)]
pub(crate) struct Allocator {
    lowered_at: Option<Micros>,
    /// When one video was last given what another one had: that is no sign of what the path carries.
    moved_at: Option<Micros>,
    raised_at: Option<Micros>,
    /// When something better than a lowest encoding was last given, what there was to give, and how long after it was lowered again the next
    /// time is.
    tried_at: Option<Micros>,
    tried_with: f64,
    retry_after: Micros,
    /// Since when lowest encodings do not fit.
    short_since: Option<Micros>,
}

impl Allocator {
    /// Gives each video what it gets of the budget. What they get, and what they would take if there were no limit, bit/s.
    pub(crate) fn allocate(&mut self, now: Micros, budget: &Budget, videos: &mut [Video]) -> (u64, u64) {
        let carried = budget.carried.map_or(f64::INFINITY, |bps| bps as f64);
        // What the path carries without a queue or a loss stays, if the estimate has not come that far yet.
        let calm = budget.carried.filter(|_| budget.is_calm).map_or(0.0, |bps| bps as f64 * KEEP);
        let is_lossy = budget.is_lossy;
        let budget = budget.bps as f64;
        let is_since = |at: Option<Micros>, time| at.is_none_or(|at| now.saturating_sub(at) >= time);
        let is_past = |time| is_since(self.lowered_at, time);
        let raise_after = if budget < MORE * self.tried_with { self.retry_after.max(RAISE_AFTER) } else { RAISE_AFTER };
        let may_raise = |step| match step {
            0 => is_past(RESUME_AFTER),
            _ => is_past(raise_after) && is_since(self.moved_at, RAISE_AFTER),
        };
        videos.sort_by_key(|video| std::cmp::Reverse(video.weight));
        let may_pause = self.short_since.is_some_and(|since| now.saturating_sub(since) >= PAUSE_AFTER);
        let is_spread = self.raised_at.is_some_and(|at| now.saturating_sub(at) < RAISE_EACH);
        let mut raise = if is_spread { 0.0 } else { budget * RAISE_SHARE };
        let (mut spent, mut is_short, mut has_heavier, mut is_tried) = (0.0, false, false, false);
        let lightest =
            videos.iter().filter(|video| video.is_wanted() && video.level_before().is_some()).map(Video::class).min();
        for class in videos.chunk_by_mut(|a, b| a.class() == b.class()) {
            // The lighter give way first, and then it is seen whether that was enough.
            let gives_way = lightest.is_some_and(|lightest| lightest < class[0].class()) || !is_past(GIVE_WAY);
            let is_heavy = class[0].class() > weight::SPEAKER;
            let len = class.len();
            for (level, at) in (0..LEVELS).flat_map(|level| (0..len).map(move |at| (level, at))) {
                let video = &mut class[at];
                // Only what has all that is below.
                let below = (0..level).rev().find(|below| video.level_bps(*below).is_some());
                let Some(bps) = video.level_bps(level).filter(|_| video.is_wanted() && video.level() == below) else {
                    continue;
                };
                let more = bps - below.and_then(|below| video.level_bps(below)).unwrap_or(0.0);
                let (is_first, is_lowest, step) = (below.is_none(), level <= LOWER, level.saturating_sub(LOWER));
                let has = video.level_before() >= Some(level);
                let part = if is_lowest && !is_first { RAISE_LAYERS } else { RAISE };
                let fits = match has {
                    true if is_first && !has_heavier => spent + more <= (budget * KEEP).max(carried * KEEP_LOWEST),
                    true if is_heavy && gives_way => spent + more <= (budget * KEEP).max(carried * KEEP_LOWEST),
                    true => spent + more <= (budget * KEEP).max(calm),
                    // Nothing is known of the path: its first keyframes would stand in its queue before anybody's sound.
                    false if step > 0 && carried.is_infinite() => false,
                    // A video that has just come is none that was raised.
                    false if video.before.is_none() => spent + more <= budget * RAISE,
                    false => spent + more <= budget * part && may_raise(step) && raise > 0.0,
                };
                if fits && !has && video.before.is_some() {
                    raise -= more.max(1.0);
                    self.raised_at = Some(now);
                    is_tried |= step > 0;
                }
                // Not beside something heavier, from which it would take what that needs.
                let is_kept = is_first && !fits && has && !has_heavier;
                is_short |= is_kept;
                if fits || (is_lowest && (is_lossy || carried.is_infinite())) || (is_kept && !may_pause) {
                    video.set_level(level);
                    spent += more;
                }
            }
            has_heavier |= class.iter().any(Video::is_wanted);
        }
        let is_lowered = |video: &Video| video.is_wanted() && video.level() < video.level_before();
        match (is_tried, videos.iter().any(is_lowered)) {
            (true, true) => self.moved_at = Some(now),
            (true, false) => (self.tried_at, self.tried_with) = (Some(now), budget),
            (false, true) => self.lower(now),
            (false, false) => {}
        }
        self.short_since = is_short.then(|| self.short_since.unwrap_or(now));
        let had = |video: &Video| {
            video.before.flatten().filter(|rank| *rank < video.encodings).map_or(0.0, |rank| video.cost(rank))
        };
        let is_urgent = videos.iter().map(had).sum::<f64>() > budget * URGENT;
        for video in videos.iter_mut() {
            video.is_urgent = is_urgent && video.now < video.before.flatten();
        }
        if carried.is_finite() {
            give_room(budget * FILL, videos);
        }
        let wanted = videos.iter().filter(|video| video.is_wanted()).map(|video| video.cost(video.top()) as u64).sum();
        let sent: f64 = videos.iter().map(Video::sends).sum();
        (sent.max(spent) as u64, wanted)
    }

    /// Something was lowered.
    fn lower(&mut self, now: Micros) {
        let is_first = self.tried_at.is_none_or(|tried| self.lowered_at.is_none_or(|lowered| lowered < tried));
        if is_first {
            let is_in_vain = self.tried_at.is_some_and(|at| now.saturating_sub(at) < IN_VAIN);
            let longer = (2 * self.retry_after).clamp(RAISE_AFTER, RAISE_AFTER_MAX);
            self.retry_after = if is_in_vain { longer } else { 0 };
        }
        self.lowered_at = Some(now);
    }
}

/// Divides what is there among the videos that may be sent at a higher rate.
fn give_room(bps: f64, videos: &mut [Video]) {
    let left = bps - videos.iter().filter(|video| !video.may_grow()).map(Video::sends).sum::<f64>();
    let (mut shares, mut count) = ([Share::default(); VIDEOS_MAX], 0);
    for video in videos.iter().filter(|video| video.may_grow()).take(VIDEOS_MAX) {
        shares[count] = Share { own: video.own(), sends: video.sends(), given: None };
        count += 1;
    }
    divide(left, &mut shares[..count]);
    for (video, share) in videos.iter_mut().filter(|video| video.may_grow()).zip(&shares[..count]) {
        let is_needed = video.now < Some(video.top());
        video.room = Headroom { bps: share.given.unwrap_or(0.0) as u32, is_needed };
    }
}

/// The rank of the smallest encoding that is enough for a picture that is shown with so many lines, of encodings with so many, the
/// worst first; 0 where it is not known. `None`: there is no encoding.
pub(crate) fn rank_for(lines: &[u32], shown: u16) -> Option<u8> {
    let best = lines.len().checked_sub(1)?;
    let is_enough = |of: &u32| *of > 0 && f64::from(*of) >= ENOUGH * f64::from(shown);
    let rank = match shown {
        SHOWN_LINES_ANY => best,
        _ => lines.iter().position(is_enough).unwrap_or(best),
    };
    Some(rank as u8)
}

/// As many videos as a receiver can have.
pub(crate) const VIDEOS_MAX: usize = PEER_SLOTS_MAX;

#[cfg(test)]
mod tests;
