//! The probe behind `io = "auto"`: by which way through the sockets a packet costs less CPU on this kernel.
//!
//! Two ends on loopback exchange packets, each through an [`Io`] as a worker has it. The near end is opened twice, once
//! for each way, and what its flushes and fills take is counted; the far end's share is not. Rounds of both alternate,
//! and what decides is the median of the quotients of neighbours: what else the machine does disturbs both alike.
//!
//! Frames are not among the ways (docs/decisions/0020).

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use super::{Batch, Io, Refused, Socket, block_on, clock};
use crate::config::{Backend, Driver};
use crate::outbox::Outbox;
use crate::path::{Destination, Path};

/// Bytes of each packet: those of a full packet of video.
const PACKET_LEN: usize = 1200;
/// Packets that leave in a turn, and those that come for them: a fan-out of eight.
const DEPARTURES: usize = 64;
const ARRIVALS: usize = DEPARTURES / 8;
/// Neighbours to one destination, in turn: as voice and meetings have them, and as large frames do.
const TRAINS: [usize; 2] = [1, 8];
/// Turns of each kind in a round.
const TURNS: usize = 4;
/// Rounds that are compared. An odd number has a median.
const ROUNDS: usize = 41;
/// Rounds before them, which touch memory for the first time and are forgotten.
const ROUNDS_WARM: usize = 2;
/// CPU time after which no round begins: three times what all take on the machine of docs/MEASURING.md.
const BUDGET_NS: u64 = 150_000_000;
/// How long a packet may take over loopback. It takes microseconds, unless nothing comes at all.
const PATIENCE: Duration = Duration::from_millis(200);
/// At most so much of the cost of system calls may io_uring have, to be taken. The margin keeps the choice where two starts
/// would differ by nothing but noise.
pub const RATIO_MAX: f64 = 0.95;

/// What was found out.
#[derive(Debug)]
pub enum Probe {
    /// Both ways were measured.
    Measured(Costs),
    /// There is one way only.
    Refused(Refused),
    /// Nothing could be measured.
    Failed(io::Error),
}

/// CPU time of this thread for each packet that left, its share of those that came included: medians of all rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Costs {
    /// By system calls, nanoseconds.
    pub udp_ns: f64,
    /// Through io_uring, nanoseconds.
    pub uring_ns: f64,
    /// io_uring's cost over that of system calls, compared round by round: not quite the quotient of the two above.
    pub ratio: f64,
}

impl Probe {
    /// Measures, in a thread that has ended when this returns. Nothing stays open. `driver` is what workers wait by.
    pub fn run(driver: Driver) -> Probe {
        let body = move || block_on(driver, measure()).and_then(|outcome| outcome);
        let ended = thread::Builder::new().name("probe".into()).spawn(body).map(thread::JoinHandle::join);
        match ended {
            Ok(Ok(Ok(probe))) => probe,
            Ok(Ok(Err(error))) | Err(error) => Probe::Failed(error),
            Ok(Err(_)) => Probe::Failed(io::Error::other("its thread was taken apart")),
        }
    }

    /// The way to take.
    pub fn backend(&self) -> Backend {
        match self {
            Probe::Measured(costs) => choose(costs.ratio),
            Probe::Refused(_) | Probe::Failed(_) => Backend::Udp,
        }
    }
}

impl fmt::Display for Probe {
    /// The choice and its reason, for a line of the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choice = self.backend().name();
        match self {
            Probe::Measured(Costs { udp_ns, uring_ns, ratio }) => {
                let (taken, other, left) = match self.backend() {
                    Backend::Uring => (uring_ns, Backend::Udp, udp_ns),
                    _ => (udp_ns, Backend::Uring, uring_ns),
                };
                write!(f, "{choice}, {taken:.0} ns a packet; {} {left:.0} (uring ×{ratio:.2})", other.name())
            }
            Probe::Refused(why) => write!(f, "{choice}, because uring cannot be: {why}"),
            Probe::Failed(error) => write!(f, "{choice}, because the probe failed on 127.0.0.1: {error}"),
        }
    }
}

/// The rule. What is not a number changes nothing.
fn choose(ratio: f64) -> Backend {
    if ratio <= RATIO_MAX { Backend::Uring } else { Backend::Udp }
}

async fn measure() -> io::Result<Probe> {
    let sockets = [bind()?, bind()?, bind()?];
    let [mut far, mut udp, mut uring] = {
        let [a, b, c] = sockets.map(End::new);
        [a?, b?, c?]
    };
    let probe = match uring.io.open_uring() {
        Ok(batch) => {
            uring.batch = batch;
            compare(&mut far, &mut udp, &mut uring).map(Probe::Measured)
        }
        Err(why) => Ok(Probe::Refused(why)),
    };
    for end in [far, udp, uring] {
        end.io.close().await;
    }
    probe
}

fn bind() -> io::Result<Socket> {
    Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).map_err(io::Error::other)
}

