//! The core of the controlplane: signals, requests, reports and punted datagrams in; signals, replies, injected datagrams,
//! journal entries and commands out. It owns every room and every peer.
//!
//! Sans-IO: no socket, no clock, no runtime. A driver calls [`Engine::handle`] with what happened, then takes
//! [`Engine::poll_output`] until it is empty, gives each worker what [`Engine::reconcile`] yields as far as its
//! command ring has space, and calls [`Engine::handle_timeout`] when [`Engine::poll_timeout`] is due.
//!
//! An input changes rooms and peers and notes which; at its end `settle` assigns slots, has them carried
//! (`wiring`) and tells clients what they do not know yet (`view`).

mod absence;
mod adopt;
mod data;
mod describe;
mod edges;
mod end;
mod grants;
mod input;
mod join;
mod move_peer;
mod operator;
mod quality;
mod renegotiate;
mod resource;
mod resume;
mod settle;
mod signal;
mod sockets;
mod transport;
mod voices;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::id::PeerId;
use proto::link::{Addresses, SLOT_TALLIES_MAX};
use proto::plane::Command;
use proto::signal::{Kind, ServerSignal};

use self::edges::{Edges, Remote};
use self::settle::Changes;
use self::sockets::Sockets;
use crate::bucket::TokenBucket;
use crate::data::DATA_TOTAL;
use crate::dtls::Identity;
use crate::gate::Gate;
use crate::happening::{Access, Happening, Who};
use crate::ids::SlabId;
use crate::journal::Entry;
use crate::member::Member;
use crate::peer::Peer;
use crate::placement::{Worker, Workers};
use crate::policy::{FURTHER_STREAMS_MAX, PEERS_PER_WORKER_CEILING, STREAMS_PER_WORKER_CEILING};
use crate::random::Random;
use crate::reconcile::{Capacity, Plan};
use crate::room::Room;
use crate::sdp::Fingerprint;
use crate::session::{EndedSessions, SessionHash};
use crate::speakers::Speakers;
use crate::timers::Timers;
use crate::view::Roster;
use crate::wiring::Wiring;

pub use self::input::{Input, Output, Reply, RequestId};
pub use self::operator::{OperatorError, OperatorRequest};
pub use self::resource::{ResourceError, ResourceReply, ResourceRequest};
pub use crate::ids::SocketId;
pub use crate::policy::{Grant, RoomPolicy, Settings};
pub use crate::snapshot::{
    EdgePath, LinkIds, PeerIds, PeerMeasured, PeerSnapshot, RoomSnapshot, Snapshot, Totals, WorkerSnapshot,
};

/// A peer among all workers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Handle {
    worker: usize,
    peer: PeerId,
}

impl Handle {
    /// Ids say on which worker they are.
    fn of(peer: PeerId) -> Handle {
        Handle { worker: peer.worker(), peer }
    }
}

/// A room, what workers carry for it, and what its clients were told of who is in it.
struct Hosted {
    room: Room,
    wiring: Wiring,
    roster: Roster,
    speakers: Speakers,
    /// When to look at who speaks.
    voices_due: Option<Instant>,
    /// What other edges have to do with it.
    remote: Remote,
}

/// What waits for a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A guest, for its offer.
    Guest(SocketId),
    /// A peer's transport.
    Peer(Handle),
    /// A peer's token, which expires.
    Token(Handle),
    /// Rooms in which somebody speaks.
    Voices,
    /// Rooms that other edges have, too.
    Remote,
    /// Offers that wait for a seat.
    Seats,
}

/// A timer that is due again at once waits this long all the same, so that no mistake becomes a busy loop.
const TIMER_MIN: Duration = Duration::from_millis(1);

/// Rooms and peers of this edge.
pub struct Engine {
    settings: Settings,
    identity: Identity,
    fingerprint: Fingerprint,
    random: Random,
    workers: Workers,
    /// None is empty.
    rooms: BTreeMap<String, Hosted>,
    /// Of the rooms that an operator made; a room without one is as the settings say.
    policies: BTreeMap<String, RoomPolicy>,
    peers: BTreeMap<Handle, Peer>,
    sessions: BTreeMap<SessionHash, Handle>,
    /// Resources whose peer has ended.
    ended: EndedSessions,
    sockets: Sockets,
    edges: Edges,
    gate: Gate<Handle>,
    /// When the log was last told of a room that has its part of the handshakes.
    over_share_told: Option<Instant>,
    timers: Timers<Timer>,
    /// Peers whose messages wait until a receiver has room for them.
    paused: BTreeSet<Handle>,
    /// The number of the last message of the application's server.
    numbered: u64,
    /// What all peers together may send of data.
    data_credit: TokenBucket,
    changes: Changes,
    outputs: VecDeque<Output>,
    totals: Totals,
    /// When the latest input came.
    now: Option<Instant>,
    /// What the wall clock said, and when.
    wall_clock: Option<(Instant, Duration)>,
    is_stopping: bool,
}

