//! The HTTP server: the page and its files, the signalling socket, health, readiness and metrics. The only code that knows
//! axum.
//!
//! A call begins here: `socket` checks the token once, then hands signals to the engine's task and back; `whip` does
//! so for those who come without a socket. Nothing here decides anything about rooms. TLS uses the certificate
//! that the operator gives ([`crate::tls`]), or by a proxy in front (docs/OPERATING.md).
//!
//! Everything has a limit ([`Limits`]): connections, the time for a request's head and its size, the size and rate
//! of signals, the time a socket may be silent, and what may wait for it.

mod admission;
mod desk;
mod edges;
mod error;
mod ice_tcp;
mod neighbour;
mod origins;
mod pace;
mod pages;
mod people;
mod places;
mod proxies;
mod public_url;
mod rest;
mod serve;
mod socket;
mod websocket;
mod whip;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::net::TcpStream;

use self::desk::Desk;
use self::error::Problem;
use self::origins::Origins;
pub use self::origins::{ORIGINS_MAX, is_origin};
use self::pace::Pace;
use self::places::{Places, Turns};
pub use self::proxies::{NETWORKS_MAX, Network};
pub use self::public_url::PublicUrl;
pub use self::rest::answer_nodes;
pub use self::serve::{listen, serve};
#[doc(hidden)]
pub use self::websocket::read_all as read_websocket;
use crate::administering::Administering;
use crate::auth::TokenKeys;
use crate::driver::Handle;
use crate::limited::{Limited, Owner, What};
use crate::memory::Memory;
use crate::nodes::Nodes;
use crate::rates::Rule;
use crate::registry::Registry;
use crate::shares::Gives;
use crate::tls::Tls;
use crate::{metrics, stun_server};

/// Limits of the HTTP server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// TCP connections that are being served, sockets not counted. One more displaces the one that has not been used for longest of the
    /// source that holds most.
    pub connections_max: usize,
    /// TLS handshakes under way. One more displaces the oldest of the source that has most.
    pub tls_half_open_max: usize,
    /// Signalling sockets. One more is refused, or displaces the newest of an owner that holds more: room against room, in a room source
    /// against source, of a source token against token. The engine has its own limit; this one bounds the tasks.
    pub sockets_max: usize,
    /// From the first byte of a connection, or the end of the previous answer, until a request's head is whole. A TLS
    /// handshake before that may take as long.
    pub head_timeout: Duration,
    /// Bytes of a request's head. A token has about 300, browsers send about 1 KiB.
    pub head_len_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Bytes of one signal. Chromium's offer for eight participants has 19 to 60 KiB, the SDP parser takes 256.
    pub signal_len_max: usize,
    /// Signals of one socket per second, candidates aside; a burst of as many is allowed.
    pub signals_per_second: u32,
    /// REST requests per second of one token for `*`, and of the tokens of one room together; a burst of as many is allowed.
    pub requests_per_second: u32,
    /// How often a socket is pinged (RFC 6455 §5.5.2), so that proxies and both ends see that it lives.
    pub ping_interval: Duration,
    /// How long a socket may be silent. Three pings.
    pub idle_timeout: Duration,
    /// How long a socket may take to answer a ping when nothing comes by its peer's media path any more. A round trip, and time
    /// for TCP to repeat what was lost; who is slower connects again and resumes.
    pub probe_timeout: Duration,
    /// How long one write to a socket may take, and how long a client may take nothing of its answers.
    pub write_timeout: Duration,
    /// Bytes a second that a client must take of its answers, or send of a message, on the average. GPRS had 4 KiB/s.
    pub bytes_per_second_min: u32,
    /// HTTP requests of one source per second; more wait. A page and its files are 25.
    pub source_requests_per_second: u32,
    /// HTTP requests of all together. One costs 50 to 500 µs, and the engine runs on the same thread.
    pub all_requests_per_second: u32,
    /// TLS handshakes of all together per second; more wait. One costs about 0.2 ms.
    pub all_tls_handshakes_per_second: u32,
    /// What signals of all sockets may cost per second: one for a signal and each of its 4 KiB, and eight for an offer, which costs
    /// about 1 ms. More are read later. One owner may have four fifths of it.
    pub all_signal_costs_per_second: u32,
    /// Offers of WHIP and WHEP of one token per second, and 25 times as many of one source, which may be an office or a load
    /// generator.
    pub posts_per_second: u32,
    /// How busy this edge may be before WHIP and WHEP are sent to another one of its region, percent; 0: they never are.
    pub redirect_above: u32,
    /// Bytes for messages of sockets that are not whole yet: 32 of the longest signals. Who finds none free waits.
    pub message_memory_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            tls_half_open_max: 256,
            sockets_max: 4096,
            head_timeout: Duration::from_secs(10),
            head_len_max: 16 * 1024,
            headers_max: 64,
            signal_len_max: 256 * 1024,
            signals_per_second: 50,
            requests_per_second: 50,
            ping_interval: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(45),
            probe_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            bytes_per_second_min: 4 * 1024,
            source_requests_per_second: 400,
            all_requests_per_second: 1_000,
            all_tls_handshakes_per_second: 1_000,
            all_signal_costs_per_second: 10_000,
            posts_per_second: 20,
            redirect_above: 0,
            message_memory_max: 8 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// How slowly a client may take what it asked for.
    fn pace(&self) -> Pace {
        Pace { grace: self.write_timeout, least: self.bytes_per_second_min }
    }

    fn requests(&self) -> Rule {
        Rule { per_owner: self.source_requests_per_second, total: self.all_requests_per_second, assured: 0 }
    }

    fn tls_handshakes(&self) -> Rule {
        Rule { per_owner: self.all_tls_handshakes_per_second, total: self.all_tls_handshakes_per_second, assured: 0 }
    }

    fn signal_costs(&self) -> Rule {
        let total = self.all_signal_costs_per_second;
        Rule { per_owner: total / 5 * 4, total, assured: 0 }
    }

    /// Of sources.
    fn posts(&self) -> Rule {
        let per_owner = self.posts_per_second.saturating_mul(25);
        Rule { per_owner, total: self.all_requests_per_second, assured: 0 }
    }

    fn posts_of_token(&self) -> Rule {
        Rule { per_owner: self.posts_per_second, ..self.posts() }
    }

    /// Of admin tokens.
    fn rest(&self) -> Rule {
        Rule {
            per_owner: self.requests_per_second,
            total: self.all_requests_per_second.max(self.requests_per_second),
            assured: 0,
        }
    }
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Audience {
    /// Who asks from this machine, and not through a proxy that says so.
    #[default]
    Machine,
    /// Every client that reaches the server.
    All,
    /// Who brings an admin token for `*`.
    Admin,
}

