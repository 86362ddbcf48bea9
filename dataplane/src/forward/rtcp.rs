//! RTCP ends here. What subscribers say of their slots is answered by this worker (repair, sender reports) or turned
//! into something about the publisher's stream (merged keyframe requests); what publishers need to know of their
//! streams (receiver reports, NACK, transport-cc) is made here.

use proto::id::{Pt, Ssrc};
use proto::plane::{Codec, Counter};

use super::{Forwarder, extension_ids};
use crate::config::{Micros, REPAIR_COPY_LOSS, SECOND};
use crate::left_out::FrameKey;
use crate::outbox::{Outbox, Pushed};
use crate::packet::{Carried, Descriptor, Outgoing, Role, RtpPacket};
use crate::picture::{PictureNumbers, Renumber};
use crate::relay::Message;
use crate::repair::Budget;
use crate::rewrite::Origin;
use crate::rtcp::{self, Packet, ReportBlock, SenderClock, SenderReport, ntp};
use crate::rtp;
use crate::sending::Kind;
use crate::slot::{Route, Slot};
use crate::store::Payload;
use crate::stream::Format;
use crate::transport::Transport;

/// Sequence numbers of one received compound packet that are looked at: what a loss of a second of video needs.
const NACKED_MAX: usize = 512;

impl Forwarder {
    /// SRTCP: check the window, authenticate, update the window; then each packet of the compound.
    pub(super) fn receive_rtcp(
        &mut self,
        now: Micros,
        peer: u32,
        at: Micros,
        bytes: &mut [u8],
        out: &mut Outbox,
    ) -> Counter {
        let Some(transport) = self.peers.at_mut(peer) else { return Counter::DroppedUnknownAddress };
        let Some(rx) = &transport.rx else { return Counter::DroppedNoKeys };
        let Some(windows) = &mut transport.rtcp_rx_windows else { return Counter::DroppedNoKeys };
        let Some((ssrc, index)) = rx.rtcp_source(bytes) else { return Counter::DroppedSrtcp };
        if windows.check(ssrc, index).is_err() {
            return Counter::DroppedSrtcp;
        }
        let Ok(len) = rx.unprotect_rtcp(bytes) else { return Counter::DroppedSrtcp };
        windows.update(ssrc, index);

        let (mut nacked, mut fate) = (0, Counter::DroppedSrtcp);
        let mut reported = (0, 0);
        for packet in rtcp::packets(&bytes[..len]) {
            // A packet that is broken inside says nothing about its neighbours.
            if packet.is_ok() {
                fate = Counter::Consumed;
            }
            match packet {
                Ok(Packet::SenderReport(report)) => {
                    self.sender_reported(peer, at, &report, out);
                    report.blocks().for_each(|block| self.receiver_reported(peer, at, &block, &mut reported));
                }
                Ok(Packet::ReceiverReport(report)) => {
                    report.blocks().for_each(|block| self.receiver_reported(peer, at, &block, &mut reported));
                }
                Ok(Packet::Nack(nack)) => {
                    for seq in nack.lost().take(NACKED_MAX - nacked) {
                        nacked += 1;
                        self.repair(now, peer, nack.media_ssrc, seq, out);
                    }
                }
                Ok(Packet::Pli { media_ssrc, .. }) => self.keyframe_requested(now, peer, media_ssrc, out),
                Ok(Packet::Fir(fir)) => {
                    for (ssrc, _) in fir.entries() {
                        self.keyframe_requested(now, peer, ssrc, out);
                    }
                }
                Ok(Packet::TransportCc(feedback)) => self.feedback_received(now, peer, &feedback, out),
                Ok(Packet::Remb(remb)) => self.remb_received(now, peer, remb.bps, out),
                Ok(Packet::Rooms(rooms)) => self.rooms_told(now, peer, &rooms, out),
                // BYE, SDES and the rest change nothing that a forwarder does: streams end by signalling.
                Ok(_) | Err(_) => {}
            }
        }
        if reported.0 > 0 {
            self.losses_reported(now, peer, reported, out);
        }
        fate
    }

