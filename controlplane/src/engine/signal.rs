//! What clients say on their sockets.

use std::time::Instant;

use proto::signal::{Candidate, ClientSignal, ErrorCode, LeaveReason, ServerSignal, ShownVideo};

use super::sockets::{Client, Guest};
use super::{Engine, Handle, SocketId, Timer};
use crate::happening::Happening;
use crate::last_n::pinned;
use crate::policy::{Grant, ROOM_CHARS_MAX};
use crate::refusal::Refusal;
use crate::session::{SESSION_RANDOM_LEN, SessionHash};
use crate::shown;

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
        self.sockets.welcome(socket, guest);
    }

    /// Greets who is at a socket. `resumed`: a peer that was taken back, with its sections that an operator has muted.
    pub(super) fn welcome(
        &mut self,
        socket: SocketId,
        session: String,
        peer: String,
        room: String,
        grant: &Grant,
        resumed: Option<Vec<String>>,
    ) {
        let settings = self.settings_of(&room);
        let handle = resumed.as_ref().and_then(|_| match self.sockets.client(socket) {
            Some(&Client::Peer(handle)) => Some(handle),
            _ => None,
        });
        let data_channels = settings.data_bps_max > 0
            && handle.is_none_or(|handle| self.peers.get(&handle).is_some_and(|peer| peer.has_channels()));
        let codecs = self.codecs_of(&room).into();
        let welcome = ServerSignal::Welcome {
            session,
            peer,
            room,
            name: grant.name.clone(),
            may_publish: grant.publish,
            may_subscribe: grant.subscribe,
            may_send_data: grant.data && settings.data_bps_max > 0,
            data_channels,
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
        self.no_longer_waits(socket);
        if let Some(Client::Peer(handle)) = self.sockets.close(socket)
            && let Some(peer) = self.peers.get_mut(&handle)
        {
            peer.socket_lost_at = Some(now);
            let room = peer.room.clone();
            self.preference_changed(&room);
        }
    }

    /// A guest neither offered nor resumed in time.
    pub(super) fn guest_timed_out(&mut self, socket: SocketId) {
        if let Some(Client::Guest(guest)) = self.sockets.client(socket) {
            let (room, name) = (guest.room.clone(), guest.grant.name.clone());
            let (code, message) = (ErrorCode::NotJoined, "neither an offer nor a session came in time".to_owned());
            self.happened(Happening::Refused { room, name, code, message });
            self.send(socket, ServerSignal::Bye { reason: LeaveReason::TimedOut, rejoin: true });
            self.close_socket(socket);
        }
    }

    /// A signal of a client.
    pub(super) fn signal(&mut self, now: Instant, socket: SocketId, signal: ClientSignal) {
        let Some(client) = self.sockets.client(socket) else { return };
        match (client, signal) {
            // `http` handles them: it alone can read a token, and a lite agent has no use for candidates.
            (_, ClientSignal::Token { .. } | ClientSignal::Candidate(_) | ClientSignal::Candidates { .. }) => {}
            (_, ClientSignal::Ping {}) => self.send(socket, ServerSignal::Pong {}),
            (Client::Guest(guest), ClientSignal::Offer { sdp, tracks }) => {
                let guest = guest.clone();
                let asked = (guest.room.clone(), guest.grant.name.clone());
                if let Err(refusal) = self.offer(now, socket, guest, &sdp, &tracks) {
                    self.totals.offers_refused += 1;
                    self.turn_away(socket, asked, refusal);
                }
            }
            (Client::Guest(guest), ClientSignal::Resume { session }) => {
                let (room, grant) = (guest.room.clone(), guest.grant.clone());
                if let Err(refusal) = self.resume(now, socket, &room, grant, session) {
                    let fatal = refusal.code == ErrorCode::NoDataplane;
                    self.refuse(socket, refusal, fatal);
                }
            }
            (Client::Guest(_), ClientSignal::Leave {}) => self.close_socket(socket),
            (
                Client::Guest(_),
                ClientSignal::Track { .. }
                | ClientSignal::Shown { .. }
                | ClientSignal::Data(_)
                | ClientSignal::DataAck { .. },
            ) => {
                self.refuse(socket, Refusal::new(ErrorCode::NotJoined, "an offer must come first"), false);
            }
            (&Client::Peer(handle), ClientSignal::Offer { sdp, tracks }) => {
                if let Err(refusal) = self.subsequent_offer(handle, &sdp, &tracks) {
                    self.totals.offers_refused += 1;
                    self.refuse(socket, refusal, false);
                }
            }
            (Client::Peer(_), ClientSignal::Resume { .. }) => {
                self.refuse(socket, Refusal::new(ErrorCode::AlreadyJoined, "this socket has its peer"), false);
            }
            (&Client::Peer(handle), ClientSignal::Track { mid, active }) => {
                if let Err(refusal) = self.track(handle, &mid, active) {
                    self.refuse(socket, refusal, false);
                }
            }
            (&Client::Peer(handle), ClientSignal::Shown { videos }) => match shown::check(&videos) {
                Ok(()) => self.shown(handle, videos),
                Err(refusal) => self.refuse(socket, refusal, false),
            },
            (&Client::Peer(handle), ClientSignal::Data(part)) => self.data_signal(now, handle, *part),
            (&Client::Peer(handle), ClientSignal::DataAck { from, id }) => {
                self.data_ack_signal(now, handle, from.as_deref(), id);
            }
            (&Client::Peer(handle), ClientSignal::Leave {}) => self.end_peer(handle, LeaveReason::Left, false),
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

    /// A client says how it shows what it receives.
    fn shown(&mut self, handle: Handle, videos: Vec<ShownVideo>) {
        let Some(member) = self.member_mut(handle) else { return };
        if member.shown != videos {
            let before = std::mem::replace(&mut member.shown, videos);
            let has_other_pins = !pinned(&before).eq(pinned(&member.shown));
            self.shown_changed(handle);
            if has_other_pins {
                self.pins_changed(handle);
            }
        }
    }

    /// A track was switched on or off by its owner.
    fn track(&mut self, handle: Handle, mid: &str, active: bool) -> Result<(), Refusal> {
        let Some(member) = self.member_mut(handle) else { return Ok(()) };
        let may_publish = member.grant.publish;
        let Some(track) = member.tracks.iter_mut().find(|track| track.mid == mid && !track.is_paused) else {
            return Err(match may_publish {
                true => Refusal::new(ErrorCode::UnknownTrack, "the mid is no track of this peer"),
                false => Refusal::new(ErrorCode::Forbidden, "the token does not allow to publish"),
            });
        };
        if active && !may_publish {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token does not allow to publish"));
        }
        if track.is_active != active {
            track.is_active = active;
            self.tracks_changed(handle);
            self.journal(handle);
        }
        Ok(())
    }
}
