//! Whether a publisher's uplink is filling up, seen from the moments at which its packets arrive: packets that take longer
//! and longer than those before them stand in a growing queue.
//!
//! This is the delay-based detector of Google Congestion Control (draft-ietf-rmcat-gcc-02 §5) in the form that libwebrtc
//! gave it later: groups of packets, a trendline over the last twenty of them, an adaptive threshold. Its constants are
//! libwebrtc's (`InterArrival`, `TrendlineEstimator`). Times of sending come from abs-send-time where it is negotiated, else
//! from RTP timestamps, which tell when a frame was taken rather than sent, and so judge a little more severely.

use crate::config::{MILLISECOND, Micros, SECOND};

/// Packets that were sent within this are one group: what a pacer or a driver sends at once arrives at once.
const GROUP: f64 = 5.0;
/// A group that arrives in one burst may be this long.
const BURST_MAX: Micros = 100 * MILLISECOND;
/// Groups on which the trend stands.
const WINDOW: usize = 20;
/// Groups up to which more of them make a trend more certain.
const GROUPS_CERTAIN: f64 = 60.0;
const SMOOTHING: f64 = 0.9;
const GAIN: f64 = 4.0;
/// The threshold, milliseconds, and how fast it follows what it is compared with.
const THRESHOLD: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
const UP: f64 = 0.0087;
const DOWN: f64 = 0.039;
/// A trend that far above the threshold is an accident, to which the threshold does not adapt.
const ADAPT_MAX: f64 = 15.0;
/// How long, in milliseconds of sending, the trend must stay above it.
const OVERUSE_MIN: f64 = 10.0;
/// After a pause nothing before it counts.
const PAUSE: Micros = 2 * SECOND;
/// Clocks that part by as much at once are other clocks, milliseconds.
const CLOCK_JUMP: f64 = 3000.0;

/// What the detector thinks of the way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Usage {
    /// Queues neither grow nor shrink.
    #[default]
    Normal,
    /// They drain.
    Under,
    /// They grow.
    Over,
}

/// Packets that were sent together.
#[derive(Clone, Copy)]
struct Group {
    stamp_first: u32,
    stamp_last: u32,
    at_first: Micros,
    at_last: Micros,
}

/// The detector of one stream.
pub(crate) struct Overuse {
    /// Complete, and being filled.
    before: Option<Group>,
    group: Option<Group>,
    at_last: Micros,
    /// Arrival, milliseconds, and smoothed delay of the last groups, as a ring.
    points: [(f64, f64); WINDOW],
    count: usize,
    at_origin: Micros,
    delay: f64,
    delay_smoothed: f64,
    trend: f64,
    threshold: f64,
    threshold_at: Option<Micros>,
    over_for: Option<f64>,
    over_count: u32,
    usage: Usage,
}

