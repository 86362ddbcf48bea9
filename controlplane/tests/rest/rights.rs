//! Who may what: admins, revocations, invitations, and tokens that are made here.

use super::*;

#[tokio::test]
async fn a_revocation_removes_and_keeps_out() {
    let folder = std::env::temp_dir().join(format!("uprtc-rest-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut server = Server::with(Limits::default(), Registry::load(&folder, 0).unwrap(), &[]).await;
    let claims = Claims { publish: true, ..Claims::new("blue", "Ada", 60) };
    let before = key().sign(&claims).unwrap();
    let door = |token: &str| format!("/v1/rooms/blue/signal?token={token}");
    let (ada, bob) = (server.world.join("blue", "Ada"), server.world.join("blue", "Bob"));
    assert_eq!(server.ask_bare("GET", &door(&before)).await.status, 426);

    server.ask("PUT", "/v1/rooms/blue", Some(json!({"peers_max": 3}))).await;
    let revoked = server.ask("POST", "/v1/rooms/blue/revocations", Some(json!({"name": "Ada"}))).await;
    assert_eq!(revoked.status, 201, "{}", revoked.body);
    assert!(server.world.drain(ada.socket).iter().any(|signal| is_bye(signal, LeaveReason::Removed, false)));
    assert!(!server.world.drain(bob.socket).iter().any(|signal| matches!(signal, ServerSignal::Bye { .. })));
    assert_eq!(server.ask_bare("GET", &door(&before)).await.problem(), (401, "token_revoked".into()));
    let ahead = key().sign(&Claims { iat: claims.iat + 20, ..claims }).unwrap();
    assert_eq!(server.ask_bare("GET", &door(&ahead)).await.problem(), (401, "token_revoked".into()), "another clock");
    tokio::time::sleep(Duration::from_millis(1_100)).await; // The next second: `iat` counts whole ones.
    let after = server.mint(json!({"room": "blue", "name": "Ada", "publish": true})).await;
    assert_eq!(server.ask_bare("GET", &door(&after)).await.status, 426, "one that is issued later is good");

    // The next controlplane knows both.
    let mut next = Server::with(Limits::default(), Registry::load(&folder, 0).unwrap(), &[]).await;
    assert_eq!(next.ask_bare("GET", &door(&before)).await.problem(), (401, "token_revoked".into()));
    assert_eq!(next.ask("GET", "/v1/rooms/blue", None).await.json()["peers_max"], 3);
    let list = next.ask("GET", "/v1/rooms/blue/revocations", None).await.json();
    assert_eq!(list["revocations"][0]["name"], "Ada");
    // And it is taken back.
    let id = list["revocations"][0]["id"].as_str().unwrap();
    let address = format!("/v1/rooms/blue/revocations/{id}");
    assert_eq!(
        next.ask("DELETE", &address.replace("blue", "red"), None).await.problem(),
        (404, "no_revocation".into())
    );
    assert_eq!(next.ask("DELETE", &address, None).await.status, 204);
    assert_eq!(next.ask("DELETE", &address, None).await.problem(), (404, "no_revocation".into()));
    assert_eq!(next.ask_bare("GET", &door(&before)).await.status, 426);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// An admin's rights end when they are revoked, and so does all that was made by them.
#[tokio::test]
async fn admin_rights_are_taken_back() {
    let mut server = Server::start().await;
    let thief = Claims { admin: true, ..Claims::new("*", "thief", 60) };
    let ops = std::mem::replace(&mut server.token, key().sign(&thief).unwrap());
    let made = server
        .ask("POST", "/v1/tokens", Some(json!({"room": "*", "name": "more", "admin": true, "ttl_s": 2_592_000})))
        .await;
    assert_eq!((made.status, &made.json()["expires_at"]), (201, &json!(thief.exp)), "it does not outlive its maker");
    let more = made.json()["token"].as_str().unwrap().to_owned();
    server.token = more.clone();
    let guest = server.mint(json!({"room": "blue", "name": "Eve", "publish": true, "subscribe": true})).await;
    let door = format!("/v1/rooms/blue/signal?token={guest}");
    assert_eq!(server.ask_bare("GET", &door).await.status, 426);

    // A room's admin cannot revoke what governs everything, nor look at what is revoked there.
    server.token = token("blue", true);
    for path in ["/v1/revocations", "/v1/revocations/everybody"] {
        let method = if path.ends_with("everybody") { "DELETE" } else { "GET" };
        assert_eq!(server.ask(method, path, None).await.problem(), (403, "wrong_room".into()));
    }
    let jti = json!({"jti": thief.jti});
    assert_eq!(server.ask("POST", "/v1/revocations", Some(jti.clone())).await.problem(), (403, "wrong_room".into()));
    assert_eq!(server.ask("POST", "/v1/rooms/blue/revocations", Some(jti.clone())).await.status, 201);
    server.token = more.clone();
    assert_eq!(server.ask("GET", "/v1/server", None).await.status, 200);

    server.token = ops;
    for body in [
        json!({}),
        json!({"name": null}),
        json!({"name": "a", "jti": "b"}),
        json!({"jti": ""}),
        json!({"token": "0123"}),
        json!({"token": "0123456789ABCDEF"}),
        json!({"token": "0123456789abcdef", "name": "a"}),
    ] {
        assert_eq!(server.ask("POST", "/v1/revocations", Some(body)).await.problem(), (422, "invalid".into()));
    }
    assert_eq!(server.ask("POST", "/v1/revocations", Some(jti)).await.status, 201);
    let list = server.ask("GET", "/v1/revocations", None).await.json();
    let id = list["revocations"][0]["id"].as_str().unwrap().to_owned();
    for dead in [key().sign(&thief).unwrap(), more] {
        server.token = dead;
        assert_eq!(server.ask("GET", "/v1/server", None).await.problem(), (401, "token_revoked".into()));
        assert_eq!(server.ask("POST", "/v1/tokens", Some(json!({"room": "blue", "name": "Eve"}))).await.status, 401);
    }
    assert_eq!(server.ask_bare("GET", &door).await.problem(), (401, "token_revoked".into()));
    server.token = token("*", true);
    assert_eq!(server.ask("DELETE", &format!("/v1/revocations/{id}"), None).await.status, 204);
    assert_eq!(server.ask_bare("GET", &door).await.status, 426);
}

/// A disk that is full keeps nobody in, and the answer says what is done and what is not.
#[tokio::test]
async fn what_cannot_be_written_is_done_all_the_same() {
    let folder = std::env::temp_dir().join(format!("uprtc-full-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut server = Server::with(Limits::default(), Registry::load(&folder, 0).unwrap(), &[]).await;
    let door = format!("/v1/rooms/blue/signal?token={}", token("blue", false));
    // Each write to this device fails with ENOSPC (full(4)).
    let fill = || std::os::unix::fs::symlink("/dev/full", folder.join("registry.draft")).unwrap();
    let not_kept = |answer: &Answer| {
        assert_eq!(answer.problem(), (500, "not_kept".into()));
        assert_eq!((&answer.json()["acted"], &answer.json()["kept"]), (&json!(true), &json!(false)));
    };
    let ada = server.world.join("blue", "ops");
    fill();
    not_kept(&server.ask("POST", "/v1/rooms/blue/revocations", Some(json!({"name": "ops"}))).await);
    assert!(server.world.drain(ada.socket).iter().any(|signal| is_bye(signal, LeaveReason::Removed, false)));
    assert_eq!(server.ask_bare("GET", &door).await.problem(), (401, "token_revoked".into()));
    fill();
    not_kept(&server.ask("PUT", "/v1/rooms/blue", Some(json!({"peers_max": 3}))).await);
    assert_eq!(server.ask("GET", "/v1/rooms/blue", None).await.json()["peers_max"], 3);
    fill();
    not_kept(&server.ask("PATCH", "/v1/rooms/blue", Some(json!({"locked": true}))).await);
    fill();
    not_kept(&server.ask("DELETE", "/v1/rooms/blue", None).await);
    assert_eq!(server.ask("GET", "/v1/rooms/blue", None).await.status, 404);
    assert_eq!(Registry::load(&folder, 0).unwrap().revocation_count(), 0);
    // With space again, the server writes it by itself.
    server.site.save_again().await;
    assert_eq!(Registry::load(&folder, 0).unwrap().revocation_count(), 1);
    std::fs::remove_dir_all(&folder).unwrap();
}

/// A link is passed on without an identity: guests come under their own names, and one of them is ended alone.
#[tokio::test]
async fn an_invitation_makes_guests_with_names_and_tokens_of_their_own() {
    let mut server = Server::start().await;
    let sign = |claims: Claims| key().sign(&claims).unwrap();
    let host = Claims { publish: true, subscribe: true, invite: true, ..Claims::new("blue", "Ada", 60) };
    let door = |token: &str| format!("/v1/rooms/blue/signal?token={token}");
    let ops = std::mem::replace(&mut server.token, sign(host.clone()));

    let made = server.ask("POST", "/v1/rooms/blue/invitations", Some(json!({}))).await;
    assert_eq!((made.status, &made.json()["expires_at"]), (201, &json!(host.exp)), "{}", made.body);
    let invitation = made.json()["token"].as_str().unwrap().to_owned();
    // It admits nobody by itself; whoever has it may ask whether there is a place.
    assert_eq!(server.ask_bare("GET", &door(&invitation)).await.problem(), (403, "invitation".into()));
    assert_eq!(server.ask_bare("GET", &format!("{}&ask=1", door(&invitation))).await.status, 204);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let asked = format!("{}&ask=1", door(&invitation));
    assert_eq!(server.send("GET", &asked, upgrade, "").await.problem(), (403, "invitation".into()));
    let whip = format!("Authorization: Bearer {invitation}\r\nContent-Type: application/sdp\r\n");
    assert_eq!(server.send("POST", "/whip/blue", &whip, "v=0").await.problem(), (403, "invitation".into()));

    server.token = invitation.clone();
    assert_eq!(
        server.ask("POST", "/v1/rooms/blue/invitations", Some(json!({}))).await.problem(),
        (403, "not_inviting".into())
    );
    assert_eq!(
        server.ask("POST", "/v1/rooms/red/guests", Some(json!({"name": "Eve"}))).await.problem(),
        (403, "wrong_room".into())
    );
    for name in ["*", "", "A\u{202e}da", " "] {
        let answer = server.ask("POST", "/v1/rooms/blue/guests", Some(json!({"name": name}))).await;
        assert_eq!(answer.problem(), (422, "invalid".into()), "{name:?}");
    }
    let mut guests = Vec::new();
    for name in ["Bob", "Cyd"] {
        let made = server.ask("POST", "/v1/rooms/blue/guests", Some(json!({"name": name}))).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let token = made.json()["token"].as_str().unwrap().to_owned();
        let claims = key().verify(&token).unwrap();
        assert_eq!((claims.name.as_str(), claims.publish, claims.subscribe), (name, true, true));
        assert!(!claims.invite && !claims.invitation && !claims.admin && claims.exp == host.exp);
        assert_eq!(server.ask_bare("GET", &door(&token)).await.status, 426);
        guests.push((token, claims));
    }
    server.token = guests[0].0.clone();
    assert_eq!(
        server.ask("POST", "/v1/rooms/blue/guests", Some(json!({"name": "Eve"}))).await.problem(),
        (403, "no_invitation".into())
    );
    assert_eq!(
        server.ask("POST", "/v1/rooms/blue/invitations", Some(json!({}))).await.problem(),
        (403, "not_inviting".into())
    );

    // One guest, then the invitation with all who came by it; the host stays.
    server.token = ops;
    let revoked = async |server: &mut Server, jti: &str| {
        let answer = server.ask("POST", "/v1/rooms/blue/revocations", Some(json!({"jti": jti}))).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    };
    revoked(&mut server, &guests[0].1.jti).await;
    assert_eq!(server.ask_bare("GET", &door(&guests[0].0)).await.problem(), (401, "token_revoked".into()));
    assert_eq!(server.ask_bare("GET", &door(&guests[1].0)).await.status, 426);
    revoked(&mut server, &key().verify(&invitation).unwrap().jti).await;
    assert_eq!(server.ask_bare("GET", &door(&guests[1].0)).await.problem(), (401, "token_revoked".into()));
    server.token = invitation;
    assert_eq!(
        server.ask("POST", "/v1/rooms/blue/guests", Some(json!({"name": "Eve"}))).await.problem(),
        (401, "token_revoked".into())
    );
    assert_eq!(server.ask_bare("GET", &door(&sign(host))).await.status, 426);
}

/// Whoever governs a room sees by which invitation somebody came, and ends one guest or all of them.
#[tokio::test]
async fn a_guest_or_the_invitation_is_revoked_by_what_the_list_of_peers_shows() {
    let mut server = Server::start().await;
    let host = Claims { invite: true, ..Claims::new("blue", "Ada", 60) };
    let invitation = Claims { invitation: true, ..Claims::new("blue", "Ada", 60) };
    let invitation = invitation.made_by(&host, host.as_inviter()).unwrap();
    for name in ["Bob", "Cyd"] {
        let guest = Claims::new("blue", name, 60).made_by(&invitation, invitation.as_inviter()).unwrap();
        let grant = controlplane::engine::Grant {
            token: guest.id(),
            made_by: guest.made_by.clone().into(),
            ..world::grant(name)
        };
        let mut client = server.world.guest("blue", grant);
        server.world.offer(&mut client, world::PAGE, world::page_tracks()).unwrap();
        server.world.connect(&mut client);
    }
    let peers =
        async |server: &mut Server| server.ask("GET", "/v1/rooms/blue/peers", None).await.json()["peers"].clone();
    let list = peers(&mut server).await;
    assert_eq!(list[0]["made_by"], json!([host.identity(), invitation.identity()]));
    let revoke = async |server: &mut Server, token: &Value| {
        let answer = server.ask("POST", "/v1/rooms/blue/revocations", Some(json!({"token": token}))).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    };
    revoke(&mut server, &list[0]["token"]).await;
    let left = peers(&mut server).await;
    assert_eq!((left.as_array().unwrap().len(), &left[0]["name"]), (1, &list[1]["name"]));
    revoke(&mut server, &list[1]["made_by"][1]).await;
    assert_eq!(peers(&mut server).await, json!([]));
}

/// Nobody gives more than there is to give.
#[tokio::test]
async fn an_invitation_has_at_most_the_rights_of_who_invites() {
    let mut server = Server::start().await;
    let watcher = Claims { subscribe: true, invite: true, ..Claims::new("blue", "Ada", 60) };
    server.token = key().sign(&watcher).unwrap();
    let address = "/v1/rooms/blue/invitations";
    assert_eq!(server.ask("POST", address, Some(json!({"publish": true}))).await.problem(), (403, "forbidden".into()));
    assert_eq!(server.ask("POST", address, Some(json!({"ttl_s": 604_801}))).await.problem(), (422, "invalid".into()));
    let rights = |answer: &Answer| {
        let claims = key().verify(answer.json()["token"].as_str().unwrap()).unwrap();
        (claims.publish, claims.subscribe)
    };
    assert_eq!(rights(&server.ask("POST", address, Some(json!({}))).await), (false, true));
    // A room's admin may make any token for the room.
    server.token = key().sign(&Claims { admin: true, ..Claims::new("blue", "ops", 60) }).unwrap();
    assert_eq!(rights(&server.ask("POST", address, Some(json!({}))).await), (true, true));
    assert_eq!(rights(&server.ask("POST", address, Some(json!({"publish": false}))).await), (false, true));
    assert_eq!(
        server.ask("POST", "/v1/rooms/red/invitations", Some(json!({}))).await.problem(),
        (403, "wrong_room".into())
    );
    server.token = token("blue", false);
    assert_eq!(server.ask("POST", address, Some(json!({}))).await.problem(), (403, "not_inviting".into()));
}

#[tokio::test]
async fn who_is_no_admin_governs_nothing() {
    let mut server = Server::start().await;
    assert_eq!(server.ask_bare("GET", "/v1/rooms").await.problem(), (401, "token_missing".into()));
    let in_address = format!("/v1/rooms?token={}", token("*", true));
    assert_eq!(server.ask_bare("GET", &in_address).await.problem(), (401, "token_missing".into()));
    server.token = token("*", false);
    assert_eq!(server.ask("GET", "/v1/rooms", None).await.problem(), (403, "not_admin".into()));
    server.token = token("blue", true);
    assert_eq!(server.ask("GET", "/v1/rooms", None).await.problem(), (403, "wrong_room".into()));
    assert_eq!(server.ask("GET", "/v1/server", None).await.problem(), (403, "wrong_room".into()));
    assert_eq!(server.ask("PUT", "/v1/rooms/red", Some(json!({}))).await.problem(), (403, "wrong_room".into()));
    assert_eq!(server.ask("PUT", "/v1/rooms/blue", Some(json!({}))).await.status, 201);
    for (room, status) in [("blue", 201), ("red", 403), ("*", 403)] {
        let minted = server.ask("POST", "/v1/tokens", Some(json!({"room": room, "name": "Ada"}))).await;
        assert_eq!(minted.status, status, "{room}");
    }
}

#[tokio::test]
async fn a_minted_token_opens_the_door() {
    let mut server = Server::start().await;
    let asked = json!({"room": "blue", "name": "Ada", "publish": true, "ttl_s": 60});
    let minted = server.ask("POST", "/v1/tokens", Some(asked)).await.json();
    let claims = key().verify(minted["token"].as_str().unwrap()).unwrap();
    assert_eq!((claims.room.as_str(), claims.publish, claims.subscribe, claims.admin), ("blue", true, false, false));
    assert_eq!(minted["expires_at"], claims.exp);
    assert_eq!(claims.exp, claims.iat + 60);
}
