//! Edits of the tables: commands are staged as they come and take effect whole at `Commit`, between two packets.
//! Also the reverse: a description of what is installed, for a controlplane that adopts it.

use proto::id::{PeerId, RouteId, SlotId, StreamId, TapId};
use proto::plane::{
    Codec, Command, Committed, Counter, Extension, MirrorOpen, PeerIce, Record, Refusal, Refused, RouteCodec,
    StreamCodec, TapOpen, feedback,
};
use zeroize::Zeroize;

use super::describe::Describing;
use super::{Flush, Forwarder, IntoReport};
use crate::bwe::Estimate;
use crate::config::{ARRIVALS_MAX, Micros, STAGED_MAX, STREAM_ROUTES_MAX};
use crate::headroom::Headroom;
use crate::outbox::Outbox;
use crate::police::Police;
use crate::relay::Message;
use crate::slot::{Route, Slot};
use crate::stream::{Stream, Tap};
use crate::timer::{PEER_TIMERS, STREAM_TIMERS};
use crate::transport::{SsrcOwner, Transport};
use crate::twcc::ArrivalLog;

impl Forwarder {
    /// Stages one command of the controlplane, or commits what is staged.
    pub fn apply(&mut self, now: Micros, record: &Record, egress: &mut impl Flush) {
        match Command::read(record) {
            None => self.refuse(0, 0, Refusal::Malformed, egress.outbox()),
            Some(Command::Commit(commit)) => {
                // Edits take effect between two packets.
                self.fan_out(now, egress);
                self.commit(now, commit.batch, egress.outbox());
            }
            Some(command) if self.staged.len() < STAGED_MAX => self.staged.push(command),
            Some(command) => self.refuse(command.tag(), index_of(&command), Refusal::BatchFull, egress.outbox()),
        }
        self.flush_if_full(now, egress);
    }

    fn commit(&mut self, now: Micros, batch: u64, out: &mut Outbox) {
        let staged = std::mem::take(&mut self.staged);
        self.batch = batch;
        for command in &staged {
            if let Err(refusal) = self.edit(now, command, out) {
                self.refuse(command.tag(), index_of(command), refusal, out);
            }
        }
        self.staged = staged;
        self.clear_staged();
        let mut links = std::mem::take(&mut self.touched_links);
        links.sort_unstable();
        links.dedup();
        links.drain(..).for_each(|link| self.settle_candidates(now, link, out));
        self.touched_links = links;
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched.iter().for_each(|slot| self.look_again(*slot));
        for slot in touched.drain(..) {
            if let Some(peer) = self.slots.at(slot).map(|slot| slot.open.peer.index) {
                self.review_sending(now, peer, out);
            }
            self.choose(now, slot, out);
        }
        self.touched = touched;
        self.batch = batch.wrapping_add(1);
        self.counters[Counter::PeersOpen as usize] = self.peers.occupied() as u64;
        self.counters[Counter::RoutesOpen as usize] = self.routes.occupied() as u64;
        out.report(Committed { batch }.into_report());
    }

    /// Forgets edits that a controlplane staged and, being gone, will never commit.
    pub fn discard_staged(&mut self) {
        self.clear_staged();
        self.describing = None;
    }

    /// Keys leave no copy behind where they were staged.
    fn clear_staged(&mut self) {
        for command in &mut self.staged {
            if let Command::PeerKeys(keys) = command {
                keys.key.zeroize();
                keys.salt.zeroize();
            }
        }
        self.staged.clear();
    }

    fn refuse(&mut self, tag: u16, index: u32, refusal: Refusal, out: &mut Outbox) {
        out.report(Refused { batch: self.batch, tag, index, refusal }.into_report());
    }

