//! Two real processes over one link, and SIGKILL for either of them: the survivor carries on with a successor.
//!
//! The other process is this same test binary, started again with a role in its environment; [`other_process`] is
//! its entry. The two talk about the test over the child's stdin and stdout, and about their work over the link.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use proto::link::{Attached, ControlLink, LinkServer, Lost, WorkerLink, attach};
use proto::plane::{Command, Commit, Committed, Counter, Event, Report, Reset};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const ROLE: &str = "UPRTC_TEST_ROLE";
const SOCKET: &str = "UPRTC_TEST_SOCKET";
const DEADLINE: Duration = Duration::from_secs(20);

/// The entry of the other process; in the test process itself it does nothing.
#[test]
fn other_process() {
    let Ok(role) = env::var(ROLE) else { return };
    // It must not outlive the test, however the test ends.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let socket = PathBuf::from(env::var(SOCKET).unwrap());
    match role.as_str() {
        "dataplane" => be_dataplane(&socket),
        "controlplane" => be_busy_controlplane(&socket),
        "ghost" => be_ghost(&socket),
        "successor" => be_successor(&socket),
        role => panic!("no role {role}"),
    }
}

/// Attaches one controlplane after the other; commits whatever comes.
fn be_dataplane(socket: &Path) {
    let mut server = LinkServer::bind(socket, addresses()).unwrap();
    say("bound");
    loop {
        let mut worker = server.accept().unwrap().remove(0);
        thread::spawn(move || serve(&mut worker));
    }
}

/// Works until it is killed: commands without end, and one journal entry rewritten over and over, so that the kill
/// falls into the middle of a write more often than not.
fn be_busy_controlplane(socket: &Path) {
    let mut link = attach_soon(socket).workers.remove(0).0;
    link.journal_write(1, b"room one").unwrap();
    link.journal_write(2, b"room two").unwrap();
    link.journal_write(3, b"left").unwrap();
    link.journal_clear(3).unwrap();
    say("busy");
    let mut batch = 0;
    for round in 0u64.. {
        link.journal_write(9, &patterned(round)).unwrap();
        // A full ring is no failure: the same batch is offered again.
        batch += u64::from(link.push_command(&Commit { batch }.into()));
        link.notify();
    }
}

/// Attaches, waits until a successor is there, and then goes on as if nothing had happened.
fn be_ghost(socket: &Path) {
    let mut attached = attach_soon(socket);
    let link = &mut attached.workers[0].0;
    link.journal_write(1, b"room one").unwrap();
    say("attached");
    hear();
    link.journal_write(1, b"a ghost's room").unwrap();
    link.journal_write(4, b"another").unwrap();
    assert!(link.push_command(&Reset {}.into()));
    link.notify();
    say(&format!("{:?}", attached.socket.lost()));
    hear();
}

/// Attaches, says what it found, and proves that the link works.
fn be_successor(socket: &Path) {
    let mut link = attach_soon(socket).workers.remove(0).0;
    say(&format!("epoch {}", link.epoch()));
    for (slot, bytes) in link.journal_entries() {
        say(&format!("{slot} {}", if slot == 9 { describe(&bytes) } else { String::from_utf8(bytes).unwrap() }));
    }
    say("end");
    assert!(link.push_command(&Commit { batch: 42 }.into()));
    link.notify();
    assert_eq!(next_report(&mut link), Report::Event(Event::Committed(Committed { batch: 42 })));
    say("committed");
    hear();
}

