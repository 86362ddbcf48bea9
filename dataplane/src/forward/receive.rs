//! From a datagram to its fate: SRTP, RTX, and what other workers relay. Packets that are to be forwarded become pending.

use proto::plane::{Counter, Extension, ExtensionIds};

use super::fanout::Arrived;
use super::{Counters, Flush, Forwarder, arm_reports, extension_ids, remb, voice};
use crate::config::{FRAME_LEN, Micros, PAYLOAD_LEN_MAX, POLICE_KEYFRAME_INTERVAL, TRANSPORT_CC_INTERVAL};
use crate::demux;
use crate::outbox::Outbox;
use crate::packet::{RtpPacket, SrtpPacket, Unprotect};
use crate::path::{Datagram, Path};
use crate::police;
use crate::relay::{Message, Packet as RelayedPacket};
use crate::rtcp::SenderClock;
use crate::rtp::Header;
use crate::slot::{Slot, interrupt};
use crate::srtp::Window;
use crate::store::{Handle, Source};
use crate::stream::{Format, Stream};
use crate::table::Table;
use crate::timer::{Timer, Timers};
use crate::transport::Transport;
use crate::twcc::Noted;

impl Forwarder {
    /// Takes one datagram to its fate. If that is to be forwarded, it is pending until [`fan_out`](Self::fan_out) is called or
    /// a later datagram cannot join what is pending.
    pub fn receive(&mut self, now: Micros, mut datagram: Datagram<'_>, egress: &mut impl Flush) {
        self.make_room(now, egress);
        let fate = loop {
            match self.receive_datagram(now, &mut datagram, egress.outbox()) {
                Some(fate) => break fate,
                None => self.fan_out(now, egress),
            }
        };
        self.count(Counter::Received, 1);
        self.count(Counter::ReceivedBytes, datagram.bytes.len() as u64);
        self.count(fate, 1);
        self.flush_if_full(now, egress);
    }

    /// Makes room in the store for one more packet.
    #[inline]
    fn make_room(&mut self, now: Micros, egress: &mut impl Flush) {
        if self.store.is_full() {
            self.fan_out(now, egress);
            self.flush(now, egress);
        }
    }

    /// A datagram's fate. `None`: nothing was done, because what is pending must be fanned out before.
    fn receive_datagram(&mut self, now: Micros, datagram: &mut Datagram<'_>, out: &mut Outbox) -> Option<Counter> {
        self.receive_bytes(now, datagram.path, datagram.at, datagram.bytes, out)
    }

    /// The same of what came by a path, which may be that through another edge.
    pub(super) fn receive_bytes(
        &mut self,
        now: Micros,
        path: Path,
        at: Micros,
        bytes: &mut [u8],
        out: &mut Outbox,
    ) -> Option<Counter> {
        let Some(kind) = demux::kind(bytes) else { return Some(Counter::DroppedUnknownProtocol) };
        match kind {
            demux::Kind::Stun => return Some(self.receive_stun(now, path, bytes, out)),
            demux::Kind::Flow => return self.receive_in_flow(now, path, at, bytes, out),
            _ => {}
        }
        let Some(peer) = self.demux.peer_at(path) else { return Some(Counter::DroppedUnknownAddress) };
        self.receive_of_peer(now, peer, kind, (path, at), bytes, out)
    }

    /// The same of a peer that is known: SRTP, SRTCP, or DTLS.
    #[inline]
    pub(super) fn receive_of_peer(
        &mut self,
        now: Micros,
        peer: u32,
        kind: demux::Kind,
        (path, at): (Path, Micros),
        bytes: &mut [u8],
        out: &mut Outbox,
    ) -> Option<Counter> {
        let fate = match kind {
            demux::Kind::Rtp => {
                let fate = self.receive_rtp(now, peer, at, bytes, out)?;
                self.send_lower_remb(peer, out);
                fate
            }
            demux::Kind::Rtcp => self.receive_rtcp(now, peer, at, bytes, out),
            _ => return Some(self.receive_dtls(now, peer, path, bytes, out)),
        };
        self.note_heard(now, peer, (path, bytes.len()), fate, out);
        Some(fate)
    }

