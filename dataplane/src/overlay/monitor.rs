//! One path between two edges, judged by the probes that it answers and by the media that it carries.
//!
//! - **Dead**: nothing was heard for [`OVERLAY_SILENCE`], and three probes in a row were not answered.
//! - **Bad**: beyond the thresholds at which VIA (SIGCOMM 2016) found calls to be poor: a round trip of 320 ms, 1.2 % loss, 12 ms of jitter. A path
//!   that was bad is good again at 85 % of these.
//! - Loss that begins is found by a cumulative sum of likelihood ratios (Page's CUSUM): a lost probe is rare on a good path, so that a few close
//!   to each other say more than any mean. A little loss that stays is found by a mean.
//! - After a probe that was lost or late, further ones follow sooner ([`OVERLAY_PROBE_SUSPECTED`]), so that the judgement does not wait for the interval.

use crate::config::{
    Micros, OVERLAY_JITTER_MAX, OVERLAY_LEG_INTERVAL, OVERLAY_LEG_PROBES_SUSPECTED, OVERLAY_LOSS_MAX_PPM,
    OVERLAY_MEDIA_SCANT, OVERLAY_PROBE_SUSPECTED, OVERLAY_PROBES_KEPT, OVERLAY_PROBES_SUSPECTED, OVERLAY_RTT_MAX,
    OVERLAY_SILENCE, OVERLAY_TIMEOUT_FIRST, OVERLAY_TIMEOUT_MIN,
};

/// How a path is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// It answers, within the thresholds.
    Good,
    /// Fewer probes were answered than it takes to judge.
    Unknown,
    /// It answers, beyond the thresholds.
    Bad,
    /// It does not answer.
    Dead,
}

/// What was measured of a path.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Measured {
    /// Round trip, the median of the newest five.
    pub rtt: Micros,
    /// Mean difference of two round trips that follow each other (as RFC 3550 §6.4.1 takes the mean).
    pub jitter: Micros,
    /// Share of what was sent that did not arrive, in a million.
    pub loss_ppm: u32,
}

/// Probes in a row that were not answered, of a dead path.
const LOST_IN_A_ROW: u8 = 3;
/// Answers before a path is judged.
const ANSWERS_MIN: u32 = 6;
/// Round trips of which the median counts.
const MEDIAN_OF: usize = 5;
/// A path that was bad is good again below so many percent of a threshold.
const RELIEF_PERCENT: u64 = 85;

/// Log-likelihood ratio of one lost probe or packet, where a good path loses 0.6 % (half of what is too much) and one that is to be left 8 % …
const LOST: f32 = 2.59;
/// … and of one that arrived.
const ARRIVED: f32 = -0.077;
/// What an interval of media may say at most, because losses come in bursts: three such intervals are loss that has begun …
const INTERVAL_MAX: f32 = 3.2;
/// … and at least: what a good second says against it.
const INTERVAL_MIN: f32 = -0.8;
/// More evidence than this is loss that has begun. A path that loses 0.6 % is accused wrongly once in about e⁸ probes or intervals, five minutes.
const EVIDENCE: f32 = 8.0;
/// Evidence does not grow beyond this, so that a path that is good again is seen to be after some seconds.
const EVIDENCE_MAX: f32 = 9.5;
/// With less than this nothing was lost lately.
const EVIDENCE_CLEAN: f32 = 1.5;
/// The mean of losses is one of so many probes, half a minute.
const MEAN_OF: f32 = 300.0;
/// So many packets of media, of which losses come together, count in it as one probe does without media.
const PACKETS_OF_PROBE: f32 = 10.0;
/// Packets of an interval below which there is hardly any media: four fifths of one voice.
const MEDIA_MIN: u32 = 4;
/// What is told of losses is a mean of so many packets, two minutes of a path that carries a call. One lost probe says little: until more is known a path
/// counts as one of which so many …
const LONG_MEAN_OF: f32 = 10_000.0;
const PRIOR_OF: f32 = 1_000.0;
/// … have been sent, and so much was lost.
const PRIOR_LOSS: f32 = 0.0003;
/// What the mean is taken to be when losses have ended: half of what is too much.
const LOSS_AFTER: f32 = OVERLAY_LOSS_MAX_PPM as f32 / 2e6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Answered,
    Lost,
}

