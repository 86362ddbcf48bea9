//! `uprtc sip` with real telephones: baresip with a tone, sipp with scenarios, and peers of the crate `client` in the same rooms
//! of a running `uprtc run`.

mod early;
#[path = "../harness/mod.rs"]
mod harness;
mod linphone;
mod measure;
mod phone;
mod proxy;
#[path = "../require/mod.rs"]
mod require;
mod telephones;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use client::http::{Request, Server as Http};
use client::room::{Event, Room, Settings};

use proto::work::Role;
use serde_json::Value;

use harness::{Folder, authority, first_line, until, uprtc};
use measure::{Ear, Mouth};
use phone::Phone;

/// The numbers of all tests.
const NUMBERS: &str = "lobby = \"999\"\ncontrol-token = \"secret\"\n\
    [[number]]\nnumber = \"100\"\nroom = \"open\"\n[[number]]\nnumber = \"101\"\nroom = \"closed\"\npin = \"4712\"\n";

/// A server, and a gateway beside it.
struct Scene {
    server: Child,
    gateway: Child,
    state: Folder,
    http: String,
    sip: SocketAddr,
    tls: Option<SocketAddr>,
    control: String,
}

impl Scene {
    /// With these lines in front of `sip.toml`. None where there are no telephones.
    fn new(what: &str, lines: &str) -> Option<Scene> {
        for program in ["sipp", "baresip"] {
            if let Err(error) = Command::new(program).arg("-v").stdin(Stdio::null()).output() {
                require::left_out("telephones", what, format!("{program}: {error}"));
                return None;
            }
        }
        Some(Scene::start(&format!("{lines}\n{NUMBERS}")))
    }

    /// With these lines as `sip.toml`.
    fn start(lines: &str) -> Scene {
        let state = Folder::new();
        let path = state.path().to_owned();
        let local =
            ["--listen", "127.0.0.1:0", "--media-ip", "127.0.0.1", "--media-port", "0", "--stun", "127.0.0.1:0"];
        let mut command = uprtc(&["run", "--state", &path, "--workers", "1"]);
        let mut server = command.args(local).env("UPRTC_IO", "udp").stderr(Stdio::null()).spawn().unwrap();
        let http = authority(&first_line(&mut server)).to_owned();
        let file = state.0.join("sip.toml");
        let sockets = "listen = \"127.0.0.1:0\"\ncontrol = \"127.0.0.1:0\"\n";
        std::fs::write(&file, format!("{sockets}{lines}")).unwrap();
        let mut command = uprtc(&["sip", "--state", &path, file.to_str().unwrap()]);
        let log = std::fs::File::create(state.0.join("sip.log")).unwrap();
        let mut gateway = command.stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(gateway.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let word = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
        let tls = word("tls=").map(|tls| tls.parse().unwrap());
        let (sip, control) = (word("sip=").expect(&line).parse().unwrap(), word("http=").expect(&line).to_owned());
        Scene { server, gateway, state, http, sip, tls, control }
    }

    /// A peer of a room, who sends a tone of this frequency, or nothing.
    async fn peer(&self, room: &str, name: &str, sends_audio: bool) -> Room {
        let rights = ["--room", room, "--name", name, "--publish", "--subscribe"];
        let output = uprtc(&["token", "--state", self.state.path()]).args(rights).output().unwrap();
        let token = String::from_utf8(output.stdout).unwrap();
        let settings = Settings {
            audio_slots: Some(8),
            video_slots: Some(0),
            sends_audio,
            ..Settings::new(Http::plain(&self.http), room, token.trim())
        };
        Room::join(settings).await.unwrap()
    }

    /// Runs a scenario of sipp to its end.
    fn sipp(&self, scenario: &str, number: &str, options: &[&str]) {
        self.sipp_at(self.sip, scenario, number, &[&["-i", "127.0.0.1"], options].concat());
    }

    /// The same against any address.
    fn sipp_at(&self, address: SocketAddr, scenario: &str, number: &str, options: &[&str]) {
        let file = format!("{}/tests/sip/scenarios/{scenario}.xml", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("sipp")
            .arg(address.to_string())
            .args(["-sf", &file, "-s", number, "-m", "1", "-timeout", "30s", "-timeout_error"])
            .args(options)
            .current_dir(&self.state.0)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{scenario}: {}: {text}", output.status);
    }

    fn request(&self, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.control).unwrap();
        write!(stream, "{head}\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.request("GET /metrics HTTP/1.1", "");
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("uprtc_sip_{name} ")));
        value.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }

