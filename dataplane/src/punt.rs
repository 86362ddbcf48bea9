//! Leaf: what may go up to the controlplane.

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

/// Whether a DTLS record may be application data: of type 23, or one of DTLS 1.3 whose type is encrypted (RFC 9147 §4).
pub(crate) fn is_application_data(record: &[u8]) -> bool {
    matches!(record, [23 | 32..=63, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

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
