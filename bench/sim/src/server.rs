//! The server: one engine, its workers, and what the link does between them. A plane can be killed and started anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use controlplane::dtls::Identity;
use controlplane::engine::{Engine, Input, Output, Settings, SocketId};
use dataplane::Micros;
use dataplane::forward::{Counters, Flush, Forwarder, Sizes};
use dataplane::outbox::Outbox;
use dataplane::path::{Datagram, Path};
use dataplane::relay::{Message, Packet};
use dataplane::store::Store;
use proto::plane::{Command, Counter, DatagramHeader, Event, Record, Report};
use proto::signal::ServerSignal;

use crate::model;
use crate::random::Random;

/// Records that fit into the command ring of the link at most; each reconciliation finds room for 2 to so many.
const COMMAND_SPACE: u64 = 64;
/// Records of a description that fit into the event ring in one turn.
const ECHO_SPACE: usize = 24;

/// What the server wants carried to clients.
#[derive(Debug)]
pub enum ToClient {
    /// A datagram.
    Datagram(SocketAddr, Vec<u8>),
    /// A signal.
    Signal(SocketId, ServerSignal),
    /// The socket is closed behind what was sent before.
    Close(SocketId),
    /// Whoever is at the socket is asked whether it is still there.
    Probe(SocketId),
}

/// A message between workers, with bytes of its own.
struct Relayed {
    to: usize,
    message: Message<'static>,
    head: Vec<u8>,
    payload: Vec<u8>,
}

impl Relayed {
    fn new(to: usize, message: Message<'_>) -> Relayed {
        let (message, head, payload) = match message {
            Message::Packet(packet) => {
                let bare = Packet { head: &[], payload: &[], ..packet };
                (Message::Packet(bare), packet.head.to_vec(), packet.payload.to_vec())
            }
            Message::Clock { mirror, ssrc, ntp, rtp, at } => {
                (Message::Clock { mirror, ssrc, ntp, rtp, at }, Vec::new(), Vec::new())
            }
            Message::Sets { mirror, sets } => (Message::Sets { mirror, sets: &[] }, Vec::new(), sets.to_vec()),
            Message::KeyframeWanted { stream } => (Message::KeyframeWanted { stream }, Vec::new(), Vec::new()),
            Message::Taken { stream, mirror, is_taken, is_wanted, room } => {
                (Message::Taken { stream, mirror, is_taken, is_wanted, room }, Vec::new(), Vec::new())
            }
            Message::Encoding { mirror, is_flowing, size, bps, expected } => {
                (Message::Encoding { mirror, is_flowing, size, bps, expected }, Vec::new(), Vec::new())
            }
        };
        Relayed { to, message, head, payload }
    }

    fn message(&self) -> Message<'_> {
        match self.message {
            Message::Packet(bare) => Message::Packet(Packet { head: &self.head, payload: &self.payload, ..bare }),
            Message::Sets { mirror, .. } => Message::Sets { mirror, sets: &self.payload },
            other => other,
        }
    }
}

struct Worker {
    forwarder: Forwarder,
    egress: Egress,
    address: SocketAddr,
    model: Model,
}

/// The model of a worker, and what it expects the real one to say.
#[derive(Default)]
struct Model {
    worker: model::Worker,
    /// Refusals and commits, in order.
    verdicts: VecDeque<Report>,
    /// What a description has to echo, until it is complete.
    echoes: Option<BTreeSet<Record>>,
}

impl Model {
    fn apply(&mut self, command: Command) {
        for report in self.worker.apply(command) {
            match report {
                Report::Echo(_) => drop(self.echoes.get_or_insert_default().insert(report.write())),
                Report::Event(Event::Refused(_) | Event::Committed(_)) => self.verdicts.push_back(report),
                // Who is silent or gone, the model is not told. An empty description echoes nothing.
                Report::Event(Event::Described(_)) => drop(self.echoes.get_or_insert_default()),
                Report::Event(_) => {}
            }
        }
    }

