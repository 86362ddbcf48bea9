//! Parameter sets of H.264 that come once, at the start of a stream or in SDP alone: who comes later gets them ahead of the
//! keyframe, under numbers of its own.

use bytes::Bytes;
use proto::id::StreamId;
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const SPS_0: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0x40];
const PPS_0: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
const SPS_0_OTHER: &[u8] = &[0x67, 0x64, 0x00, 0x28, 0xac, 0xd9, 0x40, 0x78];
const SPS_1: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0x4c, 0x8d];
const PPS_1: &[u8] = &[0x68, 0x5e, 0x3c];
const IDR: &[u8] = &[0x65, 0x88, 0x84, 0x21];
const IDR_SECOND_SLICE: &[u8] = &[0x65, 0x11, 0x12];
const SLICE: &[u8] = &[0x41, 0x9a, 0x24];

struct Receiver {
    peer: Peer,
    ssrc: u32,
    rtx_ssrc: u32,
    got: Vec<rtp::packet::Packet>,
}

/// Alice publishes; who is there receives.
struct Call {
    world: World,
    alice: Peer,
    open: StreamOpen,
    seq: u16,
    timestamp: u32,
    receivers: Vec<Receiver>,
}

impl Call {
    fn new() -> Call {
        let mut world = World::new();
        let alice = world.connect(SrtpProfile::AeadAes128Gcm);
        let open = world.stream_open(&alice, Codec::H264);
        world.commit(&[open.into()]);
        Call { world, alice, open, seq: 65_500, timestamp: 0, receivers: Vec::new() }
    }

    /// SDP told these sets.
    fn told(&mut self, sets: &[&[u8]]) {
        let commands = told(self.open.stream, sets);
        self.world.commit(&commands);
    }

    /// Somebody comes; their number.
    fn join(&mut self) -> usize {
        let peer = self.world.connect(SrtpProfile::AeadAes128Gcm);
        let slot = self.world.slot(&peer);
        self.world.route(self.open.stream, slot);
        let [ssrc, rtx_ssrc] = [0x2000_0000, 0x3000_0000].map(|base| base + slot.index);
        self.receivers.push(Receiver { peer, ssrc, rtx_ssrc, got: Vec::new() });
        self.receivers.len() - 1
    }

    /// The datagrams of a frame.
    fn protect(&mut self, payloads: &[&[u8]]) -> Vec<Vec<u8>> {
        self.timestamp += 3000;
        let frame = payloads.iter().enumerate().map(|(at, payload)| {
            self.seq = self.seq.wrapping_add(1);
            let mut packet = packet(self.open.ssrc, H264_PT, self.seq, self.timestamp, payload);
            packet.header.marker = at + 1 == payloads.len();
            self.alice.protect(&packet)
        });
        frame.collect()
    }

    /// A frame arrives, in one turn.
    fn frame(&mut self, payloads: &[&[u8]]) {
        let datagrams = self.protect(payloads);
        self.world.advance(33_000);
        self.arrive(&datagrams);
    }

    fn arrive(&mut self, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.world.receive_in_turn(self.alice.remote, datagram);
        }
        self.world.fan_out();
        for receiver in &mut self.receivers {
            let datagrams = self.world.take_sent(receiver.peer.remote);
            receiver.got.extend(receiver.peer.unprotect(&datagrams));
        }
    }

    /// What a receiver got since the last call, held against the laws: numbers go on without a gap, and packets of one
    /// timestamp are one frame.
    #[track_caller]
    fn got(&mut self, receiver: usize) -> Vec<Bytes> {
        let got = &mut self.receivers[receiver].got;
        for pair in got.windows(2) {
            let [a, b] = [&pair[0].header, &pair[1].header];
            assert_eq!(b.sequence_number, a.sequence_number.wrapping_add(1));
            let elapsed = b.timestamp.wrapping_sub(a.timestamp) as i32;
            assert!(if a.marker { elapsed > 0 } else { elapsed >= 0 }, "{a:?} {b:?}");
        }
        // The last one stays for the next comparison.
        let payloads = got.iter().map(|packet| packet.payload.clone()).collect();
        got.clear();
        payloads
    }

    /// What a receiver is sent again for numbers that it lacks.
    fn lacks(&mut self, receiver: usize, seqs: &[u16]) -> Vec<rtp::packet::Packet> {
        let Receiver { peer, ssrc, .. } = &mut self.receivers[receiver];
        let nacks = nack_pairs_from_sequence_numbers(seqs);
        let nack = peer.protect_rtcp(&TransportLayerNack { sender_ssrc: 1, media_ssrc: *ssrc, nacks });
        self.world.receive(peer.remote, &nack);
        let datagrams = self.world.take_sent(peer.remote);
        peer.unprotect(&datagrams)
    }

    fn asks_for_a_keyframe(&mut self, receiver: usize) {
        let Receiver { peer, ssrc, .. } = &mut self.receivers[receiver];
        let pli = peer.protect_rtcp(&PictureLossIndication { sender_ssrc: 1, media_ssrc: *ssrc });
        self.world.receive(peer.remote, &pli);
    }
}

