//! All randomness of the engine, from one seed: session secrets, ICE credentials, SSRCs, first sequence numbers.
//!
//! The engine is sans-IO, so that a run can be repeated: its driver reads the seed once from the kernel, a
//! simulator names one. The stream is that of ChaCha20 under the seed (docs/decisions/0032-random-numbers.md), so nothing
//! that was drawn tells anything about what else is drawn.

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng, SeedableRng};

use crate::hex;

/// A cryptographic generator.
pub(crate) struct Random(ChaCha20Rng);

impl Random {
    /// A generator whose output is as secret as the seed.
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(*seed))
    }

    /// Fresh random bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.0.fill_bytes(&mut out);
        out
    }

    /// A random number.
    pub(crate) fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A random number that is not 0, which means "none" in ids and SSRCs.
    pub(crate) fn nonzero_u32(&mut self) -> u32 {
        loop {
            let value = self.u32();
            if value != 0 {
                return value;
            }
        }
    }

    /// `2 × N` hexadecimal digits.
    pub(crate) fn hex<const N: usize>(&mut self) -> String {
        hex::write(&self.bytes::<N>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_stream_that_does_not_repeat() {
        let (mut a, mut b, mut c) = (Random::new(&[1; 32]), Random::new(&[1; 32]), Random::new(&[2; 32]));
        let first: [u8; 80] = a.bytes();
        assert_eq!(first, b.bytes());
        assert_ne!(first, c.bytes());
        assert_ne!(first, a.bytes());
        assert_eq!(a.hex::<16>().len(), 32);
    }
}
