//! Audio under loss: NACK both ways, answered by the same packet again (RFC 4585 without RFC 4588).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use proptest::prelude::*;
use proto::plane::*;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MS: u64 = 1000;
/// Ids of the header extensions of these tests.
const TRANSPORT_CC: u8 = 3;
const AUDIO_LEVEL: u8 = 1;

/// Alice's microphone in Bob's slot: sequence numbers 100 → 1000.
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    ssrc: u32,
    slot: proto::id::SlotId,
    route: RouteOpen,
    transport_cc: u16,
}

impl Call {
    fn new(profile: SrtpProfile) -> Call {
        let mut world = World::new();
        let (alice, bob) = (world.connect(GCM), world.connect(profile));
        let stream = world.publish(&alice, Codec::Opus);
        let slot = world.slot(&bob);
        let open = world.route_open(stream, slot);
        let route = RouteOpen { rtx_pt: open.pt, ..open };
        world.commit(&[route.into()]);
        let ssrc = world.ssrc_of(stream);
        Call { world, alice, bob, ssrc, slot, route, transport_cc: 0 }
    }

    /// Alice's packet of this number, under the next transport-cc number as libwebrtc sends it, also for the second time.
    fn audio(&mut self, seq: u16) -> Vec<u8> {
        let mut packet = packet(self.ssrc, OPUS_PT, seq, u32::from(seq) * 960, &[seq as u8; 80]);
        self.transport_cc += 1;
        packet.header.set_extension(TRANSPORT_CC, self.transport_cc.to_be_bytes().to_vec().into()).unwrap();
        packet.header.set_extension(AUDIO_LEVEL, Bytes::copy_from_slice(&[seq as u8 & 0x7f])).unwrap();
        self.alice.protect(&packet)
    }

    /// It arrives; the datagrams of media that leave for Bob.
    fn arrives(&mut self, protected: &[u8]) -> Vec<Vec<u8>> {
        self.world.receive(self.alice.remote, protected);
        self.media_for_bob()
    }

    fn media_for_bob(&mut self) -> Vec<Vec<u8>> {
        let is_media = |bytes: &Vec<u8>| bytes[0] & 0xc0 == 0x80 && !(192..=223).contains(&bytes[1]);
        self.world.take_sent(self.bob.remote).into_iter().filter(is_media).collect()
    }

    fn sends(&mut self, seq: u16) -> Vec<u8> {
        let protected = self.audio(seq);
        self.world.advance(20 * MS);
        let mut left = self.arrives(&protected);
        assert_eq!(left.len(), 1, "{seq}");
        left.remove(0)
    }

    fn bob_lacks(&mut self, seqs: &[u16]) -> Vec<Vec<u8>> {
        let nacks = nack_pairs_from_sequence_numbers(seqs);
        let nack = TransportLayerNack { sender_ssrc: 1, media_ssrc: 0x2000_0000 + self.slot.index, nacks };
        let protected = self.bob.protect_rtcp(&nack);
        self.world.receive(self.bob.remote, &protected);
        self.media_for_bob()
    }

    fn asked_of_alice(&mut self) -> Vec<u16> {
        let datagrams = self.world.take_sent(self.alice.remote);
        let said = self.alice.unprotect_rtcp(&datagrams);
        let nacks = said.iter().filter_map(|packet| packet.as_any().downcast_ref::<TransportLayerNack>());
        nacks.flat_map(|nack| &nack.nacks).flat_map(|pair| pair.packet_list()).collect()
    }
}

