//! Where packets go. With privilege each sink is a network of its own: a namespace that lives as long as the thread
//! that made it, so that nothing is left behind, whatever happens. Without privilege there is loopback.
//!
//! * **ifb**: a device that drops what it is given. What is measured is the kernel's way out and nothing else.
//! * **veth**: a cable to another namespace, where the packet is received, found to be for somebody else, and dropped:
//!   what a packet costs that really changes hands on this machine.
//! * **loopback**: sockets that nobody reads, with the smallest buffer there is.

#![allow(unsafe_code, reason = "a thread's namespace and a socket option have no safe form here")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::{fs, io, mem, thread};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

/// This machine's end of every network here, and where the receivers are: one address for each.
const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const RECEIVERS: Ipv4Addr = Ipv4Addr::new(10, 9, 128, 1);
const RECEIVER_PORT: u16 = 50_000;
/// The device that packets leave by.
pub(crate) const DEVICE: &str = "sink";

/// A kind of sink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ifb,
    Veth,
    Loopback,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Ifb => "ifb",
            Kind::Veth => "veth",
            Kind::Loopback => "loopback",
        }
    }
}

/// The receivers of one network.
pub(crate) struct Sinks {
    kind: Kind,
    addresses: Vec<SocketAddr>,
    /// On loopback each receiver is a socket; elsewhere there is nobody, and what they say is said for them.
    sockets: Vec<UdpSocket>,
    forger: Option<OwnedFd>,
    /// Dropped, it ends the other namespace.
    _peer: Option<Sender<()>>,
}

impl Sinks {
    /// Makes the network around the calling thread, with `count` receivers; threads that it starts live in it, too.
    pub(crate) fn open(kind: Kind, count: usize) -> io::Result<Sinks> {
        let mut sinks = Sinks { kind, addresses: Vec::new(), sockets: Vec::new(), forger: None, _peer: None };
        if kind == Kind::Loopback {
            for _ in 0..count {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                take_trains_whole(&socket)?;
                sinks.addresses.push(socket.local_addr()?);
                sinks.sockets.push(socket);
            }
            return Ok(sinks);
        }
        leave_namespace()?;
        ip("link set lo up")?;
        match kind {
            // Two queues: each row that sends frames takes one.
            Kind::Ifb => ip(&format!("link add {DEVICE} numtxqueues 2 numrxqueues 2 type ifb"))?,
            _ => sinks._peer = Some(lay_cable()?),
        }
        // Its announcements would be counted as packets.
        fs::write(format!("/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6"), "1").or_else(|error| {
            match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }
        })?;
        ip(&format!("addr add {OURS}/17 dev {DEVICE}"))?;
        ip(&format!("link set {DEVICE} up"))?;
        match kind {
            Kind::Ifb => ip(&format!("route add 10.9.128.0/17 dev {DEVICE}"))?,
            _ => {
                // A gateway that is known, and whose address is not the other end's: what comes there is not for it.
                ip(&format!("neigh add 10.9.0.2 lladdr 02:00:00:00:00:99 nud permanent dev {DEVICE}"))?;
                ip(&format!("route add 10.9.128.0/17 via 10.9.0.2 dev {DEVICE}"))?;
            }
        }
        let first = u32::from(RECEIVERS);
        sinks.addresses = (first..).take(count).map(|ip| (Ipv4Addr::from(ip), RECEIVER_PORT).into()).collect();
        let raw =
            rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?;
        sinks.forger = Some(raw);
        Ok(sinks)
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address that rows bind.
    pub(crate) fn local_ip(&self) -> IpAddr {
        if self.kind == Kind::Loopback { Ipv4Addr::LOCALHOST.into() } else { OURS.into() }
    }

    /// The sockets, where the receivers are sockets.
    pub(crate) fn sockets(&self) -> &[UdpSocket] {
        &self.sockets
    }

    /// Sends as the receiver `index` would.
    pub(crate) fn send_from(&self, index: usize, bytes: &[u8], to: SocketAddr) {
        match (&self.forger, to) {
            (Some(raw), SocketAddr::V4(to)) => {
                let IpAddr::V4(from) = self.addresses[index].ip() else { panic!("receivers have IPv4 addresses") };
                let packet = forge((from, RECEIVER_PORT), (*to.ip(), to.port()), bytes);
                rustix::net::sendto(raw, &packet, SendFlags::empty(), &to)
                    .expect("a raw socket sends what it is given");
            }
            _ => drop(self.sockets[index].send_to(bytes, to).expect("loopback takes a datagram")),
        }
    }

    /// How many buffers the device was given so far, a train being one; `None` on loopback, where many share it.
    pub(crate) fn taken(&self) -> Option<u64> {
        if self.kind == Kind::Loopback {
            return None;
        }
        let table = fs::read_to_string("/proc/thread-self/net/dev").expect("/proc is mounted");
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{DEVICE}:")[..]))?;
        let fields: Vec<u64> = line.split_ascii_whitespace().filter_map(|field| field.parse().ok()).collect();
        // An ifb counts what it is given as received; others as sent.
        fields.get(if self.kind == Kind::Ifb { 1 } else { 9 }).copied()
    }

    /// From here on a sink on loopback takes nothing more than a packet or two.
    pub(crate) fn close_buffers(&self) {
        for socket in &self.sockets {
            rustix::net::sockopt::set_socket_recv_buffer_size(socket, 1).expect("a socket");
        }
    }
}

/// Lets the kernel hand a train to this socket whole, so that a sink costs no splitting, as where a network device
/// does it.
fn take_trains_whole(socket: &UdpSocket) -> io::Result<()> {
    let one: libc::c_int = 1;
    let len = mem::size_of_val(&one) as libc::socklen_t;
    // SAFETY: the kernel reads one int, which lives across the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw const one).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread a network of its own.
fn leave_namespace() -> io::Result<()> {
    // SAFETY: it has no memory to get wrong; the thread's sockets and devices are new from here on.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A veth pair from here to a namespace of its own, which ends with what is returned.
fn lay_cable() -> io::Result<Sender<()>> {
    let (end, ended) = channel::<()>();
    let (started, outcome) = channel();
    thread::Builder::new().name("the other end".into()).spawn(move || {
        let place = leave_namespace().and_then(|()| fs::read_link("/proc/thread-self"));
        if started.send(place).is_ok() {
            let _ = ended.recv();
        }
    })?;
    let place = outcome.recv().map_err(|_| io::Error::other("the other end has failed"))??;
    let thread_id = place.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    ip(&format!(
        "link add {DEVICE} numtxqueues 2 numrxqueues 2 type veth peer name other numtxqueues 2 numrxqueues 2"
    ))?;
    ip(&format!("link set other up netns {thread_id}"))?;
    Ok(end)
}

/// `ip`, in the namespace of the calling thread.
fn ip(arguments: &str) -> io::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(io::Error::other(format!("ip {arguments}: {}", said.trim()))) }
}

/// An IPv4 packet with a UDP datagram; the kernel fills in the lengths and checksum of IP, and UDP's may be zero.
fn forge(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), bytes: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, libc::IPPROTO_UDP as u8, 0, 0];
    packet.extend(from.0.octets());
    packet.extend(to.0.octets());
    packet.extend(from.1.to_be_bytes());
    packet.extend(to.1.to_be_bytes());
    packet.extend((bytes.len() as u16 + 8).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(bytes);
    packet
}
