//! What a load peer receives, counted by the headers, which SRTP leaves in the clear (RFC 3711 §3.1).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::rtcp::ReportBlock;
use client::sdp::{AnswerSection, TRANSPORT_CC};
use proto::histogram::Histogram;
use proto::signal::Kind;

use super::encodings::ENCODINGS_MAX;

/// Packets that a slot remembers as missing. More at once is an outage: nothing would repair it in time.
const MISSING_MAX: usize = 512;
/// A jump of sequence numbers that is no loss but another stream.
const JUMP_MAX: u64 = 3000;
/// How long a hole may be mere reordering, and how long until it is asked for again.
const NACK_DELAY: Duration = Duration::from_millis(10);
const NACK_INTERVAL: Duration = Duration::from_millis(60);
/// How often it is asked for (libwebrtc: 10).
const NACK_TRIES_MAX: u8 = 10;

/// What was counted, by one peer or by all. Only grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// RTP packets that were sent.
    pub(super) sent: u64,
    /// RTP packets that came, with repairs.
    pub(super) received: u64,
    /// Their bytes, as UDP payload.
    pub(super) bytes: u64,
    /// Packets that should have come: the sequence numbers from each stream's first to its highest.
    pub(super) expected: u64,
    /// Of these, how many came by themselves.
    pub(super) arrived: u64,
    /// And how many came as retransmissions: video alone has any.
    pub(super) repaired: u64,
    /// Of `expected` and of `arrived`, what is video.
    pub(super) expected_video: u64,
    /// See `expected_video`.
    pub(super) arrived_video: u64,
    /// Retransmissions that came.
    pub(super) rtx: u64,
    /// Packets that were asked for.
    pub(super) nacked: u64,
    /// Packets that the generator threw away, to make loss, when sending and when receiving.
    pub(super) thrown: u64,
    /// Packets that were authenticated and compared to the byte.
    pub(super) verified: u64,
    /// Of these, those that were not as they were sent.
    pub(super) wrong: u64,
    /// Streams that brought at least one packet.
    pub(super) streams: u64,
    /// Verified packets of video, by the encoding that the receiver wants, and that of the packet.
    pub(super) by_encoding: [[u64; ENCODINGS_MAX]; ENCODINGS_MAX],
    /// From the sender's call to the kernel's receive stamp at the receiver, microseconds, of the verified packets.
    pub(super) latency: Histogram,
    /// How late the generator sent, microseconds: its own fault.
    pub(super) lateness: Histogram,
    /// Peers whose consent has ended (RFC 7675).
    pub(super) expired: u64,
    /// CPU time of the threads that carry the peers.
    pub(super) cpu: Duration,
    /// Datagrams that the kernel dropped because a peer's socket was full: the generator was too slow.
    pub(super) overflowed: u64,
}

impl Totals {
    /// Adds what another one counted.
    pub(super) fn add(&mut self, other: &Totals) {
        self.add_numbers(other);
        self.latency.add(&other.latency);
        self.lateness.add(&other.lateness);
        self.cpu += other.cpu;
    }

    /// The same without times, whose histograms take long to add.
    pub(super) fn add_numbers(&mut self, other: &Totals) {
        for (ours, theirs) in self.numbers_mut().into_iter().zip(other.numbers()) {
            *ours += theirs;
        }
        for (ours, theirs) in self.by_encoding.as_flattened_mut().iter_mut().zip(other.by_encoding.as_flattened()) {
            *ours += theirs;
        }
    }

