//! REMB (draft-alvestrand-rmcat-remb-03): how much a publisher without transport-cc may send. The rate is estimated here, by
//! the receiver, and sent to the publisher once a second, and at once when it is notably lower than before.
//!
//! The limit that the controlplane set for the peer ([`PeerLimit`]) is the highest rate that is ever sent, and the rate that is
//! sent until overuse or loss is seen. A growing queue ([`Overuse`](super::Overuse)) or a loss of more than a tenth lowers the
//! estimate; from there it rises as in Google Congestion Control (draft-ietf-rmcat-gcc-02 §5.5, §6), whose constants these are.

use proto::plane::PeerLimit;

use super::rate::Rate;
use super::trendline::Usage;
use crate::config::{MILLISECOND, Micros, REMB_BPS_MIN, SECOND};

/// Factor from the incoming rate to the estimate after overuse (libwebrtc `AimdRateControl`).
const BETA: f64 = 0.85;
/// Growth factor per second while the capacity of the path is unknown.
const GROWTH: f64 = 1.08;
/// The estimate is at most this multiple of the incoming rate, because rates that were not probed are unproven.
const OVER_INCOMING: f64 = 1.5;
/// Added to it, bit/s, so that a very low rate can grow.
const OVER_INCOMING_MORE: f64 = 10_000.0;
/// Within this fraction of the rate at the last overuse, growth is additive (a packet per response time), not multiplicative.
const NEAR: f64 = 0.15;
/// Slowest growth, bit/s in a second.
const GROWTH_MIN: f64 = 4_000.0;
/// Overuse that continues lowers the estimate again after this long: the sender reacts a round trip later.
const LOWER_AGAIN: Micros = 200 * MILLISECOND;
/// The estimate is sent at once if it is less than this fraction of the one that was sent before.
const NOTABLE: f64 = 0.97;
/// Fractions of lost packets above which the estimate does not grow, and above which the estimate is lowered (draft-ietf-rmcat-gcc-02 §6).
const LOSS_HOLDS: f64 = 0.02;
const LOSS_LOWERS: f64 = 0.1;
/// With fewer packets the loss is not evaluated.
const LOSS_PACKETS_MIN: u64 = 20;

/// Ticks in a millisecond of abs-send-time, whose 6.18 bits are moved to the top of 32.
pub(crate) const ABS_SEND_TIME_TICKS: f64 = (1u64 << 26) as f64 / 1000.0;

/// What one publisher may send in those of its streams that take REMB.
pub(crate) struct Estimate {
    /// What the controlplane set; without it no REMB is sent.
    limit: Option<PeerLimit>,
    rate: Rate,
    /// Bit/s; `None` until overuse or loss shows that the path carries less than the limit.
    bps: Option<f64>,
    /// The incoming rate at the last overuse: about the capacity of the path.
    capacity: Option<f64>,
    lowered_at: Option<Micros>,
    grown_at: Option<Micros>,
    sent: Option<u32>,
}

impl Estimate {
    /// Of a peer of which nothing arrived yet.
    pub(crate) fn new() -> Self {
        Estimate {
            limit: None,
            rate: Rate::new(),
            bps: None,
            capacity: None,
            lowered_at: None,
            grown_at: None,
            sent: None,
        }
    }

    /// The controlplane sets what the peer may send at most.
    pub(crate) fn set_limit(&mut self, limit: PeerLimit) {
        self.limit = Some(limit);
    }

    /// A packet of so many bytes arrived.
    #[inline]
    pub(crate) fn received(&mut self, len: usize, at: Micros) {
        self.rate.add(len, at);
    }

    /// This rate was sent to the publisher.
    pub(crate) fn set_sent(&mut self, bps: u32) {
        self.sent = Some(bps);
    }

    /// What the controlplane set.
    pub(crate) fn limit(&self) -> Option<PeerLimit> {
        self.limit
    }

    /// The rate to send now, bit/s.
    pub(crate) fn bps(&self) -> Option<u32> {
        let limit = self.limit?.bps_max;
        Some(self.bps.map_or(limit, |bps| bps.max(f64::from(REMB_BPS_MIN)) as u32).min(limit))
    }

    /// Whether it is notably lower than what was sent.
    pub(crate) fn is_notable(&self) -> bool {
        match (self.bps(), self.sent) {
            (Some(bps), Some(sent)) => f64::from(bps) < NOTABLE * f64::from(sent),
            _ => false,
        }
    }

