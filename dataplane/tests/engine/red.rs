//! RED (RFC 2198) of audio: what publishers send of it repairs their losses, and receivers that lose much are sent it.

use std::collections::BTreeSet;

use proto::plane::*;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MS: u64 = 1000;
const RED_PT: u8 = 63;
/// Bob's payload types of Opus and of RED.
const BOBS_PT: u8 = 120;
const BOBS_RED_PT: u8 = 62;
const TRANSPORT_CC: u8 = 3;

/// The payload of Alice's packet of a number.
fn opus(seq: u16) -> Vec<u8> {
    vec![seq as u8; 60 + usize::from(seq % 7)]
}

/// A payload of RED, by the diagram of RFC 2198 §3.
fn red(blocks: &[(u32, Vec<u8>)], pt: u8, newest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (offset, block) in blocks {
        let bits = 1 << 31 | u32::from(pt) << 24 | offset << 10 | block.len() as u32;
        bytes.extend(bits.to_be_bytes());
    }
    bytes.push(pt);
    blocks.iter().for_each(|(_, block)| bytes.extend(block));
    bytes.extend(newest);
    bytes
}

/// The same backwards: payload type, offset and bytes of each block, the newest last.
fn unred(mut bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut headers = Vec::new();
    while bytes[0] & 0x80 != 0 {
        let bits = u32::from_be_bytes(bytes[..4].try_into().unwrap());
        headers.push(((bits >> 24 & 0x7f) as u8, bits >> 10 & 0x3fff, (bits & 0x3ff) as usize));
        bytes = &bytes[4..];
    }
    let newest = bytes[0];
    bytes = &bytes[1..];
    let mut blocks = Vec::new();
    for (pt, offset, len) in headers {
        blocks.push((pt, offset, bytes[..len].to_vec()));
        bytes = &bytes[len..];
    }
    blocks.push((newest, 0, bytes.to_vec()));
    blocks
}

/// Alice's microphone in Bob's slot: her sequence number 100 is his 1000.
struct Call {
    worlds: Vec<World>,
    alice: Peer,
    bob: Peer,
    stream: StreamOpen,
    slot: SlotOpen,
    transport_cc: u16,
}

impl Call {
    fn new(workers: usize, red_pt: u8) -> Call {
        let mut worlds: Vec<World> = (0..workers).map(|index| World::among(index, workers)).collect();
        let alice = worlds[0].connect(GCM);
        let stream = StreamOpen { red_pt: RED_PT, ..worlds[0].stream_open(&alice, Codec::Opus) };
        worlds[0].commit(&[stream.into()]);
        let there = worlds.last_mut().unwrap();
        let bob = there.connect_unlimited(GCM);
        let slot = there.slot_open(&bob);
        let mut here = stream.stream;
        let mut tap = None;
        if workers > 1 {
            let (mirror, of_mirror) = there.mirror_open(&stream, 1);
            there.commit(&[mirror.into()]);
            (here, tap) = (mirror.stream, Some(of_mirror));
        }
        let route = RouteOpen { rtx_pt: BOBS_PT, red_pt, ..there.route_open(here, slot.slot) };
        there.commit(&[slot.into(), route.into()]);
        worlds[0].commit(&tap.map(Command::from).into_iter().collect::<Vec<_>>());
        exchange(&mut worlds);
        Call { worlds, alice, bob, stream, slot, transport_cc: 0 }
    }

    fn protect(&mut self, pt: u8, seq: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = packet(self.stream.ssrc, pt, seq, u32::from(seq) * 960, payload);
        self.transport_cc += 1;
        packet.header.set_extension(TRANSPORT_CC, self.transport_cc.to_be_bytes().to_vec().into()).unwrap();
        self.alice.protect(&packet)
    }

