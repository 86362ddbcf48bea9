//! What operators decide by REST on one edge is good on all, and what a token of one edge opens on another.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use controlplane::nodes::Kind;
use controlplane::shared::Subject;
use serde_json::{Value, json};

use crate::harness::{Folder, until, uprtc};
use crate::nats::{self, Nats};
use crate::{Edge, seals, secret_file};

/// Longest a decision may take to the other edges.
const SHARED_WITHIN: Duration = Duration::from_secs(1);

/// A folder with a signing key: an operator copies it from one edge to the others.
pub(crate) fn with_key(key: &str) -> Folder {
    let folder = Folder::new();
    secret_file(folder.0.join("token.key"), &key.repeat(32));
    folder
}

pub(crate) fn edge(nats: &Nats, name: &str) -> Edge {
    Edge::with(with_key("a7"), Edge::arguments(&nats.url(), name, &[]))
}

/// A token that is made in a state folder.
pub(crate) fn token(state: &Folder, arguments: &[&str]) -> String {
    let output =
        uprtc(&["token", "--name", "Ada", "--ttl", "1h"]).args(arguments).args(["--state", state.path()]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Status and body of a request.
pub(crate) fn ask(edge: &Edge, token: &str, request: &str, body: Option<Value>) -> (u16, Value) {
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let mut stream = TcpStream::connect(&edge.http).unwrap();
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        edge.http,
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Operators of an edge.
pub(crate) struct Operator<'a>(&'a Edge, String);

impl<'a> Operator<'a> {
    pub(crate) fn of(edge: &'a Edge) -> Operator<'a> {
        Operator(edge, token(&edge.state, &["--room", "*", "--admin"]))
    }

    /// Less than 50 times a second, and waits where the server says that this was too much at once.
    pub(crate) fn ask(&self, request: &str, body: Option<Value>) -> (u16, Value) {
        std::thread::sleep(Duration::from_millis(25));
        until(request, || Some(ask(self.0, &self.1, request, body.clone())).filter(|(status, _)| *status != 429))
    }

    pub(crate) fn set(&self, room: &str, peers_max: u32) {
        let (status, body) = self.ask(&format!("PUT /v1/rooms/{room}"), Some(json!({"peers_max": peers_max})));
        assert!([200, 201].contains(&status), "{status} {body}");
    }

    fn delete(&self, room: &str) {
        assert_eq!(self.ask(&format!("DELETE /v1/rooms/{room}"), None).0, 204);
    }

    /// Peers that a room admits, if it is there.
    pub(crate) fn peers_max(&self, room: &str) -> Option<u64> {
        let (status, room) = self.ask(&format!("GET /v1/rooms/{room}"), None);
        assert!([200, 404].contains(&status), "{status} {room}");
        room["peers_max"].as_u64()
    }

    pub(crate) fn comes_to_have(&self, room: &str, peers_max: Option<u64>) -> Duration {
        let begun = Instant::now();
        until(&format!("{room} {peers_max:?}"), || (self.peers_max(room) == peers_max).then_some(()));
        begun.elapsed()
    }

    pub(crate) fn revocations(&self, room: &str) -> Vec<String> {
        let (_, page) = self.ask(&format!("GET /v1/rooms/{room}/revocations"), None);
        page["revocations"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn comes_to_revoke(&self, room: &str, ids: &[String]) -> Duration {
        let begun = Instant::now();
        until(&format!("{ids:?}"), || (self.revocations(room) == ids).then_some(()));
        begun.elapsed()
    }

    pub(crate) fn revoke(&self, room: &str, whose: Value) -> String {
        let (status, revocation) = self.ask(&format!("POST /v1/rooms/{room}/revocations"), Some(whose));
        assert_eq!(status, 201, "{revocation}");
        revocation["id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn what_is_decided_on_one_edge_holds_on_all_and_so_do_tokens() {
    if nats::program("decisions of one edge on all").is_none() {
        return;
    }
    let nats = Nats::start("");
    let [mut a, mut b] = ["a", "b"].map(|name| edge(&nats, name));
    b.comes_to_see("a:here b:here");
    // A token that is made with the key of one edge is good on another that has the same key, and on no other.
    let of_a = token(&a.state, &["--room", "*", "--admin"]);
    assert_eq!(ask(&b, &of_a, "GET /v1/rooms", None).0, 200);
    assert_eq!(ask(&b, &token(&with_key("a8"), &["--room", "*", "--admin"]), "GET /v1/rooms", None).0, 401);
    let admin_of_blue = token(&a.state, &["--room", "blue", "--admin"]);
    {
        let (at_a, at_b) = (Operator::of(&a), Operator::of(&b));
        at_a.set("blue", 4);
        let mut took = vec![at_b.comes_to_have("blue", Some(4))];
        let (status, blue) = at_b.ask("PATCH /v1/rooms/blue", Some(json!({"peers_max": 6, "locked": true})));
        assert_eq!((status, &blue["locked"]), (200, &true.into()));
        took.push(at_a.comes_to_have("blue", Some(6)));
        assert_eq!(at_a.ask("GET /v1/rooms/blue", None).1["locked"], true);
        assert_eq!(ask(&b, &admin_of_blue, "GET /v1/rooms/blue", None).0, 200);
        let id = at_a.revoke("blue", json!({"name": "Ada"}));
        took.push(at_b.comes_to_revoke("blue", std::slice::from_ref(&id)));
        assert_eq!(ask(&b, &admin_of_blue, "GET /v1/rooms/blue", None).1["code"], "token_revoked");
        assert_eq!(at_b.ask(&format!("DELETE /v1/rooms/blue/revocations/{id}"), None).0, 204);
        took.push(at_a.comes_to_revoke("blue", &[]));
        assert_eq!(ask(&a, &admin_of_blue, "GET /v1/rooms/blue", None).0, 200);
        // Two at once: whichever stands, it stands on both.
        std::thread::scope(|scope| {
            scope.spawn(|| at_a.set("red", 11));
            at_b.set("red", 22);
        });
        until("one red", || (at_a.peers_max("red") == at_b.peers_max("red")).then_some(()));
        at_a.set("green", 5);
        at_b.comes_to_have("green", Some(5));
        at_b.delete("green");
        took.push(at_a.comes_to_have("green", None));
        at_a.revoke("blue", json!({"name": "Eve"}));
        let everybody = at_a.revoke("blue", json!({}));
        took.push(at_b.comes_to_revoke("blue", &[everybody]));
        assert!(took.iter().all(|took| *took < SHARED_WITHIN), "{took:?}");
        assert_eq!(
            (a.metric("uprtc_cluster_documents_pending"), b.metric("uprtc_cluster_documents_pending")),
            (Some(0.0), Some(0.0))
        );
    }
    // One after the other, and both at once.
    let red = Operator::of(&a).peers_max("red");
    a.kill();
    a.start_again();
    let is_so = |edge: &Edge| {
        let operator = Operator::of(edge);
        assert_eq!(
            [operator.peers_max("blue"), operator.peers_max("red"), operator.peers_max("green")],
            [Some(6), red, None]
        );
        assert_eq!(operator.revocations("blue"), ["everybody"]);
    };
    is_so(&a);
    a.kill();
    b.kill();
    a.start_again();
    b.start_again();
    for edge in [&a, &b] {
        edge.comes_to_see("a:here b:here");
        is_so(edge);
    }
    // An edge that is new learns all of it, and what was taken back is not among it.
    let c = edge(&nats, "c");
    Operator::of(&c).comes_to_have("blue", Some(6));
    Operator::of(&c).comes_to_revoke("blue", &["everybody".to_owned()]);
    is_so(&c);
    // What stands there by another hand is refused by name, and harms nothing.
    let mut hand = nats.hand(0);
    let of_blue = br#"{"version":9,"node":"x","room":"blue","policy":{"peers_max":1}}"#;
    for (key, payload) in [("room.0", &b"nonsense"[..]), ("room.1", of_blue)] {
        let sealed = seals(0xa7).wrap(Kind::Document, &[key], payload);
        hand.ask(&format!("$KV.uprtc-uprtc-shared.{key}"), &sealed).unwrap();
    }
    for reason in ["malformed", "other_key"] {
        b.comes_to_have(&format!("uprtc_cluster_documents_refused_total{{reason=\"{reason}\"}}"), 1.0);
    }
    is_so(&b);
}

#[test]
fn what_is_decided_while_nats_is_away_holds_everywhere_when_it_is_back() {
    if nats::program("decisions without NATS").is_none() {
        return;
    }
    let mut nats = Nats::start("");
    let [a, b, mut c] = ["a", "b", "c"].map(|name| edge(&nats, name));
    let (at_a, at_b) = (Operator::of(&a), Operator::of(&b));
    for room in ["kept", "both", "gone"] {
        at_a.set(room, 4);
        at_b.comes_to_have(room, Some(4));
        Operator::of(&c).comes_to_have(room, Some(4));
    }
    c.kill();
    nats.kill(0);
    a.comes_to_have("uprtc_cluster_connected", 0.0);
    b.comes_to_have("uprtc_cluster_connected", 0.0);
    // Each edge serves, and decides for itself. a decides twice of one room, and b, which decides later, once.
    at_a.set("both", 5);
    at_a.set("both", 6);
    at_a.set("new", 7);
    at_b.set("both", 9);
    at_b.delete("gone");
    let everybody = at_b.revoke("kept", json!({}));
    assert_eq!([at_a.peers_max("both"), at_b.peers_max("both")], [Some(6), Some(9)]);
    assert_eq!(
        (a.metric("uprtc_cluster_documents_pending"), b.metric("uprtc_cluster_documents_pending")),
        (Some(2.0), Some(3.0))
    );
    // And remembers it, whatever becomes of it meanwhile.
    nats.start_again(0);
    c.start_again();
    let at_c = Operator::of(&c);
    for operator in [&at_a, &at_b, &at_c] {
        for (room, peers) in [("both", Some(6)), ("new", Some(7)), ("gone", None), ("kept", Some(4))] {
            operator.comes_to_have(room, peers);
        }
        operator.comes_to_revoke("kept", std::slice::from_ref(&everybody));
    }
    // The bucket is lost: nothing is, because each edge has it.
    let mut hand = nats.hand(0);
    hand.ask("$JS.API.STREAM.DELETE.KV_uprtc-uprtc-shared", b"").unwrap();
    at_a.set("kept", 3);
    at_b.comes_to_have("kept", Some(3));
    at_c.comes_to_have("kept", Some(3));
    until("all documents", || {
        let info = hand.ask("$JS.API.STREAM.INFO.KV_uprtc-uprtc-shared", b"")?;
        (info["state"]["messages"] == 5).then_some(())
    });
    assert_eq!([at_a.peers_max("gone"), at_b.peers_max("both"), at_c.peers_max("new")], [None, Some(6), Some(7)]);
}

#[test]
fn an_edge_that_is_new_learns_thousands_of_decisions_beside_everything_else() {
    if nats::program("many decisions").is_none() {
        return;
    }
    const COUNT: u64 = 6_000;
    let nats = Nats::start("");
    let a = edge(&nats, "a");
    a.comes_to_see("a:here");
    let (mut hand, seals) = (nats.hand(0), seals(0xa7));
    for number in 0..COUNT {
        let (room, token) = (format!("r{}", number % 60), format!("{number:016x}"));
        let key = Subject::Revocation(room.clone(), format!("token.{token}")).key();
        let revocation = json!({"room": room, "token": token, "issued_until": u32::MAX});
        let id = format!("token.{token}");
        let document = json!({"version": 1, "node": "x", "room": room, "id": id, "revocation": revocation});
        let sealed = seals.wrap(Kind::Document, &[&key], document.to_string().as_bytes());
        let answer = hand.ask(&format!("$KV.uprtc-uprtc-shared.{key}"), &sealed).unwrap();
        assert!(answer["seq"].is_u64(), "{answer}");
    }
    let b = edge(&nats, "b");
    for edge in [&a, &b] {
        edge.comes_to_have("uprtc_cluster_documents_total{direction=\"taken\"}", COUNT as f64);
        assert_eq!(edge.metric("uprtc_revocations"), Some(COUNT as f64));
        assert_eq!(
            (edge.metric("uprtc_cluster_speaking"), edge.metric("uprtc_cluster_overruns_total")),
            (Some(1.0), Some(0.0))
        );
        edge.comes_to_have("uprtc_registry_unsaved", 0.0);
    }
}
