//! The recording of one room: events of the room go in, files and the list of them come out.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::room::{self, EndReason, Event, JoinError, Room, SlotContent};
use proto::signal::{PeerInfo, Source};

use crate::depacketize::{Config, Frame};
use crate::disk::{Disk, DiskError, Quota};
use crate::feed::{Counts, Feed};
use crate::manifest::{File, Manifest, Peer, VERSION};
use crate::store::Store;
use crate::store::outbox::{LIST, Outbox, Sending};
use crate::time::{compact, rfc3339, wall_micros};
use crate::track::Track;

/// Between two looks at what waits.
const TICK: Duration = Duration::from_millis(50);
/// How often the list is written anew while something changes.
const MANIFEST_INTERVAL: Duration = Duration::from_secs(2);
/// Files of one recording: a peer that changes its picture's size all the time fills no folder.
const FILES_MAX: usize = 4096;
/// People that are listed.
const PEERS_MAX: usize = 4096;
/// How long the end waits for the store.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// A track begins another file at most so often, microseconds.
const FILE_INTERVAL_MICROS: i64 = 1_000_000;

/// What to record, and where to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The peer. It sends nothing.
    pub room: room::Settings,
    /// A folder is made in here.
    pub folder: PathBuf,
    /// What may be in there, shared by all recordings that go there.
    pub quota: Quota,
    /// Where what is finished goes from there.
    pub store: Option<Arc<Store>>,
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The room.
    #[error("cannot join the room: {0}")]
    Join(#[from] JoinError),
    /// The folder.
    #[error("cannot record into {0}: {1}")]
    Folder(PathBuf, std::io::Error),
}

impl RecordError {
    /// Its stable name.
    pub fn name(&self) -> &'static str {
        match self {
            RecordError::Join(_) => "not_joined",
            RecordError::Folder(..) => "disk_error",
        }
    }
}

/// Why a recording ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum End {
    /// It was told to.
    #[error("stopped")]
    Stopped,
    /// The room.
    #[error("the room ended: {0}")]
    Room(EndReason),
    /// The disk.
    #[error("{0}")]
    Disk(DiskError),
    /// More files than a recording may have.
    #[error("a recording has {FILES_MAX} files at most")]
    Files,
    /// It was told to, and the store has not taken all of it yet.
    #[error("{0} files wait here for the store, and go there with the next start")]
    Unsent(usize),
}

impl End {
    /// Its stable name.
    pub fn name(&self) -> &'static str {
        match self {
            End::Stopped => "stopped",
            End::Room(EndReason::Bye(_)) => "removed",
            End::Room(EndReason::TooSlow) => "too_slow",
            End::Room(EndReason::Left | EndReason::Gone(_)) => "gone",
            End::Disk(error) => error.name(),
            End::Files => "files",
            End::Unsent(_) => "unsent",
        }
    }
}

/// What is written of a slot, while it carries one track.
#[derive(Default)]
struct Written {
    track: Option<Track>,
    /// When its last file began, microseconds of the recording.
    began: Option<i64>,
}

/// A recording that goes on.
pub struct Recorder {
    room: Room,
    folder: PathBuf,
    disk: Disk,
    outbox: Option<(Outbox, Sending)>,
    place: String,
    feed: Feed,
    /// When the recording began, microseconds since 1970.
    began_wall: i64,
    written: HashMap<usize, Written>,
    names: HashMap<String, String>,
    manifest: Manifest,
    files: u32,
    is_changed: bool,
    listed: Instant,
}

impl Recorder {
    /// Joins the room and begins.
    pub async fn start(settings: Settings) -> Result<Recorder, RecordError> {
        let name = settings.room.room.clone();
        let room = Room::join(settings.room).await?;
        let (began, began_wall) = (Instant::now(), wall_micros());
        let failed = |error| RecordError::Folder(settings.folder.clone(), error);
        let folder = new_folder(&settings.folder, &name, began_wall).map_err(failed)?;
        let manifest = Manifest {
            version: VERSION,
            room: name,
            started: rfc3339(began_wall),
            ended: None,
            end_reason: None,
            updated: String::new(),
            packets_overflowed: 0,
            peers: Vec::new(),
            files: Vec::new(),
        };
        let begin = |store: &Arc<Store>| Sending::begin(store, &folder, &settings.quota);
        let outbox = settings.store.as_ref().map(begin).transpose().map_err(failed)?;
        let disk = Disk::start(settings.quota.clone(), outbox.as_ref().map(|(outbox, _)| outbox.clone()));
        let disk = disk.map_err(failed)?;
        let own = folder.file_name().unwrap_or_default().to_string_lossy();
        let of_store = |store: &Arc<Store>| format!("{}/{own}", store.place());
        let place = settings.store.as_ref().map_or_else(|| folder.display().to_string(), of_store);
        let mut recorder = Recorder {
            room,
            folder,
            disk,
            outbox,
            place,
            feed: Feed::new(began),
            began_wall,
            written: HashMap::new(),
            names: HashMap::new(),
            manifest,
            files: 0,
            is_changed: true,
            listed: began,
        };
        recorder.write_manifest();
        Ok(recorder)
    }

