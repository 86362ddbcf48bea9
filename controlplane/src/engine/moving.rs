//! A peer goes to another room. Its transport, its streams and its slots stand, so nothing is negotiated: what changes
//! are routes, and both rooms are told.
//!
//! Its client's address and token still name the room that it joined by, its home. There it resumes, and there its HTTP
//! resource is: the session says whose peer it is, and nobody but its client has that.

use proto::signal::{LeaveReason, ServerSignal};

use super::{Engine, Handle, OrderError};
use crate::happening::Happening;
use crate::room::Member;

impl Engine {
    /// Moves a peer, if the other room takes it. One that is there already stays as it is.
    pub(super) fn move_peer(&mut self, room: &str, peer: &str, to: &str) -> Result<(), OrderError> {
        let handle = self.find(room, peer)?;
        if room == to {
            return Ok(());
        }
        self.may_enter(room, to)?;
        let who = self.who(handle);
        let member = self.part(handle, room).ok_or(OrderError::NoPeer)?;
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.room = to.to_owned();
        }
        if let Some(who) = who {
            self.happened(Happening::Moved { who, to: to.to_owned() });
        }
        self.tell(handle, ServerSignal::Moved { room: to.to_owned(), peers_max: self.settings_of(to).peers_max });
        self.join(handle, to, member);
        self.tell_codec(handle);
        self.journal(handle);
        Ok(())
    }

    /// Whether a room takes a peer of another one. On which workers the two are does not matter: what it sends and
    /// receives is handed on.
    fn may_enter(&self, from: &str, to: &str) -> Result<(), OrderError> {
        if !self.is_ready() {
            return Err(OrderError::NotReady); // Another worker may bring back more of either room.
        }
        if self.policies.get(to).is_some_and(|policy| policy.locked) {
            return Err(OrderError::Locked);
        }
        if self.codecs_of(to) != self.codecs_of(from) {
            return Err(OrderError::OtherCodecs);
        }
        match self.rooms.get(to) {
            Some(room) if room.members().len() >= self.settings_of(to).peers_max as usize => Err(OrderError::Full),
            Some(_) => Ok(()),
            None => {
                let is_alone = self.rooms.get(from).is_some_and(|room| room.members().len() == 1);
                let rooms = self.rooms.len() - usize::from(is_alone);
                if rooms < self.settings.rooms_max { Ok(()) } else { Err(OrderError::TooManyRooms) }
            }
        }
    }

    /// Takes a peer out of its room, and tells those who stay. What it has on its worker stands.
    fn part(&mut self, handle: Handle, name: &str) -> Option<Member> {
        let room = self.rooms.get_mut(name)?;
        let member = room.part(handle.peer, &mut self.workers)?;
        if room.members().is_empty() {
            if let Some(room) = self.rooms.remove(name) {
                room.close(&mut self.workers);
            }
            return Some(member);
        }
        self.tell_left(name, &member.id, LeaveReason::Moved);
        Some(member)
    }
}
