//! What a room allows: how many peers, how much bandwidth each, which slots, and the limits of the engine.
//!
//! Pure numbers and rules, no state: the engine asks them when a peer comes, when a track is switched and when
//! the number of participants changes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proto::plane::{Codec, TRACK_ENCODINGS_MAX};
use proto::signal::{Kind, SlotCount, Source, VideoCodec};
use proto::work::Role;
use serde::{Deserialize, Serialize};

use crate::auth::{Maker, id_of, is_name_char};

/// Settings of the engine. Every table, rate and wait of the engine has its limit here.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Peers that a room admits, 1 to [`PEERS_MAX_CEILING`]. The page lays out eight tiles well, and eight
    /// cameras at the bandwidth below are still legible.
    pub peers_max: u32,
    /// Media of one client, up and down together, bit/s. Two megabits fit a mobile uplink and a shared DSL line.
    pub client_bps_max: u32,
    /// Peers that the admin of a single room may let it admit. A room of 64 stays on one worker by default, and takes an eighth
    /// of what that carries; larger ones take from other rooms, so they are for who governs everything.
    pub room_peers_ceiling: u32,
    /// What the admin of a single room may allow each client, bit/s: five times the default.
    pub room_client_bps_ceiling: u32,
    /// In which codecs rooms have video.
    pub codecs: VideoCodecs,
    /// Voices that are heard at the same time in a room with more than [`MICROPHONES_ALL`] microphones: those of the loudest who speak.
    pub voices_max: u32,
    /// Videos that each peer of a room receives, at most [`VIDEOS_MAX_CEILING`]; 0 for as many as it has slots for. All others have their
    /// voices, and come when they speak.
    pub videos_max: u32,
    /// Rooms of this server. A room costs little; the bound stops a token for `*` from filling memory.
    pub rooms_max: usize,
    /// Peers that one worker carries, at most [`PEERS_PER_WORKER_CEILING`].
    pub peers_per_worker_max: usize,
    /// Peers of one room that a worker carries before the next ones go to another: their media then crosses cores. A
    /// worker that is busy sends them elsewhere before that.
    pub room_peers_per_worker: usize,
    /// Signalling sockets, with and without a peer.
    pub sockets_max: usize,
    /// Tracks that one peer may publish; further sending sections are answered `inactive`.
    pub tracks_max: usize,
    /// Receive slots of one peer; further receiving sections are answered `inactive`.
    pub slots_max: usize,
    /// Addresses of this machine, and under which clients reach each (a one-to-one NAT). Others are told as they are.
    pub announce: Vec<(IpAddr, IpAddr)>,
    /// Addresses at which the HTTP server takes ICE over TCP for every worker (RFC 6544).
    pub ice_tcp: Vec<SocketAddr>,
    /// `stun:host:port` of this edge's STUN server, told to clients in `welcome`.
    pub stun: Option<String>,
    /// How long a socket may stay without an offer or a resumed session.
    pub offer_timeout: Duration,
    /// From the answer until ICE and DTLS are complete. Longer than three lost DTLS flights.
    pub handshake_timeout: Duration,
    /// How long a peer taken over from an earlier controlplane may stay without its socket. A peer of our own
    /// whose socket is lost stays while its ICE consent lives; of an adopted one nobody may have seen the end.
    pub resume_timeout: Duration,
    /// DTLS handshakes under way at the same time. Each holds a few tens of kilobytes until it completes.
    pub half_open_max: usize,
    /// DTLS handshakes begun per second; a burst of one second's worth is allowed. One costs about 0.15 ms of a
    /// core, so this bounds them to a fraction of one. A client that is passed over repeats its hello.
    pub handshakes_per_second: u32,
    /// Data that one peer may send, bit/s on the wire of its data channels, [`DATA_BPS_CEILING`] at most; 0: no data at all. It is of the
    /// controlplane's core, which decrypts and encrypts it for each receiver: 200 Mb/s from one peer to another take all of one.
    pub data_bps_max: u32,
    /// Whether a peer goes when its token has expired. If not, a token is needed only to join, and a peer stays in.
    pub expire_peers: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            peers_max: 8,
            client_bps_max: 2_000_000,
            room_peers_ceiling: 64,
            room_client_bps_ceiling: 10_000_000,
            codecs: VideoCodecs::default(),
            voices_max: 3,
            videos_max: 0,
            rooms_max: 1_000,
            peers_per_worker_max: 512,
            room_peers_per_worker: 64,
            sockets_max: 4_096,
            tracks_max: 6,
            slots_max: SLOTS_CEILING,
            announce: Vec::new(),
            ice_tcp: Vec::new(),
            stun: None,
            offer_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            resume_timeout: Duration::from_secs(60),
            half_open_max: 256,
            handshakes_per_second: 500,
            data_bps_max: 4_000_000,
            expire_peers: false,
        }
    }
}

