//! Digest authentication of our requests (RFC 2617, RFC 8760 for SHA-256): a challenge becomes the header field that answers it.

use md5::{Digest as _, Md5};
use ring::digest::{SHA256, digest};

/// A user of the trunk.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    fn hex(self, text: &str) -> String {
        let bytes = match self {
            Algorithm::Md5 => Md5::digest(text.as_bytes()).to_vec(),
            Algorithm::Sha256 => digest(&SHA256, text.as_bytes()).as_ref().to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A parameter of a challenge: `name=value` or `name="value"`, between commas.
fn field(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge.trim().strip_prefix("Digest").or_else(|| challenge.trim().strip_prefix("digest"))?;
    while !rest.is_empty() {
        let (own, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, behind) = match after.strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                (&quoted[..end], &quoted[end + 1..])
            }
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        if own.trim_matches([' ', ',', '\t']).eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = behind;
    }
    None
}

/// The value of `Authorization` or `Proxy-Authorization`; None for a challenge that we cannot answer.
pub(crate) fn answer(
    challenge: &str,
    credentials: &Credentials,
    method: &str,
    uri: &str,
    cnonce: &str,
) -> Option<String> {
    let (realm, nonce) = (field(challenge, "realm")?, field(challenge, "nonce")?);
    let name = field(challenge, "algorithm").unwrap_or_else(|| "MD5".to_owned());
    let algorithm = match name.to_ascii_uppercase().as_str() {
        "MD5" => Algorithm::Md5,
        "SHA-256" => Algorithm::Sha256,
        _ => return None,
    };
    let ha1 = algorithm.hex(&format!("{}:{realm}:{}", credentials.user, credentials.password));
    let ha2 = algorithm.hex(&format!("{method}:{uri}"));
    let qop = field(challenge, "qop");
    let has_auth = qop.as_deref().is_some_and(|qop| qop.split(',').any(|one| one.trim() == "auth"));
    let mut value =
        format!("Digest username=\"{}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\"", credentials.user);
    let response = match (qop, has_auth) {
        (None, _) => algorithm.hex(&format!("{ha1}:{nonce}:{ha2}")),
        (Some(_), false) => return None,
        (Some(_), true) => {
            value.push_str(&format!(", qop=auth, nc=00000001, cnonce=\"{cnonce}\""));
            algorithm.hex(&format!("{ha1}:{nonce}:00000001:{cnonce}:auth:{ha2}"))
        }
    };
    value.push_str(&format!(", response=\"{response}\", algorithm={name}"));
    if let Some(opaque) = field(challenge, "opaque") {
        value.push_str(&format!(", opaque=\"{opaque}\""));
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2617 §3.5.
    #[test]
    fn the_example_of_the_rfc() {
        let challenge = "Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", \
            nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", opaque=\"5ccc069c403ebaf9f0171e9517f40e41\"";
        let credentials = Credentials { user: "Mufasa".into(), password: "Circle Of Life".into() };
        let value = answer(challenge, &credentials, "GET", "/dir/index.html", "0a4f113b").unwrap();
        assert!(value.contains("response=\"6629fae49393a05397450978507c4ef1\""), "{value}");
        assert!(value.contains("opaque=\"5ccc069c403ebaf9f0171e9517f40e41\""), "{value}");
    }

    #[test]
    fn what_cannot_be_answered_is_not() {
        let credentials = Credentials { user: "a".into(), password: "b".into() };
        for challenge in [
            "Basic realm=\"x\"",
            "Digest realm=\"x\"",
            "Digest realm=\"x\", nonce=\"y\", algorithm=MD5-sess",
            "Digest realm=\"x\", nonce=\"y\", qop=\"auth-int\"",
            "Digest realm=\"x",
        ] {
            assert_eq!(answer(challenge, &credentials, "INVITE", "sip:a", "c"), None, "{challenge}");
        }
    }
}
