//! Which streams and peers are silent, for the controlplane: it gives their slots, and their places in the room, to others.
//!
//! This is checked when a peer's reports are due, about once a second: something is silent when nothing of it was received
//! between a number of checks. So a packet costs nothing more, and a worker that was held up for a while reports nobody as
//! silent because of that. The packet or connectivity check that ends a silence is reported at once. A stream causes at most
//! two events in two seconds.

/// Whether something is silent, as it was reported to the controlplane.
#[derive(Default)]
pub(crate) struct Silence {
    /// A count or time at the last check, which changes with everything that is received.
    seen: u64,
    /// Checks since it changed.
    quiet: u8,
    is_reported: bool,
}

impl Silence {
    /// Checks the count or time of now. True if it is silent from this check on.
    pub(crate) fn begins(&mut self, seen: u64, quiet_max: u8) -> bool {
        if std::mem::replace(&mut self.seen, seen) != seen {
            self.quiet = 0;
            return false;
        }
        self.quiet = self.quiet.saturating_add(1);
        self.quiet >= quiet_max && !std::mem::replace(&mut self.is_reported, true)
    }

    /// Something was received. True if it was silent until now.
    #[inline]
    pub(crate) fn ends(&mut self) -> bool {
        self.is_reported && {
            *self = Silence { seen: self.seen, quiet: 0, is_reported: false };
            true
        }
    }

    /// Whether it was reported to the controlplane as silent.
    pub(crate) fn is_reported(&self) -> bool {
        self.is_reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_after_so_many_looks_and_ends_with_what_comes() {
        let mut silence = Silence::default();
        assert!(!silence.begins(0, 2) && !silence.ends());
        assert!(silence.begins(0, 2), "nothing ever came");
        assert!(!silence.begins(0, 2), "it is told once");
        assert!(silence.ends() && !silence.ends());
        assert!(!silence.begins(7, 2) && !silence.begins(7, 2) && silence.begins(7, 2));
        assert!(silence.is_reported());
    }

    #[test]
    fn what_comes_now_and_then_is_not_silent() {
        let mut silence = Silence::default();
        assert!((1..100).all(|look| !silence.begins(look / 2, 2)));
    }
}
