//! What clients were told, and the signals that are still missing: desired view − told view = signals.
//!
//! The same as [`crate::reconcile`] does for workers. Code that changes something says only that its room or its peer has
//! changed; at the end of an input the engine compares, once, what each client should know with what it was told. A client
//! that resumes was told nothing yet, so the same function tells it everything.
//!
//! The order is fixed: `state`, `moved`, who is in the room (`peers` whole, or `peer_left`, `peer_joined`, `peer_changed`
//! and `track_changed`), `slots`, `limits`, `codec`, `quality`, `encodings`, `redundancy`, `speakers`. Answers to what a client asked are no part of it: the engine sends them
//! at once.
//!
//! **Who is in the room** is the same for all, so it is compared once for a room ([`Roster`]) and not once for each of its
//! clients: a change in a room of N costs N comparisons of small values, and the signals themselves.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use proto::id::{PeerId, StreamId};
use proto::signal::{
    LeaveReason, PausedEncodings, PeerQuality, PeerState, Quality, RatedEncoding, ServerSignal, Source, VideoCodec,
};

use crate::member::{Member, Track};
use crate::policy::{Shares, TRACKS_CEILING};
use crate::room::Room;

/// What one client was told. It begins with the socket and ends with it.
#[derive(Default, Debug)]
pub(crate) struct View {
    /// In which room it is.
    room: Option<Fingerprint>,
    state: Option<PeerState>,
    /// Whether it was told who is in the room; then it knows what the room's [`Roster`] says.
    has_roster: bool,
    /// What its slots carry.
    slots: Option<Fingerprint>,
    limits: Option<Shares>,
    /// In which codec it sends video.
    video: Option<VideoCodec>,
    /// Which of its encodings are paused, and the rates of others. Nothing told is all sent, as its client sees fit.
    encodings: Option<Fingerprint>,
    /// Whether it sends its audio with redundancy.
    is_redundant: Option<bool>,
}

/// What stands for something that was told, so that a client costs a few bytes instead of the texts of its signals.
type Fingerprint = u64;

fn fingerprint(of: impl Hash) -> Fingerprint {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// What a client is told of the encodings of its tracks: those that nobody receives, and those that may have more than it would give
/// them.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct EncodingsWanted {
    /// By track.
    pub(crate) paused: Vec<PausedEncodings>,
    /// … and of all tracks.
    pub(crate) rates: Vec<RatedEncoding>,
}

/// What a client should know of itself and its room.
#[derive(Clone, Copy)]
pub(crate) struct Desired<'a> {
    /// The room's name.
    pub(crate) name: &'a str,
    /// The room.
    pub(crate) room: &'a Room,
    /// Peers that it admits.
    pub(crate) peers_max: u32,
    /// What has changed in it for all.
    pub(crate) changes: &'a [Change],
    /// The client's member.
    pub(crate) member: &'a Member,
    /// How far its transport is.
    pub(crate) state: PeerState,
    /// What it should send at most.
    pub(crate) limits: Shares,
    /// In which codec the room has video.
    pub(crate) video: VideoCodec,
    /// What it is told of its encodings, if a track comes in several.
    pub(crate) encodings: Option<&'a EncodingsWanted>,
    /// Whether it is to send its audio with redundancy, if it can.
    pub(crate) redundant: Option<bool>,
}

impl View {
    /// What is told by `welcome` and the answer to a first offer: the client is in its room, its transport is new, and its
    /// video is in the first codec of the answer.
    pub(crate) fn answered(room: &str, video: Option<VideoCodec>) -> View {
        // All encodings are to be sent as long as nothing else is told.
        let encodings = Some(fingerprint(EncodingsWanted::default()));
        let (room, state) = (Some(fingerprint(room)), Some(PeerState::New));
        View { room, state, video, encodings, is_redundant: Some(false), ..View::default() }
    }

    /// What is told by the `welcome` of a resumed session.
    pub(crate) fn resumed(room: &str) -> View {
        View { room: Some(fingerprint(room)), ..View::default() }
    }

    /// A client that had no video before begins to send it in this codec, by the answer to a subsequent offer.
    pub(crate) fn begins_video(&mut self, video: Option<VideoCodec>) {
        self.video = video;
    }

    /// How far the transport is, if that is news.
    pub(crate) fn update_state(&mut self, state: PeerState) -> Option<ServerSignal> {
        (self.state.replace(state) != Some(state)).then_some(ServerSignal::State { state })
    }

