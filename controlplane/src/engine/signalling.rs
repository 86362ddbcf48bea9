//! What clients say, and how they are answered.

use std::time::Instant;

use proto::signal::{Candidate, ClientSignal, ErrorCode, LeaveReason, ServerSignal, TrackDescription};

use super::{Denial, Engine, Guest, Handle, Seat, SocketId, Timer};
use crate::happening::{Door, Happening};
use crate::negotiation::{Before, Negotiation, Ours, Refusal};
use crate::peer::Peer;
use crate::placement;
use crate::policy::{Grant, ROOM_CHARS_MAX};
use crate::room::{Member, Room};
use crate::session::{SESSION_RANDOM_LEN, SessionHash};

/// A peer that is opened on its worker and to be taken in.
pub(super) struct Admitted {
    pub(super) handle: Handle,
    pub(super) peer: Peer,
    pub(super) member: Member,
    /// The answer.
    pub(super) sdp: String,
    candidates: Vec<String>,
    /// Index and name of the first m-section that is served.
    first_served: (usize, String),
}

impl Engine {
    /// A socket was let in: its bearer learns who it would be.
    pub(super) fn socket_opened(&mut self, now: Instant, socket: SocketId, room: String, grant: Grant) {
        if self.is_stopping {
            self.send(socket, ServerSignal::Bye { reason: LeaveReason::ServerStopping, rejoin: true });
            return self.close_socket(socket);
        }
        if self.sockets.len() >= self.settings.sockets_max {
            let refusal = Refusal::new(ErrorCode::ServerFull, "the server has its limit of sockets");
            return self.turn_away(socket, (room, grant.name), refusal);
        }
        if !grant.admits(&room) || room.len() > ROOM_CHARS_MAX {
            let refusal = Refusal::new(ErrorCode::Forbidden, "the token is not for this room");
            return self.turn_away(socket, (room, grant.name), refusal);
        }
        let grant = grant.with_plain_name();
        let session = self.random.hex::<SESSION_RANDOM_LEN>();
        let guest = Guest { room, grant, session: SessionHash::of(&session), id: self.random.hex::<6>() };
        self.welcome(socket, session, guest.id.clone(), guest.room.clone(), &guest.grant, None);
        self.timers.set(Timer::Guest(socket), Some(now + self.settings.offer_timeout));
        self.sockets.insert(socket, Seat::Guest(guest));
    }

    /// Greets who is at a socket. `resumed`: a peer that was taken back, with its sections that an operator has muted.
    fn welcome(
        &mut self,
        socket: SocketId,
        session: String,
        peer: String,
        room: String,
        grant: &Grant,
        resumed: Option<Vec<String>>,
    ) {
        let settings = self.settings_of(&room);
        let codecs = self.codecs_of(&room).into();
        let welcome = ServerSignal::Welcome {
            session,
            peer,
            room,
            name: grant.name.clone(),
            may_publish: grant.publish,
            may_subscribe: grant.subscribe,
            peers_max: settings.peers_max,
            slots: settings.slots(),
            codecs,
            stun: settings.stun,
            resumed: resumed.is_some(),
            muted: resumed.unwrap_or_default(),
        };
        self.send(socket, welcome);
    }

    /// A socket is gone. A guest goes with it; a peer stays while its media lives, and may come back by its session.
    pub(super) fn socket_closed(&mut self, now: Instant, socket: SocketId) {
        self.timers.set(Timer::Guest(socket), None);
        if let Some(Seat::Peer(handle)) = self.sockets.remove(&socket) {
            self.set_socket(now, handle, None);
        }
    }

    /// A guest neither offered nor resumed in time.
    pub(super) fn guest_timed_out(&mut self, socket: SocketId) {
        if let Some(Seat::Guest(guest)) = self.sockets.get(&socket) {
            let (room, name) = (guest.room.clone(), guest.grant.name.clone());
            let (code, message) = (ErrorCode::NotJoined, "neither an offer nor a session came in time".to_owned());
            self.happened(Happening::Refused { room, name, code, message });
            self.send(socket, ServerSignal::Bye { reason: LeaveReason::TimedOut, rejoin: true });
            self.close_socket(socket);
        }
    }

