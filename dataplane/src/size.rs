//! Leaf: how large the pictures of a keyframe are, as its stream says it: in the header of a VP8 keyframe (RFC 6386 §9.1), or in
//! the sequence parameter set of H.264 (ISO/IEC 14496-10 §7.3.2.1.1). Of several encodings of a track the one with the larger
//! pictures is the better one.

/// Width and height of pictures, 0 as long as nobody knows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Size {
    /// Pixels in a line.
    pub width: u32,
    /// Lines.
    pub height: u32,
}

impl Size {
    /// Pixels of a picture.
    pub fn pixels(self) -> u32 {
        self.width.saturating_mul(self.height)
    }

    /// The shorter side: the same however a phone is held, and however a receiver turns the picture.
    pub fn lines(self) -> u32 {
        self.width.min(self.height)
    }
}

/// The size of a VP8 keyframe, whose first bytes these are: a tag of three bytes, a start code of three, and then 14
/// bits each of width and height, below two bits of scaling.
pub fn vp8(frame: &[u8]) -> Option<Size> {
    let &[tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = frame.first_chunk::<10>()? else { return None };
    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let size = Size { width: side(w0, w1), height: side(h0, h1) };
    Some(size).filter(|size| tag & 1 == 0 && size.pixels() > 0)
}

/// The size of the pictures of H.264 that refer to this sequence parameter set, in whole macroblocks: what is cropped
/// from them is less than a macroblock on each side.
pub fn h264(sps: &[u8]) -> Option<Size> {
    let (&header, rest) = sps.split_first()?;
    if header & 0x1f != 7 {
        return None;
    }
    let mut bits = Bits { bytes: rest, at: 0, zeros: 0 };
    let profile_idc = bits.take(8)?;
    bits.take(16)?; // Constraints and level_idc.
    bits.number()?; // seq_parameter_set_id
    if matches!(profile_idc, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        bits.skip_chroma()?;
    }
    bits.number()?; // log2_max_frame_num_minus4
    match bits.number()? {
        0 => drop(bits.number()?), // log2_max_pic_order_cnt_lsb_minus4
        1 => {
            bits.take(1)?; // delta_pic_order_always_zero_flag
            bits.number()?; // offset_for_non_ref_pic, and the next: signed, of the same length
            bits.number()?;
            for _ in 0..bits.number().filter(|count| *count < 256)? {
                bits.number()?;
            }
        }
        _ => {}
    }
    bits.number()?; // max_num_ref_frames
    bits.take(1)?; // gaps_in_frame_num_value_allowed_flag
    let (width, height) = (bits.number()?.checked_add(1)?, bits.number()?.checked_add(1)?);
    let fields = 2 - bits.take(1)?; // A map unit is two macroblocks high unless frame_mbs_only_flag.
    let height = height.checked_mul(fields)?;
    // Level 6.2 has 139,264 macroblocks at most (table A-1).
    let is_possible = width.checked_mul(height).is_some_and(|count| count <= 139_264);
    is_possible.then(|| Size { width: 16 * width, height: 16 * height })
}

/// The bits of a NAL unit, without the bytes that keep start codes out of it (§7.4.1: `00 00 03`).
struct Bits<'a> {
    bytes: &'a [u8],
    /// Bits of the first byte that are read.
    at: u32,
    /// Zero bytes before the first one.
    zeros: u8,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<u32> {
        if self.at == 0 && self.zeros >= 2 && *self.bytes.first()? == 3 {
            (self.bytes, self.zeros) = (&self.bytes[1..], 0);
        }
        let &byte = self.bytes.first()?;
        let bit = byte >> (7 - self.at) & 1;
        self.at += 1;
        if self.at == 8 {
            self.zeros = if byte == 0 { self.zeros.saturating_add(1) } else { 0 };
            (self.bytes, self.at) = (&self.bytes[1..], 0);
        }
        Some(bit.into())
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | self.bit()?))
    }

    /// ue(v), and the length of se(v) (§9.1).
    fn number(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros == 32 {
                return None;
            }
        }
        let rest = self.take(zeros)?;
        ((1u64 << zeros) - 1).checked_add(rest.into())?.try_into().ok()
    }

    /// What only the high profiles have.
    fn skip_chroma(&mut self) -> Option<()> {
        let chroma_format_idc = self.number()?;
        if chroma_format_idc == 3 {
            self.take(1)?; // separate_colour_plane_flag
        }
        self.number()?; // bit_depth_luma_minus8
        self.number()?; // bit_depth_chroma_minus8
        self.take(1)?; // qpprime_y_zero_transform_bypass_flag
        if self.take(1)? == 1 {
            for list in 0..if chroma_format_idc == 3 { 12 } else { 8 } {
                if self.take(1)? == 1 {
                    self.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                }
            }
        }
        Some(())
    }

    /// §7.3.2.1.1.1
    fn skip_scaling_list(&mut self, len: usize) -> Option<()> {
        let (mut last, mut next) = (8i64, 8i64);
        for _ in 0..len {
            if next != 0 {
                let code = i64::from(self.number()?);
                let delta = if code % 2 == 0 { -(code / 2) } else { code / 2 + 1 };
                next = (last + delta).rem_euclid(256);
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_size_of_a_vp8_keyframe_is_in_its_header() {
        let frame = [0x50, 0x42, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x42, 0xe0, 0x01, 9];
        assert_eq!(vp8(&frame), Some(Size { width: 640, height: 480 }), "scaling is no part of it");
        assert_eq!(vp8(&frame[..9]), None);
        assert_eq!(vp8(&[&[0x51], &frame[1..]].concat()), None, "an interframe");
        assert_eq!(vp8(&[&frame[..3], &[0; 7]].concat()), None, "no start code");
    }

    #[test]
    fn the_size_of_h264_is_in_its_sps() {
        // Of x264: high profile, 1280×720; baseline of libwebrtc's OpenH264, 640×360 (23 rows of macroblocks).
        let high = [
            0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00,
            0x00, 0x03, 0x03, 0x20, 0xf1, 0x83, 0x19, 0x60,
        ];
        assert_eq!(h264(&high), Some(Size { width: 1280, height: 720 }));
        let baseline = [0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x50, 0x17, 0xfc, 0xb0, 0x0f, 0x08, 0x84, 0x6a];
        assert_eq!(h264(&baseline), Some(Size { width: 640, height: 368 }));
        assert_eq!(h264(&[0x68, 0xce, 0x3c, 0x80]), None, "a PPS");
        for len in 0..10 {
            assert_eq!(h264(&high[..len]), None, "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_size_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80), first in 0..256u32) {
            let bytes = [&[first as u8 | 0x07][..], &bytes].concat();
            prop_assert!(h264(&bytes).is_none_or(|size| size.pixels() <= 256 * 139_264));
            prop_assert!(vp8(&bytes).is_none_or(|size| size.pixels() < 1 << 28));
        }
    }
}
