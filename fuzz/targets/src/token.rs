//! Tokens.

use std::sync::LazyLock;

use controlplane::auth::{KEY_LEN, TokenKey, TokenKeys};
use ring::hmac;
use serde_json::Value;

use crate::SEPARATOR;

const SECRET: [u8; KEY_LEN] = [7; KEY_LEN];

static KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::new(&SECRET));
static KEYS: LazyLock<TokenKeys> = LazyLock::new(|| TokenKey::new(&SECRET).into());

/// Text as a token; if [`SEPARATOR`] stands in it, the header and the claims of one that is signed here. What is taken has a header that
/// may be taken (RFC 7515 §4.1.1, §4.1.11), and can be signed and taken again with the same claims.
pub fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.split_once(char::from(SEPARATOR)) {
        Some((header, claims)) => signed(header, claims),
        None => {
            // Nobody but the holder of the key makes a signature, and no file of the corpus has one.
            assert!(KEYS.verify(text).is_err() && KEYS.verify_late(text).is_err());
        }
    }
}

fn signed(header: &str, claims: &str) {
    let body = [base64url(header.as_bytes()), base64url(claims.as_bytes())].join(".");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), body.as_bytes());
    let token = format!("{body}.{}", base64url(signature.as_ref()));
    let late = KEYS.verify_late(&token);
    if let Ok(now) = KEYS.verify(&token) {
        assert_eq!(late.as_ref(), Ok(&now), "what is good now is good late");
    }
    let Ok(read) = late else { return };
    let header: Value = serde_json::from_str(header).expect("the header of a token is JSON");
    assert!(header["alg"] == "HS256" && header.get("crit").is_none(), "{header}");
    let claims: Value = serde_json::from_str(claims).expect("so are its claims");
    assert!(claims["room"] == read.room.as_str() && claims["name"] == read.name.as_str());
    assert!(!read.admin || claims["admin"] == true);
    // One without `iat` may be good for longer than we would make it.
    if let Ok(token) = KEY.sign(&read) {
        assert_eq!(KEYS.verify_late(&token), Ok(read));
    }
}

/// RFC 4648 §5, without padding, as RFC 7515 §2 has it.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |chunk: &[u8]| {
        let bits = chunk.iter().enumerate().fold(0, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        (0..=chunk.len()).map(move |n| char::from(ALPHABET[(bits >> (18 - 6 * n)) as usize & 63]))
    };
    bytes.chunks(3).flat_map(digits).collect()
}
