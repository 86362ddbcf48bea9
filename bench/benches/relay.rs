//! What it costs to carry one room on two workers instead of one: CPU time of both, kernel included, for each packet
//! that left, over loopback, in one interleaved run. docs/MEASURING.md says how to read the numbers.
//!
//! Both rows send the same packets to as many receivers with the production worker. In the second row half of them are
//! on a second worker, on another core, which has the packets from the first by the lane between them.

#[path = "cpu/mod.rs"]
mod cpu;
#[path = "edge/mod.rs"]
mod edge;

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use dataplane::Stepped;
use dataplane::config::{Backend, Driver};
use dataplane::io::{Socket, block_on};
use dataplane::relay::Exchange;
use proto::id::{PeerId, TapId};
use proto::link::{self, ControlLink};
use proto::plane::{Command, Counter, MirrorOpen, SrtpProfile, TapOpen};
use rustix::event::{EventfdFlags, eventfd};
use serde_json::json;

use cpu::thread_time;
use edge::Broadcast;

const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const FAN_OUTS: [usize; 3] = [8, 50, 500];
const PAYLOADS: [usize; 2] = [1200, 160];
const TRAINS: [usize; 2] = [1, 8];
/// Rounds of each row and case; odd, so that there is a median.
const ROUNDS: usize = 15;
/// Packets that leave in one round.
const ROUND_PACKETS: usize = 16_000;

/// A worker, the socket that its peers use, and its controlplane.
struct Worker {
    stepped: Stepped,
    control: ControlLink,
    address: SocketAddr,
}

impl Worker {
    fn new(exchange: &Arc<Exchange>, index: usize) -> Worker {
        let socket = Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
        let (address, (link, control)) = (socket.local(), link::pair().expect("shared memory"));
        let mut stepped =
            Stepped::among(exchange.clone(), index, vec![socket], link, Backend::Udp, [7; 16]).expect("a worker");
        stepped.assume_consent();
        Worker { stepped, control, address }
    }

    fn open(&mut self, commands: impl IntoIterator<Item = Command>) {
        for command in commands {
            while !self.control.push_command(&command) {
                self.stepped.turn();
            }
        }
        while self.stepped.turn() {}
    }

    /// Peers prove their addresses, as browsers do all the time.
    fn check_consent<'a>(&mut self, checks: impl Iterator<Item = (&'a UdpSocket, Vec<u8>)>) {
        for (socket, check) in checks {
            let before = self.counter(Counter::BindingAnswered);
            socket.send_to(&check, self.address).expect("loopback takes a datagram");
            while self.counter(Counter::BindingAnswered) == before {
                self.stepped.turn();
            }
        }
        while self.control.pop_report().is_some() {}
    }

    fn counter(&mut self, counter: Counter) -> u64 {
        self.stepped.counters()[counter as usize]
    }

    /// Steps until `counter` has grown by so many; the CPU time of the turns that it took.
    fn step(&mut self, counter: Counter, until: u64) -> Duration {
        let mut time = Duration::ZERO;
        while self.counter(counter) < until {
            let start = thread_time();
            let did_work = self.stepped.turn();
            if did_work {
                time += thread_time() - start;
            }
        }
        time
    }
}

/// The second worker on its own core, told how many packets it will be handed.
struct Far {
    jobs: Sender<Job>,
    done: Receiver<(Duration, u64)>,
}

enum Job {
    CheckConsent,
    Take(u64),
}

