//! VP9 (RFC 9628): a descriptor before each part of a frame; frames of several spatial layers are one superframe (VP9 bitstream, Annex B).

use super::{Assemble, Bits, Config};

/// Layers of one picture.
const LAYERS_MAX: usize = 8;

/// The picture that is being collected.
#[derive(Default)]
pub struct Vp9 {
    data: Vec<u8>,
    /// Lengths of the frames of its layers.
    layers: Vec<usize>,
    is_open: bool,
}

impl Assemble for Vp9 {
    fn take(&mut self, payload: &[u8]) -> bool {
        let Some((is_start, is_end, part)) = split(payload) else { return false };
        if is_start == self.is_open || (is_start && self.layers.len() == LAYERS_MAX) {
            return false;
        }
        if is_start {
            self.layers.push(0);
        }
        self.data.extend_from_slice(part);
        if let Some(len) = self.layers.last_mut() {
            *len += part.len();
        }
        self.is_open = !is_end;
        true
    }

    fn len(&self) -> usize {
        self.data.len()
    }

    fn finish(&mut self) -> Option<(Vec<u8>, bool, Option<Config>)> {
        let (mut data, layers) = (std::mem::take(&mut self.data), std::mem::take(&mut self.layers));
        if std::mem::take(&mut self.is_open) || layers.is_empty() {
            return None;
        }
        // What is shown is the last layer; its header may say no size, but then the first one does.
        let first = key_size(data.get(..layers[0])?);
        let config = first.map(|size| Config::Vp9 { size });
        let is_key = config.is_some();
        if layers.len() > 1 {
            append_index(&mut data, &layers);
        }
        Some((data, is_key, config))
    }

    fn clear(&mut self) {
        self.data.clear();
        self.layers.clear();
        self.is_open = false;
    }
}

/// Lengths of four bytes, between two equal marks.
fn append_index(data: &mut Vec<u8>, layers: &[usize]) {
    let mark = 0xC0 | 3 << 3 | (layers.len() - 1) as u8;
    data.push(mark);
    layers.iter().for_each(|&len| data.extend((len as u32).to_le_bytes()));
    data.push(mark);
}

/// Whether a layer's frame begins and ends, and the bytes behind the descriptor (§4.2).
fn split(payload: &[u8]) -> Option<(bool, bool, &[u8])> {
    let (&first, mut rest) = payload.split_first()?;
    let mut take = || {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(byte)
    };
    let [has_id, is_predicted, has_layers, is_flexible, is_start, is_end, has_structure] =
        [7, 6, 5, 4, 3, 2, 1].map(|bit| first >> bit & 1 == 1);
    if has_id && take()? & 0x80 != 0 {
        take()?;
    }
    if has_layers {
        take()?;
        if !is_flexible {
            take()?;
        }
    }
    if is_flexible && is_predicted {
        // Up to three references, each says whether another follows.
        let mut count = 1;
        while take()? & 1 == 1 {
            count += 1;
            if count > 3 {
                return None;
            }
        }
    }
    if has_structure {
        let head = take()?;
        let layers = usize::from(head >> 5) + 1;
        if head & 0x10 != 0 {
            (0..4 * layers).try_for_each(|_| take().map(drop))?;
        }
        if head & 0x08 != 0 {
            for _ in 0..take()? {
                let references = take()? >> 2 & 3;
                (0..references).try_for_each(|_| take().map(drop))?;
            }
        }
    }
    Some((is_start, is_end, rest)).filter(|(_, _, rest)| !rest.is_empty())
}

/// The size of a keyframe of profile 0 (VP9 bitstream §6.2); None of others.
fn key_size(frame: &[u8]) -> Option<(u16, u16)> {
    let mut bits = Bits::new(frame);
    let (marker, profile, shows_existing, is_inter) = (bits.bits(2)?, bits.bits(2)?, bits.bit()?, bits.bit()?);
    if marker != 2 || profile != 0 || shows_existing || is_inter {
        return None;
    }
    bits.bits(2)?; // show_frame, error_resilient_mode
    if bits.bits(24)? != 0x49_8342 {
        return None;
    }
    // In profile 0 RGB is no colour space.
    if bits.bits(3)? == 7 {
        return None;
    }
    bits.bit()?;
    let (width, height) = (bits.bits(16)?, bits.bits(16)?);
    Some((u16::try_from(width + 1).ok()?, u16::try_from(height + 1).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uncompressed header of a keyframe of 320 × 180.
    const KEY: [u8; 9] = [0x82, 0x49, 0x83, 0x42, 0x20, 0x13, 0xF0, 0x0B, 0x30];

    #[test]
    fn layers_of_a_picture_are_one_superframe() {
        let mut vp9 = Vp9::default();
        // With picture id, layers and a scalability structure of one layer with its size and one picture in a group.
        let structure = [0x18, 0x01, 0x40, 0x00, 0xB4, 1, 0x04, 1];
        assert!(vp9.take(&[&[0xAA, 0x81, 0x23, 0, 1][..], &structure, &KEY].concat()));
        assert!(vp9.take(&[0xA4, 0x81, 0x23, 0, 1, 9]));
        assert!(!vp9.take(&[0xA4, 0x81, 0x23, 0, 1, 9]), "the beginning of another layer is missing");
        assert!(vp9.take(&[0xAC, 0x81, 0x23, 0x02, 1, 7]));
        let (data, is_key, config) = vp9.finish().unwrap();
        assert_eq!((is_key, config), (true, Some(Config::Vp9 { size: (320, 180) })));
        assert_eq!(data[..11], [&KEY[..], &[9, 7]].concat());
        assert_eq!(data[11..], [0xD9, 10, 0, 0, 0, 1, 0, 0, 0, 0xD9]);
        assert!(vp9.take(&[0x8C, 1, 0x86, 0]));
        assert_eq!(vp9.finish(), Some((vec![0x86, 0], false, None)));
        assert!(vp9.take(&[0x88, 1, 9]));
        assert_eq!(vp9.finish(), None, "its end is missing");
    }
}
