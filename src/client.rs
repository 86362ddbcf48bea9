//! Asks a server by HTTP, with TLS or without: for `rooms`, `peers`, `kick` and `move`, for the supervisor that waits until its
//! controlplane is ready, and for the doctor. One small request on a connection of its own, and no more HTTP than that.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use controlplane::tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    StreamOwned,
};
use serde_json::Value;

use crate::Failure;
use crate::options::Options;

/// Longest answer that is read, bytes. A page of peers has at most 100 KiB.
const ANSWER_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Where systems keep the certificates that they trust; `SSL_CERT_FILE` wins.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A server to ask.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// `HOST:PORT`
    authority: String,
    host: String,
    trust: Option<Trust>,
}

/// By what a server's certificate is good.
#[derive(Clone, Debug)]
enum Trust {
    /// It is the one in this file: the server is our own, whatever name we reach it by.
    Own(PathBuf),
    /// It leads to one in this file, and has the server's name.
    Roots(PathBuf),
}

/// What a server answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Server {
    /// The server of these settings, at an address that it listens on.
    pub(crate) fn own(options: &Options, listen: SocketAddr) -> Server {
        let address = nearest(listen);
        let trust = options.tls().map(|files| Trust::Own(files.certificate));
        Server { authority: address.to_string(), host: address.ip().to_string(), trust }
    }

    /// A server by `http://HOST[:PORT]` or `https://HOST[:PORT]`; `HOST:PORT` alone speaks as the settings say.
    pub(crate) fn named(
        text: &str,
        ca: Option<&Path>,
        options: impl FnOnce() -> Result<Options, Failure>,
    ) -> Result<Server, Failure> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let rest = rest.trim_end_matches('/');
        let has_port =
            rest.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let (trust, port) = match scheme {
            "http" => (None, 80),
            "https" => (Some(Trust::Roots(ca.map_or_else(system_roots, |ca| Ok(ca.to_owned()))?)), 443),
            "" if has_port => match ca {
                Some(ca) => (Some(Trust::Roots(ca.to_owned())), 443),
                None => (options()?.tls().map(|files| Trust::Own(files.certificate)), 0),
            },
            _ => return Err(format!("--server {text}: neither HOST:PORT nor https://HOST[:PORT]").into()),
        };
        let authority = if has_port { rest.to_owned() } else { format!("{rest}:{port}") };
        let host = authority.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Server { authority, host, trust })
    }

    /// As people are to read it.
    pub(crate) fn name(&self) -> &str {
        &self.authority
    }

    /// One request. `patience` is for the connection, and again for each part of the answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
        patience: Duration,
    ) -> io::Result<Answer> {
        let mut addresses = self.authority.to_socket_addrs()?;
        let address = addresses.next().ok_or_else(|| io::Error::other("the server has no address"))?;
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{authorization}Connection: close\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.authority,
            body.len()
        );
        match &self.trust {
            None => exchange(stream, &request),
            Some(trust) => {
                let config = trust.config().map_err(|failure| io::Error::other(failure.to_string()))?;
                let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
                let session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
                exchange(StreamOwned::new(session, stream), &request)
            }
        }
    }
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Answer> {
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_LEN_MAX).read_to_string(&mut answer)?;
    let no_http = || io::Error::other("the answer is not HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(no_http)?;
    Ok(Answer { status, body: body.to_owned() })
}

/// Where to reach what listens there from this machine.
pub(crate) fn nearest(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn system_roots() -> Result<PathBuf, Failure> {
    let given = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let known = SYSTEM_ROOTS.iter().map(PathBuf::from);
    let found = given.into_iter().chain(known).find(|path| path.is_file());
    found.ok_or_else(|| {
        "this system keeps no trusted certificates where they are looked for: --ca FILE names some".into()
    })
}

impl Trust {
    fn config(&self) -> Result<ClientConfig, Failure> {
        let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions()?;
        let mut config = match self {
            Trust::Own(path) => {
                let certificate = tls::certificates(path)?.swap_remove(0);
                let algorithms = tls::provider().signature_verification_algorithms;
                let verifier = Arc::new(Pinned { certificate, algorithms });
                builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
            }
            Trust::Roots(path) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(tls::certificates(path)?);
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Takes one certificate and no other; names and dates do not matter then. That the server has its key is proved by the
/// handshake, as ever.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *end_entity == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_with_or_without_a_scheme() {
        let ca = Some(Path::new("/ca.pem"));
        let named = |text: &str| {
            let server = Server::named(text, ca, || Ok(Options::default())).map_err(|error| error.to_string())?;
            Ok::<_, String>((server.authority, server.host, server.trust.is_some()))
        };
        let is = |authority: &str, host: &str, is_secure| Ok((authority.to_owned(), host.to_owned(), is_secure));
        assert_eq!(named("https://edge.example"), is("edge.example:443", "edge.example", true));
        assert_eq!(named("https://[::1]:8443/"), is("[::1]:8443", "::1", true));
        assert_eq!(named("http://edge.example"), is("edge.example:80", "edge.example", false));
        assert_eq!(named("edge.example:8443"), is("edge.example:8443", "edge.example", true));
        assert!(named("edge.example").unwrap_err().contains("HOST:PORT"));
        assert!(named("ftp://edge.example").unwrap_err().contains("ftp://"));
        let plain = Server::named("127.0.0.1:8080", None, || Ok(Options::default())).unwrap();
        assert!(plain.trust.is_none(), "these settings have no certificate");
    }

    #[test]
    fn what_listens_everywhere_is_reached_by_the_loopback() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(nearest(address("0.0.0.0:80")), address("127.0.0.1:80"));
        assert_eq!(nearest(address("[::]:80")), address("[::1]:80"));
        assert_eq!(nearest(address("192.0.2.1:80")), address("192.0.2.1:80"));
    }
}
