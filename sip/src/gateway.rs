//! The gateway as a process: sockets, the agent, and a task for each call. All of it on one thread.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::http::Server;
use client::random::Random;
use client::service;
use tokio::net::{TcpListener, TcpStream, UdpSocket, lookup_host};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::agent::{Agent, Ended, Event, Incoming, Transfer};
use crate::ask::{Ask, Ordered, Progress};
use crate::call::{Call, Order, Tokens, Word};
use crate::connections::{Arrival, Connections};
use crate::control;
use crate::counters::{Counter, Counters};
use crate::known::Known;
use crate::message::MESSAGE_LEN_MAX;
use crate::orders;
use crate::sdp::{KEY_LEN, Ours, Remote};
use crate::settings::{Number, Settings};
use crate::tls::Tls;
use crate::transaction::{Connection, Hop};

/// How often the agent's timers are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How soon a renewed certificate is noticed.
const LOOK: Duration = Duration::from_secs(2);
/// How often the trunk's name is looked up, and how long that may take.
const LOOK_UP: Duration = Duration::from_secs(60);
const LOOK_UP_MAX: Duration = Duration::from_secs(20);
/// Orders that wait for a call, and words of all calls that wait for the gateway.
const ORDERS_MAX: usize = 64;
const WORDS_MAX: usize = 4096;
/// Ports of RTP that are tried for a call.
const PORT_TRIES: u16 = 100;
/// How long calls have to say goodbye when the gateway stops.
const GOODBYE: Duration = Duration::from_millis(500);
/// And how long the controlplane may take to be told.
const LAST_REPORT: Duration = Duration::from_millis(1_500);

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address that it cannot have.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A certificate or key that cannot be used.
    #[error("tls-cert, tls-key or tls-ca: {0}")]
    Tls(String),
    /// No runtime.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where it listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listening {
    /// SIP by UDP and TCP.
    pub sip: SocketAddr,
    /// SIP by TLS.
    pub tls: Option<SocketAddr>,
    /// HTTP.
    pub http: Option<SocketAddr>,
}

struct Live {
    orders: mpsc::Sender<Order>,
    from: SocketAddr,
    /// Who wants to know how far it is.
    progress: Option<mpsc::Sender<Progress>>,
}

impl Live {
    fn tell(&self, progress: Progress) {
        // Who waits no longer, or is told a third time, need not know.
        let _ = self.progress.as_ref().map(|out| out.try_send(progress));
    }
}

struct Gateway {
    settings: Arc<Settings>,
    server: Server,
    tokens: Tokens,
    known: Known,
    agent: Agent,
    random: Random,
    calls: HashMap<u64, Live>,
    /// What ended calls have counted.
    ended: Counters,
    words: mpsc::Sender<(u64, Word)>,
    next_port: u16,
    address: SocketAddr,
}

