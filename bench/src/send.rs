//! What a peer sends: a microphone with 50 Opus packets a second, a camera with H.264 that answers keyframe requests,
//! and the RTP streams under them, which answer NACKs by RTX (RFC 4588).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use client::sdp::{ABS_SEND_TIME, AUDIO_LEVEL, AnswerSection, MID, TRANSPORT_CC};
use rtcp::sender_report::SenderReport;
use rtp::codecs::h264::H264Payloader;
use rtp::header::Header;
use rtp::packet::Packet;
use rtp::packetizer::Payloader;

use crate::media::{self, Mark};

/// Packets kept for retransmission.
const HISTORY_MAX: usize = 1024;
/// Largest RTP payload: with all headers and tags it stays below 1,200 bytes, as in Chromium.
const PAYLOAD_MAX: usize = 1100;
/// 20 ms.
const OPUS_INTERVAL: Duration = Duration::from_millis(20);
const OPUS_CLOCK: u32 = 48_000;
const VIDEO_CLOCK: u32 = 90_000;
/// Bytes of an Opus packet without its mark: 32 kb/s in all.
const OPUS_LEN: u32 = 64;

/// Transport-wide sequence numbers, one count for all streams of a peer.
#[derive(Default, Debug)]
pub struct TransportSeq(u16);

impl TransportSeq {
    fn next(&mut self) -> u16 {
        self.0 = self.0.wrapping_add(1);
        self.0
    }
}

/// Header extensions of a sending section, by the answer.
struct Extensions {
    mid: Option<u8>,
    abs_send_time: Option<u8>,
    transport_cc: Option<u8>,
    audio_level: Option<u8>,
}

impl Extensions {
    fn of(answered: &HashMap<String, u8>) -> Extensions {
        let id = |uri| answered.get(uri).copied();
        Extensions {
            mid: id(MID),
            abs_send_time: id(ABS_SEND_TIME),
            transport_cc: id(TRANSPORT_CC),
            audio_level: id(AUDIO_LEVEL),
        }
    }
}

struct Rtx {
    ssrc: u32,
    pt: u8,
    seq: u16,
}

/// One RTP stream and its retransmissions.
pub struct Stream {
    /// Its SSRC, as the offer says.
    pub ssrc: u32,
    mid: String,
    pt: u8,
    clock: u32,
    wall: WallClock,
    seq: u16,
    rtx: Option<Rtx>,
    extensions: Extensions,
    history: VecDeque<Packet>,
    packets: u32,
    octets: u32,
    /// RTP timestamp of the last packet and when it was captured.
    last: Option<(u32, Instant)>,
}

impl Stream {
    /// A stream as it was offered with these SSRCs and answered in this section; None if it was rejected.
    pub fn new(
        ssrcs: (u32, Option<u32>),
        answer: &AnswerSection,
        clock: u32,
        wall: WallClock,
        first_seq: u16,
    ) -> Option<Stream> {
        if answer.is_rejected || answer.direction == "inactive" || answer.direction == "sendonly" {
            return None;
        }
        let rtx = ssrcs.1.zip(answer.rtx_pt).map(|(ssrc, pt)| Rtx { ssrc, pt, seq: first_seq ^ 0x55 });
        Some(Stream {
            ssrc: ssrcs.0,
            mid: answer.mid.clone(),
            pt: answer.pt,
            clock,
            wall,
            seq: first_seq,
            rtx,
            extensions: Extensions::of(&answer.extensions),
            history: VecDeque::with_capacity(HISTORY_MAX),
            packets: 0,
            octets: 0,
            last: None,
        })
    }

    /// Makes the next packet and keeps it for repair.
    pub(crate) fn packet(
        &mut self,
        now: Instant,
        marker: bool,
        capture: &Capture,
        payload: Bytes,
        transport: &mut TransportSeq,
    ) -> Packet {
        let header = Header {
            version: 2,
            marker,
            payload_type: self.pt,
            sequence_number: self.seq,
            timestamp: capture.timestamp,
            ssrc: self.ssrc,
            ..Header::default()
        };
        let mut packet = Packet { header, payload };
        self.seq = self.seq.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(packet.payload.len() as u32);
        self.last = Some((capture.timestamp, capture.at));
        if self.rtx.is_some() {
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back(packet.clone());
        }
        self.extend(now, &mut packet.header, transport);
        packet
    }

