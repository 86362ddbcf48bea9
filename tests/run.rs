//! `uprtc run` and its two planes as real processes: what is printed, what survives whose death, and what is refused.

mod harness;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use harness::{Folder, authority, first_line, get, until, uprtc};

/// A running `uprtc run` on ports of the kernel's choice.
struct Run {
    child: Child,
    state: PathBuf,
    /// `IP:PORT` of HTTP.
    http: String,
    /// What was printed.
    link: String,
}

impl Run {
    fn start(state: &Path) -> Run {
        Self::with(state, &[])
    }

    fn with(state: &Path, more: &[&str]) -> Run {
        Self::logging(state, more, Stdio::inherit())
    }

    /// With a way of packets that needs no probe, unless `more` asks for one.
    fn logging(state: &Path, more: &[&str], log: Stdio) -> Run {
        let ports = ["--listen", "127.0.0.1:0", "--media-port", "0", "--stun", "127.0.0.1:0"];
        let mut command = uprtc(&["run", "--state", state.to_str().unwrap()]);
        let mut child = command.args(ports).args(more).env("UPRTC_IO", "udp").stderr(log).spawn().unwrap();
        let link = first_line(&mut child);
        assert!(link.starts_with("http"), "no address was printed");
        let http = authority(&link).to_owned();
        Run { child, state: state.to_owned(), http, link }
    }

    fn plane(&self, plane: &str) -> Option<Pid> {
        harness::plane(&self.state, plane)
    }

    fn readyz(&self) -> Option<u16> {
        get(&self.http, "/readyz")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill(); // Its planes go with it, which one of the tests proves.
        let _ = self.child.wait();
    }
}

fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

fn only_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("uprtc: ")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(!output.status.success());
    lines[0].to_owned()
}

