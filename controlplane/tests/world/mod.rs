//! A small world around one engine, in virtual time: strict workers, and clients with a captured offer of Chromium and
//! a DTLS stack of their own. What the engine says is carried where it belongs until nobody has anything to say.

#![allow(dead_code, unreachable_pub, missing_docs)] // each test file uses a part of it

pub mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use controlplane::dtls::{Connected, Dtls, DtlsEvent, Identity, fingerprint_matches};
use controlplane::engine::{
    Engine, Grant, Input, OperatorError, OperatorRequest, Output, Reply, RequestId, ResourceError, ResourceReply,
    ResourceRequest, Settings, SocketId,
};
use proto::id::PeerId;
use proto::plane::{
    DatagramHeader, DatagramKind, Event, PeerExpired, PeerPath, PeerSilent, Report, StreamResumed, StreamSilent,
};
use proto::signal::{
    Candidate, ClientSignal, ErrorCode, LeaveReason, PeerInfo, PeerState, ServerSignal, SlotInfo, Source,
    TrackDescription,
};

use worker::Worker;

/// Chromium's offer of the meeting page: microphone (mid 0), camera (1), screen (2), 7 audio and 8 video slots (3 to 17).
pub const PAGE: &str = include_str!("../offers/chromium_page.sdp");

pub struct World {
    pub engine: Engine,
    pub now: Instant,
    pub workers: BTreeMap<usize, Worker>,
    /// By worker and slot.
    pub journal: BTreeMap<(usize, u32), Vec<u8>>,
    pub signals: BTreeMap<u64, VecDeque<ServerSignal>>,
    pub closed: BTreeSet<u64>,
    /// Sockets that were to be probed.
    pub probed: Vec<u64>,
    /// Datagrams for clients, by worker and peer.
    injected: VecDeque<(usize, DatagramHeader, Vec<u8>)>,
    sockets: u64,
    /// So many inputs more are given before anything that follows from them is carried, as where a driver finds several waiting.
    pub held: usize,
    /// Command ring space at each pull.
    pub space: usize,
    settings: Settings,
    seed: u8,
    /// Requests that were asked, and answers that nobody has taken.
    asked: u64,
    replies: BTreeMap<RequestId, Reply>,
    /// SHA-256 of the certificate, and what was ordered of the cluster, which only a node of one keeps.
    pub fingerprint: [u8; 32],
    pub is_node: bool,
    pub orders: Vec<controlplane::bus::Order>,
    /// Links whose path was found: by worker, peer and credentials.
    pub paths: BTreeSet<(usize, PeerId, [u8; 8])>,
    /// Whether what happens is kept in `happened`: tests of memory do without.
    pub is_watched: bool,
    pub happened: Vec<controlplane::happening::Happening>,
}

/// A client: what a browser and its page know.
pub struct Client {
    pub socket: u64,
    pub worker: usize,
    pub room: String,
    pub session: String,
    /// Its id in the room.
    pub id: String,
    pub answer: String,
    pub peer: Option<PeerId>,
    pub identity: Identity,
    pub dtls: Option<Dtls>,
    pub connected: Option<Box<Connected>>,
    pub address: SocketAddr,
    pub is_closed: bool,
}

pub fn grant(name: &str) -> Grant {
    Grant { room: "*".into(), name: name.into(), publish: true, subscribe: true, ..Grant::default() }
}

/// What the page says of its senders.
pub fn page_tracks() -> Vec<TrackDescription> {
    let track = |mid: &str, source, active| TrackDescription { mid: mid.into(), source, active };
    vec![track("0", Source::Microphone, true), track("1", Source::Camera, true), track("2", Source::Screen, false)]
}

/// An offer under a client's own certificate.
pub fn with_fingerprint(offer: &str, identity: &Identity) -> String {
    let hex: Vec<String> = identity.fingerprint_sha256().iter().map(|b| format!("{b:02X}")).collect();
    let line = |line: &str| match line.starts_with("a=fingerprint:") {
        true => format!("a=fingerprint:sha-256 {}\r\n", hex.join(":")),
        false => format!("{line}\r\n"),
    };
    offer.lines().map(line).collect()
}

