//! By which way each peer is reached: the header of its frames, or that its packets are for the UDP socket.
//!
//! The kernel decides. A peer's way is asked of it once, and again after ten seconds or any change of routes, rules,
//! addresses or the device, so that policy routing and path MTUs hold for frames as they do for sockets. Neighbours are
//! known from a dump at the start and from what the kernel tells since.
//!
//! Frames do not use the kernel's neighbour entries, so it would never find out that one has moved. Therefore one packet
//! a second goes by the socket while an entry is stale, and all do while it is unknown: the kernel then asks by ARP or
//! neighbour discovery as it always does, and tells us what it learnt.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::header::Header;
use super::neighbours::Neighbours;
use super::netlink::{Device, Dump, Message, Netlink, ReadError};
use crate::config::{DESTINATIONS_MAX, Micros, SECOND};
use crate::path::Path;

/// How long a way is taken before the kernel is asked again: path MTUs change and expire without a word.
const ROUTE_HELD: Micros = 10 * SECOND;
/// How often the kernel's news are read while packets flow.
const CHANGES_INTERVAL: Micros = 10_000;
/// Questions to the kernel between two readings of its news. Each takes some microseconds; peers beyond it go by the
/// socket for that long.
const QUERIES_MAX: u32 = 64;
/// Messages of news that are read at once; the rest waits for the next time.
const CHANGES_MAX: usize = 64;

/// A socket of ours as its packets' headers show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local {
    pub(super) address: SocketAddr,
    /// TTL or hop limit.
    pub(super) hops: u8,
}

/// How a peer is reached.
#[derive(Clone, Copy)]
struct PeerRoute {
    path: Path,
    /// As of which change of routes it is known, and until when that holds.
    version: u32,
    held_until: Micros,
    /// `None`: by the socket.
    framed: Option<Framed>,
}

#[derive(Clone, Copy)]
struct Framed {
    header: Header,
    /// `None` on a device without ARP.
    neighbour: Option<u32>,
    /// The longest packet that may follow the header.
    len_max: usize,
}

/// All ways of one worker, through one device.
pub(super) struct PeerRoutes {
    device: Device,
    locals: Vec<Local>,
    queries: Netlink,
    changes: Netlink,
    by_peer: Vec<Option<PeerRoute>>,
    neighbours: Neighbours,
    /// Grows with each change of routes.
    version: u32,
    changes_at: Micros,
    query_count: u32,
}

impl PeerRoutes {
    /// PeerRoutes for peers of these sockets through `device`. May wait for the kernel.
    pub(super) fn new(device: Device, locals: Vec<Local>, seed: [u8; 16]) -> io::Result<PeerRoutes> {
        // It listens before it asks, so that no change falls between.
        let changes = Netlink::subscribed()?;
        let mut ways = PeerRoutes {
            device,
            locals,
            queries: Netlink::for_queries()?,
            changes,
            by_peer: vec![None; DESTINATIONS_MAX],
            neighbours: Neighbours::new(seed),
            version: 0,
            changes_at: 0,
            query_count: 0,
        };
        ways.learn_neighbours()?;
        Ok(ways)
    }

    /// Whether packets can leave by the device at all.
    pub(super) fn is_open(&self) -> bool {
        self.device.is_suited
    }

    /// Takes the kernel's news, if it is time to.
    #[inline]
    pub(super) fn refresh(&mut self, now: Micros) {
        if now >= self.changes_at {
            self.changes_at = now + CHANGES_INTERVAL;
            self.query_count = 0;
            self.apply_changes();
        }
    }

    /// The header of a peer's frames, the longest of which carries `len` bytes. `None`: this time, its packets are for
    /// the socket.
    #[inline]
    pub(super) fn header(&mut self, now: Micros, peer: u32, path: Path, len: usize) -> Option<&Header> {
        let place = peer as usize;
        let known = self.by_peer[place].as_ref().filter(|way| way.version == self.version && way.path == path);
        // A way that is merely old is taken while the kernel cannot be asked.
        let may_go_on = known.is_some();
        if known.is_none_or(|way| now >= way.held_until) && !self.find(now, place, path) && !may_go_on {
            return None;
        }
        let framed = self.by_peer[place].as_mut()?.framed.as_mut().filter(|framed| len <= framed.len_max)?;
        if let Some(neighbour) = framed.neighbour {
            framed.header.set_destination(self.neighbours.mac(neighbour, now)?);
        }
        Some(&framed.header)
    }

    /// Asks the kernel for a way and remembers it. False if it was asked often enough for now.
    #[cold]
    fn find(&mut self, now: Micros, place: usize, path: Path) -> bool {
        if self.query_count == QUERIES_MAX {
            return false;
        }
        self.query_count += 1;
        let framed = self.ask(path);
        self.by_peer[place] = Some(PeerRoute { path, version: self.version, held_until: now + ROUTE_HELD, framed });
        true
    }

    fn ask(&mut self, path: Path) -> Option<Framed> {
        let local = *self.locals.get(usize::from(path.socket))?;
        // The scope of a link-local address is no part of the question; few peers have one.
        if matches!(path.remote.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            return None;
        }
        let route = self.queries.route(local.address, path.remote)?;
        if !route.is_plain || route.device != self.device.index {
            return None;
        }
        let neighbour = match self.device.has_no_arp {
            true => None,
            false => Some(self.neighbours.index(route.next)?),
        };
        // The neighbour's address is filled in with each packet, because it may change.
        let header = Header::new((self.device.mac, self.device.mac), local.address, path.remote, local.hops)?;
        let mtu = route.mtu.unwrap_or(u32::MAX).min(self.device.mtu) as usize;
        Some(Framed { header, neighbour, len_max: mtu.saturating_sub(header.ip_len()) })
    }

    fn apply_changes(&mut self) {
        for _ in 0..CHANGES_MAX {
            let PeerRoutes { device, neighbours, changes, version, .. } = self;
            let mut are_routes_changed = false;
            let heard = changes.read_changes(|message| match message {
                Message::Neighbour(told) if told.device == device.index => neighbours.learn(&told),
                Message::Device(told) if told.index == device.index && told != *device => {
                    *device = told;
                    are_routes_changed = true;
                }
                Message::DeviceGone(index) if index == device.index => {
                    device.is_suited = false;
                    are_routes_changed = true;
                }
                Message::Route(_) | Message::RoutesChanged | Message::Address(..) => are_routes_changed = true,
                _ => {}
            });
            if are_routes_changed || heard == Err(ReadError::Overrun) {
                *version = version.wrapping_add(1);
            }
            match heard {
                Ok(()) => {}
                Err(ReadError::Empty) => return,
                // If even that fails, what is not known goes by the socket, whose use the kernel tells of.
                Err(ReadError::Overrun) => drop(self.learn_neighbours()),
            }
        }
    }

    fn learn_neighbours(&mut self) -> io::Result<()> {
        let PeerRoutes { device, neighbours, queries, .. } = self;
        neighbours.forget();
        queries.dump(Dump::Neighbours, |message| match message {
            Message::Neighbour(told) if told.device == device.index => neighbours.learn(&told),
            _ => {}
        })
    }
}
