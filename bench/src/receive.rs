//! A receive slot: puts packets back in order, asks for what is missing (RFC 4585), and proves what came by its marks.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Buf;
use client::sdp::{AnswerSection, MID, TRANSPORT_CC};
use proto::signal::Kind;
use rtcp::reception_report::ReceptionReport;
use rtp::codecs::h264::H264Packet;
use rtp::header::Header;
use rtp::packet::Packet;
use rtp::packetizer::Depacketizer;

use crate::media::{self, Corrupt, Mark, Proof};
use crate::report::StreamReport;
use crate::send::ntp_to_micros;

/// A missing packet is asked for again after this long.
const NACK_INTERVAL: Duration = Duration::from_millis(60);
/// A video packet that is not here after this long is lost.
const VIDEO_WAIT_MAX: Duration = Duration::from_millis(2000);
/// An audio packet that is not here after this long is lost: nothing repairs it, it may only be late.
const AUDIO_WAIT_MAX: Duration = Duration::from_millis(100);
/// Between two keyframe requests.
const PLI_INTERVAL: Duration = Duration::from_millis(300);
/// A jump of sequence numbers that is no loss but another stream.
const JUMP_MAX: u64 = 3000;

struct Missing {
    since: Instant,
    asked: Option<Instant>,
}

/// What the slot asks the sender for.
#[derive(Default, Debug)]
pub struct Requests {
    /// Sequence numbers for a NACK, ascending.
    pub missing: Vec<u16>,
    /// A PLI.
    pub keyframe: bool,
}

/// One receive slot, as the answer gave it.
pub struct Slot {
    /// Its m-section.
    pub mid: String,
    /// Audio or video.
    pub kind: Kind,
    /// SSRC of its packets.
    pub ssrc: u32,
    /// SSRC of their retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// What it counted.
    pub report: StreamReport,
    pt: u8,
    rtx_pt: Option<u8>,
    mid_extension: Option<u8>,
    transport_extension: Option<u8>,
    clock: u32,
    /// Extended sequence number that is delivered next, and the highest received.
    next: Option<u64>,
    highest: u64,
    waiting: BTreeMap<u64, Packet>,
    missing: BTreeMap<u64, Missing>,
    frame: Assembly,
    asked_keyframe: Option<Instant>,
    /// Proved since the last [`Slot::take_proved`].
    proved: Vec<Proof>,
    /// NTP time, as microseconds since 1970, and RTP timestamp of the last sender report.
    sender_clock: Option<(i64, u32)>,
    last: Option<(Mark, u32)>,
    statistics: Statistics,
}

impl Slot {
    /// The slot that an answered section describes; None if the server will not send in it.
    pub fn new(kind: Kind, answer: &AnswerSection) -> Option<Slot> {
        let ssrc = answer.ssrc.filter(|_| !answer.is_rejected && answer.direction == "sendonly")?;
        Some(Slot {
            mid: answer.mid.clone(),
            kind,
            ssrc,
            rtx_ssrc: answer.rtx_ssrc,
            report: StreamReport::default(),
            pt: answer.pt,
            rtx_pt: answer.rtx_pt,
            mid_extension: answer.extensions.get(MID).copied(),
            transport_extension: answer.extensions.get(TRANSPORT_CC).copied(),
            clock: if kind == Kind::Audio { 48_000 } else { 90_000 },
            next: None,
            highest: 0,
            waiting: BTreeMap::new(),
            missing: BTreeMap::new(),
            frame: Assembly::default(),
            asked_keyframe: None,
            proved: Vec::new(),
            sender_clock: None,
            last: None,
            statistics: Statistics::default(),
        })
    }

    /// Takes an unprotected packet with the slot's SSRC or its RTX SSRC.
    pub fn receive(&mut self, now: Instant, mut packet: Packet) {
        self.check_extensions(&packet.header);
        if Some(packet.header.ssrc) == self.rtx_ssrc {
            self.report.repairs += 1;
            self.report.wrong_pt += u64::from(Some(packet.header.payload_type) != self.rtx_pt);
            // Without a payload it is a probe.
            if packet.payload.len() < 2 {
                return;
            }
            packet.header.sequence_number = packet.payload.get_u16();
            self.insert(now, packet, true);
        } else {
            self.report.packets += 1;
            self.report.wrong_pt += u64::from(packet.header.payload_type != self.pt);
            self.statistics.receive(now, &packet.header, self.clock);
            self.insert(now, packet, false);
        }
        self.deliver();
    }

