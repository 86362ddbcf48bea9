//! Seats in rooms that other edges have, too: who waits for one, and who is asked for it ([`crate::edges::seats`]).

use std::collections::BTreeMap;
use std::time::Instant;

use proto::signal::{ClientSignal, TrackDescription};

use super::super::{Engine, Timer};
use crate::bus::{Claim, Order, Sender};
use crate::edges::message::Telling;
use crate::edges::seats::{Seat, Step};
use crate::ids::SocketId;
use crate::sdp::OpusParams;

/// An offer that waits for a seat.
pub(in crate::engine) struct Waiting {
    pub(super) room: String,
    pub(super) sdp: String,
    pub(super) tracks: Vec<TrackDescription>,
}

impl Engine {
    /// Whether a room has a seat for one more peer of this edge.
    pub(in crate::engine) fn seat_in(&mut self, now: Instant, room: &str) -> Seat {
        if self.edges.node.is_none() || !self.edges.is_connected {
            return Seat::Free; // What is known of the room is looked at in any case.
        }
        let (own, others) = self.count_in(room);
        let max = self.settings_of(room).peers_max as usize;
        let seats = self.edges.seats.entry(room.to_owned()).or_default();
        let (seat, step) = seats.seat(now, own, others, max);
        self.take_step(room, step);
        seat
    }

    /// What those declare of Opus who would receive a newcomer of this name and id. Before a room has begun here its owner has said it.
    pub(in crate::engine) fn listeners_in(&self, room: &str, name: &str, id: &str) -> Vec<OpusParams> {
        match self.room(room) {
            Some(room) => room.listeners(name, id),
            None => self.edges.seats.get(room).and_then(|seats| seats.hears()).into_iter().collect(),
        }
    }

    /// Members of a room: of this edge, and of others.
    fn count_in(&self, room: &str) -> (usize, usize) {
        let members = self.room(room).map(crate::room::Room::members).unwrap_or_default();
        let own = members.iter().filter(|member| member.elsewhere.is_none()).count();
        (own, members.len() - own)
    }

