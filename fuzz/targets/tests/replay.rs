//! Each target over each file of its corpus, without libFuzzer: what was found once stays found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use targets::{TARGETS, Target};

/// Files of a target. They are read in every test run.
const FILES_MAX: usize = 40;

/// Bytes of a file: what a client sends at once.
const FILE_LEN_MAX: u64 = 64 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in `fuzz`").join("corpus")
}

fn replay(name: &str) {
    let (_, target): (_, Target) = *TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let files = fs::read_dir(corpus().join(name)).unwrap_or_else(|error| panic!("the corpus of {name}: {error}"));
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the corpus of {name} is empty");
    assert!(paths.len() <= FILES_MAX, "the corpus of {name} has {} files", paths.len());
    for path in paths {
        let bytes = fs::read(&path).expect("a file can be read");
        assert!(bytes.len() as u64 <= FILE_LEN_MAX, "{} has {} bytes", path.display(), bytes.len());
        println!("{}", path.display()); // Shown if it fails.
        target(&bytes);
    }
}

#[test]
fn frames_of_a_websocket_do_what_their_bytes_say_however_they_are_cut() {
    replay("websocket");
}

#[test]
fn offers_one_after_the_other_are_answered_or_refused() {
    replay("sdp_offers");
}

#[test]
fn compound_rtcp_is_read_and_written_alike() {
    replay("rtcp");
}

#[test]
fn rtp_is_read_and_written_alike() {
    replay("rtp");
}

#[test]
fn red_is_read_and_written_alike() {
    replay("red");
}

#[test]
fn descriptors_are_read_or_change_nothing() {
    replay("descriptors");
}

#[test]
fn allocations_are_read_within_their_bounds() {
    replay("allocations");
}

#[test]
fn stun_is_read_and_written_alike() {
    replay("stun");
}

#[test]
fn an_engine_adopts_what_a_journal_and_a_worker_agree_on() {
    replay("journal");
}

#[test]
fn records_between_the_planes_are_read_and_written_alike() {
    replay("records");
}

#[test]
fn tokens_are_taken_only_as_they_were_signed() {
    replay("tokens");
}

#[test]
fn sip_is_read_and_written_alike() {
    replay("sip");
}

#[test]
fn calls_and_a_trunk_of_sip_stay_bounded_and_answer_where_they_were_asked() {
    replay("calls");
}

#[test]
fn a_connection_of_rtmp_says_the_same_however_it_is_cut() {
    replay("rtmp");
}

#[test]
fn flv_says_the_same_however_it_is_cut() {
    replay("flv");
}

#[test]
fn what_a_client_sends_as_data_is_read_within_its_bounds() {
    replay("data");
}

#[test]
fn every_target_is_replayed_and_has_a_corpus_and_an_executable() {
    let targets: BTreeSet<String> = TARGETS.map(|(name, _)| name.to_owned()).into();
    let calls = include_str!("replay.rs").lines().filter_map(|line| line.strip_prefix("    replay(\""));
    let replayed: BTreeSet<String> = calls.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect();
    assert_eq!(replayed, targets, "tests of this file");
    let names = |folder: &str| -> BTreeSet<String> {
        let files = fs::read_dir(corpus().with_file_name(folder)).expect("the folder is there");
        let name = |path: PathBuf| path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
        files.map(|file| name(file.expect("a file").path())).collect()
    };
    assert_eq!(names("corpus"), targets);
    assert_eq!(names("fuzz_targets"), targets);
}

/// What libFuzzer changes in the journal must be entries that are taken over, or it would see only refusals.
#[test]
fn the_journals_corpus_begins_with_entries_that_are_taken_over() {
    let seed = corpus().join("journal/entries");
    if std::env::var_os("UPRTC_BLESS").is_some() {
        fs::write(&seed, targets::journal_entries().join(&targets::SEPARATOR)).expect("the seed can be written");
    }
    let seed = fs::read(&seed).expect("the seed is there");
    assert_eq!(targets::adopted(&seed), 2, "ids or the format have changed: UPRTC_BLESS=1 writes it anew");
}
