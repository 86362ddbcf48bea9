//! WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep): encoders and players that use HTTP instead of a signalling socket.
//!
//! `POST` of an offer makes a peer and is answered by the answer with all of our candidates and by the address of the
//! peer's **resource**, where `PATCH` trickles candidates and restarts ICE, and `DELETE` ends it. What a peer may do and
//! what becomes of it is the engine's business ([`ResourceRequest`]); this reads requests and says what came of them.
//!
//! A resource's address holds a secret, and is good without a token: some clients send theirs to the endpoint only
//! (docs/decisions/0027). A token that comes with it must be good, but may have expired since: who is in stays in, and must be
//! able to leave. With one that was revoked one can only leave.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::admission::{ENGINE_TIMEOUT, OFFER_COST, admit, bearer, denied, engine_busy, grant, owner_of, turned_away};
use super::error::Problem;
use super::places::Turns;
use super::proxies::Base;
use super::{Client, Site};
use crate::auth::{ANY_NAME, Claims, NAME_RULE, TokenError, id_of, is_participant_name, is_room_name};
use crate::engine::{Grant, ResourceReply, ResourceRequest};
use crate::happening;
use crate::limited::{Owner, What};
use crate::sdp::{self, Fragment, IceCredentials, SDP_LEN_MAX};

/// Media type of offers and answers.
const SDP: &str = "application/sdp";

/// Media type of trickled candidates and ICE restarts (RFC 8840 §9).
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// What marks the address of a request that another edge has sent here.
const REDIRECTED: &str = "redirected=1";

/// How long a body may take, from the end of the head.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a page of another origin may read of an answer (Fetch §3.2).
const EXPOSED: &str = "Location, ETag, Link, Accept-Post, Accept-Patch, Allow, Retry-After, WWW-Authenticate";

/// What a page of another origin may send.
const ALLOWED_HEADERS: &str = "Authorization, Content-Type, If-Match";

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Protocol {
    /// The client sends.
    Whip,
    /// The client receives.
    Whep,
}

impl Protocol {
    fn path(self) -> &'static str {
        match self {
            Protocol::Whip => "whip",
            Protocol::Whep => "whep",
        }
    }

    /// As the operator's log names it.
    fn access(self) -> happening::Access {
        match self {
            Protocol::Whip => happening::Access::Whip,
            Protocol::Whep => happening::Access::Whep,
        }
    }
}

/// `/whip/{room}`: the peer is named by the token.
pub(super) async fn whip(State(site): State<Arc<Site>>, Path(room): Path<String>, request: Request<Body>) -> Response {
    endpoint(&site, Protocol::Whip, &room, None, request).await
}

