//! H.264 (RFC 6184, packetization mode 1): single NAL units, STAP-A and FU-A. Frames are NAL units behind four bytes of their length;
//! parameter sets are in the file's configuration and not among them (ISO/IEC 14496-15 §5.3).

use std::collections::BTreeMap;

use super::{Assemble, Bits, Config};

const SLICE_OF_KEYFRAME: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
const FILLER: u8 = 12;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// Ids that a picture parameter set may have.
const PPS_MAX: u32 = 255;
/// And a sequence parameter set.
const SPS_MAX: u32 = 31;

/// The frame that is being collected.
#[derive(Default)]
pub struct H264 {
    data: Vec<u8>,
    /// Where the length of the unit stands whose fragments come.
    fragment: Option<usize>,
    is_key: bool,
    /// By their ids; they hold from frame to frame.
    sps: BTreeMap<u32, Vec<u8>>,
    pps: BTreeMap<u32, Vec<u8>>,
}

impl H264 {
    /// Takes a whole NAL unit.
    fn take_unit(&mut self, unit: &[u8]) -> bool {
        let Some(&header) = unit.first() else { return false };
        match header & 0x1F {
            SPS => {
                let Some(id) = sps_id(unit) else { return false };
                if self.sps.get(&id).is_none_or(|known| known != unit) {
                    self.sps.insert(id, unit.to_vec());
                    // Those that belong to it come behind it.
                    self.pps.clear();
                }
                true
            }
            PPS => {
                let id = Bits::new(&without_emulation(&unit[1..])).exp_golomb();
                let Some(id) = id.filter(|&id| id <= PPS_MAX) else { return false };
                self.pps.insert(id, unit.to_vec());
                true
            }
            DELIMITER | FILLER => true,
            1..=23 => {
                let begin = self.begin_unit();
                self.data.extend_from_slice(unit);
                self.end_unit(begin);
                self.is_key |= header & 0x1F == SLICE_OF_KEYFRAME;
                true
            }
            _ => false,
        }
    }

    fn begin_unit(&mut self) -> usize {
        self.data.extend([0; 4]);
        self.data.len() - 4
    }

    fn end_unit(&mut self, begin: usize) {
        let len = (self.data.len() - begin - 4) as u32;
        self.data[begin..begin + 4].copy_from_slice(&len.to_be_bytes());
    }

    fn take_aggregate(&mut self, mut rest: &[u8]) -> bool {
        while let [high, low, after @ ..] = rest {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(unit) = after.get(..len) else { return false };
            if !self.take_unit(unit) {
                return false;
            }
            rest = &after[len..];
        }
        rest.is_empty()
    }

    fn take_fragment(&mut self, payload: &[u8]) -> bool {
        let [indicator, header, fragment @ ..] = payload else { return false };
        let (is_start, is_end, kind) = (header & 0x80 != 0, header & 0x40 != 0, header & 0x1F);
        // A unit in fragments is one of a picture: of parameter sets none is so long.
        if !matches!(kind, 1..=6) || (is_start && is_end) || is_start != self.fragment.is_none() {
            return false;
        }
        let begin = match self.fragment {
            Some(begin) => begin,
            None => {
                let begin = self.begin_unit();
                self.data.push(indicator & 0xE0 | kind);
                begin
            }
        };
        self.data.extend_from_slice(fragment);
        self.is_key |= kind == SLICE_OF_KEYFRAME;
        self.fragment = (!is_end).then_some(begin);
        if is_end {
            self.end_unit(begin);
        }
        true
    }
}

impl Assemble for H264 {
    fn take(&mut self, payload: &[u8]) -> bool {
        let Some(&header) = payload.first() else { return false };
        match header & 0x1F {
            FU_A => self.take_fragment(payload),
            // The unit before is cut short.
            _ if self.fragment.is_some() => false,
            STAP_A => self.take_aggregate(&payload[1..]),
            _ => self.take_unit(payload),
        }
    }

    fn len(&self) -> usize {
        self.data.len()
    }

