//! House rule 6, proved: a warmed-up core takes no memory and gives none back, whatever the packets of a turn are.
//!
//! Everything that arrives is made beforehand, because the other SRTP stack and the world of the tests do allocate; only
//! the core and the outbox run while the allocator counts.
#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

mod edge;
mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::mem::take;
use std::net::SocketAddr;

use bytes::Bytes;
use dataplane::Micros;
use dataplane::bwe::Bwe;
use dataplane::config::FRAME_LEN;
use dataplane::forward::{Counters, Flush};
use dataplane::outbox::Outbox;
use dataplane::path::{Datagram, Path};
use dataplane::relay::{Message, Packet};
use dataplane::store::Store;
use dataplane::twcc::{ArrivalLog, TransportCc};
use proto::plane::*;
use rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::sender_report::SenderReport;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use world::*;

/// Counts what this thread takes and gives back while it is told to.
struct Counting;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn note() {
    if IS_COUNTING.get() {
        CALLS.set(CALLS.get() + 1);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain thread-local cells that need
// neither memory nor destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often memory was taken or given back during `work`.
fn calls_during(work: impl FnOnce()) -> usize {
    CALLS.set(0);
    IS_COUNTING.set(true);
    work();
    IS_COUNTING.set(false);
    CALLS.get()
}

#[test]
fn the_allocator_counts() {
    assert_eq!(calls_during(|| drop(std::hint::black_box(Box::new(1)))), 2);
    assert_eq!(calls_during(|| {}), 0);
}

/// A datagram that will arrive.
struct Arrival {
    at: u64,
    from: SocketAddr,
    bytes: Vec<u8>,
}

/// One turn of each worker: batch, what the other handed on, timers, hand-over. What was sent, and what was reported
/// and punted.
fn turn(room: &mut Room, arrival: &mut Arrival) -> (usize, usize) {
    let path = Path::new(0, arrival.from);
    let (at, Room { world, far, ways: [here, there], .. }) = (arrival.at, &mut *room);
    world.forwarder.receive(at, Datagram { path, at, bytes: &mut arrival.bytes }, here);
    world.forwarder.fan_out(at, here);
    world.forwarder.flush(at, here);
    for relayed in here.lane.drain(..) {
        far.forwarder.receive_relayed(at, relayed.message(), there);
    }
    far.forwarder.fan_out(at, there);
    far.forwarder.flush(at, there);
    for relayed in there.lane.drain(..) {
        world.forwarder.receive_relayed(at, relayed.message(), here);
    }
    for (world, way) in [(world, here), (far, there)] {
        if world.forwarder.deadline().is_some_and(|deadline| deadline <= at) {
            world.forwarder.tick(at, way);
        }
        world.forwarder.flush(at, way);
    }
    let [here, there] = &mut room.ways;
    (take(&mut here.sent) + take(&mut there.sent), take(&mut here.said) + take(&mut there.said))
}

/// A way out that takes no memory: it counts.
struct Counted {
    outbox: Outbox,
    /// Messages on their way to the other worker.
    lane: Vec<Relayed>,
    sent: usize,
    /// Reports and punts.
    said: usize,
}

impl Default for Counted {
    fn default() -> Self {
        Counted { outbox: Outbox::new(), lane: Vec::with_capacity(64), sent: 0, said: 0 }
    }
}

/// A message as it is in a lane.
struct Relayed {
    message: Message<'static>,
    bytes: [u8; FRAME_LEN],
    /// Where the first part of the bytes ends, and the second.
    ends: [usize; 2],
}

impl Relayed {
    fn new(message: Message<'_>) -> Relayed {
        let (message, parts): (Message<'static>, [&[u8]; 2]) = match message {
            Message::Packet(packet) => {
                (Message::Packet(Packet { head: &[], payload: &[], ..packet }), [packet.head, packet.payload])
            }
            Message::Sets { mirror, sets } => (Message::Sets { mirror, sets: &[] }, [&[], sets]),
            Message::Clock { mirror, ssrc, ntp, rtp, at } => {
                (Message::Clock { mirror, ssrc, ntp, rtp, at }, [&[], &[]])
            }
            Message::KeyframeWanted { stream } => (Message::KeyframeWanted { stream }, [&[], &[]]),
            Message::Taken { stream, mirror, is_taken, is_wanted, room } => {
                (Message::Taken { stream, mirror, is_taken, is_wanted, room }, [&[], &[]])
            }
            Message::Encoding { mirror, is_flowing, size, bps, expected } => {
                (Message::Encoding { mirror, is_flowing, size, bps, expected }, [&[], &[]])
            }
        };
        let ends = [parts[0].len(), parts[0].len() + parts[1].len()];
        let mut bytes = [0; FRAME_LEN];
        bytes[..ends[0]].copy_from_slice(parts[0]);
        bytes[ends[0]..ends[1]].copy_from_slice(parts[1]);
        Relayed { message, bytes, ends }
    }

    fn message(&self) -> Message<'_> {
        let (head, payload) = self.bytes[..self.ends[1]].split_at(self.ends[0]);
        match self.message {
            Message::Packet(packet) => Message::Packet(Packet { head, payload, ..packet }),
            Message::Sets { mirror, .. } => Message::Sets { mirror, sets: payload },
            other => other,
        }
    }
}

impl Flush for Counted {
    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn flush(&mut self, _: Micros, store: &Store, _: &mut Counters) {
        let outbox = &mut self.outbox;
        while let Some(relayed) = outbox.pop_relay(store) {
            self.lane.push(Relayed::new(relayed.message.expect("it is in the store until the flush")));
        }
        self.sent += outbox.chains().map(|c| c.packets().filter(|p| !p.is_empty()).count()).sum::<usize>();
        while let Some(report) = outbox.pop_report() {
            self.said += usize::from(report.write()[0] != 0);
        }
        while let Some((_, payload)) = outbox.pop_punt() {
            self.said += usize::from(!payload.is_empty());
        }
        outbox.clear();
    }

