//! Peers of a room: list, look, remove, move, mute.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;

use super::others::{Ask, Part, no_peer, peers_in, shown};
use super::views::{PeerMove, PeerPage, PeerView, ProblemDetails, TrackChange, TrackView};
use super::{Admin, Asked, At, Body, Page, Problem, Site};
use crate::auth::is_room_name;

/// Who is in a room, by id, and what flows.
///
/// In a cluster: of all nodes. `unanswered` names those that did not answer.
#[utoipa::path(get, path = "/v1/rooms/{room}/peers", tag = "peers", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), Page),
    responses((status = 200, description = "A page of peers; none of a room that nobody is in", body = PeerPage)))]
pub(super) async fn list(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Asked(page): Asked<Page>,
) -> Result<Json<PeerPage>, Problem> {
    admin.of_room(&room)?;
    page.check()?;
    let peers = peers_in(&site, &room).await?;
    let own = Part::of(peers.iter().map(|peer| (peer.peer.clone(), shown(peer))), page.after.as_deref());
    let gathered = Ask::Peers { room, after: page.after.clone() }.of_all(&site, own).await;
    let unanswered = gathered.unanswered.clone();
    let (peers, next) = page.of_merged(gathered.merge(|_, _| {}))?;
    Ok(Json(PeerPage { peers, unanswered, next }))
}

/// One peer, with its state, its tracks, and what flows.
///
/// What is not known yet is left out: rates for the first second or two of a track, loss and round trip until the peer has
/// reported them.
#[utoipa::path(get, path = "/v1/rooms/{room}/peers/{peer}", tag = "peers",
    params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("peer" = String, Path, description = "Its id")),
    responses((status = 200, description = "The peer", body = PeerView)))]
pub(super) async fn get(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At((room, peer)): At<(String, String)>,
) -> Result<Json<Value>, Problem> {
    admin.of_room(&room)?;
    Ok(Json(Ask::Peer { room, peer }.of_one(&site).await?))
}

/// Remove a peer.
///
/// It is told `bye` with the reason `removed`, the others `peer_left`. Its token is still good: revoke to keep it out.
#[utoipa::path(delete, path = "/v1/rooms/{room}/peers/{peer}", tag = "peers",
    params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("peer" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn delete(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At((room, peer)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    admin.of_room(&room)?;
    Ask::Remove { room, peer }.of_one(&site).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Move a peer to another room.
///
/// Its media goes on without a new offer: it is told `moved`, the room that it leaves `peer_left` with the reason
/// `moved`, the other one `peer_joined`. Its id stays. The other room need not be there yet. It is refused (409) if the
/// other room is locked (`room_locked`), full (`room_full`) or has other codecs of video
/// (`other_codecs`). Needs a token for both rooms, which is one for `*`.
#[utoipa::path(post, path = "/v1/rooms/{room}/peers/{peer}/move", tag = "peers", operation_id = "move",
    params(("room" = String, Path, description = "The room that it is in", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("peer" = String, Path, description = "Its id")),
    request_body = PeerMove, responses((status = 200, description = "The peer in its new room", body = PeerView),
    (status = 409, description = "The other room does not take it", content_type = "application/problem+json", body = ProblemDetails)))]
pub(super) async fn relocate(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At((room, peer)): At<(String, String)>,
    Body(PeerMove { room: to }): Body<PeerMove>,
) -> Result<Json<Value>, Problem> {
    admin.of_room(&room)?;
    if !is_room_name(&to) {
        return Err(Problem::invalid("room is not 1 to 64 of A-Z a-z 0-9 . _ -"));
    }
    admin.of_room(&to)?;
    Ok(Json(Ask::Move { room, peer, to }.of_one(&site).await?))
}

/// Mute a track, or unmute it.
///
/// It is not passed on to anybody; everybody is told by `track_changed`. Its owner cannot undo that.
#[utoipa::path(patch, path = "/v1/rooms/{room}/peers/{peer}/tracks/{mid}", tag = "peers",
    params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("peer" = String, Path, description = "Whose"), ("mid" = String, Path, description = "The section of its offer")),
    request_body = TrackChange, responses((status = 200, description = "The track as it is now", body = TrackView)))]
pub(super) async fn mute(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At((room, peer, mid)): At<(String, String, String)>,
    Body(TrackChange { muted }): Body<TrackChange>,
) -> Result<Json<Value>, Problem> {
    admin.of_room(&room)?;
    let mute = Ask::Mute { room, peer, mid: mid.clone(), is_muted: muted };
    let peer = mute.of_one(&site).await?;
    let track = peer["tracks"].as_array().and_then(|tracks| tracks.iter().find(|track| track["mid"] == *mid));
    track.cloned().map(Json).ok_or_else(no_peer)
}
