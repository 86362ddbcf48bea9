//! Toward one receiver: what its path carries, what leaves beside video, the pace, and the probe that is being sent.

use proto::id::PeerId;
use proto::plane::PeerTally;

use crate::allocate::{Allocator, Budget};
use crate::bwe::{Bwe, Facts, Limited, Probe, ProbeId};
use crate::config::{MILLISECOND, Micros, SECOND};
use crate::pacer::{Pacer, Queue, Queues};
use crate::rate::Rate;

/// The first estimate, bit/s: sound and a small picture, on any path that is good for a call. The first probe has three times
/// as much.
const START_BPS: u64 = 500_000;
/// The lowest estimate, bit/s. (libwebrtc `kCongestionControllerMinBitrate`.)
const MIN_BPS: u64 = 5_000;
/// The highest estimate, bit/s: more than eight of the best pictures.
const MAX_BPS: u64 = 20_000_000;
/// The rate at which the history of what was sent covers two seconds, bit/s; above that it covers less. It takes most of the memory
/// of a receiver's estimate.
const HISTORY_BPS: u64 = 2_000_000;
/// A receiver of which no feedback came for this long after the first packet sends none. Nothing limits it until its reports or a REMB do.
const FEEDBACK_AWAITED: Micros = 1500 * MILLISECOND;
/// Video leaves at this multiple of the estimate while nothing limits it: no queue grows, nothing is lost (libwebrtc
/// `kDefaultPaceMultiplier`).
const PACE_WIDE: f64 = 2.5;
/// ... and at this one otherwise: a whole keyframe would stand in the queue of the path (str0m has the same). With 1.25 each burst was faster
/// than the path as soon as the estimate was four fifths of what it carries, and the queue that grew lowered the estimate.
const PACE: f64 = 1.1;
/// ... and at this one where packets are lost without a queue: the estimate follows what arrives.
const PACE_LOSSY: f64 = 1.25;
/// ... and at this one where reports and REMB alone tell of the path: a queue of 40 ms is overuse to who measures REMB, and nobody but the
/// receiver sees it.
const PACE_ALONE: f64 = 0.95;
/// ... and at this multiple of what was allocated, at the least.
const PACE_TAKEN: f64 = 1.1;
/// ... if the path has just carried that, but for this factor.
const PACE_CARRIED: f64 = 1.15;
/// How often the estimate must hold all sound before packets of sound leave several times: three times, and room for what else leaves.
const COPIES_ROOM: u64 = 4;
/// Most of the estimate that is set aside for repairs, and that they may have while the path is full: what its queue has dropped would
/// fill it again.
const REPAIRS_MAX: f64 = 0.15;
/// … while no queue is long, repairs may be ahead of the pace by this.
const REPAIRS_BURST: Micros = 60 * MILLISECOND;
/// A path in whose queue packets wait so long, and that loses so many of them, does not carry what it is sent.
const FULL_QUEUE: Micros = 100 * MILLISECOND;
const FULL_LOSS: f64 = 0.03;
/// A queue that long drains in the first seconds, whose first estimate knew nothing of the path: until it is short, this part of what arrives leaves.
/// Once it is full it does not grow any more, so that no estimate falls by it, and it would stay. Later a long queue is rather that of others.
const DRAIN: f64 = 0.8;
const DRAIN_WITHIN: Micros = 10 * SECOND;
/// An estimate of which less leaves grows though nothing proves it. If a probe has just filled the path, no more is given than what that carried of the
/// probe, or what arrives, times this: what is new must leave as much free.
const OVER_FULL: f64 = 1.08;
/// Packets that a path loses while its queue is shorter than this are not lost because they are too many. If it loses more than this, that
/// may be a limit without a queue (a policer) all the same.
const SHORT_QUEUE: Micros = 50 * MILLISECOND;
const LOSSY_MAX: f64 = 0.4;
/// … and losses of the last seconds may be those of a queue that is short again.
const LOSSY_AFTER: Micros = 5 * SECOND;
/// Bytes of the headers below UDP's payload: IPv4 and UDP.
const HEADERS_LEN: usize = 28;
/// What a video costs on the path, per byte of RTP: the headers below, and the tag of SRTP, of packets of 1000 bytes.
pub(crate) const WIRE: f64 = 1.05;
/// An estimate that has moved by this fraction is worth another look at the allocation before it is due.
const MOVED: f64 = 0.03;
/// How often the allocation is looked at if the estimate does not move: rates of videos move, too.
const REVIEW: Micros = 500 * MILLISECOND;

