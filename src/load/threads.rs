//! The threads that carry peers with keys: one epoll and one heap of what is due for each, no lock and no runtime.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use client::rtcp::Compound;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::datagrams::{self, Socket};
use super::peer::{Due, Joined, NACK_TICK, Peer, Shared};
use super::process;
use super::settings::{LoadError, Settings};
use super::tally::Totals;

/// How long a thread with nothing to do waits before it looks at its commands.
const WAIT_MAX: Duration = Duration::from_millis(2);
/// While datagrams flow they are collected for this long, and then read in batches.
const COLLECT_TIME: Duration = Duration::from_millis(1);
/// Sockets of one look.
const EVENTS_MAX: usize = 64;
/// Batches of a socket before what is due is looked at again.
const BATCHES_MAX: usize = 4;

/// What a thread is told.
enum Command {
    Add(u32, Box<Joined>),
    Remove(u32),
    /// Everything that was counted.
    Totals(Sender<Snapshot>),
    /// The same without times and drops.
    Counters(Sender<Totals>),
}

/// What a thread counted.
struct Snapshot {
    totals: Totals,
    /// Of each peer whose first packet came since the last snapshot, how long it took from the start of its join.
    first_media: Vec<Duration>,
}

/// All threads.
pub(super) struct MediaThreads {
    threads: Vec<(Sender<Command>, JoinHandle<()>)>,
    /// Which thread has a peer.
    thread_of: HashMap<u32, usize>,
    ports: HashSet<u16>,
    overflowed_before: u64,
}

impl MediaThreads {
    /// Starts them.
    pub(super) fn start(settings: &Settings) -> Result<MediaThreads, LoadError> {
        let start = |index: usize| {
            let (commands, received) = channel();
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let settings = settings.clone();
            let body = move || MediaThread::new(epoll, received, settings).run();
            let thread = thread::Builder::new().name(format!("load-{index}")).spawn(body)?;
            Ok((commands, thread))
        };
        let threads = (0..settings.threads.max(1)).map(start).collect::<std::io::Result<_>>();
        let threads = threads.map_err(LoadError::machine("a thread for the peers"))?;
        Ok(MediaThreads { threads, thread_of: HashMap::new(), ports: HashSet::new(), overflowed_before: 0 })
    }

    /// Adds a peer, under a number that nobody has now. Peers of one socket are on one thread.
    pub(super) fn add(&mut self, number: u32, joined: Joined) {
        let (socket, key) = match &joined.socket {
            Socket::Own(socket) => (socket, number as usize),
            Socket::Shared(lease) => (lease.socket(), lease.group()),
        };
        self.ports.extend(socket.local_addr().map(|address| address.port()));
        let thread = key % self.threads.len();
        self.thread_of.insert(number, thread);
        self.command(thread, Command::Add(number, Box::new(joined)));
    }

    /// Removes a peer.
    pub(super) fn remove(&mut self, number: u32) {
        if let Some(thread) = self.thread_of.remove(&number) {
            self.command(thread, Command::Remove(number));
        }
    }

    fn command(&self, thread: usize, command: Command) {
        // A thread ends only with all of them, or by a panic that is seen when it is joined.
        let _ = self.threads[thread].0.send(command);
    }

    /// What all counted until now, and times to the first packet since the last call.
    pub(super) fn totals(&mut self) -> (Totals, Vec<Duration>) {
        let (reply, replies) = channel();
        for (commands, _) in &self.threads {
            let _ = commands.send(Command::Totals(reply.clone()));
        }
        drop(reply);
        let (mut totals, mut first_media) = (Totals::default(), Vec::new());
        for mut snapshot in replies {
            totals.add(&snapshot.totals);
            first_media.append(&mut snapshot.first_media);
        }
        // A socket that was closed takes its count with it.
        self.overflowed_before = self.overflowed_before.max(overflowed(&self.ports));
        totals.overflowed = self.overflowed_before;
        (totals, first_media)
    }

    /// The numbers of what all counted, without times and drops: what may be asked for while it is measured. A snapshot of
    /// everything takes each thread milliseconds, and packets that are late by that arrive as a burst.
    pub(super) fn counters(&self) -> Totals {
        let (reply, replies) = channel();
        for (commands, _) in &self.threads {
            let _ = commands.send(Command::Counters(reply.clone()));
        }
        drop(reply);
        let mut totals = Totals::default();
        replies.into_iter().for_each(|counted| totals.add_numbers(&counted));
        totals
    }
}

