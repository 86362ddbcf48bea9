//! What edges say to each other, as JSON. A message is input: what is too long or out of bounds is refused whole.

use proto::id::{Rid, Ssrc};
use proto::plane::{Codec, PEER_CANDIDATES_MAX, TRACK_ENCODINGS_MAX};
use proto::signal::{DataReceived, LeaveReason, Quality, Source, VideoCodec};
use proto::work::Role;
use serde::{Deserialize, Serialize};

use crate::data::{Channel, TO_MAX};
use crate::member::{Member, Track};
use crate::policy::{NAME_CHARS_MAX, ROOM_CHARS_MAX, SIMULCAST_TRACKS_MAX, TRACKS_CEILING, codec_of, kind_of};
use crate::sdp::OpusParams;

/// People that one message tells of at most: each has less than 2 KiB.
pub(crate) const PEOPLE_MAX: usize = 24;

/// Longest id of a peer, and of a track within it.
const ID_LEN_MAX: usize = 32;
const MID_LEN_MAX: usize = 16;

/// Streams of one publisher.
pub(crate) const STREAMS_MAX: usize = TRACKS_CEILING + SIMULCAST_TRACKS_MAX * (TRACK_ENCODINGS_MAX - 1);

/// Measurements that one message tells of.
pub(crate) const LEGS_MAX: usize = 64;

/// Bits of a flow's number.
pub(crate) const FLOW_BITS: u32 = 56;

/// What is said to all edges that listen to a room.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum Saying {
    /// Who is in it through the edge that says it.
    Here(Here),
    /// Say it whole: the edge that asks does not know it.
    Who {},
}

/// Who is in a room through an edge: what has changed, or all of it in one message or several.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Here {
    /// One more than that of the message before.
    pub(crate) seq: u64,
    /// Whether this begins to say all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) begins: bool,
    /// Whether all is said with this: who was not told since it began is not there any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ends: bool,
    /// Who is there, as they are now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) people: Vec<Person>,
    /// Who is not any more, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) left: Vec<(String, LeaveReason)>,
}

/// Somebody who is in a room through another edge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Person {
    /// Id as others see it.
    pub(crate) id: String,
    /// Name as others see it.
    pub(crate) name: String,
    /// What stands for the token, so that one person in several windows is not taken for several with one name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// On which worker of that edge.
    pub(crate) worker: u16,
    /// Whether others may receive what it sends.
    pub(crate) publish: bool,
    /// What all its slots for video can show; nothing if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shows: Option<Vec<VideoCodec>>,
    /// What it declares of Opus, if it receives whoever there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hears: Option<OpusParams>,
    /// What it is, if it is no person's device. One that is not known here is none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_role")]
    pub(crate) role: Option<Role>,
    /// How good its connection is.
    pub(crate) quality: Quality,
    /// What it publishes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tracks: Vec<TrackSaid>,
}

/// A track of somebody who is in a room through another edge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TrackSaid {
    /// Its name there.
    pub(crate) mid: String,
    /// What it shows.
    pub(crate) source: Source,
    /// Whether media is being sent.
    pub(crate) active: bool,
    /// Whether an operator keeps it from being passed on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) muted: bool,
    /// The codecs of video that it may be in, the first and perhaps a second; none of audio, which is Opus.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) codecs: Vec<VideoCodec>,
    /// Its encodings by RID, if it comes in several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rids: Vec<String>,
}

/// What one edge tells another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "tell", rename_all = "snake_case")]
pub(crate) enum Telling {
    /// How the link between two workers is reached at this end.
    Link(LinkSaid),
    /// What this edge wants of a publisher at the other.
    Want(Box<Want>),
    /// It wants nothing of it any more.
    Unwant {
        /// The room.
        room: String,
        /// The publisher's id in it.
        peer: String,
    },
    /// Something is wanted under keys that this edge cannot have: it is to be wanted anew.
    Anew {
        /// The room.
        room: String,
        /// The publisher's id in it.
        peer: String,
        /// Context of the keys.
        context: String,
    },
    /// What this edge has measured to others.
    Legs {
        /// By node.
        legs: Vec<LegSaid>,
    },
    /// By which ways a link is reached at the end that is told it.
    Ways(WaysSaid),
    /// What the edge that is told it is to pass on.
    Relay(RelaySaid),
    /// Say that you are there: nothing comes over any path.
    Ping {},
    /// This edge is there.
    Pong {},
    /// So many members of a room shall have seats at the edge that asks.
    Seat {
        /// The room.
        room: String,
        /// All of them, those who are in, too.
        count: u32,
    },
    /// So many have.
    Seats {
        /// The room.
        room: String,
        /// All of them.
        count: u32,
        /// What all who receive there declare of Opus together: an edge to which its first one comes does not know them yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hears: Option<OpusParams>,
    },
    /// The edge that was asked does not own the admission to a room.
    NotOwner {
        /// The room.
        room: String,
    },
    /// A message of somebody at the edge that says it, or a part of one.
    Data(Box<DataSaid>),
    /// All people of the edge that says it have the messages of a peer up to one.
    DataAcked {
        /// The room.
        room: String,
        /// Who sent them; nothing: the application's server.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// The number of the last one.
        id: u64,
    },
    /// Say whole who is in a room.
    Who {
        /// Its name.
        room: String,
    },
}

