//! What is sent, and how a receiver proves that it got just that.
//!
//! Each Opus packet and each H.264 frame begins with a [`Mark`]: who sent it, its number, its length. All other bytes
//! follow from the mark, so a receiver makes the packet again and compares every byte; numbers prove order and
//! completeness. H.264 has the shape of the real thing (SPS, PPS and IDR as a keyframe, slices between), so that
//! whoever looks for keyframes in it finds them.

use bytes::{BufMut, Bytes, BytesMut};

/// Audio or video, as tests and reports say it.
pub use proto::signal::Kind;

/// Head of every audio packet and every frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The sender's number, given by the test.
    pub publisher: u32,
    /// Counts this publisher's packets or frames from 0, without holes.
    pub number: u32,
    /// Bytes that follow the mark.
    pub len: u32,
    /// When it was captured, microseconds since 1970 by the sender's clock.
    pub captured: u64,
}

/// An intact packet or frame.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// What it said of itself.
    pub mark: Mark,
    /// Whether it is a keyframe.
    pub is_key: bool,
    /// When it was captured by the slot's sender reports, minus when it was by its mark, microseconds. Tells nothing
    /// by itself, for the server may use a clock of its own; but it must be the same for audio and video.
    pub clock_offset: Option<i64>,
}

/// Bytes of a mark: three numbers of 32 bits and one of 64, 7 bits in a byte.
const MARK_LEN: usize = 25;
/// TOC byte of a 20 ms Opus packet (RFC 6716 §3.1): CELT, fullband, one frame.
const OPUS_TOC: u8 = 0xF8;
/// Constrained Baseline, level 3.1.
const SPS: [u8; 14] = [0x67, 0x42, 0xE0, 0x1F, 0x8C, 0x8D, 0x40, 0x50, 0x1E, 0xD0, 0x0F, 0x08, 0x84, 0x6A];
const PPS: [u8; 4] = [0x68, 0xCE, 0x3C, 0x80];
const NAL_IDR: u8 = 0x65;
const NAL_SLICE: u8 = 0x41;
const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// What was received is not what the mark says was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt;

impl Mark {
    /// No byte is zero: H.264 must not see a start code in it.
    fn write(&self, out: &mut BytesMut) {
        let mut put = |value: u64, groups: u32| {
            (0..groups).for_each(|group| out.put_u8(0x80 | (value >> (7 * group)) as u8));
        };
        put(self.publisher.into(), 5);
        put(self.number.into(), 5);
        put(self.len.into(), 5);
        put(self.captured, 10);
    }

    fn parse(bytes: &[u8]) -> Result<Mark, Corrupt> {
        let bytes = bytes.get(..MARK_LEN).ok_or(Corrupt)?;
        let value = |range: std::ops::Range<usize>| {
            bytes[range].iter().rev().fold(0u64, |value, byte| (value << 7) | u64::from(byte & 0x7F))
        };
        let short = |at: usize| value(at..at + 5) as u32;
        Ok(Mark { publisher: short(0), number: short(5), len: short(10), captured: value(15..25) })
    }

    /// The bytes that follow this mark: pseudo-random (SplitMix64), none zero.
    fn write_body(&self, out: &mut BytesMut) {
        let mut state = (u64::from(self.publisher) << 32 | u64::from(self.number)) ^ self.captured.rotate_left(24);
        let mut left = self.len as usize;
        while left > 0 {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word = (word ^ (word >> 31)) | 0x0101_0101_0101_0101;
            let take = left.min(8);
            out.put_slice(&word.to_le_bytes()[..take]);
            left -= take;
        }
    }
}

/// An Opus packet.
pub fn opus(mark: Mark) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + MARK_LEN + mark.len as usize);
    out.put_u8(OPUS_TOC);
    mark.write(&mut out);
    mark.write_body(&mut out);
    out.freeze()
}

/// Whose Opus packet this is, if it is intact.
pub fn check_opus(packet: &[u8]) -> Result<Mark, Corrupt> {
    let mark = Mark::parse(packet.get(1..).ok_or(Corrupt)?)?;
    // A corrupt length must not make us allocate.
    let is_intact = packet.len() == 1 + MARK_LEN + mark.len as usize && opus(mark) == packet;
    is_intact.then_some(mark).ok_or(Corrupt)
}

