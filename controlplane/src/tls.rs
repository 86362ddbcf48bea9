//! TLS of the HTTP server: the certificate and key that the operator names, checked when they are read, and read again when
//! the files change, so that a renewed certificate needs no restart.
//!
//! New connections get the new pair, those that are open keep what they agreed on. A new pair that is no good leaves
//! the old one in force; the log says so once and a metric counts it. The cryptography is `rustls` over `ring`
//! (docs/decisions/0011-tls.md). The server has HTTP/1.1 alone, and say so by ALPN (RFC 7301): a WebSocket needs no more.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::asn1::Asn1Time;
use boring::x509::X509;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use zeroize::Zeroizing;

/// How soon a changed file is noticed.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// Longest file of a certificate or key, bytes. A chain of four with RSA keys has 8 KiB.
const FILE_LEN_MAX: u64 = 256 * 1024;

/// Certificates of a chain that are sent. Public ones have two or three.
const CHAIN_LEN_MAX: usize = 16;

/// Where the pair lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    /// PEM: the certificate, then those that lead to a root.
    pub certificate: PathBuf,
    /// PEM: its private key (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key: PathBuf,
}

/// A certificate with its chain and key, which fit together.
#[derive(Clone, Debug)]
pub struct Pair {
    certified: Arc<CertifiedKey>,
    expires_at: u64,
}

/// Why there is no pair. Each is one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The kernel does not let us read a file.
    #[error("cannot read the TLS {what} {path}: {source}; the user that runs uprtc must be able to", path = .path.display())]
    Unreadable {
        /// Certificate or key.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} holds no {what}", path = .path.display())]
    NotPem {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
    },
    /// The certificate is of another key.
    #[error("the TLS key {key} is not that of the certificate {certificate}: they must come from one issue", key = .0.key.display(), certificate = .0.certificate.display())]
    Mismatch(Files),
    /// The certificate or key is of a kind that is not served.
    #[error("the TLS certificate {path} cannot be served: {why}", path = .path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What the TLS library says.
        why: String,
    },
}

/// The one provider of cryptography for TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates of a PEM file, in its order.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let pem = read("certificate", path)?;
    let not_pem = || PairError::NotPem { what: "certificate in PEM", path: path.to_owned() };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|_| not_pem())?;
    match chain.is_empty() {
        true => Err(not_pem()),
        false => Ok(chain),
    }
}

/// Whom a certificate names (its subjectAltName; browsers look at nothing else, RFC 9110 §4.3.4).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Names {
    /// DNS names in lower case, `*.` for any one label.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// Of the first certificate in a PEM file.
    pub fn read(path: &Path) -> Result<Names, PairError> {
        let chain = certificates(path)?;
        let why = || PairError::Unusable { path: path.to_owned(), why: "it is no X.509 certificate".into() };
        let certificate = X509::from_der(&chain[0]).map_err(|_| why())?;
        let mut names = Names::default();
        for name in certificate.subject_alt_names().into_iter().flatten() {
            names.dns.extend(name.dnsname().map(str::to_ascii_lowercase));
            names.ips.extend(name.ipaddress().and_then(address));
        }
        Ok(names)
    }

    /// Whether it is good for a server that is reached by this name or address (RFC 6125 §6.4).
    pub fn cover(&self, host: &str) -> bool {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.ips.contains(&ip);
        }
        let host = host.to_ascii_lowercase();
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.dns.iter().any(|name| *name == host || name.strip_prefix("*.").is_some_and(|name| Some(name) == parent))
    }

    /// The one DNS name that it has, if it has one and that is a name of one host.
    pub fn single(&self) -> Option<&str> {
        match self.dns.as_slice() {
            [name] if !name.starts_with("*.") => Some(name),
            _ => None,
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

impl Pair {
    /// Reads the pair and checks that it can be served.
    pub fn load(files: &Files) -> Result<Pair, PairError> {
        let mut chain = certificates(&files.certificate)?;
        chain.truncate(CHAIN_LEN_MAX);
        let pem = read("key", &files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| PairError::NotPem {
            what: "private key in PEM without a passphrase",
            path: files.key.clone(),
        })?;
        let unusable = |why: String| PairError::Unusable { path: files.certificate.clone(), why };
        let expires_at = expiry(&chain[0]).ok_or_else(|| unusable("it is no X.509 certificate".into()))?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => PairError::Mismatch(files.clone()),
            other => unusable(other.to_string()),
        })?;
        Ok(Pair { certified: Arc::new(certified), expires_at })
    }

    /// When the certificate stops being good (`notAfter`), seconds since 1970.
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    fn certificate(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }
}

