//! Earlier packets of audio that leave once more before they are asked for: in a packet of RED ([`crate::red`]) where the receiver takes that, or
//! else as copies. And the reverse, of what publishers send.

use proto::plane::{Counter, ExtensionIds};

use super::Forwarder;
use super::fanout::{PendingPacket, Receiver};
use crate::config::Micros;
use crate::outbox::Outbox;
use crate::packet::RtpPacket;
use crate::red::Red;
use crate::rewrite::{Input, Mapping};
use crate::rtp::{FIXED_LEN, Header, HeaderWriter};
use crate::store::{Kept, Store};

/// Earlier packets that are taken from one packet of RED, at most: what is older was asked for by now.
const RECOVERED_MAX: u64 = 3;

/// Longest head of a packet of RED that is kept as it is; of a longer one, which nobody sends, only the fixed part.
const HEAD_LEN_MAX: usize = 256;

impl Receiver<'_> {
    /// How many packets before each one the receiver gets once more with it: none where its path has no room for them. What a full queue
    /// drops is not mended by sending more.
    #[inline]
    fn copies(&self) -> u8 {
        let copies = self.slot.again.as_ref().map_or(0, |again| again.copies(self.now));
        let has_room = || self.transport.sending.as_ref().is_none_or(|sending| sending.has_room_for_copies(self.now));
        if copies > 0 && has_room() { copies } else { 0 }
    }

    /// Sends the packets before this one once more if the receiver loses many: with this one as RED, or ahead of it. How many copies were
    /// sent.
    #[inline]
    pub(super) fn send_earlier(
        &mut self,
        ids: &ExtensionIds,
        kept: &Kept,
        store: &mut Store,
        packet: &PendingPacket,
        out: &mut Outbox,
    ) -> u64 {
        self.red.clear();
        match (self.copies(), self.hop.red_pt) {
            (0, _) => 0,
            (copies, 0) => (1..=copies)
                .rev()
                .map(|back| u64::from(self.send_copy(back.into(), ids, kept, store, packet, out)))
                .sum(),
            (copies, _) => {
                self.prepare_red(copies, kept, store, packet);
                0
            }
        }
    }

    /// Has this packet leave as RED, with so many before it. Only those that this receiver was sent of the same stream: an offset says when
    /// they were.
    #[cold]
    fn prepare_red(&mut self, copies: u8, kept: &Kept, store: &mut Store, packet: &PendingPacket) {
        let Receiver { hop, slot, red, now, .. } = self;
        let pt = hop.pts[packet.codec_index];
        let next = slot.sender.next();
        let may = |index, timestamp| {
            let input = Input { index, timestamp, pictures: None, ..packet.input };
            slot.rewriter.map(&input, next, *now).is_some_and(|mapping| mapping.goes_on())
        };
        let Some(len) = store.payload(packet.handle()).map(|payload| payload.len()) else { return };
        let Input { source, index, timestamp, .. } = packet.input;
        if pt != 0 && packet.codec_index == 0 {
            let bits = (1 << copies) - 1;
            red.gather(bits, source, (index, timestamp), pt, len, kept, store, may);
        }
    }

    /// Sends the packet so many before this one once more, ahead of this one: where the first was lost, nothing seems to be missing.
    /// Its receiver's SRTP drops it as a replay where another has come. Whether it was sent.
    #[cold]
    fn send_copy(
        &mut self,
        back: u64,
        ids: &ExtensionIds,
        kept: &Kept,
        store: &mut Store,
        packet: &PendingPacket,
        out: &mut Outbox,
    ) -> bool {
        let Receiver { hop, slot, transport, now, .. } = self;
        let before = |store: &Store| {
            let index = packet.input.index.checked_sub(back)?;
            let handle = store.find(packet.input.source, kept, index)?;
            let [head, payload] = store.packet(handle)?;
            let before = RtpPacket::from_parts(head, payload, index)?;
            Some((handle, index, before.header.timestamp, before.header.marker, before.carried(ids)))
        };
        let Some((handle, index, timestamp, marker, carried)) = before(store) else { return false };
        let input = Input { index, timestamp, pictures: None, ..packet.input };
        let mapping = slot.rewriter.map(&input, slot.sender.next(), *now).filter(Mapping::goes_on);
        let (Some(mapping), Some(payload)) = (mapping, store.payload(handle)) else { return false };
        let names = (mapping.out_index, mapping.timestamp, marker, hop.pts[packet.codec_index]);
        let is_sent = slot.send_again(names, &carried, transport, (&[], payload), out);
        if is_sent {
            transport.sent_again(*now, out.last_len());
        }
        is_sent
    }
}

