//! Fifty runs of both planes over bad networks, with kills. `make sim SEEDS=1000` runs more; a seed that fails is named, and
//! `cargo run -p sim -- --seed N` runs it again and tells what happened.

use std::panic::catch_unwind;
use std::thread;

const SEEDS: u64 = 50;

#[test]
fn the_laws_hold_in_fifty_runs() {
    let half = |first: u64| {
        move || -> Vec<(u64, Option<sim::Summary>)> {
            (first..SEEDS).step_by(2).map(|seed| (seed, catch_unwind(|| sim::run(seed, false)).ok())).collect()
        }
    };
    let threads = [0, 1].map(|first| thread::spawn(half(first)));
    let runs: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().expect("a run's panic is caught")).collect();
    let failed: Vec<u64> = runs.iter().filter(|(_, summary)| summary.is_none()).map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "seeds {failed:?} broke a law: cargo run -p sim -- --seed {}", failed[0]);
    // The runs together reach what they are for.
    let all: Vec<sim::Summary> = runs.iter().filter_map(|(_, summary)| *summary).collect();
    let sum = |of: fn(&sim::Summary) -> u64| all.iter().map(of).sum::<u64>();
    assert!(sum(|summary| summary.packets as u64) > 100_000);
    assert!(sum(|summary| summary.repairs) > 1_000);
    assert!(sum(|summary| summary.relayed) > 10_000);
    assert!(sum(|summary| summary.connections as u64) > 200);
}

/// The same seed is the same run, keys aside.
#[test]
fn a_seed_replays() {
    assert_eq!(sim::run(3, false), sim::run(3, false));
}