/// The commands that tell sets.
fn told(stream: StreamId, sets: &[&[u8]]) -> Vec<Command> {
    let bytes: Vec<u8> = sets.iter().flat_map(|set| [&[set.len() as u8][..], set].concat()).collect();
    let part = |(part, of_part): (usize, &[u8])| {
        let mut bytes = [0; STREAM_SETS_PART_LEN];
        bytes[..of_part.len()].copy_from_slice(of_part);
        StreamSets { stream, part: part as u8, len: of_part.len() as u8, bytes }.into()
    };
    bytes.chunks(STREAM_SETS_PART_LEN).enumerate().map(part).collect()
}

fn aggregate(units: &[&[u8]]) -> Vec<u8> {
    let sized = units.iter().flat_map(|unit| [&(unit.len() as u16).to_be_bytes()[..], unit].concat());
    std::iter::once(0x78).chain(sized).collect()
}

#[test]
fn who_comes_later_gets_the_sets_that_came_once() {
    let in_fragments: [&[u8]; 5] = [
        &[0x7c, 0x87, 0x42, 0xe0, 0x1f],
        &[0x7c, 0x47, 0x8c, 0x8d, 0x40],
        &[0x7c, 0x88, 0xce],
        &[0x7c, 0x08, 0x3c],
        &[0x7c, 0x48, 0x80],
    ];
    let aggregated = aggregate(&[SPS_0, PPS_0]);
    let ways: [&[&[u8]]; 3] = [&[SPS_0, PPS_0, IDR], &[&aggregated, IDR], &in_fragments];
    for (way, first) in ways.into_iter().enumerate() {
        let mut call = Call::new();
        let bob = call.join();
        call.frame(first);
        call.frame(&[SLICE]);
        assert_eq!(call.got(bob).len(), first.len() + 1, "who is there gets what is sent");
        let carol = call.join();
        call.frame(&[SLICE, SLICE]);
        assert!(call.got(carol).is_empty());
        // As single NAL unit, in fragments, and behind SEI.
        let idr: [&[u8]; 2] = [
            [IDR, IDR_SECOND_SLICE],
            [&[0x7c, 0x85, 0x88, 1], &[0x7c, 0x45, 2]],
            [&[0x78, 0, 2, 6, 5, 0, 2, 0x65, 0x88], SLICE],
        ][way];
        call.frame(&idr);
        call.frame(&[SLICE]);
        assert_eq!(call.got(carol), [SPS_0, PPS_0, idr[0], idr[1], SLICE], "way {way}");
        assert_eq!(call.got(bob), [SLICE, SLICE, idr[0], idr[1], SLICE], "who has had them does not get them again");
        assert_eq!(call.world.counter(Counter::ParameterSetsSent), 2);
        call.frame(&[IDR]);
        assert_eq!((call.got(bob), call.got(carol)), (vec![IDR.into()], vec![IDR.into()]));
    }
}

#[test]
fn the_sets_are_part_of_the_keyframe_for_their_receiver() {
    let mut call = Call::new();
    call.told(&[SPS_0, PPS_0]);
    let bob = call.join();
    call.frame(&[IDR, IDR_SECOND_SLICE]);
    let Receiver { got, ssrc, .. } = &call.receivers[bob];
    let headers: Vec<_> = got.iter().map(|p| (p.header.sequence_number, p.header.timestamp, p.header.marker)).collect();
    assert_eq!(headers, [(1000, 90_000, false), (1001, 90_000, false), (1002, 90_000, false), (1003, 90_000, true)]);
    assert!(got.iter().all(|p| p.header.ssrc == *ssrc && p.header.payload_type == 120));
    let counts: Vec<_> = got.iter().map(|p| p.header.get_extension(3).unwrap()[..].to_vec()).collect();
    assert_eq!(counts, [[0, 1], [0, 2], [0, 3], [0, 4]], "each is counted in transport-wide feedback");
    assert_eq!(call.got(bob), [SPS_0, PPS_0, IDR, IDR_SECOND_SLICE]);
}

