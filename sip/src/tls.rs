//! TLS of SIP connections (RFC 3261 §26.2.1): the certificate and key that `sip.toml` names. Who calls needs no certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
pub(crate) use tokio_rustls::TlsAcceptor;

/// Where the pair lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Files {
    /// PEM: the certificate, then those that lead to a root.
    pub(crate) certificate: PathBuf,
    /// PEM: its private key, without a passphrase.
    pub(crate) key: PathBuf,
}

impl Files {
    /// Reads the pair; else one sentence for the operator.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, String> {
        let named = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| named(&self.certificate, &error))?;
        if chain.is_empty() {
            return Err(named(&self.certificate, &"it has no certificate in PEM"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| named(&self.key, &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| named(&self.certificate, &error))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
