//! Whether somebody speaks in a stream of audio, by the level that each packet tells (RFC 6464), and so whether its packets are
//! passed on where a room has more voices than it passes on ([`Gate`]).
//!
//! A packet is *loud* above −35 dBov in any case (LiveKit's `active_level`), below −50 dBov in none, and between them if it is 10 dB above
//! the noise of its stream. The noise is the lowest level so far, which rises by 6 dB a second, between −65 and −45 dBov: so a fan is not
//! taken for a voice, and steady music still is.
//!
//! Loud time counts up, to half a second, and all other time counts down. At 40 ms somebody speaks: two packets of 20 ms, so that a click
//! of one is none, and no word is lost but for its first 20 ms. At zero nobody does: the count of half a second bridges the pauses between
//! words. Silence (127), what does not come at all, and gaps of DTX count down alike.
//!
//! The bit V of RFC 6464 is not read: libwebrtc sets it in all packets that its encoder did not leave to DTX.

use proto::plane::Gate;

use crate::config::{MILLISECOND, Micros, SECOND};

/// Loudness (127 plus dBov) from which on a packet is loud, whatever the noise: −35 dBov.
const LOUD: i32 = fixed(92);
/// ... below which none is: −50 dBov.
const LOUD_MIN: i32 = fixed(77);
/// How far above the noise it is between them.
const ABOVE_NOISE: i32 = fixed(10);
/// Lowest noise that is assumed: −65 dBov, that of a quiet room.
const NOISE_MIN: i32 = fixed(62);
/// Highest: −45 dBov.
const NOISE_MAX: i32 = fixed(82);
/// How fast the noise rises, a millisecond: 6 dB a second.
const NOISE_RISES: i32 = fixed(6) / 1000;
/// Loud time at which somebody speaks, milliseconds.
const ONSET_MS: u32 = 40;
/// Most that is counted, milliseconds: the pause that ends speech.
const COUNTED_MS_MAX: u32 = 500;
/// The longest time that one packet speaks for, milliseconds: a frame of Opus has 60 at most (RFC 6716 §2.1.4). What it is more was lost.
const PACKET_MS_MAX: u32 = 60;
/// The time of a packet of which the one before is not known, milliseconds.
const PACKET_MS: u32 = 20;
/// A longer step of the timestamp is a jump of it, milliseconds.
const STEP_MS_MAX: u32 = 10_000;
/// Without a packet for so long nobody speaks.
const UNHEARD: Micros = 500 * MILLISECOND;
/// How long packets are passed on after the last at which somebody spoke.
const HELD: Micros = 2 * SECOND;
/// What is worth telling of a loudness that has changed, and how often.
const LOUDNESS_MOVED: i32 = fixed(6);
const LOUDNESS_INTERVAL: Micros = SECOND / 2;

/// Decibels in units of 1/1024.
const fn fixed(decibels: i32) -> i32 {
    decibels << 10
}

/// What is worth telling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spoken {
    /// Somebody speaks, so loud: 127 plus dBov.
    Speaks(u8),
    /// Nobody does any more.
    Quiet,
}

/// The speech in one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speech {
    gate: Gate,
    /// Whether any packet told a level.
    has_levels: bool,
    is_speaking: bool,
    loud_ms: u32,
    noise: i32,
    /// That of loud packets, smoothed.
    loudness: i32,
    /// What was told, and when.
    told: (i32, Micros),
    /// Timestamp of the newest packet with a level, and when it came.
    newest: Option<(u32, Micros)>,
    /// When somebody spoke last.
    spoke_at: Option<Micros>,
    /// Whether the newest packet was passed on.
    was_passed: bool,
}

impl Default for Speech {
    fn default() -> Self {
        Speech {
            gate: Gate::Open,
            has_levels: false,
            is_speaking: false,
            loud_ms: 0,
            noise: NOISE_MAX,
            loudness: 0,
            told: (0, 0),
            newest: None,
            spoke_at: None,
            was_passed: true,
        }
    }
}

