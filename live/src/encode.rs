//! The mix as Opus by libopus, or as AAC by an ffmpeg child, since players of Apple's want AAC. A child that ends is started again, and
//! meanwhile there is silence: the sound never has a hole.

use std::collections::VecDeque;
use std::process::Stdio;
use std::time::Duration;

use opusic_c::{Application, Bitrate, Channels, ErrorCode, SampleRate};
use record::depacketize::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::adts::{AAC_FRAME, Adts, SILENT};
use crate::mix::{FRAME, RATE};

/// Longest packet of Opus.
const PACKET_LEN_MAX: usize = 1_500;
/// Bits a second of both.
const BITRATE: u32 = 128_000;
/// Samples by which libopus is late (RFC 7845 §4.2).
const OPUS_DELAY: i64 = 312;
/// Frames that wait for the child: two seconds.
const FRAMES_MAX: usize = 100;
/// Frames of AAC that wait for us.
const SOUNDS_MAX: usize = 256;
/// The child is so far behind at most before there is silence in its place, samples.
const BEHIND_MAX: i64 = RATE / 2;
/// Between two starts of the child: it doubles from the first to the second.
const WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Who lived so long failed for another reason than the one before.
const LIVED: Duration = Duration::from_secs(60);

/// An encoded frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sound {
    /// Its first sample.
    pub(crate) start: i64,
    /// Samples.
    pub(crate) len: i64,
    pub(crate) data: Vec<u8>,
}

pub(crate) enum Encoder {
    Opus { encoder: opusic_c::Encoder, sounds: VecDeque<Sound> },
    Aac(Aac),
}

impl Encoder {
    pub(crate) fn opus() -> Result<Encoder, ErrorCode> {
        let mut encoder = opusic_c::Encoder::new(Channels::Stereo, SampleRate::Hz48000, Application::Audio)?;
        encoder.set_bitrate(Bitrate::Value(BITRATE))?;
        encoder.set_complexity(5)?;
        Ok(Encoder::Opus { encoder, sounds: VecDeque::new() })
    }

    /// By this program.
    pub(crate) fn aac(ffmpeg: &str) -> Encoder {
        let (frames, frames_in) = mpsc::channel(FRAMES_MAX);
        let (sounds_out, sounds) = mpsc::channel(SOUNDS_MAX);
        let task = tokio::spawn(encode(ffmpeg.to_owned(), frames_in, sounds_out));
        Encoder::Aac(Aac { frames, sounds, next: None, put: 0, task })
    }

    pub(crate) fn config(&self) -> Config {
        if matches!(self, Encoder::Opus { .. }) { Config::Opus } else { Config::Aac }
    }

    /// Takes a frame of the mix.
    pub(crate) fn put(&mut self, start: i64, frame: Vec<f32>) {
        match self {
            Encoder::Opus { encoder, sounds } => {
                let mut packet = [0; PACKET_LEN_MAX];
                // It takes every frame of this length.
                let len = encoder.encode_float_to_slice(&frame, &mut packet).unwrap_or(0);
                let (start, len, data) = (start - OPUS_DELAY, FRAME as i64, packet[..len].to_vec());
                sounds.push_back(Sound { start, len, data });
            }
            Encoder::Aac(aac) => aac.put(start, frame),
        }
    }

    /// The next encoded frame.
    pub(crate) fn take(&mut self) -> Option<Sound> {
        match self {
            Encoder::Opus { sounds, .. } => sounds.pop_front(),
            Encoder::Aac(aac) => aac.take(),
        }
    }
}

/// AAC by a child.
pub(crate) struct Aac {
    frames: mpsc::Sender<(i64, Vec<f32>)>,
    sounds: mpsc::Receiver<Sound>,
    /// The sample behind what was taken, and a frame that begins later.
    next: Option<(i64, Option<Sound>)>,
    /// The sample behind what was put.
    put: i64,
    task: JoinHandle<()>,
}

