//! A store that speaks as S3 does: what is put there, and what it says when it does not take it. How a recording's files get there
//! is in [`outbox`].

pub mod outbox;
#[cfg(test)]
mod rclone;
pub mod sign;

use std::io;
use std::path::Path;
use std::time::Duration;

use client::http::Server;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header;
use tokio::sync::Semaphore;

use crate::time::{compact, wall_micros};
pub use sign::Credentials;
use sign::{Signed, authorization, encode, query, sha256};

/// What is longer goes in parts of this length, so that a store that goes away costs one of them. A store takes 10,000 at most, which are
/// 80 GB, more than a day of a camera at 4 Mb/s.
const PART_LEN: u64 = 8 * 1024 * 1024;
/// How long a request may take: 0.5 Mb/s for a part.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a part is tried before the file begins anew.
const PART_TRIES: u32 = 5;
/// Between the first two tries of a part; it doubles.
const PART_WAIT: Duration = Duration::from_millis(500);
/// Files that are on their way at once; each has a part in memory.
const PUTS_MAX: usize = 4;
/// The object by which it is known at the start that the store takes what comes.
const PROBE: &str = ".uprtc-record";

/// Which store, and where in it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its HTTP is. What its paths begin with is in front of the bucket.
    pub server: Server,
    /// Whether the bucket is in the path and not in the host's name.
    pub is_path_style: bool,
    /// In which bucket.
    pub place: Place,
    /// For the signature.
    pub region: String,
    /// Of somebody who may `s3:PutObject` there.
    pub credentials: Credentials,
}

/// `s3://BUCKET/PREFIX`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The bucket.
    pub bucket: String,
    /// What all keys begin with, without a slash at either end.
    pub prefix: String,
}

impl Place {
    /// None if it is not of this form.
    pub fn parse(text: &str) -> Option<Place> {
        let rest = text.strip_prefix("s3://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_char = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        let is_bucket = (3..=255).contains(&bucket.len()) && bucket.chars().all(is_char);
        let prefix = prefix.trim_matches('/');
        // Stores tidy paths up, and a signature of an untidy one is wrong.
        let is_part = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(char::is_control);
        let is_prefix = prefix.is_empty() || prefix.split('/').all(is_part) && prefix.len() <= 512;
        (is_bucket && is_prefix).then(|| Place { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }

    /// The key of an object below the prefix.
    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "s3://{}", self.key_of_bucket())
    }
}

impl Place {
    fn key_of_bucket(&self) -> String {
        if self.prefix.is_empty() { self.bucket.clone() } else { format!("{}/{}", self.bucket, self.prefix) }
    }
}

/// Why a store did not take something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nobody answered, or not in HTTP.
    #[error("the store cannot be reached: {0}")]
    Unreachable(io::Error),
    /// The key, its secret, or what it may do.
    #[error("the store refuses the credentials ({code}): {message}")]
    Credentials {
        /// As the store names it.
        code: String,
        /// What it says.
        message: String,
    },
    /// The bucket.
    #[error("the store has no bucket {0}")]
    NoBucket(String),
    /// The bucket is elsewhere.
    #[error("the bucket is not in region {region} ({code}): AWS_REGION and AWS_ENDPOINT_URL say where")]
    Region {
        /// As it was asked.
        region: String,
        /// As the store names it.
        code: String,
    },
    /// The clocks differ by more than a quarter of an hour.
    #[error("the store's clock and this machine's differ: {0}")]
    Clock(String),
    /// Anything else.
    #[error("the store answers {status} ({code}): {message}")]
    Refused {
        /// Of HTTP.
        status: u16,
        /// As the store names it.
        code: String,
        /// What it says.
        message: String,
    },
    /// The file here.
    #[error("cannot read what is to be sent: {0}")]
    File(io::Error),
}

