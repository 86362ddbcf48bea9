//! A peer goes to another room. Its transport, its streams and its slots stand, so nothing is negotiated: what changes
//! are routes, and both rooms are told.
//!
//! Its client's address and token still name the room that it joined by, its home. There it resumes, and there its HTTP
//! resource is: the session says whose peer it is, and nobody but its client has that.

use proto::signal::{LeaveReason, ServerSignal};

use super::{Engine, Handle, OrderError};
use crate::placement::Worker;
use crate::room::Member;

impl Engine {
    /// Moves a peer, if the other room takes it. One that is there already stays as it is.
    pub(super) fn move_peer(&mut self, room: &str, peer: &str, to: &str) -> Result<(), OrderError> {
        let handle = self.find(room, peer)?;
        if room == to {
            return Ok(());
        }
        self.may_enter(handle, room, to)?;
        let member = self.part(handle, room).ok_or(OrderError::NoPeer)?;
        if let Some(peer) = self.peers.get_mut(&handle) {
            peer.room = to.to_owned();
        }
        self.tell(handle, ServerSignal::Moved { room: to.to_owned(), peers_max: self.settings_of(to).peers_max });
        self.join(handle, to, member);
        self.tell_codec(handle);
        self.journal(handle);
        Ok(())
    }

    /// Whether a room takes a peer of another one.
    fn may_enter(&self, handle: Handle, from: &str, to: &str) -> Result<(), OrderError> {
        if self.policies.get(to).is_some_and(|policy| policy.locked) {
            return Err(OrderError::Locked);
        }
        if self.codecs_of(to) != self.codecs_of(from) {
            return Err(OrderError::OtherCodecs);
        }
        match self.rooms.get(to) {
            // Media of a room does not cross workers, and a transport cannot.
            Some(room) if room.worker != handle.worker => Err(OrderError::OtherWorker),
            Some(room) if room.members().len() >= self.settings_of(to).peers_max as usize => Err(OrderError::Full),
            Some(_) => Ok(()),
            // A worker that is not adopted yet may bring back a room of that name.
            None if !self.workers.values().all(Worker::is_ready) => Err(OrderError::NotReady),
            None => {
                let is_alone = self.rooms.get(from).is_some_and(|room| room.members().len() == 1);
                let rooms = self.rooms.len() - usize::from(is_alone);
                if rooms < self.settings.rooms_max { Ok(()) } else { Err(OrderError::TooManyRooms) }
            }
        }
    }

    /// Takes a peer out of its room, and tells those who stay. What it has on its worker stands.
    fn part(&mut self, handle: Handle, name: &str) -> Option<Member> {
        let (room, worker) = (self.rooms.get_mut(name)?, self.workers.get_mut(&handle.worker)?);
        let member = room.part(handle.peer, &mut worker.plan)?;
        if room.members().is_empty() {
            self.rooms.remove(name);
            return Some(member);
        }
        self.tell_left(name, &member.id, LeaveReason::Moved);
        Some(member)
    }
}
