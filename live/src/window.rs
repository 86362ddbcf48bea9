//! The last half minute: segments and their parts, and the playlist of them (RFC 8216, RFC 8216bis).

use std::collections::VecDeque;
use std::fmt::Write;

use bytes::Bytes;
use record::time::rfc3339;

/// Whole segments in the playlist.
const SEGMENTS: usize = 7;
/// Whole segments that are kept behind it, for who has an older playlist.
const KEPT: usize = 3;
/// Segments at the end whose parts are in the playlist.
const WITH_PARTS: usize = 3;
/// Bytes that are kept: half a minute at 30 Mb/s. Beyond it the oldest segments go.
const BYTES_MAX: usize = 128 * 1024 * 1024;
/// Longest segment, rounded (`EXT-X-TARGETDURATION`), seconds.
pub(crate) const TARGET_SECONDS: u64 = 5;
/// Longest part, seconds.
const PART_SECONDS: f64 = 0.5;

/// A part of a segment.
#[derive(Clone, Debug)]
struct Part {
    number: u64,
    micros: i64,
    is_independent: bool,
    bytes: Bytes,
}

/// A segment.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// What it needs before it.
    pub(crate) init: u64,
    is_discontinuity: bool,
    /// When it begins, microseconds since 1970.
    wall: i64,
    parts: Vec<Part>,
}

impl Segment {
    fn micros(&self) -> i64 {
        self.parts.iter().map(|part| part.micros).sum()
    }

    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }

    /// Its bytes, part by part.
    pub(crate) fn bytes(&self) -> Vec<Bytes> {
        self.parts.iter().map(|part| part.bytes.clone()).collect()
    }
}

/// What a player asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    Init(u64),
    Segment(u64),
    Part(u64),
}

impl Asked {
    /// By the name of a file.
    pub(crate) fn parse(name: &str) -> Option<Asked> {
        let number = |text: &str| text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(rest) = name.strip_prefix("init-") {
            return number(rest.strip_suffix(".mp4")?).map(Asked::Init);
        }
        let rest = name.strip_suffix(".m4s")?;
        match rest.strip_prefix("part-") {
            Some(rest) => number(rest).map(Asked::Part),
            None => number(rest.strip_prefix("segment-")?).map(Asked::Segment),
        }
    }

    /// The name of its file.
    pub(crate) fn name(self) -> String {
        match self {
            Asked::Init(number) => format!("init-{number}.mp4"),
            Asked::Segment(number) => format!("segment-{number}.m4s"),
            Asked::Part(number) => format!("part-{number}.m4s"),
        }
    }
}

/// What is there of what is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Bytes(Vec<Bytes>),
    /// It is the next one.
    Soon,
    Never,
}

/// The window.
#[derive(Debug)]
pub(crate) struct Window {
    /// The last one is not whole.
    segments: VecDeque<Segment>,
    inits: VecDeque<(u64, Bytes)>,
    /// Of the next segment, part and header.
    next: (u64, u64, u64),
    /// The first segment in the playlist, and the discontinuities in front of it.
    first: u64,
    discontinuities: u64,
    is_discontinuity: bool,
    is_ended: bool,
}

impl Window {
    /// Numbers begin with this, which must be more than those of windows before at the same address.
    pub(crate) fn new(begin: u64) -> Window {
        Window {
            segments: VecDeque::new(),
            inits: VecDeque::new(),
            next: (begin, begin, begin),
            first: 0,
            discontinuities: 0,
            is_discontinuity: false,
            is_ended: false,
        }
    }

    pub(crate) fn init(&mut self, bytes: Bytes) {
        self.is_discontinuity = !self.segments.is_empty();
        self.inits.push_back((self.next.2, bytes));
        self.next.2 += 1;
    }

    /// Takes a part. The segment before, if it begins another one.
    pub(crate) fn part(
        &mut self,
        bytes: Bytes,
        micros: i64,
        wall: i64,
        begins_segment: bool,
        is_independent: bool,
    ) -> Option<Segment> {
        let mut whole = None;
        if begins_segment || self.segments.is_empty() {
            whole = self.segments.back().cloned();
            let is_discontinuity = std::mem::take(&mut self.is_discontinuity);
            let init = self.inits.back().map_or(0, |init| init.0);
            self.segments.push_back(Segment { number: self.next.0, init, is_discontinuity, wall, parts: Vec::new() });
            self.next.0 += 1;
            self.forget();
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.parts.push(Part { number: self.next.1, micros, is_independent, bytes });
            self.next.1 += 1;
        }
        whole
    }

