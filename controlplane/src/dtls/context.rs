//! The settings of every connection, with the reason of each.

use std::sync::LazyLock;
use std::time::Duration;

use boring::ex_data::Index;
use boring::pkey::{PKeyRef, Private};
use boring::ssl::{
    Ssl, SslAlert, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode, SslVerifyError,
    SslVerifyMode, SslVersion,
};
use boring::x509::X509Ref;

use super::error::DtlsError;
use super::ffi;

/// SRTP protection profiles in our order; as server ours decides. Chromium puts AES128_CM_HMAC_SHA1_80 first, but
/// AEAD_AES_128_GCM costs the packet path a quarter of it.
const SRTP_PROFILES: &str = "SRTP_AEAD_AES_128_GCM:SRTP_AEAD_AES_256_GCM:SRTP_AES128_CM_SHA1_80";

/// Cipher suites of DTLS 1.2; those of 1.3 are fixed. RFC 8827 §6.5 demands forward secrecy and names
/// ECDHE_ECDSA_AES128_GCM, which every client has. Suites with RSA are for when an RSA peer is the server.
const CIPHERS: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:\
                       ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/// Key exchange groups as server: browsers offer the hybrid first, so a call recorded today stays closed to the
/// quantum computer of tomorrow.
const GROUPS_ACCEPT: &str = "X25519MLKEM768:X25519:P-256:P-384";

/// Groups as client, without the hybrid: its share would split our ClientHello over two datagrams, which is what old
/// stacks (the ones that insist on being server) fail on.
const GROUPS_CONNECT: &str = "X25519:P-256:P-384";

/// Largest datagram that we send, bytes of UDP payload. What libwebrtc uses; fits every path that carries video.
pub(super) const MTU: u32 = 1200;

/// First retransmission timeout. RFC 9147 §5.8.2 starts at a second and lets real-time applications start lower, for a
/// lost flight keeps a person waiting; browsers start at 50 ms. At 80 ms the ACK timer, a quarter of it, still
/// exceeds the 15 ms below which BoringSSL takes a timer for expired, so a flight in several datagrams gets one ACK.
pub(super) const TIMEOUT_FIRST: Duration = Duration::from_millis(80);

/// Largest certificate message, bytes. BoringSSL reserves it when the first fragment comes, before it knows the
/// peer, and up to seven of a flight. An RSA-4096 certificate takes under 2 KiB; 16 KiB is the least BoringSSL has.
const CERTIFICATE_LEN_MAX: usize = 16 * 1024;

/// The settings for connections that show this certificate.
pub(super) fn build(certificate: &X509Ref, key: &PKeyRef<Private>) -> Result<SslContext, DtlsError> {
    let action = "set up DTLS";
    let mut context = SslContextBuilder::new(SslMethod::dtls()).map_err(DtlsError::setup(action))?;
    let set = |context: &mut SslContextBuilder| {
        context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
        context.set_max_proto_version(Some(SslVersion::DTLS1_3))?;
        context.set_strict_cipher_list(CIPHERS)?;
        context.set_tlsext_use_srtp(SRTP_PROFILES)?;
        context.set_certificate(certificate)?;
        context.set_private_key(key)?;
        context.check_private_key()
    };
    set(&mut context).map_err(DtlsError::setup(action))?;
    // Each connection is a new one: resumption would skip the certificate that the fingerprint vouches for.
    context.set_options(SslOptions::NO_TICKET | SslOptions::NO_QUERY_MTU);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    // Both sides show a certificate (RFC 5763 §5) and prove that they hold its key; who signed it says nothing. The
    // caller compares its hash with the offer's.
    context.set_custom_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, note_certificate);
    ffi::use_clock(&mut context);
    ffi::set_certificate_len_max(&mut context, CERTIFICATE_LEN_MAX);
    Ok(context.build())
}

/// Where a peer's certificate waits for the end of the handshake.
static CERTIFICATE: LazyLock<Index<Ssl, Vec<u8>>> =
    LazyLock::new(|| Ssl::new_ex_index().expect("BoringSSL has room for a number"));

/// Takes down the peer's certificate, which BoringSSL forgets when the handshake is done.
fn note_certificate(ssl: &mut SslRef) -> Result<(), SslVerifyError> {
    let der = ssl.peer_certificate().and_then(|certificate| certificate.to_der().ok());
    ssl.set_ex_data(*CERTIFICATE, der.ok_or(SslVerifyError::Invalid(SslAlert::BAD_CERTIFICATE))?);
    Ok(())
}

/// The certificate that the peer showed, DER. Once: it is nobody's business after that.
pub(super) fn take_certificate(ssl: &mut SslRef) -> Option<Vec<u8>> {
    ssl.ex_data_mut(*CERTIFICATE).map(std::mem::take).filter(|der| !der.is_empty())
}

/// Which side of the handshake we are (`a=setup`, RFC 5763 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// DTLS client: `setup:active`.
    Client,
    /// DTLS server: `setup:passive`.
    Server,
}

/// A connection's BoringSSL state, ready to start.
pub(super) fn open(context: &SslContext, role: Role) -> Result<Ssl, DtlsError> {
    let action = "open a DTLS connection";
    let mut ssl = Ssl::new(context).map_err(DtlsError::setup(action))?;
    let groups = match role {
        Role::Client => GROUPS_CONNECT,
        Role::Server => GROUPS_ACCEPT,
    };
    ssl.set_curves_list(groups).map_err(DtlsError::setup(action))?;
    ssl.set_mtu(MTU).map_err(DtlsError::setup(action))?;
    ffi::set_initial_timeout(&mut ssl, TIMEOUT_FIRST);
    ffi::forget_after_handshake(&mut ssl);
    Ok(ssl)
}
