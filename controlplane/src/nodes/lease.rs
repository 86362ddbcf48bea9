//! This node's own record: what to do next to have it, keep it, and give it up to nobody who came later by mistake. Without I/O and
//! without a clock of its own.
//!
//! Each write says which revision it replaces, so that of two nodes with one name only one can have the record. Who has it is told apart by
//! instance (the state folder) and run (the start): a start of the same instance is a successor and takes over at once; another
//! instance waits until the record is gone. A run whose record was taken over does not take it back while the other renews it.

use std::time::{Duration, Instant};

use super::record::Record;
use super::seal::Seals;

/// How often a lease is renewed in its own time.
const RENEWALS: u32 = 3;

/// How long it is waited after somebody else wrote under the name, so that two who do so do not write as fast as they can.
const OUTRUN_PAUSE: Duration = Duration::from_millis(50);

/// What stands under this node's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nothing that a node has sealed, or its farewell. The revision is that of what stands there, or 0.
    Vacant(u64),
    /// A record.
    Held {
        /// Its revision.
        revision: u64,
        /// Whose it is, if it can be read: instance and run.
        by: Option<(String, String)>,
    },
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Look what stands under the name, then call [`Lease::found`].
    Look,
    /// Write the record in place of this revision, then call [`Lease::wrote`], [`Lease::outrun`] or [`Lease::failed`].
    Write(u64),
    /// Nothing until then.
    Wait(Instant),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// Not known what stands there.
    Unknown,
    /// The record may replace this revision.
    Free(u64),
    /// It is ours.
    Held(u64),
    /// It is another's, with this instance.
    Taken(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lease {
    instance: String,
    run: String,
    interval: Duration,
    state: State,
    /// When something is to be done, at the earliest.
    next_at: Instant,
    renewed_at: Option<Instant>,
    /// Whether this run ever had the record.
    was_held: bool,
}

impl Lease {
    /// Of this start of this instance, at the beginning.
    pub(super) fn new(now: Instant, instance: &str, run: &str, lease: Duration) -> Lease {
        Lease {
            instance: instance.to_owned(),
            run: run.to_owned(),
            interval: lease / RENEWALS,
            state: State::Unknown,
            next_at: now,
            renewed_at: None,
            was_held: false,
        }
    }

    /// What to do next.
    pub(super) fn step(&self, now: Instant) -> Step {
        if now < self.next_at {
            return Step::Wait(self.next_at);
        }
        match self.state {
            State::Unknown | State::Taken(_) => Step::Look,
            State::Free(revision) | State::Held(revision) => Step::Write(revision),
        }
    }

    /// What was found under the name.
    pub(super) fn found(&mut self, now: Instant, found: Found) {
        self.state = match found {
            Found::Vacant(revision) => State::Free(revision),
            // A write of ours whose acknowledgement was lost.
            Found::Held { revision, by: Some((_, run)) } if run == self.run => State::Held(revision),
            // A predecessor, which is dead: the state folder has one controlplane at a time. If this run has had the record, somebody has
            // put it there again.
            Found::Held { revision, by: Some((instance, run)) }
                if instance == self.instance && (!self.was_held || run < self.run) =>
            {
                State::Free(revision)
            }
            Found::Held { by, .. } => {
                self.next_at = now + self.interval;
                State::Taken(by.map(|(instance, _)| instance).unwrap_or_default())
            }
        };
    }

    /// The record was written.
    pub(super) fn wrote(&mut self, now: Instant, revision: u64) {
        self.state = State::Held(revision);
        self.was_held = true;
        self.renewed_at = Some(now);
        self.next_at = now + self.interval;
    }

    /// Something else was written before it: look again, in a moment.
    pub(super) fn outrun(&mut self, now: Instant) {
        self.state = State::Unknown;
        self.next_at = now + OUTRUN_PAUSE;
    }

    /// It could not be written, or not be looked at; `retry` says when to try again. It may have been written all the same.
    pub(super) fn failed(&mut self, now: Instant, retry: Duration) {
        self.state = State::Unknown;
        self.next_at = now + retry;
    }

    /// The record has changed, or the engine is back: renew it without waiting for its time.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.min(now);
    }

    /// Whether the record is ours, as far as is known.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.state, State::Held(_))
    }

    /// The revision to remove at the end.
    pub(super) fn revision(&self) -> Option<u64> {
        if let State::Held(revision) = self.state { Some(revision) } else { None }
    }

    /// Whose it is, if it is another's: its instance, or nothing that can be read.
    pub(super) fn taken_by(&self) -> Option<&str> {
        if let State::Taken(instance) = &self.state { Some(instance) } else { None }
    }

    /// When it was last renewed.
    pub(super) fn renewed_at(&self) -> Option<Instant> {
        self.renewed_at
    }
}

