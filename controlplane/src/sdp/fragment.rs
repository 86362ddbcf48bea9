//! The SDP fragment by which candidates trickle over HTTP (`application/trickle-ice-sdpfrag`, RFC 8840 §9).
//!
//! It is read as far as an ICE-lite agent can use it: credentials, and the name of the m-section to answer in. The candidates
//! and the rest of SDP may stand in it and are passed over, whatever is in them.

use std::fmt::Write;

use proto::id::Mid;

use super::parse::{ice_text, lines_of, split_line};
use super::{IceCredentials, SDP_LEN_MAX, SdpError};

/// What a client tells of its side of an ICE session.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fragment {
    /// The client's credentials, if both stand in it.
    pub ice: Option<IceCredentials>,
    /// The first m-section named, or none.
    pub mid: Mid,
}

/// Reads a fragment.
pub fn parse_fragment(text: &str) -> Result<Fragment, SdpError> {
    if text.len() > SDP_LEN_MAX {
        return Err(SdpError::TooLong { len: text.len() });
    }
    let mut fragment = Fragment::default();
    let (mut ufrag, mut pwd) = (None, None);
    for (line, text) in lines_of(text) {
        let (b'a', attribute) = split_line(line, text)? else { continue };
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        match name {
            "ice-ufrag" => ufrag = ice_text(value).or(ufrag),
            "ice-pwd" => pwd = ice_text(value).or(pwd),
            "mid" if fragment.mid.is_empty() => fragment.mid = Mid::parse(value.as_bytes()).unwrap_or_default(),
            _ => {}
        }
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
        assert_eq!(fragment.mid.as_str(), "0");
        let ice = fragment.ice.clone().unwrap();
        let ours = write_fragment(&ice, &fragment.mid, &["candidate:1 1 udp 1 192.0.2.1 1 typ host".to_owned()]);
        assert_eq!(parse_fragment(&ours), Ok(fragment));
        assert!(write_fragment(&ice, &Mid::NONE, &[]).lines().all(|line| line.starts_with("a=")));
    }

    /// What we have no use for does no harm, line by line.
    #[test]
    fn odd_lines_are_passed_over() {
        let ice = "a=ice-ufrag:ysXw\r\na=ice-pwd:vw5LmwG4y/e6dPP/zAP9Gp5k\r\n";
        let long = format!("a=candidate:1 1 udp 1 192.0.2.1 1 typ host {}", "x".repeat(9_000));
        for odd in [
            "a=candidate:1 1 udp 1 fe80::1%eth0 9 typ host",
            "a=candidate:a_b 257 sctp -1 nobody.local 99999 typ pigeon raddr",
            "a=candidate:",
            "a=mid:much-longer-than-a-mid-may-be-in-a-header-extension",
            "a=mid:",
            "a=ice-ufrag:",
            "m=audio x",
            "a=\u{7}",
            "",
            &long,
        ] {
            for end in ["\r\n", "\n", "\r"] {
                let text = format!("\r\n{ice}{odd}{end}{end}a=end-of-candidates{end}");
                let fragment = parse_fragment(&text).unwrap_or_else(|error| panic!("{odd}: {error}"));
                assert_eq!(fragment.ice.map(|ice| ice.ufrag).as_deref(), Some("ysXw"), "{odd}");
                assert!(fragment.mid.is_empty());
            }
        }
    }

    #[test]
    fn what_is_no_fragment_is_refused_with_its_line() {
        assert_eq!(parse_fragment("a=mid:0\r\nnonsense"), Err(SdpError::BadLine { line: 2 }));
        assert_eq!(parse_fragment(r#"{"candidate":"candidate:1"}"#), Err(SdpError::BadLine { line: 1 }));
        assert_eq!(parse_fragment(""), Ok(Fragment::default()));
        assert!(matches!(parse_fragment(&"a".repeat(SDP_LEN_MAX + 1)), Err(SdpError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn no_text_confuses_it(lines in prop::collection::vec("(a=)?(mid|ice-ufrag|ice-pwd|candidate|end-of-candidates)?:?\\PC{0,40}", 0..8)) {
            let _ = parse_fragment(&lines.join("\r\n"));
        }
    }
}
