//! Settings that change while rooms stand: they hold for those who come from then on.

use controlplane::engine::{Input, Settings};
use proto::signal::{ClientSignal, ErrorCode, ServerSignal};

use crate::world::{PAGE, World, grant, page_tracks};

#[test]
fn a_lower_limit_turns_away_who_comes_and_leaves_who_is_there() {
    let mut world = World::new();
    let three: Vec<_> = (0..3).map(|n| world.join("blue", &format!("P{n}"))).collect();
    let routes = world.worker().routes.len();
    world.input(Input::Settings(Box::new(Settings { peers_max: 2, rooms_max: 1, ..Settings::default() })));
    assert_eq!(world.worker().routes.len(), routes, "media of those who are there is not touched");
    for client in &three {
        assert!(!world.closed.contains(&client.socket));
    }
    let mut fourth = world.guest("blue", grant("Fourth"));
    assert_eq!(world.offer(&mut fourth, PAGE, page_tracks()), Err(ErrorCode::RoomFull));
    let mut elsewhere = world.guest("green", grant("Ada"));
    assert_eq!(world.offer(&mut elsewhere, PAGE, page_tracks()), Err(ErrorCode::ServerFull));

    world.input(Input::Settings(Box::new(Settings { peers_max: 4, ..Settings::default() })));
    let fourth = world.join("blue", "Fourth");
    assert!(!world.closed.contains(&fourth.socket));
}

#[test]
fn another_bandwidth_is_shared_out_at_the_next_join() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    world.drain(ada.socket);
    world.input(Input::Settings(Box::new(Settings { client_bps_max: 1_000_000, ..Settings::default() })));
    assert!(world.drain(ada.socket).is_empty(), "nobody came, nothing is said");
    world.join("blue", "Bob");
    let told = world.drain(ada.socket);
    let share = told.iter().find_map(|signal| match signal {
        ServerSignal::Limits { send_bps_max, .. } => Some(*send_bps_max),
        _ => None,
    });
    assert_eq!(share, Some(500_000), "{told:?}");
}

#[test]
fn what_was_reserved_at_the_start_stays() {
    let mut world = World::new();
    let begun = Settings { stun: None, slots_max: 1, tracks_max: 1, sockets_max: 1, ..Settings::default() };
    world.input(Input::Settings(Box::new(begun)));
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    world.say(ada.socket, ClientSignal::Ping {});
    assert!(world.drain(ada.socket).contains(&ServerSignal::Pong {}));
    assert!(!world.closed.contains(&bob.socket), "a second socket and its slots had their place");
}

#[test]
fn behind_a_nat_the_answer_has_the_public_address() {
    let announce = vec![("127.0.0.1".parse().unwrap(), "192.0.2.7".parse().unwrap())];
    let mut world = World::with(Settings { announce, ..Settings::default() }, 1);
    let ada = world.join("blue", "Ada");
    assert!(
        ada.answer.contains(" 192.0.2.7 40000 typ host") && !ada.answer.contains(" 127.0.0.1 40000 "),
        "{}",
        ada.answer
    );
}
