//! Another edge is a peer whose address the controlplane knows: its worker asks it without waiting for a check from there, and goes
//! on asking as long as nobody answers.

use std::net::SocketAddr;

use dataplane::config::{CONSENT_TIMEOUT, PEER_PATHS_MAX};
use proto::plane::*;
use proto::stun;

use crate::edge::*;
use crate::world;
use crate::world::*;

#[test]
fn both_ask_and_each_has_a_path_after_a_round_trip() {
    let mut edges = Edges::new();
    for of in 0..2 {
        edges.worlds[of].commit(&[opened(of), credentials(of), candidate(of).into()]);
    }
    assert!(edges.worlds.iter().all(|world| world.sent.len() == 1), "each asks at once");
    edges.carry();
    for of in 0..2 {
        assert_eq!(edges.paths_told(of), [address(1 - of)]);
        assert_eq!(edges.worlds[of].counter(Counter::DroppedStunUnexpected), 0);
    }
    edges.advance(10 * SECOND);
    let checks = edges.net.sent[0].iter().filter(|bytes| is_check(bytes)).count();
    assert!((10..=17).contains(&checks), "{checks}: a dozen soon, and then one each two seconds");
}

#[test]
fn one_that_is_there_first_asks_until_the_other_comes() {
    let mut edges = Edges::new();
    // It has no credentials of the other one yet: there is nobody whom it could ask.
    edges.worlds[0].commit(&[opened(0), candidate(0).into()]);
    edges.advance(SECOND);
    assert!(edges.net.sent[0].is_empty());
    edges.worlds[0].commit(&[credentials(0)]);
    let times = edges.check_times(0, 10 * SECOND);
    let expected: Vec<u64> = [0, 100, 300, 700, 1500].into_iter().chain((2500..10_000).step_by(1000)).collect();
    assert_eq!(times.len(), expected.len(), "{times:?}");
    for (at, expected) in times.iter().zip(expected) {
        assert!((expected * MS..=(expected + 20 * times.len() as u64) * MS).contains(at), "{times:?}");
    }
    // The other one has its address, and cannot ask: it was not told whom.
    edges.worlds[1].commit(&[opened(1)]);
    edges.advance(1100 * MS);
    assert_eq!(
        edges.paths_told(0),
        [],
        "it answers that both have one role, which they may not before it has a candidate"
    );
    edges.worlds[1].commit(&[credentials(1), candidate(1).into()]);
    edges.advance(1100 * MS);
    assert_eq!((edges.paths_told(0), edges.paths_told(1)), (vec![address(1)], vec![address(0)]));
}

#[test]
fn a_check_from_the_other_edge_is_answered_and_its_address_asked() {
    let mut edges = Edges::new();
    // The candidate leads nowhere. The other edge comes from elsewhere, as behind a NAT.
    let nowhere = PeerCandidate { remote: "198.51.100.9:9".parse().unwrap(), ..candidate(0) };
    edges.worlds[0].mute.insert(nowhere.remote);
    edges.worlds[0].commit(&[opened(0), credentials(0), nowhere.into()]);
    edges.worlds[0].receive(address(1), &check(0));
    let sent = edges.worlds[0].take_sent(address(1));
    let [check, answer] = [true, false].map(|wanted| sent.iter().find(|bytes| is_check(bytes) == wanted));
    assert!(answer.is_some());
    let pwd = b"the-password-of-edge-two";
    edges.worlds[0].receive(address(1), &world::answer(check.expect("it is asked"), address(1), pwd));
    assert_eq!(edges.paths_told(0), [address(1)]);
    edges.worlds[0].sent.clear();
    edges.worlds[0].advance(3 * SECOND);
    let probes = edges.worlds[0].take_sent(nowhere.remote).len();
    assert!(probes <= 2, "the candidate is probed as a leg: {probes}");
}

