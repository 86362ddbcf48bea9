//! What nodes say to each other, with a real nats-server and this test in the place of their engines.

use std::time::Duration;

use controlplane::auth::{KEY_LEN, TokenKey, TokenKeys};
use controlplane::bus::{Claim, News, NodeNews, Order, Sender};
use controlplane::driver::{self, Load, Orders, Request};
use controlplane::nodes::{Kind, MESSAGE_LEN_MAX, Member, Nodes, Settings};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{DEADLINE, Folder};
use crate::nats::{self, Hand, Nats};
use crate::{LEASE, seals};

/// A node without planes.
struct Speaker {
    node: &'static str,
    state: Folder,
    nodes: std::sync::Arc<Nodes>,
    orders: Orders,
    news: mpsc::UnboundedReceiver<News>,
    stop: watch::Sender<Option<bool>>,
    task: JoinHandle<()>,
}

impl Speaker {
    async fn start(nats: &Nats, node: &'static str) -> Speaker {
        Self::with(nats, node, Folder::new()).await
    }

    async fn with(nats: &Nats, node: &'static str, state: Folder) -> Speaker {
        let settings = Settings {
            name: "uprtc".into(),
            servers: nats.url().split(',').map(str::to_owned).collect(),
            ca: None,
            credentials: None,
            node: node.into(),
            region: "eu".into(),
            carrier: "north".into(),
            relay_ips: Vec::new(),
            http: None,
            announce: Vec::new(),
            lease: LEASE,
        };
        let keys = std::sync::Arc::new(TokenKeys::from(TokenKey::new(&[7; KEY_LEN])));
        let member = Member::join(settings, &state.0, [7; 32], keys).await.unwrap();
        let nodes = member.nodes();
        let (handle, mut inbox) = driver::channel();
        let (tell, news) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(request) = inbox.requests.recv().await {
                match request {
                    Request::Input(controlplane::engine::Input::Cluster(told)) => drop(tell.send(told)),
                    Request::Load { reply } => drop(reply.send(Load { peers: 0, workers: Vec::new() })),
                    other => panic!("{other:?}"),
                }
            }
        });
        let (orders, outlet) = driver::orders();
        let (stop, stopping) = watch::channel(None);
        let task = tokio::spawn(member.run(handle, Some(outlet), None, None, "http://127.0.0.1:1".into(), stopping));
        Speaker { node, state, nodes, orders, news, stop, task }
    }

    /// The same, once it is told that the cluster is there.
    async fn connected(nats: &Nats, node: &'static str) -> Speaker {
        let mut speaker = Self::start(nats, node).await;
        speaker.comes_to_be(true).await;
        speaker
    }

    async fn next(&mut self) -> News {
        let next = timeout(DEADLINE, self.news.recv()).await;
        next.unwrap_or_else(|_| panic!("{} is told nothing", self.node)).expect("it runs")
    }

    async fn comes_to_be(&mut self, is_connected: bool) {
        while self.next().await != News::Connected(is_connected) {}
    }

    async fn comes_to_know(&mut self, others: &[&str]) -> Vec<NodeNews> {
        loop {
            if let News::Nodes(nodes) = self.next().await
                && nodes.iter().map(|other| other.node.node.as_str()).eq(others.iter().copied())
            {
                return nodes;
            }
        }
    }

    /// The next that another node said: of which room, who, and what.
    async fn hears(&mut self) -> (Option<String>, Sender, String) {
        let text = |payload: Vec<u8>| String::from_utf8_lossy(&payload).into_owned();
        loop {
            match self.next().await {
                News::Said { room, from, payload } => return (Some(room), from, text(payload)),
                News::Told { from, payload } => return (None, from, text(payload)),
                News::Nodes(_) => {}
                other => panic!("{} is told {other:?}", self.node),
            }
        }
    }

    async fn hears_text(&mut self) -> String {
        self.hears().await.2
    }

    async fn claims(&mut self, room: &str, replaced: u64) -> Claim {
        self.orders.push(Order::Claim { room: room.into(), replaced });
        loop {
            if let News::Claimed { room: of, claim } = self.next().await {
                assert_eq!(of, room);
                return claim;
            }
        }
    }

    fn listen(&self, room: &str) {
        self.orders.push(Order::Listen { room: room.into() });
    }

    fn say(&self, room: &str, text: &str) {
        self.orders.push(Order::Say { room: room.into(), payload: text.into() });
    }

    fn tell(&self, node: &str, text: &str) {
        self.orders.push(Order::Tell { node: node.into(), payload: text.into() });
    }

    /// A count of its metrics: of refused messages, or of dropped orders.
    fn count(&self, reason: &str) -> u64 {
        let figures = self.nodes.figures();
        let mut all = figures.messages_refused.into_iter().chain(figures.orders_dropped);
        all.find(|(name, _)| *name == reason).unwrap().1
    }

    /// What is dropped, or refused, is counted a moment after it was sent.
    async fn comes_to_count(&self, reason: &str, count: u64) {
        let looks = async {
            while self.count(reason) < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(DEADLINE, looks).await.is_ok(), "{} of {reason}", self.count(reason));
        assert_eq!(self.count(reason), count);
    }

    /// As a process that is killed; its state folder stays.
    async fn kill(self) -> Folder {
        self.task.abort();
        let _ = self.task.await;
        self.state
    }

    async fn leave(self) {
        self.stop.send_replace(Some(true));
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

/// The subject of the node a.
const OF_A: &str = "uprtc.uprtc.node.a";

/// Headers of a message of a node of this cluster.
fn headers<'a>(subject: &str, node: &'a str, count: &'a str, room: &'a str, payload: &str) -> Vec<(&'a str, String)> {
    let run = "0123456789abcdef";
    let about = [subject, node, run, count, room, ""];
    let seal = seals(7).seal(Kind::Message, &about, payload.as_bytes());
    let all = [("Version", "2"), ("Node", node), ("Run", run), ("Count", count), ("Room", room), ("Seal", &seal)];
    let name = |name: &str| match name {
        "Version" => "Uprtc-Version",
        "Node" => "Uprtc-Node",
        "Run" => "Uprtc-Run",
        "Count" => "Uprtc-Count",
        "Room" => "Uprtc-Room",
        _ => "Uprtc-Seal",
    };
    all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(of, value)| (name(of), value.to_owned())).collect()
}

