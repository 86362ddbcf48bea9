//! Which encoding of a track each slot takes ([`crate::choice`] has what a slot knows of it), and what follows when that changes:
//! the slot becomes a receiver of one stream and stops being one of another, the publisher is asked for a keyframe, and where the
//! stream comes from another worker, that is told whether anybody here takes it. The change itself is a matter of packets, and
//! is in [`super::fanout`].
//!
//! Where nothing limits its receiver ([`super::pace`]), a slot takes the best encoding that flows. An encoding flows from its first packet until it is silent; its
//! publisher may stop it while the others go on, which is noticed within some frames ([`crate::simulcast`]).

use proto::id::StreamId;
use proto::plane::{Counter, EncodingIdle, EncodingWanted, Refusal, StreamEncoding, TRACK_ENCODINGS_MAX};

use super::{Forwarder, IntoReport};
use crate::choice::Want;
use crate::config::{ENCODING_IDLE_REPORTS, ENCODING_TOLD_INTERVAL, MILLISECOND, Micros, PEER_STREAMS_MAX};
use crate::headroom::Headroom;
use crate::layers_allocation::LayersAllocation;
use crate::outbox::Outbox;
use crate::relay::Message;
use crate::simulcast::Encoding;
use crate::size::Size;
use crate::store::Kept;
use crate::stream::{Stream, Tap};
use crate::timer::Timer;

/// An encoding of the track in a slot.
#[derive(Clone, Copy, Default)]
struct Ranked {
    route: u32,
    /// Index of its stream.
    stream: u32,
    is_flowing: bool,
    place: u8,
    size: Size,
}

/// When a mirror first tells whether it is taken: by then what was committed with it is there.
const FIRST_TOLD: Micros = 100 * MILLISECOND;

impl Forwarder {
    /// The encodings of the track in a slot, in the order of quality: rank (0 is the worst), index of the stream, and whether it
    /// flows.
    pub fn encodings_of(&self, slot: u32) -> impl Iterator<Item = (u8, u32, bool)> + use<> {
        let (ranked, count) = self.ranked(slot);
        (0..).zip(ranked).take(count).map(|(rank, encoding)| (rank, encoding.stream, encoding.is_flowing))
    }

    /// Has a slot stop at once what it takes, without waiting for a keyframe of what it is to take instead. That is wanted next.
    pub(super) fn leave_encoding(&mut self, now: Micros, slot: u32, out: &mut Outbox) {
        if let Some(of_slot) = self.slots.at_mut(slot) {
            of_slot.choice.want = Want::Paused;
            self.choose(now, slot, out);
        }
    }

    /// Has a slot take no better encoding than that of this rank; `None` pauses it, and no video leaves through it until it is
    /// wanted again, from a keyframe on.
    pub fn want_encoding(&mut self, now: Micros, slot: u32, want: Option<u8>, out: &mut Outbox) {
        let Some(of_slot) = self.slots.at_mut(slot) else { return };
        let want = want.map_or(Want::Paused, Want::Rank);
        if std::mem::replace(&mut of_slot.choice.want, want) != want {
            let is_pause = want == Want::Paused && !of_slot.is_hidden();
            self.count(Counter::SlotsPaused, is_pause.into());
            self.choose(now, slot, out);
        }
    }

    /// The encodings in the order of quality: by the size of their pictures if all are known, else in the order of `a=simulcast`,
    /// from the first or from the last, whichever agrees with the sizes that are.
    fn ranked(&self, slot: u32) -> ([Ranked; TRACK_ENCODINGS_MAX], usize) {
        let (mut ranked, mut count) = ([Ranked::default(); TRACK_ENCODINGS_MAX], 0);
        let routes = self.slots.at(slot).into_iter().flat_map(|slot| slot.choice.routes());
        for route in routes {
            let Some(stream) = self.routes.at(route).map(|of_route| of_route.open.stream.index) else { continue };
            let Some(of_stream) = self.streams.at(stream) else { continue };
            let (place, size) = of_stream.encoding.as_ref().map_or_else(Default::default, |e| (e.open.place, e.size));
            ranked[count] = Ranked { route, stream, is_flowing: of_stream.is_flowing, place, size };
            count += 1;
        }
        let known = &mut ranked[..count];
        known.sort_unstable_by_key(|encoding| encoding.place);
        if known.iter().all(|encoding| encoding.size.pixels() > 0) {
            known.sort_unstable_by_key(|encoding| (encoding.size.pixels(), encoding.place));
        } else if known.iter().map(|e| e.size.pixels()).filter(|pixels| *pixels > 0).is_sorted_by(|a, b| a > b)
            && known.iter().filter(|encoding| encoding.size.pixels() > 0).count() > 1
        {
            known.reverse();
        }
        (ranked, count)
    }