    /// A publisher related its RTP clock to its wall clock.
    fn sender_reported(&mut self, peer: u32, at: Micros, report: &SenderReport<'_>, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        let Some(owner) = transport.owner(report.ssrc).filter(|o| !o.is_rtx) else { return };
        let Some(stream) = self.streams.at_mut(owner.stream) else { return };
        let offset = *transport.ntp_offset.get_or_insert(ntp(at).wrapping_sub(report.ntp));
        stream.reception.sender_report(report.ntp, at);
        let clock = SenderClock { ntp: report.ntp.wrapping_add(offset), rtp: report.rtp_timestamp, at };
        stream.sender_report = Some(clock);
        for tap in &stream.taps {
            // One that is lost is made up for by the next report.
            let _ = out.relay(tap.worker, Message::clock(tap.mirror, stream.ssrc, clock));
        }
    }

    /// A receiver reported on one of its slots: its loss and the round trip (RFC 3550 §6.4.1). Adds to `reported` what was sent through the
    /// slot since its last report, and what of that did not arrive.
    fn receiver_reported(&mut self, peer: u32, at: Micros, block: &ReportBlock, reported: &mut (u64, u64)) {
        let Some(slot) = self.slot_of(peer, block.ssrc).and_then(|index| self.slots.at_mut(index)) else { return };
        slot.counts.loss = Some((at, block.fraction_lost));
        let (sent, lost) = slot.lost_since(block.fraction_lost);
        *reported = (reported.0 + sent, reported.1 + lost);
        let Some(sent) = slot.sender_report_sent(block.last_sr).filter(|_| block.last_sr != 0) else { return };
        let held = (u64::from(block.delay_since_last_sr) * SECOND) >> 16;
        let Some(rtt) = at.saturating_sub(sent).checked_sub(held) else { return };
        slot.counts.rtt = Some((at, rtt));
        if let Some(transport) = self.peers.at_mut(peer) {
            transport.measured_rtt(rtt);
        }
    }

    pub(super) fn slot_of(&self, peer: u32, ssrc: Ssrc) -> Option<u32> {
        self.peers.at(peer)?.slots.iter().find(|(s, _)| *s == ssrc).map(|(_, slot)| *slot)
    }

    /// A receiver lacks a packet: send it again, as RTX (RFC 4588) or as it was, if it is still there and the budget allows.
    fn repair(&mut self, now: Micros, peer: u32, ssrc: Ssrc, seq: u16, out: &mut Outbox) {
        self.count(Counter::NackReceived, 1);
        let slot = self.slot_of(peer, ssrc);
        if let Some(slot) = slot.and_then(|index| self.slots.at_mut(index)) {
            slot.counts.nacks += 1;
        }
        let outcome = slot.and_then(|slot| self.send_again(now, peer, slot, seq, Why::Asked, out));
        self.count(outcome.unwrap_or(Counter::NackMissed), 1);
        let is_video = outcome == Some(Counter::RtxSent);
        // What was never here has not been lost on the way there.
        if matches!(outcome, Some(Counter::RtxSent | Counter::AudioResent))
            && let Some(edge) = self.peers.at_mut(peer).and_then(|transport| transport.edge.as_mut())
        {
            edge.crossed.sent_is_lacked();
        }
        if let Some(slot) = slot.filter(|slot| is_video && self.slots.at(*slot).is_some_and(Slot::loses_much)) {
            let copy = self.send_again(now, peer, slot, seq, Why::Copy, out);
            self.count(Counter::RtxSent, u64::from(copy == Some(Counter::RtxSent)));
        }
    }