/// What an operator sets of the HTTP server.
#[derive(Debug)]
pub struct SiteSettings {
    /// Rooms and revocations.
    pub registry: Arc<Registry>,
    /// One change of the registry at a time.
    pub administering: Arc<Administering>,
    /// Origins of pages, `*` for any; see docs/OPERATING.md for what each of them means.
    pub cors_origins: Vec<String>,
    /// Origins of pages that may show the meeting page in a frame, `*` for any. None: no page may.
    pub frame_origins: Vec<String>,
    /// From which networks what a proxy says of its client is believed.
    pub trusted_proxies: Vec<Network>,
    /// The certificate for TLS.
    pub tls: Option<Arc<Tls>>,
    /// Who may read `/metrics`.
    pub metrics: Audience,
    /// Where clients reach the server, if the operator says so.
    pub public_url: Option<PublicUrl>,
    /// Whether a connection may be ICE, for a worker of the dataplane (RFC 6544).
    pub takes_ice_tcp: bool,
    /// The cluster's nodes, if this is one of them.
    pub nodes: Option<Arc<Nodes>>,
}

impl Default for SiteSettings {
    fn default() -> Self {
        SiteSettings {
            registry: Arc::default(),
            administering: Arc::default(),
            cors_origins: Vec::new(),
            frame_origins: Vec::new(),
            trusted_proxies: Network::LOOPBACK.into(),
            public_url: None,
            tls: None,
            metrics: Audience::default(),
            takes_ice_tcp: false,
            nodes: None,
        }
    }
}

/// Half a year, without subdomains, which may be of others (RFC 6797 §6.1).
const HSTS: &str = "max-age=15768000";

/// To whom a request is charged: its client, as far as a trusted proxy says who that is, else who holds the connection.
#[derive(Clone, Debug)]
struct Client(Owner);

/// Where a request comes from: the other end of its connection, which may be a proxy.
#[derive(Clone, Copy, Debug)]
struct Caller {
    remote: Option<SocketAddr>,
    /// Our own end.
    local: Option<SocketAddr>,
    /// From this machine, perhaps by a proxy on it.
    is_near: bool,
}

