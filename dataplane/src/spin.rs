//! Spinning: a worker that has found nothing looks again for a moment before it parks, if work is likely to come in that
//! moment. A wake through the kernel costs tens of microseconds; what comes while the worker spins does not wait for one.
//!
//! How long is learned from how long the worker was idle lately. It spins for up to twice the usual pause, and not at all
//! when pauses are longer than the setting: then it would burn its core and park all the same. A share of the core bounds
//! the rest.

use crate::config::{Micros, SPIN_CREDIT_MAX, SPIN_SHARE_DIVISOR};

/// What one worker knows of its pauses.
#[derive(Debug)]
pub(crate) struct Spin {
    /// The longest spin; 0: never.
    max: Micros,
    /// The usual pause, in eighths of a microsecond: smoothed by an eighth.
    pause_x8: Micros,
    /// Since when there has been nothing to do.
    idle_since: Option<Micros>,
    /// What may be burnt.
    credit: Micros,
    credited_at: Micros,
}

impl Spin {
    pub(crate) fn new(max: Micros, now: Micros) -> Spin {
        Spin { max, pause_x8: 8 * PAUSE_SEEN_MAX, idle_since: None, credit: 0, credited_at: now }
    }

    /// There was nothing to do: for how long to look again before parking, 0 for not at all.
    pub(crate) fn idle(&mut self, now: Micros) -> Micros {
        self.idle_since.get_or_insert(now);
        if self.max == 0 {
            return 0;
        }
        let earned = now.saturating_sub(self.credited_at) / SPIN_SHARE_DIVISOR;
        self.credit = (self.credit + earned).min(SPIN_CREDIT_MAX);
        self.credited_at = now;
        let pause = self.pause_x8 / 8;
        // A part of it would be burnt for nothing.
        let enough = (2 * pause + 1).min(self.max);
        if pause > self.max || enough > self.credit { 0 } else { enough }
    }

    /// So long was looked for work in vain, or until it came.
    pub(crate) fn spent(&mut self, micros: Micros) {
        self.credit = self.credit.saturating_sub(micros);
    }

    /// There is something to do.
    pub(crate) fn busy(&mut self, now: Micros) {
        if let Some(since) = self.idle_since.take() {
            let pause = now.saturating_sub(since).min(PAUSE_SEEN_MAX);
            self.pause_x8 = self.pause_x8 - self.pause_x8 / 8 + pause;
        }
    }
}

/// A longer pause says no more than this: there will be no spinning for a while.
const PAUSE_SEEN_MAX: Micros = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Pauses of so many microseconds with work of ten between; the share of time that is spent spinning, in thousandths.
    fn burnt(max: Micros, pause: Micros) -> u64 {
        let (mut now, mut burnt) = (0, 0);
        let mut spin = Spin::new(max, now);
        for _ in 0..20_000 {
            let spun = spin.idle(now).min(pause);
            spin.spent(spun);
            burnt += spun;
            now += pause;
            spin.busy(now);
            now += 10;
        }
        burnt * 1000 / now
    }

    #[test]
    fn what_is_burnt_stays_within_its_share() {
        assert_eq!(burnt(0, 20), 0);
        for pause in [1, 5, 20, 50, 99] {
            let burnt = burnt(100, pause);
            assert!(burnt > 50 && burnt <= 1000 / SPIN_SHARE_DIVISOR, "{pause} {burnt}");
        }
        for pause in [101, 1000, 1_000_000] {
            assert_eq!(burnt(100, pause), 0, "{pause}");
        }
    }

    #[test]
    fn it_begins_and_ends_with_the_load() {
        let mut spin = Spin::new(100, 0);
        let mut now = 0;
        let mut pause = |spin: &mut Spin, micros: Micros| {
            now += 10;
            let spun = spin.idle(now);
            spin.spent(spun.min(micros));
            now += micros;
            spin.busy(now);
            spun
        };
        assert_eq!(pause(&mut spin, 20), 0, "an idle worker parks at once");
        for _ in 0..100 {
            pause(&mut spin, 20);
        }
        let longest = (0..10).map(|_| pause(&mut spin, 20)).max();
        assert!(longest > Some(20), "under load it waits a little longer than usual");
        pause(&mut spin, 5_000_000);
        assert_eq!(pause(&mut spin, 20), 0, "one long pause, and it parks again");
    }
}
