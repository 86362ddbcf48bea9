//! A peer goes to another room, in virtual time: what its worker is told, what everybody hears, and what a successor
//! knows of it.

use controlplane::engine::{
    Grant, OperatorError, OperatorRequest, ResourceReply, ResourceRequest, RoomPolicy, Settings,
};
use controlplane::policy::VideoCodecs;
use controlplane::revocations::Whose;
use proto::plane::RouteOpen;
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, ServerSignal, Source, VideoCodec};

use crate::world::{self, Client, World, carried, error_of, grant, is_bye, names};

fn relocate(world: &mut World, from: &str, client: &Client, to: &str) -> Result<(), OperatorError> {
    let order = OperatorRequest::MovePeer { room: from.into(), peer: client.id.clone(), to: to.into() };
    let moved = world.operate(order);
    world.carry();
    moved
}

fn set_room(world: &mut World, room: &str, policy: RoomPolicy) {
    world.operate(OperatorRequest::SetRoom { room: room.into(), policy }).unwrap();
    world.carry();
}

/// Who is carried to whom, by the clients' places in the list.
fn pairs(world: &mut World, clients: &[&Client]) -> Vec<(usize, usize)> {
    let place = |peer| clients.iter().position(|client| client.peer == Some(peer)).expect("one of them");
    let worker = world.worker();
    let ends = |route: &RouteOpen| {
        (place(worker.streams[&route.stream.index].peer), place(worker.slots[&route.slot.index].peer))
    };
    let mut pairs: Vec<_> = worker.routes.values().map(ends).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

#[test]
fn who_is_moved_keeps_transport_and_slots_and_both_rooms_are_told() {
    let mut world = World::new();
    let (ada, bob, cyd) = (world.join("blue", "Ada"), world.join("blue", "Bob"), world.join("red", "Cyd"));
    for client in [&ada, &bob, &cyd] {
        world.drain(client.socket);
    }
    let (peers, streams, slots, _) = world.worker().dump();
    assert_eq!(pairs(&mut world, &[&ada, &bob, &cyd]), [(0, 1), (1, 0)]);
    set_room(&mut world, "red", RoomPolicy { peers_max: Some(5), ..RoomPolicy::default() });
    world.drain(cyd.socket);
    relocate(&mut world, "blue", &bob, "red").unwrap();

    assert_eq!(pairs(&mut world, &[&ada, &bob, &cyd]), [(1, 2), (2, 1)]);
    let now = world.worker().dump();
    assert_eq!((now.0, now.1, now.2), (peers, streams, slots), "nothing is closed or opened but routes");
    assert!(world.worker().refused.is_empty());

    let told = world.drain(ada.socket);
    let is_gone = |signal: &ServerSignal| matches!(signal, ServerSignal::PeerLeft { peer, reason: LeaveReason::Moved } if *peer == bob.id);
    assert!(is_gone(&told[0]), "{told:?}");
    assert!(told.iter().any(|signal| matches!(signal, ServerSignal::Slots { slots } if carried(slots).is_empty())));
    assert!(told.iter().any(|signal| matches!(signal, ServerSignal::Limits { send_bps_max: 2_000_000, .. })));

    let told = world.drain(cyd.socket);
    assert!(matches!(&told[0], ServerSignal::PeerJoined { peer } if peer.peer == bob.id && peer.tracks.len() == 3));

    let told = world.drain(bob.socket);
    assert!(matches!(&told[0], ServerSignal::Moved { room, peers_max: 5 } if room == "red"), "{told:?}");
    assert!(matches!(&told[1], ServerSignal::Peers { peers } if names(peers) == ["Cyd"]));
    let slots = told.iter().filter_map(|signal| match signal {
        ServerSignal::Slots { slots } => Some(carried(slots)),
        _ => None,
    });
    let slots: Vec<_> = slots.collect();
    let of_cyd = [("3".into(), cyd.id.clone(), Source::Microphone), ("10".into(), cyd.id.clone(), Source::Camera)];
    assert_eq!(slots, [of_cyd]);
    let has = |wanted: fn(&ServerSignal) -> bool| told.iter().filter(|signal| wanted(signal)).count();
    assert_eq!(has(|signal| matches!(signal, ServerSignal::Limits { send_bps_max: 1_000_000, .. })), 1);
    assert_eq!(has(|signal| matches!(signal, ServerSignal::Codec { .. })), 1);
    assert_eq!(has(|signal| matches!(signal, ServerSignal::Bye { .. } | ServerSignal::Answer { .. })), 0);

    // What it says from now on is heard in the new room.
    world.say(bob.socket, ClientSignal::Track { mid: "1".into(), active: false });
    assert!(world.drain(ada.socket).is_empty());
    assert!(matches!(world.drain(cyd.socket)[0], ServerSignal::TrackChanged { .. }));
}

#[test]
fn the_last_one_takes_the_room_along() {
    let mut world = World::with(Settings { rooms_max: 1, ..Settings::default() }, 1);
    let ada = world.join("blue", "Ada");
    world.drain(ada.socket);
    relocate(&mut world, "blue", &ada, "red").expect("the one room that there may be is another now");
    let told = world.drain(ada.socket);
    assert!(told.iter().any(|signal| matches!(signal, ServerSignal::Slots { slots } if carried(slots).is_empty())));
    let rooms: Vec<String> = world.engine.snapshot().rooms.into_iter().map(|room| room.room).collect();
    assert_eq!(rooms, ["red"]);
    relocate(&mut world, "red", &ada, "red").expect("it is there already");
    assert!(world.drain(ada.socket).is_empty());
    let bob = world.join("red", "Bob");
    assert_eq!(relocate(&mut world, "red", &bob, "blue"), Err(OperatorError::TooManyRooms));
    assert_eq!(pairs(&mut world, &[&ada, &bob]), [(0, 1), (1, 0)], "a refused move changes nothing");
}

#[test]
fn a_room_that_does_not_take_it_leaves_all_as_it_is() {
    let mut world = World::new();
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    set_room(&mut world, "red", RoomPolicy { locked: true, ..RoomPolicy::default() });
    assert_eq!(relocate(&mut world, "blue", &bob, "red"), Err(OperatorError::Locked));
    let codecs = VideoCodecs::new(&[VideoCodec::Vp9]);
    set_room(&mut world, "green", RoomPolicy { codecs, ..RoomPolicy::default() });
    assert_eq!(relocate(&mut world, "blue", &bob, "green"), Err(OperatorError::OtherCodecs));
    set_room(&mut world, "red", RoomPolicy { peers_max: Some(1), ..RoomPolicy::default() });
    relocate(&mut world, "blue", &bob, "red").expect("a room that is made and empty is nobody's");
    assert_eq!(relocate(&mut world, "blue", &ada, "red"), Err(OperatorError::Full));
    assert_eq!(relocate(&mut world, "blue", &bob, "red"), Err(OperatorError::NoPeer), "it is there no more");
    assert_eq!(relocate(&mut world, "white", &bob, "red"), Err(OperatorError::NoRoom));
}

#[test]
fn who_was_moved_resumes_at_the_address_that_it_joined_by() {
    let mut world = World::new();
    let (ada, bob) = (world.join("blue", "Ada"), world.join("red", "Bob"));
    relocate(&mut world, "blue", &ada, "red").unwrap();
    let routes = world.worker().dump().3;
    for round in ["the same controlplane", "its successor"] {
        for room in ["blue", "red"] {
            let socket = world.open(room, Grant { room: room.into(), ..grant("Ada") });
            world.next(socket);
            world.say(socket, ClientSignal::Resume { session: ada.session.clone() });
            let told = world.drain(socket);
            let ServerSignal::Welcome { room, peer, resumed: true, .. } = &told[0] else { panic!("{round}: {told:?}") };
            assert_eq!((room.as_str(), peer), ("red", &ada.id), "{round}");
            assert!(
                told.iter().any(|signal| matches!(signal, ServerSignal::Peers { peers } if names(peers) == ["Bob"]))
            );
        }
        let socket = world.open("green", grant("Ada"));
        world.next(socket);
        world.say(socket, ClientSignal::Resume { session: ada.session.clone() });
        assert_eq!(error_of(world.next(socket)), (ErrorCode::UnknownSession, false), "but nowhere else");
        world.restart_controlplane();
        assert_eq!(world.worker().dump().3, routes, "what flows is adopted as it is");
    }
    assert!(world.worker().refused.is_empty());
    drop(bob);
}

#[test]
fn a_revocation_finds_who_came_by_the_room_wherever_it_was_moved() {
    let mut world = World::new();
    let (ada, bob) = (world.join("blue", "Ada"), world.join("red", "Bob"));
    relocate(&mut world, "blue", &ada, "red").unwrap();
    world.drain(ada.socket);
    world.operate(OperatorRequest::DeleteRoom { room: "blue".into() }).expect_err("nobody is there");
    world.operate(OperatorRequest::Revoke { room: "blue".into(), whose: Whose::Name("Bob".into()) }).unwrap();
    world.carry();
    assert!(world.drain(ada.socket).is_empty());
    world.operate(OperatorRequest::Revoke { room: "blue".into(), whose: Whose::Name("Ada".into()) }).unwrap();
    world.carry();
    assert!(is_bye(&world.drain(ada.socket)[0], LeaveReason::Removed, false));
    assert!(!world.drain(bob.socket).iter().any(|signal| matches!(signal, ServerSignal::Bye { .. })));
}

#[test]
fn a_peer_with_a_resource_moves_and_its_resource_stays() {
    let mut world = World::new();
    let bob = world.join("red", "Bob");
    let grant = Grant { subscribe: false, ..grant("Cam") };
    let mut camera = world.guest("elsewhere", grant.clone());
    world.close(camera.socket);
    let sdp = world::with_fingerprint(include_str!("../offers/chromium_sendrecv.sdp"), &camera.identity);
    let ask = ResourceRequest::Open { room: "blue".into(), grant, from: Vec::new(), sdp };
    let Ok(ResourceReply::Opened { resource, sdp, tag, .. }) = world.ask(ask) else { panic!("opened") };
    world.carry();
    let opened =
        world.worker().peers.values().find(|peer| peer.open.ufrag == tag.as_bytes()).map(|peer| peer.open.peer);
    (camera.answer, camera.peer) = (sdp, opened);
    world.connect(&mut camera);
    camera.id =
        world.engine.snapshot().rooms.iter().find(|room| room.room == "blue").unwrap().peers[0].info.peer.clone();

    relocate(&mut world, "blue", &camera, "red").unwrap();
    assert_eq!(pairs(&mut world, &[&bob, &camera]), [(1, 0)]);
    world.restart_controlplane();
    for (room, is_found) in [("green", false), ("blue", true)] {
        let ask = ResourceRequest::Close { room: room.into(), resource: resource.clone() };
        assert_eq!(world.ask(ask).is_ok(), is_found, "{room}");
        world.carry();
    }
    assert_eq!(pairs(&mut world, &[&bob, &camera]), []);
}
