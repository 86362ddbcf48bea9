//! A stream of two codecs: Alice's camera in H.264 and, while somebody is there who cannot decode that, in VP8. Bob
//! has payload types for both, Carol for VP8 alone.

use proto::id::{RouteId, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
/// What Alice gave VP8 and its RTX, and what the receivers gave them.
const VP8_PT: u8 = 96;
const VP8_RTX_PT: u8 = 97;
const OUT: [u8; 4] = [120, 121, 122, 123];
/// RFC 7741: a descriptor with a picture id, then a frame whose P bit says whether it is a keyframe.
const KEY: &[u8] = &[0x90, 0x80, 0x11, 0x50, 0x42, 0, 0x9d, 0x01, 0x2a];
const INTER: &[u8] = &[0x90, 0x80, 0x12, 0x51, 0x42, 0];

struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    carol: Peer,
    stream: StreamId,
    routes: [RouteId; 2],
    slot_ssrcs: [u32; 2],
}

/// How a packet left: payload type, sequence number, timestamp, payload.
type Left = (u8, u16, u32, Vec<u8>);

impl Call {
    fn new() -> Call {
        let mut world = World::new();
        let (alice, bob, carol) = (world.connect(GCM), world.connect(GCM), world.connect(GCM));
        let stream = world.publish(&alice, Codec::H264);
        let [to_bob, to_carol] = [&bob, &carol].map(|peer| world.slot(peer));
        let (for_bob, mut for_carol) = (world.route_open(stream, to_bob), world.route_open(stream, to_carol));
        (for_carol.pt, for_carol.rtx_pt) = (0, 0);
        let second = StreamCodec { stream, codec: Codec::Vp8, pt: VP8_PT, rtx_pt: VP8_RTX_PT };
        world.commit(&[
            second.into(),
            for_bob.into(),
            for_carol.into(),
            route_codec(for_bob.route).into(),
            route_codec(for_carol.route).into(),
        ]);
        let slot_ssrcs = [to_bob, to_carol].map(|slot| 0x2000_0000 + slot.index);
        let mut call = Call { world, alice, bob, carol, stream, routes: [for_bob.route, for_carol.route], slot_ssrcs };
        assert!(refusals(&call.world.take_reports()).is_empty());
        call.keyframes_asked();
        call
    }

    /// Alice sends a packet; what Bob and Carol get of it.
    fn video(&mut self, pt: u8, seq: u16, payload: &[u8]) -> [Vec<Left>; 2] {
        let ssrc = self.world.ssrc_of(self.stream);
        self.send(packet(ssrc, pt, seq, u32::from(seq) * 3000, payload))
    }

    fn send(&mut self, packet: rtp::packet::Packet) -> [Vec<Left>; 2] {
        let protected = self.alice.protect(&packet);
        self.world.now += 33_000;
        self.world.receive(self.alice.remote, &protected);
        self.got()
    }

    fn got(&mut self) -> [Vec<Left>; 2] {
        let left = |p: rtp::packet::Packet| {
            (p.header.payload_type, p.header.sequence_number, p.header.timestamp, p.payload.to_vec())
        };
        [&mut self.bob, &mut self.carol].map(|peer| {
            let datagrams = self.world.take_sent(peer.remote);
            peer.unprotect(&datagrams).into_iter().map(left).collect()
        })
    }

    fn keyframes_asked(&mut self) -> usize {
        let datagrams = self.world.take_sent(self.alice.remote);
        let said = self.alice.unprotect_rtcp(&datagrams);
        said.iter().filter(|packet| packet.as_any().is::<PictureLossIndication>()).count()
    }
}

fn route_codec(route: RouteId) -> RouteCodec {
    RouteCodec { route, codec: Codec::Vp8, pt: OUT[2], rtx_pt: OUT[3] }
}

fn refusals(reports: &[Report]) -> Vec<(u16, u32, Refusal)> {
    let refused = |report: &Report| match report {
        Report::Event(Event::Refused(refused)) => Some((refused.tag, refused.index, refused.refusal)),
        _ => None,
    };
    reports.iter().filter_map(refused).collect()
}

fn one(left: &[Left]) -> (u8, u16) {
    assert_eq!(left.len(), 1, "{left:?}");
    (left[0].0, left[0].1)
}

