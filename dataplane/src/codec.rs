//! What the packet path looks at inside a payload: whether a packet starts an H.264 keyframe (RFC 6184), where a route
//! may begin or change its source.

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
fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (size, after) = rest.split_first_chunk::<2>()?;
        let (unit, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        rest = after;
        Some(unit)
    })
}

#[cfg(test)]
mod tests {
    use super::h264_starts_keyframe;

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
