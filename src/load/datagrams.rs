//! UDP sockets of the load peers: many datagrams for one system call, each with the kernel's time of arrival; several
//! datagrams to the server in one send (`UDP_SEGMENT`).
//!
//! Toward a server on this machine's loopback, many peers share one socket: each has an address of its own in
//! 127.0.0.0/8, which the kernel tells with each datagram (`IP_PKTINFO`). The server sees one address for each peer, as
//! ever, and the generator reads the datagrams of all of them by one call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, ReceiveTimestampns};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg, setsockopt,
};
use nix::sys::time::TimeSpec;
use rustix::net::sockopt;

/// Datagrams of one system call.
const BATCH_LEN: usize = 64;
/// Bytes of a buffer: more than any datagram of the server.
const BUFFER_LEN: usize = 2048;
/// Bytes that one send may have, and the datagrams in them (UDP_MAX_SEGMENTS).
const SEND_LEN_MAX: usize = 60_000;
const SEGMENTS_MAX: usize = 64;
/// Bytes of receive buffer that a peer should have; a second of a room of eight.
const RECEIVE_BUFFER_LEN: usize = 1 << 20;
/// Peers of one socket. More would wait for each other's datagrams.
const GROUP_MAX: usize = 16;
/// How many peers of a socket there may be in all its life: each has an address that nobody had before.
const ADDRESSES_MAX: u32 = 1 << 20;

/// A peer's way to the server.
pub(super) enum Socket {
    /// One of its own, connected to the server.
    Own(UdpSocket),
    /// An address on a socket that it shares.
    Shared(Lease),
}

/// One address of a shared socket, until it is dropped.
pub(super) struct Lease {
    group: Arc<Group>,
    /// Which of the group's addresses.
    pub(super) number: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.group.peers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lease {
    /// Which socket: a number that no other one has.
    pub(super) fn group(&self) -> usize {
        self.group.id
    }

    /// The socket.
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.group.socket
    }

    fn ip(&self) -> Ipv4Addr {
        address(self.number)
    }
}

/// A shared socket.
struct Group {
    id: usize,
    socket: UdpSocket,
    port: u16,
    /// Peers that have an address now.
    peers: AtomicUsize,
    next: AtomicU32,
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + number)
}

/// All sockets of a run. A clone is the same.
#[derive(Clone, Default)]
pub(super) struct Sockets(Arc<Mutex<Vec<Arc<Group>>>>);

/// A socket on which a peer joins, and what it goes on with.
pub(super) struct Joining {
    pub(super) udp: tokio::net::UdpSocket,
    lease: Option<Lease>,
}

impl Sockets {
    /// For a peer of a server at this address.
    pub(super) fn open(&self, server: SocketAddr) -> io::Result<Joining> {
        if server.is_ipv4() && server.ip().is_loopback() {
            let lease = self.lease()?;
            let udp = bind_shared(SocketAddrV4::new(lease.ip(), lease.group.port))?;
            return Ok(Joining { udp: tokio::net::UdpSocket::from_std(udp)?, lease: Some(lease) });
        }
        let udp = UdpSocket::bind(client::udp::local_for(server))?;
        grow_buffer(&udp, RECEIVE_BUFFER_LEN);
        udp.set_nonblocking(true)?;
        Ok(Joining { udp: tokio::net::UdpSocket::from_std(udp)?, lease: None })
    }

    fn lease(&self) -> io::Result<Lease> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = |group: &&Arc<Group>| {
            group.peers.load(Ordering::Relaxed) < group.capacity() && group.next.load(Ordering::Relaxed) < ADDRESSES_MAX
        };
        let group = match groups.iter().find(has_room) {
            Some(group) => Arc::clone(group),
            None => {
                let group = Arc::new(Group::open(groups.len())?);
                groups.push(Arc::clone(&group));
                group
            }
        };
        group.peers.fetch_add(1, Ordering::Relaxed);
        let number = group.next.fetch_add(1, Ordering::Relaxed);
        Ok(Lease { group, number })
    }
}

impl Joining {
    /// The peer has joined a server at this address: from now on its datagrams come in batches.
    pub(super) fn finish(self, server: SocketAddr) -> io::Result<Socket> {
        match self.lease {
            // The peer's own socket closes, and the shared one, which is less exact, has its address.
            Some(lease) => Ok(Socket::Shared(lease)),
            None => {
                let udp = self.udp.into_std()?;
                setsockopt(&udp, ReceiveTimestampns, &true)?;
                udp.connect(server)?;
                Ok(Socket::Own(udp))
            }
        }
    }
}

impl Group {
    fn open(id: usize) -> io::Result<Group> {
        let socket = bind_shared(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        // Nothing else than loopback is wanted. Where the kernel refuses, it is told by the addresses.
        let _ = setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &"lo".into());
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
        grow_buffer(&socket, GROUP_MAX * RECEIVE_BUFFER_LEN);
        let port = socket.local_addr()?.port();
        Ok(Group { id, socket, port, peers: AtomicUsize::new(0), next: AtomicU32::new(0) })
    }

