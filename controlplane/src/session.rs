//! Sessions: the secret by which a client takes its peer back after its socket was lost.
//!
//! The client holds the secret, we hold its hash. So neither the journal nor a dump of our memory gives anybody
//! a peer, and looking a session up takes no time that depends on how much of it was right.
//!
//! Sessions of WHIP and WHEP are remembered for a while after their end, so that a `DELETE` that comes later is answered as
//! one in time (RFC 9725 §4.2): what it asks for is so.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ring::digest;
use serde::{Deserialize, Serialize};

/// SHA-256 of a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SessionHash([u8; 32]);

/// Random bytes of a session: 256 bits, written as 64 hexadecimal digits.
pub(crate) const SESSION_RANDOM_LEN: usize = 32;

impl SessionHash {
    /// The hash of what a client shows.
    pub(crate) fn of(session: &str) -> SessionHash {
        let digest = digest::digest(&digest::SHA256, session.as_bytes());
        SessionHash(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// How long an ended session is remembered: longer than a client waits with its `DELETE`, or with asking again.
const ENDED_REMEMBERED: Duration = Duration::from_secs(60);

/// How many ended sessions are remembered, the latest: as many as a full worker has peers, some 250 bytes each.
const ENDED_MAX: usize = proto::plane::PEERS_MAX;

/// Sessions that have ended lately, and in which rooms they were.
#[derive(Default)]
pub(crate) struct EndedSessions {
    by_time: VecDeque<(Instant, SessionHash)>,
    rooms: BTreeMap<SessionHash, [String; 2]>,
}

impl EndedSessions {
    /// A session that is found under these rooms' addresses has ended.
    pub(crate) fn remember(&mut self, now: Instant, session: SessionHash, rooms: [&str; 2]) {
        self.forget(now);
        if self.by_time.len() == ENDED_MAX
            && let Some((_, oldest)) = self.by_time.pop_front()
        {
            self.rooms.remove(&oldest);
        }
        self.by_time.push_back((now, session));
        self.rooms.insert(session, rooms.map(str::to_owned));
    }

    /// Whether a session of this room is remembered.
    pub(crate) fn knows(&mut self, now: Instant, session: SessionHash, room: &str) -> bool {
        self.forget(now);
        self.rooms.get(&session).is_some_and(|rooms| rooms.iter().any(|of_session| of_session == room))
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(at, session)) = self.by_time.front()
            && now.saturating_duration_since(at) >= ENDED_REMEMBERED
        {
            self.by_time.pop_front();
            self.rooms.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_sessions_are_remembered_for_a_minute_and_no_more_than_so_many() {
        let start = Instant::now();
        let session = |n: usize| SessionHash::of(&n.to_string());
        let mut ended = EndedSessions::default();
        ended.remember(start, session(0), ["blue", "red"]);
        assert!(ended.knows(start, session(0), "blue") && ended.knows(start, session(0), "red"));
        assert!(!ended.knows(start, session(0), "green") && !ended.knows(start, session(1), "blue"));
        let nearly = start + ENDED_REMEMBERED - Duration::from_millis(1);
        assert!(ended.knows(nearly, session(0), "blue"));
        assert!(!ended.knows(start + ENDED_REMEMBERED, session(0), "blue"));
        (0..ENDED_MAX + 10).for_each(|n| ended.remember(nearly, session(n), ["blue", "blue"]));
        assert_eq!((ended.by_time.len(), ended.rooms.len()), (ENDED_MAX, ENDED_MAX));
        assert!(!ended.knows(nearly, session(9), "blue") && ended.knows(nearly, session(10), "blue"));
    }
}
