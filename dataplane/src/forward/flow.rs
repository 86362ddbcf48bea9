//! Datagrams in flows between edges ([`proto::flow`]): those of transports, those that come through another edge, and those that this
//! worker passes on for others.
//!
//! What is passed on is neither opened nor stored: its flow is looked up, its source compared, its header written anew, and the rest
//! copied to where it leaves from. Behind the header of an edge that passes on may be another header, of a transport, and no more.

use proto::flow::{self, is_flow};
use proto::id::RelayId;
use proto::plane::{Counter, PeerCandidate, Refusal, RelayClose, RelayOpen, RelayRate};

use super::Forwarder;
use crate::config::{FRAME_LEN, Micros};
use crate::demux::{self, FlowOwner};
use crate::outbox::Outbox;
use crate::path::{Destination, Path};
use crate::police::{self, Police};

/// One direction in which datagrams of other edges are passed on.
pub(super) struct Relay {
    pub(super) open: RelayOpen,
    pub(super) rate: Option<RelayRate>,
    to: Destination,
    police: Option<Box<Police>>,
}

impl Forwarder {
    pub(super) fn open_relay(&mut self, open: &RelayOpen) -> Result<(), Refusal> {
        let RelayId { index, generation } = open.relay;
        if !is_flow(open.flow) || !is_flow(open.to_flow) || open.to.port() == 0 {
            return Err(Refusal::Malformed);
        }
        let path = self.sockets.path_to(open.to, 0).ok_or(Refusal::Unknown)?;
        if self.demux.owner_of(open.flow).is_some() {
            return Err(Refusal::Occupied);
        }
        let to = Destination::of_relay(index, path, open.to_flow);
        self.relays.open(index, generation, Relay { open: *open, rate: None, to, police: None })?;
        self.demux.bind_flow(open.flow, FlowOwner::Relay(index));
        Ok(())
    }

    pub(super) fn rate_relay(&mut self, now: Micros, rate: &RelayRate) -> Result<(), Refusal> {
        let RelayId { index, generation } = rate.relay;
        let relay = self.relays.find_mut(index, generation).ok_or(Refusal::Unknown)?;
        relay.rate = Some(*rate);
        match &mut relay.police {
            Some(police) => police.set(rate.bps_max, u32::MAX, now),
            None => relay.police = Some(Box::new(Police::new(rate.bps_max, u32::MAX, now))),
        }
        Ok(())
    }

    pub(super) fn close_relay(&mut self, close: &RelayClose) -> Result<(), Refusal> {
        let RelayId { index, generation } = close.relay;
        let relay = self.relays.close(index, generation).ok_or(Refusal::Unknown)?;
        self.demux.unbind_flow(relay.open.flow, FlowOwner::Relay(index));
        Ok(())
    }

    /// A datagram that begins with the header of a flow. `None` as in [`receive_bytes`](Self::receive_bytes).
    pub(super) fn receive_in_flow(
        &mut self,
        now: Micros,
        path: Path,
        at: Micros,
        bytes: &mut [u8],
        out: &mut Outbox,
    ) -> Option<Counter> {
        let flow = flow::parse(bytes);
        let owner = flow.and_then(|flow| self.demux.owner_of(flow));
        match owner {
            Some(FlowOwner::Transport(peer)) => {
                if !self.is_of_link(peer, path) {
                    return Some(Counter::DroppedFlowSource);
                }
                let bytes = &mut bytes[flow::HEADER_LEN..];
                let kind = demux::kind(bytes).filter(|kind| matches!(kind, demux::Kind::Rtp | demux::Kind::Rtcp));
                let Some(kind) = kind else { return Some(Counter::DroppedUnknownProtocol) };
                let fate = self.receive_of_peer(now, peer, kind, (path, at), bytes, out);
                self.media_crossed(now, peer, path, out);
                fate
            }
            // Behind the header of an edge that passes on there is no second one.
            Some(FlowOwner::Candidate(peer)) if path.relay() == 0 => {
                let of_flow = |told: &&PeerCandidate| flow == Some(told.receive_flow) && told.remote == path.remote;
                let candidate = self.peers.at(peer).and_then(|peer| {
                    let told = peer.candidates().iter().find(of_flow)?;
                    peer.paths.candidate_to(told.remote, told.send_flow)
                });
                let Some(candidate) = candidate else { return Some(Counter::DroppedFlowSource) };
                self.receive_bytes(now, candidate, at, &mut bytes[flow::HEADER_LEN..], out)
            }
            Some(FlowOwner::Relay(relay)) if path.relay() == 0 => {
                Some(self.pass_on(now, relay, path, &bytes[flow::HEADER_LEN..], out))
            }
            _ => Some(Counter::DroppedFlowUnknown),
        }
    }

    /// Passes on what is behind the header of a datagram of other edges.
    fn pass_on(&mut self, now: Micros, index: u32, path: Path, rest: &[u8], out: &mut Outbox) -> Counter {
        let Some(relay) = self.relays.at_mut(index) else { return Counter::DroppedFlowUnknown };
        if path.remote != relay.open.from {
            return Counter::DroppedFlowSource;
        }
        if rest.is_empty() {
            return Counter::DroppedUnknownProtocol;
        }
        if rest.len() > FRAME_LEN {
            return Counter::DroppedTooLarge;
        }
        if relay.police.is_none() || !police::admit([&mut relay.police, &mut None], rest.len(), now) {
            return Counter::DroppedFlowRate;
        }
        let is_sent = out.push_public(relay.to, |frame| {
            frame[..rest.len()].copy_from_slice(rest);
            rest.len()
        });
        // The outbox counts what it refuses.
        self.count(Counter::FlowsPassedOn, u64::from(is_sent));
        self.count(Counter::FlowsPassedOnBytes, u64::from(is_sent) * rest.len() as u64);
        Counter::Forwarded
    }
}
