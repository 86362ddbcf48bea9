//! What a load peer sends: packets of one size at a steady rate, which carry when they were sent and can be checked to
//! the byte. Video has the shape of H.264, so that whoever looks for keyframes finds them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::random::Random;
use client::rtcp::{SenderInfo, ntp_time};
use client::rtp;
use client::sdp::{ABS_SEND_TIME, AUDIO_LEVEL, AnswerSection, MID, REPAIRED_RID, RID, TRANSPORT_CC};
use proto::signal::Kind;

use super::encodings::{Chosen, ENCODINGS_MAX, Encoding, encodings};

/// Rates and sizes of one sender's media.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Media {
    /// Encodings of a camera.
    pub(super) encodings: usize,
    /// Frames a second; 0 sends no video.
    pub(super) fps: u32,
    /// Packets of a frame; of several encodings, of the largest.
    pub(super) frame_packets: u32,
    /// Bytes of a video packet's payload, at least [`PAYLOAD_LEN_MIN`].
    pub(super) video_len: usize,
    /// Over which time a frame's packets are spread; zero sends them one directly after the other.
    pub(super) spread: Duration,
    /// Audio packets a second; 0 sends no audio.
    pub(super) audio_rate: u32,
    /// Bytes of an audio packet's payload, at least [`PAYLOAD_LEN_MIN`].
    pub(super) audio_len: usize,
}

impl Media {
    /// Payloads of one sender, bit/s.
    pub(super) fn bps(&self) -> u64 {
        let largest = 8 * u64::from(self.fps) * u64::from(self.frame_packets) * self.video_len as u64;
        let small: u64 = encodings(self.encodings).iter().map(|encoding| u64::from(encoding.bps)).sum();
        largest + if self.fps > 0 { small } else { 0 } + 8 * u64::from(self.audio_rate) * self.audio_len as u64
    }

    /// Packets of a frame of a camera's encoding, and the bytes of each payload.
    fn frame(&self, encoding: Option<&Encoding>) -> (u32, usize) {
        match encoding.map_or(0, |encoding| encoding.bps) {
            0 => (self.frame_packets, self.video_len),
            bps => {
                let len = (bps / 8 / self.fps.max(1)) as usize;
                let packets = len.div_ceil(self.video_len.clamp(PAYLOAD_LEN_MIN, PAYLOAD_LEN_MAX)).max(1);
                (packets as u32, len / packets)
            }
        }
    }
}

impl Default for Media {
    /// A meeting's: 25 video packets and 50 audio packets a second.
    fn default() -> Self {
        let spread = Duration::ZERO;
        Media { encodings: 1, fps: 25, frame_packets: 1, video_len: 1200, spread, audio_rate: 50, audio_len: 100 }
    }
}

/// Shortest payload that has room for the stamp.
pub(super) const PAYLOAD_LEN_MIN: usize = 16;
/// Longest payload that every network and the server carry.
pub(super) const PAYLOAD_LEN_MAX: usize = 1400;

/// TOC byte of a 20 ms Opus packet (RFC 6716 §3.1), H.264 slice and IDR slice (RFC 6184 §1.3).
const OPUS: u8 = 0xF8;
const SLICE: u8 = 0x41;
const IDR: u8 = 0x65;
/// A STAP-A (RFC 6184 §5.7.1) of an SPS (Constrained Baseline, level 3.1) and a PPS.
const PARAMETERS: &[u8] = &[
    0x78, 0, 14, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0x8D, 0x40, 0x50, 0x1E, 0xD0, 0x0F, 0x08, 0x84, 0x6A, 0, 4, 0x68, 0xCE,
    0x3C, 0x80,
];

/// Microseconds since 1970 in seven bits a byte, so that no start code can be in it, and in the last byte which encoding it is of.
const STAMP_LEN: usize = 9;
const STAMP_BITS: usize = 7 * (STAMP_LEN - 1);

/// Packets that can be sent again.
const HISTORY_MAX: usize = 1024;
/// Packets of audio that can be sent again: no server asks for older ones.
const AUDIO_HISTORY_MAX: usize = 64;
/// Of so many seconds each speaks for so many.
const TALK_PERIOD: u32 = 8;
const TALK: u32 = 2;
/// Clocks of Opus and of video.
const OPUS_CLOCK: u32 = 48_000;
const VIDEO_CLOCK: u32 = 90_000;

