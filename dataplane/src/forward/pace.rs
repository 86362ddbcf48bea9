//! Toward receivers that send transport-cc feedback: what their estimate changes, which encodings their slots take, packets of
//! video that wait, and probes.

use proto::id::{PeerId, SlotId};
use proto::plane::{Counter, Refusal, SlotShown, TRACK_ENCODINGS_MAX, weight};

use super::fanout::Waiting;
use super::rtcp::Why;
use super::{Forwarder, arm_pace};
use crate::allocate::{VIDEOS_MAX, Video, rank_for};
use crate::config::Micros;
use crate::headroom::Headroom;
use crate::layer::{self, LOWER};
use crate::outbox::Outbox;
use crate::path::Path;
use crate::sending::WIRE;
use crate::slot::Slot;
use crate::stream::Stream;
use crate::twcc::TransportCc;

/// See [`Forwarder::spatial_layers`].
type Spatial = (u8, [u32; TRACK_ENCODINGS_MAX], [u32; TRACK_ENCODINGS_MAX], [u32; LOWER]);

/// Packets of a slot that its probes send again.
const PROBE_REPEATED: u16 = 8;

/// Packets that one peer's probe may take at once.
const PROBE_PACKETS_MAX: usize = 64;

impl Forwarder {
    /// A receiver reported what of our packets arrived, and when.
    pub(super) fn feedback_received(&mut self, now: Micros, peer: u32, feedback: &TransportCc<'_>, out: &mut Outbox) {
        self.count(Counter::TransportCcReceived, 1);
        let Some(transport) = self.peers.at_mut(peer) else { return };
        let Some(sending) = &mut transport.sending else { return };
        let matched = sending.bwe.feedback(now, feedback);
        if matched.found > 0 {
            sending.feedback_came(now);
        }
        if let Some(edge) = &mut transport.edge {
            edge.crossed.sent_arrived(matched.first);
        }
        self.count(Counter::TransportCcUnknown, matched.unknown.into());
        self.review_sending(now, peer, out);
    }

    /// A receiver reported what it lacks of what was sent to it.
    pub(super) fn losses_reported(&mut self, now: Micros, peer: u32, (sent, lost): (u64, u64), out: &mut Outbox) {
        let limited = self.peers.at_mut(peer).and_then(|transport| transport.limited_sending(now, lost > 0));
        // Of whom feedback comes, that says more.
        let Some(sending) = limited.filter(|sending| sending.bwe.is_alone()) else { return };
        sending.reported(now, sent, lost);
        self.review_sending(now, peer, out);
    }

    /// A receiver says what it may be sent at most.
    pub(super) fn remb_received(&mut self, now: Micros, peer: u32, bps: u64, out: &mut Outbox) {
        let limited = self.peers.at_mut(peer).and_then(|transport| transport.limited_sending(now, bps > 0));
        let Some(sending) = limited else { return };
        sending.remb(now, bps);
        self.review_sending(now, peer, out);
    }

    /// What a path carries by the estimate, bit/s, if a receiver at its end sends feedback. For measurements.
    pub fn estimate_toward(&self, path: Path) -> Option<u64> {
        let sending = self.peers.at(self.demux.peer_at(path)?)?.sending.as_ref()?;
        sending.has_feedback().then(|| sending.bwe.estimate())
    }

