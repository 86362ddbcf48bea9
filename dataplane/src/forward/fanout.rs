//! Fan-out: packets that are to be forwarded are pending here until the batch is read, and then each receiver is sent all
//! that is pending of a stream, one receiver after the other.
//!
//! A frame of video comes as many packets at once. Packet by packet, the walk through all receivers' keys, windows and numbers
//! would be made for each of them, and what was written for hundreds of receivers would have left the cache by the time the
//! kernel reads it. Receiver by receiver the walk is made once, and what was written can be flushed in between, so that the
//! first receivers have all packets while the last ones' are not protected yet, and they leave as one train all the same.
//!
//! What is pending is in the [store](crate::store). A packet gets its numbers and is protected when it leaves, in
//! [`Receiver::send`] and nowhere before.

use proto::id::{Pt, StreamId};
use proto::plane::{Codec, Counter, ExtensionIds, weight};

use super::{Counters, Flush, Forwarder, arm_pace, extension_ids};
use crate::choice::Held;
use crate::codec;
use crate::config::{ENTERED_MAX, Micros, PENDING_MAX};
use crate::earlier::Earlier;
use crate::outbox::{Outbox, Pushed};
use crate::pacer::Queues;
use crate::packet::{Carried, Outgoing, RtpPacket};
use crate::picture::PictureNumbers;
use crate::rewrite::{Ahead, Input, Mapping};
use crate::rtp;
use crate::sending::Kind;
use crate::sets::{KeyframeStart, ParameterSets, SETS_MAX};
use crate::slot::Slot;
use crate::store::{Handle, Kept, Payload, Source, Store};
use crate::stream::{Format, Hop, Stream};
use crate::transport::Transport;

/// A packet that is to be fanned out.
#[derive(Clone, Copy)]
pub(super) struct PendingPacket {
    stream: StreamId,
    handle: Handle,
    pub(super) input: Input,
    /// Which of the stream's codecs it is in.
    pub(super) codec_index: usize,
    marker: bool,
    carried: Carried,
    start: KeyframeStart,
    is_evened: bool,
    /// When the kernel received it.
    at: Micros,
    /// Copies that were written since their latency was noted.
    written: u64,
    is_done: bool,
}

/// The packets that are to be fanned out, in the order in which they came.
pub(super) struct Pending {
    packets: Vec<PendingPacket>,
    /// The receiver that is next, of the stream that is being fanned out.
    hop_next: usize,
}

impl PendingPacket {
    pub(super) fn handle(&self) -> Handle {
        self.handle
    }
}

impl Pending {
    pub(super) fn new() -> Self {
        Pending { packets: Vec::with_capacity(PENDING_MAX), hop_next: 0 }
    }

    /// Whether nothing is pending.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.packets.len() == PENDING_MAX
    }

    /// Whether there is no room for more than one.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.packets.len() + 1 >= PENDING_MAX
    }

    /// Adds a packet that the stream's receivers are to get. The caller has checked that there is room.
    #[inline]
    pub(super) fn push(
        &mut self,
        stream: &Stream,
        ids: &ExtensionIds,
        format: Format,
        packet: &RtpPacket<'_>,
        arrived: Arrived,
        handle: Handle,
    ) {
        let Arrived { at, start, is_alone, .. } = arrived;
        let common = Common::of(stream, ids);
        let is_evened = format.codec.is_video() && !is_alone;
        self.packets.push(PendingPacket { at, is_evened, ..common.packet(format, packet, start, handle) });
    }

    /// The stream that is next.
    fn stream(&self) -> Option<StreamId> {
        self.packets.iter().find(|packet| !packet.is_done).map(|packet| packet.stream)
    }

    /// The packets of a stream.
    fn of(&mut self, stream: StreamId) -> impl Iterator<Item = &mut PendingPacket> {
        self.packets.iter_mut().filter(move |packet| packet.stream == stream)
    }

    /// All of a stream's receivers were sent its packets.
    fn finish(&mut self, stream: StreamId) {
        self.of(stream).for_each(|packet| packet.is_done = true);
        self.hop_next = 0;
    }
}

/// What a stream learns from a packet that arrives, whether or not anybody receives it.
#[derive(Clone, Copy)]
pub(super) struct Arrived {
    /// When the kernel received it.
    at: Micros,
    start: KeyframeStart,
    /// Whether it is a frame by itself.
    is_alone: bool,
    /// Whether the pictures of the encoding have another size from here on.
    pub(super) is_resized: bool,
}

