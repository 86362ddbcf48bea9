//! When a transport sends more than its estimate for a moment, to find out whether the path carries more: the decision, and
//! the rate that a probe measured (libwebrtc `ProbeController` and `ProbeBitrateEstimator`, whose constants these are where
//! nothing else is said).
//!
//! Probing costs a receiver on a poor link a queue, so nothing is probed that nobody wants: no rate at or below the estimate,
//! none far beyond what would be sent without a limit, and the first probes one after the other.

use crate::config::{MILLISECOND, Micros, SECOND};

/// The first probe, as a multiple of the first estimate (`p1`). The next ones are twice what the one before found.
const FIRST: f64 = 3.0;
/// After the first feedback the first probe is repeated once a second for this long, while more is wanted than is known
/// (`initial_probing`).
const FIRST_REPEATED: Micros = 5 * SECOND;
/// A further probe, and the probes of a transport that sends less than it could (`step_size`, `alr_scale`).
const FURTHER: f64 = 2.0;
/// A further probe follows if this fraction of the last one came through (`further_probe_threshold`).
const FURTHER_MIN: f64 = 0.7;
/// How long a result is waited for (`kMaxWaitingTimeForProbingResult`).
const WAIT: Micros = SECOND;
/// A probe is this long, and has so many packets (`min_probe_duration`, `min_probe_packets_sent`).
const DURATION: Micros = 15 * MILLISECOND;
const PACKETS: u16 = 5;
/// Interval of the probes while more is wanted than is known and the path is not congested. libwebrtc probes each 5 s, and in the
/// application-limited region only (`alr_interval`); but a forwarder sends whole encodings, often more than that region allows
/// and too little for growth (str0m probes then after 15 s), and without probes growth takes half a minute after a drop.
const INTERVAL: Micros = 3 * SECOND;
/// Highest probe, as a multiple of what is wanted (`InitiateProbing`: `max_total_allocated_bitrate_ * 2`).
const WANTED_MAX: f64 = 2.0;
/// Lowest probe, as a multiple of the estimate: less would say nothing new.
const ESTIMATE_MIN: f64 = 1.05;
/// A drop below this fraction is probed again at that fraction of what was before, within the time, and not more often than
/// that (`kBitrateDropThreshold`, `kProbeFractionAfterDrop`, `kBitrateDropTimeout`, `kMinTimeBetweenAlrProbes`).
const DROP: f64 = 0.66;
const DROP_PROBED: f64 = 0.85;
const DROP_WITHIN: Micros = 5 * SECOND;
const DROP_INTERVAL: Micros = 5 * SECOND;
/// ... if it may be expected to find this fraction of its rate (`kProbeUncertainty`).
const DROP_EXPECTED: f64 = 0.95;
/// The application-limited region counts for this long after its end (`kAlrEndedTimeout`).
const ALR_ENDED: Micros = 3 * SECOND;
/// What was due while the path was congested is looked at again after this.
const BLOCKED: Micros = 250 * MILLISECOND;

/// Fractions of packets and bytes of a probe that must have arrived.
const RECEIVED_MIN: f64 = 0.8;
/// A probe that arrives so much faster than it was sent measured nothing.
const RATIO_MAX: f64 = 2.0;
/// A path that carried less than this fraction is full: then this fraction of what arrived is the result.
const UNSATURATED: f64 = 0.9;
const UTILIZATION: f64 = 0.95;
/// Longest probe that is judged (`kMaxProbeInterval`), and how long after its last packet one more may come.
const INTERVAL_MAX: i64 = SECOND as i64;
const CLUSTER_AGE_MAX: i64 = SECOND as i64;

/// Probes of which results can come in at the same time; a power of two.
const CLUSTERS: usize = 4;

/// Names the probe that a packet belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeId(pub(super) u8);

