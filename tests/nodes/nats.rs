//! A real nats-server for the tests, and as much of its protocol as a hand needs that writes into the bucket beside the nodes
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>).

#[path = "../require/tool.rs"]
mod tool;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Folder, until};

/// A server of NATS, or several that are one cluster of their own.
pub(crate) struct Nats {
    /// Of its configuration and its store; it ends with it.
    _folder: Folder,
    servers: Vec<Server>,
}

struct Server {
    port: u16,
    config: PathBuf,
    child: Option<Child>,
}

/// The executable, if this machine has it.
pub(crate) fn program(what: &str) -> Option<&'static str> {
    static PROGRAM: tool::Found = tool::Found::new();
    tool::find(&PROGRAM, "nats-server", "nats", what)
}

/// Ports that nobody has now.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

impl Nats {
    /// One server with JetStream, and this in its configuration.
    pub(crate) fn start(more: &str) -> Nats {
        Self::of(1, true, more)
    }

    /// One whose files are in this folder.
    #[allow(dead_code, reason = "the tests of calls take it")]
    pub(crate) fn on_disk(folder: &Folder) -> Nats {
        Self::within(Folder(folder.0.join("nats")), 1, true, "")
    }

    /// One without JetStream.
    pub(crate) fn without_jetstream() -> Nats {
        Self::of(1, false, "")
    }

    /// Three, which keep three copies, once they have found each other: until then a start says that JetStream does not answer.
    pub(crate) fn three() -> Nats {
        let nats = Self::of(3, true, "");
        until("JetStream of three", || nats.hand(0).ask("$JS.API.INFO", b"").filter(|info| info["error"].is_null()));
        nats
    }

    fn of(count: usize, has_jetstream: bool, more: &str) -> Nats {
        Self::within(Folder::new(), count, has_jetstream, more)
    }

    fn within(folder: Folder, count: usize, has_jetstream: bool, more: &str) -> Nats {
        std::fs::create_dir_all(&folder.0).unwrap();
        let (ports, routes) = (free_ports(count), free_ports(count));
        let all: Vec<String> = routes.iter().map(|route| format!("nats://127.0.0.1:{route}")).collect();
        let servers = (0..count).map(|at| {
            let mut text = format!("server_name: n{at}\nlisten: 127.0.0.1:{}\n{more}\n", ports[at]);
            if has_jetstream {
                text += &format!("jetstream {{ store_dir: \"{}/{at}\" }}\n", folder.path());
            }
            if count > 1 {
                text += &format!("cluster {{ name: c, listen: 127.0.0.1:{}, routes: {all:?} }}\n", routes[at]);
            }
            let config = folder.0.join(format!("{at}.conf"));
            std::fs::write(&config, text).unwrap();
            Server { port: ports[at], config, child: None }
        });
        let servers = servers.collect();
        let mut nats = Nats { _folder: folder, servers };
        (0..count).for_each(|at| nats.start_again(at));
        nats
    }

    /// Where a node finds it, by name: an address is asked for on the way.
    pub(crate) fn url(&self) -> String {
        self.urls("nats")
    }

