//! What a worker keeps for repair is shared fairly: a publisher that floods pushes out nobody else's packets.

use proto::plane::*;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;

/// A room of two: who sends video, and who receives it.
struct Room {
    alice: Peer,
    bob: Peer,
    stream: proto::id::StreamId,
    slot: proto::id::SlotId,
}

impl Room {
    fn new(world: &mut World) -> Room {
        let (alice, bob) = (world.connect(GCM), world.connect(GCM));
        let stream = world.publish(&alice, Codec::H264);
        let slot = world.slot(&bob);
        world.route(stream, slot);
        Room { alice, bob, stream, slot }
    }

    fn send(&mut self, world: &mut World, seq: u16, payload: &[u8]) {
        let packet = packet(world.ssrc_of(self.stream), H264_PT, seq, u32::from(seq) * 3000, payload);
        let protected = self.alice.protect(&packet);
        world.receive_in_turn(self.alice.remote, &protected);
    }

    /// Bob asks for these of his packets; how many of them come again.
    fn repaired(&mut self, world: &mut World, seqs: &[u16]) -> usize {
        world.take_sent(self.bob.remote);
        let nacks = nack_pairs_from_sequence_numbers(seqs);
        let nack = TransportLayerNack { sender_ssrc: 1, media_ssrc: 0x2000_0000 + self.slot.index, nacks };
        let protected = self.bob.protect_rtcp(&nack);
        world.receive(self.bob.remote, &protected);
        let datagrams = world.take_sent(self.bob.remote);
        self.bob.unprotect(&datagrams).iter().filter(|packet| packet.header.payload_type == 121).count()
    }
}

#[test]
fn a_flood_in_one_room_leaves_another_room_its_repairs() {
    const PACKETS: u16 = 100;
    const FLOOD: usize = 20_000;
    let mut world = World::new();
    let (mut quiet, mut flooded) = (Room::new(&mut world), Room::new(&mut world));
    for seq in 0..PACKETS {
        quiet.send(&mut world, seq, if seq == 0 { SPS } else { DELTA });
    }
    world.fan_out();
    // Half a second of 39,000 tiny packets a second.
    for n in 0..FLOOD {
        flooded.send(&mut world, n as u16, if n == 0 { SPS } else { &[0x41] });
        if n % 32 == 0 {
            world.fan_out();
            world.sent.clear();
            world.now += 800;
        }
    }
    world.fan_out();
    let first = 1000;
    let asked: Vec<u16> = (first..first + PACKETS).collect();
    assert_eq!(quiet.repaired(&mut world, &asked), usize::from(PACKETS));
    // Who floods has its own newest packets, and no more.
    let last = first + (FLOOD - 1) as u16;
    assert_eq!(flooded.repaired(&mut world, &[last - 1, last]), 2);
    assert_eq!(flooded.repaired(&mut world, &[last - dataplane::config::STREAM_KEPT_MAX as u16]), 0);
}

/// Packets that only pass through a turn do not push out what is kept, however many they are.
#[test]
fn a_flood_of_audio_leaves_video_its_repairs() {
    let mut world = World::new();
    let mut room = Room::new(&mut world);
    let mut singer = world.connect(GCM);
    let microphone = world.publish(&singer, Codec::Opus);
    let slot = world.slot(&room.bob);
    world.route(microphone, slot);
    room.send(&mut world, 0, SPS);
    world.fan_out();
    for seq in 0..10_000u16 {
        let protected = singer.protect(&packet(world.ssrc_of(microphone), OPUS_PT, seq, 0, b"opus"));
        world.receive_in_turn(singer.remote, &protected);
    }
    world.fan_out();
    assert_eq!(room.repaired(&mut world, &[1000]), 1);
}

/// The mirrors of one publisher's streams have its quota too, not each that of a first stream.
#[test]
fn a_publisher_of_another_worker_floods_no_more_than_its_quota() {
    const STREAMS: usize = 9;
    let mut worlds = [World::among(0, 2), World::among(1, 2)];
    let mut quiet = Room::new(&mut worlds[1]);
    for seq in 0..100 {
        quiet.send(&mut worlds[1], seq, if seq == 0 { SPS } else { DELTA });
    }
    worlds[1].fan_out();
    let mut flooder = worlds[0].connect(GCM);
    let receiver = worlds[1].connect(GCM);
    let mut ssrcs = Vec::new();
    for _ in 0..STREAMS {
        let open = worlds[0].stream_open(&flooder, Codec::H264);
        worlds[0].commit(&[open.into()]);
        let (mirror, tap) = worlds[1].mirror_open(&open, 1);
        worlds[1].commit(&[mirror.into()]);
        worlds[0].commit(&[tap.into()]);
        let slot = worlds[1].slot(&receiver);
        worlds[1].route(mirror.stream, slot);
        ssrcs.push(open.ssrc);
    }
    for seq in 0..600 {
        for ssrc in &ssrcs {
            let payload = if seq == 0 { SPS } else { &[0x41] };
            let protected = flooder.protect(&packet(*ssrc, H264_PT, seq, u32::from(seq) * 3000, payload));
            worlds[0].receive(flooder.remote, &protected);
        }
        exchange(&mut worlds);
        worlds[1].sent.clear();
    }
    let asked: Vec<u16> = (1000..1100).collect();
    assert_eq!(quiet.repaired(&mut worlds[1], &asked), 100);
}
