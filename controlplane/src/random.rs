//! All randomness of the engine, from one seed: session secrets, ICE credentials, SSRCs, first sequence numbers.
//!
//! The engine is sans-IO, so that a run can be repeated: its driver reads the seed once from the kernel, a
//! simulator names one. The stream is HMAC-SHA-256 of a counter under the seed, a pseudorandom function in
//! counter mode (NIST SP 800-108), so nothing that was drawn tells anything about what else is drawn.

use ring::hmac;

/// A cryptographic generator.
pub(crate) struct Random {
    key: hmac::Key,
    counter: u64,
}

impl Random {
    /// A generator whose output is as secret as the seed.
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, seed), counter: 0 }
    }

    /// Fresh random bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for chunk in out.chunks_mut(32) {
            let block = hmac::sign(&self.key, &self.counter.to_le_bytes());
            chunk.copy_from_slice(&block.as_ref()[..chunk.len()]);
            self.counter += 1;
        }
        out
    }

    /// A random number.
    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
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
        hex(&self.bytes::<N>())
    }
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from_digit(n.into(), 16).expect("a nibble")).collect()
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
        assert_eq!(hex(&[0x0f, 0xa0]), "0fa0");
        assert_eq!(a.hex::<16>().len(), 32);
    }
}
