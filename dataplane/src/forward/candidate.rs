//! Candidates of other edges: addresses that the controlplane knows are asked, without waiting for a check from there, and once one of
//! them has answered all are probed. What is believed of them is in [`crate::paths`], which of them is used in [`crate::overlay`].

use proto::flow::is_flow;
use proto::plane::{Counter, PEER_CANDIDATES_MAX, PeerCandidate, PeerEdge, Refusal};
use proto::stun::TransactionId;

use super::{Forwarder, IntoReport};
use crate::config::{CHECK_INTERVAL, CONSENT_INTERVAL, Micros, PATH_HELD};
use crate::demux::FlowOwner;
use crate::outbox::Outbox;
use crate::path::Path;
use crate::timer::{BUCKET, Timer};

impl Forwarder {
    /// Takes a remote candidate of a peer, in the place of the one that has its number. They are looked at when all is committed, so
    /// that candidates may change their numbers.
    pub(super) fn add_candidate(&mut self, told: &PeerCandidate) -> Result<(), Refusal> {
        let flows = [told.send_flow, told.receive_flow];
        let are_flows = flows == [0; 2] || flows.into_iter().all(is_flow);
        if usize::from(told.place) >= PEER_CANDIDATES_MAX || !are_flows {
            return Err(Refusal::Malformed);
        }
        if told.remote.port() != 0 {
            self.sockets.path_to(told.remote, 0).ok_or(Refusal::Unknown)?;
        }
        let owner = FlowOwner::Candidate(told.peer.index);
        if self.peer_mut(told.peer)?.edge_open().is_some() {
            return Err(Refusal::Malformed);
        }
        if told.receive_flow != 0 && self.demux.owner_of(told.receive_flow).is_some_and(|holder| holder != owner) {
            return Err(Refusal::Occupied);
        }
        let candidates = &mut self.peer_mut(told.peer)?.edge_mut().candidates;
        let before = match candidates.iter_mut().find(|candidate| candidate.place == told.place) {
            Some(candidate) => std::mem::replace(candidate, *told).receive_flow,
            None => {
                candidates.push(*told);
                0
            }
        };
        let is_open = |candidate: &PeerCandidate| candidate.remote.port() != 0;
        if !candidates.iter().any(|candidate| is_open(candidate) && candidate.receive_flow == before) {
            self.demux.unbind_flow(before, owner);
        }
        if told.receive_flow != 0 && is_open(told) {
            self.demux.bind_flow(told.receive_flow, owner);
        }
        self.touched_links.push(told.peer.index);
        Ok(())
    }

    /// The candidates of a peer are those that were told of it now.
    pub(super) fn settle_candidates(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        self.set_candidates(now, index, None);
        let Some(peer) = self.peers.at_mut(index) else { return };
        peer.is_expired &= !peer.paths.has_candidates();
        // The path that was in use is a candidate no more, and another one is good.
        let good = peer.edge.as_ref().and_then(|edge| edge.probing.first_good(now));
        if peer.paths.selected().is_none()
            && let Some(path) = good
        {
            self.use_path(now, index, path, out);
        }
        self.candidates_changed(now, index, out);
    }

    /// The same, where the candidate of a number has not answered in so many rounds of checks: the next ones leave by the next socket.
    pub(super) fn set_candidates(&mut self, now: Micros, index: u32, turned: Option<(u8, u8)>) {
        let Forwarder { peers, sockets, demux, transaction_ids, .. } = self;
        let Some(peer) = peers.at_mut(index) else { return };
        let paths = &mut peer.paths;
        let mut told = [(0, Path::default()); PEER_CANDIDATES_MAX];
        let mut count = 0;
        for candidate in peer.edge.iter().flat_map(|edge| &edge.candidates) {
            let through = |turn: u8| Some(sockets.path_to(candidate.remote, turn)?.through(candidate.send_flow));
            let is_new = told[..count]
                .iter()
                .all(|(_, path): &(u8, Path)| path.remote != candidate.remote || path.relay() != candidate.send_flow);
            let path = match turned.filter(|(place, _)| *place == candidate.place) {
                Some((_, rounds)) => through(rounds),
                None => paths.candidate_to(candidate.remote, candidate.send_flow).or_else(|| through(0)),
            };
            if let Some(path) = path.filter(|path| is_new && path.remote.port() != 0) {
                told[count] = (candidate.place, path);
                count += 1;
            }
        }
        let told = &told[..count];
        for gone in paths.set_candidates(told, now).into_iter().flatten() {
            demux.unbind(gone, index);
        }
        if let Some((place, rounds)) = turned {
            paths.set_rounds(place, rounds);
        }
        peer.edge_mut().probing.set(told, now, || transaction_ids.next().0);
    }

    /// A peer is closed: nobody passes on for it any more.
    pub(super) fn forget_candidates(&mut self, index: u32) {
        let Some(peer) = self.peers.at(index) else { return };
        for told in peer.candidates() {
            self.demux.unbind_flow(told.receive_flow, FlowOwner::Candidate(index));
        }
    }

