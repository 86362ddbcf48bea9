//! What operators and application servers ask: rooms with limits of their own, peers that must go, tracks that are
//! not passed on. Clients are told as of any other change, and the journal says it, so that it outlives this controlplane.

use std::collections::BTreeSet;

use proto::signal::{LeaveReason, ServerSignal};

use super::{Engine, Handle, SocketId};
use crate::auth::ANY_ROOM;
use crate::data::{Payload, relayed};
use crate::happening::Happening;
use crate::policy::{Grant, RoomPolicy};
use crate::revocations::Whose;
use crate::room::Room;

/// A request of an operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OperatorRequest {
    /// Make a room with these limits, or give them to a room that is there.
    SetRoom {
        /// Which.
        room: String,
        /// From now on.
        policy: RoomPolicy,
    },
    /// Remove everybody from a room, and forget its limits.
    DeleteRoom {
        /// Which.
        room: String,
    },
    /// Remove one peer.
    RemovePeer {
        /// Its room.
        room: String,
        /// Its id.
        peer: String,
    },
    /// Remove who came by tokens that are revoked now, or by tokens that were made by such. Nobody there is no error.
    Revoke {
        /// From which room, or `*` for all rooms.
        room: String,
        /// Whose tokens.
        whose: Whose,
    },
    /// Take one peer to another room.
    MovePeer {
        /// Its room.
        room: String,
        /// Its id.
        peer: String,
        /// Where it goes. It need not be there yet.
        to: String,
    },
    /// Send a message to who is in a room.
    SendData {
        /// The room.
        room: String,
        /// The ids of whom it is for; `None`: everybody.
        to: Option<Vec<String>>,
        /// What it is about.
        label: String,
        /// Whether it must arrive.
        is_reliable: bool,
        /// Text, or else bytes.
        said: Result<String, Vec<u8>>,
    },
    /// Stop passing a track on, or pass it on again.
    MuteTrack {
        /// The room.
        room: String,
        /// Whose.
        peer: String,
        /// Its m-section.
        mid: String,
        /// Which of the two.
        is_muted: bool,
    },
}

/// Why a request of an operator cannot be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is no such room.
    #[error("there is no such room")]
    NoRoom,
    /// There is no such peer in the room.
    #[error("there is no such peer in the room")]
    NoPeer,
    /// The peer is in the room through another edge of the cluster: that one is to be asked.
    #[error("the peer is in the room through another edge")]
    Elsewhere,
    /// The peer has no such track.
    #[error("the peer publishes no such track")]
    NoTrack,
    /// The limit of rooms is reached.
    #[error("the server has its limit of rooms")]
    TooManyRooms,
    /// The other room is locked.
    #[error("the room is locked: nobody else may come in")]
    Locked,
    /// The other room has its limit of peers.
    #[error("the room has its limit of peers")]
    Full,
    /// The other room has video in other codecs.
    #[error("the room has other codecs of video than those that the peer has negotiated: let it join there anew")]
    OtherCodecs,
    /// This server carries no data.
    #[error("this server is set to carry no data (data-bps-max)")]
    NoData,
    /// It is not known yet what an earlier controlplane left.
    #[error("the server has just started and does not know all rooms yet: try again shortly")]
    NotReady,
}

