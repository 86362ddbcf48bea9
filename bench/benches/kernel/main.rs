//! What forwarding a packet costs with a kernel under it: the production worker beside the bare loop of the same
//! system calls, tokio and monoio, over loopback, in one interleaved run. CPU time of the sending thread for each
//! packet that left. docs/MEASURING.md says how to read the numbers.

mod bare;
#[path = "../cpu/mod.rs"]
mod cpu;
#[path = "../edge/mod.rs"]
mod edge;
mod rows;

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use proto::plane::SrtpProfile;
use rows::{Case, Measured, Seat};
use serde_json::{Value, json};

const PAYLOADS: [usize; 2] = [1200, 160];
const TRAINS: [usize; 3] = [1, 4, 8];
const FAN_OUTS: [usize; 2] = [50, 500];

/// Rounds of each row and case; odd, so that there is a median.
const ROUNDS: usize = 11;
/// Packets that leave in one round: some tens of milliseconds.
const ROUND_PACKETS: usize = 16_000;

/// The row that the others are divided by.
const BASE: usize = 0;

/// A row's thread and its two channels.
struct Row {
    name: &'static str,
    jobs: Sender<(Case, usize)>,
    done: Receiver<Measured>,
}

impl Row {
    /// Starts a row and waits until it is ready; alone, because it looks at what the first sink gets.
    fn start(name: &'static str, sinks: &Arc<Vec<UdpSocket>>, body: impl FnOnce(&Seat) + Send + 'static) -> Row {
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

fn main() {
    let sinks = Arc::new(open_sinks());
    let mut rows = vec![
        Row::start("bare loop", &sinks, rows::bare),
        Row::start("uprtc gcm128", &sinks, |seat| rows::uprtc(seat, SrtpProfile::AeadAes128Gcm)),
        Row::start("uprtc cm-sha1", &sinks, |seat| rows::uprtc(seat, SrtpProfile::Aes128CmHmacSha1_80)),
        Row::start("tokio", &sinks, rows::tokio),
    ];
    if ::monoio::utils::detect_uring() {
        rows.push(Row::start("monoio", &sinks, rows::monoio));
    }
    for sink in sinks.iter() {
        // The smallest that the kernel gives: full after a packet or two, and then everything is dropped.
        rustix::net::sockopt::set_socket_recv_buffer_size(sink, 1).expect("a socket");
    }
    let machine = machine();
    println!("\nCPU ns for each packet that left, over loopback; median of {ROUNDS} interleaved rounds [quartiles],");
    println!("and the median of the ratios to the bare loop in the same round. {machine}");
    print!("{:<24}", "");
    rows.iter().for_each(|row| print!("{:>26}", row.name));
    println!();
    let mut columns = Vec::new();
    for case in cases() {
        let rounds = interleave(&rows, case);
        print!("{:<24}", format!("{} B, {} x 1->{}", case.payload_len, case.train, case.fan_out));
        let results: Vec<Value> =
            rows.iter().zip(&rounds).map(|(row, own)| summarise(row, own, &rounds[BASE])).collect();
        println!();
        columns.push(json!({
            "payload_bytes": case.payload_len, "train": case.train, "fan_out": case.fan_out, "rows": results,
        }));
    }
    write(&json!({ "machine": machine, "unix_time": unix_time(), "rounds": ROUNDS, "columns": columns }));
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
fn summarise(row: &Row, own: &[Round], base: &[Round]) -> Value {
    let ns = sorted(own.iter().map(|round| round.ns));
    let ratios = sorted(own.iter().zip(base).map(|(own, base)| own.ns / base.ns));
    let [low, median, high] = quartiles(&ns);
    let ratio = quartiles(&ratios);
    let train = own.iter().map(|round| round.train).sum::<f64>() / own.len() as f64;
    print!("{:>26}", format!("{median:.0} [{low:.0} {high:.0}] x{:.2}", ratio[1]));
    json!({
        "row": row.name, "ns_median": median, "ns_quartiles": [low, high], "ns_min": ns[0], "packets_per_send": train,
        "ratio_median": ratio[1], "ratio_quartiles": [ratio[0], ratio[2]],
    })
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn quartiles(sorted: &[f64]) -> [f64; 3] {
    [1, 2, 3].map(|quarter| sorted[sorted.len() * quarter / 4])
}

/// Where packets go: bound, never read, and soon full, so that the kernel drops at the last step.
fn open_sinks() -> Vec<UdpSocket> {
    let most = FAN_OUTS.into_iter().max().expect("there is one");
    let open = |_| {
        let sink = UdpSocket::bind("127.0.0.1:0").expect("a socket: 600 open files must be allowed");
        bare::take_trains_whole(&sink).expect("UDP_GRO: Linux 5.0 or later");
        sink
    };
    (0..most).map(open).collect()
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

fn write(report: &Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    let file = folder.join("kernel.json");
    let text = serde_json::to_string_pretty(report).expect("numbers and names");
    fs::create_dir_all(&folder).and_then(|()| fs::write(&file, text)).expect("bench/out can be written");
    println!("\nbench/out/kernel.json has these numbers\n");
}