#[derive(Clone, Copy)]
struct Probe {
    sent_at: Micros,
    fate: Fate,
}

/// See the module.
pub struct Monitor {
    interval: Micros,
    /// The newest probes by their number modulo [`OVERLAY_PROBES_KEPT`].
    probes: [Probe; OVERLAY_PROBES_KEPT],
    /// Number of the next one.
    next: u32,
    /// Probes before this one have their fate.
    oldest: u32,
    next_at: Micros,
    /// Probes that follow sooner than the interval.
    sooner: u8,
    answers: u32,
    lost_in_a_row: u8,
    /// When something was answered last, or the path began.
    heard_at: Micros,
    rtts: [Micros; MEDIAN_OF],
    srtt: Micros,
    variation: Micros,
    jitter: Micros,
    /// When media was last counted, and not just some packets.
    carried_at: Option<Micros>,
    /// Evidence of loss that has begun.
    evidence: f32,
    /// Mean share of loss.
    loss: f32,
    /// What was sent and lost, of which each makes what was before count a little less.
    sent_long: f32,
    lost_long: f32,
    /// The evidence was enough, and the mean has what was lost then.
    has_lossy_past: bool,
    is_bad: bool,
    /// Bad for what it loses.
    is_lossy: bool,
}

impl Monitor {
    /// A path that begins now, with a probe each `interval`.
    pub fn new(now: Micros, interval: Micros) -> Self {
        Self {
            interval,
            probes: [Probe { sent_at: 0, fate: Fate::Lost }; OVERLAY_PROBES_KEPT],
            next: 0,
            oldest: 0,
            next_at: now,
            // A path that is new is judged soon.
            sooner: OVERLAY_PROBES_SUSPECTED,
            answers: 0,
            lost_in_a_row: 0,
            heard_at: now,
            rtts: [0; MEDIAN_OF],
            srtt: 0,
            variation: 0,
            jitter: 0,
            carried_at: None,
            evidence: 0.0,
            loss: 0.0,
            sent_long: 0.0,
            lost_long: 0.0,
            has_lossy_past: false,
            is_bad: false,
            is_lossy: false,
        }
    }

    /// A probe each `interval` from now on.
    pub fn set_interval(&mut self, interval: Micros) {
        if self.interval != interval {
            let last = self.next_at.saturating_sub(self.interval);
            self.next_at = self.next_at.min(last + interval);
            self.interval = interval;
        }
    }

    /// When to call [`Monitor::poll_probe`] next.
    pub fn poll_timeout(&self) -> Micros {
        match self.pending() {
            Some(probe) => self.next_at.min(probe.sent_at + self.timeout()),
            None => self.next_at,
        }
    }

    /// The number of a probe to send now, if one is due. Gives up those that were not answered in time.
    pub fn poll_probe(&mut self, now: Micros) -> Option<u32> {
        self.give_up(now);
        if now < self.next_at {
            return None;
        }
        let number = self.next;
        // One that would be overwritten has waited for as long as the ring is.
        if number - self.oldest == OVERLAY_PROBES_KEPT as u32 {
            self.lose_oldest(now);
        }
        *self.probe_mut(number) = Probe { sent_at: now, fate: Fate::Pending };
        self.next += 1;
        self.schedule(now);
        Some(number)
    }

    /// Probe `number` was answered. Numbers that were not sent, are too old, or have been answered already are ignored; false for these.
    pub fn answered(&mut self, now: Micros, number: u32) -> bool {
        if number >= self.next || self.next - number > OVERLAY_PROBES_KEPT as u32 {
            return false;
        }
        let probe = *self.probe_mut(number);
        match probe.fate {
            Fate::Answered => return false,
            // It was late and not lost.
            Fate::Lost => {
                self.evidence = (self.evidence - LOST + ARRIVED).max(0.0);
                self.loss = (self.loss - 1.0 / MEAN_OF).max(0.0);
                self.lost_long = (self.lost_long - 1.0).max(0.0);
            }
            Fate::Pending => self.count(now, false),
        }
        self.probe_mut(number).fate = Fate::Answered;
        if self.state(now) == State::Dead {
            self.begin_again();
        }
        self.heard_at = self.heard_at.max(now);
        self.lost_in_a_row = 0;
        self.settle_oldest();
        self.round_trip(now.saturating_sub(probe.sent_at));
        self.judge();
        true
    }

