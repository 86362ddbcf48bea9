//! RTCP ends here. What subscribers say of their slots is answered by this worker (repair, sender reports) or turned
//! into something about the publisher's stream (merged keyframe requests); what publishers need to know of their
//! streams (receiver reports, NACK, transport-cc) is made here.

use proto::id::{PeerId, Pt, Ssrc};
use proto::plane::{Codec, Counter, feedback};

use crate::config::{
    KEYFRAME_INTERVAL, KEYFRAME_RETRY, Micros, NACK_DELAY, PEER_STREAMS_MAX, REPORT_INTERVAL, SECOND,
    TRANSPORT_CC_INTERVAL,
};
use crate::forward::{Forwarder, extension_ids, ntp};
use crate::outbox::Outbox;
use crate::packet::{Carried, Outgoing, RtpPacket, Staged};
use crate::picture::Pictures;
use crate::relay::Message;
use crate::rewrite::Origin;
use crate::route::{Format, SenderClock, Slot};
use crate::rtcp::{self, CompoundWriter, Packet, ReportBlock, SenderReport};
use crate::timer::Timer;
use crate::transport::Transport;

/// Sender SSRC of feedback from a peer that receives nothing, hence has no SSRC of ours. libwebrtc uses 1 likewise.
const FEEDBACK_SSRC: Ssrc = 1;
/// Sequence numbers that one NACK to a publisher asks for; more wait for the next.
const NACK_LEN_MAX: usize = 64;
/// Sequence numbers of one received compound packet that are looked at: what a loss of a second of video needs.
const NACKED_MAX: usize = 512;
/// Sender reports in one compound: with their names (56 bytes each) and a report block for each stream (24 bytes each)
/// they stay below the 1200 bytes that every path carries.
const SENDER_REPORTS_MAX: usize = 13;

