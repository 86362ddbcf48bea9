//! The driver of the engine: shared memory and signalling sockets on one side, the sans-IO engine on the other.
//!
//! One task owns the [`Engine`] and the [`ControlLink`]s. `http` hands it [`Request`]s through a bounded queue, and
//! each socket has a bounded queue back; who does not read is cut off, so no socket can hold up another. Reports
//! and punted datagrams come from the rings, commands and injected datagrams go there. The dataplane may be absent
//! or die: then this attaches again, for ever, and tells the engine what it found.

use std::collections::HashMap;
use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::link::{Attached, ControlLink, LinkError, LinkSocket, Lost, WorkerInfo};
use proto::plane::{Command, Counter, DatagramHeader};
use proto::signal::{ClientSignal, ServerSignal};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

use crate::engine::{
    Ask, Denial, Engine, Grant, Input, Order, OrderError, Output, PeerMeasured, PeerPlaces, Reply, Settings, SocketId,
};
use crate::logbook::Logbook;
use crate::metrics::Sample;

/// File name of the dataplane's socket in the state folder.
pub const SOCKET_FILE: &str = "dataplane.sock";

/// Requests that may wait for the engine. A full queue holds back the sockets that fill it, each by itself.
pub const REQUESTS_MAX: usize = 1024;

/// Signals that may wait for one socket. A join into a full room costs its members about five; a socket that is
/// this far behind is dead or hostile.
pub const OUTGOING_MAX: usize = 256;

/// Requests taken between two looks at the rings.
const REQUESTS_PER_TURN_MAX: usize = 64;

/// Reports and datagrams taken from one worker between two looks at everything else.
const RECORDS_PER_TURN_MAX: usize = 512;

/// How soon a full command ring is tried again; a worker empties it once per turn.
const RING_FULL_RETRY: Duration = Duration::from_millis(2);

/// How often the engine is told how busy the workers are, if there is a choice between them.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);

/// Waits between two tries to attach: first and longest. A restarted dataplane is found within the longest.
const ATTACH_RETRY_MIN: Duration = Duration::from_millis(20);
const ATTACH_RETRY_MAX: Duration = Duration::from_millis(500);

/// How often a dataplane that stays away is mentioned in the log.
const ATTACH_LOG_INTERVAL: Duration = Duration::from_secs(30);

/// What the doors ask of the engine's task.
#[derive(Debug)]
pub enum Request {
    /// A socket was let in.
    Opened {
        /// Its name.
        socket: SocketId,
        /// The room of its address.
        room: String,
        /// What its token allows.
        grant: Grant,
        /// The way back. Dropped without [`ToSocket::Close`] when it is full.
        outgoing: mpsc::Sender<ToSocket>,
    },
    /// A signal came on a socket.
    Signal {
        /// Which.
        socket: SocketId,
        /// What it says.
        signal: ClientSignal,
    },
    /// The client at a socket brought another token.
    Granted {
        /// Which socket.
        socket: SocketId,
        /// What it allows.
        grant: Grant,
    },
    /// A socket is gone.
    Closed {
        /// Which.
        socket: SocketId,
    },
    /// A door without a socket asks something.
    Ask {
        /// What.
        ask: Ask,
        /// Where to.
        reply: oneshot::Sender<Result<Reply, Denial>>,
    },
    /// Say whether a newcomer would be let in now.
    MayJoin {
        /// Into which room.
        room: String,
        /// What its token allows.
        grant: Grant,
        /// Where to.
        reply: oneshot::Sender<Result<(), Denial>>,
    },
    /// Say what there is, for metrics.
    Sample {
        /// Where to.
        reply: oneshot::Sender<Sample>,
    },
    /// Say who is in a room, and what flows.
    Measure {
        /// Which.
        room: String,
        /// Where to; nobody for a room that is not there.
        reply: oneshot::Sender<Vec<PeerMeasured>>,
    },
    /// Carry out an order of an operator.
    Administer {
        /// Which.
        order: Order,
        /// Where it is said whether it could be.
        reply: oneshot::Sender<Result<(), OrderError>>,
    },
    /// Go on with other settings; see [`Settings::reload`].
    Settings(Box<Settings>),
    /// End: close every socket and let go of the workers, which go on forwarding.
    Stop {
        /// Whether clients are told that the server stops. If not, they come back and resume at the successor.
        for_good: bool,
    },
}

/// What a socket is to do.
#[derive(Debug)]
pub enum ToSocket {
    /// Send a signal. Boxed, because a queue has room for dozens and is mostly empty.
    Signal(Box<ServerSignal>),
    /// Find out whether anybody is there, and end if not.
    Probe,
    /// Close, after everything before it.
    Close(Closing),
}

