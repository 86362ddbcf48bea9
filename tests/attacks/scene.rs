//! A server, a call on it, and an address that asks for a page all the while.
#![allow(dead_code, reason = "each attack takes what it needs")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use crate::harness::{self, DEADLINE, Folder, authority, first_line};

/// The address of the attacker. The call uses 127.0.0.1.
pub(crate) const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
/// The address of somebody else, who asks for a page.
pub(crate) const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Whether the attacks run in full.
pub(crate) fn is_full() -> bool {
    std::env::var_os("ATTACKS").is_some_and(|value| value == "full")
}

/// A running server.
pub(crate) struct Scene {
    server: Child,
    state: Folder,
    /// `HOST:PORT` of its HTTP.
    pub(crate) http: SocketAddr,
    /// How its certificate is trusted, if it has TLS.
    tls: Option<Arc<ClientConfig>>,
}

/// A connection, with TLS or without.
pub(crate) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// What must hold during an attack.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Longest answer to the other address.
    pub(crate) answer: Duration,
    /// Growth of both planes' memory, bytes.
    pub(crate) memory: u64,
}

impl Default for Limits {
    /// One second for an answer, as promised in docs/SECURITY.md. The short form shares a machine with other tests and has the
    /// executable of the tests, so it allows five.
    fn default() -> Limits {
        let seconds = if is_full() { 1 } else { 5 };
        Limits { answer: Duration::from_secs(seconds), memory: 64 << 20 }
    }
}

/// What was seen during an attack.
#[derive(Debug)]
pub(crate) struct Report {
    /// Answers to the other address.
    pub(crate) answers: u32,
    pub(crate) slowest_answer: Duration,
    /// Packets that the call received, and the share that it lost, in percent.
    pub(crate) packets: f64,
    pub(crate) loss_percent: f64,
    /// Growth of both planes' memory, bytes: the most that was seen.
    pub(crate) memory: u64,
}

impl Report {
    /// Asserts what must hold.
    #[track_caller]
    pub(crate) fn assert_within(&self, limits: &Limits) {
        assert_eq!(self.loss_percent, 0.0, "the call lost packets: {self:?}");
        assert!(self.slowest_answer <= limits.answer, "another address waited: {self:?}, {limits:?}");
        assert!(self.memory <= limits.memory, "memory grew: {self:?}, {limits:?}");
    }
}

/// What an attack has at hand.
pub(crate) struct Attacker<'a> {
    pub(crate) scene: &'a Scene,
    until: Instant,
}

impl Attacker<'_> {
    /// Whether the attack goes on.
    pub(crate) fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Does nothing until the end.
    pub(crate) fn rest(&self) {
        std::thread::sleep(self.until.saturating_duration_since(Instant::now()));
    }

    /// A connection to the server's HTTP from the attacker's address.
    pub(crate) fn connect(&self) -> std::io::Result<TcpStream> {
        connect(ATTACKER, self.scene.http)
    }
}

