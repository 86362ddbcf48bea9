//! The `frames` backend: packets leave as whole Ethernet frames, past the kernel's UDP and IP.
//!
//! A packet is protected in memory that the kernel shares; its header is written just before it, and the frame is queued
//! where it lies. What takes the UDP socket two thirds of its time (routing, neighbour, netfilter, queueing) is done
//! once for each destination and not for each packet. Datagrams still come in by the socket, which also takes whatever
//! cannot leave as a frame: to unknown neighbours, on other devices, longer than the path's MTU.
//!
//! docs/decisions/0015 says why it is AF_XDP, and what is given up with the kernel's way out: firewall rules, address
//! translation and traffic shaping for what leaves.

mod header;
mod neighbours;
mod netlink;
mod ring;
mod routes;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use rustix::net::sockopt;

use self::header::{Checksums, HEADER_LEN_MAX};
use self::netlink::{Device, Dump, Message, Netlink};
use self::ring::{METADATA_LEN, Ring};
use self::routes::{Local, PeerRoutes};
use super::udp::Socket;
use crate::config::{FRAMES_PAUSE, Micros};
use crate::outbox::{HEADROOM, Outbox};
use crate::slab::Slab;

const _: () = assert!(HEADER_LEN_MAX + METADATA_LEN <= HEADROOM);

/// Queues of a device that are tried.
const QUEUES_MAX: u32 = 256;

/// Why packets cannot leave as frames here.
#[derive(Debug, thiserror::Error)]
pub enum Unsuited {
    /// The process lacks the capability.
    #[error("it takes CAP_NET_RAW (AmbientCapabilities=CAP_NET_RAW in the systemd unit)")]
    Forbidden,
    /// The kernel has no AF_XDP.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)")]
    NoXdp,
    /// The memory that the kernel shares cannot be locked.
    #[error("{0} bytes of memory cannot be locked (LimitMEMLOCK=infinity in the systemd unit)")]
    NoMemory(usize),
    /// The media addresses are on no device that carries frames.
    #[error("no media address is on an Ethernet device that is up")]
    NoDevice,
    /// All queues of the device are in use.
    #[error("every queue of {0} is in use: a device carries one worker for each of its queues (ethtool -l)")]
    NoQueue(String),
    /// Anything else.
    #[error("{0}")]
    Other(#[from] io::Error),
}

/// What became of a flush.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Sent {
    /// Packets that were queued as frames.
    pub(super) frames: u64,
    /// Packets that were left to the sockets, because they could not leave as frames.
    pub(super) left: u64,
    /// Packets that were left to the sockets, because they are trains.
    pub(super) trains: u64,
}

/// One worker's way out as frames.
pub(super) struct Frames {
    ring: Ring,
    ways: PeerRoutes,
    device_name: String,
    queue: u32,
    checksums: Checksums,
    /// After an error of the device, all goes by the socket until then.
    paused_until: Micros,
    error: Option<io::Error>,
}

impl Frames {
    /// Opens the backend for a worker's sockets, over the memory of its outbox. `index` is the queue that is tried first.
    pub(super) fn open(sockets: &[Socket], slab: &Slab, index: u32, seed: [u8; 16]) -> Result<Frames, Unsuited> {
        let device = device_of(sockets)?;
        let device_name = name_of(device.index)?;
        let (ring, queue, checksums) = open_ring(slab, device.index, &device_name, index)?;
        let locals = sockets.iter().map(|socket| Local { address: socket.local(), hops: hops(socket) }).collect();
        let ways = PeerRoutes::new(device, locals, seed)?;
        Ok(Frames { ring, ways, device_name, queue, checksums, paused_until: 0, error: None })
    }

    /// One line about it.
    pub(super) fn describe(&self) -> String {
        let sums = match self.checksums {
            Checksums::Device => "checksums by the device",
            Checksums::Ours => "checksums by the worker",
        };
        format!("packets leave as frames by queue {} of {} (AF_XDP, {sums})", self.queue, self.device_name)
    }

    /// Sends the chains whose peers can be reached by frames, and takes their packets out of the outbox. The others stay
    /// there, and so do long trains, which cost less by a socket.
    pub(super) fn send(&mut self, now: Micros, sockets: &[Socket], outbox: &mut Outbox) -> Sent {
        self.ways.refresh(now);
        let mut sent = Sent::default();
        if now >= self.paused_until && self.ring.pending() > 0 {
            // What an error left behind goes first; if that fails again, nothing is added to it.
            self.kick(now);
        }
        if now < self.paused_until || !self.ways.is_open() {
            sent.left = outbox.len() as u64;
            return sent;
        }
        for chain in 0..outbox.chain_count() {
            let (to, len_max) = outbox.chain_to(chain);
            if to.path.is_tcp() {
                continue;
            }
            let may_train = sockets.get(usize::from(to.path.socket)).is_some_and(Socket::has_gso);
            if may_train && outbox.is_train(chain) {
                sent.trains += outbox.chain_len(chain);
                continue;
            }
            match self.ways.header(now, to.peer, to.path, len_max) {
                Some(header) => {
                    let ring = &mut self.ring;
                    sent.frames += outbox.take_chain(chain, |room, packet, at| ring.push(header, room, packet, at));
                }
                None => sent.left += outbox.chain_len(chain),
            }
        }
        self.kick(now);
        self.reap(outbox);
        sent
    }