impl Forwarder {
    /// A packet of the SSRC that a stream is carried from: of its codec, or RED of it. The rest as in
    /// [`receive_media`](Self::receive_media).
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "a packet with all that its receipt has found out")]
    pub(super) fn receive_primary(
        &mut self,
        now: Micros,
        at: Micros,
        peer: u32,
        index: u32,
        packet: RtpPacket<'_>,
        highest: Option<u64>,
        out: &mut Outbox,
    ) -> Counter {
        let red_pt = self.streams.at(index).map_or(0, |stream| stream.open.red_pt);
        match red_pt != 0 && packet.header.pt == red_pt {
            true => self.receive_red(now, at, peer, index, packet, highest, out),
            false => self.receive_media(now, at, peer, index, packet, highest, out),
        }
    }

    /// A packet of RED: what it has of packets that were lost arrives now, in their order, and then the packet itself, without the rest.
    #[expect(clippy::too_many_arguments, reason = "a packet with all that its receipt has found out")]
    #[cold]
    fn receive_red(
        &mut self,
        now: Micros,
        at: Micros,
        peer: u32,
        index: u32,
        packet: RtpPacket<'_>,
        highest: Option<u64>,
        out: &mut Outbox,
    ) -> Counter {
        let Some(stream) = self.streams.at(index) else { return Counter::DroppedUnknownStream };
        let (pt, format) = (stream.open.pt, stream.format);
        let Some(red) = Red::parse(packet.payload) else { return Counter::DroppedRtpMalformed };
        if red.pt != pt {
            return Counter::DroppedPayloadType;
        }
        let mut highest = highest;
        for (back, block) in red.earlier().filter(|(back, block)| {
            *back <= RECOVERED_MAX && block.pt == pt && block.offset > 0 && !block.payload.is_empty()
        }) {
            let (Some(before), Some(original)) = (highest, packet.index.checked_sub(back)) else { continue };
            if !self.is_missing(index, original, before) || self.pending.is_nearly_full() || self.store.is_full() {
                continue;
            }
            let Some(stream) = self.streams.at_mut(index) else { continue };
            stream.window.update(original);
            stream.counts.repaired += 1;
            if let Some(missing) = &mut stream.missing {
                missing.arrived(original, Some(before), now);
                missing.repaired(original);
            }
            highest = Some(before.max(original));
            self.count(Counter::AudioRedRecovered, 1);
            let timestamp = packet.header.timestamp.wrapping_sub(block.offset);
            let mut head = [0; FIXED_LEN];
            let len = HeaderWriter::new(&mut head, false, pt, original as u16, timestamp, packet.header.ssrc).finish();
            let is_passed = self.streams.at(index).is_some_and(|stream| stream.passes());
            if let Some(recovered) = RtpPacket::from_parts(&head[..len], block.payload, original).filter(|_| is_passed)
            {
                self.enqueue(now, index, format, recovered, at, out);
            }
        }
        // What stands in the header from here on is the codec of the packet.
        let mut head = [0; HEAD_LEN_MAX];
        let len = match head.get_mut(..packet.head.len()) {
            Some(place) => {
                place.copy_from_slice(packet.head);
                place[1] = u8::from(packet.header.marker) << 7 | pt;
                packet.head.len()
            }
            None => {
                let Header { marker, seq, timestamp, ssrc, .. } = packet.header;
                HeaderWriter::new(&mut head, marker, pt, seq, timestamp, ssrc).finish()
            }
        };
        match RtpPacket::from_parts(&head[..len], red.payload, packet.index) {
            Some(plain) => self.receive_media(now, at, peer, index, plain, highest, out),
            None => Counter::DroppedRtpMalformed,
        }
    }

    /// Whether a packet of a stream was neither received nor recovered, of which `highest` is the newest that was.
    fn is_missing(&self, index: u32, original: u64, highest: u64) -> bool {
        let Some(stream) = self.streams.at(index) else { return false };
        // The packet that brings it is the newest of the window already.
        let is_new = stream.window.check(original).is_ok();
        is_new && (original > highest || stream.missing.as_ref().is_none_or(|missing| missing.lacks(original)))
    }
}
