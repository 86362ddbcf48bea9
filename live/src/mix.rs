//! All voices of a room as one sound: each packet is decoded to the moment at which it was captured, and what is there is taken in frames
//! of 20 ms. Without a clock of its own: who takes says until when, and what comes later than it was taken is lost.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use opusic_c::{Channels, Decoder, SampleRate};

/// Samples a second, of each of two channels.
pub(crate) const RATE: i64 = 48_000;
/// Samples of a frame of each channel.
pub(crate) const FRAME: usize = 960;
/// Longest packet of Opus, samples of each channel (RFC 6716 §2.1.4).
const PACKET_MAX: usize = 5_760;
/// Further ahead of what is taken nothing is kept, samples: two seconds.
const AHEAD_MAX: i64 = 2 * RATE;
/// A packet that begins so near to the end of the one before follows it, samples: rounding and jitter of reports make no holes.
const NEAR: i64 = RATE / 50;
/// What the sum may reach.
const LOUDEST: f32 = 0.95;
/// What the gain regains in a frame.
const RELEASE: f32 = 0.02;

struct Voice {
    decoder: Decoder,
    /// Where its next packet is expected.
    next: i64,
}

/// The sum, from what is to be taken next on.
pub(crate) struct Mix {
    begin: i64,
    sum: VecDeque<[f32; 2]>,
    voices: HashMap<usize, Voice>,
    gain: f32,
}

/// The sample at a moment.
pub(crate) fn sample(micros: i64) -> i64 {
    micros * RATE / 1_000_000
}

impl Mix {
    /// From this sample on.
    pub(crate) fn new(begin: i64) -> Mix {
        Mix { begin, sum: VecDeque::new(), voices: HashMap::new(), gain: 1.0 }
    }

    /// The sample that is taken next.
    pub(crate) fn begin(&self) -> i64 {
        self.begin
    }

    /// A slot carries somebody else.
    pub(crate) fn end(&mut self, slot: usize) {
        self.voices.remove(&slot);
    }

    /// A packet of a slot, which was captured then.
    pub(crate) fn put(&mut self, slot: usize, micros: i64, packet: &[u8]) {
        let at = sample(micros);
        let voice = match self.voices.entry(slot) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let Ok(decoder) = Decoder::new(Channels::Stereo, SampleRate::Hz48000) else { return };
                place.insert(Voice { decoder, next: at })
            }
        };
        let mut samples = [0.0; 2 * PACKET_MAX];
        // What is no Opus is silence.
        let len = match packet {
            [] => 0,
            packet => voice.decoder.decode_float_to_slice(packet, &mut samples, false).unwrap_or(0),
        };
        let at = if (at - voice.next).abs() <= NEAR { voice.next } else { at };
        voice.next = at + len as i64;
        for (place, pair) in (at - self.begin..).zip(samples[..2 * len].chunks_exact(2)) {
            if (0..AHEAD_MAX).contains(&place) {
                let place = place as usize;
                if self.sum.len() <= place {
                    self.sum.resize(place + 1, [0.0; 2]);
                }
                self.sum[place][0] += pair[0];
                self.sum[place][1] += pair[1];
            }
        }
    }

    /// The next 20 ms, both channels after each other. Where it is too loud the gain falls at once, and comes back within a second.
    pub(crate) fn take(&mut self) -> Vec<f32> {
        self.begin += FRAME as i64;
        let there = self.sum.len().min(FRAME);
        let mut frame: Vec<f32> = self.sum.drain(..there).flatten().collect();
        frame.resize(2 * FRAME, 0.0);
        let peak = frame.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
        let wanted = if peak > LOUDEST { LOUDEST / peak } else { 1.0 };
        let from = self.gain;
        self.gain = wanted.min(self.gain + RELEASE);
        // A gain that falls must be there for the peak; one that rises does it over the frame.
        let (from, to) = (from.min(self.gain), self.gain);
        for (at, sample) in frame.iter_mut().enumerate() {
            *sample *= from + (to - from) * (at / 2) as f32 / FRAME as f32;
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use opusic_c::{Application, Encoder};

    use super::*;

    fn tone(hertz: f32, loud: f32) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::new(Channels::Stereo, SampleRate::Hz48000, Application::Audio).unwrap();
        let step = std::f32::consts::TAU * hertz / RATE as f32;
        let samples: Vec<f32> = (0..48_000).flat_map(|at| [loud * (step * at as f32).sin(); 2]).collect();
        let encode = |frame: &[f32]| {
            let mut packet = [0; 1500];
            let len = encoder.encode_float_to_slice(frame, &mut packet).unwrap();
            packet[..len].to_vec()
        };
        samples.chunks_exact(2 * FRAME).map(encode).collect()
    }

    fn amplitude(samples: &[f32], hertz: f32) -> f32 {
        let step = std::f32::consts::TAU * hertz / RATE as f32;
        let (mut re, mut im) = (0.0, 0.0);
        for (at, sample) in samples.iter().step_by(2).enumerate() {
            re += sample * (step * at as f32).cos();
            im += sample * (step * at as f32).sin();
        }
        4.0 * (re * re + im * im).sqrt() / samples.len() as f32
    }

    #[test]
    fn voices_are_one_sound_at_the_time_of_their_capture() {
        let mut mix = Mix::new(0);
        let (low, high) = (tone(400.0, 0.3), tone(1000.0, 0.3));
        for at in 0..50i64 {
            // The second one was captured half a second later, and its reports jitter.
            mix.put(0, at * 20_000, &low[at as usize]);
            mix.put(1, 500_000 + at * 20_000 + (at % 3) * 1000, &high[at as usize]);
        }
        let heard: Vec<f32> = (0..75).flat_map(|_| mix.take()).collect();
        let part = |from: usize, to: usize| &heard[from * 2 * FRAME..to * 2 * FRAME];
        for (range, low, high) in [((5, 20), true, false), ((30, 45), true, true), ((55, 70), false, true)] {
            let (of_low, of_high) =
                (amplitude(part(range.0, range.1), 400.0), amplitude(part(range.0, range.1), 1000.0));
            assert_eq!((of_low > 0.2, of_high > 0.2), (low, high), "{of_low} {of_high}");
        }
        assert_eq!(mix.begin(), 75 * FRAME as i64);
    }

    #[test]
    fn what_is_late_or_of_another_time_is_left_out_and_bounded() {
        let (mut mix, tone) = (Mix::new(0), tone(400.0, 0.9));
        mix.put(0, -1_000_000, &tone[3]);
        assert!(mix.sum.is_empty());
        mix.put(1, i64::from(u32::MAX) * 1000, &tone[3]);
        mix.put(2, 1_999_000, &tone[3]);
        assert!(mix.sum.len() <= AHEAD_MAX as usize);
        for slot in 0..20 {
            mix.put(slot, 0, &tone[10]);
            mix.put(slot, 0, b"no Opus");
        }
        assert!(mix.take().iter().all(|sample| sample.abs() <= LOUDEST + 1e-3), "and nothing is clipped");
    }
}
