//! SRTP master keys out of the handshake (RFC 5764 §4.2).

use std::fmt;

use boring::srtp::SrtpProfileId;
use boring::ssl::SslRef;
use proto::plane::{KEY_LEN_MAX, SALT_LEN_MAX, SrtpProfile};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::context::Role;
use super::error::DtlsError;

/// Exporter label (RFC 5764 §4.2).
const LABEL: &str = "EXTRACTOR-dtls_srtp";

/// Bytes of a connection's name, and the label under which it is exported (RFC 5705 §4: labels of applications begin so).
pub const NAME_LEN: usize = 16;
const NAME_LABEL: &str = "EXPORTER-uprtc-connection";

/// Master key and salt of one direction. Wiped when dropped; never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial {
    /// Master key, right-padded with zeros: 16 bytes, or 32 for AES-256.
    pub key: [u8; KEY_LEN_MAX],
    /// Master salt, right-padded with zeros: 14 bytes for AES-CM, 12 for GCM.
    pub salt: [u8; SALT_LEN_MAX],
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyMaterial").finish_non_exhaustive()
    }
}

/// What a finished handshake agreed on.
pub(super) struct SrtpKeys {
    pub(super) profile: SrtpProfile,
    /// Protects what the peer sends.
    pub(super) rx: KeyMaterial,
    /// Protects what we send.
    pub(super) tx: KeyMaterial,
}

/// The SRTP profile of a finished handshake and the keys of both directions. With a context they are others than without, and for each
/// context others (RFC 5705 §4).
pub(super) fn export(ssl: &SslRef, role: Role, context: Option<&[u8]>) -> Result<SrtpKeys, DtlsError> {
    let profile = selected_profile(ssl).ok_or(DtlsError::NoSrtpProfile)?;
    let (key_len, salt_len) = lengths(profile);
    let mut block = Zeroizing::new([0; 2 * (KEY_LEN_MAX + SALT_LEN_MAX)]);
    let block = &mut block[..2 * (key_len + salt_len)];
    ssl.export_keying_material(block, LABEL, context).map_err(DtlsError::setup("export SRTP keys"))?;
    let (client, server) = split(block, key_len, salt_len);
    let (rx, tx) = match role {
        Role::Server => (client, server),
        Role::Client => (server, client),
    };
    Ok(SrtpKeys { profile, rx, tx })
}

/// What both ends of a connection know and nobody else can say: by it they see that they mean the same one.
pub(super) fn name(ssl: &SslRef) -> Result<[u8; NAME_LEN], DtlsError> {
    let mut name = [0; NAME_LEN];
    ssl.export_keying_material(&mut name, NAME_LABEL, None).map_err(DtlsError::setup("export a name"))?;
    Ok(name)
}

fn selected_profile(ssl: &SslRef) -> Option<SrtpProfile> {
    match ssl.selected_srtp_profile()?.id() {
        SrtpProfileId::SRTP_AEAD_AES_128_GCM => Some(SrtpProfile::AeadAes128Gcm),
        SrtpProfileId::SRTP_AEAD_AES_256_GCM => Some(SrtpProfile::AeadAes256Gcm),
        SrtpProfileId::SRTP_AES128_CM_SHA1_80 => Some(SrtpProfile::Aes128CmHmacSha1_80),
        _ => None,
    }
}

/// Bytes of master key and salt (RFC 5764 §4.1.2, RFC 7714 §12).
const fn lengths(profile: SrtpProfile) -> (usize, usize) {
    match profile {
        SrtpProfile::Aes128CmHmacSha1_80 => (16, 14),
        SrtpProfile::AeadAes128Gcm => (16, 12),
        SrtpProfile::AeadAes256Gcm => (32, 12),
    }
}

/// The exported block holds the client's write key, the server's, the client's salt, the server's.
fn split(block: &[u8], key_len: usize, salt_len: usize) -> (KeyMaterial, KeyMaterial) {
    let (keys, salts) = block.split_at(2 * key_len);
    let side = |n: usize| {
        let mut material = KeyMaterial { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN_MAX] };
        material.key[..key_len].copy_from_slice(&keys[n * key_len..][..key_len]);
        material.salt[..salt_len].copy_from_slice(&salts[n * salt_len..][..salt_len]);
        material
    };
    (side(0), side(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exported_block_is_split_in_rfc_order() {
        let block: Vec<u8> = (0..2 * (16 + 14)).collect();
        let (client, server) = split(&block, 16, 14);
        assert_eq!(client.key[..16], block[..16]);
        assert_eq!(server.key[..16], block[16..32]);
        assert_eq!(client.salt[..], block[32..46]);
        assert_eq!(server.salt[..], block[46..60]);
        assert_eq!(client.key[16..], [0; 16]);
    }

    #[test]
    fn keys_are_wiped_and_not_shown() {
        let mut material = KeyMaterial { key: [0xab; KEY_LEN_MAX], salt: [0xcd; SALT_LEN_MAX] };
        assert_eq!(format!("{material:?}"), "KeyMaterial { .. }");
        material.zeroize();
        assert_eq!((material.key, material.salt), ([0; KEY_LEN_MAX], [0; SALT_LEN_MAX]));
    }
}
