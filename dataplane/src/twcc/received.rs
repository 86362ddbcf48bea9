//! Feedback that a subscriber sent about our packets, as a view over the body of its RTCP packet.

use super::chunk::{Chunk, Symbol};

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

#[cfg(test)]
mod tests {
    use super::*;

    /// A received message with these chunks and deltas.
    fn body(status_count: u16, chunks: &[u16], deltas: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 2, 0xff, 0xff];
        bytes.extend_from_slice(&status_count.to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 3, 9]);
        bytes.extend(chunks.iter().flat_map(|chunk| chunk.to_be_bytes()));
        bytes.extend_from_slice(deltas);
        bytes
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
}
