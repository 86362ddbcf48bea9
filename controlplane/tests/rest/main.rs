//! REST from outside: a real server on a port of the kernel's choice and a plain TCP client. Behind it stands the real
//! engine in the small world of `world`, with clients in it, where the engine's task stands otherwise.

mod rights;
#[path = "../world/mod.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use controlplane::auth::{Claims, KEY_LEN, TokenKey, TokenKeys};
use controlplane::driver::{self, Inbox, Request};
use controlplane::engine::{Input, PeerIds, PeerMeasured, Reply};
use controlplane::http::{Limits, Site, SiteSettings, serve};
use controlplane::metrics::Sample;
use controlplane::registry::Registry;
use controlplane::snapshot::together;
use proto::plane::{PeerTally, StreamTally};
use proto::signal::{LeaveReason, ServerSignal};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use world::{World, carried, is_bye};

/// Nothing here takes longer, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(10);

fn key() -> TokenKey {
    TokenKey::new(&[7; KEY_LEN])
}

fn token(room: &str, is_admin: bool) -> String {
    key().sign(&Claims { admin: is_admin, publish: true, ..Claims::new(room, "ops", 60) }).unwrap()
}

struct Server {
    address: String,
    world: World,
    inbox: Inbox,
    site: Arc<Site>,
    /// Whose token the requests bring.
    token: String,
    _stopping: watch::Sender<bool>,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Status and code of a refusal.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{} {}", self.head, self.body);
        (self.status, self.json()["code"].as_str().unwrap().to_owned())
    }
}

/// What a worker would say: the same of each stream, nothing yet of slots.
fn measured(PeerIds { id, peer, streams, slots, .. }: PeerIds) -> PeerMeasured {
    let tally = |stream| StreamTally {
        stream,
        packets: 1000,
        bytes: 100_000,
        expected: 1010,
        repaired: 1,
        nacks: 2,
        keyframe_requests: 3,
        policed: 4,
        window_us: 2_000_000,
        window_packets: 90,
        window_bytes: 25_000,
        window_expected: 100,
    };
    let path = PeerTally {
        peer: id,
        estimate_bps: Some(800_000),
        acknowledged_bps: Some(500_000),
        wanted_bps: 700_000,
        loss_65536: 655,
        paused: 0,
        probes: 2,
    };
    PeerMeasured {
        peer,
        path: Some(path),
        streams: streams.into_iter().map(|of_track| together(of_track.into_iter().map(&tally))).collect(),
        slots: slots.into_iter().map(|(_, info)| (info, None)).collect(),
    }
}

impl Server {
    async fn start() -> Server {
        Self::with(Limits::default(), Registry::default(), &[]).await
    }

    async fn with(limits: Limits, registry: Registry, origins: &[&str]) -> Server {
        let (handle, inbox) = driver::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut world = World::new();
        world.engine.restore(registry.rooms());
        let cors_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        let terms = SiteSettings { registry: registry.into(), cors_origins, ..SiteSettings::default() };
        let site = Site::with(handle, TokenKeys::from(key()), Default::default(), limits, terms);
        let (stopping, is_stopping) = watch::channel(false);
        tokio::spawn(serve(listener, site.clone(), is_stopping));
        Server { address, world, inbox, site, token: token("*", true), _stopping: stopping }
    }

    /// One request with the admin token, and the engine's part in it.
    async fn ask(&mut self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string());
        let kind = body.as_ref().map_or("", |_| "Content-Type: application/json\r\n");
        let head = format!("Authorization: Bearer {}\r\n{kind}", self.token);
        self.send(method, path, &head, &body.unwrap_or_default()).await
    }

    async fn send(&mut self, method: &str, path: &str, head: &str, body: &str) -> Answer {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n{head}\r\n{body}"
        );
        let address = self.address.clone();
        let exchange = async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let mut exchange = std::pin::pin!(timeout(DEADLINE, exchange));
        let text = loop {
            tokio::select! {
                text = &mut exchange => break text.expect("an answer in time"),
                request = self.inbox.requests.recv() => match request.unwrap() {
                    Request::Sample { reply } => {
                        let snapshot = self.world.engine.snapshot();
                        reply.send(Sample { snapshot, is_linked: true, ..Sample::default() }).unwrap();
                    }
                    Request::Measure { room, reply } => {
                        let ids = self.world.engine.ids_in(&room).unwrap_or_default();
                        reply.send(ids.into_iter().map(measured).collect()).unwrap();
                    }
                    Request::MayJoin { room, grant, reply } => {
                        reply.send(self.world.engine.may_join(&room, &grant)).unwrap();
                    }
                    Request::Ask { input: Input::Operator { request, .. }, reply, .. } => {
                        let done = self.world.operate(request);
                        reply.send(Reply::Operator(done)).unwrap();
                    }
                    other => panic!("{other:?}"),
                },
            }
        };
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }
}