/// Largest `data_bps_max`.
pub const DATA_BPS_CEILING: u32 = 1_000_000_000;

/// What an operator fixed for one room; what is left out is as the server's [`Settings`] say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoomPolicy {
    /// Peers that the room admits, 1 to [`PEERS_MAX_CEILING`].
    pub peers_max: Option<u32>,
    /// Media of one client, up and down together, bit/s, [`CLIENT_BPS_FLOOR`] to [`CLIENT_BPS_CEILING`].
    pub client_bps_max: Option<u32>,
    /// In which codecs it has video, from when it is next empty.
    pub codecs: Option<VideoCodecs>,
    /// Voices that are heard at the same time where it has more than [`MICROPHONES_ALL`] microphones, 1 to [`VOICES_MAX_CEILING`].
    pub voices_max: Option<u32>,
    /// Videos that each peer receives, at most [`VIDEOS_MAX_CEILING`]; 0 for as many as it has slots for.
    pub videos_max: Option<u32>,
    /// Whether nobody else may come in. Who is in stays, and may resume.
    pub locked: bool,
}

/// The codecs of video of a room, the preferred first: one or two, because a stream has no more on its worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<VideoCodec>", into = "Vec<VideoCodec>")]
pub struct VideoCodecs(VideoCodec, Option<VideoCodec>);

impl VideoCodecs {
    /// Of a list, if it has one or two different ones.
    pub fn new(list: &[VideoCodec]) -> Option<Self> {
        match *list {
            [first] => Some(Self(first, None)),
            [first, second] if first != second => Some(Self(first, Some(second))),
            _ => None,
        }
    }

    /// The preferred one.
    pub fn first(self) -> VideoCodec {
        self.0
    }

    /// Both, or the one.
    pub fn iter(self) -> impl Iterator<Item = VideoCodec> {
        std::iter::once(self.0).chain(self.1)
    }
}

impl Default for VideoCodecs {
    /// What phones and laptops encode in hardware, and for clients that lack it what all have.
    fn default() -> Self {
        Self(VideoCodec::H264, Some(VideoCodec::Vp8))
    }
}

impl TryFrom<Vec<VideoCodec>> for VideoCodecs {
    type Error = &'static str;

    fn try_from(list: Vec<VideoCodec>) -> Result<Self, Self::Error> {
        Self::new(&list).ok_or("codecs are one or two different ones")
    }
}

impl From<VideoCodecs> for Vec<VideoCodec> {
    fn from(codecs: VideoCodecs) -> Self {
        codecs.iter().collect()
    }
}

/// As the worker knows a codec of video.
pub const fn codec_of(video: VideoCodec) -> Codec {
    match video {
        VideoCodec::H264 => Codec::H264,
        VideoCodec::Vp8 => Codec::Vp8,
        VideoCodec::Vp9 => Codec::Vp9,
        VideoCodec::Av1 => Codec::Av1,
    }
}

/// Microphones up to which all of a room are passed on, whoever speaks: that many of 32 kb/s are no burden.
pub const MICROPHONES_ALL: usize = 8;

/// Largest `voices_max`: as many slots of audio as a client is advised to have.
pub const VOICES_MAX_CEILING: u32 = PEERS_SHOWN_MAX - 1;

/// Largest `videos_max`: as many slots of video as a client is advised to have.
pub const VIDEOS_MAX_CEILING: u32 = PEERS_SHOWN_MAX;

