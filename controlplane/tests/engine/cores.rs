//! One room on several workers: who goes where, what is handed on between them, and that all of it survives what a room
//! on one worker survives.

use std::time::Duration;

use controlplane::engine::{Input, OperatorRequest, Settings};
use proptest::prelude::*;
use proto::plane::{Command, MirrorOpen, StreamOpen, TapOpen};
use proto::signal::{ClientSignal, LeaveReason, ServerSignal};

use crate::world::{self, Client, World, carried, grant};

/// Workers that take so many peers of a room.
fn world(workers: usize, room_peers_per_worker: usize) -> World {
    World::with(Settings { room_peers_per_worker, ..Settings::default() }, workers)
}

/// What is installed is of one piece: nothing was refused, each mirror has the tap that feeds it and each tap its mirror,
/// both of them a receiver, and each connected peer receives every track of the others exactly once.
fn check(world: &World, room: &[&Client]) {
    for (&index, worker) in &world.workers {
        assert!(worker.refused.is_empty(), "worker {index}: {:?}", worker.refused);
        for mirror in worker.mirrors.values() {
            let there = &world.workers[&usize::from(mirror.worker)];
            let origin = there.streams.get(&mirror.origin.index).expect("the stream is there");
            let StreamOpen { peer, pt, rtx_pt, codec, stream, .. } = *origin;
            assert_eq!((mirror.origin, mirror.publisher), (stream, peer));
            assert_eq!((mirror.pt, mirror.rtx_pt, mirror.codec), (pt, rtx_pt, codec));
            let second = |codecs: &proto::plane::StreamCodec| (codecs.codec, codecs.pt, codecs.rtx_pt);
            let [here, of_origin] =
                [worker.stream_codecs.get(&mirror.stream.index), there.stream_codecs.get(&stream.index)];
            assert_eq!(here.map(second), of_origin.map(second));
            let feeds = |tap: &&TapOpen| usize::from(tap.worker) == index && tap.mirror == mirror.stream;
            let taps: Vec<_> = there.taps.values().filter(feeds).collect();
            assert!(taps.len() == 1 && taps[0].stream == mirror.origin, "{mirror:?} {taps:?}");
            assert!(worker.routes.values().any(|route| route.stream == mirror.stream), "{mirror:?} for nobody");
        }
        for tap in worker.taps.values() {
            let mirror = world.workers[&usize::from(tap.worker)].mirrors.get(&tap.mirror.index);
            assert!(mirror.is_some_and(|m| m.stream == tap.mirror && m.origin == tap.stream), "{tap:?} to nowhere");
        }
    }
    for client in room {
        let worker = &world.workers[&client.worker];
        let slots = worker.slots_of(client.peer.unwrap());
        let mut origins: Vec<(usize, u32)> = worker
            .routes
            .values()
            .filter(|route| slots.contains(&route.slot))
            .map(|route| match worker.mirrors.get(&route.stream.index) {
                Some(MirrorOpen { worker, origin, .. }) => (usize::from(*worker), origin.index),
                None => (client.worker, route.stream.index),
            })
            .collect();
        let routes = origins.len();
        origins.sort_unstable();
        origins.dedup();
        assert_eq!((origins.len(), routes), (2 * (room.len() - 1), routes), "{} receives everybody once", client.id);
    }
}

/// Everything on every worker, to compare.
fn dump(world: &World) -> Vec<(String, Vec<MirrorOpen>, Vec<TapOpen>)> {
    let of = |worker: &world::worker::Worker| {
        let (mirrors, taps) = (worker.mirrors.values().copied(), worker.taps.values().copied());
        (format!("{:?}", worker.dump()), mirrors.collect(), taps.collect())
    };
    world.workers.values().map(of).collect()
}

fn is_empty(world: &World) -> bool {
    world.workers.values().all(|w| w.dump() == Default::default() && w.mirrors.is_empty() && w.taps.is_empty())
}

#[test]
fn a_small_room_stays_on_one_worker() {
    let mut world = World::with(Settings::default(), 3);
    let clients: Vec<Client> = (0..8).map(|n| world.join("blue", &n.to_string())).collect();
    assert!(clients.iter().all(|client| client.worker == clients[0].worker));
    check(&world, &clients.iter().collect::<Vec<_>>());
    assert!(world.workers.values().all(|worker| worker.mirrors.is_empty() && worker.taps.is_empty()));
    assert_ne!(world.join("red", "Ada").worker, clients[0].worker, "another room goes elsewhere");
}

#[test]
fn a_room_that_is_larger_than_a_worker_spreads_and_shrinks() {
    let mut world = world(3, 2);
    let clients: Vec<Client> = (0..5).map(|n| world.join("blue", &n.to_string())).collect();
    assert_eq!(clients.iter().map(|client| client.worker).collect::<Vec<_>>(), [0, 0, 1, 1, 2]);
    check(&world, &clients.iter().collect::<Vec<_>>());
    // A stream is handed on once to each other worker, however many receive it there.
    assert_eq!(world.workers[&0].taps.len(), 2 * 2 * 2);
    assert_eq!(world.workers[&2].mirrors.len(), 4 * 2);
    assert_eq!(world.engine.snapshot().rooms[0].workers, [0, 1, 2]);
    let slots = world.slots(clients[4].socket).unwrap();
    assert_eq!(carried(&slots).len(), 8);

    let mut clients = std::collections::VecDeque::from(clients);
    while let Some(client) = clients.pop_back() {
        world.say(client.socket, ClientSignal::Leave {});
        check(&world, &clients.iter().collect::<Vec<_>>());
    }
    assert!(is_empty(&world) && world.journal.is_empty());
}

