//! What a load peer sends: packets of one size at a steady rate, which carry when they were sent and can be checked to
//! the byte. Video has the shape of H.264, so that whoever looks for keyframes finds them.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use rtp::packet::Packet;

use crate::send::{Capture, Stream, TransportSeq};

/// Rates and sizes of one sender's media.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Media {
    /// Frames a second; 0 sends no video.
    pub fps: u32,
    /// Packets of a frame.
    pub frame_packets: u32,
    /// Bytes of a video packet's payload, at least [`PAYLOAD_LEN_MIN`].
    pub video_len: usize,
    /// Over which time a frame's packets are spread; zero sends them one directly after the other.
    pub spread: Duration,
    /// Audio packets a second; 0 sends no audio.
    pub audio_rate: u32,
    /// Bytes of an audio packet's payload, at least [`PAYLOAD_LEN_MIN`].
    pub audio_len: usize,
}

impl Default for Media {
    /// A meeting's: 25 video packets and 50 audio packets a second.
    fn default() -> Self {
        let spread = Duration::ZERO;
        Media { fps: 25, frame_packets: 1, video_len: 1200, spread, audio_rate: 50, audio_len: 100 }
    }
}

/// Shortest payload that has room for the stamp.
pub const PAYLOAD_LEN_MIN: usize = 16;
/// Longest payload that every network and the server carry.
pub const PAYLOAD_LEN_MAX: usize = 1400;

/// TOC byte of a 20 ms Opus packet (RFC 6716 §3.1), H.264 slice and IDR slice (RFC 6184 §1.3).
const OPUS: u8 = 0xF8;
const SLICE: u8 = 0x41;
const IDR: u8 = 0x65;
/// A STAP-A (RFC 6184 §5.7.1) of an SPS (Constrained Baseline, level 3.1) and a PPS.
const PARAMETERS: &[u8] = &[
    0x78, 0, 14, 0x67, 0x42, 0xE0, 0x1F, 0x8C, 0x8D, 0x40, 0x50, 0x1E, 0xD0, 0x0F, 0x08, 0x84, 0x6A, 0, 4, 0x68, 0xCE,
    0x3C, 0x80,
];

/// Microseconds since 1970 in seven bits a byte, so that no start code can be in it.
const STAMP_LEN: usize = 9;

/// Audio or video of one sender.
pub(crate) struct Source {
    pub(crate) stream: Stream,
    interval: Duration,
    ticks: u32,
    packets: u32,
    len: usize,
    spread: Duration,
    is_video: bool,
    is_key_due: bool,
    is_key: bool,
    /// When the present frame is due, its timestamp, and how many of its packets have left.
    frame_at: Instant,
    timestamp: u32,
    sent: u32,
}

impl Source {
    /// Sends from `first` on; None if there is nothing to send.
    pub(crate) fn video(media: &Media, stream: Stream, first: Instant) -> Option<Source> {
        Source::new(stream, first, (media.fps, 90_000), media.frame_packets, media.video_len, media.spread, true)
    }

    /// The same for audio.
    pub(crate) fn audio(media: &Media, stream: Stream, first: Instant) -> Option<Source> {
        Source::new(stream, first, (media.audio_rate, 48_000), 1, media.audio_len, Duration::ZERO, false)
    }

    fn new(
        stream: Stream,
        first: Instant,
        (rate, clock): (u32, u32),
        packets: u32,
        len: usize,
        spread: Duration,
        is_video: bool,
    ) -> Option<Source> {
        (rate > 0 && packets > 0).then(|| Source {
            stream,
            interval: Duration::from_secs(1) / rate,
            ticks: clock / rate,
            packets,
            len: len.clamp(PAYLOAD_LEN_MIN, PAYLOAD_LEN_MAX),
            spread,
            is_video,
            is_key_due: is_video,
            is_key: false,
            frame_at: first,
            timestamp: 1000,
            sent: 0,
        })
    }

    /// The next frame will be a keyframe.
    pub(crate) fn request_keyframe(&mut self) {
        self.is_key_due = self.is_video;
    }

    /// When [`Source::poll`] has something.
    pub(crate) fn due(&self) -> Instant {
        self.frame_at + self.spread * self.sent / self.packets
    }

