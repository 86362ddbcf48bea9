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

use proto::id::StreamId;
use proto::plane::{Codec, Counter, Extension, ExtensionIds, weight};

use super::{Counters, Flush, Forwarder, arm_pace, extension_ids};
use crate::codec;
use crate::config::{Micros, PENDING_MAX};
use crate::earlier::Earlier;
use crate::layering::{Described, Layering};
use crate::outbox::{Outbox, Pushed};
use crate::pacer::Queues;
use crate::packet::{Carried, Descriptor, Outgoing, Role, RtpPacket};
use crate::picture::PictureNumbers;
use crate::rewrite::{Ahead, Input, Mapping};
use crate::rtp;
use crate::sending::Kind;
use crate::sets::{KeyframeStart, ParameterSets};
use crate::slot::Slot;
use crate::store::{Handle, Payload, Source};
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
    /// What it says of its layers, if anything.
    pub(super) described: Option<Described>,
    pub(super) start: KeyframeStart,
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
        let Arrived { at, start, is_alone, described, .. } = arrived;
        let common = Common::of(stream, ids);
        let is_evened = format.codec.is_video() && !is_alone;
        self.packets.push(PendingPacket { at, is_evened, ..common.packet(format, packet, described, start, handle) });
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
    /// What it says of its layers; whether that cannot be read.
    described: Option<Described>,
    pub(super) is_undescribed: bool,
}

impl Arrived {
    /// Notes a packet in its stream.
    #[inline]
    pub(super) fn note(
        stream: &mut Stream,
        format: Format,
        packet: &RtpPacket<'_>,
        ids: &ExtensionIds,
        at: Micros,
    ) -> Arrived {
        let described = stream.describe(format, packet, ids[Extension::DependencyDescriptor as usize]);
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
            (stream.keyframe.is_wanted, stream.keyframe.came) = (false, Some(at));
            if let Some(encoding) = &mut stream.encoding {
                is_resized = encoding.note_size(format.codec, stream.sets.as_deref(), packet.payload);
            }
        }
        if format.codec.is_video() {
            stream.lateness.came(packet.header.timestamp, at);
        }
        let is_first = !std::mem::replace(&mut stream.is_in_frame, !packet.header.marker);
        let (is_undescribed, described) = (described.is_err(), described.unwrap_or_default());
        Arrived { at, start, is_alone: is_first && packet.header.marker, is_resized, described, is_undescribed }
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
    pub(super) sent: Sent,
}

/// What one receiver was sent.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent {
    packets: u64,
    bytes: u64,
    /// Parameter sets.
    sets: u64,
    /// Whether it has changed to another encoding.
    pub(super) switches: u64,
    /// Copies that wait.
    paced: u64,
    /// Packets of RED.
    red: u64,
    /// Copies by a second path.
    twice: u64,
}

impl Sent {
    fn count(&self, counters: &mut Counters) {
        counters[Counter::Sent as usize] += self.packets;
        counters[Counter::SentBytes as usize] += self.bytes;
        counters[Counter::ParameterSetsSent as usize] += self.sets;
        counters[Counter::EncodingsSwitched as usize] += self.switches;
        counters[Counter::Paced as usize] += self.paced;
        counters[Counter::AudioRedSent as usize] += self.red;
        counters[Counter::AudioTwice as usize] += self.twice;
    }
}

/// What became of one copy.
pub(super) enum Outcome {
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
pub(super) struct Common {
    pub(super) source: Source,
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

    /// What a packet that came before says of its layers.
    pub(super) fn describe(&self, format: Format, packet: &RtpPacket<'_>, layering: &Layering) -> Option<Described> {
        layering.again(format.codec, packet, self.ids[Extension::DependencyDescriptor as usize])
    }

