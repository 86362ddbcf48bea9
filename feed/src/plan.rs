//! Whether the video of a feed goes into the room as it came, or how it is encoded anew: from what was seen of it and what the room allows.

use crate::avc::Config;
use crate::flv::{Content, Tag};

/// Longest way from keyframe to keyframe of video that is passed on as it came: so long may wait who comes late, milliseconds.
pub(crate) const KEYFRAME_INTERVAL_MAX: u32 = 4000;
/// What is measured before a rate is known, milliseconds.
const MEASURED_MIN: u32 = 900;
/// Rates are of the last so many milliseconds.
const MEASURED: u32 = 4000;
/// Pictures a second that are encoded at most.
const FRAMERATE_MAX: f64 = 30.0;
/// What is encoded if nobody says how many pictures a second there are.
const FRAMERATE: f64 = 30.0;
/// Less is not worth a picture, bit/s.
const BPS_MIN: u32 = 80_000;
/// From which rate on a picture has so many lines.
const LINES: [(u32, u32); 5] = [(3_000_000, 1080), (1_200_000, 720), (600_000, 540), (250_000, 360), (0, 240)];

/// What becomes of the video.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Plan {
    /// Nothing is done to it.
    Copy,
    /// It is encoded anew.
    Encode(Encoding),
}

/// How.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Encoding {
    /// Bit/s.
    pub(crate) bps: u32,
    /// Lines at most.
    pub(crate) lines: u32,
    /// Pictures a second at most.
    pub(crate) framerate: f64,
}

/// What was seen of a feed's video.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Whether it said a frame rate.
    pub(crate) framerate: Option<f64>,
    is_reordered: bool,
    is_uncommon: bool,
    keyframe: Option<u32>,
    /// The last two ways from keyframe to keyframe.
    intervals: [u32; 2],
    began: Option<u32>,
    /// Bytes since then; of the window before, the rate.
    bytes: u64,
    rate: Option<u32>,
}

impl Seen {
    /// Takes a tag of video.
    pub(crate) fn note(&mut self, tag: &Tag, config: Option<&Config>) {
        let Content::Avc { is_key, composition, .. } = tag.content() else { return };
        let now = tag.timestamp;
        self.is_reordered |= composition != 0;
        self.is_uncommon |= config.is_none_or(|config| !config.is_common_profile());
        let began = *self.began.get_or_insert(now);
        let measured = now.wrapping_sub(began);
        if measured >= MEASURED_MIN {
            self.rate = Some((self.bytes * 8000 / u64::from(measured)).min(u64::from(u32::MAX)) as u32);
        }
        if measured >= MEASURED && is_key {
            (self.began, self.bytes) = (Some(now), 0);
        }
        self.bytes += tag.body.len() as u64;
        if is_key {
            let interval = self.keyframe.map_or(0, |last| now.wrapping_sub(last));
            self.intervals = [self.intervals[1], interval];
            self.keyframe = Some(now);
        }
    }

    /// What to do from this keyframe on, when the room allows so many bit/s.
    pub(crate) fn plan(&self, bps_max: u32, current: Option<Plan>) -> Plan {
        // To be passed on it must fit well; what is passed on may grow a little.
        let margin = if current == Some(Plan::Copy) { 115 } else { 95 };
        let fits = self.rate.is_some_and(|rate| u64::from(rate) * 100 <= u64::from(bps_max) * margin);
        let [before, last] = self.intervals;
        let is_short = last > 0 && before.max(last) <= KEYFRAME_INTERVAL_MAX;
        if fits && is_short && !self.is_reordered && !self.is_uncommon {
            return Plan::Copy;
        }
        let bps = bps_max.max(BPS_MIN);
        let lines = LINES.iter().find(|(from, _)| bps >= *from).map_or(240, |(_, lines)| *lines);
        let mut framerate = self.framerate.filter(|rate| (1.0..=240.0).contains(rate)).unwrap_or(FRAMERATE);
        while framerate > FRAMERATE_MAX + 0.5 {
            framerate /= 2.0;
        }
        let encoding = Encoding { bps, lines, framerate };
        match current {
            // Not for each who comes or goes.
            Some(Plan::Encode(is)) if is.bps.abs_diff(bps) * 5 < is.bps && is.framerate == framerate => {
                Plan::Encode(is)
            }
            _ => Plan::Encode(encoding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flv::Kind;

    fn config(profile: u8) -> Config {
        Config::parse(&[1, profile, 0, 31, 0xFF, 0xE1, 0, 2, 0x67, profile, 1, 0, 2, 0x68, 1]).unwrap()
    }

    /// Pictures of 1,000 bytes, 25 a second: 200 kb/s.
    fn seen(profile: u8, composition: u8, interval: u32, seconds: u32) -> Seen {
        let mut seen = Seen { framerate: Some(50.0), ..Seen::default() };
        for i in 0..=seconds * 25 {
            let first = if (i * 40) % interval == 0 { 0x17 } else { 0x27 };
            let body = [&[first, 1, 0, 0, composition][..], &[0; 995]].concat();
            seen.note(&Tag { kind: Kind::Video, timestamp: i * 40, body }, Some(&config(profile)));
        }
        seen
    }

    #[test]
    fn what_everybody_decodes_and_the_room_has_room_for_is_passed_on() {
        assert_eq!(seen(66, 0, 2000, 6).plan(300_000, None), Plan::Copy);
        assert_eq!(seen(77, 0, 4000, 12).plan(300_000, None), Plan::Copy);
        let is_encoded = |seen: Seen, bps| matches!(seen.plan(bps, None), Plan::Encode(_));
        assert!(is_encoded(seen(100, 0, 2000, 6), 300_000), "a profile that not all have");
        assert!(is_encoded(seen(66, 80, 2000, 6), 300_000), "B-frames");
        assert!(is_encoded(seen(66, 0, 6000, 12), 300_000), "keyframes are far apart");
        assert!(is_encoded(seen(66, 0, 2000, 6), 150_000), "more than the room has");
        assert!(is_encoded(seen(66, 0, 2000, 0), 300_000), "nothing is known yet");
        let almost = seen(66, 0, 2000, 6);
        assert!(almost.plan(190_000, Some(Plan::Copy)) == Plan::Copy && almost.plan(190_000, None) != Plan::Copy);
    }

    #[test]
    fn what_is_encoded_has_the_rate_of_the_room_and_lines_for_it() {
        let seen = seen(100, 0, 2000, 6);
        let Plan::Encode(encoding) = seen.plan(822_296, None) else { panic!() };
        assert_eq!(encoding, Encoding { bps: 822_296, lines: 540, framerate: 25.0 });
        let current = Some(Plan::Encode(encoding));
        assert_eq!(seen.plan(700_000, current), Plan::Encode(encoding), "a little less changes nothing");
        let Plan::Encode(less) = seen.plan(153_683, current) else { panic!() };
        assert_eq!((less.bps, less.lines), (153_683, 240));
        let Plan::Encode(least) = seen.plan(1000, current) else { panic!() };
        assert_eq!(least.bps, BPS_MIN);
    }
}
