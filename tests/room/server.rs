//! A running `uprtc run` of the test's own.

use std::process::Child;
use std::time::{Duration, Instant};

use client::http::Server as Address;
use client::room::{Event, Room, Settings};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{DEADLINE, Folder, authority, first_line, plane, until, uprtc};

/// It ends with the value.
pub(crate) struct Server {
    child: Child,
    pub(crate) folder: Folder,
    pub(crate) http: String,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(&[])
    }

    /// The same with other settings.
    pub(crate) fn with(settings: &[&str]) -> Server {
        let folder = Folder::new();
        let address = "127.0.0.1:0";
        let mut command = uprtc(&["run", "--state", folder.path(), "--listen", address, "--stun", address]);
        command.args(["--media-port", "0", "--workers", "1"]).env("UPRTC_IO", "udp");
        command.args(settings.iter().flat_map(|setting| ["--set", *setting]));
        let mut child = command.stderr(std::process::Stdio::inherit()).spawn().unwrap();
        let http = authority(&first_line(&mut child)).to_owned();
        assert!(!http.is_empty(), "it printed no address");
        Server { child, folder, http }
    }

    /// A token for a room, with all rights but an administrator's.
    pub(crate) fn token(&self, room: &str, name: &str) -> String {
        self.token_with(room, name, &["--publish", "--subscribe"])
    }

    /// A token with these rights.
    pub(crate) fn token_with(&self, room: &str, name: &str, rights: &[&str]) -> String {
        let arguments = ["token", "--state", self.folder.path(), "--room", room, "--name", name];
        let output = uprtc(&arguments).args(rights).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn settings(&self, room: &str, name: &str) -> Settings {
        Settings::new(Address::plain(&self.http), room, &self.token(room, name))
    }

    /// Kills planes as an out-of-memory killer would, all at once, and waits for their successors.
    pub(crate) fn kill(&self, planes: &[&str]) {
        let killed: Vec<Pid> = planes.iter().map(|name| plane(&self.folder.0, name).expect("the plane runs")).collect();
        killed.iter().for_each(|&pid| kill_process(pid, Signal::KILL).unwrap());
        for (name, before) in planes.iter().zip(killed) {
            until(&format!("another {name}"), || plane(&self.folder.0, name).filter(|&pid| pid != before));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads events until one is what is waited for.
pub(crate) async fn wait<T>(room: &mut Room, what: &str, mut is_it: impl FnMut(Event) -> Option<T>) -> T {
    let waited = tokio::time::timeout(DEADLINE, async {
        loop {
            let event = room.next().await;
            let last = format!("{event:?}");
            if let Some(found) = is_it(event) {
                return found;
            }
            assert!(!last.starts_with("Ended"), "{last} while waiting for {what}");
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what} did not come"))
}
