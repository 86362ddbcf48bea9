//! The core of the controlplane: signals, reports and punted datagrams in; signals, injected datagrams, journal
//! entries and commands out. It owns every room and every peer.
//!
//! Sans-IO: no socket, no clock, no runtime. A driver calls [`Engine::handle`] with what happened, then takes
//! [`Engine::poll_output`] until it is empty, gives each worker what [`Engine::reconcile`] yields as far as its
//! command ring has space, and calls [`Engine::handle_timeout`] when [`Engine::poll_timeout`] is due.

mod absence;
mod administration;
mod adoption;
mod grants;
mod moving;
mod renegotiation;
mod resource;
mod signalling;
mod transport;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proto::id::{PeerId, StreamId};
use proto::plane::{Command, DatagramHeader, Report};
use proto::signal::{ClientSignal, Kind, LeaveReason, PeerState, ServerSignal};

use crate::dtls::Identity;
use crate::gate::Gate;
use crate::happening::{Door, Happening, Who};
use crate::ids::SlabId;
use crate::journal::Entry;
use crate::peer::Peer;
use crate::placement::{Worker, Workers};
use crate::policy::STREAMS_PER_WORKER_CEILING;
use crate::random::Random;
use crate::reconcile::{Capacity, Plan};
use crate::room::{Member, Room};
use crate::sdp::Fingerprint;
use crate::session::{EndedSessions, SessionHash};
use crate::timers::Timers;

pub use self::administration::{Order, OrderError};
pub use self::resource::{Ask, Denial, Reply};
pub use crate::policy::{Grant, RoomPolicy, Settings};
pub use crate::snapshot::{PeerMeasured, PeerPlaces, PeerSnapshot, RoomSnapshot, Snapshot, Totals, WorkerSnapshot};

