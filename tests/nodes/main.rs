//! Edges of one cluster as real processes, with a real nats-server: who sees whom, who is refused and in which words, and what becomes of
//! them while NATS is away. The controlplanes have given up the system calls that they do not need (`seccomp`), and find NATS by name.

mod bus;
mod edges;
mod forged;
#[path = "../harness/mod.rs"]
mod harness;
mod nats;
mod operators;
#[path = "../require/mod.rs"]
mod require;
mod shared;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use controlplane::auth::{KEY_LEN, TokenKey, TokenKeys};
use controlplane::nodes::{Kind, Seals};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use harness::{Folder, authority, first_line, get, plane, until, uprtc};
use nats::Nats;
use shared::with_key;

/// Leases of the tests. Renewed each 1.7 s; a machine that is busy with other tests keeps that.
const LEASE: Duration = Duration::from_secs(5);

/// Seals by this signing key, whose bytes are all the same.
fn seals(key: u8) -> Seals {
    let keys = TokenKeys::from(TokenKey::new(&[key; KEY_LEN]));
    Seals::new(Some(Arc::new(keys)), "uprtc")
}

/// An edge: a controlplane, with a dataplane if it is asked for.
struct Edge {
    state: Folder,
    child: Child,
    http: String,
    arguments: Vec<String>,
}

impl Edge {
    fn command(state: &Path, arguments: &[String]) -> Command {
        let mut command = uprtc(&["controlplane", "--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0"]);
        command.arg("--state").arg(state).args(arguments).env("UPRTC_IO", "udp");
        command
    }

    fn arguments(servers: &str, node: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = Vec::new();
        for setting in [&format!("cluster={servers}"), &format!("node={node}"), "cluster-lease=5s"]
            .into_iter()
            .chain(more.to_vec())
        {
            arguments.extend(["--set".to_owned(), setting.to_string()]);
        }
        arguments
    }

    fn start(nats: &Nats, node: &str, more: &[&str]) -> Edge {
        Self::with(with_key("a7"), Self::arguments(&nats.url(), node, more))
    }

    fn with(state: Folder, arguments: Vec<String>) -> Edge {
        let (child, http) = Self::spawn(&state, &arguments);
        Edge { state, child, http, arguments }
    }

    /// With a dataplane.
    fn whole(nats: &Nats, node: &str, more: &[&str]) -> Edge {
        Self::whole_in(with_key("a7"), nats, node, more)
    }

    fn whole_in(state: Folder, nats: &Nats, node: &str, more: &[&str]) -> Edge {
        let arguments = Self::arguments(&nats.url(), node, more);
        let mut run =
            uprtc(&["run", "--listen", "127.0.0.1:0", "--media-port", "0", "--stun", "127.0.0.1:0", "--workers", "1"])
                .args(["--state", state.path()])
                .args(&arguments)
                .env("UPRTC_IO", "udp")
                .stderr(std::fs::File::create(state.0.join("log")).unwrap())
                .spawn()
                .unwrap();
        let http = authority(&first_line(&mut run)).to_owned();
        Edge { http, state, child: run, arguments }
    }

    fn spawn(state: &Folder, arguments: &[String]) -> (Child, String) {
        let log = std::fs::File::options().append(true).create(true).open(state.0.join("log")).unwrap();
        let mut child = Self::command(&state.0, arguments).stderr(log).spawn().unwrap();
        let line = first_line(&mut child);
        let http = line.strip_prefix("http=").and_then(|line| line.split(' ').next()).unwrap_or_default().to_owned();
        assert!(!http.is_empty(), "{}", std::fs::read_to_string(state.0.join("log")).unwrap());
        (child, http)
    }

    /// What somebody sees who tries to start this.
    fn refused(state: &Folder, arguments: &[String]) -> String {
        let output = Self::command(&state.0, arguments).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{output:?}");
        assert!(!state.0.join("controlplane.json").exists(), "nothing was started");
        last_line(&output)
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn start_again(&mut self) {
        (self.child, self.http) = Self::spawn(&self.state, &self.arguments);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.state.0.join("log")).unwrap()
    }

