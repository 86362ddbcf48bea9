//! SRTP and SRTCP (RFC 3711, RFC 7714): unprotect in place, protect in place or from elsewhere.
//!
//! A packet passes here twice: unprotected as soon as its stream is known, and protected once for each route, from one
//! plaintext into the outgoing slab. [`Crypto`] holds the session keys of one direction of one peer and no state
//! of any stream, so one serves all SSRCs of the peer and is only read. What a stream that is received must remember is a
//! [`Window`]; the packet index comes from there. The senders of RTCP have theirs in [`RtcpWindows`]. What a stream that is sent
//! must remember is its `Sender`, through which the dataplane protects.
//!
//! The receiver's order (RFC 3711 §3.3) is *check the window, then authenticate, then update*. A replay costs no
//! cryptography, and a forgery changes nothing:
//!
//! ```
//! # use dataplane::srtp::{Crypto, Window};
//! # fn receive(rx: &Crypto, window: &mut Window, ssrc: u32, seq: u16, header_len: usize, packet: &mut [u8])
//! #     -> Result<usize, Box<dyn std::error::Error>> {
//! let index = window.estimate(seq);
//! window.check(index)?;
//! let len = rx.unprotect_rtp(ssrc, index, header_len, packet)?;
//! window.update(index);
//! # Ok(len) }
//! ```
//!
//! Nothing here allocates after [`Crypto::new`]: AES round keys, the GHASH table and the two hashed HMAC blocks are
//! computed once. MKI, key derivation rates other than 0, and SRTCP without encryption are not negotiated by
//! DTLS-SRTP (RFC 5764 §4.1.2) and not taken.

mod aead;
mod cipher;
mod kdf;
mod sender;
mod window;

use std::fmt;

use boring::aead::Algorithm;
use proto::plane::{KEY_LEN_MAX, SALT_LEN_MAX, SrtpProfile};

use cipher::{Cm, Gcm};
pub use kdf::SessionKeys;
pub use sender::{Backwards, Position};
pub(crate) use sender::{OrderedSender, RtcpSender, SEALS, Sender};
pub(crate) use window::{Narrow, ReplayWindow, SentWindow};
pub use window::{Replayed, RtcpWindows, Window};

/// Highest packet index of SRTP: ROC and SEQ are 48 bits together (RFC 3711 §3.3.1).
pub const INDEX_MAX: u64 = (1 << 48) - 1;
/// Highest packet index of SRTCP: 31 bits beside the E flag (RFC 3711 §3.4).
pub const RTCP_INDEX_MAX: u32 = (1 << 31) - 1;

/// The part of an RTCP packet that stays in the clear: first header word and sender's SSRC.
const RTCP_HEADER_LEN: usize = 8;
/// E flag and SRTCP index (RFC 3711 §3.4), called the ESRTCP word by RFC 7714 §9.
const RTCP_WORD_LEN: usize = 4;
const E_FLAG: u32 = 1 << 31;

/// The packet is not from the holder of the key, or was altered or cut on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("SRTP authentication failed")]
pub struct AuthError;

/// Session keys of one direction of one peer, scheduled for use. Immutable; overwritten on drop.
pub struct Crypto {
    profile: SrtpProfile,
    suite: Suite,
}

/// RTP and RTCP have separate session keys under one cipher (RFC 3711 §4.3). Those of CM lie apart as BoringSSL's do, for
/// they are 0.6 KiB that the many peers with GCM would have empty.
enum Suite {
    Cm { rtp: Box<Cm>, rtcp: Box<Cm> },
    Gcm { rtp: Gcm, rtcp: Gcm },
}

impl Crypto {
    /// Bytes by which a packet grows at most: tag and ESRTCP word of an SRTCP packet under GCM.
    pub const OVERHEAD_MAX: usize = Gcm::TAG_LEN + RTCP_WORD_LEN;

    /// Derives the session keys from a master key and salt as DTLS-SRTP exports them, zero padded on the right.
    pub fn new(profile: SrtpProfile, key: &[u8; KEY_LEN_MAX], salt: &[u8; SALT_LEN_MAX]) -> Crypto {
        Crypto::from_session_keys(
            profile,
            &SessionKeys::rtp(profile, key, salt),
            &SessionKeys::rtcp(profile, key, salt),
        )
    }