/// What a packet is to the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Audio,
    Video,
    Repair,
    /// For a probe alone.
    Padding,
}

/// A probe that is being sent.
#[derive(Clone, Copy)]
struct Cluster {
    probe: Probe,
    began_at: Micros,
    bytes: u32,
    packets: u16,
}

/// See the module. What each packet needs comes first in memory, up to the first parts of [`Bwe`]: for 500 receivers what a packet touches has to stay in the cache.
#[repr(C, align(64))]
pub(crate) struct Sending {
    pub(crate) pacer: Pacer,
    pub(crate) queue: Queue,
    /// [`NEVER`] before.
    first_sent: Micros,
    /// Whether there is a cluster, or padding.
    is_probing: bool,
    /// What leaves now is of a probe, or padding, and no repair.
    pub(crate) is_padding: bool,
    /// A keyframe leaves, or waited and something has waited ever since.
    pub(crate) has_burst: bool,
    pub(crate) bwe: Bwe,
    /// How much padding leaves, while it helps the estimate out of losses.
    padding: Option<Pacer>,
    cluster: Option<Cluster>,
    pub(crate) allocator: Allocator,
    audio: Rate,
    /// Of that, what was sent before: earlier blocks of RED.
    earlier: Rate,
    repairs: Rate,
    /// Sound that leaves again.
    again: Rate,
    feedback_at: Option<Micros>,
    /// Whether a report or a REMB came.
    is_reported: bool,
    /// When packets last waited in a queue of the path.
    queued_at: Option<Micros>,
    /// While a queue of the path drains: what may leave, bit/s. Not less because less arrives of what leaves.
    drains: Option<u64>,
    reviewed: Option<(Micros, u64)>,
    /// What would leave if there were no limit, bit/s.
    wanted: u64,
    pub(crate) is_timer_set: bool,
}
const _: () = assert!(
    std::mem::offset_of!(Sending, bwe) + Bwe::SENT_LEN <= 128,
    "a packet to each of 500 receivers needs two lines of the cache of each, and no third one"
);

const NEVER: Micros = Micros::MAX;

impl Sending {
    /// Of a peer that is given no transport-wide sequence numbers.
    pub(crate) fn without_feedback(now: Micros) -> Self {
        let mut sending = Sending::new(now);
        sending.bwe.expect_no_feedback(now);
        sending
    }

    /// Of one that is.
    pub(crate) fn new(now: Micros) -> Self {
        let mut bwe = Bwe::new(START_BPS, MIN_BPS, HISTORY_BPS, now);
        bwe.set_max(now, MAX_BPS);
        Sending {
            bwe,
            pacer: Pacer::new(now),
            queue: Queue::new(),
            allocator: Allocator::default(),
            audio: Rate::default(),
            earlier: Rate::default(),
            repairs: Rate::default(),
            again: Rate::default(),
            first_sent: NEVER,
            is_probing: false,
            feedback_at: None,
            is_reported: false,
            queued_at: None,
            drains: None,
            cluster: None,
            padding: None,
            reviewed: None,
            wanted: 0,
            is_timer_set: false,
            has_burst: false,
            is_padding: false,
        }
    }

