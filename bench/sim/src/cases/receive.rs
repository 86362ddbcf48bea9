//! The receiving side of a client: transport-cc feedback, NACK, keyframe requests and reports as libwebrtc sends them, and a decoder
//! that knows which frame refers to which.
//!
//! A frame is decoded as soon as it is complete and the frame that it refers to was decoded, without a jitter buffer, unless the server says that
//! pictures are to be held back (playout-delay): then when that time is over. One that would leave out an older one which is missing waits, if
//! something was ever asked for, at least as long as libwebrtc waits for a repair, and makes what is older and incomplete useless. A freeze is, as in the W3C's webrtc-stats, an interval between decoded frames that is longer than three
//! times the mean, and than the mean and 150 ms.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dataplane::Micros;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtp::packet::Packet;

use super::content::Mark;
use crate::laws::unwrap;

const MILLISECOND: Micros = 1000;
const SECOND: Micros = 1_000_000;
/// libwebrtc `kMaxNackRetries`, and the longest list.
const NACK_TRIES_MAX: u32 = 10;
const NACK_LIST_MAX: usize = 1000;
/// Without a decoded frame for so long, a keyframe is asked for (libwebrtc `max_wait_for_frame`), and before the first one sooner
/// (`max_wait_for_keyframe`).
const FRAME_WAIT: Micros = 3 * SECOND;
const KEYFRAME_WAIT: Micros = 200 * MILLISECOND;
const KEYFRAME_ASKED_EACH: Micros = 500 * MILLISECOND;
/// Sound that comes later than this after it has left the server is too late to be played.
const AUDIO_WAIT: Micros = 300 * MILLISECOND;
/// NACKs from which on libwebrtc has frames wait for a repair (`JitterEstimator`, `kNackLimit`), and how long: so much of a round trip
/// (`RttMultExperiment`, in tenths) and the time for decoding and rendering.
const NACKS_MIN: u32 = 3;
const RTT_TENTHS: u64 = 9;
const RENDER: Micros = 15 * MILLISECOND;
/// A frame that comes so far from when it should is of another clock.
const CLOCK_FAR: Micros = SECOND;
/// By then a frame was decoded, or is never.
const FATE_KNOWN_AFTER: Micros = 2 * SECOND;
/// Frames whose mean interval a freeze is measured by.
const MEAN_OF: usize = 30;
/// Statuses of one feedback at most.
const STATUSES_MAX: usize = 300;

/// What a packet is that leaves the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Of sound, also if it leaves again.
    Sound,
    /// Of video.
    Video,
    /// RTX: a repair, a probe, or padding.
    Repair,
}

/// What is asked for: a gap as soon as it is found, and again at the next turn after a round trip (libwebrtc `NackRequester`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Nacks {
    /// What was found missing only now.
    New,
    /// What is due.
    All,
}

/// A packet that is missing.
struct Missing {
    tries: u32,
    next_at: Micros,
}

/// A frame, or a packet of sound, that left the server.
#[derive(Clone, Copy)]
struct Left {
    at: Micros,
    is_played: bool,
}

#[derive(Default)]
struct Frame {
    /// When it should have come, by its timestamp and the frame that was earliest by that.
    due: Micros,
    index: u64,
    timestamp: u32,
    got: BTreeSet<u8>,
    count: u8,
    refers_to: u32,
    is_keyframe: bool,
}

/// One slot.
pub struct Slot {
    is_video: bool,
    highest: Option<u64>,
    received: u64,
    reported: (u64, u64),
    lost_total: u64,
    missing: BTreeMap<u64, Missing>,
    needs_keyframe: bool,
    keyframe_asked_at: Option<Micros>,
    first_at: Option<Micros>,
    /// By source, encoding and number.
    frames: BTreeMap<(u16, u8, u32), Frame>,
    decoded: BTreeSet<(u16, u8, u32)>,
    decoded_index: u64,
    /// How long pictures are held back, as the server says, and how often something was asked for.
    held: Micros,
    asked: u32,
    /// Timestamp and time of the frame that came earliest by its timestamp.
    earliest: Option<(u32, Micros)>,
    /// The last decoded frame, and the intervals before it.
    decoded_at: Option<Micros>,
    intervals: VecDeque<Micros>,
    sender_report: Option<(u32, Micros)>,
    /// What left the server: by timestamp of video, by sequence number of sound.
    left: BTreeMap<u32, Left>,
    left_highest: Option<u64>,
    /// What becomes of it.
    pub score: SlotScore,
}

