//! Edits of the tables: commands are staged as they come and take effect whole at `Commit`, between two packets.
//! Also the reverse: a description of what is installed, for a controlplane that adopts it.

use proto::id::{PeerId, RouteId, SlotId, StreamId, TapId};
use proto::plane::{
    Codec, Command, Committed, Counter, Described, Event, MirrorOpen, PeerExpired, PeerIce, PeerSilent, Record,
    Refusal, Refused, Report, RouteCodec, STREAM_SETS_PARTS_MAX, StreamCodec, StreamSilent, TapOpen, feedback,
};
use zeroize::Zeroize;

use crate::config::{ARRIVALS_MAX, Micros, STAGED_MAX, STREAM_ROUTES_MAX};
use crate::forward::{Forwarder, IntoReport};
use crate::outbox::Outbox;
use crate::relay::Message;
use crate::remb::Estimate;
use crate::route::{Hop, Route, Slot, Stream, Tap};
use crate::timer::{PEER_TIMERS, STREAM_TIMERS};
use crate::transport::{SsrcOwner, Transport};
use crate::twcc::ArrivalLog;

const _: () = assert!(STREAM_SETS_PARTS_MAX <= 5, "one echo holds a stream's parameter sets");

/// How far a description is: the kind of table and the index in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Describing {
    phase: u8,
    index: u32,
    count: u64,
}

