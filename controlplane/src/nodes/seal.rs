//! The seal on everything that a node writes into NATS or says over it, and that others act on: an HMAC-SHA256 under a key that follows
//! from the signing keys of tokens (HKDF, RFC 5869), which all edges of a cluster have and NATS has not. Without I/O.
//!
//! A seal has one tag for each signing key of its node, and is good if the first of them whose key is known is right: so keys are changed
//! on one edge after the other, in any order, as long as two that speak to each other have one in common. What is sealed says what it is,
//! and where it stands or is said; the name of the cluster is in the key. docs/decisions/0070 says what a seal does not keep away.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{Context, Digest, SHA256};
use ring::hmac;

use crate::auth::{KEYS_MAX, TokenKeys};
use crate::hex;

/// Bytes that stand for a key in a seal. They tell nothing of it.
const ID_LEN: usize = 4;

/// Bytes of a tag.
const TAG_LEN: usize = 32;

/// Longest seal: a tag of the first signing key, and of each other one.
pub const SEAL_LEN_MAX: usize = (KEYS_MAX + 1) * (2 * ID_LEN + 2 * TAG_LEN + 2);

/// With which a value in a bucket begins; the seal follows, a line break, and what is sealed.
const MARK: &[u8] = b"uprtc-seal:";

/// By how much a value is longer than what is sealed in it, at most.
pub(super) const WRAP_LEN_MAX: usize = MARK.len() + SEAL_LEN_MAX + 1;

/// What is sealed: a seal on one kind is none on another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What a node says of itself, by its name.
    Record,
    /// What nodes say to each other, by its subject and its headers.
    Message,
    /// Who admits peers to a room, by the key of the room.
    Claim,
    /// What operators decided, by the key of its subject.
    Document,
    /// The answer to a question, by who asked, the number of the question, and who answers.
    Answer,
}

/// Why a seal is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealRefusal {
    /// There is none.
    Unsealed,
    /// It was made with none of the keys that this node has.
    UnknownKey,
    /// It is not of this, or somebody changed it.
    Forged,
}

impl SealRefusal {
    /// The names of all kinds, as metrics have them.
    pub const NAMES: [&str; 3] = ["unsealed", "unknown_key", "forged"];
}

/// One of the keys.
struct Key {
    id: String,
    mac: hmac::Key,
}

/// The keys of a cluster, as they follow from the signing keys that there are now.
pub struct Seals {
    /// `None`: there are none yet, and nothing is believed.
    tokens: Option<Arc<TokenKeys>>,
    cluster: String,
    derived: Mutex<(Option<u64>, Arc<[Key]>)>,
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seals(..)")
    }
}

impl Seals {
    /// Those of the cluster with this name.
    pub fn new(tokens: Option<Arc<TokenKeys>>, cluster: &str) -> Seals {
        Seals { tokens, cluster: cluster.to_owned(), derived: Mutex::new((None, Arc::new([]))) }
    }

    /// Newest first.
    fn keys(&self) -> Arc<[Key]> {
        let Some(tokens) = &self.tokens else { return Arc::new([]) };
        let generation = tokens.generation();
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if derived.0 != Some(generation) {
            let key = |bytes: [u8; ID_LEN + TAG_LEN]| Key {
                id: hex::write(&bytes[..ID_LEN]),
                mac: hmac::Key::new(hmac::HMAC_SHA256, &bytes[ID_LEN..]),
            };
            let bytes = tokens.derive(&[b"uprtc cluster seal 1\n", self.cluster.as_bytes()]);
            *derived = (Some(generation), bytes.into_iter().map(key).collect());
        }
        derived.1.clone()
    }

    /// What stands for the keys that there are: another list when keys were added or removed.
    pub(super) fn ids(&self) -> Vec<String> {
        self.keys().iter().map(|key| key.id.clone()).collect()
    }

    /// The seal on `payload`; `about`: what else it holds for.
    pub fn seal(&self, kind: Kind, about: &[&str], payload: &[u8]) -> String {
        let digest = digest(kind, about, payload);
        let tag = |key: &Key| format!("{}-{}", key.id, hex::write(hmac::sign(&key.mac, digest.as_ref()).as_ref()));
        self.keys().iter().map(tag).collect::<Vec<_>>().join(",")
    }

    /// Whether it is the seal on this.
    pub fn check(&self, seal: &str, kind: Kind, about: &[&str], payload: &[u8]) -> Result<(), SealRefusal> {
        if seal.len() > SEAL_LEN_MAX {
            return Err(SealRefusal::Forged);
        }
        let keys = self.keys();
        let known = |tag: &str| {
            let (id, tag) = tag.split_once('-')?;
            keys.iter().find(|key| key.id == id).map(|key| (key, tag.to_owned()))
        };
        let (key, text) = seal.split(',').find_map(known).ok_or(SealRefusal::UnknownKey)?;
        let mut tag = [0; TAG_LEN];
        hex::read(&text, &mut tag).ok_or(SealRefusal::Forged)?;
        let digest = digest(kind, about, payload);
        hmac::verify(&key.mac, digest.as_ref(), &tag).map_err(|_| SealRefusal::Forged)
    }

