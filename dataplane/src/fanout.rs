//! Fanning out: packets of a turn wait here, and then each receiver gets all that wait of a stream, one after the other.
//!
//! A frame of video comes as a burst of packets. Packet by packet, the walk through all receivers' keys, windows and numbers
//! would be made for each of them, and a burst for hundreds of receivers would have left the cache by the time the kernel
//! reads it. Receiver by receiver the walk is made once, what was written can be flushed in between, so that the first
//! receivers have the burst while the last ones' is not sealed yet, and its packets leave as one train all the same.

use proto::id::StreamId;
use proto::plane::{Codec, Counter, ExtensionIds};

use crate::codec;
use crate::config::{BURST_LEN_MAX, Micros};
use crate::forward::Forwarder;
use crate::outbox::Outbox;
use crate::packet::{Carried, Outgoing, RtpPacket, Staged};
use crate::picture::Pictures;
use crate::repair::Source;
use crate::rewrite::{Ahead, Input, Mapping};
use crate::route::{Format, Hop, Slot, Stream};
use crate::sets::{Entry, ParameterSets};
use crate::transport::Transport;

/// A packet that waits; its payload is staged at the same place.
struct Waiting {
    stream: StreamId,
    input: Input,
    /// Which of the stream's codecs it is in.
    place: usize,
    marker: bool,
    carried: Carried,
    entry: Entry,
    is_evened: bool,
    /// When the kernel received it.
    at: Micros,
    /// Copies that were written since somebody was told of them.
    written: u64,
    is_done: bool,
}

/// The packets that wait to be fanned out, in the order in which they came.
pub(crate) struct Burst {
    packets: Vec<Waiting>,
    payloads: Box<[Staged]>,
    /// The receiver that is next, of the stream whose turn it is.
    hop_next: usize,
}

impl Burst {
    pub(crate) fn new() -> Self {
        Burst {
            packets: Vec::with_capacity(BURST_LEN_MAX),
            payloads: (0..BURST_LEN_MAX).map(|_| Staged::new()).collect(),
            hop_next: 0,
        }
    }

    /// Whether nothing waits.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.packets.len() == BURST_LEN_MAX
    }

    /// Takes a packet that many are to get. The caller has checked that there is room.
    #[inline]
    pub(crate) fn push(
        &mut self,
        stream: &mut Stream,
        ids: &ExtensionIds,
        format: Format,
        packet: &RtpPacket<'_>,
        at: Micros,
    ) {
        // A keyframe that comes so late that what follows it was not kept cannot be completed.
        let is_kept = packet.index >= stream.kept_from;
        let may_enter = is_kept && format == stream.format && format.codec.is_video();
        let entry = match &mut stream.sets {
            Some(sets) if format.codec == Codec::H264 => {
                sets.saw(packet.index, packet.header.timestamp, packet.header.marker, packet.payload)
            }
            _ if may_enter && codec::starts_keyframe(format.codec, packet.payload) => Entry::Whole,
            _ => Entry::No,
        };
        let entry = if may_enter { entry } else { Entry::No };
        if entry != Entry::No {
            stream.keyframe.is_wanted = false;
        }
        let is_first = !std::mem::replace(&mut stream.is_in_frame, !packet.header.marker);
        let is_alone = is_first && packet.header.marker;
        if stream.hops.is_empty() {
            return;
        }
        self.payloads[self.packets.len()].load(packet.payload);
        self.packets.push(Waiting {
            stream: stream.open.stream,
            input: Input {
                source: Source { stream: stream.open.stream, ssrc: stream.ssrc },
                index: packet.index,
                timestamp: packet.header.timestamp,
                clock_rate: stream.open.codec.clock_rate(),
                pictures: Pictures::read(format.codec, packet.payload),
            },
            place: format.place,
            marker: packet.header.marker,
            carried: packet.carried(ids),
            entry,
            is_evened: format.codec.is_video() && !is_alone,
            at,
            written: 0,
            is_done: false,
        });
    }

    /// The stream whose turn it is.
    fn stream(&self) -> Option<StreamId> {
        self.packets.iter().find(|packet| !packet.is_done).map(|packet| packet.stream)
    }

    /// The packets of a stream with their payloads.
    fn of(&mut self, stream: StreamId) -> impl Iterator<Item = (&mut Waiting, &mut Staged)> {
        self.packets.iter_mut().zip(&mut self.payloads).filter(move |(packet, _)| packet.stream == stream)
    }

    /// A stream's packets are with all of its receivers.
    fn finish(&mut self, stream: StreamId) {
        self.of(stream).for_each(|(packet, _)| packet.is_done = true);
        self.hop_next = 0;
    }
}

