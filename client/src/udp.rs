//! The driver of a [`Transport`] until it has keys: on a UDP socket of tokio.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use crate::dtls::{DtlsError, Version};
use crate::transport::{Event, Transport};

/// More than any datagram of a handshake.
const DATAGRAM_MAX: usize = 2048;
/// How long to wait if nothing is due: it is always something, until the peer is connected.
const IDLE: Duration = Duration::from_millis(100);

/// Why a path has no keys.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket.
    #[error("UDP: {0}")]
    Udp(#[from] io::Error),
    /// DTLS.
    #[error(transparent)]
    Dtls(#[from] DtlsError),
    /// The other end said close_notify.
    #[error("the server closed DTLS")]
    Closed,
}

/// The local address from which this one is reached: of its family, and from its own machine by loopback.
pub fn local_for(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(remote) if remote.ip().is_loopback() => (Ipv4Addr::LOCALHOST, 0).into(),
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Checks, then DTLS, until there are keys. It has no time limit of its own. Media that comes meanwhile is lost.
pub async fn connect(transport: &mut Transport, udp: &UdpSocket) -> Result<Version, ConnectError> {
    let mut datagram = [0; DATAGRAM_MAX];
    loop {
        let now = Instant::now();
        transport.handle_timeout(now);
        while let Some((to, bytes)) = transport.poll_transmit(now) {
            udp.send_to(&bytes, to).await?;
        }
        match transport.poll_event() {
            Some(Event::Connected(version)) => return Ok(version),
            Some(Event::Failed(error)) => return Err(error.into()),
            Some(Event::Closed) => return Err(ConnectError::Closed),
            None => (),
        }
        let due = transport.poll_timeout().unwrap_or_else(|| now + IDLE);
        tokio::select! {
            received = udp.recv_from(&mut datagram) => {
                let (len, from) = received?;
                transport.receive_control(Instant::now(), from, &datagram[..len]);
            }
            () = tokio::time::sleep_until(due.into()) => (),
        }
    }
}
