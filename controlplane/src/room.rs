//! A room: who may hear whom.
//!
//! It owns its members with their tracks and slots, and keeps the routes between them as the rule of
//! [`crate::slots`] says. How a member is reached (socket, ICE, DTLS) is [`crate::peer`]'s business.
//!
//! Members may be on several workers; ids say on which ([`SlabId::worker`]). A stream that is received on another worker
//! than it is sent to is handed on there: by a tap where it comes in, and a mirror where it goes out, one pair for each
//! stream and receiving worker, for as long as a slot there carries it.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{PeerId, Pt, RouteId, SlotId, StreamId, TapId};
use proto::plane::{Codec, MirrorOpen, RouteCodec, RouteOpen, StreamCodec, TapOpen};
use proto::signal::{Kind, PeerInfo, SlotInfo, Source, TrackInfo, VideoCodec};
use serde::{Deserialize, Serialize};

use crate::ids::SlabId;
use crate::placement::{Workers, plan_of};
use crate::policy::{SLOTS_CEILING, VideoCodecs, codec_of};
use crate::reconcile::Plan;
use crate::sdp::OpusParams;
use crate::slots::{self, Flow, Slots, Wish};

/// One room.
pub(crate) struct Room {
    /// In the order of joining.
    members: Vec<Member>,
    /// The codecs of video that it uses, from its first member to its last.
    codecs: VideoCodecs,
    /// In which of them its publishers should send.
    video: VideoCodec,
    /// Whether somebody lacks a slot for something, as of the last time that it was settled: then it matters who is silent.
    is_short: bool,
    /// What is handed on between its workers: by receiving worker and stream.
    mirrors: BTreeMap<(usize, StreamId), Mirror>,
}

/// How a stream comes to another worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mirror {
    /// As the receiving worker has it.
    stream: StreamId,
    /// As the sending worker hands it on.
    tap: TapId,
}

/// A codec as one m-section names it. Journaled as three numbers: a peer may have half a hundred of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "(u8, Pt, Pt)", try_from = "(u8, Pt, Pt)")]
pub(crate) struct Format {
    /// Which.
    pub(crate) codec: Codec,
    /// Its payload type.
    pub(crate) pt: Pt,
    /// And for its retransmissions, or 0.
    pub(crate) rtx_pt: Pt,
}

impl From<Format> for (u8, Pt, Pt) {
    fn from(format: Format) -> Self {
        (format.codec as u8, format.pt, format.rtx_pt)
    }
}

impl TryFrom<(u8, Pt, Pt)> for Format {
    type Error = &'static str;

    fn try_from((number, pt, rtx_pt): (u8, Pt, Pt)) -> Result<Self, Self::Error> {
        let videos = VideoCodec::ALL.map(codec_of);
        let codec = videos.into_iter().chain([Codec::Opus]).find(|codec| *codec as u8 == number);
        Ok(Format { codec: codec.ok_or("no codec has this number")?, pt, rtx_pt })
    }
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
    /// Whether its tracks are passed on.
    pub(crate) may_publish: bool,
    /// Whether anything is passed on to it.
    pub(crate) may_subscribe: bool,
    /// What it publishes.
    pub(crate) tracks: Vec<Track>,
    /// What it receives through.
    pub(crate) slots: Vec<Slot>,
    /// What it declares of Opus where it receives; publishers who come are told.
    pub(crate) hears: Option<OpusParams>,
    /// Whether its transport has keys. Before that a route into its slots would only drop packets, and the keyframe
    /// that opens a picture would be spent on nobody.
    pub(crate) is_connected: bool,
    /// Whether it has a signalling socket now.
    pub(crate) has_socket: bool,
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
    /// The codec that it begins in, and one that it can change to.
    pub(crate) formats: Formats,
    /// Whether an operator keeps it from being passed on. Its owner cannot undo that.
    #[serde(rename = "m", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_muted: bool,
    /// Whether its section does not send now: nobody knows of it, and its stream is kept for when it does again.
    #[serde(rename = "p", default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_paused: bool,
    /// Audio only: the `maxaveragebitrate` that it was answered, bit/s.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub(crate) audio_bps: Option<u32>,
}

