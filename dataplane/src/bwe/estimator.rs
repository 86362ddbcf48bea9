//! One transport's estimate of what its path carries toward the receiver: Google Congestion Control at the sender, as libwebrtc
//! has it (`GoogCcNetworkController`; where we differ: docs/decisions/0045).
//!
//! Whoever drives it says what has left ([`Bwe::sent`]) and gives it the feedback ([`Bwe::feedback`]); it answers with the
//! estimate and with probes. It reads no clock, and takes memory only when it is made.

use super::acknowledged::Acknowledged;
use super::aimd::Aimd;
use super::alr::Alr;
use super::groups::Groups;
use super::history::{History, Report};
use super::loss::{self, Loss};
use super::probe::{Probe, ProbeId, Probes};
use super::reports::Reports;
use super::rivals::Rivals;
use super::rtts::Rtts;
use super::silence::{self, Matched, Unknown, Unreported};
use super::trendline::{Trendline, Usage};
use crate::config::{MILLISECOND, Micros, SECOND};
use crate::twcc::{DELTA_TICK, REFERENCE_TICK, TransportCc};

/// A path of which no feedback came for this long starts over with its delays (libwebrtc `kStreamTimeOut`).
const PAUSE: Micros = 2 * SECOND;
/// Arrivals that are taken up together, in the order of arrival.
const BATCH: usize = 128;
/// A receiver's clock that is this far from where it began, relative to ours, is another clock.
const CLOCK_APART_MAX: u64 = 60 * SECOND;
/// Losses are judged from the first second's end on that has seen so many packets (`kLossUpdateInterval`, `kLimitNumPackets`): before, the first probes decide.
const LOSS_INTERVAL: Micros = SECOND;
const LOSS_PACKETS_MIN: u32 = 20;
/// A probe is worth at least this fraction of the acknowledged rate (`kProbeDropThroughputFraction`).
const PROBE_ACKNOWLEDGED: f64 = 0.85;

/// Overuse while less than this fraction of the acknowledged rate arrives now is a drop of the capacity, which the window of the acknowledged rate would follow for a second.
const DROP: f64 = 0.7;

/// For so long after a probe arrived, a queue is that of the probe: it is no overuse, unless the capacity dropped.
const PROBE_QUEUE: Micros = 300 * MILLISECOND;

/// A REMB of this multiple of what is sent or more is limited by what is sent, not by the path (libwebrtc's receivers add at
/// most one half): it does not keep the estimate below the first one.
const REMB_OVER_SENT: f64 = 1.4;
/// A REMB is repeated each second; after this it counts no longer (libwebrtc `kMaxRtcpFeedbackInterval`).
const REMB_AGE_MAX: Micros = 5 * SECOND;

/// What limits the estimate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Limited {
    /// Nothing that is seen; the estimate grows.
    #[default]
    Nothing,
    /// A queue that grows or drains.
    Delay,
    /// Losses.
    Loss,
    /// Losses, and it grows again.
    LossGrowing,
    /// No feedback came for long while packets were sent.
    Silence,
    /// Feedback came too late for the history.
    Unknown,
    /// A REMB of the receiver.
    Remb,
}

/// What the estimate stands on, for metrics and REST.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Facts {
    /// What limits the estimate.
    pub limited: Limited,
    /// Weighted loss of the last seconds, a fraction.
    pub loss: f64,
    /// Round trip, µs, without the time that the receiver waits before it reports.
    pub rtt: Option<Micros>,
    /// How much longer the round trip is than the shortest of the last half minute to minute, µs: packets wait in a queue.
    pub queue: Micros,
    /// What arrives, bit/s; without feedback by the last report's losses.
    pub acknowledged_bps: Option<u64>,
    /// What the delays allow, bit/s.
    pub delay_bps: u64,
    /// What the path carried of the last probe, bit/s, if that was more than it carries and nobody else's packets waited there.
    pub full_bps: Option<u64>,
    /// Whether much less is sent than could be (application-limited region).
    pub is_alr: bool,
    /// Packets in all feedback that were received, and not in the history.
    pub unknown: u64,
    /// Probes that were asked for.
    pub probes: u64,
}

/// What was sent is taken up after this time at the latest: one look at a transport's numbers, and not one for each packet of a train.
const ACCOUNT_INTERVAL: Micros = 5 * MILLISECOND;