    /// Uses session keys as they are. [`Crypto::new`] is the way in; the vectors of RFC 3711 and 7714 start here.
    pub fn from_session_keys(profile: SrtpProfile, rtp: &SessionKeys, rtcp: &SessionKeys) -> Crypto {
        let suite = match profile {
            SrtpProfile::Aes128CmHmacSha1_80 => Suite::Cm { rtp: Cm::new(rtp).into(), rtcp: Cm::new(rtcp).into() },
            SrtpProfile::AeadAes128Gcm => Suite::Gcm {
                rtp: Gcm::new(&Algorithm::aes_128_gcm(), rtp),
                rtcp: Gcm::new(&Algorithm::aes_128_gcm(), rtcp),
            },
            SrtpProfile::AeadAes256Gcm => Suite::Gcm {
                rtp: Gcm::new(&Algorithm::aes_256_gcm(), rtp),
                rtcp: Gcm::new(&Algorithm::aes_256_gcm(), rtcp),
            },
        };
        Crypto { profile, suite }
    }

    /// The profile that DTLS negotiated.
    pub fn profile(&self) -> SrtpProfile {
        self.profile
    }

    /// Authenticates and decrypts an SRTP packet in place.
    ///
    /// `packet` is header, ciphertext and tag; `header_len` counts CSRCs and header extension; `index` is
    /// `ROC << 16 | SEQ`. Returns the length of header and plaintext. After an error the payload is unspecified, and
    /// nothing of the packet may be used.
    pub fn unprotect_rtp(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, AuthError> {
        // A peer that has used up its indices has to be keyed anew (RFC 3711 §9.2).
        if index > INDEX_MAX {
            return Err(AuthError);
        }
        match &self.suite {
            Suite::Cm { rtp, .. } => {
                let (body, tag) = packet.split_last_chunk_mut::<{ Cm::TAG_LEN }>().ok_or(AuthError)?;
                let len = body.len();
                let text = body.get(header_len..).ok_or(AuthError)?.len();
                rtp.verify(body, &roc(index), tag)?;
                rtp.apply_keystream(ssrc, index, &mut body[len - text..]);
                Ok(len)
            }
            Suite::Gcm { rtp, .. } => {
                let (body, tag) = packet.split_last_chunk_mut::<{ Gcm::TAG_LEN }>().ok_or(AuthError)?;
                let len = body.len();
                let (header, text) = body.split_at_mut_checked(header_len).ok_or(AuthError)?;
                rtp.open(ssrc, index, header, text, tag)?;
                Ok(len)
            }
        }
    }

    /// Encrypts and authenticates an RTP packet.
    ///
    /// `buffer[..len]` is header and plaintext, which is encrypted in place. Behind it the plaintext goes on with `rest`, which
    /// may be empty and stays as it is: many receivers' packets are encrypted from one. The buffer has room for its ciphertext
    /// and [`Crypto::OVERHEAD_MAX`] bytes. Returns the new length, or `None` if `index` is beyond [`INDEX_MAX`]: the key is
    /// used up, and the packet must not leave. Using an index twice with one SSRC breaks the cipher; that it never happens is
    /// the caller's duty.
    ///
    /// # Panics
    /// If `header_len <= len` does not hold or the room is missing.
    #[must_use = "without a length the buffer still holds plaintext"]
    pub fn protect_rtp(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        buffer: &mut [u8],
        len: usize,
        rest: &[u8],
    ) -> Option<usize> {
        if index > INDEX_MAX {
            return None;
        }
        match &self.suite {
            Suite::Cm { rtp, .. } => {
                let end = len + rest.len();
                buffer[len..end].copy_from_slice(rest);
                let (packet, room) = buffer.split_at_mut(end);
                rtp.apply_keystream(ssrc, index, &mut packet[header_len..]);
                let tag = rtp.tag(packet, &roc(index));
                Some(end + append(room, &[&tag]))
            }
            Suite::Gcm { rtp, .. } => {
                let (packet, room) = buffer.split_at_mut(len);
                let (header, text) = packet.split_at_mut(header_len);
                Some(len + rtp.encrypt(ssrc, index, header, text, rest, room))
            }
        }
    }

    /// The index of an SRTCP packet, read without authenticating so that the window can be checked first.
    ///
    /// `None` for what [`Crypto::unprotect_rtcp`] would refuse unseen: too short, or not encrypted (E = 0).
    pub fn rtcp_index(&self, packet: &[u8]) -> Option<u32> {
        let word_end = packet.len().checked_sub(match &self.suite {
            Suite::Cm { .. } => Cm::TAG_LEN,
            Suite::Gcm { .. } => 0,
        })?;
        let (body, word) = packet[..word_end].split_last_chunk::<RTCP_WORD_LEN>()?;
        let body_len_min = match &self.suite {
            Suite::Cm { .. } => RTCP_HEADER_LEN,
            Suite::Gcm { .. } => RTCP_HEADER_LEN + Gcm::TAG_LEN,
        };
        let word = u32::from_be_bytes(*word);
        (body.len() >= body_len_min && word & E_FLAG != 0).then_some(word & !E_FLAG)
    }

    /// Sender's SSRC and index of an SRTCP packet: which of [`RtcpWindows`] to check, and for what. As
    /// [`Crypto::rtcp_index`], not authenticated yet.
    pub fn rtcp_source(&self, packet: &[u8]) -> Option<(u32, u32)> {
        self.rtcp_index(packet).map(|index| (sender_ssrc(packet), index))
    }

    /// Authenticates and decrypts an SRTCP packet in place; returns the length of the plain compound packet.
    ///
    /// After an error the contents are unspecified.
    pub fn unprotect_rtcp(&self, packet: &mut [u8]) -> Result<usize, AuthError> {
        let (ssrc, index) = self.rtcp_source(packet).ok_or(AuthError)?;
        match &self.suite {
            Suite::Cm { rtcp, .. } => {
                // header | ciphertext | word | tag, and the tag covers all before it (RFC 3711 §3.4).
                let (body, tag) = packet.split_last_chunk_mut::<{ Cm::TAG_LEN }>().ok_or(AuthError)?;
                rtcp.verify(body, &[], tag)?;
                let len = body.len() - RTCP_WORD_LEN;
                rtcp.apply_keystream(ssrc, index.into(), &mut body[RTCP_HEADER_LEN..len]);
                Ok(len)
            }
            Suite::Gcm { rtcp, .. } => {
                // header | ciphertext | tag | word (RFC 7714 §9.2).
                let (body, word) = packet.split_last_chunk_mut::<RTCP_WORD_LEN>().ok_or(AuthError)?;
                let (body, tag) = body.split_last_chunk_mut::<{ Gcm::TAG_LEN }>().ok_or(AuthError)?;
                let len = body.len();
                let (header, text) = body.split_at_mut(RTCP_HEADER_LEN);
                rtcp.open(ssrc, index.into(), &rtcp_associated_data(header, word), text, tag)?;
                Ok(len)
            }
        }
    }

    /// Encrypts and authenticates a compound RTCP packet in place.
    ///
    /// `buffer[..len]` is the packet, with [`Crypto::OVERHEAD_MAX`] bytes of room behind. Returns the new length, or
    /// `None` if `index` is beyond [`RTCP_INDEX_MAX`]. All RTCP of one sender SSRC counts in one index.
    ///
    /// # Panics
    /// If the packet is shorter than an RTCP header with SSRC, or the room is missing.
    #[must_use = "without a length the buffer still holds plaintext"]
    pub fn protect_rtcp(&self, index: u32, buffer: &mut [u8], len: usize) -> Option<usize> {
        if index > RTCP_INDEX_MAX {
            return None;
        }
        let ssrc = sender_ssrc(buffer);
        let word = (index | E_FLAG).to_be_bytes();
        let (packet, room) = buffer.split_at_mut(len);
        let (header, text) = packet.split_at_mut(RTCP_HEADER_LEN);
        match &self.suite {
            Suite::Cm { rtcp, .. } => {
                rtcp.apply_keystream(ssrc, index.into(), text);
                let tag = rtcp.tag(packet, &word);
                Some(len + append(room, &[&word, &tag]))
            }
            Suite::Gcm { rtcp, .. } => {
                let associated = rtcp_associated_data(header, &word);
                let tag_len = rtcp.encrypt(ssrc, index.into(), &associated, text, &[], room);
                Some(len + tag_len + append(&mut room[tag_len..], &[&word]))
            }
        }
    }
}

impl fmt::Debug for Crypto {
    /// Names the profile; keys are never shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crypto").field("profile", &self.profile).finish_non_exhaustive()
    }
}

/// ROC as the authentication tag covers it behind the packet (RFC 3711 §4.2).
fn roc(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// SSRC of the first packet in a compound; the caller has checked the length.
fn sender_ssrc(packet: &[u8]) -> u32 {
    u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]])
}

/// RFC 7714 §9.2: the clear header, then the ESRTCP word, though they are apart on the wire.
fn rtcp_associated_data(header: &[u8], word: &[u8; RTCP_WORD_LEN]) -> [u8; RTCP_HEADER_LEN + RTCP_WORD_LEN] {
    let mut data = [0; RTCP_HEADER_LEN + RTCP_WORD_LEN];
    data[..RTCP_HEADER_LEN].copy_from_slice(header);
    data[RTCP_HEADER_LEN..].copy_from_slice(word);
    data
}

/// Writes `parts` one after the other into `room`; returns their length.
fn append(room: &mut [u8], parts: &[&[u8]]) -> usize {
    let mut len = 0;
    for part in parts {
        room[len..len + part.len()].copy_from_slice(part);
        len += part.len();
    }
    len
}