#[test]
fn sets_of_sdp_are_used_until_the_stream_brings_others() {
    let mut call = Call::new();
    let long = [SPS_0, &[7; 60]].concat();
    call.told(&[&long, PPS_0]);
    let bob = call.join();
    call.frame(&[IDR]);
    assert_eq!(call.got(bob), [&long[..], PPS_0, IDR]);
    call.frame(&[SPS_0_OTHER, IDR]);
    call.frame(&[SPS_1, PPS_1, SLICE]);
    let carol = call.join();
    call.frame(&[IDR]);
    assert_eq!(call.got(carol), [SPS_0_OTHER, SPS_1, PPS_0, PPS_1, IDR], "by their ids");
    assert_eq!(call.got(bob), [SPS_0_OTHER, IDR, SPS_1, PPS_1, SLICE, IDR]);
    // Another encoder under another SSRC: what SDP told is all that is known of it.
    call.open.ssrc = 0xabc;
    call.world.advance(3_000_000);
    call.frame(&[IDR]);
    call.frame(&[IDR]);
    assert_eq!(call.got(bob), [&long[..], PPS_0, IDR, IDR]);
}

#[test]
fn a_set_that_a_receiver_lost_is_repaired_as_long_as_it_is_the_same() {
    let mut call = Call::new();
    call.told(&[SPS_0, PPS_0]);
    let bob = call.join();
    call.frame(&[IDR]);
    let sent = call.receivers[bob].got.clone();
    let repaired = call.lacks(bob, &[1000, 1001, 1002]);
    assert_eq!(repaired.len(), 3);
    for (repair, original) in repaired.iter().zip(&sent) {
        assert_eq!(repair.payload[..2], original.header.sequence_number.to_be_bytes());
        assert_eq!(repair.payload[2..], original.payload[..]);
        assert_eq!(repair.header.timestamp, original.header.timestamp);
        assert_eq!((repair.header.ssrc, repair.header.payload_type), (call.receivers[bob].rtx_ssrc, 121));
    }
    call.frame(&[SPS_0_OTHER, IDR]);
    call.world.advance(1_000_000);
    let repaired = call.lacks(bob, &[1000, 1002]);
    assert_eq!(repaired.len(), 1, "what would be another packet is not sent under the number");
    assert_eq!(repaired[0].payload[2..], *IDR);
}

#[test]
fn who_asks_for_a_keyframe_gets_the_sets_again() {
    let mut call = Call::new();
    call.told(&[SPS_0, PPS_0]);
    let (bob, carol) = (call.join(), call.join());
    call.frame(&[IDR]);
    call.frame(&[SLICE]);
    for receiver in [bob, carol] {
        call.got(receiver);
    }
    call.asks_for_a_keyframe(bob);
    call.frame(&[SLICE]);
    call.frame(&[IDR, IDR_SECOND_SLICE]);
    call.frame(&[IDR]);
    assert_eq!(call.got(bob), [SLICE, SPS_0, PPS_0, IDR, IDR_SECOND_SLICE, IDR]);
    assert_eq!(call.got(carol), [SLICE, IDR, IDR_SECOND_SLICE, IDR]);
    // Where keyframes bring their sets, nothing is added.
    call.asks_for_a_keyframe(bob);
    call.frame(&[SPS_0, PPS_0, IDR]);
    call.frame(&[IDR]);
    assert_eq!(call.got(bob), [SPS_0, PPS_0, IDR, IDR]);
}

#[test]
fn a_keyframe_is_begun_only_where_nothing_before_it_is_missing() {
    let mut call = Call::new();
    call.told(&[SPS_0, PPS_0]);
    let bob = call.join();
    call.frame(&[SLICE]);
    let late = call.protect(&[SLICE]);
    call.frame(&[IDR]);
    assert!(call.got(bob).is_empty(), "what is missing may have been other sets");
    call.frame(&[IDR]);
    call.arrive(&late);
    assert_eq!(call.got(bob), [SPS_0, PPS_0, IDR], "what is late is older than what began");
    assert_eq!(call.world.counter(Counter::HeldStale), 1);
}

