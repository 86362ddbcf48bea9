//! Further offers of a peer that is in: sections that are new, stopped or turned around, other SSRCs, an ICE restart
//! (RFC 8829 §5.2.2, §5.3.1). The transport stands: one certificate, one DTLS association, one set of SRTP keys.
//!
//! An offer is decided on as a whole before anything changes, so one that is refused leaves the call as it was.

use proto::signal::{ServerSignal, TrackDescription};

use super::signalling::no_dataplane;
use super::{Engine, Handle, Member, Room};
use crate::negotiation::{Before, Negotiation, Opened, Ours, Refusal};

impl Engine {
    /// Answers a further offer, or says why not.
    pub(super) fn offer_again(
        &mut self,
        handle: Handle,
        sdp: &str,
        described: &[TrackDescription],
    ) -> Result<(), Refusal> {
        let Some(codecs) = self.peers.get(&handle).map(|peer| self.codecs_of(&peer.room)) else {
            return Err(no_dataplane());
        };
        let (Some(peer), Some(worker)) = (self.peers.get(&handle), self.workers.get_mut(&handle.worker)) else {
            return Err(no_dataplane());
        };
        let name = peer.room.clone();
        let Some(room) = self.rooms.get(&name) else { return Err(no_dataplane()) };
        let Some(member) = room.member(handle.peer) else { return Err(no_dataplane()) };
        let listeners = room.listeners(&member.name, &member.id);
        let before = Before { terms: Some(&peer.terms), tracks: &member.tracks, slots: &member.slots };
        let mut negotiation = Negotiation::read(sdp, described, &peer.grant, &self.settings, codecs, before)?;
        negotiation.check_further(handle.peer, before, &worker.plan)?;
        negotiation.tune(&listeners);

        let ours = Ours { fingerprint: &self.fingerprint, candidates: &worker.candidates };
        let opened = negotiation.open(handle.peer, &ours, before, &mut worker.plan, &mut self.random);
        self.answer_again(handle, &name, &negotiation, opened);
        self.totals.renegotiated += 1;
        Ok(())
    }

    /// The room goes on with what was opened, and everybody whom it concerns is told.
    fn answer_again(&mut self, handle: Handle, name: &str, negotiation: &Negotiation, opened: Opened) {
        let Opened { tracks, slots, hears, terms, is_restart, sdp } = opened;
        let Some(peer) = self.peers.get_mut(&handle) else { return };
        peer.terms = terms;
        let socket = peer.socket;
        self.tell(handle, ServerSignal::Answer { sdp });
        if let (Some(socket), true) = (socket, is_restart) {
            let candidates = self.workers.get(&handle.worker).map(|worker| worker.candidates.clone());
            self.trickle(socket, &candidates.unwrap_or_default(), negotiation.first_served());
        }

        let Some(member) = self.rooms.get_mut(name).and_then(|room| room.member_mut(handle.peer)) else { return };
        let (was, had_video) = (member.info(), member.has_video());
        let shape = |member: &Member| -> Vec<(String, bool)> {
            member.slots.iter().map(|slot| (slot.mid.clone(), slot.is_shut)).collect()
        };
        let shape_was = shape(member);
        (member.tracks, member.slots, member.hears) = (tracks, slots, hears);
        let (info, has_other_slots, begins_video) =
            (member.info(), shape(member) != shape_was, !had_video && member.has_video());
        let has_other_tracks = info != was;
        if has_other_tracks {
            for other in self.members_of(name).into_iter().filter(|other| *other != handle) {
                self.tell(other, ServerSignal::PeerChanged { peer: info.clone() });
            }
        }
        let video = self.rooms.get(name).map(Room::video);
        let told = self.settle(name);
        if has_other_slots && !told.contains(&handle.peer) {
            self.tell_slots(handle);
        }
        if has_other_tracks {
            self.tell_limit(handle);
        }
        // A sender begins with the first codec of its answer; a change just now was told.
        if let Some(room) = self.rooms.get(name)
            && begins_video
            && video == Some(room.video())
            && room.member(handle.peer).is_some_and(|member| room.must_be_told(member))
        {
            self.tell_codec(handle);
        }
        self.journal(handle);
    }
}