impl World {
    /// An engine with one linked worker.
    pub fn new() -> World {
        Self::with(Settings::default(), 1)
    }

    pub fn with(settings: Settings, workers: usize) -> World {
        let mut world = Self::unlinked(settings);
        for worker in 0..workers {
            world.link(worker);
        }
        world
    }

    pub fn unlinked(settings: Settings) -> World {
        let identity = Identity::generate().unwrap();
        let fingerprint = identity.fingerprint_sha256();
        let engine = Engine::new(settings.clone(), identity, [1; 32]);
        World {
            engine,
            fingerprint,
            is_node: false,
            orders: Vec::new(),
            paths: BTreeSet::new(),
            now: Instant::now(),
            workers: BTreeMap::new(),
            journal: BTreeMap::new(),
            signals: BTreeMap::new(),
            closed: BTreeSet::new(),
            probed: Vec::new(),
            injected: VecDeque::new(),
            sockets: 0,
            held: 0,
            space: 4096,
            settings,
            seed: 1,
            asked: 0,
            replies: BTreeMap::new(),
            is_watched: false,
            happened: Vec::new(),
        }
    }

    /// Links a worker: a new one, or the one that an earlier engine left.
    pub fn link(&mut self, worker: usize) {
        self.announce(worker);
        self.carry();
    }

