//! The store's client against a real store: rclone, which serves folders as buckets and checks signatures.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::http::Server;

use super::outbox::{LIST, Sending};
use super::{Credentials, Place, Settings, Store, StoreError};
use crate::quota::Quota;
use crate::require;

const KEY: (&str, &str) = ("accesskey1", "its-secret-of-twenty-or-more");
const LONG: Duration = Duration::from_secs(60);

/// The executable, if this machine has it.
fn program() -> Option<PathBuf> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/rclone");
    let output = Command::new(script).output().unwrap();
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap().trim().into());
    }
    require::left_out("s3", "a store", String::from_utf8_lossy(&output.stderr).trim().replace('\n', " "));
    None
}

/// A store with the bucket `bucket`, and a spool. They end with the value.
struct Rclone {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Rclone {
    fn start(name: &str) -> Option<Rclone> {
        let program = program()?;
        let folder = std::env::temp_dir().join(format!("uprtc-store-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("served/bucket")).unwrap();
        fs::create_dir_all(folder.join("spool")).unwrap();
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        drop(held);
        let mut rclone = Rclone { program, folder, port, child: None };
        rclone.start_again();
        Some(rclone)
    }

    fn start_again(&mut self) {
        let (address, key) = (format!("127.0.0.1:{}", self.port), format!("{},{}", KEY.0, KEY.1));
        let mut command = Command::new(&self.program);
        command.args(["serve", "s3", "--config", "", "--addr", &address, "--auth-key", &key]);
        command.arg(self.folder.join("served")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(begun.elapsed() < LONG, "rclone does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    async fn open(&self, place: &str, secret: &str) -> Result<Arc<Store>, StoreError> {
        let credentials = Credentials { key_id: KEY.0.to_owned(), secret: secret.to_owned(), session: None };
        let settings = Settings {
            server: Server::plain(&format!("127.0.0.1:{}", self.port)),
            is_path_style: true,
            place: Place::parse(place).unwrap(),
            region: "us-east-1".to_owned(),
            credentials,
        };
        Store::open(settings).await.map(Arc::new)
    }

    fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    fn object(&self, key: &str) -> PathBuf {
        self.folder.join("served/bucket").join(key)
    }

    /// Waits for an object of this content.
    async fn has(&self, key: &str, content: &[u8]) {
        let begun = Instant::now();
        while fs::read(self.object(key)).ok().as_deref() != Some(content) {
            assert!(begun.elapsed() < LONG, "{key} did not come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Rclone {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(name), content).unwrap();
    folder.join(name)
}

/// Longer than two parts.
fn long() -> Vec<u8> {
    (0..20_000_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn why_a_store_takes_nothing_has_a_name() {
    let Some(mut rclone) = Rclone::start("refused") else { return };
    let name = async |rclone: &Rclone, place, secret| rclone.open(place, secret).await.err().map(|error| error.name());
    assert_eq!(name(&rclone, "s3://bucket/calls of today/ä+b", KEY.1).await, None);
    assert!(rclone.object("calls of today/ä+b/.uprtc-record").is_file());
    assert_eq!(name(&rclone, "s3://bucket/calls", "another-secret-of-twenty").await, Some("store_credentials"));
    assert_eq!(name(&rclone, "s3://other/calls", KEY.1).await, Some("store_no_bucket"));
    rclone.kill();
    assert_eq!(name(&rclone, "s3://bucket/calls", KEY.1).await, Some("store_unreachable"));
}

#[tokio::test]
async fn what_is_finished_waits_for_a_store_that_is_gone() {
    let Some(mut rclone) = Rclone::start("gone") else { return };
    let (store, spool) = (rclone.open("s3://bucket/calls", KEY.1).await.unwrap(), rclone.spool());
    let quota = Quota::measure(&spool, Some(30_000_000)).unwrap();
    let own = spool.join("r-1");
    write(&own, LIST, b"{}");
    let (outbox, sending) = Sending::begin(&store, &own, &quota).unwrap();
    outbox.list();
    rclone.has("calls/r-1/recording.json", b"{}").await;
    let first = write(&own, "0001.mp4", b"first");
    outbox.file(&first);
    rclone.has("calls/r-1/0001.mp4", b"first").await;

    rclone.kill();
    outbox.file(&write(&own, "0002.mp4", &long()));
    outbox.file(&write(&own, "0003.mp4", b"third"));
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(own.join("0002.mp4").is_file() && !first.exists(), "it waits here, and what is there is gone from here");
    rclone.start_again();
    rclone.has("calls/r-1/0002.mp4", &long()).await;
    write(&own, LIST, b"{\"ended\":true}");
    outbox.close();
    assert_eq!(sending.finish(LONG).await, 0);
    rclone.has("calls/r-1/0003.mp4", b"third").await;
    rclone.has("calls/r-1/recording.json", b"{\"ended\":true}").await;
    assert!(!own.exists());

    // Without a store at the end it is said what waits.
    let own = spool.join("r-2");
    write(&own, LIST, b"{}");
    let (outbox, sending) = Sending::begin(&store, &own, &quota).unwrap();
    rclone.kill();
    outbox.file(&write(&own, "0001.mp4", b"first"));
    outbox.close();
    assert_eq!(sending.finish(Duration::from_millis(300)).await, 2);
}

#[tokio::test]
async fn what_others_left_for_this_store_is_taken_up_once() {
    let Some(rclone) = Rclone::start("left") else { return };
    let (store, spool) = (rclone.open("s3://bucket/calls", KEY.1).await.unwrap(), rclone.spool());
    let other = rclone.open("s3://bucket/others", KEY.1).await.unwrap();
    for (name, store) in [("r-1", &store), ("r-2", &other), ("r-3", &store)] {
        write(&spool.join(name), "0001.mp4", name.as_bytes());
        // Whoever began it has no task any more, and so no lock.
        let (outbox, sending) = Sending::begin(store, &spool.join(name), &Quota::default()).unwrap();
        drop(outbox);
        sending.finish(Duration::ZERO).await;
    }
    write(&spool.join("r-1"), "0002.mp4", &long());
    write(&spool.join("r-1"), LIST, b"{}");
    write(&spool.join("r-2"), LIST, b"{}");
    write(&spool, "no-folder", b"");
    let taken = Sending::take_up(&store, &spool, &Quota::default()).unwrap();
    assert_eq!((taken.len(), Sending::take_up(&store, &spool, &Quota::default()).unwrap().len()), (1, 0));
    for sending in taken {
        assert_eq!(sending.finish(LONG).await, 0);
    }
    rclone.has("calls/r-1/0001.mp4", b"r-1").await;
    rclone.has("calls/r-1/0002.mp4", &long()).await;
    rclone.has("calls/r-1/recording.json", b"{}").await;
    assert!(!spool.join("r-1").exists() && spool.join("r-2/0001.mp4").exists() && spool.join("r-3/0001.mp4").exists());
}