impl Arrived {
    /// Notes a packet in its stream.
    #[inline]
    pub(super) fn note(stream: &mut Stream, format: Format, packet: &RtpPacket<'_>, at: Micros) -> Arrived {
        // A keyframe that comes so late that what follows it was not kept cannot be completed.
        let is_kept = packet.index >= stream.kept_from;
        let may_start = is_kept && format == stream.format && format.codec.is_video();
        let start = match &mut stream.sets {
            Some(sets) if format.codec == Codec::H264 => {
                sets.saw(packet.index, packet.header.timestamp, packet.header.marker, packet.payload)
            }
            _ if may_start && codec::starts_keyframe(format.codec, packet.payload) => KeyframeStart::Complete,
            _ => KeyframeStart::No,
        };
        let start = if may_start { start } else { KeyframeStart::No };
        let mut is_resized = false;
        if start != KeyframeStart::No {
            stream.keyframe.is_wanted = false;
            if let Some(encoding) = &mut stream.encoding {
                is_resized = encoding.note_size(format.codec, stream.sets.as_deref(), packet.payload);
            }
        }
        let is_first = !std::mem::replace(&mut stream.is_in_frame, !packet.header.marker);
        Arrived { at, start, is_alone: is_first && packet.header.marker, is_resized }
    }
}

/// A copy that waits for its receiver's path.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    route: u32,
    slot: u32,
    peer: u32,
    packet: PendingPacket,
}

/// A route's end: what one receiver's copies are made with.
pub(super) struct Receiver<'a> {
    pub(super) hop: &'a mut Hop,
    pub(super) slot: &'a mut Slot,
    pub(super) transport: &'a mut Transport,
    pub(super) now: Micros,
    /// The earlier packets that the next one of audio leaves with.
    pub(super) red: &'a mut Earlier,
    /// `now` as the extension `abs-send-time` has it.
    abs_send_time: [u8; 3],
    queues: &'a mut Queues<Waiting>,
    is_video: bool,
    sent: Sent,
}

/// What one receiver was sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    packets: u64,
    bytes: u64,
    /// Parameter sets.
    sets: u64,
    /// Whether it has changed to another encoding.
    switches: u64,
    /// Copies that wait.
    paced: u64,
    /// Packets of RED.
    red: u64,
}

impl Sent {
    fn count(&self, counters: &mut Counters) {
        counters[Counter::Sent as usize] += self.packets;
        counters[Counter::SentBytes as usize] += self.bytes;
        counters[Counter::ParameterSetsSent as usize] += self.sets;
        counters[Counter::EncodingsSwitched as usize] += self.switches;
        counters[Counter::Paced as usize] += self.paced;
        counters[Counter::AudioRedSent as usize] += self.red;
    }
}

/// What became of one copy.
enum Outcome {
    Written,
    /// It waits for the receiver's path.
    Waits,
    /// Not written, for a reason that is counted.
    Held(Counter),
    /// The outbox counts what it refuses.
    Refused,
}

/// What all packets of a stream have in common.
#[derive(Clone, Copy)]
struct Common {
    source: Source,
    clock_rate: u32,
    wall: Option<u32>,
    ids: ExtensionIds,
}

impl Common {
    #[inline]
    fn of(stream: &Stream, ids: &ExtensionIds) -> Common {
        Common {
            source: Source { stream: stream.open.stream, ssrc: stream.ssrc },
            clock_rate: stream.open.codec.clock_rate(),
            wall: stream.wall_offset(),
            ids: *ids,
        }
    }

    /// A packet of the stream that is in the store.
    #[inline]
    fn packet(&self, format: Format, packet: &RtpPacket<'_>, start: KeyframeStart, handle: Handle) -> PendingPacket {
        PendingPacket {
            stream: self.source.stream,
            handle,
            input: Input {
                source: self.source,
                index: packet.index,
                timestamp: packet.header.timestamp,
                clock_rate: self.clock_rate,
                wall: self.wall,
                pictures: PictureNumbers::of(format.codec, packet.payload),
            },
            codec_index: format.index,
            marker: packet.header.marker,
            carried: packet.carried(&self.ids),
            start,
            is_evened: false,
            at: 0,
            written: 0,
            is_done: false,
        }
    }
}

/// What one packet's header says that no other's does.
#[derive(Clone, Copy)]
struct Numbers<'a> {
    index: u64,
    timestamp: u32,
    marker: bool,
    carried: &'a Carried,
    is_evened: bool,
}

