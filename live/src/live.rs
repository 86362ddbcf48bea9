//! The peer: events of the room go in, parts come out.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::room::{self, EndReason, Event, JoinError, Room, SlotContent};
use opusic_c::ErrorCode;
use proto::signal::Kind;
use record::depacketize::{Config, Frame};
use record::feed::Feed;
use record::time::wall_micros;
use tokio::process::Command;

use crate::black::Black;
use crate::choose::Choice;
use crate::cut::{Cut, Cutter};
use crate::encode::Encoder;
use crate::folder::{Folder, Step};
use crate::hub::{Broadcast, Hub};
use crate::mix::{FRAME, Mix, sample};
use crate::push::{Piece, Push, Target};
use crate::window::{Found, Segment};

/// Between two looks at what waits: a frame of sound.
const TICK: Duration = Duration::from_millis(20);
/// How long sound waits to be mixed, microseconds: what is lost is asked for again for 250 ms.
const MIX_MICROS: i64 = 300_000;
/// A keyframe is asked for when the last one is so old, microseconds: with it a segment begins.
const KEYFRAME_MICROS: i64 = 4_000_000;
/// Without a picture for so long it is black, microseconds. A screen that stands still may send a picture a second.
const GONE_MICROS: i64 = 1_500_000;
/// Between two black pictures, microseconds.
const BLACK_MICROS: i64 = 500_000;

/// What to send on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The peer. It sends nothing.
    pub room: room::Settings,
    /// The name of whose picture is shown; None: who shares a screen, else the first with a camera.
    pub video: Option<String>,
    /// Where players find it, below the room's name.
    pub hub: Hub,
    /// The same as files.
    pub folder: Option<PathBuf>,
    /// The program that encodes AAC; without it the sound is Opus.
    pub ffmpeg: Option<String>,
    /// Where it is pushed to by RTMP, which takes AAC alone.
    pub push: Option<Target>,
}

/// Why it is not on.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The room.
    #[error("cannot join the room: {0}")]
    Join(#[from] JoinError),
    /// The folder.
    #[error("cannot write into {0}: {1}")]
    Folder(PathBuf, io::Error),
    /// The encoder.
    #[error("cannot run {0}: {1}")]
    Encoder(String, io::Error),
    /// RTMP.
    #[error("a push by RTMP needs ffmpeg, and sound as AAC")]
    Push,
    /// libopus
    #[error("libopus: {0:?}")]
    Opus(ErrorCode),
    /// The room is on already.
    #[error("the room is on already")]
    Twice,
}

/// Why it is not on any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum End {
    /// It was told to.
    #[error("stopped")]
    Stopped,
    /// The room.
    #[error("the room ended: {0}")]
    Room(EndReason),
    /// The folder.
    #[error("cannot write: {0}")]
    Folder(String),
    /// What a publisher sends cannot be put into MP4.
    #[error("cannot make a part: {0}")]
    Part(String),
}

impl End {
    /// Its stable name.
    pub fn name(&self) -> &'static str {
        match self {
            End::Stopped => "stopped",
            End::Room(EndReason::Bye(_)) => "removed",
            End::Room(EndReason::TooSlow) => "too_slow",
            End::Room(EndReason::Left | EndReason::Gone(_)) => "gone",
            End::Folder(_) => "disk_error",
            End::Part(_) => "part",
        }
    }
}

/// What is shown.
struct Shown {
    slot: Option<usize>,
    /// Whether the next picture is of another source than the last one.
    is_other: bool,
    black: Black,
    is_black: bool,
    /// When the last picture was, and the last keyframe or request of one.
    picture: i64,
    keyframe: i64,
    is_unplayable: bool,
}

/// A room that is on.
pub struct Live {
    room: Room,
    name: String,
    hub: Hub,
    broadcast: Arc<Broadcast>,
    folder: Option<Folder>,
    push: Option<Push>,
    feed: Feed,
    /// When time 0 was, microseconds since 1970.
    began_wall: i64,
    voices: HashSet<usize>,
    choice: Choice,
    shown: Shown,
    mix: Mix,
    encoder: Encoder,
    cutter: Cutter,
}

/// Whether this program encodes AAC.
async fn check(ffmpeg: &str) -> io::Result<()> {
    let mut command = Command::new(ffmpeg);
    let output = command.args(["-hide_banner", "-h", "encoder=aac"]).kill_on_drop(true).output().await?;
    let says = String::from_utf8_lossy(&output.stdout).contains("Encoder aac");
    if says { Ok(()) } else { Err(io::Error::other("it has no encoder for AAC")) }
}

