//! From pictures and sound with their times to parts, and from parts to segments (RFC 8216bis §3.1, §4.4.4.9). Without a clock of its own.
//!
//! A part has half a second at most. A segment begins with a keyframe, with another size or source of the picture at once; only where no
//! keyframe comes for so long that a segment would be longer than is announced it begins without one.

use std::collections::VecDeque;

use record::depacketize::{Config, Frame};
use record::mp4::{self, Sample};

use crate::encode::Sound;
use crate::mix::sample;

/// Longest part, microseconds.
pub(crate) const PART_MICROS: i64 = 500_000;
/// A keyframe begins another segment when there is so much in this one, microseconds.
const SEGMENT_MIN_MICROS: i64 = 2_000_000;
/// What has so much goes on without a keyframe, microseconds; with a part it is what is announced.
const SEGMENT_MAX_MICROS: i64 = 4_900_000;
/// How long a part waits for what it lacks, microseconds.
const LATE_MICROS: i64 = 700_000;
/// How long the last picture stands beyond its part if it is not known when the next one comes, microseconds.
const STANDS_MICROS: i64 = 1_500_000;
/// Pictures that wait; with the time that a part waits, more than any camera sends.
const PICTURES_MAX: usize = 512;

struct Picture {
    micros: i64,
    frame: Frame,
    is_other: bool,
}

/// What comes out.
#[derive(Debug)]
pub(crate) enum Cut {
    /// What the parts that follow need. It begins a segment, and what was before it may differ in everything.
    Init(Vec<u8>),
    /// A part.
    Part {
        bytes: Vec<u8>,
        micros: i64,
        /// When it begins.
        begin: i64,
        begins_segment: bool,
        is_independent: bool,
    },
}

pub(crate) struct Cutter {
    sound: Config,
    pictures: VecDeque<Picture>,
    sounds: VecDeque<Sound>,
    sound_until: i64,
    /// Of the pictures; None before the first one.
    config: Option<Config>,
    part: i64,
    segment: i64,
    begins_segment: bool,
    fragments: u32,
    /// Ticks of 90 kHz and samples that are free.
    free: (u64, u64),
}

impl Cutter {
    /// With sound of this kind.
    pub(crate) fn new(sound: Config) -> Cutter {
        Cutter {
            sound,
            pictures: VecDeque::new(),
            sounds: VecDeque::new(),
            sound_until: i64::MIN,
            config: None,
            part: 0,
            segment: 0,
            begins_segment: true,
            fragments: 0,
            free: (0, 0),
        }
    }

    /// Takes a picture. `is_other`: it is of another source than the one before, and a keyframe. False: too many wait, and what comes next
    /// must be a keyframe.
    pub(crate) fn picture(&mut self, micros: i64, frame: Frame, is_other: bool) -> bool {
        if self.pictures.len() >= PICTURES_MAX {
            return false;
        }
        // What is too late for its part is in the next one.
        let least = self.pictures.back().map_or(self.part, |last| last.micros + 1);
        self.pictures.push_back(Picture { micros: micros.max(least), frame, is_other });
        true
    }

    /// Takes sound, and up to which sample there is all of it.
    pub(crate) fn sound(&mut self, sound: Sound) {
        self.sound_until = sound.start + sound.len;
        self.sounds.push_back(sound);
        if self.config.is_none() {
            // Nothing to be seen yet: it is not needed.
            self.sounds.drain(..self.sounds.len().saturating_sub(256));
        }
    }

    /// What can be cut at this moment. Called until there is none.
    pub(crate) fn poll(&mut self, now: i64) -> Result<Option<Cut>, record::mp4::Error> {
        let Some(first) = self.pictures.front() else {
            return if self.config.is_some() { self.part(now) } else { Ok(None) };
        };
        let is_begin = first.micros <= self.part || self.config.is_none();
        if let Some(config) = first.frame.config.clone().filter(|config| is_begin && self.is_init(first, config)) {
            if self.config.is_none() {
                self.part = first.micros;
            }
            (self.segment, self.begins_segment) = (self.part, true);
            let header = mp4::header(&[&config, &self.sound], 0)?;
            self.config = Some(config);
            if let Some(first) = self.pictures.front_mut() {
                first.is_other = false;
            }
            return Ok(Some(Cut::Init(header)));
        }
        if self.config.is_none() {
            self.pictures.pop_front(); // None that could be the first one.
            return Ok(None);
        }
        self.part(now)
    }

