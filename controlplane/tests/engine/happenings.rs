//! What the engine tells the operator of people: who came, by which way, who left and why, who was moved or muted, and why a
//! join failed.

use std::time::Duration;

use controlplane::engine::{Input, OperatorRequest, ResourceRequest, RoomPolicy, Settings};
use controlplane::happening::{Access, Happening, Who};
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, Source, VideoCodec};

use crate::world::{self, Client, PAGE, World, grant, page_tracks};

fn watched(settings: Settings) -> World {
    let mut world = World::with(settings, 1);
    world.is_watched = true;
    world
}

fn who(room: &str, client: &Client, name: &str) -> Who {
    Who { room: room.into(), peer: client.id.clone(), name: name.into() }
}

/// What happened since this was asked last, without the completion of ICE and DTLS.
fn told(world: &mut World) -> Vec<Happening> {
    let happened = std::mem::take(&mut world.happened);
    happened.into_iter().filter(|happening| !matches!(happening, Happening::Connected { .. })).collect()
}

fn order(world: &mut World, order: OperatorRequest) {
    world.operate(order).unwrap();
    world.carry();
}

#[test]
fn who_comes_is_muted_moved_removed_or_leaves_is_told_once() {
    let mut world = watched(Settings::default());
    let (ada, bob) = (world.join("demo", "Ada"), world.join("demo", "Bob"));
    let joined = |who| Happening::Joined {
        who,
        access: Access::Socket,
        worker: 0,
        codec: Some(VideoCodec::H264),
        may_publish: true,
        may_subscribe: true,
    };
    assert_eq!(told(&mut world), [joined(who("demo", &ada, "Ada")), joined(who("demo", &bob, "Bob"))]);

    world.now += Duration::from_secs(7);
    let peer = &ada.id;
    for is_muted in [true, true, false] {
        order(
            &mut world,
            OperatorRequest::MuteTrack { room: "demo".into(), peer: peer.clone(), mid: "1".into(), is_muted },
        );
    }
    order(&mut world, OperatorRequest::MovePeer { room: "demo".into(), peer: peer.clone(), to: "other".into() });
    order(&mut world, OperatorRequest::RemovePeer { room: "other".into(), peer: peer.clone() });
    world.say(bob.socket, ClientSignal::Leave {});
    let muted = |is_muted| Happening::Muted {
        who: who("demo", &ada, "Ada"),
        mid: "1".into(),
        source: Source::Camera,
        is_muted,
    };
    let mut told = told(&mut world);
    for happening in &mut told {
        if let Happening::Left { stayed, .. } = happening {
            assert!((7..9).contains(&stayed.as_secs()), "{stayed:?}");
            *stayed = Duration::ZERO;
        }
    }
    let left = |who, reason| Happening::Left { who, reason, detail: None, stayed: Duration::ZERO };
    let expected = [
        muted(true),
        muted(false),
        Happening::Moved { who: who("demo", &ada, "Ada"), to: "other".into() },
        left(who("other", &ada, "Ada"), LeaveReason::Removed),
        left(who("demo", &bob, "Bob"), LeaveReason::Left),
    ];
    assert_eq!(told, expected);
}

#[test]
fn why_a_join_fails_is_told() {
    let mut world = watched(Settings::default());
    let full = RoomPolicy { peers_max: Some(1), ..RoomPolicy::default() };
    order(&mut world, OperatorRequest::SetRoom { room: "demo".into(), policy: full });
    let mut ada = world.guest("demo", grant("Ada"));
    world.offer(&mut ada, world::PAGE, world::page_tracks()).unwrap();
    for (room, name, sdp) in [("demo", "Bob", world::PAGE), ("lone", "Eve", "v=0")] {
        let mut client = world.guest(room, grant(name));
        world.offer(&mut client, sdp, Vec::new()).unwrap_err();
    }
    world.guest("demo", grant("Late"));
    world.pass(Duration::from_secs(60));
    let told = told(&mut world);
    let refusals: Vec<(&str, &str, ErrorCode)> = told
        .iter()
        .filter_map(|happening| match happening {
            Happening::Refused { room, name, code, message } if !message.is_empty() => {
                Some((room.as_str(), name.as_str(), *code))
            }
            _ => None,
        })
        .collect();
    let expected = [
        ("demo", "Bob", ErrorCode::RoomFull),
        ("lone", "Eve", ErrorCode::BadSdp),
        ("demo", "Late", ErrorCode::NotJoined),
    ];
    assert_eq!(refusals, expected);
    // Ada's ICE and DTLS did not complete meanwhile.
    let lost = told.iter().find_map(|happening| match happening {
        Happening::Left { who, reason: LeaveReason::TransportFailed, detail, .. } => Some((who, detail.as_deref())),
        _ => None,
    });
    assert!(
        lost.is_some_and(|(who, why)| who.name == "Ada" && why.is_some_and(|why| why.contains("in time"))),
        "{told:?}"
    );
}

#[test]
fn who_comes_by_whip_is_told_with_the_way_and_a_lost_worker_and_a_successor_are_told() {
    let mut world = watched(Settings::default());
    let sdp = world::PAGE.replace("a=recvonly", "a=inactive");
    let cam = controlplane::engine::Grant { subscribe: false, ..grant("Cam") };
    world.ask(ResourceRequest::Open { room: "demo".into(), grant: cam, from: Vec::new(), sdp }).unwrap();
    world.carry();
    let joined = told(&mut world);
    let [Happening::Joined { who, access: Access::Whip, may_publish: true, may_subscribe: false, .. }] = &joined[..]
    else {
        panic!("{joined:?}")
    };
    assert_eq!((who.room.as_str(), who.name.as_str()), ("demo", "Cam"));
    world.join("demo", "Ada");
    told(&mut world);
    world.restart_controlplane();
    assert_eq!(told(&mut world), [Happening::Adopted { worker: 0, peers: 1 }], "only Ada was connected");
    world.input(Input::Unlinked { worker: 0 });
    let told = told(&mut world);
    let is_lost = |h: &Happening| matches!(h, Happening::Left { reason: LeaveReason::MediaRestarted, .. });
    assert!(told.len() == 1 && told.iter().all(is_lost), "{told:?}");
}

/// Two of four handshakes are one room's part: it is named when its clients want more, and not at every hello.
#[test]
fn a_room_that_has_its_part_of_the_handshakes_is_named() {
    let mut world = watched(Settings { half_open_max: 4, ..Settings::default() });
    let mut clients: Vec<Client> = (0..5).map(|n| world.guest("greedy", grant(&format!("{n}")))).collect();
    for client in &mut clients {
        world.offer(client, PAGE, page_tracks()).unwrap();
        world.check(client);
    }
    let hello = |world: &mut World, client: &Client| {
        let mut dtls = controlplane::dtls::Dtls::connect(&client.identity, world.now).unwrap();
        world.punt(client, dtls.poll_transmit().unwrap());
    };
    clients.iter().for_each(|client| hello(&mut world, client));
    let over_share = |world: &mut World| -> Vec<(String, u64)> {
        let pick = |happening| match happening {
            Happening::HandshakesOverShare { room, count } => Some((room, count)),
            _ => None,
        };
        told(world).into_iter().filter_map(pick).collect()
    };
    assert_eq!(over_share(&mut world), [("greedy".to_owned(), 1)]);
    world.now += Duration::from_secs(11);
    clients[2..].iter().for_each(|client| hello(&mut world, client));
    let again = over_share(&mut world);
    assert!(again.len() == 1 && again[0].1 > 3, "{again:?}");
}