    fn edit(&mut self, now: Micros, command: &Command, out: &mut Outbox) -> Result<(), Refusal> {
        match command {
            Command::PeerOpen(open) => {
                let PeerId { index, generation } = open.peer;
                if self.demux.peer_named(&open.ufrag).is_some() {
                    return Err(Refusal::Occupied);
                }
                self.peers.open(index, generation, Transport::new(*open, now))?;
                self.reserve_timers();
                self.demux.name(open.ufrag, index);
            }
            Command::PeerIce(ice) => {
                self.restart_ice(ice)?;
                self.candidates_changed(now, ice.peer.index, out);
            }
            Command::PeerRemote(remote) => {
                self.peer_mut(remote.peer)?.set_remote(remote)?;
                self.candidates_changed(now, remote.peer.index, out);
            }
            Command::PeerCandidate(candidate) => self.add_candidate(candidate)?,
            Command::PeerEdge(open) => self.open_over_link(now, open, out)?,
            Command::PeerExtensions(extensions) => {
                let peer = self.peer_mut(extensions.peer)?;
                peer.extension_ids = extensions.ids;
                peer.extensions_open = Some(*extensions);
                peer.prepare_sending(now);
                self.await_layers(extensions.peer);
            }
            Command::PeerKeys(keys) => {
                self.peer_mut(keys.peer)?.set_keys(keys)?;
                self.became_ready(now, keys.peer.index, out);
            }
            Command::PeerClose(close) => self.close_peer(close.peer, out)?,
            Command::PeerLimit(limit) => self.limit_peer(limit, out)?,
            Command::PeerRate(rate) => {
                let peer = self.peer_mut(rate.peer)?;
                police(&mut peer.police, rate.bps_max, rate.packets_max, now);
                peer.rate_open = Some(*rate);
            }
            Command::StreamRate(rate) => {
                let StreamId { index, generation } = rate.stream;
                let stream = self.streams.find_mut(index, generation).filter(|stream| stream.mirror.is_none());
                let stream = stream.ok_or(Refusal::Unknown)?;
                police(&mut stream.police, rate.bps_max, rate.packets_max, now);
                stream.rate_open = Some(*rate);
            }
            Command::StreamGate(gate) => self.gate(gate)?,
            Command::StreamOpen(open) => self.open_stream(open)?,
            Command::StreamCodec(second) => self.add_stream_codec(second)?,
            Command::StreamEncoding(open) => self.open_encoding(now, open)?,
            Command::StreamEncodings(open) => self.open_encodings(open)?,
            Command::StreamSets(told) => {
                let StreamId { index, generation } = told.stream;
                self.streams.find_mut(index, generation).ok_or(Refusal::Unknown)?.add_sdp_sets(told)?;
            }
            Command::StreamClose(close) => self.close_stream(close.stream)?,
            Command::SlotOpen(open) => self.open_slot(now, open)?,
            Command::SlotShown(shown) => self.show_slot(shown)?,
            Command::SlotClose(close) => self.close_slot(close.slot, out)?,
            Command::RouteOpen(open) => self.open_route(open)?,
            Command::RouteCodec(second) => self.add_route_codec(now, second, out)?,
            Command::RouteClose(close) => self.close_route(close.route, out)?,
            Command::TapOpen(open) => self.open_tap(now, open, out)?,
            Command::TapClose(close) => self.close_tap(close.tap)?,
            Command::MirrorOpen(open) => self.open_mirror(open)?,
            Command::RelayOpen(open) => self.open_relay(open)?,
            Command::RelayRate(rate) => self.rate_relay(now, rate)?,
            Command::RelayClose(close) => self.close_relay(close)?,
            Command::Reset(_) => self.reset(),
            Command::Describe(_) => self.describing = Some(Describing::default()),
            Command::Commit(_) => unreachable!("a commit is never staged"),
        }
        Ok(())
    }

    /// The streams of a peer that has negotiated dependency descriptors may have layers.
    fn await_layers(&mut self, id: PeerId) {
        let Forwarder { peers, streams, .. } = self;
        let Some(peer) = peers.find(id.index, id.generation) else { return };
        if peer.extension_ids[Extension::DependencyDescriptor as usize] == 0 {
            return;
        }
        for &index in &peer.streams {
            streams.at_mut(index).into_iter().for_each(Stream::await_layers);
        }
    }

    pub(super) fn peer_mut(&mut self, id: PeerId) -> Result<&mut Transport, Refusal> {
        self.peers.find_mut(id.index, id.generation).ok_or(Refusal::Unknown)
    }

