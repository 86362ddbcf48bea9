//! The numbers of pictures in a slot, whose source changes: they go on by one, a frame keeps one number on whatever way
//! it comes, and what is missing at the publisher stays missing. Read from what left, decrypted by another SRTP stack.

use std::collections::BTreeMap;

use dataplane::picture::PictureNumbers;
use proptest::prelude::*;
use proto::id::{RouteId, SlotId, StreamId};
use proto::plane::*;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const PUBLISHERS: usize = 3;

/// TL0PICIDX and KEYIDX.
type Layers = (u8, u8);
/// A camera as a case describes it: its first picture id, whether that has 15 bits, and the numbers of its layers if it has any.
type Described = (u16, bool, Option<Layers>);

/// A camera in VP8: where its numbers are.
struct Camera {
    peer: Peer,
    stream: StreamId,
    seq: u16,
    timestamp: u32,
    id: u16,
    is_long: bool,
    /// Temporal layers, and with them TL0PICIDX and KEYIDX.
    layers: Option<Layers>,
}

impl Camera {
    /// The packets of the next frame: header's marker, sequence number and payload. The first byte after the descriptor
    /// says whether it is a keyframe, those after it which frame and packet it is.
    fn frame(&mut self, is_key: bool, is_base: bool, count: usize, label: u32) -> Vec<rtp::packet::Packet> {
        self.id = self.id.wrapping_add(1) & if self.is_long { 0x7fff } else { 0x7f };
        self.timestamp = self.timestamp.wrapping_add(3000);
        if let Some((base, key)) = &mut self.layers {
            *base = base.wrapping_add(u8::from(is_base || is_key));
            *key = (*key + u8::from(is_key)) & 0x1f;
        }
        let packets = (0..count).map(|n| {
            self.seq = self.seq.wrapping_add(1);
            let start = if n == 0 { 0x10 } else { 0 };
            let mut payload = vec![0x80 | start, 0x80 | if self.layers.is_some() { 0x70 } else { 0 }];
            match self.is_long {
                true => payload.extend((self.id | 0x8000).to_be_bytes()),
                false => payload.push(self.id as u8),
            }
            if let Some((base, key)) = self.layers {
                payload.extend([base, if is_base { 0 } else { 0x40 } | key]);
            }
            payload.push(u8::from(!is_key));
            payload.extend(label.to_be_bytes());
            let ssrc = 0x1000 + self.stream.index;
            let mut packet = packet(ssrc, H264_PT, self.seq, self.timestamp, &payload);
            packet.header.marker = n + 1 == count;
            packet
        });
        packets.collect()
    }
}

/// A receiver with one slot, and cameras to show in it.
struct Call {
    world: World,
    cameras: Vec<Camera>,
    receiver: Peer,
    slot: SlotId,
    route: Option<RouteId>,
    label: u32,
    /// What left, by sequence number: the frame's label and the payload.
    seen: BTreeMap<u16, (u32, Vec<u8>)>,
}

/// A packet as the receiver has it: label of its frame, and the payload.
fn label_of(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[payload.len() - 4..].try_into().unwrap())
}

impl Call {
    fn new(cameras: &[Described]) -> Call {
        let mut world = World::new();
        let cameras = cameras
            .iter()
            .map(|&(id, is_long, layers)| {
                let peer = world.connect(SrtpProfile::AeadAes128Gcm);
                let stream = world.publish(&peer, Codec::Vp8);
                Camera { peer, stream, seq: id, timestamp: 0, id, is_long, layers }
            })
            .collect();
        let receiver = world.connect(SrtpProfile::AeadAes256Gcm);
        let slot = world.slot(&receiver);
        Call { world, cameras, receiver, slot, route: None, label: 0, seen: BTreeMap::new() }
    }

    fn show(&mut self, camera: usize) {
        let closed = self.route.map(|route| Command::from(RouteClose { route }));
        let open = self.world.route_open(self.cameras[camera].stream, self.slot);
        self.route = Some(open.route);
        self.world.commit(&closed.into_iter().chain([open.into()]).collect::<Vec<_>>());
    }

    /// A camera sends a frame, of which the packets in `lost` do not arrive; the others come in the order `backwards` says.
    fn send(&mut self, camera: usize, is_key: bool, is_base: bool, count: usize, lost: u8, backwards: bool) -> u32 {
        self.label += 1;
        let mut packets = self.cameras[camera].frame(is_key, is_base, count, self.label);
        if backwards {
            packets.reverse();
        }
        for packet in packets.iter().enumerate().filter(|(n, _)| lost >> n & 1 == 0).map(|(_, packet)| packet) {
            self.arrive(camera, packet);
        }
        self.world.now += 33_000;
        self.label
    }