    /// Goes on with what the device did not take at once. Whether there is still something left.
    pub(super) fn go_on(&mut self, now: Micros, outbox: &mut Outbox) -> bool {
        if self.ring.pending() > 0 && now >= self.paused_until {
            self.kick(now);
        }
        self.reap(outbox);
        self.ring.pending() > 0
    }

    /// Whether the device has not taken everything yet.
    pub(super) fn is_pending(&self) -> bool {
        self.ring.pending() > 0
    }

    /// The error because of which packets go by the socket for now, once.
    pub(super) fn take_error(&mut self) -> Option<(io::Error, &str)> {
        self.error.take().map(|error| (error, self.device_name.as_str()))
    }

    fn kick(&mut self, now: Micros) {
        if let Err(error) = self.ring.kick() {
            // The device is down or gone. What is queued stays queued, and leaves if it comes back.
            self.paused_until = now + FRAMES_PAUSE;
            self.error = Some(error);
        }
    }

    fn reap(&mut self, outbox: &mut Outbox) {
        self.ring.reap(|address| outbox.give_back(address));
    }
}

/// The first queue that is free, from `index` on; with checksums by the device where the kernel can ask for that.
fn open_ring(slab: &Slab, device: u32, name: &str, index: u32) -> Result<(Ring, u32, Checksums), Unsuited> {
    let mut checksums = Checksums::Device;
    let (mut queue, mut has_wrapped) = (index, false);
    loop {
        match Ring::open(slab, device, queue, checksums) {
            Ok(ring) => return Ok((ring, queue, checksums)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => return Err(Unsuited::Forbidden),
                Some(libc::EAFNOSUPPORT | libc::ESOCKTNOSUPPORT) => return Err(Unsuited::NoXdp),
                Some(libc::ENOBUFS | libc::ENOMEM) => return Err(Unsuited::NoMemory(slab.len())),
                Some(libc::EBUSY) if queue < QUEUES_MAX => queue += 1,
                // Linux before 6.8 does not know of metadata; then there is no such queue.
                Some(libc::EINVAL) if checksums == Checksums::Device && queue == index => checksums = Checksums::Ours,
                Some(libc::EINVAL) if !has_wrapped && index > 0 => (queue, has_wrapped) = (0, true),
                Some(libc::EINVAL | libc::EBUSY) => return Err(Unsuited::NoQueue(name.to_owned())),
                _ => return Err(error.into()),
            },
        }
    }
}

/// The device of the first media address that is on one which carries frames.
fn device_of(sockets: &[Socket]) -> Result<Device, Unsuited> {
    let mut netlink = Netlink::for_queries()?;
    let (mut devices, mut addresses) = (Vec::new(), Vec::new());
    netlink.dump(Dump::Devices, |message| devices.extend(device_in(message)))?;
    netlink.dump(Dump::Addresses, |message| addresses.extend(address_in(message)))?;
    let on = |ip: IpAddr| addresses.iter().filter(move |(_, other)| *other == ip).map(|(device, _)| *device);
    sockets
        .iter()
        .flat_map(|socket| on(socket.local().ip()))
        .find_map(|index| devices.iter().find(|device| device.index == index && device.is_suited))
        .copied()
        .ok_or(Unsuited::NoDevice)
}

fn device_in(message: Message) -> Option<Device> {
    if let Message::Device(device) = message { Some(device) } else { None }
}

fn address_in(message: Message) -> Option<(u32, IpAddr)> {
    if let Message::Address(device, ip) = message { Some((device, ip)) } else { None }
}

fn name_of(device: u32) -> io::Result<String> {
    let any = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::index_to_name(any.as_fd(), device)?)
}

/// The TTL or hop limit that the kernel would give the socket's packets.
fn hops(socket: &Socket) -> u8 {
    const USUAL: u8 = 64;
    match socket.local() {
        address if address.is_ipv4() => sockopt::ip_ttl(socket).ok().and_then(|ttl| u8::try_from(ttl).ok()),
        _ => sockopt::ipv6_unicast_hops(socket).ok(),
    }
    .unwrap_or(USUAL)
}
