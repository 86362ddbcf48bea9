//! How often something may be done in a second, shared by owners whose number nobody can bound: addresses can be forged and tokens
//! minted.
//!
//! **An owner may go on while it has had less in the last second than is left for everybody.** Alone it gets nearly everything; the
//! more others want, the less it may have had, so the one that takes most waits first, and who has had nothing is served while anything
//! is left.
//!
//! What an owner has had is kept in a table of fixed size, in one cell of each of two rows, found by keyed hashes; the lower of the
//! two counts (a count-min sketch with conservative update: Cormode and Muthukrishnan 2005, Estan and Varghese 2003). One that floods
//! fills two cells, and another owner pays for that only if both of its own are among them. Who forges owners fills all cells evenly,
//! and an honest one then still has what is `assured` to a cell.

use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::time::Instant;

use crate::bucket::TokenBucket;

/// Cells of a row where owners are tokens, rooms, or addresses that completed a TCP handshake: two rows are 64 KiB.
pub(crate) const CELLS: usize = 4_096;

/// The same where owners are forged with a packet each: two rows are 256 KiB, and 65,000 forged ones a second put four a second into
/// each cell.
pub(crate) const CELLS_IF_FORGED: usize = 16_384;

/// Units a second, with a burst of as many.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Rule {
    /// For one owner.
    pub(crate) per_owner: u32,
    /// For all together.
    pub(crate) total: u32,
    /// What an owner has even while the total is used up, for where owners can be forged; else 0.
    pub(crate) assured: u32,
}

/// What came of asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It may be done now.
    Granted,
    /// The owner has had as much as one may have.
    OwnerLimited,
    /// All together want too much, and this owner has had its part.
    TotalLimited,
}

/// What an owner has had of late: a number that falls to 1/e in a second.
#[derive(Clone, Copy, Default)]
struct Cell {
    had: f32,
    /// Milliseconds since the first use.
    at: u32,
}

impl Cell {
    fn had_at(self, at: u32) -> f32 {
        self.had * (-(at.saturating_sub(self.at) as f32) / 1000.0).exp()
    }
}

/// A rate, shared by owners.
pub(crate) struct Rates {
    rule: Rule,
    rows: [Box<[Cell]>; 2],
    keys: [u64; 2],
    total: TokenBucket,
    begun: Option<Instant>,
}

impl std::fmt::Debug for Rates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rates").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl Rates {
    /// A table whose cells nobody finds who does not know the seed.
    pub(crate) fn new(rule: Rule, cells: usize, seed: [u64; 2]) -> Rates {
        let row = || vec![Cell::default(); cells].into_boxed_slice();
        Rates { rule, rows: [row(), row()], keys: seed, total: TokenBucket::per_second(rule.total), begun: None }
    }

    /// One with a seed of the operating system's.
    pub(crate) fn with_random_seed(rule: Rule, cells: usize) -> Rates {
        let random = || std::hash::RandomState::new().hash_one(0);
        Rates::new(rule, cells, [random(), random()])
    }

    /// Another rule from now on.
    pub(crate) fn set_rule(&mut self, rule: Rule) {
        self.rule = rule;
        self.total.set_per_second(rule.total);
    }

    /// Whether an owner that has had nothing would be served now.
    pub(crate) fn has_some_left(&mut self, now: Instant) -> bool {
        self.total.left(now) >= 1.0
    }

    /// Takes one unit for the owner if it may have it now.
    pub(crate) fn take(&mut self, now: Instant, owner: &impl Hash) -> Verdict {
        self.take_many(now, owner, 1)
    }

    /// Takes so many units, or none.
    pub(crate) fn take_many(&mut self, now: Instant, owner: &impl Hash, units: u32) -> Verdict {
        let begun = *self.begun.get_or_insert(now);
        let at = u32::try_from(now.saturating_duration_since(begun).as_millis()).unwrap_or(u32::MAX);
        let cells = self.keys.map(|key| hash(key, owner) % self.rows[0].len());
        let had = [0, 1].map(|row| self.rows[row][cells[row]].had_at(at));
        let (least, units) = (had[0].min(had[1]), units as f32);
        if least + units > self.rule.per_owner as f32 {
            return Verdict::OwnerLimited;
        }
        let left = self.total.left(now);
        if left >= f64::from(units) && f64::from(least) < left {
            self.total.spend(now, units as usize);
        } else if least + units > self.rule.assured as f32 {
            return Verdict::TotalLimited;
        }
        for row in [0, 1] {
            self.rows[row][cells[row]] = Cell { had: had[row].max(least + units), at };
        }
        Verdict::Granted
    }
}