    /// Nothing more comes. The last segment.
    pub(crate) fn end(&mut self) -> Option<Segment> {
        self.is_ended = true;
        self.segments.back().cloned()
    }

    fn forget(&mut self) {
        let is_too_much = |segments: &VecDeque<Segment>| {
            segments.len() > SEGMENTS + KEPT + 1
                || segments.len() > 2 && segments.iter().map(Segment::len).sum::<usize>() > BYTES_MAX
        };
        let mut left = Vec::new();
        while is_too_much(&self.segments) {
            left.extend(self.segments.pop_front().map(|segment| (segment.number, segment.is_discontinuity)));
        }
        let first = self.listed().next().map_or(0, |first| first.number);
        left.extend(self.segments.iter().map(|segment| (segment.number, segment.is_discontinuity)));
        let has_left = |number: u64| (self.first..first).contains(&number);
        self.discontinuities += left.iter().filter(|(number, is)| *is && has_left(*number)).count() as u64;
        self.first = first;
        let oldest = self.segments.front().map_or(0, |segment| segment.init);
        self.inits.retain(|init| init.0 >= oldest);
    }

    /// Those in the playlist.
    fn listed(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().skip(self.segments.len().saturating_sub(SEGMENTS + 1))
    }

    /// The oldest segment and header that are kept.
    pub(crate) fn oldest(&self) -> (u64, u64) {
        self.segments.front().map_or((0, 0), |first| (first.number, first.init))
    }

    /// Whether the playlist has this segment whole, or so many parts and one of it. None: that is too far ahead.
    pub(crate) fn has(&self, segment: u64, part: Option<usize>) -> Option<bool> {
        let last = self.next.0.saturating_sub(1);
        if segment > last + 2 {
            return None;
        }
        let parts = self.segments.back().map_or(0, |last| last.parts.len());
        Some(self.is_ended || segment < last || segment == last && part.is_some_and(|part| part < parts))
    }

    pub(crate) fn find(&self, asked: Asked) -> Found {
        let parts = || self.segments.iter().flat_map(|segment| &segment.parts);
        match asked {
            Asked::Init(number) => self.inits.iter().find(|init| init.0 == number).map(|init| vec![init.1.clone()]),
            Asked::Segment(number) => {
                let is_whole = number + 1 < self.next.0 || self.is_ended;
                self.segments.iter().find(|segment| segment.number == number && is_whole).map(Segment::bytes)
            }
            Asked::Part(number) if number == self.next.1 && !self.is_ended => return Found::Soon,
            Asked::Part(number) => parts().find(|part| part.number == number).map(|part| vec![part.bytes.clone()]),
        }
        .map_or(Found::Never, Found::Bytes)
    }

