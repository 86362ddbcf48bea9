//! Opus (RFC 7587): a packet is a frame.

use super::{Assemble, Config};

/// The packet.
#[derive(Default)]
pub struct Opus(Vec<u8>);

impl Assemble for Opus {
    fn take(&mut self, payload: &[u8]) -> bool {
        self.0 = payload.to_vec();
        true
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn finish(&mut self) -> Option<(Vec<u8>, bool, Option<Config>)> {
        Some((std::mem::take(&mut self.0), true, Some(Config::Opus)))
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// Ticks of 48 kHz that a packet lasts (RFC 6716 §3.1); None if it is none, or longer than 120 ms.
pub fn duration(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config % 4)],
        config @ 12..=15 => [480, 960][usize::from(config % 2)],
        config => [120, 240, 480, 960][usize::from(config % 4)],
    };
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3F),
    };
    Some(frame * count).filter(|&ticks| (1..=5760).contains(&ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_how_long_a_packet_lasts() {
        assert_eq!(duration(&[0xFC]), Some(960), "CELT, 20 ms, as browsers send it");
        assert_eq!(duration(&[0x78 | 1]), Some(1920), "two frames of 20 ms");
        assert_eq!(duration(&[0x08]), Some(960));
        assert_eq!((duration(&[0x80 | 3, 3]), duration(&[0x18 | 3, 48])), (Some(360), None));
        assert_eq!((duration(&[]), duration(&[3])), (None, None));
    }
}
