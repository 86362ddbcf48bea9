//! What operators decide, as it is good on every edge of a cluster: a document for each room with limits of its own, and one for each
//! revocation. Without I/O; [`crate::registry`] keeps them, and the task of [`crate::nodes`] tells them to the other nodes.
//!
//! Which of two documents of one subject is later is said by no clock: each has the number of decisions that it stands on, and the node
//! that decided. The higher number wins, and of equal numbers the node whose name is later. So all nodes come to the same one, in
//! whatever order they are told. What was taken back leaves a document that says so, for a node that was away.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::auth::{ANY_ROOM, is_room_name};
use crate::hex;
use crate::policy::RoomPolicy;
use crate::revocations::Revocation;

/// Longest document, bytes. A revocation of the longest name has about 1 KiB.
pub const DOCUMENT_LEN_MAX: usize = 4 * 1024;

/// Documents of what was taken back that are kept. When there are more, those that were taken back first are forgotten.
pub const GONE_MAX: usize = 4096;

/// Highest number of decisions: what a number of JSON can hold. Nobody decides so often.
const VERSION_MAX: u64 = 1 << 53;

/// Longest name of a node, and of a revocation's id, bytes.
const NAME_LEN_MAX: usize = 128;

/// Which of two documents is later.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
pub struct Stamp {
    /// Decisions of its subject, this one included; 0: from before there was a cluster.
    pub version: u64,
    /// Who decided.
    pub node: String,
}

/// What a document is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// The limits of a room.
    Room(String),
    /// A revocation of a room, or of `*`, by its id there.
    Revocation(String, String),
}

impl Subject {
    /// Its key in a bucket of the cluster: names are not all parts of one.
    pub fn key(&self) -> String {
        match self {
            Subject::Room(room) => format!("room.{}", key_of(room)),
            Subject::Revocation(room, id) => format!("revocation.{}", key_of(&format!("{room}\n{id}"))),
        }
    }
}

/// What stands for the name of a room where the name itself cannot stand: the first 32 hexadecimal digits of its SHA-256.
pub fn key_of(room: &str) -> String {
    hex::write(&digest(&SHA256, room.as_bytes()).as_ref()[..16])
}

/// What was decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Limits of a room.
    Policy(RoomPolicy),
    /// A revocation.
    Revocation(Revocation),
}

/// A decision, as all nodes know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// What it is about.
    pub subject: Subject,
    /// Whether it is later than another one.
    pub stamp: Stamp,
    /// What was decided; `None`: it was taken back.
    pub content: Option<Content>,
}

/// Why a document is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DocumentRefusal {
    /// It is longer than [`DOCUMENT_LEN_MAX`].
    TooLong,
    /// It is no JSON of this form.
    Malformed,
    /// It stands under the key of another subject.
    OtherKey,
    /// There are more than this server takes.
    TooMany,
    /// No node has sealed it.
    Unsealed,
    /// It is sealed with none of the keys of this node.
    UnknownKey,
    /// Its seal is not that of what it says.
    Forged,
}

impl DocumentRefusal {
    /// The names of all kinds, as metrics have them.
    pub const NAMES: [&str; 7] =
        ["too_long", "malformed", "other_key", "too_many", "unsealed", "unknown_key", "forged"];
}

/// A document in the bucket.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u64,
    node: String,
    room: String,
    /// Of a revocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<RoomPolicy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revocation: Option<Revocation>,
}

impl Document {
    /// Reads what stands under `key`.
    pub fn parse(key: &str, bytes: &[u8]) -> Result<Document, DocumentRefusal> {
        if bytes.len() > DOCUMENT_LEN_MAX {
            return Err(DocumentRefusal::TooLong);
        }
        let written: Written = serde_json::from_slice(bytes).map_err(|_| DocumentRefusal::Malformed)?;
        let Written { version, node, room, id, policy, revocation } = written;
        let content = match (&id, policy, revocation) {
            (_, None, None) => None,
            (None, Some(policy), None) => Some(Content::Policy(policy)),
            (Some(id), None, Some(revocation)) if revocation.room == room && revocation.whose.id() == *id => {
                Some(Content::Revocation(revocation))
            }
            _ => return Err(DocumentRefusal::Malformed),
        };
        let is_room = is_room_name(&room) || id.is_some() && room == ANY_ROOM;
        let is_short = node.len() <= NAME_LEN_MAX && id.as_ref().is_none_or(|id| id.len() <= NAME_LEN_MAX);
        if !is_room || !is_short || version > VERSION_MAX {
            return Err(DocumentRefusal::Malformed);
        }
        let subject = match id {
            None => Subject::Room(room),
            Some(id) => Subject::Revocation(room, id),
        };
        match subject.key() == key {
            true => Ok(Document { subject, stamp: Stamp { version, node }, content }),
            false => Err(DocumentRefusal::OtherKey),
        }
    }

