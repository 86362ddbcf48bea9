//! The peer: from feeds that come and go at the doors to one that is in the room while there is one.

use std::collections::VecDeque;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use client::room::{self, EndReason, Event, JoinError, Room};
use proto::signal::VideoCodec;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::child::{Launcher, Starter};
use crate::door::{self, Desk, FeedEnd, Source};
use crate::ffmpeg::{self, FfmpegError};
use crate::flv::{Kind, Tag};
use crate::key::Key;
use crate::media::{self, Out, Pictures, Sound};
use crate::timeline::Timeline;

/// Between two looks at what time brings.
const TICK: Duration = Duration::from_millis(100);
/// A feed that has only sound, or only pictures, after so long has no other.
const TRACKS_WAIT: Duration = Duration::from_secs(2);
/// Frames that wait for the room since the last keyframe, and their bytes.
const BACKLOG_MAX: usize = 100;
const BACKLOG_LEN_MAX: usize = 8 * 1024 * 1024;
/// How long the limits of a room are waited for, which come with the join.
const LIMITS_WAIT: Duration = Duration::from_secs(1);
/// Until another attempt to join.
const JOIN_BACKOFF: Duration = Duration::from_secs(1);
/// What a video and its sound get until the room says, bit/s.
const VIDEO_BPS: u32 = 500_000;
const AUDIO_BPS: u32 = 32_000;

/// What is to be fed, where from, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The peer; its tracks and slots are set here.
    pub peer: room::Settings,
    /// Where RTMP is listened for.
    pub rtmp: Option<SocketAddr>,
    /// Where SRT is.
    pub srt: Option<SocketAddr>,
    /// The stream key, and the passphrase of SRT.
    pub key: Key,
    /// How long the peer stays when a feed has broken off.
    pub wait: Duration,
    /// The program.
    pub ffmpeg: PathBuf,
    /// What starts it.
    pub launcher: Launcher,
}

/// What the caller is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// Encoders may connect.
    Listening {
        /// Where to, with RTMP.
        rtmp: Option<SocketAddr>,
        /// With SRT.
        srt: Option<SocketAddr>,
    },
    /// A feed is in the room.
    Started {
        /// Who sends it.
        from: String,
        /// Whether it has sound.
        has_audio: bool,
        /// Whether it has pictures.
        has_video: bool,
    },
    /// It ended. Another one may come.
    Ended {
        /// Why.
        end: FeedEnd,
    },
}