    fn finish(&mut self) -> Option<(Vec<u8>, bool, Option<Config>)> {
        let is_whole = self.fragment.is_none() && !self.data.is_empty();
        let (data, is_key) = (std::mem::take(&mut self.data), std::mem::take(&mut self.is_key));
        self.fragment = None;
        if !is_whole {
            return None;
        }
        let size = self.sps.values().next().and_then(|sps| parse_sps(sps));
        let config = size.filter(|_| is_key && !self.pps.is_empty()).map(|size| Config::H264 {
            sps: self.sps.values().cloned().collect(),
            pps: self.pps.values().cloned().collect(),
            size,
        });
        Some((data, is_key, config))
    }

    fn clear(&mut self) {
        self.data.clear();
        (self.fragment, self.is_key) = (None, false);
    }
}

/// The bytes of a NAL unit without those that keep start codes out of it (§7.4.1).
fn without_emulation(unit: &[u8]) -> Vec<u8> {
    let (mut bytes, mut zeros) = (Vec::with_capacity(unit.len()), 0);
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        bytes.push(byte);
    }
    bytes
}

fn sps_id(unit: &[u8]) -> Option<u32> {
    let bytes = without_emulation(unit.get(4..)?);
    Bits::new(&bytes).exp_golomb().filter(|&id| id <= SPS_MAX)
}

