//! Who was limited, and by what: counters for operators, and a line in the log that names the owner.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::ANY_ROOM;
use crate::shares::Source;

/// How often one kind of limit is written to the log at most: under attack it is reached thousands of times a second.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// To whom a use is charged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Owner {
    /// The addresses of one client.
    Source(Source),
    /// What stands for a token ([`crate::auth::Claims::identity`]); it is no secret.
    Token(String),
    /// The room that a token is for, or `*`.
    Room(String),
}

impl Owner {
    /// The room that a token is for; a token for all rooms is an owner of its own. Who may mint tokens of a room has no more for that.
    pub(crate) fn tenant(room: &str, token: impl FnOnce() -> String) -> Owner {
        if room == ANY_ROOM { Owner::Token(token()) } else { Owner::Room(room.to_owned()) }
    }

    /// Kinds of owners, as metrics name them.
    const KINDS: [&str; 3] = ["source", "token", "room"];

    /// What kind of owner it is.
    pub(crate) fn kind_name(&self) -> &'static str {
        Self::KINDS[self.kind()]
    }

    fn kind(&self) -> usize {
        match self {
            Owner::Source(_) => 0,
            Owner::Token(_) => 1,
            Owner::Room(_) => 2,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Source(source) => write!(f, "source {source}"),
            Owner::Token(id) => write!(f, "token {id}"),
            Owner::Room(room) => write!(f, "room {room}"),
        }
    }
}

/// What is limited by owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    /// A TCP connection was closed, because its source held most of them and others came.
    Connection,
    /// A TLS handshake was ended for the same reason.
    Handshake,
    /// A TLS handshake waited for its turn.
    HandshakeWait,
    /// A request waited for its turn.
    Request,
    /// A connection was closed, because it did not take its answers fast enough.
    Writing,
    /// A signalling socket was closed or refused, because its owner held most of them.
    Socket,
    /// A signalling socket was closed, because its unfinished message found no memory in time.
    Memory,
    /// A signalling socket was closed, because its message came too slowly or in too many frames.
    Message,
    /// A signal waited for its turn.
    Signal,
    /// An offer of WHIP or WHEP was refused.
    Post,
    /// A request with an admin token was refused.
    Rest,
}

impl What {
    const ALL: [(What, &str); 11] = [
        (What::Connection, "connection"),
        (What::Handshake, "tls_handshake"),
        (What::HandshakeWait, "tls_handshake_wait"),
        (What::Request, "request_wait"),
        (What::Writing, "slow_reader"),
        (What::Socket, "socket"),
        (What::Memory, "message_memory"),
        (What::Message, "message"),
        (What::Signal, "signal_wait"),
        (What::Post, "whip_post"),
        (What::Rest, "rest"),
    ];
}

/// What was limited so far.
#[derive(Debug, Default)]
pub struct Limited {
    counts: [[AtomicU64; Owner::KINDS.len()]; What::ALL.len()],
    logged: [Mutex<Option<Instant>>; What::ALL.len()],
}

impl Limited {
    /// Counts that an owner was limited, and writes it to the log if nothing of the kind was written lately.
    pub(crate) fn note(&self, what: What, owner: &Owner) {
        let count = self.counts[what as usize][owner.kind()].fetch_add(1, Ordering::Relaxed) + 1;
        let mut logged = self.logged[what as usize].lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            *logged = Some(Instant::now());
            tracing::warn!(what = What::ALL[what as usize].1, %owner, count, "limited");
        }
    }

    /// Each kind of limit and of owner with its count.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        What::ALL.iter().flat_map(|&(what, name)| {
            let counts = &self.counts[what as usize];
            Owner::KINDS.iter().zip(counts).map(move |(kind, count)| (name, *kind, count.load(Ordering::Relaxed)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_limited_is_counted_by_kind_of_owner() {
        let limited = Limited::default();
        for (at, (what, _)) in What::ALL.iter().enumerate() {
            assert_eq!(*what as usize, at, "{what:?}");
        }
        let source = Owner::Source(std::net::IpAddr::from([192, 0, 2, 7]).into());
        limited.note(What::Connection, &source);
        limited.note(What::Connection, &source);
        limited.note(What::Socket, &Owner::Token("ab".into()));
        let seen: Vec<_> = limited.read().filter(|(.., count)| *count > 0).collect();
        assert_eq!(seen, [("connection", "source", 2), ("socket", "token", 1)]);
        assert_eq!(source.to_string(), "source 192.0.2.7");
        let prefix = Owner::Source("2001:db8:1:2::3".parse::<std::net::IpAddr>().unwrap().into());
        assert_eq!(prefix.to_string(), "source 2001:db8:1:2::/64");
    }
}
