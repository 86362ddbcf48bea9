//! Tones of Opus, made and measured.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Instant;

use opusic_c::{Application, Channels, Decoder, Encoder, SampleRate};

/// Samples that are looked at: half a second.
const WINDOW: usize = 24_000;

/// The amplitude of a sine in samples (Goertzel), as the mean over tenths of a second: a jitter buffer that leaves out a
/// frame moves the phase, which would cancel a longer sum.
pub(crate) fn amplitude(samples: &[f32], rate: u32, hertz: f32) -> f32 {
    let windows = samples.chunks_exact((rate / 10) as usize);
    let count = windows.len().max(1) as f32;
    windows.map(|window| amplitude_of(window, rate, hertz)).sum::<f32>() / count
}

fn amplitude_of(samples: &[f32], rate: u32, hertz: f32) -> f32 {
    let step = std::f32::consts::TAU * hertz / rate as f32;
    let (mut re, mut im) = (0.0, 0.0);
    for (at, sample) in samples.iter().enumerate() {
        let (sin, cos) = (step * at as f32).sin_cos();
        re += sample * cos;
        im += sample * sin;
    }
    2.0 * f32::hypot(re, im) / samples.len() as f32
}

/// What a peer hears, slot by slot.
pub(crate) struct Ear(HashMap<usize, (Decoder, Vec<f32>)>);

impl Ear {
    pub(crate) fn new() -> Ear {
        Ear(HashMap::new())
    }

    pub(crate) fn hear(&mut self, slot: usize, packet: &[u8]) {
        let decoder = || Decoder::new(Channels::Mono, SampleRate::Hz48000).unwrap();
        let (decoder, heard) = self.0.entry(slot).or_insert_with(|| (decoder(), Vec::new()));
        let mut frame = [0.0; 5760];
        let len = decoder.decode_float_to_slice(packet, &mut frame, false).unwrap();
        heard.extend(&frame[..len]);
        let surplus = heard.len().saturating_sub(WINDOW);
        heard.drain(..surplus);
    }

    /// How loud a tone is in the slot where it is loudest.
    pub(crate) fn loudest(&self, hertz: f32) -> f32 {
        let whole = self.0.values().filter(|(_, heard)| heard.len() == WINDOW);
        whole.map(|(_, heard)| amplitude(heard, 48_000, hertz)).fold(0.0, f32::max)
    }
}

/// A peer that says one tone.
pub(crate) struct Mouth {
    encoder: Encoder,
    step: f32,
    at: u32,
}

impl Mouth {
    pub(crate) fn new(hertz: f32) -> Mouth {
        let encoder = Encoder::new(Channels::Mono, SampleRate::Hz48000, Application::Audio).unwrap();
        // A peer that goes on speaking goes on with its clock, by whichever mouth.
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let frames = BEGUN.elapsed().as_millis() as u32 / 20;
        Mouth { encoder, step: std::f32::consts::TAU * hertz / 48_000.0, at: frames * 960 }
    }

    /// The next 20 ms.
    pub(crate) fn speak(&mut self) -> Option<(u32, Vec<u8>)> {
        let timestamp = self.at;
        let frame: Vec<f32> = (0..960).map(|n| 0.3 * (self.step * (timestamp + n) as f32).sin()).collect();
        self.at += 960;
        let mut packet = [0; 1000];
        let len = self.encoder.encode_float_to_slice(&frame, &mut packet).ok()?;
        Some((timestamp, packet[..len].to_vec()))
    }
}