    /// Where it records to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the recording is when it has ended: the folder, or what is to be in the store.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Records until it is told to stop, or it cannot go on. All files are whole then.
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
        self.finish(&end);
        let Recorder { room, outbox, .. } = self;
        room.leave().await;
        let Some((outbox, sending)) = outbox else { return end };
        outbox.close();
        match sending.finish(SEND_TIMEOUT).await {
            unsent @ 1.. if end == End::Stopped => End::Unsent(unsent),
            _ => end,
        }
    }

    fn finish(&mut self, end: &End) {
        for slot in self.feed.slots() {
            self.end_slot(slot, "recording_ended");
        }
        self.manifest.ended = Some(rfc3339(wall_micros()));
        self.manifest.end_reason = Some(end.name().to_owned());
        self.write_manifest();
        self.disk.finish();
    }

    fn take(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Packet(packet) => {
                let slot = packet.slot;
                self.feed.put(packet);
                self.drain(slot, Instant::now());
            }
            Event::Clock(clock) => {
                self.feed.report(clock);
                self.drain(clock.slot, Instant::now());
            }
            Event::Slots(contents) => contents.into_iter().for_each(|content| self.take_content(content)),
            Event::Joined { .. } => {
                self.feed.slots().into_iter().for_each(|slot| self.end_slot(slot, "track_ended"));
                self.feed.restart();
            }
            Event::Peers(peers) => {
                let here: Vec<String> = peers.iter().map(|info| info.peer.clone()).collect();
                peers.into_iter().for_each(|info| self.note_peer(info));
                let gone: Vec<String> = self.names.keys().filter(|peer| !here.contains(peer)).cloned().collect();
                gone.iter().for_each(|peer| self.note_left(peer));
            }
            Event::PeerJoined(info) | Event::PeerChanged(info) => self.note_peer(info),
            Event::PeerLeft { peer, .. } => self.note_left(&peer),
            Event::Ended(reason) => return Err(End::Room(reason)),
            Event::TrackChanged { .. }
            | Event::Moved { .. }
            | Event::KeyframeWanted
            | Event::Codec(_)
            | Event::Interrupted
            | Event::Limits { .. }
            | Event::Resumed => (),
        }
        if self.files as usize > FILES_MAX { Err(End::Files) } else { Ok(()) }
    }

    fn note_peer(&mut self, info: PeerInfo) {
        if self.names.insert(info.peer.clone(), info.name.clone()).is_none() && self.manifest.peers.len() < PEERS_MAX {
            let joined = rfc3339(wall_micros());
            self.manifest.peers.push(Peer { peer: info.peer, name: info.name, joined, left: None });
        }
        self.is_changed = true;
    }

    fn note_left(&mut self, peer: &str) {
        self.names.remove(peer);
        if let Some(known) = self.manifest.peers.iter_mut().rev().find(|known| known.peer == peer) {
            known.left = Some(rfc3339(wall_micros()));
        }
        self.is_changed = true;
    }

    /// What a slot carries from now on.
    fn take_content(&mut self, content: SlotContent) {
        if self.feed.is_other(&content) {
            self.end_slot(content.slot, "track_ended");
            self.feed.begin(content);
        }
    }

    fn end_slot(&mut self, slot: usize, reason: &'static str) {
        self.feed.close(slot);
        self.drain(slot, Instant::now());
        if let Some(track) = self.written.remove(&slot).and_then(|written| written.track) {
            self.end_track(track, self.feed.counts(slot), reason);
        }
        self.feed.end(slot);
    }

    fn end_track(&mut self, mut track: Track, counts: Counts, reason: &'static str) {
        note_counts(&mut track, counts);
        let file = track.end(reason, &self.disk);
        self.list(file);
    }

    fn list(&mut self, file: File) {
        match self.manifest.files.iter_mut().find(|known| known.file == file.file) {
            Some(known) => *known = file,
            None => self.manifest.files.push(file),
        }
        self.is_changed = true;
    }

    /// Writes all frames of a slot that are in order now.
    fn drain(&mut self, slot: usize, now: Instant) {
        while let Some((frame, micros)) = self.feed.pull(slot, now) {
            if !self.write_frame(slot, frame, micros) {
                self.feed.await_keyframe(slot);
            }
        }
    }

    /// False: what comes next must be a keyframe.
    fn write_frame(&mut self, slot: usize, frame: Frame, micros: i64) -> bool {
        let written = self.written.entry(slot).or_default();
        let is_other = |config: &Config| written.track.as_ref().is_none_or(|track| track.config != *config);
        if let Some(config) = frame.config.clone().filter(is_other) {
            if written.began.is_some_and(|began| micros - began < FILE_INTERVAL_MICROS) {
                return false;
            }
            written.began = Some(micros);
            self.begin_file(slot, config, micros);
        }
        self.is_changed = true;
        let track = self.written.get_mut(&slot).and_then(|written| written.track.as_mut());
        track.is_none_or(|track| track.push(frame, micros, &self.disk))
    }

    /// Another file for a slot's track.
    fn begin_file(&mut self, slot: usize, config: Config, micros: i64) {
        if let Some(track) = self.written.get_mut(&slot).and_then(|written| written.track.take()) {
            self.end_track(track, self.feed.counts(slot), "config_changed");
            self.feed.count_anew(slot);
        }
        let Some(SlotContent { peer: Some(peer), track: Some(track), source, .. }) = self.feed.content(slot).cloned()
        else {
            return;
        };
        let source = source.unwrap_or(Source::Camera);
        self.files += 1;
        let (number, source) = (self.files, source_name(source));
        let file = format!("{number:04}-{}-{source}.mp4", safe(&peer));
        let size = config.size();
        let started = rfc3339(self.began_wall + micros);
        let entry = File {
            file: file.clone(),
            name: self.names.get(&peer).cloned().unwrap_or_default(),
            peer,
            track,
            source: source.to_owned(),
            codec: codec_name(&config).to_owned(),
            width: size.map(|size| size.0),
            height: size.map(|size| size.1),
            ended: started.clone(),
            started,
            bytes: 0,
            frames: 0,
            packets: 0,
            packets_lost: 0,
            gaps: 0,
            fragments_lost: 0,
            clock: "arrival",
            end_reason: None,
        };
        let path: Arc<Path> = self.folder.join(&file).into();
        match Track::begin(number, path, config, self.began_wall, entry, &self.disk) {
            Ok(track) => {
                self.list(track.entry.clone());
                self.written.entry(slot).or_default().track = Some(track);
            }
            Err(error) => tracing::error!(%error, file, "a file cannot begin"),
        }
    }

    fn tick(&mut self) -> Result<(), End> {
        if let Some(error) = self.disk.failure() {
            return Err(End::Disk(error));
        }
        let now = Instant::now();
        for slot in self.feed.slots() {
            self.drain(slot, now);
            let track = self.written.get_mut(&slot).and_then(|written| written.track.as_mut());
            if track.is_some_and(|track| !track.tick(self.feed.micros(now), &self.disk)) {
                self.feed.await_keyframe(slot);
            }
            if self.feed.wants_keyframe(slot, now) {
                // A queue that is full now is asked again.
                let _ = self.room.request_keyframe(slot);
            }
        }
        if self.is_changed && now.duration_since(self.listed) >= MANIFEST_INTERVAL {
            self.write_manifest();
        }
        Ok(())
    }

    fn write_manifest(&mut self) {
        let mut open = Vec::new();
        for (slot, written) in &mut self.written {
            if let Some(track) = &mut written.track {
                note_counts(track, self.feed.counts(*slot));
                open.push(track.entry.clone());
            }
        }
        open.into_iter().for_each(|file| self.list(file));
        self.manifest.packets_overflowed = self.room.overflowed();
        self.manifest.updated = rfc3339(wall_micros());
        let bytes = serde_json::to_vec_pretty(&self.manifest).expect("a list is always JSON");
        self.disk.replace(self.folder.join(LIST), bytes);
        (self.is_changed, self.listed) = (false, Instant::now());
    }
}

