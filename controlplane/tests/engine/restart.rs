//! Either plane dies, or their link is short of room: what stands, what is taken over, what must come anew.

use std::time::Duration;

use controlplane::engine::{Engine, Input, Settings};
use proptest::prelude::*;
use proto::plane::Command;
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, PeerState, ServerSignal};

use crate::world::{Client, PAGE, World, carried, error_of, grant, is_bye, is_state, names, page_tracks};

/// Comes back on a new socket; returns what was told.
fn resume(world: &mut World, client: &mut Client) -> Vec<ServerSignal> {
    client.socket = world.open(&client.room, grant("whoever"));
    world.drain(client.socket);
    world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
    world.drain(client.socket)
}

#[test]
fn a_killed_controlplane_is_replaced_and_no_route_moves() {
    let mut world = World::new();
    let mut clients = ["Ada", "Bob", "Cyd"].map(|name| world.join("blue", name));
    let slots_before: Vec<_> = clients.iter().map(|client| world.slots(client.socket).unwrap()).collect();
    let (before, batches) = (world.worker().dump(), world.worker().batches.len());
    assert_eq!(world.journal.len(), 3);

    world.restart_controlplane();
    assert_eq!(world.worker().dump(), before);
    assert_eq!(world.worker().batches.len(), batches + 1, "it asks what is there, and changes nothing");
    assert_eq!(world.engine.snapshot().totals.adopted, 3);

    for (client, slots) in clients.iter_mut().zip(&slots_before) {
        let told = resume(&mut world, client);
        assert!(matches!(&told[0], ServerSignal::Welcome { resumed: true, peer, .. } if *peer == client.id));
        assert!(is_state(&told[1], PeerState::Connected));
        assert!(matches!(&told[2], ServerSignal::Peers { peers } if peers.len() == 2));
        assert!(matches!(&told[3], ServerSignal::Slots { slots: now } if now == slots), "{told:?}");
    }
    world.pass(Duration::from_secs(600));
    assert_eq!(world.worker().dump(), before);

    let dora = world.join("blue", "Dora");
    assert_eq!(world.worker().routes.len(), 4 * 3 * 2);
    let told = world.drain(clients[0].socket);
    assert!(matches!(&told[0], ServerSignal::PeerJoined { peer } if peer.name == "Dora"));
    world.say(dora.socket, ClientSignal::Leave {});
    assert_eq!(world.worker().dump(), before);
    for client in &clients {
        world.say(client.socket, ClientSignal::Leave {});
    }
    assert_eq!(world.worker().dump(), Default::default());
    assert!(world.journal.is_empty() && world.worker().refused.is_empty());
}

#[test]
fn a_session_is_not_denied_before_the_worker_has_told_who_is_there() {
    let mut world = World::unlinked(Settings::default());
    let resume = |world: &mut World| {
        let socket = world.open("blue", grant("Ada"));
        world.drain(socket);
        world.say(socket, ClientSignal::Resume { session: "of a predecessor".into() });
        error_of(world.next(socket))
    };
    assert_eq!(resume(&mut world), (ErrorCode::NoDataplane, true), "come again");
    world.link(0);
    assert_eq!(resume(&mut world), (ErrorCode::UnknownSession, false), "now it is certain");
}

#[test]
fn what_changed_before_the_kill_is_known_after_it() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.say(bob.socket, ClientSignal::Track { mid: "2".into(), active: true });
    world.say(bob.socket, ClientSignal::Track { mid: "0".into(), active: false });
    let before = world.worker().dump();
    world.restart_controlplane();
    world.restart_controlplane();
    assert_eq!(world.worker().dump(), before);
    let told = resume(&mut world, &mut ada);
    let ServerSignal::Peers { peers } = &told[2] else { panic!("{told:?}") };
    assert_eq!(names(peers), ["Bob"]);
    assert_eq!(peers[0].tracks.iter().map(|track| track.active).collect::<Vec<_>>(), [false, true, true]);
    let ServerSignal::Slots { slots } = &told[3] else { panic!("{told:?}") };
    assert_eq!(carried(slots).len(), 3);
}

#[test]
fn the_journal_holds_neither_sessions_nor_keys() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let text = String::from_utf8(world.journal.values().next().unwrap().clone()).unwrap();
    assert!(text.contains("blue") && text.contains("Ada"));
    assert!(!text.contains(&ada.session));
    let pwd = ada.answer.lines().find_map(|line| line.strip_prefix("a=ice-pwd:")).unwrap();
    assert!(!text.contains(pwd));
}

