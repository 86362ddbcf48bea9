//! DTLS (RFC 9147, RFC 6347) as its client, for the SRTP keys (RFC 5764). Sans-IO, on `dimpl`.
//!
//! It offers versions 1.3 and 1.2. The server's certificate must have the fingerprint of the answer (RFC 8122); nothing
//! else of it matters. Timers run on the `now` that is given. With a seed, what `dimpl` draws for itself repeats; key
//! pairs do not: they always come from the system.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, DtlsCertificate, Output, ProtocolVersion, SrtpProfile};
use ring::digest::{SHA256, digest};

use crate::srtp::{MasterKeys, Profile, Session};

/// Until the first flight is sent again (libwebrtc: 50 ms); doubled each time.
const FLIGHT_RTO: Duration = Duration::from_millis(100);
/// More than any datagram that DTLS writes; its default MTU is 1150.
const DATAGRAM_MAX: usize = 2048;

/// Which version was agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// RFC 6347
    V1_2,
    /// RFC 9147
    V1_3,
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Version::V1_2 => "DTLS 1.2",
            Version::V1_3 => "DTLS 1.3",
        })
    }
}

/// Why there are no keys.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DtlsError {
    /// The handshake failed.
    #[error("DTLS: {0}")]
    Handshake(String),
    /// The certificate is not the one that the answer promised.
    #[error("the server's certificate is not that of the answer")]
    Fingerprint,
    /// DTLS completed without `use_srtp`.
    #[error("no SRTP profile was agreed")]
    NoProfile,
    /// Our own key pair cannot be made.
    #[error("cannot make a certificate: {0}")]
    Identity(String),
}

/// A key pair and its self-signed certificate. Many peers may share one: a server does not compare certificates.
#[derive(Clone)]
pub struct Identity {
    certificate: DtlsCertificate,
    fingerprint: [u8; 32],
}

impl Identity {
    /// A fresh ECDSA P-256 one.
    pub fn generate() -> Result<Identity, DtlsError> {
        let failed = |error: rcgen::Error| DtlsError::Identity(error.to_string());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let parameters = rcgen::CertificateParams::new(["client".to_owned()]).map_err(failed)?;
        let certificate = parameters.self_signed(&key).map_err(failed)?.der().to_vec();
        let fingerprint = sha256(&certificate);
        Ok(Identity { certificate: DtlsCertificate { certificate, private_key: key.serialize_der() }, fingerprint })
    }

    /// SHA-256 of the certificate, for the offer.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// What became of the handshake.
pub enum DtlsEvent {
    /// Keys are there.
    Connected(Version, Box<Session>),
    /// There will be none.
    Failed(DtlsError),
    /// The other end said close_notify.
    Closed,
}

/// A DTLS client. It lives as long as its peer: a lost last flight, and the other end's close_notify, come later.
pub struct Dtls {
    inner: dimpl::Dtls,
    expected_fingerprint: [u8; 32],
    is_verified: bool,
    is_connected: bool,
    is_over: bool,
    keys: Option<Result<(Profile, MasterKeys), DtlsError>>,
    datagrams: VecDeque<Vec<u8>>,
    events: VecDeque<DtlsEvent>,
    timeout: Option<Instant>,
}

impl Dtls {
    /// Starts the handshake with a server whose certificate has this SHA-256.
    pub fn connect(now: Instant, identity: &Identity, expected_fingerprint: [u8; 32], seed: Option<u64>) -> Dtls {
        let mut config = Config::builder().flight_start_rto(FLIGHT_RTO);
        if let Some(seed) = seed {
            config = config.dangerously_set_rng_seed(seed);
        }
        let config = Arc::new(config.build().expect("the settings are constants, and good"));
        let mut inner = dimpl::Dtls::new_auto(config, identity.certificate.clone(), now);
        inner.set_active(true);
        let mut dtls = Dtls {
            inner,
            expected_fingerprint,
            is_verified: false,
            is_connected: false,
            is_over: false,
            keys: None,
            datagrams: VecDeque::new(),
            events: VecDeque::new(),
            timeout: None,
        };
        dtls.handle_timeout(now);
        dtls
    }

    /// Takes a datagram from the network.
    pub fn handle(&mut self, now: Instant, datagram: &[u8]) {
        if self.is_over {
            return;
        }
        let outcome = self.inner.handle_timeout(now).and_then(|()| self.inner.handle_packet(datagram));
        self.settle(outcome);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.is_over {
            let outcome = self.inner.handle_timeout(now);
            self.settle(outcome);
        }
    }

    /// The next datagram for the network.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.datagrams.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    /// When [`Dtls::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timeout.filter(|_| !self.is_over)
    }

    /// Collects what `dimpl` has to say. Each of its errors is fatal.
    fn settle(&mut self, outcome: Result<(), dimpl::Error>) {
        if let Err(error) = outcome {
            return self.fail(DtlsError::Handshake(error.to_string()));
        }
        let mut buffer = [0; DATAGRAM_MAX];
        loop {
            match self.inner.poll_output(&mut buffer) {
                Output::Timeout(at) => {
                    self.timeout = Some(at);
                    break;
                }
                Output::Packet(datagram) => self.datagrams.push_back(datagram.to_vec()),
                Output::PeerCert(certificate) => self.is_verified = sha256(certificate) == self.expected_fingerprint,
                Output::KeyingMaterial(material, profile) => self.keys = Some(split(&material, profile)),
                Output::Connected => self.is_connected = true,
                Output::CloseNotify => {
                    self.is_over = true;
                    return self.events.push_back(DtlsEvent::Closed);
                }
                // Nothing of ours is larger, and application data (SCTP) is not negotiated.
                Output::BufferTooSmall { .. } => {
                    return self.fail(DtlsError::Handshake("a datagram of DTLS is too long".to_owned()));
                }
                _ => (),
            }
        }
        if std::mem::take(&mut self.is_connected) {
            self.connect_session();
        }
    }

