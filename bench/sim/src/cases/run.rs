//! Runs a case: the server, its clients and the path between them, a millisecond at a time.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use controlplane::dtls::Identity as Certificate;
use controlplane::engine::{Grant, Input, Settings, SocketId};
use dataplane::Micros;
use proto::signal::{ClientSignal, ServerSignal, VideoCodec};

use super::client::{Client, Role};
use super::path::{Conditions, Fate, HEADERS_LEN, Way};
use super::score::{Run, SAMPLE_INTERVAL, Sample};
use super::table::{Case, Uplink};
use super::tcp::Tcp;
use crate::random::Random;
use crate::server::{Server, ToClient};
use crate::wire::FromClient;

const MILLISECOND: Micros = 1000;
const SECOND: Micros = 1_000_000;
/// Time of a signal on its way, each way.
const SIGNAL_DELAY: Micros = 15 * MILLISECOND;
/// Propagation of good paths, one way.
const GOOD_DELAY: Micros = 10 * MILLISECOND;
/// Length for which the network counts a DTLS record, whatever its signature made of it.
const DTLS_LEN: usize = 1200;
/// When a case begins.
const BEGIN: Micros = SECOND;
/// Enough for every case: here the paths limit, and not the room.
const CLIENT_BPS_MAX: u32 = 10_000_000;
const PEERS_MAX: u32 = 16;

enum Flight {
    ToServer { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    ToClient { client: usize, bytes: Vec<u8> },
    Opening { client: usize },
    FromSocket { socket: SocketId, signal: ClientSignal },
    ToSocket { socket: SocketId, signal: ServerSignal },
}

struct World<'a> {
    case: &'a Case,
    now: Micros,
    server: Server,
    /// First the receivers of the case, then everybody else.
    clients: Vec<Client>,
    /// Propagation, one way, by client.
    delays: Vec<Micros>,
    /// To the server, by client.
    up: Vec<Way>,
    down: Way,
    tcp: Vec<Tcp>,
    flights: BTreeMap<(Micros, u64), Flight>,
    flight_count: u64,
    socket_count: u64,
    /// By receiver, what came out of the path.
    delivered: Vec<u64>,
    /// By kind, what left the server for the first receiver.
    left: [u64; 3],
    run: Run,
}

/// Runs a case with a seed.
///
/// # Panics
/// If a client is refused or cannot join.
pub fn run(case: &Case, seed: u64) -> Run {
    let mut settings = Settings { client_bps_max: CLIENT_BPS_MAX, peers_max: PEERS_MAX, ..Settings::default() };
    if case.has_layers {
        settings.codecs = vec![VideoCodec::Vp8].try_into().expect("one codec");
    }
    let certificate = Certificate::generate().expect("BoringSSL makes a certificate");
    let (mut clients, mut delays, mut up) = (Vec::new(), Vec::new(), Vec::new());
    let mut add = |role: Role, delay: Micros, conditions: Conditions| {
        let number = u64::from(role.number);
        clients.push(Client::new(role, certificate.clone(), Random::new(seed, 100 + number)));
        delays.push(delay);
        up.push(Way::new(conditions, BEGIN, Random::new(seed, 1000 + number)));
    };
    let role = |number: usize, room: usize, sends: bool, receives: bool, delay: Micros, joins_at: Micros| Role {
        number: number as u16,
        room: format!("room-{room}"),
        encodings: if sends { case.encodings.clone() } else { Vec::new() },
        has_layers: case.has_layers,
        receives,
        rtt: 2 * delay,
        joins_at,
    };
    let mut number = 0;
    for of in &case.receivers {
        number += 1;
        let (delay, joins_at) = (of.delay_ms * MILLISECOND, BEGIN + of.joins_at * SECOND);
        let conditions = if let Uplink::OfReceivers(up) = case.up { up } else { Conditions::GOOD };
        add(role(number, of.room, case.receivers_send, true, delay, joins_at), delay, conditions);
    }
    let rooms = case.receivers.iter().map(|of| of.room + 1).max().unwrap_or(0);
    for room in 0..rooms {
        for n in 0..case.publishers + case.watchers {
            number += 1;
            let sends = n < case.publishers;
            let conditions = match case.up {
                Uplink::OfPublisher(up) if room == 0 && n == 0 => up,
                _ => Conditions::GOOD,
            };
            add(role(number, room, sends, !sends, GOOD_DELAY, 0), GOOD_DELAY, conditions);
        }
    }
    let tcp = case
        .tcp
        .iter()
        .zip(2000..)
        .map(|(&(load, delay_ms), purpose)| Tcp::new(load, delay_ms, BEGIN, Random::new(seed, purpose)));
    let world = World {
        case,
        now: 0,
        server: Server::new(settings, 1, Random::new(seed, 1)),
        clients,
        delays,
        up,
        down: Way::new(case.down, BEGIN, Random::new(seed, 2)),
        tcp: tcp.collect(),
        flights: BTreeMap::new(),
        flight_count: 0,
        socket_count: 0,
        delivered: vec![0; case.receivers.len()],
        left: [0; 3],
        run: Run { samples: vec![Vec::new(); case.receivers.len()], ..Run::default() },
    };
    world.finish()
}

