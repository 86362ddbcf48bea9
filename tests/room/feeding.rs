//! `uprtc feed` as people run it: ffmpeg in the place of OBS sends by RTMP and SRT, and a peer of the room takes what comes of it.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::room::{Clock, Codec, Event, Packet, Room};
use proto::signal::VideoCodec;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{DEADLINE, Folder, until, uprtc};
use crate::media::{is_there, run};
use crate::require;
use crate::server::{Server, wait};

const KEY: &str = "a-stream-key-for-tests";
/// Pictures a second of the encoder.
const FRAMES_PER_SECOND: f64 = 25.0;

/// A process that feeds; it ends with the value.
struct Feeder {
    child: Child,
    rtmp: String,
    srt: String,
}

impl Feeder {
    fn start(server: &Server) -> Feeder {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let srt = SocketAddr::from(([127, 0, 0, 1], port)).to_string();
        let mut command = uprtc(&["feed", "--state", server.folder.path(), "--rtmp", "127.0.0.1:0", "--srt", &srt]);
        let mut child = command
            .args(["--wait", "0.2", "studio"])
            .env("UPRTC_FEED_KEY", KEY)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let rtmp = lines.next().unwrap().unwrap();
        let rtmp = rtmp.strip_prefix("server=").and_then(|line| line.strip_suffix(" key=UPRTC_FEED_KEY")).expect(&rtmp);
        let srt_line = lines.next().unwrap().unwrap();
        assert_eq!(srt_line, format!("server=srt://{srt}?mode=caller&passphrase=UPRTC_FEED_KEY"));
        Feeder { child, rtmp: rtmp.to_owned(), srt }
    }

    fn rtmp(&self, key: &str) -> Vec<String> {
        ["-f".to_owned(), "flv".to_owned(), format!("{}/{key}", self.rtmp)].to_vec()
    }

    fn srt(&self, key: &str) -> Vec<String> {
        let address = format!("srt://{}?mode=caller&passphrase={key}", self.srt);
        ["-f".to_owned(), "mpegts".to_owned(), address].to_vec()
    }

