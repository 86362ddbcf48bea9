//! The rate that losses allow (libwebrtc `LossBasedBweV2` with the parameters that Chromium ships since 2024, which these
//! constants are). Feedback is summed up in observations. A path is thought to have a loss of its own, and a bandwidth beyond
//! which everything is lost; of a few candidates the one is taken under which the observations are most likely. So a path
//! with random loss keeps its rate, and one whose queue overflows does not.

use crate::config::{MILLISECOND, Micros, SECOND};

/// Observations that are kept, and without which nothing is judged.
const OBSERVATIONS: usize = 15;
const OBSERVATIONS_MIN: u32 = 3;
/// Shortest time of sending that makes an observation.
const OBSERVATION: Micros = 250 * MILLISECOND;
/// Weights of the observations by age: each 0.9 of the next one.
const WEIGHTS: [f64; OBSERVATIONS] = {
    let (mut weights, mut age) = ([1.0; OBSERVATIONS], 1);
    while age < OBSERVATIONS {
        weights[age] = weights[age - 1] * 0.9;
        age += 1;
    }
    weights
};
/// Factors of the last bandwidth that are candidates.
const CANDIDATES: [f64; 3] = [1.02, 1.0, 0.95];
/// Growth stays below this multiple of the acknowledged rate; while a rate is held, below that one.
const RAMPUP: f64 = 1.5;
const RAMPUP_HELD: f64 = 1.2;
/// A rate counts as held while the acknowledged rate is below this multiple of it.
const RAMPUP_HELD_BELOW: f64 = 1.3;
/// A bandwidth is preferred that is higher, by these biases, while the loss is below the threshold.
const BIAS: f64 = 0.0002;
const BIAS_LOG: f64 = 0.02;
const BIAS_LOSS: f64 = 0.2;
const BIAS_SMOOTHING: f64 = 0.002;
/// The path's own loss: at first, at least, and at most (the offset, and the balance divided by the bandwidth).
const INHERENT: f64 = 0.01;
const INHERENT_MIN: f64 = 0.001;
const INHERENT_OFFSET: f64 = 0.05;
const INHERENT_BALANCE: f64 = 100_000.0;
const NEWTON_STEP: f64 = 0.75;
/// Whatever is likely, a loss above the offset limits the rate to the balance divided by what is above, bit/s.
const INSTANT_OFFSET: f64 = 0.05;
const INSTANT_BALANCE: f64 = 100_000.0;
/// Growth at once: this factor within that window.
const INCREASE_MAX: f64 = 1.3;
const INCREASE_WINDOW: Micros = 300 * MILLISECOND;
/// How long a lowered rate is held: the first time, from time to time longer by the factor, at most.
const HOLD: Micros = 300 * MILLISECOND;
const HOLD_FACTOR: u64 = 2;
const HOLD_MAX: Micros = 60 * SECOND;
/// How long growth under loss is helped by padding.
const PADDING: Micros = 2 * SECOND;
/// An observation with the most loss counts in full if its rate was this multiple of the median: it explains itself.
const MEDIAN_FACTOR: f64 = 2.0;
/// Lowest rate that limits growth (`kCongestionControllerMinBitrate`), bit/s.
const FLOOR: f64 = 5_000.0;

/// What limits the rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Not losses.
    Delay,
    /// Losses; and it grows, helped by padding.
    Increasing,
    /// Losses.
    Decreasing,
}

#[derive(Clone, Copy, Default)]
struct Observation {
    bytes: u32,
    lost: u32,
    bps: f64,
}

/// What the path is thought to be.
#[derive(Clone, Copy)]
struct Channel {
    /// Its own loss, as a fraction.
    inherent: f64,
    /// Bit/s.
    bandwidth: f64,
}

#[derive(Clone, Copy)]
struct Hold {
    until: Option<Micros>,
    duration: Micros,
    bps: f64,
}

const NO_HOLD: Hold = Hold { until: None, duration: HOLD, bps: f64::INFINITY };