/// Runs until `stop` is ready. `announce` is told where it listens.
pub async fn run(
    settings: Settings,
    server: Server,
    tokens: Tokens,
    orders: Option<service::Settings>,
    announce: impl FnOnce(Listening),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let refused = |address| move |error| RunError::Listen { address, error };
    let (udp, tcp, listen) = listeners(settings.listen).await?;
    let files = settings.tls.as_ref().map(|(_, files)| files.clone());
    let peer = settings.trunk_peer();
    let mut tls = Tls::new(files, peer).map_err(RunError::Tls)?;
    let mut secure = None;
    if let Some((address, _)) = &settings.tls {
        secure = Some(TcpListener::bind(address).await.map_err(refused(*address))?);
    }
    let tls_listen = secure.as_ref().map(TcpListener::local_addr).transpose()?;
    let (ask, mut asks) = mpsc::channel(16);
    let mut http = None;
    if let Some(settings) = settings.control.clone() {
        let listener = TcpListener::bind(settings.address).await.map_err(refused(settings.address))?;
        http = Some(listener.local_addr()?);
        tokio::spawn(control::serve(listener, settings.token, ask.clone()));
    }
    let (end_orders, orders_end) = watch::channel(false);
    let ordering = orders.map(|settings| {
        let mut end = orders_end.clone();
        let end = async move { drop(end.wait_for(|&is_ending| is_ending).await) };
        tokio::spawn(orders::serve(settings, ask.clone(), end))
    });
    announce(Listening { sip: listen, tls: tls_listen, http });
    tracing::info!(sip = %listen, tls = ?tls_listen, ?http, numbers = settings.numbers.len(), "gateway_listens");
    let (arrive, mut arrivals) = mpsc::channel(256);
    let (words, mut heard) = mpsc::channel(WORDS_MAX);
    let address = SocketAddr::new(settings.public_ip, listen.port());
    let tls_address = tls_listen.map(|listen| SocketAddr::new(settings.public_ip, listen.port()));
    let mut random = Random::from_system();
    let mut gateway = Gateway {
        agent: Agent::new(Instant::now(), settings.agent(address, tls_address), random.fork()),
        // Somewhere, so that another gateway of this machine is not in the way of each.
        next_port: first_port(&settings.rtp_ports, &mut random),
        settings: Arc::new(settings),
        server,
        tokens,
        known: Known::default(),
        random,
        calls: HashMap::new(),
        ended: Counters::default(),
        words,
        address,
    };
    let mut connections = Connections::new(arrive);
    let (find, mut found) = mpsc::channel(1);
    if let Some(host) = gateway.settings.trunk_host.clone() {
        tokio::spawn(look_up(host, listen, find));
    }
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut datagram = vec![0; MESSAGE_LEN_MAX];
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = ticks.tick() => gateway.agent.handle_timeout(Instant::now()),
            _ = looks.tick() => tls.look(&mut gateway.agent.counters),
            received = udp.recv_from(&mut datagram) => {
                if let Ok((len, address)) = received {
                    let hop = Hop { address, connection: None };
                    gateway.agent.receive(Instant::now(), hop, &datagram[..len]);
                }
            }
            accepted = tcp.accept() => match accepted {
                Ok((stream, address)) => connections.accept(stream, address, None),
                // No descriptors left: wait for some.
                Err(_) => sleep(TICK).await,
            },
            accepted = accept(secure.as_ref()) => match accepted {
                Ok((stream, address)) => connections.accept(stream, address, tls.acceptor.clone()),
                Err(_) => sleep(TICK).await,
            },
            Some(arrival) = arrivals.recv() => match arrival {
                Arrival::Message(hop, bytes) => gateway.agent.receive(Instant::now(), hop, &bytes),
                Arrival::Closed(id) => {
                    connections.closed(id);
                    if id == Connection::TRUNK {
                        gateway.agent.trunk_closed(Instant::now());
                    }
                }
                Arrival::NoTrunk(error) => {
                    connections.closed(Connection::TRUNK);
                    gateway.agent.counters.add(Counter::TrunkNotReached);
                    tracing::warn!(error, "trunk_not_reached");
                    gateway.agent.trunk_not_reached(Instant::now());
                }
                Arrival::NoTls => gateway.agent.counters.add(Counter::TlsFailed),
            },
            Some(addresses) = found.recv() => gateway.found(&addresses, &mut connections),
            Some((call, word)) = heard.recv() => gateway.hear(call, word),
            Some(asked) = asks.recv() => gateway.asked(asked),
        }
        gateway.settle();
        flush(&mut gateway.agent, &udp, &mut connections, &tls);
    }
    let calls: Vec<u64> = gateway.calls.keys().copied().collect();
    for call in calls {
        gateway.tell(call, Progress::Ended("gateway_stops".to_owned()));
        gateway.agent.hang_up(Instant::now(), call);
        gateway.order(call, Order::End);
    }
    drop(asks); // Nobody listens any more.
    let _ = end_orders.send(true);
    flush(&mut gateway.agent, &udp, &mut connections, &tls);
    // For the peers to leave their rooms.
    sleep(if gateway.calls.is_empty() { Duration::ZERO } else { GOODBYE }).await;
    if let Some(ordering) = ordering {
        // The server is told that this service leaves, if it listens.
        let _ = timeout(LAST_REPORT, ordering).await;
    }
    Ok(())
}

