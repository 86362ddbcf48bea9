//! A receiver changes to another encoding of the track that it is sent ([`crate::choice`]): at a keyframe, behind the last packet of the frame that
//! has begun.

use proto::id::Pt;
use proto::plane::Counter;

use super::fanout::{Common, Outcome, PendingPacket, Read, Receiver};
use crate::choice::Held;
use crate::config::ENTERED_MAX;
use crate::outbox::Outbox;
use crate::packet::RtpPacket;
use crate::rewrite::Input;
use crate::sets::{KeyframeStart, SETS_MAX};
use crate::store::{Kept, Store};
use crate::stream::Format;

impl Receiver<'_> {
    /// A packet of the encoding that the receiver waits for. `None` if it has entered the stream, and this packet is the next that
    /// it is to be sent: with the packet that begins a keyframe, or later with all of the keyframe that has come by then, if the
    /// frame of the encoding before was not complete. Else what becomes of the packet.
    #[cold]
    pub(super) fn enter(
        &mut self,
        packet: &PendingPacket,
        (common, kept, format_of): (&Common, &Kept, &dyn Fn(Pt) -> Option<Format>),
        read: Read<'_>,
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
            KeyframeStart::NeedsSets(version) => read.sets.is_some_and(|sets| sets.version() == version),
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
            let described = read.layering.and_then(|layering| common.describe(format, &packet, layering));
            let packet = common.packet(format, &packet, described, start, handle);
            if let Some(payload) = store.payload(handle) {
                self.deliver(true, read, &packet, payload, out);
            }
        }
        None
    }
}