    /// The real worker has said something.
    fn check(&mut self, report: &Report) {
        match report {
            Report::Event(Event::Refused(_) | Event::Committed(_)) => {
                assert_eq!(Some(*report), self.verdicts.pop_front(), "the model and the real worker disagree");
            }
            Report::Echo(_) => {
                let is_expected = self.echoes.as_mut().is_some_and(|echoes| echoes.remove(&report.write()));
                assert!(is_expected, "the model does not know {report:?}");
            }
            Report::Event(Event::Described(_)) => {
                let left = self.echoes.take().expect("a description was asked for");
                let left: Vec<_> = left.iter().map(Report::read).collect();
                assert!(left.is_empty(), "the real worker does not know {left:?}");
            }
            Report::Event(_) => {}
        }
    }
}

/// The way out of a worker: what it flushed waits here to be carried on.
#[derive(Default)]
struct Egress {
    outbox: Outbox,
    sent: Vec<(SocketAddr, Vec<u8>)>,
    relayed: Vec<Relayed>,
    reports: Vec<Report>,
    punts: Vec<(DatagramHeader, Vec<u8>)>,
}

impl Flush for Egress {
    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn flush(&mut self, _: Micros, store: &Store, _: &mut Counters) {
        let Egress { outbox, sent, relayed, reports, punts } = self;
        for chain in outbox.chains() {
            let to = chain.path().remote;
            sent.extend(chain.packets().map(|bytes| (to, bytes.to_vec())));
        }
        while let Some(message) = outbox.pop_relay(store) {
            let content = message.message.expect("what is relayed is in the store until the flush");
            relayed.push(Relayed::new(message.to, content));
        }
        assert_eq!(outbox.take_reports_lost(), 0, "the simulated event ring has room");
        while let Some(report) = outbox.pop_report() {
            // What crosses the link is bytes.
            reports.push(Report::read(&report.write()).expect("a report reads back"));
        }
        while let Some((header, payload)) = outbox.pop_punt() {
            punts.push((header, payload.to_vec()));
        }
        outbox.clear();
    }

    fn note_latency(&mut self, _: Micros, _: u64) {}
}

/// Both planes.
pub struct Server {
    engine: Engine,
    settings: Settings,
    workers: Vec<Worker>,
    /// By worker and slot: the shared memory in which a controlplane leaves what its successor needs.
    journal: BTreeMap<(usize, u32), Vec<u8>>,
    outgoing: Vec<ToClient>,
    relayed: Vec<Relayed>,
    random: Random,
    begun: Instant,
    /// Whether there is a controlplane; without one the workers go on by themselves.
    is_controlled: bool,
    commands: Vec<Command>,
}

impl Server {
    /// A server whose planes are linked, with so many workers.
    pub fn new(settings: Settings, workers: usize, mut random: Random) -> Server {
        let engine = Engine::new(settings.clone(), new_identity(), random.bytes());
        let mut server = Server {
            engine,
            settings,
            workers: Vec::new(),
            journal: BTreeMap::new(),
            outgoing: Vec::new(),
            relayed: Vec::new(),
            random,
            begun: Instant::now(),
            is_controlled: true,
            commands: Vec::new(),
        };
        server.start_dataplane(0, workers);
        server
    }

    /// The engine's clock.
    pub fn instant(&self, now: Micros) -> Instant {
        self.begun + Duration::from_micros(now)
    }

    /// Where a worker is bound.
    pub fn worker_at(&self, address: SocketAddr) -> Option<usize> {
        self.workers.iter().position(|worker| worker.address == address)
    }

    /// What is to be carried to clients since the last call.
    pub fn take_outgoing(&mut self) -> Vec<ToClient> {
        std::mem::take(&mut self.outgoing)
    }

    /// What happened reaches the engine, if there is one.
    pub fn input(&mut self, now: Micros, input: Input) {
        if self.is_controlled {
            self.engine.handle(self.instant(now), input);
            self.settle(now);
        }
    }

    /// Datagrams reach a worker in one batch.
    pub fn receive(&mut self, now: Micros, worker: usize, batch: Vec<(SocketAddr, Micros, Vec<u8>)>) {
        let Worker { forwarder, egress, .. } = &mut self.workers[worker];
        for (remote, at, mut bytes) in batch {
            let datagram = Datagram { path: Path::new(0, remote), at, bytes: &mut bytes };
            forwarder.receive(now, datagram, egress);
        }
        forwarder.fan_out(now, egress);
        self.end_turn(now, worker);
        self.settle(now);
    }