const _: () = assert!(size_of::<ToSocket>() <= 16, "each socket's queue has room for a block of 32 from its start");

/// Why a socket is closed by this side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// Everything is said.
    Done,
    /// This controlplane ends; a successor comes.
    Restarting,
}

/// The doors' end of the queue to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    readiness: watch::Receiver<bool>,
    sockets: Arc<AtomicU64>,
    logbook: Arc<Logbook>,
}

/// The engine's end of the queue.
#[derive(Debug)]
pub struct Inbox {
    /// What is asked.
    pub requests: mpsc::Receiver<Request>,
    /// Whether a dataplane is linked and joins can be served.
    pub readiness: watch::Sender<bool>,
    /// Where it is written down what happens.
    pub logbook: Arc<Logbook>,
}

/// A queue between doors and engine.
pub fn channel() -> (Handle, Inbox) {
    let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
    let (is_ready, readiness) = watch::channel(false);
    let logbook = Arc::new(Logbook::default());
    let handle = Handle { requests, readiness, sockets: Arc::new(AtomicU64::new(1)), logbook: logbook.clone() };
    (handle, Inbox { requests: inbox, readiness: is_ready, logbook })
}

impl Handle {
    /// Announces a socket; what it is to send comes out of the receiver. `None`: the engine has ended.
    pub async fn open(&self, room: &str, grant: Grant) -> Option<(SocketId, mpsc::Receiver<ToSocket>)> {
        let socket = SocketId(self.sockets.fetch_add(1, Ordering::Relaxed));
        let (outgoing, receiver) = mpsc::channel(OUTGOING_MAX);
        let request = Request::Opened { socket, room: room.to_owned(), grant, outgoing };
        self.requests.send(request).await.ok().map(|()| (socket, receiver))
    }

    /// Hands over a signal. Waits while the engine is behind, which holds back this one socket.
    pub async fn signal(&self, socket: SocketId, signal: ClientSignal) {
        let _ = self.requests.send(Request::Signal { socket, signal }).await; // An engine that has ended needs none.
    }

    /// Hands over what another token of the client at a socket allows.
    pub async fn grant(&self, socket: SocketId, grant: Grant) {
        let _ = self.requests.send(Request::Granted { socket, grant }).await; // As above.
    }

    /// Says that a socket is gone. Every socket that was opened says it once.
    pub async fn close(&self, socket: SocketId) {
        let _ = self.requests.send(Request::Closed { socket }).await; // As above.
    }

    /// Asks for a peer without a socket. `None`: the engine has ended.
    pub async fn ask(&self, ask: Ask) -> Option<Result<Reply, Denial>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Ask { ask, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Whether a newcomer would be let into a room now. `None`: the engine has ended.
    pub async fn may_join(&self, room: &str, grant: Grant) -> Option<Result<(), Denial>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::MayJoin { room: room.to_owned(), grant, reply }).await.ok()?;
        answer.await.ok()
    }

    /// What there is now. `None`: the engine has ended.
    pub async fn sample(&self) -> Option<Sample> {
        let (reply, sample) = oneshot::channel();
        self.requests.send(Request::Sample { reply }).await.ok()?;
        sample.await.ok()
    }

    /// Who is in a room, in the order of joining, and what flows. `None`: the engine has ended.
    pub async fn measure(&self, room: &str) -> Option<Vec<PeerMeasured>> {
        let (reply, peers) = oneshot::channel();
        self.requests.send(Request::Measure { room: room.to_owned(), reply }).await.ok()?;
        peers.await.ok()
    }

    /// Has an order carried out. `None`: the engine has ended.
    pub async fn administer(&self, order: Order) -> Option<Result<(), OrderError>> {
        let (reply, done) = oneshot::channel();
        self.requests.send(Request::Administer { order, reply }).await.ok()?;
        done.await.ok()
    }

    /// Brings other settings into the running engine.
    pub async fn reload(&self, settings: Settings) {
        let _ = self.requests.send(Request::Settings(Box::new(settings))).await; // As above.
    }

    /// Ends the driver; see [`Request::Stop`].
    pub async fn stop(&self, for_good: bool) {
        let _ = self.requests.send(Request::Stop { for_good }).await; // It has stopped already.
    }

    /// Where the doors write down whom they turn away.
    pub(crate) fn logbook(&self) -> &Arc<Logbook> {
        &self.logbook
    }

    /// Whether a dataplane is linked and joins can be served.
    pub fn is_ready(&self) -> bool {
        *self.readiness.borrow()
    }
}

