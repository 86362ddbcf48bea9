//! What operators have decided and a restart must not forget: rooms with limits of their own, and revoked tokens. One
//! small file in the state folder, replaced whole on each change.
//!
//! A token is revoked by its room, or by its room and its name, for everything that was issued until then: nobody has
//! to know the tokens that are about, and one issued later is good. Or it is revoked by its own identity (`jti`).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::auth::Claims;
use crate::engine::RoomPolicy;

/// File of the registry in the state folder.
pub const REGISTRY_FILE: &str = "registry.json";

/// Revocations that are kept. Each is a room and perhaps a name; the same one again takes no further place.
pub const REVOCATIONS_MAX: usize = 10_000;

/// Longest file that is read, bytes: all rooms and revocations with the longest names, several times over.
const FILE_LEN_MAX: u64 = 16 * 1024 * 1024;

/// A revocation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// Tokens used for this room,
    pub room: String,
    /// with this name, or with any,
    pub name: Option<String>,
    /// issued until then, seconds since 1970,
    pub issued_until: u64,
    /// or the one token of this identity, whenever it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// What is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Rooms that an operator made.
    pub rooms: BTreeMap<String, RoomPolicy>,
    /// In the order in which they came.
    pub revocations: Vec<Revocation>,
}

impl Rules {
    /// Adds or renews a revocation. False: there are too many.
    pub fn revoke(&mut self, revocation: Revocation) -> bool {
        let is_same = |known: &Revocation| {
            known.room == revocation.room && known.name == revocation.name && known.jti == revocation.jti
        };
        self.revocations.retain(|known| !is_same(known));
        let has_room = self.revocations.len() < REVOCATIONS_MAX;
        if has_room {
            self.revocations.push(revocation);
        }
        has_room
    }
}

/// The rules and where they are kept.
#[derive(Debug, Default)]
pub struct Registry {
    path: Option<PathBuf>,
    rules: RwLock<Rules>,
}

/// Why the registry cannot be had. One line for the operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}", .path.display())]
pub struct RegistryError {
    path: PathBuf,
    source: io::Error,
}

impl Registry {
    /// The registry of a state folder, empty if it has none.
    pub fn load(state: &Path) -> Result<Registry, RegistryError> {
        let path = state.join(REGISTRY_FILE);
        match read(&path) {
            Ok(rules) => Ok(Registry { path: Some(path), rules: RwLock::new(rules) }),
            Err(source) => Err(RegistryError { path, source }),
        }
    }

    /// The rules as they are now.
    pub fn rules(&self) -> Rules {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a token is revoked for a room.
    pub fn is_revoked(&self, room: &str, claims: &Claims) -> bool {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.revocations.iter().any(|revocation| {
            revocation.room == room
                && revocation.name.as_ref().is_none_or(|name| *name == claims.name)
                && match &revocation.jti {
                    Some(jti) => *jti == claims.jti,
                    None => claims.iat <= revocation.issued_until,
                }
        })
    }

    /// Puts new rules in force and on disk, in this order: what is refused from now on is never let in for a full disk.
    pub fn replace(&self, rules: Rules) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&rules).map_err(io::Error::other)?;
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        match &self.path {
            Some(path) => write(path, &text),
            None => Ok(()),
        }
    }
}

fn read(path: &Path) -> io::Result<Rules> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Rules::default()),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// Whole or not at all: a draft beside it takes its place.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}
