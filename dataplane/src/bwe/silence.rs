//! Feedback that does not come, or comes too late for the history: the estimate falls without it.

use crate::config::{MILLISECOND, Micros, SECOND};

/// While packets are sent and no feedback comes for this long and two round trips, the estimate falls by the factor, and again
/// after the interval. (libwebrtc `RttBasedBackoff`: 3 s, 0.8, 1 s. A meeting does not wait that long for a dead path.)
const LIMIT: Micros = SECOND;
pub(super) const LIMIT_MAX: Micros = 3 * SECOND;
const PACKETS_MIN: u32 = 10;
pub(super) const FACTOR: f64 = 0.8;
const INTERVAL: Micros = 500 * MILLISECOND;

/// Feedback that for this long and in this many messages reports more packets that the history does not know than others comes
/// too late through a full queue: overuse, which lowers the estimate by the factor, and again after the interval. (Who discards
/// such feedback keeps an estimate that is too high: jitsi-videobridge#2440.)
const UNKNOWN: Micros = 500 * MILLISECOND;
const UNKNOWN_FEEDBACKS_MIN: u32 = 3;
pub(super) const UNKNOWN_FACTOR: f64 = 0.85;
const UNKNOWN_INTERVAL: Micros = 200 * MILLISECOND;

/// What became of the packets that a feedback reports as received.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Matched {
    /// In the history.
    pub found: u32,
    /// Of these, those that no feedback has reported before.
    pub first: u32,
    /// Not, or not any more.
    pub unknown: u32,
}

/// What was sent since the last feedback.
#[derive(Default)]
pub(super) struct Unreported {
    since: Option<Micros>,
    sent_at: Micros,
    packets: u32,
    lowered_at: Option<Micros>,
}

impl Unreported {
    /// So many packets were sent. Whether no feedback has come for so long that the estimate has to fall.
    pub(super) fn is_silence(&mut self, now: Micros, packets: u32, rtt: Micros) -> bool {
        if now.saturating_sub(self.sent_at) > LIMIT {
            (self.since, self.packets) = (None, 0); // A pause of ours is no silence of the receiver.
        }
        self.sent_at = now;
        let since = *self.since.get_or_insert(now);
        self.packets = self.packets.saturating_add(packets);
        let limit = (LIMIT + 2 * rtt).min(LIMIT_MAX);
        let is_due = now.saturating_sub(since) > limit
            && self.packets >= PACKETS_MIN
            && self.lowered_at.is_none_or(|at| now.saturating_sub(at) >= INTERVAL);
        if is_due {
            self.lowered_at = Some(now);
        }
        is_due
    }
}

/// Feedback about packets that the history does not know.
#[derive(Default)]
pub(super) struct Unknown {
    total: u64,
    since: Option<Micros>,
    feedbacks: u32,
    lowered_at: Option<Micros>,
}

impl Unknown {
    /// Packets in all feedback that were received, and not in the history.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Whether it has been going on for so long that it is overuse, and the estimate has to fall.
    pub(super) fn is_overuse(&mut self, now: Micros, matched: Matched) -> bool {
        self.total += u64::from(matched.unknown);
        if matched.unknown <= matched.found {
            if matched.found > 0 {
                (self.since, self.feedbacks) = (None, 0);
            }
            return false;
        }
        let since = *self.since.get_or_insert(now);
        self.feedbacks = self.feedbacks.saturating_add(1);
        let is_due = now.saturating_sub(since) >= UNKNOWN
            && self.feedbacks >= UNKNOWN_FEEDBACKS_MIN
            && self.lowered_at.is_none_or(|at| now.saturating_sub(at) >= UNKNOWN_INTERVAL);
        if is_due {
            self.lowered_at = Some(now);
        }
        is_due
    }
}
