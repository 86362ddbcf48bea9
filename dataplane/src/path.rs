//! Leaf: where a datagram comes from and goes to.

use std::net::SocketAddr;

use proto::flow;

use crate::config::{MEDIA_IPS_MAX, Micros, PEERS_MAX};

/// In [`Path::socket`]: the index is that of a listener, and what passes are frames of a TCP connection (RFC 6544).
const TCP: u8 = 0x40;

/// In [`Path::socket`] with [`TCP`], instead of a listener's index: the controlplane has accepted it.
const HANDED: u8 = TCP - 1;

/// Where a datagram came from or goes to: one of the worker's sockets and the address at its other end, and behind that another
/// one where an edge passes on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// Index of the worker's socket (one for each media address), or of its listener if [`Path::is_tcp`].
    pub socket: u8,
    /// The peer's address, or of the edge that passes on.
    pub remote: SocketAddr,
    /// The flow under which that passes on what is sent there; zeros: nobody does. Seven bytes, because each peer remembers several
    /// paths.
    relay: [u8; 7],
}

impl Path {
    /// An address itself, by the socket of this index.
    pub fn new(socket: u8, remote: SocketAddr) -> Path {
        Path { socket, remote, relay: [0; 7] }
    }

    /// The same by an edge at that address, which passes on what comes in this flow; 0: the address itself.
    pub fn through(self, flow: u64) -> Path {
        let [_, relay @ ..] = flow.to_be_bytes();
        Path { relay, ..self }
    }

    /// No path, to fill memory with.
    pub(crate) fn default() -> Path {
        Path::new(0, SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// The flow under which an edge passes on; 0: nobody does.
    #[inline]
    pub(crate) fn relay(self) -> u64 {
        let [a, b, c, d, e, f, g] = self.relay;
        u64::from_be_bytes([0, a, b, c, d, e, f, g])
    }

    /// The connection that was accepted from an address by the listener of this index.
    pub fn tcp(listener: u8, remote: SocketAddr) -> Path {
        Path::new(TCP | listener, remote)
    }

    /// The connection from an address that the controlplane has accepted.
    pub fn handed(remote: SocketAddr) -> Path {
        Path::new(TCP | HANDED, remote)
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
    /// Index of the peer in the worker's table, or [`PEERS_MAX`] and that of a relay.
    pub peer: u32,
    /// The peer's path.
    pub path: Path,
    /// The flow of a transport between edges; 0: of none.
    pub flow: u64,
}

/// Bytes of headers before a packet at most: that of the edge that passes it on, and that of its transport.
pub(crate) const FLOWS_LEN_MAX: usize = 2 * flow::HEADER_LEN;

impl Destination {
    /// A peer itself.
    pub(crate) fn new(peer: u32, path: Path) -> Destination {
        Destination { peer, path, flow: 0 }
    }

    /// Whom a relay passes on to, in this flow.
    pub(crate) fn of_relay(relay: u32, path: Path, flow: u64) -> Destination {
        Destination { peer: PEERS_MAX as u32 + relay, path, flow }
    }

    /// Bytes of headers before each packet to it.
    #[inline]
    pub(crate) fn flows_len(&self) -> usize {
        flow::HEADER_LEN * (usize::from(self.path.relay != [0; 7]) + usize::from(self.flow != 0))
    }

    /// Writes these headers, which are as long as `out`.
    pub(crate) fn write_flows(&self, out: &mut [u8]) {
        let flows = [self.path.relay(), self.flow].into_iter().filter(|flow| *flow != 0);
        for (header, flow) in out.chunks_exact_mut(flow::HEADER_LEN).zip(flows) {
            header.copy_from_slice(&flow::header(flow));
        }
    }
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