    /// A signal of a client.
    pub(super) fn signal(&mut self, now: Instant, socket: SocketId, signal: ClientSignal) {
        let Some(seat) = self.sockets.get(&socket) else { return };
        match (seat, signal) {
            // The door takes them: it alone can read a token, and a lite agent has no use for candidates.
            (_, ClientSignal::Token { .. } | ClientSignal::Candidate(_) | ClientSignal::Candidates { .. }) => {}
            (_, ClientSignal::Ping {}) => self.send(socket, ServerSignal::Pong {}),
            (Seat::Guest(guest), ClientSignal::Offer { sdp, tracks }) => {
                let guest = guest.clone();
                let asked = (guest.room.clone(), guest.grant.name.clone());
                if let Err(refusal) = self.offer(now, socket, guest, &sdp, &tracks) {
                    self.totals.offers_refused += 1;
                    self.turn_away(socket, asked, refusal);
                }
            }
            (Seat::Guest(guest), ClientSignal::Resume { session }) => {
                let (room, grant) = (guest.room.clone(), guest.grant.clone());
                if let Err(refusal) = self.resume(now, socket, &room, grant, session) {
                    let fatal = refusal.code == ErrorCode::NoDataplane;
                    self.refuse(socket, refusal, fatal);
                }
            }
            (Seat::Guest(_), ClientSignal::Leave {}) => self.close_socket(socket),
            (Seat::Guest(_), ClientSignal::Track { .. }) => {
                self.refuse(socket, Refusal::new(ErrorCode::NotJoined, "an offer must come first"), false);
            }
            (&Seat::Peer(handle), ClientSignal::Offer { sdp, tracks }) => {
                if let Err(refusal) = self.offer_again(handle, &sdp, &tracks) {
                    self.totals.offers_refused += 1;
                    self.refuse(socket, refusal, false);
                }
            }
            (Seat::Peer(_), ClientSignal::Resume { .. }) => {
                self.refuse(socket, Refusal::new(ErrorCode::AlreadyJoined, "this socket has its peer"), false);
            }
            (&Seat::Peer(handle), ClientSignal::Track { mid, active }) => {
                if let Err(refusal) = self.track(handle, &mid, active) {
                    self.refuse(socket, refusal, false);
                }
            }
            (&Seat::Peer(handle), ClientSignal::Leave {}) => self.end_peer(handle, LeaveReason::Left, false),
        }
    }

    /// Says why not; a fatal refusal closes the socket.
    pub(super) fn refuse(&mut self, socket: SocketId, refusal: Refusal, fatal: bool) {
        self.send(socket, ServerSignal::Error { code: refusal.code, message: refusal.message, fatal });
        if fatal {
            self.close_socket(socket);
        }
    }

    /// Says why somebody cannot join, to him and to the operator, and closes the socket.
    fn turn_away(&mut self, socket: SocketId, (room, name): (String, String), refusal: Refusal) {
        let Refusal { code, message } = refusal.clone();
        self.happened(Happening::Refused { room, name, code, message });
        self.refuse(socket, refusal, true);
    }

    /// The first offer of a peer: it joins, or is told why not.
    fn offer(
        &mut self,
        now: Instant,
        socket: SocketId,
        guest: Guest,
        sdp: &str,
        tracks: &[TrackDescription],
    ) -> Result<(), Refusal> {
        let room = guest.room.clone();
        let grant = guest.grant.clone();
        let read = |engine: &Engine| {
            let codecs = engine.codecs_of(&room);
            Negotiation::read(sdp, tracks, &grant, &engine.settings, codecs, Before::default())
        };
        let mut negotiation = read(self);
        if let Ok(newcomer) = &negotiation
            && self.make_way(&room, &grant, newcomer.needs())
        {
            negotiation = read(self); // The room's codecs may be others now.
        }
        let mut admitted = self.admit(now, guest, negotiation)?;
        admitted.member.has_socket = true;
        let handle = admitted.handle;
        self.seat(now, socket, handle, admitted.peer);
        self.send(socket, ServerSignal::Answer { sdp: admitted.sdp });
        let (index, mid) = &admitted.first_served;
        self.trickle(socket, &admitted.candidates, (*index, mid));
        self.join(handle, &room, admitted.member);
        self.has_joined(handle, Door::Socket);
        Ok(())
    }