/// A message for people at another edge, or a part of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DataSaid {
    /// The room.
    pub(crate) room: String,
    /// For whom it is; nothing: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Vec<String>>,
    /// Whether it is text, in UTF-8.
    pub(crate) is_text: bool,
    /// The channel by which clients of another kind than the client module get it.
    pub(crate) channel: Channel,
    /// Its stream, if it was negotiated.
    pub(crate) stream: u16,
    /// The rest, as bytes.
    pub(crate) part: DataReceived,
}

/// One end of a link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LinkSaid {
    /// The worker at the end that says it.
    pub(crate) ours: u16,
    /// The worker at the other end.
    pub(crate) theirs: u16,
    /// ICE credentials of the end that says it.
    pub(crate) ufrag: String,
    /// As above.
    pub(crate) pwd: String,
    /// Whether the other end shall say the same of itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) asks: bool,
}

/// What was measured to another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LegSaid {
    /// Its name.
    pub(crate) node: String,
    /// Round trip, microseconds.
    pub(crate) rtt_us: u32,
    /// Mean difference of round trips, microseconds.
    pub(crate) jitter_us: u32,
    /// Share lost, in a million.
    pub(crate) loss_ppm: u32,
}

/// The ways of a link, in the order in which they are preferred.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WaysSaid {
    /// The worker at the end that says it.
    pub(crate) ours: u16,
    /// The worker at the other end.
    pub(crate) theirs: u16,
    /// The ways.
    pub(crate) ways: Vec<WaySaid>,
}

/// One way: directly, or through a third edge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WaySaid {
    /// The third edge, if there is one, and its worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) through: Option<(String, u16)>,
    /// In which flow the end that is told it sends, and receives; 0 without a third edge.
    #[serde(default)]
    pub(crate) flows: (u64, u64),
}

/// What a third edge is to pass on between the edge that says it and another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RelaySaid {
    /// The worker that passes it on.
    pub(crate) worker: u16,
    /// The worker at the edge that says it.
    pub(crate) ours: u16,
    /// The other edge, and its worker.
    pub(crate) other: (String, u16),
    /// In which flow the edge that says it sends, and receives.
    pub(crate) sends: u64,
    /// As above.
    pub(crate) receives: u64,
    /// In which flow the other edge sends, and receives.
    pub(crate) other_sends: u64,
    /// As above.
    pub(crate) other_receives: u64,
}

/// What an edge wants of a publisher at another. Each takes the place of the one before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Want {
    /// The room.
    pub(crate) room: String,
    /// The publisher's id in it.
    pub(crate) peer: String,
    /// The worker of the edge that wants it.
    pub(crate) ours: u16,
    /// The worker of the edge that has it.
    pub(crate) theirs: u16,
    /// The name of the DTLS connection that gives the keys, hexadecimal.
    pub(crate) connection: String,
    /// Context of their export, 16 bytes in hexadecimal. Another one is another transport.
    pub(crate) context: String,
    /// Flow of what the edge that wants it is sent.
    pub(crate) flow: u64,
    /// Flow of what it sends back: reports and requests.
    pub(crate) back: u64,
    /// The streams.
    pub(crate) streams: Vec<WantedStream>,
}

/// A stream of a publisher.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct WantedStream {
    /// Its track.
    pub(crate) mid: String,
    /// Its encoding, if the track comes in several.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) rid: String,
    /// The SSRC under which it is to come.
    pub(crate) ssrc: Ssrc,
    /// That of its RTX, or 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) rtx_ssrc: Ssrc,
    /// Whether it is wanted now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) on: bool,
}