/// A cluster of packets that is to be sent now at a higher rate: media, else packets that were sent before as RTX, else padding.
/// Padding of about `bytes_min / packets_min` each: with larger packets, small probes would be longer than they are meant to be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Probe {
    /// To be given to `Bwe::sent` with each packet of it.
    pub id: ProbeId,
    /// Rate at which its packets leave, bit/s.
    pub bps: u64,
    /// The cluster ends when this much was sent, lengths counted as in `Bwe::sent` ...
    pub bytes_min: u32,
    /// ... in this many packets.
    pub packets_min: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No feedback came.
    Init,
    /// A further probe follows if the result of the last one is good.
    Waiting,
    Complete,
}

/// Decides about the probes of one transport.
pub(super) struct Probes {
    state: State,
    estimate: f64,
    max: f64,
    wanted: f64,
    is_congested: bool,
    further_from: f64,
    initiated_at: Micros,
    first_until: Micros,
    wanted_probed_at: Option<Micros>,
    alr_since: Option<Micros>,
    alr_ended: Option<Micros>,
    /// When the path was congested last.
    congested_at: Micros,
    drop_at: Option<Micros>,
    drop_from: f64,
    drop_probed_at: Option<Micros>,
    blocked_until: Micros,
    pending: Option<Probe>,
    id_last: u8,
    results: Results,
}

impl Probes {
    pub(super) fn new(now: Micros, start: f64, max: f64) -> Self {
        Probes {
            state: State::Init,
            estimate: start,
            max,
            wanted: 0.0,
            is_congested: false,
            further_from: f64::INFINITY,
            initiated_at: now,
            first_until: now,
            wanted_probed_at: None,
            alr_since: None,
            alr_ended: None,
            congested_at: now,
            drop_at: None,
            drop_from: 0.0,
            drop_probed_at: None,
            blocked_until: now,
            pending: None,
            id_last: 0,
            results: Results::default(),
        }
    }

    /// The next probe, once, and not when it has become old.
    pub(super) fn take(&mut self, now: Micros) -> Option<Probe> {
        self.pending.take().filter(|_| now.saturating_sub(self.initiated_at) < WAIT)
    }

    pub(super) fn set_max(&mut self, max: f64) {
        self.max = max;
    }

    pub(super) fn set_alr(&mut self, now: Micros, since: Option<Micros>) {
        if self.alr_since.is_some() && since.is_none() {
            self.alr_ended = Some(now);
        }
        self.alr_since = since;
    }

    /// The receiver reports what it receives: there is someone who can measure.
    pub(super) fn has_feedback(&mut self, now: Micros) {
        if self.state == State::Init {
            self.state = State::Complete;
            self.first_until = now + FIRST_REPEATED;
            if self.is_more_wanted() {
                self.initiate(now, FIRST * self.estimate, true);
            }
        }
    }

    /// Whether a higher estimate would be of use, or a probe that carries more than the last one.
    fn is_more_wanted(&self) -> bool {
        self.wanted.min(self.max) > self.results.full.unwrap_or(f64::INFINITY).min(self.estimate)
    }

    /// What would be sent without a limit, bit/s. Only a wish that is new and beyond the estimate is probed.
    pub(super) fn set_wanted(&mut self, now: Micros, wanted: f64) {
        let before = std::mem::replace(&mut self.wanted, wanted);
        let is_free = self.alr_since.is_some() || now < self.first_until;
        let is_rested = self.wanted_probed_at.is_none_or(|at| now.saturating_sub(at) >= INTERVAL);
        if self.state == State::Complete && wanted > before && self.is_more_wanted() && is_free && is_rested {
            self.wanted_probed_at = Some(now);
            self.initiate(now, wanted.min(FURTHER * self.estimate), true);
        }
    }

