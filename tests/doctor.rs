//! `uprtc doctor` and the reload of settings, with the real executable.

mod harness;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Output};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use harness::{DEADLINE, Folder, first_line, uprtc};

/// Files and the state folder in a folder of the test.
trait Files {
    fn file(&self, name: &str, text: &str) -> String;
    fn state(&self) -> String;
}

impl Files for Folder {
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn state(&self) -> String {
        self.0.join("state").to_str().unwrap().to_owned()
    }
}

/// Settings that concern no port of the machine: a media port that is free, and the others of the kernel's choice.
fn doctor(folder: &Folder, more: &[&str]) -> Output {
    let state = folder.state();
    // Below the ports that the kernel gives to whoever asks for any.
    let begin = 10_000 + (std::process::id() % 10_000) as u16;
    let free = (begin..).find(|&port| std::net::UdpSocket::bind(("127.0.0.1", port)).is_ok()).unwrap();
    let media_port = format!("media-port={free}");
    let ports = ["--set", "listen=127.0.0.1:0", "--set", "stun=127.0.0.1:0", "--set", "workers=1", "--set"];
    uprtc(&["doctor", "--state", &state]).args(ports).arg(media_port).args(more).output().unwrap()
}

/// The findings of `--json`: level, check, whether something mends it.
fn findings(output: &Output) -> (bool, Vec<(String, String, bool)>) {
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap();
    let findings = findings.iter().map(|f| (text(&f["level"]), text(&f["check"]), f["mend"].is_string()));
    (report["is_well"].as_bool().unwrap(), findings.collect())
}

#[test]
fn a_sound_machine_gets_a_call_and_a_zero() {
    let folder = Folder::new();
    let output = doctor(&folder, &["--json"]);
    let (is_well, findings) = findings(&output);
    assert_eq!((is_well, output.status.success()), (true, true), "{findings:?}");
    let checks =
        ["kernel", "io_uring", "io", "udp-gso", "udp-gro", "receive-buffer", "send-buffer", "descriptors", "memlock"];
    let more = [
        "cores",
        "governor",
        "clock-source",
        "clock",
        "state",
        "key",
        "media-ip",
        "media-port",
        "listen",
        "stun",
        "tls",
    ];
    for check in checks.iter().chain(&more).chain(&["settings", "reach", "instance", "call"]) {
        assert!(findings.iter().any(|(_, found, _)| found == check), "{check} is missing in {findings:?}");
    }
    for (level, check, has_mend) in &findings {
        assert_eq!(level != "ok", *has_mend, "{check}: what is not ok says what mends it");
    }
    assert!(findings.iter().any(|(level, check, _)| level == "ok" && check == "call"), "{findings:?}");
    assert!(!folder.0.join("state").exists(), "a look makes nothing");
}

#[test]
fn what_fails_is_a_line_and_a_one() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen={}", taken.local_addr().unwrap());
    let output = doctor(&folder, &["--no-call", "--set", &listen, "--set", "media-ip=192.0.2.77,127.0.0.1"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("fail  listen").contains("is taken by") && line("fail  listen").contains("→"), "{text}");
    assert!(line("fail  media-ip").contains("192.0.2.77"), "{text}");
    assert!(!text.contains("  call "), "{text}");
}

