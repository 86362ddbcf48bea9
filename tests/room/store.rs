//! `uprtc record --to s3://…` with a real store: rclone, which serves folders as buckets and checks signatures.

#[path = "../require/tool.rs"]
mod tool;

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use proto::signal::VideoCodec;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Folder, until, uprtc};
use crate::media::{Media, is_there};
use crate::recording::{Publisher, probe, send_for};
use crate::require;
use crate::server::Server;

const KEY: (&str, &str) = ("accesskey1", "its-secret-of-twenty-or-more");

/// The executable, if this machine has it.
fn program(what: &str) -> Option<&'static str> {
    static PROGRAM: tool::Found = tool::Found::new();
    tool::find(&PROGRAM, "rclone", "s3", what)
}

/// A store with the bucket `bucket`; it ends with the value.
struct Store {
    folder: Folder,
    port: u16,
    child: Option<Child>,
}

impl Store {
    fn start() -> Store {
        let (folder, held) = (Folder::new(), TcpListener::bind("127.0.0.1:0").unwrap());
        let port = held.local_addr().unwrap().port();
        drop(held);
        std::fs::create_dir_all(folder.0.join("served/bucket")).unwrap();
        let mut store = Store { folder, port, child: None };
        store.start_again();
        store
    }

    fn start_again(&mut self) {
        let (address, key) = (format!("127.0.0.1:{}", self.port), format!("{},{}", KEY.0, KEY.1));
        let log = std::fs::File::options().append(true).create(true).open(self.folder.0.join("log")).unwrap();
        let mut command = Command::new(program("a store").expect("it was there"));
        command.args(["serve", "s3", "--config", "", "--addr", &address, "--auth-key", &key]);
        command.arg(self.folder.0.join("served")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("the store", || TcpStream::connect(&address).ok());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Where an object is that has this key.
    fn object(&self, key: &str) -> PathBuf {
        self.folder.0.join("served/bucket").join(key)
    }

    /// Whole, or not there: rclone renames what has come.
    fn list(&self, recording: &str) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.object(recording).join("recording.json")).ok()?).ok()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.kill();
    }
}

fn command(server: &Server, store: &Store, spool: &Path, to: &str) -> Command {
    let arguments = ["record", "--state", server.folder.path(), "--spool", spool.to_str().unwrap(), "--to", to];
    let mut command = uprtc(&arguments);
    command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", store.port));
    command.env("AWS_ACCESS_KEY_ID", KEY.0).env("AWS_SECRET_ACCESS_KEY", KEY.1);
    command
}

/// A recorder as a process; killed with the value.
struct Recorder {
    child: Child,
    /// What its keys begin with.
    recording: String,
}