impl Forwarder {
    /// Fans out all that is pending, and flushes whenever the outbox is full.
    pub fn fan_out(&mut self, now: Micros, egress: &mut impl Flush) {
        while let Some(id) = self.pending.stream() {
            let is_done = self.fan_out_stream(now, id, egress.outbox());
            for packet in self.pending.of(id) {
                egress.note_latency(packet.at, std::mem::take(&mut packet.written));
            }
            if is_done {
                self.pending.finish(id);
                self.tell_taken(id.index, egress.outbox());
                self.request_unrequested_keyframe(now, id.index, egress.outbox());
            } else {
                self.flush(now, egress);
            }
        }
        self.pending.packets.clear();
    }

    /// Fans out what is pending of one stream to as many receivers as the outbox has room for, and to one at least. Whether
    /// that were all.
    fn fan_out_stream(&mut self, now: Micros, id: StreamId, out: &mut Outbox) -> bool {
        let Forwarder { streams, slots, peers, counters, pending, store, queues, timers, red, .. } = self;
        let Some(stream) = streams.find_mut(id.index, id.generation) else { return true };
        red.clear();
        let is_video = stream.open.codec.is_video();
        // Of packets that came before: those of an encoding that somebody enters, and those of audio that leave again.
        let is_looked_back = !is_video || stream.encoding.is_some();
        let ids = if is_looked_back { extension_ids(stream, peers) } else { None };
        let common = ids.filter(|_| is_video).map(|ids| Common::of(stream, &ids));
        let Stream { hops, kept, sets, open, second, keyframe, .. } = stream;
        let (sets, kept) = (sets.as_deref(), &*kept);
        let abs_send_time = rtp::abs_send_time(now);
        let begun_at = pending.hop_next;
        while let Some(hop) = hops.get_mut(pending.hop_next) {
            // Not before the first: an outbox whose memory the kernel has not given back yet stays full, and would for ever.
            if pending.hop_next > begun_at && out.is_full() {
                return false;
            }
            let (Some(slot), Some(transport)) = (slots.at_mut(hop.slot), peers.at_mut(hop.peer)) else {
                pending.hop_next += 1;
                continue;
            };
            if !slot.choice.takes(hop.route) {
                hops.swap_remove(pending.hop_next); // It has changed to another encoding.
                continue;
            }
            pending.hop_next += 1;
            let sent = Sent::default();
            let mut receiver = Receiver {
                hop,
                slot,
                transport,
                now,
                abs_send_time,
                queues: &mut *queues,
                red: &mut *red,
                is_video,
                sent,
            };
            let mut lacks_keyframe = false;
            for packet in pending.of(id) {
                if let (false, Some(ids)) = (is_video, &ids) {
                    let copies = receiver.send_earlier(ids, kept, store, packet, out);
                    counters[Counter::AudioCopies as usize] += copies;
                }
                let mut outcome = None;
                if let (true, Some(common)) = (receiver.waits(), &common) {
                    let format_of = |pt| Format::find(open, second.as_ref(), pt);
                    outcome = receiver.enter(packet, (common, kept, &format_of), sets, store, out);
                }
                let outcome = match (outcome, store.payload(packet.handle)) {
                    (Some(outcome), _) => outcome,
                    (None, Some(payload)) => receiver.deliver(is_video, sets, packet, payload, out),
                    (None, None) => continue,
                };
                match outcome {
                    Outcome::Written => packet.written += 1,
                    Outcome::Waits => {}
                    Outcome::Held(reason) => {
                        counters[reason as usize] += 1;
                        lacks_keyframe |= matches!(reason, Counter::HeldForKeyframe | Counter::HeldForPace);
                    }
                    Outcome::Refused => lacks_keyframe = true,
                }
            }
            receiver.sent.count(counters);
            if receiver.sent.paced > 0 {
                arm_pace(receiver.transport, timers, now);
            }
            // A later one of the packets may have begun the keyframe.
            keyframe.is_wanted |= lacks_keyframe && receiver.hop.awaits_keyframe;
        }
        true
    }
}