impl Live {
    /// Joins the room and begins.
    pub async fn start(settings: Settings) -> Result<Live, LiveError> {
        if let Some(ffmpeg) = &settings.ffmpeg {
            check(ffmpeg).await.map_err(|error| LiveError::Encoder(ffmpeg.clone(), error))?;
        }
        if settings.push.is_some() && settings.ffmpeg.is_none() {
            return Err(LiveError::Push);
        }
        let folder = settings.folder.as_ref().map(|path| Folder::start(path).map_err(|error| (path.clone(), error)));
        let folder = folder.transpose().map_err(|(path, error)| LiveError::Folder(path, error))?;
        let (name, began_wall) = (settings.room.room.clone(), wall_micros());
        // A segment lasts longer than a second, so a successor's numbers are more than its predecessor's.
        let broadcast = Arc::new(Broadcast::new((began_wall / 1_000_000) as u64));
        if !settings.hub.insert(&name, &broadcast) {
            return Err(LiveError::Twice);
        }
        let on = On { hub: settings.hub.clone(), name: name.clone(), is_left: false };
        let room = Room::join(settings.room).await?;
        let began = Instant::now();
        let encoder = match &settings.ffmpeg {
            Some(ffmpeg) => Encoder::aac(ffmpeg),
            None => Encoder::opus().map_err(LiveError::Opus)?,
        };
        let pushing = settings.push.zip(settings.ffmpeg.as_ref());
        let push = pushing.map(|(target, ffmpeg)| Push::start(ffmpeg, target));
        on.leave_on();
        Ok(Live {
            room,
            name,
            hub: settings.hub,
            broadcast,
            folder,
            push,
            feed: Feed::new(began),
            began_wall: wall_micros(),
            voices: HashSet::new(),
            choice: Choice::new(settings.video),
            shown: Shown {
                slot: None,
                is_other: false,
                black: Black::new(),
                is_black: false,
                picture: 0,
                keyframe: 0,
                is_unplayable: false,
            },
            mix: Mix::new(0),
            cutter: Cutter::new(encoder.config()),
            encoder,
        })
    }