#[test]
fn who_is_moved_stays_on_its_worker_and_is_handed_on() {
    let mut world = World::with(Settings::default(), 2);
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    let cyd = world.join("red", "Cyd");
    assert_ne!(bob.worker, cyd.worker);
    let relocate = |world: &mut World, from: &str, client: &Client, to: &str| {
        let order = OperatorRequest::MovePeer { room: from.into(), peer: client.id.clone(), to: to.into() };
        world.operate(order).unwrap();
        world.carry();
    };
    relocate(&mut world, "blue", &bob, "red");
    check(&world, &[&ada]);
    check(&world, &[&bob, &cyd]);
    let handed_on = dump(&world);
    world.restart_controlplane();
    assert_eq!(dump(&world), handed_on, "a successor takes it over as it is");
    relocate(&mut world, "blue", &ada, "red");
    check(&world, &[&ada, &bob, &cyd]);
    relocate(&mut world, "red", &cyd, "blue");
    check(&world, &[&ada, &bob]);
    assert!(world.workers.values().all(|worker| worker.mirrors.is_empty() && worker.taps.is_empty()));
    relocate(&mut world, "blue", &cyd, "red");
    relocate(&mut world, "red", &ada, "white");
    check(&world, &[&bob, &cyd]);
    check(&world, &[&ada]);
}

#[test]
fn who_comes_after_somebody_left_takes_the_place_near_the_others() {
    let mut world = world(2, 2);
    let clients: Vec<Client> = (0..3).map(|n| world.join("blue", &n.to_string())).collect();
    world.say(clients[0].socket, ClientSignal::Leave {});
    let next = world.join("blue", "next");
    assert_eq!((clients[2].worker, next.worker), (1, 0));
    check(&world, &[&clients[1], &clients[2], &next]);
}

#[test]
fn a_busy_worker_is_spared() {
    let mut world = World::with(Settings::default(), 2);
    let busy = |world: &mut World, worker, permille| (0..8).for_each(|_| world.input(Input::Busy { worker, permille }));
    busy(&mut world, 0, 300);
    let ada = world.join("blue", "Ada");
    assert_eq!(ada.worker, 1);
    busy(&mut world, 1, 900);
    let bob = world.join("blue", "Bob");
    assert_eq!(bob.worker, 0, "her worker is at its end");
    check(&world, &[&ada, &bob]);
    busy(&mut world, 7, 1000); // there is none
}

#[test]
fn a_track_that_nobody_there_receives_is_not_handed_on() {
    let mut world = world(2, 1);
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    assert_eq!(world.workers[&0].taps.len(), 2, "microphone and camera, not the screen that is off");
    world.say(ada.socket, ClientSignal::Track { mid: "2".into(), active: true });
    assert_eq!(world.workers[&0].taps.len(), 3);
    world.say(ada.socket, ClientSignal::Track { mid: "2".into(), active: false });
    assert_eq!((world.workers[&0].taps.len(), world.workers[&1].mirrors.len()), (2, 2));
    check(&world, &[&ada, &bob]);
}

#[test]
fn a_killed_controlplane_is_replaced_and_nothing_moves_on_any_worker() {
    let mut world = world(2, 2);
    let mut clients: Vec<Client> = (0..4).map(|n| world.join("blue", &n.to_string())).collect();
    let slots: Vec<_> = clients.iter().map(|client| world.slots(client.socket).unwrap()).collect();
    let before = dump(&world);
    let batches: Vec<usize> = world.workers.values().map(|worker| worker.batches.len()).collect();
    world.restart_controlplane();
    assert_eq!(dump(&world), before);
    for (worker, batches) in world.workers.values().zip(batches) {
        assert_eq!(worker.batches.len(), batches + 1, "it asks what is there, and changes nothing");
    }
    assert_eq!(world.engine.snapshot().totals.adopted, 4);
    for (client, slots) in clients.iter_mut().zip(slots) {
        client.socket = world.open(&client.room, grant("whoever"));
        world.drain(client.socket);
        world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
        let told = world.drain(client.socket);
        assert!(told.contains(&ServerSignal::Slots { slots }), "{told:?}");
    }
    world.say(clients.remove(0).socket, ClientSignal::Leave {});
    clients.push(world.join("blue", "next"));
    check(&world, &clients.iter().collect::<Vec<_>>());
    clients.iter().for_each(|client| world.say(client.socket, ClientSignal::Leave {}));
    assert!(is_empty(&world));
}

