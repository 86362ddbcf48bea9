//! The world: steps through a script a millisecond at a time, carries datagrams over the network and signals over sockets, and
//! checks the laws.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use controlplane::dtls::Identity as Certificate;
use controlplane::engine::{Grant, Input, Settings, SocketId};
use dataplane::Micros;
use dataplane::forward::Sizes;
use proto::plane::Counter;
use proto::signal::{ClientSignal, ServerSignal, Source};

use crate::network::{Conditions, Link};
use crate::peer::{Peer, ROOM_SIZE};
use crate::random::Random;
use crate::script::{Action, CALM, Script};
use crate::server::{Server, ToClient};
use crate::wire::FromClient;

const MILLISECOND: Micros = 1000;
const SECOND: Micros = 1_000_000;
/// Time of a signal on its way, each way.
const SIGNAL_DELAY: Micros = 15 * MILLISECOND;
/// Length for which the network counts a DTLS record, whatever its signature made of it.
const DTLS_LEN: usize = 1200;
/// After everybody has left, what is remembered of them for a while is gone after this.
const FORGOTTEN_AFTER: Micros = 95 * SECOND;

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Packets that left the server for peers, as the laws saw them.
    pub packets: usize,
    /// Packets that were repaired towards receivers.
    pub repairs: u64,
    /// Packets that went from one worker to another.
    pub relayed: u64,
    /// Connections that were made.
    pub connections: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { packets, repairs, relayed, connections } = self;
        write!(f, "{packets} packets, {repairs} repairs, {relayed} relayed, {connections} connections")
    }
}

/// Something under way.
enum Flight {
    ToServer { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    ToClient { to: SocketAddr, bytes: Vec<u8> },
    Opening { peer: usize },
    FromSocket { socket: SocketId, signal: ClientSignal },
    SocketClosed { socket: SocketId },
    ToSocket { socket: SocketId, signal: ServerSignal },
    ClosedByServer { socket: SocketId },
}

struct World {
    now: Micros,
    server: Server,
    peers: Vec<Peer>,
    /// By peer: up and down.
    links: Vec<[Link; 2]>,
    flights: BTreeMap<(Micros, u64), Flight>,
    flight_count: u64,
    /// Who is at a socket that the server knows.
    sockets: BTreeMap<SocketId, usize>,
    socket_count: u64,
    connections: usize,
    controlplane_back_at: Option<Micros>,
    tells: bool,
}

/// Runs the script of a seed.
///
/// # Panics
/// If a law is broken, with a sentence that says which. The seed draws the same run again.
pub fn run(seed: u64, tells: bool) -> Summary {
    let script = Script::draw(seed);
    let settings = Settings { room_peers_per_worker: script.room_peers_per_worker, ..Settings::default() };
    let server = Server::new(settings, script.workers, Random::new(seed, 1));
    let certificate = Certificate::generate().expect("BoringSSL makes a certificate");
    let peer = |(n, &number): (usize, &u16)| {
        let room = format!("room-{}", number / ROOM_SIZE);
        Peer::new(number, &room, certificate.clone(), Random::new(seed, 100 + n as u64))
    };
    let link = |n: usize, way: u64| Link::new(Conditions::GOOD, Random::new(seed, 1000 + 2 * n as u64 + way));
    let mut world = World {
        now: SECOND,
        server,
        peers: script.peers.iter().enumerate().map(peer).collect(),
        links: (0..script.peers.len()).map(|n| [link(n, 0), link(n, 1)]).collect(),
        flights: BTreeMap::new(),
        flight_count: 0,
        sockets: BTreeMap::new(),
        socket_count: 0,
        connections: 0,
        controlplane_back_at: None,
        tells,
    };
    world.run(&script)
}

impl World {
    fn run(&mut self, script: &Script) -> Summary {
        let begun = self.now;
        let mut actions = script.actions.iter().copied().peekable();
        while self.now < begun + script.storm {
            while let Some((_, action)) = actions.next_if(|(at, _)| begun + at <= self.now) {
                self.act(action);
            }
            self.step();
        }
        for (_, action) in actions {
            self.act(action);
        }
        for [up, down] in &mut self.links {
            up.change(Conditions::GOOD);
            down.change(Conditions::GOOD);
        }
        // Those who were cut off find back first.
        let judged_from = self.now + CALM - 3 * SECOND;
        self.run_until(judged_from);
        self.check_sizes(false);
        let frames: Vec<[u32; 2]> = self.peers.iter().map(|peer| [0, 1].map(|kind| peer.next_frame(kind))).collect();
        self.run_until(judged_from + 2 * SECOND);
        let ends: Vec<[u32; 2]> = self.peers.iter().map(|peer| [0, 1].map(|kind| peer.next_frame(kind))).collect();
        self.run_until(judged_from + 3 * SECOND);
        self.check_everybody_is_seen(&frames, &ends);
        let summary = self.summary();
        for peer in &mut self.peers {
            peer.check_laws();
            if peer.wants_in {
                peer.leave(true);
            }
        }
        self.run_until(self.now + SECOND);
        // Whoever said nothing at the end is found out by consent.
        self.now += FORGOTTEN_AFTER;
        // Their timers of a second have run out, too.
        self.run_until(self.now + 4 * SECOND);
        self.check_sizes(true);
        summary
    }