impl Overuse {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        Overuse {
            before: None,
            group: None,
            at_last: 0,
            points: [(0.0, 0.0); WINDOW],
            count: 0,
            at_origin: 0,
            delay: 0.0,
            delay_smoothed: 0.0,
            trend: 0.0,
            threshold: THRESHOLD,
            threshold_at: None,
            over_for: None,
            over_count: 0,
            usage: Usage::Normal,
        }
    }

    /// What is thought at `now`: of a stream that pauses, nothing.
    pub(crate) fn usage(&self, now: Micros) -> Usage {
        if now.saturating_sub(self.at_last) > PAUSE { Usage::Normal } else { self.usage }
    }

    /// A packet arrived at `at` that was sent at `stamp`, a clock of so many ticks in a millisecond that wraps at 2^32.
    pub(crate) fn arrived(&mut self, stamp: u32, ticks: f64, at: Micros) -> Usage {
        if self.group.is_some() && at.saturating_sub(self.at_last) > PAUSE {
            *self = Overuse::new();
        }
        self.at_last = self.at_last.max(at);
        let begun = Group { stamp_first: stamp, stamp_last: stamp, at_first: at, at_last: at };
        let Some(group) = &mut self.group else {
            self.group = Some(begun);
            return self.usage;
        };
        let sent_after = |earlier: u32| f64::from(stamp.wrapping_sub(earlier) as i32) / ticks;
        if sent_after(group.stamp_first) < 0.0 {
            return self.usage; // Overtaken by a group that was sent later.
        }
        let (sent, arrived) = (sent_after(group.stamp_last), millis(at) - millis(group.at_last));
        // Sent apart but arrived together: what had queued up on the way came through at once.
        let is_burst =
            sent == 0.0 || (arrived - sent < 0.0 && arrived <= GROUP && at.saturating_sub(group.at_first) < BURST_MAX);
        if is_burst || sent_after(group.stamp_first) <= GROUP {
            if sent > 0.0 {
                group.stamp_last = stamp;
            }
            group.at_last = group.at_last.max(at);
            return self.usage;
        }
        let complete = std::mem::replace(group, begun);
        if let Some(before) = self.before.replace(complete) {
            let sent = f64::from(complete.stamp_last.wrapping_sub(before.stamp_last) as i32) / ticks;
            let arrived = millis(complete.at_last) - millis(before.at_last);
            if (arrived - sent).abs() > CLOCK_JUMP {
                *self = Overuse { group: Some(begun), at_last: self.at_last, ..Overuse::new() };
            } else {
                self.group_arrived(sent, arrived, complete.at_last);
            }
        }
        self.usage
    }

    /// A group arrived so many milliseconds after the one before, and was sent so many after it.
    fn group_arrived(&mut self, sent: f64, arrived: f64, at: Micros) {
        if self.count == 0 {
            self.at_origin = at;
        }
        self.delay += arrived - sent;
        self.delay_smoothed = SMOOTHING * self.delay_smoothed + (1.0 - SMOOTHING) * self.delay;
        self.points[self.count % WINDOW] = (millis(at.saturating_sub(self.at_origin)), self.delay_smoothed);
        self.count += 1;
        let trend_before = self.trend;
        if self.count >= WINDOW {
            self.trend = slope(&self.points).unwrap_or(self.trend);
        }
        let modified = (self.count as f64).min(GROUPS_CERTAIN) * self.trend * GAIN;
        self.judge(modified, trend_before, sent);
        self.adapt(modified, at);
    }

    fn judge(&mut self, modified: f64, trend_before: f64, sent: f64) {
        if self.count < 2 {
            return;
        }
        if modified > self.threshold {
            // The first time it may have begun anywhere within the interval.
            let over_for = self.over_for.map_or(sent / 2.0, |so_far| so_far + sent);
            self.over_for = Some(over_for);
            self.over_count += 1;
            if over_for > OVERUSE_MIN && self.over_count > 1 && self.trend >= trend_before {
                (self.over_for, self.over_count) = (Some(0.0), 0);
                self.usage = Usage::Over;
            }
            return;
        }
        (self.over_for, self.over_count) = (None, 0);
        self.usage = if modified < -self.threshold { Usage::Under } else { Usage::Normal };
    }

    /// Lets the threshold follow, slowly upwards: flows that fill queues by themselves must not starve this one.
    fn adapt(&mut self, modified: f64, at: Micros) {
        let since = self.threshold_at.replace(at).map_or(0, |before| at.saturating_sub(before));
        let distance = modified.abs() - self.threshold;
        if distance > ADAPT_MAX {
            return;
        }
        let gain = if distance < 0.0 { DOWN } else { UP };
        let since = millis(since.min(100 * MILLISECOND));
        self.threshold = (self.threshold + gain * distance * since).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
    }
}

fn millis(time: Micros) -> f64 {
    time as f64 / 1000.0
}