#[test]
fn what_lapses_comes_back_when_the_other_edge_does() {
    let mut edges = Edges::linked();
    edges.net.is_cut = [true; 2];
    edges.advance(CONSENT_TIMEOUT + 2 * SECOND);
    for of in 0..2 {
        let reports = edges.worlds[of].take_reports();
        assert!(!reports.iter().any(|report| matches!(report, Report::Event(Event::PeerExpired(_)))), "{reports:?}");
        assert!(reports.contains(&Report::Event(PeerSilent { peer: PEER }.into())));
        assert_eq!(edges.worlds[of].counter(Counter::ConsentsLapsed), 1);
    }
    edges.advance(2 * CONSENT_TIMEOUT);
    let times = edges.check_times(0, 20 * SECOND);
    assert!((18..=21).contains(&times.len()), "it is asked each second: {times:?}");
    edges.net.sent = Default::default();
    edges.net.is_cut = [false; 2];
    edges.advance(1100 * MS);
    assert_eq!((edges.paths_told(0), edges.paths_told(1)), (vec![address(1)], vec![address(0)]));
    edges.advance(2 * CONSENT_TIMEOUT);
    assert_eq!(edges.worlds[0].counter(Counter::ConsentsLapsed), 1, "and stays");
}

#[test]
fn a_candidate_that_comes_late_brings_an_expired_peer_back() {
    let mut edges = Edges::new();
    // It is checked, and was not told whose checks these are.
    edges.worlds[0].commit(&[opened(0)]);
    edges.worlds[0].receive(address(1), &controlling_check());
    edges.worlds[0].advance(2 * CONSENT_TIMEOUT);
    assert!(edges.worlds[0].take_reports().contains(&Report::Event(PeerExpired { peer: PEER }.into())));
    edges.worlds[0].commit(&[credentials(0), candidate(0).into()]);
    edges.worlds[1].commit(&[opened(1), credentials(1), candidate(1).into()]);
    edges.carry();
    edges.advance(SECOND);
    assert_eq!(edges.paths_told(0), [address(1)]);
}

/// A check as a browser sends it.
fn controlling_check() -> Vec<u8> {
    let mut out = [0; 256];
    let writer = stun::Writer::binding_request(&mut out, stun::TransactionId([9; 12])).username(b"edge-one:edge-two");
    let writer = writer.priority(1).ice_controlling(1).integrity(&stun::IntegrityKey::new(b"the-password-of-edge-one"));
    let len = writer.fingerprint().finish().unwrap();
    out[..len].to_vec()
}

#[test]
fn another_candidate_of_a_number_takes_its_place_and_port_0_is_none() {
    let mut edges = Edges::linked();
    let elsewhere: SocketAddr = "198.51.100.9:9".parse().unwrap();
    edges.worlds[0].mute.insert(elsewhere);
    edges.worlds[0].commit(&[PeerCandidate { remote: elsewhere, ..candidate(0) }.into()]);
    assert!(is_check(&edges.worlds[0].take_sent(elsewhere)[0]), "it is asked at once");
    assert!(edges.worlds[0].take_sent(address(1)).is_empty());
    edges.worlds[0].commit(&[candidate(0).into()]);
    edges.carry();
    assert_eq!(edges.paths_told(0), [address(1)]);
    // All that were told are echoed, in their order.
    let others = (1..PEER_CANDIDATES_MAX as u8).map(|place| PeerCandidate {
        place,
        remote: SocketAddr::from(([198, 51, 100, 20 + place], 0)),
        ..candidate(0)
    });
    let told: Vec<PeerCandidate> = std::iter::once(candidate(0)).chain(others).collect();
    edges.worlds[0].commit(&told.iter().map(|told| (*told).into()).collect::<Vec<Command>>());
    assert_eq!(echoed(&mut edges.worlds[0]), told);
    edges.worlds[0].commit(&[PeerCandidate { place: 4, ..candidate(0) }.into()]);
    let refused = edges.worlds[0].take_reports().into_iter().find_map(|report| match report {
        Report::Event(Event::Refused(refused)) => Some((refused.tag, refused.index, refused.refusal)),
        _ => None,
    });
    assert_eq!(refused, Some((31, PEER.index, Refusal::Malformed)));
}

