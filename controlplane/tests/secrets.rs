//! Nothing secret is logged, at whatever level: a whole call over a socket and another over WHIP, with everything that any
//! crate of the process says written down, and then looked through for what only its holder may know.

mod edge;
mod world;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use controlplane::auth::{Claims, KEY_FILE, TokenKey};
use controlplane::dtls::Identity;
use futures_util::{SinkExt, StreamExt};
use proto::plane::PeerKeys;
use proto::signal::{ClientSignal, PeerState, ServerSignal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tracing_subscriber::filter::LevelFilter;

use edge::{ANY, Controlplane, DEADLINE, Dataplane, Folder};

const SENDRECV: &str = include_str!("offers/chromium_sendrecv.sdp");

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Secrets with what they are.
#[derive(Default)]
struct Secrets(Vec<(&'static str, String)>);

impl Secrets {
    fn add(&mut self, what: &'static str, secret: &str) {
        assert!(secret.len() >= 8, "{what}: too short to be looked for");
        self.0.push((what, secret.to_owned()));
    }

    /// Bytes in the forms in which they would be written: hexadecimal, and as lists of numbers.
    fn add_bytes(&mut self, what: &'static str, bytes: &[u8]) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let list: Vec<String> = bytes.iter().take(6).map(u8::to_string).collect();
        self.add(what, &hex);
        self.add(what, &hex.to_uppercase());
        self.add(what, &list.join(", "));
    }

    /// The value of each of these attributes of an SDP.
    fn add_attributes(&mut self, what: &'static str, sdp: &str, attribute: &str) {
        let values: Vec<&str> = sdp.lines().filter_map(|line| line.strip_prefix(attribute)).collect();
        assert!(!values.is_empty(), "{sdp}");
        values.iter().for_each(|value| self.add(what, value));
    }

    fn add_keys(&mut self, keys: &PeerKeys) {
        self.add_bytes("an SRTP key", &keys.key[..16]);
        self.add_bytes("an SRTP salt", &keys.salt[..12]);
    }
}

/// A call over a socket: join, another token, a token that is no good.
async fn call(edge: &Controlplane, browser: &Identity, tokens: [&str; 3], secrets: &mut Secrets) {
    let address = format!("ws://{}/v1/rooms/demo/signal?token={}", edge.listening.http, tokens[0]);
    let (mut client, _) = connect_async(address).await.unwrap();
    let mut say = async |signal: Option<ClientSignal>, is_answer: &dyn Fn(&ServerSignal) -> bool| {
        if let Some(signal) = signal {
            client.send(Message::text(serde_json::to_string(&signal).unwrap())).await.unwrap();
        }
        loop {
            let message = timeout(DEADLINE, client.next()).await.expect("a signal in time").unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let signal: ServerSignal = serde_json::from_str(&text).unwrap();
            if is_answer(&signal) {
                return signal;
            }
        }
    };
    let ServerSignal::Welcome { session, .. } = say(None, &|_| true).await else { panic!("a welcome comes first") };
    secrets.add("a session", &session);
    let sdp = world::with_fingerprint(world::PAGE, browser);
    secrets.add_attributes("the client's ICE password", &sdp, "a=ice-pwd:");
    let offer = ClientSignal::Offer { sdp, tracks: world::page_tracks() };
    let answer = say(Some(offer), &|signal| matches!(signal, ServerSignal::Answer { .. })).await;
    let ServerSignal::Answer { sdp } = answer else { unreachable!() };
    secrets.add_attributes("our ICE password", &sdp, "a=ice-pwd:");
    say(None, &|signal| world::is_state(signal, PeerState::Connected)).await;
    let token = |token: &str| Some(ClientSignal::Token { token: token.to_owned() });
    say(token(tokens[1]), &|signal| matches!(signal, ServerSignal::Granted { .. })).await;
    say(token(tokens[2]), &|signal| matches!(signal, ServerSignal::Error { .. })).await;
    let resume = Some(ClientSignal::Resume { session });
    say(resume, &|signal| matches!(signal, ServerSignal::Error { .. })).await;
}

async fn http(edge: &Controlplane, request: &str) -> String {
    let mut stream = TcpStream::connect(edge.listening.http).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("an answer in time").unwrap();
    text
}

/// A call over WHIP, and requests that are refused with a token in their address.
async fn publish(edge: &Controlplane, browser: &Identity, token: &str, secrets: &mut Secrets) {
    let sdp = world::with_fingerprint(&SENDRECV.replace("a=sendrecv", "a=sendonly"), browser);
    secrets.add_attributes("the encoder's ICE password", &sdp, "a=ice-pwd:");
    let head = format!("Host: test\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n");
    let body = format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len());
    let answer = http(edge, &format!("POST /whip/demo HTTP/1.1\r\n{head}{body}")).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    secrets.add_attributes("our ICE password", &answer, "a=ice-pwd:");
    let resource = answer.lines().find_map(|line| line.split_once("demo/sessions/")).unwrap().1.trim();
    secrets.add("a WHIP session", resource);
    let connected = async {
        while !http(edge, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            .await
            .contains("completed_total 2")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, connected).await.expect("the encoder connects");
    for (request, status) in [
        (format!("PATCH /whip/demo/sessions/{resource} HTTP/1.1\r\n{head}Content-Length: 0\r\n\r\n"), "415"),
        (format!("GET /v1/rooms/demo/signal?token={token} HTTP/1.1\r\n{head}\r\n"), "426"),
        (format!("GET /nothing?token={token} HTTP/1.1\r\n{head}\r\n"), "404"),
        (
            format!("GET /v1/rooms/demo/signal?token={token}x HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
            "401",
        ),
        (format!("GET /v1/rooms?token={token} HTTP/1.1\r\n{head}\r\n"), "403"),
        (format!("NONSENSE {token}\r\n\r\n"), "400"),
    ] {
        let answer = http(edge, &request).await;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}");
        assert!(!answer.contains(token), "an answer shows no token");
    }
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(LevelFilter::TRACE);
    subscriber.with_writer(move || writer.clone()).init();
    let folder = Folder::new();
    let browser = Arc::new(Identity::generate().unwrap());
    let edge = Controlplane::start(&folder.0, ANY).await;
    let dataplane = Dataplane::start(&folder.0, browser.clone());
    edge.until_readyz(200).await;

    let key = TokenKey::load_or_create(&folder.0).unwrap();
    let claims = |exp_in| Claims { publish: true, subscribe: true, ..Claims::new("demo", "Ada", exp_in) };
    let tokens = [claims(60), claims(90), Claims { exp: 1, ..claims(0) }].map(|claims| key.sign(&claims).unwrap());
    let mut secrets = Secrets::default();
    for token in &tokens {
        secrets.add("a token's signature", token.rsplit('.').next().unwrap());
    }
    secrets.add("the signing key", std::fs::read_to_string(folder.0.join(KEY_FILE)).unwrap().trim());
    call(&edge, &browser, [&tokens[0], &tokens[1], &tokens[2]], &mut secrets).await;
    publish(&edge, &browser, &tokens[0], &mut secrets).await;
    edge.stop(false).await;
    for peer in dataplane.end().peers.values() {
        secrets.add("an ICE password that is installed", std::str::from_utf8(&peer.open.pwd).unwrap());
        [&peer.rx, &peer.tx].into_iter().for_each(|keys| secrets.add_keys(keys.as_ref().expect("keys are installed")));
    }

    tracing::info!("this line is the last");
    let log = log.text();
    assert!(log.contains("linked to a worker") && log.contains("this line is the last"), "the log is heard:\n{log}");
    for (what, secret) in &secrets.0 {
        assert!(!log.contains(secret.as_str()), "{what} is in the log:\n{log}");
    }
    assert!(secrets.0.len() > 30 && !log.contains("token="), "{log}");
}
