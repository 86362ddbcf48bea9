//! Video with dependency descriptors (AV1 RTP payload format, Annex A), in virtual time: temporal layers of H.264, spatial layers of AV1 in full SVC and
//! in K-SVC. What a receiver is sent it can decode: each frame refers to frames that it was sent, sequence numbers close up, frame
//! numbers go on at a change of the source, and the last packet of a picture has the marker. What is cut short is a named outcome.

use std::collections::BTreeSet;

use dataplane::dependency::{Frame, Structure};
use proto::plane::*;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::layered::*;
use crate::world::*;

/// Structures of Chromium's L1T3, L3T3_KEY and L3T3, in the first descriptor of a keyframe without its decode targets.
const L1T3: &str = "c00001800214eaa860414d1410208426";
const L3T3_KEY: &str = "c0000480081485214eaaaaa8000600004000100002aa80a8000600004000100002a000a800060000400016d549241b5524906d\
                        54923157e001974ca864330e222396eca8655304224390eca87753013f00b3027f016704ff02cf";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Bits from the highest on.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(mut self, value: u32, count: u32) -> Self {
        self.0.extend((0..count).rev().map(|bit| value >> bit & 1 != 0));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().enumerate().map(|(at, bit)| u8::from(*bit) << (7 - at)).sum();
        self.0.chunks(8).map(byte).collect()
    }
}

/// A structure of full SVC with two spatial layers and no temporal ones: the template of a keyframe's base, of a base, and of the layer above it.
fn l2t1(number: u16) -> Vec<u8> {
    let head = Bits::default().put(0xc0, 8).put(number.into(), 16).put(0b10000, 5);
    let layers = head.put(0, 6).put(1, 5).put(0, 2).put(2, 2).put(0, 2).put(3, 2);
    // Decode targets: the base, both. S S, S R, - S, - R.
    let dtis = layers.put(0b1010, 4).put(0b1011, 4).put(0b0010, 4).put(0b0011, 4);
    let one = |bits: Bits, fdiff: u32| bits.put(1, 1).put(fdiff - 1, 4);
    let fdiffs = one(one(one(one(dtis.put(0, 1), 2).put(0, 1), 1).put(0, 1), 2), 1).put(0, 1);
    // No chains; 320×180 and 640×360.
    fdiffs.put(0, 1).put(1, 1).put(319, 16).put(179, 16).put(639, 16).put(359, 16).bytes()
}

/// Which layers a camera has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    H264L1T3,
    L2T1,
    L3T3Key,
}

struct Svc<const IS_H264: bool> {
    mode: Mode,
    structure: Structure,
    number: u16,
    /// Pictures since the last keyframe.
    place: u16,
    /// Bytes of a packet of each spatial layer.
    lens: [usize; 3],
}

impl<const IS_H264: bool> Svc<IS_H264> {
    fn new(mode: Mode, lens: [usize; 3]) -> Self {
        let mut structure = Structure::default();
        structure.read(&Self::key(mode, 0), true).expect("a structure");
        Svc { mode, structure, number: 65_530, place: 0, lens }
    }

    /// The first descriptor of a keyframe.
    fn key(mode: Mode, number: u16) -> Vec<u8> {
        let mut descriptor = match mode {
            Mode::H264L1T3 => bytes(L1T3),
            Mode::L2T1 => l2t1(number),
            Mode::L3T3Key => bytes(L3T3_KEY),
        };
        descriptor[1..3].copy_from_slice(&number.to_be_bytes());
        descriptor
    }

    fn layers(&self) -> u16 {
        u16::from(self.structure.spatial_max()) + 1
    }

    /// How far before it the frames are that a frame refers to.
    fn references(&self, spatial: u16, temporal: u8) -> Vec<u16> {
        let picture = self.layers();
        let is_inter = spatial > 0 && (self.mode == Mode::L2T1 || self.place == 0);
        let before = match (self.place, self.mode, temporal) {
            (0, ..) => None,
            (_, Mode::L2T1, _) => Some(picture),
            (_, _, 0) => Some(4 * picture),
            (_, _, 1) => Some(2 * picture),
            _ => Some(picture),
        };
        before.into_iter().chain(is_inter.then_some(1)).collect()
    }

