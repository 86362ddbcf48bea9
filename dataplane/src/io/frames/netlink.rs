//! What the kernel knows of routes, neighbours and devices, asked and told over rtnetlink (RFC 3549).
//!
//! Messages are read with a bound on every length, and what is not understood is passed over. Nothing here allocates
//! after the start, and nothing waits: the kernel answers a question before the call that asks it returns.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::header::Mac;

/// Bytes that one read takes: the kernel's own bound on a part of a dump.
const BUFFER_LEN: usize = 32 * 1024;
/// Bytes of the header that every message begins with.
const MESSAGE_HEADER_LEN: usize = 16;

const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u8 = libc::AF_INET6 as u8;

/// Groups whose changes may move a packet's way, as bits: devices, neighbours, addresses, routes and rules.
const GROUPS: u32 = group(libc::RTNLGRP_LINK)
    | group(libc::RTNLGRP_NEIGH)
    | group(libc::RTNLGRP_IPV4_IFADDR)
    | group(libc::RTNLGRP_IPV4_ROUTE)
    | group(libc::RTNLGRP_IPV4_RULE)
    | group(libc::RTNLGRP_IPV6_IFADDR)
    | group(libc::RTNLGRP_IPV6_ROUTE)
    | group(libc::RTNLGRP_IPV6_RULE);

const fn group(number: libc::c_uint) -> u32 {
    1 << (number - 1)
}

/// A route as the kernel would take it now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Route {
    pub(super) device: u32,
    /// Who is asked for on the device: the gateway, or the destination itself.
    pub(super) next: IpAddr,
    /// Bytes of an IP packet, where the route knows better than the device (RFC 1191, RFC 8201).
    pub(super) mtu: Option<u32>,
    /// To one host, over plain IP. Nothing else is for us.
    pub(super) is_plain: bool,
}

/// A neighbour's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Neighbour {
    pub(super) device: u32,
    pub(super) ip: IpAddr,
    /// Its hardware address, if it is known and may be used.
    pub(super) mac: Option<Mac>,
    /// Whether that address was confirmed lately, or need not be.
    pub(super) is_fresh: bool,
}

/// A network device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) mac: Mac,
    pub(super) mtu: u32,
    /// Up, and carrying Ethernet to others than ourselves.
    pub(super) is_suited: bool,
    /// It has no neighbours that would have to be asked for.
    pub(super) has_no_arp: bool,
}

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Message {
    Route(Route),
    /// Somewhere, routes, rules or addresses have changed.
    RoutesChanged,
    Neighbour(Neighbour),
    Device(Device),
    /// This device is no more.
    DeviceGone(u32),
    /// An address of ours, and the device that has it.
    Address(u32, IpAddr),
    /// The kernel refuses, by errno.
    Refused(i32),
    /// The end of a dump.
    Done,
    /// Nothing that matters here.
    Other,
}

/// A socket to the kernel, with the memory of its messages.
pub(super) struct Netlink {
    socket: OwnedFd,
    buffer: Box<[u8]>,
    sequence: u32,
}

/// Why there is nothing to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReadError {
    /// There is nothing.
    Empty,
    /// The kernel had more to say than the socket holds: what is known may be wrong.
    Overrun,
}

impl Netlink {
    /// A socket to ask with.
    pub(super) fn for_queries() -> io::Result<Netlink> {
        Netlink::open(0)
    }

    /// A socket that is told of changes.
    pub(super) fn subscribed() -> io::Result<Netlink> {
        Netlink::open(GROUPS)
    }

