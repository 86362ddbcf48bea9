//! Deadlines of many things, and the earliest of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline for each key.
pub(crate) struct Timers<K> {
    by_key: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Ord + Copy> Timers<K> {
    /// No deadlines.
    pub(crate) fn new() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }

    /// Sets or, by `None`, clears the deadline of a key.
    pub(crate) fn set(&mut self, key: K, deadline: Option<Instant>) {
        let before = match deadline {
            Some(deadline) => self.by_key.insert(key, deadline),
            None => self.by_key.remove(&key),
        };
        if before != deadline {
            if let Some(before) = before {
                self.by_time.remove(&(before, key));
            }
            self.by_time.extend(deadline.map(|deadline| (deadline, key)));
        }
    }

    /// Whether a key has a deadline.
    pub(crate) fn is_set(&self, key: K) -> bool {
        self.by_key.contains_key(&key)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|&(deadline, _)| deadline)
    }

    /// Clears and returns the key of a deadline that has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let &(_, key) = self.by_time.first().filter(|&&(deadline, _)| deadline <= now)?;
        self.set(key, None);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_come_in_order_and_once() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut timers = Timers::new();
        timers.set('a', Some(at(3)));
        timers.set('b', Some(at(1)));
        timers.set('c', Some(at(2)));
        timers.set('b', Some(at(4)));
        timers.set('c', None);
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.pop_due(at(2)), None);
        assert_eq!(timers.pop_due(at(9)), Some('a'));
        assert_eq!(timers.pop_due(at(9)), Some('b'));
        assert_eq!((timers.pop_due(at(9)), timers.next()), (None, None));
    }
}
