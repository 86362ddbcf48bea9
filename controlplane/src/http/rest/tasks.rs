//! Work for a room that services do: recordings, streams, telephone calls and feeds are ordered, looked at and ended here, and the services
//! fetch their orders (docs/SERVICES.md).

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use proto::work::{DETAIL_LEN_MAX, Order, Orders, Report, Role};
use tokio::time::timeout_at;

use super::invitations::Bearer;
use super::views::{TaskPage, TaskRequest, TaskView, bad_name};
use super::{At, Body, Problem, Site, limited};
use crate::auth::{Claims, is_participant_name};
use crate::hex;
use crate::services::{By, ReportError, Services, TaskError, WAIT};

/// Longest life of a token for a task, seconds. It does not outlive that of the service.
const TTL_MAX_S: u64 = 30 * 86_400;

/// Which kind of work the address names, for who may order it.
struct Orderer {
    role: Role,
    claims: Claims,
}

impl Orderer {
    /// Whoever may order such work in a room: its admins, and for recordings who has the claim `record`.
    fn of(site: &Site, bearer: &Bearer, room: &str, kind: &str) -> Result<Orderer, Problem> {
        let role = Role::ALL.into_iter().find(|role| role.collection() == kind);
        let role = role.ok_or_else(|| Problem::not_found("there is nothing at this address"))?;
        let claims = bearer.claims(site, room)?;
        let may = claims.admin || (claims.record && role == Role::Recorder);
        if claims.invitation || !may {
            let detail = "the token has no admin claim, nor, for recordings, the claim record";
            return Err(Problem::new(StatusCode::FORBIDDEN, "not_admin", detail));
        }
        limited(site, &claims)?;
        Ok(Orderer { role, claims })
    }
}

/// Begin a recording, stream, call or feed.
///
/// A service does it (docs/SERVICES.md); the answer says that it was told. What became of it shows the task. For recordings the claim
/// `record` is enough.
#[utoipa::path(post, path = "/v1/rooms/{room}/{kind}", tag = "tasks", operation_id = "start", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("kind" = String, Path, description = "Which kind of work", pattern = "^(recordings|streams|calls|feeds)$")), request_body = TaskRequest,
    responses((status = 201, description = "It was ordered", body = TaskView), (status = 409, description = "The room is being recorded, or has too many tasks")))]
pub(super) async fn start(
    bearer: Bearer,
    State(site): State<Arc<Site>>,
    At((room, kind)): At<(String, String)>,
    Body(TaskRequest { name, parameters }): Body<TaskRequest>,
) -> Result<(StatusCode, Json<TaskView>), Problem> {
    let Orderer { role, claims } = Orderer::of(&site, &bearer, &room, &kind)?;
    let number =
        parameters.get("number").and_then(serde_json::Value::as_str).filter(|number| is_participant_name(number));
    let name = name.unwrap_or_else(|| number.unwrap_or(title(role)).to_owned());
    if !is_participant_name(&name) {
        return Err(bad_name());
    }
    if serde_json::to_string(&parameters).is_ok_and(|text| text.len() > DETAIL_LEN_MAX) {
        return Err(Problem::invalid(format!("the fields of a task have more than {DETAIL_LEN_MAX} bytes")));
    }
    let mut id = [0; 8];
    getrandom::fill(&mut id).expect("the kernel's random number generator answers");
    let order = Order {
        task: hex::write(&id),
        room,
        name,
        ordered_by: claims.name,
        ordered_at: jsonwebtoken::get_current_timestamp(),
        parameters,
    };
    let task = site.services.change(|services| services.start(Instant::now(), role, order)).map_err(refused)?;
    tracing::info!(
        event = "task_ordered",
        kind,
        room = task.order.room,
        task = task.order.task,
        by = task.order.ordered_by
    );
    Ok((StatusCode::CREATED, Json(TaskView::of(task))))
}

/// The recordings, streams, calls or feeds of a room.
///
/// Those that have ended are shown for ten minutes.
#[utoipa::path(get, path = "/v1/rooms/{room}/{kind}", tag = "tasks", operation_id = "list", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("kind" = String, Path, description = "Which kind of work", pattern = "^(recordings|streams|calls|feeds)$")),
    responses((status = 200, description = "The oldest first", body = TaskPage)))]
pub(super) async fn list(
    bearer: Bearer,
    State(site): State<Arc<Site>>,
    At((room, kind)): At<(String, String)>,
) -> Result<Json<TaskPage>, Problem> {
    let Orderer { role, .. } = Orderer::of(&site, &bearer, &room, &kind)?;
    let (tasks, available) = site.services.look(|services| {
        let now = Instant::now();
        (services.list(now, role, &room), services.free(now, role, &room).is_ok())
    });
    Ok(Json(TaskPage { tasks: tasks.into_iter().map(TaskView::of).collect(), available }))
}

