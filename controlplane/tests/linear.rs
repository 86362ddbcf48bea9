//! Parsers of what strangers send take time in proportion to its length: four times the bytes must not take much more than four times the
//! processor time of this thread, which other work on the machine does not change. The WebSocket counts its steps itself
//! (`controlplane/src/http/websocket/tests.rs`).

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use controlplane::auth::{Claims, KEY_LEN, TokenKey, TokenKeys};
use controlplane::driver::{self, Inbox};
use controlplane::http::{Limits, Site, SiteSettings, serve};
use controlplane::sdp::{SDP_LEN_MAX, parse_fragment, parse_offer};
use proto::signal::ClientSignal;
use proto::stun::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// Longest and a quarter of it. What grows with the square takes 16 times as long.
const LEN: usize = SDP_LEN_MAX - 1024;
const FACTOR_MAX: f64 = 9.0;

/// Processor time of this thread so far, nanoseconds. The kernel brings it up to date at each tick, so what is measured takes many.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Processor time for handling the bytes once.
fn cost(bytes: &[u8], handle: &dyn Fn(&[u8])) -> f64 {
    let (begun, mut times) = (cpu_ns(), 0.0);
    loop {
        (0..8).for_each(|_| handle(black_box(bytes)));
        times += 8.0;
        let took = cpu_ns() - begun;
        if took > 40e6 {
            return took / times;
        }
    }
}

#[track_caller]
fn is_linear(what: &str, make: &dyn Fn(usize) -> Vec<u8>, handle: &dyn Fn(&[u8])) {
    is_linear_up_to(LEN, what, make, handle);
}

#[track_caller]
fn is_linear_up_to(len: usize, what: &str, make: &dyn Fn(usize) -> Vec<u8>, handle: &dyn Fn(&[u8])) {
    let (short, long) = (make(len / 4), make(len));
    assert!(long.len() <= SDP_LEN_MAX && long.len() >= 3 * short.len(), "{what}: {} and {}", short.len(), long.len());
    // What is not linear is not linear in any round; caches are shared with whatever else runs.
    let rounds = (0..3).map(|_| (cost(&short, handle), cost(&long, handle)));
    let factors: Vec<f64> =
        rounds.map(|(once, four_times)| four_times / once).take_while(|f| *f > FACTOR_MAX).collect();
    assert!(factors.len() < 3, "{what}: four times as much takes {factors:?} times as long");
}

const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n";
const SECTION: &str =
    "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\na=rtcp-mux\r\na=sendrecv\r\na=rtpmap:96 H264/90000\r\n";

#[test]
fn offers_are_read_in_time_that_grows_with_their_length_alone() {
    let handle = |bytes: &[u8]| drop(black_box(parse_offer(std::str::from_utf8(bytes).unwrap())));
    // One line again and again, at the session and in a section; `{}` is a number.
    let lines = [
        "a=ssrc:{} cname:x",
        "a=ssrc-group:FID {} {}",
        "a=rid:r{} send",
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 packetization-mode={}",
        "a=fmtp:96 x;x;x;x;x;x;x;x;x;x;x;x;x;x;x;x",
        "a=rtcp-fb:96 nack pli",
        "a=rtcp-fb:* nack",
        "a=extmap:{} urn:x",
        "a=fingerprint:sha-256 00:11:22",
        "a=candidate:{} 1 udp 1 10.0.0.1 9 typ host",
        "a=group:BUNDLE 0 0 0 0 0 0 0 0",
        "a=ice-options:a b c d e f g h",
        "a=simulcast:send a;b;c",
        "a=mid:m{}",
        "m=audio 9 UDP/TLS/RTP/SAVPF 1 2 3 4 5 6 7 8 9",
        "\r",
        "x",
    ];
    for line in lines {
        let repeated = |len: usize| -> String {
            let mut text = String::new();
            for n in 0.. {
                if text.len() >= len {
                    break;
                }
                text += &line.replace("{}", &(n + 1).to_string());
                text += "\r\n";
            }
            text
        };
        is_linear(line, &|len| [HEAD, SECTION, &repeated(len - 400)].concat().into_bytes(), &handle);
        is_linear(line, &|len| [HEAD, &repeated(len - 400), SECTION].concat().into_bytes(), &handle);
    }
    // One line that is long.
    let starts = [
        "a=fmtp:96 ",
        "m=video 9 UDP/TLS/RTP/SAVPF ",
        "a=group:BUNDLE ",
        "a=ssrc-group:SIM ",
        "a=fingerprint:sha-256 ",
    ];
    for start in starts {
        for piece in
            ["1 ", "x=1;", "ab:", ";", "/", "sprop-parameter-sets=Z0LAH9oBQBbsBagICAoAAAMAAgAAAwBlHjBkkA==,aM48gA==;"]
        {
            let long = |len: usize| [HEAD, SECTION, start, &piece.repeat((len - 400) / piece.len()), "\r\n"].concat();
            is_linear(&format!("{start}{piece}"), &|len| long(len).into_bytes(), &handle);
        }
    }
}

