//! What of a recording is to go to the store: files that are finished, and the list of them. It stays in the recording's folder until
//! the store has it, however long that takes, and is taken up by the next start where a process was killed.
//!
//! Who works at a folder holds a lock of it (flock), so that several processes may share a spool.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Store, StoreError};
use crate::quota::Quota;

/// The list of a recording, in its folder.
pub const LIST: &str = "recording.json";
/// Says for which store a folder is.
const DESTINATION: &str = ".store";
/// How often the list is sent while it changes.
const LIST_INTERVAL: Duration = Duration::from_secs(10);
/// Between two tries: it doubles from the first to the second.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a store that takes nothing is in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Default, Debug)]
struct State {
    files: VecDeque<PathBuf>,
    is_list_new: bool,
    is_closed: bool,
    is_sent: bool,
}

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    state: Mutex<State>,
    wake: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what is to be sent. Of a recording there are no more files than it may have, so this is bounded.
#[derive(Clone, Debug)]
pub struct Outbox(Arc<Shared>);

impl Outbox {
    /// A file is whole: nothing is written to it any more.
    pub fn file(&self, path: &Path) {
        self.0.state().files.push_back(path.to_owned());
        self.0.wake.notify_one();
    }

    /// The list is another.
    pub fn list(&self) {
        self.0.state().is_list_new = true;
        self.0.wake.notify_one();
    }

    /// Nothing comes any more.
    pub fn close(&self) {
        self.0.state().is_closed = true;
        self.0.wake.notify_one();
    }
}

/// What sends it.
#[derive(Debug)]
pub struct Sending {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Sending {
    /// Begins, for a folder that has just been made.
    pub fn begin(store: &Arc<Store>, folder: &Path, quota: &Quota) -> io::Result<(Outbox, Sending)> {
        let lock = lock(folder)?;
        fs::write(folder.join(DESTINATION), destination(store))?;
        let sending = Sending::start(store, folder, quota, lock, State::default());
        Ok((Outbox(Arc::clone(&sending.shared)), sending))
    }

    /// Takes up what processes that have ended left for this store.
    pub fn take_up(store: &Arc<Store>, spool: &Path, quota: &Quota) -> io::Result<Vec<Sending>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(spool)? {
            let folder = entry?.path();
            let is_for_it = fs::read_to_string(folder.join(DESTINATION)).is_ok_and(|text| text == destination(store));
            // Without a list nothing was recorded yet; a lock that cannot be had is somebody's who works at it.
            if !is_for_it || !folder.join(LIST).is_file() {
                continue;
            }
            let Ok(lock) = lock(&folder) else { continue };
            let entries = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
            let mut files: Vec<PathBuf> = entries.filter(|path| path.extension() == Some("mp4".as_ref())).collect();
            files.sort();
            tracing::info!(event = "upload_taken_up", folder = %folder.display(), files = files.len(), "sends what was left");
            let state = State { files: files.into(), is_list_new: true, is_closed: true, is_sent: false };
            found.push(Sending::start(store, &folder, quota, lock, state));
        }
        Ok(found)
    }

    fn start(store: &Arc<Store>, folder: &Path, quota: &Quota, lock: File, state: State) -> Sending {
        let shared = Shared { folder: folder.to_owned(), state: Mutex::new(state), wake: Notify::new() };
        let shared = Arc::new(shared);
        let sender = Sender {
            store: Arc::clone(store),
            shared: Arc::clone(&shared),
            quota: quota.clone(),
            failing: None,
            _lock: lock,
        };
        Sending { shared, task: tokio::spawn(sender.run()) }
    }

    /// Waits so long, at most, until all of a closed one is sent. How many files are not.
    pub async fn finish(self, limit: Duration) -> usize {
        let mut task = self.task;
        if timeout(limit, &mut task).await.is_err() {
            task.abort();
            let _ = task.await; // It is over when it has let go of the folder.
        }
        let state = self.shared.state();
        if state.is_sent { 0 } else { state.files.len() + 1 }
    }
}

fn destination(store: &Store) -> String {
    format!("{}\n", store.place())
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    file.try_lock()?;
    Ok(file)
}