    /// The route that a slot should take.
    fn target(&self, slot: u32) -> Option<u32> {
        let choice = &self.slots.at(slot)?.choice;
        let (ranked, count) = self.ranked(slot);
        let rank_max = match choice.want {
            Want::Paused => return None,
            Want::Best => count,
            Want::Rank(rank) => rank.into(),
        };
        if count == 1 {
            return Some(ranked[0].route);
        }
        let flowing = || ranked[..count].iter().enumerate().filter(|(_, encoding)| encoding.is_flowing);
        // What is better than wanted is better than nothing, until somebody says otherwise.
        let best = flowing().rfind(|(rank, _)| *rank <= rank_max).or_else(|| flowing().next());
        best.map(|(_, encoding)| encoding.route).or(choice.next).or(choice.live)
    }

    /// Has a slot take the encoding that it should, or wait for it.
    pub(super) fn choose(&mut self, now: Micros, slot: u32, out: &mut Outbox) {
        self.choose_flowing(now, slot, out);
        self.note_wanted(slot, out);
    }

    /// The route that a slot would take if all encodings were flowing.
    fn wanted(&self, slot: u32) -> Option<u32> {
        let want = self.slots.at(slot)?.choice.want;
        let (ranked, count) = self.ranked(slot);
        let best = count.checked_sub(1)?;
        match want {
            Want::Paused => None,
            Want::Best => Some(ranked[best].route),
            Want::Rank(rank) => Some(ranked[best.min(rank.into())].route),
        }
    }

    /// Notes with the encodings which of them a slot wants, and tells who asks for them.
    fn note_wanted(&mut self, slot: u32, out: &mut Outbox) {
        let wanted = self.wanted(slot);
        let Some(choice) = self.slots.at_mut(slot).map(|slot| &mut slot.choice) else { return };
        let before = std::mem::replace(&mut choice.wanted, wanted);
        if before == wanted {
            return;
        }
        let stream_of = |route: u32| self.routes.at(route).map(|route| route.open.stream.index);
        let (before, wanted) = (before.and_then(stream_of), wanted.and_then(stream_of));
        if let Some(before) = before {
            self.wants_less(before);
            self.tell_taken(before, out);
        }
        let Some(wanted) = wanted else { return };
        let encoding = self.streams.at_mut(wanted).and_then(|stream| stream.encoding.as_mut());
        encoding.into_iter().for_each(|encoding| encoding.wanted_by += 1);
        self.tell_taken(wanted, out);
        self.end_idleness(wanted, out);
    }

    /// A slot does not want an encoding any more.
    pub(super) fn wants_less(&mut self, index: u32) {
        let encoding = self.streams.at_mut(index).and_then(|stream| stream.encoding.as_mut());
        encoding.into_iter().for_each(|encoding| encoding.wanted_by = encoding.wanted_by.saturating_sub(1));
    }