fn hash(key: u64, owner: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(key);
    owner.hash(&mut hasher);
    hasher.finish() as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rates(per_owner: u32, total: u32, assured: u32) -> Rates {
        Rates::new(Rule { per_owner, total, assured }, CELLS_IF_FORGED, [7, 8])
    }

    fn granted(rates: &mut Rates, now: Instant, owner: u32, asks: usize) -> usize {
        (0..asks).filter(|_| rates.take(now, &owner) == Verdict::Granted).count()
    }

    #[test]
    fn an_owner_has_its_rate_and_no_more() {
        let (now, mut rates) = (Instant::now(), rates(10, 1000, 0));
        assert_eq!(granted(&mut rates, now, 1, 50), 10);
        assert_eq!(rates.take(now, &1u32), Verdict::OwnerLimited);
        let mut steady = 0;
        for ms in 0..10_000 {
            steady += granted(&mut rates, now + Duration::from_millis(ms), 1, 1);
        }
        assert!((90..=110).contains(&steady), "{steady} in ten seconds");
        assert_eq!(rates.take_many(now + Duration::from_secs(60), &2u32, 11), Verdict::OwnerLimited);
        assert_eq!(rates.take_many(now + Duration::from_secs(60), &2u32, 10), Verdict::Granted);
    }

    #[test]
    fn who_has_had_nothing_is_served_while_others_want_everything() {
        for greedy in [1, 2, 5, 50] {
            let (start, mut rates) = (Instant::now(), rates(500, 500, 0));
            let (mut served, mut all) = (0, 0);
            for ms in 0..5_000 {
                let now = start + Duration::from_millis(ms);
                for owner in 0..greedy {
                    all += granted(&mut rates, now, 100 + owner, 20);
                }
                if ms % 100 == 99 {
                    served += granted(&mut rates, now, 1, 1);
                }
            }
            // With fifty there is not always something left; who is passed over comes again, and is served before them.
            assert!(served >= 45, "{served} of 50 with {greedy} that want everything");
            assert!((2_000..=3_050).contains(&all), "{all} of 2500 with {greedy}: nothing lies idle");
        }
    }

    #[test]
    fn forged_owners_leave_an_honest_one_its_part() {
        let (start, mut rates) = (Instant::now(), rates(100, 500, 8));
        let (mut forged, mut served, mut all) = (0u32, 0, 0);
        for ms in 0..5_000 {
            let now = start + Duration::from_millis(ms);
            for _ in 0..50 {
                forged += 1;
                all += granted(&mut rates, now, 1000 + forged, 1);
            }
            if ms % 200 == 199 {
                served += granted(&mut rates, now, 1, 1);
            }
        }
        assert_eq!(served, 25, "50,000 a second are forged; {all} of them are served");
        assert_eq!(
            rates.rows.iter().map(|row| row.len()).sum::<usize>(),
            2 * CELLS_IF_FORGED,
            "and the table is as large as before"
        );
    }

    #[test]
    fn another_rule_holds_at_once() {
        let (now, mut rates) = (Instant::now(), rates(100, 100, 0));
        rates.set_rule(Rule { per_owner: 5, total: 5, assured: 0 });
        assert!(granted(&mut rates, now, 1, 50) <= 5);
    }
}