    fn note_latency(&mut self, _: Micros, _: u64) {}
}

const PEERS: usize = 4;
const VP8_PT: u8 = 96;
const RED_PT: u8 = 63;
/// SPS and PPS in a STAP-A, and the start of an IDR picture.
const SETS: &[u8] = &[0x78, 0, 7, 0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0x40, 0, 4, 0x68, 0xce, 0x3c, 0x80];
const IDR: &[u8] = &[0x65, 0x88, 0x84];
/// Virtual time between two rounds of packets.
const ROUND: u64 = 10_000;

/// A room of four with cameras and microphones, everybody in everybody's slots, and one who watches from another core.
struct Room {
    world: World,
    far: World,
    /// The ways out of the two.
    ways: [Counted; 2],
    peers: Vec<Peer>,
    /// Audio and video SSRC of each.
    ssrcs: Vec<[u32; 2]>,
    /// SSRC of the last one's screen, in VP8.
    vp8: u32,
    /// SSRCs of each peer's slots for audio.
    audio_slots: Vec<Vec<u32>>,
    /// SSRCs of each peer's slots for video.
    video_slots: Vec<Vec<u32>>,
    mids: Vec<String>,
}

impl Room {
    fn new() -> Room {
        let (mut world, mut far) = (World::among(0, 2), World::among(1, 2));
        let profiles = [SrtpProfile::AeadAes128Gcm, SrtpProfile::Aes128CmHmacSha1_80, SrtpProfile::AeadAes256Gcm];
        let peers: Vec<_> = (0..PEERS).map(|i| world.connect(profiles[i % profiles.len()])).collect();
        let opens: Vec<[StreamOpen; 2]> =
            peers.iter().map(|p| [Codec::Opus, Codec::H264].map(|codec| world.stream_open(p, codec))).collect();
        let opens: Vec<[StreamOpen; 2]> =
            opens.into_iter().map(|[audio, video]| [StreamOpen { red_pt: RED_PT, ..audio }, video]).collect();
        let watcher = far.connect(SrtpProfile::AeadAes128Gcm);
        let mut audio_slots = vec![Vec::new(); PEERS];
        for open in opens.iter().flatten() {
            let (mirror, tap) = far.mirror_open(open, 1);
            world.commit(&[(*open).into(), tap.into()]);
            far.commit(&[mirror.into()]);
            let slot = far.slot(&watcher);
            far.route(mirror.stream, slot);
        }
        let streams: Vec<_> = opens.iter().map(|pair| pair.map(|open| open.stream)).collect();
        // One of them has no transport-cc for its video, and is told by REMB.
        let remb = peers.last().expect("there are peers");
        let open = world.stream_open(remb, Codec::Vp8);
        let limit = PeerLimit { peer: remb.id, bps_max: 500_000 };
        let open = StreamOpen { feedback: feedback::REMB | feedback::NACK, pt: VP8_PT, rtx_pt: 0, rtx_ssrc: 0, ..open };
        world.commit(&[open.into(), limit.into()]);
        let shown = world.slot(&peers[0]);
        world.route(open.stream, shown);
        let vp8 = world.ssrc_of(open.stream);
        let mut video_slots = vec![Vec::new(); PEERS];
        for (to, from) in (0..PEERS).flat_map(|to| (0..PEERS).map(move |from| (to, from))).filter(|(a, b)| a != b) {
            for (n, &stream) in streams[from].iter().enumerate() {
                let slot = world.slot(&peers[to]);
                let open = world.route_open(stream, slot);
                let rtx_pt = if n == 0 { open.pt } else { open.rtx_pt };
                // Every other one takes RED.
                let red_pt = if n == 0 && to % 2 == 0 { RED_PT } else { 0 };
                world.commit(&[RouteOpen { rtx_pt, red_pt, ..open }.into()]);
                [&mut audio_slots, &mut video_slots][n][to].push(0x2000_0000 + slot.index);
            }
        }
        let ssrcs = streams.iter().map(|pair| pair.map(|stream| world.ssrc_of(stream))).collect();
        let mids = streams.iter().map(|pair| pair[1].index.to_string()).collect();
        Room { world, far, ways: Default::default(), peers, ssrcs, vp8, audio_slots, video_slots, mids }
    }

