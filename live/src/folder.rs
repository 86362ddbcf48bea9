//! The same as files, for any web server: a playlist without parts, segments and their headers. What is old is removed. On a thread of its
//! own, because a disk may stand still.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use bytes::Bytes;

use crate::window::Asked;

/// Segments that wait for the disk.
const JOBS_MAX: usize = 8;

/// A step forward.
pub(crate) struct Step {
    /// The segment that is whole now.
    pub(crate) segment: (u64, Vec<Bytes>),
    /// What it needs.
    pub(crate) init: (u64, Vec<Bytes>),
    pub(crate) playlist: String,
    /// What is older is removed.
    pub(crate) oldest: (u64, u64),
}

/// A folder that is written.
pub(crate) struct Folder {
    jobs: Option<SyncSender<Step>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<OnceLock<String>>,
}

impl Folder {
    /// Begins: what an earlier process left there goes.
    pub(crate) fn start(path: &Path) -> io::Result<Folder> {
        fs::create_dir_all(path)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if path.file_name().and_then(|name| Asked::parse(name.to_str()?)).is_some() {
                files.push(path);
            }
        }
        let (jobs, received) = sync_channel(JOBS_MAX);
        let failure = Arc::new(OnceLock::new());
        let writer = Writer { folder: path.to_owned(), init: None, old: files, failure: Arc::clone(&failure) };
        let thread = std::thread::Builder::new().name("hls".to_owned()).spawn(move || writer.run(&received))?;
        Ok(Folder { jobs: Some(jobs), thread: Some(thread), failure })
    }

    /// Why nothing more is written, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// False: the disk is too slow, and this segment is not there.
    pub(crate) fn put(&self, step: Step) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(step).is_ok())
    }

    /// Waits until all is written.
    pub(crate) fn finish(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // Its panic was printed.
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.finish();
    }
}

struct Writer {
    folder: PathBuf,
    init: Option<u64>,
    /// Of an earlier process. They stay until there is something else.
    old: Vec<PathBuf>,
    failure: Arc<OnceLock<String>>,
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Step>) {
        while let Ok(step) = jobs.recv() {
            if let Err(error) = self.take(step) {
                let _ = self.failure.set(format!("{}: {error}", self.folder.display()));
                return;
            }
        }
    }

    fn take(&mut self, step: Step) -> io::Result<()> {
        let (number, bytes) = step.init;
        if self.init.replace(number) != Some(number) {
            write(&self.folder.join(Asked::Init(number).name()), &bytes)?;
        }
        let (number, bytes) = step.segment;
        write(&self.folder.join(Asked::Segment(number).name()), &bytes)?;
        write(&self.folder.join("index.m3u8"), &[step.playlist.into()])?;
        for path in self.old.drain(..) {
            let _ = fs::remove_file(path); // Somebody else may have done it.
        }
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let asked = entry.file_name().to_str().and_then(Asked::parse);
            let is_old = asked.is_some_and(|asked| match asked {
                Asked::Segment(number) => number < step.oldest.0,
                Asked::Init(number) => number < step.oldest.1,
                Asked::Part(_) => false,
            });
            if is_old {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Who reads it sees the old one or the new one.
fn write(path: &Path, pieces: &[Bytes]) -> io::Result<()> {
    let new = path.with_extension("tmp");
    let mut file = File::create(&new)?;
    pieces.iter().try_for_each(|bytes| file.write_all(bytes))?;
    fs::rename(&new, path)
}
