//! The signalling socket: `GET /v1/rooms/{room}/signal`, one JSON signal in each text frame (docs/PROTOCOL.md).
//!
//! Room name, token, room of the token and upgrade are checked here, in this order and each with its own answer, so that
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
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until, timeout};

use super::admission::{
    ENGINE_TIMEOUT, OFFER_COST, admit, admit_to_ask, admit_token, bearer, denied, engine_busy, grant, owner_of,
    turned_away,
};
use super::error::Problem;
use super::origins;
use super::places::Ticket;
use super::websocket::{self, Bounds, Message, close_code};
use super::{Client, Limits, Site};
use crate::auth::Claims;
use crate::bucket::TokenBucket;
use crate::driver::{Closing, Outlet, Queued, text_of};
use crate::engine::SocketId;
use crate::happening::Access;
use crate::ice::is_candidate;
use crate::limited::{Owner, What};

/// How much longer than the limit a frame may be and still be answered by an error instead of a torn connection.
const FRAME_LEN_FACTOR: usize = 2;

/// Frames that are handled before the other tasks have their turn.
const FRAMES_PER_TURN_MAX: u32 = 16;

/// Bytes of a signal that count as one more ([`Limits::all_signal_costs_per_second`]).
const COST_LEN: usize = 4096;

/// A signalling socket.
type WebSocket = websocket::WebSocket<TokioIo<Upgraded>>;

/// What the address may carry.
#[derive(Deserialize)]
pub(super) struct Parameters {
    token: Option<String>,
    /// There with any value: the request only asks whether a newcomer would be let in.
    ask: Option<String>,
}

/// The address of the signalling socket.
pub(super) async fn signal(
    State(site): State<Arc<Site>>,
    Path(room): Path<String>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
    (method, headers): (Method, HeaderMap),
    upgrade: Option<Extension<OnUpgrade>>,
    client: Option<Extension<Client>>,
) -> Response {
    let (in_address, asks) = match parameters {
        Ok(Query(Parameters { token, ask })) => (token, ask.is_some()),
        Err(_) => (None, false),
    };
    let token = bearer(&headers).or(in_address.as_deref());
    let admit = if asks && !headers.contains_key(header::UPGRADE) { admit_to_ask } else { admit };
    let answer =
        match origins::admit(&site, &headers).and_then(|()| admit(&site, &room, &headers, in_address.as_deref())) {
            Ok(claims) => {
                let source = client.map(|Extension(Client(source))| source);
                let_in(&site, &room, (claims, source), (&method, &headers), asks, upgrade).await
            }
            Err(problem) => Err(problem.at_socket()),
        };
    answer.unwrap_or_else(|problem| {
        // A browser whose socket was refused asks once more to read why: that is no other try to join.
        if asks || headers.contains_key(header::UPGRADE) {
            turned_away(&site, Access::Socket, &room, token, &problem);
        }
        problem.into_response()
    })
}

/// The answer to somebody whose token is good: an upgrade, or what came of asking.
async fn let_in(
    site: &Arc<Site>,
    room: &str,
    (claims, source): (Claims, Option<Owner>),
    (method, headers): (&Method, &HeaderMap),
    asks: bool,
    upgrade: Option<Extension<OnUpgrade>>,
) -> Result<Response, Problem> {
    let token = Owner::Token(claims.identity());
    let owner = [Owner::Room(claims.room.clone()), source.unwrap_or_else(|| token.clone()), token];
    let Some((answer, Extension(upgrade))) = websocket::shake_hands(method, headers).zip(upgrade) else {
        if headers.contains_key(header::SEC_WEBSOCKET_KEY) && !websocket::has_key(headers) {
            let detail = "Sec-WebSocket-Key is not one key of 16 bytes in base64 (RFC 6455 section 4.2.1)";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "websocket_key", detail));
        }
        without_upgrade(site, room, &claims, owner).await?;
        return if asks { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(Problem::upgrade_required()) };
    };
    let (ticket, given) = site.sockets.enter(owner);
    if let Some([.., token]) = given {
        site.limited.note(What::Socket, &token);
    }
    let ticket = ticket.ok_or_else(sockets_full)?;
    let bounds = Bounds { len_max: site.limits.signal_len_max * FRAME_LEN_FACTOR, pace: site.limits.pace() };
    let lease = site.memory.lease(owner_of(&claims));
    let (site, room) = (site.clone(), room.to_owned());
    tokio::spawn(async move {
        // It fails if the client has gone before it was answered.
        if let Ok(upgraded) = upgrade.await {
            converse(WebSocket::new(TokioIo::new(upgraded), bounds, lease), &site, &room, claims, ticket).await;
        }
    });
    Ok(answer)
}