    fn nodes(&self) -> Vec<Value> {
        let output = uprtc(&["nodes", "--json", "--state", self.state.path()]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// `NAME:STATE` of all that it knows.
    fn sees(&self) -> String {
        let of = |node: &Value| format!("{}:{}", node["node"].as_str().unwrap(), node["state"].as_str().unwrap());
        self.nodes().iter().map(of).collect::<Vec<_>>().join(" ")
    }

    fn comes_to_see(&self, wanted: &str) {
        let mut seen = String::new();
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until(wanted, || {
                seen = self.sees();
                (seen == wanted).then_some(())
            });
        }));
        assert!(found.is_ok(), "{wanted} is due, and it sees {seen}:\n{}", self.log());
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    fn comes_to_have(&self, name: &str, value: f64) {
        until(&format!("{name} {value}"), || (self.metric(name) == Some(value)).then_some(()));
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.kill();
    }
}

fn last_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().rfind(|line| line.starts_with("uprtc: ")).unwrap_or_else(|| panic!("{text}")).to_owned()
}

fn secret_file(path: PathBuf, text: &str) -> String {
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn without_a_cluster_nothing_of_it_is_there() {
    let alone = Edge::with(Folder::new(), Vec::new());
    let output = uprtc(&["nodes", "--state", alone.state.path()]).output().unwrap();
    assert!(last_line(&output).contains("this server is in no cluster"), "{output:?}");
    assert_eq!((alone.metric("uprtc_linked"), alone.metric("uprtc_cluster_connected")), (Some(0.0), None));
    assert!(!alone.state.0.join("node.json").exists());
}

#[test]
fn edges_see_each_other_and_who_is_gone_and_who_is_back() {
    if nats::program("edges that see each other").is_none() {
        return;
    }
    let nats = Nats::start("");
    let a = Edge::start(&nats, "a", &["region=eu", "carrier=north"]);
    let mut b = Edge::start(&nats, "b", &["region=eu"]);
    // With a dataplane: the others learn where its workers are.
    let c = Edge::whole(&nats, "c", &["region=us", "relay-ips=127.0.0.9"]);
    for edge in [&a, &b, &c] {
        edge.comes_to_see("a:here b:here c:here");
        edge.comes_to_have("uprtc_cluster_nodes", 3.0);
        assert_eq!(
            (edge.metric("uprtc_cluster_connected"), edge.metric("uprtc_cluster_joined")),
            (Some(1.0), Some(1.0))
        );
        assert!(edge.metric("uprtc_cluster_lease_age_seconds").unwrap() < LEASE.as_secs_f64());
    }
    let worker = until("the worker of c", || {
        let workers = a.nodes()[2]["workers"].clone();
        workers[0][0].as_str().map(str::to_owned)
    });
    assert!(worker.starts_with("127.0.0.9:") && !worker.ends_with(":0"), "{worker}");
    let nodes = a.nodes();
    assert_eq!(
        (&nodes[0]["is_self"], &nodes[0]["carrier"], &nodes[2]["region"]),
        (&true.into(), &"north".into(), &"us".into())
    );
    assert_eq!(nodes[1]["url"], format!("http://{}", b.http));
    let table = uprtc(&["nodes", "--state", a.state.path()]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.starts_with("NODE  REGION  CARRIER  STATE") && table.contains("a     eu      north    here"),
        "{table}"
    );

    // The name is taken, and whoever has it does not notice.
    let line = Edge::refused(&with_key("a7"), &Edge::arguments(&nats.url(), "a", &[]));
    assert!(line.contains("another node is called a") && line.contains("nothing was started"), "{line}");
    let doctor = uprtc(&["doctor", "--no-call", "--state", b.state.path()]).args(&b.arguments).output().unwrap();
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.contains("cluster uprtc answers, and b is in it"), "{doctor}");
    let other = ["doctor", "--no-call", "--state", a.state.path()];
    let doctor = String::from_utf8(uprtc(&other).args(&b.arguments).output().unwrap().stdout).unwrap();
    assert!(doctor.contains("fail  cluster         another node is called b"), "{doctor}");

    // Killed and started again: it has its own name back before its lease could have ended.
    let was = a.nodes()[1]["fingerprint"].clone();
    b.kill();
    let begun = Instant::now();
    b.start_again();
    b.comes_to_have("uprtc_cluster_joined", 1.0);
    assert!(begun.elapsed() < LEASE, "it waited for its own lease: {:?}", begun.elapsed());
    until("the new certificate of b", || (a.nodes()[1]["fingerprint"] != was).then_some(()));
    assert_eq!(a.sees(), "a:here b:here c:here");

    // Killed: gone when its lease has ended, and not before half of it.
    b.kill();
    let begun = Instant::now();
    a.comes_to_see("a:here b:gone c:here");
    assert!(begun.elapsed() >= LEASE / 2, "{:?}", begun.elapsed());
    assert!(a.log().contains("event=\"node_gone\" node=\"b\""), "{}", a.log());
    b.start_again();
    a.comes_to_see("a:here b:here c:here");

    // A restart (SIGTERM) is nobody's farewell, a stop (SIGINT) is.
    let controlplane = plane(&b.state.0, "controlplane").unwrap();
    kill_process(controlplane, Signal::INT).unwrap();
    b.child.wait().unwrap();
    let begun = Instant::now();
    a.comes_to_see("a:here b:left c:here");
    assert!(begun.elapsed() < LEASE, "{:?}", begun.elapsed());
}

