//! Who is let in, for the signalling socket and for WHIP and WHEP alike: the token of a request, what it allows, and how
//! what the engine refuses is said in HTTP.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use proto::signal::ErrorCode;

use super::Site;
use super::error::Problem;
use crate::auth::{Claims, TokenError, is_room_name};
use crate::engine::{Grant, ResourceError};
use crate::happening::Access;
use crate::limited::Owner;

/// How long the engine may take to answer. It never takes milliseconds.
pub(super) const ENGINE_TIMEOUT: Duration = Duration::from_secs(2);

/// What an offer costs more than another signal, in units of [`super::Limits::all_signal_costs_per_second`].
pub(super) const OFFER_COST: u32 = 8;

/// To whom the engine's time is charged.
pub(super) fn owner_of(claims: &Claims) -> Owner {
    Owner::tenant(&claims.room, || claims.identity())
}

/// Writes down that somebody could not join. A token of ours names him even after it has expired.
pub(super) fn turned_away(site: &Site, access: Access, room: &str, token: Option<&str>, problem: &Problem) {
    let name = token.and_then(|token| site.keys.verify_late(token).ok()).map(|claims| claims.name);
    let room = is_room_name(room).then_some(room);
    site.handle.logbook().refused(access, room, name.as_deref(), (problem.code(), problem.detail()));
}

/// The claims of a request's bearer, who may come into the room.
pub(super) fn admit(site: &Site, room: &str, headers: &HeaderMap, in_address: Option<&str>) -> Result<Claims, Problem> {
    if !is_room_name(room) {
        return Err(Problem::room_name());
    }
    admit_token(site, room, bearer(headers).or(in_address).ok_or(TokenError::Missing)?)
}

/// The same for a request that only asks whether there is a place: whoever has an invitation may ask, too.
pub(super) fn admit_to_ask(
    site: &Site,
    room: &str,
    headers: &HeaderMap,
    in_address: Option<&str>,
) -> Result<Claims, Problem> {
    if !is_room_name(room) {
        return Err(Problem::room_name());
    }
    claims_for(site, room, bearer(headers).or(in_address).ok_or(TokenError::Missing)?)
}

/// The claims of a token that lets its bearer into the room now.
pub(super) fn admit_token(site: &Site, room: &str, token: &str) -> Result<Claims, Problem> {
    match claims_for(site, room, token)? {
        claims if claims.invitation => Err(Problem::invitation()),
        claims => Ok(claims),
    }
}

/// The claims of a token that is good for the room now, be it an invitation.
pub(super) fn claims_for(site: &Site, room: &str, token: &str) -> Result<Claims, Problem> {
    let claims = site.keys.verify(token)?;
    if !claims.is_for(room) {
        return Err(Problem::wrong_room());
    }
    if site.registry.is_revoked(room, &claims) {
        return Err(TokenError::Revoked.into());
    }
    Ok(claims)
}

/// What the engine is told of a token.
pub(super) fn grant(claims: &Claims) -> Grant {
    Grant {
        room: claims.room.clone(),
        name: claims.name.clone(),
        publish: claims.publish,
        subscribe: claims.subscribe,
        data: claims.may_send_data(),
        admin: claims.admin,
        role: claims.role,
        expires_at: Some(claims.exp),
        issued_to: None,
        token: Some(claims.identity()),
        made_by: claims.made_by.clone().into(),
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1); the scheme's name has no case.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

pub(super) fn engine_busy() -> Problem {
    Problem::not_ready("engine_busy", "the engine does not answer")
}

/// What the engine refuses, as the problem that HTTP is answered.
pub(super) fn denied(denial: ResourceError) -> Problem {
    match denial {
        ResourceError::UnknownResource => Problem::not_found("no such session, or it has ended: offer anew"),
        ResourceError::OtherTag => Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "other_tag",
            "If-Match names another ICE session than the present one",
        ),
        ResourceError::Refused { code, message } => {
            let (status, code) = match code {
                ErrorCode::BadSdp => (StatusCode::BAD_REQUEST, "bad_sdp"),
                ErrorCode::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
                ErrorCode::RoomLocked => (StatusCode::FORBIDDEN, "room_locked"),
                ErrorCode::RoomFull => (StatusCode::SERVICE_UNAVAILABLE, "room_full"),
                ErrorCode::ServerFull => (StatusCode::SERVICE_UNAVAILABLE, "server_full"),
                ErrorCode::NoDataplane => (StatusCode::SERVICE_UNAVAILABLE, "no_dataplane"),
                ErrorCode::TooMuch => (StatusCode::UNPROCESSABLE_ENTITY, "too_much"),
                _ => (StatusCode::UNPROCESSABLE_ENTITY, "unsupported_offer"),
            };
            Problem::new(status, code, message)
        }
    }
}