    /// As many peers as the kernel grants buffers for.
    fn capacity(&self) -> usize {
        let granted = sockopt::socket_recv_buffer_size(&self.socket).unwrap_or(0);
        (granted / RECEIVE_BUFFER_LEN).clamp(1, GROUP_MAX)
    }
}

/// Several sockets may have one port: the most exact address gets a datagram.
fn bind_shared(at: SocketAddrV4) -> io::Result<UdpSocket> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &at)?;
    Ok(socket.into())
}

/// The kernel grants what `net.core.rmem_max` allows, and more to whoever may set that.
fn grow_buffer(socket: &impl AsFd, len: usize) {
    if sockopt::set_socket_recv_buffer_size_force(socket, len).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, len);
    }
}

/// Buffers for one call, used for every socket of a thread.
pub(super) struct Receiver {
    headers: MultiHeaders<()>,
    buffers: Vec<u8>,
}

/// A datagram as it came.
pub(super) struct Datagram<'a> {
    pub(super) bytes: &'a mut [u8],
    /// Microseconds since 1970 by the kernel.
    pub(super) at: u64,
    /// Which address of a shared socket it came to, if the kernel has told.
    pub(super) number: Option<u32>,
}

impl Receiver {
    pub(super) fn new() -> Receiver {
        let control = nix::cmsg_space!(TimeSpec, in_pktinfo);
        Receiver {
            headers: MultiHeaders::preallocate(BATCH_LEN, Some(control)),
            buffers: vec![0; BATCH_LEN * BUFFER_LEN],
        }
    }

    /// Hands what the socket has, up to a batch, to `take`. Whether there may be more.
    pub(super) fn receive(&mut self, socket: RawFd, mut take: impl FnMut(Datagram<'_>)) -> bool {
        let mut found = [(0, 0, None); BATCH_LEN];
        let mut slices = self.buffers.chunks_mut(BUFFER_LEN).map(|buffer| [IoSliceMut::new(buffer)]);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH_LEN] =
            std::array::from_fn(|_| slices.next().expect("as many buffers as slices"));
        let flags = MsgFlags::MSG_DONTWAIT;
        // What ICMP says of the other end comes as an error once, and is over.
        let Ok(received) = recvmmsg(socket, &mut self.headers, slices.iter_mut(), flags, None) else { return false };
        let mut count = 0;
        for (message, found) in received.zip(&mut found) {
            found.0 = message.bytes;
            for control in message.cmsgs().into_iter().flatten() {
                match control {
                    ControlMessageOwned::ScmTimestampns(at) => found.1 = Duration::from(at).as_micros() as u64,
                    ControlMessageOwned::Ipv4PacketInfo(info) => found.2 = Some(number_of(info.ipi_addr)),
                    _ => (),
                }
            }
            count += 1;
        }
        for (&(len, at, number), buffer) in found[..count].iter().zip(self.buffers.chunks_mut(BUFFER_LEN)) {
            let at = if at == 0 { wall_micros() } else { at };
            take(Datagram { bytes: &mut buffer[..len], at, number });
        }
        count == BATCH_LEN
    }
}

fn number_of(ip: in_addr) -> u32 {
    u32::from_be(ip.s_addr).wrapping_sub(u32::from(Ipv4Addr::LOCALHOST))
}

/// Datagrams of one peer that leave together.
pub(super) struct Sender {
    buffer: Vec<u8>,
    lens: Vec<usize>,
    len: usize,
    /// Until the kernel refuses it: not every device can.
    may_segment: bool,
}

impl Sender {
    pub(super) fn new() -> Sender {
        let (buffer, lens) = (vec![0; SEND_LEN_MAX + BUFFER_LEN], Vec::with_capacity(SEGMENTS_MAX));
        Sender { buffer, lens, len: 0, may_segment: true }
    }

    /// Room for the next datagram.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.len..self.len + BUFFER_LEN]
    }

    /// The next datagram has so many bytes of that room.
    pub(super) fn push(&mut self, len: usize) {
        self.lens.push(len);
        self.len += len;
    }

    /// Whether it must be sent before there is room for more.
    pub(super) fn is_full(&self) -> bool {
        self.len >= SEND_LEN_MAX || self.lens.len() == SEGMENTS_MAX
    }

    /// Sends everything from a peer's socket to the server. A network may lose what it is given.
    pub(super) fn send(&mut self, socket: &Socket, to: SocketAddr) {
        let (mut at, mut bytes) = (0, 0);
        while at < self.lens.len() {
            let count = if self.may_segment { segments(&self.lens[at..]) } else { 1 };
            let len: usize = self.lens[at..at + count].iter().sum();
            let sent = send(socket, to, &self.buffer[bytes..bytes + len], self.lens[at], count);
            if count > 1 && matches!(sent, Err(Errno::EINVAL | Errno::EIO | Errno::EMSGSIZE | Errno::EOPNOTSUPP)) {
                self.may_segment = false;
                continue;
            }
            at += count;
            bytes += len;
        }
        self.lens.clear();
        self.len = 0;
    }
}