#[test]
fn what_stands_in_the_bucket_is_refused_by_name_and_harms_nobody() {
    if nats::program("records that others write").is_none() {
        return;
    }
    let nats = Nats::start("max_payload: 33554432");
    let (a, b) = (Edge::start(&nats, "a", &[]), Edge::start(&nats, "b", &[]));
    b.comes_to_see("a:here b:here");
    let mut hand = nats.hand(0);
    // The bucket refuses what is longer than a record: somebody has to have changed it.
    let info = hand.ask("$JS.API.STREAM.INFO.KV_uprtc-uprtc", b"").unwrap();
    let mut config = info["config"].clone();
    assert_eq!((&config["max_msg_size"], &config["max_age"]), (&16_384.into(), &5_000_000_000_u64.into()));
    let too_long = hand.ask("$KV.uprtc-uprtc.huge", &vec![b'x'; 16 << 20]).unwrap();
    assert!(too_long["error"]["description"].as_str().unwrap().contains("exceeds maximum"), "{too_long}");
    config["max_msg_size"] = (-1).into();
    let changed = hand.ask("$JS.API.STREAM.UPDATE.KV_uprtc-uprtc", config.to_string().as_bytes()).unwrap();
    assert!(changed["error"].is_null(), "{changed}");
    hand.put("huge", &vec![b'x'; 16 << 20]);
    let sealed = |key: &str, payload: &[u8]| seals(0xa7).wrap(Kind::Record, &[key], payload);
    hand.put("nonsense", &sealed("nonsense", b"{\"version\":2,"));
    hand.put("future", &sealed("future", b"{\"version\":9,\"of\":\"another form\"}"));
    for edge in [&a, &b] {
        for reason in ["too_long", "malformed", "other_version"] {
            edge.comes_to_have(&format!("uprtc_cluster_records_refused_total{{reason=\"{reason}\"}}"), 1.0);
        }
        assert_eq!(edge.sees(), "a:here b:here");
    }
    let output = uprtc(&["nodes", "--state", a.state.path()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("the record future is refused: its node speaks version 9"), "{said}");
    // Who comes now would be of another version than somebody who is here.
    let line = Edge::refused(&with_key("a7"), &Edge::arguments(&nats.url(), "c", &[]));
    assert!(line.contains("node future speaks version 9 of the cluster, and this one version 2"), "{line}");
    let other = Edge::arguments(&nats.url(), "c", &["cluster-lease=7s"]);
    let line = Edge::refused(&with_key("a7"), &other);
    assert!(line.contains("leases of 5s, and cluster-lease is 7s"), "{line}");

    // A record under a node's own name that cannot be read, although a node has sealed it: its node finds it, leaves it there, and has its name back when it ends.
    hand.put("b", &sealed("b", b"nonsense"));
    b.comes_to_have("uprtc_cluster_joined", 0.0);
    until("the line of b", || b.log().contains("another node is called b").then_some(()));
    assert_eq!(get(&b.http, "/healthz"), Some(200));
    b.comes_to_have("uprtc_cluster_joined", 1.0);
    a.comes_to_see("a:here b:here");

    // The bucket is lost. It is made anew, with revisions from 1, and nobody takes anybody for dead.
    let gone = [&a, &b].map(|edge| edge.log().matches("node_gone").count());
    let deleted = hand.ask("$JS.API.STREAM.DELETE.KV_uprtc-uprtc", b"").unwrap();
    assert_eq!(deleted["success"], true, "{deleted}");
    for (edge, gone) in [&a, &b].into_iter().zip(gone) {
        until("a bucket made anew", || edge.log().contains("was lost and is made anew").then_some(()));
        edge.comes_to_have("uprtc_cluster_joined", 1.0);
        assert_eq!(edge.sees(), "a:here b:here");
        assert_eq!(edge.log().matches("node_gone").count(), gone, "{}", edge.log());
    }
}

#[test]
fn who_is_not_let_in_reads_why() {
    if nats::program("nodes that are refused").is_none() {
        return;
    }
    let folder = Folder::new();
    let refused = |nats: &Nats, scheme: &str, more: &[&str]| {
        Edge::refused(&with_key("a7"), &Edge::arguments(&nats.urls(scheme), "a", more))
    };
    // Who may do just what docs/OPERATING.md lists, and who may do nothing.
    let page = include_str!("../../docs/OPERATING.md");
    let permissions = page.split("```nats\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let users = format!(
        "authorization {{ users: [
            {{ user: ada, password: \"s3cr3t-pw\", {permissions} }},
            {{ user: eve, password: \"s3cr3t-pw\", permissions: {{ publish: \"x\", subscribe: \"_INBOX.>\" }} }},
            {{ nkey: UAFHG6FUD2UU4SDFVAFUL5LDFO2XM4WYM76UNXTPJYJK7EEMYRBHT2VE }}
        ] }}"
    );
    let nats = Nats::start(&users);
    let with = |name: &str, text: &str| format!("cluster-credentials={}", secret_file(folder.0.join(name), text));
    let line = refused(&nats, "nats", &[]);
    assert!(line.contains("refuse a node without credentials"), "{line}");
    let line = refused(&nats, "nats", &[&with("wrong", "ada:wr0ng-pw")]);
    assert!(line.contains("refuse the credentials of this node") && !line.contains("wr0ng-pw"), "{line}");
    let line = refused(&nats, "nats", &[&with("eve", "eve:s3cr3t-pw")]);
    assert!(line.contains("do not allow what a node does: Permissions Violation"), "{line}");
    let open = folder.0.join("open");
    std::fs::write(&open, "ada:s3cr3t-pw").unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let line = refused(&nats, "nats", &[&format!("cluster-credentials={}", open.display())]);
    assert!(line.contains("others can read"), "{line}");
    let ada = Edge::start(&nats, "ada", &[&with("ada", "ada:s3cr3t-pw\n")]);
    let seed = "SUACH75SWCM5D2JMJM6EKLR2WDARVGZT4QC6LX3AGHSWOMVAKERABBBRWM";
    let nkey = Edge::start(&nats, "nkey", &[&with("nkey", seed)]);
    ada.comes_to_see("ada:here nkey:here");
    assert!(!ada.log().contains("s3cr3t-pw") && !nkey.log().contains(seed));
    // What its user may do is enough for all that a node does, its farewell too.
    kill_process(plane(&ada.state.0, "controlplane").unwrap(), Signal::INT).unwrap();
    nkey.comes_to_see("ada:left nkey:here");
    drop((ada, nkey));

    let line = refused(&Nats::without_jetstream(), "nats", &[]);
    assert!(line.contains("have no JetStream"), "{line}");
    let mut gone = Nats::without_jetstream();
    gone.kill(0);
    let line = refused(&gone, "nats", &[]);
    assert!(line.contains("no server of the cluster can be reached") && line.contains(&gone.url()), "{line}");

    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let ca = secret_file(folder.0.join("cert.pem"), &certificate.pem());
    let key = secret_file(folder.0.join("key.pem"), &key.serialize_pem());
    let nats = Nats::start(&format!("tls {{ cert_file: \"{ca}\", key_file: \"{key}\" }}"));
    let line = refused(&nats, "tls", &[]);
    assert!(line.contains("no TLS with the cluster's servers"), "{line}");
    let ca = format!("cluster-ca={ca}");
    let trusting = Edge::with(with_key("a7"), Edge::arguments(&nats.urls("tls"), "a", &[&ca]));
    trusting.comes_to_see("a:here");
    let line = refused(&nats, "nats", &[&ca]);
    assert!(line.contains("cluster-ca needs tls://"), "{line}");
}

#[test]
fn while_nats_is_away_nobody_is_lost_and_a_restart_serves() {
    if nats::program("nodes without their engine").is_none() {
        return;
    }
    let mut nats = Nats::start("");
    let a = Edge::start(&nats, "a", &[]);
    let mut b = Edge::start(&nats, "b", &[]);
    a.comes_to_see("a:here b:here");
    let status = std::fs::read_to_string(format!("/proc/{}/status", a.child.id())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "it is confined: {status}");
    nats.kill(0);
    a.comes_to_have("uprtc_cluster_connected", 0.0);
    // Longer than a lease.
    let begun = Instant::now();
    while begun.elapsed() < LEASE + Duration::from_secs(2) {
        assert_eq!(a.sees(), "a:here b:here");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(a.metric("uprtc_cluster_joined"), Some(0.0), "nothing of it is known to stand any more");
    let output = uprtc(&["nodes", "--state", a.state.path()]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("can be reached"), "{output:?}");
    // One that has been in the cluster serves without it at once; one that has not is told.
    b.kill();
    b.start_again();
    assert_eq!(get(&b.http, "/healthz"), Some(200));
    assert_eq!(b.metric("uprtc_cluster_connected"), Some(0.0));
    nats.start_again(0);
    // A whole lease to come back, and both do before.
    let is_back = || a.metric("uprtc_cluster_joined") == Some(1.0) && b.metric("uprtc_cluster_joined") == Some(1.0);
    until("the cluster again", || {
        assert_eq!(a.sees(), "a:here b:here", "{}", a.log());
        is_back().then_some(())
    });
    b.comes_to_see("a:here b:here");
    assert_eq!(a.metric("uprtc_cluster_reconnects_total"), Some(1.0));
    assert_eq!((a.metric("uprtc_cluster_connected"), b.metric("uprtc_cluster_connected")), (Some(1.0), Some(1.0)));
    let log = a.log();
    assert_eq!(log.matches("cluster_lost").count(), 1, "it is said once: {log}");
    assert_eq!(log.matches("event=\"cluster_joined\"").count(), 2, "and that it is over: {log}");
    assert!(!log.contains("node_gone"), "{log}");
}

#[test]
fn the_leader_of_three_is_killed_and_nobody_is_lost() {
    if nats::program("three servers of NATS").is_none() {
        return;
    }
    let mut nats = Nats::three();
    let arguments = |node| Edge::arguments(&nats.url(), node, &[]);
    let [a, b] = ["a", "b"].map(|node| Edge::with(with_key("a7"), arguments(node)));
    a.comes_to_see("a:here b:here");
    let (leader, copies) = until("the leader", || nats.leader(0));
    assert_eq!(copies, 3);
    let third = arguments("c");
    nats.kill(leader);
    let begun = Instant::now();
    // Writes stop for some seconds, and then every lease goes on.
    while begun.elapsed() < LEASE + Duration::from_secs(4) {
        assert_eq!(a.sees(), "a:here b:here", "{}", a.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let ask = (leader + 1) % 3;
    let (next, _) = until("another leader", || nats.leader(ask));
    assert_ne!(next, leader);
    for edge in [&a, &b] {
        edge.comes_to_have("uprtc_cluster_joined", 1.0);
        let age = edge.metric("uprtc_cluster_lease_age_seconds").unwrap();
        assert!(age < LEASE.as_secs_f64(), "{age}: {}", edge.log());
    }
    let c = Edge::with(with_key("a7"), third);
    for edge in [&a, &b, &c] {
        edge.comes_to_see("a:here b:here c:here");
    }
}