    /// Tells which encodings of a peer nobody has wanted for a while. The smallest that flows is always of use: a receiver whose
    /// link becomes narrow goes on with it at once.
    pub(super) fn review_demand(&mut self, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        for &index in peers.at(peer).into_iter().flat_map(|transport| &transport.streams) {
            let Some(stream) = streams.at(index) else { continue };
            let Some(encoding) = &stream.encoding else { continue };
            let quality = |encoding: &Encoding| (encoding.size.pixels(), encoding.open.place);
            let is_smaller = |other: &u32| {
                let other = streams.at(*other).filter(|other| other.is_flowing && other.track() == stream.track());
                let other = other.and_then(|other| other.encoding.as_ref());
                other.is_some_and(|other| quality(other) < quality(encoding))
            };
            let others = peers.at(peer).into_iter().flat_map(|transport| &transport.streams);
            let may_be_idle = !stream.is_wanted() && (encoding.is_idle || others.into_iter().any(is_smaller));
            let id = stream.open.stream;
            let Some(encoding) = streams.at_mut(index).and_then(|stream| stream.encoding.as_mut()) else { continue };
            encoding.unwanted_reports = if may_be_idle { encoding.unwanted_reports.saturating_add(1) } else { 0 };
            if encoding.unwanted_reports >= ENCODING_IDLE_REPORTS && !std::mem::replace(&mut encoding.is_idle, true) {
                out.report(EncodingIdle { stream: id }.into_report());
            }
        }
        for at in 0..PEER_STREAMS_MAX {
            let stream = self.peers.at(peer).and_then(|transport| transport.streams.get(at)).copied();
            if let Some(stream) = stream {
                self.end_idleness(stream, out);
            }
        }
    }

    /// Tells at once that an idle encoding is wanted, if it is.
    fn end_idleness(&mut self, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at_mut(index) else { return };
        let (id, is_wanted) = (stream.open.stream, stream.is_wanted());
        if let Some(encoding) = stream.encoding.as_mut().filter(|encoding| is_wanted && encoding.is_idle) {
            (encoding.is_idle, encoding.unwanted_reports) = (false, 0);
            out.report(EncodingWanted { stream: id }.into_report());
        }
    }

    fn choose_flowing(&mut self, now: Micros, slot: u32, out: &mut Outbox) {
        let target = self.target(slot);
        let Some(choice) = self.slots.at(slot).map(|slot| &slot.choice) else { return };
        let has_stopped = choice.live.is_some_and(|live| !self.is_flowing(live));
        if target.is_some() && target == choice.next || target == choice.live && choice.next.is_none() {
            return;
        }
        self.wait_no_more(now, slot, out);
        let Some(live) = self.slots.at(slot).map(|slot| slot.choice.live) else { return };
        if target == live {
            return;
        }
        if let Some(target) = target.filter(|_| live.is_some_and(|live| self.has_begun(slot, live))) {
            self.slots.at_mut(slot).expect("it was found above").choice.next = Some(target);
            return self.take(now, target, has_stopped, out);
        }
        if let Some(of_slot) = self.slots.at_mut(slot) {
            of_slot.rewriter.cut();
            (of_slot.choice.live, of_slot.choice.frame) = (target, None);
        }
        if let Some(live) = live {
            self.rest(live, out);
        }
        if let Some(target) = target {
            self.take(now, target, has_stopped, out);
        }
    }

    /// Whether something comes of the stream of a route.
    fn is_flowing(&self, route: u32) -> bool {
        let stream = self.routes.at(route).and_then(|route| self.streams.at(route.open.stream.index));
        stream.is_some_and(|stream| stream.is_flowing)
    }

    /// Whether a slot is being sent the stream of its live route: it has had a keyframe.
    fn has_begun(&self, slot: u32, route: u32) -> bool {
        let stream = self.routes.at(route).and_then(|route| self.streams.at(route.open.stream.index));
        let hop = stream.and_then(|stream| stream.hops.iter().find(|hop| hop.route == route));
        hop.is_some_and(|hop| !hop.awaits_keyframe)
            && self.slots.at(slot).is_some_and(|slot| slot.rewriter.timestamp_offset().is_some())
    }

    /// A slot does not wait for another encoding any more. If frames of the one that it takes were left out meanwhile, it needs a
    /// keyframe of that.
    fn wait_no_more(&mut self, now: Micros, slot: u32, out: &mut Outbox) {
        let Some(choice) = self.slots.at_mut(slot).map(|slot| &mut slot.choice) else { return };
        let Some(next) = choice.next.take() else { return };
        let (held, live) = (choice.held.take(), choice.live);
        self.rest(next, out);
        let Some(live) = live.filter(|_| held.is_some_and(|held| held.has_withheld)) else { return };
        let Some(stream) = self.routes.at(live).map(|route| route.open.stream) else { return };
        if let Some(of_slot) = self.slots.at_mut(slot) {
            of_slot.interrupt(live);
        }
        let hops = self.streams.at_mut(stream.index).map(|stream| &mut stream.hops);
        hops.into_iter().flatten().filter(|hop| hop.route == live).for_each(|hop| hop.awaits_keyframe = true);
        self.want_keyframe_for(now, stream, slot, out);
    }

