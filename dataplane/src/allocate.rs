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
        let is_past = |time| self.lowered_at.is_none_or(|at| now.saturating_sub(at) >= time);
        let raise_after = if budget < MORE * self.tried_with { self.retry_after.max(RAISE_AFTER) } else { RAISE_AFTER };
        let may_raise = |step| is_past(if step == 0 { RESUME_AFTER } else { raise_after });
        videos.sort_by_key(|video| std::cmp::Reverse(video.weight));
        let may_pause = self.short_since.is_some_and(|since| now.saturating_sub(since) >= PAUSE_AFTER);
        let is_spread = self.raised_at.is_some_and(|at| now.saturating_sub(at) < RAISE_EACH);
        let mut raise = if is_spread { 0.0 } else { budget * RAISE_SHARE };
        let (mut spent, mut is_short, mut has_heavier) = (0.0, false, false);
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
                let fits = match has {
                    true if is_first && !has_heavier => spent + more <= (budget * KEEP).max(carried * KEEP_LOWEST),
                    true if is_heavy && gives_way => spent + more <= (budget * KEEP).max(carried * KEEP_LOWEST),
                    true => spent + more <= (budget * KEEP).max(calm),
                    // Nothing is known of the path: its first keyframes would stand in its queue before anybody's sound.
                    false if step > 0 && carried.is_infinite() => false,
                    // A video that has just come is none that was raised.
                    false if video.before.is_none() => spent + more <= budget * RAISE,
                    false => spent + more <= budget * RAISE && may_raise(step) && raise > 0.0,
                };
                if fits && !has && video.before.is_some() {
                    raise -= more.max(1.0);
                    self.raised_at = Some(now);
                    if step > 0 {
                        (self.tried_at, self.tried_with) = (Some(now), budget);
                    }
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
        if videos.iter().any(is_lowered) {
            self.lower(now);
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
mod tests {
    use super::*;

    /// Videos of 100, 300 and 900 kb/s that had these.
    fn videos(before: &[Option<u8>]) -> Vec<Video> {
        let of = |(at, before): (usize, &Option<u8>)| Video {
            slot: at as u32,
            weight: weight::OTHER,
            bps: [100_000, 300_000, 900_000],
            encodings: 3,
            is_spatial: false,
            rank_max: 2,
            is_hidden: false,
            layers_bps: [0; LOWER],
            layers_before: None,
            layers: None,
            before: Some(*before),
            now: None,
            is_urgent: false,
            measured: [100_000, 300_000, 900_000],
            room: Headroom::NONE,
        };
        before.iter().enumerate().map(of).collect()
    }

    /// What the estimate gives, of a path that has just carried nothing.
    fn known(bps: u64) -> Budget {
        Budget { bps, carried: Some(0), is_calm: false, is_lossy: false }
    }

    fn given(videos: &[Video]) -> Vec<Option<u8>> {
        videos.iter().map(|video| video.now).collect()
    }

    /// What a budget gives in the end, when all is raised that is.
    fn allocate(budget: u64, before: &[Option<u8>]) -> Vec<Option<u8>> {
        let (mut allocator, mut before) = (Allocator::default(), before.to_vec());
        for n in 0..20 {
            let mut videos = videos(&before);
            allocator.allocate(n * RAISE_EACH, &known(budget), &mut videos);
            before = given(&videos);
        }
        before
    }

    #[test]
    fn everybody_is_seen_before_anybody_is_seen_better() {
        assert_eq!(allocate(50_000, &[None; 3]), [None, None, None]);
        assert_eq!(allocate(250_000, &[None; 3]), [Some(0), Some(0), None], "the lightest is paused first");
        assert_eq!(allocate(400_000, &[None; 3]), [Some(0), Some(0), Some(0)]);
        assert_eq!(allocate(600_000, &[None; 3]), [Some(1), Some(0), Some(0)], "the heaviest is raised first");
        assert_eq!(allocate(1_000_000, &[None; 3]), [Some(1), Some(1), Some(1)]);
        assert_eq!(allocate(2_000_000, &[None; 3]), [Some(2), Some(1), Some(1)]);
        assert_eq!(allocate(10_000_000, &[None; 3]), [Some(2), Some(2), Some(2)]);
    }

    #[test]
    fn rates_that_move_a_little_change_nothing() {
        for budget in [860_000, 900_000, 950_000, 970_000] {
            assert_eq!(allocate(budget, &[Some(1); 3]), [Some(1); 3], "{budget}: what is taken stays");
            assert_eq!(
                allocate(budget, &[Some(0); 3]),
                [Some(1), Some(1), Some(0)],
                "{budget}: what is new needs more"
            );
        }
        assert_eq!(allocate(850_000, &[Some(1); 3]), [Some(1), Some(1), Some(0)]);
    }

    #[test]
    fn nothing_is_raised_soon_after_something_was_lowered() {
        let mut allocator = Allocator::default();
        let mut at = |now, budget, before: &[Option<u8>]| {
            let mut videos = videos(before);
            allocator.allocate(now, &known(budget), &mut videos);
            given(&videos)
        };
        assert_eq!(at(SECOND, 300_000, &[Some(2), Some(2)]), [Some(0), Some(0)]);
        assert_eq!(at(2 * SECOND, 10_000_000, &[Some(0), Some(0)]), [Some(0), Some(0)]);
        assert_eq!(at(4 * SECOND, 10_000_000, &[Some(0), Some(0)]), [Some(2), Some(2)]);
    }

    #[test]
    fn keyframes_of_what_is_raised_do_not_come_all_at_once() {
        let (mut allocator, mut before) = (Allocator::default(), vec![None; 6]);
        let mut at = |now| {
            let mut videos = videos(&before);
            allocator.allocate(now, &known(800_000), &mut videos);
            before = given(&videos);
            before.iter().flatten().count()
        };
        assert_eq!(at(SECOND), 2, "a quarter of the budget");
        assert_eq!(at(SECOND + RAISE_EACH / 2), 2);
        assert_eq!(at(SECOND + RAISE_EACH), 4);
        assert_eq!(at(SECOND + 2 * RAISE_EACH), 6);
    }

    #[test]
    fn a_path_that_loses_without_a_queue_gets_the_lowest_encodings() {
        let lossy = Budget { is_lossy: true, ..known(50_000) };
        for before in [[None, None], [Some(0), Some(0)], [Some(1), None]] {
            let mut both = videos(&before);
            let mut allocator = Allocator { short_since: Some(0), ..Allocator::default() };
            allocator.allocate(9 * SECOND, &lossy, &mut both);
            assert_eq!(given(&both), [Some(0), Some(0)], "{before:?}");
        }
    }

    #[test]
    fn temporal_layers_are_left_out_before_a_video_is_paused_and_come_back() {
        let (mut allocator, mut had) = (Allocator::default(), [(Some(0), None); 2]);
        let mut at = |now, bps| {
            let mut both = videos(&had.map(|(before, _)| before));
            for (video, (_, layers)) in both.iter_mut().zip(had) {
                (video.layers_bps, video.layers_before) = ([50_000, 75_000], layers);
            }
            allocator.allocate(now, &known(bps), &mut both);
            had = [0, 1].map(|n| (both[n].now, both[n].layers));
            had
        };
        assert_eq!(at(SECOND, 200_000), [(Some(0), None); 2]);
        assert_eq!(at(2 * SECOND, 175_000), [(Some(0), None), (Some(0), Some(1))]);
        assert_eq!(at(3 * SECOND, 150_000), [(Some(0), Some(1)); 2]);
        assert_eq!(at(4 * SECOND, 125_000), [(Some(0), Some(1)), (Some(0), Some(0))]);
        assert_eq!(at(5 * SECOND, 100_000), [(Some(0), Some(0)); 2]);
        assert_eq!(at(6 * SECOND, 60_000), [(Some(0), Some(0)); 2], "a base is kept for two seconds");
        assert_eq!(at(8 * SECOND, 60_000), [(Some(0), Some(0)), (None, None)]);
        let mut now = 20 * SECOND;
        while now < 24 * SECOND {
            at(now, 500_000);
            now += RAISE_EACH;
        }
        assert_eq!(at(now, 500_000), [(Some(1), None), (Some(0), None)], "all that was left out is back");
    }

    #[test]
    fn nothing_is_paused_before_it_has_not_fitted_for_a_while() {
        let mut allocator = Allocator::default();
        let mut at = |now, budget: Budget, before: &[Option<u8>]| {
            let mut videos = videos(before);
            allocator.allocate(now, &budget, &mut videos);
            given(&videos)
        };
        let both = [Some(0), Some(0)];
        assert_eq!(at(SECOND, known(150_000), &both), both);
        assert_eq!(at(2 * SECOND, known(300_000), &both), both, "they fit again");
        assert_eq!(at(3 * SECOND, known(150_000), &both), both);
        assert_eq!(at(4 * SECOND, known(150_000), &both), both);
        assert_eq!(at(5 * SECOND, known(150_000), &both), [Some(0), None], "the lighter one is paused");
        let carried = Budget { carried: Some(180_000), ..known(150_000) };
        assert_eq!(at(9 * SECOND, carried, &both), both, "the path carries them, whatever the estimate");
        assert_eq!(at(20 * SECOND, known(250_000), &[Some(0), None]), both, "what was paused goes on");
    }

    #[test]
    fn what_is_too_much_by_far_ends_at_once() {
        let mut some = videos(&[Some(2), Some(1)]);
        Allocator::default().allocate(0, &known(900_000), &mut some);
        assert!(some.iter().all(|video| !video.is_urgent) && some[0].now == Some(1), "{some:?}");
        let mut some = videos(&[Some(2), Some(1)]);
        Allocator::default().allocate(0, &known(300_000), &mut some);
        assert!(some.iter().all(|video| video.is_urgent && video.now == Some(0)), "{some:?}");
    }

    #[test]
    fn what_has_just_come_is_seen_at_once() {
        let mut allocator = Allocator { lowered_at: Some(SECOND), ..Allocator::default() };
        let mut both = videos(&[Some(0), None]);
        both[1].before = None;
        allocator.allocate(SECOND, &known(10_000_000), &mut both);
        assert_eq!(given(&both), [Some(0), Some(2)]);
    }

    #[test]
    fn before_there_is_feedback_nothing_is_paused() {
        let mut videos = videos(&[None; 3]);
        let unknown = Budget { carried: None, is_calm: true, ..known(50_000) };
        let (_, wanted) = Allocator::default().allocate(0, &unknown, &mut videos);
        assert_eq!((given(&videos), wanted), (vec![Some(0); 3], 2_700_000));
        videos.iter_mut().for_each(|video| (video.bps, video.now) = ([0; 3], None));
        Allocator::default().allocate(0, &Budget { bps: 5_000_000, ..unknown }, &mut videos);
        assert_eq!(given(&videos), vec![Some(0); 3], "nor is a better one given whose rate nobody knows");
    }

    #[test]
    fn an_encoding_that_was_not_seen_is_assumed_to_be_a_step_above() {
        let mut video = Video { bps: [100_000, 0, 0], ..videos(&[None])[0] };
        assert_eq!([0, 1, 2].map(|rank| video.cost(rank)), [100_000.0, 300_000.0, 900_000.0]);
        video.bps = [0, 200_000, 0];
        assert_eq!([0, 1, 2].map(|rank| video.cost(rank)), [0.0, 200_000.0, 600_000.0]);
        video.bps = [u32::MAX; 3];
        video.bps[2] = 0;
        assert_eq!(video.cost(2), f64::from(u32::MAX));
    }

    #[test]
    fn what_is_pinned_is_served_before_others_are_seen_and_a_screen_before_that() {
        let of = |budget, weights: [u8; 3], before: [Option<u8>; 3]| {
            let mut some = videos(&before);
            some.iter_mut().zip(weights).for_each(|(video, weight)| video.weight = weight);
            Allocator::default().allocate(0, &known(budget), &mut some);
            some.sort_by_key(|video| video.slot);
            given(&some)
        };
        use weight::{OTHER, PINNED, SCREEN, SPEAKER};
        let low = [Some(0); 3];
        assert_eq!(
            of(600_000, [OTHER, SPEAKER, OTHER], low),
            [Some(0), Some(1), Some(0)],
            "who speaks is raised first"
        );
        assert_eq!(of(360_000, [OTHER, SPEAKER, OTHER], low), low, "and nobody is paused for it");
        assert_eq!(of(360_000, [OTHER, PINNED, OTHER], low), [None, Some(1), None], "the others give way at once");
        assert_eq!(of(460_000, [OTHER, PINNED, OTHER], low), [Some(0), Some(1), None]);
        assert_eq!(of(1_000_000, [OTHER, PINNED, OTHER], low), [Some(0), Some(2), None]);
        assert_eq!(of(460_000, [SCREEN, PINNED, OTHER], low), [Some(1), Some(0), None]);
        assert_eq!(of(10_000_000, [OTHER, PINNED, SCREEN], low), [Some(2); 3]);
    }

    #[test]
    fn what_is_hidden_costs_nothing_and_comes_back_at_once() {
        let mut allocator = Allocator::default();
        let mut some = videos(&[Some(1), Some(1)]);
        some[0].is_hidden = true;
        let (spent, wanted) = allocator.allocate(SECOND, &known(640_000), &mut some);
        assert_eq!((given(&some), spent, wanted), (vec![None, Some(1)], 300_000, 900_000));
        assert!(!some[0].is_urgent && allocator.lowered_at.is_none(), "nothing was lowered for want of bandwidth");
        let mut some = videos(&[Some(1), Some(1)]);
        some[0].before = None;
        allocator.allocate(SECOND, &known(800_000), &mut some);
        assert_eq!(given(&some), [Some(1), Some(1)]);
    }

    #[test]
    fn what_is_left_over_is_room_for_what_is_given() {
        let room = |budget, before: &[Option<u8>], change: &dyn Fn(&mut [Video])| {
            let mut some = videos(before);
            change(&mut some);
            Allocator { lowered_at: Some(0), ..Allocator::default() }.allocate(0, &known(budget), &mut some);
            some.iter().map(|video| (video.room.bps, video.room.is_needed)).collect::<Vec<_>>()
        };
        let none = (u32::MAX, false);
        let low = [Some(0), Some(0)];
        assert_eq!(room(260_000, &low, &|_| ()), [(123_500, true); 2], "the same to each, but for what is left free");
        assert_eq!(room(500_000, &low, &|_| ()), [(210_000, true); 2], "in steps");
        let still = |videos: &mut [Video]| (videos[0].bps[0], videos[0].measured[0]) = (20_000, 20_000);
        assert_eq!(room(260_000, &low, &still), [(50_000, true), (197_000, true)], "who sends little leaves the rest");
        assert_eq!(
            room(460_000, &[Some(1), Some(0)], &|_| ()),
            [(300_000, true), (137_000, true)],
            "beside a better one"
        );
        let small = |videos: &mut [Video]| videos[0].rank_max = 0;
        assert_eq!(room(260_000, &low, &small), [(123_500, false), (123_500, true)], "it is shown small");
        let best = |videos: &mut [Video]| videos[0].encodings = 1;
        assert_eq!(room(260_000, &low, &best)[0], none, "there is no better one");
        // One that sends more already costs what it would of its own.
        let raised = |videos: &mut [Video]| videos.iter_mut().for_each(|video| video.measured[0] = 220_000);
        let mut some = videos(&low);
        raised(&mut some);
        let (taken, _) = Allocator::default().allocate(0, &known(470_000), &mut some);
        assert_eq!((given(&some), taken), (vec![Some(1), Some(0)], 520_000), "400,000 fit, and the rest falls");
        assert_eq!(some[1].room.bps, 146_500);
    }

    #[test]
    fn what_was_raised_in_vain_is_tried_again_later_and_later_or_with_more() {
        let mut allocator = Allocator::default();
        let (mut before, mut raises) = (vec![Some(0)], Vec::new());
        let mut at = |now, budget| {
            let mut one = videos(&before);
            allocator.allocate(now, &known(budget), &mut one);
            raises.extend((one[0].now > before[0]).then_some(now / SECOND));
            before = given(&one);
        };
        // It never carries what it promises.
        for second in 1..60 {
            at(second * SECOND, 400_000);
            at(second * SECOND + SECOND / 2, 200_000);
        }
        at(60 * SECOND, 480_000);
        assert_eq!(raises, [1, 5, 12, 25, 38, 51, 60]);
    }

    #[test]
    fn a_size_that_is_shown_is_rounded_up() {
        let lines = [180, 368, 720];
        let shown = [(0, 0), (180, 0), (200, 0), (201, 1), (360, 1), (405, 1), (540, 2), (720, 2), (2160, 2)];
        for (shown, rank) in shown {
            assert_eq!(rank_for(&lines, shown), Some(rank), "{shown}");
        }
        assert_eq!(rank_for(&lines, SHOWN_LINES_ANY), Some(2));
        assert_eq!((rank_for(&[0, 0, 0], 180), rank_for(&[0, 360], 180)), (Some(2), Some(1)), "not known");
        assert_eq!(rank_for(&[], 180), None);
    }

    #[test]
    fn a_small_picture_gets_no_large_encoding() {
        let mut videos = videos(&[None, None]);
        videos[0].rank_max = 0;
        videos[1].encodings = 1;
        let (_, wanted) = Allocator::default().allocate(0, &known(10_000_000), &mut videos);
        assert_eq!((given(&videos), wanted), (vec![Some(0), Some(0)], 200_000));
    }

    proptest::proptest! {
        /// Whatever is lighter takes nothing from what is heavier; nothing is larger than it is shown.
        #[test]
        fn the_light_take_nothing_from_the_heavy(
            budget in 0u64..3_000_000,
            carried in proptest::option::of(0u64..3_000_000),
            of in proptest::collection::vec(
                (0u8..=weight::SCREEN, proptest::array::uniform3(1u32..2_000_000), proptest::option::of(0u8..3), 0u8..3, proptest::bool::weighted(0.1)),
                0..12,
            ),
            short in proptest::bool::ANY,
        ) {
            type Drawn = (u8, [u32; 3], Option<u8>, u8, bool);
            let video = |(at, (weight, bps, before, rank_max, is_hidden)): (usize, &Drawn)| {
                let mut bps = *bps;
                bps.sort_unstable();
                let before = Some((*before).filter(|_| !is_hidden));
                let (slot, weight, rank_max, is_hidden) = (at as u32, *weight, *rank_max, *is_hidden);
                Video { slot, weight, bps, encodings: 3, rank_max, is_hidden, before, ..Video::default() }
            };
            let all: Vec<Video> = of.iter().enumerate().map(video).collect();
            let budget = Budget { carried, ..known(budget) };
            let allocate = |mut videos: Vec<Video>| {
                let mut allocator = Allocator { short_since: short.then_some(0), ..Allocator::default() };
                allocator.allocate(9 * SECOND, &budget, &mut videos);
                videos
            };
            let whole = allocate(all.clone());
            for video in &whole {
                proptest::prop_assert!(video.now.is_none_or(|rank| rank <= video.rank_max && !video.is_hidden));
            }
            for least in [weight::PINNED, weight::SCREEN] {
                let heavy = |videos: &[Video]| videos.iter().filter(|v| v.weight >= least).copied().collect::<Vec<_>>();
                let (beside, alone) = (heavy(&whole), allocate(heavy(&all)));
                // One may keep beside something lighter what it would lose alone; that is missing to another one, and they have no less together.
                let keeps_more = beside.iter().zip(&alone).any(|(beside, alone)| beside.now > alone.now);
                let [with, without] = [&beside, &alone].map(|of| of.iter().map(Video::own).sum::<f64>());
                proptest::prop_assert!(with >= without, "{} {}", with, without);
                for (beside, alone) in beside.iter().zip(&alone) {
                    proptest::prop_assert!(beside.slot == alone.slot && (beside.now >= alone.now || keeps_more), "{:?} {:?}", beside, alone);
                }
            }
        }

        #[test]
        fn a_budget_is_never_exceeded_by_more_than_what_is_kept(
            budget in 0u64..3_000_000,
            rates in proptest::collection::vec(proptest::array::uniform3(0u32..2_000_000), 0..12),
            before in proptest::collection::vec(proptest::option::of(0u8..3), 12),
        ) {
            let mut videos: Vec<Video> = rates
                .iter()
                .zip(&before)
                .enumerate()
                .map(|(at, (bps, before))| {
                    let mut bps = *bps;
                    bps.sort_unstable();
                    let slot = at as u32;
                    Video { slot, weight: at as u8 % 4, bps, encodings: 3, rank_max: 2, before: Some(*before), ..Video::default() }
                })
                .collect();
            let mut allocator = Allocator { short_since: Some(0), ..Allocator::default() };
            allocator.allocate(9 * SECOND, &known(budget), &mut videos);
            let spent: f64 = videos.iter().filter_map(|video| video.now.map(|rank| video.cost(rank))).sum();
            proptest::prop_assert!(spent <= budget as f64 * KEEP + 1.0);
            // The same again changes nothing.
            let mut again: Vec<_> =
                videos.iter().map(|video| Video { before: Some(video.now), now: None, ..*video }).collect();
            Allocator { lowered_at: Some(0), ..Allocator::default() }.allocate(0, &known(budget), &mut again);
            proptest::prop_assert_eq!(given(&again), given(&videos));
        }
    }
}
