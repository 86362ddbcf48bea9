//! A server of the generator's own: `uprtc run` in a folder of its own, on ports of the kernel's choice.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Failure;
use crate::cli::Common;

/// How long it may take to end when asked, before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);

/// Limits that stand in the way of a load and are none of a server's speed. What the operator sets wins.
const SETTINGS: [&str; 6] = [
    "log=warn",
    "requests-per-second=10000",
    "peers-per-worker-max=4096",
    "sockets-max=16384",
    "connections-max=16384",
    "rooms-max=100000",
];

/// It ends with the value.
pub(crate) struct OwnServer {
    child: Child,
    /// Its state folder.
    pub(crate) state: PathBuf,
    /// `HOST:PORT` of its HTTP side.
    pub(crate) authority: String,
}

impl OwnServer {
    /// Starts it and waits until a room can be joined.
    pub(crate) fn start(common: &Common, workers: usize) -> Result<OwnServer, Failure> {
        let state = std::env::temp_dir().join(format!("uprtc-load-{}", std::process::id()));
        std::fs::create_dir_all(&state)?;
        let state = state.canonicalize()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg("--state").arg(&state);
        command.args(["--listen", "127.0.0.1:0", "--stun", "127.0.0.1:0", "--media-port", "0"]);
        command.args(["--media-ip", "127.0.0.1", "--workers", &workers.to_string()]);
        if let Some(config) = &common.config {
            command.arg("--config").arg(config);
        }
        for setting in SETTINGS.iter().copied().chain(common.set.iter().map(String::as_str)) {
            command.args(["--set", setting]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut server = OwnServer { child, state, authority: String::new() };
        let mut link = String::new();
        if let Some(stdout) = server.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut link)?;
        }
        let authority = link.trim().strip_prefix("http://").and_then(|rest| rest.split('/').next());
        server.authority = authority.ok_or("the server of our own did not start; its message is above")?.to_owned();
        Ok(server)
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM); // It may have ended by itself.
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.state); // What stays is small and in the folder for such things.
    }
}
