//! A newcomer's first offer: the worker that is to carry it, what is opened there, and its place in the room.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::signal::{ErrorCode, ServerSignal, TrackDescription};

use super::edges::Remote;
use super::resource::ResourceError;
use super::sockets::Guest;
use super::{Engine, Handle, Hosted, SocketId, Timer};
use crate::edges::seats::Seat;
use crate::happening::Access;
use crate::ids::SlabId;
use crate::member::{Looks, Member};
use crate::negotiation::{Before, Negotiation, Ours};
use crate::peer::Peer;
use crate::placement;
use crate::policy::{Grant, VideoCodecs};
use crate::quality::{Judge, Redundancy};
use crate::refusal::Refusal;
use crate::room::Room;
use crate::speakers::Speakers;
use crate::view::{Roster, View};
use crate::wiring::{Wiring, open_peer};

/// A peer that is open on its worker and not in its room yet.
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
    /// The first offer of a peer: it joins, or is told why not.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        socket: SocketId,
        guest: Guest,
        sdp: &str,
        tracks: &[TrackDescription],
    ) -> Result<(), Refusal> {
        let room = guest.room.clone();
        match self.seat_in(now, &room) {
            Seat::Free => {}
            Seat::Wait => {
                self.wait_for_seat(socket, &room, sdp, tracks);
                return Ok(());
            }
            Seat::Full if self.would_make_way(&room, &guest.grant) => {}
            Seat::Full => {
                let peers_max = self.settings_of(&room).peers_max;
                let message = format!("the room has its limit of {peers_max} peers");
                return Err(Refusal::new(ErrorCode::RoomFull, message));
            }
        }
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
        let admitted = self.admit(now, guest, negotiation)?;
        let handle = admitted.handle;
        self.timers.set(Timer::Guest(socket), None);
        self.send(socket, ServerSignal::Answer { sdp: admitted.sdp });
        let (index, mid) = &admitted.first_served;
        self.trickle(socket, &admitted.candidates, (*index, mid));
        self.enter(now, handle, admitted.peer, admitted.member);
        let video = self.room_of(handle).and_then(|room| room.video_at_first(room.member(handle.peer)?));
        self.sockets.seat(socket, handle, View::answered(&room, video));
        self.has_joined(handle, Access::Socket);
        Ok(())
    }

    /// Opens on a worker what an offer asks for. The peer is in no room yet.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        guest: Guest,
        negotiation: Result<Negotiation, Refusal>,
    ) -> Result<Admitted, Refusal> {
        let index = self.worker_for(&guest.room)?;
        let mut negotiation = negotiation?;
        negotiation.tune(&self.listeners_in(&guest.room, &guest.grant.name, &guest.id));
        let Some(worker) = self.workers.get_mut(&index) else { return Err(Refusal::no_dataplane()) };
        if !worker.plan.has_room(negotiation.stream_count(), negotiation.slot_count()) {
            return Err(Refusal::new(ErrorCode::ServerFull, "the server has its limit of peers"));
        }
        let peer = worker.plan.issue_peer().expect("a plan that has room issues a peer");
        let opened = open_peer(peer, &negotiation, Before::default(), &mut worker.plan, &mut self.random);
        let ours = Ours {
            session_id: u64::from_le_bytes(self.random.bytes()) >> 1,
            credentials: &opened.credentials,
            fingerprint: &self.fingerprint,
            candidates: &worker.candidates,
        };
        let (sdp, negotiated) = negotiation.answer(&ours, None, opened.described, opened.spent);
        let deadline = now + self.settings.handshake_timeout;
        let (at, mid) = negotiation.first_served();
        self.totals.joined += 1;
        Ok(Admitted {
            handle: Handle { worker: index, peer },
            candidates: worker.candidates.clone(),
            first_served: (at, mid.to_owned()),
            peer: Peer::answered(&guest.room, guest.session, negotiation.offer(), negotiated, deadline),
            member: Member {
                peer,
                id: guest.id,
                looks: Looks::of(&guest.grant.name),
                is_lookalike: false,
                judge: Judge::default(),
                redundancy: Redundancy::default(),
                grant: guest.grant,
                tracks: opened.tracks,
                slots: opened.slots,
                hears: negotiation.hears(),
                from: Vec::new(),
                shown: Vec::new(),
                elsewhere: None,
            },
            sdp,
        })
    }

    /// A new peer is in its room, and its clocks run.
    pub(super) fn enter(&mut self, now: Instant, handle: Handle, mut peer: Peer, member: Member) {
        (peer.since, peer.joined_at) = (Some(now), Some(now));
        let room = peer.room.clone();
        self.sessions.insert(peer.session, handle);
        self.peers.insert(handle, peer);
        self.enter_room(&room, member);
        self.set_clock(handle);
        self.watch_token(now, handle);
    }

    /// A member comes into a room, which begins with its first one.
    pub(super) fn enter_room(&mut self, name: &str, member: Member) {
        let codecs = self.codecs_of(name);
        let is_new = !self.rooms.contains_key(name);
        let hosted = self.rooms.entry(name.to_owned()).or_insert_with(|| Hosted {
            room: Room::new(codecs),
            wiring: Wiring::default(),
            roster: Roster::default(),
            speakers: Speakers::default(),
            voices_due: None,
            remote: Remote::default(),
        });
        hosted.room.join(member);
        self.slots_changed(name);
        if is_new {
            self.listen(name);
        }
    }

    /// The codecs of video of a room. They are those of its first member until the last has left: what was negotiated
    /// stands.
    pub(super) fn codecs_of(&self, name: &str) -> VideoCodecs {
        self.room(name).map_or_else(|| self.settings_of(name).codecs, Room::codecs)
    }

    /// Whether a newcomer would be let into a room now: `http` asks this for those who come without a WebSocket, so
    /// that they know it before they open a camera. It promises nothing, since the last place may go meanwhile.
    pub fn may_join(&self, room: &str, grant: &Grant) -> Result<(), ResourceError> {
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
            placed => placed.map(drop).map_err(ResourceError::from),
        }
    }

    /// The worker for another peer of a room.
    pub(super) fn worker_for(&self, name: &str) -> Result<usize, Refusal> {
        if self.policies.get(name).is_some_and(|policy| policy.locked) {
            return Err(Refusal::new(ErrorCode::RoomLocked, "the room is locked: nobody else may come in"));
        }
        let peers_max = self.settings_of(name).peers_max;
        match self.room(name) {
            Some(room) if room.members().len() >= peers_max as usize => {
                let message = format!("the room has its limit of {peers_max} peers");
                Err(Refusal::new(ErrorCode::RoomFull, message))
            }
            None if self.rooms.len() >= self.settings.rooms_max => {
                Err(Refusal::new(ErrorCode::ServerFull, "the server has its limit of rooms"))
            }
            room => {
                let mut counts = BTreeMap::new();
                for member in room.map(Room::members).unwrap_or_default() {
                    *counts.entry(member.peer.worker()).or_default() += 1;
                }
                let worker = placement::place(&self.workers, &counts, self.settings.room_peers_per_worker);
                worker.ok_or_else(Refusal::no_dataplane)
            }
        }
    }
}
