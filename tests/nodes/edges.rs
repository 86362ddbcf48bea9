//! What clients are told of the edges of a cluster.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};

use crate::Edge;
use crate::harness::{plane, until, uprtc};
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

/// The offer of a browser that publishes and receives.
const OFFER: &str = include_str!("../../controlplane/tests/offers/chromium_sendrecv.sdp");

#[test]
fn a_busy_edge_sends_who_comes_by_whip_or_whep_to_another_one_once() {
    if nats::program("an edge that redirects").is_none() {
        return;
    }
    let nats = Nats::start("");
    let a = Edge::whole(&nats, "a", &["region=eu", "redirect-above=1"]);
    let b = Edge::whole(&nats, "b", &["region=eu", "redirect-above=1"]);
    let far = Edge::whole(&nats, "c", &["region=us"]);
    comes_to_tell(&a, "a b c");
    let token = |room: &str| {
        let words = ["token", "--room", room, "--name", "cam", "--publish", "--subscribe", "--state", a.state.path()];
        String::from_utf8(uprtc(&words).output().unwrap().stdout).unwrap()
    };
    let (token, other) = (token("blue"), token("green"));
    let post = |http: &str, path: &str, token: &str| {
        let head = format!(
            "Authorization: Bearer {}\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{OFFER}",
            token.trim(),
            OFFER.len()
        );
        ask(http, &format!("POST {path}"), &head).0
    };
    let (status, location) = (
        |head: &str| head.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok()).unwrap(),
        |head: &str| head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap_or_default().to_owned(),
    );
    assert_eq!(status(&post(&a.http, "/whip/blue", &token)), 201, "it is not busy");

    let load = ["load", "--seconds", "60", "--state", a.state.path(), "broadcast", "--viewers", "40"];
    let mut load = uprtc(&load).spawn().unwrap();
    let redirected = until("a redirect", || {
        let head = post(&a.http, "/whep/blue/cam?x=1", &token);
        std::thread::sleep(Duration::from_millis(200));
        (status(&head) == 307).then_some(head)
    });
    let there = location(&redirected);
    assert_eq!(there, format!("http://{}/whep/blue/cam?x=1&redirected=1", b.http), "not to {}", far.http);
    assert!(redirected.contains("access-control-allow-origin: *"), "{redirected}");
    let head = post(&b.http, "/whep/blue/cam?x=1&redirected=1", &token);
    assert_eq!(status(&head), 201);
    assert!(location(&head).starts_with(&format!("http://{}/whep/blue/sessions/", b.http)), "{head}");
    assert_eq!(location(&post(&a.http, "/whip/blue", &token)), format!("http://{}/whip/blue?redirected=1", b.http));
    // Who was sent here stays, and a stranger is not sent anywhere.
    assert_eq!(status(&post(&a.http, "/whip/green?redirected=1", &other)), 201);
    assert_eq!(status(&post(&a.http, "/whip/blue", "x.y.z")), 401);
    let _ = load.kill();
    let _ = load.wait();
}