    /// Time passes.
    pub fn tick(&mut self, now: Micros) {
        if self.is_controlled && self.engine.poll_timeout().is_some_and(|due| due <= self.instant(now)) {
            self.engine.handle_timeout(self.instant(now));
        }
        for index in 0..self.workers.len() {
            let Worker { forwarder, egress, .. } = &mut self.workers[index];
            if forwarder.deadline().is_some_and(|deadline| deadline <= now) {
                forwarder.tick(now, egress);
                self.end_turn(now, index);
            }
        }
        self.settle(now);
    }

    /// What a worker has written leaves it.
    fn end_turn(&mut self, now: Micros, index: usize) {
        let instant = self.instant(now);
        let Worker { forwarder, egress, model, .. } = &mut self.workers[index];
        forwarder.flush(now, egress);
        egress.reports.iter().for_each(|report| model.check(report));
        self.outgoing.extend(egress.sent.drain(..).map(|(to, bytes)| ToClient::Datagram(to, bytes)));
        self.relayed.append(&mut egress.relayed);
        let reports = egress.reports.drain(..).map(|report| Input::Report { worker: index, report });
        let punts = egress.punts.drain(..);
        let punts = punts.map(|(header, payload)| Input::Datagram { worker: index, header, payload });
        for input in reports.chain(punts) {
            if self.is_controlled {
                self.engine.handle(instant, input);
            }
        }
        self.check_conservation(index);
    }

    /// Carries outputs, commands, reports and messages of workers until nobody has any.
    fn settle(&mut self, now: Micros) {
        loop {
            let mut is_quiet = true;
            while let Some(output) = self.engine.poll_output().filter(|_| self.is_controlled) {
                is_quiet = false;
                self.output(now, output);
            }
            for relayed in std::mem::take(&mut self.relayed) {
                is_quiet = false;
                let Worker { forwarder, egress, .. } = &mut self.workers[relayed.to];
                forwarder.receive_relayed(now, relayed.message(), egress);
                forwarder.fan_out(now, egress);
                self.end_turn(now, relayed.to);
            }
            for index in 0..self.workers.len() {
                is_quiet &= !self.apply_commands(now, index);
            }
            if is_quiet {
                return;
            }
        }
    }

    /// What the engine wants of a worker, as far as the command ring has room, and one turn of a description. Whether there
    /// was anything.
    fn apply_commands(&mut self, now: Micros, index: usize) -> bool {
        let space = self.random.between(2, COMMAND_SPACE) as usize;
        if self.is_controlled {
            self.engine.reconcile(index, space, &mut self.commands);
        }
        assert!(self.commands.len() <= space, "more commands than there is room");
        let is_describing = self.workers[index].forwarder.is_describing();
        if self.commands.is_empty() && !is_describing {
            return false;
        }
        let Worker { forwarder, egress, model, .. } = &mut self.workers[index];
        for command in self.commands.drain(..) {
            forwarder.apply(now, &command.write(), egress);
            model.apply(command);
        }
        forwarder.describe(ECHO_SPACE, &mut egress.outbox);
        self.end_turn(now, index);
        true
    }

    fn output(&mut self, now: Micros, output: Output) {
        match output {
            Output::Signal { socket, signal } => {
                // Through JSON, as on the wire.
                let text = serde_json::to_string(&signal).expect("a signal is JSON");
                let signal = serde_json::from_str(&text).expect("a signal reads back");
                self.outgoing.push(ToClient::Signal(socket, signal));
            }
            Output::CloseSocket { socket } => self.outgoing.push(ToClient::Close(socket)),
            Output::ProbeSocket { socket } => self.outgoing.push(ToClient::Probe(socket)),
            Output::Inject { worker, header, payload } => self.inject(now, worker, &header, &payload),
            Output::Journal { worker, slot, bytes: Some(bytes) } => drop(self.journal.insert((worker, slot), bytes)),
            Output::Journal { worker, slot, bytes: None } => drop(self.journal.remove(&(worker, slot))),
            // Nobody asks for resources or administers here.
            Output::Happened(_) | Output::Reply { .. } | Output::Cluster(_) => {}
        }
    }

