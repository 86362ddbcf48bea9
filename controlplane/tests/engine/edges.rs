//! One room on several edges: who is in it where, what crosses between them, and what stands when the cluster does not.

use std::time::Duration;

use controlplane::bus::News;
use controlplane::engine::{Input, Settings};
use proto::id::PeerId;
use proto::plane::{EncodingIdle, EncodingWanted, Event, PeerResumed, PeerSilent, StreamSpeaks};
use proto::signal::{ClientSignal, ErrorCode, LeaveReason, ServerSignal};

use crate::cluster::{Edges, address, check, peers_told};
use crate::world::{self, Client, carried};

#[test]
fn people_of_two_edges_are_in_one_room_and_receive_each_other() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    check(&edges);
    for (edge, client, from, other) in [(0, &ada, 1, &bob), (1, &bob, 0, &ada)] {
        let slots = edges.slots(edge, client);
        assert_eq!(carried(&slots).len(), 2, "microphone and camera of the other");
        assert!(carried(&slots).iter().all(|(_, peer, _)| *peer == other.id), "{slots:?}");
        assert_eq!(edges.arrives(edge, client, from, other), 2);
    }
    // A third one, and a fourth: everybody receives everybody, and a track crosses once.
    let eve = edges.join(0, "demo", "Eve");
    let dan = edges.join(1, "demo", "Dan");
    check(&edges);
    let all = [(0, &ada), (0, &eve), (1, &bob), (1, &dan)];
    for (edge, client) in all {
        for (from, publisher) in all.into_iter().filter(|(from, _)| *from != edge) {
            assert_eq!(edges.arrives(edge, client, from, publisher), 2, "{} of {}", client.id, publisher.id);
        }
    }
    for world in &edges.worlds {
        let exports = world.workers[&0].peers.values().filter(|peer| peer.edge.is_some()).count();
        assert_eq!(exports, 4, "two that are received and two that are sent");
    }
}

#[test]
fn who_leaves_or_mutes_is_seen_on_the_other_edge() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    edges.worlds[1].drain(bob.socket);
    edges.worlds[0].say(ada.socket, ClientSignal::Track { mid: "1".into(), active: false });
    edges.carry();
    let signals = edges.worlds[1].drain(bob.socket);
    let is_off = |signal: &ServerSignal| matches!(signal, ServerSignal::TrackChanged { peer, track } if *peer == ada.id && !track.active);
    assert!(signals.iter().any(is_off), "{signals:?}");
    edges.worlds[0].say(ada.socket, ClientSignal::Leave {});
    edges.carry();
    let signals = edges.worlds[1].drain(bob.socket);
    let has_left = |signal: &ServerSignal| matches!(signal, ServerSignal::PeerLeft { peer, reason: LeaveReason::Left } if *peer == ada.id);
    assert!(signals.iter().any(has_left), "{signals:?}");
    check(&edges);
    assert!(edges.worlds[1].workers[&0].peers.values().all(|peer| peer.edge.is_none()), "nothing is left of her");
    assert!(edges.worlds[0].workers[&0].slots.is_empty(), "nor of what was sent");
    // The link goes when nobody has needed it for a while.
    edges.pass(Duration::from_secs(32));
    assert!(edges.worlds.iter().all(|world| world.workers[&0].peers.len() <= 1));
}

#[test]
fn somebody_who_speaks_elsewhere_is_shown_here() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    edges.worlds[1].drain(bob.socket);
    let worker = &edges.worlds[1].workers[&0];
    let import =
        worker.peers.values().find(|peer| peer.edge.is_some() && !worker.streams_of(peer.open.peer).is_empty());
    let stream = worker.streams.values().find(|stream| stream.peer == import.unwrap().open.peer && stream.pt == 111);
    let stream = stream.expect("her microphone").stream;
    edges.worlds[1].silence(0, Event::from(StreamSpeaks { stream, loudness: 100 }));
    edges.pass(Duration::from_secs(1));
    let signals = edges.worlds[1].drain(bob.socket);
    let speaks =
        |signal: &ServerSignal| matches!(signal, ServerSignal::Speakers { peers, .. } if *peers == [ada.id.clone()]);
    assert!(signals.iter().any(speaks), "{signals:?}");
}

