//! Which rate the publisher of an encoding is told: what all of its receivers have room for ([`crate::headroom`]), on whichever worker.

use proto::plane::EncodingRate;

use super::{Forwarder, IntoReport};
use crate::config::{Micros, PEER_STREAMS_MAX};
use crate::headroom::Headroom;
use crate::outbox::Outbox;

impl Forwarder {
    /// What the receivers of an encoding have room for, those of other workers included.
    pub(super) fn room_of(&self, index: u32) -> Headroom {
        let Some(stream) = self.streams.at(index) else { return Headroom::NONE };
        let here = stream.hops.iter().filter_map(|hop| self.slots.at(hop.slot)).map(|slot| slot.room);
        let there = stream.taps.iter().filter(|tap| tap.is_taken).map(|tap| tap.room);
        here.chain(there).fold(Headroom::NONE, Headroom::and)
    }

    /// A receiver has room for so much of the encoding that it was given. If that is less than it had, the publisher is told at once.
    pub(super) fn set_room(&mut self, now: Micros, slot: u32, room: Headroom, out: &mut Outbox) {
        let Some(of_slot) = self.slots.at_mut(slot) else { return };
        let before = std::mem::replace(&mut of_slot.room, room);
        if !room.is_less_than(before) {
            return;
        }
        let choice = &of_slot.choice;
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
            let Some(index) = index else { return };
            if let Some(stream) = self.streams.at_mut(index) {
                let bps = stream.rate.bps(now);
                let encoding = stream.encoding.as_mut().filter(|_| stream.is_flowing);
                encoding.into_iter().for_each(|encoding| encoding.rates.measured(now, bps));
            }
            self.review_rate(now, index, true, out);
        }
    }

    /// Tells the rate of an encoding, if it is another one. Between two reports only a lower one is.
    pub(super) fn review_rate(&mut self, now: Micros, index: u32, is_report: bool, out: &mut Outbox) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.encoding.is_some()) else { return };
        let room = if stream.is_flowing { self.room_of(index) } else { Headroom::NONE };
        let Some(stream) = self.streams.at_mut(index) else { return };
        let id = stream.open.stream;
        let bps = stream.encoding.as_mut().and_then(|encoding| encoding.rates.update(now, room, is_report));
        if let Some(bps) = bps {
            out.report(EncodingRate { stream: id, bps }.into_report());
        }
    }
}