impl Caller {
    fn of(stream: &TcpStream) -> Caller {
        let (remote, local) = (stream.peer_addr().ok(), stream.local_addr().ok());
        let is_near = remote.zip(local).is_some_and(|(remote, local)| {
            let (remote, local) = (remote.ip().to_canonical(), local.ip().to_canonical());
            remote.is_loopback() || remote == local
        });
        Caller { remote, local, is_near }
    }
}

/// How often what could not be written down is written again.
pub const SAVE_INTERVAL: Duration = Duration::from_secs(30);

/// What every request may need.
#[derive(Debug)]
pub struct Site {
    handle: Handle,
    keys: Arc<TokenKeys>,
    registry: Arc<Registry>,
    origins: Origins,
    /// Who may frame the page; see [`SiteSettings::frame_origins`].
    framers: Origins,
    trusted_proxies: Vec<Network>,
    tls: Option<Arc<Tls>>,
    audience: Audience,
    public_url: Option<PublicUrl>,
    takes_ice_tcp: bool,
    nodes: Option<Arc<Nodes>>,
    /// One change of the registry at a time, with the order that goes with it.
    administering: Arc<Administering>,
    /// REST requests, by admin token.
    rest: Turns,
    /// HTTP requests, by source.
    requests: Turns,
    /// Signals, by room or token.
    signals: Turns,
    /// Offers of WHIP and WHEP, by source and by token.
    posts: [Turns; 2],
    stun: Arc<stun_server::Counts>,
    limits: Limits,
    limited: Arc<Limited>,
    /// Room, source, token: guests of an invitation get tokens as they like, but not addresses.
    sockets: Places<3>,
    /// For messages of sockets that are not whole yet.
    memory: Arc<Memory>,
    /// What other processes do for rooms.
    services: Desk,
}

impl Site {
    /// A site whose signals go to `handle` and whose tokens are checked by `keys`. What operators decide is forgotten
    /// with it.
    pub fn new(
        handle: Handle,
        keys: impl Into<TokenKeys>,
        stun: Arc<stun_server::Counts>,
        limits: Limits,
    ) -> Arc<Site> {
        Self::with(handle, keys.into(), stun, limits, SiteSettings::default())
    }

    /// A site with these settings.
    pub fn with(
        handle: Handle,
        keys: impl Into<Arc<TokenKeys>>,
        stun: Arc<stun_server::Counts>,
        limits: Limits,
        settings: SiteSettings,
    ) -> Arc<Site> {
        let SiteSettings {
            registry,
            administering,
            cors_origins,
            frame_origins,
            trusted_proxies,
            public_url,
            tls,
            metrics: audience,
            takes_ice_tcp,
            nodes,
        } = settings;
        let (origins, framers) = (Origins::new(cors_origins), Origins::new(frame_origins));
        Arc::new(Site {
            handle,
            keys: keys.into(),
            registry,
            origins,
            framers,
            trusted_proxies,
            public_url,
            takes_ice_tcp,
            nodes,
            tls,
            audience,
            administering,
            rest: Turns::new(limits.rest()),
            requests: Turns::new(limits.requests()),
            signals: Turns::new(limits.signal_costs()),
            posts: [Turns::new(limits.posts()), Turns::new(limits.posts_of_token())],
            sockets: Places::new(limits.sockets_max, Gives::Newest),
            memory: Memory::new(limits.message_memory_max),
            services: Desk::default(),
            limited: Arc::default(),
            stun,
            limits,
        })
    }

    /// Where clients reach the server, if the operator says so: scheme, host, port and path prefix.
    pub fn public_url(&self) -> Option<&PublicUrl> {
        self.public_url.as_ref()
    }

    /// Other origins from now on. Sockets that are open stay.
    pub fn set_cors_origins(&self, named: Vec<String>) {
        self.origins.replace(named);
    }

    /// Other pages that may frame ours from now on. Those that are open stay.
    pub fn set_frame_origins(&self, named: Vec<String>) {
        self.framers.replace(named);
    }

    /// Whether what comes from this address as a proxy is believed.
    fn trusts(&self, proxy: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(proxy))
    }

    /// Looks whether there is another certificate; `is_asked` by an operator, it logs at once what is wrong.
    pub fn refresh_certificate(&self, is_asked: bool) {
        if let Some(tls) = &self.tls {
            tls.refresh(is_asked);
        }
    }

    /// Writes down what an operator decided and could not be written when it came into force.
    pub async fn save_again(self: &Arc<Self>) {
        if self.registry.is_unsaved() {
            let site = self.clone();
            match tokio::task::spawn_blocking(move || site.registry.save()).await {
                Ok(Ok(())) => tracing::info!("the registry is written"),
                failed => tracing::error!(?failed, "the registry still cannot be written"),
            }
        }
    }

    /// The name of this node, if it is one of a cluster.
    fn node(&self) -> Option<String> {
        self.nodes.as_ref().map(|nodes| nodes.own().node)
    }

    /// Waits until no signalling socket is left.
    async fn is_quiet(&self) {
        self.sockets.are_free().await;
    }
}

