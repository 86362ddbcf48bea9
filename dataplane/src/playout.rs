//! How long a receiver is to hold pictures back, so that what is repaired is shown and not dropped: how late packets of a stream come here, and
//! what a receiver was told, as the header extension playout-delay.
//!
//! A decoder that lacks a frame which nothing refers to goes on with the next one when that is due. libwebrtc makes frames due early enough for
//! one round trip from the loss on, but not from when the loss is seen, which is a frame later.

use crate::config::{HOLD_KEPT, HOLD_MAX, HOLD_SPARE, LATE_SHARE_DIVISOR, LATE_WINDOW, MILLISECOND, Micros, SECOND};

/// Steps of what is told and of lateness.
const STEP: Micros = 20 * MILLISECOND;
/// Steps of lateness that are told apart; what is later than all of them is as late as the last.
const STEPS: usize = (HOLD_MAX / STEP) as usize;
/// Fewer packets than this say nothing.
const PACKETS_MIN: u16 = 20;
/// Ticks of the clock of video in a millisecond.
const TICKS: u32 = 90;
/// Longer than this back is no lateness, but another clock.
const BACK_MAX: u32 = 10_000 * TICKS;

/// How late packets of a stream of video are: how long after it was due, by its timestamp, each came of those that were overtaken by the next frame.
/// Mostly they were lost, and came when they were asked for.
#[derive(Default)]
pub(crate) struct Lateness {
    /// The newest timestamp, and when the first packet with it came; 0 if none has.
    newest: u32,
    newest_at: Micros,
    /// Of this window, which began then, and of the one before it.
    windows: [Window; 2],
    began_at: Micros,
}

#[derive(Clone, Copy, Default)]
struct Window {
    packets: u16,
    /// By steps; more than 255 are as many.
    late: [u8; STEPS],
}

impl Lateness {
    /// A packet came.
    #[inline]
    pub(crate) fn came(&mut self, timestamp: u32, now: Micros) {
        if now >= self.began_at + LATE_WINDOW {
            self.turn(now);
        }
        let window = &mut self.windows[0];
        window.packets = window.packets.saturating_add(1);
        let back = self.newest.wrapping_sub(timestamp);
        if back > BACK_MAX || self.newest_at == 0 {
            (self.newest, self.newest_at) = (timestamp, now);
            return;
        }
        if back == 0 {
            return;
        }
        let late = Micros::from(back / TICKS) * MILLISECOND + now.saturating_sub(self.newest_at);
        let late = &mut window.late[((late / STEP) as usize).min(STEPS - 1)];
        *late = late.saturating_add(1);
    }

    #[cold]
    fn turn(&mut self, now: Micros) {
        let is_next = now < self.began_at + 2 * LATE_WINDOW;
        self.windows = [Window::default(), if is_next { self.windows[0] } else { Window::default() }];
        self.began_at = now;
    }

    /// How long has to be waited for all but a few packets.
    pub(crate) fn wait(&self, now: Micros) -> Micros {
        let [new, old] = &self.windows;
        let packets = new.packets.saturating_add(old.packets);
        if packets < PACKETS_MIN || now >= self.began_at + 2 * LATE_WINDOW {
            return 0;
        }
        // One alone says nothing of the next ones.
        let mut left = (packets / LATE_SHARE_DIVISOR).max(1);
        for step in (0..STEPS).rev() {
            let late = u16::from(new.late[step]) + u16::from(old.late[step]);
            if late > left {
                return (step as Micros + 1) * STEP + HOLD_SPARE;
            }
            left -= late;
        }
        0
    }
}

/// What a receiver was told of a slot.
#[derive(Clone, Copy, Default)]
pub(crate) struct Playout {
    /// In steps; none: nothing is said.
    hold: Option<u8>,
    /// Seconds.
    kept_until: u32,
}
const _: () = assert!(size_of::<Playout>() == 8, "each slot has one");
const _: () = assert!(size_of::<Lateness>() <= 64, "each stream has one");

impl Playout {
    /// Pictures have to be held back for so long, as is known now. More is told at once, less only when it has been enough for a while: each change
    /// is seen.
    pub(crate) fn needs(&mut self, wait: Micros, now: Micros) {
        let steps = wait.min(HOLD_MAX).div_ceil(STEP) as u8;
        match self.hold {
            None if steps == 0 => return,
            // A step less is no change.
            Some(hold) if hold > 0 && steps <= hold && steps + 1 >= hold => {}
            Some(hold) if steps < hold && self.is_kept(now) => return,
            // That nothing is held back any more was said often enough.
            Some(0) if steps == 0 => {
                self.hold = self.hold.filter(|_| self.is_kept(now));
                return;
            }
            _ => self.hold = Some(steps),
        }
        self.kept_until = ((now + HOLD_KEPT) / SECOND) as u32;
    }

