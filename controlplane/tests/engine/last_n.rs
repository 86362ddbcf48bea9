//! Rooms that limit how many videos each peer receives, in virtual time. The rule itself has its tests beside it.

use std::collections::BTreeSet;
use std::time::Duration;

use controlplane::engine::{OperatorRequest, RoomPolicy, Settings};
use proto::id::StreamId;
use proto::plane::{Codec, RouteOpen, StreamQuiet, StreamSpeaks};
use proto::signal::{ClientSignal, ServerSignal, ShownVideo, SlotInfo, Source};

use crate::world::{Client, World, grant};

fn limit(world: &mut World, videos_max: Option<u32>) {
    let policy = RoomPolicy { videos_max, peers_max: Some(50), ..RoomPolicy::default() };
    world.operate(OperatorRequest::SetRoom { room: "blue".into(), policy }).unwrap();
    world.carry();
}

fn room_of(count: usize, videos_max: u32) -> (World, Vec<Client>) {
    let mut world = World::with(Settings { peers_max: 50, videos_max, ..Settings::default() }, 1);
    let clients = (0..count).map(|n| world.join("blue", &n.to_string())).collect();
    (world, clients)
}

/// Whose videos of this source a client's worker sends it.
fn seen(world: &World, clients: &[Client], client: &Client, source: Source) -> Vec<usize> {
    let worker = &world.workers[&client.worker];
    let mid = if source == Source::Camera { "1" } else { "2" };
    let is_its = |route: &&RouteOpen| Some(worker.slots[&route.slot.index].peer) == client.peer;
    let streams = worker.routes.values().filter(is_its).map(|route| &worker.streams[&route.stream.index]);
    let owners = streams.filter(|open| open.mid.as_str() == mid).map(|open| open.peer);
    let mut owners: Vec<usize> =
        owners.map(|owner| clients.iter().position(|client| client.peer == Some(owner)).expect("it is here")).collect();
    owners.sort_unstable();
    owners
}

fn cameras(world: &World, clients: &[Client], of: usize) -> Vec<usize> {
    seen(world, clients, &clients[of], Source::Camera)
}

fn routes(world: &World) -> BTreeSet<(u32, u32)> {
    world.workers[&0].routes.values().map(|open| (open.route.index, open.route.generation)).collect()
}

fn microphone(world: &World, client: &Client) -> StreamId {
    let streams = world.workers[&client.worker].streams.values();
    let mut own = streams.filter(|open| Some(open.peer) == client.peer && open.codec == Codec::Opus);
    own.next().expect("a microphone").stream
}

/// Somebody speaks for a second, and nobody else does.
fn says_something(world: &mut World, client: &Client) {
    let stream = microphone(world, client);
    world.silence(client.worker, StreamSpeaks { stream, loudness: 90 }.into());
    world.pass(Duration::from_millis(1_500));
    world.silence(client.worker, StreamQuiet { stream }.into());
    world.pass(Duration::from_millis(500));
}

fn pin(world: &mut World, client: &Client, of: &[&Client]) {
    let video = |of: &&Client| ShownVideo { peer: of.id.clone(), source: Source::Camera, lines: None, pinned: true };
    world.say(client.socket, ClientSignal::Shown { videos: of.iter().map(video).collect() });
}

fn heard(slots: &[SlotInfo]) -> usize {
    slots.iter().filter(|slot| slot.source == Some(Source::Microphone)).count()
}