/// Parts of the seed that name cells of a table, which is nothing that anybody is told.
fn halves(seed: &[u8; 32]) -> [u64; 2] {
    [0, 8].map(|at| u64::from_le_bytes(std::array::from_fn(|n| seed[at + n])))
}

impl Engine {
    /// An engine without links. All its randomness comes from `seed`, which is as secret as the sessions and passwords
    /// drawn from it, and must never be used twice.
    pub fn new(settings: Settings, identity: Identity, seed: [u8; 32]) -> Self {
        let settings = settings.clamped();
        Self {
            gate: Gate::new(settings.half_open_max, settings.handshakes_per_second, halves(&seed)),
            fingerprint: Fingerprint::sha256(identity.fingerprint_sha256()),
            settings,
            identity,
            random: Random::new(&seed),
            workers: Workers::new(),
            rooms: BTreeMap::new(),
            policies: BTreeMap::new(),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ended: EndedSessions::default(),
            sockets: Sockets::default(),
            edges: Edges::default(),
            over_share_told: None,
            timers: Timers::new(),
            paused: BTreeSet::new(),
            numbered: 0,
            data_credit: TokenBucket::per_second(DATA_TOTAL),
            changes: Changes::default(),
            outputs: VecDeque::new(),
            totals: Totals::default(),
            now: None,
            wall_clock: None,
            is_stopping: false,
        }
    }

    /// The policies that an earlier controlplane was given. Before the first link, so that who is adopted has them.
    pub fn restore(&mut self, policies: BTreeMap<String, RoomPolicy>) {
        self.policies = policies;
    }