impl Drop for MediaThreads {
    fn drop(&mut self) {
        for (commands, thread) in self.threads.drain(..) {
            drop(commands);
            let _ = thread.join(); // Its panic was printed.
        }
    }
}

/// Datagrams that were dropped at these UDP ports because a socket was full: the last column of /proc/net/udp.
fn overflowed(ports: &HashSet<u16>) -> u64 {
    let table = ["/proc/net/udp", "/proc/net/udp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let lines = table.iter().flat_map(|table| table.lines().skip(1));
    lines
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let port = u16::from_str_radix(words.nth(1)?.rsplit(':').next()?, 16).ok()?;
            let drops: u64 = words.last()?.parse().ok()?;
            ports.contains(&port).then_some(drops)
        })
        .sum()
}

/// A socket that a thread reads.
struct Reading {
    fd: RawFd,
    is_shared: bool,
    /// The peers behind it, by the number of their address on it.
    peers: Vec<Option<usize>>,
}

/// A peer's place on a thread: its number tells it from those that had the index before.
struct Slot {
    number: u32,
    /// Which socket it is read from.
    reading: usize,
    address: usize,
    peer: Box<Peer>,
}

/// One thread.
struct MediaThread {
    epoll: OwnedFd,
    commands: Receiver<Command>,
    peers: Vec<Option<Slot>>,
    free: Vec<usize>,
    index_of: HashMap<u32, usize>,
    readings: Vec<Reading>,
    /// Which reading is of a shared socket.
    reading_of_group: HashMap<usize, usize>,
    free_readings: Vec<usize>,
    due: BinaryHeap<Reverse<(Instant, u32, usize, Due)>>,
    receiver: datagrams::Receiver,
    shared: Shared,
    /// Of peers that were removed.
    retired: Totals,
    first_media: Vec<Duration>,
}