    /// What everybody sends in rounds `rounds` of a call.
    fn arrivals(&mut self, rounds: std::ops::Range<u64>) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        let start = self.world.now;
        for round in rounds {
            for i in 0..PEERS {
                let at = start + round * ROUND + i as u64 * 1000;
                let from = self.peers[i].remote;
                let datagrams = self.datagrams(i, round);
                arrivals.extend(datagrams.into_iter().map(|bytes| Arrival { at, from, bytes }));
            }
        }
        arrivals
    }

    fn datagrams(&mut self, i: usize, round: u64) -> Vec<Vec<u8>> {
        let [audio, video] = self.ssrcs[i];
        let peer = &mut self.peers[i];
        let mut datagrams = Vec::new();
        let tcc = |packet: &mut rtp::packet::Packet, n: u64| {
            packet.header.set_extension(3, Bytes::copy_from_slice(&(n as u16).to_be_bytes())).unwrap();
        };
        // One packet of audio in eight is lost on its way to us, and comes later.
        if round.is_multiple_of(2) && round % 16 != 4 || round % 16 == 9 {
            let round = if round % 16 == 9 { round - 5 } else { round };
            let red = [&[0x80 | OPUS_PT, 15, 0, 80, OPUS_PT][..], &[7; 160]].concat();
            let (pt, payload) = if i.is_multiple_of(2) { (RED_PT, &red[..]) } else { (OPUS_PT, &[7; 80][..]) };
            let mut packet = packet(audio, pt, (round / 2) as u16, round as u32 * 480, payload);
            tcc(&mut packet, round * 4);
            let level = if round % 400 < 200 { 17 } else { 127 };
            packet.header.set_extension(1, Bytes::copy_from_slice(&[0x80 | level])).unwrap();
            datagrams.push(peer.protect(&packet));
        }
        // Two packets of video, of which one in 16 is lost on its way to us, and one in 32 comes as RTX later. Now and then
        // half a second is missing at once.
        let is_outage = round % 500 > 450;
        for n in (round * 2..round * 2 + 2).filter(|n| n % 16 != 5 && !is_outage) {
            let first = match (n.is_multiple_of(200), n) {
                (false, _) => DELTA,
                // The second one tells its parameter sets once.
                (true, 0) if i == 1 => SETS,
                (true, _) if i == 1 => IDR,
                (true, _) => SPS,
            };
            let payload = [first, &[n as u8; 1000][..if first == SETS { 0 } else { 1000 }]].concat();
            let mut packet = packet(video, H264_PT, n as u16, (round / 3 * 2700) as u32, &payload);
            tcc(&mut packet, round * 4 + 1 + n % 2);
            datagrams.push(peer.protect(&packet));
        }
        if i == 2 {
            // Another encoding beside the one that flows.
            let mut packet = packet(video + 0x0100_0000, H264_PT, round as u16, round as u32 * 900, DELTA);
            packet.header.set_extension(4, Bytes::copy_from_slice(self.mids[i].as_bytes())).unwrap();
            tcc(&mut packet, round * 4 + 3);
            datagrams.push(peer.protect(&packet));
        }
        if i == PEERS - 1 && round.is_multiple_of(3) {
            // Sent in time, then sooner and sooner before it arrives: a queue that lowers the estimate at once.
            let sent = round * ROUND - round.saturating_sub(900).min(300) * 3000;
            let descriptor = [0x90, 0xe0, 0x80 | (round >> 8 & 0x7f) as u8, round as u8, round as u8, 0x20];
            let payload = [&descriptor[..], &[u8::from(!round.is_multiple_of(60))], &[3; 900]].concat();
            let mut packet = packet(self.vp8, VP8_PT, (round / 3) as u16, (round * 900) as u32, &payload);
            packet.header.set_extension(2, Bytes::copy_from_slice(&dataplane::rtp::abs_send_time(sent))).unwrap();
            datagrams.push(peer.protect(&packet));
        }
        if round % 16 == 9 {
            let lost = (round * 2 / 16 * 16).saturating_sub(11) as u16;
            let payload = [&lost.to_be_bytes()[..], DELTA].concat();
            let mut packet = packet(video + 0x1_0000, RTX_PT, round as u16, 0, &payload);
            packet.header.set_extension(4, Bytes::copy_from_slice(self.mids[i].as_bytes())).unwrap();
            datagrams.push(peer.protect(&packet));
        }
        for &slot in self.audio_slots[i].iter().filter(|_| round % 10 == 7) {
            let seq = 1000 + (round / 2) as u16;
            let nacks = nack_pairs_from_sequence_numbers(&[seq - 9, seq - 8, seq - 3]);
            datagrams.push(peer.protect_rtcp(&TransportLayerNack { sender_ssrc: 1, media_ssrc: slot, nacks }));
        }
        for &slot in &self.video_slots[i] {
            let seq = 1000 + (round * 2) as u16;
            if round.is_multiple_of(5) {
                let nacks = nack_pairs_from_sequence_numbers(&[seq - 30, seq - 9, seq - 8, seq - 7]);
                datagrams.push(peer.protect_rtcp(&TransportLayerNack { sender_ssrc: 1, media_ssrc: slot, nacks }));
            }
            if round.is_multiple_of(97) {
                datagrams.push(peer.protect_rtcp(&PictureLossIndication { sender_ssrc: 1, media_ssrc: slot }));
                let fir = vec![FirEntry { ssrc: slot, sequence_number: 1 }];
                datagrams.push(peer.protect_rtcp(&FullIntraRequest { sender_ssrc: 1, media_ssrc: 0, fir }));
            }
            if round % 100 == 50 {
                let report = ReceptionReport { ssrc: slot, last_sender_report: 7, delay: 9, ..Default::default() };
                let report = ReceiverReport { ssrc: 1, reports: vec![report], profile_extensions: Bytes::new() };
                datagrams.push(peer.protect_rtcp(&report));
            }
        }
        if round.is_multiple_of(100) {
            for (ssrc, rate) in [(audio, 480), (video, 900)] {
                let (ntp_time, rtp_time) = (round << 24, round as u32 * rate);
                datagrams.push(peer.protect_rtcp(&SenderReport { ssrc, ntp_time, rtp_time, ..Default::default() }));
            }
        }
        if round.is_multiple_of(250) {
            datagrams.push(peer.check(true));
        }
        datagrams
    }
}