    /// Everything that is missing, in the order that the module's documentation gives. It is told from now on.
    pub(crate) fn update(&mut self, desired: &Desired<'_>, mut tell: impl FnMut(ServerSignal)) {
        if let Some(signal) = self.update_state(desired.state) {
            tell(signal);
        }
        let room = Some(fingerprint(desired.name));
        if self.room != room {
            *self = View { room, state: self.state, is_redundant: self.is_redundant, ..View::default() };
            tell(ServerSignal::Moved { room: desired.name.to_owned(), peers_max: desired.peers_max });
        }
        self.update_roster(desired, &mut tell);
        self.update_slots(desired, &mut tell);
        let Shares { send, video, audio } = desired.limits;
        if self.limits.replace(desired.limits) != Some(desired.limits) {
            tell(ServerSignal::Limits { send_bps_max: send, video_bps_max: video, audio_bps_max: audio });
        }
        let video = desired.member.has_video().then_some(desired.video);
        if let Some(video) = video.filter(|_| self.video != video) {
            tell(ServerSignal::Codec { video });
        }
        self.video = video;
        if let Some(signal) = self.update_encodings(desired.encodings) {
            tell(signal);
        }
        if let Some(signal) = desired.redundant.and_then(|is_redundant| self.update_redundancy(is_redundant)) {
            tell(signal);
        }
    }

    /// Whether it sends its audio with redundancy, if that is news.
    pub(crate) fn update_redundancy(&mut self, is_redundant: bool) -> Option<ServerSignal> {
        let was = self.is_redundant.replace(is_redundant);
        (was != Some(is_redundant)).then_some(ServerSignal::Redundancy { audio: is_redundant })
    }

    /// What it is told of its encodings, if that is news.
    pub(crate) fn update_encodings(&mut self, wanted: Option<&EncodingsWanted>) -> Option<ServerSignal> {
        let wanted = wanted?;
        let now = Some(fingerprint(wanted));
        let EncodingsWanted { paused, rates } = wanted;
        (std::mem::replace(&mut self.encodings, now) != now)
            .then(|| ServerSignal::Encodings { paused: paused.clone(), rates: rates.clone() })
    }

    /// A subsequent offer was answered: what is said of its encodings is told anew.
    pub(crate) fn renegotiated(&mut self) {
        self.encodings = None;
    }

    /// Whether it was told who is in the room.
    pub(crate) fn knows_roster(&self) -> bool {
        self.has_roster
    }

    /// What has changed of who is in the room, for a client of which nothing else has changed.
    pub(crate) fn update_tracks(&mut self, own: PeerId, changes: &[Change], mut tell: impl FnMut(ServerSignal)) {
        for change in changes {
            let signal = if change.peer == own { &change.for_itself } else { &change.for_others };
            signal.iter().cloned().for_each(&mut tell);
        }
    }

    fn update_roster(&mut self, desired: &Desired<'_>, tell: &mut impl FnMut(ServerSignal)) {
        let own = desired.member.peer;
        if !std::mem::replace(&mut self.has_roster, true) {
            tell(ServerSignal::Peers { peers: desired.room.others(own) });
            if let Some(signal) = desired.room.speakers() {
                tell(signal);
            }
            let quality = desired.member.judge.quality(); // Its own is not in the list of the others.
            if quality != Quality::Good {
                tell(ServerSignal::Quality { peers: vec![PeerQuality { peer: desired.member.id.clone(), quality }] });
            }
            return;
        }
        self.update_tracks(own, desired.changes, tell);
    }

    fn update_slots(&mut self, desired: &Desired<'_>, tell: &mut impl FnMut(ServerSignal)) {
        let source = |stream: StreamId| Some((stream, desired.room.track(stream)?.1.source));
        let slots = desired.member.slots.iter();
        let now: Vec<_> = slots.map(|slot| (slot.slot, slot.is_paused, slot.carries.and_then(source))).collect();
        let now = Some(fingerprint(now));
        if self.slots != now {
            self.slots = now;
            tell(ServerSignal::Slots { slots: desired.room.slot_infos(desired.member.peer) });
        }
    }
}

/// What everybody in a room was told of who is in it.
#[derive(Default, Debug)]
pub(crate) struct Roster {
    told: BTreeMap<PeerId, Told>,
    /// Who left since, under which id in the room, and why.
    left: Vec<(PeerId, String, LeaveReason)>,
}

/// What was told of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    /// Which tracks it has, what they show, and whether somebody has a name that looks like its own.
    tracks: Fingerprint,
    /// How they are: [`ToldTrack::BITS`] for each, the first in the lowest ones.
    states: u64,
    /// How good its connection is.
    quality: Quality,
}

/// What was told of how one of its tracks is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ToldTrack {
    /// Whether it is sent and passed on.
    is_active: bool,
    is_muted: bool,
    /// Whether it was kept from the others, whatever its owner sent.
    is_withheld: bool,
}

impl ToldTrack {
    const BITS: usize = 3;

    fn of(member: &Member, track: &Track) -> ToldTrack {
        let is_withheld = member.is_withheld(track);
        ToldTrack { is_active: track.is_active && !is_withheld, is_muted: track.is_muted, is_withheld }
    }

    fn bits(self) -> u64 {
        u64::from(self.is_active) | u64::from(self.is_muted) << 1 | u64::from(self.is_withheld) << 2
    }

    fn from_bits(bits: u64) -> ToldTrack {
        ToldTrack { is_active: bits & 1 != 0, is_muted: bits & 2 != 0, is_withheld: bits & 4 != 0 }
    }
}

const _: () = assert!(TRACKS_CEILING * ToldTrack::BITS <= 64);

