//! Packets of one turn are fanned out together, receiver by receiver. Nobody can tell by what arrives.

use proptest::prelude::*;
use proto::plane::*;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const VP8_PT: u8 = 96;
/// A VP8 payload descriptor with a 15-bit PictureID, and the first byte of a keyframe, or of another frame.
const VP8_KEY: &[u8] = &[0x90, 0x80, 0x80, 1, 0, 0, 0, 0];
const VP8_DELTA: &[u8] = &[0x90, 0x80, 0x80, 2, 1, 0, 0, 0];

/// Two who send, with a camera in two codecs and a microphone each, and three who see and hear both.
struct Room {
    world: World,
    senders: [Peer; 2],
    /// Camera and microphone of each.
    streams: [[proto::id::StreamId; 2]; 2],
    receivers: Vec<Peer>,
}

impl Room {
    fn new() -> Self {
        let mut world = World::new();
        let senders = [world.connect(GCM), world.connect(SrtpProfile::Aes128CmHmacSha1_80)];
        let streams = [0, 1].map(|i| {
            let camera = world.publish(&senders[i], Codec::H264);
            world.commit(&[StreamCodec { stream: camera, pt: VP8_PT, rtx_pt: 0, codec: Codec::Vp8 }.into()]);
            [camera, world.publish(&senders[i], Codec::Opus)]
        });
        let receivers = [GCM, SrtpProfile::Aes128CmHmacSha1_80, GCM].map(|profile| {
            let peer = world.connect(profile);
            for stream in streams.as_flattened() {
                let slot = world.slot(&peer);
                let route = world.route(*stream, slot);
                world.commit(&[RouteCodec { route, pt: 122, rtx_pt: 0, codec: Codec::Vp8 }.into()]);
            }
            peer
        });
        world.take_reports();
        Room { world, senders, streams, receivers: receivers.into() }
    }

    /// What each receiver got, by SSRC and in order; and the fates of packets.
    fn outcome(mut self) -> (Vec<Vec<rtp::packet::Packet>>, Vec<u64>) {
        let got = self.receivers.iter_mut().map(|receiver| {
            let datagrams = self.world.take_sent(receiver.remote);
            let mut packets = receiver.unprotect(&datagrams);
            packets.sort_by_key(|packet| packet.header.ssrc);
            for packet in &mut packets {
                // It counts all of the receiver's packets as they leave, whichever stream they are of.
                packet.header.set_extension(3, vec![0, 0].into()).unwrap();
            }
            packets
        });
        let got = got.collect();
        self.world.check_conservation();
        let counters = [
            Counter::Forwarded,
            Counter::Sent,
            Counter::SentBytes,
            Counter::HeldForKeyframe,
            Counter::HeldStale,
            Counter::HeldCodec,
            Counter::DroppedSrtpReplay,
        ];
        (got, counters.map(|counter| self.world.counter(counter)).into())
    }
}

/// One packet: who sends, of which track and how, and whether the turn ends behind it.
#[derive(Clone, Copy, Debug)]
struct Step {
    sender: usize,
    kind: Kind,
    /// Sequence numbers that are left out before it.
    gap: u16,
    marker: bool,
    ends_turn: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Audio,
    Key,
    Delta,
    Vp8Key,
    Vp8Delta,
    /// The camera goes on under another SSRC.
    Rename,
    /// One that came before comes again.
    Replay,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        2 => Just(Kind::Audio),
        2 => Just(Kind::Key),
        8 => Just(Kind::Delta),
        1 => Just(Kind::Vp8Key),
        2 => Just(Kind::Vp8Delta),
        1 => Just(Kind::Rename),
        1 => Just(Kind::Replay),
    ];
    let gap = prop_oneof![8 => Just(0u16), 1 => 1..4u16, 1 => Just(3000)];
    (0..2usize, kind, gap, any::<bool>(), prop::bool::weighted(0.15))
        .prop_map(|(sender, kind, gap, marker, ends_turn)| Step { sender, kind, gap, marker, ends_turn })
}

/// The datagrams of these steps, protected once for both rooms, and before which of them there is a silence.
fn datagrams(room: &mut Room, steps: &[Step]) -> Vec<(usize, Vec<u8>, bool)> {
    let mut seqs = [[100u16; 2]; 2];
    let mut renames = [0u32; 2];
    let mut former = Vec::new();
    let mut all = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        let Step { sender, kind, gap, marker, .. } = *step;
        if kind == Kind::Replay {
            all.extend(former.get(i / 2).cloned());
            continue;
        }
        let track = usize::from(kind == Kind::Audio);
        if kind == Kind::Rename {
            renames[sender] += 1;
        }
        let seq = &mut seqs[sender][track];
        *seq = seq.wrapping_add(1 + gap);
        let (pt, payload) = match kind {
            Kind::Audio => (OPUS_PT, &b"opus"[..]),
            Kind::Key | Kind::Rename => (H264_PT, SPS),
            Kind::Vp8Key => (VP8_PT, VP8_KEY),
            Kind::Vp8Delta => (VP8_PT, VP8_DELTA),
            _ => (H264_PT, DELTA),
        };
        let payload = [payload, &[i as u8; 30][..i % 30]].concat();
        let stream = room.streams[sender][track];
        let ssrc = room.world.ssrc_of(stream) + if track == 0 { renames[sender] << 20 } else { 0 };
        let mut packet = packet(ssrc, pt, *seq, 3000 * i as u32, &payload);
        packet.header.marker = marker;
        let mid = stream.index.to_string();
        packet.header.set_extension(4, mid.into_bytes().into()).unwrap();
        let datagram = (sender, room.senders[sender].protect(&packet), kind == Kind::Rename);
        former.push(datagram.clone());
        all.push(datagram);
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_burst_leaves_as_its_packets_would_one_by_one(steps in prop::collection::vec(step(), 1..120)) {
        let mut single = Room::new();
        let mut gathered = Room::new();
        let datagrams = datagrams(&mut single, &steps);
        for ((sender, bytes, is_after_silence), step) in datagrams.iter().zip(steps.iter().cycle()) {
            if *is_after_silence {
                single.world.advance(dataplane::config::SSRC_SILENCE);
                gathered.world.advance(dataplane::config::SSRC_SILENCE);
            }
            single.world.receive(single.senders[*sender].remote, bytes);
            gathered.world.receive_in_turn(gathered.senders[*sender].remote, bytes);
            if step.ends_turn {
                gathered.world.fan_out();
            }
        }
        gathered.world.fan_out();
        prop_assert_eq!(gathered.outcome(), single.outcome());
    }
}

