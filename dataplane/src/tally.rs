//! What each stream and each slot has carried, for operators: counts that the packet path adds to, and the tallies that
//! are made of them when a peer's reports are due, about once a second. They cost a packet a few additions; a tally is
//! about twenty words into the outbox and from there into the link's memory.

use crate::config::{Micros, TALLY_MARK_INTERVAL};

/// Counts that only grow, at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Mark {
    pub(crate) at: Micros,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Of a stream: packets that should have come.
    pub(crate) expected: u64,
}

/// Where counts stood a while ago, so that there are rates of the last seconds, whoever asks and whenever.
#[derive(Default)]
pub(crate) struct Marks {
    newer: Option<Mark>,
    older: Option<Mark>,
}

impl Marks {
    /// What has come since the older mark, `at` being how long that is: two to four seconds, less at the beginning.
    pub(crate) fn window(&mut self, now: Mark) -> Mark {
        if self.newer.is_none_or(|newer| now.at >= newer.at + TALLY_MARK_INTERVAL) {
            self.older = self.newer.replace(now);
        }
        let since = self.older.or(self.newer).unwrap_or(now);
        Mark {
            at: now.at.saturating_sub(since.at),
            packets: now.packets - since.packets,
            bytes: now.bytes - since.bytes,
            expected: now.expected - since.expected,
        }
    }
}

/// What is counted of a stream beside its reception.
#[derive(Default)]
pub(crate) struct StreamCounts {
    pub(crate) bytes: u64,
    pub(crate) repaired: u64,
    pub(crate) nacks: u64,
    pub(crate) keyframe_requests: u64,
    pub(crate) policed: u64,
    pub(crate) marks: Marks,
}

/// What is counted of a slot beside its packets.
#[derive(Default)]
pub(crate) struct SlotCounts {
    pub(crate) nacks: u64,
    pub(crate) retransmitted: u64,
    pub(crate) keyframe_requests: u64,
    /// The fraction lost of the receiver's last report, in 256ths, and when it came.
    pub(crate) loss: Option<(Micros, u8)>,
    /// The round trip by the last report that told it, and when that came.
    pub(crate) rtt: Option<(Micros, Micros)>,
    pub(crate) marks: Marks,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_of_the_last_seconds() {
        let mut marks = Marks::default();
        let second = 1_000_000;
        let windows: Vec<(u64, u64)> = (0..9)
            .map(|n| marks.window(Mark { at: 50 + n * second, packets: 7 * n, ..Mark::default() }))
            .map(|window| (window.at / second, window.packets / 7))
            .collect();
        let lengths = [0, 1, 2, 3, 2, 3, 2, 3, 2];
        assert_eq!(windows, lengths.map(|n| (n, n)));
    }

    #[test]
    fn after_a_pause_the_window_is_as_long_as_the_pause_was() {
        let mut marks = Marks::default();
        marks.window(Mark { at: 1, packets: 1, ..Mark::default() });
        let window = marks.window(Mark { at: 60_000_001, packets: 61, ..Mark::default() });
        assert_eq!((window.at, window.packets), (60_000_000, 60));
    }
}
