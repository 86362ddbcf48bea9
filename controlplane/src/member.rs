//! A peer as its room sees it: what it may do, what it publishes, and the slots through which it receives.

use std::hash::{DefaultHasher, Hash, Hasher};

use proto::id::{PeerId, Pt, Rid, SlotId, StreamId};
use proto::plane::Codec;
use proto::signal::{Kind, PeerInfo, ShownVideo, Source, TrackInfo, VideoCodec};
use serde::{Deserialize, Serialize};

use crate::auth::skeleton;
use crate::policy::{Grant, SLOTS_CEILING, codec_of, kind_of};
use crate::quality::{Judge, Redundancy};
use crate::reconcile::Plan;
use crate::sdp::OpusParams;

/// A peer as the room sees it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Member {
    /// Its id on its worker.
    pub(crate) peer: PeerId,
    /// Its id as others see it.
    pub(crate) id: String,
    /// What its token allows, and its name.
    pub(crate) grant: Grant,
    /// What it publishes.
    pub(crate) tracks: Vec<Track>,
    /// What it receives through.
    pub(crate) slots: Vec<Slot>,
    /// What it declares of Opus where it receives; publishers who come are told.
    pub(crate) hears: Option<OpusParams>,
    /// What stands for how its name looks.
    pub(crate) looks: Looks,
    /// Whether somebody else in the room, who came by another token, has a name that looks the same.
    pub(crate) is_lookalike: bool,
    /// How good its connection is.
    pub(crate) judge: Judge,
    /// Whether it is to send its audio with redundancy.
    pub(crate) redundancy: Redundancy,
    /// Names or ids of those that it wants to receive, the k-th in its k-th audio and video slot. Empty: everybody.
    pub(crate) from: Vec<String>,
    /// How it shows the videos of others, as it said last ([`crate::shown`]).
    pub(crate) shown: Vec<ShownVideo>,
    /// Through which other edge it is in the room, if it is so. Then it has no slots here, and its tracks come over a link.
    pub(crate) elsewhere: Option<Box<Elsewhere>>,
}

/// The edge of a member that is in the room through another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Elsewhere {
    /// The name of its node.
    pub(crate) node: String,
    /// What all slots for video of the member can show; `None` if it has none.
    pub(crate) shows: Option<Vec<Codec>>,
    /// Whether it is not shown: nothing comes from it, and nobody says whether it has left.
    pub(crate) is_away: bool,
}

impl Elsewhere {
    /// What all its slots for video can show, as rooms name it.
    pub(crate) fn shown(&self) -> Option<Vec<VideoCodec>> {
        let shows = self.shows.as_ref()?;
        Some(VideoCodec::ALL.into_iter().filter(|&video| shows.contains(&codec_of(video))).collect())
    }
}

/// What stands for how a name looks: names that people take for the same have the same. Compared with each newcomer's, so it is
/// a hash and not a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Looks(u64);

impl Looks {
    /// Of a name.
    pub(crate) fn of(name: &str) -> Looks {
        let mut hasher = DefaultHasher::new();
        skeleton(name).hash(&mut hasher);
        Looks(hasher.finish())
    }
}

/// A codec as one m-section names it. Journaled as three numbers: a peer may have half a hundred of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "(u8, Pt, Pt)", try_from = "(u8, Pt, Pt)")]
pub(crate) struct Format {
    /// Which.
    pub(crate) codec: Codec,
    /// Its payload type.
    pub(crate) pt: Pt,
    /// And for its retransmissions, or 0. `pt` itself where packets are sent again as they are.
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

/// The codecs of one m-section: the one that it was answered with first, and perhaps a second. This is where they are
/// known; what the worker is told of them follows from it ([`crate::wiring`]).
pub(crate) type Formats = (Format, Option<Format>);

/// What a section says of a codec.
pub(crate) fn format_of(formats: &Formats, codec: Codec) -> Option<Format> {
    [Some(formats.0), formats.1].into_iter().flatten().find(|format| format.codec == codec)
}

/// One of several encodings in which a track comes. Journaled as two numbers and its RID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "(u32, u32, String)", try_from = "(u32, u32, String)")]
pub(crate) struct Encoding {
    /// Its stream on the worker.
    pub(crate) stream: StreamId,
    /// Its name in the m-section.
    pub(crate) rid: Rid,
}

impl From<Encoding> for (u32, u32, String) {
    fn from(Encoding { stream, rid }: Encoding) -> Self {
        (stream.index, stream.generation, rid.as_str().to_owned())
    }
}

impl TryFrom<(u32, u32, String)> for Encoding {
    type Error = &'static str;

