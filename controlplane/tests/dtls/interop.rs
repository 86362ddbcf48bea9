//! Against the `dtls` crate (DTLS 1.2, another author's code), both roles, over in-memory datagrams in real time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use controlplane::dtls::{Connected, Dtls, DtlsError, DtlsVersion, Identity};
use dtls::config::{ClientAuthType, Config};
use dtls::conn::DTLSConn;
use dtls::crypto::Certificate;
use dtls::extension::extension_use_srtp::SrtpProtectionProfile as TheirProfile;
use proto::plane::SrtpProfile;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use webrtc_util::KeyingMaterialExporter;
use webrtc_util::conn::{Conn, conn_pipe};

use crate::pair::End;

const DEADLINE: Duration = Duration::from_secs(20);

/// Drives our end over `conn` until told to stop, losing those of our datagrams and of theirs that `is_lost` picks
/// (whether it is ours, and its number), and gives the end back.
struct Driver {
    connected: oneshot::Receiver<()>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<End>,
}

impl Driver {
    fn start(dtls: Dtls, conn: impl Conn + Send + Sync + 'static, is_lost: fn(bool, usize) -> bool) -> Self {
        Self::start_with(dtls, conn, Box::new(is_lost))
    }

    fn start_with(
        dtls: Dtls,
        conn: impl Conn + Send + Sync + 'static,
        is_lost: Box<dyn Fn(bool, usize) -> bool + Send>,
    ) -> Self {
        let (tell_connected, connected) = oneshot::channel();
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut end = End::new(dtls);
            let mut tell_connected = Some(tell_connected);
            let (mut ours, mut theirs) = (0, 0);
            let mut buf = [0; 1500];
            loop {
                while let Some(datagram) = end.dtls.poll_transmit() {
                    if !is_lost(true, ours) {
                        // The other end may have gone already.
                        let _ = conn.send(&datagram).await;
                    }
                    ours += 1;
                }
                end.drain_events();
                if end.connected.is_some()
                    && let Some(tell) = tell_connected.take()
                {
                    let _ = tell.send(());
                }
                let timeout = end.dtls.poll_timeout().unwrap_or_else(|| Instant::now() + DEADLINE);
                tokio::select! {
                    _ = &mut stopped => return end,
                    received = conn.recv(&mut buf) => match received {
                        Ok(len) => {
                            if !is_lost(false, theirs) {
                                end.dtls.handle(Instant::now(), &buf[..len]);
                            }
                            theirs += 1;
                        }
                        Err(_) => return end,
                    },
                    () = tokio::time::sleep_until(timeout.into()) => end.dtls.handle_timeout(Instant::now()),
                }
            }
        });
        Self { connected, stop, task }
    }

    async fn finish(self) -> End {
        let _ = self.stop.send(());
        self.task.await.unwrap()
    }

    /// Waits until our end is connected too, and takes what it got.
    async fn connected(mut self) -> Box<Connected> {
        tokio::time::timeout(DEADLINE, &mut self.connected).await.expect("we connect in time").unwrap();
        self.finish().await.connected.unwrap()
    }
}

fn config(certificate: Certificate, profiles: &[TheirProfile]) -> Config {
    Config {
        certificates: vec![certificate],
        srtp_protection_profiles: profiles.to_vec(),
        client_auth: ClientAuthType::RequireAnyClientCert,
        insecure_skip_verify: true,
        flight_interval: Duration::from_millis(50),
        ..Config::default()
    }
}

fn their_certificate() -> Certificate {
    Certificate::generate_self_signed(["other".to_owned()]).unwrap()
}

async fn handshake(
    conn: impl Conn + Send + Sync + 'static,
    config: Config,
    is_client: bool,
) -> Result<DTLSConn, dtls::Error> {
    let handshake = DTLSConn::new(Arc::new(conn), config, is_client, None);
    tokio::time::timeout(DEADLINE, handshake).await.expect("they end in time")
}

/// Their keys by their own exporter, cut as RFC 5764 §4.2 says: client key, server key, client salt, server salt.
async fn their_keys(conn: &DTLSConn, key_len: usize, salt_len: usize) -> [Vec<u8>; 4] {
    let state = conn.connection_state().await;
    let len = 2 * (key_len + salt_len);
    let block = state.export_keying_material("EXTRACTOR-dtls_srtp", &[], len).await.unwrap();
    let (keys, salts) = block.split_at(2 * key_len);
    let (client_key, server_key) = keys.split_at(key_len);
    let (client_salt, server_salt) = salts.split_at(salt_len);
    [client_key, server_key, client_salt, server_salt].map(<[u8]>::to_vec)
}

/// Ours and theirs are the same keys, ours padded with zeros.
fn assert_same(ours: &Connected, we_are_server: bool, theirs: &[Vec<u8>; 4]) {
    let (client, server) = if we_are_server { (&ours.rx, &ours.tx) } else { (&ours.tx, &ours.rx) };
    let [client_key, server_key, client_salt, server_salt] = theirs;
    for (ours, theirs) in [(client, (client_key, client_salt)), (server, (server_key, server_salt))] {
        assert_eq!(ours.key[..theirs.0.len()], theirs.0[..]);
        assert!(ours.key[theirs.0.len()..].iter().all(|&b| b == 0));
        assert_eq!(ours.salt[..theirs.1.len()], theirs.1[..]);
        assert!(ours.salt[theirs.1.len()..].iter().all(|&b| b == 0));
    }
}

/// Profiles in the order of Chromium, which puts the dearest first.
const CHROMIUM: [TheirProfile; 3] = [
    TheirProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    TheirProfile::Srtp_Aead_Aes_256_Gcm,
    TheirProfile::Srtp_Aead_Aes_128_Gcm,
];