#[test]
fn a_receivers_nack_for_audio_is_answered_by_the_same_bytes() {
    for profile in [GCM, SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmHmacSha1_80] {
        let mut call = Call::new(profile);
        let left: Vec<Vec<u8>> = (100..110).map(|seq| call.sends(seq)).collect();
        // 1003 and 1005 were lost on their way to Bob.
        let arrived = left.iter().enumerate().filter(|(n, _)| ![3, 5].contains(n)).map(|(_, bytes)| bytes.clone());
        let arrived: Vec<Vec<u8>> = arrived.collect();
        assert_eq!(call.bob.unprotect(&arrived).len(), 8);
        assert!(call.bob_lacks(&[1009]).is_empty(), "it is still on its way");
        call.world.advance(100 * MS);
        let again = call.bob_lacks(&[1003, 1005, 1042, 40_000]);
        assert_eq!(
            again,
            [left[3].clone(), left[5].clone()],
            "byte for byte, so no keystream is used for anything else"
        );
        let packets = call.bob.unprotect(&again);
        assert_eq!(
            packets.iter().map(|p| (p.header.sequence_number, p.payload[0])).collect::<Vec<_>>(),
            [(1003, 103), (1005, 105)]
        );
        assert!(call.bob_lacks(&[1003]).is_empty(), "asked again within a round trip");
        call.world.advance(150 * MS);
        assert_eq!(call.bob_lacks(&[1003]), [left[3].clone()]);
        let counted = [Counter::AudioResent, Counter::NackThrottled, Counter::NackMissed, Counter::RtxSent];
        assert_eq!(counted.map(|counter| call.world.counter(counter)), [3, 2, 2, 0]);
        // Its numbers went on meanwhile as if nothing had happened.
        let next = call.sends(110);
        assert_eq!(call.bob.unprotect(&[next])[0].header.sequence_number, 1010);
    }
}

#[test]
fn what_was_not_negotiated_is_not_sent_again() {
    let mut call = Call::new(GCM);
    call.world.commit(&[RouteClose { route: call.route.route }.into()]);
    let route = RouteOpen { route: proto::id::RouteId::new(call.route.route.index, 2), rtx_pt: 0, ..call.route };
    call.world.commit(&[route.into()]);
    call.sends(100);
    call.sends(101);
    assert!(call.bob_lacks(&[1000]).is_empty());
    assert_eq!(call.world.counter(Counter::NackMissed), 1);
    // Video is repaired by RTX or not at all.
    let camera = call.world.publish(&call.alice, Codec::H264);
    let slot = call.world.slot(&call.bob);
    let open = call.world.route_open(camera, slot);
    call.world.take_reports();
    call.world.commit(&[RouteOpen { rtx_pt: open.pt, ..open }.into()]);
    let is_refused =
        |report: &Report| matches!(report, Report::Event(Event::Refused(Refused { refusal: Refusal::Malformed, .. })));
    assert!(call.world.take_reports().iter().any(is_refused));
}

/// Whatever has changed since a packet left, it leaves again as it was, or not at all.
#[test]
fn under_other_extensions_nothing_leaves_again() {
    let mut call = Call::new(GCM);
    let left: Vec<Vec<u8>> = (100..103).map(|seq| call.sends(seq)).collect();
    call.world.advance(120 * MS);
    let mut ids = IDS;
    ids.swap(Extension::AbsSendTime as usize, Extension::TransportCc as usize);
    call.world.commit(&[PeerExtensions { peer: call.bob.id, ids }.into()]);
    assert!(call.bob_lacks(&[1001]).is_empty());
    call.world.commit(&[PeerExtensions { peer: call.bob.id, ids: IDS }.into()]);
    call.world.advance(150 * MS);
    assert_eq!(call.bob_lacks(&[1001]), [left[1].clone()], "as it was");
}

#[test]
fn a_publishers_missing_audio_is_asked_for_and_comes_as_itself() {
    let mut call = Call::new(GCM);
    call.sends(100);
    // 101 and 102 are lost on their way to us.
    let left = call.sends(103);
    call.world.advance(15 * MS);
    assert_eq!(call.asked_of_alice(), [101, 102]);
    let again = call.audio(101);
    let got = call.arrives(&again);
    let packets = call.bob.unprotect(&[vec![left], got].concat());
    let seqs: Vec<u16> = packets.iter().map(|p| p.header.sequence_number).collect();
    assert_eq!(seqs, [1003, 1001], "it fills its gap");
    assert!(call.arrives(&again).is_empty(), "and a second one is a replay");
    call.world.advance(150 * MS);
    assert_eq!(call.asked_of_alice(), [102; 3], "once more soon, and twice a round trip later");
    call.world.advance(1_000 * MS);
    assert!(call.asked_of_alice().len() <= 2, "it would come too late");
    let counted = [Counter::Recovered, Counter::Lost, Counter::KeyframeRequestsSent].map(|c| call.world.counter(c));
    assert_eq!(counted, [1, 1, 0], "audio has no keyframes");
}

