//! Whether a transport sends much less than it could (application-limited region; libwebrtc `AlrDetector` and `IntervalBudget`):
//! then what arrives says nothing about what the path carries.

use crate::config::{MILLISECOND, Micros};

/// Fraction of the estimate that a transport must use.
const USED: f64 = 0.65;
/// Fractions of the budget left at which the region begins and ends.
const BEGIN: f64 = 0.80;
const END: f64 = 0.50;
/// The budget is what may be sent in this time.
const WINDOW: u64 = 500;

/// The detector of one transport.
pub(super) struct Alr {
    kbps: i64,
    /// Bytes left; negative when more was sent.
    budget: i64,
    sent_at: Option<u64>,
    since: Option<Micros>,
}

impl Alr {
    pub(super) fn new(bps: f64) -> Self {
        let mut alr = Alr { kbps: 0, budget: 0, sent_at: None, since: None };
        alr.set_estimate(bps);
        alr
    }

    fn budget_max(&self) -> i64 {
        WINDOW as i64 * self.kbps / 8
    }

    pub(super) fn set_estimate(&mut self, bps: f64) {
        self.kbps = (bps * USED / 1000.0) as i64;
        self.budget = self.budget.clamp(-self.budget_max(), self.budget_max());
    }

    /// Bytes left.
    pub(super) fn sent(&mut self, now: Micros, len: usize) {
        let at = (now + MILLISECOND / 2) / MILLISECOND;
        let Some(before) = self.sent_at.replace(at) else { return };
        let max = self.budget_max();
        let gained = self.kbps.saturating_mul(at.saturating_sub(before).min(2 * WINDOW) as i64) / 8;
        self.budget = ((self.budget - len as i64).max(-max) + gained).min(max);
        let left = if max > 0 { self.budget as f64 / max as f64 } else { 0.0 };
        if left > BEGIN && self.since.is_none() {
            self.since = Some(now);
        } else if left < END {
            self.since = None;
        }
    }

    /// When the region began, within it.
    pub(super) fn since(&self) -> Option<Micros> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends so many bit/s for a second in packets of 500 bytes.
    fn send(alr: &mut Alr, from: &mut Micros, bps: u64) -> bool {
        let gap = 4_000 * 1_000_000 / bps;
        let end = *from + 1_000_000;
        while *from < end {
            alr.sent(*from, 500);
            *from += gap;
        }
        alr.since().is_some()
    }

    #[test]
    fn it_begins_below_two_thirds_and_ends_at_half_the_budget_not_at_its_begin() {
        let (mut alr, mut now) = (Alr::new(1_000_000.0), 0);
        for _ in 0..5 {
            assert!(!send(&mut alr, &mut now, 700_000));
        }
        let within: Vec<_> = (0..5).map(|_| send(&mut alr, &mut now, 300_000)).collect();
        assert!(within[4], "{within:?}");
        // 0.8 of the budget is passed long before 0.5 of it: the region does not end there.
        alr.sent(now, 6_000);
        assert!(alr.budget < alr.budget_max() * 4 / 5 + 6_000 && alr.since().is_some(), "{}", alr.budget);
        let mut seconds = 0;
        while send(&mut alr, &mut now, 800_000) {
            seconds += 1;
        }
        assert!(seconds < 3, "{seconds}");
    }
}
