//! What recording costs, and what a killed recorder leaves, with real sound and pictures in every room. `make recordings` runs it in full
//! against the release executable and prints the figures (docs/MEASURING.md); `make test` a short form.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proto::signal::VideoCodec;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{DEADLINE, cpu, until, uprtc};
use crate::media::{Media, is_there};
use crate::recording::{Publisher, edges, probe, seconds_of_day, wall};
use crate::require;
use crate::server::Server;

/// How much is recorded.
struct Form {
    rooms: usize,
    peers: usize,
    settle: Duration,
    measure: Duration,
}

const FULL: Form = Form { rooms: 8, peers: 4, settle: Duration::from_secs(5), measure: Duration::from_secs(30) };
const SHORT: Form = Form { rooms: 2, peers: 1, settle: Duration::from_secs(1), measure: Duration::from_secs(3) };

/// Part of a core that recording one track may take.
const CORE_PER_TRACK_MAX: f64 = 0.03;
/// Seconds that a file may lack after a kill, and that sound and picture may be apart.
const LOST_MAX: f64 = 1.0;
const SKEW_MAX: f64 = 0.020;

/// Most memory that it had, kB.
fn memory_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the files of a killed recorder are like.
#[derive(Default)]
struct Left {
    opened: usize,
    lost: Vec<f64>,
    skews: Vec<f64>,
    packets: u64,
    packets_lost: u64,
}

impl Left {
    /// Reads the files of a folder whose recorder was killed at this time of the day.
    fn read(&mut self, folder: &Path, killed: f64) {
        let list: Value = serde_json::from_slice(&std::fs::read(folder.join("recording.json")).unwrap()).unwrap();
        let began = seconds_of_day(list["started"].as_str().unwrap());
        let files = list["files"].as_array().unwrap();
        let path = |file: &Value| folder.join(file["file"].as_str().unwrap());
        for file in files {
            let (_, _, end) = probe(&path(file));
            self.opened += 1;
            self.lost.push((killed - began).rem_euclid(86_400.0) - end);
            self.packets += file["packets"].as_u64().unwrap();
            self.packets_lost += file["packets_lost"].as_u64().unwrap() + file["gaps"].as_u64().unwrap();
        }
        for camera in files.iter().filter(|file| file["source"] == "camera") {
            let is_its = |file: &&Value| file["source"] == "microphone" && file["peer"] == camera["peer"];
            let sound = files.iter().find(is_its).unwrap();
            self.skews.extend(skews(&path(camera), &path(sound)));
        }
    }
}

/// How much later a picture turns white than its sound turns loud, seconds, each time.
fn skews(camera: &Path, sound: &Path) -> Vec<f64> {
    let ((_, begin, end), (_, sound_begin, sound_end)) = (probe(camera), probe(sound));
    let white = edges(camera, &["-vf", "crop=iw/2:ih:0:0,blackdetect=d=0.2:pix_th=0.2"], "black_end:");
    let loud = edges(sound, &["-af", "silencedetect=n=-30dB:d=0.2"], "silence_end:");
    let (begin, end) = (begin.max(sound_begin) + 1.0, end.min(sound_end) - 1.0);
    let within = loud.iter().filter(|&&at| at > begin && at < end);
    let nearest = |at: &f64| white.iter().map(|white| white - at).min_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
    within.map(nearest).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recording_many_rooms_costs_little_and_a_kill_leaves_every_file() {
    if !is_there() {
        return require::left_out("ffmpeg", "recordings", "ffmpeg and ffprobe are not installed");
    }
    let is_full = std::env::var_os("RECORDINGS").is_some_and(|value| value == "full");
    let form = if is_full { FULL } else { SHORT };
    let server = Server::with(&["client-bps-max=10000000"]);
    let media = Media::noisy(&server.folder.0, VideoCodec::H264, "640x360");
    let rooms: Vec<String> = (0..form.rooms).map(|n| format!("room-{n}")).collect();
    let mut publishers = Vec::new();
    for room in &rooms {
        for n in 0..form.peers {
            let media = [media.clone(), media.clone()];
            publishers.push(Publisher::send(&server, room, &format!("Peer {n}"), media).await);
        }
    }

    let to = server.folder.0.join("recordings");
    let mut command = uprtc(&["record", "--state", server.folder.path(), "--to", to.to_str().unwrap()]);
    let mut recorder = command.args(&rooms).stderr(std::process::Stdio::inherit()).spawn().unwrap();
    let printed = BufReader::new(recorder.stdout.take().unwrap());
    let folders: Vec<PathBuf> = printed.lines().take(form.rooms).map(|line| line.unwrap().trim().into()).collect();
    let tracks = 2 * form.rooms * form.peers;
    let files = || folders.iter().map(|folder| count(folder)).sum::<usize>();
    let begun = Instant::now();
    while files() < tracks {
        assert!(begun.elapsed() < DEADLINE, "{} of {tracks} files", files());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(form.settle).await;

    let (begun, before) = (Instant::now(), cpu(recorder.id()));
    tokio::time::sleep(form.measure).await;
    let core = (cpu(recorder.id()) - before) / begun.elapsed().as_secs_f64();
    let memory = memory_kb(recorder.id());
    let killed = wall() % 86_400.0;
    kill_process(Pid::from_child(&recorder), Signal::KILL).unwrap();
    until("the recorder's end", || recorder.try_wait().unwrap());
    for publisher in publishers {
        publisher.leave().await;
    }

    let mut left = Left::default();
    folders.iter().for_each(|folder| left.read(folder, killed));
    let most = |all: &[f64]| all.iter().fold(0.0f64, |most, one| most.max(one.abs()));
    println!(
        "{} rooms of {}, {tracks} tracks: {:.1} % of a core, {:.3} % for each track, {memory} kB of memory, {} packets, {} lost",
        form.rooms,
        form.peers,
        100.0 * core,
        100.0 * core / tracks as f64,
        left.packets,
        left.packets_lost
    );
    println!(
        "kill -9: {} of {} files open, the one that lacks most lacks {:.2} s; sound and picture are {:.1} ms apart at most ({} places)",
        left.opened,
        files(),
        most(&left.lost),
        1000.0 * most(&left.skews),
        left.skews.len()
    );
    assert_eq!((left.opened, files()), (tracks, tracks));
    assert!(left.lost.iter().all(|lost| (-0.1..=LOST_MAX).contains(lost)), "{:.3?}", left.lost);
    assert!(left.skews.len() >= form.rooms * form.peers, "{:?}", left.skews);
    assert!(most(&left.skews) <= SKEW_MAX, "{:.4?}", left.skews);
    assert!(!is_full || core / tracks as f64 <= CORE_PER_TRACK_MAX, "{core}");
}

/// Files of tracks in a folder.
fn count(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "mp4")).count()
}
