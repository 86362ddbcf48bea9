//! `weak-link NEAR FAR [SEED]`: makes two TUN interfaces of these names and carries packets between them. Whoever starts it gives them
//! addresses, and moves one into another network namespace (`ip link set FAR netns PID`). Commands come on its input
//! (`command.rs`); it ends with it. One thread, which sleeps until a packet, a command or a deadline comes.

mod tun;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weak::settings::Change;
use weak::{Command, Direction, Settings, Which};

/// Packets read from one side before the other has its turn.
const BATCH: usize = 64;
/// How many of the latest wakes are remembered.
const WAKES_MAX: usize = 100_000;

struct Link {
    begun: Instant,
    near: tun::Tun,
    far: tun::Tun,
    down: Direction,
    up: Direction,
    /// The beginning of a command, whose end was not read yet.
    input: Vec<u8>,
    /// Changes that are still to come.
    script: Vec<(u64, Which, Change)>,
    marked_us: u64,
    /// How late the process woke for a deadline, microseconds: how accurate the link is on this machine.
    late_us: Vec<u32>,
    /// Packets that an interface did not take.
    refused: u64,
}

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (near, far, seed) = match words.as_slice() {
        [near, far] => (near, far, 1),
        [near, far, seed] => (near, far, seed.parse().map_err(io::Error::other)?),
        _ => return Err(io::Error::other("usage: weak-link NEAR FAR [SEED]")),
    };
    let mut link = Link {
        begun: Instant::now(),
        near: tun::Tun::open(near)?,
        far: tun::Tun::open(far)?,
        down: Direction::new(Settings::default(), seed, 0),
        up: Direction::new(Settings::default(), seed ^ 0x5555, 0),
        input: Vec::new(),
        script: Vec::new(),
        marked_us: 0,
        late_us: Vec::new(),
        refused: 0,
    };
    say("{\"ready\":true}")?;
    link.run()
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

impl Link {
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 65_536];
        loop {
            let deadline = self.deliver();
            let has_input = self.wait(deadline)?;
            for _ in 0..BATCH {
                let down = self.near.read(&mut buffer)?.map(<[u8]>::to_vec);
                let now = self.now();
                let is_down = down.is_some();
                down.into_iter().for_each(|packet| self.down.push(now, packet));
                let up = self.far.read(&mut buffer)?.map(<[u8]>::to_vec);
                let is_up = up.is_some();
                up.into_iter().for_each(|packet| self.up.push(now, packet));
                if !is_down && !is_up {
                    break;
                }
            }
            if has_input && !self.obey()? {
                return Ok(());
            }
        }
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_micros() as u64
    }

    /// Writes what has arrived; returns the next deadline.
    fn deliver(&mut self) -> Option<u64> {
        let now = self.now();
        while let Some(at) = self.script.iter().position(|(at, ..)| *at <= now) {
            let (_, which, change) = self.script.remove(at);
            self.set(now, which, &change);
        }
        let Link { near, far, down, up, refused, .. } = self;
        let down = down.poll(now, |packet| *refused += u64::from(!far.write(&packet)));
        let up = up.poll(now, |packet| *refused += u64::from(!near.write(&packet)));
        self.script.iter().map(|(at, ..)| *at).chain(down).chain(up).min()
    }

    /// Sleeps until the deadline, a packet, or a command. Returns whether there is a command.
    fn wait(&mut self, deadline: Option<u64>) -> io::Result<bool> {
        let now = self.now();
        let rest = deadline.map(|at| Duration::from_micros(at.saturating_sub(now)));
        let rest = rest.map(|rest| Timespec { tv_sec: rest.as_secs() as i64, tv_nsec: rest.subsec_nanos().into() });
        let stdin = io::stdin();
        let mut fds = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::from_borrowed_fd(self.near.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.far.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, rest.as_ref()) {
            Ok(0) => {
                let late = self.now().saturating_sub(deadline.unwrap_or(u64::MAX));
                if self.late_us.len() < WAKES_MAX {
                    self.late_us.push(late as u32);
                }
                Ok(false)
            }
            Ok(_) => Ok(!fds[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads commands and obeys them. Returns whether there may be more.
    fn obey(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let len = rustix::io::read(io::stdin(), &mut bytes)?;
        self.input.extend_from_slice(&bytes[..len]);
        while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            match Command::parse(String::from_utf8_lossy(&line).trim()) {
                Ok(command) => self.command(command)?,
                Err(error) => eprintln!("weak-link: {error}"),
            }
        }
        Ok(len > 0)
    }

    fn command(&mut self, command: Command) -> io::Result<()> {
        let now = self.now();
        match command {
            Command::Set(which, change) => self.set(now, which, &change),
            Command::At(after_us, which, change) => self.script.push((self.marked_us + after_us, which, change)),
            Command::Mark => {
                self.marked_us = now;
                self.script.clear();
                self.late_us.clear();
                self.down.mark(now);
                self.up.mark(now);
            }
            Command::Report => {
                // The capacity is counted up to now.
                self.deliver();
                self.late_us.sort_unstable();
                let late = |share: f64| {
                    let at = (self.late_us.len() as f64 * share) as usize;
                    self.late_us
                        .get(at.min(self.late_us.len().saturating_sub(1)))
                        .map_or(0.0, |us| f64::from(*us) / 1e3)
                };
                let (p95, max) = (late(0.95), late(1.0));
                let ms = (now - self.marked_us) as f64 / 1e3;
                let mut text = format!(
                    "{{\"ms\":{ms},\"late_ms_p95\":{p95},\"late_ms_max\":{max},\"refused\":{},\"down\":",
                    self.refused
                );
                self.down.counts().write_json(&mut text);
                text.push_str(",\"up\":");
                self.up.counts().write_json(&mut text);
                text.push('}');
                say(&text)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, now: u64, which: Which, change: &Change) {
        if which != Which::Up {
            self.down.set(now, change);
        }
        if which != Which::Down {
            self.up.set(now, change);
        }
    }
}