    /// Tells the engine of a worker that is linked, and no more.
    fn announce(&mut self, worker: usize) {
        self.workers.entry(worker).or_default();
        let of_worker = self.journal.iter().filter(|((index, _), _)| *index == worker);
        let journal = of_worker.map(|((_, slot), bytes)| (*slot, bytes.clone())).collect();
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 40_000 + worker as u16))];
        let addresses = addresses.into();
        self.engine.handle(self.now, Input::Linked { worker, addresses, journal });
    }

    /// The controlplane is killed, and another takes its place: all sockets are lost, the workers stand.
    pub fn restart_controlplane(&mut self) {
        self.restart_as(None);
    }

    /// The same of a node of a cluster.
    pub fn restart_controlplane_as(&mut self, node: String) {
        self.restart_as(Some(node));
    }

    fn restart_as(&mut self, node: Option<String>) {
        self.seed += 1;
        let identity = Identity::generate().unwrap();
        self.fingerprint = identity.fingerprint_sha256();
        self.engine = Engine::new(self.settings.clone(), identity, [self.seed; 32]);
        self.signals.clear();
        self.orders.clear();
        self.paths.clear();
        node.into_iter().for_each(|node| self.engine.join_cluster(node, String::new(), String::new()));
        self.injected.clear();
        for worker in self.workers.keys().copied().collect::<Vec<_>>() {
            self.announce(worker);
        }
        self.carry();
    }

    /// Another seed than that of other worlds, before anything is done.
    pub fn reseed(&mut self, seed: u8) {
        self.seed = seed;
        let identity = Identity::generate().unwrap();
        self.fingerprint = identity.fingerprint_sha256();
        self.engine = Engine::new(self.settings.clone(), identity, [seed; 32]);
    }

    /// Datagrams of DTLS for peers of which these are the clients.
    pub fn take_injected(&mut self, is_meant: impl Fn(usize, PeerId) -> bool) -> Vec<(usize, DatagramHeader, Vec<u8>)> {
        let (meant, others) = std::mem::take(&mut self.injected)
            .into_iter()
            .partition(|(worker, header, _)| is_meant(*worker, header.peer));
        self.injected = others;
        let meant: VecDeque<_> = meant;
        meant.into()
    }

    pub fn worker(&mut self) -> &mut Worker {
        self.workers.get_mut(&0).unwrap()
    }

    /// Gives the engine an input and carries what follows from it.
    pub fn input(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        match self.held.checked_sub(1) {
            Some(held) => self.held = held,
            None => self.carry(),
        }
    }

    /// Asks as a client of WHIP or WHEP, and carries what follows from it.
    pub fn ask(&mut self, request: ResourceRequest) -> Result<ResourceReply, ResourceError> {
        match self.answer_to(|id| Input::Resource { id, request }) {
            Reply::Resource(result) => result,
            other => panic!("{other:?}"),
        }
    }

    /// Asks as an operator, and carries what follows from it.
    pub fn operate(&mut self, request: OperatorRequest) -> Result<(), OperatorError> {
        match self.answer_to(|id| Input::Operator { id, request }) {
            Reply::Operator(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn answer_to(&mut self, input: impl FnOnce(RequestId) -> Input) -> Reply {
        self.asked += 1;
        let id = RequestId(self.asked);
        self.held = 0;
        self.input(input(id));
        self.replies.remove(&id).expect("a request is answered at once")
    }

    /// Carries outputs and commands until the engine has none; nothing is given to clients here.
    pub fn carry(&mut self) {
        loop {
            while let Some(output) = self.engine.poll_output() {
                self.take(output);
            }
            let mut reports = Vec::new();
            for (&index, worker) in &mut self.workers {
                let mut commands = Vec::new();
                self.engine.reconcile(index, self.space, &mut commands);
                assert!(commands.len() <= self.space, "more commands than there is space");
                for command in commands {
                    reports.extend(worker.apply(command).into_iter().map(|report| (index, report)));
                }
            }
            if reports.is_empty() {
                return;
            }
            for (worker, report) in reports {
                self.engine.handle(self.now, Input::Report { worker, report });
            }
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Signal { socket, signal } => {
                assert!(!self.closed.contains(&socket.0), "a signal on a closed socket: {signal:?}");
                // Through JSON, as on the real way.
                let text = serde_json::to_string(&signal).unwrap();
                self.signals.entry(socket.0).or_default().push_back(serde_json::from_str(&text).unwrap());
            }
            Output::Cluster(order) => self.orders.extend(self.is_node.then_some(order)),
            Output::Happened(happening) => self.happened.extend(self.is_watched.then_some(*happening)),
            Output::Reply { id, reply } => {
                assert!(self.replies.insert(id, reply).is_none(), "a request is answered once");
            }
            Output::CloseSocket { socket } => assert!(self.closed.insert(socket.0), "a socket is closed once"),
            Output::ProbeSocket { socket } => {
                assert!(!self.closed.contains(&socket.0), "a closed socket is probed");
                self.probed.push(socket.0);
            }
            Output::Inject { worker, header, payload } => {
                assert_eq!(usize::from(header.len), payload.len());
                self.injected.push_back((worker, header, payload));
            }
            Output::Journal { worker, slot, bytes: Some(bytes) } => {
                self.journal.insert((worker, slot), bytes);
            }
            Output::Journal { worker, slot, bytes: None } => {
                self.journal.remove(&(worker, slot));
            }
        }
    }

    /// Moves time to each deadline in turn, up to `duration` from now.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.engine.handle_timeout(self.now);
            self.carry();
        }
        self.now = end;
    }

    /// A socket that was let in.
    pub fn open(&mut self, room: &str, grant: Grant) -> u64 {
        self.sockets += 1;
        self.held = 0; // The welcome is read at once.
        let socket = SocketId(self.sockets);
        self.input(Input::SocketOpened { socket, room: room.into(), grant });
        socket.0
    }

    pub fn say(&mut self, socket: u64, signal: ClientSignal) {
        self.input(Input::Signal { socket: SocketId(socket), signal });
    }

    pub fn close(&mut self, socket: u64) {
        self.input(Input::SocketClosed { socket: SocketId(socket) });
    }

    /// The next signal on a socket.
    pub fn next(&mut self, socket: u64) -> ServerSignal {
        self.signals.get_mut(&socket).and_then(VecDeque::pop_front).expect("a signal")
    }

    /// All signals on a socket.
    pub fn drain(&mut self, socket: u64) -> Vec<ServerSignal> {
        self.signals.remove(&socket).unwrap_or_default().into()
    }

    /// The latest slots told on a socket; takes all its signals.
    pub fn slots(&mut self, socket: u64) -> Option<Vec<SlotInfo>> {
        self.drain(socket).into_iter().rev().find_map(|signal| match signal {
            ServerSignal::Slots { slots } => Some(slots),
            _ => None,
        })
    }

    /// Opens a socket and reads its welcome.
    pub fn guest(&mut self, room: &str, grant: Grant) -> Client {
        let socket = self.open(room, grant);
        let ServerSignal::Welcome { session, peer, resumed: false, .. } = self.next(socket) else {
            panic!("a welcome comes first")
        };
        Client {
            socket,
            worker: 0,
            room: room.into(),
            session,
            id: peer,
            answer: String::new(),
            peer: None,
            identity: Identity::generate().unwrap(),
            dtls: None,
            connected: None,
            address: SocketAddr::from(([127, 0, 0, 1], 50_000 + socket as u16)),
            is_closed: false,
        }
    }

    /// Offers, and takes the answer or the error.
    pub fn offer(&mut self, client: &mut Client, sdp: &str, tracks: Vec<TrackDescription>) -> Result<(), ErrorCode> {
        let sdp = with_fingerprint(sdp, &client.identity);
        self.say(client.socket, ClientSignal::Offer { sdp, tracks });
        self.answered(client)
    }

    /// Takes the answer to an offer, or the error.
    pub fn answered(&mut self, client: &mut Client) -> Result<(), ErrorCode> {
        match self.next(client.socket) {
            ServerSignal::Answer { sdp } => client.answer = sdp,
            ServerSignal::Error { code, fatal: true, .. } => return Err(code),
            other => panic!("neither answer nor error: {other:?}"),
        }
        let ufrag = client.answer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).expect("a ufrag");
        let found = self.workers.iter().find_map(|(&index, worker)| {
            let peer = worker.peers.values().find(|peer| peer.open.ufrag == ufrag.as_bytes())?;
            Some((index, peer.open.peer))
        });
        let (worker, peer) = found.expect("the peer is open on a worker");
        (client.worker, client.peer) = (worker, Some(peer));
        Ok(())
    }

    /// ICE and DTLS as a browser does them.
    pub fn connect(&mut self, client: &mut Client) {
        self.check(client);
        client.dtls = Some(Dtls::connect(&client.identity, self.now).unwrap());
        self.exchange(client);
        let connected = client.connected.as_ref().expect("DTLS completes");
        let hash = client.answer.lines().find_map(|line| line.strip_prefix("a=fingerprint:sha-256 ")).unwrap();
        let bytes: Vec<u8> = hash.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        assert!(fingerprint_matches(&connected.peer_certificate_der, "sha-256", &bytes).unwrap());
    }

    /// The worker validates the client's address.
    pub fn check(&mut self, client: &Client) {
        let path = PeerPath { peer: client.peer.unwrap(), remote: client.address, nominated: 1 };
        self.input(Input::Report { worker: client.worker, report: Report::Event(path.into()) });
    }

    /// Carries DTLS both ways until neither has anything to say.
    pub fn exchange(&mut self, client: &mut Client) {
        loop {
            let mut is_quiet = true;
            while let Some(datagram) = client.dtls.as_mut().and_then(Dtls::poll_transmit) {
                is_quiet = false;
                self.punt(client, datagram);
            }
            let is_mine = |(worker, header, _): &(usize, DatagramHeader, Vec<u8>)| {
                *worker == client.worker && Some(header.peer) == client.peer
            };
            let (mine, others): (VecDeque<_>, _) = std::mem::take(&mut self.injected).into_iter().partition(is_mine);
            self.injected = others;
            for (_, header, payload) in mine {
                is_quiet = false;
                assert_eq!(header.remote, client.address);
                if let Some(dtls) = &mut client.dtls {
                    dtls.handle(self.now, &payload);
                }
            }
            while let Some(event) = client.dtls.as_mut().and_then(Dtls::poll_event) {
                match event {
                    DtlsEvent::Connected(connected) => client.connected = Some(connected),
                    DtlsEvent::Failed(_) | DtlsEvent::Closed => client.is_closed = true,
                }
            }
            if is_quiet {
                return;
            }
        }
    }

    pub fn punt(&mut self, client: &Client, payload: Vec<u8>) {
        let header = DatagramHeader {
            kind: DatagramKind::Dtls,
            peer: client.peer.unwrap(),
            remote: client.address,
            len: payload.len() as u16,
        };
        self.input(Input::Datagram { worker: client.worker, header, payload });
    }

    pub fn expire(&mut self, client: &Client) {
        let event = Event::PeerExpired(PeerExpired { peer: client.peer.unwrap() });
        self.input(Input::Report { worker: client.worker, report: Report::Event(event) });
    }

    /// The worker says that an event of silence happened, and remembers it for a description.
    pub fn silence(&mut self, worker: usize, event: Event) {
        self.workers.get_mut(&worker).unwrap().note_silence(&event);
        self.input(Input::Report { worker, report: Report::Event(event) });
    }

    /// Nothing comes of a client's streams any more.
    pub fn streams_silent(&mut self, client: &Client) {
        for stream in self.workers[&client.worker].streams_of(client.peer.unwrap()) {
            self.silence(client.worker, StreamSilent { stream }.into());
        }
    }

    /// Its streams come again.
    pub fn streams_resume(&mut self, client: &Client) {
        for stream in self.workers[&client.worker].streams_of(client.peer.unwrap()) {
            self.silence(client.worker, StreamResumed { stream }.into());
        }
    }

    /// Nothing at all comes from it any more.
    pub fn fall_silent(&mut self, client: &Client) {
        self.streams_silent(client);
        self.silence(client.worker, PeerSilent { peer: client.peer.unwrap() }.into());
    }

    /// The whole way of a browser on the meeting page.
    pub fn join(&mut self, room: &str, name: &str) -> Client {
        let mut client = self.guest(room, grant(name));
        self.offer(&mut client, PAGE, page_tracks()).expect("an answer");
        self.connect(&mut client);
        client
    }
}

