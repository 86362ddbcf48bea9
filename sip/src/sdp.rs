//! Offers and answers of audio (RFC 3264, RFC 8866), with keys of SDES (RFC 4568). Of an offer the first audio section that
//! we can is taken, all others are refused in the answer by port 0.

use std::net::{IpAddr, SocketAddr};

use crate::g711::Law;

/// Longest SDP that is read, bytes, and most sections of it.
const LEN_MAX: usize = 16 * 1024;
const SECTIONS_MAX: usize = 16;
/// The only suite that we have.
const SUITE: &str = "AES_CM_128_HMAC_SHA1_80";
/// Master key and salt of the suite.
pub(crate) const KEY_LEN: usize = 30;

/// What a telephone's voice is encoded in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Codec {
    G711(Law),
    Opus,
}

impl Codec {
    /// Ticks of its RTP clock a second, which is also the rate at which we decode it.
    pub(crate) fn rate(self) -> u32 {
        match self {
            Codec::G711(_) => 8000,
            Codec::Opus => 48_000,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Codec::G711(Law::Mu) => "PCMU",
            Codec::G711(Law::A) => "PCMA",
            Codec::Opus => "opus",
        }
    }
}

/// Who sends, as the one who says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Both,
    SendOnly,
    ReceiveOnly,
    Inactive,
}

impl Direction {
    fn named(name: &str) -> Option<Direction> {
        Some(match name {
            "sendrecv" => Direction::Both,
            "sendonly" => Direction::SendOnly,
            "recvonly" => Direction::ReceiveOnly,
            "inactive" => Direction::Inactive,
            _ => return None,
        })
    }

    /// Seen from the other end, which does all that it is asked for.
    fn mirrored(self) -> &'static str {
        match self {
            Direction::Both => "sendrecv",
            Direction::SendOnly => "recvonly",
            Direction::ReceiveOnly => "sendonly",
            Direction::Inactive => "inactive",
        }
    }

    pub(crate) fn sends(self) -> bool {
        matches!(self, Direction::Both | Direction::SendOnly)
    }

    pub(crate) fn receives(self) -> bool {
        matches!(self, Direction::Both | Direction::ReceiveOnly)
    }
}

/// SDES: the tag of the line, and the sender's key and salt.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Crypto {
    pub(crate) tag: u32,
    pub(crate) key: [u8; KEY_LEN],
}

impl std::fmt::Debug for Crypto {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Crypto {{ tag: {}, key: .. }}", self.tag)
    }
}

/// What the other end wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Remote {
    /// Where it receives.
    pub(crate) address: SocketAddr,
    /// Where it receives RTCP (RFC 3605), and whether that is where it receives RTP, told apart by its types (RFC 5761).
    pub(crate) rtcp: SocketAddr,
    pub(crate) is_muxed: bool,
    pub(crate) codec: Codec,
    pub(crate) pt: u8,
    pub(crate) event_pt: Option<u8>,
    /// Ticks a second in which events say how long they are. It should be the voice's, and with Opus is often 8,000.
    pub(crate) event_rate: u32,
    pub(crate) direction: Direction,
    pub(crate) crypto: Option<Crypto>,
    /// Of an offer: the first words of each section, and which one is taken.
    sections: Vec<(String, String, String)>,
    taken: usize,
}

/// Why an SDP is of no use; the warning text of a 488.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SdpError {
    #[error("the SDP is malformed")]
    Malformed,
    #[error("no audio section with PCMU, PCMA or opus over RTP")]
    NoCodec,
    #[error("the connection address is no IP address")]
    NoAddress,
    #[error("no crypto attribute with AES_CM_128_HMAC_SHA1_80")]
    NoCrypto,
    #[error("media must be SRTP (RTP/SAVP)")]
    Plain,
}

struct Section<'a> {
    words: Vec<&'a str>,
    lines: Vec<&'a str>,
}

