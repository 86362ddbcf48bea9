//! One core, one loop: the turn.
//!
//! A turn receives a batch from the kernel and runs it to completion, receives what other workers relay, reads commands and
//! injected datagrams, runs due timers, and flushes. It does not await. When a turn found nothing to do, the worker declares
//! itself asleep on the link, looks once more, and parks until a socket is readable, the controlplane or another worker wakes
//! it, or a timer is due.

mod egress;
mod setup;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use proto::link::{COMMANDS_MAX, WorkerLink};
use proto::plane::Counter;

use self::egress::{Egress, Served};
pub(crate) use self::setup::{Control, WorkerSetup, run};
use crate::config::{
    Backend, COMMANDS_PER_TURN_MAX, Driver, ECHO_HEADROOM, ECHO_RETRY, INJECTS_PER_TURN_MAX, Micros, PUBLISH_INTERVAL,
    RELAYS_PER_TURN_MAX,
};
use crate::forward::{Counters, Flush, Forwarder};
use crate::io::{Batch, Inbox, Io, Socket, Watch};
use crate::latency::Latency;
use crate::relay::{Exchange, RelayReceiver, RelaySender};
use crate::spin::Spin;

/// A worker between its start and its end.
struct Worker {
    index: usize,
    batch: Batch,
    inbox: Inbox,
    relay: RelayReceiver,
    forwarder: Forwarder,
    egress: Egress,
    spin: Spin,
    /// Processor time that went into looking for work, microseconds.
    spun: Micros,
    control: Receiver<Control>,
    wake: OwnedFd,
    woken: Watch,
    published_at: Micros,
}

impl Worker {
    fn new(setup: WorkerSetup) -> io::Result<Self> {
        let mut setup = setup;
        let ips: Vec<IpAddr> = setup.sockets.iter().map(|socket| socket.local().ip()).collect();
        let mut io = Io::new(std::mem::take(&mut setup.sockets), setup.exchange.origin())?;
        if !setup.listeners.is_empty() {
            io.open_tcp(std::mem::take(&mut setup.listeners), setup.seed)?;
        }
        let woken = io.watch(&setup.wake)?;
        let outbox = setup::open_outbox(&setup, &mut io);
        let batch = setup::open_batch(&setup, &mut io);
        let now = io.now();
        let forwarder = Forwarder::new(setup.seed, now).among(setup.index, setup.exchange.workers()).with_sockets(&ips);
        let sender = RelaySender::new(setup.exchange.clone(), setup.index);
        Ok(Self {
            index: setup.index,
            batch,
            inbox: Inbox::new(),
            relay: RelayReceiver::new(setup.exchange, setup.index),
            forwarder,
            egress: Egress { io, outbox, latency: Latency::new(), relay: sender, served: None },
            spin: Spin::new(setup.spin_us, now),
            spun: 0,
            control: setup.control,
            wake: setup.wake,
            woken,
            published_at: 0,
        })
    }

    async fn run(mut self) {
        while self.handle_control() {
            if self.turn() {
                self.spin.busy(self.egress.io.now());
            } else if !self.spin() {
                self.park().await;
            }
        }
        self.publish();
        self.egress.io.close().await;
    }