#[test]
fn a_call_takes_no_memory() {
    let mut room = Room::new();
    let mut warm = room.arrivals(0..300);
    let mut measured = room.arrivals(300..2500);
    for arrival in &mut warm {
        turn(&mut room, arrival);
    }
    let before = *room.world.forwarder.counters();
    let mut sent = 0;
    for arrival in &mut measured {
        let kind = (arrival.bytes[1], arrival.bytes.len());
        let calls = calls_during(|| sent += turn(&mut room, arrival).0);
        assert_eq!(calls, 0, "at {} µs, second byte and length {kind:?}", arrival.at);
    }
    let mut grown = |counter: Counter| room.world.forwarder.counters()[counter as usize] - before[counter as usize];
    // The call was what it was meant to be.
    assert!(sent > 3 * measured.len() / 2, "{sent} packets for {} datagrams", measured.len());
    let far = *room.far.forwarder.counters();
    for (counter, least) in [
        (Counter::RelayReceived, 10_000),
        (Counter::Sent, 10_000),
        (Counter::KeyframeRequestsRelayed, 1),
        (Counter::RtcpSent, 10),
    ] {
        assert!(far[counter as usize] >= least, "{}: {}", counter.name(), far[counter as usize]);
    }
    for (counter, least) in [
        (Counter::Relayed, 10_000),
        (Counter::ParameterSetsSent, 4),
        (Counter::DroppedOtherSsrc, 1000),
        (Counter::Sent, 20_000),
        (Counter::RtxSent, 500),
        (Counter::AudioResent, 500),
        (Counter::AudioCopies, 500),
        (Counter::AudioRedSent, 500),
        (Counter::AudioRedRecovered, 100),
        (Counter::NackReceived, 5000),
        (Counter::NackSent, 500),
        (Counter::Recovered, 10),
        (Counter::Lost, 10),
        (Counter::KeyframeRequestsReceived, 100),
        (Counter::KeyframeRequestsSent, 10),
        (Counter::TransportCcSent, 500),
        (Counter::RembSent, 24),
        (Counter::RtcpSent, 500),
        (Counter::BindingAnswered, 20),
    ] {
        assert!(grown(counter) >= least, "{}: {}", counter.name(), grown(counter));
    }
}