/// The estimator of one path.
pub(super) struct Loss {
    observations: [Observation; OBSERVATIONS],
    count: u32,
    /// What is not yet an observation, and the latest time of sending in it.
    bytes: u32,
    lost: u32,
    sent_last: Option<Micros>,
    sent_first: Option<Micros>,
    /// The latest time of sending of the last observation.
    observed: Option<Micros>,
    average: f64,
    bps_min: f64,
    bps_max: f64,
    acknowledged: Option<f64>,
    channel: Option<Channel>,
    state: State,
    /// The result, bit/s.
    bps: f64,
    window: Option<Micros>,
    window_max: f64,
    hold: Hold,
    padding: Option<(Micros, f64)>,
}

impl Loss {
    pub(super) fn new(min: f64, max: f64) -> Self {
        Loss {
            observations: [Observation::default(); OBSERVATIONS],
            count: 0,
            bytes: 0,
            lost: 0,
            sent_last: None,
            sent_first: None,
            observed: None,
            average: 0.0,
            bps_min: min,
            bps_max: max,
            acknowledged: None,
            channel: None,
            state: State::Delay,
            bps: 0.0,
            window: None,
            window_max: f64::INFINITY,
            hold: NO_HOLD,
            padding: None,
        }
    }

    pub(super) fn set_max(&mut self, max: f64) {
        self.bps_max = max;
    }

    /// Number of the observation that is being made.
    pub(super) fn observation(&self) -> u8 {
        self.count as u8
    }

    /// Weighted loss of the last observations, as a fraction.
    pub(super) fn average(&self) -> f64 {
        self.average
    }

    /// The rate and what limits it, once there are enough observations.
    pub(super) fn result(&self) -> Option<(f64, State)> {
        (self.count >= OBSERVATIONS_MIN && self.channel.is_some()).then_some((self.bps, self.state))
    }

    /// Feedback reported a packet for the first time.
    pub(super) fn reported(&mut self, sent: Micros, len: u16, is_lost: bool) {
        self.bytes = self.bytes.saturating_add(u32::from(len));
        if is_lost {
            self.lost = self.lost.saturating_add(u32::from(len));
        }
        self.sent_last = self.sent_last.max(Some(sent));
        self.sent_first = Some(self.sent_first.map_or(sent, |first| first.min(sent)));
    }

    /// A packet that `observation` (modulo 32) counted as lost has arrived after all: it was overtaken.
    pub(super) fn found(&mut self, observation: u8, len: u16) {
        let age = self.observation().wrapping_sub(observation) % 32;
        let lost = match usize::from(age) {
            0 => &mut self.lost,
            age if age <= OBSERVATIONS && age as u32 <= self.count => {
                let index = (self.count as usize - age) % OBSERVATIONS;
                &mut self.observations[index].lost
            }
            _ => return,
        };
        *lost = lost.saturating_sub(u32::from(len));
    }

    /// All packets of a feedback were reported. `delay`: the rate that the delays allow.
    pub(super) fn update(&mut self, acknowledged: Option<f64>, delay: Option<f64>, is_alr: bool) {
        self.acknowledged = acknowledged.or(self.acknowledged);
        let Some(observed) = self.observe() else { return };
        let before = match self.channel {
            Some(channel) => channel,
            None => {
                let Some(delay) = delay else { return };
                self.bps = delay;
                *self.channel.insert(Channel { inherent: INHERENT, bandwidth: delay })
            }
        };
        let delay = delay.unwrap_or(f64::INFINITY);
        let mut best = self.best(before, delay, is_alr, observed);
        if self.average > best.inherent {
            best.bandwidth = best.bandwidth.min(before.bandwidth);
        }
        if self.state != State::Delay {
            best.bandwidth = self.slowed(before.bandwidth, best.bandwidth, observed);
        }
        let lower = self.lower();
        let bounded = best.bandwidth.min(self.instant()).min(delay).max(lower);
        self.channel = Some(if bounded < best.bandwidth {
            Channel { inherent: 0.0, bandwidth: bounded }
        } else {
            Channel { bandwidth: best.bandwidth.max(lower), ..best }
        });
        self.settle(bounded, delay, observed);
    }

