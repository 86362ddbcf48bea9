//! What forwarding a packet costs with a kernel under it: the production worker beside the bare kernel loop of the same
//! system calls, tokio, monoio and tokio-uring, in one interleaved run for each sink. CPU time of the sending thread for each packet
//! that left. docs/MEASURING.md says how to read the numbers.
//!
//! `cargo bench -p bench --bench kernel -- veth` runs one sink alone.

mod bare;
#[path = "../cpu/mod.rs"]
mod cpu;
#[path = "../edge/mod.rs"]
mod edge;
mod plot;
mod rows;
mod sinks;
mod targets;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, thread};

use dataplane::config::Backend;
use proto::plane::SrtpProfile;
use rows::{Case, Measured, Seat};
use serde_json::{Value, json};
use sinks::{Kind, Sinks};

const PAYLOADS: [usize; 2] = [1200, 160];
const TRAINS: [usize; 3] = [1, 4, 8];
const FAN_OUTS: [usize; 2] = [50, 500];

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const CM: SrtpProfile = SrtpProfile::Aes128CmHmacSha1_80;

/// Rounds of each row and case; odd, so that there is a median.
const ROUNDS: usize = 11;
/// Packets that leave in one round: some tens of milliseconds.
const ROUND_PACKETS: usize = 16_000;

/// The row that the others are divided by, the first.
const BARE: &str = "bare loop";
const BASE: usize = 0;

/// A row's thread and its two channels.
struct Row {
    name: &'static str,
    jobs: Sender<(Case, usize)>,
    done: Receiver<Measured>,
}

impl Row {
    /// Starts a row and waits until it is ready; alone, because it looks at what the first sink gets.
    fn start(name: &'static str, sinks: &Arc<Sinks>, body: impl FnOnce(&Seat) + Send + 'static) -> Row {
        let ((jobs, to_do), (finished, done)) = (channel(), channel());
        let seat = Seat { jobs: to_do, done: finished, sinks: sinks.clone(), fan_outs: FAN_OUTS.to_vec() };
        let core = core_affinity::get_core_ids().and_then(|cores| cores.last().copied());
        let pinned = move || {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            body(&seat);
        };
        thread::Builder::new().name(name.into()).spawn(pinned).expect("a thread");
        let row = Row { name, jobs, done };
        row.wait();
        row
    }

    fn wait(&self) -> Measured {
        self.done.recv().unwrap_or_else(|_| panic!("the row {:?} has failed; its reason is above", self.name))
    }

    fn run(&self, case: Case) -> Round {
        let turns = (ROUND_PACKETS / (case.train * case.fan_out)).max(1);
        self.jobs.send((case, turns)).unwrap_or_else(|_| panic!("the row {:?} has ended", self.name));
        let Measured { packets, sends, time } = self.wait();
        Round { ns: time.as_nanos() as f64 / packets as f64, train: packets as f64 / sends as f64 }
    }
}

/// One row's round of one case.
#[derive(Clone, Copy)]
struct Round {
    /// CPU time for each packet that left.
    ns: f64,
    /// Packets in each message to the kernel.
    train: f64,
}

/// One row's cell of one case.
#[derive(Clone, Debug)]
struct Cell {
    row: &'static str,
    /// CPU ns for each packet that left: the smallest, the quartiles with the median between them.
    ns_min: f64,
    ns: [f64; 3],
    /// Quartiles of the ratios to the bare loop in the same round.
    ratio: [f64; 3],
    /// Packets in each message to the kernel.
    train: f64,
}

/// All cases on one sink.
struct Table {
    sink: Kind,
    cases: Vec<(Case, Vec<Cell>)>,
}

impl Table {
    /// The cell of a row in a case.
    fn cell(&self, row: &str, case: Case) -> Option<&Cell> {
        let (_, cells) = self.cases.iter().find(|(other, _)| *other == case)?;
        cells.iter().find(|cell| cell.row == row)
    }
}

fn main() {
    let machine = machine();
    println!("\nCPU ns for each packet that left; median of {ROUNDS} interleaved rounds [quartiles], and the median");
    println!("of the ratios to the bare loop in the same round. {machine}");
    let tables: Vec<Table> = kinds().into_iter().filter_map(|kind| on_its_own_thread(kind, measure)).collect();
    targets::print(&tables);
    write(&machine, &tables);
}

/// The sinks that this machine allows, or of them the one that was asked for.
fn kinds() -> Vec<Kind> {
    let asked = env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let wanted = |kind: &Kind| asked.as_ref().is_none_or(|asked| asked == kind.name());
    let may_make = |kind: &Kind| match on_its_own_thread(*kind, |kind| Sinks::open(kind, 1).map(drop)) {
        Ok(()) => true,
        Err(error) => {
            println!("no {} here: {error}", kind.name());
            false
        }
    };
    [Kind::Ifb, Kind::Veth, Kind::Loopback].into_iter().filter(wanted).filter(may_make).collect()
}

/// A thread may have a network of its own, which ends with it and with those that it started.
fn on_its_own_thread<T: Send + 'static>(kind: Kind, body: impl FnOnce(Kind) -> T + Send + 'static) -> T {
    thread::spawn(move || body(kind))
        .join()
        .unwrap_or_else(|_| panic!("{} has failed; its reason is above", kind.name()))
}

