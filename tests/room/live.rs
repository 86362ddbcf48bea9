//! `uprtc live` as people run it: ffmpeg plays what it serves, and what it writes for other servers.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use client::http::{Request, Response, Server as Address};
use proto::signal::VideoCodec;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{DEADLINE, until, uprtc};
use crate::media::{Media, is_there, run};
use crate::recording::{Publisher, edges, send_for};
use crate::require;
use crate::server::Server;

/// A room that is on, as a process; killed with the value.
struct Live {
    child: Child,
    url: String,
}

impl Live {
    fn start(server: &Server, room: &str, more: &[&str]) -> Live {
        let mut command = uprtc(&["live", "--state", server.folder.path(), "--listen", "127.0.0.1:0"]);
        let mut child = command.args(more).arg(room).stderr(Stdio::inherit()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.ends_with("index.m3u8\n"), "{url:?}");
        Live { child, url: url.trim().to_owned() }
    }

    async fn get(&self, name: &str) -> Response {
        let (authority, path) = self.url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let path = format!("/{}", path.replace("index.m3u8", name));
        let request = Request { method: "GET", path: &path, token: None, content: None };
        Address::plain(authority).request(request, DEADLINE).await.unwrap()
    }

    /// The playlist, when it has this.
    async fn playlist(&self, what: &str, has: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let response = self.get("index.m3u8").await;
            if response.status == 200 && has(&response.body) {
                return response.body;
            }
            assert!(begun.elapsed() < DEADLINE, "{what} did not come: {response:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Its child that encodes.
    fn encoder(&self) -> Option<Pid> {
        let parent = format!("PPid:\t{}\n", self.child.id());
        std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let is_child = status.contains(&parent) && status.starts_with("Name:\tffmpeg\n");
            Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)
                .filter(|_| is_child && !status.contains("State:\tZ"))
        })
    }

    fn end(&mut self) -> bool {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        until("the end", || self.child.try_wait().unwrap()).success()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn last_segment(playlist: &str) -> u64 {
    let mut names = playlist.lines().filter_map(|line| line.strip_prefix("segment-")?.strip_suffix(".m4s"));
    names.next_back().expect("a segment").parse().unwrap()
}

/// Plays six seconds of it, as it comes, into a file.
async fn play(url: &str, to: &Path) {
    let (url, to) = (url.to_owned(), to.to_str().unwrap().to_owned());
    let begin = ["-v", "error", "-y", "-live_start_index", "-2", "-i"];
    let played = tokio::task::spawn_blocking(move || {
        run("ffmpeg", &[&begin[..], &[&url, "-t", "6", "-c", "copy", &to]].concat());
    });
    played.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_is_on_as_hls_and_stays_on_when_people_and_encoders_go() {
    if !is_there() {
        return require::left_out("ffmpeg", "rooms as HLS", "ffmpeg and ffprobe are not installed");
    }
    let server = Server::start();
    let (folder, played) = (server.folder.0.join("hls"), server.folder.0.join("played.mkv"));
    let small = Media::make(&server.folder.0, VideoCodec::H264, "320x180");
    let large = Media::make(&server.folder.0, VideoCodec::H264, "640x360");
    let ada = Publisher::join(&server, "r", "Ada", [small.clone(), small], u32::MAX).await;
    let mut live = Live::start(&server, "r", &["--to", folder.to_str().unwrap()]);
    let first = live.playlist("two segments", |text| text.matches("#EXTINF").count() >= 2).await;
    assert!(first.contains("CAN-BLOCK-RELOAD=YES") && first.contains("#EXT-X-PART:"), "{first}");
    assert!(first.contains("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-"), "{first}");
    assert!(!first.contains("#EXT-X-DISCONTINUITY\n"), "{first}");
    // Every segment begins with a keyframe.
    let begins = first.split("#EXT-X-PROGRAM-DATE-TIME").skip(1).filter_map(|rest| rest.lines().nth(1));
    assert!(
        begins.clone().all(|part| !part.starts_with("#EXT-X-PART") || part.ends_with("INDEPENDENT=YES")),
        "{first}"
    );

    // It waits for what is asked for, and refuses what is too far ahead.
    let (asked, next) = (Instant::now(), last_segment(&first) + 3);
    let answer = live.get(&format!("index.m3u8?_HLS_msn={}", next - 1)).await;
    assert!(answer.status == 200 && last_segment(&answer.body) >= next - 1, "{answer:?}");
    assert!(asked.elapsed() > Duration::from_millis(200), "it cannot have been there");
    assert_eq!(live.get(&format!("index.m3u8?_HLS_msn={}", next + 50)).await.status, 400);
    assert_eq!(live.get("segment-1.m4s").await.status, 404);
    assert_eq!(*ada.seen.lock().unwrap(), ["Live"], "everybody sees it");

    // Sound and picture are what was sent, and in step.
    play(&live.url, &played).await;
    let shown = ["-v", "error", "-show_entries", "stream=codec_name,width", "-of", "csv", played.to_str().unwrap()];
    let streams = run("ffprobe", &shown);
    let streams = String::from_utf8_lossy(&streams.stdout).into_owned();
    assert!(streams.contains("h264,320") && streams.contains("aac"), "{streams}");
    let white = edges(&played, &["-vf", "blackdetect=d=0.2:pix_th=0.2", "-an"], "black_end:");
    let loud = edges(&played, &["-af", "silencedetect=n=-30dB:d=0.2", "-vn"], "silence_end:");
    let nearest = |at: &f64| white.iter().map(|white| white - at).min_by(|a, b| a.abs().total_cmp(&b.abs()));
    let skews: Vec<f64> = loud.iter().filter_map(nearest).filter(|skew| skew.abs() < 0.3).collect();
    println!("picture less sound, seconds: {skews:.4?}");
    assert!(skews.len() >= 3 && skews.iter().all(|skew| skew.abs() <= 0.045), "{skews:?}: {white:?} {loud:?}");

    // The encoder of sound is killed: it goes on with another one.
    let killed = live.encoder().expect("a child that encodes");
    kill_process(killed, Signal::KILL).unwrap();
    until("another encoder", || live.encoder().filter(|&pid| pid != killed));

    // Somebody else, with another size.
    let bob = Publisher::join(&server, "r", "Bob", [large.clone(), large], u32::MAX).await;
    send_for(&bob, 1).await;
    ada.leave().await;
    let after = live.playlist("another picture", |text| text.contains("#EXT-X-DISCONTINUITY\n#EXT-X-MAP")).await;
    let inits = after.matches("#EXT-X-MAP").count();
    assert!((2..=3).contains(&inits), "{after}");
    let from = last_segment(&after);
    live.playlist("what follows", |text| last_segment(text) > from + 1).await;

    // The same as files, for any server.
    assert!(live.end());
    let text = std::fs::read_to_string(folder.join("index.m3u8")).unwrap();
    assert!(text.ends_with("#EXT-X-ENDLIST\n") && !text.contains("PART"), "{text}");
    let shown = ["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv"];
    let streams = run("ffprobe", &[&shown[..], &[folder.join("index.m3u8").to_str().unwrap()]].concat());
    assert!(String::from_utf8_lossy(&streams.stdout).contains("h264"), "{streams:?}");
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert!(files <= 20, "{files} files: old ones are removed");
    bob.leave().await;
}
