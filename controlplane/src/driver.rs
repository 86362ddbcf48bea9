//! The driver of the engine: shared memory and signalling sockets on one side, the sans-IO engine on the other.
//!
//! One task owns the [`Engine`] and the links. `http` hands it [`Request`]s through a bounded queue, and
//! each socket has a bounded queue back; who does not read is cut off, so no socket can hold up another. Reports
//! and punted datagrams come from the rings, commands and injected datagrams go there. The dataplane may be absent
//! or die: then this attaches again, for ever, and tells the engine what it found.

mod attachment;
mod handle;
mod orders;
mod outgoing;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::id::{PeerId, StreamId};
use proto::link::{Addresses, Attached, ControlLink, Endpoint, Lost, WorkerInfo};
use proto::plane::{Command, Counter, DatagramHeader, DatagramKind, StreamTally};
use tokio::sync::oneshot;

use self::attachment::{Attachment, Worker, attach, readiness};
pub use self::handle::{Closing, Handle, Inbox, Load, REQUESTS_MAX, Request, WorkerLoad, channel};
pub use self::orders::{ORDERS_MAX, OrderOutlet, Orders, orders};
pub(crate) use self::outgoing::text_of;
pub use self::outgoing::{
    Charge, OUTGOING_LEN_FREE, OUTGOING_MAX, Outgoing, Outlet, Overfull, Queued, Signal, ToSocket,
};
use crate::engine::{Engine, Input, LinkIds, Output, PeerIds, PeerMeasured, Reply, RequestId, SocketId};
use crate::ids::SlabId;
use crate::metrics::Sample;
use crate::quality::{Carried, Link};
use crate::snapshot::together;

/// File name of the dataplane's socket in the state folder.
pub const SOCKET_FILE: &str = "dataplane.sock";

/// Requests taken between two looks at the rings.
const REQUESTS_PER_TURN_MAX: usize = 64;

/// Reports and datagrams taken from one worker between two looks at everything else.
const RECORDS_PER_TURN_MAX: usize = 512;

/// How soon a full command ring is tried again; a worker empties it once per turn.
const RING_FULL_RETRY: Duration = Duration::from_millis(2);

/// Datagrams of data that may wait for a worker beside its ring: 2 ms of what one is policed to.
const DATA_WAITING_MAX: usize = 2048;

/// How soon they are tried again. A worker that has something to send empties 64 places in a turn.
const DATA_RETRY: Duration = Duration::from_millis(1);

/// How often the engine is told how busy the workers are, if there is a choice between them.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);

/// How often the engine is told what the links of peers are like. Workers write their tallies about as often.
const LINKS_INTERVAL: Duration = Duration::from_secs(1);

/// Why the driver ended otherwise than by [`Request::Stop`].
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// Another controlplane attached to the dataplane.
    #[error("another controlplane took over this dataplane: run one controlplane for each state folder")]
    Replaced,
    /// Something of the kernel's failed.
    #[error("cannot wait for the dataplane: {0}")]
    Io(#[from] std::io::Error),
}

/// What the wait ended with.
enum Woken {
    Request(Option<Request>),
    Attached(Attached),
    Link,
    Due,
}

/// Owns the engine; see the module.
pub struct Driver {
    engine: Engine,
    inbox: Inbox,
    link: Endpoint,
    sockets: HashMap<SocketId, Outgoing>,
    /// Requests that are not answered yet.
    asked: HashMap<RequestId, oneshot::Sender<Reply>>,
    attachment: Option<Attachment>,
    commands: Vec<Command>,
    /// When the engine was last told how busy the workers are.
    busy_told: Instant,
    /// When it was last told what the links of peers are like.
    links_told: Instant,
    injects_lost: u64,
    records_malformed: u64,
    sockets_slow: u64,
}

