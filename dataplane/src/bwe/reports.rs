//! The rate of a receiver without transport-cc, by the losses in its receiver reports alone (libwebrtc
//! `SendSideBandwidthEstimation`, draft-ietf-rmcat-gcc-02 §6, whose constants these are).

use super::rate::Rate;
use crate::config::{MILLISECOND, Micros, SECOND};

/// Below the first loss the rate grows, above the second it falls by half of the loss.
const LOSS_LOW: f64 = 0.02;
const LOSS_HIGH: f64 = 0.1;
/// Growth per second, and bit/s beyond it.
const GROWTH: f64 = 1.08;
const GROWTH_MORE: f64 = 1_000.0;
/// Reports are taken together until they speak of so many packets (`kLimitNumPackets`).
const PACKETS_MIN: u32 = 20;
/// The rate falls again after this and the round trip (`kBweDecreaseInterval`).
const LOWER_AGAIN: Micros = 300 * MILLISECOND;
/// No rate grows beyond this multiple of what arrives and that much more, bit/s, as in `aimd`.
const OVER_ARRIVED: f64 = 1.5;
const OVER_ARRIVED_MORE: f64 = 10_000.0;

/// What the reports of one receiver say.
pub(super) struct Reports {
    rate: Rate,
    packets: u32,
    /// Packets that the reports speak of, and of these lost.
    reported: u32,
    lost: f64,
    loss: f64,
    updated_at: Option<Micros>,
    lowered_at: Option<Micros>,
}

impl Reports {
    pub(super) const fn new() -> Self {
        Reports { rate: Rate::new(), packets: 0, reported: 0, lost: 0.0, loss: 0.0, updated_at: None, lowered_at: None }
    }

    pub(super) fn sent(&mut self, now: Micros, bytes: usize, packets: u32) {
        self.rate.add(bytes, now);
        self.packets = self.packets.saturating_add(packets);
    }

    /// What was sent in the last half second, bit/s.
    pub(super) fn sent_bps(&mut self, now: Micros) -> f64 {
        self.rate.bps(now).unwrap_or(0.0)
    }

    /// As a fraction.
    pub(super) fn loss(&self) -> f64 {
        self.loss
    }

    /// A report says that this fraction, in 1/256, of what was sent since the last one was lost. The rate that follows.
    pub(super) fn report(&mut self, now: Micros, fraction_lost: u8, bps: f64, rtt: Micros) -> f64 {
        let packets = std::mem::take(&mut self.packets);
        self.reported = self.reported.saturating_add(packets);
        self.lost += f64::from(packets) * f64::from(fraction_lost) / 256.0;
        if self.reported < PACKETS_MIN {
            return bps;
        }
        self.loss = self.lost / f64::from(self.reported);
        (self.reported, self.lost) = (0, 0.0);
        let since = self.updated_at.replace(now).map_or(0, |at| now.saturating_sub(at));
        if self.loss <= LOSS_LOW {
            let seconds = since.min(SECOND) as f64 / SECOND as f64;
            let limit = OVER_ARRIVED * self.sent_bps(now) * (1.0 - self.loss) + OVER_ARRIVED_MORE;
            return (bps * GROWTH.powf(seconds) + GROWTH_MORE * seconds).min(limit).max(bps);
        }
        let may_lower = self.lowered_at.is_none_or(|at| now.saturating_sub(at) >= LOWER_AGAIN + rtt);
        if self.loss > LOSS_HIGH && may_lower {
            self.lowered_at = Some(now);
            return bps * (1.0 - self.loss / 2.0);
        }
        bps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends at a rate in packets of 1000 bytes, and has a report each second.
    fn run(reports: &mut Reports, from: u64, seconds: u64, sent: u64, fraction_lost: u8, mut bps: f64) -> f64 {
        for second in from..from + seconds {
            let gap = 8_000 * SECOND / sent;
            (0..SECOND / gap).for_each(|n| reports.sent(second * SECOND + n * gap, 1000, 1));
            bps = reports.report((second + 1) * SECOND, fraction_lost, bps, 100 * MILLISECOND);
        }
        bps
    }

    #[test]
    fn the_rate_grows_without_loss_up_to_what_is_sent_holds_and_falls_with_it() {
        let mut reports = Reports::new();
        let grown = run(&mut reports, 0, 10, 1_000_000, 0, 1_000_000.0);
        assert!((1_400_000.0..=1_520_000.0).contains(&grown), "{grown}");
        assert_eq!(run(&mut reports, 10, 10, 1_000_000, 13, grown), grown, "5 % holds");
        let lowered = run(&mut reports, 20, 1, 1_000_000, 64, grown);
        assert!((lowered / grown - 0.875).abs() < 0.01, "{lowered}");
    }

    #[test]
    fn a_few_packets_say_little() {
        let mut reports = Reports::new();
        assert_eq!(reports.report(SECOND, 255, 500_000.0, 0), 500_000.0);
        reports.sent(SECOND, 100, 1);
        assert_eq!(reports.report(2 * SECOND, 255, 500_000.0, 0), 500_000.0);
    }
}