    fn run_until(&mut self, end: Micros) {
        while self.now < end {
            self.step();
        }
    }

    fn tell(&self, what: impl fmt::Debug) {
        if self.tells {
            eprintln!("{:9.3} {what:?}", self.now as f64 / 1e6);
        }
    }

    fn index(&self, number: u16) -> usize {
        self.peers.iter().position(|peer| peer.number == number).expect("a peer of the script")
    }

    fn act(&mut self, action: Action) {
        self.tell(action);
        let now = self.now;
        match action {
            Action::Enter(number) => {
                let index = self.index(number);
                if !self.peers[index].wants_in {
                    self.peers[index].enter(now);
                }
            }
            Action::Leave(number, says_so) => {
                let index = self.index(number);
                if self.peers[index].wants_in {
                    self.peers[index].leave(says_so);
                }
            }
            Action::Switch(number, kind) => {
                let index = self.index(number);
                self.peers[index].switch(kind);
            }
            Action::LoseSocket(number) => {
                let index = self.index(number);
                if let Some(socket) = self.peers[index].socket() {
                    self.peers[index].lost_socket(now);
                    self.fly(now + SIGNAL_DELAY, Flight::SocketClosed { socket });
                }
            }
            Action::Rebind(number) => {
                let index = self.index(number);
                self.peers[index].rebind();
            }
            Action::Network(number, up, down) => {
                let index = self.index(number);
                self.links[index][0].change(up);
                self.links[index][1].change(down);
            }
            Action::KillControlplane(pause) => {
                self.server.kill_controlplane();
                self.controlplane_back_at = Some(now + pause);
                self.flights.retain(|_, flight| matches!(flight, Flight::ToServer { .. } | Flight::ToClient { .. }));
                self.sockets.clear();
                self.peers.iter_mut().for_each(|peer| peer.lost_socket(now));
            }
            Action::KillDataplane => self.server.restart_dataplane(now),
        }
    }

    fn fly(&mut self, at: Micros, flight: Flight) {
        self.flight_count += 1;
        self.flights.insert((at, self.flight_count), flight);
    }

    /// A millisecond.
    fn step(&mut self) {
        self.now += MILLISECOND;
        if self.controlplane_back_at.take_if(|at| *at <= self.now).is_some() {
            self.server.start_controlplane(self.now);
        }
        let later = self.flights.split_off(&(self.now + 1, 0));
        let due = std::mem::replace(&mut self.flights, later);
        let mut batches: BTreeMap<usize, Vec<(SocketAddr, Micros, Vec<u8>)>> = BTreeMap::new();
        for ((at, _), flight) in due {
            match flight {
                Flight::ToServer { from, to, bytes } => {
                    let worker = self.server.worker_at(to).expect("a worker's address");
                    batches.entry(worker).or_default().push((from, at, bytes));
                }
                flight => self.arrive(flight),
            }
        }
        for (worker, batch) in batches {
            self.server.receive(self.now, worker, batch);
        }
        self.server.tick(self.now);
        self.carry_from_server();
        for index in 0..self.peers.len() {
            let instant = self.server.instant(self.now);
            let was_connected = self.peers[index].is_connected();
            self.peers[index].step(self.now, instant);
            self.connections += usize::from(!was_connected && self.peers[index].is_connected());
            self.carry_from_client(index);
        }
        self.carry_from_server();
    }

