//! One file that is being written: frames go in with their times, fragments come out.

use std::path::Path;
use std::sync::Arc;

use crate::depacketize::{Config, Frame, opus};
use crate::disk::Disk;
use crate::manifest::File;
use crate::mp4::{self, Sample};
use crate::time::rfc3339;

/// A fragment has so much media at most, microseconds: with what waits for repair, less than a second is in memory alone.
const FRAGMENT_MICROS: i64 = 500_000;
/// What lasts longer than this until the next frame is a gap and not a long frame, microseconds. A screen that stands still may send
/// a frame a second.
const VIDEO_GAP_MICROS: i64 = 1_200_000;
/// The same of audio, beyond a packet's own length.
const AUDIO_GAP_MICROS: i64 = 10_000;
/// How long the last frame before a gap is shown, microseconds.
const LAST_FRAME_MICROS: i64 = 40_000;

/// A file.
pub(crate) struct Track {
    number: u32,
    path: Arc<Path>,
    pub(crate) config: Config,
    timescale: i64,
    /// When the recording began, microseconds since 1970.
    began: i64,
    fragments: u32,
    /// The frames of the fragment that is being collected. The last one's duration is not known.
    samples: Vec<Sample>,
    /// Where the next frame may begin, ticks.
    free_from: u64,
    /// What is told of it.
    pub(crate) entry: File,
}

impl Track {
    /// A file that begins with its header.
    pub(crate) fn begin(
        number: u32,
        path: Arc<Path>,
        config: Config,
        began: i64,
        entry: File,
        disk: &Disk,
    ) -> Result<Track, mp4_atom::Error> {
        let header = mp4::header(&[&config], (began / 1_000_000) as u64)?;
        let timescale = i64::from(mp4::timescale(&config));
        let mut track =
            Track { number, path, config, timescale, began, fragments: 0, samples: Vec::new(), free_from: 0, entry };
        track.append(disk, header);
        Ok(track)
    }

    fn append(&mut self, disk: &Disk, bytes: Vec<u8>) -> bool {
        let len = bytes.len() as u64;
        let is_taken = disk.append(self.number, &self.path, bytes);
        if is_taken {
            self.entry.bytes += len
        } else {
            self.entry.fragments_lost += 1
        }
        is_taken
    }

    fn ticks(&self, micros: i64) -> u64 {
        (micros.max(0) * self.timescale / 1_000_000) as u64
    }

    /// Takes a frame that was captured so many microseconds after the recording began. False: a fragment was lost, and what comes next
    /// must be a keyframe.
    pub(crate) fn push(&mut self, frame: Frame, micros: i64, disk: &Disk) -> bool {
        let (is_audio, timescale) = (self.config == Config::Opus, self.timescale);
        let own = opus::duration(&frame.data).filter(|_| is_audio);
        let mut start = self.ticks(micros);
        let mut is_whole = true;
        if let Some(last) = self.samples.last_mut() {
            // Audio follows its own length, so that rounding and jitter of reports make no holes.
            let expected = last.start + u64::from(last.duration);
            let after = start as i64 - if is_audio { expected } else { last.start } as i64;
            let gap = if is_audio { AUDIO_GAP_MICROS } else { VIDEO_GAP_MICROS } * timescale / 1_000_000;
            if after > gap {
                self.entry.gaps += 1;
                is_whole = self.flush(disk);
            } else if is_audio && after.abs() <= gap {
                start = expected;
            } else {
                start = start.max(last.start + 1);
                last.duration = (start - last.start) as u32;
            }
        } else if self.fragments > 0 && start > self.free_from + self.ticks(VIDEO_GAP_MICROS) {
            self.entry.gaps += 1;
        }
        start = start.max(self.free_from);
        let duration = own.unwrap_or((LAST_FRAME_MICROS * timescale / 1_000_000) as u32);
        self.entry.frames += 1;
        self.entry.ended = rfc3339(self.began + (start as i64 + i64::from(duration)) * 1_000_000 / timescale);
        self.samples.push(Sample { start, duration, is_key: frame.is_key, data: frame.data });
        let first = self.samples[0].start;
        if start - first >= self.ticks(FRAGMENT_MICROS) {
            is_whole &= self.flush_but_last(disk);
        }
        is_whole
    }

    /// Writes what is collected and older than a fragment may be, although nothing has come since. `micros` is now.
    pub(crate) fn tick(&mut self, micros: i64, disk: &Disk) -> bool {
        let is_old =
            |sample: &Sample| self.ticks(micros - FRAGMENT_MICROS) > sample.start + self.ticks(FRAGMENT_MICROS) / 2;
        if self.samples.first().is_some_and(is_old) { self.flush(disk) } else { true }
    }

    /// All but the last frame, whose duration is not known yet.
    fn flush_but_last(&mut self, disk: &Disk) -> bool {
        let last = self.samples.pop();
        let is_whole = self.flush(disk);
        if let Some(last) = last {
            self.samples.push(last);
        }
        is_whole
    }

    /// All of it.
    pub(crate) fn flush(&mut self, disk: &Disk) -> bool {
        let Some(last) = self.samples.last() else { return true };
        self.free_from = last.start + u64::from(last.duration);
        self.fragments += 1;
        let fragment = mp4::fragment(self.fragments, &[&self.samples]);
        self.samples.clear();
        match fragment {
            Ok(bytes) => self.append(disk, bytes),
            Err(error) => {
                tracing::error!(%error, file = self.entry.file, "a fragment cannot be written");
                self.entry.fragments_lost += 1;
                false
            }
        }
    }

    /// Writes the rest and closes the file. What is told of it.
    pub(crate) fn end(mut self, reason: &'static str, disk: &Disk) -> File {
        self.flush(disk);
        disk.close(self.number);
        self.entry.end_reason = Some(reason);
        self.entry
    }
}
