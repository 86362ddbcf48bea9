//! JSON messages of the signalling socket (`GET /v1/rooms/{room}/signal`, WebSocket text frames, one object each).
//!
//! The client speaks first: an `offer` makes a peer, `resume` takes one back after the socket was lost. One offer
//! and one answer serve a peer for the whole call; which track is in which slot comes by `slots`. A client that
//! wants other sections, or other ICE credentials, offers again. docs/PROTOCOL.md tells the story.

mod data;

use serde::{Deserialize, Serialize};

use crate::work::Role;

pub use self::data::{DataEndReason, DataReceived, DataSent, MESSAGE_LEN_MAX, PART_LEN_MAX};

/// Client to controlplane.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ClientSignal {
    /// The first one makes this peer. Answered by `answer`, or by `error` and close. A further one changes its sections or
    /// restarts ICE; answered by `answer`, or by `error`, and then nothing has changed.
    Offer {
        /// SDP (RFC 8866) of an RTCPeerConnection, best one whose senders and receive slots all exist.
        sdp: String,
        /// What each sending m-section carries; a section not named is `microphone` or `camera` by its kind, in a
        /// subsequent offer what it was.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tracks: Vec<TrackDescription>,
    },
    /// Take back a peer whose socket was lost. Answered by `welcome` with `resumed: true` and the room's state,
    /// or by `error` with code `unknown_session`: then offer anew.
    Resume {
        /// The session of `welcome`.
        session: String,
    },
    /// A trickled ICE candidate (RFC 8838); an empty `candidate` ends them.
    Candidate(Candidate),
    /// Several of them at once, as they were gathered. A host has as many as it has networks.
    Candidates {
        /// Each as in `candidate`.
        candidates: Vec<Candidate>,
    },
    /// A track was switched on or off by its owner (mute, camera off, screen share).
    Track {
        /// The m-section that carries it.
        mid: String,
        /// Whether media is being sent.
        active: bool,
    },
    /// How this client shows the videos of others. Whole, not a difference: a video that is not named is shown as large as it comes.
    /// It holds until it is said again, also over `resume`.
    Shown {
        /// At most as many as a peer can receive.
        videos: Vec<ShownVideo>,
    },
    /// Another token, for the same room and name, that takes the place of the one the socket was opened with. Answered by
    /// `granted`, or by `error` with code `token_refused`.
    Token {
        /// The token.
        token: String,
    },
    /// A message to others in the room, or a part of one.
    Data(Box<DataSent>),
    /// All reliable messages of somebody for this client have arrived, up to this one.
    DataAck {
        /// Whose. Absent: those of the application's server.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// The number of the last one.
        id: u64,
    },
    /// Keeps the socket alive through proxies; answered by `pong`.
    Ping {},
    /// The peer leaves the room for good.
    Leave {},
}

/// What a sending m-section carries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrackDescription {
    /// The m-section's MID.
    pub mid: String,
    /// What it shows.
    pub source: Source,
    /// Whether media is being sent now; an empty screen sender says false.
    #[serde(default = "yes")]
    pub active: bool,
}

/// How a client shows a video of somebody else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownVideo {
    /// Whose.
    pub peer: String,
    /// `camera` or `screen`.
    pub source: Source,
    /// Shorter side of the picture as it is shown, in device pixels; 0 if it is not shown. Absent: as large as it comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u16>,
    /// Whether the person looks at this one above all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
}

fn yes() -> bool {
    true
}

/// What a track shows; decides who gets a slot first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Audio from a microphone.
    Microphone,
    /// Video from a camera.
    Camera,
    /// A shared screen or window.
    Screen,
    /// Sound of a shared screen.
    ScreenAudio,
}

/// Audio or video.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `m=audio`
    Audio,
    /// `m=video`
    Video,
}

/// `RTCIceCandidateInit` of the WebRTC API.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Candidate {
    /// `candidate:…` (RFC 8839 §5.1), or empty: no more will come. Absent means empty, as in the WebRTC API.
    #[serde(default)]
    pub candidate: String,
    /// MID of the m-section.
    #[serde(rename = "sdpMid", default, skip_serializing_if = "Option::is_none")]
    pub sdp_mid: Option<String>,
    /// Index of the m-section.
    #[serde(rename = "sdpMLineIndex", default, skip_serializing_if = "Option::is_none")]
    pub sdp_m_line_index: Option<u16>,
    /// Which ICE generation it belongs to.
    #[serde(rename = "usernameFragment", default, skip_serializing_if = "Option::is_none")]
    pub username_fragment: Option<String>,
}