    /// Completes the observation if it is long enough; then, the latest time of sending in it.
    fn observe(&mut self) -> Option<Micros> {
        let last = self.sent_last?;
        let from = *self.observed.get_or_insert(self.sent_first?);
        let duration = last.saturating_sub(from);
        if duration < OBSERVATION {
            return None;
        }
        let bps = (u64::from(self.bytes) * 8 * SECOND / duration) as f64;
        let observation = Observation { bytes: self.bytes, lost: self.lost, bps };
        self.observations[self.count as usize % OBSERVATIONS] = observation;
        self.count += 1;
        (self.bytes, self.lost, self.sent_last, self.sent_first) = (0, 0, None, None);
        self.observed = Some(last);
        self.average = self.average_loss();
        Some(last)
    }

    /// Observations with their weights.
    fn weighted(&self) -> impl Iterator<Item = (f64, &Observation)> {
        let count = self.count as usize;
        let newest = count.wrapping_sub(1) % OBSERVATIONS;
        let known = self.observations.iter().take(count).enumerate();
        known.map(move |(index, observation)| (WEIGHTS[(newest + OBSERVATIONS - index) % OBSERVATIONS], observation))
    }

    /// Weighted loss without the best and the worst observation, unless the worst was sent at a rate that explains it.
    fn average_loss(&self) -> f64 {
        let (mut bytes, mut lost) = (0.0, 0.0);
        let (mut least, mut most) = ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0));
        let mut most_bps = 0.0;
        for (weight, observation) in self.weighted() {
            let this =
                ((weight * f64::from(observation.bytes)).round(), (weight * f64::from(observation.lost)).round());
            (bytes, lost) = (bytes + this.0, lost + this.1);
            let loss =
                if observation.bytes > 0 { f64::from(observation.lost) / f64::from(observation.bytes) } else { 0.0 };
            if self.count > OBSERVATIONS_MIN {
                if loss > most.0 {
                    (most, most_bps) = ((loss, this.0, this.1), observation.bps);
                }
                if loss < least.0 {
                    least = (loss, this.0, this.1);
                }
            }
        }
        if self.median_bps() * MEDIAN_FACTOR > most_bps {
            (bytes, lost) = (bytes - least.1 - most.1, lost - least.2 - most.2);
        }
        if bytes > 0.0 { (lost / bytes).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn median_bps(&self) -> f64 {
        let mut rates = [0.0; OBSERVATIONS];
        let mut count = 0;
        for (_, observation) in self.weighted().filter(|(_, observation)| observation.bps > 0.0) {
            (rates[count], count) = (observation.bps, count + 1);
        }
        let rates = &mut rates[..count];
        rates.sort_unstable_by(f64::total_cmp);
        match count {
            0 => 0.0,
            _ if count % 2 == 0 => (rates[count / 2 - 1] + rates[count / 2]) / 2.0,
            _ => rates[count / 2],
        }
    }

    /// The candidate under which the observations are most likely.
    fn best(&self, before: Channel, delay: f64, is_alr: bool, observed: Micros) -> Channel {
        let is_windowed = self.state != State::Delay && self.window_max.is_finite();
        let limit = if is_windowed { self.window_max } else { self.bps_max }.max(before.bandwidth);
        let is_padded = self.padding.is_some_and(|(at, _)| at + PADDING >= observed);
        let acknowledged = self.acknowledged.filter(|_| !is_alr || is_padded);
        let by_delay = Some(delay).filter(|delay| delay.is_finite() && *delay > before.bandwidth);
        let factors = CANDIDATES.into_iter().map(|factor| factor * before.bandwidth);
        let (mut best, mut best_objective) = (before, f64::NEG_INFINITY);
        for bandwidth in factors.chain(acknowledged).chain(by_delay) {
            let bandwidth = bandwidth.min(limit);
            let channel = self.improved(Channel { inherent: feasible(before.inherent, bandwidth), bandwidth });
            let objective = self.objective(channel);
            if objective > best_objective {
                (best, best_objective) = (channel, objective);
            }
        }
        best
    }

    /// One step of Newton's method toward the likeliest loss of its own.
    fn improved(&self, channel: Channel) -> Channel {
        let (mut first, mut second) = (0.0, 0.0);
        for (weight, observation) in self.weighted() {
            let loss = channel.loss(observation.bps);
            let (lost, received) = observation.kilobytes();
            first += weight * (lost / loss - received / (1.0 - loss));
            second -= weight * (lost / (loss * loss) + received / ((1.0 - loss) * (1.0 - loss)));
        }
        let second = if second >= 0.0 { -1.0e-6 } else { second };
        Channel { inherent: feasible(channel.inherent - NEWTON_STEP * first / second, channel.bandwidth), ..channel }
    }

    fn objective(&self, channel: Channel) -> f64 {
        let bias =
            |factor: f64| factor * (BIAS_LOSS - self.average) / (BIAS_SMOOTHING + (BIAS_LOSS - self.average).abs());
        let kbps = channel.bandwidth / 1000.0;
        let preference = bias(BIAS) * kbps + bias(BIAS_LOG) * kbps.ln_1p();
        let likelihood = |(weight, observation): (f64, &Observation)| {
            let loss = channel.loss(observation.bps);
            let (lost, received) = observation.kilobytes();
            weight * (lost * loss.ln() + received * (1.0 - loss).ln() + preference * (lost + received))
        };
        self.weighted().map(likelihood).sum()
    }

    /// A bandwidth that grows while losses limit it: slowly after a decrease, and near what is acknowledged.
    fn slowed(&self, before: f64, bandwidth: f64, observed: Micros) -> f64 {
        let mut bandwidth = bandwidth;
        if self.window.is_some_and(|at| at + INCREASE_WINDOW > observed) {
            bandwidth = bandwidth.min(self.window_max);
        }
        let is_growing = bandwidth > before || bandwidth == before && self.state == State::Increasing;
        if let Some(acknowledged) = self.acknowledged
            && is_growing
        {
            let is_held = acknowledged < RAMPUP_HELD_BELOW * self.hold.bps && self.hold.bps.is_finite();
            let factor = if is_held { RAMPUP_HELD } else { RAMPUP };
            bandwidth = bandwidth.min(factor * acknowledged).max(before);
            if self.state == State::Decreasing && bandwidth == before {
                bandwidth += 1.0;
            }
        }
        bandwidth
    }

    fn instant(&self) -> f64 {
        let above = self.average - INSTANT_OFFSET;
        if above > 0.0 { INSTANT_BALANCE / above } else { self.bps_max }
    }

    fn lower(&self) -> f64 {
        self.acknowledged.unwrap_or(0.0).max(self.bps_min)
    }

    /// The result of an observation, and what follows from it for the next ones.
    fn settle(&mut self, bounded: f64, delay: f64, observed: Micros) {
        let is_limited = bounded < delay && bounded < self.bps_max;
        if self.state == State::Decreasing && self.hold.until.is_some_and(|until| until > observed) && bounded < delay {
            self.hold.bps = self.hold.bps.max(self.lower());
            self.bps = self.hold.bps.min(bounded);
            return;
        }
        let is_growing = self.state != State::Delay
            && (self.bps < bounded || self.bps == bounded && self.state == State::Increasing);
        let is_padding_over =
            |(at, bps): (Micros, f64)| self.state == State::Increasing && at + PADDING < observed && bps >= bounded;
        if is_growing && is_limited && !self.padding.is_some_and(is_padding_over) {
            if self.padding.is_none_or(|(_, bps)| bounded > bps) {
                self.padding = Some((observed, bounded));
            }
            self.state = State::Increasing;
        } else if is_limited {
            if self.state != State::Decreasing {
                let duration = (self.hold.duration * HOLD_FACTOR).min(HOLD_MAX);
                self.hold = Hold { until: Some(observed + self.hold.duration), duration, bps: bounded };
            }
            (self.padding, self.state) = (None, State::Decreasing);
        } else {
            (self.hold, self.padding, self.state) = (NO_HOLD, None, State::Delay);
        }
        self.bps = bounded;
        if self.state != State::Delay && self.window.is_none_or(|at| at + INCREASE_WINDOW < observed) {
            let bandwidth = self.channel.map_or(0.0, |channel| channel.bandwidth);
            (self.window, self.window_max) = (Some(observed), (INCREASE_MAX * bandwidth).max(FLOOR));
        }
    }
}