#[test]
fn who_loses_many_is_sent_each_packet_twice_ahead_of_the_next() {
    let mut call = Call::new(GCM);
    let mut left: Vec<Vec<u8>> = Vec::new();
    let mut seq = 100;
    let mut send = |call: &mut Call| {
        let protected = call.audio(seq);
        seq += 1;
        call.world.advance(20 * MS);
        call.arrives(&protected)
    };
    for n in 0..60 {
        let sent = send(&mut call);
        assert_eq!(sent.len(), 1, "at first once");
        left.extend(sent);
        if n % 20 == 19 {
            assert_eq!(call.bob_lacks(&[1000 + n - 10]).len(), 1);
        }
    }
    for _ in 0..100 {
        let sent = send(&mut call);
        assert_eq!(sent.len(), 2);
        assert_eq!(&sent[0], left.last().expect("the one before"), "byte for byte");
        left.push(sent[1].clone());
    }
    // Of two the receiver takes one.
    assert_eq!(call.bob.unprotect(&left).len(), 160);
    // The network is good again: nobody asks for anything.
    call.world.advance(6_000 * MS);
    assert_eq!(send(&mut call).len(), 1);
    assert_eq!(call.world.counter(Counter::AudioCopies), 100);
    assert_eq!(call.world.counter(Counter::AudioResent), 3);
}

/// What Bob asks for, and what happens meanwhile.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Alice sends; so many of her packets before it were lost on their way to us.
    Send(u16),
    /// One of the lost ones comes after all: the so many-th before the newest.
    Late(u16),
    /// Bob asks for the so many-th before the newest.
    Ask(u16),
    /// Another microphone, or the first again, is routed into the slot.
    Switch,
    /// Other extension ids.
    Renumber(bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4u16).prop_map(Step::Send),
        2 => (1..40u16).prop_map(Step::Late),
        6 => (0..100u16).prop_map(Step::Ask),
        1 => Just(Step::Switch),
        1 => any::<bool>().prop_map(Step::Renumber),
        1 => (0..300u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// The law of the keystream: under one SRTP index of the slot one datagram leaves, once or several times.
    #[test]
    fn one_index_is_one_datagram(steps in prop::collection::vec(step(), 1..300)) {
        let mut call = Call::new(GCM);
        let second = call.world.publish(&call.alice, Codec::Opus);
        let ssrcs = [call.ssrc, call.world.ssrc_of(second)];
        let streams = [call.route.stream, second];
        let (mut live, mut seq) = (0, [100u16, 500]);
        let mut generation = 1;
        let mut left: HashMap<u16, Vec<u8>> = HashMap::new();
        let mut sent_again = HashSet::new();
        for step in steps {
            let datagrams = match step {
                Step::Send(lost) => {
                    call.ssrc = ssrcs[live];
                    seq[live] += lost + 1;
                    let protected = call.audio(seq[live]);
                    call.world.advance(20 * MS);
                    call.arrives(&protected)
                }
                Step::Late(before) => {
                    call.ssrc = ssrcs[live];
                    let protected = call.audio(seq[live].wrapping_sub(before));
                    call.arrives(&protected)
                }
                Step::Ask(before) => {
                    let highest = left.keys().max().copied().unwrap_or(1000);
                    let again = call.bob_lacks(&[highest.wrapping_sub(before)]);
                    sent_again.extend(again.iter().cloned());
                    again
                }
                Step::Switch => {
                    live = 1 - live;
                    generation += 1;
                    let route = proto::id::RouteId::new(call.route.route.index, generation);
                    call.world.commit(&[RouteClose { route: call.route.route }.into()]);
                    call.route = RouteOpen { route, stream: streams[live], ..call.route };
                    call.world.commit(&[call.route.into()]);
                    call.media_for_bob()
                }
                Step::Renumber(is_other) => {
                    let mut ids = IDS;
                    if is_other {
                        ids[Extension::AudioLevel as usize] = 7;
                    }
                    call.world.commit(&[PeerExtensions { peer: call.bob.id, ids }.into()]);
                    call.media_for_bob()
                }
                Step::Wait(ms) => {
                    call.world.advance(ms * MS);
                    call.media_for_bob()
                }
            };
            for datagram in datagrams {
                // Sequence numbers do not come round in so few packets: each is one index.
                let number = u16::from_be_bytes([datagram[2], datagram[3]]);
                let first = left.entry(number).or_insert_with(|| datagram.clone());
                prop_assert_eq!(&*first, &datagram, "index {} has left with other bytes", number);
            }
        }
        prop_assert_eq!(call.world.counter(Counter::AudioResent) > 0, !sent_again.is_empty());
    }
}