    fn arrive(&mut self, camera: usize, packet: &rtp::packet::Packet) {
        let Camera { peer, .. } = &mut self.cameras[camera];
        let (from, bytes) = (peer.remote, peer.protect(packet));
        self.world.receive(from, &bytes);
        let datagrams = self.world.take_sent(self.receiver.remote);
        for packet in self.receiver.unprotect(&datagrams) {
            let payload = packet.payload.to_vec();
            self.seen.insert(packet.header.sequence_number, (label_of(&payload), payload));
        }
    }

    /// What a repair of that sequence number carries.
    fn repair(&mut self, seq: u16) -> Option<Vec<u8>> {
        self.world.now += 1_000_000;
        let nacks = nack_pairs_from_sequence_numbers(&[seq]);
        let media_ssrc = 0x2000_0000 + self.slot.index;
        let nack = self.receiver.protect_rtcp(&TransportLayerNack { sender_ssrc: 1, media_ssrc, nacks });
        self.world.receive(self.receiver.remote, &nack);
        let datagrams = self.world.take_sent(self.receiver.remote);
        let repaired = self.receiver.unprotect(&datagrams);
        Some(repaired.first()?.payload[2..].to_vec())
    }

    /// The numbers of each frame that left, in the order of sequence numbers.
    fn frames(&self) -> Vec<(u32, PictureNumbers)> {
        let mut frames: Vec<(u32, PictureNumbers)> = Vec::new();
        // The slot begins at 1000 and these calls are short.
        for (label, payload) in self.seen.values() {
            let pictures = PictureNumbers::read(Codec::Vp8, payload);
            match frames.last() {
                Some((last, of_last)) if last == label => {
                    let numbers = |p: &PictureNumbers| (p.id(), p.base(), p.key());
                    assert_eq!(numbers(of_last), numbers(&pictures), "a frame has one number");
                }
                _ => frames.push((*label, pictures)),
            }
        }
        frames
    }
}

#[test]
fn the_next_source_goes_on_with_the_next_number() {
    let mut call = Call::new(&[(0x7ffd, true, Some((254, 31))), (100, true, Some((7, 7)))]);
    call.show(0);
    call.send(0, true, true, 2, 0, false);
    call.send(0, false, false, 1, 0, false);
    call.show(1);
    call.send(1, true, true, 3, 0, false);
    call.send(1, false, true, 1, 0, false);
    let numbers: Vec<_> = call.frames().iter().map(|(_, p)| (p.id(), p.base(), p.key())).collect();
    let expected = [(0x7ffe, 255, 0), (0x7fff, 255, 0), (0, 0, 1), (1, 1, 1)];
    assert_eq!(numbers, expected.map(|(id, base, key)| (Some(id), Some(base), Some(key))));
}

#[test]
fn one_arrival_is_rewritten_for_each_receiver_by_itself() {
    let mut call = Call::new(&[(500, true, None), (9000, true, None)]);
    let other = call.world.connect(SrtpProfile::Aes128CmHmacSha1_80);
    let slot = call.world.slot(&other);
    call.world.route(call.cameras[1].stream, slot);
    call.show(0);
    call.send(0, true, true, 1, 0, false);
    call.show(1);
    let mut other = other;
    call.world.take_sent(other.remote);
    let frame = call.cameras[1].frame(true, true, 1, 77);
    let bytes = call.cameras[1].peer.protect(&frame[0]);
    call.world.receive(call.cameras[1].peer.remote, &bytes);
    let [mine, theirs] = [&mut call.receiver, &mut other].map(|peer| {
        let sent = call.world.take_sent(peer.remote);
        PictureNumbers::read(Codec::Vp8, &peer.unprotect(&sent)[0].payload).id()
    });
    assert_eq!((mine, theirs), (Some(502), Some(9001)), "the second has seen nothing else, and has it as it came");
}