    /// Receives a message of another worker. A packet has its fate here as if it had been received here, at the moment when
    /// it was received there.
    pub fn receive_relayed(&mut self, now: Micros, message: Message<'_>, egress: &mut impl Flush) {
        match message {
            Message::Packet(packet) => {
                self.make_room(now, egress);
                let fate = loop {
                    match self.receive_relayed_packet(now, &packet, egress.outbox()) {
                        Some(fate) => break fate,
                        None => self.fan_out(now, egress),
                    }
                };
                self.count(Counter::RelayReceived, 1);
                self.count(fate, 1);
            }
            Message::Clock { mirror, ssrc, ntp, rtp, at } => {
                let stream = self.streams.find_mut(mirror.index, mirror.generation);
                if let Some(stream) = stream.filter(|stream| stream.mirror.is_some()) {
                    if stream.ssrc == 0 {
                        stream.ssrc = ssrc; // It may come before the first packet.
                    }
                    stream.sender_report = (stream.ssrc == ssrc).then_some(SenderClock { ntp, rtp, at });
                }
            }
            Message::Sets { mirror, sets } => {
                let stream = self.streams.find_mut(mirror.index, mirror.generation);
                if let Some(known) = stream.filter(|stream| stream.mirror.is_some()).and_then(|s| s.sets.as_mut()) {
                    known.merge(sets);
                }
            }
            Message::KeyframeWanted { stream } if self.has_stream(stream) => {
                self.relay_sets(stream.index, egress.outbox());
                self.want_keyframe(now, stream.index, egress.outbox());
            }
            Message::KeyframeWanted { .. } => {}
            Message::Taken { stream, mirror, is_taken, is_wanted, room } => {
                self.taken(now, stream, mirror, (is_taken, is_wanted, room), egress.outbox());
            }
            Message::Encoding { mirror, is_flowing, size, bps, expected } => {
                self.encoding_told(now, mirror, (is_flowing, size, bps, expected), egress.outbox());
            }
        }
        self.flush_if_full(now, egress);
    }

    /// SRTP: find the stream, unprotect, count, note what is missing, and make the packet pending. `None` as in
    /// [`receive_datagram`](Self::receive_datagram).
    fn receive_rtp(
        &mut self,
        now: Micros,
        peer: u32,
        at: Micros,
        bytes: &mut [u8],
        out: &mut Outbox,
    ) -> Option<Counter> {
        let Some(transport) = self.peers.at_mut(peer) else { return Some(Counter::DroppedUnknownAddress) };
        let Some(rx) = &transport.rx else { return Some(Counter::DroppedNoKeys) };
        let len = bytes.len();
        let Some(packet) = SrtpPacket::parse(&mut *bytes) else { return Some(Counter::DroppedRtpMalformed) };
        let Header { ssrc, seq, .. } = *packet.header();
        let Some(owner) = transport.owner(ssrc) else {
            return self.receive_other_ssrc(now, peer, at, (packet, len), out);
        };
        let Some(stream) = self.streams.at_mut(owner.stream) else { return Some(Counter::DroppedUnknownStream) };
        if !self.pending.is_empty() {
            // Packets of before a new codec have their receivers' numbers of before.
            let is_new = stream.format_of(packet.header().pt).is_some_and(|f| f != stream.format);
            if is_new || self.pending.is_full() {
                return None;
            }
        }

        let highest = stream.window.highest();
        let window = if owner.is_rtx { &mut stream.rtx_window } else { &mut stream.window };
        let packet = match packet.unprotect(rx, window, &mut transport.second_tries, now) {
            Ok(packet) => packet,
            Err(error) => {
                self.counters[Counter::SrtpSecondTries as usize] += transport.second_tries.take_count();
                let mut is_repaired = || stream.missing.as_mut().is_some_and(|missing| missing.take_repaired(seq));
                if error == Unprotect::Replayed && !owner.is_rtx && is_repaired() {
                    // It was late, and the repair was faster. It arrived all the same, and its sender is told so.
                    let late = SrtpPacket::parse(bytes).and_then(|late| late.unprotect_again(rx, &stream.window));
                    if let Some(late) = late {
                        note_arrival(transport, &mut self.timers, &late, at, now);
                    }
                }
                return Some(error.counter());
            }
        };
        if !police::admit([&mut transport.police, &mut stream.police], len, now) {
            return Some(self.cut(now, owner.stream, out));
        }
        note_arrival(transport, &mut self.timers, &packet, at, now);
        remb::arrived(transport, stream, &packet, owner.is_rtx, at);
        if packet.is_malformed {
            return Some(Counter::DroppedRtpMalformed);
        }
        if owner.is_rtx {
            return Some(self.receive_rtx(now, at, owner.stream, packet, out));
        }
        Some(self.receive_primary(now, at, peer, owner.stream, packet, highest, out))
    }

