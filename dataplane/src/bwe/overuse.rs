//! Whether a queue grows on a publisher's uplink, by the times at which its packets arrive: packets whose delay grows steadily
//! stand in a growing queue.
//!
//! Packets that were sent together are a group (libwebrtc `InterArrival`, whose constants these are), and the [`Trendline`]
//! judges the groups' delays. Times of sending come from abs-send-time where it is negotiated, else from RTP timestamps, which
//! tell when a frame was taken rather than sent, and so judge a little more severely.

use super::trendline::{Trendline, Usage};
use crate::config::{MILLISECOND, Micros, SECOND};

/// Packets that were sent within this are one group: what a pacer or a driver sends at once arrives at once.
const GROUP: f64 = 5.0;
/// A group that arrives in one burst may be this long.
const BURST_MAX: Micros = 100 * MILLISECOND;
/// After a pause nothing before it counts.
const PAUSE: Micros = 2 * SECOND;
/// Clocks that part by as much at once are other clocks, milliseconds.
const CLOCK_JUMP: f64 = 3000.0;

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
    trendline: Trendline,
}

impl Overuse {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        Overuse { before: None, group: None, at_last: 0, trendline: Trendline::new() }
    }

    /// The result at `now`: for a stream that pauses, none.
    pub(crate) fn usage(&self, now: Micros) -> Usage {
        if now.saturating_sub(self.at_last) > PAUSE { Usage::Normal } else { self.trendline.usage() }
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
            return self.trendline.usage();
        };
        let sent_after = |earlier: u32| f64::from(stamp.wrapping_sub(earlier) as i32) / ticks;
        if sent_after(group.stamp_first) < 0.0 {
            return self.trendline.usage(); // Overtaken by a group that was sent later.
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
            return self.trendline.usage();
        }
        let complete = std::mem::replace(group, begun);
        if let Some(before) = self.before.replace(complete) {
            let sent = f64::from(complete.stamp_last.wrapping_sub(before.stamp_last) as i32) / ticks;
            let arrived = millis(complete.at_last) - millis(before.at_last);
            if (arrived - sent).abs() > CLOCK_JUMP {
                *self = Overuse { group: Some(begun), at_last: self.at_last, ..Overuse::new() };
            } else {
                self.trendline.group_arrived(sent, arrived, millis(complete.at_last));
            }
        }
        self.trendline.usage()
    }
}

fn millis(time: Micros) -> f64 {
    time as f64 / 1000.0
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
                prop_assert!(overuse.trendline.is_sound());
            }
        }
    }
}