#[test]
fn each_receiver_gets_the_codec_that_it_has_and_numbers_that_go_on() {
    let mut call = Call::new();
    let [bob, carol] = call.video(H264_PT, 10, SPS);
    assert_eq!((one(&bob), carol.len()), ((120, 1000), 0));
    call.world.advance(1_000_000);
    let [bob, carol] = call.video(H264_PT, 11, DELTA);
    assert_eq!((one(&bob), carol.len()), ((120, 1001), 0));
    assert_eq!(call.world.counter(Counter::HeldCodec), 2, "Carol has no payload type for H.264");
    assert_eq!(call.keyframes_asked(), 0, "and no keyframe of H.264 would help her");
    let timestamp = bob[0].2;

    // The publisher changes its encoder: same SSRC, next sequence number.
    let [bob, carol] = call.video(VP8_PT, 12, INTER);
    assert_eq!((bob.len(), carol.len()), (0, 0), "a codec begins with a keyframe");
    assert_eq!(call.keyframes_asked(), 1);
    let [bob, carol] = call.video(VP8_PT, 13, KEY);
    assert_eq!((one(&bob), one(&carol)), ((122, 1002), (122, 1000)));
    assert_eq!(bob[0].2.wrapping_sub(timestamp), 2 * 2970, "66 ms of 90 kHz later");
    assert_eq!(bob[0].3, KEY);
    let [bob, carol] = call.video(VP8_PT, 14, INTER);
    assert_eq!((one(&bob), one(&carol)), ((122, 1003), (122, 1001)));

    // And back.
    let [bob, carol] = call.video(H264_PT, 15, SPS);
    assert_eq!((one(&bob), carol.len()), ((120, 1004), 0));
    let [bob, _] = call.video(H264_PT, 16, DELTA);
    assert_eq!(one(&bob), (120, 1005));
}

#[test]
fn a_packet_that_was_overtaken_does_not_change_the_codec_back() {
    let mut call = Call::new();
    call.video(H264_PT, 10, SPS);
    assert_eq!(one(&call.video(VP8_PT, 12, KEY)[0]), (122, 1001));
    assert!(call.video(H264_PT, 11, SPS)[0].is_empty(), "late, of the codec before, and a keyframe at that");
    assert_eq!(call.world.counter(Counter::HeldStale), 1);
    assert_eq!(one(&call.video(VP8_PT, 13, INTER)[0]), (122, 1002), "no keyframe is waited for");
}

#[test]
fn a_codec_may_be_changed_before_its_keyframe_came() {
    let mut call = Call::new();
    call.video(H264_PT, 10, SPS);
    assert!(call.video(VP8_PT, 11, INTER)[0].is_empty());
    assert!(call.video(H264_PT, 12, DELTA)[0].is_empty(), "what lies between was not sent");
    assert!(call.video(H264_PT, 13, KEY)[0].is_empty(), "a keyframe of the other codec is none");
    assert_eq!(one(&call.video(H264_PT, 14, SPS)[0]), (120, 1001));
}

#[test]
fn repairs_have_the_payload_type_of_the_packets_codec() {
    let mut call = Call::new();
    call.video(H264_PT, 10, SPS);
    call.video(H264_PT, 11, DELTA);
    call.video(VP8_PT, 12, KEY);
    // 13 is lost on the way to us and comes as RTX of VP8.
    assert_eq!(one(&call.video(VP8_PT, 14, INTER)[0]), (122, 1004));
    let rtx_ssrc = call.world.ssrc_of(call.stream) + 0x1_0000;
    let rtx = [&13u16.to_be_bytes()[..], INTER].concat();
    assert_eq!(one(&call.send(packet(rtx_ssrc, VP8_RTX_PT, 1, 13 * 3000, &rtx))[0]), (122, 1003));

    let nacks = nack_pairs_from_sequence_numbers(&[1001, 1002, 1003]);
    let nack = call.bob.protect_rtcp(&TransportLayerNack { sender_ssrc: 1, media_ssrc: call.slot_ssrcs[0], nacks });
    call.world.receive(call.bob.remote, &nack);
    let [bob, _] = call.got();
    let repaired: Vec<(u8, u16)> =
        bob.iter().map(|(pt, _, _, payload)| (*pt, u16::from_be_bytes([payload[0], payload[1]]))).collect();
    assert_eq!(repaired, [(121, 1001), (123, 1002), (123, 1003)]);
    assert_eq!(bob[2].3[2..], *INTER, "that which had come as RTX itself");
}

#[test]
fn a_stream_may_begin_in_its_second_codec() {
    let mut call = Call::new();
    let [bob, carol] = call.video(VP8_PT, 500, KEY);
    assert_eq!((one(&bob), one(&carol)), ((122, 1000), (122, 1000)));
    assert_eq!(call.world.counter(Counter::HeldCodec), 0);
}