#[test]
fn a_call_stands_while_the_cluster_is_away_and_converges_after() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    edges.set_there(false);
    edges.pass(Duration::from_secs(60));
    assert_eq!(edges.arrives(0, &ada, 1, &bob), 2);
    assert_eq!(edges.arrives(1, &bob, 0, &ada), 2);
    edges.worlds[1].drain(bob.socket);
    let eve = edges.join(0, "demo", "Eve");
    edges.worlds[0].say(ada.socket, ClientSignal::Leave {});
    edges.carry();
    assert_eq!(edges.arrives(1, &bob, 0, &eve), 0, "nobody there knows of her yet");
    edges.set_there(true);
    edges.pass(Duration::from_secs(1));
    check(&edges);
    assert_eq!(edges.arrives(1, &bob, 0, &eve), 2);
    assert_eq!(edges.arrives(0, &eve, 1, &bob), 2);
    assert_eq!(peers_told(&mut edges.worlds[1], &bob), ["Eve"]);
}

/// The transport by which an edge receives a publisher of another one.
fn import_of(edges: &Edges, edge: usize, from: usize, publisher: &Client) -> PeerId {
    let there = &edges.worlds[from].workers[&0];
    let streams = there.streams_of(publisher.peer.unwrap());
    let slots: Vec<_> = there.routes.values().filter(|route| streams.contains(&route.stream)).map(|r| r.slot).collect();
    let ssrcs: Vec<u32> = slots.iter().map(|slot| there.slots[&slot.index].ssrc).collect();
    let here = &edges.worlds[edge].workers[&0];
    here.streams.values().find(|stream| ssrcs.contains(&stream.ssrc)).expect("it is received").peer
}

/// Who has come, and who has gone, as a client was told since.
fn came_and_went(edges: &mut Edges, edge: usize, client: &Client) -> Vec<(bool, String)> {
    let told = edges.worlds[edge].drain(client.socket).into_iter().filter_map(|signal| match signal {
        ServerSignal::PeerJoined { peer } => Some((true, peer.peer)),
        ServerSignal::PeerLeft { peer, reason: LeaveReason::TimedOut | LeaveReason::Left } => Some((false, peer)),
        ServerSignal::PeerLeft { peer, reason } => panic!("{peer} has left, {reason:?}"),
        _ => None,
    });
    told.collect()
}