    fn is_init(&self, picture: &Picture, config: &Config) -> bool {
        picture.is_other || self.config.as_ref() != Some(config)
    }

    /// Whether a picture begins a segment.
    fn is_begin(&self, picture: &Picture) -> bool {
        let is_old = picture.micros - self.segment >= SEGMENT_MIN_MICROS;
        let is_init = picture.frame.config.as_ref().is_some_and(|config| self.is_init(picture, config));
        is_init || picture.frame.is_key && is_old
    }

    fn part(&mut self, now: i64) -> Result<Option<Cut>, record::mp4::Error> {
        let (begin, longest) = (self.part, self.part + PART_MICROS);
        let next = self.pictures.iter().find(|picture| picture.micros > begin && self.is_begin(picture));
        let end = next.map_or(longest, |next| next.micros.min(longest));
        let has_pictures = self.pictures.back().is_some_and(|last| last.micros >= end);
        let has_sound = self.sound_until >= sample(end);
        if !(has_pictures && has_sound || now >= end + LATE_MICROS) {
            return Ok(None);
        }
        let is_end_of_segment = next.is_some_and(|next| next.micros == end) || end - self.segment >= SEGMENT_MAX_MICROS;
        let (pictures, sounds) = (self.take_pictures(end), self.take_sounds(end));
        let is_independent = pictures.first().is_some_and(|first| first.is_key);
        self.fragments += 1;
        let bytes = mp4::fragment(self.fragments, &[&pictures, &sounds])?;
        let begins_segment = std::mem::take(&mut self.begins_segment);
        self.part = end;
        if is_end_of_segment {
            (self.segment, self.begins_segment) = (end, true);
        }
        Ok(Some(Cut::Part { bytes, micros: end - begin, begin, begins_segment, is_independent }))
    }

    fn take_pictures(&mut self, end: i64) -> Vec<Sample> {
        let ticks = |micros: i64| (micros.max(0) * 90 / 1000) as u64;
        let mut samples: Vec<Sample> = Vec::new();
        while self.pictures.front().is_some_and(|first| first.micros < end)
            && let Some(Picture { micros, frame, .. }) = self.pictures.pop_front()
        {
            let start = ticks(micros).max(self.free.0);
            self.free.0 = start + 1;
            if let Some(last) = samples.last_mut() {
                last.duration = (start - last.start) as u32;
            }
            samples.push(Sample { start, duration: 0, is_key: frame.is_key, data: frame.data });
        }
        if let Some(last) = samples.last_mut() {
            let next = self.pictures.front().map_or(end + STANDS_MICROS, |next| next.micros);
            last.duration = (ticks(next).saturating_sub(last.start) as u32).max(1);
        }
        samples
    }

