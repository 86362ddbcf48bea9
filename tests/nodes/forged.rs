//! Somebody who has the NATS credentials of a node and no signing key writes and says what he likes: nobody acts on it.

use std::time::{Duration, Instant};

use controlplane::auth::RELOAD_INTERVAL;
use controlplane::nodes::Kind;
use controlplane::shared::Subject;
use serde_json::{Value, json};

use crate::harness::{Folder, until, uprtc};
use crate::nats::{self, Hand, Nats};
use crate::shared::{Operator, ask, edge, token, with_key};
use crate::{Edge, LEASE, seals};

/// A record of a node as he would write it.
fn record(node: &str) -> Value {
    json!({
        "version": 2, "node": node, "instance": "f".repeat(32), "run": "f".repeat(16), "count": 9_000_000, "region": "eu",
        "carrier": "", "software": "0.1.0", "http": "https://evil.example", "fingerprint": "cd".repeat(32),
        "workers": [["192.0.2.1:40000"]], "peers": 0, "busy_permille": 0, "started_at": 1
    })
}

/// The same bytes as they are, and sealed with a key of his own.
fn ways(kind: Kind, key: &str, payload: &[u8]) -> [Vec<u8>; 2] {
    [payload.to_vec(), seals(0x66).wrap(kind, &[key], payload)]
}

fn refused(what: &str, reason: &str) -> String {
    format!("uprtc_cluster_{what}_refused_total{{reason=\"{reason}\"}}")
}

fn comes_to_refuse(edge: &Edge, what: &str, reasons: &[&str]) {
    for reason in reasons {
        let name = refused(what, reason);
        until(&name, || edge.metric(&name).is_some_and(|count| count > 0.0).then_some(()));
    }
}

#[test]
fn who_has_the_credentials_of_nats_alone_is_no_node_and_takes_no_name() {
    if nats::program("records that are forged").is_none() {
        return;
    }
    let nats = Nats::start("");
    let mut hand = nats.hand(0);
    let a = edge(&nats, "a");
    let mut b = edge(&nats, "b");
    a.comes_to_see("a:here b:here");
    let was = a.nodes();
    // A node of his own, one in the name of another, and one in the name of somebody who is still to come.
    for (node, way) in [("x", 0), ("b", 1), ("c", 0)] {
        hand.put(node, &ways(Kind::Record, node, record(node).to_string().as_bytes())[way]);
    }
    comes_to_refuse(&a, "records", &["unsealed", "unknown_key"]);
    assert_eq!(a.sees(), "a:here b:here");
    assert_eq!(a.nodes()[1]["fingerprint"], was[1]["fingerprint"]);
    let (_, edges) = ask(&a, "", "GET /v1/edges", None);
    assert!(!edges.to_string().contains("evil.example"), "{edges}");
    assert!(a.log().contains("event=\"record_refused\" key=\"x\" reason=\"unsealed\""), "{}", a.log());
    // Who is still to come comes, and whose record was written over has it again: nobody is gone.
    let c = edge(&nats, "c");
    let is_ours = |bytes: Vec<u8>| seals(0xa7).unwrap(Kind::Record, &["b"], &bytes).is_ok();
    until("the record of b", || hand.look("uprtc-uprtc", "b").filter(|bytes| is_ours(bytes.clone())));
    c.comes_to_see("a:here b:here c:here");
    let begun = Instant::now();
    while begun.elapsed() < LEASE {
        assert_eq!(c.sees(), "a:here b:here c:here", "{}", c.log());
        // That it is removed is no farewell.
        hand.ask("$KV.uprtc-uprtc.x", b"");
        std::thread::sleep(LEASE / 10);
    }
    remove(&mut hand, "b");
    until("the record of b again", || hand.look("uprtc-uprtc", "b").filter(|bytes| is_ours(bytes.clone())));
    assert_eq!(c.sees(), "a:here b:here c:here");
    assert!(!c.log().contains("node_left") && !c.log().contains("node_gone"), "{}", c.log());
    // A record of b of before, put there again when b is dead, does not keep it in view.
    let old = hand.look("uprtc-uprtc", "b").unwrap();
    b.kill();
    let begun = Instant::now();
    until("the end of b", || {
        hand.put("b", &old);
        std::thread::sleep(LEASE / 20);
        (a.sees() == "a:here b:gone c:here").then_some(())
    });
    assert!(begun.elapsed() < 3 * LEASE, "{:?}", begun.elapsed());
    // Nor does it keep b from its name.
    b.start_again();
    a.comes_to_see("a:here b:here c:here");
    assert!(!b.log().contains("another node is called"), "{}", b.log());
}

/// As `nats kv del` does.
fn remove(hand: &mut Hand, key: &str) {
    hand.say(&format!("$KV.uprtc-uprtc.{key}"), &[("KV-Operation", "DEL")], "");
}

