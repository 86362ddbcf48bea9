//! Leaf: the rate of a stream over the last second and a half. That is long enough that one keyframe, which is as large as ten
//! frames, adds a fifth and not the double, and short enough to follow a sender that changes its rate.
//!
//! A shared screen sends almost nothing, and in one second more than a camera does in five: [`Rate::steady_bps`] is its mean over
//! about eight seconds.

use crate::config::{Micros, SECOND};

/// Time is cut into pieces of 2^17 µs, 131 ms.
const PIECE_BITS: u32 = 17;
/// Pieces that are remembered: 1.57 s.
const PIECES: usize = 12;
/// Pieces of the steady rate: 8.4 s.
const STEADY_PIECES: u32 = 64;

/// Bytes that came, by when.
#[derive(Default)]
pub(crate) struct Rate {
    bytes: [u32; PIECES],
    /// Number of the newest piece, and of the first one since the stream began or went on.
    newest: u64,
    first: u64,
    /// Mean bytes of the pieces that are over, and of how many it is the mean.
    mean: f32,
    pieces: u32,
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
        // The mean of the first ones, and from then on a weighted one.
        let bytes = self.bytes[self.newest as usize % PIECES] as f32;
        let over = if self.newest > 0 { (piece - self.newest).min(STEADY_PIECES.into()) } else { 0 };
        for at in 0..over {
            self.pieces = (self.pieces + 1).min(STEADY_PIECES);
            self.mean += (if at == 0 { bytes } else { 0.0 } - self.mean) / self.pieces as f32;
        }
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

impl Rate {
    /// Bit/s in the mean of about eight seconds, or since it began.
    pub(crate) fn steady_bps(&self, now: Micros) -> u32 {
        if self.pieces < PIECES as u32 {
            return self.bps(now);
        }
        (f64::from(self.mean) * 8.0 * SECOND as f64 / f64::from(1u32 << PIECE_BITS)) as u32
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
    fn bursts_do_not_move_the_steady_rate() {
        // 1.35 Mb/s in the mean: each second's quarter has 3.9, the rest 0.5 (jitsi-videobridge#2443).
        let mut rate = Rate::default();
        let (mut steady, mut short) = ((u32::MAX, 0), (u32::MAX, 0));
        for tick in 0..6000u64 {
            let at = 3 * SECOND + tick * 10_000;
            rate.add(if tick % 400 < 100 { 4875 } else { 625 }, at);
            if tick > 2000 {
                let of = |(least, most): (u32, u32), bps: u32| (least.min(bps), most.max(bps));
                (steady, short) = (of(steady, rate.steady_bps(at)), of(short, rate.bps(at)));
            }
        }
        assert!(steady.0 > 1_000_000 && steady.1 < 1_700_000, "{steady:?}");
        assert!(short.0 < 600_000 && short.1 > 2_500_000, "{short:?}");
        assert!(rate.steady_bps(63 * SECOND) > 1_000_000);
        rate.add(1, 200 * SECOND);
        assert!(rate.steady_bps(200 * SECOND) < 600_000, "a screen that stands still");
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