/// The codecs of one m-section: the one that it was answered with first, and perhaps a second.
pub(crate) type Formats = (Format, Option<Format>);

/// An m-section through which a peer receives. Journaled as a list without names: a peer may have half a hundred.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "SlotEntry", try_from = "SlotEntry")]
pub(crate) struct Slot {
    /// Its place on the worker.
    pub(crate) slot: SlotId,
    /// The m-section's name in the receiver's offer.
    pub(crate) mid: String,
    /// Audio or video.
    pub(crate) kind: Kind,
    /// Its place among the slots of its kind, for as long as it is there: what is beside it is played in lip sync.
    pub(crate) lane: u8,
    /// Whether its section does not receive now: it carries nothing, and keeps its SSRCs and numbers.
    pub(crate) is_shut: bool,
    /// What the receiver can decode.
    pub(crate) formats: Formats,
    /// What the receiver may report.
    pub(crate) feedback: u8,
    /// What it carries. Not journaled: the worker's routes say it.
    pub(crate) carries: Option<StreamId>,
    /// By which route, once the receiver is connected.
    pub(crate) route: Option<RouteId>,
}

/// Index, generation, MID, kind and whether it is shut (two bits), lane, formats, feedback.
type SlotEntry = (u32, u32, String, u8, u8, Formats, u8);

impl From<Slot> for SlotEntry {
    fn from(slot: Slot) -> Self {
        let flags = u8::from(slot.kind == Kind::Video) | u8::from(slot.is_shut) << 1;
        (slot.slot.index, slot.slot.generation, slot.mid, flags, slot.lane, slot.formats, slot.feedback)
    }
}

impl TryFrom<SlotEntry> for Slot {
    type Error = &'static str;

    fn try_from((index, generation, mid, flags, lane, formats, feedback): SlotEntry) -> Result<Self, Self::Error> {
        // The lane of a journal that is not ours must not make us hold thousands of them.
        if flags > 3 || usize::from(lane) >= SLOTS_CEILING {
            return Err("no slot has these flags or this lane");
        }
        Ok(Slot {
            slot: SlotId::new(index, generation),
            mid,
            kind: if flags & 1 == 0 { Kind::Audio } else { Kind::Video },
            lane,
            is_shut: flags & 2 != 0,
            formats,
            feedback,
            carries: None,
            route: None,
        })
    }
}

/// What a section says of a codec.
fn format_of(formats: &Formats, codec: Codec) -> Option<Format> {
    [Some(formats.0), formats.1].into_iter().flatten().find(|format| format.codec == codec)
}

impl Member {
    /// Whether a video slot of it can show a codec; `None` if it has no video slots, or may not use them.
    fn shows(&self, codec: Codec) -> Option<bool> {
        let is_video = |slot: &&Slot| slot.kind == Kind::Video && !slot.is_shut && self.may_subscribe;
        let mut videos = self.slots.iter().filter(is_video).peekable();
        videos.peek()?;
        Some(videos.all(|slot| format_of(&slot.formats, codec).is_some()))
    }

    /// Whether it goes on in this codec of video when it is told nothing: it has it first, or not at all.
    fn keeps_to(&self, video: VideoCodec) -> bool {
        let mut videos = self.published().filter(|track| crate::policy::kind_of(track.source) == Kind::Video);
        let has_first = |track: &Track| track.formats.0.codec == codec_of(video);
        let lacks = |track: &Track| format_of(&track.formats, codec_of(video)).is_none();
        videos.all(|track| has_first(track) || lacks(track))
    }

    /// Whether it publishes video, and so must know in which codec.
    pub(crate) fn has_video(&self) -> bool {
        self.published().any(|track| crate::policy::kind_of(track.source) == Kind::Video)
    }

    /// The tracks that others know of.
    pub(crate) fn published(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().filter(|track| !track.is_paused)
    }

