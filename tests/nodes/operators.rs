//! Operators ask any edge of what is on another: rooms, peers, and what is to become of them.

use std::time::{Duration, Instant};

use bench::peer::{Peer, Settings};
use bench::signal::Link;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{plane, until};
use crate::nats::{self, Nats};
use crate::shared::{Operator, token, with_key};
use crate::{Edge, secret_file};

fn whole(nats: &Nats, name: &str) -> Edge {
    Edge::whole_in(with_key("a7"), nats, name, &[])
}

/// Somebody in a room, by an edge.
async fn join(edge: &Edge, room: &str, id: u32) -> Peer {
    let token = token(&edge.state, &["--room", room, "--publish", "--subscribe"]);
    let link = Link::parse(&format!("http://{}/r/{room}?token={token}", edge.http)).unwrap();
    Peer::join(&link, Settings::new(id)).await.unwrap()
}

/// `NODE` of each peer of a room, in order, and their ids by node.
fn peers(operator: &Operator, room: &str) -> Vec<(String, String)> {
    let (status, page) = operator.ask(&format!("GET /v1/rooms/{room}/peers"), None);
    assert_eq!((status, &page["unanswered"]), (200, &Value::Null), "{page}");
    let of = |peer: &Value| (peer["node"].as_str().unwrap().to_owned(), peer["peer"].as_str().unwrap().to_owned());
    let mut all: Vec<(String, String)> = page["peers"].as_array().unwrap().iter().map(of).collect();
    all.sort();
    all
}

fn nodes_of(peers: &[(String, String)]) -> Vec<&str> {
    peers.iter().map(|(node, _)| node.as_str()).collect()
}