/// A recording, stream, call or feed.
#[utoipa::path(get, path = "/v1/rooms/{room}/{kind}/{task}", tag = "tasks", operation_id = "get", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("kind" = String, Path, description = "Which kind of work", pattern = "^(recordings|streams|calls|feeds)$"), ("task" = String, Path, description = "Its id", pattern = "^[0-9a-f]{16}$")),
    responses((status = 200, description = "As the service told last", body = TaskView)))]
pub(super) async fn get(
    bearer: Bearer,
    State(site): State<Arc<Site>>,
    At((room, kind, id)): At<(String, String, String)>,
) -> Result<Json<TaskView>, Problem> {
    let Orderer { role, .. } = Orderer::of(&site, &bearer, &room, &kind)?;
    let task = site.services.look(|services| services.get(Instant::now(), role, &room, &id)).map_err(refused)?;
    Ok(Json(TaskView::of(task)))
}

/// End a recording, stream, call or feed.
#[utoipa::path(delete, path = "/v1/rooms/{room}/{kind}/{task}", tag = "tasks", operation_id = "stop", params(("room" = String, Path, description = "The room", pattern = "^[A-Za-z0-9._-]{1,64}$"), ("kind" = String, Path, description = "Which kind of work", pattern = "^(recordings|streams|calls|feeds)$"), ("task" = String, Path, description = "Its id", pattern = "^[0-9a-f]{16}$")),
    responses((status = 202, description = "The service is told", body = TaskView)))]
pub(super) async fn stop(
    bearer: Bearer,
    State(site): State<Arc<Site>>,
    At((room, kind, id)): At<(String, String, String)>,
) -> Result<(StatusCode, Json<TaskView>), Problem> {
    let Orderer { role, claims } = Orderer::of(&site, &bearer, &room, &kind)?;
    let stop = |services: &mut Services| services.stop(Instant::now(), role, &room, &id);
    let task = site.services.change(stop).map_err(refused)?;
    tracing::info!(event = "task_stopped", kind, room, task = id, by = claims.name);
    Ok((StatusCode::ACCEPTED, Json(TaskView::of(task))))
}

/// `POST /v1/services`: what a service does, answered by what it is to do, as soon as there is something or [`WAIT`] is over.
pub(super) async fn report(
    bearer: Bearer,
    State(site): State<Arc<Site>>,
    Body(report): Body<Report>,
) -> Result<Json<Orders>, Problem> {
    let claims = bearer.claims_of_any(&site)?;
    limited(&site, &claims)?;
    let Some(role) = claims.role else {
        let detail = "the token has no claim role: it is not one of a service";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no_service", detail));
    };
    let (service, seq) = (report.service.clone(), report.seq);
    let token = claims.identity();
    let by = By { role, room: &claims.room, token: &token };
    site.services.change(|services| services.report(Instant::now(), by, report)).map_err(|error| match error {
        ReportError::TooMany => Problem::new(StatusCode::CONFLICT, "too_many_services", error.to_string()),
        ReportError::NameTaken => Problem::new(StatusCode::CONFLICT, "name_taken", error.to_string()),
        ReportError::Invalid(what) => Problem::invalid(what),
    })?;
    let sign = |role: Role, order: &Order| {
        let (publish, subscribe) = (role.publishes(), role.subscribes());
        let task = Claims {
            publish,
            subscribe,
            data: Some(false),
            role: Some(role),
            ..Claims::new(&order.room, &order.name, TTL_MAX_S)
        };
        site.keys.sign(&task.made_by(&claims, claims.as_inviter())?).ok()
    };
    let until = tokio::time::Instant::now() + WAIT;
    loop {
        let changed = site.services.changed();
        let (orders, is_latest) = site.services.look(|services| services.orders(&service, seq, sign));
        if orders != Orders::default() || !is_latest || timeout_at(until, changed).await.is_err() {
            return Ok(Json(orders));
        }
    }
}

/// How others see such a peer if nobody says otherwise.
fn title(role: Role) -> &'static str {
    match role {
        Role::Recorder => "Recorder",
        Role::Streamer => "Live stream",
        Role::Telephone => "Telephone",
        Role::Feed => "Feed",
    }
}

fn refused(error: TaskError) -> Problem {
    let (status, code) = match error {
        TaskError::NoService => (StatusCode::SERVICE_UNAVAILABLE, "no_service"),
        TaskError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "services_busy"),
        TaskError::Already => (StatusCode::CONFLICT, "recorded_already"),
        TaskError::TooMany => (StatusCode::CONFLICT, "too_many_tasks"),
        TaskError::NoTask => (StatusCode::NOT_FOUND, "no_task"),
    };
    Problem::new(status, code, error.to_string())
}