/// All rows and cases on one sink.
fn measure(kind: Kind) -> Option<Table> {
    let most = FAN_OUTS.into_iter().max()?;
    let sinks = Sinks::open(kind, most).map_err(|error| println!("no {} here: {error}", kind.name())).ok()?;
    let sinks = Arc::new(sinks);
    let mut rows = vec![
        Row::start(BARE, &sinks, rows::bare),
        Row::start("udp gcm128", &sinks, |seat| rows::uprtc(seat, Backend::Udp, GCM)),
        Row::start("udp cm-sha1", &sinks, |seat| rows::uprtc(seat, Backend::Udp, CM)),
    ];
    let has_uring = ::monoio::utils::detect_uring();
    if has_uring {
        rows.push(Row::start("uring gcm128", &sinks, |seat| rows::uprtc(seat, Backend::Uring, GCM)));
    }
    if kind != Kind::Loopback {
        rows.push(Row::start("frames gcm128", &sinks, |seat| rows::uprtc(seat, Backend::Frames, GCM)));
        rows.push(Row::start("frames cm-sha1", &sinks, |seat| rows::uprtc(seat, Backend::Frames, CM)));
    }
    rows.push(Row::start("tokio", &sinks, rows::tokio));
    if has_uring {
        rows.push(Row::start("monoio", &sinks, rows::monoio));
        rows.push(Row::start("tokio-uring", &sinks, rows::tokio_uring));
    }
    sinks.close_buffers();
    print!("\n{:<24}", format!("sink: {}", kind.name()));
    rows.iter().for_each(|row| print!("{:>26}", row.name));
    println!();
    let cases = cases().map(|case| {
        let rounds = interleave(&rows, case);
        print!("{:<24}", format!("{} B, {} x 1->{}", case.payload_len, case.train, case.fan_out));
        let cells = rows.iter().zip(&rounds).map(|(row, own)| summarise(row, own, &rounds[BASE])).collect();
        println!();
        (case, cells)
    });
    Some(Table { sink: kind, cases: cases.collect() })
}

fn cases() -> impl Iterator<Item = Case> {
    let of_payload = |payload_len| {
        FAN_OUTS.into_iter().flat_map(move |fan_out| TRAINS.map(|train| Case { payload_len, train, fan_out }))
    };
    PAYLOADS.into_iter().flat_map(of_payload)
}

/// All rounds of a case, by row. Each round begins with another row, after one that does not count.
fn interleave(rows: &[Row], case: Case) -> Vec<Vec<Round>> {
    let mut rounds = vec![Vec::with_capacity(ROUNDS); rows.len()];
    for row in rows {
        row.run(case);
    }
    for round in 0..ROUNDS {
        for turn in 0..rows.len() {
            let index = (round + turn) % rows.len();
            rounds[index].push(rows[index].run(case));
        }
    }
    rounds
}

/// Prints one cell; its numbers.
fn summarise(row: &Row, own: &[Round], base: &[Round]) -> Cell {
    let ns = sorted(own.iter().map(|round| round.ns));
    let ratios = sorted(own.iter().zip(base).map(|(own, base)| own.ns / base.ns));
    let train = own.iter().map(|round| round.train).sum::<f64>() / own.len() as f64;
    let cell = Cell { row: row.name, ns_min: ns[0], ns: quartiles(&ns), ratio: quartiles(&ratios), train };
    let [low, median, high] = cell.ns;
    print!("{:>26}", format!("{median:.0} [{low:.0} {high:.0}] x{:.2}", cell.ratio[1]));
    cell
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn quartiles(sorted: &[f64]) -> [f64; 3] {
    [1, 2, 3].map(|quarter| sorted[sorted.len() * quarter / 4])
}

/// One line about the machine, for whoever compares two runs.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let rustc = Command::new("rustc").arg("--version").output().map(|out| out.stdout).unwrap_or_default();
    format!(
        "{} x {}, Linux {}, {}, load {}",
        cpus.lines().filter(|line| line.starts_with("processor")).count(),
        model.trim_start_matches([' ', '\t', ':']),
        read("/proc/sys/kernel/osrelease").trim(),
        String::from_utf8_lossy(&rustc).trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn json_of(table: &Table) -> Value {
    let of_cell = |cell: &Cell| {
        json!({
            "row": cell.row, "ns_median": cell.ns[1], "ns_quartiles": [cell.ns[0], cell.ns[2]], "ns_min": cell.ns_min,
            "packets_per_send": cell.train,
            "ratio_median": cell.ratio[1], "ratio_quartiles": [cell.ratio[0], cell.ratio[2]],
        })
    };
    let of_case = |(case, cells): &(Case, Vec<Cell>)| {
        json!({
            "payload_bytes": case.payload_len, "train": case.train, "fan_out": case.fan_out,
            "rows": cells.iter().map(of_cell).collect::<Vec<_>>(),
        })
    };
    json!({ "sink": table.sink.name(), "columns": table.cases.iter().map(of_case).collect::<Vec<_>>() })
}

fn write(machine: &str, tables: &[Table]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    let sinks: Vec<Value> = tables.iter().map(json_of).collect();
    let report = json!({ "machine": machine, "unix_time": unix_time(), "rounds": ROUNDS, "sinks": sinks });
    let text = serde_json::to_string_pretty(&report).expect("numbers and names");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("kernel.json"), text))
        .and_then(|()| fs::write(folder.join("kernel.svg"), plot::draw(machine, tables)))
        .expect("bench/out can be written");
    println!("\nbench/out/kernel.json has these numbers, bench/out/kernel.svg some of them as a picture\n");
}
