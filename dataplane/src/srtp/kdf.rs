//! From the master key to session keys (RFC 3711 §4.3), once for each peer and direction.
//!
//! The pseudo-random function is AES in counter mode with the master key: AES-128 for the 128-bit profiles
//! (RFC 3711 §4.3.3, RFC 7714 §11), AES-256 for the other (RFC 6188 §3). The key derivation rate is 0, so each key is
//! derived once and the index does not enter.

use aes::{Aes128Enc, Aes256Enc};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use proto::plane::{KEY_LEN_MAX, SALT_LEN_MAX, SrtpProfile};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Labels of RFC 3711 §4.3.1 and §4.3.2.
#[derive(Clone, Copy)]
enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// What protects RTP, or RTCP, of one direction. Zeroised on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKeys {
    /// Encryption key k_e; the 128-bit profiles use the first half.
    pub cipher: [u8; KEY_LEN_MAX],
    /// Authentication key k_a of HMAC-SHA1; the GCM profiles do not use it.
    pub auth: [u8; 20],
    /// Salting key k_s; the GCM profiles use the first 12 bytes.
    pub salt: [u8; SALT_LEN_MAX],
}

impl SessionKeys {
    /// Session keys of SRTP. Master key and salt are zero padded on the right (RFC 7714 §11 pads the salt so).
    pub fn rtp(profile: SrtpProfile, key: &[u8; KEY_LEN_MAX], salt: &[u8; SALT_LEN_MAX]) -> SessionKeys {
        derive(profile, key, salt, [Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt])
    }

    /// Session keys of SRTCP (RFC 3711 §4.3.2).
    pub fn rtcp(profile: SrtpProfile, key: &[u8; KEY_LEN_MAX], salt: &[u8; SALT_LEN_MAX]) -> SessionKeys {
        derive(profile, key, salt, [Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt])
    }

    /// The salt of AES-CM as a number of 112 bits.
    pub(super) fn salt_112(&self) -> u128 {
        number(&self.salt)
    }

    /// The salt of AES-GCM as a number of 96 bits.
    pub(super) fn salt_96(&self) -> u128 {
        number(&self.salt[..12])
    }
}

fn derive(
    profile: SrtpProfile,
    key: &[u8; KEY_LEN_MAX],
    salt: &[u8; SALT_LEN_MAX],
    [encryption, authentication, salting]: [Label; 3],
) -> SessionKeys {
    let mut keys = SessionKeys { cipher: [0; KEY_LEN_MAX], auth: [0; 20], salt: [0; SALT_LEN_MAX] };
    prf(profile, key, salt, encryption, &mut keys.cipher);
    prf(profile, key, salt, authentication, &mut keys.auth);
    prf(profile, key, salt, salting, &mut keys.salt);
    keys
}

/// AES_CM_PRF: keystream of the master key for the input `x = master_salt ^ label << 48`, shifted to leave the block
/// counter 16 bits. `out` must be zero.
fn prf(profile: SrtpProfile, key: &[u8; KEY_LEN_MAX], salt: &[u8; SALT_LEN_MAX], label: Label, out: &mut [u8]) {
    let x = number(salt) ^ (label as u128) << 48;
    let iv = (x << 16).to_be_bytes();
    match profile {
        SrtpProfile::Aes128CmHmacSha1_80 | SrtpProfile::AeadAes128Gcm => {
            let (key, _) = key.split_first_chunk::<16>().expect("a master key has room for AES-128");
            Ctr128BE::<Aes128Enc>::new(key.into(), &iv.into()).apply_keystream(out);
        }
        SrtpProfile::AeadAes256Gcm => Ctr128BE::<Aes256Enc>::new(key.into(), &iv.into()).apply_keystream(out),
    }
}

/// Big-endian bytes as a number.
fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u128::from(byte))
}