    /// The id of the template that says so.
    fn template(&self, spatial: u16, temporal: u8, references: &[u16]) -> u8 {
        let wanted: u64 = references.iter().map(|back| 1 << (back - 1)).sum();
        let is_it = |id: &u8| {
            let frame = self.structure.frame(&[*id, 0, 0]);
            frame.is_ok_and(|frame| {
                let exact = !frame.refers_to(!wanted) && references.iter().all(|back| frame.refers_to(1 << (back - 1)));
                exact && (frame.spatial, frame.temporal) == (spatial as u8, temporal)
            })
        };
        (0..64).find(is_it).expect("a template")
    }
}

impl<const IS_H264: bool> Camera for Svc<IS_H264> {
    const CODEC: Codec = if IS_H264 { Codec::H264 } else { Codec::Av1 };

    fn picture(&mut self, is_key: bool) -> Vec<Piece> {
        self.place = if is_key { 0 } else { self.place + 1 };
        let temporal = if self.mode == Mode::L2T1 { 0 } else { [0, 2, 1, 2][usize::from(self.place) % 4] };
        let mut pieces = Vec::new();
        for spatial in 0..self.layers() {
            let references = self.references(spatial, temporal);
            for at in 0..2 {
                let starts = at == 0;
                let first = self.template(spatial, temporal, &references) | if starts { 0x80 } else { 0x40 };
                let [high, low] = self.number.to_be_bytes();
                let mut descriptor = vec![first, high, low];
                let begins = is_key && spatial == 0 && starts;
                if begins {
                    descriptor = Self::key(self.mode, self.number);
                    descriptor[0] &= !0x40;
                }
                let mut payload = match (IS_H264, begins) {
                    (true, true) => SPS.to_vec(),
                    (true, false) => DELTA.to_vec(),
                    (false, true) => vec![0x18, 0x0a],
                    (false, false) => vec![0x10, 0x32],
                };
                payload.resize(self.lens[usize::from(spatial)], 7);
                let marker = at == 1 && spatial + 1 == self.layers();
                pieces.push(Piece { payload, descriptor: Some(descriptor), marker });
            }
            self.number = self.number.wrapping_add(1);
        }
        pieces
    }
}

/// What a receiver makes of its packets.
#[derive(Default)]
struct Judge {
    structure: Structure,
    seq: Option<u16>,
    /// Numbers of the frames that came.
    frames: BTreeSet<u16>,
    newest: Option<u16>,
    /// Whether the last packet ended its picture.
    is_ended: bool,
    timestamp: u32,
}

impl Judge {
    /// Frames of these packets, by spatial and temporal layer, after a look at what a receiver relies on.
    fn frames(&mut self, packets: &[rtp::packet::Packet]) -> [[usize; 3]; 3] {
        let mut counts = [[0; 3]; 3];
        for packet in packets {
            let header = &packet.header;
            if let Some(seq) = self.seq.replace(header.sequence_number) {
                assert_eq!(header.sequence_number, seq.wrapping_add(1), "sequence numbers close up");
            }
            let descriptor = header.get_extension(DESCRIPTOR).expect("each packet is described");
            let frame = self.structure.read(&descriptor, true).expect("a descriptor");
            if frame.starts {
                assert!(
                    self.is_ended || self.newest.is_none() || header.timestamp == self.timestamp,
                    "a marker before"
                );
                self.begins(&frame);
                counts[usize::from(frame.spatial)][usize::from(frame.temporal)] += 1;
            }
            (self.is_ended, self.timestamp) = (header.marker, header.timestamp);
        }
        counts
    }