    /// Looks at what a receiver may be sent, if that is due.
    pub(super) fn review_sending(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Some(transport) = self.peers.at_mut(peer) else { return };
        match &mut transport.sending {
            Some(sending) if !sending.is_due(now) => return,
            Some(sending) => sending.tick(now),
            None => {
                self.review_hold(now, peer);
                self.review_refused(now, peer, out);
                return self.give_what_is_shown(now, peer, out);
            }
        }
        self.review_hold(now, peer);
        self.review_refused(now, peer, out);
        let (mut videos, mut count) = ([Video::default(); VIDEOS_MAX], 0);
        for at in 0..self.peers.at(peer).map_or(0, |transport| transport.slots.len()) {
            let Some(video) = self.video_of(now, peer, at).filter(|_| count < VIDEOS_MAX) else { continue };
            videos[count] = video;
            count += 1;
        }
        let videos = &mut videos[..count];
        let Some(sending) = self.peers.at_mut(peer).and_then(|transport| transport.sending.as_mut()) else { return };
        let budget = sending.budget(now);
        let is_limited = budget.is_some();
        match budget {
            Some(budget) => {
                let wanted = sending.allocator.allocate(now, &budget, videos);
                sending.reviewed(now, wanted);
            }
            None => {
                videos.iter_mut().for_each(|video| video.now = video.best());
                sending.reviewed(now, (0, 0));
            }
        }
        for video in videos {
            self.want_layers(now, video, out);
            let Headroom { bps, is_needed } = video.room;
            let bps = if bps == u32::MAX { bps } else { (f64::from(bps) / WIRE) as u32 };
            self.set_room(now, video.slot, Headroom { bps, is_needed }, out);
            // Without a limit a slot takes the best of its own, unless somebody has said something of it.
            let is_own = |slot: &Slot| slot.shown().is_none() && slot.allocated.is_none();
            if !is_limited && self.slots.at(video.slot).is_some_and(is_own) {
                continue;
            }
            if video.before != Some(video.now) {
                if video.is_urgent && video.now.is_some() && !video.is_spatial {
                    self.leave_encoding(now, video.slot, out);
                }
                self.want_encoding(now, video.slot, video.now, out);
                if let Some(slot) = self.slots.at_mut(video.slot) {
                    // What is hidden was given nothing for want of bandwidth. It is new when it is shown again.
                    slot.allocated = (!video.is_hidden).then_some(video.now);
                }
            }
        }
        self.pace(now, peer, out);
    }

    /// Has a slot take no better layers than these.
    fn want_layers(&mut self, now: Micros, video: &Video, out: &mut Outbox) {
        let Some(slot) = self.slots.at_mut(video.slot) else { return };
        slot.layers.want = video.layers.unwrap_or(layer::ALL);
        // What is paused goes on from a keyframe, with what it is given then.
        let spatial = if video.is_spatial { video.now.unwrap_or(slot.layers.want_spatial) } else { layer::ALL };
        if std::mem::replace(&mut slot.layers.want_spatial, spatial) == spatial {
            return;
        }
        let (layers, peer) = (slot.layers, slot.open.peer.index);
        let stream = slot.choice.live.and_then(|route| self.routes.at(route)).map(|route| route.open.stream);
        let of_stream = stream.and_then(|stream| self.streams.at(stream.index));
        let awaits = of_stream.and_then(Stream::known_layering).is_some_and(|of| layers.awaits_keyframe(of));
        if let Some(stream) = stream.filter(|_| awaits) {
            self.keyframe_awaited(now, peer, stream, out);
        }
    }