    /// Sends a packet of a slot again. What is asked for has its budget.
    pub(super) fn send_again(
        &mut self,
        now: Micros,
        peer: u32,
        slot_index: u32,
        seq: u16,
        why: Why,
        out: &mut Outbox,
    ) -> Option<Counter> {
        let Forwarder { slots, streams, peers, routes, store, red, .. } = self;
        let slot = slots.at_mut(slot_index)?;
        let origin = slot.rewriter.origin(seq, slot.sender.next())?;
        // All routes into a slot are of one track, and name its codecs alike.
        let route = routes.at(slot.choice.routes().next()?)?;
        let source = origin.source;
        // What came before a keyframe of another encoding is not waited for, where there is no room.
        let live = slot.choice.live.and_then(|live| routes.at(live)).map(|live| live.open.stream);
        let is_short = peers.at(peer).and_then(|peer| peer.sending.as_ref()).is_some_and(|sending| sending.is_short());
        let is_throttled = match why {
            Why::Asked => is_short && live.is_some_and(|live| live != source.stream),
            Why::Copy => is_short,
            Why::Probe => false,
        };
        if is_throttled {
            return Some(Counter::NackThrottled);
        }
        let stream = streams.find(source.stream.index, source.stream.generation)?;
        if origin.set.is_some() {
            if why == Why::Probe {
                return None;
            }
            return self.repair_set(now, peer, slot_index, &origin, why, out);
        }
        let handle = store.find(source, &stream.kept, origin.index)?;
        let [head, payload] = store.packet(handle)?;
        let packet = RtpPacket::from_parts(head, payload, origin.index)?;
        // A packet that came as RTX was kept as it came.
        let pt = packet.header.pt;
        let format = stream.format_of_either(pt)?;
        let rtx_pt = route.rtx_pt(format);
        let ids = extension_ids(stream, peers)?;
        let described = stream.described(format, &packet, &ids);
        let spatial = described.map_or(0, |(described, _)| described.frame.spatial);
        if slot.rewriter.has_left_out(FrameKey::new(packet.header.timestamp, spatial)) {
            return None;
        }
        if Route::is_repaired_as_is(&route.open) {
            let transport = peers.at_mut(peer)?;
            if !transport.may_repair(now, Kind::Audio)
                || !slot.again.as_mut()?.spend(seq, packet.payload.len(), transport.rtt, now)
            {
                return Some(Counter::NackThrottled);
            }
            let carried = packet.carried(&ids);
            let (marker, timestamp) =
                (packet.header.marker, packet.header.timestamp.wrapping_add(origin.timestamp_offset));
            // As RED, if it left so, with the same packets before it: what is not the same does not leave.
            let earlier = slot.again.as_ref().map_or(0, |again| again.earlier(seq));
            red.clear();
            if earlier != 0 {
                let at = (origin.index, packet.header.timestamp);
                red.gather(earlier, source, at, route.open.pt, packet.payload.len(), &stream.kept, store, |_, _| true);
            }
            let (prefix, gathered) = red.take(route.open.pt);
            let names = (origin.out_index, timestamp, marker, if earlier == 0 { rtx_pt } else { route.open.red_pt });
            if gathered != earlier {
                return None;
            }
            let payload = store.payload(handle)?;
            let is_sent = slot.send_again(names, &carried, transport, (prefix, payload), out);
            if is_sent {
                transport.sent_again(now, out.last_len());
            }
            return is_sent.then_some(Counter::AudioResent);
        }
        if rtx_pt == 0 || slot.rtx.is_none() {
            return None;
        }
        let transport = peers.at_mut(peer)?;
        let rtt = transport.rtt;
        // Nothing refers to the highest temporal layer.
        let is_referred = described.is_none_or(|(described, structure)| {
            described.frame.temporal == 0 || described.frame.temporal < structure.temporal_max()
        });
        let rtx = slot.rtx.as_mut()?;
        let is_full = why != Why::Probe && !transport.may_repair(now, Kind::Video);
        if is_full || !rtx.budget.pays(why, seq, packet.payload.len(), rtt, now) {
            if why == Why::Asked && is_referred && (is_full || rtx.budget.is_spent(packet.payload.len())) {
                rtx.refused.refuse(seq, now);
            }
            return Some(Counter::NackThrottled);
        }
        rtx.refused.repaired(seq);
        // The numbers of pictures are as in the packet that it repairs, whose sequence number stands before.
        let pictures = PictureNumbers::of(format.codec, packet.payload);
        let renumber = pictures.map(|pictures| Renumber { pictures, shift: origin.pictures });
        let timestamp = packet.header.timestamp.wrapping_add(origin.timestamp_offset);
        let ends =
            described.is_some_and(|(described, structure)| slot.layers.ends_picture(&described.frame, structure));
        let names = (seq, timestamp, packet.header.marker || ends, rtx_pt);
        let carried = packet.carried(&ids);
        let role = if origin.is_behind_sets { Role::Behind } else { Role::Own };
        let descriptor = described.and_then(|(described, _)| described.sent(origin.frames, role));
        let payload = store.payload(handle)?.renumbered(renumber);
        slot.send_rtx(now, names, (&carried, descriptor), transport, payload, out)
    }