/// Says something with these headers.
fn say(hand: &mut Hand, subject: &str, headers: &[(&str, String)], payload: &str) {
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    hand.say(subject, &headers, payload);
}

fn test(what: &str, test: impl AsyncFnOnce()) {
    if nats::program(what).is_some() {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    }
}

#[test]
fn nodes_hear_each_other_in_order_and_rooms_only_who_listens() {
    test("nodes that speak", async || {
        let nats = Nats::start("");
        let mut a = Speaker::connected(&nats, "a").await;
        let mut b = Speaker::connected(&nats, "b").await;
        let mut c = Speaker::connected(&nats, "c").await;
        let others = a.comes_to_know(&["b", "c"]).await;
        assert_eq!(
            (others[0].fingerprint, others[0].region.as_str(), others[0].carrier.as_str()),
            ([7; 32], "eu", "north")
        );
        b.listen("one");
        b.listen("two");
        // What is said on a line after it subscribed comes to whoever answers.
        b.tell("a", "ready");
        let (room, from, text) = a.hears().await;
        assert_eq!((room, from.node.as_str(), text.as_str()), (None, "b", "ready"));
        assert_eq!(from, others[0].node, "the run is that of the record");
        c.listen("two");
        c.tell("a", "ready");
        assert_eq!(a.hears_text().await, "ready");
        // On three subjects, and told in the order in which it was said. Nothing is told back.
        a.listen("one");
        for number in 0..300 {
            match number % 3 {
                0 => a.say("one", &number.to_string()),
                1 => a.say("two", &number.to_string()),
                _ => a.tell("b", &number.to_string()),
            }
        }
        for number in 0..300 {
            let (room, from, text) = b.hears().await;
            assert_eq!((from.node.as_str(), text), ("a", number.to_string()));
            assert_eq!(room.as_deref(), [Some("one"), Some("two"), None][number % 3]);
        }
        for number in (1..300).step_by(3) {
            assert_eq!(c.hears_text().await, number.to_string(), "the room that it listens to");
        }
        // Who does not listen any more hears nothing more.
        b.orders.push(Order::Ignore { room: "one".into() });
        b.tell("a", "ignored");
        assert_eq!(a.hears_text().await, "ignored", "the first that it hears: nothing of its own");
        a.say("one", "late");
        a.tell("b", "last");
        assert_eq!(b.hears_text().await, "last");
        b.listen("one");
        b.tell("a", "again");
        assert_eq!(a.hears_text().await, "again");
        a.say("one", "heard");
        assert_eq!(b.hears().await.0.as_deref(), Some("one"));
        // A farewell, and a start that follows a death: another run.
        c.leave().await;
        a.comes_to_know(&["b"]).await;
        let was = others[0].node.run.clone();
        let state = b.kill().await;
        let mut b = Speaker::with(&nats, "b", state).await;
        b.comes_to_be(true).await;
        assert_ne!(a.comes_to_know(&["b"]).await[0].node.run, was);
        b.tell("a", "back");
        assert_eq!(a.hears_text().await, "back");
    });
}