impl Far {
    fn start(exchange: Arc<Exchange>, sinks: Arc<Vec<UdpSocket>>, fan_outs: Vec<usize>) -> Far {
        let ((jobs, to_do), (finished, done)) = (channel::<Job>(), channel());
        let body = move || {
            pin(0);
            block_on(Driver::Auto, async {
                let mut worker = Worker::new(&exchange, 1);
                let (publisher, receivers) = (sinks[0].local_addr().expect("it is bound"), addresses(&sinks));
                let broadcast = Broadcast::new(PROFILE, publisher, &receivers, &fan_outs);
                worker.open(broadcast.commands().into_iter().map(|command| {
                    match command {
                        Command::StreamOpen(open) => MirrorOpen {
                            stream: open.stream,
                            worker: 0,
                            origin: open.stream,
                            publisher: PeerId::new(0, 1),
                            pt: open.pt,
                            rtx_pt: open.rtx_pt,
                            codec: open.codec,
                        }
                        .into(),
                        other => other,
                    }
                }));
                // The first check would be the publisher's, who is not here.
                let checks = || sinks.iter().zip(broadcast.checks().skip(1).map(|(_, check)| check));
                worker.check_consent(checks());
                finished.send((Duration::ZERO, 0)).expect("the benchmark waits");
                while let Ok(job) = to_do.recv() {
                    let mut time = Duration::ZERO;
                    match job {
                        Job::CheckConsent => worker.check_consent(checks()),
                        Job::Take(packets) => {
                            let taken = worker.counter(Counter::RelayReceived);
                            time = worker.step(Counter::RelayReceived, taken + packets);
                        }
                    }
                    finished.send((time, worker.counter(Counter::Sent))).expect("the benchmark waits");
                }
            })
            .expect("a runtime");
        };
        thread::Builder::new().name("far".into()).spawn(body).expect("a thread");
        let far = Far { jobs, done };
        far.done.recv().expect("the second worker starts");
        far
    }

    fn run(&self, job: Job) -> (Duration, u64) {
        self.jobs.send(job).expect("the second worker lives");
        self.done.recv().expect("the second worker lives")
    }
}

/// A room on one worker, or on two.
struct Room {
    name: &'static str,
    near: Worker,
    far: Option<Far>,
    source: UdpSocket,
    sinks: Arc<Vec<UdpSocket>>,
    broadcast: Broadcast,
    checked_at: Instant,
}

