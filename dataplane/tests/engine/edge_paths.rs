//! Which of several paths a link uses, in the worker itself: it probes each of them, leaves one that is dead or bad within a second,
//! does not follow one that comes and goes, and says what it has measured.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dataplane::config::{CONSENT_TIMEOUT, OVERLAY_LOSS_MAX_PPM};
use proto::id::StreamId;
use proto::plane::*;

use crate::edge::*;
use crate::world::*;

/// What lies between the two ends by one path, in both directions.
#[derive(Clone, Copy)]
struct Way {
    delay: u64,
    /// Of a thousand datagrams.
    loss: u64,
    /// Whether only what the first edge sends is lost.
    is_one_way: bool,
    is_dead: bool,
}

const GOOD: Way = Way { delay: 20 * MS, loss: 0, is_one_way: false, is_dead: false };

/// Two edges that reach each other directly and by others, each of which has an address of its own. What others pass on is done by the
/// network here: the flow of one end becomes that of the other.
struct Mesh {
    worlds: [World; 2],
    ways: Vec<Way>,
    /// Datagrams under way: when they arrive, where, from which address.
    under_way: BTreeMap<(u64, u64), (usize, SocketAddr, Vec<u8>)>,
    count: u64,
    /// Of the losses.
    seed: u64,
    /// Which way each took, the newest last: when, and where to.
    moved: [Vec<(u64, SocketAddr)>; 2],
    measured: Vec<(u64, PathMeasured)>,
    /// How many datagrams went each way.
    went: Vec<u64>,
    /// What the second edge has sent to others than the first.
    heard: Vec<Vec<u8>>,
}

/// A number that looks random (the finalizer of splitmix64): two copies of a packet, which follow each other, are not lost together.
fn mixed(count: u64) -> u64 {
    let mut mixed = count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The address of a way: of the other edge, or of the one that passes on.
fn at(way: usize, other: usize) -> SocketAddr {
    match way {
        0 => address(other),
        _ => SocketAddr::from(([198, 51, 100, 100 + way as u8], 40_000)),
    }
}

/// The flow in which an edge receives by a way.
fn flow_of(way: usize, to: usize) -> u64 {
    1 + 2 * way as u64 + to as u64
}

impl Mesh {
    fn new(ways: &[Way], is_used: bool) -> Mesh {
        let mut worlds: [World; 2] = std::array::from_fn(|_| World::new());
        for (of, world) in worlds.iter_mut().enumerate() {
            for way in 0..ways.len() {
                world.mute.insert(at(way, 1 - of));
            }
            world.commit(&[opened(of), credentials(of)]);
            let candidates: Vec<Command> = (0..ways.len()).map(|way| Self::candidate(of, way).into()).collect();
            world.commit(&candidates);
            if is_used {
                world.commit(&open_transport(of, 0));
            }
        }
        let (under_way, count, seed, moved, measured, went, heard) = Default::default();
        let mut mesh = Mesh { worlds, ways: ways.to_vec(), under_way, count, seed, moved, measured, went, heard };
        mesh.went = vec![0; ways.len()];
        mesh
    }

    fn candidate(of: usize, way: usize) -> PeerCandidate {
        let (send_flow, receive_flow) = if way == 0 { (0, 0) } else { (flow_of(way, 1 - of), flow_of(way, of)) };
        PeerCandidate { place: way as u8, remote: at(way, 1 - of), send_flow, receive_flow, ..candidate(of) }
    }

    fn now(&self) -> u64 {
        self.worlds[0].now
    }

    /// Lets a time pass, in steps of 5 ms.
    fn run(&mut self, during: u64) {
        let end = self.now() + during;
        while self.now() < end {
            for from in 0..2 {
                self.worlds[from].advance(5 * MS);
                self.leave(from);
            }
            let now = self.now();
            while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= now) {
                let (to, source, bytes) = entry.remove();
                self.worlds[to].receive(source, &bytes);
                self.leave(to);
            }
        }
    }

    /// What an edge has sent is under way, or lost.
    fn leave(&mut self, from: usize) {
        let now = self.now();
        for (to, bytes) in std::mem::take(&mut self.worlds[from].egress.sent) {
            let Some(way) = (0..self.ways.len()).find(|way| at(*way, 1 - from) == to) else {
                self.heard.extend((from == 1).then_some(bytes));
                continue;
            };
            self.went[way] += 1;
            self.count += 1;
            let Way { delay, loss, is_one_way, is_dead } = self.ways[way];
            // Losses come as by chance, and the same in each run.
            let chance = mixed(self.seed << 32 ^ self.count) % 1000;
            if !is_dead && (chance >= loss || (is_one_way && from == 1)) {
                self.under_way.insert((now + delay, self.count), (1 - from, at(way, from), bytes));
            }
        }
        for report in self.worlds[from].take_reports() {
            match report {
                Report::Event(Event::PeerPath(path)) => self.moved[from].push((now, path.remote)),
                Report::Event(Event::PathMeasured(measured)) if from == 0 => self.measured.push((now, measured)),
                Report::Event(Event::Refused(refused)) => panic!("{refused:?}"),
                _ => {}
            }
        }
    }

    /// The way that an edge uses.
    fn used(&self, of: usize) -> Option<usize> {
        let (_, remote) = self.moved[of].last()?;
        (0..self.ways.len()).find(|way| at(*way, 1 - of) == *remote)
    }

    /// How long after a moment both had left this way.
    fn left_after(&self, since: u64) -> u64 {
        let last = self.moved.iter().filter_map(|moved| moved.iter().find(|(at, _)| *at >= since));
        last.map(|(at, _)| at - since).max().expect("they have moved")
    }

    /// The newest of what was measured of a way.
    fn measure(&self, way: usize) -> PathMeasured {
        self.measured.iter().rev().find(|(_, of)| usize::from(of.place) == way).expect("it was told").1
    }
}