    fn is_kept(&self, now: Micros) -> bool {
        now < Micros::from(self.kept_until) * SECOND
    }

    /// The value of the extension, if there is something to say: the least delay in 12 bits and the most, in units of 10 ms.
    /// (<https://webrtc.googlesource.com/src/+/refs/heads/main/docs/native-code/rtp-hdrext/playout-delay/README.md>)
    #[inline]
    pub(crate) fn value(&self) -> Option<[u8; 3]> {
        let least = u32::from(self.hold?) * (STEP / MILLISECOND / 10) as u32;
        let [_, bytes @ ..] = (least << 12 | 0xfff).to_be_bytes();
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 25 frames a second in a packet each, of which each n-th comes 130 ms late.
    fn stream(lateness: &mut Lateness, seconds: u64, each: u64) -> Micros {
        let begin = lateness.began_at;
        let timestamp = |frame: u64| (frame * 40 * u64::from(TICKS)) as u32;
        for n in 0..25 * seconds {
            let now = begin + n * 40 * MILLISECOND;
            if n % each != each - 1 {
                lateness.came(timestamp(n), now);
            }
            if n >= 3 && (n - 3) % each == each - 1 {
                lateness.came(timestamp(n - 3), now + 10 * MILLISECOND);
            }
        }
        begin + seconds * SECOND
    }

    #[test]
    fn all_but_a_few_packets_are_waited_for() {
        let mut lateness = Lateness::default();
        let now = stream(&mut lateness, 4, 10);
        assert_eq!(lateness.wait(now), 140 * MILLISECOND + HOLD_SPARE);
        assert_eq!(lateness.wait(now + 2 * LATE_WINDOW), 0, "nothing comes any more");
        let mut lateness = Lateness::default();
        let now = stream(&mut lateness, 4, 60);
        assert_eq!(lateness.wait(now), 0, "one in 60");
        let mut lateness = Lateness::default();
        let now = stream(&mut lateness, 1, 20);
        assert_eq!(lateness.wait(now), 0, "one alone");
    }

    #[test]
    fn what_is_very_late_is_waited_for_as_long_as_anything() {
        let mut lateness = Lateness::default();
        for n in 0..100 {
            lateness.came(if n % 4 == 3 { 0 } else { 900_000 / 2 + n * 3600 }, u64::from(n) * 40 * MILLISECOND);
        }
        assert!(lateness.wait(4 * SECOND - 1) >= HOLD_MAX);
    }

    #[test]
    fn a_clock_that_jumps_is_not_late() {
        let mut lateness = Lateness::default();
        for n in 0..100u32 {
            lateness.came((n * 3600).wrapping_sub(n / 30 * 2 * BACK_MAX), u64::from(n) * 40 * MILLISECOND);
        }
        assert_eq!(lateness.wait(4 * SECOND), 0);
    }

    #[test]
    fn more_is_told_at_once_and_less_after_a_while() {
        let mut playout = Playout::default();
        let mut told = |wait: Micros, now: Micros| {
            playout.needs(wait, now);
            playout.value().map(|[high, middle, low]| {
                assert_eq!((middle & 15, low), (15, 255), "40.95 s at most");
                (u32::from(high) << 4 | u32::from(middle) >> 4) * 10
            })
        };
        const MS: Micros = MILLISECOND;
        assert_eq!(told(0, 0), None, "most are never told");
        assert_eq!(told(150 * MS, SECOND), Some(160));
        assert_eq!(told(60 * MS, 2 * SECOND), Some(160));
        assert_eq!(told(130 * MS, 5 * SECOND), Some(160), "a step less is no change");
        assert_eq!(told(SECOND, 6 * SECOND), Some(320), "never more than the most");
        let over = 6 * SECOND + HOLD_KEPT;
        assert_eq!(told(0, over - 1), Some(320));
        assert_eq!(told(0, over), Some(0), "it is taken back");
        assert_eq!(told(0, over + HOLD_KEPT - 1), Some(0));
        assert_eq!(told(0, over + HOLD_KEPT), None, "and no more is said of it");
    }
}
