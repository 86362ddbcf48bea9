//! What the code of one packet costs, without a kernel: SRTP beside `webrtc-srtp`, the whole forwarder at several
//! fan-outs, what is refused at the door, and the link. docs/MEASURING.md says how to read the numbers.

mod cpu;
mod edge;

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cpu::{CpuTime, thread_time};
use criterion::{BenchmarkId, Criterion, Throughput};
use dataplane::Micros;
use dataplane::forward::{Counters, Flush, Forwarder};
use dataplane::outbox::Outbox;
use dataplane::path::{Datagram, Path as Way};
use dataplane::rtp::{Header, HeaderWriter};
use dataplane::srtp::Crypto;
use dataplane::store::Store;
use edge::Broadcast;
use proto::flow;
use proto::id::{PeerId, RelayId};
use proto::link;
use proto::plane::{
    Command, Commit, Committed, Counter, DatagramHeader, DatagramKind, Direction, Event, PeerClose, RelayOpen,
    RelayRate, Report, SrtpProfile,
};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const PROFILES: [(SrtpProfile, ProtectionProfile, &str); 3] = [
    (SrtpProfile::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm, "gcm128"),
    (SrtpProfile::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm, "gcm256"),
    (SrtpProfile::Aes128CmHmacSha1_80, ProtectionProfile::Aes128CmHmacSha1_80, "cm-sha1-80"),
];
const PAYLOADS: [usize; 2] = [1200, 160];
const FAN_OUTS: [usize; 4] = [1, 8, 50, 500];

/// Datagrams between two flushes, as a busy worker takes them from the kernel.
const BATCH: usize = 32;

fn main() {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("out/criterion");
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .output_directory(&out)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(400))
        .measurement_time(Duration::from_millis(1200))
        .configure_from_args();
    srtp(&mut criterion);
    headers(&mut criterion);
    at_the_door(&mut criterion);
    forward(&mut criterion);
    simulcast(&mut criterion);
    pass_on(&mut criterion);
    ring(&mut criterion);
    criterion.final_summary();
    print_ratios(&out);
}

/// A plain packet and the two implementations with the same keys.
fn pair(profile: SrtpProfile, theirs: ProtectionProfile, payload_len: usize) -> (Vec<u8>, Crypto, Context) {
    let (key, salt) = edge::keys(profile, 1, Direction::Tx);
    let mut plain = vec![0x5a; 12 + payload_len];
    HeaderWriter::new(&mut plain, false, 96, 1, 2, 3).finish();
    let context = Context::new(&key[..theirs.key_len()], &salt[..theirs.salt_len()], theirs, None, None);
    (plain, Crypto::new(profile, &key, &salt), context.expect("keys of the profile's length"))
}

/// Protect and unprotect. Both leave the plain packet as it is and write another, ours into memory that it was given; ours
/// unprotects in place, so that row includes a copy of the packet.
fn srtp(criterion: &mut Criterion<CpuTime>) {
    for (profile, oracle, name) in PROFILES {
        for payload_len in PAYLOADS {
            let (plain, crypto, mut theirs) = pair(profile, oracle, payload_len);
            let sealed = theirs.encrypt_rtp(&plain).expect("protects");
            let mut buffer = vec![0; plain.len() + Crypto::OVERHEAD_MAX];
            let id = format!("{name}/{payload_len}");
            buffer[..plain.len()].copy_from_slice(&plain);
            assert_eq!(crypto.protect_rtp(3, 1, 12, &mut buffer, plain.len(), &[]), Some(sealed.len()));
            assert_eq!(buffer[..sealed.len()], sealed[..], "both write the same packet");

            let mut group = criterion.benchmark_group("protect");
            group.bench_function(BenchmarkId::new("uprtc", &id), |b| {
                b.iter(|| {
                    let (header, payload) = plain.split_at(12);
                    buffer[..12].copy_from_slice(header);
                    crypto.protect_rtp(3, 1, 12, black_box(&mut buffer), 12, payload)
                });
            });
            group.bench_function(BenchmarkId::new("webrtc-srtp", &id), |b| {
                b.iter(|| theirs.encrypt_rtp(black_box(&plain)).expect("protects"));
            });
            group.finish();

            let mut group = criterion.benchmark_group("unprotect");
            group.bench_function(BenchmarkId::new("uprtc", &id), |b| {
                b.iter(|| {
                    buffer[..sealed.len()].copy_from_slice(&sealed);
                    crypto.unprotect_rtp(3, 1, 12, black_box(&mut buffer[..sealed.len()])).expect("authentic")
                });
            });
            group.bench_function(BenchmarkId::new("webrtc-srtp", &id), |b| {
                b.iter(|| theirs.decrypt_rtp(black_box(&sealed)).expect("authentic"));
            });
            group.finish();
        }
    }
}

