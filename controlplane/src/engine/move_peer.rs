//! A peer goes to another room. Its transport, its streams and its slots stand, so nothing is negotiated: what changes
//! are routes, and both rooms are told.
//!
//! Its client's address and token still name the room that it joined by, its home. There it resumes, and there its HTTP
//! resource is: the session says whose peer it is, and nobody but its client has that.

use proto::signal::LeaveReason;

use super::{Engine, OperatorError};
use crate::happening::Happening;

impl Engine {
    /// Moves a peer, if the other room takes it. One that is there already stays as it is.
    pub(super) fn move_peer(&mut self, room: &str, peer: &str, to: &str) -> Result<(), OperatorError> {
        let handle = self.find(room, peer)?;
        if room == to {
            return Ok(());
        }
        self.may_enter(room, to)?;
        let who = self.who(handle);
        let member = self.leave_room(handle, room, LeaveReason::Moved).ok_or(OperatorError::NoPeer)?;
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.room = to.to_owned();
        }
        self.enter_room(to, member);
        if let Some(who) = who {
            self.happened(Happening::Moved { who, to: to.to_owned() });
        }
        self.journal(handle);
        Ok(())
    }

    /// Whether a room takes a peer of another one. On which workers the two are does not matter: what it sends and
    /// receives is handed on.
    fn may_enter(&self, from: &str, to: &str) -> Result<(), OperatorError> {
        if !self.is_ready() {
            return Err(OperatorError::NotReady); // Another worker may bring back more of either room.
        }
        if self.policies.get(to).is_some_and(|policy| policy.locked) {
            return Err(OperatorError::Locked);
        }
        if self.codecs_of(to) != self.codecs_of(from) {
            return Err(OperatorError::OtherCodecs);
        }
        match self.room(to) {
            Some(room) if room.members().len() >= self.settings_of(to).peers_max as usize => Err(OperatorError::Full),
            Some(_) => Ok(()),
            None => {
                let is_alone = self.room(from).is_some_and(|room| room.members().len() == 1);
                let rooms = self.rooms.len() - usize::from(is_alone);
                if rooms < self.settings.rooms_max { Ok(()) } else { Err(OperatorError::TooManyRooms) }
            }
        }
    }
}