    fn try_from((index, generation, rid): (u32, u32, String)) -> Result<Self, Self::Error> {
        let rid = Rid::parse(rid.as_bytes()).filter(|rid| !rid.is_empty()).ok_or("no encoding has this id")?;
        Ok(Encoding { stream: StreamId::new(index, generation), rid })
    }
}

/// What a peer publishes in one m-section. Names are short in the journal, whose entries have little room.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Track {
    /// Its stream on the worker, or that of its first encoding, by which it is known.
    #[serde(with = "crate::ids::pair")]
    pub(crate) stream: StreamId,
    /// All encodings in which it comes, in the order of the owner's offer; none if it comes in one.
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) encodings: Vec<Encoding>,
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

impl Track {
    /// Its streams on the worker: one, or one for each encoding.
    pub(crate) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        let only = self.encodings.is_empty().then_some(self.stream);
        only.into_iter().chain(self.encodings.iter().map(|encoding| encoding.stream))
    }

    /// Whether a stream is its, or one of its.
    pub(crate) fn is_of(&self, stream: StreamId) -> bool {
        self.streams().any(|own| own == stream)
    }

    /// Whether nothing comes of it, in whatever encoding.
    pub(crate) fn is_silent(&self, plan: &Plan) -> bool {
        self.streams().all(|stream| plan.is_stream_silent(stream))
    }
}

/// An m-section through which a peer receives. Journaled as a list without names: a peer may have half a hundred.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "SlotEntry", try_from = "SlotEntry")]
pub(crate) struct Slot {
    /// Its id on the worker.
    pub(crate) slot: SlotId,
    /// The m-section's name in the receiver's offer.
    pub(crate) mid: String,
    /// Audio or video.
    pub(crate) kind: Kind,
    /// The number of its media stream in the answer (`msid`): an audio and a video slot of one number are played in lip
    /// sync. It has it for as long as it is there, and no other slot of its kind has.
    pub(crate) sync_group: u8,
    /// Whether its section does not receive now: it carries nothing, and keeps its SSRCs and numbers.
    pub(crate) is_paused: bool,
    /// What the receiver can decode.
    pub(crate) formats: Formats,
    /// Payload type of RED with blocks of the first of them, or 0.
    pub(crate) red_pt: Pt,
    /// What it carries, as [`crate::slots`] assigns it. Not journaled: the worker's routes say it.
    pub(crate) carries: Option<StreamId>,
}

/// Index, generation, MID, kind and whether it is paused (two bits), sync group, formats, and the payload type of RED.
type SlotEntry = (u32, u32, String, u8, u8, Formats, u8);

impl From<Slot> for SlotEntry {
    fn from(slot: Slot) -> Self {
        let flags = u8::from(slot.kind == Kind::Video) | u8::from(slot.is_paused) << 1;
        (slot.slot.index, slot.slot.generation, slot.mid, flags, slot.sync_group, slot.formats, slot.red_pt)
    }
}

impl TryFrom<SlotEntry> for Slot {
    type Error = &'static str;