impl Remote {
    /// Reads an offer or an answer.
    pub(crate) fn parse(text: &str, needs_srtp: bool) -> Result<Remote, SdpError> {
        if text.len() > LEN_MAX {
            return Err(SdpError::Malformed);
        }
        let mut session = Vec::new();
        let mut sections: Vec<Section<'_>> = Vec::new();
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if line.as_bytes().get(1) != Some(&b'=') {
                return Err(SdpError::Malformed);
            }
            let count = sections.len();
            match (line.strip_prefix("m="), sections.last_mut()) {
                (Some(media), _) if count < SECTIONS_MAX => {
                    let words: Vec<&str> = media.split_whitespace().collect();
                    if words.len() < 4 {
                        return Err(SdpError::Malformed);
                    }
                    sections.push(Section { words, lines: Vec::new() });
                }
                (Some(_), _) => return Err(SdpError::Malformed),
                (None, Some(section)) => section.lines.push(line),
                (None, None) => session.push(line),
            }
        }
        if session.first() != Some(&"v=0") {
            return Err(SdpError::Malformed);
        }
        let words = |section: &Section<'_>| {
            let [kind, port, protocol, ..] = section.words[..] else { unreachable!("there are four") };
            let _ = port;
            (kind.to_owned(), protocol.to_owned(), section.words[3].to_owned())
        };
        let shapes: Vec<_> = sections.iter().map(words).collect();
        let mut first_error = SdpError::NoCodec;
        for (at, section) in sections.iter().enumerate() {
            match section.read(&session, needs_srtp) {
                Ok(remote) => return Ok(Remote { sections: shapes, taken: at, ..remote }),
                Err(error) if first_error == SdpError::NoCodec => first_error = error,
                Err(_) => (),
            }
        }
        Err(first_error)
    }

    /// Whether media may flow to it: it wants some, and not into a hole.
    pub(crate) fn wants_media(&self) -> bool {
        self.direction.receives() && !self.address.ip().is_unspecified() && self.address.port() != 0
    }

    /// The answer to it.
    pub(crate) fn answer(&self, ours: &Ours) -> String {
        let mut text = ours.session();
        for (at, (kind, protocol, format)) in self.sections.iter().enumerate() {
            if at != self.taken {
                text.push_str(&format!("m={kind} 0 {protocol} {format}\r\n"));
                continue;
            }
            let events = self.event_pt.map(|pt| format!(" {pt}")).unwrap_or_default();
            text.push_str(&format!("m=audio {} {protocol} {}{events}\r\n", ours.address.port(), self.pt));
            text.push_str(&mapped(self.codec, self.pt, self.event_pt.zip(Some(self.event_rate))));
            if let (Some(theirs), Some(key)) = (&self.crypto, &ours.key) {
                text.push_str(&format!("a=crypto:{} {SUITE} inline:{}\r\n", theirs.tag, base64(key)));
            }
            text.push_str(if self.is_muxed { "a=rtcp-mux\r\n" } else { "" });
            text.push_str(&format!("a=ptime:20\r\na={}\r\n", self.direction.mirrored()));
        }
        text
    }
}

/// What we say of ourselves.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    pub(crate) address: SocketAddr,
    /// A number for the session, and the version of its description.
    pub(crate) id: u64,
    pub(crate) version: u32,
    pub(crate) key: Option<[u8; KEY_LEN]>,
}

impl Ours {
    fn session(&self) -> String {
        let ip = self.address.ip();
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        format!(
            "v=0\r\no=uprtc {} {} IN {family} {ip}\r\ns=uprtc\r\nc=IN {family} {ip}\r\nt=0 0\r\n",
            self.id >> 1,
            self.version
        )
    }

    /// An offer of all that we have, G.711 first.
    pub(crate) fn offer(&self) -> String {
        let protocol = if self.key.is_some() { "RTP/SAVP" } else { "RTP/AVP" };
        let mut text = self.session();
        text.push_str(&format!("m=audio {} {protocol} 0 8 96 101\r\n", self.address.port()));
        text.push_str("a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:96 opus/48000/2\r\n");
        text.push_str("a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n");
        if let Some(key) = &self.key {
            text.push_str(&format!("a=crypto:1 {SUITE} inline:{}\r\n", base64(key)));
        }
        text.push_str("a=rtcp-mux\r\na=ptime:20\r\na=sendrecv\r\n");
        text
    }
}

