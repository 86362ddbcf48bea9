//! One peer of a room on tokio, whole: for a process that joins rooms as any other peer does, through the public doors.
//!
//! ```text
//! Room::join ─▶ next ─▶ Joined, Peers, Slots, Packet … ─▶ Ended
//!            send_audio, send_video, request_keyframe, leave
//! ```
//! A task carries it: consent, reports, congestion feedback, lost packets. When the signalling socket is lost (the controlplane was
//! replaced) it resumes on another one and media goes on meanwhile; when the peer is gone it joins anew, which the user sees as another
//! [`Event::Joined`]. All queues are bounded, and a user who reads too slowly loses packets, which are counted.

mod drive;
mod join;
mod resume;
mod slot;
mod track;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proto::signal::{ErrorCode, Kind, LeaveReason, PeerInfo, Source, TrackInfo, VideoCodec};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::dtls::{DtlsError, Identity};
use crate::http::Server;
use crate::rtp::Header;
use crate::sdp::AnswerError;
use crate::signal::SignalError;
use crate::udp::ConnectError;

pub use join::is_final;

/// Events that wait for the user. At 300 packets a second and slot this is a second of eight slots.
const EVENTS_MAX: usize = 4096;
/// Of these, places that packets leave to everything else, so that no signal is lost to a burst of media.
const EVENTS_RESERVED: usize = 512;
/// Commands that wait for the task: a second of audio and of a camera at 2 Mb/s.
const COMMANDS_MAX: usize = 512;
/// Longest payload of a packet that is sent: with headers and SRTP below every usual MTU.
pub const PAYLOAD_LEN_MAX: usize = 1180;
/// How long [`Room::leave`] waits for the task.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Slots of one kind that are offered at most, whatever the server says.
const SLOTS_MAX: u32 = 64;

/// What a peer is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the signalling socket is.
    pub server: Server,
    /// Which room.
    pub room: String,
    /// A token for it.
    pub token: String,
    /// Receive slots of audio; None: as many as the server says that serve the whole room.
    pub audio_slots: Option<u32>,
    /// The same of video.
    pub video_slots: Option<u32>,
    /// Whether it has a track of Opus.
    pub sends_audio: bool,
    /// The codec of its track of video, if it has one.
    pub sends_video: Option<VideoCodec>,
    /// For how long it tries to come back when it is gone, before the room ends.
    pub rejoin_for: Duration,
}

impl Settings {
    /// A peer that receives everything and sends nothing.
    pub fn new(server: Server, room: &str, token: &str) -> Settings {
        Settings {
            server,
            room: room.to_owned(),
            token: token.to_owned(),
            audio_slots: None,
            video_slots: None,
            sends_audio: false,
            sends_video: None,
            rejoin_for: Duration::from_secs(60),
        }
    }
}

/// Why there is no peer.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The signalling socket.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// The server said no.
    #[error("the server refused: {code:?}: {message}")]
    Refused {
        /// Its stable name.
        code: ErrorCode,
        /// One sentence.
        message: String,
    },
    /// The server ended the peer before it was one.
    #[error("the server said bye: {0:?}")]
    Bye(LeaveReason),
    /// The signalling socket was closed.
    #[error("the server closed the signalling socket")]
    Closed,
    /// The answer is of no use.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// The answer has no section for what is to be sent: the token does not allow it, or the room has not the codec.
    #[error("the answer takes no {0:?} of ours")]
    NotTaken(Kind),
    /// The answer has no candidate of UDP.
    #[error("the answer has no candidate of UDP")]
    NoCandidate,
    /// No keys.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Our key pair.
    #[error(transparent)]
    Identity(#[from] DtlsError),
    /// It took too long.
    #[error("the join took longer than {0:?}")]
    TimedOut(Duration),
}