/// Packets that were sent and are in the history, and in nothing else yet.
#[derive(Default)]
struct Unaccounted {
    since: Micros,
    bytes: u32,
    packets: u32,
}

/// One transport's estimate of what its path carries toward the receiver. What a packet that is sent needs comes first in memory:
/// hundreds of receivers are sent to in turn, and each line of the cache that a packet needs is read again.
#[repr(C)]
pub struct Bwe {
    history: History,
    unaccounted: Unaccounted,
    start: f64,
    min: f64,
    max: f64,
    /// The estimate without REMB, bit/s.
    current: f64,
    clock: Clock,
    acknowledged: Acknowledged,
    acknowledged_bps: Option<f64>,
    groups: Groups,
    trendline: Trendline,
    detected_at: Option<Micros>,
    aimd: Aimd,
    rivals: Rivals,
    /// Whether the delays have set a rate.
    has_delay: bool,
    loss: Loss,
    begin: Begin,
    alr: Alr,
    probes: Probes,
    probes_taken: u64,
    probed_at: Option<Micros>,
    reports: Reports,
    rtts: Rtts,
    remb: Option<(Micros, f64)>,
    has_feedback: bool,
    /// The estimate began at its highest: nothing but reports and REMB will tell of the path.
    is_alone: bool,
    unreported: Unreported,
    unknown: Unknown,
    limited: Limited,
    /// Overuse lowers the estimate to a part of what arrives now, if that is more than this multiple of what arrived within a second.
    recent_min: f64,
}

impl Bwe {
    /// Bytes at its beginning that a packet that is sent needs.
    pub(crate) const SENT_LEN: usize = std::mem::offset_of!(Bwe, start);

    /// A transport of which nothing is known. `start_bps` is the first estimate; no estimate is below `min_bps` or above
    /// `max_bps`, bit/s. The history is made for two seconds at `max_bps`: 8 KiB up to 2 Mb/s, never more than 32 KiB.
    pub fn new(start_bps: u64, min_bps: u64, max_bps: u64, now: Micros) -> Bwe {
        let min = min_bps.max(1) as f64;
        let max = (max_bps as f64).max(min);
        let start = (start_bps as f64).clamp(min, max);
        Bwe {
            history: History::new(max_bps),
            unaccounted: Unaccounted::default(),
            start,
            min,
            max,
            current: start,
            clock: Clock::default(),
            acknowledged: Acknowledged::new(),
            acknowledged_bps: None,
            groups: Groups::default(),
            trendline: Trendline::new(),
            detected_at: None,
            aimd: Aimd::new(start, min),
            rivals: Rivals::new(),
            has_delay: false,
            loss: Loss::new(min, max),
            begin: Begin::default(),
            alr: Alr::new(start),
            probes: Probes::new(now, start, max),
            probes_taken: 0,
            probed_at: None,
            reports: Reports::new(),
            rtts: Rtts::default(),
            remb: None,
            has_feedback: false,
            is_alone: false,
            unreported: Unreported::default(),
            unknown: Unknown::default(),
            limited: Limited::Nothing,
            recent_min: 1.0,
        }
    }

    /// For comparisons with libwebrtc: from now on overuse lowers the estimate to a part of what arrived within a second, but if more than
    /// this multiple of it arrives now.
    pub fn lower_by_the_window(&mut self, recent_min: f64) {
        self.recent_min = recent_min;
    }