#[test]
fn a_mirror_on_another_worker_has_the_sets_too() {
    for are_told in [true, false] {
        let mut worlds = [World::among(0, 2), World::among(1, 2)];
        let mut alice = worlds[0].connect(SrtpProfile::AeadAes128Gcm);
        let open = worlds[0].stream_open(&alice, Codec::H264);
        worlds[0].commit(&[open.into()]);
        if are_told {
            worlds[0].commit(&told(open.stream, &[SPS_0, PPS_0]));
        }
        let mut seq = 0;
        let mut frame = |worlds: &mut [World; 2], payloads: &[&[u8]]| {
            for (at, payload) in payloads.iter().enumerate() {
                seq += 1;
                let mut packet = packet(open.ssrc, H264_PT, seq, u32::from(seq) * 10, payload);
                packet.header.marker = at + 1 == payloads.len();
                let datagram = alice.protect(&packet);
                worlds[0].receive(alice.remote, &datagram);
            }
            exchange(worlds);
        };
        if !are_told {
            frame(&mut worlds, &[SPS_0, PPS_0]);
        }
        frame(&mut worlds, &[SLICE]);
        let mut bob = worlds[1].connect(SrtpProfile::AeadAes128Gcm);
        let (mirror, tap) = worlds[1].mirror_open(&open, 1);
        // In either order: what the mirror misses comes with its wish for a keyframe.
        if are_told {
            worlds[0].commit(&[tap.into()]);
            exchange(&mut worlds);
            worlds[1].commit(&[mirror.into()]);
        } else {
            worlds[1].commit(&[mirror.into()]);
            worlds[0].commit(&[tap.into()]);
        }
        let slot = worlds[1].slot(&bob);
        worlds[1].route(mirror.stream, slot);
        exchange(&mut worlds);
        exchange(&mut worlds);
        frame(&mut worlds, &[SLICE]);
        frame(&mut worlds, &[IDR]);
        let datagrams = worlds[1].take_sent(bob.remote);
        let payloads: Vec<Bytes> = bob.unprotect(&datagrams).into_iter().map(|packet| packet.payload).collect();
        assert_eq!(payloads, [SPS_0, PPS_0, IDR], "told: {are_told}");
    }
}

#[test]
fn sets_are_described_in_their_order_and_refused_out_of_it() {
    let mut call = Call::new();
    let long = [SPS_0, &[7; 150]].concat();
    let commands = told(call.open.stream, &[&long, PPS_0]);
    assert_eq!(commands.len(), STREAM_SETS_PARTS_MAX);
    let mut refusals = |commands: &[Command]| {
        call.world.commit(commands);
        let reports = call.world.take_reports();
        let refusal = |report: &Report| match report {
            Report::Event(Event::Refused(refused)) => Some(refused.refusal),
            _ => None,
        };
        reports.iter().filter_map(refusal).collect::<Vec<_>>()
    };
    assert_eq!(refusals(&commands[1..2]), [Refusal::Malformed], "not the first part");
    assert_eq!(refusals(&commands), []);
    assert_eq!(refusals(&commands[..1]), [Refusal::Occupied]);
    let stream = call.open.stream;
    let too_long = StreamSets { stream, part: 5, len: 37, bytes: [0; STREAM_SETS_PART_LEN] };
    let mut refusals = |command: Command| {
        call.world.commit(&[command]);
        call.world.take_reports().iter().any(|report| matches!(report, Report::Event(Event::Refused(_))))
    };
    assert!(refusals(too_long.into()));
    assert!(refusals(StreamSets { part: 5, len: 1, ..too_long }.into()), "there is no sixth part");
    assert!(refusals(StreamSets { stream: StreamId::new(999, 1), part: 0, len: 1, ..too_long }.into()));
    call.world.commit(&[Describe {}.into()]);
    call.world.take_reports();
    call.world.forwarder.describe(100, &mut call.world.egress.outbox);
    call.world.collect();
    let echoes: Vec<Command> = call
        .world
        .take_reports()
        .into_iter()
        .filter_map(|report| match report {
            Report::Echo(command @ Command::StreamSets(_)) => Some(command),
            _ => None,
        })
        .collect();
    assert_eq!(echoes, commands);
}
