//! The `udp` backend's sockets: where a datagram enters the process.
//!
//! A worker has one socket for each media address, all bound at start. Datagrams are taken many at a time by
//! `recvmmsg`, and with UDP_GRO the kernel hands over neighbours of one flow in one buffer. Their way out is
//! [`super::train`].

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::slice;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::address::remote_of;
use super::clock::Clock;
use crate::config::{BATCH_LEN_MAX, Micros, SOCKET_BUFFER_BYTES};
use crate::path::Datagram;
use crate::path::Path;
use crate::slab::Slab;

/// Bytes of one receive buffer: the longest datagram, or the longest merge of datagrams that UDP_GRO makes.
pub(super) const BUFFER_LEN: usize = 65_536;

/// Room for the control messages of one datagram: a timestamp (32 bytes) and a segment size (24), and as much again.
pub(super) const CONTROL_WORDS: usize = 16;

/// How often a turn asks again when the kernel reports a pending error (an ICMP message about an earlier send)
/// instead of datagrams.
const RECEIVE_ERRORS_MAX: usize = 4;

/// Why a media socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has the port.
    #[error(
        "UDP port {} on {} is taken by another process: stop that process, or move uprtc with --media-port",
        .0.port(), .0.ip()
    )]
    PortTaken(SocketAddr),
    /// No interface has the address.
    #[error(
        "{} is not an address of this machine: name one of its own addresses with --media-ip; behind a NAT, say by announce \
         under which public address clients reach it",
        .0.ip()
    )]
    NotOurAddress(SocketAddr),
    /// The port is privileged.
    #[error("UDP port {} on {} needs CAP_NET_BIND_SERVICE: choose a port above 1023 with --media-port", .0.port(), .0.ip())]
    Forbidden(SocketAddr),
    /// The address family is switched off.
    #[error("this kernel has no IPv6: leave {} out of --media-ip", .0.ip())]
    NoIpv6(SocketAddr),
    /// Anything else.
    #[error("cannot open a UDP socket on {0}: {1}")]
    Other(SocketAddr, io::Error),
}

/// One bound, non-blocking UDP socket of a worker.
#[derive(Debug)]
pub struct Socket {
    inner: UdpSocket,
    local: SocketAddr,
    /// Whether the kernel merges what it receives. Without it each datagram has its own buffer.
    has_gro: bool,
    /// Whether the kernel splits trains. Cleared for good when the device turns out to be unable.
    pub(super) has_gso: bool,
    granted: Granted,
}

/// What the kernel granted of the socket buffers asked for, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// Of the receive buffer.
    pub receive: usize,
    /// Of the send buffer.
    pub send: usize,
}

impl Granted {
    /// The advice for the operator when the kernel granted less than was asked.
    pub fn advice(self) -> Option<String> {
        let lacking = |name: &str, granted: usize| {
            (granted < SOCKET_BUFFER_BYTES).then(|| format!("net.core.{name}={SOCKET_BUFFER_BYTES}"))
        };
        let settings: Vec<String> =
            [lacking("rmem_max", self.receive), lacking("wmem_max", self.send)].into_iter().flatten().collect();
        (!settings.is_empty()).then(|| {
            format!(
                "socket buffers are smaller than asked for (receive {} kB, send {} kB of {} kB), so bursts may be \
                 lost: sysctl -w {}",
                self.receive / 1024,
                self.send / 1024,
                SOCKET_BUFFER_BYTES / 1024,
                settings.join(" ")
            )
        })
    }
}