    fn arrive(&mut self, flight: Flight) {
        let (now, instant) = (self.now, self.server.instant(self.now));
        match flight {
            Flight::ToServer { .. } => unreachable!("taken in batches"),
            Flight::ToClient { to, bytes } => {
                if let Some(index) = self.peers.iter().position(|peer| peer.address == to) {
                    let was_connected = self.peers[index].is_connected();
                    self.peers[index].receive(now, instant, &bytes);
                    self.connections += usize::from(!was_connected && self.peers[index].is_connected());
                    self.carry_from_client(index);
                }
            }
            Flight::Opening { peer } => {
                if self.controlplane_back_at.is_some() {
                    return self.peers[peer].lost_socket(now); // Nobody listens.
                }
                self.socket_count += 1;
                let socket = SocketId(self.socket_count);
                self.sockets.insert(socket, peer);
                let Peer { room, number, .. } = &self.peers[peer];
                let grant = Grant {
                    room: "*".into(),
                    name: format!("peer {number}"),
                    publish: true,
                    subscribe: true,
                    ..Grant::default()
                };
                let room = room.clone();
                self.peers[peer].opened(socket);
                self.server.input(now, Input::SocketOpened { socket, room, grant });
            }
            Flight::FromSocket { socket, signal } => {
                if self.sockets.contains_key(&socket) {
                    self.server.input(now, Input::Signal { socket, signal });
                }
            }
            Flight::SocketClosed { socket } => {
                if self.sockets.remove(&socket).is_some() {
                    self.server.input(now, Input::SocketClosed { socket });
                }
            }
            Flight::ToSocket { socket, signal } => {
                if let Some(peer) = self.peers.iter_mut().find(|peer| peer.socket() == Some(socket)) {
                    peer.hear(now, signal);
                }
            }
            Flight::ClosedByServer { socket } => {
                if let Some(peer) = self.peers.iter_mut().find(|peer| peer.socket() == Some(socket)) {
                    peer.lost_socket(now);
                }
            }
        }
    }

    fn carry_from_client(&mut self, index: usize) {
        let now = self.now;
        while let Some(from) = self.peers[index].poll() {
            match from {
                FromClient::Datagram(to, bytes) => {
                    let from = self.peers[index].address;
                    for at in self.links[index][0].send(now, network_len(&bytes)).into_iter().flatten() {
                        self.fly(at, Flight::ToServer { from, to, bytes: bytes.clone() });
                    }
                }
                FromClient::Open => self.fly(now + SIGNAL_DELAY, Flight::Opening { peer: index }),
                FromClient::Signal(signal) => {
                    if let Some(socket) = self.peers[index].socket() {
                        self.fly(now + SIGNAL_DELAY, Flight::FromSocket { socket, signal });
                    }
                }
                FromClient::Close => {
                    if let Some((socket, _)) = self.sockets.iter().find(|(_, peer)| **peer == index) {
                        let socket = *socket;
                        self.fly(now + SIGNAL_DELAY, Flight::SocketClosed { socket });
                    }
                }
            }
        }
    }