/// Controlplane to client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerSignal {
    /// First signal on every socket that was let in, before the client's offer is answered.
    Welcome {
        /// Secret by which `resume` takes this peer back. Never shown to others.
        session: String,
        /// This peer's id in the room.
        peer: String,
        /// The room.
        room: String,
        /// The name in the token.
        name: String,
        /// Whether the token lets it send.
        may_publish: bool,
        /// Whether the token lets it receive.
        may_subscribe: bool,
        /// Whether the token lets it send data.
        may_send_data: bool,
        /// Whether its data channels are served. False after it was resumed at another controlplane than that of its handshake: data
        /// goes over the socket then, until it joins anew.
        data_channels: bool,
        /// Peers that the room admits.
        peers_max: u32,
        /// Receive slots that serve the whole room: what the offer should ask for.
        slots: SlotCount,
        /// `stun:host:port` of this edge, if it serves STUN.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stun: Option<String>,
        /// The codecs of video that the room uses, the preferred first: what the offer should have.
        codecs: Vec<VideoCodec>,
        /// Whether the peer was taken back by `resume`.
        resumed: bool,
        /// The m-sections of this peer whose tracks an operator keeps from being passed on. Only after `resume`: nothing
        /// is muted before a peer has joined, and what changes later is told by `track_changed`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        muted: Vec<String>,
    },
    /// The answer to an offer.
    Answer {
        /// SDP with all candidates of the worker that carries the peer.
        sdp: String,
    },
    /// A candidate of the server; an empty one ends them.
    Candidate(Candidate),
    /// The peers in the room now, without the receiver. Sent after `answer` and after a resumed `welcome`.
    Peers {
        /// Who.
        peers: Vec<PeerInfo>,
    },
    /// A peer came.
    PeerJoined {
        /// Who.
        peer: PeerInfo,
    },
    /// A peer publishes other tracks than before, because it has offered again, or is a look-alike now or not any more.
    PeerChanged {
        /// The peer as it is now, with all its tracks.
        peer: PeerInfo,
    },
    /// A peer left.
    PeerLeft {
        /// Its id.
        peer: String,
        /// Why.
        reason: LeaveReason,
    },
    /// An operator moved the receiver to another room. `peers`, `slots`, `limits` and `codec` follow, whole; the one
    /// offer stands, and the session is good under the address as before.
    Moved {
        /// Where it is now.
        room: String,
        /// Peers that the room admits.
        peers_max: u32,
    },
    /// A track of another peer was switched on or off, or an operator muted or freed a track, also of the receiver.
    TrackChanged {
        /// Whose.
        peer: String,
        /// The track as it is now.
        track: TrackInfo,
    },
    /// How good the connections of some in the room are now, perhaps also of the receiver: only of those for whom it has changed.
    Quality {
        /// Whose.
        peers: Vec<PeerQuality>,
    },
    /// Who speaks now, the loudest first, perhaps the receiver, too. Whole, not a difference; nobody does after `peers` unless this says so.
    Speakers {
        /// Their ids, eight at most.
        peers: Vec<String>,
        /// Who is to be shown first: who was the loudest for a second, or spoke last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dominant: Option<String>,
    },
    /// What each receive slot carries now. Whole, not a difference.
    Slots {
        /// One entry for each slot.
        slots: Vec<SlotInfo>,
    },
    /// What this peer should send at most, by the room's policy and the number of participants.
    Limits {
        /// All media of this peer together, bit/s.
        send_bps_max: u32,
        /// One video track, bit/s.
        video_bps_max: u32,
        /// One audio track, bit/s.
        audio_bps_max: u32,
    },
    /// In which codec this peer should send its video from now on, by `setParameters` and without SDP. A call begins
    /// with H.264; told when the room changes to another codec or back, and after a resumed `welcome`.
    Codec {
        /// The one that everybody in the room can show.
        video: VideoCodec,
    },
    /// Encodings of this peer's tracks that nobody receives: it should not send them; and the rates of those whose receivers have room
    /// for more. Whole, not a difference: an encoding that is not named is to be sent, at the rate that the peer would give it. Told when that changes, and, by a peer with such tracks, after a resumed `welcome` and after
    /// each further `answer`.
    Encodings {
        /// The tracks of which some are paused.
        paused: Vec<PausedEncodings>,
        /// Encodings that may have more than the peer would give them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        rates: Vec<RatedEncoding>,
    },
    /// Whether this peer should send its audio with redundancy (RED, RFC 2198): much of what it sends is lost. Told when that changes, to
    /// peers whose answer has RED, and after a resumed `welcome`. Nothing told is without.
    Redundancy {
        /// Whether.
        audio: bool,
    },
    /// What the peer may do from now on: answer to `token`.
    Granted {
        /// Whether the token lets it send.
        may_publish: bool,
        /// Whether the token lets it receive.
        may_subscribe: bool,
        /// Whether the token lets it send data.
        may_send_data: bool,
        /// Until the token expires, milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_in_ms: Option<u64>,
    },
    /// The token expires soon: send another one. Told a minute before, or at once on a new socket.
    TokenExpiring {
        /// Until then, milliseconds; 0 if it has.
        expires_in_ms: u64,
    },
    /// A message of somebody else, or a part of one.
    Data(DataReceived),
    /// All whom this peer's reliable messages were for, up to this one, have acknowledged them or have left.
    DataAcked {
        /// The number of the last one.
        id: u64,
    },
    /// Reliable messages for this peer were given up. What is sent from now on comes again.
    DataEnded {
        /// Why.
        reason: DataEndReason,
    },
    /// ICE and DTLS of this peer.
    State {
        /// How far it is.
        state: PeerState,
    },
    /// Something the client said could not be done. `fatal`: the socket closes after it.
    Error {
        /// Stable name of the error.
        code: ErrorCode,
        /// One sentence for a developer.
        message: String,
        /// Whether the socket closes.
        fatal: bool,
    },
    /// The server ends this peer; `rejoin` says whether to come back with a new offer.
    Bye {
        /// Why.
        reason: LeaveReason,
        /// Whether a new offer is welcome.
        rejoin: bool,
    },
    /// Answer to `ping`.
    Pong {},
}