pub fn error_of(signal: ServerSignal) -> (ErrorCode, bool) {
    match signal {
        ServerSignal::Error { code, fatal, message } => {
            assert!(!message.is_empty());
            (code, fatal)
        }
        other => panic!("not an error: {other:?}"),
    }
}

pub fn candidate(text: &str, mid: &str) -> ClientSignal {
    ClientSignal::Candidate(Candidate { candidate: text.into(), sdp_mid: Some(mid.into()), ..Candidate::default() })
}

/// Who is carried: (mid, peer, source) of each slot that carries something.
pub fn carried(slots: &[SlotInfo]) -> Vec<(String, String, Source)> {
    slots.iter().filter_map(|slot| Some((slot.mid.clone(), slot.peer.clone()?, slot.source?))).collect()
}

pub fn is_bye(signal: &ServerSignal, reason: LeaveReason, rejoin: bool) -> bool {
    matches!(signal, ServerSignal::Bye { reason: r, rejoin: j } if *r == reason && *j == rejoin)
}

pub fn is_state(signal: &ServerSignal, state: PeerState) -> bool {
    matches!(signal, ServerSignal::State { state: s } if *s == state)
}

pub fn names(peers: &[PeerInfo]) -> Vec<&str> {
    peers.iter().map(|peer| peer.name.as_str()).collect()
}