    /// As it stands in the bucket.
    pub fn write(&self) -> Result<Vec<u8>, DocumentRefusal> {
        let (room, id) = match &self.subject {
            Subject::Room(room) => (room.clone(), None),
            Subject::Revocation(room, id) => (room.clone(), Some(id.clone())),
        };
        let (policy, revocation) = match self.content.clone() {
            None => (None, None),
            Some(Content::Policy(policy)) => (Some(policy), None),
            Some(Content::Revocation(revocation)) => (None, Some(revocation)),
        };
        let Stamp { version, node } = self.stamp.clone();
        let written = Written { version, node, room, id, policy, revocation };
        let bytes = serde_json::to_vec(&written).map_err(|_| DocumentRefusal::Malformed)?;
        if bytes.len() > DOCUMENT_LEN_MAX { Err(DocumentRefusal::TooLong) } else { Ok(bytes) }
    }
}

/// When which subject was decided, as it is written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    room: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    version: u64,
    node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone_at: Option<u64>,
}

/// A subject that was decided.
#[derive(Clone, Debug)]
struct Entry {
    stamp: Stamp,
    /// When this node learned that it was taken back, seconds since 1970 by its own clock. Only which is forgotten is decided by it.
    gone_at: Option<u64>,
}

/// When what was decided. Empty on an edge that never was in a cluster.
#[derive(Clone, Default, Debug)]
pub struct Ledger {
    /// This node; `None`: it is in no cluster now.
    node: Option<String>,
    entries: BTreeMap<Subject, Entry>,
    /// Subjects whose documents other nodes may not have.
    unsaid: BTreeSet<Subject>,
}

impl Ledger {
    /// This edge is a node of a cluster from now on; what stands already is older than all that was decided in the cluster.
    pub fn join(&mut self, node: &str, standing: impl IntoIterator<Item = Subject>) {
        self.node = Some(node.to_owned());
        for subject in standing {
            let stamp = Stamp { version: 0, node: node.to_owned() };
            self.entries.entry(subject).or_insert(Entry { stamp, gone_at: None });
        }
    }

    /// Whether other nodes are told.
    pub fn is_shared(&self) -> bool {
        self.node.is_some()
    }

    /// Something was decided here; `gone_at`: taken back, and when.
    pub fn decide(&mut self, subject: Subject, gone_at: Option<u64>) {
        let version = self.entries.get(&subject).map(|entry| entry.stamp.version);
        if self.node.is_none() && version.is_none() {
            return;
        }
        let version = version.unwrap_or(0).saturating_add(1).min(VERSION_MAX);
        let stamp = Stamp { version, node: self.node.clone().unwrap_or_default() };
        if self.node.is_some() {
            self.unsaid.insert(subject.clone());
        }
        self.put(subject, stamp, gone_at);
    }

    /// Something was decided elsewhere.
    pub fn put(&mut self, subject: Subject, stamp: Stamp, gone_at: Option<u64>) {
        self.entries.insert(subject, Entry { stamp, gone_at });
        if gone_at.is_some() {
            self.bound();
        }
    }

    fn bound(&mut self) {
        let gone = |(subject, entry): (&Subject, &Entry)| Some((entry.gone_at?, subject.clone()));
        let mut all: Vec<(u64, Subject)> = self.entries.iter().filter_map(gone).collect();
        if all.len() > GONE_MAX {
            all.sort();
            for (_, subject) in all.drain(..GONE_MAX / 8) {
                self.entries.remove(&subject);
                self.unsaid.remove(&subject);
            }
        }
    }

    /// When it was decided, if that is known.
    pub fn stamp(&self, subject: &Subject) -> Option<&Stamp> {
        self.entries.get(subject).map(|entry| &entry.stamp)
    }

    /// Forgets subjects that neither stand nor were taken back: what they were about is over by itself.
    pub fn prune(&mut self, stands: impl Fn(&Subject) -> bool) {
        self.entries.retain(|subject, entry| entry.gone_at.is_some() || stands(subject));
        let entries = &self.entries;
        self.unsaid.retain(|subject| entries.contains_key(subject));
    }

    /// All subjects.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.entries.keys()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// A document that other nodes may not have.
    pub fn unsay(&mut self, subject: Subject) {
        self.unsaid.insert(subject);
    }

    /// They have it.
    pub fn said(&mut self, subject: &Subject) {
        self.unsaid.remove(subject);
    }

    /// What they may not have.
    pub fn unsaid(&self) -> &BTreeSet<Subject> {
        &self.unsaid
    }

    /// As it is written down.
    pub fn lines(&self) -> Vec<Line> {
        let line = |(subject, entry): (&Subject, &Entry)| {
            let (room, id) = match subject {
                Subject::Room(room) => (room.clone(), None),
                Subject::Revocation(room, id) => (room.clone(), Some(id.clone())),
            };
            let Stamp { version, node } = entry.stamp.clone();
            Line { room, id, version, node, gone_at: entry.gone_at }
        };
        self.entries.iter().map(line).collect()
    }