    fn begins(&mut self, frame: &Frame) {
        if let Some(newest) = self.newest.replace(frame.number) {
            assert!((frame.number.wrapping_sub(newest) as i16) > 0, "{newest}, then {}", frame.number);
        }
        if frame.has_structure {
            self.frames.clear();
        }
        for back in 1..=64u16 {
            let is_there = self.frames.contains(&frame.number.wrapping_sub(back));
            assert!(!frame.refers_to(1 << (back - 1)) || is_there, "{} refers {back} back", frame.number);
        }
        self.frames.insert(frame.number);
    }
}

#[test]
fn temporal_layers_of_h264_are_left_out_and_come_back() {
    let mut call = Call::new(Svc::<true>::new(Mode::H264L1T3, [480; 3]), 1_000_000);
    let mut judge = Judge::default();
    judge.frames(&call.run(5 * SECOND));
    let [[base, one, two], ..] = judge.frames(&call.run(4 * SECOND));
    println!("wide {base} {one} {two}");
    assert!(base + one + two >= 79 && two >= 38);
    assert_eq!(call.world.counter(Counter::HeldForLayer), 0);
    call.capacity = 130_000;
    judge.frames(&call.run(8 * SECOND));
    let [[base, one, two], ..] = judge.frames(&call.run(8 * SECOND));
    println!("narrow {base} {one} {two}");
    assert!(base >= 36 && two < 60);
    assert_eq!(call.world.counter(Counter::SlotsPaused), 0, "nobody is paused");
    call.capacity = 1_000_000;
    judge.frames(&call.run(12 * SECOND));
    let [[base, one, two], ..] = judge.frames(&call.run(4 * SECOND));
    println!("wide again {base} {one} {two}");
    assert!(base + one + two >= 79 && two >= 38);
    assert_eq!(call.world.counter(Counter::DescriptorsMalformed), 0);
}

/// Frames of each spatial layer.
fn spatial(counts: [[usize; 3]; 3]) -> [usize; 3] {
    counts.map(|of| of.iter().sum())
}

#[test]
fn a_receiver_gets_the_spatial_layers_that_it_shows() {
    let mut call = Call::new(Svc::<false>::new(Mode::L2T1, [200, 400, 0]), 5_000_000);
    let mut judge = Judge::default();
    judge.frames(&call.run(5 * SECOND));
    assert_eq!(spatial(judge.frames(&call.run(2 * SECOND))), [40, 40, 0]);
    call.show(180);
    judge.frames(&call.run(SECOND));
    assert_eq!(spatial(judge.frames(&call.run(2 * SECOND))), [40, 0, 0], "in full SVC at once");
    let keyframes = call.world.counter(Counter::KeyframeRequestsSent);
    call.show(360);
    judge.frames(&call.run(4 * SECOND));
    assert_eq!(spatial(judge.frames(&call.run(2 * SECOND))), [40, 40, 0]);
    assert_eq!(call.world.counter(Counter::KeyframeRequestsSent), keyframes + 1, "it begins at a keyframe");
}

#[test]
fn in_k_svc_a_receiver_gets_one_spatial_layer_and_what_that_needs() {
    let mut call = Call::new(Svc::<false>::new(Mode::L3T3Key, [100, 200, 400]), 5_000_000);
    let mut judge = Judge::default();
    judge.frames(&call.run(5 * SECOND));
    let [low, middle, high] = spatial(judge.frames(&call.run(2 * SECOND)));
    assert!(high == 40 && low == 0 && middle == 0, "{low} {middle} {high}: those below are of keyframes alone");
    call.show(360);
    judge.frames(&call.run(2 * SECOND));
    assert_eq!(spatial(judge.frames(&call.run(2 * SECOND))), [0, 40, 0], "from the next keyframe on");
    call.show(180);
    judge.frames(&call.run(2 * SECOND));
    assert_eq!(spatial(judge.frames(&call.run(2 * SECOND))), [40, 0, 0]);
    call.show(SHOWN_LINES_ANY);
    judge.frames(&call.run(4 * SECOND));
    assert_eq!(spatial(judge.frames(&call.run(2 * SECOND))), [0, 0, 40]);
}