impl StoreError {
    /// Its stable name.
    pub fn name(&self) -> &'static str {
        match self {
            StoreError::Unreachable(_) => "store_unreachable",
            StoreError::Credentials { .. } => "store_credentials",
            StoreError::NoBucket(_) => "store_no_bucket",
            StoreError::Region { .. } => "store_region",
            StoreError::Clock(_) => "store_clock",
            StoreError::Refused { .. } => "store_refused",
            StoreError::File(_) => "file",
        }
    }

    fn of(status: u16, body: &str, settings: &Settings) -> StoreError {
        let code = between(body, "<Code>", "</Code>").unwrap_or_default().to_owned();
        let message = between(body, "<Message>", "</Message>").unwrap_or("no reason").to_owned();
        match (code.as_str(), status) {
            ("NoSuchBucket", _) => StoreError::NoBucket(settings.place.bucket.clone()),
            ("RequestTimeTooSkewed", _) => StoreError::Clock(message),
            ("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IncorrectEndpoint", _)
            | (_, 301 | 307) => StoreError::Region { region: settings.region.clone(), code },
            (_, 401 | 403) => StoreError::Credentials { code, message },
            _ => StoreError::Refused { status, code, message },
        }
    }

    /// Whether the same request may be taken a little later.
    fn is_passing(&self) -> bool {
        match self {
            StoreError::Unreachable(_) => true,
            StoreError::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            _ => false,
        }
    }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.split_once(end).map(|(value, _)| value)
}

/// What a store answers.
struct Answer {
    etag: String,
    body: String,
}

/// A store that has taken something already.
#[derive(Debug)]
pub struct Store {
    settings: Settings,
    places: Semaphore,
}

impl Store {
    /// Asks whether it takes what comes, by an object of a line below the prefix. It stays there.
    pub async fn open(settings: Settings) -> Result<Store, StoreError> {
        let store = Store { settings, places: Semaphore::new(PUTS_MAX) };
        let text = Bytes::from_static(b"uprtc record writes here\n");
        store.ask("PUT", &store.settings.place.key(PROBE), &[], text).await?;
        Ok(store)
    }

    /// Where in it.
    pub fn place(&self) -> &Place {
        &self.settings.place
    }

    /// Puts a file there, as the object `name` below the prefix.
    pub async fn put(&self, path: &Path, name: &str) -> Result<(), StoreError> {
        let _place = self.places.acquire().await;
        let key = self.settings.place.key(name);
        let len = std::fs::metadata(path).map_err(StoreError::File)?.len();
        if len <= PART_LEN {
            let body = read(path, 0, len).await?;
            return self.ask("PUT", &key, &[], body).await.map(drop);
        }
        let body = self.ask("POST", &key, &[("uploads", "")], Bytes::new()).await?.body;
        let id = between(&body, "<UploadId>", "</UploadId>").ok_or_else(|| odd("no UploadId"))?.to_owned();
        let outcome = self.put_parts(path, &key, &id, len).await;
        if outcome.is_err() {
            // What is there of it would be paid for. If this fails too, the store's own rule for such parts is left.
            let _ = self.ask("DELETE", &key, &[("uploadId", id.as_str())], Bytes::new()).await;
        }
        outcome
    }

    async fn put_parts(&self, path: &Path, key: &str, id: &str, len: u64) -> Result<(), StoreError> {
        let mut list = String::from("<CompleteMultipartUpload>");
        for number in 0..len.div_ceil(PART_LEN) {
            let begin = number * PART_LEN;
            let (body, number) = (read(path, begin, PART_LEN.min(len - begin)).await?, (number + 1).to_string());
            let etag = self.put_part(key, &[("partNumber", number.as_str()), ("uploadId", id)], body).await?;
            let etag = etag.replace('"', "&quot;");
            list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
        }
        list.push_str("</CompleteMultipartUpload>");
        let answer = self.ask("POST", key, &[("uploadId", id)], list.into()).await?;
        // It may say so after it has begun to answer that all was well.
        if answer.body.contains("<Error>") { Err(StoreError::of(500, &answer.body, &self.settings)) } else { Ok(()) }
    }

    async fn put_part(&self, key: &str, query: &[(&str, &str)], body: Bytes) -> Result<String, StoreError> {
        let mut wait = PART_WAIT;
        for _ in 1..PART_TRIES {
            match self.ask("PUT", key, query, body.clone()).await {
                Ok(answer) => return Ok(answer.etag),
                Err(error) if error.is_passing() => tokio::time::sleep(wait).await,
                Err(error) => return Err(error),
            }
            wait *= 2;
        }
        self.ask("PUT", key, query, body).await.map(|answer| answer.etag)
    }