    /// What was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Totals) -> Totals {
        let mut totals = self.clone();
        for (now, then) in totals.numbers_mut().into_iter().zip(earlier.numbers()) {
            *now = now.saturating_sub(then);
        }
        for (now, then) in totals.by_encoding.as_flattened_mut().iter_mut().zip(earlier.by_encoding.as_flattened()) {
            *now = now.saturating_sub(*then);
        }
        totals.latency = self.latency.since(&earlier.latency);
        totals.lateness = self.lateness.since(&earlier.lateness);
        totals.cpu = self.cpu.saturating_sub(earlier.cpu);
        totals
    }

    fn numbers(&self) -> [u64; 16] {
        [
            self.sent,
            self.received,
            self.bytes,
            self.expected,
            self.arrived,
            self.repaired,
            self.expected_video,
            self.arrived_video,
            self.rtx,
            self.nacked,
            self.thrown,
            self.verified,
            self.wrong,
            self.streams,
            self.expired,
            self.overflowed,
        ]
    }

    fn numbers_mut(&mut self) -> [&mut u64; 16] {
        [
            &mut self.sent,
            &mut self.received,
            &mut self.bytes,
            &mut self.expected,
            &mut self.arrived,
            &mut self.repaired,
            &mut self.expected_video,
            &mut self.arrived_video,
            &mut self.rtx,
            &mut self.nacked,
            &mut self.thrown,
            &mut self.verified,
            &mut self.wrong,
            &mut self.streams,
            &mut self.expired,
            &mut self.overflowed,
        ]
    }

    /// Packets that never came, in percent of those that should have.
    pub(super) fn loss_percent(&self) -> f64 {
        percent_lost(self.expected, self.arrived + self.repaired)
    }

    /// The same of video and of audio.
    pub(super) fn loss_percent_by_kind(&self) -> (f64, f64) {
        let video = percent_lost(self.expected_video, self.arrived_video + self.repaired);
        (video, percent_lost(self.expected - self.expected_video, self.arrived - self.arrived_video))
    }

    /// A packet of video of this encoding was verified, in a slot that wants that one.
    pub(super) fn came_as(&mut self, wanted: usize, encoding: usize) {
        if let Some(count) = self.by_encoding.get_mut(wanted).and_then(|of| of.get_mut(encoding)) {
            *count += 1;
        }
    }

    fn expect(&mut self, packets: u64, is_video: bool) {
        self.expected += packets;
        self.expected_video += if is_video { packets } else { 0 };
    }

    fn arrive(&mut self, is_video: bool) {
        self.arrived += 1;
        self.arrived_video += u64::from(is_video);
    }
}

fn percent_lost(expected: u64, came: u64) -> f64 {
    if expected == 0 { 0.0 } else { expected.saturating_sub(came) as f64 * 100.0 / expected as f64 }
}

struct Missing {
    since: Instant,
    asked: Option<Instant>,
    tries: u8,
}

/// One receive slot.
pub(super) struct Slot {
    pub(super) ssrc: u32,
    pub(super) rtx_ssrc: Option<u32>,
    pub(super) transport_extension: Option<u8>,
    /// Of slots of video, which one in the order of the offer.
    pub(super) video: Option<usize>,
    is_video: bool,
    is_repaired: bool,
    /// Extended sequence numbers of the first and the highest packet.
    first: Option<u64>,
    highest: u64,
    arrived: u64,
    /// As they were at the last report.
    reported: (u64, u64),
    missing: BTreeMap<u64, Missing>,
}

impl Slot {
    /// The slot that an answered section describes; None if the server will not send in it.
    pub(super) fn new(kind: Kind, answer: &AnswerSection) -> Option<Slot> {
        let ssrc = answer.ssrc.filter(|_| !answer.is_rejected && answer.direction != "inactive")?;
        Some(Slot {
            ssrc,
            rtx_ssrc: answer.rtx_ssrc,
            transport_extension: answer.extensions.get(TRANSPORT_CC).copied(),
            video: None,
            is_video: kind == Kind::Video,
            is_repaired: kind == Kind::Video && answer.rtx_ssrc.is_some(),
            first: None,
            highest: 0,
            arrived: 0,
            reported: (0, 0),
            missing: BTreeMap::new(),
        })
    }

    /// Counts a packet. Whether a hole was seen that can be asked for.
    pub(super) fn receive(&mut self, now: Instant, seq: u16, totals: &mut Totals) -> bool {
        let index = match self.first {
            None => {
                // In the middle of all numbers, so that an older one is no underflow.
                let index = (1 << 32) | u64::from(seq);
                (self.first, self.highest) = (Some(index), index);
                totals.streams += 1;
                totals.expect(1, self.is_video);
                totals.arrive(self.is_video);
                self.arrived += 1;
                return false;
            }
            Some(_) => nearest(self.highest, seq),
        };
        if index <= self.highest {
            // Late, or what was counted already.
            if self.missing.remove(&index).is_some() || !self.is_repaired {
                totals.arrive(self.is_video);
                self.arrived += 1;
            }
            return false;
        }
        let gap = index - self.highest - 1;
        let holes = if gap > JUMP_MAX { 0 } else { gap };
        if gap > JUMP_MAX {
            self.first = Some(index - self.arrived);
        }
        totals.expect(holes + 1, self.is_video);
        totals.arrive(self.is_video);
        self.arrived += 1;
        if self.is_repaired {
            let room = MISSING_MAX.saturating_sub(self.missing.len()) as u64;
            let missing = index - holes.min(room)..index;
            self.missing.extend(missing.map(|index| (index, Missing { since: now, asked: None, tries: 0 })));
        }
        self.highest = index;
        holes > 0 && self.is_repaired
    }

