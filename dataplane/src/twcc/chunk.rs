//! Packet chunks of transport-cc feedback (§3.1.1 to §3.1.4): which packets arrived, and how long each delta is.

/// What a packet chunk says of one packet (§3.1.1). Value 3 is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Symbol {
    Missing = 0,
    SmallDelta = 1,
    LargeDelta = 2,
}

impl Symbol {
    const fn from_bits(bits: u16) -> Option<Symbol> {
        match bits & 3 {
            0 => Some(Symbol::Missing),
            1 => Some(Symbol::SmallDelta),
            2 => Some(Symbol::LargeDelta),
            _ => None,
        }
    }

    pub(super) const fn of(delta: i16) -> Symbol {
        if matches!(delta, 0..=255) { Symbol::SmallDelta } else { Symbol::LargeDelta }
    }

    /// Bytes of the receive delta.
    pub(super) const fn delta_len(self) -> usize {
        self as usize
    }
}

/// A packet chunk (§3.1.3, §3.1.4) and how many of its symbols are still to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    bits: u16,
    pub(super) left: u16,
}

impl Chunk {
    pub(super) const EMPTY: Chunk = Chunk { bits: 0, left: 0 };

    pub(super) fn parse(bytes: [u8; 2]) -> Chunk {
        let bits = u16::from_be_bytes(bytes);
        let left = match bits >> 14 {
            0b10 => 14,
            0b11 => 7,
            _ => bits & 0x1fff,
        };
        Chunk { bits, left }
    }

    const fn is_vector(self) -> bool {
        self.bits & 0x8000 != 0
    }

    /// The next symbol; `None` for the reserved one. `left` must not be 0.
    pub(super) fn pop(&mut self) -> Option<Symbol> {
        self.left -= 1;
        match self.bits >> 14 {
            0b10 => self.shift(1, 13),
            0b11 => self.shift(2, 12),
            _ => Symbol::from_bits(self.bits >> 13),
        }
    }

    /// Takes the symbol of `width` bits at `position` and moves the next one there.
    fn shift(&mut self, width: u16, position: u16) -> Option<Symbol> {
        let symbol = (self.bits >> position) & ((1 << width) - 1);
        self.bits = (self.bits & 0xc000) | ((self.bits << width) & 0x3fff);
        Symbol::from_bits(symbol)
    }

    /// Bytes of deltas that belong to the symbols left; `None` if one is reserved.
    pub(super) fn deltas_len(mut self) -> Option<usize> {
        if !self.is_vector() {
            // A run of up to 8191 is one multiplication, so that a few bytes cannot make much work.
            return Some(Symbol::from_bits(self.bits >> 13)?.delta_len() * usize::from(self.left));
        }
        let mut len = 0;
        while self.left > 0 {
            len += self.pop()?.delta_len();
        }
        Some(len)
    }
}

/// Packs symbols into chunks, choosing for each the form that takes the most: a run, 14 one-bit symbols or 7 two-bit ones.
///
/// Complete chunks lie in the output; the symbols after them are pending here and always fit one chunk. Copying the
/// writer therefore keeps a point to go back to.
#[derive(Clone, Copy)]
pub(super) struct ChunkWriter {
    /// Bytes of complete chunks.
    written: usize,
    /// The first 14 pending symbols; beyond that they are all the same.
    pending: [Symbol; ChunkWriter::ONE_BIT_MAX],
    count: usize,
    is_run: bool,
    has_large: bool,
}

impl ChunkWriter {
    const ONE_BIT_MAX: usize = 14;
    const TWO_BIT_MAX: usize = 7;
    const RUN_MAX: usize = 0x1fff;

    pub(super) const fn new() -> ChunkWriter {
        ChunkWriter { written: 0, pending: [Symbol::Missing; 14], count: 0, is_run: true, has_large: false }
    }

    /// Bytes of all chunks if the last were written now.
    pub(super) const fn len(&self) -> usize {
        self.written + if self.count > 0 { 2 } else { 0 }
    }

    /// Adds a symbol. False if a complete chunk found no room.
    pub(super) fn push(&mut self, symbol: Symbol, out: &mut [u8]) -> bool {
        if !self.may_take(symbol) && !self.emit(out, false) {
            return false;
        }
        self.append(symbol);
        true
    }