impl Forwarder {
    /// Stages one command of the controlplane, or commits what is staged.
    pub fn apply(&mut self, now: Micros, record: &Record, out: &mut Outbox) {
        match Command::read(record) {
            None => self.refuse(0, 0, Refusal::Malformed, out),
            Some(Command::Commit(commit)) => {
                let staged = std::mem::take(&mut self.staged);
                self.batch = commit.batch;
                for command in &staged {
                    if let Err(refusal) = self.edit(now, command, out) {
                        self.refuse(command.tag(), index_of(command), refusal, out);
                    }
                }
                self.staged = staged;
                self.clear_staged();
                self.batch = commit.batch.wrapping_add(1);
                self.counters[Counter::PeersOpen as usize] = self.peers.occupied() as u64;
                self.counters[Counter::RoutesOpen as usize] = self.routes.occupied() as u64;
                out.report(Committed { batch: commit.batch }.into_report());
            }
            Some(command) if self.staged.len() < STAGED_MAX => self.staged.push(command),
            Some(command) => self.refuse(command.tag(), index_of(&command), Refusal::BatchFull, out),
        }
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
            Command::PeerIce(ice) => self.restart_ice(ice)?,
            Command::PeerExtensions(extensions) => {
                let peer = self.peer_mut(extensions.peer)?;
                peer.extension_ids = extensions.ids;
                peer.extensions_open = Some(*extensions);
            }
            Command::PeerKeys(keys) => {
                self.peer_mut(keys.peer)?.set_keys(keys)?;
                self.became_ready(now, keys.peer.index, out);
            }
            Command::PeerClose(close) => self.close_peer(close.peer)?,
            Command::PeerLimit(limit) => self.limit_peer(limit, out)?,
            Command::StreamOpen(open) => self.open_stream(open)?,
            Command::StreamCodec(second) => self.add_stream_codec(second)?,
            Command::StreamEncodings(open) => self.open_encodings(open)?,
            Command::StreamSets(told) => {
                let StreamId { index, generation } = told.stream;
                self.streams.find_mut(index, generation).ok_or(Refusal::Unknown)?.tell_sets(told)?;
            }
            Command::StreamClose(close) => self.close_stream(close.stream)?,
            Command::SlotOpen(open) => self.open_slot(open)?,
            Command::SlotClose(close) => self.close_slot(close.slot)?,
            Command::RouteOpen(open) => self.open_route(now, open, out)?,
            Command::RouteCodec(second) => self.add_route_codec(now, second, out)?,
            Command::RouteClose(close) => self.close_route(close.route)?,
            Command::TapOpen(open) => self.open_tap(now, open, out)?,
            Command::TapClose(close) => self.close_tap(close.tap)?,
            Command::MirrorOpen(open) => self.open_mirror(open)?,
            Command::Reset(_) => self.reset(),
            Command::Describe(_) => self.describing = Some(Describing::default()),
            Command::Commit(_) => unreachable!("a commit is never staged"),
        }
        Ok(())
    }

    fn peer_mut(&mut self, id: PeerId) -> Result<&mut Transport, Refusal> {
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
        transport.may_open(open.ssrc, open.rtx_ssrc)?;
        self.streams.open(index, generation, Stream::new(*open))?;
        let stream = self.streams.at_mut(index).expect("it was just opened");
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
        self.reserve_timers();
        Ok(())
    }

    /// The packet path sets timers without taking memory for them.
    fn reserve_timers(&mut self) {
        self.timers.reserve(PEER_TIMERS * self.peers.occupied() + STREAM_TIMERS * self.streams.occupied());
    }

    fn open_slot(&mut self, open: &proto::plane::SlotOpen) -> Result<(), Refusal> {
        let SlotId { index, generation } = open.slot;
        let transport = self.peers.find_mut(open.peer.index, open.peer.generation).ok_or(Refusal::Unknown)?;
        if self.slots.at(index).is_some() {
            return Err(Refusal::Occupied);
        }
        transport.use_slot_ssrcs(open.ssrc, open.rtx_ssrc)?;
        self.slots.open(index, generation, Slot::new(*open))?;
        transport.slots.push((open.ssrc, index));
        Ok(())
    }

    fn open_route(&mut self, now: Micros, open: &proto::plane::RouteOpen, out: &mut Outbox) -> Result<(), Refusal> {
        let RouteId { index, generation } = open.route;
        let stream = self.streams.find_mut(open.stream.index, open.stream.generation).ok_or(Refusal::Unknown)?;
        let slot = self.slots.find_mut(open.slot.index, open.slot.generation).ok_or(Refusal::Unknown)?;
        if slot.route.is_some() {
            return Err(Refusal::Occupied);
        }
        if stream.hops.len() >= STREAM_ROUTES_MAX {
            return Err(Refusal::TableFull);
        }
        self.routes.open(index, generation, Route { open: *open, second: None })?;
        slot.route = Some(index);
        slot.rewriter.cut();
        if stream.hops.is_empty() {
            stream.kept_from = stream.window.highest().map_or(0, |highest| highest + 1);
        }
        let awaits_keyframe = stream.open.codec.is_video();
        let peer = slot.open.peer.index;
        stream.hops.push(Hop {
            route: index,
            slot: open.slot.index,
            peer,
            ssrc: slot.open.ssrc,
            pts: [open.pt, 0],
            awaits_keyframe,
            lacks_sets: false,
        });
        self.want_keyframe_for(now, open.stream.index, open.slot.index, out);
        Ok(())
    }

    /// Hands a stream on to another worker from the next packet on. Somebody there waits for a keyframe.
    fn open_tap(&mut self, now: Micros, open: &TapOpen, out: &mut Outbox) -> Result<(), Refusal> {
        let TapOpen { tap: TapId { index, generation }, stream: id, worker, mirror } = *open;
        self.check_worker(worker)?;
        let stream = self.streams.find_mut(id.index, id.generation).ok_or(Refusal::Unknown)?;
        if stream.mirror.is_some() || stream.taps.iter().any(|tap| tap.worker == worker) {
            return Err(Refusal::Occupied);
        }
        self.taps.open(index, generation, *open)?;
        stream.taps.push(Tap { tap: index, worker, mirror });
        if let Some(clock) = stream.sender_report {
            let _ = out.tell(worker, Message::clock(mirror, stream.ssrc, clock)); // Else the next report brings it.
        }
        if let Some(sets) = &stream.sets {
            let _ = out.tell_sets(worker, mirror, sets.as_told()); // Else when a keyframe is asked for.
        }
        self.want_keyframe(now, id.index, out);
        Ok(())
    }

    fn open_mirror(&mut self, open: &MirrorOpen) -> Result<(), Refusal> {
        self.check_worker(open.worker)?;
        let StreamId { index, generation } = open.stream;
        self.streams.open(index, generation, Stream::mirror(*open))?;
        self.reserve_timers();
        Ok(())
    }

    /// Whether there is another worker of this number.
    fn check_worker(&self, worker: u16) -> Result<(), Refusal> {
        let (index, workers) = self.place;
        let worker = usize::from(worker);
        if worker < workers && worker != index { Ok(()) } else { Err(Refusal::Unknown) }
    }

    /// Asks for a keyframe of a stream if the receiver in `slot` waits for one and can be sent it.
    fn want_keyframe_for(&mut self, now: Micros, stream: u32, slot: u32, out: &mut Outbox) {
        let peer = self.slots.at(slot).and_then(|slot| self.peers.at(slot.open.peer.index));
        let is_ready = peer.is_some_and(|peer| peer.outgoing().is_some());
        if is_ready && self.streams.at(stream).is_some_and(|stream| stream.awaits_keyframe(slot)) {
            self.want_keyframe(now, stream, out);
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
        Ok(())
    }

    fn add_route_codec(&mut self, now: Micros, second: &RouteCodec, out: &mut Outbox) -> Result<(), Refusal> {
        let RouteId { index, generation } = second.route;
        let route = self.routes.find_mut(index, generation).ok_or(Refusal::Unknown)?;
        if route.second.is_some() {
            return Err(Refusal::Occupied);
        }
        let (stream, slot) = (route.open.stream.index, route.open.slot.index);
        let of_stream = self.streams.at_mut(stream).ok_or(Refusal::Unknown)?;
        if of_stream.second.is_none_or(|of_stream| of_stream.codec != second.codec) {
            return Err(Refusal::Malformed);
        }
        route.second = Some(*second);
        if let Some(hop) = of_stream.hops.iter_mut().find(|hop| hop.route == index) {
            hop.pts[1] = second.pt;
        }
        self.want_keyframe_for(now, stream, slot, out);
        Ok(())
    }

    fn close_peer(&mut self, id: PeerId) -> Result<(), Refusal> {
        let transport = self.peers.find(id.index, id.generation).ok_or(Refusal::Unknown)?;
        let (streams, slots) = (transport.streams.clone(), transport.slots.clone());
        for index in streams {
            if let Some(stream) = self.streams.at(index).map(|s| s.open.stream) {
                self.close_stream(stream)?;
            }
        }
        for (_, index) in slots {
            if let Some(slot) = self.slots.at(index).map(|s| s.open.slot) {
                self.close_slot(slot)?;
            }
        }
        let transport = self.peers.close(id.index, id.generation).expect("it was found above");
        self.demux.unname(&transport.open.ufrag);
        for path in transport.paths() {
            self.demux.unbind(path, id.index);
        }
        Ok(())
    }

    fn close_stream(&mut self, id: StreamId) -> Result<(), Refusal> {
        let stream = self.streams.close(id.index, id.generation).ok_or(Refusal::Unknown)?;
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
        for hop in &stream.hops {
            if let Some(slot) = self.slots.at_mut(hop.slot) {
                slot.route = None;
                slot.rewriter.cut();
            }
            if let Some(route) = self.routes.at(hop.route).map(|r| r.open.route) {
                self.routes.close(route.index, route.generation);
            }
        }
        Ok(())
    }

    fn close_slot(&mut self, id: SlotId) -> Result<(), Refusal> {
        let slot = self.slots.close(id.index, id.generation).ok_or(Refusal::Unknown)?;
        if let Some(transport) = self.peers.find_mut(slot.open.peer.index, slot.open.peer.generation) {
            transport.slots.retain(|&(_, s)| s != id.index);
        }
        if let Some(route) = slot.route.and_then(|r| self.routes.at(r)).map(|r| r.open.route) {
            self.close_route(route)?;
        }
        Ok(())
    }

    fn close_route(&mut self, id: RouteId) -> Result<(), Refusal> {
        let route = self.routes.close(id.index, id.generation).ok_or(Refusal::Unknown)?;
        if let Some(stream) = self.streams.find_mut(route.open.stream.index, route.open.stream.generation) {
            stream.hops.retain(|h| h.route != id.index);
        }
        if let Some(slot) = self.slots.find_mut(route.open.slot.index, route.open.slot.generation) {
            slot.route = None;
            slot.rewriter.cut();
        }
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
        self.routes.clear();
        self.slots.clear();
        self.streams.clear();
        self.peers.clear();
        self.demux.clear();
        // Ids may come back under a new numbering; what was kept or set for them must not.
        self.timers.clear();
        self.history.clear();
    }

    /// Whether a description is under way: the worker calls [`describe`](Self::describe) while the event ring has
    /// room, and does not park.
    pub fn is_describing(&self) -> bool {
        self.describing.is_some()
    }

    /// Echoes up to `space` installed records into the outbox's reports.
    pub fn describe(&mut self, space: usize, out: &mut Outbox) {
        let Some(mut at) = self.describing else { return };
        // A peer may take six records: while there is space for one more than these five, all of them fit.
        let mut space = space.min(out.report_space()).saturating_sub(5);
        while space > 0 {
            let len = match at.phase {
                0 => self.peers.len(),
                1 => self.streams.len(),
                2 => self.streams.len(),
                3 => self.slots.len(),
                4 => self.routes.len(),
                5 => self.taps.len(),
                _ => {
                    out.report(Described { count: at.count }.into_report());
                    self.describing = None;
                    return;
                }
            };
            if at.index as usize >= len {
                at = Describing { phase: at.phase + 1, index: 0, count: at.count };
                continue;
            }
            let (echoed, expired) = self.echo(at.phase, at.index, out);
            at.count += echoed as u64;
            at.index += 1;
            space = space.saturating_sub(echoed + expired);
        }
        self.describing = Some(at);
    }

    /// Reports one object; returns how many echoes and how many other events that took.
    fn echo(&self, phase: u8, index: u32, out: &mut Outbox) -> (usize, usize) {
        let mut records: [Option<Command>; 5] = [None; 5];
        match phase {
            0 => {
                if let Some(peer) = self.peers.at(index) {
                    records[0] = Some(peer.open.into());
                    records[1] = peer.extensions_open.map(Command::from);
                    records[2] = peer.keys_open[0].map(Command::from);
                    records[3] = peer.keys_open[1].map(Command::from);
                    records[4] = peer.estimate.as_ref().and_then(|estimate| estimate.limit()).map(Command::from);
                }
            }
            1 => {
                records[0] = self.streams.at(index).map(|s| match &s.mirror {
                    Some(mirror) => mirror.open.into(),
                    None => s.open.into(),
                });
                records[1] = self.streams.at(index).and_then(|s| s.second).map(Command::from);
                records[2] = self.streams.at(index).and_then(Stream::encodings_open).map(Command::from);
            }
            2 => {
                let sets = self.streams.at(index).into_iter().flat_map(|s| &s.sets).flat_map(|sets| &sets.of_sdp);
                records.iter_mut().zip(sets).for_each(|(record, sets)| *record = Some((*sets).into()));
            }
            3 => records[0] = self.slots.at(index).map(|s| s.open.into()),
            4 => {
                records[0] = self.routes.at(index).map(|r| r.open.into());
                records[1] = self.routes.at(index).and_then(|r| r.second).map(Command::from);
            }
            _ => records[0] = self.taps.at(index).map(|&tap| tap.into()),
        }
        let count = records.into_iter().flatten().map(|command| out.report(Report::Echo(command))).count();
        // The event may have been lost to the full ring that this description makes up for.
        let state = match phase {
            0 => self.peers.at(index).and_then(state_of_peer),
            1 => self.streams.at(index).and_then(state_of_stream),
            _ => None,
        };
        if let Some(event) = state {
            out.report(Report::Event(event));
        }
        (count, usize::from(state.is_some()))
    }
}