    /// The detector reports a growing queue.
    pub(crate) fn over(&mut self, now: Micros) {
        let Some(current) = self.bps().map(f64::from) else { return };
        if self.lowered_at.is_some_and(|at| now < at + LOWER_AGAIN) {
            return;
        }
        let incoming = self.rate.bps(now);
        self.capacity = incoming.or(self.capacity);
        self.lower(BETA * incoming.unwrap_or(current), current, now);
    }

    /// By half at most: the incoming rate of a path that stalled for a moment is lower than its capacity.
    fn lower(&mut self, to: f64, current: f64, now: Micros) {
        self.bps = Some(to.clamp(current / 2.0, current).max(f64::from(REMB_BPS_MIN)));
        (self.lowered_at, self.grown_at) = (Some(now), Some(now));
    }

    /// Reviews the last second: the result of the detectors, and how many packets were expected and lost.
    pub(crate) fn review(&mut self, usage: Usage, expected: u64, lost: u64, rtt: Micros, now: Micros) {
        let Some(current) = self.bps().map(f64::from) else { return };
        let loss = if expected < LOSS_PACKETS_MIN { 0.0 } else { lost as f64 / expected as f64 };
        if loss > LOSS_LOWERS {
            return self.lower(current * (1.0 - 0.5 * loss), current, now);
        }
        let since = self.grown_at.replace(now).map_or(0, |at| now.saturating_sub(at)).min(SECOND);
        if loss <= LOSS_HOLDS && usage == Usage::Normal && self.bps.is_some() {
            self.grow(current, since as f64 / SECOND as f64, rtt, now);
        }
    }

    fn grow(&mut self, current: f64, seconds: f64, rtt: Micros, now: Micros) {
        let Some(limit) = self.limit else { return };
        if self.capacity.is_some_and(|capacity| current > (1.0 + NEAR) * capacity) {
            self.capacity = None; // The capacity has grown.
        }
        let grown = match self.capacity.filter(|capacity| current > (1.0 - NEAR) * capacity) {
            Some(_) => current + seconds * near_growth(current, rtt),
            None => (current * GROWTH.powf(seconds)).max(current + GROWTH_MIN * seconds),
        };
        let incoming = self.rate.bps(now).unwrap_or(0.0);
        let bps = grown.min(current.max(OVER_INCOMING * incoming + OVER_INCOMING_MORE));
        self.bps = Some(bps).filter(|bps| *bps < f64::from(limit.bps_max));
    }
}

/// Growth near a known limit, bit/s in a second: about a packet for each response time (draft-ietf-rmcat-gcc-02 §5.5).
fn near_growth(current: f64, rtt: Micros) -> f64 {
    const FRAMES: f64 = 30.0;
    const PACKET_BITS: f64 = 1200.0 * 8.0;
    let frame_bits = current / FRAMES;
    let packet_bits = frame_bits / (frame_bits / PACKET_BITS).ceil().max(1.0);
    let response = (rtt + 100 * MILLISECOND) as f64 / SECOND as f64;
    (packet_bits / response).max(GROWTH_MIN)
}

#[cfg(test)]
mod tests {
    use proto::id::PeerId;

    use super::*;

    const MS: Micros = MILLISECOND;

    fn limited(bps_max: u32) -> Estimate {
        let limit = Some(PeerLimit { peer: PeerId::new(0, 1), bps_max });
        Estimate { limit, ..Estimate::new() }
    }