/// Every address that is answered.
fn router(site: Arc<Site>) -> Router {
    rest::router(&site)
        .route("/openapi.json", get(rest::document::openapi))
        .route("/docs", get(rest::document::docs))
        .route("/", get(pages::start))
        .route("/r/{room}", get(pages::room))
        .route("/sdk/{file}", get(pages::sdk))
        .route("/web/{file}", get(pages::web))
        .route("/web/sdk/{file}", get(pages::sdk))
        .route("/v1/rooms/{room}/signal", get(socket::signal))
        .route("/whip/{room}", any(whip::whip))
        .route("/whip/{room}/{peer}", any(whip::whip_as))
        .route("/whip/{room}/sessions/{resource}", any(whip::resource))
        .route("/whep/{room}", any(whip::whep))
        .route("/whep/{room}/{peers}", any(whip::whep_of))
        .route("/whep/{room}/sessions/{resource}", any(whip::resource))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .fallback(|| async { Problem::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(axum::middleware::from_fn_with_state(site.clone(), origins::cross_origin))
        .layer(axum::middleware::from_fn(people::explain))
        .layer(axum::middleware::from_fn_with_state(site.clone(), wait_for_turn))
        .layer(axum::middleware::from_fn_with_state(site.clone(), proxies::look))
        .layer(axum::middleware::from_fn_with_state(site.clone(), strictly_secure))
        .with_state(site)
}

/// Lets each source ask as often as is its part. Who asks more often waits, and with it all that it has sent on the connection.
async fn wait_for_turn(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    if let Some(Client(source)) = request.extensions().get::<Client>()
        && site.requests.wait(source, 1).await
    {
        site.limited.note(What::Request, source);
    }
    next.run(request).await
}

/// What browsers are told where our own TLS answers: to come by HTTPS alone from now on (RFC 6797), and to keep windows of other origins
/// apart from ours (HTML §7.1.3). Behind a proxy's TLS it is the proxy's to say.
async fn strictly_secure(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if site.tls.is_some() {
        let headers = response.headers_mut();
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
        headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    }
    response
}

/// Whether a join can be served now.
async fn readyz(State(site): State<Arc<Site>>) -> Response {
    match site.handle.is_ready() {
        true => "ready\n".into_response(),
        false => {
            Problem::not_ready("no_dataplane", "no dataplane is linked: rooms cannot be joined now").into_response()
        }
    }
}

async fn show_metrics(State(site): State<Arc<Site>>, request: Request) -> Response {
    if let Err(problem) = admit_to_metrics(&site, request).await {
        return problem.into_response();
    }
    let tls = site.tls.as_ref().map(|tls| tls.figures());
    match tokio::time::timeout(Duration::from_secs(2), site.handle.sample()).await {
        Ok(Some(sample)) => {
            let cluster = site.nodes.as_ref().map(|nodes| nodes.figures());
            let services = site.services.look(|services| services.figures(Instant::now()));
            let sample = metrics::Sample { registry: site.registry.figures(), cluster, services, ..sample };
            let page = metrics::render(&sample, &site.stun, tls.as_ref(), &site.limited);
            ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response()
        }
        _ => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "engine_busy", "the engine does not answer").into_response(),
    }
}

async fn admit_to_metrics(site: &Arc<Site>, request: Request) -> Result<(), Problem> {
    let (mut parts, _) = request.into_parts();
    match site.audience {
        Audience::All => Ok(()),
        Audience::Admin => rest::Admin::from_request_parts(&mut parts, site).await?.of_everything(),
        Audience::Machine => {
            let caller = parts.extensions.get::<Caller>();
            match caller.is_some_and(neighbour::is_ours) && !is_forwarded(&parts.headers) {
                true => Ok(()),
                false => {
                    let detail = "metrics are for this machine's root and the user that runs the server: the setting \
                                  `metrics` opens them to admin tokens, or to all";
                    Err(Problem::new(StatusCode::FORBIDDEN, "metrics", detail))
                }
            }
        }
    }
}

/// Whether a proxy says that it asks for somebody else.
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"]
        .iter()
        .any(|name| headers.contains_key(*name))
}