    /// What media shows of this path in an interval of about 100 ms, in one direction. Whether a path is dead it does not show: what comes
    /// by a path says nothing of what goes there.
    pub fn carried(&mut self, now: Micros, arrived: u32, lost: u32) {
        let all = arrived.saturating_add(lost);
        if all == 0 {
            return;
        }
        let ratio = (lost as f32 * LOST + arrived as f32 * ARRIVED).clamp(INTERVAL_MIN, INTERVAL_MAX);
        self.evidence = (self.evidence + ratio).clamp(0.0, EVIDENCE_MAX);
        let share = lost as f32 / all as f32;
        // It knows more than a probe does, but a burst is not more than a probe that was lost.
        let weight = (all as f32 / PACKETS_OF_PROBE).clamp(1.0, 4.0) / MEAN_OF;
        if all >= MEDIA_MIN {
            self.carried_at = Some(now);
        }
        self.loss += ((share - self.loss) * weight).min(1.0 / MEAN_OF);
        self.remember(all as f32, lost as f32);
        if ratio > 0.0 && all < OVERLAY_MEDIA_SCANT {
            self.suspect(now);
        }
        self.judge();
    }

    /// How the path is.
    pub fn state(&self, now: Micros) -> State {
        if now.saturating_sub(self.heard_at) > OVERLAY_SILENCE && self.lost_in_a_row >= LOST_IN_A_ROW {
            State::Dead
        } else if self.answers < ANSWERS_MIN {
            State::Unknown
        } else if self.is_bad {
            State::Bad
        } else {
            State::Good
        }
    }

    /// Whether a probe was ever answered, or, of a path that was dead, since it is not any more.
    pub fn has_answered(&self) -> bool {
        self.answers > 0
    }

    /// Whether nothing was lost lately.
    pub fn is_clean(&self) -> bool {
        self.evidence < EVIDENCE_CLEAN
    }

    /// Whether it loses more than a path may.
    pub fn is_lossy(&self) -> bool {
        self.is_lossy
    }

    /// What was measured, once something was.
    pub fn measured(&self) -> Option<Measured> {
        let long = (self.lost_long + PRIOR_OF * PRIOR_LOSS) / (self.sent_long + PRIOR_OF);
        let loss = if self.has_lossy_past { self.loss.max(long) } else { long };
        let loss_ppm = (loss.clamp(0.0, 1.0) * 1e6) as u32;
        (self.answers > 0).then(|| Measured { rtt: self.median(), jitter: self.jitter, loss_ppm })
    }

    fn probe_mut(&mut self, number: u32) -> &mut Probe {
        &mut self.probes[number as usize % OVERLAY_PROBES_KEPT]
    }

    /// The oldest that waits for its answer.
    fn pending(&self) -> Option<&Probe> {
        (self.oldest != self.next).then(|| &self.probes[self.oldest as usize % OVERLAY_PROBES_KEPT])
    }

    /// As RFC 6298 §2 has it, but for its minimum.
    fn timeout(&self) -> Micros {
        match self.answers {
            0 => OVERLAY_TIMEOUT_FIRST,
            _ => self.srtt + (4 * self.variation).max(OVERLAY_TIMEOUT_MIN),
        }
    }

    /// A path that was dead answers: what it lost meanwhile says nothing of how it is now.
    fn begin_again(&mut self) {
        self.answers = 0;
        self.jitter = 0;
        self.evidence = 0.0;
        self.loss = self.loss.min(LOSS_AFTER);
        (self.sent_long, self.lost_long) = (0.0, 0.0);
        (self.has_lossy_past, self.is_bad, self.is_lossy) = (false, false, false);
    }