/// Smallest `client_bps_max` of a room: a voice and little else.
pub const CLIENT_BPS_FLOOR: u32 = 64_000;

/// Largest `client_bps_max` of a room.
pub const CLIENT_BPS_CEILING: u32 = 100_000_000;

/// Largest `peers_max`: a room lives on one worker, whose streams have at most 1,024 routes.
pub const PEERS_MAX_CEILING: u32 = 1_000;

/// Peers that a client is advised to have slots for: beyond it the slots alone would fill an offer. In a larger room
/// it receives those who send, as long as they are not more.
const PEERS_SHOWN_MAX: u32 = 24;

/// Largest `peers_per_worker_max`.
pub const PEERS_PER_WORKER_CEILING: usize = proto::plane::PEERS_MAX;

/// Streams of one worker, its peers' own and mirrors of others: what its tables hold.
pub const STREAMS_PER_WORKER_CEILING: usize = 32_768;

/// Largest `slots_max`, so that a peer's journal entry always fits its place.
pub const SLOTS_CEILING: usize = 48;

/// SSRCs that the streams of one peer may have in its life, with their retransmissions: a worker remembers a replay
/// window for each. Renegotiation that gives a sender other SSRCs comes to this end; what only pauses does not.
pub const STREAM_SSRCS_MAX: usize = 64;

/// SSRCs that the slots of one peer may have in its life, with their retransmissions: a worker opens each once.
pub const SLOT_SSRCS_MAX: usize = 256;

/// Longest name of a peer, characters. Longer ones are cut: a name is for people to read.
pub const NAME_CHARS_MAX: usize = 64;

/// Peers that a receiver may name instead of receiving everybody.
pub const FROM_MAX: usize = 16;

/// Length of their names together, bytes: they stand in the peer's journal entry.
pub const FROM_LEN_MAX: usize = 512;

/// Longest name of a room, bytes.
pub const ROOM_CHARS_MAX: usize = 64;

/// What a token allows its bearer. Names are short in the journal, whose entries have little room.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Grant {
    /// The room, or `*` for every room.
    pub room: String,
    /// The name that others see.
    pub name: String,
    /// Whether it may send.
    #[serde(rename = "p", alias = "publish", with = "flag")]
    pub publish: bool,
    /// Whether it may receive.
    #[serde(rename = "s", alias = "subscribe", with = "flag")]
    pub subscribe: bool,
    /// Whether it may send data.
    #[serde(rename = "d", alias = "data", default, with = "flag")]
    pub data: bool,
    /// Whether it may use the REST interface.
    #[serde(rename = "a", alias = "admin", with = "flag")]
    pub admin: bool,
    /// What it is, if it is no person's device.
    #[serde(rename = "r", default, with = "role", skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Until when it is good, seconds since 1970. Checked where the token is read; see [`Settings::expire_peers`] for who is
    /// in.
    #[serde(rename = "e", alias = "expires_at")]
    pub expires_at: Option<u64>,
    /// What stands for the name in the token ([`id_of`]), where it is another than the one that others see.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub issued_to: Option<String>,
    /// What stands for the token's identity: by it one token can be revoked, and who comes again is known.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The tokens by which it was made: who came by it goes when one of them is revoked.
    #[serde(rename = "m", default, skip_serializing_if = "<[Maker]>::is_empty")]
    pub made_by: Box<[Maker]>,
}

/// A right as one digit: the journal has little room. An earlier version wrote `true` and `false`.
mod flag {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Word(bool),
        Digit(u8),
    }

    pub(super) fn serialize<S: Serializer>(flag: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8((*flag).into())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        Ok(match Flag::deserialize(deserializer)? {
            Flag::Word(flag) => flag,
            Flag::Digit(digit) => digit != 0,
        })
    }
}

