//! ICE as an edge with a public address needs it (RFC 8445, RFC 8839): ICE-lite.
//!
//! A lite agent sends no checks. It makes credentials and host candidates for the answer, and the dataplane answers
//! the client's checks by itself. So the client's candidates decide nothing here: they are parsed, counted and
//! forgotten, which tells a broken client what is wrong and bounds what it can make us hold.
//!
//! Nothing here draws random numbers or knows a socket: the engine brings both.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use proto::plane::{PWD_LEN, UFRAG_LEN};

/// Longest `candidate:` line that is read, bytes. Chromium's longest is about 170; RFC 8839 sets no bound.
pub const CANDIDATE_LEN_MAX: usize = 512;

/// Remote candidates of one peer that are counted before it is told to stop. A laptop with several networks and
/// address families gathers about 20 per component and generation.
pub const CANDIDATES_MAX: usize = 128;

/// Random bytes that [`Credentials::from_random`] wants: 6 bits for each character.
pub const CREDENTIALS_RANDOM_LEN: usize = (UFRAG_LEN + PWD_LEN) * 6 / 8;

/// The attribute that follows the last candidate (RFC 8840 §8.2), without `a=`.
pub const END_OF_CANDIDATES: &str = "end-of-candidates";

/// `ice-char` of RFC 8839 §5.4: 64 of them, so that 6 random bits choose one without bias.
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The username fragment and password that we issue to one peer (RFC 8445 §5.3), in the lengths of the plane contract.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Names the peer's transport in each check.
    pub ufrag: [u8; UFRAG_LEN],
    /// Keys MESSAGE-INTEGRITY of each check.
    pub pwd: [u8; PWD_LEN],
}

impl Credentials {
    /// Credentials from random bytes, which must come from a cryptographic source.
    pub fn from_random(random: &[u8; CREDENTIALS_RANDOM_LEN]) -> Credentials {
        let mut chars = [0u8; UFRAG_LEN + PWD_LEN];
        for (triple, out) in random.chunks_exact(3).zip(chars.chunks_exact_mut(4)) {
            let bits = u32::from_be_bytes([0, triple[0], triple[1], triple[2]]);
            for (i, c) in out.iter_mut().enumerate() {
                *c = ICE_CHARS[(bits >> (18 - 6 * i)) as usize & 63];
            }
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

/// Priority of a host candidate of component 1 (RFC 8445 §5.1.2.1, type preference 126).
const fn host_priority(local_preference: u16) -> u32 {
    126 << 24 | (local_preference as u32) << 8 | (256 - 1)
}

/// How the address of a candidate was found (RFC 8445 §5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CandidateKind {
    /// On an interface of the client.
    Host,
    /// Seen by a STUN server.
    ServerReflexive,
    /// Seen by the other side of a check.
    PeerReflexive,
    /// Allocated on a TURN server.
    Relay,
}

/// What carries a candidate's packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CandidateTransport {
    /// The only one that we serve.
    Udp,
    /// ICE-TCP (RFC 6544): valid, and of no use here.
    Tcp,
}

/// Where a candidate's packets come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CandidateAddress {
    /// An address.
    Ip(IpAddr),
    /// A name that stands for an address: Chromium's `….local` hides the host's address by mDNS
    /// (draft-ietf-mmusic-mdns-ice-candidates). Never resolved.
    Name(String),
}

/// A client's candidate (RFC 8839 §5.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Groups candidates of one base and kind, 1 to 32 ice-chars.
    pub foundation: String,
    /// 1 (RTP and, with rtcp-mux, RTCP) to 256.
    pub component: u16,
    /// UDP or TCP.
    pub transport: CandidateTransport,
    /// 1 to 2^31 - 1.
    pub priority: u32,
    /// Where from.
    pub address: CandidateAddress,
    /// Where from; 9 for active TCP.
    pub port: u16,
    /// How it was found.
    pub kind: CandidateKind,
    /// The ICE generation that it belongs to, when the client says so (`ufrag` extension, RFC 8838 §18).
    pub ufrag: Option<String>,
}

/// Why a candidate was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CandidateError {
    /// The line is too long to be a candidate.
    #[error("the candidate is {len} bytes, more than {CANDIDATE_LEN_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// It does not begin with `candidate:`.
    #[error("the candidate does not begin with `candidate:`")]
    NoPrefix,
    /// It ends before the named field.
    #[error("the candidate has no {field}")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// The named field is not what RFC 8839 says.
    #[error("the candidate's {field} is not valid (RFC 8839 section 5.1)")]
    Invalid {
        /// Which.
        field: &'static str,
    },
    /// The peer sent more than it may.
    #[error("more than {CANDIDATES_MAX} candidates")]
    TooMany,
}