impl Drop for Aac {
    fn drop(&mut self) {
        self.task.abort(); // And the child with it.
    }
}

impl Aac {
    fn put(&mut self, start: i64, frame: Vec<f32>) {
        self.put = start + FRAME as i64;
        self.next.get_or_insert((start - AAC_FRAME, None));
        // A child that takes nothing loses what comes.
        let _ = self.frames.try_send((start, frame));
    }

    fn take(&mut self) -> Option<Sound> {
        let (next, later) = self.next.as_mut()?;
        while later.is_none() {
            // What is earlier than what was taken came after silence in its place.
            match self.sounds.try_recv() {
                Ok(sound) if sound.start < *next => (),
                Ok(sound) => *later = Some(sound),
                Err(_) => break,
            }
        }
        let is_next = later.as_ref().is_some_and(|later| later.start - *next < AAC_FRAME);
        if is_next {
            let sound = later.take()?;
            *next = sound.start + sound.len;
            return Some(sound);
        }
        if later.is_none() && self.put - *next < BEHIND_MAX {
            return None;
        }
        let sound = Sound { start: *next, len: AAC_FRAME, data: SILENT.to_vec() };
        *next += AAC_FRAME;
        Some(sound)
    }
}

/// Keeps a child running, until nobody wants its sound.
async fn encode(ffmpeg: String, mut frames: mpsc::Receiver<(i64, Vec<f32>)>, sounds: mpsc::Sender<Sound>) {
    let mut wait = WAIT.0;
    while !sounds.is_closed() {
        let begun = tokio::time::Instant::now();
        let outcome = encode_once(&ffmpeg, &mut frames, &sounds).await;
        wait = if begun.elapsed() > LIVED { WAIT.0 } else { (wait * 2).min(WAIT.1) };
        let reason = outcome.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
        tracing::warn!(event = "live_encoder_ended", reason, "the encoder of sound ended; it is started again");
        let _ = tokio::time::timeout(wait, async { while frames.recv().await.is_some() {} }).await;
    }
}

