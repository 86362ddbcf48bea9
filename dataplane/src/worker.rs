//! One core, one loop: the turn.
//!
//! A turn takes a batch from the kernel and runs it to completion, takes what other workers hand on, reads commands and
//! injected datagrams, runs due timers, and flushes. It does not await; when a turn found nothing to do, the worker declares itself asleep on the
//! link, makes sure of it, and parks until a socket is readable, the controlplane knocks, or a timer is due.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::{io, process, thread};

use core_affinity::CoreId;
use proto::link::{COMMANDS_MAX, WorkerLink};
use proto::plane::Counter;

use crate::config::{
    Backend, COMMANDS_PER_TURN_MAX, Driver, ECHO_HEADROOM, ECHO_RETRY, INJECTS_PER_TURN_MAX, Micros, PUBLISH_INTERVAL,
    RELAYS_PER_TURN_MAX,
};
use crate::forward::Forwarder;
use crate::io::{Batch, Io, Socket, Watch, block_on};
use crate::latency::Latency;
use crate::outbox::Outbox;
use crate::relay::{Exchange, Message, Relay, Taken};
use crate::spin::Spin;

/// What a worker is told from outside of its core.
pub(crate) enum Order {
    /// A controlplane has attached: serve this link from now on.
    Attach(Box<WorkerLink>),
    /// Close the sockets and end.
    Stop,
}

/// All that a worker's thread is started with.
pub(crate) struct Seat {
    /// Which worker it is, from 0.
    pub(crate) index: usize,
    /// The core to stay on.
    pub(crate) core: Option<CoreId>,
    /// How to wait.
    pub(crate) driver: Driver,
    /// How packets leave.
    pub(crate) backend: Backend,
    /// Its sockets, one for each media address.
    pub(crate) sockets: Vec<Socket>,
    /// Keys the hash tables.
    pub(crate) seed: [u8; 16],
    /// See [`Config::spin_us`](crate::Config::spin_us).
    pub(crate) spin_us: Micros,
    /// Orders, and the eventfd that is written after each and by other workers that wake this one.
    pub(crate) orders: Receiver<Order>,
    pub(crate) knock: OwnedFd,
    /// How to reach the other workers.
    pub(crate) exchange: Arc<Exchange>,
}

/// Ends the process if a worker panics: a broken invariant ends the plane, and the other one carries it over.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

/// The body of a worker's thread. `started` hears whether it could start, before the first turn.
pub(crate) fn run(seat: Seat, started: impl FnOnce(io::Result<()>)) {
    let _guard = AbortOnPanic;
    if let Some(core) = seat.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(worker = seat.index, "cannot stay on core {}: the kernel may move this worker", core.id);
    }
    let driver = seat.driver;
    let mut started = Some(started);
    let mut report = |result| {
        if let Some(started) = started.take() {
            started(result);
        }
    };
    let ended = block_on(driver, async {
        match Worker::new(seat) {
            Ok(worker) => {
                report(Ok(()));
                worker.run().await;
            }
            Err(error) => report(Err(error)),
        }
    });
    if let Err(error) = ended {
        report(Err(error));
    }
}

/// The link that is being served, and the watch over its eventfd.
struct Served {
    link: WorkerLink,
    watch: Watch,
}

/// The outbox, as the way out needs it: frames lie where the kernel reads them.
fn open_outbox(seat: &Seat, io: &mut Io) -> Outbox {
    if seat.backend != Backend::Frames {
        return Outbox::new();
    }
    match io.open_frames(seat.index as u32, seat.seed) {
        Ok((outbox, line)) => {
            tracing::info!(worker = seat.index, "{line}");
            outbox
        }
        Err(error) => {
            tracing::warn!(worker = seat.index, "packets leave by udp and not as frames: {error}");
            Outbox::new()
        }
    }
}