    /// A packet of so many bytes of UDP payload has left under a transport-wide number.
    #[inline]
    pub(crate) fn sent(&mut self, now: Micros, seq: u16, len: usize, kind: Kind) {
        let len = len + HEADERS_LEN;
        self.first_sent = self.first_sent.min(now);
        match kind {
            Kind::Audio => self.audio.add(len, now),
            Kind::Repair if !self.is_padding => self.repairs.add(len, now),
            Kind::Video | Kind::Repair | Kind::Padding => {}
        }
        let id = if self.is_probing { self.probe_sent(now, len) } else { None };
        self.bwe.sent(now, seq, len, id);
        self.pacer.sent(now, len);
    }

    /// A packet has left while there is a cluster, or padding. Of which probe it is.
    #[cold]
    fn probe_sent(&mut self, now: Micros, len: usize) -> Option<ProbeId> {
        let id = self.cluster.as_mut().map(|cluster| {
            cluster.bytes += len as u32;
            cluster.packets = cluster.packets.saturating_add(1);
            cluster.probe.id
        });
        if let Some(padding) = &mut self.padding {
            padding.sent(now, len);
        }
        let is_whole = |c: &mut Cluster| c.bytes >= c.probe.bytes_min && c.packets >= c.probe.packets_min;
        self.cluster.take_if(is_whole);
        self.is_probing = self.has_probe();
        id
    }

    fn has_probe(&self) -> bool {
        self.cluster.is_some() || self.padding.is_some()
    }

    /// So many bytes of a packet of sound were sent before.
    pub(crate) fn earlier_sent(&mut self, now: Micros, len: usize) {
        self.earlier.add(len, now);
    }

    /// A packet of sound of so many bytes of UDP payload has left again, under the number that it had.
    #[inline]
    pub(crate) fn sent_again(&mut self, now: Micros, len: usize) {
        self.again.add(len + HEADERS_LEN, now);
        self.pacer.sent(now, len + HEADERS_LEN);
    }

    /// Whether what the receiver lacks may leave again: while the pace is kept, or nearly so and no queue of the path is long, and else a
    /// part of the estimate. A receiver asks for all at once that a full queue has dropped, when that has just drained; of sound that is little.
    pub(crate) fn may_repair(&mut self, now: Micros, kind: Kind) -> bool {
        let most = (self.bwe.estimate() as f64 * REPAIRS_MAX) as u64;
        !self.has_feedback()
            || !self.pacer.must_wait(now)
            || self.bwe.facts().queue < SHORT_QUEUE && (kind == Kind::Audio || !self.pacer.is_ahead(now, REPAIRS_BURST))
            || u64::from(self.repairs.bps(now)) + u64::from(self.again.bps(now)) < most
    }

    /// Whether the path is known to carry less than what is wanted.
    pub(crate) fn is_short(&self) -> bool {
        self.has_feedback() && self.wanted > self.may_leave()
    }

    /// Takes the packet that has waited longest, if one may leave.
    pub(crate) fn take_waiting<T: Copy>(&mut self, now: Micros, queues: &mut Queues<T>) -> Option<T> {
        if self.pacer.must_wait(now) {
            return None;
        }
        let taken = queues.pop(&mut self.queue);
        self.has_burst &= !self.queue.is_empty();
        taken
    }

    /// Whether a packet of video has to wait.
    #[inline]
    pub(crate) fn must_wait(&mut self, now: Micros) -> bool {
        !self.queue.is_empty() || self.pacer.must_wait(now)
    }

    /// Feedback came that reports what was sent.
    pub(crate) fn feedback_came(&mut self, now: Micros) {
        self.feedback_at = Some(now);
        let Facts { queue, limited, acknowledged_bps, .. } = self.bwe.facts();
        if queue >= SHORT_QUEUE || limited == Limited::Delay {
            self.queued_at = Some(now);
        }
        let least = if self.drains.is_some() { SHORT_QUEUE } else { FULL_QUEUE };
        let is_long = queue >= least && now.saturating_sub(self.first_sent) < DRAIN_WITHIN;
        let drains = acknowledged_bps.filter(|_| is_long).map(|bps| (DRAIN * bps as f64) as u64).max(self.drains);
        let before = std::mem::replace(&mut self.drains, drains.filter(|_| is_long));
        if before.is_some() != self.drains.is_some() {
            if before.is_none() {
                self.bwe.is_filled(now);
            }
            self.look_again();
        }
    }