    /// The retransmission of a packet; None if it is too old, or the answer has no RTX.
    pub fn repair(&mut self, now: Instant, seq: u16, transport: &mut TransportSeq) -> Option<Packet> {
        let first = self.history.front()?.header.sequence_number;
        let original = self.history.get(usize::from(seq.wrapping_sub(first)))?;
        let rtx = self.rtx.as_mut()?;
        let mut header = original.header.clone();
        (header.ssrc, header.payload_type, header.sequence_number) = (rtx.ssrc, rtx.pt, rtx.seq);
        rtx.seq = rtx.seq.wrapping_add(1);
        // The original sequence number stands before the payload (RFC 4588 §4).
        let mut payload = BytesMut::with_capacity(2 + original.payload.len());
        payload.put_u16(seq);
        payload.put_slice(&original.payload);
        let mut packet = Packet { header, payload: payload.freeze() };
        self.extend(now, &mut packet.header, transport);
        Some(packet)
    }

    fn extend(&self, now: Instant, header: &mut Header, transport: &mut TransportSeq) {
        let mut set = |id: Option<u8>, bytes: &[u8]| {
            if let Some(id) = id {
                header.set_extension(id, Bytes::copy_from_slice(bytes)).expect("the extension fits the one-byte form");
            }
        };
        // 6.18 fixed-point seconds in 24 bits.
        let ticks = ((u128::from(self.wall.micros(now)) << 18) / 1_000_000) as u32;
        set(self.extensions.abs_send_time, &ticks.to_be_bytes()[1..]);
        set(self.extensions.transport_cc, &transport.next().to_be_bytes());
        set(self.extensions.mid, self.mid.as_bytes());
        // Voice, -30 dBov (RFC 6464 §3).
        set(self.extensions.audio_level, &[0x80 | 30]);
    }

    /// A sender report for now; None before the first packet.
    pub fn sender_report(&self, now: Instant) -> Option<SenderReport> {
        let (timestamp, at) = self.last?;
        let elapsed = now.duration_since(at).as_micros() as u64;
        let rtp_time = timestamp.wrapping_add((elapsed * u64::from(self.clock) / 1_000_000) as u32);
        Some(SenderReport {
            ssrc: self.ssrc,
            ntp_time: self.wall.ntp(now),
            rtp_time,
            packet_count: self.packets,
            octet_count: self.octets,
            ..SenderReport::default()
        })
    }
}

/// Ties the monotonic clock to the time of day, once, so that what is sent has one time whatever the latter does.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    at: Instant,
    since_1970: Duration,
}

impl WallClock {
    /// As it is at this moment.
    pub fn now() -> WallClock {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
        WallClock { at: Instant::now(), since_1970 }
    }

    /// Microseconds since 1970.
    pub fn micros(&self, at: Instant) -> u64 {
        let micros = self.since_1970 + at.duration_since(self.at) - self.at.duration_since(at);
        micros.as_micros() as u64
    }

    /// 32.32 fixed-point seconds since 1900 (RFC 3550 §4).
    fn ntp(&self, at: Instant) -> u64 {
        let micros = u128::from(self.micros(at)) + NTP_EPOCH_MICROS;
        ((micros << 32) / 1_000_000) as u64
    }
}

/// From 1900 to 1970, microseconds.
const NTP_EPOCH_MICROS: u128 = 2_208_988_800_000_000;

/// Microseconds since 1970 of 32.32 fixed-point seconds since 1900.
pub(crate) fn ntp_to_micros(ntp: u64) -> i64 {
    ((u128::from(ntp) * 1_000_000) >> 32) as i64 - NTP_EPOCH_MICROS as i64
}

/// When something is captured, in three clocks that never part.
struct Pace {
    wall: WallClock,
    next: Instant,
    timestamp: u32,
    interval: Duration,
    ticks: u32,
}

/// One capture.
pub(crate) struct Capture {
    pub(crate) at: Instant,
    pub(crate) timestamp: u32,
    pub(crate) micros: u64,
}

impl Pace {
    /// The capture that is due, if any. A sender that was held up for long skips what it missed.
    fn poll(&mut self, now: Instant) -> Option<Capture> {
        if now < self.next {
            return None;
        }
        let missed = (now - self.next).as_nanos() / self.interval.as_nanos();
        if missed > 10 {
            self.advance(missed as u32);
        }
        let capture = Capture { at: self.next, timestamp: self.timestamp, micros: self.wall.micros(self.next) };
        self.advance(1);
        Some(capture)
    }

    fn advance(&mut self, count: u32) {
        self.next += self.interval * count;
        self.timestamp = self.timestamp.wrapping_add(self.ticks * count);
    }
}

/// Sends an Opus packet every 20 ms while it is on.
pub struct Microphone {
    /// Its RTP stream.
    pub stream: Stream,
    /// Off is muted: nothing is sent, and numbers stand still.
    pub is_on: bool,
    publisher: u32,
    number: u32,
    pace: Pace,
}