    /// A retransmission of this packet came.
    pub(super) fn repair(&mut self, seq: u16, totals: &mut Totals) {
        if self.missing.remove(&nearest(self.highest, seq)).is_some() {
            totals.repaired += 1;
        }
    }

    /// Sequence numbers to ask for now, ascending, and whether one was given up.
    pub(super) fn poll_missing(&mut self, now: Instant) -> (Vec<u16>, bool) {
        let before = self.missing.len();
        self.missing.retain(|_, missing| missing.tries < NACK_TRIES_MAX);
        let is_due = |missing: &Missing| match missing.asked {
            None => now.duration_since(missing.since) >= NACK_DELAY,
            Some(asked) => now.duration_since(asked) >= NACK_INTERVAL,
        };
        let mut wanted = Vec::new();
        for (index, missing) in self.missing.iter_mut().filter(|(_, missing)| is_due(missing)) {
            missing.asked = Some(now);
            missing.tries += 1;
            wanted.push(*index as u16);
        }
        (wanted, self.missing.len() < before)
    }

    /// Whether something is missing that may still come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.missing.is_empty()
    }

    /// What a receiver report says of it (RFC 3550 §6.4.1); None before the first packet.
    pub(super) fn report_block(&mut self) -> Option<ReportBlock> {
        let expected = self.highest - self.first? + 1;
        let lost = expected.saturating_sub(self.arrived);
        let (expected_before, lost_before) = std::mem::replace(&mut self.reported, (expected, lost));
        let interval = expected.saturating_sub(expected_before).max(1);
        Some(ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: (lost.saturating_sub(lost_before) * 256 / interval).min(255) as u8,
            total_lost: lost.min(0x7F_FFFF) as u32,
            highest_seq: self.highest as u32,
            ..ReportBlock::default()
        })
    }
}

/// The extended sequence number that is nearest to `highest`.
fn nearest(highest: u64, seq: u16) -> u64 {
    highest.saturating_add_signed(i64::from(seq.wrapping_sub(highest as u16) as i16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(kind: Kind) -> Slot {
        let answer = AnswerSection { ssrc: Some(7), rtx_ssrc: Some(8), ..AnswerSection::default() };
        Slot::new(kind, &answer).unwrap()
    }

    #[test]
    fn holes_are_seen_asked_for_and_filled() {
        let (mut slot, mut totals, now) = (slot(Kind::Video), Totals::default(), Instant::now());
        assert!(!slot.receive(now, 65_534, &mut totals));
        assert!(!slot.receive(now, 65_535, &mut totals));
        assert!(slot.receive(now, 3, &mut totals));
        assert_eq!((totals.expected, totals.arrived, totals.streams), (6, 3, 1));
        assert_eq!(slot.poll_missing(now).0, [0; 0]);
        let later = now + NACK_DELAY;
        assert_eq!(slot.poll_missing(later), (vec![0, 1, 2], false));
        slot.repair(1, &mut totals);
        slot.receive(later, 2, &mut totals);
        slot.receive(later, 2, &mut totals);
        assert_eq!((totals.arrived, totals.repaired), (4, 1));
        assert_eq!(totals.loss_percent(), 100.0 / 6.0);
        let mut at = later;
        for _ in 1..NACK_TRIES_MAX {
            at += NACK_INTERVAL;
            assert_eq!(slot.poll_missing(at), (vec![0], false));
        }
        assert_eq!(slot.poll_missing(at + NACK_INTERVAL), (vec![], true));
        assert!(!slot.is_waiting());
        let report = slot.report_block().unwrap();
        assert_eq!((report.ssrc, report.total_lost, report.highest_seq as u16), (7, 2, 3));
    }

    #[test]
    fn a_jump_is_another_stream_and_no_loss() {
        let (mut slot, mut totals, now) = (slot(Kind::Audio), Totals::default(), Instant::now());
        for seq in [1, 2, 20_000, 20_001] {
            slot.receive(now, seq, &mut totals);
        }
        assert_eq!((totals.expected, totals.arrived, totals.loss_percent()), (4, 4, 0.0));
    }
}