/// What a packet was, so that it can be written again: its payload follows from this.
#[derive(Clone, Copy)]
struct Sent {
    timestamp: u32,
    stamp: u64,
    marker: bool,
    kind: Payload,
}

#[derive(Clone, Copy)]
enum Payload {
    Opus,
    Slice,
    KeyframeSlice,
    /// SPS, PPS and the first slice.
    KeyframeStart,
}

/// Retransmissions (RFC 4588) of a stream.
struct Rtx {
    ssrc: u32,
    pt: u8,
    seq: u16,
    /// The packets that were sent last; the newest has the sequence number before the stream's next.
    history: VecDeque<Sent>,
}

/// Header extensions of a sending section, by the answer.
struct Extensions {
    mid: Option<u8>,
    abs_send_time: Option<u8>,
    transport_cc: Option<u8>,
    audio_level: Option<u8>,
    rid: Option<u8>,
    repaired_rid: Option<u8>,
}

/// Which of several encodings of a camera a source is.
pub(super) struct Rank {
    /// The smallest is the first one.
    pub(super) rank: usize,
    /// Whether it is sent now.
    pub(super) chosen: Arc<Chosen>,
}

/// Audio or video of one sender: an RTP stream, and what is in it.
pub(super) struct Source {
    pub(super) ssrc: u32,
    mid: String,
    encoding: Option<(Rank, &'static Encoding)>,
    pt: u8,
    seq: u16,
    clock: u32,
    rtx: Option<Rtx>,
    /// Audio has no RTX: the packet itself is sent again, to the byte, as its number in SRTP is the same (RFC 3711 §9.1).
    audio_history: VecDeque<Vec<u8>>,
    extensions: Extensions,
    packets_sent: u32,
    octets_sent: u32,
    /// Timestamp and wall clock of the last packet.
    last: Option<(u32, u64)>,
    interval: Duration,
    ticks: u32,
    packets: u32,
    len: usize,
    spread: Duration,
    /// When it speaks is another time for each.
    talk_offset: u32,
    is_video: bool,
    is_key_due: bool,
    is_key: bool,
    /// When the present frame is due, its timestamp, and how many of its packets have left.
    frame_at: Instant,
    timestamp: u32,
    sent: u32,
}

impl Source {
    /// What was offered with these SSRCs and answered in this section, from `first` on; None if it was rejected, or there
    /// is nothing to send.
    pub(super) fn new(
        media: &Media,
        (kind, rank): (Kind, Option<Rank>),
        ssrcs: (u32, Option<u32>),
        answer: &AnswerSection,
        first: Instant,
        random: &mut Random,
    ) -> Option<Source> {
        let is_video = kind == Kind::Video;
        let encoding = rank.and_then(|rank| encodings(media.encodings).get(rank.rank).map(|encoding| (rank, encoding)));
        let (frame_packets, video_len) = media.frame(encoding.as_ref().map(|(_, encoding)| *encoding));
        let (rate, packets, len, spread, clock) = match is_video {
            true => (media.fps, frame_packets, video_len, media.spread, VIDEO_CLOCK),
            false => (media.audio_rate, 1, media.audio_len, Duration::ZERO, OPUS_CLOCK),
        };
        let is_answered = !answer.is_rejected && matches!(answer.direction.as_str(), "recvonly" | "sendrecv");
        if !is_answered || rate == 0 || packets == 0 {
            return None;
        }
        let id = |uri| answer.extensions.get(uri).copied();
        let history = VecDeque::new();
        let rtx = ssrcs.1.zip(answer.rtx_pt).map(|(ssrc, pt)| Rtx { ssrc, pt, seq: random.first_seq(), history });
        Some(Source {
            ssrc: ssrcs.0,
            mid: answer.mid.clone(),
            encoding,
            pt: answer.pt,
            seq: random.first_seq(),
            clock,
            rtx,
            audio_history: VecDeque::new(),
            extensions: Extensions {
                mid: id(MID),
                abs_send_time: id(ABS_SEND_TIME),
                transport_cc: id(TRANSPORT_CC),
                audio_level: id(AUDIO_LEVEL),
                rid: id(RID),
                repaired_rid: id(REPAIRED_RID),
            },
            packets_sent: 0,
            octets_sent: 0,
            last: None,
            interval: Duration::from_secs(1) / rate,
            ticks: clock / rate,
            packets,
            len: len.clamp(PAYLOAD_LEN_MIN, PAYLOAD_LEN_MAX),
            spread,
            talk_offset: random.ssrc() % (TALK_PERIOD * clock),
            is_video,
            is_key_due: is_video,
            is_key: false,
            frame_at: first,
            timestamp: 1000,
            sent: 0,
        })
    }

