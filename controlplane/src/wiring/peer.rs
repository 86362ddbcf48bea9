//! A peer on its worker: its transport, its streams and its slots, opened and closed as its offers say.

use std::collections::BTreeSet;

use proto::id::{PeerId, SlotId, Ssrc, StreamId};
use proto::plane::{Command, ExtensionIds, PeerExtensions, PeerOpen, SlotOpen, StreamOpen};
use proto::signal::{ErrorCode, Kind};

use super::stream::{Place, kept_track, ssrcs_of, ssrcs_spent, stream_of};
use crate::ice::Credentials;
use crate::ids::SlabId;
use crate::member::{Encoding, Member, Slot, Track};
use crate::negotiated::Spent;
use crate::negotiation::{Before, Negotiation, Verdict, mid_text};
use crate::policy::{SLOT_SSRCS_MAX, STREAM_SSRCS_MAX};
use crate::random::Random;
use crate::reconcile::Plan;
use crate::refusal::Refusal;
use crate::sdp::{Section, SlotDescription};

/// A peer that is open on its worker.
pub(crate) struct Opened {
    /// What it publishes.
    pub(crate) tracks: Vec<Track>,
    /// What it receives through.
    pub(crate) slots: Vec<Slot>,
    /// The slots as the answer describes them, by section.
    pub(crate) described: Vec<Option<SlotDescription>>,
    /// Our ICE credentials.
    pub(crate) credentials: Credentials,
    /// Whether ICE starts over.
    pub(crate) is_restart: bool,
    /// SSRCs that were ever in use.
    pub(crate) spent: Spent,
}

/// Refuses a subsequent offer that asks for more than a worker holds for one peer, or that it could not follow.
pub(crate) fn check_subsequent(
    negotiation: &Negotiation,
    peer: PeerId,
    before: Before<'_>,
    plan: &Plan,
) -> Result<(), Refusal> {
    if plan.extensions(peer).is_some_and(|was| is_renumbered(&was, &negotiation.extensions())) {
        let message = "an id of a header extension means another one now (RFC 8285 section 5)";
        return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
    }
    if let Some(ssrc) = doubled_ssrc(negotiation, peer, before, plan) {
        let message = format!("SSRC {ssrc} is that of another m-section, which may be paused");
        return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
    }
    let (mut fresh, mut spent) = ((0, 0), before.negotiated.map(|negotiated| negotiated.spent).unwrap_or_default());
    for (index, section, verdict) in negotiation.served() {
        let (track, slot) = (before.track(index, section), before.slot(index, section));
        if verdict.track.is_some() && kept_track(section, verdict, peer, track, plan).is_none() {
            let was = track.and_then(|track| plan.stream(track.stream));
            let says_ssrc = section.ssrcs.primary.is_some() && verdict.encodings.is_empty();
            if was.is_some_and(|(was, _)| was.ssrc == 0) && !says_ssrc {
                let message = format!("m-section {index} changes its codecs or encodings and says no SSRC");
                return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
            }
            fresh.0 += verdict.stream_count().saturating_sub(track.map_or(0, |track| track.streams().count()));
            spent.streams += ssrcs_spent(section, verdict);
        }
        if verdict.is_slot && kept_slot(verdict, slot).is_none() {
            fresh.1 += usize::from(slot.is_none());
            spent.slots += 2;
        }
    }
    if spent.streams > STREAM_SSRCS_MAX || spent.slots > SLOT_SSRCS_MAX {
        let message = "the peer has had more SSRCs than one key may have: that needs a new RTCPeerConnection";
        return Err(Refusal::new(ErrorCode::TooMuch, message));
    }
    match plan.has_room_for(fresh.0, fresh.1) {
        true => Ok(()),
        false => Err(Refusal::new(ErrorCode::ServerFull, "the server has its limit of streams and slots")),
    }
}

/// Opens a peer, or changes what is open of it, as its offer says. There must be room for it in `plan`.
pub(crate) fn open_peer(
    peer: PeerId,
    negotiation: &Negotiation,
    before: Before<'_>,
    plan: &mut Plan,
    random: &mut Random,
) -> Opened {
    let is_restart = before.negotiated.is_some_and(|negotiated| negotiated.is_restart(&negotiation.offer().ice));
    let credentials = match plan.credentials(peer).filter(|_| before.negotiated.is_some() && !is_restart) {
        Some(open) => Credentials { ufrag: open.ufrag, pwd: open.pwd },
        None => Credentials::from_random(peer.worker(), &random.bytes()),
    };
    plan.want(PeerOpen { peer, ufrag: credentials.ufrag, pwd: credentials.pwd });
    let theirs = &negotiation.offer().ice;
    plan.want_remote(peer, &theirs.ufrag, &theirs.pwd);
    plan.want(PeerExtensions { peer, ids: extensions(negotiation, plan.extensions(peer)) });
    close_stopped(negotiation, before, plan);

    let mut used: BTreeSet<Ssrc> =
        negotiation.offer().sections.iter().flat_map(|section| section.ssrcs.all()).collect();
    let slots = before.slots.iter().filter_map(|slot| plan.slot(slot.slot));
    used.extend(slots.flat_map(|slot| [slot.ssrc, slot.rtx_ssrc]));
    let spent = before.negotiated.map(|negotiated| negotiated.spent).unwrap_or_default();
    let mut opening = Opening { peer, before, used, spent, plan, random, tracks: Vec::new(), slots: Vec::new() };
    let described = negotiation.sections().map(|(index, section, verdict)| opening.section(index, section, verdict));
    let described = described.collect();
    let Opening { tracks, slots, spent, .. } = opening;
    Opened { tracks, slots, described, credentials, is_restart, spent }
}