    /// Alice's packet of this number: RED with so many before it, as Chromium sends it.
    fn red(&mut self, seq: u16, earlier: u16) -> Vec<u8> {
        let blocks: Vec<(u32, Vec<u8>)> =
            (1..=earlier).rev().map(|back| (u32::from(back) * 960, opus(seq - back))).collect();
        self.protect(RED_PT, seq, &red(&blocks, OPUS_PT, &opus(seq)))
    }

    fn plain(&mut self, seq: u16) -> Vec<u8> {
        self.protect(OPUS_PT, seq, &opus(seq))
    }

    /// 20 ms later it arrives; what Bob gets.
    fn arrives(&mut self, protected: &[u8]) -> Vec<Vec<u8>> {
        self.advance(20);
        self.worlds[0].receive(self.alice.remote, protected);
        exchange(&mut self.worlds);
        self.for_bob()
    }

    fn advance(&mut self, ms: u64) {
        self.worlds.iter_mut().for_each(|world| world.advance(ms * MS));
        exchange(&mut self.worlds);
    }

    fn for_bob(&mut self) -> Vec<Vec<u8>> {
        let is_media = |bytes: &Vec<u8>| bytes[0] & 0xc0 == 0x80 && !(192..=223).contains(&bytes[1]);
        let sent = self.worlds.last_mut().unwrap().take_sent(self.bob.remote);
        sent.into_iter().filter(is_media).collect()
    }

    /// As Bob sees it: sequence number, timestamp, payload type and payload.
    fn seen(&mut self, datagrams: &[Vec<u8>]) -> Vec<(u16, u32, u8, Vec<u8>)> {
        let packets = self.bob.unprotect(datagrams);
        let seen = packets.iter().map(|packet| {
            let header = &packet.header;
            (header.sequence_number, header.timestamp, header.payload_type, packet.payload.to_vec())
        });
        seen.collect()
    }

    fn bob_lacks(&mut self, seqs: &[u16]) -> Vec<Vec<u8>> {
        let nacks = nack_pairs_from_sequence_numbers(seqs);
        let nack = TransportLayerNack { sender_ssrc: 1, media_ssrc: self.slot.ssrc, nacks };
        let protected = self.bob.protect_rtcp(&nack);
        self.worlds.last_mut().unwrap().receive(self.bob.remote, &protected);
        self.for_bob()
    }

    /// What Alice was asked for.
    fn asked_of_alice(&mut self) -> BTreeSet<u16> {
        let datagrams = self.worlds[0].take_sent(self.alice.remote);
        let said = self.alice.unprotect_rtcp(&datagrams);
        let nacks = said.iter().filter_map(|packet| packet.as_any().downcast_ref::<TransportLayerNack>());
        nacks.flat_map(|nack| &nack.nacks).flat_map(|pair| pair.packet_list()).collect()
    }

    fn counter(&mut self, counter: Counter) -> u64 {
        total(&mut self.worlds, counter)
    }
}

#[test]
fn what_a_publisher_loses_is_in_its_next_packet() {
    for workers in [1, 2] {
        let mut call = Call::new(workers, 0);
        let mut seen = Vec::new();
        let lost = [103, 110, 111, 120];
        let mut late = None;
        for seq in 100..=130 {
            let protected = call.red(seq, u16::from(seq > 100));
            if seq == 103 {
                late = Some(protected.clone());
            }
            if !lost.contains(&seq) {
                let datagrams = call.arrives(&protected);
                seen.extend(call.seen(&datagrams));
            }
        }
        // Of two in a row one is not there; it is asked for.
        let expected: Vec<_> = (100..=130)
            .filter(|seq| *seq != 110)
            .map(|seq| (900 + seq, 90_000 + u32::from(seq - 100) * 960, BOBS_PT, opus(seq)))
            .collect();
        assert_eq!(seen, expected, "in order, plain, and as it was sent");
        assert_eq!(call.counter(Counter::AudioRedRecovered), 3);
        call.advance(100);
        assert_eq!(call.asked_of_alice(), [110].into(), "nothing else is asked for");
        // What was only late comes a second time, and goes nowhere.
        let before = call.counter(Counter::DroppedSrtpReplay);
        assert!(call.arrives(&late.unwrap()).is_empty());
        assert_eq!(call.counter(Counter::DroppedSrtpReplay), before + 1);
    }
}

