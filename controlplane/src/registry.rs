//! What operators have decided and a restart must not forget: rooms with limits of their own, and revoked tokens. One
//! small file in the state folder, replaced whole on each change.
//!
//! A change comes into force first, then it is acted on, and then it is written: a full disk lets nobody in. What could not be
//! written is written again later ([`Registry::save`]). A file that holds something that cannot be read does not keep the server
//! from starting: that part is set aside in a file of its own, and the log and `/metrics` say so.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::{ANY_ROOM, Claims, is_room_name};
use crate::engine::RoomPolicy;
use crate::metrics::RegistryFigures;
use crate::revocations::{Revocation, Revocations};

/// File of the registry in the state folder.
pub const REGISTRY_FILE: &str = "registry.json";

/// How the files begin in which what could not be read of [`REGISTRY_FILE`] is kept.
pub const LEFT_OUT_PREFIX: &str = "registry.left-out.";

/// Longest file that is read or written, bytes. All rooms and revocations with the longest names have about 12 MB; earlier
/// versions wrote up to 31 MB.
const FILE_LEN_MAX: u64 = 48 * 1024 * 1024;

/// What is kept.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Rooms that an operator made.
    pub rooms: BTreeMap<String, RoomPolicy>,
    /// Tokens that are not good any more.
    pub revocations: Revocations,
}

/// The rules as they are written down.
#[derive(Serialize)]
struct Written<'a> {
    rooms: &'a BTreeMap<String, RoomPolicy>,
    revocations: Vec<Revocation>,
}

/// The rules and where they are kept.
#[derive(Debug, Default)]
pub struct Registry {
    path: Option<PathBuf>,
    rules: RwLock<Rules>,
    /// Held while the file is written.
    writing: Mutex<()>,
    /// Whether the rules are others than those in the file.
    is_unsaved: AtomicBool,
    /// Entries of the file that could not be read at the start.
    left_out: usize,
}

/// Why the registry cannot be had. One line for the operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}", .path.display())]
pub struct RegistryError {
    path: PathBuf,
    source: io::Error,
}

impl Registry {
    /// The registry of a state folder, empty if it has none. `now`: seconds since 1970. What of it cannot be read is set aside.
    pub fn load(state: &Path, now: u64) -> Result<Registry, RegistryError> {
        let path = state.join(REGISTRY_FILE);
        let failed = |source| RegistryError { path: path.clone(), source };
        let Some(text) = read(&path).map_err(failed)? else {
            return Ok(Registry { path: Some(path), ..Registry::default() });
        };
        let (mut rules, left_out) = understand(&text);
        rules.revocations.prune(now);
        let registry = Registry {
            left_out: left_out.count(),
            path: Some(path.clone()),
            rules: RwLock::new(rules),
            ..Registry::default()
        };
        if registry.left_out > 0 {
            let aside = state.join(format!("{LEFT_OUT_PREFIX}{now}.json"));
            tracing::error!(
                entries = registry.left_out,
                aside = %aside.display(),
                "the registry holds what cannot be read: it is left out, and kept in a file of its own"
            );
            match write(&aside, &left_out.text(&text)) {
                Ok(()) => registry.is_unsaved.store(true, Ordering::Relaxed),
                // The registry stays as it is, and so does what is wrong with it.
                Err(error) => tracing::error!(%error, "what was left out of the registry cannot be kept"),
            }
        }
        Ok(registry)
    }

    /// Rooms that an operator made.
    pub fn rooms(&self) -> BTreeMap<String, RoomPolicy> {
        self.read(|rules| rules.rooms.clone())
    }

    /// The revocations of a room, or of `*`, in the order of their ids.
    pub fn revocations(&self, room: &str) -> Vec<Revocation> {
        self.read(|rules| rules.revocations.of(room))
    }

    /// How many revocations there are.
    pub fn revocation_count(&self) -> usize {
        self.read(|rules| rules.revocations.count())
    }

    /// What `/metrics` shows.
    pub fn figures(&self) -> RegistryFigures {
        let (revocations, is_unsaved) = (self.revocation_count(), self.is_unsaved());
        RegistryFigures { revocations, is_unsaved, left_out: self.left_out }
    }

