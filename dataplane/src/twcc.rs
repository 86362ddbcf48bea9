//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01), both ways.
//!
//! A publisher's packets carry a transport-wide sequence number. [`ArrivalLog`] notes when each arrived, by the kernel's
//! timestamp and after SRTP authentication, and writes the feedback from which the publisher estimates its
//! bandwidth. [`TransportCc`] reads the feedback that subscribers send about our packets.
//!
//! Both deal in the body of an RTCP packet (PT 205, FMT 15); [`crate::rtcp`] frames it.

use crate::config::Micros;

/// One tick of a receive delta, µs.
pub const DELTA_TICK: Micros = 250;

/// One tick of the reference time, µs: 64 ms.
pub const REFERENCE_TICK: Micros = 256 * DELTA_TICK;

/// Longest feedback packet that an [`ArrivalLog`] fills, RTCP header and SSRCs included. Below the 1200 bytes that every
/// path carries, with room for a receiver report before it and the SRTCP trailer after it.
pub const FEEDBACK_LEN_MAX: usize = 1100;

/// RTCP header, sender and media SSRC, which [`crate::rtcp::CompoundWriter`] writes.
const FRAME_LEN: usize = 12;

/// Base sequence number, status count, reference time, feedback count.
const PREFIX_LEN: usize = 8;

/// Least room for a message that says something: three runs of missing packets fill the widest log, then one chunk and
/// one delta say what arrived.
const MESSAGE_LEN_MIN: usize = PREFIX_LEN + 3 * 2 + 2 + 4;

/// Age at which an arrival that was reported leaves the log, µs, as in libwebrtc. A packet that is later than this gets no
/// report.
const BACK_WINDOW: Micros = 500_000;

/// Bounds of a log's capacity. A quarter of the sequence space keeps "before" and "after" apart; 64 is one burst.
const CAPACITY_MIN: usize = 64;
const CAPACITY_MAX: usize = 1 << 14;

/// What a packet chunk says of one packet (§3.1.1). Value 3 is reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Symbol {
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

    const fn of(delta: i16) -> Symbol {
        if matches!(delta, 0..=255) { Symbol::SmallDelta } else { Symbol::LargeDelta }
    }

    /// Bytes of the receive delta.
    const fn delta_len(self) -> usize {
        self as usize
    }
}

/// Why bytes are not transport-cc feedback.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransportCcError {
    /// The prefix, the chunks or the deltas pass the end.
    #[error("transport-cc feedback is cut short")]
    Truncated,
    /// A chunk uses the reserved symbol 3.
    #[error("transport-cc feedback uses the reserved symbol")]
    ReservedSymbol,
}

/// Received feedback, checked whole: each status has its chunk, and each arrival its delta.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransportCc<'a> {
    /// SSRC of the peer that reports.
    pub sender_ssrc: u32,
    /// A stream of the transport reported on; which one means nothing.
    pub media_ssrc: u32,
    /// Transport-wide sequence number of the first status.
    pub base_seq: u16,
    /// How many sequence numbers are reported.
    pub status_count: u16,
    /// Time that the first delta counts from, in 64 ms ticks of the reporter's clock; 24 bits, wraps.
    pub reference_time: u32,
    /// Counts feedback packets, so that a lost one is noticed; wraps.
    pub feedback_count: u8,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl<'a> TransportCc<'a> {
    /// Reads the body of the packet: all after the RTCP header.
    pub fn parse(body: &'a [u8]) -> Result<TransportCc<'a>, TransportCcError> {
        let (head, rest) = body.split_first_chunk::<16>().ok_or(TransportCcError::Truncated)?;
        let status_count = u16::from_be_bytes([head[10], head[11]]);
        let (chunks_len, deltas_len) = measure(rest, status_count)?;
        let (chunks, rest) = rest.split_at(chunks_len);
        // What follows the deltas is padding to the word; the reference receiver does not look at it either.
        let deltas = rest.get(..deltas_len).ok_or(TransportCcError::Truncated)?;
        Ok(TransportCc {
            sender_ssrc: u32::from_be_bytes([head[0], head[1], head[2], head[3]]),
            media_ssrc: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            base_seq: u16::from_be_bytes([head[8], head[9]]),
            status_count,
            reference_time: u32::from_be_bytes([0, head[12], head[13], head[14]]),
            feedback_count: head[15],
            chunks,
            deltas,
        })
    }

    /// Each reported sequence number in order, with its receive delta in ticks of 250 µs, or `None` if it did not
    /// arrive. The first delta counts from the reference time, every other from the arrival before it.
    pub fn statuses(&self) -> Statuses<'a> {
        Statuses {
            seq: self.base_seq,
            left: self.status_count,
            chunk: Chunk::EMPTY,
            chunks: self.chunks,
            deltas: self.deltas,
        }
    }
}