/// Why no feed can come any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// ffmpeg.
    #[error(transparent)]
    Ffmpeg(#[from] FfmpegError),
    /// The door.
    #[error("cannot listen at {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The room wants no such peer.
    #[error("the room cannot be joined: {0}")]
    Join(#[from] JoinError),
    /// The room ended the peer.
    #[error("the room ended it: {0}")]
    Room(EndReason),
}

/// Takes feeds until it is told to stop, or the room wants none. Everything that it started has ended when it is back.
pub async fn run(
    settings: Settings,
    mut report: impl FnMut(Report),
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let starter = ffmpeg::find(&settings.ffmpeg, settings.launcher.clone(), settings.srt.is_some()).await?;
    let (desk, mut sources) = Desk::new();
    let mut doors = JoinSet::new();
    let mut listening = (None, None);
    if let Some(address) = settings.rtmp {
        let failed = |error| Error::Listen(address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        listening.0 = Some(listener.local_addr().map_err(failed)?);
        doors.spawn(door::rtmp(listener, settings.key.clone(), desk.clone()));
    }
    if let Some(address) = settings.srt {
        // The child binds it; that it can is seen here.
        let bound = UdpSocket::bind(address).and_then(|socket| socket.local_addr());
        let bound = bound.map_err(|error| Error::Listen(address, error))?;
        listening.1 = Some(bound);
        doors.spawn(door::srt(starter.clone(), bound, settings.key.clone(), desk.clone()));
    }
    report(Report::Listening { rtmp: listening.0, srt: listening.1 });
    let mut feeds = Feeds::new(settings, starter);
    let mut tick = tokio::time::interval(TICK);
    tokio::pin!(stop);
    let result = loop {
        let result = tokio::select! {
            () = &mut stop => break Ok(()),
            Some(source) = sources.recv() => {
                feeds.take(source, &mut report);
                Ok(())
            }
            change = feeds.presence.change() => match change {
                Change::Joined(joined) => feeds.joined(joined, &mut report),
                Change::Happened(event) => feeds.happened(event),
            },
            piece = feeds.pictures.next() => {
                if let Some((pictures, _, mut out)) = feeds.out() {
                    pictures.written(piece, &mut out).await;
                }
                Ok(())
            }
            piece = feeds.sound.next() => {
                if let Some((_, sound, mut out)) = feeds.out() {
                    sound.written(piece, &mut out).await;
                }
                Ok(())
            }
            _ = tick.tick() => {
                feeds.tick(&mut report);
                Ok(())
            }
        };
        if let Err(error) = result {
            break Err(error);
        }
    };
    feeds.end(FeedEnd::Stopped, &mut report);
    feeds.leave();
    while feeds.leaving.join_next().await.is_some() {}
    doors.shutdown().await;
    result
}

/// The feed that is on.
struct Feed {
    id: u64,
    from: String,
    began: Instant,
    is_told: bool,
    /// Since the last keyframe, while the room is not joined.
    backlog: VecDeque<Tag>,
    backlog_len: usize,
    has_overflowed: bool,
}

/// Whether the peer is in the room.
enum Presence {
    Out,
    Joining(JoinHandle<Result<Room, JoinError>>),
    In(Box<Room>),
}

enum Change {
    Joined(Result<Room, JoinError>),
    Happened(Event),
}

impl Presence {
    /// What comes next. May be cancelled and called again.
    async fn change(&mut self) -> Change {
        match self {
            Presence::Out => std::future::pending().await,
            Presence::Joining(task) => Change::Joined(task.await.unwrap_or(Err(JoinError::Closed))),
            Presence::In(room) => Change::Happened(room.next().await),
        }
    }
}

struct Feeds {
    settings: Settings,
    starter: Starter,
    feed: Option<Feed>,
    presence: Presence,
    /// What the peer has: sound, pictures.
    tracks: (bool, bool),
    pictures: Pictures,
    sound: Sound,
    timeline: Timeline,
    video_bps_max: u32,
    leave_at: Option<Instant>,
    leaving: JoinSet<()>,
    join_at: Instant,
    /// The room is joined, and its limits are waited for until then.
    passes_at: Option<Instant>,
    dropped: u64,
}

impl Feeds {
    fn new(settings: Settings, starter: Starter) -> Feeds {
        let now = Instant::now();
        let mut sound = Sound::new(now);
        sound.set_bps_max(AUDIO_BPS);
        Feeds {
            settings,
            starter,
            feed: None,
            presence: Presence::Out,
            tracks: (false, false),
            pictures: Pictures::new(now),
            sound,
            timeline: Timeline::new(now),
            video_bps_max: VIDEO_BPS,
            leave_at: None,
            leaving: JoinSet::new(),
            join_at: now,
            passes_at: None,
            dropped: 0,
        }
    }

    /// The two ways of media, and where they lead, while the peer is in the room.
    fn out(&mut self) -> Option<(&mut Pictures, &mut Sound, Out<'_>)> {
        let Presence::In(room) = &self.presence else { return None };
        let out = Out { room, starter: &self.starter, timeline: &mut self.timeline, now: Instant::now() };
        Some((&mut self.pictures, &mut self.sound, out))
    }

    fn take(&mut self, source: Source, report: &mut impl FnMut(Report)) {
        let now = Instant::now();
        match source {
            Source::Begun { id, from } => {
                self.end(FeedEnd::Replaced, report);
                tracing::info!(event = "feed_began", from, "a feed begins");
                (self.pictures, self.sound) = (Pictures::new(now), self.fresh_sound(now));
                self.timeline.begin();
                (self.leave_at, self.join_at) = (None, now);
                self.feed = Some(Feed {
                    id,
                    from,
                    began: now,
                    is_told: false,
                    backlog: VecDeque::new(),
                    backlog_len: 0,
                    has_overflowed: true,
                });
            }
            Source::Tag { id, tag } if self.feed.as_ref().is_some_and(|feed| feed.id == id) => self.take_tag(tag),
            Source::Ended { id, end } if self.feed.as_ref().is_some_and(|feed| feed.id == id) => {
                let wait = if end == FeedEnd::Unpublished { Duration::ZERO } else { self.settings.wait };
                self.leave_at = Some(now + wait);
                self.end(end, report);
            }
            _ => (),
        }
    }

    fn fresh_sound(&mut self, now: Instant) -> Sound {
        // Its encoder and its time go on in the room.
        let mut sound = std::mem::replace(&mut self.sound, Sound::new(now));
        sound.renew();
        sound
    }

    fn end(&mut self, end: FeedEnd, report: &mut impl FnMut(Report)) {
        let Some(feed) = self.feed.take() else { return };
        tracing::info!(event = "feed_ended", "a feed ended: {end}");
        self.pictures.begin();
        self.sound.begin();
        if feed.is_told {
            report(Report::Ended { end });
        }
    }

    fn take_tag(&mut self, tag: Tag) {
        if let Some(framerate) = media::framerate(&tag) {
            self.pictures.seen.framerate = Some(framerate);
        }
        self.pictures.note(&tag);
        self.sound.note(&tag);
        if !media::is_frame(&tag) {
            return;
        }
        if matches!(self.presence, Presence::In(_)) && self.passes_at.is_none() {
            self.pass(&tag);
        } else if let Some(feed) = &mut self.feed {
            feed.keep(tag, self.pictures.has_config());
        }
    }

    /// Into the room.
    fn pass(&mut self, tag: &Tag) {
        let (time, is_new) = self.timeline.time(tag.timestamp, Instant::now());
        if is_new {
            self.pictures.begin();
            self.sound.begin();
        }
        let (bps_max, (has_audio, has_video)) = (self.video_bps_max, self.tracks);
        let Some((pictures, sound, mut out)) = self.out() else { return };
        match tag.kind {
            Kind::Video if has_video => pictures.take(tag, time, bps_max, &mut out),
            Kind::Audio if has_audio => sound.take(tag, time, &mut out),
            _ => (),
        }
    }

    fn joined(&mut self, joined: Result<Room, JoinError>, report: &mut impl FnMut(Report)) -> Result<(), Error> {
        match joined {
            Ok(room) => self.presence = Presence::In(Box::new(room)),
            Err(error) if room::is_final(&error) => {
                self.presence = Presence::Out;
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(event = "feed_not_in_room", %error, "the room cannot be joined now");
                self.presence = Presence::Out;
                self.join_at = Instant::now() + JOIN_BACKOFF;
                return Ok(());
            }
        }
        // It may have ended meanwhile; then the peer leaves when its time has come.
        self.tell(report);
        self.passes_at = Some(Instant::now() + LIMITS_WAIT);
        Ok(())
    }

    /// From now on frames go into the room, and first those that waited.
    fn begin_passing(&mut self) {
        if self.passes_at.take().is_some() {
            let backlog = self.feed.as_mut().map(|feed| std::mem::take(&mut feed.backlog)).unwrap_or_default();
            backlog.iter().for_each(|tag| self.pass(tag));
        }
    }

    /// Says once that a feed is in the room.
    fn tell(&mut self, report: &mut impl FnMut(Report)) {
        let (has_audio, has_video) = self.tracks;
        let Some(feed) = self.feed.as_mut().filter(|feed| !feed.is_told) else { return };
        feed.is_told = true;
        tracing::info!(event = "feed_in_room", from = feed.from, has_audio, has_video, "the feed is in the room");
        report(Report::Started { from: feed.from.clone(), has_audio, has_video });
    }

    fn happened(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Limits { video_bps_max, audio_bps_max, .. } => {
                self.video_bps_max = video_bps_max;
                self.sound.set_bps_max(audio_bps_max);
                self.begin_passing();
            }
            Event::Ended(reason) => {
                self.presence = Presence::Out;
                return Err(Error::Room(reason));
            }
            // Keyframes come by themselves, and nobody outside of an encoder can ask it for more.
            _ => (),
        }
        Ok(())
    }

    fn tick(&mut self, report: &mut impl FnMut(Report)) {
        let now = Instant::now();
        if self.pictures.dropped > self.dropped {
            let dropped = self.pictures.dropped - self.dropped;
            tracing::warn!(
                event = "feed_frames_dropped",
                dropped,
                "this machine is too slow for the feed, or the room is away"
            );
        }
        self.dropped = self.pictures.dropped;
        if self.passes_at.is_some_and(|at| at <= now) {
            self.begin_passing();
        }
        let wanted = (self.sound.has_config(), self.pictures.has_config());
        if let Some(feed) = &self.feed {
            let is_known = wanted == (true, true) || wanted != (false, false) && feed.began.elapsed() > TRACKS_WAIT;
            let is_other = is_known && self.tracks != wanted && matches!(self.presence, Presence::In(_));
            match &self.presence {
                // Another feed than the one before, with other tracks.
                Presence::In(_) if is_other => self.leave(),
                Presence::In(_) if is_known => self.tell(report),
                Presence::Out if is_known && self.join_at <= now => self.join(wanted),
                _ => (),
            }
        } else if self.leave_at.is_some_and(|at| at <= now) {
            self.leave_at = None;
            self.leave();
        }
    }

    fn join(&mut self, tracks: (bool, bool)) {
        self.tracks = tracks;
        let mut peer = self.settings.peer.clone();
        (peer.audio_slots, peer.video_slots) = (Some(0), Some(0));
        (peer.sends_audio, peer.sends_video) = (tracks.0, tracks.1.then_some(VideoCodec::H264));
        self.presence = Presence::Joining(tokio::spawn(Room::join(peer)));
    }

    fn leave(&mut self) {
        self.passes_at = None;
        match std::mem::replace(&mut self.presence, Presence::Out) {
            Presence::In(room) => drop(self.leaving.spawn(room.leave())),
            // Who joined after all is dropped, and leaves by that.
            Presence::Joining(task) => task.abort(),
            Presence::Out => (),
        }
    }
}

impl Feed {
    /// Keeps a frame for the room: from the last keyframe on, or sound alone for a moment.
    fn keep(&mut self, tag: Tag, has_pictures: bool) {
        if tag.is_keyframe() || !has_pictures && self.backlog.len() >= BACKLOG_MAX {
            self.backlog.clear();
            (self.backlog_len, self.has_overflowed) = (0, false);
        }
        if self.has_overflowed && has_pictures {
            return;
        }
        self.backlog_len += tag.body.len();
        self.backlog.push_back(tag);
        if self.backlog.len() > BACKLOG_MAX || self.backlog_len > BACKLOG_LEN_MAX {
            self.backlog.clear();
            (self.backlog_len, self.has_overflowed) = (0, true);
        }
    }
}
