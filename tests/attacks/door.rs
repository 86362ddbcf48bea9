//! Attacks on the door: HTTP connections and requests, signalling sockets, and STUN, each by one address or one token.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use client::dtls::Identity;
use proto::signal::{ClientSignal, ServerSignal};

use crate::peer::{Draft, Peer};
use crate::scene::{ATTACKER, Attacker, Limits, Scene, connect, is_full};

/// How many in the full form, and how many in the short one.
fn count(full: usize, short: usize) -> usize {
    if is_full() { full } else { short }
}

/// Connections that each ask for `/docs` 150 times and read nothing.
#[test]
fn answers_that_nobody_reads() {
    let scene = Scene::start(&[]);
    let request = format!("GET /docs HTTP/1.1\r\nHost: {}\r\n\r\n", scene.http).repeat(150);
    let report = scene.under(|attacker| {
        let connections: Vec<TcpStream> = (0..count(1024, 300))
            .filter_map(|_| {
                let mut stream = attacker.connect().ok()?;
                stream.set_nonblocking(true).ok()?;
                let _ = stream.write(request.as_bytes());
                Some(stream)
            })
            .collect();
        attacker.rest();
        drop(connections);
    });
    report.assert_within(&Limits::default());
    assert!(scene.counter("uprtc_limited_total") > 0.0, "{report:?}");
    assert!(scene.log().contains("source 127.0.0.66"), "the log names the source: {}", scene.log());
}

/// More silent connections than the server has places.
#[test]
fn silent_connections() {
    let scene = Scene::start(&["--set", "connections-max=200"]);
    let report = scene.under(|attacker| {
        let mut connections = Vec::new();
        while attacker.goes_on() {
            connections.extend(attacker.connect());
            if connections.len() > 2000 {
                connections.clear();
            }
        }
    });
    report.assert_within(&Limits::default());
    assert!(scene.counter("uprtc_limited_total") > 0.0, "{report:?}");
}

/// A signalling socket of the room `attack` after its handshake.
fn open(attacker: &Attacker<'_>, token: &str) -> Option<TcpStream> {
    open_in(attacker.scene, "attack", token)
}

fn open_in(scene: &Scene, room: &str, token: &str) -> Option<TcpStream> {
    let mut stream = connect(ATTACKER, scene.http).ok()?;
    let head = format!(
        "GET /v1/rooms/{room}/signal?token={token} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        scene.http
    );
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(head.as_bytes()).ok()?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).ok()?;
    (status == *b"HTTP/1.1 101").then_some(stream)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u64).to_be_bytes();
    [&[first, 0xff][..], &len, &[0; 4], payload].concat()
}

/// Says something on a socket. What comes on it is dropped.
pub(crate) fn say(socket: &mut TcpStream, signal: &str) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    let mut bytes = [0; 65_536];
    while let Ok(1..) = socket.read(&mut bytes) {}
    socket.set_nonblocking(false)?;
    socket.write_all(&frame(0x81, signal.as_bytes()))
}

/// Joins a room from the attacker's address, with a microphone and two slots: the socket, and the peer, which is not connected yet.
pub(crate) fn join(scene: &Scene, room: &str, token: &str, identity: &Identity) -> (TcpStream, Peer) {
    let mut socket = open_in(scene, room, token).expect("a socket");
    let draft = Draft::new(1, 2);
    let offer = ClientSignal::Offer { sdp: draft.sdp(identity), tracks: Vec::new() };
    say(&mut socket, &serde_json::to_string(&offer).unwrap()).unwrap();
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    // Its frame is one line of JSON.
    let answer = loop {
        let begin = text.windows(ANSWER.len()).position(|part| part == ANSWER);
        let end = begin.and_then(|begin| text[begin..].iter().position(|&byte| byte == b'}').map(|len| begin + len));
        if let Some((begin, end)) = begin.zip(end) {
            break serde_json::from_slice(&text[begin..=end]).unwrap();
        }
        let len = socket.read(&mut bytes).expect("an answer");
        assert!(len > 0, "{}", String::from_utf8_lossy(&text));
        text.extend(&bytes[..len]);
    };
    let ServerSignal::Answer { sdp } = answer else { panic!("{answer:?}") };
    (socket, draft.answered(&sdp, ATTACKER, identity))
}

/// How the signal with the answer begins.
const ANSWER: &[u8] = br#"{"type":"answer""#;

