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
use crate::revocations::{ANY_REVOCATIONS_MAX, REVOCATIONS_MAX, Revocation, Revocations, TooMany, Whose, is_kept};
use crate::shared::{Content, Document, DocumentRefusal, Ledger, Line, Stamp, Subject};

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
    /// Which of two decisions is later, where other nodes decide, too.
    pub ledger: Ledger,
}

/// What became of a document of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is later than what stood here, and stands now.
    Later,
    /// It stood here already, or is over.
    Known,
    /// What stands here is later.
    Earlier,
}

impl Rules {
    /// Gives a room limits of its own.
    pub fn set_room(&mut self, room: &str, policy: RoomPolicy) {
        self.rooms.insert(room.to_owned(), policy);
        self.ledger.decide(Subject::Room(room.to_owned()), None);
    }

    /// Forgets the limits of a room. In a cluster that is told, also of a room without: who is in it on other nodes is to go, too.
    /// True: something has to be written down.
    pub fn remove_room(&mut self, room: &str, now: u64) -> bool {
        let was_there = self.rooms.remove(room).is_some();
        let is_told = was_there || self.ledger.is_shared();
        if is_told {
            self.ledger.decide(Subject::Room(room.to_owned()), Some(now));
        }
        is_told
    }

    /// Revokes tokens.
    pub fn revoke(&mut self, revocation: Revocation, now: u64) -> Result<(), TooMany> {
        self.prune(now);
        let room = revocation.room.clone();
        // One of everybody takes the place of those of names.
        let before = match revocation.whose {
            Whose::Everybody => self.revocations.of(&room),
            Whose::Name(_) | Whose::Token(_) => Vec::new(),
        };
        let id = revocation.whose.id();
        self.revocations.add(revocation)?;
        self.ledger.decide(Subject::Revocation(room.clone(), id), None);
        for id in before.iter().map(|one| one.whose.id()) {
            if self.revocations.find(&room, &id).is_none() {
                self.ledger.decide(Subject::Revocation(room.clone(), id), Some(now));
            }
        }
        Ok(())
    }

    /// Takes a revocation back. False: there is none with this id.
    pub fn take_back(&mut self, room: &str, id: &str, now: u64) -> bool {
        let was_there = self.revocations.remove(room, id);
        if was_there {
            self.ledger.decide(Subject::Revocation(room.to_owned(), id.to_owned()), Some(now));
        }
        was_there
    }

    /// Forgets what no token can be concerned by any more.
    fn prune(&mut self, now: u64) {
        self.revocations.prune(now);
        let (rooms, revocations) = (&self.rooms, &self.revocations);
        self.ledger.prune(|subject| match subject {
            Subject::Room(room) => rooms.contains_key(room),
            Subject::Revocation(room, id) => revocations.find(room, id).is_some(),
        });
    }

    /// This edge is a node of a cluster from now on.
    pub fn join(&mut self, node: &str) {
        let rooms = self.rooms.keys().map(|room| Subject::Room(room.clone()));
        let revocations = self.revocations.all();
        let revocations = revocations.iter().map(|one| Subject::Revocation(one.room.clone(), one.whose.id()));
        let standing: Vec<Subject> = rooms.chain(revocations).collect();
        self.ledger.join(node, standing);
    }

    /// What stands of a subject, if it was ever decided.
    pub fn document(&self, subject: &Subject) -> Option<Document> {
        let stamp = self.ledger.stamp(subject)?.clone();
        let content = match subject {
            Subject::Room(room) => self.rooms.get(room).cloned().map(Content::Policy),
            Subject::Revocation(room, id) => self.revocations.find(room, id).map(Content::Revocation),
        };
        Some(Document { subject: subject.clone(), stamp, content })
    }