    fn take_sounds(&mut self, end: i64) -> Vec<Sample> {
        let mut samples = Vec::new();
        while self.sounds.front().is_some_and(|first| first.start < sample(end))
            && let Some(Sound { start, len, data }) = self.sounds.pop_front()
        {
            // What was before the first picture.
            if start < sample(self.part) - len && self.free.1 == 0 {
                continue;
            }
            let start = (start.max(0) as u64).max(self.free.1);
            self.free.1 = start + len as u64;
            samples.push(Sample { start, duration: len as u32, is_key: true, data });
        }
        samples
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::black::Black;
    use crate::mix::FRAME;

    /// 25 pictures a second, of which one in so many is a keyframe.
    pub(crate) struct Camera {
        black: Black,
        number: i64,
        keyframe: i64,
    }

    impl Camera {
        pub(crate) fn new(keyframe: i64) -> Camera {
            Camera { black: Black::new(), number: 0, keyframe }
        }

        pub(crate) fn next(&mut self) -> (i64, Frame) {
            let (micros, mut frame) = (1_000_000 + self.number * 40_000, self.black.picture());
            if self.number % self.keyframe != 0 {
                (frame.is_key, frame.config) = (false, None);
            }
            self.number += 1;
            (micros, frame)
        }
    }

    fn silence(cutter: &mut Cutter, until: i64) {
        let mut start = cutter.sound_until.max(0);
        while start < sample(until) {
            cutter.sound(Sound { start, len: FRAME as i64, data: vec![0xFC, 0xFF, 0xFE] });
            start += FRAME as i64;
        }
    }

    /// Begin, length, whether it begins a segment, and with a keyframe; of a header nothing.
    fn cuts(cutter: &mut Cutter, now: i64) -> Vec<Option<(i64, i64, bool, bool)>> {
        std::iter::from_fn(|| cutter.poll(now).unwrap())
            .map(|cut| match cut {
                Cut::Init(bytes) => {
                    assert_eq!(&bytes[4..8], b"ftyp");
                    None
                }
                Cut::Part { micros, begin, begins_segment, is_independent, .. } => {
                    Some((begin, micros, begins_segment, is_independent))
                }
            })
            .collect()
    }

    #[test]
    fn segments_begin_with_keyframes_and_parts_are_short() {
        let (mut cutter, mut camera) = (Cutter::new(Config::Opus), Camera::new(105));
        let mut all = Vec::new();
        for _ in 0..500 {
            let (micros, frame) = camera.next();
            assert!(cutter.picture(micros, frame, false));
            silence(&mut cutter, micros + 100_000);
            all.extend(cuts(&mut cutter, micros));
        }
        assert!(all[0].is_none() && all[1..].iter().all(Option::is_some), "one header");
        let parts: Vec<_> = all.into_iter().flatten().collect();
        let mut next = 1_000_000;
        for (begin, micros, begins_segment, is_independent) in &parts {
            assert_eq!((*begin, begins_segment), (next, is_independent), "{parts:?}");
            assert!((1..=PART_MICROS).contains(micros));
            next = begin + micros;
        }
        // A keyframe each 4.2 seconds.
        let begins: Vec<i64> = parts.iter().filter(|part| part.2).map(|part| part.0).collect();
        assert!(begins.windows(2).all(|pair| pair[1] - pair[0] == 4_200_000), "{begins:?}");
        assert_eq!(begins.len(), 5);
    }

    #[test]
    fn without_a_keyframe_and_without_pictures_it_goes_on() {
        let (mut cutter, mut camera) = (Cutter::new(Config::Opus), Camera::new(10_000));
        let mut parts = Vec::new();
        for _ in 0..250 {
            let (micros, frame) = camera.next();
            cutter.picture(micros, frame, false);
            silence(&mut cutter, micros + 100_000);
            parts.extend(cuts(&mut cutter, micros).into_iter().flatten());
        }
        let begins: Vec<_> = parts.iter().filter(|part| part.2).map(|part| (part.0, part.3)).collect();
        assert_eq!(begins, [(1_000_000, true), (6_000_000, false)], "5 s at most");
        // No picture any more, and no sound: each part is waited for a while.
        let last = parts.last().map(|part| part.0 + part.1).unwrap();
        assert!(cuts(&mut cutter, last + PART_MICROS + LATE_MICROS - 1).is_empty());
        assert_eq!(cuts(&mut cutter, last + PART_MICROS + LATE_MICROS).len(), 1);
    }

    #[test]
    fn another_source_begins_a_segment_with_a_header() {
        let (mut cutter, mut camera) = (Cutter::new(Config::Opus), Camera::new(25));
        let mut kinds = Vec::new();
        for number in 0..60 {
            let (micros, frame) = camera.next();
            // At 1.0 s, long before a segment would end.
            cutter.picture(micros, frame, number == 25);
            silence(&mut cutter, micros + 100_000);
            kinds.extend(cuts(&mut cutter, micros));
        }
        let headers: Vec<usize> = (0..kinds.len()).filter(|&at| kinds[at].is_none()).collect();
        assert_eq!(headers, [0, 3], "{kinds:?}");
        assert_eq!(kinds[4], Some((2_000_000, 500_000, true, true)));
        let (micros, frame) = camera.next();
        let taken = (0..PICTURES_MAX).filter(|_| cutter.picture(micros, frame.clone(), false)).count();
        assert!((500..PICTURES_MAX).contains(&taken));
        assert!(!cutter.picture(micros, frame, false), "it is bounded");
    }
}
