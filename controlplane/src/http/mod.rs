//! The doors: the page and its files, the signalling socket, health, readiness and metrics. The only code that knows
//! axum.
//!
//! A call begins here: `socket` checks the token once, then hands signals to the engine's task and back; `whip` does
//! so for those who come without a socket. Nothing here decides anything about rooms. TLS is spoken with the certificate
//! that the operator gives ([`crate::tls`]), or by a proxy in front (docs/OPERATING.md).
//!
//! Everything has a limit ([`Limits`]): connections, the time for a request's head and its size, the size and rate
//! of signals, the time a socket may be silent, and what may wait for it.

mod error;
mod origins;
mod pages;
mod people;
mod proxies;
mod public_url;
mod rest;
mod serve;
mod socket;
mod websocket;
mod whip;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use self::error::Problem;
use self::origins::Origins;
pub use self::origins::{ORIGINS_MAX, is_origin};
pub use self::proxies::{NETWORKS_MAX, Network};
pub use self::public_url::PublicUrl;
pub use self::serve::serve;
use crate::auth::TokenKeys;
use crate::link::Handle;
use crate::registry::Registry;
use crate::tls::Tls;
use crate::{metrics, stun_server};

/// Limits of the doors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// TCP connections that are being served, sockets not counted. Further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// TLS handshakes under way. One more displaces the oldest.
    pub tls_half_open_max: usize,
    /// Signalling sockets. The engine has its own limit; this one bounds the tasks.
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
    /// REST requests of one admin token per second; a burst of as many is allowed.
    pub requests_per_second: u32,
    /// How often a socket is pinged (RFC 6455 §5.5.2), so that proxies and both ends see that it lives.
    pub ping_interval: Duration,
    /// How long a socket may be silent. Three pings.
    pub idle_timeout: Duration,
    /// How long a socket may take to answer a ping when nothing comes by its peer's media path any more. A round trip, and time
    /// for TCP to repeat what was lost; who is slower connects again and resumes.
    pub probe_timeout: Duration,
    /// How long one write to a socket may take.
    pub write_timeout: Duration,
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
        }
    }
}

/// Who may read `/metrics`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Audience {
    /// Who asks from this machine, and not through a proxy that says so.
    #[default]
    Machine,
    /// Everybody who reaches the door.
    All,
    /// Who brings an admin token for `*`.
    Admin,
}

/// What an operator gives the doors.
#[derive(Debug)]
pub struct Terms {
    /// Rooms and revocations.
    pub registry: Registry,
    /// Origins of pages, `*` for any; see docs/OPERATING.md for what each of them means.
    pub cors_origins: Vec<String>,
    /// Origins of pages that may show the meeting page in a frame, `*` for any. None: no page may.
    pub frame_origins: Vec<String>,
    /// From which networks what a proxy says of its client is believed.
    pub trusted_proxies: Vec<Network>,
    /// The certificate to speak TLS with.
    pub tls: Option<Arc<Tls>>,
    /// Who may read `/metrics`.
    pub metrics: Audience,
    /// Where clients reach the doors, if the operator says so.
    pub public_url: Option<PublicUrl>,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            registry: Registry::default(),
            cors_origins: Vec::new(),
            frame_origins: Vec::new(),
            trusted_proxies: Network::LOOPBACK.into(),
            public_url: None,
            tls: None,
            metrics: Audience::default(),
        }
    }
}

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

/// What every request may need.
#[derive(Debug)]
pub struct Site {
    handle: Handle,
    keys: TokenKeys,
    registry: Registry,
    origins: Origins,
    /// Who may frame the page; see [`Terms::frame_origins`].
    framers: Origins,
    trusted_proxies: Vec<Network>,
    tls: Option<Arc<Tls>>,
    audience: Audience,
    public_url: Option<PublicUrl>,
    /// One change of the registry at a time, with the order that goes with it.
    administering: tokio::sync::Mutex<()>,
    budgets: rest::Budgets,
    stun: Arc<stun_server::Counts>,
    limits: Limits,
    sockets: Arc<Semaphore>,
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
        Self::governed(handle, keys.into(), stun, limits, Terms::default())
    }

    /// A site on these terms.
    pub fn governed(
        handle: Handle,
        keys: TokenKeys,
        stun: Arc<stun_server::Counts>,
        limits: Limits,
        terms: Terms,
    ) -> Arc<Site> {
        let sockets = Arc::new(Semaphore::new(limits.sockets_max));
        let (administering, budgets) = Default::default();
        let Terms { registry, cors_origins, frame_origins, trusted_proxies, public_url, tls, metrics: audience } =
            terms;
        let (origins, framers) = (Origins::new(cors_origins), Origins::new(frame_origins));
        Arc::new(Site {
            handle,
            keys,
            registry,
            origins,
            framers,
            trusted_proxies,
            public_url,
            tls,
            audience,
            administering,
            budgets,
            stun,
            limits,
            sockets,
        })
    }

    /// Where clients reach the doors, if the operator says so: scheme, host, port and path prefix.
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

    /// Looks whether there is another certificate; `is_asked` by an operator, it says what is amiss at once.
    pub fn refresh_certificate(&self, is_asked: bool) {
        if let Some(tls) = &self.tls {
            tls.refresh(is_asked);
        }
    }

    /// Waits until no signalling socket is left.
    async fn is_quiet(&self) {
        let all = u32::try_from(self.limits.sockets_max).unwrap_or(u32::MAX);
        let _ = self.sockets.acquire_many(all).await; // The semaphore is never closed.
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
        .layer(axum::middleware::from_fn_with_state(site.clone(), proxies::look))
        .with_state(site)
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
            ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&sample, &site.stun, tls.as_ref()))
                .into_response()
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
            let is_near = parts.extensions.get().is_some_and(|caller: &Caller| caller.is_near);
            match is_near && !is_forwarded(&parts.headers) {
                true => Ok(()),
                false => {
                    let detail = "metrics are for this machine: the setting `metrics` opens them";
                    Err(Problem::new(StatusCode::FORBIDDEN, "metrics", detail))
                }
            }
        }
    }
}

/// Whether a proxy says that it asks for somebody else.
fn is_forwarded(headers: &HeaderMap) -> bool {
    ["forwarded", "x-forwarded-for", "x-real-ip"].iter().any(|name| headers.contains_key(*name))
}
