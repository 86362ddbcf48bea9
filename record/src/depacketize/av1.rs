//! AV1 (its RTP payload format, v1.0.0): OBU elements, whole or in fragments. Frames are temporal units of OBUs with their sizes and
//! without delimiters (AV1 Codec ISO Media File Format Binding §2.4).

use super::{Assemble, Bits, Config};

const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;
/// Bits of an OBU's header.
const HAS_EXTENSION: u8 = 0x04;
const HAS_SIZE: u8 = 0x02;

/// The temporal unit that is being collected.
#[derive(Default)]
pub struct Av1 {
    data: Vec<u8>,
    /// An OBU of which more fragments come.
    fragment: Option<Vec<u8>>,
    sequence: Option<Vec<u8>>,
    is_key: bool,
}

impl Av1 {
    /// Takes an element that is whole.
    fn take_obu(&mut self, obu: &[u8]) -> bool {
        let Some((&header, mut rest)) = obu.split_first() else { return false };
        let mut head = vec![header | HAS_SIZE];
        if header & HAS_EXTENSION != 0 {
            let Some((&extension, after)) = rest.split_first() else { return false };
            head.push(extension);
            rest = after;
        }
        if header & HAS_SIZE != 0 {
            let Some((size, after)) = leb128(rest) else { return false };
            let Some(body) = after.get(..size) else { return false };
            rest = body;
        }
        let kind = header >> 3 & 0x0F;
        match kind {
            TEMPORAL_DELIMITER | TILE_LIST | PADDING => return true,
            SEQUENCE_HEADER => {
                let mut obu = head.clone();
                append_leb128(&mut obu, rest.len());
                obu.extend_from_slice(rest);
                self.sequence = Some(obu);
            }
            // show_existing_frame, frame_type: 0 is a keyframe (AV1 §5.9.2).
            FRAME | FRAME_HEADER => self.is_key |= rest.first().is_some_and(|first| first >> 5 == 0),
            _ => (),
        }
        self.data.append(&mut head);
        append_leb128(&mut self.data, rest.len());
        self.data.extend_from_slice(rest);
        true
    }
}

impl Assemble for Av1 {
    fn take(&mut self, payload: &[u8]) -> bool {
        let Some((&aggregation, mut rest)) = payload.split_first() else { return false };
        let (continues, is_continued) = (aggregation & 0x80 != 0, aggregation & 0x40 != 0);
        let count = aggregation >> 4 & 3;
        if continues != self.fragment.is_some() || rest.is_empty() {
            return false;
        }
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            // The last one of a known number has no length.
            let (element, after) = if count == 0 || number < count {
                let Some((len, after)) = leb128(rest) else { return false };
                let Some(split) = after.split_at_checked(len) else { return false };
                split
            } else {
                (rest, &[][..])
            };
            rest = after;
            let mut obu = self.fragment.take().unwrap_or_default();
            obu.extend_from_slice(element);
            if rest.is_empty() && is_continued {
                self.fragment = Some(obu);
            } else if !self.take_obu(&obu) {
                return false;
            }
        }
        count == 0 || number == count
    }

    fn len(&self) -> usize {
        self.data.len() + self.fragment.as_ref().map_or(0, Vec::len)
    }

    fn finish(&mut self) -> Option<(Vec<u8>, bool, Option<Config>)> {
        let (data, is_key) = (std::mem::take(&mut self.data), std::mem::take(&mut self.is_key));
        let sequence = self.sequence.take();
        if self.fragment.take().is_some() || data.is_empty() {
            return None;
        }
        let config = sequence.filter(|_| is_key).and_then(configure);
        Some((data, is_key, config))
    }

    fn clear(&mut self) {
        *self = Av1::default();
    }
}

/// §4.10.5, of at most four bytes: more than any frame here.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

