//! Nobody is sent what he did not ask for: a peer's media goes to an address after that has answered a check of the worker's
//! own, and for as long as it goes on answering (RFC 7675, RFC 8445 §7.3). Until then it is sent three times what came from it.

use std::collections::HashMap;
use std::net::SocketAddr;

use dataplane::config::{CONSENT_TIMEOUT, UNANSWERED_FACTOR};
use proptest::prelude::*;
use proto::id::{SlotId, StreamId};
use proto::plane::*;
use proto::stun;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MS: u64 = 1000;
const SECOND: u64 = 1_000_000;

fn victim() -> SocketAddr {
    "203.0.113.66:6666".parse().unwrap()
}

/// Alice speaks to Bob.
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    stream: StreamId,
    slot: SlotId,
    seq: u16,
}

impl Call {
    fn new() -> Call {
        let mut world = World::new();
        let alice = world.connect(GCM);
        let bob = world.connect(GCM);
        let stream = world.publish(&alice, Codec::Opus);
        let slot = world.slot(&bob);
        world.route(stream, slot);
        Call { world, alice, bob, stream, slot, seq: 0 }
    }

    fn speak(&mut self) {
        self.seq += 1;
        let packet = packet(self.world.ssrc_of(self.stream), OPUS_PT, self.seq, 0, &[7; 500]);
        let protected = self.alice.protect(&packet);
        self.world.receive(self.alice.remote, &protected);
    }

    /// Alice speaks; how many packets of her arrive at an address.
    fn heard_at(&mut self, address: SocketAddr) -> usize {
        self.world.sent.clear();
        self.speak();
        let datagrams = self.world.take_sent(address);
        self.bob.unprotect(&datagrams).len()
    }

    /// A check of Bob's comes from an address; the worker's own check to there, if any.
    fn check_from(&mut self, address: SocketAddr, nominate: bool) -> Option<Vec<u8>> {
        let check = self.bob.check(nominate);
        self.world.receive(address, &check);
        self.world.take_sent(address).into_iter().find(|bytes| is_check(bytes))
    }
}

#[test]
fn media_follows_a_nomination_after_one_round_trip_and_flows_as_before_until_then() {
    let mut call = Call::new();
    let (home, mobile) = (call.bob.remote, "127.0.0.3:5555".parse().unwrap());
    call.world.mute.insert(mobile);
    call.world.reports.clear();
    let asked = call.check_from(mobile, true).expect("it is asked at once");
    let request = stun::Message::parse(&asked).unwrap();
    assert_eq!(request.username(), Some([PEERS_UFRAG, b":", &call.bob.ufrag].concat().as_slice()));
    assert!(request.check_integrity(&stun::IntegrityKey::new(PEERS_PWD)) && request.check_fingerprint());
    assert!(request.ice_controlled().is_some() && request.priority().is_some() && !request.use_candidate());

    assert_eq!(call.heard_at(home), 1);
    assert!(call.world.reports.is_empty(), "nothing has moved");
    call.world.receive(mobile, &answer(&asked, mobile, PEERS_PWD));
    let moved = PeerPath { peer: call.bob.id, remote: mobile, nominated: 1 };
    assert_eq!(call.world.take_reports(), [Report::Event(moved.into())]);
    assert_eq!(call.heard_at(mobile), 1);
    assert_eq!(call.heard_at(home), 0);
    assert!(call.check_from(home, false).is_none(), "what is not nominated is not asked");
    assert_eq!(call.heard_at(mobile), 1);
}

#[test]
fn a_check_that_others_send_again_from_elsewhere_moves_nothing() {
    let mut call = Call::new();
    call.world.mute.insert(victim());
    let check = call.bob.check(true);
    let mut sent = 0;
    for _ in 0..10 {
        call.world.receive(victim(), &check);
        for _ in 0..100 {
            call.speak();
            call.world.advance(10 * MS);
        }
        sent += call.world.take_sent(victim()).iter().map(Vec::len).sum::<usize>();
    }
    assert!(sent <= 10 * check.len() * UNANSWERED_FACTOR as usize, "{sent} bytes for ten of {}", check.len());
    let datagrams = call.world.take_sent(call.bob.remote);
    assert_eq!(call.bob.unprotect(&datagrams).len(), 1000, "and Bob heard every word");
    assert!(call.world.counter(Counter::PathsUnanswered) > 0);
}

