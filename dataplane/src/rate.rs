//! Leaf: the rate of a stream over the last second and a half. That is long enough that one keyframe, which is as large as ten
//! frames, adds a fifth and not the double, and short enough to follow a sender that changes its rate.

use crate::config::{Micros, SECOND};

/// Time is cut into pieces of 2^17 µs, 131 ms.
const PIECE_BITS: u32 = 17;
/// Pieces that are remembered: 1.57 s.
const PIECES: usize = 12;

/// Bytes that came, by when.
#[derive(Default)]
pub(crate) struct Rate {
    bytes: [u32; PIECES],
    /// Number of the newest piece, and of the first one since the stream began or went on.
    newest: u64,
    first: u64,
}

impl Rate {
    /// So many bytes came.
    #[inline]
    pub(crate) fn add(&mut self, bytes: usize, at: Micros) {
        let piece = at >> PIECE_BITS;
        if piece > self.newest {
            self.advance(piece);
        }
        self.bytes[self.newest as usize % PIECES] += bytes as u32;
    }

    fn advance(&mut self, piece: u64) {
        let gone = (piece - self.newest).min(PIECES as u64);
        if gone == PIECES as u64 {
            self.first = piece;
        }
        for at in piece + 1 - gone..=piece {
            self.bytes[at as usize % PIECES] = 0;
        }
        self.newest = piece;
    }

    /// Bit/s at this moment.
    pub(crate) fn bps(&self, now: Micros) -> u32 {
        let newest = now >> PIECE_BITS;
        let oldest = (newest + 1).saturating_sub(PIECES as u64);
        let kept = (self.newest + 1).saturating_sub(PIECES as u64).max(oldest);
        let bytes: u64 = (kept..=self.newest).map(|piece| u64::from(self.bytes[piece as usize % PIECES])).sum();
        // The newest piece is not over yet. What has just begun is measured over a few pieces at the least.
        let since = oldest.max(self.first) << PIECE_BITS;
        let span = now.saturating_sub(since).max(4 << PIECE_BITS);
        u32::try_from(8 * bytes * SECOND / span).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Micros = 33_333;

    #[test]
    fn a_steady_stream_has_its_rate_within_two_seconds() {
        let mut rate = Rate::default();
        assert_eq!(rate.bps(SECOND), 0);
        for frame in 0..300 {
            let at = 7 * SECOND + frame * FRAME;
            rate.add(4167, at); // 1 Mb/s
            if frame > 20 {
                assert!((850_000..1_150_000).contains(&rate.bps(at)), "frame {frame}: {}", rate.bps(at));
            }
        }
        let end = 7 * SECOND + 300 * FRAME;
        assert!(rate.bps(end + SECOND) < 600_000, "it has ended");
        assert_eq!(rate.bps(end + 2 * SECOND), 0);
    }

    #[test]
    fn a_keyframe_moves_it_little() {
        let mut rate = Rate::default();
        for frame in 0..200 {
            let at = frame * FRAME;
            rate.add(if frame == 150 { 41_670 } else { 4167 }, at);
            if frame > 60 {
                assert!(rate.bps(at) < 1_350_000, "frame {frame}: {}", rate.bps(at));
            }
        }
    }

    #[test]
    fn after_a_pause_it_is_measured_anew() {
        let mut rate = Rate::default();
        rate.add(1_000_000, 0);
        let began = 100 * SECOND;
        (0..20).for_each(|frame| rate.add(4167, began + frame * FRAME));
        let bps = rate.bps(began + 20 * FRAME);
        assert!((800_000..1_300_000).contains(&bps), "{bps}");
    }
}
