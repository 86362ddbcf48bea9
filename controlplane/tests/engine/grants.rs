//! Tokens of those who are in: brought anew, running out, with fewer rights and with more.

use std::time::Duration;

use controlplane::auth::{Claims, id_of};
use controlplane::engine::{Grant, Input, OperatorRequest, Settings, SocketId};
use controlplane::revocations::Whose;
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, ServerSignal};

use crate::world::{Client, PAGE, World, grant, page_tracks};

/// When these tests begin, seconds since 1970.
const BEGIN: u64 = 1_800_000_000;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A world that knows what time it is.
fn world(expire_peers: bool) -> World {
    let mut world = World::with(Settings { expire_peers, ..Settings::default() }, 1);
    world.input(Input::WallClock(seconds(BEGIN)));
    world
}

fn until(name: &str, expires_in: u64) -> Grant {
    Grant { expires_at: Some(BEGIN + expires_in), ..grant(name) }
}

fn join(world: &mut World, grant: Grant) -> Client {
    let mut client = world.guest("blue", grant);
    world.offer(&mut client, PAGE, page_tracks()).unwrap();
    world.connect(&mut client);
    client
}

impl World {
    /// The signals of a client that brings another token.
    fn bring(&mut self, socket: u64, grant: Grant) -> Vec<ServerSignal> {
        self.drain(socket);
        self.input(Input::Granted { socket: SocketId(socket), grant });
        self.drain(socket)
    }
}

fn expiring(signals: &[ServerSignal]) -> Vec<u64> {
    let times = signals.iter().filter_map(|signal| match signal {
        ServerSignal::TokenExpiring { expires_in_ms } => Some(*expires_in_ms),
        _ => None,
    });
    times.collect()
}

fn granted(may_publish: bool, may_subscribe: bool, expires_in_s: Option<u64>) -> ServerSignal {
    let expires_in_ms = expires_in_s.map(|s| s * 1000);
    ServerSignal::Granted { may_publish, may_subscribe, may_send_data: false, expires_in_ms }
}

fn is_refused(signals: &[ServerSignal], begin: &str) -> bool {
    matches!(signals, [ServerSignal::Error { code: ErrorCode::TokenRefused, message, fatal: false }] if message.starts_with(begin))
}

#[test]
fn a_client_is_told_a_minute_before_and_goes_on_with_another_token() {
    let mut world = world(true);
    let ada = join(&mut world, until("Ada", 600));
    world.drain(ada.socket);
    world.pass(seconds(539));
    assert!(expiring(&world.drain(ada.socket)).is_empty());
    world.pass(seconds(2));
    assert_eq!(expiring(&world.drain(ada.socket)), [60_000]);

    // 541 s have passed.
    assert_eq!(world.bring(ada.socket, until("Ada", 941)), [granted(true, true, Some(400))]);
    world.pass(seconds(300));
    assert!(expiring(&world.drain(ada.socket)).is_empty(), "the former token does not matter any more");
    world.pass(seconds(50));
    assert_eq!(expiring(&world.drain(ada.socket)), [60_000]);
    assert_eq!(world.bring(ada.socket, grant("Ada")), [granted(true, true, None)], "one without an end");
    world.pass(seconds(100_000));
    assert!(world.drain(ada.socket).is_empty() && !world.closed.contains(&ada.socket));
}

#[test]
fn who_brings_no_other_stays_in_or_goes_as_the_operator_wants() {
    let mut lenient = world(false);
    let ada = join(&mut lenient, until("Ada", 100));
    lenient.pass(seconds(10_000));
    assert_eq!(expiring(&lenient.drain(ada.socket)), [60_000]);
    assert!(!lenient.closed.contains(&ada.socket));

    // The setting may be changed, for who is in too.
    lenient.input(Input::Settings(Box::new(Settings { expire_peers: true, ..Settings::default() })));
    lenient.pass(seconds(1));
    let last = lenient.drain(ada.socket).pop();
    assert_eq!(last, Some(ServerSignal::Bye { reason: LeaveReason::TokenExpired, rejoin: true }));

    let mut strict = world(true);
    let (ada, bob) = (join(&mut strict, until("Ada", 100)), join(&mut strict, until("Bob", 100_000)));
    strict.drain(bob.socket);
    strict.pass(seconds(129));
    assert!(!strict.closed.contains(&ada.socket), "clocks may differ by 30 s");
    strict.pass(seconds(2));
    assert!(strict.closed.contains(&ada.socket));
    let left = ServerSignal::PeerLeft { peer: ada.id, reason: LeaveReason::TokenExpired };
    assert!(strict.drain(bob.socket).contains(&left));
    assert_eq!(strict.worker().peers.len(), 1);
}