#[test]
fn what_only_one_of_two_workers_knows_is_made_anew() {
    let mut world = world(2, 1);
    let clients = [world.join("blue", "Ada"), world.join("blue", "Bob")];
    let tap = *world.workers[&0].taps.keys().next().unwrap();
    world.workers.get_mut(&0).unwrap().taps.remove(&tap);
    let mirror = world.workers[&0].mirrors.values().next().unwrap().stream;
    let worker = world.workers.get_mut(&0).unwrap();
    worker.mirrors.remove(&mirror.index);
    worker.stream_codecs.remove(&mirror.index);
    let gone: Vec<u32> = worker.routes.values().filter(|r| r.stream == mirror).map(|r| r.route.index).collect();
    worker.routes.retain(|index, _| !gone.contains(index));
    worker.route_codecs.retain(|index, _| !gone.contains(index));
    world.restart_controlplane();
    check(&world, &[&clients[0], &clients[1]]);
}

#[test]
fn a_worker_that_is_lost_takes_its_own_and_leaves_the_rest() {
    let mut world = world(2, 2);
    let clients: Vec<Client> = (0..4).map(|n| world.join("blue", &n.to_string())).collect();
    clients.iter().for_each(|client| drop(world.drain(client.socket)));
    world.workers.remove(&1);
    world.journal.retain(|(worker, _), _| *worker == 0);
    world.input(Input::Unlinked { worker: 1 });
    check(&world, &[&clients[0], &clients[1]]);
    assert!(world.workers[&0].taps.is_empty() && world.workers[&0].mirrors.is_empty());
    let told = world.drain(clients[0].socket);
    let has_left = |client: &Client| {
        let left = ServerSignal::PeerLeft { peer: client.id.clone(), reason: LeaveReason::MediaRestarted };
        told.contains(&left)
    };
    assert!(has_left(&clients[2]) && has_left(&clients[3]) && !has_left(&clients[1]));
    world.link(1);
    let next = world.join("blue", "next");
    assert_eq!(next.worker, 1);
    check(&world, &[&clients[0], &clients[1], &next]);
}

#[test]
fn a_refused_mirror_ends_its_publisher() {
    let mut world = world(2, 1);
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    let mirror = *world.workers[&1].mirrors.values().next().unwrap();
    assert_eq!(mirror.publisher, ada.peer.unwrap());
    let refused = proto::plane::Refused {
        batch: 1,
        tag: Command::from(mirror).tag(),
        index: mirror.stream.index,
        refusal: proto::plane::Refusal::TableFull,
    };
    let report = proto::plane::Report::Event(refused.into());
    world.input(Input::Report { worker: 1, report });
    check(&world, &[&bob]);
    assert!(world.closed.contains(&ada.socket));
}

#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave(prop::sample::Index),
    Screen(prop::sample::Index, bool),
    Restart,
    Expire(prop::sample::Index),
    Busy(usize, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => Just(Step::Join),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(who, active)| Step::Screen(who, active)),
        1 => Just(Step::Restart),
        1 => any::<prop::sample::Index>().prop_map(Step::Expire),
        1 => (0..3usize, 0..1000u32).prop_map(|(worker, permille)| Step::Busy(worker, permille)),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever comes and goes, in whatever portions commands leave: everybody receives everybody, over as many workers
    /// as it takes, and nothing is left when all have gone.
    #[test]
    fn a_room_is_whole_wherever_its_peers_are(steps in steps(), per_worker in 1..4usize, space in 3..40usize) {
        let mut world = world(3, per_worker);
        world.space = space;
        let mut clients: Vec<Client> = Vec::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Join if clients.len() < 8 => clients.push(world.join("blue", &n.to_string())),
                Step::Leave(who) if !clients.is_empty() => {
                    let client = clients.remove(who.index(clients.len()));
                    world.expire(&client);
                }
                Step::Screen(who, active) if !clients.is_empty() => {
                    let client = &clients[who.index(clients.len())];
                    world.say(client.socket, ClientSignal::Track { mid: "2".into(), active });
                    world.say(client.socket, ClientSignal::Track { mid: "2".into(), active: false });
                }
                Step::Restart => {
                    world.restart_controlplane();
                    for client in &mut clients {
                        client.socket = world.open(&client.room, grant("whoever"));
                        world.drain(client.socket);
                        world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
                    }
                }
                Step::Expire(who) if !clients.is_empty() => {
                    // Its consent ended while no controlplane listened.
                    let client = clients.remove(who.index(clients.len()));
                    world.workers.get_mut(&client.worker).unwrap().expired.push(client.peer.unwrap());
                    world.restart_controlplane();
                    for client in &mut clients {
                        client.socket = world.open(&client.room, grant("whoever"));
                        world.drain(client.socket);
                        world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
                    }
                    world.workers.get_mut(&client.worker).unwrap().expired.clear();
                }
                Step::Busy(worker, permille) => world.input(Input::Busy { worker, permille }),
                _ => {}
            }
            world.pass(Duration::from_millis(10));
            check(&world, &clients.iter().collect::<Vec<_>>());
        }
        for client in clients {
            world.expire(&client);
        }
        prop_assert!(is_empty(&world) && world.journal.is_empty());
    }
}