/// Width and height that a sequence parameter set tells (§7.3.2.1.1), cropped.
pub fn parse_sps(unit: &[u8]) -> Option<(u16, u16)> {
    let bytes = without_emulation(unit.get(1..)?);
    let profile = *bytes.first()?;
    let mut bits = Bits::new(bytes.get(3..)?);
    bits.exp_golomb()?; // seq_parameter_set_id
    let mut chroma = 1;
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.exp_golomb()?;
        if chroma == 3 {
            bits.bit()?;
        }
        bits.exp_golomb()?; // bit depths
        bits.exp_golomb()?;
        bits.bit()?;
        if bits.bit()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.bit()? {
                    skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    bits.exp_golomb()?; // log2_max_frame_num_minus4
    match bits.exp_golomb()? {
        0 => drop(bits.exp_golomb()?),
        1 => {
            bits.bit()?;
            bits.signed_exp_golomb()?;
            bits.signed_exp_golomb()?;
            for _ in 0..bits.exp_golomb()?.min(255) {
                bits.signed_exp_golomb()?;
            }
        }
        _ => (),
    }
    bits.exp_golomb()?; // max_num_ref_frames
    bits.bit()?;
    let width = bits.exp_golomb()?.checked_add(1)?.checked_mul(16)?;
    let height = bits.exp_golomb()?.checked_add(1)?.checked_mul(16)?;
    let is_progressive = bits.bit()?;
    let height = height.checked_mul(if is_progressive { 1 } else { 2 })?;
    if !is_progressive {
        bits.bit()?;
    }
    bits.bit()?; // direct_8x8_inference_flag
    let mut crop = [0; 4];
    if bits.bit()? {
        for side in &mut crop {
            *side = bits.exp_golomb()?;
        }
    }
    // Table 6-1 and §7.4.2.1.1: in units of chroma samples, and of fields.
    let unit_x = if matches!(chroma, 1 | 2) { 2 } else { 1 };
    let unit_y = if chroma == 1 { 2 } else { 1 } * if is_progressive { 1 } else { 2 };
    let cropped = |of: u32, unit: u32, [a, b]: [u32; 2]| {
        let len = of.checked_sub(a.checked_add(b)?.checked_mul(unit)?)?;
        u16::try_from(len).ok().filter(|&len| len > 0)
    };
    Some((cropped(width, unit_x, [crop[0], crop[1]])?, cropped(height, unit_y, [crop[2], crop[3]])?))
}

/// §7.3.2.1.1.1
fn skip_scaling_list(bits: &mut Bits<'_>, count: u32) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..count {
        if next != 0 {
            next = last.wrapping_add(bits.signed_exp_golomb()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use client::room::Codec;
    use proto::signal::VideoCodec;

    use super::super::{Depacketizer, Frame};
    use super::*;

    /// Of x264, 320 × 180, Baseline: the height is cropped from 192.
    const SPS_320: &[u8] = &[
        0x67, 0x42, 0xc0, 0x0c, 0xd9, 0x01, 0x41, 0x9f, 0x9f, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00,
        0x03, 0x03, 0x20, 0xf1, 0x42, 0xa4, 0x80,
    ];
    const PPS_320: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];

    fn depacketizer() -> Depacketizer {
        Depacketizer::new(Codec::Video(VideoCodec::H264))
    }

    fn stap_a(units: &[&[u8]]) -> Vec<u8> {
        let units = units.iter().flat_map(|unit| [&(unit.len() as u16).to_be_bytes()[..], unit].concat());
        [STAP_A].into_iter().chain(units).collect()
    }

    #[test]
    fn units_alone_together_and_in_fragments_make_a_frame() {
        let (mut depacketizer, mut frames) = (depacketizer(), Vec::new());
        let mut push = |marker, payload: &[u8]| {
            depacketizer.push(false, 9, marker, payload, &mut frames);
        };
        push(false, &stap_a(&[SPS_320, PPS_320]));
        push(false, &[0x7C, 0x85, 1, 2]);
        push(false, &[0x7C, 0x05, 3]);
        push(false, &[0x7C, 0x45, 4]);
        push(true, &[0x65, 5]);
        let config = Config::H264 { sps: vec![SPS_320.to_vec()], pps: vec![PPS_320.to_vec()], size: (320, 180) };
        let data = vec![0, 0, 0, 5, 0x65, 1, 2, 3, 4, 0, 0, 0, 2, 0x65, 5];
        assert_eq!(frames, [Frame { timestamp: 9, data, is_key: true, config: Some(config) }]);
    }

    #[test]
    fn after_a_loss_nothing_comes_until_a_keyframe() {
        let (mut depacketizer, mut frames) = (depacketizer(), Vec::new());
        let key = stap_a(&[SPS_320, PPS_320, &[0x65, 1]]);
        depacketizer.push(false, 0, true, &[0x41, 1], &mut frames);
        assert!(frames.is_empty() && depacketizer.wants_keyframe(), "it must begin with a keyframe");
        depacketizer.push(false, 1, true, &key, &mut frames);
        depacketizer.push(false, 2, true, &[0x41, 1], &mut frames);
        assert_eq!((frames.len(), depacketizer.wants_keyframe()), (2, false));
        // What is lost may be the beginning of this keyframe.
        depacketizer.push(true, 3, false, &key, &mut frames);
        depacketizer.push(false, 3, true, &[0x65, 2], &mut frames);
        depacketizer.push(false, 4, true, &[0x41, 1], &mut frames);
        assert_eq!((frames.len(), depacketizer.wants_keyframe()), (2, true));
        depacketizer.push(false, 5, true, &key, &mut frames);
        assert_eq!((frames.len(), frames[2].timestamp), (3, 5));
        // Without a marker a frame ends with the next timestamp; a unit that is cut short ends none.
        depacketizer.push(false, 6, false, &[0x41, 1], &mut frames);
        depacketizer.push(false, 7, false, &[0x7C, 0x81, 1], &mut frames);
        depacketizer.push(false, 8, true, &[0x41, 1], &mut frames);
        assert_eq!(frames.iter().map(|frame| frame.timestamp).collect::<Vec<_>>(), [1, 2, 5, 6, 8]);
    }

    #[test]
    fn another_size_is_another_configuration() {
        let (mut depacketizer, mut frames) = (depacketizer(), Vec::new());
        // Of x264, 640 × 360, High.
        let sps = [
            0x67, 0x64, 0x00, 0x1e, 0xac, 0xb2, 0x01, 0x40, 0x5f, 0xf2, 0xe0, 0x22, 0x00, 0x00, 0x03, 0x00, 0x02, 0x00,
            0x00, 0x03, 0x00, 0x64, 0x1e, 0x2c, 0x5c, 0x90,
        ];
        for (timestamp, sps) in [(1, SPS_320), (2, &sps)] {
            depacketizer.push(false, timestamp, true, &stap_a(&[sps, PPS_320, &[0x65, 1]]), &mut frames);
        }
        let sizes: Vec<_> = frames.iter().map(|frame| frame.config.as_ref().unwrap().size()).collect();
        assert_eq!(sizes, [Some((320, 180)), Some((640, 360))]);
    }
}
