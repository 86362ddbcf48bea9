//! The rate that the delays allow: additive increase, multiplicative decrease (libwebrtc `AimdRateControl` and
//! `LinkCapacityEstimator`, whose constants these are; draft-ietf-rmcat-gcc-02 §5.5).

use super::trendline::Usage;
use crate::config::{MILLISECOND, Micros, SECOND};

/// Factor from the acknowledged rate to the rate after overuse (`kDefaultBackoffFactor`), and what is taken off beyond it, bit/s.
const BETA: f64 = 0.85;
const BETA_LESS: f64 = 5_000.0;
/// Factor from what arrives now to the rate after a drop of the capacity: what has queued up drains in the time in which twice
/// of it came.
const CUT: f64 = 0.7;
/// Growth per second while the capacity is unknown, and the least step, bit/s.
const GROWTH: f64 = 1.08;
const STEP_MIN: f64 = 1_000.0;
/// No rate grows beyond this multiple of the acknowledged rate and that much more, bit/s: it would be unproven.
const OVER_ACKNOWLEDGED: f64 = 1.5;
const OVER_ACKNOWLEDGED_MORE: f64 = 10_000.0;
/// Near the capacity the rate grows by one packet of a frame in each response time; frames are 1/30 s, packets 1200 bytes.
const FRAMES_PER_SECOND: f64 = 30.0;
const PACKET_BITS: f64 = 1200.0 * 8.0;
/// Slowest growth there, bit/s in a second (`kMinIncreaseRateBpsPerSecond`).
const GROWTH_MIN: f64 = 4_000.0;
/// Added to the round trip for the response time, which counts twice.
const RESPONSE_MORE: Micros = 100 * MILLISECOND;
/// Overuse that goes on lowers the rate again after the round trip, within these.
const LOWER_AGAIN_MIN: Micros = 10 * MILLISECOND;
const LOWER_AGAIN_MAX: Micros = 200 * MILLISECOND;
/// Round trip until one is measured (`kDefaultRtt`).
const RTT_DEFAULT: Micros = 200 * MILLISECOND;

/// Weight of a new sample of the capacity, and bounds of its deviation, kbit/s.
const CAPACITY_WEIGHT: f64 = 0.05;
const DEVIATION_MIN: f64 = 0.4;
const DEVIATION_MAX: f64 = 2.5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Hold,
    Increase,
    Decrease,
}

/// The acknowledged rate at the last times of overuse: about what the path carries, kbit/s.
struct Capacity {
    kbps: Option<f64>,
    /// Variance, normalized by the rate.
    deviation: f64,
}

impl Capacity {
    fn sample(&mut self, bps: f64) {
        let sample = bps / 1000.0;
        let kbps = self.kbps.map_or(sample, |kbps| (1.0 - CAPACITY_WEIGHT) * kbps + CAPACITY_WEIGHT * sample);
        let error = kbps - sample;
        let deviation = (1.0 - CAPACITY_WEIGHT) * self.deviation + CAPACITY_WEIGHT * error * error / kbps.max(1.0);
        (self.deviation, self.kbps) = (deviation.clamp(DEVIATION_MIN, DEVIATION_MAX), Some(kbps));
    }

    /// Bit/s within three deviations; everything if nothing is known.
    fn range(&self) -> (f64, f64) {
        let Some(kbps) = self.kbps else { return (0.0, f64::INFINITY) };
        let spread = 3.0 * (self.deviation * kbps).sqrt();
        ((kbps - spread).max(0.0) * 1000.0, (kbps + spread) * 1000.0)
    }
}

/// The controller of one path.
pub(super) struct Aimd {
    /// Bit/s.
    bps: f64,
    bps_min: f64,
    /// The acknowledged rate that was known last.
    throughput: f64,
    capacity: Capacity,
    state: State,
    changed_at: Option<Micros>,
    rtt: Micros,
}

impl Aimd {
    pub(super) fn new(start: f64, min: f64) -> Self {
        Aimd {
            bps: start.max(min),
            bps_min: min,
            throughput: start,
            capacity: Capacity { kbps: None, deviation: DEVIATION_MIN },
            state: State::Hold,
            changed_at: None,
            rtt: RTT_DEFAULT,
        }
    }

    pub(super) fn bps(&self) -> f64 {
        self.bps
    }

    pub(super) fn set_rtt(&mut self, rtt: Micros) {
        self.rtt = rtt;
    }

    /// Something measured the rate: a probe.
    pub(super) fn set(&mut self, now: Micros, bps: f64) {
        self.bps = bps.max(self.bps_min);
        self.changed_at = Some(now);
    }

    /// Whether overuse that goes on lowers the rate again.
    pub(super) fn may_lower(&self, now: Micros, acknowledged: f64) -> bool {
        let pause = self.rtt.clamp(LOWER_AGAIN_MIN, LOWER_AGAIN_MAX);
        self.changed_at.is_none_or(|at| now.saturating_sub(at) >= pause) || acknowledged < 0.5 * self.bps
    }

