//! What a receive slot is brought: which packet each is, which are missing, and what its reports say.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::signal::Kind;

use super::Codec;
use crate::rtcp::ReportBlock;
use crate::sdp::{AnswerSection, TRANSPORT_CC};

/// Packets that are waited for. More at once is an outage: nothing would repair it in time.
const MISSING_MAX: usize = 512;
/// A jump of sequence numbers that is no loss but another stream.
const JUMP_MAX: u64 = 3000;
/// Numbers behind the highest of which it is known whether they came: a late packet is told from a repeated one.
const WINDOW_LEN: u64 = 1024;
/// How long a hole may be mere reordering, and how long until it is asked for again.
const NACK_DELAY: Duration = Duration::from_millis(10);
const NACK_INTERVAL: Duration = Duration::from_millis(60);
/// How often it is asked for (libwebrtc: 10).
const NACK_TRIES_MAX: u8 = 10;
/// Between two requests for a keyframe.
const KEYFRAME_INTERVAL: Duration = Duration::from_millis(300);

struct Missing {
    since: Instant,
    asked: Option<Instant>,
    tries: u8,
}

/// One receive slot.
pub(super) struct Slot {
    pub(super) mid: String,
    pub(super) kind: Kind,
    pub(super) ssrc: u32,
    pub(super) rtx_ssrc: Option<u32>,
    pub(super) transport_extension: Option<u8>,
    codecs: Vec<(u8, Codec)>,
    /// Payload types of retransmissions, and of what they retransmit.
    rtx_of: Vec<(u8, u8)>,
    /// Extended sequence numbers of the first and the highest packet.
    first: Option<u64>,
    highest: u64,
    /// Bit n: the packet n before the highest came.
    window: [u64; (WINDOW_LEN / 64) as usize],
    arrived: u64,
    /// Expected and lost, as they were at the last report.
    reported: (u64, u64),
    missing: BTreeMap<u64, Missing>,
    /// The middle of the last sender report's NTP time, and when it came.
    sender_report: Option<(u32, Instant)>,
    wants_keyframe: bool,
    asked_keyframe: Option<Instant>,
}

impl Slot {
    /// The slot that an answered section describes; None if the server will not send in it.
    pub(super) fn new(kind: Kind, answer: &AnswerSection, codec_of: fn(&str) -> Option<Codec>) -> Option<Slot> {
        let ssrc = answer.ssrc.filter(|_| !answer.is_rejected && answer.direction != "inactive")?;
        let codecs = answer.payload_types.iter().filter_map(|(pt, name)| Some((*pt, codec_of(name)?))).collect();
        Some(Slot {
            mid: answer.mid.clone(),
            kind,
            ssrc,
            rtx_ssrc: answer.rtx_ssrc,
            transport_extension: answer.extensions.get(TRANSPORT_CC).copied(),
            codecs,
            rtx_of: answer.rtx_of.clone(),
            first: None,
            highest: 0,
            window: [0; _],
            arrived: 0,
            reported: (0, 0),
            missing: BTreeMap::new(),
            sender_report: None,
            wants_keyframe: false,
            asked_keyframe: None,
        })
    }

    pub(super) fn codec(&self, pt: u8) -> Option<Codec> {
        self.codecs.iter().find(|known| known.0 == pt).map(|known| known.1)
    }

    /// What a payload type of retransmissions retransmits.
    pub(super) fn original_pt(&self, rtx_pt: u8) -> Option<u8> {
        self.rtx_of.iter().find(|known| known.0 == rtx_pt).map(|known| known.1)
    }

    /// Counts a packet. Its extended number; None if it came before, or is too old to tell.
    pub(super) fn receive(&mut self, now: Instant, seq: u16) -> Option<u64> {
        if self.first.is_none() {
            // In the middle of all numbers, so that an older one is no underflow.
            let number = (1 << 32) | u64::from(seq);
            (self.first, self.highest) = (Some(number), number);
            self.mark(number);
            self.arrived += 1;
            return Some(number);
        }
        let number = nearest(self.highest, seq);
        if number <= self.highest {
            if self.highest - number >= WINDOW_LEN || self.is_marked(number) {
                return None;
            }
            self.mark(number);
            self.missing.remove(&number);
            self.arrived += 1;
            return Some(number);
        }
        let gap = number - self.highest - 1;
        if gap > JUMP_MAX {
            self.first = Some(number - self.arrived);
            self.missing.clear();
        } else {
            let room = MISSING_MAX.saturating_sub(self.missing.len()) as u64;
            let missing = number - gap.min(room)..number;
            self.missing.extend(missing.map(|number| (number, Missing { since: now, asked: None, tries: 0 })));
        }
        for skipped in (self.highest + 1..=number).rev().take(WINDOW_LEN as usize) {
            self.unmark(skipped);
        }
        self.highest = number;
        self.mark(number);
        self.arrived += 1;
        Some(number)
    }

