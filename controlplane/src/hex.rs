//! Bytes as hexadecimal digits, and back: keys, sessions, hashes.

/// Lower-case hexadecimal.
pub(crate) fn write(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// Reads exactly as many digits as fill `out`, of either case. `None`, and `out` is partly written, if they are not.
pub(crate) fn read(text: &str, out: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != 2 * out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_written_and_read() {
        assert_eq!(write(&[0x0f, 0xa0]), "0fa0");
        let mut bytes = [0; 2];
        assert_eq!((read("0fA0", &mut bytes), bytes), (Some(()), [0x0f, 0xa0]));
        for text in ["0fa", "0fa00", "0fag", "é0a", ""] {
            assert_eq!(read(text, &mut bytes), None, "{text}");
        }
    }
}
