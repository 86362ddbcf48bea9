//! Revocations: of the tokens that are used for one room, or, under `*`, of those for every room and of what governs the server.
//!
//! The order is: in force, then everybody out who came by them, then written down. Who asks at the door meanwhile is refused,
//! and a disk that is full keeps nobody in.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use jsonwebtoken::get_current_timestamp;

use super::views::{AnyRevocationRequest, RevocationPage, RevocationRequest, RevocationView};
use super::{Admin, Asked, At, Body, Page, Problem, Site, ask_engine, keep};
use crate::auth::ANY_ROOM;
use crate::engine::OperatorRequest;
use crate::revocations::{Revocation, Whose};

/// Revoke tokens for a room, and remove who came by them.
///
/// Tokens that were issued until now and are used for this room, with one name or with any, are not good any more, and neither
/// are those that were made by them. The clock of an issuer may be ahead: of a token that this server did not make, the `iat`
/// counts with 30 s of leeway. With `jti`, one token is not good any more, with those that were made by it, and no other is touched.
#[utoipa::path(post, path = "/v1/rooms/{room}/revocations", tag = "revocations", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$")), request_body = RevocationRequest,
    responses((status = 201, description = "They are revoked", body = RevocationView)))]
pub(super) async fn revoke(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Body(whose): Body<RevocationRequest>,
) -> Result<(StatusCode, Json<RevocationView>), Problem> {
    admin.of_room(&room)?;
    put(&site, room, whose.whose()?).await
}

/// Revoke tokens everywhere, and remove who came by them.
///
/// The same for tokens that are used for any room, and for admin tokens of `*`. Everybody's at once are invalidated by another
/// signing key. Needs a token for `*`.
#[utoipa::path(post, path = "/v1/revocations", tag = "revocations", operation_id = "revoke_everywhere", request_body = AnyRevocationRequest,
    responses((status = 201, description = "They are revoked", body = RevocationView)))]
pub(super) async fn revoke_everywhere(
    admin: Admin,
    State(site): State<Arc<Site>>,
    Body(whose): Body<AnyRevocationRequest>,
) -> Result<(StatusCode, Json<RevocationView>), Problem> {
    admin.of_everything()?;
    put(&site, ANY_ROOM.to_owned(), whose.whose()?).await
}

/// What is revoked for a room.
#[utoipa::path(get, path = "/v1/rooms/{room}/revocations", tag = "revocations", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), Page),
    responses((status = 200, description = "A page of revocations", body = RevocationPage)))]
pub(super) async fn list(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(room): At<String>,
    Asked(page): Asked<Page>,
) -> Result<Json<RevocationPage>, Problem> {
    admin.of_room(&room)?;
    page_of(&site, &room, &page)
}

/// What is revoked everywhere.
///
/// Needs a token for `*`.
#[utoipa::path(get, path = "/v1/revocations", tag = "revocations", operation_id = "list_everywhere", params(Page),
    responses((status = 200, description = "A page of revocations", body = RevocationPage)))]
pub(super) async fn list_everywhere(
    admin: Admin,
    State(site): State<Arc<Site>>,
    Asked(page): Asked<Page>,
) -> Result<Json<RevocationPage>, Problem> {
    admin.of_everything()?;
    page_of(&site, ANY_ROOM, &page)
}

/// Take a revocation of a room back.
///
/// The tokens that it concerned are good again, as far as they have not expired. One that no token can be concerned by any more
/// is forgotten by itself.
#[utoipa::path(delete, path = "/v1/rooms/{room}/revocations/{id}", tag = "revocations",
    params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("id" = String, Path, description = "Which, as the list says")),
    responses((status = 204, description = "It is gone")))]
pub(super) async fn delete(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At((room, id)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    admin.of_room(&room)?;
    take_back(&site, &room, &id).await
}

/// Take a revocation back that holds everywhere.
///
/// Needs a token for `*`.
#[utoipa::path(delete, path = "/v1/revocations/{id}", tag = "revocations", operation_id = "delete_everywhere",
    params(("id" = String, Path, description = "Which, as the list says")), responses((status = 204, description = "It is gone")))]
pub(super) async fn delete_everywhere(
    admin: Admin,
    State(site): State<Arc<Site>>,
    At(id): At<String>,
) -> Result<StatusCode, Problem> {
    admin.of_everything()?;
    take_back(&site, ANY_ROOM, &id).await
}

async fn put(site: &Arc<Site>, room: String, whose: Whose) -> Result<(StatusCode, Json<RevocationView>), Problem> {
    let now = get_current_timestamp();
    let revocation = Revocation { room: room.clone(), whose: whose.clone(), issued_until: now };
    let _turn = site.administering.turn().await;
    let added = site.registry.change(|rules| rules.revoke(revocation.clone(), now));
    added.map_err(|error| Problem::new(StatusCode::INSUFFICIENT_STORAGE, "too_many_revocations", error.to_string()))?;
    let removed = ask_engine(site, OperatorRequest::Revoke { room, whose }).await;
    keep(site).await?;
    removed?;
    Ok((StatusCode::CREATED, Json(revocation.into())))
}

fn page_of(site: &Site, room: &str, page: &Page) -> Result<Json<RevocationPage>, Problem> {
    let keyed = site.registry.revocations(room).into_iter().map(|one| (one.whose.id(), RevocationView::from(one)));
    let (revocations, next) = page.of(keyed)?;
    Ok(Json(RevocationPage { revocations, next }))
}

async fn take_back(site: &Arc<Site>, room: &str, id: &str) -> Result<StatusCode, Problem> {
    let _turn = site.administering.turn().await;
    if !site.registry.change(|rules| rules.take_back(room, id, get_current_timestamp())) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_revocation", "there is no such revocation"));
    }
    keep(site).await?;
    Ok(StatusCode::NO_CONTENT)
}