fn mapped(codec: Codec, pt: u8, event: Option<(u8, u32)>) -> String {
    let mut text = match codec {
        Codec::G711(_) => format!("a=rtpmap:{pt} {}/8000\r\n", codec.name()),
        Codec::Opus => format!("a=rtpmap:{pt} opus/48000/2\r\na=fmtp:{pt} useinbandfec=1\r\n"),
    };
    if let Some((event, rate)) = event {
        text.push_str(&format!("a=rtpmap:{event} telephone-event/{rate}\r\na=fmtp:{event} 0-15\r\n"));
    }
    text
}

impl Section<'_> {
    fn attributes<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter_map(move |line| line.strip_prefix("a=")?.strip_prefix(name)?.strip_prefix(':'))
    }

    fn read(&self, session: &[&str], needs_srtp: bool) -> Result<Remote, SdpError> {
        let (kind, port, protocol) = (self.words[0], self.words[1], self.words[2]);
        let port: u16 = port.split('/').next().unwrap_or("").parse().map_err(|_| SdpError::Malformed)?;
        let is_secure = match protocol {
            "RTP/AVP" | "RTP/AVPF" => false,
            "RTP/SAVP" | "RTP/SAVPF" => true,
            _ => return Err(SdpError::NoCodec),
        };
        if kind != "audio" || port == 0 {
            return Err(SdpError::NoCodec);
        }
        if needs_srtp && !is_secure {
            return Err(SdpError::Plain);
        }
        let (codec, pt) = self.codec().ok_or(SdpError::NoCodec)?;
        let connection = |lines: &[&str]| lines.iter().find_map(|line| line.strip_prefix("c=").map(str::to_owned));
        let connection = connection(&self.lines).or_else(|| connection(session)).ok_or(SdpError::NoAddress)?;
        let ip = connection.split_whitespace().nth(2).and_then(|address| address.split('/').next());
        let ip: IpAddr = ip.and_then(|ip| ip.parse().ok()).ok_or(SdpError::NoAddress)?;
        if ip.is_multicast() {
            return Err(SdpError::NoAddress);
        }
        let crypto = is_secure.then(|| self.attributes("crypto").find_map(parse_crypto).ok_or(SdpError::NoCrypto));
        let direction = |lines: &[&str]| lines.iter().rev().find_map(|line| Direction::named(line.strip_prefix("a=")?));
        let event = [codec.rate(), 8000].into_iter().find_map(|rate| Some((self.event_pt(rate)?, rate)));
        let address = SocketAddr::new(ip, port);
        let is_muxed = self.lines.contains(&"a=rtcp-mux");
        Ok(Remote {
            address,
            rtcp: if is_muxed { address } else { self.rtcp(address) },
            is_muxed,
            codec,
            pt,
            event_pt: event.map(|(pt, _)| pt),
            event_rate: event.map_or(codec.rate(), |(_, rate)| rate),
            direction: direction(&self.lines).or_else(|| direction(session)).unwrap_or(Direction::Both),
            crypto: crypto.transpose()?,
            sections: Vec::new(),
            taken: 0,
        })
    }

    /// `a=rtcp:PORT` or `a=rtcp:PORT IN IP4 ADDRESS`, else the next port (RFC 3605). Port 0 where there is none.
    fn rtcp(&self, rtp: SocketAddr) -> SocketAddr {
        let said = self.attributes("rtcp").find_map(|value| {
            let mut words = value.split_whitespace();
            let port = words.next()?.parse().ok()?;
            let ip = match words.nth(2) {
                None => rtp.ip(),
                Some(ip) => ip.parse().ok().filter(|ip: &IpAddr| !ip.is_multicast())?,
            };
            Some(SocketAddr::new(ip, port))
        });
        said.unwrap_or_else(|| SocketAddr::new(rtp.ip(), rtp.port().checked_add(1).unwrap_or(0)))
    }

    /// Name and clock of a payload type.
    fn mapping(&self, pt: u8) -> Option<(String, u32)> {
        let mapped = self.attributes("rtpmap").find_map(|map| {
            let (own, encoding) = map.split_once(' ')?;
            (own.trim().parse() == Ok(pt)).then(|| encoding.trim())
        });
        let fixed = match pt {
            0 => Some("PCMU/8000"),
            8 => Some("PCMA/8000"),
            _ => None,
        };
        let mut parts = mapped.or(fixed)?.split('/');
        Some((parts.next()?.to_ascii_lowercase(), parts.next()?.parse().ok()?))
    }

    fn payload_types(&self) -> impl Iterator<Item = u8> {
        self.words[3..].iter().filter_map(|pt| pt.parse().ok()).filter(|pt| *pt < 128)
    }

    /// The first that we have, as the offerer prefers.
    fn codec(&self) -> Option<(Codec, u8)> {
        self.payload_types().find_map(|pt| {
            let codec = match self.mapping(pt)? {
                (name, 8000) if name == "pcmu" => Codec::G711(Law::Mu),
                (name, 8000) if name == "pcma" => Codec::G711(Law::A),
                (name, 48_000) if name == "opus" => Codec::Opus,
                _ => return None,
            };
            Some((codec, pt))
        })
    }

    fn event_pt(&self, rate: u32) -> Option<u8> {
        self.payload_types().find(|pt| self.mapping(*pt).is_some_and(|own| own == ("telephone-event".to_owned(), rate)))
    }
}