#[test]
fn the_loss_is_counted_all_the_same() {
    let mut call = Call::new(1, 0);
    for seq in 100..200 {
        let protected = call.red(seq, 1);
        if seq % 10 != 5 {
            call.arrives(&protected);
        }
    }
    call.advance(2_000);
    let tally = call.worlds[0].streams[&call.stream.stream];
    assert_eq!((tally.packets, tally.expected, tally.repaired), (90, 100, 10));
}

#[test]
fn packets_change_from_one_form_to_the_other_and_back() {
    let mut call = Call::new(1, 0);
    let mut seen = Vec::new();
    for seq in 100..160 {
        let protected = if seq / 10 % 2 == 0 { call.plain(seq) } else { call.red(seq, 3) };
        if seq != 125 && seq != 131 && seq != 132 && seq != 133 {
            let datagrams = call.arrives(&protected);
            seen.extend(call.seen(&datagrams).into_iter().map(|(seq, ..)| seq));
        }
    }
    let expected: Vec<u16> = (1000..1060).filter(|seq| *seq != 1025).collect();
    assert_eq!(seen, expected, "three in a row, of a sender of three blocks");
}

#[test]
fn who_loses_much_gets_red_and_the_same_again_when_it_asks() {
    let mut call = Call::new(1, BOBS_RED_PT);
    let mut left: Vec<Vec<u8>> = (100..110)
        .flat_map(|seq| {
            let protected = call.plain(seq);
            call.arrives(&protected)
        })
        .collect();
    let seen = call.seen(&left);
    assert!(seen.iter().all(|(_, _, pt, _)| *pt == BOBS_PT), "who loses nothing gets what was sent");
    // Three losses within two seconds.
    for seq in 110..150 {
        let protected = call.plain(seq);
        left.extend(call.arrives(&protected));
        if seq % 10 == 9 {
            call.bob_lacks(&[900 + seq - 6]);
        }
    }
    assert_eq!(left.len(), 50, "one for each packet, and no copies beside");
    assert!(call.counter(Counter::AudioRedSent) >= 8 && call.counter(Counter::AudioCopies) == 0);
    let fresh = left[10..].to_vec();
    let seen = call.seen(&fresh);
    let (mut single, mut double) = (0, 0);
    for (seq, timestamp, pt, payload) in &seen {
        let own = seq - 900;
        assert_eq!(*timestamp, 90_000 + u32::from(own - 100) * 960);
        if *pt == BOBS_PT {
            assert_eq!(*payload, opus(own));
            continue;
        }
        assert_eq!(*pt, BOBS_RED_PT);
        let blocks = unred(payload);
        let earlier = blocks.len() as u16 - 1;
        let expected: Vec<(u8, u32, Vec<u8>)> =
            (0..=earlier).rev().map(|back| (BOBS_PT, u32::from(back) * 960, opus(own - back))).collect();
        assert_eq!(blocks, expected, "{own}");
        (single, double) = (single + u32::from(earlier == 1), double + u32::from(earlier == 2));
    }
    assert!(single > 0, "{single} and {double}");
    let (last, is_red) = (left.last().unwrap().clone(), seen.last().unwrap().2 == BOBS_RED_PT);
    assert!(is_red);
    call.advance(150);
    assert_eq!(
        call.bob_lacks(&[seen.last().unwrap().0]),
        [last],
        "byte for byte: no keystream is used for anything else"
    );
}