/// While the cluster is away nobody says who has left. Of whom nothing comes any more is not shown, and comes back when something does.
#[test]
fn who_is_gone_while_the_cluster_is_away_is_not_shown_for_ever() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let cyd = edges.join(0, "demo", "Cyd");
    let bob = edges.join(1, "demo", "Bob");
    let silent = Event::from(PeerSilent { peer: import_of(&edges, 1, 0, &ada) });
    let resumed = Event::from(PeerResumed { peer: import_of(&edges, 1, 0, &ada) });
    came_and_went(&mut edges, 1, &bob);
    // While it is there, her own edge knows better.
    edges.worlds[1].silence(0, silent);
    edges.pass(Duration::from_secs(60));
    edges.worlds[1].silence(0, resumed);
    edges.set_there(false);
    edges.pass(Duration::from_secs(60));
    edges.worlds[1].silence(0, silent);
    edges.pass(Duration::from_secs(18));
    assert_eq!(came_and_went(&mut edges, 1, &bob), []);
    edges.pass(Duration::from_secs(4));
    assert_eq!(came_and_went(&mut edges, 1, &bob), [(false, ada.id.clone())]);
    assert_eq!((edges.arrives(1, &bob, 0, &ada), edges.arrives(1, &bob, 0, &cyd)), (0, 2));
    let late = edges.join(1, "demo", "Late");
    assert!(!peers_told(&mut edges.worlds[1], &late).contains(&"Ada".to_owned()));
    came_and_went(&mut edges, 1, &bob);
    // It was the network: she is there again, by the same transport.
    edges.worlds[1].silence(0, resumed);
    edges.pass(Duration::from_secs(2));
    assert_eq!(came_and_went(&mut edges, 1, &bob), [(true, ada.id.clone())]);
    assert_eq!((edges.arrives(1, &bob, 0, &ada), edges.arrives(1, &bob, 0, &cyd)), (2, 2));
    // Nothing comes again, and then the cluster is there: she is, too.
    edges.worlds[1].silence(0, silent);
    edges.pass(Duration::from_secs(22));
    assert_eq!(came_and_went(&mut edges, 1, &bob), [(false, ada.id.clone())]);
    edges.set_there(true);
    edges.pass(Duration::from_secs(1));
    assert_eq!(came_and_went(&mut edges, 1, &bob), [(true, ada.id.clone())]);
    assert_eq!(edges.arrives(1, &bob, 0, &ada), 2);
    // She leaves while it is away: when it is back she is not heard of again.
    edges.set_there(false);
    edges.worlds[0].say(ada.socket, ClientSignal::Leave {});
    edges.worlds[1].silence(0, silent);
    edges.pass(Duration::from_secs(22));
    assert_eq!(came_and_went(&mut edges, 1, &bob), [(false, ada.id.clone())]);
    edges.set_there(true);
    edges.pass(Duration::from_secs(1));
    assert_eq!(came_and_went(&mut edges, 1, &bob), []);
    assert_eq!(edges.arrives(1, &bob, 0, &cyd), 2);
    check(&edges);
}

#[test]
fn an_encoding_that_nobody_elsewhere_wants_does_not_cross() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    let streams = |edges: &Edges| {
        let worker = &edges.worlds[1].workers[&0];
        let video = worker.streams.values().filter(|stream| stream.codec.is_video());
        let imported = video.filter(|stream| worker.peers[&stream.peer.index].edge.is_some());
        imported.map(|stream| stream.stream).collect::<Vec<_>>()
    };
    let camera = streams(&edges)[0];
    edges.worlds[1].silence(0, EncodingIdle { stream: camera }.into());
    edges.carry();
    assert_eq!(edges.arrives(1, &bob, 0, &ada), 1, "the microphone alone");
    edges.worlds[1].silence(0, EncodingWanted { stream: camera }.into());
    edges.carry();
    assert_eq!(edges.arrives(1, &bob, 0, &ada), 2);
    check(&edges);
}

#[test]
fn three_edges_and_several_workers_are_one_room() {
    let settings = Settings { room_peers_per_worker: 1, ..Settings::default() };
    let mut edges = Edges::with(3, 2, settings);
    let clients: Vec<(usize, Client)> =
        (0..6).map(|n| (n % 3, edges.join(n % 3, "demo", &format!("peer {n}")))).collect();
    check(&edges);
    for (edge, client) in &clients {
        for (from, publisher) in clients.iter().filter(|(from, _)| from != edge) {
            assert_eq!(edges.arrives(*edge, client, *from, publisher), 2, "edge {edge} of edge {from}");
        }
    }
}

#[test]
fn a_node_that_is_gone_takes_its_people_with_it() {
    let mut edges = Edges::new(2);
    let _ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    edges.worlds[1].drain(bob.socket);
    edges.worlds[1].input(Input::Cluster(News::Nodes(Vec::new())));
    let signals = edges.worlds[1].drain(bob.socket);
    assert!(signals.iter().any(|s| matches!(s, ServerSignal::PeerLeft { reason: LeaveReason::TimedOut, .. })));
    check(&edges);
    assert_eq!(edges.worlds[1].workers[&0].peers.len(), 1, "his own");
}