/// One worker of the attachment.
struct Worker {
    link: ControlLink,
    wake: AsyncFd<OwnedFd>,
    /// As last read; they stand while the worker is in the middle of publishing.
    counters: [u64; Counter::COUNT],
    /// Processor time that it had taken when the engine was last told of it, microseconds.
    busy_micros: u64,
}

/// The dataplane that we are attached to.
struct Attachment {
    workers: Vec<Worker>,
    socket: LinkSocket,
    socket_ready: AsyncFd<OwnedFd>,
}

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
    path: PathBuf,
    sockets: HashMap<SocketId, mpsc::Sender<ToSocket>>,
    attachment: Option<Attachment>,
    commands: Vec<Command>,
    /// When the engine was last told how busy the workers are.
    busy_told: Instant,
    injects_lost: u64,
    records_malformed: u64,
    sockets_slow: u64,
}

impl Driver {
    /// A driver of `engine` that serves `inbox` and attaches to the dataplane of this state folder.
    pub fn new(engine: Engine, inbox: Inbox, state: &Path) -> Driver {
        Driver {
            engine,
            inbox,
            path: state.join(SOCKET_FILE),
            sockets: HashMap::new(),
            attachment: None,
            commands: Vec::new(),
            busy_told: Instant::now(),
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
                attaching = Some(Box::pin(attach(self.path.clone())));
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
                    // No request: every door is gone.
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
            Request::Opened { socket, room, grant, outgoing } => {
                self.sockets.insert(socket, outgoing);
                self.engine.handle(now, Input::SocketOpened { socket, room, grant });
            }
            Request::Granted { socket, grant } => self.engine.handle(now, Input::Granted { socket, grant }),
            Request::Signal { socket, signal } => self.engine.handle(now, Input::Signal { socket, signal }),
            Request::Closed { socket } => {
                self.sockets.remove(&socket);
                self.engine.handle(now, Input::SocketClosed { socket });
            }
            Request::Ask { ask, reply } => {
                let _ = reply.send(self.engine.ask(now, ask)); // Who asked may have gone: the peer's deadline ends it.
            }
            Request::MayJoin { room, grant, reply } => {
                let _ = reply.send(self.engine.may_join(&room, &grant)); // Who asked may have gone.
            }
            Request::Sample { reply } => {
                let _ = reply.send(self.sample()); // Who asked may have gone.
            }
            Request::Measure { room, reply } => {
                let _ = reply.send(self.measure(&room)); // As above.
            }
            Request::Administer { order, reply } => {
                let _ = reply.send(self.engine.administer(order)); // As above.
            }
            Request::Settings(settings) => self.engine.handle(now, Input::Settings(*settings)),
            Request::Stop { for_good } => {
                if for_good {
                    self.engine.handle(now, Input::Stop);
                }
                self.carry_out();
                for outgoing in self.sockets.values() {
                    let _ = outgoing.try_send(ToSocket::Close(Closing::Restarting)); // A full one closes by the drop.
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
        let busy_due = self.tell_busy(now);
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Signal { socket, signal } => self.send(socket, ToSocket::Signal(Box::new(signal))),
                Output::ProbeSocket { socket } => self.send(socket, ToSocket::Probe),
                Output::CloseSocket { socket } => {
                    self.send(socket, ToSocket::Close(Closing::Done));
                    self.sockets.remove(&socket);
                }
                Output::Inject { worker, header, payload } => self.inject(worker, &header, &payload),
                Output::Happened(happening) => self.inbox.logbook.write(*happening),
                Output::Journal { worker, slot, bytes } => self.write_journal(worker, slot, bytes.as_deref()),
            }
        }
        let mut due = self.engine.poll_timeout().into_iter().chain(busy_due).min();
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
            && let Err(mpsc::error::TrySendError::Full(_)) = outgoing.try_send(what)
        {
            // Too slow. Its task sees the queue end without a word, closes, and reports back by `Closed`.
            self.sockets.remove(&socket);
            self.sockets_slow += 1;
        }
    }

    fn inject(&mut self, worker: usize, header: &DatagramHeader, payload: &[u8]) {
        let worker = self.attachment.as_mut().and_then(|attachment| attachment.workers.get_mut(worker));
        if !worker.is_some_and(|worker| worker.link.push_inject(header, payload)) {
            self.injects_lost += 1; // As if lost on the network: DTLS sends it again.
        }
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
            is_linked: self.attachment.is_some(),
            dataplane_pid: self.attachment.as_ref().and_then(|attachment| attachment.socket.dataplane_pid()),
            workers,
            latencies,
            injects_lost: self.injects_lost,
            records_malformed: self.records_malformed,
            sockets_slow: self.sockets_slow,
        }
    }

