//! Leaf: transaction ids of our own STUN requests (RFC 8489 §5).
//!
//! Whoever could guess one could answer in the name of an address that he does not have, so they are the keystream of AES-128
//! under a secret that the worker was given at its start: the core stays without a source of randomness of its own.

use aes::Aes128Enc;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use proto::stun::TransactionId;

/// Names the use of the secret, so that no other one has this keystream.
const USE: &[u8; 16] = b"transaction ids\0";

/// Ids that nobody can guess, and no two of which are the same but by chance.
pub(crate) struct TransactionIds(Ctr128BE<Aes128Enc>);

impl TransactionIds {
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        TransactionIds(Ctr128BE::new(&secret.into(), USE.into()))
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.apply_keystream(&mut bytes);
        bytes
    }

    /// The next id.
    pub(crate) fn next(&mut self) -> TransactionId {
        TransactionId(self.bytes())
    }

    /// A random number.
    pub(crate) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_follow_from_the_secret_alone_and_differ() {
        let (mut ours, mut same, mut other) =
            (TransactionIds::new([7; 16]), TransactionIds::new([7; 16]), TransactionIds::new([8; 16]));
        let first = ours.next();
        assert_eq!(same.next(), first);
        assert_ne!(other.next(), first);
        assert_ne!(ours.next(), first);
        assert_ne!(ours.number(), ours.number());
    }
}