#[test]
fn what_is_rare_or_hostile_takes_no_memory_either() {
    let mut room = Room::new();
    for arrival in &mut room.arrivals(0..100) {
        turn(&mut room, arrival);
    }
    let mut at = room.world.now + 100 * ROUND;
    let mut arrivals = Vec::new();
    let mut arrive = |from, bytes| {
        at += 3000;
        arrivals.push(Arrival { at, from, bytes });
    };
    let video = room.ssrcs[0][1];
    let mids = room.mids.clone();
    let peer = &mut room.peers[0];
    // Forgeries under GCM; those under CM come below.
    for seq in 0..100 {
        let mut forged = peer.protect(&packet(video, H264_PT, 1000 + seq, 0, DELTA));
        *forged.last_mut().unwrap() ^= 1;
        arrive(peer.remote, forged);
    }
    // A move to an address, and to more of them than are kept.
    for port in 0..30 {
        let remote = SocketAddr::from(([10, 0, 0, 1], 5000 + port));
        arrive(remote, peer.check(port % 3 == 0));
    }
    arrive(peer.remote, peer.check(true));
    // A stream that changes its SSRC, and again and again.
    for n in 0..100 {
        let mut packet = packet(0xabc0_0000 + n, H264_PT, 7, 0, DELTA);
        packet.header.set_extension(4, Bytes::copy_from_slice(mids[0].as_bytes())).unwrap();
        arrive(peer.remote, peer.protect(&packet));
    }
    let peer = &mut room.peers[1];
    let video_1 = room.ssrcs[1][1];
    // Jumps ahead, forgeries, replays, strangers, handshakes.
    for n in 0..100u16 {
        let jump = peer.protect(&packet(
            video_1,
            H264_PT,
            300u16.wrapping_add(n.wrapping_mul(2000)),
            0,
            if n.is_multiple_of(3) { SPS } else { DELTA },
        ));
        let mut forged = jump.clone();
        *forged.last_mut().unwrap() ^= 1;
        arrive(peer.remote, forged);
        arrive(peer.remote, jump.clone());
        arrive(peer.remote, jump);
        arrive("203.0.113.5:9".parse().unwrap(), peer.protect(&packet(video, H264_PT, n, 0, DELTA)));
        let mut hello = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, 0, 200];
        hello.resize(213, 9);
        arrive(peer.remote, hello);
        arrive(peer.remote, vec![0; usize::from(n)]);
        let mut check = peer.check(true);
        check[usize::from(n) % 90] ^= 0x40;
        arrive(peer.remote, check);
    }
    // Long enough for everybody's consent to end.
    for _ in 0..15_000 {
        arrive("203.0.113.5:9".parse().unwrap(), vec![255]);
    }
    let said: usize = arrivals
        .iter_mut()
        .map(|arrival| {
            let first = arrival.bytes.first().copied();
            let mut said = 0;
            let calls = calls_during(|| said = turn(&mut room, arrival).1);
            assert_eq!(calls, 0, "at {} µs, first byte {first:?}", arrival.at);
            said
        })
        .sum();
    assert!(said > 40, "paths, punts and the end of four consents were reported: {said}");
    assert!(room.world.counter(Counter::DroppedSrtpAuth) >= 200);
    for counter in [
        Counter::DroppedSrtpReplay,
        Counter::DroppedUnknownStream,
        Counter::DroppedUnknownAddress,
        Counter::DroppedStunMalformed,
        Counter::DroppedPuntRate,
        Counter::HeldForKeyframe,
        Counter::Lost,
    ] {
        assert!(room.world.counter(counter) > 0, "{}", counter.name());
    }
}

