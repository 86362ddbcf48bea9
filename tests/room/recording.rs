//! `uprtc record` as people run it: ffprobe and ffmpeg read what it wrote, also after it was killed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use client::room::{Event, Room, SendError, Settings};
use proto::signal::VideoCodec;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{DEADLINE, until, uprtc};
use crate::media::{FRAMES_PER_SECOND, Media, SECONDS, is_there, run};
use crate::require;
use crate::server::Server;

/// Somebody with a camera and a microphone, in a task.
pub(crate) struct Publisher {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Publisher {
    /// It sends the first media for so many frames, then the second.
    pub(crate) async fn join(server: &Server, room: &str, name: &str, media: [Media; 2], frames: u32) -> Publisher {
        let mut settings = server.settings(room, name);
        (settings.sends_audio, settings.sends_video) = (true, Some(media[0].codec));
        Publisher::with(settings, media, frames).await
    }

    /// It sends this medium, and receives nothing, so that it costs little.
    pub(crate) async fn send(server: &Server, room: &str, name: &str, media: [Media; 2]) -> Publisher {
        let mut settings = server.settings(room, name);
        (settings.sends_audio, settings.sends_video) = (true, Some(media[0].codec));
        (settings.audio_slots, settings.video_slots) = (Some(0), Some(0));
        Publisher::with(settings, media, u32::MAX).await
    }

    async fn with(settings: Settings, media: [Media; 2], frames: u32) -> Publisher {
        let room = Room::join(settings).await.unwrap();
        let (stop, sent, seen) = (Arc::default(), Arc::default(), Arc::default());
        let task = publish(room, media, frames, Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&seen));
        Publisher { stop, sent, seen, task: tokio::spawn(task) }
    }