#[test]
fn strange_messages_are_counted_and_harm_nobody() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    let from = edges.sender(0);
    for payload in [b"".to_vec(), b"{}".to_vec(), vec![0xff; 60_000], br#"{"say":"here","seq":-1}"#.to_vec()] {
        let said = News::Said { room: "demo".into(), from: from.clone(), payload: payload.clone() };
        edges.worlds[1].input(Input::Cluster(said));
        edges.worlds[1].input(Input::Cluster(News::Told { from: from.clone(), payload }));
    }
    assert_eq!(edges.worlds[1].engine.snapshot().totals.edge_messages_refused, 8);
    edges.carry();
    assert_eq!(edges.arrives(1, &bob, 0, &ada), 2);
}

/// The controlplane of either edge is killed, and another takes its place: nothing that is carried moves, and afterwards the room goes on.
#[test]
fn a_controlplane_that_is_replaced_takes_over_what_crosses() {
    for restarted in [0, 1] {
        let mut edges = Edges::new(2);
        let ada = edges.join(0, "demo", "Ada");
        let bob = edges.join(1, "demo", "Bob");
        let dump = |edges: &Edges| edges.worlds.iter().map(|world| world.workers[&0].dump()).collect::<Vec<_>>();
        let before = dump(&edges);
        edges.set_there(false);
        edges.restart_controlplane(restarted);
        edges.pass(Duration::from_secs(2));
        assert_eq!(dump(&edges), before, "while the cluster is away nothing changes");
        edges.set_there(true);
        edges.pass(Duration::from_secs(2));
        assert_eq!(dump(&edges), before, "edge {restarted}");
        check(&edges);
        let resume = |edges: &mut Edges, edge: usize, client: &Client| {
            let socket = edges.worlds[edge].open("demo", world::grant("again"));
            edges.worlds[edge].say(socket, ClientSignal::Resume { session: client.session.clone() });
            socket
        };
        let client = if restarted == 0 { &ada } else { &bob };
        resume(&mut edges, restarted, client);
        let eve = edges.join(0, "demo", "Eve");
        let dan = edges.join(1, "demo", "Dan");
        check(&edges);
        for (edge, client, from, publisher) in
            [(0, &ada, 1, &dan), (1, &bob, 0, &eve), (1, &dan, 0, &ada), (0, &eve, 1, &bob)]
        {
            assert_eq!(edges.arrives(edge, client, from, publisher), 2, "after edge {restarted}");
        }
        edges.worlds[0].say(eve.socket, ClientSignal::Leave {});
        edges.carry();
        assert!(!peers_told(&mut edges.worlds[1], &dan).contains(&"Eve".to_owned()));
    }
}

#[test]
fn who_left_while_a_controlplane_was_replaced_is_not_there_afterwards() {
    let mut edges = Edges::new(2);
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    edges.set_there(false);
    edges.restart_controlplane(1);
    edges.worlds[0].say(ada.socket, ClientSignal::Leave {});
    edges.carry();
    edges.set_there(true);
    edges.pass(Duration::from_secs(15));
    let left = edges.worlds[1].workers[&0].peers.values().filter(|peer| peer.edge.is_some()).count();
    assert_eq!(left, 0, "nothing is left of who is gone");
    assert_eq!(
        edges.worlds[1].workers[&0].peers.values().filter(|peer| peer.open.peer == bob.peer.unwrap()).count(),
        1
    );
    check(&edges);
}

#[test]
fn a_room_admits_as_many_as_it_may_over_all_edges() {
    let settings = Settings { peers_max: 3, ..Settings::default() };
    let mut edges = Edges::with(3, 1, settings);
    let ada = edges.join(0, "demo", "Ada");
    edges.join(1, "demo", "Bob");
    let eve = edges.join(2, "demo", "Eve");
    for edge in 0..3 {
        assert_eq!(edges.try_join(edge, "demo", "Dan").err(), Some(ErrorCode::RoomFull), "edge {edge}");
    }
    // Who goes makes room, on whichever edge; the edge that owns the admission may lose all its members.
    edges.worlds[0].say(ada.socket, ClientSignal::Leave {});
    edges.carry();
    edges.join(1, "demo", "Dan");
    assert_eq!(edges.try_join(2, "demo", "Fay").err(), Some(ErrorCode::RoomFull));
    edges.worlds[2].say(eve.socket, ClientSignal::Leave {});
    edges.carry();
    edges.join(0, "demo", "Fay");
    assert_eq!(edges.try_join(2, "demo", "Gus").err(), Some(ErrorCode::RoomFull));
    check(&edges);
    assert_eq!(edges.claims.len(), 1);
}

