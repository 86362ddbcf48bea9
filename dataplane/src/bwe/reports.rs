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
/// … or this one where nothing else is ever known of the path: nobody probes, and the next better encoding may have five times the rate
/// (libwebrtc's simulcast: 500 kb/s and 2.5 Mb/s).
const OVER_ARRIVED_ALONE: f64 = 6.0;
/// There too much is known by losses alone, and each trial of more costs about a second of them: after losses nothing grows for this long, and
/// for twice as long each time that it was tried in vain. What has lasted for a while after that was not in vain.
const HOLD_MIN: Micros = 10 * SECOND;
const HOLD_MAX: Micros = 60 * SECOND;
const HOLD_LASTED: Micros = 30 * SECOND;
/// A REMB of this multiple of what is sent or more is limited by what is sent, not by the path: receivers say 1.5 times what arrives at most
/// (libwebrtc, aiortc), and count no headers, which are a tenth of what is sent.
const REMB_OVER_SENT: f64 = 1.25;
/// What was sent for this long while no REMB fell is what the path carries.
const CARRIED_AFTER: Micros = 2 * SECOND;
/// … and this multiple of it may be given: what is new must leave some of the estimate free.
const OVER_CARRIED: f64 = 1.2;
/// What is sent beyond this multiple of it is a trial …
const TRIAL: f64 = 1.1;
/// … and when one has failed, a REMB says nothing of what was carried before for this long: the queue of the trial drains.
const TRIAL_DRAINS: Micros = 3 * SECOND;

/// What the reports of one receiver say.
pub(super) struct Reports {
    rate: Rate,
    packets: u32,
    /// Packets that the reports speak of, and of these lost.
    reported: u32,
    lost: f64,
    loss: f64,
    /// What arrived by the last of them, bit/s.
    arrived: Option<f64>,
    updated_at: Option<Micros>,
    lowered_at: Option<Micros>,
    /// Nothing grows before, after losses that so long a time was waited for.
    held_until: Micros,
    held_for: Micros,
    carried: Carried,
}

/// What a path carries of which nothing but REMB is known. One that falls says that too much was sent, and it falls far: to 0.85 times
/// what arrived within the last second, which is little after a pause. It grows again by 4 kb/s in a second, and only up to 1.5 times what
/// arrives. So a trial that failed would leave less than before for a minute, or end a video for good.
#[derive(Default)]
struct Carried {
    /// Bit/s.
    bps: f64,
    /// The last REMB, bit/s.
    remb: f64,
    /// The least that was sent since then, with no REMB that fell.
    least: Option<(Micros, f64)>,
    failed_at: Option<Micros>,
}

impl Carried {
    fn remb(&mut self, now: Micros, remb: f64, sent: f64) {
        let before = std::mem::replace(&mut self.remb, remb);
        if remb >= sent || remb > before {
            let (since, least) = self.least.get_or_insert((now, sent));
            *least = least.min(sent);
            if now.saturating_sub(*since) >= CARRIED_AFTER {
                self.bps = self.bps.max(*least);
                self.least = None;
            }
            return;
        }
        self.least = None;
        if sent > TRIAL * self.bps {
            self.failed_at = Some(now);
        } else if self.failed_at.is_none_or(|at| now.saturating_sub(at) >= TRIAL_DRAINS) {
            self.bps = remb / OVER_CARRIED;
        }
    }
}

