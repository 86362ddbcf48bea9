//! Against OpenSSL, which GStreamer and ffmpeg speak DTLS by. It runs as the command line tool in a process of its
//! own: in ours its symbols would clash with BoringSSL's. It is the independent stack that has RSA certificates.

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use boring::x509::X509;
use controlplane::dtls::{Dtls, DtlsVersion, Identity, fingerprint_matches};
use proto::plane::SrtpProfile;

use crate::handshake::rsa_identity;
use crate::pair::End;

const DEADLINE: Duration = Duration::from_secs(20);

/// `openssl s_client` with its certificate's files; both go when the test ends, however it ends.
struct Client {
    child: Child,
    folder: PathBuf,
}

impl Client {
    fn start(name: &str, server: &UdpSocket, identity: &Identity, srtp: &str, export_len: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("uprtc-dtls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [certificate, key] = ["certificate.der", "key.der"].map(|file| folder.join(file));
        std::fs::write(&certificate, identity.certificate_der()).unwrap();
        std::fs::write(&key, &*identity.private_key_der().unwrap()).unwrap();
        let child = Command::new("openssl")
            .args(["s_client", "-dtls1_2", "-connect", &server.local_addr().unwrap().to_string()])
            .args(["-certform", "DER", "-cert"])
            .arg(&certificate)
            .args(["-keyform", "DER", "-key"])
            .arg(&key)
            .args(["-use_srtp", srtp, "-keymatexport", "EXTRACTOR-dtls_srtp"])
            .args(["-keymatexportlen", &export_len.to_string()])
            .stdin(Stdio::piped()) // Open, or it would leave at once.
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs the `openssl` command line tool");
        Self { child, folder }
    }

    /// What it exported, once its side of the handshake is done.
    fn keying_material(&mut self) -> Vec<u8> {
        let lines = BufReader::new(self.child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let hex = lines.filter_map(|line| Some(line.trim().strip_prefix("Keying material: ")?.to_owned())).next();
        let hex = hex.expect("openssl exports keys");
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs our end over the socket until `is_done`.
fn run(end: &mut End, socket: &UdpSocket, is_done: impl Fn(&End) -> bool) {
    let begin = Instant::now();
    let mut buf = [0; 1500];
    while !is_done(end) {
        assert!(begin.elapsed() < DEADLINE, "{:?}", end.failed);
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        if let Ok((len, from)) = socket.recv_from(&mut buf) {
            socket.connect(from).unwrap();
            end.dtls.handle(Instant::now(), &buf[..len]);
        }
        if end.dtls.poll_timeout().is_some_and(|at| at <= Instant::now()) {
            end.dtls.handle_timeout(Instant::now());
        }
        while let Some(datagram) = end.dtls.poll_transmit() {
            socket.send(&datagram).unwrap();
        }
        end.drain_events();
    }
}

fn assert_interop(name: &str, identity: &Identity, srtp: &str, profile: SrtpProfile, key_len: usize, salt_len: usize) {
    let ours = Identity::generate().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut client = Client::start(name, &socket, identity, srtp, 2 * (key_len + salt_len));
    let mut end = End::new(Dtls::accept(&ours, Instant::now()).unwrap());
    run(&mut end, &socket, |end| end.connected.is_some() || end.failed.is_some());
    let connected = end.connected.take().unwrap_or_else(|| panic!("{name}: {:?}", end.failed));
    assert_eq!((connected.version, connected.profile), (DtlsVersion::V1_2, profile), "{name}");

    let block = client.keying_material();
    let salts = &block[2 * key_len..];
    assert_eq!(connected.rx.key[..key_len], block[..key_len], "{name}: the client's key");
    assert_eq!(connected.tx.key[..key_len], block[key_len..2 * key_len], "{name}: the server's key");
    assert_eq!(connected.rx.salt[..salt_len], salts[..salt_len], "{name}: the client's salt");
    assert_eq!(connected.tx.salt[..salt_len], salts[salt_len..], "{name}: the server's salt");

    let der = &connected.peer_certificate_der;
    assert_eq!(fingerprint_matches(der, "sha-256", &identity.fingerprint_sha256()), Ok(true));
    assert_eq!(fingerprint_matches(der, "sha-256", &ours.fingerprint_sha256()), Ok(false));

    drop(client.child.stdin.take()); // The end of its input makes it close.
    run(&mut end, &socket, |end| end.is_closed || end.failed.is_some());
    assert!(end.is_closed, "{name}: {:?}", end.failed);
}

#[test]
fn an_rsa_client_is_accepted_and_its_fingerprint_tells_it_from_another() {
    for bits in [2048, 4096] {
        let identity = rsa_identity(bits);
        let key = X509::from_der(identity.certificate_der()).unwrap().public_key().unwrap();
        assert_eq!(key.rsa().unwrap().size() * 8, bits);
        let name = format!("rsa-{bits}");
        assert_interop(&name, &identity, "SRTP_AES128_CM_SHA1_80", SrtpProfile::Aes128CmHmacSha1_80, 16, 14);
    }
}

#[test]
fn our_order_of_srtp_profiles_decides() {
    let identity = Identity::generate().unwrap();
    let all = "SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_256_GCM:SRTP_AEAD_AES_128_GCM";
    assert_interop("all", &identity, all, SrtpProfile::AeadAes128Gcm, 16, 12);
    let two = "SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_256_GCM";
    assert_interop("two", &identity, two, SrtpProfile::AeadAes256Gcm, 32, 12);
}