#[test]
fn a_claim_ends_with_its_room_and_moves_when_its_owner_is_gone() {
    let mut edges = Edges::with(2, 1, Settings { peers_max: 2, ..Settings::default() });
    let ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    assert_eq!(edges.claims["demo"].0.node, "edge0");
    // The node that owned it is gone, and its people with it: another one admits from now on.
    edges.worlds[1].input(Input::Cluster(News::Nodes(Vec::new())));
    edges.carry();
    let dan = edges.join(1, "demo", "Dan");
    assert_eq!(edges.claims["demo"].0.node, "edge1");
    assert_eq!(edges.try_join(1, "demo", "Eve").err(), Some(ErrorCode::RoomFull));
    for client in [&bob, &dan] {
        edges.worlds[1].say(client.socket, ClientSignal::Leave {});
    }
    edges.carry();
    assert!(edges.claims.is_empty(), "nobody is in it any more: {:?}", edges.claims);
    drop(ada);
}

#[test]
fn while_the_cluster_is_away_an_edge_admits_by_what_it_knows() {
    let mut edges = Edges::with(2, 1, Settings { peers_max: 3, ..Settings::default() });
    edges.join(0, "demo", "Ada");
    edges.join(1, "demo", "Bob");
    edges.set_there(false);
    edges.join(0, "demo", "Eve");
    assert_eq!(edges.try_join(0, "demo", "Dan").err(), Some(ErrorCode::RoomFull));
    edges.set_there(true);
    edges.pass(Duration::from_secs(1));
    assert_eq!(edges.try_join(1, "demo", "Dan").err(), Some(ErrorCode::RoomFull), "it knows of the third now");
    check(&edges);
}

/// The cluster is there, and nobody answers: the owner of the room has been killed just now, or the engine has no leader.
#[test]
fn who_comes_alone_while_nobody_answers_does_not_wait() {
    let mut edges = Edges::with(2, 1, Settings { peers_max: 3, ..Settings::default() });
    edges.join(0, "demo", "Ada");
    edges.deaf.insert(0);
    edges.join(1, "demo", "Bob");
    edges.deaf.insert(1);
    edges.join(1, "another", "Eve");
}

/// Three edges, two of which are near to the third and far from each other: what crosses between these two goes through it, as long as that is so.
#[test]
fn what_crosses_goes_through_a_third_edge_where_that_is_nearer() {
    let mut edges = Edges::new(3);
    edges.join(0, "demo", "Ada");
    edges.join(1, "demo", "Bob");
    let through = |edges: &Edges, edge: usize, to: usize| {
        let link = edges.links(edge).into_iter().find(|(_, peer)| edges.other_end(peer).is_some_and(|end| end.0 == to));
        let mut candidates = link.expect("a link").1.candidates;
        candidates.sort_by_key(|candidate| candidate.place);
        candidates.retain(|candidate| candidate.remote.port() != 0);
        candidates
    };
    let near = |a: usize, b: usize| Some(if a.min(b) == 0 && a.max(b) == 1 { 150_000 } else { 20_000 });
    for _ in 0..30 {
        edges.measure(near);
        edges.pass(Duration::from_secs(1));
    }
    check(&edges);
    let (ours, theirs) = (through(&edges, 0, 1), through(&edges, 1, 0));
    assert_eq!(ours.len(), 2, "the direct one stands by: {ours:?}");
    for (candidates, direct) in [(&ours, 1), (&theirs, 0)] {
        assert_eq!((candidates[0].remote, candidates[1].remote), (address(2, 0), address(direct, 0)));
        assert!(candidates[0].send_flow != 0 && candidates[1].send_flow == 0);
    }
    let relays: Vec<_> = edges.worlds[2].workers[&0].relays.values().map(|(open, _)| *open).collect();
    assert_eq!(relays.len(), 2, "there and back");
    for (sends, receives, from, to) in [(ours[0], theirs[0], 0, 1), (theirs[0], ours[0], 1, 0)] {
        let relay = relays.iter().find(|relay| relay.flow == sends.send_flow).expect("it is passed on");
        assert_eq!((relay.from, relay.to, relay.to_flow), (address(from, 0), address(to, 0), receives.receive_flow));
    }
    // It is not nearer any more: the direct one is the first again, and what nobody orders is not passed on for ever.
    for _ in 0..100 {
        edges.measure(|_, _| Some(20_000));
        edges.pass(Duration::from_secs(1));
    }
    assert_eq!(through(&edges, 0, 1)[0].send_flow, 0);
    check(&edges);
}