impl Speech {
    /// A packet that is newer than all before tells this level (−dBov, 0 to 127); `clock_rate` is that of its timestamp.
    #[inline]
    pub(crate) fn heard(&mut self, level: u8, timestamp: u32, clock_rate: u32, at: Micros) -> Option<Spoken> {
        self.has_levels = true;
        let step = self.newest.map(|(newest, _)| timestamp.wrapping_sub(newest) / (clock_rate / 1000).max(1));
        self.newest = Some((timestamp, at));
        let step = step.filter(|step| *step <= STEP_MS_MAX).unwrap_or(PACKET_MS);
        let loudness = fixed(127 - i32::from(level & 0x7f));
        self.noise = (self.noise + NOISE_RISES * step as i32).min(loudness).clamp(NOISE_MIN, NOISE_MAX);
        if loudness < (self.noise + ABOVE_NOISE).clamp(LOUD_MIN, LOUD) {
            self.loud_ms = self.loud_ms.saturating_sub(step);
        } else {
            self.loud_ms = (self.loud_ms + step.min(PACKET_MS_MAX)).min(COUNTED_MS_MAX);
            self.loudness = match self.is_speaking {
                true => self.loudness + (loudness - self.loudness) / 8,
                false => loudness,
            };
        }
        let is_onset = !self.is_speaking && self.loud_ms >= ONSET_MS;
        if is_onset || (self.is_speaking && self.loud_ms > 0) {
            self.is_speaking = true;
            self.spoke_at = Some(at);
            let (told, told_at) = self.told;
            let has_moved = (self.loudness - told).abs() >= LOUDNESS_MOVED && at >= told_at + LOUDNESS_INTERVAL;
            if is_onset || has_moved {
                self.told = (self.loudness, at);
                return self.speaks().map(Spoken::Speaks);
            }
            return None;
        }
        std::mem::take(&mut self.is_speaking).then_some(Spoken::Quiet)
    }

    /// Whether nobody speaks any more because nothing comes.
    pub(crate) fn unheard(&mut self, now: Micros) -> Option<Spoken> {
        let is_unheard = self.newest.is_some_and(|(_, at)| now.saturating_sub(at) > UNHEARD);
        let ends = is_unheard && self.is_speaking;
        if ends {
            (self.is_speaking, self.loud_ms) = (false, 0);
        }
        ends.then_some(Spoken::Quiet)
    }

    /// How loud somebody speaks now.
    pub(crate) fn speaks(&self) -> Option<u8> {
        self.is_speaking.then_some((self.loudness >> 10) as u8)
    }

    /// From now on packets are passed on by this gate.
    pub(crate) fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
    }

    /// Whether the newest packet was passed on.
    pub(crate) fn was_passed(&self) -> bool {
        self.was_passed
    }

    /// Whether a packet is passed on that comes now. The first one after others that were not begins anew at all receivers.
    #[inline]
    pub(crate) fn passes(&mut self, now: Micros) -> Passes {
        let passes = match self.gate {
            Gate::Open => true,
            Gate::Closed => false,
            Gate::Speech => {
                !self.has_levels || self.spoke_at.is_some_and(|spoke_at| now.saturating_sub(spoke_at) < HELD)
            }
        };
        match (std::mem::replace(&mut self.was_passed, passes), passes) {
            (_, false) => Passes::No,
            (true, true) => Passes::On,
            (false, true) => Passes::Anew,
        }
    }
}

