//! Sessions: the secret by which a client takes its peer back after its socket was lost.
//!
//! The client holds the secret, we hold its hash. So neither the journal nor a dump of our memory gives anybody
//! a peer, and looking a session up takes no time that depends on how much of it was right.

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