/// An edge is killed: who was in the room through it is gone as soon as no path leads to it and it does not answer, long before its lease ends.
#[test]
fn people_of_an_edge_that_is_dead_are_gone_within_three_seconds() {
    let mut edges = Edges::new(2);
    let _ada = edges.join(0, "demo", "Ada");
    let bob = edges.join(1, "demo", "Bob");
    for _ in 0..3 {
        edges.measure(|_, _| Some(1_000));
        edges.pass(Duration::from_secs(1));
    }
    edges.worlds[1].drain(bob.socket);
    // No path leads there for a while, but it answers: it is there.
    for _ in 0..5 {
        edges.measure(|_, _| None);
        edges.pass(Duration::from_secs(1));
    }
    assert!(!edges.worlds[1].drain(bob.socket).iter().any(|signal| matches!(signal, ServerSignal::PeerLeft { .. })));
    edges.deaf.insert(0);
    for _ in 0..3 {
        edges.measure(|_, _| None);
        edges.pass(Duration::from_secs(1));
    }
    let signals = edges.worlds[1].drain(bob.socket);
    assert!(
        signals.iter().any(|s| matches!(s, ServerSignal::PeerLeft { reason: LeaveReason::TimedOut, .. })),
        "{signals:?}"
    );
    // It was not dead after all: it says who is there, and all is as before.
    edges.deaf.clear();
    edges.measure(|_, _| Some(1_000));
    edges.pass(Duration::from_secs(20));
    assert_eq!(peers_told(&mut edges.worlds[1], &bob), ["Ada"]);
    check(&edges);
}

/// A controlplane is replaced while what crosses goes through a third edge: the worker goes on by the ways that it has, also if nobody says
/// anything of ways again.
#[test]
fn a_successor_leaves_the_ways_that_a_worker_has() {
    let mut edges = Edges::new(3);
    edges.join(0, "demo", "Ada");
    edges.join(1, "demo", "Bob");
    let near = |a: usize, b: usize| Some(if a.min(b) == 0 && a.max(b) == 1 { 150_000 } else { 20_000 });
    for _ in 0..30 {
        edges.measure(near);
        edges.pass(Duration::from_secs(1));
    }
    let ways = |edges: &Edges, edge: usize| {
        let mut all: Vec<_> = edges.links(edge).into_iter().flat_map(|(_, peer)| peer.candidates).collect();
        all.sort_by_key(|candidate| (candidate.peer, candidate.place));
        all
    };
    for restarted in [0, 1] {
        let before = ways(&edges, restarted);
        assert!(before.iter().any(|candidate| candidate.send_flow != 0));
        edges.set_there(false);
        edges.restart_controlplane(restarted);
        edges.pass(Duration::from_secs(5));
        assert_eq!(ways(&edges, restarted), before, "edge {restarted}");
        edges.set_there(true);
        for _ in 0..30 {
            edges.measure(near);
            edges.pass(Duration::from_secs(1));
        }
        assert!(ways(&edges, restarted).iter().any(|candidate| candidate.send_flow != 0), "it is chosen again");
        check(&edges);
    }
}
