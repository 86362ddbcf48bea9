//! Certificate fingerprints of SDP (RFC 8122 §5): the link between the signalling, which is authenticated, and the
//! certificate of the handshake, which by itself proves nothing.

use boring::hash::{MessageDigest, hash};

/// Why a fingerprint cannot be used. Another one of the same description may be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FingerprintError {
    /// MD2, MD5 (RFC 8122 §5 forbids both) or SHA-1, for which a colliding certificate can be made.
    #[error("the fingerprint hash {0} is too weak; use sha-256")]
    WeakHash(String),
    /// Not a hash function that we know.
    #[error("the fingerprint hash {0} is unknown; use sha-256")]
    UnknownHash(String),
}

/// Whether `bytes` is the hash of the certificate `der` by `algorithm`, a name of RFC 8122 §5 in any case: `sha-256`,
/// `sha-384` or `sha-512`. A hash of the wrong length does not match.
pub fn fingerprint_matches(der: &[u8], algorithm: &str, bytes: &[u8]) -> Result<bool, FingerprintError> {
    let digest = match algorithm.to_ascii_lowercase().as_str() {
        "sha-256" => MessageDigest::sha256(),
        "sha-384" => MessageDigest::sha384(),
        "sha-512" => MessageDigest::sha512(),
        "md2" | "md5" | "sha-1" | "sha-224" => return Err(FingerprintError::WeakHash(algorithm.to_owned())),
        _ => return Err(FingerprintError::UnknownHash(algorithm.to_owned())),
    };
    Ok(hash(digest, der).is_ok_and(|hash| *hash == *bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2's "abc" stands for the certificate: a hash does not care.
    const ABC_SHA256: [u8; 32] = [
        0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03,
        0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad,
    ];

    #[test]
    fn a_fingerprint_matches_its_certificate_alone() {
        assert_eq!(fingerprint_matches(b"abc", "sha-256", &ABC_SHA256), Ok(true));
        assert_eq!(fingerprint_matches(b"abc", "SHA-256", &ABC_SHA256), Ok(true));
        assert_eq!(fingerprint_matches(b"abd", "sha-256", &ABC_SHA256), Ok(false));
        assert_eq!(fingerprint_matches(b"abc", "sha-256", &ABC_SHA256[..31]), Ok(false));
        assert_eq!(fingerprint_matches(b"abc", "sha-256", &[]), Ok(false));
        assert_eq!(fingerprint_matches(b"abc", "sha-512", &ABC_SHA256), Ok(false));
    }

    #[test]
    fn longer_hashes_are_known() {
        for (name, digest) in [("sha-384", MessageDigest::sha384()), ("sha-512", MessageDigest::sha512())] {
            let bytes = hash(digest, b"abc").unwrap();
            assert_eq!(fingerprint_matches(b"abc", name, &bytes), Ok(true), "{name}");
        }
    }

    #[test]
    fn weak_and_unknown_hashes_are_named() {
        assert_eq!(fingerprint_matches(b"", "sha-1", &[0; 20]), Err(FingerprintError::WeakHash("sha-1".into())));
        assert_eq!(fingerprint_matches(b"", "MD5", &[0; 16]), Err(FingerprintError::WeakHash("MD5".into())));
        assert_eq!(fingerprint_matches(b"", "sha3", &[0; 32]), Err(FingerprintError::UnknownHash("sha3".into())));
    }
}
