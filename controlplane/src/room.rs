//! A room: who may hear whom.
//!
//! It owns its members with their tracks and slots, and keeps the routes between them as the rule of
//! [`crate::slots`] says. How a member is reached (socket, ICE, DTLS) is [`crate::peer`]'s business.

use proto::id::{PeerId, RouteId, SlotId, StreamId};
use proto::plane::RouteOpen;
use proto::signal::{Kind, PeerInfo, SlotInfo, Source, TrackInfo};
use serde::{Deserialize, Serialize};

use crate::reconcile::Plan;
use crate::slots::{self, Slots, Wish};

/// One room, carried by one worker.
pub(crate) struct Room {
    /// The worker that carries it.
    pub(crate) worker: usize,
    /// In the order of joining.
    members: Vec<Member>,
}

/// A peer as the room sees it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Member {
    /// Its place on the worker.
    pub(crate) peer: PeerId,
    /// Its id as others see it.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// What it publishes.
    pub(crate) tracks: Vec<Track>,
    /// What it receives through.
    pub(crate) slots: Vec<Slot>,
    /// Whether its transport has keys. Before that a route into its slots would only drop packets, and the keyframe
    /// that opens a picture would be spent on nobody.
    pub(crate) is_connected: bool,
    /// Names or ids of those that it wants to receive, the k-th in its k-th audio and video slot. Empty: everybody.
    pub(crate) from: Vec<String>,
}

/// What a peer publishes in one m-section. Names are short in the journal, whose entries have little room.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Track {
    /// Its stream on the worker.
    #[serde(with = "crate::journal::id")]
    pub(crate) stream: StreamId,
    /// The m-section's name in the owner's offer.
    pub(crate) mid: String,
    /// What it shows.
    #[serde(rename = "s", alias = "source")]
    pub(crate) source: Source,
    /// Whether media is being sent.
    #[serde(rename = "a", alias = "is_active")]
    pub(crate) is_active: bool,
    /// Whether an operator keeps it from being passed on. Its owner cannot undo that.
    #[serde(rename = "m", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_muted: bool,
}

/// An m-section through which a peer receives.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Slot {
    /// Its place on the worker.
    #[serde(with = "crate::journal::id")]
    pub(crate) slot: SlotId,
    /// The m-section's name in the receiver's offer.
    pub(crate) mid: String,
    /// Audio or video; one codec each.
    pub(crate) kind: Kind,
    /// The receiver's payload type for the codec.
    pub(crate) pt: u8,
    /// And for its retransmissions, or 0.
    pub(crate) rtx_pt: u8,
    /// What the receiver may report.
    pub(crate) feedback: u8,
    /// What it carries. Not journaled: the worker's routes say it.
    #[serde(skip)]
    pub(crate) carries: Option<StreamId>,
    /// By which route, once the receiver is connected.
    #[serde(skip)]
    pub(crate) route: Option<RouteId>,
}

impl Member {
    /// As others see it.
    pub(crate) fn info(&self) -> PeerInfo {
        let tracks = self.tracks.iter().map(|track| self.track_info(track)).collect();
        PeerInfo { peer: self.id.clone(), name: self.name.clone(), tracks }
    }

    /// One of its tracks as others see it.
    pub(crate) fn track_info(&self, track: &Track) -> TrackInfo {
        TrackInfo {
            track: format!("{}/{}", self.id, track.mid),
            kind: crate::policy::kind_of(track.source),
            source: track.source,
            active: track.is_active && !track.is_muted,
            muted: track.is_muted,
        }
    }

    /// How many tracks of a kind are live.
    pub(crate) fn live(&self, kind: Kind) -> usize {
        self.tracks.iter().filter(|t| t.is_active && crate::policy::kind_of(t.source) == kind).count()
    }

    /// What its slots carry, in the shape of the assignment rule.
    fn carried(&self) -> Slots {
        let of = |kind| self.slots.iter().filter(|slot| slot.kind == kind).map(|slot| slot.carries).collect();
        Slots { audio: of(Kind::Audio), video: of(Kind::Video) }
    }
}

impl Room {
    /// An empty room on a worker.
    pub(crate) fn new(worker: usize) -> Self {
        Self { worker, members: Vec::new() }
    }

    /// Who is in it, in the order of joining.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// One of them.
    pub(crate) fn member(&self, peer: PeerId) -> Option<&Member> {
        self.members.iter().find(|member| member.peer == peer)
    }