#[test]
fn a_token_is_for_its_room_and_for_the_name_that_is_there() {
    let mut world = world(false);
    let ada = join(&mut world, grant("Ada"));
    assert!(is_refused(&world.bring(ada.socket, grant("Bob")), "other_name: "));
    let red = Grant { room: "red".into(), ..grant("Ada") };
    assert!(is_refused(&world.bring(ada.socket, red), "wrong_room: "));
    let guest = world.open("blue", grant("Cyd"));
    assert!(is_refused(&world.bring(guest, grant("Dan")), "other_name: "));
    let mute = Grant { publish: false, ..grant("Cyd") };
    assert_eq!(world.bring(guest, mute), [granted(false, true, None)], "who has not offered yet may change too");
    world.input(Input::Granted { socket: SocketId(99), grant: grant("Nobody") });
}

#[test]
fn rights_that_are_withdrawn_end_media_and_come_back_without_an_offer() {
    let mut world = world(false);
    let (ada, bob) = (join(&mut world, grant("Ada")), join(&mut world, grant("Bob")));
    assert_eq!(world.worker().routes.len(), 4);
    world.drain(bob.socket);

    let listener = Grant { publish: false, ..grant("Ada") };
    let told = world.bring(ada.socket, listener.clone());
    assert_eq!(told.last(), Some(&granted(false, true, None)));
    let off = |signals: &[ServerSignal]| {
        let is_off = |signal: &&ServerSignal| matches!(signal, ServerSignal::TrackChanged { peer, track } if *peer == ada.id && !track.active);
        signals.iter().filter(is_off).count()
    };
    assert_eq!((off(&told), world.worker().routes.len()), (2, 2), "its owner is told too");
    let told = world.drain(bob.socket);
    assert_eq!(off(&told), 2);
    let slots = told.iter().rev().find_map(|signal| match signal {
        ServerSignal::Slots { slots } => Some(slots),
        _ => None,
    });
    assert!(slots.unwrap().iter().all(|slot| slot.peer.is_none()), "nothing of Ada is in a slot");
    world.say(ada.socket, ClientSignal::Track { mid: "0".into(), active: true });
    assert!(matches!(world.drain(ada.socket)[..], [ServerSignal::Error { code: ErrorCode::Forbidden, .. }]));

    let nothing = Grant { subscribe: false, ..listener };
    assert_eq!(world.bring(ada.socket, nothing).last(), Some(&granted(false, false, None)));
    assert_eq!(world.worker().routes.len(), 0);

    assert_eq!(world.bring(ada.socket, grant("Ada")).last(), Some(&granted(true, true, None)));
    assert_eq!(world.worker().routes.len(), 4);
    assert!(world.drain(bob.socket).iter().any(|signal| matches!(signal, ServerSignal::Slots { .. })));
}

#[test]
fn a_resume_brings_its_token_and_a_restart_forgets_nothing() {
    let mut world = world(true);
    let (ada, bob) = (join(&mut world, until("Ada", 1000)), join(&mut world, until("Bob", 100_000)));
    world.bring(ada.socket, Grant { publish: false, ..until("Ada", 100) });
    world.restart_controlplane();
    world.input(Input::WallClock(seconds(BEGIN)));
    assert_eq!(world.worker().routes.len(), 2, "what was withdrawn stays so");

    let socket = world.open("blue", until("Ada", 200));
    world.drain(socket);
    world.say(socket, ClientSignal::Resume { session: ada.session.clone() });
    let told = world.drain(socket);
    assert!(
        matches!(told[..], [.., ServerSignal::Welcome { may_publish: true, resumed: true, .. }, _, _, _, _, _, _]),
        "{told:?}"
    );
    assert_eq!(world.worker().routes.len(), 4, "the token of the new socket holds");

    // A token of somebody else opens the door, and the session the peer; the rights stay.
    let socket = world.open("blue", Grant { publish: false, ..until("Eve", 100_000) });
    world.say(socket, ClientSignal::Resume { session: ada.session });
    assert_eq!(world.worker().routes.len(), 4);
    let back = world.open("blue", until("Bob", 100_000));
    world.say(back, ClientSignal::Resume { session: bob.session });
    world.drain(socket);
    world.pass(seconds(141));
    assert_eq!(expiring(&world.drain(socket)), [60_000]);
    world.pass(seconds(100));
    assert!(world.closed.contains(&socket) && !world.closed.contains(&back));
}

