//! Candidates of other edges: addresses that the controlplane knows are asked, without waiting for a check from there. What is
//! believed of them is in [`crate::paths`].

use proto::plane::{PEER_CANDIDATES_MAX, PeerCandidate, Refusal};

use super::Forwarder;
use crate::config::{CONSENT_INTERVAL, Micros, PATH_HELD};
use crate::outbox::Outbox;
use crate::path::Path;
use crate::timer::Timer;

impl Forwarder {
    /// Takes a remote candidate of a peer, in the place of the one that has its number.
    pub(super) fn add_candidate(&mut self, now: Micros, told: &PeerCandidate) -> Result<(), Refusal> {
        if usize::from(told.place) >= PEER_CANDIDATES_MAX || (told.send_flow, told.receive_flow) != (0, 0) {
            return Err(Refusal::Malformed);
        }
        let path = match told.remote.port() {
            0 => None,
            _ => Some(self.sockets.path_to(told.remote, 0).ok_or(Refusal::Unknown)?),
        };
        let peer = self.peer_mut(told.peer)?;
        if peer.edge_open().is_some() {
            return Err(Refusal::Malformed);
        }
        let candidates = &mut peer.edge_mut().candidates;
        match candidates.iter_mut().find(|candidate| candidate.place == told.place) {
            Some(candidate) => *candidate = *told,
            None => candidates.push(*told),
        }
        self.place_candidate(now, told.peer.index, (told.place, path), 0);
        Ok(())
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
        if let Some(path) = self.sockets.path_to(told.remote, rounds) {
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