    /// Whether a document of another node is later than what stands here. `now`: seconds since 1970.
    pub fn compare(&self, document: &Document, now: u64) -> Taken {
        match &document.content {
            Some(Content::Revocation(revocation)) if !is_kept(revocation.issued_until, now) => return Taken::Known,
            _ => {}
        }
        match self.ledger.stamp(&document.subject).map(|stamp| document.stamp.cmp(stamp)) {
            None | Some(std::cmp::Ordering::Greater) => Taken::Later,
            Some(std::cmp::Ordering::Equal) => Taken::Known,
            Some(std::cmp::Ordering::Less) => Taken::Earlier,
        }
    }

    /// Takes a document of another node, as [`Rules::compare`] says. Of two revocations of the same, whichever is later, what was
    /// issued until the later of both times is not good any more.
    pub fn take(&mut self, document: &Document, now: u64) -> Result<Taken, DocumentRefusal> {
        let taken = self.compare(document, now);
        let Document { subject, stamp, content } = document;
        let local = self.document(subject).and_then(|document| document.content);
        match (taken, content) {
            (Taken::Known, _) => self.ledger.said(subject),
            (Taken::Later, Some(Content::Policy(policy))) => {
                if let Subject::Room(room) = subject {
                    self.rooms.insert(room.clone(), policy.clone());
                }
                self.adopt(subject, stamp, None);
            }
            (Taken::Later, Some(Content::Revocation(revocation))) => {
                if local.is_none() && self.revocations.count() >= SHARED_REVOCATIONS_MAX {
                    return Err(DocumentRefusal::TooMany);
                }
                self.revocations.restore(revocation);
                self.adopt(subject, stamp, None);
                if let Some(Content::Revocation(local)) = local
                    && local.issued_until > revocation.issued_until
                {
                    self.ledger.decide(subject.clone(), None); // The others get the later time.
                }
            }
            (Taken::Later, None) => {
                match subject {
                    Subject::Room(room) => drop(self.rooms.remove(room)),
                    Subject::Revocation(room, id) => drop(self.revocations.remove(room, id)),
                }
                self.adopt(subject, stamp, Some(now));
            }
            (Taken::Earlier, content) => {
                if let (Some(Content::Revocation(_)), Some(Content::Revocation(theirs))) = (local, content) {
                    self.revocations.restore(theirs); // The later time of both.
                }
                self.ledger.unsay(subject.clone());
            }
        }
        Ok(taken)
    }

    fn adopt(&mut self, subject: &Subject, stamp: &Stamp, gone_at: Option<u64>) {
        self.ledger.said(subject);
        self.ledger.put(subject.clone(), stamp.clone(), gone_at);
    }
}

/// Revocations above which no more are taken from other nodes: twice what one server has. Nodes that cannot reach each other may each
/// use up their quotas.
const SHARED_REVOCATIONS_MAX: usize = 2 * (REVOCATIONS_MAX + ANY_REVOCATIONS_MAX);

/// The rules as they are written down.
#[derive(Serialize)]
struct Written<'a> {
    rooms: &'a BTreeMap<String, RoomPolicy>,
    revocations: Vec<Revocation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shared: Vec<Line>,
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
        rules.prune(now);
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
        RegistryFigures {
            revocations,
            is_unsaved,
            left_out: self.left_out,
            unsaid: self.read(|rules| rules.ledger.unsaid().len()),
        }
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

    /// Changes what of the rules is not written down: what other nodes know.
    pub fn note<T>(&self, change: impl FnOnce(&mut Rules) -> T) -> T {
        change(&mut self.rules.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes the rules down, if they are others than those in the file. Waits for the disk.
    pub fn save(&self) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &self.path else { return Ok(()) };
        if !self.is_unsaved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let text = self.read(|rules| {
            let written =
                Written { rooms: &rules.rooms, revocations: rules.revocations.all(), shared: rules.ledger.lines() };
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

    /// Looks at the rules.
    pub fn read<T>(&self, read: impl FnOnce(&Rules) -> T) -> T {
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
            ("shared", Value::Array(lines)) => {
                for entry in lines {
                    match Line::deserialize(&entry) {
                        Ok(line) => rules.ledger.restore(line),
                        Err(error) => leave_out("shared", entry, error.to_string()),
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