#[tokio::test]
async fn a_room_is_made_looked_at_changed_and_deleted() {
    let mut server = Server::start().await;
    let limits = json!({"peers_max": 2, "client_bps_max": 500_000});
    let made = server.ask("PUT", "/v1/rooms/blue", Some(limits)).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let expected = json!({"room": "blue", "peers": 0, "peers_max": 2, "client_bps_max": 500_000, "codecs": ["h264", "vp8"], "locked": false, "made": true, "voices_max": 3, "videos_max": 0, "workers": []});
    assert_eq!(made.json(), expected);
    assert_eq!(server.ask("GET", "/v1/rooms/blue", None).await.json(), expected);

    let mut ada = server.world.guest("blue", world::grant("Ada"));
    server.world.offer(&mut ada, world::PAGE, world::page_tracks()).unwrap();
    let limits = server.world.drain(ada.socket).into_iter().find_map(|signal| match signal {
        ServerSignal::Limits { send_bps_max, .. } => Some(send_bps_max),
        _ => None,
    });
    assert_eq!(limits, Some(500_000), "the room's own bandwidth");
    let _bob = server.world.join("blue", "Bob");
    let mut cyd = server.world.guest("blue", world::grant("Cyd"));
    let refused = server.world.offer(&mut cyd, world::PAGE, world::page_tracks());
    assert_eq!(refused, Err(proto::signal::ErrorCode::RoomFull));

    let locked = server.ask("PUT", "/v1/rooms/blue", Some(json!({"locked": true}))).await;
    assert_eq!((locked.status, &locked.json()["peers_max"], &locked.json()["peers"]), (200, &json!(8), &json!(2)));
    let mut dan = server.world.guest("blue", world::grant("Dan"));
    let refused = server.world.offer(&mut dan, world::PAGE, world::page_tracks());
    assert_eq!(refused, Err(proto::signal::ErrorCode::RoomLocked));

    assert_eq!(server.ask("DELETE", "/v1/rooms/blue", None).await.status, 204);
    assert!(server.world.drain(ada.socket).iter().any(|signal| is_bye(signal, LeaveReason::Removed, false)));
    assert_eq!(server.world.worker().peers.len(), 0, "their places on the worker are free");
    assert_eq!(server.ask("GET", "/v1/rooms/blue", None).await.problem(), (404, "no_room".into()));
    assert_eq!(server.ask("DELETE", "/v1/rooms/blue", None).await.problem(), (404, "no_room".into()));
}

#[tokio::test]
async fn a_newcomer_asks_by_plain_http_whether_there_is_a_place() {
    let mut server = Server::start().await;
    server.ask("PUT", "/v1/rooms/blue", Some(json!({"peers_max": 2}))).await;
    let address = format!("/v1/rooms/blue/signal?token={}", token("blue", false));
    assert_eq!(server.send("GET", &address, "", "").await.problem(), (426, "upgrade_required".into()));
    server.world.join("blue", "Ada");
    let asking = format!("{address}&ask=1");
    let welcome = server.send("GET", &asking, "", "").await;
    assert_eq!((welcome.status, welcome.body.as_str()), (204, ""), "no browser notes an error for it");
    let bob = server.world.join("blue", "Bob");
    let full = server.send("GET", &address, "", "").await;
    assert_eq!(full.problem(), (503, "room_full".into()));
    assert_eq!(server.send("GET", &asking, "", "").await.problem(), (503, "room_full".into()));
    assert!(full.head.contains("\r\nretry-after: 1"), "{}", full.head);
    server.world.say(bob.socket, proto::signal::ClientSignal::Leave {});
    assert_eq!(server.send("GET", &address, "", "").await.problem(), (426, "upgrade_required".into()));
    server.ask("PATCH", "/v1/rooms/blue", Some(json!({"locked": true}))).await;
    assert_eq!(server.send("GET", &address, "", "").await.problem(), (403, "room_locked".into()));
    server.world.engine.handle(server.world.now, Input::Unlinked { worker: 0 });
    server.ask("PATCH", "/v1/rooms/blue", Some(json!({"locked": false}))).await;
    assert_eq!(server.send("GET", &address, "", "").await.problem(), (503, "no_dataplane".into()));
}