#[test]
fn of_paths_that_all_answer_the_first_is_used_and_each_is_measured() {
    let mut mesh = Mesh::new(&[GOOD, Way { delay: 10 * MS, ..GOOD }, Way { delay: 60 * MS, loss: 100, ..GOOD }], true);
    mesh.run(20 * SECOND);
    assert_eq!([mesh.used(0), mesh.used(1)], [Some(0); 2], "it is told first, and asked first");
    assert_eq!(mesh.moved.each_ref().map(Vec::len), [1, 1]);
    let [direct, short, lossy] = [0, 1, 2].map(|way| mesh.measure(way));
    assert_eq!([direct.state, short.state, lossy.state], [PathState::Good, PathState::Good, PathState::Bad]);
    for (measured, rtt) in [(direct, 40), (short, 20), (lossy, 120)] {
        assert!((rtt * 1000..rtt * 1000 + 12_000).contains(&measured.rtt_us), "{measured:?}");
    }
    assert!(direct.loss_ppm < 1000 && lossy.loss_ppm > OVERLAY_LOSS_MAX_PPM, "{direct:?} {lossy:?}");
    let told: Vec<u64> = mesh.measured.iter().filter(|(_, of)| of.place == 0).map(|(at, _)| *at).collect();
    assert!((18..=24).contains(&told.len()), "about once a second: {}", told.len());
    let (sent, answered) =
        (mesh.worlds[0].counter(Counter::PathProbesSent), mesh.worlds[0].counter(Counter::PathProbesAnswered));
    assert!((600..1200).contains(&sent) && answered > sent * 8 / 10, "{sent} {answered}");
    assert_eq!(mesh.worlds[0].counter(Counter::DroppedStunUnexpected), 0);
}

/// Somebody at the first edge speaks to somebody at the second.
struct Speech {
    speaker: Peer,
    listener: Peer,
    ssrc: u32,
    slot_ssrc: u32,
    seq: u16,
}