/// `1 AES_CM_128_HMAC_SHA1_80 inline:KEY|LIFETIME`. A key with an MKI, or with parameters that change SRTP, is not taken.
fn parse_crypto(value: &str) -> Option<Crypto> {
    let mut words = value.split_whitespace();
    let tag = words.next()?.parse().ok()?;
    let (suite, key) = (words.next()?, words.next()?.strip_prefix("inline:")?);
    if suite != SUITE || words.next().is_some() {
        return None;
    }
    let mut parts = key.split('|');
    let key = unbase64(parts.next()?)?;
    let has_mki = parts.any(|part| part.contains(':'));
    Some(Crypto { tag, key: key.try_into().ok()? }).filter(|_| !has_mki)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 (RFC 4648 §4) of a key, whose length is a multiple of three.
fn base64(bytes: &[u8; KEY_LEN]) -> String {
    let mut text = String::with_capacity(KEY_LEN / 3 * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0, |word, byte| word << 8 | usize::from(*byte));
        text.extend((0..4).rev().map(|sextet| char::from(ALPHABET[word >> (6 * sextet) & 63])));
    }
    text
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut word, mut bits) = (Vec::new(), 0u32, 0);
    for char in text.trim_end_matches('=').bytes() {
        let sextet = ALPHABET.iter().position(|own| *own == char)?;
        word = (word << 6 | sextet as u32) & 0xFF_FFFF;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";

    fn ours(key: Option<[u8; KEY_LEN]>) -> Ours {
        Ours { address: "198.51.100.7:4000".parse().unwrap(), id: 8, version: 1, key }
    }

    fn parse(sections: &str) -> Result<Remote, SdpError> {
        Remote::parse(&format!("{HEAD}{sections}"), false)
    }

    #[test]
    fn the_first_audio_section_that_we_can_is_taken_and_others_are_refused() {
        let remote = parse(
            "m=video 5000 RTP/AVP 31\r\nm=audio 5002 RTP/AVP 9 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\n\
             m=audio 5004 RTP/AVP 0\r\n",
        )
        .unwrap();
        assert_eq!((remote.codec, remote.pt, remote.event_pt), (Codec::G711(Law::A), 8, Some(101)));
        assert_eq!((remote.address, remote.wants_media()), ("192.0.2.1:5002".parse().unwrap(), false));
        let answer = remote.answer(&ours(None));
        let sections: Vec<&str> = answer.lines().filter(|line| line.starts_with("m=")).collect();
        assert_eq!(sections, ["m=video 0 RTP/AVP 31", "m=audio 4000 RTP/AVP 8 101", "m=audio 0 RTP/AVP 0"]);
        assert!(answer.contains("a=recvonly\r\n"), "{answer}");
    }

    #[test]
    fn what_is_of_no_use_is_said_by_name() {
        assert_eq!(parse("m=audio 5000 RTP/AVP 18\r\n"), Err(SdpError::NoCodec));
        assert_eq!(parse("m=audio 5000 UDP/TLS/RTP/SAVPF 0\r\n"), Err(SdpError::NoCodec));
        assert_eq!(parse("m=audio 0 RTP/AVP 0\r\n"), Err(SdpError::NoCodec));
        assert_eq!(parse("m=audio 5000 RTP/AVP 0\r\nc=IN IP4 host.example\r\n"), Err(SdpError::NoAddress));
        assert_eq!(parse("m=audio 5000 RTP/AVP 0\r\nc=IN IP4 224.0.0.1/5\r\n"), Err(SdpError::NoAddress));
        assert_eq!(parse("m=audio 5000 RTP/SAVP 0\r\n"), Err(SdpError::NoCrypto));
        assert_eq!(parse("m=audio\r\n"), Err(SdpError::Malformed));
        assert_eq!(parse("m=audio 99999 RTP/AVP 0\r\n"), Err(SdpError::Malformed));
        assert_eq!(Remote::parse("m=audio 5000 RTP/AVP 0\r\n", false), Err(SdpError::Malformed));
        assert_eq!(Remote::parse(&format!("{HEAD}m=audio 5000 RTP/AVP 0\r\n"), true), Err(SdpError::Plain));
    }

    #[test]
    fn rtcp_is_at_the_next_port_where_it_is_said_or_with_rtp() {
        let at = |lines: &str| {
            let remote = parse(&format!("m=audio 5000 RTP/AVP 0\r\n{lines}")).unwrap();
            (remote.rtcp.to_string(), remote.is_muxed, remote.answer(&ours(None)).contains("a=rtcp-mux\r\n"))
        };
        assert_eq!(at(""), ("192.0.2.1:5001".into(), false, false));
        assert_eq!(at("a=rtcp:7000\r\n"), ("192.0.2.1:7000".into(), false, false));
        assert_eq!(at("a=rtcp:7000 IN IP4 192.0.2.9\r\n"), ("192.0.2.9:7000".into(), false, false));
        assert_eq!(at("a=rtcp:7000\r\na=rtcp-mux\r\n"), ("192.0.2.1:5000".into(), true, true));
        for bad in ["a=rtcp:x\r\n", "a=rtcp:70000\r\n", "a=rtcp:7000 IN IP4 224.0.0.1\r\n", "a=rtcp:\r\n"] {
            assert_eq!(at(bad).0, "192.0.2.1:5001", "{bad}");
        }
        assert_eq!(parse("m=audio 65535 RTP/AVP 0\r\n").unwrap().rtcp.port(), 0);
        assert!(ours(None).offer().contains("a=rtcp-mux\r\n"));
    }

    #[test]
    fn holds_in_the_old_and_in_the_new_way() {
        for line in ["c=IN IP4 0.0.0.0\r\n", "a=sendonly\r\n", "a=inactive\r\n"] {
            assert!(!parse(&format!("m=audio 5000 RTP/AVP 0\r\n{line}")).unwrap().wants_media(), "{line}");
        }
    }

    /// The key of RFC 4568 §6.1's example.
    #[test]
    fn keys_of_sdes_are_read_and_answered() {
        let line = "a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20\r\n";
        let bad = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4\r\n\
            a=crypto:2 AES_CM_128_HMAC_SHA1_32 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n";
        let remote = parse(&format!("m=audio 5000 RTP/SAVP 0\r\n{bad}{line}")).unwrap();
        let crypto = remote.crypto.clone().unwrap();
        assert_eq!((crypto.tag, &crypto.key[..]), (3, &b"YS___semctl () {\t220;}\n}\nunles"[..]));
        let answer = remote.answer(&ours(Some(crypto.key)));
        assert!(answer.contains("m=audio 4000 RTP/SAVP 0\r\n"), "{answer}");
        assert!(
            answer.contains("a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n")
        );
        assert!(!format!("{crypto:?}").contains("89"), "keys are not shown");
    }

    #[test]
    fn our_offer_is_one_that_we_would_take() {
        for key in [None, Some([7; KEY_LEN])] {
            let remote = Remote::parse(&ours(key).offer(), key.is_some()).unwrap();
            assert_eq!((remote.codec, remote.event_pt), (Codec::G711(Law::Mu), Some(101)));
            assert_eq!(remote.crypto.map(|crypto| crypto.key), key);
        }
    }
}
