//! Real sound and pictures, made by ffmpeg, and their packets. In every second of them the first 480 ms are black and silent, the
//! rest is white and loud.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use proto::signal::VideoCodec;

/// How long they last; then they begin anew, with a keyframe.
pub(crate) const SECONDS: usize = 4;
pub(crate) const FRAMES_PER_SECOND: usize = 25;
/// Longest payload of a packet.
const PAYLOAD_MAX: usize = 1100;

/// Whether ffmpeg and ffprobe are there.
pub(crate) fn is_there() -> bool {
    ["ffmpeg", "ffprobe"].iter().all(|name| {
        let version = Command::new(name).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    })
}

/// Runs one of the two; it must succeed.
pub(crate) fn run(name: &str, arguments: &[&str]) -> Output {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What a camera and a microphone send.
#[derive(Clone)]
pub(crate) struct Media {
    pub(crate) codec: VideoCodec,
    /// Payloads of each frame.
    pub(crate) frames: Arc<Vec<Vec<Vec<u8>>>>,
    /// Packets of 20 ms.
    pub(crate) audio: Arc<Vec<Vec<u8>>>,
}

impl Media {
    pub(crate) fn make(folder: &Path, codec: VideoCodec, size: &str) -> Media {
        let blinks = blinking(size);
        Media::of(folder, codec, size, &blinks, "300k")
    }

    /// The same with noise in its right half, and as many bytes as a camera has.
    pub(crate) fn noisy(folder: &Path, codec: VideoCodec, size: &str) -> Media {
        let noise =
            format!("color=gray:s={size}:r={FRAMES_PER_SECOND}:d={SECONDS},noise=alls=60:allf=t,crop=iw/2:ih:0:0");
        let picture = format!("{}[a];{noise}[b];[a][b]overlay=W/2:0", blinking(size));
        Media::of(folder, codec, size, &picture, "660k")
    }

    fn of(folder: &Path, codec: VideoCodec, size: &str, picture: &str, rate: &str) -> Media {
        let path = folder.join(format!("{}-{size}", codec.name()));
        let (video, audio) = (path.with_extension("video"), path.with_extension("audio"));
        let (video, audio) = (video.to_str().unwrap(), audio.to_str().unwrap());
        let keyframes = FRAMES_PER_SECOND.to_string();
        let common = ["-v", "error", "-y", "-f", "lavfi", "-i", picture, "-g", &keyframes, "-b:v", rate];
        let how: &[&str] = match codec {
            VideoCodec::H264 => &[
                "-c:v",
                "libx264",
                "-profile:v",
                "baseline",
                "-pix_fmt",
                "yuv420p",
                "-preset",
                "ultrafast",
                "-tune",
                "zerolatency",
                "-x264-params",
                "aud=1:scenecut=0",
                "-f",
                "h264",
            ],
            VideoCodec::Vp8 => {
                &["-c:v", "libvpx", "-deadline", "realtime", "-lag-in-frames", "0", "-auto-alt-ref", "0", "-f", "ivf"]
            }
            VideoCodec::Vp9 => &["-c:v", "libvpx-vp9", "-deadline", "realtime", "-lag-in-frames", "0", "-f", "ivf"],
            VideoCodec::Av1 => &[
                "-c:v",
                "libaom-av1",
                "-usage",
                "realtime",
                "-cpu-used",
                "8",
                "-lag-in-frames",
                "0",
                "-pix_fmt",
                "yuv420p",
                "-f",
                "ivf",
            ],
        };
        run("ffmpeg", &[&common[..], how, &[video]].concat());
        let sound = format!("aevalsrc='gte(mod(t,1),0.48)*0.5*sin(2*PI*440*t)':s=48000:d={SECONDS}");
        let common = ["-v", "error", "-y", "-f", "lavfi", "-i", &sound];
        run("ffmpeg", &[&common[..], &["-c:a", "libopus", "-b:a", "32k", "-f", "ogg", audio]].concat());
        let (video, audio) = (std::fs::read(video).unwrap(), std::fs::read(audio).unwrap());
        let frames: Vec<_> = match codec {
            VideoCodec::H264 => access_units(&video).iter().map(|units| packetize_h264(units)).collect(),
            VideoCodec::Av1 => ivf(&video).iter().map(|unit| packetize_av1(unit)).collect(),
            _ => ivf(&video).iter().map(|frame| packetize_vpx(codec, frame)).collect(),
        };
        assert_eq!(frames.len(), SECONDS * FRAMES_PER_SECOND);
        let mut audio = ogg(&audio);
        assert!(audio.len() >= 50 * SECONDS);
        audio.truncate(50 * SECONDS);
        Media { codec, frames: Arc::new(frames), audio: Arc::new(audio) }
    }
}

/// The filter that makes the pictures.
fn blinking(size: &str) -> String {
    format!("color=black:s={size}:r={FRAMES_PER_SECOND}:d={SECONDS},drawbox=c=white:t=fill:enable='gte(mod(t,1),0.47)'")
}

/// NAL units of each access unit, which begins with a delimiter.
fn access_units(stream: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut begins = Vec::new();
    let mut at = 0;
    while at + 3 <= stream.len() {
        if stream[at..at + 3] == [0, 0, 1] {
            begins.push(at + 3);
            at += 3;
        } else {
            at += 1;
        }
    }
    let mut units: Vec<Vec<Vec<u8>>> = Vec::new();
    for (i, &begin) in begins.iter().enumerate() {
        let end = begins.get(i + 1).map_or(stream.len(), |next| next - 3);
        // A start code of four bytes begins with a zero, which no unit ends with.
        let len = stream[begin..end].iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let unit = stream[begin..begin + len].to_vec();
        if unit[0] & 0x1F == 9 {
            units.push(Vec::new());
        }
        units.last_mut().unwrap().push(unit);
    }
    units
}

/// Single NAL units, and FU-A for long ones (RFC 6184).
fn packetize_h264(units: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for unit in units {
        if unit.len() <= PAYLOAD_MAX {
            payloads.push(unit.clone());
            continue;
        }
        let parts: Vec<&[u8]> = unit[1..].chunks(PAYLOAD_MAX).collect();
        for (i, part) in parts.iter().enumerate() {
            let (start, end) = (if i == 0 { 0x80 } else { 0 }, if i + 1 == parts.len() { 0x40 } else { 0 });
            payloads.push([&[unit[0] & 0xE0 | 28, start | end | unit[0] & 0x1F][..], part].concat());
        }
    }
    payloads
}

/// The shortest descriptors of RFC 7741 and RFC 9628.
fn packetize_vpx(codec: VideoCodec, frame: &[u8]) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = frame.chunks(PAYLOAD_MAX).collect();
    let is_predicted = frame[0] & 0x04 != 0;
    let descriptor = |i: usize| {
        let (is_first, is_last) = (i == 0, i + 1 == parts.len());
        match codec {
            VideoCodec::Vp8 => {
                if is_first {
                    0x10
                } else {
                    0
                }
            }
            _ => u8::from(is_predicted) << 6 | u8::from(is_first) << 3 | u8::from(is_last) << 2,
        }
    };
    parts.iter().enumerate().map(|(i, part)| [&[descriptor(i)][..], part].concat()).collect()
}