    /// What may leave, bit/s.
    fn may_leave(&self) -> u64 {
        let Facts { acknowledged_bps, full_bps, .. } = self.bwe.facts();
        let full = full_bps.map(|bps| (OVER_FULL * bps.max(acknowledged_bps.unwrap_or(0)) as f64) as u64);
        self.bwe.estimate().min(full.unwrap_or(u64::MAX)).min(self.drains.unwrap_or(u64::MAX))
    }

    /// A report came without transport-cc feedback: of so many packets that were sent so many did not arrive.
    pub(crate) fn reported(&mut self, now: Micros, sent: u64, lost: u64) {
        self.is_reported = true;
        if let Some(fraction_lost) = (256 * lost.min(sent)).checked_div(sent) {
            self.bwe.receiver_report(now, fraction_lost.min(255) as u8);
        }
    }

    /// The receiver's REMB, bit/s.
    pub(crate) fn remb(&mut self, now: Micros, bps: u64) {
        self.is_reported = true;
        self.bwe.remb(now, Some(bps));
    }

    /// Time has passed. A receiver that has had packets for long enough and has sent no transport-cc feedback sends none.
    pub(crate) fn tick(&mut self, now: Micros) {
        let is_silent = now.saturating_sub(self.first_sent) > FEEDBACK_AWAITED;
        if self.feedback_at.is_none() && is_silent {
            self.bwe.expect_no_feedback(now);
        }
        self.bwe.tick(now);
    }

    /// Whether what the receiver is sent has a limit. `None` is no: it has had packets, and sends no feedback, and neither its reports nor
    /// a REMB have told of one.
    pub(crate) fn budget(&self, now: Micros) -> Option<Budget> {
        if self.bwe.is_unlimited() {
            return None;
        }
        let beside = self.beside(now);
        let Facts { acknowledged_bps, queue, loss, .. } = self.bwe.facts();
        // What arrives through a full queue says nothing about what would arrive of less.
        let is_full = queue >= FULL_QUEUE && loss >= FULL_LOSS;
        let carried = acknowledged_bps.filter(|_| !is_full).unwrap_or(0);
        // Repairs are of video.
        let audio = self.audio.bps(now).into();
        let carried = self.has_feedback().then(|| carried.saturating_sub(audio));
        let is_calm = self.bwe.facts().limited == Limited::Nothing && self.drains.is_none();
        let is_lossy = self.is_lossy(now);
        Some(Budget { bps: self.may_leave().saturating_sub(beside), carried, is_calm, is_lossy })
    }

    /// Whether packets are lost and no queue is there.
    fn is_lossy(&self, now: Micros) -> bool {
        (FULL_LOSS..LOSSY_MAX).contains(&self.lost(now))
    }

    /// What is lost on the path while no queue was seen for a while, a fraction: of less, as much would be lost.
    pub(crate) fn lost(&self, now: Micros) -> f64 {
        let is_short = self.queued_at.is_none_or(|at| now.saturating_sub(at) >= LOSSY_AFTER);
        if is_short { self.bwe.facts().loss } else { 0.0 }
    }

    /// Whether sound may leave several times: the path carries it as often as that, and no queue of it grows. Of who sends no
    /// feedback nothing is known, and nothing limits it.
    pub(crate) fn has_room_for_copies(&self, now: Micros) -> bool {
        let audio = u64::from(self.audio.bps(now).saturating_sub(self.earlier.bps(now)));
        let has_room = (self.may_leave() >= COPIES_ROOM * audio || self.is_lossy(now))
            && self.bwe.facts().limited != Limited::Delay
            && self.drains.is_none();
        has_room || !self.has_feedback()
    }

