//! Rooms: make, list, look, change, delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jsonwebtoken::get_current_timestamp;
use serde_json::Value;

use super::limits::{RoomChange, RoomLimits, RoomPage, RoomView};
use super::others::{Ask, Part, join_rooms, room_of, shown};
use super::{Admin, Asked, At, Body, Page, Problem, Site, ask_engine, keep, sample};
use crate::engine::{OperatorRequest, RoomPolicy, Snapshot};

/// Every room, by name.
///
/// Rooms that were made, and rooms that somebody is in. In a cluster: on all nodes; `unanswered` names those that did not answer. Needs a
/// token for `*`.
#[utoipa::path(get, path = "/v1/rooms", tag = "rooms", params(Page), responses((status = 200, description = "A page of rooms", body = RoomPage)))]
pub(super) async fn list(
    admin: Admin,
    State(site): State<Arc<Site>>,
    Asked(page): Asked<Page>,
) -> Result<Json<RoomPage>, Problem> {
    admin.of_everything()?;
    page.check()?;
    let (rooms, node) = (RoomView::all(&sample(&site).await?.snapshot), site.node());
    let rooms = rooms.into_iter().map(|room| (room.room.clone(), shown(&room.on(node.as_ref()))));
    let own = Part::of(rooms, page.after.as_deref());
    let gathered = Ask::Rooms { after: page.after.clone() }.of_all(&site, own).await;
    let unanswered = gathered.unanswered.clone();
    let (rooms, next) = page.of_merged(gathered.merge(join_rooms))?;
    Ok(Json(RoomPage { rooms, unanswered, next }))
}

/// Make a room, or give it other limits.
///
/// A room need not be made: a token suffices to join one, under the server's own limits. One that was made keeps its
/// limits when it is empty and when the server restarts, until it is deleted. Above the server's ceilings
/// (`rooms-peers-ceiling`, `rooms-client-bps-ceiling`) only a token for `*` may set them (403 `ceiling`).
#[utoipa::path(put, path = "/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = RoomLimits,
    responses((status = 200, description = "It was there, and has these limits now", body = RoomView), (status = 201, description = "It is made", body = RoomView)))]
pub(super) async fn put(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(limits): Body<RoomLimits>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    admin.of_room(&room)?;
    let policy = limits.policy()?;
    let status = {
        let _turn = site.administering.turn().await;
        let snapshot = sample(&site).await?.snapshot;
        let is_there = RoomView::find(&snapshot, &room).is_some() || room_of(&site, &room).await.is_ok();
        check_ceilings(&admin, &snapshot, &room, &policy)?;
        set(&site, &room, policy).await?;
        if is_there { StatusCode::OK } else { StatusCode::CREATED }
    };
    Ok((status, Json(room_of(&site, &room).await?)))
}

/// Change some limits of a room.
///
/// What is left out stays, what is null becomes as the server is set (RFC 7396). They hold at once, also while the room is
/// in use: everybody is told another bandwidth, and with fewer peers admitted or locked nobody else comes in, but who is
/// in stays in.
#[utoipa::path(patch, path = "/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = RoomChange,
    responses((status = 200, description = "The room as it is now", body = RoomView)))]
pub(super) async fn patch(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(change): Body<RoomChange>,
) -> Result<Json<Value>, Problem> {
    admin.of_room(&room)?;
    {
        let _turn = site.administering.turn().await;
        let snapshot = sample(&site).await?.snapshot;
        if RoomView::find(&snapshot, &room).is_none() {
            room_of(&site, &room).await?;
        }
        let policy = change.made_in(snapshot.policies.get(&room).cloned().unwrap_or_default())?;
        check_ceilings(&admin, &snapshot, &room, &policy)?;
        set(&site, &room, policy).await?;
    }
    Ok(Json(room_of(&site, &room).await?))
}

/// One room.
#[utoipa::path(get, path = "/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses((status = 200, description = "The room", body = RoomView)))]
pub(super) async fn get(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
) -> Result<Json<Value>, Problem> {
    admin.of_room(&room)?;
    Ok(Json(room_of(&site, &room).await?))
}

/// Remove everybody from a room, and forget its limits.
///
/// Who has a token may come again: revoke, or lock the room, to keep them out.
#[utoipa::path(delete, path = "/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn delete(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
) -> Result<StatusCode, Problem> {
    admin.of_room(&room)?;
    let _turn = site.administering.turn().await;
    match ask_engine(&site, OperatorRequest::DeleteRoom { room: room.clone() }).await {
        // Whom other nodes have in it they remove when they learn of it.
        Err(problem) if problem.code() == "no_room" && site.nodes.is_some() => drop(room_of(&site, &room).await?),
        done => done?,
    }
    if site.registry.change(|rules| rules.remove_room(&room, get_current_timestamp())) {
        keep(&site).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What the admin of one room may not raise, because other rooms would pay for it: how many peers it has, and how much each of them
/// may send and receive. What holds already may stay. The codecs cost a forwarder nothing, and a lock costs nobody else anything.
fn check_ceilings(admin: &Admin, snapshot: &Snapshot, room: &str, policy: &RoomPolicy) -> Result<(), Problem> {
    if admin.of_everything().is_ok() {
        return Ok(());
    }
    let before = snapshot.policies.get(room).cloned().unwrap_or_default();
    for (field, wanted, before, server, ceiling) in [
        ("peers_max", policy.peers_max, before.peers_max, snapshot.peers_max, snapshot.room_peers_ceiling),
        (
            "client_bps_max",
            policy.client_bps_max,
            before.client_bps_max,
            snapshot.client_bps_max,
            snapshot.room_client_bps_ceiling,
        ),
    ] {
        let allowed = ceiling.max(before.unwrap_or(server));
        if wanted.is_some_and(|wanted| wanted > allowed) {
            let detail =
                format!("{field} is more than {allowed}, which a token for one room may not set: one for * may");
            return Err(Problem::new(StatusCode::FORBIDDEN, "ceiling", detail));
        }
    }
    Ok(())
}

/// Puts a room's limits in force, and writes them down.
async fn set(site: &Arc<Site>, room: &str, policy: RoomPolicy) -> Result<(), Problem> {
    ask_engine(site, OperatorRequest::SetRoom { room: room.to_owned(), policy: policy.clone() }).await?;
    site.registry.change(|rules| rules.set_room(room, policy));
    keep(site).await
}