/// `/whip/{room}/{peer}`: the peer is named by the address.
pub(super) async fn whip_as(
    State(site): State<Arc<Site>>,
    Path((room, peer)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    endpoint(&site, Protocol::Whip, &room, Some(&peer), request).await
}

/// `/whep/{room}`: everybody.
pub(super) async fn whep(State(site): State<Arc<Site>>, Path(room): Path<String>, request: Request<Body>) -> Response {
    endpoint(&site, Protocol::Whep, &room, None, request).await
}

/// `/whep/{room}/{peer}[,{peer}…]`: these.
pub(super) async fn whep_of(
    State(site): State<Arc<Site>>,
    Path((room, peers)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    endpoint(&site, Protocol::Whep, &room, Some(&peers), request).await
}

/// `/whip/{room}/sessions/{resource}` and `/whep/…`: one peer. Both protocols share it: the id says which peer it is.
pub(super) async fn resource(
    State(site): State<Arc<Site>>,
    Path((room, resource)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    const METHODS: &str = "PATCH, DELETE, OPTIONS";
    let answer = match *request.method() {
        Method::PATCH => patch(&site, room, resource, request).await,
        Method::DELETE => delete(&site, room, resource, request.headers()).await,
        Method::OPTIONS => Ok(StatusCode::OK.into_response()),
        _ => Err(method_not_allowed(METHODS)),
    };
    finish(answer, METHODS, (HeaderName::from_static("accept-patch"), FRAGMENT))
}

async fn endpoint(
    site: &Site,
    protocol: Protocol,
    room: &str,
    peers: Option<&str>,
    request: Request<Body>,
) -> Response {
    const METHODS: &str = "POST, OPTIONS";
    let answer = match *request.method() {
        Method::POST => {
            let token = bearer(request.headers()).map(str::to_owned);
            let answer = post(site, protocol, room, peers, request).await;
            if let Err(problem) = &answer {
                turned_away(site, protocol.access(), room, token.as_deref(), problem);
            }
            answer
        }
        Method::OPTIONS => Ok(StatusCode::OK.into_response()),
        _ => Err(method_not_allowed(METHODS)),
    };
    finish(answer, METHODS, (HeaderName::from_static("accept-post"), SDP))
}

/// An offer: a peer is made and gets a resource.
async fn post(
    site: &Site,
    protocol: Protocol,
    room: &str,
    peers: Option<&str>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    // The source first: who guesses tokens is limited too.
    if let Some(Client(source)) = request.extensions().get::<Client>() {
        take_turn(site, &site.posts[0], source)?;
    }
    let claims = admit(site, room, request.headers(), None)?;
    take_turn(site, &site.posts[1], &Owner::Token(claims.identity()))?;
    site.signals.wait(&owner_of(&claims), OFFER_COST).await;
    let mut grant = grant(&claims);
    let from = narrow(&mut grant, protocol, peers)?;
    let headers = request.headers().clone();
    check_content_type(&headers, SDP)?;
    check_accept(&headers)?;
    if let Some(location) = elsewhere(site, request.uri()) {
        return Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, value(&location))]).into_response());
    }
    let base = request.extensions().get::<Base>().cloned().unwrap_or_default();
    let sdp = text_of(request).await?;
    if site.registry.is_revoked(room, &claims) {
        return Err(TokenError::Revoked.into()); // While the body came. From here on the engine's queue keeps the order.
    }
    let reply = ask(site, ResourceRequest::Open { room: room.to_owned(), grant, from, sdp }).await?;
    let ResourceReply::Opened { resource, sdp, tag, stun } = reply else { return Err(engine_busy()) };
    let location = location(&base, protocol, room, peers.is_some(), &resource);
    let mut response = (StatusCode::CREATED, sdp).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP));
    headers.insert(header::LOCATION, value(&location));
    headers.insert(header::ETAG, value(&format!("\"{tag}\"")));
    if let Some(stun) = stun {
        headers.insert(header::LINK, value(&format!("<{stun}>; rel=\"ice-server\"")));
    }
    Ok(response)
}

/// The same address at another edge, where the client is to offer instead. Never twice: who was sent here stays.
fn elsewhere(site: &Site, asked: &Uri) -> Option<String> {
    let query = asked.query().unwrap_or_default();
    if query.split('&').any(|part| part == REDIRECTED) {
        return None;
    }
    let between = if query.is_empty() { "" } else { "&" };
    Some(format!("{}{}?{query}{between}{REDIRECTED}", site.relief()?.as_str(), asked.path()))
}

/// One offer of so many a second.
fn take_turn(site: &Site, turns: &Turns, owner: &Owner) -> Result<(), Problem> {
    if turns.take(owner, 1) {
        return Ok(());
    }
    site.limited.note(What::Post, owner);
    let detail = format!("too many offers in a second from this {}", owner.kind_name());
    Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail))
}

