//! An edge passes on datagrams of two others, of which it knows nothing: it looks up a flow, compares the source, and sends the rest
//! where it was told, in another flow, and nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;
use proto::flow;
use proto::id::{RelayId, StreamId};
use proto::plane::*;

use crate::edge::*;
use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const KBPS: u32 = 1000;

/// The edge that passes on.
fn middle() -> SocketAddr {
    "198.51.100.3:40000".parse().unwrap()
}

/// The flow that the edge of this number gets from the middle, and the one in which it sends there.
fn flow_to(of: usize) -> u64 {
    0x11_0000_0000 + of as u64
}
fn flow_from(of: usize) -> u64 {
    0x22_0000_0000 + of as u64
}

/// What the middle passes on of the edge of this number.
fn relay_from(of: usize) -> RelayOpen {
    let relay = RelayId::new(of as u32, 1);
    RelayOpen { relay, flow: flow_from(of), from: address(of), to: address(1 - of), to_flow: flow_to(1 - of) }
}

/// The other edge through the middle.
fn through_middle(of: usize) -> PeerCandidate {
    let (send_flow, receive_flow) = (flow_from(of), flow_to(of));
    PeerCandidate { place: 1, remote: middle(), send_flow, receive_flow, ..candidate(of) }
}

/// Two edges that reach each other by a third one alone: both ends, and the middle.
struct Three {
    worlds: [World; 3],
    /// Datagrams that the middle sent.
    passed: Vec<(SocketAddr, Vec<u8>)>,
}

fn place(at: SocketAddr) -> Option<usize> {
    [address(0), address(1), middle()].iter().position(|known| *known == at)
}

impl Three {
    fn new() -> Three {
        let mut worlds: [World; 3] = std::array::from_fn(|_| World::new());
        for world in &mut worlds {
            world.mute.extend([address(0), address(1), middle()]);
        }
        for of in 0..2 {
            let rate = RelayRate { relay: relay_from(of).relay, bps_max: 5000 * KBPS };
            worlds[2].commit(&[relay_from(of).into(), rate.into()]);
            worlds[of].commit(&[opened(of), credentials(of), through_middle(of).into()]);
            worlds[of].commit(&open_transport(of, 0));
        }
        let mut three = Three { worlds, passed: Vec::new() };
        three.carry();
        for of in 0..2 {
            assert_eq!(paths_told(&mut three.worlds[of]), [middle()], "{of}");
        }
        three
    }

    /// All that is under way arrives.
    fn carry(&mut self) {
        loop {
            let mut under_way = Vec::new();
            for (from, world) in self.worlds.iter_mut().enumerate() {
                let (between, others) = world.sent.drain(..).partition::<Vec<_>, _>(|(to, _)| place(*to).is_some());
                world.sent = others.into();
                under_way.extend(between.into_iter().map(|(to, bytes)| (from, to, bytes)));
            }
            if under_way.is_empty() {
                return;
            }
            for (from, to, bytes) in under_way {
                if from == 2 {
                    self.passed.push((to, bytes.clone()));
                }
                let from = [address(0), address(1), middle()][from];
                self.worlds[place(to).expect("it is one of them")].receive(from, &bytes);
            }
        }
    }

    fn advance(&mut self, by: u64) {
        for _ in 0..by / (10 * MS) {
            self.worlds.iter_mut().for_each(|world| world.advance(10 * MS));
            self.carry();
        }
    }

    fn counter(&mut self, of: usize, counter: Counter) -> u64 {
        self.worlds[of].counter(counter)
    }
}

