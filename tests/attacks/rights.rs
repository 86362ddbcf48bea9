//! Attacks with rights: an admin of one room, and a thief of an admin token for everything.

use crate::scene::{ATTACKER, Attacker, Limits, Scene, is_full};

/// The status of a request from the attacker's address, with a token unless it is empty.
fn ask(scene: &Scene, token: &str, method: &str, path: &str, body: &str) -> u16 {
    answer(scene, token, method, path, body).0
}

/// The status and the body of the answer.
fn answer(scene: &Scene, token: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    scene.request(ATTACKER, token, (method, path), ("application/json", body))
}

/// The admin of one room revokes as much as it can, with the longest identities, and makes its room as large as it can. Another room's
/// admin can still revoke.
#[test]
fn the_admin_of_one_room_uses_up_its_own_quota_only() {
    let scene = Scene::start(&["--set", "requests-per-second=1000"]);
    let admin = |room: &str| scene.token(&["--room", room, "--name", "admin", "--admin"]);
    let (red, blue) = (admin("red"), admin("blue"));
    let (mut taken, mut refused) = (0, 0);
    let attack = |attacker: &Attacker<'_>| {
        let most = if is_full() { 10_000 } else { 300 };
        for n in 0..most {
            let jti = format!("{n:05}{}", "\u{1f600}".repeat(251));
            match ask(&scene, &red, "POST", "/v1/rooms/red/revocations", &format!(r#"{{"jti":"{jti}"}}"#)) {
                201 => taken += 1,
                507 => refused += 1,
                status => panic!("{status}"),
            }
            if !attacker.goes_on() && refused > 0 {
                break;
            }
        }
        assert_eq!(ask(&scene, &red, "PUT", "/v1/rooms/red", r#"{"peers_max":1000}"#), 403);
        assert_eq!(ask(&scene, &red, "PUT", "/v1/rooms/red", r#"{"client_bps_max":100000000}"#), 403);
    };
    scene.under(attack).assert_within(&Limits::default());
    assert!(taken == 256 && refused > 0, "{taken} {refused}");
    assert_eq!(ask(&scene, &blue, "POST", "/v1/rooms/blue/revocations", r#"{"name":"Eve"}"#), 201);
    assert_eq!(scene.counter("uprtc_revocations"), 257.0);
    // Everybody's can still be revoked where the quota is used up, and who revoked them is refused then as all others.
    assert_eq!(ask(&scene, &red, "POST", "/v1/rooms/red/revocations", "{}"), 201);
    assert_eq!(ask(&scene, &red, "GET", "/v1/rooms/red/revocations", ""), 401);
}

/// A stolen admin token makes others that are to last; one revocation ends them all.
#[test]
fn a_stolen_admin_token_leaves_nothing_behind() {
    let scene = Scene::start(&[]);
    let token = |name: &str| scene.token(&["--room", "*", "--name", name, "--admin", "--publish", "--subscribe"]);
    let (ops, stolen) = (token("ops"), token("stolen"));
    let wanted = r#"{"room":"*","name":"later","admin":true,"publish":true,"ttl_s":2592000}"#;
    let mut made = Vec::new();
    let mut last = stolen.clone();
    let refused = loop {
        let (status, body) = answer(&scene, &last, "POST", "/v1/tokens", wanted);
        if status != 201 || made.len() > 9 {
            break status;
        }
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        last = body["token"].as_str().unwrap().to_owned();
        made.push(last.clone());
    };
    assert_eq!((made.len(), refused), (4, 403), "not for ever");
    assert_eq!(ask(&scene, &ops, "POST", "/v1/revocations", r#"{"name":"stolen"}"#), 201);
    for dead in [stolen].iter().chain(&made) {
        assert_eq!(ask(&scene, dead, "GET", "/v1/server", ""), 401);
    }
    assert_eq!(ask(&scene, &ops, "GET", "/v1/server", ""), 200);
}

/// A disk that is full keeps nobody in, and the server goes on.
#[test]
fn a_full_disk_takes_no_right_from_who_revokes() {
    let scene = Scene::start(&[]);
    let admin = scene.token(&["--room", "red", "--name", "admin", "--admin"]);
    let eve = scene.token(&["--room", "red", "--name", "Eve", "--publish"]);
    let door = format!("/v1/rooms/red/signal?token={eve}");
    assert_eq!(ask(&scene, "", "GET", &door, ""), 426);
    // Each write to this device fails with ENOSPC (full(4)).
    std::os::unix::fs::symlink("/dev/full", scene.state().join("registry.draft")).unwrap();
    let (status, body) = answer(&scene, &admin, "POST", "/v1/rooms/red/revocations", r#"{"name":"Eve"}"#);
    assert!(status == 500 && body.contains(r#""acted":true"#) && body.contains(r#""kept":false"#), "{status} {body}");
    assert_eq!(scene.counter("uprtc_registry_unsaved"), 1.0);
    assert_eq!(ask(&scene, "", "GET", &door, ""), 401);
    assert_eq!(ask(&scene, &admin, "POST", "/v1/rooms/red/revocations", r#"{"name":"Mallory"}"#), 201, "space again");
    assert_eq!(scene.counter("uprtc_registry_unsaved"), 0.0);
    assert!(std::fs::read_to_string(scene.state().join("registry.json")).unwrap().contains("Eve"));
}
