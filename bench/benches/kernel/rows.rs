//! The ways to forward that are compared. Each is a thread with a socket of its own; it waits until it is told to run
//! a round of some case, and answers with the CPU time that its turns took.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::Stepped;
use dataplane::config::{Backend, Driver};
use dataplane::io::{Socket, block_on};
use proto::link::{self, ControlLink};
use proto::plane::{Counter, Direction, SrtpProfile};
use rustix::event::{PollFd, PollFlags, Timespec};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

use crate::bare::Bare;
use crate::cpu::thread_time;
use crate::edge::{self, Broadcast};
use crate::sinks::Sinks;

/// What is forwarded in a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Case {
    /// Bytes of RTP payload.
    pub(crate) payload_len: usize,
    /// Packets that arrive together, and leave together to each sink.
    pub(crate) train: usize,
    /// Sinks that get each packet.
    pub(crate) fan_out: usize,
}

/// One round: packets that left, and CPU time of the thread that sent them.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Measured {
    pub(crate) packets: usize,
    /// Messages given to the kernel: trains and single packets.
    pub(crate) sends: usize,
    pub(crate) time: Duration,
}

/// What a row's thread is given.
pub(crate) struct Seat {
    pub(crate) jobs: Receiver<(Case, usize)>,
    pub(crate) done: Sender<Measured>,
    pub(crate) sinks: Arc<Sinks>,
    /// Fan-outs of all cases, in order.
    pub(crate) fan_outs: Vec<usize>,
}

impl Seat {
    /// Says that the row is ready, then runs rounds until the benchmark ends; `round` is given the case and how many
    /// turns to measure.
    fn serve(&self, mut round: impl FnMut(Case, usize) -> Measured) {
        if self.done.send(Measured::default()).is_err() {
            return;
        }
        while let Ok((case, turns)) = self.jobs.recv() {
            let before = self.sinks.taken();
            let measured = round(case, turns);
            let expected = turns * case.train * case.fan_out;
            assert_eq!(measured.packets, expected, "{case:?}: packets were lost, so the round says nothing");
            if let (Some(before), Some(after)) = (before, self.sinks.taken()) {
                // All but a few: the publisher, whom feedback goes to, is on this side of the device.
                let (taken, sends) = ((after - before) as usize, measured.sends);
                assert!(taken + sends / 100 >= sends, "{case:?}: the device was given {taken} of {sends} sends");
            }
            if self.done.send(measured).is_err() {
                return;
            }
        }
    }

    /// A socket of this machine in the sinks' network.
    fn bind(&self) -> UdpSocket {
        bind(self.sinks.local_ip())
    }
}

fn local(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("it is bound")
}

fn bind(ip: IpAddr) -> UdpSocket {
    UdpSocket::bind((ip, 0)).expect("an address of ours has a free port")
}

/// Waits until the socket has something, so that no turn is measured that finds nothing.
fn wait_readable(socket: &impl std::os::fd::AsFd) {
    let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
    let ready = rustix::event::poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience));
    assert_eq!(ready, Ok(1), "loopback delivers");
}

/// Packets as long as those that the worker sends: protected, with header extensions.
fn packets_like_ours(case: Case) -> Vec<Vec<u8>> {
    let mut broadcast = Broadcast::new(SrtpProfile::AeadAes128Gcm, bind_address(), &[], &[0]);
    (0..case.train).map(|_| broadcast.packet(0, case.payload_len)).collect()
}

fn bind_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

/// The production worker: its io, forwarder and outbox, stepped turn by turn.
pub(crate) fn uprtc(seat: &Seat, backend: Backend, profile: SrtpProfile) {
    block_on(Driver::Auto, async {
        let mut edge = Edge::new(seat, backend, profile);
        if let Some(sink) = seat.sinks.sockets().first() {
            edge.check_first_packet(sink);
        }
        seat.serve(|case, turns| edge.round(seat, case, turns));
    })
    .expect("a runtime");
}

/// A worker with its controlplane, its publisher and its receivers.
struct Edge {
    worker: Stepped,
    control: ControlLink,
    address: SocketAddr,
    source: UdpSocket,
    broadcast: Broadcast,
    backend: Backend,
    profile: SrtpProfile,
    checked_at: Instant,
}

impl Edge {
    fn new(seat: &Seat, backend: Backend, profile: SrtpProfile) -> Self {
        let socket = Socket::bind((seat.sinks.local_ip(), 0).into()).expect("an address of ours has a free port");
        let (address, source) = (socket.local(), seat.bind());
        let (link, mut control) = link::pair().expect("shared memory");
        let mut worker = Stepped::new(vec![socket], link, backend, [7; 16]).expect("a worker");
        worker.assume_consent();
        let broadcast = Broadcast::new(profile, local(&source), seat.sinks.addresses(), &seat.fan_outs);
        for command in broadcast.commands() {
            while !control.push_command(&command) {
                worker.turn();
            }
        }
        while worker.turn() {}
        let checked_at = Instant::now();
        let mut edge = Edge { worker, control, address, source, broadcast, backend, profile, checked_at };
        edge.check_consent(&seat.sinks);
        for stream in 0..seat.fan_outs.len() {
            let keyframe = edge.broadcast.packet(stream, 1200);
            edge.publish(&[keyframe]);
            while edge.worker.turn() {}
            edge.learn_ways(stream);
        }
        edge
    }

