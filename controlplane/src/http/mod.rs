//! The doors: the page and its files, the signalling socket, health, readiness and metrics. The only code that knows
//! axum.
//!
//! A call begins here: `socket` checks the token once, then hands signals to the engine's task and back; `whip` does
//! so for those who come without a socket. Nothing here decides anything about rooms. TLS is the business of a proxy
//! in front (docs/OPERATING.md).
//!
//! Everything has a limit ([`Limits`]): connections, the time for a request's head and its size, the size and rate
//! of signals, the time a socket may be silent, and what may wait for it.

mod error;
mod pages;
mod rest;
mod serve;
mod socket;
mod whip;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tokio::sync::Semaphore;

use self::error::Problem;
pub use self::serve::serve;
use crate::auth::TokenKeys;
use crate::link::Handle;
use crate::registry::Registry;
use crate::{metrics, stun_server};

/// Limits of the doors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// TCP connections that are being served, sockets not counted. Further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Signalling sockets. The engine has its own limit; this one bounds the tasks.
    pub sockets_max: usize,
    /// From the first byte of a connection, or the end of the previous answer, until a request's head is whole.
    pub head_timeout: Duration,
    /// Bytes of a request's head. A token has about 300, browsers send about 1 KiB.
    pub head_len_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Bytes of one signal. Chromium's offer for eight participants has 19 to 60 KiB, the SDP parser takes 256.
    pub signal_len_max: usize,
    /// Signals of one socket per second; a burst of as many is allowed.
    pub signals_per_second: u32,
    /// REST requests of one admin token per second; a burst of as many is allowed.
    pub requests_per_second: u32,
    /// How often a socket is pinged (RFC 6455 §5.5.2), so that proxies and both ends see that it lives.
    pub ping_interval: Duration,
    /// How long a socket may be silent. Three pings.
    pub idle_timeout: Duration,
    /// How long one write to a socket may take.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            sockets_max: 4096,
            head_timeout: Duration::from_secs(10),
            head_len_max: 16 * 1024,
            headers_max: 64,
            signal_len_max: 256 * 1024,
            signals_per_second: 50,
            requests_per_second: 50,
            ping_interval: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(45),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// What every request may need.
#[derive(Debug)]
pub struct Site {
    handle: Handle,
    keys: TokenKeys,
    registry: Registry,
    /// Origins whose pages may use REST; `*` is any.
    cors_origins: Vec<String>,
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
        Self::governed(handle, keys.into(), stun, limits, Registry::default(), Vec::new())
    }

    /// A site that keeps what operators decide in `registry`, and lets pages of `cors_origins` use REST.
    pub fn governed(
        handle: Handle,
        keys: TokenKeys,
        stun: Arc<stun_server::Counts>,
        limits: Limits,
        registry: Registry,
        cors_origins: Vec<String>,
    ) -> Arc<Site> {
        let sockets = Arc::new(Semaphore::new(limits.sockets_max));
        let (administering, budgets) = Default::default();
        Arc::new(Site { handle, keys, registry, cors_origins, administering, budgets, stun, limits, sockets })
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
        .fallback(|| async { Problem::not_found("no such address") })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
        .layer(axum::middleware::from_fn_with_state(site.clone(), rest::cross_origin))
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

async fn show_metrics(State(site): State<Arc<Site>>) -> Response {
    match tokio::time::timeout(Duration::from_secs(2), site.handle.sample()).await {
        Ok(Some(sample)) => {
            ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(&sample, &site.stun)).into_response()
        }
        _ => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "engine_busy", "the engine does not answer").into_response(),
    }
}