fn read(what: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, PairError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes));
    file.map_err(|source| PairError::Unreadable { what, path: path.to_owned(), source })?;
    Ok(bytes)
}

fn expiry(certificate: &[u8]) -> Option<u64> {
    let certificate = X509::from_der(certificate).ok()?;
    let since = Asn1Time::from_unix(0).ok()?.diff(certificate.not_after()).ok()?;
    u64::try_from(i64::from(since.days) * 86_400 + i64::from(since.secs)).ok()
}

/// What tells that a file was replaced: certbot swaps links, others write anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp([Option<FileStamp>; 2]);

/// Device, inode, time of the last change (seconds and their fraction), and length.
type FileStamp = (u64, u64, i64, i64, u64);

impl Stamp {
    fn of(files: &Files) -> Stamp {
        Stamp([&files.certificate, &files.key].map(|path| {
            let found = fs::metadata(path).ok()?;
            Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
        }))
    }
}

/// How far a new pair that is no good has been noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    None,
    /// Once. Files are replaced one after the other, so it may be half of a pair: the next look tells.
    Suspected,
    Reported,
}

#[derive(Debug)]
struct Current {
    pair: Pair,
    seen: Stamp,
    trouble: Trouble,
}

/// What operators are told of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Figures {
    /// When the certificate in force stops being good, seconds since 1970.
    pub expires_at: u64,
    /// New pairs that were taken over.
    pub reloads: u64,
    /// New pairs that were no good.
    pub reloads_failed: u64,
    /// Handshakes under way.
    pub half_open: usize,
    /// Handshakes by what became of them, in the order of [`Fate::ALL`].
    pub handshakes: [u64; Fate::ALL.len()],
}

/// What became of a handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// HTTP can begin.
    Completed,
    /// The other side broke off, or has no version or cipher of TLS that we have.
    Failed,
    /// It took too long.
    TimedOut,
    /// It made room for newer ones.
    Displaced,
}

impl Fate {
    /// All of them.
    pub const ALL: [Fate; 4] = [Fate::Completed, Fate::Failed, Fate::TimedOut, Fate::Displaced];

    /// As metrics show it.
    pub const fn name(self) -> &'static str {
        match self {
            Fate::Completed => "completed",
            Fate::Failed => "failed",
            Fate::TimedOut => "timed_out",
            Fate::Displaced => "displaced",
        }
    }
}

/// The pair in force, and what is counted of it.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    current: RwLock<Current>,
    reloads: AtomicU64,
    reloads_failed: AtomicU64,
    half_open: AtomicUsize,
    handshakes: [AtomicU64; Fate::ALL.len()],
}

impl Tls {
    /// TLS with the pair in these files, or the line that says why it cannot be.
    pub fn load(files: Files) -> Result<Arc<Tls>, PairError> {
        let seen = Stamp::of(&files);
        let pair = Pair::load(&files)?;
        if pair.expires_at <= now() {
            tracing::error!(certificate = %files.certificate.display(), "the TLS certificate has expired: browsers refuse it");
        }
        Ok(Arc::new(Tls {
            files,
            current: RwLock::new(Current { pair, seen, trouble: Trouble::None }),
            reloads: AtomicU64::default(),
            reloads_failed: AtomicU64::default(),
            half_open: AtomicUsize::default(),
            handshakes: Default::default(),
        }))
    }

