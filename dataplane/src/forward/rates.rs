//! Which rate the publisher of an encoding is told: what all of its receivers have room for ([`crate::headroom`]), on whichever worker, at
//! whichever edge. An edge that gets an encoding from another tells that one's worker, which takes it for the room of the slot between them.

use proto::plane::EncodingRate;

use super::{Forwarder, IntoReport};
use crate::config::{Micros, PEER_STREAMS_MAX};
use crate::headroom::Headroom;
use crate::outbox::Outbox;
use crate::rtcp::Rooms;

impl Forwarder {
    /// What the receivers of an encoding have room for, those of other workers included.
    pub(super) fn room_of(&self, index: u32) -> Headroom {
        let Some(stream) = self.streams.at(index) else { return Headroom::NONE };
        let here = stream.hops.iter().map(|hop| self.room_of_slot(hop.slot));
        let there = stream.taps.iter().filter(|tap| tap.is_taken).map(|tap| tap.room);
        here.chain(there).fold(Headroom::NONE, Headroom::and)
    }

    /// What all who get something through a slot have room for.
    fn room_of_slot(&self, slot: u32) -> Headroom {
        let Some(slot) = self.slots.at(slot) else { return Headroom::NONE };
        let edge = self.peers.at(slot.open.peer.index).and_then(|transport| transport.edge.as_ref());
        slot.room.and(edge.map_or(Headroom::NONE, |edge| edge.room_of(slot.open.ssrc)))
    }

    /// A receiver has room for so much of the encoding that it was given. If that is less than it had, the publisher is told at once.
    pub(super) fn set_room(&mut self, now: Micros, slot: u32, room: Headroom, out: &mut Outbox) {
        let before = self.room_of_slot(slot);
        if let Some(of_slot) = self.slots.at_mut(slot) {
            of_slot.room = room;
        }
        self.room_changed(now, slot, before, out);
    }

    /// Another edge says what its receivers have room for.
    pub(super) fn rooms_told(&mut self, now: Micros, peer: u32, rooms: &Rooms<'_>, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer).filter(|transport| transport.edge_open().is_some()) else {
            return;
        };
        let slots = &transport.slots;
        if let Some(edge) = &mut transport.edge {
            edge.rooms.retain(|(ssrc, _)| slots.iter().any(|(of, _)| of == ssrc));
        }
        for (ssrc, room) in rooms.rooms().take(PEER_STREAMS_MAX) {
            let Some(slot) = self.slot_of(peer, ssrc) else { continue };
            let before = self.room_of_slot(slot);
            if let Some(edge) = self.peers.at_mut(peer).and_then(|transport| transport.edge.as_mut()) {
                edge.set_room(ssrc, room);
            }
            self.room_changed(now, slot, before, out);
        }
    }

    fn room_changed(&mut self, now: Micros, slot: u32, before: Headroom, out: &mut Outbox) {
        if !self.room_of_slot(slot).is_less_than(before) {
            return;
        }
        let Some(choice) = self.slots.at(slot).map(|slot| &slot.choice) else { return };
        for route in [choice.live, choice.next] {
            let stream = route.and_then(|route| self.routes.at(route)).map(|route| route.open.stream.index);
            if let Some(stream) = stream {
                self.room_falls(now, stream, out);
            }
        }
    }

    fn room_falls(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.encoding.is_some()) else { return };
        let (id, Some(mirror)) = (stream.open.stream, &stream.mirror) else {
            return self.review_rate(now, index, false, out);
        };
        let (before, room) = (mirror.room, self.room_of(index));
        let Some(mirror) = self.streams.at_mut(index).and_then(|stream| stream.mirror.as_mut()) else { return };
        mirror.room = room;
        if room.is_less_than(before) {
            let _ = out.relay(mirror.open.worker, mirror.taken(id));
        }
    }

    /// A publisher's report is due: tells the rates of its encodings.
    pub(super) fn review_rates(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        for at in 0..PEER_STREAMS_MAX {
            let index = self.peers.at(peer).and_then(|transport| transport.streams.get(at)).copied();
            let Some(index) = index else { break };
            if let Some(stream) = self.streams.at_mut(index) {
                let bps = stream.rate.bps(now);
                let encoding = stream.encoding.as_mut().filter(|_| stream.is_flowing);
                encoding.into_iter().for_each(|encoding| encoding.rates.measured(now, bps));
            }
            self.review_rate(now, index, true, out);
        }
        self.tell_rooms(peer, out);
    }

    /// Tells the rate of an encoding, if it is another one. Between two reports only a lower one is.
    pub(super) fn review_rate(&mut self, now: Micros, index: u32, is_report: bool, out: &mut Outbox) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.encoding.is_some()) else { return };
        let room = if stream.is_flowing { self.room_of(index) } else { Headroom::NONE };
        let Some(stream) = self.streams.at_mut(index) else { return };
        let (id, peer) = (stream.open.stream, stream.open.peer.index);
        let Some(encoding) = &mut stream.encoding else { return };
        let bps = encoding.rates.update(now, room, is_report);
        let told = encoding.room_told;
        if self.peers.at(peer).is_some_and(|transport| transport.edge_open().is_some()) {
            if !is_report && room.is_less_than(told) {
                self.tell_rooms(peer, out);
            }
        } else if let Some(bps) = bps {
            out.report(EncodingRate { stream: id, bps }.into_report());
        }
    }

    /// Tells another edge what the receivers here have room for, of the encodings that come from there: with each report, because what is told
    /// may be lost.
    fn tell_rooms(&mut self, peer: u32, out: &mut Outbox) {
        if self.peers.at(peer).and_then(|transport| transport.edge_open()).is_none() {
            return;
        }
        let (mut rooms, mut count) = ([(0, Headroom::NONE); PEER_STREAMS_MAX], 0);
        for at in 0..PEER_STREAMS_MAX {
            let index = self.peers.at(peer).and_then(|transport| transport.streams.get(at)).copied();
            let Some(index) = index else { break };
            let room = self.room_of(index);
            let Some(stream) = self.streams.at_mut(index).filter(|stream| stream.is_flowing) else { continue };
            let (ssrc, Some(encoding)) = (stream.open.ssrc, &mut stream.encoding) else { continue };
            encoding.room_told = room;
            rooms[count] = (ssrc, room);
            count += 1;
        }
        if count > 0 {
            self.send_rtcp(peer, out, |writer, sender| {
                writer.rooms(sender, &rooms[..count]);
            });
        }
    }
}
