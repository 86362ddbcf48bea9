//! Work that is ordered by REST: `uprtc record --orders`, while the controlplane is killed, `uprtc live --orders` and `uprtc feed --orders`.

use std::process::{Child, Stdio};
use std::time::Duration;

use client::http::{Request, Server as Http};
use client::room::{Event, Room};
use proto::work::Role;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Talker;
use crate::harness::{DEADLINE, until, uprtc};
use crate::server::{Server, wait};

const LIMIT: Duration = Duration::from_secs(10);

/// Ended with the value.
struct Service(Child);

impl Service {
    fn start(server: &Server, command: &str, more: &[&str]) -> Service {
        let arguments = [&[command, "--state", server.folder.path(), "--orders"], more].concat();
        Service(uprtc(&arguments).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One request about the recordings of room `r`: the status and what came.
async fn ask(server: &Server, token: &str, method: &str, path: &str) -> (u16, Value) {
    let body = (method == "POST").then_some("{}");
    request(server, token, (method, body), &format!("recordings{path}")).await
}

async fn request(server: &Server, token: &str, (method, body): (&str, Option<&str>), path: &str) -> (u16, Value) {
    let path = format!("/v1/rooms/r/{path}");
    let content = body.map(|body| ("application/json", body));
    let request = Request { method, path: &path, token: Some(token), content };
    match Http::plain(&server.http).request(request, LIMIT).await {
        Ok(response) => (response.status, serde_json::from_str(&response.body).unwrap()),
        Err(_) => (0, Value::Null), // Between two controlplanes.
    }
}

/// A report of a service that this test is.
async fn report(server: &Server, token: &str, body: Value) -> (u16, Value) {
    let body = body.to_string();
    let content = Some(("application/json", &body[..]));
    let request = Request { method: "POST", path: "/v1/services", token: Some(token), content };
    let response = Http::plain(&server.http).request(request, LIMIT).await.unwrap();
    (response.status, serde_json::from_str(&response.body).unwrap())
}

/// Asks again until it is so.
async fn wait_for(server: &Server, token: &str, path: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    wait_for_any(server, token, &format!("recordings{path}"), what, is_it).await
}

async fn wait_for_any(server: &Server, token: &str, path: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let asked = tokio::time::timeout(DEADLINE, async {
        loop {
            let (status, answer) = request(server, token, ("GET", None), path).await;
            if status == 200 && is_it(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    asked.await.unwrap_or_else(|_| panic!("{what} did not come"))
}

// Some of what is waited for here blocks its thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_is_ordered_by_rest_and_outlives_the_controlplane() {
    let server = Server::start();
    let (host, guest) = (server.token_with("r", "Host", &["--record"]), server.token("r", "Guest"));
    assert_eq!(ask(&server, &host, "POST", "").await.1["code"], "no_service");
    assert_eq!(ask(&server, &guest, "POST", "").await.1["code"], "not_admin");
    let to = server.folder.0.join("recordings");
    let mut service = Service::start(&server, "record", &["--to", to.to_str().unwrap()]);
    wait_for(&server, &host, "", "a recorder", |answer| answer["available"] == true).await;
    let mut listener = Room::join(server.settings("r", "Listener")).await.unwrap();
    let talker = Talker::join(&server, "r", "Talker").await;

    let (status, ordered) = ask(&server, &host, "POST", "").await;
    assert_eq!((status, &ordered["state"], &ordered["ordered_by"]), (201, &"starting".into(), &"Host".into()));
    assert_eq!(ask(&server, &host, "POST", "").await.1["code"], "recorded_already");
    // Everybody sees what it is.
    let name = wait(&mut listener, "the recorder", |event| match event {
        Event::PeerJoined(info) => (info.role == Some(Role::Recorder)).then_some(info.name),
        _ => None,
    });
    assert_eq!(name.await, "Recorder");
    let task = format!("/{}", ordered["task"].as_str().unwrap());
    let running = wait_for(&server, &host, &task, "the recording", |task| task["state"] == "running").await;
    let list = std::path::Path::new(running["detail"]["place"].as_str().unwrap()).join("recording.json");

    // The successor knows nothing of it until the recorder reports.
    server.kill(&["controlplane"]);
    let adopted = wait_for(&server, &host, &task, "the recording again", |task| task["state"] == "running").await;
    assert_eq!((&adopted["ordered_by"], &adopted["detail"]), (&"Host".into(), &running["detail"]));
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&list).unwrap()).unwrap();
    let has_sound = || read()["files"].as_array()?.iter().any(|file| file["source"] == "microphone").then_some(());
    until("sound in the recording", has_sound);

    let (status, stopping) = ask(&server, &host, "DELETE", &task).await;
    assert_eq!((status, &stopping["state"]), (202, &"stopping".into()));
    let ended = wait_for(&server, &host, &task, "the end", |task| task["state"] == "ended").await;
    assert_eq!(ended["reason"], "stopped");
    assert_eq!(read()["end_reason"], "stopped");
    wait(&mut listener, "the recorder's leave", |event| matches!(event, Event::PeerLeft { .. }).then_some(())).await;

    // A recorder that is told to end ends what it records, and is waited for no longer.
    let (status, ordered) = ask(&server, &host, "POST", "").await;
    assert_eq!(status, 201, "{ordered}");
    let task = format!("/{}", ordered["task"].as_str().unwrap());
    wait_for(&server, &host, &task, "another recording", |task| task["state"] == "running").await;
    kill_process(Pid::from_child(&service.0), Signal::TERM).unwrap();
    assert!(until("the recorder's end", || service.0.try_wait().unwrap()).success());
    let ended = wait_for(&server, &host, &task, "its end", |task| task["state"] == "ended").await;
    assert_eq!(ended["reason"], "stopped");
    assert_eq!(ask(&server, &host, "POST", "").await.1["code"], "no_service");
    talker.leave().await;
}

#[tokio::test]
async fn a_service_is_told_of_what_its_token_is_for_and_its_tasks_have_tokens_for_their_room() {
    let server = Server::start();
    let admin = server.token_with("r", "Admin", &["--admin"]);
    let recorder = server.token_with("r", "Mine", &["--role", "recorder"]);
    let said =
        |seq: u32, tasks: Value| serde_json::json!({"service": "s1", "seq": seq, "tasks_max": 1, "tasks": tasks});
    assert_eq!(
        report(&server, &admin, said(1, Value::Array(Vec::new()))).await.1["code"],
        "no_service",
        "it has no role"
    );
    let told = |room: &str, state: &str| {
        let order = serde_json::json!({"task": "t1", "room": room, "name": "R", "ordered_by": "A", "ordered_at": 1});
        serde_json::json!([{"order": order, "state": state}])
    };
    assert_eq!(report(&server, &recorder, said(1, told("other", "running"))).await.0, 422, "the token is for r");
    assert_eq!(report(&server, &recorder, said(1, "x".repeat(4_000_000).into())).await.0, 413);
    // What is not known here is adopted, shown, and told to end.
    let stopping = async {
        wait_for(&server, &admin, "/t1", "the task", |task| task["state"] == "running").await;
        assert_eq!(ask(&server, &admin, "DELETE", "/t1").await.0, 202);
    };
    let ((_, orders), ()) = tokio::join!(report(&server, &recorder, said(1, told("r", "running"))), stopping);
    assert_eq!(orders, serde_json::json!({"start": [], "stop": ["t1"]}));
    // A token of a task is for its room, to receive, and goes with that of its service.
    let ordering = async {
        wait_for(&server, &admin, "", "a place", |answer| answer["available"] == true).await;
        assert_eq!(ask(&server, &admin, "POST", "").await.0, 201);
    };
    let ((_, orders), ()) = tokio::join!(report(&server, &recorder, said(2, told("r", "ended"))), ordering);
    let token = orders["start"][0]["token"].as_str().unwrap();
    let of = |room: &str| client::room::Settings { token: token.to_owned(), ..server.settings(room, "R") };
    assert!(Room::join(of("elsewhere")).await.is_err(), "it is for r");
    let sends = client::room::Settings { sends_audio: true, ..of("r") };
    assert!(Room::join(sends).await.is_err(), "it allows to receive");
    let peer = Room::join(of("r")).await.unwrap();
    let name = Some("{\"name\":\"Mine\"}");
    assert_eq!(request(&server, &admin, ("POST", name), "revocations").await.0, 201);
    assert_eq!(report(&server, &recorder, said(3, Value::Array(Vec::new()))).await.1["code"], "token_revoked");
    let mut peer = peer;
    let ended = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Event::Ended(reason) = peer.next().await {
                return reason;
            }
        }
    });
    ended.await.expect("it is removed with the service's token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_feeds_are_ordered_by_rest() {
    if !crate::media::is_there() {
        return crate::require::left_out("ffmpeg", "feeds that are ordered", "there is no ffmpeg");
    }
    let server = Server::start();
    let (admin, guest) = (server.token_with("r", "Admin", &["--admin"]), server.token_with("r", "Host", &["--record"]));
    let _live = Service::start(&server, "live", &["--listen", "127.0.0.1:0", "--sound", "opus"]);
    let _feed = Service::start(&server, "feed", &["--rtmp", "127.0.0.1:0", "--tasks-max", "1"]);
    let mut listener = Room::join(server.settings("r", "Listener")).await.unwrap();
    for (kind, keys) in [("streams", &["hls"][..]), ("feeds", &["key", "rtmp"])] {
        wait_for_any(&server, &admin, kind, "a service", |answer| answer["available"] == true).await;
        assert_eq!(request(&server, &guest, ("POST", Some("{}")), kind).await.1["code"], "not_admin");
        let (_, wrong) = request(&server, &admin, ("POST", Some("{\"colour\":1}")), kind).await;
        let path = format!("{kind}/{}", wrong["task"].as_str().unwrap());
        let wrong = wait_for_any(&server, &admin, &path, "its end", |task| task["state"] == "ended").await;
        assert!(wrong["reason"].as_str().unwrap().starts_with("bad_parameters: "), "{wrong}");

        let (status, ordered) = request(&server, &admin, ("POST", Some("{}")), kind).await;
        assert_eq!(status, 201, "{ordered}");
        let path = format!("{kind}/{}", ordered["task"].as_str().unwrap());
        let running = wait_for_any(&server, &admin, &path, "the work", |task| task["state"] == "running").await;
        let detail: Vec<&String> = running["detail"].as_object().unwrap().keys().collect();
        assert_eq!(detail, keys, "{running}");
        if kind == "streams" {
            let seen = wait(&mut listener, "the stream", |event| match event {
                Event::PeerJoined(info) => Some(info.role),
                _ => None,
            });
            assert_eq!(seen.await, Some(Role::Streamer));
        } else {
            // It has ports for one.
            assert_eq!(request(&server, &admin, ("POST", Some("{}")), kind).await.1["code"], "services_busy");
        }
        assert_eq!(request(&server, &admin, ("DELETE", None), &path).await.0, 202);
        let ended = wait_for_any(&server, &admin, &path, "the end", |task| task["state"] == "ended").await;
        assert_eq!(ended["reason"], "stopped");
    }
}