    /// The video in one of a peer's slots, if there is one.
    fn video_of(&self, now: Micros, peer: u32, at: usize) -> Option<Video> {
        let (_, index) = *self.peers.at(peer)?.slots.get(at)?;
        let slot = self.slots.at(index)?;
        let (mut bps, mut lines) = ([0; TRACK_ENCODINGS_MAX], [0; TRACK_ENCODINGS_MAX]);
        let (mut encodings, mut layers_bps, mut sent) = (0, [0; LOWER], bps);
        let mut lowest = None;
        for (rank, stream, is_flowing) in self.encodings_of(index) {
            let stream = self.streams.at(stream)?;
            if !stream.open.codec.is_video() {
                return None;
            }
            let is_screen = slot.weight() == weight::SCREEN;
            let measured = if is_screen { stream.steady_bps(now) } else { stream.bps(now) };
            sent[usize::from(rank)] = (f64::from(measured) * WIRE) as u32;
            let told = stream.encoding.as_ref().map_or(0, |encoding| encoding.told_bps);
            let expected = if is_screen { measured } else { stream.expected_bps(now) };
            // What is not sent yet costs what its publisher has said.
            let expected = if expected == 0 { told } else { expected };
            bps[usize::from(rank)] = (f64::from(expected) * WIRE) as u32;
            lines[usize::from(rank)] = stream.encoding.as_ref().map_or(0, |encoding| encoding.size.lines());
            encodings = rank + 1;
            if lowest.is_none() && (is_flowing || stream.encoding.is_none()) {
                lowest = Some(usize::from(rank));
                layers_bps = [0, 1].map(|layer| stream.parts.bps(layer, bps[usize::from(rank)]));
            }
        }
        // Who is given a lower encoding than there is takes the lowest that there is.
        let (below, flowing) = bps.split_at_mut(lowest.unwrap_or(0));
        below.fill(flowing[0]);
        let (below, flowing) = sent.split_at_mut(lowest.unwrap_or(0));
        below.fill(flowing[0]);
        let mut is_spatial = false;
        if let (1, Some(spatial)) = (encodings, self.spatial_layers(now, index)) {
            is_spatial = true;
            (encodings, bps, lines, layers_bps) = spatial;
            sent = bps;
        }
        let rank_max = rank_for(&lines[..encodings.into()], slot.lines())?;
        let (is_hidden, before) = (slot.is_hidden(), slot.allocated);
        let weight = slot.weight();
        let layers_before = Some(slot.layers.want).filter(|want| *want != layer::ALL);
        let common = Video { layers_bps, layers_before, measured: sent, ..Video::default() };
        Some(Video { slot: index, weight, bps, encodings, is_spatial, rank_max, is_hidden, before, ..common })
    }

    /// Of a track in one encoding with spatial layers: how many are sent now, what each costs with what it needs of those below, the lines of its
    /// pictures, and what the lower temporal layers of the lowest one cost.
    fn spatial_layers(&self, now: Micros, slot: u32) -> Option<Spatial> {
        let (_, stream, _) = self.encodings_of(slot).next()?;
        let stream = self.streams.at(stream)?;
        let structure = stream.known_layering()?;
        let count = (structure.spatial_max() + 1).min(TRACK_ENCODINGS_MAX as u8);
        let all = (f64::from(stream.bps(now)) * WIRE) as u32;
        let (mut bps, mut lines) = ([0; TRACK_ENCODINGS_MAX], [0; TRACK_ENCODINGS_MAX]);
        for layer in 0..count {
            let (width, height) = structure.size(layer);
            lines[usize::from(layer)] = width.min(height);
            bps[usize::from(layer)] = stream.parts.spatial_bps(layer.into(), all);
        }
        (count > 1).then_some((count, bps, lines, [0, 1].map(|layer| stream.parts.bps(layer, all))))
    }

    /// To a receiver of whose path nothing is estimated: of each video that it has said how it shows the encoding that is enough.
    fn give_what_is_shown(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        for at in 0..self.peers.at(peer).map_or(0, |transport| transport.slots.len()) {
            let Some(video) = self.video_of(now, peer, at) else { continue };
            if self.slots.at(video.slot).is_some_and(|slot| slot.shown().is_some()) {
                self.want_layers(now, &Video { now: video.best(), ..video }, out);
                self.want_encoding(now, video.slot, video.best(), out);
            }
        }
    }

    /// The controlplane says how a receiver shows a slot.
    pub(super) fn show_slot(&mut self, shown: &SlotShown) -> Result<(), Refusal> {
        let SlotId { index, generation } = shown.slot;
        let slot = self.slots.find_mut(index, generation).ok_or(Refusal::Unknown)?;
        if shown.weight > weight::SCREEN {
            return Err(Refusal::Malformed);
        }
        slot.show(shown);
        self.touched.push(index);
        Ok(())
    }

    /// What is in a slot has changed: the next review divides anew what its receiver may be sent.
    pub(super) fn look_again(&mut self, slot: u32) {
        let peer = self.slots.at(slot).map(|slot| slot.open.peer.index);
        let transport = peer.and_then(|peer| self.peers.at_mut(peer));
        if let Some(sending) = transport.and_then(|transport| transport.sending.as_mut()) {
            sending.look_again();
        }
    }