impl Driver {
    /// A driver of `engine` that serves `inbox` and attaches to the dataplane that listens at `link`.
    pub fn new(engine: Engine, inbox: Inbox, link: Endpoint) -> Driver {
        Driver {
            engine,
            inbox,
            link,
            sockets: HashMap::new(),
            asked: HashMap::new(),
            attachment: None,
            commands: Vec::new(),
            busy_told: Instant::now(),
            links_told: Instant::now(),
            injects_lost: 0,
            records_malformed: 0,
            sockets_slow: 0,
        }
    }

    /// Runs until [`Request::Stop`], or until every [`Handle`] is gone.
    pub async fn run(mut self) -> Result<(), DriverError> {
        let mut attaching: Option<Pin<Box<dyn Future<Output = Attached>>>> = None;
        loop {
            self.lose_attachment()?;
            if self.attachment.is_none() && attaching.is_none() {
                attaching = Some(Box::pin(attach(self.link.clone())));
            }
            let mut is_busy = self.take_from_workers();
            let mut requests = 0;
            while requests < REQUESTS_PER_TURN_MAX
                && let Ok(request) = self.inbox.requests.try_recv()
            {
                if self.take_request(request).is_break() {
                    return Ok(());
                }
                requests += 1;
            }
            is_busy |= requests == REQUESTS_PER_TURN_MAX;
            let due = self.carry_out();
            if is_busy {
                tokio::task::yield_now().await; // The sockets of the same thread get their turn too.
                continue;
            }
            if !self.sleep() {
                continue;
            }
            let woken = self.wait(due, &mut attaching).await;
            self.wake();
            match woken {
                Woken::Request(request) => {
                    // No request: every handle is gone.
                    if request.is_none_or(|request| self.take_request(request).is_break()) {
                        return Ok(());
                    }
                }
                Woken::Attached(attached) => {
                    attaching = None;
                    self.adopt(attached)?;
                }
                Woken::Link | Woken::Due => {}
            }
        }
    }