/// On a terminal, which script(1) makes, a person gets a link that opens a call. It ends with its terminal.
#[test]
fn run_prints_a_link_to_a_terminal_only() {
    let folder = Folder::new();
    let command = format!(
        "{} run --state {} --listen 127.0.0.1:0 --media-port 0 --stun 127.0.0.1:0 --workers 1",
        env!("CARGO_BIN_EXE_uprtc"),
        folder.path()
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--flush", "--command", &command, "/dev/null"]).env("UPRTC_IO", "udp");
    let mut child = script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("script(1), of util-linux");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let link = lines.map(|line| line.trim().to_owned()).find(|line| line.starts_with("http")).expect("a link");
    let (base, token) = link.split_once("/r/demo?token=").unwrap_or_else(|| panic!("{link}"));
    let http = authority(&link);
    assert_eq!(base, format!("http://{http}"));
    assert_eq!(get(http, &link[link.find("/r/").unwrap()..]), Some(200));
    assert_eq!(get(http, &format!("/v1/rooms/demo/signal?token={token}")), Some(426));
    let planes = ["controlplane", "dataplane"].map(|plane| harness::plane(&folder.0, plane).expect("it runs"));
    child.kill().unwrap();
    child.wait().unwrap();
    until("the end of both planes", || (!planes.iter().any(|&plane| is_alive(plane))).then_some(()));
}

#[test]
fn run_prints_where_it_is_and_either_plane_may_die() {
    let folder = Folder::new();
    let run = Run::start(&folder.0);
    assert_eq!(run.link, format!("http://{}/", run.http), "no secret leaves by a pipe");
    assert_eq!(run.readyz(), Some(200));
    for (file, mode) in [("run.toml", 0o600), ("token.key", 0o600), ("controlplane.json", 0o600), ("run.lock", 0o600)] {
        let is = std::fs::metadata(folder.0.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(is, mode, "{file}");
    }
    // 426: the token was good, and only the WebSocket was missing.
    let token =
        uprtc(&["token", "--room", "demo", "--name", "Ada", "--subscribe", "--state"]).arg(&folder.0).output().unwrap();
    let token = String::from_utf8(token.stdout).unwrap();
    assert_eq!(get(&run.http, &format!("/v1/rooms/demo/signal?token={}", token.trim())), Some(426));
    assert_eq!(get(&run.http, &format!("/v1/rooms/other/signal?token={}", token.trim())), Some(403));

    let first = run.plane("controlplane").expect("the controlplane shows itself");
    let dataplane = run.plane("dataplane").expect("the dataplane shows itself");
    kill_process(first, Signal::KILL).unwrap();
    let second = until("another controlplane", || run.plane("controlplane").filter(|&pid| pid != first));
    until("readiness at the same address", || (run.readyz() == Some(200)).then_some(()));
    assert_eq!(run.plane("dataplane"), Some(dataplane), "the other plane did not notice");

    kill_process(dataplane, Signal::KILL).unwrap();
    until("another dataplane", || run.plane("dataplane").filter(|&pid| pid != dataplane));
    until("readiness with it", || (run.readyz() == Some(200)).then_some(()));
    assert_eq!(run.plane("controlplane"), Some(second), "the other plane lives on");
}

#[test]
fn the_way_of_packets_is_probed_once_and_handed_to_each_dataplane() {
    let folder = Folder::new();
    let file = folder.0.join("log");
    let run = Run::logging(&folder.0, &["--io", "auto"], std::fs::File::create(&file).unwrap().into());
    let way = |dataplane: Pid| {
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", dataplane.as_raw_nonzero())).unwrap();
        line.split('\0').skip_while(|&word| word != "--io").nth(1).unwrap().to_owned()
    };
    let first = run.plane("dataplane").expect("the dataplane shows itself");
    let chosen = way(first);
    assert!(["udp", "uring"].contains(&chosen.as_str()), "{chosen}");
    kill_process(first, Signal::KILL).unwrap();
    let second = until("another dataplane", || run.plane("dataplane").filter(|&pid| pid != first));
    until("readiness with it", || (run.readyz() == Some(200)).then_some(()));
    assert_eq!(way(second), chosen);
    let log = std::fs::read_to_string(&file).unwrap();
    let said: Vec<&str> = log.lines().filter(|line| line.contains(" io: ")).collect();
    assert!(said.len() == 1 && said[0].contains(&format!(" io: {chosen}, ")), "{log}");
}

#[test]
fn a_second_run_on_the_same_folder_is_refused() {
    let folder = Folder::new();
    let _run = Run::start(&folder.0);
    let output = uprtc(&["run", "--listen", "127.0.0.1:0", "--state"]).arg(&folder.0).output().unwrap();
    let line = only_line(&output);
    assert!(line.contains("another uprtc runs") && line.contains("--state"), "{line}");
    let output = uprtc(&["controlplane", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--state"])
        .arg(&folder.0)
        .output()
        .unwrap();
    let line = only_line(&output);
    assert!(line.contains("another controlplane") && line.contains("--state"), "{line}");
}

#[test]
fn the_planes_end_with_their_supervisor_however_it_ends() {
    let folder = Folder::new();
    let mut run = Run::start(&folder.0);
    let planes = [run.plane("dataplane").unwrap(), run.plane("controlplane").unwrap()];
    run.signal(Signal::TERM);
    let begun = Instant::now();
    assert!(run.child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    assert!(!planes.into_iter().any(is_alive));
    drop(run);

    let mut run = Run::start(&folder.0);
    let planes = [run.plane("dataplane").unwrap(), run.plane("controlplane").unwrap()];
    run.child.kill().unwrap();
    run.child.wait().unwrap();
    // The folder can be taken at once, whatever the planes of the dead one still hold for a moment.
    drop(Run::start(&folder.0));
    // They are no children of this test; whoever inherits them may take a moment to collect them.
    until("the end of the planes", || planes.iter().all(|&pid| !is_alive(pid) || is_zombie(pid)).then_some(()));
}

fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[test]
fn a_taken_port_is_one_line_that_says_which_option_moves_it() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let http = tcp.local_addr().unwrap().to_string();
    let stun = udp.local_addr().unwrap().to_string();
    let media = udp.local_addr().unwrap().port().to_string();
    for (option, ports) in [
        ("--listen", [http.as_str(), "127.0.0.1:0", "0"]),
        ("--stun", ["127.0.0.1:0", stun.as_str(), "0"]),
        ("--media-port", ["127.0.0.1:0", "127.0.0.1:0", media.as_str()]),
    ] {
        let folder = Folder::new();
        let arguments = ["run", "--listen", ports[0], "--stun", ports[1], "--media-port", ports[2], "--state"];
        let output = uprtc(&arguments).arg(&folder.0).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{option}");
        let line = text.lines().find(|line| line.starts_with("uprtc: ")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains(option) && line.contains(":"), "{line}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn settings_come_from_a_file_and_a_misspelt_one_is_refused() {
    let folder = Folder::new();
    let file = folder.0.join("uprtc.toml");
    let state = folder.0.join("state");
    std::fs::write(&file, format!("state = {:?}\n", state.to_str().unwrap())).unwrap();
    let arguments = ["token", "--room", "*", "--name", "Ada", "--config", file.to_str().unwrap()];
    let line = only_line(&uprtc(&arguments).output().unwrap());
    assert!(line.contains(state.to_str().unwrap()) && line.contains("no server has run"), "{line}");
    assert!(!state.exists(), "a command that asks makes nothing");
    make_key(&state);
    let output = uprtc(&arguments).output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'.').count(), 2, "a token and nothing else");
    let remark = String::from_utf8_lossy(&output.stderr);
    assert!(["--publish", "--subscribe", "--admin"].iter().all(|flag| remark.contains(flag)), "{remark}");

    std::fs::write(&file, "lisen = '127.0.0.1:0'\n").unwrap();
    let line = only_line(&uprtc(&arguments).output().unwrap());
    assert!(line.contains("uprtc.toml"), "{line}");
    let line = only_line(&uprtc(&["token", "--room", "a b", "--name", "Ada", "--state"]).arg(&state).output().unwrap());
    assert!(line.contains("room"), "{line}");
}

/// A state folder as a server leaves it that has run once.
fn make_key(state: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::create_dir_all(state).unwrap();
    let key = state.join("token.key");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(key).unwrap();
    file.write_all("5a".repeat(32).as_bytes()).unwrap();
}

#[test]
fn an_operator_sees_rooms_and_peers_and_a_new_key_signs() {
    let folder = Folder::new();
    let run = Run::start(&folder.0);
    let operate = |words: &[&str]| {
        uprtc(words).args(["--server", &run.http, "--state"]).arg(&folder.0).output().expect("the command runs")
    };
    let rooms = operate(&["rooms"]);
    assert_eq!(String::from_utf8_lossy(&rooms.stdout), "ROOM  PEERS  OF  LOCKED  WORKER\n", "{rooms:?}");
    let line = only_line(&operate(&["peers", "demo", "--json"]));
    assert!(line.contains("(404)") && line.contains("no such room"), "{line}");
    let line = only_line(&operate(&["kick", "demo", "0a1b"]));
    assert!(line.contains("(404)") && line.contains("no such room"), "{line}");
    assert!(only_line(&operate(&["kick", "demo", "../x"])).contains("uprtc peers demo"));
    let line = only_line(&operate(&["move", "demo", "0a1b", "other"]));
    assert!(line.contains("(404)") && line.contains("no such room"), "{line}");
    assert!(only_line(&operate(&["move", "demo", "0a1b", "a b"])).contains("a room"));
    assert!(only_line(&operate(&["peers", "a/b"])).contains("a room"));

    let key = uprtc(&["new-key", "--state"]).arg(&folder.0).output().unwrap();
    assert!(key.status.success() && key.stdout.starts_with(b"k"), "{key:?}");
    // The operator's token is of the new key at once, the server knows it within two seconds.
    until("the server's notice of the new key", || operate(&["rooms"]).status.success().then_some(()));
}

/// A certificate for `localhost` and its key, in PEM.
fn issue() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.key_pair.serialize_pem())
}

#[test]
fn a_certificate_makes_https_and_is_changed_without_a_restart() {
    let folder = Folder::new();
    let (certificate, key) = (folder.0.join("fullchain.pem"), folder.0.join("privkey.pem"));
    let write = |(chain, private): &(String, String)| {
        std::fs::write(&certificate, chain).unwrap();
        std::fs::write(&key, private).unwrap();
    };
    let first = issue();
    write(&first);
    let (chain, private) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let run = Run::with(&folder.0, &["--tls-cert", chain, "--tls-key", private]);
    assert!(run.link.starts_with("https://localhost:"), "the certificate has one name: {}", run.link);
    assert_eq!(run.readyz(), None, "nothing is answered in the clear");

    let operate = |words: &[&str]| uprtc(&["rooms", "--state"]).arg(&folder.0).args(words).output().unwrap();
    // The settings name the certificate, and that one is trusted; or a name is checked against given roots.
    let pair = [format!("tls-cert={chain}"), format!("tls-key={private}")];
    let own = ["--server", &run.http, "--set", &pair[0], "--set", &pair[1]];
    let output = operate(&own);
    assert!(output.status.success(), "{output:?}");
    let named = format!("https://localhost:{}", run.http.rsplit(':').next().unwrap());
    let output = operate(&["--server", &named, "--ca", chain]);
    assert!(output.status.success(), "{output:?}");
    let line = only_line(&operate(&["--server", &named]));
    assert!(line.contains("certificate") && line.contains("cannot ask localhost:"), "{line}");

    let dataplane = run.plane("dataplane").unwrap();
    let controlplane = run.plane("controlplane").unwrap();
    write(&issue());
    until("the new certificate", || operate(&own).status.success().then_some(()));
    assert_eq!((run.plane("dataplane"), run.plane("controlplane")), (Some(dataplane), Some(controlplane)));
    // At SIGHUP it is looked at at once.
    write(&first);
    kill_process(controlplane, Signal::HUP).unwrap();
    until("the first certificate again", || operate(&own).status.success().then_some(()));
}

#[test]
fn a_certificate_that_cannot_be_served_is_one_line() {
    let folder = Folder::new();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.0.join(name), text).unwrap();
        folder.0.join(name).to_str().unwrap().to_owned()
    };
    let (certificate, key) = (file("cert.pem", &issue().0), file("key.pem", &issue().1));
    let refused = |more: &[&str]| {
        let ports = ["controlplane", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--state"];
        only_line(&uprtc(&ports).arg(folder.0.join("state")).args(more).output().unwrap())
    };
    let line = refused(&["--tls-cert", &certificate, "--tls-key", &key]);
    assert!(line.contains("is not that of the certificate"), "{line}");
    let line = refused(&["--tls-cert", "/nowhere.pem", "--tls-key", &key]);
    assert!(line.contains("cannot read the TLS certificate /nowhere.pem"), "{line}");
    let line = refused(&["--tls-cert", &certificate]);
    assert!(line.contains("tls-cert and tls-key belong together"), "{line}");
}