impl Socket {
    /// Opens a socket on one address; port 0 asks the kernel for a free one.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let inner = open(address).map_err(|errno| match errno {
            Errno::ADDRINUSE => BindError::PortTaken(address),
            Errno::ADDRNOTAVAIL => BindError::NotOurAddress(address),
            Errno::ACCESS | Errno::PERM => BindError::Forbidden(address),
            Errno::AFNOSUPPORT => BindError::NoIpv6(address),
            other => BindError::Other(address, other.into()),
        })?;
        let local = inner.local_addr().map_err(|error| BindError::Other(address, error))?;
        set_option(inner.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
            .map_err(|error| BindError::Other(address, error))?;
        let has_gro = set_option(inner.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        // 0 means "no segmentation unless a message asks for it", which is what we want; only the kernels that
        // know the option accept it.
        let has_gso = set_option(inner.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let granted = enlarge_buffers(&inner);
        Ok(Self { inner, local, has_gro, has_gso, granted })
    }

    /// The address it is bound to, with the port that the kernel chose if it was asked to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What the kernel granted of the buffers.
    pub fn granted(&self) -> Granted {
        self.granted
    }

    /// Whether the kernel merges what it receives (UDP_GRO).
    pub fn has_gro(&self) -> bool {
        self.has_gro
    }

    /// Whether trains are sent (UDP_SEGMENT).
    pub fn has_gso(&self) -> bool {
        self.has_gso
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

fn open(address: SocketAddr) -> rustix::io::Result<UdpSocket> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if address.is_ipv6() {
        // Each address has its own socket; a dual-stack one would take the IPv4 port away from its sibling.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    Ok(UdpSocket::from(fd))
}

/// Asks for large buffers, with privilege if we have it, and says what was granted. The kernel doubles what is
/// asked for to cover its own bookkeeping and reports the double.
fn enlarge_buffers(socket: &UdpSocket) -> Granted {
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER_BYTES);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, SOCKET_BUFFER_BYTES).is_err() {
        let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER_BYTES);
    }
    Granted {
        receive: sockopt::socket_recv_buffer_size(socket).unwrap_or(0) / 2,
        send: sockopt::socket_send_buffer_size(socket).unwrap_or(0) / 2,
    }
}

pub(super) fn set_option(fd: RawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads `sizeof(int)` bytes of `value`, which lives across the call.
    let result = unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), mem::size_of::<libc::c_int>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What one message brought: a datagram, or several of equal length that the kernel merged.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    path: Path,
    at: Micros,
    /// Where its first byte lies in the memory of the batch. No two arrivals overlap.
    place: usize,
    len: usize,
    /// Bytes of each datagram in the buffer; the last may be shorter.
    segment: usize,
}

impl Arrival {
    pub(super) fn new(
        socket: u8,
        remote: SocketAddr,
        control: Control,
        place: usize,
        len: usize,
        clock: &mut Clock,
        now: Micros,
    ) -> Self {
        Arrival {
            path: Path::new(socket, remote),
            at: control.stamp.map_or(now, |stamp| clock.map(stamp, now)),
            place,
            len,
            segment: control.segment.unwrap_or(len),
        }
    }
}

/// Where the datagrams of a batch lie.
enum Memory {
    /// Buffers that `recvmmsg` is given, one after the other.
    Own(Vec<u8>),
    /// Those of a ring, which fills any of them.
    Shared(Rc<Slab>),
}

/// Buffers for one batch of datagrams, with everything that `recvmmsg` needs, made once.
pub struct Batch {
    memory: Memory,
    arrivals: Vec<Arrival>,
    names: Vec<MaybeUninit<libc::sockaddr_storage>>,
    controls: Vec<[u64; CONTROL_WORDS]>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    /// An empty batch. Its buffers are mapped, but the kernel gives memory only to those that get used.
    pub fn new() -> Self {
        Self {
            memory: Memory::Own(vec![0; BATCH_LEN_MAX * BUFFER_LEN]),
            arrivals: Vec::with_capacity(BATCH_LEN_MAX),
            names: vec![MaybeUninit::uninit(); BATCH_LEN_MAX],
            controls: vec![[0; CONTROL_WORDS]; BATCH_LEN_MAX],
            vectors: Vec::with_capacity(BATCH_LEN_MAX),
            headers: Vec::with_capacity(BATCH_LEN_MAX),
        }
    }

    /// An empty batch of what a ring puts into its buffers.
    pub(super) fn of_ring(slab: Rc<Slab>) -> Self {
        Batch {
            memory: Memory::Shared(slab),
            arrivals: Vec::with_capacity(BATCH_LEN_MAX),
            names: Vec::new(),
            controls: Vec::new(),
            vectors: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// Whether its datagrams lie in this memory.
    pub(super) fn shares(&self, slab: &Rc<Slab>) -> bool {
        matches!(&self.memory, Memory::Shared(own) if Rc::ptr_eq(own, slab))
    }

    /// Empties the batch; where each datagram lay.
    pub(super) fn take_places(&mut self) -> impl Iterator<Item = usize> {
        self.arrivals.drain(..).map(|arrival| arrival.place)
    }

    /// Adds what a ring brought, in a buffer that no other arrival of this batch is in.
    pub(super) fn note_arrival(&mut self, arrival: Arrival) {
        self.arrivals.push(arrival);
    }

    /// Whether nothing was received.
    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// The datagrams, in the order of their arrival at each socket, merged ones split again.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let memory = match &mut self.memory {
            Memory::Own(buffers) => buffers.as_mut_ptr(),
            Memory::Shared(slab) => slab.as_ptr(),
        };
        self.arrivals.iter().flat_map(move |&arrival| {
            let Arrival { path, at, place, len, segment } = arrival;
            // SAFETY: an arrival lies in the memory of its batch, and no two of them overlap. The batch is borrowed
            // as long as the slices, and what a ring has put into its buffers is nobody's but the batch's until then.
            let bytes = unsafe { slice::from_raw_parts_mut(memory.add(place), len) };
            Segments { rest: Some(bytes), segment }.map(move |bytes| Datagram { path, at, bytes })
        })
    }

