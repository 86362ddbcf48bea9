//! Who speaks in a room, in virtual time: who is told, whose voices are passed on, and who gets the slots. The rule itself has its tests
//! beside it, and what workers do by it in `dataplane/tests/engine/voices.rs`.

use std::time::Duration;

use controlplane::engine::{OperatorRequest, RoomPolicy, Settings};
use proto::id::StreamId;
use proto::plane::{Codec, Gate, StreamQuiet, StreamSpeaks};
use proto::signal::{ClientSignal, ServerSignal, SlotInfo, Source};

use crate::world::{Client, World, grant};

/// The stream of a client's microphone.
fn microphone(world: &World, client: &Client) -> StreamId {
    let streams = world.workers[&client.worker].streams.values();
    let mut own = streams.filter(|open| Some(open.peer) == client.peer && open.codec == Codec::Opus);
    own.next().expect("a microphone").stream
}

fn speaks(world: &mut World, client: &Client, loudness: u8) {
    let stream = microphone(world, client);
    world.silence(client.worker, StreamSpeaks { stream, loudness }.into());
}

fn is_quiet(world: &mut World, client: &Client) {
    let stream = microphone(world, client);
    world.silence(client.worker, StreamQuiet { stream }.into());
}

fn pass(world: &mut World, ms: u64) {
    world.pass(Duration::from_millis(ms));
}

/// Who speaks, as a client was told since the last call.
fn told(world: &mut World, client: &Client) -> Vec<Vec<String>> {
    let speakers = world.drain(client.socket).into_iter().filter_map(|signal| match signal {
        ServerSignal::Speakers { peers, .. } => Some(peers),
        _ => None,
    });
    speakers.collect()
}

fn quiet(world: &mut World, clients: &[Client]) {
    clients.iter().for_each(|client| drop(world.drain(client.socket)));
}

fn is_shown(world: &World, client: &Client) -> bool {
    let snapshot = world.engine.snapshot();
    let mut peers = snapshot.rooms.iter().flat_map(|room| &room.peers);
    peers.any(|peer| peer.info.peer == client.id && peer.is_speaking)
}

fn gate(world: &World, client: &Client) -> Option<Gate> {
    let stream = microphone(world, client);
    world.workers[&client.worker].stream_gates.get(&stream.index).map(|of| of.gate)
}

/// Whose microphones a client hears, by its last list of slots.
fn heard(slots: &[SlotInfo]) -> Vec<String> {
    let microphones = slots.iter().filter(|slot| slot.source == Some(Source::Microphone));
    microphones.filter_map(|slot| slot.peer.clone()).collect()
}

#[test]
fn everybody_is_told_who_speaks() {
    let mut world = World::new();
    let clients = ["Ada", "Bob", "Cyd"].map(|name| world.join("blue", name));
    let [ada, bob, cyd] = &clients;
    quiet(&mut world, &clients);
    speaks(&mut world, ada, 90);
    assert!(told(&mut world, bob).is_empty(), "it may be a cough");
    pass(&mut world, 150);
    for client in &clients {
        assert_eq!(told(&mut world, client), [[ada.id.clone()]], "to itself as well");
    }
    assert!(is_shown(&world, ada) && !is_shown(&world, bob));
    speaks(&mut world, bob, 110);
    pass(&mut world, 1_000);
    assert_eq!(told(&mut world, cyd), [[ada.id.clone(), bob.id.clone()], [bob.id.clone(), ada.id.clone()]][1..]);
    // Who comes, and who comes back, is told as well.
    let dan = world.join("blue", "Dan");
    assert_eq!(told(&mut world, &dan), [[bob.id.clone(), ada.id.clone()]]);
    world.close(cyd.socket);
    let socket = world.open("blue", grant("Cyd"));
    world.say(socket, ClientSignal::Resume { session: cyd.session.clone() });
    let signals = world.drain(socket);
    assert!(
        signals
            .iter()
            .any(|signal| matches!(signal, ServerSignal::Speakers { peers, dominant: Some(_) } if peers.len() == 2))
    );
    quiet(&mut world, &clients);
    // Who mutes does not speak, whatever it sends; nor does who leaves.
    world.say(bob.socket, ClientSignal::Track { mid: "0".into(), active: false });
    pass(&mut world, 300);
    assert_eq!(told(&mut world, ada), [[ada.id.clone()]]);
    world.say(bob.socket, ClientSignal::Track { mid: "0".into(), active: true });
    pass(&mut world, 400);
    assert_eq!(told(&mut world, ada), [[ada.id.clone(), bob.id.clone()], [bob.id.clone(), ada.id.clone()]][1..]);
    world.say(bob.socket, ClientSignal::Leave {});
    pass(&mut world, 300);
    assert_eq!(told(&mut world, ada), [[ada.id.clone()]]);
    is_quiet(&mut world, ada);
    pass(&mut world, 300);
    assert_eq!(told(&mut world, ada), [Vec::<String>::new()]);
    assert_eq!(gate(&world, ada), None, "in a small room everybody is heard");
}

