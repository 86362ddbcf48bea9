//! Keys and SRTP of the other stack: the `dtls` crate's client (DTLS 1.2) and `webrtc-srtp` contexts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use client::srtp::Profile;
use dtls::config::{ClientAuthType, Config};
use dtls::conn::DTLSConn;
use dtls::crypto::Certificate;
use dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use futures_util::FutureExt;
use ring::digest::{SHA256, digest};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;
use webrtc_util::conn::{Conn, conn_pipe};

/// How long DTLS waits before it sends a flight again.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(100);
/// Largest datagram that DTLS writes.
const DATAGRAM_MAX: usize = 2048;

/// The profiles in the order of Chromium, which puts the dearest first: a good server chooses by its own order.
pub const CHROMIUM: [Profile; 3] = [Profile::Cm80, Profile::Gcm256, Profile::Gcm128];

fn offered(profile: Profile) -> SrtpProtectionProfile {
    match profile {
        Profile::Gcm128 => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        Profile::Gcm256 => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        Profile::Cm80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    }
}

fn selected(profile: SrtpProtectionProfile) -> Option<Profile> {
    CHROMIUM.into_iter().find(|&known| offered(known) == profile)
}

fn context_profile(profile: Profile) -> ProtectionProfile {
    match profile {
        Profile::Gcm128 => ProtectionProfile::AeadAes128Gcm,
        Profile::Gcm256 => ProtectionProfile::AeadAes256Gcm,
        Profile::Cm80 => ProtectionProfile::Aes128CmHmacSha1_80,
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// The handshake failed.
    #[error("DTLS: {0}")]
    Dtls(#[from] dtls::Error),
    /// The certificate is not the one that the answer promised.
    #[error("the server's certificate is not that of the answer")]
    Fingerprint,
    /// DTLS completed without `use_srtp`.
    #[error("no SRTP profile was agreed")]
    NoProfile,
    /// The exporter of RFC 5705 refused, or a packet is not what it should be.
    #[error("SRTP: {0}")]
    Srtp(#[from] webrtc_srtp::Error),
}

/// A key pair and its self-signed certificate.
#[derive(Clone)]
pub struct Identity(Certificate);

impl Identity {
    /// A fresh ECDSA P-256 one.
    pub fn generate() -> Result<Identity, SecureError> {
        Ok(Identity(Certificate::generate_self_signed(["bench".to_owned()])?))
    }

    /// SHA-256 of the certificate, for the offer.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(self.0.certificate[0].as_ref())
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Keys of both directions.
pub struct Session {
    /// What was agreed.
    pub profile: Profile,
    tx: Context,
    rx: Context,
}

impl Session {
    async fn of(conn: &DTLSConn, is_client: bool) -> Result<Session, SecureError> {
        let profile = selected(conn.selected_srtpprotection_profile()).ok_or(SecureError::NoProfile)?;
        let state = conn.connection_state().await;
        let mut config = webrtc_srtp::config::Config { profile: context_profile(profile), ..Default::default() };
        config.extract_session_keys_from_dtls(state, is_client).await?;
        let context = |key: &[u8], salt: &[u8]| Context::new(key, salt, context_profile(profile), None, None);
        let tx = context(&config.keys.local_master_key, &config.keys.local_master_salt)?;
        let rx = context(&config.keys.remote_master_key, &config.keys.remote_master_salt)?;
        Ok(Session { profile, tx, rx })
    }

    /// RTP to SRTP.
    pub fn protect_rtp(&mut self, packet: &[u8]) -> Result<Bytes, SecureError> {
        Ok(self.tx.encrypt_rtp(packet)?)
    }

    /// RTCP to SRTCP.
    pub fn protect_rtcp(&mut self, packet: &[u8]) -> Result<Bytes, SecureError> {
        Ok(self.tx.encrypt_rtcp(packet)?)
    }

    /// SRTP to RTP.
    pub fn unprotect_rtp(&mut self, packet: &[u8]) -> Result<Bytes, SecureError> {
        Ok(self.rx.decrypt_rtp(packet)?)
    }

    /// SRTCP to RTCP.
    pub fn unprotect_rtcp(&mut self, packet: &[u8]) -> Result<Bytes, SecureError> {
        Ok(self.rx.decrypt_rtcp(packet)?)
    }
}

/// What became of DTLS.
pub enum DtlsEvent {
    /// Keys are there.
    Connected(Box<Session>),
    /// There will be none.
    Failed(SecureError),
    /// The other end said close_notify, or a fatal alert.
    Closed,
}

/// A DTLS client in a task of its own; datagrams go in and come out here.
pub struct Dtls {
    network: Box<dyn Conn + Send + Sync>,
    events: mpsc::UnboundedReceiver<DtlsEvent>,
    task: JoinHandle<()>,
}

impl Dtls {
    /// Starts the handshake, offering `profiles` in this order, with a server whose certificate has this SHA-256.
    pub fn connect(identity: &Identity, profiles: &[Profile], fingerprint: [u8; 32]) -> Dtls {
        let config = config(identity, profiles);
        let (network, conn) = conn_pipe::pipe();
        let (tell, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            match handshake(Arc::new(conn), config, fingerprint).await {
                Err(error) => drop(tell.send(DtlsEvent::Failed(error))),
                Ok((conn, session)) => {
                    // The receiver may have gone; then nobody wants to know.
                    let _ = tell.send(DtlsEvent::Connected(Box::new(session)));
                    let mut buf = [0; DATAGRAM_MAX];
                    while conn.read(&mut buf, None).await.is_ok() {}
                    let _ = tell.send(DtlsEvent::Closed);
                }
            }
        });
        Dtls { network: Box::new(network), events, task }
    }

    /// Takes a datagram from the network. What DTLS has no room for is lost, as on any network.
    pub fn handle(&self, datagram: &[u8]) {
        let _ = self.network.send(datagram).now_or_never();
    }

    /// What DTLS has for its owner: an event, or (as Err) the next datagram for the network. May be cancelled.
    pub async fn next(&mut self) -> Result<DtlsEvent, Vec<u8>> {
        let mut buf = vec![0; DATAGRAM_MAX];
        tokio::select! {
            Some(event) = self.events.recv() => Ok(event),
            Ok(len) = self.network.recv(&mut buf) => {
                buf.truncate(len);
                Err(buf)
            }
            // The task ended and everything was taken.
            else => std::future::pending().await,
        }
    }
}

impl Drop for Dtls {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(identity: &Identity, profiles: &[Profile]) -> Config {
    Config {
        certificates: vec![identity.0.clone()],
        srtp_protection_profiles: profiles.iter().map(|&profile| offered(profile)).collect(),
        client_auth: ClientAuthType::RequireAnyClientCert,
        // The fingerprint decides (RFC 8122), not a chain.
        insecure_skip_verify: true,
        flight_interval: FLIGHT_INTERVAL,
        ..Config::default()
    }
}

async fn handshake(
    conn: Arc<dyn Conn + Send + Sync>,
    config: Config,
    fingerprint: [u8; 32],
) -> Result<(DTLSConn, Session), SecureError> {
    let conn = DTLSConn::new(conn, config, true, None).await?;
    let certificates = conn.connection_state().await.peer_certificates;
    if certificates.first().map(|der| sha256(der)) != Some(fingerprint) {
        return Err(SecureError::Fingerprint);
    }
    let session = Session::of(&conn, true).await?;
    Ok((conn, session))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs our client against the `dtls` crate's server, which takes the first profile that both know.
    async fn meet(profiles: &[Profile], wrong_fingerprint: bool) -> (DtlsEvent, Option<Session>) {
        let (client, server) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut fingerprint = server.fingerprint();
        fingerprint[0] ^= u8::from(wrong_fingerprint);
        let (network, conn) = conn_pipe::pipe();
        let config = config(&server, &[Profile::Gcm256, Profile::Cm80, Profile::Gcm128]);
        let theirs = tokio::spawn(async move {
            let conn = DTLSConn::new(Arc::new(conn), config, false, None).await.ok()?;
            Session::of(&conn, false).await.ok()
        });
        let mut ours = Dtls::connect(&client, profiles, fingerprint);
        let mut buf = vec![0; DATAGRAM_MAX];
        let event = loop {
            tokio::select! {
                next = ours.next() => match next {
                    Ok(event) => break event,
                    Err(datagram) => drop(network.send(&datagram).await.unwrap()),
                },
                Ok(len) = network.recv(&mut buf) => ours.handle(&buf[..len]),
            }
        };
        (event, theirs.await.unwrap())
    }

    #[tokio::test]
    async fn both_ends_derive_keys_that_fit() {
        for profile in CHROMIUM {
            let (event, theirs) = meet(&[profile], false).await;
            let (DtlsEvent::Connected(mut ours), Some(mut theirs)) = (event, theirs) else { panic!("{profile:?}") };
            assert_eq!((ours.profile, theirs.profile), (profile, profile));
            let rtp = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4];
            let rtcp = [0x80, 201, 0, 1, 0, 0, 0, 9];
            let there = ours.protect_rtp(&rtp).unwrap();
            assert_eq!(theirs.unprotect_rtp(&there).unwrap()[..], rtp);
            assert!(ours.unprotect_rtp(&there).is_err(), "directions have keys of their own");
            let back = theirs.protect_rtcp(&rtcp).unwrap();
            assert_eq!(ours.unprotect_rtcp(&back).unwrap()[..], rtcp);
        }
    }

    #[tokio::test]
    async fn a_certificate_that_was_not_promised_is_refused() {
        let (event, _) = meet(&CHROMIUM, true).await;
        assert!(matches!(event, DtlsEvent::Failed(SecureError::Fingerprint)));
    }
}
