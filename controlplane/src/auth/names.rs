//! How rooms and participants may be named.

/// Longest room name, bytes.
pub const ROOM_LEN_MAX: usize = 64;

/// Longest name of a participant, characters.
pub const NAME_LEN_MAX: usize = 64;

/// The room claim that is good for every room.
pub const ANY_ROOM: &str = "*";

/// The name claim under which its bearer may publish by WHIP as anybody.
pub const ANY_NAME: &str = "*";

/// Whether `room` can be the name of a room: 1 to 64 of `[A-Za-z0-9._-]`.
pub fn is_room_name(room: &str) -> bool {
    (1..=ROOM_LEN_MAX).contains(&room.len())
        && room.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Characters that no name has, because people do not see them, or see others in another place: control characters (Cc), line and
/// paragraph separators, what directs bidirectional text (Bidi_Control), and what is not displayed
/// (Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties: zero-width characters, joiners, variation selectors, fillers,
/// tags). RFC 8264 disallows them too (sections 9.11 to 9.13), the joiners outside some scripts only.
const HIDDEN: &[(char, char)] = &[
    ('\0', '\u{1f}'),
    ('\u{7f}', '\u{9f}'),
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// What a name looks like as a regular expression (ECMA-262), for the document of the REST interface: no hidden character, and one
/// at least that is seen.
pub const NAME_PATTERN: &str = "^(?![\\s\u{2800}]*$)[^\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f-\\u1160\\u17b4-\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]+$";

/// What is wrong with a name that is none, for people who read a refusal.
pub const NAME_RULE: &str = "1 to 64 characters, none of them a control, bidirectional or zero-width character";

/// Whether a character can be in a name.
pub fn is_name_char(char: char) -> bool {
    !HIDDEN.iter().any(|&(first, last)| (first..=last).contains(&char))
}

/// Whether `name` can be shown to others: 1 to 64 characters that people see, and no blank alone.
pub fn is_participant_name(name: &str) -> bool {
    let is_blank = |char: char| char.is_whitespace() || char == '\u{2800}'; // BRAILLE PATTERN BLANK
    (1..=NAME_LEN_MAX).contains(&name.chars().count()) && name.chars().all(is_name_char) && !name.chars().all(is_blank)
}

/// What two names have in common that people take for the same: the skeleton of UTS #39 section 4, without regard to case and to
/// the number of blanks.
pub fn skeleton(name: &str) -> String {
    let skeleton: String = unicode_security::skeleton(name).collect();
    let words: Vec<String> = skeleton.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_hidden_characters() {
        for name in [
            "Ada",
            "Ada Lovelace",
            "José",
            "Ada \u{2764}",
            "\u{5d3}\u{5e0}\u{5d4}",
            "\u{639}\u{644}\u{64a}",
            "李",
            "👩",
        ] {
            assert!(is_participant_name(name), "{name:?}");
        }
        for hidden in [
            '\n',
            '\u{7f}',
            '\u{85}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{202e}',
            '\u{2028}',
            '\u{2066}',
            '\u{2069}',
            '\u{2060}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            assert!(!is_participant_name(&format!("A{hidden}da")), "{hidden:?}");
        }
        for blank in ["", " ", "\u{a0}\u{3000}", "\u{2800}", " \u{2800} "] {
            assert!(!is_participant_name(blank), "{blank:?}");
        }
        assert!(is_participant_name(&"x".repeat(64)) && !is_participant_name(&"x".repeat(65)));
    }

    #[test]
    fn the_pattern_has_the_same_characters() {
        let hex = |char: char| {
            let code = u32::from(char);
            if code < 0x1_0000 { format!("\\u{code:04x}") } else { char.to_string() }
        };
        let range = |&(first, last): &(char, char)| match first == last {
            true => hex(first),
            false => format!("{}-{}", hex(first), hex(last)),
        };
        let class: String = HIDDEN.iter().map(range).collect();
        assert_eq!(NAME_PATTERN, format!("^(?![\\s\u{2800}]*$)[^{class}]+$"));
    }

    #[test]
    fn names_that_look_alike_have_one_skeleton() {
        for (one, other) in [
            ("Ada", "\u{410}d\u{430}"), // Cyrillic A, a
            ("Alice", "AIice"),
            ("Bill", "Bi11"),
            ("Ada", "ada"),
            ("Ada Lovelace", " Ada  Lovelace"),
            ("Tom", "Torn"),
            ("José", "Jose\u{301}"),
            ("Max", "\u{1d40c}ax"),
        ] {
            assert_eq!(skeleton(one), skeleton(other), "{one} {other}");
        }
        assert_ne!(skeleton("Ada"), skeleton("Eda"));
        assert_ne!(skeleton("Ada"), skeleton("Ada L"));
    }
}