    /// What a TLS server needs. Each handshake asks for the pair in force.
    pub fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring serves TLS 1.2 and 1.3");
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(Resolver(self.clone())));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Reads the files again if they have changed, or `is_asked` by an operator, who wants to know at once.
    pub fn refresh(&self, is_asked: bool) {
        let stamp = Stamp::of(&self.files); // Before they are read: a change meanwhile shows at the next look.
        let (seen, trouble) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            (current.seen, current.trouble)
        };
        if stamp == seen && trouble != Trouble::Suspected && !is_asked {
            return;
        }
        let loaded = Pair::load(&self.files);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        current.seen = stamp;
        match loaded {
            Ok(pair) => {
                current.trouble = Trouble::None;
                if pair.certificate() != current.pair.certificate() {
                    self.reloads.fetch_add(1, Ordering::Relaxed);
                    let days = pair.expires_at.saturating_sub(now()) / 86_400;
                    tracing::info!(days, "a new TLS certificate is served to new connections");
                }
                current.pair = pair;
            }
            Err(error) if is_asked || (stamp == seen && trouble == Trouble::Suspected) => {
                current.trouble = Trouble::Reported;
                self.reloads_failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!("the TLS certificate in force stays: {error}");
            }
            Err(_) => current.trouble = Trouble::Suspected,
        }
    }

    /// A handshake began.
    pub(crate) fn begun(&self) {
        self.half_open.fetch_add(1, Ordering::Relaxed);
    }

    /// A handshake ended so.
    pub(crate) fn ended(&self, fate: Fate) {
        self.half_open.fetch_sub(1, Ordering::Relaxed);
        self.handshakes[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// As it is now.
    pub fn figures(&self) -> Figures {
        Figures {
            expires_at: self.current.read().unwrap_or_else(PoisonError::into_inner).pair.expires_at,
            reloads: self.reloads.load(Ordering::Relaxed),
            reloads_failed: self.reloads_failed.load(Ordering::Relaxed),
            half_open: self.half_open.load(Ordering::Relaxed),
            handshakes: std::array::from_fn(|at| self.handshakes[at].load(Ordering::Relaxed)),
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Hands out the pair in force. There is one, whatever name a client asks for.
#[derive(Debug)]
struct Resolver(Arc<Tls>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.read().unwrap_or_else(PoisonError::into_inner).pair.certified.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of the test's own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("uprtc-tls-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn files(&self) -> Files {
            Files { certificate: self.0.join("fullchain.pem"), key: self.0.join("privkey.pem") }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A fresh certificate that is good until 2039, and its key, in PEM.
    fn issue() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2039, 1, 1);
        (parameters.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_read_with_its_expiry_and_a_bad_one_is_a_clear_sentence() {
        let folder = Folder::new("pair");
        let files = folder.files();
        let says = |part: &str| {
            let error = Pair::load(&files).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(folder.0.to_str().unwrap()), "{error}");
        };
        says("cannot read the TLS certificate");
        let (certificate, key) = issue();
        fs::write(&files.certificate, &certificate).unwrap();
        says("cannot read the TLS key");
        fs::write(&files.key, &certificate).unwrap();
        says("no private key");
        fs::write(&files.key, issue().1).unwrap();
        says("not that of the certificate");
        fs::write(&files.key, &key).unwrap();
        assert_eq!(Pair::load(&files).unwrap().expires_at(), 2_177_452_800);
        for junk in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n"] {
            fs::write(&files.certificate, junk).unwrap();
            says("no certificate");
        }
        fs::write(&files.certificate, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        says("no X.509");
    }

    #[test]
    fn a_new_pair_is_taken_over_and_a_bad_one_is_counted_once() {
        let folder = Folder::new("reload");
        let files = folder.files();
        let write = |(certificate, key): &(String, String)| {
            fs::write(&files.certificate, certificate).unwrap();
            fs::write(&files.key, key).unwrap();
        };
        let (first, second) = (issue(), issue());
        write(&first);
        let tls = Tls::load(files.clone()).unwrap();
        let served = || tls.current.read().unwrap().pair.certificate().clone();
        let before = served();
        tls.refresh(false);
        assert_eq!((tls.figures().reloads, tls.figures().reloads_failed), (0, 0));

        // Half of a pair, caught between two writes, is not worth a word; what stays wrong is.
        fs::write(&files.certificate, &second.0).unwrap();
        tls.refresh(false);
        assert_eq!((served() == before, tls.figures().reloads_failed), (true, 0));
        fs::write(&files.key, &second.1).unwrap();
        tls.refresh(false);
        assert!(served() != before && tls.figures().reloads == 1);

        let before = served();
        fs::write(&files.key, "nonsense").unwrap();
        (0..5).for_each(|_| tls.refresh(false));
        assert_eq!((served() == before, tls.figures().reloads_failed), (true, 1));
        tls.refresh(true);
        assert_eq!(tls.figures().reloads_failed, 2, "who asks is told");
        fs::remove_file(&files.key).unwrap();
        (0..5).for_each(|_| tls.refresh(false));
        assert_eq!(tls.figures().reloads_failed, 3);
        write(&first);
        tls.refresh(false);
        assert!(served() != before && tls.figures().reloads == 2);
    }
}