    fn try_from((index, generation, mid, flags, sync_group, formats, red_pt): SlotEntry) -> Result<Self, Self::Error> {
        // The number of a journal that is not ours must not make us hold thousands of groups.
        if flags > 3 || usize::from(sync_group) >= SLOTS_CEILING || (red_pt != 0 && flags & 1 != 0) || red_pt > 127 {
            return Err("no slot has these flags, this sync group or this RED");
        }
        Ok(Slot {
            slot: SlotId::new(index, generation),
            mid,
            kind: if flags & 1 == 0 { Kind::Audio } else { Kind::Video },
            sync_group,
            is_paused: flags & 2 != 0,
            formats,
            red_pt,
            carries: None,
        })
    }
}

impl Member {
    /// Whether its video slots can show a codec; `None` if it has no video slots, or may not use them.
    pub(crate) fn shows(&self, codec: Codec) -> Option<bool> {
        if let Some(elsewhere) = &self.elsewhere {
            return elsewhere.shows.as_ref().map(|shown| shown.contains(&codec));
        }
        let is_video = |slot: &&Slot| slot.kind == Kind::Video && !slot.is_paused && self.grant.subscribe;
        let mut videos = self.slots.iter().filter(is_video).peekable();
        videos.peek()?;
        Some(videos.all(|slot| format_of(&slot.formats, codec).is_some()))
    }

    /// Whether it goes on in this codec of video when it is told nothing: it has it first, or not at all.
    pub(crate) fn keeps_to(&self, video: VideoCodec) -> bool {
        let mut videos = self.published().filter(|track| kind_of(track.source) == Kind::Video);
        let has_first = |track: &Track| track.formats.0.codec == codec_of(video);
        let lacks = |track: &Track| format_of(&track.formats, codec_of(video)).is_none();
        videos.all(|track| has_first(track) || lacks(track))
    }

    /// Whether it publishes video, and so must know in which codec.
    pub(crate) fn has_video(&self) -> bool {
        self.published().any(|track| kind_of(track.source) == Kind::Video)
    }

    /// The tracks that others know of.
    pub(crate) fn published(&self) -> impl Iterator<Item = &Track> {
        self.tracks.iter().filter(|track| !track.is_paused && !self.is_away())
    }

    /// Whether it is in the room through another edge of which nothing is heard, so that the others are not told of it.
    pub(crate) fn is_away(&self) -> bool {
        self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.is_away)
    }

    /// As others see it.
    pub(crate) fn info(&self) -> PeerInfo {
        let tracks = self.published().map(|track| self.track_info(track)).collect();
        let (peer, name) = (self.id.clone(), self.grant.name.clone());
        let (lookalike, quality) = (self.is_lookalike, self.judge.quality());
        PeerInfo { peer, name, lookalike, quality, role: self.grant.role, tracks }
    }

    /// Whether one of its tracks is kept from the others, whatever it sends.
    pub(crate) fn is_withheld(&self, track: &Track) -> bool {
        track.is_muted || !self.grant.publish
    }

    /// One of its tracks as others see it.
    pub(crate) fn track_info(&self, track: &Track) -> TrackInfo {
        TrackInfo {
            track: format!("{}/{}", self.id, track.mid),
            kind: kind_of(track.source),
            source: track.source,
            active: track.is_active && !self.is_withheld(track),
            muted: track.is_muted,
        }
    }

    /// The sections whose tracks an operator keeps from being passed on.
    pub(crate) fn muted_mids(&self) -> Vec<String> {
        self.published().filter(|track| track.is_muted).map(|track| track.mid.clone()).collect()
    }

    /// How many tracks of a kind are live.
    pub(crate) fn live(&self, kind: Kind) -> usize {
        self.published().filter(|t| t.is_active && kind_of(t.source) == kind).count()
    }

    /// The bit rate that its audio was answered, the highest of several.
    pub(crate) fn audio_answered(&self) -> Option<u32> {
        self.published().filter(|track| track.is_active).filter_map(|track| track.audio_bps).max()
    }
}
