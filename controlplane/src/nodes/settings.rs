//! What an operator sets of the cluster, and the file with its credentials. Credentials are read from a file only, never
//! from the command line, and appear in no log.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

/// Servers of the engine that are tried.
pub const SERVERS_MAX: usize = 16;

/// Longest file of credentials, bytes. One of NATS with a JWT has 1 to 2 KiB.
const CREDENTIALS_LEN_MAX: u64 = 16 * 1024;

/// The cluster that a node is in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Name of the cluster: clusters of different names share servers and do not see each other.
    pub name: String,
    /// `nats://HOST[:PORT]` or `tls://HOST[:PORT]`, all of one kind.
    pub servers: Vec<String>,
    /// Certificates in PEM by which the servers are trusted, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// The file with the credentials.
    pub credentials: Option<PathBuf>,
    /// This node's name.
    pub node: String,
    /// Where it is; may be empty.
    pub region: String,
    /// In whose network; may be empty.
    pub carrier: String,
    /// Where other nodes reach the workers. None: at the media addresses, as they are announced.
    pub relay_ips: Vec<IpAddr>,
    /// Where its HTTP server is, if that is known before it is bound.
    pub http: Option<String>,
    /// What a media address is announced as, for those that are not reached directly.
    pub announce: Vec<(IpAddr, IpAddr)>,
    /// How long a record stands that is not renewed. All nodes have the same.
    pub lease: Duration,
}

#[cfg(test)]
impl Settings {
    /// A node in a cluster, for tests.
    pub(super) fn example() -> Settings {
        Settings {
            name: "uprtc".into(),
            servers: vec!["nats://a".into()],
            ca: None,
            credentials: None,
            node: "fra1".into(),
            region: String::new(),
            carrier: String::new(),
            relay_ips: Vec::new(),
            http: None,
            announce: Vec::new(),
            lease: Duration::from_secs(15),
        }
    }
}

/// Whether this is `nats://HOST[:PORT]` or `tls://HOST[:PORT]`. No user and password: they would be in every log.
pub fn is_server(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://")) else { return false };
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port.strip_prefix(':')),
            _ => return false,
        },
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-';
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_whole = !rest.starts_with('[') || rest.ends_with(']') || port.is_some();
    !host.is_empty() && host.len() <= 253 && host.bytes().all(is_host) && port.is_none_or(is_port) && is_whole
}

/// Whether the connection to this server is to be TLS.
pub fn is_secure(server: &str) -> bool {
    server.starts_with("tls://")
}

/// By what the engine knows a node. Its `Debug` shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// By nothing.
    None,
    /// User and password.
    Password(String, Zeroizing<String>),
    /// The seed of an nkey (`SU…`).
    Nkey(Zeroizing<String>),
    /// A file of NATS with a JWT and the seed of its key.
    Jwt(Zeroizing<String>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::None => "None",
            Credentials::Password(..) => "Password(..)",
            Credentials::Nkey(_) => "Nkey(..)",
            Credentials::Jwt(_) => "Jwt(..)",
        })
    }
}

/// Why a file of credentials cannot be used. No part of the file is in it.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// It cannot be read.
    #[error("cannot read the cluster's credentials {}: {source}", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Others can read it.
    #[error("others can read the cluster's credentials {}: chmod 600 it", .0.display())]
    Open(PathBuf),
    /// It holds something else.
    #[error(
        "{} holds no credentials: it is to be USER:PASSWORD on one line, the seed of an nkey (SU...), or a file of `nsc`",
        .0.display()
    )]
    Malformed(PathBuf),
}

impl Credentials {
    /// What is in the file; without one nothing.
    pub fn load(path: Option<&Path>) -> Result<Credentials, CredentialsError> {
        let Some(path) = path else { return Ok(Credentials::None) };
        let unreadable = |source| CredentialsError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.permissions().mode() & 0o007 != 0 {
            return Err(CredentialsError::Open(path.to_owned()));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(CREDENTIALS_LEN_MAX).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text).ok_or_else(|| CredentialsError::Malformed(path.to_owned()))
    }

    fn parse(text: &str) -> Option<Credentials> {
        if text.contains("-----BEGIN NATS USER JWT-----") {
            return Some(Credentials::Jwt(Zeroizing::new(text.to_owned())));
        }
        let line = text.trim_end_matches(['\r', '\n']);
        if line.is_empty() || line.chars().any(char::is_control) {
            return None;
        }
        match line.split_once(':') {
            Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                Some(Credentials::Password(user.to_owned(), Zeroizing::new(password.to_owned())))
            }
            None if line.starts_with("SU") && line.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Some(Credentials::Nkey(Zeroizing::new(line.to_owned())))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_without_passwords() {
        for good in ["nats://10.0.0.1", "tls://nats-1.example.com:4222", "nats://[2001:db8::1]:4222", "nats://[::1]"] {
            assert!(is_server(good), "{good}");
        }
        for bad in [
            "10.0.0.1:4222",
            "ws://10.0.0.1",
            "nats://",
            "nats://:4222",
            "nats://a:0",
            "nats://a:b",
            "nats://user:secret@a",
            "nats://a/b",
            "nats://a b",
            "nats://[::1",
            "nats://[::1]4222",
            "nats://[a]",
        ] {
            assert!(!is_server(bad), "{bad}");
        }
    }

    #[test]
    fn credentials_are_told_apart_and_never_shown() {
        let nkey = "SUAMK2FG4MI6UE3ACF3FK3OIQBCEIEZV7NSWFFEW63UXMRLFM2XLAXK4GY";
        let jwt = "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n";
        for (text, shown) in [("ada:se:cret\n", "Password(..)"), (nkey, "Nkey(..)"), (jwt, "Jwt(..)")] {
            let credentials = Credentials::parse(text).unwrap();
            assert_eq!(format!("{credentials:?}"), shown);
        }
        let password = Credentials::Password("ada".into(), Zeroizing::new("se:cret".into()));
        assert_eq!(Credentials::parse("ada:se:cret\r\n"), Some(password));
        for bad in ["", "\n", "ada", "ada:", ":secret", "a:b\nc:d", "SU A"] {
            assert_eq!(Credentials::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_says_nothing_of_what_is_in_it() {
        let path = std::env::temp_dir().join(format!("uprtc-credentials-{}", std::process::id()));
        std::fs::write(&path, "hunter2").unwrap();
        let load = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Credentials::load(Some(&path)).unwrap_err()
        };
        assert!(matches!(load(0o604), CredentialsError::Open(_)));
        let error = load(0o600);
        assert!(matches!(error, CredentialsError::Malformed(_)) && !format!("{error} {error:?}").contains("hunter2"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Credentials::load(Some(&path)), Err(CredentialsError::Unreadable { .. })));
        assert_eq!(Credentials::load(None).unwrap(), Credentials::None);
    }
}