/// Rounds of both, until there are enough or the time is up.
fn compare(far: &mut End, udp: &mut End, uring: &mut End) -> io::Result<Costs> {
    let mut outbox = Outbox::new();
    for _ in 0..ROUNDS_WARM {
        round(udp, far, &mut outbox)?;
        round(uring, far, &mut outbox)?;
    }
    let mut rounds = Vec::with_capacity(ROUNDS);
    while rounds.len() < ROUNDS && (rounds.is_empty() || clock::processor_time_ns() < BUDGET_NS) {
        // Whoever is second finds warmer caches.
        rounds.push(if rounds.len().is_multiple_of(2) {
            let cost = round(udp, far, &mut outbox)?;
            (cost, round(uring, far, &mut outbox)?)
        } else {
            let cost = round(uring, far, &mut outbox)?;
            (round(udp, far, &mut outbox)?, cost)
        });
    }
    Ok(Costs {
        udp_ns: median(rounds.iter().map(|(udp, _)| *udp)),
        uring_ns: median(rounds.iter().map(|(_, uring)| *uring)),
        ratio: median(rounds.iter().map(|(udp, uring)| uring / udp)),
    })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Nanoseconds for each packet that left.
fn round(near: &mut End, far: &mut End, outbox: &mut Outbox) -> io::Result<f64> {
    let mut spent = 0;
    for train in TRAINS {
        for _ in 0..TURNS {
            spent += turn(near, far, outbox, train)?;
        }
    }
    Ok(spent as f64 / (TRAINS.len() * TURNS * DEPARTURES) as f64)
}

/// Packets leave, and others come; what the near end took for that.
fn turn(near: &mut End, far: &mut End, outbox: &mut Outbox, train: usize) -> io::Result<u64> {
    load(outbox, far.address, DEPARTURES, train);
    let begun = clock::processor_time_ns();
    near.flush(outbox)?;
    let flushed = clock::processor_time_ns() - begun;
    far.take(DEPARTURES)?;
    load(outbox, near.address, ARRIVALS, train);
    far.flush(outbox)?;
    let begun = clock::processor_time_ns();
    near.take(ARRIVALS)?;
    Ok(flushed + clock::processor_time_ns() - begun)
}

/// Fills an outbox with packets to one address. Those of one train are for one peer, and no others are.
fn load(outbox: &mut Outbox, remote: SocketAddr, count: usize, train: usize) {
    outbox.clear();
    for packet in 0..count {
        let to = Destination::new((packet / train) as u32, Path::new(0, remote));
        outbox.push_public(to, |frame| {
            frame[..PACKET_LEN].fill(packet as u8);
            PACKET_LEN
        });
    }
}

/// One socket with a worker's way in and out.
struct End {
    io: Io,
    batch: Batch,
    address: SocketAddr,
}

impl End {
    fn new(socket: Socket) -> io::Result<End> {
        let address = socket.local();
        Ok(End { io: Io::new(vec![socket], Instant::now())?, batch: Batch::new(), address })
    }

    fn flush(&mut self, outbox: &mut Outbox) -> io::Result<()> {
        match self.io.flush(self.io.now(), outbox).failed {
            0 => Ok(()),
            failed => Err(io::Error::other(format!("{failed} packets could not be sent"))),
        }
    }

    /// Takes so many packets, which are on their way.
    fn take(&mut self, count: usize) -> io::Result<()> {
        let (mut taken, begun) = (0, Instant::now());
        while taken < count {
            self.io.fill(self.io.now(), &mut self.batch);
            taken += self.batch.datagrams().count();
            if self.batch.is_empty() {
                if begun.elapsed() > PATIENCE {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "packets do not arrive"));
                }
                thread::yield_now();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ratio: f64) -> Probe {
        Probe::Measured(Costs { udp_ns: 912.4, uring_ns: 912.4 * ratio, ratio })
    }

    #[test]
    fn io_uring_is_taken_where_it_is_cheaper_by_the_margin() {
        for (ratio, backend) in [
            (0.5, Backend::Uring),
            (0.95, Backend::Uring),
            (0.951, Backend::Udp),
            (1.0, Backend::Udp),
            (2.0, Backend::Udp),
            (f64::NAN, Backend::Udp),
        ] {
            assert_eq!(measured(ratio).backend(), backend, "{ratio}");
        }
    }

    #[test]
    fn without_io_uring_or_a_measurement_it_is_udp() {
        let failed = Probe::Failed(io::Error::other("packets do not arrive"));
        for probe in [Probe::Refused(Refused::Forbidden), Probe::Refused(Refused::TooOld), failed] {
            assert_eq!(probe.backend(), Backend::Udp, "{probe}");
        }
    }

    #[test]
    fn the_choice_stands_first_in_one_line() {
        assert_eq!(measured(1.0773).to_string(), "udp, 912 ns a packet; uring 983 (uring ×1.08)");
        assert_eq!(measured(0.8).to_string(), "uring, 730 ns a packet; udp 912 (uring ×0.80)");
        let refused = Probe::Refused(Refused::TooOld).to_string();
        assert_eq!(refused, "udp, because uring cannot be: it takes Linux 6.1 or later with io_uring");
    }

    #[test]
    fn one_slow_round_does_not_move_the_median() {
        assert_eq!(median([1.0, 9.0, 1.1, 1.05, 0.9].into_iter()), 1.05);
        assert_eq!(median([0.9].into_iter()), 0.9);
    }
}