    /// Handles what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = Some(now);
        match input {
            Input::Linked { worker, addresses, journal } => self.linked(worker, addresses, journal),
            Input::Unlinked { worker } => self.unlinked(worker),
            Input::Report { worker, report } => self.report(now, worker, report),
            Input::Datagram { worker, header, payload } => self.datagram(now, worker, &header, &payload),
            Input::SocketOpened { socket, room, grant } => self.socket_opened(now, socket, room, grant),
            Input::Signal { socket, signal } => self.signal(now, socket, signal),
            Input::Granted { socket, grant } => self.granted(now, socket, grant),
            Input::SocketClosed { socket } => self.socket_closed(now, socket),
            Input::Resource { id, request } => {
                let reply = Reply::Resource(self.resource_request(now, request));
                self.outputs.push_back(Output::Reply { id, reply });
            }
            Input::Operator { id, request } => {
                let reply = Reply::Operator(self.operator_request(request));
                self.outputs.push_back(Output::Reply { id, reply });
            }
            Input::WallClock(since_epoch) => self.wall_clock = Some((now, since_epoch)),
            Input::Resync { worker } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.plan.resync();
                }
            }
            Input::Busy { worker, permille } => {
                if let Some(worker) = self.workers.get_mut(&worker) {
                    worker.was_busy(permille);
                }
            }
            Input::Links(links) => self.links_reported(&links),
            Input::Settings(settings) => {
                self.settings.reload(*settings);
                self.gate.set_limits(self.settings.half_open_max, self.settings.handshakes_per_second);
                self.watch_tokens(now);
            }
            Input::Cluster(news) => self.cluster(now, news),
            Input::Stop => self.stop(now),
        }
    }

    /// The next thing to do, in order. What all inputs since the last call have changed is settled first, once.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.settle();
        self.outputs.pop_front()
    }

    /// When to call [`Engine::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = Some(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Guest(socket) => self.guest_timed_out(socket),
                Timer::Peer(handle) => self.peer_due(now, handle),
                Timer::Token(handle) => self.token_due(now, handle),
                Timer::Voices => self.voices_due(now),
                Timer::Remote => self.look_remote(now),
                Timer::Seats => self.seats_due(now),
            }
        }
    }

    /// Commands that bring `worker` closer to what is desired: at most `space`, the last of them a Commit. All of
    /// them must be pushed, in order. Yields nothing when nothing is to be done, or when `space` is below two.
    ///
    /// Commands may hold SRTP keys, and they hold them once: what is lost here cannot be asked for again.
    pub fn reconcile(&mut self, worker: usize, space: usize, out: &mut Vec<Command>) {
        self.settle();
        let is_ready = self.is_ready();
        // What one worker has is explained by what the others have: until they all have said it, they are only asked.
        if let Some(worker) = self.workers.get_mut(&worker).filter(|worker| is_ready || !worker.plan.is_known()) {
            worker.plan.reconcile(space, out);
        }
    }

    /// Whether a dataplane is linked and joins can be served.
    pub fn is_ready(&self) -> bool {
        !self.workers.is_empty() && self.workers.values().all(Worker::is_ready)
    }

    /// A link came up, perhaps to a worker that we believed linked.
    fn linked(&mut self, index: usize, bound: Addresses, journal: Vec<(u32, Vec<u8>)>) {
        self.unlinked(index);
        let peers = self.settings.peers_per_worker_max;
        // As many again as its peers may send, for what other workers hand on to it.
        let of_peer = self.settings.tracks_max + FURTHER_STREAMS_MAX;
        let streams = (2 * peers * of_peer).min(STREAMS_PER_WORKER_CEILING);
        // In a cluster as many again, for what crosses to other edges and from them.
        let remote = if self.is_node() { peers.min(PEERS_PER_WORKER_CEILING.saturating_sub(peers)) } else { 0 };
        let slots = (peers * self.settings.slots_max + remote * of_peer).min(SLOT_TALLIES_MAX);
        let capacity = Capacity { peers, remote, streams, slots };
        let mut plan = Plan::new(index, capacity, self.random.nonzero_u32());
        plan.link();
        let announced =
            |bound: Vec<SocketAddr>| bound.into_iter().map(|bound| self.settings.announced(bound)).collect();
        let mut tcp: Vec<SocketAddr> = announced(bound.tcp);
        // A worker that accepts no connections takes none over.
        if !tcp.is_empty() {
            tcp.extend(announced(self.settings.ice_tcp.clone()));
        }
        let addresses = Addresses { udp: announced(bound.udp), tcp };
        self.workers.insert(index, Worker::new(plan, &addresses, journal));
    }

    fn happened(&mut self, happening: Happening) {
        self.outputs.push_back(Output::Happened(Box::new(happening)));
    }

    /// A peer as the operator's log names it.
    fn who(&self, handle: Handle) -> Option<Who> {
        let peer = self.peers.get(&handle)?;
        let member = self.room(&peer.room)?.member(handle.peer)?;
        Some(Who { room: peer.room.clone(), peer: member.id.clone(), name: member.grant.name.clone() })
    }

    fn has_joined(&mut self, handle: Handle, access: Access) {
        let (Some(who), Some(room)) = (self.who(handle), self.room_of(handle)) else { return };
        let Some(member) = room.member(handle.peer) else { return };
        let has_video = member.has_video() || member.slots.iter().any(|slot| slot.kind == Kind::Video);
        let joined = Happening::Joined {
            who,
            access,
            worker: handle.worker,
            codec: has_video.then(|| room.video()),
            may_publish: member.grant.publish,
            may_subscribe: member.grant.subscribe,
        };
        self.happened(joined);
    }

    fn time_since(&self, since: Option<Instant>) -> Duration {
        self.now.zip(since).map_or(Duration::ZERO, |(now, since)| now.saturating_duration_since(since))
    }

    /// What holds in a room.
    fn settings_of(&self, room: &str) -> Settings {
        match self.policies.get(room) {
            Some(policy) => self.settings.under(policy),
            None => self.settings.clone(),
        }
    }

    /// Writes what a successor needs of a connected peer.
    fn journal(&mut self, handle: Handle) {
        let Some(peer) = self.peers.get(&handle).filter(|peer| peer.transport.is_connected()) else { return };
        let Some(member) = self.room(&peer.room).and_then(|room| room.member(handle.peer)) else { return };
        let entry = Entry {
            peer: handle.peer,
            room: peer.room.clone(),
            id: member.id.clone(),
            grant: member.grant.clone(),
            session: peer.session,
            tracks: member.tracks.clone(),
            slots: member.slots.clone(),
            from: member.from.clone(),
            hears: member.hears,
            is_resource: peer.is_resource,
            home: (peer.home != peer.room).then(|| peer.home.clone()),
            negotiated: peer.negotiated.clone(),
        };
        self.write_journal(handle, Some(entry.write()));
    }

    fn write_journal(&mut self, handle: Handle, bytes: Option<Vec<u8>>) {
        self.outputs.push_back(Output::Journal { worker: handle.worker, slot: handle.peer.index, bytes });
    }

    /// A room with somebody in it.
    fn room(&self, name: &str) -> Option<&Room> {
        self.rooms.get(name).map(|hosted| &hosted.room)
    }

    fn room_of(&self, handle: Handle) -> Option<&Room> {
        self.room(&self.peers.get(&handle)?.room)
    }

    /// A peer as its room has it.
    fn member(&self, handle: Handle) -> Option<&Member> {
        self.room_of(handle)?.member(handle.peer)
    }

    fn member_mut(&mut self, handle: Handle) -> Option<&mut Member> {
        let peer = self.peers.get(&handle)?;
        self.rooms.get_mut(&peer.room)?.room.member_mut(handle.peer)
    }

    fn members_of(&self, name: &str) -> Vec<Handle> {
        let Some(room) = self.room(name) else { return Vec::new() };
        room.members().iter().map(|member| Handle::of(member.peer)).collect()
    }

    /// Sends a signal to a peer, if it has a socket now. For answers and events: what a client should know is told by
    /// [`settle`].
    fn tell(&mut self, handle: Handle, signal: ServerSignal) {
        if let Some(socket) = self.sockets.of(handle) {
            self.send(socket, signal);
        }
    }

    fn send(&mut self, socket: SocketId, signal: ServerSignal) {
        self.outputs.push_back(Output::Signal { socket, signal });
    }

    fn close_socket(&mut self, socket: SocketId) {
        self.sockets.close(socket);
        self.timers.set(Timer::Guest(socket), None);
        self.outputs.push_back(Output::CloseSocket { socket });
    }
}