fn is_zero(ssrc: &Ssrc) -> bool {
    *ssrc == 0
}

impl Saying {
    /// As it is sent.
    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a message has only strings, numbers and lists")
    }

    /// Reads one; `None` if it is none, or out of bounds.
    pub(crate) fn read(bytes: &[u8]) -> Option<Saying> {
        let saying: Saying = serde_json::from_slice(bytes).ok()?;
        match &saying {
            Saying::Who {} => Some(saying),
            Saying::Here(here) => here.is_valid().then_some(saying),
        }
    }
}

impl Telling {
    /// As it is sent.
    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a message has only strings, numbers and lists")
    }

    /// Reads one; `None` if it is none, or out of bounds.
    pub(crate) fn read(bytes: &[u8]) -> Option<Telling> {
        let telling: Telling = serde_json::from_slice(bytes).ok()?;
        let is_valid = match &telling {
            Telling::Link(link) => [&link.ufrag, &link.pwd].iter().all(|text| (4..=256).contains(&text.len())),
            Telling::Want(want) => want.is_valid(),
            Telling::Ping {} | Telling::Pong {} => true,
            Telling::Legs { legs } => legs.len() <= LEGS_MAX,
            Telling::Ways(said) => said.is_valid(),
            Telling::Relay(said) => {
                let flows = [said.sends, said.receives, said.other_sends, said.other_receives];
                flows.into_iter().all(is_flow) && said.sends != said.other_sends && said.receives != said.other_receives
            }
            Telling::Unwant { room, peer } => is_room(room) && is_id(peer),
            Telling::Anew { room, peer, context } => is_room(room) && is_id(peer) && context.len() <= 32,
            Telling::Data(said) => {
                let is_to = said.to.as_ref().is_none_or(|to| to.len() <= TO_MAX && to.iter().all(|id| is_id(id)));
                is_room(&said.room) && is_to && said.part.from.as_deref().is_none_or(is_id) && said.channel.is_valid()
            }
            Telling::DataAcked { room, peer, .. } => is_room(room) && peer.as_deref().is_none_or(is_id),
            Telling::Who { room }
            | Telling::Seat { room, .. }
            | Telling::Seats { room, .. }
            | Telling::NotOwner { room } => is_room(room),
        };
        is_valid.then_some(telling)
    }
}

fn is_room(room: &str) -> bool {
    (1..=ROOM_CHARS_MAX).contains(&room.len())
}