#[test]
fn a_path_that_does_not_carry_all_spatial_layers_gets_fewer() {
    let mut call = Call::new(Svc::<false>::new(Mode::L3T3Key, [120, 300, 900]), 5_000_000);
    let mut judge = Judge::default();
    judge.frames(&call.run(5 * SECOND));
    assert_eq!(spatial(judge.frames(&call.run(2 * SECOND)))[2], 40);
    call.capacity = 200_000;
    judge.frames(&call.run(15 * SECOND));
    let narrow = spatial(judge.frames(&call.run(4 * SECOND)));
    println!("narrow {narrow:?}");
    assert!(narrow[1] >= 60 && narrow[2] <= 10, "360p at the whole rate: {narrow:?}");
    assert_eq!(call.world.counter(Counter::SlotsPaused), 0);
    call.capacity = 5_000_000;
    judge.frames(&call.run(20 * SECOND));
    let wide = spatial(judge.frames(&call.run(2 * SECOND)));
    assert_eq!(wide[2], 40, "{wide:?}");
}

#[test]
fn frame_numbers_go_on_at_a_change_and_a_repair_has_the_number_of_its_place() {
    let mut call = Call::new(Svc::<true>::new(Mode::H264L1T3, [200; 3]), 5_000_000);
    let mut judge = Judge::default();
    judge.frames(&call.run(2 * SECOND));
    let before = judge.newest.unwrap();
    // The same camera again, as another stream with other numbers.
    let other = call.world.publish(&call.alice, Codec::H264);
    let route = call.world.route_open(other, call.slot);
    call.world.commit(&[RouteClose { route: call.route }.into(), route.into()]);
    call.ssrc = call.world.ssrc_of(other);
    call.camera.number = 7;
    let packets = call.run(2 * SECOND);
    let begins = packets.iter().find(|packet| packet.header.get_extension(DESCRIPTOR).unwrap().len() > 3).unwrap();
    let number = u16::from_be_bytes(begins.header.get_extension(DESCRIPTOR).unwrap()[1..3].try_into().unwrap());
    assert_eq!(number, before.wrapping_add(1));
    judge.frames(&packets);
    let lost = packets.last().unwrap();
    let nack = TransportLayerNack {
        sender_ssrc: 1,
        media_ssrc: lost.header.ssrc,
        nacks: nack_pairs_from_sequence_numbers(&[lost.header.sequence_number]),
    };
    let bytes = call.bob.protect_rtcp(&nack);
    call.world.receive(call.bob.remote, &bytes);
    let sent = call.world.take_sent(call.bob.remote);
    let repair = call.bob.unprotect(&sent).into_iter().find(|packet| packet.header.payload_type == 121).expect("RTX");
    assert_eq!(repair.payload[..2], lost.header.sequence_number.to_be_bytes());
    assert_eq!(repair.header.get_extension(DESCRIPTOR), lost.header.get_extension(DESCRIPTOR));
    assert_eq!(repair.header.marker, lost.header.marker);
}

#[test]
fn who_has_not_negotiated_descriptors_gets_none_and_who_sends_none_is_as_before() {
    let mut call = Call::new(Svc::<true>::new(Mode::H264L1T3, [200; 3]), 5_000_000);
    let (bob, alice) = (call.bob.id, call.alice.id);
    call.world.commit(&[PeerExtensions { peer: bob, ids: IDS }.into()]);
    let packets = call.run(2 * SECOND);
    assert!(packets.len() > 70 && packets.iter().all(|packet| packet.header.get_extension(DESCRIPTOR).is_none()));
    call.world.commit(&[PeerExtensions { peer: alice, ids: IDS }.into()]);
    assert!(call.run(2 * SECOND).len() > 70);
    assert_eq!(call.world.counter(Counter::DescriptorsMalformed), 0, "what is not negotiated is not read");
}