#[test]
fn a_packet_that_begins_anew_has_none_before_it() {
    let mut call = Call::new(1, BOBS_RED_PT);
    for seq in 100..140 {
        let protected = call.plain(seq);
        let datagrams = call.arrives(&protected);
        call.seen(&datagrams);
        if seq % 8 == 7 {
            call.bob_lacks(&[900 + seq - 6]);
        }
    }
    assert!(call.counter(Counter::AudioRedSent) > 0);
    let stream = call.stream.stream;
    call.worlds[0].commit(&[StreamGate { stream, gate: Gate::Closed }.into()]);
    let protected = call.plain(140);
    assert!(call.arrives(&protected).is_empty());
    call.worlds[0].commit(&[StreamGate { stream, gate: Gate::Open }.into()]);
    let protected = call.plain(141);
    let datagrams = call.arrives(&protected);
    let seen = call.seen(&datagrams);
    assert_eq!((seen.len(), seen[0].0, seen[0].2), (1, 1040, BOBS_PT));
    let protected = call.plain(142);
    let datagrams = call.arrives(&protected);
    let seen = call.seen(&datagrams);
    assert_eq!((seen[0].0, seen[0].2, unred(&seen[0].3).len()), (1041, BOBS_RED_PT, 2), "and the next has one");
}

#[test]
fn what_is_no_red_is_dropped_by_its_name() {
    let mut call = Call::new(1, 0);
    let protected = call.red(100, 0);
    assert_eq!(call.arrives(&protected).len(), 1);
    for (seq, payload, counter) in [
        (101, vec![0x80 | OPUS_PT], Counter::DroppedRtpMalformed),
        (102, vec![], Counter::DroppedRtpMalformed),
        (103, vec![0xff; 200], Counter::DroppedRtpMalformed),
        (104, vec![0, 1, 2, 3], Counter::DroppedPayloadType),
    ] {
        let before = call.counter(counter);
        let protected = call.protect(RED_PT, seq, &payload);
        assert!(call.arrives(&protected).is_empty());
        assert_eq!(call.counter(counter), before + 1, "{payload:?}");
    }
    // A block that is empty, of another type, or of no time before, is none.
    let blocks = [(0, opus(104)), (960, Vec::new())];
    let payload = red(&blocks, OPUS_PT, &opus(106));
    let protected = call.protect(RED_PT, 106, &payload);
    let datagrams = call.arrives(&protected);
    assert_eq!(call.seen(&datagrams).len(), 1);
    assert_eq!(call.counter(Counter::AudioRedRecovered), 0);
    // Nor does a route or a stream have RED that cannot.
    let world = &mut call.worlds[0];
    world.take_reports();
    let camera = StreamOpen { red_pt: RED_PT, ..world.stream_open(&call.alice, Codec::H264) };
    let other = world.slot(&call.bob);
    let route = RouteOpen { red_pt: BOBS_RED_PT, rtx_pt: 0, ..world.route_open(call.stream.stream, other) };
    world.commit(&[camera.into(), route.into()]);
    let is_malformed =
        |report: &&Report| matches!(report, Report::Event(Event::Refused(Refused { refusal: Refusal::Malformed, .. })));
    assert_eq!(world.take_reports().iter().filter(is_malformed).count(), 2);
}

#[test]
fn losses_of_a_publisher_are_told_within_a_second_and_no_single_one_is() {
    // How often it was told of so many seconds, of which each packet in so many is lost.
    let told = |every: u16, seconds: u16| {
        let mut call = Call::new(1, 0);
        call.worlds[0].take_reports();
        let mut count = 0;
        for seq in 100..100 + 50 * seconds {
            let protected = call.plain(seq);
            match seq % every {
                1 => call.advance(20),
                _ => drop(call.arrives(&protected)),
            }
            let is_it = |report: &&Report| **report == Report::Event(PeerLosing { peer: call.alice.id }.into());
            count += call.worlds[0].take_reports().iter().filter(is_it).count();
        }
        count
    };
    assert_eq!([told(10, 1), told(4, 1)], [1, 1], "a tenth is seen within a second");
    assert_eq!(told(4, 11), 3, "and again after five");
    assert_eq!(told(50, 60), 0, "a fiftieth is left to the reports");
}