/// Why a room ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EndReason {
    /// [`Room::leave`], or the room was dropped.
    #[error("it left")]
    Left,
    /// The server ended the peer for good.
    #[error("the server said bye: {0:?}")]
    Bye(LeaveReason),
    /// The peer was gone and could not come back.
    #[error("it could not come back: {0}")]
    Gone(String),
    /// The user took no events for so long that a signal found no place.
    #[error("its user takes no events")]
    TooSlow,
}

/// What a slot carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotContent {
    /// Which slot: those of audio first, then those of video.
    pub slot: usize,
    /// Audio or video.
    pub kind: Kind,
    /// Who is in it.
    pub peer: Option<String>,
    /// Which track.
    pub track: Option<String>,
    /// What the track shows.
    pub source: Option<Source>,
}

/// In what a payload is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Codec {
    /// RFC 7587
    Opus,
    /// RFC 6184 and the others.
    Video(VideoCodec),
}

/// A packet of a slot. They come as the network brings them: late and repaired ones behind later ones, none twice.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Which slot.
    pub slot: usize,
    /// By its payload type.
    pub codec: Codec,
    /// The extended sequence number: a slot's packets are counted through all wraps and through changes of its content.
    pub number: u64,
    /// As it came; of a repaired one, that of the original.
    pub header: Header,
    /// Without padding.
    pub payload: Vec<u8>,
    /// When it came.
    pub arrival: Instant,
}

/// A sender report of a slot: one moment in the slot's RTP clock and in the server's, which is one for all slots of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Which slot.
    pub slot: usize,
    /// 32.32 fixed-point seconds of the server's clock. It has no known epoch.
    pub ntp_time: u64,
    /// RTP time.
    pub rtp_time: u32,
    /// When it came.
    pub arrival: Instant,
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The peer is in the room, for the first time or anew. What was known of slots, numbers and clocks holds no more.
    Joined {
        /// Its id.
        peer: String,
        /// The room's name.
        room: String,
    },
    /// Who else is in the room, whole.
    Peers(Vec<PeerInfo>),
    /// A peer came.
    PeerJoined(PeerInfo),
    /// A peer has other tracks.
    PeerChanged(PeerInfo),
    /// A peer left.
    PeerLeft {
        /// Its id.
        peer: String,
        /// Why.
        reason: LeaveReason,
    },
    /// A track was switched on or off.
    TrackChanged {
        /// Whose.
        peer: String,
        /// As it is now.
        track: TrackInfo,
    },
    /// An operator moved the peer to another room.
    Moved {
        /// Which.
        room: String,
    },
    /// What each slot carries, whole.
    Slots(Vec<SlotContent>),
    /// Media.
    Packet(Packet),
    /// A sender report.
    Clock(Clock),
    /// Somebody needs a keyframe of our video.
    KeyframeWanted,
    /// In which codec our video should be from now on.
    Codec(VideoCodec),
    /// What this peer should send at most, bit/s.
    Limits {
        /// Everything together, on the wire.
        send_bps_max: u32,
        /// Payload of one video track.
        video_bps_max: u32,
        /// Payload of one audio track.
        audio_bps_max: u32,
    },
    /// The signalling socket was lost. Media goes on.
    Interrupted,
    /// There is one again; what has changed meanwhile follows.
    Resumed,
    /// It is over; said again by each further call of [`Room::next`].
    Ended(EndReason),
}

/// A packet to be sent.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// On which track.
    pub kind: Kind,
    /// RTP time.
    pub timestamp: u32,
    /// The last packet of a picture.
    pub marker: bool,
    /// At most [`PAYLOAD_LEN_MAX`].
    pub payload: Vec<u8>,
    /// When it was captured, microseconds since 1970; None: now. Sender reports say by it how the tracks go together: what one track
    /// waited for longer than the other does not move them apart.
    pub captured_micros: Option<u64>,
    /// How loud audio is: 0 the loudest, 127 silence (RFC 6464).
    pub level: Option<u8>,
}