/// A role by its place in [`Role::ALL`]. One that a later version has is none.
mod role {
    use proto::work::Role;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(role: &Option<Role>, serializer: S) -> Result<S::Ok, S::Error> {
        role.and_then(|role| Role::ALL.iter().position(|&other| other == role)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Role>, D::Error> {
        let place: Option<usize> = Option::deserialize(deserializer)?;
        Ok(place.and_then(|place| Role::ALL.get(place).copied()))
    }
}

impl Grant {
    /// Whether it is good for this room.
    pub fn admits(&self, room: &str) -> bool {
        self.room == "*" || self.room == room
    }

    /// Whether somebody of this name is meant by it: the one who is seen, or the one to whom the token was issued.
    pub fn is_of(&self, name: &str) -> bool {
        self.name == name || self.issued_to.as_ref() == Some(&id_of(name))
    }

    /// With a name that can be shown.
    pub fn with_plain_name(self) -> Grant {
        let name = self.name.chars().filter(|&c| is_name_char(c)).take(NAME_CHARS_MAX).collect();
        Grant { name, ..self }
    }
}

/// Share of audio: Opus at this rate is transparent for speech.
const AUDIO_BPS: u32 = 32_000;

/// Bits of the headers of one packet on the wire: IPv4 20 bytes, UDP 8, RTP 12, header extensions 20 (RFC 8285: MID, transport-wide number,
/// send time, and of audio its level), and the tag of SRTP 16.
const PACKET_BITS: u32 = 8 * 76;
/// Packets of audio a second: 20 ms each (RFC 7587 §4.2).
const AUDIO_PACKETS: u32 = 50;
/// Bits of payload in a full packet of video (libwebrtc `kVideoMtu`, less its own headers).
const VIDEO_PACKET_BITS: u32 = 8 * 1_150;
/// Packets of video a second that are not full: the last of each frame is half full in the mean.
const VIDEO_FRAMES: u32 = 30;
/// A part of each share that encoders exceed theirs by for some seconds: measured are 3 % over 5 s.
const OVERSHOOT: u32 = 25;
/// Beside media: transport-wide feedback both ways, ten times a second with 120 bytes each.
const FEEDBACK_BPS: u32 = 2 * 10 * 8 * 120;
/// Reports of one participant's audio and video, each once a second with 140 bytes.
const REPORTS_BPS: u32 = 2 * 8 * 140;

/// What packets with so much payload are on the wire, bit/s.
const fn audio_on_the_wire(bps: u32) -> u32 {
    bps.saturating_add(AUDIO_PACKETS * PACKET_BITS)
}

/// What of so much on the wire is payload of audio, bit/s. Where the room's bandwidth is too small for the headers, half is.
fn audio_payload(wire: u32) -> u32 {
    wire.saturating_sub(AUDIO_PACKETS * PACKET_BITS).max(wire / 2)
}

/// The same of video: a packet for each [`VIDEO_PACKET_BITS`], and half a one more for each frame.
fn video_payload(wire: u32) -> u32 {
    let full = wire.saturating_sub(VIDEO_FRAMES / 2 * PACKET_BITS);
    let payload = u64::from(full) * u64::from(VIDEO_PACKET_BITS) / u64::from(VIDEO_PACKET_BITS + PACKET_BITS);
    (payload as u32).max(wire / 2)
}

/// What one client may send, bit/s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    /// All that it sends, on the wire.
    pub send: u32,
    /// One video track, payload: what an encoder is set to.
    pub video: u32,
    /// One audio track, payload.
    pub audio: u32,
}

/// What a worker lets pass of one peer or one track: a limit for who keeps to nothing, not a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceiling {
    /// Bit/s, with headers.
    pub bps: u32,
    /// Packets a second.
    pub packets: u32,
}

impl Ceiling {
    /// For payloads of so many bit/s: a quarter more for their headers and for encoders that overshoot. A packet for each
    /// 125 bytes of it, and 500 more: frames of audio of 2.5 ms are 400 packets a second (RFC 6716 §2.1.4).
    fn of(bps: u32) -> Ceiling {
        let bps = bps.saturating_add(bps / 4).saturating_add(HEADERS_BPS);
        Ceiling { bps, packets: bps / (8 * 125) + 500 }
    }
}

/// For headers of audio: 100 packets a second (RFC 7587 §7, `minptime` of 10), each with 60 bytes of RTP header, extensions and tag.
const HEADERS_BPS: u32 = 48_000;

