//! What a token says: its claims, read one by one, so that a refusal can name the claim that is wrong.
//!
//! Claims that uprtc does not know (`sub`, `iss`, an application's own) are ignored (RFC 7519 §4). One that is `null` counts as
//! absent: many libraries write an optional value so.

use proto::work::Role;
use ring::digest;
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::{ClaimError, ClaimFault, TokenError};
use super::maker::{MAKERS_MAX, Maker};
use super::names::{ANY_ROOM, is_participant_name, is_room_name};
use super::times::{LEEWAY_S, TIME_MAX_S, TTL_MAX_S};
use crate::hex;

/// Bytes of the hash that stands for a token's `jti`, or for a name. Who finds another text for one can have no more of it
/// than to be removed together.
const ID_LEN: usize = 8;

/// What a token says. Times are seconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Claims {
    /// The room it is good for, or `*` for every room.
    pub room: String,
    /// The name that others see.
    pub name: String,
    /// Whether its bearer may send media.
    pub publish: bool,
    /// Whether its bearer may receive media.
    pub subscribe: bool,
    /// Whether its bearer may send data. Absent: as `publish`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<bool>,
    /// Whether its bearer may see and change rooms through the API.
    pub admin: bool,
    /// Whether its bearer may make invitations to its room.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub invite: bool,
    /// Whether its bearer may start and stop recordings of its room.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub record: bool,
    /// What its bearer is, if it is no person's device: others see it in a room, and it may wait for orders as such a service
    /// (`POST /v1/services`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether it is an invitation: it admits nobody, and is exchanged for a token with a name that its bearer chooses. Its own
    /// name is that of whoever invites, its rights are those of the guests.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub invitation: bool,
    /// When it stops being good.
    pub exp: u64,
    /// When it was made.
    pub iat: u64,
    /// Its own identity, random.
    pub jti: String,
    /// The tokens by which it was made, the oldest first. Empty: it was signed by who has the key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub made_by: Vec<Maker>,
}

impl Claims {
    /// Claims of a fresh token that is good from now for `ttl_s` seconds: times and identity are filled in here.
    pub fn new(room: &str, name: &str, ttl_s: u64) -> Claims {
        let iat = jsonwebtoken::get_current_timestamp();
        let mut identity = [0u8; 16];
        getrandom::fill(&mut identity).expect("the kernel's random number generator answers");
        Claims {
            room: room.to_owned(),
            name: name.to_owned(),
            publish: false,
            subscribe: false,
            data: None,
            admin: false,
            invite: false,
            record: false,
            role: None,
            invitation: false,
            exp: iat.saturating_add(ttl_s),
            iat,
            jti: hex::write(&identity),
            made_by: Vec::new(),
        }
    }

    /// The same, made by the bearer of `parent`, which it does not outlive. `None`: there are [`MAKERS_MAX`] makers already.
    pub fn made_by(self, parent: &Claims, maker: Maker) -> Option<Claims> {
        let made_by: Vec<Maker> = parent.made_by.iter().cloned().chain([maker]).collect();
        (made_by.len() <= MAKERS_MAX).then(|| Claims { exp: self.exp.min(parent.exp), made_by, ..self })
    }

    /// By how much its `iat` may be ahead of our clock, seconds. A token that was made by another token was made by this server,
    /// and by the clock that revokes.
    pub fn leeway_s(&self) -> u64 {
        if self.made_by.is_empty() { LEEWAY_S } else { 0 }
    }

    /// Whether its bearer may send data.
    pub fn may_send_data(&self) -> bool {
        self.data.unwrap_or(self.publish)
    }

    /// Whether it is good for `room`.
    pub fn is_for(&self, room: &str) -> bool {
        self.room == ANY_ROOM || self.room == room
    }

    /// What stands for this one token where it must be known again: a hash of its `jti`, in hexadecimal digits. `None`
    /// without one.
    pub fn id(&self) -> Option<String> {
        (!self.jti.is_empty()).then(|| id_of(&self.jti))
    }

    /// The same of any token: of one without a `jti` a hash of what makes it another than the next.
    pub fn identity(&self) -> String {
        let Claims { room, name, iat, exp, .. } = self;
        self.id().unwrap_or_else(|| id_of(&format!("\0{room}\0{name}\0{iat}\0{exp}")))
    }

    /// What is kept of it in a token that its bearer makes by the right to govern everything, or a room.
    pub fn as_governor(&self) -> Maker {
        Maker { governs_everything: self.room == ANY_ROOM, ..self.as_inviter() }
    }

    /// What is kept of it in a token that its bearer makes for a room, by being good for that room.
    pub fn as_inviter(&self) -> Maker {
        Maker { token: self.identity(), name: id_of(&self.name), iat: self.iat, governs_everything: false }
    }

    pub(super) fn check(&self) -> Result<(), TokenError> {
        let fault = |claim, fault| Err(TokenError::Claims(ClaimError { claim, fault }));
        if self.room != ANY_ROOM && !is_room_name(&self.room) {
            return fault("room", ClaimFault::NotARoom);
        }
        if !is_participant_name(&self.name) {
            return fault("name", ClaimFault::NotAName);
        }
        for (claim, time) in [("exp", self.exp), ("iat", self.iat)] {
            if time >= TIME_MAX_S {
                return fault(claim, fault_of_time(time as f64));
            }
        }
        if self.exp > self.iat.saturating_add(TTL_MAX_S) {
            return fault("exp", ClaimFault::TooLong);
        }
        if self.made_by.len() > MAKERS_MAX {
            return fault("made_by", ClaimFault::NotMakers);
        }
        Ok(())
    }

