//! What goes up to the controlplane is bounded by token buckets: one for each peer, one for the worker.

use crate::config::{Micros, SECOND};

/// A token bucket: `burst` at once, then `rate` a second.
#[derive(Clone, Copy)]
pub(crate) struct Bucket {
    tokens: u32,
    burst: u32,
    rate: u32,
    refilled: Micros,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(burst: u32, rate: u32, now: Micros) -> Self {
        Bucket { tokens: burst, burst, rate, refilled: now }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Micros) -> bool {
        let interval = SECOND / Micros::from(self.rate);
        let earned = now.saturating_sub(self.refilled) / interval;
        if earned > 0 {
            self.tokens = u32::try_from(u64::from(self.tokens) + earned).unwrap_or(u32::MAX).min(self.burst);
            self.refilled += earned * interval;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

/// Whether the bytes begin with a DTLS record: a content type of RFC 9147 §4.1, a length that fits, and for
/// plaintext records (types 20 to 23) a version of DTLS.
pub(crate) fn is_dtls_record(datagram: &[u8]) -> bool {
    match datagram {
        [20..=26, 0xfe, 0xff | 0xfd | 0xfc, rest @ ..] if rest.len() >= 10 => {
            usize::from(u16::from_be_bytes([rest[8], rest[9]])) <= rest.len() - 10
        }
        // DTLS 1.3 unified header: 001CSLEE.
        [32..=63, rest @ ..] => rest.len() >= 2,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate() {
        let mut bucket = Bucket::new(3, 10, 0);
        assert_eq!((0..5).filter(|_| bucket.take(0)).count(), 3);
        assert!(!bucket.take(99_999));
        assert!(bucket.take(100_000));
        assert!(!bucket.take(100_001));
        assert_eq!((0..50).filter(|_| bucket.take(60 * SECOND)).count(), 3, "never more than the burst");
    }

    #[test]
    fn a_dtls_record_has_a_version_and_a_length_that_fits() {
        let mut hello = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9];
        assert!(is_dtls_record(&hello));
        hello.pop();
        assert!(!is_dtls_record(&hello), "cut short");
        assert!(!is_dtls_record(&[22, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "TLS, not DTLS");
        assert!(is_dtls_record(&[0b0010_1110, 1, 2, 3]));
        assert!(!is_dtls_record(&[]));
    }
}
