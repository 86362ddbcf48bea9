//! What the packet path has promised, as ratios in one run, and whether this run met it.

use crate::rows::Case;
use crate::sinks::Kind;
use crate::{BARE, TRAINS, Table};

/// A row's ratio to the bare loop of single packets, or of the same trains.
struct Target {
    row: &'static str,
    train: usize,
    /// Compared with the bare loop of single packets, whatever the train.
    ratio_max: f64,
}

/// 1200 bytes, 1 to 50, on an `ifb`.
const TARGETS: [Target; 3] = [
    Target { row: "udp gcm128", train: 1, ratio_max: 1.10 },
    Target { row: "udp gcm128", train: 8, ratio_max: 1.50 },
    Target { row: "frames gcm128", train: 1, ratio_max: 0.45 },
];

/// How much more than the row `udp` the row `uring` may cost to be taken without being asked for.
const URING_RATIO_MAX: f64 = 1.05;

/// Prints each target that this run can judge.
pub(crate) fn print(tables: &[Table]) {
    println!("\nTargets, 1200 bytes, 1 to 50, against the row {BARE:?}:");
    let Some(table) = tables.iter().find(|table| table.sink == Kind::Ifb) else {
        println!("  not judged: they are meant for an ifb, which takes root");
        return;
    };
    for target in &TARGETS {
        let case = Case { payload_len: 1200, train: target.train, fan_out: 50 };
        let Some(cell) = table.cell(target.row, case) else { continue };
        let is_met = if cell.ratio[1] <= target.ratio_max { "met" } else { "NOT met" };
        let trains =
            if target.train == 1 { "single packets".to_owned() } else { format!("trains of {}", target.train) };
        println!(
            "  {:<14} {trains:<15} at most x{:.2}: x{:.2} [{:.2} {:.2}], {is_met}",
            target.row, target.ratio_max, cell.ratio[1], cell.ratio[0], cell.ratio[2],
        );
    }
    for train in TRAINS {
        let case = Case { payload_len: 1200, train, fan_out: 50 };
        let (Some(udp), Some(uring)) = (table.cell("udp gcm128", case), table.cell("uring gcm128", case)) else {
            continue;
        };
        let ratio = uring.ratio[1] / udp.ratio[1];
        let is_met = if ratio <= URING_RATIO_MAX { "met" } else { "NOT met" };
        println!(
            "  uring gcm128, trains of {train}, against udp gcm128: at most x{URING_RATIO_MAX:.2}: x{ratio:.2}, {is_met}"
        );
    }
}