#[test]
fn speakers_are_known_in_another_room_and_to_another_controlplane() {
    let mut world = World::new();
    let (ada, bob, cyd) = (world.join("blue", "Ada"), world.join("blue", "Bob"), world.join("red", "Cyd"));
    speaks(&mut world, &ada, 90);
    pass(&mut world, 300);
    quiet(&mut world, &[cyd]);
    let order = OperatorRequest::MovePeer { room: "blue".into(), peer: ada.id.clone(), to: "red".into() };
    world.operate(order).unwrap();
    world.carry();
    pass(&mut world, 300);
    assert!(is_shown(&world, &ada));
    assert_eq!(told(&mut world, &ada).last(), Some(&vec![ada.id.clone()]));
    assert_eq!(told(&mut world, &bob).last(), Some(&vec![]));
    world.restart_controlplane();
    pass(&mut world, 300);
    assert!(is_shown(&world, &ada), "workers say it again");
}

#[test]
fn in_a_large_room_three_voices_are_passed_on() {
    let mut world = World::with(Settings { peers_max: 50, ..Settings::default() }, 2);
    let clients: Vec<Client> = (0..50).map(|n| world.join("blue", &n.to_string())).collect();
    for client in &clients {
        assert_eq!(gate(&world, client), Some(Gate::Speech), "its worker lets it pass as soon as it speaks");
    }
    for (n, client) in clients.iter().enumerate() {
        speaks(&mut world, client, 60 + n as u8);
    }
    let passed =
        |world: &World| -> Vec<usize> { (0..50).filter(|n| gate(world, &clients[*n]) != Some(Gate::Closed)).collect() };
    assert_eq!(passed(&world), [0, 1, 2], "who came first, for two seconds");
    pass(&mut world, 2_100);
    assert_eq!(passed(&world), [47, 48, 49], "then the loudest");
    // One stops, and the next in loudness is passed on at once.
    is_quiet(&mut world, &clients[48]);
    assert_eq!(passed(&world), [46, 47, 49]);
    // Everybody hears them, also those who had no slot for them.
    for n in [3, 20, 40] {
        let slots = world.slots(clients[n].socket).expect("slots");
        for speaker in [46, 47, 49] {
            assert!(heard(&slots).contains(&clients[speaker].id), "{n} does not hear {speaker}");
        }
    }
    let policy = RoomPolicy { voices_max: Some(5), peers_max: Some(50), ..RoomPolicy::default() };
    world.operate(OperatorRequest::SetRoom { room: "blue".into(), policy }).unwrap();
    world.carry();
    assert_eq!(passed(&world), [44, 45, 46, 47, 49]);
    // A room that has become small has no gates.
    for client in &clients[8..] {
        world.say(client.socket, ClientSignal::Leave {});
    }
    for client in &clients[..8] {
        assert_eq!(gate(&world, client), Some(Gate::Open));
    }
}

/// A player with one slot follows who speaks, with the picture.
#[test]
fn who_has_fewer_slots_than_there_are_talkers_hears_those_who_speak() {
    let mut world = World::with(Settings { slots_max: 4, ..Settings::default() }, 1);
    let clients: Vec<Client> = (0..6).map(|n| world.join("blue", &n.to_string())).collect();
    let last = &clients[5];
    let before = world.slots(clients[0].socket).expect("slots");
    assert!(!heard(&before).contains(&last.id), "four slots of five: who came last has none");
    speaks(&mut world, last, 90);
    let after = world.slots(clients[0].socket).expect("slots");
    assert!(heard(&after).contains(&last.id), "{after:?}");
    pass(&mut world, 60_000);
    assert!(world.slots(clients[0].socket).is_none(), "it stays while nobody else speaks");
}
