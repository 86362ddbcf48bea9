//! Tokens and the server itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use proto::plane::{CONTRACT_VERSION, Counter};
use proto::work::Role;

use super::views::{ServerView, TokenRequest, TokenView, WorkerView, bad_name};
use super::{Admin, Body, Problem, Site, sample};
use crate::auth::{ANY_ROOM, Claims, is_participant_name};

/// Longest life of a token that is made here, seconds: 30 days.
const TTL_MAX_S: u64 = 2_592_000;

/// Make a token.
///
/// For the room of the admin token; for any room, or `*`, with one for `*`. It does not outlive the token that it is made by,
/// and is revoked with it.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenRequest, responses((status = 201, description = "The token", body = TokenView)))]
pub(super) async fn mint(
    admin: Admin,
    State(site): State<Arc<Site>>,
    Body(asked): Body<TokenRequest>,
) -> Result<(StatusCode, Json<TokenView>), Problem> {
    let TokenRequest { room, name, publish, subscribe, data, admin: is_admin, invite, record, role, ttl_s } = asked;
    match room.as_str() {
        ANY_ROOM => admin.of_everything()?,
        room if !crate::auth::is_room_name(room) => {
            return Err(Problem::invalid("room is neither `*` nor 1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        room => admin.of_room(room)?,
    }
    if !is_participant_name(&name) {
        return Err(bad_name());
    }
    if !(1..=TTL_MAX_S).contains(&ttl_s) {
        return Err(Problem::invalid(format!("ttl_s is not 1 to {TTL_MAX_S}")));
    }
    let role =
        role.map(|name| Role::named(&name).ok_or_else(|| Problem::invalid(format!("role is not one of {}", roles()))));
    let role = role.transpose()?;
    let asked = Claims::new(&room, &name, ttl_s);
    let claims = Claims { publish, subscribe, data, admin: is_admin, invite, record, role, ..asked };
    let claims = claims.made_by(&admin.0, admin.0.as_governor()).ok_or_else(Problem::too_many_makers)?;
    let token = site.keys.sign(&claims).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok((StatusCode::CREATED, Json(TokenView { token, expires_at: claims.exp })))
}

fn roles() -> String {
    Role::ALL.map(Role::name).join(", ")
}

/// Workers, load, versions. Needs a token for `*`.
#[utoipa::path(get, path = "/v1/server", tag = "server", responses((status = 200, description = "The server", body = ServerView)))]
pub(super) async fn server(admin: Admin, State(site): State<Arc<Site>>) -> Result<Json<ServerView>, Problem> {
    admin.of_everything()?;
    let sample = sample(&site).await?;
    let snapshot = &sample.snapshot;
    let workers = snapshot.workers.iter().map(|worker| {
        let counters = sample.workers.get(worker.worker);
        let count = |counter: Counter| counters.map_or(0, |counters| counters[counter as usize]);
        WorkerView {
            worker: worker.worker,
            is_ready: worker.is_ready,
            peers: worker.peers,
            routes: count(Counter::RoutesOpen),
            received: count(Counter::Received),
            received_bytes: count(Counter::ReceivedBytes),
            sent: count(Counter::Sent),
            sent_bytes: count(Counter::SentBytes),
        }
    });
    Ok(Json(ServerView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        contract: CONTRACT_VERSION,
        is_ready: site.handle.is_ready(),
        rooms: snapshot.rooms.len(),
        peers: snapshot.rooms.iter().map(|room| room.peers.len()).sum(),
        sockets: snapshot.sockets,
        load: load(),
        workers: workers.collect(),
    }))
}

/// `/proc/loadavg` (proc(5)); the kernel answers from memory.
fn load() -> Option<Vec<f64>> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').take(3).map(|number| number.parse().ok()).collect()
}