#[test]
fn operators_ask_any_edge_of_what_is_on_another() {
    if nats::program("operators of many edges").is_none() {
        return;
    }
    let nats = Nats::start("");
    let [a, b] = ["a", "b"].map(|name| whole(&nats, name));
    // Of the same cluster, without a dataplane, and one that will have another key.
    let c = Edge::with(with_key("a7"), Edge::arguments(&nats.url(), "c", &[]));
    let stranger = Edge::with(with_key("a7"), Edge::arguments(&nats.url(), "d", &[]));
    for edge in [&a, &b, &c, &stranger] {
        edge.comes_to_see("a:here b:here c:here d:here");
    }
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    until("dataplanes", || [&a, &b].iter().all(|edge| edge.metric("uprtc_linked") == Some(1.0)).then_some(()));
    let _of_a = threads.block_on(join(&a, "blue", 1));
    let _of_b = threads.block_on(join(&b, "blue", 2));
    let [at_a, at_b, at_c] = [&a, &b, &c].map(Operator::of);
    // The stranger has another key than the other three from now on: they do not answer it, and it is gone from their view when its lease is
    // over.
    secret_file(stranger.state.0.join("token.key"), &"a8".repeat(32));
    let of_the_stranger = Operator::of(&stranger);
    until("a question that is refused", || {
        let (status, rooms) = of_the_stranger.ask("GET /v1/rooms", None);
        assert!(status == 401 || rooms["rooms"] == json!([]), "{status} {rooms}");
        a.log().contains("question_refused").then_some(())
    });
    for edge in [&a, &b, &c] {
        edge.comes_to_see("a:here b:here c:here d:gone");
    }
    kill_process(plane(&stranger.state.0, "controlplane").unwrap(), Signal::INT).unwrap();

    for operator in [&at_a, &at_b, &at_c] {
        let (_, rooms) = operator.ask("GET /v1/rooms", None);
        let blue = &rooms["rooms"][0];
        let mut nodes: Vec<&str> =
            blue["nodes"].as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect();
        nodes.sort_unstable();
        assert_eq!((&blue["room"], &blue["peers"], nodes), (&json!("blue"), &json!(2), vec!["a", "b"]), "{rooms}");
        assert_eq!(
            (operator.ask("GET /v1/rooms/blue", None).1["peers"].clone(), rooms.get("unanswered")),
            (json!(2), None)
        );
        assert_eq!(nodes_of(&peers(operator, "blue")), ["a", "b"]);
    }
    // In pages, which are one list.
    let (_, first) = at_c.ask("GET /v1/rooms/blue/peers?limit=1", None);
    let (_, rest) =
        at_c.ask(&format!("GET /v1/rooms/blue/peers?limit=1&after={}", first["next"].as_str().unwrap()), None);
    assert_eq!((first["peers"].as_array().unwrap().len(), rest["peers"].as_array().unwrap().len()), (1, 1));
    assert_eq!(rest["next"], Value::Null);
    assert_ne!(first["peers"][0]["peer"], rest["peers"][0]["peer"]);

    // One peer of b, by others: looked at, muted, moved, removed.
    let id = peers(&at_a, "blue")[1].1.clone();
    let path = format!("/v1/rooms/blue/peers/{id}");
    let peer = at_c.ask(&format!("GET {path}"), None).1;
    assert_eq!((&peer["node"], &peer["peer"]), (&json!("b"), &json!(id)));
    let mid = peer["tracks"][0]["mid"].as_str().unwrap().to_owned();
    let (status, track) = at_a.ask(&format!("PATCH {path}/tracks/{mid}"), Some(json!({"muted": true})));
    assert_eq!((status, &track["muted"], &track["mid"]), (200, &true.into(), &json!(mid)));
    let muted = at_b.ask(&format!("GET {path}"), None).1["tracks"][0]["muted"].clone();
    assert_eq!(muted, true, "its own edge says so, too");
    let (status, problem) = at_a.ask(&format!("PATCH {path}/tracks/none"), Some(json!({"muted": true})));
    assert_eq!((status, &problem["code"]), (404, &json!("no_track")), "the refusal of the other edge");
    let (status, moved) = at_c.ask(&format!("POST {path}/move"), Some(json!({"room": "red"})));
    assert_eq!((status, &moved["peer"], &moved["node"]), (200, &json!(id), &json!("b")));
    let red = at_a.ask("GET /v1/rooms/red", None).1;
    assert_eq!((&red["peers"], &red["nodes"]), (&json!(1), &json!(["b"])), "{red}");
    assert_eq!(nodes_of(&peers(&at_b, "blue")), ["a"]);

    // Who has only the servers of NATS may not ask, and nobody is removed by that.
    let mut hand = nats.hand(0);
    let headers =
        [("Uprtc-Version", "2"), ("Uprtc-Node", "c"), ("Uprtc-Run", "0123456789abcdef"), ("Uprtc-Count", "1")];
    let remove = json!({"ask": "remove", "room": "red", "peer": id}).to_string();
    let refused = b.log().matches("question_refused").count();
    hand.say_for("uprtc.uprtc.ask.b", Some("uprtc.uprtc.answer.c.1"), &headers, &remove);
    until("the line of b", || (b.log().matches("question_refused").count() > refused).then_some(()));
    assert_eq!(at_a.ask("GET /v1/rooms/red", None).1["peers"], 1);

    assert_eq!(at_a.ask(&format!("DELETE /v1/rooms/red/peers/{id}"), None).0, 204);
    let (status, problem) = at_a.ask(&format!("DELETE /v1/rooms/red/peers/{id}"), None);
    assert_eq!((status, problem["code"].as_str().unwrap().starts_with("no_")), (404, true), "{problem}");
    until("red is empty", || (at_c.ask("GET /v1/rooms/red", None).0 == 404).then_some(()));

    // A room is deleted where nobody is in it, and whoever is in it elsewhere goes.
    let _again = threads.block_on(join(&b, "blue", 3));
    assert_eq!(nodes_of(&peers(&at_c, "blue")), ["a", "b"]);
    assert_eq!(at_c.ask("DELETE /v1/rooms/blue", None).0, 204);
    until("blue is gone", || (at_c.ask("GET /v1/rooms/blue", None).0 == 404).then_some(()));
    assert_eq!(at_c.ask("DELETE /v1/rooms/blue", None).1["code"], "no_room");

    // A node that hangs is named, and is no error; one that is asked for alone is not found, with its name.
    let _last = threads.block_on(join(&a, "green", 4));
    let hung = plane(&b.state.0, "controlplane").unwrap();
    kill_process(hung, Signal::STOP).unwrap();
    let begun = Instant::now();
    let green = at_c.ask("GET /v1/rooms/green", None).1;
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!((&green["peers"], &green["nodes"], &green["unanswered"]), (&json!(1), &json!(["a"]), &json!(["b"])));
    let (status, problem) = at_c.ask("GET /v1/rooms/green/peers/none", None);
    assert_eq!((status, &problem["code"]), (404, &json!("no_peer")));
    assert!(problem["detail"].as_str().unwrap().ends_with("these nodes do not answer: b"), "{problem}");
    kill_process(hung, Signal::CONT).unwrap();
    until("b again", || at_c.ask("GET /v1/rooms/green", None).1.get("unanswered").is_none().then_some(()));
}