    /// Puts back what was written down.
    pub fn restore(&mut self, line: Line) {
        let Line { room, id, version, node, gone_at } = line;
        let subject = match id {
            None => Subject::Room(room),
            Some(id) => Subject::Revocation(room, id),
        };
        self.put(subject, Stamp { version, node }, gone_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revocations::Whose;

    fn stamp(version: u64, node: &str) -> Stamp {
        Stamp { version, node: node.into() }
    }

    #[test]
    fn documents_are_written_and_read_and_refused_by_name() {
        let whose = Whose::Name("Ada \u{1f600}".repeat(10));
        let revocation = Revocation { room: "*".into(), whose, issued_until: u64::MAX };
        let of = |subject, content| Document { subject, stamp: stamp(3, "fra1"), content };
        let id = revocation.whose.id();
        let policy = Document {
            stamp: stamp(3, "fra1"),
            subject: Subject::Room("standup".into()),
            content: Some(Content::Policy(RoomPolicy { peers_max: Some(4), ..RoomPolicy::default() })),
        };
        let all = [
            policy.clone(),
            of(Subject::Room("standup".into()), None),
            of(Subject::Revocation("*".into(), id.clone()), Some(Content::Revocation(revocation))),
            of(Subject::Revocation("*".into(), id), None),
        ];
        for document in &all {
            let bytes = document.write().unwrap();
            assert!(bytes.len() < 1024, "{}", bytes.len());
            assert_eq!(Document::parse(&document.subject.key(), &bytes).as_ref(), Ok(document));
            assert_eq!(Document::parse("room.0", &bytes), Err(DocumentRefusal::OtherKey));
        }
        let key = policy.subject.key();
        let good = String::from_utf8(policy.write().unwrap()).unwrap();
        let read = |text: &str| Document::parse(&key, text.as_bytes()).unwrap_err();
        assert_eq!(read(&" ".repeat(DOCUMENT_LEN_MAX + 1)), DocumentRefusal::TooLong);
        for bad in [
            "",
            "[]",
            &good.replace("\"version\":3", "\"version\":9007199254740993"),
            &good.replace("\"version\":3", "\"version\":-1"),
            &good.replace("\"room\":\"standup\"", "\"room\":\"*\""),
            &good.replace("\"room\":\"standup\"", "\"room\":\"a b\""),
            &good.replace("fra1", &"x".repeat(129)),
            &good.replace("\"peers_max\"", "\"something_new\""),
            &good.replace("\"policy\"", "\"revocation\""),
            &good.replace("\"room\"", "\"id\":\"everybody\",\"room\""),
        ] {
            assert_eq!(read(bad), DocumentRefusal::Malformed, "{bad}");
        }
    }

    #[test]
    fn who_decided_oftener_is_later_and_of_equals_the_later_name() {
        assert!(stamp(2, "a") > stamp(1, "z") && stamp(2, "b") > stamp(2, "a"));
        let mut ledger = Ledger::default();
        ledger.decide(Subject::Room("a".into()), None);
        assert_eq!(ledger.count(), 0, "without a cluster nothing is kept");
        ledger.join("fra1", [Subject::Room("old".into())]);
        ledger.decide(Subject::Room("a".into()), None);
        ledger.decide(Subject::Room("old".into()), None);
        assert_eq!(ledger.stamp(&Subject::Room("a".into())), Some(&stamp(1, "fra1")));
        assert_eq!(ledger.stamp(&Subject::Room("old".into())), Some(&stamp(1, "fra1")));
        ledger.put(Subject::Room("a".into()), stamp(8, "nyc1"), None);
        ledger.decide(Subject::Room("a".into()), Some(7));
        assert_eq!(ledger.stamp(&Subject::Room("a".into())), Some(&stamp(9, "fra1")));
        let mut again = Ledger::default();
        ledger.lines().into_iter().for_each(|line| again.restore(line));
        assert_eq!(again.stamp(&Subject::Room("a".into())), Some(&stamp(9, "fra1")));
        // An edge that has left the cluster goes on counting, so that what it decides then is not lost when it is back.
        again.decide(Subject::Room("a".into()), None);
        assert_eq!(again.stamp(&Subject::Room("a".into())), Some(&stamp(10, "")));
        assert!(again.unsaid().is_empty());
    }

    #[test]
    fn what_was_taken_back_is_bounded_and_the_oldest_is_forgotten() {
        let mut ledger = Ledger::default();
        ledger.join("fra1", []);
        for at in 0..=GONE_MAX as u64 {
            ledger.decide(Subject::Room(format!("r{at}")), Some(at));
        }
        assert_eq!(ledger.count(), GONE_MAX + 1 - GONE_MAX / 8);
        assert_eq!(ledger.unsaid().len(), ledger.count());
        assert!(ledger.stamp(&Subject::Room("r0".into())).is_none());
        assert!(ledger.stamp(&Subject::Room(format!("r{GONE_MAX}"))).is_some());
        ledger.decide(Subject::Room("over".into()), None);
        ledger.prune(|subject| *subject != Subject::Room("over".into()));
        assert!(ledger.stamp(&Subject::Room("over".into())).is_none() && ledger.count() > 3000);
    }
}