    /// The next frame will be a keyframe.
    pub(super) fn request_keyframe(&mut self) {
        self.is_key_due = self.is_video;
    }

    /// Whether it is an encoding that nobody receives.
    fn is_paused(&self) -> bool {
        self.encoding.as_ref().is_some_and(|(rank, _)| rank.chosen.is_paused(rank.rank))
    }

    /// What its payloads say of it.
    fn marks(&self) -> Marks {
        match &self.encoding {
            None => Marks { rank: 0, parameters: PARAMETERS },
            Some((rank, encoding)) => Marks { rank: rank.rank, parameters: encoding.parameters },
        }
    }

    /// When [`Source::poll`] has something.
    pub(super) fn due(&self) -> Instant {
        self.frame_at + self.spread * self.sent / self.packets
    }

    /// Writes the packet that is due, if any, into `out`: its length. Call again until None. `stamp` is now, in microseconds
    /// since 1970; `transport_seq` counts all packets of the peer.
    pub(super) fn poll(&mut self, now: Instant, stamp: u64, transport_seq: &mut u16, out: &mut [u8]) -> Option<usize> {
        if now < self.due() {
            return None;
        }
        if self.sent == 0 && self.is_paused() {
            // It goes on with a keyframe.
            self.is_key_due = true;
            self.next_frame(now);
            return None;
        }
        if self.sent == 0 {
            self.is_key = std::mem::take(&mut self.is_key_due);
        }
        let is_first = self.sent == 0;
        self.sent += 1;
        let is_last = self.sent == self.packets;
        let kind = match (self.is_video, self.is_key, is_first) {
            (false, ..) => Payload::Opus,
            (true, true, true) => Payload::KeyframeStart,
            (true, true, false) => Payload::KeyframeSlice,
            (true, false, _) => Payload::Slice,
        };
        let sent = Sent { timestamp: self.timestamp, stamp, marker: is_last && self.is_video, kind };
        let fields = self.fields(&sent, self.pt, self.seq, self.ssrc);
        let header_len = self.write_header(&fields, stamp, transport_seq, out);
        let len = header_len + write(kind, &self.marks(), stamp, self.len, &mut out[header_len..]);
        self.seq = self.seq.wrapping_add(1);
        self.packets_sent = self.packets_sent.wrapping_add(1);
        self.octets_sent = self.octets_sent.wrapping_add((len - header_len) as u32);
        self.last = Some((self.timestamp, stamp));
        if let Some(rtx) = &mut self.rtx {
            if rtx.history.len() == HISTORY_MAX {
                rtx.history.pop_front();
            }
            rtx.history.push_back(sent);
        }
        if !self.is_video {
            let is_full = self.audio_history.len() == AUDIO_HISTORY_MAX;
            let mut packet = if is_full { self.audio_history.pop_front() } else { None }.unwrap_or_default();
            packet.clear();
            packet.extend_from_slice(&out[..len]);
            self.audio_history.push_back(packet);
        }
        if is_last {
            self.next_frame(now);
        }
        Some(len)
    }