#[test]
fn what_only_one_of_worker_and_journal_knows_is_dropped() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    let mut bob = world.join("blue", "Bob");
    let mut cyd = world.join("red", "Cyd");
    let mut dan = world.guest("blue", grant("Dan"));
    world.offer(&mut dan, PAGE, page_tracks()).unwrap();
    // Bob is not in the journal, Cyd's slot is torn, a stranger's is nonsense, Eve is not installed, Dan has no keys.
    let ada_index = ada.peer.unwrap().index;
    let entry = world.journal[&(0, ada_index)].clone();
    world.journal.remove(&(0, bob.peer.unwrap().index));
    world.journal.get_mut(&(0, cyd.peer.unwrap().index)).unwrap().truncate(100);
    world.journal.insert((0, 77), b"nonsense".to_vec());
    let text = String::from_utf8(entry).unwrap();
    let eve = text.replacen(&format!("\"peer\":[{ada_index},"), "\"peer\":[78,", 1);
    world.journal.insert((0, 78), eve.into_bytes());

    world.restart_controlplane();
    let (peers, ..) = world.worker().dump();
    assert_eq!(peers, [ada.peer.unwrap()]);
    assert_eq!(world.worker().routes.len(), 0);
    assert!(world.worker().refused.is_empty());
    assert_eq!(world.journal.keys().copied().collect::<Vec<_>>(), [(0, ada_index)]);
    assert!(matches!(resume(&mut world, &mut ada)[0], ServerSignal::Welcome { resumed: true, .. }));
    for client in [&mut bob, &mut cyd, &mut dan] {
        let told = resume(&mut world, client);
        assert_eq!(error_of(told[0].clone()), (ErrorCode::UnknownSession, false));
    }
}

#[test]
fn an_adopted_peer_that_nobody_resumes_is_let_go() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    let _bob = world.join("blue", "Bob");
    world.restart_controlplane();
    resume(&mut world, &mut ada);
    world.pass(Duration::from_secs(59));
    assert_eq!(world.worker().peers.len(), 2);
    world.pass(Duration::from_secs(2));
    assert!(matches!(world.drain(ada.socket)[0], ServerSignal::PeerLeft { reason: LeaveReason::TimedOut, .. }));
    assert_eq!(world.worker().peers.len(), 1);
}

#[test]
fn who_left_while_no_controlplane_listened_is_not_adopted() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    // The worker says it while it is being asked what it has, when Ada is nobody's peer yet.
    world.worker().expired.push(ada.peer.unwrap());
    world.restart_controlplane();
    let (peers, ..) = world.worker().dump();
    assert_eq!(peers, [bob.peer.unwrap()]);
    assert_eq!(world.worker().routes.len(), 0);
    assert_eq!(world.journal.len(), 1);
}

#[test]
fn late_dtls_of_an_adopted_peer_begins_nothing() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    world.restart_controlplane();
    resume(&mut world, &mut ada);
    ada.dtls = Some(controlplane::dtls::Dtls::connect(&ada.identity, world.now).unwrap());
    world.check(&ada);
    world.exchange(&mut ada);
    assert_eq!(world.engine.snapshot().totals.handshakes_begun, 0);
    assert_eq!(world.engine.snapshot().rooms[0].peers[0].state, PeerState::Connected);
}

#[test]
fn nobody_joins_before_the_worker_has_said_what_it_has() {
    let mut world = World::new();
    world.join("blue", "Ada");
    let journal: Vec<(u32, Vec<u8>)> = world.journal.iter().map(|((_, slot), bytes)| (*slot, bytes.clone())).collect();
    world.engine = Engine::new(Settings::default(), controlplane::dtls::Identity::generate().unwrap(), [9; 32]);
    world.engine.handle(world.now, Input::Linked { worker: 0, addresses: vec![].into(), journal });
    let mut commands = Vec::new();
    world.engine.reconcile(0, 100, &mut commands);
    assert!(matches!(commands[..], [Command::Describe(_), Command::Commit(_)]));
    assert!(!world.engine.is_ready());
    // The ring is not read yet: the answer to Describe is still to come.
    let mut bob = world.guest("blue", grant("Bob"));
    assert_eq!(world.offer(&mut bob, PAGE, page_tracks()), Err(ErrorCode::NoDataplane));
    for command in commands {
        for report in world.worker().apply(command) {
            world.input(Input::Report { worker: 0, report });
        }
    }
    assert!(world.engine.is_ready());
    world.join("blue", "Bob");
    assert_eq!(world.engine.snapshot().rooms[0].peers.len(), 2);
}

