//! What a peer costs the machine in memory: the real executable, both planes, and peers of another stack in meetings.
//!
//! Alone in its file, because PSS counts a page by how many processes have it: other servers of the same executable would
//! change the count. What exactly a peer takes of the allocator is held by `memory.rs` in both crates.

use std::process::{Command, Stdio};

use serde_json::Value;

/// PSS of both planes with so many meetings of eight, and how many peers there are. Meetings send long enough for the worker's
/// history of packets, which all peers share, to be touched whole: 4096 packets of video.
fn meetings(rooms: u32) -> (f64, f64) {
    let media = ["--seconds", "9", "--fps", "10", "--frame-packets", "1", "--audio-rate", "5"];
    let rooms = rooms.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_uprtc"));
    command.args(["load", "--json"]).args(media).args(["meetings", "--peers", "8", "--rooms", &rooms]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {words}"));
    assert_eq!(report["joins"]["failed"], 0, "{report:#}");
    let planes = report["processes"].as_array().unwrap();
    let pss = planes.iter().map(|plane| plane["pss"].as_f64().unwrap()).sum();
    (pss, report["peers"].as_f64().unwrap())
}

/// The bound is wide: how an allocator's pages fill up is another each time, by some KiB for each peer either way.
/// docs/MEASURING.md has what was measured.
#[test]
fn a_peer_in_a_meeting_of_eight_takes_some_100_kib_of_both_planes() {
    let [(few_bytes, few), (many_bytes, many)] = [8, 40].map(meetings);
    let slope = (many_bytes - few_bytes) / (many - few) / 1024.0;
    println!("{slope:.1} KiB for each peer");
    assert!((20.0..110.0).contains(&slope), "{slope:.1} KiB for each peer");
}
