//! What operators type, with the real executable: which server a command means, links and tokens, answers as proxies send
//! them, the log as JSON, and what is said when something is wrong.

mod harness;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use controlplane::auth::{Claims, TokenKey};
use serde_json::Value;

use harness::{DEADLINE, Folder, authority, first_line, until};

/// The executable, for a user whose own state folder is in `home`.
fn uprtc(home: &Folder, arguments: &[&str]) -> Command {
    let mut command = harness::uprtc(arguments);
    command.env("XDG_STATE_HOME", &home.0).env("UPRTC_IO", "udp").env_remove("UPRTC_TOKEN");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// The one line of what is not done; the exit code is 1.
fn refused(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{output:?}");
    let text = text(&output.stderr);
    let line = text.lines().find(|line| line.starts_with("uprtc: ")).unwrap_or_else(|| panic!("{text}"));
    line.to_owned()
}

/// A running `uprtc run` on ports of the kernel's choice; its log is in a file.
struct Run {
    child: Child,
    log: PathBuf,
    link: String,
}

impl Run {
    fn start(home: &Folder, more: &[&str]) -> Run {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = home.0.join(format!("log-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut command = uprtc(home, &["run", "--listen", "127.0.0.1:0", "--media-port", "0", "--workers", "1"]);
        if !more.contains(&"--media-ip") {
            command.args(["--stun", "127.0.0.1:0"]);
        }
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.args(more).stderr(stderr).spawn().unwrap();
        let link = first_line(&mut child);
        let run = Run { child, log, link };
        assert!(run.link.starts_with("http"), "no link was printed:\n{}", run.log());
        run
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill(); // Its planes go with it.
        let _ = self.child.wait();
    }
}

/// Status of a GET of an address.
fn get(url: &str) -> u16 {
    let path = url.splitn(4, '/').nth(3).expect("an address");
    harness::get(authority(url), &format!("/{path}")).expect("somebody answers")
}

#[test]
fn a_command_finds_the_server_by_its_state_folder_and_the_port_in_it() {
    let (home, elsewhere) = (Folder::new(), Folder::new());
    let state = home.0.join("uprtc");
    let run = Run::start(&home, &[]);
    let head = "ROOM  PEERS  OF  LOCKED  WORKER\n";
    // Without a word, the one that this user runs.
    assert_eq!(done(&uprtc(&home, &["rooms"]).output().unwrap()), head);
    let named = state.to_str().unwrap();
    for words in [["rooms", "--state", named], ["--state", named, "rooms"]] {
        assert_eq!(done(&uprtc(&elsewhere, &words).output().unwrap()), head, "{words:?}");
    }
    let line = refused(&uprtc(&home, &["peers", "nosuch"]).output().unwrap());
    assert!(line.contains("no such room"), "{line}");

    // Peers of a load that is told where by the folder too, before or behind its own word.
    let mut load =
        uprtc(&home, &["load", "idle", "--peers", "2", "--seconds", "30", "--state", named]).spawn().unwrap();
    let rows = until("a room", || {
        let table = done(&uprtc(&home, &["rooms"]).output().unwrap());
        table.lines().nth(1).map(|row| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    });
    assert!(rows[0].starts_with("load-") && rows.last().unwrap() == "0", "the worker is there: {rows:?}");
    assert_eq!(done(&uprtc(&home, &["peers", &rows[0], "--json"]).output().unwrap()).matches("\"peer\"").count(), 2);
    let _ = load.kill();
    let _ = load.wait();

    // Nothing is named, and nothing runs or has run where it usually is: what runs elsewhere is named, and not taken.
    let nowhere = Folder::new();
    let output = uprtc(&nowhere, &["token", "--room", "a", "--name", "b"]).output().unwrap();
    if !Path::new("/var/lib/uprtc").exists() {
        let line = refused(&output);
        assert!(line.contains(nowhere.path()) && line.contains("/var/lib/uprtc"), "{line}");
        assert!(line.contains("--state /") || line.contains("servers run"), "{line}");
    }

    // A folder without a server: it is said, and what runs elsewhere is named.
    let other = elsewhere.0.join("other");
    std::fs::create_dir(&other).unwrap();
    for words in [&["rooms"][..], &["load", "idle"], &["token", "--room", "a", "--name", "b"], &["new-key"]] {
        let line = refused(&uprtc(&elsewhere, words).arg("--state").arg(&other).output().unwrap());
        assert!(line.contains(other.to_str().unwrap()), "{words:?}: {line}");
        assert!(line.contains("--state /") || line.contains("servers run"), "{words:?}: {line}");
        assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0, "{words:?} makes nothing there");
    }
    drop(run);
    let line = until("the end", || {
        let output = uprtc(&home, &["rooms"]).output().unwrap();
        (!output.status.success()).then(|| refused(&output)).filter(|line| line.contains("no server runs"))
    });
    assert!(line.contains(named) && line.contains("--server"), "{line}");
}

#[test]
fn a_link_opens_a_call_and_a_token_says_when_nobody_takes_it() {
    let home = Folder::new();
    let run = Run::start(&home, &[]);
    let link = done(&uprtc(&home, &["link", "--room", "standup", "--name", "Ada"]).output().unwrap());
    let link = link.trim();
    assert_eq!(get(link), 200);
    let (base, token) = link.split_once("/r/standup?token=").unwrap();
    assert_eq!(run.link, format!("{base}/"), "{link}");
    // 426: the token was good for a socket, and only the WebSocket was missing.
    assert_eq!(get(&format!("{base}/v1/rooms/standup/signal?token={token}")), 426);
    let line = refused(&uprtc(&home, &["link", "--room", "*", "--name", "Ada"]).output().unwrap());
    assert!(line.contains("--room"), "{line}");
    assert!(done(&uprtc(&home, &["new-key"]).output().unwrap()).starts_with('k'));

    // The same folder once more, as somebody might have it from earlier: the key is there, and no server.
    let stale = Folder::new();
    std::fs::copy(home.0.join("uprtc/token.key"), stale.0.join("token.key")).unwrap();
    let arguments = ["token", "--room", "a", "--name", "b", "--publish", "--state", stale.path()];
    let output = uprtc(&home, &arguments).output().unwrap();
    assert_eq!(done(&output).matches('.').count(), 2);
    let remark = text(&output.stderr);
    assert!(remark.contains("no server runs") && remark.contains("does not take this token"), "{remark}");
    assert!(!remark.contains("--publish"), "{remark}");
}

#[test]
fn links_have_the_public_url_of_the_settings() {
    let home = Folder::new();
    let run = Run::start(&home, &["--public-url", "https://call.example:8443/calls/"]);
    assert_eq!(run.link, "https://call.example:8443/calls/");
    let link = done(&uprtc(&home, &["link", "--room", "a", "--name", "b"]).output().unwrap());
    assert!(link.starts_with("https://call.example:8443/calls/r/a?token="), "{link}");
    let output = uprtc(&home, &["run", "--public-url", "call.example"]).output().unwrap();
    assert!(refused(&output).contains("--public-url must be https://HOST"), "{output:?}");
}

#[test]
fn stun_follows_the_media_address() {
    let home = Folder::new();
    // An address of its own, because the port is the usual one.
    let pid = std::process::id();
    let ip = format!("127.{}.{}.{}", 1 + pid % 250, (pid >> 8) % 256, 1 + (pid >> 16) % 250);
    let run = Run::start(&home, &["--media-ip", &ip]);
    until("the line of the controlplane", || run.log().contains(&format!("stun={ip}:3478")).then_some(()));
}

#[test]
fn a_public_address_behind_a_nat_names_announce() {
    let home = Folder::new();
    // 203.0.113.0/24 is for documentation (RFC 5737): no machine has it.
    for words in [&["run", "--media-ip", "203.0.113.7"][..], &["dataplane", "--media-ip", "203.0.113.7"]] {
        let line = refused(&uprtc(&home, words).output().unwrap());
        assert!(line.contains("--announce") && line.contains("=203.0.113.7"), "{line}");
    }
    let arguments = ["run", "--announce", "10.0.0.5=203.0.113.7"];
    let line = refused(&uprtc(&home, &arguments).output().unwrap());
    assert!(line.contains("announce names 10.0.0.5, which is not in media-ip"), "{line}");
}

/// Answers one request with these bytes, and gives back its first line.
fn answer_once(bytes: &'static [u8]) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = String::new();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        while lines.read_line(&mut head).unwrap() > 2 {}
        stream.write_all(bytes).unwrap();
        head.lines().next().unwrap().to_owned()
    });
    (authority, thread)
}

#[test]
fn answers_are_understood_as_proxies_send_them() {
    let home = Folder::new();
    let ask = |server: &str| uprtc(&home, &["rooms", "--server", server]).env("UPRTC_TOKEN", "a.b.c").output().unwrap();
    // In chunks (RFC 9112 §7.1), with an extension and a trailer, behind an interim answer (RFC 9110 §15.2).
    let (authority, asked) = answer_once(
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
          c;a=b\r\n{\"rooms\":[],\r\nE\r\n\"next\":null}  \r\n0\r\nTrailer: x\r\n\r\n",
    );
    assert_eq!(done(&ask(&format!("http://{authority}/calls/"))), "ROOM  PEERS  OF  LOCKED  WORKER\n");
    assert_eq!(asked.join().unwrap(), "GET /calls/v1/rooms?limit=100 HTTP/1.1");
    // With a length, on a connection that stays open: nobody waits for its end.
    let (authority, _open) = answer_once(b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{\"rooms\":[],\"next\":null}");
    assert!(ask(&authority).status.success());
    let (authority, _) = answer_once(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>");
    assert!(refused(&ask(&authority)).contains("502 and no JSON"));
    let (authority, _) = answer_once(b"SSH-2.0-OpenSSH_9.9\r\n\r\n");
    assert!(refused(&ask(&authority)).contains("cannot ask"));
}

#[test]
fn the_version_is_said_with_its_revision() {
    let home = Folder::new();
    let said = done(&uprtc(&home, &["version"]).output().unwrap());
    assert!(said.starts_with(concat!("uprtc ", env!("CARGO_PKG_VERSION"))) && said.ends_with('\n'), "{said}");
    assert_eq!(done(&uprtc(&home, &["--version"]).output().unwrap()), said);
    let git = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(["rev-parse", "HEAD"]).output();
    if git.is_ok_and(|output| output.status.success()) {
        assert!(said.contains(" (") && said.trim_end().ends_with(')'), "{said}");
    }
    assert_eq!(uprtc(&home, &["version", "--no-such"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn the_log_is_one_json_object_a_line() {
    let home = Folder::new();
    let run = Run::start(&home, &["--set", "log-format=json"]);
    let objects = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    };
    let log = until("a line of each process", || {
        let log = run.log();
        (log.ends_with('\n') && log.contains("linked to a worker") && log.contains("the controlplane listens"))
            .then_some(log)
    });
    for line in objects(&log) {
        assert!(["timestamp", "level", "target", "message"].iter().all(|key| line[key].is_string()), "{line}");
    }
    // Also a mistake in a variable, and the reason why it does not start.
    let output = uprtc(&home, &["run", "--set", "log-format=json", "--listen", "127.0.0.1:0"])
        .env("UPRTC_LISEN", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines = objects(&text(&output.stderr));
    assert!(lines[0]["message"].as_str().unwrap().contains("UPRTC_LISEN is ignored"), "{lines:?}");
    assert!(lines.last().unwrap()["message"].as_str().unwrap().contains("another uprtc runs"), "{lines:?}");
}

/// As root: what a service user's folder says to another user, and a key that root makes for it.
#[test]
fn a_folder_of_another_user_says_whose_it_is() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    const NOBODY: u32 = 65_534;
    let home = Folder::new();
    let state = home.0.join("of-nobody");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("token.key"), "5a".repeat(32)).unwrap();
    for (path, mode) in [(state.join("token.key"), 0o600), (state.clone(), 0o700)] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let kid = done(&uprtc(&home, &["new-key", "--state"]).arg(&state).output().unwrap());
    let key = state.join("token-keys.d").join(format!("{}.key", kid.trim()));
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&key).unwrap()), NOBODY);

    // Another user, who may run the executable: a copy, because the build's folder may be closed to others.
    let copy = std::env::temp_dir().join(format!("uprtc-operators-exe-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_uprtc"), &copy).unwrap();
    std::fs::set_permissions(&home.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&copy);
    command.args(["token", "--room", "a", "--name", "b", "--publish", "--state"]).arg(&state);
    std::os::unix::process::CommandExt::uid(&mut command, 65_533);
    let output = command.env("XDG_STATE_HOME", Path::new("/nonexistent")).output();
    let _ = std::fs::remove_file(&copy);
    let line = refused(&output.unwrap());
    assert!(line.contains("belongs to another user: sudo -u nobody uprtc"), "{line}");
}

/// Lines of a JSON log that tell of people.
fn events(run: &Run) -> Vec<Value> {
    let lines = run.log();
    let objects = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects.filter(|object| object["event"].is_string()).collect()
}

fn of<'a>(events: &'a [Value], event: &str) -> Vec<&'a Value> {
    events.iter().filter(|object| object["event"] == event).collect()
}

#[test]
fn the_log_tells_who_came_was_moved_was_kicked_and_left() {
    let home = Folder::new();
    let run = Run::start(&home, &["--set", "log-format=json"]);
    let state = home.0.join("uprtc");
    let load = ["load", "idle", "--peers", "3", "--seconds", "60", "--state", state.to_str().unwrap()];
    let mut load = uprtc(&home, &load).spawn().unwrap();
    let joined = until("three who join", || {
        let events = events(&run);
        (of(&events, "joined").len() == 3).then(|| of(&events, "joined").into_iter().cloned().collect::<Vec<Value>>())
    });
    for line in &joined {
        assert!(["room", "peer", "name", "door"].iter().all(|key| line[key].is_string()), "{line}");
        assert_eq!((line["worker"].as_u64(), line["subscribe"].as_bool()), (Some(0), Some(true)), "{line}");
    }
    let (room, peer) = (joined[0]["room"].as_str().unwrap(), joined[0]["peer"].as_str().unwrap());
    done(&uprtc(&home, &["move", room, peer, "elsewhere"]).output().unwrap());
    done(&uprtc(&home, &["kick", "elsewhere", peer]).output().unwrap());
    let _ = load.kill();
    let _ = load.wait();
    let told = until("the lines", || {
        let events = events(&run);
        (!of(&events, "kicked").is_empty()).then_some(events)
    });
    let moved = of(&told, "moved")[0];
    assert_eq!(
        (moved["peer"].as_str(), moved["room"].as_str(), moved["to"].as_str()),
        (Some(peer), Some(room), Some("elsewhere"))
    );
    let kicked = of(&told, "kicked")[0];
    assert_eq!((kicked["peer"].as_str(), kicked["room"].as_str()), (Some(peer), Some("elsewhere")));
    assert!(kicked["seconds"].is_number(), "{kicked}");
    assert!(!run.log().contains("token="), "no secret");
}

#[test]
fn the_log_tells_why_a_join_failed_and_a_stranger_cannot_fill_it() {
    let home = Folder::new();
    let run = Run::start(&home, &["--set", "log-format=json"]);
    let authority = run.link.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    let key = TokenKey::load_or_create(&home.0.join("uprtc")).unwrap();
    let expired = key.sign(&Claims { exp: 1, publish: true, ..Claims::new("demo", "Ada", 0) }).unwrap();
    let ask = |head: &str| {
        let mut stream = TcpStream::connect(&authority).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "{head}\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer.split(' ').nth(1).map(str::to_owned).unwrap_or_default()
    };
    let upgrade = "Upgrade: websocket";
    assert_eq!(ask(&format!("GET /v1/rooms/demo/signal?token={expired} HTTP/1.1\r\n{upgrade}")), "401");
    // As a browser reads the reason: that is no other try. Asking before the camera opens is one.
    assert_eq!(ask(&format!("GET /v1/rooms/demo/signal?token={expired} HTTP/1.1")), "401");
    assert_eq!(ask(&format!("GET /v1/rooms/demo/signal?token={expired}&ask=1 HTTP/1.1")), "401");
    assert_eq!(ask("POST /whip/demo HTTP/1.1\r\nContent-Length: 0"), "401");
    assert_eq!(
        ask(&format!("POST /whep/demo HTTP/1.1\r\nContent-Length: 0\r\nAuthorization: Bearer {expired}")),
        "401"
    );
    let refused = until("four lines", || {
        let events = events(&run);
        (of(&events, "refused").len() >= 4).then_some(events)
    });
    let said: Vec<_> = of(&refused, "refused")
        .into_iter()
        .map(|line| (line["door"].as_str().unwrap(), line["code"].as_str().unwrap(), line["name"].as_str()))
        .collect();
    let expected = [
        ("socket", "token_expired", Some("Ada")),
        ("socket", "token_expired", Some("Ada")),
        ("whip", "token_missing", None),
        ("whep", "token_expired", Some("Ada")),
    ];
    assert_eq!(said, expected);
    for line in of(&refused, "refused") {
        assert!(line["room"] == "demo" && !line["detail"].as_str().unwrap().is_empty(), "{line}");
    }

    let begun = Instant::now();
    for _ in 0..300 {
        ask("POST /whip/demo HTTP/1.1\r\nContent-Length: 0");
    }
    let lines = of(&events(&run), "refused").len() as f64;
    let allowed = 50.0 + 5.0 * (begun.elapsed().as_secs_f64() + 2.0);
    assert!(lines <= allowed, "{lines} lines, {allowed} allowed");
    let summary = until("how many were left out", || {
        of(&events(&run), "left_out").first().map(|line| line["lines"].as_u64().unwrap())
    });
    assert!(summary > 0, "{summary}");
}
