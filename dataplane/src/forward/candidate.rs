//! Candidates of other edges: addresses that the controlplane knows are asked, without waiting for a check from there. What is
//! believed of them is in [`crate::paths`].

use proto::flow::is_flow;
use proto::plane::{PEER_CANDIDATES_MAX, PeerCandidate, Refusal};

use super::Forwarder;
use crate::config::{CONSENT_INTERVAL, Micros, PATH_HELD};
use crate::demux::FlowOwner;
use crate::outbox::Outbox;
use crate::path::Path;
use crate::timer::Timer;

impl Forwarder {
    /// Takes a remote candidate of a peer, in the place of the one that has its number.
    pub(super) fn add_candidate(&mut self, now: Micros, told: &PeerCandidate) -> Result<(), Refusal> {
        let flows = [told.send_flow, told.receive_flow];
        let are_flows = flows == [0; 2] || flows.into_iter().all(is_flow);
        if usize::from(told.place) >= PEER_CANDIDATES_MAX || !are_flows {
            return Err(Refusal::Malformed);
        }
        let path = match told.remote.port() {
            0 => None,
            _ => Some(self.path_of(told, 0).ok_or(Refusal::Unknown)?),
        };
        let owner = FlowOwner::Candidate(told.peer.index, told.place);
        let peer = self.peer_mut(told.peer)?;
        if peer.edge_open().is_some() {
            return Err(Refusal::Malformed);
        }
        let before = peer.candidates().iter().find(|candidate| candidate.place == told.place);
        let flow_before = before.map_or(0, |before| before.receive_flow);
        if told.receive_flow != 0 && self.demux.owner_of(told.receive_flow).is_some_and(|holder| holder != owner) {
            return Err(Refusal::Occupied);
        }
        self.demux.unbind_flow(flow_before, owner);
        if path.is_some() && told.receive_flow != 0 {
            self.demux.bind_flow(told.receive_flow, owner);
        }
        let peer = self.peer_mut(told.peer)?;
        let candidates = &mut peer.edge_mut().candidates;
        match candidates.iter_mut().find(|candidate| candidate.place == told.place) {
            Some(candidate) => *candidate = *told,
            None => candidates.push(*told),
        }
        self.place_candidate(now, told.peer.index, (told.place, path), 0);
        Ok(())
    }

    /// The path to a candidate by one of the worker's sockets in their turn.
    fn path_of(&self, told: &PeerCandidate, turn: u8) -> Option<Path> {
        self.sockets.path_to(told.remote, turn).map(|path| path.through(told.send_flow))
    }

    /// A peer is closed: nobody passes on for it any more.
    pub(super) fn forget_candidates(&mut self, index: u32) {
        let Some(peer) = self.peers.at(index) else { return };
        for told in peer.candidates() {
            self.demux.unbind_flow(told.receive_flow, FlowOwner::Candidate(index, told.place));
        }
    }

    fn place_candidate(&mut self, now: Micros, index: u32, (place, path): (u8, Option<Path>), rounds: u8) {
        let Some(peer) = self.peers.at_mut(index) else { return };
        let placed = peer.paths.place_candidate(place, path, rounds, now);
        peer.is_expired &= !peer.paths.has_candidates();
        for gone in placed.gone.into_iter().flatten() {
            self.demux.unbind(gone, index);
        }
    }

    /// Begins to ask those candidates of a peer that are to be asked.
    pub(super) fn ask_candidates(&mut self, now: Micros, index: u32) {
        while let Some(path) = self.peers.at(index).and_then(|peer| peer.paths.candidate_to_ask()) {
            // Its answer finds the peer by its address. Another peer may have that, as long as it is heard of.
            let holder = self.demux.peer_at(path).filter(|holder| *holder != index);
            let heard_at = holder.and_then(|holder| self.peers.at(holder)?.paths.path_heard_at(path));
            if heard_at.is_none_or(|at| now >= at + PATH_HELD) {
                self.demux.bind(path, index);
            }
            let id = self.transaction_ids.next();
            let Some(peer) = self.peers.at_mut(index) else { break };
            peer.paths.begin_check(path, id, now);
            if !std::mem::replace(&mut peer.is_consent_timer_set, true) {
                self.timers.set(now + CONSENT_INTERVAL, Timer::Consent { peer: peer.id });
            }
        }
    }

    /// The candidate of this number has not answered in so many rounds of checks: the next ones leave by the next socket.
    pub(super) fn turn_candidate(&mut self, now: Micros, index: u32, place: u8, rounds: u8) {
        let Some(peer) = self.peers.at(index) else { return };
        let Some(told) = peer.candidates().iter().find(|candidate| candidate.place == place) else { return };
        if let Some(path) = self.path_of(told, rounds) {
            self.place_candidate(now, index, (place, Some(path)), rounds);
        }
    }

    /// Something of a peer has changed on which it depends whether its candidates can be asked.
    pub(super) fn candidates_changed(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        if self.peers.at(index).is_some_and(|peer| peer.paths.has_candidates()) {
            self.link_moved(now, index, out);
            self.send_due_checks(now, index, out);
        }
    }
}
