//! Runs seeds of the simulator and prints those that break a law.
//!
//! `sim --seeds 500`: seeds 0 to 499. `sim --seed 17`: one, with everything that happens in it.

use std::panic::catch_unwind;
use std::process::ExitCode;

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
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: sim --seeds COUNT | --seed NUMBER");
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
