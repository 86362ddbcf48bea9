//! Continuity of a slot: whatever is routed into it, the receiver sees one stream with one SSRC, whose sequence
//! numbers and timestamps go on.
//!
//! A gap of the input stays a gap of the output: a receiver that is not told of a loss freezes, one that is told
//! asks for a repair. Only what a route withholds on purpose closes up, because the next segment starts right
//! after the last packet that left; and an outage that nobody could repair, which begins a segment too.

use crate::config::Micros;
use crate::repair::Source;
use crate::srtp::Window;

/// How many earlier segments are remembered for repairs of packets sent before a switch.
const SEGMENTS: usize = 4;

/// A run of output packets that came from one stream with constant offsets.
#[derive(Clone, Copy)]
struct Segment {
    source: Source,
    /// Output index of its first packet.
    out_first: u64,
    /// Added to the input index, wrapping.
    index_offset: u64,
    /// Added to the input timestamp, wrapping.
    timestamp_offset: u32,
}

/// What a repair needs to know of a packet that left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) source: Source,
    /// The packet's index in its stream.
    pub(crate) index: u64,
    /// The packet's index as it left.
    pub(crate) out_index: u64,
    pub(crate) timestamp_offset: u32,
}

/// Maps one stream after another onto a slot's numbers.
pub(crate) struct Rewriter {
    /// Newest first; the first is live while `is_live`.
    segments: [Option<Segment>; SEGMENTS],
    is_live: bool,
    /// Highest output index so far.
    highest: u64,
    /// Timestamp of the packet with the highest index, and when it left.
    timestamp_last: u32,
    sent_last: Option<Micros>,
    /// Index of the input packet that began the live segment: older ones belong to what was withheld.
    in_first: u64,
}

impl Rewriter {
    /// A slot that starts at `seq_first` and `timestamp_first`.
    pub(crate) fn new(seq_first: u16, timestamp_first: u32) -> Self {
        Rewriter {
            segments: [None; SEGMENTS],
            is_live: false,
            // The first packet gets highest + 1. Starting one ROC up would break receivers that start at ROC 0, so
            // a first sequence number of 0 is served as 1.
            highest: u64::from(seq_first.max(1)) - 1,
            timestamp_last: timestamp_first,
            sent_last: None,
            in_first: 0,
        }
    }

    /// The next packet begins a segment: another stream, or the same one after a pause.
    pub(crate) fn cut(&mut self) {
        self.is_live = false;
    }

    /// Whether an input packet is further ahead of the live segment than any loss that could still be repaired. Its gap
    /// closes up: a receiver's SRTP loses count where sequence numbers jump by half their range, and the slot would be
    /// deaf for the rest of the call, whoever is routed into it.
    #[inline]
    pub(crate) fn is_jump(&self, index: u64) -> bool {
        let highest = self.segments[0].filter(|_| self.is_live).map(|s| self.highest.wrapping_sub(s.index_offset));
        highest.is_some_and(|highest| index > highest + Window::WIDTH)
    }

    /// Whether a segment is running.
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// Begins a segment with the packet (`index`, `timestamp`) of `source`, which is about to be mapped.
    pub(crate) fn begin(&mut self, source: Source, index: u64, timestamp: u32, clock_rate: u32, now: Micros) {
        let timestamp_out = match self.sent_last {
            None => self.timestamp_last,
            Some(sent) => {
                // Elapsed wall time, and at least one tick, so that two frames never share a timestamp.
                let elapsed = u128::from(now.saturating_sub(sent)) * u128::from(clock_rate) / 1_000_000;
                self.timestamp_last.wrapping_add((elapsed as u32).max(1))
            }
        };
        let out_first = self.highest + 1;
        self.segments.rotate_right(1);
        self.segments[0] = Some(Segment {
            source,
            out_first,
            index_offset: out_first.wrapping_sub(index),
            timestamp_offset: timestamp_out.wrapping_sub(timestamp),
        });
        self.in_first = index;
        self.is_live = true;
    }