/// A route's end: what one receiver's copies are made with.
struct Receiver<'a> {
    hop: &'a mut Hop,
    slot: &'a mut Slot,
    transport: &'a mut Transport,
}

/// What became of one copy.
enum Outcome {
    Written,
    /// Not written, for a reason that is counted.
    Held(Counter),
    /// The outbox counts what it refuses.
    Refused,
}

impl Forwarder {
    /// Writes what waits for as many receivers as the outbox takes, but for one at least. False: it is to be flushed, and there
    /// is more.
    ///
    /// `written` is told when packets arrived and how many copies of them this call has written.
    pub fn fan_out(&mut self, now: Micros, out: &mut Outbox, written: impl FnMut(Micros, u64)) -> bool {
        self.fan_out_until(now, out, Outbox::has_enough, written)
    }

    /// The same until `is_enough`.
    pub(crate) fn fan_out_until(
        &mut self,
        now: Micros,
        out: &mut Outbox,
        is_enough: impl Fn(&Outbox) -> bool,
        mut written: impl FnMut(Micros, u64),
    ) -> bool {
        while let Some(id) = self.burst.stream() {
            let is_done = self.fan_out_stream(now, id, out, &is_enough);
            for (packet, _) in self.burst.of(id) {
                written(packet.at, std::mem::take(&mut packet.written));
            }
            if !is_done {
                return false;
            }
            self.burst.finish(id);
            self.ask_for_who_began_to_wait(now, id.index, out);
        }
        self.burst.packets.clear();
        true
    }

    /// The same for one stream's packets.
    fn fan_out_stream(
        &mut self,
        now: Micros,
        id: StreamId,
        out: &mut Outbox,
        is_enough: impl Fn(&Outbox) -> bool,
    ) -> bool {
        let Forwarder { streams, slots, peers, counters, burst, payload: spare, .. } = self;
        let Some(stream) = streams.find_mut(id.index, id.generation) else { return true };
        let sets = stream.sets.as_deref();
        let begun_at = burst.hop_next;
        while let Some(hop) = stream.hops.get_mut(burst.hop_next) {
            // Not before the first: an outbox whose memory the kernel has not given back yet stays full, and would for ever.
            if burst.hop_next > begun_at && is_enough(out) {
                return false;
            }
            burst.hop_next += 1;
            let (Some(slot), Some(transport)) = (slots.at_mut(hop.slot), peers.at_mut(hop.peer)) else { continue };
            let is_video = stream.open.codec.is_video();
            let mut receiver = Receiver { hop, slot, transport };
            let mut lacks_keyframe = false;
            for (packet, payload) in burst.of(id) {
                let outcome = match sets.filter(|sets| receiver.needs(sets, packet)) {
                    None => receiver.write(now, is_video, packet, payload, out),
                    Some(sets) => {
                        let (ahead, outcome) = receiver.write_behind_sets(now, sets, packet, payload, spare, out);
                        counters[Counter::ParameterSetsSent as usize] += ahead;
                        outcome
                    }
                };
                match outcome {
                    Outcome::Written => {
                        packet.written += 1;
                        counters[Counter::Sent as usize] += 1;
                        counters[Counter::SentBytes as usize] += payload.bytes().len() as u64;
                    }
                    Outcome::Held(reason) => {
                        counters[reason as usize] += 1;
                        lacks_keyframe |= reason == Counter::HeldForKeyframe;
                    }
                    Outcome::Refused => lacks_keyframe = true,
                }
            }
            // A later packet of the burst may have begun the keyframe.
            stream.keyframe.is_wanted |= lacks_keyframe && receiver.hop.awaits_keyframe;
        }
        true
    }
}