    /// Sends it on until it is told to stop, or it cannot go on.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> End {
        let mut stop = std::pin::pin!(stop);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let end = loop {
            let outcome = tokio::select! {
                event = self.room.next() => self.take(event),
                _ = tick.tick() => self.tick(),
                () = &mut stop => Err(End::Stopped),
            };
            if let Err(end) = outcome {
                break end;
            }
        };
        let last = self.broadcast.change(|window| window.end());
        if let Some(last) = last {
            self.write(&last);
        }
        self.folder.iter_mut().for_each(Folder::finish);
        self.hub.remove(&self.name);
        if let Some(push) = &mut self.push {
            push.finish().await;
        }
        self.room.leave().await;
        end
    }

    fn take(&mut self, event: Event) -> Result<(), End> {
        self.choice.take(&event);
        match event {
            Event::Packet(packet) => {
                let slot = packet.slot;
                if self.voices.contains(&slot) || self.shown.slot == Some(slot) {
                    self.feed.put(packet);
                    self.drain(slot, Instant::now());
                }
                return Ok(());
            }
            Event::Clock(clock) => {
                self.feed.report(clock);
                return Ok(());
            }
            Event::Joined { .. } => {
                self.feed.restart();
                self.voices.drain().for_each(|slot| self.mix.end(slot));
            }
            Event::Slots(slots) => slots.into_iter().for_each(|slot| self.take_voice(slot)),
            Event::Ended(reason) => return Err(End::Room(reason)),
            _ => (),
        }
        if let Some(content) = self.choice.changed() {
            self.show(content);
        }
        Ok(())
    }

    fn take_voice(&mut self, content: SlotContent) {
        if content.kind != Kind::Audio || !self.feed.is_other(&content) {
            return;
        }
        self.mix.end(content.slot);
        self.voices.remove(&content.slot);
        if content.track.is_some() {
            self.voices.insert(content.slot);
        }
        self.feed.begin(content);
    }

    fn show(&mut self, content: Option<SlotContent>) {
        if let Some(slot) = self.shown.slot.take() {
            self.feed.end(slot);
        }
        self.shown.is_other = true;
        self.shown.is_unplayable = false;
        if let Some(content) = content {
            self.shown.slot = Some(content.slot);
            self.feed.begin(content);
        }
    }

    /// Takes all frames of a slot that are in order now.
    fn drain(&mut self, slot: usize, now: Instant) {
        while let Some((frame, micros)) = self.feed.pull(slot, now) {
            if self.shown.slot == Some(slot) {
                self.picture(slot, frame, micros);
            } else {
                self.mix.put(slot, micros, &frame.data);
            }
        }
    }

    fn picture(&mut self, slot: usize, frame: Frame, micros: i64) {
        // No browser takes VP8 in MP4 from a stream.
        if let Some(Config::Vp8 { .. }) = frame.config {
            if !std::mem::replace(&mut self.shown.is_unplayable, true) {
                tracing::warn!(event = "live_unplayable", room = self.name, "players take no VP8; it is black instead");
            }
            return self.feed.await_keyframe(slot);
        }
        // After black pictures it must be a keyframe, as after another source.
        let is_other = self.shown.is_other || self.shown.is_black;
        if is_other && !(frame.is_key && frame.config.is_some()) {
            return self.feed.await_keyframe(slot);
        }
        let now = self.feed.micros(Instant::now());
        if frame.is_key {
            self.shown.keyframe = now;
        }
        self.shown.picture = now;
        if self.cutter.picture(micros, frame, is_other) {
            (self.shown.is_other, self.shown.is_black) = (false, false);
        } else {
            self.feed.await_keyframe(slot);
        }
    }

    fn tick(&mut self) -> Result<(), End> {
        let at = Instant::now();
        let now = self.feed.micros(at);
        self.feed.slots().into_iter().for_each(|slot| self.drain(slot, at));
        self.ask_keyframe(at, now);
        let is_gone = now - self.shown.picture >= if self.shown.is_black { BLACK_MICROS } else { GONE_MICROS };
        if is_gone {
            let is_first = !std::mem::replace(&mut self.shown.is_black, true);
            let picture = self.shown.black.picture();
            self.cutter.picture(now, picture, is_first);
            self.shown.picture = now;
        }
        while self.mix.begin() + FRAME as i64 <= sample(now - MIX_MICROS) {
            let begin = self.mix.begin();
            let frame = self.mix.take();
            self.encoder.put(begin, frame);
        }
        while let Some(sound) = self.encoder.take() {
            self.cutter.sound(sound);
        }
        while let Some(cut) = self.cutter.poll(now).map_err(|error| End::Part(error.to_string()))? {
            self.give(cut);
        }
        match self.folder.as_ref().and_then(Folder::failure) {
            Some(failure) => Err(End::Folder(failure)),
            None => Ok(()),
        }
    }

    /// Segments begin with keyframes; after a loss, and after black pictures, one is needed at once.
    fn ask_keyframe(&mut self, at: Instant, now: i64) {
        let Some(slot) = self.shown.slot else { return };
        let is_time = now - self.shown.keyframe >= KEYFRAME_MICROS;
        if is_time {
            self.shown.keyframe = now;
        }
        if self.feed.wants_keyframe(slot, at) || is_time {
            // A queue that is full now is asked again.
            let _ = self.room.request_keyframe(slot);
        }
    }

    fn give(&mut self, cut: Cut) {
        let broadcast = Arc::clone(&self.broadcast);
        let whole = broadcast.change(|window| match cut {
            Cut::Init(bytes) => {
                let bytes = Bytes::from(bytes);
                self.push.iter_mut().for_each(|push| push.put(Piece::Init(bytes.clone())));
                window.init(bytes);
                None
            }
            Cut::Part { bytes, micros, begin, begins_segment, is_independent } => {
                let (bytes, wall) = (Bytes::from(bytes), self.began_wall + begin);
                let piece = || Piece::Part { bytes: bytes.clone(), is_independent };
                self.push.iter_mut().for_each(|push| push.put(piece()));
                window.part(bytes.clone(), micros, wall, begins_segment, is_independent)
            }
        });
        if let Some(segment) = whole {
            self.write(&segment);
        }
    }

    fn write(&self, segment: &Segment) {
        let Some(folder) = &self.folder else { return };
        let window = self.broadcast.window();
        let init = match window.find(crate::window::Asked::Init(segment.init)) {
            Found::Bytes(bytes) => bytes,
            Found::Soon | Found::Never => return,
        };
        let Some(playlist) = window.playlist(false) else { return };
        let (segment, init) = ((segment.number, segment.bytes()), (segment.init, init));
        if !folder.put(Step { segment, init, playlist, oldest: window.oldest() }) {
            tracing::warn!(
                event = "live_folder_slow",
                room = self.name,
                "a segment is not in the folder: the disk is slow"
            );
        }
    }
}

/// A room in the hub, which is taken out again if it cannot be joined.
struct On {
    hub: Hub,
    name: String,
    is_left: bool,
}

impl On {
    fn leave_on(mut self) {
        self.is_left = true;
    }
}

impl Drop for On {
    fn drop(&mut self) {
        if !self.is_left {
            self.hub.remove(&self.name);
        }
    }
}