fn is_id(id: &str) -> bool {
    (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

impl Here {
    fn is_valid(&self) -> bool {
        self.people.len() <= PEOPLE_MAX
            && self.left.len() <= PEOPLE_MAX
            && self.people.iter().all(Person::is_valid)
            && self.left.iter().all(|(id, _)| is_id(id))
    }
}

fn known_role<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Role>, D::Error> {
    let name: Option<String> = Option::deserialize(deserializer)?;
    Ok(name.and_then(|name| Role::named(&name)))
}

impl Person {
    /// A member of a room as other edges are told of it.
    pub(crate) fn of(member: &Member, worker: usize) -> Person {
        let can_show = |video: &VideoCodec| member.shows(codec_of(*video)) == Some(true);
        let has_slots = member.shows(Codec::H264).is_some();
        Person {
            id: member.id.clone(),
            name: member.grant.name.clone(),
            token: member.grant.token.clone(),
            worker: u16::try_from(worker).unwrap_or(u16::MAX),
            publish: member.grant.publish,
            shows: has_slots.then(|| VideoCodec::ALL.iter().copied().filter(can_show).collect()),
            hears: member.hears.filter(|_| member.grant.subscribe && member.from.is_empty()),
            role: member.grant.role,
            quality: member.judge.quality(),
            tracks: member.published().map(TrackSaid::of).collect(),
        }
    }

    fn is_valid(&self) -> bool {
        let is_hex = |token: &String| token.len() <= 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit());
        let in_several = self.tracks.iter().filter(|track| !track.rids.is_empty()).count();
        is_id(&self.id)
            && self.name.chars().count() <= NAME_CHARS_MAX
            && self.token.as_ref().is_none_or(is_hex)
            && self.shows.as_ref().is_none_or(|shows| shows.len() <= VideoCodec::ALL.len())
            && self.tracks.len() <= TRACKS_CEILING
            && in_several <= SIMULCAST_TRACKS_MAX
            && self.tracks.iter().all(TrackSaid::is_valid)
            && self.tracks.iter().enumerate().all(|(n, t)| self.tracks[..n].iter().all(|other| other.mid != t.mid))
    }
}

impl TrackSaid {
    fn of(track: &Track) -> TrackSaid {
        let formats = [Some(track.formats.0), track.formats.1].into_iter().flatten();
        let video = |codec: Codec| VideoCodec::ALL.into_iter().find(|&video| codec_of(video) == codec);
        TrackSaid {
            mid: track.mid.clone(),
            source: track.source,
            active: track.is_active,
            muted: track.is_muted,
            codecs: formats.filter_map(|format| video(format.codec)).collect(),
            rids: track.encodings.iter().map(|encoding| encoding.rid.as_str().to_owned()).collect(),
        }
    }

    /// Its encodings, if it comes in several.
    pub(crate) fn encodings(&self) -> impl Iterator<Item = Rid> + '_ {
        self.rids.iter().filter_map(|rid| Rid::parse(rid.as_bytes()))
    }

    fn is_valid(&self) -> bool {
        let is_video = kind_of(self.source) == proto::signal::Kind::Video;
        let is_rid = |rid: &String| Rid::parse(rid.as_bytes()).is_some_and(|rid| !rid.is_empty());
        let codecs = if is_video { 1..=2 } else { 0..=0 };
        (1..=MID_LEN_MAX).contains(&self.mid.len())
            && codecs.contains(&self.codecs.len())
            && (self.codecs.len() < 2 || self.codecs[0] != self.codecs[1])
            && self.rids.len() != 1
            && self.rids.len() <= if is_video { TRACK_ENCODINGS_MAX } else { 0 }
            && self.rids.iter().all(is_rid)
            && self.rids.iter().enumerate().all(|(n, rid)| !self.rids[..n].contains(rid))
    }
}

fn is_flow(flow: u64) -> bool {
    (1..1 << FLOW_BITS).contains(&flow)
}

impl WaysSaid {
    fn is_valid(&self) -> bool {
        let is_way = |way: &WaySaid| match way.through {
            None => way.flows == (0, 0),
            Some(_) => is_flow(way.flows.0) && is_flow(way.flows.1),
        };
        (1..=PEER_CANDIDATES_MAX).contains(&self.ways.len()) && self.ways.iter().all(is_way)
    }
}