/// What one slot was shown.
#[derive(Clone, Default, Debug)]
pub struct SlotScore {
    /// When the first frame was decoded.
    pub first_frame_at: Option<Micros>,
    /// Frames, or packets of sound, that left the server for it.
    pub sent: u64,
    /// … and were decoded, or came in time.
    pub played: u64,
    /// Time in freezes, the longest of them, and time since the first frame.
    pub frozen: Micros,
    /// The longest freeze.
    pub frozen_longest: Micros,
    /// Time from the first frame on.
    pub shown: Micros,
    /// Times at which the encoding changed.
    pub switches: u64,
    encoding: Option<(u16, u8)>,
}

impl Slot {
    fn new(is_video: bool) -> Slot {
        Slot {
            is_video,
            highest: None,
            received: 0,
            reported: (0, 0),
            lost_total: 0,
            missing: BTreeMap::new(),
            needs_keyframe: false,
            keyframe_asked_at: None,
            first_at: None,
            frames: BTreeMap::new(),
            decoded: BTreeSet::new(),
            decoded_index: 0,
            held: 0,
            asked: 0,
            earliest: None,
            decoded_at: None,
            intervals: VecDeque::new(),
            sender_report: None,
            left: BTreeMap::new(),
            left_highest: None,
            score: SlotScore::default(),
        }
    }

    /// Whether it is of video.
    pub fn is_video(&self) -> bool {
        self.is_video
    }

    fn leaves(&mut self, now: Micros, seq: u16, timestamp: u32) {
        let index = unwrap(seq, self.left_highest);
        self.left_highest = self.left_highest.max(Some(index));
        let key = if self.is_video { timestamp } else { index as u32 };
        self.left.entry(key).or_insert(Left { at: now, is_played: false });
        self.forget_left(now);
    }

    /// What left so long ago that its fate is known is counted.
    fn forget_left(&mut self, now: Micros) {
        let SlotScore { sent, played, .. } = &mut self.score;
        self.left.retain(|_, left| {
            let is_open = left.at + FATE_KNOWN_AFTER > now;
            (*sent, *played) = (*sent + u64::from(!is_open), *played + u64::from(!is_open && left.is_played));
            is_open
        });
    }

    /// A packet of media, or one that an RTX packet brought.
    fn arrives(&mut self, now: Micros, rtt: Micros, seq: u16, timestamp: u32, payload: &[u8]) {
        let index = unwrap(seq, self.highest);
        self.first_at.get_or_insert(now);
        if let Some(highest) = self.highest
            && index > highest + 1
        {
            for lost in highest + 1..index {
                self.missing.insert(lost, Missing { tries: 0, next_at: now });
            }
        }
        let was_missing = self.missing.remove(&index).is_some();
        if self.highest.is_some_and(|highest| index <= highest) && !was_missing {
            return;
        }
        self.received += 1;
        self.highest = self.highest.max(Some(index));
        if !self.is_video {
            let left = self.left.get_mut(&(index as u32));
            left.into_iter().for_each(|left| left.is_played = now <= left.at + rtt / 2 + AUDIO_WAIT);
            return;
        }
        let Some(mark) = Mark::read(payload) else { return };
        let due = self.due(now, timestamp);
        let frame = self.frames.entry((mark.publisher, mark.encoding, mark.frame)).or_default();
        if frame.got.is_empty() {
            (frame.due, frame.index, frame.timestamp, frame.count) = (due, index, timestamp, mark.count);
            (frame.refers_to, frame.is_keyframe) = (mark.refers_to, mark.is_keyframe());
        }
        frame.index = frame.index.min(index);
        frame.got.insert(mark.n);
        self.decode(now, rtt);
    }