/// VP9 of one spatial layer and two of time, and AV1, which has no such numbers.
#[test]
fn vp9_goes_on_too_and_av1_begins_where_a_sequence_does() {
    for (codec, key, inter, numbers) in [
        (Codec::Vp9, [0xac, 0x80 | 0x12, 0x34, 0x10, 7, 0x49], [0xec, 0x80 | 0x12, 0x35, 0x30, 7, 0x49], true),
        (Codec::Av1, [0x18, 0x0a, 0x0b, 0, 0, 0], [0x10, 0x32, 0x0b, 0, 0, 0], false),
    ] {
        let mut world = World::new();
        let receiver = &mut world.connect(SrtpProfile::AeadAes128Gcm);
        let slot = world.slot(receiver);
        let mut left = Vec::new();
        let mut before = None;
        for n in 0..2u16 {
            let mut publisher = world.connect(SrtpProfile::AeadAes128Gcm);
            let stream = world.publish(&publisher, codec);
            let closed = before.map(|route| Command::from(RouteClose { route }));
            let open = world.route_open(stream, slot);
            before = Some(open.route);
            world.commit(&closed.into_iter().chain([open.into()]).collect::<Vec<_>>());
            for (i, payload) in [&inter, &key, &inter].into_iter().enumerate() {
                let packet = packet(world.ssrc_of(stream), H264_PT, 100 * n + i as u16, i as u32 * 3000, payload);
                let bytes = publisher.protect(&packet);
                world.now += 33_000;
                world.receive(publisher.remote, &bytes);
                let datagrams = world.take_sent(receiver.remote);
                left.extend(receiver.unprotect(&datagrams).into_iter().map(|packet| packet.payload.to_vec()));
            }
        }
        assert_eq!(left.len(), 4, "what came before each keyframe was withheld");
        let read = |payload: &Vec<u8>| {
            let pictures = PictureNumbers::read(codec, payload);
            (pictures.id(), pictures.base())
        };
        if numbers {
            let expected = [(0x1234, 7), (0x1235, 7), (0x1236, 8), (0x1237, 8)];
            assert_eq!(left.iter().map(read).collect::<Vec<_>>(), expected.map(|(id, base)| (Some(id), Some(base))));
        } else {
            assert_eq!(left, [key, inter, key, inter], "as they came");
        }
    }
}

/// What a case does: which camera is shown; or a frame of one, its kind, its packets, and which of them are lost.
#[derive(Clone, Debug)]
enum Step {
    Show(usize),
    Frame { camera: usize, is_key: bool, is_base: bool, count: usize, lost: u8, backwards: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let frame = (0..PUBLISHERS, prop::bool::weighted(0.2), any::<bool>(), 1..4usize, any::<u8>(), any::<bool>())
        .prop_map(|(camera, is_key, is_base, count, lost, backwards)| {
            // Half of the frames arrive whole.
            let lost = if lost < 128 { 0 } else { lost };
            Step::Frame { camera, is_key, is_base, count, lost, backwards }
        });
    prop_oneof![1 => (0..PUBLISHERS).prop_map(Step::Show), 9 => frame]
}

fn camera() -> impl Strategy<Value = Described> {
    (0..0x8000u16, prop::bool::weighted(0.7), prop::option::of((any::<u8>(), 0..32u8)))
        .prop_map(|(id, is_long, layers)| (if is_long { id } else { id & 0x7f }, is_long, layers))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn numbers_go_on_whatever_is_shown_and_lost(
        cameras in prop::collection::vec(camera(), PUBLISHERS),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut call = Call::new(&cameras);
        // For each frame's label, the camera and its picture there.
        let mut sources: BTreeMap<u32, (usize, u16, Option<Layers>)> = BTreeMap::new();
        call.show(0);
        for step in steps {
            match step {
                Step::Show(camera) => call.show(camera),
                Step::Frame { camera, is_key, is_base, count, lost, backwards } => {
                    let label = call.send(camera, is_key, is_base, count, lost, backwards);
                    sources.insert(label, (camera, call.cameras[camera].id, call.cameras[camera].layers));
                }
            }
        }
        let frames = call.frames();
        for pair in frames.windows(2) {
            let [(before, was), (label, is)] = pair else { unreachable!() };
            let ((of_before, id_before, layers_before), (of, id, layers)) = (sources[before], sources[label]);
            let is_long = cameras[of].1;
            let mask = if is_long { 0x7fff } else { 0x7f };
            let moved = is.id().unwrap().wrapping_sub(was.id().unwrap()) & mask;
            let input_moved = id.wrapping_sub(id_before) & mask;
            if of_before == of {
                // The same camera, which may have been away in between: then its numbers close up.
                prop_assert!(moved == input_moved || moved == 1, "{was:?} then {is:?} from {id_before} to {id}");
            } else if cameras[of_before].1 || !is_long {
                prop_assert_eq!(moved, 1, "a switch from {:?} to {:?}", was, is);
            }
            if let (Some((base_before, _)), Some((base, _)), true) = (layers_before, layers, of_before == of) {
                let moved = is.base().unwrap().wrapping_sub(was.base().unwrap());
                prop_assert!(moved == base.wrapping_sub(base_before) || moved == 1);
            } else if let (Some(was), Some(is)) = (was.base(), is.base()) {
                prop_assert_eq!(is.wrapping_sub(was), 1, "a switch begins at a keyframe, which is of the base layer");
            }
        }
        // A repair of any packet that left carries the same bytes.
        for (seq, (label, payload)) in call.seen.clone().into_iter().rev().take(8) {
            if let Some(repaired) = call.repair(seq) {
                prop_assert_eq!(&repaired, &payload, "frame {} in {}", label, seq);
            }
        }
    }
}