    fn carry_from_server(&mut self) {
        let now = self.now;
        for outgoing in self.server.take_outgoing() {
            match outgoing {
                ToClient::Datagram(to, bytes) => {
                    let Some(index) = self.peers.iter().position(|peer| peer.has_had(to)) else { continue };
                    self.peers[index].leaves(&bytes);
                    for at in self.links[index][1].send(now, network_len(&bytes)).into_iter().flatten() {
                        self.fly(at, Flight::ToClient { to, bytes: bytes.clone() });
                    }
                }
                ToClient::Signal(socket, signal) => {
                    self.tell(&signal);
                    self.fly(now + SIGNAL_DELAY, Flight::ToSocket { socket, signal });
                }
                ToClient::Close(socket) => {
                    self.sockets.remove(&socket);
                    self.fly(now + SIGNAL_DELAY, Flight::ClosedByServer { socket });
                }
                // Whoever lost its socket without a word is found out by the ping.
                ToClient::Probe(_) => {}
            }
        }
    }

    /// Law 5: everybody who is in sees and hears everybody else of the room, without a hole.
    fn check_everybody_is_seen(&self, from: &[[u32; 2]], to: &[[u32; 2]]) {
        for receiver in self.peers.iter().filter(|peer| peer.wants_in) {
            let number = receiver.number;
            assert!(receiver.is_connected(), "peer {number} is not back after {} s", CALM / SECOND);
            let others = self.peers.iter().enumerate().filter(|(_, other)| {
                other.wants_in && other.number != number && other.number / ROOM_SIZE == number / ROOM_SIZE
            });
            for (index, other) in others {
                for (kind, source) in [(0u8, Source::Microphone), (1, Source::Camera)] {
                    let sent = from[index][usize::from(kind)]..to[index][usize::from(kind)];
                    if !other.is_active(kind) {
                        continue;
                    }
                    assert!(sent.len() > 30, "peer {} sends", other.number);
                    let is_told = |told: &(String, Source)| Some(&told.0) == other.id.as_ref() && told.1 == source;
                    let slot = receiver.told.iter().find(|(_, told)| is_told(told)).map(|(mid, _)| mid);
                    let slot =
                        slot.unwrap_or_else(|| panic!("peer {number} has no slot for {source:?} of {}", other.number));
                    let source = (other.number, other.incarnation, other.best_kind(kind));
                    let seen = receiver.seen.get(slot);
                    let missing = seen.and_then(|seen| seen.missing(source, sent.clone()));
                    let what = format!("frames {sent:?} of {source:?} in slot {slot} of peer {number}");
                    assert_eq!(missing, Some(Vec::new()), "{what}: what left and did not arrive");
                }
            }
        }
    }

    /// What is remembered is bounded by who is there.
    fn check_sizes(&self, is_over: bool) {
        let snapshot = self.server.snapshot().expect("a controlplane is back");
        if is_over {
            for sizes in self.server.sizes() {
                assert_eq!(sizes, Sizes::default(), "nobody is there any more");
            }
            assert_eq!((snapshot.rooms.len(), snapshot.half_open, self.server.journal_len()), (0, 0, 0));
            return;
        }
        let pending: usize = snapshot.workers.iter().map(|worker| worker.pending).sum();
        assert_eq!(pending, 0, "all that is desired is installed");
        // Those who were left behind by a change are there until their consent ends.
        let peers_max = self.connections + self.peers.len();
        for sizes in self.server.sizes() {
            let [peers, streams, slots, routes] = sizes.objects;
            assert!(peers <= peers_max, "{peers} peers");
            assert!(streams <= peers_max * 10 && slots <= peers_max * 15 && routes <= 3 * slots, "{sizes:?}");
            assert!(sizes.paths <= peers_max * 8 && sizes.timers <= peers_max * 32, "{sizes:?}");
        }
    }

    fn summary(&mut self) -> Summary {
        let of_peer = |peer: &Peer| peer.packets_seen + peer.seen.values().map(|seen| seen.len()).sum::<usize>();
        Summary {
            packets: self.peers.iter().map(of_peer).sum(),
            repairs: self.server.counter(Counter::RtxSent),
            relayed: self.server.counter(Counter::Relayed),
            connections: self.connections,
        }
    }
}

/// What the network takes a datagram for: the length of a DTLS record is not drawn from the seed.
fn network_len(bytes: &[u8]) -> usize {
    if (20..64).contains(&bytes[0]) { DTLS_LEN } else { bytes.len() }
}
