//! The one timeline of a feed's sound and pictures, in milliseconds, and how it goes together with the clock of the wall.

use std::time::{Duration, Instant};

/// A step forward that is a new begin.
const JUMP_MAX: i64 = 10_000;
/// A step back that is one.
const BACK_MAX: i64 = 1_000;
/// After so long what was the soonest counts no more: clocks drift.
const WINDOW: Duration = Duration::from_secs(10);

/// From the timestamps of tags to a time that never jumps, whatever encoder comes and goes.
#[derive(Debug)]
pub(crate) struct Timeline {
    epoch: Instant,
    /// A timestamp and its time.
    base: Option<(u32, i64)>,
    newest: i64,
    /// How much later a frame was handed on than its time says, at least: of this window and of the one before, microseconds.
    soonest: [Option<i64>; 2],
    window_began: Instant,
}

impl Timeline {
    pub(crate) fn new(now: Instant) -> Timeline {
        Timeline { epoch: now, base: None, newest: 0, soonest: [None; 2], window_began: now }
    }

    /// Another encoder: its timestamps begin anew.
    pub(crate) fn begin(&mut self) {
        self.base = None;
    }

    /// The time of a timestamp, and whether it is the first one of a new begin.
    pub(crate) fn time(&mut self, timestamp: u32, now: Instant) -> (i64, bool) {
        let known = self.base.map(|(base, at)| at + i64::from(timestamp.wrapping_sub(base) as i32));
        if let Some(time) = known.filter(|time| (self.newest - BACK_MAX..=self.newest + JUMP_MAX).contains(time)) {
            self.newest = self.newest.max(time);
            // A base that moves along is never half of 2^32 away.
            self.base = Some((timestamp, time));
            return (time, false);
        }
        let time = (now.duration_since(self.epoch).as_millis() as i64).max(self.newest + 100);
        self.base = Some((timestamp, time));
        self.newest = time;
        self.soonest = [None; 2];
        self.window_began = now;
        (time, true)
    }

    /// For how long what is handed on now has waited since it was captured, by one rule for sound and pictures, microseconds: they stay
    /// together whatever either waited for.
    pub(crate) fn waited(&mut self, time_micros: i64, now: Instant) -> i64 {
        if now.duration_since(self.window_began) > WINDOW {
            self.soonest = [None, self.soonest[0]];
            self.window_began = now;
        }
        let late = now.duration_since(self.epoch).as_micros() as i64 - time_micros;
        self.soonest[0] = Some(self.soonest[0].map_or(late, |soonest| soonest.min(late)));
        late - self.soonest.into_iter().flatten().min().unwrap_or(late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_whatever_timestamps_do() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut timeline = Timeline::new(began);
        assert_eq!(timeline.time(7_000_000, at(500)), (500, true));
        assert_eq!(timeline.time(7_000_040, at(540)), (540, false));
        assert_eq!(timeline.time(7_000_020, at(541)), (520, false), "sound a little behind");
        assert_eq!(timeline.time(0, at(600)), (640, true), "an encoder began anew");
        assert_eq!(timeline.time(40, at(640)), (680, false));
        timeline.begin();
        assert_eq!(timeline.time(90, at(5000)), (5000, true));
        assert_eq!(timeline.time(30_000, at(5100)), (5100, true), "a jump");
        let mut wraps = Timeline::new(began);
        assert_eq!(wraps.time(u32::MAX - 9, at(0)), (100, true));
        assert_eq!(wraps.time(10, at(20)), (120, false));
    }

    #[test]
    fn sound_and_pictures_of_one_time_were_captured_at_one_moment() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut timeline = Timeline::new(began);
        // Sound is 30 ms late, pictures 90 ms.
        for i in 0..100 {
            let (sound, picture) = (at(i as u64 * 20 + 30), at(i as u64 * 20 + 90));
            assert_eq!((timeline.waited(i * 20_000, sound), timeline.waited(i * 20_000, picture)), (0, 60_000));
        }
        // Its clock is slow: after two windows that is noticed.
        assert_eq!(timeline.waited(20_000_000, at(20_530)), 500_000);
        assert_eq!(timeline.waited(40_000_000, at(40_530)), 0);
    }
}