/// A burst for more receivers than are flushed at once: each gets all of it, in order and together.
#[test]
fn a_wide_burst_is_handed_over_in_parts_and_stays_whole_for_each() {
    const RECEIVERS: usize = 400;
    const PACKETS: usize = 5;
    let mut world = World::new();
    let mut alice = world.connect(GCM);
    let stream = world.publish(&alice, Codec::H264);
    let mut receivers: Vec<Peer> = (0..RECEIVERS).map(|_| world.connect(GCM)).collect();
    for receiver in &receivers {
        let slot = world.slot(receiver);
        world.route(stream, slot);
    }
    for i in 0..PACKETS {
        let sent = packet(world.ssrc_of(stream), H264_PT, i as u16, 0, [SPS, DELTA][usize::from(i > 0)]);
        let protected = alice.protect(&sent);
        world.receive_in_turn(alice.remote, &protected);
    }
    assert_eq!(world.counter(Counter::Sent), 0, "they wait");
    let handed_over = world.fan_out();
    assert_eq!(handed_over, RECEIVERS * PACKETS / dataplane::config::PACKETS_ENOUGH, "one for each part but the last");
    let neighbours = world.sent.iter().zip(world.sent.iter().skip(1)).filter(|(a, b)| a.0 == b.0).count();
    assert_eq!(neighbours, RECEIVERS * (PACKETS - 1), "no burst was torn");
    for receiver in &mut receivers {
        let datagrams = world.take_sent(receiver.remote);
        let seqs: Vec<u16> = receiver.unprotect(&datagrams).iter().map(|p| p.header.sequence_number).collect();
        assert_eq!(seqs, Vec::from_iter(1000..1000 + PACKETS as u16));
    }
}

/// An outbox that cannot be emptied, because a device has stalled, holds up nothing: what finds no room is refused and counted.
#[test]
fn fanning_out_ends_though_nothing_is_handed_over() {
    const RECEIVERS: u64 = 300;
    let mut world = World::new();
    let mut alice = world.connect(GCM);
    let stream = world.publish(&alice, Codec::Opus);
    for _ in 0..RECEIVERS {
        let receiver = world.connect(GCM);
        let slot = world.slot(&receiver);
        world.route(stream, slot);
    }
    for seq in 0..8 {
        let protected = alice.protect(&packet(world.ssrc_of(stream), OPUS_PT, seq, 0, b"opus"));
        world.receive_in_turn(alice.remote, &protected);
    }
    world.is_stalled = true;
    world.forwarder.fan_out(world.now, &mut world.egress);
    world.forwarder.flush(world.now, &mut world.egress);
    let (sent, refused) = (world.counter(Counter::Sent), world.counter(Counter::SendFailed));
    assert_eq!(sent, dataplane::config::OUTBOX_PACKETS_MAX as u64);
    assert_eq!(sent + refused, 8 * RECEIVERS);
}

/// A keyframe in the midst of a burst begins it for those who wait, and nobody asks for another.
#[test]
fn who_gets_a_keyframe_with_the_burst_asks_for_none() {
    let mut world = World::new();
    let mut alice = world.connect(GCM);
    let stream = world.publish(&alice, Codec::H264);
    let mut bob = world.connect(GCM);
    let slot = world.slot(&bob);
    world.route(stream, slot);
    world.advance(1_000_000);
    world.take_sent(alice.remote);
    for (i, payload) in [DELTA, SPS, DELTA].into_iter().enumerate() {
        let protected = alice.protect(&packet(world.ssrc_of(stream), H264_PT, i as u16, 0, payload));
        world.receive_in_turn(alice.remote, &protected);
    }
    let asked = world.counter(Counter::KeyframeRequestsSent);
    world.fan_out();
    world.advance(5_000_000);
    let datagrams = world.take_sent(bob.remote);
    assert_eq!(bob.unprotect(&datagrams).len(), 2);
    assert_eq!(world.counter(Counter::HeldForKeyframe), 1);
    assert_eq!(world.counter(Counter::KeyframeRequestsSent), asked);
}