    async fn ask(&self, method: &str, key: &str, pairs: &[(&str, &str)], body: Bytes) -> Result<Answer, StoreError> {
        let message = self.message(method, key, pairs, body, &compact(wall_micros())).map_err(io::Error::other);
        let message = message.map_err(StoreError::Unreachable)?;
        let (head, body) =
            self.settings.server.send(message, REQUEST_TIMEOUT).await.map_err(StoreError::Unreachable)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if !head.status.is_success() {
            return Err(StoreError::of(head.status.as_u16(), &body, &self.settings));
        }
        let etag = head.headers.get(header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
        Ok(Answer { etag, body })
    }

    fn message(
        &self,
        method: &str,
        key: &str,
        pairs: &[(&str, &str)],
        content: Bytes,
        time: &str,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let Settings { server, is_path_style, place, region, credentials } = &self.settings;
        let bucket = if *is_path_style { format!("/{}", encode(&place.bucket, "")) } else { String::new() };
        let path = format!("{}{bucket}/{}", server.prefix, encode(key, "/"));
        let (query, body) = (query(pairs), sha256(&content));
        // As it is sent: without the port that the scheme has by itself.
        let usual = if server.tls.is_some() { ":443" } else { ":80" };
        let host = server.authority.strip_suffix(usual).unwrap_or(&server.authority);
        let mut headers = vec![("host", host), ("x-amz-content-sha256", body.as_str()), ("x-amz-date", time)];
        headers.extend(credentials.session.as_deref().map(|session| ("x-amz-security-token", session)));
        let signed = Signed { method, path: &path, query: &query, headers: &headers, body: &body };
        let authorization = authorization(credentials, region, time, &signed);
        let uri = if query.is_empty() { path.clone() } else { format!("{path}?{query}") };
        let mut request = Request::builder().method(method).uri(uri).header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.header(header::AUTHORIZATION, authorization).body(Full::new(content))
    }
}

fn odd(what: &str) -> StoreError {
    StoreError::Refused { status: 200, code: String::new(), message: what.to_owned() }
}

/// A part of a file, read on a thread that may wait.
async fn read(path: &Path, begin: u64, len: u64) -> Result<Bytes, StoreError> {
    use std::os::unix::fs::FileExt;

    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; len as usize];
        std::fs::File::open(path)?.read_exact_at(&mut bytes, begin)?;
        Ok::<_, io::Error>(Bytes::from(bytes))
    });
    read.await.map_err(io::Error::other).and_then(|read| read).map_err(StoreError::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_a_prefix() {
        let place =
            |text| Place::parse(text).map(|place| (place.bucket.clone(), place.prefix.clone(), place.to_string()));
        let is = |bucket: &str, prefix: &str, text: &str| Some((bucket.to_owned(), prefix.to_owned(), text.to_owned()));
        assert_eq!(place("s3://b-1.x"), is("b-1.x", "", "s3://b-1.x"));
        assert_eq!(place("s3://bucket/a/b ü/"), is("bucket", "a/b ü", "s3://bucket/a/b ü"));
        for wrong in ["/srv", "s3:/b", "s3://", "s3:///x", "s3://b?c/x", "s3://bucket/a//b", "s3://bucket/../x"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
        assert_eq!(Place::parse("s3://bucket/p").unwrap().key("x"), "p/x");
        assert_eq!(Place::parse("s3://bucket").unwrap().key("x"), "x");
    }

    #[test]
    fn what_a_store_says_has_a_name() {
        let credentials = Credentials { key_id: "k".to_owned(), secret: "hush".to_owned(), session: None };
        let settings = Settings {
            server: Server::plain("store:80"),
            is_path_style: true,
            place: Place::parse("s3://bucket/p").unwrap(),
            region: "r".to_owned(),
            credentials,
        };
        let said = |status, code: &str| {
            let body = format!("<Error><Code>{code}</Code><Message>why</Message></Error>");
            StoreError::of(status, &body, &settings)
        };
        assert_eq!(said(404, "NoSuchBucket").to_string(), "the store has no bucket bucket");
        assert_eq!(
            said(403, "SignatureDoesNotMatch").to_string(),
            "the store refuses the credentials (SignatureDoesNotMatch): why"
        );
        assert_eq!(said(400, "AuthorizationHeaderMalformed").name(), "store_region");
        assert_eq!(said(403, "RequestTimeTooSkewed").name(), "store_clock");
        assert!(said(503, "SlowDown").is_passing() && !said(404, "NoSuchUpload").is_passing());
        assert_eq!(StoreError::of(500, "<html>", &settings).name(), "store_refused");

        let store = Store { settings, places: Semaphore::new(PUTS_MAX) };
        assert!(!format!("{store:?}").contains("hush"));
        let request = store.message("PUT", "p/a b", &[("uploadId", "x/y")], Bytes::new(), "20130524T000000Z").unwrap();
        assert_eq!(request.uri(), "/bucket/p/a%20b?uploadId=x%2Fy");
        assert_eq!(request.headers()["host"], "store");
    }
}