    /// Other credentials name the same transport. Where its packets go is not touched: media flows on the old pair until
    /// a check with the new credentials selects another (RFC 8445 §2.4).
    fn restart_ice(&mut self, ice: &PeerIce) -> Result<(), Refusal> {
        if self.demux.peer_named(&ice.ufrag).is_some() {
            return Err(Refusal::Occupied);
        }
        let before = self.peer_mut(ice.peer)?.restart_ice(ice);
        self.demux.unname(&before);
        self.demux.name(ice.ufrag, ice.peer.index);
        Ok(())
    }

    fn open_stream(&mut self, open: &proto::plane::StreamOpen) -> Result<(), Refusal> {
        let StreamId { index, generation } = open.stream;
        let transport = self.peers.find_mut(open.peer.index, open.peer.generation).ok_or(Refusal::Unknown)?;
        if open.red_pt != 0 && (open.codec.is_video() || open.red_pt == open.pt) {
            return Err(Refusal::Malformed);
        }
        transport.may_open(open.ssrc, open.rtx_ssrc)?;
        let has_video = |index: &&u32| self.streams.at(**index).is_some_and(|stream| stream.open.codec.is_video());
        let others = transport.streams.iter().filter(has_video).count();
        self.streams.open(index, generation, Stream::new(*open, others))?;
        let stream = self.streams.at_mut(index).expect("it was just opened");
        if transport.extension_ids[Extension::DependencyDescriptor as usize] != 0 {
            stream.await_layers();
        }
        transport.streams.push(index);
        transport.reserve_ssrcs();
        if open.feedback & feedback::TRANSPORT_CC != 0 {
            transport.arrivals.get_or_insert_with(|| Box::new(ArrivalLog::new(ARRIVALS_MAX)));
        }
        if open.feedback & feedback::REMB != 0 {
            transport.estimate.get_or_insert_with(|| Box::new(Estimate::new()));
        }
        for (ssrc, window, is_rtx) in
            [(open.ssrc, &mut stream.window, false), (open.rtx_ssrc, &mut stream.rtx_window, true)]
        {
            if ssrc != 0 {
                *window = transport.recall(ssrc).unwrap_or_default();
                transport.bind_ssrc(SsrcOwner { ssrc, stream: index, is_rtx });
            }
        }
        self.share_kept(open.peer.index);
        self.reserve_timers();
        Ok(())
    }

    /// The packet path sets timers without taking memory for them.
    fn reserve_timers(&mut self) {
        self.timers.reserve(PEER_TIMERS * self.peers.occupied() + STREAM_TIMERS * self.streams.occupied());
    }

    fn open_slot(&mut self, now: Micros, open: &proto::plane::SlotOpen) -> Result<(), Refusal> {
        let SlotId { index, generation } = open.slot;
        let transport = self.peers.find_mut(open.peer.index, open.peer.generation).ok_or(Refusal::Unknown)?;
        if self.slots.at(index).is_some() {
            return Err(Refusal::Occupied);
        }
        transport.use_slot_ssrcs(open.ssrc, open.rtx_ssrc)?;
        self.slots.open(index, generation, Slot::new(*open))?;
        transport.slots.push((open.ssrc, index));
        transport.prepare_sending(now);
        Ok(())
    }

    /// A slot may have routes from several encodings of one track. Which of them it takes is chosen when all is committed.
    fn open_route(&mut self, open: &proto::plane::RouteOpen) -> Result<(), Refusal> {
        let RouteId { index, generation } = open.route;
        let stream = self.streams.find(open.stream.index, open.stream.generation).ok_or(Refusal::Unknown)?;
        let slot = self.slots.find_mut(open.slot.index, open.slot.generation).ok_or(Refusal::Unknown)?;
        let (track, is_video) = (stream.track(), stream.open.codec.is_video());
        let is_another = |route: u32| {
            let of_route = self.routes.at(route).map(|route| route.open.stream);
            let of_stream = of_route.and_then(|id| self.streams.at(id.index));
            of_route == Some(open.stream) || of_stream.is_none_or(|of_stream| of_stream.track() != track)
        };
        if !slot.choice.has_room() || slot.choice.routes().any(is_another) {
            return Err(Refusal::Occupied);
        }
        if stream.receivers.len() >= STREAM_ROUTES_MAX {
            return Err(Refusal::TableFull);
        }
        let is_as_is = Route::is_repaired_as_is(open);
        if (is_as_is && stream.open.codec.is_video()) || (open.red_pt != 0 && !is_as_is) {
            return Err(Refusal::Malformed);
        }
        self.routes.open(index, generation, Route { open: *open, second: None })?;
        if Route::is_repaired_as_is(open) {
            slot.keep_moments();
        }
        slot.choice.add(index);
        slot.sender.set_video(is_video);
        let stream = self.streams.at_mut(open.stream.index).expect("it was found above");
        stream.receivers.push(open.slot.index);
        stream.reserve_hops();
        self.touched.push(open.slot.index);
        Ok(())
    }

