//! Which tokens are not good any more: kept by the room that they are used for, each room with a quota of its own.
//!
//! A revocation is of a room, or of `*`: of every room, and of what governs the server. It concerns everybody's tokens, those
//! with one name, or one token. The first two concern what was issued until then, so that nobody has to know the tokens that
//! are about. A token is revoked with the tokens that it was made by ([`Maker`]).
//!
//! Names and `jti`s are kept by their hashes, and a name as it is besides, for people to read. What a revocation concerns has
//! expired after [`TTL_MAX_S`]; then it is forgotten.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::auth::{ANY_ROOM, Claims, LEEWAY_S, Maker, TTL_MAX_S, id_of};
use crate::policy::Grant;

/// Revocations of one room, besides the one of everybody. A room that needs more revokes everybody, which takes the place of
/// those of names.
pub const ROOM_REVOCATIONS_MAX: usize = 256;

/// Revocations of `*`.
pub const ANY_REVOCATIONS_MAX: usize = 4_096;

/// Revocations of all rooms: 64 rooms may use up their quota. Each costs some 200 bytes, so 4 MB.
pub const REVOCATIONS_MAX: usize = 16_384;

/// How long a revocation is kept, seconds: what it concerns was issued by a clock that is ahead by the leeway at most, has the
/// longest life, and is good for the leeway after its end.
pub const KEPT_S: u64 = TTL_MAX_S + 2 * LEEWAY_S;

/// Whose tokens a revocation concerns.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Whose {
    /// Everybody's.
    Everybody,
    /// Those with this name.
    Name(String),
    /// One token, by what stands for it ([`Claims::identity`]).
    Token(String),
}

impl Whose {
    /// By what a revocation is found among those of its room.
    pub fn id(&self) -> String {
        match self {
            Whose::Everybody => "everybody".to_owned(),
            Whose::Name(name) => format!("name.{}", id_of(name)),
            Whose::Token(token) => format!("token.{token}"),
        }
    }

    /// Whether a peer who came by this grant is to go, of a revocation of `room` or of `*` that is made now.
    pub fn concerns(&self, room: &str, grant: &Grant) -> bool {
        let is_within = |maker: &Maker| room == ANY_ROOM || !maker.governs_everything;
        let mut makers = grant.made_by.iter().filter(|maker| is_within(maker));
        match self {
            Whose::Everybody => true,
            Whose::Name(name) => grant.is_of(name) || makers.any(|maker| maker.name == id_of(name)),
            Whose::Token(token) => grant.token.as_ref() == Some(token) || makers.any(|maker| maker.token == *token),
        }
    }
}

/// A revocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// Of tokens that are used for this room, or `*`.
    pub room: String,
    /// Whose.
    pub whose: Whose,
    /// Issued until then, seconds since 1970. Of one token: when it was revoked.
    pub issued_until: u64,
}

/// A revocation as it is written down. Earlier versions wrote a `jti` as it is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    room: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    issued_until: u64,
    #[serde(default, skip_serializing)]
    jti: Option<String>,
}

impl Serialize for Revocation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, token) = match &self.whose {
            Whose::Everybody => (None, None),
            Whose::Name(name) => (Some(name.clone()), None),
            Whose::Token(token) => (None, Some(token.clone())),
        };
        Written { room: self.room.clone(), name, token, issued_until: self.issued_until, jti: None }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Revocation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Written { room, name, token, issued_until, jti } = Written::deserialize(deserializer)?;
        let whose = match (name, token.or_else(|| jti.as_deref().map(id_of))) {
            (None, None) => Whose::Everybody,
            (Some(name), None) => Whose::Name(name),
            (None, Some(token)) => Whose::Token(token),
            (Some(_), Some(_)) => return Err(serde::de::Error::custom("a name and a token")),
        };
        Ok(Revocation { room, whose, issued_until })
    }
}

/// Why a revocation is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TooMany {
    /// The room has its quota.
    #[error("the room has {ROOM_REVOCATIONS_MAX} revocations: delete old ones, or revoke everybody's tokens")]
    OfRoom,
    /// `*` has its quota.
    #[error("* has {ANY_REVOCATIONS_MAX} revocations: delete old ones, or change the signing key")]
    OfAny,
    /// All rooms together have theirs.
    #[error("the rooms have {REVOCATIONS_MAX} revocations together: delete old ones, or revoke everybody's tokens")]
    OfAll,
}

/// All revocations.
#[derive(Clone, Default, Debug)]
pub struct Revocations(BTreeMap<String, OfRoom>);

/// Those of one room, or of `*`: until when, by what stands for whom.
#[derive(Clone, Default, Debug)]
struct OfRoom {
    everybody: Option<u64>,
    names: BTreeMap<String, (String, u64)>,
    tokens: BTreeMap<String, u64>,
}

impl Revocations {
    /// Adds or renews one. One of everybody is always taken: it takes the place of those of names.
    pub fn add(&mut self, revocation: Revocation) -> Result<(), TooMany> {
        let Revocation { room, whose, issued_until } = &revocation;
        if *whose != Whose::Everybody && !self.0.get(room).is_some_and(|of| of.has(whose)) {
            let count = self.0.get(room).map_or(0, OfRoom::counted);
            let of_rooms = self.0.iter().filter(|(room, _)| *room != ANY_ROOM).map(|(_, of)| of.counted());
            match room == ANY_ROOM {
                true if count >= ANY_REVOCATIONS_MAX => return Err(TooMany::OfAny),
                false if count >= ROOM_REVOCATIONS_MAX => return Err(TooMany::OfRoom),
                false if of_rooms.sum::<usize>() >= REVOCATIONS_MAX => return Err(TooMany::OfAll),
                _ => {}
            }
        }
        let of = self.0.entry(room.clone()).or_default();
        if *whose == Whose::Everybody {
            of.names.retain(|_, (_, until)| *until > *issued_until);
        }
        of.put(&revocation);
        Ok(())
    }