#[test]
fn a_call_and_a_handshake_pass_through_a_third_edge_that_cannot_open_them() {
    let mut three = Three::new();
    // DTLS of the link.
    let hello = [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &[7; 256]].concat();
    let header = DatagramHeader { kind: DatagramKind::Dtls, peer: PEER, remote: middle(), len: hello.len() as u16 };
    let world = &mut three.worlds[0];
    world.forwarder.inject(world.now, &header, &hello, &mut world.egress.outbox);
    world.collect();
    three.carry();
    let (punted, payload) = three.worlds[1].punts.pop().expect("it is for the controlplane");
    assert_eq!((punted.peer, punted.remote, payload), (PEER, middle(), hello.clone()));
    let world = &mut three.worlds[1];
    world.forwarder.inject(world.now, &punted, &hello, &mut world.egress.outbox);
    world.collect();
    three.carry();
    assert_eq!(three.worlds[0].punts.pop().map(|(_, payload)| payload), Some(hello));

    // SRTP of a transport over it.
    let (mut alice, mut bob) = (three.worlds[0].connect(GCM), three.worlds[1].connect_unlimited(GCM));
    let open = three.worlds[0].stream_open(&alice, Codec::Opus);
    three.worlds[0].commit(&[open.into()]);
    three.worlds[0].commit(&export(400, &open, 0x7000));
    let import = import(StreamId::new(401, 1), 0x7000, Codec::Opus);
    three.worlds[1].commit(&[import.into()]);
    let slot = three.worlds[1].slot(&bob);
    three.worlds[1].route(import.stream, slot);
    three.carry();
    three.passed.clear();
    let secret = b"nobody between them can read this";
    for seq in 1..=100 {
        let protected = alice.protect(&packet(open.ssrc, OPUS_PT, seq, u32::from(seq) * 960, secret));
        three.worlds[0].receive(alice.remote, &protected);
        three.advance(20 * MS);
    }
    let datagrams = three.worlds[1].take_sent(bob.remote);
    bob.unprotect_rtcp(&datagrams);
    let heard = bob.unprotect(&datagrams);
    assert!(heard.len() == 100 && heard.iter().all(|packet| packet.payload[..] == secret[..]));
    let passed = std::mem::take(&mut three.passed);
    let media = passed.iter().filter(|(to, bytes)| *to == address(1) && flow::parse(&bytes[8..]) == Some(flow(0, 1)));
    assert!(media.clone().count() >= 100, "each in the flow of the middle, and behind that of its transport");
    assert!(media.clone().all(|(_, bytes)| flow::parse(bytes) == Some(flow_to(1))));
    assert!(!passed.iter().any(|(_, bytes)| bytes.windows(6).any(|window| window == b"nobody")));
    let [passed_on, forwarded, received] =
        [Counter::FlowsPassedOn, Counter::Forwarded, Counter::Received].map(|counter| three.counter(2, counter));
    assert_eq!((passed_on, forwarded), (received, received));
    assert!(three.counter(2, Counter::FlowsPassedOnBytes) > 100 * secret.len() as u64);
}

#[test]
fn the_direct_way_and_that_through_an_edge_stand_side_by_side() {
    let mut three = Three::new();
    for of in 0..2 {
        three.worlds[of].commit(&[candidate(of).into()]);
    }
    // The way that is in use goes: the other one is asked.
    for of in 0..2 {
        let none = PeerCandidate { remote: SocketAddr::from(([0, 0, 0, 0], 0)), ..through_middle(of) };
        three.worlds[of].commit(&[none.into()]);
    }
    three.carry();
    for of in 0..2 {
        assert_eq!(paths_told(&mut three.worlds[of]), [address(1 - of)]);
        let unknown = three.counter(of, Counter::DroppedFlowUnknown);
        three.worlds[of].receive(middle(), &[&flow::header(flow_to(of))[..], &check(of)].concat());
        assert_eq!(three.counter(of, Counter::DroppedFlowUnknown), unknown + 1, "its flow is nobody's");
        three.worlds[of].commit(&[through_middle(of).into()]);
    }
    three.carry();
    let told: Vec<Vec<SocketAddr>> = three.worlds.iter_mut().map(paths_told).collect();
    assert_eq!(told, [vec![], vec![], vec![]], "it stays where it works");
}