    fn place(number: u64) -> (usize, u64) {
        let at = number % WINDOW_LEN;
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn is_marked(&self, number: u64) -> bool {
        let (word, bit) = Slot::place(number);
        self.window[word] & bit != 0
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = Slot::place(number);
        self.window[word] |= bit;
    }

    fn unmark(&mut self, number: u64) {
        let (word, bit) = Slot::place(number);
        self.window[word] &= !bit;
    }

    pub(super) fn reported(&mut self, now: Instant, ntp_time: u64) {
        self.sender_report = Some(((ntp_time >> 16) as u32, now));
    }

    /// Sequence numbers to ask for now, ascending. One that is given up makes a picture that needs a keyframe.
    pub(super) fn poll_missing(&mut self, now: Instant) -> Vec<u16> {
        let before = self.missing.len();
        self.missing.retain(|_, missing| missing.tries < NACK_TRIES_MAX);
        self.wants_keyframe |= self.kind == Kind::Video && self.missing.len() < before;
        let is_due = |missing: &Missing| match missing.asked {
            None => now.duration_since(missing.since) >= NACK_DELAY,
            Some(asked) => now.duration_since(asked) >= NACK_INTERVAL,
        };
        let mut wanted = Vec::new();
        for (number, missing) in self.missing.iter_mut().filter(|(_, missing)| is_due(missing)) {
            missing.asked = Some(now);
            missing.tries += 1;
            wanted.push(*number as u16);
        }
        wanted
    }

    /// Whether something is missing that may still come.
    pub(super) fn is_waiting(&self) -> bool {
        !self.missing.is_empty()
    }

    pub(super) fn request_keyframe(&mut self) {
        self.wants_keyframe = self.kind == Kind::Video;
    }

    /// Whether a keyframe is to be asked for now.
    pub(super) fn poll_keyframe(&mut self, now: Instant) -> bool {
        let may = self.asked_keyframe.is_none_or(|asked| now.duration_since(asked) >= KEYFRAME_INTERVAL);
        let is_due = self.wants_keyframe && may && self.first.is_some();
        if is_due {
            (self.wants_keyframe, self.asked_keyframe) = (false, Some(now));
        }
        is_due
    }

    /// What a receiver report says of it (RFC 3550 §6.4.1); None before the first packet.
    pub(super) fn report_block(&mut self, now: Instant) -> Option<ReportBlock> {
        let expected = self.highest - self.first? + 1;
        let lost = expected.saturating_sub(self.arrived);
        let (expected_before, lost_before) = std::mem::replace(&mut self.reported, (expected, lost));
        let interval = expected.saturating_sub(expected_before).max(1);
        let since = |at: Instant| (now.duration_since(at).as_micros() * 65_536 / 1_000_000) as u32;
        Some(ReportBlock {
            ssrc: self.ssrc,
            fraction_lost: (lost.saturating_sub(lost_before) * 256 / interval).min(255) as u8,
            total_lost: lost.min(0x7F_FFFF) as u32,
            highest_seq: self.highest as u32,
            jitter: 0,
            last_sender_report: self.sender_report.map_or(0, |(middle, _)| middle),
            delay: self.sender_report.map_or(0, |(_, at)| since(at)),
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
        Slot::new(kind, &answer, |_| None).unwrap()
    }

    #[test]
    fn each_packet_comes_once_whatever_the_order() {
        let (mut slot, now) = (slot(Kind::Video), Instant::now());
        let base = (1u64 << 32) | 65_534;
        for (seq, number) in [(65_534, Some(0)), (65_535, Some(1)), (3, Some(5)), (3, None), (1, Some(3)), (1, None)] {
            assert_eq!(slot.receive(now, seq), number.map(|number: u64| base + number), "{seq}");
        }
        assert_eq!(slot.poll_missing(now), [0; 0]);
        let later = now + NACK_DELAY;
        assert_eq!(slot.poll_missing(later), [0, 2]);
        assert_eq!((slot.receive(later, 0), slot.receive(later, 0)), (Some(base + 2), None));
        let mut at = later;
        for _ in 1..NACK_TRIES_MAX {
            at += NACK_INTERVAL;
            assert_eq!(slot.poll_missing(at), [2]);
        }
        assert!(!slot.poll_keyframe(at));
        assert_eq!(slot.poll_missing(at + NACK_INTERVAL), [0; 0]);
        assert!(!slot.is_waiting() && slot.poll_keyframe(at) && !slot.poll_keyframe(at));
        slot.request_keyframe();
        assert!(!slot.poll_keyframe(at) && slot.poll_keyframe(at + KEYFRAME_INTERVAL));
        let report = slot.report_block(now).unwrap();
        assert_eq!((report.ssrc, report.total_lost, report.highest_seq as u16), (7, 1, 3));
    }

    #[test]
    fn numbers_of_an_earlier_round_of_the_window_are_not_taken_for_these() {
        let (mut slot, now) = (slot(Kind::Audio), Instant::now());
        for seq in 0..3000 {
            assert!(slot.receive(now, seq).is_some());
        }
        assert!(slot.receive(now, 3100).is_some(), "a hole of a hundred");
        for seq in 3000..3100 {
            assert!(slot.receive(now, seq).is_some() && slot.receive(now, seq).is_none(), "{seq}");
        }
        assert_eq!(slot.receive(now, 1000), None, "too old to tell");
        assert!(slot.receive(now, 20_000).is_some() && !slot.is_waiting(), "another stream");
        assert_eq!(slot.report_block(now).unwrap().total_lost, 0);
    }
}