    /// The transport-wide sequence number of a packet, if the answer has the extension.
    pub fn transport_seq(&self, header: &Header) -> Option<u16> {
        let bytes = header.get_extension(self.transport_extension?)?;
        Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
    }

    fn check_extensions(&mut self, header: &Header) {
        let mid = self.mid_extension.and_then(|id| header.get_extension(id));
        self.report.wrong_mid += u64::from(mid.is_some_and(|mid| mid != self.mid.as_bytes()));
    }

    fn insert(&mut self, now: Instant, packet: Packet, is_repair: bool) {
        let index = nearest(self.highest, packet.header.sequence_number);
        let Some(next) = self.next else {
            // A repair of what was before the first packet is nothing to begin with.
            if !is_repair {
                let index = (1 << 16) | u64::from(packet.header.sequence_number);
                (self.next, self.highest) = (Some(index), index);
                self.waiting.insert(index, packet);
            }
            return;
        };
        if index < next || self.waiting.contains_key(&index) {
            self.report.duplicates += 1;
            return;
        }
        if index > self.highest {
            if index - self.highest > JUMP_MAX {
                self.report.lost += index - next;
                self.restart(index);
            }
            for missing in self.highest + 1..index {
                self.missing.insert(missing, Missing { since: now, asked: None });
            }
            self.highest = index;
        } else if self.missing.remove(&index).is_some() && is_repair {
            self.report.repaired += 1;
        }
        self.waiting.insert(index, packet);
    }

    fn restart(&mut self, index: u64) {
        self.waiting.clear();
        self.missing.clear();
        self.frame.lose();
        (self.next, self.highest) = (Some(index), index);
    }

    fn deliver(&mut self) {
        while let Some(next) = self.next
            && let Some(packet) = self.waiting.remove(&next)
        {
            self.next = Some(next + 1);
            let proved = match self.kind {
                Kind::Audio => media::check_opus(&packet.payload).map(|mark| Some((mark, false))),
                Kind::Video => self.frame.push(&packet),
            };
            match proved {
                Ok(Some((mark, is_key))) => self.prove(mark, is_key, packet.header.timestamp),
                Ok(None) => (),
                Err(Corrupt) => self.report.corrupt += 1,
            }
        }
    }

    fn prove(&mut self, mark: Mark, is_key: bool, timestamp: u32) {
        let clock = i64::from(self.clock);
        match self.last.replace((mark, timestamp)) {
            // Timestamps go on as the captures did (RFC 3550 §5.1), within a tick of either clock.
            Some((before, timestamp_before)) if before.publisher == mark.publisher => {
                let elapsed = mark.captured.wrapping_sub(before.captured) as i64;
                let ticks = i64::from(timestamp.wrapping_sub(timestamp_before) as i32);
                self.report.mistimed += u64::from((elapsed - ticks * 1_000_000 / clock).abs() > 100);
            }
            // A sender report of the publisher before says nothing about this one.
            _ => self.sender_clock = None,
        }
        let clock_offset = self.sender_clock.map(|(micros, rtp)| {
            let ticks = i64::from(timestamp.wrapping_sub(rtp) as i32);
            micros + ticks * 1_000_000 / clock - mark.captured as i64
        });
        self.proved.push(Proof { mark, is_key, clock_offset });
    }

    /// Gives up what is too old, and says what to ask for now.
    pub fn poll(&mut self, now: Instant) -> Requests {
        let wait_max = if self.kind == Kind::Audio { AUDIO_WAIT_MAX } else { VIDEO_WAIT_MAX };
        while let Some((&index, missing)) = self.missing.first_key_value()
            && now.duration_since(missing.since) > wait_max
        {
            self.missing.remove(&index);
            self.report.lost += 1;
            self.frame.lose();
            // Everything before it was delivered or given up.
            self.next = Some(index + 1);
            self.deliver();
        }
        let mut requests = Requests::default();
        if self.kind == Kind::Video && self.rtx_ssrc.is_some() {
            for (&index, missing) in &mut self.missing {
                if missing.asked.is_none_or(|at| now.duration_since(at) >= NACK_INTERVAL) {
                    missing.asked = Some(now);
                    requests.missing.push(index as u16);
                }
            }
            self.report.nacked += requests.missing.len() as u64;
        }
        if self.frame.wants_key && self.asked_keyframe.is_none_or(|at| now.duration_since(at) >= PLI_INTERVAL) {
            self.asked_keyframe = Some(now);
            self.report.keyframe_requests += 1;
            requests.keyframe = true;
        }
        requests
    }