    /// Sends what waits for a receiver, as far as its pace allows, and what its probe lacks.
    pub(super) fn pace(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        while let Some(waiting) = self.take_waiting(now, peer, out) {
            self.send_waiting(now, &waiting, out);
        }
        self.send_probe(now, peer, out);
        if let Some(transport) = self.peers.at_mut(peer) {
            arm_pace(transport, &mut self.timers, now);
        }
    }

    /// The timer of a receiver's pace has fired.
    pub(super) fn pace_due(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        if let Some(sending) = self.peers.at_mut(peer).and_then(|transport| transport.sending.as_mut()) {
            sending.is_timer_set = false;
            self.pace(now, peer, out);
        }
    }

    fn take_waiting(&mut self, now: Micros, peer: u32, out: &Outbox) -> Option<Waiting> {
        let sending = self.peers.at_mut(peer)?.sending.as_mut()?;
        if out.is_full() { None } else { sending.take_waiting(now, &mut self.queues) }
    }

    /// Forgets what waits for a peer that is closed.
    pub(super) fn drop_waiting(&mut self, peer: PeerId) {
        let transport = self.peers.find_mut(peer.index, peer.generation);
        let Some(sending) = transport.and_then(|transport| transport.sending.as_mut()) else { return };
        while self.queues.pop(&mut sending.queue).is_some() {}
    }

    /// One packet for a probe: one of the last that were sent to the peer, again, or padding. Whether it left.
    fn send_padding(&mut self, now: Micros, peer: u32, out: &mut Outbox) -> bool {
        for at in 0..self.peers.at(peer).map_or(0, |transport| transport.slots.len()) {
            let Some((_, index)) = self.peers.at(peer).and_then(|transport| transport.slots.get(at).copied()) else {
                return false;
            };
            let Some(slot) = self.slots.at_mut(index).filter(|slot| slot.rtx.is_some()) else { continue };
            // A few packets, by turns: who has them already drops them at once.
            slot.probed = slot.probed % PROBE_REPEATED + 1;
            let seq = (slot.sender.next() as u16).wrapping_sub(slot.probed);
            if self.send_again(now, peer, index, seq, Why::Probe, out).is_some()
                || self.send_empty(now, peer, index, out)
            {
                return true;
            }
        }
        false
    }

    /// A packet of nothing but padding on a slot's RTX stream.
    fn send_empty(&mut self, now: Micros, peer: u32, slot: u32, out: &mut Outbox) -> bool {
        let Forwarder { slots, peers, routes, .. } = self;
        let (Some(slot), Some(transport)) = (slots.at_mut(slot), peers.at_mut(peer)) else { return false };
        let rtx_pt =
            slot.choice.routes().next().and_then(|route| routes.at(route)).map_or(0, |route| route.open.rtx_pt);
        rtx_pt != 0 && slot.send_padding(now, rtx_pt, transport, out).is_some()
    }

    /// Sends what a probe lacks, and what helps the estimate out of losses: packets that were sent before, again as RTX, or
    /// padding.
    fn send_probe(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        for _ in 0..PROBE_PACKETS_MAX {
            let Some(sending) = self.peers.at_mut(peer).and_then(|transport| transport.sending.as_mut()) else {
                return;
            };
            let is_due = sending.probe_lacks(now).map_or_else(|| sending.may_pad(now), |lacks| lacks > 0);
            if out.is_full() || !is_due {
                return;
            }
            sending.is_padding = true;
            let is_sent = self.send_padding(now, peer, out);
            let Some(sending) = self.peers.at_mut(peer).and_then(|transport| transport.sending.as_mut()) else {
                return;
            };
            sending.is_padding = false;
            if !is_sent {
                return sending.give_up_probe();
            }
            self.count(Counter::ProbePacketsSent, 1);
        }
    }
}