    /// Relays a stream to another worker from the next packet on. Somebody there waits for a keyframe.
    fn open_tap(&mut self, now: Micros, open: &TapOpen, out: &mut Outbox) -> Result<(), Refusal> {
        let TapOpen { tap: TapId { index, generation }, stream: id, worker, mirror } = *open;
        self.check_worker(worker)?;
        let stream = self.streams.find_mut(id.index, id.generation).ok_or(Refusal::Unknown)?;
        if stream.mirror.is_some() || stream.taps.iter().any(|tap| tap.worker == worker) {
            return Err(Refusal::Occupied);
        }
        self.taps.open(index, generation, *open)?;
        stream.taps.push(Tap { tap: index, worker, mirror, is_taken: true, is_wanted: false, room: Headroom::NONE });
        if let Some(clock) = stream.sender_report {
            let _ = out.relay(worker, Message::clock(mirror, stream.ssrc, clock)); // Else the next report brings it.
        }
        if let Some(sets) = &stream.sets {
            let _ = out.relay_sets(worker, mirror, sets.as_bytes()); // Else when a keyframe is asked for.
        }
        match stream.encoding.is_some() {
            true => self.tell_encoding(now, id.index, out), // Who takes it there asks for a keyframe.
            false => self.want_keyframe(now, id.index, out),
        }
        Ok(())
    }

    fn open_mirror(&mut self, open: &MirrorOpen) -> Result<(), Refusal> {
        self.check_worker(open.worker)?;
        let StreamId { index, generation } = open.stream;
        let publisher = (open.worker, open.publisher);
        let others = self.mirrored.get(&publisher).copied().unwrap_or(0);
        self.streams.open(index, generation, Stream::mirror(*open, others))?;
        if open.codec.is_video() {
            self.mirrored.insert(publisher, others + 1);
        }
        self.reserve_timers();
        Ok(())
    }