/// The estimator of a transport: what it sends, what is reported of it, probes, losses and all.
#[test]
fn an_estimator_takes_no_memory_after_it_was_made() {
    let mut bwe = Bwe::new(300_000, 30_000, 5_000_000, 0);
    let mut log = ArrivalLog::new(1024);
    let (mut bytes, mut probes, mut calls) = ([0; 1100], 0, 0);
    for n in 0..20_000u64 {
        let now = n * 2_000;
        if n % 7 != 3 {
            log.push(n as u16, now + 10_000);
        }
        calls += calls_during(|| {
            bwe.set_demand(now, 4_000_000 + n % 10);
            let probe = bwe.probe(now);
            probes += u64::from(probe.is_some());
            bwe.sent(now, n as u16, 1200, probe.map(|probe| probe.id));
            if n % 50 == 0 && n < 15_000 {
                let len = log.write_feedback(&mut bytes[8..]);
                if let Ok(feedback) = TransportCc::parse(&bytes[..8 + len]) {
                    bwe.feedback(now, &feedback);
                }
            }
            if n % 500 == 0 {
                bwe.receiver_report(now, 20);
                bwe.remb(now, Some(3_000_000));
            }
            bwe.tick(now);
        });
    }
    assert!(probes > 0 && bwe.facts().loss > 0.05, "{:?}", bwe.facts());
    assert_eq!(calls, 0);
}