    /// What leaves beside video, bit/s. Repairs of a burst of losses are not what will be repaired in the next seconds.
    fn beside(&self, now: Micros) -> u64 {
        let repairs = (self.bwe.estimate() as f64 * REPAIRS_MAX) as u64;
        let repairs = u64::from(self.repairs.bps(now)).min(repairs);
        u64::from(self.audio.bps(now)) + u64::from(self.again.bps(now)) + repairs
    }

    /// Whether the estimate stands on something: feedback, or a limit by reports or REMB.
    pub(crate) fn has_feedback(&self) -> bool {
        self.feedback_at.is_some() || self.is_reported && self.bwe.is_alone() && !self.bwe.is_unlimited()
    }

    /// Whether the allocation is to be looked at: the estimate has moved, or it is due.
    pub(crate) fn is_due(&self, now: Micros) -> bool {
        self.reviewed.is_none_or(|(at, bps)| {
            let moved = self.bwe.estimate().abs_diff(bps) as f64;
            now.saturating_sub(at) >= REVIEW || moved > MOVED * bps as f64
        })
    }

    /// It was looked at: what all videos take, and what they would take without a limit, bit/s.
    pub(crate) fn reviewed(&mut self, now: Micros, (taken, wanted): (u64, u64)) {
        self.reviewed = Some((now, self.bwe.estimate()));
        let bps = self.may_leave();
        let beside = self.beside(now);
        self.wanted = beside + wanted;
        self.bwe.set_demand(now, self.wanted);
        // What was allocated has to leave: it would only wait here. But while a queue of the path grows or drains, it has to.
        let facts = self.bwe.facts();
        let all = (beside + taken) as f64;
        let is_carried = facts.acknowledged_bps.is_some_and(|bps| all <= bps as f64 * PACE_CARRIED);
        let has_losses = facts.loss >= FULL_LOSS && facts.queue < SHORT_QUEUE;
        let burst = match (self.bwe.is_alone(), has_losses) {
            (true, _) => PACE_ALONE,
            (false, true) => PACE_LOSSY,
            (false, false) => PACE,
        };
        let pace = match facts.limited {
            _ if self.drains.is_some() => bps as f64,
            Limited::Delay => bps as f64,
            Limited::Nothing if self.wanted <= bps => bps as f64 * PACE_WIDE,
            _ if is_carried || self.is_lossy(now) => (bps as f64 * burst).max(all * PACE_TAKEN),
            _ => bps as f64 * burst,
        };
        self.pacer.set_rate(now, self.has_feedback().then_some(pace as u64));
        // An estimate that losses have lowered grows by what arrives without any.
        let padding = Some(self.bwe.padding()).filter(|padding| *padding > 0 && beside + wanted > bps);
        match (padding, &mut self.padding) {
            (None, of) => *of = None,
            (Some(padding), of) => of.get_or_insert_with(|| Pacer::new(now)).set_rate(now, Some(padding)),
        }
        if self.cluster.is_none()
            && let Some(probe) = self.bwe.probe(now)
        {
            self.cluster = Some(Cluster { probe, began_at: now, bytes: 0, packets: 0 });
        }
        self.is_probing = self.has_probe();
    }

    /// Looked at again as soon as may be.
    pub(crate) fn look_again(&mut self) {
        self.reviewed = None;
    }

    /// Bytes that the probe lacks at this moment, if one is being sent.
    pub(crate) fn probe_lacks(&self, now: Micros) -> Option<u64> {
        let Cluster { probe, began_at, bytes, .. } = self.cluster?;
        let due = probe.bps * (now.saturating_sub(began_at) + crate::timer::BUCKET) / (8 * SECOND);
        Some(due.saturating_sub(bytes.into()))
    }

    /// Whether a packet of padding may leave.
    pub(crate) fn may_pad(&mut self, now: Micros) -> bool {
        self.queue.is_empty() && self.padding.as_mut().is_some_and(|padding| !padding.must_wait(now))
    }

