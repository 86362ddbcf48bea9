//! REMB (draft-alvestrand-rmcat-remb-03): how much a publisher without transport-cc may send, estimated here, where its
//! packets arrive, and told it once a second, and at once when it is notably less than before.
//!
//! What the controlplane set for the peer ([`PeerLimit`]) is the most that is ever told, and what is told while nothing shows
//! that the way bears less. A queue that grows ([`overuse`]) or a tenth of the packets lost lowers it; from there it rises as
//! in Google Congestion Control (draft-ietf-rmcat-gcc-02 §5.5, §6), whose constants these are.

mod overuse;

use proto::id::PeerId;
use proto::plane::{Counter, Extension, PeerLimit, Refusal, feedback};

use crate::config::{MILLISECOND, Micros, PEER_STREAMS_MAX, REMB_BPS_MIN, SECOND};
use crate::forward::Forwarder;
use crate::outbox::Outbox;
use crate::packet::RtpPacket;
use crate::route::Stream;
use crate::transport::Transport;

pub(crate) use overuse::{Overuse, Usage};

/// What is left after overuse, of what arrived (libwebrtc `AimdRateControl`).
const BETA: f64 = 0.85;
/// Growth of a second, as long as nothing is known of a limit.
const GROWTH: f64 = 1.08;
/// What is told is at most so much of what arrives: what nobody tries is not known to pass.
const OVER_INCOMING: f64 = 1.5;
/// And this much more, bit/s, so that a trickle can grow.
const OVER_INCOMING_MORE: f64 = 10_000.0;
/// Within this share around the rate of the last overuse it grows by a packet for each response time, not by a share.
const NEAR: f64 = 0.15;
/// Slowest growth, bit/s in a second.
const GROWTH_MIN: f64 = 4_000.0;
/// Overuse that goes on lowers again after this long: the sender's answer takes a round trip.
const LOWER_AGAIN: Micros = 200 * MILLISECOND;
/// Told at once if it is less than this share of what was told before.
const NOTABLE: f64 = 0.97;
/// Shares of lost packets above which nothing grows, and above which the estimate is lowered (draft-ietf-rmcat-gcc-02 §6).
const LOSS_HOLDS: f64 = 0.02;
const LOSS_LOWERS: f64 = 0.1;
/// Fewer packets say nothing of loss.
const LOSS_PACKETS_MIN: u64 = 20;

/// Ticks in a millisecond of abs-send-time, whose 6.18 bits are moved to the top of 32.
const ABS_SEND_TIME_TICKS: f64 = (1u64 << 26) as f64 / 1000.0;

/// What arrives, over the last half second, in buckets.
struct Rate {
    bytes: [u32; BUCKETS],
    /// Number of the newest bucket, and of the first.
    newest: u64,
    first: Option<u64>,
}

const BUCKETS: usize = 10;
const BUCKET: Micros = 50 * MILLISECOND;

impl Rate {
    const fn new() -> Self {
        Rate { bytes: [0; BUCKETS], newest: 0, first: None }
    }

    fn advance(&mut self, now: Micros) {
        let number = now / BUCKET;
        // After a pause longer than the window everything is counted anew.
        if self.first.is_none() || number > self.newest + BUCKETS as u64 {
            *self = Rate { newest: number, first: Some(number), ..Rate::new() };
        }
        while self.newest < number {
            self.newest += 1;
            self.bytes[self.newest as usize % BUCKETS] = 0;
        }
    }

    fn add(&mut self, len: usize, now: Micros) {
        self.advance(now);
        let bucket = &mut self.bytes[self.newest as usize % BUCKETS];
        *bucket = bucket.saturating_add(len as u32);
    }

    /// Bit/s; `None` before there is half a window of it.
    fn bps(&mut self, now: Micros) -> Option<f64> {
        self.advance(now);
        // The newest bucket is not over yet, so it is left out.
        let covered = (self.newest - self.first?).min(BUCKETS as u64 - 1);
        let is_whole = |age: &u64| *age >= 1 && *age <= covered;
        let bytes: u64 = (0..BUCKETS as u64)
            .filter(is_whole)
            .map(|age| u64::from(self.bytes[(self.newest - age) as usize % BUCKETS]))
            .sum();
        (covered >= BUCKETS as u64 / 2).then(|| (bytes * 8 * SECOND) as f64 / (covered * BUCKET) as f64)
    }
}