/// Closes everything that a member has on its worker, which `plan` is of. The routes into its slots are
/// [`Wiring`](super::Wiring)'s.
pub(crate) fn close_peer(member: &Member, plan: &mut Plan) {
    for slot in &member.slots {
        plan.unwant_slot(slot.slot);
    }
    for track in &member.tracks {
        track.streams().for_each(|stream| plan.unwant_stream(stream));
    }
    plan.unwant_peer(member.peer);
}

/// An SSRC that two streams would have: not all of them stand in the offer.
fn doubled_ssrc(negotiation: &Negotiation, peer: PeerId, before: Before<'_>, plan: &Plan) -> Option<Ssrc> {
    let streams = negotiation.served().filter_map(|(index, section, verdict)| {
        let was = before.track(index, section).and_then(|track| plan.stream(track.stream));
        let id = StreamId::new(0, 1); // Whichever.
        let place = (!verdict.encodings.is_empty()).then_some(Place { track: id, place: 0 });
        verdict.track.map(|_| stream_of(section, verdict, peer, (id, place), was.as_ref())).or(was)
    });
    let mut seen = BTreeSet::new();
    streams.flat_map(|stream| ssrcs_of(&stream)).find(|&ssrc| !seen.insert(ssrc))
}

/// Whether an id of before is another extension's now.
fn is_renumbered(before: &ExtensionIds, now: &ExtensionIds) -> bool {
    let is_anothers =
        |extension: usize, id: u8| before.iter().position(|was| *was == id).is_some_and(|was| was != extension);
    now.iter().enumerate().any(|(extension, &id)| id != 0 && is_anothers(extension, id))
}

/// Ids as they are answered. Those of before stand, although no section has them any more: packets under way do.
fn extensions(negotiation: &Negotiation, before: Option<ExtensionIds>) -> ExtensionIds {
    let mut ids = before.unwrap_or_default();
    for (id, answered) in ids.iter_mut().zip(negotiation.extensions()) {
        *id = if answered == 0 { *id } else { answered };
    }
    ids
}

/// Closes what was of sections that are stopped now: its ids are given back before others are issued.
fn close_stopped(negotiation: &Negotiation, before: Before<'_>, plan: &mut Plan) {
    let stays = |mid: &str| negotiation.served().any(|(index, section, _)| mid_text(index, section) == mid);
    for track in before.tracks.iter().filter(|track| !stays(&track.mid)) {
        track.streams().for_each(|stream| plan.unwant_stream(stream));
    }
    for slot in before.slots.iter().filter(|slot| !stays(&slot.mid)) {
        plan.unwant_slot(slot.slot);
    }
}

/// The slot that a section goes on with as it is.
fn kept_slot(verdict: &Verdict, slot: Option<&Slot>) -> Option<SlotId> {
    slot.filter(|slot| (slot.formats, slot.red_pt) == (verdict.formats(), verdict.red_pt())).map(|slot| slot.slot)
}

/// The m-sections of one offer while they are opened.
struct Opening<'a> {
    peer: PeerId,
    before: Before<'a>,
    /// SSRCs of the transport, the client's and ours: no two streams of it may share one (RFC 3550 §8).
    used: BTreeSet<Ssrc>,
    spent: Spent,
    plan: &'a mut Plan,
    random: &'a mut Random,
    tracks: Vec<Track>,
    slots: Vec<Slot>,
}

