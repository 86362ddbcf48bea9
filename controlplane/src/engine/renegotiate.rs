//! Subsequent offers of a peer that is in: sections that are new, stopped or turned around, other SSRCs, an ICE restart
//! (RFC 8829 §5.2.2, §5.3.1). The transport stands: one certificate, one DTLS association, one set of SRTP keys.
//!
//! An offer is decided on as a whole before anything changes, so one that is refused leaves the call as it was.

use proto::signal::{ServerSignal, TrackDescription};

use super::{Engine, Handle};
use crate::negotiation::{Before, Negotiation, Ours};
use crate::refusal::Refusal;
use crate::wiring::{check_subsequent, open_peer};

impl Engine {
    /// Answers a subsequent offer, or says why not.
    pub(super) fn subsequent_offer(
        &mut self,
        handle: Handle,
        sdp: &str,
        described: &[TrackDescription],
    ) -> Result<(), Refusal> {
        let name = self.peers.get(&handle).map(|peer| peer.room.clone()).ok_or_else(Refusal::no_dataplane)?;
        let codecs = self.codecs_of(&name);
        let Engine { peers, rooms, workers, random, settings, fingerprint, .. } = self;
        let peer = peers.get_mut(&handle).ok_or_else(Refusal::no_dataplane)?;
        let worker = workers.get_mut(&handle.worker).ok_or_else(Refusal::no_dataplane)?;
        let room = rooms.get_mut(&name).map(|hosted| &mut hosted.room).ok_or_else(Refusal::no_dataplane)?;
        let member = room.member(handle.peer).ok_or_else(Refusal::no_dataplane)?;
        let listeners = room.listeners(&member.grant.name, &member.id);
        let before = Before { negotiated: Some(&peer.negotiated), tracks: &member.tracks, slots: &member.slots };
        let mut negotiation = Negotiation::read(sdp, described, &member.grant, settings, codecs, before)?;
        check_subsequent(&negotiation, handle.peer, before, &worker.plan)?;
        negotiation.tune(&listeners);

        let opened = open_peer(handle.peer, &negotiation, before, &mut worker.plan, random);
        let ours = Ours {
            session_id: 0, // That of the first answer stands.
            credentials: &opened.credentials,
            fingerprint,
            candidates: &worker.candidates,
        };
        let (sdp, negotiated) = negotiation.answer(&ours, before.negotiated, opened.described, opened.spent);
        peer.negotiated = negotiated;
        let Some(member) = room.member_mut(handle.peer) else { return Err(Refusal::no_dataplane()) };
        let had_video = member.has_video();
        (member.tracks, member.slots, member.hears) = (opened.tracks, opened.slots, negotiation.hears());
        let begins_video = !had_video && member.has_video();
        let video = room.member(handle.peer).and_then(|member| room.video_at_first(member));

        let candidates = worker.candidates.clone();
        self.tell(handle, ServerSignal::Answer { sdp });
        if let (Some(socket), true) = (self.sockets.of(handle), opened.is_restart) {
            self.trickle(socket, &candidates, negotiation.first_served());
        }
        if let Some((_, view)) = self.sockets.view_mut(handle) {
            view.renegotiated();
            if begins_video {
                view.begins_video(video);
            }
        }
        self.slots_changed(&name);
        self.journal(handle);
        self.totals.renegotiated += 1;
        Ok(())
    }
}