    /// A packet of a stream that sends more than it may. What receivers lack of it, only a keyframe mends.
    #[cold]
    pub(super) fn cut(&mut self, now: Micros, index: u32, out: &mut Outbox) -> Counter {
        let Some(stream) = self.streams.at_mut(index) else { return Counter::DroppedUnknownStream };
        stream.counts.policed += 1;
        if !stream.open.codec.is_video() {
            return Counter::DroppedAudioRate;
        }
        let is_due = stream.keyframe.cut_asked.is_none_or(|at| now >= at + POLICE_KEYFRAME_INTERVAL);
        if is_due && stream.is_received() {
            stream.keyframe.cut_asked = Some(now);
            self.want_keyframe(now, index, out);
        }
        Counter::DroppedVideoRate
    }

    /// A packet of the SSRC that a stream is carried from; `highest` is the highest index of it before.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "a packet with all that its receipt has found out")]
    pub(super) fn receive_media(
        &mut self,
        now: Micros,
        at: Micros,
        peer: u32,
        index: u32,
        packet: RtpPacket<'_>,
        highest: Option<u64>,
        out: &mut Outbox,
    ) -> Counter {
        let Some(transport) = self.peers.at_mut(peer) else { return Counter::DroppedUnknownAddress };
        let Some(stream) = self.streams.at_mut(index) else { return Counter::DroppedUnknownStream };
        stream.encodings.received(at);
        let Some(format) = stream.format_of(packet.header.pt) else { return Counter::DroppedPayloadType };
        if packet.payload.len() > PAYLOAD_LEN_MAX {
            return Counter::DroppedTooLarge;
        }
        // A packet that was overtaken does not change the codec back.
        if format != stream.format && highest.is_none_or(|highest| packet.index > highest) {
            change_codec(stream, format, &mut self.slots);
        }
        stream.reception.received(packet.index, packet.header.timestamp, stream.open.codec.clock_rate(), at);
        stream.counts.bytes += packet.payload.len() as u64;
        let mut lost = 0;
        if let Some(missing) = &mut stream.missing {
            let arrival = missing.arrived(packet.index, highest, now);
            lost = arrival.lost;
            self.counters[Counter::Recovered as usize] += u64::from(arrival.recovered);
            self.counters[Counter::Lost as usize] += u64::from(lost);
            if !missing.is_empty() && !missing.is_timer_set {
                missing.is_timer_set = true;
                let due = missing.deadline().expect("packets are missing");
                self.timers.set(due, Timer::Nack { stream: stream.open.stream });
            }
        }
        stream.measure(format, &packet, at);
        let level = packet.extension(transport.extension_ids[Extension::AudioLevel as usize]);
        let is_newest = highest.is_none_or(|highest| packet.index > highest);
        let is_passed = voice::arrived(stream, level.filter(|_| is_newest), &packet.header, at, &mut self.slots, out);
        let encoding = stream.encoding.as_mut();
        let is_encoding = encoding.map(|encoding| encoding.received(at)).is_some();
        let allocation_id = transport.extension_ids[Extension::VideoLayersAllocation as usize];
        let allocation = if is_encoding && is_newest { packet.extension(allocation_id) } else { None };
        if !std::mem::replace(&mut stream.is_flowing, true) {
            stream.resume(out);
            arm_reports(transport, &mut self.timers, now);
            if is_encoding {
                self.encoding_begins(now, index, out);
            }
        }
        if let Some(value) = allocation {
            self.allocation_told(now, at, index, value, out);
        }
        match is_passed {
            true => self.enqueue(now, index, format, packet, at, out),
            false => self.count(Counter::AudioNotPassed, 1),
        }
        if lost > 0 {
            self.want_keyframe(now, index, out);
        } else if is_encoding {
            self.request_unrequested_keyframe(now, index, out);
        }
        if is_encoding && packet.header.marker {
            self.review_encodings(now, at, index, out);
        }
        Counter::Forwarded
    }

