//! What publishers send: H.264, or VP8 with temporal layers, that the server can read as far as it looks, and behind it what a receiver must know to tell whether
//! a frame can be decoded: who sent it, which frame it is, which one it refers to, and how many packets it has.

/// Says of itself what it is, in the last bytes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Which peer of the simulation.
    pub publisher: u16,
    /// Which encoding of its camera, the lowest first.
    pub encoding: u8,
    /// Which packet of the frame, and of how many.
    pub n: u8,
    /// How many packets the frame has.
    pub count: u8,
    /// The frame.
    pub frame: u32,
    /// The frame without which this one cannot be decoded; itself if it is a keyframe.
    pub refers_to: u32,
}

impl Mark {
    /// Bytes of it.
    pub const LEN: usize = 16;
    const MAGIC: [u8; 3] = *b"sim";

    fn write(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..2].copy_from_slice(&self.publisher.to_be_bytes());
        bytes[2..5].copy_from_slice(&[self.encoding, self.n, self.count]);
        bytes[5..9].copy_from_slice(&self.frame.to_be_bytes());
        bytes[9..13].copy_from_slice(&self.refers_to.to_be_bytes());
        bytes[13..].copy_from_slice(&Self::MAGIC);
        bytes
    }

    /// Reads the end of a payload; `None` if it is padding.
    pub fn read(payload: &[u8]) -> Option<Mark> {
        let bytes: &[u8; Self::LEN] = payload.last_chunk()?;
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        (bytes[13..] == Self::MAGIC).then(|| Mark {
            publisher: u16::from_be_bytes([bytes[0], bytes[1]]),
            encoding: bytes[2],
            n: bytes[3],
            count: bytes[4],
            frame: u32_at(5),
            refers_to: u32_at(9),
        })
    }

    /// Whether its frame needs no other.
    pub fn is_keyframe(self) -> bool {
        self.refers_to == self.frame
    }
}

/// Longest payload of a packet, bytes, as libwebrtc makes them with its header extensions.
const PAYLOAD_LEN_MAX: usize = 1150;
/// FU-A of a slice, and of an IDR slice (RFC 6184 §5.8).
const FU_SLICE: [u8; 2] = [0x5c, 0x01];
const FU_IDR: [u8; 2] = [0x7c, 0x05];
const FU_START: u8 = 0x80;
const FU_END: u8 = 0x40;
/// The first bit of a slice says that it begins the picture.
const FILL: u8 = 0x88;
const PPS: [u8; 4] = [0x68, 0xce, 0x3c, 0x80];

/// What the descriptor of a VP8 frame says (RFC 7741 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vp8 {
    /// PictureID.
    pub id: u16,
    /// TL0PICIDX.
    pub base: u8,
    /// Temporal layer.
    pub layer: u8,
    /// Whether it names the base layer alone.
    pub is_sync: bool,
}

/// The payloads of a VP8 frame of about so many bytes.
pub fn vp8_frame(mark: Mark, vp8: Vp8, height: u32, len: usize) -> Vec<Vec<u8>> {
    let count = len.div_ceil(PAYLOAD_LEN_MAX).clamp(1, 200) as u8;
    let each = (len / usize::from(count)).max(Mark::LEN + 20);
    let payload = |n: u8| {
        let [high, low] = (vp8.id | 0x8000).to_be_bytes();
        let start = if n == 0 { 0x90 } else { 0x80 };
        let layer = vp8.layer << 6 | u8::from(vp8.is_sync) << 5;
        let mut payload = vec![start, 0xe0, high, low, vp8.base, layer];
        if n == 0 && mark.is_keyframe() {
            let [width, height] = [(height * 16 / 9) as u16, height as u16].map(u16::to_le_bytes);
            payload.extend([0x10, 0, 0, 0x9d, 1, 0x2a, width[0], width[1], height[0], height[1]]);
        } else {
            payload.push(0x11);
        }
        payload.resize(each - Mark::LEN, FILL);
        [&payload[..], &Mark { n, count, ..mark }.write()].concat()
    };
    (0..count).map(payload).collect()
}

/// The payloads of an H.264 frame of about so many bytes. A keyframe has its parameter sets in front.
pub fn frame(mark: Mark, height: u32, len: usize) -> Vec<Vec<u8>> {
    let sets = mark.is_keyframe().then(|| stap_a(&[&sps(height), &PPS]));
    let slices = len.div_ceil(PAYLOAD_LEN_MAX).clamp(1, 200);
    let count = slices as u8 + u8::from(sets.is_some());
    let each = (len / slices).max(Mark::LEN + 3);
    let kind = if mark.is_keyframe() { FU_IDR } else { FU_SLICE };
    let slice = |at: usize| {
        let edges = if at == 0 { FU_START } else { 0 } | if at + 1 == slices { FU_END } else { 0 };
        let mut payload = vec![FILL; each - Mark::LEN];
        payload[..2].copy_from_slice(&[kind[0], kind[1] | edges]);
        payload
    };
    let payloads = sets.into_iter().chain((0..slices).map(slice));
    (0..).zip(payloads).map(|(n, payload)| [&payload[..], &Mark { n, count, ..mark }.write()].concat()).collect()
}

/// Several NAL units in one packet (RFC 6184 §5.7.1); the mark behind them is the content of a last one, a SEI.
fn stap_a(units: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![0x78];
    for unit in units {
        bytes.extend((unit.len() as u16).to_be_bytes());
        bytes.extend(*unit);
    }
    bytes.extend((1 + Mark::LEN as u16).to_be_bytes());
    bytes.push(6);
    bytes
}

/// A sequence parameter set (ISO/IEC 14496-10 §7.3.2.1.1) of the baseline profile for pictures of 16:9.
fn sps(height: u32) -> Vec<u8> {
    let mut bits = String::new();
    let ue = |value: u32| {
        let code = value + 1;
        let len = code.ilog2() as usize;
        format!("{}{code:b}", "0".repeat(len))
    };
    let (width, height) = ((height * 16 / 9).div_ceil(16), height.div_ceil(16));
    // Id, log2_max_frame_num, type of picture order count, reference frames, no gaps, width and height in macroblocks.
    for value in [0, 0, 2, 1] {
        bits += &ue(value);
    }
    bits += "0";
    bits += &ue(width - 1);
    bits += &ue(height - 1);
    // Frames only, direct 8×8 inference, no cropping, no VUI, and the stop bit.
    bits += "11001";
    while !bits.len().is_multiple_of(8) {
        bits += "0";
    }
    let bytes = bits.as_bytes().chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | (bit - b'0')));
    [0x67, 0x42, 0xe0, 0x1f].into_iter().chain(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_long_as_they_should_and_say_what_they_are() {
        let mark = Mark { publisher: 7, encoding: 2, n: 0, count: 0, frame: 9, refers_to: 8 };
        let packets = frame(mark, 360, 5000);
        assert_eq!(packets.len(), 5);
        assert_eq!(packets.iter().map(Vec::len).sum::<usize>(), 5000);
        assert_eq!(Mark::read(&packets[3]), Some(Mark { n: 3, count: 5, ..mark }));
        let keyframe = frame(Mark { refers_to: 9, ..mark }, 360, 5000);
        assert_eq!((keyframe.len(), keyframe[0][0] & 0x1f), (6, 24));
        assert_eq!(Mark::read(&keyframe[0]).map(Mark::is_keyframe), Some(true));
        assert_eq!(Mark::read(&[0; 40]), None);
    }
}
