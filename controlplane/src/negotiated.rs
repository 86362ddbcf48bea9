//! What was negotiated with a peer: a subsequent offer must agree with it, and the answer to one goes on from it
//! (RFC 3264 §8, RFC 8829 §5).
//!
//! A successor of this controlplane gets subsequent offers too, so this is journaled, and it is short: of what is only
//! compared, a hash is kept.

use proto::signal::ErrorCode;
use ring::digest;
use serde::{Deserialize, Serialize};

use crate::hex;
use crate::policy::{SLOT_SSRCS_MAX, STREAM_SSRCS_MAX};
use crate::refusal::Refusal;
use crate::sdp::{AnswerParams, AnswerSection, Fingerprint, IceCredentials, Offer, Section, Setup};

/// What the last offer and answer agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Negotiated {
    /// The client's certificate.
    #[serde(rename = "f")]
    certificate: Mark,
    /// SHA-256 of ours. A successor has another one, which would be another DTLS association to the client.
    #[serde(rename = "u")]
    ours: Sha256,
    /// The client's ICE credentials.
    #[serde(rename = "i")]
    ice: Mark,
    /// Whether we are the DTLS client.
    #[serde(rename = "a")]
    is_client: bool,
    /// The m-sections.
    #[serde(rename = "o")]
    outline: Outline,
    /// Id and version of our last answer (`o=`, RFC 8866 §5.2).
    #[serde(rename = "d")]
    pub(crate) description: (u64, u32),
    /// SSRCs that were ever in use.
    #[serde(rename = "n")]
    pub(crate) spent: Spent,
    /// Its data channels, if it has them. A successor has not the keys of DTLS to serve them, and need not know.
    #[serde(skip)]
    pub(crate) data: Option<DataChannels>,
    /// Whether the client acknowledges messages, as the client module does: it has opened the module's channel, or has sent or
    /// acknowledged data on its socket.
    #[serde(rename = "k", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_sdk: bool,
}

/// What was agreed of data channels (RFC 8841).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DataChannels {
    /// The port of SCTP at the client.
    pub(crate) port: u16,
    /// The longest message that the client takes, bytes; 0 for any.
    pub(crate) len_max: u32,
}

/// SSRCs of a peer's life, given back by nothing: under one key each has one keystream, and the worker remembers how far
/// it was used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(into = "(usize, usize)", try_from = "(usize, usize)")]
pub(crate) struct Spent {
    /// Of streams and their retransmissions.
    pub(crate) streams: usize,
    /// Of slots and their retransmissions.
    pub(crate) slots: usize,
}

impl From<Spent> for (usize, usize) {
    fn from(spent: Spent) -> Self {
        (spent.streams, spent.slots)
    }
}

impl TryFrom<(usize, usize)> for Spent {
    type Error = &'static str;

    fn try_from((streams, slots): (usize, usize)) -> Result<Self, Self::Error> {
        let is_possible = streams <= STREAM_SSRCS_MAX && slots <= SLOT_SSRCS_MAX;
        is_possible.then_some(Spent { streams, slots }).ok_or("no peer has had so many SSRCs")
    }
}

impl Negotiated {
    /// What an offer negotiates that is answered by `answer`.
    pub(crate) fn of(offer: &Offer, answer: &AnswerParams<'_>, spent: Spent) -> Negotiated {
        let is_rejected = |section: &AnswerSection<'_>| *section == AnswerSection::Rejected;
        let is_rejected: Vec<bool> = answer.sections.iter().map(is_rejected).collect();
        Negotiated {
            certificate: Mark::of_certificate(&offer.fingerprints),
            ours: Sha256(answer.fingerprint.bytes.as_slice().try_into().expect("ours is of SHA-256")),
            ice: Mark::of_ice(&offer.ice),
            is_client: answer.setup == Setup::Active,
            outline: Outline::of(offer, &is_rejected),
            description: (answer.session_id, answer.version),
            spent,
            data: None,
            is_sdk: false,
        }
    }

    /// Whether other credentials are those of another ICE session (RFC 8839 §4.4.1.1.1).
    pub(crate) fn is_restart(&self, ice: &IceCredentials) -> bool {
        self.ice != Mark::of_ice(ice)
    }

    /// The client has other ICE credentials now.
    pub(crate) fn restarted(&mut self, ice: &IceCredentials) {
        self.ice = Mark::of_ice(ice);
    }

