//! What is sent once in a while: sender and receiver reports, NACK and transport-cc feedback to publishers, tallies.

use proto::id::{PeerId, Ssrc};
use proto::plane::{Counter, PeerLosing};

use super::{Forwarder, IntoReport};
use crate::config::{Micros, NACK_DELAY, PEER_STREAMS_MAX, REPORT_INTERVAL, RTT_DEFAULT, TRANSPORT_CC_INTERVAL};
use crate::outbox::Outbox;
use crate::rtcp::{CompoundWriter, ReportBlock, SenderClock};
use crate::slot::Slot;
use crate::timer::Timer;

/// Sender reports in one compound: with their names (56 bytes each) and a report block for each stream (24 bytes each)
/// they stay below the 1200 bytes that every path carries.
const SENDER_REPORTS_MAX: usize = 13;
/// Sequence numbers that one NACK to a publisher asks for; more wait for the next.
const NACK_LEN_MAX: usize = 64;
/// Sender SSRC of feedback from a peer that receives nothing, hence has no SSRC of ours. libwebrtc uses 1 likewise.
const FEEDBACK_SSRC: Ssrc = 1;

impl Forwarder {
    /// Asks a publisher for the missing packets of its stream that are due.
    pub(super) fn send_nack(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at_mut(index) else { return };
        let Some(missing) = &mut stream.missing else { return };
        missing.is_timer_set = false;
        let (ssrc, publisher) = (stream.ssrc, stream.open.peer.index);
        let rtt = self.peers.at(publisher).map_or(RTT_DEFAULT, |t| t.rtt);
        let (mut seqs, mut lost) = ([0; NACK_LEN_MAX], 0);
        let count = missing.due(now, rtt, &mut seqs, &mut lost);
        stream.counts.nacks += count as u64;
        if let Some(next) = missing.deadline() {
            // Looked at again soon even if nothing is due: a new missing packet does not wait for the retry of an old one.
            missing.is_timer_set = true;
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
    pub(super) fn send_transport_cc(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
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
        if transport.losing.take(now) && transport.edge.is_none() {
            out.report(PeerLosing { peer: transport.id }.into_report());
        }
        if has_news {
            transport.is_transport_cc_timer_set = true;
            self.timers.set(now + TRANSPORT_CC_INTERVAL, Timer::TransportCc { peer: transport.id });
        }
    }

    /// Sender reports of the peer's filled slots, receiver reports of its streams, and what it may send.
    pub(super) fn send_reports(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
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
        let is_of_edge = transport.edge_open().is_some();

        let (mut at, mut has_said) = (0, false);
        loop {
            let mut reports = [SlotReport::default(); SENDER_REPORTS_MAX];
            let count = self.next_slot_reports(now, peer, &mut at, &mut reports);
            if count == 0 && blocks.is_empty() {
                // A transport between edges says at least that it is there: who is in a room through the other one is known by it.
                if is_of_edge && !has_said {
                    self.send_rtcp(peer, out, |writer, sender| {
                        writer.receiver_report(sender, &[]);
                    });
                }
                return;
            }
            has_said = true;
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
            let Some(route) = slot.choice.live.and_then(|route| routes.at(route)) else { continue };
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
    pub(super) fn send_rtcp(&mut self, peer: u32, out: &mut Outbox, write: impl FnOnce(&mut CompoundWriter<'_>, Ssrc)) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        let sender = transport.slots.first().map_or(FEEDBACK_SSRC, |(ssrc, _)| *ssrc);
        let Some((to, crypto, rtcp)) = transport.outgoing_rtcp() else { return };
        out.push_rtcp(to, crypto, rtcp, |frame| {
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
    /// Continues the publisher's clocks to `now` and shifts them by the slot's offset.
    fn report(&mut self, ssrc: Ssrc, clock: SenderClock, offset: u32, clock_rate: u32, now: Micros) -> SlotReport {
        let elapsed = now.saturating_sub(clock.at);
        let ticks = (u128::from(elapsed) * u128::from(clock_rate) / 1_000_000) as u32;
        let ntp_time = clock.ntp.wrapping_add(((u128::from(elapsed) << 32) / 1_000_000) as u64);
        self.sender_reported((ntp_time >> 16) as u32, now);
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
    use crate::config::SECOND;

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
