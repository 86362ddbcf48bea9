//! What clients are told of the edges of a cluster.

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::Edge;
use crate::harness::{plane, until};
use crate::nats::{self, Nats};

/// The answer to a request: its head, and its body.
fn ask(http: &str, request: &str, head: &str) -> (String, String) {
    let mut stream = TcpStream::connect(http).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n{head}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The edges that this one tells of.
fn edges(edge: &Edge) -> Vec<Value> {
    let (head, body) = ask(&edge.http, "GET /v1/edges", "");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    serde_json::from_str::<Value>(&body).unwrap()["edges"].as_array().unwrap().clone()
}

fn names(edge: &Edge) -> String {
    let edges = edges(edge);
    edges.iter().map(|edge| edge["name"].as_str().unwrap_or("?")).collect::<Vec<_>>().join(" ")
}

fn comes_to_tell(edge: &Edge, wanted: &str) {
    until(wanted, || (names(edge) == wanted).then_some(()));
}

#[test]
fn clients_are_told_of_the_edges_that_they_can_join_at() {
    if nats::program("edges that clients are told of").is_none() {
        return;
    }
    let nats = Nats::start("");
    let a = Edge::whole(&nats, "a", &["region=eu", "carrier=north"]);
    let b = Edge::whole(&nats, "b", &["region=eu", "cors-origins=https://app.example"]);
    let c = Edge::whole(&nats, "c", &["region=us", "public-url=https://c.example/calls"]);
    // Without a dataplane nobody can join there, and it is in the cluster all the same.
    let without = Edge::start(&nats, "d", &["region=ap"]);
    without.comes_to_see("a:here b:here c:here d:here");
    // This one first, then one of each region by turns.
    comes_to_tell(&a, "a b c");
    comes_to_tell(&b, "b a c");
    comes_to_tell(&without, "d a c b");
    let told = edges(&a);
    let own = json!({"name": "a", "region": "eu", "carrier": "north", "url": format!("http://{}", a.http), "peers": 0,
        "busy_permille": told[0]["busy_permille"]});
    assert_eq!((&told[0], &told[2]["url"]), (&own, &json!("https://c.example/calls")));
    assert!(told.iter().all(|edge| edge["busy_permille"].as_u64().is_some_and(|busy| busy % 50 == 0)), "{told:?}");

    // The page is told that there are several, and may connect to them.
    let (head, page) = ask(&a.http, "GET /r/blue", "");
    let sources = format!(
        "connect-src 'self' http://{0} ws://{0} http://{1} ws://{1}",
        a.http,
        edges(&a)[1]["url"].as_str().unwrap().trim_start_matches("http://")
    );
    assert!(head.contains(&sources) && head.contains(" https://c.example wss://c.example;"), "{head}");
    assert!(page.starts_with("<!doctype html>\n<html data-edges lang="), "{page}");

    // A page of another edge is a page of ours: where origins are named, it may look and open a socket all the same.
    let signal = |origin: &str| {
        let head = format!(
            "Origin: {origin}\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        ask(&b.http, "GET /v1/rooms/blue/signal", &head).1
    };
    for (origin, is_ours) in [
        (format!("http://{}", a.http), true),
        ("https://c.example".to_owned(), true),
        ("https://app.example".to_owned(), true),
        ("https://c.example.evil.example".to_owned(), false),
        ("https://evil.example".to_owned(), false),
    ] {
        let (head, _) = ask(&b.http, "GET /v1/edges/ping", &format!("Origin: {origin}\r\n"));
        assert_eq!(head.contains(&format!("timing-allow-origin: {origin}")), is_ours, "{origin}: {head}");
        assert_eq!(signal(&origin).contains("token_missing"), is_ours, "{origin}");
    }

    // Who stops is left out.
    kill_process(plane(&c.state.0, "controlplane").unwrap(), Signal::INT).unwrap();
    comes_to_tell(&a, "a b");
}