/// One OBU or a fragment of one in each packet (AV1's RTP payload format), without delimiters and sizes.
fn packetize_av1(mut unit: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    while let [header, rest @ ..] = unit {
        assert_eq!(header & 0x06, 0x02, "an OBU with its size and without an extension");
        let (mut len, mut at) = (0, 0);
        loop {
            len |= usize::from(rest[at] & 0x7F) << (7 * at);
            at += 1;
            if rest[at - 1] & 0x80 == 0 {
                break;
            }
        }
        let obu = [&[header & !0x02][..], &rest[at..at + len]].concat();
        unit = &rest[at + len..];
        let kind = header >> 3 & 0x0F;
        if kind == 2 {
            continue; // A temporal delimiter.
        }
        let parts: Vec<&[u8]> = obu.chunks(PAYLOAD_MAX).collect();
        for (i, part) in parts.iter().enumerate() {
            let continues = if i > 0 { 0x80 } else { 0 };
            let is_continued = if i + 1 < parts.len() { 0x40 } else { 0 };
            // A sequence header is where a coded video sequence begins.
            let begins = if kind == 1 && payloads.is_empty() { 0x08 } else { 0 };
            payloads.push([&[continues | is_continued | 0x10 | begins][..], part].concat());
        }
    }
    payloads
}

fn ivf(file: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = &file[32..];
    let mut frames = Vec::new();
    while let Some(head) = rest.first_chunk::<12>() {
        let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        frames.push(rest[12..12 + len].to_vec());
        rest = &rest[12 + len..];
    }
    frames
}

/// Packets of an Ogg file without its two heads (RFC 3533, RFC 7845).
fn ogg(file: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut packets, mut packet) = (file, Vec::new(), Vec::new());
    while rest.starts_with(b"OggS") {
        let count = usize::from(rest[26]);
        let (table, mut body) = rest[27..].split_at(count);
        for &len in table {
            packet.extend_from_slice(&body[..usize::from(len)]);
            body = &body[usize::from(len)..];
            if len < 255 {
                packets.push(std::mem::take(&mut packet));
            }
        }
        rest = body;
    }
    packets.split_off(2)
}
