//! The accept loop: HTTP/1.1 connections, with TLS or without, each with a deadline for its handshake, for a request's head and for
//! taking its answer, and a bound on their number that their sources share.
//!
//! `axum::serve` sets none of these limits, so this calls hyper directly.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::ice_tcp::{self, Opening};
use super::pace::{Pace, Paced};
use super::places::{InUse, Places, Ticket, Turns};
use super::{Caller, Site, router};
use crate::driver::Handle;
use crate::limited::{Limited, Owner, What};
use crate::shares::Gives;
use crate::tls::{Fate, Tls};

/// How long to wait when the kernel has no descriptor left for a new connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the kernel may hold of answers that a connection has not taken, bytes. It doubles this for its own needs. At a round trip of
/// 100 ms it carries 640 kB/s, and the page and its files have 300 kB together.
const SEND_BUFFER_LEN: usize = 64 * 1024;

/// Connections that the kernel keeps until they are accepted, as many as Linux allows by itself (`net.core.somaxconn`). They are of all
/// sources, and who finds no place waits a second for its next SYN (RFC 6298 §2.1): at 128, the usual number, 1,550 connections a second
/// of one address did that to others whenever this thread was busy for 80 ms.
const BACKLOG: u32 = 4096;

/// Listens at an address.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?; // A successor need not wait for connections that have ended (TIME-WAIT).
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections until `stopping` says true, then waits until the signalling sockets have closed. The caller
/// bounds that wait.
pub async fn serve(listener: TcpListener, site: Arc<Site>, stopping: watch::Receiver<bool>) {
    let server = Arc::new(Server::new(&site));
    let mut stopped = pin!(wait_for_stop(stopping.clone()));
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => break,
            accepted = accept(&listener) => accepted,
        };
        let stream = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that ended before it was accepted, or no descriptors: in both cases others follow.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let caller = Caller::of(&stream);
        let source = source_of(&caller);
        if let Some(ticket) = server.place(&server.connections, What::Connection, &source) {
            tokio::spawn(server.clone().attend(stream, caller, source, ticket, stopping.clone()));
        }
    }
    site.is_quiet().await;
}

/// To whom a connection is charged: behind a proxy that is the proxy. Its clients are told apart once they ask for something.
fn source_of(caller: &Caller) -> Owner {
    // An address that cannot be read is that of a connection that has ended.
    let address = caller.remote.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |remote| remote.ip());
    Owner::Source(address.into())
}

/// What every connection needs.
struct Server {
    http: http1::Builder,
    service: TowerToHyperService<Router>,
    pace: Pace,
    connections: Places<1>,
    limited: Arc<Limited>,
    guard: Option<Guard>,
    /// Who takes connections that are ICE, where they may come here.
    ice_tcp: Option<Handle>,
    patience: Duration,
}

impl Server {
    fn new(site: &Arc<Site>) -> Server {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(site.limits.head_timeout)
            .max_buf_size(site.limits.head_len_max)
            .max_headers(site.limits.headers_max);
        Server {
            http,
            service: TowerToHyperService::new(router(site.clone())),
            pace: site.limits.pace(),
            connections: Places::new(site.limits.connections_max, Gives::Oldest),
            limited: site.limited.clone(),
            guard: site.tls.clone().map(|tls| Guard::new(tls, &site.limits)),
            ice_tcp: site.takes_ice_tcp.then(|| site.handle.clone()),
            patience: site.limits.head_timeout,
        }
    }

    /// A place, for which the source that holds most may have to give one up.
    fn place(&self, places: &Places<1>, what: What, source: &Owner) -> Option<Ticket<1>> {
        let (ticket, given) = places.enter([source.clone()]);
        if let Some([owner]) = given {
            self.limited.note(what, &owner);
        }
        ticket
    }

    /// Serves a connection until it ends or its place is given to another one.
    async fn attend(
        self: Arc<Self>,
        stream: TcpStream,
        caller: Caller,
        source: Owner,
        mut ticket: Ticket<1>,
        stopping: watch::Receiver<bool>,
    ) {
        let place = ticket.place();
        let served = async {
            if let Some(handle) = &self.ice_tcp {
                match ice_tcp::opening(&stream, self.patience).await {
                    Opening::Http => {}
                    Opening::Check { worker } => return handle.hand_over(worker, stream).await,
                    Opening::Neither => return,
                }
            }
            let stream = Paced::new(stream, self.pace).reporting(self.limited.clone(), source.clone());
            match &self.guard {
                Some(guard) => {
                    if let Some(stream) = self.shake_hands(guard, stream, &source).await {
                        self.serve_http(stream, caller, &place, stopping).await;
                    }
                }
                None => self.serve_http(stream, caller, &place, stopping).await,
            }
        };
        tokio::select! {
            () = served => {}
            () = ticket.displaced() => {}
        }
    }

    /// Serves HTTP on a connection until it ends.
    async fn serve_http<S>(&self, stream: S, caller: Caller, place: &InUse<1>, stopping: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            place.touch();
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

    /// Completes a TLS handshake, if its turn comes and the client means it.
    async fn shake_hands(
        &self,
        guard: &Guard,
        stream: Paced<TcpStream>,
        source: &Owner,
    ) -> Option<TlsStream<Paced<TcpStream>>> {
        let mut ticket = self.place(&guard.half_open, What::Handshake, source)?;
        guard.tls.begun();
        let shaken = timeout(guard.patience, async {
            if guard.turns.wait(source, 1).await {
                self.limited.note(What::HandshakeWait, source);
            }
            guard.acceptor.accept(stream).await
        });
        let (fate, stream) = tokio::select! {
            shaken = shaken => match shaken {
                Ok(Ok(stream)) => (Fate::Completed, Some(stream)),
                Ok(Err(_)) => (Fate::Failed, None),
                Err(_) => (Fate::TimedOut, None),
            },
            () = ticket.displaced() => (Fate::Displaced, None),
        };
        guard.tls.ended(fate);
        stream
    }
}

/// Lets connections through that complete a TLS handshake in time. Of too many at once the oldest goes of the source that has most: who
/// means it needs milliseconds, and who sits there must not keep others out.
struct Guard {
    tls: Arc<Tls>,
    acceptor: TlsAcceptor,
    patience: Duration,
    half_open: Places<1>,
    turns: Turns,
}

impl Guard {
    fn new(tls: Arc<Tls>, limits: &super::Limits) -> Guard {
        Guard {
            acceptor: TlsAcceptor::from(tls.server_config()),
            tls,
            patience: limits.head_timeout,
            half_open: Places::new(limits.tls_half_open_max, Gives::Oldest),
            turns: Turns::new(limits.tls_handshakes()),
        }
    }
}

async fn accept(listener: &TcpListener) -> std::io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?; // Signals are small and one waits for the other.
    rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER_LEN)?;
    Ok(stream)
}

async fn wait_for_stop(mut stopping: watch::Receiver<bool>) {
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await; // Its sender is gone: that is a stop, too.
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crowd that comes while the server is busy: nobody accepts here.
    #[tokio::test]
    async fn a_thousand_connections_wait_for_their_turn() {
        let allowed: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for n in 0..allowed.min(1000) {
            let stream = timeout(Duration::from_millis(900), TcpStream::connect(address)).await;
            waiting.push(stream.unwrap_or_else(|_| panic!("the {n}th finds no place")).unwrap());
        }
    }
}