#[test]
fn a_killed_controlplane_is_succeeded() {
    let state = State::new("control");
    let mut server = LinkServer::bind(&state.socket(), addresses()).unwrap();
    let mut last_epoch = 0;
    for kill_after in [200, 999, 3001] {
        let mut busy = Other::start("controlplane", &state);
        let mut worker = server.accept().unwrap().remove(0);
        assert_eq!(busy.hear(), "busy");
        for batch in 0..kill_after {
            assert_eq!(next_command(&mut worker), Commit { batch }.into());
        }
        busy.kill();
        // What the dead one had pushed is still whole and in order; then its ring stays empty.
        let mut batch = kill_after;
        while let Some(record) = worker.pop_command() {
            assert_eq!(Command::read(&record), Some(Commit { batch }.into()));
            batch += 1;
        }
        assert!(worker.sleep());

        let mut successor = Other::start("successor", &state);
        let mut fresh = server.accept().unwrap().remove(0);
        assert!(fresh.epoch() > worker.epoch() && fresh.epoch() > last_epoch);
        last_epoch = fresh.epoch();
        assert_eq!(successor.hear(), format!("epoch {last_epoch}"));
        assert_eq!(successor.hear(), "1 room one");
        assert_eq!(successor.hear(), "2 room two");
        assert_eq!(successor.hear(), "9 whole", "the entry that was being written");
        assert_eq!(successor.hear(), "end");
        assert_eq!(next_command(&mut fresh), Commit { batch: 42 }.into());
        commit(&mut fresh, 42);
        assert_eq!(successor.hear(), "committed");
        successor.kill();
    }
}

#[test]
fn a_ghost_reaches_nobody() {
    let state = State::new("ghost");
    let mut server = LinkServer::bind(&state.socket(), addresses()).unwrap();
    let mut ghost = Other::start("ghost", &state);
    let mut old = server.accept().unwrap().remove(0);
    assert_eq!(ghost.hear(), "attached");

    let mut successor = Other::start("successor", &state);
    let mut fresh = server.accept().unwrap().remove(0);
    assert_eq!(successor.hear(), "epoch 2");
    assert_eq!(successor.hear(), "1 room one");
    assert_eq!(successor.hear(), "end");
    assert_eq!(next_command(&mut fresh), Commit { batch: 42 }.into());

    ghost.say("haunt");
    assert_eq!(ghost.hear(), format!("{:?}", Some(Lost::Replaced)));
    assert_eq!(next_command(&mut old), Reset {}.into(), "it wrote, but into the memory of its own epoch");
    assert_eq!(fresh.pop_command(), None);
    commit(&mut fresh, 42);
    assert_eq!(successor.hear(), "committed");

    let mut third = Other::start("successor", &state);
    server.accept().unwrap();
    assert_eq!(third.hear(), "epoch 3");
    assert_eq!(third.hear(), "1 room one", "not the ghost's");
    assert_eq!(third.hear(), "end");
}

#[test]
fn a_killed_dataplane_is_succeeded() {
    let state = State::new("data");
    let mut last_epoch = 0;
    for _ in 0..3 {
        let mut dataplane = Other::start("dataplane", &state);
        assert_eq!(dataplane.hear(), "bound");
        let mut attached = attach_soon(&state.socket());
        let (link, info) = &mut attached.workers[0];
        assert!(info.epoch > last_epoch, "epochs rise across dataplanes");
        assert_eq!(link.journal_entries().count(), 0, "the journal dies with its dataplane");
        last_epoch = info.epoch;
        for batch in 0..5000 {
            assert!(link.push_command(&Commit { batch }.into()));
            link.notify();
            if batch % 100 == 99 {
                (batch - 99..=batch).for_each(|batch| {
                    assert_eq!(next_report(link), Report::Event(Event::Committed(Committed { batch })));
                });
            }
        }
        link.journal_write(0, b"a room").unwrap();
        assert_eq!(attached.socket.lost(), None);

        dataplane.kill();
        assert!(is_readable_soon(&attached.socket), "the socket says it");
        assert_eq!(attached.socket.lost(), Some(Lost::Died));
        // The memory is still ours, and no call on it waits or fails because nobody is there.
        let (link, _) = &mut attached.workers[0];
        // (None if it was killed while publishing; the reader gives up then.)
        assert!(link.counters().is_none_or(|counters| counters[Counter::Turns as usize] > 0));
        while link.push_command(&Reset {}.into()) {}
        assert_eq!(link.command_space(), 0);
        link.notify();
        assert_eq!(link.pop_report(), None);
        assert_eq!(link.journal_entries().collect::<Vec<_>>(), [(0, b"a room".to_vec())]);
    }
}

