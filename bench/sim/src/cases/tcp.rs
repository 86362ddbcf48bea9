//! TCP flows that compete with media for a queue: CUBIC (RFC 9438) with slow start (RFC 5681), as a model of the window alone.
//!
//! The window grows by one segment for each acknowledgement until the first loss, then by the cubic function of §4.2, or as Reno
//! would where that is faster (§4.3), and is multiplied by 0.7 (§4.6) at most once in a round trip when a segment was lost. A lost
//! segment is noticed a round trip after it was sent, and counts as sent again by the ones that follow. There are no timeouts, no
//! delayed acknowledgements, no pacing and no HyStart. Acknowledgements are not lost and do not wait.

use std::collections::VecDeque;

use dataplane::Micros;

use super::path::{Fate, Way};
use crate::random::Random;

const SECOND: Micros = 1_000_000;
/// A segment with its headers, bytes, and what of it is payload.
const SEGMENT_LEN: usize = 1500;
const PAYLOAD_LEN: u64 = 1460;
/// RFC 6928.
const WINDOW_FIRST: f64 = 10.0;
/// RFC 9438 §4.6 and §5.
const BETA: f64 = 0.7;
const C: f64 = 0.4;

/// What a flow carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// As much as it may, from this second on.
    Long(u64),
    /// Files of 100 kB to 1 MB, with pauses between them of 10 s in the mean, exponentially distributed (RFC 8867 §5.7).
    Files,
}

/// One flow.
pub struct Tcp {
    load: Load,
    random: Random,
    /// One way, each way.
    delay: Micros,
    window: f64,
    threshold: f64,
    /// The window before it was last lowered, when that was, and what Reno would have.
    most: f64,
    lowered_at: Option<Micros>,
    reno: f64,
    /// When each segment under way is acknowledged, or its loss is noticed, and when it was sent.
    flying: VecDeque<(Micros, Micros, bool)>,
    /// Bytes that are still to be sent, and when the next file begins.
    left: u64,
    next_at: Micros,
    /// Bytes of packets that came out of the queue, with headers.
    pub delivered: u64,
}

impl Tcp {
    /// A flow whose seconds count from `begun`.
    pub fn new(load: Load, delay_ms: u64, begun: Micros, random: Random) -> Tcp {
        let mut tcp = Tcp {
            load,
            random,
            delay: delay_ms * 1000,
            window: WINDOW_FIRST,
            threshold: f64::INFINITY,
            most: 0.0,
            lowered_at: None,
            reno: 0.0,
            flying: VecDeque::new(),
            left: 0,
            next_at: begun,
            delivered: 0,
        };
        match load {
            Load::Long(second) => tcp.next_at = begun + second * SECOND,
            Load::Files => tcp.next_at = begun + tcp.pause(),
        }
        tcp
    }

    /// Exponential, in steps of a thousandth, without a logarithm: the sum of the waits of a coin with a chance of one in a thousand.
    fn pause(&mut self) -> Micros {
        let step = 10 * SECOND / 1000;
        (1..).take_while(|_| !self.random.permille(1)).count() as u64 * step
    }

    /// Time passes: what is acknowledged opens the window, and what fits into it is sent.
    pub fn step(&mut self, now: Micros, way: &mut Way) {
        while let Some(&(at, sent_at, is_lost)) = self.flying.front()
            && at <= now
        {
            self.flying.pop_front();
            match is_lost {
                true => self.lost(now, sent_at),
                false => self.acknowledged(now, at - sent_at),
            }
        }
        if self.left == 0 && self.flying.is_empty() && self.next_at <= now {
            self.left = match self.load {
                Load::Long(_) => u64::MAX,
                Load::Files => self.random.between(100_000, 1_000_000),
            };
            // Each file has a connection of its own.
            (self.window, self.threshold, self.lowered_at) = (WINDOW_FIRST, f64::INFINITY, None);
        }
        while self.left > 0 && (self.flying.len() as f64) < self.window {
            let fate = way.send(now, SEGMENT_LEN);
            let last = self.flying.back().map_or(now, |(at, ..)| *at);
            let at = match fate {
                Fate::Out(out, _) => out + 2 * self.delay,
                // It is noticed by the acknowledgements of those that follow.
                Fate::Lost(_) | Fate::Full => now + 2 * self.delay,
            };
            let is_lost = !matches!(fate, Fate::Out(..));
            self.flying.push_back((at.max(last), now, is_lost));
            if !is_lost {
                self.delivered += SEGMENT_LEN as u64;
                self.left = self.left.saturating_sub(PAYLOAD_LEN);
            }
            if self.left == 0 {
                self.next_at = now + self.pause();
            }
        }
    }

    fn acknowledged(&mut self, now: Micros, rtt: Micros) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let Some(lowered_at) = self.lowered_at else { return };
        let seconds = |time: Micros| time as f64 / SECOND as f64;
        let time_to_most = (self.most * (1.0 - BETA) / C).cbrt();
        let target = C * (seconds(now - lowered_at + rtt) - time_to_most).powi(3) + self.most;
        self.reno += 3.0 * (1.0 - BETA) / (1.0 + BETA) / self.window;
        // Not more than half as much again in a round trip (§4.4).
        let cubic = (target.clamp(self.window, 1.5 * self.window) - self.window) / self.window;
        self.window = (self.window + cubic).max(self.reno);
    }

    fn lost(&mut self, now: Micros, sent_at: Micros) {
        if self.lowered_at.is_some_and(|at| sent_at < at) {
            return; // Of the same round trip.
        }
        self.lowered_at = Some(now);
        // Fast convergence (§4.7).
        self.most = if self.window < self.most { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(2.0);
        (self.threshold, self.reno) = (self.window, self.window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::path::Conditions;

    fn run(flows: &mut [Tcp], way: &mut Way, seconds: u64) {
        for now in (0..seconds * SECOND).step_by(1000) {
            flows.iter_mut().for_each(|tcp| tcp.step(now, way));
        }
    }

    #[test]
    fn one_flow_fills_a_link_and_two_share_it() {
        let conditions = Conditions { capacity: &[(0, 2_000)], ..Conditions::GOOD };
        let mut way = Way::new(conditions, 0, Random::new(1, 1));
        let flow = |purpose| Tcp::new(Load::Long(0), 50, 0, Random::new(1, purpose));
        let mut flows = [flow(2)];
        run(&mut flows, &mut way, 60);
        let used = flows[0].delivered as f64 * 8.0 / 60.0 / 2e6;
        assert!((0.97..=1.01).contains(&used), "{used}");
        let mut way = Way::new(conditions, 0, Random::new(2, 1));
        let mut flows = [flow(3), flow(4)];
        run(&mut flows, &mut way, 120);
        let share = flows[0].delivered as f64 / (flows[0].delivered + flows[1].delivered) as f64;
        assert!((0.3..=0.7).contains(&share), "{share}");
    }

    #[test]
    fn files_have_their_sizes_and_pauses() {
        let mut way = Way::new(Conditions::GOOD, 0, Random::new(1, 1));
        let mut flows: Vec<Tcp> = (0..10).map(|n| Tcp::new(Load::Files, 10, 0, Random::new(7, n))).collect();
        run(&mut flows, &mut way, 600);
        // A file of 550 kB in the mean each 10 s and the time that it takes.
        let mean = flows.iter().map(|tcp| tcp.delivered).sum::<u64>() / 10;
        assert!((24_000_000..=40_000_000).contains(&mean), "{mean}");
    }
}
