//! Peers that end without a signal: a tab that crashed, an encoder that was killed, a machine that lost its network.
//!
//! Their ICE consent goes on for 30 s, and until then they may be back. In this time they block nobody:
//!
//! - **A successor** takes the place of what is left of it: who comes by the same token under the same name, after a
//!   socket was lost. A name alone, or a token that several people use, is not enough for that: then nothing may come
//!   from the former any more. The same goes for resources of HTTP, which never have a socket.
//! - **A newcomer** who would find the room or the server full takes the place of a peer that has no socket and from
//!   which nothing has come for longer than the longest interval of consent checks.
//! - **The others** keep seeing who is silent as long as nobody else needs the slot ([`crate::slots`]).
//!
//! What is silent, the workers report. A socket says nothing when its machine vanishes, so it is asked when the media is silent.

use std::time::{Duration, Instant};

use proto::plane::Event;
use proto::signal::LeaveReason;

use super::sockets::Sockets;
use super::{Engine, Handle, Output};
use crate::ids::SlabId;
use crate::member::Member;
use crate::placement::Workers;
use crate::policy::Grant;
use crate::room::{Absence, Room};
use crate::speakers::Speakers;

/// A peer that joined at most so long before another one fell silent, or lost its socket, may still be its successor: a process
/// is back within a second, and the peer of the process before it is reported silent some seconds later.
const SUCCESSION: Duration = Duration::from_secs(10);

impl Engine {
    /// A worker says that a peer or one of its streams has fallen silent, or sends again.
    pub(super) fn silence_changed(&mut self, now: Instant, handle: Handle, event: &Event) {
        let Some(peer) = self.peers.get(&handle) else { return };
        let (room, socket) = (peer.room.clone(), self.sockets.of(handle));
        if let (Event::PeerSilent(_), Some(socket)) = (event, socket) {
            self.outputs.push_back(Output::ProbeSocket { socket });
        }
        self.peer_changed(handle);
        if !self.is_ready() {
            return; // Who else is there is not known yet.
        }
        if self.is_succeeded(now, handle) {
            return self.replace(handle);
        }
        self.preference_changed(&room);
    }

    /// Ends the peers that block a newcomer with so many streams and slots. True if anybody went.
    pub(super) fn make_way(&mut self, room: &str, grant: &Grant, needs: (usize, usize)) -> bool {
        if !self.is_ready() || self.policies.get(room).is_some_and(|policy| policy.locked) {
            return false;
        }
        let before = self.totals.left;
        for former in self.formers(room, grant) {
            self.replace(former);
        }
        self.make_room_in(room);
        self.make_room_for_a_room(room);
        self.make_room_on_worker(room, needs);
        self.totals.left != before
    }

    /// Whether somebody would go for a newcomer to a room that is full, or to one that the server has no place for.
    pub(super) fn would_make_way(&self, room: &str, grant: &Grant) -> bool {
        if !self.rooms.contains_key(room) {
            return self.rooms.values().any(|hosted| self.is_over(hosted.room.members()));
        }
        let members = self.members_of(room);
        let goes = |handle: &&Handle| self.gives_way(handle) || self.is_former(**handle, grant, None);
        members.len() - members.iter().filter(goes).count() < self.settings_of(room).peers_max as usize
    }

    /// What is left of who comes by this grant.
    fn formers(&self, room: &str, grant: &Grant) -> Vec<Handle> {
        self.members_of(room).into_iter().filter(|&handle| self.is_former(handle, grant, None)).collect()
    }

    /// Whether a peer is what is left of who comes by `grant`, and is in already as `successor`.
    fn is_former(&self, handle: Handle, grant: &Grant, successor: Option<Handle>) -> bool {
        let Some((peer, own)) = self.peers.get(&handle).zip(self.grant_of(handle)) else { return false };
        if own.name != grant.name {
            return false;
        }
        if !peer.is_resource && peer.socket_lost_at.is_none() {
            return false;
        }
        let is_alike = |other: &Handle| {
            let is_another = *other != handle && Some(*other) != successor;
            is_another && self.grant_of(*other).is_some_and(|of_other| of_other.name == grant.name)
        };
        // A name that others here have, too, and a link that was given to them tell little of who somebody is.
        let is_its_own = !self.members_of(&peer.room).iter().any(|other| is_alike(other) && !self.is_gone(*other));
        let is_same_token = own.token.is_some() && own.token == grant.token;
        match (is_same_token, is_its_own) {
            (true, true) if !peer.is_resource => true,
            (false, false) => false,
            _ => self.is_gone(handle),
        }
    }

