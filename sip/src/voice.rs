//! Voice in frames of 20 ms, between −1 and 1: decoded, encoded, mixed. libopus runs at the rate of the telephone, so that it
//! is libopus that filters and resamples between 48 kHz and 8 kHz.

use opusic_c::{Application, Bitrate, Channels, Decoder, Encoder, ErrorCode, SampleRate};

/// Longest packet of Opus that we write.
const PACKET_LEN_MAX: usize = 400;
/// Longest frame of Opus, in parts of a second (RFC 6716 §2.1.4): 120 ms.
const LONGEST_MS: u32 = 120;
/// Frames that are concealed before there is silence: 100 ms.
pub(crate) const CONCEALED_MAX: u32 = 5;
/// Below this peak a frame is silence: -60 dB.
const SILENCE: f32 = 0.001;
/// Frames of silence that are sent at its begin, and one in as many of those that follow: 400 ms.
const SILENT_FRAMES: u32 = 20;

/// Samples of 20 ms.
pub(crate) fn frame_len(rate: u32) -> usize {
    (rate / 50) as usize
}

fn sample_rate(rate: u32) -> SampleRate {
    if rate == 8000 { SampleRate::Hz8000 } else { SampleRate::Hz48000 }
}

/// Decodes one stream of Opus.
pub(crate) struct OpusIn {
    decoder: Decoder,
    rate: u32,
    concealed: u32,
    /// What a packet is decoded into: room for the longest.
    frame: Vec<f32>,
}

impl std::fmt::Debug for OpusIn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("OpusIn").field("rate", &self.rate).finish_non_exhaustive()
    }
}

impl OpusIn {
    pub(crate) fn new(rate: u32) -> Result<OpusIn, ErrorCode> {
        let frame = vec![0.0; (rate / 1000 * LONGEST_MS) as usize];
        Ok(OpusIn { decoder: Decoder::new(Channels::Mono, sample_rate(rate))?, rate, concealed: 0, frame })
    }

    /// The samples of a packet; none if it is no Opus.
    pub(crate) fn decode(&mut self, packet: &[u8], out: &mut Vec<f32>) -> usize {
        self.concealed = 0;
        if packet.is_empty() {
            return 0;
        }
        let decoded = self.decoder.decode_float_to_slice(packet, &mut self.frame, false).unwrap_or(0);
        out.extend(&self.frame[..decoded]);
        decoded
    }

    /// 20 ms in place of what did not come; false when there is silence.
    pub(crate) fn conceal(&mut self, out: &mut Vec<f32>) -> bool {
        self.concealed += 1;
        if self.concealed > CONCEALED_MAX {
            return false;
        }
        let len = frame_len(self.rate);
        let decoded = self.decoder.decode_float_to_slice(&[], &mut self.frame[..len], false).unwrap_or(0);
        out.extend(&self.frame[..decoded]);
        decoded > 0
    }
}

/// Encodes one stream of Opus.
pub(crate) struct OpusOut {
    encoder: Encoder,
    silent: u32,
}

impl std::fmt::Debug for OpusOut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("OpusOut")
    }
}

impl OpusOut {
    /// For voice: mono, in the complexity that a hundred calls can have on a core: from 2 on, where more than one way to round is
    /// followed, a frame of 8 kHz costs twice as much. Without in-band FEC, which costs each receiver as well: the edge repairs what is
    /// lost on the way to it and from it. Silence is left out here and not by libopus, whose DTX takes an even tone, as of music on
    /// hold, for noise.
    pub(crate) fn new(rate: u32) -> Result<OpusOut, ErrorCode> {
        let mut encoder = Encoder::new(Channels::Mono, sample_rate(rate), Application::Voip)?;
        encoder.set_bitrate(Bitrate::Value(if rate == 8000 { 24_000 } else { 32_000 }))?;
        encoder.set_complexity(if rate == 8000 { 1 } else { 2 })?;
        Ok(OpusOut { encoder, silent: 0 })
    }