impl Receiver<'_> {
    /// Writes this receiver's copy of a packet.
    #[inline]
    fn write(
        &mut self,
        now: Micros,
        is_video: bool,
        packet: &Waiting,
        payload: &mut Staged,
        out: &mut Outbox,
    ) -> Outcome {
        let Receiver { hop, slot, transport } = self;
        if transport.outgoing().is_none() {
            return Outcome::Held(Counter::HeldNotReady);
        }
        if hop.pts[packet.place] == 0 {
            return Outcome::Held(Counter::HeldCodec);
        }
        if slot.rewriter.is_jump(packet.input.index) {
            slot.rewriter.cut();
            hop.awaits_keyframe = is_video;
        }
        if hop.awaits_keyframe && packet.entry != Entry::Whole {
            return Outcome::Held(Counter::HeldForKeyframe);
        }
        match slot.rewriter.map(&packet.input, now) {
            Some(mapping) => self.write_mapped(now, &mapping, packet, payload, out),
            None => Outcome::Held(Counter::HeldStale),
        }
    }

    /// Writes a packet under the numbers that it has for this receiver.
    #[inline]
    fn write_mapped(
        &mut self,
        now: Micros,
        mapping: &Mapping,
        packet: &Waiting,
        payload: &mut Staged,
        out: &mut Outbox,
    ) -> Outcome {
        if self.slot.sent_window.check(mapping.out_index).is_err() {
            return Outcome::Held(Counter::HeldStale);
        }
        mapping.write_pictures(payload.bytes());
        let Waiting { marker, carried, is_evened, place, .. } = packet;
        let numbers = (mapping.out_index, mapping.timestamp);
        let outcome = self.push(now, numbers, (*marker, carried, *is_evened), *place, payload, out);
        if matches!(outcome, Outcome::Written) {
            self.slot.rewriter.sent(mapping, now);
            self.hop.awaits_keyframe = false;
            self.hop.lacks_sets &= packet.entry != Entry::Whole;
        }
        outcome
    }

    /// Protects a payload under this index and timestamp into the outbox. `place` is that of its codec.
    #[inline]
    fn push(
        &mut self,
        now: Micros,
        (out_index, timestamp): (u64, u32),
        (marker, carried, is_evened): (bool, &Carried, bool),
        place: usize,
        payload: &mut Staged,
        out: &mut Outbox,
    ) -> Outcome {
        let Receiver { hop, slot, transport } = self;
        let transport_cc_seq = transport.next_transport_cc_seq();
        let Some((to, crypto)) = transport.outgoing() else { return Outcome::Held(Counter::HeldNotReady) };
        let header = Outgoing {
            marker,
            pt: hop.pts[place],
            seq: out_index as u16,
            timestamp,
            ssrc: hop.ssrc,
            ids: &transport.extension_ids,
            mid: slot.open.mid.as_bytes(),
            transport_cc_seq,
            now,
            carried,
            is_evened,
        };
        if !out.push_rtp(to, crypto, hop.ssrc, out_index, |frame| header.write(frame, &[], payload)) {
            return Outcome::Refused;
        }
        slot.sent_window.update(out_index);
        let len = payload.bytes().len();
        slot.packets += 1;
        slot.octets += len as u64;
        if let Some(budget) = &mut slot.budget {
            budget.earn(len);
        }
        Outcome::Written
    }

    /// Whether a packet begins a keyframe that this receiver can decode if it gets the parameter sets first.
    #[inline]
    fn needs(&self, sets: &ParameterSets, packet: &Waiting) -> bool {
        let Receiver { hop, slot, transport } = self;
        // The sets may have changed since it came; then others follow it.
        packet.entry == Entry::NeedsSets(sets.version())
            && (hop.awaits_keyframe || hop.lacks_sets || slot.rewriter.is_jump(packet.input.index))
            && hop.pts[packet.place] != 0
            && transport.outgoing().is_some()
    }

    /// Writes the parameter sets and then the packet, which begins a keyframe; how many sets there were. Each is a packet of
    /// the keyframe's timestamp with a number of its own, a single NAL unit (RFC 6184 §5.6), which every receiver takes
    /// whatever its packetization-mode. All of them, or nothing.
    #[cold]
    fn write_behind_sets(
        &mut self,
        now: Micros,
        sets: &ParameterSets,
        packet: &Waiting,
        payload: &mut Staged,
        spare: &mut Staged,
        out: &mut Outbox,
    ) -> (u64, Outcome) {
        let count = sets.count();
        if !out.has_room(count + 1) {
            return (0, Outcome::Refused);
        }
        let ahead = Ahead { count: count as u8, version: sets.version() };
        let mapping = self.slot.rewriter.map_behind(ahead, &packet.input, now);
        let first = mapping.out_index - count as u64;
        for (out_index, set) in (first..).zip(sets.iter()) {
            spare.load(set);
            let bare = (false, &Carried::default(), false);
            self.push(now, (out_index, mapping.timestamp), bare, packet.place, spare, out);
        }
        self.hop.lacks_sets = false;
        (count as u64, self.write_mapped(now, &mapping, packet, payload, out))
    }
}
