//! Names of things that both planes know: small copyable newtypes, checked where they enter.

use std::fmt;

/// An index into a worker's table together with the generation of its occupant.
///
/// The index is dense (it addresses an array slot), the generation tells one occupant from the next, so a late
/// command or datagram for a closed object can never reach its successor. Generation 0 is never issued.
macro_rules! slab_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            /// Position in the worker's table.
            pub index: u32,
            /// Which occupant of that position; never 0 for an issued id.
            pub generation: u32,
        }

        impl $name {
            /// An id from its parts.
            pub const fn new(index: u32, generation: u32) -> Self {
                Self { index, generation }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}.{})"), self.index, self.generation)
            }
        }
    };
}

slab_id! {
    /// One peer (one PeerConnection) on the worker that carries it.
    PeerId
}
slab_id! {
    /// One stream that a peer publishes: a track, or one encoding of it where it is sent in several.
    StreamId
}
slab_id! {
    /// One m-section through which a peer receives; its SSRC never changes.
    SlotId
}
slab_id! {
    /// One realised subscription: a stream carried into a slot.
    RouteId
}

slab_id! {
    /// One stream that a worker hands on to another worker.
    TapId
}

slab_id! {
    /// One direction in which a worker passes on datagrams of other edges.
    RelayId
}

/// Synchronisation source of an RTP stream (RFC 3550 §3). 0 means "not known yet".
pub type Ssrc = u32;

/// RTP payload type, 0 to 127 (RFC 3550 §5.1).
pub type Pt = u8;

/// Longest MID or RID that crosses the planes. RFC 8843 sets no bound; a one-byte header extension carries
/// at most 16 bytes (RFC 8285 §4.2), and libwebrtc refuses longer ones.
pub const MID_LEN_MAX: usize = 16;

/// Media identification of an m-section (RFC 8843, RFC 9143), 1 to 16 bytes, or empty for none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mid {
    len: u8,
    bytes: [u8; MID_LEN_MAX],
}

impl Mid {
    /// No MID.
    pub const NONE: Mid = Mid { len: 0, bytes: [0; MID_LEN_MAX] };

    /// A MID from its text: at most 16 bytes of the token characters of RFC 4566. `None` if it is not.
    pub fn parse(bytes: &[u8]) -> Option<Mid> {
        if bytes.len() > MID_LEN_MAX || !bytes.iter().all(|&b| is_token_char(b)) {
            return None;
        }
        let mut mid = Mid { len: bytes.len() as u8, bytes: [0; MID_LEN_MAX] };
        mid.bytes[..bytes.len()].copy_from_slice(bytes);
        Some(mid)
    }

    /// The bytes as they stand on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The text; a MID is always ASCII.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("a Mid holds only ASCII token characters")
    }

    /// Whether there is no MID.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Name of an encoding within its m-section (RFC 8851), of the same form.
pub type Rid = Mid;

impl fmt::Debug for Mid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mid({:?})", self.as_str())
    }
}

/// `token-char` of RFC 4566 §9.
const fn is_token_char(b: u8) -> bool {
    matches!(b, 0x21 | 0x23..=0x27 | 0x2a | 0x2b | 0x2d | 0x2e | 0x30..=0x39 | 0x41..=0x5a | 0x5e..=0x7e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mid_is_a_short_token() {
        assert_eq!(Mid::parse(b"video0").unwrap().as_str(), "video0");
        assert_eq!(Mid::parse(b""), Some(Mid::NONE));
        assert_eq!(Mid::parse(b"seventeen-letters"), None);
        assert_eq!(Mid::parse(b"a b"), None);
        assert_eq!(Mid::parse(b"a\r\n"), None);
        assert_eq!(Mid::parse(&[0xff]), None);
    }
}
