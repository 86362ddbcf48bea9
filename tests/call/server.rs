//! A running `uprtc run` of the test's own, and its planes as processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bench::signal::Link;
use rustix::process::{Pid, Signal, kill_process};

/// Ports of the kernel's choice, a state folder of its own; both end with the value.
pub(crate) struct Server {
    child: Child,
    state: PathBuf,
    link: Link,
}

impl Server {
    /// Starts it and waits for its address.
    pub(crate) fn start() -> Server {
        Server::with(1, &[])
    }

    /// The same with so many workers, and other settings of the controlplane.
    pub(crate) fn with(workers: usize, settings: &[&str]) -> Server {
        let state = new_state();
        // All edges of a cluster have one signing key.
        if settings.iter().any(|setting| setting.starts_with("cluster=")) {
            let path = state.join("token.key");
            std::fs::write(&path, "a7".repeat(32)).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let mut command = uprtc(&state, &["run"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Server::await_link(command, "127.0.0.1", workers, state)
    }

    /// Starts it at the other end of a cable, with more options.
    pub(crate) fn start_at(cable: &Cable, options: &[&str]) -> Server {
        let state = new_state();
        let mut command = cable.at_edge(env!("CARGO_BIN_EXE_uprtc"));
        command.arg("run").arg("--state").arg(&state).args(["--media-ip", &Cable::EDGE.to_string()]).args(options);
        Server::await_link(command, &Cable::EDGE.to_string(), 1, state)
    }

    /// It ends, and another one is started on its state folder.
    pub(crate) async fn restart(&mut self, settings: &[&str]) {
        self.terminate(Duration::from_secs(10)).await;
        let mut command = uprtc(&self.state, &["run"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut next = Server::await_link(command, "127.0.0.1", 1, self.state.clone());
        std::mem::swap(&mut self.child, &mut next.child);
        std::mem::swap(&mut self.link, &mut next.link);
        next.state = new_state(); // It takes with it what it has.
    }

    fn await_link(mut command: Command, ip: &str, workers: usize, state: PathBuf) -> Server {
        let address = format!("{ip}:0");
        command.args(["--listen", &address, "--media-port", "0", "--stun", &address]);
        command.args(["--workers", &workers.to_string()]).env("UPRTC_IO", "udp");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // Its address alone: a link is printed to a terminal only. Each guest has a link of its own.
        let link = Link::parse(&format!("{}r/none?token=none", line.trim())).expect("the first line is its address");
        Server { child, state, link }
    }

    /// A link into `room` for `name`, who may send and receive. The peers of the test go on meanwhile.
    pub(crate) async fn link(&self, room: &str, name: &str) -> Link {
        let may = ["--room", room, "--name", name, "--publish", "--subscribe"];
        let mut command = uprtc(&self.state, &["token"]);
        command.args(may);
        let output = tokio::process::Command::from(command).output().await.unwrap();
        assert!(output.status.success());
        self.link.to_room(room, String::from_utf8(output.stdout).unwrap().trim())
    }

    /// The same room and token as a link of before, where it listens now.
    pub(crate) fn here(&self, link: &Link) -> Link {
        link.at(self.link.authority())
    }

    /// Kills a plane as an out-of-memory killer would, and waits for its successor.
    pub(crate) async fn kill(&self, plane: &str) {
        let killed = self.plane(plane).expect("the plane runs");
        kill_process(killed, Signal::KILL).unwrap();
        until(&format!("another {plane}"), || self.plane(plane).is_some_and(|pid| pid != killed)).await;
    }

    /// Asks it to end, and waits for that; also says how long it took.
    pub(crate) async fn terminate(&mut self, timeout: Duration) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status, begun.elapsed());
            }
            assert!(begun.elapsed() < timeout, "still there {timeout:?} after SIGTERM");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The process of a plane, found by its word and the state folder in its command line.
    pub(crate) fn plane(&self, plane: &str) -> Option<Pid> {
        self.processes().into_iter().find(|(_, word)| word == plane).map(|(pid, _)| pid)
    }

    /// All processes that have our state folder in their command line, with the word that says what they are.
    pub(crate) fn processes(&self) -> Vec<(Pid, String)> {
        let process = |entry: std::fs::DirEntry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let words: Vec<_> = line.split(|&byte| byte == 0).map(String::from_utf8_lossy).collect();
            let is_ours = words.iter().any(|word| Path::new(&**word) == self.state);
            is_ours.then(|| (pid, words[1].clone().into_owned()))
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(process).collect()
    }
}

impl Server {
    /// The value of one of the cluster's, with its labels.
    pub(crate) fn metric_of(&self, name: &str) -> u64 {
        let name = format!("uprtc_cluster_{name}");
        self.page().lines().find_map(|line| line.strip_prefix(&name)?.trim().parse().ok()).unwrap_or_default()
    }

    /// A number of the metrics page, all workers together.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.value(name) as u64
    }

    /// The same where it is not whole.
    pub(crate) fn value(&self, name: &str) -> f64 {
        let page = self.page();
        let values =
            page.lines().filter_map(|line| line.strip_prefix(name)).filter(|rest| rest.starts_with(['{', ' ']));
        values.map(|rest| rest.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    fn page(&self) -> String {
        let mut stream = TcpStream::connect(self.link.authority()).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }
}

/// A cable from this process's network, which must be its own, to another one: that of a process that waits for its end.
pub(crate) struct Cable {
    edge: Child,
}

impl Cable {
    pub(crate) const EDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    pub(crate) const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

    pub(crate) fn lay() -> Cable {
        // It reads until our end of the pipe is gone, however we end.
        let edge = Command::new("unshare").args(["--net", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let network = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let begun = Instant::now();
        while network(&edge.id().to_string()) == network("self") {
            assert!(begun.elapsed() < super::DEADLINE, "unshare does not come into its own");
            std::thread::sleep(Duration::from_millis(1));
        }
        let cable = Cable { edge };
        run(Command::new("ip"), &format!("link add clients type veth peer name edge netns {}", cable.edge.id()));
        for line in [&format!("addr add {}/24 dev edge", Cable::EDGE), "link set edge up", "link set lo up"] {
            run(cable.at_edge("ip"), line);
        }
        for line in [&format!("addr add {}/24 dev clients", Cable::CLIENTS), "link set clients up", "link set lo up"] {
            run(Command::new("ip"), line);
        }
        cable
    }

    /// A program that will run at the other end.
    fn at_edge(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.edge.id())).arg(program);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        let _ = self.edge.kill();
        let _ = self.edge.wait();
    }
}

fn run(mut command: Command, arguments: &str) {
    let status = command.args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "{arguments}: {status}");
}

fn new_state() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let state = std::env::temp_dir().join(format!("uprtc-call-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&state).unwrap();
    state.canonicalize().unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its planes end with it: the kernel sees to that.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

fn uprtc(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uprtc"));
    command.args(arguments).arg("--state").arg(state).stdin(Stdio::null());
    command
}

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < super::DEADLINE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
