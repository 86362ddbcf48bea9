//! What a publisher may send is what the controlplane said, and no more: bytes and packets of each peer and of each track. What
//! is beyond it is dropped by name; nobody else notices.

use proto::id::StreamId;
use proto::plane::*;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MS: u64 = 1000;
const SECOND: u64 = 1_000_000;
/// Bytes of a packet around its payload: RTP header and tag of AEAD.
const AROUND: u64 = 12 + 16;

fn rate(stream: StreamId, bps_max: u32, packets_max: u32) -> Command {
    StreamRate { stream, bps_max, packets_max }.into()
}

/// A publisher with a track, and one who receives it.
struct Track {
    peer: Peer,
    stream: StreamId,
    receiver: Peer,
    pt: u8,
    seq: u16,
}

impl Track {
    fn new(world: &mut World, codec: Codec) -> Track {
        let (peer, receiver) = (world.connect(GCM), world.connect(GCM));
        let stream = world.publish(&peer, codec);
        let slot = world.slot(&receiver);
        world.route(stream, slot);
        Track { peer, stream, receiver, pt: if codec.is_video() { H264_PT } else { OPUS_PT }, seq: 0 }
    }

    fn send(&mut self, world: &mut World, payload: &[u8]) {
        self.seq = self.seq.wrapping_add(1);
        let packet = packet(world.ssrc_of(self.stream), self.pt, self.seq, u32::from(self.seq), payload);
        let protected = self.peer.protect(&packet);
        world.receive(self.peer.remote, &protected);
    }

    /// Bytes of the RTP that arrived at the receiver since the last call, and packets.
    fn arrived(&mut self, world: &mut World) -> (u64, u64) {
        let datagrams = world.take_sent(self.receiver.remote);
        let packets = self.receiver.unprotect(&datagrams);
        let bytes = packets.iter().map(|packet| packet.payload.len() as u64 + AROUND).sum();
        (bytes, packets.len() as u64)
    }
}

#[test]
fn a_microphone_of_33_megabits_is_cut_to_its_rate_and_the_others_are_heard() {
    const BPS: u32 = 685_500;
    let mut world = World::new();
    let mut flood = Track::new(&mut world, Codec::Opus);
    let mut quiet = Track::new(&mut world, Codec::Opus);
    world.commit(&[rate(flood.stream, BPS, 1185), rate(quiet.stream, BPS, 1185)]);
    let (mut bytes, mut heard, mut sent) = (0, 0, 0);
    const SECONDS: u64 = 30;
    for ms in 0..SECONDS * 1000 {
        // 1,000-byte packets, each 240 µs.
        for _ in 0..4 {
            flood.send(&mut world, &[7; 1000]);
            sent += 1;
        }
        if ms % 20 == 0 {
            quiet.send(&mut world, &[8; 80]);
        }
        world.advance(MS);
        if ms % 100 == 99 {
            bytes += flood.arrived(&mut world).0;
            heard += quiet.arrived(&mut world).1;
        }
    }
    let allowed = u64::from(BPS) / 8 * SECONDS;
    assert!(bytes <= allowed * 11 / 10, "{bytes} of {allowed} bytes");
    assert!(bytes >= allowed * 9 / 10, "{bytes} of {allowed} bytes");
    assert_eq!(heard, SECONDS * 50, "every word of the other");
    world.advance(2 * SECOND); // Until the next tallies.
    let cut = world.counter(Counter::DroppedAudioRate);
    assert!(cut > sent * 9 / 10, "{cut} of {sent} packets");
    assert_eq!(world.streams[&flood.stream].policed, cut);
    assert_eq!(world.streams[&quiet.stream].policed, 0);
    world.check_conservation();
}

#[test]
fn all_tracks_of_a_peer_together_have_its_rate() {
    let mut world = World::new();
    let mut first = Track::new(&mut world, Codec::Opus);
    let second = world.publish(&first.peer, Codec::Opus);
    world.commit(&[PeerRate { peer: first.peer.id, bps_max: 800_000, packets_max: 10_000 }.into()]);
    let mut seq = 0;
    for _ in 0..10_000 {
        first.send(&mut world, &[7; 1000]);
        seq += 1;
        let packet = packet(world.ssrc_of(second), OPUS_PT, seq, 0, &[7; 1000]);
        let protected = first.peer.protect(&packet);
        world.receive(first.peer.remote, &protected);
        world.advance(MS);
    }
    let passed = world.counter(Counter::Forwarded) * (1000 + AROUND);
    assert!((1_000_000..1_300_000).contains(&passed), "{passed} bytes in ten seconds at 100,000 and a burst of two");
}

#[test]
fn tiny_packets_are_cut_by_their_number() {
    let mut world = World::new();
    let mut track = Track::new(&mut world, Codec::Opus);
    world.commit(&[rate(track.stream, 100_000_000, 500)]);
    for _ in 0..5_000 {
        track.send(&mut world, &[7]);
        world.advance(MS / 4);
    }
    let (_, packets) = track.arrived(&mut world);
    assert!((1_600..=1_630).contains(&packets), "{packets} packets in 1.25 s at 500 and a burst of two seconds");
}