impl Reports {
    pub(super) const fn new() -> Self {
        Reports {
            rate: Rate::new(),
            packets: 0,
            reported: 0,
            lost: 0.0,
            loss: 0.0,
            arrived: None,
            updated_at: None,
            lowered_at: None,
            held_until: 0,
            held_for: 0,
            carried: Carried { bps: 0.0, remb: 0.0, least: None, failed_at: None },
        }
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

    /// What arrives, bit/s.
    pub(super) fn arrived(&self) -> Option<f64> {
        self.arrived
    }

    /// A report says that this fraction, in 1/256, of what was sent since the last one was lost. The rate that follows; `is_alone` if the
    /// one before stands on nothing but reports, and nothing limited it at the begin.
    pub(super) fn report(&mut self, now: Micros, fraction_lost: u8, bps: f64, rtt: Micros, is_alone: bool) -> f64 {
        let packets = std::mem::take(&mut self.packets);
        self.reported = self.reported.saturating_add(packets);
        self.lost += f64::from(packets) * f64::from(fraction_lost) / 256.0;
        if self.reported < PACKETS_MIN {
            return bps;
        }
        self.loss = self.lost / f64::from(self.reported);
        (self.reported, self.lost) = (0, 0.0);
        let sent = self.sent_bps(now);
        self.arrived = Some(sent * (1.0 - self.loss));
        let over = if is_alone { OVER_ARRIVED_ALONE } else { OVER_ARRIVED };
        let since = self.updated_at.replace(now).map_or(0, |at| now.saturating_sub(at));
        if self.loss <= LOSS_LOW {
            if is_alone && now < self.held_until {
                return bps;
            }
            let seconds = since.min(SECOND) as f64 / SECOND as f64;
            let limit = over * sent * (1.0 - self.loss) + OVER_ARRIVED_MORE;
            return (bps * GROWTH.powf(seconds) + GROWTH_MORE * seconds).min(limit).max(bps);
        }
        let may_lower = self.lowered_at.is_none_or(|at| now.saturating_sub(at) >= LOWER_AGAIN + rtt);
        if self.loss > LOSS_HIGH && may_lower {
            self.lowered_at = Some(now);
            self.hold(now);
            // Less than what was sent, and not than what nothing limited.
            let from = if is_alone && sent > 0.0 { bps.min(sent) } else { bps };
            return from * (1.0 - self.loss / 2.0);
        }
        bps
    }

    /// A REMB, bit/s, where nothing else is known of the path. What may leave all the same: `start` at least and several times what leaves, if
    /// that alone limits the REMB and no trial failed a while ago; what was carried before the trial, if one did.
    pub(super) fn least_by_remb(&mut self, now: Micros, bps: f64, start: f64) -> f64 {
        let sent = self.sent_bps(now);
        if bps < sent {
            self.hold(now);
        }
        self.carried.remb(now, bps, sent);
        if now >= self.held_until && bps >= REMB_OVER_SENT * sent {
            start.max(OVER_ARRIVED_ALONE * sent)
        } else {
            OVER_CARRIED * self.carried.bps
        }
    }

    /// Too much was tried: nothing grows for a while.
    fn hold(&mut self, now: Micros) {
        if now >= self.held_until.saturating_add(HOLD_LASTED) {
            self.held_for = HOLD_MIN;
        } else if now >= self.held_until {
            self.held_for = (2 * self.held_for).clamp(HOLD_MIN, HOLD_MAX);
        }
        self.held_until = now.saturating_add(self.held_for);
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
            bps = reports.report((second + 1) * SECOND, fraction_lost, bps, 100 * MILLISECOND, false);
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
        assert_eq!(reports.report(SECOND, 255, 500_000.0, 0, false), 500_000.0);
        reports.sent(SECOND, 100, 1);
        assert_eq!(reports.report(2 * SECOND, 255, 500_000.0, 0, true), 500_000.0);
    }

    #[test]
    fn where_nothing_limited_it_the_first_losses_leave_less_than_what_was_sent() {
        let mut reports = Reports::new();
        let send =
            |reports: &mut Reports, second| (0..125).for_each(|n| reports.sent(second * SECOND + n * 8_000, 1000, 1));
        send(&mut reports, 0);
        let unlimited = 20_000_000.0;
        assert_eq!(reports.report(SECOND, 0, unlimited, 0, true), unlimited);
        send(&mut reports, 1);
        let lowered = reports.report(2 * SECOND, 64, unlimited, 0, true);
        assert!((850_000.0..=890_000.0).contains(&lowered), "an eighth less than 1 Mb/s: {lowered}");
        send(&mut reports, 2);
        assert_eq!(reports.report(3 * SECOND, 0, lowered, 0, true), lowered, "not yet");
        send(&mut reports, 14);
        let grown = reports.report(15 * SECOND, 0, 5_900_000.0, 0, true);
        assert!((5_950_000.0..=6_100_000.0).contains(&grown), "up to six times what arrives: {grown}");
    }

    #[test]
    fn what_is_tried_in_vain_is_tried_less_often() {
        let mut reports = Reports::new();
        let (mut bps, mut lost_at) = (1_000_000.0, Vec::new());
        for second in 0..300 {
            (0..125).for_each(|n| reports.sent(second * SECOND + n * 8_000, 1000, 1));
            let is_lost = bps >= 1_000_000.0;
            lost_at.extend(is_lost.then_some(second));
            bps = reports.report((second + 1) * SECOND, if is_lost { 64 } else { 0 }, bps, 0, true);
        }
        let gaps: Vec<u64> = lost_at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[0] >= 11 && gaps[1] >= 21 && gaps[2] >= 41 && gaps[3..].iter().all(|gap| *gap >= 61), "{gaps:?}");
        assert!(gaps.iter().all(|gap| *gap <= 65) && gaps.len() >= 5, "but it is tried: {gaps:?}");
        // After half a minute without any, losses are new.
        let at = |second: u64| second * SECOND;
        (0..125).for_each(|n| reports.sent(at(500) + n * 8_000, 1000, 1));
        reports.report(at(501), 64, 1_000_000.0, 0, true);
        assert_eq!(reports.held_until, at(511));
    }

    /// Sends at this rate for so many halves of a second, and has this REMB after each. What may leave after the last.
    fn remb(reports: &mut Reports, from: &mut u64, halves: u64, sent: u64, mut bps: impl FnMut() -> f64) -> f64 {
        let mut least = 0.0;
        for _ in 0..halves {
            let gap = 8_000 * SECOND / sent;
            (0..SECOND / 2 / gap).for_each(|n| reports.sent(*from + n * gap, 1000, 1));
            *from += SECOND / 2;
            least = reports.least_by_remb(*from, bps(), 0.0);
        }
        least
    }

    #[test]
    fn a_trial_that_made_a_remb_fall_leaves_what_was_carried_before() {
        let (mut reports, mut at, mut rising) = (Reports::new(), SECOND, 140_000.0);
        let carried = remb(&mut reports, &mut at, 12, 150_000, || {
            rising += 2_000.0;
            rising
        });
        assert!((165_000.0..=190_000.0).contains(&carried), "{carried}");
        remb(&mut reports, &mut at, 1, 400_000, || 110_000.0);
        // It stays there, as the video pauses for a moment, and little arrives.
        assert_eq!(remb(&mut reports, &mut at, 16, 40_000, || 110_000.0), carried);
        // The smaller encoding again: it is more than the REMB, which rises.
        let mut rising = 110_000.0;
        let after = remb(&mut reports, &mut at, 8, 150_000, || {
            rising += 2_000.0;
            rising
        });
        assert!((carried..=1.1 * carried).contains(&after), "{after}");
        // Now the path carries less than it did.
        let narrow = remb(&mut reports, &mut at, 8, 150_000, || 85_000.0);
        assert!((84_000.0..=86_000.0).contains(&narrow), "{narrow}");
    }
}