impl World<'_> {
    fn finish(mut self) -> Run {
        let end = BEGIN + self.case.seconds * SECOND;
        while self.now < end {
            self.step();
        }
        for client in &mut self.clients[..self.case.receivers.len()] {
            client.receiver.finish(self.now);
            let connected_at = client.connected_at.expect("it has joined");
            let (mut first_frame, mut last_frame) = (Micros::MAX, 0);
            for slot in client.receiver.slots() {
                let (score, run) = (&slot.score, &mut self.run);
                if !slot.is_video() {
                    run.sound = (run.sound.0 + score.sent, run.sound.1 + score.played);
                    continue;
                }
                run.frames = (run.frames.0 + score.sent, run.frames.1 + score.played);
                run.frozen = (run.frozen.0 + score.frozen, run.frozen.1 + score.shown);
                run.frozen_longest = run.frozen_longest.max(score.frozen_longest);
                run.switches += score.switches;
                if let Some(at) = score.first_frame_at {
                    (first_frame, last_frame) = (first_frame.min(at - connected_at), last_frame.max(at - connected_at));
                }
            }
            self.run.first_frame.push((first_frame, last_frame));
        }
        self.run.tcp_delivered = self.tcp.iter().map(|tcp| tcp.delivered).sum();
        self.run
    }

    fn fly(&mut self, at: Micros, flight: Flight) {
        self.flight_count += 1;
        self.flights.insert((at, self.flight_count), flight);
    }

    /// A millisecond.
    fn step(&mut self) {
        self.now += MILLISECOND;
        let now = self.now;
        let mut batch = Vec::new();
        while let Some(entry) = self.flights.first_entry()
            && entry.key().0 <= now
        {
            let ((at, _), flight) = entry.remove_entry();
            match flight {
                Flight::ToServer { from, to, bytes } => {
                    assert_eq!(self.server.worker_at(to), Some(0), "there is one worker");
                    batch.push((from, at, bytes));
                }
                flight => self.arrive(flight),
            }
        }
        if !batch.is_empty() {
            self.server.receive(now, 0, batch);
        }
        self.server.tick(now);
        self.carry_from_server();
        self.tcp.iter_mut().for_each(|tcp| tcp.step(now, &mut self.down));
        self.switch_cameras();
        for index in 0..self.clients.len() {
            let instant = self.server.instant(now);
            self.clients[index].step(now, instant);
            self.carry_from_client(index);
        }
        self.carry_from_server();
        if now >= BEGIN && now.is_multiple_of(SAMPLE_INTERVAL) {
            self.sample();
        }
    }

    fn switch_cameras(&mut self) {
        for &(room, second, is_on) in &self.case.cameras {
            if BEGIN + second * SECOND != self.now {
                continue;
            }
            let room = format!("room-{room}");
            for client in self.clients.iter_mut().filter(|client| client.role.room == room) {
                client.switch(is_on);
                client.receiver.rest();
            }
        }
    }

    fn sample(&mut self) {
        let since = self.now - BEGIN;
        for (index, samples) in self.run.samples.iter_mut().enumerate() {
            let client = &self.clients[index];
            if client.role.joins_at > self.now {
                continue;
            }
            samples.push(Sample {
                at: since,
                estimate: self.server.estimate_toward(client.address),
                delivered: self.delivered[index],
                left: self.left,
                capacity: self.case.down.capacity_at(since) * 1000,
            });
        }
        let publisher = match self.case.up {
            Uplink::OfPublisher(_) => self.case.receivers.len(),
            Uplink::OfReceivers(_) => 0,
            Uplink::Good => return,
        };
        self.run.uplink.extend(self.clients[publisher].sender.as_ref().map(|sender| sender.target_bps()));
    }

    fn arrive(&mut self, flight: Flight) {
        let (now, instant) = (self.now, self.server.instant(self.now));
        match flight {
            Flight::ToServer { .. } => unreachable!("taken in batches"),
            Flight::ToClient { client, bytes } => {
                if let Some(delivered) = self.delivered.get_mut(client) {
                    *delivered += network_len(&bytes) as u64;
                }
                self.clients[client].receive(now, instant, &bytes);
                self.carry_from_client(client);
            }
            Flight::Opening { client } => {
                self.socket_count += 1;
                let socket = SocketId(self.socket_count);
                let Role { number, room, encodings, receives, .. } = &self.clients[client].role;
                let grant = Grant {
                    room: "*".into(),
                    name: format!("client {number}"),
                    publish: !encodings.is_empty(),
                    subscribe: *receives,
                    ..Grant::default()
                };
                let room = room.clone();
                self.clients[client].opened(socket);
                self.server.input(now, Input::SocketOpened { socket, room, grant });
            }
            Flight::FromSocket { socket, signal } => self.server.input(now, Input::Signal { socket, signal }),
            Flight::ToSocket { socket, signal } => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.socket() == Some(socket)) {
                    client.hear(now, signal);
                }
            }
        }
    }

    fn carry_from_client(&mut self, index: usize) {
        let now = self.now;
        while let Some(from) = self.clients[index].poll() {
            match from {
                FromClient::Datagram(to, bytes) => {
                    let from = self.clients[index].address;
                    if let Fate::Out(at, _) = self.up[index].send(now, network_len(&bytes)) {
                        self.fly(at + self.delays[index], Flight::ToServer { from, to, bytes });
                    }
                }
                FromClient::Open => self.fly(now + SIGNAL_DELAY, Flight::Opening { client: index }),
                FromClient::Signal(signal) => {
                    let socket = self.clients[index].socket().expect("it has a socket");
                    self.fly(now + SIGNAL_DELAY, Flight::FromSocket { socket, signal });
                }
                FromClient::Close => unreachable!("nobody leaves"),
            }
        }
    }

    fn carry_from_server(&mut self) {
        let now = self.now;
        for outgoing in self.server.take_outgoing() {
            match outgoing {
                ToClient::Datagram(to, bytes) => {
                    let Some(client) = self.clients.iter().position(|client| client.address == to) else { continue };
                    let kind = self.clients[client].leaves(now, &bytes);
                    if let Some(kind) = kind.filter(|_| client == 0) {
                        self.left[kind as usize] += network_len(&bytes) as u64;
                    }
                    let mut out = now;
                    if client < self.case.receivers.len() {
                        let fate = self.down.send(now, network_len(&bytes));
                        let wait = match fate {
                            Fate::Full => None,
                            Fate::Lost(wait) | Fate::Out(_, wait) => Some(wait),
                        };
                        self.run.waits.push((now.saturating_sub(BEGIN), wait));
                        let Fate::Out(at, _) = fate else { continue };
                        out = at;
                    }
                    self.fly(out + self.delays[client], Flight::ToClient { client, bytes });
                }
                ToClient::Signal(socket, signal) => self.fly(now + SIGNAL_DELAY, Flight::ToSocket { socket, signal }),
                ToClient::Close(socket) => panic!("the server closes {socket:?}"),
                ToClient::Probe(_) => {}
            }
        }
    }
}

/// What the network takes a datagram for: the length of a DTLS record is not drawn from the seed.
fn network_len(bytes: &[u8]) -> usize {
    HEADERS_LEN + if (20..64).contains(&bytes[0]) { DTLS_LEN } else { bytes.len() }
}