impl Opening<'_> {
    fn section(&mut self, index: usize, section: &Section, verdict: &Verdict) -> Option<SlotDescription> {
        if verdict.codecs.is_empty() {
            return None;
        }
        self.track(index, section, verdict);
        self.slot(index, section, verdict)
    }

    /// Opens a section's stream, or leaves it as it is; of one that does not send now it is kept.
    fn track(&mut self, index: usize, section: &Section, verdict: &Verdict) {
        let before = self.before.track(index, section);
        let Some(shows) = verdict.track else {
            self.tracks.extend(before.map(|track| Track { is_paused: true, ..track.clone() }));
            return;
        };
        let (stream, encodings) = match kept_track(section, verdict, self.peer, before, self.plan) {
            Some(track) => (track.stream, track.encodings.clone()),
            None => self.streams(section, verdict, before),
        };
        self.tracks.push(Track {
            stream,
            encodings,
            mid: mid_text(index, section),
            source: shows.source,
            is_active: shows.is_active,
            formats: verdict.formats(),
            is_muted: before.is_some_and(|track| track.is_muted),
            is_paused: false,
            audio_bps: verdict.codecs[0].opus.and_then(|opus| opus.maxaveragebitrate),
        });
    }

    /// Opens the stream of a track, or those of its encodings.
    fn streams(&mut self, section: &Section, verdict: &Verdict, before: Option<&Track>) -> (StreamId, Vec<Encoding>) {
        let was = before.and_then(|track| self.plan.stream(track.stream));
        if let Some(track) = before {
            track.streams().for_each(|stream| self.plan.unwant_stream(stream));
        }
        self.spent.streams += ssrcs_spent(section, verdict);
        let mut encodings: Vec<Encoding> = Vec::new();
        for (place, &rid) in verdict.encodings.iter().enumerate() {
            let track = encodings.first().map(|first| first.stream);
            let stream =
                self.stream(section, verdict, was.as_ref(), |own| Some(Place { track: track.unwrap_or(own), place }));
            encodings.push(Encoding { stream, rid });
        }
        match encodings.first() {
            Some(first) => (first.stream, encodings),
            None => (self.stream(section, verdict, was.as_ref(), |_| None), encodings),
        }
    }

    fn stream(
        &mut self,
        section: &Section,
        verdict: &Verdict,
        was: Option<&(StreamOpen, Vec<Command>)>,
        place_of: impl Fn(StreamId) -> Option<Place>,
    ) -> StreamId {
        let peer = self.peer;
        let open = |stream| stream_of(section, verdict, peer, (stream, place_of(stream)), was);
        let stream = self.plan.want_stream(|stream| open(stream).0);
        let stream = stream.expect("the engine made sure of room for the streams");
        for part in open(stream).1 {
            self.plan.want(part);
        }
        stream
    }

    /// Opens a section's slot, or leaves it as it is; one that does not receive now keeps its numbers.
    fn slot(&mut self, index: usize, section: &Section, verdict: &Verdict) -> Option<SlotDescription> {
        let before = self.before.slot(index, section);
        let slot = match before {
            Some(slot) if !verdict.is_slot || kept_slot(verdict, before).is_some() => {
                Slot { is_paused: !verdict.is_slot, ..slot.clone() }
            }
            _ if !verdict.is_slot => return None,
            _ => self.open_slot(index, section, verdict, before),
        };
        let (group, kind) = (slot.sync_group, slot.kind);
        let open = self.plan.slot(slot.slot).expect("a slot of ours is desired");
        self.slots.push(slot);
        Some(SlotDescription {
            ssrc: open.ssrc,
            rtx_ssrc: (open.rtx_ssrc != 0).then_some(open.rtx_ssrc),
            cname: format!("uprtc-{group}"),
            msid_stream: format!("uprtc-{group}"),
            msid_track: format!("uprtc-{group}-{}", if kind == Kind::Audio { "audio" } else { "video" }),
        })
    }

    fn open_slot(&mut self, index: usize, section: &Section, verdict: &Verdict, before: Option<&Slot>) -> Slot {
        if let Some(slot) = before {
            self.plan.unwant_slot(slot.slot);
        }
        let (peer, formats) = (self.peer, verdict.formats());
        let ssrc = self.fresh_ssrc();
        let has_rtx = verdict.codecs.iter().any(|codec| codec.rtx_pt.is_some());
        let rtx_ssrc = if has_rtx { self.fresh_ssrc() } else { 0 };
        self.spent.slots += 2;
        let random = &mut *self.random;
        let slot = self.plan.want_slot(|slot| SlotOpen {
            slot,
            peer,
            ssrc,
            rtx_ssrc,
            mid: section.mid,
            seq_first: random.u32() as u16 & 0x7fff,
            rtx_seq_first: random.u32() as u16 & 0x7fff,
            timestamp_first: random.u32(),
        });
        let kind = if formats.0.codec.is_video() { Kind::Video } else { Kind::Audio };
        Slot {
            slot: slot.expect("the engine made sure of room for the slots"),
            mid: mid_text(index, section),
            kind,
            sync_group: before.map_or_else(|| self.free_sync_group(kind), |slot| slot.sync_group),
            is_paused: false,
            formats,
            red_pt: verdict.red_pt(),
            carries: None,
        }
    }

    /// The first sync group without a slot of that kind; sections that come later in the offer have theirs.
    fn free_sync_group(&self, kind: Kind) -> u8 {
        let stays = |slot: &&Slot| self.plan.slot(slot.slot).is_some();
        let slots = self.slots.iter().chain(self.before.slots.iter().filter(stays));
        let taken: BTreeSet<u8> = slots.filter(|slot| slot.kind == kind).map(|slot| slot.sync_group).collect();
        (0..=u8::MAX).find(|group| !taken.contains(group)).expect("slots_max bounds the slots")
    }

    fn fresh_ssrc(&mut self) -> Ssrc {
        loop {
            let ssrc = self.random.nonzero_u32();
            if self.used.insert(ssrc) {
                return ssrc;
            }
        }
    }
}
