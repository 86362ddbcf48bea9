//! RED (RFC 2198): packets of audio that carry earlier ones again.
//!
//! It is of one hop. Of a publisher's packet the worker takes the newest block, and an earlier one where the packet that had it was lost
//! ([`Red`]); from there on it is plain audio. A receiver that loses many, and takes RED, gets packets with the ones before them
//! ([`Writer`]). So what one of them loses costs nobody else anything.

use proto::id::Pt;

/// Earlier blocks of a packet, at most. libwebrtc sends one, and nine where a field trial says so (`kRedMaxNumberOfEncodings`).
pub const BLOCKS_MAX: usize = 9;

/// F: another block follows.
const FOLLOWS: u8 = 0x80;
/// Bytes of the header of an earlier block, and of the newest one.
const HEADER_LEN: usize = 4;
const LAST_HEADER_LEN: usize = 1;
/// The offset of a timestamp has 14 bits, a length ten.
const OFFSET_MAX: u32 = (1 << 14) - 1;
const LEN_MAX: usize = (1 << 10) - 1;

/// An earlier block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Block<'a> {
    /// Its payload type.
    pub pt: Pt,
    /// How much its timestamp is before that of the packet.
    pub offset: u32,
    /// The payload.
    pub payload: &'a [u8],
}

/// A payload of RED as it was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Red<'a> {
    /// Payload type of the newest block, which is what the packet is about.
    pub pt: Pt,
    /// Its payload.
    pub payload: &'a [u8],
    blocks: [Block<'a>; BLOCKS_MAX],
    count: usize,
}