    /// The estimate after feedback. While queues, losses or missing feedback limit it, a probe would make it worse.
    pub(super) fn set_estimate(&mut self, now: Micros, estimate: f64, is_congested: bool) {
        self.is_congested = is_congested;
        if estimate < DROP * self.estimate {
            (self.drop_at, self.drop_from) = (Some(now), self.estimate);
        }
        if is_congested {
            self.congested_at = now;
        }
        self.estimate = estimate;
        if self.state == State::Waiting && estimate > self.further_from && self.is_more_wanted() {
            self.initiate(now, FURTHER * estimate, true);
        }
    }

    /// A queue that had grown is empty again.
    pub(super) fn recovered(&mut self, now: Micros) {
        let is_recent = |at: Option<Micros>, within: Micros| at.is_some_and(|at| now.saturating_sub(at) < within);
        let is_alr = self.alr_since.is_some() || is_recent(self.alr_ended, ALR_ENDED);
        let bps = DROP_PROBED * self.drop_from;
        if is_alr
            && self.state == State::Complete
            && DROP_EXPECTED * bps > self.estimate
            && is_recent(self.drop_at, DROP_WITHIN)
            && !is_recent(self.drop_probed_at, DROP_INTERVAL)
        {
            self.drop_probed_at = Some(now);
            self.initiate(now, bps, false);
        }
    }