impl Speech {
    fn begin(mesh: &mut Mesh) -> Speech {
        let speaker = mesh.worlds[0].connect(SrtpProfile::AeadAes128Gcm);
        let listener = mesh.worlds[1].connect_unlimited(SrtpProfile::AeadAes128Gcm);
        mesh.worlds[1].mute.insert(listener.remote);
        let open = mesh.worlds[0].stream_open(&speaker, Codec::Opus);
        mesh.worlds[0].commit(&[open.into()]);
        mesh.worlds[0].commit(&export(400, &open, 0x7000));
        let import = import(StreamId::new(401, 1), 0x7000, Codec::Opus);
        mesh.worlds[1].commit(&[import.into()]);
        let slot = mesh.worlds[1].slot(&listener);
        mesh.worlds[1].route(import.stream, slot);
        Speech { speaker, listener, ssrc: open.ssrc, slot_ssrc: 0x2000_0000 + slot.index, seq: 0 }
    }

    /// For so many packets of 20 ms; how many of them came.
    fn speak(&mut self, mesh: &mut Mesh, packets: u16) -> usize {
        mesh.heard.clear();
        for _ in 0..packets {
            self.seq += 1;
            let packet = packet(self.ssrc, OPUS_PT, self.seq, u32::from(self.seq) * 960, &[7; 80]);
            let protected = self.speaker.protect(&packet);
            mesh.worlds[0].receive(self.speaker.remote, &protected);
            mesh.leave(0);
            mesh.run(20 * MS);
        }
        mesh.run(SECOND);
        let media = self.listener.unprotect(&std::mem::take(&mut mesh.heard));
        media.iter().filter(|packet| packet.header.ssrc == self.slot_ssrc).count()
    }
}

#[test]
fn audio_goes_by_two_paths_while_both_lose_much() {
    let mut mesh = Mesh::new(&[GOOD, Way { delay: 30 * MS, ..GOOD }], true);
    mesh.run(SECOND);
    let mut speech = Speech::begin(&mut mesh);
    assert_eq!(speech.speak(&mut mesh, 100), 100);
    assert_eq!(mesh.worlds[0].counter(Counter::AudioTwice), 0);
    mesh.ways.iter_mut().for_each(|way| way.loss = 300);
    speech.speak(&mut mesh, 200);
    let counted = |mesh: &mut Mesh| {
        (mesh.worlds[0].counter(Counter::AudioTwice), mesh.worlds[1].counter(Counter::DroppedSrtpReplay))
    };
    let before = counted(&mut mesh);
    assert!(before.0 > 100, "{}: it begins within two seconds", before.0);
    let came = speech.speak(&mut mesh, 600);
    let now = counted(&mut mesh);
    let (twice, replays) = (now.0 - before.0, now.1 - before.1);
    println!("{came} of 600 came, {twice} left by two paths of which each loses 30 %, {replays} came by both");
    assert!(twice >= 540, "{twice}: at 30 % the second path seems to be dead now and then");
    assert!(came >= 510, "{came} of 600: by one path 420 come");
    assert!((200..380).contains(&replays), "{replays}: half comes by both, and is passed on once");
    // Both are good again: it ends after ten seconds.
    mesh.ways.iter_mut().for_each(|way| way.loss = 0);
    speech.speak(&mut mesh, 1500);
    let ended = counted(&mut mesh);
    speech.speak(&mut mesh, 100);
    assert_eq!(counted(&mut mesh), ended);
}

#[test]
fn a_dead_path_of_a_link_is_left_within_a_second_by_both_ends() {
    let mut mesh = Mesh::new(&[GOOD, Way { delay: 35 * MS, ..GOOD }], true);
    mesh.run(5 * SECOND);
    let since = mesh.now();
    mesh.ways[0].is_dead = true;
    mesh.run(2 * SECOND);
    assert_eq!([mesh.used(0), mesh.used(1)], [Some(1); 2]);
    let after = mesh.left_after(since);
    assert!(after <= 1000 * MS, "{after} µs");
    assert_eq!(mesh.measure(0).state, PathState::Dead);
    // It answers again: what is preferred is taken after ten good seconds, and not before.
    mesh.ways[0].is_dead = false;
    mesh.run(9 * SECOND);
    assert_eq!(mesh.used(0), Some(1));
    mesh.run(9 * SECOND);
    assert_eq!([mesh.used(0), mesh.used(1)], [Some(0); 2]);
    assert_eq!(mesh.worlds[0].counter(Counter::PathsMoved), 2);
}