    /// A slot becomes a receiver of the stream of one of its routes, from a keyframe on; `has_stopped`: because its publisher has stopped the one
    /// that it took.
    fn take(&mut self, now: Micros, route: u32, has_stopped: bool, out: &mut Outbox) {
        let Forwarder { routes, slots, streams, .. } = self;
        let Some(of_route) = routes.at(route) else { return };
        let (id, slot) = (of_route.open.stream, of_route.open.slot.index);
        let Some(peer) = slots.at(slot).map(|slot| slot.open.peer.index) else { return };
        let Some(stream) = streams.at_mut(id.index) else { return };
        let hop = of_route.hop(route, peer, stream.open.codec.is_video());
        let is_beginning = stream.encoding.as_ref().is_some_and(|encoding| encoding.is_beginning);
        if stream.hops.is_empty() {
            // A packet that is being received is kept from now on.
            stream.kept_from = stream.window.highest().map_or(0, |highest| highest + u64::from(!is_beginning));
        }
        match stream.hops.iter_mut().find(|hop| hop.route == route) {
            Some(place) => *place = hop,
            None => stream.hops.push(hop),
        }
        stream.keyframe.is_wanted |= is_beginning; // It is asked for if this packet does not begin one.
        self.tell_taken(id.index, out);
        if has_stopped && !is_beginning {
            // As often as that happens: a publisher that loses much starts and stops encodings, and its receivers would wait.
            self.want_keyframe(now, id.index, out);
        } else if !is_beginning {
            self.want_keyframe_for(now, id, slot, out);
        }
    }

    /// An encoding flows from the packet on that is received now: each slot that could take it chooses anew, before the packet is
    /// looked at, because it may begin the keyframe with which they change to it.
    pub(super) fn encoding_begins(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let set = |stream: Option<&mut Stream>, to| {
            let encoding = stream.and_then(|stream| stream.encoding.as_mut());
            encoding.into_iter().for_each(|encoding| {
                encoding.is_beginning = to;
                encoding.rates.begins(now);
            });
        };
        set(self.streams.at_mut(index), true);
        self.encoding_changed(now, index, out);
        set(self.streams.at_mut(index), false);
    }

    /// A slot is no receiver of the stream of one of its routes any more.
    fn rest(&mut self, route: u32, out: &mut Outbox) {
        let Some(stream) = self.routes.at(route).map(|route| route.open.stream.index) else { return };
        if let Some(stream) = self.streams.at_mut(stream) {
            stream.hops.retain(|hop| hop.route != route);
        }
        self.tell_taken(stream, out);
    }

    /// An encoding flows, or is silent, or its pictures have another size: each slot that could take it chooses anew.
    pub(super) fn encoding_changed(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let mut at = 0;
        while let Some(&slot) = self.streams.at(index).and_then(|stream| stream.receivers.get(at)) {
            self.choose(now, slot, out);
            at += 1;
        }
        self.tell_encoding(now, index, out);
    }

    /// A frame of one encoding of a track ended, at the time `at`: whether the others still flow.
    pub(super) fn review_encodings(&mut self, now: Micros, at: Micros, index: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        let Some(stream) = streams.at(index) else { return };
        let (track, publisher) = (stream.track(), stream.open.peer);
        let Some(transport) = peers.find(publisher.index, publisher.generation) else { return };
        let (mut silent, mut count) = ([0; TRACK_ENCODINGS_MAX], 0);
        for &other in transport.streams.iter().filter(|other| **other != index) {
            let Some(stream) = streams.at_mut(other).filter(|stream| stream.is_flowing) else { continue };
            let received_at = stream.encodings.received_at;
            let Some(encoding) = stream.encoding.as_mut().filter(|encoding| encoding.track() == track) else {
                continue;
            };
            if encoding.other_frame_ended(received_at, at) && count < silent.len() {
                stream.is_flowing = false;
                silent[count] = other;
                count += 1;
            }
        }
        for &other in &silent[..count] {
            self.encoding_changed(now, other, out);
        }
    }

