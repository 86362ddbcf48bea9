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
use super::netlink::{Device, Dump, Netlink, Nothing, Said};
use crate::config::{Micros, PEERS_MAX, SECOND};
use crate::outbox::Path;

/// How long a way is taken before the kernel is asked again: path MTUs change and expire without a word.
const WAY_HELD: Micros = 10 * SECOND;
/// How often the kernel's news are read while packets flow.
const NEWS_INTERVAL: Micros = 10_000;
/// Questions to the kernel between two readings of its news. Each takes some microseconds; peers beyond it go by the
/// socket for that long.
const QUESTIONS_MAX: u32 = 64;
/// Messages of news that are read at once; the rest waits for the next time.
const NEWS_MAX: usize = 64;

/// A socket of ours as its packets' headers show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local {
    pub(super) address: SocketAddr,
    /// TTL or hop limit.
    pub(super) hops: u8,
}

/// How a peer is reached.
#[derive(Clone, Copy)]
struct Way {
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
pub(super) struct Ways {
    device: Device,
    locals: Vec<Local>,
    asking: Netlink,
    hearing: Netlink,
    by_peer: Vec<Option<Way>>,
    neighbours: Neighbours,
    /// Grows with each change of routes.
    version: u32,
    news_at: Micros,
    questions: u32,
}

impl Ways {
    /// Ways for peers of these sockets through `device`. May wait for the kernel.
    pub(super) fn new(device: Device, locals: Vec<Local>, seed: [u8; 16]) -> io::Result<Ways> {
        // It listens before it asks, so that no change falls between.
        let hearing = Netlink::to_hear()?;
        let mut ways = Ways {
            device,
            locals,
            asking: Netlink::to_ask()?,
            hearing,
            by_peer: vec![None; PEERS_MAX],
            neighbours: Neighbours::new(seed),
            version: 0,
            news_at: 0,
            questions: 0,
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
    pub(super) fn keep_up(&mut self, now: Micros) {
        if now >= self.news_at {
            self.news_at = now + NEWS_INTERVAL;
            self.questions = 0;
            self.read_news();
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
        if self.questions == QUESTIONS_MAX {
            return false;
        }
        self.questions += 1;
        let framed = self.ask(path);
        self.by_peer[place] = Some(Way { path, version: self.version, held_until: now + WAY_HELD, framed });
        true
    }

    fn ask(&mut self, path: Path) -> Option<Framed> {
        let local = *self.locals.get(usize::from(path.socket))?;
        // The scope of a link-local address is no part of the question; few peers have one.
        if matches!(path.remote.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            return None;
        }
        let route = self.asking.route(local.address, path.remote)?;
        if !route.is_plain || route.device != self.device.index {
            return None;
        }
        let neighbour = match self.device.has_no_arp {
            true => None,
            false => Some(self.neighbours.place(route.next)?),
        };
        // The neighbour's address is filled in with each packet, because it may change.
        let header = Header::new((self.device.mac, self.device.mac), local.address, path.remote, local.hops)?;
        let mtu = route.mtu.unwrap_or(u32::MAX).min(self.device.mtu) as usize;
        Some(Framed { header, neighbour, len_max: mtu.saturating_sub(header.ip_len()) })
    }

    fn read_news(&mut self) {
        for _ in 0..NEWS_MAX {
            let Ways { device, neighbours, hearing, version, .. } = self;
            let mut are_routes_changed = false;
            let heard = hearing.hear(|said| match said {
                Said::Neighbour(told) if told.device == device.index => neighbours.learn(&told),
                Said::Device(told) if told.index == device.index && told != *device => {
                    *device = told;
                    are_routes_changed = true;
                }
                Said::DeviceGone(index) if index == device.index => {
                    device.is_suited = false;
                    are_routes_changed = true;
                }
                Said::Route(_) | Said::RoutesChanged | Said::Address(..) => are_routes_changed = true,
                _ => {}
            });
            if are_routes_changed || heard == Err(Nothing::Overrun) {
                *version = version.wrapping_add(1);
            }
            match heard {
                Ok(()) => {}
                Err(Nothing::Yet) => return,
                // If even that fails, what is not known goes by the socket, whose use the kernel tells of.
                Err(Nothing::Overrun) => drop(self.learn_neighbours()),
            }
        }
    }

    fn learn_neighbours(&mut self) -> io::Result<()> {
        let Ways { device, neighbours, asking, .. } = self;
        neighbours.forget();
        asking.dump(Dump::Neighbours, |said| match said {
            Said::Neighbour(told) if told.device == device.index => neighbours.learn(&told),
            _ => {}
        })
    }
}
