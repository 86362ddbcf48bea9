//! Parameter sets of H.264 in SDP (`sprop-parameter-sets`, RFC 6184 §8.1): NAL units in Base64 (RFC 4648 §4), with commas
//! between them. An encoder that tells them here need not send them in the stream (§8.2.2).

use proto::plane::{STREAM_SETS_PART_LEN, STREAM_SETS_PARTS_MAX};

/// Bytes of all sets, each with one byte for its length: what the worker is told.
const SETS_LEN_MAX: usize = STREAM_SETS_PART_LEN * STREAM_SETS_PARTS_MAX;

/// The sequence and picture parameter sets. None of them if one is broken or all together are too long: half of them would
/// be of no use.
pub(super) fn parameter_sets(value: &str) -> Vec<Vec<u8>> {
    let mut sets = Vec::new();
    let mut len = 0;
    for text in value.split(',') {
        let Some(unit) = decode(text.trim(), SETS_LEN_MAX) else { return Vec::new() };
        // 7 and 8 (RFC 6184 §5.4, ISO/IEC 14496-10 table 7-1). Others may stand there, and nobody needs them.
        if !unit.first().is_some_and(|byte| matches!(byte & 0x1f, 7 | 8) && byte & 0x80 == 0) {
            continue;
        }
        len += 1 + unit.len();
        if len > SETS_LEN_MAX || unit.len() > usize::from(u8::MAX) {
            return Vec::new();
        }
        sets.push(unit);
    }
    sets
}

/// Base64 with or without its padding; `None` if it is none, or longer than `max` bytes.
fn decode(text: &str, max: usize) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    if text.len() % 4 == 1 || text.len() * 3 / 4 > max {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sets_are_read_as_encoders_write_them() {
        let sets = parameter_sets("Z0LADNoFAmgIgAAAAwCAAAAeB4oVUA==,aM4PyA==");
        assert_eq!(sets.len(), 2);
        assert_eq!((sets[0][0], sets[0].len()), (0x67, 22));
        assert_eq!(sets[1], [0x68, 0xce, 0x0f, 0xc8]);
        assert_eq!(parameter_sets("aM4PyA"), [[0x68, 0xce, 0x0f, 0xc8]], "without padding");
        assert_eq!(parameter_sets("BkM=,aM4PyA=="), [[0x68, 0xce, 0x0f, 0xc8]], "SEI is left out");
        for broken in ["", ",", "Z0LADNo!", "Z", "aM4PyA==,Z", "=", "6M4PyA=="] {
            assert!(parameter_sets(broken).is_empty(), "{broken:?}");
        }
        let long = "Z0JC".repeat(66);
        assert!(parameter_sets(&long).is_empty(), "198 bytes");
        assert!(!parameter_sets(&long[..236]).is_empty(), "177 bytes");
    }

    proptest! {
        #[test]
        fn any_text_is_sets_within_their_length(text in "[A-Za-z0-9+/=, ]{0,600}") {
            let sets = parameter_sets(&text);
            prop_assert!(sets.iter().map(|set| set.len() + 1).sum::<usize>() <= SETS_LEN_MAX);
            prop_assert!(sets.iter().all(|set| matches!(set[0], 0x07 | 0x08 | 0x27 | 0x28 | 0x47 | 0x48 | 0x67 | 0x68)));
        }
    }
}