    /// A receiver lacks a parameter set that was sent ahead of a keyframe. If the stream has others by now the repair would not
    /// be what was sent; the receiver asks for a keyframe then, and gets those.
    fn repair_set(
        &mut self,
        now: Micros,
        peer: u32,
        slot: u32,
        origin: &Origin,
        why: Why,
        out: &mut Outbox,
    ) -> Option<Counter> {
        let Forwarder { slots, streams, peers, routes, store, .. } = self;
        let (place, version, timestamp) = origin.set?;
        let stream = streams.find(origin.source.stream.index, origin.source.stream.generation)?;
        // What it was sent ahead of has the frame's dependency descriptor.
        let (mut descriptor, mut head_of) = (None, &[][..]);
        if stream.known_layering().is_some() {
            let [head, payload] = store.packet(store.find(origin.source, &stream.kept, origin.first_index)?)?;
            let behind = RtpPacket::from_parts(head, payload, origin.first_index)?;
            let h264 = Format { index: 0, codec: Codec::H264 };
            let described = stream.described(h264, &behind, &extension_ids(stream, peers)?);
            let role = if place == 0 { Role::First } else { Role::Between };
            descriptor = described.and_then(|(described, _)| described.sent(origin.frames, role));
            head_of = head;
        }
        let sets = stream.sets.as_ref().filter(|sets| sets.version() == version)?;
        let set = sets.iter().nth(place.into())?;
        let slot = slots.at_mut(slot)?;
        let h264 = [Some(stream.open.codec), stream.second.map(|second| second.codec)];
        let format = Format { index: h264.iter().position(|codec| *codec == Some(Codec::H264))?, codec: Codec::H264 };
        let rtx_pt = routes.at(slot.choice.routes().next()?)?.rtx_pt(format);
        if rtx_pt == 0 || slot.rtx.is_none() {
            return None;
        }
        let transport = peers.at_mut(peer)?;
        let seq = origin.out_index as u16;
        if !slot.rtx.as_mut()?.budget.pays(why, seq, set.len(), transport.rtt, now) {
            return Some(Counter::NackThrottled);
        }
        let names = (seq, timestamp, false, rtx_pt);
        let payload = Payload::bare(set).ahead_of(head_of);
        slot.send_rtx(now, names, (&Carried::default(), descriptor), transport, payload, out)
    }
}

/// Why a packet is sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Why {
    /// Its receiver asks for it.
    Asked,
    /// Its receiver asked for it, it was sent, and may be lost again.
    Copy,
    /// To find out what the path carries.
    Probe,
}

impl Budget {
    /// Whether a packet of `len` bytes may be sent again now; if so it is accounted for.
    fn pays(&mut self, why: Why, seq: u16, len: usize, rtt: Micros, now: Micros) -> bool {
        match why {
            Why::Asked => self.spend(seq, len, rtt, now),
            Why::Copy => self.spend_copy(len),
            Why::Probe => true,
        }
    }
}

impl Slot {
    /// Whether its receiver's last report says that it lost much.
    fn loses_much(&self) -> bool {
        self.counts.loss.is_some_and(|(_, loss)| loss >= REPAIR_COPY_LOSS)
    }

