//! What an m-section offers, for the text of a refusal: the names of its codecs, those that uprtc does not know too.

/// Names that are told, at most. A browser offers about five.
const NAMES_MAX: usize = 8;

/// Longest name that is told; the longest registered one that clients send has 15 bytes (`telephone-event`).
const NAME_LEN_MAX: usize = 16;

/// What goes along with a codec and is none.
const COMPANIONS: &[&str] = &["rtx", "red", "ulpfec", "flexfec-03", "CN", "telephone-event"];

/// The names in the `rtpmap` lines of an m-section, in their order, each once. They are peer input: only names of
/// plain characters are told.
pub fn codec_names(sdp: &str, section: usize) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    let mut sections = 0;
    for line in sdp.lines() {
        sections += usize::from(line.starts_with("m="));
        let Some(map) = line.strip_prefix("a=rtpmap:").filter(|_| sections == section + 1) else { continue };
        let Some(name) = map.split_once(' ').and_then(|(_, encoding)| encoding.split('/').next()) else { continue };
        let is_plain = (1..=NAME_LEN_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        let is_known = |known: &&str| known.eq_ignore_ascii_case(name);
        if is_plain && !COMPANIONS.iter().any(is_known) && !names.iter().any(is_known) && names.len() < NAMES_MAX {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_of_one_section_are_named_once_and_their_companions_are_not() {
        let sdp = "v=0\r\nm=audio 9 x 111\r\na=rtpmap:111 opus/48000/2\r\nm=video 9 x 45 46 47 48\r\n\
                   a=rtpmap:45 AV1/90000\r\na=rtpmap:46 rtx/90000\r\na=rtpmap:47 av1/90000\r\n\
                   a=rtpmap:48 <b>/90000\r\na=rtpmap:49 H265/90000\r\n";
        assert_eq!(codec_names(sdp, 0), ["opus"]);
        assert_eq!(codec_names(sdp, 1), ["AV1", "H265"]);
        assert!(codec_names(sdp, 2).is_empty());
        let many: String = (0..100).map(|n| format!("a=rtpmap:{n} C{n}/90000\r\n")).collect();
        assert_eq!(codec_names(&format!("m=video\r\n{many}"), 0).len(), NAMES_MAX);
    }
}
