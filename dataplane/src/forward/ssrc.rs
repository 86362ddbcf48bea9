//! SSRCs of a publisher from which none of its streams is carried now: the other encodings of simulcast by `ssrc-group:SIM`
//! (RFC 5576 §4.2), the SSRC that a stream had before, and those of no stream at all.
//!
//! A packet of one of them is authenticated under a replay window of its own and acknowledged in transport-cc feedback, because it
//! did arrive: a sender would take unacknowledged packets for losses and lower its rate. Then it is dropped, unless its stream
//! goes on with it:
//!
//! - from an SSRC of lower rank when the one before has fallen silent ([`SSRC_SILENCE`], [`SSRC_SILENCE_FRAMES`]);
//! - from one of higher rank (the best encoding first, then the others in their order, then what nobody announced) with its
//!   next keyframe, for which it is asked.
//!
//! So an SSRC that was announced is never lost: if another one took its place, it has it back as soon as it sends.

use proto::id::Ssrc;
use proto::plane::{Counter, Extension, Refusal, STREAM_ENCODINGS_MAX, StreamEncodings};

use super::receive::note_arrival;
use super::{Forwarder, remb};
use crate::codec;
use crate::config::{KEYFRAME_RETRY, Micros, SSRC_SILENCE, SSRC_SILENCE_FRAMES};
use crate::encodings::{Encodings, NEVER};
use crate::outbox::Outbox;
use crate::packet::{RtpPacket, SrtpPacket};
use crate::police;
use crate::slot::interrupt;
use crate::srtp::{Narrow, Window};
use crate::stream::Stream;
use crate::table::Table;
use crate::transport::{SsrcOwner, Transport};

impl Stream {
    /// The command that told of its further encodings.
    pub(super) fn encodings_open(&self) -> Option<StreamEncodings> {
        let Encodings { ssrcs, .. } = self.encodings;
        let [ssrcs, rtx_ssrcs] = [ssrcs.map(|(media, _)| media), ssrcs.map(|(_, rtx)| rtx)];
        self.encodings.are_known().then_some(StreamEncodings { stream: self.open.stream, ssrcs, rtx_ssrcs })
    }

    /// How much an SSRC of the stream is preferred.
    fn rank(&self, ssrc: Ssrc) -> usize {
        if ssrc == self.open.ssrc && ssrc != 0 {
            return STREAM_ENCODINGS_MAX + 1;
        }
        let position = self.encodings.ssrcs.iter().position(|(media, _)| *media == ssrc && ssrc != 0);
        position.map_or(0, |position| STREAM_ENCODINGS_MAX - position)
    }

    /// The SSRC of RTX that was announced for an SSRC of the stream, 0 for none.
    fn rtx_of(&self, ssrc: Ssrc) -> Ssrc {
        if ssrc == self.open.ssrc {
            return self.open.rtx_ssrc;
        }
        self.encodings.ssrcs.iter().find(|(media, _)| *media == ssrc).map_or(0, |(_, rtx)| *rtx)
    }

    /// Whether the SSRC that the stream is carried from has ended or paused, when others have ended so many frames more than
    /// are counted.
    fn is_silent(&self, at: Micros, more: u8) -> bool {
        let Encodings { received_at, counted_since, frames, .. } = self.encodings;
        let frames = if counted_since == received_at { frames.saturating_add(more) } else { more };
        let has_given_way = self.open.codec.is_video() && frames >= SSRC_SILENCE_FRAMES;
        received_at == NEVER || at >= received_at + SSRC_SILENCE || has_given_way
    }

    /// Whether a packet of another SSRC that comes now may be the one with which the stream goes on.
    fn may_yield(&self, ssrc: Ssrc, at: Micros) -> bool {
        self.rank(ssrc) > self.rank(self.ssrc) || self.is_silent(at, 1)
    }

    /// Whether the stream goes on with this packet of another SSRC.
    fn yields_to(&self, packet: &RtpPacket<'_>, at: Micros) -> bool {
        let format = self.format_of(packet.header.pt).unwrap_or(self.format);
        // Before its keyframe it would only take the picture away from those who have one.
        let is_entry = || !self.is_received() || codec::starts_keyframe(format.codec, packet.payload);
        self.is_silent(at, 0) || (self.rank(packet.header.ssrc) > self.rank(self.ssrc) && is_entry())
    }

    /// Whether retransmissions under another SSRC are those of the one that the stream is carried from. Without an
    /// announcement the newest are.
    fn rtx_yields_to(&self, rtx_ssrc: Ssrc) -> bool {
        let of_others = [(self.open.ssrc, self.open.rtx_ssrc)].into_iter().chain(self.encodings.ssrcs);
        let is_anothers = of_others.into_iter().any(|(media, rtx)| rtx == rtx_ssrc && media != self.ssrc);
        let is_heard = self.rtx_window.highest().is_some();
        !is_anothers && ([0, rtx_ssrc].contains(&self.rtx_of(self.ssrc)) || !is_heard)
    }

