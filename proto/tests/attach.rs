//! How the planes meet, and how they refuse each other.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Process, Stdio};
use std::{env, fs, thread};

use proto::link::{Access, CONTRACT, Endpoint, LinkError, LinkServer, Lost, attach};
use proto::plane::{Command, Commit, Counter, Reset};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};

#[path = "../../tests/require/mod.rs"]
mod require;

/// A state folder of its own for one test, gone afterwards.
struct State(PathBuf);

impl State {
    fn new(name: &str) -> State {
        let path = std::env::temp_dir().join(format!("uprtc-attach-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        State(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("dataplane.sock")
    }

    fn serve(&self) -> LinkServer {
        LinkServer::bind(&self.socket(), addresses()).unwrap()
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn addresses() -> Vec<Vec<SocketAddr>> {
    vec![vec!["127.0.0.1:40000".parse().unwrap(), "[::1]:40000".parse().unwrap()], vec![]]
}

/// Names the socket for [`as_another_user`], and whether the group is enough.
const SOCKET: &str = "UPRTC_TEST_SOCKET";
const ACCESS: &str = "UPRTC_TEST_ACCESS";

fn access(name: &str) -> Access {
    if name == "group" { Access::Group } else { Access::User }
}

/// Not a test by itself: what the next test runs as another user.
#[test]
fn as_another_user() {
    let (Ok(path), Ok(name)) = (env::var(SOCKET), env::var(ACCESS)) else { return };
    let endpoint = Endpoint { path: path.into(), access: access(&name) };
    if let Err(error) = attach(endpoint) {
        println!("refused: {error}");
    }
}

/// Another user's process reaches the socket, and is taken for a plane, only where its primary group is that of the dataplane
/// and `link-group` is set.
#[test]
fn another_user_attaches_by_its_group_only() {
    if !rustix::process::geteuid().is_root() {
        return require::left_out("root", "planes of two users", "not root");
    }
    let (user, own, other) = (65_534, rustix::process::getegid().as_raw(), 65_534);
    for (name, gid, is_taken) in [("user", own, false), ("group", own, true), ("group", other, false)] {
        let state = State::new("users");
        fs::set_permissions(&state.0, fs::Permissions::from_mode(0o711)).unwrap();
        let endpoint = Endpoint { path: state.socket(), access: access(name) };
        let mut server = LinkServer::bind(endpoint, addresses()).unwrap();
        let mode = if name == "group" { 0o660 } else { 0o600 };
        assert_eq!(fs::metadata(state.socket()).unwrap().permissions().mode() & 0o777, mode);
        // Even one that the file's mode lets through is asked who it is.
        fs::set_permissions(state.socket(), fs::Permissions::from_mode(0o666)).unwrap();
        let child = Process::new(env::current_exe().unwrap())
            .args(["--exact", "as_another_user", "--nocapture", "--test-threads=1"])
            .envs([(SOCKET, state.socket().to_str().unwrap()), (ACCESS, name)])
            .gid(gid)
            .uid(user)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let accepted = server.accept();
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        match is_taken {
            true => assert!(accepted.is_ok() && !output.contains("refused"), "{name} {gid}: {accepted:?} {output}"),
            false => {
                let is_stranger = matches!(accepted, Err(LinkError::Stranger { uid, .. }) if uid == user);
                assert!(is_stranger && output.contains("refused"), "{name} {gid}: {accepted:?} {output}");
            }
        }
    }
}

/// A controlplane that knows only the socket, to say what an honest one would not.
fn dial(state: &State) -> OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(state.socket()).unwrap()).unwrap();
    socket
}

#[test]
fn both_ends_of_each_worker_are_joined() {
    let state = State::new("joined");
    let mut server = state.serve();
    let socket = fs::metadata(state.socket()).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600, "nobody else may connect");

    let attaching = thread::spawn({
        let path = state.socket();
        move || attach(&path).unwrap()
    });
    let mut workers = server.accept().unwrap();
    let mut attached = attaching.join().unwrap();
    assert_eq!(attached.workers.len(), 2);
    assert_eq!(attached.socket.lost(), None);
    for (batch, ((link, info), (worker, addresses))) in
        (1..).zip(attached.workers.iter_mut().zip(workers.iter_mut().zip(addresses())))
    {
        assert_eq!(info.addresses, addresses);
        assert_eq!((link.epoch(), worker.epoch(), info.epoch), (1, 1, 1));
        assert!(worker.sleep());
        assert!(link.push_command(&Commit { batch }.into()));
        link.notify();
        let mut count = [0; 8];
        assert_eq!(rustix::io::read(worker.wake_fd(), &mut count), Ok(8), "a read waits for the wake and takes it");
        assert_eq!(Command::read(&worker.pop_command().unwrap()), Some(Commit { batch }.into()));
        worker.publish(&[batch; Counter::COUNT]);
        assert_eq!(link.counters(), Some([batch; Counter::COUNT]));
    }
}

#[test]
fn the_newest_controlplane_wins_and_inherits_the_journal() {
    let state = State::new("newest");
    let mut server = state.serve();
    let mut attach_one = || {
        let path = state.socket();
        let attaching = thread::spawn(move || attach(&path).unwrap());
        (server.accept().unwrap(), attaching.join().unwrap())
    };
    let (mut old_workers, mut old) = attach_one();
    old.workers[0].0.journal_write(4000, b"first").unwrap();
    old.workers[0].0.journal_write(4000, b"room").unwrap();
    old.workers[1].0.journal_write(0, &[9; 8000]).unwrap();
    assert!(old.workers[0].0.push_command(&Reset {}.into()));

    let (mut workers, mut new) = attach_one();
    assert_eq!(old.socket.lost(), Some(Lost::Replaced));
    assert_eq!(new.socket.lost(), None);
    assert_eq!(new.workers[0].1.epoch, 2);
    assert_eq!(new.workers[0].0.journal_entries().collect::<Vec<_>>(), [(4000, b"room".to_vec())]);
    assert_eq!(new.workers[1].0.journal_entries().collect::<Vec<_>>(), [(0, vec![9; 8000])]);

    // The ghost still has its memory, and nothing that it writes there reaches the worker or the next journal.
    assert!(old.workers[0].0.push_command(&Reset {}.into()));
    old.workers[0].0.journal_write(5, b"ghost").unwrap();
    old.workers[0].0.notify();
    assert!(old_workers[0].pop_command().is_some(), "what it sent is drained from the old link");
    assert_eq!(workers[0].pop_command(), None);
    assert!(workers[0].sleep());
    drop(old);
    let (_, third) = attach_one();
    assert_eq!(third.workers[0].0.journal_entries().count(), 1);
    assert_eq!(new.socket.lost(), Some(Lost::Replaced));
    assert!(new.workers[0].0.push_command(&Reset {}.into()), "a ghost may write for ever");
}

#[test]
fn epochs_rise_across_restarts() {
    let state = State::new("epochs");
    for epoch in 1..=3 {
        let mut server = state.serve();
        let path = state.socket();
        let attaching = thread::spawn(move || attach(&path).unwrap());
        assert_eq!(server.accept().unwrap()[0].epoch(), epoch);
        attaching.join().unwrap();
    }
    // A lock file that somebody spoilt costs the count, not the start.
    fs::File::create(state.0.join("dataplane.sock.lock")).unwrap().write_all(b"\xff\xfenonsense").unwrap();
    drop(state.serve());
}

/// Between fork and exec a child of another test of this process has what is closed here, so it may take a moment.
fn is_seen_dead(mut lost: impl FnMut() -> Option<Lost>) -> bool {
    (0..500).any(|_| {
        thread::sleep(std::time::Duration::from_millis(10));
        lost() == Some(Lost::Died)
    })
}

/// The connection itself changes hands: what was sent before is read by whoever has it then.
#[test]
fn a_connection_is_handed_over_to_a_worker_and_nonsense_ends_the_attachment() {
    let state = State::new("handed");
    let mut server = state.serve();
    let mut attach_one = || {
        let path = state.socket();
        let attaching = thread::spawn(move || attach(&path).unwrap());
        server.accept().unwrap();
        attaching.join().unwrap()
    };
    let first = attach_one();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"check").unwrap();
    first.socket.hand_over(1, &theirs).unwrap();
    drop(theirs);
    let second = attach_one();
    assert!(server.take_connection().unwrap().is_none(), "what a predecessor handed over is not taken any more");
    assert_eq!(ours.read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "but closed");

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(b"check").unwrap();
    second.socket.hand_over(1, &theirs).unwrap();
    drop(theirs);
    let (worker, connection) = server.take_connection().unwrap().unwrap();
    let (mut connection, mut got) = (UnixStream::from(connection), [0; 5]);
    connection.read_exact(&mut got).unwrap();
    assert_eq!((worker, &got), (1, b"check"));
    connection.write_all(b"answer").unwrap();
    ours.read_exact(&mut got).unwrap();
    assert!(server.take_connection().unwrap().is_none());
    assert_eq!(second.socket.lost(), None);