/// A TCP connection from an address of ours.
pub(crate) fn connect(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

/// Trusts this certificate alone.
fn trusting(certificate: CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

/// The executable under attack: that of the tests, or the one that `UPRTC` names.
pub(crate) fn uprtc(arguments: &[&str]) -> Command {
    match std::env::var_os("UPRTC") {
        None => harness::uprtc(arguments),
        Some(path) => {
            let mut command = Command::new(path);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        }
    }
}

impl Scene {
    /// Starts a server with these options more.
    pub(crate) fn start(more: &[&str]) -> Scene {
        Scene::start_in(Folder::new(), more, None)
    }

    /// The same with TLS, by a certificate of its own.
    pub(crate) fn start_with_tls(more: &[&str]) -> Scene {
        let state = Folder::new();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let files = ["fullchain.pem", "privkey.pem"].map(|name| state.0.join(name).to_str().unwrap().to_owned());
        std::fs::write(&files[0], made.cert.pem()).unwrap();
        std::fs::write(&files[1], made.key_pair.serialize_pem()).unwrap();
        let more = [&["--tls-cert", &files[0], "--tls-key", &files[1]], more].concat();
        Scene::start_in(state, &more, Some(trusting(made.cert.der().clone())))
    }

    fn start_in(state: Folder, more: &[&str], tls: Option<Arc<ClientConfig>>) -> Scene {
        let fixed = ["run", "--listen", "127.0.0.1:0", "--media-port", "0", "--stun", "127.0.0.1:0", "--workers", "1"];
        let mut command = uprtc(&fixed);
        command.args(["--state", state.path()]).args(more).env("UPRTC_IO", "udp");
        let mut server = command.stderr(std::fs::File::create(state.0.join("log")).unwrap()).spawn().unwrap();
        let link = first_line(&mut server);
        let log = || std::fs::read_to_string(state.0.join("log")).unwrap_or_default();
        let http = authority(&link).parse().unwrap_or_else(|error| panic!("{error}: {link}\n{}", log()));
        Scene { server, state, http, tls }
    }

    /// A connection from an address of ours, with TLS if the server has it.
    fn open(&self, from: Ipv4Addr) -> std::io::Result<Box<dyn Stream>> {
        let stream = connect(from, self.http)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some(_) => Box::new(StreamOwned::new(self.tls_client(), stream)),
        })
    }

    /// The client's half of a TLS connection to this server.
    pub(crate) fn tls_client(&self) -> ClientConnection {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        ClientConnection::new(self.tls.clone().expect("a server with TLS"), name).unwrap()
    }

    /// The status of a request from an address of ours, with a token unless it is empty, and the body of the answer.
    pub(crate) fn request(
        &self,
        from: Ipv4Addr,
        token: &str,
        (method, path): (&str, &str),
        (kind, body): (&str, &str),
    ) -> (u16, String) {
        let (http, length) = (self.http, body.len());
        let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n{authorization}\
             Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = self.exchange(from, &request).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// The body of a GET from an address of ours; `None` if the answer is not 200.
    fn get(&self, from: Ipv4Addr, path: &str) -> Option<String> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        let answer = self.exchange(from, &request).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    }

    fn exchange(&self, from: Ipv4Addr, request: &str) -> std::io::Result<String> {
        let mut stream = self.open(from)?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The server's log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.state.0.join("log")).unwrap()
    }

    /// The state folder of the server.
    pub(crate) fn state(&self) -> &std::path::Path {
        &self.state.0
    }

    /// A token made by the operator's command.
    pub(crate) fn token(&self, options: &[&str]) -> String {
        let output = uprtc(&["token", "--state", self.state.path()]).args(options).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A load of this server, with these arguments more.
    pub(crate) fn load(&self, arguments: &[&str]) -> Command {
        let mut command = uprtc(&["load", "--json", "--state", self.state.path()]);
        command.args(arguments);
        command
    }

    /// A counter of `/metrics`, summed over its labels.
    pub(crate) fn counter(&self, name: &str) -> f64 {
        let text = self.get(OTHER, "/metrics").expect("/metrics answers on loopback");
        let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Resident memory of both planes, bytes.
    fn memory(&self) -> u64 {
        let planes = ["dataplane", "controlplane"].map(|plane| harness::plane(&self.state.0, plane));
        let rss = |pid: rustix::process::Pid| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        planes.into_iter().flatten().filter_map(rss).sum::<u64>() << 10
    }

    /// Runs an attack while a call of three goes on and another address asks for a page ten times a second. The attack is to
    /// return when [`Attacker::goes_on`] says so.
    pub(crate) fn under(&self, attack: impl FnOnce(&Attacker<'_>)) -> Report {
        let seconds = if is_full() { 15 } else { 3 };
        let mut call = uprtc(&["load", "--json", "--state", self.state.path(), "--seconds", &seconds.to_string()]);
        let mut call = call.args(["meetings", "--rooms", "1", "--peers", "3"]).spawn().unwrap();
        // The call has joined when the server counts what it forwards.
        harness::until("the call", || (self.counter("uprtc_worker_sent_total") > 100.0).then_some(()));
        let memory_before = self.memory();
        let is_over = AtomicBool::new(false);
        let attacker = Attacker { scene: self, until: Instant::now() + Duration::from_secs(seconds) };
        let (answers, slowest_answer, memory) = std::thread::scope(|threads| {
            let watcher = threads.spawn(|| {
                let (mut answers, mut slowest, mut memory) = (0, Duration::ZERO, 0);
                while !is_over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    assert!(self.get(OTHER, "/healthz").is_some(), "another address is not answered");
                    (answers, slowest) = (answers + 1, slowest.max(begun.elapsed()));
                    memory = memory.max(self.memory().saturating_sub(memory_before));
                    std::thread::sleep(Duration::from_millis(100));
                }
                (answers, slowest, memory)
            });
            let attacked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attack(&attacker)));
            is_over.store(true, Ordering::Relaxed); // After a panic too, or the watcher would never end.
            let seen = watcher.join().unwrap();
            attacked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            seen
        });
        let mut text = String::new();
        call.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = call.wait().unwrap();
        assert!(status.success(), "the call: {text}");
        let call: Value = serde_json::from_str(&text).unwrap();
        let number = |pointer: &str| call.pointer(pointer).and_then(Value::as_f64).expect("the report of a load");
        Report {
            answers,
            slowest_answer,
            packets: number("/packets/received"),
            loss_percent: number("/packets/loss_percent"),
            memory,
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.server.kill(); // Its planes go with it.
        let _ = self.server.wait();
    }
}
