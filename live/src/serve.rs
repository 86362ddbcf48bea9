//! HTTP for players and for the CDN in front of them: playlists, which wait for what is asked for (RFC 8216bis §6.2.5), and their files.
//! Everything is bounded: connections, how long a request may take to come, how long it waits, how slowly an answer may be read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::hub::{Broadcast, Hub};
use crate::window::{Asked, Found, TARGET_SECONDS, Window};

/// Connections at once. A large audience is a CDN's, which has a few.
const CONNECTIONS_MAX: usize = 1_024;
/// How long the head of a request may take, and a connection may wait for the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may last, whatever it does: who reads slowly is cut off, and others open another one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a playlist or a part is waited for: three segments.
const WAIT_MAX: Duration = Duration::from_secs(3 * TARGET_SECONDS);
/// Bytes that a connection has in the air.
const BUFFER_LEN: usize = 64 * 1024;

/// A server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    hub: Hub,
}

impl Server {
    /// Listens.
    pub async fn bind(address: SocketAddr, hub: Hub) -> io::Result<Server> {
        Ok(Server { listener: TcpListener::bind(address).await?, hub })
    }

    /// Where.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped.
    pub async fn run(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // Who finds no place waits in the kernel's queue.
            let place = Arc::clone(&places).acquire_owned().await;
            let Ok((stream, _)) = self.listener.accept().await else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let hub = self.hub.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let (hub, head) = (hub.clone(), request.into_parts().0);
                async move { Ok::<_, Infallible>(answer(&hub, &head.method, &head.uri).await) }
            });
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true); // It is slower without.
                let mut server = hyper::server::conn::http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_LEN);
                // Who closes early is not answered.
                let _ = timeout(CONNECTION_TIMEOUT, server.serve_connection(TokioIo::new(stream), service)).await;
                drop(place);
            });
        }
    }
}

async fn answer(hub: &Hub, method: &Method, uri: &Uri) -> Response<Pieces> {
    if method != Method::GET && method != Method::HEAD {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD alone");
    }
    let mut parts = uri.path().trim_start_matches('/').split('/');
    let (Some(room), Some(name), None) = (parts.next(), parts.next(), parts.next()) else {
        return problem(StatusCode::NOT_FOUND, "there is /ROOM/index.m3u8");
    };
    let Some(broadcast) = hub.find(room) else {
        return problem(StatusCode::NOT_FOUND, "the room is not on");
    };
    let is_head = method == Method::HEAD;
    if name == "index.m3u8" {
        return playlist(&broadcast, uri.query().unwrap_or_default(), is_head).await;
    }
    let Some(asked) = Asked::parse(name) else {
        return problem(StatusCode::NOT_FOUND, "there is no such file");
    };
    let found = wait(&broadcast, |window| match window.find(asked) {
        Found::Soon => None,
        found => Some(found),
    });
    match found.await {
        // What has a name never changes.
        Some(Found::Bytes(bytes)) => response("video/mp4", "public, max-age=600, immutable", bytes, is_head),
        Some(_) => problem(StatusCode::NOT_FOUND, "it is no more, or not yet"),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "it has not come"),
    }
}

async fn playlist(broadcast: &Broadcast, query: &str, is_head: bool) -> Response<Pieces> {
    let Some((segment, part)) = directives(query) else {
        return problem(StatusCode::BAD_REQUEST, "_HLS_msn is a number, and _HLS_part one beside it");
    };
    let has = |window: &Window| match segment {
        Some(segment) => match window.has(segment, part) {
            Some(false) => None,
            Some(true) => window.playlist(true).map(Ok),
            None => Some(Err("_HLS_msn is too far ahead")),
        },
        None => window.playlist(true).map(Ok),
    };
    // A CDN keeps one that was waited for as long as its address is asked for, and another one as long as it is the newest.
    let keep = if segment.is_some() { "public, max-age=10" } else { "public, max-age=1" };
    match wait(broadcast, has).await {
        Some(Ok(text)) => response("application/vnd.apple.mpegurl", keep, vec![text.into()], is_head),
        Some(Err(reason)) => problem(StatusCode::BAD_REQUEST, reason),
        None => problem(StatusCode::SERVICE_UNAVAILABLE, "nothing has come"),
    }
}

/// The delivery directives (RFC 8216bis §6.2.5); None if they are wrong. Others are passed over.
fn directives(query: &str) -> Option<(Option<u64>, Option<usize>)> {
    let (mut segment, mut part) = (None, None);
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("_HLS_msn", value)) => segment = Some(value.parse().ok()?),
            Some(("_HLS_part", value)) => part = Some(value.parse().ok()?),
            _ => (),
        }
    }
    (segment.is_some() || part.is_none()).then_some((segment, part))
}

/// Waits until the window has something.
async fn wait<T>(broadcast: &Broadcast, mut find: impl FnMut(&Window) -> Option<T>) -> Option<T> {
    let mut changes = broadcast.changes();
    let found = timeout(WAIT_MAX, async {
        loop {
            changes.mark_unchanged();
            if let Some(found) = find(&broadcast.window()) {
                return Some(found);
            }
            changes.changed().await.ok()?;
        }
    });
    found.await.ok().flatten()
}

/// A body that is in pieces already.
#[derive(Debug)]
struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|bytes| bytes.len() as u64).sum())
    }
}

fn response(kind: &str, keep: &str, bytes: Vec<Bytes>, is_head: bool) -> Response<Pieces> {
    let len: usize = bytes.iter().map(Bytes::len).sum();
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, keep)
        .header(header::CONTENT_LENGTH, len)
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    let body = if is_head { Vec::new() } else { bytes };
    answer.body(Pieces(body.into())).expect("a type and a length are a response")
}

fn problem(status: StatusCode, detail: &str) -> Response<Pieces> {
    let mut answer = response("text/plain", "public, max-age=1", vec![format!("{detail}\n").into()], false);
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_numbers_or_refused() {
        assert_eq!(directives(""), Some((None, None)));
        assert_eq!(directives("x=1&_HLS_msn=7&_HLS_part=2"), Some((Some(7), Some(2))));
        for wrong in ["_HLS_msn=", "_HLS_msn=-1", "_HLS_part=1", "_HLS_msn=99999999999999999999"] {
            assert_eq!(directives(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_playlist_waits_for_the_part_that_is_asked_for() {
        let broadcast = Arc::new(Broadcast::new(5));
        let add = |begins| broadcast.change(|window| window.part(Bytes::from_static(b"x"), 500_000, 0, begins, begins));
        broadcast.change(|window| {
            window.init(Bytes::from_static(b"init"));
            None
        });
        add(true);
        let waits = playlist(&broadcast, "_HLS_msn=5&_HLS_part=1", false);
        let (answered, ()) = tokio::join!(waits, async {
            sleep(Duration::from_millis(50)).await;
            add(false);
        });
        assert_eq!(answered.status(), StatusCode::OK);
        let text = String::from_utf8(answered.into_body().0[0].to_vec()).unwrap();
        assert!(text.contains("part-6.m4s") && text.ends_with("URI=\"part-7.m4s\"\n"), "{text}");
        assert_eq!(playlist(&broadcast, "_HLS_msn=99", false).await.status(), StatusCode::BAD_REQUEST);
    }
}