/// A frame of half a megabyte, and millions of empty ones after it: it stopped the controlplane for nine seconds.
#[test]
fn empty_frames_after_a_long_one() {
    let scene = Scene::start(&[]);
    let token = scene.token(&["--room", "attack", "--name", "Mallory"]);
    let report = scene.under(|attacker| {
        let mut attack = frame(0x01, &[b'x'; 512 * 1024]);
        attack.extend([0x00, 0x80, 0, 0, 0, 0].repeat(1_000_000));
        while attacker.goes_on() {
            let Some(mut stream) = open(attacker, &token) else { continue };
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            for part in attack.chunks(64 * 1024) {
                if !attacker.goes_on() || stream.write_all(part).is_err() {
                    break;
                }
            }
        }
    });
    report.assert_within(&Limits::default());
}

/// One token opens all the sockets there are, with half a message on each; the call goes on, and another token still gets in.
#[test]
fn sockets_of_one_token() {
    let scene = Scene::start(&["--set", "sockets-max=100"]);
    let token = scene.token(&["--room", "attack", "--name", "Mallory"]);
    let report = scene.under(|attacker| {
        let half = &frame(0x01, &[b'x'; 300_000])[..30_000];
        let mut sockets = Vec::new();
        while attacker.goes_on() {
            if let Some(mut stream) = open(attacker, &token) {
                let _ = stream.set_nonblocking(true);
                let _ = stream.write(half);
                sockets.push(stream);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let other = attacker.scene.token(&["--room", "attack", "--name", "Other"]);
        assert!(open(attacker, &other).is_some(), "another token of the room gets in");
    });
    report.assert_within(&Limits::default());
    assert!(scene.counter("uprtc_limited_total") > 0.0, "{report:?}");
    assert!(scene.log().contains("token "), "the log names the token's id: {}", scene.log());
    assert!(!scene.log().contains(&token), "and never the token");
}

/// Offers of WHIP as fast as they go.
#[test]
fn offers_without_end() {
    let scene = Scene::start(&[]);
    let token = scene.token(&["--room", "attack", "--name", "Mallory", "--publish"]);
    let report = scene.under(|attacker| {
        let fields = format!("Authorization: Bearer {token}\r\nContent-Type: application/sdp\r\nContent-Length: 3\r\n");
        let post = format!("POST /whip/attack HTTP/1.1\r\nHost: {}\r\n{fields}\r\nv=0", attacker.scene.http);
        while attacker.goes_on() {
            let Ok(mut stream) = attacker.connect() else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
            let _ = stream.write_all(post.repeat(20).as_bytes());
            let _ = stream.read(&mut [0; 65_536]);
        }
    });
    report.assert_within(&Limits::default());
    assert!(scene.counter("uprtc_limited_total") > 0.0, "{report:?}");
}

/// Where STUN is served, as a client is told in `welcome`.
fn stun_of(attacker: &Attacker<'_>, token: &str) -> SocketAddr {
    let mut socket = open(attacker, token).expect("a socket");
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    loop {
        if let Some((_, rest)) = text.split_once("\"stun:")
            && let Some((address, _)) = rest.split_once('"')
        {
            return address.parse().unwrap();
        }
        let len = socket.read(&mut bytes).expect("a welcome");
        text.push_str(&String::from_utf8_lossy(&bytes[..len]));
    }
}

/// STUN from thousands of networks, as who forges addresses does, and an honest client asks meanwhile.
#[test]
fn stun_from_forged_networks() {
    let scene = Scene::start(&["--set", "stun-total=100"]);
    let token = scene.token(&["--room", "attack", "--name", "Mallory"]);
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    let report = scene.under(|attacker| {
        let stun = stun_of(attacker, &token);
        let honest = UdpSocket::bind("127.0.0.2:0").unwrap();
        honest.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // Seven tries, as RFC 8489 section 6.2.1 has them: the kernel may lose some in a flood.
        let is_answered =
            || (0..7).any(|_| honest.send_to(&request, stun).is_ok() && honest.recv(&mut [0; 256]).is_ok());
        let mut networks =
            (0..=255u8).flat_map(|second| (1..=255u8).map(move |third| [127, second, third, 66])).cycle();
        let mut asked = Instant::now();
        while attacker.goes_on() {
            for _ in 0..200 {
                let forged = UdpSocket::bind((networks.next().map(Ipv4Addr::from).unwrap(), 0)).unwrap();
                let _ = forged.send_to(&request, stun);
            }
            if asked.elapsed() > Duration::from_millis(500) {
                assert!(is_answered(), "an honest client is answered");
                asked = Instant::now();
            }
        }
    });
    report.assert_within(&Limits::default());
}