    fn connect_session(&mut self) {
        if !self.is_verified {
            return self.fail(DtlsError::Fingerprint);
        }
        match self.keys.take() {
            Some(Ok((profile, keys))) => {
                let is_1_3 = self.inner.protocol_version() == Some(ProtocolVersion::DTLS1_3);
                let version = if is_1_3 { Version::V1_3 } else { Version::V1_2 };
                self.events.push_back(DtlsEvent::Connected(version, Box::new(Session::new(profile, &keys))));
            }
            Some(Err(error)) => self.fail(error),
            None => self.fail(DtlsError::NoProfile),
        }
    }

    fn fail(&mut self, error: DtlsError) {
        self.is_over = true;
        self.events.push_back(DtlsEvent::Failed(error));
    }
}

/// Client key, server key, client salt, server salt (RFC 5764 §4.2).
fn split(material: &[u8], profile: SrtpProfile) -> Result<(Profile, MasterKeys), DtlsError> {
    let profile = match profile {
        SrtpProfile::AEAD_AES_128_GCM => Profile::Gcm128,
        SrtpProfile::AEAD_AES_256_GCM => Profile::Gcm256,
        SrtpProfile::AES128_CM_SHA1_80 => Profile::Cm80,
        _ => return Err(DtlsError::NoProfile),
    };
    let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
    if material.len() < 2 * (key_len + salt_len) {
        return Err(DtlsError::NoProfile);
    }
    let (keys, salts) = material.split_at(2 * key_len);
    let master = |i: usize| (keys[i * key_len..][..key_len].to_vec(), salts[i * salt_len..][..salt_len].to_vec());
    Ok((profile, MasterKeys { tx: master(0), rx: master(1) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of the same library: `uprtc`'s own, BoringSSL, is met in the tests of the root package.
    fn server(now: Instant, identity: &Identity, is_1_3: bool) -> dimpl::Dtls {
        let config = Arc::new(Config::builder().build().unwrap());
        let version = if is_1_3 { dimpl::Dtls::new_13 } else { dimpl::Dtls::new_12 };
        let mut server = version(config, identity.certificate.clone(), now);
        server.handle_timeout(now).unwrap();
        server
    }

    /// Runs both ends without a clock. What the client made of it, and how much virtual time that took.
    fn meet(is_1_3: bool, is_expected: bool, lost_every: usize) -> (DtlsEvent, Duration) {
        let begun = Instant::now();
        let (ours, theirs) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let mut fingerprint = theirs.fingerprint();
        fingerprint[0] ^= u8::from(!is_expected);
        let mut now = begun;
        let mut client = Dtls::connect(now, &ours, fingerprint, Some(1));
        let mut server = server(now, &theirs, is_1_3);
        let mut count = 0;
        let mut is_lost = || {
            count += 1;
            lost_every > 0 && count % lost_every == 0
        };
        for _ in 0..10_000 {
            let mut is_quiet = true;
            while let Some(datagram) = client.poll_transmit() {
                is_quiet = false;
                if !is_lost() {
                    server.handle_packet(&datagram).unwrap();
                }
            }
            let mut buffer = [0; DATAGRAM_MAX];
            let mut back = Vec::new();
            let due = loop {
                match server.poll_output(&mut buffer) {
                    Output::Packet(datagram) => back.push(datagram.to_vec()),
                    Output::Timeout(at) => break at,
                    _ => (),
                }
            };
            for datagram in back {
                is_quiet = false;
                if !is_lost() {
                    client.handle(now, &datagram);
                }
            }
            if let Some(event) = client.poll_event() {
                return (event, now - begun);
            }
            if is_quiet {
                now = client.poll_timeout().map_or(due, |at| at.min(due)).max(now + Duration::from_millis(1));
                client.handle_timeout(now);
                server.handle_timeout(now).unwrap();
            }
        }
        panic!("neither an end nor an error");
    }

    #[test]
    fn both_versions_give_keys_also_over_a_network_that_loses() {
        for (is_1_3, version, lost_every) in
            [(true, Version::V1_3, 0), (true, Version::V1_3, 3), (false, Version::V1_2, 0), (false, Version::V1_2, 5)]
        {
            let (event, took) = meet(is_1_3, true, lost_every);
            let DtlsEvent::Connected(agreed, session) = event else { panic!("{version} {lost_every}") };
            assert_eq!(agreed, version);
            assert!(Profile::ALL.contains(&session.profile()));
            assert_eq!(took.is_zero(), lost_every == 0, "{version} {took:?}: only what is lost takes time");
        }
    }

    #[test]
    fn a_certificate_that_was_not_promised_is_refused() {
        for is_1_3 in [true, false] {
            let (event, _) = meet(is_1_3, false, 0);
            assert!(matches!(event, DtlsEvent::Failed(DtlsError::Fingerprint)));
        }
    }
}