    /// As others see it.
    pub(crate) fn info(&self) -> PeerInfo {
        let tracks = self.published().map(|track| self.track_info(track)).collect();
        PeerInfo { peer: self.id.clone(), name: self.name.clone(), tracks }
    }

    /// One of its tracks as others see it.
    pub(crate) fn track_info(&self, track: &Track) -> TrackInfo {
        TrackInfo {
            track: format!("{}/{}", self.id, track.mid),
            kind: crate::policy::kind_of(track.source),
            source: track.source,
            active: track.is_active && !track.is_muted && self.may_publish,
            muted: track.is_muted,
        }
    }

    /// The sections whose tracks an operator keeps from being passed on.
    pub(crate) fn muted_mids(&self) -> Vec<String> {
        self.published().filter(|track| track.is_muted).map(|track| track.mid.clone()).collect()
    }

    /// Whether it may not be there any more: nothing at all comes from it, or nothing of what it says it sends, and it has
    /// no socket.
    pub(crate) fn is_gone(&self, plan: &Plan) -> bool {
        let mut active = self.published().filter(|track| track.is_active).peekable();
        let is_mute = active.peek().is_some() && active.all(|track| plan.is_stream_silent(track.stream));
        plan.is_peer_silent(self.peer) || (is_mute && !self.has_socket)
    }

    /// How many tracks of a kind are live.
    pub(crate) fn live(&self, kind: Kind) -> usize {
        self.published().filter(|t| t.is_active && crate::policy::kind_of(t.source) == kind).count()
    }

    /// The bit rate that its audio was answered, the highest of several.
    pub(crate) fn audio_answered(&self) -> Option<u32> {
        self.published().filter(|track| track.is_active).filter_map(|track| track.audio_bps).max()
    }

    /// What its slots carry, in the shape of the assignment rule.
    fn carried(&self) -> Slots {
        let mut slots = Slots::default();
        for slot in &self.slots {
            slots.insert(slot.kind, usize::from(slot.lane), slot.carries, slot.is_shut);
        }
        slots
    }
}

impl Room {
    /// An empty room.
    pub(crate) fn new(codecs: VideoCodecs) -> Self {
        Self { members: Vec::new(), codecs, video: codecs.first(), is_short: false, mirrors: BTreeMap::new() }
    }

    /// The workers that carry it, with how many of its members.
    pub(crate) fn workers(&self) -> BTreeMap<usize, usize> {
        let mut workers = BTreeMap::new();
        for member in &self.members {
            *workers.entry(member.peer.worker()).or_default() += 1;
        }
        workers
    }

    /// The codecs of video that it uses.
    pub(crate) fn codecs(&self) -> VideoCodecs {
        self.codecs
    }