impl Forwarder {
    /// SRTCP: check the window, authenticate, update the window; then each packet of the compound.
    pub(crate) fn receive_rtcp(
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
        for packet in rtcp::packets(&bytes[..len]) {
            // A packet that is broken inside says nothing about its neighbours.
            if packet.is_ok() {
                fate = Counter::Consumed;
            }
            match packet {
                Ok(Packet::SenderReport(report)) => {
                    self.sender_reported(peer, at, &report, out);
                    report.blocks().for_each(|block| self.receiver_reported(peer, at, &block));
                }
                Ok(Packet::ReceiverReport(report)) => {
                    report.blocks().for_each(|block| self.receiver_reported(peer, at, &block));
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
                Ok(Packet::TransportCc(_)) => self.count(Counter::TransportCcReceived, 1),
                // REMB, BYE, SDES and the rest change nothing that a forwarder does: streams end by signalling.
                Ok(_) | Err(_) => {}
            }
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
            let _ = out.tell(tap.worker, Message::clock(tap.mirror, stream.ssrc, clock));
        }
    }

    /// A receiver reported on one of its slots: its loss and the round trip (RFC 3550 §6.4.1).
    fn receiver_reported(&mut self, peer: u32, at: Micros, block: &ReportBlock) {
        let Some(slot) = self.slot_of(peer, block.ssrc).and_then(|index| self.slots.at_mut(index)) else { return };
        slot.counts.loss = Some((at, block.fraction_lost));
        let Some((middle, sent)) = slot.sender_report_sent else { return };
        if block.last_sr == 0 || block.last_sr != middle {
            return;
        }
        let held = (u64::from(block.delay_since_last_sr) * SECOND) >> 16;
        let Some(rtt) = at.saturating_sub(sent).checked_sub(held) else { return };
        slot.counts.rtt = Some((at, rtt));
        if let Some(transport) = self.peers.at_mut(peer) {
            transport.measured_rtt(rtt);
        }
    }

    fn slot_of(&self, peer: u32, ssrc: Ssrc) -> Option<u32> {
        self.peers.at(peer)?.slots.iter().find(|(s, _)| *s == ssrc).map(|(_, slot)| *slot)
    }

    /// A receiver lacks a packet: send it again as RTX (RFC 4588), if it is still there and the budget allows.
    fn repair(&mut self, now: Micros, peer: u32, ssrc: Ssrc, seq: u16, out: &mut Outbox) {
        self.count(Counter::NackReceived, 1);
        let outcome = self.try_repair(now, peer, ssrc, seq, out).unwrap_or(Counter::NackMissed);
        self.count(outcome, 1);
    }

    fn try_repair(&mut self, now: Micros, peer: u32, ssrc: Ssrc, seq: u16, out: &mut Outbox) -> Option<Counter> {
        let slot_index = self.slot_of(peer, ssrc)?;
        let Forwarder { slots, streams, peers, routes, history, payload, .. } = self;
        let slot = slots.at_mut(slot_index)?;
        slot.counts.nacks += 1;
        let origin = slot.rewriter.origin(seq)?;
        let route = routes.at(slot.route?)?;
        let source = origin.source;
        let stream = streams.find(source.stream.index, source.stream.generation)?;
        if origin.set.is_some() {
            return self.repair_set(now, peer, slot_index, &origin, out);
        }
        let kept = history.find(source, stream.places.as_ref()?, origin.index)?;
        let packet = RtpPacket::from_history(kept, origin.index)?;
        // A packet that came as RTX was kept as it came.
        let pt = packet.header.pt;
        let format = stream.format_of(pt).or_else(|| stream.format_of_rtx(pt))?;
        let rtx_pt = route.rtx_pt(format);
        if rtx_pt == 0 || slot.open.rtx_ssrc == 0 {
            return None;
        }
        let ids = extension_ids(stream, peers)?;
        let transport = peers.at_mut(peer)?;
        if !slot.budget.as_mut()?.spend(seq, packet.payload.len(), transport.rtt, now) {
            return Some(Counter::NackThrottled);
        }
        let pictures = Pictures::read(format.codec, packet.payload);
        payload.load(packet.payload);
        // As in the packet that it repairs, whose sequence number stands before.
        origin.pictures.write(&pictures, payload.bytes());
        let timestamp = packet.header.timestamp.wrapping_add(origin.timestamp_offset);
        let names = (seq, timestamp, packet.header.marker, rtx_pt);
        slot.send_rtx(now, names, &packet.carried(&ids), transport, payload, out)
    }

    /// A receiver lacks a parameter set that was sent ahead of a keyframe. If the stream has others by now the repair would not
    /// be what was sent; the receiver asks for a keyframe then, and gets those.
    fn repair_set(&mut self, now: Micros, peer: u32, slot: u32, origin: &Origin, out: &mut Outbox) -> Option<Counter> {
        let Forwarder { slots, streams, peers, routes, payload, .. } = self;
        let (place, version, timestamp) = origin.set?;
        let stream = streams.find(origin.source.stream.index, origin.source.stream.generation)?;
        let sets = stream.sets.as_ref().filter(|sets| sets.version() == version)?;
        let set = sets.iter().nth(place.into())?;
        let slot = slots.at_mut(slot)?;
        let h264 = [Some(stream.open.codec), stream.second.map(|second| second.codec)];
        let format = Format { place: h264.iter().position(|codec| *codec == Some(Codec::H264))?, codec: Codec::H264 };
        let rtx_pt = routes.at(slot.route?)?.rtx_pt(format);
        if rtx_pt == 0 || slot.open.rtx_ssrc == 0 {
            return None;
        }
        let transport = peers.at_mut(peer)?;
        let seq = origin.out_index as u16;
        if !slot.budget.as_mut()?.spend(seq, set.len(), transport.rtt, now) {
            return Some(Counter::NackThrottled);
        }
        payload.load(set);
        slot.send_rtx(now, (seq, timestamp, false, rtx_pt), &Carried::default(), transport, payload, out)
    }

    /// A receiver needs a keyframe in one of its slots.
    fn keyframe_requested(&mut self, now: Micros, peer: u32, ssrc: Ssrc, out: &mut Outbox) {
        self.count(Counter::KeyframeRequestsReceived, 1);
        let Some(slot) = self.slot_of(peer, ssrc).and_then(|s| self.slots.at_mut(s)) else { return };
        slot.counts.keyframe_requests += 1;
        if !slot.may_ask_keyframe(now) {
            return;
        }
        let slot = slot.open.slot.index;
        let route = self.slots.at(slot).and_then(|slot| slot.route).and_then(|route| self.routes.at(route));
        let Some(index) = route.map(|route| route.open.stream.index) else { return };
        if let Some(stream) = self.streams.at_mut(index).filter(|stream| stream.sets.is_some()) {
            // What it lacks may be the parameter sets. Where each keyframe brings them, nothing comes of it.
            stream.hops.iter_mut().filter(|hop| hop.slot == slot).for_each(|hop| hop.lacks_sets = true);
        }
        self.want_keyframe(now, index, out);
    }

    /// Tells the mirrors of a stream its parameter sets, which may have come before they were there.
    pub(crate) fn tell_mirrors_sets(&mut self, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at(index) else { return };
        let Some(sets) = &stream.sets else { return };
        for tap in &stream.taps {
            // One that is lost is made up for when a keyframe is asked for again.
            let _ = out.tell_sets(tap.worker, tap.mirror, sets.as_told());
        }
    }

    /// Somebody needs a keyframe of a stream: ask the publisher, or later if it was asked a moment ago. Requests that
    /// come meanwhile are the same request.
    pub(crate) fn want_keyframe(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at_mut(index).filter(|s| s.open.codec.is_video()) else { return };
        stream.keyframe.is_wanted = true;
        let rtt = self.peers.at(stream.open.peer.index).map_or(0, |t| t.rtt);
        let due = stream.keyframe.asked.map_or(now, |asked| asked + KEYFRAME_INTERVAL.max(rtt));
        if due <= now { self.ask_keyframe(now, index, out) } else { self.look_for_keyframe(due, index) }
    }

    /// A request that waited may go now, or an unanswered one goes again.
    pub(crate) fn keyframe_due(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at_mut(index) else { return };
        if stream.keyframe.timer.is_none_or(|at| at > now) {
            return; // An earlier timer took its place.
        }
        stream.keyframe.timer = None;
        if stream.keyframe.is_wanted && stream.is_received() {
            self.ask_keyframe(now, index, out);
        }
    }

    fn ask_keyframe(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at_mut(index) else { return };
        if let Some(mirror) = &stream.mirror {
            if out.tell(mirror.open.worker, Message::KeyframeWanted { stream: mirror.open.origin }) {
                stream.keyframe.asked = Some(now);
                self.count(Counter::KeyframeRequestsRelayed, 1);
            }
            return self.look_for_keyframe(now + KEYFRAME_RETRY, index);
        }
        let publisher = stream.open.peer.index;
        let may_send = self.peers.at(publisher).is_some_and(|t| t.outgoing().is_some());
        let (can_pli, can_fir) = (stream.open.feedback & feedback::PLI != 0, stream.open.feedback & feedback::FIR != 0);
        if may_send && stream.ssrc != 0 && (can_pli || can_fir) {
            stream.keyframe.asked = Some(now);
            stream.keyframe.fir_seq = stream.keyframe.fir_seq.wrapping_add(1);
            stream.counts.keyframe_requests += 1;
            let (ssrc, fir_seq) = (stream.ssrc, stream.keyframe.fir_seq);
            self.count(Counter::KeyframeRequestsSent, 1);
            self.send_rtcp(publisher, out, |writer, sender| {
                if can_pli {
                    writer.pli(sender, ssrc)
                } else {
                    writer.fir(sender, ssrc, fir_seq)
                };
            });
        }
        // Look again in case it does not come; the publisher may not even be connected yet.
        self.look_for_keyframe(now + KEYFRAME_RETRY, index);
    }

    fn look_for_keyframe(&mut self, at: Micros, index: u32) {
        let Some(stream) = self.streams.at_mut(index) else { return };
        if stream.keyframe.timer.is_none_or(|set| at < set) {
            stream.keyframe.timer = Some(at);
            self.timers.set(at, Timer::Keyframe { stream: stream.open.stream });
        }
    }

    /// Asks a publisher for the holes of its stream that are due.
    pub(crate) fn send_nack(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at_mut(index) else { return };
        let Some(holes) = &mut stream.holes else { return };
        holes.is_timer_set = false;
        let (ssrc, publisher) = (stream.ssrc, stream.open.peer.index);
        let rtt = self.peers.at(publisher).map_or(crate::config::RTT_DEFAULT, |t| t.rtt);
        let (mut seqs, mut lost) = ([0; NACK_LEN_MAX], 0);
        let count = holes.due(now, rtt, &mut seqs, &mut lost);
        stream.counts.nacks += count as u64;
        if let Some(next) = holes.deadline() {
            // Looked at again soon even if nothing is due: a new hole does not wait for the retry of an old one.
            holes.is_timer_set = true;
            let timer = Timer::Nack { stream: stream.open.stream };
            self.timers.set(next.clamp(now + 1, now + NACK_DELAY), timer);
        }
        if count > 0 {
            self.count(Counter::NackSent, count as u64);
            self.send_rtcp(publisher, out, |writer, sender| {
                writer.nack(sender, ssrc, &seqs[..count]);
            });
        }
        if lost > 0 {
            self.count(Counter::Lost, u64::from(lost));
            self.want_keyframe(now, index, out);
        }
    }

    /// Tells a publisher when its packets arrived.
    pub(crate) fn send_transport_cc(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        transport.is_transport_cc_timer_set = false;
        let media = transport.transport_cc_ssrc;
        // Taken out while the compound is written, because the transport's keys protect it.
        let Some(mut log) = transport.arrivals.take() else { return };
        let has_news = log.has_unreported();
        while log.has_unreported() {
            let mut written = 0;
            self.send_rtcp(peer, out, |writer, sender| written = writer.transport_cc(sender, media, &mut log));
            if written == 0 {
                break;
            }
            self.count(Counter::TransportCcSent, 1);
        }
        let Some(transport) = self.peers.at_mut(peer) else { return };
        transport.arrivals = Some(log);
        if has_news {
            transport.is_transport_cc_timer_set = true;
            self.timers.set(now + TRANSPORT_CC_INTERVAL, Timer::TransportCc { peer: transport.id });
        }
    }

    /// Sender reports of the peer's filled slots, receiver reports of its streams, and what it may send.
    pub(crate) fn send_reports(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        transport.is_report_timer_set = false;
        if transport.is_expired {
            return;
        }
        transport.is_report_timer_set = true;
        self.timers.set(now + report_interval(transport.id, now), Timer::Report { peer: transport.id });
        self.write_reports(now, peer, out);
        self.review_estimate(now, peer, out);
    }

    fn write_reports(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let mut blocks = [ReportBlock::default(); PEER_STREAMS_MAX];
        let mut block_count = 0;
        let Some(transport) = self.peers.at(peer) else { return };
        for &index in &transport.streams {
            let Some(stream) = self.streams.at_mut(index) else { continue };
            let Some(highest) = stream.window.highest() else { continue };
            if let Some(block) = stream.reception.report(stream.ssrc, highest, now) {
                blocks[block_count] = block;
                block_count += 1;
            }
        }
        let mut blocks = &blocks[..block_count];

        let mut at = 0;
        loop {
            let mut reports = [SlotReport::default(); SENDER_REPORTS_MAX];
            let count = self.next_slot_reports(now, peer, &mut at, &mut reports);
            if count == 0 && blocks.is_empty() {
                return;
            }
            // Taken whether or not the peer can be sent to: what stays would be tried again for ever.
            let mut own = std::mem::take(&mut blocks);
            self.send_rtcp(peer, out, |writer, sender| {
                for report in &reports[..count] {
                    let blocks = std::mem::take(&mut own);
                    writer.sender_report(report.ssrc, report.ntp, report.rtp, report.packets, report.octets, blocks);
                    writer.sdes_cname(report.ssrc, cname(report.publisher, &mut [0; 16]));
                }
                if !own.is_empty() {
                    writer.receiver_report(sender, own);
                }
            });
        }
    }

    /// Collects the reports of the next filled slots from position `at` on.
    fn next_slot_reports(&mut self, now: Micros, peer: u32, at: &mut usize, reports: &mut [SlotReport]) -> usize {
        let Forwarder { peers, slots, routes, streams, .. } = self;
        let Some(transport) = peers.at(peer) else { return 0 };
        let mut count = 0;
        while count < reports.len() && *at < transport.slots.len() {
            let (ssrc, index) = transport.slots[*at];
            *at += 1;
            let Some(slot) = slots.at_mut(index) else { continue };
            let Some(route) = slot.route.and_then(|r| routes.at(r)) else { continue };
            let Some(stream) = streams.at(route.open.stream.index) else { continue };
            let (Some(clock), Some(offset)) = (stream.sender_report, slot.rewriter.timestamp_offset()) else {
                continue;
            };
            reports[count] = slot.report(ssrc, clock, offset, stream.open.codec.clock_rate(), now);
            reports[count].publisher = stream.publisher_number();
            count += 1;
        }
        count
    }

    /// Protects a compound packet for a peer, if it may be sent to. `write` gets our SSRC for feedback to the peer.
    pub(crate) fn send_rtcp(&mut self, peer: u32, out: &mut Outbox, write: impl FnOnce(&mut CompoundWriter<'_>, Ssrc)) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        if transport.outgoing().is_none() {
            return;
        }
        let index = transport.next_rtcp_index();
        let sender = transport.slots.first().map_or(FEEDBACK_SSRC, |(ssrc, _)| *ssrc);
        let Some((to, crypto)) = transport.outgoing() else { return };
        out.push_rtcp(to, crypto, index, |frame| {
            let mut writer = CompoundWriter::new(frame);
            write(&mut writer, sender);
            writer.finish()
        });
        self.count(Counter::RtcpSent, 1);
    }
}

/// What a sender report of one slot says.
#[derive(Clone, Copy, Default)]
struct SlotReport {
    ssrc: Ssrc,
    ntp: u64,
    rtp: u32,
    packets: u32,
    octets: u32,
    publisher: u32,
}

impl Slot {
    /// Sends a payload as RTX (RFC 4588 §4): sequence number and timestamp of what it repairs, its marker, and the payload
    /// type of RTX.
    fn send_rtx(
        &mut self,
        now: Micros,
        (seq, timestamp, marker, rtx_pt): (u16, u32, bool, Pt),
        carried: &Carried,
        transport: &mut Transport,
        payload: &mut Staged,
        out: &mut Outbox,
    ) -> Option<Counter> {
        let transport_cc_seq = transport.next_transport_cc_seq();
        let (to, crypto) = transport.outgoing()?;
        let rtx_index = self.rtx_index;
        self.rtx_index += 1;
        let header = Outgoing {
            marker,
            pt: rtx_pt,
            seq: rtx_index as u16,
            timestamp,
            ssrc: self.open.rtx_ssrc,
            ids: &transport.extension_ids,
            mid: self.open.mid.as_bytes(),
            transport_cc_seq,
            now,
            carried,
            // Repairs come one at a time.
            is_evened: false,
        };
        let prefix = seq.to_be_bytes();
        let is_sent =
            out.push_rtp(to, crypto, self.open.rtx_ssrc, rtx_index, |frame| header.write(frame, &prefix, payload));
        self.counts.retransmitted += u64::from(is_sent);
        is_sent.then_some(Counter::RtxSent)
    }