    /// A publisher says in a packet of one encoding of a track what it sends of all of them (`video-layers-allocation`).
    pub(super) fn allocation_told(&mut self, now: Micros, at: Micros, index: u32, value: &[u8], out: &mut Outbox) {
        let Some(told) = LayersAllocation::read(value) else { return self.count(Counter::AllocationsMalformed, 1) };
        self.count(Counter::AllocationsReceived, 1);
        let Some(stream) = self.streams.at(index) else { return };
        let (track, publisher) = (stream.track(), stream.open.peer);
        for place in 0..PEER_STREAMS_MAX {
            let transport = self.peers.find(publisher.index, publisher.generation);
            let Some(&other) = transport.and_then(|transport| transport.streams.get(place)) else { return };
            let Some(stream) = self.streams.at_mut(other) else { continue };
            let Some(encoding) = stream.encoding.as_mut().filter(|encoding| encoding.track() == track) else {
                continue;
            };
            let allocated = told.streams.get(usize::from(encoding.open.place)).copied().unwrap_or_default();
            if encoding.told(allocated, at) {
                self.encoding_changed(now, other, out);
            }
        }
    }

    /// A stream is one of several encodings of a track.
    pub(super) fn open_encoding(&mut self, now: Micros, open: &StreamEncoding) -> Result<(), Refusal> {
        let StreamId { index, generation } = open.stream;
        let stream = self.streams.find(index, generation).ok_or(Refusal::Unknown)?;
        let is_possible = stream.open.codec.is_video() && usize::from(open.place) < TRACK_ENCODINGS_MAX;
        if !is_possible || open.rid.is_empty() || stream.encodings.are_known() {
            return Err(Refusal::Malformed);
        }
        let (publisher, mid) = (stream.open.peer, stream.open.mid);
        let others = self.peers.find(publisher.index, publisher.generation).into_iter().flat_map(|peer| &peer.streams);
        let has_rid = |index: &u32| {
            let other = self.streams.at(*index).filter(|other| other.open.mid == mid);
            other.and_then(|other| other.encoding.as_ref()).is_some_and(|other| other.open.rid == open.rid)
        };
        if stream.encoding.is_some() || others.into_iter().any(has_rid) {
            return Err(Refusal::Occupied);
        }
        let is_mirror = stream.mirror.is_some();
        let others = stream.mirror.as_ref().and_then(|mirror| {
            self.mirrored
                .get(&(mirror.open.worker, mirror.open.publisher))
                .map(|count| count.div_ceil(TRACK_ENCODINGS_MAX) - 1)
        });
        let stream = self.streams.find_mut(index, generation).expect("it was found above");
        stream.encoding = Some(Encoding::new(*open));
        if is_mirror {
            stream.kept = Kept::of_encoding(others.unwrap_or(0));
            self.timers.set(now + FIRST_TOLD, Timer::Taken { stream: open.stream });
        } else {
            self.share_kept(publisher.index);
        }
        Ok(())
    }

    /// Gives each stream of video of a peer from which nothing has come yet its quota of kept packets: by how many other tracks
    /// of video the peer had before, and whether it is one of several encodings of its own.
    pub(super) fn share_kept(&mut self, peer: u32) {
        let Forwarder { peers, streams, .. } = self;
        let Some(transport) = peers.at(peer) else { return };
        let (mut tracks, mut count) = ([StreamId::new(0, 0); PEER_STREAMS_MAX], 0);
        for &index in &transport.streams {
            let Some(stream) = streams.at_mut(index).filter(|stream| stream.open.codec.is_video()) else { continue };
            let track = stream.track();
            let others = tracks[..count].iter().position(|other| *other == track).unwrap_or_else(|| {
                tracks[count] = track;
                count += 1;
                count - 1
            });
            let kept = if stream.encoding.is_some() { Kept::of_encoding(others) } else { Kept::video(others) };
            let is_unused = stream.window.highest().is_none();
            if is_unused && stream.kept.quota() != kept.quota() {
                stream.kept = kept;
            }
        }
    }

