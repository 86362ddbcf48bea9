//! Feeds the estimators of REMB with what arrives, and sends their results to publishers.

use proto::id::PeerId;
use proto::plane::{Counter, Extension, PeerLimit, Refusal, feedback};

use super::Forwarder;
use crate::bwe::{ABS_SEND_TIME_TICKS, Estimate, Usage};
use crate::config::{Micros, PEER_STREAMS_MAX};
use crate::outbox::Outbox;
use crate::packet::RtpPacket;
use crate::stream::Stream;
use crate::transport::Transport;

/// An authentic packet of a stream arrived.
pub(super) fn arrived(
    transport: &mut Transport,
    stream: &mut Stream,
    packet: &RtpPacket<'_>,
    is_rtx: bool,
    at: Micros,
) {
    let (Some(estimate), Some(overuse)) = (&mut transport.estimate, &mut stream.overuse) else { return };
    estimate.received(packet.head.len() + packet.payload.len(), at);
    if is_rtx {
        return; // Sent when it was asked for, not when its timestamp says.
    }
    let id = transport.extension_ids[Extension::AbsSendTime as usize];
    let (stamp, ticks) = match packet.extension(id) {
        Some(&[a, b, c]) => (u32::from_be_bytes([a, b, c, 0]), ABS_SEND_TIME_TICKS),
        _ if id != 0 => return,
        _ => (packet.header.timestamp, f64::from(stream.open.codec.clock_rate()) / 1000.0),
    };
    if overuse.arrived(stamp, ticks, at) == Usage::Over {
        estimate.over(at);
    }
}

/// An authentic packet of an SSRC arrived that its stream is not carried from: it used the path all the same.
pub(super) fn arrived_aside(transport: &mut Transport, stream: &Stream, packet: &RtpPacket<'_>, at: Micros) {
    if let (Some(estimate), Some(_)) = (&mut transport.estimate, &stream.overuse) {
        estimate.received(packet.head.len() + packet.payload.len(), at);
    }
}

impl Forwarder {
    /// The controlplane sets what a peer may send at most.
    pub(super) fn limit_peer(&mut self, limit: &PeerLimit, out: &mut Outbox) -> Result<(), Refusal> {
        let PeerId { index, generation } = limit.peer;
        let transport = self.peers.find_mut(index, generation).ok_or(Refusal::Unknown)?;
        let estimate = transport.estimate.get_or_insert_with(|| Box::new(Estimate::new()));
        estimate.set_limit(*limit);
        self.send_lower_remb(index, out);
        Ok(())
    }

    /// Sends a publisher REMB at once if its estimate has become notably lower.
    #[inline]
    pub(super) fn send_lower_remb(&mut self, peer: u32, out: &mut Outbox) {
        let estimate = self.peers.at(peer).and_then(|transport| transport.estimate.as_ref());
        if estimate.is_some_and(|estimate| estimate.is_notable()) {
            self.send_remb(peer, out);
        }
    }

    /// Reviews the estimate of a publisher, once a second, and sends it.
    pub(super) fn review_estimate(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        let Some(transport) = peers.at_mut(peer) else { return };
        let Some(estimate) = &mut transport.estimate else { return };
        let (mut usage, mut expected, mut lost) = (Usage::Normal, 0, 0);
        for &index in &transport.streams {
            let Some(stream) = streams.at_mut(index) else { continue };
            let (Some(overuse), Some(highest)) = (&stream.overuse, stream.window.highest()) else { continue };
            usage = usage.max(overuse.usage(now));
            let (of_stream, missing) = stream.reception.lost_since_review(highest);
            expected += of_stream;
            lost += missing;
        }
        estimate.review(usage, expected, lost, transport.rtt, now);
        self.send_remb(peer, out);
    }

    /// Sends a publisher REMB for those of its streams that negotiated it.
    pub(super) fn send_remb(&mut self, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        let Some(transport) = peers.at_mut(peer).filter(|transport| transport.may_report()) else { return };
        let Some(estimate) = &mut transport.estimate else { return };
        let Some(bps) = estimate.bps() else { return };
        let (mut ssrcs, mut count) = ([0; PEER_STREAMS_MAX], 0);
        for stream in transport.streams.iter().filter_map(|&index| streams.at(index)) {
            if stream.open.feedback & feedback::REMB != 0 && stream.ssrc != 0 {
                ssrcs[count] = stream.ssrc;
                count += 1;
            }
        }
        if count == 0 {
            return;
        }
        estimate.set_sent(bps);
        self.count(Counter::RembSent, 1);
        self.send_rtcp(peer, out, |writer, sender| {
            writer.remb(sender, bps, &ssrcs[..count]);
        });
    }
}