    /// Entries of the file that could not be read at the start.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether something holds that is not written down.
    pub fn is_unsaved(&self) -> bool {
        self.is_unsaved.load(Ordering::Relaxed)
    }

    /// Whether a token is revoked for a room; for `*`: for what governs everything.
    pub fn is_revoked(&self, room: &str, claims: &Claims) -> bool {
        self.read(|rules| rules.revocations.concern(room, claims))
    }

    /// Changes the rules. They are in force at once, and written down by [`Registry::save`].
    pub fn change<T>(&self, change: impl FnOnce(&mut Rules) -> T) -> T {
        let changed = change(&mut self.rules.write().unwrap_or_else(PoisonError::into_inner));
        self.is_unsaved.store(true, Ordering::Relaxed);
        changed
    }

    /// Writes the rules down, if they are others than those in the file. Waits for the disk.
    pub fn save(&self) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &self.path else { return Ok(()) };
        if !self.is_unsaved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let text = self.read(|rules| {
            let written = Written { rooms: &rules.rooms, revocations: rules.revocations.all() };
            serde_json::to_vec_pretty(&written).map_err(io::Error::other)
        });
        let is_written = text.and_then(|text| match text.len() as u64 > FILE_LEN_MAX {
            // What is written must be readable at the next start.
            true => Err(io::Error::other("the registry is longer than what is read again")),
            false => write(path, &text),
        });
        if is_written.is_err() {
            self.is_unsaved.store(true, Ordering::Relaxed);
        }
        is_written
    }

    fn read<T>(&self, read: impl FnOnce(&Rules) -> T) -> T {
        read(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What of a file could not be read.
enum LeftOut {
    /// The file is no JSON object.
    Everything,
    /// These entries, with the reason for each.
    Entries(Vec<Value>),
}

impl LeftOut {
    fn count(&self) -> usize {
        match self {
            LeftOut::Everything => 1,
            LeftOut::Entries(entries) => entries.len(),
        }
    }

    fn text(&self, file: &[u8]) -> Vec<u8> {
        match self {
            LeftOut::Everything => file.to_vec(),
            LeftOut::Entries(entries) => serde_json::to_vec_pretty(entries).unwrap_or_default(),
        }
    }
}

/// The rules in a file, and what of it are none.
fn understand(text: &[u8]) -> (Rules, LeftOut) {
    let Ok(Value::Object(fields)) = serde_json::from_slice(text) else {
        return (Rules::default(), LeftOut::Everything);
    };
    let (mut rules, mut left_out) = (Rules::default(), Vec::new());
    let mut leave_out = |field: &str, entry: Value, why: String| {
        left_out.push(serde_json::json!({"field": field, "entry": entry, "why": why}));
    };
    for (field, value) in fields {
        match (field.as_str(), value) {
            ("rooms", Value::Object(rooms)) => {
                for (room, policy) in rooms {
                    match RoomPolicy::deserialize(&policy) {
                        Ok(policy) if is_room_name(&room) => drop(rules.rooms.insert(room, policy)),
                        Ok(_) => leave_out("rooms", serde_json::json!({room: policy}), "not the name of a room".into()),
                        Err(error) => leave_out("rooms", serde_json::json!({room: policy}), error.to_string()),
                    }
                }
            }
            ("revocations", Value::Array(revocations)) => {
                for entry in revocations {
                    match Revocation::deserialize(&entry) {
                        Ok(one) if one.room == ANY_ROOM || is_room_name(&one.room) => rules.revocations.restore(&one),
                        Ok(_) => leave_out("revocations", entry, "not the name of a room".into()),
                        Err(error) => leave_out("revocations", entry, error.to_string()),
                    }
                }
            }
            (_, value) => leave_out(&field, value, "not a field of this version".into()),
        }
    }
    (rules, LeftOut::Entries(left_out))
}

/// What is in the file; `None` without one.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// Whole or not at all: a draft beside it takes its place.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        // The name is in the folder, which has a place on the disk of its own.
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&draft); // Half of it only takes space on a disk that is full.
    }
    written
}