#[test]
fn changes_of_encoding_take_no_memory() {
    let mut room = Room::new();
    let Room { world, far, peers, .. } = &mut room;
    // A screen in three encodings, which all the others watch, also on the other core.
    let first = world.stream_open(&peers[0], Codec::Vp8);
    let streams = [0, 1, 2].map(|n| {
        let open = world.stream_open(&peers[0], Codec::Vp8);
        StreamOpen { mid: first.mid, pt: VP8_PT, rtx_pt: 0, rtx_ssrc: 0, ssrc: 0x7000 + n, ..open }
    });
    let parts = [0, 1, 2].map(|n: u8| StreamEncoding {
        stream: streams[usize::from(n)].stream,
        track: streams[0].stream,
        place: n,
        rid: proto::id::Rid::parse(&[b'a' + n]).unwrap(),
    });
    world.commit(&streams.map(Command::from));
    world.commit(&parts.map(Command::from));
    let mut slots = Vec::new();
    for peer in &peers[1..] {
        let slot = world.slot(peer);
        for open in &streams {
            world.route(open.stream, slot);
        }
        slots.push(slot);
    }
    let watcher = far.connect(SrtpProfile::AeadAes128Gcm);
    let far_slot = far.slot(&watcher);
    for (open, part) in streams.iter().zip(parts) {
        let (mirror, tap) = far.mirror_open(open, 1);
        far.commit(&[mirror.into(), StreamEncoding { stream: mirror.stream, ..part }.into()]);
        world.commit(&[tap.into()]);
        far.route(mirror.stream, far_slot);
    }
    let start = world.now;
    let (mut arrivals, mut seqs) = (Vec::new(), [0u16; 3]);
    for frame in 0..3000u32 {
        for (encoding, seq) in seqs.iter_mut().enumerate() {
            // Of two packets each, one after the other of each encoding; now and then one is stopped.
            if frame / 100 % 4 == encoding as u32 {
                continue;
            }
            for n in 0..2 {
                let is_key = frame % 10 == 3 * encoding as u32;
                let descriptor = [if n == 0 { 0x90 } else { 0x80 }, 0x80, 0x80 | (frame >> 8) as u8, frame as u8];
                let head = [0x10 | u8::from(!is_key), 0, 0, 0x9d, 1, 0x2a, 0, encoding as u8 + 1, 0, 1];
                let payload = [&descriptor[..], &head, &[7; 500]].concat();
                *seq += 1;
                let mut packet = packet(0x7000 + encoding as u32, VP8_PT, *seq, frame * 3000, &payload);
                packet.header.marker = n == 1;
                let at = start + u64::from(frame) * 33_000 + n * 3000 + encoding as u64 * 1000;
                let from = peers[0].remote;
                arrivals.push(Arrival { at, from, bytes: peers[0].protect(&packet) });
            }
        }
    }
    arrivals.sort_by_key(|arrival| arrival.at);
    let mut sent = 0;
    for (n, arrival) in arrivals.iter_mut().enumerate() {
        let calls = calls_during(|| {
            sent += turn(&mut room, arrival).0;
            if n % 20 == 7 {
                let want = Some(n as u8 / 20 % 4).filter(|rank| *rank < 3);
                let (slot, Room { world, far, ways: [here, there], .. }) = (slots[n / 20 % slots.len()], &mut room);
                world.forwarder.want_encoding(arrival.at, slot.index, want, &mut here.outbox);
                far.forwarder.want_encoding(arrival.at, far_slot.index, want, &mut there.outbox);
            }
        });
        assert!(calls == 0 || n < 200, "packet {n} at {} µs", arrival.at);
    }
    assert!(sent > 4000, "{sent}");
    for (counter, least) in [
        (Counter::EncodingsSwitched, 50),
        (Counter::SlotsPaused, 20),
        (Counter::HeldForFrame, 8),
        (Counter::KeyframeRequestsSent, 20),
    ] {
        assert!(room.world.counter(counter) >= least, "{}: {}", counter.name(), room.world.counter(counter));
    }
    let far = room.far.counter(Counter::EncodingsSwitched);
    assert!(far >= 20, "{far} there");
}

/// A way out whose packets lie in memory that was taken before.
struct Mail {
    outbox: Outbox,
    bytes: Vec<u8>,
    /// Where each packet goes, and where it ends.
    packets: Vec<(SocketAddr, usize)>,
    moved: usize,
}

impl Mail {
    fn new() -> Mail {
        let (bytes, packets) = (Vec::with_capacity(1 << 16), Vec::with_capacity(256));
        Mail { outbox: Outbox::new(), bytes, packets, moved: 0 }
    }
}