    /// Tells the worker that receives an encoding whether anybody here takes it, if that is news.
    pub(super) fn tell_taken(&mut self, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.mirror.is_some()) else { return };
        let (id, is_taken) = (stream.open.stream, !stream.hops.is_empty());
        if stream.encoding.is_none() {
            return;
        }
        let is_wanted = stream.encoding.as_ref().is_some_and(|encoding| encoding.wanted_by > 0);
        let room = self.room_of(index);
        let Some(mirror) = self.streams.at_mut(index).and_then(|stream| stream.mirror.as_mut()) else { return };
        mirror.room = room;
        if (mirror.is_taken, mirror.is_wanted) != (is_taken, is_wanted) {
            (mirror.is_taken, mirror.is_wanted) = (is_taken, is_wanted);
            mirror.has_begun &= is_taken;
            let _ = out.relay(mirror.open.worker, mirror.taken(id));
        }
    }

    /// Tells it again.
    pub(super) fn taken_due(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        self.tell_taken(index, out);
        let Some(stream) = self.streams.at(index) else { return };
        let Some(mirror) = &stream.mirror else { return };
        let id = stream.open.stream;
        let _ = out.relay(mirror.open.worker, mirror.taken(id));
        self.timers.set(now + ENCODING_TOLD_INTERVAL, Timer::Taken { stream: id });
    }

    /// Another worker says whether anybody there takes an encoding, and wants it.
    pub(super) fn taken(
        &mut self,
        now: Micros,
        id: StreamId,
        mirror: StreamId,
        (is_taken, is_wanted, room): (bool, bool, Headroom),
        out: &mut Outbox,
    ) {
        let Some(stream) = self.streams.find_mut(id.index, id.generation) else { return };
        let Some(tap) = stream.taps.iter_mut().find(|tap| tap.mirror == mirror) else { return };
        tap.is_wanted = is_wanted;
        tap.room = room;
        if is_taken || is_wanted {
            self.end_idleness(id.index, out);
        }
        self.review_rate(now, id.index, false, out);
        let Some(stream) = self.streams.find_mut(id.index, id.generation) else { return };
        let Some(tap) = stream.taps.iter_mut().find(|tap| tap.mirror == mirror) else { return };
        if std::mem::replace(&mut tap.is_taken, is_taken) == is_taken || !is_taken {
            return;
        }
        let worker = tap.worker;
        if let Some(clock) = stream.sender_report {
            let _ = out.relay(worker, Message::clock(mirror, stream.ssrc, clock)); // Else the next report brings it.
        }
        self.relay_sets(id.index, out);
        self.tell_encoding(now, id.index, out);
    }

    /// Tells the workers with a mirror of an encoding how it is: what a slot there may take is known there although nobody takes it.
    pub(super) fn tell_encoding(&self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at(index).filter(|stream| stream.mirror.is_none()) else { return };
        let Some(encoding) = &stream.encoding else { return };
        let (is_flowing, size) = (stream.is_flowing, encoding.size);
        let (bps, expected) = (stream.bps(now), stream.expected_bps(now));
        for &Tap { worker, mirror, .. } in &stream.taps {
            // One that is lost is made up for within a second.
            let _ = out.relay(worker, Message::Encoding { mirror, is_flowing, size, bps, expected });
        }
    }

    /// The worker that receives an encoding says how it is.
    pub(super) fn encoding_told(
        &mut self,
        now: Micros,
        id: StreamId,
        (is_flowing, size, bps, expected): (bool, Size, u32, u32),
        out: &mut Outbox,
    ) {
        let stream = self.streams.find_mut(id.index, id.generation).filter(|stream| stream.mirror.is_some());
        let Some(stream) = stream else { return };
        let Some(encoding) = &mut stream.encoding else { return };
        (encoding.bps_there, encoding.expected_there) = (bps, expected);
        let is_news = (stream.is_flowing, encoding.size) != (is_flowing, size);
        (stream.is_flowing, encoding.size) = (is_flowing, size);
        if is_news {
            self.encoding_changed(now, id.index, out);
        }
    }
}