    /// Lets a worker that sends frames ask the kernel for the way to each receiver, as many as it asks for at a time.
    fn learn_ways(&mut self, stream: usize) {
        for _ in 0..200 {
            let (sent, frames) = (self.counter(Counter::Sent), self.counter(Counter::SentFrames));
            let packet = self.broadcast.packet(stream, 100);
            self.publish(&[packet]);
            while self.worker.turn() {}
            let (sent, frames) = (self.counter(Counter::Sent) - sent, self.counter(Counter::SentFrames) - frames);
            if self.backend != Backend::Frames || frames >= sent {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("packets do not leave as frames");
    }

    /// Every receiver proves its address, as each browser does all the time.
    fn check_consent(&mut self, sinks: &Sinks) {
        let answered = self.counter(Counter::BindingAnswered);
        let checks: Vec<_> = self.broadcast.checks().collect();
        for (index, (from, check)) in checks.iter().enumerate() {
            match index.checked_sub(1) {
                None => drop(self.source.send_to(check, self.address).expect("it takes a datagram")),
                Some(sink) => {
                    assert_eq!(sinks.addresses()[sink], *from);
                    sinks.send_from(sink, check, self.address);
                }
            }
            let before = self.counter(Counter::BindingAnswered);
            while self.counter(Counter::BindingAnswered) == before {
                self.worker.turn();
            }
        }
        assert_eq!(self.counter(Counter::BindingAnswered) - answered, checks.len() as u64);
        while self.control.pop_report().is_some() {}
        self.checked_at = Instant::now();
    }

    /// Another SRTP stack reads what the first receiver was sent: the rows below measure media, not noise.
    fn check_first_packet(&self, sink: &UdpSocket) {
        let (key, salt) = edge::keys(self.profile, 1, Direction::Tx);
        let profile = match self.profile {
            SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
            SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
            SrtpProfile::Aes128CmHmacSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        };
        let mut theirs = Context::new(&key[..profile.key_len()], &salt[..profile.salt_len()], profile, None, None)
            .expect("keys of the profile's length");
        let mut buffer = [0; 2048];
        sink.set_nonblocking(true).expect("a socket");
        let mut found = 0;
        while let Ok((len, from)) = sink.recv_from(&mut buffer) {
            if from == self.address && buffer[0] & 0xc0 == 0x80 {
                let plain = theirs.decrypt_rtp(&buffer[..len]).expect("what the worker sends is authentic");
                // After the keyframe came a short packet, see `learn_ways`.
                found += usize::from(plain.ends_with(&[0x5a; 1000]));
            }
        }
        assert!(found > 0, "the first receiver was sent the keyframe");
    }

    fn publish(&self, packets: &[Vec<u8>]) {
        for packet in packets {
            self.source.send_to(packet, self.address).expect("loopback takes a datagram");
        }
    }

    fn round(&mut self, seat: &Seat, case: Case, turns: usize) -> Measured {
        if self.checked_at.elapsed() > Duration::from_secs(10) {
            self.check_consent(&seat.sinks);
        }
        let stream = seat.fan_outs.iter().position(|&n| n == case.fan_out).expect("a stream for each fan-out");
        let (sent, sends) = (self.counter(Counter::Sent), self.counter(Counter::SentTrains));
        let frames = self.counter(Counter::SentFrames);
        let mut time = Duration::ZERO;
        for _ in 0..turns {
            let packets: Vec<_> = (0..case.train).map(|_| self.broadcast.packet(stream, case.payload_len)).collect();
            let before = self.counter(Counter::Received);
            self.publish(&packets);
            while self.counter(Counter::Received) - before < case.train as u64 {
                let start = thread_time();
                self.worker.turn();
                time += thread_time() - start;
            }
        }
        let packets = self.counter(Counter::Sent) - sent;
        // Long trains leave by the socket.
        let is_as_asked =
            self.backend != Backend::Frames || case.train > 3 || self.counter(Counter::SentFrames) - frames >= packets;
        assert!(is_as_asked, "{case:?}: not all packets left as frames");
        Measured { packets: packets as usize, sends: (self.counter(Counter::SentTrains) - sends) as usize, time }
    }

    fn counter(&mut self, counter: Counter) -> u64 {
        self.worker.counters()[counter as usize]
    }
}

/// The bare loop.
pub(crate) fn bare(seat: &Seat) {
    let (socket, source) = (seat.bind(), seat.bind());
    let address = local(&socket);
    let readable = socket.try_clone().expect("a descriptor");
    let mut bare = Bare::new(socket, seat.sinks.addresses());
    seat.serve(|case, turns| {
        let packets = packets_like_ours(case);
        let mut measured = Measured::default();
        for _ in 0..turns {
            publish(&source, address, &packets);
            wait_readable(&readable);
            let start = thread_time();
            measured.packets += bare.turn(case.fan_out);
            measured.time += thread_time() - start;
            measured.sends += case.fan_out;
        }
        measured
    });
}

fn publish(source: &UdpSocket, to: SocketAddr, packets: &[Vec<u8>]) {
    for packet in packets {
        source.send_to(packet, to).expect("loopback takes a datagram");
    }
}

/// `recv_from` and `send_to` of tokio, one packet at a time.
pub(crate) fn tokio(seat: &Seat) {
    let runtime = ::tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    let (socket, source, sinks) = (seat.bind(), seat.bind(), seat.sinks.addresses());
    let address = local(&socket);
    socket.set_nonblocking(true).expect("a socket");
    let socket = {
        let _inside = runtime.enter();
        ::tokio::net::UdpSocket::from_std(socket).expect("a socket")
    };
    seat.serve(|case, turns| {
        let packets = packets_like_ours(case);
        runtime.block_on(async {
            let mut measured = Measured { sends: turns * case.train * case.fan_out, ..Measured::default() };
            let mut buffers = vec![[0; 2048]; case.train];
            for _ in 0..turns {
                publish(&source, address, &packets);
                let start = thread_time();
                let mut lens = [0; 64];
                for (buffer, len) in buffers.iter_mut().zip(&mut lens) {
                    *len = socket.recv_from(buffer).await.expect("receives").0;
                }
                for &sink in &sinks[..case.fan_out] {
                    for (buffer, len) in buffers.iter().zip(lens) {
                        socket.send_to(&buffer[..len], sink).await.expect("sends");
                        measured.packets += 1;
                    }
                }
                measured.time += thread_time() - start;
            }
            measured
        })
    });
}

/// `recv_from` and `send_to` of monoio on io_uring, each awaited.
pub(crate) fn monoio(seat: &Seat) {
    let mut runtime =
        ::monoio::RuntimeBuilder::<::monoio::IoUringDriver>::new().build().expect("checked before this row began");
    let (socket, source, sinks) = (seat.bind(), seat.bind(), seat.sinks.addresses());
    let address = local(&socket);
    seat.serve(|case, turns| {
        let packets = packets_like_ours(case);
        runtime.block_on(async {
            let socket = socket.try_clone().expect("a descriptor");
            let socket = ::monoio::net::udp::UdpSocket::from_std(socket).expect("a socket");
            let mut measured = Measured { sends: turns * case.train * case.fan_out, ..Measured::default() };
            let mut buffers: Vec<Vec<u8>> = (0..case.train).map(|_| Vec::with_capacity(2048)).collect();
            for _ in 0..turns {
                publish(&source, address, &packets);
                let start = thread_time();
                for buffer in &mut buffers {
                    buffer.clear();
                    let (result, received) = socket.recv_from(std::mem::take(buffer)).await;
                    result.expect("receives");
                    *buffer = received;
                }
                for &sink in &sinks[..case.fan_out] {
                    for buffer in &mut buffers {
                        let (result, sent) = socket.send_to(std::mem::take(buffer), sink).await;
                        result.expect("sends");
                        *buffer = sent;
                        measured.packets += 1;
                    }
                }
                measured.time += thread_time() - start;
            }
            measured
        })
    });
}

/// `recv_from` and `send_to` of tokio-uring, each awaited.
pub(crate) fn tokio_uring(seat: &Seat) {
    let runtime = ::tokio_uring::Runtime::new(&::tokio_uring::builder()).expect("checked before this row began");
    let (socket, source, sinks) = (seat.bind(), seat.bind(), seat.sinks.addresses());
    let address = local(&socket);
    seat.serve(|case, turns| {
        let packets = packets_like_ours(case);
        runtime.block_on(async {
            let socket = ::tokio_uring::net::UdpSocket::from_std(socket.try_clone().expect("a descriptor"));
            let mut measured = Measured { sends: turns * case.train * case.fan_out, ..Measured::default() };
            let mut buffers: Vec<Vec<u8>> = (0..case.train).map(|_| Vec::with_capacity(2048)).collect();
            for _ in 0..turns {
                publish(&source, address, &packets);
                let start = thread_time();
                for buffer in &mut buffers {
                    buffer.clear();
                    let (result, received) = socket.recv_from(std::mem::take(buffer)).await;
                    result.expect("receives");
                    *buffer = received;
                }
                for &sink in &sinks[..case.fan_out] {
                    for buffer in &mut buffers {
                        let (result, sent) = socket.send_to(std::mem::take(buffer), sink).await;
                        result.expect("sends");
                        *buffer = sent;
                        measured.packets += 1;
                    }
                }
                measured.time += thread_time() - start;
            }
            measured
        })
    });
}
