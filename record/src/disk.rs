//! The files, on a thread of their own: a disk that is slow stops nobody. What is written is on the disk within about a second.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use crate::quota::Quota;
use crate::store::outbox::Outbox;

/// Jobs that wait: half a minute of sixteen tracks.
const JOBS_MAX: usize = 1024;
/// Bytes that wait: the disk may stand still for about a minute at 8 Mb/s.
const WAITING_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How often files are flushed to the disk.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Why nothing more is written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiskError {
    /// The folder has what it may have.
    #[error("the folder has {used} bytes, and its quota is {quota}")]
    Quota {
        /// Bytes.
        used: u64,
        /// Bytes.
        quota: u64,
    },
    /// ENOSPC, EDQUOT
    #[error("the disk is full: {0}")]
    Full(String),
    /// Anything else.
    #[error("cannot write: {0}")]
    Failed(String),
}

impl DiskError {
    fn of(path: &Path, error: &io::Error) -> DiskError {
        let text = format!("{}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full(text),
            _ => DiskError::Failed(text),
        }
    }

    /// Its stable name.
    pub fn name(&self) -> &'static str {
        match self {
            DiskError::Quota { .. } => "quota",
            DiskError::Full(_) => "disk_full",
            DiskError::Failed(_) => "disk_error",
        }
    }
}

enum Job {
    Append(u32, Arc<Path>, Vec<u8>),
    Close(u32),
    /// A file that is replaced whole.
    Replace(PathBuf, Vec<u8>),
}

#[derive(Default)]
struct Shared {
    waiting: AtomicU64,
    failure: OnceLock<DiskError>,
}

/// Writes files in one folder.
pub struct Disk {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Disk {
    /// Begins, in a folder with this quota. What is finished goes to the outbox, if there is one.
    pub fn start(quota: Quota, outbox: Option<Outbox>) -> io::Result<Disk> {
        let (jobs, received) = sync_channel(JOBS_MAX);
        let shared = Arc::new(Shared::default());
        let writer = Writer { quota, shared: Arc::clone(&shared), files: HashMap::new(), outbox };
        let thread = std::thread::Builder::new().name("disk".to_owned()).spawn(move || writer.run(&received))?;
        Ok(Disk { jobs: Some(jobs), thread: Some(thread), shared })
    }

    /// Appends to a file, which is made at the first time. False: too much waits for the disk, and this is lost.
    pub fn append(&self, file: u32, path: &Arc<Path>, bytes: Vec<u8>) -> bool {
        let len = bytes.len() as u64;
        if self.shared.waiting.load(Ordering::Relaxed) + len > WAITING_BYTES_MAX {
            return false;
        }
        self.shared.waiting.fetch_add(len, Ordering::Relaxed);
        let is_taken = self.send(Job::Append(file, Arc::clone(path), bytes));
        if !is_taken {
            self.shared.waiting.fetch_sub(len, Ordering::Relaxed);
        }
        is_taken
    }

    /// Closes a file.
    pub fn close(&self, file: u32) {
        // A file that stays open is closed at the end.
        self.send(Job::Close(file));
    }

    /// Replaces a file whole: who reads it sees the old one or the new one.
    pub fn replace(&self, path: PathBuf, bytes: Vec<u8>) {
        self.send(Job::Replace(path, bytes));
    }

    fn send(&self, job: Job) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        !matches!(jobs.try_send(job), Err(TrySendError::Full(_) | TrySendError::Disconnected(_)))
    }

    /// Why nothing more is written, if so.
    pub fn failure(&self) -> Option<DiskError> {
        self.shared.failure.get().cloned()
    }

    /// Waits until all that was said is written.
    pub fn finish(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // Its panic was printed.
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.finish();
    }
}

struct OpenFile {
    file: File,
    path: Arc<Path>,
    len: u64,
    is_dirty: bool,
}

