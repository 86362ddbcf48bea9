//! How many DTLS handshakes may be begun: so many a second, and so many at a time, shared by rooms.
//!
//! A handshake costs a signature and a few tens of kilobytes, and any client with a token can begin one. What the gate
//! turns away is only put off: a client repeats its hello, each time after a longer wait. A room has as many as are left for all others
//! ([`crate::shares`]), so its clients put off each other and nobody else.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::rates::{Rates, Rule, Verdict};
use crate::shares::Pool;

/// Cells of the table of rates: rooms are thousands at most, and cannot be forged.
const CELLS: usize = 1024;

/// Counts handshakes of things named by `K`.
pub(crate) struct Gate<K> {
    /// Handshakes under way, with their rooms.
    half_open: BTreeMap<K, String>,
    places: Pool<String>,
    rates: Rates,
}

/// Why a handshake may not begin now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PassedOver {
    /// All rooms together have as many as may be.
    Full,
    /// This room has its part.
    Share,
}

impl<K: Ord> Gate<K> {
    /// An open gate. The seed hides which rooms share a cell of its table.
    pub(crate) fn new(half_open_max: usize, per_second: u32, seed: [u64; 2]) -> Self {
        Self {
            half_open: BTreeMap::new(),
            places: Pool::new(half_open_max),
            rates: Rates::new(rule(per_second), CELLS, seed),
        }
    }

    /// Other limits from now on. Handshakes that are under way go on.
    pub(crate) fn set_limits(&mut self, half_open_max: usize, per_second: u32) {
        self.places.set_capacity(half_open_max);
        self.rates.set_rule(rule(per_second));
    }

    /// How many handshakes are under way.
    pub(crate) fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Lets a handshake of the room begin now, if it may; then it counts until [`Gate::ended`].
    pub(crate) fn admit(&mut self, now: Instant, key: K, room: &String) -> Result<(), PassedOver> {
        let why = |has_some_left| if has_some_left { PassedOver::Share } else { PassedOver::Full };
        if self.half_open.contains_key(&key) {
            return Err(PassedOver::Share);
        }
        if !self.places.take(room, 1) {
            return Err(why(self.places.has_some_left()));
        }
        if self.rates.take(now, room) != Verdict::Granted {
            self.places.give(room, 1);
            return Err(why(self.rates.has_some_left(now)));
        }
        self.half_open.insert(key, room.clone());
        Ok(())
    }

    /// A handshake is complete or given up.
    pub(crate) fn ended(&mut self, key: K) {
        if let Some(room) = self.half_open.remove(&key) {
            self.places.give(&room, 1);
        }
    }
}

fn rule(per_second: u32) -> Rule {
    Rule { per_owner: per_second, total: per_second, assured: 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate(half_open_max: usize, per_second: u32) -> Gate<u32> {
        Gate::new(half_open_max, per_second, [1, 2])
    }

    fn admitted(gate: &mut Gate<u32>, now: Instant, keys: std::ops::Range<u32>, room: &str) -> usize {
        keys.filter(|&key| gate.admit(now, key, &room.to_owned()).is_ok()).count()
    }

    #[test]
    fn so_many_at_a_time() {
        let now = Instant::now();
        let mut gate = gate(2, 100);
        assert_eq!((admitted(&mut gate, now, 1..2, "a"), admitted(&mut gate, now, 2..3, "b")), (1, 1));
        assert_eq!(gate.admit(now, 3, &"c".into()), Err(PassedOver::Full));
        gate.ended(1);
        gate.ended(7);
        assert_eq!(admitted(&mut gate, now, 3..4, "c"), 1);
        assert_eq!(gate.half_open(), 2);
    }

    #[test]
    fn other_limits_hold_at_once() {
        let now = Instant::now();
        let mut gate = gate(1, 100);
        assert_eq!(admitted(&mut gate, now, 0..9, "a"), 1);
        gate.set_limits(2, 100);
        assert_eq!(admitted(&mut gate, now, 10..19, "b"), 1);
        gate.set_limits(50, 6);
        assert_eq!(admitted(&mut gate, now, 20..99, "c"), 3, "the burst shrinks too, and a half is left for others");
    }

    #[test]
    fn so_many_a_second() {
        let begun = Instant::now();
        let mut gate = gate(1_000_000, 100);
        let mut all = 0;
        for ms in 0..5_000 {
            all += admitted(&mut gate, begun + Duration::from_millis(ms), all as u32..all as u32 + 3, "a");
        }
        assert!((450..=600).contains(&all), "{all} in five seconds: one room alone has nearly all");
    }

    /// The attack: one room's token wants all handshakes of each second and never completes one, and a stranger joins.
    #[test]
    fn a_room_that_wants_all_handshakes_does_not_make_a_stranger_wait() {
        let begun = Instant::now();
        let mut gate = gate(256, 500);
        let mut key = 0;
        for ms in 0..10_000 {
            let now = begun + Duration::from_millis(ms);
            for _ in 0..20 {
                key += 1;
                let passed_over = gate.admit(now, key, &"greedy".into()).err();
                assert_ne!(passed_over, Some(PassedOver::Full), "something is always left");
                if ms % 20 == 0 {
                    (key.saturating_sub(20)..key).for_each(|key| gate.ended(key)); // Some give up, so that the rate counts, too.
                }
            }
            if ms % 10 == 0 {
                let stranger = format!("stranger-{}", ms % 1000);
                key += 1;
                assert_eq!(gate.admit(now, key, &stranger), Ok(()), "after {ms} ms");
                gate.ended(key);
            }
        }
    }
}