    /// When the first packet with a timestamp should have come, if it comes now.
    fn due(&mut self, now: Micros, timestamp: u32) -> Micros {
        let (of, at) = *self.earliest.get_or_insert((timestamp, now));
        let since = i64::from(timestamp.wrapping_sub(of) as i32) * 1000 / 90;
        let due = at.saturating_add_signed(since);
        let is_far = now.abs_diff(due) > CLOCK_FAR;
        if due < now && !is_far {
            return due;
        }
        self.earliest = Some((timestamp, now));
        now
    }

    fn decode(&mut self, now: Micros, rtt: Micros) {
        let can = |(of, frame): &(&(u16, u8, u32), &Frame)| {
            let refers_to = (of.0, of.1, frame.refers_to);
            frame.got.len() == usize::from(frame.count) && (frame.is_keyframe || self.decoded.contains(&refers_to))
        };
        let next = self.frames.iter().filter(can).min_by_key(|(_, frame)| frame.index).map(|(of, _)| *of);
        let Some(of) = next else { return };
        let repair = if self.asked < NACKS_MIN { 0 } else { rtt * RTT_TENTHS / 10 + RENDER };
        let frame = &self.frames[&of];
        let is_gap = self.missing.first_key_value().is_some_and(|(missing, _)| *missing < frame.index);
        if now + RENDER < frame.due + if is_gap { repair.max(self.held) } else { self.held } {
            return;
        }
        let frame = self.frames.remove(&of).expect("it was found");
        let index = frame.index;
        self.frames.retain(|_, other| other.index > index);
        self.missing.retain(|missing, _| *missing > index);
        if index > self.decoded_index {
            self.decoded_index = index;
            if frame.is_keyframe {
                self.decoded.clear();
                self.needs_keyframe = false;
            }
            self.decoded.insert(of);
            if self.decoded.len() > 200 {
                self.decoded.pop_first();
            }
            self.shown(now, frame.timestamp);
            let encoding = Some((of.0, of.1));
            self.score.switches += u64::from(self.score.encoding.is_some() && self.score.encoding != encoding);
            self.score.encoding = encoding;
        }
        self.decode(now, rtt);
    }

    fn shown(&mut self, now: Micros, timestamp: u32) {
        self.score.first_frame_at.get_or_insert(now);
        self.left.get_mut(&timestamp).into_iter().for_each(|left| left.is_played = true);
        self.end_interval(now);
        self.decoded_at = Some(now);
    }

    /// The interval since the last frame is over, or is looked at.
    fn end_interval(&mut self, now: Micros) {
        let Some(before) = self.decoded_at else { return };
        let interval = now - before;
        let mean = self.intervals.iter().sum::<Micros>() / self.intervals.len().max(1) as u64;
        if interval > (3 * mean).max(mean + 150 * MILLISECOND) {
            self.score.frozen += interval;
            self.score.frozen_longest = self.score.frozen_longest.max(interval);
        }
        self.score.shown += interval;
        self.intervals.push_back(interval);
        if self.intervals.len() > MEAN_OF {
            self.intervals.pop_front();
        }
    }

    /// Sequence numbers to ask for now: of those that were found missing only now, or of all.
    fn nacks(&mut self, now: Micros, rtt: Micros, of: Nacks) -> Vec<u16> {
        let given_up = self.missing.len();
        self.missing.retain(|_, missing| missing.tries < NACK_TRIES_MAX);
        self.needs_keyframe |= self.is_video && (given_up > self.missing.len() || given_up > NACK_LIST_MAX);
        while self.missing.len() > NACK_LIST_MAX {
            self.missing.pop_first();
        }
        let due = self
            .missing
            .iter_mut()
            .filter(|(_, missing)| missing.next_at <= now && (of == Nacks::All || missing.tries == 0));
        let due = due.map(|(index, missing)| {
            (missing.tries, missing.next_at) = (missing.tries + 1, now + rtt.max(20 * MILLISECOND));
            *index as u16
        });
        let seqs: Vec<u16> = due.collect();
        self.asked += seqs.len() as u32;
        seqs
    }

    fn asks_for_keyframe(&mut self, now: Micros) -> bool {
        let waits = match (self.decoded_at, self.first_at) {
            (Some(at), _) => now > at + FRAME_WAIT && !self.frames.is_empty(),
            (None, Some(first)) => now > first + KEYFRAME_WAIT,
            (None, None) => false,
        };
        let is_due = self.keyframe_asked_at.is_none_or(|at| now >= at + KEYFRAME_ASKED_EACH);
        let asks = self.is_video && (waits || self.needs_keyframe) && is_due;
        if asks {
            self.keyframe_asked_at = Some(now);
        }
        asks
    }