/// Reading the header of a packet from Chrome, and writing that of a packet to it.
fn headers(criterion: &mut Criterion<CpuTime>) {
    let mut broadcast = Broadcast::new(SrtpProfile::AeadAes128Gcm, address(0), &[], &[0]);
    let packet = broadcast.packet(0, 1200);
    let mut group = criterion.benchmark_group("header");
    group.bench_function("parse, three extensions", |b| {
        b.iter(|| {
            let header = Header::parse(black_box(&packet)).expect("RTP");
            header.extensions(&packet).map(|(id, value)| usize::from(id) + value.len()).sum::<usize>()
        });
    });
    let mut frame = [0; 128];
    group.bench_function("write, three extensions", |b| {
        b.iter(|| {
            let mut writer = HeaderWriter::new(black_box(&mut frame), true, 102, 5, 6, 7);
            writer.extension(3, &[0, 1]);
            writer.extension(2, &[1, 2, 3]);
            writer.extension(4, b"9");
            writer.finish()
        });
    });
    group.finish();
}

/// A way out that leads nowhere.
#[derive(Default)]
struct Nowhere {
    outbox: Outbox,
}

impl Flush for Nowhere {
    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn flush(&mut self, _: Micros, _: &Store, _: &mut Counters) {
        while self.outbox.pop_report().is_some() {}
        self.outbox.clear();
    }

    fn note_latency(&mut self, _: Micros, _: u64) {}
}

/// One worker's core with a connected broadcast.
struct Core {
    forwarder: Forwarder,
    egress: Nowhere,
    broadcast: Broadcast,
    now: u64,
}

impl Core {
    fn new(profile: SrtpProfile, fan_out: usize) -> Self {
        Self::in_encodings(profile, fan_out, 1)
    }

    /// With a track in so many encodings, of which the receivers take one each in turn.
    fn in_encodings(profile: SrtpProfile, fan_out: usize, encodings: usize) -> Self {
        let receivers: Vec<SocketAddr> = (1..=fan_out as u16).map(address).collect();
        let broadcast = Broadcast::in_encodings(profile, address(0), &receivers, encodings);
        let mut core = Core {
            forwarder: Forwarder::new([9; 16], 1_000_000),
            egress: Nowhere::default(),
            broadcast,
            now: 1_000_000,
        };
        core.forwarder.assume_consent();
        for command in core.broadcast.commands() {
            core.forwarder.apply(core.now, &command.write(), &mut core.egress);
        }
        let checks: Vec<_> = core.broadcast.checks().collect();
        for (from, mut check) in checks {
            core.receive(from, &mut check);
        }
        core.flush();
        assert_eq!(core.forwarder.counters()[Counter::BindingAnswered as usize], fan_out as u64 + 1);
        for slot in 0..fan_out as u32 {
            let Core { forwarder, egress, now, .. } = &mut core;
            forwarder.want_encoding(*now, slot, Some((slot as usize % encodings) as u8), &mut egress.outbox);
        }
        for encoding in 0..encodings {
            // The second packet is for those that changed to this encoding with the first.
            for _ in 0..2 {
                let mut first = core.broadcast.packet(encoding, 1200);
                core.receive(address(0), &mut first);
            }
        }
        core.flush();
        core
    }

    /// A turn of one datagram: what each costs that comes alone.
    fn receive(&mut self, remote: SocketAddr, bytes: &mut [u8]) {
        let datagram = Datagram { path: Way::new(0, remote), at: self.now, bytes };
        self.forwarder.receive(self.now, datagram, &mut self.egress);
        self.forwarder.fan_out(self.now, &mut self.egress);
    }

    fn flush(&mut self) {
        self.forwarder.flush(self.now, &mut self.egress);
    }