fn addresses() -> Vec<Vec<SocketAddr>> {
    vec![vec!["127.0.0.1:40000".parse().unwrap()]]
}

/// An entry that shows by itself whether it is whole: its length and each byte follow from the round.
fn patterned(round: u64) -> Vec<u8> {
    let len = 100 + (round * 37 % 7000) as usize;
    let mut bytes = vec![(round % 251) as u8; len];
    bytes[..8].copy_from_slice(&round.to_le_bytes());
    bytes
}

fn describe(bytes: &[u8]) -> String {
    let round = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    if bytes == patterned(round) { "whole".into() } else { format!("torn in round {round}") }
}

/// A worker's loop: reads, answers, parks.
fn serve(worker: &mut WorkerLink) {
    let mut counters = [0; Counter::COUNT];
    loop {
        counters[Counter::Turns as usize] += 1;
        while let Some(record) = worker.pop_command() {
            if let Some(Command::Commit(Commit { batch })) = Command::read(&record) {
                let _ = worker.push_report(&Report::Event(Event::Committed(Committed { batch })).write());
            }
        }
        worker.publish(&counters);
        worker.notify();
        if worker.sleep() {
            rustix::io::read(worker.wake_fd(), &mut [0; 8]).unwrap();
            worker.awake();
        }
    }
}

fn commit(worker: &mut WorkerLink, batch: u64) {
    assert!(worker.push_report(&Report::Event(Event::Committed(Committed { batch })).write()));
    worker.notify();
}

/// The next command, parking for it as a worker does.
fn next_command(worker: &mut WorkerLink) -> Command {
    loop {
        if let Some(record) = worker.pop_command() {
            return Command::read(&record).unwrap();
        }
        if worker.sleep() {
            assert!(is_readable_soon(worker.wake_fd()), "no command came");
            worker.clear_wake();
            worker.awake();
        }
    }
}

/// The next report, waiting for it as a controlplane does.
fn next_report(link: &mut ControlLink) -> Report {
    loop {
        if let Some(report) = link.pop_report() {
            return report.unwrap();
        }
        if link.sleep() {
            assert!(is_readable_soon(link.wake_fd()), "no report came");
            link.clear_wake();
            link.awake();
        }
    }
}

fn is_readable_soon(fd: impl std::os::fd::AsFd) -> bool {
    let timeout = Timespec::try_from(DEADLINE).unwrap();
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) == Ok(1)
}

/// Attaches as a controlplane does: again and again until a dataplane answers.
fn attach_soon(socket: &Path) -> Attached {
    let started = Instant::now();
    loop {
        match attach(socket) {
            Ok(attached) => return attached,
            Err(error) => assert!(started.elapsed() < DEADLINE, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Marks the lines that are for the other process; the test harness prints some of its own.
const MARK: &str = "> ";

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{MARK}{line}").unwrap();
    out.flush().unwrap();
}

fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line
}

/// The other process.
struct Other {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Other {
    fn start(role: &str, state: &State) -> Other {
        let mut child = Process::new(env::current_exe().unwrap())
            .args(["--exact", "other_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(SOCKET, state.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Other { child, stdin, stdout }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the other process ended");
            if let Some(line) = line.trim_end().strip_prefix(MARK) {
                return line.to_owned();
            }
        }
    }

    /// SIGKILL, and waits until it has happened.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A state folder of its own for one test, gone afterwards.
struct State(PathBuf);

impl State {
    fn new(name: &str) -> State {
        let path = env::temp_dir().join(format!("uprtc-two-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        State(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("dataplane.sock")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
