//! Runs seeds of the simulator and prints those that break a law.
//!
//! `sim --network`: the network cases, `sim --network rfc-8867-5.1`: one of them. `sim --seeds 500`: seeds 0 to 499. `sim --seed 17`: one, with everything that happens in it.
//! `sim --edges`: the paths between 200 edges; `sim --edges 1000`: seeds 0 to 999 of twelve edges, and which of them break the law.

use std::panic::catch_unwind;
use std::process::ExitCode;

use sim::cases::{self, Case};
use sim::edges::{self, Plan};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--seed", seed] => match seed.parse() {
            Ok(seed) => {
                println!("{}", sim::run(seed, true));
                ExitCode::SUCCESS
            }
            Err(_) => usage(),
        },
        ["--seeds", count] => match count.parse() {
            Ok(count) => run_all(count),
            Err(_) => usage(),
        },
        ["--network"] => measure(|_| true),
        ["--network", name] => measure(|case| case.name == name),
        ["--edges"] => {
            println!("{}", edges::run(Plan::COUNTRY, 0));
            ExitCode::SUCCESS
        }
        ["--edges", seeds] => match seeds.parse() {
            Ok(seeds) => judge_edges(seeds),
            Err(_) => usage(),
        },
        ["--timeline", name, seed] => match (cases::all().iter().find(|case| case.name == name), seed.parse()) {
            (Some(case), Ok(seed)) => {
                println!("{}", cases::run(case, seed).timeline());
                ExitCode::SUCCESS
            }
            _ => usage(),
        },
        _ => usage(),
    }
}

/// Prints the cases, each with five seeds.
fn measure(is_wanted: impl Fn(&Case) -> bool) -> ExitCode {
    let mut count = 0;
    for case in cases::all().iter().filter(|case| is_wanted(case)) {
        let runs: Vec<_> = (0..cases::SEEDS).map(|seed| cases::figures(case, seed)).collect();
        println!("{}", cases::text(case, &runs));
        count += 1;
    }
    if count == 0 { usage() } else { ExitCode::SUCCESS }
}

/// Prints the seeds in which a dead path was used for too long.
fn judge_edges(seeds: u64) -> ExitCode {
    let failed: Vec<u64> =
        (0..seeds).filter(|&seed| edges::run(Plan::SMALL, seed).dead_max() > edges::DEAD_MAX).collect();
    println!("{seeds} seeds, {} broke the law: {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage() -> ExitCode {
    eprintln!("usage: sim --seeds COUNT | --seed NUMBER | --network [NAME] | --timeline NAME SEED | --edges [COUNT]");
    ExitCode::from(2)
}

fn run_all(count: u64) -> ExitCode {
    let failed: Vec<u64> = (0..count).filter(|seed| catch_unwind(|| sim::run(*seed, false)).is_err()).collect();
    println!("{count} seeds, {} failed: {failed:?}", failed.len());
    if let Some(first) = failed.first() {
        println!("cargo run -p sim -- --seed {first}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