    /// RTX (RFC 4588 §4): if the packet inside is still missing, it arrives now.
    pub(super) fn receive_rtx(
        &mut self,
        now: Micros,
        at: Micros,
        index: u32,
        rtx: RtpPacket<'_>,
        out: &mut Outbox,
    ) -> Counter {
        let Some(stream) = self.streams.at_mut(index) else { return Counter::DroppedUnknownStream };
        let Some(format) = stream.format_of_rtx(rtx.header.pt) else { return Counter::DroppedPayloadType };
        let Some((original_seq, payload)) = rtx.payload.split_first_chunk::<2>() else {
            return Counter::DroppedRtxUseless; // Padding: a probe of the publisher's bandwidth estimator.
        };
        if payload.len() > PAYLOAD_LEN_MAX {
            return Counter::DroppedTooLarge;
        }
        let original = stream.window.estimate(u16::from_be_bytes(*original_seq));
        let is_past = stream.window.highest().is_some_and(|highest| original < highest);
        if !is_past || stream.window.check(original).is_err() {
            return Counter::DroppedRtxUseless;
        }
        stream.window.update(original);
        stream.counts.repaired += 1;
        if let Some(missing) = &mut stream.missing {
            missing.repaired(original);
            let arrival = missing.arrived(original, stream.window.highest(), now);
            self.counters[Counter::Recovered as usize] += u64::from(arrival.recovered);
        }
        self.enqueue(now, index, format, RtpPacket { index: original, payload, ..rtx }, at, out);
        Counter::Forwarded
    }

    /// A packet that another worker received. What it lost is lost here, too: a gap of the mirror is a gap of the stream.
    /// `None` as in [`receive_datagram`](Self::receive_datagram).
    fn receive_relayed_packet(&mut self, now: Micros, packet: &RelayedPacket<'_>, out: &mut Outbox) -> Option<Counter> {
        let RelayedPacket { mirror: id, ssrc, index, highest: highest_there, at, cuts, ids, head, payload } = *packet;
        let Some(stream) = self.streams.find_mut(id.index, id.generation) else {
            return Some(Counter::DroppedRelayStale);
        };
        let Some(packet) = RtpPacket::from_parts(head, payload, index) else {
            return Some(Counter::DroppedRtpMalformed);
        };
        let pt = packet.header.pt;
        let format = stream.format_of_either(pt);
        let is_new = ssrc != stream.ssrc || format.is_some_and(|f| f != stream.format);
        if !self.pending.is_empty() && (is_new || self.pending.is_full()) {
            return None;
        }
        let Some(mirror) = &mut stream.mirror else { return Some(Counter::DroppedRelayStale) };
        mirror.ids = ids;
        let is_first = !std::mem::replace(&mut mirror.has_begun, true);
        if ssrc != stream.ssrc {
            stream.rename(ssrc, Window::new());
            interrupt(stream, &mut self.slots);
        }
        if std::mem::replace(&mut stream.cuts, cuts) != cuts {
            interrupt(stream, &mut self.slots);
        }
        if is_first {
            // What came there before this was not handed on, or found no mirror here.
            stream.kept_from = if highest_there > index { highest_there + 1 } else { index };
        }
        let Some(format) = format else { return Some(Counter::DroppedPayloadType) };
        let highest = stream.window.highest();
        if stream.window.check(index).is_err() {
            return Some(Counter::DroppedSrtpReplay);
        }
        stream.window.update(index);
        if format != stream.format && highest.is_none_or(|highest| index > highest) {
            change_codec(stream, format, &mut self.slots);
        }
        stream.measure(format, &packet, at);
        if stream.encoding.is_some() && !std::mem::replace(&mut stream.is_flowing, true) {
            self.encoding_begins(now, id.index, out);
        }
        self.enqueue(now, id.index, format, packet, at, out);
        self.request_unrequested_keyframe(now, id.index, out);
        Some(Counter::Forwarded)
    }