    /// Opens on a worker what an offer asks for. The peer is nobody's yet.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        guest: Guest,
        negotiation: Result<Negotiation, Refusal>,
    ) -> Result<Admitted, Refusal> {
        let index = self.worker_for(&guest.room)?;
        let mut negotiation = negotiation?;
        let room = self.rooms.get(&guest.room);
        negotiation.tune(&room.map(|room| room.listeners(&guest.grant.name, &guest.id)).unwrap_or_default());
        let Some(worker) = self.workers.get_mut(&index) else { return Err(no_dataplane()) };
        if !worker.plan.has_room(negotiation.stream_count(), negotiation.slot_count()) {
            return Err(Refusal::new(ErrorCode::ServerFull, "the server has its limit of peers"));
        }
        let peer = worker.plan.issue_peer().expect("a plan that has room issues a peer");
        let ours = Ours { fingerprint: &self.fingerprint, candidates: &worker.candidates };
        let opened = negotiation.open(peer, &ours, Before::default(), &mut worker.plan, &mut self.random);
        let deadline = now + self.settings.handshake_timeout;
        let (at, mid) = negotiation.first_served();
        self.totals.joined += 1;
        Ok(Admitted {
            handle: Handle { worker: index, peer },
            candidates: worker.candidates.clone(),
            first_served: (at, mid.to_owned()),
            peer: Peer::answered(&guest.room, &guest.grant, guest.session, negotiation.offer(), opened.terms, deadline),
            member: Member {
                peer,
                id: guest.id,
                may_publish: guest.grant.publish,
                may_subscribe: guest.grant.subscribe,
                name: guest.grant.name,
                tracks: opened.tracks,
                slots: opened.slots,
                hears: opened.hears,
                is_connected: false,
                has_socket: false,
                from: Vec::new(),
            },
            sdp: opened.sdp,
        })
    }

    /// Takes a new peer in and seats it at its socket.
    fn seat(&mut self, now: Instant, socket: SocketId, handle: Handle, mut peer: Peer) {
        peer.socket = Some(socket);
        (peer.since, peer.joined_at) = (Some(now), Some(now));
        self.sessions.insert(peer.session, handle);
        self.peers.insert(handle, peer);
        self.sockets.insert(socket, Seat::Peer(handle));
        self.timers.set(Timer::Guest(socket), None);
        self.set_clock(handle);
        self.watch_token(now, handle);
    }

    /// Whether a newcomer would be let into a room now: the door asks this for those who come without a WebSocket, so
    /// that they know it before they open a camera. It promises nothing, since the last place may go meanwhile.
    pub fn may_join(&self, room: &str, grant: &Grant) -> Result<(), Denial> {
        if self.is_stopping {
            return Err(Refusal::new(ErrorCode::NoDataplane, "the server is stopping").into());
        }
        if self.sockets.len() >= self.settings.sockets_max {
            return Err(Refusal::new(ErrorCode::ServerFull, "the server has its limit of sockets").into());
        }
        if !grant.publish && !grant.subscribe {
            let message = "the token allows neither to publish nor to subscribe";
            return Err(Refusal::new(ErrorCode::Forbidden, message).into());
        }
        match self.worker_for(room) {
            Err(Refusal { code: ErrorCode::RoomFull | ErrorCode::ServerFull, .. })
                if self.would_make_way(room, grant) =>
            {
                Ok(())
            }
            placed => placed.map(drop).map_err(Denial::from),
        }
    }

    /// The worker for another peer of a room.
    pub(super) fn worker_for(&self, room: &str) -> Result<usize, Refusal> {
        if self.policies.get(room).is_some_and(|policy| policy.locked) {
            return Err(Refusal::new(ErrorCode::RoomLocked, "the room is locked: nobody else may come in"));
        }
        let peers_max = self.settings_of(room).peers_max;
        match self.rooms.get(room) {
            Some(room) if room.members().len() >= peers_max as usize => {
                let message = format!("the room has its limit of {peers_max} peers");
                Err(Refusal::new(ErrorCode::RoomFull, message))
            }
            None if self.rooms.len() >= self.settings.rooms_max => {
                Err(Refusal::new(ErrorCode::ServerFull, "the server has its limit of rooms"))
            }
            room => {
                let members = room.map(Room::workers).unwrap_or_default();
                placement::place(&self.workers, &members, self.settings.room_peers_per_worker).ok_or_else(no_dataplane)
            }
        }
    }

    /// Our candidates once more, by themselves: a client may take them from the answer or from here.
    pub(super) fn trickle(&mut self, socket: SocketId, candidates: &[String], (index, mid): (usize, &str)) {
        let end = String::new();
        for candidate in candidates.iter().chain([&end]) {
            let candidate = Candidate {
                candidate: candidate.clone(),
                sdp_mid: (!mid.is_empty()).then(|| mid.to_owned()),
                sdp_m_line_index: u16::try_from(index).ok(),
                username_fragment: None,
            };
            self.send(socket, ServerSignal::Candidate(candidate));
        }
    }

    /// The newcomer learns who is there, and they learn of the newcomer.
    pub(super) fn join(&mut self, handle: Handle, name: &str, member: Member) {
        let info = member.info();
        let codecs = self.codecs_of(name);
        let room = self.rooms.entry(name.to_owned()).or_insert_with(|| Room::new(codecs));
        room.join(member);
        for other in self.members_of(name) {
            if other != handle {
                self.tell(other, ServerSignal::PeerJoined { peer: info.clone() });
            }
        }
        self.tell_peers(handle);
        let before = self.rooms.get(name).map(Room::video);
        self.settle(name);
        // Everybody begins with the first codec of its answer; a change just now was told.
        if let Some(room) = self.rooms.get(name)
            && before == Some(room.video())
            && room.member(handle.peer).is_some_and(|member| room.must_be_told(member))
        {
            self.tell_codec(handle);
        }
        // Once whole for the newcomer, whether or not there is anything in its slots yet.
        if self.room_of(handle).is_some_and(|room| room.slot_infos(handle.peer).iter().all(|slot| slot.peer.is_none()))
        {
            self.tell_slots(handle);
        }
        self.tell_limits(name);
    }

    fn tell_peers(&mut self, handle: Handle) {
        if let Some(peers) = self.room_of(handle).map(|room| room.others(handle.peer)) {
            self.tell(handle, ServerSignal::Peers { peers });
        }
    }

    /// A client takes its peer back on a new socket. The token of that socket takes the place of the peer's, if it is for the
    /// same name.
    fn resume(
        &mut self,
        now: Instant,
        socket: SocketId,
        room: &str,
        grant: Grant,
        session: String,
    ) -> Result<(), Refusal> {
        let handle = self.sessions.get(&SessionHash::of(&session)).copied();
        let found = handle.and_then(|handle| Some((handle, self.peers.get_mut(&handle)?)));
        let Some((handle, peer)) = found.filter(|(_, peer)| peer.is_at(room) && !peer.is_resource) else {
            // A session of our predecessor is known as soon as its worker has told what is installed.
            if !self.is_ready() {
                return Err(no_dataplane());
            }
            return Err(Refusal::new(ErrorCode::UnknownSession, "the session is not known here: offer anew"));
        };
        peer.transport.resumed();
        let room = peer.room.clone();
        let state = peer.transport.state();
        let before = self.set_socket(now, handle, Some(socket));
        if let Some(before) = before {
            self.send(before, ServerSignal::Bye { reason: LeaveReason::Replaced, rejoin: false });
            self.close_socket(before);
        }
        self.sockets.insert(socket, Seat::Peer(handle));
        self.timers.set(Timer::Guest(socket), None);
        self.set_clock(handle);
        self.totals.resumed += 1;
        if let Some(who) = self.who(handle) {
            self.happened(Happening::Resumed { who });
        }
        if self.regrant(now, handle, grant).is_err() {
            self.watch_token(now, handle); // Whose token it is does not matter to who shows the session.
        }
        let Some(grant) = self.peers.get(&handle).map(|peer| peer.grant.clone()) else { return Ok(()) };

        let member = self.rooms.get(&room).and_then(|room| room.member(handle.peer));
        let id = member.map(|member| member.id.clone()).unwrap_or_default();
        let muted = member.map(Member::muted_mids).unwrap_or_default();
        self.welcome(socket, session, id, room, &grant, Some(muted));
        self.send(socket, ServerSignal::State { state });
        self.tell_peers(handle);
        self.tell_slots(handle);
        self.tell_limit(handle);
        self.tell_codec(handle);
        Ok(())
    }

    /// A track was switched on or off by its owner.
    fn track(&mut self, handle: Handle, mid: &str, active: bool) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get(&handle) else { return Ok(()) };
        let (name, may_publish) = (peer.room.clone(), peer.grant.publish);
        let Some(member) = self.rooms.get_mut(&name).and_then(|room| room.member_mut(handle.peer)) else {
            return Ok(());
        };
        let Some(at) = member.tracks.iter().position(|track| track.mid == mid && !track.is_paused) else {
            return Err(match may_publish {
                true => Refusal::new(ErrorCode::UnknownTrack, "the mid is no track of this peer"),
                false => Refusal::new(ErrorCode::Forbidden, "the token does not allow to publish"),
            });
        };
        if active && !may_publish {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token does not allow to publish"));
        }
        if member.tracks[at].is_active == active {
            return Ok(());
        }
        member.tracks[at].is_active = active;
        let (id, track) = (member.id.clone(), member.track_info(&member.tracks[at]));
        for other in self.members_of(&name) {
            if other != handle {
                self.tell(other, ServerSignal::TrackChanged { peer: id.clone(), track: track.clone() });
            }
        }
        self.settle(&name);
        self.tell_limit(handle);
        self.journal(handle);
        Ok(())
    }
}

pub(super) fn no_dataplane() -> Refusal {
    Refusal::new(ErrorCode::NoDataplane, "no dataplane is linked; try again shortly")
}