/// Bytes of chunks and of deltas that `status_count` statuses take at the front of `bytes`.
fn measure(bytes: &[u8], status_count: u16) -> Result<(usize, usize), TransportCcError> {
    let (mut left, mut chunks_len, mut deltas_len) = (status_count, 0, 0);
    while left > 0 {
        let bits = bytes.get(chunks_len..chunks_len + 2).ok_or(TransportCcError::Truncated)?;
        let mut chunk = Chunk::parse([bits[0], bits[1]]);
        chunks_len += 2;
        // A chunk may describe more than is left; the excess means nothing.
        chunk.left = chunk.left.min(left);
        left -= chunk.left;
        deltas_len += chunk.deltas_len().ok_or(TransportCcError::ReservedSymbol)?;
    }
    Ok((chunks_len, deltas_len))
}

/// A packet chunk (§3.1.3, §3.1.4) and how many of its symbols are still to come.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    bits: u16,
    left: u16,
}

impl Chunk {
    const EMPTY: Chunk = Chunk { bits: 0, left: 0 };

    fn parse(bytes: [u8; 2]) -> Chunk {
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
    fn pop(&mut self) -> Option<Symbol> {
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
    fn deltas_len(mut self) -> Option<usize> {
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

/// Iterator of [`TransportCc::statuses`].
#[derive(Clone, Debug)]
pub struct Statuses<'a> {
    seq: u16,
    left: u16,
    chunk: Chunk,
    chunks: &'a [u8],
    deltas: &'a [u8],
}

impl Iterator for Statuses<'_> {
    type Item = (u16, Option<i16>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        while self.chunk.left == 0 {
            let (bytes, rest) = self.chunks.split_first_chunk::<2>()?;
            (self.chunk, self.chunks) = (Chunk::parse(*bytes), rest);
        }
        let delta = match self.chunk.pop()? {
            Symbol::Missing => None,
            Symbol::SmallDelta => {
                let (&[tick], rest) = self.deltas.split_first_chunk::<1>()?;
                self.deltas = rest;
                Some(i16::from(tick))
            }
            Symbol::LargeDelta => {
                let (ticks, rest) = self.deltas.split_first_chunk::<2>()?;
                self.deltas = rest;
                Some(i16::from_be_bytes(*ticks))
            }
        };
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        Some((seq, delta))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Statuses<'_> {}

/// When the packets of one transport arrived, by transport-wide sequence number, and what of it was reported.
///
/// A ring over the newest sequence numbers; no allocation after [`ArrivalLog::new`]. A packet that arrives late, below what
/// was reported already, takes the next report back to itself, as libwebrtc's RemoteEstimatorProxy does: what is said
/// twice is said with the same time, and the sender heeds the first.
#[derive(Debug)]
pub struct ArrivalLog {
    /// Arrival of extended sequence number `s` at `s % len`; [`ArrivalLog::MISSING`] for each one outside `begin..end`.
    arrivals: Box<[Micros]>,
    /// Extended sequence numbers. `begin` is the lowest still accepted, `end` one past the highest that arrived.
    begin: i64,
    end: i64,
    /// The first to report. All below were reported; `next == end` when nothing new arrived.
    next: i64,
    feedback_count: u8,
}

impl ArrivalLog {
    const MISSING: Micros = Micros::MAX;

    /// A log over the newest `capacity` sequence numbers, rounded up to a power of two from 64 to 16384.
    ///
    /// Between two reports no more packets than this may arrive, or the oldest go unreported; each takes 8 bytes.
    pub fn new(capacity: usize) -> ArrivalLog {
        let len = capacity.clamp(CAPACITY_MIN, CAPACITY_MAX).next_power_of_two();
        ArrivalLog { arrivals: vec![Self::MISSING; len].into(), begin: 0, end: 0, next: 0, feedback_count: 0 }
    }

    /// Forgets all arrivals, for another occupant of the same place. The feedback count starts again.
    pub fn clear(&mut self) {
        self.arrivals.fill(Self::MISSING);
        (self.begin, self.end, self.next, self.feedback_count) = (0, 0, 0, 0);
    }

    /// Whether something arrived that was not reported.
    pub fn has_unreported(&self) -> bool {
        self.next < self.end
    }

    /// Notes that the packet `seq` arrived at `at`. Only for authenticated packets. A repeated one keeps its first time, and
    /// one older than the window is not taken up.
    pub fn push(&mut self, seq: u16, at: Micros) {
        let at = at.min(Self::MISSING - 1);
        if self.next == self.end {
            self.cull(at);
        }
        if self.begin == self.end {
            // The first packet, or the first after a pause: any sequence number will do, and those just before it may come.
            (self.begin, self.end) = (i64::from(seq) + 1 - self.arrivals.len() as i64, i64::from(seq));
            self.next = self.end;
        }
        let ahead = seq.wrapping_sub(self.end as u16) as i16;
        let seq = self.end + i64::from(ahead);
        if seq < self.begin || (seq < self.end && *self.arrival(seq) != Self::MISSING) {
            return;
        }
        if seq >= self.end {
            self.advance(seq + 1);
        }
        self.next = self.next.min(seq);
        *self.arrival(seq) = at;
    }

    fn arrival(&mut self, seq: i64) -> &mut Micros {
        let mask = self.arrivals.len() - 1;
        &mut self.arrivals[seq as usize & mask]
    }

    /// Moves the window up so that it ends at `end`, and clears the places that change their owner.
    fn advance(&mut self, end: i64) {
        let begin = self.begin.max(end - self.arrivals.len() as i64);
        for seq in self.begin..begin.min(self.end) {
            *self.arrival(seq) = Self::MISSING;
        }
        (self.begin, self.end) = (begin, end);
        // What left the window unreported stays unsaid: to call it lost would be untrue.
        self.next = self.next.max(begin);
    }

    /// Lets go of what arrived longer than the back window before `now`. Run when all is reported, so that a late packet
    /// takes a report back by half a second at the most.
    fn cull(&mut self, now: Micros) {
        let oldest = now.saturating_sub(BACK_WINDOW);
        let mut keep_from = self.begin;
        for seq in self.begin..self.end {
            match *self.arrival(seq) {
                Self::MISSING => {}
                at if at <= oldest => keep_from = seq + 1,
                _ => break,
            }
        }
        for seq in self.begin..keep_from {
            *self.arrival(seq) = Self::MISSING;
        }
        self.begin = keep_from;
    }

    /// Writes one feedback message into `out`, from the base sequence number on, and returns its length: a multiple of 4,
    /// or 0 if nothing new arrived or there is no room. It covers as much as fits; call again while
    /// [`ArrivalLog::has_unreported`] says so.
    ///
    /// The end is padded with zeros that the status count already excludes. The P bit stays clear: RFC 3550 §6.4.1
    /// allows it in the last packet of a compound only, and this one can stand anywhere.
    pub fn write_feedback(&mut self, out: &mut [u8]) -> usize {
        let room = out.len().min(FEEDBACK_LEN_MAX - FRAME_LEN) & !3;
        if !self.has_unreported() || room < MESSAGE_LEN_MIN {
            return 0;
        }
        let base = self.next;
        let first = (base..self.end).find_map(|seq| Some(*self.arrival(seq)).filter(|&at| at != Self::MISSING));
        let first = first.expect("the highest sequence number of the log has arrived");
        let reference_time = first / REFERENCE_TICK;

        let (chunks_len, covered_end) = self.write_chunks(base, reference_time, &mut out[PREFIX_LEN..room]);
        let deltas_start = PREFIX_LEN + chunks_len;
        let deltas_len = self.write_deltas(base..covered_end, reference_time, &mut out[deltas_start..room]);
        let end = deltas_start + deltas_len;
        let padded = end.next_multiple_of(4);
        out[end..padded].fill(0);

        out[..2].copy_from_slice(&(base as u16).to_be_bytes());
        out[2..4].copy_from_slice(&((covered_end - base) as u16).to_be_bytes());
        out[4..8].copy_from_slice(&((reference_time as u32) << 8 | u32::from(self.feedback_count)).to_be_bytes());
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.next = covered_end;
        padded
    }

    /// Writes chunks for as many packets as have room together with their deltas and whose deltas can be said; returns
    /// the bytes written and one past the last packet covered, which is one that arrived.
    fn write_chunks(&mut self, base: i64, reference_time: Micros, out: &mut [u8]) -> (usize, i64) {
        let mut clock = DeltaClock::new(reference_time);
        let mut chunks = ChunkWriter::new();
        let mut deltas_len = 0;
        let mut done = (chunks, base);
        for seq in base..self.end {
            let at = *self.arrival(seq);
            let symbol = if at == Self::MISSING {
                Symbol::Missing
            } else {
                match clock.tick(at) {
                    Some(delta) => Symbol::of(delta),
                    None => break,
                }
            };
            deltas_len += symbol.delta_len();
            if !chunks.push(symbol, out) || chunks.len() + deltas_len > out.len() {
                break;
            }
            if symbol != Symbol::Missing {
                done = (chunks, seq + 1);
            }
        }
        // Statuses after the last arrival that fitted are taken back: their loss is not certain yet.
        let (chunks, covered_end) = done;
        (chunks.finish(out), covered_end)
    }

    fn write_deltas(&mut self, covered: std::ops::Range<i64>, reference_time: Micros, out: &mut [u8]) -> usize {
        let mut clock = DeltaClock::new(reference_time);
        let mut len = 0;
        for seq in covered {
            let at = *self.arrival(seq);
            if at == Self::MISSING {
                continue;
            }
            let delta = clock.tick(at).expect("the same delta had its chunk written");
            match Symbol::of(delta) {
                Symbol::LargeDelta => out[len..len + 2].copy_from_slice(&delta.to_be_bytes()),
                _ => out[len] = delta as u8,
            }
            len += Symbol::of(delta).delta_len();
        }
        len
    }
}

/// Turns arrivals into deltas of ticks. Each is taken from the time that the receiver will have reconstructed, so that
/// rounding never adds up.
struct DeltaClock {
    ticks: i64,
}

impl DeltaClock {
    fn new(reference_time: Micros) -> DeltaClock {
        DeltaClock { ticks: (reference_time * (REFERENCE_TICK / DELTA_TICK)) as i64 }
    }

    /// The delta to `at`; `None` if 16 bits cannot hold it (±8.2 s), and a new packet must carry a new reference.
    fn tick(&mut self, at: Micros) -> Option<i16> {
        let ticks = (at / DELTA_TICK) as i64 + i64::from(at % DELTA_TICK >= DELTA_TICK / 2);
        let delta = i16::try_from(ticks - self.ticks).ok()?;
        self.ticks = ticks;
        Some(delta)
    }
}

/// Packs symbols into chunks, choosing for each the form that takes the most: a run, 14 one-bit symbols or 7 two-bit ones.
///
/// Complete chunks lie in the output; the symbols after them are pending here and always fit one chunk. Copying the
/// writer therefore keeps a point to go back to.
#[derive(Clone, Copy)]
struct ChunkWriter {
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

    const fn new() -> ChunkWriter {
        ChunkWriter { written: 0, pending: [Symbol::Missing; 14], count: 0, is_run: true, has_large: false }
    }

    /// Bytes of all chunks if the last were written now.
    const fn len(&self) -> usize {
        self.written + if self.count > 0 { 2 } else { 0 }
    }

    /// Adds a symbol. False if a complete chunk found no room.
    fn push(&mut self, symbol: Symbol, out: &mut [u8]) -> bool {
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
    fn finish(mut self, out: &mut [u8]) -> usize {
        while self.count > 0 {
            assert!(self.emit(out, true), "the room of pending symbols was counted");
        }
        self.written
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What one feedback message says: its size, base, statuses with absolute times in ticks, and feedback count.
    struct Report {
        len: usize,
        base_seq: u16,
        statuses: Vec<(u16, Option<i64>)>,
        feedback_count: u8,
    }

    fn report_into(log: &mut ArrivalLog, room: usize) -> Option<Report> {
        let mut body = vec![0xee; 8 + room];
        let len = log.write_feedback(&mut body[8..]);
        if len == 0 {
            return None;
        }
        let feedback = TransportCc::parse(&body[..8 + len]).unwrap();
        let mut time = i64::from(feedback.reference_time) * 256;
        let statuses = feedback.statuses().map(|(seq, delta)| {
            (
                seq,
                delta.map(|delta| {
                    time += i64::from(delta);
                    time
                }),
            )
        });
        Some(Report {
            len,
            base_seq: feedback.base_seq,
            statuses: statuses.collect(),
            feedback_count: feedback.feedback_count,
        })
    }

    fn report(log: &mut ArrivalLog) -> Option<Report> {
        report_into(log, 2000)
    }

    fn statuses(log: &mut ArrivalLog) -> Vec<(u16, Option<i64>)> {
        let report = report(log).expect("something to report");
        assert!(!log.has_unreported());
        report.statuses
    }

    /// A received message with these chunks and deltas.
    fn body(status_count: u16, chunks: &[u16], deltas: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xff];
        bytes.extend_from_slice(&status_count.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 3, 9]);
        bytes.extend(chunks.iter().flat_map(|chunk| chunk.to_be_bytes()));
        bytes.extend_from_slice(deltas);
        bytes
    }

    fn chunks_of(symbols: &[Symbol]) -> Vec<u16> {
        let mut out = [0; 64];
        let mut writer = ChunkWriter::new();
        assert!(symbols.iter().all(|&symbol| writer.push(symbol, &mut out)));
        let len = writer.len();
        assert_eq!(writer.finish(&mut out), len);
        out[..len].as_chunks().0.iter().map(|&chunk| u16::from_be_bytes(chunk)).collect()
    }

    #[test]
    fn the_drafts_examples_are_read() {
        // §3.1.3: a run of 221 packets not received; §3.1.4: one-bit and two-bit vectors.
        let missing = body(221, &[0b0000_0000_1101_1101], &[]);
        assert!(TransportCc::parse(&missing).unwrap().statuses().all(|(_, delta)| delta.is_none()));
        let one_bit = body(14, &[0b1001_1111_0001_1100], &[1, 2, 3, 4, 5, 6, 7, 8]);
        let received: Vec<_> = TransportCc::parse(&one_bit).unwrap().statuses().map(|(_, delta)| delta).collect();
        let expected = [0, 1, 2, 3, 4, 5, 0, 0, 0, 6, 7, 8, 0, 0].map(|delta| (delta != 0).then_some(delta));
        assert_eq!(received, expected);
        let two_bits = body(7, &[0b1100_0101_1001_0000], &[1, 2, 0xff, 0xfe, 4]);
        let feedback = TransportCc::parse(&two_bits).unwrap();
        assert_eq!((feedback.sender_ssrc, feedback.media_ssrc), (1, 2));
        assert_eq!((feedback.reference_time, feedback.feedback_count), (3, 9));
        let received: Vec<_> = feedback.statuses().collect();
        let expected = [None, Some(1), Some(2), Some(-2), Some(4), None, None];
        assert_eq!(received.iter().map(|&(_, delta)| delta).collect::<Vec<_>>(), expected);
        assert_eq!([received[0].0, received[1].0, received[6].0], [65_535, 0, 5], "the sequence number wraps");
    }

    #[test]
    fn contradictions_are_refused() {
        use TransportCcError::{ReservedSymbol, Truncated};
        assert_eq!(TransportCc::parse(&[0; 15]), Err(Truncated));
        assert_eq!(TransportCc::parse(&body(1, &[], &[])), Err(Truncated), "no chunk");
        assert_eq!(TransportCc::parse(&body(8, &[0xc000], &[])), Err(Truncated), "statuses without a chunk");
        assert_eq!(TransportCc::parse(&body(2, &[0x2002], &[1])), Err(Truncated), "an arrival without a delta");
        assert_eq!(TransportCc::parse(&body(u16::MAX, &[0; 600], &[])), Err(Truncated), "runs of nothing");
        assert_eq!(TransportCc::parse(&body(1, &[0x6001], &[0; 4])), Err(ReservedSymbol), "in a run");
        assert_eq!(TransportCc::parse(&body(7, &[0xc003], &[0; 4])), Err(ReservedSymbol), "in a vector");
        assert!(TransportCc::parse(&body(6, &[0xc003], &[])).is_ok(), "beyond the count it means nothing");
        assert_eq!(TransportCc::parse(&body(0, &[], &[])).unwrap().statuses().count(), 0);
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

    #[test]
    fn arrivals_are_reported_with_their_gaps() {
        let mut log = ArrivalLog::new(256);
        log.push(65_535, 1_000_000);
        log.push(1, 1_001_000);
        let first = report(&mut log).unwrap();
        assert_eq!((first.base_seq, first.feedback_count, first.len % 4), (65_535, 0, 0));
        assert_eq!(first.statuses, [(65_535, Some(4000)), (0, None), (1, Some(4004))]);
        assert!(report(&mut log).is_none());
        log.push(3, 1_002_000);
        let second = report(&mut log).unwrap();
        assert_eq!((second.base_seq, second.feedback_count), (2, 1), "the base follows the last report");
        assert_eq!(second.statuses, [(2, None), (3, Some(4008))]);
    }

    #[test]
    fn reordered_arrivals_have_negative_deltas() {
        let mut log = ArrivalLog::new(256);
        log.push(10, 1_000_000);
        log.push(12, 1_001_000);
        log.push(11, 1_002_000);
        log.push(9, 1_003_000);
        assert_eq!(statuses(&mut log), [(9, Some(4012)), (10, Some(4000)), (11, Some(4008)), (12, Some(4004))]);
    }

    #[test]
    fn a_late_packet_takes_the_report_back_to_itself() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(3, 1_001_000);
        assert_eq!(statuses(&mut log), [(1, Some(4000)), (2, None), (3, Some(4004))]);
        log.push(4, 1_100_000);
        log.push(2, 1_100_250);
        assert_eq!(statuses(&mut log), [(2, Some(4401)), (3, Some(4004)), (4, Some(4400))]);
    }

    #[test]
    fn a_repeated_packet_keeps_its_first_time() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(1, 1_050_000);
        assert_eq!(statuses(&mut log), [(1, Some(4000))]);
        log.push(1, 1_060_000);
        assert!(!log.has_unreported());
    }

    #[test]
    fn what_is_older_than_the_back_window_is_let_go() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(3, 1_000_000);
        log.push(6, 1_400_000);
        statuses(&mut log);
        log.push(7, 1_600_000);
        log.push(2, 1_600_000);
        log.push(5, 1_600_000);
        assert_eq!(statuses(&mut log), [(5, Some(6400)), (6, Some(5600)), (7, Some(6400))], "2 is too late");
    }

    #[test]
    fn after_a_long_pause_any_sequence_number_starts_again() {
        let mut log = ArrivalLog::new(256);
        log.push(40_000, 1_000_000);
        statuses(&mut log);
        log.push(10, 60_000_000);
        assert_eq!(statuses(&mut log), [(10, Some(240_000))]);
    }

    #[test]
    fn a_delta_that_does_not_fit_starts_another_packet() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(3, 1_000_000 + 8_192_000);
        let (first, second) = (report(&mut log).unwrap(), report(&mut log).unwrap());
        assert_eq!(first.statuses, [(1, Some(4000))], "the gap belongs to the packet that ends it");
        assert_eq!(second.statuses, [(2, None), (3, Some(36_768))]);
        assert_eq!(second.feedback_count, 1);

        log.clear();
        log.push(1, 1_000_000);
        log.push(2, 1_000_000 + 32_767 * 250);
        assert_eq!(statuses(&mut log), [(1, Some(4000)), (2, Some(4000 + 32_767))]);
    }

    #[test]
    fn the_reference_time_wraps_at_24_bits() {
        let mut log = ArrivalLog::new(256);
        log.push(1, ((1 << 24) + 5) * REFERENCE_TICK + 250);
        assert_eq!(statuses(&mut log), [(1, Some(5 * 256 + 1))]);
    }

    #[test]
    fn rounding_does_not_add_up() {
        let mut log = ArrivalLog::new(4096);
        // 100.1 µs apart: each delta alone would round to nothing.
        for n in 0..2000u64 {
            log.push(n as u16, 1_000_000 + n * 1001 / 10);
        }
        let mut reported = Vec::new();
        while let Some(report) = report(&mut log) {
            reported.extend(report.statuses);
        }
        assert_eq!(reported.len(), 2000);
        for (n, &(_, ticks)) in reported.iter().enumerate() {
            let error = ticks.unwrap() * 250 - (1_000_000 + n as i64 * 1001 / 10);
            assert!(error.abs() <= 125, "packet {n} is off by {error} µs");
        }
    }

    #[test]
    fn a_packet_stays_below_its_limit_and_the_rest_follows() {
        let mut log = ArrivalLog::new(8192);
        // Alternating far times need a large delta each.
        for n in 0..3000u16 {
            log.push(n, if n % 2 == 0 { 1_000_000 } else { 2_000_000 });
        }
        let (mut next, mut packets) = (0, 0);
        while let Some(report) = report(&mut log) {
            assert!(FRAME_LEN + report.len <= FEEDBACK_LEN_MAX);
            assert_eq!(usize::from(report.base_seq), next);
            next += report.statuses.len();
            packets += 1;
        }
        assert_eq!(next, 3000);
        // Two bytes of delta each, and hardly any for the chunks, which are runs: about 538 in a packet.
        assert_eq!(packets, 6);
    }

    #[test]
    fn without_room_nothing_is_lost() {
        let mut log = ArrivalLog::new(CAPACITY_MAX);
        log.push(1, 1_000_000);
        log.push(16_000, 1_001_000);
        assert!(report_into(&mut log, MESSAGE_LEN_MIN - 1).is_none());
        let mut said = 0;
        while let Some(report) = report_into(&mut log, MESSAGE_LEN_MIN) {
            assert!(report.len <= MESSAGE_LEN_MIN);
            said += report.statuses.len();
        }
        assert_eq!(said, 16_000);
    }

    #[test]
    fn overflow_of_the_log_drops_the_oldest_and_calls_none_lost() {
        let mut log = ArrivalLog::new(64);
        for n in 0..100 {
            log.push(n, 1_000_000);
        }
        let reported = statuses(&mut log);
        assert_eq!(reported.first(), Some(&(36, Some(4000))));
        assert!(reported.iter().all(|(_, time)| time.is_some()));
        log.push(20_000, 1_000_000);
        let jump = statuses(&mut log);
        assert_eq!((jump.len(), jump[63]), (64, (20_000, Some(4000))));
    }

    #[test]
    fn the_feedback_count_wraps() {
        let mut log = ArrivalLog::new(64);
        for n in 0..300u16 {
            log.push(n, 1_000_000 + u64::from(n));
            assert_eq!(report(&mut log).unwrap().feedback_count, n as u8);
        }
    }

    proptest! {
        /// Against a map: everything that arrived within the window is reported, at its own time, and nothing else is.
        #[test]
        fn reports_agree_with_an_oracle(
            start: u16,
            steps in prop::collection::vec((-20i64..60, 0u64..40_000, prop::bool::weighted(0.05)), 1..400),
            room in MESSAGE_LEN_MIN..1500,
        ) {
            let mut log = ArrivalLog::new(1 << 14);
            let mut arrived = BTreeMap::new();
            let mut told = BTreeMap::new();
            let (mut seq, mut now, mut count) = (i64::from(start), 1_000_000, 0u8);
            let mut drain = |log: &mut ArrivalLog, arrived: &BTreeMap<u16, i64>, told: &mut BTreeMap<u16, i64>| {
                while let Some(report) = report_into(log, room) {
                    assert!(report.len <= room);
                    assert_eq!(report.feedback_count, count);
                    count = count.wrapping_add(1);
                    assert!(report.statuses.last().unwrap().1.is_some(), "a report ends with an arrival");
                    for (seq, ticks) in report.statuses {
                        // Each is told as it is known now. What was forgotten after 500 ms may be told as missing.
                        if let Some(ticks) = ticks {
                            assert_eq!(arrived.get(&seq), Some(&ticks));
                            told.insert(seq, ticks);
                        } else {
                            assert!(!arrived.contains_key(&seq) || told.contains_key(&seq));
                        }
                    }
                }
            };
            for (jump, wait, is_due) in steps {
                (seq, now) = ((seq + jump).max(i64::from(start)), now + wait / 10);
                log.push(seq as u16, now);
                arrived.entry(seq as u16).or_insert((now as i64 + 125) / 250);
                if is_due {
                    drain(&mut log, &arrived, &mut told);
                }
            }
            drain(&mut log, &arrived, &mut told);
            // Nothing is older than 500 ms when it is 400 steps of at most 4 ms, unless it was told and let go: then a
            // repetition of it is refused or told again, and a first arrival below the window may stay untold.
            let lowest_kept = log.begin as u16;
            for (seq, ticks) in &arrived {
                let is_below = (seq.wrapping_sub(lowest_kept) as i16) < 0;
                prop_assert!(told.get(seq) == Some(ticks) || is_below, "{seq} was not told");
            }
        }
    }
}