    /// What the detector found now, and the acknowledged rate if it is known.
    pub(super) fn update(&mut self, now: Micros, usage: Usage, acknowledged: Option<f64>) {
        let throughput = acknowledged.unwrap_or(self.throughput);
        self.throughput = throughput;
        self.state = match (usage, self.state) {
            (Usage::Normal, State::Hold) => {
                self.changed_at = Some(now);
                State::Increase
            }
            (Usage::Normal, state) => state,
            (Usage::Over, _) => State::Decrease,
            (Usage::Under, _) => State::Hold,
        };
        match self.state {
            State::Hold => {}
            State::Increase => self.increase(now, throughput),
            State::Decrease => self.decrease(now, throughput),
        }
    }

    fn increase(&mut self, now: Micros, throughput: f64) {
        if throughput > self.capacity.range().1 {
            self.capacity.kbps = None;
        }
        let limit = OVER_ACKNOWLEDGED * throughput + OVER_ACKNOWLEDGED_MORE;
        if self.bps < limit {
            let since = self.changed_at.map_or(SECOND, |at| now.saturating_sub(at)) as f64 / SECOND as f64;
            let step = match self.capacity.kbps {
                Some(_) => self.growth_near_capacity() * since,
                None => (self.bps * (GROWTH.powf(since.min(1.0)) - 1.0)).max(STEP_MIN),
            };
            self.bps = (self.bps + step).min(limit).max(self.bps_min);
        }
        self.changed_at = Some(now);
    }

    /// Overuse by others: what the path carries is not known, and the rate grows.
    pub(super) fn tolerate(&mut self, now: Micros, acknowledged: Option<f64>) {
        self.capacity.kbps = None;
        self.update(now, Usage::Normal, acknowledged);
    }

    /// Overuse, and much less arrives now than did: the capacity has dropped, and a queue has to drain.
    pub(super) fn cut(&mut self, now: Micros, recent: f64) {
        self.throughput = recent;
        self.capacity.kbps = None;
        self.capacity.sample(recent);
        self.bps = (CUT * recent).min(self.bps).max(self.bps_min);
        self.state = State::Hold;
        self.changed_at = Some(now);
    }

    /// Bit/s in a second.
    fn growth_near_capacity(&self) -> f64 {
        let frame = self.bps / FRAMES_PER_SECOND;
        let packet = frame / (frame / PACKET_BITS).ceil();
        let response = 2.0 * (self.rtt + RESPONSE_MORE) as f64 / SECOND as f64;
        (packet / response).max(GROWTH_MIN)
    }

    fn decrease(&mut self, now: Micros, throughput: f64) {
        let mut lower = BETA * throughput;
        if lower > BETA_LESS {
            lower -= BETA_LESS;
        }
        if lower > self.bps
            && let Some(kbps) = self.capacity.kbps
        {
            lower = BETA * kbps * 1000.0;
        }
        if throughput < self.capacity.range().0 {
            self.capacity.kbps = None;
        }
        self.capacity.sample(throughput);
        self.bps = lower.min(self.bps).max(self.bps_min);
        self.state = State::Hold;
        self.changed_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_capacity_is_approached_by_eight_percent_a_second_and_a_known_one_by_packets() {
        let mut aimd = Aimd::new(1_000_000.0, 30_000.0);
        for n in 0..=100 {
            aimd.update(n * 100 * MILLISECOND, Usage::Normal, Some(5_000_000.0));
        }
        assert!((aimd.bps() / 1_000_000.0 - 1.08f64.powi(10)).abs() < 0.01, "{}", aimd.bps());
        aimd.update(11 * SECOND, Usage::Over, Some(2_000_000.0));
        assert_eq!(aimd.bps(), 0.85 * 2_000_000.0 - 5_000.0);
        let lowered = aimd.bps();
        for n in 111..=210 {
            aimd.update(n * 100 * MILLISECOND, Usage::Normal, Some(lowered));
        }
        let a_second = (aimd.bps() - lowered) / 9.9;
        assert!((10_000.0..30_000.0).contains(&a_second), "{a_second}");
    }

    #[test]
    fn the_rate_stays_near_what_is_acknowledged_and_above_the_least() {
        let mut aimd = Aimd::new(300_000.0, 30_000.0);
        for n in 0..600 {
            aimd.update(n * 100 * MILLISECOND, Usage::Normal, Some(200_000.0));
        }
        assert_eq!(aimd.bps(), 310_000.0);
        for n in 600..900 {
            aimd.update(n * 100 * MILLISECOND, Usage::Over, Some(1_000.0));
        }
        assert_eq!(aimd.bps(), 30_000.0);
        assert!(!aimd.may_lower(90_000 * MILLISECOND, 30_000.0) && aimd.may_lower(91_000 * MILLISECOND, 30_000.0));
    }
}