/// What an offer of this bearer would be refused for now, to a request that is no WebSocket's. A WebSocket itself is not
/// refused for it, because it may bring a `resume`, which needs no place.
async fn without_upgrade(site: &Site, room: &str, claims: &Claims, owner: [Owner; 3]) -> Result<(), Problem> {
    if !site.sockets.admits(owner) {
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

/// Why a conversation ended.
enum End {
    /// The connection is gone: there is nobody to say anything to.
    Gone,
    /// We close, with this code and reason.
    Close(u16, &'static str),
    /// The same, after telling the client by a signal.
    TooMuch(u16, String),
}

async fn converse(mut websocket: WebSocket, site: &Site, room: &str, claims: Claims, mut ticket: Ticket<3>) {
    // A revocation comes into force before its removals stand in the engine's queue. So who passes here stands in that
    // queue before them and is removed, however long the upgrade took.
    if site.registry.is_revoked(room, &claims) {
        return close(&mut websocket, &site.limits, close_code::POLICY, "the token was revoked").await;
    }
    let Some((socket, mut outgoing)) = site.handle.open(room, grant(&claims)).await else {
        return close(&mut websocket, &site.limits, close_code::RESTART, "the server restarts").await;
    };
    let end = tokio::select! {
        end = carry(&mut websocket, site, (socket, room), &claims, &mut outgoing) => end,
        () = ticket.displaced() => End::Close(close_code::AGAIN, "others need sockets, and your room or token has most"),
    };
    site.handle.close(socket).await;
    match end {
        End::Gone => {}
        End::Close(code, reason) => close(&mut websocket, &site.limits, code, reason).await,
        End::TooMuch(code, message) => {
            let signal = ServerSignal::Error { code: ErrorCode::TooMuch, message, fatal: true };
            if send(&mut websocket, &site.limits, Message::Text(text_of(&signal))).await.is_ok() {
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
    claims: &Claims,
    outgoing: &mut Outlet,
) -> End {
    let limits = &site.limits;
    let owner = owner_of(claims);
    let mut frames = 0;
    let mut pings = interval_at(tokio::time::Instant::now() + limits.ping_interval, limits.ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut received_at = Instant::now();
    let mut budget = SocketBudget::new(limits);
    let mut probed_until: Option<tokio::time::Instant> = None;
    loop {
        let mut charge = None; // Memory of the signal that is being sent.
        let message = tokio::select! {
            received = websocket.recv() => match received {
                None => return End::Gone,
                Some(Err(error)) => {
                    match error {
                        websocket::Error::NoMemory => site.limited.note(What::Memory, &owner),
                        websocket::Error::TooManyFrames | websocket::Error::TooSlow => {
                            site.limited.note(What::Message, &owner);
                        }
                        _ => {}
                    }
                    return error.close().map_or(End::Gone, |(code, reason)| End::Close(code, reason));
                }
                Some(Ok(message)) => {
                    received_at = Instant::now();
                    probed_until = None;
                    frames += 1;
                    if frames % FRAMES_PER_TURN_MAX == 0 {
                        tokio::task::yield_now().await;
                    }
                    let cost = websocket.take_cost();
                    // Boxed, so that a socket that waits does not hold the room for all that a signal may be.
                    match Box::pin(take((message, cost), site, (socket, room, &owner), &mut budget, received_at)).await {
                        Taken::Done => continue,
                        Taken::Answer(signal) => Message::Text(text_of(&signal)),
                        Taken::End(end) => return end,
                    }
                }
            },
            queued = outgoing.recv() => match queued {
                Some(Queued::Signal(signal)) => {
                    let (text, its_memory) = signal.into_parts();
                    charge = Some(its_memory);
                    Message::Text(text)
                }
                Some(Queued::Probe) => {
                    probed_until.get_or_insert(tokio::time::Instant::now() + limits.probe_timeout);
                    Message::Ping
                }
                Some(Queued::Close(Closing::Done)) => return End::Close(close_code::NORMAL, ""),
                Some(Queued::Close(Closing::Restarting)) => {
                    return End::Close(close_code::RESTART, "the server restarts");
                }
                None => return End::Close(close_code::AGAIN, "signals are not being read fast enough"),
            },
            () = sleep_until(probed_until.unwrap_or_else(tokio::time::Instant::now)), if probed_until.is_some() => {
                return End::Close(close_code::AWAY, "neither media nor a pong came");
            }
            _ = pings.tick() => {
                if received_at.elapsed() >= limits.idle_timeout {
                    return End::Close(close_code::AWAY, "nothing was received for too long");
                }
                Message::Ping
            }
        };
        let sent = send(websocket, limits, message).await;
        drop(charge);
        if sent.is_err() {
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
    (message, cost): (Message, usize),
    site: &Site,
    (socket, room, owner): (SocketId, &str, &Owner),
    budget: &mut SocketBudget,
    now: Instant,
) -> Taken {
    let limits = &site.limits;
    if matches!(message, Message::Close(..)) {
        return Taken::End(End::Gone); // The protocol layer has answered it.
    }
    let wait = budget.bytes.spend(now, cost);
    if !wait.is_zero() {
        sleep(wait).await; // Nothing is read from the socket meanwhile.
    }
    if matches!(message, Message::Part) {
        return Taken::Done;
    }
    if let Message::Text(text) = &message
        && site.signals.wait(owner, 1 + (text.len() / COST_LEN) as u32).await
    {
        site.limited.note(What::Signal, owner);
    }
    let signal = match &message {
        Message::Text(text) if text.len() > limits.signal_len_max => {
            return Taken::End(End::TooMuch(close_code::SIZE, too_large(limits)));
        }
        Message::Text(text) => Some(serde_json::from_str::<ClientSignal>(text)),
        _ => None,
    };
    // Candidates and data are bounded by their bytes, and by what all signals of an owner cost.
    let is_free = matches!(
        signal,
        Some(Ok(ClientSignal::Candidate(_)
            | ClientSignal::Candidates { .. }
            | ClientSignal::Data(_)
            | ClientSignal::DataAck { .. }))
    );
    if !is_free && !budget.signals.take(now) {
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
            if matches!(signal, ClientSignal::Offer { .. }) && site.signals.wait(owner, OFFER_COST).await {
                site.limited.note(What::Signal, owner);
            }
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
    signals: TokenBucket,
    /// Bytes of all frames: one signal of the largest size a second. Who sends more is read more slowly.
    bytes: TokenBucket,
}

impl SocketBudget {
    fn new(limits: &Limits) -> SocketBudget {
        let bytes = u32::try_from(limits.signal_len_max).unwrap_or(u32::MAX);
        SocketBudget {
            signals: TokenBucket::per_second(limits.signals_per_second),
            bytes: TokenBucket::per_second(bytes),
        }
    }
}