    /// One of them, to change.
    pub(crate) fn member_mut(&mut self, peer: PeerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.peer == peer)
    }

    /// Everybody as `peer` sees them.
    pub(crate) fn others(&self, peer: PeerId) -> Vec<PeerInfo> {
        self.members.iter().filter(|member| member.peer != peer).map(Member::info).collect()
    }

    /// Takes a member in.
    pub(crate) fn join(&mut self, member: Member) {
        self.members.push(member);
    }

    /// Lets a member go, with everything that it has on the worker.
    pub(crate) fn leave(&mut self, peer: PeerId, plan: &mut Plan) -> Option<Member> {
        let at = self.members.iter().position(|member| member.peer == peer)?;
        let member = self.members.remove(at);
        for slot in &member.slots {
            if let Some(route) = slot.route {
                plan.unwant_route(route);
            }
            plan.unwant_slot(slot.slot);
        }
        for track in &member.tracks {
            plan.unwant_stream(track.stream);
        }
        plan.unwant_peer(peer);
        Some(member)
    }

    /// Brings every member's slots, and the routes into them, up to date. Returns whose slots carry something else now.
    pub(crate) fn settle(&mut self, plan: &mut Plan) -> Vec<PeerId> {
        let wishes: Vec<Wish> = self.members.iter().flat_map(wishes_of).collect();
        let named: Vec<Vec<Option<PeerId>>> = self.members.iter().map(|member| self.named_by(member)).collect();
        let mut changed = Vec::new();
        for (member, named) in self.members.iter_mut().zip(named) {
            let of_others: Vec<Wish> = wishes.iter().filter(|wish| wish.owner != member.peer).copied().collect();
            let mut assigned = member.carried();
            match named.is_empty() {
                true => slots::assign(&mut assigned, &of_others),
                false => slots::assign_named(&mut assigned, &of_others, &named),
            }
            if assigned != member.carried() {
                changed.push(member.peer);
            }
            let (mut audio, mut video) = (assigned.audio.into_iter(), assigned.video.into_iter());
            for slot in &mut member.slots {
                let carries = match slot.kind {
                    Kind::Audio => audio.next(),
                    Kind::Video => video.next(),
                };
                carry(slot, carries.flatten(), member.is_connected, plan);
            }
        }
        changed
    }

    /// Whom a member means: by id, or else the one of that name who came last, because who comes again after a crash is
    /// there twice until the former's consent ends.
    fn named_by(&self, member: &Member) -> Vec<Option<PeerId>> {
        let find = |wanted: &String| {
            let by_id = self.members.iter().find(|other| other.id == *wanted);
            by_id.or_else(|| self.members.iter().rev().find(|other| other.name == *wanted)).map(|other| other.peer)
        };
        member.from.iter().map(find).collect()
    }

    /// What each slot of `peer` carries.
    pub(crate) fn slot_infos(&self, peer: PeerId) -> Vec<SlotInfo> {
        let slots = self.member(peer).map(|member| member.slots.as_slice()).unwrap_or_default();
        slots.iter().map(|slot| self.slot_info(slot)).collect()
    }

    fn slot_info(&self, slot: &Slot) -> SlotInfo {
        let carried = slot.carries.and_then(|stream| {
            self.members.iter().find_map(|member| {
                let track = member.tracks.iter().find(|track| track.stream == stream)?;
                Some((member, track))
            })
        });
        SlotInfo {
            mid: slot.mid.clone(),
            kind: slot.kind,
            peer: carried.map(|(member, _)| member.id.clone()),
            track: carried.map(|(member, track)| member.track_info(track).track),
            source: carried.map(|(_, track)| track.source),
        }
    }

    /// Takes over a route that is installed, if both of its ends are here and its slot is empty.
    pub(crate) fn adopt_route(&mut self, route: &RouteOpen, plan: &mut Plan) {
        let has_stream = |member: &Member| member.tracks.iter().any(|track| track.stream == route.stream);
        if !self.members.iter().any(has_stream) {
            return;
        }
        let mut slots = self.members.iter_mut().flat_map(|member| &mut member.slots);
        if let Some(slot) = slots.find(|slot| slot.slot == route.slot && slot.route.is_none())
            && plan.adopt_route(route)
        {
            slot.carries = Some(route.stream);
            slot.route = Some(route.route);
        }
    }
}

/// What others may want of a member: everything that no operator has muted.
fn wishes_of(member: &Member) -> impl Iterator<Item = Wish> {
    member.tracks.iter().filter(|track| !track.is_muted).map(|track| Wish {
        owner: member.peer,
        stream: track.stream,
        source: track.source,
        is_active: track.is_active,
    })
}

/// Makes a slot carry a stream, by a route as soon as there is somebody to receive it.
fn carry(slot: &mut Slot, stream: Option<StreamId>, is_connected: bool, plan: &mut Plan) {
    if slot.carries != stream {
        slot.carries = stream;
        if let Some(route) = slot.route.take() {
            plan.unwant_route(route);
        }
    }
    if let (Some(stream), None, true) = (stream, slot.route, is_connected) {
        slot.route = plan.want_route(|route| RouteOpen {
            route,
            stream,
            slot: slot.slot,
            pt: slot.pt,
            rtx_pt: slot.rtx_pt,
            feedback: slot.feedback,
        });
    }
}