    /// Reads the tallies of who is in a room. Only of what is installed: see [`ControlLink::stream_tally`].
    fn measure(&self, room: &str) -> Vec<PeerMeasured> {
        let workers = self.attachment.as_ref().map(|attachment| attachment.workers.as_slice()).unwrap_or_default();
        let measured = |PeerPlaces { worker, peer, streams, slots }| {
            let link = workers.get(worker).map(|worker| &worker.link);
            PeerMeasured {
                peer,
                streams: streams.into_iter().map(|stream| link?.stream_tally(stream)).collect(),
                slots: slots.into_iter().map(|(slot, info)| (info, link.and_then(|l| l.slot_tally(slot)))).collect(),
            }
        };
        self.engine.places(room).unwrap_or_default().into_iter().map(measured).collect()
    }

    fn adopt(&mut self, attached: Attached) -> Result<(), DriverError> {
        let Attached { workers, socket } = attached;
        let mut attachment =
            Attachment { socket_ready: readiness(socket.as_fd())?, socket, workers: Vec::with_capacity(workers.len()) };
        let now = Instant::now();
        self.tell_time(now);
        for (index, (link, WorkerInfo { addresses, epoch })) in workers.into_iter().enumerate() {
            let journal: Vec<(u32, Vec<u8>)> = link.journal_entries().collect();
            tracing::info!(worker = index, epoch, ?addresses, journal = journal.len(), "linked to a worker");
            self.engine.handle(now, Input::Linked { worker: index, addresses, journal });
            let wake = readiness(link.wake_fd())?;
            let busy_micros = link.counters().map_or(0, |counters| counters[Counter::BusyMicros as usize]);
            attachment.workers.push(Worker { link, wake, counters: [0; Counter::COUNT], busy_micros });
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

impl Attachment {
    /// Ready when a worker has woken us or the dataplane is gone.
    fn poll_woken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut is_woken = false;
        for descriptor in self.workers.iter().map(|worker| &worker.wake).chain([&self.socket_ready]) {
            match descriptor.poll_read_ready(cx) {
                Poll::Ready(Ok(mut guard)) => {
                    guard.clear_ready();
                    is_woken = true;
                }
                Poll::Ready(Err(_)) => is_woken = true,
                Poll::Pending => {}
            }
        }
        if is_woken { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A descriptor that tokio can wait for. It is a duplicate, so that the link keeps its own.
#[expect(
    deprecated,
    reason = "deprecated for types that lie about their descriptor; OwnedFd does not, and \
    the form that replaces it is unsafe, which has no place in this module"
)]
fn readiness(descriptor: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor.try_clone_to_owned()?, tokio::io::Interest::READABLE)
}

/// Attaches to the dataplane, however long it takes to come.
async fn attach(path: PathBuf) -> Attached {
    let mut wait = ATTACH_RETRY_MIN;
    let mut said: Option<(Instant, String)> = None;
    loop {
        let error = match try_attach(path.clone()).await {
            Ok(attached) => return attached,
            Err(error) => error.to_string(),
        };
        let is_news = said.as_ref().is_none_or(|(at, text)| at.elapsed() > ATTACH_LOG_INTERVAL || *text != error);
        if is_news {
            tracing::warn!("waiting for the dataplane: {error}");
            said = Some((Instant::now(), error));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ATTACH_RETRY_MAX);
    }
}

/// One try, on a thread that may wait: the handshake is made of blocking calls, bounded to a few seconds.
async fn try_attach(path: PathBuf) -> Result<Attached, LinkError> {
    tokio::task::spawn_blocking(move || proto::link::attach(&path)).await.expect("attaching does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::Identity;

    fn grant() -> Grant {
        Grant { room: "demo".into(), name: "Ada".into(), publish: true, subscribe: true, ..Grant::default() }
    }

    #[test]
    fn a_socket_that_does_not_read_is_cut_off_alone() {
        let engine = Engine::new(Settings::default(), Identity::generate().unwrap(), [1; 32]);
        let mut driver = Driver::new(engine, channel().1, Path::new("/nowhere"));
        let mut receivers = Vec::new();
        for number in 0..2 {
            let (outgoing, receiver) = mpsc::channel(OUTGOING_MAX);
            let socket = SocketId(number);
            let opened = Request::Opened { socket, room: "demo".into(), grant: grant(), outgoing };
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
            assert!(matches!(what, ToSocket::Signal(_)), "it is not closed as if all were said");
            signals += 1;
        }
        assert_eq!(signals, OUTGOING_MAX);
        assert_eq!(receivers[0].try_recv().unwrap_err(), mpsc::error::TryRecvError::Disconnected);
    }
}