    /// Writes the retransmission of a packet; None if it is too old, or the answer has no RTX.
    pub(super) fn repair(&mut self, stamp: u64, seq: u16, transport_seq: &mut u16, out: &mut [u8]) -> Option<usize> {
        if !self.is_video {
            let age = usize::from(self.seq.wrapping_sub(seq));
            let packet = self.audio_history.get(self.audio_history.len().checked_sub(age)?)?;
            out[..packet.len()].copy_from_slice(packet);
            return Some(packet.len());
        }
        let rtx = self.rtx.as_mut()?;
        let age = usize::from(self.seq.wrapping_sub(seq));
        let sent = *rtx.history.get(rtx.history.len().checked_sub(age)?)?;
        let (pt, rtx_seq, ssrc) = (rtx.pt, rtx.seq, rtx.ssrc);
        rtx.seq = rtx_seq.wrapping_add(1);
        let fields = self.fields(&sent, pt, rtx_seq, ssrc);
        let header_len = self.write_header(&fields, stamp, transport_seq, out);
        // The original sequence number stands before the payload (RFC 4588 §4).
        out[header_len..header_len + 2].copy_from_slice(&seq.to_be_bytes());
        Some(header_len + 2 + write(sent.kind, &self.marks(), sent.stamp, self.len, &mut out[header_len + 2..]))
    }

    fn fields(&self, sent: &Sent, pt: u8, seq: u16, ssrc: u32) -> rtp::Fields {
        rtp::Fields { marker: sent.marker, pt, seq, timestamp: sent.timestamp, ssrc }
    }

    fn write_header(&self, fields: &rtp::Fields, stamp: u64, transport_seq: &mut u16, out: &mut [u8]) -> usize {
        *transport_seq = transport_seq.wrapping_add(1);
        // 6.18 fixed-point seconds in 24 bits.
        let send_time = (((u128::from(stamp) << 18) / 1_000_000) as u32).to_be_bytes();
        let number = transport_seq.to_be_bytes();
        let level = [self.level()];
        let rid = self.encoding.as_ref().map(|(_, encoding)| encoding.rid.as_bytes());
        let is_repair = fields.ssrc != self.ssrc;
        let rid_id = if is_repair { self.extensions.repaired_rid } else { self.extensions.rid };
        let all: [(Option<u8>, &[u8]); 5] = [
            (self.extensions.abs_send_time, &send_time[1..]),
            (self.extensions.transport_cc, &number),
            (self.extensions.mid, self.mid.as_bytes()),
            (self.extensions.audio_level, &level),
            (rid.and(rid_id), rid.unwrap_or_default()),
        ];
        let mut answered = [(0, &[][..]); 5];
        let mut count = 0;
        for (id, value) in all {
            if let Some(id) = id {
                answered[count] = (id, value);
                count += 1;
            }
        }
        rtp::write(out, fields, &answered[..count])
    }

    /// Its audio level (RFC 6464 §3): speech of -30 dBov for two seconds of eight, and a quiet room.
    fn level(&self) -> u8 {
        let second = self.timestamp.wrapping_add(self.talk_offset) / self.clock % TALK_PERIOD;
        if second < TALK { 0x80 | 30 } else { 90 }
    }

    /// What a sender report says now; None before the first packet.
    pub(super) fn sender_info(&self, stamp: u64) -> Option<SenderInfo> {
        let (timestamp, at) = self.last?;
        let elapsed = stamp.saturating_sub(at);
        Some(SenderInfo {
            ssrc: self.ssrc,
            ntp_time: ntp_time(stamp),
            rtp_time: timestamp.wrapping_add((elapsed * u64::from(self.clock) / 1_000_000) as u32),
            packets: self.packets_sent,
            octets: self.octets_sent,
        })
    }