    /// A frame of 20 ms; None in silence.
    pub(crate) fn encode(&mut self, frame: &[f32]) -> Option<Vec<u8>> {
        let is_silent = frame.iter().all(|sample| sample.abs() < SILENCE);
        self.silent = if is_silent { self.silent.saturating_add(1) } else { 0 };
        if self.silent > SILENT_FRAMES && !self.silent.is_multiple_of(SILENT_FRAMES) {
            return None;
        }
        let mut packet = [0; PACKET_LEN_MAX];
        let len = self.encoder.encode_float_to_slice(frame, &mut packet).ok()?;
        Some(packet[..len].to_vec())
    }
}

pub(crate) fn to_f32(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

pub(crate) fn to_i16(sample: f32) -> i16 {
    // `as` saturates.
    (sample * 32_768.0).round() as i16
}

/// Adds voices, and keeps the sum below the limit without clipping it: where it is too loud the gain falls at once and comes
/// back within a second.
#[derive(Debug)]
pub(crate) struct Mixer {
    sum: Vec<f32>,
    gain: f32,
}

/// What the sum may reach.
const LOUDEST: f32 = 0.95;
/// What the gain regains in a frame.
const RELEASE: f32 = 0.02;

impl Mixer {
    pub(crate) fn new(rate: u32) -> Mixer {
        Mixer { sum: vec![0.0; frame_len(rate)], gain: 1.0 }
    }

    pub(crate) fn add(&mut self, voice: &[f32]) {
        for (sum, sample) in self.sum.iter_mut().zip(voice) {
            *sum += sample;
        }
    }

    /// The mix of a frame.
    pub(crate) fn take(&mut self) -> Vec<f32> {
        let peak = self.sum.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
        let wanted = if peak > LOUDEST { LOUDEST / peak } else { 1.0 };
        let from = self.gain;
        self.gain = wanted.min(self.gain + RELEASE);
        // A gain that falls must be there for the peak; one that rises does it over the frame.
        let (to, steps) = (self.gain, self.sum.len().max(1) as f32);
        let from = from.min(to);
        let mix = self.sum.iter().enumerate().map(|(at, sample)| sample * (from + (to - from) * at as f32 / steps));
        let mix = mix.collect();
        self.sum.fill(0.0);
        mix
    }
}

/// Noise of −66 dB: a line that is heard to be there.
#[derive(Debug)]
pub(crate) struct ComfortNoise(u32);

impl ComfortNoise {
    pub(crate) fn new() -> ComfortNoise {
        ComfortNoise(0x9E37_79B9)
    }

    pub(crate) fn fill(&mut self, frame: &mut [f32]) {
        for sample in frame {
            // xorshift32: it need not be random, only without a tone.
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 17;
            self.0 ^= self.0 << 5;
            *sample = (self.0 as f32 / u32::MAX as f32 - 0.5) * 0.0017;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Power of one frequency in samples, as the amplitude of a sine (Goertzel).
    pub(crate) fn amplitude(samples: &[f32], rate: u32, hertz: f32) -> f32 {
        let step = std::f32::consts::TAU * hertz / rate as f32;
        let (mut re, mut im) = (0.0, 0.0);
        for (at, sample) in samples.iter().enumerate() {
            let phase = step * at as f32;
            re += sample * phase.cos();
            im += sample * phase.sin();
        }
        2.0 * (re * re + im * im).sqrt() / samples.len() as f32
    }

    pub(crate) fn tone(rate: u32, hertz: f32, loud: f32, samples: usize) -> Vec<f32> {
        let step = std::f32::consts::TAU * hertz / rate as f32;
        (0..samples).map(|at| loud * (step * at as f32).sin()).collect()
    }

    /// A tone of 48 kHz, through the room's Opus, as a telephone of 8 kHz hears it.
    fn heard(hertz: f32) -> Vec<f32> {
        let mut encoder = Encoder::new(Channels::Mono, SampleRate::Hz48000, Application::Audio).unwrap();
        encoder.set_bitrate(Bitrate::Value(96_000)).unwrap();
        let mut decoder = OpusIn::new(8000).unwrap();
        let mut out = Vec::new();
        for frame in tone(48_000, hertz, 0.5, 48_000).chunks(960) {
            let mut packet = [0; 1000];
            let len = encoder.encode_float_to_slice(frame, &mut packet).unwrap();
            assert_eq!(decoder.decode(&packet[..len], &mut out), 160);
        }
        out.split_off(4000)
    }

    #[test]
    fn what_a_telephone_cannot_carry_is_filtered_and_not_folded() {
        let passed = amplitude(&heard(1000.0), 8000, 1000.0);
        assert!((0.4..0.6).contains(&passed), "{passed}");
        for hertz in [4600.0, 5000.0, 6000.0, 7000.0, 9000.0, 11_000.0] {
            let heard = heard(hertz);
            let loudest = (50..4000).step_by(25).map(|f| amplitude(&heard, 8000, f as f32)).fold(0.0, f32::max);
            let attenuation = 20.0 * (0.5 / loudest.max(1e-6)).log10();
            assert!(attenuation >= 40.0, "{hertz} Hz comes through by {attenuation} dB less");
        }
    }

    #[test]
    fn a_telephones_tone_is_in_the_room() {
        let (mut encoder, mut decoder) = (OpusOut::new(8000).unwrap(), OpusIn::new(48_000).unwrap());
        let mut out = Vec::new();
        for frame in tone(8000, 440.0, 0.3, 8000).chunks(160) {
            decoder.decode(&encoder.encode(frame).expect("a tone is no silence"), &mut out);
        }
        let there = amplitude(&out[24_000..], 48_000, 440.0);
        assert!((0.2..0.4).contains(&there), "{there}");
    }

    #[test]
    fn an_even_tone_is_no_silence() {
        let (mut encoder, mut decoder) = (OpusOut::new(8000).unwrap(), OpusIn::new(8000).unwrap());
        let mut heard = Vec::new();
        for frame in tone(8000, 600.0, 0.3, 80_000).chunks(160) {
            decoder.decode(&encoder.encode(frame).expect("it is sent"), &mut heard);
        }
        let quietest = heard[800..].chunks_exact(800).map(|part| amplitude(part, 8000, 600.0)).fold(1.0, f32::min);
        assert!(quietest > 0.25, "{quietest}");
    }

    #[test]
    fn silence_is_not_sent_and_what_is_lost_fades() {
        let mut encoder = OpusOut::new(8000).unwrap();
        let sent = (0..200).filter(|_| encoder.encode(&[0.0; 160]).is_some()).count();
        assert!(sent < 40, "{sent} of 200 frames of silence are sent");
        let mut decoder = OpusIn::new(8000).unwrap();
        let mut out = Vec::new();
        assert_eq!(decoder.decode(&[], &mut out), 0);
        let concealed = (0..10).filter(|_| decoder.conceal(&mut out)).count();
        assert_eq!((concealed, out.len()), (5, 800));
    }

    #[test]
    fn many_loud_voices_are_not_clipped() {
        let mut mixer = Mixer::new(8000);
        let voice = tone(8000, 400.0, 0.8, 160);
        for voices in [1, 8, 8, 1, 1] {
            (0..voices).for_each(|_| mixer.add(&voice));
            let mix = mixer.take();
            let peak = mix.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
            assert!(peak <= LOUDEST + 1e-3, "{peak}");
            assert!(amplitude(&mix, 8000, 1200.0) < 0.02, "a clipped sine has harmonics");
        }
        for _ in 0..60 {
            mixer.take();
        }
        mixer.add(&voice);
        assert_eq!(mixer.take(), voice, "the gain has come back");
    }

    #[test]
    fn noise_is_quiet_and_even() {
        let mut frame = vec![0.0; 8000];
        ComfortNoise::new().fill(&mut frame);
        let power = frame.iter().map(|sample| sample * sample).sum::<f32>() / 8000.0;
        let decibels = 10.0 * power.log10();
        assert!((-70.0..-62.0).contains(&decibels), "{decibels}");
    }
}
