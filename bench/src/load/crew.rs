//! The threads that carry peers with keys: one epoll and one heap of what is due for each, no lock and no runtime.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::peer::{Due, Joined, Peer};
use super::tally::Totals;
use super::wire::Wire;
use super::{LoadError, Settings, process};

/// How long a thread with nothing to do waits before it looks at its orders.
const PATIENCE: Duration = Duration::from_millis(2);
/// Sockets of one look.
const EVENTS_MAX: usize = 64;

/// What a thread is told.
enum Order {
    Carry(u32, Box<Joined>),
    Drop(u32),
    Tell(Sender<Told>),
    Glance(Sender<Totals>),
}

/// What a thread counted.
struct Told {
    totals: Totals,
    /// Of each peer whose first packet came since the last telling, how long it took from the start of its join.
    first_media: Vec<Duration>,
}

/// All threads.
pub(crate) struct Crew {
    threads: Vec<(Sender<Order>, JoinHandle<()>)>,
    ports: HashSet<u16>,
    overflowed_before: u64,
}

impl Crew {
    /// Starts the threads.
    pub(crate) fn start(settings: &Settings) -> Result<Crew, LoadError> {
        let start = |index: usize| {
            let (orders, received) = channel();
            let epoll = epoll::create(CreateFlags::CLOEXEC)?;
            let settings = settings.clone();
            let body = move || Hand::new(epoll, received, settings).run();
            let thread = thread::Builder::new().name(format!("load-{index}")).spawn(body)?;
            Ok((orders, thread))
        };
        let threads = (0..settings.threads.max(1)).map(start).collect::<std::io::Result<_>>();
        let threads = threads.map_err(LoadError::machine("a thread for the peers"))?;
        Ok(Crew { threads, ports: HashSet::new(), overflowed_before: 0 })
    }

    /// Carries a peer, under a number that nobody has now.
    pub(crate) fn carry(&mut self, number: u32, joined: Joined) {
        self.ports.extend(joined.udp.local_addr().map(|address| address.port()));
        self.order(number, Order::Carry(number, Box::new(joined)));
    }

    /// Lets a peer go.
    pub(crate) fn drop(&mut self, number: u32) {
        self.order(number, Order::Drop(number));
    }

    fn order(&self, number: u32, order: Order) {
        // A thread ends only with the crew, or by a panic that is seen when it is joined.
        let _ = self.threads[number as usize % self.threads.len()].0.send(order);
    }

    /// What all counted until now, and times to the first packet since the last telling.
    pub(crate) fn tell(&mut self) -> (Totals, Vec<Duration>) {
        let (tell, told) = channel();
        for (orders, _) in &self.threads {
            let _ = orders.send(Order::Tell(tell.clone()));
        }
        drop(tell);
        let (mut totals, mut first_media) = (Totals::default(), Vec::new());
        for mut told in told {
            totals.add(&told.totals);
            first_media.append(&mut told.first_media);
        }
        // A socket that was closed takes its count with it.
        self.overflowed_before = self.overflowed_before.max(overflowed(&self.ports));
        totals.overflowed = self.overflowed_before;
        (totals, first_media)
    }