#[test]
fn each_receives_as_many_videos_as_the_room_allows_and_hears_everybody() {
    let (mut world, clients) = room_of(6, 2);
    assert_eq!(cameras(&world, &clients, 5), [0, 1]);
    assert_eq!(cameras(&world, &clients, 0), [1, 2], "nobody counts himself");
    let slots = world.slots(clients[5].socket).expect("slots");
    assert_eq!(heard(&slots), 5);
    // The picture follows the voice, and is in the group of its microphone.
    says_something(&mut world, &clients[4]);
    assert_eq!(cameras(&world, &clients, 5), [0, 4]);
    assert_eq!(cameras(&world, &clients, 4), [0, 1]);
    let slots = world.slots(clients[5].socket).expect("slots");
    let of_speaker = || slots.iter().filter(|slot| slot.peer.as_ref() == Some(&clients[4].id));
    assert_eq!(of_speaker().count(), 2);
    says_something(&mut world, &clients[3]);
    assert_eq!(cameras(&world, &clients, 5), [3, 4], "and stays while others have spoken before");
    world.pass(Duration::from_secs(60));
    assert_eq!(cameras(&world, &clients, 5), [3, 4]);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn what_is_pinned_comes_and_a_screen_comes_first() {
    let (mut world, clients) = room_of(6, 2);
    pin(&mut world, &clients[5], &[&clients[3], &clients[4]]);
    assert_eq!(cameras(&world, &clients, 5), [3, 4]);
    assert_eq!(cameras(&world, &clients, 0), [1, 2], "a pin is its receiver's alone");
    world.say(clients[2].socket, ClientSignal::Track { mid: "2".into(), active: true });
    assert_eq!(seen(&world, &clients, &clients[5], Source::Screen), [2]);
    assert_eq!(cameras(&world, &clients, 5), [3]);
    says_something(&mut world, &clients[1]);
    assert_eq!(cameras(&world, &clients, 5), [3], "a speaker does not take the place of what is pinned");
    pin(&mut world, &clients[5], &[]);
    assert_eq!(cameras(&world, &clients, 5), [1]);
}

#[test]
fn a_camera_that_is_off_or_silent_leaves_its_place_to_another() {
    let (mut world, clients) = room_of(5, 2);
    world.say(clients[0].socket, ClientSignal::Track { mid: "1".into(), active: false });
    let is_on = |seen: Vec<usize>| seen.into_iter().filter(|n| *n != 0).collect::<Vec<_>>();
    assert_eq!(is_on(cameras(&world, &clients, 4)), [1, 2]);
    world.say(clients[0].socket, ClientSignal::Track { mid: "1".into(), active: true });
    assert_eq!(cameras(&world, &clients, 4), [1, 2], "who comes back waits until he speaks");
    world.streams_silent(&clients[1]);
    assert_eq!(cameras(&world, &clients, 4), [2, 3]);
    world.say(clients[2].socket, ClientSignal::Leave {});
    assert_eq!(cameras(&world, &clients, 4), [0, 3]);
}

#[test]
fn the_limit_of_a_room_holds_at_once_and_can_be_lifted() {
    let (mut world, clients) = room_of(5, 0);
    assert_eq!(cameras(&world, &clients, 4), [0, 1, 2, 3]);
    says_something(&mut world, &clients[3]);
    limit(&mut world, Some(1));
    assert_eq!(cameras(&world, &clients, 4), [3], "who spoke");
    assert!(world.slots(clients[4].socket).is_some(), "it is told");
    limit(&mut world, Some(3));
    assert_eq!(cameras(&world, &clients, 4), [0, 1, 3]);
    limit(&mut world, None);
    assert_eq!(cameras(&world, &clients, 4), [0, 1, 2, 3]);
}

#[test]
fn the_next_controlplane_leaves_everybody_what_he_sees() {
    let (mut world, mut clients) = room_of(6, 2);
    says_something(&mut world, &clients[4]);
    says_something(&mut world, &clients[3]);
    pin(&mut world, &clients[5], &[&clients[2]]);
    let before: Vec<_> = (0..6).map(|n| cameras(&world, &clients, n)).collect();
    assert_eq!(before[5], [2, 3]);
    let routes_before = routes(&world);
    world.restart_controlplane();
    for client in &mut clients {
        let socket = world.open("blue", grant(""));
        world.say(socket, ClientSignal::Resume { session: client.session.clone() });
        assert!(world.drain(socket).iter().any(|signal| matches!(signal, ServerSignal::Slots { .. })));
        client.socket = socket;
    }
    assert_eq!((0..6).map(|n| cameras(&world, &clients, n)).collect::<Vec<_>>(), before);
    assert_eq!(routes(&world), routes_before, "none was closed and opened again");
}