impl Channel {
    /// Probability of loss of what is sent at this rate.
    fn loss(&self, bps: f64) -> f64 {
        let over = if bps > self.bandwidth { (bps - self.bandwidth) / bps } else { 0.0 };
        (self.inherent + (1.0 - self.inherent) * over).clamp(1.0e-6, 1.0 - 1.0e-6)
    }
}

impl Observation {
    /// Lost and received.
    fn kilobytes(&self) -> (f64, f64) {
        (f64::from(self.lost) / 1000.0, f64::from(self.bytes.saturating_sub(self.lost)) / 1000.0)
    }
}

/// The nearest loss of its own that a path of that bandwidth may have.
fn feasible(inherent: f64, bandwidth: f64) -> f64 {
    let max = if bandwidth > 0.0 { (INHERENT_OFFSET + INHERENT_BALANCE / bandwidth).min(1.0) } else { 1.0 };
    inherent.max(INHERENT_MIN).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends at a rate for so many seconds in packets of 1000 bytes, of which one in `every` is lost, and feeds it back each
    /// 100 ms.
    fn run(loss: &mut Loss, from: &mut Micros, seconds: u64, bps: f64, every: Option<u64>) -> f64 {
        let gap = (8_000.0 / bps * 1e6) as Micros;
        let end = *from + seconds * SECOND;
        let (mut n, mut fed) = (0, *from);
        while *from < end {
            let is_lost = every.is_some_and(|every| n % every == every - 1);
            loss.reported(*from, 1000, is_lost);
            (n, *from) = (n + 1, *from + gap);
            if *from - fed >= 100 * MILLISECOND {
                let arrived = bps * (1.0 - every.map_or(0.0, |every| 1.0 / every as f64));
                loss.update(Some(arrived), Some(3_000_000.0), false);
                fed = *from;
            }
        }
        loss.result().map_or(3_000_000.0, |(bps, _)| bps)
    }

    #[test]
    fn without_loss_the_delays_decide() {
        let mut loss = Loss::new(30_000.0, 10_000_000.0);
        assert_eq!(run(&mut loss, &mut 0, 10, 1_000_000.0, None), 3_000_000.0);
        assert_eq!(loss.result().unwrap().1, State::Delay);
    }

    #[test]
    fn random_loss_of_a_tenth_keeps_a_megabit_and_loss_of_a_half_does_not() {
        let mut loss = Loss::new(30_000.0, 10_000_000.0);
        let kept = run(&mut loss, &mut 0, 30, 1_100_000.0, Some(10));
        assert!(kept >= 990_000.0, "{kept}");
        let mut loss = Loss::new(30_000.0, 10_000_000.0);
        let half = run(&mut loss, &mut 0, 20, 1_000_000.0, Some(2));
        assert!(half <= 510_000.0, "{half}");
        assert!(loss.average() > 0.4);
    }

    #[test]
    fn a_packet_that_was_only_overtaken_does_not_count() {
        let mut loss = Loss::new(30_000.0, 10_000_000.0);
        for n in 0..400u64 {
            loss.reported(n * 10 * MILLISECOND, 1000, n % 5 == 0);
            let observation = loss.observation() % 32;
            loss.update(Some(800_000.0), Some(1_000_000.0), false);
            if n % 5 == 0 {
                loss.found(observation, 1000);
            }
        }
        assert!(loss.average() < 0.01, "{}", loss.average());
        assert_eq!(loss.result(), Some((1_000_000.0, State::Delay)));
        for observation in 0..=255 {
            loss.found(observation, 1000);
        }
    }
}
