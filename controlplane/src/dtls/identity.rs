//! Who we are in a handshake: a self-signed certificate, its key, and the settings made of them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::asn1::{Asn1Integer, Asn1Time};
use boring::bn::{BigNum, MsbOption};
use boring::ec::{EcGroup, EcKey};
use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, PKeyRef, Private};
use boring::sha::sha256;
use boring::ssl::SslContext;
use boring::x509::{X509, X509Name};
use zeroize::Zeroizing;

use super::context;
use super::error::DtlsError;

/// Lifetime of a generated certificate. Peers check its hash, not its dates; a year outlives any process.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How far before its making a certificate is valid already, for peers whose clock is behind.
const BACKDATE: Duration = Duration::from_secs(24 * 3600);

/// Bits of the random serial number: RFC 5280 §4.1.2.2 allows 20 octets, and this stays positive within 16.
const SERIAL_BITS: i32 = 127;

/// A certificate and its private key, held in memory. One serves all peers; a clone shares both.
#[derive(Clone)]
pub struct Identity {
    certificate_der: Vec<u8>,
    key: PKey<Private>,
    context: SslContext,
}

impl Identity {
    /// A new ECDSA P-256 key (RFC 8827 §6.5 has every client support it) and a self-signed certificate for it,
    /// valid for a year.
    pub fn generate() -> Result<Identity, DtlsError> {
        let action = "generate a certificate";
        let key = generate_key().map_err(DtlsError::setup(action))?;
        let certificate = self_sign(&key).map_err(DtlsError::setup(action))?;
        Self::from_parts(&certificate, key)
    }

    /// An identity made elsewhere: an X.509 certificate in DER, and its private key in PKCS#8 DER. ECDSA and RSA
    /// keys work.
    pub fn from_der(certificate: &[u8], private_key: &[u8]) -> Result<Identity, DtlsError> {
        let certificate = X509::from_der(certificate).map_err(DtlsError::setup("read the certificate"))?;
        let key = PKey::private_key_from_pkcs8(private_key).map_err(DtlsError::setup("read the private key"))?;
        Self::from_parts(&certificate, key)
    }

    fn from_parts(certificate: &X509, key: PKey<Private>) -> Result<Identity, DtlsError> {
        let certificate_der = certificate.to_der().map_err(DtlsError::setup("write the certificate"))?;
        let context = context::build(certificate, &key)?;
        Ok(Identity { certificate_der, key, context })
    }

    /// The certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The private key, PKCS#8 DER, wiped when dropped.
    pub fn private_key_der(&self) -> Result<Zeroizing<Vec<u8>>, DtlsError> {
        let der = self.key.private_key_to_der_pkcs8().map_err(DtlsError::setup("write the private key"))?;
        Ok(Zeroizing::new(der))
    }

    /// SHA-256 of the certificate, for `a=fingerprint` (RFC 8122 §5).
    pub fn fingerprint_sha256(&self) -> [u8; 32] {
        sha256(&self.certificate_der)
    }

    /// The settings that connections of this identity share.
    pub(super) fn context(&self) -> &SslContext {
        &self.context
    }
}

impl fmt::Debug for Identity {
    /// The public half alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint_sha256", &self.fingerprint_sha256()).finish_non_exhaustive()
    }
}

fn generate_key() -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

fn self_sign(key: &PKeyRef<Private>) -> Result<X509, ErrorStack> {
    let mut name = X509Name::builder()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "uprtc")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(SERIAL_BITS, MsbOption::MAYBE_ZERO, false)?;
    let serial = Asn1Integer::from_bn(&serial)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();

    let mut builder = X509::builder()?;
    builder.set_version(2)?; // X.509 v3 is written as 2.
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_not_before(unix_time(now.saturating_sub(BACKDATE))?.as_ref())?;
    builder.set_not_after(unix_time(now + LIFETIME)?.as_ref())?;
    builder.set_pubkey(key)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}

fn unix_time(since_epoch: Duration) -> Result<Asn1Time, ErrorStack> {
    Asn1Time::from_unix(since_epoch.as_secs().try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_certificate_is_p256_self_signed_and_valid_now() {
        let identity = Identity::generate().unwrap();
        let certificate = X509::from_der(identity.certificate_der()).unwrap();
        let key = certificate.public_key().unwrap();
        assert!(certificate.verify(&key).unwrap());
        assert_eq!(key.ec_key().unwrap().group().curve_name(), Some(Nid::X9_62_PRIME256V1));
        let name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next().unwrap();
        assert_eq!(name.data().as_slice(), b"uprtc");
        let now = Asn1Time::days_from_now(0).unwrap();
        assert!(*certificate.not_before() < now && *certificate.not_after() > now);
        assert!(*certificate.not_after() < Asn1Time::days_from_now(366).unwrap());
    }

    #[test]
    fn two_identities_share_neither_key_nor_serial() {
        let [a, b] = [(); 2].map(|()| Identity::generate().unwrap());
        let [x, y] = [&a, &b].map(|i| X509::from_der(i.certificate_der()).unwrap());
        assert_ne!(a.fingerprint_sha256(), b.fingerprint_sha256());
        assert!(x.serial_number().to_bn().unwrap() != y.serial_number().to_bn().unwrap());
        assert!(!x.public_key().unwrap().public_eq(&y.public_key().unwrap()));
    }

    #[test]
    fn export_and_import_keep_the_identity() {
        let identity = Identity::generate().unwrap();
        let key = identity.private_key_der().unwrap();
        let again = Identity::from_der(identity.certificate_der(), &key).unwrap();
        assert_eq!(again.fingerprint_sha256(), identity.fingerprint_sha256());
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let [a, b] = [(); 2].map(|()| Identity::generate().unwrap());
        let error = Identity::from_der(a.certificate_der(), &b.private_key_der().unwrap()).unwrap_err();
        assert!(matches!(error, DtlsError::Setup { .. }), "{error}");
        assert!(Identity::from_der(b"no certificate", &b.private_key_der().unwrap()).is_err());
        assert!(Identity::from_der(a.certificate_der(), b"no key").is_err());
    }

    #[test]
    fn debug_shows_no_key() {
        let identity = Identity::generate().unwrap();
        let shown = format!("{identity:?}");
        assert!(shown.contains("fingerprint_sha256") && !shown.contains("key"), "{shown}");
    }
}