#[test]
fn messages_that_are_not_of_a_node_are_refused_by_name() {
    test("messages that others write", async || {
        let nats = Nats::start("");
        let mut a = Speaker::connected(&nats, "a").await;
        let mut b = Speaker::connected(&nats, "b").await;
        a.comes_to_know(&["b"]).await;
        // Too long: not said, and not heard.
        let longest = "x".repeat(MESSAGE_LEN_MAX);
        b.tell("a", &format!("{longest}x"));
        b.tell("a", &longest);
        assert_eq!(a.hears_text().await.len(), MESSAGE_LEN_MAX);
        assert_eq!(b.nodes.figures().orders_dropped[1], ("too_long", 1));
        let mut hand = nats.hand(0);
        let good = |payload: &str| headers(OF_A, "stranger", "1", "", payload);
        let with = |name: &str, value: &str| {
            let mut headers = good("");
            headers.iter_mut().filter(|(of, _)| *of == name).for_each(|(_, is)| *is = value.to_owned());
            headers
        };
        say(&mut hand, OF_A, &good(""), &format!("{longest}x"));
        say(&mut hand, OF_A, &[], "no headers");
        say(&mut hand, OF_A, &with("Uprtc-Run", "xyz"), "no run");
        say(&mut hand, OF_A, &with("Uprtc-Version", "1"), "another version");
        say(&mut hand, OF_A, &with("Uprtc-Node", "a"), "a namesake");
        say(&mut hand, OF_A, &with("Uprtc-Node", "b"), "of another node");
        say(&mut hand, OF_A, &with("Uprtc-Count", "2"), "of another number");
        say(&mut hand, OF_A, &with("Uprtc-Seal", "00000000-00"), "of another key");
        say(&mut hand, OF_A, &good("something else"), "changed");
        say(&mut hand, OF_A, &headers("uprtc.uprtc.node.b", "stranger", "1", "", "to another"), "to another");
        say(&mut hand, OF_A, &good("")[..4], "without a seal");
        // A node whose record is not here yet speaks all the same, and once.
        say(&mut hand, OF_A, &good("early"), "early");
        say(&mut hand, OF_A, &good("early"), "early");
        let (room, from, text) = a.hears().await;
        assert_eq!((room, from.node.as_str(), text.as_str()), (None, "stranger", "early"));
        for (reason, count) in [
            ("no_sender", 2),
            ("other_version", 1),
            ("namesake", 1),
            ("unsealed", 1),
            ("unknown_key", 1),
            ("forged", 4),
            ("replayed", 1),
        ] {
            a.comes_to_count(reason, count).await;
        }
        assert_eq!(a.nodes.figures().messages_refused[0], ("too_long", 1));
        // A room whose name is not that of the subject.
        a.listen("one");
        a.tell("b", "listening");
        assert_eq!(b.hears_text().await, "listening");
        let subject = "uprtc.uprtc.room.7692c3ad3540bb803c020b3aee66cd88";
        let of = |count, room, payload| headers(subject, "stranger", count, room, payload);
        say(&mut hand, subject, &of("2", "two", "of another room"), "of another room");
        say(&mut hand, subject, &of("3", "", "of none"), "of none");
        say(&mut hand, subject, &of("4", "one", "of this one"), "of this one");
        assert_eq!(a.hears_text().await, "of this one");
        assert_eq!(a.count("other_room"), 2);
    });
}