    /// Waits for anything at all, at most until `due`.
    async fn wait(
        &mut self,
        due: Option<Instant>,
        attaching: &mut Option<Pin<Box<dyn Future<Output = Attached>>>>,
    ) -> Woken {
        let attachment = self.attachment.as_ref();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            request = self.inbox.requests.recv() => Woken::Request(request),
            attached = poll_fn(|cx| attaching.as_mut().map_or(Poll::Pending, |future| future.as_mut().poll(cx))) =>
                Woken::Attached(attached),
            () = poll_fn(|cx| attachment.map_or(Poll::Pending, |attachment| attachment.poll_woken(cx))) => Woken::Link,
            () = timer => Woken::Due,
        }
    }

    fn take_request(&mut self, request: Request) -> std::ops::ControlFlow<()> {
        let now = Instant::now();
        self.tell_time(now);
        match request {
            Request::Input(input) => {
                if let Input::SocketClosed { socket } = input {
                    self.sockets.remove(&socket);
                }
                self.engine.handle(now, input);
            }
            Request::Open { socket, room, grant, outgoing } => {
                self.sockets.insert(socket, outgoing);
                self.engine.handle(now, Input::SocketOpened { socket, room, grant });
            }
            Request::Ask { id, input, reply } => {
                self.asked.insert(id, reply);
                self.engine.handle(now, input);
            }
            Request::MayJoin { room, grant, reply } => {
                let _ = reply.send(self.engine.may_join(&room, &grant)); // Who asked may have gone.
            }
            Request::Connection { worker, stream } => {
                let socket = self.attachment.as_ref().map(|attachment| &attachment.socket);
                if let Some(Err(error)) = socket.map(|socket| socket.hand_over(worker, &stream)) {
                    tracing::debug!(worker, "a connection is closed instead of handed over: {error}");
                }
            }
            Request::Sample { reply } => {
                let _ = reply.send(self.sample()); // Who asked may have gone.
            }
            Request::Load { reply } => {
                let _ = reply.send(self.load()); // As above.
            }
            Request::Measure { room, reply } => {
                let _ = reply.send(self.measure(&room)); // As above.
            }
            Request::Stop { for_good } => {
                if for_good {
                    self.engine.handle(now, Input::Stop);
                }
                self.carry_out();
                for outgoing in self.sockets.values() {
                    let _ = outgoing.push(ToSocket::Close(Closing::Restarting)); // A full one closes by the drop.
                }
                return std::ops::ControlFlow::Break(());
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Reads the rings; true if one may hold more.
    fn take_from_workers(&mut self) -> bool {
        let Some(attachment) = &mut self.attachment else { return false };
        let mut is_busy = false;
        for (index, worker) in attachment.workers.iter_mut().enumerate() {
            let now = Instant::now();
            if worker.link.take_resync() {
                self.engine.handle(now, Input::Resync { worker: index });
            }
            let mut taken = 0;
            while taken < RECORDS_PER_TURN_MAX
                && let Some(report) = worker.link.pop_report()
            {
                taken += 1;
                match report {
                    Ok(report) => self.engine.handle(now, Input::Report { worker: index, report }),
                    Err(_) => self.records_malformed += 1,
                }
            }
            is_busy |= taken == RECORDS_PER_TURN_MAX;
            let mut taken = 0;
            while taken < RECORDS_PER_TURN_MAX
                && let Some(punt) = worker.link.pop_punt()
            {
                taken += 1;
                match punt {
                    Ok((header, payload)) => {
                        let payload = payload.to_vec();
                        self.engine.handle(now, Input::Datagram { worker: index, header, payload });
                    }
                    Err(_) => self.records_malformed += 1,
                }
            }
            is_busy |= taken == RECORDS_PER_TURN_MAX;
        }
        is_busy
    }

    /// Does what the engine wants done, and says when to look again.
    fn carry_out(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.tell_time(now);
            self.engine.handle_timeout(now);
        }
        let told_again = [self.tell_busy(now), self.tell_links(now)];
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Signal { socket, signal } => self.send(socket, ToSocket::Signal(Box::new(signal))),
                Output::ProbeSocket { socket } => self.send(socket, ToSocket::Probe),
                Output::CloseSocket { socket } => {
                    self.send(socket, ToSocket::Close(Closing::Done));
                    self.sockets.remove(&socket);
                }
                Output::Reply { id, reply } => {
                    // Who asked may have gone: a peer that it asked for is ended by its deadline.
                    let _ = self.asked.remove(&id).map(|way_back| way_back.send(reply));
                }
                Output::Inject { worker, header, payload } => self.inject(worker, header, payload),
                Output::Cluster(order) => {
                    if let Some(orders) = &self.inbox.orders {
                        orders.push(order);
                    }
                }
                Output::Happened(happening) => self.inbox.logbook.write(*happening),
                Output::Journal { worker, slot, bytes } => self.write_journal(worker, slot, bytes.as_deref()),
            }
        }
        let mut due = self.engine.poll_timeout().into_iter().chain(told_again.into_iter().flatten()).min();
        if self.inject_waiting() {
            let retry = now + DATA_RETRY;
            due = Some(due.map_or(retry, |due| due.min(retry)));
        }
        if self.reconcile() {
            let retry = now + RING_FULL_RETRY;
            due = Some(due.map_or(retry, |due| due.min(retry)));
        }
        let is_ready = self.engine.is_ready();
        self.inbox.readiness.send_if_modified(|was| std::mem::replace(was, is_ready) != is_ready);
        due
    }

    /// Tells the engine now and then how busy the workers are, and says when it is time again.
    fn tell_busy(&mut self, now: Instant) -> Option<Instant> {
        let workers = &mut self.attachment.as_mut().filter(|attachment| attachment.workers.len() > 1)?.workers;
        let elapsed = now.saturating_duration_since(self.busy_told);
        if elapsed < BUSY_INTERVAL {
            return Some(self.busy_told + BUSY_INTERVAL);
        }
        self.busy_told = now;
        for (index, worker) in workers.iter_mut().enumerate() {
            let Some(counters) = worker.link.counters() else { continue };
            let busy = counters[Counter::BusyMicros as usize];
            let permille = u128::from(busy.saturating_sub(worker.busy_micros)) * 1000 / elapsed.as_micros().max(1);
            worker.busy_micros = busy;
            self.engine.handle(now, Input::Busy { worker: index, permille: permille.min(1000) as u32 });
        }
        Some(now + BUSY_INTERVAL)
    }

    /// Tells the engine now and then what the links of peers are like, and says when it is time again.
    fn tell_links(&mut self, now: Instant) -> Option<Instant> {
        let workers = &self.attachment.as_ref().filter(|_| self.engine.has_peers())?.workers;
        if now.saturating_duration_since(self.links_told) < LINKS_INTERVAL {
            return Some(self.links_told + LINKS_INTERVAL);
        }
        self.links_told = now;
        let link = |LinkIds { peer, streams, slots }: LinkIds| {
            let own = &workers.get(peer.worker())?.link;
            let streams = streams.into_iter().filter_map(|stream| own.stream_tally(stream));
            let slots = slots.into_iter().filter_map(|(slot, kind, carries)| {
                let worker = carries.first().and_then(|stream| workers.get(stream.worker()));
                let stream = worker.and_then(|worker| tally_of(&worker.link, &carries));
                Some(Carried { slot: own.slot_tally(slot)?, stream, kind })
            });
            Some((peer, Link::of(streams, slots)))
        };
        let links: Vec<(PeerId, Link)> = self.engine.links().into_iter().filter_map(link).collect();
        if !links.is_empty() {
            self.engine.handle(now, Input::Links(links));
        }
        Some(now + LINKS_INTERVAL)
    }

    /// Pushes the commands that the engine wants, as far as the rings have space; true if one was short of it.
    fn reconcile(&mut self) -> bool {
        let Some(attachment) = &mut self.attachment else { return false };
        let mut is_short = false;
        for (index, worker) in attachment.workers.iter_mut().enumerate() {
            let space = worker.link.command_space();
            self.engine.reconcile(index, space, &mut self.commands);
            // A batch that used all there was may have left something over.
            is_short |= self.commands.len() + 1 >= space;
            for command in self.commands.drain(..) {
                assert!(worker.link.push_command(&command), "reconcile stays within the space that it was given");
            }
            worker.link.notify();
        }
        is_short
    }

    fn send(&mut self, socket: SocketId, what: ToSocket) {
        if let Some(outgoing) = self.sockets.get(&socket)
            && outgoing.push(what) == Err(Overfull)
        {
            // Too slow. Its task sees the queue end without a word, closes, and reports back by `Closed`.
            self.sockets.remove(&socket);
            self.sockets_slow += 1;
        }
    }

    /// Hands a datagram to a worker. Data that finds no room waits, as far as there is room for that; it is in order for each peer.
    fn inject(&mut self, worker: usize, header: DatagramHeader, payload: Vec<u8>) {
        let Some(worker) = self.attachment.as_mut().and_then(|attachment| attachment.workers.get_mut(worker)) else {
            self.injects_lost += 1;
            return;
        };
        let is_data = header.kind == DatagramKind::Data;
        let must_wait = is_data && !worker.data_waiting.is_empty();
        if !must_wait && worker.link.push_inject(&header, &payload) {
            return;
        }
        if is_data && worker.data_waiting.len() < DATA_WAITING_MAX {
            worker.data_waiting.push_back((header, payload));
        } else {
            self.injects_lost += 1; // As if lost on the network: DTLS and SCTP send it again.
        }
    }

    /// Hands over the data that waits, as far as there is room; true if some is left.
    fn inject_waiting(&mut self) -> bool {
        let mut is_left = false;
        for worker in self.attachment.iter_mut().flat_map(|attachment| &mut attachment.workers) {
            while let Some((header, payload)) = worker.data_waiting.front() {
                if !worker.link.push_inject(header, payload) {
                    is_left = true;
                    break;
                }
                worker.data_waiting.pop_front();
            }
        }
        is_left
    }

    fn write_journal(&mut self, worker: usize, slot: u32, bytes: Option<&[u8]>) {
        let worker = self.attachment.as_mut().and_then(|attachment| attachment.workers.get_mut(worker));
        let Some(Worker { link, .. }) = worker else { return };
        let written = match bytes {
            Some(bytes) => link.journal_write(slot, bytes),
            None => link.journal_clear(slot),
        };
        if let Err(error) = written {
            tracing::error!(slot, %error, "a peer cannot be written to the journal: a restart would lose it");
        }
    }

    fn sample(&mut self) -> Sample {
        let (mut workers, mut latencies) = (Vec::new(), Vec::new());
        for worker in self.attachment.iter_mut().flat_map(|attachment| &mut attachment.workers) {
            if let Some(counters) = worker.link.counters() {
                worker.counters = counters;
            }
            workers.push(worker.counters);
            latencies.push(worker.link.latencies());
        }
        Sample {
            snapshot: self.engine.snapshot(),
            edge_paths: self.engine.edge_paths(Instant::now()),
            is_linked: self.attachment.is_some(),
            dataplane_pid: self.attachment.as_ref().and_then(|attachment| attachment.socket.dataplane_pid()),
            workers,
            latencies,
            injects_lost: self.injects_lost,
            records_malformed: self.records_malformed,
            sockets_slow: self.sockets_slow,
            registry: Default::default(), // HTTP has it, and the others.
            cluster: None,
            services: Vec::new(),
        }
    }

    fn load(&self) -> Load {
        let workers = self.attachment.as_ref().map(|attachment| attachment.workers.as_slice()).unwrap_or_default();
        let load = |worker: &Worker| WorkerLoad {
            busy_micros: worker.link.counters().map_or(0, |counters| counters[Counter::BusyMicros as usize]),
            addresses: worker.addresses.clone(),
        };
        Load { peers: self.engine.peer_count(), workers: workers.iter().map(load).collect() }
    }

    /// Reads the tallies of who is in a room. Only of what is installed: see [`ControlLink::stream_tally`].
    fn measure(&self, room: &str) -> Vec<PeerMeasured> {
        let workers = self.attachment.as_ref().map(|attachment| attachment.workers.as_slice()).unwrap_or_default();
        let measured = |PeerIds { worker, id, peer, streams, slots }| {
            let link = workers.get(worker).map(|worker| &worker.link);
            PeerMeasured {
                peer,
                path: link.and_then(|link| link.peer_tally(id)),
                streams: streams.into_iter().map(|of_track| tally_of(link?, &of_track)).collect(),
                slots: slots.into_iter().map(|(slot, info)| (info, link.and_then(|l| l.slot_tally(slot)))).collect(),
            }
        };
        self.engine.ids_in(room).unwrap_or_default().into_iter().map(measured).collect()
    }

    fn adopt(&mut self, attached: Attached) -> Result<(), DriverError> {
        let Attached { workers, socket } = attached;
        let mut attachment =
            Attachment { socket_ready: readiness(socket.as_fd())?, socket, workers: Vec::with_capacity(workers.len()) };
        let now = Instant::now();
        self.tell_time(now);
        for (index, (link, WorkerInfo { addresses, tcp_addresses, epoch })) in workers.into_iter().enumerate() {
            let journal: Vec<(u32, Vec<u8>)> = link.journal_entries().collect();
            tracing::info!(
                worker = index,
                epoch,
                ?addresses,
                ?tcp_addresses,
                journal = journal.len(),
                "linked to a worker"
            );
            let bound = addresses.clone();
            let addresses = Addresses { udp: addresses, tcp: tcp_addresses };
            self.engine.handle(now, Input::Linked { worker: index, addresses, journal });
            let wake = readiness(link.wake_fd())?;
            let busy_micros = link.counters().map_or(0, |counters| counters[Counter::BusyMicros as usize]);
            attachment.workers.push(Worker {
                link,
                wake,
                counters: [0; Counter::COUNT],
                busy_micros,
                data_waiting: VecDeque::new(),
                addresses: bound,
            });
        }
        self.attachment = Some(attachment);
        Ok(())
    }

    /// Tells the engine what the wall clock says, which may have been set since.
    fn tell_time(&mut self, now: Instant) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.engine.handle(now, Input::WallClock(since_epoch));
    }

    /// Notices the end of the dataplane and tells the engine.
    fn lose_attachment(&mut self) -> Result<(), DriverError> {
        match self.attachment.as_ref().and_then(|attachment| attachment.socket.lost()) {
            None => Ok(()),
            Some(Lost::Replaced) => Err(DriverError::Replaced),
            Some(Lost::Died) => {
                let workers = self.attachment.take().map_or(0, |attachment| attachment.workers.len());
                tracing::warn!(workers, "the dataplane is gone; waiting for another one");
                for worker in 0..workers {
                    self.engine.handle(Instant::now(), Input::Unlinked { worker });
                }
                Ok(())
            }
        }
    }

    /// Declares to every worker that it must wake us; false if one has something after all.
    fn sleep(&mut self) -> bool {
        let Some(attachment) = &mut self.attachment else { return true };
        let is_idle = attachment.workers.iter_mut().all(|worker| worker.link.sleep());
        if !is_idle {
            self.wake();
        }
        is_idle
    }

    fn wake(&mut self) {
        for worker in self.attachment.iter_mut().flat_map(|attachment| &mut attachment.workers) {
            worker.link.awake();
            worker.link.clear_wake();
        }
    }
}

