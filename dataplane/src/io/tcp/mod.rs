//! Media over TCP, for peers whose network blocks UDP: passive candidates (RFC 6544), and the packets of UDP framed by their
//! length (RFC 4571). It stands beside the other backends: a packet that came by a connection goes the way of a datagram, and a
//! packet for one is written here.
//!
//! All sockets are in one epoll instance, which the parking watches. A worker that does not sleep looks at it each millisecond. A
//! connection takes memory when it is accepted, from those that have ended before, and none afterwards.
//!
//! Who connects is nobody until a peer's authenticated check has come by the connection; the core knows which have an owner. One
//! without is closed after [`TCP_UNOWNED_MAX`], and makes room when all places are taken. Paths of one peer are bounded by the core
//! ([`PEER_PATHS_MAX`](crate::config::PEER_PATHS_MAX)): one that it forgets has no owner any more.

mod connection;
mod frame;
mod inbox;
mod listener;
mod waiting;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use self::connection::{Connection, End, Memory};
pub use self::inbox::Inbox;
pub use self::listener::Listener;
use super::park::{Parking, Watch};
use crate::config::{
    Micros, TCP_ACCEPTS_MAX, TCP_CONNECTIONS_MAX, TCP_HANDED_MAX, TCP_LOOK_INTERVAL, TCP_READS_MAX,
    TCP_REVIEW_INTERVAL, TCP_SOURCE_MAX, TCP_SOURCE_UNOWNED_MAX, TCP_UNOWNED_MAX,
};
use crate::hash::KeyedHash;
use crate::outbox::Outbox;
use crate::path::Path;

/// What an event of epoll is of: a listener if this is set, else a connection.
const LISTENER: u64 = 1 << 32;

/// What has happened since it was asked last, and how many connections there are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Connections open now.
    pub open: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that were one too many.
    pub refused: u64,
    /// Connections closed because no peer owned them.
    pub unowned: u64,
    /// Connections closed because of what came by them.
    pub malformed: u64,
    /// Packets written, or waiting.
    pub sent: u64,
    /// Packets of video that may not wait.
    pub video_dropped: u64,
    /// Others, and those for connections that have ended.
    pub dropped: u64,
}

/// The listeners and connections of one worker.
pub(super) struct Tcp {
    listeners: Vec<Listener>,
    epoll: OwnedFd,
    watch: Watch,
    events: [epoll::Event; TCP_READS_MAX],
    connections: Vec<Option<Connection>>,
    free: Vec<u32>,
    by_path: HashMap<Path, u32, KeyedHash>,
    pool: Vec<Memory>,
    /// Connections that were found to be over when they were written to.
    over: Vec<u32>,
    /// Connections that the controlplane has accepted, until the next look.
    handed: Vec<OwnedFd>,
    /// There was more than the last look could take.
    is_behind: bool,
    looked_at: Micros,
    review_at: Micros,
    /// The process has no descriptor left: nothing is accepted until the next review.
    is_paused: bool,
    counts: Counts,
}