    fn open(groups: u32) -> io::Result<Netlink> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::NETLINK;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = rustix::net::socket_with(family, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Netlink { socket, buffer: vec![0; BUFFER_LEN].into(), sequence: 0 })
    }

    /// Asks which way a packet from one address to another goes. `None` if the kernel says that there is none.
    pub(super) fn route(&mut self, from: SocketAddr, to: SocketAddr) -> Option<Route> {
        let mut question = Question::new(libc::RTM_GETROUTE, libc::NLM_F_REQUEST, self.next_sequence());
        let (family, bits) = if to.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
        // struct rtmsg: family, both prefix lengths, and zeros: any table, any type.
        question.put(&[family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        question.attribute_ip(libc::RTA_DST, to.ip());
        question.attribute_ip(libc::RTA_SRC, from.ip());
        question.attribute(RTA_IP_PROTO, &[libc::IPPROTO_UDP as u8]);
        question.attribute(RTA_SPORT, &from.port().to_be_bytes());
        question.attribute(RTA_DPORT, &to.port().to_be_bytes());
        self.ask(&question).ok()?;
        let mut route = None;
        let sequence = self.sequence;
        let _ = self.read(|answered, message| match message {
            Message::Route(found) if answered == sequence => route = Some(found),
            _ => {}
        });
        route
    }

    /// Asks for everything of one kind and gives it to `each`. May wait for the kernel: for the start.
    pub(super) fn dump(&mut self, what: Dump, mut each: impl FnMut(Message)) -> io::Result<()> {
        let sequence = self.next_sequence();
        let mut question = Question::new(what as u16, libc::NLM_F_REQUEST | libc::NLM_F_DUMP, sequence);
        // The header of the kind: family "any", and zeros.
        question.put(&[0; 16][..what.header_len()]);
        self.ask(&question)?;
        let mut is_done = false;
        while !is_done {
            let outcome = self.read(|answered, message| match message {
                _ if answered != sequence => {}
                Message::Done | Message::Refused(_) => is_done = true,
                message => each(message),
            });
            match outcome {
                Ok(()) | Err(ReadError::Empty) if is_done => {}
                Ok(()) => {}
                Err(_) => return Err(io::Error::other("the kernel's answer was cut short")),
            }
        }
        Ok(())
    }

    /// Takes what there is to hear.
    pub(super) fn read_changes(&mut self, mut each: impl FnMut(Message)) -> Result<(), ReadError> {
        self.read(|_, message| each(message))
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn ask(&mut self, question: &Question) -> io::Result<()> {
        // An answer that came too late for an earlier question would be taken for this one's; sequences tell them apart.
        rustix::net::send(&self.socket, question.bytes(), SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Reads once, and gives each message with its sequence number.
    fn read(&mut self, mut each: impl FnMut(u32, Message)) -> Result<(), ReadError> {
        let len = loop {
            match rustix::net::recv(self.socket.as_fd(), &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((len, _)) => break len,
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Err(ReadError::Overrun),
                Err(_) => return Err(ReadError::Empty),
            }
        };
        messages(&self.buffer[..len], |_, sequence, message| each(sequence, message));
        Ok(())
    }
}

/// What can be asked for in whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(super) enum Dump {
    Devices = libc::RTM_GETLINK,
    Addresses = libc::RTM_GETADDR,
    Neighbours = libc::RTM_GETNEIGH,
}

impl Dump {
    /// Bytes of struct ifinfomsg, ifaddrmsg, ndmsg.
    fn header_len(self) -> usize {
        match self {
            Dump::Devices => 16,
            Dump::Addresses => 8,
            Dump::Neighbours => 12,
        }
    }
}

// linux/rtnetlink.h, enum rtattr_type_t; not in `libc`.
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
const RTAX_MTU: u16 = 2;

/// A message to the kernel.
struct Question {
    bytes: [u8; 128],
    len: usize,
}

impl Question {
    fn new(kind: u16, flags: libc::c_int, sequence: u32) -> Question {
        let mut question = Question { bytes: [0; 128], len: 4 };
        question.put(&kind.to_ne_bytes());
        question.put(&(flags as u16).to_ne_bytes());
        question.put(&sequence.to_ne_bytes());
        question.put(&[0; 4]);
        question
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self.bytes[..4].copy_from_slice(&(self.len as u32).to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.put(&(4 + value.len() as u16).to_ne_bytes());
        self.put(&kind.to_ne_bytes());
        self.put(value);
        self.put(&[0; 3][..value.len().next_multiple_of(4) - value.len()]);
    }

    fn attribute_ip(&mut self, kind: u16, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.attribute(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attribute(kind, &ip.octets()),
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Gives each message of what was read: its kind, its sequence number, what it says.
fn messages(mut bytes: &[u8], mut each: impl FnMut(u16, u32, Message)) {
    while let (Some(len), Some(kind), Some(sequence)) = (u32_at(bytes, 0), u16_at(bytes, 4), u32_at(bytes, 8)) {
        let len = len as usize;
        let Some(body) = bytes.get(MESSAGE_HEADER_LEN..len) else { return };
        each(kind, sequence, parse(kind, body));
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn parse(kind: u16, body: &[u8]) -> Message {
    let message = match kind {
        libc::RTM_NEWROUTE => Some(parse_route(body).map_or(Message::RoutesChanged, Message::Route)),
        libc::RTM_NEWNEIGH => parse_neighbour(body).map(Message::Neighbour),
        libc::RTM_DELNEIGH => {
            parse_neighbour(body).map(|gone| Message::Neighbour(Neighbour { mac: None, is_fresh: false, ..gone }))
        }
        libc::RTM_NEWLINK => parse_device(body).map(Message::Device),
        libc::RTM_DELLINK => u32_at(body, 4).map(Message::DeviceGone),
        libc::RTM_NEWADDR => parse_address(body),
        libc::RTM_DELROUTE | libc::RTM_DELADDR | libc::RTM_NEWRULE | libc::RTM_DELRULE => Some(Message::RoutesChanged),
        kind if kind == libc::NLMSG_DONE as u16 => Some(Message::Done),
        kind if kind == libc::NLMSG_ERROR as u16 => u32_at(body, 0).map(|code| Message::Refused(-(code as i32))),
        _ => None,
    };
    message.unwrap_or(Message::Other)
}

/// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags.
fn parse_route(body: &[u8]) -> Option<Route> {
    let (family, kind) = (*body.first()?, *body.get(7)?);
    let (mut device, mut to, mut gateway, mut mtu, mut is_plain) = (None, None, None, None, kind == libc::RTN_UNICAST);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::RTA_OIF => device = u32_at(value, 0),
            libc::RTA_DST => to = ip_of(family, value),
            libc::RTA_GATEWAY => gateway = ip_of(family, value),
            libc::RTA_METRICS => {
                mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU).and_then(|(_, value)| u32_at(value, 0));
            }
            // Several ways, a gateway of the other family, or a tunnel.
            libc::RTA_MULTIPATH | libc::RTA_VIA | libc::RTA_ENCAP | libc::RTA_ENCAP_TYPE => is_plain = false,
            _ => {}
        }
    }
    Some(Route { device: device?, next: gateway.or(to)?, mtu, is_plain })
}

/// struct ndmsg: family, three of padding, device, state, flags, type.
fn parse_neighbour(body: &[u8]) -> Option<Neighbour> {
    const FRESH: u16 = libc::NUD_REACHABLE | libc::NUD_PERMANENT | libc::NUD_NOARP;
    const KNOWN: u16 = FRESH | libc::NUD_STALE | libc::NUD_DELAY | libc::NUD_PROBE;
    let (family, device, state) = (*body.first()?, u32_at(body, 4)?, u16_at(body, 8)?);
    let (mut ip, mut mac) = (None, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::NDA_DST => ip = ip_of(family, value),
            libc::NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    let mac = mac.filter(|_| state & KNOWN != 0);
    // What is being asked about just now is being seen to; only what is stale wants a push.
    let is_fresh = state & libc::NUD_STALE == 0;
    Some(Neighbour { device, ip: ip?, mac, is_fresh })
}

/// struct ifinfomsg: family, padding, type (16 bits), index, flags, change.
fn parse_device(body: &[u8]) -> Option<Device> {
    let (kind, index, flags) = (u16_at(body, 2)?, u32_at(body, 4)?, u32_at(body, 8)?);
    let (mut mac, mut mtu) = (None, None);
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_ADDRESS => mac = value.try_into().ok(),
            libc::IFLA_MTU => mtu = u32_at(value, 0),
            _ => {}
        }
    }
    let has = |flag: libc::c_int| flags & flag as u32 != 0;
    Some(Device {
        index,
        mac: mac.unwrap_or_default(),
        mtu: mtu.unwrap_or(0),
        is_suited: kind == libc::ARPHRD_ETHER && mac.is_some() && has(libc::IFF_UP) && !has(libc::IFF_LOOPBACK),
        has_no_arp: has(libc::IFF_NOARP),
    })
}

/// struct ifaddrmsg: family, prefix length, flags, scope, index.
fn parse_address(body: &[u8]) -> Option<Message> {
    let (family, device) = (*body.first()?, u32_at(body, 4)?);
    let (mut local, mut address) = (None, None);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            libc::IFA_LOCAL => local = ip_of(family, value),
            libc::IFA_ADDRESS => address = ip_of(family, value),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the other end's.
    Some(Message::Address(device, local.or(address)?))
}

/// The attributes in a message: kind without its flags, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const FLAGS: u16 = (libc::NLA_F_NESTED | libc::NLA_F_NET_BYTEORDER) as u16;
    std::iter::from_fn(move || {
        let (len, kind) = (usize::from(u16_at(bytes, 0)?), u16_at(bytes, 2)?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & !FLAGS, value))
    })
}

fn ip_of(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn say(bytes: &[u8]) -> Vec<Message> {
        let mut all = Vec::new();
        messages(bytes, |_, _, message| all.push(message));
        all
    }

    #[test]
    fn a_neighbour_is_read_with_its_state() {
        let told = |state: u16, kind| {
            let mut message = Question::new(kind, 0, 1);
            message.put(&[AF_INET, 0, 0, 0]);
            message.put(&7u32.to_ne_bytes());
            message.put(&state.to_ne_bytes());
            message.put(&[0, 1]);
            message.attribute_ip(libc::NDA_DST, "10.0.0.2".parse().unwrap());
            message.attribute(libc::NDA_LLADDR, &[2, 0, 0, 0, 0, 9]);
            match say(message.bytes())[..] {
                [Message::Neighbour(told)] => told,
                ref other => panic!("{other:?}"),
            }
        };
        let mac = Some([2, 0, 0, 0, 0, 9]);
        let ip = "10.0.0.2".parse().unwrap();
        let new = libc::RTM_NEWNEIGH;
        assert_eq!(told(libc::NUD_REACHABLE, new), Neighbour { device: 7, ip, mac, is_fresh: true });
        assert_eq!(told(libc::NUD_STALE, new), Neighbour { device: 7, ip, mac, is_fresh: false });
        assert_eq!(told(libc::NUD_PROBE, new).mac, mac);
        assert_eq!(told(libc::NUD_FAILED, new).mac, None);
        assert_eq!(told(libc::NUD_INCOMPLETE, new).mac, None);
        assert_eq!(told(libc::NUD_REACHABLE, libc::RTM_DELNEIGH).mac, None);
    }

    #[test]
    fn a_route_is_read_with_its_gateway_and_mtu() {
        let mut message = Question::new(libc::RTM_NEWROUTE, 0, 1);
        message.put(&[AF_INET, 32, 0, 0, 254, 0, 0, libc::RTN_UNICAST, 0, 0, 0, 0]);
        message.attribute_ip(libc::RTA_DST, "192.0.2.1".parse().unwrap());
        message.attribute(libc::RTA_OIF, &3u32.to_ne_bytes());
        message.attribute_ip(libc::RTA_GATEWAY, "10.0.0.1".parse().unwrap());
        message.attribute(libc::RTA_METRICS | libc::NLA_F_NESTED as u16, &[8, 0, 2, 0, 0x78, 5, 0, 0]);
        let next = "10.0.0.1".parse().unwrap();
        assert_eq!(
            say(message.bytes()),
            [Message::Route(Route { device: 3, next, mtu: Some(1400), is_plain: true })],
            "on a little-endian machine"
        );
        message.attribute(libc::RTA_VIA, &[10, 0, 1, 2]);
        assert!(matches!(say(message.bytes())[..], [Message::Route(Route { is_plain: false, .. })]));
    }

    #[test]
    fn the_kernel_knows_the_way_to_itself() {
        let mut netlink = Netlink::for_queries().unwrap();
        let local = "127.0.0.1:9".parse().unwrap();
        let route = netlink.route(local, local).expect("loopback is up");
        assert!(!route.is_plain, "what stays on this machine is not for frames: {route:?}");
        let mut devices = Vec::new();
        netlink.dump(Dump::Devices, |message| devices.push(message)).unwrap();
        assert!(devices.iter().any(
            |message| matches!(message, Message::Device(device) if device.index == route.device && !device.is_suited)
        ));
        let mut addresses = Vec::new();
        netlink.dump(Dump::Addresses, |message| addresses.push(message)).unwrap();
        assert!(addresses.contains(&Message::Address(route.device, local.ip())));
    }

    proptest! {
        #[test]
        fn hostile_messages_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            say(&bytes);
        }

        #[test]
        fn hostile_bodies_end(kind in 0u16..120, body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut message = [&(MESSAGE_HEADER_LEN as u32 + body.len() as u32).to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
            message.extend(&body);
            prop_assert_eq!(say(&message).len(), 1);
        }
    }
}
