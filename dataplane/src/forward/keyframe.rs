//! Keyframe requests: merged for each stream, throttled, and repeated until a keyframe comes.

use proto::id::{Ssrc, StreamId};
use proto::plane::{Counter, feedback};

use super::Forwarder;
use crate::config::{HOLD_LOSS, KEYFRAME_INTERVAL, KEYFRAME_RETRY, Micros};
use crate::outbox::Outbox;
use crate::relay::Message;
use crate::stream::Stream;
use crate::timer::Timer;
use crate::transport::Transport;

impl Forwarder {
    /// A receiver needs a keyframe in one of its slots.
    pub(super) fn keyframe_requested(&mut self, now: Micros, peer: u32, ssrc: Ssrc, out: &mut Outbox) {
        self.count(Counter::KeyframeRequestsReceived, 1);
        let Some(slot) = self.slot_of(peer, ssrc).and_then(|s| self.slots.at_mut(s)) else { return };
        slot.counts.keyframe_requests += 1;
        let slot = slot.open.slot.index;
        let choice = self.slots.at(slot).map(|slot| &slot.choice);
        let route = choice.and_then(|choice| choice.live).and_then(|route| self.routes.at(route));
        let Some(stream) = route.map(|route| route.open.stream) else { return };
        let index = stream.index;
        if self.peers.at_mut(peer).is_none_or(|peer| peer.asks.ask(stream, now).is_err()) {
            return; // It asks again if it still needs one.
        }
        if let Some(stream) = self.streams.at_mut(index).filter(|stream| stream.sets.is_some()) {
            // What it lacks may be the parameter sets. Where each keyframe brings them, nothing comes of it.
            stream.hops.iter_mut().filter(|hop| hop.slot == slot).for_each(|hop| hop.lacks_sets = true);
        }
        self.want_keyframe(now, index, out);
    }

    /// A receiver has entered a stream and waits for a keyframe. Who does so again and again has to wait.
    pub(super) fn keyframe_awaited(&mut self, now: Micros, peer: u32, stream: StreamId, out: &mut Outbox) {
        let Some(peer) = self.peers.at_mut(peer) else { return };
        match peer.asks.ask(stream, now) {
            Ok(()) => self.want_keyframe(now, stream.index, out),
            Err(at) => {
                if let Some(of_video) = self.streams.at_mut(stream.index).filter(|s| s.open.codec.is_video()) {
                    if !std::mem::replace(&mut of_video.keyframe.is_wanted, true) {
                        of_video.keyframe.timer = None; // It looks for a keyframe that has come.
                    }
                    self.look_for_keyframe(at, stream.index);
                }
            }
        }
    }

    /// Looks at the repairs that were refused a receiver because its path is full: what it still lacks only a keyframe mends. That
    /// is for paths that lose much without a queue, where what it asks for may be lost as well; where a queue is long a keyframe makes it
    /// longer, and the receiver asks for one itself.
    pub(super) fn review_refused(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let lost = self.peers.at(peer).and_then(|of| of.sending.as_ref()).map_or(0.0, |sending| sending.lost(now));
        let is_lossy = lost >= HOLD_LOSS;
        for at in 0..self.peers.at(peer).map_or(0, |transport| transport.slots.len()) {
            let index = self.peers.at(peer).and_then(|transport| transport.slots.get(at)).map(|(_, index)| *index);
            let Some(slot) = index.and_then(|index| self.slots.at_mut(index)) else { continue };
            let (live, Some(rtx)) = (slot.choice.live, &mut slot.rtx) else { continue };
            let stream = live.and_then(|route| self.routes.at(route)).map(|route| route.open.stream);
            let came = stream.and_then(|stream| self.streams.at(stream.index)).and_then(|stream| stream.keyframe.came);
            let needs_keyframe = rtx.refused.needs_keyframe(came, now) && is_lossy;
            if let Some(stream) = stream.filter(|_| needs_keyframe) {
                self.count(Counter::KeyframesForRefusedRepairs, 1);
                self.keyframe_awaited(now, peer, stream, out);
            }
        }
    }

    /// Tells the mirrors of a stream its parameter sets, which may have come before they were there.
    pub(super) fn relay_sets(&mut self, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at(index) else { return };
        let Some(sets) = &stream.sets else { return };
        for tap in &stream.taps {
            // One that is lost is made up for when a keyframe is asked for again.
            let _ = out.relay_sets(tap.worker, tap.mirror, sets.as_bytes());
        }
    }

    /// Somebody needs a keyframe of a stream: ask the publisher, or later if it was asked a moment ago. Requests that
    /// come meanwhile are the same request.
    pub(super) fn want_keyframe(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let Some(stream) = self.streams.at_mut(index).filter(|s| s.open.codec.is_video()) else { return };
        stream.keyframe.is_wanted = true;
        let rtt = self.peers.at(stream.open.peer.index).map_or(0, |t| t.rtt);
        let due = stream.keyframe.asked.map_or(now, |asked| asked + KEYFRAME_INTERVAL.max(rtt));
        if due <= now { self.ask_keyframe(now, index, out) } else { self.look_for_keyframe(due, index) }
    }

    /// A request that waited may go now, or an unanswered one goes again.
    pub(super) fn keyframe_due(&mut self, now: Micros, index: u32, out: &mut Outbox) {
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
        if !stream.keyframe.bucket.take(now) {
            return self.look_for_keyframe(now + KEYFRAME_RETRY, index);
        }
        if let Some(mirror) = &stream.mirror {
            if out.relay(mirror.open.worker, Message::KeyframeWanted { stream: mirror.open.origin }) {
                stream.keyframe.asked = Some(now);
                self.count(Counter::KeyframeRequestsRelayed, 1);
            }
            return self.look_for_keyframe(now + KEYFRAME_RETRY, index);
        }
        let publisher = stream.open.peer.index;
        let may_send = self.peers.at(publisher).is_some_and(Transport::may_report);
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

    /// Requests a keyframe if the packets that were just fanned out have made a receiver wait for one, which then nobody
    /// has requested yet.
    pub(super) fn request_unrequested_keyframe(&mut self, now: Micros, index: u32, out: &mut Outbox) {
        let is_unasked = |s: &Stream| s.keyframe.is_wanted && s.keyframe.timer.is_none();
        if self.streams.at(index).is_some_and(is_unasked) {
            self.want_keyframe(now, index, out);
        }
    }
}