impl<'a> Red<'a> {
    /// Reads a payload. `None` if a header or a block passes its end, or if it has more blocks than anybody sends.
    pub fn parse(bytes: &'a [u8]) -> Option<Red<'a>> {
        let mut blocks = [Block::default(); BLOCKS_MAX];
        let (mut lens, mut count, mut rest) = ([0; BLOCKS_MAX], 0, bytes);
        let pt = loop {
            let first = *rest.first()?;
            if first & FOLLOWS == 0 {
                rest = &rest[LAST_HEADER_LEN..];
                break first;
            }
            let (&[_, a, b, c], after) = rest.split_first_chunk::<HEADER_LEN>()?;
            let block = blocks.get_mut(count)?;
            (block.pt, block.offset) = (first & !FOLLOWS, u32::from(a) << 6 | u32::from(b) >> 2);
            lens[count] = usize::from(b & 3) << 8 | usize::from(c);
            count += 1;
            rest = after;
        };
        for (block, len) in blocks.iter_mut().zip(lens).take(count) {
            (block.payload, rest) = rest.split_at_checked(len)?;
        }
        Some(Red { pt, payload: rest, blocks, count })
    }

    /// The earlier blocks, with how many packets before this one each was sent: the oldest first. A sender repeats the packets just before, so
    /// the last one is one back.
    pub fn earlier(&self) -> impl Iterator<Item = (u64, Block<'a>)> + use<'a> {
        let (blocks, count) = (self.blocks, self.count);
        blocks.into_iter().take(count).enumerate().map(move |(n, block)| ((count - n) as u64, block))
    }
}

/// Bytes that go ahead of a payload to make it RED, at most: two blocks as long as any that is kept.
const WRITTEN_LEN_MAX: usize = 2 * (HEADER_LEN + 320) + LAST_HEADER_LEN;

/// What goes ahead of a payload to make it RED: the headers, and the earlier blocks. The oldest block is added first.
pub struct Writer {
    headers: [u8; 2 * HEADER_LEN + LAST_HEADER_LEN],
    headers_len: usize,
    blocks: [u8; WRITTEN_LEN_MAX],
    blocks_len: usize,
    whole: [u8; WRITTEN_LEN_MAX],
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Writer {
    /// Nothing yet.
    pub const fn new() -> Writer {
        Writer {
            headers: [0; 2 * HEADER_LEN + LAST_HEADER_LEN],
            headers_len: 0,
            blocks: [0; WRITTEN_LEN_MAX],
            blocks_len: 0,
            whole: [0; WRITTEN_LEN_MAX],
        }
    }

    /// Begins anew.
    #[inline]
    pub fn clear(&mut self) {
        (self.headers_len, self.blocks_len) = (0, 0);
    }

    /// Whether there is an earlier block.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.headers_len == 0
    }

    /// Adds a block if it fits, in the payload type of its codec. Whether it did.
    pub fn add(&mut self, block: Block<'_>) -> bool {
        let Block { pt, offset, payload } = block;
        let has_room = self.headers_len + HEADER_LEN <= 2 * HEADER_LEN
            && 2 * HEADER_LEN + LAST_HEADER_LEN + self.blocks_len + payload.len() <= WRITTEN_LEN_MAX;
        if !has_room || payload.is_empty() || payload.len() > LEN_MAX || offset == 0 || offset > OFFSET_MAX {
            return false;
        }
        let len = payload.len();
        let header = [FOLLOWS | pt, (offset >> 6) as u8, (offset << 2) as u8 | (len >> 8) as u8, len as u8];
        self.headers[self.headers_len..][..HEADER_LEN].copy_from_slice(&header);
        self.headers_len += HEADER_LEN;
        self.blocks[self.blocks_len..][..len].copy_from_slice(payload);
        self.blocks_len += len;
        true
    }

    /// What goes ahead of a payload of this type.
    pub fn finish(&mut self, pt: Pt) -> &[u8] {
        self.whole[..self.headers_len].copy_from_slice(&self.headers[..self.headers_len]);
        self.whole[self.headers_len] = pt & !FOLLOWS;
        let start = self.headers_len + LAST_HEADER_LEN;
        self.whole[start..][..self.blocks_len].copy_from_slice(&self.blocks[..self.blocks_len]);
        &self.whole[..start + self.blocks_len]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Chromium 156 sends it: one block of 20 ms before, and the newest.
    #[test]
    fn a_packet_of_chromium_is_read() {
        let mut bytes = vec![0x80 | 111, 960u16.to_be_bytes()[0] << 2 | 0xc0 >> 6, 0, 3, 111];
        bytes[1] = (960u32 >> 6) as u8;
        bytes[2] = (960u32 << 2) as u8;
        bytes.extend([1, 2, 3, 4, 5]);
        let red = Red::parse(&bytes).unwrap();
        assert_eq!((red.pt, red.payload), (111, &[4, 5][..]));
        let earlier: Vec<_> = red.earlier().collect();
        assert_eq!(earlier, [(1, Block { pt: 111, offset: 960, payload: &[1, 2, 3] })]);
        let alone = Red::parse(&[111, 9, 9]).unwrap();
        assert_eq!((alone.payload, alone.earlier().count()), (&[9, 9][..], 0));
    }

    #[test]
    fn what_passes_its_end_is_none() {
        for bad in [&[][..], &[0x80 | 111], &[0x80 | 111, 0, 0, 0], &[0x80 | 111, 15, 0, 3, 111, 1, 2], &[0xff; 100]] {
            assert_eq!(Red::parse(bad), None, "{bad:?}");
        }
        let mut many = [0x80 | 111, 15, 0, 0].repeat(BLOCKS_MAX);
        many.push(111);
        assert!(Red::parse(&many).is_some());
        let more = [&[0x80 | 111, 15, 0, 0][..], &many].concat();
        assert_eq!(Red::parse(&more), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_themselves(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(red) = Red::parse(&bytes) {
                let read: usize = red.earlier().map(|(_, block)| block.payload.len() + HEADER_LEN).sum();
                prop_assert_eq!(read + LAST_HEADER_LEN + red.payload.len(), bytes.len());
                prop_assert!(red.earlier().all(|(back, block)| back >= 1 && block.offset <= OFFSET_MAX && block.pt < 128));
            }
        }

        #[test]
        fn what_is_written_is_read(
            blocks in prop::collection::vec((0u8..128, 0u32..20_000, prop::collection::vec(any::<u8>(), 0..400)), 0..4),
            pt in 0u8..128,
            payload in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut writer = Writer::new();
            let mut added = Vec::new();
            for (pt, offset, payload) in &blocks {
                let block = Block { pt: *pt, offset: *offset, payload };
                if writer.add(block) {
                    added.push(block);
                }
            }
            prop_assert_eq!(writer.is_empty(), added.is_empty());
            let bytes = [writer.finish(pt), &payload].concat();
            let red = Red::parse(&bytes).unwrap();
            prop_assert_eq!((red.pt, red.payload), (pt, &payload[..]));
            let read: Vec<Block<'_>> = red.earlier().map(|(_, block)| block).collect();
            prop_assert_eq!(read, added);
        }
    }
}