#[test]
fn an_edge_that_nobody_elsewhere_could_use_is_not_well() {
    let folder = Folder::new();
    // As it was reported: plain HTTP for everybody, STUN at loopback, and a public media address, which the NAT has.
    let nat = ["--set", "listen=0.0.0.0:0", "--set", "announce=127.0.0.1=203.0.113.7"];
    let output = doctor(&folder, &[&["--no-call"], &nat[..]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{text}"));
    assert!(line("fail  secure-context").contains("→  tls-cert and tls-key"), "{text}");
    assert!(line("ok    media-reach").contains("203.0.113.7"), "{text}");
    assert!(line("ok    firewall").contains("UDP"), "{text}");
    // With a proxy that has TLS, and its name: nothing fails.
    let proxied = ["--set", "announce=127.0.0.1=203.0.113.7", "--set", "public-url=https://198.51.100.9"];
    let output = doctor(&folder, &[&["--no-call"], &proxied[..]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("ok    secure-context  people come by https://198.51.100.9"), "{text}");
}

#[test]
fn wrong_settings_are_refused_with_file_and_line() {
    let folder = Folder::new();
    let file = folder.file("uprtc.toml", "peers-max = 8\nclient-bps-max = 5\n");
    let output = doctor(&folder, &["--config", &file]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(error.contains("uprtc.toml:2: client-bps-max must be 100000 to"), "{error}");
    let output = uprtc(&["doctor", "--no-call"]).env("UPRTC_WORKERS", "many").output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("UPRTC_WORKERS=many: workers must be 0 to 1024"), "{error}");
}

/// A running `uprtc run`, its log kept.
struct Run {
    child: Child,
    http: String,
    log: std::sync::mpsc::Receiver<String>,
}

impl Run {
    fn start(state: &str, config: &str) -> Run {
        // A variable, so that it is seen to reach the planes, and an option that wins over one.
        let mut child = uprtc(&["run", "--state", state, "--config", config, "--listen", "127.0.0.1:0"])
            .args(["--stun", "127.0.0.1:0", "--media-port", "0"])
            .env("UPRTC_ROOMS_MAX", "7")
            .env("UPRTC_MEDIA_PORT", "1")
            .env("UPRTC_IO", "udp")
            .spawn()
            .unwrap();
        let (sender, log) = std::sync::mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let link = first_line(&mut child);
        assert!(link.starts_with("http"), "no link: {:?}", log.try_iter().collect::<Vec<_>>());
        let http = harness::authority(&link).to_owned();
        Run { child, http, log }
    }

    /// Asks for a reload.
    fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    fn until_logged(&self, what: &str) {
        let begun = Instant::now();
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(DEADLINE.saturating_sub(begun.elapsed())) {
            if line.contains(what) {
                return;
            }
            seen.push(line);
        }
        panic!("{what:?} is not logged: {seen:#?}");
    }

    /// The first signal on a socket that is opened now, with the frame around it (RFC 6455).
    fn welcome(&self, state: &str) -> String {
        let token = uprtc(&["token", "--state", state, "--room", "demo", "--name", "Ada"]).output().unwrap();
        let token = String::from_utf8(token.stdout).unwrap();
        let mut stream = TcpStream::connect(&self.http).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!(
            "GET /v1/rooms/demo/signal?token={} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            token.trim()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut bytes = [0; 4096];
        while !String::from_utf8_lossy(&answer).contains("\"slots\"") {
            let len = stream.read(&mut bytes).unwrap();
            assert!(len > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&bytes[..len]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn readyz(&self) -> bool {
        harness::get(&self.http, "/readyz") == Some(200)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill(); // Its planes go with it.
        let _ = self.child.wait();
    }
}

#[test]
fn a_hangup_reloads_both_planes_and_a_mistake_changes_nothing() {
    let folder = Folder::new();
    let state = folder.state();
    let file = folder.file("uprtc.toml", "peers-max = 3\nworkers = 1\nsignals-per-second = 40\n");
    let run = Run::start(&state, &file);
    let handed_down = std::fs::read_to_string(Path::new(&state).join("run.toml")).unwrap();
    assert!(handed_down.contains("rooms-max = 7\n") && handed_down.contains("media-port = 0\n"), "{handed_down}");

    folder.file("uprtc.toml", "peers-max = 4\nworkers = 2\nsignals-per-second = 30\nlog = 'info,uprtc=debug'\n");
    run.hang_up();
    let mut expected = vec![
        "workers = 2 needs a restart",
        "signals-per-second = 30 needs a restart",
        "peers-max is 4 from now on, was 3",
        "log is info,uprtc=debug from now on",
    ];
    let begun = Instant::now();
    while !expected.is_empty() {
        let line = run.log.recv_timeout(DEADLINE.saturating_sub(begun.elapsed()));
        let line = line.unwrap_or_else(|_| panic!("not logged: {expected:?}"));
        expected.retain(|wanted| !line.contains(wanted));
    }

    let begun = Instant::now();
    while !run.welcome(&state).contains("\"peers_max\":4") {
        assert!(begun.elapsed() < DEADLINE, "who comes now is not told of the new limit");
    }

    folder.file("uprtc.toml", "peers-max = 5\npeers-mix = 5\n");
    run.hang_up();
    run.until_logged("uprtc.toml:2: unknown key \"peers-mix\": did you mean \"peers-max\"?");
    assert!(run.readyz());

    // The settings that were good are those of a plane that is started again.
    let killed = harness::plane(Path::new(&state), "controlplane").expect("it shows itself");
    kill_process(killed, Signal::KILL).unwrap();
    run.until_logged("the controlplane listens");
    let kept = std::fs::read_to_string(Path::new(&state).join("run.toml")).unwrap();
    assert!(kept.contains("peers-max = 4\n"), "{kept}");

    // To a look at the same folder it shows itself, and a look does it no harm.
    let output = doctor(&folder, &["--json", "--no-call", "--set", &format!("listen={}", run.http)]);
    let (is_well, findings) = findings(&output);
    assert!(is_well, "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(findings.iter().filter(|(level, check, _)| level == "ok" && check == "instance").count(), 2);
    assert!(run.readyz());
}
