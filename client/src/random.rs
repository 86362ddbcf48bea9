//! Randomness of a client: from the kernel, or from a seed, which gives the same call again.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A cryptographically strong generator (ChaCha).
#[derive(Debug)]
pub struct Random(StdRng);

impl Random {
    /// One that nobody can predict.
    pub fn from_system() -> Random {
        Random(rand::make_rng())
    }

    /// The one of this seed: for simulations and tests alone.
    pub fn from_seed(seed: u64) -> Random {
        Random(StdRng::seed_from_u64(seed))
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// An SSRC (RFC 3550 §8.1).
    pub fn ssrc(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// A first sequence number, below 2^15 as RFC 3711 §3.3.1 advises, so that the first packets are not lost around the
    /// wrap.
    pub fn first_seq(&mut self) -> u16 {
        (self.0.next_u32() >> 17) as u16
    }

    /// A generator of its own for a part of the client. Seeded by this one.
    pub fn fork(&mut self) -> Random {
        Random(StdRng::from_seed(self.bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_the_system_does_not() {
        let numbers = |mut random: Random| (random.bytes::<16>(), random.u64(), random.fork().ssrc());
        assert_eq!(numbers(Random::from_seed(7)), numbers(Random::from_seed(7)));
        assert_ne!(numbers(Random::from_seed(7)), numbers(Random::from_seed(8)));
        assert_ne!(numbers(Random::from_system()), numbers(Random::from_system()));
        assert!((0..100).all(|seed| Random::from_seed(seed).first_seq() < 1 << 15));
    }
}
