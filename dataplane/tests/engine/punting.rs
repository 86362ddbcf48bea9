//! What crosses to the controlplane and back: DTLS from and to proved addresses only, and never more than its rate.

use std::net::SocketAddr;

use proto::id::PeerId;
use proto::plane::*;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const SECOND: u64 = 1_000_000;

/// A DTLS 1.2 handshake record with this many bytes in it.
fn record(len: usize) -> Vec<u8> {
    let mut bytes = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 1, (len >> 8) as u8, len as u8];
    bytes.resize(13 + len, 0xab);
    bytes
}

fn elsewhere() -> SocketAddr {
    "192.0.2.7:4000".parse().unwrap()
}

#[test]
fn dtls_goes_up_only_from_an_address_that_a_check_has_proved() {
    let mut world = World::new();
    let alice = world.open(GCM);
    world.receive(alice.remote, &record(100));
    assert_eq!((world.punts.len(), world.counter(Counter::DroppedUnknownAddress)), (0, 1));
    let mut forged = alice.check(true);
    let end = forged.len() - 20;
    forged[end] ^= 1;
    world.receive(alice.remote, &forged);
    world.receive(alice.remote, &record(100));
    assert_eq!((world.punts.len(), world.counter(Counter::DroppedUnknownAddress)), (0, 2));

    let check = alice.check(false);
    world.receive(alice.remote, &check);
    for datagram in [record(100), vec![0b0010_1110, 1, 2, 3, 4, 5]] {
        world.receive(alice.remote, &datagram);
        let (header, payload) = world.punts.pop().expect("punted");
        assert_eq!(payload, datagram, "to the byte");
        assert_eq!(
            header,
            DatagramHeader {
                kind: DatagramKind::Dtls,
                peer: alice.id,
                remote: alice.remote,
                len: datagram.len() as u16
            }
        );
    }
    world.receive(elsewhere(), &record(100));
    assert_eq!(world.counter(Counter::DroppedUnknownAddress), 3, "the same peer from an address it has not proved");
    assert_eq!(world.counter(Counter::Punted), 2);
}

#[test]
fn only_whole_records_that_fit_go_up() {
    let mut world = World::new();
    let alice = world.connect(GCM);
    let mut cut = record(100);
    cut.pop();
    let mut tls = record(100);
    tls[1..3].copy_from_slice(&[3, 3]);
    let too_long = record(DATAGRAM_LEN_MAX - 12);
    for datagram in [&cut, &tls, &too_long, &vec![22], &vec![63, 0]] {
        world.receive(alice.remote, datagram);
    }
    assert_eq!((world.counter(Counter::DroppedDtlsMalformed), world.punts.len()), (5, 0));
    world.receive(alice.remote, &record(DATAGRAM_LEN_MAX - 13));
    assert_eq!(world.punts[0].1.len(), DATAGRAM_LEN_MAX);
}

#[test]
fn data_is_punted_apart_from_handshakes() {
    let mut world = World::new();
    let alice = world.connect(GCM);
    let of_type = |content_type: u8| [&[content_type][..], &record(100)[1..]].concat();
    for (datagram, kind) in [
        (of_type(23), DatagramKind::Data),
        (vec![0b0010_1110, 1, 2, 3, 4, 5], DatagramKind::Data),
        (of_type(21), DatagramKind::Dtls),
        (of_type(22), DatagramKind::Dtls),
    ] {
        world.receive(alice.remote, &datagram);
        assert_eq!(world.punts.pop().expect("punted").0.kind, kind, "{}", datagram[0]);
    }
    // More data than a peer may have punted, and its next handshake record goes up all the same.
    let limit = 10 * 1024;
    for _ in 0..limit {
        world.receive(alice.remote, &of_type(23));
    }
    assert!(world.counter(Counter::DroppedPuntRate) > 0 && world.punts.len() < limit);
    world.punts.clear();
    world.receive(alice.remote, &record(100));
    assert_eq!(world.punts.len(), 1);
}

#[test]
fn a_flood_of_one_peer_is_bounded_and_nobody_else_pays_for_it() {
    let mut world = World::new();
    let alice = world.connect(GCM);
    let bob = world.connect(GCM);
    for _ in 0..1000 {
        world.receive(alice.remote, &record(50));
    }
    let burst = world.punts.len();
    assert_eq!(burst, dataplane::config::PEER_PUNT_BURST as usize);
    assert_eq!(world.counter(Counter::DroppedPuntRate), 1000 - burst as u64);
    world.receive(bob.remote, &record(50));
    assert_eq!(world.punts.last().unwrap().0.peer, bob.id);
    world.punts.clear();
    for _ in 0..1000 {
        world.receive(alice.remote, &record(50));
        world.advance(10_000);
    }
    let rate = 10 * dataplane::config::PEER_PUNT_RATE as usize;
    assert!((rate - 1..=rate + 1).contains(&world.punts.len()), "{} in ten seconds", world.punts.len());
}

#[test]
fn a_flood_of_all_peers_is_bounded_for_the_worker() {
    let mut world = World::new();
    let peers: Vec<_> = (0..100).map(|_| world.connect(GCM)).collect();
    for _ in 0..30 {
        for peer in &peers {
            world.receive(peer.remote, &record(50));
        }
    }
    assert_eq!(world.punts.len(), dataplane::config::PUNT_BURST as usize);
    assert_eq!(world.counter(Counter::DroppedPuntRate), 3000 - u64::from(dataplane::config::PUNT_BURST));
}