    /// Whether a member has to be told in which codec to send video: else it would begin with the first of its answer.
    pub(crate) fn must_be_told(&self, member: &Member) -> bool {
        self.video != self.codecs.first() || !member.keeps_to(self.video)
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

    /// Lets a member go: its streams and slots stand, and nothing is carried into the slots any more.
    pub(crate) fn part(&mut self, peer: PeerId, workers: &mut Workers) -> Option<Member> {
        let at = self.members.iter().position(|member| member.peer == peer)?;
        let mut member = self.members.remove(at);
        for slot in &mut member.slots {
            slot.carries = None;
            slot.close_route(workers);
        }
        Some(member)
    }

    /// Lets a member go, with everything that it has on its worker.
    pub(crate) fn leave(&mut self, peer: PeerId, workers: &mut Workers) -> Option<Member> {
        let member = self.part(peer, workers)?;
        let Some(plan) = plan_of(workers, peer.worker()) else { return Some(member) };
        for slot in &member.slots {
            plan.unwant_slot(slot.slot);
        }
        for track in &member.tracks {
            plan.unwant_stream(track.stream);
        }
        plan.unwant_peer(peer);
        Some(member)
    }

    /// Forgets the members of a worker that is gone, and on the others what came from there or went there.
    pub(crate) fn lose_worker(&mut self, worker: usize, workers: &mut Workers) -> Vec<Member> {
        let (lost, members) = std::mem::take(&mut self.members).into_iter().partition(|m| m.peer.worker() == worker);
        self.members = members;
        for slot in self.members.iter_mut().flat_map(|member| &mut member.slots) {
            if slot.carries.is_some_and(|stream| stream.worker() == worker) {
                slot.carries = None;
                slot.close_route(workers);
            }
        }
        let is_lost = |&(to, stream): &(usize, StreamId)| to == worker || stream.worker() == worker;
        for key in self.mirrors.keys().copied().filter(is_lost).collect::<Vec<_>>() {
            self.close_mirror(key, workers);
        }
        lost
    }

    /// In which codec its publishers should send video.
    pub(crate) fn video(&self) -> VideoCodec {
        self.video
    }

    /// Chooses that codec by who is here now: the one that most of those who receive video can show, the preferred one
    /// where that is equal. So one peer without H.264 moves a room of browsers to VP8, and its leaving moves them back.
    /// Returns whether it is another than before.
    pub(crate) fn choose_video(&mut self) -> bool {
        let can_show = |video| move |member: &&Member| member.shows(codec_of(video)) == Some(true);
        let count = |video| self.members.iter().filter(can_show(video)).count();
        let first = self.codecs.first();
        let video = self.codecs.iter().fold(first, |best, video| if count(video) > count(best) { video } else { best });
        std::mem::replace(&mut self.video, video) != video
    }

    /// Brings every member's slots, and the routes into them, up to date. Returns whose slots carry something else now.
    pub(crate) fn settle(&mut self, workers: &mut Workers) -> Vec<PeerId> {
        let changed = self.assign(workers);
        self.settle_mirrors(workers);
        let tracks = self.members.iter().flat_map(|member| &member.tracks);
        let formats: BTreeMap<StreamId, Formats> = tracks.map(|track| (track.stream, track.formats)).collect();
        let Room { members, mirrors, .. } = self;
        for member in members.iter_mut().filter(|member| member.is_connected) {
            let worker = member.peer.worker();
            let Some(plan) = plan_of(workers, worker) else { continue };
            for slot in member.slots.iter_mut().filter(|slot| slot.route.is_none()) {
                let Some((stream, formats)) = slot.carries.and_then(|stream| Some((stream, formats.get(&stream)?)))
                else {
                    continue;
                };
                let here = if stream.worker() == worker {
                    Some(stream)
                } else {
                    mirrors.get(&(worker, stream)).map(|m| m.stream)
                };
                if let Some(here) = here {
                    open_route(slot, here, formats, plan);
                }
            }
        }
        changed
    }

    /// Applies the rule of the slots, and closes routes that it ends.
    fn assign(&mut self, workers: &mut Workers) -> Vec<PeerId> {
        let plan = |member: &Member| workers.get(&member.peer.worker()).map(|worker| &worker.plan);
        let wishes: Vec<Wish> = self.members.iter().flat_map(|member| wishes_of(member, plan(member))).collect();
        let named: Vec<Vec<Option<PeerId>>> =
            self.members.iter().map(|member| self.named_by(member, workers)).collect();
        self.is_short = false;
        let mut changed = Vec::new();
        for (member, named) in self.members.iter_mut().zip(named) {
            let is_for_it = |wish: &&Wish| wish.owner != member.peer && member.may_subscribe;
            let of_others: Vec<Wish> = wishes.iter().filter(is_for_it).copied().collect();
            let before = member.carried();
            let mut assigned = before.clone();
            match named.is_empty() {
                true => slots::assign(&mut assigned, &of_others),
                false => slots::assign_named(&mut assigned, &of_others, &named),
            }
            self.is_short |= !named.is_empty() || of_others.iter().any(|wish| assigned.lacks(wish));
            if assigned != before {
                changed.push(member.peer);
            }
            for slot in &mut member.slots {
                let carries = assigned.carried_in(slot.kind, usize::from(slot.lane));
                if slot.carries != carries {
                    slot.carries = carries;
                    slot.close_route(workers);
                }
            }
        }
        changed
    }

    /// Opens a mirror of each stream on each other worker that has a receiver for it, and closes those that have none.
    fn settle_mirrors(&mut self, workers: &mut Workers) {
        let mut needed = BTreeSet::new();
        for member in self.members.iter().filter(|member| member.is_connected) {
            let worker = member.peer.worker();
            let streams = member.slots.iter().filter_map(|slot| slot.carries);
            needed.extend(streams.filter(|stream| stream.worker() != worker).map(|stream| (worker, stream)));
        }
        for idle in self.mirrors.keys().filter(|key| !needed.contains(key)).copied().collect::<Vec<_>>() {
            self.close_mirror(idle, workers);
        }
        for member in &self.members {
            for track in &member.tracks {
                let of_track = needed.iter().filter(|(_, stream)| *stream == track.stream);
                for &(to, stream) in of_track.filter(|key| !self.mirrors.contains_key(key)).collect::<Vec<_>>() {
                    if let Some(mirror) = open_mirror(member.peer, track, to, workers) {
                        self.mirrors.insert((to, stream), mirror);
                    }
                }
            }
        }
    }

    fn close_mirror(&mut self, key: (usize, StreamId), workers: &mut Workers) {
        let Some(mirror) = self.mirrors.remove(&key) else { return };
        let (to, stream) = key;
        if let Some(plan) = plan_of(workers, stream.worker()) {
            plan.unwant_tap(mirror.tap);
        }
        if let Some(plan) = plan_of(workers, to) {
            plan.unwant_stream(mirror.stream);
        }
    }

    /// Closes what is left when the last member has gone.
    pub(crate) fn close(mut self, workers: &mut Workers) {
        for key in self.mirrors.keys().copied().collect::<Vec<_>>() {
            self.close_mirror(key, workers);
        }
    }

    /// Whom a member means: by id, or else the one of that name who came last, because who comes again after a crash may be
    /// there twice until the former's consent ends. One that is gone is meant if there is no other.
    fn named_by(&self, member: &Member, workers: &Workers) -> Vec<Option<PeerId>> {
        let is_there =
            |other: &&Member| !workers.get(&other.peer.worker()).is_some_and(|worker| other.is_gone(&worker.plan));
        let find = |wanted: &String| {
            let by_id = self.members.iter().find(|other| other.id == *wanted);
            let by_name = self.members.iter().filter(|other| other.name == *wanted);
            by_id.or_else(|| by_name.max_by_key(is_there)).map(|other| other.peer)
        };
        member.from.iter().map(find).collect()
    }

    /// What those declare of Opus who would receive a publisher of this name and id.
    pub(crate) fn listeners(&self, name: &str, id: &str) -> Vec<OpusParams> {
        let would_hear = |member: &&Member| {
            let is_wanted = member.from.is_empty() || member.from.iter().any(|from| from == name || from == id);
            member.id != id && member.may_subscribe && is_wanted
        };
        self.members.iter().filter(would_hear).filter_map(|member| member.hears).collect()
    }

    /// Whether somebody lacks a slot for something.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short
    }

