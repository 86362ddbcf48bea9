//! REST under `/v1`, for operators and application servers: rooms, peers, tokens, the server itself. Each request
//! brings an admin token; each refusal is problem+json. A token for one room governs that room, one for `*` everything.
//!
//! `/openapi.json` is generated from the handlers and `/docs` shows it (see [`document`]). Nothing here decides: an
//! order goes to the engine, and what must outlive a restart into the registry.

mod data;
pub(super) mod document;
mod edges;
mod invitations;
mod limits;
mod media;
mod nodes;
mod others;
mod peers;
mod revocations;
mod rooms;
mod service;
mod tasks;
mod views;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Router, middleware};
use proto::work::REPORT_LEN_MAX;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

pub use self::others::answer_nodes;
use super::Site;
use super::admission::bearer;
use super::error::Problem;
use crate::auth::{ANY_ROOM, Claims, TokenError, is_room_name};
use crate::engine::{OperatorError, OperatorRequest};
use crate::limited::{Owner, What};
use crate::metrics::Sample;

/// Bytes of a request's body. The largest that makes sense has about 300.
const BODY_LEN_MAX: usize = 16 * 1024;

/// Entries of a page.
const PAGE_MAX: usize = 100;
const PAGE_DEFAULT: usize = 50;

/// The addresses of this module.
pub(super) fn router(site: &Arc<Site>) -> Router<Arc<Site>> {
    Router::new()
        .route("/v1/rooms", get(rooms::list))
        .route("/v1/rooms/{room}", put(rooms::put).patch(rooms::patch).get(rooms::get).delete(rooms::delete))
        .route("/v1/rooms/{room}/revocations", post(revocations::revoke).get(revocations::list))
        .route("/v1/rooms/{room}/data", post(data::send).layer(DefaultBodyLimit::max(data::BODY_LEN_MAX)))
        .route("/v1/rooms/{room}/revocations/{id}", delete(revocations::delete))
        .route("/v1/rooms/{room}/invitations", post(invitations::invite))
        .route("/v1/rooms/{room}/guests", post(invitations::accept))
        .route("/v1/revocations", post(revocations::revoke_everywhere).get(revocations::list_everywhere))
        .route("/v1/revocations/{id}", delete(revocations::delete_everywhere))
        .route("/v1/rooms/{room}/peers", get(peers::list))
        .route("/v1/rooms/{room}/peers/{peer}", get(peers::get).delete(peers::delete))
        .route("/v1/rooms/{room}/peers/{peer}/move", post(peers::relocate))
        .route("/v1/rooms/{room}/peers/{peer}/tracks/{mid}", patch(peers::mute))
        .route("/v1/rooms/{room}/{kind}", post(tasks::start).get(tasks::list))
        .route("/v1/rooms/{room}/{kind}/{task}", get(tasks::get).delete(tasks::stop))
        .route("/v1/services", post(tasks::report).layer(DefaultBodyLimit::max(REPORT_LEN_MAX)))
        .route("/v1/tokens", post(service::mint))
        .route("/v1/server", get(service::server))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/edges", get(edges::list))
        .route("/v1/edges/ping", get(edges::ping))
        .layer(DefaultBodyLimit::max(BODY_LEN_MAX))
        .layer(middleware::from_fn_with_state(site.clone(), bounded))
}

/// A request that does not come to its end is ended: a body may come as slowly as it likes.
async fn bounded(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(site.limits.head_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request did not come whole in time")
            .into_response(),
    }
}

/// The operator that asks: the claims of an admin token that came as `Authorization: Bearer`. Never in an address,
/// which proxies write into their logs.
pub(super) struct Admin(Claims);

impl Admin {
    /// Whether it governs this room; the room's name is checked here, too.
    fn of_room(&self, room: &str) -> Result<(), Problem> {
        if !is_room_name(room) {
            return Err(Problem::room_name());
        }
        if !self.0.is_for(room) {
            return Err(Problem::wrong_room());
        }
        Ok(())
    }

    /// Whether it governs everything.
    pub(super) fn of_everything(&self) -> Result<(), Problem> {
        match self.0.room == ANY_ROOM {
            true => Ok(()),
            false => Err(Problem::wrong_room()),
        }
    }
}

impl FromRequestParts<Arc<Site>> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Problem> {
        let claims = site.keys.verify(bearer(&parts.headers).ok_or(TokenError::Missing)?)?;
        if site.registry.is_revoked(&claims.room, &claims) {
            return Err(TokenError::Revoked.into());
        }
        if !claims.admin {
            return Err(Problem::new(StatusCode::FORBIDDEN, "not_admin", "the token has no admin claim"));
        }
        limited(site, &claims)?;
        Ok(Admin(claims))
    }
}

/// Counts a request against the rate that its token belongs to: each token for `*` has one, all admins of a room together, and all who
/// invite and are invited to it. Whoever governs a room can make as many tokens for it as he likes, so none of these has its own.
fn limited(site: &Site, claims: &Claims) -> Result<(), Problem> {
    let owner = match claims {
        Claims { room, .. } if room == ANY_ROOM => Owner::Token(claims.identity()),
        Claims { room, admin: true, .. } => Owner::Room(room.clone()),
        Claims { room, .. } => Owner::Room(format!("{room}, guests")),
    };
    if site.rest.take(&owner, 1) {
        return Ok(());
    }
    site.limited.note(What::Rest, &owner);
    let whose = if claims.room == ANY_ROOM { "with this token" } else { "with the tokens of this room" };
    let detail = format!("more than {} requests in a second {whose}", site.limits.requests_per_second);
    Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail))
}