    /// Its children with this word in their command lines.
    fn children(&self, word: &str) -> Vec<Pid> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        let children = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let children = children.collect::<Vec<_>>().join(" ");
        let has_word = |pid: &&str| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            assert!(!line.windows(KEY.len()).any(|part| part == KEY.as_bytes()), "the key is in a command line");
            line.split(|&byte| byte == 0).any(|argument| argument == word.as_bytes())
        };
        children.split_whitespace().filter(has_word).map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
    }

    fn kill(&self, word: &str) {
        let [child] = self.children(word)[..] else { panic!("one child with {word}") };
        kill_process(child, Signal::KILL).unwrap();
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while self.child.try_wait().is_ok_and(|status| status.is_none()) && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An encoder with pictures and sound: in every second the first 480 ms are black and silent, the rest is white and loud.
fn encoder(seconds: &str, how: &[&str], to: &[String]) -> Child {
    let picture =
        format!("color=black:s=320x240:r={FRAMES_PER_SECOND},drawbox=c=white:t=fill:enable='gte(mod(t,1),0.47)'");
    let sound = "aevalsrc='gte(mod(t,1),0.48)*0.5*sin(2*PI*440*t)':s=48000";
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", &picture, "-re", "-f", "lavfi", "-i", sound]);
    command.args(["-t", seconds, "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-g", "25"]);
    command.args(how).args(["-c:a", "aac", "-b:a", "96k"]).args(to);
    command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs an encoder that is refused.
fn is_refused(to: &[String]) {
    let mut encoder = encoder("20", &["-bf", "0"], to);
    assert!(!until("the end of a refused encoder", || encoder.try_wait().unwrap()).success());
}

/// What was received of a feed.
#[derive(Default)]
struct Received {
    pictures: Vec<Packet>,
    sound: Vec<Packet>,
    clocks: Vec<Clock>,
}

impl Received {
    fn take(&mut self, event: Event) {
        match event {
            Event::Packet(packet) if packet.codec == Codec::Opus => self.sound.push(packet),
            Event::Packet(packet) => {
                assert_eq!(packet.codec, Codec::Video(VideoCodec::H264));
                self.pictures.push(packet);
            }
            Event::Clock(clock) => self.clocks.push(clock),
            Event::PeerLeft { .. } | Event::Ended(_) => panic!("{event:?}"),
            _ => (),
        }
    }

    /// Whether a report of the pictures came.
    fn has_clock(&self) -> bool {
        let picture = self.pictures.last();
        picture.is_some_and(|picture| self.clocks.iter().any(|clock| clock.slot == picture.slot))
    }

    /// When a packet was captured, by the last report of its slot, in seconds.
    fn time(&self, packet: &Packet) -> f64 {
        let clock = self.clocks.iter().rfind(|clock| clock.slot == packet.slot).expect("a report");
        let rate = if packet.codec == Codec::Opus { 48_000.0 } else { 90_000.0 };
        let ticks = f64::from(packet.header.timestamp.wrapping_sub(clock.rtp_time) as i32);
        clock.ntp_time as f64 / (1u64 << 32) as f64 + ticks / rate
    }

    /// When pictures turned white.
    fn flashes(&self, folder: &Path) -> Vec<f64> {
        let (mut stream, mut times) = (Vec::new(), Vec::new());
        let begin = self.pictures.iter().position(|packet| packet.payload[0] & 0x1F == 7).expect("a keyframe");
        let end = self.pictures.iter().rposition(|packet| packet.header.marker).expect("a picture");
        for packet in &self.pictures[begin..=end] {
            let time = self.time(packet);
            if times.last().is_none_or(|last| time > last + 0.001) {
                times.push(time);
            }
            match packet.payload[..] {
                [indicator, header, ref rest @ ..] if indicator & 0x1F == 28 => {
                    if header & 0x80 != 0 {
                        stream.extend([0, 0, 0, 1, indicator & 0xE0 | header & 0x1F]);
                    }
                    stream.extend(rest);
                }
                ref unit => {
                    stream.extend([0, 0, 0, 1]);
                    stream.extend(unit);
                }
            }
        }
        let file = folder.join("received.h264");
        std::fs::write(&file, stream).unwrap();
        let decode = ["-v", "error", "-i", file.to_str().unwrap(), "-vf", "scale=1:1", "-fps_mode", "passthrough"];
        let output = run("ffmpeg", &[&decode[..], &["-pix_fmt", "gray", "-f", "rawvideo", "-"]].concat());
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout.len(), times.len(), "pictures are missing");
        edges(output.stdout.iter().map(|&grey| grey > 128).zip(times))
    }

    /// When sound began.
    fn tones(&self) -> Vec<f64> {
        let mut decoder = opusic_c::Decoder::new(opusic_c::Channels::Mono, opusic_c::SampleRate::Hz48000).unwrap();
        let mut loud = Vec::new();
        for packet in &self.sound {
            let (mut samples, time) = ([0.0; 960], self.time(packet));
            assert_eq!(decoder.decode_float_to_slice(&packet.payload, &mut samples, false).unwrap(), 960);
            let parts = samples.chunks(48).enumerate();
            loud.extend(parts.map(|(i, part)| (part.iter().any(|s: &f32| s.abs() > 0.1), time + i as f64 / 1000.0)));
        }
        // A tone is not loud all the time.
        let mut last = None;
        let begins = loud.into_iter().filter(|(is_loud, _)| *is_loud).filter_map(|(_, time)| {
            let before = last.replace(time)?;
            (time - before > 0.2).then_some(time)
        });
        begins.collect()
    }
}

/// When something begins to be so.
fn edges(states: impl Iterator<Item = (bool, f64)>) -> Vec<f64> {
    let mut before = true;
    states.filter(|&(is, _)| is & !std::mem::replace(&mut before, is)).map(|(_, time)| time).collect()
}

/// Everything until something is there.
async fn receive(viewer: &mut Room, received: &mut Received, what: &str, mut is_there: impl FnMut(&Received) -> bool) {
    let took = tokio::time::timeout(DEADLINE, async {
        while !is_there(received) {
            received.take(viewer.next().await);
        }
    });
    took.await.unwrap_or_else(|_| panic!("{what} did not come"));
}

async fn is_there_and_gone(viewer: &mut Room, is_there: bool) {
    wait(viewer, if is_there { "the feed" } else { "the end of the feed" }, |event| match event {
        Event::PeerJoined(info) if is_there => {
            assert_eq!((&info.name[..], info.tracks.len()), ("Feed", 2));
            Some(())
        }
        Event::PeerLeft { .. } if !is_there => Some(()),
        _ => None,
    })
    .await;
}

fn ended(mut encoder: Child) {
    let _ = kill_process(Pid::from_child(&encoder), Signal::INT);
    until("the encoder's end", || encoder.try_wait().unwrap());
}

#[test]
fn a_child_of_a_feed_has_little_left() {
    let folder = Folder::new();
    let parent = std::process::id().to_string();
    let file = folder.0.join("written");
    let may = |options: &[&str], script: &str| {
        let mut command = uprtc(&["feed-child", "--parent", &parent]);
        let script = script.replace("PARENT", &parent).replace("FILE", file.to_str().unwrap());
        let output = command.args(options).args(["bash", "-c", &script]).output().unwrap();
        output.status.success()
    };
    assert!(may(&[], "[ $(ulimit -c) = 0 ] && [ $(ulimit -n) -le 64 ] && [ $(nice) -ge 5 ] && echo to a pipe"));
    assert!(!may(&[], "echo something > FILE") && std::fs::read(&file).is_ok_and(|written| written.is_empty()));
    assert!(!may(&[], "kill -0 PARENT"));
    let socket = "exec 3<>/dev/udp/127.0.0.1/9";
    assert!(!may(&[], socket) && may(&["--network"], socket));
    let orphan = uprtc(&["feed-child", "--parent", "1", "true"]).output().unwrap();
    assert!(!orphan.status.success());
}

#[tokio::test]
async fn a_feed_by_rtmp_is_seen_and_heard_in_step_and_by_nobody_without_the_key() {
    if !is_there() {
        return require::left_out("ffmpeg", "feeds by RTMP", "ffmpeg does not start");
    }
    let server = Server::start();
    let feeder = Feeder::start(&server);
    let mut viewer = Room::join(server.settings("studio", "Viewer")).await.unwrap();
    is_refused(&feeder.rtmp("another-stream-key-of-nobody"));
    // As OBS sends by default: with B-frames, in the high profile. So it is encoded anew.
    let sending = encoder("60", &["-profile:v", "high", "-bf", "2"], &feeder.rtmp(KEY));
    is_there_and_gone(&mut viewer, true).await;
    let mut received = Received::default();
    receive(&mut viewer, &mut received, "four seconds of pictures and sound", |received| {
        let span = |packets: &[Packet]| {
            packets.len() > 1
                && packets[packets.len() - 1].arrival.duration_since(packets[0].arrival) > Duration::from_secs(4)
        };
        span(&received.pictures) && span(&received.sound) && received.clocks.len() > 5
    })
    .await;
    assert_eq!(feeder.children("libx264").len(), 1);
    let (flashes, tones) = (received.flashes(&server.folder.0), received.tones());
    println!("flashes {flashes:?} tones {tones:?}");
    let skews: Vec<f64> = flashes
        .iter()
        .filter_map(|flash| tones.iter().map(|tone| tone - flash).find(|skew| skew.abs() < 0.3))
        .map(|skew| (skew * 1000.0).round())
        .collect();
    println!("sound is later than pictures by {skews:?} ms");
    // The first second's report may have been that of a begin in a hurry.
    assert!(skews.len() >= 3 && skews.iter().skip(1).all(|skew| skew.abs() <= 40.0), "{skews:?}");
    let pictures = received.pictures.iter().filter(|packet| packet.header.marker).count();
    assert!(pictures as f64 > 3.6 * FRAMES_PER_SECOND, "{pictures} pictures");
    ended(sending);
    is_there_and_gone(&mut viewer, false).await;
}

#[tokio::test]
async fn a_feed_by_srt_outlives_its_children_and_comes_back_as_it_is_when_all_can_decode_it() {
    if !is_there() {
        return require::left_out("ffmpeg", "feeds by SRT", "ffmpeg does not start");
    }
    let server = Server::start();
    let feeder = Feeder::start(&server);
    let mut viewer = Room::join(server.settings("studio", "Viewer")).await.unwrap();
    is_refused(&feeder.srt("another-passphrase-of-nobody"));
    let sending = encoder("60", &["-bf", "2"], &feeder.srt(KEY));
    is_there_and_gone(&mut viewer, true).await;
    let (mut received, mut before) = (Received::default(), Instant::now());
    for child in ["libx264", "s16le"] {
        let began = before;
        receive(&mut viewer, &mut received, "media", |received| {
            [&received.pictures, &received.sound]
                .iter()
                .all(|packets| packets.last().is_some_and(|packet| packet.arrival > began))
        })
        .await;
        feeder.kill(child);
        // What is on its way still comes.
        before = Instant::now() + Duration::from_millis(150);
    }
    receive(&mut viewer, &mut received, "media of other children", |received| {
        let is_key = |packet: &&Packet| packet.payload[0] & 0x1F == 7;
        let keyframe = received.pictures.iter().rfind(is_key).is_some_and(|packet| packet.arrival > before);
        keyframe && received.has_clock() && received.sound.last().is_some_and(|packet| packet.arrival > before)
    })
    .await;
    received.flashes(&server.folder.0);
    ended(sending);
    is_there_and_gone(&mut viewer, false).await;

    // What everybody decodes is passed on as it is, as soon as its rate and its keyframes are known.
    let sending = encoder("60", &["-profile:v", "baseline", "-bf", "0", "-b:v", "150k"], &feeder.rtmp(KEY));
    is_there_and_gone(&mut viewer, true).await;
    let (mut received, mut last_look) = (Received::default(), Instant::now());
    receive(&mut viewer, &mut received, "a feed that is not encoded anew", |received| {
        let may_look = last_look.elapsed() > Duration::from_millis(100);
        if may_look {
            last_look = Instant::now();
        }
        may_look
            && !received.pictures.is_empty()
            && feeder.children("s16le").len() == 1
            && feeder.children("libx264").is_empty()
    })
    .await;
    let (count, passed_on) = (received.pictures.len(), Instant::now());
    receive(&mut viewer, &mut received, "a second of it", |received| {
        passed_on.elapsed() > Duration::from_secs(1) && received.has_clock()
    })
    .await;
    assert!(received.pictures.len() > count + 20);
    received.flashes(&server.folder.0);
    ended(sending);
    is_there_and_gone(&mut viewer, false).await;

    // Nothing of it outlives it.
    let [listens] = feeder.children("pipe,srt")[..] else { panic!("one child that listens for SRT") };
    kill_process(Pid::from_child(&feeder.child), Signal::KILL).unwrap();
    // Who is dead has no command line, whoever is to reap it.
    let line = format!("/proc/{}/cmdline", listens.as_raw_nonzero());
    until("the end of its child", || std::fs::read(&line).map_or(true, |line| line.is_empty()).then_some(()));
}