/// A codec of video that rooms use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VideoCodec {
    /// H.264, the rule.
    H264,
    /// VP8, by the rule for rooms with somebody who cannot decode H.264.
    Vp8,
    /// VP9, where a room is set to it.
    Vp9,
    /// AV1, where a room is set to it.
    Av1,
}

impl VideoCodec {
    /// All of them.
    pub const ALL: [VideoCodec; 4] = [VideoCodec::H264, VideoCodec::Vp8, VideoCodec::Vp9, VideoCodec::Av1];

    /// As it is written here and in settings.
    pub const fn name(self) -> &'static str {
        match self {
            VideoCodec::H264 => "h264",
            VideoCodec::Vp8 => "vp8",
            VideoCodec::Vp9 => "vp9",
            VideoCodec::Av1 => "av1",
        }
    }
}

/// Encodings of one track that are paused.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PausedEncodings {
    /// The track's m-section in the peer's own offer.
    pub mid: String,
    /// Their RIDs.
    pub rids: Vec<String>,
}

/// An encoding whose receivers have room for more than its sender may give it, but not for the next better one.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct RatedEncoding {
    /// The track's m-section in the peer's own offer.
    pub mid: String,
    /// Its RID.
    pub rid: String,
    /// What all of its receivers have room for, bit/s of payload (`maxBitrate`). Below what the sender would give it of its own it
    /// changes nothing.
    pub bps: u32,
}

/// How many slots of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotCount {
    /// `m=audio` sections.
    pub audio: u32,
    /// `m=video` sections.
    pub video: u32,
}

/// A peer as others see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its id in the room.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Whether somebody else in the room, by another token, has a name that looks the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lookalike: bool,
    /// How good its connection is.
    #[serde(default, skip_serializing_if = "Quality::is_good")]
    pub quality: Quality,
    /// What it is, if it is no person's device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// What it publishes.
    pub tracks: Vec<TrackInfo>,
}

/// How good the connection between a peer and the server is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Nothing to be seen or heard of it, or nothing known yet.
    #[default]
    Good,
    /// Pictures stand still and words are lost, one way or the other.
    Weak,
    /// Nothing comes from the peer.
    Lost,
}

impl Quality {
    fn is_good(&self) -> bool {
        *self == Quality::Good
    }
}

/// How good a peer's connection is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerQuality {
    /// Its id.
    pub peer: String,
    /// As it is now.
    pub quality: Quality,
}

