//! Media over two edges: a publisher at the one, a receiver at the other, and between them a transport over a link, whose packets are
//! in flows.

use std::net::SocketAddr;

use proto::flow;
use proto::id::{RouteId, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::edge;
use crate::edge::*;
use crate::studio;
use crate::studio::Studio;
use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;

/// SSRC of the slot between the edges.
const BETWEEN: u32 = 0x7000;

/// Alice's track at the first edge in Bob's slot at the second.
struct Call {
    edges: Edges,
    alice: Peer,
    bob: Peer,
    ssrc: u32,
    slot_ssrc: u32,
    seq: u16,
}

impl Call {
    fn new(codec: Codec) -> Call {
        let mut edges = Edges::linked();
        let alice = edges.worlds[0].connect(GCM);
        let bob = edges.worlds[1].connect_unlimited(GCM);
        let open = edges.worlds[0].stream_open(&alice, codec);
        edges.worlds[0].commit(&[open.into()]);
        edges.worlds[0].commit(&export(400, &open, BETWEEN));
        let import = import(StreamId::new(401, 1), BETWEEN, codec);
        edges.worlds[1].commit(&[import.into()]);
        let slot = edges.worlds[1].slot(&bob);
        edges.worlds[1].route(import.stream, slot);
        let slot_ssrc = 0x2000_0000 + slot.index;
        let mut call = Call { edges, alice, bob, ssrc: open.ssrc, slot_ssrc, seq: 0 };
        for of in 0..2 {
            call.edges.paths_told(of); // Nothing was refused.
        }
        call.edges.carry();
        call.said_to_alice();
        call
    }

    /// Alice sends a packet.
    fn send(&mut self, pt: u8, payload: &[u8]) {
        self.seq += 1;
        let packet = packet(self.ssrc, pt, self.seq, u32::from(self.seq) * 3000, payload);
        let protected = self.alice.protect(&packet);
        self.edges.worlds[0].receive(self.alice.remote, &protected);
        self.edges.carry();
    }

    /// What Bob has got: of media, and of repairs the packets inside.
    fn heard(&mut self) -> (Vec<rtp::packet::Packet>, Vec<Vec<u8>>) {
        let datagrams = self.edges.worlds[1].take_sent(self.bob.remote);
        self.bob.unprotect_rtcp(&datagrams);
        let packets = self.bob.unprotect(&datagrams);
        let (media, repairs): (Vec<_>, Vec<_>) = packets.into_iter().partition(|p| p.header.ssrc == self.slot_ssrc);
        (media, repairs.iter().map(|packet| packet.payload[2..].to_vec()).collect())
    }

    /// How often Alice was asked for a keyframe, and for which packets.
    fn said_to_alice(&mut self) -> (usize, Vec<u16>) {
        let datagrams = self.edges.worlds[0].take_sent(self.alice.remote);
        let said = self.alice.unprotect_rtcp(&datagrams);
        let keyframes = said.iter().filter(|packet| packet.as_any().is::<PictureLossIndication>()).count();
        let nacks = said.iter().filter_map(|packet| packet.as_any().downcast_ref::<TransportLayerNack>());
        (keyframes, nacks.flat_map(|nack| &nack.nacks).flat_map(|pair| pair.packet_list()).collect())
    }

    fn bob_says(&mut self, packet: &dyn rtcp::packet::Packet) {
        let protected = self.bob.protect_rtcp(packet);
        self.edges.worlds[1].receive(self.bob.remote, &protected);
        self.edges.carry();
    }

    fn counter(&mut self, of: usize, counter: Counter) -> u64 {
        self.edges.worlds[of].counter(counter)
    }
}

#[test]
fn speech_crosses_in_the_flow_of_its_transport() {
    let mut call = Call::new(Codec::Opus);
    call.edges.net.sent = Default::default();
    for n in 0..50u8 {
        call.send(OPUS_PT, &[n; 80]);
    }
    let (media, _) = call.heard();
    assert_eq!(media.iter().map(|packet| packet.payload[0]).collect::<Vec<_>>(), (0..50).collect::<Vec<u8>>());
    let between = std::mem::take(&mut call.edges.net.sent[0]);
    assert_eq!(between.len(), 50);
    assert!(between.iter().all(|datagram| flow::parse(datagram) == Some(flow(0, 1)) && datagram[8] & 0xc0 == 0x80));
    assert_eq!(call.counter(0, Counter::HeldNotReady), 0);
}

#[test]
fn what_the_link_loses_is_repaired_on_the_link() {
    let mut call = Call::new(Codec::H264);
    call.send(H264_PT, SPS);
    for n in 0..30u8 {
        call.edges.net.lost = usize::from(n % 10 == 5);
        call.send(H264_PT, &[&[0x41, n], DELTA].concat());
        call.edges.advance(20 * MS);
    }
    let (media, repairs) = call.heard();
    assert_eq!((media.len(), repairs.len()), (31, 0), "Bob does not notice: the second edge asked the first");
    assert_eq!(call.counter(1, Counter::Recovered), 3);
    assert_eq!(call.counter(0, Counter::RtxSent), 4, "the last one twice, after a report of a tenth lost");
    let (_, nacked) = call.said_to_alice();
    assert!(nacked.is_empty(), "and the first edge had it: {nacked:?}");
    // What Bob himself lacks is repaired where he is.
    let seqs = nack_pairs_from_sequence_numbers(&[media[7].header.sequence_number]);
    call.bob_says(&TransportLayerNack { sender_ssrc: 1, media_ssrc: call.slot_ssrc, nacks: seqs });
    let (_, repairs) = call.heard();
    assert_eq!(repairs, [media[7].payload.to_vec()]);
    assert_eq!(call.counter(0, Counter::RtxSent), 4);
}

#[test]
fn a_request_for_a_keyframe_goes_through_both_edges() {
    let mut call = Call::new(Codec::H264);
    call.send(H264_PT, SPS);
    call.edges.advance(2 * SECOND);
    call.said_to_alice();
    call.bob_says(&PictureLossIndication { sender_ssrc: 1, media_ssrc: call.slot_ssrc });
    assert_eq!(call.said_to_alice().0, 1);
    for _ in 0..20 {
        call.bob_says(&PictureLossIndication { sender_ssrc: 1, media_ssrc: call.slot_ssrc });
    }
    assert_eq!(call.said_to_alice().0, 0, "many are one");
}

#[test]
fn a_transport_goes_where_its_link_does_and_nowhere_without() {
    let mut call = Call::new(Codec::Opus);
    // The link is closed: nothing leaves, and nothing comes in.
    let flow_of = [&flow::header(flow(0, 1))[..], &[0x80; 40]].concat();
    call.edges.worlds[0].commit(&[PeerClose { peer: PEER }.into()]);
    call.send(OPUS_PT, b"lost");
    assert_eq!(call.counter(0, Counter::HeldNotReady), 1);
    // Another one is opened, and the transport is of it.
    let again = PEER.generation + 1;
    let peer = proto::id::PeerId { generation: again, ..PEER };
    let as_new = |command: Command| match command {
        Command::PeerOpen(open) => PeerOpen { peer, ..open }.into(),
        Command::PeerRemote(remote) => PeerRemote { peer, ..remote }.into(),
        other => other,
    };
    let over = PeerEdge { peer: transport(0), edge: peer, send_flow: flow(0, 1), receive_flow: flow(0, 0) };
    call.edges.worlds[0].commit(&[
        as_new(opened(0)),
        as_new(credentials(0)),
        PeerCandidate { peer, ..candidate(0) }.into(),
        over.into(),
    ]);
    call.edges.carry();
    call.send(OPUS_PT, b"heard");
    let (media, _) = call.heard();
    assert_eq!(media.iter().map(|packet| &packet.payload[..]).collect::<Vec<_>>(), [b"heard"]);

    // Flows that are unknown, that come from elsewhere, and that carry anything else are dropped by name.
    let elsewhere: SocketAddr = "203.0.113.5:5".parse().unwrap();
    let world = &mut call.edges.worlds[1];
    let mut unknown = flow_of.clone();
    unknown[7] ^= 0xff;
    world.receive(address(0), &unknown);
    world.receive(address(0), &unknown[..7]);
    assert_eq!(world.counter(Counter::DroppedFlowUnknown), 2);
    world.receive(elsewhere, &flow_of);
    assert_eq!(world.counter(Counter::DroppedFlowSource), 1);
    let protocol = world.counter(Counter::DroppedUnknownProtocol);
    world.receive(address(0), &[&flow_of[..8], &[22, 0xfe, 0xfd]].concat());
    world.receive(address(0), &flow_of[..8]);
    world.receive(address(0), &[&flow_of[..8], &flow_of].concat());
    assert_eq!(world.counter(Counter::DroppedUnknownProtocol), protocol + 3);
    let forged = world.counter(Counter::DroppedSrtpAuth);
    world.receive(address(0), &[&flow_of[..8], &[0x80, 111, 0, 9, 0, 0, 0, 0, 0, 0, 0x70, 0], &[0; 40]].concat());
    assert_eq!(
        world.counter(Counter::DroppedSrtpAuth),
        forged + 1,
        "what is behind the header is believed by its keys alone"
    );
}

#[test]
fn many_transports_share_a_link_and_a_check_names_none_of_them() {
    let mut worlds = vec![World::new(), World::new()];
    let mut net = Net::default();
    link(&mut worlds, &mut net, 40);
    for n in 0..40 {
        let stream = StreamOpen { peer: transport(n), ..import(StreamId::new(500 + n, 1), 0x9000 + n, Codec::Opus) };
        worlds[1].commit(&[stream.into()]);
    }
    // The same packet protected for one of them is not authentic in the flow of another.
    let mut check = edge::check(1);
    worlds[1].take_reports();
    check.truncate(20);
    let refused = |world: &mut World, command: PeerEdge| {
        world.commit(&[command.into()]);
        world.take_reports().into_iter().find_map(|report| match report {
            Report::Event(Event::Refused(refused)) => Some(refused.refusal),
            _ => None,
        })
    };
    let over = |n: u32, flows: [u64; 2]| PeerEdge {
        peer: transport(n),
        edge: PEER,
        send_flow: flows[0],
        receive_flow: flows[1],
    };
    let world = &mut worlds[1];
    assert_eq!(refused(world, over(3, [flow(3, 0), flow(4, 1)])), Some(Refusal::Occupied));
    assert_eq!(refused(world, over(3, [0, flow(3, 1)])), Some(Refusal::Malformed));
    assert_eq!(refused(world, over(3, [flow(3, 0), flow::FLOW_MAX + 1])), Some(Refusal::Malformed));
    assert_eq!(refused(world, over(99, [flow(3, 0), flow(3, 1)])), Some(Refusal::Unknown));
    assert_eq!(refused(world, PeerEdge { edge: transport(4), ..over(3, [5, 6]) }), Some(Refusal::Malformed));
    assert_eq!(refused(world, PeerEdge { peer: PEER, ..over(3, [5, 6]) }), Some(Refusal::Malformed));
    assert_eq!(refused(world, over(3, [flow(3, 0), flow(3, 1)])), None, "again");
    assert_eq!(refused(world, over(3, [flow(3, 0), 0x77])), None, "and with another flow");
    world.receive(address(0), &[&flow::header(flow(3, 1))[..], &[0x80; 40]].concat());
    assert_eq!(world.counter(Counter::DroppedFlowUnknown), 1, "the one before is nobody's");

    let mut out = [0; 256];
    let writer = proto::stun::Writer::binding_request(&mut out, proto::stun::TransactionId([9; 12]));
    let writer = writer.username(b"trans003:edge-one").priority(1).ice_controlling(1);
    let writer = writer.integrity(&proto::stun::IntegrityKey::new(b"the-password-of-edge-two"));
    let len = writer.fingerprint().finish().unwrap();
    let before = world.counter(Counter::DroppedStunUnknownUfrag);
    world.receive(address(0), &out[..len]);
    assert_eq!(world.counter(Counter::DroppedStunUnknownUfrag), before + 1);
}

/// Alice's camera in three encodings at the first edge, each in a slot of its own, and Bob at the second.
struct Simulcast {
    studio: Studio,
    net: Net,
    bob: studio::Receiver,
    imports: [StreamId; 3],
    exports: [Vec<Command>; 3],
}

impl Simulcast {
    fn new() -> Simulcast {
        let mut studio = Studio::new();
        studio.worlds.push(World::new());
        let mut net = Net::default();
        link(&mut studio.worlds, &mut net, 1);
        let exports =
            std::array::from_fn(|n| export(400 + n as u32, &studio.streams[n], BETWEEN + 2 * n as u32).to_vec());
        studio.worlds[0].commit(&exports.concat());
        let imports = std::array::from_fn(|n| StreamId::new(500 + n as u32, 1));
        let world = &mut studio.worlds[1];
        for (n, stream) in imports.into_iter().enumerate() {
            let open = import(stream, BETWEEN + 2 * n as u32, Codec::Vp8);
            world.commit(&[open.into(), studio::encoding_of(stream, imports[0], n, studio::RIDS[n]).into()]);
        }
        let peer = world.connect_unlimited(GCM);
        let open = world.slot_open(&peer);
        let routes = imports.map(|stream| world.route_open(stream, open.slot));
        world.commit(&[&[open.into()][..], &routes.map(Command::from)].concat());
        studio.no_refusals();
        let routes = routes.iter().map(|open| open.route).collect();
        let (heard, repaired) = Default::default();
        let bob = studio::Receiver { world: 1, peer, slot: open.slot, ssrc: open.ssrc, routes, heard, repaired };
        Simulcast { studio, net, bob, imports, exports }
    }

    /// Which encodings Bob got in the next so many frames.
    fn watch(&mut self, encodings: &[usize], frames: usize) -> Vec<usize> {
        let mut seen: Vec<usize> = Vec::new();
        for _ in 0..frames {
            self.studio.frame(encodings, 2);
            self.net.carry(&mut self.studio.worlds);
            seen.extend(self.studio.hear(&mut self.bob).iter().map(|(encoding, _)| *encoding));
            self.studio.listen();
        }
        seen.dedup();
        seen
    }

    /// Streams of which an edge has said meanwhile that nobody wants them, and that somebody does.
    fn told(&mut self, of: usize) -> [Vec<StreamId>; 2] {
        let reports = self.studio.worlds[of].take_reports();
        let idle = reports.iter().filter_map(|report| match report {
            Report::Event(Event::EncodingIdle(idle)) => Some(idle.stream),
            _ => None,
        });
        let wanted = reports.iter().filter_map(|report| match report {
            Report::Event(Event::EncodingWanted(wanted)) => Some(wanted.stream),
            _ => None,
        });
        [idle.collect(), wanted.collect()]
    }
}

#[test]
fn encodings_cross_each_in_a_slot_of_its_own_and_those_that_nobody_wants_are_not_sent() {
    let mut call = Simulcast::new();
    assert_eq!(call.watch(&[0, 1, 2], 30).last(), Some(&2));
    assert_eq!(call.watch(&[0, 1, 2], 30), [2], "the best one");
    call.bob.is_one_stream();
    call.told(1);
    // Bob's picture is small.
    call.studio.want(&call.bob, Some(0));
    call.net.carry(&mut call.studio.worlds);
    call.studio.listen();
    assert_eq!(call.studio.asked, [0], "through both edges Alice is asked for a keyframe of that one");
    assert_eq!(call.watch(&[0, 1, 2], 240), [0]);
    let [idle, _] = call.told(1);
    assert_eq!(idle.len(), 2, "{idle:?}");
    assert!(idle.contains(&call.imports[1]) && idle.contains(&call.imports[2]));
    assert_eq!(call.told(0)[0], [], "at the first edge they are wanted: the second one gets them");
    // The second edge's controlplane tells the first one's.
    let closed: Vec<Command> = [401, 402].map(|index| RouteClose { route: RouteId::new(index, 1) }.into()).to_vec();
    call.studio.worlds[0].commit(&closed);
    let sent = call.studio.counter(Counter::Sent);
    assert_eq!(call.watch(&[0, 1, 2], 240), [0]);
    let [idle, _] = call.told(0);
    assert_eq!(idle.len(), 2, "now Alice is told to stop: {idle:?}");
    assert_eq!(call.studio.counter(Counter::Sent) - sent, 2 * 240 * 2, "one stream crosses, and one leaves to Bob");
    assert_eq!(call.watch(&[0], 60), [0], "and she does");
    // He makes it large.
    call.studio.want(&call.bob, Some(2));
    call.net.carry(&mut call.studio.worlds);
    assert_eq!(call.told(1)[1], [call.imports[2]]);
    call.studio.worlds[0].commit(&[call.exports[2][1]]);
    assert_eq!(call.told(0)[1], [call.studio.streams[2].stream]);
    assert_eq!(call.watch(&[0, 2], 60), [0, 2]);
    assert_eq!(call.watch(&[0, 2], 60), [2]);
    call.bob.is_one_stream();
    assert_eq!(call.studio.counter(Counter::DroppedFlowUnknown) + call.studio.counter(Counter::DroppedSrtpAuth), 0);
}

/// Which rates Alice's controlplane is told while those who receive her say of their paths what they carry, bit/s, each second.
fn rates_told(
    call: &mut Simulcast,
    others: &mut [studio::Receiver],
    rembs: &[f32],
    seconds: usize,
) -> Vec<(StreamId, u32)> {
    for n in 0..30 * seconds {
        // The small encoding has about 20 kb/s, the large one ten times as much.
        call.studio.frame_in(&[(0, 2), (2, 20)]);
        call.net.carry(&mut call.studio.worlds);
        for (receiver, bitrate) in others.iter_mut().chain([&mut call.bob]).zip(rembs) {
            call.studio.hear(receiver);
            if n % 30 == 0 {
                let remb =
                    ReceiverEstimatedMaximumBitrate { sender_ssrc: 5, bitrate: *bitrate, ssrcs: vec![receiver.ssrc] };
                let bytes = receiver.peer.protect_rtcp(&remb);
                call.studio.worlds[receiver.world].receive(receiver.peer.remote, &bytes);
            }
        }
        call.net.carry(&mut call.studio.worlds);
    }
    let told = |of: usize, call: &mut Simulcast| -> Vec<(StreamId, u32)> {
        let reports = call.studio.worlds[of].take_reports().into_iter();
        let rates = reports.filter_map(|report| match report {
            Report::Event(Event::EncodingRate(rate)) => Some((rate.stream, rate.bps)),
            _ => None,
        });
        rates.collect()
    };
    assert_eq!(told(1, call), [], "the edge that gets an encoding tells the other one's worker, and nobody here");
    told(0, call)
}

#[test]
fn what_receivers_at_another_edge_have_room_for_is_what_the_publisher_is_told() {
    let mut call = Simulcast::new();
    let low = call.studio.streams[0].stream;
    let of_low = |told: &[(StreamId, u32)]| told.iter().all(|(stream, _)| *stream == low);
    rates_told(&mut call, &mut [], &[3e6], 4);
    assert_eq!(rates_told(&mut call, &mut [], &[3e6], 4), [], "he takes the large one");
    // Bob has room for more than the small one, and not for the large one.
    let told = rates_told(&mut call, &mut [], &[100_000.0], 8);
    let one = told.last().expect("it is told").1;
    assert!(of_low(&told) && (28_000..90_000).contains(&one), "{told:?}");
    // Where Alice is there is somebody who takes the large one: the least of all counts. And then who has less.
    let mut others = [call.studio.receiver(0)];
    let told = rates_told(&mut call, &mut others, &[3e6, 100_000.0], 8);
    assert!(told.iter().all(|(_, bps)| *bps < 90_000), "{told:?}");
    let told = rates_told(&mut call, &mut others, &[32_000.0, 100_000.0], 8);
    let both = told.last().expect("it is told").1;
    assert!(of_low(&told) && both < one && both < 32_000, "{told:?}");
    // The room here has grown again, and Bob's falls.
    let told = rates_told(&mut call, &mut others, &[100_000.0, 100_000.0], 8);
    assert!(told.last().expect("it is told").1 > 32_000, "{told:?}");
    let told = rates_told(&mut call, &mut others, &[100_000.0, 32_000.0], 4);
    assert!(told.last().expect("it is told").1 < 32_000, "{told:?}");
    let told = rates_told(&mut call, &mut others, &[3e6, 3e6], 8);
    assert_eq!(told.last(), Some(&(low, 0)), "nobody needs it any more");
}

#[test]
fn a_browser_says_nothing_of_the_room_of_others() {
    let mut call = Simulcast::new();
    let mut receiver = [call.studio.receiver(0)];
    rates_told(&mut call, &mut receiver, &[100_000.0, 3e6], 8);
    let before = call.studio.worlds[0].counter(Counter::Consumed);
    // The same packet, from one who is no edge: it is authentic, and means nothing.
    let words = [1, u32::from_be_bytes(*b"upRM"), receiver[0].ssrc, 1 << 31 | 1_000];
    let body: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_be_bytes()).collect();
    let bytes = [&[0x81, 204, 0, 4][..], &body].concat();
    let protected = receiver[0].peer.protect_rtcp_bytes(&bytes);
    call.studio.worlds[0].receive(receiver[0].peer.remote, &protected);
    assert_eq!(call.studio.worlds[0].counter(Counter::Consumed), before + 1);
    let told = rates_told(&mut call, &mut receiver, &[100_000.0, 3e6], 1);
    assert!(told.iter().all(|(_, bps)| *bps > 10_000), "{told:?}");
}

#[test]
fn a_transport_over_which_nothing_goes_says_that_it_is_there_until_it_is_closed() {
    let mut call = Call::new(Codec::Opus);
    let silent = |call: &mut Call| {
        let reports = call.edges.worlds.iter_mut().map(|world| world.take_reports());
        let silent = |report: &Report| match report {
            Report::Event(Event::PeerSilent(silent)) if silent.peer.index >= PEER.index => Some(silent.peer),
            _ => None,
        };
        reports.map(|of| of.iter().filter_map(silent).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    silent(&mut call);
    call.edges.net.sent = Default::default();
    call.edges.advance(20 * SECOND);
    assert_eq!(silent(&mut call), [[]; 2], "nobody has spoken yet");
    for sent in &call.edges.net.sent {
        let said: Vec<_> = sent.iter().filter(|datagram| flow::parse(datagram).is_some()).collect();
        assert!((18..=22).contains(&said.len()) && said.iter().all(|datagram| datagram.len() <= 40), "{}", said.len());
    }
    call.edges.worlds[0].commit(&[PeerClose { peer: transport(0) }.into()]);
    call.edges.advance(11 * SECOND);
    assert_eq!(silent(&mut call), [vec![], vec![transport(0)]], "and the link stays");
}
