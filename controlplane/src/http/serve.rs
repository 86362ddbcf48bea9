//! The accept loop: HTTP/1.1 connections, with TLS or without, each with a deadline for its handshake and for a
//! request's head, and a bound on their number.
//!
//! `axum::serve` sets none of these limits, so this speaks to hyper directly.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Caller, Site, router};
use crate::tls::{Fate, Tls};

/// How long to wait when the kernel has no descriptor left for a new connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves connections until `stopping` says true, then waits until the signalling sockets have closed. The caller
/// bounds that wait.
pub async fn serve(listener: TcpListener, site: Arc<Site>, stopping: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(site.limits.connections_max));
    let door = Arc::new(Door::new(&site));
    let mut stopped = pin!(wait_for_stop(stopping.clone()));
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that ended before it was accepted, or no descriptors: in both cases others follow.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (door, stopping) = (door.clone(), stopping.clone());
        let ticket = door.guard.as_ref().map(Guard::enter);
        tokio::spawn(async move {
            let caller = Caller::of(&stream);
            match (&door.guard, ticket) {
                (Some(guard), Some(ticket)) => {
                    if let Some(stream) = guard.shake_hands(stream, ticket).await {
                        door.speak(stream, caller, stopping).await;
                    }
                }
                _ => door.speak(stream, caller, stopping).await,
            }
            drop(permit);
        });
    }
    site.is_quiet().await;
}

/// What every connection needs.
struct Door {
    http: http1::Builder,
    service: TowerToHyperService<Router>,
    guard: Option<Guard>,
}

impl Door {
    fn new(site: &Arc<Site>) -> Door {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(site.limits.head_timeout)
            .max_buf_size(site.limits.head_len_max)
            .max_headers(site.limits.headers_max);
        let guard = site.tls.clone().map(|tls| Guard::new(tls, &site.limits));
        Door { http, service: TowerToHyperService::new(router(site.clone())), guard }
    }

    /// Speaks HTTP on a connection until it ends.
    async fn speak<S>(&self, stream: S, caller: Caller, stopping: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(caller);
            self.service.call(request)
        });
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service).with_upgrades());
        // An error here is the other side's: it hung up, was too slow, or does not speak HTTP.
        let _ = tokio::select! {
            ended = connection.as_mut() => ended,
            () = wait_for_stop(stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
    }
}

/// Lets connections through that complete a TLS handshake in time. Of so many at once the oldest goes: who means it needs
/// milliseconds, and who sits there must not keep others out.
struct Guard {
    tls: Arc<Tls>,
    acceptor: TlsAcceptor,
    patience: Duration,
    half_open_max: usize,
    /// Handshakes under way by their age. What is dropped here ends.
    half_open: Mutex<(u64, BTreeMap<u64, oneshot::Sender<Infallible>>)>,
}

/// A handshake's place among those under way.
struct Ticket {
    number: u64,
    displaced: oneshot::Receiver<Infallible>,
}

impl Guard {
    fn new(tls: Arc<Tls>, limits: &super::Limits) -> Guard {
        Guard {
            acceptor: TlsAcceptor::from(tls.server_config()),
            tls,
            patience: limits.head_timeout,
            half_open_max: limits.tls_half_open_max,
            half_open: Mutex::default(),
        }
    }

    fn enter(&self) -> Ticket {
        let (keep, displaced) = oneshot::channel();
        let mut half_open = self.half_open.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, under_way) = &mut *half_open;
        if under_way.len() >= self.half_open_max {
            under_way.pop_first();
        }
        let number = *next;
        *next += 1;
        under_way.insert(number, keep);
        self.tls.begun();
        Ticket { number, displaced }
    }

    async fn shake_hands(&self, stream: TcpStream, ticket: Ticket) -> Option<TlsStream<TcpStream>> {
        let (fate, stream) = tokio::select! {
            shaken = timeout(self.patience, self.acceptor.accept(stream)) => match shaken {
                Ok(Ok(stream)) => (Fate::Completed, Some(stream)),
                Ok(Err(_)) => (Fate::Failed, None),
                Err(_) => (Fate::TimedOut, None),
            },
            _ = ticket.displaced => (Fate::Displaced, None),
        };
        self.half_open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&ticket.number);
        self.tls.ended(fate);
        stream
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?; // Signals are small and one waits for the other.
    Ok((stream, permit))
}

async fn wait_for_stop(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await; // Its sender is gone: that is a stop, too.
}