/// The batch, as the way in needs it: a ring fills buffers of its own.
fn open_batch(seat: &Seat, io: &mut Io) -> Batch {
    if seat.backend != Backend::Uring {
        return Batch::new();
    }
    match io.open_uring() {
        Ok(batch) => {
            tracing::info!(worker = seat.index, "packets come and leave through io_uring");
            batch
        }
        Err(error) => {
            tracing::warn!(
                worker = seat.index,
                "packets come and leave by system calls and not through io_uring: {error}"
            );
            Batch::new()
        }
    }
}

/// A worker between its start and its end.
struct Worker {
    index: usize,
    batch: Batch,
    core: Core,
    spin: Spin,
    /// Processor time that went into looking for work, microseconds.
    spun: Micros,
    orders: Receiver<Order>,
    knock: OwnedFd,
    knocked: Watch,
    published_at: Micros,
}

/// What a datagram meets on its way through a turn, apart from the batch that it lies in.
struct Core {
    io: Io,
    forwarder: Forwarder,
    outbox: Outbox,
    latency: Latency,
    relay: Relay,
    served: Option<Served>,
}

impl Worker {
    fn new(seat: Seat) -> io::Result<Self> {
        let mut seat = seat;
        let mut io = Io::new(std::mem::take(&mut seat.sockets), seat.exchange.origin())?;
        let knocked = io.watch(&seat.knock)?;
        let outbox = open_outbox(&seat, &mut io);
        let batch = open_batch(&seat, &mut io);
        let now = io.now();
        let forwarder = Forwarder::new(seat.seed, now).among(seat.index, seat.exchange.workers());
        let relay = Relay::new(seat.exchange, seat.index);
        Ok(Self {
            index: seat.index,
            batch,
            core: Core { io, forwarder, outbox, latency: Latency::new(), relay, served: None },
            spin: Spin::new(seat.spin_us, now),
            spun: 0,
            orders: seat.orders,
            knock: seat.knock,
            knocked,
            published_at: 0,
        })
    }

    async fn run(mut self) {
        while self.obey() {
            if self.turn() {
                self.spin.busy(self.core.io.now());
            } else if !self.spin() {
                self.park().await;
            }
        }
        self.core.publish();
        self.core.io.close().await;
    }

    /// Looks for more work for a moment, if it is likely to come; whether it did.
    fn spin(&mut self) -> bool {
        let begun = self.core.io.now();
        let until = begun + self.spin.idle(begun);
        if until == begun {
            return false;
        }
        // The turn that finds something is work and no spinning.
        let mut vain = (begun, self.core.io.processor_time());
        let before = vain;
        let mut did_work = false;
        while vain.0 < until && !did_work {
            did_work = self.turn();
            if !did_work {
                vain = (self.core.io.now(), self.core.io.processor_time());
            }
        }
        self.spin.spent(vain.0 - before.0);
        self.spun += vain.1 - before.1;
        if did_work {
            self.spin.busy(vain.0);
        }
        did_work
    }

    /// One turn; whether there was anything to do.
    fn turn(&mut self) -> bool {
        let now = self.core.io.now();
        let mut did_work = self.receive(now);
        did_work |= self.core.serve_relays(now);
        did_work |= self.core.serve_commands(now);
        did_work |= self.core.serve_injects(now);
        did_work |= self.core.tick(now);
        self.core.hand_over(now);
        did_work |= self.core.describe();
        self.core.count(Counter::Turns, 1);
        if now.saturating_sub(self.published_at) >= PUBLISH_INTERVAL {
            self.core.note_busy(self.spun);
            self.core.publish();
            self.published_at = now;
        }
        did_work
    }

    /// A batch from the kernel, each datagram to its fate.
    fn receive(&mut self, now: Micros) -> bool {
        self.core.io.fill(now, &mut self.batch);
        for mut datagram in self.batch.datagrams() {
            while !self.core.forwarder.take_in(now, &mut datagram, &mut self.core.outbox) {
                self.core.fan_out(now);
            }
            self.core.relieve(now);
        }
        self.core.fan_out(now);
        !self.batch.is_empty()
    }

