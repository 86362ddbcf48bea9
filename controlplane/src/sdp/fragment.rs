//! The SDP fragment by which candidates trickle over HTTP (`application/trickle-ice-sdpfrag`, RFC 8840 §9).
//!
//! It is read as far as an ICE-lite agent can use it: credentials, the m-section that the candidates are of, and the
//! candidates. The rest of SDP may stand in it and is passed over.

use std::fmt::Write;

use proto::id::Mid;

use super::parse::ice_chars;
use super::{CANDIDATES_MAX, IceCredentials, LINE_LEN_MAX, SDP_LEN_MAX, SdpError};

/// What a client tells of its side of an ICE session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fragment {
    /// The client's credentials, if both stand in it.
    pub ice: Option<IceCredentials>,
    /// The first m-section named, or none.
    pub mid: Mid,
    /// The candidates, `candidate:…`, not looked at here; `end-of-candidates` last if it stands there.
    pub candidates: Vec<String>,
}

/// Reads a fragment.
pub fn parse_fragment(text: &str) -> Result<Fragment, SdpError> {
    if text.len() > SDP_LEN_MAX {
        return Err(SdpError::TooLong { len: text.len() });
    }
    let mut fragment = Fragment::default();
    let (mut ufrag, mut pwd, mut has_ended) = (None, None, false);
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            continue; // Clients end the body by an empty line.
        }
        if text.len() > LINE_LEN_MAX || text.chars().any(char::is_control) || text.as_bytes().get(1) != Some(&b'=') {
            return Err(SdpError::BadLine { line });
        }
        let Some(attribute) = text.strip_prefix("a=") else { continue };
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let bad = |what| SdpError::BadValue { line, what };
        match name {
            "ice-ufrag" => ufrag = Some(ice_chars(value, 4).ok_or(bad("a=ice-ufrag"))?),
            "ice-pwd" => pwd = Some(ice_chars(value, 22).ok_or(bad("a=ice-pwd"))?),
            "mid" if fragment.mid.is_empty() => {
                fragment.mid = Mid::parse(value.as_bytes()).filter(|mid| !mid.is_empty()).ok_or(bad("a=mid"))?;
            }
            "candidate" if fragment.candidates.len() == CANDIDATES_MAX => {
                return Err(SdpError::TooMany { line, what: "candidates", max: CANDIDATES_MAX });
            }
            "candidate" => fragment.candidates.push(attribute.to_owned()),
            "end-of-candidates" => has_ended = true,
            _ => {}
        }
    }
    if has_ended {
        fragment.candidates.push("end-of-candidates".to_owned());
    }
    fragment.ice = ufrag.zip(pwd).map(|(ufrag, pwd)| IceCredentials { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() });
    Ok(fragment)
}

/// Writes our side of a restarted ICE session: credentials and all candidates, in the m-section that the client named.
pub fn write_fragment(ice: &IceCredentials, mid: &Mid, candidates: &[String]) -> String {
    let mut out = String::from("a=ice-lite\r\na=ice-options:trickle\r\n");
    let IceCredentials { ufrag, pwd } = ice;
    let mut write = || -> std::fmt::Result {
        if !mid.is_empty() {
            // The kind of the section does not matter, its name does (RFC 8840 §9: pseudo m-line).
            write!(out, "m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:{}\r\n", mid.as_str())?;
        }
        write!(out, "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\n")?;
        candidates.iter().try_for_each(|candidate| write!(out, "a={candidate}\r\n"))?;
        write!(out, "a=end-of-candidates\r\n")
    };
    write().expect("a String takes everything");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_restart_reads_and_reads_back() {
        let text = "a=ice-options:trickle ice2\r\na=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
            a=ice-ufrag:ysXw\r\na=ice-pwd:vw5LmwG4y/e6dPP/zAP9Gp5k\r\n\
            a=candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n\r\n";
        let fragment = parse_fragment(text).unwrap();
        assert_eq!((fragment.mid.as_str(), fragment.candidates.len()), ("0", 2));
        let ice = fragment.ice.clone().unwrap();
        let ours = write_fragment(&ice, &fragment.mid, &fragment.candidates[..1]);
        assert_eq!(parse_fragment(&ours), Ok(fragment));
        assert!(write_fragment(&ice, &Mid::NONE, &[]).lines().all(|line| line.starts_with("a=")));
    }

    #[test]
    fn what_is_no_fragment_is_refused_with_its_line() {
        assert_eq!(parse_fragment("a=mid:0\r\nnonsense"), Err(SdpError::BadLine { line: 2 }));
        assert_eq!(parse_fragment("a=ice-ufrag:x"), Err(SdpError::BadValue { line: 1, what: "a=ice-ufrag" }));
        assert_eq!(parse_fragment(""), Ok(Fragment::default()));
        let many = "a=candidate:1\r\n".repeat(CANDIDATES_MAX + 1);
        assert!(matches!(parse_fragment(&many), Err(SdpError::TooMany { .. })));
    }

    proptest! {
        #[test]
        fn no_text_confuses_it(lines in prop::collection::vec("(a=)?(mid|ice-ufrag|ice-pwd|candidate|end-of-candidates)?:?\\PC{0,40}", 0..8)) {
            if let Ok(fragment) = parse_fragment(&lines.join("\r\n")) {
                prop_assert!(fragment.candidates.len() <= CANDIDATES_MAX + 1);
            }
        }
    }
}