    /// Begins to ask those candidates of a peer that are to be asked.
    pub(super) fn ask_candidates(&mut self, now: Micros, index: u32) {
        while let Some(path) = self.peers.at(index).and_then(|peer| peer.paths.candidate_to_ask()) {
            self.bind_candidate(now, index, path);
            let id = self.transaction_ids.next();
            let Some(peer) = self.peers.at_mut(index) else { break };
            peer.paths.begin_asking(path, id, now);
            if !std::mem::replace(&mut peer.is_consent_timer_set, true) {
                self.timers.set(now + CONSENT_INTERVAL, Timer::Consent { peer: peer.id });
            }
        }
    }

    /// The answer of a candidate finds the peer by its address. Another peer may have that, as long as it is heard of.
    fn bind_candidate(&mut self, now: Micros, index: u32, path: Path) {
        let holder = self.demux.peer_at(path);
        if holder == Some(index) {
            return;
        }
        let heard_at = holder.and_then(|holder| self.peers.at(holder)?.paths.path_heard_at(path));
        if heard_at.is_none_or(|at| now >= at + PATH_HELD) {
            self.demux.bind(path, index);
        }
    }

    /// Something of a peer has changed on which it depends whether its candidates can be asked.
    pub(super) fn candidates_changed(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        if self.peers.at(index).is_some_and(|peer| peer.paths.has_candidates()) {
            self.link_moved(now, index, out);
            self.send_due_checks(now, index, out);
        }
    }

    /// Sends the probes of a link that are due, moves to another path if that is better, and tells what was measured; when there is
    /// something to do again. `None` if nothing is probed: nobody has answered yet.
    pub(super) fn probe_link(&mut self, now: Micros, index: u32, out: &mut Outbox) -> Option<Micros> {
        let selected = self.peers.at(index).filter(|peer| peer.paths.has_candidates())?.paths.selected()?;
        let is_used = self.peers.at(index).is_some_and(|peer| peer.is_used_link());
        while let Some((path, id)) = self.peers.at_mut(index)?.edge_mut().probing.poll(now, is_used, selected) {
            self.bind_candidate(now, index, path);
            let is_sent = self.send_binding(now, index, path, id, out);
            self.count(Counter::PathProbesSent, u64::from(is_sent));
        }
        self.review_link(now, index, out);
        let peer = self.peers.at_mut(index)?;
        let id = peer.id;
        let probing = &mut peer.edge_mut().probing;
        while let Some(measured) = probing.poll_measured(now, is_used, id) {
            out.report(measured.into_report());
        }
        let due = probing.poll_timeout()?;
        Some(due.clamp(now + BUCKET, now + CHECK_INTERVAL))
    }

    /// An authentic answer may be that to a probe. False if it is none, or came before.
    pub(super) fn probe_answered(
        &mut self,
        now: Micros,
        index: u32,
        path: Path,
        id: TransactionId,
        out: &mut Outbox,
    ) -> bool {
        let probing = self.peers.at_mut(index).and_then(|peer| Some(&mut peer.edge.as_mut()?.probing));
        if !probing.is_some_and(|probing| probing.answered(path, id, now)) {
            return false;
        }
        self.count(Counter::PathProbesAnswered, 1);
        self.peer_heard(index, out);
        self.address_answered(now, index, path, out);
        self.review_link(now, index, out);
        true
    }

    /// Something came over a transport by a path of its link: what it says of the paths is taken up there.
    pub(super) fn media_crossed(&mut self, now: Micros, transport: u32, path: Path, out: &mut Outbox) {
        let Some(edge) = self.peers.at_mut(transport).and_then(|transport| transport.edge.as_mut()) else { return };
        let counted = edge.crossed.take();
        let Some(PeerEdge { edge: link, .. }) = edge.open else { return };
        let Some(peer) = self.peers.find_mut(link.index, link.generation) else { return };
        let Some(selected) = peer.paths.selected() else { return };
        if peer.edge_mut().probing.crossed(now, [selected, path], counted) {
            self.review_link(now, link.index, out);
        }
    }

    /// Leaves the path of a link for another one, if that is better.
    fn review_link(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(peer) = self.peers.at_mut(index) else { return };
        let Some(selected) = peer.paths.selected() else { return };
        let edge = peer.edge_mut();
        let to = edge.probing.look(now, selected);
        let is_second_other = std::mem::replace(&mut edge.second, edge.probing.second()) != edge.second;
        if let Some(path) = to {
            self.use_path(now, index, path, out);
            self.count(Counter::PathsMoved, 1);
        }
        if is_second_other {
            self.link_moved(now, index, out);
        }
    }

    /// The packets of a link go to this candidate from now on.
    fn use_path(&mut self, now: Micros, index: u32, path: Path, out: &mut Outbox) {
        if self.peers.at_mut(index).is_some_and(|peer| peer.paths.use_candidate(path)) {
            self.report_path(index, out);
            self.became_ready(now, index, out);
            self.link_moved(now, index, out);
        }
    }
}
