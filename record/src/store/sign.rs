//! AWS Signature Version 4, as S3 and the stores that speak like it want it. No clock, no sockets: the caller tells the time.

use std::fmt;

use ring::{digest, hmac};

/// With what requests are signed.
#[derive(Clone)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`
    pub key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`
    pub secret: String,
    /// `AWS_SESSION_TOKEN`, of temporary credentials.
    pub session: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Credentials").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// What is signed of a request. All of it must go out as it is here.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// `PUT` …
    pub method: &'a str,
    /// With [`encode`]d parts.
    pub path: &'a str,
    /// As [`query`] makes it.
    pub query: &'a str,
    /// Names in lower case, in their order; `host`, `x-amz-content-sha256` and `x-amz-date` must be there.
    pub headers: &'a [(&'a str, &'a str)],
    /// [`sha256`] of the body.
    pub body: &'a str,
}

/// The value of the header `authorization`. `time` is that of `x-amz-date`.
pub fn authorization(credentials: &Credentials, region: &str, time: &str, signed: &Signed<'_>) -> String {
    let names: Vec<&str> = signed.headers.iter().map(|(name, _)| *name).collect();
    let (names, date) = (names.join(";"), time.get(..8).unwrap_or(time));
    let headers: String = signed.headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let Signed { method, path, query, body, .. } = signed;
    let request = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{body}");
    let scope = format!("{date}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(request.as_bytes()));
    let step =
        |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec();
    let key = step(format!("AWS4{}", credentials.secret).as_bytes(), date);
    let key = [region, "s3", "aws4_request"].iter().fold(key, |key, part| step(&key, part));
    let signature = hex(&step(&key, &text));
    let id = &credentials.key_id;
    format!("AWS4-HMAC-SHA256 Credential={id}/{scope},SignedHeaders={names},Signature={signature}")
}

/// In hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As a URI has it (RFC 3986 §2.1), each byte but the unreserved ones; `is_kept` are kept as well.
pub fn encode(text: &str, is_kept: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-._~".contains(char) || is_kept.contains(char);
    let one = |byte: &u8| match char::from(*byte) {
        char if byte.is_ascii() && is_plain(char) => char.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.as_bytes().iter().map(one).collect()
}

/// A query, in the order of its names.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut pairs: Vec<_> = pairs.iter().map(|(name, value)| (encode(name, ""), encode(value, ""))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the Amazon S3 API Reference, "Signature Calculations for the Authorization Header".
    fn signature(method: &str, path: &str, query: &str, more: &[(&str, &str)], body: &[u8]) -> String {
        let credentials = Credentials {
            key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session: None,
        };
        let (time, body) = ("20130524T000000Z", sha256(body));
        let host = ("host", "examplebucket.s3.amazonaws.com");
        let mut headers = vec![host, ("x-amz-content-sha256", body.as_str()), ("x-amz-date", time)];
        headers.extend(more);
        headers.sort_unstable();
        let signed = Signed { method, path, query, headers: &headers, body: &body };
        let value = authorization(&credentials, "us-east-1", time, &signed);
        assert!(value.contains("Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"), "{value}");
        value.split_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn requests_are_signed_as_amazon_says() {
        let range = [("range", "bytes=0-9")];
        assert_eq!(
            signature("GET", "/test.txt", "", &range, b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let more = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        let path = format!("/{}", encode("test$file.text", "/"));
        assert_eq!(
            signature("PUT", &path, "", &more, b"Welcome to Amazon S3."),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            signature("GET", "/", &query(&[("prefix", "J"), ("max-keys", "2")]), &[], b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        assert_eq!(
            signature("GET", "/", &query(&[("lifecycle", "")]), &[], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
    }

    #[test]
    fn everything_that_is_no_letter_is_encoded() {
        assert_eq!(encode("a/b c+ä~", "/"), "a/b%20c%2B%C3%A4~");
        assert_eq!(encode("a/b", ""), "a%2Fb");
    }
}