    /// The playlist; with `has_parts` for who gets it from us, else for any server of files. None while there is nothing to be listed.
    pub(crate) fn playlist(&self, has_parts: bool) -> Option<String> {
        let last = self.segments.back()?.number;
        let mut text = format!("#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:{TARGET_SECONDS}\n");
        let mut say = |line: std::fmt::Arguments<'_>| {
            let _ = text.write_fmt(line); // A String takes everything.
            text.push('\n');
        };
        if has_parts {
            say(format_args!("#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK={:.1}", 3.0 * PART_SECONDS));
            say(format_args!("#EXT-X-PART-INF:PART-TARGET={PART_SECONDS:.1}"));
        }
        let first = self.listed().next()?;
        say(format_args!("#EXT-X-MEDIA-SEQUENCE:{}", first.number));
        say(format_args!("#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuities));
        let (mut init, with_parts) = (None, last.saturating_sub(WITH_PARTS as u64));
        for segment in self.listed() {
            let is_whole = segment.number != last || self.is_ended;
            if !is_whole && !has_parts {
                break;
            }
            if segment.is_discontinuity {
                say(format_args!("#EXT-X-DISCONTINUITY"));
            }
            if init.replace(segment.init) != Some(segment.init) {
                say(format_args!("#EXT-X-MAP:URI=\"{}\"", Asked::Init(segment.init).name()));
            }
            say(format_args!("#EXT-X-PROGRAM-DATE-TIME:{}", rfc3339(segment.wall)));
            for part in segment.parts.iter().filter(|_| has_parts && segment.number > with_parts) {
                let (seconds, name) = (part.micros as f64 / 1e6, Asked::Part(part.number).name());
                let independent = if part.is_independent { ",INDEPENDENT=YES" } else { "" };
                say(format_args!("#EXT-X-PART:DURATION={seconds:.5},URI=\"{name}\"{independent}"));
            }
            if is_whole {
                say(format_args!("#EXTINF:{:.5},", segment.micros() as f64 / 1e6));
                say(format_args!("{}", Asked::Segment(segment.number).name()));
            }
        }
        if self.is_ended {
            say(format_args!("#EXT-X-ENDLIST"));
        } else if has_parts {
            say(format_args!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{}\"", Asked::Part(self.next.1).name()));
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(window: &mut Window, begins_segment: bool) -> Option<Segment> {
        window.part(Bytes::from_static(b"part"), 500_000, 1_796_163_332_000_000, begins_segment, begins_segment)
    }

    #[test]
    fn a_playlist_lists_what_is_there_and_what_comes_next() {
        let mut window = Window::new(100);
        assert!(window.playlist(true).is_none());
        window.init(Bytes::from_static(b"init"));
        part(&mut window, true);
        part(&mut window, false);
        assert!(part(&mut window, true).is_some_and(|whole| whole.number == 100 && whole.bytes().len() == 2));
        let expected = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:5\n\
            #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.5\n#EXT-X-PART-INF:PART-TARGET=0.5\n\
            #EXT-X-MEDIA-SEQUENCE:100\n#EXT-X-DISCONTINUITY-SEQUENCE:0\n#EXT-X-MAP:URI=\"init-100.mp4\"\n\
            #EXT-X-PROGRAM-DATE-TIME:2026-12-01T22:15:32.000Z\n\
            #EXT-X-PART:DURATION=0.50000,URI=\"part-100.m4s\",INDEPENDENT=YES\n\
            #EXT-X-PART:DURATION=0.50000,URI=\"part-101.m4s\"\n#EXTINF:1.00000,\nsegment-100.m4s\n\
            #EXT-X-PROGRAM-DATE-TIME:2026-12-01T22:15:32.000Z\n\
            #EXT-X-PART:DURATION=0.50000,URI=\"part-102.m4s\",INDEPENDENT=YES\n\
            #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-103.m4s\"\n";
        assert_eq!(window.playlist(true).unwrap(), expected);
        let files = window.playlist(false).unwrap();
        assert!(!files.contains("PART") && files.ends_with("segment-100.m4s\n"), "{files}");

        assert_eq!(
            (window.has(100, None), window.has(101, None), window.has(101, Some(0))),
            (Some(true), Some(false), Some(true))
        );
        assert_eq!((window.has(101, Some(1)), window.has(104, None)), (Some(false), None));
        assert_eq!(window.find(Asked::Part(103)), Found::Soon);
        assert_eq!((window.find(Asked::Part(104)), window.find(Asked::Segment(101))), (Found::Never, Found::Never));
        assert_eq!(window.find(Asked::Segment(100)), Found::Bytes(vec![Bytes::from_static(b"part"); 2]));
        window.end();
        assert!(window.playlist(true).unwrap().ends_with("segment-101.m4s\n#EXT-X-ENDLIST\n"));
        assert_eq!(window.has(101, Some(9)), Some(true), "nobody waits for what never comes");
    }

    #[test]
    fn what_is_old_is_forgotten_and_discontinuities_are_counted() {
        let mut window = Window::new(0);
        for number in 0..50u64 {
            if number % 10 == 0 {
                window.init(Bytes::copy_from_slice(&number.to_be_bytes()));
            }
            part(&mut window, true);
        }
        assert_eq!(window.segments.len(), SEGMENTS + KEPT + 1);
        let text = window.playlist(true).unwrap();
        // Segments 42 to 49 are in it; 10, 20, 30 and 40 began after a discontinuity.
        assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:42\n#EXT-X-DISCONTINUITY-SEQUENCE:4\n"), "{text}");
        assert!(text.contains("#EXT-X-MAP:URI=\"init-4.mp4\"\n") && !text.contains("#EXT-X-DISCONTINUITY\n"), "{text}");
        assert_eq!((window.oldest(), window.inits.len()), ((39, 3), 2));
        let long = Bytes::from(vec![0; BYTES_MAX / 3]);
        (0..5).for_each(|_| drop(window.part(long.clone(), 500_000, 0, true, true)));
        assert!(window.segments.iter().map(Segment::len).sum::<usize>() <= BYTES_MAX + long.len());
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for asked in [Asked::Init(1), Asked::Segment(1_796_163_332), Asked::Part(0)] {
            assert_eq!(Asked::parse(&asked.name()), Some(asked));
        }
        for wrong in [
            "",
            "index.m3u8",
            "init-.mp4",
            "segment-+1.m4s",
            "part--1.m4s",
            "segment-99999999999999999999.m4s",
            "7.m4s",
        ] {
            assert_eq!(Asked::parse(wrong), None, "{wrong}");
        }
    }
}
