//! What becomes of a feed's frames: pictures as they came or through a child, sound through a child and Opus; then packets.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::room::{Outgoing, Room, SendError};
use opusic_c::{Application, Bitrate, Channels, Encoder, SampleRate};
use proto::signal::Kind as Media;

use crate::avc::Config;
use crate::child::{Child, Starter};
use crate::flv::{Content, Kind, Reader, Tag};
use crate::plan::{Plan, Seen};
use crate::timeline::Timeline;

/// Times of a child begin here, so that what an encoder puts before the first frame has one, too; milliseconds.
const CHILD_BEGIN: i64 = 1000;
/// A frame of Opus: 20 ms of two channels.
const FRAME_SAMPLES: usize = 960;
const FRAME_LEN: usize = FRAME_SAMPLES * 2 * 2;
/// Longest packet of Opus: 20 ms at 510 kb/s.
const OPUS_LEN_MAX: usize = 1275;
/// What Opus gets at most, bit/s: stereo music.
const OPUS_BPS_MAX: u32 = 128_000;
const OPUS_BPS_MIN: u32 = 16_000;
/// By how much libopus delays what it encodes, samples.
const OPUS_DELAY: i64 = 312;
/// Until a child that ended is started again; doubled each time that it ends within the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Silence, as a level (RFC 6464).
const SILENT: u8 = 127;

/// When a child may start again.
#[derive(Debug)]
struct Backoff {
    began: Instant,
    pause: Duration,
}

impl Backoff {
    fn new(now: Instant) -> Backoff {
        Backoff { began: now, pause: Duration::ZERO }
    }

    fn started(&mut self, now: Instant) {
        self.began = now;
    }

    fn ended(&mut self, now: Instant) {
        let lived = now.duration_since(self.began);
        self.pause = if lived > BACKOFF_MAX { BACKOFF_MIN } else { (self.pause * 2).clamp(BACKOFF_MIN, BACKOFF_MAX) };
        self.began = now;
    }

    fn may_start(&self, now: Instant) -> bool {
        now.duration_since(self.began) >= self.pause
    }
}

/// Microseconds since 1970.
fn wall_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

fn send(
    room: &Room,
    (kind, timestamp, marker, level): (Media, u32, bool, Option<u8>),
    captured: i64,
    payload: Vec<u8>,
) -> Result<(), SendError> {
    let captured_micros = Some(captured.max(0) as u64);
    room.send(Outgoing { kind, timestamp, marker, payload, captured_micros, level })
}

/// The pictures of a feed.
pub(crate) struct Pictures {
    /// What was seen of them.
    pub(crate) seen: Seen,
    config: Option<(Tag, Config)>,
    /// The child's, as it wrote it.
    encoded: Option<Config>,
    plan: Option<Plan>,
    /// Another picture size or the like: what encodes begins anew.
    is_other: bool,
    child: Option<(Child, Reader)>,
    /// The time that the child's begins at.
    base: i64,
    backoff: Backoff,
    awaits_keyframe: bool,
    /// Frames that were not sent because something was too slow.
    pub(crate) dropped: u64,
}

impl Pictures {
    pub(crate) fn new(now: Instant) -> Pictures {
        Pictures {
            seen: Seen::default(),
            config: None,
            encoded: None,
            plan: None,
            is_other: false,
            child: None,
            base: 0,
            backoff: Backoff::new(now),
            awaits_keyframe: true,
            dropped: 0,
        }
    }

    pub(crate) fn has_config(&self) -> bool {
        self.config.is_some()
    }

    /// Keeps what a tag says of those that follow.
    pub(crate) fn note(&mut self, tag: &Tag) {
        if let Content::AvcConfig(record) = tag.content()
            && let Some(config) = Config::parse(record)
        {
            self.is_other |= self.config.as_ref().is_some_and(|(_, known)| *known != config);
            self.config = Some((tag.clone(), config));
        }
        self.seen.note(tag, self.config.as_ref().map(|(_, config)| config));
    }

    /// What comes next has nothing to do with what came before.
    pub(crate) fn begin(&mut self) {
        (self.child, self.awaits_keyframe, self.is_other) = (None, true, true);
    }