    /// A mirror of video is closed.
    fn forget_mirrored(&mut self, publisher: (u16, PeerId)) {
        match self.mirrored.get_mut(&publisher) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.mirrored.remove(&publisher)),
        }
    }

    /// Whether there is another worker of this number.
    fn check_worker(&self, worker: u16) -> Result<(), Refusal> {
        let (index, workers) = self.worker;
        let worker = usize::from(worker);
        if worker < workers && worker != index { Ok(()) } else { Err(Refusal::Unknown) }
    }

    /// Asks for a keyframe of a stream if the receiver in `slot` waits for one and can be sent it.
    pub(super) fn want_keyframe_for(&mut self, now: Micros, stream: StreamId, slot: u32, out: &mut Outbox) {
        let Some(receiver) = self.slots.at(slot).map(|slot| slot.open.peer.index) else { return };
        let is_ready = self.peers.at(receiver).is_some_and(|peer| peer.outgoing().is_some());
        if is_ready && self.streams.at(stream.index).is_some_and(|stream| stream.awaits_keyframe(slot)) {
            self.keyframe_awaited(now, receiver, stream, out);
        }
    }

    fn add_stream_codec(&mut self, second: &StreamCodec) -> Result<(), Refusal> {
        let StreamId { index, generation } = second.stream;
        let stream = self.streams.find_mut(index, generation).ok_or(Refusal::Unknown)?;
        if stream.second.is_some() {
            return Err(Refusal::Occupied);
        }
        let open = &stream.open;
        let pts = [open.pt, open.rtx_pt].map(|pt| pt != 0 && (pt == second.pt || pt == second.rtx_pt));
        let is_same = second.codec == open.codec || second.pt == second.rtx_pt || pts.contains(&true);
        // The timestamps of a stream go on through a change of codec, so the clock must be the same.
        if is_same || second.pt == 0 || second.codec.clock_rate() != open.codec.clock_rate() {
            return Err(Refusal::Malformed);
        }
        stream.second = Some(*second);
        if second.codec == Codec::H264 {
            stream.sets.get_or_insert_default();
        }
        if second.codec == Codec::Vp9 {
            stream.await_layers();
        }
        Ok(())
    }

    fn add_route_codec(&mut self, now: Micros, second: &RouteCodec, out: &mut Outbox) -> Result<(), Refusal> {
        let RouteId { index, generation } = second.route;
        let route = self.routes.find_mut(index, generation).ok_or(Refusal::Unknown)?;
        if route.second.is_some() {
            return Err(Refusal::Occupied);
        }
        let (stream, slot) = (route.open.stream, route.open.slot.index);
        let of_stream = self.streams.at_mut(stream.index).ok_or(Refusal::Unknown)?;
        if of_stream.second.is_none_or(|of_stream| of_stream.codec != second.codec) {
            return Err(Refusal::Malformed);
        }
        route.second = Some(*second);
        if let Some(hop) = of_stream.hops.iter_mut().find(|hop| hop.route == index) {
            hop.pts[1] = second.pt;
        }
        // In the first codec it was asked for when the route was opened.
        if of_stream.format.index == 1 {
            self.want_keyframe_for(now, stream, slot, out);
        }
        Ok(())
    }

    fn close_peer(&mut self, id: PeerId, out: &mut Outbox) -> Result<(), Refusal> {
        self.drop_waiting(id);
        let transport = self.peers.find(id.index, id.generation).ok_or(Refusal::Unknown)?;
        let (streams, slots) = (transport.streams.clone(), transport.slots.clone());
        for index in streams {
            if let Some(stream) = self.streams.at(index).map(|s| s.open.stream) {
                self.close_stream(stream)?;
            }
        }
        for (_, index) in slots {
            if let Some(slot) = self.slots.at(index).map(|s| s.open.slot) {
                self.close_slot(slot, out)?;
            }
        }
        self.leave_link(id.index);
        self.forget_candidates(id.index);
        let transport = self.peers.close(id.index, id.generation).expect("it was found above");
        self.link_is_gone(&transport);
        self.demux.unname(&transport.open.ufrag);
        for path in transport.paths.iter() {
            self.demux.unbind(path, id.index);
        }
        Ok(())
    }

    fn close_stream(&mut self, id: StreamId) -> Result<(), Refusal> {
        let stream = self.streams.close(id.index, id.generation).ok_or(Refusal::Unknown)?;
        if let Some(mirror) = stream.mirror.as_ref().filter(|mirror| mirror.open.codec.is_video()) {
            self.forget_mirrored((mirror.open.worker, mirror.open.publisher));
        }
        if let Some(transport) = self.peers.find_mut(stream.open.peer.index, stream.open.peer.generation) {
            transport.streams.retain(|&s| s != id.index);
            transport.by_ssrc.retain(|o| o.stream != id.index);
            transport.disown_others(id.index);
            for (ssrc, window) in [(stream.ssrc, stream.window), (stream.rtx_ssrc, stream.rtx_window)] {
                if window.highest().is_some() {
                    transport.remember_other(ssrc, None, window.into());
                }
            }
        }
        for tap in stream.taps.iter().filter_map(|tap| self.taps.at(tap.tap)).map(|open| open.tap).collect::<Vec<_>>() {
            self.taps.close(tap.index, tap.generation);
        }
        for &index in &stream.receivers {
            let Some(slot) = self.slots.at_mut(index) else { continue };
            for route in slot.choice.routes() {
                if let Some(open) = self.routes.at(route).map(|route| route.open).filter(|open| open.stream == id) {
                    slot.close_route(route);
                    self.routes.close(route, open.route.generation);
                }
            }
            self.touched.push(index);
        }
        Ok(())
    }

    fn close_slot(&mut self, id: SlotId, out: &mut Outbox) -> Result<(), Refusal> {
        let slot = self.slots.close(id.index, id.generation).ok_or(Refusal::Unknown)?;
        if let Some(transport) = self.peers.find_mut(slot.open.peer.index, slot.open.peer.generation) {
            transport.slots.retain(|&(_, s)| s != id.index);
        }
        for route in slot.choice.routes() {
            let Some(open) = self.routes.at(route).map(|route| route.open) else { continue };
            if slot.choice.wanted == Some(route) {
                self.wants_less(open.stream.index);
            }
            self.close_route(open.route, out)?;
        }
        Ok(())
    }

    fn close_route(&mut self, id: RouteId, out: &mut Outbox) -> Result<(), Refusal> {
        let route = self.routes.close(id.index, id.generation).ok_or(Refusal::Unknown)?;
        let (stream, slot) = (route.open.stream, route.open.slot);
        if let Some(stream) = self.streams.find_mut(stream.index, stream.generation) {
            stream.hops.retain(|h| h.route != id.index);
            stream.receivers.retain(|receiver| *receiver != slot.index);
        }
        if let Some(slot) = self.slots.find_mut(slot.index, slot.generation)
            && slot.close_route(id.index)
        {
            self.wants_less(stream.index);
        }
        self.tell_taken(stream.index, out);
        self.touched.push(slot.index);
        Ok(())
    }

    fn close_tap(&mut self, id: TapId) -> Result<(), Refusal> {
        let open = self.taps.close(id.index, id.generation).ok_or(Refusal::Unknown)?;
        if let Some(stream) = self.streams.find_mut(open.stream.index, open.stream.generation) {
            stream.taps.retain(|tap| tap.tap != id.index);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.taps.clear();
        self.relays.clear();
        self.mirrored.clear();
        self.routes.clear();
        self.slots.clear();
        self.streams.clear();
        self.peers.clear();
        self.demux.clear();
        // Ids may come back under a new numbering; what was kept or set for them must not.
        self.timers.clear();
        self.store.clear();
        self.queues.clear();
    }
}