impl Forwarder {
    /// Sends a copy that has waited for its receiver's path, unless the receiver has changed to another encoding meanwhile.
    pub(super) fn send_waiting(&mut self, now: Micros, waiting: &Waiting, out: &mut Outbox) {
        let Forwarder { streams, slots, peers, counters, store, queues, red, .. } = self;
        let Waiting { route, slot, peer, packet } = waiting;
        let Some(stream) = streams.find_mut(packet.stream.index, packet.stream.generation) else { return };
        let Stream { hops, sets, keyframe, .. } = stream;
        let Some(hop) = hops.iter_mut().find(|hop| hop.route == *route) else { return };
        let (Some(slot), Some(transport)) = (slots.at_mut(*slot), peers.at_mut(*peer)) else { return };
        if slot.choice.live != Some(*route) {
            return;
        }
        let abs_send_time = rtp::abs_send_time(now);
        let sent = Sent::default();
        red.clear();
        let mut receiver = Receiver { hop, slot, transport, now, abs_send_time, queues, red, is_video: true, sent };
        let outcome = match store.payload(packet.handle) {
            Some(payload) => receiver.deliver_now(true, sets.as_deref(), packet, payload, out),
            None => Outcome::Refused,
        };
        if let Outcome::Held(reason) = outcome {
            counters[reason as usize] += 1;
        }
        if !matches!(outcome, Outcome::Written) {
            keyframe.is_wanted |= receiver.hop.awaits_keyframe;
        }
        receiver.sent.count(counters);
    }
}

