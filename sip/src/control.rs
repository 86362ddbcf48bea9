//! HTTP of the gateway itself, on loopback: its metrics, and calls out of a room.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::ask::Ask;
use crate::counters::{Counter, Counters};
use crate::entry::is_equal;

/// Longest body.
const BODY_LEN_MAX: usize = 4096;
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dial {
    number: String,
    /// Dialled when the call is up: an extension, a PIN.
    #[serde(default)]
    digits: String,
}

/// The counters as Prometheus reads them.
pub(crate) fn metrics(counters: &Counters, calls: usize, is_registered: bool) -> String {
    let mut text = String::new();
    let mut write = |name: &str, help: &str, kind: &str, value: u64| {
        text.push_str(&format!(
            "# HELP uprtc_sip_{name} {help}\n# TYPE uprtc_sip_{name} {kind}\nuprtc_sip_{name} {value}\n"
        ));
    };
    for (name, help, value) in counters.named() {
        write(name, help, "counter", value);
    }
    write("calls", "calls now", "gauge", calls as u64);
    write("trunk_registered", "1 while the trunk is registered", "gauge", u64::from(is_registered));
    let (count, micros) = (counters.get(Counter::RoundTrips), counters.get(Counter::RoundTripMicros));
    text.push_str(&format!(
        "# HELP uprtc_sip_round_trip_seconds round trips to telephones by RTCP, of calls that have ended\n\
         # TYPE uprtc_sip_round_trip_seconds summary\n\
         uprtc_sip_round_trip_seconds_sum {}\nuprtc_sip_round_trip_seconds_count {count}\n",
        micros as f64 / 1_000_000.0
    ));
    text
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, token: Option<String>, asks: mpsc::Sender<Ask>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (token, asks) = (token.clone(), asks.clone());
        let service = service_fn(move |request| {
            let (token, asks) = (token.clone(), asks.clone());
            async move { Ok::<_, Infallible>(answer(request, token.as_deref(), &asks).await) }
        });
        tokio::spawn(async move {
            let mut server = hyper::server::conn::http1::Builder::new();
            let server = server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
            // Who closes early is not answered.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, token: Option<&str>, asks: &mpsc::Sender<Ask>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET && path == "/metrics" {
        let (reply, replied) = oneshot::channel();
        let _ = asks.send(Ask::Metrics(reply)).await;
        return match replied.await {
            Ok(text) => response(StatusCode::OK, "text/plain; version=0.0.4", text),
            Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway stops"),
        };
    }
    let room = path.strip_prefix("/v1/rooms/").and_then(|rest| rest.strip_suffix("/calls"));
    let Some(room) = room.filter(|room| !room.contains('/')) else {
        return problem(StatusCode::NOT_FOUND, "there are /metrics and /v1/rooms/{room}/calls");
    };
    if request.method() != Method::POST {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "POST makes a call");
    }
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let is_allowed =
        token.is_some_and(|token| given.is_some_and(|given| is_equal(given, format!("Bearer {token}").as_bytes())));
    if !is_allowed {
        return problem(StatusCode::UNAUTHORIZED, "a call needs control-token of sip.toml as a bearer token");
    }
    let room = room.to_owned();
    let body = Limited::new(request.into_body(), BODY_LEN_MAX).collect().await.map(|body| body.to_bytes());
    let dial = body.ok().and_then(|body| serde_json::from_slice::<Dial>(&body).ok());
    let Some(Dial { number, digits }) = dial else {
        return problem(StatusCode::BAD_REQUEST, "the body is {\"number\":\"…\"}");
    };
    let (reply, replied) = oneshot::channel();
    let _ = asks.send(Ask::Dial { room, number, digits, ordered: None, reply }).await;
    match replied.await {
        Ok(Ok(call)) => response(StatusCode::CREATED, "application/json", format!("{{\"call\":{call}}}")),
        Ok(Err(reason)) => problem(StatusCode::CONFLICT, reason),
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway stops"),
    }
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    let body = serde_json::json!({ "status": status.as_u16(), "detail": detail });
    response(status, "application/problem+json", body.to_string())
}

fn response(status: StatusCode, kind: &str, body: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(body)))
        .expect("a status and a type are a response")
}