    /// Reads the claims of a token whose signature is good, at the time `now`. With `is_late` it may have expired.
    pub(super) fn read(claims: &Map<String, Value>, now: u64, is_late: bool) -> Result<Claims, TokenError> {
        let claims = Reader(claims);
        // RFC 7519 §4.1.3: who is not among those that `aud` names must reject the token, and nobody calls us by a name.
        if claims.find("aud").is_some() {
            return Err(TokenError::Claims(ClaimError { claim: "aud", fault: ClaimFault::OtherAudience }));
        }
        let missing = |claim| TokenError::Claims(ClaimError { claim, fault: ClaimFault::Missing });
        let exp = claims.time("exp")?.ok_or(missing("exp"))?;
        // The time to the second: RFC 7519 §4.1.4 and §4.1.5 allow some leeway for the clocks.
        if !is_late && exp < now.saturating_sub(LEEWAY_S) as f64 {
            return Err(TokenError::Expired);
        }
        if claims.time("nbf")?.is_some_and(|nbf| nbf > now.saturating_add(LEEWAY_S) as f64) {
            return Err(TokenError::Immature("nbf"));
        }
        let iat = claims.time("iat")?.map(whole_seconds);
        // A time of issue that is to come would let a token escape from revocations of what was issued until now.
        if iat.is_some_and(|iat| iat > now.saturating_add(LEEWAY_S)) {
            return Err(TokenError::Immature("iat"));
        }
        let read = Claims {
            room: claims.text("room")?.ok_or(missing("room"))?.to_owned(),
            name: claims.text("name")?.ok_or(missing("name"))?.to_owned(),
            publish: claims.flag("publish")?,
            subscribe: claims.flag("subscribe")?,
            data: claims.find("data").map(|_| claims.flag("data")).transpose()?,
            admin: claims.flag("admin")?,
            invite: claims.flag("invite")?,
            record: claims.flag("record")?,
            role: claims.role("role")?,
            invitation: claims.flag("invitation")?,
            exp: whole_seconds(exp),
            iat: iat.unwrap_or(now),
            jti: claims.text("jti")?.unwrap_or_default().to_owned(),
            made_by: claims.makers("made_by")?,
        };
        read.check()?;
        Ok(Claims { iat: iat.unwrap_or_default(), ..read })
    }
}

/// What stands for a `jti` that is known by itself, or for a name.
pub fn id_of(jti: &str) -> String {
    hex::write(&digest::digest(&digest::SHA256, jti.as_bytes()).as_ref()[..ID_LEN])
}

/// The second in which a time lies. A time before 1970 is as good as 1970: both are long ago.
fn whole_seconds(time: f64) -> u64 {
    time as u64 // Rounds down, and negative ones up to 0.
}

/// Why a time of [`TIME_MAX_S`] or more is refused.
fn fault_of_time(time: f64) -> ClaimFault {
    let is_time_in_milliseconds = time < (TIME_MAX_S * 1000) as f64;
    if is_time_in_milliseconds { ClaimFault::Milliseconds } else { ClaimFault::FarAway }
}

/// The claims as they came.
struct Reader<'a>(&'a Map<String, Value>);

impl<'a> Reader<'a> {
    fn find(&self, claim: &'static str) -> Option<&'a Value> {
        self.0.get(claim).filter(|value| !value.is_null())
    }

    fn text(&self, claim: &'static str) -> Result<Option<&'a str>, TokenError> {
        match self.find(claim) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenError::Claims(ClaimError { claim, fault: ClaimFault::NotAString })),
        }
    }

    /// Absent means no. A string is not taken for a boolean: `"false"` would be a right in some languages.
    fn flag(&self, claim: &'static str) -> Result<bool, TokenError> {
        match self.find(claim) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(TokenError::Claims(ClaimError { claim, fault: ClaimFault::NotABoolean })),
        }
    }

    fn role(&self, claim: &'static str) -> Result<Option<Role>, TokenError> {
        let fault = TokenError::Claims(ClaimError { claim, fault: ClaimFault::NotARole });
        self.text(claim)?.map(|name| Role::named(name).ok_or(fault)).transpose()
    }

    fn makers(&self, claim: &'static str) -> Result<Vec<Maker>, TokenError> {
        let Some(value) = self.find(claim) else { return Ok(Vec::new()) };
        let fault = TokenError::Claims(ClaimError { claim, fault: ClaimFault::NotMakers });
        serde_json::from_value(value.clone()).map_err(|_| fault)
    }

    /// A NumericDate: any JSON number, whole or not (RFC 7519 §2).
    fn time(&self, claim: &'static str) -> Result<Option<f64>, TokenError> {
        let Some(value) = self.find(claim) else { return Ok(None) };
        let fault = match value.as_f64() {
            None => ClaimFault::NotANumber,
            Some(time) if time >= TIME_MAX_S as f64 => fault_of_time(time),
            Some(time) => return Ok(Some(time)),
        };
        Err(TokenError::Claims(ClaimError { claim, fault }))
    }
}