    fn give_up(&mut self, now: Micros) {
        let timeout = self.timeout();
        while self.pending().is_some_and(|probe| now >= probe.sent_at + timeout) {
            self.lose_oldest(now);
            self.suspect(now);
        }
        self.judge();
    }

    fn lose_oldest(&mut self, now: Micros) {
        let oldest = self.oldest;
        self.probe_mut(oldest).fate = Fate::Lost;
        self.count(now, true);
        self.lost_in_a_row = self.lost_in_a_row.saturating_add(1);
        self.settle_oldest();
    }

    fn settle_oldest(&mut self) {
        while self.pending().is_some_and(|probe| probe.fate != Fate::Pending) {
            self.oldest += 1;
        }
    }

    fn count(&mut self, now: Micros, is_lost: bool) {
        let (ratio, share) = if is_lost { (LOST, 1.0) } else { (ARRIVED, 0.0) };
        self.evidence = (self.evidence + ratio).clamp(0.0, EVIDENCE_MAX);
        // Where media is counted a probe is one packet more. By probes alone 0.5 % each way, of which a probe loses 1 %, is often taken for too much.
        let has_media = self.carried_at.is_some_and(|at| now.saturating_sub(at) < OVERLAY_SILENCE);
        let weight = if has_media { 1.0 / PACKETS_OF_PROBE } else { 1.0 };
        self.loss += (share - self.loss) * weight / MEAN_OF;
        self.remember(1.0, share);
    }

    fn remember(&mut self, sent: f32, lost: f32) {
        let keeps = (1.0 - sent / LONG_MEAN_OF).max(0.0);
        self.sent_long = self.sent_long * keeps + sent;
        self.lost_long = self.lost_long * keeps + lost;
    }

    /// Something was lost or late: the next probes are due sooner.
    fn suspect(&mut self, now: Micros) {
        if self.sooner == 0 && self.lost_in_a_row < LOST_IN_A_ROW {
            self.sooner = match self.interval >= OVERLAY_LEG_INTERVAL {
                true => OVERLAY_LEG_PROBES_SUSPECTED,
                false => OVERLAY_PROBES_SUSPECTED,
            };
            self.next_at = self.next_at.min(now + OVERLAY_PROBE_SUSPECTED);
        }
    }

    fn schedule(&mut self, now: Micros) {
        self.next_at = now
            + match self.sooner {
                0 => self.interval,
                _ => OVERLAY_PROBE_SUSPECTED.min(self.interval),
            };
        self.sooner = self.sooner.saturating_sub(1);
    }

    fn round_trip(&mut self, rtt: Micros) {
        let before = self.rtts[0];
        self.rtts.rotate_right(1);
        self.rtts[0] = rtt;
        if self.answers == 0 {
            self.rtts = [rtt; MEDIAN_OF];
            (self.srtt, self.variation) = (rtt, rtt / 2);
        } else {
            // Jacobson's gains (RFC 6298 §2), and that of RFC 3550 §6.4.1 twice as fast: probes are fewer than packets.
            self.variation = (3 * self.variation + self.srtt.abs_diff(rtt)) / 4;
            self.srtt = (7 * self.srtt + rtt) / 8;
            self.jitter = (7 * self.jitter + before.abs_diff(rtt)) / 8;
        }
        self.answers = self.answers.saturating_add(1);
    }

    fn median(&self) -> Micros {
        let mut sorted = self.rtts;
        sorted.sort_unstable();
        sorted[MEDIAN_OF / 2]
    }

