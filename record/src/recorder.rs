//! The recording of one room: events of the room go in, files and the list of them come out.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::room::{self, Codec, EndReason, Event, JoinError, Packet, Room, SlotContent};
use proto::signal::{PeerInfo, Source};

use crate::clock::{Clock, ServerClock, since};
use crate::depacketize::{Config, Depacketizer, Frame};
use crate::disk::{Disk, DiskError, Quota};
use crate::manifest::{File, Manifest, Peer, VERSION};
use crate::order::{Order, Ordered};
use crate::time::{compact, rfc3339, wall_micros};
use crate::track::Track;

/// Between two looks at what waits.
const TICK: Duration = Duration::from_millis(50);
/// How often the list is written anew while something changes.
const MANIFEST_INTERVAL: Duration = Duration::from_secs(2);
/// Between two requests for a keyframe that has not come.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(1);
/// Files of one recording: a peer that changes its picture's size all the time fills no folder.
const FILES_MAX: usize = 4096;
/// People that are listed.
const PEERS_MAX: usize = 4096;
/// How long the frames of a new track wait for the first report of when they were captured, microseconds.
const HOLD_MICROS: i64 = 900_000;
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
        }
    }
}

/// One slot, while it carries one track.
struct Slot {
    content: SlotContent,
    order: Order,
    clock: Clock,
    depacketizer: Option<(Codec, Depacketizer)>,
    track: Option<Track>,
    /// The first frames, and when they came, until it is known when they were captured; None: they are written.
    held: Option<Vec<(Frame, i64)>>,
    /// Since the file began, or before there was one.
    packets: u64,
    lost: u64,
    asked_keyframe: Option<Instant>,
    /// When its last file began, microseconds of the recording.
    began_file: Option<i64>,
}

impl Slot {
    fn new(content: SlotContent) -> Slot {
        let rate = if content.kind == proto::signal::Kind::Audio { 48_000 } else { 90_000 };
        Slot {
            content,
            order: Order::default(),
            clock: Clock::new(rate),
            depacketizer: None,
            track: None,
            held: Some(Vec::new()),
            packets: 0,
            lost: 0,
            asked_keyframe: None,
            began_file: None,
        }
    }
}

