//! Which SSRCs else a stream is sent from, and how far another one is in taking its place.

use proto::id::Ssrc;
use proto::plane::STREAM_ENCODINGS_MAX;

use crate::config::Micros;

/// The further encodings of one stream, and how far another SSRC is in taking its place.
pub(crate) struct Encodings {
    /// Media and RTX (0 for none), the better one first; 0 where there is none.
    pub(crate) ssrcs: [(Ssrc, Ssrc); STREAM_ENCODINGS_MAX],
    /// When the last packet came from the SSRC that the stream is carried from.
    pub(crate) received_at: Micros,
    /// When that was for which the frames of others are counted, and how many have ended since.
    pub(crate) counted_since: Micros,
    pub(crate) frames: u8,
    /// When a better encoding was last asked for a keyframe.
    pub(crate) asked_at: Micros,
}

/// No time. There is memory for three of them in each stream.
pub(crate) const NEVER: Micros = Micros::MAX;

impl Default for Encodings {
    fn default() -> Self {
        Encodings { ssrcs: Default::default(), received_at: NEVER, counted_since: NEVER, frames: 0, asked_at: NEVER }
    }
}

impl Encodings {
    /// A packet came from the SSRC that the stream is carried from.
    #[inline]
    pub(crate) fn received(&mut self, at: Micros) {
        self.received_at = at;
    }

    /// Whether there are any.
    pub(crate) fn are_known(&self) -> bool {
        self.ssrcs.iter().any(|(media, rtx)| *media != 0 || *rtx != 0)
    }
}