impl MediaThread {
    fn new(epoll: OwnedFd, commands: Receiver<Command>, settings: Settings) -> MediaThread {
        MediaThread {
            epoll,
            commands,
            peers: Vec::new(),
            free: Vec::new(),
            index_of: HashMap::new(),
            readings: Vec::new(),
            reading_of_group: HashMap::new(),
            free_readings: Vec::new(),
            due: BinaryHeap::new(),
            receiver: datagrams::Receiver::new(),
            shared: Shared { settings, sender: datagrams::Sender::new(), compound: Compound::default() },
            retired: Totals::default(),
            first_media: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while self.handle_commands() {
            self.handle_due();
            let is_flowing = !events.is_empty();
            let is_behind = events.len() == EVENTS_MAX;
            events.clear();
            // ppoll counts in nanoseconds, epoll_wait in milliseconds: by that, peers would send in step, and the
            // server would get batches that real peers do not make. An interrupted wait is a short one.
            let wait = self.time_to_next();
            if is_flowing && !is_behind {
                // Their times of arrival are the kernel's, and nobody has to wake us for each of them.
                thread::sleep(wait.min(COLLECT_TIME));
            } else if !is_behind {
                let timeout = Timespec::try_from(wait).unwrap_or_default();
                let _ = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout));
            }
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()));
            for event in &events {
                self.receive(event.data.u64() as usize);
            }
        }
    }

    /// False: all threads are to end.
    fn handle_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add(number, joined)) => self.add(number, *joined),
                Ok(Command::Remove(number)) => self.remove(number),
                Ok(Command::Totals(reply)) => drop(reply.send(self.snapshot())),
                Ok(Command::Counters(reply)) => drop(reply.send(self.counters())),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn add(&mut self, number: u32, joined: Joined) {
        let now = Instant::now();
        let reading = match self.read(&joined.socket) {
            Ok(reading) => reading,
            Err(error) => return eprintln!("a peer of the load generator cannot be watched: {error}"),
        };
        let address = match &joined.socket {
            Socket::Own(_) => 0,
            Socket::Shared(lease) => lease.number as usize,
        };
        let peer = Box::new(Peer::new(now, joined, number));
        let index = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        let addresses = &mut self.readings[reading].peers;
        if addresses.len() <= address {
            addresses.resize(address + 1, None);
        }
        addresses[address] = Some(index);
        self.due.extend(peer.first_dues(now).map(|(at, due)| Reverse((at, number, index, due))));
        self.peers[index] = Some(Slot { number, reading, address, peer });
        self.index_of.insert(number, index);
    }

    /// The reading of a socket, a new one if need be.
    fn read(&mut self, socket: &Socket) -> std::io::Result<usize> {
        let (socket, group): (&UdpSocket, _) = match socket {
            Socket::Own(socket) => (socket, None),
            Socket::Shared(lease) => (lease.socket(), Some(lease.group())),
        };
        if let Some(&reading) = group.and_then(|group| self.reading_of_group.get(&group)) {
            return Ok(reading);
        }
        let reading = self.free_readings.pop().unwrap_or(self.readings.len());
        epoll::add(&self.epoll, socket, EventData::new_u64(reading as u64), EventFlags::IN)?;
        let new = Reading { fd: socket.as_raw_fd(), is_shared: group.is_some(), peers: Vec::new() };
        if reading == self.readings.len() {
            self.readings.push(new);
        } else {
            self.readings[reading] = new;
        }
        if let Some(group) = group {
            self.reading_of_group.insert(group, reading);
        }
        Ok(reading)
    }

    fn remove(&mut self, number: u32) {
        let Some(index) = self.index_of.remove(&number) else { return };
        let Some(slot) = self.peers[index].take() else { return };
        self.free.push(index);
        self.readings[slot.reading].peers[slot.address] = None;
        // A socket of its own closes with the peer; one that is shared is read on.
        if matches!(slot.peer.socket(), Socket::Own(_)) {
            self.free_readings.push(slot.reading);
        }
        self.retired.add(&slot.peer.totals);
        self.first_media.extend(slot.peer.first_media);
    }

    fn counters(&self) -> Totals {
        let mut totals = Totals::default();
        let all = self.peers.iter().flatten().map(|slot| &slot.peer.totals);
        all.chain([&self.retired]).for_each(|counted| totals.add_numbers(counted));
        totals
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut totals = self.retired.clone();
        self.peers.iter().flatten().for_each(|slot| totals.add(&slot.peer.totals));
        totals.cpu = process::own_thread_time();
        let mut first_media = std::mem::take(&mut self.first_media);
        first_media.extend(self.peers.iter_mut().flatten().filter_map(|slot| slot.peer.first_media.take()));
        Snapshot { totals, first_media }
    }

    /// How long nothing is due.
    fn time_to_next(&self) -> Duration {
        let now = Instant::now();
        let next = self.due.peek().map_or(WAIT_MAX, |Reverse((at, ..))| at.saturating_duration_since(now));
        next.min(WAIT_MAX)
    }

    fn handle_due(&mut self) {
        let mut now = Instant::now();
        while let Some(&Reverse((at, number, index, due))) = self.due.peek() {
            if at > now {
                now = Instant::now();
                if at > now {
                    return;
                }
            }
            self.due.pop();
            let Some(slot) = self.peers[index].as_mut().filter(|slot| slot.number == number) else { continue };
            if let Some(at) = slot.peer.handle_due(now, due, &mut self.shared) {
                self.due.push(Reverse((at, number, index, due)));
            }
        }
    }

    fn receive(&mut self, reading: usize) {
        let now = Instant::now();
        let Reading { fd, is_shared, peers } = &self.readings[reading];
        for _ in 0..BATCHES_MAX {
            let is_more = self.receiver.receive(*fd, |datagram| {
                // A socket of one peer has no addresses to tell apart.
                let number = if *is_shared { datagram.number } else { Some(0) };
                let index = number.and_then(|number| peers.get(number as usize).copied().flatten());
                let Some(slot) = index.and_then(|index| self.peers[index].as_mut()) else { return };
                if slot.peer.receive(now, datagram, &mut self.shared) {
                    self.due.push(Reverse((now + NACK_TICK, slot.number, index.unwrap_or_default(), Due::Nack)));
                }
            });
            if !is_more {
                break;
            }
        }
    }
}
