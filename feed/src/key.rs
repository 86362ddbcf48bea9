//! The secret of a door: the stream key of RTMP, the passphrase of SRT.

use ring::rand::{SecureRandom, SystemRandom};

/// Shortest key that is taken: nobody guesses it.
pub const KEY_LEN_MIN: usize = 16;
/// Longest passphrase of SRT.
pub const KEY_LEN_MAX: usize = 79;
/// Random characters of a key that is made: 130 bits.
const MADE_LEN: usize = 26;
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A stream key. It is in no log: `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl std::fmt::Debug for Key {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Key")
    }
}

/// What is no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a stream key has {KEY_LEN_MIN} to {KEY_LEN_MAX} letters, digits, '-' and '_'")]
pub struct KeyError;

impl Key {
    /// One that is given.
    pub fn new(text: &str) -> Result<Key, KeyError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_key = (KEY_LEN_MIN..=KEY_LEN_MAX).contains(&text.len()) && text.bytes().all(is_plain);
        if is_key { Ok(Key(text.to_owned())) } else { Err(KeyError) }
    }

    /// A random one; None if the system gives no randomness.
    pub fn random() -> Option<Key> {
        let mut bytes = [0; MADE_LEN];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Key(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()))
    }

    /// For who is to enter it in an encoder.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether somebody said this one. The time that it takes says nothing of the key but its length.
    #[allow(deprecated, reason = "`ring` has no other function for it; it is kept and constant in time")]
    pub(crate) fn is(&self, said: &str) -> bool {
        ring::constant_time::verify_slices_are_equal(self.0.as_bytes(), said.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_random_and_long_and_shown_to_nobody() {
        let (one, other) = (Key::random().unwrap(), Key::random().unwrap());
        assert!(one != other && Key::new(one.reveal()).is_ok());
        assert!(one.is(one.reveal()) && !one.is(other.reveal()) && !one.is("") && !one.is(&one.reveal()[1..]));
        assert_eq!(format!("{one:?}"), "Key");
        for text in ["short", "with a space in it", "0123456789012345%", &"x".repeat(80)] {
            assert_eq!(Key::new(text), Err(KeyError), "{text}");
        }
    }
}
