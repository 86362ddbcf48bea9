//! A server that a command asks by HTTP, and by what its certificate is trusted: for `rooms`, `peers`, `kick`, `move` and
//! `load`, for the supervisor that waits until its controlplane is ready, and for the doctor. `client::http` makes the
//! requests (docs/decisions/0025).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::http::{self, Request, Response};
use controlplane::http::PublicUrl;
use controlplane::tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use serde_json::Value;

use crate::Failure;
use crate::options::Options;
use crate::running::Running;

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
    /// What its paths begin with, behind a proxy that gives it a part of its own.
    prefix: String,
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

impl Server {
    /// The server of these settings, at an address that it listens on.
    pub(crate) fn own(options: &Options, listen: SocketAddr) -> Server {
        Self::near(listen, options.tls().map(|files| files.certificate))
    }

    /// One that runs on this machine.
    pub(crate) fn running(running: &Running) -> Server {
        Self::near(running.listen, running.certificate.clone())
    }

    fn near(listen: SocketAddr, certificate: Option<PathBuf>) -> Server {
        let address = nearest(listen);
        let (authority, host) = (address.to_string(), address.ip().to_string());
        Server { authority, host, prefix: String::new(), trust: certificate.map(Trust::Own) }
    }

    /// A server by `http://HOST[:PORT][/PREFIX]` or `https://…`; `HOST:PORT` alone speaks as the settings say.
    pub(crate) fn named(
        text: &str,
        ca: Option<&Path>,
        options: impl FnOnce() -> Result<Options, Failure>,
    ) -> Result<Server, Failure> {
        let wrong = || format!("--server {text}: neither HOST:PORT nor https://HOST[:PORT][/PREFIX]");
        if text.contains("://") {
            return Self::at(&PublicUrl::parse(text).ok_or_else(wrong)?, ca);
        }
        let url = PublicUrl::parse(&format!("http://{text}")).filter(|url| url.prefix().is_empty());
        let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let url = url.filter(|_| has_port).ok_or_else(wrong)?;
        let trust = match ca {
            Some(ca) => Some(Trust::Roots(ca.to_owned())),
            None => options()?.tls().map(|files| Trust::Own(files.certificate)),
        };
        Ok(Server { trust, ..Self::at_plain(&url) })
    }

    /// A server by its public address; a certificate must lead to one in `ca`, or to one of the system's.
    pub(crate) fn at(url: &PublicUrl, ca: Option<&Path>) -> Result<Server, Failure> {
        let trust = match url.is_secure() {
            true => Some(Trust::Roots(ca.map_or_else(system_roots, |ca| Ok(ca.to_owned()))?)),
            false => None,
        };
        Ok(Server { trust, ..Self::at_plain(url) })
    }

    fn at_plain(url: &PublicUrl) -> Server {
        let (host, port) = (url.host().to_owned(), url.port());
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Server { authority, host, prefix: url.prefix().to_owned(), trust: None }
    }

    /// As people are to read it.
    pub(crate) fn name(&self) -> &str {
        &self.authority
    }

    /// One that speaks plain HTTP at `HOST:PORT`.
    pub(crate) fn plain(authority: &str) -> Server {
        let http::Server { authority, host, prefix, .. } = http::Server::plain(authority);
        Server { authority, host, prefix, trust: None }
    }

    /// As [`Server::named`], but `HOST:PORT` alone is plain HTTP.
    pub(crate) fn plain_or_url(text: &str) -> Result<Server, Failure> {
        match text.contains("://") {
            true => Self::named(text, None, || Ok(Options::default())),
            false => Ok(Self::plain(text)),
        }
    }

    /// With the certificates that it is trusted by, as they are now.
    pub(crate) fn resolve(&self) -> Result<http::Server, Failure> {
        let tls = self.trust.as_ref().map(|trust| trust.config().map(Arc::new)).transpose()?;
        let (authority, host, prefix) = (self.authority.clone(), self.host.clone(), self.prefix.clone());
        Ok(http::Server { authority, host, prefix, tls })
    }

    /// One request, and no redirect. `limit` is for all of it.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
        limit: Duration,
    ) -> io::Result<Response> {
        let server = self.resolve().map_err(|failure| io::Error::other(failure.to_string()))?;
        let body = body.map(Value::to_string);
        let content = body.as_deref().map(|body| ("application/json", body));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let response = runtime.block_on(server.request(Request { method, path, token, content }, limit));
        runtime.shutdown_background(); // A name that is still being looked up keeps nobody waiting.
        response
    }
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

/// The file of the certificates that this system trusts.
pub(crate) fn system_roots() -> Result<PathBuf, Failure> {
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
        let behind = Server::named("https://edge.example/calls/", ca, || Ok(Options::default())).unwrap();
        assert_eq!((behind.prefix.as_str(), behind.name()), ("/calls", "edge.example:443"));
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
