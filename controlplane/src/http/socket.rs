//! The signalling socket: `GET /v1/rooms/{room}/signal`, one JSON signal in each text frame (docs/PROTOCOL.md).
//!
//! The door is here: room name, token, room of the token, upgrade, in this order and each with its own answer, so that
//! a browser, whose WebSocket hides the answer's body, can ask the same address by `fetch` why it was refused, and before
//! it opens a camera whether it would be let in. What is inside belongs to the engine; this task only parses, bounds and
//! carries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use proto::signal::{Candidate, ClientSignal, ErrorCode, ServerSignal};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until, timeout};

use super::error::Problem;
use super::websocket::{self, Message, close_code};
use super::whip::{ENGINE_TIMEOUT, denied, engine_busy};
use super::{Limits, Site};
use crate::auth::{Claims, TokenError, is_room_name};
use crate::engine::{Grant, SocketId};
use crate::happening::Door;
use crate::ice::is_candidate;
use crate::link::{Closing, ToSocket};

/// How much longer than the limit a frame may be and still be answered by an error instead of a torn connection.
const FRAME_LEN_FACTOR: usize = 2;

/// Bytes for which a frame counts at least: what the frame itself costs, however little is in it.
const FRAME_COST_MIN: usize = 256;

/// A signalling socket.
type WebSocket = websocket::WebSocket<TokioIo<Upgraded>>;

/// What the address may carry.
#[derive(Deserialize)]
pub(super) struct Parameters {
    token: Option<String>,
    /// There with any value: the request only asks whether a newcomer would be let in.
    ask: Option<String>,
}

/// The door.
pub(super) async fn signal(
    State(site): State<Arc<Site>>,
    Path(room): Path<String>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    (method, headers): (Method, HeaderMap),
    upgrade: Option<Extension<OnUpgrade>>,
) -> Response {
    let (in_address, asks) = match parameters {
        Ok(Query(Parameters { token, ask })) => (token, ask.is_some()),
        Err(_) => (None, false),
    };
    let token = bearer(&headers).or(in_address.as_deref());
    let answer = match site.origins.admit(&headers).and_then(|()| admit(&site, &room, &headers, in_address.as_deref()))
    {
        Ok(claims) => let_in(&site, &room, claims, (&method, &headers), asks, upgrade).await,
        Err(problem) => Err(problem.at_socket()),
    };
    answer.unwrap_or_else(|problem| {
        // A browser whose socket was refused asks once more to read why: that is no other try to join.
        if asks || headers.contains_key(header::UPGRADE) {
            turned_away(&site, Door::Socket, &room, token, &problem);
        }
        problem.into_response()
    })
}

/// The answer to somebody whose token is good: an upgrade, or what came of asking.
async fn let_in(
    site: &Arc<Site>,
    room: &str,
    claims: Claims,
    (method, headers): (&Method, &HeaderMap),
    asks: bool,
    upgrade: Option<Extension<OnUpgrade>>,
) -> Result<Response, Problem> {
    let Some((answer, Extension(upgrade))) = websocket::shake_hands(method, headers).zip(upgrade) else {
        without_upgrade(site, room, &claims).await?;
        return if asks { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(Problem::upgrade_required()) };
    };
    let permit = site.sockets.clone().try_acquire_owned().map_err(|_| sockets_full())?;
    let frame_len_max = site.limits.signal_len_max * FRAME_LEN_FACTOR;
    let (site, room) = (site.clone(), room.to_owned());
    tokio::spawn(async move {
        // It fails if the client has gone before it was answered.
        if let Ok(upgraded) = upgrade.await {
            converse(WebSocket::new(TokioIo::new(upgraded), frame_len_max), &site, &room, claims).await;
        }
        drop(permit);
    });
    Ok(answer)
}

/// What an offer of this bearer would be refused for now, to a request that is no WebSocket's. A WebSocket itself is not
/// refused for it, because it may bring a `resume`, which needs no place.
async fn without_upgrade(site: &Site, room: &str, claims: &Claims) -> Result<(), Problem> {
    if site.sockets.available_permits() == 0 {
        return Err(sockets_full());
    }
    match timeout(ENGINE_TIMEOUT, site.handle.may_join(room, grant(claims))).await {
        Ok(Some(allowed)) => allowed.map_err(denied),
        Ok(None) | Err(_) => Err(engine_busy()),
    }
}

fn sockets_full() -> Problem {
    Problem::not_ready("server_full", "the server has its limit of signalling sockets")
}

/// Writes down that somebody could not join. A token of ours names him even after it has expired.
pub(super) fn turned_away(site: &Site, door: Door, room: &str, token: Option<&str>, problem: &Problem) {
    let name = token.and_then(|token| site.keys.verify_late(token).ok()).map(|claims| claims.name);
    let room = is_room_name(room).then_some(room);
    site.handle.logbook().refused(door, room, name.as_deref(), (problem.code(), problem.detail()));
}