impl Microphone {
    /// One that is on and due now.
    pub fn new(now: Instant, publisher: u32, stream: Stream) -> Microphone {
        let (interval, ticks) = (OPUS_INTERVAL, OPUS_CLOCK / 50);
        let pace = Pace { wall: stream.wall, next: now, timestamp: 1000, interval, ticks };
        Microphone { stream, is_on: true, publisher, number: 0, pace }
    }

    /// When [`Microphone::poll`] has something.
    pub fn poll_timeout(&self) -> Instant {
        self.pace.next
    }

    /// Packets that were made so far.
    pub fn count(&self) -> u64 {
        u64::from(self.number)
    }

    /// The packet that is due, if any.
    pub fn poll(&mut self, now: Instant, transport: &mut TransportSeq) -> Option<Packet> {
        let capture = self.pace.poll(now)?;
        if !self.is_on {
            return None;
        }
        let (publisher, number, captured) = (self.publisher, self.number, capture.micros);
        let payload = media::opus(Mark { publisher, number, len: OPUS_LEN, captured });
        self.number += 1;
        // The marker says that a talkspurt begins (RFC 3551 §4.1); Chromium never sets it for Opus.
        Some(self.stream.packet(now, false, &capture, payload, transport))
    }
}

/// What a camera sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CameraSettings {
    /// Frames a second.
    pub fps: u32,
    /// Bytes of a delta frame; a keyframe has eight times as many.
    pub frame_len: u32,
}

impl Default for CameraSettings {
    /// 20 frames a second, 240 kb/s.
    fn default() -> Self {
        CameraSettings { fps: 20, frame_len: 1500 }
    }
}

/// Sends an H.264 frame at its rate while it is on; a keyframe first, and whenever one is asked for.
pub struct Camera {
    /// Its RTP stream.
    pub stream: Stream,
    /// Off sends nothing, and numbers stand still.
    pub is_on: bool,
    settings: CameraSettings,
    publisher: u32,
    number: u32,
    keyframes: u32,
    is_key_due: bool,
    pace: Pace,
    payloader: H264Payloader,
}

impl Camera {
    /// One that is on and due now.
    pub fn new(now: Instant, publisher: u32, stream: Stream, settings: CameraSettings) -> Camera {
        let (interval, ticks) = (Duration::from_secs(1) / settings.fps, VIDEO_CLOCK / settings.fps);
        Camera {
            pace: Pace { wall: stream.wall, next: now, timestamp: 3000, interval, ticks },
            stream,
            is_on: true,
            settings,
            publisher,
            number: 0,
            keyframes: 0,
            is_key_due: true,
            payloader: H264Payloader::default(),
        }
    }

    /// The next frame will be a keyframe.
    pub fn request_keyframe(&mut self) {
        self.is_key_due = true;
    }

    /// When [`Camera::poll`] has something.
    pub fn poll_timeout(&self) -> Instant {
        self.pace.next
    }

    /// Frames and keyframes that were made so far.
    pub fn counts(&self) -> (u64, u64) {
        (u64::from(self.number), u64::from(self.keyframes))
    }