/// A voice of 50 packets a second, or a camera of 100, from one edge to somebody at the other one.
struct Published {
    from: usize,
    peer: Peer,
    open: StreamOpen,
    seq: u16,
}

impl Published {
    /// Over the transport of its edge, with the numbers and extensions that edges use.
    fn new(mesh: &mut Mesh, from: usize, codec: Codec) -> Published {
        let peer = mesh.worlds[from].connect(SrtpProfile::AeadAes128Gcm);
        let listener = mesh.worlds[1 - from].connect_unlimited(SrtpProfile::AeadAes128Gcm);
        mesh.worlds[1 - from].mute.insert(listener.remote);
        let open = mesh.worlds[from].stream_open(&peer, codec);
        mesh.worlds[from].commit(&[open.into()]);
        let n = 10 * from as u32 + 2 * u32::from(codec.is_video());
        let over = transport(from as u32);
        let mut ids = [0; EXTENSION_COUNT_MAX];
        ids[Extension::TransportCc as usize] = 4;
        for world in &mut mesh.worlds {
            world.commit(&[PeerExtensions { peer: over, ids }.into()]);
        }
        let exported = export(400 + n, &open, 0x7000 + n).map(|command| match command {
            Command::SlotOpen(slot) => SlotOpen { peer: over, ..slot }.into(),
            Command::RouteOpen(route) if !codec.is_video() => RouteOpen { rtx_pt: route.pt, ..route }.into(),
            other => other,
        });
        mesh.worlds[from].commit(&exported);
        let import = import(StreamId::new(440 + n, 1), 0x7000 + n, codec);
        let feedback = import.feedback | feedback::TRANSPORT_CC;
        mesh.worlds[1 - from].commit(&[StreamOpen { peer: over, feedback, ..import }.into()]);
        let slot = mesh.worlds[1 - from].slot(&listener);
        mesh.worlds[1 - from].route(import.stream, slot);
        let mut published = Published { from, peer, open, seq: 0 };
        if codec.is_video() {
            published.send(mesh, SPS);
        }
        published
    }

    fn send(&mut self, mesh: &mut Mesh, payload: &[u8]) {
        self.seq += 1;
        let packet = packet(self.open.ssrc, self.open.pt, self.seq, u32::from(self.seq) * 960, payload);
        let protected = self.peer.protect(&packet);
        mesh.worlds[self.from].receive(self.peer.remote, &protected);
        mesh.leave(self.from);
    }

    /// A time passes in which all of these send.
    fn pass(all: &mut [Published], mesh: &mut Mesh, during: u64) {
        for _ in 0..during / (20 * MS) {
            for published in &mut *all {
                match published.open.codec.is_video() {
                    true => (0..2).for_each(|_| published.send(mesh, DELTA)),
                    false => published.send(mesh, &[7; 80]),
                }
            }
            mesh.run(20 * MS);
            mesh.heard.clear();
        }
    }
}

/// What crosses in a call of two, and in a lecture.
const CALL: &[(usize, Codec)] = &[(0, Codec::Opus), (0, Codec::H264), (1, Codec::Opus), (1, Codec::H264)];
const VOICE: &[(usize, Codec)] = &[(0, Codec::Opus)];

/// Two edges between which media crosses, by one of two paths.
fn crossing(of: &[(usize, Codec)], seed: u64) -> (Mesh, Vec<Published>) {
    let mut mesh = Mesh::new(&[GOOD, Way { delay: 35 * MS, ..GOOD }], true);
    for (of, world) in mesh.worlds.iter_mut().enumerate() {
        world.commit(&open_transport(of, 1));
    }
    mesh.seed = seed;
    mesh.run(SECOND);
    let mut all: Vec<_> = of.iter().map(|&(from, codec)| Published::new(&mut mesh, from, codec)).collect();
    Published::pass(&mut all, &mut mesh, 3 * SECOND + seed * 35 * MS);
    (mesh, all)
}