#[tokio::test]
async fn limits_change_one_by_one_while_a_room_is_in_use() {
    let mut server = Server::start().await;
    assert_eq!(server.ask("PATCH", "/v1/rooms/blue", Some(json!({}))).await.problem(), (404, "no_room".into()));
    let (ada, bob) = (server.world.join("blue", "Ada"), server.world.join("blue", "Bob"));
    server.world.drain(ada.socket);
    let fewer = server.ask("PATCH", "/v1/rooms/blue", Some(json!({"peers_max": 1, "client_bps_max": 600_000}))).await;
    let shown =
        |answer: &Answer| ["peers", "peers_max", "client_bps_max", "locked"].map(|field| answer.json()[field].clone());
    assert_eq!(shown(&fewer), [json!(2), json!(1), json!(600_000), json!(false)], "who is in stays in");
    let told = server.world.drain(ada.socket);
    assert!(matches!(told[..], [ServerSignal::Limits { send_bps_max: 300_000, .. }]), "{told:?}");
    let mut cyd = server.world.guest("blue", world::grant("Cyd"));
    let refused = server.world.offer(&mut cyd, world::PAGE, world::page_tracks());
    assert_eq!(refused, Err(proto::signal::ErrorCode::RoomFull), "nobody else comes in");
    let socket = server.world.open("blue", world::grant("Bob"));
    server.world.next(socket);
    server.world.say(socket, proto::signal::ClientSignal::Resume { session: bob.session.clone() });
    assert!(matches!(server.world.next(socket), ServerSignal::Welcome { resumed: true, .. }));

    let locked = server.ask("PATCH", "/v1/rooms/blue", Some(json!({"locked": true, "peers_max": null}))).await;
    assert_eq!(shown(&locked), [json!(2), json!(8), json!(600_000), json!(true)]);
    let open = server.ask("PATCH", "/v1/rooms/blue", Some(json!({"locked": null}))).await;
    assert_eq!(shown(&open), [json!(2), json!(8), json!(600_000), json!(false)]);
    for body in [json!({"peers_max":1001}), json!({"locked": 1}), json!({"room": "red"})] {
        assert_eq!(server.ask("PATCH", "/v1/rooms/blue", Some(body)).await.problem(), (422, "invalid".into()));
    }
}

/// A room's own admin takes nothing from other rooms.
#[tokio::test]
async fn a_room_admin_cannot_raise_its_room_above_the_ceilings() {
    let mut server = Server::start().await;
    let ops = std::mem::replace(&mut server.token, token("blue", true));
    for body in [json!({"peers_max": 65}), json!({"client_bps_max": 10_000_001})] {
        assert_eq!(server.ask("PUT", "/v1/rooms/blue", Some(body)).await.problem(), (403, "ceiling".into()));
    }
    assert_eq!(server.ask("GET", "/v1/rooms/blue", None).await.status, 404, "nothing was made");
    let most = json!({"peers_max": 64, "client_bps_max": 10_000_000});
    assert_eq!(server.ask("PUT", "/v1/rooms/blue", Some(most)).await.status, 201);
    let more = server.ask("PATCH", "/v1/rooms/blue", Some(json!({"peers_max": 65}))).await;
    assert_eq!(more.problem(), (403, "ceiling".into()));

    let room_admin = std::mem::replace(&mut server.token, ops);
    assert_eq!(server.ask("PATCH", "/v1/rooms/blue", Some(json!({"peers_max": 300}))).await.status, 200);
    server.token = room_admin;
    let locked = server.ask("PATCH", "/v1/rooms/blue", Some(json!({"locked": true}))).await;
    assert_eq!((locked.status, &locked.json()["peers_max"]), (200, &json!(300)), "what was given stays");
    let kept = json!({"peers_max": 300, "client_bps_max": 64_000});
    assert_eq!(server.ask("PUT", "/v1/rooms/blue", Some(kept)).await.status, 200);
    assert_eq!(server.ask("PATCH", "/v1/rooms/blue", Some(json!({"peers_max": 301}))).await.status, 403);
    assert_eq!(server.ask("PATCH", "/v1/rooms/blue", Some(json!({"peers_max": 2}))).await.status, 200);
    assert_eq!(server.ask("PATCH", "/v1/rooms/blue", Some(json!({"peers_max": 300}))).await.status, 403, "given up");
}

