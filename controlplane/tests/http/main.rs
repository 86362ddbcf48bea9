//! The doors from outside: a real server on a port of the kernel's choice, a plain TCP client for HTTP and another
//! WebSocket implementation's client for the signalling socket. The test stands where the engine's task stands.

mod limits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use controlplane::auth::{Claims, KEY_LEN, TTL_MAX_S, TokenKey, TokenKeys};
use controlplane::driver::{self, Closing, Inbox, Outgoing, Request, ToSocket};
use controlplane::engine::Input;
use controlplane::http::{Audience, Limits, Network, Site, SiteSettings, serve};
use controlplane::metrics::Sample;
use controlplane::registry::Registry;
use controlplane::revocations::{Revocation, Whose};
use futures_util::{SinkExt, StreamExt};
use proto::signal::{ClientSignal, ErrorCode, ServerSignal};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Nothing here takes longer, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(10);

fn key() -> TokenKey {
    TokenKey::new(&[7; KEY_LEN])
}

fn token(room: &str) -> String {
    key().sign(&Claims { publish: true, ..Claims::new(room, "Ada", 60) }).unwrap()
}

struct Server {
    address: String,
    inbox: Inbox,
    stopping: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits) -> Server {
        Self::on(limits, SiteSettings::default()).await
    }

    async fn on(limits: Limits, terms: SiteSettings) -> Server {
        let (handle, inbox) = driver::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let site = Site::with(handle, TokenKeys::from(key()), Arc::default(), limits, terms);
        let (stopping, is_stopping) = watch::channel(false);
        Server { address, inbox, stopping, serving: tokio::spawn(serve(listener, site, is_stopping)) }
    }

    fn signal_address(&self, room: &str) -> String {
        format!("ws://{}/v1/rooms/{room}/signal?token={}", self.address, token(room))
    }

    /// A socket in the room `demo`, with the engine's end of it.
    async fn join(&mut self) -> (Client, Outgoing) {
        let (client, _) = connect_async(self.signal_address("demo")).await.unwrap();
        match self.request().await {
            Request::Open { outgoing, .. } => (client, outgoing),
            other => panic!("{other:?}"),
        }
    }

    async fn request(&mut self) -> Request {
        timeout(DEADLINE, self.inbox.requests.recv()).await.expect("a request in time").unwrap()
    }

    async fn get(&self, path: &str) -> Answer {
        Self::get_from(&self.address, path).await
    }

    async fn get_from(address: &str, path: &str) -> Answer {
        Self::ask_at(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")).await
    }

    async fn ask(&self, head: &str) -> Answer {
        Self::ask_at(&self.address, head).await
    }

    async fn ask_at(address: &str, head: &str) -> Answer {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut text)).await.expect("an answer in time").unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        Answer { head: head.to_lowercase(), body: body.to_owned() }
    }
}

struct Answer {
    head: String,
    body: String,
}

impl Answer {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.head);
        let body: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["status"], self.status());
        assert!(!body["detail"].as_str().unwrap().is_empty());
        (self.status(), body["code"].as_str().unwrap().to_owned())
    }
}

/// The next message that is not a ping.
async fn next(client: &mut Client) -> Option<Result<Message, Error>> {
    loop {
        match timeout(DEADLINE, client.next()).await.expect("a message in time") {
            Some(Ok(Message::Ping(_))) => {}
            other => return other,
        }
    }
}