    pub(super) fn clear(&mut self) {
        self.arrivals.clear();
    }

    pub(super) fn is_full(&self) -> bool {
        self.arrivals.len() == BATCH_LEN_MAX
    }

    /// Takes what one socket has, as far as there is room.
    pub(super) fn receive(&mut self, index: u8, socket: &Socket, clock: &mut Clock, now: Micros) {
        for _ in 0..RECEIVE_ERRORS_MAX {
            match self.receive_once(socket.inner.as_raw_fd()) {
                Ok(count) => return self.note(index, count, clock, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // EINTR, or the report of an ICMP message: it is taken by being returned, so ask again.
                Err(_) => {}
            }
        }
    }

    /// One `recvmmsg` into the unused buffers; how many messages came.
    fn receive_once(&mut self, fd: RawFd) -> io::Result<usize> {
        let used = self.arrivals.len();
        self.vectors.clear();
        self.headers.clear();
        let Memory::Own(buffers) = &mut self.memory else { return Ok(0) };
        for buffer in buffers[used * BUFFER_LEN..].chunks_exact_mut(BUFFER_LEN) {
            self.vectors.push(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER_LEN });
        }
        let targets = self.vectors.iter_mut().zip(&mut self.names[used..]).zip(&mut self.controls[used..]);
        for ((vector, name), control) in targets {
            // SAFETY: msghdr is a C structure of integers and pointers, for which all zeros is a value.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = mem::size_of_val(control) as _;
            self.headers.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
        // SAFETY: every header points at a name, a vector, a control area and (through the vector) a buffer of the
        // stated sizes. They are distinct, live in `self`, and are not touched until the call returns.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }

    /// Writes down what the last `recvmmsg` brought.
    fn note(&mut self, index: u8, count: usize, clock: &mut Clock, now: Micros) {
        for header in &self.headers[..count] {
            // SAFETY: the kernel wrote name and control messages, of the lengths in this header, which points at them.
            let (remote, control) = unsafe { (remote_of(&header.msg_hdr), Control::parse(&header.msg_hdr)) };
            let (place, len) = (self.arrivals.len() * BUFFER_LEN, (header.msg_len as usize).min(BUFFER_LEN));
            self.arrivals.push(Arrival::new(index, remote, control, place, len, clock, now));
        }
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// Splits a merged buffer at the segment size. A datagram without bytes is a datagram, too.
struct Segments<'a> {
    rest: Option<&'a mut [u8]>,
    segment: usize,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a mut [u8];

    fn next(&mut self) -> Option<&'a mut [u8]> {
        let rest = self.rest.take()?;
        if rest.len() <= self.segment || self.segment == 0 {
            return Some(rest);
        }
        let (first, rest) = rest.split_at_mut(self.segment);
        self.rest = Some(rest);
        Some(first)
    }
}

/// The control messages that we asked for.
#[derive(Default)]
pub(super) struct Control {
    /// Wall-clock time of arrival.
    stamp: Option<Duration>,
    /// UDP_GRO's segment size, bytes.
    segment: Option<usize>,
}

impl Control {
    /// Reads what the kernel wrote.
    ///
    /// # Safety
    /// The header's control area must be as the kernel returned it, aligned for a `cmsghdr`.
    pub(super) unsafe fn parse(header: &libc::msghdr) -> Self {
        let mut found = Self::default();
        // SAFETY: the kernel wrote the control area, so it holds well-formed messages of `msg_controllen` bytes in all; the macros stay inside, and each payload is read only if its length says
        // that it is there. Payloads are read unaligned.
        unsafe {
            let mut message = libc::CMSG_FIRSTHDR(header);
            while let Some(cmsg) = message.as_ref() {
                let data = libc::CMSG_DATA(cmsg);
                let len = cmsg.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                match (cmsg.cmsg_level, cmsg.cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) if len >= mem::size_of::<libc::timespec>() => {
                        found.stamp = duration(data.cast::<libc::timespec>().read_unaligned());
                    }
                    (libc::SOL_UDP, libc::UDP_GRO) if len >= mem::size_of::<libc::c_int>() => {
                        found.segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(header, cmsg);
            }
        }
        found
    }
}

fn duration(time: libc::timespec) -> Option<Duration> {
    let nanos = u32::try_from(time.tv_nsec).ok().filter(|&nanos| nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::super::train::Egress;
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::Instant;

    const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

    /// One datagram as the worker gets it.
    struct Got {
        remote: SocketAddr,
        at: Micros,
        bytes: Vec<u8>,
    }

    /// Receives until `count` datagrams are here or nothing comes for two seconds.
    fn receive(socket: &Socket, count: usize) -> Vec<Got> {
        let mut clock = Clock::new(Instant::now());
        let mut batch = Batch::new();
        let mut got = Vec::new();
        while got.len() < count {
            let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
            if poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience)).unwrap() == 0 {
                break;
            }
            batch.clear();
            let now = clock.now();
            batch.receive(3, socket, &mut clock, now);
            got.extend(batch.datagrams().map(|datagram| {
                assert_eq!(datagram.path.socket, 3);
                assert!(datagram.at <= now);
                Got { remote: datagram.path.remote, at: datagram.at, bytes: datagram.bytes.to_vec() }
            }));
        }
        got
    }

    fn send(socket: &mut Socket, remote: SocketAddr, packets: &[Vec<u8>]) -> super::super::train::Sent {
        let mut egress = Egress::new();
        egress.send(socket, std::iter::once((remote, packets.iter().map(Vec::as_slice))));
        egress.finish()
    }

    /// Packets of these lengths that tell their place in the sequence.
    fn packets(lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
        lengths.into_iter().enumerate().map(|(i, len)| (0..len).map(|b| (b ^ (i * 7)) as u8).collect()).collect()
    }

    #[test]
    fn trains_of_odd_sizes_arrive_as_the_packets_that_left() {
        for ip in LOOPBACKS {
            let mut left = Socket::bind((ip, 0).into()).unwrap();
            let right = Socket::bind((ip, 0).into()).unwrap();
            assert!(left.has_gso() && right.has_gro(), "kernel 5.0 or later");
            let lengths = [1200; 9].into_iter().chain([701]).chain([1; 5]).chain([0, 33, 33, 32, 33, 1472, 1473, 9000]);
            let sent = packets(lengths.chain([65_507]).chain([1200; 100]).chain([1199]));
            let flushed = send(&mut left, right.local(), &sent);
            assert_eq!(flushed.failed, 0);
            assert!(flushed.trains < 20, "{} sends for {} packets", flushed.trains, sent.len());
            let got = receive(&right, sent.len());
            assert_eq!(got.len(), sent.len());
            for (i, (got, sent)) in got.iter().zip(&sent).enumerate() {
                assert_eq!(got.remote, left.local());
                assert!(got.bytes == *sent, "packet {i} of {} bytes arrived as {}", sent.len(), got.bytes.len());
            }
        }
    }

    #[test]
    fn a_train_to_a_plain_socket_is_split_by_the_kernel() {
        let mut left = Socket::bind((LOOPBACKS[0], 0).into()).unwrap();
        let right = UdpSocket::bind((LOOPBACKS[0], 0)).unwrap();
        right.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let sent = packets([500, 500, 500, 20]);
        assert_eq!(
            send(&mut left, right.local_addr().unwrap(), &sent),
            super::super::train::Sent { trains: 1, failed: 0 }
        );
        let mut buffer = [0; 2000];
        for packet in &sent {
            let len = right.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], packet[..]);
        }
    }