impl Receiver<'_> {
    /// Whether it waits for a keyframe of the stream while it is sent another encoding of the track.
    #[inline]
    fn waits(&self) -> bool {
        self.slot.choice.waits_for(self.hop.route)
    }

    /// A packet of the encoding that the receiver waits for. `None` if it has entered the stream, and this packet is the next that
    /// it is to be sent: with the packet that begins a keyframe, or later with all of the keyframe that has come by then, if the
    /// frame of the encoding before was not complete. Else what becomes of the packet.
    #[cold]
    fn enter(
        &mut self,
        packet: &PendingPacket,
        (common, kept, format_of): (&Common, &Kept, &dyn Fn(Pt) -> Option<Format>),
        sets: Option<&ParameterSets>,
        store: &mut Store,
        out: &mut Outbox,
    ) -> Option<Outcome> {
        let held_for = |reason| Some(Outcome::Held(reason));
        let Receiver { hop, slot, transport, .. } = self;
        if transport.outgoing().is_none() {
            return held_for(Counter::HeldNotReady);
        }
        if hop.pts[packet.codec_index] == 0 {
            return held_for(Counter::HeldCodec);
        }
        let Input { index, timestamp, .. } = packet.input;
        let starts = match packet.start {
            KeyframeStart::No => false,
            KeyframeStart::Complete => true,
            KeyframeStart::NeedsSets(version) => sets.is_some_and(|sets| sets.version() == version),
        };
        let choice = &mut slot.choice;
        let held = match choice.held {
            None if !starts => return held_for(Counter::HeldForKeyframe),
            None => *choice.held.insert(Held { index, timestamp, start: packet.start, has_withheld: false }),
            Some(held) if index < held.index => return held_for(Counter::HeldStale),
            Some(held) => held,
        };
        // When the next frame begins, the rest of the one before does not come any more.
        if choice.frame.is_some() && timestamp == held.timestamp {
            return held_for(Counter::HeldForFrame);
        }
        let count = index - held.index;
        if count > ENTERED_MAX || (count > 0 && store.find(common.source, kept, held.index).is_none()) {
            choice.held = None; // Its beginning is not there any more.
            return held_for(Counter::HeldForKeyframe);
        }
        if !out.has_room(count as usize + SETS_MAX + 1) {
            return held_for(Counter::HeldForFrame);
        }
        choice.switch();
        slot.rewriter.switch();
        self.sent.switches += 1;
        for index in held.index..index {
            // What was lost on the way here may be repaired later.
            let Some(handle) = store.find(common.source, kept, index) else { continue };
            let Some([head, payload]) = store.packet(handle) else { continue };
            let Some(packet) = RtpPacket::from_parts(head, payload, index) else { continue };
            let Some(format) = format_of(packet.header.pt) else { continue };
            let start = if index == held.index { held.start } else { KeyframeStart::No };
            let packet = common.packet(format, &packet, start, handle);
            if let Some(payload) = store.payload(handle) {
                self.deliver(true, sets, &packet, payload, out);
            }
        }
        None
    }

    /// Sends a packet, or has it wait if it is of video and the receiver's path is not ready for it.
    #[inline]
    fn deliver(
        &mut self,
        is_video: bool,
        sets: Option<&ParameterSets>,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Outcome {
        let now = self.now;
        if is_video && self.transport.sending.as_mut().is_some_and(|sending| sending.must_wait(now)) {
            return self.wait(packet, payload.len());
        }
        self.deliver_now(is_video, sets, packet, payload, out)
    }

    /// Has a packet wait. What begins at a keyframe is complete from there on, so nothing waits for a keyframe that waits itself.
    #[cold]
    fn wait(&mut self, packet: &PendingPacket, len: usize) -> Outcome {
        let Receiver { hop, slot, transport, queues, .. } = self;
        if hop.pts[packet.codec_index] == 0 {
            return Outcome::Held(Counter::HeldCodec);
        }
        if hop.awaits_keyframe && packet.start == KeyframeStart::No {
            return Outcome::Held(Counter::HeldForKeyframe);
        }
        let Some(sending) = &mut transport.sending else { return Outcome::Refused };
        let waiting = Waiting { route: hop.route, slot: hop.slot, peer: hop.peer, packet: *packet };
        let is_too_much = {
            let is_screen = slot.weight() == weight::SCREEN;
            sending.pacer.is_too_much(sending.queue.bytes() + len as u64, is_screen)
        };
        if is_too_much || !queues.push(&mut sending.queue, waiting, len) {
            // The frame is broken from here on; what follows of it would only make others wait.
            hop.awaits_keyframe = true;
            slot.rewriter.leave_out();
            return Outcome::Held(Counter::HeldForPace);
        }
        if std::mem::replace(&mut hop.awaits_keyframe, false) {
            hop.lacks_sets = true;
        }
        self.sent.paced += 1;
        Outcome::Waits
    }

    /// Sends a packet, behind the parameter sets if it begins a keyframe that the receiver can decode only with them.
    #[inline]
    fn deliver_now(
        &mut self,
        is_video: bool,
        sets: Option<&ParameterSets>,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Outcome {
        let len = payload.len() as u64;
        let outcome = match sets.filter(|sets| self.needs(sets, packet)) {
            None => self.send(is_video, packet, payload, out),
            Some(sets) => {
                let (ahead, outcome) = self.send_behind_sets(sets, packet, payload, out);
                self.sent.sets += ahead;
                outcome
            }
        };
        if matches!(outcome, Outcome::Written) {
            self.sent.packets += 1;
            self.sent.bytes += len;
        }
        outcome
    }

    /// Sends a packet: gives it the numbers that it has for this receiver, and protects it into the outbox.
    #[inline]
    fn send(&mut self, is_video: bool, packet: &PendingPacket, payload: Payload<'_>, out: &mut Outbox) -> Outcome {
        let Receiver { hop, slot, transport, .. } = self;
        if transport.outgoing().is_none() {
            return Outcome::Held(Counter::HeldNotReady);
        }
        if hop.pts[packet.codec_index] == 0 {
            return Outcome::Held(Counter::HeldCodec);
        }
        let next = slot.sender.next();
        if slot.rewriter.is_jump(packet.input.index, next) {
            slot.rewriter.cut();
            hop.awaits_keyframe = is_video;
        }
        if hop.awaits_keyframe && packet.start != KeyframeStart::Complete {
            return Outcome::Held(Counter::HeldForKeyframe);
        }
        let Some(mapping) = slot.rewriter.map(&packet.input, next, self.now) else {
            return Outcome::Held(Counter::HeldStale);
        };
        let is_newest = mapping.out_index >= next;
        if is_newest && !slot.choice.lets_pass(packet.input.timestamp) {
            return Outcome::Held(Counter::HeldForFrame);
        }
        let Input { timestamp, pictures, .. } = packet.input;
        let (temporal, is_keyframe) = (pictures.and_then(|p| p.temporal), packet.start != KeyframeStart::No);
        if is_newest && slot.layers.leaves_out(timestamp, temporal, is_keyframe) && mapping.goes_on() {
            slot.rewriter.leave_out_frame(&packet.input);
            return Outcome::Held(Counter::HeldForLayer);
        }
        self.send_mapped(&mapping, is_newest, packet, payload, out)
    }

    /// Sends a packet under these numbers; `is_newest` if none with a higher index has left.
    #[inline]
    fn send_mapped(
        &mut self,
        mapping: &Mapping,
        is_newest: bool,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Outcome {
        let Mapping { out_index: index, timestamp, .. } = *mapping;
        let PendingPacket { marker, ref carried, is_evened, codec_index, .. } = *packet;
        let numbers = Numbers { index, timestamp, marker, carried, is_evened };
        let outcome = self.protect(numbers, codec_index, payload.renumbered(mapping.renumber), out);
        if matches!(outcome, Outcome::Written) {
            self.slot.rewriter.sent(mapping, is_newest, self.now);
            if is_newest {
                self.slot.choice.sent_newest(packet.input.timestamp, marker);
            }
            self.hop.awaits_keyframe = false;
            self.hop.lacks_sets &= packet.start != KeyframeStart::Complete;
        }
        outcome
    }

    /// Protects a payload under these numbers into the outbox.
    #[inline]
    fn protect(&mut self, numbers: Numbers<'_>, codec_index: usize, payload: Payload<'_>, out: &mut Outbox) -> Outcome {
        let Receiver { hop, slot, transport, red, .. } = self;
        let Numbers { index, timestamp, marker, carried, is_evened } = numbers;
        let transport_cc_seq = transport.transport_cc_seq();
        let Some((to, crypto)) = transport.outgoing() else { return Outcome::Held(Counter::HeldNotReady) };
        let header = Outgoing {
            marker,
            pt: if red.is_empty() { hop.pts[codec_index] } else { hop.red_pt },
            seq: index as u16,
            timestamp,
            ssrc: slot.sender.ssrc(),
            ids: &transport.extension_ids,
            mid: slot.open.mid.as_bytes(),
            transport_cc_seq,
            abs_send_time: self.abs_send_time,
            carried,
            is_evened,
        };
        let (prefix, earlier) = red.take(hop.pts[codec_index]);
        let (prefix_len, len) = (prefix.len(), prefix.len() + payload.len());
        match out.push_rtp(to, crypto, &mut slot.sender, index, |frame| header.write(frame, prefix, payload)) {
            Pushed::Written => {}
            // Its index has left before, or is too old to tell.
            Pushed::Nothing => return Outcome::Held(Counter::HeldStale),
            Pushed::Full => return Outcome::Refused,
        }
        if let (true, Some(sending)) = (prefix_len > 0, &mut transport.sending) {
            sending.earlier_sent(self.now, prefix_len);
        }
        self.sent.red += u64::from(earlier != 0);
        let kind = if self.is_video { Kind::Video } else { Kind::Audio };
        transport.transport_cc_sent(self.now, out.last_len(), kind);
        slot.packets += 1;
        slot.octets += len as u64;
        if let Some(rtx) = &mut slot.rtx {
            rtx.budget.earn(len);
        }
        if let Some(again) = &mut slot.again {
            again.left(index as u16, (transport_cc_seq, self.abs_send_time), earlier, len, self.now);
        }
        Outcome::Written
    }

    /// Whether a packet begins a keyframe that this receiver can decode if it gets the parameter sets first.
    #[inline]
    fn needs(&self, sets: &ParameterSets, packet: &PendingPacket) -> bool {
        let Receiver { hop, slot, transport, .. } = self;
        // The sets may have changed since it came; then others follow it.
        packet.start == KeyframeStart::NeedsSets(sets.version())
            && slot.choice.held.is_none()
            && (hop.awaits_keyframe || hop.lacks_sets || slot.rewriter.is_jump(packet.input.index, slot.sender.next()))
            && hop.pts[packet.codec_index] != 0
            && transport.outgoing().is_some()
    }

    /// Sends the parameter sets and then the packet, which begins a keyframe; how many sets there were. Each is a packet of
    /// the keyframe's timestamp with a number of its own, a single NAL unit (RFC 6184 §5.6), which every receiver takes
    /// whatever its packetization-mode. All of them, or nothing.
    #[cold]
    fn send_behind_sets(
        &mut self,
        sets: &ParameterSets,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> (u64, Outcome) {
        let count = sets.count();
        if !out.has_room(count + 1) {
            return (0, Outcome::Refused);
        }
        let ahead = Ahead { count: count as u8, version: sets.version() };
        let mapping = self.slot.rewriter.map_behind(ahead, &packet.input, self.slot.sender.next(), self.now);
        let first = mapping.out_index - count as u64;
        let carried = &Carried::default();
        for (index, set) in (first..).zip(sets.iter()) {
            let numbers = Numbers { index, timestamp: mapping.timestamp, marker: false, carried, is_evened: false };
            self.protect(numbers, packet.codec_index, Payload::bare(set), out);
        }
        self.hop.lacks_sets = false;
        (count as u64, self.send_mapped(&mapping, true, packet, payload, out))
    }
}
