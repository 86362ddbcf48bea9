//! Places and rates of the HTTP server, each shared by owners ([`crate::shares`], [`crate::rates`]): here for tasks, which wait
//! and end.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;

use crate::limited::Owner;
use crate::rates::{Rates, Rule, Verdict};
use crate::shares::{Gives, Place, Shares};

/// How soon a task that waits for its turn asks again: at first, and at most. It doubles each time, so that a thousand tasks that wait
/// cost little.
const WAIT_MIN: Duration = Duration::from_millis(10);
const WAIT_MAX: Duration = Duration::from_millis(320);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many places. Who loses one learns it from its [`Ticket`].
#[derive(Clone, Debug)]
pub(super) struct Places<const DEPTH: usize>(Arc<Table<DEPTH>>);

#[derive(Debug)]
struct Table<const DEPTH: usize> {
    shares: Mutex<(Shares<Owner, DEPTH>, HashMap<Place, Holder<DEPTH>>)>,
    left: Notify,
}

/// Who has a place. When this is dropped, its ticket says so.
#[derive(Debug)]
struct Holder<const DEPTH: usize> {
    owner: [Owner; DEPTH],
    _keep: oneshot::Sender<Infallible>,
}

/// A place that is held, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket<const DEPTH: usize> {
    places: Places<DEPTH>,
    place: Place,
    displaced: oneshot::Receiver<Infallible>,
}

impl<const DEPTH: usize> Places<DEPTH> {
    pub(super) fn new(capacity: usize, gives: Gives) -> Self {
        Places(Arc::new(Table {
            shares: Mutex::new((Shares::new(capacity, gives), HashMap::new())),
            left: Notify::new(),
        }))
    }

    /// A place, unless its owner holds too many; and the owner that gives one up for it, or is refused.
    pub(super) fn enter(&self, owner: [Owner; DEPTH]) -> (Option<Ticket<DEPTH>>, Option<[Owner; DEPTH]>) {
        let (shares, holders) = &mut *lock(&self.0.shares);
        let (place, given) = shares.enter(owner.clone());
        if given == Some(place) {
            return (None, Some(owner));
        }
        let (keep, displaced) = oneshot::channel();
        holders.insert(place, Holder { owner, _keep: keep });
        let given = given.and_then(|given| holders.remove(&given)).map(|holder| holder.owner);
        (Some(Ticket { places: self.clone(), place, displaced }), given)
    }

    /// Whether this owner would get a place now.
    pub(super) fn admits(&self, owner: [Owner; DEPTH]) -> bool {
        lock(&self.0.shares).0.admits(owner)
    }

    /// Waits until nobody has a place.
    pub(super) async fn are_free(&self) {
        loop {
            let left = self.0.left.notified();
            if lock(&self.0.shares).0.len() == 0 {
                return;
            }
            left.await;
        }
    }
}

impl<const DEPTH: usize> Ticket<DEPTH> {
    /// Waits until the place is given up for somebody else.
    pub(super) async fn displaced(&mut self) {
        let _ = (&mut self.displaced).await; // Nothing is ever sent: it ends when the other end is dropped.
    }

    /// What says of the place that it is in use.
    pub(super) fn place(&self) -> InUse<DEPTH> {
        InUse { places: self.places.clone(), place: self.place }
    }
}

/// Keeps a place from being the oldest.
#[derive(Debug)]
pub(super) struct InUse<const DEPTH: usize> {
    places: Places<DEPTH>,
    place: Place,
}

impl<const DEPTH: usize> InUse<DEPTH> {
    /// The place is in use now.
    pub(super) fn touch(&self) {
        lock(&self.places.0.shares).0.touch(self.place);
    }
}

impl<const DEPTH: usize> Drop for Ticket<DEPTH> {
    fn drop(&mut self) {
        let (shares, holders) = &mut *lock(&self.places.0.shares);
        shares.leave(self.place);
        holders.remove(&self.place);
        if shares.len() == 0 {
            self.places.0.left.notify_waiters();
        }
    }
}

/// A rate for which tasks wait.
#[derive(Debug)]
pub(super) struct Turns(Mutex<Rates>);

impl Turns {
    pub(super) fn new(rule: Rule) -> Turns {
        Turns(Mutex::new(Rates::with_random_seed(rule, crate::rates::CELLS)))
    }

    /// Takes so many units now, if the owner may have them.
    pub(super) fn take(&self, owner: &Owner, units: u32) -> bool {
        lock(&self.0).take_many(Instant::now(), owner, units) == Verdict::Granted
    }

    /// Waits until the owner may have so many units; true if it had to wait.
    pub(super) async fn wait(&self, owner: &Owner, units: u32) -> bool {
        let mut wait = WAIT_MIN;
        while !self.take(owner, units) {
            sleep(wait).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
        wait != WAIT_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> [Owner; 1] {
        [Owner::Token(name.into())]
    }

    #[tokio::test]
    async fn who_is_displaced_learns_it_and_the_rest_stays() {
        let places = Places::new(2, Gives::Newest);
        let first = places.enter(owner("a")).0.unwrap();
        let mut second = places.enter(owner("a")).0.unwrap();
        assert!(places.enter(owner("a")).0.is_none() && !places.admits(owner("a")) && places.admits(owner("b")));
        let (third, given) = places.enter(owner("b"));
        assert_eq!(given, Some(owner("a")));
        second.displaced().await;
        drop(second);
        assert!(places.enter(owner("c")).0.is_none(), "a ticket that was displaced gives nothing back twice");
        let are_free = places.clone();
        let free = tokio::spawn(async move { are_free.are_free().await });
        drop((first, third));
        free.await.unwrap();
    }
}