#[test]
fn descriptors_that_are_cut_short_are_counted_and_the_video_goes_on() {
    struct Cut(Svc<true>);
    impl Camera for Cut {
        const CODEC: Codec = Codec::H264;

        fn picture(&mut self, is_key: bool) -> Vec<Piece> {
            let mut pieces = self.0.picture(is_key);
            for descriptor in pieces.iter_mut().filter_map(|piece| piece.descriptor.as_mut()) {
                let len = if descriptor.len() > 3 { 9 } else { 2 };
                descriptor.truncate(len);
            }
            pieces
        }
    }
    let mut call = Call::new(Cut(Svc::new(Mode::H264L1T3, [200; 3])), 5_000_000);
    let packets = call.run(2 * SECOND);
    assert!(packets.len() > 70, "{}", packets.len());
    assert!(packets.iter().all(|packet| packet.header.get_extension(DESCRIPTOR).is_none()), "they are not passed on");
    assert!(call.world.counter(Counter::DescriptorsMalformed) >= packets.len() as u64);
    assert_eq!(call.world.counter(Counter::HeldForLayer), 0);
}

#[test]
fn sets_ahead_of_a_keyframe_begin_its_frame() {
    /// The same camera without parameter sets in its keyframes: SDP told them.
    struct Told(Svc<true>);
    impl Camera for Told {
        const CODEC: Codec = Codec::H264;

        fn picture(&mut self, is_key: bool) -> Vec<Piece> {
            let mut pieces = self.0.picture(is_key);
            if is_key {
                pieces[0].payload[0] = 0x65;
                pieces[0].payload[1] = 0x88;
            }
            pieces
        }
    }
    let mut call = Call::new(Told(Svc::new(Mode::H264L1T3, [200; 3])), 5_000_000);
    let sets = [&[0x67u8, 0x42, 0xe0, 0x1f, 0x8c, 1][..], &[0x68, 0xce, 1, 2]];
    let told: Vec<u8> = sets.iter().flat_map(|set| [&[set.len() as u8][..], set].concat()).collect();
    let mut part = [0; STREAM_SETS_PART_LEN];
    part[..told.len()].copy_from_slice(&told);
    let stream = call.stream;
    call.world.commit(&[StreamSets { stream, part: 0, len: told.len() as u8, bytes: part }.into()]);
    let packets = call.run(SECOND);
    let first: Vec<_> = packets.iter().take(4).map(|p| p.header.get_extension(DESCRIPTOR).unwrap()).collect();
    let flags = |descriptor: &bytes::Bytes| (descriptor[0] & 0xc0, descriptor.len());
    assert_eq!((packets[0].payload[0], packets[1].payload[0], packets[2].payload[0]), (0x67, 0x68, 0x65));
    assert_eq!(first.iter().map(flags).collect::<Vec<_>>(), [(0x80, 16), (0, 3), (0, 3), (0x40, 3)]);
    Judge::default().frames(&packets);
    // The set that was lost comes again as it was.
    let nack = TransportLayerNack {
        sender_ssrc: 1,
        media_ssrc: packets[0].header.ssrc,
        nacks: nack_pairs_from_sequence_numbers(&[0, 1, 2].map(|at: usize| packets[at].header.sequence_number)),
    };
    let bytes = call.bob.protect_rtcp(&nack);
    call.world.receive(call.bob.remote, &bytes);
    let sent = call.world.take_sent(call.bob.remote);
    let repairs = call.bob.unprotect(&sent);
    let repairs: Vec<_> = repairs.iter().filter(|packet| packet.header.payload_type == 121).collect();
    let again: Vec<_> = repairs.iter().map(|packet| packet.header.get_extension(DESCRIPTOR).unwrap()).collect();
    assert_eq!(again, first[..3], "descriptors of repairs");
}
