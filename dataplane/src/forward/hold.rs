//! How long receivers are told to hold pictures back until repairs have come ([`crate::playout`]): each slot, when what its receiver may be sent
//! is looked at.

use proto::plane::Extension;

use super::Forwarder;
use crate::config::{HOLD_LOSS, HOLD_LOSS_TWICE, HOLD_SPARE, MILLISECOND, Micros};
use crate::transport::Transport;

/// A receiver sees that a packet is lost when the next one comes: of frames of one packet, at 20 frames per second.
const GAP_SEEN: Micros = 50 * MILLISECOND;

impl Forwarder {
    /// Looks at how long a receiver is to hold back the pictures in each of its slots.
    pub(super) fn review_hold(&mut self, now: Micros, peer: u32) {
        let Forwarder { peers, slots, routes, streams, .. } = self;
        let Some(transport) = peers.at(peer) else { return };
        // To another edge nothing is told: the last one sees how late packets come there.
        if transport.extension_ids[Extension::PlayoutDelay as usize] == 0 || transport.edge.is_some() {
            return;
        }
        let repair = transport.repair_takes(now);
        for &(_, index) in &transport.slots {
            let Some(slot) = slots.at_mut(index) else { continue };
            let route = slot.choice.live.and_then(|route| routes.at(route));
            let Some(stream) = route.and_then(|route| streams.at(route.open.stream.index)) else { continue };
            if stream.open.codec.is_video() {
                // Few packets are lost on both ways, and each is waited for on one of them.
                slot.playout.needs(repair.max(stream.lateness.wait(now)), now);
            }
        }
    }
}

impl Transport {
    /// How long it takes to repair what it loses on its way from here; nothing if it loses little.
    fn repair_takes(&self, now: Micros) -> Micros {
        let lost = self.sending.as_ref().map_or(0.0, |sending| sending.lost(now));
        let rounds = u64::from(lost >= HOLD_LOSS) + u64::from(lost >= HOLD_LOSS_TWICE);
        if rounds > 0 { rounds * self.rtt + GAP_SEEN + HOLD_SPARE } else { 0 }
    }
}