    #[test]
    fn the_time_of_arrival_is_the_kernels() {
        let socket = Socket::bind((LOOPBACKS[0], 0).into()).unwrap();
        let mut clock = Clock::new(Instant::now());
        let before = clock.now();
        UdpSocket::bind((LOOPBACKS[0], 0)).unwrap().send_to(b"stamp me", socket.local()).unwrap();
        let after = clock.now();
        // The worker is busy elsewhere for a while.
        std::thread::sleep(Duration::from_millis(30));
        let mut batch = Batch::new();
        let now = clock.now();
        batch.receive(0, &socket, &mut clock, now);
        let at = batch.datagrams().next().expect("loopback delivers at once").at;
        assert!((before - 1000..=after + 1000).contains(&at), "sent {before} to {after}, stamped {at}, read {now}");
    }

    #[test]
    fn merged_datagrams_have_a_time_too() {
        let mut left = Socket::bind((LOOPBACKS[1], 0).into()).unwrap();
        let right = Socket::bind((LOOPBACKS[1], 0).into()).unwrap();
        send(&mut left, right.local(), &packets([1000; 40]));
        let got = receive(&right, 40);
        assert_eq!(got.len(), 40);
        assert!(got.iter().all(|g| g.at == got[0].at), "one train, one arrival");
    }