impl Room {
    fn new(name: &'static str, sinks: &Arc<Vec<UdpSocket>>, workers: usize) -> Room {
        let knocks = (0..workers).map(|_| eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd")).collect();
        let exchange = Exchange::new(knocks);
        let mut near = Worker::new(&exchange, 0);
        let source = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        let fan_outs: Vec<usize> = FAN_OUTS.iter().map(|fan_out| fan_out / workers).collect();
        let publisher = source.local_addr().expect("it is bound");
        let broadcast = Broadcast::new(PROFILE, publisher, &addresses(sinks), &fan_outs);
        let far = (workers > 1).then(|| Far::start(exchange, sinks.clone(), fan_outs));
        near.open(broadcast.commands().into_iter().flat_map(|command| match command {
            Command::StreamOpen(open) if far.is_some() => {
                let tap = TapId::new(open.stream.index, 1);
                vec![command, TapOpen { tap, stream: open.stream, worker: 1, mirror: open.stream }.into()]
            }
            _ => vec![command],
        }));
        let mut room = Room { name, near, far, source, sinks: sinks.clone(), broadcast, checked_at: Instant::now() };
        room.check_consent();
        for stream in 0..FAN_OUTS.len() {
            room.send(stream, 1200, 1); // the keyframe
        }
        room
    }

    fn check_consent(&mut self) {
        let sockets = std::iter::once(&self.source).chain(self.sinks.iter());
        self.near.check_consent(sockets.zip(self.broadcast.checks().map(|(_, check)| check)));
        if let Some(far) = &self.far {
            far.run(Job::CheckConsent);
        }
        self.checked_at = Instant::now();
    }

    /// A train of packets through all workers; their CPU time.
    fn send(&mut self, stream: usize, payload_len: usize, train: usize) -> Duration {
        let before = self.near.counter(Counter::Received);
        for _ in 0..train {
            let packet = self.broadcast.packet(stream, payload_len);
            self.source.send_to(&packet, self.near.address).expect("loopback takes a datagram");
        }
        let near = self.near.step(Counter::Received, before + train as u64);
        near + self.far.as_ref().map_or(Duration::ZERO, |far| far.run(Job::Take(train as u64)).0)
    }

    fn sent(&mut self) -> u64 {
        self.near.counter(Counter::Sent) + self.far.as_ref().map_or(0, |far| far.run(Job::Take(0)).1)
    }

    /// CPU nanoseconds for each packet that left in one round.
    fn round(&mut self, stream: usize, payload_len: usize, train: usize) -> f64 {
        if self.checked_at.elapsed() > Duration::from_secs(10) {
            self.check_consent();
        }
        let turns = (ROUND_PACKETS / (train * FAN_OUTS[stream])).max(1);
        let before = self.sent();
        let time: Duration = (0..turns).map(|_| self.send(stream, payload_len, train)).sum();
        let packets = self.sent() - before;
        assert_eq!(packets as usize, turns * train * FAN_OUTS[stream], "packets were lost, so the round says nothing");
        time.as_nanos() as f64 / packets as f64
    }
}

fn addresses(sinks: &[UdpSocket]) -> Vec<SocketAddr> {
    sinks.iter().map(|sink| sink.local_addr().expect("it is bound")).collect()
}

fn pin(nth_last: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = cores.len().checked_sub(1 + nth_last).and_then(|at| cores.get(at)) {
        core_affinity::set_for_current(*core);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    pin(1);
    let most = FAN_OUTS.into_iter().max().expect("there is one");
    let sinks: Vec<UdpSocket> = (0..most).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket")).collect();
    for sink in &sinks {
        rustix::net::sockopt::set_socket_recv_buffer_size(sink, 1).expect("a socket");
    }
    let sinks = Arc::new(sinks);
    let report = block_on(Driver::Auto, async {
        let mut rooms = [Room::new("one worker", &sinks, 1), Room::new("two workers", &sinks, 2)];
        println!("\nCPU ns for each packet that left, both workers together; median of {ROUNDS} interleaved rounds");
        println!("{:<24}{:>14}{:>14}{:>8}  [quartiles]", "", rooms[0].name, rooms[1].name, "ratio");
        let mut cases = Vec::new();
        for payload_len in PAYLOADS {
            for (stream, train) in (0..FAN_OUTS.len()).flat_map(|stream| TRAINS.map(|train| (stream, train))) {
                for room in &mut rooms {
                    room.round(stream, payload_len, train); // does not count
                }
                let (mut ns, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
                for round in 0..ROUNDS {
                    for turn in 0..2 {
                        let row = (round + turn) % 2;
                        ns[row].push(rooms[row].round(stream, payload_len, train));
                    }
                    ratios.push(ns[1][round] / ns[0][round]);
                }
                let [one, two] = ns.each_mut().map(|ns| median(ns));
                let ratio = median(&mut ratios);
                let [low, high] = [1, 3].map(|quarter| ratios[ROUNDS * quarter / 4]);
                let case = format!("{payload_len} B, {train} x 1->{}", FAN_OUTS[stream]);
                println!("{case:<24}{one:>14.0}{two:>14.0}{ratio:>8.3}  [{low:.3} {high:.3}]");
                cases.push(json!({
                    "payload_bytes": payload_len, "train": train, "fan_out": FAN_OUTS[stream],
                    "one_worker_ns": one, "two_workers_ns": two, "ratio_median": ratio, "ratio_quartiles": [low, high],
                }));
            }
        }
        json!({ "rounds": ROUNDS, "cases": cases })
    })
    .expect("a runtime");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("out");
    let text = serde_json::to_string_pretty(&report).expect("numbers and names");
    fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("relay.json"), text)).expect("bench/out");
    println!("\nbench/out/relay.json has these numbers\n");
}