    /// The payload with its seal before it, as it stands in a bucket.
    pub fn wrap(&self, kind: Kind, about: &[&str], payload: &[u8]) -> Vec<u8> {
        [MARK, self.seal(kind, about, payload).as_bytes(), b"\n", payload].concat()
    }

    /// The payload of what stands in a bucket.
    pub fn unwrap<'a>(&self, kind: Kind, about: &[&str], bytes: &'a [u8]) -> Result<&'a [u8], SealRefusal> {
        let (seal, payload) = parts(bytes).ok_or(SealRefusal::Unsealed)?;
        self.check(seal, kind, about, payload).map(|()| payload)
    }

    /// Whether what stands in a bucket has a tag of the newest key, so that it stays good when older ones are removed.
    pub(super) fn is_of_newest(&self, bytes: &[u8]) -> bool {
        let (Some((seal, _)), Some(newest)) = (parts(bytes), self.ids().into_iter().next()) else { return false };
        seal.split(',').any(|tag| tag.split_once('-').is_some_and(|(id, _)| id == newest))
    }
}

fn parts(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MARK)?;
    let end = rest.iter().take(SEAL_LEN_MAX + 1).position(|&byte| byte == b'\n')?;
    Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
}

/// What the tags are of: each part with its length, so that none can be taken for a part of another.
fn digest(kind: Kind, about: &[&str], payload: &[u8]) -> Digest {
    let kind: &[u8] = match kind {
        Kind::Record => b"record",
        Kind::Message => b"message",
        Kind::Claim => b"claim",
        Kind::Document => b"document",
        Kind::Answer => b"answer",
    };
    let mut context = Context::new(&SHA256);
    for part in [kind].into_iter().chain(about.iter().map(|part| part.as_bytes())).chain([payload]) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::auth::{KEY_LEN, TokenKey};

    /// Those of nodes that have this signing key.
    pub(in crate::nodes) fn seals(key: u8) -> Arc<Seals> {
        of(key, "uprtc")
    }

    fn of(key: u8, cluster: &str) -> Arc<Seals> {
        let keys = TokenKeys::from(TokenKey::new(&[key; KEY_LEN]));
        Arc::new(Seals::new(Some(Arc::new(keys)), cluster))
    }

    const ABOUT: [&str; 3] = ["uprtc.uprtc.node.b", "a", "7"];

    #[test]
    fn what_is_sealed_is_opened_and_whatever_is_changed_of_it_is_refused() {
        let seals = seals(7);
        let wrapped = seals.wrap(Kind::Record, &ABOUT, b"{\"node\":\"a\"}");
        assert_eq!(
            of(7, "uprtc").unwrap(Kind::Record, &ABOUT, &wrapped),
            Ok(&b"{\"node\":\"a\"}"[..]),
            "by another node"
        );
        for at in 0..wrapped.len() {
            for bit in 0..8 {
                let mut changed = wrapped.clone();
                changed[at] ^= 1 << bit;
                // A digit of the tag in upper case is the same digit.
                if changed.to_ascii_lowercase() == wrapped && at > MARK.len() + 2 * ID_LEN && at < wrapped.len() - 13 {
                    continue;
                }
                assert!(seals.unwrap(Kind::Record, &ABOUT, &changed).is_err(), "byte {at} bit {bit}");
            }
            assert!(seals.unwrap(Kind::Record, &ABOUT, &wrapped[..at]).is_err(), "cut at {at}");
        }
        assert!(seals.unwrap(Kind::Record, &ABOUT, &[&wrapped[..], b" "].concat()).is_err(), "longer");
    }

    #[test]
    fn a_seal_holds_for_one_thing_in_one_cluster_and_for_nothing_else() {
        let seals = seals(7);
        let seal = seals.seal(Kind::Message, &ABOUT, b"x");
        let check = |seals: &Seals, kind, about: &[&str], payload: &[u8]| seals.check(&seal, kind, about, payload);
        assert_eq!(check(&seals, Kind::Message, &ABOUT, b"x"), Ok(()));
        for (kind, about, payload) in [
            (Kind::Record, &ABOUT[..], &b"x"[..]),
            (Kind::Claim, &ABOUT, b"x"),
            (Kind::Document, &ABOUT, b"x"),
            (Kind::Answer, &ABOUT, b"x"),
            (Kind::Message, &["uprtc.uprtc.node.c", "a", "7"], b"x"),
            (Kind::Message, &["uprtc.uprtc.node.b", "c", "7"], b"x"),
            (Kind::Message, &["uprtc.uprtc.node.b", "a", "8"], b"x"),
            (Kind::Message, &["uprtc.uprtc.node.ba", "", "7"], b"x"),
            (Kind::Message, &["uprtc.uprtc.node.b", "a"], b"7x"),
            (Kind::Message, &ABOUT, b""),
            (Kind::Message, &[], b""),
        ] {
            assert_eq!(check(&seals, kind, about, payload), Err(SealRefusal::Forged), "{kind:?} {about:?}");
        }
        assert_eq!(
            check(&of(7, "uprtd"), Kind::Message, &ABOUT, b"x"),
            Err(SealRefusal::UnknownKey),
            "of another cluster"
        );
        assert_eq!(check(&of(8, "uprtc"), Kind::Message, &ABOUT, b"x"), Err(SealRefusal::UnknownKey), "of another key");
        let none = Seals::new(None, "uprtc");
        assert_eq!(
            check(&none, Kind::Message, &ABOUT, b"x"),
            Err(SealRefusal::UnknownKey),
            "who has no key believes nobody"
        );
        assert_eq!(
            seals.check(&none.seal(Kind::Message, &ABOUT, b"x"), Kind::Message, &ABOUT, b"x"),
            Err(SealRefusal::UnknownKey)
        );
        // The tag of another key under the name of a known one.
        let stolen = format!(
            "{}-{}",
            seal.split_once('-').unwrap().0,
            of(8, "uprtc").seal(Kind::Message, &ABOUT, b"x").split_once('-').unwrap().1
        );
        assert_eq!(seals.check(&stolen, Kind::Message, &ABOUT, b"x"), Err(SealRefusal::Forged));
        for text in ["", "-", ",,", "x", "00000000-00"] {
            assert_eq!(seals.check(text, Kind::Message, &ABOUT, b"x"), Err(SealRefusal::UnknownKey), "{text}");
        }
        assert_eq!(seals.check(&"x,".repeat(SEAL_LEN_MAX), Kind::Message, &ABOUT, b"x"), Err(SealRefusal::Forged));
        for bytes in [&b""[..], b"{}", b"uprtc-seal:", &[&b"uprtc-seal:"[..], &[b'a'; 1 << 20], b"\n{}"].concat()] {
            assert_eq!(seals.unwrap(Kind::Record, &ABOUT, bytes), Err(SealRefusal::Unsealed));
        }
    }

    /// A state folder with these keys, the first of them `token.key`.
    fn with_keys(keys: &[(&str, u8)]) -> (std::path::PathBuf, Arc<Seals>) {
        use std::os::unix::fs::OpenOptionsExt;
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("uprtc-seals-{}-{number}", std::process::id()));
        std::fs::create_dir_all(folder.join("token-keys.d")).unwrap();
        for (name, key) in keys {
            let mut file = std::fs::OpenOptions::new();
            let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(folder.join(name)).unwrap();
            std::io::Write::write_all(&mut file, hex::write(&[*key; KEY_LEN]).as_bytes()).unwrap();
        }
        let keys = TokenKeys::load_or_create(&folder).unwrap();
        (folder, Arc::new(Seals::new(Some(Arc::new(keys)), "uprtc")))
    }

    #[test]
    fn keys_are_changed_on_one_edge_after_the_other_in_any_order() {
        const OLD: (&str, u8) = ("token.key", 1);
        const NEW: (&str, u8) = ("token-keys.d/k2.key", 2);
        let states = [vec![OLD], vec![OLD, NEW], vec![("token.key", 9), NEW]].map(|keys| with_keys(&keys));
        let speaks = |from: usize, to: usize| {
            let wrapped = states[from].1.wrap(Kind::Document, &ABOUT, b"x");
            states[to].1.unwrap(Kind::Document, &ABOUT, &wrapped).map(drop)
        };
        for (from, to, heard) in [
            (0, 1, Ok(())),
            (1, 0, Ok(())),
            (1, 2, Ok(())),
            (2, 1, Ok(())),
            (0, 2, Err(SealRefusal::UnknownKey)),
            (2, 0, Err(SealRefusal::UnknownKey)),
        ] {
            assert_eq!(speaks(from, to), heard, "{from} to {to}");
        }
        let old = states[0].1.wrap(Kind::Document, &ABOUT, b"x");
        assert_eq!([0, 1].map(|at| states[at].1.is_of_newest(&old)), [true, false]);
        assert!(states[0].1.unwrap(Kind::Document, &ABOUT, &states[1].1.wrap(Kind::Document, &ABOUT, b"x")).is_ok());
        // As many keys as there can be.
        let names: Vec<String> = (0..KEYS_MAX).map(|n| format!("token-keys.d/n{n:02}.key")).collect();
        let all: Vec<(&str, u8)> = names.iter().map(String::as_str).zip(10..).chain([OLD]).collect();
        let many = with_keys(&all);
        let seal = many.1.seal(Kind::Message, &ABOUT, b"x");
        assert_eq!((seal.len() + 1, many.1.ids().len()), (SEAL_LEN_MAX, KEYS_MAX + 1));
        assert_eq!(states[0].1.check(&seal, Kind::Message, &ABOUT, b"x"), Ok(()), "the last of all");
        for (folder, _) in states.iter().chain([&many]) {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
}