enum Job {
    File(PathBuf),
    List,
    /// The list, when all else is there.
    Last,
    Wait(Duration),
}

struct Sender {
    store: Arc<Store>,
    shared: Arc<Shared>,
    quota: Quota,
    /// Since nothing is taken: how long is waited until the next try, and when it was logged.
    failing: Option<(Duration, Instant)>,
    _lock: File,
}

impl Sender {
    async fn run(mut self) {
        let mut list_at = Instant::now();
        loop {
            let outcome = match self.job(list_at) {
                Job::Wait(time) => {
                    let _ = timeout(time, self.shared.wake.notified()).await;
                    continue;
                }
                Job::File(path) => {
                    let outcome = self.send(&path).await;
                    self.file_outcome(&path, outcome)
                }
                Job::List => {
                    self.shared.state().is_list_new = false;
                    let outcome = self.send(&self.shared.folder.join(LIST)).await;
                    list_at = Instant::now() + LIST_INTERVAL;
                    self.shared.state().is_list_new |= outcome.is_err();
                    outcome
                }
                Job::Last => match self.send(&self.shared.folder.join(LIST)).await {
                    // If it has gone meanwhile, somebody removed the recording.
                    Ok(()) | Err(StoreError::File(_)) => return self.end(),
                    Err(error) => Err(error),
                },
            };
            self.note(outcome).await;
        }
    }

    fn job(&self, list_at: Instant) -> Job {
        let state = self.shared.state();
        let wait = list_at.saturating_duration_since(Instant::now());
        match state.files.front() {
            _ if state.is_list_new && wait.is_zero() && !state.is_closed => Job::List,
            Some(file) => Job::File(file.clone()),
            None if state.is_closed => Job::Last,
            None if state.is_list_new => Job::Wait(wait),
            None => Job::Wait(LIST_INTERVAL),
        }
    }

    /// In the store it is below the name of its folder.
    async fn send(&self, path: &Path) -> Result<(), StoreError> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.store.put(path, &format!("{}/{}", name(&self.shared.folder), name(path))).await
    }

    fn file_outcome(&self, path: &Path, outcome: Result<(), StoreError>) -> Result<(), StoreError> {
        match outcome {
            Ok(()) => {
                let len = fs::metadata(path).map_or(0, |metadata| metadata.len());
                if fs::remove_file(path).is_ok() {
                    self.quota.give(len);
                }
            }
            Err(StoreError::File(error)) => {
                tracing::error!(event = "upload_left_out", file = %path.display(), %error, "a file cannot be read");
            }
            Err(error) => {
                // The others come first: it may be this one alone that is not taken.
                self.shared.state().files.rotate_left(1);
                return Err(error);
            }
        }
        self.shared.state().files.pop_front();
        Ok(())
    }

    /// Waits after a failure. Whatever it is, it may be mended.
    async fn note(&mut self, outcome: Result<(), StoreError>) {
        let Err(error) = outcome else {
            if self.failing.take().is_some() {
                tracing::info!(event = "upload_goes_on", place = %self.store.place(), "the store takes files again");
            }
            return;
        };
        let (wait, logged) = self.failing.map_or((WAIT_MIN, None), |(wait, logged)| (wait, Some(logged)));
        let is_logged = logged.is_some_and(|logged: Instant| logged.elapsed() < LOG_INTERVAL);
        if !is_logged {
            let files = self.shared.state().files.len();
            let place = self.store.place();
            tracing::warn!(event = "upload_delayed", %place, reason = error.name(), files, "{error}; it is tried again");
        }
        let logged = logged.filter(|_| is_logged).unwrap_or_else(Instant::now);
        self.failing = Some(((wait * 2).min(WAIT_MAX), logged));
        tokio::time::sleep(wait).await;
    }

    fn end(&self) {
        if let Err(error) = fs::remove_dir_all(&self.shared.folder) {
            let folder = self.shared.folder.display();
            tracing::warn!(event = "upload_left_over", %folder, %error, "all is sent, and its folder stays");
        }
        self.shared.state().is_sent = true;
    }
}