#[test]
fn one_turn_hands_over_a_bounded_number() {
    let mut world = World::new();
    let peers: Vec<_> = (0..20).map(|_| world.connect(GCM)).collect();
    let mut received = 0u64;
    world.is_stalled = true;
    for peer in &peers {
        for _ in 0..30 {
            let mut bytes = record(1400);
            let path = dataplane::path::Path::new(0, peer.remote);
            let datagram = dataplane::path::Datagram { path, at: world.now, bytes: &mut bytes };
            world.forwarder.receive(world.now, datagram, &mut world.egress);
            received += 1;
        }
    }
    assert!(world.outbox.is_full() && world.flushes > 0, "it is to be flushed first");
    world.is_stalled = false;
    world.collect();
    let (punted, full) = (world.counter(Counter::Punted), world.counter(Counter::DroppedPuntFull));
    assert_eq!(punted, world.punts.len() as u64);
    assert_eq!(punted + full, received);
    assert!(full > 0);
}

#[test]
fn the_controlplane_sends_only_where_the_peer_has_proved_to_be() {
    let mut world = World::new();
    let alice = world.connect(GCM);
    let bob = world.connect(GCM);
    let inject = |world: &mut World, peer, remote, payload: &[u8]| {
        let header = DatagramHeader { kind: DatagramKind::Dtls, peer, remote, len: payload.len() as u16 };
        world.forwarder.inject(world.now, &header, payload, &mut world.egress.outbox);
        world.collect();
        world.sent.drain(..).collect::<Vec<_>>()
    };
    let hello = record(200);
    assert_eq!(inject(&mut world, alice.id, alice.remote, &hello), [(alice.remote, hello.clone())]);
    let longest = vec![22; DATAGRAM_LEN_MAX];
    assert_eq!(inject(&mut world, alice.id, alice.remote, &longest)[0].1, longest);
    assert_eq!(world.counter(Counter::Injected), 2);
    let stale = PeerId::new(alice.id.index, 2);
    let refused = [
        (alice.id, elsewhere()),
        (alice.id, bob.remote),
        (stale, alice.remote),
        (PeerId::new(7777, 1), alice.remote),
        (PeerId::new(u32::MAX, 1), alice.remote),
    ];
    for (n, (peer, remote)) in refused.into_iter().enumerate() {
        assert!(inject(&mut world, peer, remote, &hello).is_empty());
        assert_eq!(world.counter(Counter::InjectRefused), n as u64 + 1);
    }
    // To the second of its addresses too, while the first is selected: DTLS answers go where the question came from.
    let check = alice.check(false);
    world.receive(elsewhere(), &check);
    world.take_sent(elsewhere());
    assert_eq!(inject(&mut world, alice.id, elsewhere(), &record(150)).len(), 1);
    assert!(inject(&mut world, alice.id, elsewhere(), &record(150)).is_empty(), "three times what came from there");

    world.mute.insert(alice.remote);
    let check = bob.check(true);
    world.advance(20 * SECOND);
    world.receive(bob.remote, &check);
    world.advance(15 * SECOND);
    world.sent.clear();
    assert!(inject(&mut world, alice.id, alice.remote, &hello).is_empty(), "its consent has ended (RFC 7675 §5.1)");
    assert_eq!(inject(&mut world, bob.id, bob.remote, &hello).len(), 1);
    world.commit(&[PeerClose { peer: bob.id }.into()]);
    assert!(inject(&mut world, bob.id, bob.remote, &hello).is_empty());
}

#[test]
fn a_check_does_not_take_an_address_from_a_peer_that_uses_it() {
    let mut world = World::new();
    let mut alice = world.connect(GCM);
    let mallory = world.connect(GCM);
    let stream = world.publish(&alice, Codec::Opus);
    let ssrc = world.ssrc_of(stream);
    let mut seq = 0;
    let mut talk = |world: &mut World, alice: &mut Peer| {
        seq += 1;
        let before = world.counter(Counter::Forwarded);
        let protected = alice.protect(&packet(ssrc, OPUS_PT, seq, 0, b"word"));
        world.receive(alice.remote, &protected);
        world.counter(Counter::Forwarded) - before
    };
    assert_eq!(talk(&mut world, &mut alice), 1);
    // Mallory, in the room with credentials of her own, writes Alice's address as source.
    let (check, mine) = (mallory.check(true), alice.check(false));
    world.receive(alice.remote, &check);
    assert_eq!(world.counter(Counter::DroppedStunPathTaken), 1);
    assert!(world.take_sent(alice.remote).is_empty());
    assert_eq!(talk(&mut world, &mut alice), 1);
    world.mute.insert(alice.remote);
    // Somebody who has been silent for long may have left the address to another, but takes it back with a check.
    world.advance(11 * SECOND);
    world.receive(alice.remote, &check);
    assert_eq!(talk(&mut world, &mut alice), 0);
    world.receive(alice.remote, &mine);
    assert_eq!(world.counter(Counter::DroppedStunPathTaken), 2, "now Mallory holds it");
    world.advance(11 * SECOND);
    world.receive(alice.remote, &mine);
    assert_eq!(talk(&mut world, &mut alice), 1);
    // Who leaves, leaves the address.
    world.commit(&[PeerClose { peer: alice.id }.into()]);
    world.receive(alice.remote, &check);
    world.receive(alice.remote, &record(20));
    assert_eq!(world.punts.last().map(|(header, _)| header.peer), Some(mallory.id));
}
