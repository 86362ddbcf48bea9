//! CAGE: the seam between the worker and the world.
//!
//! Only this module knows the kernel's sockets, its clocks and monoio. The worker sees an [`Io`]: it fills a
//! [`Batch`], flushes an [`Outbox`], tells the time and parks. Nothing here allocates after the start.
//!
//! `unsafe` is here because `recvmmsg`, `sendmmsg` and their control messages (timestamps, UDP_GRO, UDP_SEGMENT) have
//! no safe form. They are worth it: one system call moves dozens of packets, and a train of eight costs an eighth of
//! eight packets (docs/MEASURING.md). The proofs are the tests of `udp`, `train` and `uring`, over real sockets.

#![allow(unsafe_code)] // The cage; see above for the reason and the proofs.

mod address;
mod clock;
mod frames;
mod park;
pub mod probe;

mod tcp;
mod train;
mod udp;
mod uring;

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use self::{clock::Clock, frames::Frames, park::Parking, tcp::Tcp, train::Egress, uring::Inlet, uring::Uring};
use crate::config::{CHUNKS_MAX, Driver, FRAMES_RETRY, Micros, REFUSED_TRAINS_TIMEOUT};
use crate::outbox::{CHUNK_LEN, Outbox};
use crate::path::Path;
use crate::slab::Slab;

pub use self::frames::Unsuited;
pub use self::park::Watch;
pub use self::tcp::{Counts as TcpCounts, Inbox, Listener};

pub use self::udp::{Batch, BindError, Granted, Socket};
pub use self::uring::Refused;

/// What became of a flush.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flushed {
    /// Messages that the kernel took: trains, single packets, frames.
    pub trains: u64,
    /// Packets that it did not take.
    pub failed: u64,
    /// Packets that left as frames.
    pub frames: u64,
    /// Packets that were left to the sockets while frames are in use.
    pub left: u64,
}

/// Everything through which one worker touches the world.
pub struct Io {
    clock: Clock,
    /// Where datagrams come from if it is not the sockets themselves.
    inlet: Option<Inlet>,
    sockets: Vec<Socket>,
    egress: Egress,
    /// The way out as frames, where it was asked for and can be.
    frames: Option<Frames>,
    /// Connections, where they are accepted.
    tcp: Option<Tcp>,
    parking: Parking,
    /// The socket that the next batch begins with, so that a busy one cannot starve the others.
    first: usize,
    /// When destinations that refused trains get another chance.
    forgive_at: Micros,
}

impl Io {
    /// Takes over a worker's sockets; [`Path::socket`](crate::path::Path::socket) is the index in this list. Clocks
    /// made from one `origin` agree. Must be called inside [`block_on`].
    pub fn new(sockets: Vec<Socket>, origin: Instant) -> io::Result<Self> {
        let mut parking = Parking::new();
        for socket in &sockets {
            parking.watch(socket)?;
        }
        let clock = Clock::new(origin);
        let forgive_at = clock.now() + REFUSED_TRAINS_TIMEOUT;
        let egress = Egress::new();
        Ok(Self { clock, inlet: None, sockets, egress, frames: None, tcp: None, parking, first: 0, forgive_at })
    }

    /// Accepts connections from here on. `seed` keys tables.
    pub fn open_tcp(&mut self, listeners: Vec<Listener>, seed: [u8; 16]) -> io::Result<()> {
        self.tcp = Some(Tcp::open(listeners, &mut self.parking, seed)?);
        Ok(())
    }

    /// Lets packets leave as frames from here on, and makes the outbox for that. `queue` is the device's queue that is
    /// tried first: workers do not share one. `seed` keys tables. One line says how it will be.
    pub fn open_frames(&mut self, queue: u32, seed: [u8; 16]) -> Result<(Outbox, String), Unsuited> {
        let slab = Slab::new(CHUNKS_MAX * CHUNK_LEN)?;
        let frames = Frames::open(&self.sockets, &slab, queue, seed)?;
        let line = frames.describe();
        self.frames = Some(frames);
        Ok((Outbox::in_chunks(slab), line))
    }

    /// Lets datagrams come and go through io_urings from here on. They come into the batch that this returns; no other can
    /// be filled any more.
    pub fn open_uring(&mut self) -> Result<Batch, Refused> {
        let (Uring { inlet, outlet }, slab) = Uring::open(&self.sockets)?;
        self.inlet = Some(inlet);
        self.egress.set_outlet(Some(outlet));
        Ok(Batch::of_ring(slab))
    }

    /// Microseconds on the worker's clock.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Processor time that this thread has taken so far, user and kernel: a system call, so not for every turn.
    pub fn processor_time(&self) -> Micros {
        clock::processor_time()
    }

    /// Takes what the kernel has for us, as much as fits the batch. Never waits.
    pub fn fill(&mut self, now: Micros, batch: &mut Batch) {
        self.clock.refresh(now);
        if let Some(inlet) = &mut self.inlet {
            return inlet.receive(&self.sockets, batch, &mut self.clock, now);
        }
        batch.clear();
        for turn in 0..self.sockets.len() {
            let index = (self.first + turn) % self.sockets.len();
            batch.receive(index as u8, &self.sockets[index], &mut self.clock, now);
            if batch.is_full() {
                break;
            }
        }
        self.first = (self.first + 1) % self.sockets.len().max(1);
    }