/// What the address says between its slashes.
struct At<T>(T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Site>> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, site: &Arc<Site>) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, site).await;
        path.map(|Path(path)| At(path))
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_path", error.body_text()))
    }
}

/// What the address says behind its question mark.
struct Asked<T>(T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Site>> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Site>) -> Result<Self, Problem> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(query)| Asked(query))
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_query", error.body_text()))
    }
}

/// A body: an object in JSON.
struct Body<T>(T);

impl<T: DeserializeOwned> FromRequest<Arc<Site>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, site: &Arc<Site>) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = "the body is to be application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail));
        }
        let bytes = Bytes::from_request(request, site).await.map_err(|rejection| match rejection {
            BytesRejection::FailedToBufferBody(error) if error.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let detail = format!("the body is longer than {BODY_LEN_MAX} bytes");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
            }
            _ => Problem::new(StatusCode::BAD_REQUEST, "bad_body", "the body did not come whole"),
        })?;
        // By way of a value: serde takes a list for a struct, and the document says object.
        let mut value: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_json", error.to_string()))?;
        if !value.is_object() {
            return Err(Problem::invalid("the body is not an object"));
        }
        value.as_object_mut().into_iter().flat_map(|fields| fields.values_mut()).for_each(make_integer);
        serde_json::from_value(value).map(Body).map_err(|error| Problem::invalid(error.to_string()))
    }
}

/// To JSON Schema 23.0 is an integer (2020-12 §4.2.3), to serde it is not.
fn make_integer(value: &mut serde_json::Value) {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0; // 2^53: beyond it not every integer is a float.
    if let Some(number) = value.as_f64().filter(|n| value.is_f64() && n.fract() == 0.0 && (0.0..EXACT_MAX).contains(n))
    {
        *value = (number as u64).into();
    }
}

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Page {
    /// Entries at most, 50 if it is left out.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// Begin behind this one: `next` of the page before.
    #[param(max_length = 64)]
    after: Option<String>,
}

impl Page {
    /// How many entries it has at most, if it can be answered.
    fn check(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(PAGE_DEFAULT);
        if !(1..=PAGE_MAX).contains(&limit) {
            let detail = format!("limit is not 1 to {PAGE_MAX}");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_query", detail));
        }
        if self.after.as_ref().is_some_and(|after| after.chars().count() > 64) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_query", "after is longer than 64 characters"));
        }
        Ok(limit)
    }

    /// The same of what several nodes have, behind which more may follow.
    fn of_merged<T>(
        &self,
        (all, end): (Vec<(String, T)>, Option<String>),
    ) -> Result<(Vec<T>, Option<String>), Problem> {
        let (entries, next) = self.of(all.into_iter())?;
        Ok((entries, next.or(end)))
    }

    /// The entries of this page, of all that there are in the order of their keys; and where the next one begins.
    fn of<T>(&self, all: impl Iterator<Item = (String, T)>) -> Result<(Vec<T>, Option<String>), Problem> {
        let limit = self.check()?;
        let mut rest = all.filter(|(key, _)| self.after.as_ref().is_none_or(|after| key > after)).peekable();
        let mut last = None;
        let mut entries = Vec::new();
        while entries.len() < limit
            && let Some((key, entry)) = rest.next()
        {
            last = Some(key);
            entries.push(entry);
        }
        Ok((entries, last.filter(|_| rest.peek().is_some())))
    }
}

/// Writes down what an operator decided, which holds already, on a thread that may wait for the disk. If it cannot be written,
/// that is said, and it is written again later.
async fn keep(site: &Arc<Site>) -> Result<(), Problem> {
    site.administering.notify();
    let writer = site.clone();
    let written = tokio::task::spawn_blocking(move || writer.registry.save()).await;
    match written {
        Ok(Ok(())) => Ok(()),
        failed => {
            tracing::error!(?failed, "the registry cannot be written: what was decided holds, but not after a restart");
            Err(Problem::not_kept())
        }
    }
}

/// What the engine's task holds now.
async fn sample(site: &Site) -> Result<Sample, Problem> {
    site.handle.sample().await.ok_or_else(engine_gone)
}

/// Has a request of an operator done.
async fn ask_engine(site: &Site, request: OperatorRequest) -> Result<(), Problem> {
    site.handle.ask_operator(request).await.ok_or_else(engine_gone)?.map_err(|error| match error {
        OperatorError::TooManyRooms => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, "too_many_rooms", error.to_string())
        }
        OperatorError::NoRoom => Problem::new(StatusCode::NOT_FOUND, "no_room", error.to_string()),
        OperatorError::NoPeer | OperatorError::Elsewhere => {
            Problem::new(StatusCode::NOT_FOUND, "no_peer", error.to_string())
        }
        OperatorError::NoTrack => Problem::new(StatusCode::NOT_FOUND, "no_track", error.to_string()),
        OperatorError::Locked => Problem::new(StatusCode::CONFLICT, "room_locked", error.to_string()),
        OperatorError::Full => Problem::new(StatusCode::CONFLICT, "room_full", error.to_string()),
        OperatorError::OtherCodecs => Problem::new(StatusCode::CONFLICT, "other_codecs", error.to_string()),
        OperatorError::NoData => Problem::new(StatusCode::CONFLICT, "no_data", error.to_string()),
        OperatorError::NotReady => Problem::not_ready("not_ready", &error.to_string()),
    })
}

fn engine_gone() -> Problem {
    Problem::not_ready("server_stopping", "the server is stopping")
}