    /// Output index and timestamp of an input packet of the live segment; `None` if it is older than the segment.
    #[inline]
    pub(crate) fn map(&mut self, index: u64, timestamp: u32, now: Micros) -> Option<(u64, u32)> {
        let segment = self.segments[0].filter(|_| self.is_live)?;
        if index < self.in_first {
            return None;
        }
        let out = index.wrapping_add(segment.index_offset);
        let timestamp = timestamp.wrapping_add(segment.timestamp_offset);
        if out > self.highest {
            self.highest = out;
            self.timestamp_last = timestamp;
            self.sent_last = Some(now);
        }
        Some((out, timestamp))
    }

    /// Timestamp offset of the live segment, for sender reports.
    pub(crate) fn timestamp_offset(&self) -> Option<u32> {
        self.segments[0].filter(|_| self.is_live).map(|s| s.timestamp_offset)
    }

    /// Where the packet with this output sequence number came from.
    pub(crate) fn origin(&self, seq: u16) -> Option<Origin> {
        // The latest index with this sequence number that is not in the future.
        let behind = (self.highest as u16).wrapping_sub(seq);
        let out_index = self.highest.checked_sub(u64::from(behind))?;
        let segment = self.segments.iter().flatten().find(|s| out_index >= s.out_first)?;
        Some(Origin {
            source: segment.source,
            index: out_index.wrapping_sub(segment.index_offset),
            out_index,
            timestamp_offset: segment.timestamp_offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::id::StreamId;

    use super::*;

    const A: Source = Source { stream: StreamId::new(0, 1), ssrc: 7 };
    const B: Source = Source { stream: StreamId::new(1, 1), ssrc: 8 };

    #[test]
    fn gaps_stay_and_switches_close_up() {
        let mut r = Rewriter::new(100, 5000);
        r.begin(A, 70_000, 1_000_000, 90_000, 0);
        assert_eq!(r.map(70_000, 1_000_000, 0), Some((100, 5000)));
        assert_eq!(r.map(70_003, 1_003_000, 33_000), Some((103, 8000)), "the gap of two stays");
        assert_eq!(r.map(70_001, 1_000_000, 34_000), Some((101, 5000)), "a late packet fills it");
        assert_eq!(r.map(69_999, 1, 0), None, "older than the segment");
        r.cut();
        assert_eq!(r.map(70_004, 1_003_000, 35_000), None, "nothing passes between segments");
        r.begin(B, 9, 77, 90_000, 133_000);
        assert_eq!(r.map(9, 77, 133_000), Some((104, 8000 + 9000)), "next number, 100 ms later");
    }

    #[test]
    fn a_switch_without_time_still_moves_the_timestamp() {
        let mut r = Rewriter::new(1, u32::MAX);
        r.begin(A, 5, 10, 90_000, 50);
        assert_eq!(r.map(5, 10, 50), Some((1, u32::MAX)));
        r.begin(B, 5, 10, 90_000, 50);
        assert_eq!(r.map(5, 10, 50), Some((2, 0)));
    }

    #[test]
    fn repairs_find_the_origin_across_a_switch_and_a_wrap() {
        let mut r = Rewriter::new(32_000, 0);
        r.begin(A, 10, 0, 90_000, 0);
        for i in 10..10 + 40_000u64 {
            r.map(i, 0, 0);
        }
        let highest = 32_000 + 40_000 - 1;
        assert_eq!(r.origin(highest as u16).map(|o| (o.source, o.index, o.out_index)), Some((A, 40_009, highest)));
        r.begin(B, 500, 0, 90_000, 0);
        r.map(500, 0, 0);
        assert_eq!(r.origin(highest as u16).map(|o| (o.source, o.index)), Some((A, 40_009)));
        assert_eq!(r.origin((highest + 1) as u16).map(|o| (o.source, o.index)), Some((B, 500)));
        assert_eq!(Rewriter::new(10, 0).origin(9), None, "nothing left yet");
        assert_eq!(Rewriter::new(10, 0).origin(60_000), None, "nothing left yet");
    }
}
