//! What spinning buys and costs: the time from a packet's sending to its arrival at the receiver, through a production
//! worker with its own thread, at several paces, with and without `spin-us`; and the share of its core that the worker
//! took. docs/MEASURING.md says how to read the numbers.

#[path = "edge/mod.rs"]
mod edge;

use std::net::UdpSocket;
use std::time::{Duration, Instant};
use std::{env, fs, process};

use dataplane::{Config, Dataplane};
use proto::link::{Attached, attach};
use proto::plane::{Counter, SrtpProfile};

use edge::Broadcast;

const SPINS: [u64; 3] = [0, 50, 200];
const PACES: [u64; 5] = [25, 50, 100, 400, 5000];
const ROUNDS: usize = 7;

/// A dataplane with one publisher and one receiver.
struct Edge {
    attached: Attached,
    dataplane: Dataplane,
    source: UdpSocket,
    sink: UdpSocket,
    broadcast: Broadcast,
}

impl Edge {
    fn start(spin_us: u64) -> Edge {
        let socket_path = env::temp_dir().join(format!("uprtc-wake-{}-{spin_us}.sock", process::id()));
        let config = Config { media_port: 0, link: (&socket_path).into(), spin_us, ..Config::default() };
        let dataplane = Dataplane::start(&config).expect("a dataplane");
        let mut attached = attach(&socket_path).expect("its link");
        let _ = fs::remove_file(&socket_path);
        let [source, sink] = [(); 2].map(|()| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            socket
        });
        let [publisher, receiver] = [&source, &sink].map(|socket| socket.local_addr().expect("it is bound"));
        let broadcast = Broadcast::new(SrtpProfile::AeadAes128Gcm, publisher, &[receiver], &[1]);
        let link = &mut attached.workers[0].0;
        for command in broadcast.commands() {
            assert!(link.push_command(&command), "the ring has room");
        }
        link.notify();
        let mut edge = Edge { attached, dataplane, source, sink, broadcast };
        edge.check_consent();
        edge.ping();
        edge
    }

    /// Both prove their addresses, as each browser does all the time.
    fn check_consent(&mut self) {
        let to = self.dataplane.addresses()[0][0];
        let mut buffer = [0; 2048];
        for ((_, check), socket) in self.broadcast.checks().zip([&self.source, &self.sink]) {
            let begun = Instant::now();
            let mut asked = None;
            // What begins with a small byte is STUN. Until the worker has its commands it answers nothing.
            while !socket.recv(&mut buffer).is_ok_and(|len| len > 0 && buffer[0] < 4) {
                if asked.is_none_or(|asked: Instant| asked.elapsed() > Duration::from_millis(50)) {
                    socket.send_to(&check, to).expect("loopback takes a datagram");
                    asked = Some(Instant::now());
                }
                assert!(begun.elapsed() < Duration::from_secs(5), "a check is answered");
            }
        }
    }

    /// Sends a packet and waits for it; how long that took, microseconds.
    fn ping(&mut self) -> f64 {
        let packet = self.broadcast.packet(0, 1000);
        let mut buffer = [0; 2048];
        while self.sink.recv(&mut buffer).is_ok() {}
        let start = Instant::now();
        self.source.send_to(&packet, self.dataplane.addresses()[0][0]).expect("loopback takes a datagram");
        loop {
            // Only media is this long.
            if self.sink.recv(&mut buffer).is_ok_and(|len| len > 900) {
                return start.elapsed().as_nanos() as f64 / 1000.0;
            }
            assert!(start.elapsed() < Duration::from_secs(2), "a packet was lost");
        }
    }

    /// Processor time that the worker took, and how much of it went into spinning, microseconds.
    fn busy(&mut self) -> (u64, u64) {
        std::thread::sleep(Duration::from_millis(150));
        self.ping(); // it counts in turns that find something
        std::thread::sleep(Duration::from_millis(5));
        let counters = self.attached.workers[0].0.counters().expect("it publishes");
        (counters[Counter::BusyMicros as usize], counters[Counter::SpinMicros as usize])
    }

    /// A quarter of a second of pings at a pace: times, and shares of the core that were work and spinning.
    fn round(&mut self, pace: Duration) -> (Vec<f64>, f64, f64) {
        let before = self.busy();
        let start = Instant::now();
        let mut times = Vec::new();
        while start.elapsed() < Duration::from_millis(250) {
            let next = Instant::now() + pace;
            times.push(self.ping());
            while Instant::now() < next {
                std::hint::spin_loop();
            }
        }
        let elapsed = start.elapsed().as_micros() as f64;
        let after = self.busy();
        (times, (after.0 - before.0) as f64 / elapsed, (after.1 - before.1) as f64 / elapsed)
    }
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

fn main() {
    let mut edges = SPINS.map(Edge::start);
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(last) = cores.last() {
        core_affinity::set_for_current(*last); // The workers have started by now, on the first.
    }
    println!(
        "\nµs from sending to arrival, p50 / p99 / p99.9, and the worker's core: work + spinning; {ROUNDS} interleaved rounds"
    );
    println!("{:<16}{}", "pace, µs", SPINS.map(|spin| format!("{:>44}", format!("spin-us = {spin}"))).concat());
    for pace in PACES {
        let mut seen: [(Vec<f64>, f64, f64); 3] = Default::default();
        for round in 0..ROUNDS {
            for turn in 0..SPINS.len() {
                let at = (round + turn) % SPINS.len();
                edges[at].check_consent();
                let (times, work, spun) = edges[at].round(Duration::from_micros(pace));
                seen[at].0.extend(times);
                seen[at].1 += work / ROUNDS as f64;
                seen[at].2 += spun / ROUNDS as f64;
            }
        }
        print!("{pace:<16}");
        for (times, work, spun) in &mut seen {
            times.sort_by(f64::total_cmp);
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| quantile(times, q));
            let text = format!("{p50:.0} / {p99:.0} / {p999:.0}   {:.0} % + {:.0} %", 100.0 * *work, 100.0 * *spun);
            print!("{text:>44}");
        }
        println!();
    }
}