    /// What each slot of `peer` carries.
    pub(crate) fn slot_infos(&self, peer: PeerId) -> Vec<SlotInfo> {
        let slots = self.member(peer).map(|member| member.slots.as_slice()).unwrap_or_default();
        slots.iter().map(|slot| self.slot_info(slot)).collect()
    }

    /// What one slot carries.
    pub(crate) fn slot_info(&self, slot: &Slot) -> SlotInfo {
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

    /// Takes over a mirror and the tap that feeds it, as they are installed, if the stream is here.
    pub(crate) fn adopt_mirror(&mut self, mirror: &MirrorOpen, tap: &TapOpen, workers: &mut Workers) {
        let key = (mirror.stream.worker(), mirror.origin);
        if !self.has_stream(mirror.origin) || self.mirrors.contains_key(&key) {
            return;
        }
        if !plan_of(workers, key.0).is_some_and(|plan| plan.adopt_mirror(mirror)) {
            return;
        }
        if plan_of(workers, mirror.origin.worker()).is_some_and(|plan| plan.adopt_tap(tap)) {
            self.mirrors.insert(key, Mirror { stream: mirror.stream, tap: tap.tap });
        } else if let Some(plan) = plan_of(workers, key.0) {
            plan.unwant_stream(mirror.stream);
        }
    }

    /// Takes over a route that is installed, if both of its ends are here and its slot is empty.
    pub(crate) fn adopt_route(&mut self, route: &RouteOpen, plan: &mut Plan) {
        let mirrored = self.mirrors.iter().find(|(_, mirror)| mirror.stream == route.stream);
        let stream = mirrored.map_or(route.stream, |(&(_, stream), _)| stream);
        if !self.has_stream(stream) {
            return;
        }
        let mut slots = self.members.iter_mut().flat_map(|member| &mut member.slots);
        if let Some(slot) = slots.find(|slot| slot.slot == route.slot && slot.route.is_none())
            && plan.adopt_route(route)
        {
            slot.carries = Some(stream);
            slot.route = Some(route.route);
        }
    }

    /// Whether a member publishes it.
    pub(crate) fn has_stream(&self, stream: StreamId) -> bool {
        self.members.iter().any(|member| member.tracks.iter().any(|track| track.stream == stream))
    }
}

impl Slot {
    fn close_route(&mut self, workers: &mut Workers) {
        if let (Some(route), Some(plan)) = (self.route.take(), plan_of(workers, self.slot.worker())) {
            plan.unwant_route(route);
        }
    }
}

/// What others may want of a member: everything published that it may publish and no operator has muted.
fn wishes_of(member: &Member, plan: Option<&Plan>) -> impl Iterator<Item = Wish> {
    let is_gone = plan.is_some_and(|plan| member.is_gone(plan));
    member.published().filter(|track| !track.is_muted && member.may_publish).map(move |track| Wish {
        owner: member.peer,
        stream: track.stream,
        source: track.source,
        is_active: track.is_active,
        flow: match plan.is_some_and(|plan| plan.is_stream_silent(track.stream)) {
            _ if is_gone => Flow::Gone,
            // What rests is expected to be silent.
            true if track.is_active => Flow::Silent,
            _ => Flow::Live,
        },
    })
}

/// Has a track of `publisher` handed on to another worker; `None` if a table is full.
fn open_mirror(publisher: PeerId, track: &Track, to: usize, workers: &mut Workers) -> Option<Mirror> {
    let (Format { codec, pt, rtx_pt }, second) = track.formats;
    let (origin, from) = (track.stream, track.stream.worker());
    let worker = u16::try_from(from).ok()?;
    let plan = plan_of(workers, to)?;
    let stream = plan.want_mirror(|stream| MirrorOpen { stream, worker, origin, publisher, pt, rtx_pt, codec })?;
    if let Some(Format { codec, pt, rtx_pt }) = second {
        plan.want(StreamCodec { stream, codec, pt, rtx_pt });
    }
    let worker = u16::try_from(to).ok()?;
    let open = |tap| TapOpen { tap, stream: origin, worker, mirror: stream };
    match plan_of(workers, from).and_then(|plan| plan.want_tap(open)) {
        Some(tap) => Some(Mirror { stream, tap }),
        None => {
            plan_of(workers, to)?.unwant_stream(stream);
            None
        }
    }
}

/// Opens the route into a slot from a stream of the same worker, of these codecs.
fn open_route(slot: &mut Slot, stream: StreamId, (first, second): &Formats, plan: &mut Plan) {
    let received = format_of(&slot.formats, first.codec);
    slot.route = plan.want_route(|route| RouteOpen {
        route,
        stream,
        slot: slot.slot,
        pt: received.map_or(0, |format| format.pt),
        rtx_pt: received.map_or(0, |format| format.rtx_pt),
        feedback: slot.feedback,
    });
    let received = second.and_then(|second| format_of(&slot.formats, second.codec));
    if let (Some(route), Some(Format { codec, pt, rtx_pt })) = (slot.route, received) {
        plan.want(RouteCodec { route, codec, pt, rtx_pt });
    }
}