#[test]
fn only_the_answer_to_the_very_check_from_the_very_address_counts() {
    let mut call = Call::new();
    let mobile: SocketAddr = "127.0.0.3:5555".parse().unwrap();
    call.world.mute.insert(mobile);
    let asked = call.check_from(mobile, true).expect("it is asked");
    let mut other = asked.clone();
    other[19] ^= 1;
    let unexpected = |call: &mut Call| call.world.counter(Counter::DroppedStunUnexpected);
    call.world.receive(mobile, &answer(&other, mobile, PEERS_PWD));
    assert_eq!(unexpected(&mut call), 1, "another transaction");
    call.world.receive(call.bob.remote, &answer(&asked, mobile, PEERS_PWD));
    assert_eq!(unexpected(&mut call), 2, "from another address of the peer");
    call.world.receive(call.alice.remote, &answer(&asked, mobile, PEERS_PWD));
    assert_eq!(unexpected(&mut call), 3, "from another peer");
    let pwd = call.bob.pwd;
    call.world.receive(mobile, &answer(&asked, mobile, &pwd));
    assert_eq!(call.world.counter(Counter::DroppedStunIntegrity), 1, "our password keys our answers, not the peer's");
    let mut unsigned = [0; 128];
    let id = stun::Message::parse(&asked).unwrap().transaction_id();
    let len = stun::Writer::binding_success(&mut unsigned, id, mobile).fingerprint().finish().unwrap();
    call.world.receive(mobile, &unsigned[..len]);
    let refusal = stun::Writer::binding_error(&mut unsigned, id, stun::ErrorCode::RoleConflict);
    let len = refusal.integrity(&stun::IntegrityKey::new(PEERS_PWD)).fingerprint().finish().unwrap();
    call.world.receive(mobile, &unsigned[..len]);
    assert_eq!(call.heard_at(mobile), 0);
    call.world.receive(mobile, &answer(&asked, mobile, PEERS_PWD));
    assert_eq!(call.heard_at(mobile), 1);
    call.world.receive(mobile, &answer(&asked, mobile, PEERS_PWD));
    assert_eq!(unexpected(&mut call), 4, "an answer counts once");
}

#[test]
fn consent_is_of_the_path_that_is_used_and_of_no_other() {
    let mut call = Call::new();
    let mobile: SocketAddr = "127.0.0.3:5555".parse().unwrap();
    call.check_from(mobile, true);
    assert_eq!(call.heard_at(mobile), 1);
    // The phone is gone. Somebody goes on checking from both addresses, and answers from the old one.
    call.world.mute.insert(mobile);
    for _ in 0..40 {
        call.check_from(mobile, true);
        let home = call.bob.remote;
        call.check_from(home, false);
        call.world.advance(SECOND);
        call.world.sent.clear();
    }
    assert!(call.world.reports.contains(&Report::Event(PeerExpired { peer: call.bob.id }.into())));
    assert_eq!(call.heard_at(mobile), 0);
}

#[test]
fn a_path_is_asked_each_five_seconds_or_so_and_no_two_alike() {
    let mut call = Call::new();
    call.world.mute.insert(call.bob.remote);
    call.world.sent.clear();
    let (mut times, mut ids) = (Vec::new(), Vec::new());
    let start = call.world.now;
    while call.world.now < start + 120 * SECOND {
        call.world.advance(10 * MS);
        for check in call.world.take_sent(call.bob.remote).into_iter().filter(|bytes| is_check(bytes)) {
            times.push(call.world.now);
            ids.push(stun::Message::parse(&check).unwrap().transaction_id());
            let bob = call.bob.remote;
            call.world.receive(bob, &answer(&check, bob, PEERS_PWD));
        }
    }
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 18 && gaps.iter().all(|gap| (3_990 * MS..=6_010 * MS).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap < 4_800 * MS) && gaps.iter().any(|gap| *gap > 5_200 * MS), "they differ");
    ids.sort_by_key(|id| id.0);
    ids.dedup();
    assert_eq!(ids.len(), times.len());
}