/// Has a peer or a stream policed at a rate from now on.
fn police(place: &mut Option<Box<Police>>, bps: u32, packets: u32, now: Micros) {
    match place {
        Some(police) => police.set(bps, packets, now),
        None => *place = Some(Box::new(Police::new(bps, packets, now))),
    }
}

/// The index of the object that a command names, for a refusal.
fn index_of(command: &Command) -> u32 {
    match command {
        Command::PeerOpen(c) => c.peer.index,
        Command::PeerIce(c) => c.peer.index,
        Command::PeerRemote(c) => c.peer.index,
        Command::PeerCandidate(c) => c.peer.index,
        Command::PeerEdge(c) => c.peer.index,
        Command::PeerExtensions(c) => c.peer.index,
        Command::PeerKeys(c) => c.peer.index,
        Command::PeerClose(c) => c.peer.index,
        Command::PeerLimit(c) => c.peer.index,
        Command::PeerRate(c) => c.peer.index,
        Command::StreamRate(c) => c.stream.index,
        Command::StreamGate(c) => c.stream.index,
        Command::StreamOpen(c) => c.stream.index,
        Command::StreamCodec(c) => c.stream.index,
        Command::StreamEncoding(c) => c.stream.index,
        Command::StreamEncodings(c) => c.stream.index,
        Command::StreamSets(c) => c.stream.index,
        Command::StreamClose(c) => c.stream.index,
        Command::SlotOpen(c) => c.slot.index,
        Command::SlotShown(c) => c.slot.index,
        Command::SlotClose(c) => c.slot.index,
        Command::RouteOpen(c) => c.route.index,
        Command::RouteCodec(c) => c.route.index,
        Command::RouteClose(c) => c.route.index,
        Command::TapOpen(c) => c.tap.index,
        Command::TapClose(c) => c.tap.index,
        Command::MirrorOpen(c) => c.stream.index,
        Command::RelayOpen(c) => c.relay.index,
        Command::RelayRate(c) => c.relay.index,
        Command::RelayClose(c) => c.relay.index,
        Command::Reset(_) | Command::Describe(_) | Command::Commit(_) => 0,
    }
}