    /// A sender that was held up for long skips what it missed.
    fn next_frame(&mut self, now: Instant) {
        self.sent = 0;
        let missed = now.saturating_duration_since(self.frame_at).as_nanos() / self.interval.as_nanos();
        let steps = if missed > 10 { missed as u32 } else { 1 };
        self.frame_at += self.interval * steps;
        self.timestamp = self.timestamp.wrapping_add(self.ticks * steps);
    }
}

/// What every payload has at each place, never zero: H.264 must not see a start code.
const FILLER: [u8; PAYLOAD_LEN_MAX] = {
    let mut filler = [0; PAYLOAD_LEN_MAX];
    let mut at = 0;
    while at < PAYLOAD_LEN_MAX {
        filler[at] = (at % 251) as u8 | 1;
        at += 1;
    }
    filler
};

/// What all payloads of a source have beside their time.
struct Marks {
    /// Which encoding.
    rank: usize,
    /// What a keyframe begins with.
    parameters: &'static [u8],
}

/// Writes a payload of `len` bytes, or of what it has at least. Its length.
fn write(kind: Payload, marks: &Marks, stamp: u64, len: usize, out: &mut [u8]) -> usize {
    let Marks { rank, parameters } = *marks;
    let mut at = 1;
    match kind {
        Payload::Opus => out[0] = OPUS,
        Payload::Slice => out[0] = SLICE,
        Payload::KeyframeSlice => out[0] = IDR,
        Payload::KeyframeStart => {
            let slice = len.saturating_sub(parameters.len() + 2).max(1 + STAMP_LEN) as u16;
            out[..parameters.len()].copy_from_slice(parameters);
            out[parameters.len()..parameters.len() + 2].copy_from_slice(&slice.to_be_bytes());
            at = parameters.len() + 3;
            out[at - 1] = IDR;
        }
    }
    let stamp = stamp & ((1 << STAMP_BITS) - 1) | (rank as u64) << STAMP_BITS;
    for group in 0..STAMP_LEN {
        out[at + group] = 0x80 | (stamp >> (7 * group)) as u8;
    }
    at += STAMP_LEN;
    let len = len.max(at);
    out[at..len].copy_from_slice(&FILLER[at..len]);
    len
}

/// What a payload says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Checked {
    /// When it was sent, microseconds since 1970.
    pub(super) sent_at: u64,
    /// Which of several encodings of a camera it is of.
    pub(super) encoding: usize,
}

/// Reads a payload; None if it is not as it was written.
pub(super) fn check(payload: &[u8]) -> Option<Checked> {
    let head = match payload.first()? {
        &OPUS | &SLICE | &IDR => 1,
        _ => {
            let all = encodings(ENCODINGS_MAX).iter().map(|encoding| encoding.parameters);
            let begins = all.chain([PARAMETERS]).find(|parameters| payload.starts_with(parameters))?.len();
            (payload.get(begins + 2) == Some(&IDR)).then_some(begins + 3)?
        }
    };
    let stamp = payload.get(head..head + STAMP_LEN)?;
    let rest = head + STAMP_LEN;
    let is_stamp = stamp.iter().all(|byte| byte & 0x80 != 0);
    let is_intact = is_stamp && payload.len() <= PAYLOAD_LEN_MAX && payload[rest..] == FILLER[rest..payload.len()];
    is_intact.then(|| {
        let stamp = stamp.iter().rev().fold(0, |stamp, byte| (stamp << 7) | u64::from(byte & 0x7F));
        Checked { sent_at: stamp & ((1 << STAMP_BITS) - 1), encoding: (stamp >> STAMP_BITS) as usize }
    })
}

#[cfg(test)]
mod tests {
    use proto::signal::PausedEncodings;

    use super::*;

    const SINGLE: Marks = Marks { rank: 0, parameters: PARAMETERS };

    fn payload(kind: Payload, stamp: u64, len: usize) -> Vec<u8> {
        payload_of(kind, &SINGLE, stamp, len)
    }