#[test]
fn who_has_the_credentials_of_nats_alone_decides_nothing() {
    if nats::program("decisions that are forged").is_none() {
        return;
    }
    let nats = Nats::start("");
    let mut hand = nats.hand(0);
    let [a, b] = ["a", "b"].map(|name| edge(&nats, name));
    b.comes_to_see("a:here b:here");
    let (at_a, at_b) = (Operator::of(&a), Operator::of(&b));
    at_a.set("blue", 4);
    at_b.comes_to_have("blue", Some(4));
    let room = Subject::Room("blue".into()).key();
    let old = hand.look("uprtc-uprtc-shared", &room).unwrap();
    at_a.set("blue", 6);
    let ada = at_a.revoke("blue", json!({"name": "Ada"}));
    at_b.comes_to_have("blue", Some(6));
    at_b.comes_to_revoke("blue", std::slice::from_ref(&ada));
    let admin_of_blue = token(&a.state, &["--room", "blue", "--admin"]);
    let id = at_a.revocations("blue")[0].clone();
    let revocation = Subject::Revocation("blue".into(), id.clone()).key();
    // Other limits, a revocation that is taken back, and one of everybody.
    let everybody = Subject::Revocation("*".into(), "everybody".into()).key();
    for (key, way, document) in [
        (&room, 1, json!({"version": 99, "node": "z", "room": "blue", "policy": {"peers_max": 1}})),
        (&revocation, 0, json!({"version": 99, "node": "z", "room": "blue", "id": id})),
        (
            &everybody,
            1,
            json!({"version": 1, "node": "z", "room": "*", "id": "everybody",
            "revocation": {"room": "*", "everybody": true, "issued_until": u32::MAX}}),
        ),
    ] {
        let bytes = &ways(Kind::Document, key, document.to_string().as_bytes())[way];
        assert!(hand.ask(&format!("$KV.uprtc-uprtc-shared.{key}"), bytes).unwrap()["seq"].is_u64());
    }
    // What a node has sealed, but of another subject, and what it sealed before.
    hand.ask("$KV.uprtc-uprtc-shared.room.0", &old).unwrap();
    hand.ask(&format!("$KV.uprtc-uprtc-shared.{room}"), &old).unwrap();
    for edge in [&a, &b] {
        comes_to_refuse(edge, "documents", &["unsealed", "unknown_key", "forged"]);
    }
    for operator in [&at_a, &at_b] {
        assert_eq!(operator.peers_max("blue"), Some(6));
        assert_eq!(operator.revocations("blue"), std::slice::from_ref(&ada));
    }
    assert_eq!([&a, &b].map(|edge| edge.metric("uprtc_revocations")), [Some(1.0); 2], "and nobody else's");
    assert_eq!(ask(&b, &admin_of_blue, "GET /v1/rooms/blue", None).1["code"], "token_revoked");
    let log = b.log();
    assert!(log.contains("event=\"document_refused\"") && log.matches("document_refused").count() < 4, "{log}");
    // Whoever has the decisions writes them again in the place of what nobody has sealed, so that a node that is new learns them.
    let is_sealed = |hand: &mut Hand, key: &str| {
        let bytes = hand.look("uprtc-uprtc-shared", key)?;
        seals(0xa7).unwrap(Kind::Document, &[key], &bytes).is_ok().then_some(())
    };
    until("the decisions again", || is_sealed(&mut hand, &room).and(is_sealed(&mut hand, &revocation)));
    let c = edge(&nats, "c");
    Operator::of(&c).comes_to_have("blue", Some(6));
    Operator::of(&c).comes_to_revoke("blue", &[ada]);
}

#[test]
fn nodes_with_other_signing_keys_are_none_of_the_cluster_and_are_told_so() {
    if nats::program("nodes with other keys").is_none() {
        return;
    }
    let nats = Nats::start("");
    let a = edge(&nats, "a");
    let arguments = Edge::arguments(&nats.url(), "b", &[]);
    let stranger = with_key("a8");
    let line = Edge::refused(&stranger, &arguments);
    assert!(line.contains("node a of cluster uprtc has other signing keys than this one: copy token.key"), "{line}");
    // One that is new makes a key of its own.
    assert!(Edge::refused(&Folder::new(), &arguments).contains("has other signing keys"));
    let doctor = |state: &Folder| {
        let asked = uprtc(&["doctor", "--no-call", "--state", state.path()]).args(&arguments).output().unwrap();
        String::from_utf8(asked.stdout).unwrap()
    };
    for state in [&stranger, &Folder::new()] {
        let said = doctor(state);
        assert!(said.contains("fail  cluster         node a of cluster uprtc has other signing keys"), "{said}");
    }
    assert_eq!(a.sees(), "a:here");
    // Keys are changed on one edge after the other, in any order, and nobody loses anybody.
    let b = Edge::with(with_key("a7"), arguments);
    let edges = [&a, &b];
    edges.iter().for_each(|edge| edge.comes_to_see("a:here b:here"));
    let add = |edge: &Edge| {
        let folder = edge.state.0.join("token-keys.d");
        std::fs::create_dir_all(&folder).unwrap();
        crate::secret_file(folder.join("k2.key"), &"b2".repeat(32));
        // Until then the edge does not know the tokens that are made with it.
        std::thread::sleep(RELOAD_INTERVAL + Duration::from_secs(1));
    };
    add(&a);
    let begun = Instant::now();
    while begun.elapsed() < LEASE + LEASE / 2 {
        edges.iter().for_each(|edge| assert_eq!(edge.sees(), "a:here b:here", "{}", edge.log()));
        std::thread::sleep(LEASE / 10);
    }
    add(&b);
    let is_of_both = |node: &str| {
        let bytes = nats.hand(0).look("uprtc-uprtc", node)?;
        [0xa7, 0xb2].iter().all(|&key| seals(key).unwrap(Kind::Record, &[node], &bytes).is_ok()).then_some(())
    };
    until("both keys", || is_of_both("a").and(is_of_both("b")));
    // The first key is removed by putting another one in its place: a server would make one.
    for edge in edges {
        crate::secret_file(edge.state.0.join("token.key"), &"c3".repeat(32));
        let begun = Instant::now();
        while begun.elapsed() < LEASE {
            edges.iter().for_each(|edge| assert_eq!(edge.sees(), "a:here b:here", "{}", edge.log()));
            std::thread::sleep(LEASE / 10);
        }
    }
    for edge in edges {
        let counts = ["unsealed", "unknown_key", "forged"].map(|reason| edge.metric(&refused("records", reason)));
        assert!(counts.iter().all(|count| count.is_none_or(|count| count <= 2.0)), "{counts:?}: {}", edge.log());
    }
}