/// Highest bit rate of Opus (RFC 7587 §6.1): what may be sent where nothing less was answered.
const OPUS_BPS_MAX: u32 = 510_000;

/// A video track may send so many times its share. When somebody joins, the shares fall at once, and encoders follow within
/// seconds; the pacer of libwebrtc sends a keyframe at 2.5 times the rate (`kDefaultPaceMultiplier`).
const VIDEO_CEILING_FACTOR: u32 = 4;

/// And a part of the whole bandwidth of a client in any case: in a large room the shares are less than an encoder can do.
const VIDEO_CEILING_DIVISOR: u32 = 4;

impl Settings {
    /// The settings with every value inside its bounds.
    pub fn clamped(mut self) -> Self {
        self.peers_max = self.peers_max.clamp(1, PEERS_MAX_CEILING);
        self.peers_per_worker_max = self.peers_per_worker_max.clamp(1, PEERS_PER_WORKER_CEILING);
        self.room_peers_per_worker = self.room_peers_per_worker.max(1);
        self.slots_max = self.slots_max.min(SLOTS_CEILING);
        self.voices_max = self.voices_max.clamp(1, VOICES_MAX_CEILING);
        self.videos_max = self.videos_max.min(VIDEOS_MAX_CEILING);
        self.tracks_max = self.tracks_max.min(TRACKS_CEILING);
        self
    }

    /// The settings of a room with a policy of its own.
    pub fn under(&self, policy: &RoomPolicy) -> Self {
        let client_bps_max = policy.client_bps_max.unwrap_or(self.client_bps_max);
        Self {
            peers_max: policy.peers_max.unwrap_or(self.peers_max),
            client_bps_max: client_bps_max.min(CLIENT_BPS_CEILING),
            codecs: policy.codecs.unwrap_or(self.codecs),
            voices_max: policy.voices_max.unwrap_or(self.voices_max),
            videos_max: policy.videos_max.unwrap_or(self.videos_max),
            ..self.clone()
        }
        .clamped()
    }

    /// Takes over what may change while rooms stand, for those who come from now on. What was told or reserved at the
    /// start stays: our addresses, the STUN server, the sockets, and the workers' capacity (peers, tracks, slots).
    pub fn reload(&mut self, next: Settings) {
        let next = next.clamped();
        *self = Settings {
            stun: self.stun.take(),
            announce: std::mem::take(&mut self.announce),
            ice_tcp: std::mem::take(&mut self.ice_tcp),
            sockets_max: self.sockets_max,
            peers_per_worker_max: self.peers_per_worker_max,
            tracks_max: self.tracks_max,
            slots_max: self.slots_max,
            ..next
        };
    }

    /// Under which address clients reach what is bound to this one. A one-to-one NAT leaves ports as they are.
    pub fn announced(&self, bound: SocketAddr) -> SocketAddr {
        let ip = self.announce.iter().find(|(ip, _)| *ip == bound.ip()).map_or(bound.ip(), |(_, public)| *public);
        SocketAddr::new(ip, bound.port())
    }

    /// Slots that show the whole room, up to 24 peers: a microphone and a camera of everybody else, and one screen.
    pub fn slots(&self) -> SlotCount {
        let shown = self.peers_max.min(PEERS_SHOWN_MAX);
        SlotCount { audio: shown.saturating_sub(1).max(1), video: shown.max(1) }
    }

    /// What each of `participants` may send with that many tracks live. A client sends once and receives from all the
    /// others, so its total, up and down, is as many shares as there are participants. Shares are of the wire: what the packets' headers
    /// and RTCP take is not the encoders'.
    ///
    /// An audio track has what it was answered (`maxaveragebitrate`, RFC 7587), but of more than speech needs not so much that
    /// less than half is left for video.
    pub fn shares(
        &self,
        participants: usize,
        live_audios: usize,
        live_videos: usize,
        audio_answered: Option<u32>,
    ) -> Shares {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        let (participants, audios, videos) = (count(participants), count(live_audios), count(live_videos));
        let send = self.client_bps_max / participants;
        let beside = FEEDBACK_BPS / participants + REPORTS_BPS + send / OVERSHOOT;
        let media = send.saturating_sub(beside).max(send / 2);
        let answered = audio_answered.unwrap_or(AUDIO_BPS);
        let half = (media / 2 / audios).max(audio_on_the_wire(AUDIO_BPS));
        // A quarter is left for video in any case.
        let of_audio = audio_on_the_wire(answered).min(half).min(media / 4 * 3 / audios);
        let video = video_payload((media - of_audio * audios) / videos);
        Shares { send, video, audio: audio_payload(of_audio).min(answered) }
    }