/// What becomes of a packet at the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passes {
    /// It is not passed on.
    No,
    /// It goes on from the one before.
    On,
    /// It begins anew: those before it were not passed on.
    Anew,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Micros = MILLISECOND;

    /// A stream whose packets come each 20 ms.
    #[derive(Default)]
    struct Voice {
        speech: Speech,
        at: Micros,
        timestamp: u32,
    }

    impl Voice {
        /// So many packets of this level, one each `ms`; what was told, and after how many of them.
        fn says(&mut self, level: u8, packets: usize, ms: u32) -> Vec<(usize, Spoken)> {
            let mut told = Vec::new();
            for n in 1..=packets {
                self.at += u64::from(ms) * MS;
                self.timestamp = self.timestamp.wrapping_add(48 * ms);
                told.extend(self.speech.heard(level, self.timestamp, 48_000, self.at).map(|spoken| (n, spoken)));
            }
            told
        }
    }

    #[test]
    fn two_loud_packets_are_speech_and_half_a_second_of_silence_is_its_end() {
        let mut voice = Voice { timestamp: u32::MAX - 2000, ..Voice::default() };
        assert!(voice.says(127, 50, 20).is_empty());
        assert_eq!(voice.says(25, 60, 20), [(2, Spoken::Speaks(102))]);
        assert!(voice.says(127, 24, 20).is_empty(), "a pause between two words");
        assert!(voice.says(25, 50, 20).is_empty());
        assert_eq!(voice.says(127, 100, 20), [(25, Spoken::Quiet)]);
        assert!(voice.says(20, 1, 20).is_empty(), "a click");
        assert!(voice.says(127, 1, 20).is_empty());
    }

    #[test]
    fn dtx_and_what_does_not_come_end_speech() {
        let mut voice = Voice::default();
        voice.says(127, 10, 20);
        voice.says(25, 60, 20);
        assert_eq!(voice.says(127, 2, 400), [(2, Spoken::Quiet)], "comfort noise each 400 ms");
        assert_eq!(voice.says(25, 60, 20).len(), 1);
        assert_eq!(voice.speech.unheard(voice.at + 400 * MS), None);
        assert_eq!(voice.speech.unheard(voice.at + 600 * MS), Some(Spoken::Quiet));
        assert_eq!(voice.speech.unheard(voice.at + 600 * MS), None, "told once");
        assert_eq!(voice.says(127, 10, 20), []);
    }

    #[test]
    fn a_fan_is_no_voice_and_a_voice_above_it_is() {
        let mut voice = Voice::default();
        // −46 dBov, after a quiet second: it may be a voice at first.
        voice.says(80, 50, 20);
        voice.says(46, 500, 20);
        assert_eq!(voice.speech.speaks(), None);
        assert_eq!(voice.says(34, 10, 20).len(), 1, "−34 dBov");
        let mut music = Voice::default();
        music.says(20, 3000, 20);
        assert_eq!(music.speech.speaks(), Some(107), "a minute of a steady tone is heard all the while");
        let mut whisper = Voice::default();
        whisper.says(70, 100, 20);
        assert_eq!(whisper.says(48, 3, 20).len(), 1, "−48 dBov in a quiet room");
        assert!(whisper.says(127, 100, 20).len() == 1 && whisper.says(52, 100, 20).is_empty(), "−52 dBov never is");
    }

    #[test]
    fn a_change_of_loudness_is_told_twice_a_second_at_most() {
        let mut voice = Voice::default();
        assert_eq!(voice.says(40, 100, 20).len(), 0, "−40 dBov from the start: nobody knows the noise yet");
        voice.says(127, 50, 20);
        assert_eq!(voice.says(30, 50, 20), [(2, Spoken::Speaks(97))]);
        let told = voice.says(0, 500, 20);
        assert!((1..=20).contains(&told.len()), "{told:?}");
        assert!(told.iter().all(|(_, spoken)| matches!(spoken, Spoken::Speaks(98..))), "{told:?}");
    }

    #[test]
    fn a_gate_lets_pass_what_is_spoken_and_two_seconds_more() {
        let mut voice = Voice::default();
        let passes = |voice: &mut Voice| {
            let at = voice.at;
            voice.speech.passes(at)
        };
        voice.speech.set_gate(Gate::Speech);
        assert_eq!(passes(&mut voice), Passes::On, "no packet has told a level");
        voice.says(127, 1, 20);
        assert_eq!(passes(&mut voice), Passes::No);
        voice.says(20, 2, 20);
        assert_eq!([passes(&mut voice), passes(&mut voice)], [Passes::Anew, Passes::On]);
        voice.says(127, 100, 20);
        assert_eq!(passes(&mut voice), Passes::On, "two seconds after the last word");
        voice.says(127, 10, 20);
        assert_eq!(passes(&mut voice), Passes::No);
        voice.says(20, 10, 20);
        voice.speech.set_gate(Gate::Closed);
        assert_eq!(passes(&mut voice), Passes::No, "others are louder");
        voice.speech.set_gate(Gate::Open);
        voice.says(127, 1000, 20);
        assert_eq!([passes(&mut voice), passes(&mut voice)], [Passes::Anew, Passes::On]);
    }

    proptest! {
        /// Whatever is claimed, what is told alternates, and not more often than half a second of pause allows.
        #[test]
        fn any_levels_and_timestamps_make_few_reports(packets in prop::collection::vec((any::<u8>(), any::<u32>()), 1..500)) {
            let (mut speech, mut was_speaking, mut told) = (Speech::default(), false, 0);
            for (n, &(level, timestamp)) in packets.iter().enumerate() {
                let spoken = speech.heard(level, timestamp, 48_000, n as Micros * 20 * MS);
                match spoken {
                    Some(Spoken::Quiet) => prop_assert!(was_speaking),
                    Some(Spoken::Speaks(loudness)) => prop_assert!(loudness <= 127),
                    None => {}
                }
                told += usize::from(spoken.is_some());
                was_speaking = speech.speaks().is_some();
            }
            prop_assert!(told <= packets.len());
        }
    }
}