    /// Bytes arrive at a rate from one time to another.
    fn feed(estimate: &mut Estimate, bps: u64, from: Micros, to: Micros) {
        for at in (from..to).step_by(10_000) {
            estimate.rate.add((bps / 800) as usize, at);
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_half_second() {
        let mut rate = Rate::new();
        assert_eq!(rate.bps(0), None);
        for at in (0..2_000 * MS).step_by(10_000) {
            rate.add(1250, at);
        }
        let measured = rate.bps(2_000 * MS).unwrap();
        assert!((measured - 1_000_000.0).abs() < 50_000.0, "{measured}");
        assert_eq!(rate.bps(2_600 * MS), None, "after a pause it is measured anew");
    }

    #[test]
    fn nothing_is_sent_without_a_limit_and_never_more() {
        let mut estimate = Estimate::new();
        estimate.over(0);
        estimate.review(Usage::Normal, 100, 50, 0, SECOND);
        assert_eq!(estimate.bps(), None);
        let mut estimate = limited(500_000);
        assert_eq!(estimate.bps(), Some(500_000), "nothing shows that it is too much");
        for second in 1..100 {
            estimate.review(Usage::Normal, 100, 0, 50 * MS, second * SECOND);
            assert_eq!(estimate.bps(), Some(500_000));
        }
    }

    #[test]
    fn overuse_leaves_a_part_of_what_arrived_and_repeats_no_sooner_than_a_round_trip() {
        let mut estimate = limited(1_000_000);
        estimate.sent = estimate.bps();
        feed(&mut estimate, 600_000, 0, SECOND);
        estimate.over(SECOND);
        let bps = estimate.bps().unwrap();
        assert!((500_000..520_000).contains(&bps) && estimate.is_notable(), "{bps}");
        estimate.over(SECOND + LOWER_AGAIN - 1);
        assert_eq!(estimate.bps(), Some(bps));
        feed(&mut estimate, 300_000, SECOND, 2 * SECOND);
        estimate.over(2 * SECOND);
        assert!((245_000..262_000).contains(&estimate.bps().unwrap()));
        let bps = estimate.bps().unwrap();
        feed(&mut estimate, 1, 2 * SECOND, 6 * SECOND);
        estimate.over(3 * SECOND);
        assert_eq!(estimate.bps(), Some(bps / 2), "the way stood still");
        for n in 4..12 {
            estimate.over(n * SECOND);
        }
        assert_eq!(estimate.bps(), Some(REMB_BPS_MIN));
    }

    #[test]
    fn loss_of_a_tenth_lowers_and_of_a_fiftieth_holds() {
        let mut estimate = limited(1_000_000);
        estimate.review(Usage::Normal, 100, 20, 50 * MS, SECOND);
        assert_eq!(estimate.bps(), Some(900_000), "by half of the loss");
        estimate.review(Usage::Normal, 10, 9, 50 * MS, SECOND);
        assert_eq!(estimate.bps(), Some(900_000), "ten packets say nothing");
        feed(&mut estimate, 900_000, SECOND, 2 * SECOND);
        estimate.review(Usage::Normal, 100, 5, 50 * MS, 2 * SECOND);
        assert_eq!(estimate.bps(), Some(900_000));
        estimate.review(Usage::Under, 100, 0, 50 * MS, 3 * SECOND);
        assert_eq!(estimate.bps(), Some(900_000), "a queue drains: that is what it was lowered for");
    }

    #[test]
    fn it_rises_by_a_share_then_carefully_near_the_limit_of_the_way_then_to_the_cap() {
        let mut estimate = limited(1_000_000);
        feed(&mut estimate, 400_000, 0, SECOND);
        estimate.over(SECOND);
        let mut now = SECOND;
        let mut steps = Vec::new();
        while estimate.bps.is_some() && now < 200 * SECOND {
            let before = estimate.bps().unwrap();
            feed(&mut estimate, u64::from(before), now, now + SECOND);
            now += SECOND;
            estimate.review(Usage::Normal, 100, 0, 50 * MS, now);
            steps.push(f64::from(estimate.bps().unwrap()) / f64::from(before));
        }
        assert_eq!(estimate.bps(), Some(1_000_000), "after {now}");
        let (near, far) = (&steps[1..3], &steps[steps.len() - 3..steps.len() - 1]);
        assert!(near.iter().all(|step| *step > 1.0), "{steps:?}");
        assert!(far.iter().all(|step| (1.079..1.081).contains(step)), "{steps:?}");
        assert!(steps.iter().all(|step| (1.0..1.25).contains(step)), "{steps:?}");
    }

    #[test]
    fn what_nobody_sends_is_not_promised() {
        let mut estimate = limited(1_000_000);
        feed(&mut estimate, 400_000, 0, SECOND);
        estimate.over(SECOND);
        let bps = estimate.bps().unwrap();
        for second in 2..60 {
            feed(&mut estimate, 50_000, second * SECOND, (second + 1) * SECOND);
            estimate.review(Usage::Normal, 100, 0, 50 * MS, (second + 1) * SECOND);
        }
        assert_eq!(estimate.bps(), Some(bps), "50 kb/s do not show that more than {bps} passes");
    }
}
