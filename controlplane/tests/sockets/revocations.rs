//! Revocations by themselves: whom they concern, their quotas, how long they are kept, and the file that they are in.

use std::path::PathBuf;

use controlplane::auth::{Claims, LEEWAY_S, TTL_MAX_S, id_of};
use controlplane::registry::{REGISTRY_FILE, Registry};
use controlplane::revocations::{
    ANY_REVOCATIONS_MAX, REVOCATIONS_MAX, ROOM_REVOCATIONS_MAX, Revocation, Revocations, TooMany, Whose,
};
use serde_json::json;

const NOW: u64 = 1_795_415_232;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("uprtc-revocations-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, text: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(REGISTRY_FILE), text).unwrap();
    }

    fn load(&self) -> Registry {
        Registry::load(&self.0, NOW).unwrap()
    }

    /// What was set aside.
    fn aside(&self) -> Option<String> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap());
        let mut aside = names.filter(|entry| entry.file_name().to_str().unwrap().starts_with("registry.left-out."));
        aside.next().map(|entry| std::fs::read_to_string(entry.path()).unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn revocation(room: &str, whose: Whose, issued_until: u64) -> Revocation {
    Revocation { room: room.into(), whose, issued_until }
}

fn of_name(room: &str, name: &str) -> Revocation {
    revocation(room, Whose::Name(name.into()), NOW)
}

fn of_token(room: &str, jti: &str) -> Revocation {
    revocation(room, Whose::Token(id_of(jti)), NOW)
}

fn claims(room: &str, name: &str, iat: u64) -> Claims {
    Claims { iat, exp: iat + 3600, ..Claims::new(room, name, 0) }
}

#[test]
fn a_clock_that_is_ahead_does_not_escape() {
    let mut revocations = Revocations::default();
    revocations.add(of_name("blue", "Ada")).unwrap();
    let is_revoked = |claims: &Claims| revocations.concern("blue", claims);
    assert!(is_revoked(&claims("blue", "Ada", NOW)));
    assert!(is_revoked(&claims("blue", "Ada", NOW + LEEWAY_S)), "as far ahead as is let in");
    assert!(!is_revoked(&claims("blue", "Ada", NOW + LEEWAY_S + 1)));
    assert!(!is_revoked(&claims("blue", "Bob", NOW)) && !revocations.concern("red", &claims("*", "Ada", NOW)));
    // A token that this server makes has the time of the clock that revokes: it is good from the next second on.
    let maker = claims("blue", "Host", NOW - 60);
    let made = |iat| claims("blue", "Ada", iat).made_by(&maker, maker.as_governor()).unwrap();
    assert!(is_revoked(&made(NOW)) && !is_revoked(&made(NOW + 1)));
}

#[test]
fn what_a_revoked_token_made_is_revoked_with_it() {
    let everything = Claims { admin: true, ..claims("*", "backend", NOW - 60) };
    let host = claims("blue", "Host", NOW - 50).made_by(&everything, everything.as_governor()).unwrap();
    let invitation = claims("blue", "*", NOW - 40).made_by(&host, host.as_inviter()).unwrap();
    let guest = claims("blue", "Guest", NOW - 30).made_by(&invitation, invitation.as_inviter()).unwrap();
    let line = [&everything, &host, &invitation, &guest];
    let revoked_by = |revocation: Revocation| {
        let mut revocations = Revocations::default();
        revocations.add(revocation).unwrap();
        // What governs everything is asked of `*`, what is used for a room of that.
        line.map(|claims| revocations.concern(if claims.admin { "*" } else { "blue" }, claims))
    };
    assert_eq!(revoked_by(of_token("*", &everything.jti)), [true; 4]);
    assert_eq!(revoked_by(of_name("*", "backend")), [true; 4]);
    assert_eq!(revoked_by(of_token("blue", &host.jti)), [false, true, true, true]);
    assert_eq!(revoked_by(of_name("blue", "Host")), [false, true, true, true]);
    assert_eq!(revoked_by(of_token("blue", &invitation.jti)), [false, false, true, true]);
    assert_eq!(revoked_by(of_token("blue", &guest.jti)), [false, false, false, true]);
    assert_eq!(revoked_by(of_token("blue", &everything.jti)), [false; 4], "a room's admin cannot");
    assert_eq!(revoked_by(of_name("blue", "backend")), [false; 4]);
    // Everybody's of the room, and then the one who governs everything makes new ones.
    let mut revocations = Revocations::default();
    revocations.add(revocation("blue", Whose::Everybody, NOW)).unwrap();
    assert!(revocations.concern("blue", &guest));
    let fresh = claims("blue", "Host", NOW + 1).made_by(&everything, everything.as_governor()).unwrap();
    assert!(!revocations.concern("blue", &fresh));
}

#[test]
fn each_room_has_its_quota() {
    let mut revocations = Revocations::default();
    for n in 0..ROOM_REVOCATIONS_MAX {
        revocations.add(of_name("blue", &n.to_string())).unwrap();
    }
    assert_eq!(revocations.add(of_name("blue", "more")), Err(TooMany::OfRoom));
    assert_eq!(revocations.add(of_token("blue", "more")), Err(TooMany::OfRoom));
    revocations.add(of_name("blue", "7")).unwrap();
    revocations.add(of_token("red", "one")).unwrap();
    // Everybody's takes the place of those of names, and is always taken.
    revocations.add(revocation("blue", Whose::Everybody, NOW)).unwrap();
    assert_eq!(revocations.of("blue").len(), 1);
    assert!(revocations.concern("blue", &claims("blue", "7", NOW - 1)));

    for n in 0..ANY_REVOCATIONS_MAX {
        revocations.add(of_token("*", &n.to_string())).unwrap();
    }
    assert_eq!(revocations.add(of_token("*", "more")), Err(TooMany::OfAny));
    for room in 0.. {
        let room = format!("room-{room}");
        let added = (0..ROOM_REVOCATIONS_MAX).map(|n| revocations.add(of_token(&room, &n.to_string())));
        if let Some(error) = added.filter_map(Result::err).next() {
            assert_eq!(error, TooMany::OfAll);
            break;
        }
    }
    assert!(revocations.count() <= REVOCATIONS_MAX + ANY_REVOCATIONS_MAX + 1);
}

#[test]
fn a_revocation_is_kept_as_long_as_what_it_concerns_may_be_good() {
    let mut revocations = Revocations::default();
    revocations.add(of_name("blue", "Ada")).unwrap();
    revocations.add(of_token("blue", "one")).unwrap();
    revocations.add(revocation("red", Whose::Everybody, NOW)).unwrap();
    revocations.prune(NOW + TTL_MAX_S + 2 * LEEWAY_S);
    assert_eq!(revocations.count(), 3);
    revocations.prune(NOW + TTL_MAX_S + 2 * LEEWAY_S + 1);
    assert_eq!(revocations.count(), 0);
}

#[test]
fn a_revocation_is_taken_back_by_its_id() {
    let mut revocations = Revocations::default();
    for whose in [Whose::Everybody, Whose::Name("Ada".into()), Whose::Token(id_of("one"))] {
        revocations.add(revocation("blue", whose.clone(), NOW)).unwrap();
        assert!(!revocations.remove("red", &whose.id()) && !revocations.remove("blue", "name.x"));
        assert!(revocations.remove("blue", &whose.id()), "{whose:?}");
        assert!(!revocations.remove("blue", &whose.id()));
        assert_eq!(revocations.count(), 0);
    }
}

/// As an earlier version wrote it, longer than that version could read.
#[test]
fn ten_thousand_long_identities_do_not_stop_a_start() {
    let folder = Folder::new("long");
    let jti = |n: usize| format!("{n:05}{}", "\u{1}".repeat(251));
    let entry = |n| json!({"room": "blue", "name": null, "issued_until": NOW, "jti": jti(n)});
    let revocations: Vec<_> = (0..10_000).map(entry).collect();
    let text = json!({"rooms": {}, "revocations": revocations}).to_string();
    assert!(text.len() > 15 << 20);
    folder.write(&text);
    let registry = folder.load();
    assert_eq!((registry.revocation_count(), registry.left_out()), (10_000, 0));
    let revoked = Claims { jti: jti(9_999), ..claims("blue", "Ada", NOW) };
    assert!(registry.is_revoked("blue", &revoked));
    registry.change(|rules| rules.revocations.remove("blue", "token.none"));
    registry.save().unwrap();
    let len = std::fs::metadata(folder.0.join(REGISTRY_FILE)).unwrap().len();
    assert!(len < 2 << 20, "{len} bytes");
    assert!(folder.load().is_revoked("blue", &revoked));
}

#[test]
fn a_start_loads_what_can_be_read_and_keeps_the_rest_aside() {
    let folder = Folder::new("aside");
    folder.write(
        json!({
            "rooms": {"blue": {"peers_max": 3}, "red": {"peers_max": "three"}, "a b": {}},
            "revocations": [
                {"room": "blue", "name": "Ada", "issued_until": NOW},
                {"room": "blue", "name": 7, "issued_until": NOW},
                {"room": "", "issued_until": NOW},
                "nonsense",
                {"room": "*", "token": id_of("one"), "issued_until": NOW}
            ],
            "future": 1
        })
        .to_string(),
    );
    let registry = folder.load();
    assert_eq!((registry.left_out(), registry.revocation_count()), (6, 2));
    assert_eq!(registry.rooms()["blue"].peers_max, Some(3));
    assert!(registry.is_revoked("blue", &claims("blue", "Ada", NOW - 1)));
    let aside = folder.aside().unwrap();
    assert!(aside.contains("nonsense") && aside.contains("three") && !aside.contains("Ada"), "{aside}");
    registry.save().unwrap();
    assert_eq!(folder.load().left_out(), 0, "said once");

    let broken = Folder::new("broken");
    broken.write("{\"rooms\": {\"blue\"");
    let registry = broken.load();
    assert_eq!((registry.left_out(), registry.rooms().len()), (1, 0));
    assert_eq!(broken.aside().as_deref(), Some("{\"rooms\": {\"blue\""));
}

/// What is written is what is read, with the longest names, at the quotas.
#[test]
fn what_is_written_can_be_read() {
    let folder = Folder::new("written");
    let registry = folder.load();
    registry.change(|rules| {
        for room in 0..REVOCATIONS_MAX / ROOM_REVOCATIONS_MAX {
            let room = format!("{room:02}{}", "r".repeat(62));
            for n in 0..ROOM_REVOCATIONS_MAX {
                let name: String = format!("{n:04}").chars().chain("\u{1f600}".repeat(60).chars()).collect();
                rules.revocations.add(of_name(&room, &name)).unwrap();
            }
        }
        for n in 0..ANY_REVOCATIONS_MAX {
            rules.revocations.add(of_name("*", &format!("{n:04}{}", "\"".repeat(60)))).unwrap();
        }
    });
    registry.save().unwrap();
    let again = folder.load();
    assert_eq!((again.left_out(), again.revocation_count()), (0, REVOCATIONS_MAX + ANY_REVOCATIONS_MAX));
}