/// What a description says of a peer beside what is installed.
fn state_of_peer(peer: &Transport) -> Option<Event> {
    match () {
        () if peer.is_expired => Some(PeerExpired { peer: peer.id }.into()),
        () if peer.silence.is_told() => Some(PeerSilent { peer: peer.id }.into()),
        () => None,
    }
}

/// The same of a stream.
fn state_of_stream(stream: &Stream) -> Option<Event> {
    stream.silence.is_told().then(|| StreamSilent { stream: stream.open.stream }.into())
}

/// The index of the object that a command names, for a refusal.
fn index_of(command: &Command) -> u32 {
    match command {
        Command::PeerOpen(c) => c.peer.index,
        Command::PeerIce(c) => c.peer.index,
        Command::PeerExtensions(c) => c.peer.index,
        Command::PeerKeys(c) => c.peer.index,
        Command::PeerClose(c) => c.peer.index,
        Command::PeerLimit(c) => c.peer.index,
        Command::StreamOpen(c) => c.stream.index,
        Command::StreamCodec(c) => c.stream.index,
        Command::StreamEncodings(c) => c.stream.index,
        Command::StreamSets(c) => c.stream.index,
        Command::StreamClose(c) => c.stream.index,
        Command::SlotOpen(c) => c.slot.index,
        Command::SlotClose(c) => c.slot.index,
        Command::RouteOpen(c) => c.route.index,
        Command::RouteCodec(c) => c.route.index,
        Command::RouteClose(c) => c.route.index,
        Command::TapOpen(c) => c.tap.index,
        Command::TapClose(c) => c.tap.index,
        Command::MirrorOpen(c) => c.stream.index,
        Command::Reset(_) | Command::Describe(_) | Command::Commit(_) => 0,
    }
}