/// Names one signalling socket; the driver never uses a number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The link to a worker is up. The engine asks what is installed and adopts what the journal explains. All workers of
    /// a dataplane are linked before any of them is heard: their rooms may have peers on several.
    Linked {
        /// Which worker.
        worker: usize,
        /// Where it is bound: one candidate each, as [`Settings::announced`] says.
        addresses: Vec<SocketAddr>,
        /// What an earlier controlplane left for us: slot and bytes.
        journal: Vec<(u32, Vec<u8>)>,
    },
    /// The dataplane behind a link is gone, and its SRTP state with it.
    Unlinked {
        /// Which worker.
        worker: usize,
    },
    /// A record of the worker's event ring.
    Report {
        /// Which worker.
        worker: usize,
        /// What it says.
        report: Report,
    },
    /// A punted datagram.
    Datagram {
        /// Which worker.
        worker: usize,
        /// From whom.
        header: DatagramHeader,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// A signalling socket was let in.
    SocketOpened {
        /// Its name from now on.
        socket: SocketId,
        /// The room of its address.
        room: String,
        /// What its token allows.
        grant: Grant,
    },
    /// A signal came on a socket.
    Signal {
        /// Which socket.
        socket: SocketId,
        /// What it says.
        signal: ClientSignal,
    },
    /// The client at a socket brought another token, which was checked for its room.
    Granted {
        /// Which socket.
        socket: SocketId,
        /// What the token allows.
        grant: Grant,
    },
    /// What the wall clock says now, since 1970: tokens expire by it. Said again whenever it may matter, as it may be set.
    WallClock(Duration),
    /// A signalling socket closed.
    SocketClosed {
        /// Which socket.
        socket: SocketId,
    },
    /// The worker lost events: read its state anew.
    Resync {
        /// Which worker.
        worker: usize,
    },
    /// How busy a worker's core was lately.
    Busy {
        /// Which worker.
        worker: usize,
        /// Thousandths of the time since it was said last.
        permille: u32,
    },
    /// Other settings for those who come from now on; see [`Settings::reload`].
    Settings(Settings),
    /// The server stops: every socket is told. Media stands, for a successor to adopt.
    Stop,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Send a signal.
    Signal {
        /// On which socket.
        socket: SocketId,
        /// What.
        signal: ServerSignal,
    },
    /// Find out whether anybody is still at a socket, and report it closed if not.
    ProbeSocket {
        /// Which.
        socket: SocketId,
    },
    /// Close a socket once what was sent before is out.
    CloseSocket {
        /// Which.
        socket: SocketId,
    },
    /// Send a datagram to a peer through its worker.
    Inject {
        /// Which worker.
        worker: usize,
        /// To whom; `len` is the payload's.
        header: DatagramHeader,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// Write or clear (`None`) a slot of the worker's journal.
    Journal {
        /// Which worker.
        worker: usize,
        /// Which slot.
        slot: u32,
        /// What a successor needs to adopt the peer. No keys.
        bytes: Option<Vec<u8>>,
    },
    /// Tell the operator.
    Happened(Box<Happening>),
}

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

/// Who sits at a socket.
enum Seat {
    /// Somebody who was let in and has not offered yet.
    Guest(Guest),
    /// A peer.
    Peer(Handle),
}

/// A peer to be: what `welcome` said.
#[derive(Clone)]
struct Guest {
    room: String,
    grant: Grant,
    session: SessionHash,
    id: String,
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
    rooms: BTreeMap<String, Room>,
    /// Of the rooms that an operator made; a room without one is as the settings say.
    policies: BTreeMap<String, RoomPolicy>,
    peers: BTreeMap<Handle, Peer>,
    sessions: BTreeMap<SessionHash, Handle>,
    /// Resources whose peer has ended.
    ended: EndedSessions,
    sockets: BTreeMap<SocketId, Seat>,
    gate: Gate<Handle>,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    totals: Totals,
    /// When the latest input came.
    now: Option<Instant>,
    /// What the wall clock said, and when.
    wall_clock: Option<(Instant, Duration)>,
    is_stopping: bool,
}

impl Engine {
    /// An engine without links. All its randomness comes from `seed`, which is as secret as the sessions and passwords
    /// drawn from it, and must never be used twice.
    pub fn new(settings: Settings, identity: Identity, seed: [u8; 32]) -> Self {
        let settings = settings.clamped();
        Self {
            gate: Gate::new(settings.half_open_max, settings.handshakes_per_second),
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
            sockets: BTreeMap::new(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            totals: Totals::default(),
            now: None,
            wall_clock: None,
            is_stopping: false,
        }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.now = Some(now);
        match input {
            Input::Linked { worker, addresses, journal } => self.linked(worker, &addresses, journal),
            Input::Unlinked { worker } => self.unlinked(worker),
            Input::Report { worker, report } => self.report(now, worker, report),
            Input::Datagram { worker, header, payload } => self.datagram(now, worker, &header, &payload),
            Input::SocketOpened { socket, room, grant } => self.socket_opened(now, socket, room, grant),
            Input::Signal { socket, signal } => self.signal(now, socket, signal),
            Input::Granted { socket, grant } => self.granted(now, socket, grant),
            Input::WallClock(since_epoch) => self.set_wall_clock(now, since_epoch),
            Input::SocketClosed { socket } => self.socket_closed(now, socket),
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
            Input::Settings(settings) => {
                self.settings.reload(settings);
                self.gate.set_limits(self.settings.half_open_max, self.settings.handshakes_per_second);
                self.watch_tokens(now);
            }
            Input::Stop => self.stop(now),
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
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
            }
        }
    }

    /// Commands that bring `worker` closer to what is desired: at most `space`, the last of them a Commit. All of
    /// them must be pushed, in order. Yields nothing when nothing is to be done, or when `space` is below two.
    ///
    /// Commands may hold SRTP keys, and they hold them once: what is lost here cannot be asked for again.
    pub fn reconcile(&mut self, worker: usize, space: usize, out: &mut Vec<Command>) {
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

    /// Rooms, peers and totals as they are now, for REST and metrics.
    pub fn snapshot(&self) -> Snapshot {
        let workers = self.workers.iter().map(|(&index, worker)| WorkerSnapshot {
            worker: index,
            is_ready: worker.is_ready(),
            peers: worker.plan.peer_count(),
            busy_permille: worker.busy,
            pending: worker.plan.pending(),
        });
        let rooms = self.rooms.iter().map(|(name, room)| RoomSnapshot {
            room: name.clone(),
            workers: room.workers().into_keys().collect(),
            codecs: room.codecs(),
            peers: room.members().iter().filter_map(|member| self.peer_snapshot(member)).collect(),
        });
        Snapshot {
            workers: workers.collect(),
            rooms: rooms.collect(),
            policies: self.policies.clone(),
            peers_max: self.settings.peers_max,
            client_bps_max: self.settings.client_bps_max,
            codecs: self.settings.codecs,
            sockets: self.sockets.len(),
            half_open: self.gate.half_open(),
            totals: self.totals,
        }
    }

    /// Who is in a room and where on their workers, in the order of joining.
    pub fn places(&self, room: &str) -> Option<Vec<PeerPlaces>> {
        let room = self.rooms.get(room)?;
        let places = room.members().iter().filter_map(|member| {
            let slots = member.slots.iter().filter(|slot| slot.carries.is_some());
            Some(PeerPlaces {
                worker: member.peer.worker(),
                peer: self.peer_snapshot(member)?,
                streams: member.published().map(|track| track.stream).collect(),
                slots: slots.map(|slot| (slot.slot, room.slot_info(slot))).collect(),
            })
        });
        Some(places.collect())
    }

    fn peer_snapshot(&self, member: &Member) -> Option<PeerSnapshot> {
        let peer = self.peers.get(&Handle::of(member.peer))?;
        let plan = &self.workers.get(&member.peer.worker())?.plan;
        let is_interrupted = peer.transport.is_connected() && plan.is_peer_silent(member.peer);
        Some(PeerSnapshot {
            info: member.info(),
            state: if is_interrupted { PeerState::Interrupted } else { peer.transport.state() },
            silent_tracks: member.published().map(|t| t.is_active && plan.is_stream_silent(t.stream)).collect(),
            has_socket: peer.socket.is_some(),
            slots: member.slots.len(),
            slots_used: member.slots.iter().filter(|slot| slot.carries.is_some()).count(),
        })
    }

    /// A link came up, perhaps to a worker that we believed linked.
    fn linked(&mut self, index: usize, addresses: &[SocketAddr], journal: Vec<(u32, Vec<u8>)>) {
        self.unlinked(index);
        let peers = self.settings.peers_per_worker_max;
        // As many again as its peers may send, for what other workers hand on to it.
        let streams = (2 * peers * self.settings.tracks_max).min(STREAMS_PER_WORKER_CEILING);
        let capacity = Capacity { peers, streams, slots: peers * self.settings.slots_max };
        let mut plan = Plan::new(index, capacity, self.random.nonzero_u32());
        plan.link();
        let addresses: Vec<SocketAddr> = addresses.iter().map(|&bound| self.settings.announced(bound)).collect();
        self.workers.insert(index, Worker::new(plan, &addresses, journal));
    }

    /// The worker is gone. So are the SRTP indices of its peers, and without them their keys must not be used again
    /// (RFC 3711 §9.1): they have to come anew.
    fn unlinked(&mut self, index: usize) {
        if self.workers.remove(&index).is_none() {
            return;
        }
        let reason = LeaveReason::MediaRestarted;
        let mut lost: Vec<(String, Member)> = Vec::new();
        for (name, room) in &mut self.rooms {
            let members = room.lose_worker(index, &mut self.workers).into_iter();
            lost.extend(members.map(|member| (name.clone(), member)));
        }
        self.rooms.retain(|_, room| !room.members().is_empty());
        let handles: Vec<Handle> = self.peers.keys().filter(|handle| handle.worker == index).copied().collect();
        for (_, member) in &lost {
            if let Some(peer) = self.forget(Handle::of(member.peer), reason, true) {
                self.has_left(&peer, member, reason, None);
            }
        }
        for handle in handles {
            self.forget(handle, reason, true);
        }
        for (room, Member { id: peer, .. }) in lost {
            for other in self.members_of(&room) {
                self.tell(other, ServerSignal::PeerLeft { peer: peer.clone(), reason });
            }
            self.settle(&room);
            self.tell_limits(&room);
        }
    }

    /// Every socket is told to come back; media stands, for a successor to adopt.
    fn stop(&mut self, now: Instant) {
        self.is_stopping = true;
        let sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        for socket in sockets {
            self.send(socket, ServerSignal::Bye { reason: LeaveReason::ServerStopping, rejoin: true });
            self.outputs.push_back(Output::CloseSocket { socket });
            self.socket_closed(now, socket);
        }
    }

    /// Ends a peer: tells it, frees what it holds, and tells the others.
    fn end_peer(&mut self, handle: Handle, reason: LeaveReason, rejoin: bool) {
        self.end_peer_because(handle, reason, rejoin, None);
    }

    /// The same, with more words on why for the operator.
    fn end_peer_because(&mut self, handle: Handle, reason: LeaveReason, rejoin: bool, detail: Option<String>) {
        let Some(peer) = self.forget(handle, reason, rejoin) else { return };
        if peer.transport.is_connected() {
            self.write_journal(handle, None);
        }
        let Some(room) = self.rooms.get_mut(&peer.room) else { return };
        let Some(member) = room.leave(handle.peer, &mut self.workers) else { return };
        let is_empty = room.members().is_empty();
        self.has_left(&peer, &member, reason, detail);
        if is_empty {
            if let Some(room) = self.rooms.remove(&peer.room) {
                room.close(&mut self.workers);
            }
            return;
        }
        self.tell_left(&peer.room, &member.id, reason);
    }

    fn happened(&mut self, happening: Happening) {
        self.outputs.push_back(Output::Happened(Box::new(happening)));
    }

    /// A peer as the operator's log names it.
    fn who(&self, handle: Handle) -> Option<Who> {
        let peer = self.peers.get(&handle)?;
        let member = self.rooms.get(&peer.room)?.member(handle.peer)?;
        Some(Who { room: peer.room.clone(), peer: member.id.clone(), name: member.name.clone() })
    }

    fn has_joined(&mut self, handle: Handle, door: Door) {
        let (Some(who), Some(room)) = (self.who(handle), self.room_of(handle)) else { return };
        let Some(member) = room.member(handle.peer) else { return };
        let has_video = member.has_video() || member.slots.iter().any(|slot| slot.kind == Kind::Video);
        let joined = Happening::Joined {
            who,
            door,
            worker: handle.worker,
            codec: has_video.then(|| room.video()),
            may_publish: member.may_publish,
            may_subscribe: member.may_subscribe,
        };
        self.happened(joined);
    }

    fn has_left(&mut self, peer: &Peer, member: &Member, reason: LeaveReason, detail: Option<String>) {
        let who = Who { room: peer.room.clone(), peer: member.id.clone(), name: member.name.clone() };
        self.happened(Happening::Left { who, reason, detail, stayed: self.time_since(peer.since) });
    }

    fn time_since(&self, since: Option<Instant>) -> Duration {
        self.now.zip(since).map_or(Duration::ZERO, |(now, since)| now.saturating_duration_since(since))
    }

    /// Those who stay in a room learn who is gone, and share what that frees.
    fn tell_left(&mut self, room: &str, peer: &str, reason: LeaveReason) {
        for other in self.members_of(room) {
            self.tell(other, ServerSignal::PeerLeft { peer: peer.to_owned(), reason });
        }
        self.settle(room);
        self.tell_limits(room);
    }

    /// Says goodbye to a peer and drops what is known of how to reach it.
    fn forget(&mut self, handle: Handle, reason: LeaveReason, rejoin: bool) -> Option<Peer> {
        let peer = self.peers.remove(&handle)?;
        self.sessions.remove(&peer.session);
        if let Some(now) = self.now.filter(|_| peer.is_resource) {
            self.ended.remember(now, peer.session, [&peer.room, &peer.home]);
        }
        self.timers.set(Timer::Peer(handle), None);
        self.timers.set(Timer::Token(handle), None);
        self.gate.ended(handle);
        self.totals.left += 1;
        if let Some(socket) = peer.socket {
            self.send(socket, ServerSignal::Bye { reason, rejoin });
            self.close_socket(socket);
        }
        Some(peer)
    }

    /// Applies the rules of slots and codecs to a room and tells those whom a change concerns. Returns whose slots were
    /// told. Not before everything that is installed is adopted: until then nobody knows what the slots carry.
    fn settle(&mut self, name: &str) -> Vec<PeerId> {
        if !self.is_ready() {
            return Vec::new();
        }
        let Some(room) = self.rooms.get_mut(name) else { return Vec::new() };
        let changed = room.settle(&mut self.workers);
        if room.choose_video() {
            for handle in self.members_of(name) {
                self.tell_codec(handle);
            }
        }
        for &peer in &changed {
            self.tell_slots(Handle::of(peer));
        }
        changed
    }

    /// The same, after a change that matters only where slots are short.
    fn settle_if_short(&mut self, name: &str) {
        if self.rooms.get(name).is_some_and(Room::is_short) {
            self.settle(name);
        }
    }

    fn tell_slots(&mut self, handle: Handle) {
        if let Some(slots) = self.room_of(handle).map(|room| room.slot_infos(handle.peer)) {
            self.tell(handle, ServerSignal::Slots { slots });
        }
    }

    /// Tells a peer that publishes video in which codec.
    fn tell_codec(&mut self, handle: Handle) {
        let Some(room) = self.room_of(handle) else { return };
        if room.member(handle.peer).is_some_and(Member::has_video) {
            let video = room.video();
            self.tell(handle, ServerSignal::Codec { video });
        }
    }

    /// Tells everybody in a room its share of the bandwidth.
    fn tell_limits(&mut self, name: &str) {
        for handle in self.members_of(name) {
            self.tell_limit(handle);
        }
    }

    fn tell_limit(&mut self, handle: Handle) {
        let Some(room) = self.room_of(handle) else { return };
        let Some(member) = room.member(handle.peer) else { return };
        let settings = self.settings_of(&self.peers[&handle].room);
        let live_videos = member.live(Kind::Video);
        let shares =
            settings.shares(room.members().len(), member.live(Kind::Audio), live_videos, member.audio_answered());
        let streams: Vec<StreamId> = member.tracks.iter().map(|track| track.stream).collect();
        if let Some(worker) = self.workers.get_mut(&handle.worker) {
            // Who heeds no signal is told by its transport.
            worker.plan.limit(handle.peer, streams.into_iter(), shares.video.saturating_mul(live_videos.max(1) as u32));
        }
        self.tell(
            handle,
            ServerSignal::Limits {
                send_bps_max: shares.send,
                video_bps_max: shares.video,
                audio_bps_max: shares.audio,
            },
        );
    }

    /// Writes what a successor needs of a connected peer.
    fn journal(&mut self, handle: Handle) {
        let Some(peer) = self.peers.get(&handle).filter(|peer| peer.transport.is_connected()) else { return };
        let Some(member) = self.rooms.get(&peer.room).and_then(|room| room.member(handle.peer)) else { return };
        let entry = Entry {
            peer: handle.peer,
            room: peer.room.clone(),
            id: member.id.clone(),
            grant: peer.grant.clone(),
            session: peer.session,
            tracks: member.tracks.clone(),
            slots: member.slots.clone(),
            from: member.from.clone(),
            hears: member.hears,
            is_resource: peer.is_resource,
            home: (peer.home != peer.room).then(|| peer.home.clone()),
            terms: peer.terms.clone(),
        };
        self.write_journal(handle, Some(entry.write()));
    }

    fn write_journal(&mut self, handle: Handle, bytes: Option<Vec<u8>>) {
        self.outputs.push_back(Output::Journal { worker: handle.worker, slot: handle.peer.index, bytes });
    }

    fn room_of(&self, handle: Handle) -> Option<&Room> {
        self.rooms.get(&self.peers.get(&handle)?.room)
    }

    fn members_of(&self, name: &str) -> Vec<Handle> {
        let Some(room) = self.rooms.get(name) else { return Vec::new() };
        room.members().iter().map(|member| Handle::of(member.peer)).collect()
    }

    /// Sends a signal to a peer, if it has a socket now. What it misses it gets whole when it resumes.
    fn tell(&mut self, handle: Handle, signal: ServerSignal) {
        if let Some(socket) = self.peers.get(&handle).and_then(|peer| peer.socket) {
            self.send(socket, signal);
        }
    }

    fn send(&mut self, socket: SocketId, signal: ServerSignal) {
        self.outputs.push_back(Output::Signal { socket, signal });
    }

    fn close_socket(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
        self.timers.set(Timer::Guest(socket), None);
        self.outputs.push_back(Output::CloseSocket { socket });
    }
}
