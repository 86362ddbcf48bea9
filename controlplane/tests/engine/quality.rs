//! How good the connections of people are, in virtual time: who is told what of it, and when. The rule itself has its tests beside it.

use std::time::Duration;

use controlplane::engine::{Input, OperatorRequest, Settings};
use controlplane::quality::{Link, Loss};
use proto::plane::{PeerLosing, Report};
use proto::signal::{ClientSignal, PeerQuality, Quality, ServerSignal};

use crate::world::{self, Client, World, grant};

fn losing(share: f64) -> Link {
    Link { up: Loss { lost: share * 1000.0, of: 1000.0 }, ..Link::default() }
}

/// A second goes by, and the workers report the same link of all of these clients.
fn report(world: &mut World, clients: &[&Client], link: Link) {
    world.now += Duration::from_secs(1);
    let links = clients.iter().map(|client| (client.peer.unwrap(), link)).collect();
    world.input(Input::Links(links));
}

/// The qualities in each signal that came on a client's socket; there are no other signals, but those of redundancy.
fn told(world: &mut World, client: &Client) -> Vec<Vec<(String, Quality)>> {
    let qualities = |signal| match signal {
        ServerSignal::Quality { peers } => {
            Some(peers.into_iter().map(|PeerQuality { peer, quality }| (peer, quality)).collect())
        }
        ServerSignal::Redundancy { .. } => None,
        other => panic!("{other:?}"),
    };
    world.drain(client.socket).into_iter().filter_map(qualities).collect()
}

/// What a client was told of redundancy.
fn redundancy(world: &mut World, socket: u64) -> Vec<bool> {
    let told = |signal| match signal {
        ServerSignal::Redundancy { audio } => Some(audio),
        _ => None,
    };
    world.drain(socket).into_iter().filter_map(told).collect()
}

#[test]
fn red_is_answered_and_asked_for_where_much_is_lost() {
    let mut world = World::new();
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    // Chromium's offer has it, behind Opus.
    let audio = ada.answer.lines().find(|line| line.starts_with("m=audio")).expect("audio");
    assert!(audio.ends_with(" 111 63"), "{audio}");
    assert!(ada.answer.contains("a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n"));
    let streams = world.workers[&0].streams.values();
    assert_eq!(streams.filter(|open| open.red_pt == 63).count(), 2, "each microphone");
    assert!(world.workers[&0].routes.values().any(|route| route.red_pt == 63));
    world.drain(ada.socket);
    world.drain(bob.socket);
    report(&mut world, &[&ada], losing(0.1));
    assert_eq!(redundancy(&mut world, ada.socket), [true]);
    assert!(redundancy(&mut world, bob.socket).is_empty());
    // Who comes back is told what holds.
    world.close(ada.socket);
    let socket = world.open("blue", grant("Ada"));
    world.say(socket, ClientSignal::Resume { session: ada.session.clone() });
    assert_eq!(redundancy(&mut world, socket), [true]);
    (0..30).for_each(|_| report(&mut world, &[&ada], losing(0.0)));
    assert_eq!(redundancy(&mut world, socket), [false]);
    // A worker sees losses before there is a report of them.
    let event = Report::Event(PeerLosing { peer: ada.peer.unwrap() }.into());
    world.input(Input::Report { worker: ada.worker, report: event });
    assert_eq!(redundancy(&mut world, socket), [true]);
    world.input(Input::Report { worker: ada.worker, report: event });
    report(&mut world, &[&ada], losing(0.0));
    assert!(redundancy(&mut world, socket).is_empty());
    // Somebody who does not offer it is asked for nothing.
    let plain = world::PAGE
        .replace(" 63 ", " ")
        .replace("a=rtpmap:63 red/48000/2\r\n", "")
        .replace("a=fmtp:63 111/111\r\n", "");
    let mut cyd = world.guest("blue", grant("Cyd"));
    world.offer(&mut cyd, &plain, world::page_tracks()).unwrap();
    world.connect(&mut cyd);
    assert!(!cyd.answer.contains("red/48000"));
    world.drain(cyd.socket);
    report(&mut world, &[&cyd], losing(0.1));
    assert!(redundancy(&mut world, cyd.socket).is_empty());
}

fn quiet(world: &mut World, clients: &[Client]) {
    clients.iter().for_each(|client| drop(world.drain(client.socket)));
}

/// What a client is told of another one, and of itself, when it is told who is in the room.
fn in_lists(signals: &[ServerSignal]) -> Vec<(String, Quality)> {
    let lists = signals.iter().flat_map(|signal| match signal {
        ServerSignal::Peers { peers } => peers.iter().map(|peer| (peer.peer.clone(), peer.quality)).collect(),
        ServerSignal::Quality { peers } => peers.iter().map(|peer| (peer.peer.clone(), peer.quality)).collect(),
        _ => Vec::new(),
    });
    lists.collect()
}