    /// A sender report of this slot came, with this NTP time and RTP timestamp.
    pub fn sender_report(&mut self, now: Instant, ntp_time: u64, rtp_time: u32) {
        self.report.sender_reports += 1;
        self.sender_clock = Some((ntp_to_micros(ntp_time), rtp_time));
        self.statistics.sender_report = Some(((ntp_time >> 16) as u32, now));
    }

    /// A reception report block; None before the first packet.
    pub fn reception_report(&mut self, now: Instant) -> Option<ReceptionReport> {
        self.statistics.report(now, self.ssrc)
    }

    /// What was proved since the last call, in the order of delivery.
    pub fn take_proved(&mut self) -> Vec<Proof> {
        std::mem::take(&mut self.proved)
    }
}

/// The extended sequence number that is nearest to `highest`.
pub(crate) fn nearest(highest: u64, seq: u16) -> u64 {
    let difference = i64::from(seq.wrapping_sub(highest as u16) as i16);
    highest.saturating_add_signed(difference)
}

/// Puts frames together and keeps to the rule of every decoder: begin with a keyframe, and again after a loss.
#[derive(Default)]
struct Assembly {
    is_synced: bool,
    wants_key: bool,
    timestamp: u32,
    unit: Vec<u8>,
    depacketizer: H264Packet,
}

impl Assembly {
    /// Takes the next packet in order; gives a frame's mark when it is whole and intact.
    fn push(&mut self, packet: &Packet) -> Result<Option<(Mark, bool)>, Corrupt> {
        if packet.payload.is_empty() {
            return Ok(None);
        }
        let starts_keyframe = media::starts_keyframe(&packet.payload);
        if starts_keyframe {
            // What was unfinished belongs to a stream that was switched away, or was given up.
            self.begin();
        } else if !self.is_synced {
            self.wants_key = true;
            return Ok(None);
        } else if !self.unit.is_empty() && packet.header.timestamp != self.timestamp {
            self.lose();
            return Err(Corrupt);
        }
        self.timestamp = packet.header.timestamp;
        let Ok(bytes) = self.depacketizer.depacketize(&packet.payload) else {
            self.lose();
            return Err(Corrupt);
        };
        self.unit.extend_from_slice(&bytes);
        if !packet.header.marker {
            return Ok(None);
        }
        let checked = media::check_frame(&self.unit);
        self.unit.clear();
        if checked.is_err() {
            self.lose();
        }
        checked.map(Some)
    }

    fn begin(&mut self) {
        (self.is_synced, self.wants_key) = (true, false);
        self.unit.clear();
        self.depacketizer = H264Packet::default();
    }

    /// A packet is lost: nothing can be shown until a keyframe comes.
    fn lose(&mut self) {
        (self.is_synced, self.wants_key) = (false, true);
        self.unit.clear();
    }
}

/// What a receiver report says (RFC 3550 §6.4.1, A.3, A.8).
#[derive(Default)]
struct Statistics {
    base: Option<u64>,
    highest: u64,
    received: u64,
    expected_before: u64,
    received_before: u64,
    transit: Option<i64>,
    jitter: f64,
    epoch: Option<Instant>,
    /// Middle 32 bits of the last sender report's NTP time, and when it came.
    sender_report: Option<(u32, Instant)>,
}

impl Statistics {
    fn receive(&mut self, now: Instant, header: &Header, clock: u32) {
        if self.base.is_none() {
            self.highest = u64::from(header.sequence_number);
            self.base = Some(self.highest);
        }
        self.highest = self.highest.max(nearest(self.highest, header.sequence_number));
        self.received += 1;
        let elapsed = now.duration_since(*self.epoch.get_or_insert(now)).as_micros() as i64;
        let transit = elapsed * i64::from(clock) / 1_000_000 - i64::from(header.timestamp);
        if let Some(before) = self.transit.replace(transit) {
            // Timestamps of different publishers, or a wrap, would make a jitter of hours.
            let difference = (transit - before).unsigned_abs().min(u64::from(clock)) as f64;
            self.jitter += (difference - self.jitter) / 16.0;
        }
    }