/// Something that has changed for all in a room.
#[derive(Debug)]
pub(crate) struct Change {
    /// Whom it is about.
    peer: PeerId,
    for_others: Option<ServerSignal>,
    for_itself: Option<ServerSignal>,
}

impl Roster {
    /// A peer left the room, for this reason.
    pub(crate) fn left(&mut self, peer: PeerId, id: String, reason: LeaveReason) {
        self.left.push((peer, id, reason));
    }

    /// What has changed since the last time: who left, then who came and what else is new of these members, in their order. It
    /// is told from now on.
    pub(crate) fn update<'a>(&mut self, members: impl IntoIterator<Item = &'a Member>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (peer, id, reason) in std::mem::take(&mut self.left) {
            // A peer that came and left within one input was never told of.
            if self.told.remove(&peer).is_some() {
                changes.push(Change::for_others(peer, ServerSignal::PeerLeft { peer: id, reason }));
            }
        }
        for member in members {
            if member.is_away() {
                if self.told.remove(&member.peer).is_some() {
                    let (peer, reason) = (member.id.clone(), LeaveReason::TimedOut);
                    changes.push(Change::for_others(member.peer, ServerSignal::PeerLeft { peer, reason }));
                }
                continue;
            }
            let before = self.told.get(&member.peer).copied();
            // Quality has a signal of its own, if nothing is told that has it anyway.
            let quality = before.filter(|before| before.tracks == Told::of(member).tracks).map(|before| before.quality);
            let now = Told { quality: quality.unwrap_or(member.judge.quality()), ..Told::of(member) };
            self.told.insert(member.peer, now);
            match before {
                None => changes.push(Change::for_others(member.peer, ServerSignal::PeerJoined { peer: member.info() })),
                Some(before) if before == now => {}
                Some(before) if before.tracks != now.tracks => {
                    changes.push(Change::for_others(member.peer, ServerSignal::PeerChanged { peer: member.info() }));
                }
                Some(before) => changes.extend(changed_tracks(member, before)),
            }
        }
        changes
    }
}

/// How many peers one signal with qualities tells of at most, and so each second: 1.5 kB for each client of a large room. The others
/// follow a second later.
const QUALITIES_MAX: usize = 32;

impl Roster {
    /// Whether it was told how good the connection of this member is.
    pub(crate) fn knows_quality_of(&self, member: &Member) -> bool {
        self.told.get(&member.peer).is_none_or(|told| told.quality == member.judge.quality())
    }

    /// Whose connections are better or worse than was told, if there are any. It is told from now on.
    pub(crate) fn update_qualities<'a>(
        &mut self,
        members: impl IntoIterator<Item = &'a Member>,
    ) -> Option<ServerSignal> {
        let changed = members.into_iter().filter_map(|member| {
            let (told, quality) = (self.told.get_mut(&member.peer)?, member.judge.quality());
            let is_news = std::mem::replace(&mut told.quality, quality) != quality;
            is_news.then(|| PeerQuality { peer: member.id.clone(), quality })
        });
        let peers: Vec<PeerQuality> = changed.take(QUALITIES_MAX).collect();
        (!peers.is_empty()).then_some(ServerSignal::Quality { peers })
    }
}

impl Change {
    fn for_others(peer: PeerId, signal: ServerSignal) -> Change {
        Change { peer, for_others: Some(signal), for_itself: None }
    }
}

impl Told {
    fn of(member: &Member) -> Told {
        let tracks: Vec<(&str, Source)> = member.published().map(|track| (track.mid.as_str(), track.source)).collect();
        let states = member.published().take(TRACKS_CEILING).enumerate().map(|(at, track)| {
            let shift = at * ToldTrack::BITS;
            ToldTrack::of(member, track).bits() << shift
        });
        let tracks = fingerprint((tracks, member.is_lookalike));
        Told { tracks, states: states.sum(), quality: member.judge.quality() }
    }

    fn track(self, at: usize) -> ToldTrack {
        ToldTrack::from_bits(self.states >> (at * ToldTrack::BITS))
    }
}

/// What is new of the tracks of a member that has the same ones as before. Their owner knows what it said itself: it is
/// told what an operator or its token has done to them.
fn changed_tracks(member: &Member, before: Told) -> Vec<Change> {
    let changed = member.published().take(TRACKS_CEILING).enumerate().filter_map(|(at, track)| {
        let (before, now) = (before.track(at), ToldTrack::of(member, track));
        let is_news = (before.is_active, before.is_muted) != (now.is_active, now.is_muted);
        let expected = track.is_active && !before.is_withheld;
        let is_news_to_owner = (expected, before.is_muted) != (now.is_active, now.is_muted);
        let signal = ServerSignal::TrackChanged { peer: member.id.clone(), track: member.track_info(track) };
        (is_news || is_news_to_owner).then(|| Change {
            peer: member.peer,
            for_others: is_news.then(|| signal.clone()),
            for_itself: is_news_to_owner.then_some(signal),
        })
    });
    changed.collect()
}