    /// Hash of the certificate that the association was made with.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::sha256(self.ours.0)
    }

    /// Our role in DTLS, whatever the client would be content with: the association stands (RFC 8842 §5.5).
    pub(crate) fn setup(&self) -> Setup {
        if self.is_client { Setup::Active } else { Setup::Passive }
    }

    /// Refuses what would need another transport, or other m-sections in the places of those that are in use.
    pub(crate) fn check(&self, offer: &Offer) -> Result<(), Refusal> {
        let unsupported = |message: String| Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
        if self.certificate != Mark::of_certificate(&offer.fingerprints) {
            return unsupported("the certificate is another one: that needs a new RTCPeerConnection".into());
        }
        let other = if self.is_client { Setup::Active } else { Setup::Passive };
        if offer.setup == other {
            return unsupported(format!("a=setup:{} would turn the roles of DTLS around", other.as_str()));
        }
        match self.outline.first_mismatch(offer) {
            None => Ok(()),
            Some(index) if index >= offer.sections.len() => {
                unsupported(format!("m-section {index} is missing: one that is not used any more stays, with port 0"))
            }
            Some(index) => unsupported(format!("m-section {index} is in use and has another mid or kind now")),
        }
    }
}

/// By what something is recognised: 64 bits of a hash. A client that finds two values with one mark deceives itself alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
struct Mark(u64);

impl Mark {
    fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Mark {
        let mut context = digest::Context::new(&digest::SHA256);
        for part in parts {
            context.update(&u64::try_from(part.len()).expect("a length fits").to_be_bytes());
            context.update(part);
        }
        let digest = context.finish();
        Mark(u64::from_be_bytes(*digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")))
    }

    /// Of all the fingerprints, in whatever order.
    fn of_certificate(fingerprints: &[Fingerprint]) -> Mark {
        let mut sorted: Vec<&Fingerprint> = fingerprints.iter().collect();
        sorted.sort_by_key(|f| (&f.algorithm, &f.bytes));
        Mark::of(sorted.iter().flat_map(|f| [f.algorithm.as_bytes(), &f.bytes]))
    }

    /// Both are others after a restart (RFC 8445 §9), so the one that is no secret suffices.
    fn of_ice(ice: &IceCredentials) -> Mark {
        Mark::of([ice.ufrag.as_bytes()])
    }
}

/// A hash, written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Sha256([u8; 32]);

impl From<Sha256> for String {
    fn from(Sha256(bytes): Sha256) -> Self {
        hex::write(&bytes)
    }
}

impl TryFrom<String> for Sha256 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        hex::read(&text, &mut bytes).map(|()| Sha256(bytes)).ok_or("a hash is 64 hexadecimal digits")
    }
}

/// Exactly so many hexadecimal digits.
fn hexadecimal(digits: &[u8], len: usize) -> Option<u32> {
    let is_whole = digits.len() == len && digits.iter().all(u8::is_ascii_hexdigit);
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok().filter(|_| is_whole)
}

/// The m-sections in their order: of each 23 bits of a hash of kind and MID, and whether it is rejected. Six hexadecimal
/// digits each in the journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Outline(Vec<u32>);

const DIGITS: usize = 6;
const REJECTED: u32 = 1;

impl Outline {
    fn of(offer: &Offer, is_rejected: &[bool]) -> Outline {
        let line = |(section, &is_rejected): (&Section, &bool)| Self::line(section) | u32::from(is_rejected);
        Outline(offer.sections.iter().zip(is_rejected).map(line).collect())
    }

    fn line(section: &Section) -> u32 {
        let Mark(mark) = Mark::of([section.media.as_bytes(), section.mid.as_str().as_bytes()]);
        (mark >> (64 - 4 * DIGITS)) as u32 & !REJECTED
    }

    /// The first section that is not where it was. A rejected one may have become another (RFC 8829 §5.2.2).
    fn first_mismatch(&self, offer: &Offer) -> Option<usize> {
        let Outline(lines) = self;
        let is_kept = |index: usize, line: u32| match offer.sections.get(index) {
            None => false,
            Some(section) => line & REJECTED != 0 || line == Self::line(section),
        };
        (0..lines.len()).find(|&index| !is_kept(index, lines[index]))
    }
}

impl From<Outline> for String {
    fn from(Outline(lines): Outline) -> Self {
        lines.iter().map(|line| format!("{line:0DIGITS$x}")).collect()
    }
}

impl TryFrom<String> for Outline {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let lines = text.as_bytes().chunks(DIGITS).map(|line| hexadecimal(line, DIGITS)).collect::<Option<Vec<u32>>>();
        lines.map(Outline).ok_or("an outline is six hexadecimal digits a line")
    }
}

#[cfg(test)]
impl Negotiated {
    /// The longest in the journal.
    pub(crate) fn largest() -> Negotiated {
        Negotiated {
            certificate: Mark(u64::MAX),
            ours: Sha256([255; 32]),
            ice: Mark(u64::MAX),
            is_client: false,
            outline: Outline(vec![0xff_ffff; crate::sdp::SECTIONS_MAX]),
            description: (u64::MAX, u32::MAX),
            spent: Spent { streams: STREAM_SSRCS_MAX, slots: SLOT_SSRCS_MAX },
            data: None,
            is_sdk: true,
        }
    }
}
