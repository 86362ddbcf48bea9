//! What the packet path looks at inside a payload: whether a packet starts a keyframe of H.264 (RFC 6184), VP8 (RFC 7741),
//! VP9 (RFC 9628) or AV1 (AV1 RTP payload format), where a route may begin or change its source or its codec.

use proto::plane::Codec;

use crate::picture;

/// Whether a receiver that knows nothing of the stream may begin with this packet. Always, for audio.
pub fn starts_keyframe(codec: Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Opus => true,
        Codec::H264 => h264_starts_keyframe(payload),
        Codec::Vp8 => vp8_starts_keyframe(payload),
        Codec::Vp9 => vp9_starts_keyframe(payload),
        Codec::Av1 => av1_starts_keyframe(payload),
    }
}

/// NAL unit types of RFC 6184 §5.4 and ISO/IEC 14496-10 table 7-1.
mod nal {
    pub(super) const SPS: u8 = 7;
    pub(super) const STAP_A: u8 = 24;
    pub(super) const FU_A: u8 = 28;
}

/// The NAL unit type is in the low five bits; the others are forbidden_zero_bit and nal_ref_idc.
const fn nal_type(byte: u8) -> u8 {
    byte & 0x1f
}

/// Whether this RTP payload carries (the start of) a sequence parameter set, alone, in an aggregate or fragmented.
///
/// The SPS, not the IDR slice, is the switch point: a decoder that gets an IDR without its parameter sets shows
/// nothing, and encoders send SPS and PPS before each IDR. Interleaved mode (STAP-B, MTAP, FU-B) is never negotiated.
pub fn h264_starts_keyframe(payload: &[u8]) -> bool {
    let Some((&first, rest)) = payload.split_first() else { return false };
    match nal_type(first) {
        nal::SPS => true,
        nal::STAP_A => aggregated(rest).any(|unit| unit.first().is_some_and(|&byte| nal_type(byte) == nal::SPS)),
        nal::FU_A => rest.first().is_some_and(|&fu| fu & 0x80 != 0 && nal_type(fu) == nal::SPS),
        _ => false,
    }
}

/// The NAL units of a STAP-A after its first byte (RFC 6184 §5.7.1): each has a 16-bit size before it.
pub(crate) fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (size, after) = rest.split_first_chunk::<2>()?;
        let (unit, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        rest = after;
        Some(unit)
    })
}

/// Whether this RTP payload carries the start of a VP8 keyframe: the descriptor (RFC 7741 §4.2) says that partition 0
/// begins here, and the frame's first byte (§4.3) has its P bit clear.
pub fn vp8_starts_keyframe(payload: &[u8]) -> bool {
    // S, the start of a partition, and PID, which one.
    let begins = payload.first().is_some_and(|required| required & 0x17 == 0x10);
    begins && picture::vp8(payload).and_then(|(_, frame)| frame.first()).is_some_and(|byte| byte & 1 == 0)
}

/// Whether this RTP payload begins a picture of VP9 that refers to none before it (RFC 9628 §4.2): the flags of its
/// descriptor say that a frame begins (B) and is not predicted (P), and where layers are given, it is the lowest spatial layer.
pub fn vp9_starts_keyframe(payload: &[u8]) -> bool {
    let begins = payload.first().is_some_and(|flags| flags & 0x48 == 0x08);
    begins && picture::vp9(payload).is_some_and(|(_, layer)| layer == 0)
}

/// Whether this RTP payload begins a coded video sequence of AV1: bit N of its aggregation header (AV1 RTP §4.4). Its first
/// OBU is not the rest of one before (Z), and something is in it.
pub fn av1_starts_keyframe(payload: &[u8]) -> bool {
    payload.len() > 1 && payload[0] & 0x88 == 0x08
}

#[cfg(test)]
mod tests {
    use super::{av1_starts_keyframe, h264_starts_keyframe, vp8_starts_keyframe, vp9_starts_keyframe};