    /// Takes a frame of this time.
    pub(crate) fn take(&mut self, tag: &Tag, time: i64, bps_max: u32, to: &mut Out<'_>) {
        let Content::Avc { is_key, units, .. } = tag.content() else { return };
        let Some((config_tag, config)) = &self.config else { return };
        if is_key {
            let plan = self.seen.plan(bps_max, self.plan);
            if self.plan != Some(plan) || self.is_other {
                tracing::info!(event = "feed_video", plan = ?plan, "what becomes of the pictures from now on");
                (self.child, self.plan, self.is_other) = (None, Some(plan), false);
            }
            self.awaits_keyframe = false;
        }
        let now = to.now;
        if let (true, None, Some(Plan::Encode(encoding))) = (is_key, &self.child, self.plan)
            && self.backoff.may_start(now)
        {
            match to.starter.pictures(&encoding) {
                Ok(child) => {
                    child.feed_tag(config_tag, 0);
                    (self.child, self.base) = (Some((child, Reader::default())), time - CHILD_BEGIN);
                    self.backoff.started(now);
                }
                Err(error) => {
                    tracing::warn!(event = "feed_child_ended", kind = "video", %error, "a child does not start");
                    self.backoff.ended(now);
                }
            }
        }
        if self.awaits_keyframe {
            return;
        }
        let is_taken = match (self.plan, &self.child) {
            (Some(Plan::Copy), _) => {
                let payloads = config.payloads(units);
                payloads.is_some_and(|payloads| send_picture(payloads, time, to))
            }
            (_, Some((child, _))) => child.feed_tag(tag, (time - self.base).max(0) as u32),
            _ => return,
        };
        if !is_taken {
            self.dropped += 1;
            self.awaits_keyframe = true;
        }
    }

    /// What the child writes next. May be cancelled and called again; waits for ever without one.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        match &mut self.child {
            Some((child, _)) => child.next().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what it wrote.
    pub(crate) async fn written(&mut self, piece: Option<Vec<u8>>, to: &mut Out<'_>) {
        let Some((_, reader)) = &mut self.child else { return };
        let mut tags = Vec::new();
        if piece.is_none_or(|piece| reader.read(&piece, &mut tags).is_err()) {
            self.backoff.ended(to.now);
            self.awaits_keyframe = true;
            if let Some((child, _)) = self.child.take() {
                child_ended("video", child).await;
            }
            return;
        }
        for tag in tags {
            match tag.content() {
                Content::AvcConfig(record) => self.encoded = Config::parse(record),
                Content::Avc { units, .. } => {
                    let payloads = self.encoded.as_ref().and_then(|config| config.payloads(units));
                    let time = self.base + i64::from(tag.timestamp);
                    if !payloads.is_some_and(|payloads| send_picture(payloads, time, to)) {
                        self.dropped += 1;
                    }
                }
                _ => (),
            }
        }
    }
}

async fn child_ended(kind: &str, child: Child) {
    let complaint = child.complaint().await;
    tracing::warn!(
        event = "feed_child_ended",
        kind,
        complaint,
        "a child of ffmpeg ended, and another one takes its place"
    );
}

fn send_picture(payloads: Vec<Vec<u8>>, time: i64, to: &mut Out<'_>) -> bool {
    let captured = to.captured(time * 1000);
    let last = payloads.len();
    let mut sent = payloads
        .into_iter()
        .enumerate()
        .map(|(i, payload)| send(to.room, (Media::Video, (time * 90) as u32, i + 1 == last, None), captured, payload));
    sent.all(|sent| sent.is_ok())
}

/// Where packets go, and by what means.
pub(crate) struct Out<'a> {
    pub(crate) room: &'a Room,
    pub(crate) starter: &'a Starter,
    pub(crate) timeline: &'a mut Timeline,
    pub(crate) now: Instant,
}

impl Out<'_> {
    /// When it was captured, microseconds since 1970.
    fn captured(&mut self, time_micros: i64) -> i64 {
        wall_micros() - self.timeline.waited(time_micros, self.now)
    }
}

/// The sound of a feed.
pub(crate) struct Sound {
    config: Option<Tag>,
    child: Option<Child>,
    base: i64,
    backoff: Backoff,
    encoder: Option<Encoder>,
    samples: Vec<u8>,
    /// The time of the next frame, samples.
    next_at: i64,
}

impl Sound {
    pub(crate) fn new(now: Instant) -> Sound {
        let backoff = Backoff::new(now);
        Sound { config: None, child: None, base: 0, backoff, encoder: None, samples: Vec::new(), next_at: 0 }
    }

    pub(crate) fn has_config(&self) -> bool {
        self.config.is_some()
    }

    pub(crate) fn note(&mut self, tag: &Tag) {
        if tag.content() == Content::AacConfig {
            if self.config.as_ref().is_some_and(|known| known.body != tag.body) {
                self.child = None;
            }
            self.config = Some(tag.clone());
        }
    }

    pub(crate) fn begin(&mut self) {
        self.child = None;
    }

    /// Another feed begins.
    pub(crate) fn renew(&mut self) {
        (self.child, self.config) = (None, None);
    }

