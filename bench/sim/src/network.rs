//! The way of datagrams between a peer and the server: a queue with a rate, then a delay, and what goes wrong on it.

use dataplane::Micros;

use crate::random::Random;

/// One direction of a peer's link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conditions {
    /// Bits per second; what does not fit into `queue_ms` of them is lost.
    pub rate_bps: u64,
    /// Length of the queue before the bottleneck, milliseconds at `rate_bps`.
    pub queue_ms: u64,
    /// Time of propagation, milliseconds.
    pub delay_ms: u64,
    /// Up to so many milliseconds more, for each datagram by itself: it reorders.
    pub jitter_ms: u64,
    /// Lost datagrams, of a thousand.
    pub loss_permille: u64,
    /// Datagrams that arrive twice, of a thousand.
    pub duplicate_permille: u64,
}

impl Conditions {
    /// A link that loses nothing and has more than enough room.
    pub const GOOD: Conditions = Conditions {
        rate_bps: 100_000_000,
        queue_ms: 200,
        delay_ms: 10,
        jitter_ms: 0,
        loss_permille: 0,
        duplicate_permille: 0,
    };

    /// A link that is bad in its own way.
    pub fn draw(random: &mut Random) -> Conditions {
        Conditions {
            rate_bps: *random.pick(&[1_500_000, 4_000_000, 20_000_000, 100_000_000]),
            queue_ms: random.between(50, 400),
            delay_ms: random.between(1, 120),
            jitter_ms: random.below(40),
            loss_permille: *random.pick(&[0, 0, 10, 50, 150, 250]),
            duplicate_permille: *random.pick(&[0, 0, 10, 100]),
        }
    }
}

/// One direction of one peer's link, with what is on it.
pub struct Link {
    conditions: Conditions,
    random: Random,
    /// When the bottleneck has sent all that is queued.
    busy_until: Micros,
}

/// When a datagram arrives: not at all, once, or twice.
pub type Arrivals = [Option<Micros>; 2];

impl Link {
    /// A link whose accidents come from this stream.
    pub fn new(conditions: Conditions, random: Random) -> Link {
        Link { conditions, random, busy_until: 0 }
    }

    /// The link changes; what is under way is not touched.
    pub fn change(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// A datagram of `len` bytes enters the link.
    pub fn send(&mut self, now: Micros, len: usize) -> Arrivals {
        let Conditions { rate_bps, queue_ms, delay_ms, jitter_ms, loss_permille, duplicate_permille } = self.conditions;
        // Drawn whatever happens, so that one datagram more or less in the queue does not change another one's fate.
        let is_lost = self.random.permille(loss_permille);
        let is_doubled = self.random.permille(duplicate_permille);
        let jitter = [0, 1].map(|_| self.random.below(jitter_ms * 1000 + 1));
        let begins = self.busy_until.max(now);
        if begins - now > queue_ms * 1000 {
            return [None; 2];
        }
        self.busy_until = begins + len as u64 * 8 * 1_000_000 / rate_bps;
        let at = |jitter: Micros| self.busy_until + delay_ms * 1000 + jitter;
        [(!is_lost).then(|| at(jitter[0])), (is_doubled && !is_lost).then(|| at(jitter[1]))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_its_rate_and_loses_what_its_queue_cannot_hold() {
        let conditions = Conditions { rate_bps: 1_000_000, queue_ms: 100, ..Conditions::GOOD };
        let mut link = Link::new(conditions, Random::new(1, 1));
        let arrivals: Vec<Micros> = (0..100).filter_map(|_| link.send(0, 1250)[0]).collect();
        // Each takes 10 ms of the bottleneck: ten wait, and the one that is being sent.
        assert_eq!(arrivals.len(), 11);
        assert_eq!(arrivals[0], 20_000);
        assert_eq!(arrivals[10], 120_000);
        assert_eq!(link.send(200_000, 1250)[0], Some(220_000));
    }

    #[test]
    fn it_loses_and_doubles_as_often_as_it_is_told() {
        let conditions = Conditions { loss_permille: 200, duplicate_permille: 100, ..Conditions::GOOD };
        let mut link = Link::new(conditions, Random::new(2, 1));
        let arrivals: Vec<Arrivals> = (0..10_000).map(|n| link.send(n * 1000, 100)).collect();
        let count = |index: usize| arrivals.iter().filter(|arrivals| arrivals[index].is_some()).count();
        assert!((7800..8200).contains(&count(0)) && (650..950).contains(&count(1)), "{} {}", count(0), count(1));
    }
}
