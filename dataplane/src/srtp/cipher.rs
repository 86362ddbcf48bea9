//! The two ciphers behind the three profiles, each keyed once and used for every packet: AES-GCM (RFC 7714) and
//! AES-CM with HMAC-SHA1 (RFC 3711 §4.1.1, §4.2.1).
//!
//! They know bytes, a nonce and a tag. Where these lie in a packet is the parent module's business.
//!
//! Both nonces are one formula. Seen as integers, the session salt is XORed with the SSRC and the packet index:
//! `salt ^ ssrc << 48 ^ index`. GCM uses the 96 bits as they are (RFC 7714 §8.1, §9.1, where the SRTCP index is a
//! packet index with 17 zero bits before it); CM appends a 16-bit block counter that starts at 0 (RFC 3711 §4.1.1).

use std::hint::black_box;

use aes::Aes128Enc;
use boring::aead::Algorithm;
use ctr::cipher::{InnerIvInit, KeyInit, StreamCipherCore};
use ctr::{CtrCore, flavors};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use zeroize::Zeroize;

use super::aead::{self, Aead};
use super::{AuthError, SessionKeys};

/// Salt, SSRC and packet index mixed, right-aligned.
fn mix(salt: u128, ssrc: u32, index: u64) -> u128 {
    salt ^ u128::from(ssrc) << 48 ^ u128::from(index)
}

/// AES-GCM with a 96-bit nonce and a full tag. On BoringSSL, whose assembly has VAES with AVX-512, and which reads the
/// plaintext in one place and writes the ciphertext in another.
pub(super) struct Gcm {
    key: Aead,
    salt: u128,
}

impl Gcm {
    pub(super) const TAG_LEN: usize = aead::TAG_LEN;

    /// Schedules a session key of `algorithm`'s length.
    pub(super) fn new(algorithm: &Algorithm, keys: &SessionKeys) -> Gcm {
        Gcm { key: Aead::new(algorithm, &keys.cipher), salt: keys.salt_96() }
    }

    /// As [`Aead::encrypt`].
    pub(super) fn encrypt(
        &self,
        ssrc: u32,
        index: u64,
        associated: &[u8],
        text: &mut [u8],
        rest: &[u8],
        out: &mut [u8],
    ) -> usize {
        self.key.encrypt(&self.nonce(ssrc, index), associated, text, rest, out)
    }

    /// Authenticates, then decrypts `text` in place.
    pub(super) fn open(
        &self,
        ssrc: u32,
        index: u64,
        associated: &[u8],
        text: &mut [u8],
        tag: &[u8; Self::TAG_LEN],
    ) -> Result<(), AuthError> {
        self.key.open(&self.nonce(ssrc, index), associated, text, tag)
    }

    fn nonce(&self, ssrc: u32, index: u64) -> [u8; aead::NONCE_LEN] {
        let mut nonce = [0; aead::NONCE_LEN];
        nonce.copy_from_slice(&mix(self.salt, ssrc, index).to_be_bytes()[4..]);
        nonce
    }
}

impl Drop for Gcm {
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

/// AES-128 in counter mode, authenticated by HMAC-SHA1 cut to 80 bits. On the `aes` and `sha1` crates, which use
/// AES-NI and the SHA extensions (`ring`'s SHA-1 does not, and takes four times as long).
pub(super) struct Cm {
    block: Aes128Enc,
    salt: u128,
    /// Keyed and with both pads already hashed; cloned for each packet (about 130 bytes).
    mac: Hmac<Sha1>,
}

impl Cm {
    /// HMAC_SHA1_80 (RFC 5764 §4.1.2).
    pub(super) const TAG_LEN: usize = 10;

    /// Schedules the session keys.
    pub(super) fn new(keys: &SessionKeys) -> Cm {
        let (key, _) = keys.cipher.split_first_chunk::<16>().expect("a cipher key has room for AES-128");
        Cm { block: Aes128Enc::new(key.into()), salt: keys.salt_112(), mac: keyed(&keys.auth) }
    }

    /// XORs the keystream of this packet onto `text`: encrypts plaintext, decrypts ciphertext.
    ///
    /// The counter is good for 2^16 blocks (1 MiB); a datagram has 64 KiB.
    pub(super) fn apply_keystream(&self, ssrc: u32, index: u64, text: &mut [u8]) {
        debug_assert!(text.len() <= 1 << 20, "longer than the keystream of one packet");
        let counter = (mix(self.salt, ssrc, index) << 16).to_be_bytes();
        CtrCore::<_, flavors::Ctr128BE>::inner_iv_init(&self.block, &counter.into())
            .apply_keystream_partial(text.into());
    }

    /// The tag over `packet` and what is authenticated with it but lies elsewhere (ROC, SRTCP index).
    pub(super) fn tag(&self, packet: &[u8], trailer: &[u8]) -> [u8; Self::TAG_LEN] {
        let full = self.mac.clone().chain_update(packet).chain_update(trailer).finalize().into_bytes();
        *full.first_chunk().expect("SHA-1 gives 20 bytes")
    }

    /// Compares the tag in constant time.
    pub(super) fn verify(&self, packet: &[u8], trailer: &[u8], tag: &[u8; Self::TAG_LEN]) -> Result<(), AuthError> {
        let mac = self.mac.clone().chain_update(packet).chain_update(trailer);
        mac.verify_truncated_left(tag).map_err(|_| AuthError)
    }
}

impl Drop for Cm {
    /// `aes` erases its round keys by itself; the salt and the keyed hash states are overwritten here.
    fn drop(&mut self) {
        self.salt.zeroize();
        self.mac = keyed(&[]);
        black_box(&mut self.mac);
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha1> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}