    pub(crate) async fn leave(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// Sends, and waits while too much waits already: on a busy machine the room's task has its turn late.
async fn say(send: impl Fn() -> Result<(), SendError>) {
    while let Err(error) = send() {
        assert!(matches!(error, SendError::Full), "{error}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn publish(
    mut room: Room,
    media: [Media; 2],
    frames: u32,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    let mut number = 0u32;
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = interval.tick() => {
                // The clocks begin anywhere, and one of them wraps soon.
                let media = &media[usize::from(number / 2 >= frames)];
                let audio = &media.audio[number as usize % media.audio.len()];
                say(|| room.send_audio(number.wrapping_mul(960).wrapping_sub(100_000), audio.clone())).await;
                if number.is_multiple_of(2) {
                    let frame = &media.frames[number as usize / 2 % media.frames.len()];
                    for (i, payload) in frame.iter().enumerate() {
                        say(|| room.send_video(77 + number * 1800, i + 1 == frame.len(), payload.clone())).await;
                    }
                }
                number += 1;
                sent.store(number, Ordering::Relaxed);
            }
            event = room.next() => match event {
                Event::PeerJoined(info) => seen.lock().unwrap().push(info.name),
                Event::Ended(reason) => panic!("{reason}"),
                _ => (),
            },
        }
    }
    room.leave().await;
}

/// A recorder as a process; killed with the value.
struct Recorder {
    child: Child,
    /// Where its recording is.
    folder: PathBuf,
}

impl Recorder {
    fn start(server: &Server, room: &str, more: &[&str]) -> Recorder {
        let to = server.folder.0.join("recordings");
        let mut command = uprtc(&["record", "--state", server.folder.path(), "--to", to.to_str().unwrap()]);
        let mut child = command.args(more).arg(room).stderr(std::process::Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "it printed no folder");
        Recorder { child, folder: line.trim().into() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended; whether all was well.
    fn end(&mut self) -> bool {
        until("the recorder's end", || self.child.try_wait().unwrap()).success()
    }

    fn list(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.folder.join("recording.json")).unwrap()).unwrap()
    }

    /// The files of one kind of source.
    fn files(&self, source: &str) -> Vec<(PathBuf, Value)> {
        let list = self.list();
        let files = list["files"].as_array().unwrap().iter().filter(|file| file["source"] == source);
        files.map(|file| (self.folder.join(file["file"].as_str().unwrap()), file.clone())).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What ffprobe says of a file's stream, with its first and last time in seconds.
pub(crate) fn probe(path: &Path) -> (Value, f64, f64) {
    let path = path.to_str().unwrap();
    let shown = "stream=codec_name,width,height,sample_rate:packet=pts_time,duration_time";
    let output = run("ffprobe", &["-v", "error", "-of", "json", "-show_entries", shown, path]);
    assert!(output.stderr.is_empty(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packets = said["packets"].as_array().unwrap();
    // ffprobe does not know how long a picture of VP8 lasts that is the last one.
    let number = |packet: &Value, name: &str| packet[name].as_str().unwrap_or("0").parse::<f64>().unwrap();
    assert!(packets.iter().all(|packet| packet["pts_time"].is_string()), "{packets:?}");
    let (first, last) = (packets.first().unwrap(), packets.last().unwrap());
    let times = (number(first, "pts_time"), number(last, "pts_time") + number(last, "duration_time"));
    (said["streams"][0].clone(), times.0, times.1)
}

/// When black and silence end, by ffmpeg's detectors, and that everything is decoded without a complaint.
pub(crate) fn edges(path: &Path, filter: &[&str], mark: &str) -> Vec<f64> {
    let path = path.to_str().unwrap();
    let errors = run("ffmpeg", &["-v", "error", "-i", path, "-f", "null", "-"]).stderr;
    assert!(errors.is_empty(), "{path}: {}", String::from_utf8_lossy(&errors));
    let output = run("ffmpeg", &[&["-nostats", "-copyts", "-i", path][..], filter, &["-f", "null", "-"]].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let times =
        text.split(mark).skip(1).filter_map(|rest| rest.trim_start().split([' ', '\n', '\r']).next()?.parse().ok());
    times.collect()
}

/// Seconds since 1970.
pub(crate) fn wall() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Seconds since 1970 of what the list says, within the day that the test runs in.
pub(crate) fn seconds_of_day(rfc3339: &str) -> f64 {
    let time = &rfc3339[11..23];
    let [hours, minutes, seconds] = [&time[..2], &time[3..5], &time[6..]].map(|part| part.parse::<f64>().unwrap());
    hours * 3600.0 + minutes * 60.0 + seconds
}

pub(crate) async fn send_for(publisher: &Publisher, seconds: u32) {
    let (begun, until) = (Instant::now(), publisher.sent.load(Ordering::Relaxed) + 50 * seconds);
    while publisher.sent.load(Ordering::Relaxed) < until {
        assert!(begun.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_and_picture_of_everybody_are_recorded_in_step() {
    if !is_there() {
        return require::left_out("ffmpeg", "recordings", "ffmpeg and ffprobe are not installed");
    }
    let server = Server::start();
    let h264 = Media::make(&server.folder.0, VideoCodec::H264, "320x180");
    let vp8 = Media::make(&server.folder.0, VideoCodec::Vp8, "320x240");
    let ada = Publisher::join(&server, "r", "Ada", [h264.clone(), h264], u32::MAX).await;
    let mut recorder = Recorder::start(&server, "r", &[]);
    let bob = Publisher::join(&server, "r", "Bob", [vp8.clone(), vp8], u32::MAX).await;
    send_for(&ada, 6).await;
    assert_eq!(*ada.seen.lock().unwrap(), ["Recorder", "Bob"], "everybody sees that it is recorded");
    recorder.signal(Signal::TERM);
    assert!(recorder.end());

    let list = recorder.list();
    assert_eq!((&list["end_reason"], &list["room"]), (&Value::from("stopped"), &Value::from("r")), "{list:#}");
    assert_eq!((recorder.files("microphone").len(), recorder.files("camera").len()), (2, 2), "{list:#}");
    for file in list["files"].as_array().unwrap() {
        assert_eq!(
            (&file["packets_lost"], &file["gaps"], &file["clock"]),
            (&0.into(), &0.into(), &"sender_reports".into()),
            "{file:#}"
        );
    }
    for (path, file) in recorder.files("camera") {
        let (stream, begin, end) = probe(&path);
        assert_eq!(
            (&stream["codec_name"], &stream["width"], &stream["height"]),
            (&file["codec"], &file["width"], &file["height"])
        );
        assert_eq!(file["codec"], if file["name"] == "Ada" { "h264" } else { "vp8" });
        assert!(end - begin > 4.0 && end - begin < 8.0, "{begin} to {end}");
        let (sound, of_sound) =
            recorder.files("microphone").into_iter().find(|(_, of)| of["peer"] == file["peer"]).unwrap();
        assert_eq!(of_sound["codec"], "opus");
        let (stream, ..) = probe(&sound);
        assert_eq!((&stream["codec_name"], &stream["sample_rate"]), (&Value::from("opus"), &Value::from("48000")));
        let white = edges(&path, &["-vf", "blackdetect=d=0.2:pix_th=0.2"], "black_end:");
        let loud = edges(&sound, &["-af", "silencedetect=n=-30dB:d=0.2"], "silence_end:");
        // What ends within the files, and not with them.
        let mut skews = Vec::new();
        for at in loud.iter().filter(|&&at| at > begin + 1.0 && at < end - 1.0) {
            let nearest = white.iter().map(|white| white - at).min_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
            skews.push(nearest);
        }
        println!("{} {}: picture less sound, seconds: {skews:.4?}", file["name"], file["codec"]);
        assert!(skews.len() >= 3 && skews.iter().all(|skew| skew.abs() <= 0.020), "{skews:?}: {white:?}, {loud:?}");
    }
    ada.leave().await;
    bob.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vp9_and_av1_are_recorded_too() {
    if !is_there() {
        return require::left_out("ffmpeg", "recordings", "ffmpeg and ffprobe are not installed");
    }
    let server = Server::with(&["codecs=vp9,av1"]);
    let mut publishers = Vec::new();
    for (name, codec) in [("Cara", VideoCodec::Vp9), ("Dan", VideoCodec::Av1)] {
        let media = Media::make(&server.folder.0, codec, "320x180");
        publishers.push(Publisher::join(&server, "r", name, [media.clone(), media], u32::MAX).await);
    }
    let mut recorder = Recorder::start(&server, "r", &[]);
    send_for(&publishers[0], 3).await;
    recorder.signal(Signal::TERM);
    assert!(recorder.end());
    let files = recorder.files("camera");
    assert_eq!(files.len(), 2, "{:#}", recorder.list());
    for (path, file) in files {
        let (stream, begin, end) = probe(&path);
        assert_eq!(
            (&stream["codec_name"], &stream["width"], &stream["height"]),
            (&file["codec"], &320.into(), &180.into())
        );
        assert_eq!(file["codec"], if file["name"] == "Cara" { "vp9" } else { "av1" });
        assert!(end - begin > 1.0, "{begin} to {end}");
        let white = edges(&path, &["-vf", "blackdetect=d=0.2:pix_th=0.2"], "black_end:");
        assert!(!white.is_empty(), "{file:#}");
    }
    for publisher in publishers {
        publisher.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_recorder_leaves_files_that_lack_less_than_a_second() {
    if !is_there() {
        return require::left_out("ffmpeg", "recordings", "ffmpeg and ffprobe are not installed");
    }
    let server = Server::start();
    let small = Media::make(&server.folder.0, VideoCodec::H264, "320x180");
    let large = Media::make(&server.folder.0, VideoCodec::H264, "640x360");
    // Another size in the middle, which is another file.
    let switch = (3 * FRAMES_PER_SECOND).next_multiple_of(SECONDS * FRAMES_PER_SECOND) as u32;
    let ada = Publisher::join(&server, "r", "Ada", [small, large], switch).await;
    let mut recorder = Recorder::start(&server, "r", &[]);
    send_for(&ada, 7).await;
    let killed = wall();
    recorder.signal(Signal::KILL);
    assert!(!recorder.end());
    let list = recorder.list();
    assert!(list.get("ended").is_none() && list["files"].as_array().unwrap().len() == 3, "{list:#}");
    let began = seconds_of_day(list["started"].as_str().unwrap());
    let of_day = killed % 86_400.0;
    let cameras = recorder.files("camera");
    let sizes: Vec<_> = cameras.iter().map(|(path, _)| probe(path).0["width"].clone()).collect();
    assert_eq!(sizes, [320, 640], "{list:#}");
    for (path, _) in [&cameras[1..], &recorder.files("microphone")].concat() {
        let (_, _, end) = probe(&path);
        let lost = (of_day - began).rem_euclid(86_400.0) - end;
        println!("{}: {lost:.3} s are lost", path.display());
        assert!((-0.1..=1.0).contains(&lost), "{lost} s of {}", path.display());
        edges(&path, &[], "none");
    }
    ada.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_ends_with_its_quota_and_the_call_goes_on() {
    if !is_there() {
        return require::left_out("ffmpeg", "recordings", "ffmpeg and ffprobe are not installed");
    }
    let server = Server::start();
    let media = Media::make(&server.folder.0, VideoCodec::H264, "320x180");
    let ada = Publisher::join(&server, "r", "Ada", [media.clone(), media], u32::MAX).await;
    let to = server.folder.0.join("recordings");
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("of-yesterday"), vec![0; 980_000]).unwrap();
    let mut recorder = Recorder::start(&server, "r", &["--quota-mb", "1"]);
    assert!(!recorder.end());
    assert_eq!(recorder.list()["end_reason"], "quota");
    let (path, _) = &recorder.files("camera")[0];
    assert!(probe(path).2 > 0.5);
    let total: u64 = std::fs::read_dir(&recorder.folder)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension() == Some("mp4".as_ref()))
        .map(|entry| entry.metadata().unwrap().len())
        .sum();
    assert!(total <= 20_000, "{total}");
    send_for(&ada, 1).await;
    ada.leave().await;
}
