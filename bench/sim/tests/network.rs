//! The network cases give the figures that `bench/sim/expected` has. They are a matter of the code alone, so the comparison is
//! exact: a change of the estimator, the allocator, the pacer or the repairs shows here, better or worse, and is judged by whoever
//! made it. `UPDATE=1 cargo test -p sim --test network` writes what came out.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{env, fs, thread};

use sim::cases::{self, Case};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("expected")
}

/// Of the functions that are the machine's mathematics library's, and may differ in the last bit between two of them. A last bit is
/// enough to make another run.
fn mathematics() -> String {
    let mut sum = 0u64;
    for n in 1..2000 {
        let x = f64::from(n) * 0.013;
        for value in [x.exp(), x.ln(), x.powf(0.37), x.cbrt(), (-x).exp(), x.log10()] {
            sum = sum.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ value.to_bits();
        }
    }
    format!("{sum:016x}\n")
}

/// Runs all cases with so many seeds, on two threads.
fn run_all(seeds: u64) -> Vec<(Case, String)> {
    let cases = cases::all();
    let (next, texts) = (Mutex::new(0..cases.len()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(at) = next.lock().expect("nobody panics with it").next() else { return };
                    let runs: Vec<_> = (0..seeds).map(|seed| cases::figures(&cases[at], seed)).collect();
                    texts.lock().expect("nobody panics with it").push((at, cases::text(&cases[at], &runs)));
                }
            });
        }
    });
    let mut texts = texts.into_inner().expect("nobody panics with it");
    texts.sort();
    cases.into_iter().zip(texts).map(|(case, (_, text))| (case, text)).collect()
}

/// The first seed's column of a block.
fn first_column(block: &str) -> String {
    let lines = block.lines().filter(|line| !line.starts_with("  not met"));
    lines.map(|line| line.split("  |").next().unwrap_or(line).trim_end()).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_figures_are_as_expected() {
    let platform = folder().join("mathematics.txt");
    if env::var_os("UPDATE").is_some() {
        fs::create_dir_all(folder()).expect("the folder can be made");
        for (case, text) in run_all(cases::SEEDS) {
            fs::write(folder().join(format!("{}.txt", case.name)), text).expect("a block can be written");
        }
        fs::write(platform, mathematics()).expect("it can be written");
        return;
    }
    let is_same = fs::read_to_string(platform).is_ok_and(|text| text == mathematics());
    let mut differing = Vec::new();
    for (case, text) in run_all(1) {
        let path = folder().join(format!("{}.txt", case.name));
        let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (text, expected) = (first_column(&text), first_column(&expected));
        if !is_same {
            // Another mathematics library: the figures are others of the same kind.
            assert_eq!(text.lines().count(), expected.lines().count(), "{}", case.name);
        } else if text != expected {
            println!("{}\nexpected:\n{expected}\nnow:\n{text}\n", case.name);
            differing.push(case.name);
        }
    }
    assert!(
        differing.is_empty(),
        "{differing:?} differ from bench/sim/expected. If that is what the change is for: UPDATE=1 cargo test -p sim --test network"
    );
}

/// A run is the same again, keys aside.
#[test]
fn a_case_replays() {
    let case = cases::all().into_iter().find(|case| case.name == "rfc-8867-5.3").expect("it is there");
    let run = || cases::text(&case, &[cases::figures(&case, 9)]);
    assert_eq!(run(), run());
}

/// Every name is said once, as an option and as a file.
#[test]
fn names_are_unique_and_each_has_its_block() {
    let mut names: Vec<String> = cases::all().iter().map(|case| format!("{}.txt", case.name)).collect();
    names.push("mathematics.txt".into());
    names.sort();
    let files = fs::read_dir(folder()).expect("the folder is there");
    let mut files: Vec<String> =
        files.map(|file| file.expect("it can be read").file_name().into_string().expect("UTF-8")).collect();
    files.sort();
    assert_eq!(names, files);
}