impl Engine {
    /// Does what an operator or an application's server asks.
    pub(super) fn operator_request(&mut self, request: OperatorRequest) -> Result<(), OperatorError> {
        match request {
            OperatorRequest::SetRoom { room, policy } => self.set_room(room, policy),
            OperatorRequest::DeleteRoom { room } => {
                let is_known = self.policies.remove(&room).is_some() | self.rooms.contains_key(&room);
                self.remove(&room, |_| true);
                is_known.then_some(()).ok_or(OperatorError::NoRoom)
            }
            OperatorRequest::RemovePeer { room, peer } => {
                let handle = self.find(&room, &peer)?;
                self.end_peer(handle, LeaveReason::Removed, false);
                Ok(())
            }
            OperatorRequest::SendData { room, to, label, is_reliable, said } => {
                if !self.rooms.contains_key(&room) {
                    return Err(OperatorError::NoRoom);
                }
                if self.settings.data_bps_max == 0 {
                    return Err(OperatorError::NoData);
                }
                let Some(now) = self.now else { return Err(OperatorError::NotReady) };
                let payload = said.map_or_else(Payload::Binary, Payload::Text);
                // Also after a restart above all that were before, as long as the clock goes on.
                let number =
                    self.wall_clock.map_or(0, |(then, wall)| (wall + now.saturating_duration_since(then)).as_micros());
                self.numbered = (self.numbered + 1).max(u64::try_from(number).unwrap_or_default());
                let id = is_reliable.then_some(self.numbered);
                self.data_of_server(now, &room, to.as_deref(), &relayed(None, &label, id, payload));
                Ok(())
            }
            OperatorRequest::Revoke { room, whose } => {
                let is_meant = |grant: &Grant| whose.concerns(&room, grant);
                if room != ANY_ROOM {
                    self.remove(&room, is_meant);
                    self.remove_moved(&room, is_meant);
                    return Ok(());
                }
                let guests = self.sockets.guests().map(|(_, guest)| guest.room.clone());
                let rooms: BTreeSet<String> = guests.chain(self.rooms.keys().cloned()).collect();
                rooms.iter().for_each(|room| self.remove(room, is_meant));
                Ok(())
            }
            OperatorRequest::MovePeer { room, peer, to } => self.move_peer(&room, &peer, &to),
            OperatorRequest::MuteTrack { room, peer, mid, is_muted } => self.mute(&room, &peer, &mid, is_muted),
        }
    }

    fn set_room(&mut self, room: String, policy: RoomPolicy) -> Result<(), OperatorError> {
        if !self.policies.contains_key(&room) && self.policies.len() >= self.settings.rooms_max {
            return Err(OperatorError::TooManyRooms);
        }
        let before = self.settings_of(&room).videos_max;
        self.policies.insert(room.clone(), policy);
        match self.settings_of(&room).videos_max == before {
            true => self.room_changed(&room),
            false => self.slots_changed(&room),
        }
        Ok(())
    }

    pub(super) fn find(&self, room: &str, peer: &str) -> Result<Handle, OperatorError> {
        let room = self.room(room).ok_or(OperatorError::NoRoom)?;
        let member = room.members().iter().find(|member| member.id == peer).ok_or(OperatorError::NoPeer)?;
        let handle = Handle::of(member.peer);
        self.peers.contains_key(&handle).then_some(handle).ok_or(OperatorError::Elsewhere)
    }

    /// Who came by a room's token and was moved elsewhere since goes, too.
    fn remove_moved(&mut self, home: &str, is_meant: impl Fn(&Grant) -> bool) {
        let is_moved = |handle: &&Handle| {
            self.peers.get(handle).is_some_and(|peer| peer.home == home)
                && self.member(**handle).is_some_and(|member| is_meant(&member.grant))
        };
        for handle in self.peers.keys().filter(is_moved).copied().collect::<Vec<Handle>>() {
            self.end_peer(handle, LeaveReason::Removed, false);
        }
    }

    /// Peers go, and so do guests, who have not offered yet.
    fn remove(&mut self, name: &str, is_meant: impl Fn(&Grant) -> bool) {
        let members = self.room(name).map(Room::members).unwrap_or_default().iter();
        let meant = members.filter(|member| is_meant(&member.grant)).map(|member| Handle::of(member.peer));
        for handle in meant.collect::<Vec<Handle>>() {
            self.end_peer(handle, LeaveReason::Removed, false);
        }
        let guests = self.sockets.guests().filter(|(_, guest)| guest.room == name && is_meant(&guest.grant));
        for socket in guests.map(|(socket, _)| socket).collect::<Vec<SocketId>>() {
            self.send(socket, ServerSignal::Bye { reason: LeaveReason::Removed, rejoin: false });
            self.close_socket(socket);
        }
    }

    /// The track's routes are closed with its slots, which are free for others; its owner is told like everybody.
    fn mute(&mut self, name: &str, peer: &str, mid: &str, is_muted: bool) -> Result<(), OperatorError> {
        let handle = self.find(name, peer)?;
        let member = self.member_mut(handle).ok_or(OperatorError::NoPeer)?;
        let mut tracks = member.tracks.iter_mut();
        let track = tracks.find(|track| track.mid == mid && !track.is_paused).ok_or(OperatorError::NoTrack)?;
        if track.is_muted == is_muted {
            return Ok(());
        }
        track.is_muted = is_muted;
        let (mid, source) = (track.mid.clone(), track.source);
        if let Some(who) = self.who(handle) {
            self.happened(Happening::Muted { who, mid, source, is_muted });
        }
        self.slots_changed(name);
        self.journal(handle);
        Ok(())
    }
}