/// What one publisher may send in those of its streams that take REMB.
pub(crate) struct Estimate {
    /// What the controlplane set; without it nothing is told.
    limit: Option<PeerLimit>,
    rate: Rate,
    /// Bit/s; `None` while nothing shows that less than the limit passes.
    bps: Option<f64>,
    /// What arrived at the last overuse: about what the way bears.
    capacity: Option<f64>,
    lowered_at: Option<Micros>,
    grown_at: Option<Micros>,
    told: Option<u32>,
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
            told: None,
        }
    }

    /// What the controlplane set.
    pub(crate) fn limit(&self) -> Option<PeerLimit> {
        self.limit
    }

    /// What is to be told now, bit/s.
    fn bps(&self) -> Option<u32> {
        let limit = self.limit?.bps_max;
        Some(self.bps.map_or(limit, |bps| bps.max(f64::from(REMB_BPS_MIN)) as u32).min(limit))
    }

    /// Whether it is notably less than what was told.
    fn is_notable(&self) -> bool {
        match (self.bps(), self.told) {
            (Some(bps), Some(told)) => f64::from(bps) < NOTABLE * f64::from(told),
            _ => false,
        }
    }

    /// A queue grows on the way.
    fn over(&mut self, now: Micros) {
        let Some(current) = self.bps().map(f64::from) else { return };
        if self.lowered_at.is_some_and(|at| now < at + LOWER_AGAIN) {
            return;
        }
        let incoming = self.rate.bps(now);
        self.capacity = incoming.or(self.capacity);
        self.lower(BETA * incoming.unwrap_or(current), current, now);
    }

    /// By half at most: a way that stood still for a moment delivers little then, and that is not what it bears.
    fn lower(&mut self, to: f64, current: f64, now: Micros) {
        self.bps = Some(to.clamp(current / 2.0, current).max(f64::from(REMB_BPS_MIN)));
        (self.lowered_at, self.grown_at) = (Some(now), Some(now));
    }

    /// Looks at the last second: what the detectors think, and how many packets were expected and lost.
    fn review(&mut self, usage: Usage, expected: u64, lost: u64, rtt: Micros, now: Micros) {
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
            self.capacity = None; // The way bears more than it did.
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

/// An authentic packet of a stream arrived.
pub(crate) fn arrived(
    transport: &mut Transport,
    stream: &mut Stream,
    packet: &RtpPacket<'_>,
    is_rtx: bool,
    at: Micros,
) {
    let (Some(estimate), Some(overuse)) = (&mut transport.estimate, &mut stream.overuse) else { return };
    estimate.rate.add(packet.head.len() + packet.payload.len(), at);
    if is_rtx {
        return; // Sent when it was asked for, not when its timestamp says.
    }
    let id = transport.extension_ids[Extension::AbsSendTime as usize];
    let (stamp, ticks) = match packet.extension(id) {
        Some(&[a, b, c]) => (u32::from_be_bytes([a, b, c, 0]), ABS_SEND_TIME_TICKS),
        _ if id != 0 => return,
        _ => (packet.header.timestamp, f64::from(stream.open.codec.clock_rate()) / 1000.0),
    };
    if overuse.arrived(stamp, ticks, at) == Usage::Over {
        estimate.over(at);
    }
}

/// An authentic packet arrived that its stream is not carried from: it took its part of the way all the same.
pub(crate) fn arrived_aside(transport: &mut Transport, stream: &Stream, packet: &RtpPacket<'_>, at: Micros) {
    if let (Some(estimate), Some(_)) = (&mut transport.estimate, &stream.overuse) {
        estimate.rate.add(packet.head.len() + packet.payload.len(), at);
    }
}

impl Forwarder {
    /// The controlplane sets what a peer may send at most.
    pub(crate) fn limit_peer(&mut self, limit: &PeerLimit, out: &mut Outbox) -> Result<(), Refusal> {
        let PeerId { index, generation } = limit.peer;
        let transport = self.peers.find_mut(index, generation).ok_or(Refusal::Unknown)?;
        let estimate = transport.estimate.get_or_insert_with(|| Box::new(Estimate::new()));
        estimate.limit = Some(*limit);
        self.tell_less(index, out);
        Ok(())
    }

    /// Tells a publisher at once if what it may send has become notably less.
    #[inline]
    pub(crate) fn tell_less(&mut self, peer: u32, out: &mut Outbox) {
        let estimate = self.peers.at(peer).and_then(|transport| transport.estimate.as_ref());
        if estimate.is_some_and(|estimate| estimate.is_notable()) {
            self.send_remb(peer, out);
        }
    }

    /// A second has passed: the estimate is reviewed and told.
    pub(crate) fn review_estimate(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        let Some(transport) = peers.at_mut(peer) else { return };
        let Some(estimate) = &mut transport.estimate else { return };
        let (mut usage, mut expected, mut lost) = (Usage::Normal, 0, 0);
        for &index in &transport.streams {
            let Some(stream) = streams.at_mut(index) else { continue };
            let (Some(overuse), Some(highest)) = (&stream.overuse, stream.window.highest()) else { continue };
            usage = usage.max(overuse.usage(now));
            let (of_stream, missing) = stream.reception.lost_since_review(highest);
            expected += of_stream;
            lost += missing;
        }
        estimate.review(usage, expected, lost, transport.rtt, now);
        self.send_remb(peer, out);
    }

    /// Tells a publisher what its streams that take REMB may send together.
    pub(crate) fn send_remb(&mut self, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        let Some(transport) = peers.at_mut(peer).filter(|transport| transport.outgoing().is_some()) else { return };
        let Some(estimate) = &mut transport.estimate else { return };
        let Some(bps) = estimate.bps() else { return };
        let (mut ssrcs, mut count) = ([0; PEER_STREAMS_MAX], 0);
        for stream in transport.streams.iter().filter_map(|&index| streams.at(index)) {
            if stream.open.feedback & feedback::REMB != 0 && stream.ssrc != 0 {
                ssrcs[count] = stream.ssrc;
                count += 1;
            }
        }
        if count == 0 {
            return;
        }
        estimate.told = Some(bps);
        self.count(Counter::RembSent, 1);
        self.send_rtcp(peer, out, |writer, sender| {
            writer.remb(sender, bps, &ssrcs[..count]);
        });
    }
}

#[cfg(test)]
mod tests {
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
    fn nothing_is_told_without_a_limit_and_never_more() {
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
        estimate.told = estimate.bps();
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