    /// The numbers of what all counted, without times and drops: what may be asked for while it is measured. To tell
    /// everything takes each thread milliseconds, and packets that are late by that arrive as a burst.
    pub(crate) fn glance(&self) -> Totals {
        let (glance, seen) = channel();
        for (orders, _) in &self.threads {
            let _ = orders.send(Order::Glance(glance.clone()));
        }
        drop(glance);
        let mut totals = Totals::default();
        seen.into_iter().for_each(|seen| totals.add_numbers(&seen));
        totals
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for (orders, thread) in self.threads.drain(..) {
            drop(orders);
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

/// One thread.
struct Hand {
    epoll: OwnedFd,
    orders: Receiver<Order>,
    settings: Settings,
    /// By number divided by the number of threads.
    peers: Vec<Option<Box<Peer>>>,
    due: BinaryHeap<Reverse<(Instant, u32, Due)>>,
    wire: Wire,
    /// Of peers that have gone.
    retired: Totals,
    first_media: Vec<Duration>,
}

impl Hand {
    fn new(epoll: OwnedFd, orders: Receiver<Order>, settings: Settings) -> Hand {
        let wire = Wire::new();
        let (retired, first_media) = (Totals::default(), Vec::new());
        Hand { epoll, orders, settings, peers: Vec::new(), due: BinaryHeap::new(), wire, retired, first_media }
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            if !self.obey() {
                return;
            }
            self.do_due();
            events.clear();
            // ppoll counts in nanoseconds, epoll_wait in milliseconds: by that, peers would send in step, and the
            // server would get batches that real peers do not make. An interrupted wait is a short one.
            let timeout = Timespec::try_from(self.patience()).unwrap_or_default();
            let _ = poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout));
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()));
            for event in &events {
                self.receive(event.data.u64() as u32);
            }
        }
    }

    /// Follows orders. False: the crew ends.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Carry(number, joined)) => self.carry(number, *joined),
                Ok(Order::Drop(number)) => self.retire(number),
                Ok(Order::Tell(to)) => drop(to.send(self.tell())),
                Ok(Order::Glance(to)) => drop(to.send(self.glance())),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn place(&self, number: u32) -> usize {
        number as usize / self.settings.threads.max(1)
    }

    fn carry(&mut self, number: u32, joined: Joined) {
        let now = Instant::now();
        let peer = Peer::new(now, joined, number);
        let data = EventData::new_u64(number.into());
        if let Err(error) = epoll::add(&self.epoll, peer.udp(), data, EventFlags::IN) {
            eprintln!("a peer of the load generator cannot be watched: {error}");
            return;
        }
        self.due.extend(peer.first_dues(now).map(|(at, due)| Reverse((at, number, due))));
        let place = self.place(number);
        if self.peers.len() <= place {
            self.peers.resize_with(place + 1, || None);
        }
        self.peers[place] = Some(Box::new(peer));
    }

    fn retire(&mut self, number: u32) {
        let place = self.place(number);
        if let Some(peer) = self.peers.get_mut(place).and_then(Option::take) {
            self.retired.add(&peer.totals);
            self.first_media.extend(peer.first_media);
        }
    }

    fn glance(&self) -> Totals {
        let mut totals = Totals::default();
        let all = self.peers.iter().flatten().map(|peer| &peer.totals);
        all.chain([&self.retired]).for_each(|counted| totals.add_numbers(counted));
        totals
    }

    fn tell(&mut self) -> Told {
        let mut totals = self.retired.clone();
        self.peers.iter().flatten().for_each(|peer| totals.add(&peer.totals));
        totals.cpu = process::own_thread_time();
        let mut first_media = std::mem::take(&mut self.first_media);
        first_media.extend(self.peers.iter_mut().flatten().filter_map(|peer| peer.first_media.take()));
        Told { totals, first_media }
    }

    /// How long nothing is due.
    fn patience(&self) -> Duration {
        let now = Instant::now();
        let next = self.due.peek().map_or(PATIENCE, |Reverse((at, ..))| at.saturating_duration_since(now));
        next.min(PATIENCE)
    }

    fn do_due(&mut self) {
        let mut now = Instant::now();
        while let Some(&Reverse((at, number, due))) = self.due.peek() {
            if at > now {
                now = Instant::now();
                if at > now {
                    return;
                }
            }
            self.due.pop();
            let place = self.place(number);
            let Some(peer) = self.peers.get_mut(place).and_then(Option::as_mut) else { continue };
            if let Some(at) = peer.do_due(now, due, &self.settings) {
                self.due.push(Reverse((at, number, due)));
            }
        }
    }

    fn receive(&mut self, number: u32) {
        let place = self.place(number);
        let Some(peer) = self.peers.get_mut(place).and_then(Option::as_mut) else { return };
        let now = Instant::now();
        let (socket, mut is_nack_due) = (peer.udp().as_raw_fd(), false);
        self.wire.receive(socket, |arrived| is_nack_due |= peer.receive(now, &arrived, &self.settings));
        if is_nack_due {
            self.due.push(Reverse((now + super::peer::NACK_TICK, number, Due::Nack)));
        }
    }
}
