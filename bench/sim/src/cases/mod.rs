//! Networks: the server as it is, with clients that send and receive as libwebrtc does, over paths with a capacity, a queue, losses
//! and TCP beside them, in virtual time. What comes out is figures, in one block of text for each case that can be compared with
//! the one before ([`text`]; `bench/sim/expected`).
//!
//! - [`table`] has the cases: RFC 8867 §5, what broke in other servers, and those of `bench/weak`.
//! - [`mod@run`] is the world of one case; [`client`] joins and speaks, [`send`] is its sending side with libwebrtc's congestion control,
//!   [`receive`] its receiving side, [`content`] what is in the packets.
//! - [`path`] is a queue with what goes wrong behind it, [`tcp`] the flows that share it.
//! - [`score`] makes figures of what happened.
//!
//! `cargo run -p sim -- --network` runs all with five seeds, `--network NAME` one. `UPDATE=1 cargo test -p sim --test network` writes
//! what came out into `bench/sim/expected`.

pub mod client;
pub mod content;
pub mod path;
pub mod receive;
pub mod run;
pub mod score;
pub mod send;
pub mod table;
pub mod tcp;

pub use run::run;
pub use table::{Case, Target, all};

use score::Figure;

/// Seeds of a block.
pub const SEEDS: u64 = 5;

/// The figures of one run.
pub fn figures(case: &Case, seed: u64) -> Vec<Figure> {
    run(case, seed).figures(case.window)
}

/// The block of a case, of these seeds' figures: the first seed's, then least, median and most of all, and which targets the medians do
/// not meet. Of one seed only its figures.
pub fn text(case: &Case, runs: &[Vec<Figure>]) -> String {
    let mut text = score::block(&format!("{}: {}", case.name, case.about), runs);
    if runs.len() > 1 {
        missed(case, runs).iter().for_each(|missed| text += &format!("  not met: {missed}\n"));
    }
    text
}

/// What of a case's targets the medians of these runs do not meet, one sentence each.
pub fn missed(case: &Case, runs: &[Vec<Figure>]) -> Vec<String> {
    let median = |name: &str| {
        let mut values: Vec<f64> = runs
            .iter()
            .map(|run| run.iter().find(|figure| figure.name == name).expect("a figure of that name").value)
            .map(|value| value.unwrap_or(f64::INFINITY))
            .collect();
        values.sort_by(f64::total_cmp);
        values[(values.len() - 1) / 2]
    };
    let miss = |target: &Target| match *target {
        Target::Least(name, least) if median(name) < least => {
            Some(format!("{name} {:.2}, at least {least}", median(name)))
        }
        Target::Most(name, most) if median(name) > most => Some(format!("{name} {:.2}, at most {most}", median(name))),
        _ => None,
    };
    case.targets.iter().filter_map(miss).collect()
}