    /// A packet of the stream that is in the store.
    #[inline]
    pub(super) fn packet(
        &self,
        format: Format,
        packet: &RtpPacket<'_>,
        described: Option<Described>,
        start: KeyframeStart,
        handle: Handle,
    ) -> PendingPacket {
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
                frame: described.map(|described| (described.frame.spatial, described.frame.number)),
            },
            codec_index: format.index,
            marker: packet.header.marker,
            carried: packet.carried(&self.ids),
            described,
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
    descriptor: Option<Descriptor>,
    is_evened: bool,
}

/// What a stream's packets are read with.
#[derive(Clone, Copy)]
pub(super) struct Read<'a> {
    /// The parameter sets of H.264.
    pub(super) sets: Option<&'a ParameterSets>,
    /// What is known of its layers.
    pub(super) layering: Option<&'a Layering>,
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
        let Stream { hops, kept, sets, layering, open, second, keyframe, .. } = stream;
        let layering = layering.as_deref().filter(|layering| layering.is_known());
        let (read, kept) = (Read { sets: sets.as_deref(), layering }, &*kept);
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
                    outcome = receiver.enter(packet, (common, kept, &format_of), read, store, out);
                }
                let outcome = match (outcome, store.payload(packet.handle)) {
                    (Some(outcome), _) => outcome,
                    (None, Some(payload)) => receiver.deliver(is_video, read, packet, payload, out),
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
        let Stream { hops, sets, layering, keyframe, .. } = stream;
        let read = Read { sets: sets.as_deref(), layering: layering.as_deref().filter(|of| of.is_known()) };
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
            Some(payload) => receiver.deliver_now(true, read, packet, payload, out),
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

    /// Sends a packet, or has it wait if it is of video and the receiver's path is not ready for it.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        is_video: bool,
        read: Read<'_>,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Outcome {
        let now = self.now;
        if is_video && let Some(sending) = &mut self.transport.sending {
            sending.has_burst |= packet.start != KeyframeStart::No;
            if sending.must_wait(now) {
                return self.wait(packet, payload.len());
            }
            sending.has_burst &= !packet.marker;
        }
        self.deliver_now(is_video, read, packet, payload, out)
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
            let is_burst = sending.has_burst || slot.weight() == weight::SCREEN;
            sending.pacer.is_too_much(sending.queue.bytes() + len as u64, is_burst)
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
        read: Read<'_>,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Outcome {
        let len = payload.len() as u64;
        let outcome = match read.sets.filter(|sets| self.needs(sets, packet)) {
            None => self.send(is_video, read.layering, packet, payload, out),
            Some(sets) => {
                let (ahead, outcome) = self.send_behind_sets(sets, read.layering, packet, payload, out);
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
    fn send(
        &mut self,
        is_video: bool,
        layering: Option<&Layering>,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Outcome {
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
        let is_keyframe = packet.start != KeyframeStart::No;
        let described = packet.described_in(layering);
        let left_out = if is_newest { packet.place(&mut slot.layers, layering, is_keyframe) } else { None };
        if let Some(is_picture) = left_out.filter(|_| mapping.goes_on()) {
            let is_picture = is_picture && packet.described.is_none_or(|described| !described.is_flexible);
            slot.rewriter.leave_out_frame(&packet.input, is_picture);
            return Outcome::Held(Counter::HeldForLayer);
        }
        let ends = described.is_some_and(|(frame, structure)| slot.layers.ends_picture(frame, structure));
        self.send_mapped(&mapping, (is_newest, packet.marker || ends, Role::Own), packet, payload, out)
    }

    /// Sends a packet under these numbers; `is_newest` if none with a higher index has left. Its marker, and its place among parameter sets.
    #[inline]
    fn send_mapped(
        &mut self,
        mapping: &Mapping,
        (is_newest, marker, role): (bool, bool, Role),
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Outcome {
        let Mapping { out_index: index, timestamp, .. } = *mapping;
        let PendingPacket { ref carried, is_evened, codec_index, .. } = *packet;
        let descriptor = packet.descriptor(mapping, role);
        let numbers = Numbers { index, timestamp, marker, carried, descriptor, is_evened };
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
        let Numbers { index, timestamp, marker, carried, descriptor, is_evened } = numbers;
        let transport_cc_seq = transport.transport_cc_seq();
        let held = slot.playout.value().map(|value| carried.and(Extension::PlayoutDelay, &value));
        let carried = held.as_ref().unwrap_or(carried);
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
            descriptor,
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
        if !self.is_video
            && let Some(second) = transport.second(to)
        {
            self.sent.twice += u64::from(out.push_last_again(to, second));
        }
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
        layering: Option<&Layering>,
        packet: &PendingPacket,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> (u64, Outcome) {
        let count = sets.count();
        if !out.has_room(count + 1) {
            return (0, Outcome::Refused);
        }
        let ahead = Ahead { count: count as u8, version: sets.version() };
        packet.place(&mut self.slot.layers, layering, true);
        let mapping = self.slot.rewriter.map_behind(ahead, &packet.input, self.slot.sender.next(), self.now);
        let first = mapping.out_index - count as u64;
        let carried = &Carried::default();
        for (index, set) in (first..).zip(sets.iter()) {
            let timestamp = mapping.timestamp;
            let role = if index == first { Role::First } else { Role::Between };
            let descriptor = packet.descriptor(&mapping, role);
            let numbers = Numbers { index, timestamp, marker: false, carried, descriptor, is_evened: false };
            self.protect(numbers, packet.codec_index, Payload::bare(set).ahead_of(payload.head()), out);
        }
        self.hop.lacks_sets = false;
        let role = if count > 0 { Role::Behind } else { Role::Own };
        (count as u64, self.send_mapped(&mapping, (true, packet.marker, role), packet, payload, out))
    }
}
