//! Several signing keys at once, so that keys can be changed while tokens of the old one are still in use (rotation).
//!
//! `token.key` is the first key; tokens without a `kid` are of that one. Each `token-keys.d/{kid}.key` beside it is
//! another, named by the `kid` in a token's header (RFC 7515 §4.1.4). The newest, by the order of names, signs. To
//! rotate: add a key, wait until the tokens of the old one have expired, remove the old file. A server notices within
//! [`RELOAD_INTERVAL`]; nothing is restarted.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::claims::Claims;
use super::error::TokenError;
use super::key::{KEY_FILE, KeyError, TokenKey, create_key, decode_header, read_key};
use super::names::is_room_name;

/// Folder of the further keys in the state folder.
pub const KEYS_FOLDER: &str = "token-keys.d";

/// Keys besides the first. Rotation needs two.
pub const KEYS_MAX: usize = 16;

/// How soon a key that was added or removed is noticed.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// All keys of a server.
#[derive(Debug)]
pub struct TokenKeys {
    /// Where they are read from again; `None` for keys that were given.
    state: Option<PathBuf>,
    loaded: RwLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    first: TokenKey,
    others: BTreeMap<String, TokenKey>,
    at: Instant,
    /// One more each time that the files were read.
    generation: u64,
}

impl From<TokenKey> for TokenKeys {
    fn from(first: TokenKey) -> Self {
        let loaded = Loaded { first, others: BTreeMap::new(), at: Instant::now(), generation: 0 };
        TokenKeys { state: None, loaded: RwLock::new(loaded) }
    }
}

impl TokenKeys {
    /// The keys in the state folder; the first is made if there is none.
    pub fn load_or_create(state: &Path) -> Result<TokenKeys, KeyError> {
        Ok(TokenKeys { loaded: RwLock::new(load(state)?), state: Some(state.to_owned()) })
    }

    /// The keys in the state folder, for a command that must not make one: a token of a key that no server has opens nothing.
    /// `None`: there is no key.
    pub fn load(state: &Path) -> Result<Option<TokenKeys>, KeyError> {
        match fs::symlink_metadata(state.join(KEY_FILE)) {
            Ok(_) => Self::load_or_create(state).map(Some),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeyError::File { path: state.join(KEY_FILE), source }),
        }
    }

    /// Makes another key, which signs from now on, and says its `kid`. It gets the owner of the state folder: root may make it
    /// for a server that runs as somebody else.
    pub fn add(state: &Path) -> Result<String, KeyError> {
        let folder = state.join(KEYS_FOLDER);
        let file_error = |source| KeyError::File { path: folder.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(file_error)?;
        let newest = load(state)?.others.into_keys().next_back();
        // Seconds since 1970 have ten digits until 2286, so names sort by time.
        let kid = format!("k{}", jsonwebtoken::get_current_timestamp());
        if newest.is_some_and(|newest| newest >= kid) {
            let source = io::Error::other("a key with a later name is there: remove it, or wait a second");
            return Err(file_error(source));
        }
        let key = folder.join(format!("{kid}.key"));
        create_key(&folder, &key).map_err(file_error)?;
        give_to_owner_of(state, [&folder, &key]).map_err(file_error)?;
        Ok(kid)
    }

    /// The token that says `claims`, signed with the newest key.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        self.refresh();
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        match loaded.others.last_key_value() {
            Some((kid, key)) => key.sign_as(Some(kid), claims),
            None => loaded.first.sign(claims),
        }
    }

    /// Checks a token with the key that it names.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_by(TokenKey::verify, token)
    }

    /// The same for a token that may have expired.
    pub fn verify_late(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_by(TokenKey::verify_late, token)
    }

    /// Another number when the keys may be others than they were.
    pub fn generation(&self) -> u64 {
        self.refresh();
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Bytes for another purpose that follow from each key, of the newest first.
    pub fn derive<const N: usize>(&self, purpose: &[&[u8]]) -> Vec<[u8; N]> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.others.values().rev().chain([&loaded.first]).map(|key| key.derive(purpose)).collect()
    }

    fn verify_by(
        &self,
        verify: impl Fn(&TokenKey, &str) -> Result<Claims, TokenError>,
        token: &str,
    ) -> Result<Claims, TokenError> {
        self.refresh();
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        match decode_header(token)?.kid {
            Some(kid) => verify(loaded.others.get(&kid).ok_or(TokenError::Key)?, token),
            None => verify(&loaded.first, token),
        }
    }

    /// Reads the files again if it is time. Keys that cannot be read leave those that are known, and a line in the log.
    fn refresh(&self) {
        let Some(state) = &self.state else { return };
        if self.loaded.read().unwrap_or_else(PoisonError::into_inner).at.elapsed() < RELOAD_INTERVAL {
            return;
        }
        let read = load(state);
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(read) => *loaded = Loaded { generation: loaded.generation + 1, ..read },
            Err(error) => {
                tracing::warn!(%error, "the signing keys cannot be read again; the known ones stay");
                loaded.at = Instant::now();
            }
        }
    }
}

fn give_to_owner_of(state: &Path, paths: [&PathBuf; 2]) -> io::Result<()> {
    let owner = fs::metadata(state)?;
    for path in paths {
        let is = fs::metadata(path)?;
        if (is.uid(), is.gid()) != (owner.uid(), owner.gid()) {
            chown(path, Some(owner.uid()), Some(owner.gid()))?;
        }
    }
    Ok(())
}

fn load(state: &Path) -> Result<Loaded, KeyError> {
    let first = TokenKey::load_or_create(state)?;
    let folder = state.join(KEYS_FOLDER);
    let file_error = |source| KeyError::File { path: folder.clone(), source };
    let mut others = BTreeMap::new();
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Loaded { first, others, at: Instant::now(), generation: 0 });
        }
        entries => entries.map_err(file_error)?,
    };
    for entry in entries {
        let path = entry.map_err(file_error)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Anything else in the folder is none of ours: a draft, an editor's copy.
        let Some(kid) = name.strip_suffix(".key").filter(|kid| is_room_name(kid)) else { continue };
        if others.len() >= KEYS_MAX {
            let message = format!("it holds more than {KEYS_MAX} keys: remove the old ones");
            return Err(file_error(io::Error::other(message)));
        }
        others.insert(kid.to_owned(), read_key(&path)?);
    }
    Ok(Loaded { first, others, at: Instant::now(), generation: 0 })
}