impl Want {
    fn is_valid(&self) -> bool {
        let is_hex = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let ssrcs = self.streams.iter().flat_map(|stream| [stream.ssrc, stream.rtx_ssrc]).filter(|ssrc| *ssrc != 0);
        let ssrcs: Vec<Ssrc> = ssrcs.collect();
        is_room(&self.room)
            && is_id(&self.peer)
            && is_flow(self.flow)
            && is_flow(self.back)
            && is_hex(&self.connection)
            && is_hex(&self.context)
            && self.streams.len() <= STREAMS_MAX
            && self.streams.iter().all(|stream| stream.ssrc != 0 && stream.mid.len() <= MID_LEN_MAX)
            && self.streams.iter().all(|stream| Rid::parse(stream.rid.as_bytes()).is_some())
            && ssrcs.iter().enumerate().all(|(n, ssrc)| !ssrcs[..n].contains(ssrc))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn person(id: &str) -> Person {
        let track = |mid: &str, source, codecs: &[VideoCodec], rids: &[&str]| TrackSaid {
            mid: mid.into(),
            source,
            active: true,
            muted: false,
            codecs: codecs.into(),
            rids: rids.iter().map(|&rid| rid.into()).collect(),
        };
        Person {
            id: id.into(),
            name: "Ada".into(),
            token: Some("f".repeat(16)),
            worker: 0,
            publish: true,
            shows: Some(vec![VideoCodec::H264]),
            hears: None,
            role: None,
            quality: Quality::Good,
            tracks: vec![
                track("0", Source::Microphone, &[], &[]),
                track("1", Source::Camera, &[VideoCodec::H264, VideoCodec::Vp8], &["q", "h", "f"]),
            ],
        }
    }

    pub(crate) fn want() -> Want {
        let stream = |mid: &str, rid: &str, ssrc| WantedStream {
            mid: mid.into(),
            rid: rid.into(),
            ssrc,
            rtx_ssrc: if rid.is_empty() { 0 } else { ssrc + 1 },
            on: true,
        };
        Want {
            room: "demo".into(),
            peer: "abc123".into(),
            ours: 0,
            theirs: 1,
            connection: "0".repeat(32),
            context: "f".repeat(32),
            flow: 1,
            back: (1 << FLOW_BITS) - 1,
            streams: vec![stream("0", "", 1), stream("1", "q", 2), stream("1", "h", 4)],
        }
    }

    #[test]
    fn what_is_said_comes_back() {
        let here = Here { seq: 7, begins: true, ends: true, people: vec![person("a")], ..Here::default() };
        for saying in [Saying::Who {}, Saying::Here(here)] {
            assert_eq!(Saying::read(&saying.write()), Some(saying));
        }
        let link = LinkSaid { ours: 0, theirs: 3, ufrag: "AAbbccdd".into(), pwd: "p".repeat(24), asks: true };
        let tellings = [
            Telling::Link(link),
            Telling::Want(want().into()),
            Telling::Unwant { room: "demo".into(), peer: "abc".into() },
            Telling::Who { room: "demo".into() },
        ];
        for telling in tellings {
            assert_eq!(Telling::read(&telling.write()), Some(telling));
        }
    }

    #[test]
    fn the_longest_message_is_within_what_the_cluster_carries() {
        let track = TrackSaid {
            mid: "m".repeat(MID_LEN_MAX),
            source: Source::ScreenAudio,
            active: false,
            muted: true,
            codecs: vec![VideoCodec::H264; 2],
            rids: vec!["r".repeat(16); TRACK_ENCODINGS_MAX],
        };
        let largest = Person {
            name: "\u{1f600}".repeat(NAME_CHARS_MAX),
            id: "i".repeat(ID_LEN_MAX),
            token: Some("f".repeat(64)),
            shows: Some(VideoCodec::ALL.into()),
            hears: Some(OpusParams {
                stereo: true,
                maxaveragebitrate: Some(500_000),
                maxplaybackrate: Some(47_000),
                minptime: Some(120),
                ptime: Some(120),
                maxptime: Some(120),
                ..OpusParams::default()
            }),
            role: Some(Role::Telephone),
            tracks: vec![track; TRACKS_CEILING],
            ..person("a")
        };
        let left = ("i".repeat(ID_LEN_MAX), LeaveReason::TransportFailed);
        let here = Here {
            seq: u64::MAX,
            begins: true,
            ends: true,
            people: vec![largest; PEOPLE_MAX],
            left: vec![left; PEOPLE_MAX],
        };
        let len = Saying::Here(here).write().len();
        assert!(len <= 60 * 1024, "{len}");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let said = |change: fn(&mut Person)| {
            let mut person = person("a");
            change(&mut person);
            Saying::read(&Saying::Here(Here { people: vec![person], ..Here::default() }).write())
        };
        assert!(said(|_| {}).is_some());
        assert_eq!(said(|person| person.id = String::new()), None);
        assert_eq!(said(|person| person.id = "a b".into()), None);
        assert_eq!(said(|person| person.name = "x".repeat(NAME_CHARS_MAX + 1)), None);
        assert_eq!(said(|person| person.tracks[1].codecs.clear()), None);
        assert_eq!(said(|person| person.tracks[0].codecs = vec![VideoCodec::H264]), None);
        assert_eq!(said(|person| person.tracks[1].rids = vec!["q".into(), "q".into()]), None);
        assert_eq!(said(|person| person.tracks[1].mid = "0".into()), None);
        let wanted = |change: fn(&mut Want)| {
            let mut want = want();
            change(&mut want);
            Telling::read(&Telling::Want(want.into()).write())
        };
        assert!(wanted(|_| {}).is_some());
        assert_eq!(wanted(|want| want.flow = 0), None);
        assert_eq!(wanted(|want| want.back = 1 << FLOW_BITS), None);
        assert_eq!(wanted(|want| want.streams[0].ssrc = 3), None, "it is the RTX of another");
        assert_eq!(wanted(|want| want.context = "xyz".into()), None);
        assert_eq!(wanted(|want| want.room = "r".repeat(ROOM_CHARS_MAX + 1)), None);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes: Vec<u8>, at in 0usize..400, byte in any::<u8>()) {
            let _ = (Saying::read(&bytes), Telling::read(&bytes));
            let mut bytes = Telling::Want(want().into()).write();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = Telling::read(&bytes);
        }
    }
}