impl Candidate {
    /// Reads `candidate:…`, with or without `a=` before it.
    pub fn parse(text: &str) -> Result<Candidate, CandidateError> {
        if text.len() > CANDIDATE_LEN_MAX {
            return Err(CandidateError::TooLong { len: text.len() });
        }
        let text = text.strip_prefix("a=").unwrap_or(text);
        let text = text.strip_prefix("candidate:").ok_or(CandidateError::NoPrefix)?;
        let mut fields = Fields(text.split(' '));

        let foundation = fields.take("foundation", |f| is_ice_chars(f, 1, 32).then(|| f.to_owned()))?;
        let component = fields.take("component", |f| number(f).filter(|c| (1..=256).contains(c)))? as u16;
        let transport = fields.take("transport", parse_transport)?;
        let priority = fields.take("priority", |f| number(f).filter(|p| (1..=0x7fff_ffff).contains(p)))?;
        let address = fields.take("address", parse_address)?;
        let port = fields.take("port", |f| u16::try_from(number(f)?).ok())?;
        fields.take("typ", |f| (f == "typ").then_some(()))?;
        let kind = fields.take("type", parse_kind)?;
        let ufrag = parse_extensions(&mut fields)?;
        Ok(Candidate { foundation, component, transport, priority, address, port, kind, ufrag })
    }
}

/// The space-separated fields of a candidate.
struct Fields<'a>(std::str::Split<'a, char>);

impl<'a> Fields<'a> {
    /// The next field, read by `read`; the name says in an error what was expected.
    fn take<T>(&mut self, field: &'static str, read: impl FnOnce(&'a str) -> Option<T>) -> Result<T, CandidateError> {
        let text = self.0.next().ok_or(CandidateError::Missing { field })?;
        read(text).ok_or(CandidateError::Invalid { field })
    }
}

/// `raddr`, `rport` and any extension are name-value pairs; only `ufrag` says something to us.
fn parse_extensions(fields: &mut Fields<'_>) -> Result<Option<String>, CandidateError> {
    let mut ufrag = None;
    while let Some(name) = fields.0.next() {
        if name.is_empty() {
            break; // a trailing space
        }
        let value = fields.0.next().ok_or(CandidateError::Missing { field: "extension value" })?;
        match name {
            "ufrag" if is_ice_chars(value, 4, 256) => ufrag = Some(value.to_owned()),
            "ufrag" => return Err(CandidateError::Invalid { field: "ufrag" }),
            "rport" if number(value).is_none_or(|port| port > 65_535) => {
                return Err(CandidateError::Invalid { field: "rport" });
            }
            _ if value.bytes().all(|b| b.is_ascii_graphic()) => {}
            _ => return Err(CandidateError::Invalid { field: "extension value" }),
        }
    }
    Ok(ufrag)
}

fn number(text: &str) -> Option<u32> {
    // `parse` would take a sign.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_transport(text: &str) -> Option<CandidateTransport> {
    match () {
        _ if text.eq_ignore_ascii_case("udp") => Some(CandidateTransport::Udp),
        _ if text.eq_ignore_ascii_case("tcp") => Some(CandidateTransport::Tcp),
        _ => None,
    }
}

fn parse_kind(text: &str) -> Option<CandidateKind> {
    match text {
        "host" => Some(CandidateKind::Host),
        "srflx" => Some(CandidateKind::ServerReflexive),
        "prflx" => Some(CandidateKind::PeerReflexive),
        "relay" => Some(CandidateKind::Relay),
        _ => None,
    }
}

fn parse_address(text: &str) -> Option<CandidateAddress> {
    if let Ok(ip) = text.parse() {
        return Some(CandidateAddress::Ip(ip));
    }
    let is_name = (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        && text.bytes().any(|b| b.is_ascii_alphabetic());
    is_name.then(|| CandidateAddress::Name(text.to_owned()))
}

fn is_ice_chars(text: &str, len_min: usize, len_max: usize) -> bool {
    (len_min..=len_max).contains(&text.len()) && text.bytes().all(|b| ICE_CHARS.contains(&b))
}

/// What a client told of its own candidates: how many, and whether more will come.
#[derive(Clone, Default, Debug)]
pub struct RemoteCandidates {
    count: usize,
    has_ended: bool,
}

impl RemoteCandidates {
    /// Takes one trickled candidate (RFC 8838); an empty text or `end-of-candidates` ends them. One that comes
    /// after the end is no error: before BUNDLE is agreed, each m-section gathers, and ends, by itself.
    pub fn add(&mut self, text: &str) -> Result<(), CandidateError> {
        if text.is_empty() || text.strip_prefix("a=").unwrap_or(text) == END_OF_CANDIDATES {
            self.has_ended = true;
            return Ok(());
        }
        if self.count == CANDIDATES_MAX {
            return Err(CandidateError::TooMany);
        }
        Candidate::parse(text)?;
        self.count += 1;
        Ok(())
    }

    /// How many were valid.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the client said that no more will come.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests;
