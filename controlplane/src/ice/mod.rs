//! ICE as an edge with a public address needs it (RFC 8445, RFC 8839): ICE-lite.
//!
//! A lite agent sends no checks. It makes credentials and host candidates for the answer, and the dataplane answers
//! the client's checks by itself. So the client's candidates decide nothing here: they are told from what is no candidate at
//! all, and forgotten. Whatever they say of addresses, transports and priorities, there is nothing to be strict about.
//!
//! Nothing here draws random numbers or knows a socket: the engine brings both.

use std::fmt;
use std::net::SocketAddr;

use proto::plane::{PWD_LEN, UFRAG_LEN};

/// Random bytes that [`Credentials::from_random`] wants: 6 bits for each character.
pub const CREDENTIALS_RANDOM_LEN: usize = (UFRAG_LEN + PWD_LEN) * 6 / 8;

/// The attribute that follows the last candidate (RFC 8840 §8.2), without `a=`.
pub const END_OF_CANDIDATES: &str = "end-of-candidates";

/// `ice-char` of RFC 8839 §5.4: 64 of them, so that 6 random bits choose one without bias.
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Characters of a username fragment that say on which worker its peer is, so that a connection can be handed to the right one. The
/// others are random, 36 bits; RFC 8445 §5.3 wants 24.
const WORKER_CHARS: usize = 2;

/// The username fragment and password that we issue to one peer (RFC 8445 §5.3), in the lengths of the plane contract.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names the peer's transport in each check.
    pub ufrag: [u8; UFRAG_LEN],
    /// Keys MESSAGE-INTEGRITY of each check.
    pub pwd: [u8; PWD_LEN],
}

impl Credentials {
    /// Credentials for a peer on a worker, from random bytes, which must come from a cryptographic source.
    pub fn from_random(worker: usize, random: &[u8; CREDENTIALS_RANDOM_LEN]) -> Credentials {
        let mut chars = [0u8; UFRAG_LEN + PWD_LEN];
        for (triple, out) in random.chunks_exact(3).zip(chars.chunks_exact_mut(4)) {
            let bits = u32::from_be_bytes([0, triple[0], triple[1], triple[2]]);
            for (i, c) in out.iter_mut().enumerate() {
                *c = ICE_CHARS[(bits >> (18 - 6 * i)) as usize & 63];
            }
        }
        for (place, c) in chars[..WORKER_CHARS].iter_mut().enumerate() {
            *c = ICE_CHARS[worker >> (6 * place) & 63];
        }
        let mut credentials = Credentials { ufrag: [0; UFRAG_LEN], pwd: [0; PWD_LEN] };
        credentials.ufrag.copy_from_slice(&chars[..UFRAG_LEN]);
        credentials.pwd.copy_from_slice(&chars[UFRAG_LEN..]);
        credentials
    }

    /// The username fragment as SDP writes it.
    pub fn ufrag_str(&self) -> &str {
        std::str::from_utf8(&self.ufrag).expect("ice-chars are ASCII")
    }

    /// On which worker the peer with this username fragment of ours is, if it is one.
    pub fn worker(ufrag: &[u8]) -> Option<usize> {
        let chars = <[u8; UFRAG_LEN]>::try_from(ufrag).ok()?;
        let digit = |c: u8| ICE_CHARS.iter().position(|&char| char == c);
        chars[..WORKER_CHARS].iter().rev().try_fold(0, |worker, &c| Some(worker << 6 | digit(c)?))
    }

    /// The password as SDP writes it.
    pub fn pwd_str(&self) -> &str {
        std::str::from_utf8(&self.pwd).expect("ice-chars are ASCII")
    }
}

impl fmt::Debug for Credentials {
    /// Shows the fragment, which travels in the clear anyway, and never the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag_str()).finish_non_exhaustive()
    }
}

/// The host candidates of a worker, one `candidate:` line (without `a=`) for each address, most preferred first.
///
/// Addresses differ in foundation because they differ in base (RFC 8445 §5.1.1.3); the local preference falls with
/// the position, so the order of the operator's `--media-ip` options is the order of preference.
pub fn host_candidates(addresses: &[SocketAddr]) -> Vec<String> {
    addresses
        .iter()
        .zip(0u16..)
        .map(|(address, i)| {
            let (foundation, priority) = (u32::from(i) + 1, host_priority(u16::MAX - i));
            format!("candidate:{foundation} 1 udp {priority} {} {} typ host", address.ip(), address.port())
        })
        .collect()
}

/// The passive TCP candidates of a worker (RFC 6544 §4.5), less preferred than all that UDP has; otherwise as
/// [`host_candidates`]. `others` is how many of those there are: candidates of two transports differ in foundation, too.
pub fn tcp_candidates(addresses: &[SocketAddr], others: usize) -> Vec<String> {
    addresses
        .iter()
        .zip(0u16..)
        .map(|(address, i)| {
            let (foundation, priority) = (others + usize::from(i) + 1, tcp_priority(i));
            format!(
                "candidate:{foundation} 1 tcp {priority} {} {} typ host tcptype passive",
                address.ip(),
                address.port()
            )
        })
        .collect()
}

/// Priority of a host candidate of component 1 (RFC 8445 §5.1.2.1, type preference 126).
const fn host_priority(local_preference: u16) -> u32 {
    126 << 24 | (local_preference as u32) << 8 | (256 - 1)
}

/// Priority of a passive host candidate over TCP of component 1 (RFC 6544 §4.2): its type preference is below that of any UDP
/// candidate without a relay (libwebrtc `ICE_TYPE_PREFERENCE_HOST_TCP`), and its local preference has the direction preference
/// of passive ones, 4, in front.
const fn tcp_priority(position: u16) -> u32 {
    90 << 24 | (4 << 13 | (8191 - position as u32)) << 8 | (256 - 1)
}

/// Whether a client may say this of its candidates (RFC 8838): a candidate, of whatever address, transport and extensions, or
/// that no more will come. What is neither shows a developer's mistake, such as a candidate inside of another JSON text.
pub fn is_candidate(text: &str) -> bool {
    let text = text.trim();
    let text = text.strip_prefix("a=").unwrap_or(text);
    text.is_empty() || text == END_OF_CANDIDATES || text.starts_with("candidate:")
}

#[cfg(test)]
mod tests;