    second.socket.hand_over(2, &connection).unwrap();
    assert!(matches!(server.take_connection(), Err(LinkError::Protocol(_))), "there are two workers");
    assert!(server.attached().is_none());
    assert!(is_seen_dead(|| second.socket.lost()));
    assert!(server.take_connection().unwrap().is_none());
}

#[test]
fn another_contract_is_refused_with_a_sentence_for_both() {
    let state = State::new("contract");
    let mut server = state.serve();
    let socket = dial(&state);
    let hello = br#"{"contract":{"version":77,"layout":81985529216486895}}"#;
    rustix::net::send(&socket, hello, SendFlags::empty()).unwrap();
    let error = server.accept().unwrap_err();
    let sentence = error.to_string();
    let begin = format!("controlplane has contract 77/01234567, dataplane {}/", CONTRACT.version);
    assert!(sentence.starts_with(&begin), "{sentence}");
    assert!(sentence.ends_with("restart both from the same uprtc executable"), "{sentence}");

    // What the other side needs to print the same sentence.
    let mut answer = [0; 1024];
    let (len, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty()).unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer[..len]).unwrap();
    assert_eq!(answer["type"], "refused");
    assert_eq!(answer["contract"]["version"], CONTRACT.version);
    assert_eq!(answer["contract"]["layout"], CONTRACT.layout);
}