#[test]
fn what_is_not_passed_on_is_dropped_by_name() {
    let mut three = Three::new();
    let world = &mut three.worlds[2];
    let datagram = |flow: u64, len: usize| [&flow::header(flow)[..], &vec![0x80; len]].concat();
    let expect = |world: &mut World, from: SocketAddr, bytes: &[u8], counter: Counter| {
        let before = world.counter(counter);
        world.receive(from, bytes);
        assert_eq!(world.counter(counter), before + 1, "{counter:?}");
        assert!(world.sent.is_empty());
    };
    expect(world, address(0), &datagram(77, 100), Counter::DroppedFlowUnknown);
    expect(world, address(1), &datagram(flow_from(0), 100), Counter::DroppedFlowSource);
    let other_port = SocketAddr::new(address(0).ip(), 40_001);
    expect(world, other_port, &datagram(flow_from(0), 100), Counter::DroppedFlowSource);
    expect(world, address(0), &datagram(flow_from(0), 1601), Counter::DroppedTooLarge);
    expect(world, address(0), &datagram(flow_from(0), 0), Counter::DroppedUnknownProtocol);
    // Without a rate nothing, and no more than it.
    let relay = RelayOpen { relay: RelayId::new(9, 1), flow: 99, to_flow: 100, ..relay_from(0) };
    world.commit(&[relay.into()]);
    expect(world, address(0), &datagram(99, 100), Counter::DroppedFlowRate);
    world.commit(&[RelayRate { relay: relay.relay, bps_max: 800 * KBPS }.into()]);
    let mut passed = 0;
    for _ in 0..1000 {
        world.receive(address(0), &datagram(99, 1000));
        passed += world.take_sent(address(1)).len();
        world.advance(5 * MS);
    }
    assert!((500..=800).contains(&passed), "{passed} of 1000 in 5 s: 100 a second, and two seconds at once");
    assert_eq!(world.counter(Counter::DroppedFlowRate), 1001 - passed as u64);
    // Closed, it is nobody's; and a flow is one's alone.
    let refused = |world: &mut World, command: Command| {
        world.commit(&[command]);
        world.take_reports().into_iter().find_map(|report| match report {
            Report::Event(Event::Refused(refused)) => Some(refused.refusal),
            _ => None,
        })
    };
    world.take_reports();
    let other = RelayOpen { relay: RelayId::new(10, 1), ..relay };
    assert_eq!(refused(world, other.into()), Some(Refusal::Occupied));
    assert_eq!(refused(world, RelayOpen { flow: 0, ..other }.into()), Some(Refusal::Malformed));
    assert_eq!(refused(world, RelayOpen { to_flow: u64::MAX, flow: 5, ..other }.into()), Some(Refusal::Malformed));
    assert_eq!(refused(world, RelayRate { relay: other.relay, bps_max: 1 }.into()), Some(Refusal::Unknown));
    assert_eq!(refused(world, RelayClose { relay: other.relay }.into()), Some(Refusal::Unknown));
    let far = RelayId::new(RELAYS_MAX as u32, 1);
    assert_eq!(refused(world, RelayOpen { relay: far, flow: 5, ..other }.into()), Some(Refusal::TableFull));
    assert_eq!(refused(world, RelayClose { relay: relay.relay }.into()), None);
    expect(world, address(0), &datagram(99, 100), Counter::DroppedFlowUnknown);
    assert_eq!(refused(world, RelayOpen { flow: 99, ..other }.into()), None);
    // A successor of the controlplane finds them.
    world.commit(&[Describe {}.into()]);
    let mut egress = std::mem::take(&mut world.egress);
    while world.forwarder.is_describing() {
        world.forwarder.describe(20, &mut egress.outbox);
    }
    world.egress = egress;
    world.collect();
    let echoes = world.take_echoes();
    let rate = |of: usize| RelayRate { relay: relay_from(of).relay, bps_max: 5000 * KBPS }.into();
    let expected =
        [relay_from(0).into(), rate(0), relay_from(1).into(), rate(1), RelayOpen { flow: 99, ..other }.into()];
    assert_eq!(echoes, expected);
    world.commit(&[Reset {}.into()]);
    expect(world, address(0), &datagram(flow_from(0), 100), Counter::DroppedFlowUnknown);
}