    /// Whether something is to be sent later: packets that wait, the rest of a probe, or padding.
    pub(crate) fn has_more(&self) -> bool {
        !self.queue.is_empty() || self.has_probe()
    }

    /// What is known of the path.
    pub(crate) fn tally(&self, peer: PeerId, paused: u64) -> PeerTally {
        let Facts { acknowledged_bps, loss, probes, .. } = self.bwe.facts();
        PeerTally {
            peer,
            estimate_bps: self.has_feedback().then(|| self.bwe.estimate()),
            acknowledged_bps,
            wanted_bps: self.wanted,
            loss_65536: (loss * 65_536.0) as u64,
            paused,
            probes,
        }
    }

    /// There is nothing to send a probe or padding with.
    pub(crate) fn give_up_probe(&mut self) {
        (self.cluster, self.padding, self.is_probing) = (None, None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twcc::TransportCc;

    /// 100 ms of a path of 200 kb/s, of which packets of 250 bytes come out: all of them are reported, after waiting for so long.
    fn report(sending: &mut Sending, (at, seq): (Micros, u16), waited: Micros) {
        let packets = 10;
        (0..packets).for_each(|n| {
            sending.sent(at + u64::from(n) * 10 * MILLISECOND, seq + n, 250 - HEADERS_LEN, Kind::Video);
        });
        let now = at + 150 * MILLISECOND + waited;
        let mut feedback = vec![0, 0, 0, 1, 0, 0, 0, 2];
        feedback.extend(seq.to_be_bytes());
        feedback.extend(packets.to_be_bytes());
        let arrived = at + waited;
        feedback.extend(&((arrived / 64_000) as u32).to_be_bytes()[1..]);
        feedback.push((seq / packets) as u8);
        feedback.extend((0x2000 | packets).to_be_bytes());
        feedback.push((arrived % 64_000 / 250) as u8);
        feedback.extend([40; 9]);
        let matched = sending.bwe.feedback(now, &TransportCc::parse(&feedback).expect("well formed"));
        assert_eq!(matched.found, u32::from(packets));
        sending.feedback_came(now);
    }

    #[test]
    fn a_queue_of_the_first_seconds_drains_and_one_that_comes_later_may_be_that_of_others() {
        for (from, drains) in [(1, true), (12, false)] {
            let mut sending = Sending::new(SECOND);
            let (mut leaves, mut seq) = (Vec::new(), 0);
            for tenth in 10..160 {
                let is_queued = (10 * from + 10..10 * from + 20).contains(&tenth);
                report(&mut sending, (tenth * SECOND / 10, seq), if is_queued { 150 * MILLISECOND } else { 0 });
                seq += 10;
                if is_queued {
                    let arrives = sending.bwe.facts().acknowledged_bps.expect("it is reported") as f64;
                    leaves.push(sending.drains.is_some() && sending.may_leave() as f64 <= DRAIN * arrives);
                }
            }
            assert_eq!(leaves, [drains; 10], "from {from} s on");
            assert!(sending.drains.is_none() && sending.may_leave() == sending.bwe.estimate());
        }
    }

    #[test]
    fn sound_leaves_several_times_only_where_the_path_has_room() {
        let mut sending = Sending::new(0);
        assert!(sending.has_room_for_copies(0));
        // 80 kb/s of sound on the first estimate, then 240.
        for (packets, has_room) in [(1, true), (3, false)] {
            let begin = SECOND * (1 + packets);
            for at in (begin..begin + 2 * SECOND).step_by(20_000) {
                (0..packets).for_each(|_| sending.sent(at, 0, 172, Kind::Audio));
            }
            assert!(sending.has_room_for_copies(begin + 2 * SECOND), "nothing is known of the path");
            sending.feedback_came(begin + 2 * SECOND);
            assert_eq!(sending.has_room_for_copies(begin + 2 * SECOND), has_room, "{packets}");
            sending.feedback_at = None;
        }
    }
}