    /// Takes what connections have for us, as much as fits the inbox, and new connections. `is_owned` says whether a path belongs
    /// to a peer: a connection that does not has not long to stay. Never waits.
    pub fn fill_tcp(&mut self, now: Micros, inbox: &mut Inbox, is_owned: impl FnMut(Path) -> bool) {
        if let Some(tcp) = &mut self.tcp {
            tcp.look(now, inbox, is_owned);
        }
    }

    /// Serves a connection that the controlplane has accepted. It is closed where TCP is not served.
    pub fn hand_over_tcp(&mut self, stream: OwnedFd) {
        if let Some(tcp) = &mut self.tcp {
            tcp.hand_over(stream);
        }
    }

    /// What became of connections and their packets since this was asked last; `None` if none are accepted.
    pub fn take_tcp_counts(&mut self) -> Option<TcpCounts> {
        self.tcp.as_mut().map(Tcp::take_counts)
    }

    /// When [`fill_tcp`](Self::fill_tcp) is due, if nothing comes before.
    pub fn tcp_deadline(&self) -> Option<Micros> {
        self.tcp.as_ref().and_then(Tcp::deadline)
    }

    /// Gives the packets of the outbox to the kernel. Waits a millisecond at most, if send buffers are full; what does
    /// not go then is lost.
    pub fn flush(&mut self, now: Micros, outbox: &mut Outbox) -> Flushed {
        let mut flushed = Flushed::default();
        if let Some(tcp) = &mut self.tcp {
            tcp.send(outbox);
        }
        if let Some(backend) = &mut self.frames {
            let sent = backend.send(now, &self.sockets, outbox);
            flushed = Flushed { trains: sent.frames, failed: 0, frames: sent.frames, left: sent.left };
            if sent.left + sent.trains == 0 {
                return flushed;
            }
        }
        let sent = self.flush_to_sockets(now, outbox);
        flushed.trains += sent.trains;
        flushed.failed += sent.failed;
        flushed
    }

    /// Goes on with what a device has not taken yet, and takes back what it is done with.
    pub fn go_on(&mut self, now: Micros, outbox: &mut Outbox) {
        if let Some(backend) = &mut self.frames {
            backend.go_on(now, outbox);
        }
    }

    /// Why packets go by the sockets for now, and not as frames by the device of that name; once for each time.
    pub fn take_frames_error(&mut self) -> Option<(io::Error, &str)> {
        self.frames.as_mut()?.take_error()
    }

    fn flush_to_sockets(&mut self, now: Micros, outbox: &Outbox) -> train::Sent {
        if now >= self.forgive_at {
            self.egress.forgive();
            self.forgive_at = now + REFUSED_TRAINS_TIMEOUT;
        }
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            let chains = outbox
                .chains()
                .filter(|chain| usize::from(chain.path().socket) == index)
                .map(|chain| (chain.path().remote, chain.packets()));
            self.egress.send(socket, chains);
        }
        self.egress.finish()
    }

    /// Whether a device was found, since the last time this was asked, that cannot split trains.
    pub fn take_trains_lost(&mut self) -> bool {
        self.egress.take_gso_lost()
    }

    /// Lets `fd`, too, end the parking when it is readable. Whoever watches reads it.
    pub fn watch(&mut self, fd: impl AsFd) -> io::Result<Watch> {
        self.parking.watch(fd)
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, watch: &Watch) {
        self.parking.unwatch(watch);
    }

    /// Sleeps until something watched is readable or the deadline, to the next millisecond, has passed.
    pub async fn park_until(&mut self, deadline: Option<Micros>) {
        let now = self.now();
        let is_pending = self.frames.as_ref().is_some_and(Frames::is_pending);
        let deadline =
            if is_pending { Some(deadline.unwrap_or(now + FRAMES_RETRY).min(now + FRAMES_RETRY)) } else { deadline };
        if deadline.is_some_and(|deadline| deadline <= now) {
            return;
        }
        self.parking.park(deadline.map(|deadline| self.clock.instant(deadline))).await;
    }

    /// Closes the sockets; their ports are free when this is done and the runtime has ended.
    pub async fn close(mut self) {
        self.inlet = None;
        self.tcp = None;
        self.egress.set_outlet(None);
        self.parking.close().await;
    }
}

/// Runs a future on a new monoio runtime with timers, on this thread.
pub fn block_on<F: Future>(driver: Driver, future: F) -> io::Result<F::Output> {
    let is_uring = match driver {
        Driver::Auto => monoio::utils::detect_uring(),
        Driver::Uring => true,
        Driver::Epoll => false,
    };
    if is_uring {
        match RuntimeBuilder::<IoUringDriver>::new().enable_timer().build() {
            Ok(mut runtime) => return Ok(runtime.block_on(future)),
            Err(error) if driver == Driver::Uring => return Err(error),
            Err(error) => tracing::warn!("io_uring is known here but refused ({error}): waiting by epoll instead"),
        }
    }
    let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    Ok(runtime.block_on(future))
}