    fn take_step(&mut self, room: &str, step: Option<Step>) {
        match step {
            None => {}
            Some(Step::Claim(replaced)) => self.order(Order::Claim { room: room.to_owned(), replaced }),
            Some(Step::Ask(owner, count)) => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.tell_node(&owner.node, &Telling::Seat { room: room.to_owned(), count });
            }
        }
    }

    /// An offer waits for a seat.
    pub(in crate::engine) fn wait_for_seat(
        &mut self,
        socket: SocketId,
        room: &str,
        sdp: &str,
        tracks: &[TrackDescription],
    ) {
        let waiting = Waiting { room: room.to_owned(), sdp: sdp.to_owned(), tracks: tracks.to_vec() };
        self.edges.waiting.insert(socket, waiting);
        self.set_seats_timer();
    }

    /// A socket is gone, and with it its offer.
    pub(in crate::engine) fn no_longer_waits(&mut self, socket: SocketId) {
        if let Some(waiting) = self.edges.waiting.remove(&socket) {
            self.release_seats(&waiting.room);
        }
    }

    /// Offers that wait for a seat in a room are looked at again.
    fn seats_changed(&mut self, now: Instant, room: &str) {
        let waiting = self.edges.waiting.iter().filter(|(_, waiting)| waiting.room == room);
        for socket in waiting.map(|(socket, _)| *socket).collect::<Vec<_>>() {
            if let Some(Waiting { sdp, tracks, .. }) = self.edges.waiting.remove(&socket) {
                self.signal(now, socket, ClientSignal::Offer { sdp, tracks });
            }
        }
        self.set_seats_timer();
    }

    /// The answer to a claim.
    pub(super) fn claimed(&mut self, now: Instant, room: &str, claim: Claim) {
        let Some(ours) = self.edges.node.clone() else { return };
        let (own, _) = self.count_in(room);
        let parts: BTreeMap<String, usize> = self
            .rooms
            .get(room)
            .map(|hosted| hosted.remote.parts.iter().map(|(node, part)| (node.clone(), part.ids().count())).collect())
            .unwrap_or_default();
        let Some(seats) = self.edges.seats.get_mut(room) else {
            // Nobody needs it any more.
            if let Claim::Ours { revision } = claim {
                self.order(Order::Release { room: room.to_owned(), revision });
            }
            return;
        };
        let step = seats.claimed(now, claim, &ours, parts, own);
        self.take_step(room, step);
        self.seats_changed(now, room);
    }

    /// Another edge asks for seats, or gives some back.
    pub(super) fn seat_asked(&mut self, from: &Sender, room: &str, count: u32) {
        let (own, _) = self.count_in(room);
        let max = self.settings_of(room).peers_max as usize;
        let seats = self.edges.seats.get_mut(room);
        let given = seats.and_then(|seats| seats.asked(&from.node, count as usize, own, max));
        let hears = || OpusParams::together(&self.room(room)?.listeners("", ""));
        let telling = match given {
            Some(given) => {
                let count = u32::try_from(given).unwrap_or(u32::MAX);
                Telling::Seats { room: room.to_owned(), count, hears: hears() }
            }
            None => Telling::NotOwner { room: room.to_owned() },
        };
        if count > 0 || given.is_none() {
            self.tell_node(&from.node, &telling);
        }
        self.release_seats(room);
    }

    /// The owner has given seats.
    pub(super) fn seats_given(
        &mut self,
        now: Instant,
        from: &Sender,
        room: &str,
        (count, hears): (u32, Option<OpusParams>),
    ) {
        if let Some(seats) = self.edges.seats.get_mut(room) {
            seats.granted(from, count as usize, hears);
            self.seats_changed(now, room);
        }
    }

    /// The edge that was asked does not own the room.
    pub(super) fn not_owner(&mut self, from: &Sender, room: &str) {
        let step = self.edges.seats.get_mut(room).and_then(|seats| seats.disowned(&from.node));
        self.take_step(room, step);
    }

    /// A node is gone, or its process another one, which has the members of the one before.
    pub(super) fn seats_of_lost(&mut self, node: &str, is_gone: bool) {
        let mut steps = Vec::new();
        for (room, seats) in &mut self.edges.seats {
            if is_gone {
                seats.lost(node);
            }
            steps.push((room.clone(), seats.disowned(node)));
        }
        for (room, step) in steps {
            self.take_step(&room, step);
            self.release_seats(&room);
        }
    }

    /// The cluster is there again.
    pub(super) fn seats_reconnected(&mut self) {
        let rooms: Vec<String> = self.rooms.keys().cloned().collect();
        for room in rooms {
            self.edges.seats.entry(room).or_default();
        }
        let steps: Vec<_> =
            self.edges.seats.iter_mut().map(|(room, seats)| (room.clone(), seats.reconnected())).collect();
        for (room, step) in steps {
            self.take_step(&room, step);
        }
    }

    /// A room has fewer members of this edge than before.
    pub(in crate::engine) fn seat_returned(&mut self, room: &str) {
        let (own, _) = self.count_in(room);
        let step = self.edges.seats.get_mut(room).and_then(|seats| seats.returned(own));
        self.take_step(room, step);
        self.release_seats(room);
    }

    /// Gives up what nobody needs any more.
    fn release_seats(&mut self, room: &str) {
        let (own, _) = self.count_in(room);
        let has_waiting = self.edges.waiting.values().any(|waiting| waiting.room == room);
        let Some(seats) = self.edges.seats.get(room).filter(|_| !has_waiting) else { return };
        if let Some(revision) = seats.over(own) {
            self.edges.seats.remove(room);
            self.order(Order::Release { room: room.to_owned(), revision });
        } else if seats.is_idle(own) {
            self.edges.seats.remove(room);
        }
    }

    /// Nobody has answered in time: offers that wait are decided here.
    pub(in crate::engine) fn seats_due(&mut self, now: Instant) {
        let rooms: std::collections::BTreeSet<String> =
            self.edges.waiting.values().map(|waiting| waiting.room.clone()).collect();
        for room in rooms {
            let is_due = self.edges.seats.get(&room).is_none_or(|seats| seats.deadline().is_none_or(|at| at <= now));
            if is_due {
                self.seats_changed(now, &room);
            }
        }
        self.set_seats_timer();
    }

    fn set_seats_timer(&mut self) {
        let waits = |waiting: &Waiting| self.edges.seats.get(&waiting.room).and_then(|seats| seats.deadline());
        let due = self.edges.waiting.values().filter_map(waits).min();
        self.timers.set(Timer::Seats, due);
    }
}