impl Flush for Mail {
    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn flush(&mut self, _: Micros, _: &Store, _: &mut Counters) {
        for chain in self.outbox.chains() {
            for packet in chain.packets() {
                self.bytes.extend_from_slice(packet);
                self.packets.push((chain.path().remote, self.bytes.len()));
            }
        }
        while let Some(report) = self.outbox.pop_report() {
            self.moved += usize::from(matches!(report, Report::Event(Event::PeerPath(_))));
        }
        self.outbox.clear();
    }

    fn note_latency(&mut self, _: Micros, _: u64) {}
}

/// Two edges that probe two paths, of which the one is through a third edge, and move to that when the direct one is dead.
#[test]
fn a_link_that_probes_and_moves_takes_no_memory() {
    use edge::{MS, SECOND, address, candidate, credentials, open_transport, opened};
    let middle: SocketAddr = "198.51.100.3:40000".parse().unwrap();
    let places = [address(0), address(1), middle];
    let mut worlds: Vec<World> = (0..3).map(|_| World::new()).collect();
    worlds.iter_mut().for_each(|world| world.mute.extend(places));
    for of in 0..2 {
        let relay = proto::id::RelayId::new(of as u32, 1);
        let (from, to) = (address(of), address(1 - of));
        let open = RelayOpen { relay, flow: 10 + of as u64, from, to, to_flow: 21 - of as u64 };
        worlds[2].commit(&[open.into(), RelayRate { relay, bps_max: 1_000_000 }.into()]);
        let (send_flow, receive_flow) = (10 + of as u64, 20 + of as u64);
        let through = PeerCandidate { place: 1, remote: middle, send_flow, receive_flow, ..candidate(of) };
        worlds[of].commit(&[opened(of), credentials(of), candidate(of).into(), through.into()]);
        worlds[of].commit(&open_transport(of, 0));
    }
    let mut mails: Vec<Mail> = (0..3).map(|_| Mail::new()).collect();
    for (world, mail) in worlds.iter_mut().zip(&mut mails) {
        for (to, bytes) in std::mem::take(&mut world.egress.sent) {
            mail.bytes.extend(bytes);
            mail.packets.push((to, mail.bytes.len()));
        }
    }
    let mut now = worlds[0].now;
    let mut packets = vec![0; 1 << 16];
    let mut run = |until: u64, is_dead: bool, mails: &mut [Mail]| {
        while now < until {
            now += 5 * MS;
            for from in 0..3 {
                let len = mails[from].bytes.len();
                packets[..len].copy_from_slice(&mails[from].bytes);
                mails[from].bytes.clear();
                let mut start = 0;
                for at in 0..mails[from].packets.len() {
                    let (remote, end) = mails[from].packets[at];
                    let to = places.iter().position(|place| *place == remote).expect("it is one of them");
                    let is_lost = is_dead && from < 2 && to < 2;
                    if !is_lost {
                        let datagram =
                            Datagram { path: Path::new(0, places[from]), at: now, bytes: &mut packets[start..end] };
                        worlds[to].forwarder.receive(now, datagram, &mut mails[to]);
                    }
                    start = end;
                }
                mails[from].packets.clear();
            }
            for (world, mail) in worlds.iter_mut().zip(mails.iter_mut()) {
                if world.forwarder.deadline().is_some_and(|deadline| deadline <= now) {
                    world.forwarder.tick(now, mail);
                }
                world.forwarder.flush(now, mail);
            }
        }
    };
    run(5 * SECOND, false, &mut mails);
    mails.iter_mut().for_each(|mail| mail.moved = 0);
    let calls = calls_during(|| {
        run(15 * SECOND, false, &mut mails);
        run(20 * SECOND, true, &mut mails);
        run(45 * SECOND, false, &mut mails);
        run(100 * SECOND, true, &mut mails);
    });
    assert_eq!(calls, 0, "memory was taken or given back");
    assert_eq!(mails[0].moved, 3, "away, back, and away again");
    assert!(worlds[2].counter(Counter::FlowsPassedOn) > 1000);
}