impl Recorder {
    fn start(server: &Server, store: &Store, spool: &Path, room: &str) -> Recorder {
        let mut command = command(server, store, spool, "s3://bucket/calls");
        let mut child = command.arg(room).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let recording = line.trim().strip_prefix("s3://bucket/").expect("where the recording will be").to_owned();
        Recorder { child, recording }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(&mut self) -> bool {
        until("the recorder's end", || self.child.try_wait().unwrap()).success()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map_or(Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect())
}

#[test]
fn a_store_that_takes_nothing_is_told_by_its_name_before_anything_is_joined() {
    if program("recordings in a store").is_none() {
        return;
    }
    let (server, mut store) = (Server::start(), Store::start());
    let spool = server.folder.0.join("spool");
    let fails = |store: &Store, to: &str, secret: &str, says: &str| {
        let mut command = command(&server, store, &spool, to);
        let output = command.env("AWS_SECRET_ACCESS_KEY", secret).arg("r").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says) && !said.contains(KEY.1), "{said}");
    };
    fails(&store, "s3://bucket/calls", "wrong", "--to s3://bucket/calls: the store refuses the credentials");
    fails(&store, "s3://other/calls", KEY.1, "--to s3://other/calls: the store has no bucket other");
    fails(&store, "s3://b", KEY.1, "\"s3://b\" is not s3://BUCKET/PREFIX");
    fails(&store, "s3://bucket", "", "AWS_SECRET_ACCESS_KEY is not set");
    store.kill();
    fails(&store, "s3://bucket/calls", KEY.1, "--to s3://bucket/calls: the store cannot be reached");
    assert!(entries(&spool).is_empty(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recordings_go_to_a_store_that_is_killed_and_started_again() {
    if program("recordings in a store").is_none() {
        return;
    }
    if !is_there() {
        return require::left_out("ffmpeg", "recordings", "ffmpeg and ffprobe are not installed");
    }
    let (server, mut store) = (Server::start(), Store::start());
    let spool = server.folder.0.join("spool");
    let media = Media::make(&server.folder.0, VideoCodec::H264, "320x180");
    let join = async |name| Publisher::join(&server, "r", name, [media.clone(), media.clone()], u32::MAX).await;
    let (ada, bob) = (join("Ada").await, join("Bob").await);
    let mut recorder = Recorder::start(&server, &store, &spool, "r");
    send_for(&ada, 2).await;
    let list = until("the list while it is recorded", || store.list(&recorder.recording));
    assert!(list.get("ended").is_none(), "{list:#}");

    // What is finished while the store is gone waits, and the recording goes on.
    store.kill();
    bob.leave().await;
    send_for(&ada, 3).await;
    let own = until("the recording's folder", || entries(&spool).pop());
    assert_eq!(entries(&own).iter().filter(|path| path.extension() == Some("mp4".as_ref())).count(), 4, "{own:?}");
    store.start_again();
    until("what was finished meanwhile", || {
        let there = entries(&store.object(&recorder.recording));
        (there.iter().filter(|path| path.extension() == Some("mp4".as_ref())).count() == 2).then_some(())
    });
    send_for(&ada, 1).await;
    recorder.signal(Signal::TERM);
    assert!(recorder.end());
    let list = store.list(&recorder.recording).unwrap();
    assert_eq!(list["end_reason"], "stopped", "{list:#}");
    let files = list["files"].as_array().unwrap();
    assert_eq!(files.len(), 4, "{list:#}");
    for file in files {
        let path = store.object(&recorder.recording).join(file["file"].as_str().unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), file["bytes"].as_u64().unwrap(), "{file:#}");
        let (stream, begin, end) = probe(&path);
        assert!(stream["codec_name"] == file["codec"] && end - begin > 1.0, "{begin} to {end} of {file:#}");
    }
    assert!(entries(&spool).is_empty(), "nothing stays here: {:?}", entries(&spool));
    ada.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_recorder_left_goes_to_the_store_with_the_next_start() {
    if program("recordings in a store").is_none() {
        return;
    }
    if !is_there() {
        return require::left_out("ffmpeg", "recordings", "ffmpeg and ffprobe are not installed");
    }
    let (server, store) = (Server::start(), Store::start());
    let spool = server.folder.0.join("spool");
    let media = Media::make(&server.folder.0, VideoCodec::H264, "320x180");
    let ada = Publisher::join(&server, "r", "Ada", [media.clone(), media], u32::MAX).await;
    let mut killed = Recorder::start(&server, &store, &spool, "r");
    send_for(&ada, 3).await;
    killed.signal(Signal::KILL);
    assert!(!killed.end());
    let left = entries(&spool).pop().unwrap();
    // A file that goes in parts, the last one of them a short one.
    let long: Vec<u8> = (0..20_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(left.join("0009-long-camera.mp4"), &long).unwrap();
    let sizes = |path: &PathBuf| (path.file_name().unwrap().to_owned(), std::fs::metadata(path).unwrap().len());
    let is_file = |path: &PathBuf| path.extension() == Some("mp4".as_ref());
    let mut before: Vec<_> = entries(&left).iter().filter(|path| is_file(path)).map(sizes).collect();
    before.sort();
    assert_eq!(before.len(), 3, "{before:?}");

    let mut next = Recorder::start(&server, &store, &spool, "another");
    until("the folder to be sent and removed", || (!left.exists()).then_some(()));
    let mut there: Vec<_> =
        entries(&store.object(&killed.recording)).iter().filter(|path| is_file(path)).map(sizes).collect();
    there.sort();
    assert_eq!(there, before);
    assert!(std::fs::read(store.object(&killed.recording).join("0009-long-camera.mp4")).unwrap() == long);
    let list = store.list(&killed.recording).unwrap();
    assert!(list.get("ended").is_none() && list["files"].as_array().unwrap().len() == 2, "{list:#}");
    next.signal(Signal::TERM);
    assert!(next.end());
    assert!(store.list(&next.recording).is_some() && entries(&spool).is_empty());
    ada.leave().await;
}
