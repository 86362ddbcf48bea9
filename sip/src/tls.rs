//! TLS of SIP connections (RFC 3261 §26.2.1): the certificate and key that `sip.toml` names, read again when they change, and what the
//! trunk's certificate is checked against. Who calls needs no certificate; the trunk is shown ours if it asks.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
pub(crate) use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
pub(crate) use tokio_rustls::TlsAcceptor;
use tokio_rustls::TlsConnector;
pub(crate) use tokio_rustls::client::TlsStream;

use crate::counters::{Counter, Counters};

/// Where the pair lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Files {
    /// PEM: the certificate, then those that lead to a root.
    pub(crate) certificate: PathBuf,
    /// PEM: its private key, without a passphrase.
    pub(crate) key: PathBuf,
}

/// Whom a trunk has to be, and by what that is proved.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// A name or an address of its certificate (RFC 5922 §7.2).
    pub(crate) name: ServerName<'static>,
    /// PEM: the roots that its certificate leads to.
    pub(crate) roots: PathBuf,
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn named(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| named(path, &error))?;
    let all: Vec<CertificateDer<'static>> = all;
    if all.is_empty() { Err(named(path, &"it has no certificate in PEM")) } else { Ok(all) }
}

impl Files {
    fn read(&self) -> Result<Chain, String> {
        let chain = certificates(&self.certificate)?;
        Ok((chain, PrivateKeyDer::from_pem_file(&self.key).map_err(|error| named(&self.key, &error))?))
    }

    /// Reads the pair; else one sentence for the operator.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let (chain, key) = self.read()?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| named(&self.certificate, &error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.len()))
        })
    }
}

impl Peer {
    /// What opens connections to it; `own` is our certificate, for a trunk that asks for one.
    pub(crate) fn connector(&self, own: Option<&Files>) -> Result<TlsConnector, String> {
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(certificates(&self.roots)?).0 == 0 {
            return Err(named(&self.roots, &"it has no certificate that can be a root"));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = files.read()?;
                builder.with_client_auth_cert(chain, key).map_err(|error| named(&files.certificate, &error))?
            }
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// Of certificate and key: device, inode, time of the last change (seconds and their fraction), and length. certbot swaps links, others write anew.
type Stamp = [Option<(u64, u64, i64, i64, u64)>; 2];

/// What connections are made with.
pub(crate) struct Tls {
    own: Option<Files>,
    peer: Option<Peer>,
    stamp: Stamp,
    /// Whether the last look found a pair that is no good, and whether that was said. Files are replaced one after the other, so the first time it may be
    /// half of a pair.
    is_suspect: bool,
    pub(crate) acceptor: Option<TlsAcceptor>,
    connector: Option<TlsConnector>,
}

impl Tls {
    /// Reads the files; else one sentence for the operator.
    pub(crate) fn new(own: Option<Files>, peer: Option<Peer>) -> Result<Tls, String> {
        let stamp = own.as_ref().map(Files::stamp).unwrap_or_default();
        let mut tls = Tls { own, peer, stamp, is_suspect: false, acceptor: None, connector: None };
        tls.read()?;
        Ok(tls)
    }

    fn read(&mut self) -> Result<(), String> {
        let acceptor = self.own.as_ref().map(Files::acceptor).transpose()?;
        let connector = self.peer.as_ref().map(|peer| peer.connector(self.own.as_ref())).transpose()?;
        (self.acceptor, self.connector) = (acceptor, connector);
        Ok(())
    }

    /// What the trunk is reached with, if it is by TLS, and who it has to be.
    pub(crate) fn trunk(&self) -> Option<(TlsConnector, ServerName<'static>)> {
        Some((self.connector.clone()?, self.peer.as_ref()?.name.clone()))
    }

    /// Reads a pair that has changed; what is no good leaves the old one in force. New connections get the new one.
    pub(crate) fn look(&mut self, counters: &mut Counters) {
        let Some(files) = &self.own else { return };
        let stamp = files.stamp();
        if stamp == self.stamp && !self.is_suspect {
            return;
        }
        let is_second_look = self.is_suspect && stamp == self.stamp;
        self.stamp = stamp;
        match self.read() {
            Ok(()) => {
                self.is_suspect = false;
                counters.add(Counter::TlsReloads);
                tracing::info!("tls_reloaded");
            }
            Err(_) if !is_second_look => self.is_suspect = true,
            Err(error) => {
                self.is_suspect = false;
                counters.add(Counter::TlsReloadsFailed);
                tracing::warn!(%error, "tls_reload_failed: the certificate of before is used on");
            }
        }
    }
}