    /// Bytes that it takes in all.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.history.bytes() + self.acknowledged.bytes()
    }

    /// The packet with this transport-wide sequence number has left, at the time of the flush. Numbers follow each other;
    /// one that goes back begins a new sequence. `len`: bytes of the UDP payload and of the headers below it (28, with IPv6
    /// 48). `probe`: the cluster that it belongs to. Of a transport without transport-cc all packets of RTP are given too,
    /// with any numbers that follow each other.
    pub fn sent(&mut self, now: Micros, seq: u16, len: usize, probe: Option<ProbeId>) {
        self.history.sent(now, seq, len, probe.map_or(0, |probe| probe.0));
        let Unaccounted { since, bytes, packets } = &mut self.unaccounted;
        if *packets == 0 {
            *since = now;
        }
        (*bytes, *packets) = (bytes.saturating_add(len as u32), *packets + 1);
        if now.saturating_sub(*since) >= ACCOUNT_INTERVAL {
            self.account();
        }
    }

    /// Takes up what was sent.
    #[cold]
    fn account(&mut self) {
        let Unaccounted { bytes, packets, .. } = std::mem::take(&mut self.unaccounted);
        let at = self.history.sent_last();
        if packets == 0 {
            return;
        }
        self.alr.sent(at, bytes as usize);
        self.reports.sent(at, bytes as usize, packets);
        if self.has_feedback && self.unreported.is_silence(at, packets, self.rtts.feedback(at)) {
            self.lower(at, silence::FACTOR, Limited::Silence);
        }
    }

    /// Transport-cc feedback of the receiver.
    pub fn feedback(&mut self, now: Micros, feedback: &TransportCc<'_>) -> Matched {
        self.account();
        self.history.expire(now);
        let observation = self.loss.observation();
        if self.clock.is_gap(feedback.feedback_count) {
            self.acknowledged.gap();
        }
        let mut at = self.clock.start(now, feedback.reference_time);
        let (mut matched, mut is_new) = (Matched::default(), false);
        let mut turn = Turn::default();
        let mut batch = [Arrival::default(); BATCH];
        let mut count = 0;
        for (seq, delta) in feedback.statuses().take(self.history.capacity()) {
            at = at.saturating_add(i64::from(delta.unwrap_or(0)) * DELTA_TICK as i64);
            let is_received = delta.is_some();
            let found = match self.history.report(now, seq, is_received, observation) {
                Report::Unknown => {
                    matched.unknown += u32::from(is_received);
                    continue;
                }
                Report::Repeated => {
                    matched.found += u32::from(is_received);
                    continue;
                }
                Report::Found(found) => found,
            };
            is_new = true;
            self.begin.packets = self.begin.packets.saturating_add(1);
            match found.lost_in {
                Some(observation) => self.loss.found(observation, found.len),
                None => self.loss.reported(found.sent, found.len, !is_received),
            }
            if is_received {
                matched.found += 1;
                matched.first += u32::from(found.lost_in.is_none());
                batch[count] = Arrival { at, sent: found.sent, len: found.len, probe: found.probe, index: count as u8 };
                count += 1;
                if count == BATCH {
                    self.arrived(now, &mut batch, &mut turn);
                    count = 0;
                }
            }
        }
        self.arrived(now, &mut batch[..count], &mut turn);
        if self.unknown.is_overuse(now, matched) {
            self.lower(now, silence::UNKNOWN_FACTOR, Limited::Unknown);
        } else if is_new {
            self.update(now, &turn);
        }
        matched
    }

    /// A report measured the round trip, µs. Without one, the estimator takes its own from feedback.
    pub fn rtt(&mut self, now: Micros, rtt: Micros) {
        self.rtts.reported = Some((now, rtt.min(silence::LIMIT_MAX)));
    }

    /// The receiver's REMB, bit/s: an upper bound, until it is none or 0, or has not been repeated for five seconds.
    pub fn remb(&mut self, now: Micros, bps: Option<u64>) {
        self.account();
        self.remb = bps.filter(|bps| *bps > 0).map(|bps| {
            let bps = bps as f64;
            let least = match self.is_alone {
                true => self.reports.least_by_remb(now, bps, self.start),
                false if bps >= REMB_OVER_SENT * self.reports.sent_bps(now) => self.start,
                false => 0.0,
            };
            (now, bps.max(least))
        });
        self.limit_changed(now);
    }

    /// A receiver without transport-cc reports this fraction, in 1/256, of what was sent to it as lost since its last
    /// report. The caller takes off what was already missing when it came here: the losses of a publisher are not those of
    /// this path. Ignored once there is transport-cc feedback.
    pub fn receiver_report(&mut self, now: Micros, fraction_lost: u8) {
        if self.has_feedback {
            return;
        }
        self.account();
        let rtt = self.rtts.feedback(now);
        let bps = self.reports.report(now, fraction_lost, self.current, rtt, self.is_alone);
        self.limited = if bps < self.current { Limited::Loss } else { Limited::Nothing };
        self.current = bps.clamp(self.min, self.max);
        // Growth from there, not from an estimate that a REMB forbids.
        self.current = self.current.min(self.remb_bound(now)).max(self.min);
        self.limit_changed(now);
    }

    /// No transport-cc feedback comes: reports and REMB alone will tell of the path, and nothing limits the estimate before they do. It begins
    /// anew if feedback comes after all.
    pub fn expect_no_feedback(&mut self, now: Micros) {
        if !self.has_feedback && !self.is_alone {
            (self.is_alone, self.current, self.limited) = (true, self.max, Limited::Nothing);
            self.limit_changed(now);
        }
    }

    /// Whether reports and REMB alone tell of the path.
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Whether reports and REMB have told nothing yet that limits the estimate, of a path of which nothing else is known.
    pub fn is_unlimited(&self) -> bool {
        self.is_alone && self.estimate() as f64 >= self.max
    }

    /// The highest estimate, bit/s, from now on. Does not probe.
    pub fn set_max(&mut self, now: Micros, max_bps: u64) {
        self.max = (max_bps as f64).max(self.min);
        self.loss.set_max(self.max);
        self.probes.set_max(self.max);
        self.current = self.current.min(self.max);
        self.limit_changed(now);
    }

    /// What the transport would send if it were not limited (the sum of the best encodings), bit/s. Probes go on while that
    /// is more than the estimate, and reach at most twice as far. A wish that falls, or that the estimate suffices for, does
    /// not probe.
    pub fn set_demand(&mut self, now: Micros, wanted_bps: u64) {
        self.account();
        self.probes.set_alr(now, self.alr.since());
        self.probes.set_wanted(now, wanted_bps as f64);
    }

    /// The estimate, bit/s, of all that leaves: media, repairs, padding and headers.
    pub fn estimate(&self) -> u64 {
        let remb = self.remb.map_or(f64::INFINITY, |(_, bps)| bps);
        self.current.min(remb).max(self.min) as u64
    }

    /// Rate, bit/s, up to which padding would help the estimate out of losses; 0 at most times.
    pub fn padding(&self) -> u64 {
        let is_growing = matches!(self.loss.result(), Some((_, loss::State::Increasing)));
        if is_growing && self.has_feedback { self.estimate() } else { 0 }
    }

    /// The pacer is to send this cluster now. Each is given once. Only receivers that send transport-cc feedback are probed.
    pub fn probe(&mut self, now: Micros) -> Option<Probe> {
        self.tick(now);
        let probe = self.probes.take(now);
        self.probes_taken += u64::from(probe.is_some());
        probe
    }

    /// When [`Bwe::tick`] is to be run, if nothing else happens before.
    pub fn deadline(&self) -> Option<Micros> {
        let remb = self.remb.map(|(at, _)| at + REMB_AGE_MAX);
        remb.into_iter().chain(self.probes.deadline()).min()
    }

    /// Time passed.
    pub fn tick(&mut self, now: Micros) {
        self.account();
        if self.remb.is_some_and(|(at, _)| now.saturating_sub(at) >= REMB_AGE_MAX) {
            self.remb = None;
            self.limit_changed(now);
        }
        self.probes.set_alr(now, self.alr.since());
        self.probes.tick(now);
    }

    /// What the estimate stands on.
    pub fn facts(&self) -> Facts {
        Facts {
            limited: if self.is_remb_lower() { Limited::Remb } else { self.limited },
            loss: if self.has_feedback { self.loss.average() } else { self.reports.loss() },
            rtt: self.rtts.path(),
            queue: self.rivals.queue(),
            acknowledged_bps: self.acknowledged_bps.or(self.reports.arrived()).map(|bps| bps as u64),
            delay_bps: self.aimd.bps() as u64,
            full_bps: self.probes.full().filter(|_| self.rivals.is_alone()).map(|bps| bps as u64),
            is_alr: self.alr.since().is_some(),
            unknown: self.unknown.total(),
            probes: self.probes_taken,
        }
    }

    /// Takes up packets that arrived, in the order of their arrival.
    fn arrived(&mut self, now: Micros, batch: &mut [Arrival], turn: &mut Turn) {
        batch.sort_unstable_by_key(|packet| (packet.at, packet.index));
        for packet in batch {
            turn.packet(now, packet);
            self.acknowledged.packet(packet.sent, packet.at, packet.len);
            let sent = packet.sent as i64;
            if packet.probe > 0 {
                self.probes.arrived(packet.probe, sent, packet.at, packet.len);
                self.probed_at = Some(now);
            }
            if self.detected_at.replace(now).is_none_or(|at| now.saturating_sub(at) > PAUSE) {
                (self.groups, self.trendline) = (Groups::default(), Trendline::new());
            }
            let before = self.trendline.usage();
            if let Some(deltas) = self.groups.packet(sent, packet.at, now as i64) {
                let at = (packet.at as f64 / 1000.0).round();
                self.trendline.group_arrived(deltas.sent, deltas.arrived, at);
            }
            turn.is_recovered |= before == Usage::Under && self.trendline.usage() == Usage::Normal;
        }
    }

    /// All of a feedback is taken up: what follows from it.
    fn update(&mut self, now: Micros, turn: &Turn) {
        self.probes.set_alr(now, self.alr.since());
        let mut is_recovered = false;
        if let Some((feedback_rtt, path_rtt)) = turn.rtts(now) {
            if !std::mem::replace(&mut self.has_feedback, true) && std::mem::take(&mut self.is_alone) {
                self.current = self.start;
            }
            self.unreported = Unreported::default();
            self.rtts.measured(feedback_rtt, path_rtt);
            self.rivals.measured(now, path_rtt);
            self.aimd.set_rtt(self.rtts.feedback(now));
            self.acknowledged_bps = self.acknowledged.bps();
            self.begin.feedback(now);
            is_recovered = self.update_delay(now) && turn.is_recovered;
        }
        let delay = self.has_delay.then(|| self.aimd.bps());
        self.loss.update(self.acknowledged_bps, delay, self.alr.since().is_some());
        self.settle(now);
        if self.has_feedback {
            self.probes.has_feedback(now);
        }
        if is_recovered {
            self.probes.recovered(now);
        }
    }

    /// The rate that the delays allow. Whether no probe set it and no queue grows.
    fn update_delay(&mut self, now: Micros) -> bool {
        let acknowledged = self.acknowledged_bps;
        let usage = self.trendline.usage();
        let probed = self.probes.take_result(self.aimd.bps()).map(|probed| {
            let delay = if self.has_delay { self.aimd.bps() } else { 0.0 };
            acknowledged.map_or(probed, |acknowledged| probed.max(delay.min(PROBE_ACKNOWLEDGED * acknowledged)))
        });
        let is_over = usage == Usage::Over;
        let known = acknowledged.unwrap_or(0.0);
        let recent = self.acknowledged.recent_bps().unwrap_or(known);
        let is_drop = recent < DROP * known;
        let is_probe_queue = self.probed_at.is_some_and(|at| now.saturating_sub(at) < PROBE_QUEUE);
        if is_over && is_drop {
            self.aimd.cut(now, recent);
        } else if is_over && self.rivals.is_tolerated() {
            self.aimd.tolerate(now, acknowledged);
        } else if is_over && !is_probe_queue {
            self.rivals.lowered(now);
            // While a queue grows, what arrives is what the path carries; what came within a second is often what was sent.
            let throughput = if recent > self.recent_min * known { recent } else { known };
            match acknowledged {
                None => self.aimd.set(now, self.aimd.bps() / 2.0),
                Some(_) if self.aimd.may_lower(now, throughput) => self.aimd.update(now, usage, Some(throughput)),
                Some(_) => return false,
            }
        } else if let Some(probed) = probed {
            self.aimd.set(now, probed);
        } else if !is_over {
            self.aimd.update(now, usage, acknowledged);
        } else {
            return false;
        }
        self.has_delay = true;
        usage != Usage::Over && probed.is_none()
    }

    /// The estimate that follows from delays and losses.
    fn settle(&mut self, now: Micros) {
        let delay = if self.has_delay { self.aimd.bps() } else { self.current };
        let loss = self.loss.result().filter(|_| self.begin.is_over);
        let (bps, state) = loss.unwrap_or((delay, loss::State::Delay));
        self.current = bps.min(delay).clamp(self.min, self.max);
        self.limited = match (self.trendline.usage(), state) {
            (Usage::Over | Usage::Under, _) => Limited::Delay,
            (_, loss::State::Decreasing) => Limited::Loss,
            (_, loss::State::Increasing) => Limited::LossGrowing,
            (_, loss::State::Delay) => Limited::Nothing,
        };
        self.limit_changed(now);
    }

    /// Nothing is known of the path but that it is not well: lowers the estimate.
    fn lower(&mut self, now: Micros, factor: f64, limited: Limited) {
        self.current = (factor * self.current).max(self.min);
        self.aimd.set(now, self.current.min(self.aimd.bps()));
        (self.has_delay, self.limited) = (true, limited);
        self.limit_changed(now);
    }

    /// A queue of the path has become long: it carries what arrives, and not more, whatever was thought.
    pub(crate) fn is_filled(&mut self, now: Micros) {
        if let Some(bps) = self.acknowledged_bps.filter(|bps| *bps < self.current) {
            self.lower(now, bps / self.current, Limited::Delay);
        }
    }

    fn is_remb_lower(&self) -> bool {
        self.remb.is_some_and(|(_, bps)| bps < self.current)
    }

    fn remb_bound(&self, now: Micros) -> f64 {
        let remb = self.remb.filter(|(at, _)| now.saturating_sub(*at) < REMB_AGE_MAX);
        remb.map_or(f64::INFINITY, |(_, bps)| bps)
    }

    /// Updates what depends on the estimate.
    fn limit_changed(&mut self, now: Micros) {
        let estimate = self.estimate() as f64;
        self.alr.set_estimate(estimate);
        let is_congested = self.limited != Limited::Nothing || self.is_remb_lower();
        self.probes.set_estimate(now, estimate, is_congested);
    }
}