#[test]
fn a_refused_controlplane_says_the_same_sentence() {
    let state = State::new("refused");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(state.socket()).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let path = state.socket();
    let attaching = thread::spawn(move || attach(&path).unwrap_err());
    let socket = rustix::net::accept(&listener).unwrap();
    let refusal = br#"{"type":"refused","contract":{"version":77,"layout":81985529216486895}}"#;
    rustix::net::send(&socket, refusal, SendFlags::empty()).unwrap();
    let sentence = attaching.join().unwrap().to_string();
    assert!(sentence.contains("dataplane 77/01234567: restart both"), "{sentence}");
}

#[test]
fn nonsense_silence_and_hanging_up_are_errors_and_the_next_one_is_served() {
    let state = State::new("nonsense");
    let mut server = state.serve();
    for nonsense in [&b"{"[..], b"{\"contract\":5}", &[0xff; 20_000], b"[]"] {
        let socket = dial(&state);
        rustix::net::send(&socket, nonsense, SendFlags::empty()).unwrap();
        assert!(matches!(server.accept(), Err(LinkError::Protocol(_))));
    }
    drop(dial(&state));
    assert!(server.accept().is_err(), "it hung up");
    let silent = dial(&state);
    assert!(matches!(server.accept(), Err(LinkError::Protocol(_))), "it said nothing, and was not waited for");
    drop(silent);

    let path = state.socket();
    let attaching = thread::spawn(move || attach(&path).unwrap());
    assert_eq!(server.accept().unwrap().len(), 2);
    attaching.join().unwrap();
}

#[test]
fn one_dataplane_for_each_state_folder() {
    let state = State::new("one");
    let first = state.serve();
    let error = LinkServer::bind(&state.socket(), addresses()).unwrap_err();
    assert!(matches!(error, LinkError::Taken { .. }), "{error}");
    assert!(error.to_string().contains("--state"));
    drop(first);
    assert!(!state.socket().exists());

    // A socket that a killed dataplane left behind is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(state.socket()).unwrap());
    assert!(state.socket().exists());
    drop(state.serve());
}

#[test]
fn nobody_there_is_said_with_advice() {
    let state = State::new("nobody");
    let error = attach(&state.socket()).unwrap_err();
    assert!(matches!(error, LinkError::Absent { .. }));
    assert!(error.to_string().contains("start `uprtc dataplane`"), "{error}");
    let too_long = state.0.join("x".repeat(200));
    assert!(attach(&too_long).is_err());
    assert!(LinkServer::bind(&too_long, addresses()).is_err());
}

#[test]
fn a_dead_dataplane_is_seen_on_the_socket() {
    let state = State::new("dead");
    let mut server = state.serve();
    let path = state.socket();
    let attaching = thread::spawn(move || attach(&path).unwrap());
    let workers = server.accept().unwrap();
    let mut attached = attaching.join().unwrap();
    drop((server, workers));
    assert!(is_seen_dead(|| attached.socket.lost()));
    assert!(attached.socket.as_fd().try_clone_to_owned().is_ok());
    // The memory stays with whoever holds it.
    assert_eq!(attached.workers[0].0.counters(), Some([0; Counter::COUNT]));
    attached.workers[0].0.journal_write(0, b"still here").unwrap();
}