/// A recording that goes on.
pub struct Recorder {
    room: Room,
    folder: PathBuf,
    disk: Disk,
    began: Instant,
    /// The same moment, microseconds since 1970.
    began_wall: i64,
    server_clock: ServerClock,
    slots: HashMap<usize, Slot>,
    names: HashMap<String, String>,
    manifest: Manifest,
    files: u32,
    frames: Vec<Frame>,
    is_changed: bool,
    written: Instant,
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
        let disk = Disk::start(settings.quota.clone()).map_err(failed)?;
        let mut recorder = Recorder {
            room,
            folder,
            disk,
            began,
            began_wall,
            server_clock: ServerClock::default(),
            slots: HashMap::new(),
            names: HashMap::new(),
            manifest,
            files: 0,
            frames: Vec::new(),
            is_changed: true,
            written: began,
        };
        recorder.write_manifest();
        Ok(recorder)
    }

    /// Where it records to.
    pub fn folder(&self) -> &Path {
        &self.folder
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
        self.room.leave().await;
        end
    }

    fn finish(&mut self, end: &End) {
        let slots: Vec<usize> = self.slots.keys().copied().collect();
        for slot in slots {
            self.end_slot(slot, "recording_ended");
        }
        self.manifest.ended = Some(rfc3339(wall_micros()));
        self.manifest.end_reason = Some(end.name().to_owned());
        self.write_manifest();
        self.disk.finish();
    }

    fn take(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Packet(packet) => self.take_packet(packet),
            Event::Clock(clock) => {
                let arrival = since(self.began, clock.arrival);
                let micros = self.server_clock.micros(clock.ntp_time, arrival);
                if let Some(slot) = self.slots.get_mut(&clock.slot) {
                    slot.clock.report(clock.rtp_time, micros);
                    self.release(clock.slot);
                }
            }
            Event::Slots(contents) => contents.into_iter().for_each(|content| self.take_content(content)),
            Event::Joined { .. } => {
                // Numbers and clocks of the peer before hold no more.
                let slots: Vec<usize> = self.slots.keys().copied().collect();
                slots.into_iter().for_each(|slot| self.end_slot(slot, "track_ended"));
                self.server_clock = ServerClock::default();
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
        if self.slots.get(&content.slot).is_some_and(|slot| slot.content.track == content.track) {
            return;
        }
        self.end_slot(content.slot, "track_ended");
        if content.track.is_some() {
            self.slots.insert(content.slot, Slot::new(content));
        }
    }

    fn end_slot(&mut self, number: usize, reason: &'static str) {
        let now = Instant::now();
        self.drain(number, now);
        self.release(number);
        let Some(mut slot) = self.slots.remove(&number) else { return };
        if let Some(track) = slot.track.take() {
            self.end_track(track, &slot, reason);
        }
    }

    fn end_track(&mut self, mut track: Track, slot: &Slot, reason: &'static str) {
        note_counts(&mut track, slot);
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

    fn take_packet(&mut self, packet: Packet) {
        let number = packet.slot;
        // Of nobody: the signal that says whose it is comes later, by another path.
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.packets += 1;
        slot.order.push(packet);
        self.drain(number, Instant::now());
    }

    /// Takes all packets of a slot that are in order now.
    fn drain(&mut self, number: usize, now: Instant) {
        while let Some(slot) = self.slots.get_mut(&number)
            && let Some(ordered) = slot.order.pop(now)
        {
            let mut frames = std::mem::take(&mut self.frames);
            let arrival = since(self.began, ordered.packet.arrival);
            depacketize(slot, &ordered, &mut frames);
            for frame in frames.drain(..) {
                self.take_frame(number, frame, arrival);
            }
            self.frames = frames;
        }
    }

    fn take_frame(&mut self, number: usize, frame: Frame, arrival: i64) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        match &mut slot.held {
            Some(held) => {
                slot.clock.arrived(frame.timestamp, arrival);
                held.push((frame, arrival));
                if slot.clock.is_reported() {
                    self.release(number);
                }
            }
            None => self.write_frame(number, frame, arrival),
        }
    }

    /// Writes the first frames of a track.
    fn release(&mut self, number: usize) {
        let held = self.slots.get_mut(&number).and_then(|slot| slot.held.take());
        held.into_iter().flatten().for_each(|(frame, arrival)| self.write_frame(number, frame, arrival));
    }

    fn write_frame(&mut self, number: usize, frame: Frame, arrival: i64) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let micros = slot.clock.micros(frame.timestamp, arrival);
        let is_other = |config: &Config| slot.track.as_ref().is_none_or(|track| track.config != *config);
        if let Some(config) = frame.config.clone().filter(is_other) {
            if slot.began_file.is_some_and(|began| micros - began < FILE_INTERVAL_MICROS) {
                slot.depacketizer.iter_mut().for_each(|(_, depacketizer)| depacketizer.await_keyframe());
                return;
            }
            slot.began_file = Some(micros);
            let slot = self.slots.remove(&number);
            if let Some(slot) = slot.and_then(|slot| self.begin_file(slot, config, micros)) {
                self.slots.insert(number, slot);
            }
        }
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Some(track) = &mut slot.track else { return };
        let is_whole = track.push(frame, micros, &self.disk);
        if !is_whole && let Some((_, depacketizer)) = &mut slot.depacketizer {
            depacketizer.await_keyframe();
        }
        self.is_changed = true;
    }

    /// Another file for a slot's track.
    fn begin_file(&mut self, mut slot: Slot, config: Config, micros: i64) -> Option<Slot> {
        if let Some(track) = slot.track.take() {
            self.end_track(track, &slot, "config_changed");
            slot.packets = 0;
            slot.lost = 0;
        }
        let (peer, track, source) =
            (slot.content.peer.clone()?, slot.content.track.clone()?, slot.content.source.unwrap_or(Source::Camera));
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
                slot.track = Some(track);
            }
            Err(error) => tracing::error!(%error, file, "a file cannot begin"),
        }
        Some(slot)
    }

    fn tick(&mut self) -> Result<(), End> {
        if let Some(error) = self.disk.failure() {
            return Err(End::Disk(error));
        }
        let now = Instant::now();
        let numbers: Vec<usize> = self.slots.keys().copied().collect();
        for number in numbers {
            self.drain(number, now);
            let Some(slot) = self.slots.get_mut(&number) else { continue };
            let first = slot.held.as_ref().and_then(|held| held.first()).map(|(_, arrival)| *arrival);
            if first.is_some_and(|first| since(self.began, now) - first >= HOLD_MICROS) {
                self.release(number);
            }
            let Some(slot) = self.slots.get_mut(&number) else { continue };
            if let Some(track) = &mut slot.track
                && !track.tick(since(self.began, now), &self.disk)
                && let Some((_, depacketizer)) = &mut slot.depacketizer
            {
                depacketizer.await_keyframe();
            }
            let wants = slot.depacketizer.as_ref().is_some_and(|(_, depacketizer)| depacketizer.wants_keyframe());
            let may = slot.asked_keyframe.is_none_or(|asked| now.duration_since(asked) >= KEYFRAME_INTERVAL);
            if wants && may {
                slot.asked_keyframe = Some(now);
                // A queue that is full now is asked again.
                let _ = self.room.request_keyframe(number);
            }
        }
        if self.is_changed && now.duration_since(self.written) >= MANIFEST_INTERVAL {
            self.write_manifest();
        }
        Ok(())
    }

    fn write_manifest(&mut self) {
        let mut open = Vec::new();
        for slot in self.slots.values_mut() {
            let Some(mut track) = slot.track.take() else { continue };
            note_counts(&mut track, slot);
            open.push(track.entry.clone());
            slot.track = Some(track);
        }
        open.into_iter().for_each(|file| self.list(file));
        self.manifest.packets_overflowed = self.room.overflowed();
        self.manifest.updated = rfc3339(wall_micros());
        let bytes = serde_json::to_vec_pretty(&self.manifest).expect("a list is always JSON");
        self.disk.replace(self.folder.join("recording.json"), bytes);
        (self.is_changed, self.written) = (false, Instant::now());
    }
}

fn note_counts(track: &mut Track, slot: &Slot) {
    track.entry.packets = slot.packets;
    track.entry.packets_lost = slot.lost;
    track.entry.clock = if slot.clock.is_reported() { "sender_reports" } else { "arrival" };
}

fn depacketize(slot: &mut Slot, ordered: &Ordered, frames: &mut Vec<Frame>) {
    let Ordered { packet, lost } = ordered;
    slot.lost += lost;
    if slot.depacketizer.as_ref().is_none_or(|(codec, _)| *codec != packet.codec) {
        slot.depacketizer = Some((packet.codec, Depacketizer::new(packet.codec)));
        slot.asked_keyframe = None;
    }
    let Some((_, depacketizer)) = &mut slot.depacketizer else { return };
    let was_waiting = depacketizer.wants_keyframe();
    let header = &packet.header;
    depacketizer.push(*lost > 0, header.timestamp, header.marker, &packet.payload, frames);
    if depacketizer.wants_keyframe() && !was_waiting {
        slot.asked_keyframe = None; // At once.
    }
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