#[test]
fn a_lost_dataplane_sends_its_peers_to_join_anew() {
    let mut world = World::with(Settings::default(), 2);
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    let cyd = world.join("red", "Cyd");
    assert_eq!((ada.worker, bob.worker, cyd.worker), (0, 0, 1));
    for client in [&ada, &bob, &cyd] {
        world.drain(client.socket);
    }
    world.workers.remove(&0);
    world.input(Input::Unlinked { worker: 0 });
    for client in [&ada, &bob] {
        let told = world.drain(client.socket);
        assert!(matches!(&told[..], [bye] if is_bye(bye, LeaveReason::MediaRestarted, true)), "{told:?}");
        assert!(world.closed.contains(&client.socket));
    }
    assert!(world.drain(cyd.socket).is_empty());
    let (session, socket) = (ada.session.clone(), world.open("blue", grant("Ada")));
    world.drain(socket);
    world.say(socket, ClientSignal::Resume { session });
    assert_eq!(error_of(world.next(socket)), (ErrorCode::UnknownSession, false));
    world.journal.retain(|(worker, _), _| *worker != 0);
    world.link(0);
    let ada = world.join("blue", "Ada");
    assert_eq!((ada.worker, world.worker().peers.len()), (0, 1));
    assert!(world.workers.values().all(|worker| worker.refused.is_empty()));
}

#[test]
fn lost_events_change_nothing_that_is_right() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let _bob = world.join("blue", "Bob");
    world.drain(ada.socket);
    let before = world.worker().dump();
    world.input(Input::Resync { worker: 0 });
    world.input(Input::Resync { worker: 0 });
    assert_eq!(world.worker().dump(), before);
    assert!(world.drain(ada.socket).is_empty());
}

#[test]
fn what_a_worker_turns_out_to_lack_is_installed_again() {
    let mut world = World::new();
    let _ada = world.join("blue", "Ada");
    let _bob = world.join("blue", "Bob");
    let before = world.worker().dump();
    let lost = *world.worker().routes.keys().next().unwrap();
    world.worker().routes.remove(&lost);
    let slot = *world.worker().slots.keys().next_back().unwrap();
    world.worker().slots.remove(&slot);
    world.input(Input::Resync { worker: 0 });
    assert_eq!(world.worker().dump(), before);
}

#[test]
fn lost_keys_are_never_installed_again() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.drain(bob.socket);
    let index = ada.peer.unwrap().index;
    world.worker().peers.get_mut(&index).unwrap().tx = None;
    world.input(Input::Resync { worker: 0 });
    assert!(is_bye(world.drain(ada.socket).last().unwrap(), LeaveReason::MediaRestarted, true));
    assert!(matches!(world.drain(bob.socket)[0], ServerSignal::PeerLeft { .. }));
    assert_eq!(world.worker().peers.len(), 1);
}

#[test]
fn a_refused_command_ends_the_peer_that_it_was_for() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    world.worker().peers_max = Some(1);
    let socket = world.open("blue", grant("Bob"));
    world.say(socket, ClientSignal::Offer { sdp: PAGE.into(), tracks: page_tracks() });
    assert!(is_bye(world.drain(socket).last().unwrap(), LeaveReason::TransportFailed, true));
    assert!(world.closed.contains(&socket) && !world.closed.contains(&ada.socket));
    assert_eq!(world.worker().peers.len(), 1);
    assert!(world.engine.snapshot().totals.commands_refused > 0);
    assert_eq!(world.engine.snapshot().workers[0].pending, 0);
}

/// The same story over a ring with room for `space` commands at a time.
fn story(space: usize) -> World {
    let mut world = World::new();
    world.space = space;
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.say(bob.socket, ClientSignal::Track { mid: "2".into(), active: true });
    let _cyd = world.join("blue", "Cyd");
    world.say(ada.socket, ClientSignal::Leave {});
    let _dan = world.join("blue", "Dan");
    assert!(world.worker().refused.is_empty());
    assert!(world.worker().batches.iter().all(|&len| len < space));
    world
}

#[test]
fn a_tiny_ring_leads_to_the_same_state() {
    let mut wide = story(4096);
    for space in [2, 3, 7] {
        assert_eq!(story(space).worker().dump(), wide.worker().dump(), "space {space}");
    }
    let mut none = Vec::new();
    wide.engine.reconcile(0, 1, &mut none);
    wide.engine.reconcile(7, 100, &mut none);
    assert!(none.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// A journal is input: whatever bytes it holds, the engine adopts only what fits the worker.
    #[test]
    fn no_journal_confuses_the_engine(flips in prop::collection::vec((0usize..3, any::<usize>(), any::<u8>()), 1..6)) {
        let mut world = World::new();
        for name in ["Ada", "Bob", "Cyd"] {
            world.join("blue", name);
        }
        for (entry, at, byte) in flips {
            let bytes = world.journal.values_mut().nth(entry).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        world.restart_controlplane();
        let snapshot = world.engine.snapshot();
        let adopted: usize = snapshot.rooms.iter().map(|room| room.peers.len()).sum();
        prop_assert_eq!(world.worker().peers.len(), adopted);
        prop_assert_eq!(world.journal.len(), adopted);
        prop_assert_eq!(snapshot.workers[0].pending, 0);
        prop_assert!(world.worker().refused.is_empty());
        world.pass(Duration::from_secs(120));
        prop_assert_eq!(world.worker().dump(), Default::default());
    }
}