/// Sockets of UDP and TCP at one address. Where the kernel chooses the port, it may be one that TCP has given to somebody else: then another one.
async fn listeners(address: SocketAddr) -> Result<(UdpSocket, TcpListener, SocketAddr), RunError> {
    let refused = |address| move |error| RunError::Listen { address, error };
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let udp = UdpSocket::bind(address).await.map_err(refused(address))?;
        let listen = udp.local_addr()?;
        tries -= 1;
        match TcpListener::bind(listen).await {
            Ok(tcp) => return Ok((udp, tcp, listen)),
            Err(_) if tries > 0 => {}
            Err(error) => return Err(refused(listen)(error)),
        }
    }
}

/// The next connection; never, without a listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Looks up where the trunk is, again and again. Of its addresses those that our socket can send to.
async fn look_up(host: String, own: SocketAddr, find: mpsc::Sender<Vec<SocketAddr>>) {
    let mut was_lost = false;
    loop {
        let found: Vec<SocketAddr> = match timeout(LOOK_UP_MAX, lookup_host(&host)).await {
            Ok(Ok(found)) => found.filter(|address| address.is_ipv4() == own.is_ipv4()).collect(),
            _ => Vec::new(),
        };
        let is_lost = found.is_empty();
        if is_lost && !std::mem::replace(&mut was_lost, is_lost) {
            tracing::warn!(host, "trunk_not_found: its name has no address that can be used; looked up again");
        }
        if !is_lost && find.send(found).await.is_err() {
            return;
        }
        sleep(LOOK_UP).await;
    }
}

fn first_port(ports: &RangeInclusive<u16>, random: &mut Random) -> u16 {
    let len = u64::from(ports.end() - ports.start());
    ports.start() + (random.u64() % len) as u16
}

fn flush(agent: &mut Agent, udp: &UdpSocket, connections: &mut Connections, tls: &Tls) {
    while let Some((hop, bytes)) = agent.poll_transmit() {
        match hop.connection {
            Some(connection) => {
                if let Some(trunk) = agent.trunk().filter(|_| hop.is_trunk()) {
                    connections.reach(trunk.hop, tls);
                }
                connections.send(connection.id, bytes);
            }
            // A full socket loses a datagram, as the network may; what matters is sent again.
            None => drop(udp.try_send_to(&bytes, hop.address)),
        }
    }
}

impl Gateway {
    /// The trunk is at one of these addresses: where it was, if that is one of them.
    fn found(&mut self, addresses: &[SocketAddr], connections: &mut Connections) {
        let is_there = self.agent.trunk().is_some_and(|trunk| addresses.contains(&trunk.hop.address));
        let Some(&address) = addresses.first().filter(|_| !is_there) else { return };
        tracing::info!(%address, "trunk_found");
        connections.leave(Connection::TRUNK);
        self.agent.trunk_is_at(Instant::now(), address);
    }

    fn order(&mut self, call: u64, order: Order) {
        if let Some(live) = self.calls.get(&call) {
            // Who takes none of so many orders is given none.
            let _ = live.orders.try_send(order);
        }
    }

    /// Does what the agent's events ask for.
    fn settle(&mut self) {
        while let Some(event) = self.agent.poll_event() {
            match event {
                Event::Incoming(incoming) => self.incoming(*incoming),
                Event::Confirmed { call, sdp } => self.order(call, Order::Confirmed(sdp)),
                Event::Offered { call, offer } => self.order(call, Order::Offered(offer)),
                Event::Early { call, sdp } => self.order(call, Order::Early(sdp)),
                Event::Accepted { call, sdp } => {
                    self.tell(call, Progress::Answered);
                    self.order(call, Order::Accepted(sdp));
                }
                Event::Referred { call, number, replaces } => {
                    self.order(call, Order::Referred { number, replaces });
                }
                Event::Digit { call, digit } => self.order(call, Order::Digit(digit)),
                Event::Ended { call, reason } => {
                    let status = if let Ended::Refused(status) = reason { status } else { 0 };
                    tracing::info!(call, reason = reason.name(), status, "call_ended");
                    let why = if status == 0 { reason.name().to_owned() } else { format!("refused: {status}") };
                    self.tell(call, Progress::Ended(why));
                    self.order(call, Order::End);
                }
            }
        }
    }