async fn encode_once(
    ffmpeg: &str,
    frames: &mut mpsc::Receiver<(i64, Vec<f32>)>,
    sounds: &mpsc::Sender<Sound>,
) -> std::io::Result<()> {
    let Some((begin, first)) = frames.recv().await else { return Ok(()) };
    let mut child = Command::new(ffmpeg)
        .args(["-hide_banner", "-loglevel", "error", "-probesize", "32", "-analyzeduration", "0"])
        .args(["-f", "f32le", "-ar", "48000", "-ac", "2", "-i", "pipe:0"])
        .args(["-c:a", "aac", "-b:a", &BITRATE.to_string(), "-flush_packets", "1", "-f", "adts", "pipe:1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else { return Ok(()) };
    let bytes = |frame: &[f32]| frame.iter().flat_map(|sample| sample.to_le_bytes()).collect::<Vec<u8>>();
    let write = async {
        stdin.write_all(&bytes(&first)).await?;
        let mut expected = begin + FRAME as i64;
        while let Some((start, frame)) = frames.recv().await {
            // What was lost on the way is silence, so that the child's time stays ours.
            let lost = (start - expected).clamp(0, RATE);
            stdin.write_all(&vec![0; 8 * lost as usize]).await?;
            stdin.write_all(&bytes(&frame)).await?;
            expected = start + FRAME as i64;
        }
        Ok(())
    };
    let read = async {
        // The encoder's first frame is what lies before the first sample (ISO/IEC 14496-24 Annex B).
        let (mut adts, mut start, mut buffer) = (Adts::default(), begin - AAC_FRAME, vec![0; 16 * 1024]);
        loop {
            let len = stdout.read(&mut buffer).await?;
            if len == 0 {
                return Ok(());
            }
            for data in adts.push(&buffer[..len]).map_err(std::io::Error::other)? {
                // Who takes none of them lags, and hears silence.
                let _ = sounds.try_send(Sound { start, len: AAC_FRAME, data });
                start += AAC_FRAME;
            }
        }
    };
    tokio::select! {
        outcome = write => outcome,
        outcome = read => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::cut::tests::Camera;
    use crate::cut::{Cut, Cutter};
    use crate::mix::sample;
    use crate::require;

    /// What ffprobe says of header and parts in one file, and whether ffmpeg decodes it without a complaint.
    async fn probed(name: &str, mut encoder: Encoder) -> Option<String> {
        let is_there = Command::new("ffprobe").arg("-version").stdout(Stdio::null()).status().is_ok();
        if !is_there {
            require::left_out("ffmpeg", "parts of HLS", "ffprobe is not installed");
            return None;
        }
        let (mut cutter, mut camera) = (Cutter::new(encoder.config()), Camera::new(1));
        let (mut bytes, mut begin) = (Vec::new(), 0);
        for _ in 0..150 {
            let (micros, frame) = camera.next();
            cutter.picture(micros, frame, false);
            while begin < sample(micros) {
                let tone = |at: i64| 0.3 * (std::f32::consts::TAU * 440.0 * (at % RATE) as f32 / RATE as f32).sin();
                encoder.put(begin, (begin..begin + FRAME as i64).flat_map(|at| [tone(at); 2]).collect());
                begin += FRAME as i64;
            }
            while let Some(sound) = encoder.take() {
                cutter.sound(sound);
            }
            while let Some(Cut::Init(cut) | Cut::Part { bytes: cut, .. }) = cutter.poll(micros - 200_000).unwrap() {
                bytes.extend(cut);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let path = std::env::temp_dir().join(format!("uprtc-live-{name}-{}.mp4", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let decoded = Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(&path).args(["-f", "null", "-"]).output();
        let shown = "stream=codec_name,width,channels,duration:packet=stream_index,pts_time";
        let said =
            Command::new("ffprobe").args(["-v", "error", "-of", "csv", "-show_entries", shown]).arg(&path).output();
        std::fs::remove_file(&path).unwrap();
        let (decoded, said) = (decoded.unwrap(), said.unwrap());
        assert!(decoded.stderr.is_empty(), "{}", String::from_utf8_lossy(&decoded.stderr));
        assert!(said.stderr.is_empty(), "{}", String::from_utf8_lossy(&said.stderr));
        Some(String::from_utf8(said.stdout).unwrap())
    }

    fn check(said: &str, codec: &str) {
        assert!(said.contains("stream,h264,640") && said.contains(&format!("stream,{codec},2")), "{said}");
        let starts = |stream: &str| -> Vec<f64> {
            let of = |line: &str| line.strip_prefix(&format!("packet,{stream},"))?.parse().ok();
            said.lines().filter_map(of).collect()
        };
        // No holes, and both begin where the first picture was.
        for (stream, len) in [("0", 0.04), ("1", if codec == "aac" { 1024.0 / 48_000.0 } else { 0.02 })] {
            let starts = starts(stream);
            assert!(starts.len() > 100 && (starts[0] - 1.0).abs() < 0.05, "{said}");
            assert!(starts.windows(2).all(|pair| (pair[0] + len - pair[1]).abs() < 0.001), "{starts:?} of {stream}");
        }
    }

    #[tokio::test]
    async fn parts_with_opus_are_read_by_ffmpeg() {
        if let Some(said) = probed("opus", Encoder::opus().unwrap()).await {
            check(&said, "opus");
        }
    }

    #[tokio::test]
    async fn parts_with_aac_are_read_by_ffmpeg() {
        if let Some(said) = probed("aac", Encoder::aac("ffmpeg")).await {
            check(&said, "aac");
        }
    }

    #[tokio::test]
    async fn without_its_encoder_there_is_silence_of_aac() {
        if let Some(said) = probed("silence", Encoder::aac("/nonexistent/ffmpeg")).await {
            check(&said, "aac");
        }
    }
}
