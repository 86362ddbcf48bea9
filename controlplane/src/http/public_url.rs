//! The address under which clients reach this server, as the operator says it (setting `public-url`): with a scheme, a
//! host, perhaps a port, and perhaps the path prefix of a proxy. Links are made of it, and addresses that answers name.

use std::fmt;

use axum::http::Uri;
use axum::http::uri::Scheme;

/// Longest text, bytes. A DNS name has at most 253, and a prefix of more path than this is a mistake.
const LEN_MAX: usize = 512;

/// `https://call.example:8443/prefix`: no query, no fragment, no user, and no `/` at its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicUrl {
    text: String,
    host: String,
    port: u16,
    is_secure: bool,
    /// Bytes of `text` before the path.
    origin_len: usize,
}

impl PublicUrl {
    /// Reads one; `None` if the text is none. Scheme and host become lower case, a `/` at the end is left away.
    pub fn parse(text: &str) -> Option<PublicUrl> {
        let is_written =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'?' | b'#');
        if text.len() > LEN_MAX || !text.bytes().all(is_written) {
            return None;
        }
        let uri: Uri = text.parse().ok()?;
        let is_secure = match uri.scheme()? {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().to_ascii_lowercase();
        if host.is_empty() || authority.as_str().contains('@') {
            return None;
        }
        // A port that is written and is none (0 or above 65535) must not become the default one.
        let written = authority.as_str().strip_prefix(authority.host())?.strip_prefix(':');
        let port = match written {
            None => {
                if is_secure {
                    443
                } else {
                    80
                }
            }
            Some(port) => port.parse().ok().filter(|&port: &u16| port > 0)?,
        };
        let origin = match (written, is_secure) {
            (None, true) | (Some("443"), true) => format!("https://{host}"),
            (None, false) | (Some("80"), false) => format!("http://{host}"),
            (Some(_), true) => format!("https://{host}:{port}"),
            (Some(_), false) => format!("http://{host}:{port}"),
        };
        let prefix = uri.path().trim_end_matches('/');
        Some(PublicUrl {
            origin_len: origin.len(),
            text: origin + prefix,
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            is_secure,
        })
    }

    /// The whole, without a `/` at its end: a path that begins with `/` is appended to it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `scheme://host[:port]`, as browsers send it in `Origin`.
    pub fn origin(&self) -> &str {
        &self.text[..self.origin_len]
    }

    /// The path prefix: empty, or with a `/` at its begin and none at its end.
    pub fn prefix(&self) -> &str {
        &self.text[self.origin_len..]
    }

    /// The name or address in it, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where it is the scheme's own.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is `https`.
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_taken_apart() {
        let parts = |text: &str| {
            let url = PublicUrl::parse(text).unwrap_or_else(|| panic!("{text}"));
            (url.to_string(), url.origin().to_owned(), url.prefix().to_owned(), url.host().to_owned(), url.port())
        };
        let is = |url: &str, origin: &str, prefix: &str, host: &str, port: u16| {
            (url.to_owned(), origin.to_owned(), prefix.to_owned(), host.to_owned(), port)
        };
        let call = "https://call.example";
        assert_eq!(parts("https://call.example"), is(call, call, "", "call.example", 443));
        assert_eq!(parts("HTTPS://Call.Example:443/"), is(call, call, "", "call.example", 443));
        assert_eq!(
            parts("https://call.example:8443/a/B/"),
            is("https://call.example:8443/a/B", "https://call.example:8443", "/a/B", "call.example", 8443)
        );
        assert_eq!(
            parts("http://[2001:db8::1]:80"),
            is("http://[2001:db8::1]", "http://[2001:db8::1]", "", "2001:db8::1", 80)
        );
        assert!(!PublicUrl::parse("http://localhost:8080").unwrap().is_secure());
    }

    #[test]
    fn what_is_no_public_url_is_refused() {
        for text in [
            "",
            "call.example",
            "/prefix",
            "wss://call.example",
            "https://",
            "https://user@call.example",
            "https://call.example?room=x",
            "https://call.example/#x",
            "https://call.example:0",
            "https://call.example:99999",
            "https://call.example:",
            "https://call example",
            "https://call.example/\"x",
        ] {
            assert_eq!(PublicUrl::parse(text), None, "{text}");
        }
    }
}