    /// The packets of the frame that is due; empty if none is.
    pub fn poll(&mut self, now: Instant, transport: &mut TransportSeq) -> Vec<Packet> {
        let Some(capture) = self.pace.poll(now) else { return Vec::new() };
        if !self.is_on {
            // A camera that is switched on again begins with a keyframe.
            self.is_key_due = true;
            return Vec::new();
        }
        let is_key = std::mem::take(&mut self.is_key_due);
        // Frames differ in length, so that one in the place of another cannot pass.
        let len = self.settings.frame_len * if is_key { 8 } else { 1 } + self.number % 97;
        let (publisher, number, captured) = (self.publisher, self.number, capture.micros);
        let unit = media::frame(Mark { publisher, number, len, captured }, is_key);
        self.number += 1;
        self.keyframes += u32::from(is_key);
        let payloads = self.payloader.payload(PAYLOAD_MAX, &unit).expect("a frame can be cut");
        let last = payloads.len() - 1;
        let packet = |(i, payload)| self.stream.packet(now, i == last, &capture, payload, transport);
        payloads.into_iter().enumerate().map(packet).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(mid: &str) -> AnswerSection {
        let extensions = [(MID, 4), (TRANSPORT_CC, 3), (ABS_SEND_TIME, 2)];
        AnswerSection {
            mid: mid.into(),
            direction: "recvonly".into(),
            pt: 108,
            rtx_pt: Some(109),
            extensions: extensions.map(|(uri, id)| (uri.to_owned(), id)).into(),
            ..AnswerSection::default()
        }
    }

    fn camera(now: Instant) -> Camera {
        let stream = Stream::new((1, Some(2)), &section("1"), VIDEO_CLOCK, WallClock::now(), u16::MAX - 5).unwrap();
        Camera::new(now, 9, stream, CameraSettings::default())
    }

    #[test]
    fn a_keyframe_comes_first_and_on_request() {
        let (mut now, mut transport) = (Instant::now(), TransportSeq::default());
        let mut camera = camera(now);
        let mut keys = Vec::new();
        for i in 0..10 {
            if i == 6 {
                camera.request_keyframe();
            }
            let packets = camera.poll(now, &mut transport);
            keys.push(media::starts_keyframe(&packets[0].payload));
            let (last, others) = packets.split_last().unwrap();
            assert!(last.header.marker && others.iter().all(|packet| !packet.header.marker));
            assert!(packets.iter().all(|packet| packet.payload.len() <= PAYLOAD_MAX));
            assert!(camera.poll(now, &mut transport).is_empty());
            now = camera.poll_timeout();
        }
        assert_eq!(keys, [true, false, false, false, false, false, true, false, false, false]);
        assert_eq!(camera.counts(), (10, 2));
    }

    #[test]
    fn repairs_are_the_packet_itself_across_the_wrap() {
        let (now, mut transport) = (Instant::now(), TransportSeq::default());
        let mut camera = camera(now);
        let packets = camera.poll(now, &mut transport);
        assert!(packets.len() > 8, "the keyframe wraps the sequence number");
        for packet in &packets {
            let seq = packet.header.sequence_number;
            let repair = camera.stream.repair(now, seq, &mut transport).unwrap();
            assert_eq!((repair.header.ssrc, repair.header.payload_type), (2, 109));
            assert_eq!(repair.payload[..2], seq.to_be_bytes());
            assert_eq!(repair.payload[2..], packet.payload[..]);
            assert_eq!(repair.header.timestamp, packet.header.timestamp);
            assert_eq!(repair.header.get_extension(4).as_deref(), Some(&b"1"[..]));
        }
        let before = packets[0].header.sequence_number.wrapping_sub(1);
        assert!(camera.stream.repair(now, before, &mut transport).is_none());
        // Every packet, repairs too, has a transport-wide number of its own.
        assert_eq!(usize::from(transport.0), 2 * packets.len());
    }

    #[test]
    fn a_muted_microphone_keeps_its_clock() {
        let (mut now, mut transport) = (Instant::now(), TransportSeq::default());
        let stream = Stream::new((1, None), &section("0"), OPUS_CLOCK, WallClock::now(), 0).unwrap();
        let mut microphone = Microphone::new(now, 9, stream);
        let mut heard = Vec::new();
        for i in 0..10 {
            microphone.is_on = !(3..6).contains(&i);
            if let Some(packet) = microphone.poll(now, &mut transport) {
                let mark = media::check_opus(&packet.payload).unwrap();
                heard.push((mark.number, packet.header.timestamp));
            }
            now = microphone.poll_timeout();
        }
        assert_eq!(heard.len(), 7);
        assert_eq!(heard[3].0, heard[2].0 + 1);
        assert_eq!(heard[3].1, heard[2].1 + 4 * 960);
    }

    #[test]
    fn a_sender_report_fits_what_is_captured_also_after_a_pause() {
        let (mut now, mut transport) = (Instant::now(), TransportSeq::default());
        let mut camera = camera(now);
        for pause in [0, 3, 700, 2000] {
            now = camera.poll_timeout() + Duration::from_millis(pause);
            let packets = camera.poll(now, &mut transport);
            let bytes: Vec<u8> = {
                let mut depacketizer = rtp::codecs::h264::H264Packet::default();
                let depacketize =
                    |p: &Packet| rtp::packetizer::Depacketizer::depacketize(&mut depacketizer, &p.payload).unwrap();
                packets.iter().flat_map(depacketize).collect()
            };
            let (mark, _) = media::check_frame(&bytes).unwrap();
            let report = camera.stream.sender_report(now + Duration::from_millis(20)).unwrap();
            let ticks = i64::from(packets[0].header.timestamp) - i64::from(report.rtp_time);
            let captured = ntp_to_micros(report.ntp_time) + ticks * 1_000_000 / i64::from(VIDEO_CLOCK);
            assert!((captured - mark.captured as i64).abs() < 50, "{captured} {mark:?}");
            assert!(camera.poll_timeout() > now - Duration::from_millis(500), "what was missed for long is skipped");
        }
    }

    #[test]
    fn a_rejected_section_has_no_stream() {
        for answer in [
            AnswerSection { is_rejected: true, ..section("1") },
            AnswerSection { direction: "inactive".into(), ..section("1") },
        ] {
            assert!(Stream::new((1, None), &answer, OPUS_CLOCK, WallClock::now(), 0).is_none());
        }
    }
}