#[test]
fn a_receiver_without_rtx_for_the_codec_is_not_repaired() {
    let mut call = Call::new();
    let route = call.routes[0];
    let open = RouteOpen { route: RouteId::new(route.index, 2), ..open_of(&mut call, route) };
    let without = RouteCodec { rtx_pt: 0, ..route_codec(open.route) };
    call.world.commit(&[RouteClose { route }.into(), open.into(), without.into()]);
    assert_eq!(one(&call.video(VP8_PT, 1, KEY)[0]), (122, 1000));
    let nacks = nack_pairs_from_sequence_numbers(&[1000]);
    let nack = call.bob.protect_rtcp(&TransportLayerNack { sender_ssrc: 1, media_ssrc: call.slot_ssrcs[0], nacks });
    call.world.receive(call.bob.remote, &nack);
    assert!(call.got()[0].is_empty());
    assert_eq!(call.world.counter(Counter::NackMissed), 1);
}

/// What the worker says of a route.
fn open_of(call: &mut Call, route: RouteId) -> RouteOpen {
    let is_it = |command: &Command| matches!(command, Command::RouteOpen(open) if open.route == route);
    match described(call).into_iter().find(is_it) {
        Some(Command::RouteOpen(open)) => open,
        _ => panic!("the route is installed"),
    }
}

fn described(call: &mut Call) -> Vec<Command> {
    call.world.commit(&[Describe {}.into()]);
    call.world.take_reports();
    while call.world.forwarder.is_describing() {
        call.world.forwarder.describe(16, &mut call.world.egress.outbox);
        call.world.collect();
    }
    let reports = call.world.take_reports();
    let echo = |report: &Report| match report {
        Report::Echo(command) => Some(*command),
        Report::Event(_) => None,
    };
    let echoes: Vec<Command> = reports.iter().filter_map(echo).collect();
    let counted = Report::Event(Described { count: echoes.len() as u64 }.into());
    assert_eq!(reports.last(), Some(&counted));
    echoes
}

#[test]
fn second_codecs_are_described_and_go_with_what_they_belong_to() {
    let mut call = Call::new();
    let second: Command = StreamCodec { stream: call.stream, codec: Codec::Vp8, pt: VP8_PT, rtx_pt: VP8_RTX_PT }.into();
    let [to_bob, to_carol]: [Command; 2] = call.routes.map(|route| route_codec(route).into());
    let echoes = described(&mut call);
    let place = |command: &Command| echoes.iter().position(|echo| echo == command);
    assert!(place(&second) < place(&to_bob) && place(&to_carol).is_some(), "{echoes:?}");

    call.world.commit(&[RouteClose { route: call.routes[0] }.into()]);
    let echoes = described(&mut call);
    assert!(!echoes.contains(&to_bob) && echoes.contains(&to_carol));
    call.world.commit(&[StreamClose { stream: call.stream }.into()]);
    let echoes = described(&mut call);
    assert!(!echoes.iter().any(|echo| matches!(echo, Command::StreamCodec(_) | Command::RouteCodec(_))), "{echoes:?}");
}

#[test]
fn second_codecs_that_make_no_sense_are_refused() {
    let mut call = Call::new();
    let stream = call.world.publish(&call.alice, Codec::H264);
    let good = StreamCodec { stream, codec: Codec::Vp8, pt: VP8_PT, rtx_pt: 0 };
    let [route, other] = call.routes;
    let (s, r) = (Command::from(good).tag(), Command::from(route_codec(route)).tag());
    let cases: [(Command, (u16, u32, Refusal)); 9] = [
        (StreamCodec { codec: Codec::H264, ..good }.into(), (s, stream.index, Refusal::Malformed)),
        (StreamCodec { codec: Codec::Opus, ..good }.into(), (s, stream.index, Refusal::Malformed)),
        (StreamCodec { pt: H264_PT, ..good }.into(), (s, stream.index, Refusal::Malformed)),
        (StreamCodec { rtx_pt: H264_PT, ..good }.into(), (s, stream.index, Refusal::Malformed)),
        (StreamCodec { pt: 0, ..good }.into(), (s, stream.index, Refusal::Malformed)),
        (StreamCodec { stream: StreamId::new(900, 1), ..good }.into(), (s, 900, Refusal::Unknown)),
        (StreamCodec { stream: call.stream, ..good }.into(), (s, call.stream.index, Refusal::Occupied)),
        (route_codec(RouteId::new(route.index, 7)).into(), (r, route.index, Refusal::Unknown)),
        (route_codec(other).into(), (r, other.index, Refusal::Occupied)),
    ];
    for (command, expected) in cases {
        call.world.take_reports();
        call.world.commit(&[command]);
        assert_eq!(refusals(&call.world.take_reports()), [expected], "{command:?}");
    }
    let slot = call.world.slot(&call.bob);
    let open = call.world.route_open(stream, slot);
    call.world.commit(&[open.into(), route_codec(open.route).into()]);
    let refused = refusals(&call.world.take_reports());
    assert_eq!(refused, [(r, open.route.index, Refusal::Malformed)], "the stream has no second codec");
}