/// A track as others see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrackInfo {
    /// Its id, unique in the room: `{peer}/{mid}`.
    pub track: String,
    /// Audio or video.
    pub kind: Kind,
    /// What it shows.
    pub source: Source,
    /// Whether media is being sent and passed on.
    pub active: bool,
    /// Whether an operator keeps it from being passed on; then it is not active, whatever its owner does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub muted: bool,
}

/// What a slot carries.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotInfo {
    /// The slot's m-section in the receiver's own offer.
    pub mid: String,
    /// Audio or video.
    pub kind: Kind,
    /// Who is in it; absent while it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Which track.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track: Option<String>,
    /// What the track shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// How far a peer's transport is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Answered; nothing arrived yet.
    New,
    /// An address is validated, DTLS is under way.
    Connecting,
    /// Keys are agreed; media flows.
    Connected,
    /// The edge has no dataplane now; media stands until it is back.
    Interrupted,
}

/// Why a peer is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveReason {
    /// It said `leave`.
    Left,
    /// Its consent expired or its socket was not resumed in time.
    TimedOut,
    /// ICE or DTLS did not complete in time, or DTLS failed.
    TransportFailed,
    /// The same session came on a new socket.
    Replaced,
    /// The dataplane that carried it ended.
    MediaRestarted,
    /// The server is stopping.
    ServerStopping,
    /// An operator or the application's server removed it.
    Removed,
    /// An operator or the application's server moved it to another room.
    Moved,
    /// Its token has expired, and this server ends peers then.
    TokenExpired,
}

/// Stable names of what can go wrong on the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a signal of this protocol.
    BadSignal,
    /// A signal larger than 256 KiB, or more than 50 a second besides candidates.
    TooMuch,
    /// `resume` on a socket that has its peer.
    AlreadyJoined,
    /// A signal that needs an offer first.
    NotJoined,
    /// The SDP does not parse.
    BadSdp,
    /// The SDP parses, but nothing in it can be served; the message says what is missing.
    UnsupportedOffer,
    /// The room has `peers_max` peers.
    RoomFull,
    /// An operator has locked the room: nobody else comes in.
    RoomLocked,
    /// The server has its limit of rooms or peers.
    ServerFull,
    /// No dataplane is linked; try again shortly.
    NoDataplane,
    /// The session of `resume` is not known here: offer anew.
    UnknownSession,
    /// What should be a candidate is none.
    BadCandidate,
    /// The MID is no track of this peer.
    UnknownTrack,
    /// The token does not allow it.
    Forbidden,
    /// A message that is not sent: the token does not allow it, the server is set to carry none, or it is not well formed.
    DataRefused,
    /// The token of `token` is no good; the message begins with the code that a request for the socket would be refused with.
    TokenRefused,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_flat_objects_with_a_type() {
        let text = r#"{"type":"offer","sdp":"v=0","tracks":[{"mid":"2","source":"screen","active":false}]}"#;
        let signal: ClientSignal = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&signal).unwrap(), text);
        let text = r#"{"type":"candidate","candidate":"","sdpMid":"0"}"#;
        assert!(
            matches!(serde_json::from_str(text), Ok(ClientSignal::Candidate(c)) if c.sdp_mid.as_deref() == Some("0"))
        );
        let text = serde_json::to_string(&ServerSignal::Error {
            code: ErrorCode::RoomFull,
            message: "full".into(),
            fatal: true,
        })
        .unwrap();
        assert_eq!(text, r#"{"type":"error","code":"room_full","message":"full","fatal":true}"#);
    }

    #[test]
    fn how_videos_are_shown_is_a_list() {
        let text = r#"{"type":"shown","videos":[{"peer":"a","source":"screen"},{"peer":"b","source":"camera","lines":0,"pinned":true}]}"#;
        let signal: ClientSignal = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&signal).unwrap(), text);
    }

    #[test]
    fn what_is_not_a_signal_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"type":"offer"}"#,
            r#"{"type":"fly"}"#,
            r#"{"type":"track","mid":"0","active":1}"#,
            r#"{"type":"shown"}"#,
            r#"{"type":"shown","videos":[{"peer":"a","source":"camera","lines":-1}]}"#,
            r#"{"type":"shown","videos":[{"peer":"a","source":"camera","lines":65536}]}"#,
            r#"{"type":"shown","videos":[{"peer":"a","source":"camera","height":9}]}"#,
        ] {
            assert!(serde_json::from_str::<ClientSignal>(text).is_err(), "{text}");
        }
    }
}