    /// Follows orders from outside. False: stop.
    fn obey(&mut self) -> bool {
        loop {
            match self.orders.try_recv() {
                Ok(Order::Attach(link)) => self.attach(*link),
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// Changes over to the link of a new controlplane. What the old one had committed by now takes effect, what it
    /// had only staged does not, and from here on nobody reads what its ghost may write.
    fn attach(&mut self, mut link: WorkerLink) {
        let now = self.core.io.now();
        for _ in 0..COMMANDS_MAX.div_ceil(COMMANDS_PER_TURN_MAX) {
            self.core.serve_commands(now);
        }
        self.core.forwarder.discard_staged();
        self.core.hand_over(now);
        if let Some(old) = self.core.served.take() {
            self.core.io.unwatch(&old.watch);
        }
        let epoch = link.epoch();
        match self.core.io.watch(link.wake_fd()) {
            Ok(watch) => {
                link.publish_latencies(self.core.latency.histogram());
                self.core.served = Some(Served { link, watch });
                tracing::info!(worker = self.index, epoch, "serves a controlplane");
            }
            Err(error) => {
                tracing::error!(worker = self.index, epoch, "cannot watch the link of a controlplane: {error}");
            }
        }
    }

    /// Sleeps until there is something to do.
    async fn park(&mut self) {
        if self.core.io.take_trains_lost() {
            tracing::warn!(
                worker = self.index,
                "a network device cannot split trains (UDP_SEGMENT): this worker sends single packets from now on"
            );
        }
        if let Some((error, device)) = self.core.io.take_frames_error() {
            tracing::warn!(worker = self.index, "{device} takes no frames ({error}): packets leave by udp meanwhile");
        }
        self.core.count(Counter::Parks, 1);
        self.core.publish();
        let deadline = self.core.deadline();
        if !self.core.relay.sleep() {
            return;
        }
        if let Some(served) = &mut self.core.served
            && !served.link.sleep()
        {
            self.core.relay.awake();
            return;
        }
        self.core.io.park_until(deadline).await;
        self.core.relay.awake();
        if let Some(served) = &mut self.core.served {
            served.link.awake();
            if served.watch.take_fired() {
                served.link.clear_wake();
            }
        }
        if self.knocked.take_fired() {
            // It is non-blocking, and only its being readable matters.
            let _ = rustix::io::read(&self.knock, &mut [0; 8]);
        }
    }
}

impl Core {
    /// Hands over what the outbox holds if the next datagram's fan-out might not fit.
    fn relieve(&mut self, now: Micros) {
        if self.outbox.is_nearly_full() {
            self.hand_over(now);
        }
    }

    /// Writes what waits for its receivers, handing over whenever there is enough.
    fn fan_out(&mut self, now: Micros) {
        loop {
            let Core { forwarder, outbox, latency, .. } = self;
            if forwarder.fan_out(now, outbox, |at, packets| latency.note(at, packets)) {
                return;
            }
            self.hand_over(now);
        }
    }

    /// What other workers hand on, as much as a turn may take.
    fn serve_relays(&mut self, now: Micros) -> bool {
        let mut left = RELAYS_PER_TURN_MAX;
        loop {
            let Core { forwarder, outbox, relay, .. } = self;
            let mut last = Taken::Yes;
            left -= relay.take(left, |message| {
                last = match forwarder.hear(now, message, outbox) {
                    false => Taken::NotYet,
                    true if outbox.is_nearly_full() => Taken::Enough,
                    true => Taken::Yes,
                };
                last
            });
            self.fan_out(now);
            self.relieve(now);
            if last == Taken::Yes {
                return left < RELAYS_PER_TURN_MAX;
            }
        }
    }

    /// Commands, as many as a turn may take.
    fn serve_commands(&mut self, now: Micros) -> bool {
        for taken in 0..COMMANDS_PER_TURN_MAX {
            let Some(record) = self.served.as_mut().and_then(|served| served.link.pop_command()) else {
                return taken > 0;
            };
            self.forwarder.apply(now, &record, &mut self.outbox);
            self.relieve(now);
        }
        true
    }

    /// Injected datagrams, as many as a turn may take.
    fn serve_injects(&mut self, now: Micros) -> bool {
        for taken in 0..INJECTS_PER_TURN_MAX {
            match self.served.as_mut().and_then(|served| served.link.pop_inject()) {
                None => return taken > 0,
                Some(Ok((header, payload))) => self.forwarder.inject(&header, payload, &mut self.outbox),
                Some(Err(_)) => self.count(Counter::InjectRefused, 1),
            }
            self.relieve(now);
        }
        true
    }

    /// Timers that are due.
    fn tick(&mut self, now: Micros) -> bool {
        let is_due = self.forwarder.deadline().is_some_and(|deadline| deadline <= now);
        if is_due {
            self.forwarder.tick(now, &mut self.outbox);
        }
        is_due
    }

    /// When the worker must wake by itself.
    fn deadline(&self) -> Option<Micros> {
        let retry = self.forwarder.is_describing().then(|| self.io.now() + ECHO_RETRY);
        [self.forwarder.deadline(), retry].into_iter().flatten().min()
    }

    /// What other workers get, reports, punts and tallies to the controlplane, packets to the kernel; the outbox is empty
    /// afterwards.
    fn hand_over(&mut self, now: Micros) {
        self.hand_over_relays();
        let must_notify = self.hand_over_punts() | self.hand_over_reports();
        if let Some(served) = self.served.as_mut().filter(|_| must_notify) {
            served.link.notify();
        }
        if let Some(served) = &mut self.served {
            self.outbox.tallies().iter().for_each(|tally| served.link.publish_tally(tally));
        }
        if !self.outbox.is_empty() {
            let flushed = self.io.flush(now, &mut self.outbox);
            self.count(Counter::SentTrains, flushed.trains);
            self.count(Counter::SendFailed, flushed.failed);
            self.count(Counter::SentFrames, flushed.frames);
            self.count(Counter::FramesToSockets, flushed.left);
            self.tell_latency();
        } else {
            self.io.go_on(now, &mut self.outbox);
        }
        self.outbox.clear();
    }

    /// Counts how long it took what was just handed to the kernel. The clock is read once a flush.
    fn tell_latency(&mut self) {
        if self.latency.is_due() {
            let (now, served) = (self.io.now(), &mut self.served);
            self.latency.settle(now, |latencies, bucket| {
                if let Some(served) = served {
                    served.link.publish_latency(latencies, bucket);
                }
            });
        }
    }

    /// Messages into the lanes to other workers, before this one is busy with sending. A packet that finds its lane full
    /// was not handed on after all.
    fn hand_over_relays(&mut self) {
        let (mut full, mut any) = (0, false);
        while let Some((to, message)) = self.outbox.pop_relay() {
            let is_pushed = self.relay.push(to, &message);
            full += u64::from(!is_pushed && matches!(message, Message::Packet(_)));
            any = true;
        }
        if !any {
            return;
        }
        // Nobody has seen the first count: counters are published after the handing over.
        self.forwarder.counters()[Counter::Relayed as usize] -= full;
        self.count(Counter::RelayFull, full);
        self.relay.ring();
    }

    /// Reports into the event ring. One that finds it full is lost, and the controlplane is told to ask for a
    /// description. Whether there is anything for it to see.
    fn hand_over_reports(&mut self) -> bool {
        let (mut pushed, mut lost) = (0, self.outbox.take_reports_lost());
        while let Some(report) = self.outbox.pop_report() {
            let is_pushed = self.served.as_mut().is_some_and(|served| served.link.push_report(&report.write()));
            *if is_pushed { &mut pushed } else { &mut lost } += 1;
        }
        self.count(Counter::EventsLost, lost);
        if let Some(served) = self.served.as_mut().filter(|_| lost > 0) {
            served.link.raise_resync();
        }
        pushed + lost > 0
    }

    /// Punts into the punt ring. One that finds it full was not punted after all. Whether there is anything to see.
    fn hand_over_punts(&mut self) -> bool {
        let (mut pushed, mut lost) = (0, 0);
        while let Some((header, payload)) = self.outbox.pop_punt() {
            let is_pushed = self.served.as_mut().is_some_and(|served| served.link.push_punt(&header, payload));
            *if is_pushed { &mut pushed } else { &mut lost } += 1;
        }
        // Nobody has seen the first count: counters are published after the handing over.
        self.forwarder.counters()[Counter::Punted as usize] -= lost;
        self.count(Counter::DroppedPuntFull, lost);
        pushed > 0
    }

    /// Goes on with a description, as far as the event ring has room for it beside events. Whether it did.
    fn describe(&mut self) -> bool {
        let Some(served) = self.served.as_mut().filter(|_| self.forwarder.is_describing()) else { return false };
        let space = served.link.report_space().saturating_sub(ECHO_HEADROOM);
        self.forwarder.describe(space, &mut self.outbox);
        let has_echoed = self.hand_over_reports();
        if let Some(served) = self.served.as_mut().filter(|_| has_echoed) {
            served.link.notify();
        }
        has_echoed
    }

    /// How much processor time went into the work so far.
    fn note_busy(&mut self, spun: Micros) {
        self.forwarder.counters()[Counter::BusyMicros as usize] = self.io.processor_time().saturating_sub(spun);
        self.forwarder.counters()[Counter::SpinMicros as usize] = spun;
    }

    fn publish(&mut self) {
        if let Some(served) = &mut self.served {
            served.link.publish(self.forwarder.counters());
        }
    }

    fn count(&mut self, counter: Counter, n: u64) {
        self.forwarder.counters()[counter as usize] += n;
    }
}

/// A worker that its caller steps, turn by turn: real sockets, a link and the production turn, without a thread, a
/// core and parking of its own. It is how the benchmarks measure what runs in production instead of a copy of it.
pub struct Stepped {
    worker: Worker,
    /// A worker whose orders can no longer come would stop.
    _orders: Sender<Order>,
}

impl Stepped {
    /// Takes over the sockets and serves the link. `seed` keys the hash tables. Must be called, and stay, inside
    /// [`block_on`].
    pub fn new(sockets: Vec<Socket>, link: WorkerLink, backend: Backend, seed: [u8; 16]) -> io::Result<Self> {
        let knock = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
        let exchange = Exchange::new(vec![knock.try_clone()?]);
        Self::among(exchange, 0, sockets, link, backend, seed)
    }

    /// The same as worker `index` of those that share an exchange.
    pub fn among(
        exchange: Arc<Exchange>,
        index: usize,
        sockets: Vec<Socket>,
        link: WorkerLink,
        backend: Backend,
        seed: [u8; 16],
    ) -> io::Result<Self> {
        let (sender, orders) = channel();
        let knock = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
        let (core, driver) = (None, Driver::Auto);
        let spin_us = 0;
        let seat = Seat { index, core, driver, backend, sockets, seed, spin_us, orders, knock, exchange };
        let mut worker = Worker::new(seat)?;
        worker.attach(link);
        Ok(Stepped { worker, _orders: sender })
    }

    /// One turn; whether there was anything to do. It never waits.
    pub fn turn(&mut self) -> bool {
        self.worker.turn()
    }

    /// The worker's counters, as they are now.
    pub fn counters(&mut self) -> &[u64; Counter::COUNT] {
        self.worker.core.forwarder.counters()
    }
}
