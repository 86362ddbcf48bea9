//! Tallies of a peer's streams and slots, and which of them have fallen silent.

use proto::plane::{PeerResumed, PeerSilent, SlotTally, StreamResumed, StreamSilent, StreamTally, Tally};

use super::{Forwarder, IntoReport};
use crate::config::{Micros, PEER_QUIET_REPORTS, PEER_STREAMS_MAX, REPORT_HELD, STREAM_QUIET_REPORTS};
use crate::outbox::Outbox;
use crate::slot::Slot;
use crate::stream::Stream;
use crate::tally::{Mark, SlotCounts, StreamCounts};

impl Forwarder {
    /// Writes down what a peer's streams and slots have carried.
    pub(super) fn tally(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, slots, .. } = self;
        let Some(transport) = peers.at(peer) else { return };
        for &index in &transport.streams {
            if let Some(stream) = streams.at_mut(index) {
                out.tally(Tally::Stream(stream.tally(now)));
            }
        }
        for &(_, index) in &transport.slots {
            if let Some(slot) = slots.at_mut(index) {
                out.tally(Tally::Slot(slot.tally(now)));
            }
        }
        let paused =
            transport.slots.iter().filter(|(_, slot)| slots.at(*slot).is_some_and(|s| s.allocated == Some(None)));
        if let Some(sending) = &transport.sending {
            out.tally(Tally::Peer(sending.tally(transport.id, paused.count() as u64)));
        }
        for &index in self.peers.at(peer).into_iter().flat_map(|transport| &transport.streams) {
            self.tell_encoding(now, index, out);
        }
        self.review_demand(peer, out);
        self.review_rates(now, peer, out);
    }
}

impl Stream {
    fn tally(&mut self, now: Micros) -> StreamTally {
        let (packets, expected) = self.reception.totals(self.window.highest());
        let StreamCounts { bytes, repaired, nacks, keyframe_requests, policed, ref mut marks } = self.counts;
        let window = marks.window(Mark { at: now, packets, bytes, expected });
        StreamTally {
            stream: self.open.stream,
            packets,
            bytes,
            expected,
            repaired,
            nacks,
            keyframe_requests,
            policed,
            window_us: window.at,
            window_packets: window.packets,
            window_bytes: window.bytes,
            window_expected: window.expected,
        }
    }
}

impl Slot {
    fn tally(&mut self, now: Micros) -> SlotTally {
        let (packets, bytes) = (self.packets, self.octets);
        let SlotCounts { nacks, retransmitted, keyframe_requests, loss, rtt, ref mut marks } = self.counts;
        let window = marks.window(Mark { at: now, packets, bytes, expected: 0 });
        let is_recent = |at: Micros| now.saturating_sub(at) <= REPORT_HELD;
        SlotTally {
            slot: self.open.slot,
            packets,
            bytes,
            retransmitted,
            nacks,
            keyframe_requests,
            loss_256: loss.filter(|(at, _)| is_recent(*at)).map(|(_, loss)| u64::from(loss)),
            rtt_us: rtt.filter(|(at, _)| is_recent(*at)).map(|(_, rtt)| rtt),
            window_us: window.at,
            window_packets: window.packets,
            window_bytes: window.bytes,
            allocation: self.allocated.map(|rank| rank.map_or(0, |rank| u64::from(rank) + 1)),
        }
    }
}

impl Forwarder {
    /// Tells which of a peer's streams, and whether the peer itself, are silent from now on.
    pub(super) fn review_silence(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        let (mut silent, mut count) = ([0; PEER_STREAMS_MAX], 0);
        let Some(transport) = peers.at_mut(peer).filter(|transport| !transport.is_expired) else { return };
        for &index in &transport.streams {
            let Some(stream) = streams.at_mut(index) else { continue };
            let (packets, _) = stream.reception.totals(None);
            if stream.silence.begins(packets, STREAM_QUIET_REPORTS) {
                stream.is_flowing = false;
                if stream.encoding.is_some() {
                    silent[count] = index;
                    count += 1;
                }
                out.report(StreamSilent { stream: stream.open.stream }.into_report());
            }
        }
        let received: Micros = transport.paths.heard_at().unwrap_or_default();
        if transport.silence.begins(received, PEER_QUIET_REPORTS) {
            out.report(PeerSilent { peer: transport.id }.into_report());
        }
        for &index in &silent[..count] {
            self.encoding_changed(now, index, out);
        }
    }

    /// A check, an answer or an authentic packet shows that a peer is there.
    #[inline]
    pub(super) fn peer_heard(&mut self, peer: u32, out: &mut Outbox) {
        if let Some(transport) = self.peers.at_mut(peer)
            && transport.silence.ends()
        {
            out.report(PeerResumed { peer: transport.id }.into_report());
        }
    }
}

impl Stream {
    /// An authentic packet came of a stream that was silent.
    pub(super) fn resume(&mut self, out: &mut Outbox) {
        if self.silence.ends() {
            out.report(StreamResumed { stream: self.open.stream }.into_report());
        }
    }
}