#[test]
fn everybody_is_told_when_a_connection_is_weak_and_when_it_is_good_again() {
    let mut world = World::new();
    let clients = ["Ada", "Bob", "Cyd"].map(|name| world.join("blue", name));
    quiet(&mut world, &clients);
    let [ada, bob, cyd] = &clients;
    assert_eq!(world.engine.links().len(), 3);
    report(&mut world, &[ada], losing(0.2));
    report(&mut world, &[bob, cyd], losing(0.0));
    assert!(clients.iter().all(|client| told(&mut world, client).is_empty()), "once may be an accident");
    for _ in 0..5 {
        report(&mut world, &[ada], losing(0.2));
    }
    let weak = (ada.id.clone(), Quality::Weak);
    for client in &clients {
        assert_eq!(told(&mut world, client), [vec![weak.clone()]], "once, and to itself as well");
    }

    // Who comes is told with the list of who is there, and who resumes of itself as well.
    let mut dan = world.guest("blue", grant("Dan"));
    world.offer(&mut dan, world::PAGE, world::page_tracks()).unwrap();
    assert!(in_lists(&world.drain(dan.socket)).contains(&weak));
    world.close(ada.socket);
    let socket = world.open("blue", grant("Ada"));
    world.say(socket, ClientSignal::Resume { session: ada.session.clone() });
    assert!(in_lists(&world.drain(socket)).contains(&weak), "its own");
    quiet(&mut world, &clients);

    for _ in 0..4 {
        report(&mut world, &[ada], losing(0.0));
    }
    assert!(told(&mut world, bob).is_empty());
    report(&mut world, &[ada], losing(0.0));
    assert_eq!(told(&mut world, bob), [[(ada.id.clone(), Quality::Good)]]);
}

#[test]
fn who_falls_silent_is_lost() {
    let mut world = World::new();
    let clients = ["Ada", "Bob"].map(|name| world.join("blue", name));
    let [ada, bob] = &clients;
    quiet(&mut world, &clients);
    world.streams_silent(ada);
    report(&mut world, &[ada, bob], Link::default());
    assert_eq!(told(&mut world, bob), [[(ada.id.clone(), Quality::Lost)]]);
    world.streams_resume(ada);
    report(&mut world, &[ada, bob], Link::default());
    assert_eq!(told(&mut world, bob), [[(ada.id.clone(), Quality::Weak)]]);

    // Nothing is lost of who has switched everything off.
    for mid in ["0", "1"] {
        world.say(ada.socket, ClientSignal::Track { mid: mid.into(), active: false });
    }
    world.streams_silent(ada);
    quiet(&mut world, &clients);
    (0..6).for_each(|_| report(&mut world, &[ada, bob], Link::default()));
    assert_eq!(told(&mut world, bob), [[(ada.id.clone(), Quality::Good)]]);
    world.fall_silent(ada);
    quiet(&mut world, &clients);
    report(&mut world, &[ada, bob], Link::default());
    assert_eq!(told(&mut world, bob), [[(ada.id.clone(), Quality::Lost)]], "but of who is not there any more");
}

#[test]
fn who_is_alone_needs_no_report_and_who_is_moved_is_known_there() {
    let mut world = World::new();
    let (ada, bob, cyd) = (world.join("blue", "Ada"), world.join("blue", "Bob"), world.join("red", "Cyd"));
    assert_eq!(world.engine.links().len(), 2, "Cyd is alone");
    (0..2).for_each(|_| report(&mut world, &[&ada], losing(0.5)));
    quiet(&mut world, &[bob, cyd]);
    let order = OperatorRequest::MovePeer { room: "blue".into(), peer: ada.id.clone(), to: "red".into() };
    world.operate(order).unwrap();
    world.carry();
    let weak = (ada.id.clone(), Quality::Weak);
    assert!(in_lists(&world.drain(ada.socket)).contains(&weak));
}

/// The engine is told of all at once, and tells a room of a part of them each second.
#[test]
fn a_signal_tells_of_thirty_two_at_most() {
    let mut world = World::with(Settings { peers_max: 50, slots_max: 2, ..Settings::default() }, 1);
    let clients: Vec<Client> = (0..40).map(|n| world.join("blue", &n.to_string())).collect();
    quiet(&mut world, &clients);
    let all: Vec<&Client> = clients.iter().collect();
    report(&mut world, &all, losing(0.5));
    report(&mut world, &all, losing(0.5));
    let first = told(&mut world, &clients[0]);
    assert_eq!((first.len(), first[0].len()), (1, 32));
    report(&mut world, &all, losing(0.5));
    let second = told(&mut world, &clients[0]);
    assert_eq!((second.len(), second[0].len()), (1, 8));
    report(&mut world, &all, losing(0.5));
    assert!(told(&mut world, &clients[39]).len() == 2 && told(&mut world, &clients[0]).is_empty());
}