    /// Whether a later peer is the successor of this one.
    fn is_succeeded(&self, now: Instant, handle: Handle) -> bool {
        let Some(peer) = self.peers.get(&handle) else { return false };
        let lost_at = peer.socket_lost_at.unwrap_or(now);
        let members = self.members_of(&peer.room);
        let mut later = members.into_iter().skip_while(|other| *other != handle).skip(1);
        later.any(|other| {
            let Some((candidate, grant)) = self.peers.get(&other).zip(self.grant_of(other)) else { return false };
            let is_in_time = candidate.joined_at.is_some_and(|joined_at| joined_at + SUCCESSION >= lost_at);
            is_in_time && !self.is_gone(other) && self.is_former(handle, grant, Some(other))
        })
    }

    fn grant_of(&self, handle: Handle) -> Option<&Grant> {
        self.member(handle).map(|member| &member.grant)
    }

    fn replace(&mut self, handle: Handle) {
        self.totals.replaced += 1;
        self.end_peer(handle, LeaveReason::Replaced, false);
    }

    /// Whether nothing comes from a peer that has no socket.
    fn is_gone(&self, handle: Handle) -> bool {
        self.sockets.of(handle).is_none()
            && self.member(handle).is_some_and(|member| is_gone(member, &self.workers, &self.sockets))
    }

    /// Whether a peer goes when another one would be refused for it.
    fn gives_way(&self, handle: &Handle) -> bool {
        let is_silent = |peer| self.workers.get(&handle.worker).is_some_and(|worker| worker.plan.is_peer_silent(peer));
        self.peers.contains_key(handle) && self.sockets.of(*handle).is_none() && is_silent(handle.peer)
    }

    fn give_way(&mut self, handle: Handle) {
        self.totals.gave_way += 1;
        self.end_peer(handle, LeaveReason::TimedOut, true);
    }

    fn make_room_in(&mut self, room: &str) {
        let members = self.members_of(room);
        let excess = (members.len() + 1).saturating_sub(self.settings_of(room).peers_max as usize);
        let going: Vec<Handle> = members.into_iter().filter(|handle| self.gives_way(handle)).take(excess).collect();
        if going.len() == excess {
            going.into_iter().for_each(|handle| self.give_way(handle));
        }
    }

    /// Where there is no room for one room more, one goes in which nobody is left.
    fn make_room_for_a_room(&mut self, room: &str) {
        if self.rooms.contains_key(room) || self.rooms.len() < self.settings.rooms_max {
            return;
        }
        let over =
            self.rooms.iter().find(|(_, hosted)| self.is_over(hosted.room.members())).map(|(name, _)| name.clone());
        for handle in over.map(|name| self.members_of(&name)).unwrap_or_default() {
            self.give_way(handle);
        }
    }

    /// Whether all of these give way.
    fn is_over(&self, members: &[Member]) -> bool {
        members.iter().all(|member| self.gives_way(&Handle::of(member.peer)))
    }

    fn make_room_on_worker(&mut self, room: &str, (streams, slots): (usize, usize)) {
        let Ok(index) = self.worker_for(room) else { return };
        let has_room = |engine: &Self| engine.workers.get(&index).is_none_or(|w| w.plan.has_room(streams, slots));
        if has_room(self) {
            return;
        }
        let is_there = |handle: &&Handle| handle.worker == index && self.gives_way(handle);
        for handle in self.peers.keys().filter(is_there).copied().collect::<Vec<Handle>>() {
            if has_room(self) {
                return;
            }
            self.give_way(handle);
        }
    }
}

/// Of whom in a room nothing comes, and who speaks.
pub(super) fn of_room(room: &Room, speakers: &Speakers, workers: &Workers, sockets: &Sockets) -> Absence {
    let (speaking, spoke) = (speakers.placed().into_iter().collect(), speakers.recent().collect());
    let mut absence = Absence { speaking, spoke, ..Absence::default() };
    // Whether others elsewhere are there, their own edges know, and of what is not wanted nothing comes.
    for member in room.members().iter().filter(|member| member.elsewhere.is_none()) {
        let Some(worker) = workers.get(&member.peer.worker()) else { continue };
        let silent = member.published().filter(|track| track.is_silent(&worker.plan));
        absence.silent.extend(silent.map(|track| track.stream));
        if is_gone(member, workers, sockets) {
            absence.gone.insert(member.peer);
        }
    }
    absence
}

/// Whether a member may not be there any more: nothing at all comes from it, or nothing of what it says it sends, and it
/// has no socket.
fn is_gone(member: &Member, workers: &Workers, sockets: &Sockets) -> bool {
    let Some(plan) = workers.get(&member.peer.worker()).map(|worker| &worker.plan) else { return false };
    let mut active = member.published().filter(|track| track.is_active).peekable();
    let is_mute = active.peek().is_some() && active.all(|track| track.is_silent(plan));
    plan.is_peer_silent(member.peer) || (is_mute && sockets.of(Handle::of(member.peer)).is_none())
}
