//! Whether a queue is kept by others. A flow that fills the queue of a path until packets are lost, as TCP does, is not impressed
//! by who gives way: a transport that lowers its rate for each growth of that queue ends with nothing, and the queue stays. The
//! sign of it is a queue that is no shorter after the rate was lowered, three times in a row. Then growth of the queue is not
//! answered for a while, and only losses and drops are.

use crate::config::{MILLISECOND, Micros, SECOND};

/// After this a lower rate must have shown (some round trips, and feedback), by this much: a queue of ours is shorter by 225 ms then, as the rate
/// is lowered by 15 %; a queue of TCP moves by tens of milliseconds of its own.
const SHOWN_AFTER: Micros = 1500 * MILLISECOND;
const SHOWN_BY: Micros = 80 * MILLISECOND;
/// So many times in a row it has not. With two, three flows of ours took each other for others at times, and filled the queue.
const IN_VAIN: u8 = 3;
/// How long the queue is not answered, before it is tried again.
const TOLERATED: Micros = 10 * SECOND;
/// A queue of others is at least this long, and is over when it is shorter than that.
const QUEUE_MIN: Micros = 50 * MILLISECOND;
const QUEUE_OVER: Micros = 20 * MILLISECOND;
/// A queue that is shorter than this may be that of a probe on a narrow path.
const OF_A_PROBE: Micros = 120 * MILLISECOND;
/// A queue that grows beyond this multiple of the round trip at the begin, and that, is no one's that was there: a path that
/// gets worse.
const GROWN: Micros = 2;
const GROWN_MORE: Micros = 50 * MILLISECOND;
/// The shortest round trip of one to two of these is that of the empty path.
const WINDOW: Micros = 30 * SECOND;

/// What is known of the queue of one path.
pub(super) struct Rivals {
    rtt: Micros,
    /// Shortest round trips of this window and of the one before, and when this one ends.
    rtt_min: (Micros, Micros),
    window_end: Micros,
    /// The shortest one ever: a queue that others keep is not taken for the empty path after a minute.
    rtt_least: Micros,
    /// When the rate was lowered, and the round trip then.
    lowered: Option<(Micros, Micros)>,
    in_vain: u8,
    /// Until when the queue is tolerated, and up to which round trip.
    tolerated: Option<(Micros, Micros)>,
}

impl Rivals {
    pub(super) const fn new() -> Self {
        let rtt_min = (Micros::MAX, Micros::MAX);
        Rivals { rtt: 0, rtt_min, window_end: 0, rtt_least: Micros::MAX, lowered: None, in_vain: 0, tolerated: None }
    }

    /// A feedback measured the round trip of the path, µs.
    pub(super) fn measured(&mut self, now: Micros, rtt: Micros) {
        self.rtt = rtt;
        if now >= self.window_end {
            self.rtt_min = (Micros::MAX, self.rtt_min.0);
            self.window_end = now + WINDOW;
        }
        self.rtt_min.0 = self.rtt_min.0.min(rtt);
        self.rtt_least = self.rtt_least.min(rtt);
        let queue = rtt - self.rtt_min.0.min(self.rtt_min.1);
        if let Some((at, before)) = self.lowered
            && now.saturating_sub(at) >= SHOWN_AFTER
        {
            self.lowered = None;
            let is_in_vain = rtt + SHOWN_BY >= before && queue >= QUEUE_MIN;
            self.in_vain = if is_in_vain { self.in_vain.saturating_add(1) } else { 0 };
            if self.in_vain >= IN_VAIN {
                self.tolerated = Some((now + TOLERATED, GROWN * rtt + GROWN_MORE));
            }
        }
        if let Some((until, rtt_max)) = self.tolerated {
            if rtt > rtt_max || queue < QUEUE_OVER {
                (self.tolerated, self.in_vain) = (None, 0);
            } else if now >= until {
                self.tolerated = None;
            }
        }
    }

    /// The rate was lowered because the queue had grown.
    pub(super) fn lowered(&mut self, now: Micros) {
        self.lowered.get_or_insert((now, self.rtt));
    }

    /// How much longer the round trip is than that of the empty path.
    pub(super) fn queue(&self) -> Micros {
        self.rtt.saturating_sub(self.rtt_min.0.min(self.rtt_min.1))
    }

    /// Whether nobody else's packets wait on the path, as far as anything was ever seen of it.
    pub(super) fn is_alone(&self) -> bool {
        self.rtt.saturating_sub(self.rtt_least) < OF_A_PROBE
    }

    /// Whether the queue is kept by others, and not to be answered.
    pub(super) const fn is_tolerated(&self) -> bool {
        self.tolerated.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Micros = MILLISECOND;

    /// Round trips each 100 ms by time, and the rate lowered once a second while it is answered. Seconds tolerated.
    fn tolerated(rtt: impl Fn(u64) -> Micros) -> Vec<u64> {
        let mut rivals = Rivals::new();
        let mut seconds = Vec::new();
        for n in 0..400 {
            rivals.measured(n * 100 * MS, rtt(n * 100) * MS);
            if n % 10 == 0 && rivals.is_tolerated() {
                seconds.push(n / 10);
            } else if n % 10 == 0 && n > 50 {
                rivals.lowered(n * 100 * MS);
            }
        }
        seconds
    }

    #[test]
    fn a_queue_that_stays_whatever_the_rate_is_tolerated_and_tried_again() {
        let seconds = tolerated(|ms| if ms < 5_000 { 100 } else { 250 + ms / 100 % 50 });
        assert!(seconds.len() >= 15 && seconds[0] >= 10 && seconds.len() < 30, "{seconds:?}");
    }

    #[test]
    fn a_queue_that_gets_shorter_a_short_one_and_one_that_grows_fast_are_answered() {
        assert!(tolerated(|ms| 400u64.saturating_sub(ms / 100).max(100)).is_empty());
        assert!(tolerated(|ms| if ms < 5_000 { 100 } else { 130 }).is_empty());
        let growing = tolerated(|ms| if ms < 5_000 { 100 } else { 100 + (ms - 5_000) / 4 });
        // Each time only until the round trip has doubled.
        assert!(growing.len() <= 20, "{growing:?}");
    }
}