    fn report(&mut self, now: Instant, ssrc: u32) -> Option<ReceptionReport> {
        let expected = self.highest - self.base? + 1;
        let (expected_now, received_now) = (expected - self.expected_before, self.received - self.received_before);
        (self.expected_before, self.received_before) = (expected, self.received);
        let lost_now = expected_now.saturating_sub(received_now);
        let (last_sender_report, at) = self.sender_report.unwrap_or((0, now));
        let delay = now.duration_since(at).as_micros() as u64;
        Some(ReceptionReport {
            ssrc,
            fraction_lost: (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            total_lost: expected.saturating_sub(self.received) as u32,
            last_sequence_number: self.highest as u32,
            jitter: self.jitter as u32,
            last_sender_report,
            delay: ((delay << 16) / 1_000_000) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rtp::codecs::h264::H264Payloader;
    use rtp::packetizer::Payloader;

    use super::*;

    fn slot(kind: Kind) -> Slot {
        let answer = AnswerSection {
            mid: "5".into(),
            direction: "sendonly".into(),
            pt: 108,
            rtx_pt: Some(109),
            ssrc: Some(1),
            rtx_ssrc: Some(2),
            extensions: [(MID.to_owned(), 4)].into(),
            ..AnswerSection::default()
        };
        Slot::new(kind, &answer).unwrap()
    }

    fn packet(seq: u16, marker: bool, timestamp: u32, payload: Bytes) -> Packet {
        let mut header = Header { version: 2, marker, payload_type: 108, timestamp, ssrc: 1, ..Header::default() };
        header.sequence_number = seq;
        header.set_extension(4, Bytes::from_static(b"5")).unwrap();
        Packet { header, payload }
    }

    /// Frames of publisher 3 in packets from `seq` on; those with a number in `keys` are keyframes.
    fn frames(seq: u16, numbers: std::ops::Range<u32>, keys: &[u32]) -> Vec<Packet> {
        let mut packets = Vec::new();
        for number in numbers {
            let unit = media::frame(
                Mark { publisher: 3, number, len: 2500, captured: u64::from(number) * 50_000 },
                keys.contains(&number),
            );
            let payloads = H264Payloader::default().payload(1100, &unit).unwrap();
            let count = payloads.len();
            for (i, payload) in payloads.into_iter().enumerate() {
                let seq = seq.wrapping_add(packets.len() as u16);
                packets.push(packet(seq, i + 1 == count, number * 4500, payload));
            }
        }
        packets
    }

    fn opus(number: u32) -> Bytes {
        media::opus(Mark { publisher: 3, number, len: 60, captured: u64::from(number) * 20_000 })
    }

    fn repair(original: &Packet) -> Packet {
        let mut repair = original.clone();
        (repair.header.ssrc, repair.header.payload_type) = (2, 109);
        let payload = [&original.header.sequence_number.to_be_bytes()[..], &original.payload].concat();
        repair.payload = payload.into();
        repair
    }

    fn numbers(slot: &mut Slot) -> Vec<u32> {
        slot.take_proved().into_iter().map(|proof| proof.mark.number).collect()
    }

    #[test]
    fn frames_are_proved_in_order_across_the_wrap() {
        let (mut slot, now) = (slot(Kind::Video), Instant::now());
        let mut packets = frames(65_530, 0..5, &[0]);
        packets.swap(7, 9);
        for packet in packets {
            slot.receive(now, packet);
        }
        assert_eq!(numbers(&mut slot), [0, 1, 2, 3, 4]);
        assert_eq!((slot.report.corrupt, slot.report.lost, slot.report.wrong_mid, slot.report.wrong_pt), (0, 0, 0, 0));
        assert!(slot.poll(now).missing.is_empty());
        let report = slot.reception_report(now).unwrap();
        assert_eq!((report.total_lost, report.fraction_lost), (0, 0));
        assert!(report.last_sequence_number > 65_535);
    }

    #[test]
    fn what_is_missing_is_asked_for_until_it_is_repaired() {
        let (mut slot, mut now) = (slot(Kind::Video), Instant::now());
        let packets = frames(65_530, 0..5, &[0]);
        let lost = [3, 6, 8];
        for (i, packet) in packets.iter().enumerate() {
            if !lost.contains(&i) {
                slot.receive(now, packet.clone());
            }
        }
        let asked = lost.map(|i| packets[i].header.sequence_number);
        assert_eq!(slot.poll(now).missing, asked);
        assert!(slot.poll(now).missing.is_empty());
        now += NACK_INTERVAL;
        assert_eq!(slot.poll(now).missing, asked);
        for i in lost {
            slot.receive(now, repair(&packets[i]));
            slot.receive(now, repair(&packets[i]));
        }
        assert_eq!(numbers(&mut slot), [0, 1, 2, 3, 4]);
        assert_eq!((slot.report.repaired, slot.report.duplicates, slot.report.lost), (3, 3, 0));
        assert!(!slot.poll(now).keyframe);
    }

    #[test]
    fn after_a_loss_a_keyframe_is_asked_for_and_waited_for() {
        let (mut slot, mut now) = (slot(Kind::Video), Instant::now());
        let packets = frames(10, 0..9, &[0, 6]);
        let lost = packets.iter().position(|packet| packet.header.timestamp == 2 * 4500).unwrap();
        for (i, packet) in packets.iter().enumerate() {
            if i != lost {
                slot.receive(now, packet.clone());
            }
        }
        assert_eq!(numbers(&mut slot), [0, 1]);
        now += VIDEO_WAIT_MAX + Duration::from_millis(1);
        slot.poll(now);
        assert_eq!(numbers(&mut slot), [6, 7, 8]);
        assert_eq!((slot.report.lost, slot.report.corrupt), (1, 0));
    }

    #[test]
    fn a_stream_that_begins_between_keyframes_asks_for_one() {
        let (mut slot, now) = (slot(Kind::Video), Instant::now());
        for packet in frames(10, 1..3, &[]) {
            slot.receive(now, packet);
        }
        assert!(slot.poll(now).keyframe);
        assert!(!slot.poll(now).keyframe);
        assert!(numbers(&mut slot).is_empty());
    }

    #[test]
    fn changed_media_is_seen() {
        let (mut slot, now) = (slot(Kind::Audio), Instant::now());
        slot.receive(now, packet(1, false, 0, opus(0)));
        let mut payload = opus(1).to_vec();
        payload[40] ^= 1;
        slot.receive(now, packet(2, false, 960, payload.into()));
        let mut other = packet(3, false, 1920, opus(2));
        other.header.payload_type = 0;
        other.header.set_extension(4, Bytes::from_static(b"6")).unwrap();
        slot.receive(now, other);
        assert_eq!(numbers(&mut slot), [0, 2]);
        assert_eq!((slot.report.corrupt, slot.report.wrong_mid, slot.report.wrong_pt), (1, 1, 1));
        assert_eq!(slot.report.mistimed, 0);
        slot.receive(now, packet(4, false, 1920, opus(3)));
        assert_eq!(slot.report.mistimed, 1);
    }

    #[test]
    fn sender_reports_tell_when_it_was_captured() {
        let (mut slot, now) = (slot(Kind::Audio), Instant::now());
        slot.receive(now, packet(1, false, 5000, opus(0)));
        assert_eq!(slot.take_proved()[0].clock_offset, None);
        // 1970 and one second, at two packets after the first.
        slot.sender_report(now, (2_208_988_800 + 1) << 32, 5000 + 1920);
        slot.receive(now, packet(2, false, 5960, opus(1)));
        assert_eq!(slot.take_proved()[0].clock_offset, Some(1_000_000 - 20_000 - 20_000));
    }

    #[test]
    fn lost_audio_is_not_waited_for() {
        let (mut slot, mut now) = (slot(Kind::Audio), Instant::now());
        for number in [0, 1, 3, 4] {
            slot.receive(now, packet(number as u16, false, number * 960, opus(number)));
        }
        assert_eq!(numbers(&mut slot), [0, 1]);
        now += AUDIO_WAIT_MAX * 2;
        assert!(slot.poll(now).missing.is_empty());
        assert_eq!(numbers(&mut slot), [3, 4]);
        assert_eq!(slot.report.lost, 1);
    }
}