    #[test]
    fn a_batch_takes_what_fits_and_leaves_the_rest() {
        let socket = Socket::bind((LOOPBACKS[0], 0).into()).unwrap();
        let sender = UdpSocket::bind((LOOPBACKS[0], 0)).unwrap();
        for i in 0..=BATCH_LEN_MAX {
            sender.send_to(&[i as u8], socket.local()).unwrap();
        }
        let (mut clock, mut batch) = (Clock::new(Instant::now()), Batch::new());
        batch.receive(0, &socket, &mut clock, 0);
        assert!(batch.is_full());
        assert_eq!(batch.datagrams().count(), BATCH_LEN_MAX);
        batch.receive(0, &socket, &mut clock, 0);
        assert_eq!(batch.datagrams().count(), BATCH_LEN_MAX, "no room, nothing taken");
        batch.clear();
        batch.receive(0, &socket, &mut clock, 0);
        assert_eq!(batch.datagrams().map(|d| d.bytes.to_vec()).collect::<Vec<_>>(), [[BATCH_LEN_MAX as u8]]);
    }

    #[test]
    fn a_closed_port_at_the_other_end_is_harmless() {
        for ip in LOOPBACKS {
            let mut socket = Socket::bind((ip, 0).into()).unwrap();
            let closed = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
            let friend = UdpSocket::bind((ip, 0)).unwrap();
            friend.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            for _ in 0..3 {
                assert_eq!(send(&mut socket, closed, &packets([100, 100, 100])).failed, 0);
                assert_eq!(send(&mut socket, friend.local_addr().unwrap(), &packets([5])).failed, 0);
                friend.recv(&mut [0; 10]).unwrap();
            }
            friend.send_to(b"still there?", socket.local()).unwrap();
            assert_eq!(receive(&socket, 1)[0].bytes, b"still there?");
        }
    }

    #[test]
    fn where_nothing_can_be_sent_the_packets_count_as_failed() {
        let mut socket = Socket::bind((LOOPBACKS[0], 0).into()).unwrap();
        // A spoofed source port of 0, and an address that loopback has no way to.
        for remote in ["127.0.0.1:0", "192.0.2.1:9"] {
            let flushed = send(&mut socket, remote.parse().unwrap(), &packets([100, 100, 100]));
            assert_eq!(flushed, super::super::train::Sent { trains: 0, failed: 3 }, "{remote}");
        }
        assert!(socket.has_gso());
    }

    #[test]
    fn a_taken_port_names_the_port_and_the_option_that_moves_it() {
        let holder = UdpSocket::bind((LOOPBACKS[0], 0)).unwrap();
        let address = holder.local_addr().unwrap();
        let error = Socket::bind(address).unwrap_err();
        assert!(matches!(error, BindError::PortTaken(taken) if taken == address));
        let line = error.to_string();
        assert!(line.contains(&address.port().to_string()) && line.contains("--media-port"), "{line}");
    }

    #[test]
    fn a_foreign_address_names_the_option_that_corrects_it() {
        // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
        let line = Socket::bind("192.0.2.1:0".parse().unwrap()).unwrap_err().to_string();
        assert!(line.contains("192.0.2.1") && line.contains("--media-ip"), "{line}");
    }

    #[test]
    fn both_families_may_have_one_port() {
        let v4 = Socket::bind((Ipv4Addr::UNSPECIFIED, 0).into()).unwrap();
        Socket::bind((Ipv6Addr::UNSPECIFIED, v4.local().port()).into()).unwrap();
    }

    #[test]
    fn small_buffers_come_with_advice() {
        let full = Granted { receive: SOCKET_BUFFER_BYTES, send: SOCKET_BUFFER_BYTES };
        assert_eq!(full.advice(), None);
        let advice = Granted { receive: 212_992, ..full }.advice().unwrap();
        assert!(advice.contains("sysctl -w net.core.rmem_max=4194304") && !advice.contains("wmem"), "{advice}");
    }

    #[test]
    fn a_merge_is_split_at_the_segment() {
        let split = |len: usize, segment: usize| -> Vec<usize> {
            Segments { rest: Some(&mut vec![0; len]), segment }.map(|s| s.len()).collect()
        };
        assert_eq!(split(10, 4), [4, 4, 2]);
        assert_eq!(split(8, 4), [4, 4]);
        assert_eq!(split(3, 4), [3]);
        assert_eq!(split(0, 0), [0]);
        assert_eq!(split(5, 0), [5]);
    }
}