#[test]
fn what_a_node_said_before_is_not_heard_again_not_even_by_one_that_starts() {
    test("messages that are said again", async || {
        let nats = Nats::start("");
        let mut hand = nats.hand(0);
        hand.listen("uprtc.uprtc.node.>");
        let mut a = Speaker::connected(&nats, "a").await;
        let b = Speaker::connected(&nats, "b").await;
        let first = nats.hand(0).look("uprtc-uprtc", "b").unwrap();
        a.comes_to_know(&["b"]).await;
        let mut heard = Vec::new();
        for number in 0..200 {
            b.tell("a", &number.to_string());
            assert_eq!(a.hears_text().await, number.to_string());
        }
        while heard.len() < 200 {
            let (subject, headers, payload) = hand.hears();
            // Marks have nothing in them.
            if subject == OF_A && !payload.is_empty() {
                heard.push((headers, payload));
            }
        }
        heard.iter().for_each(|(headers, payload)| hand.say_again(OF_A, headers, payload));
        a.comes_to_count("replayed", 200).await;
        // To another node they are not sealed.
        hand.say_again("uprtc.uprtc.node.b", &heard[0].0, &heard[0].1);
        b.tell("a", "and on");
        assert_eq!(a.hears_text().await, "and on", "the first that it hears since");
        // A node that starts knows by the record how far the other one is.
        let record = nats.hand(0).look("uprtc-uprtc", "b");
        let renewed = async {
            while nats.hand(0).look("uprtc-uprtc", "b") == record {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(DEADLINE, renewed).await.unwrap();
        let mut a = Speaker::with(&nats, "a", a.kill().await).await;
        a.comes_to_be(true).await;
        heard.iter().take(50).for_each(|(headers, payload)| hand.say_again(OF_A, headers, payload));
        a.comes_to_count("replayed", 50).await;
        // What a run said that has ended.
        let mut b = Speaker::with(&nats, "b", b.kill().await).await;
        b.comes_to_be(true).await;
        b.tell("a", "a new run");
        assert_eq!(a.hears_text().await, "a new run");
        heard.iter().for_each(|(headers, payload)| hand.say_again(OF_A, headers, payload));
        a.comes_to_count("replayed", 250).await;
        // And an older record of it, by which its certificate would be another.
        let mut other = nats.hand(0);
        other.put("b", &first);
        let refused = async {
            let stale = || a.nodes.figures().refusals.into_iter().find(|(reason, _)| *reason == "stale").unwrap().1;
            while stale() == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, refused).await.unwrap();
        b.tell("a", "it stands");
        assert_eq!(a.hears_text().await, "it stands");
    });
}

#[test]
fn of_nodes_that_claim_a_room_one_has_it_until_it_gives_it_up() {
    test("claims of rooms", async || {
        let nats = Nats::start("");
        let mut nodes = Vec::new();
        for node in ["a", "b", "c"] {
            nodes.push(Speaker::connected(&nats, node).await);
        }
        // All at once, twenty rooms: the answers of all agree.
        let rooms: Vec<String> = (0..20).map(|number| format!("room{number}")).collect();
        for node in &nodes {
            rooms.iter().for_each(|room| node.orders.push(Order::Claim { room: room.clone(), replaced: 0 }));
        }
        let mut owners = std::collections::BTreeMap::new();
        for node in &mut nodes {
            for _ in &rooms {
                let (room, claim) = loop {
                    if let News::Claimed { room, claim } = node.next().await {
                        break (room, claim);
                    }
                };
                let (owner, revision) = match claim {
                    Claim::Ours { revision } => (node.node.to_owned(), revision),
                    Claim::Theirs { owner, revision } => (owner.node, revision),
                    Claim::Unknown => panic!("{room}"),
                };
                let of: &mut Vec<(String, u64, bool)> = owners.entry(room).or_default();
                of.push((owner.clone(), revision, owner == node.node));
            }
        }
        for (room, said) in &owners {
            assert!(said.iter().all(|of| (&of.0, of.1) == (&said[0].0, said[0].1)), "{room}: {said:?}");
            assert_eq!(said.iter().filter(|of| of.2).count(), 1, "{room}: {said:?}");
        }
        let [a, b, _] = &mut nodes[..] else { unreachable!() };
        // Taken over with the revision, and with no other; each has a higher one.
        let Claim::Ours { revision: first } = a.claims("takeover", 0).await else { panic!() };
        assert_eq!(a.claims("takeover", 0).await, Claim::Ours { revision: first }, "it is ours, whoever says so again");
        let Claim::Theirs { owner, revision } = b.claims("takeover", 0).await else { panic!() };
        assert_eq!((owner.node.as_str(), revision), ("a", first));
        let Claim::Theirs { revision, .. } = b.claims("takeover", first + 1000).await else { panic!() };
        assert_eq!(revision, first);
        let Claim::Ours { revision: second } = b.claims("takeover", first).await else { panic!() };
        assert!(second > first);
        // Who was replaced cannot give up what is not its own any more; given up, it is free, and leaves nothing in the bucket.
        a.orders.push(Order::Release { room: "takeover".into(), revision: first });
        let Claim::Theirs { revision, .. } = a.claims("takeover", 0).await else { panic!() };
        assert_eq!(revision, second);
        b.orders.push(Order::Release { room: "takeover".into(), revision: second });
        let Claim::Ours { revision: third } = b.claims("takeover", 0).await else { panic!() };
        assert!(third > second);
        b.orders.push(Order::Release { room: "takeover".into(), revision: third });
        let Claim::Ours { revision: fourth } = b.claims("takeover", third).await else { panic!() };
        assert!(fourth > third, "of who thinks that it still stands, too");
        b.orders.push(Order::Release { room: "takeover".into(), revision: fourth });
        b.claims("other", 0).await;
        let mut hand = nats.hand(0);
        let info = hand.ask("$JS.API.STREAM.INFO.KV_uprtc-uprtc-rooms", b"").unwrap();
        assert_eq!((&info["state"]["messages"], &info["config"]["max_age"]), (&21.into(), &0.into()), "{info}");
        // What cannot be read is nobody's to overwrite, if a node has sealed it; and anybody's, if none has.
        let key = "7692c3ad3540bb803c020b3aee66cd88";
        let subject = format!("$KV.uprtc-uprtc-rooms.{key}");
        hand.ask(&subject, &seals(7).wrap(Kind::Claim, &[key], b"nonsense")).unwrap();
        assert_eq!(b.claims("one", 0).await, Claim::Unknown);
        let claim = br#"{"room":"one","node":"a","run":"0123456789abcdef"}"#;
        for forged in [claim.to_vec(), seals(8).wrap(Kind::Claim, &[key], claim)] {
            hand.ask(&subject, &forged).unwrap();
            assert!(matches!(b.claims("one", 0).await, Claim::Ours { .. }));
        }
        assert_eq!(b.nodes.figures().claims_refused, [("unsealed", 1), ("unknown_key", 1), ("forged", 0)]);
        // The bucket is lost: it is made anew with the next claim.
        hand.ask("$JS.API.STREAM.DELETE.KV_uprtc-uprtc-rooms", b"").unwrap();
        assert_eq!(b.claims("one", 0).await, Claim::Ours { revision: 1 });
    });
}

#[test]
fn a_node_that_starts_again_gives_up_what_its_run_before_has_left() {
    test("claims of a node that died", async || {
        let nats = Nats::start("");
        let mut a = Speaker::connected(&nats, "a").await;
        let mut b = Speaker::connected(&nats, "b").await;
        let Claim::Ours { revision } = a.claims("kept", 0).await else { panic!() };
        a.claims("left", 0).await;
        b.claims("other", 0).await;
        let mut a = Speaker::with(&nats, "a", a.kill().await).await;
        a.comes_to_be(true).await;
        // What it goes on with it claims anew, of its run before.
        let Claim::Theirs { owner, .. } = a.claims("kept", 0).await else { panic!() };
        assert_eq!(owner.node, "a");
        let Claim::Ours { revision: anew } = a.claims("kept", revision).await else { panic!() };
        let count = || {
            let info = nats.hand(0).ask("$JS.API.STREAM.INFO.KV_uprtc-uprtc-rooms", b"").unwrap();
            info["state"]["messages"].as_u64().unwrap()
        };
        assert_eq!(count(), 3);
        let swept = async {
            while count() != 2 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        assert!(timeout(DEADLINE, swept).await.is_ok(), "{}", count());
        assert_eq!(a.claims("kept", 0).await, Claim::Ours { revision: anew }, "what it has claimed since stays");
        assert!(matches!(b.claims("other", 0).await, Claim::Ours { .. }), "and what another node has");
    });
}

#[test]
fn nodes_speak_again_when_nats_is_back() {
    test("nodes that speak again", async || {
        let mut nats = Nats::start("");
        let mut a = Speaker::connected(&nats, "a").await;
        let mut b = Speaker::connected(&nats, "b").await;
        a.comes_to_know(&["b"]).await;
        b.listen("one");
        b.tell("a", "ready");
        assert_eq!(a.hears_text().await, "ready");
        nats.kill(0);
        a.comes_to_be(false).await;
        b.comes_to_be(false).await;
        // Nothing waits for it: what is said is dropped, and what is asked is unknown.
        a.say("one", "lost");
        a.comes_to_count("away", 1).await;
        assert_eq!(a.claims("one", 0).await, Claim::Unknown);
        a.listen("two");
        nats.start_again(0);
        a.comes_to_be(true).await;
        b.comes_to_be(true).await;
        a.say("one", "heard");
        assert_eq!(b.hears_text().await, "heard", "and it is the first that it hears");
        b.say("two", "listened to while it was away");
        assert_eq!(a.hears().await.0.as_deref(), Some("two"));
        assert!(matches!(a.claims("one", 0).await, Claim::Ours { .. }));
    });
}

#[test]
fn what_finds_a_queue_full_is_said_anew() {
    test("nodes that are overrun", async || {
        let nats = Nats::start("");
        let mut a = Speaker::connected(&nats, "a").await;
        let mut b = Speaker::connected(&nats, "b").await;
        // The engine says more at once than waits for the task.
        (0..driver::ORDERS_MAX + 10).for_each(|_| a.tell("b", "much"));
        a.comes_to_be(false).await;
        a.comes_to_be(true).await;
        assert_eq!((a.count("full"), a.nodes.figures().overruns), (10, 1));
        for _ in 0..100 {
            assert_eq!(b.hears_text().await, "much");
        }
        // A node says more than waits for this process, which is this test and does nothing else meanwhile.
        let mut hand = nats.hand(0);
        let subject = "uprtc.uprtc.node.b";
        for count in 1..=60_000 {
            say(&mut hand, subject, &headers(subject, "c", &count.to_string(), "", "more"), "more");
        }
        b.comes_to_be(false).await;
        // Until the flood is over it may happen again; each time everything is said anew.
        loop {
            match b.next().await {
                News::Connected(true) => a.tell("b", "anew"),
                News::Told { payload, .. } if payload == b"anew" => break,
                _ => {}
            }
        }
        assert!(b.nodes.figures().overruns >= 1);
    });
}