    /// A frame of another SSRC ended.
    fn note_other_frame(&mut self) {
        let Encodings { received_at, counted_since, frames, .. } = &mut self.encodings;
        if counted_since != received_at {
            (*counted_since, *frames) = (*received_at, 0);
        }
        *frames = frames.saturating_add(1);
    }
}

impl Forwarder {
    /// An RTP packet of an SSRC from which no stream is carried. `None` as in
    /// [`receive_datagram`](Self::receive_datagram).
    #[cold]
    pub(super) fn receive_other_ssrc(
        &mut self,
        now: Micros,
        peer: u32,
        at: Micros,
        (packet, len): (SrtpPacket<'_>, usize),
        out: &mut Outbox,
    ) -> Option<Counter> {
        let Some(transport) = self.peers.at_mut(peer) else { return Some(Counter::DroppedUnknownAddress) };
        let Some(rx) = &transport.rx else { return Some(Counter::DroppedNoKeys) };
        let ssrc = packet.header().ssrc;
        let known = transport.other(ssrc);
        if known.is_none() && !transport.may_remember() {
            return Some(Counter::DroppedUnknownStream);
        }
        let owner = known.and_then(|other| other.owner()).or_else(|| resolve(transport, &self.streams, &packet));
        let yielding = owner.and_then(|owner| self.streams.at(owner.stream)).filter(|s| s.may_yield(ssrc, at));
        if yielding.is_some() && !self.pending.is_empty() {
            return None; // Packets of before a new SSRC have their receivers' numbers of before.
        }

        let mut window = known.map_or_else(Narrow::default, |other| other.window);
        let unprotected = packet.unprotect(rx, &mut window, &mut transport.second_tries, now);
        self.counters[Counter::SrtpSecondTries as usize] += transport.second_tries.take_count();
        let packet = match unprotected {
            Ok(packet) => packet,
            Err(error) => return Some(error.counter()),
        };
        transport.remember_other(ssrc, owner, window);
        let owner_stream = owner.and_then(|owner| Some((owner, self.streams.at_mut(owner.stream)?)));
        let Some((owner, stream)) = owner_stream else {
            note_arrival(transport, &mut self.timers, &packet, at, now);
            return Some(Counter::DroppedUnknownStream);
        };
        if !police::admit([&mut transport.police, &mut stream.police], len, now) {
            return Some(self.cut(now, owner.stream, out));
        }
        note_arrival(transport, &mut self.timers, &packet, at, now);
        remb::arrived_aside(transport, stream, &packet, at);
        if packet.is_malformed {
            return Some(Counter::DroppedRtpMalformed);
        }
        if owner.is_rtx {
            if !stream.rtx_yields_to(ssrc) {
                return Some(Counter::DroppedOtherSsrc);
            }
            carry_from(transport, stream, owner);
            return Some(self.receive_rtx(now, at, owner.stream, packet, out));
        }
        if !stream.takes(packet.header.pt) {
            return Some(Counter::DroppedPayloadType);
        }
        if packet.header.marker {
            stream.note_other_frame();
        }
        if !stream.yields_to(&packet, at) {
            self.ask_better_encoding(now, owner.stream, ssrc, out);
            return Some(Counter::DroppedOtherSsrc);
        }
        carry_from(transport, stream, owner);
        interrupt(stream, &mut self.slots);
        stream.keyframe.is_wanted |= stream.is_received() && stream.open.codec.is_video();
        let fate = self.receive_primary(now, at, peer, owner.stream, packet, None, out);
        // Unless it began with one, of which the burst took notice.
        if self.streams.at(owner.stream).is_some_and(|stream| stream.keyframe.is_wanted) {
            self.want_keyframe(now, owner.stream, out);
        }
        Some(fate)
    }

    /// A better encoding than the one that is carried has begun to send: it is asked for the keyframe with which the stream
    /// can go on.
    fn ask_better_encoding(&mut self, now: Micros, index: u32, ssrc: Ssrc, out: &mut Outbox) {
        use proto::plane::feedback::PLI;
        let Some(stream) = self.streams.at_mut(index) else { return };
        let asked_at = stream.encodings.asked_at;
        let is_due = asked_at == NEVER || now >= asked_at + KEYFRAME_RETRY;
        if !is_due || stream.rank(ssrc) <= stream.rank(stream.ssrc) || stream.open.feedback & PLI == 0 {
            return;
        }
        stream.encodings.asked_at = now;
        stream.counts.keyframe_requests += 1;
        let publisher = stream.open.peer.index;
        self.count(Counter::KeyframeRequestsSent, 1);
        self.send_rtcp(publisher, out, |writer, sender| {
            writer.pli(sender, ssrc);
        });
    }

    /// The other encodings of a stream are announced.
    pub(super) fn open_encodings(&mut self, open: &StreamEncodings) -> Result<(), Refusal> {
        let stream = self.streams.find_mut(open.stream.index, open.stream.generation).ok_or(Refusal::Unknown)?;
        let peer = stream.open.peer;
        let transport = self.peers.find_mut(peer.index, peer.generation).ok_or(Refusal::Unknown)?;
        if stream.encodings.are_known() {
            return Err(Refusal::Occupied);
        }
        let pairs: [(Ssrc, Ssrc); STREAM_ENCODINGS_MAX] = std::array::from_fn(|i| (open.ssrcs[i], open.rtx_ssrcs[i]));
        let announced = || pairs.into_iter().flat_map(|(media, rtx)| [(media, false), (rtx, true)]);
        let count = |ssrc: Ssrc| announced().filter(|(other, _)| *other == ssrc).count();
        let is_taken = |ssrc: Ssrc| ssrc != 0 && (transport.owner(ssrc).is_some() || count(ssrc) > 1);
        if announced().any(|(ssrc, _)| is_taken(ssrc)) {
            return Err(Refusal::Occupied);
        }
        let fresh = announced().filter(|(ssrc, _)| *ssrc != 0 && transport.other(*ssrc).is_none()).count();
        if !transport.has_room_for(fresh) {
            return Err(Refusal::TableFull);
        }
        for (ssrc, is_rtx) in announced().filter(|(ssrc, _)| *ssrc != 0) {
            let window = transport.other(ssrc).map_or_else(Narrow::default, |other| other.window);
            transport.remember_other(ssrc, Some(SsrcOwner { ssrc, stream: open.stream.index, is_rtx }), window);
        }
        stream.encodings.ssrcs = pairs;
        Ok(())
    }
}

/// A stream is carried from another SSRC from now on; the one before is remembered with its window.
fn carry_from(transport: &mut Transport, stream: &mut Stream, owner: SsrcOwner) {
    let window = transport.recall(owner.ssrc).unwrap_or_default();
    let former_window = rebind(stream, owner, window);
    if let Some(former) = transport.bind_ssrc(owner) {
        transport.remember_other(former, Some(SsrcOwner { ssrc: former, ..owner }), former_window.into());
    }
    let rtx_ssrc = stream.rtx_of(owner.ssrc);
    let is_its = |ssrc| transport.other(ssrc).and_then(|other| other.owner()).is_some_and(|o| o.stream == owner.stream);
    if !owner.is_rtx && rtx_ssrc != stream.rtx_ssrc && is_its(rtx_ssrc) {
        carry_from(transport, stream, SsrcOwner { ssrc: rtx_ssrc, is_rtx: true, ..owner });
    }
}

/// Gives a stream its new SSRC with the window of that; returns the window of the former.
fn rebind(stream: &mut Stream, owner: SsrcOwner, window: Window) -> Window {
    if owner.is_rtx {
        stream.rtx_ssrc = owner.ssrc;
        return std::mem::replace(&mut stream.rtx_window, window);
    }
    stream.rename(owner.ssrc, window)
}

/// The stream of a packet whose SSRC is of none: by MID where there is one, else by payload type where only one stream of
/// the peer has it (RFC 9143 §9.2). Of a track that comes in several encodings it is the one with the packet's RID, or with its
/// repaired RID if the packet is a retransmission (RFC 8852 §3); a RID that was not offered names none. Only a claim until the
/// packet is authenticated.
fn resolve(transport: &Transport, streams: &Table<Stream>, packet: &SrtpPacket<'_>) -> Option<SsrcOwner> {
    let header = packet.header();
    let claimed = |extension: Extension| match transport.extension_ids[extension as usize] {
        0 => None,
        id => packet.claimed_extension(id),
    };
    let mid = claimed(Extension::Mid);
    let mut found = None;
    for &index in &transport.streams {
        let stream = streams.at(index)?;
        let open = &stream.open;
        let is_rtx = stream.format_of_rtx(header.pt).is_some();
        if !stream.takes(header.pt) && !is_rtx {
            continue;
        }
        if let Some(encoding) = &stream.encoding {
            let rid = claimed(if is_rtx { Extension::RepairedRid } else { Extension::Rid });
            if rid != Some(encoding.open.rid.as_bytes()) {
                continue;
            }
        }
        let owner = SsrcOwner { ssrc: header.ssrc, stream: index, is_rtx };
        match mid {
            Some(mid) if !open.mid.is_empty() => {
                if mid == open.mid.as_bytes() {
                    return Some(owner);
                }
            }
            _ if found.is_some() => return None,
            _ => found = Some(owner),
        }
    }
    found
}
