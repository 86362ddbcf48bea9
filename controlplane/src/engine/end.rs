//! How peers end: one by one, with their worker, or with the server.

use std::time::Instant;

use proto::signal::{LeaveReason, ServerSignal};

use super::{Engine, Handle, Hosted, Output, Timer};
use crate::happening::{Happening, Who};
use crate::member::Member;
use crate::peer::Peer;
use crate::placement::plan_of;
use crate::wiring::close_peer;

impl Engine {
    /// Ends a peer: tells it, frees what it holds, and notes that it left.
    pub(super) fn end_peer(&mut self, handle: Handle, reason: LeaveReason, rejoin: bool) {
        self.end_peer_because(handle, reason, rejoin, None);
    }

    /// The same, with more words on why for the operator.
    pub(super) fn end_peer_because(
        &mut self,
        handle: Handle,
        reason: LeaveReason,
        rejoin: bool,
        detail: Option<String>,
    ) {
        let Some(peer) = self.forget(handle, reason, rejoin) else { return };
        if peer.transport.is_connected() {
            self.write_journal(handle, None);
        }
        let Some(member) = self.leave_room(handle, &peer.room, reason) else { return };
        if let Some(plan) = plan_of(&mut self.workers, handle.worker) {
            close_peer(&member, plan);
        }
        self.has_left(&peer, &member, reason, detail);
    }

    /// Takes a peer out of a room, which ends with its last one. What the peer has on its worker stands.
    pub(super) fn leave_room(&mut self, handle: Handle, name: &str, reason: LeaveReason) -> Option<Member> {
        let Hosted { room, roster, wiring, speakers, remote, .. } = self.rooms.get_mut(name)?;
        let member = room.leave(handle.peer)?;
        if member.elsewhere.is_none() {
            remote.left(&member.id, reason);
        }
        roster.left(handle.peer, member.id.clone(), reason);
        speakers.leave(handle.peer);
        // At once: what a worker reports next of these routes is not about those who stay.
        wiring.leave(&member, &mut self.workers);
        if member.elsewhere.is_none() {
            self.close_exports(name, |export| export.want.peer == member.id);
        }
        self.no_longer_waited_for(name, handle);
        self.sender_left_across(name, &member.id);
        let is_own = |other: &Member| other.elsewhere.is_none();
        let has_left = member.elsewhere.is_none();
        if member.elsewhere.is_none() && !self.room(name).is_some_and(|room| room.members().iter().any(is_own)) {
            self.leave_to_others(name);
            if let Some(Hosted { wiring, .. }) = self.rooms.remove(name) {
                wiring.close_all(&mut self.workers);
            }
        } else {
            self.slots_changed(name);
        }
        if has_left {
            self.seat_returned(name);
        }
        Some(member)
    }

    fn has_left(&mut self, peer: &Peer, member: &Member, reason: LeaveReason, detail: Option<String>) {
        let who = Who { room: peer.room.clone(), peer: member.id.clone(), name: member.grant.name.clone() };
        self.happened(Happening::Left { who, reason, detail, stayed: self.time_since(peer.since) });
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
        if let Some(socket) = self.sockets.of(handle) {
            self.send(socket, ServerSignal::Bye { reason, rejoin });
            self.close_socket(socket);
        }
        Some(peer)
    }

    /// The worker is gone. So are the SRTP indices of its peers, and without them their keys must not be used again
    /// (RFC 3711 §9.1): they have to come anew.
    pub(super) fn unlinked(&mut self, index: usize) {
        if self.workers.remove(&index).is_none() {
            return;
        }
        self.lose_edges_on(index);
        for Hosted { wiring, .. } in self.rooms.values_mut() {
            wiring.lose_worker(index, &mut self.workers);
        }
        let reason = LeaveReason::MediaRestarted;
        let lost = self.peers.keys().filter(|handle| handle.worker == index);
        for handle in lost.copied().collect::<Vec<Handle>>() {
            let Some(peer) = self.forget(handle, reason, true) else { continue };
            if let Some(member) = self.leave_room(handle, &peer.room, reason) {
                self.has_left(&peer, &member, reason, None);
            }
        }
    }

    /// Every socket is told to come back; media stands, for a successor to adopt.
    pub(super) fn stop(&mut self, now: Instant) {
        self.is_stopping = true;
        for socket in self.sockets.all() {
            self.send(socket, ServerSignal::Bye { reason: LeaveReason::ServerStopping, rejoin: true });
            self.outputs.push_back(Output::CloseSocket { socket });
            self.socket_closed(now, socket);
        }
    }
}