/// The claims of a request's bearer, who may come into the room.
pub(super) fn admit(site: &Site, room: &str, headers: &HeaderMap, in_address: Option<&str>) -> Result<Claims, Problem> {
    if !is_room_name(room) {
        return Err(Problem::room_name());
    }
    admit_token(site, room, bearer(headers).or(in_address).ok_or(TokenError::Missing)?)
}

/// The claims of a token that is good for the room now.
fn admit_token(site: &Site, room: &str, token: &str) -> Result<Claims, Problem> {
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
        admin: claims.admin,
        expires_at: Some(claims.exp),
        issued_to: None,
        token: Some(claims.identity()),
    }
}

/// The token of `Authorization: Bearer …` (RFC 6750 §2.1); the scheme's name has no case.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Why a conversation ended.
enum End {
    /// The connection is gone: there is nobody to say anything to.
    Gone,
    /// We close, with this code and reason.
    Close(u16, &'static str),
    /// The same, after telling the client by a signal.
    TooMuch(u16, String),
}

async fn converse(mut websocket: WebSocket, site: &Site, room: &str, claims: Claims) {
    // A revocation comes into force before its removals stand in the engine's queue. So who passes here stands in that
    // queue before them and is removed, however long the upgrade took.
    if site.registry.is_revoked(room, &claims) {
        return close(&mut websocket, &site.limits, close_code::POLICY, "the token was revoked").await;
    }
    let Some((socket, mut outgoing)) = site.handle.open(room, grant(&claims)).await else {
        return close(&mut websocket, &site.limits, close_code::RESTART, "the server restarts").await;
    };
    let end = carry(&mut websocket, site, (socket, room), &mut outgoing).await;
    site.handle.close(socket).await;
    match end {
        End::Gone => {}
        End::Close(code, reason) => close(&mut websocket, &site.limits, code, reason).await,
        End::TooMuch(code, message) => {
            let signal = ServerSignal::Error { code: ErrorCode::TooMuch, message, fatal: true };
            if send(&mut websocket, &site.limits, Message::Text(text(&signal))).await.is_ok() {
                close(&mut websocket, &site.limits, code, "too much").await;
            }
        }
    }
}

/// Carries signals both ways until one side ends it.
async fn carry(
    websocket: &mut WebSocket,
    site: &Site,
    (socket, room): (SocketId, &str),
    outgoing: &mut mpsc::Receiver<ToSocket>,
) -> End {
    let limits = &site.limits;
    let mut pings = interval_at(tokio::time::Instant::now() + limits.ping_interval, limits.ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut budget = SocketBudget::new(limits, heard);
    let mut probed_until: Option<tokio::time::Instant> = None;
    loop {
        let message = tokio::select! {
            received = websocket.recv() => match received {
                None => return End::Gone,
                // Lost, not WebSocket, or a frame of more than `FRAME_LEN_FACTOR` limits.
                Some(Err(_)) => return End::Close(close_code::PROTOCOL, "not a frame that is accepted here"),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    probed_until = None;
                    // Boxed, so that a socket that waits does not hold the room for all that a signal may be.
                    match Box::pin(take(message, site, (socket, room), &mut budget, heard)).await {
                        Taken::Done => continue,
                        Taken::Answer(signal) => Message::Text(text(&signal)),
                        Taken::End(end) => return end,
                    }
                }
            },
            queued = outgoing.recv() => match queued {
                Some(ToSocket::Signal(signal)) => Message::Text(text(&signal)),
                Some(ToSocket::Probe) => {
                    probed_until.get_or_insert(tokio::time::Instant::now() + limits.probe_timeout);
                    Message::Ping
                }
                Some(ToSocket::Close(Closing::Done)) => return End::Close(close_code::NORMAL, ""),
                Some(ToSocket::Close(Closing::Restarting)) => {
                    return End::Close(close_code::RESTART, "the server restarts");
                }
                None => return End::Close(close_code::AGAIN, "signals are not being read fast enough"),
            },
            () = sleep_until(probed_until.unwrap_or_else(tokio::time::Instant::now)), if probed_until.is_some() => {
                return End::Close(close_code::AWAY, "neither media nor a pong came");
            }
            _ = pings.tick() => {
                if heard.elapsed() >= limits.idle_timeout {
                    return End::Close(close_code::AWAY, "nothing was heard for too long");
                }
                Message::Ping
            }
        };
        if send(websocket, limits, message).await.is_err() {
            return End::Gone;
        }
    }
}

/// What became of a frame.
enum Taken {
    Done,
    Answer(ServerSignal),
    End(End),
}

async fn take(
    message: Message,
    site: &Site,
    (socket, room): (SocketId, &str),
    budget: &mut SocketBudget,
    now: Instant,
) -> Taken {
    let limits = &site.limits;
    if matches!(message, Message::Close(..)) {
        return Taken::End(End::Gone); // The protocol layer has answered it.
    }
    let len = if let Message::Text(text) = &message { text.len() } else { 0 };
    let wait = budget.bytes.spend(now, len.max(FRAME_COST_MIN));
    if !wait.is_zero() {
        sleep(wait).await; // Nothing is read from the socket meanwhile.
    }
    let signal = match &message {
        Message::Text(text) if text.len() > limits.signal_len_max => {
            return Taken::End(End::TooMuch(close_code::SIZE, too_large(limits)));
        }
        Message::Text(text) => Some(serde_json::from_str::<ClientSignal>(text)),
        _ => None,
    };
    let is_candidate = matches!(signal, Some(Ok(ClientSignal::Candidate(_) | ClientSignal::Candidates { .. })));
    if !is_candidate && !budget.signals.take(now) {
        let limit = limits.signals_per_second;
        let message = format!("more than {limit} signals in a second, candidates aside: come again, and resume");
        return Taken::End(End::TooMuch(close_code::AGAIN, message));
    }
    match signal {
        Some(Ok(ClientSignal::Token { token })) => match admit_token(site, room, &token) {
            Ok(claims) => {
                site.handle.grant(socket, grant(&claims)).await;
                Taken::Done
            }
            Err(problem) => Taken::Answer(token_refused(&problem)),
        },
        Some(Ok(ClientSignal::Candidate(candidate))) => gathered(&[candidate]),
        Some(Ok(ClientSignal::Candidates { candidates })) => gathered(&candidates),
        Some(Ok(signal)) => {
            site.handle.signal(socket, signal).await;
            Taken::Done
        }
        Some(Err(error)) => Taken::Answer(bad_signal(format!("not a signal of this protocol: {error}"))),
        None if matches!(message, Message::Binary) => Taken::Answer(bad_signal("signals are text frames".to_owned())),
        None => Taken::Done,
    }
}

/// Candidates go no further: ICE-lite learns addresses from checks. A browser on a host with many networks has hundreds, so
/// they are not counted among the signals.
fn gathered(candidates: &[Candidate]) -> Taken {
    match candidates.iter().find(|candidate| !is_candidate(&candidate.candidate)) {
        None => Taken::Done,
        Some(_) => {
            let message = "the text of a candidate begins with `candidate:` (RFC 8839 section 5.1)".to_owned();
            Taken::Answer(ServerSignal::Error { code: ErrorCode::BadCandidate, message, fatal: false })
        }
    }
}

fn token_refused(problem: &Problem) -> ServerSignal {
    let message = format!("{}: {}", problem.code(), problem.detail());
    ServerSignal::Error { code: ErrorCode::TokenRefused, message, fatal: false }
}

fn bad_signal(message: String) -> ServerSignal {
    ServerSignal::Error { code: ErrorCode::BadSignal, message, fatal: false }
}

fn too_large(limits: &Limits) -> String {
    format!("a signal of more than {} bytes", limits.signal_len_max)
}

fn text(signal: &ServerSignal) -> String {
    serde_json::to_string(signal).expect("signals have nothing that JSON cannot say")
}

async fn send(websocket: &mut WebSocket, limits: &Limits, message: Message) -> Result<(), ()> {
    match timeout(limits.write_timeout, websocket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(()), // Gone, or not reading at all.
    }
}

/// Says goodbye and waits a moment for the answer, so that what was sent before is read and not reset away.
async fn close(websocket: &mut WebSocket, limits: &Limits, code: u16, reason: &'static str) {
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
    if send(websocket, limits, Message::Close(code, reason)).await.is_ok() {
        let answered = async { while let Some(Ok(_)) = websocket.recv().await {} };
        let _ = timeout(ANSWER_TIMEOUT, answered).await; // Whether it answered makes no difference.
    }
}

/// What a socket may still send.
#[derive(Debug)]
struct SocketBudget {
    /// Signals, all but candidates. Who sends more is told, and may come again.
    signals: Budget,
    /// Bytes of all frames: one signal of the largest size a second. Who sends more is read more slowly.
    bytes: Budget,
}

impl SocketBudget {
    fn new(limits: &Limits, now: Instant) -> SocketBudget {
        let bytes = u32::try_from(limits.signal_len_max).unwrap_or(u32::MAX);
        SocketBudget { signals: Budget::new(limits.signals_per_second, now), bytes: Budget::new(bytes, now) }
    }
}

/// A bucket that holds a second's worth.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(per_second: u32, now: Instant) -> Budget {
        Budget { per_second: f64::from(per_second), left: f64::from(per_second), at: now }
    }

    /// Whether it would be whole by now.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.left + now.duration_since(self.at).as_secs_f64() * self.per_second >= self.per_second
    }

    /// Takes one, if it is there.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let has_any = self.left >= 1.0;
        if has_any {
            self.left -= 1.0;
        }
        has_any
    }

    /// Takes so much in any case, and says how long it lasts until that is there.
    fn spend(&mut self, now: Instant, cost: usize) -> Duration {
        self.fill(now);
        self.left -= cost as f64;
        Duration::from_secs_f64((-self.left / self.per_second).max(0.0))
    }

    fn fill(&mut self, now: Instant) {
        let earned = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.at = now;
        self.left = (self.left + earned).min(self.per_second);
    }
}