    /// Whether one chunk can still hold the pending symbols and this one.
    fn may_take(&self, symbol: Symbol) -> bool {
        self.count < Self::TWO_BIT_MAX
            || self.count < Self::ONE_BIT_MAX && !self.has_large && symbol != Symbol::LargeDelta
            || self.count < Self::RUN_MAX && self.is_run && self.pending[0] == symbol
    }

    fn append(&mut self, symbol: Symbol) {
        if let Some(place) = self.pending.get_mut(self.count) {
            *place = symbol;
        }
        self.count += 1;
        self.is_run &= symbol == self.pending[0];
        self.has_large |= symbol == Symbol::LargeDelta;
    }

    /// Writes one chunk of pending symbols and keeps those that it could not hold. A vector with more to follow must be
    /// full, because the reader counts 7 or 14 symbols whatever was meant; a short one can only be the last.
    fn emit(&mut self, out: &mut [u8], is_last: bool) -> bool {
        let Some(place) = out.get_mut(self.written..self.written + 2) else { return false };
        let (chunk, taken) = self.encode(is_last);
        place.copy_from_slice(&chunk.to_be_bytes());
        let (pending, count) = (self.pending, self.count);
        *self = ChunkWriter { written: self.written + 2, ..ChunkWriter::new() };
        for &symbol in pending.iter().take(count).skip(taken) {
            self.append(symbol);
        }
        true
    }

    /// The chunk that holds the most of the pending symbols, and how many those are.
    fn encode(&self, is_last: bool) -> (u16, usize) {
        let symbols = &self.pending[..self.count.min(Self::ONE_BIT_MAX)];
        if self.is_run {
            return ((symbols.first().map_or(0, |&s| s as u16)) << 13 | self.count as u16, self.count);
        }
        if !self.has_large && (self.count == Self::ONE_BIT_MAX || is_last && self.count > Self::TWO_BIT_MAX) {
            let bits = symbols.iter().enumerate().map(|(i, &s)| (s as u16) << (13 - i));
            return (0x8000 | bits.sum::<u16>(), symbols.len());
        }
        let symbols = &symbols[..symbols.len().min(Self::TWO_BIT_MAX)];
        let bits = symbols.iter().enumerate().map(|(i, &s)| (s as u16) << (12 - 2 * i));
        (0xc000 | bits.sum::<u16>(), symbols.len())
    }

    /// Writes the last chunk and returns the length of all.
    pub(super) fn finish(mut self, out: &mut [u8]) -> usize {
        while self.count > 0 {
            assert!(self.emit(out, true), "the room of pending symbols was counted");
        }
        self.written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks_of(symbols: &[Symbol]) -> Vec<u16> {
        let mut out = [0; 64];
        let mut writer = ChunkWriter::new();
        assert!(symbols.iter().all(|&symbol| writer.push(symbol, &mut out)));
        let len = writer.len();
        assert_eq!(writer.finish(&mut out), len);
        out[..len].as_chunks().0.iter().map(|&chunk| u16::from_be_bytes(chunk)).collect()
    }

    #[test]
    fn chunks_take_the_form_that_holds_most() {
        use Symbol::{LargeDelta, Missing, SmallDelta};
        assert_eq!(chunks_of(&[SmallDelta; 20]), [0x2014]);
        assert_eq!(chunks_of(&[Missing; 8192]), [0x1fff, 0x0001]);
        assert_eq!(chunks_of(&[SmallDelta, Missing, SmallDelta]), [0b1101_0001_0000_0000]);
        let alternating: Vec<_> = [SmallDelta, Missing].repeat(7);
        assert_eq!(chunks_of(&alternating), [0b1010_1010_1010_1010]);
        // A large delta among the first 7 makes them a two-bit chunk; the small ones after it start the next one.
        let mut mixed = vec![LargeDelta];
        mixed.extend([SmallDelta; 7]);
        assert_eq!(chunks_of(&mixed), [0b1110_0101_0101_0101, 0x2001]);
        // A large delta after 8 others: they do not fill a one-bit vector, so 7 of them go into a two-bit one.
        let mut late = vec![SmallDelta, Missing, SmallDelta, Missing, SmallDelta, Missing, SmallDelta, Missing];
        assert_eq!(chunks_of(&late), [0b1010_1010_1000_0000], "the last vector may be short");
        late.push(LargeDelta);
        assert_eq!(chunks_of(&late), [0b1101_0001_0001_0001, 0b1100_1000_0000_0000]);
    }
}
