//! Leaf: messages by which data channels are opened (DCEP, RFC 8832 §5).

use serde::{Deserialize, Serialize};

use super::LABEL_LEN_MAX;

/// How a channel delivers (RFC 8832 §5.1).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Reliability {
    /// Whether messages may overtake each other.
    pub(crate) unordered: bool,
    /// How often one is sent again at most.
    pub(crate) retransmits_max: Option<u16>,
    /// How long one is tried, milliseconds.
    pub(crate) lifetime_ms: Option<u16>,
}

impl Reliability {
    /// Whether every message arrives.
    pub(crate) fn is_whole(self) -> bool {
        self.retransmits_max.is_none() && self.lifetime_ms.is_none()
    }
}

/// What DCEP says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Dcep {
    /// A channel is opened on the stream that this came on.
    Open {
        /// How it delivers.
        reliability: Reliability,
        /// What it is for.
        label: String,
        /// What is said on it.
        protocol: String,
    },
    /// The channel on this stream is taken.
    Ack,
}

const OPEN: u8 = 0x03;
const ACK: u8 = 0x02;
const UNORDERED: u8 = 0x80;
const BY_RETRANSMITS: u8 = 0x01;
const BY_LIFETIME: u8 = 0x02;

impl Dcep {
    /// Reads a message. `None`: it is none of the two, is cut short, or its label or protocol is longer than [`LABEL_LEN_MAX`] or no UTF-8.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Dcep> {
        match bytes {
            [ACK, ..] => Some(Dcep::Ack),
            [OPEN, kind, _, _, r0, r1, r2, r3, l0, l1, p0, p1, texts @ ..] => {
                let (label_len, protocol_len) = (u16::from_be_bytes([*l0, *l1]), u16::from_be_bytes([*p0, *p1]));
                let (label, protocol) = texts.split_at_checked(usize::from(label_len))?;
                let protocol = protocol.get(..usize::from(protocol_len))?;
                let parameter = u32::from_be_bytes([*r0, *r1, *r2, *r3]);
                let parameter = u16::try_from(parameter).unwrap_or(u16::MAX);
                let by = |bit| (kind & 0x7f == bit).then_some(parameter);
                if !matches!(kind & 0x7f, 0 | BY_RETRANSMITS | BY_LIFETIME) {
                    return None;
                }
                let reliability = Reliability {
                    unordered: kind & UNORDERED != 0,
                    retransmits_max: by(BY_RETRANSMITS),
                    lifetime_ms: by(BY_LIFETIME),
                };
                Some(Dcep::Open { reliability, label: text(label)?, protocol: text(protocol)? })
            }
            _ => None,
        }
    }

    /// Writes it.
    pub(crate) fn write(&self) -> Vec<u8> {
        match self {
            Dcep::Ack => vec![ACK],
            Dcep::Open { reliability, label, protocol } => {
                let (by, parameter) = match (reliability.retransmits_max, reliability.lifetime_ms) {
                    (Some(retransmits), _) => (BY_RETRANSMITS, retransmits),
                    (None, Some(lifetime)) => (BY_LIFETIME, lifetime),
                    (None, None) => (0, 0),
                };
                let kind = by | if reliability.unordered { UNORDERED } else { 0 };
                let mut bytes = vec![OPEN, kind, 1, 0];
                bytes.extend(u32::from(parameter).to_be_bytes());
                for text in [label, protocol] {
                    bytes.extend(u16::try_from(text.len()).expect("it is bounded").to_be_bytes());
                }
                bytes.extend(label.bytes().chain(protocol.bytes()));
                bytes
            }
        }
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok().filter(|text| text.len() <= LABEL_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (retransmits_max, lifetime_ms) in [(None, None), (Some(0), None), (Some(7), None), (None, Some(250))] {
            for unordered in [false, true] {
                let reliability = Reliability { unordered, retransmits_max, lifetime_ms };
                let open = Dcep::Open { reliability, label: "chät".into(), protocol: "p".into() };
                assert_eq!(Dcep::parse(&open.write()), Some(open));
            }
        }
        assert_eq!(Dcep::parse(&Dcep::Ack.write()), Some(Dcep::Ack));
    }

    /// As Chromium writes it for `createDataChannel("chat", {maxRetransmits: 3, ordered: false})`.
    #[test]
    fn the_vector_of_a_browser() {
        let bytes = [3, 0x81, 1, 0, 0, 0, 0, 3, 0, 4, 0, 0, b'c', b'h', b'a', b't'];
        let reliability = Reliability { unordered: true, retransmits_max: Some(3), lifetime_ms: None };
        let open = Dcep::Open { reliability, label: "chat".into(), protocol: String::new() };
        assert_eq!(Dcep::parse(&bytes), Some(open));
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        let whole =
            Dcep::Open { reliability: Reliability::default(), label: "ab".into(), protocol: "cd".into() }.write();
        for len in 0..whole.len() {
            assert_eq!(Dcep::parse(&whole[..len]), None, "{len}");
        }
        let label = "x".repeat(LABEL_LEN_MAX + 1);
        let long = Dcep::Open { reliability: Reliability::default(), label, protocol: String::new() }.write();
        assert_eq!(Dcep::parse(&long), None);
        assert_eq!(Dcep::parse(&[3, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None, "a kind that is reserved");
        assert_eq!(Dcep::parse(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xff]), None, "no UTF-8");
    }
}