/// Leaves of the token's grant what the protocol is for, takes the name from the address, or whom to receive.
fn narrow(grant: &mut Grant, protocol: Protocol, peers: Option<&str>) -> Result<Vec<String>, Problem> {
    let is_allowed = match protocol {
        Protocol::Whip => grant.publish,
        Protocol::Whep => grant.subscribe,
    };
    if !is_allowed {
        let what = if protocol == Protocol::Whip { "publish" } else { "subscribe" };
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", format!("the token does not allow to {what}")));
    }
    (grant.publish, grant.subscribe) = (protocol == Protocol::Whip, protocol == Protocol::Whep);
    let Some(peers) = peers else { return Ok(Vec::new()) };
    let names: Vec<&str> = if protocol == Protocol::Whep { peers.split(',').collect() } else { vec![peers] };
    if !names.iter().all(|name| is_participant_name(name)) {
        let detail = format!("a peer's name is {NAME_RULE}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "peer_name", detail));
    }
    if protocol == Protocol::Whip {
        rename(grant, peers)?;
        return Ok(Vec::new());
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// The name of the address: the token's own, or any if the token says so. Else who may come in could come in as somebody.
fn rename(grant: &mut Grant, name: &str) -> Result<(), Problem> {
    if grant.name == name {
        return Ok(());
    }
    if grant.name != ANY_NAME && !grant.admin {
        let detail = "the token is for another name; one whose name is * publishes under any";
        return Err(Problem::new(StatusCode::FORBIDDEN, "other_name", detail));
    }
    grant.issued_to = Some(id_of(&std::mem::replace(&mut grant.name, name.to_owned())));
    Ok(())
}

/// Candidates, or an ICE restart (RFC 9725 §4.3).
async fn patch(site: &Site, room: String, resource: String, request: Request<Body>) -> Result<Response, Problem> {
    if let Some(claims) = check_bearer(site, &room, request.headers())?
        && site.registry.is_revoked(&room, &claims)
    {
        return Err(TokenError::Revoked.into());
    }
    check_content_type(request.headers(), FRAGMENT)?;
    let tags = if_match(request.headers())?;
    let text = text_of(request).await?;
    let fragment = sdp::parse_fragment(&text)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_sdp", error.to_string()))?;
    let mid = fragment.mid;
    let reply = match tags {
        Some(tags) => ask(site, ResourceRequest::Trickle { room, resource, tags }).await?,
        None => ask(site, ResourceRequest::Restart { room, resource, fragment: with_credentials(fragment)? }).await?,
    };
    Ok(match reply {
        ResourceReply::Restarted { tag, ufrag, pwd, candidates } => {
            let body = sdp::write_fragment(&IceCredentials { ufrag, pwd }, &mid, &candidates);
            let headers = [(header::CONTENT_TYPE, value(FRAGMENT)), (header::ETAG, value(&format!("\"{tag}\"")))];
            (StatusCode::OK, headers, body).into_response()
        }
        _ => StatusCode::NO_CONTENT.into_response(),
    })
}

/// A restart is one of both sides.
fn with_credentials(fragment: Fragment) -> Result<Fragment, Problem> {
    match fragment.ice {
        Some(_) => Ok(fragment),
        None => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "bad_sdp",
            "If-Match \"*\" asks for an ICE restart, for which the fragment must have a=ice-ufrag and a=ice-pwd",
        )),
    }
}

async fn delete(site: &Site, room: String, resource: String, headers: &HeaderMap) -> Result<Response, Problem> {
    check_bearer(site, &room, headers)?;
    ask(site, ResourceRequest::Close { room, resource }).await?;
    Ok(StatusCode::OK.into_response())
}

/// The claims of a bearer who may use a resource of the room whose id it knows. They may have expired. `None` for who brings
/// no token: the address is a secret of 256 bits, which is enough (docs/decisions/0027). A token that is brought must be good.
fn check_bearer(site: &Site, room: &str, headers: &HeaderMap) -> Result<Option<Claims>, Problem> {
    if !is_room_name(room) {
        return Err(Problem::room_name());
    }
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(None);
    }
    match site.keys.verify_late(bearer(headers).ok_or(TokenError::Missing)?)? {
        claims if claims.is_for(room) => Ok(Some(claims)),
        _ => Err(Problem::wrong_room()),
    }
}