    fn payload_of(kind: Payload, marks: &Marks, stamp: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; 2048];
        let len = write(kind, marks, stamp, len, &mut out);
        out.truncate(len);
        out
    }

    #[test]
    fn a_payload_tells_when_it_was_sent_and_any_changed_bit_is_seen() {
        let stamp = 1_800_000_000_123_456;
        for (payload, len) in [
            (payload(Payload::Opus, stamp, 100), 100),
            (payload(Payload::Slice, stamp, 1200), 1200),
            (payload(Payload::KeyframeStart, stamp, 1200), 1200),
            (payload(Payload::KeyframeStart, stamp, PAYLOAD_LEN_MIN), PARAMETERS.len() + 12),
        ] {
            let whole = Some(Checked { sent_at: stamp, encoding: 0 });
            assert_eq!((check(&payload), payload.len()), (whole, len));
            for bit in 0..8 * payload.len() {
                let mut bytes = payload.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let read = check(&bytes);
                // In the first byte a slice may turn into another kind; in the length it is the decoder's business.
                let is_head = bit / 8 < payload.len().min(PARAMETERS.len() + 3) && payload[0] == PARAMETERS[0];
                assert!(read != whole || is_head || bit < 8, "bit {bit}");
            }
        }
        for (rank, encoding) in encodings(ENCODINGS_MAX).iter().enumerate() {
            let marks = Marks { rank, parameters: encoding.parameters };
            for kind in [Payload::Slice, Payload::KeyframeStart] {
                let whole = Some(Checked { sent_at: stamp, encoding: rank });
                assert_eq!(check(&payload_of(kind, &marks, stamp, 500)), whole, "{}", encoding.rid);
            }
        }
        assert!(!FILLER.contains(&0));
    }

    #[test]
    fn the_server_finds_the_keyframes() {
        // An SPS, alone or first in a STAP-A (RFC 6184 §5.7.1).
        let starts_keyframe =
            |payload: &[u8]| payload[0] & 0x1F == 7 || (payload[0] & 0x1F == 24 && payload[3] & 0x1F == 7);
        assert!(starts_keyframe(&payload(Payload::KeyframeStart, 1, 1200)));
        let others = [Payload::Slice, Payload::KeyframeSlice];
        assert!(others.into_iter().all(|kind| !starts_keyframe(&payload(kind, 1, 1200))));
    }

    fn video(first: Instant, media: &Media) -> Source {
        let extensions = [(MID, 4), (TRANSPORT_CC, 3), (ABS_SEND_TIME, 2)].map(|(uri, id)| (uri.to_owned(), id)).into();
        let (mid, direction) = ("1".to_owned(), "recvonly".to_owned());
        let answer =
            AnswerSection { mid, direction, pt: 108, rtx_pt: Some(109), extensions, ..AnswerSection::default() };
        Source::new(media, (Kind::Video, None), (1, Some(2)), &answer, first, &mut Random::from_seed(1)).unwrap()
    }

    #[test]
    fn a_retransmission_is_the_packet_itself() {
        let media = Media { frame_packets: 10, ..Media::default() };
        let (mut now, mut transport_seq, mut out) = (Instant::now(), 0, [0; 2048]);
        let mut source = video(now, &media);
        let mut sent = Vec::new();
        for frame in 0..150 {
            while let Some(len) = source.poll(now, 1_000_000 + frame, &mut transport_seq, &mut out) {
                sent.push(out[..len].to_vec());
            }
            now = source.due();
        }
        let head = |packet: &[u8]| rtp::Header::parse(packet).unwrap();
        for (i, packet) in sent.iter().enumerate() {
            let original = head(packet);
            assert_eq!(original.marker, i % 10 == 9);
            let repaired = source.repair(9, original.seq, &mut transport_seq, &mut out);
            assert_eq!(repaired.is_some(), i >= sent.len() - HISTORY_MAX, "packet {i}");
            let Some(len) = repaired else { continue };
            let repair = head(&out[..len]);
            assert_eq!((repair.ssrc, repair.pt, repair.timestamp), (2, 109, original.timestamp));
            assert_eq!(out[repair.len..repair.len + 2], original.seq.to_be_bytes());
            assert_eq!(out[repair.len + 2..len], packet[original.len..]);
            assert_eq!(rtp::extension(&out[..len], 4), Some(&b"1"[..]));
        }
        let next = head(sent.last().unwrap()).seq.wrapping_add(1);
        assert!(source.repair(9, next, &mut transport_seq, &mut out).is_none(), "it was not sent yet");
        assert_eq!(usize::from(transport_seq), sent.len() + HISTORY_MAX, "each has a number of its own");
        let info = source.sender_info(1_000_149 + 40_000).unwrap();
        assert_eq!((info.packets, info.rtp_time), (1500, head(sent.last().unwrap()).timestamp + 3600));
    }

    #[test]
    fn an_encoding_has_its_rate_and_its_rid_and_is_not_sent_while_it_is_paused() {
        let ids = [(MID, 4), (RID, 10), (REPAIRED_RID, 11)].map(|(uri, id)| (uri.to_owned(), id));
        let (mid, direction, extensions) = ("1".to_owned(), "recvonly".to_owned(), ids.into());
        let answer =
            AnswerSection { mid, direction, pt: 108, rtx_pt: Some(109), extensions, ..AnswerSection::default() };
        let media = Media { encodings: 3, frame_packets: 4, ..Media::default() };
        assert_eq!(media.bps(), 100_000 + 350_000 + 960_000 + 40_000);
        for (rank, (rid, packets)) in [("l", 1), ("m", 2), ("h", 4)].into_iter().enumerate() {
            let chosen = Arc::new(Chosen::new(3));
            let (mut now, mut random, mut out) = (Instant::now(), Random::from_seed(1), [0; 2048]);
            let of = (Kind::Video, Some(Rank { rank, chosen: chosen.clone() }));
            let mut source = Source::new(&media, of, (1, Some(2)), &answer, now, &mut random).unwrap();
            let mut frames = |source: &mut Source, count| {
                let (mut lens, mut transport_seq) = (Vec::new(), 0);
                for _ in 0..count {
                    while let Some(len) = source.poll(now, 1_000_000, &mut transport_seq, &mut out) {
                        let head = rtp::Header::parse(&out[..len]).unwrap();
                        assert_eq!(rtp::extension(&out[..len], 10), Some(rid.as_bytes()));
                        lens.push(len - head.len);
                    }
                    now = source.due();
                }
                (lens, out)
            };
            let (lens, _) = frames(&mut source, 25);
            let bps = 8 * lens.iter().sum::<usize>() as u64;
            let expected = [100_000, 350_000, 960_000][rank];
            assert!(lens.len() == 25 * packets && bps.abs_diff(expected) < expected / 50, "{rid}: {bps}");
            chosen.pause(&[PausedEncodings { mid: "1".into(), rids: vec![rid.into()] }]);
            assert_eq!(frames(&mut source, 25).0.len(), 0);
            chosen.pause(&[]);
            let (lens, mut out) = frames(&mut source, 1);
            assert_eq!(lens.len(), packets);
            if packets == 1 {
                let payload = &out[rtp::Header::parse(&out).unwrap().len..][..lens[0]];
                assert!(payload[0] == 0x78 && check(payload).is_some(), "it goes on with a keyframe");
            }
            let len = source.repair(9, source.seq.wrapping_sub(1), &mut 0, &mut out).unwrap();
            let extensions = [10, 11].map(|id| rtp::extension(&out[..len], id));
            assert_eq!(extensions, [None, Some(rid.as_bytes())]);
        }
    }

    #[test]
    fn audio_is_sent_again_as_it_was() {
        let (mut now, mut transport_seq, mut out) = (Instant::now(), 0, [0; 2048]);
        let extensions = [(MID, 4), (TRANSPORT_CC, 3)].map(|(uri, id)| (uri.to_owned(), id)).into();
        let (mid, direction) = ("0".to_owned(), "recvonly".to_owned());
        let answer = AnswerSection { mid, direction, pt: 111, extensions, ..AnswerSection::default() };
        let (media, mut random) = (Media::default(), Random::from_seed(1));
        let mut source = Source::new(&media, (Kind::Audio, None), (1, None), &answer, now, &mut random).unwrap();
        let mut sent = Vec::new();
        for n in 0..2 * AUDIO_HISTORY_MAX as u64 {
            let len = source.poll(now, 1_000_000 + n, &mut transport_seq, &mut out).unwrap();
            sent.push(out[..len].to_vec());
            now = source.due();
        }
        for (n, packet) in sent.iter().enumerate() {
            let seq = rtp::Header::parse(packet).unwrap().seq;
            let len = source.repair(9, seq, &mut transport_seq, &mut out);
            assert_eq!(len.map(|len| &out[..len]), (n >= AUDIO_HISTORY_MAX).then_some(&packet[..]), "packet {n}");
        }
        assert_eq!(usize::from(transport_seq), sent.len(), "it keeps the number that it had");
        assert!(source.repair(9, source.seq, &mut transport_seq, &mut out).is_none(), "it was not sent yet");
    }

    #[test]
    fn a_rejected_section_is_not_sent_in() {
        let media = Media::default();
        for (is_rejected, direction) in [(true, "recvonly"), (false, "inactive"), (false, "sendonly")] {
            let answer = AnswerSection { is_rejected, direction: direction.to_owned(), ..AnswerSection::default() };
            let mut random = Random::from_seed(1);
            assert!(
                Source::new(&media, (Kind::Audio, None), (1, None), &answer, Instant::now(), &mut random).is_none()
            );
        }
    }
}