#[test]
fn fragments_are_read_in_time_that_grows_with_their_length_alone() {
    let handle = |bytes: &[u8]| drop(black_box(parse_fragment(std::str::from_utf8(bytes).unwrap())));
    for line in
        ["a=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n", "a=ice-ufrag:abcd\r\n", "a=mid:0\r\n", "\r", "\n", "a=x"]
    {
        is_linear(line, &|len| line.repeat(len / line.len()).into_bytes(), &handle);
    }
}

#[test]
fn signals_are_read_in_time_that_grows_with_their_length_alone() {
    let handle = |bytes: &[u8]| drop(black_box(serde_json::from_slice::<ClientSignal>(bytes)));
    let candidate = r#"{"candidate":"candidate:1 1 udp 1 10.0.0.1 9 typ host","sdpMid":"0"},"#;
    let signals: [(&str, &str, &str); 6] = [
        (r#"{"type":"candidates","candidates":["#, candidate, r#"{"candidate":""}]}"#),
        (r#"{"type":"offer","sdp":""#, "\\u00e4", r#""}"#),
        (r#"{"type":"offer","x":["#, "[],", "0]}"),
        (r#"{"type":"offer","tracks":{"#, r#""a":{},"#, r#""b":{}}}"#),
        (r#"{"type":"token","token":""#, "x", r#""}"#),
        ("", "[", ""),
    ];
    for (start, piece, end) in signals {
        is_linear(start, &|len| [start, &piece.repeat((len - 200) / piece.len()), end].concat().into_bytes(), &handle);
    }
}

#[test]
fn tokens_are_read_in_time_that_grows_with_their_length_alone() {
    let keys: TokenKeys = TokenKey::new(&[7; KEY_LEN]).into();
    let handle = |bytes: &[u8]| drop(black_box(keys.verify(std::str::from_utf8(bytes).unwrap())));
    for piece in ["eyJ", ".", "eyJhbGciOiJIUzI1NiJ9.", "="] {
        is_linear(piece, &|len| piece.repeat(len / piece.len()).into_bytes(), &handle);
        let long = |len: usize| {
            ["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.", &piece.repeat(len / piece.len() - 20), ".AAAA"].concat()
        };
        is_linear(piece, &|len| long(len).into_bytes(), &handle);
    }
}

#[test]
fn stun_is_read_in_time_that_grows_with_its_length_alone() {
    let handle = |bytes: &[u8]| {
        if let Ok(message) = Message::parse(bytes) {
            black_box((message.is_binding_request(), message.has_fingerprint(), message.check_fingerprint()));
            black_box(message.unknown_attributes().len());
        }
    };
    // A message has at most 64 KiB: so many of them are handled for the longest.
    for attribute in [[0x7f, 0xee, 0, 0], [0x80, 0x28, 0, 0], [0, 6, 0, 0], [0, 8, 0, 0], [0xc0, 0x57, 0, 0]] {
        let message = |len: usize| {
            let attributes = attribute.repeat((len / 4).min(65_000) / 4);
            let head =
                [&[0, 1][..], &(attributes.len() as u16).to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], &[7; 12]].concat();
            [head, attributes].concat()
        };
        is_linear(&format!("{attribute:x?}"), &message, &handle);
    }
}

/// An HTTP server on this thread, without an engine: what is sent to it is to be wrong.
struct Door {
    runtime: Runtime,
    address: SocketAddr,
    _inbox: Inbox,
    _stopping: watch::Sender<bool>,
}

impl Door {
    fn open(limits: Limits) -> Door {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, inbox) = driver::channel();
        let key = TokenKey::new(&[7; KEY_LEN]);
        let site = Site::with(handle, TokenKeys::from(key), Arc::default(), limits, SiteSettings::default());
        let (stopping, is_stopping) = watch::channel(false);
        let address = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, site, is_stopping));
            address
        });
        Door { runtime, address, _inbox: inbox, _stopping: stopping }
    }

    /// Sends these bytes in pieces, each of which is read by itself, and reads what is answered.
    fn knock(&self, bytes: &[u8], piece: usize) -> Vec<u8> {
        self.runtime.block_on(async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for part in bytes.chunks(piece) {
                if stream.write_all(part).await.is_err() {
                    break; // It was refused already.
                }
                tokio::task::yield_now().await;
            }
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await; // As above.
            answer
        })
    }
}