    /// RFC 3550 §6.4.1.
    fn report(&mut self, now: Micros, ssrc: u32) -> Option<ReceptionReport> {
        let highest = self.highest?;
        let expected = highest - self.reported.0.min(highest);
        let received = self.received - self.reported.1;
        let lost = if self.reported.0 == 0 { 0 } else { expected.saturating_sub(received) };
        self.lost_total += lost;
        self.reported = (highest, self.received);
        let (last_sender_report, delay) = self
            .sender_report
            .map_or((0, 0), |(middle, at)| (middle, ((now - at) as u128 * 65_536 / 1_000_000) as u32));
        Some(ReceptionReport {
            ssrc,
            fraction_lost: (lost * 256).checked_div(expected).unwrap_or(0).min(255) as u8,
            total_lost: self.lost_total as u32,
            last_sequence_number: highest as u32,
            jitter: 0,
            last_sender_report,
            delay,
        })
    }
}

/// See the module.
#[derive(Default)]
pub struct Receiver {
    /// By SSRC.
    slots: BTreeMap<u32, Slot>,
    /// By SSRC of repairs.
    repairs: BTreeMap<u32, u32>,
    /// Round trip of the path, as it was measured.
    rtt: Micros,
    seq: Option<u64>,
    /// Packets that are not reported yet, and the number after the last one that is.
    arrived: BTreeMap<u64, Micros>,
    reported: u64,
    feedback_count: u8,
    media_ssrc: u32,
}

impl Receiver {
    /// Slots by SSRC, with the SSRC of repairs and whether it is of video.
    pub fn new(rtt: Micros, slots: impl IntoIterator<Item = (u32, Option<u32>, bool)>) -> Receiver {
        let mut receiver = Receiver { rtt, ..Receiver::default() };
        for (ssrc, repair, is_video) in slots {
            receiver.slots.insert(ssrc, Slot::new(is_video));
            receiver.repairs.extend(repair.map(|repair| (repair, ssrc)));
        }
        receiver
    }