/// Slope of the line through the points with the least squares, if they do not all arrive at once.
fn slope(points: &[(f64, f64); WINDOW]) -> Option<f64> {
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / WINDOW as f64;
    let (x_mean, y_mean) = (mean(|p| p.0), mean(|p| p.1));
    let (mut numerator, mut denominator) = (0.0, 0.0);
    for (x, y) in points {
        numerator += (x - x_mean) * (y - y_mean);
        denominator += (x - x_mean) * (x - x_mean);
    }
    (denominator != 0.0).then(|| numerator / denominator)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RTP timestamps of video.
    const TICKS: f64 = 90.0;

    /// Frames each 33 ms for so many seconds, of which each is delayed by `delay` milliseconds at its time; what was thought
    /// at any time, and last.
    fn run(overuse: &mut Overuse, seconds: f64, start: Micros, delay: impl Fn(f64) -> f64) -> (Vec<Usage>, Micros) {
        let mut thought = Vec::new();
        let mut end = start;
        for frame in 0..(seconds * 30.0) as u32 {
            let sent = f64::from(frame) * 1000.0 / 30.0;
            let stamp = 4_294_900_000u32.wrapping_add((start as f64 / 1000.0 * TICKS) as u32);
            end = start + ((sent + delay(sent / 1000.0)) * 1000.0) as Micros;
            thought.push(overuse.arrived(stamp.wrapping_add((sent * TICKS) as u32), TICKS, end));
        }
        (thought, end)
    }

    #[test]
    fn a_steady_way_is_normal_whatever_its_delay_and_jitter() {
        for jitter in [0.0, 2.0, 5.0] {
            let noise = |at: f64| 40.0 + jitter * (at * 7919.0).sin();
            let (thought, _) = run(&mut Overuse::new(), 30.0, 5_000_000, noise);
            let over = thought.iter().filter(|usage| **usage == Usage::Over).count();
            assert!(over * 50 < thought.len(), "{over} of {} with jitter {jitter}", thought.len());
        }
    }

    #[test]
    fn a_growing_queue_is_noticed_within_a_second_and_a_draining_one_too() {
        let mut overuse = Overuse::new();
        let (_, end) = run(&mut overuse, 3.0, 1_000_000, |_| 20.0);
        // Twice as much is sent as passes: each second 500 ms more delay.
        let (thought, end) = run(&mut overuse, 1.0, end + 33_000, |at| 20.0 + 500.0 * at);
        assert!(thought[..30].contains(&Usage::Over), "{thought:?}");
        let (thought, _) = run(&mut overuse, 1.0, end, |at| 520.0 - 500.0 * at);
        assert!(thought.contains(&Usage::Under) && *thought.last().unwrap() != Usage::Over, "{thought:?}");
    }

    #[test]
    fn after_a_pause_or_another_clock_nothing_is_held_against_a_stream() {
        let mut overuse = Overuse::new();
        let (thought, end) = run(&mut overuse, 2.0, 1_000_000, |at| 300.0 * at);
        assert_eq!(*thought.last().unwrap(), Usage::Over);
        assert_eq!((overuse.usage(end), overuse.usage(end + PAUSE + 1)), (Usage::Over, Usage::Normal));
        let (thought, end) = run(&mut overuse, 1.0, end + 10 * SECOND, |_| 20.0);
        assert!(thought.iter().all(|usage| *usage == Usage::Normal));
        // The next stamps are those of another clock, hours ahead.
        for n in 0..30u32 {
            let usage = overuse.arrived(0x7000_0000 + n * 3000, TICKS, end + Micros::from(n + 1) * 33_333);
            assert_eq!(usage, Usage::Normal);
        }
    }

    proptest! {
        #[test]
        fn whatever_arrives_the_numbers_stay_numbers(
            packets in prop::collection::vec((any::<u32>(), 0u64..5_000_000), 1..200),
            ticks in prop_oneof![Just(90.0), Just(67_108.864)],
        ) {
            let mut overuse = Overuse::new();
            let mut at = 1_000_000;
            for (stamp, after) in packets {
                at += after;
                overuse.arrived(stamp, ticks, at);
                prop_assert!(overuse.trend.is_finite() && overuse.delay_smoothed.is_finite());
                prop_assert!((THRESHOLD_MIN..=THRESHOLD_MAX).contains(&overuse.threshold));
            }
        }
    }
}