    /// Time for `count` packets of each encoding of the publisher to become packets for everybody.
    fn forward(&mut self, count: u64, payload_len: usize, encodings: usize) -> Duration {
        let mut spent = Duration::ZERO;
        let mut left = count as usize * encodings;
        let mut encoding = (0..encodings).cycle();
        while left > 0 {
            let next = |_| self.broadcast.packet(encoding.next().expect("it has no end"), payload_len);
            let mut packets: Vec<Vec<u8>> = (0..left.min(BATCH)).map(next).collect();
            left -= packets.len();
            self.now += 1000;
            let start = thread_time();
            for packet in &mut packets {
                self.receive(address(0), packet);
            }
            self.flush();
            spent += thread_time() - start;
        }
        spent
    }
}

fn address(index: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10_000 + index))
}

/// What is refused or answered without reaching a stream.
fn at_the_door(criterion: &mut Criterion<CpuTime>) {
    let mut core = Core::new(SrtpProfile::AeadAes128Gcm, 1);
    let packet = core.broadcast.packet(0, 1200);
    let (from, check) = core.broadcast.checks().next().expect("the publisher");
    let mut replayed = core.broadcast.packet(0, 1200);
    core.receive(address(0), &mut replayed.clone());
    let mut group = criterion.benchmark_group("door");
    let mut strange = packet.clone();
    strange[0] = 0xff;
    let mut bench = |name: &str, from: SocketAddr, bytes: &mut [u8], fate: Counter| {
        group.bench_function(name, |b| {
            let before = core.forwarder.counters()[fate as usize];
            b.iter(|| {
                core.receive(from, black_box(bytes));
                core.egress.outbox.clear();
            });
            assert!(core.forwarder.counters()[fate as usize] > before, "{name} has another fate");
        });
    };
    bench("drop, unknown protocol", address(0), &mut strange, Counter::DroppedUnknownProtocol);
    bench("drop, unknown address", address(999), &mut packet.clone(), Counter::DroppedUnknownAddress);
    bench("drop, replay", address(0), &mut replayed, Counter::DroppedSrtpReplay);
    bench("answer, connectivity check", from, &mut check.clone(), Counter::BindingAnswered);
    group.finish();
}

/// The whole core: demux, unprotect, history, and for each receiver rewrite and protect. The rate is that of the
/// packets that leave.
fn forward(criterion: &mut Criterion<CpuTime>) {
    let cases = [(0, 1200), (0, 160), (2, 1200), (2, 160)];
    for (profile, payload_len) in cases {
        let (profile, _, name) = PROFILES[profile];
        let mut group = criterion.benchmark_group(format!("forward/{name}/{payload_len}"));
        for fan_out in FAN_OUTS {
            let mut core = Core::new(profile, fan_out);
            group.throughput(Throughput::Elements(fan_out as u64));
            group.bench_function(BenchmarkId::from_parameter(format!("1-{fan_out}")), |b| {
                b.iter_custom(|iters| {
                    let sent = core.forwarder.counters()[Counter::Sent as usize];
                    let spent = core.forward(iters, payload_len, 1);
                    let sent = core.forwarder.counters()[Counter::Sent as usize] - sent;
                    assert_eq!(sent, iters * fan_out as u64, "every packet reached everybody");
                    spent
                });
            });
        }
        group.finish();
    }
}

/// A track in three encodings, of which each of many receivers takes one, beside the same receivers of one encoding: a packet of each
/// encoding is received, and each receiver is sent one.
fn simulcast(criterion: &mut Criterion<CpuTime>) {
    const RECEIVERS: usize = 150;
    let mut group = criterion.benchmark_group("simulcast/gcm128/1200");
    for encodings in [1, 3] {
        let mut core = Core::in_encodings(SrtpProfile::AeadAes128Gcm, RECEIVERS, encodings);
        group.throughput(Throughput::Elements(RECEIVERS as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{encodings} in, {RECEIVERS} receivers")), |b| {
            b.iter_custom(|iters| {
                let sent = core.forwarder.counters()[Counter::Sent as usize];
                let spent = core.forward(iters, 1200, encodings);
                let sent = core.forwarder.counters()[Counter::Sent as usize] - sent;
                assert_eq!(sent, iters * RECEIVERS as u64, "every receiver got its encoding, and no other");
                spent
            });
        });
    }
    group.finish();
}

