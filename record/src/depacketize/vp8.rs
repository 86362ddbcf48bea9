//! VP8 (RFC 7741): a descriptor before each part of a frame.

use super::{Assemble, Config};

/// The frame that is being collected.
#[derive(Default)]
pub struct Vp8 {
    data: Vec<u8>,
}

impl Assemble for Vp8 {
    fn take(&mut self, payload: &[u8]) -> bool {
        let Some((is_start, part)) = split(payload) else { return false };
        if is_start != self.data.is_empty() {
            return false;
        }
        self.data.extend_from_slice(part);
        true
    }

    fn len(&self) -> usize {
        self.data.len()
    }

    fn finish(&mut self) -> Option<(Vec<u8>, bool, Option<Config>)> {
        let data = std::mem::take(&mut self.data);
        let is_key = data.first()? & 1 == 0;
        let config = if is_key { Some(Config::Vp8 { size: size(&data)? }) } else { None };
        Some((data, is_key, config))
    }

    fn clear(&mut self) {
        self.data.clear();
    }
}

/// Whether a frame begins, and the bytes behind the descriptor (§4.2).
fn split(payload: &[u8]) -> Option<(bool, &[u8])> {
    let (&first, mut rest) = payload.split_first()?;
    let mut take = || {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        Some(byte)
    };
    if first & 0x80 != 0 {
        let extension = take()?;
        if extension & 0x80 != 0 && take()? & 0x80 != 0 {
            take()?; // The other half of the picture id.
        }
        if extension & 0x40 != 0 {
            take()?;
        }
        if extension & 0x30 != 0 {
            take()?;
        }
    }
    Some((first & 0x10 != 0 && first & 0x07 == 0, rest)).filter(|(_, rest)| !rest.is_empty())
}

/// Of a keyframe (RFC 6386 §9.1).
fn size(frame: &[u8]) -> Option<(u16, u16)> {
    let &[0x9D, 0x01, 0x2A, w0, w1, h0, h1] = frame.get(3..10)? else { return None };
    let size = (u16::from_le_bytes([w0, w1]) & 0x3FFF, u16::from_le_bytes([h0, h1]) & 0x3FFF);
    (size.0 > 0 && size.1 > 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_a_frame_whatever_the_descriptor() {
        let mut vp8 = Vp8::default();
        let header = [0x10, 0, 0, 0x9D, 0x01, 0x2A, 0x40, 0x01, 0xB4, 0x00];
        assert!(vp8.take(&[&[0x90, 0xE0, 0x81, 0x23, 7, 0x20][..], &header].concat()));
        assert!(vp8.take(&[0x00, 9]));
        assert!(!vp8.take(&[0x10, 9]), "another frame begins");
        let (data, is_key, config) = vp8.finish().unwrap();
        assert_eq!((&data[..10], data[10], is_key), (&header[..], 9, true));
        assert_eq!(config, Some(Config::Vp8 { size: (320, 180) }));
        assert!(!vp8.take(&[0x00, 9]), "the beginning is missing");
        assert!(!vp8.take(&[0x90, 0x80]) && !vp8.take(&[0x10]), "cut short");
    }
}