/// Why something was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// More waits already than may.
    #[error("too much waits to be sent")]
    Full,
    /// The payload is longer than [`PAYLOAD_LEN_MAX`].
    #[error("a payload may have {PAYLOAD_LEN_MAX} bytes")]
    TooLong,
    /// The room has ended.
    #[error("the room has ended")]
    Ended,
}

/// What the task is told.
enum Command {
    Send(Outgoing),
    Keyframe(usize),
    Leave(oneshot::Sender<()>),
}

/// A peer of a room. Dropped, it leaves.
#[derive(Debug)]
pub struct Room {
    events: mpsc::Receiver<Event>,
    commands: mpsc::Sender<Command>,
    overflowed: Arc<AtomicU64>,
    ended: Option<EndReason>,
}

impl Room {
    /// Joins: back when there are keys.
    pub async fn join(settings: Settings) -> Result<Room, JoinError> {
        let joiner = join::Joiner { identity: Identity::generate()?, settings };
        let joined = joiner.join().await?;
        let (events_out, events) = mpsc::channel(EVENTS_MAX);
        let (commands, commands_in) = mpsc::channel(COMMANDS_MAX);
        let overflowed = Arc::new(AtomicU64::new(0));
        let outlet = drive::Outlet { events: events_out, overflowed: Arc::clone(&overflowed) };
        tokio::spawn(drive::drive(joiner, joined, commands_in, outlet));
        Ok(Room { events, commands, overflowed, ended: None })
    }

    /// The next event. May be cancelled and called again.
    pub async fn next(&mut self) -> Event {
        if let Some(reason) = &self.ended {
            return Event::Ended(reason.clone());
        }
        let event = self.events.recv().await.unwrap_or(Event::Ended(EndReason::TooSlow));
        if let Event::Ended(reason) = &event {
            self.ended = Some(reason.clone());
        }
        event
    }

    /// An event that is there already, for a user who looks at times of its own. The end is told by [`Room::next`] as well.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.ended.is_some() {
            return None;
        }
        let event = match self.events.try_recv() {
            Ok(event) => event,
            Err(mpsc::error::TryRecvError::Empty) => return None,
            Err(mpsc::error::TryRecvError::Disconnected) => Event::Ended(EndReason::TooSlow),
        };
        if let Event::Ended(reason) = &event {
            self.ended = Some(reason.clone());
        }
        Some(event)
    }

    /// Packets that were dropped because the user was too slow.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Sends a frame of Opus at this time of its 48 kHz clock, now.
    pub fn send_audio(&self, timestamp: u32, payload: Vec<u8>) -> Result<(), SendError> {
        self.send(Outgoing { kind: Kind::Audio, timestamp, marker: false, payload, captured_micros: None, level: None })
    }

    /// Sends a packet of video at this time of its 90 kHz clock, now. `marker`: the last of its frame.
    pub fn send_video(&self, timestamp: u32, marker: bool, payload: Vec<u8>) -> Result<(), SendError> {
        self.send(Outgoing { kind: Kind::Video, timestamp, marker, payload, captured_micros: None, level: None })
    }

    /// Sends a packet with what is known of it.
    pub fn send(&self, packet: Outgoing) -> Result<(), SendError> {
        if packet.payload.len() > PAYLOAD_LEN_MAX {
            return Err(SendError::TooLong);
        }
        self.command(Command::Send(packet))
    }

    /// Asks for a keyframe in a slot, soon: not more often than its interval.
    pub fn request_keyframe(&self, slot: usize) -> Result<(), SendError> {
        self.command(Command::Keyframe(slot))
    }

    fn command(&self, command: Command) -> Result<(), SendError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Ended,
        })
    }

    /// Leaves the room for good; back when the server was told.
    pub async fn leave(self) {
        let (done, is_done) = oneshot::channel();
        // Who has ended has left, and a server that does not take it notices by itself.
        let _ = timeout(LEAVE_TIMEOUT, async {
            if self.commands.send(Command::Leave(done)).await.is_ok() {
                let _ = is_done.await;
            }
        })
        .await;
    }
}