    fn tell(&self, call: u64, progress: Progress) {
        if let Some(live) = self.calls.get(&call) {
            live.tell(progress);
        }
    }

    fn incoming(&mut self, incoming: Incoming) {
        let (now, call) = (Instant::now(), incoming.call);
        let number = match &incoming.room {
            Some(room) => self.settings.number_of_room(room).cloned(),
            None => self.settings.number(&incoming.number).cloned(),
        };
        let is_lobby = incoming.room.is_none() && self.settings.lobby.as_deref() == Some(&*incoming.number);
        let remote = incoming.offer.as_deref().map(|offer| Remote::parse(offer, self.settings.needs_srtp)).transpose();
        let refused = match (&number, &remote) {
            (None, _) if !is_lobby => Some((404, "No Such Number")),
            (_, Err(error)) => {
                tracing::info!(call, from = %incoming.from, %error, "call_offer_unusable");
                Some((488, "Not Acceptable Here"))
            }
            _ => None,
        };
        let sockets = match refused {
            None => self.media_sockets(),
            Some(_) => None,
        };
        let (Some(sockets), Ok(remote)) = (sockets, remote) else {
            let (status, reason) = refused.unwrap_or((503, "No Port For Media"));
            self.agent.counters.add(Counter::Refused);
            tracing::info!(call, from = %incoming.from, number = incoming.number, status, "call_refused");
            return self.agent.refuse(now, call, status, reason);
        };
        tracing::info!(call, from = %incoming.from, number = incoming.number, "call_began");
        let is_keyed = remote.as_ref().map_or(self.settings.needs_srtp, |remote| remote.crypto.is_some());
        let key = is_keyed.then(|| self.random.bytes());
        let Incoming { from, name, pin, .. } = incoming;
        let made = Made { from, name, number, pin, remote, key, digits: None, progress: None };
        self.start(call, sockets, made);
    }

    fn start(&mut self, id: u64, sockets: MediaSockets, made: Made) {
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        self.calls.insert(id, Live { orders, from: made.from, progress: made.progress });
        let call = Call {
            id,
            settings: Arc::clone(&self.settings),
            server: self.server.clone(),
            tokens: Arc::clone(&self.tokens),
            known: self.known.clone(),
            socket: sockets.rtp,
            rtcp: sockets.rtcp,
            media: sockets.address,
            from: made.from,
            name: if made.name.is_empty() { "Telephone".to_owned() } else { made.name },
            number: made.number,
            pin: made.pin,
            remote: made.remote,
            digits: made.digits,
            random: self.random.fork(),
            key: made.key,
            orders: taken,
            words: self.words.clone(),
        };
        tokio::spawn(call.run());
    }

    /// A socket of RTP at the next free even port, and one of RTCP behind it (RFC 3550 §11).
    fn media_sockets(&mut self) -> Option<MediaSockets> {
        let ports: RangeInclusive<u16> = self.settings.rtp_ports.clone();
        let ip = self.settings.listen.ip();
        let bound = |port| {
            let socket = std::net::UdpSocket::bind((ip, port)).ok()?;
            socket.set_nonblocking(true).ok()?;
            UdpSocket::from_std(socket).ok()
        };
        (0..PORT_TRIES).find_map(|_| {
            let port = self.next_port.next_multiple_of(2);
            self.next_port = if ports.contains(&port.saturating_add(3)) { port + 2 } else { *ports.start() };
            let address = (self.address.ip(), port).into();
            ports.contains(&(port + 1)).then_some(())?;
            Some(MediaSockets { rtp: bound(port)?, rtcp: bound(port + 1)?, address })
        })
    }