#[test]
fn headers_are_not_nested_deeper_than_a_transport_behind_an_edge() {
    let mut three = Three::new();
    let world = &mut three.worlds[1];
    world.take_sent(middle());
    let own = RelayOpen { relay: RelayId::new(3, 1), flow: 55, from: middle(), to: address(0), to_flow: 56 };
    world.commit(&[own.into(), RelayRate { relay: own.relay, bps_max: 1000 * KBPS }.into()]);
    let nested = |flows: &[u64], rest: &[u8]| {
        let headers: Vec<u8> = flows.iter().flat_map(|flow| flow::header(*flow)).collect();
        [&headers, rest].concat()
    };
    for flows in [&[flow_to(1), flow_to(1)][..], &[flow_to(1), 55], &[flow_to(1), 9]] {
        let before = world.counter(Counter::DroppedFlowUnknown);
        world.receive(middle(), &nested(flows, &[0x80; 50]));
        assert_eq!(world.counter(Counter::DroppedFlowUnknown), before + 1, "{flows:?}");
    }
    let before = world.counter(Counter::DroppedUnknownProtocol);
    world.receive(middle(), &nested(&[flow_to(1), flow(0, 1), flow(0, 1)], &[0x80; 50]));
    assert_eq!(world.counter(Counter::DroppedUnknownProtocol), before + 1);
    // By the middle, and by nobody else.
    let before = world.counter(Counter::DroppedFlowSource);
    world.receive(address(0), &nested(&[flow_to(1), flow(0, 1)], &[0x80; 50]));
    assert_eq!(world.counter(Counter::DroppedFlowSource), before + 1);
    assert!(world.sent.is_empty(), "and nothing is passed on of what is behind a header");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever comes from whomever, in whichever flow: what leaves has come in a flow from its source, and goes where that goes.
    #[test]
    fn what_is_passed_on_goes_to_the_address_of_its_flow_and_to_no_other(
        relays in prop::collection::vec((1..40u64, 0..6u8, 0..6u8, 1..40u64), 1..12),
        datagrams in prop::collection::vec((0..45u64, 0..6u8, prop::collection::vec(any::<u8>(), 0..60), 0..30u8), 1..80),
    ) {
        let address = |n: u8| SocketAddr::from(([198, 51, 100, n], 4000));
        let mut world = World::new();
        world.mute.extend((0..6).map(address));
        let mut known: BTreeMap<u64, RelayOpen> = BTreeMap::new();
        for (n, &(flow, from, to, to_flow)) in relays.iter().enumerate() {
            let relay = RelayId::new(n as u32, 1);
            let open = RelayOpen { relay, flow, from: address(from), to: address(to), to_flow };
            world.commit(&[open.into(), RelayRate { relay, bps_max: 1000 * KBPS }.into()]);
            known.entry(flow).or_insert(open);
        }
        let mut expected = Vec::new();
        for (flow, from, rest, cut) in &datagrams {
            let mut bytes = [&flow::header(*flow)[..], rest].concat();
            if *cut < 8 {
                bytes.truncate((*cut).into());
            }
            world.receive(address(*from), &bytes);
            let relay = known.get(flow).filter(|open| open.from == address(*from) && bytes.len() > 8);
            expected.extend(relay.map(|open| (open.to, [&flow::header(open.to_flow)[..], rest].concat())));
        }
        prop_assert_eq!(world.sent.drain(..).collect::<Vec<_>>(), expected);
    }
}