/// Nothing waits for its turn here.
fn unhurried() -> Limits {
    let many = 1_000_000;
    Limits {
        source_requests_per_second: many,
        all_requests_per_second: many,
        requests_per_second: many,
        ..Limits::default()
    }
}

/// Longer than a server takes, so that what grows faster than the length shows beside the cost of a connection.
#[test]
fn heads_of_requests_are_read_in_time_that_grows_with_their_length_alone() {
    let door = Door::open(Limits { head_len_max: 2 * LEN, headers_max: 2 * LEN, ..unhurried() });
    let heads: [(&str, &str, &str); 6] = [
        ("GET /", "a", " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        ("GET /healthz?", "a=b&", " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ", "y ", "\r\n\r\n"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", "X: y\r\n", "\r\n"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: ", "a=b; ", "\r\n\r\n"),
        ("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: ", "10.0.0.1, ", "1\r\n\r\n"),
    ];
    for (start, piece, end) in heads {
        let make = |len: usize| [start, &piece.repeat(len / piece.len()), end].concat().into_bytes();
        assert!(door.knock(&make(100), 10_000).starts_with(b"HTTP/1.1 "), "{start}");
        for cut in [32, 4096] {
            is_linear_up_to(LEN / 2, start, &make, &|bytes| drop(door.knock(bytes, cut)));
        }
    }
}

#[test]
fn bodies_of_requests_are_read_in_time_that_grows_with_their_length_alone() {
    const BODY_LEN: usize = 15_000; // Less than the most that is read, which is 16 KiB.
    let door = Door::open(unhurried());
    let claims = Claims { admin: true, ..Claims::new("red", "admin", 600) };
    let token = TokenKey::new(&[7; KEY_LEN]).sign(&claims).unwrap();
    let request = |body: &str, connection: &str| {
        let fields = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        let length = body.len();
        format!("PUT /v1/rooms/red HTTP/1.1\r\nHost: x\r\n{fields}{connection}Content-Length: {length}\r\n\r\n{body}")
    };
    let bodies: [(&str, &str, &str); 8] = [
        (r#"{"peers_max":"x","y":["#, "[],", "0]}"),
        (r#"{"peers_max":"x","y":{"#, r#""a":{},"#, r#""b":{}}}"#),
        (r#"{"peers_max":"x","y":""#, "\\u00e4", r#""}"#),
        (r#"{"peers_max":"x","y":"#, "1", "}"),
        (r#"{"peers_max":"x","y":0."#, "1", "}"),
        (r#"{"peers_max":"x","#, r#""y":1,"#, r#""z":1}"#),
        ("", "[", ""),
        ("", " ", ""),
    ];
    for (start, piece, end) in bodies {
        // Ten on one connection, so that they and not the connection are measured.
        let make = |len: usize| {
            let body = [start, &piece.repeat(len / piece.len()), end].concat();
            [request(&body, "").repeat(9), request(&body, "Connection: close\r\n")].concat().into_bytes()
        };
        let answers = String::from_utf8(door.knock(&make(100), 10_000)).unwrap();
        assert_eq!(answers.matches("HTTP/1.1 4").count(), 10, "{start}{piece}: {answers}");
        for cut in [64, 4096] {
            is_linear_up_to(BODY_LEN, start, &make, &|bytes| drop(door.knock(bytes, cut)));
        }
    }
}