fn note_counts(track: &mut Track, counts: Counts) {
    track.entry.packets = counts.packets;
    track.entry.packets_lost = counts.lost;
    track.entry.clock = if counts.is_reported { "sender_reports" } else { "arrival" };
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Microphone => "microphone",
        Source::Camera => "camera",
        Source::Screen => "screen",
        Source::ScreenAudio => "screen_audio",
    }
}

fn codec_name(config: &Config) -> &'static str {
    match config {
        Config::Opus => "opus",
        Config::Aac => "aac",
        Config::H264 { .. } => "h264",
        Config::Vp8 { .. } => "vp8",
        Config::Vp9 { .. } => "vp9",
        Config::Av1 { .. } => "av1",
    }
}

/// What a server says, as a part of a file's name.
fn safe(text: &str) -> String {
    text.chars().filter(|char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_')).take(64).collect()
}

/// A new folder for this room and moment; two recordings of one second have two.
fn new_folder(parent: &Path, room: &str, wall: i64) -> std::io::Result<PathBuf> {
    let name = format!("{}-{}", safe_room(room), compact(wall));
    let mut attempt = 1;
    loop {
        let name = if attempt == 1 { name.clone() } else { format!("{name}-{attempt}") };
        let folder = parent.join(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
            made => return made.map(|()| folder),
        }
    }
}

/// Names of rooms are safe but for dots, which in front would hide a folder.
fn safe_room(room: &str) -> String {
    let safe: String = room.chars().filter(|char| char.is_ascii_alphanumeric() || "._-".contains(*char)).collect();
    safe.trim_start_matches('.').to_owned()
}