/// What comes in the streams of a track.
fn tally_of(link: &ControlLink, of_track: &[StreamId]) -> Option<StreamTally> {
    together(of_track.iter().filter_map(|&stream| link.stream_tally(stream)))
}

#[cfg(test)]
mod tests {

    use proto::signal::ServerSignal;

    use super::*;
    use crate::dtls::Identity;
    use crate::engine::{Grant, Settings};
    use crate::limited::Owner;
    use crate::memory::Memory;

    fn grant() -> Grant {
        Grant { room: "demo".into(), name: "Ada".into(), publish: true, subscribe: true, ..Grant::default() }
    }

    #[test]
    fn a_socket_that_does_not_read_is_cut_off_alone() {
        let engine = Engine::new(Settings::default(), Identity::generate().unwrap(), [1; 32]);
        let mut driver = Driver::new(engine, channel().1, std::path::Path::new("/nowhere").into());
        let mut receivers = Vec::new();
        for number in 0..2 {
            let (outgoing, receiver) = outgoing::queue(&Memory::new(0), Owner::Room("demo".into()));
            let socket = SocketId(number);
            let opened = Request::Open { socket, room: "demo".into(), grant: grant(), outgoing };
            assert!(driver.take_request(opened).is_continue());
            receivers.push(receiver);
        }
        for _ in 0..OUTGOING_MAX + 10 {
            driver.send(SocketId(0), ToSocket::Signal(Box::new(ServerSignal::Pong {})));
            driver.send(SocketId(1), ToSocket::Signal(Box::new(ServerSignal::Pong {})));
            receivers[1].try_recv().expect("the one that reads gets everything");
        }
        assert_eq!(driver.sockets_slow, 1);
        let mut signals = 0;
        while let Ok(what) = receivers[0].try_recv() {
            assert!(matches!(what, Queued::Signal(_)), "it is not closed as if all were said");
            signals += 1;
        }
        assert!(signals > 20, "{signals}");
        assert!(receivers[0].is_closed(), "its task sees the end");
    }
}