    fn inject(&mut self, now: Micros, index: usize, header: &DatagramHeader, payload: &[u8]) {
        let Some(Worker { forwarder, egress, .. }) = self.workers.get_mut(index) else { return };
        forwarder.inject(now, header, payload, &mut egress.outbox);
        self.end_turn(now, index);
    }

    /// `kill -9` of the controlplane: its sockets are gone, and the workers go on by themselves.
    pub fn kill_controlplane(&mut self) {
        self.is_controlled = false;
        self.outgoing.retain(|outgoing| matches!(outgoing, ToClient::Datagram(..)));
    }

    /// A successor takes its place.
    pub fn start_controlplane(&mut self, now: Micros) {
        self.engine = Engine::new(self.settings.clone(), new_identity(), self.random.bytes());
        self.is_controlled = true;
        for Worker { forwarder, .. } in &mut self.workers {
            forwarder.discard_staged();
        }
        self.link(now);
        self.settle(now);
    }

    /// `kill -9` of the dataplane: keys, indices and paths are gone; the controlplane notices, and another one starts.
    pub fn restart_dataplane(&mut self, now: Micros) {
        let count = self.workers.len();
        self.workers.clear();
        self.relayed.clear();
        self.journal.clear();
        for worker in (0..count).filter(|_| self.is_controlled) {
            self.engine.handle(self.instant(now), Input::Unlinked { worker });
        }
        self.start_dataplane(now, count);
    }

    fn start_dataplane(&mut self, now: Micros, count: usize) {
        self.workers = (0..count)
            .map(|index| Worker {
                forwarder: Forwarder::new(self.random.bytes(), now).among(index, count),
                egress: Egress::default(),
                address: SocketAddr::from(([10, 255, 0, 1], 40_000 + index as u16)),
                model: Model::default(),
            })
            .collect();
        if self.is_controlled {
            self.link(now);
            self.settle(now);
        }
    }

    /// All workers are linked before any of them is heard.
    fn link(&mut self, now: Micros) {
        let instant = self.instant(now);
        self.engine.handle(instant, Input::WallClock(Duration::from_secs(1_700_000_000)));
        for (index, worker) in self.workers.iter().enumerate() {
            let of_worker = self.journal.iter().filter(|((of, _), _)| *of == index);
            let journal = of_worker.map(|((_, slot), bytes)| (*slot, bytes.clone())).collect();
            self.engine
                .handle(instant, Input::Linked { worker: index, addresses: vec![worker.address].into(), journal });
        }
    }

    /// Each datagram has one fate, and the fates add up to what was received.
    fn check_conservation(&mut self, index: usize) {
        let counters = self.workers[index].forwarder.counters();
        let is_fate = |counter: &&Counter| {
            matches!(counter, Counter::Forwarded | Counter::Consumed | Counter::Punted)
                || counter.name().starts_with("dropped_")
        };
        let fates: u64 = Counter::ALL.iter().filter(is_fate).map(|counter| counters[*counter as usize]).sum();
        let received = counters[Counter::Received as usize] + counters[Counter::RelayReceived as usize];
        assert_eq!(fates, received, "a datagram of worker {index} has no fate, or two");
    }

    /// A counter, of all workers.
    pub fn counter(&mut self, counter: Counter) -> u64 {
        self.workers.iter_mut().map(|worker| worker.forwarder.counters()[counter as usize]).sum()
    }

    /// What the path to this address carries by its worker's estimate, bit/s.
    pub fn estimate_toward(&self, remote: SocketAddr) -> Option<u64> {
        let path = Path::new(0, remote);
        self.workers.iter().find_map(|worker| worker.forwarder.estimate_toward(path))
    }

    /// What each worker remembers.
    pub fn sizes(&self) -> Vec<Sizes> {
        self.workers.iter().map(|worker| worker.forwarder.sizes()).collect()
    }

    /// Records in the journal.
    pub fn journal_len(&self) -> usize {
        self.journal.len()
    }

    /// What the engine shows of itself; nothing while there is none.
    pub fn snapshot(&self) -> Option<controlplane::engine::Snapshot> {
        self.is_controlled.then(|| self.engine.snapshot())
    }
}

fn new_identity() -> Identity {
    Identity::generate().expect("BoringSSL makes a certificate")
}