#[tokio::test]
async fn our_server_and_their_client_derive_the_same_keys() {
    let cases: [(&[TheirProfile], SrtpProfile, usize, usize); 4] = [
        (&CHROMIUM, SrtpProfile::AeadAes128Gcm, 16, 12),
        (&CHROMIUM[..2], SrtpProfile::AeadAes256Gcm, 32, 12),
        (&CHROMIUM[..1], SrtpProfile::Aes128CmHmacSha1_80, 16, 14),
        (
            &[TheirProfile::Srtp_Aes128_Cm_Hmac_Sha1_32, TheirProfile::Srtp_Aead_Aes_128_Gcm],
            SrtpProfile::AeadAes128Gcm,
            16,
            12,
        ),
    ];
    let identity = Identity::generate().unwrap();
    for (offered, profile, key_len, salt_len) in cases {
        let (ours, theirs) = conn_pipe::pipe();
        let driver = Driver::start(Dtls::accept(&identity, Instant::now()).unwrap(), ours, |_, _| false);
        let certificate = their_certificate();
        let client = handshake(theirs, config(certificate.clone(), offered), true).await.unwrap();
        let keys = their_keys(&client, key_len, salt_len).await;
        let connected = driver.connected().await;
        assert_eq!(connected.profile, profile, "offered {offered:?}");
        assert_eq!(connected.version, DtlsVersion::V1_2);
        assert_eq!(connected.peer_certificate_der, certificate.certificate[0].as_ref());
        assert_same(&connected, true, &keys);
        assert_eq!(client.connection_state().await.peer_certificates[0], identity.certificate_der());
    }
}

#[tokio::test]
async fn our_client_and_their_server_derive_the_same_keys() {
    let identity = Identity::generate().unwrap();
    let (ours, theirs) = conn_pipe::pipe();
    let driver = Driver::start(Dtls::connect(&identity, Instant::now()).unwrap(), ours, |_, _| false);
    let certificate = their_certificate();
    let server = handshake(theirs, config(certificate.clone(), &CHROMIUM), false).await.unwrap();
    // As server they take the first of the client's list, which is ours.
    let keys = their_keys(&server, 16, 12).await;
    let connected = driver.connected().await;
    assert_eq!(connected.profile, SrtpProfile::AeadAes128Gcm);
    assert_eq!(connected.version, DtlsVersion::V1_2);
    assert_eq!(connected.peer_certificate_der, certificate.certificate[0].as_ref());
    assert_same(&connected, false, &keys);
    assert_eq!(server.connection_state().await.peer_certificates[0], identity.certificate_der());
}

/// In DTLS 1.2 the server's Finished is the last flight and no timer of its own repeats it: the client's repeated
/// flight must draw it again, though our server is connected by then.
#[tokio::test]
async fn any_one_datagram_may_be_lost_toward_their_client() {
    let identity = Identity::generate().unwrap();
    for lost_is_ours in [true, false] {
        for lost in 0..3 {
            let (ours, theirs) = conn_pipe::pipe();
            let dtls = Dtls::accept(&identity, Instant::now()).unwrap();
            let is_lost = Box::new(move |is_ours, n| is_ours == lost_is_ours && n == lost);
            let driver = Driver::start_with(dtls, ours, is_lost);
            let client = handshake(theirs, config(their_certificate(), &CHROMIUM), true).await.unwrap();
            let keys = their_keys(&client, 16, 12).await;
            let connected = driver.connected().await;
            assert_same(&connected, true, &keys);
        }
    }
}

#[tokio::test]
async fn their_close_is_told() {
    let identity = Identity::generate().unwrap();
    let (ours, theirs) = conn_pipe::pipe();
    let driver = Driver::start(Dtls::accept(&identity, Instant::now()).unwrap(), ours, |_, _| false);
    let client = handshake(theirs, config(their_certificate(), &CHROMIUM), true).await.unwrap();
    client.close().await.unwrap();
    drop(client); // Their half of the pipe with it: the driver ends after the last datagram.
    let end = tokio::time::timeout(DEADLINE, driver.task).await.unwrap().unwrap();
    assert!(end.connected.is_some());
    assert!(end.is_closed && end.failed.is_none(), "{:?}", end.failed);
}

/// How a handshake with a client of this configuration fails, and that the client is told.
async fn refused(config: Config) -> DtlsError {
    let identity = Identity::generate().unwrap();
    let (ours, theirs) = conn_pipe::pipe();
    let driver = Driver::start(Dtls::accept(&identity, Instant::now()).unwrap(), ours, |_, _| false);
    // Some of their failures come as an error, some only close what was opened: neither may be a connection of ours.
    let theirs = handshake(theirs, config, true).await;
    if let Ok(client) = &theirs {
        let mut buf = [0; 64];
        assert!(client.read(&mut buf, Some(DEADLINE)).await.is_err(), "the client is told");
    }
    let end = driver.finish().await;
    assert!(end.connected.is_none());
    end.failed.expect("our end names the failure")
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let config = Config { certificates: vec![], ..config(their_certificate(), &CHROMIUM) };
    assert_eq!(refused(config).await, DtlsError::NoCertificate);
}

#[tokio::test]
async fn a_client_without_srtp_is_refused() {
    assert_eq!(refused(config(their_certificate(), &[])).await, DtlsError::NoSrtpProfile);
}

#[tokio::test]
async fn a_client_that_refuses_us_is_named() {
    let config = Config {
        verify_peer_certificate: Some(Arc::new(|_, _| Err(dtls::Error::Other("not the one that was offered".into())))),
        ..config(their_certificate(), &CHROMIUM)
    };
    let error = refused(config).await;
    assert!(matches!(&error, DtlsError::Alert(name) if name.contains("BAD_CERTIFICATE")), "{error}");
}