/// What stands there, of a record's bytes. What no node has sealed takes no name.
pub(super) fn held(seals: &Seals, key: &str, revision: u64, bytes: &[u8]) -> Found {
    match Record::open(seals, key, bytes) {
        Ok(record) if record.has_left => Found::Vacant(revision),
        Ok(record) => Found::Held { revision, by: Some((record.instance, record.run)) },
        Err(refusal) if refusal.is_of_seal() => Found::Vacant(revision),
        Err(_) => Found::Held { revision, by: None },
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::super::seal::Kind;
    use super::super::seal::tests::seals;
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    fn held_by(revision: u64, instance: &str, run: &str) -> Found {
        Found::Held { revision, by: Some((instance.into(), run.into())) }
    }

    #[test]
    fn a_free_name_is_taken_and_kept() {
        let now = Instant::now();
        let mut lease = Lease::new(now, "i", "r", LEASE);
        assert_eq!(lease.step(now), Step::Look);
        lease.found(now, Found::Vacant(0));
        assert_eq!(lease.step(now), Step::Write(0));
        lease.wrote(now, 7);
        assert_eq!((lease.step(now), lease.is_held()), (Step::Wait(now + LEASE / 3), true));
        assert_eq!(lease.step(now + LEASE / 3), Step::Write(7));
        lease.hurry(now);
        assert_eq!(lease.step(now), Step::Write(7), "something changed");
        // The mark of a farewell is replaced as it is.
        lease.found(now, Found::Vacant(12));
        assert_eq!(lease.step(now), Step::Write(12));
    }

    #[test]
    fn a_successor_takes_over_at_once_and_another_instance_waits() {
        let now = Instant::now();
        let mut successor = Lease::new(now, "i", "second", LEASE);
        successor.found(now, held_by(40, "i", "first"));
        assert_eq!(successor.step(now), Step::Write(40));
        let mut stranger = Lease::new(now, "other", "r", LEASE);
        stranger.found(now, held_by(40, "i", "first"));
        assert_eq!((stranger.step(now), stranger.taken_by()), (Step::Wait(now + LEASE / 3), Some("i")));
        let later = now + LEASE;
        assert_eq!(stranger.step(later), Step::Look);
        stranger.found(later, Found::Vacant(0));
        assert_eq!(stranger.step(later), Step::Write(0));
        // What nobody can read is nobody's to overwrite.
        let unread = seals(7).wrap(Kind::Record, &["n"], b"{\"version\":9}");
        stranger.found(later, held(&seals(7), "n", 9, &unread));
        assert_eq!((stranger.taken_by(), stranger.step(later)), (Some(""), Step::Wait(later + LEASE / 3)));
        // What no node has sealed takes no name, and neither does a farewell.
        let farewell = Record { has_left: true, ..record("n") }.close(&seals(7)).unwrap();
        for bytes in [&b"nonsense"[..], &record("n").close(&seals(8)).unwrap(), &farewell] {
            assert_eq!(held(&seals(7), "n", 9, bytes), Found::Vacant(9));
        }
    }

    #[test]
    fn who_was_outrun_does_not_take_the_name_back() {
        let now = Instant::now();
        let mut lease = Lease::new(now, "i", "first", LEASE);
        lease.wrote(now, 7);
        lease.outrun(now);
        assert_eq!((lease.is_held(), lease.step(now + LEASE)), (false, Step::Look));
        // A record of a run before that somebody has put there again is replaced.
        lease.found(now, held_by(8, "i", "earlier"));
        assert_eq!(lease.step(now + LEASE), Step::Write(8));
        lease.outrun(now);
        // A copy of the state folder on another machine has the same instance.
        lease.found(now, held_by(8, "i", "second"));
        assert_eq!(lease.taken_by(), Some("i"));
        lease.found(now, Found::Vacant(0));
        assert_eq!(lease.step(now + LEASE), Step::Write(0), "until it is free");
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_found_again() {
        let now = Instant::now();
        let mut lease = Lease::new(now, "i", "r", LEASE);
        lease.wrote(now, 7);
        lease.failed(now, Duration::from_secs(1));
        assert_eq!((lease.step(now), lease.revision()), (Step::Wait(now + Duration::from_secs(1)), None));
        lease.found(now, held_by(8, "i", "r"));
        assert_eq!((lease.is_held(), lease.revision()), (true, Some(8)));
        assert_eq!(lease.renewed_at(), Some(now), "what is known to have been renewed");
    }
}