/// A packet that arrived.
#[derive(Clone, Copy, Default)]
struct Arrival {
    /// By the receiver's clock, µs.
    at: i64,
    sent: Micros,
    len: u16,
    probe: u8,
    index: u8,
}

/// What one feedback adds up to.
#[derive(Default)]
struct Turn {
    /// The latest arrival, the longest time since sending, and the shortest way by two clocks.
    latest: Option<i64>,
    age_max: Micros,
    way_min: i64,
    is_recovered: bool,
}

impl Turn {
    fn packet(&mut self, now: Micros, packet: &Arrival) {
        let way = packet.at.saturating_sub(packet.sent as i64);
        self.way_min = if self.latest.is_some() { self.way_min.min(way) } else { way };
        self.latest = self.latest.max(Some(packet.at));
        self.age_max = self.age_max.max(now.saturating_sub(packet.sent));
    }

    /// Round trip with and without the wait of the first packet for the feedback.
    fn rtts(&self, now: Micros) -> Option<(Micros, Micros)> {
        let path = (now as i64).saturating_sub(self.latest?).saturating_add(self.way_min);
        Some((self.age_max, path.max(0) as Micros))
    }
}

/// The first seconds, in which too few packets were reported to judge losses.
#[derive(Default)]
struct Begin {
    packets: u32,
    until: Option<Micros>,
    is_over: bool,
}

impl Begin {
    fn feedback(&mut self, now: Micros) {
        if self.until.is_none_or(|until| now > until) {
            self.until = Some(now + LOSS_INTERVAL);
            self.is_over |= self.packets >= LOSS_PACKETS_MIN;
        }
    }
}

/// The receiver's clock: 24 bits of 64 ms, which wrap.
#[derive(Default)]
struct Clock {
    reference: Option<u32>,
    at: i64,
    /// The last feedback's number.
    count: u8,
}

impl Clock {
    /// Whether feedback is missing before this one.
    fn is_gap(&mut self, count: u8) -> bool {
        std::mem::replace(&mut self.count, count).wrapping_add(1) != count
    }

    /// The time that the first delta of a feedback counts from, µs.
    fn start(&mut self, now: Micros, reference: u32) -> i64 {
        let before = self.reference.replace(reference);
        let ticks = before.map(|before| ((reference.wrapping_sub(before) << 8) as i32) >> 8);
        let at = ticks.map(|ticks| self.at + i64::from(ticks) * REFERENCE_TICK as i64);
        self.at = at.filter(|at| at.abs_diff(now as i64) <= CLOCK_APART_MAX).unwrap_or(now as i64);
        self.at
    }
}