    /// Puts back what was kept, whatever the quotas are now.
    pub fn restore(&mut self, revocation: &Revocation) {
        self.0.entry(revocation.room.clone()).or_default().put(revocation);
    }

    /// Forgets one of a room. False: there is none with this id.
    pub fn remove(&mut self, room: &str, id: &str) -> bool {
        let Some(of) = self.0.get_mut(room) else { return false };
        let was_there = match id.split_once('.') {
            None => id == "everybody" && of.everybody.take().is_some(),
            Some(("name", name)) => of.names.remove(name).is_some(),
            Some(("token", token)) => of.tokens.remove(token).is_some(),
            Some(_) => false,
        };
        self.0.retain(|_, of| of.counted() > 0 || of.everybody.is_some());
        was_there
    }

    /// One of a room, by its id.
    pub fn find(&self, room: &str, id: &str) -> Option<Revocation> {
        let of = self.0.get(room)?;
        let (whose, issued_until) = match id.split_once('.') {
            None => (Whose::Everybody, of.everybody.filter(|_| id == "everybody")?),
            Some(("name", name)) => of.names.get(name).map(|(name, until)| (Whose::Name(name.clone()), *until))?,
            Some(("token", token)) => (Whose::Token(token.to_owned()), *of.tokens.get(token)?),
            Some(_) => return None,
        };
        Some(Revocation { room: room.to_owned(), whose, issued_until })
    }

    /// Forgets those that no token can be concerned by any more.
    pub fn prune(&mut self, now: u64) {
        let is_kept = |until: u64| is_kept(until, now);
        self.0.retain(|_, of| {
            of.everybody = of.everybody.filter(|&until| is_kept(until));
            of.names.retain(|_, (_, until)| is_kept(*until));
            of.tokens.retain(|_, until| is_kept(*until));
            of.counted() > 0 || of.everybody.is_some()
        });
    }

    /// Whether a token is revoked for a room. For `*`: for what governs everything.
    pub fn concern(&self, room: &str, claims: &Claims) -> bool {
        let of_any = (room != ANY_ROOM).then_some(ANY_ROOM);
        [Some(room), of_any].into_iter().flatten().any(|room| {
            self.0.get(room).is_some_and(|of| {
                let is_within = |maker: &&Maker| room == ANY_ROOM || !maker.governs_everything;
                let leeway_s = claims.leeway_s();
                of.concerns(&claims.identity(), &id_of(&claims.name), claims.iat.saturating_sub(leeway_s))
                    || claims
                        .made_by
                        .iter()
                        .filter(is_within)
                        .any(|maker| of.concerns(&maker.token, &maker.name, maker.iat.saturating_sub(LEEWAY_S)))
            })
        })
    }

    /// Those of a room, by their ids, in the order of the ids.
    pub fn of(&self, room: &str) -> Vec<Revocation> {
        self.0.get(room).map(|of| of.list(room)).unwrap_or_default()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Revocation> {
        self.0.iter().flat_map(|(room, of)| of.list(room)).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.values().map(|of| of.counted() + usize::from(of.everybody.is_some())).sum()
    }
}

/// Whether a token may still be concerned by a revocation of what was issued until then.
pub fn is_kept(until: u64, now: u64) -> bool {
    until.saturating_add(KEPT_S) >= now
}

impl OfRoom {
    /// Those that count for the quota.
    fn counted(&self) -> usize {
        self.names.len() + self.tokens.len()
    }

    fn has(&self, whose: &Whose) -> bool {
        match whose {
            Whose::Everybody => self.everybody.is_some(),
            Whose::Name(name) => self.names.contains_key(&id_of(name)),
            Whose::Token(token) => self.tokens.contains_key(token),
        }
    }

    /// The later one of two that are the same.
    fn put(&mut self, Revocation { whose, issued_until, .. }: &Revocation) {
        match whose {
            Whose::Everybody => self.everybody = self.everybody.max(Some(*issued_until)),
            Whose::Name(name) => {
                let known = self.names.entry(id_of(name)).or_insert_with(|| (name.clone(), *issued_until));
                known.1 = known.1.max(*issued_until);
            }
            Whose::Token(token) => {
                let known = self.tokens.entry(token.clone()).or_default();
                *known = (*known).max(*issued_until);
            }
        }
    }

    /// Whether a token with this identity and name that was issued then is not good any more.
    fn concerns(&self, token: &str, name: &str, iat: u64) -> bool {
        let is_before = |until: &u64| iat <= *until;
        self.everybody.as_ref().is_some_and(is_before)
            || self.names.get(name).is_some_and(|(_, until)| is_before(until))
            || self.tokens.contains_key(token)
    }

    fn list(&self, room: &str) -> Vec<Revocation> {
        let revocation = |whose, issued_until| Revocation { room: room.to_owned(), whose, issued_until };
        let everybody = self.everybody.map(|until| revocation(Whose::Everybody, until));
        let names = self.names.values().map(|(name, until)| revocation(Whose::Name(name.clone()), *until));
        let tokens = self.tokens.iter().map(|(token, until)| revocation(Whose::Token(token.clone()), *until));
        everybody.into_iter().chain(names).chain(tokens).collect()
    }
}