    #[test]
    fn a_vp9_keyframe_begins_where_no_picture_is_referred_to() {
        // I P L F B E V Z: non-flexible mode, with picture id and without, with layers and their TL0PICIDX.
        for key in [
            &[0x08, 0x49][..],
            &[0x8a, 0x81, 0x01, 0x18, 0, 0x49],
            &[0xaa, 0x81, 0x01, 0x40, 7, 0x49],
            &[0x88, 5, 0x49],
        ] {
            assert!(vp9_starts_keyframe(key), "{key:02x?}");
            let predicted = [&[key[0] | 0x40], &key[1..]].concat();
            assert!(!vp9_starts_keyframe(&predicted), "{predicted:02x?}");
            let later = [&[key[0] & !0x08], &key[1..]].concat();
            assert!(!vp9_starts_keyframe(&later), "{later:02x?}");
        }
        assert!(!vp9_starts_keyframe(&[0xa8, 0x05, 0x03, 7, 0x49]), "the second spatial layer of a keyframe");
        for cut in [&[][..], &[0x88], &[0x88, 0x81], &[0xa8, 5], &[0x28]] {
            assert!(!vp9_starts_keyframe(cut), "{cut:02x?}");
        }
    }

    #[test]
    fn an_av1_sequence_begins_where_its_header_says() {
        assert!(av1_starts_keyframe(&[0x18, 0x0a, 0x0b]), "one OBU, a new sequence");
        assert!(!av1_starts_keyframe(&[0x10, 0x32, 0x0b]), "a frame of the one that runs");
        assert!(!av1_starts_keyframe(&[0x98, 0x0a]), "the rest of an OBU");
        assert!(!av1_starts_keyframe(&[0x18]) && !av1_starts_keyframe(&[]), "nothing in it");
    }

    #[test]
    fn a_vp8_keyframe_is_found_behind_every_form_of_descriptor() {
        let forms: [&[u8]; 7] = [
            &[0x10],
            &[0x90, 0x00],
            &[0x90, 0x80, 0x7f],
            &[0x90, 0x80, 0x81, 0x01],
            &[0xb0, 0xe0, 0x81, 0x01, 0x09, 0x40],
            &[0x90, 0x20, 0x40],
            &[0x90, 0x10, 0x01],
        ];
        for form in forms {
            let with = |frame: &[u8]| [form, frame].concat();
            assert!(vp8_starts_keyframe(&with(&[0x50, 0x42, 0x00, 0x9d, 0x01, 0x2a])), "{form:02x?}");
            assert!(!vp8_starts_keyframe(&with(&[0x51, 0x42, 0x00])), "an interframe after {form:02x?}");
            for len in 0..=form.len() {
                assert!(!vp8_starts_keyframe(&form[..len]), "{form:02x?} cut to {len}");
            }
        }
        assert!(!vp8_starts_keyframe(&[0x00, 0x50]), "a keyframe's second packet");
        assert!(!vp8_starts_keyframe(&[0x11, 0x50]), "the start of partition 1");
    }

    #[test]
    fn an_sps_starts_a_keyframe_however_it_is_packed() {
        assert!(h264_starts_keyframe(&[0x67, 0x42, 0xe0, 0x1f]), "single NAL unit");
        assert!(h264_starts_keyframe(&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68]), "STAP-A, SPS then PPS");
        assert!(h264_starts_keyframe(&[0x78, 0, 2, 0x09, 0xf0, 0, 2, 0x67, 0x42]), "STAP-A after a delimiter");
        assert!(h264_starts_keyframe(&[0x78, 0, 0, 0, 1, 0x67]), "STAP-A after an empty unit");
        assert!(h264_starts_keyframe(&[0x7c, 0x87, 0x42]), "FU-A, first fragment");
    }

    #[test]
    fn other_packets_do_not() {
        assert!(!h264_starts_keyframe(&[0x65, 0x88]), "an IDR alone is no switch point");
        assert!(!h264_starts_keyframe(&[0x41, 0x9a]), "a slice of a P frame");
        assert!(!h264_starts_keyframe(&[0x68, 0xce]), "PPS");
        assert!(!h264_starts_keyframe(&[0x7c, 0x85, 0x88]), "FU-A of an IDR");
        assert!(!h264_starts_keyframe(&[0x7c, 0x07, 0x42]), "FU-A of an SPS, not its start");
        assert!(!h264_starts_keyframe(&[0x78, 0, 1, 0x68, 0, 1, 0x65]), "STAP-A without SPS");
    }

    #[test]
    fn truncated_payloads_do_not() {
        for payload in [&[][..], &[0x78], &[0x78, 0], &[0x78, 0, 0], &[0x78, 0, 9, 0x67], &[0x7c]] {
            assert!(!h264_starts_keyframe(payload), "{payload:02x?}");
        }
    }
}