/// Asks the engine and says in HTTP what it denies.
async fn ask(site: &Site, request: ResourceRequest) -> Result<ResourceReply, Problem> {
    match timeout(ENGINE_TIMEOUT, site.handle.ask_resource(request)).await {
        Ok(Some(Ok(reply))) => Ok(reply),
        Ok(Some(Err(denial))) => Err(denied(denial)),
        Ok(None) | Err(_) => Err(engine_busy()),
    }
}

fn method_not_allowed(methods: &str) -> Problem {
    let detail = format!("this address answers {methods}");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// What every answer carries: the methods, what may be sent, and leave for pages of any origin, which
/// [`super::origins`] narrows where the operator names some.
fn finish(answer: Result<Response, Problem>, methods: &'static str, accepts: (HeaderName, &'static str)) -> Response {
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    let fixed = [
        (header::ALLOW, methods),
        accepts,
        (header::CACHE_CONTROL, "no-store"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    for (name, text) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(text));
    }
    response
}

fn check_content_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match media_type(given).eq_ignore_ascii_case(wanted) {
        true => Ok(()),
        false => {
            let detail = format!("the body must be {wanted}");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail))
        }
    }
}

/// Whether the client takes an SDP for an answer (RFC 9110 §12.5.1; weights do not matter, as there is one type only).
fn check_accept(headers: &HeaderMap) -> Result<(), Problem> {
    let mut ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
    let is_taken = |range: &str| {
        let range = media_type(range);
        ["*/*", "application/*", SDP].iter().any(|known| range.eq_ignore_ascii_case(known))
    };
    if ranges.peek().is_none() || ranges.flat_map(|ranges| ranges.split(',')).any(is_taken) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", "the answer is application/sdp and nothing else"))
}

/// A media type or range without its parameters.
fn media_type(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

/// The entity tags of `If-Match`, or `None` for any: RFC 9725 writes `"*"`, RFC 9110 §13.1.1 without the quotes.
fn if_match(headers: &HeaderMap) -> Result<Option<Vec<String>>, Problem> {
    let mut tags = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let text = value.to_str().unwrap_or_default();
        for tag in text.split(',').map(str::trim) {
            match tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) {
                Some("*") => return Ok(None),
                Some(tag) => tags.push(tag.to_owned()),
                None if tag == "*" => return Ok(None),
                None => {} // A weak tag never matches strongly (RFC 9110 §8.8.3.2).
            }
        }
    }
    if headers.contains_key(header::IF_MATCH) {
        return Ok(Some(tags));
    }
    Err(Problem::new(
        StatusCode::PRECONDITION_REQUIRED,
        "tag_missing",
        "If-Match must name the ICE session by its ETag, or be \"*\" for an ICE restart",
    ))
}

/// The body as text, bounded in length and time.
async fn text_of(request: Request<Body>) -> Result<String, Problem> {
    let bytes = match timeout(BODY_TIMEOUT, to_bytes(request.into_body(), SDP_LEN_MAX)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let detail = format!("the body is longer than {SDP_LEN_MAX} bytes, or broke off");
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_much", detail));
        }
        Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "the body did not come in time")),
    };
    String::from_utf8(bytes.into())
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "bad_sdp", "the body is not UTF-8"))
}

/// The address of a session: absolute where it is known how the client reached us, else relative to the endpoint that it
/// asked, which is right behind any proxy (RFC 9110 §10.2.2).
fn location(base: &Base, protocol: Protocol, room: &str, has_peers: bool, resource: &str) -> String {
    match &base.0 {
        Some(base) => format!("{base}/{}/{room}/sessions/{resource}", protocol.path()),
        None if has_peers => format!("sessions/{resource}"),
        None => format!("{room}/sessions/{resource}"),
    }
}

/// A header's value of ours: tags, addresses and media types are ASCII.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("what we write into headers is visible ASCII")
}