#[tokio::test]
async fn lists_come_in_pages() {
    let mut server = Server::start().await;
    for room in ["c", "a", "b", "e", "d"] {
        server.ask("PUT", &format!("/v1/rooms/{room}"), Some(json!({}))).await;
    }
    let (mut seen, mut next) = (String::new(), String::new());
    loop {
        let page = server.ask("GET", &format!("/v1/rooms?limit=2{next}"), None).await.json();
        seen.extend(page["rooms"].as_array().unwrap().iter().map(|room| room["room"].as_str().unwrap()));
        match page["next"].as_str() {
            Some(after) => next = format!("&after={after}"),
            None => break,
        }
    }
    assert_eq!(seen, "abcde");
    for query in ["limit=0", "limit=101", "limit=x", "page=2"] {
        assert_eq!(server.ask("GET", &format!("/v1/rooms?{query}"), None).await.problem(), (400, "bad_query".into()));
    }
}

#[tokio::test]
async fn a_peer_is_listed_and_removed_and_the_others_are_told() {
    let mut server = Server::start().await;
    let (ada, bob) = (server.world.join("blue", "Ada"), server.world.join("blue", "Bob"));
    let list = server.ask("GET", "/v1/rooms/blue/peers", None).await.json();
    let mut names: Vec<&str> = list["peers"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Ada", "Bob"]);
    let address = format!("/v1/rooms/blue/peers/{}", ada.id);
    let one = server.ask("GET", &address, None).await.json();
    assert_eq!((&one["state"], &one["has_socket"], &one["slots"]), (&json!("connected"), &json!(true), &json!(15)));
    let media = json!({"bps": 100_000, "packets_per_s": 45.0, "loss": 0.1, "packets": 1000, "bytes": 100_000,
        "repaired": 1, "nacks": 2, "keyframe_requests": 3, "policed": 4});
    let track = json!({"mid": "0", "kind": "audio", "source": "microphone", "active": true, "muted": false, "silent": false,
        "media": media});
    assert_eq!(one["tracks"][0], track);
    assert_eq!(one["up"], json!({"bps": 300_000, "packets_per_s": 135.0, "loss": 0.1}));
    let slot = json!({"mid": "3", "kind": "audio", "from": bob.id, "track": format!("{}/0", bob.id)});
    assert_eq!((&one["receives"][0], one.get("down"), one.get("rtt_ms")), (&slot, None, None), "not known yet");
    let path = json!({"estimate_bps": 800_000, "acknowledged_bps": 500_000, "wanted_bps": 700_000, "loss": 0.01, "paused": 0, "probes": 2});
    assert_eq!(one["path"], path);

    server.world.drain(bob.socket);
    assert_eq!(server.ask("DELETE", &address, None).await.status, 204);
    assert!(server.world.drain(ada.socket).iter().any(|signal| is_bye(signal, LeaveReason::Removed, false)));
    let told = server.world.drain(bob.socket);
    assert!(told.iter().any(|signal| {
        matches!(signal, ServerSignal::PeerLeft { peer, reason: LeaveReason::Removed } if *peer == ada.id)
    }));
    assert_eq!(server.world.journal.len(), 1, "a successor does not adopt it");
    assert_eq!(server.ask("DELETE", &address, None).await.problem(), (404, "no_peer".into()));
    assert_eq!(server.ask("DELETE", "/v1/rooms/red/peers/x", None).await.problem(), (404, "no_room".into()));
}

#[tokio::test]
async fn a_peer_is_moved_by_who_governs_both_rooms() {
    let mut server = Server::start().await;
    let (ada, bob) = (server.world.join("blue", "Ada"), server.world.join("red", "Bob"));
    let address = format!("/v1/rooms/blue/peers/{}/move", ada.id);
    let to = |room: &str| Some(json!({"room": room}));
    let everything = std::mem::replace(&mut server.token, token("blue", true));
    assert_eq!(server.ask("POST", &address, to("red")).await.problem(), (403, "wrong_room".into()));
    server.token = token("red", true);
    assert_eq!(server.ask("POST", &address, to("red")).await.problem(), (403, "wrong_room".into()));
    server.token = everything;
    for body in [json!({"room": "a b"}), json!({}), json!({"room": "red", "as": "Eve"})] {
        assert_eq!(server.ask("POST", &address, Some(body)).await.problem(), (422, "invalid".into()));
    }
    server.ask("PUT", "/v1/rooms/red", Some(json!({"locked": true}))).await;
    assert_eq!(server.ask("POST", &address, to("red")).await.problem(), (409, "room_locked".into()));
    server.ask("PUT", "/v1/rooms/red", Some(json!({"peers_max": 1}))).await;
    assert_eq!(server.ask("POST", &address, to("red")).await.problem(), (409, "room_full".into()));
    server.ask("PUT", "/v1/rooms/red", Some(json!({}))).await;
    server.world.drain(bob.socket);

    let moved = server.ask("POST", &address, to("red")).await;
    assert_eq!((moved.status, &moved.json()["peer"]), (200, &json!(ada.id)), "{}", moved.body);
    assert!(matches!(server.world.drain(bob.socket)[0], ServerSignal::PeerJoined { .. }));
    assert_eq!(server.ask("GET", "/v1/rooms/red", None).await.json()["peers"], 2);
    assert_eq!(server.ask("POST", &address, to("red")).await.problem(), (404, "no_room".into()));
    assert_eq!(server.ask("GET", &format!("/v1/rooms/red/peers/{}", ada.id), None).await.status, 200);
}

#[tokio::test]
async fn a_muted_track_has_no_routes_and_stays_muted_over_a_restart() {
    let mut server = Server::start().await;
    let (ada, bob) = (server.world.join("blue", "Ada"), server.world.join("blue", "Bob"));
    server.world.drain(ada.socket);
    server.world.drain(bob.socket);
    assert_eq!(server.world.worker().routes.len(), 4);
    let address = format!("/v1/rooms/blue/peers/{}/tracks/0", ada.id);
    let muted = server.ask("PATCH", &address, Some(json!({"muted": true}))).await.json();
    assert_eq!((&muted["muted"], &muted["active"]), (&json!(true), &json!(false)));
    assert_eq!(server.world.worker().routes.len(), 3, "its route is closed on the worker");
    let told = server.world.drain(bob.socket);
    let ServerSignal::TrackChanged { peer, track } = &told[0] else { panic!("{told:?}") };
    assert!(*peer == ada.id && track.muted && !track.active);
    let Some(ServerSignal::Slots { slots }) = told.last() else { panic!("{told:?}") };
    assert_eq!(carried(slots).len(), 1, "only the camera is left");
    assert!(matches!(server.world.drain(ada.socket)[0], ServerSignal::TrackChanged { .. }), "its owner knows");

    // The owner cannot undo it.
    let on = proto::signal::ClientSignal::Track { mid: "0".into(), active: false };
    server.world.say(ada.socket, on);
    server.world.say(ada.socket, proto::signal::ClientSignal::Track { mid: "0".into(), active: true });
    assert_eq!(server.world.worker().routes.len(), 3);

    server.world.restart_controlplane();
    let peers = server.ask("GET", &format!("/v1/rooms/blue/peers/{}", ada.id), None).await.json();
    assert_eq!(peers["tracks"][0]["muted"], true);
    assert_eq!(server.world.worker().routes.len(), 3);
    let socket = server.world.open("blue", world::grant("Ada"));
    server.world.next(socket);
    server.world.say(socket, proto::signal::ClientSignal::Resume { session: ada.session.clone() });
    let welcome = server.world.next(socket);
    assert!(matches!(&welcome, ServerSignal::Welcome { muted, .. } if muted[..] == ["0"]), "{welcome:?}");
    let heard = server.ask("PATCH", &address, Some(json!({"muted": false}))).await.json();
    assert_eq!((&heard["muted"], &heard["active"]), (&json!(false), &json!(true)));
    assert_eq!(server.world.worker().routes.len(), 4);
    assert!(server.world.worker().refused.is_empty());
    let nowhere = server.ask("PATCH", &address.replace("/0", "/9"), Some(json!({"muted": true}))).await;
    assert_eq!(nowhere.problem(), (404, "no_track".into()));
}

impl Server {
    /// A token that the server makes.
    async fn mint(&mut self, wanted: Value) -> String {
        let made = self.ask("POST", "/v1/tokens", Some(wanted)).await;
        assert_eq!(made.status, 201, "{}", made.body);
        made.json()["token"].as_str().unwrap().to_owned()
    }

    async fn ask_bare(&mut self, method: &str, path: &str) -> Answer {
        self.send(method, path, "", "").await
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_body_has_a_name() {
    let mut server = Server::start().await;
    for (body, problem) in [
        ("{", (400, "bad_json")),
        ("[]", (422, "invalid")),
        (r#"{"peers_max": 0}"#, (422, "invalid")),
        (r#"{"peers_max": 1001}"#, (422, "invalid")),
        (r#"{"client_bps_max": 1}"#, (422, "invalid")),
        (r#"{"codecs": []}"#, (422, "invalid")),
        (r#"{"codecs": ["vp9", "vp9"]}"#, (422, "invalid")),
        (r#"{"codecs": ["h264", "vp8", "vp9"]}"#, (422, "invalid")),
        (r#"{"codecs": ["h265"]}"#, (422, "invalid")),
        (r#"{"peers": 2}"#, (422, "invalid")),
    ] {
        let head = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", server.token);
        let answer = server.send("PUT", "/v1/rooms/blue", &head, body).await;
        assert_eq!(answer.problem(), (problem.0, problem.1.into()), "{body}");
    }
    let set = server.ask("PUT", "/v1/rooms/nine", Some(json!({"codecs": ["vp9", "vp8"]}))).await;
    assert_eq!((set.status, &set.json()["codecs"]), (201, &json!(["vp9", "vp8"])));
    let whole = server.ask("PUT", "/v1/rooms/whole", Some(json!({"peers_max": 3.0}))).await;
    assert_eq!((whole.status, &whole.json()["peers_max"]), (201, &json!(3)), "an integer to JSON Schema");
    let head = format!("Authorization: Bearer {}\r\n", server.token);
    assert_eq!(server.send("PUT", "/v1/rooms/blue", &head, "{}").await.problem(), (415, "not_json".into()));
    let long = json!({"name": "x".repeat(20_000)});
    let answer = server.ask("POST", "/v1/rooms/blue/revocations", Some(long)).await;
    assert_eq!(answer.problem(), (413, "too_large".into()));
    let answer = server.ask("PUT", "/v1/rooms/a%20b", Some(json!({}))).await;
    assert_eq!(answer.problem(), (400, "room_name".into()));
    let answer = server.ask("POST", "/v1/server", None).await;
    assert_eq!(answer.problem(), (405, "method_not_allowed".into()));
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("get")), "{}", answer.head);
}

#[tokio::test]
async fn each_admin_has_its_rate() {
    let limits = Limits { requests_per_second: 3, ..Limits::default() };
    let mut server = Server::with(limits, Registry::default(), &[]).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(server.ask("GET", "/v1/server", None).await);
    }
    let refused = statuses.iter().find(|answer| answer.status == 429).expect("the fourth or one soon after it");
    assert_eq!(refused.problem(), (429, "too_many_requests".into()));
    assert!(refused.header("retry-after").is_some());
    server.token = token("*", true);
    assert_eq!(server.ask("GET", "/v1/server", None).await.status, 200, "another token has its own");

    // The tokens of one room have one rate together, whoever makes how many; another room's have theirs.
    let mut statuses = Vec::new();
    for _ in 0..6 {
        server.token = token("blue", true);
        statuses.push(server.ask("GET", "/v1/rooms/blue/peers", None).await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    server.token = token("red", true);
    assert_eq!(server.ask("GET", "/v1/rooms/red/peers", None).await.status, 200);
}

#[tokio::test]
async fn only_the_origins_that_were_named_may_ask() {
    let mut server = Server::with(Limits::default(), Registry::default(), &["https://app.example"]).await;
    let preflight = |origin: &str| format!("Origin: {origin}\r\nAccess-Control-Request-Method: PUT\r\n");
    let answer = server.send("OPTIONS", "/v1/rooms/blue", &preflight("https://app.example"), "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("https://app.example")));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
    let answer = server.send("OPTIONS", "/v1/rooms/blue", &preflight("https://evil.example"), "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, None));
    let answer = server.send("GET", "/v1/rooms", "Origin: https://app.example\r\n", "").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, Some("https://app.example")));
    assert!(answer.head.lines().any(|line| line.starts_with("vary: ") && line.contains("origin")));
}

#[tokio::test]
async fn a_server_without_a_cluster_has_no_nodes() {
    let mut server = Server::start().await;
    let page = server.ask("GET", "/v1/nodes", None).await;
    let none = json!({"cluster": null, "node": null, "connected": false, "joined": false, "problem": null, "nodes": [],
        "refused": [], "next": null});
    assert_eq!((page.status, page.json()), (200, none));
    server.token = token("blue", true);
    assert_eq!(server.ask("GET", "/v1/nodes", None).await.problem(), (403, "wrong_room".into()));
}

#[tokio::test]
async fn a_server_without_a_cluster_is_its_only_edge() {
    let mut server = Server::start().await;
    // Where clients reach it is not known: the requests of this test name a host without the port.
    let answer = server.ask_bare("GET", "/v1/edges").await;
    let alone = json!({"name": null, "region": "", "carrier": "", "url": null, "peers": null,
        "busy_permille": null});
    assert_eq!((answer.status, answer.json()), (200, json!({"edges": [alone]})));
    assert_eq!(answer.header("cache-control"), Some("public, max-age=5"));
    let page = server.ask_bare("GET", "/r/blue").await;
    assert!(page.header("content-security-policy").unwrap().contains("connect-src 'self';"));
    assert!(page.body.starts_with("<!doctype html>\n<html lang="), "the page asks for no edges");
    let ping = server.ask_bare("GET", "/v1/edges/ping").await;
    assert_eq!((ping.status, ping.body.as_str(), ping.header("cache-control")), (204, "", Some("no-store")));
}

#[tokio::test]
async fn pages_that_may_open_a_socket_may_look_for_an_edge() {
    let from = |origin: &str| format!("Origin: {origin}\r\n");
    let mut server = Server::start().await;
    for path in ["/v1/edges", "/v1/edges/ping"] {
        let answer = server.send("GET", path, &from("https://any.example"), "").await;
        for name in ["access-control-allow-origin", "timing-allow-origin"] {
            assert_eq!(answer.header(name), Some("*"), "{path} {name}");
        }
    }
    let mut server = Server::with(Limits::default(), Registry::default(), &["https://app.example"]).await;
    for (origin, allowed) in [("https://app.example", Some("https://app.example")), ("https://evil.example", None)] {
        let answer = server.send("GET", "/v1/edges/ping", &from(origin), "").await;
        for name in ["access-control-allow-origin", "timing-allow-origin"] {
            assert_eq!((answer.status, answer.header(name)), (204, allowed), "{origin} {name}");
        }
    }
}

#[tokio::test]
async fn every_address_of_the_document_is_answered_and_the_page_shows_it() {
    let mut server = Server::start().await;
    let document = server.ask_bare("GET", "/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let page = server.ask_bare("GET", "/docs").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.body.contains("<script") && !page.body.contains("style=") && !page.body.contains("http"));
    assert_eq!(server.ask_bare("GET", "/web/docs.css").await.status, 200);
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        assert!(page.body.contains(path.as_str()), "{path} is on the page");
        let concrete =
            path.replace("{room}", "blue").replace("{peer}", "p").replace("{mid}", "0").replace("{id}", "everybody");
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            let answer = server.ask_bare(&method.to_uppercase(), &concrete).await;
            assert!(!operation["summary"].as_str().unwrap().is_empty());
            if operation["security"].is_array() {
                assert!(operation["responses"][answer.status.to_string()].is_object(), "{method} {path}");
                continue;
            }
            assert_eq!(answer.problem(), (401, "token_missing".into()), "{method} {path}");
            assert!(operation["responses"]["401"].is_object());
        }
    }
    assert_eq!(operations, 28, "a handler that is routed is documented: count it here");
}