async fn signal(client: &mut Client) -> ServerSignal {
    match next(client).await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn error_code(client: &mut Client) -> (Value, bool) {
    match signal(client).await {
        ServerSignal::Error { code, fatal, .. } => (serde_json::to_value(code).unwrap(), fatal),
        other => panic!("{other:?}"),
    }
}

async fn close_code(client: &mut Client) -> CloseCode {
    match next(client).await {
        Some(Ok(Message::Close(Some(frame)))) => frame.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn health_and_readiness_are_two_things() {
    let server = Server::start(Limits::default()).await;
    let answer = server.get("/healthz").await;
    assert_eq!((answer.status(), answer.body.trim()), (200, "ok"));
    let answer = server.get("/readyz").await;
    assert_eq!(answer.problem(), (503, "no_dataplane".into()));
    assert!(answer.header("retry-after").is_some());
    server.inbox.readiness.send_replace(true);
    assert_eq!(server.get("/readyz").await.status(), 200);
    server.inbox.readiness.send_replace(false);
    assert_eq!(server.get("/readyz").await.status(), 503);
}

#[tokio::test]
async fn the_page_allows_nothing_that_it_does_not_need() {
    let server = Server::start(Limits::default()).await;
    for path in ["/", "/r/demo", "/r/demo?token=x&join=1"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.header("content-type").unwrap().starts_with("text/html"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!answer.body.contains("style="), "nothing inline on {path}");
        // But one script of the meeting page, whose hash is in the policy: a browser runs it in bench/e2e/loading.test.mjs.
        let scripts = if path == "/" { 0 } else { 1 };
        assert_eq!(answer.body.matches("<script>").count(), scripts, "{path}");
        assert_eq!(policy.matches("'sha256-").count(), 1, "{policy}");
    }
    for path in ["/web/app.js", "/sdk/uprtc.js"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status(), answer.header("content-type")), (200, Some("text/javascript; charset=utf-8")));
    }
    // Nothing is at the root of the server: the page works under a proxy's path prefix, too.
    for path in ["/", "/r/demo", "/docs"] {
        let body = server.get(path).await.body;
        assert!(!body.contains("=\"/"), "an address from the root on {path}");
    }
    assert_eq!(server.get("/web/style.css").await.status(), 200);
    let types = server.get("/sdk/uprtc.d.ts").await;
    assert!(types.body.contains("export declare function connect("), "{}", types.head);
    assert_eq!(types.header("access-control-allow-origin"), Some("*"));
    assert_eq!(server.get("/sdk/uprtc.js").await.header("access-control-allow-origin"), Some("*"));
}

/// Files of the page lie in two folders; what only its build and its tests need is not served.
#[tokio::test]
async fn every_file_of_the_page_is_served() {
    let server = Server::start(Limits::default()).await;
    let web = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("web");
    for (folder, address) in [(web.clone(), "/web"), (web.join("sdk"), "/sdk")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".css") || name.ends_with(".js") {
                assert_eq!(server.get(&format!("{address}/{name}")).await.status(), 200, "{address}/{name}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_a_problem() {
    let server = Server::start(Limits::default()).await;
    for path in ["/nothing", "/web/nothing.js", "/sdk/..%2fapp.js", "/v1/nothing"] {
        assert_eq!(server.get(path).await.problem(), (404, "not_found".into()), "{path}");
    }
    for path in ["/r/a%20b", "/r/a%2fb", "/r/%2a", "/v1/rooms/a%20b/signal", &format!("/r/{}", "a".repeat(65))] {
        assert_eq!(server.get(path).await.problem(), (400, "room_name".into()), "{path}");
    }
    let head = "POST /healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(server.ask(head).await.problem(), (405, "method_not_allowed".into()));
    // What the framework refuses by itself has a body, too.
    assert_eq!(server.get("/r/%ff").await.problem(), (400, "bad_request".into()));
}

/// Who opens an address in a browser reads a page, with a style sheet that is found from every depth.
#[tokio::test]
async fn a_refusal_is_a_page_for_people_and_json_for_programs() {
    let server = Server::start(Limits::default()).await;
    const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let ask = async |method: &str, path: &str, accept: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\nConnection: close\r\n");
        server.ask(&format!("{head}Content-Length: 0\r\n\r\n")).await
    };
    for (path, status, root) in [
        ("/nothing", 404, "./web/"),
        ("/a/b/c", 404, "../../web/"),
        ("/web/nothing.js", 404, "../web/"),
        ("/v1/nothing", 404, "../web/"),
        ("/r/no%20room", 400, "../web/"),
        ("/r/%ff", 400, "../web/"),
        ("/v1/rooms", 401, "../web/"),
        ("/v1/tokens", 405, "../web/"),
        ("/whip/demo", 405, "../web/"),
        ("/v1/rooms/demo/signal", 401, "../../../web/"),
        ("/readyz", 503, "./web/"),
    ] {
        let page = ask("GET", path, BROWSER).await;
        assert_eq!((page.status(), page.header("content-type")), (status, Some("text/html; charset=utf-8")), "{path}");
        assert!(
            page.body.contains("<h1>") && page.body.contains(&format!("href=\"{root}style.css\"")),
            "{}",
            page.body
        );
        assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert!(page.head.contains("\r\nvary: accept"), "{}", page.head);
        assert_eq!(page.header("allow").is_some(), status == 405, "{path}: {}", page.head);
        for accept in ["*/*", "application/json", "application/problem+json, text/html;q=0.5"] {
            assert_eq!(ask("GET", path, accept).await.problem().0, status, "{path} {accept}");
        }
    }
    // A form is no navigation that a person can read, and pages speak by `fetch`.
    assert_eq!(ask("POST", "/healthz", BROWSER).await.problem(), (405, "method_not_allowed".into()));
    assert_eq!(ask("GET", "/healthz", BROWSER).await.status(), 200);
}

#[tokio::test]
async fn the_page_is_framed_by_those_whom_the_operator_names() {
    let frame = |answer: &Answer| {
        let policy = answer.header("content-security-policy").unwrap().to_owned();
        policy.split("; ").find_map(|part| part.strip_prefix("frame-ancestors ")).unwrap().to_owned()
    };
    let nobody = Server::start(Limits::default()).await;
    assert_eq!(frame(&nobody.get("/r/demo").await), "'none'");
    let origins = vec!["https://app.example".to_owned(), "http://127.0.0.1:3000".to_owned()];
    let some = Server::on(Limits::default(), SiteSettings { frame_origins: origins, ..SiteSettings::default() }).await;
    let answer = some.get("/r/demo").await;
    assert_eq!(frame(&answer), "'self' https://app.example http://127.0.0.1:3000");
    assert!(answer.header("permissions-policy").unwrap().contains("camera=(self)"));
    for path in ["/", "/docs", "/nothing"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/html\r\nConnection: close\r\n\r\n");
        assert_eq!(frame(&some.ask(&head).await), "'none'", "{path} is no meeting");
    }
}

/// Whom a proxy forwards is our own page's visitor if the proxy says so and is trusted.
#[tokio::test]
async fn the_pages_own_origin_is_the_one_that_a_trusted_proxy_names() {
    let ask = async |trusted: Vec<Network>, forwarded: &str| {
        let cors_origins = vec!["https://app.example".to_owned()];
        let terms = SiteSettings { cors_origins, trusted_proxies: trusted, ..SiteSettings::default() };
        let server = Server::on(Limits::default(), terms).await;
        let path = format!("/v1/rooms/demo/signal?token={}", token("demo"));
        let origin = "Origin: https://edge.example\r\n";
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{origin}{forwarded}Connection: close\r\n\r\n");
        server.ask(&head).await.problem().1 != "origin"
    };
    // Who is admitted goes on to the engine, which nobody plays here.
    let told = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: edge.example\r\n";
    assert!(!ask(Network::LOOPBACK.into(), "").await);
    assert!(ask(Network::LOOPBACK.into(), told).await);
    assert!(ask(Network::LOOPBACK.into(), "Forwarded: proto=https;host=edge.example\r\n").await);
    assert!(!ask(Vec::new(), told).await, "anybody can write these fields");
    assert!(!ask(vec!["192.0.2.0/24".parse().unwrap()], told).await);
}

#[tokio::test]
async fn a_wrong_token_is_told_so_before_the_upgrade() {
    let mut server = Server::start(Limits::default()).await;
    let path = "/v1/rooms/demo/signal";
    let answer = server.get(path).await;
    assert_eq!(answer.problem(), (401, "token_missing".into()));
    assert!(answer.body.contains("?token="), "a WebSocket of a browser can send no header: {}", answer.body);
    assert_eq!(answer.header("www-authenticate"), Some("bearer"));
    let answer = server.get(&format!("{path}?token=nonsense")).await;
    assert_eq!(answer.problem(), (401, "token_malformed".into()));
    assert_eq!(answer.header("www-authenticate"), Some("bearer error=\"invalid_token\""));
    let expired = key().sign(&Claims { exp: 1, ..Claims::new("demo", "Ada", 0) }).unwrap();
    assert_eq!(server.get(&format!("{path}?token={expired}")).await.problem(), (401, "token_expired".into()));
    let foreign = TokenKey::new(&[8; KEY_LEN]).sign(&Claims::new("demo", "Ada", 60)).unwrap();
    assert_eq!(server.get(&format!("{path}?token={foreign}")).await.problem(), (401, "token_signature".into()));
    let other = token("other");
    assert_eq!(server.get(&format!("{path}?token={other}")).await.problem(), (403, "wrong_room".into()));
    let plain = format!("{path}?token={}", token("demo"));
    let (answer, ()) = tokio::join!(Server::get_from(&server.address, &plain), async {
        match timeout(DEADLINE, server.inbox.requests.recv()).await.unwrap() {
            Some(Request::MayJoin { room, reply, .. }) if room == "demo" => reply.send(Ok(())).unwrap(),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(answer.problem(), (426, "upgrade_required".into()));

    let refused = connect_async(format!("ws://{}{path}?token=nonsense", server.address)).await;
    assert!(matches!(refused, Err(Error::Http(response)) if response.status() == 401));
}

#[tokio::test]
async fn a_token_is_taken_from_the_header_or_the_address() {
    let mut server = Server::start(Limits::default()).await;
    let mut request = format!("ws://{}/v1/rooms/demo/signal", server.address).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("bearer {}", token("*")).parse().unwrap());
    let (_client, _) = connect_async(request).await.unwrap();
    let opened = server.request().await; // It holds the way back, so the socket stays open.
    match &opened {
        Request::Open { room, grant, .. } => {
            assert_eq!((room.as_str(), grant.room.as_str(), grant.name.as_str()), ("demo", "*", "Ada"));
            assert_eq!((grant.publish, grant.subscribe, grant.admin), (true, false, false));
            assert!(grant.expires_at.is_some());
        }
        other => panic!("{other:?}"),
    }
    server.join().await;
}

#[tokio::test]
async fn signals_go_both_ways_in_order_and_the_end_is_reported_once() {
    let mut server = Server::start(Limits::default()).await;
    let (mut client, outgoing) = server.join().await;
    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    client.send(Message::text(r#"{"type":"leave"}"#)).await.unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::Signal { signal: ClientSignal::Ping {}, .. })));
    assert!(matches!(server.request().await, Request::Input(Input::Signal { signal: ClientSignal::Leave {}, .. })));
    for i in 0..5 {
        let limits = ServerSignal::Limits { send_bps_max: i, video_bps_max: 0, audio_bps_max: 0 };
        outgoing.push(ToSocket::Signal(Box::new(limits))).unwrap();
    }
    outgoing.push(ToSocket::Close(Closing::Done)).unwrap();
    for i in 0..5 {
        assert!(matches!(signal(&mut client).await, ServerSignal::Limits { send_bps_max, .. } if send_bps_max == i));
    }
    assert_eq!(close_code(&mut client).await, CloseCode::Normal);
    assert!(matches!(server.request().await, Request::Input(Input::SocketClosed { .. })));

    let (client, _outgoing) = server.join().await;
    drop(client); // Without a word, as when a laptop is shut.
    assert!(matches!(server.request().await, Request::Input(Input::SocketClosed { .. })));
}

#[tokio::test]
async fn what_is_no_signal_is_refused_and_the_socket_goes_on() {
    let mut server = Server::start(Limits::default()).await;
    let (mut client, _outgoing) = server.join().await;
    let nested = "[".repeat(10_000);
    for text in ["", "nonsense", r#"{"type":"fly"}"#, r#"{"type":"track","mid":7,"active":true}"#, &nested] {
        client.send(Message::text(text)).await.unwrap();
        assert_eq!(error_code(&mut client).await, ("bad_signal".into(), false), "{text:.20}");
    }
    client.send(Message::binary(vec![0; 10])).await.unwrap();
    assert_eq!(error_code(&mut client).await, ("bad_signal".into(), false));
    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::Signal { signal: ClientSignal::Ping {}, .. })));
}

#[tokio::test]
async fn a_socket_that_the_engine_gave_up_is_told_to_come_again() {
    let mut server = Server::start(Limits::default()).await;
    let (mut client, outgoing) = server.join().await;
    drop(outgoing);
    assert_eq!(close_code(&mut client).await, CloseCode::Again);
    let (mut client, outgoing) = server.join_after_close().await;
    outgoing.push(ToSocket::Close(Closing::Restarting)).unwrap();
    assert_eq!(close_code(&mut client).await, CloseCode::Restart);
}

impl Server {
    async fn join_after_close(&mut self) -> (Client, Outgoing) {
        assert!(matches!(self.request().await, Request::Input(Input::SocketClosed { .. })));
        self.join().await
    }
}

const HEALTHZ: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n";

/// A connection from another address of this machine.
async fn connect_from(source: [u8; 4], address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(address.parse().unwrap()).await.unwrap()
}

/// Asks on a connection that stays open.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 15];
    let asked = stream.write_all(HEALTHZ).await.is_ok();
    let is_answered = asked && stream.read_exact(&mut answer).await.is_ok_and(|_| answer == *b"HTTP/1.1 200 OK");
    let mut rest = [0; 1024];
    let _ = timeout(Duration::from_millis(20), stream.read(&mut rest)).await;
    is_answered
}

#[tokio::test]
async fn a_request_has_one_host() {
    let server = Server::start(Limits::default()).await;
    for (fields, status) in [
        ("Host: test\r\n", 200),
        ("", 400),
        ("Host: test\r\nHost: test\r\n", 400),
        ("Host: test\r\nHost: other\r\n", 400),
        ("Host: te st\r\n", 400),
    ] {
        let answer = server.ask(&format!("GET /healthz HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")).await;
        assert_eq!(answer.status(), status, "{fields:?}");
    }
    assert_eq!(server.ask("GET /healthz HTTP/1.0\r\n\r\n").await.status(), 200, "HTTP/1.0 has none");
    let headers =
        ["Upgrade: websocket", "Connection: Upgrade, close", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"];
    let path = format!("/v1/rooms/demo/signal?token={}", token("demo"));
    let answer = server.ask(&format!("GET {path} HTTP/1.1\r\nHost: test\r\n{}\r\n\r\n", headers.join("\r\n"))).await;
    assert_eq!(answer.problem(), (400, "websocket_key".into()));
}

#[tokio::test]
async fn metrics_are_what_the_engine_says() {
    let mut server = Server::start(Limits::default()).await;
    let answering = async {
        match server.inbox.requests.recv().await {
            Some(Request::Sample { reply }) => reply.send(Sample { is_linked: true, ..Sample::default() }).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let asked = TcpStream::connect(&server.address).await.unwrap();
    let text = async move {
        let (mut stream, mut text) = (asked, String::new());
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        text
    };
    let (text, ()) = timeout(DEADLINE, async { tokio::join!(text, answering) }).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.contains(controlplane::metrics::CONTENT_TYPE), "{text}");
    assert!(text.contains("\nuprtc_linked 1\n"), "{text}");
    assert!(text.contains("\nuprtc_stun_requests_total{fate=\"answered\"} 0\n"), "{text}");
}

#[tokio::test]
async fn a_stop_waits_for_the_sockets() {
    let mut server = Server::start(Limits::default()).await;
    let (mut client, outgoing) = server.join().await;
    server.stopping.send_replace(true);
    assert!(timeout(Duration::from_millis(100), &mut server.serving).await.is_err(), "a socket is open");
    outgoing.push(ToSocket::Close(Closing::Restarting)).unwrap();
    assert_eq!(close_code(&mut client).await, CloseCode::Restart);
    drop(client);
    timeout(DEADLINE, server.serving).await.expect("the server ends").unwrap();
    assert!(TcpStream::connect(&server.address).await.is_err());
}

#[tokio::test]
async fn a_token_that_is_brought_to_a_socket_is_checked_as_at_the_door() {
    let folder = std::env::temp_dir().join(format!("uprtc-http-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let registry = Registry::load(&folder, 0).unwrap();
    let revoked = Claims::new("demo", "Ada", 60);
    let whose = Whose::Token(revoked.identity());
    let revocation = Revocation { room: "demo".into(), whose, issued_until: revoked.iat };
    registry.change(|rules| rules.revocations.add(revocation)).unwrap();
    let mut server =
        Server::on(Limits::default(), SiteSettings { registry: registry.into(), ..SiteSettings::default() }).await;
    let (mut client, _outgoing) = server.join().await;
    let bring = |token: String| Message::text(format!(r#"{{"type":"token","token":"{token}"}}"#));

    let fresh = Claims { publish: true, ..Claims::new("demo", "Ada", TTL_MAX_S) };
    client.send(bring(key().sign(&fresh).unwrap())).await.unwrap();
    match server.request().await {
        Request::Input(Input::Granted { grant, .. }) => {
            assert_eq!((grant.name.as_str(), grant.publish, grant.subscribe), ("Ada", true, false));
            assert_eq!((grant.expires_at, grant.token), (Some(fresh.exp), fresh.id()));
        }
        other => panic!("{other:?}"),
    }
    let expired = Claims { exp: 1, iat: 0, ..Claims::new("demo", "Ada", 0) };
    for (token, code) in [
        (key().sign(&revoked).unwrap(), "token_revoked: "),
        (key().sign(&expired).unwrap(), "token_expired: "),
        (TokenKey::new(&[8; KEY_LEN]).sign(&fresh).unwrap(), "token_signature: "),
        (token("red"), "wrong_room: "),
        ("nonsense".to_owned(), "token_malformed: "),
        (String::new(), "token_missing: "),
    ] {
        client.send(bring(token.clone())).await.unwrap();
        match signal(&mut client).await {
            ServerSignal::Error { code: ErrorCode::TokenRefused, message, fatal: false } => {
                assert!(message.starts_with(code), "{message}");
                assert!(token.is_empty() || !message.contains(&token), "an answer shows no token");
            }
            other => panic!("{other:?}"),
        }
    }
    client.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    assert!(matches!(server.request().await, Request::Input(Input::Signal { .. })), "the socket goes on");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn sockets_of_pages_of_other_origins_are_refused_where_some_are_named() {
    let open = async |server: &Server, origin: &str| {
        let mut request = server.signal_address("demo").into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match connect_async(request).await {
            Ok(_) => 101,
            Err(Error::Http(response)) => response.status().as_u16(),
            Err(other) => panic!("{other}"),
        }
    };
    let server = Server::start(Limits::default()).await;
    assert_eq!(open(&server, "https://evil.example").await, 101, "nobody is named");
    let cors_origins = vec!["https://app.example".to_owned()];
    let server = Server::on(Limits::default(), SiteSettings { cors_origins, ..SiteSettings::default() }).await;
    assert_eq!(open(&server, "https://app.example").await, 101);
    assert_eq!(open(&server, &format!("http://{}", server.address)).await, 101, "our own page");
    assert_eq!(open(&server, "https://evil.example").await, 403);
    assert!(connect_async(server.signal_address("demo")).await.is_ok(), "no browser, no origin");

    // The page that may asks why, and may read it; the other is told as little as the browser allows.
    let why = |origin: &str| {
        let path = "/v1/rooms/demo/signal?token=nonsense";
        format!("GET {path} HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n")
    };
    let answer = server.ask(&why("https://app.example")).await;
    assert_eq!(answer.problem(), (401, "token_malformed".into()));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"));
    let answer = server.ask(&why("https://evil.example")).await;
    assert_eq!((answer.problem(), answer.header("access-control-allow-origin")), ((403, "origin".into()), None));

    for (origin, allowed) in [("https://app.example", Some("https://app.example")), ("https://evil.example", None)] {
        let head =
            format!("OPTIONS /whip/demo HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n");
        assert_eq!(server.ask(&head).await.header("access-control-allow-origin"), allowed);
    }
}

#[tokio::test]
async fn metrics_are_for_whom_the_operator_says() {
    async fn status(server: &mut Server, headers: &str) -> u16 {
        let head = format!("GET /metrics HTTP/1.1\r\nHost: test\r\n{headers}Connection: close\r\n\r\n");
        let (address, inbox) = (server.address.clone(), &mut server.inbox);
        let asking = async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text.split(' ').nth(1).unwrap().parse().unwrap()
        };
        let answering = async {
            while let Some(Request::Sample { reply }) = inbox.requests.recv().await {
                reply.send(Sample::default()).unwrap();
            }
            std::future::pending::<u16>().await
        };
        timeout(DEADLINE, async {
            tokio::select! { status = asking => status, never = answering => never }
        })
        .await
        .expect("an answer in time")
    }
    let admin = |room: &str| key().sign(&Claims { admin: true, ..Claims::new(room, "prometheus", 60) }).unwrap();
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let proxied = "X-Forwarded-For: 192.0.2.7\r\n";
    let mut machine = Server::start(Limits::default()).await;
    assert_eq!((status(&mut machine, "").await, status(&mut machine, proxied).await), (200, 403));
    let mut all =
        Server::on(Limits::default(), SiteSettings { metrics: Audience::All, ..SiteSettings::default() }).await;
    assert_eq!(status(&mut all, proxied).await, 200);
    let mut tokens =
        Server::on(Limits::default(), SiteSettings { metrics: Audience::Admin, ..SiteSettings::default() }).await;
    assert_eq!(status(&mut tokens, "").await, 401);
    assert_eq!(status(&mut tokens, &bearer(&token("*"))).await, 403, "no admin");
    assert_eq!(status(&mut tokens, &bearer(&admin("demo"))).await, 403, "of one room");
    assert_eq!(status(&mut tokens, &bearer(&admin("*"))).await, 200);
}
