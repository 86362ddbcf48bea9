//! Taking over what a worker has installed for an earlier controlplane: it is desired as it stands, under its ids.

use proto::id::{PeerId, SlotId, StreamId};
use proto::plane::{Command, MirrorOpen, RouteOpen, TapOpen};

use super::Plan;
use super::place::{Class, Place};

impl Plan {
    /// Desires a peer as it is installed, with the streams and slots named. `false`, and nothing is desired, unless
    /// all of it is there and both keys are.
    pub(crate) fn adopt_peer(&mut self, peer: PeerId, streams: &[StreamId], slots: &[SlotId]) -> bool {
        let keys = [Class::RxKeys, Class::TxKeys].map(|class| Place::new(class, peer.index));
        self.adopt_places(peer, &keys, streams, slots)
    }

    /// The same of a transport over a link.
    pub(crate) fn adopt_transport(&mut self, peer: PeerId, streams: &[StreamId], slots: &[SlotId]) -> bool {
        let is_adopted = self.adopt_peer(peer, streams, slots);
        self.remote.extend(is_adopted.then_some(peer));
        is_adopted
    }

    /// The same of the end of a link to another edge, which has no keys.
    pub(crate) fn adopt_link(&mut self, peer: PeerId) -> bool {
        let is_adopted = self.adopt_places(peer, &[], &[], &[]);
        self.remote.extend(is_adopted.then_some(peer));
        is_adopted
    }

    fn adopt_places(&mut self, peer: PeerId, keys: &[Place], streams: &[StreamId], slots: &[SlotId]) -> bool {
        let mut places = vec![Place::new(Class::Peer, peer.index)];
        places.extend(keys);
        places.extend(streams.iter().map(|stream| Place::new(Class::Stream, stream.index)));
        places.extend(slots.iter().map(|slot| Place::new(Class::Slot, slot.index)));
        let is_there = |place: &Place| match self.installed_at(*place) {
            Some(Command::StreamOpen(c)) => c.peer == peer && streams.contains(&c.stream),
            Some(Command::SlotOpen(c)) => c.peer == peer && slots.contains(&c.slot),
            Some(Command::MirrorOpen(_)) => false,
            Some(other) => self.owner(&other) == Some(peer),
            None => false,
        };
        if !places.iter().all(is_there) || !self.adopt_ids(peer, streams, slots) {
            return false;
        }
        places.extend(Class::Peer.parts().iter().map(|class| Place::new(*class, peer.index)));
        for stream in streams {
            places.extend(Class::Stream.parts().iter().map(|class| Place::new(*class, stream.index)));
        }
        for slot in slots {
            places.extend(Class::Slot.parts().iter().map(|class| Place::new(*class, slot.index)));
        }
        for place in places {
            if let Some(command) = self.installed_at(place) {
                self.set(place, Some(command), Some(command));
            }
        }
        true
    }

    /// All of the ids or none: the journal is input, and the tables may be smaller than those of who wrote it.
    fn adopt_ids(&mut self, peer: PeerId, streams: &[StreamId], slots: &[SlotId]) -> bool {
        if !self.peers.adopt_all(&[peer]) {
            return false;
        }
        if !self.streams.adopt_all(streams) {
            self.peers.release(peer);
            return false;
        }
        if !self.slots.adopt_all(slots) {
            self.peers.release(peer);
            streams.iter().for_each(|&stream| self.streams.release(stream));
            return false;
        }
        true
    }

    /// Desires a route as it is installed. `false` if its id is not to be had.
    pub(crate) fn adopt_route(&mut self, route: &RouteOpen) -> bool {
        let is_free = self.routes.adopt(route.route);
        if is_free {
            self.want(*route);
            if let Some(second) = self.installed_at(Place::new(Class::RouteCodec, route.route.index)) {
                self.want(second);
            }
        }
        is_free
    }

    /// Desires a mirror as it is installed. `false` if its id is not to be had.
    pub(crate) fn adopt_mirror(&mut self, mirror: &MirrorOpen) -> bool {
        let is_free = self.streams.adopt(mirror.stream);
        if is_free {
            self.want(*mirror);
            for class in [Class::StreamCodec, Class::StreamEncoding] {
                if let Some(part) = self.installed_at(Place::new(class, mirror.stream.index)) {
                    self.want(part);
                }
            }
        }
        is_free
    }

    /// Desires a tap as it is installed. `false` if its id is not to be had.
    pub(crate) fn adopt_tap(&mut self, tap: &TapOpen) -> bool {
        let is_free = self.taps.adopt(tap.tap);
        if is_free {
            self.want(*tap);
        }
        is_free
    }

    /// What is installed, wanted or not, as far as `pick` wants it.
    pub(crate) fn installed<T>(&self, pick: impl Fn(&Command) -> Option<T>) -> Vec<T> {
        let same = self.desired.iter().filter(|(place, _)| !self.different.contains(place));
        let apart = self.apart.iter().map(|(&place, &command)| (place, command));
        let mut installed: Vec<(Place, Command)> = same.chain(apart).collect();
        installed.sort_by_key(|(place, _)| *place);
        installed.into_iter().filter_map(|(_, command)| pick(&command)).collect()
    }
}