#[test]
fn before_the_first_answer_the_handshake_passes_and_nothing_else() {
    let mut world = World::new();
    let mut alice = world.connect(GCM);
    let mut bob = world.open(GCM);
    world.mute.insert(bob.remote);
    let check = bob.check(false);
    world.receive(bob.remote, &check);
    assert!(
        world
            .reports
            .iter()
            .all(|report| !matches!(report, Report::Event(Event::PeerPath(path)) if path.peer == bob.id))
    );
    // A ClientHello of Chromium 120 without a post-quantum share, and our flight with a certificate of P-256: DTLS 1.2.
    let mut hello = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    hello.resize(13 + 144, 0);
    hello[12] = 144;
    world.receive(bob.remote, &hello);
    let sent: usize = world.take_sent(bob.remote).iter().map(Vec::len).sum();
    let left = UNANSWERED_FACTOR as usize * (check.len() + hello.len()) - sent;
    assert!(left >= 500, "{left} bytes");
    let header =
        |len: usize| DatagramHeader { kind: DatagramKind::Dtls, peer: bob.id, remote: bob.remote, len: len as u16 };
    world.forwarder.inject(world.now, &header(left), &vec![22; left], &mut world.egress.outbox);
    world.forwarder.inject(world.now, &header(1), &[22], &mut world.egress.outbox);
    world.collect();
    assert_eq!(world.take_sent(bob.remote).iter().map(Vec::len).collect::<Vec<_>>(), [left]);
    assert_eq!(world.counter(Counter::InjectRefused), 1);

    world.commit(&bob.keys());
    let stream = world.publish(&alice, Codec::Opus);
    let slot = world.slot(&bob);
    world.route(stream, slot);
    let protected = alice.protect(&packet(world.ssrc_of(stream), OPUS_PT, 1, 0, b"hello"));
    world.receive(alice.remote, &protected);
    world.advance(3 * SECOND);
    assert!(world.take_sent(bob.remote).is_empty(), "neither media nor reports nor more checks: its credit is used up");
    world.mute.clear();
    world.receive(bob.remote, &check);
    world.advance(SECOND);
    let protected = alice.protect(&packet(world.ssrc_of(stream), OPUS_PT, 2, 0, b"hello"));
    world.take_sent(bob.remote);
    world.receive(alice.remote, &protected);
    let datagrams = world.take_sent(bob.remote);
    assert_eq!(bob.unprotect(&datagrams).len(), 1, "the next check brings the credit for ours");
}

#[test]
fn credentials_of_any_length_and_of_a_restart_are_used() {
    let mut call = Call::new();
    let (ufrag, pwd) = ([b'x'; 256], [b'y'; 256]);
    let parts = PeerRemote::parts(call.bob.id, &ufrag, &pwd).unwrap();
    let ice = PeerIce { peer: call.bob.id, ufrag: *b"another0", pwd: call.bob.pwd };
    let commands: Vec<Command> = std::iter::once(ice.into()).chain(parts.iter().map(|part| (*part).into())).collect();
    call.world.commit(&commands);
    call.bob.ufrag = ice.ufrag;
    call.bob.own_ufrag = ufrag.to_vec();
    assert_eq!(call.heard_at(call.bob.remote), 1, "media goes on where it went");
    let mobile: SocketAddr = "127.0.0.3:5555".parse().unwrap();
    call.world.mute.insert(mobile);
    let asked = call.check_from(mobile, true).expect("it is asked");
    assert_eq!(stun::Message::parse(&asked).unwrap().username(), Some([&ufrag[..], b":another0"].concat().as_slice()));
    call.world.receive(mobile, &answer(&asked, mobile, &pwd));
    assert_eq!(call.heard_at(mobile), 1);

    call.world.commit(&[Describe {}.into()]);
    let mut egress = std::mem::take(&mut call.world.egress);
    while call.world.forwarder.is_describing() {
        call.world.forwarder.describe(20, &mut egress.outbox);
    }
    call.world.egress = egress;
    call.world.collect();
    let echoed: Vec<PeerRemote> = call
        .world
        .take_reports()
        .into_iter()
        .filter_map(|report| match report {
            Report::Echo(Command::PeerRemote(part)) if part.peer == call.bob.id => Some(part),
            _ => None,
        })
        .collect();
    assert_eq!(echoed, parts, "a successor of the controlplane finds them");
    let _ = call.slot;
}