    /// Stores a packet, relays it to each worker that has a mirror of its stream, and makes it pending for the receivers here.
    pub(super) fn enqueue(
        &mut self,
        now: Micros,
        index: u32,
        format: Format,
        packet: RtpPacket<'_>,
        at: Micros,
        out: &mut Outbox,
    ) {
        let Forwarder { streams, peers, .. } = self;
        let Some(stream) = streams.at_mut(index) else { return };
        let Some(ids) = extension_ids(stream, peers) else { return };
        let arrived = Arrived::note(stream, format, &packet, &ids, at);
        if arrived.is_resized {
            self.encoding_changed(now, index, out);
        }
        if arrived.is_undescribed {
            self.count(Counter::DescriptorsMalformed, 1);
        }
        let Forwarder { streams, store, counters, pending, .. } = self;
        let Some(stream) = streams.at_mut(index).filter(|stream| stream.is_received()) else { return };
        let source = Source { stream: stream.open.stream, ssrc: stream.ssrc };
        let handle = match stream.hops.is_empty() {
            true => store.pass(packet.head, packet.payload),
            false => store.keep(source, &mut stream.kept, packet.index, packet.head, packet.payload),
        };
        if !stream.taps.is_empty() {
            relay(stream, &packet, handle, ids, at, counters, out);
        }
        if !stream.hops.is_empty() {
            pending.push(stream, &ids, format, &packet, arrived, handle);
        }
    }
}

/// Relays a packet of a stream to each worker that has a mirror of it.
fn relay(
    stream: &Stream,
    packet: &RtpPacket<'_>,
    handle: Handle,
    ids: ExtensionIds,
    at: Micros,
    counters: &mut Counters,
    out: &mut Outbox,
) {
    let index = packet.index;
    let highest = stream.window.highest().unwrap_or(index);
    let (mirror, ssrc) = (stream.open.stream, stream.ssrc);
    let taken = || stream.taps.iter().filter(|tap| tap.is_taken);
    let relayed = RelayedPacket { mirror, ssrc, index, highest, at, cuts: stream.cuts, ids, head: &[], payload: &[] };
    let has_head = packet.head.len() + packet.payload.len() <= FRAME_LEN;
    let count = match has_head {
        true => out.relay_packet(relayed, handle, taken().count(), taken().map(|tap| (tap.worker, tap.mirror))),
        false => 0, // Longer than a record of a lane.
    };
    counters[Counter::Relayed as usize] += count as u64;
    counters[Counter::RelayFull as usize] += (taken().count() - count) as u64;
}

/// A stream goes on in another of its codecs: each receiver begins anew at the next keyframe, and its numbers go on.
fn change_codec(stream: &mut Stream, format: Format, slots: &mut Table<Slot>) {
    stream.format = format;
    stream.forget_layers();
    stream.hops.iter_mut().for_each(|hop| hop.awaits_keyframe = true);
    interrupt(stream, slots);
}

/// Records the arrival of a transport-wide sequence number, for the feedback to the publisher.
pub(super) fn note_arrival(
    transport: &mut Transport,
    timers: &mut Timers,
    packet: &RtpPacket<'_>,
    at: Micros,
    now: Micros,
) {
    let id = transport.extension_ids[Extension::TransportCc as usize];
    let (Some(&[high, low]), Some(arrivals)) = (packet.extension(id), &mut transport.arrivals) else { return };
    let seq = u16::from_be_bytes([high, low]);
    let noted = arrivals.push(seq, at);
    if noted != (Noted::Next { left_out: 0 }) {
        transport.losing.came(noted, seq, at);
    }
    if let Some(edge) = &mut transport.edge {
        edge.crossed.came(noted, at);
    }
    transport.transport_cc_ssrc = packet.header.ssrc;
    if !transport.is_transport_cc_timer_set {
        transport.is_transport_cc_timer_set = true;
        timers.set(now + TRANSPORT_CC_INTERVAL, Timer::TransportCc { peer: transport.id });
    }
}