struct Writer {
    quota: Quota,
    shared: Arc<Shared>,
    files: HashMap<u32, OpenFile>,
    outbox: Option<Outbox>,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut sync_at = Instant::now() + SYNC_INTERVAL;
        loop {
            match jobs.recv_timeout(sync_at.saturating_duration_since(Instant::now())) {
                Ok(job) => self.take(job),
                Err(RecvTimeoutError::Timeout) => {
                    sync_at = Instant::now() + SYNC_INTERVAL;
                    self.sync();
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.sync();
        self.files.values().for_each(|open| self.finished(&open.path));
    }

    fn finished(&self, path: &Path) {
        if let Some(outbox) = &self.outbox {
            outbox.file(path);
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Append(number, path, bytes) => {
                self.shared.waiting.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
                // What failed once is over: a file with a hole in it would be worse than a short one.
                if self.shared.failure.get().is_none()
                    && let Err(error) = self.append(number, &path, &bytes)
                {
                    self.fail(error);
                }
            }
            Job::Close(number) => {
                if let Some(mut open) = self.files.remove(&number) {
                    sync(&mut open, &self.shared);
                    self.finished(&open.path);
                }
            }
            Job::Replace(path, bytes) => match replace(&path, &bytes) {
                Ok(()) => self.outbox.iter().for_each(Outbox::list),
                Err(error) => self.fail(DiskError::of(&path, &error)),
            },
        }
    }

    fn append(&mut self, number: u32, path: &Arc<Path>, bytes: &[u8]) -> Result<(), DiskError> {
        let len = bytes.len() as u64;
        self.quota.take(len).map_err(|(used, quota)| DiskError::Quota { used, quota })?;
        let failed = |error: io::Error| DiskError::of(path, &error);
        let open = match self.files.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
                place.insert(OpenFile { file, path: Arc::clone(path), len: 0, is_dirty: false })
            }
        };
        if let Err(error) = open.file.write_all(bytes) {
            // A part of a fragment may be there; a file ends with a whole one.
            let _ = open.file.set_len(open.len);
            return Err(failed(error));
        }
        open.len += bytes.len() as u64;
        open.is_dirty = true;
        Ok(())
    }

    fn sync(&mut self) {
        self.files.values_mut().for_each(|open| sync(open, &self.shared));
    }

    fn fail(&self, error: DiskError) {
        let _ = self.shared.failure.set(error); // The first one counts.
    }
}

fn sync(open: &mut OpenFile, shared: &Shared) {
    if std::mem::take(&mut open.is_dirty)
        && let Err(error) = open.file.sync_data()
    {
        let _ = shared.failure.set(DiskError::of(&open.path, &error));
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("tmp");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("uprtc-record-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str) -> Arc<Path> {
            self.0.join(name).into()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn wait_for_failure(disk: &Disk) -> DiskError {
        let begun = Instant::now();
        loop {
            if let Some(error) = disk.failure() {
                return error;
            }
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_quota_is_kept_to_and_what_was_written_before_stays() {
        let folder = Folder::new("quota");
        fs::write(folder.file("old"), [0; 100]).unwrap();
        let mut disk = Disk::start(Quota::measure(&folder.0, Some(1000)).unwrap(), None).unwrap();
        let path = folder.file("new");
        for _ in 0..3 {
            assert!(disk.append(1, &path, vec![7; 400]));
        }
        assert_eq!(wait_for_failure(&disk), DiskError::Quota { used: 900, quota: 1000 });
        disk.replace(folder.0.join("list.json"), b"{}".to_vec());
        disk.finish();
        assert_eq!(fs::read(&path).unwrap(), [7; 800]);
        assert_eq!(fs::read(folder.file("list.json")).unwrap(), b"{}");
        assert!(!folder.0.join("list.tmp").exists());
    }

    #[test]
    fn a_full_disk_is_told_by_its_name() {
        let folder = Folder::new("full");
        let disk = Disk::start(Quota::default(), None).unwrap();
        // It takes nothing, as a disk without space.
        let path: Arc<Path> = Path::new("/dev/full").into();
        assert!(DiskError::of(&path, &io::ErrorKind::StorageFull.into()).name() == "disk_full");
        let mut writer =
            Writer { quota: Quota::default(), shared: Arc::clone(&disk.shared), files: HashMap::new(), outbox: None };
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        writer.files.insert(1, OpenFile { file, path: Arc::clone(&path), len: 0, is_dirty: false });
        writer.take(Job::Append(1, path, vec![0; 10]));
        assert_eq!(wait_for_failure(&disk).name(), "disk_full");
        let missing = folder.file("no/such/folder");
        let disk = Disk::start(Quota::default(), None).unwrap();
        disk.append(1, &missing, vec![0]);
        assert_eq!(wait_for_failure(&disk).name(), "disk_error");
    }
}