    /// The packet that is due, if any; call again until None. `stamp` is now, in microseconds since 1970.
    pub(crate) fn poll(&mut self, now: Instant, stamp: u64, transport: &mut TransportSeq) -> Option<Packet> {
        if now < self.due() {
            return None;
        }
        if self.sent == 0 {
            self.is_key = std::mem::take(&mut self.is_key_due);
        }
        let is_first = self.sent == 0;
        self.sent += 1;
        let is_last = self.sent == self.packets;
        let capture = Capture { at: self.frame_at, timestamp: self.timestamp, micros: stamp };
        let payload = match (self.is_video, self.is_key, is_first) {
            (false, ..) => write(&[OPUS], stamp, self.len),
            (true, true, true) => write_parameters(stamp, self.len),
            (true, true, false) => write(&[IDR], stamp, self.len),
            (true, false, _) => write(&[SLICE], stamp, self.len),
        };
        let packet = self.stream.packet(now, is_last && self.is_video, &capture, payload, transport);
        if is_last {
            self.next_frame(now);
        }
        Some(packet)
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

fn write(head: &[u8], stamp: u64, len: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(len);
    out.put_slice(head);
    (0..STAMP_LEN).for_each(|group| out.put_u8(0x80 | (stamp >> (7 * group)) as u8));
    let len = len.max(out.len());
    out.put_slice(&FILLER[out.len()..len]);
    out.freeze()
}

/// A keyframe's first packet: SPS, PPS and the first slice in one STAP-A.
fn write_parameters(stamp: u64, len: usize) -> Bytes {
    let slice = len.saturating_sub(PARAMETERS.len() + 2).max(1 + STAMP_LEN) as u16;
    let mut head = BytesMut::with_capacity(PARAMETERS.len() + 3);
    head.put_slice(PARAMETERS);
    head.put_u16(slice);
    head.put_u8(IDR);
    write(&head, stamp, len)
}

/// When a payload was sent, microseconds since 1970; None if it is not as it was written.
pub fn check(payload: &[u8]) -> Option<u64> {
    let head = match payload.first()? {
        &OPUS | &SLICE | &IDR => 1,
        _ if payload.starts_with(PARAMETERS) && payload.get(PARAMETERS.len() + 2) == Some(&IDR) => PARAMETERS.len() + 3,
        _ => return None,
    };
    let stamp = payload.get(head..head + STAMP_LEN)?;
    let rest = head + STAMP_LEN;
    let is_stamp = stamp.iter().all(|byte| byte & 0x80 != 0);
    let is_intact = is_stamp && payload.len() <= PAYLOAD_LEN_MAX && payload[rest..] == FILLER[rest..payload.len()];
    is_intact.then(|| stamp.iter().rev().fold(0, |stamp, byte| (stamp << 7) | u64::from(byte & 0x7F)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::starts_keyframe;

    #[test]
    fn a_payload_tells_when_it_was_sent_and_any_changed_bit_is_seen() {
        let stamp = 1_800_000_000_123_456;
        for (payload, len) in [
            (write(&[OPUS], stamp, 100), 100),
            (write(&[SLICE], stamp, 1200), 1200),
            (write_parameters(stamp, 1200), 1200),
            (write_parameters(stamp, PAYLOAD_LEN_MIN), PARAMETERS.len() + 12),
        ] {
            assert_eq!((check(&payload), payload.len()), (Some(stamp), len));
            for bit in 0..8 * payload.len() {
                let mut bytes = payload.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                let read = check(&bytes);
                // In the first byte a slice may turn into another kind; in the length it is the decoder's business.
                let is_head = bit / 8 < payload.len().min(PARAMETERS.len() + 3) && payload[0] == PARAMETERS[0];
                assert!(read != Some(stamp) || is_head || bit < 8, "bit {bit}");
            }
        }
        assert!(!FILLER.contains(&0));
    }

    #[test]
    fn the_server_finds_the_keyframes() {
        assert!(starts_keyframe(&write_parameters(1, 1200)));
        assert!(!starts_keyframe(&write(&[SLICE], 1, 1200)) && !starts_keyframe(&write(&[IDR], 1, 1200)));
    }
}
