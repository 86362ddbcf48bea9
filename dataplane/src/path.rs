//! Leaf: where a datagram comes from and goes to.

use std::net::SocketAddr;

use crate::config::{MEDIA_IPS_MAX, Micros};

/// In [`Path::socket`]: the index is that of a listener, and what passes are frames of a TCP connection (RFC 6544).
const TCP: u8 = 0x40;

/// In [`Path::socket`] with [`TCP`], instead of a listener's index: the controlplane has accepted it.
const HANDED: u8 = TCP - 1;

/// Where a datagram came from or goes to: one of the worker's sockets and the address at its other end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// Index of the worker's socket (one for each media address), or of its listener if [`Path::is_tcp`].
    pub socket: u8,
    /// The peer's address.
    pub remote: SocketAddr,
}

impl Path {
    /// The connection that was accepted from an address by the listener of this index.
    pub fn tcp(listener: u8, remote: SocketAddr) -> Path {
        Path { socket: TCP | listener, remote }
    }

    /// The connection from an address that the controlplane has accepted.
    pub fn handed(remote: SocketAddr) -> Path {
        Path { socket: TCP | HANDED, remote }
    }

    /// Whether it is a TCP connection. It has ended when the connection has.
    #[inline]
    pub fn is_tcp(self) -> bool {
        self.socket & TCP != 0
    }
}

const _: () = assert!(MEDIA_IPS_MAX <= HANDED as usize, "an index looks like nothing else");

/// Whom a packet is for. Packets of one turn for one destination leave in order and, where they can, in trains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// Index of the peer in the worker's table.
    pub peer: u32,
    /// The peer's path.
    pub path: Path,
}

/// A datagram as the io backend hands it over.
pub struct Datagram<'a> {
    /// Which socket it came to, and from where.
    pub path: Path,
    /// When the kernel received it, on the worker's clock.
    pub at: Micros,
    /// Its bytes; they are decrypted in place.
    pub bytes: &'a mut [u8],
}
