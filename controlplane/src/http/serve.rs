//! The accept loop: HTTP/1.1 connections with a deadline for each request's head and a bound on their number.
//!
//! `axum::serve` sets none of these limits, so this speaks to hyper directly.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::{Site, router};

/// How long to wait when the kernel has no descriptor left for a new connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves connections until `stopping` says true, then waits until the signalling sockets have closed. The caller
/// bounds that wait.
pub async fn serve(listener: TcpListener, site: Arc<Site>, stopping: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(site.limits.connections_max));
    let service = TowerToHyperService::new(router(site.clone()));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(site.limits.head_timeout)
        .max_buf_size(site.limits.head_len_max)
        .max_headers(site.limits.headers_max);
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
        let connection = http.serve_connection(TokioIo::new(stream), service.clone()).with_upgrades();
        let stopping = stopping.clone();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            // An error here is the other side's: it hung up, was too slow, or does not speak HTTP.
            let _ = tokio::select! {
                ended = connection.as_mut() => ended,
                () = wait_for_stop(stopping) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            drop(permit);
        });
    }
    site.is_quiet().await;
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?; // Signals are small and one waits for the other.
    Ok((stream, permit))
}

async fn wait_for_stop(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await; // Its sender is gone: that is a stop, too.
}