    /// What a worker lets pass of all media of one peer: no client has more than `client_bps_max`, up and down together. A
    /// voice is let pass in any room.
    pub fn peer_ceiling(&self) -> Ceiling {
        Ceiling::of(self.client_bps_max.max(2 * AUDIO_BPS))
    }

    /// And of one track with a share of video, or with what audio was answered.
    pub fn track_ceiling(&self, kind: Kind, shares: Shares, audio_answered: Option<u32>) -> Ceiling {
        let whole = self.client_bps_max.max(2 * AUDIO_BPS);
        Ceiling::of(match kind {
            Kind::Audio => audio_answered.unwrap_or(OPUS_BPS_MAX).max(AUDIO_BPS).min(whole),
            Kind::Video => {
                shares.video.saturating_mul(VIDEO_CEILING_FACTOR).clamp(whole / VIDEO_CEILING_DIVISOR, whole)
            }
        })
    }
}

/// Largest `tracks_max`, for the same reason as [`SLOTS_CEILING`].
pub const TRACKS_CEILING: usize = 8;

/// Tracks of one peer that may come in several encodings: a camera and a screen. Each is as many streams on its worker.
pub const SIMULCAST_TRACKS_MAX: usize = 2;

/// Streams that the tracks of one peer are beyond one each.
pub const FURTHER_STREAMS_MAX: usize = SIMULCAST_TRACKS_MAX * (TRACK_ENCODINGS_MAX - 1);

/// What a section carries when the client does not say.
pub fn default_source(kind: Kind) -> Source {
    match kind {
        Kind::Audio => Source::Microphone,
        Kind::Video => Source::Camera,
    }
}

