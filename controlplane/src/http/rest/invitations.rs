//! Invitations: whoever may invite makes one for a room, and each guest exchanges it for a token of its own with a name that it
//! chooses. So a link can be passed on without an identity, and revoking one guest's token ends one guest. An invitation is revoked
//! like any token, and all guests who came by it go with it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::super::admission::claims_for;
use super::views::{GuestRequest, InvitationRequest, TokenView, bad_name};
use super::{At, Body, Problem, Site, bearer, limited};
use crate::auth::{ANY_NAME, Claims, TokenError, is_participant_name, is_room_name};

/// Longest life of an invitation, seconds: a week. Who wants a longer one signs it with the key.
const TTL_MAX_S: u64 = 7 * 24 * 3600;

/// The text of the token that a request brings. What it is good for depends on the room, which the address says.
pub(super) struct Bearer(String);

impl Bearer {
    /// Its claims, if it is good for the room now.
    pub(super) fn claims(&self, site: &Site, room: &str) -> Result<Claims, Problem> {
        if !is_room_name(room) {
            return Err(Problem::room_name());
        }
        claims_for(site, room, &self.0)
    }

    /// Its claims, whatever room it is for.
    pub(super) fn claims_of_any(&self, site: &Site) -> Result<Claims, Problem> {
        let claims = site.keys.verify(&self.0)?;
        match site.registry.is_revoked(&claims.room, &claims) {
            true => Err(TokenError::Revoked.into()),
            false => Ok(claims),
        }
    }
}

impl FromRequestParts<Arc<Site>> for Bearer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Problem> {
        let token = bearer(&parts.headers).ok_or(TokenError::Missing)?;
        site.keys.verify(token)?; // Before the body is looked at, as everywhere.
        Ok(Bearer(token.to_owned()))
    }
}

/// Make an invitation to a room.
///
/// With a token for the room that has the claim `invite`, or an admin token. The rights of the guests are at most those of the
/// one who invites; an admin may give both. It does not outlive the token that it is made by, and is revoked with it.
#[utoipa::path(post, path = "/v1/rooms/{room}/invitations", tag = "invitations", operation_id = "invite", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = InvitationRequest,
    responses((status = 201, description = "The invitation, as a token", body = TokenView)))]
pub(super) async fn invite(
    bearer: Bearer,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(wanted): Body<InvitationRequest>,
) -> Result<(StatusCode, Json<TokenView>), Problem> {
    let host = bearer.claims(&site, &room)?;
    if host.invitation || !(host.invite || host.admin) {
        let detail = "the token has neither the claim invite nor admin";
        return Err(Problem::new(StatusCode::FORBIDDEN, "not_inviting", detail));
    }
    limited(&site, &host)?;
    if !(1..=TTL_MAX_S).contains(&wanted.ttl_s) {
        return Err(Problem::invalid(format!("ttl_s is not 1 to {TTL_MAX_S}")));
    }
    let right = |wanted: Option<bool>, has: bool| match wanted.unwrap_or(has || host.admin) {
        true if !has && !host.admin => {
            let detail = "a guest cannot have a right that the one who invites does not have";
            Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
        }
        right => Ok(right),
    };
    let (publish, subscribe) = (right(wanted.publish, host.publish)?, right(wanted.subscribe, host.subscribe)?);
    let data = Some(right(wanted.data, host.may_send_data())?);
    let invitation =
        Claims { publish, subscribe, data, invitation: true, ..Claims::new(&room, &host.name, wanted.ttl_s) };
    signed(&site, invitation, &host)
}

/// Accept an invitation: get a token with a name.
///
/// With an invitation instead of an admin token. The token is for the invitation's room, with the invitation's rights, and as long
/// good. It is another one for each guest.
#[utoipa::path(post, path = "/v1/rooms/{room}/guests", tag = "invitations", operation_id = "accept", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = GuestRequest,
    responses((status = 201, description = "The token of the guest", body = TokenView)))]
pub(super) async fn accept(
    bearer: Bearer,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(GuestRequest { name }): Body<GuestRequest>,
) -> Result<(StatusCode, Json<TokenView>), Problem> {
    let invitation = bearer.claims(&site, &room)?;
    if !invitation.invitation {
        return Err(Problem::new(StatusCode::FORBIDDEN, "no_invitation", "the token is no invitation"));
    }
    limited(&site, &invitation)?;
    // `*` would be the right to publish by WHIP under any name.
    if !is_participant_name(&name) || name == ANY_NAME {
        return Err(bad_name());
    }
    let Claims { publish, subscribe, data, exp, .. } = invitation;
    let guest = Claims { publish, subscribe, data, ..Claims::new(&room, &name, 0) };
    signed(&site, Claims { exp, ..guest }, &invitation)
}

fn signed(site: &Site, claims: Claims, maker: &Claims) -> Result<(StatusCode, Json<TokenView>), Problem> {
    let claims = claims.made_by(maker, maker.as_inviter()).ok_or_else(Problem::too_many_makers)?;
    let token = site.keys.sign(&claims).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok((StatusCode::CREATED, Json(TokenView { token, expires_at: claims.exp })))
}