/// How many of these datagrams may be one send: all but the last have the length of the first.
fn segments(lens: &[usize]) -> usize {
    let equal = lens.iter().take_while(|&&len| len == lens[0]).count();
    equal + usize::from(lens.get(equal).is_some_and(|&len| len < lens[0]))
}

fn send(socket: &Socket, to: SocketAddr, bytes: &[u8], segment: usize, count: usize) -> Result<usize, Errno> {
    let segment = segment as u16;
    let segments = ControlMessage::UdpGsoSegments(&segment);
    let slices = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT;
    match (socket, to) {
        (Socket::Own(udp), _) => {
            let control = [segments];
            let control = if count > 1 { &control[..] } else { &[] };
            sendmsg::<()>(udp.as_raw_fd(), &slices, control, flags, None)
        }
        (Socket::Shared(lease), SocketAddr::V4(to)) => {
            let from = in_addr { s_addr: u32::from(lease.ip()).to_be() };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: from, ipi_addr: in_addr { s_addr: 0 } };
            let control = [ControlMessage::Ipv4PacketInfo(&info), segments];
            let control = if count > 1 { &control[..] } else { &control[..1] };
            sendmsg(lease.socket().as_raw_fd(), &slices, control, flags, Some(&SockaddrIn::from(to)))
        }
        (Socket::Shared(_), SocketAddr::V6(_)) => Err(Errno::EAFNOSUPPORT),
    }
}

/// Microseconds since 1970 now, by the clock of the kernel's stamps.
pub(super) fn wall_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_to_a_shared_socket_arrives_with_its_time_and_address() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let sockets = Sockets::default();
        let peers: Vec<Joining> = (0..2).map(|_| sockets.open(to).unwrap()).collect();
        let local: Vec<SocketAddr> = peers.iter().map(|joining| joining.udp.local_addr().unwrap()).collect();
        // While a peer joins, what comes is its own.
        server.send_to(b"join", local[1]).unwrap();
        let mut bytes = [0; 64];
        assert_eq!(peers[1].udp.recv(&mut bytes).await.unwrap(), 4);
        let peers: Vec<Socket> = peers.into_iter().map(|joining| joining.finish(to).unwrap()).collect();
        let Socket::Shared(lease) = &peers[1] else { panic!() };

        let before = wall_micros();
        for i in 0..100u8 {
            server.send_to(&[i; 100], local[usize::from(i % 2)]).unwrap();
        }
        let (mut receiver, mut seen) = (Receiver::new(), Vec::new());
        let mut take = |datagram: Datagram<'_>| {
            assert_eq!(datagram.bytes, [datagram.bytes[0]; 100]);
            assert!(datagram.at + 1 >= before && datagram.at <= wall_micros());
            seen.push((datagram.bytes[0], datagram.number));
        };
        // Where the kernel grants little, each has a socket of its own, and the address says less.
        let shared = local[0].port() == local[1].port();
        let mut sockets_read = vec![lease.socket()];
        if let (false, Socket::Shared(first)) = (shared, &peers[0]) {
            sockets_read.push(first.socket());
        }
        for socket in sockets_read {
            while receiver.receive(socket.as_raw_fd(), &mut take) {}
        }
        seen.sort_unstable();
        let expected = |i: u8| (i, Some(if shared { u32::from(i % 2) } else { 0 }));
        assert_eq!(seen, (0..100).map(expected).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn datagrams_leave_together_and_arrive_one_by_one_from_the_peers_address() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let joining = Sockets::default().open(to).unwrap();
        let local = joining.udp.local_addr().unwrap();
        let socket = joining.finish(to).unwrap();
        let mut sender = Sender::new();
        let lens = [100, 100, 100, 40, 100, 200, 7];
        for (i, &len) in lens.iter().enumerate() {
            sender.room()[..len].fill(i as u8);
            sender.push(len);
        }
        sender.send(&socket, to);
        let mut bytes = [0; 2048];
        for (i, &len) in lens.iter().enumerate() {
            assert_eq!(server.recv_from(&mut bytes).unwrap(), (len, local));
            assert_eq!(bytes[..len], vec![i as u8; len]);
        }
        assert!(!sender.is_full());
    }

    #[test]
    fn a_send_has_equal_datagrams_and_a_shorter_last_one() {
        assert_eq!(segments(&[9, 9, 9]), 3);
        assert_eq!(segments(&[9, 9, 5, 9]), 3);
        assert_eq!(segments(&[9, 10]), 1);
        assert_eq!(segments(&[9]), 1);
    }
}