    /// Sends a packet again as it left, under its index. What is written here is what was written then, or nothing leaves. Its
    /// transport-cc number is that of the first time, too: where that was lost, the feedback says now that it has arrived.
    pub(super) fn send_again(
        &mut self,
        (index, timestamp, marker, pt): (u64, u32, bool, Pt),
        carried: &Carried,
        transport: &mut Transport,
        (prefix, payload): (&[u8], Payload<'_>),
        out: &mut Outbox,
    ) -> bool {
        let seq = index as u16;
        let (Some(again), Some((to, crypto))) = (&self.again, transport.outgoing()) else { return false };
        let (transport_cc_seq, abs_send_time) = again.moment(seq);
        let header = Outgoing {
            marker,
            pt,
            seq,
            timestamp,
            ssrc: self.sender.ssrc(),
            ids: &transport.extension_ids,
            mid: self.open.mid.as_bytes(),
            transport_cc_seq,
            abs_send_time,
            carried,
            descriptor: None,
            is_evened: false,
        };
        let sender = &mut self.sender;
        let pushed = out.push_rtp_again(to, crypto, sender, index, |frame| header.write(frame, prefix, payload));
        let is_sent = pushed == Pushed::Written;
        self.counts.retransmitted += u64::from(is_sent);
        is_sent
    }

    /// Sends a payload as RTX (RFC 4588 §4): sequence number and timestamp of what it repairs, its marker, and the payload
    /// type of RTX.
    fn send_rtx(
        &mut self,
        now: Micros,
        (seq, timestamp, marker, rtx_pt): (u16, u32, bool, Pt),
        (carried, descriptor): (&Carried, Option<Descriptor>),
        transport: &mut Transport,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Option<Counter> {
        let transport_cc_seq = transport.transport_cc_seq();
        let (to, crypto) = transport.outgoing()?;
        let sender = &mut self.rtx.as_mut()?.sender;
        let index = sender.next();
        let header = Outgoing {
            marker,
            pt: rtx_pt,
            seq: index as u16,
            timestamp,
            ssrc: sender.ssrc(),
            ids: &transport.extension_ids,
            mid: self.open.mid.as_bytes(),
            transport_cc_seq,
            abs_send_time: rtp::abs_send_time(now),
            carried,
            descriptor,
            // Repairs come one at a time.
            is_evened: false,
        };
        let prefix = seq.to_be_bytes();
        if out.push_rtp(to, crypto, sender, index, |frame| header.write(frame, &prefix, payload)) != Pushed::Written {
            return None;
        }
        transport.transport_cc_sent(now, out.last_len(), Kind::Repair);
        self.counts.retransmitted += 1;
        Some(Counter::RtxSent)
    }

    /// Sends padding under the RTX stream's own numbers: the last byte says how much it is (RFC 3550 §5.1).
    pub(super) fn send_padding(
        &mut self,
        now: Micros,
        rtx_pt: Pt,
        transport: &mut Transport,
        out: &mut Outbox,
    ) -> Option<()> {
        const PADDING: [u8; 255] = {
            let mut bytes = [0; 255];
            bytes[254] = 255;
            bytes
        };
        let transport_cc_seq = transport.transport_cc_seq();
        let (to, crypto) = transport.outgoing()?;
        let sender = &mut self.rtx.as_mut()?.sender;
        let index = sender.next();
        let header = Outgoing {
            marker: false,
            pt: rtx_pt,
            seq: index as u16,
            timestamp: self.rewriter.timestamp_last(),
            ssrc: sender.ssrc(),
            ids: &transport.extension_ids,
            mid: self.open.mid.as_bytes(),
            transport_cc_seq,
            abs_send_time: rtp::abs_send_time(now),
            carried: &Carried::default(),
            descriptor: None,
            is_evened: false,
        };
        let pushed = out.push_rtp(to, crypto, sender, index, |frame| {
            let begun = header.write(frame, &[], Payload::bare(&PADDING));
            frame[0] |= rtp::PADDING_BIT;
            begun
        });
        (pushed == Pushed::Written).then(|| transport.transport_cc_sent(now, out.last_len(), Kind::Padding))
    }
}
