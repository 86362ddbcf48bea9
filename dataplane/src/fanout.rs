//! Fanning out: packets of a turn wait here, and then each receiver gets all that wait of a stream, one after the other.
//!
//! A frame of video comes as a burst of packets. Packet by packet, the walk through all receivers' keys, windows and numbers
//! would be made for each of them, and a burst for hundreds of receivers would have left the cache by the time the kernel
//! reads it. Receiver by receiver the walk is made once, what was written can be flushed in between, so that the first
//! receivers have the burst while the last ones' is not sealed yet, and its packets leave as one train all the same.

use proto::id::StreamId;
use proto::plane::{Counter, ExtensionIds};

use crate::codec;
use crate::config::{BURST_LEN_MAX, Micros};
use crate::forward::Forwarder;
use crate::outbox::Outbox;
use crate::packet::{Carried, Outgoing, RtpPacket, Staged};
use crate::picture::Pictures;
use crate::repair::Source;
use crate::rewrite::Input;
use crate::route::{Format, Hop, Slot, Stream};
use crate::transport::Transport;

/// A packet that waits; its payload is staged at the same place.
struct Waiting {
    stream: StreamId,
    input: Input,
    /// Which of the stream's codecs it is in.
    place: usize,
    marker: bool,
    carried: Carried,
    starts_keyframe: bool,
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
        let is_entry = is_kept && format == stream.format && format.codec.is_video();
        let starts_keyframe = is_entry && codec::starts_keyframe(format.codec, packet.payload);
        if starts_keyframe {
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
            starts_keyframe,
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
        let Forwarder { streams, slots, peers, counters, burst, .. } = self;
        let Some(stream) = streams.find_mut(id.index, id.generation) else { return true };
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
                match receiver.write(now, is_video, packet, payload, out) {
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
        let pt = hop.pts[packet.place];
        if pt == 0 {
            return Outcome::Held(Counter::HeldCodec);
        }
        if slot.rewriter.is_jump(packet.input.index) {
            slot.rewriter.cut();
            hop.awaits_keyframe = is_video;
        }
        if hop.awaits_keyframe && !packet.starts_keyframe {
            return Outcome::Held(Counter::HeldForKeyframe);
        }
        let mapped = slot.rewriter.map(&packet.input, now);
        let Some(mapping) = mapped.filter(|m| slot.sent_window.check(m.out_index).is_ok()) else {
            return Outcome::Held(Counter::HeldStale);
        };
        let out_index = mapping.out_index;
        let transport_cc_seq = transport.next_transport_cc_seq();
        let Some((to, crypto)) = transport.outgoing() else { return Outcome::Held(Counter::HeldNotReady) };
        let header = Outgoing {
            marker: packet.marker,
            pt,
            seq: out_index as u16,
            timestamp: mapping.timestamp,
            ssrc: hop.ssrc,
            ids: &transport.extension_ids,
            mid: slot.open.mid.as_bytes(),
            transport_cc_seq,
            now,
            carried: &packet.carried,
            is_evened: packet.is_evened,
        };
        mapping.write_pictures(payload.bytes());
        if !out.push_rtp(to, crypto, hop.ssrc, out_index, |frame| header.write(frame, &[], payload)) {
            return Outcome::Refused;
        }
        slot.rewriter.sent(&mapping, now);
        hop.awaits_keyframe = false;
        slot.sent_window.update(out_index);
        let len = payload.bytes().len();
        slot.packets += 1;
        slot.octets += len as u64;
        if let Some(budget) = &mut slot.budget {
            budget.earn(len);
        }
        Outcome::Written
    }
}
