//! What operators and application servers order: rooms with limits of their own, peers that must go, tracks that are
//! not passed on. Everybody concerned is told by the signals that they know, and the journal says it, so that an order
//! outlives this controlplane.

use std::collections::BTreeMap;

use proto::signal::{LeaveReason, ServerSignal};

use super::{Engine, Handle, Seat, SocketId};
use crate::happening::Happening;
use crate::policy::{Grant, RoomPolicy, Settings, VideoCodecs};
use crate::room::Room;

/// An order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
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
    /// Remove everybody who came by a token with this name, or everybody. Nobody there is no error.
    RemoveNamed {
        /// From which room.
        room: String,
        /// With which name.
        name: Option<String>,
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
    /// Remove who came by one token, or refreshed it by that. Nobody there is no error.
    RemoveBearer {
        /// From which room.
        room: String,
        /// Its [`Grant::token`](crate::policy::Grant::token).
        token: String,
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

/// Why an order cannot be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OrderError {
    /// There is no such room.
    #[error("there is no such room")]
    NoRoom,
    /// There is no such peer in the room.
    #[error("there is no such peer in the room")]
    NoPeer,
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
    /// It is not known yet what an earlier controlplane left.
    #[error("the server has just started and does not know all rooms yet: try again shortly")]
    NotReady,
}

impl Engine {
    /// Carries out an order. What follows from it comes out as from any input.
    pub fn administer(&mut self, order: Order) -> Result<(), OrderError> {
        match order {
            Order::SetRoom { room, policy } => self.set_room(room, policy),
            Order::DeleteRoom { room } => {
                let is_known = self.policies.remove(&room).is_some() | self.rooms.contains_key(&room);
                self.remove(&room, |_| true);
                is_known.then_some(()).ok_or(OrderError::NoRoom)
            }
            Order::RemovePeer { room, peer } => {
                let handle = self.find(&room, &peer)?;
                self.end_peer(handle, LeaveReason::Removed, false);
                Ok(())
            }
            Order::RemoveNamed { room, name } => {
                let is_meant = |grant: &Grant| name.as_ref().is_none_or(|name| grant.is_of(name));
                self.remove(&room, is_meant);
                self.remove_moved(&room, is_meant);
                Ok(())
            }
            Order::RemoveBearer { room, token } => {
                let is_meant = |grant: &Grant| grant.token.as_ref() == Some(&token);
                self.remove(&room, is_meant);
                self.remove_moved(&room, is_meant);
                Ok(())
            }
            Order::MovePeer { room, peer, to } => self.move_peer(&room, &peer, &to),
            Order::MuteTrack { room, peer, mid, is_muted } => self.mute(&room, &peer, &mid, is_muted),
        }
    }

    /// The policies that an earlier controlplane was given. Before the first link, so that who is adopted has them.
    pub fn restore(&mut self, policies: BTreeMap<String, RoomPolicy>) {
        self.policies = policies;
    }

    /// What holds in a room.
    pub(super) fn settings_of(&self, room: &str) -> Settings {
        match self.policies.get(room) {
            Some(policy) => self.settings.under(policy),
            None => self.settings.clone(),
        }
    }

    /// The codecs of video of a room. They are those of its first member until the last has left: what was negotiated
    /// stands.
    pub(super) fn codecs_of(&self, name: &str) -> VideoCodecs {
        self.rooms.get(name).map_or_else(|| self.settings_of(name).codecs, Room::codecs)
    }

    fn set_room(&mut self, room: String, policy: RoomPolicy) -> Result<(), OrderError> {
        if !self.policies.contains_key(&room) && self.policies.len() >= self.settings.rooms_max {
            return Err(OrderError::TooManyRooms);
        }
        self.policies.insert(room.clone(), policy);
        self.tell_limits(&room);
        Ok(())
    }

    pub(super) fn find(&self, room: &str, peer: &str) -> Result<Handle, OrderError> {
        let room = self.rooms.get(room).ok_or(OrderError::NoRoom)?;
        let member = room.members().iter().find(|member| member.id == peer).ok_or(OrderError::NoPeer)?;
        Ok(Handle::of(member.peer))
    }

    /// Who came by a room's token and was moved elsewhere since goes, too.
    fn remove_moved(&mut self, home: &str, is_meant: impl Fn(&Grant) -> bool) {
        let moved = self.peers.iter().filter(|(_, peer)| peer.home == home && is_meant(&peer.grant));
        for handle in moved.map(|(&handle, _)| handle).collect::<Vec<Handle>>() {
            self.end_peer(handle, LeaveReason::Removed, false);
        }
    }

    /// Peers go, and so does who is at the door and has not offered yet.
    fn remove(&mut self, name: &str, is_meant: impl Fn(&Grant) -> bool) {
        for handle in self.members_of(name) {
            if self.peers.get(&handle).is_some_and(|peer| is_meant(&peer.grant)) {
                self.end_peer(handle, LeaveReason::Removed, false);
            }
        }
        let guests = self.sockets.iter().filter_map(|(&socket, seat)| match seat {
            Seat::Guest(guest) if guest.room == name && is_meant(&guest.grant) => Some(socket),
            _ => None,
        });
        for socket in guests.collect::<Vec<SocketId>>() {
            self.send(socket, ServerSignal::Bye { reason: LeaveReason::Removed, rejoin: false });
            self.close_socket(socket);
        }
    }

    /// The track's routes are closed with its slots, which are free for others; its owner is told like everybody.
    fn mute(&mut self, name: &str, peer: &str, mid: &str, is_muted: bool) -> Result<(), OrderError> {
        let handle = self.find(name, peer)?;
        let member =
            self.rooms.get_mut(name).and_then(|room| room.member_mut(handle.peer)).ok_or(OrderError::NoPeer)?;
        let track =
            member.tracks.iter_mut().find(|track| track.mid == mid && !track.is_paused).ok_or(OrderError::NoTrack)?;
        if track.is_muted == is_muted {
            return Ok(());
        }
        track.is_muted = is_muted;
        let track = track.clone();
        let (id, info) = (member.id.clone(), member.track_info(&track));
        for other in self.members_of(name) {
            self.tell(other, ServerSignal::TrackChanged { peer: id.clone(), track: info.clone() });
        }
        if let Some(who) = self.who(handle) {
            self.happened(Happening::Muted { who, mid: track.mid, source: track.source, is_muted });
        }
        self.settle(name);
        self.journal(handle);
        Ok(())
    }
}