#[test]
fn one_token_is_revoked_with_who_came_by_it() {
    let mut world = world(false);
    let of = |token: &str| Grant { token: Some(token.into()), ..grant("Ada") };
    let (first, second) = (join(&mut world, of("1")), join(&mut world, of("2")));
    world.bring(second.socket, of("3"));
    let remove = |token: &str| OperatorRequest::Revoke { room: "blue".into(), whose: Whose::Token(token.into()) };
    world.operate(remove("2")).unwrap();
    world.carry();
    assert!(world.closed.is_empty(), "nobody is in by that one any more");
    world.operate(remove("1")).unwrap();
    world.carry();
    assert!(world.closed.contains(&first.socket) && !world.closed.contains(&second.socket));
}

#[test]
fn who_is_removed_by_name_is_whom_one_sees_and_whose_token_it_was() {
    let mut world = world(false);
    let studio = Grant { issued_to: Some(id_of("*")), ..grant("Studio") };
    let studio = join(&mut world, studio);
    let named = |name: &str| OperatorRequest::Revoke { room: "blue".into(), whose: Whose::Name(name.into()) };
    world.operate(named("Ada")).unwrap();
    world.carry();
    assert!(world.closed.is_empty());
    world.operate(named("*")).unwrap();
    world.carry();
    assert!(world.closed.contains(&studio.socket));
}

/// A child dies with its parent, also after a restart of the controlplane.
#[test]
fn who_came_by_a_token_that_a_revoked_one_made_goes_too() {
    let everything = Claims { admin: true, ..Claims::new("*", "backend", 60) };
    let host = Claims::new("blue", "Host", 60).made_by(&everything, everything.as_governor()).unwrap();
    let guest = Claims::new("blue", "Guest", 60).made_by(&host, host.as_inviter()).unwrap();
    let of = |claims: &Claims| Grant {
        token: claims.id(),
        made_by: claims.made_by.clone().into(),
        name: claims.name.clone(),
        ..grant("")
    };
    let revoke = |room: &str, whose: Whose| OperatorRequest::Revoke { room: room.into(), whose };
    for (room, whose, goes) in [
        ("blue", Whose::Token(host.identity()), true),
        ("blue", Whose::Name("Host".into()), true),
        ("blue", Whose::Name("Somebody".into()), false),
        ("red", Whose::Token(host.identity()), false),
        // What governs everything is out of reach for a room's admin.
        ("blue", Whose::Token(everything.identity()), false),
        ("blue", Whose::Name("backend".into()), false),
        ("*", Whose::Token(everything.identity()), true),
        ("*", Whose::Name("backend".into()), true),
        ("*", Whose::Token(guest.identity()), true),
    ] {
        let mut world = world(false);
        let (peer, other) = (join(&mut world, of(&guest)), join(&mut world, grant("Other")));
        world.restart_controlplane();
        let count =
            |world: &mut World| world.engine.snapshot().rooms.iter().map(|room| room.peers.len()).sum::<usize>();
        world.operate(revoke(room, whose.clone())).unwrap();
        world.carry();
        assert_eq!(count(&mut world), if goes { 1 } else { 2 }, "{room} {whose:?}");
        assert_ne!(peer.id, other.id);
    }
}

/// A revocation everywhere reaches peers and guests in every room.
#[test]
fn a_revocation_everywhere_reaches_every_room() {
    let mut world = world(false);
    let ada = join(&mut world, grant("Ada"));
    let guest = world.open("green", grant("Ada"));
    let bob = join(&mut world, grant("Bob"));
    world.operate(OperatorRequest::Revoke { room: "*".into(), whose: Whose::Name("Ada".into()) }).unwrap();
    world.carry();
    assert!(world.closed.contains(&ada.socket) && world.closed.contains(&guest));
    assert!(!world.closed.contains(&bob.socket));
}