fn echoed(world: &mut World) -> Vec<PeerCandidate> {
    world.take_reports();
    world.commit(&[Describe {}.into()]);
    let mut egress = std::mem::take(&mut world.egress);
    while world.forwarder.is_describing() {
        world.forwarder.describe(20, &mut egress.outbox);
    }
    world.egress = egress;
    world.collect();
    let echoes = world.take_reports().into_iter().filter_map(|report| match report {
        Report::Echo(Command::PeerCandidate(told)) => Some(told),
        _ => None,
    });
    echoes.collect()
}

#[test]
fn a_handshake_passes_both_ways_before_and_after_the_answers() {
    let mut edges = Edges::new();
    for of in 0..2 {
        edges.worlds[of].commit(&[opened(of), credentials(of), candidate(of).into()]);
    }
    // The first edge's check arrives, and its answer, and no other: the second has not been answered yet.
    let [check] = edges.worlds[0].take_sent(address(1)).try_into().unwrap();
    edges.worlds[1].take_sent(address(0));
    edges.worlds[1].receive(address(0), &check);
    let answer = edges.worlds[1].take_sent(address(0)).into_iter().find(|bytes| !is_check(bytes)).unwrap();
    edges.worlds[0].receive(address(1), &answer);
    assert_eq!(edges.paths_told(0), [address(1)]);
    // The DTLS client is the first edge: its hello, and the whole flight of the server, with two certificates of P-256.
    let flight =
        |len: u16| [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0][..], &len.to_be_bytes(), &vec![0; len.into()]].concat();
    let header = |of: usize, len: usize| DatagramHeader {
        kind: DatagramKind::Dtls,
        peer: PEER,
        remote: address(1 - of),
        len: len as u16,
    };
    for (of, len) in [(0, 300), (1, 900), (0, 1100)] {
        let bytes = flight(len);
        let world = &mut edges.worlds[of];
        world.forwarder.inject(world.now, &header(of, bytes.len()), &bytes, &mut world.egress.outbox);
        world.collect();
        assert_eq!(world.counter(Counter::InjectRefused), 0);
        let sent = world.take_sent(address(1 - of));
        assert!(sent.contains(&bytes));
        edges.worlds[1 - of].receive(address(of), &bytes);
        assert_eq!(edges.worlds[1 - of].punts.pop().map(|(_, payload)| payload), Some(bytes));
    }
}

#[test]
fn nobody_who_is_no_candidate_is_sent_more_than_three_times_what_came_from_there() {
    let mut edges = Edges::linked();
    let victim: SocketAddr = "203.0.113.66:6666".parse().unwrap();
    edges.worlds[0].mute.insert(victim);
    let check = check(0);
    for _ in 0..10 {
        edges.worlds[0].receive(victim, &check);
        edges.advance(SECOND);
    }
    let sent: usize = edges.worlds[0].take_sent(victim).iter().map(Vec::len).sum();
    assert!(sent <= 30 * check.len(), "{sent}");
    assert_eq!(edges.paths_told(0), [], "and nothing moves there");
    for n in 0..2 * PEER_PATHS_MAX as u16 {
        edges.worlds[0].receive(SocketAddr::from(([203, 0, 113, 1], 1000 + n)), &check);
    }
    edges.worlds[0].commit(&[PeerCandidate { place: 1, remote: victim, ..candidate(0) }.into()]);
    edges.net.is_cut = [true, true];
    edges.advance(CONSENT_TIMEOUT + 10 * SECOND);
    edges.worlds[0].take_sent(victim);
    edges.net.is_cut = [false, false];
    edges.advance(2 * SECOND);
    assert_eq!(edges.paths_told(0), [address(1)], "a candidate is never forgotten for addresses that check");
}
