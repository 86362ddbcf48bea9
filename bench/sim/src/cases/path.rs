//! One direction of a path that several may share: a queue with a capacity that changes over time, and what goes wrong behind it.
//! Packets are counted with the headers of IPv4 and UDP, as a link counts them.

use dataplane::Micros;

use crate::random::Random;

const SECOND: u64 = 1_000_000;
/// IPv4 and UDP.
pub const HEADERS_LEN: usize = 28;

/// Random losses behind the queue.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each packet by itself, of a thousand.
    Random(u64),
    /// So many of a thousand in the mean, in bursts of so many packets in the mean (the simple Gilbert model).
    Bursts(u64, u64),
}

/// What a path is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conditions {
    /// Kilobits per second, from these seconds on; the first is from the begin.
    pub capacity: &'static [(u64, u64)],
    /// Longest wait in the queue, milliseconds: what would wait longer is lost (drop-tail).
    pub queue_ms: u64,
    /// Losses behind the queue.
    pub loss: Loss,
    /// How many of a thousand packets come so many milliseconds later, and so out of order.
    pub late: (u64, u64),
    /// Up to so many milliseconds more for each packet, in order.
    pub jitter_ms: u64,
}

impl Conditions {
    /// A path that nobody fills.
    pub const GOOD: Conditions =
        Conditions { capacity: &[(0, 100_000)], queue_ms: 300, loss: Loss::None, late: (0, 0), jitter_ms: 0 };

    /// Kilobits per second at a time since the begin.
    pub fn capacity_at(&self, since: Micros) -> u64 {
        let begun = self.capacity.iter().take_while(|(second, _)| second * SECOND <= since);
        begun.last().map_or(self.capacity[0].1, |(_, kbps)| *kbps)
    }
}

/// What became of a packet that entered a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// The queue was full.
    Full,
    /// It was lost behind the queue, in which it waited so long.
    Lost(Micros),
    /// It leaves the path then, and has waited so long in the queue.
    Out(Micros, Micros),
}

/// A path with what is on it.
pub struct Way {
    conditions: Conditions,
    begun: Micros,
    random: Random,
    /// When the queue has sent all that is in it.
    busy_until: Micros,
    /// Whether the Gilbert model is in its bad state.
    is_bad: bool,
    out_last: Micros,
}

impl Way {
    /// A path whose seconds count from `begun`, and whose accidents come from this stream of numbers.
    pub fn new(conditions: Conditions, begun: Micros, random: Random) -> Way {
        Way { conditions, begun, random, busy_until: 0, is_bad: false, out_last: 0 }
    }

    /// A packet of so many bytes with its headers enters.
    pub fn send(&mut self, now: Micros, len: usize) -> Fate {
        let Conditions { queue_ms, late, jitter_ms, .. } = self.conditions;
        let begins = self.busy_until.max(now);
        let waits = begins - now;
        if waits > queue_ms * 1000 {
            return Fate::Full;
        }
        let kbps = self.conditions.capacity_at(begins - self.begun.min(begins));
        self.busy_until = begins + len as u64 * 8 * 1000 / kbps.max(1);
        if self.is_lost() {
            return Fate::Lost(waits);
        }
        let jitter = if jitter_ms > 0 { self.random.below(jitter_ms * 1000) } else { 0 };
        self.out_last = self.out_last.max(self.busy_until + jitter);
        let is_late = late.0 > 0 && self.random.permille(late.0);
        Fate::Out(self.out_last + if is_late { late.1 * 1000 } else { 0 }, waits)
    }

    fn is_lost(&mut self) -> bool {
        match self.conditions.loss {
            Loss::None => false,
            Loss::Random(permille) => self.random.permille(permille),
            Loss::Bursts(permille, len) => {
                // In the bad state all is lost. It ends with 1/len, and begins as often as that makes the mean.
                let (ends, begins) = (1000 / len, 1_000_000 * permille / (1000 - permille) / len);
                self.is_bad = match self.is_bad {
                    true => !self.random.permille(ends),
                    false => self.random.below(1_000_000) < begins,
                };
                self.is_bad
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(conditions: Conditions) -> Way {
        Way::new(conditions, 0, Random::new(3, 1))
    }

    #[test]
    fn a_queue_is_as_long_as_it_may_be_and_its_rate_changes() {
        let mut way = way(Conditions { capacity: &[(0, 1_000), (1, 2_000)], queue_ms: 100, ..Conditions::GOOD });
        let fates: Vec<Fate> = (0..20).map(|_| way.send(0, 1250)).collect();
        assert_eq!(fates[0], Fate::Out(10_000, 0));
        assert_eq!(fates[10], Fate::Out(110_000, 100_000));
        assert_eq!(fates[11], Fate::Full);
        assert_eq!(way.send(SECOND, 1250), Fate::Out(SECOND + 5_000, 0));
    }

    #[test]
    fn losses_come_as_often_and_in_bursts_as_long_as_they_are_told() {
        for (loss, mean, burst) in [(Loss::Random(100), 100, 1.1), (Loss::Bursts(20, 10), 20, 10.0)] {
            let mut way = way(Conditions { loss, ..Conditions::GOOD });
            let lost: Vec<bool> = (0..200_000).map(|n| matches!(way.send(n * 1000, 100), Fate::Lost(_))).collect();
            let count = lost.iter().filter(|lost| **lost).count() as u64;
            let bursts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
            assert!((mean * 160..mean * 240).contains(&count), "{loss:?}: {count}");
            let len = count as f64 / bursts as f64;
            assert!((len / burst - 1.0).abs() < 0.2, "{loss:?}: bursts of {len}");
        }
    }
}
