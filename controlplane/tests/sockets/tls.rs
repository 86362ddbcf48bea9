//! The doors with a certificate: a TLS client of another hand in front of a real server. What changes on disk is seen by
//! new connections and by none that is open; who dawdles is shown out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use controlplane::auth::{Claims, KEY_LEN, TokenKey, TokenKeys};
use controlplane::driver::{self, Inbox, Request, ToSocket};
use controlplane::engine::{Input, Reply, ResourceReply};
use controlplane::http::{Limits, Site, SiteSettings, serve};
use controlplane::tls::{Figures, Files, Tls, provider};
use futures_util::{SinkExt, StreamExt};
use proto::signal::{ClientSignal, ServerSignal};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Nothing here takes longer, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(10);

fn key() -> TokenKey {
    TokenKey::new(&[7; KEY_LEN])
}

/// A certificate for `localhost` and its key.
struct Issue {
    certificate: CertificateDer<'static>,
    pem: String,
    key: String,
}

impl Issue {
    fn new() -> Issue {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (pem, key) = (made.cert.pem(), made.key_pair.serialize_pem());
        Issue { certificate: made.cert.der().clone(), pem, key }
    }
}

struct Server {
    folder: PathBuf,
    port: u16,
    tls: Arc<Tls>,
    site: Arc<Site>,
    inbox: Inbox,
    _stopping: watch::Sender<bool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Server {
    async fn start(name: &str, issue: &Issue, limits: Limits) -> Server {
        let folder = std::env::temp_dir().join(format!("uprtc-tls-doors-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let files = Files { certificate: folder.join("fullchain.pem"), key: folder.join("privkey.pem") };
        std::fs::write(&files.certificate, &issue.pem).unwrap();
        std::fs::write(&files.key, &issue.key).unwrap();
        let tls = Tls::load(files).unwrap();
        let (handle, inbox) = driver::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let terms = SiteSettings { tls: Some(tls.clone()), ..SiteSettings::default() };
        let site = Site::with(handle, TokenKeys::from(key()), Arc::default(), limits, terms);
        let (stopping, is_stopping) = watch::channel(false);
        tokio::spawn(serve(listener, site.clone(), is_stopping));
        Server { folder, port, tls, site, inbox, _stopping: stopping }
    }

    /// The files as they are once another pair is issued.
    fn replace(&self, issue: &Issue) {
        std::fs::write(self.folder.join("fullchain.pem"), &issue.pem).unwrap();
        std::fs::write(self.folder.join("privkey.pem"), &issue.key).unwrap();
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// A handshake that trusts this certificate alone.
    async fn shake_hands(&self, trusted: &Issue, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.shake_hands_on(self.tcp().await, trusted, alpn).await
    }

    async fn shake_hands_on(
        &self,
        stream: TcpStream,
        trusted: &Issue,
        alpn: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let connect = TlsConnector::from(Arc::new(config)).connect(name, stream);
        timeout(DEADLINE, connect).await.expect("an end of the handshake in time")
    }

    async fn until(&self, what: &str, is_met: impl Fn(&Figures) -> bool) {
        let met = async {
            while !is_met(&self.tls.figures()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, met).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.tls.figures()));
    }

    async fn request(&mut self) -> Request {
        timeout(DEADLINE, self.inbox.requests.recv()).await.expect("a request in time").unwrap()
    }
}

async fn ask(mut stream: TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    answer
}

const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn https_is_spoken_as_http_1_1_and_to_nobody_else() {
    let issue = Issue::new();
    let server = Server::start("https", &issue, Limits::default()).await;
    let stream = server.shake_hands(&issue, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(ask(stream, HEALTHZ).await.starts_with("HTTP/1.1 200"));
    let silent = server.shake_hands(&issue, &[]).await.expect("a client that names no protocol");
    assert!(ask(silent, HEALTHZ).await.starts_with("HTTP/1.1 200"));

    assert!(server.shake_hands(&issue, &["h2"]).await.is_err(), "HTTP/2 alone is not served");
    assert!(server.shake_hands(&Issue::new(), &[]).await.is_err(), "the certificate is another's");
    let mut plain = server.tcp().await;
    plain.write_all(HEALTHZ.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(DEADLINE, plain.read_to_end(&mut answer)).await.expect("the end in time");
    assert!(!answer.starts_with(b"HTTP"), "what is sent in the clear is not answered");
    server.until("the fates", |figures| figures.handshakes == [2, 3, 0, 0] && figures.half_open == 0).await;
}

#[tokio::test]
async fn a_whip_resource_has_an_https_address() {
    let issue = Issue::new();
    let mut server = Server::start("whip", &issue, Limits::default()).await;
    let token = key().sign(&Claims { publish: true, ..Claims::new("demo", "Ada", 60) }).unwrap();
    let port = server.port;
    let request = format!(
        "POST /whip/demo HTTP/1.1\r\nHost: localhost:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/sdp\r\n\
         Content-Length: 3\r\nConnection: close\r\n\r\nv=0"
    );
    let stream = server.shake_hands(&issue, &[]).await.unwrap();
    let asking = tokio::spawn(async move { ask(stream, &request).await });
    let Request::Ask { reply, .. } = server.request().await else { panic!("no offer came") };
    let opened = ResourceReply::Opened { resource: "0a".into(), sdp: "v=0".into(), tag: "t".into(), stun: None };
    reply.send(Reply::Resource(Ok(opened))).unwrap();
    let answer = asking.await.unwrap();
    assert!(answer.contains(&format!("location: https://localhost:{port}/whip/demo/sessions/0a\r\n")), "{answer}");
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_an_open_socket_goes_on() {
    let (first, second) = (Issue::new(), Issue::new());
    let mut server = Server::start("swap", &first, Limits::default()).await;
    let token = key().sign(&Claims::new("demo", "Ada", 60)).unwrap();
    let request = format!("wss://localhost/v1/rooms/demo/signal?token={token}").into_client_request().unwrap();
    let stream = server.shake_hands(&first, &[]).await.unwrap();
    let (mut client, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let Request::Open { outgoing, .. } = server.request().await else { panic!("no socket was opened") };

    server.replace(&second);
    server.site.refresh_certificate(false);
    assert!(server.shake_hands(&first, &[]).await.is_err(), "the former certificate is not served any more");
    let stream = server.shake_hands(&second, &[]).await.unwrap();
    let answer = ask(stream, HEALTHZ).await;
    assert!(answer.starts_with("HTTP/1.1 200"));
    for header in ["strict-transport-security: max-age=15768000\r\n", "cross-origin-opener-policy: same-origin\r\n"] {
        assert!(answer.contains(header), "{header} is missing in {answer}");
    }

    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::Signal { signal: ClientSignal::Ping {}, .. })));
    outgoing.push(ToSocket::Signal(Box::new(ServerSignal::Pong {}))).unwrap();
    let message = timeout(DEADLINE, client.next()).await.expect("an answer in time").unwrap().unwrap();
    assert_eq!(message.into_text().unwrap().as_str(), r#"{"type":"pong"}"#);

    // A pair that is no good changes nothing but a counter, whoever looks.
    server.replace(&Issue { key: first.key, ..Issue::new() });
    server.site.refresh_certificate(true);
    assert_eq!((server.tls.figures().reloads, server.tls.figures().reloads_failed), (1, 1));
    assert!(server.shake_hands(&second, &[]).await.is_ok());
}

#[tokio::test]
async fn who_dawdles_at_the_handshake_is_shown_out() {
    let issue = Issue::new();
    let limits = Limits { tls_half_open_max: 2, head_timeout: Duration::from_secs(2), ..Limits::default() };
    let server = Server::start("dawdle", &issue, limits).await;
    let mut dawdlers = Vec::new();
    for _ in 0..3 {
        let mut stream = server.tcp().await;
        stream.write_all(&[22, 3, 1, 2, 0]).await.unwrap(); // The head of a record that never comes.
        dawdlers.push(stream);
        let taken = dawdlers.len();
        server.until("it is taken", |figures| figures.half_open + figures.handshakes[3] as usize >= taken).await;
    }
    server.until("the oldest made room", |figures| figures.handshakes[3] == 1 && figures.half_open == 2).await;
    let stream = server.shake_hands(&issue, &[]).await.expect("who means it gets in");
    assert!(ask(stream, HEALTHZ).await.starts_with("HTTP/1.1 200"));
    server.until("the others ran out of time", |figures| figures.handshakes == [1, 0, 1, 2]).await;
    for mut stream in dawdlers {
        let ended = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the connection is closed");
    }
}

/// The attack by handshakes that are begun and left: those of one address displace each other, and a slow one of another address that
/// began before them all completes.
#[tokio::test]
async fn handshakes_of_one_address_do_not_displace_anothers() {
    let issue = Issue::new();
    let server = Server::start("flood", &issue, Limits { tls_half_open_max: 4, ..Limits::default() }).await;
    let from = async |source: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(([127, 0, 0, 1], server.port).into()).await.unwrap()
    };
    let slow = from([127, 0, 0, 2]).await;
    server.until("it is taken", |figures| figures.half_open == 1).await;
    let mut attack = Vec::new();
    for _ in 0..50 {
        attack.push(from([127, 0, 0, 66]).await);
    }
    server.until("they displaced each other", |figures| figures.handshakes[3] == 47 && figures.half_open == 4).await;
    let stream = server.shake_hands_on(slow, &issue, &[]).await.expect("the oldest is another's, and completes");
    assert!(ask(stream, HEALTHZ).await.starts_with("HTTP/1.1 200"));
}