    /// What the gateway has logged.
    fn log(&self) -> String {
        std::fs::read_to_string(self.state.0.join("sip.log")).unwrap_or_default()
    }

    /// Has the gateway call this name by its trunk.
    fn calls(&self, name: &str) {
        let request = "POST /v1/rooms/open/calls HTTP/1.1\r\nAuthorization: Bearer secret";
        let made = self.request(request, &format!("{{\"number\":\"{name}\"}}"));
        assert!(made.starts_with("HTTP/1.1 201"), "{made}");
    }

    fn has_calls(&self, calls: u64) {
        until(&format!("{calls} calls"), || (self.metric("calls") == calls).then_some(()));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = (self.gateway.kill(), self.gateway.wait());
        // The supervisor ends its planes.
        let pid = rustix::process::Pid::from_child(&self.server);
        let _ = (rustix::process::kill_process(pid, rustix::process::Signal::TERM), self.server.wait());
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A peer says a tone of 850 Hz until it has heard all of these for so many seconds, long enough for telephones to have recorded it. Who came meanwhile.
async fn talk(room: &mut Room, tones: &[f32], seconds: u64, log: impl Fn() -> String) -> Vec<String> {
    let (mut mouth, mut ear, mut names) = (Mouth::new(850.0), Ear::new(), Vec::new());
    let (begun, mut since) = (Instant::now(), None);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while since.is_none_or(|since: Instant| since.elapsed() < Duration::from_secs(seconds)) {
        let loud: Vec<f32> = tones.iter().map(|hertz| ear.loudest(*hertz)).collect();
        assert!(begun.elapsed() < harness::DEADLINE, "{tones:?} Hz: {loud:?}: {}", log());
        tokio::select! {
            _ = ticks.tick() => {
                if let Some((timestamp, packet)) = mouth.speak() {
                    room.send_audio(timestamp, packet).unwrap();
                }
            }
            event = room.next() => match event {
                Event::Packet(packet) => ear.hear(packet.slot, &packet.payload),
                Event::PeerJoined(info) => names.push(info.name),
                Event::Ended(reason) => panic!("{reason}"),
                _ => (),
            },
        }
        if loud.iter().all(|loud| *loud > 0.1) {
            since.get_or_insert_with(Instant::now);
        }
    }
    names
}

/// One telephone in each law, and a peer of the room, each with a tone of its own: all hear both others, and none itself.
#[test]
fn telephones_and_a_peer_of_the_room_hear_each_other() {
    let Some(scene) = Scene::new("telephones in a room", "") else { return };
    runtime().block_on(async {
        let mut room = scene.peer("open", "listener", true).await;
        let anna = Phone::call(&scene, "anna", "100", 600, ";audio_codecs=pcmu/8000/1");
        let bert = Phone::call(&scene, "bert", "100", 1100, ";audio_codecs=pcma/8000/1");
        let names = talk(&mut room, &[600.0, 1100.0], 4, || scene.log()).await;
        assert!(names.contains(&"anna".to_owned()) && names.contains(&"bert".to_owned()), "{names:?}");
        let (anna, bert) = (anna.hang_up(), bert.hang_up());
        let of = |heard: &[f32], hertz: [f32; 3]| hertz.map(|hertz| measure::amplitude(heard, 8000, hertz));
        for [other, peer, own] in [of(&anna, [1100.0, 850.0, 600.0]), of(&bert, [600.0, 850.0, 1100.0])] {
            assert!(other > 0.1 && peer > 0.1 && own < 0.02, "{other} {peer} {own}: {}", scene.log());
        }
        // The telephone's BYE is the peer's end in the room.
        let left = async {
            let mut left = 0;
            while left < 2 {
                left += u32::from(matches!(room.next().await, Event::PeerLeft { .. }));
            }
        };
        tokio::time::timeout(harness::DEADLINE, left).await.expect("both have left the room");
        scene.has_calls(0);
        assert_eq!((scene.metric("rtp_dropped_foreign_total"), scene.metric("calls_total")), (0, 2));
        // Both told by RTCP what they heard, and were told.
        until("the counters of both calls", || (scene.metric("rtcp_received_total") >= 2).then_some(()));
        let bad = ["foreign", "malformed", "rate"].map(|why| scene.metric(&format!("rtcp_dropped_{why}_total")));
        assert_eq!(bad, [0; 3]);
        assert!(scene.metric("rtcp_sent_total") >= 4, "{}", scene.log());
        assert!(scene.log().matches("call_media").count() == 2, "{}", scene.log());
    });
}

/// SRTP with keys in the SDP, Opus, and a PIN by RTP events, from a real telephone.
#[test]
fn a_telephone_comes_in_by_srtp_with_opus_and_a_pin() {
    let Some(scene) = Scene::new("SRTP, Opus and PIN", "srtp = \"required\"") else { return };
    runtime().block_on(async {
        let mut room = scene.peer("closed", "listener", false).await;
        let mut phone = Phone::call(&scene, "anna", "101", 600, ";mediaenc=srtp-mand;audio_codecs=opus/48000/2");
        let mut ear = Ear::new();
        phone.wait_for_media();
        phone.dial("4712");
        let begun = Instant::now();
        while ear.loudest(600.0) < 0.1 {
            assert!(begun.elapsed() < harness::DEADLINE, "600 Hz: {}: {}", ear.loudest(600.0), phone.log());
            if let Ok(Event::Packet(packet)) = tokio::time::timeout(Duration::from_millis(100), room.next()).await {
                ear.hear(packet.slot, &packet.payload);
            }
        }
        assert_eq!(scene.metric("rtp_dropped_srtp_total"), 0);
        drop(phone);
        // Without SRTP there is no call.
        scene.sipp("refused", "101", &[]);
    });
}

/// A telephone that speaks TLS, in which its SRTP keys are: it gets the certificate of the file. What speaks something else at that port is
/// closed. This baresip takes any certificate, so another client checks it.
#[test]
fn a_telephone_comes_in_by_tls() {
    let folder = Folder::new();
    let (certificate, key) = (folder.0.join("cert.pem"), folder.0.join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.key_pair.serialize_pem()).unwrap();
    let files = [certificate.clone(), key.clone()];
    let (certificate, key) = (certificate.display(), key.display());
    let tls =
        format!("tls-listen = \"127.0.0.1:0\"\ntls-cert = \"{certificate}\"\ntls-key = \"{key}\"\nsrtp = \"required\"");
    let Some(scene) = Scene::new("a telephone by TLS", &tls) else { return };
    let mut other = TcpStream::connect(scene.tls.unwrap()).unwrap();
    other.write_all(b"OPTIONS sip:127.0.0.1 SIP/2.0\r\n\r\n").unwrap();
    let _ = other.read_to_end(&mut Vec::new());
    until("the failure is counted", || (scene.metric("tls_failed_total") == 1).then_some(()));
    assert!(trusts(scene.tls.unwrap(), &made), "it is the certificate of the file");
    runtime().block_on(async {
        let mut room = scene.peer("open", "listener", false).await;
        let phone = Phone::call_by_tls(&scene, "anna", "100", 600);
        let mut ear = Ear::new();
        let begun = Instant::now();
        while ear.loudest(600.0) < 0.1 {
            assert!(begun.elapsed() < harness::DEADLINE, "{}: {}", phone.log(), scene.log());
            if let Ok(Event::Packet(packet)) = tokio::time::timeout(Duration::from_millis(100), room.next()).await {
                ear.hear(packet.slot, &packet.payload);
            }
        }
        // A renewed certificate is taken over, in the middle of a call; one that is no good is not.
        let renewed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(&files[0], renewed.cert.pem()).unwrap();
        std::fs::write(&files[1], renewed.key_pair.serialize_pem()).unwrap();
        until("the renewed certificate", || (scene.metric("tls_reloads_total") == 1).then_some(()));
        assert!(trusts(scene.tls.unwrap(), &renewed) && !trusts(scene.tls.unwrap(), &made));
        std::fs::write(&files[1], made.key_pair.serialize_pem()).unwrap();
        until("the wrong key", || (scene.metric("tls_reloads_failed_total") == 1).then_some(()));
        assert!(scene.log().contains("tls_reload_failed"), "{}", scene.log());
        assert!(trusts(scene.tls.unwrap(), &renewed));
        assert_eq!(scene.metric("tls_reloads_total"), 1);
        scene.has_calls(1);
        drop(phone);
        scene.has_calls(0);
    });
}

/// Whether a client that trusts this certificate alone takes what it is shown.
fn trusts(address: SocketAddr, certificate: &rcgen::CertifiedKey) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let mut checks = rustls::ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    while checks.is_handshaking() {
        if checks.complete_io(&mut stream).is_err() {
            return false;
        }
    }
    true
}

#[test]
fn scenarios_of_sipp() {
    let Some(scene) = Scene::new("scenarios of sipp", "") else { return };
    scene.sipp("call", "100", &[]);
    scene.sipp("call", "100", &["-t", "t1"]);
    scene.sipp("no_offer", "100", &[]);
    scene.sipp("hold", "100", &[]);
    scene.sipp("options", "100", &[]);
    scene.sipp("timer", "100", &[]);
    scene.sipp("reliable", "100", &[]);
    scene.sipp("reliable", "100", &["-t", "t1"]);
    scene.sipp("unknown", "555", &[]);
    scene.has_calls(0);
    assert_eq!(scene.metric("messages_dropped_malformed_total"), 0);
    // By digits in INFO: the right PIN, the lobby, then wrong ones until the source is locked out.
    scene.sipp("right_pin", "101", &[]);
    scene.sipp("lobby", "999", &[]);
    scene.sipp("wrong_pin", "101", &[]);
    scene.sipp("wrong_pin_again", "101", &[]);
    scene.sipp("locked_out", "101", &[]);
    scene.has_calls(0);
    assert_eq!(scene.metric("pins_wrong_total"), 5);
}

/// An address of which nobody has the port nor the next one, where a telephone listens for TLS, by UDP or TCP; not one of those that the kernel gives to the connections of other tests.
/// Another one each time.
fn free_address() -> SocketAddr {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + std::process::id() as u16 % 4_000 * 2;
    let tries = std::iter::repeat_with(|| first + TRIED.fetch_add(2, Ordering::Relaxed)).take(1_000);
    let next = |address: &SocketAddr| SocketAddr::new(address.ip(), address.port() + 1);
    let is_free = |address: &SocketAddr| {
        UdpSocket::bind(address).is_ok()
            && TcpListener::bind(address).is_ok()
            && TcpListener::bind(next(address)).is_ok()
    };
    let mut addresses = tries.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    addresses.find(is_free).expect("one of a thousand is free")
}

/// The gateway calls a telephone, which answers by itself and hears the room.
#[test]
fn a_room_calls_a_telephone() {
    let free = free_address();
    let trunk = format!("trunk = {{ address = \"{free}\", user = \"gw\", password = \"p\" }}");
    let Some(scene) = Scene::new("calls out", &trunk) else { return };
    runtime().block_on(async {
        let room = scene.peer("open", "speaker", true).await;
        let phone = Phone::await_call(&scene, "carl", free);
        let denied = scene.request("POST /v1/rooms/open/calls HTTP/1.1", "{\"number\":\"carl\"}");
        assert!(denied.starts_with("HTTP/1.1 401"), "{denied}");
        let request = "POST /v1/rooms/open/calls HTTP/1.1\r\nAuthorization: Bearer secret";
        let made = scene.request(request, "{\"number\":\"carl\",\"digits\":\"12\"}");
        assert!(made.starts_with("HTTP/1.1 201"), "{made}");
        phone.wait_for_media();
        let mut mouth = Mouth::new(850.0);
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..250 {
            ticks.tick().await;
            if let Some((timestamp, packet)) = mouth.speak() {
                room.send_audio(timestamp, packet).unwrap();
            }
        }
        let heard = phone.hang_up();
        let there = measure::amplitude(&heard, 8000, 850.0);
        assert!(there > 0.1, "{there}");
        scene.has_calls(0);
    });
}

/// A telephone in a room, behind a PIN, hands its place to another one, and hangs up; then one asks for what is not to be had.
#[test]
fn a_telephone_transfers_its_call() {
    let free = free_address();
    let trunk = format!("transfers = true\ntrunk = {{ address = \"{free}\", user = \"gw\", password = \"p\" }}");
    let Some(scene) = Scene::new("transfers", &trunk) else { return };
    runtime().block_on(async {
        let mut room = scene.peer("closed", "speaker", true).await;
        let carl = Phone::await_call(&scene, "carl", free);
        // Who is not in the room yet has nothing to hand on.
        let bob = Phone::call(&scene, "bob", "101", 500, ";audio_codecs=pcmu/8000/1");
        bob.wait_for_media();
        bob.transfer(&format!("sip:carl@{free}"));
        until("the refusal", || scene.log().contains("call_not_transferred").then_some(()));
        drop(bob);
        scene.has_calls(0);
        let mut anna = Phone::call(&scene, "anna", "101", 600, ";audio_codecs=pcmu/8000/1");
        anna.wait_for_media();
        anna.dial("4712");
        talk(&mut room, &[600.0], 1, || scene.log() + &anna.log()).await;
        anna.transfer(&format!("sip:carl@{free}"));
        until("the transfer", || scene.log().contains("call_transferred").then_some(()));
        // It hangs up itself when it is told that the other one has answered.
        scene.has_calls(1);
        talk(&mut room, &[440.0], 3, || scene.log() + &carl.log()).await;
        scene.has_calls(1);
        let heard = carl.hang_up();
        let there = measure::amplitude(&heard, 8000, 850.0);
        assert!(there > 0.1, "{there}");
        scene.has_calls(0);
        assert_eq!((scene.metric("transfers_total"), scene.metric("transfers_refused_total")), (2, 0));
    });
}

/// Ringing that the called end wants acknowledged, with the answer in it.
#[test]
fn a_call_that_rings_elsewhere_is_acknowledged() {
    let free = free_address();
    let trunk = format!("trunk = {{ address = \"{free}\", user = \"gw\", password = \"p\" }}");
    let Some(scene) = Scene::new("reliable ringing of who is called", &trunk) else { return };
    std::thread::scope(|scope| {
        let called = scope.spawn(|| {
            let port = free.port().to_string();
            scene.sipp_at(scene.sip, "reliable_called", "carl", &["-i", "127.0.0.1", "-p", &port]);
        });
        until("the telephone", || UdpSocket::bind(free).is_err().then_some(()));
        scene.calls("carl");
        called.join().unwrap();
    });
    scene.has_calls(0);
    assert!(!scene.log().contains("call_answer_unusable"), "{}", scene.log());
}

/// The same by the server's REST, which is told how far the call is.
#[test]
fn the_server_orders_a_call() {
    let free = free_address();
    let trunk = format!("orders = true\ntrunk = {{ address = \"{free}\", user = \"gw\", password = \"p\" }}");
    let Some(scene) = Scene::new("calls that the server orders", &trunk) else { return };
    let rights = ["--room", "other", "--name", "ops", "--admin"];
    let output = uprtc(&["token", "--state", scene.state.path()]).args(rights).output().unwrap();
    let token = String::from_utf8(output.stdout).unwrap();
    let server = Http::plain(&scene.http);
    let ask = async |method, path: &str, body: Option<&str>| {
        let path = format!("/v1/rooms/other/calls{path}");
        let content = body.map(|body| ("application/json", body));
        let request = Request { method, path: &path, token: Some(token.trim()), content };
        let answer = server.request(request, Duration::from_secs(10)).await.unwrap();
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let wait_for = async |path: &str, key: &str, value: Value| {
        let begun = Instant::now();
        loop {
            let answer = ask("GET", path, None).await;
            if answer[key] == value {
                return answer;
            }
            assert!(begun.elapsed() < harness::DEADLINE, "{key} is not {value}: {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    runtime().block_on(async {
        let mut room = scene.peer("other", "speaker", false).await;
        let phone = Phone::await_call(&scene, "carl", free);
        wait_for("", "available", true.into()).await;
        let wrong = ask("POST", "", Some("{\"number\":\"\"}")).await;
        let wrong = wait_for(&format!("/{}", wrong["task"].as_str().unwrap()), "state", "ended".into()).await;
        assert_eq!(wrong["reason"], "not_dialled: too many calls, or no number");
        let call = ask("POST", "", Some("{\"number\":\"carl\"}")).await;
        let path = format!("/{}", call["task"].as_str().unwrap());
        wait_for(&path, "state", "running".into()).await;
        phone.wait_for_media();
        // The room needs no entry in `sip.toml`, and sees what it is.
        let seen = async {
            loop {
                if let Event::PeerJoined(info) = room.next().await {
                    return (info.name, info.role);
                }
            }
        };
        let seen = tokio::time::timeout(harness::DEADLINE, seen).await.unwrap();
        assert_eq!(seen, ("carl".to_owned(), Some(Role::Telephone)));
        ask("DELETE", &path, None).await;
        let ended = wait_for(&path, "state", "ended".into()).await;
        assert_eq!(ended["reason"], "stopped");
        scene.has_calls(0);
    });
}

/// A thousand INVITEs or more at once, and forged RTP: bounded, counted, and a telephone gets through afterwards.
#[test]
fn a_flood_is_bounded() {
    let lines = "calls-max = 10\ncalls-per-source-max = 8\ninvites-per-second = 5.0";
    let Some(scene) = Scene::new("a flood of INVITEs", lines) else { return };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = socket.local_addr().unwrap();
    let invite = |n: u32| {
        format!(
            "INVITE sip:101@{} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKf{n};rport\r\nFrom: <sip:x@{own}>;tag=f{n}\r\n\
             To: <sip:101@{own}>\r\nCall-ID: f{n}\r\nCSeq: 1 INVITE\r\nContact: <sip:x@{own}>\r\nMax-Forwards: 70\r\n\
             Content-Length: 0\r\n\r\n",
            scene.sip
        )
    };
    // Where the machine is busy the kernel drops some before the gateway reads them: there are more until it has read enough.
    let mut sent = 0;
    until("the flood's end", || {
        for n in sent..sent + 250 {
            socket.send_to(invite(n).as_bytes(), scene.sip).unwrap();
            if n % 50 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        sent += 250;
        (sent >= 1000 && scene.metric("messages_total") >= 400).then_some(())
    });
    assert!(scene.metric("calls") <= 8);
    let bounded = ["invites_refused_flood_total", "invites_refused_full_total", "messages_dropped_rate_total"];
    let refused: Vec<u64> = bounded.iter().map(|name| scene.metric(name)).collect();
    assert!(refused.iter().sum::<u64>() > 300 && refused[2] > 0, "{refused:?}");
    // Those who never acknowledge are hung up on, and a telephone gets through when the source has its rate again.
    until("room for a call", || (scene.metric("calls") == 0).then_some(()));
    scene.sipp("call", "100", &[]);
}