    fn judge(&mut self) {
        let percent = if self.is_bad { RELIEF_PERCENT } else { 100 };
        let exceeds = |value: u64, most: u64| value * 100 > most * percent;
        let has_begun = self.evidence * 100.0 > EVIDENCE * percent as f32;
        if has_begun {
            self.has_lossy_past = true;
        } else if std::mem::take(&mut self.has_lossy_past) {
            self.loss = self.loss.min(LOSS_AFTER);
            (self.sent_long, self.lost_long) = (0.0, 0.0);
        }
        self.is_lossy = has_begun || exceeds((self.loss * 1e6) as u64, u64::from(OVERLAY_LOSS_MAX_PPM));
        self.is_bad =
            self.is_lossy || exceeds(self.median(), OVERLAY_RTT_MAX) || exceeds(self.jitter, OVERLAY_JITTER_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MILLISECOND, OVERLAY_PROBE_INTERVAL, SECOND};

    /// A path in virtual time: probes are answered after `rtt(number)`, or not.
    struct Path {
        monitor: Monitor,
        now: Micros,
        answers: Vec<(Micros, u32)>,
        sent: u32,
    }

    impl Path {
        fn new() -> Self {
            Self { monitor: Monitor::new(0, OVERLAY_PROBE_INTERVAL), now: 0, answers: Vec::new(), sent: 0 }
        }

        /// Until `is` holds, at most `most` from now; how long it took.
        fn until(
            &mut self,
            most: Micros,
            rtt: impl Fn(u32) -> Option<Micros>,
            is: impl Fn(&Monitor, Micros) -> bool,
        ) -> Option<Micros> {
            let begun = self.now;
            while self.now < begun + most {
                while let Some(number) = self.monitor.poll_probe(self.now) {
                    self.sent += 1;
                    self.answers.extend(rtt(number).map(|rtt| (self.now + rtt, number)));
                }
                self.now += MILLISECOND;
                let now = self.now;
                let due: Vec<_> = self.answers.extract_if(.., |(at, _)| *at <= now).collect();
                for (_, number) in due {
                    assert!(self.monitor.answered(now, number));
                }
                if is(&self.monitor, now) {
                    return Some(now - begun);
                }
            }
            None
        }

        fn pass(&mut self, time: Micros, rtt: impl Fn(u32) -> Option<Micros>) {
            assert_eq!(self.until(time, rtt, |_, _| false), None);
        }

        fn state(&self) -> State {
            self.monitor.state(self.now)
        }
    }

    /// A path of 40 ms, and a little more for some.
    fn good(number: u32) -> Option<Micros> {
        Some((40 + u64::from(number * 7 % 5)) * MILLISECOND)
    }

    /// A number that looks random, the same each time.
    fn drawn(number: u32, seed: u32) -> u32 {
        let mut x = number.wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }

    fn losing(permille: u32, seed: u32) -> impl Fn(u32) -> Option<Micros> {
        move |number| good(number).filter(|_| drawn(number, seed) % 1000 >= permille)
    }

    #[test]
    fn a_good_path_is_good_and_costs_ten_probes_a_second() {
        let mut path = Path::new();
        assert_eq!(path.state(), State::Unknown);
        path.pass(60 * SECOND, good);
        assert_eq!(path.state(), State::Good);
        assert!((590..=610).contains(&path.sent), "{}", path.sent);
        let measured = path.monitor.measured().expect("it answers");
        assert!((40_000..=44_000).contains(&measured.rtt) && measured.jitter < 4_000, "{measured:?}");
        assert!(measured.loss_ppm < 300, "{measured:?}");
    }

    #[test]
    fn a_leg_that_loses_is_probed_little_oftener_and_a_dead_one_is_seen_after_the_next_probe() {
        let mut path = Path { monitor: Monitor::new(0, OVERLAY_LEG_INTERVAL), ..Path::new() };
        path.pass(60 * SECOND, good);
        let before = path.sent;
        path.pass(600 * SECOND, losing(100, 1));
        let sent = path.sent - before;
        assert!((300..=500).contains(&sent), "{sent} in ten minutes, of which 300 are due");
        path.pass(10 * SECOND, good);
        let took = path.until(10 * SECOND, |_| None, |monitor, now| monitor.state(now) == State::Dead);
        assert!(took.expect("it is dead") <= OVERLAY_LEG_INTERVAL + SECOND / 2, "{took:?}");
    }

    #[test]
    fn a_path_that_dies_is_dead_within_400_ms() {
        let mut path = Path::new();
        path.pass(10 * SECOND, good);
        let took = path.until(SECOND, |_| None, |monitor, now| monitor.state(now) == State::Dead);
        assert!(took.expect("it is dead") <= 400 * MILLISECOND, "{took:?}");
        // … and is good again soon after it answers, whatever it lost meanwhile.
        path.pass(20 * SECOND, |_| None);
        let took = path.until(SECOND, good, |monitor, now| monitor.state(now) == State::Good);
        assert!(took.is_some(), "{:?} {:?}", path.state(), path.monitor.measured());
    }

    #[test]
    fn a_fifth_lost_is_seen_within_three_seconds_by_probes_alone() {
        let mut times: Vec<_> = (0..100)
            .map(|seed| {
                let mut path = Path::new();
                path.pass(10 * SECOND, good);
                path.until(10 * SECOND, losing(200, seed), |monitor, now| monitor.state(now) != State::Good)
                    .expect("it is seen")
            })
            .collect();
        times.sort_unstable();
        assert!(times[50] <= 5 * SECOND / 4 && times[95] <= 3 * SECOND, "median {}, p95 {}", times[50], times[95]);
    }

    #[test]
    fn a_fifth_lost_of_media_is_seen_within_half_a_second() {
        let mut monitor = Monitor::new(0, OVERLAY_PROBE_INTERVAL);
        for n in 0..10 {
            let number = monitor.poll_probe(n * OVERLAY_PROBE_INTERVAL).expect("due");
            monitor.answered(n * OVERLAY_PROBE_INTERVAL + 40_000, number);
        }
        let begun = SECOND;
        let took = (1..10).find(|n| {
            monitor.carried(begun + n * 100 * MILLISECOND, 12, 3);
            monitor.state(begun + n * 100 * MILLISECOND) == State::Bad
        });
        assert!(took.expect("it is seen") <= 4, "{took:?} reports");
        // A single burst is none.
        let mut monitor = Monitor::new(0, OVERLAY_PROBE_INTERVAL);
        for n in 0..10 {
            let number = monitor.poll_probe(n * OVERLAY_PROBE_INTERVAL).expect("due");
            monitor.answered(n * OVERLAY_PROBE_INTERVAL + 40_000, number);
        }
        monitor.carried(begun, 5, 10);
        assert_eq!(monitor.state(begun), State::Good);
    }

    #[test]
    fn a_round_trip_of_400_ms_is_bad_within_a_second_and_good_again_after_some() {
        let mut path = Path::new();
        path.pass(10 * SECOND, good);
        let slow = |_| Some(400 * MILLISECOND);
        let took = path.until(2 * SECOND, slow, |monitor, now| monitor.state(now) > State::Good);
        assert!(took.expect("it is seen") <= SECOND, "{took:?}");
        path.pass(10 * SECOND, slow);
        assert_eq!(path.state(), State::Bad);
        let took = path.until(20 * SECOND, good, |monitor, now| monitor.state(now) == State::Good);
        assert!(took.expect("it is good again") <= 10 * SECOND, "{took:?}");
    }

    #[test]
    fn half_a_percent_lost_is_good_nearly_always() {
        let (mut bad, mut all) = (0u32, 0u32);
        for seed in 0..20 {
            let mut path = Path::new();
            for _ in 0..60 {
                path.pass(SECOND, losing(5, seed));
                all += 1;
                bad += u32::from(path.state() != State::Good);
            }
        }
        assert!(bad * 20 < all, "{bad} of {all} seconds");
    }

    #[test]
    fn answers_that_nobody_asked_for_change_nothing() {
        let mut path = Path::new();
        path.pass(2 * SECOND, good);
        let before = path.monitor.measured();
        let next = path.monitor.next;
        for number in [next, next + 1, u32::MAX, next - 5, 0] {
            assert!(!path.monitor.answered(path.now, number), "{number}");
        }
        assert_eq!(path.monitor.measured(), before);
        path.monitor.carried(path.now, u32::MAX, u32::MAX);
        path.monitor.carried(path.now, 0, 0);
        assert!(path.monitor.measured().is_some_and(|measured| measured.loss_ppm <= 1_000_000));
    }
}