/// A sealed packet of two other edges that is passed on, beside one that is forwarded to one receiver. Both come alone, in batches.
fn pass_on(criterion: &mut Criterion<CpuTime>) {
    const FLOW: u64 = 0x0a;
    let mut core = Core::new(SrtpProfile::AeadAes128Gcm, 1);
    let relay = RelayId::new(0, 1);
    let open = RelayOpen { relay, flow: FLOW, from: address(900), to: address(901), to_flow: 0x0b };
    let commands: [Command; 3] =
        [open.into(), RelayRate { relay, bps_max: u32::MAX }.into(), Commit { batch: 99 }.into()];
    for command in commands {
        core.forwarder.apply(core.now, &command.write(), &mut core.egress);
    }
    let mut group = criterion.benchmark_group("edges/gcm128/1200");
    group.throughput(Throughput::Elements(1));
    group.bench_function("forwarded", |b| b.iter_custom(|iters| core.forward(iters, 1200, 1)));
    group.bench_function("passed on", |b| {
        b.iter_custom(|iters| {
            let before = core.forwarder.counters()[Counter::FlowsPassedOn as usize];
            let sealed = core.broadcast.packet(0, 1200);
            // The flow of a transport is behind that of the edge.
            let datagram = [&flow::header(FLOW)[..], &flow::header(0x0c), &sealed].concat();
            let (mut spent, mut left) = (Duration::ZERO, iters as usize);
            while left > 0 {
                let mut packets = vec![datagram.clone(); left.min(BATCH)];
                left -= packets.len();
                core.now += 1000;
                let start = thread_time();
                for packet in &mut packets {
                    core.receive(address(900), packet);
                }
                core.flush();
                spent += thread_time() - start;
            }
            assert_eq!(core.forwarder.counters()[Counter::FlowsPassedOn as usize] - before, iters);
            spent
        });
    });
    group.finish();
}

/// A record through each ring of the link, pushed and popped by one thread: the code and its copies, no cache misses
/// between cores.
fn ring(criterion: &mut Criterion<CpuTime>) {
    let (mut worker, mut control) = link::pair().expect("shared memory");
    let mut group = criterion.benchmark_group("link");
    let command = Command::from(PeerClose { peer: PeerId::new(1, 1) });
    group.bench_function("command", |b| {
        b.iter(|| {
            assert!(control.push_command(black_box(&command)));
            worker.pop_command().expect("just pushed")
        });
    });
    let report = Report::Event(Event::Committed(Committed { batch: 7 }));
    group.bench_function("report", |b| {
        b.iter(|| {
            assert!(worker.push_report(&black_box(report).write()));
            control.pop_report().expect("just pushed")
        });
    });
    let payload = [0x16; 1200];
    let header = DatagramHeader { kind: DatagramKind::Dtls, peer: PeerId::new(1, 1), remote: address(1), len: 1200 };
    group.bench_function("punt, 1200 bytes", |b| {
        b.iter(|| {
            assert!(worker.push_punt(&header, black_box(&payload)));
            control.pop_punt().expect("just pushed").expect("a datagram").1.len()
        });
    });
    group.finish();
}

/// The medians of ours and theirs side by side, from what criterion wrote.
fn print_ratios(out: &Path) {
    println!("\n{:<24} {:>10} {:>12} {:>7}", "median ns per packet", "uprtc", "webrtc-srtp", "ratio");
    for operation in ["protect", "unprotect"] {
        for (_, _, name) in PROFILES {
            for payload_len in PAYLOADS {
                // Criterion makes a folder name of an id, and a slash is none.
                let folder = format!("{name}_{payload_len}");
                let median = |row: &str| median_ns(&out.join(operation).join(row).join(&folder));
                if let (Some(ours), Some(theirs)) = (median("uprtc"), median("webrtc-srtp")) {
                    let id = format!("{operation} {name} {payload_len}");
                    println!("{id:<24} {ours:>10.0} {theirs:>12.0} {:>7.2}", ours / theirs);
                }
            }
        }
    }
    let of_edges = |row: &str| median_ns(&out.join("edges_gcm128_1200").join(row));
    if let (Some(forwarded), Some(passed)) = (of_edges("forwarded"), of_edges("passed on")) {
        println!("passed on beside forwarded {passed:>8.0} {forwarded:>12.0} {:>7.2}", passed / forwarded);
    }
    println!();
}

fn median_ns(folder: &Path) -> Option<f64> {
    let estimates: PathBuf = folder.join("new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(estimates).ok()?).ok()?;
    estimates["median"]["point_estimate"].as_f64()
}