/// An H.264 access unit in Annex B form.
pub fn frame(mark: Mark, is_key: bool) -> Bytes {
    let mut out = BytesMut::with_capacity(48 + MARK_LEN + mark.len as usize);
    if is_key {
        for parameters in [&SPS[..], &PPS[..]] {
            out.put_slice(&START_CODE);
            out.put_slice(parameters);
        }
    }
    out.put_slice(&START_CODE);
    out.put_u8(if is_key { NAL_IDR } else { NAL_SLICE });
    mark.write(&mut out);
    mark.write_body(&mut out);
    out.freeze()
}

/// Whose frame this is and whether it is a keyframe, if it is intact.
pub fn check_frame(unit: &[u8]) -> Result<(Mark, bool), Corrupt> {
    let key_head = 2 * START_CODE.len() + SPS.len() + PPS.len();
    let is_key = unit.get(START_CODE.len()) == Some(&SPS[0]);
    let head = START_CODE.len() + 1 + if is_key { key_head } else { 0 };
    let mark = Mark::parse(unit.get(head..).ok_or(Corrupt)?)?;
    let is_intact = unit.len() == head + MARK_LEN + mark.len as usize && frame(mark, is_key) == unit;
    is_intact.then_some((mark, is_key)).ok_or(Corrupt)
}

/// Whether an RTP payload begins a keyframe: an SPS, alone or first in a STAP-A (RFC 6184 §5.7.1).
pub fn starts_keyframe(payload: &[u8]) -> bool {
    match payload.first().map(|b| b & 0x1F) {
        Some(7) => true,
        Some(24) => payload.get(3).is_some_and(|b| b & 0x1F == 7),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use rtp::codecs::h264::{H264Packet, H264Payloader};
    use rtp::packetizer::{Depacketizer, Payloader};

    use super::*;

    const MARKS: [Mark; 3] = [
        Mark { publisher: 0, number: 0, len: 1, captured: 0 },
        Mark { publisher: 7, number: u32::MAX, len: 80, captured: 1_800_000_000_000_001 },
        Mark { publisher: u32::MAX, number: 256, len: 4000, captured: u64::MAX },
    ];

    #[test]
    fn what_was_sent_is_recognised_and_any_changed_bit_is_seen() {
        for mark in MARKS {
            assert_eq!(check_opus(&opus(mark)), Ok(mark));
            for is_key in [true, false] {
                assert_eq!(check_frame(&frame(mark, is_key)), Ok((mark, is_key)));
            }
        }
        let (packet, unit) = (opus(MARKS[1]), frame(MARKS[1], true));
        for bit in 0..8 * packet.len() {
            let mut bytes = packet.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check_opus(&bytes), Err(Corrupt), "bit {bit}");
        }
        for bit in 0..8 * unit.len() {
            let mut bytes = unit.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(check_frame(&bytes), Err(Corrupt), "bit {bit}");
        }
        assert_eq!(check_opus(&packet[..packet.len() - 1]), Err(Corrupt));
        assert_eq!(check_frame(&unit[..unit.len() - 1]), Err(Corrupt));
        assert_eq!(check_opus(&[]), Err(Corrupt));
        assert_eq!(check_frame(&[]), Err(Corrupt));
    }

    #[test]
    fn frames_travel_in_rtp_and_keyframes_begin_with_sps() {
        for mark in MARKS {
            for is_key in [true, false] {
                let unit = frame(mark, is_key);
                let payloads = H264Payloader::default().payload(1100, &unit).unwrap();
                assert_eq!(starts_keyframe(&payloads[0]), is_key);
                assert!(payloads[1..].iter().all(|payload| !starts_keyframe(payload)));
                let mut depacketizer = H264Packet::default();
                let back: Vec<u8> =
                    payloads.iter().flat_map(|payload| depacketizer.depacketize(payload).unwrap()).collect();
                assert_eq!(check_frame(&back), Ok((mark, is_key)));
            }
        }
    }
}