    /// Continues the publisher's clocks to `now` and shifts them by the slot's offset.
    fn report(&mut self, ssrc: Ssrc, clock: SenderClock, offset: u32, clock_rate: u32, now: Micros) -> SlotReport {
        let elapsed = now.saturating_sub(clock.at);
        let ticks = (u128::from(elapsed) * u128::from(clock_rate) / 1_000_000) as u32;
        let ntp_time = clock.ntp.wrapping_add(((u128::from(elapsed) << 32) / 1_000_000) as u64);
        self.sender_report_sent = Some(((ntp_time >> 16) as u32, now));
        SlotReport {
            ssrc,
            ntp: ntp_time,
            rtp: clock.rtp.wrapping_add(ticks).wrapping_add(offset),
            // RFC 3550 §6.4.1: both wrap.
            packets: self.packets as u32,
            octets: self.octets as u32,
            publisher: 0,
        }
    }
}

/// CNAME of what a publisher sends, the same for its audio and video (RFC 7022 asks for no more than uniqueness in
/// the receiver's session). Written into `buffer` without formatting machinery.
fn cname(publisher: u32, buffer: &mut [u8; 16]) -> &str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    buffer[..6].copy_from_slice(b"uprtc-");
    for (i, place) in buffer[6..14].iter_mut().enumerate() {
        *place = DIGITS[(publisher >> (28 - 4 * i) & 15) as usize];
    }
    std::str::from_utf8(&buffer[..14]).expect("hexadecimal digits are ASCII")
}
/// How long until a peer's next reports: an eighth more or less than [`REPORT_INTERVAL`], at random (RFC 3550 §6.2). Without
/// that, timers that were once run in the same turn would be due together for ever, and ever more of them would.
fn report_interval(peer: PeerId, now: Micros) -> Micros {
    let random = (u64::from(peer.index) << 32 ^ now).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    REPORT_INTERVAL * 7 / 8 + random % (REPORT_INTERVAL / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_that_were_due_together_part() {
        const PEERS: u32 = 300;
        // A worker that gets to its timers every 20 ms only, which brings ever more of them together.
        const TURN: Micros = 20_000;
        let mut due: Vec<Micros> = vec![0; PEERS as usize];
        for _ in 0..50 {
            for (index, due) in due.iter_mut().enumerate() {
                let now = due.next_multiple_of(TURN);
                *due = now + report_interval(PeerId::new(index as u32, 1), now);
                assert!((now + SECOND * 7 / 8..now + SECOND * 9 / 8).contains(due));
            }
        }
        let mut turns = std::collections::BTreeMap::new();
        due.iter().for_each(|due| *turns.entry(due / TURN).or_insert(0u32) += 1);
        assert!(*turns.values().max().unwrap() <= 20, "{turns:?}");
    }
}