/// How long it takes until both ends have left a path that becomes so: of many runs, in order.
fn left_after(of: &[(usize, Codec)], bad: Way, runs: u64) -> Vec<u64> {
    let mut times: Vec<u64> = (0..runs)
        .map(|seed| {
            let (mut mesh, mut all) = crossing(of, seed);
            let since = mesh.now();
            mesh.ways[0] = bad;
            Published::pass(&mut all, &mut mesh, 4 * SECOND);
            // Who sends nothing that is lost may stay.
            let who = (0..2).filter(|end| bad.is_one_way.then_some(*end).is_none_or(|end| end == 0));
            let who = who.filter(|end| of.is_empty() || of.iter().any(|(from, _)| from == end));
            let left = who.map(|end| {
                assert_eq!(mesh.used(end), Some(1), "run {seed}, edge {end}");
                mesh.moved[end].iter().find(|(at, _)| *at >= since).expect("it has moved").0 - since
            });
            left.max().expect("one of them sends")
        })
        .collect();
    times.sort_unstable();
    times
}

#[test]
fn a_path_that_becomes_bad_is_left_within_a_second_in_every_run() {
    let fifth = Way { loss: 200, ..GOOD };
    let late = Way { delay: 200 * MS, ..GOOD };
    let cases = [
        ("a fifth lost, a call", CALL, fifth),
        ("a fifth lost one way, a call", CALL, Way { is_one_way: true, ..fifth }),
        ("a fifth lost, a voice one way", VOICE, fifth),
        ("400 ms, a call", CALL, late),
        ("400 ms, a voice one way", VOICE, late),
    ];
    for (name, of, bad) in cases {
        let times = left_after(of, bad, 60);
        println!("{name}: median {} µs, longest {} µs", times[30], times[59]);
        assert!(times[59] <= SECOND, "{name}: {times:?}");
    }
}

#[test]
fn without_media_a_path_that_loses_a_fifth_is_left_within_two_seconds() {
    let times = left_after(&[], Way { loss: 200, ..GOOD }, 40);
    println!("median {} µs, longest {} µs", times[20], times[39]);
    assert!(times[20] <= 1000 * MS && times[39] <= 2000 * MS, "{times:?}");
}

#[test]
fn half_a_percent_that_is_lost_moves_nothing() {
    for of in [CALL, VOICE] {
        let mut moves = 0;
        for seed in 0..10 {
            let (mut mesh, mut all) = crossing(of, seed);
            mesh.ways.iter_mut().for_each(|way| way.loss = 5);
            let before = mesh.worlds.each_mut().map(|world| world.counter(Counter::PathProbesSent));
            Published::pass(&mut all, &mut mesh, 60 * SECOND);
            let after = mesh.worlds.each_mut().map(|world| world.counter(Counter::PathProbesSent));
            moves += mesh.worlds.iter_mut().map(|world| world.counter(Counter::PathsMoved)).sum::<u64>();
            let probes = (after[0] - before[0]).max(after[1] - before[1]) / 60 / 2;
            assert!(probes <= 15, "{probes} probes a second of each path, where ten are due");
        }
        println!("{moves} moves of either end in ten minutes");
        assert!(moves <= 4, "{moves}: left twice, and taken again");
    }
}

#[test]
fn a_path_that_comes_and_goes_under_a_call_is_left_twice_a_minute_at_most() {
    for bad in [Way { is_dead: true, ..GOOD }, Way { loss: 200, ..GOOD }] {
        for seed in 0..10 {
            let (mut mesh, mut all) = crossing(CALL, seed);
            for n in 0..30 {
                mesh.ways[0] = if n % 2 == 0 { bad } else { GOOD };
                Published::pass(&mut all, &mut mesh, 2 * SECOND);
            }
            let moves = mesh.worlds.each_mut().map(|world| world.counter(Counter::PathsMoved));
            assert!(moves.iter().all(|moves| *moves <= 2), "run {seed}: {moves:?}");
        }
    }
}

#[test]
fn a_path_of_a_link_that_comes_and_goes_is_left_once() {
    let mut mesh = Mesh::new(&[GOOD, Way { delay: 35 * MS, ..GOOD }], true);
    mesh.run(5 * SECOND);
    for n in 0..60 {
        mesh.ways[0].is_dead = n % 2 == 0;
        mesh.run(2 * SECOND);
    }
    assert_eq!([mesh.used(0), mesh.used(1)], [Some(1); 2]);
    assert_eq!(mesh.worlds[0].counter(Counter::PathsMoved), 1);
}