impl Tcp {
    /// Takes over a worker's listeners; [`Path::tcp`] has the index in this list.
    pub(super) fn open(listeners: Vec<Listener>, parking: &mut Parking, seed: [u8; 16]) -> io::Result<Tcp> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = parking.watch(&epoll)?;
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        // Twice as many places as are used: then a table makes room for new entries without taking memory.
        let by_path = HashMap::with_capacity_and_hasher(2 * TCP_CONNECTIONS_MAX, KeyedHash::new(seed));
        let tcp = Tcp {
            listeners,
            epoll,
            watch,
            events: [nothing; TCP_READS_MAX],
            connections: Vec::with_capacity(TCP_CONNECTIONS_MAX),
            free: Vec::with_capacity(TCP_CONNECTIONS_MAX),
            by_path,
            pool: Vec::with_capacity(TCP_CONNECTIONS_MAX),
            over: Vec::with_capacity(TCP_CONNECTIONS_MAX),
            handed: Vec::with_capacity(TCP_HANDED_MAX),
            is_behind: false,
            looked_at: 0,
            review_at: 0,
            is_paused: false,
            counts: Counts::default(),
        };
        for (listener, index) in tcp.listeners.iter().zip(0..) {
            tcp.await_connections(listener, index)?;
        }
        Ok(tcp)
    }

    fn await_connections(&self, listener: &Listener, index: u64) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, listener, epoll::EventData::new_u64(LISTENER | index), epoll::EventFlags::IN)
    }

    /// What has happened since this was asked last.
    pub(super) fn take_counts(&mut self) -> Counts {
        let open = self.by_path.len() as u64;
        Counts { open, ..std::mem::take(&mut self.counts) }
    }

    /// When the worker must wake by itself.
    pub(super) fn deadline(&self) -> Option<Micros> {
        (self.is_paused || !self.by_path.is_empty()).then_some(self.review_at)
    }

    /// Takes what the connections have for us, as much as fits, and new connections. `is_owned` says whether a path belongs to a
    /// peer. Never waits.
    pub(super) fn look(&mut self, now: Micros, inbox: &mut Inbox, mut is_owned: impl FnMut(Path) -> bool) {
        inbox.clear();
        let is_due = now >= self.looked_at + TCP_LOOK_INTERVAL || now >= self.review_at;
        let has_handed = !self.handed.is_empty();
        if !(self.watch.take_fired() || is_due || has_handed || self.is_behind || !self.over.is_empty()) {
            return;
        }
        self.looked_at = now;
        while let Some(index) = self.over.pop() {
            if self.connections[index as usize].as_ref().is_some_and(Connection::is_over) {
                self.close(index, inbox);
            }
        }
        if now >= self.review_at {
            self.review(now, inbox, &mut is_owned);
        }
        while let Some(stream) = self.handed.pop() {
            let remote = listener::adopt(&stream);
            let path = remote.map(|remote| Path::handed(without_flow(remote)));
            let is_taken = path.is_ok_and(|path| self.welcome(stream, path, now, inbox, &mut is_owned));
            *if is_taken { &mut self.counts.accepted } else { &mut self.counts.refused } += 1;
        }
        let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = epoll::wait(&self.epoll, &mut self.events[..], Some(&no_time)).unwrap_or(0);
        self.is_behind = count == self.events.len();
        for event in 0..count {
            let epoll::Event { flags, data } = self.events[event];
            match data.u64() {
                listener if listener & LISTENER != 0 => {
                    self.accept((listener & !LISTENER) as u8, now, inbox, &mut is_owned);
                }
                index => self.serve(index as u32, flags, now, inbox),
            }
        }
    }

    /// A connection is readable, writable, or over.
    fn serve(&mut self, index: u32, flags: epoll::EventFlags, now: Micros, inbox: &mut Inbox) {
        // It may have made room for another one a moment ago.
        let Some(connection) = self.connections.get_mut(index as usize).and_then(Option::as_mut) else { return };
        if flags.contains(epoll::EventFlags::OUT) {
            connection.write_waiting();
            self.await_room(index);
        }
        let Some(connection) = self.connections[index as usize].as_mut() else { return };
        let is_readable = flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let read = match is_readable {
            true => inbox.fill(connection.path(), now, |buffer| connection.read(buffer)),
            false => Ok(()),
        };
        if let Err(end) = read {
            self.counts.malformed += u64::from(end == End::Malformed);
            self.close(index, inbox);
        }
    }

    /// Lets the worker be woken when a connection can be written to, if something waits for that.
    fn await_room(&mut self, index: u32) {
        let Some(connection) = self.connections[index as usize].as_mut() else { return };
        if connection.is_over() && self.over.len() < TCP_CONNECTIONS_MAX {
            self.over.push(index);
        }
        let is_waiting = connection.is_waiting();
        if is_waiting == connection.awaits_room {
            return;
        }
        let flags = match is_waiting {
            true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            false => epoll::EventFlags::IN,
        };
        if epoll::modify(&self.epoll, &*connection, epoll::EventData::new_u64(index.into()), flags).is_ok() {
            connection.awaits_room = is_waiting;
        }
    }

    /// Accepts connections, a few at once.
    fn accept(&mut self, listener: u8, now: Micros, inbox: &mut Inbox, is_owned: &mut impl FnMut(Path) -> bool) {
        for _ in 0..TCP_ACCEPTS_MAX {
            let Some(socket) = self.listeners.get(usize::from(listener)) else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match rustix::net::acceptfrom_with(socket, flags) {
                Ok((stream, remote)) => {
                    let Some(remote) = remote.and_then(|remote| SocketAddr::try_from(remote).ok()) else { continue };
                    let path = Path::tcp(listener, without_flow(remote));
                    let is_taken = self.welcome(stream, path, now, inbox, is_owned);
                    *if is_taken { &mut self.counts.accepted } else { &mut self.counts.refused } += 1;
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => return self.pause(),
                // It ended before it was accepted.
                Err(_) => {}
            }
        }
    }

    /// Takes a connection if there is a place for it.
    fn welcome(
        &mut self,
        stream: OwnedFd,
        path: Path,
        now: Micros,
        inbox: &mut Inbox,
        is_owned: &mut impl FnMut(Path) -> bool,
    ) -> bool {
        self.make_room(path, inbox, is_owned) && self.take(stream, path, now).is_ok()
    }

    /// Takes over a connection that the controlplane has accepted, with the next look.
    pub(super) fn hand_over(&mut self, stream: OwnedFd) {
        match self.handed.len() < TCP_HANDED_MAX {
            true => self.handed.push(stream),
            false => self.counts.refused += 1,
        }
    }

    /// Stops accepting: the listeners would stay readable, and wake the worker for nothing.
    fn pause(&mut self) {
        self.is_paused = true;
        for listener in &self.listeners {
            let _ = epoll::delete(&self.epoll, listener); // It may be out already.
        }
    }

    /// Whether there is a place for one more connection. The oldest one without an owner makes room if all are taken.
    fn make_room(&mut self, path: Path, inbox: &mut Inbox, is_owned: &mut impl FnMut(Path) -> bool) -> bool {
        let source = source(path.remote.ip());
        let (mut all, mut unowned) = (0, 0);
        for other in self.by_path.keys().filter(|other| self::source(other.remote.ip()) == source) {
            all += 1;
            unowned += usize::from(!is_owned(*other));
        }
        if all >= TCP_SOURCE_MAX || unowned >= TCP_SOURCE_UNOWNED_MAX || self.by_path.contains_key(&path) {
            return false;
        }
        if self.by_path.len() < TCP_CONNECTIONS_MAX {
            return true;
        }
        let unowned = self.connections.iter().zip(0..).filter_map(|(connection, index)| {
            let connection = connection.as_ref().filter(|connection| !is_owned(connection.path()))?;
            Some((connection.unowned_since?, index))
        });
        let oldest = unowned.min().map(|(_, index)| index);
        if let Some(oldest) = oldest {
            self.counts.unowned += 1;
            self.close(oldest, inbox);
        }
        oldest.is_some()
    }

    fn take(&mut self, stream: OwnedFd, path: Path, now: Micros) -> io::Result<()> {
        let index = self.free.last().copied().unwrap_or(self.connections.len() as u32);
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(index.into()), epoll::EventFlags::IN)?;
        let memory = self.pool.pop().unwrap_or_else(Memory::new);
        let connection = Some(Connection::new(stream, path, memory, now));
        match self.free.pop() {
            Some(index) => self.connections[index as usize] = connection,
            None => self.connections.push(connection),
        }
        self.by_path.insert(path, index);
        Ok(())
    }

    /// Closes what has had no owner for too long, and accepts again.
    fn review(&mut self, now: Micros, inbox: &mut Inbox, is_owned: &mut impl FnMut(Path) -> bool) {
        self.review_at = now + TCP_REVIEW_INTERVAL;
        for index in 0..self.connections.len() {
            let Some(connection) = &mut self.connections[index] else { continue };
            if is_owned(connection.path()) {
                connection.unowned_since = None;
            } else if now >= *connection.unowned_since.get_or_insert(now) + TCP_UNOWNED_MAX {
                self.counts.unowned += 1;
                self.close(index as u32, inbox);
            }
        }
        if std::mem::take(&mut self.is_paused) {
            for (listener, index) in self.listeners.iter().zip(0..) {
                self.is_paused |= self.await_connections(listener, index).is_err_and(|error| error != Errno::EXIST);
            }
        }
    }

    /// Closes a connection.
    fn close(&mut self, index: u32, inbox: &mut Inbox) {
        let Some(connection) = self.connections[index as usize].take() else { return };
        let path = connection.path();
        self.by_path.remove(&path);
        inbox.close(path);
        // With its last descriptor it leaves the epoll instance.
        self.pool.push(connection.into_memory());
        self.free.push(index);
    }

    /// Writes what the outbox has for connections, each chain framed and with one system call for many packets.
    pub(super) fn send(&mut self, outbox: &Outbox) {
        if self.by_path.is_empty() {
            return;
        }
        for chain in outbox.chains().filter(|chain| chain.path().is_tcp()) {
            let Some(&index) = self.by_path.get(&chain.path()) else {
                self.counts.dropped += chain.packets().count() as u64;
                continue;
            };
            if let Some(connection) = &mut self.connections[index as usize] {
                connection.send(chain.packets_by_kind(), &mut self.counts);
                self.await_room(index);
            }
        }
    }
}

/// Whose a connection is, as far as its address tells: an IPv4 address, or an IPv6 /64 (RFC 6177: no customer has less).
fn source(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64 | 1 << 63,
    }
}

/// The same address as a datagram's has it: the flow label is no part of who somebody is.
fn without_flow(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V6(mut v6) => {
            v6.set_flowinfo(0);
            v6.into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
