//! Whether a publisher's packets are being lost, told as soon as there is evidence: by its transport-wide sequence numbers, so audio and
//! video count together. A cumulative sum (Page 1954): each gap adds, each packet that arrived takes away, and what is below 0 is forgotten.
//!
//! It costs the packet path nothing but at gaps. Reports of the last seconds ([`crate::tally`]) say the same later, and of less loss.

use crate::config::{LOSING_KEPT, LOSING_REPEAT, Micros};
use crate::twcc::Noted;

/// What a gap adds, in packets that arrived. The ratio of what a gap and what an arrival say for 10 % loss against 1 %: ln 10 to ln 1.1.
const GAP: u16 = 24;
/// From here on packets are being lost. Of 10 % random loss half of all cases are seen within 40 packets and nine of ten within 90, of 30 %
/// within 12 and 25; 1 % is taken for it once in 17,000 packets.
const EVIDENCE: u16 = 64;
const _: () = assert!(EVIDENCE < 3 * GAP && EVIDENCE > 2 * GAP, "two gaps are an accident");

/// See the module.
#[derive(Default)]
pub(crate) struct Losing {
    score: u16,
    /// The number behind the last gap, and when it came.
    gap: u16,
    gap_at: Micros,
    told_at: Option<Micros>,
}

impl Losing {
    /// A packet came ahead of others. However many are missing, that is one gap: redundancy does not mend what is lost at once.
    #[cold]
    pub(crate) fn came(&mut self, noted: Noted, seq: u16, at: Micros) {
        match noted {
            Noted::Next { .. } => {
                let is_recent = at.saturating_sub(self.gap_at) < LOSING_KEPT;
                let since = if is_recent { seq.wrapping_sub(self.gap) } else { u16::MAX };
                self.score = self.score.saturating_sub(since) + GAP;
                (self.gap, self.gap_at) = (seq, at);
            }
            // It was only late.
            Noted::Late => self.score = self.score.saturating_sub(GAP),
            Noted::Known => {}
        }
    }

    /// Whether it is to be told now that packets are being lost.
    pub(crate) fn take(&mut self, now: Micros) -> bool {
        let is_due = self.told_at.is_none_or(|at| now.saturating_sub(at) >= LOSING_REPEAT);
        let is_told = is_due && self.score >= EVIDENCE;
        if is_told {
            (self.score, self.told_at) = (0, Some(now));
        }
        is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP_NOTED: Noted = Noted::Next { left_out: 1 };

    /// Whether one gap in so many packets, of 10 ms each, is told after so many packets; the first numbers come around.
    fn told(every: u16, packets: u16) -> bool {
        let mut losing = Losing::default();
        let gaps = (1..=packets).filter(|n| n % every == 0);
        gaps.for_each(|n| losing.came(GAP_NOTED, n.wrapping_sub(20), u64::from(n) * 10_000));
        losing.take(u64::from(packets) * 10_000)
    }

    #[test]
    fn a_tenth_is_told_within_half_a_second_and_a_fiftieth_is_not() {
        assert_eq!([told(3, 9), told(10, 39), told(10, 40)], [true, false, true]);
        assert!(!told(50, 60_000) && !told(25, 60_000));
    }

    #[test]
    fn what_is_late_is_not_lost() {
        let mut losing = Losing::default();
        for n in (2..1000).step_by(2) {
            losing.came(GAP_NOTED, n, u64::from(n) * 10_000);
            losing.came(Noted::Late, n - 1, u64::from(n) * 10_000 + 1_000);
        }
        assert!(!losing.take(20_000_000));
    }

    #[test]
    fn it_is_told_again_only_after_a_while() {
        let mut losing = Losing::default();
        let mut at = 0;
        let mut lose = |losing: &mut Losing| {
            (0..5).for_each(|n| losing.came(GAP_NOTED, n, at));
            at += LOSING_REPEAT / 2;
            losing.take(at)
        };
        assert_eq!([lose(&mut losing), lose(&mut losing), lose(&mut losing)], [true, false, true]);
        // Gaps of long ago are forgotten, whatever the numbers say.
        let mut losing = Losing::default();
        (0..9).for_each(|n| losing.came(GAP_NOTED, n, u64::from(n) * LOSING_KEPT));
        assert!(!losing.take(9 * LOSING_KEPT));
    }
}
