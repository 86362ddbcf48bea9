//! Transports over links. Between two edges there is one link for each pair of workers, a peer with candidates, and over it as many
//! transports as there are publishers and rooms: peers with keys, streams and slots, whose packets are in flows of their own.

use proto::flow::is_flow;
use proto::id::PeerId;
use proto::plane::{PeerEdge, Refusal};

use super::Forwarder;
use crate::config::{Micros, PEER_STREAMS_MAX};
use crate::demux::FlowOwner;
use crate::outbox::Outbox;
use crate::path::Path;
use crate::paths::Paths;
use crate::transport::Transport;

impl Forwarder {
    /// A peer becomes a transport over a link, or over another one.
    pub(super) fn open_over_link(&mut self, now: Micros, open: &PeerEdge, out: &mut Outbox) -> Result<(), Refusal> {
        let PeerEdge { peer: PeerId { index, .. }, edge, send_flow, receive_flow } = *open;
        if !is_flow(send_flow) || !is_flow(receive_flow) {
            return Err(Refusal::Malformed);
        }
        let peer = self.peer_mut(open.peer)?;
        if peer.paths.has_candidates() || !peer.transports().is_empty() {
            return Err(Refusal::Malformed);
        }
        if self.peer_mut(edge)?.edge_open().is_some() || edge == open.peer {
            return Err(Refusal::Malformed);
        }
        let owner = FlowOwner::Transport(index);
        if self.demux.owner_of(receive_flow).is_some_and(|holder| holder != owner) {
            return Err(Refusal::Occupied);
        }
        self.leave_link(index);
        let peer = self.peers.at_mut(index).expect("it was found above");
        // What it may have had of its own while it was no transport yet.
        for path in peer.paths.iter() {
            self.demux.unbind(path, index);
        }
        peer.paths = Paths::of_link();
        peer.is_expired = false;
        let of_transport = peer.edge_mut();
        of_transport.open = Some(*open);
        of_transport.rooms.reserve_exact(PEER_STREAMS_MAX);
        self.demux.bind_flow(receive_flow, owner);
        let link = self.peers.at_mut(edge.index).expect("it was found above");
        link.edge_mut().transports.push(index);
        self.link_moved(now, edge.index, out);
        Ok(())
    }

    /// A peer is a transport over no link any more.
    pub(super) fn leave_link(&mut self, index: u32) {
        let Some(edge) = self.peers.at_mut(index).and_then(|peer| peer.edge.as_mut()) else { return };
        edge.second = None;
        let Some(open) = edge.open.take() else { return };
        edge.rooms.clear();
        self.demux.unbind_flow(open.receive_flow, FlowOwner::Transport(index));
        if let Some(link) = self.peers.find_mut(open.edge.index, open.edge.generation) {
            link.edge_mut().transports.retain(|transport| *transport != index);
        }
    }

    /// A link has been closed: its transports have no path until they are given another link.
    pub(super) fn link_is_gone(&mut self, link: &Transport) {
        for &index in link.transports() {
            if let Some(transport) = self.peers.at_mut(index) {
                transport.paths.follow(None);
                transport.edge_mut().second = None;
            }
        }
    }

    /// The packets of a link may go elsewhere than before: so do those of its transports.
    pub(super) fn link_moved(&mut self, now: Micros, link: u32, out: &mut Outbox) {
        let mut at = 0;
        let second = self.peers.at(link).and_then(|link| link.edge.as_ref()?.second);
        while let Some((path, index)) =
            self.peers.at(link).and_then(|link| Some((link.paths.selected(), *link.transports().get(at)?)))
        {
            at += 1;
            let Some(transport) = self.peers.at_mut(index) else { continue };
            transport.edge_mut().second = second.filter(|_| path.is_some());
            if transport.paths.follow(path) {
                self.became_ready(now, index, out);
            }
        }
    }

    /// Whether a path is that of the link of a transport.
    #[inline]
    pub(super) fn is_of_link(&self, transport: u32, path: Path) -> bool {
        let open = self.peers.at(transport).and_then(|transport| transport.edge_open().copied());
        let link = open.and_then(|open| self.peers.find(open.edge.index, open.edge.generation));
        link.is_some_and(|link| link.paths.is_proved(path))
    }
}