#[test]
fn a_leg_is_probed_each_two_seconds_until_something_is_sent_over_it() {
    let mut mesh = Mesh::new(&[GOOD, Way { delay: 35 * MS, ..GOOD }], false);
    mesh.run(5 * SECOND);
    let before = mesh.worlds[0].counter(Counter::PathProbesSent);
    mesh.measured.clear();
    mesh.run(60 * SECOND);
    let sent = mesh.worlds[0].counter(Counter::PathProbesSent) - before;
    assert!((58..=64).contains(&sent), "{sent} by two ways");
    assert!((20..=28).contains(&mesh.measured.len()), "told each five seconds: {}", mesh.measured.len());
    for (of, world) in mesh.worlds.iter_mut().enumerate() {
        world.commit(&open_transport(of, 0));
    }
    let before = mesh.worlds[0].counter(Counter::PathProbesSent);
    mesh.run(10 * SECOND);
    let sent = mesh.worlds[0].counter(Counter::PathProbesSent) - before;
    assert!((180..=230).contains(&sent), "{sent}");
    // And not any more when nothing is.
    mesh.worlds[0].commit(&[PeerClose { peer: transport(0) }.into()]);
    let before = mesh.worlds[0].counter(Counter::PathProbesSent);
    mesh.run(20 * SECOND);
    let sent = mesh.worlds[0].counter(Counter::PathProbesSent) - before;
    assert!(sent <= 26, "{sent}");
}

#[test]
fn what_does_not_answer_is_probed_once_a_second() {
    let dead = Way { is_dead: true, ..GOOD };
    let mut mesh = Mesh::new(&[GOOD, dead], true);
    mesh.run(60 * SECOND);
    assert!(mesh.went[1] <= 2 * 63, "{} by both ends", mesh.went[1]);
    assert_eq!(mesh.measure(1).state, PathState::Dead);
    // Where none answers any more, the link goes on as before, and comes back by any of them.
    mesh.ways = vec![dead, dead];
    mesh.run(CONSENT_TIMEOUT + 10 * SECOND);
    mesh.went = vec![0; 2];
    mesh.run(20 * SECOND);
    assert!(mesh.went.iter().all(|went| *went <= 2 * 22), "{:?}", mesh.went);
    mesh.ways[1] = GOOD;
    mesh.run(2 * SECOND);
    assert_eq!([mesh.used(0), mesh.used(1)], [Some(1); 2]);
}

#[test]
fn candidates_that_change_their_numbers_keep_what_is_known_of_them() {
    let mut mesh = Mesh::new(&[GOOD, Way { delay: 10 * MS, ..GOOD }], true);
    mesh.run(5 * SECOND);
    let moved = mesh.moved[0].len();
    // The controlplane prefers the other one now.
    let swapped = |way: usize, place: u8| PeerCandidate { place, ..Mesh::candidate(0, way) };
    mesh.worlds[0].commit(&[swapped(1, 0).into(), swapped(0, 1).into()]);
    mesh.run(8 * SECOND);
    assert_eq!((mesh.used(0), mesh.moved[0].len()), (Some(0), moved), "it goes on where it is");
    assert!(mesh.measured.iter().rev().take(4).all(|(_, of)| of.state == PathState::Good));
    mesh.run(4 * SECOND);
    assert_eq!(mesh.used(0), Some(1), "and is moved when the other one has been good for ten seconds");
    assert_eq!(mesh.used(1), Some(0), "each end as it was told");
    // The one in use is no candidate any more: the other one is good.
    let none = PeerCandidate {
        place: 0,
        remote: SocketAddr::from(([0; 4], 0)),
        send_flow: 0,
        receive_flow: 0,
        ..candidate(0)
    };
    mesh.worlds[0].commit(&[none.into()]);
    mesh.run(10 * MS);
    assert_eq!(mesh.used(0), Some(0));
}