    /// What the room allows it, bit/s.
    pub(crate) fn set_bps_max(&mut self, bps_max: u32) {
        let bps = bps_max.clamp(OPUS_BPS_MIN, OPUS_BPS_MAX);
        if self.encoder.is_none() {
            self.encoder = Encoder::new(Channels::Stereo, SampleRate::Hz48000, Application::Audio).ok();
        }
        // A rate within what Opus has is always taken.
        if let Some(encoder) = &mut self.encoder {
            let _ = encoder.set_bitrate(Bitrate::Value(bps));
        }
    }

    pub(crate) fn take(&mut self, tag: &Tag, time: i64, to: &mut Out<'_>) {
        let (Content::Aac, Some(config)) = (tag.content(), &self.config) else { return };
        let now = to.now;
        if self.child.is_none() && self.backoff.may_start(now) {
            match to.starter.samples() {
                Ok(child) => {
                    child.feed_tag(config, 0);
                    (self.child, self.base) = (Some(child), time);
                    self.samples.clear();
                    self.next_at = (time * 48).max(self.next_at);
                    self.backoff.started(now);
                }
                Err(error) => {
                    tracing::warn!(event = "feed_child_ended", kind = "audio", %error, "a child does not start");
                    self.backoff.ended(now);
                }
            }
        }
        // What it does not take is silence of that length.
        if let Some(child) = &self.child {
            let _ = child.feed_tag(tag, (time - self.base).max(0) as u32);
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        match &mut self.child {
            Some(child) => child.next().await,
            None => std::future::pending().await,
        }
    }

    pub(crate) async fn written(&mut self, piece: Option<Vec<u8>>, to: &mut Out<'_>) {
        let Some(piece) = piece else {
            self.backoff.ended(to.now);
            if let Some(child) = self.child.take() {
                child_ended("audio", child).await;
            }
            return;
        };
        self.samples.extend(piece);
        let mut at = 0;
        while let Some(frame) = self.samples.get(at..at + FRAME_LEN) {
            let time = self.next_at;
            self.next_at += FRAME_SAMPLES as i64;
            at += FRAME_LEN;
            let samples: Vec<f32> =
                frame.as_chunks().0.iter().map(|&bytes| f32::from(i16::from_le_bytes(bytes)) / 32_768.0).collect();
            let mut packet = [0; OPUS_LEN_MAX];
            let Some(encoder) = &mut self.encoder else { continue };
            let Ok(len) = encoder.encode_float_to_slice(&samples, &mut packet) else { continue };
            // What it holds is that much older than what it was given.
            let time = time - OPUS_DELAY;
            let captured = to.captured(time * 1000 / 48);
            // A queue that is full loses 20 ms.
            let _ = send(
                to.room,
                (Media::Audio, time as u32, false, Some(level(&samples))),
                captured,
                packet[..len].to_vec(),
            );
        }
        self.samples.drain(..at);
    }
}

/// Of samples between −1 and 1, as RFC 6464 counts: 0 is the loudest, 127 nothing.
fn level(samples: &[f32]) -> u8 {
    let power = samples.iter().map(|sample| sample * sample).sum::<f32>() / samples.len().max(1) as f32;
    if power <= 0.0 { SILENT } else { (-10.0 * power.log10()).round().clamp(0.0, f32::from(SILENT)) as u8 }
}

/// Whether a tag has a frame of sound or a picture.
pub(crate) fn is_frame(tag: &Tag) -> bool {
    matches!(tag.content(), Content::Avc { .. } | Content::Aac)
}

/// The pictures a second that metadata says.
pub(crate) fn framerate(tag: &Tag) -> Option<f64> {
    let values = (tag.kind == Kind::Script).then(|| crate::amf::read(&tag.body)).flatten()?;
    values.iter().find_map(|value| value.get("framerate")?.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_as_loud_as_samples() {
        assert_eq!((level(&[1.0; 10]), level(&[0.1; 10]), level(&[0.0; 10]), level(&[])), (0, 20, 127, 127));
    }

    #[test]
    fn a_child_that_ends_again_and_again_waits_longer_each_time() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut backoff = Backoff::new(began);
        assert!(backoff.may_start(began));
        backoff.ended(at(10));
        assert!(!backoff.may_start(at(200)) && backoff.may_start(at(210)));
        backoff.started(at(210));
        backoff.ended(at(220));
        assert!(!backoff.may_start(at(600)) && backoff.may_start(at(620)));
        backoff.started(at(620));
        backoff.ended(at(60_000));
        assert!(backoff.may_start(at(60_200)), "one that lived is not held against");
    }
}