    fn hear(&mut self, call: u64, word: Word) {
        let now = Instant::now();
        match word {
            Word::Ring => self.agent.ring(now, call),
            Word::Accept(sdp) => self.agent.accept(now, call, sdp),
            Word::Refuse(status, reason) => {
                self.agent.counters.add(Counter::Refused);
                tracing::info!(call, status, "call_refused");
                self.agent.refuse(now, call, status, reason);
            }
            Word::HangUp => self.agent.hang_up(now, call),
            Word::WrongPin => {
                self.agent.counters.add(Counter::WrongPins);
                let Some(from) = self.calls.get(&call).map(|live| live.from) else { return };
                let is_locked = self.agent.sources.wrong_pin(now, from.ip());
                tracing::warn!(call, %from, is_locked, "call_wrong_pin");
                if is_locked {
                    self.agent.hang_up(now, call);
                    self.order(call, Order::End);
                }
            }
            Word::Refer { into, number: dialled, replaces } => {
                let transfer = Transfer { by: call, replaces };
                let made = match into {
                    None => Err((403, "it is not in a room")),
                    Some(number) => {
                        self.call_out(number, &dialled, String::new(), None, Some(transfer)).map_err(|why| (503, why))
                    }
                };
                match made {
                    Ok(to) => tracing::info!(call, to, number = dialled, "call_transferred"),
                    Err((status, why)) => {
                        tracing::info!(call, number = dialled, status, why, "call_not_transferred");
                        self.agent.tell_referrer(now, call, status);
                    }
                }
            }
            Word::Done(counters) => {
                self.ended.merge(&counters);
                if let Some(live) = self.calls.remove(&call) {
                    live.tell(Progress::Ended("ended".to_owned()));
                }
            }
        }
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Metrics(reply) => {
                let mut counters = self.agent.counters.clone();
                counters.merge(&self.ended);
                let text = control::metrics(&counters, self.agent.calls(), self.agent.is_registered());
                let _ = reply.send(text);
            }
            Ask::Dial { room, number, digits, ordered, reply } => {
                let _ = reply.send(self.dial(&room, &number, digits, ordered));
            }
            Ask::HangUp(call) => {
                self.agent.hang_up(Instant::now(), call);
                self.order(call, Order::End);
            }
        }
    }

    /// Calls a number into a room. The call's id, or why not.
    fn dial(
        &mut self,
        room: &str,
        dialled: &str,
        digits: String,
        ordered: Option<Ordered>,
    ) -> Result<u64, &'static str> {
        let number = match &ordered {
            Some(Ordered { token, .. }) => Number::ordered(room, token),
            None => self.settings.number_of_room(room).cloned().ok_or("no number of sip.toml has this room")?,
        };
        let call = self.call_out(number, dialled, digits, ordered.map(|ordered| ordered.progress), None)?;
        tracing::info!(call, number = dialled, room, "call_dialled");
        Ok(call)
    }

    /// Calls a number, which then comes to the room of this one.
    fn call_out(
        &mut self,
        number: Number,
        dialled: &str,
        digits: String,
        progress: Option<mpsc::Sender<Progress>>,
        transfer: Option<Transfer>,
    ) -> Result<u64, &'static str> {
        self.settings.trunk.as_ref().ok_or("sip.toml has no trunk")?;
        let from = self.agent.trunk().ok_or("the trunk's name has no address")?.hop.address;
        let sockets = self.media_sockets().ok_or("no port for media is free")?;
        let key: Option<[u8; KEY_LEN]> = self.settings.needs_srtp.then(|| self.random.bytes());
        let offer = Ours { address: sockets.address, id: self.random.u64() >> 16, version: 1, key }.offer();
        let number = Number { pin: None, ..number };
        let call = self.agent.dial(Instant::now(), dialled, offer, transfer).ok_or("too many calls, or no number")?;
        let made = Made {
            from,
            name: dialled.to_owned(),
            number: Some(number),
            pin: None,
            remote: None,
            key,
            digits: Some(digits),
            progress,
        };
        self.start(call, sockets, made);
        Ok(call)
    }
}

/// Where the media of a call come in, and the address of its RTP as others see it.
struct MediaSockets {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    address: SocketAddr,
}

/// What is known of a call when it begins.
struct Made {
    from: SocketAddr,
    name: String,
    number: Option<Number>,
    pin: Option<String>,
    remote: Option<Remote>,
    key: Option<[u8; KEY_LEN]>,
    /// Of a call of ours, what is dialled when it is up.
    digits: Option<String>,
    /// Who wants to know how far it is.
    progress: Option<mpsc::Sender<Progress>>,
}