/// What happens to the addresses of a call.
#[derive(Clone, Debug)]
enum Step {
    /// A check of Bob's comes from one of twelve addresses.
    Check {
        from: u8,
        nominates: bool,
    },
    /// So many bytes of DTLS come from there.
    Hello {
        from: u8,
        len: u16,
    },
    /// The controlplane answers there.
    Inject {
        to: u8,
        len: u16,
    },
    /// Alice speaks.
    Speak,
    Wait {
        ms: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..12u8, any::<bool>()).prop_map(|(from, nominates)| Step::Check { from, nominates }),
        1 => (0..12u8, 0..1400u16).prop_map(|(from, len)| Step::Hello { from, len }),
        1 => (0..12u8, 1..1400u16).prop_map(|(to, len)| Step::Inject { to, len }),
        3 => Just(Step::Speak),
        1 => (1..3000u16).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever comes in the peer's name from addresses where nobody answers, each is sent at most three times of it.
    #[test]
    fn no_address_that_never_answered_is_sent_more_than_three_times_what_came_from_there(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut call = Call::new();
        let address = |n: u8| SocketAddr::from(([203, 0, 113, n], 6000));
        call.world.mute.extend((0..12).map(address));
        let mut balance: HashMap<SocketAddr, (usize, usize)> = HashMap::new();
        let mut heard = 0;
        for step in &steps {
            let (from, bytes) = match *step {
                Step::Check { from, nominates } => (address(from), call.bob.check(nominates)),
                Step::Hello { from, len } => {
                    let mut hello = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0];
                    hello.extend(len.to_be_bytes());
                    hello.resize(13 + usize::from(len), 0);
                    (address(from), hello)
                }
                Step::Inject { to, len } => {
                    let header = DatagramHeader { kind: DatagramKind::Dtls, peer: call.bob.id, remote: address(to), len };
                    let payload = vec![22; len.into()];
                    call.world.forwarder.inject(call.world.now, &header, &payload, &mut call.world.egress.outbox);
                    call.world.collect();
                    continue;
                }
                Step::Speak => {
                    call.speak();
                    heard += 1;
                    continue;
                }
                Step::Wait { ms } => {
                    call.world.advance(u64::from(ms) * MS);
                    continue;
                }
            };
            balance.entry(from).or_default().0 += bytes.len();
            call.world.receive(from, &bytes);
        }
        call.world.advance(CONSENT_TIMEOUT / 2);
        let home = call.bob.remote;
        let datagrams = call.world.take_sent(home);
        prop_assert_eq!(call.bob.unprotect(&datagrams).len(), heard, "and the call goes on where it is");
        for (to, bytes) in call.world.sent.drain(..) {
            balance.entry(to).or_default().1 += bytes.len();
        }
        for (address, (came, went)) in balance.into_iter().filter(|(address, _)| *address != call.alice.remote) {
            prop_assert!(went <= UNANSWERED_FACTOR as usize * came, "{address}: {went} bytes for {came}");
        }
    }
}