    /// When the next probe is due by time alone, if more is wanted than is known.
    fn due(&self) -> Option<Micros> {
        match self.state {
            State::Init => None,
            State::Waiting => Some(self.initiated_at + WAIT),
            State::Complete if !self.is_more_wanted() => None,
            State::Complete => {
                let first = Some(self.initiated_at + WAIT).filter(|at| *at < self.first_until);
                let from = self.alr_since.unwrap_or(self.congested_at);
                Some(first.unwrap_or(from.max(self.initiated_at) + INTERVAL))
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Micros> {
        self.due().map(|due| due.max(self.blocked_until))
    }

    pub(super) fn tick(&mut self, now: Micros) {
        if self.state == State::Waiting && now >= self.initiated_at + WAIT {
            (self.state, self.further_from) = (State::Complete, f64::INFINITY);
        }
        if self.state == State::Complete && self.deadline().is_some_and(|deadline| now >= deadline) {
            let factor = if now < self.first_until { FIRST } else { FURTHER };
            self.initiate(now, factor * self.estimate, true);
        }
    }

    fn initiate(&mut self, now: Micros, bps: f64, may_go_further: bool) {
        if self.is_congested {
            self.blocked_until = now + BLOCKED;
            return;
        }
        let max = self.max.min(WANTED_MAX * self.wanted);
        let may_go_further = may_go_further && bps < max;
        let bps = bps.min(max);
        self.initiated_at = now;
        (self.state, self.further_from) = (State::Complete, f64::INFINITY);
        if bps < ESTIMATE_MIN * self.estimate {
            return;
        }
        if may_go_further {
            (self.state, self.further_from) = (State::Waiting, FURTHER_MIN * bps);
        }
        self.id_last = self.id_last % u8::MAX + 1;
        let bytes_min = (bps * DURATION as f64 / SECOND as f64 / 8.0) as u32;
        let probe = Probe { id: ProbeId(self.id_last), bps: bps as u64, bytes_min, packets_min: PACKETS };
        let may_lower = self.alr_since.is_some() || now < self.first_until;
        self.results.expect(&probe, may_lower);
        self.pending = Some(probe);
    }

    /// A packet of probe `id` has arrived.
    pub(super) fn arrived(&mut self, id: u8, sent: i64, arrived: i64, len: u16) {
        self.results.arrived(id, sent, arrived, f64::from(len));
    }

    /// What the path carried of the last probe, bit/s, if that was more than it carries.
    pub(super) fn full(&self) -> Option<f64> {
        self.results.full
    }

    /// The rate that probes have measured since this was asked last, bit/s. A probe beside media that uses the path measures
    /// its share of a full one: less than the estimate says nothing then.
    pub(super) fn take_result(&mut self, estimate: f64) -> Option<f64> {
        let (bps, may_lower) = self.results.measured.take()?;
        (may_lower || bps > estimate).then_some(bps)
    }
}

/// What arrived of a probe.
#[derive(Clone, Copy, Default)]
struct Cluster {
    id: u8,
    packets_min: u16,
    bytes_min: f64,
    packets: u16,
    bytes: f64,
    /// First and last times, and the bytes of the packets that are not within the interval.
    sent: (i64, i64),
    arrived: (i64, i64),
    sent_last_len: f64,
    arrived_first_len: f64,
    may_lower: bool,
}

#[derive(Default)]
struct Results {
    clusters: [Cluster; CLUSTERS],
    /// The last rate, and whether it may lower the estimate.
    measured: Option<(f64, bool)>,
    /// What arrived of the last one, if the path was full.
    full: Option<f64>,
}

impl Results {
    fn expect(&mut self, probe: &Probe, may_lower: bool) {
        let cluster = &mut self.clusters[usize::from(probe.id.0) % CLUSTERS];
        let (packets_min, bytes_min) = (probe.packets_min, f64::from(probe.bytes_min));
        *cluster = Cluster { id: probe.id.0, packets_min, bytes_min, may_lower, ..Cluster::default() };
    }

    fn arrived(&mut self, id: u8, sent: i64, arrived: i64, len: f64) {
        let cluster = &mut self.clusters[usize::from(id) % CLUSTERS];
        if cluster.id != id {
            return; // Other probes were made since.
        }
        if cluster.packets == 0 || arrived.saturating_sub(cluster.arrived.1) > CLUSTER_AGE_MAX {
            (cluster.packets, cluster.bytes) = (0, 0.0);
            (cluster.sent, cluster.arrived) = ((sent, sent), (arrived, arrived));
            (cluster.sent_last_len, cluster.arrived_first_len) = (len, len);
        }
        cluster.sent.0 = cluster.sent.0.min(sent);
        if sent > cluster.sent.1 {
            (cluster.sent.1, cluster.sent_last_len) = (sent, len);
        }
        if arrived < cluster.arrived.0 {
            (cluster.arrived.0, cluster.arrived_first_len) = (arrived, len);
        }
        cluster.arrived.1 = cluster.arrived.1.max(arrived);
        cluster.bytes += len;
        cluster.packets = cluster.packets.saturating_add(1);
        if let Some((sent, arrived)) = cluster.rates() {
            let is_full = arrived < UNSATURATED * sent;
            // One that was sent slowly has found nothing that is not known.
            self.full = if is_full { Some(arrived) } else { self.full.filter(|full| arrived <= *full) };
            let bps = if is_full { UTILIZATION * arrived } else { sent.min(arrived) };
            self.measured = Some((bps, cluster.may_lower));
        }
    }
}

impl Cluster {
    /// At which rates it was sent and has arrived, bit/s.
    fn rates(&self) -> Option<(f64, f64)> {
        let packets_min = (f64::from(self.packets_min) * RECEIVED_MIN) as u16;
        if self.packets < packets_min || self.bytes < self.bytes_min * RECEIVED_MIN {
            return None;
        }
        let rate = |bytes: f64, (first, last): (i64, i64)| {
            let interval = last.saturating_sub(first);
            (interval > 0 && interval <= INTERVAL_MAX).then(|| bytes * 8.0 * SECOND as f64 / interval as f64)
        };
        let sent = rate(self.bytes - self.sent_last_len, self.sent)?;
        let arrived = rate(self.bytes - self.arrived_first_len, self.arrived)?;
        (arrived <= RATIO_MAX * sent).then_some((sent, arrived))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Micros = MILLISECOND;

    fn probes(wanted: f64) -> Probes {
        let mut probes = Probes::new(0, 300_000.0, 10_000_000.0);
        probes.set_wanted(0, wanted);
        probes
    }

    fn taken(probes: &mut Probes) -> Option<u64> {
        probes.take(probes.initiated_at).map(|probe| probe.bps)
    }

    #[test]
    fn the_first_probe_follows_the_first_feedback_and_goes_on_while_it_comes_through() {
        let mut probes = probes(2_500_000.0);
        probes.tick(SECOND);
        assert_eq!(taken(&mut probes), None, "nobody measures");
        probes.has_feedback(SECOND);
        let probe = probes.take(probes.initiated_at).unwrap();
        assert_eq!((probe.bps, probe.bytes_min, probe.packets_min), (900_000, 1687, 5));
        probes.set_estimate(SECOND + 100 * MS, 600_000.0, false);
        assert_eq!(taken(&mut probes), None, "less than 0.7 came through");
        probes.set_estimate(SECOND + 200 * MS, 850_000.0, false);
        assert_eq!(taken(&mut probes), Some(1_700_000));
        probes.set_estimate(SECOND + 300 * MS, 1_700_000.0, false);
        assert_eq!(taken(&mut probes), Some(3_400_000));
        probes.set_estimate(SECOND + 400 * MS, 3_300_000.0, false);
        assert_eq!(taken(&mut probes), None, "all that is wanted is known to fit");
    }

    #[test]
    fn audio_alone_probes_up_to_what_is_wanted_before_and_when_video_comes() {
        let mut probes = probes(40_000.0);
        probes.has_feedback(0);
        assert_eq!(taken(&mut probes), None, "audio fits the estimate");
        probes.set_alr(SECOND, Some(SECOND));
        probes.set_wanted(20 * SECOND, 2_000_000.0);
        assert_eq!(taken(&mut probes), Some(600_000));
        probes.tick(21 * SECOND);
        probes.tick(22 * SECOND);
        assert_eq!(taken(&mut probes), None);
        assert_eq!(probes.deadline(), Some(23 * SECOND));
        probes.tick(23 * SECOND);
        assert_eq!(taken(&mut probes), Some(600_000));
    }

    #[test]
    fn a_changed_wish_or_maximum_alone_does_not_probe_again() {
        let mut probes = probes(1_000_000.0);
        probes.has_feedback(0);
        probes.take(probes.initiated_at);
        probes.tick(2 * SECOND);
        probes.take(probes.initiated_at);
        probes.set_alr(2 * SECOND, Some(2 * SECOND));
        let mut count = 0;
        for n in 0..100u64 {
            let now = 10 * SECOND + n * 100 * MS;
            probes.set_wanted(now, 1_000_000.0 + (n % 7) as f64 * 100_000.0);
            probes.set_max(5_000_000.0 + (n % 3) as f64 * 1_000_000.0);
            count += u32::from(probes.take(probes.initiated_at).is_some());
        }
        assert!(count <= 2, "{count} in ten seconds");
        probes.set_estimate(30 * SECOND, 3_000_000.0, false);
        probes.set_max(9_000_000.0);
        probes.set_wanted(40 * SECOND, 2_000_000.0);
        assert_eq!(taken(&mut probes), None, "the estimate suffices");
    }

    #[test]
    fn more_is_tried_each_three_seconds_whether_the_region_is_application_limited_or_not() {
        let mut probes = probes(2_000_000.0);
        probes.has_feedback(0);
        probes.take(probes.initiated_at);
        let mut tried = Vec::new();
        for second in 1..=30 {
            probes.set_estimate(second * SECOND, 300_000.0, (8..12).contains(&second));
            probes.tick(second * SECOND);
            if let Some(bps) = taken(&mut probes) {
                tried.push((second, bps));
            }
        }
        // Repeated at first; and not before three seconds after congestion, which ended at 11.
        assert_eq!(tried[..4], [1, 2, 3, 4].map(|second| (second, 900_000)));
        assert_eq!(tried[4..], [7, 14, 17, 20, 23, 26, 29].map(|second| (second, 600_000)));
    }

    #[test]
    fn a_probe_beside_media_does_not_lower_the_estimate() {
        let mut probes = probes(2_000_000.0);
        probes.has_feedback(0);
        for (now, expected) in [(SECOND, Some(150_000.0)), (20 * SECOND, None)] {
            probes.set_estimate(now, 300_000.0, false);
            probes.tick(now);
            let probe = probes.take(probes.initiated_at).unwrap_or(Probe {
                id: ProbeId(1),
                bps: 0,
                bytes_min: 0,
                packets_min: 0,
            });
            let bytes = 375;
            (0..6).for_each(|n| probes.arrived(probe.id.0, n * 4_000, n * 20_000, bytes));
            assert_eq!(probes.take_result(300_000.0).map(|bps| bps / 0.95), expected);
        }
    }

    #[test]
    fn congestion_is_not_probed_and_a_drop_that_is_over_is() {
        let mut probes = probes(3_000_000.0);
        probes.has_feedback(0);
        probes.take(probes.initiated_at);
        probes.set_alr(SECOND, Some(SECOND));
        probes.set_estimate(6 * SECOND, 2_000_000.0, false);
        probes.set_estimate(7 * SECOND, 500_000.0, true);
        probes.take(probes.initiated_at);
        probes.tick(12 * SECOND);
        assert_eq!((taken(&mut probes), probes.deadline()), (None, Some(12 * SECOND + BLOCKED)));
        probes.set_estimate(10 * SECOND, 510_000.0, false);
        probes.recovered(11 * SECOND);
        assert_eq!(taken(&mut probes), Some(1_700_000));
        probes.recovered(11 * SECOND + 1);
        assert_eq!(taken(&mut probes), None);
    }

    /// Packets of 1000 bytes in a probe of 1 Mb/s, of which each arrives `gap` µs after the one before.
    fn measured(gap: i64, count: i64) -> Option<f64> {
        let mut results = Results::default();
        results.expect(&Probe { id: ProbeId(1), bps: 1_000_000, bytes_min: 5000, packets_min: 5 }, true);
        (0..count).for_each(|n| results.arrived(1, n * 8_000, 50_000 + n * gap, 1000.0));
        results.measured.map(|(bps, _)| bps)
    }

    #[test]
    fn what_filled_the_path_is_remembered_until_more_arrives_and_probed_again() {
        let mut probes = probes(900_000.0);
        (probes.state, probes.estimate) = (State::Complete, 1_000_000.0);
        assert_eq!((probes.due(), probes.full()), (None, None), "all that is wanted is known to fit");
        let mut probe = |gap: i64, sent: i64| {
            let probe = Probe { id: ProbeId(1), bps: 1_000_000, bytes_min: 5000, packets_min: 5 };
            probes.results.expect(&probe, false);
            (0..5).for_each(|n| probes.arrived(1, n * sent, 50_000 + n * gap, 1000));
            (probes.full(), probes.due().is_some())
        };
        assert_eq!(probe(16_000, 8_000), (Some(500_000.0), true), "the path was full, and more is wanted");
        assert_eq!(probe(20_000, 20_000), (Some(500_000.0), true), "sent slowly, and nothing was found");
        assert_eq!(probe(10_000, 8_000), (Some(800_000.0), true));
        assert_eq!(probe(8_000, 8_000), (None, false), "it was not full");
    }

    #[test]
    fn a_result_is_what_arrived_if_enough_did() {
        assert_eq!(measured(8_000, 5), Some(1_000_000.0));
        assert_eq!(measured(16_000, 5), Some(0.95 * 500_000.0), "the path was full");
        assert_eq!(measured(8_000, 3), None);
        assert_eq!(measured(3_000, 5), None, "faster than it was sent");
        assert_eq!(measured(0, 5), None);
        assert_eq!(measured(-8_000, 5), Some(1_000_000.0), "in reverse");
        let mut results = Results::default();
        results.arrived(9, i64::MAX, i64::MIN, 1e9);
        assert_eq!((results.measured, results.full), (None, None));
    }
}