    /// The slots.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values()
    }

    /// A packet leaves the server, and may be lost. What it is.
    pub fn leaves(&mut self, now: Micros, ssrc: u32, seq: u16, timestamp: u32) -> Kind {
        let Some(slot) = self.slots.get_mut(&ssrc) else { return Kind::Repair };
        slot.leaves(now, seq, timestamp);
        if slot.is_video { Kind::Video } else { Kind::Sound }
    }

    /// It arrives.
    pub fn arrives(&mut self, now: Micros, packet: &Packet, transport_cc: u16) {
        let seq = unwrap(transport_cc, self.seq);
        self.seq = self.seq.max(Some(seq));
        self.arrived.insert(seq, now);
        let header = &packet.header;
        self.media_ssrc = header.ssrc;
        if let Some(slot) = self.slots.get_mut(&header.ssrc) {
            slot.arrives(now, self.rtt, header.sequence_number, header.timestamp, &packet.payload);
        } else if let Some(slot) = self.repairs.get(&header.ssrc).and_then(|ssrc| self.slots.get_mut(ssrc))
            && let Some((seq, payload)) = packet.payload.split_first_chunk::<2>()
        {
            slot.arrives(now, self.rtt, u16::from_be_bytes(*seq), header.timestamp, payload);
        }
    }

    /// A packet of media says how long its slot's pictures are to be held back: the least and the most in units of 10 ms, 12 bits each.
    pub fn holds(&mut self, ssrc: u32, value: [u8; 3]) {
        if let Some(slot) = self.slots.get_mut(&ssrc) {
            slot.held = (Micros::from(value[0]) << 4 | Micros::from(value[1]) >> 4) * 10 * MILLISECOND;
        }
    }

    /// Time passes: what has waited is decoded.
    pub fn step(&mut self, now: Micros) {
        let rtt = self.rtt;
        self.slots.values_mut().filter(|slot| slot.is_video).for_each(|slot| slot.decode(now, rtt));
    }

    /// A sender report of the server.
    pub fn reported(&mut self, now: Micros, ssrc: u32, ntp_time: u64) {
        if let Some(slot) = self.slots.get_mut(&ssrc) {
            slot.sender_report = Some(((ntp_time >> 16) as u32, now));
        }
    }

    /// Transport-cc feedback of what has arrived since the last, as RTCP (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
    pub fn feedback(&mut self) -> Option<Vec<u8>> {
        let (&first, &first_at) = self.arrived.first_key_value()?;
        let base = if self.reported == 0 { first } else { first.min(self.reported) };
        let highest = *self.arrived.last_key_value().expect("there is one").0;
        let end = (highest + 1).min(base + STATUSES_MAX as u64);
        let reference = first_at / 64_000;
        let (mut at, mut symbols, mut deltas) = (reference * 64_000, Vec::new(), Vec::new());
        for seq in base..end {
            let Some(arrived) = self.arrived.remove(&seq) else {
                symbols.push(0);
                continue;
            };
            let ticks = (arrived as i64 - at as i64).div_euclid(250);
            at = at.wrapping_add_signed(ticks * 250);
            match u8::try_from(ticks) {
                Ok(ticks) => {
                    symbols.push(1);
                    deltas.push(ticks);
                }
                Err(_) => {
                    symbols.push(2);
                    deltas.extend(i16::try_from(ticks).unwrap_or(i16::MAX).to_be_bytes());
                }
            }
        }
        self.reported = self.reported.max(end);
        let mut bytes = vec![0x8f, 205, 0, 0, 0, 0, 0, 1];
        bytes.extend(self.media_ssrc.to_be_bytes());
        bytes.extend((base as u16).to_be_bytes());
        bytes.extend((symbols.len() as u16).to_be_bytes());
        bytes.extend(((reference as u32) << 8 | u32::from(self.feedback_count)).to_be_bytes());
        self.feedback_count = self.feedback_count.wrapping_add(1);
        for seven in symbols.chunks(7) {
            let bits: u16 = seven.iter().enumerate().map(|(n, symbol)| symbol << (12 - 2 * n)).sum();
            bytes.extend((0xc000 | bits).to_be_bytes());
        }
        bytes.extend(deltas);
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        if padding > 0 {
            bytes[0] |= 0x20;
            bytes.resize(bytes.len() + padding, 0);
            *bytes.last_mut().expect("it is padded") = padding as u8;
        }
        let words = (bytes.len() / 4 - 1) as u16;
        bytes[2..4].copy_from_slice(&words.to_be_bytes());
        Some(bytes)
    }

    /// Whether there is something to report.
    pub fn has_unreported(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// What to ask for now: sequence numbers of each slot.
    pub fn nacks(&mut self, now: Micros, of: Nacks) -> Vec<(u32, Vec<u16>)> {
        let rtt = self.rtt;
        let asked = self.slots.iter_mut().map(|(ssrc, slot)| (*ssrc, slot.nacks(now, rtt, of)));
        asked.filter(|(_, seqs)| !seqs.is_empty()).collect()
    }

    /// Slots whose keyframes are asked for now.
    pub fn keyframes_wanted(&mut self, now: Micros) -> Vec<u32> {
        self.slots.iter_mut().filter_map(|(ssrc, slot)| slot.asks_for_keyframe(now).then_some(*ssrc)).collect()
    }

    /// A receiver report of all slots.
    pub fn report(&mut self, now: Micros) -> ReceiverReport {
        let reports = self.slots.iter_mut().filter_map(|(ssrc, slot)| slot.report(now, *ssrc)).collect();
        ReceiverReport { ssrc: 1, reports, ..ReceiverReport::default() }
    }

    /// The cameras are switched off: that nothing is shown is no freeze.
    pub fn rest(&mut self) {
        for slot in self.slots.values_mut().filter(|slot| slot.is_video) {
            slot.decoded_at = None;
            slot.first_at = None;
        }
    }

    /// The end: whoever waits for a frame has waited until now.
    pub fn finish(&mut self, now: Micros) {
        for slot in self.slots.values_mut() {
            slot.forget_left(now);
            slot.end_interval(now);
            slot.decoded_at = None;
        }
    }
}