/// Whether a section of this kind can carry that source.
pub fn kind_of(source: Source) -> Kind {
    match source {
        Source::Microphone | Source::ScreenAudio => Kind::Audio,
        Source::Camera | Source::Screen => Kind::Video,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_send_and_receive_stays_within_the_clients_bandwidth() {
        let settings = Settings::default();
        for participants in 1..=24 {
            for (audios, videos) in [(0, 0), (1, 0), (1, 1), (1, 2), (2, 2)] {
                for answered in [None, Some(6_000), Some(96_000), Some(510_000)] {
                    let shares = settings.shares(participants, audios, videos, answered);
                    assert!(shares.send * participants as u32 <= settings.client_bps_max);
                    assert!(shares.audio * audios as u32 + shares.video * videos as u32 <= shares.send);
                    assert!(shares.audio > 0 && shares.video > 0, "{participants} {shares:?}");
                    let wire_of_video = shares.video / (8 * 1150) * PACKET_BITS + 15 * PACKET_BITS + shares.video;
                    let wire = audios as u32 * audio_on_the_wire(shares.audio) + videos as u32 * wire_of_video;
                    assert!(participants > 8 || wire <= shares.send, "{participants} {shares:?}: {wire}");
                }
            }
        }
        assert_eq!(settings.shares(2, 1, 1, None), Shares { send: 1_000_000, video: 822_296, audio: 32_000 });
        assert_eq!(settings.shares(2, 1, 2, None), Shares { send: 1_000_000, video: 406_871, audio: 32_000 });
        let music = Shares { send: 1_000_000, video: 732_247, audio: 128_000 };
        assert_eq!(settings.shares(2, 1, 1, Some(128_000)), music);
        assert_eq!(settings.shares(8, 1, 1, Some(510_000)), Shares { send: 250_000, video: 101_830, audio: 87_280 });
        assert_eq!(settings.shares(2, 1, 1, Some(20_000)).audio, 20_000);
        assert_eq!(settings.shares(0, 0, 0, None).send, 2_000_000);
    }

    #[test]
    fn a_reload_keeps_what_was_reserved() {
        let announce = vec![("10.0.0.5".parse().unwrap(), "192.0.2.1".parse().unwrap())];
        let mut settings = Settings { stun: Some("stun:192.0.2.1:3478".into()), announce, ..Settings::default() };
        settings.reload(Settings {
            peers_max: 9_999,
            rooms_max: 3,
            slots_max: 1,
            sockets_max: 1,
            ..Settings::default()
        });
        assert_eq!((settings.peers_max, settings.rooms_max), (PEERS_MAX_CEILING, 3));
        assert_eq!((settings.slots_max, settings.sockets_max), (SLOTS_CEILING, 4_096));
        assert!(settings.stun.is_some() && settings.announce.len() == 1);
    }

    #[test]
    fn what_is_bound_behind_a_nat_is_announced() {
        let pair = |bound: &str, public: &str| (bound.parse().unwrap(), public.parse().unwrap());
        let announce = vec![pair("10.0.0.5", "192.0.2.1"), pair("fd00::5", "2001:db8::1")];
        let settings = Settings { announce, ..Settings::default() };
        for (bound, announced) in [
            ("10.0.0.5:40001", "192.0.2.1:40001"),
            ("[fd00::5]:40000", "[2001:db8::1]:40000"),
            ("10.0.0.6:40000", "10.0.0.6:40000"),
        ] {
            assert_eq!(settings.announced(bound.parse().unwrap()), announced.parse::<SocketAddr>().unwrap());
        }
    }

    #[test]
    fn a_track_may_send_more_than_its_share_and_no_more_than_a_client_may() {
        let settings = Settings::default();
        let video =
            |participants| settings.track_ceiling(Kind::Video, settings.shares(participants, 1, 1, None), None).bps;
        assert_eq!([1, 3, 8, 1000].map(video), [2_548_000, 2_548_000, 816_415, 673_000]);
        let shares = settings.shares(3, 1, 1, None);
        let audio = |answered| settings.track_ceiling(Kind::Audio, shares, answered).bps;
        assert_eq!([None, Some(6_000), Some(64_000)].map(audio), [685_500, 88_000, 128_000]);
        assert_eq!(settings.peer_ceiling(), Ceiling { bps: 2_548_000, packets: 3048 });
        let small = Settings { client_bps_max: CLIENT_BPS_FLOOR, ..Settings::default() };
        assert_eq!(small.track_ceiling(Kind::Audio, small.shares(8, 1, 0, None), None), small.peer_ceiling());
        let large = Settings { client_bps_max: u32::MAX, ..Settings::default() };
        assert_eq!(large.peer_ceiling().bps, u32::MAX);
    }

    #[test]
    fn a_room_has_one_codec_or_two() {
        let read = |text: &str| serde_json::from_str::<VideoCodecs>(text).ok();
        assert_eq!(read(r#"["h264","vp8"]"#), Some(VideoCodecs::default()));
        assert_eq!(read(r#"["av1"]"#).map(|codecs| codecs.iter().collect()), Some(vec![VideoCodec::Av1]));
        for bad in ["[]", r#"["vp9","vp9"]"#, r#"["h264","vp8","vp9"]"#, r#"["h265"]"#, "\"vp8\""] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(serde_json::to_string(&VideoCodecs::default()).unwrap(), r#"["h264","vp8"]"#);
    }

    #[test]
    fn the_slots_show_everybody_else_and_a_screen() {
        assert_eq!(Settings::default().slots(), SlotCount { audio: 7, video: 8 });
        let large = Settings { peers_max: 500, ..Settings::default() }.clamped();
        assert_eq!(large.slots(), SlotCount { audio: 23, video: 24 });
        assert!((large.slots().audio + large.slots().video) as usize <= SLOTS_CEILING);
        let alone = Settings { peers_max: 0, ..Settings::default() }.clamped();
        assert_eq!(alone.slots(), SlotCount { audio: 1, video: 1 });
    }
}
