//! Rooms: make, list, look, delete; and revoke the tokens that are about for one.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::views::{RevocationOrder, RevocationPage, RevocationView, RoomChange, RoomLimits, RoomPage, RoomView};
use super::{Admin, Asked, At, Body, Page, Problem, Site, order, sample};
use crate::auth::id_of;
use crate::engine::{Order, RoomPolicy};
use crate::registry::{REVOCATIONS_MAX, Revocation, Rules};

/// Every room, by name.
///
/// Rooms that were made, and rooms that somebody is in. Needs a token for `*`.
#[utoipa::path(get, path = "/v1/rooms", tag = "rooms", params(Page), responses((status = 200, description = "A page of rooms", body = RoomPage)))]
pub(super) async fn list(
    admin: Admin,
    State(site): State<Arc<Site>>,
    Asked(page): Asked<Page>,
) -> Result<Json<RoomPage>, Problem> {
    admin.of_everything()?;
    let rooms = RoomView::all(&sample(&site).await?.snapshot);
    let (rooms, next) = page.of(rooms.into_iter().map(|room| (room.room.clone(), room)))?;
    Ok(Json(RoomPage { rooms, next }))
}

/// Make a room, or give it other limits.
///
/// A room need not be made: a token suffices to join one, under the server's own limits. One that was made keeps its
/// limits when it is empty and when the server restarts, until it is deleted.
#[utoipa::path(put, path = "/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = RoomLimits,
    responses((status = 200, description = "It was there, and has these limits now", body = RoomView), (status = 201, description = "It is made", body = RoomView)))]
pub(super) async fn put(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(limits): Body<RoomLimits>,
) -> Result<(StatusCode, Json<RoomView>), Problem> {
    admin.of_room(&room)?;
    let policy = limits.policy()?;
    let status = {
        let _turn = site.administering.lock().await;
        let is_there = RoomView::find(&sample(&site).await?.snapshot, &room).is_some();
        set(&site, &room, policy).await?;
        if is_there { StatusCode::OK } else { StatusCode::CREATED }
    };
    Ok((status, Json(find(&site, &room).await?)))
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
) -> Result<Json<RoomView>, Problem> {
    admin.of_room(&room)?;
    {
        let _turn = site.administering.lock().await;
        let mut snapshot = sample(&site).await?.snapshot;
        RoomView::find(&snapshot, &room).ok_or_else(no_room)?;
        let policy = change.made_in(snapshot.policies.remove(&room).unwrap_or_default())?;
        set(&site, &room, policy).await?;
    }
    Ok(Json(find(&site, &room).await?))
}

/// One room.
#[utoipa::path(get, path = "/v1/rooms/{room}", tag = "rooms", params(("room" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses((status = 200, description = "The room", body = RoomView)))]
pub(super) async fn get(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
) -> Result<Json<RoomView>, Problem> {
    admin.of_room(&room)?;
    Ok(Json(find(&site, &room).await?))
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
    let _turn = site.administering.lock().await;
    order(&site, Order::DeleteRoom { room: room.clone() }).await?;
    let mut rules = site.registry.rules();
    if rules.rooms.remove(&room).is_some() {
        keep(&site, rules).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Revoke tokens, and remove who came by them.
///
/// Tokens that were issued until now and are used for this room, with one name or with any, are not good any more.
/// Tokens that are issued from the next second on are. With `jti`, one token is not good any more, and no other is touched.
#[utoipa::path(post, path = "/v1/rooms/{room}/revocations", tag = "rooms", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = RevocationOrder,
    responses((status = 201, description = "They are revoked", body = RevocationView)))]
pub(super) async fn revoke(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(whose): Body<RevocationOrder>,
) -> Result<(StatusCode, Json<RevocationView>), Problem> {
    admin.of_room(&room)?;
    let (name, jti) = whose.whose()?;
    let issued_until = jsonwebtoken::get_current_timestamp();
    let revocation = Revocation { room: room.clone(), name: name.clone(), issued_until, jti: jti.clone() };
    let _turn = site.administering.lock().await;
    let mut rules = site.registry.rules();
    if !rules.revoke(revocation.clone()) {
        let detail = format!("the server keeps {REVOCATIONS_MAX} revocations: change the signing key instead");
        return Err(Problem::new(StatusCode::INSUFFICIENT_STORAGE, "too_many_revocations", detail));
    }
    keep(&site, rules).await?;
    let removal = match jti {
        Some(jti) => Order::RemoveBearer { room, token: id_of(&jti) },
        None => Order::RemoveNamed { room, name },
    };
    order(&site, removal).await?;
    Ok((StatusCode::CREATED, Json(revocation.into())))
}

/// What is revoked for a room.
#[utoipa::path(get, path = "/v1/rooms/{room}/revocations", tag = "rooms", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), Page),
    responses((status = 200, description = "A page of revocations", body = RevocationPage)))]
pub(super) async fn revocations(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Asked(page): Asked<Page>,
) -> Result<Json<RevocationPage>, Problem> {
    admin.of_room(&room)?;
    let mut of_room = site.registry.rules().revocations;
    of_room.retain(|revocation| revocation.room == room);
    of_room.sort_by_cached_key(key_of);
    let keyed = of_room.into_iter().map(|one| (key_of(&one), RevocationView::from(one)));
    let (revocations, next) = page.of(keyed)?;
    Ok(Json(RevocationPage { revocations, next }))
}

/// Puts a room's limits in force, and writes them down.
async fn set(site: &Arc<Site>, room: &str, policy: RoomPolicy) -> Result<(), Problem> {
    order(site, Order::SetRoom { room: room.to_owned(), policy: policy.clone() }).await?;
    let mut rules = site.registry.rules();
    rules.rooms.insert(room.to_owned(), policy);
    keep(site, rules).await
}

fn no_room() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_room", "there is no such room")
}

/// Where a revocation stands among those of its room, and what `after` of a page names: its name, or what stands for its
/// `jti` behind every name.
fn key_of(revocation: &Revocation) -> String {
    match &revocation.jti {
        Some(jti) => format!("{}{}", char::MAX, id_of(jti)),
        None => revocation.name.clone().unwrap_or_default(),
    }
}

async fn find(site: &Site, room: &str) -> Result<RoomView, Problem> {
    RoomView::find(&sample(site).await?.snapshot, room).ok_or_else(no_room)
}

/// Writes the rules on a thread that may wait for the disk.
async fn keep(site: &Arc<Site>, rules: Rules) -> Result<(), Problem> {
    let writer = site.clone();
    let written = tokio::task::spawn_blocking(move || writer.registry.replace(rules)).await;
    match written {
        Ok(Ok(())) => Ok(()),
        failed => {
            tracing::error!(?failed, "the registry cannot be written: what was decided holds until the next start");
            let detail = "it holds now, but could not be written down for the next start: look at the server's log";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "not_kept", detail))
        }
    }
}