fn append_leb128(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7F {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What a sequence header tells (§5.5), of the main profile.
fn configure(obu: Vec<u8>) -> Option<Config> {
    let head = if obu.first()? & HAS_EXTENSION != 0 { 2 } else { 1 };
    let (_, body) = leb128(obu.get(head..)?)?;
    let mut bits = Bits::new(body);
    if bits.bits(3)? != 0 {
        return None;
    }
    bits.bit()?; // still_picture
    let is_reduced = bits.bit()?;
    let (level, tier) = if is_reduced { (bits.bits(5)?, false) } else { operating_points(&mut bits)? };
    let (width_bits, height_bits) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
    let (width, height) = (bits.bits(width_bits)? + 1, bits.bits(height_bits)? + 1);
    if !is_reduced && bits.bit()? {
        bits.bits(7)?; // Lengths of frame ids.
    }
    bits.bits(3)?; // Superblocks, filters.
    if !is_reduced {
        skip_tools(&mut bits)?;
    }
    bits.bits(3)?; // Superres, CDEF, restoration.
    let (is_high_depth, is_monochrome) = (bits.bit()?, bits.bit()?);
    let size = (u16::try_from(width).ok()?, u16::try_from(height).ok()?);
    Some(Config::Av1 { sequence: obu, size, level: level as u8, tier, is_high_depth, is_monochrome })
}

/// Level and tier of the first operating point.
fn operating_points(bits: &mut Bits<'_>) -> Option<(u32, bool)> {
    let mut delay_bits = None;
    if bits.bit()? {
        bits.bits(32)?;
        bits.bits(32)?;
        if bits.bit()? {
            bits.exp_golomb()?; // uvlc() is coded as ue(v).
        }
        if bits.bit()? {
            delay_bits = Some(bits.bits(5)? + 1);
            bits.bits(32)?;
            bits.bits(10)?;
        }
    }
    let has_display_delay = bits.bit()?;
    let count = bits.bits(5)? + 1;
    let mut first = None;
    for _ in 0..count {
        bits.bits(12)?;
        let level = bits.bits(5)?;
        let tier = level > 7 && bits.bit()?;
        first.get_or_insert((level, tier));
        if let Some(delay_bits) = delay_bits
            && bits.bit()?
        {
            bits.bits(delay_bits)?;
            bits.bits(delay_bits)?;
            bits.bit()?;
        }
        if has_display_delay && bits.bit()? {
            bits.bits(4)?;
        }
    }
    first
}

fn skip_tools(bits: &mut Bits<'_>) -> Option<()> {
    bits.bits(4)?; // Compounds, warped motion, dual filter.
    let has_order_hint = bits.bit()?;
    if has_order_hint {
        bits.bits(2)?;
    }
    let forces_screen_content = if bits.bit()? { true } else { bits.bit()? };
    if forces_screen_content && !bits.bit()? {
        bits.bit()?;
    }
    if has_order_hint {
        bits.bits(3)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_whole_and_in_fragments_are_obus_with_their_sizes() {
        let mut av1 = Av1::default();
        // A delimiter and an OBU of metadata with their lengths, and the beginning of a frame.
        assert!(av1.take(&[0x70, 1, 0x10, 2, 0x28, 9, 0x30, 0x20, 7]));
        assert!(!av1.take(&[0x10, 0x30, 1]), "it must go on");
        assert!(av1.take(&[0xC0, 1, 8]) && av1.take(&[0x90, 9]));
        let (data, is_key, config) = av1.finish().unwrap();
        assert_eq!(data, [0x2A, 1, 9, 0x32, 4, 0x20, 7, 8, 9]);
        assert_eq!((is_key, config), (false, None));
        for cut in [&[0x00, 5, 0x30][..], &[0x00, 0xFF, 0xFF, 0xFF, 0xFF], &[0x20, 1, 0x30], &[0x10], &[]] {
            assert!(!av1.take(cut), "{cut:?}");
            av1.clear();
        }
    }
}