    pub(crate) fn urls(&self, scheme: &str) -> String {
        let urls = self.servers.iter().map(|server| format!("{scheme}://localhost:{}", server.port));
        urls.collect::<Vec<_>>().join(",")
    }

    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.servers[at].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn start_again(&mut self, at: usize) {
        let server = &mut self.servers[at];
        let log = std::fs::File::options().append(true).create(true).open(server.config.with_extension("log")).unwrap();
        let mut command = Command::new(program("nats-server").expect("it was there"));
        command.arg("--config").arg(&server.config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        server.child = Some(command.spawn().unwrap());
        let port = server.port;
        until("a nats-server", || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// A hand that writes beside the nodes.
    pub(crate) fn hand(&self, at: usize) -> Hand {
        let stream = TcpStream::connect(("127.0.0.1", self.servers[at].port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut hand = Hand(BufReader::new(stream));
        hand.line();
        hand.write(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB hand 1\r\n");
        hand
    }

    /// The server that leads the stream of the nodes' bucket, which has so many copies; `None` while there is no leader.
    pub(crate) fn leader(&self, ask: usize) -> Option<(usize, u64)> {
        self.leader_of("uprtc-uprtc", ask)
    }

    /// The same of any bucket.
    pub(crate) fn leader_of(&self, bucket: &str, ask: usize) -> Option<(usize, u64)> {
        let info = self.hand(ask).ask(&format!("$JS.API.STREAM.INFO.KV_{bucket}"), b"")?;
        let leader = info["cluster"]["leader"].as_str()?.strip_prefix('n')?.parse().ok()?;
        Some((leader, info["config"]["num_replicas"].as_u64()?))
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        (0..self.servers.len()).for_each(|at| self.kill(at));
    }
}

/// A client without a library.
pub(crate) struct Hand(BufReader<TcpStream>);

impl Hand {
    fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.0.read_line(&mut line); // Nothing in time is nothing.
        line
    }

    /// Publishes, and waits for what the server answers; `None` for no answer.
    pub(crate) fn ask(&mut self, subject: &str, payload: &[u8]) -> Option<Value> {
        // In one piece: the kernel holds back a second small one until the first is acknowledged, which takes 40 ms.
        let head = format!("PUB {subject} hand {}\r\n", payload.len());
        self.write(&[head.as_bytes(), payload, b"\r\n"].concat());
        loop {
            let line = self.line();
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                ["PING"] => self.write(b"PONG\r\n"),
                ["MSG", .., len] => {
                    let mut answer = vec![0; len.parse().unwrap()];
                    self.0.read_exact(&mut answer).unwrap();
                    self.line();
                    return serde_json::from_slice(&answer).ok();
                }
                // No responders, or nothing in time.
                ["HMSG", ..] | [] => return None,
                ["-ERR", ..] => panic!("{line}"),
                _ => {}
            }
        }
    }

    /// Publishes with headers (HPUB).
    pub(crate) fn say(&mut self, subject: &str, headers: &[(&str, &str)], payload: &str) {
        self.say_for(subject, None, headers, payload);
    }

    /// The same, with a subject for the answer.
    pub(crate) fn say_for(&mut self, subject: &str, back: Option<&str>, headers: &[(&str, &str)], payload: &str) {
        let back = back.map(|back| format!("{back} ")).unwrap_or_default();
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let headers = format!("NATS/1.0\r\n{lines}\r\n");
        let (len, total) = (headers.len(), headers.len() + payload.len());
        self.write(format!("HPUB {subject} {back}{len} {total}\r\n{headers}{payload}\r\n").as_bytes());
    }

    /// Hears all that is said on these subjects from now on.
    pub(crate) fn listen(&mut self, subjects: &str) {
        self.write(format!("SUB {subjects} 2\r\nPING\r\n").as_bytes());
        while self.line().trim() != "PONG" {}
    }

    /// The next thing that was heard: its subject, its headers as they are, and what was said.
    pub(crate) fn hears(&mut self) -> (String, Vec<u8>, Vec<u8>) {
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            let (head, total) = match words[..] {
                ["PING"] => {
                    self.write(b"PONG\r\n");
                    continue;
                }
                ["MSG", .., total] => (0, total.parse().unwrap()),
                ["HMSG", .., head, total] => (head.parse().unwrap(), total.parse().unwrap()),
                [] => panic!("nothing is heard"),
                _ => continue,
            };
            let mut headers = vec![0_u8; total];
            self.0.read_exact(&mut headers).unwrap();
            self.line();
            let payload = headers.split_off(head);
            return (words[1].to_owned(), headers, payload);
        }
    }

    /// Says again what was heard.
    pub(crate) fn say_again(&mut self, subject: &str, headers: &[u8], payload: &[u8]) {
        let head = format!("HPUB {subject} {} {}\r\n", headers.len(), headers.len() + payload.len());
        self.write(&[head.as_bytes(), headers, payload, b"\r\n"].concat());
    }

    /// What stands under a key of a bucket.
    pub(crate) fn look(&mut self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let question = serde_json::json!({ "last_by_subj": format!("$KV.{bucket}.{key}") }).to_string();
        let found = self.ask(&format!("$JS.API.STREAM.MSG.GET.KV_{bucket}"), question.as_bytes())?;
        let data = found["message"]["data"].as_str()?;
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
        for digit in data.bytes().filter(|&digit| digit != b'=') {
            bits = bits << 6 | digits.iter().position(|&of| of == digit)? as u32;
            held += 6;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held & 0xff) as u8);
            }
        }
        Some(bytes)
    }

    /// Puts something under a key of the bucket, as `nats kv put` does.
    pub(crate) fn put(&mut self, key: &str, payload: &[u8]) {
        let answer = self.ask(&format!("$KV.uprtc-uprtc.{key}"), payload);
        assert!(answer.as_ref().is_some_and(|answer| answer["seq"].is_u64()), "{answer:?}");
    }
}