    /// Looks for more work for a moment, if it is likely to come; whether it did.
    fn spin(&mut self) -> bool {
        let begun = self.egress.io.now();
        let until = begun + self.spin.idle(begun);
        if until == begun {
            return false;
        }
        // The turn that finds something is work and no spinning.
        let mut vain = (begun, self.egress.io.processor_time());
        let before = vain;
        let mut did_work = false;
        while vain.0 < until && !did_work {
            did_work = self.turn();
            if !did_work {
                vain = (self.egress.io.now(), self.egress.io.processor_time());
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
        let now = self.egress.io.now();
        let mut did_work = self.receive(now);
        did_work |= self.receive_tcp(now);
        did_work |= self.receive_relayed(now);
        did_work |= self.apply_commands(now);
        did_work |= self.inject(now);
        did_work |= self.tick(now);
        self.forwarder.flush(now, &mut self.egress);
        did_work |= self.describe();
        self.count(Counter::Turns, 1);
        if now.saturating_sub(self.published_at) >= PUBLISH_INTERVAL {
            self.note_busy();
            self.publish();
            self.published_at = now;
        }
        did_work
    }

    /// A batch from the kernel, each datagram to its fate.
    fn receive(&mut self, now: Micros) -> bool {
        self.egress.io.fill(now, &mut self.batch);
        for datagram in self.batch.datagrams() {
            self.forwarder.receive(now, datagram, &mut self.egress);
        }
        self.forwarder.fan_out(now, &mut self.egress);
        !self.batch.is_empty()
    }

    /// What connections bring, each packet to its fate. A connection that has ended is no path any more.
    fn receive_tcp(&mut self, now: Micros) -> bool {
        let Worker { inbox, forwarder, egress, .. } = self;
        egress.io.fill_tcp(now, inbox, |path| forwarder.is_owned(path));
        if inbox.is_empty() {
            return false;
        }
        for path in inbox.closed() {
            forwarder.path_closed(now, path, egress.outbox());
        }
        for datagram in inbox.datagrams() {
            forwarder.receive(now, datagram, egress);
        }
        forwarder.fan_out(now, egress);
        true
    }

    /// What other workers relay, as much as a turn may take.
    fn receive_relayed(&mut self, now: Micros) -> bool {
        let Worker { relay, forwarder, egress, .. } = self;
        let count = relay.receive(RELAYS_PER_TURN_MAX, |message| forwarder.receive_relayed(now, message, egress));
        forwarder.fan_out(now, egress);
        count > 0
    }

    /// Commands, as many as a turn may take.
    fn apply_commands(&mut self, now: Micros) -> bool {
        for taken in 0..COMMANDS_PER_TURN_MAX {
            let Some(record) = self.egress.served.as_mut().and_then(|served| served.link.pop_command()) else {
                return taken > 0;
            };
            self.forwarder.apply(now, &record, &mut self.egress);
        }
        true
    }

    /// Injected datagrams, as many as a turn may take.
    fn inject(&mut self, now: Micros) -> bool {
        for taken in 0..INJECTS_PER_TURN_MAX {
            let Worker { forwarder, egress, .. } = self;
            let Egress { served, outbox, .. } = egress;
            match served.as_mut().and_then(|served| served.link.pop_inject()) {
                None => return taken > 0,
                Some(Ok((header, payload))) => forwarder.inject(now, &header, payload, outbox),
                Some(Err(_)) => forwarder.counters()[Counter::InjectRefused as usize] += 1,
            }
            forwarder.flush_if_full(now, egress);
        }
        true
    }

    /// Timers that are due.
    fn tick(&mut self, now: Micros) -> bool {
        let is_due = self.forwarder.deadline().is_some_and(|deadline| deadline <= now);
        if is_due {
            self.forwarder.tick(now, &mut self.egress);
        }
        is_due
    }

    /// Handles what the starting thread sent. False: stop.
    fn handle_control(&mut self) -> bool {
        loop {
            match self.control.try_recv() {
                Ok(Control::Attach(link)) => self.attach(*link),
                Ok(Control::Connection(stream)) => self.egress.io.hand_over_tcp(stream),
                Ok(Control::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// Changes over to the link of a new controlplane. What the old one had committed by now takes effect, what it
    /// had only staged does not, and from here on nobody reads what its ghost may write.
    fn attach(&mut self, mut link: WorkerLink) {
        let now = self.egress.io.now();
        for _ in 0..COMMANDS_MAX.div_ceil(COMMANDS_PER_TURN_MAX) {
            self.apply_commands(now);
        }
        self.forwarder.discard_staged();
        self.forwarder.flush(now, &mut self.egress);
        if let Some(old) = self.egress.served.take() {
            self.egress.io.unwatch(&old.watch);
        }
        let epoch = link.epoch();
        match self.egress.io.watch(link.wake_fd()) {
            Ok(watch) => {
                link.publish_latencies(self.egress.latency.histogram());
                self.egress.served = Some(Served { link, watch });
                tracing::info!(worker = self.index, epoch, "serves a controlplane");
            }
            Err(error) => {
                tracing::error!(worker = self.index, epoch, "cannot watch the link of a controlplane: {error}");
            }
        }
    }

    /// Sleeps until there is something to do.
    async fn park(&mut self) {
        if self.egress.io.take_trains_lost() {
            tracing::warn!(
                worker = self.index,
                "a network device cannot split trains (UDP_SEGMENT): this worker sends single packets from now on"
            );
        }
        if let Some((error, device)) = self.egress.io.take_frames_error() {
            tracing::warn!(worker = self.index, "{device} takes no frames ({error}): packets leave by udp meanwhile");
        }
        self.count(Counter::Parks, 1);
        self.publish();
        let deadline = self.deadline();
        if !self.relay.sleep() {
            return;
        }
        if let Some(served) = &mut self.egress.served
            && !served.link.sleep()
        {
            self.relay.awake();
            return;
        }
        self.egress.io.park_until(deadline).await;
        self.relay.awake();
        if let Some(served) = &mut self.egress.served {
            served.link.awake();
            if served.watch.take_fired() {
                served.link.clear_wake();
            }
        }
        if self.woken.take_fired() {
            // It is non-blocking, and only its being readable matters.
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
    }

    /// When the worker must wake by itself.
    fn deadline(&self) -> Option<Micros> {
        let retry = self.forwarder.is_describing().then(|| self.egress.io.now() + ECHO_RETRY);
        [self.forwarder.deadline(), retry, self.egress.io.tcp_deadline()].into_iter().flatten().min()
    }

    /// Goes on with a description, as far as the event ring has room for it beside events. Whether it did.
    fn describe(&mut self) -> bool {
        let Worker { forwarder, egress, .. } = self;
        let Some(served) = egress.served.as_mut().filter(|_| forwarder.is_describing()) else { return false };
        let space = served.link.report_space().saturating_sub(ECHO_HEADROOM);
        forwarder.describe(space, egress.outbox());
        let has_echoed = egress.flush_reports(forwarder.counters());
        if let Some(served) = egress.served.as_mut().filter(|_| has_echoed) {
            served.link.notify();
        }
        has_echoed
    }

    /// How much processor time went into the work so far.
    fn note_busy(&mut self) {
        let busy = self.egress.io.processor_time().saturating_sub(self.spun);
        let counters = self.forwarder.counters();
        counters[Counter::BusyMicros as usize] = busy;
        counters[Counter::SpinMicros as usize] = self.spun;
    }

    fn publish(&mut self) {
        if let Some(served) = &mut self.egress.served {
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
    /// A worker that nobody can control any more would stop.
    _control: Sender<Control>,
}

impl Stepped {
    /// Takes over the sockets and serves the link. `seed` keys the hash tables. Must be called, and stay, inside
    /// [`block_on`](crate::io::block_on).
    pub fn new(sockets: Vec<Socket>, link: WorkerLink, backend: Backend, seed: [u8; 16]) -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
        let exchange = Exchange::new(vec![wake.try_clone()?]);
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
        let (sender, control) = channel();
        let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
        let (core, driver) = (None, Driver::Auto);
        let spin_us = 0;
        let listeners = Vec::new();
        let setup =
            WorkerSetup { index, core, driver, backend, sockets, listeners, seed, spin_us, control, wake, exchange };
        let mut worker = Worker::new(setup)?;
        worker.attach(link);
        Ok(Stepped { worker, _control: sender })
    }

    /// One turn; whether there was anything to do. It never waits.
    pub fn turn(&mut self) -> bool {
        self.worker.turn()
    }

    /// See [`Forwarder::assume_consent`].
    #[doc(hidden)]
    pub fn assume_consent(&mut self) {
        self.worker.forwarder.assume_consent();
    }

    /// The worker's counters, as they are now.
    pub fn counters(&mut self) -> &Counters {
        self.worker.forwarder.counters()
    }
}