#[test]
fn probes_keyframes_and_what_a_network_held_back_pass() {
    let mut world = World::new();
    let mut track = Track::new(&mut world, Codec::H264);
    // A share of 250 kb/s in a room of eight (`controlplane::policy`).
    world.commit(&[rate(track.stream, 1_138_000, 1_410)]);
    track.send(&mut world, SPS);
    // libwebrtc at the start of a call: clusters of 900 and 1,800 kb/s, and later of 3,600, each 15 ms and five packets at least.
    for bps in [900_000, 1_800_000, 3_600_000] {
        for _ in 0..(bps / 8 * 15 / 1000 / 1200).max(5) {
            track.send(&mut world, &[0x41; 1150]);
        }
        world.advance(100 * MS);
    }
    // Ten seconds at the share, a keyframe of 60 kB in each third, and a network that stands still for a second.
    for tenth in 0..100 {
        let packets = if tenth % 30 == 0 { 50 } else { 3 };
        for _ in 0..packets {
            track.send(&mut world, &[0x41; 1150]);
        }
        world.advance(if tenth % 50 < 10 { 0 } else { 111 * MS });
    }
    assert_eq!(world.counter(Counter::DroppedVideoRate), 0);
}

#[test]
fn what_strangers_forge_takes_nothing_from_a_peer() {
    let mut world = World::new();
    let mut track = Track::new(&mut world, Codec::Opus);
    world.commit(&[rate(track.stream, 64_000, 100)]);
    let forged = packet(world.ssrc_of(track.stream), OPUS_PT, 500, 0, &[9; 1200]);
    let mut forged = track.peer.protect(&forged);
    *forged.last_mut().unwrap() ^= 1;
    for _ in 0..2_000 {
        world.receive(track.peer.remote, &forged);
    }
    track.send(&mut world, b"word");
    assert_eq!(track.arrived(&mut world).1, 1);
}

#[test]
fn video_that_is_cut_is_asked_for_a_keyframe_now_and_then_and_not_for_what_was_cut() {
    let mut world = World::new();
    let mut track = Track::new(&mut world, Codec::H264);
    world.commit(&[rate(track.stream, 400_000, 10_000)]);
    track.send(&mut world, SPS);
    world.advance(3 * SECOND);
    track.send(&mut world, SPS);
    let (asked, nacks) = (world.counter(Counter::KeyframeRequestsSent), world.counter(Counter::NackSent));
    for n in 0..10_000 {
        track.send(&mut world, if n % 100 == 0 { &[0x65; 1000] } else { &[0x41; 1000] });
        world.advance(MS);
    }
    let cut = world.counter(Counter::DroppedVideoRate);
    assert!(cut > 9_000, "{cut}");
    let asked = world.counter(Counter::KeyframeRequestsSent) - asked;
    assert!((1..=20).contains(&asked), "{asked} requests in ten seconds");
    assert_eq!(world.counter(Counter::NackSent), nacks, "what was cut is not asked for again");
}

#[test]
fn repairs_and_other_encodings_count_for_their_track() {
    let mut world = World::new();
    let mut track = Track::new(&mut world, Codec::H264);
    let ssrc = world.ssrc_of(track.stream);
    let encodings = StreamEncodings { stream: track.stream, ssrcs: [0x77, 0, 0], rtx_ssrcs: [0; 3] };
    world.commit(&[encodings.into(), rate(track.stream, 80_000, 10_000)]);
    track.send(&mut world, SPS);
    for seq in 0..200 {
        let rtx = packet(ssrc + 0x1_0000, RTX_PT, seq, 0, &[0; 1000]);
        let other = packet(0x77, H264_PT, seq, 0, &[0x41; 1000]);
        for packet in [rtx, other] {
            let protected = track.peer.protect(&packet);
            world.receive(track.peer.remote, &protected);
        }
    }
    assert!(world.counter(Counter::DroppedVideoRate) > 250, "of 400 the burst of 128 KiB passes");
    track.arrived(&mut world);
    track.send(&mut world, &[0x41; 1200]);
    assert_eq!(track.arrived(&mut world).1, 0, "they have used it up");
    world.advance(SECOND);
    track.arrived(&mut world);
    track.send(&mut world, SPS);
    assert_eq!(track.arrived(&mut world).1, 1);
}

#[test]
fn rates_are_changed_described_and_refused_where_nothing_is() {
    let mut world = World::new();
    let mut track = Track::new(&mut world, Codec::Opus);
    let of_peer = PeerRate { peer: track.peer.id, bps_max: 8_000_000, packets_max: 9_000 };
    world.commit(&[rate(track.stream, 0, 0), of_peer.into()]);
    track.send(&mut world, &[7; 100]);
    assert_eq!(track.arrived(&mut world).1, 1, "a burst passes at any rate of bytes: but of one packet");
    track.send(&mut world, &[7; 100]);
    assert_eq!(track.arrived(&mut world).1, 0);
    let now = StreamRate { stream: track.stream, bps_max: 1_000_000, packets_max: 1_000 };
    world.commit(&[now.into()]);
    world.advance(100 * MS);
    track.arrived(&mut world);
    track.send(&mut world, &[7; 100]);
    assert_eq!(track.arrived(&mut world).1, 1);
    world.commit(&[Describe {}.into()]);
    world.forwarder.describe(100, &mut world.egress.outbox);
    world.collect();
    let reports = world.take_reports();
    assert!(reports.contains(&Report::Echo(now.into())) && reports.contains(&Report::Echo(of_peer.into())));
    let nobody = PeerRate { peer: proto::id::PeerId::new(99, 1), ..of_peer };
    let nothing = StreamRate { stream: StreamId::new(99, 1), ..now };
    world.commit(&[nobody.into(), nothing.into()]);
    let refused = world.take_reports().into_iter().filter(|report| matches!(report, Report::Event(Event::Refused(_))));
    assert_eq!(refused.count(), 2);
}
