//! Tokens: what is let in, and the name of each reason for which it is not.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use controlplane::auth::{
    Claims, KEY_FILE, KEY_LEN, KEYS_FOLDER, KeyError, LEEWAY_S, MAKERS_MAX, RELOAD_INTERVAL, TIME_MAX_S, TTL_MAX_S,
    TokenError, TokenKey, TokenKeys, is_room_name,
};
use proptest::prelude::*;
use ring::hmac;
use serde_json::json;

const SECRET: [u8; KEY_LEN] = [7; KEY_LEN];

fn key() -> TokenKey {
    TokenKey::new(&SECRET)
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(DIGITS[(word >> (18 - 6 * i) & 63) as usize]));
        }
    }
    out
}

/// A token made by hand, as another implementation would: RFC 7515 §3.
fn token_by_hand(header: &str, claims: &serde_json::Value, secret: &[u8]) -> String {
    let text = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.to_string().as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), text.as_bytes());
    format!("{text}.{}", base64url(tag.as_ref()))
}

/// What is kept of a token that made another one.
const MAKER: &str = "0123456789abcdef.0123456789abcdef.1795415232.*";

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("uprtc-auth-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write_key(folder: &Path, text: &str, mode: u32) {
    let path = folder.join(KEY_FILE);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_was_signed_is_let_in() {
    let claims = Claims { publish: true, ..Claims::new("demo", "Ada", 60) };
    let token = key().sign(&claims).unwrap();
    assert_eq!(key().verify(&token), Ok(claims.clone()));
    assert!(claims.is_for("demo") && !claims.is_for("other"));
    assert!(Claims::new("*", "Ada", 60).is_for("other"));
    assert_ne!(claims.jti, Claims::new("demo", "Ada", 60).jti);
}

#[test]
fn a_token_of_another_implementation_is_let_in() {
    let claims = json!({"room": "demo", "name": "Ada", "subscribe": true, "exp": now() + 60, "sub": "u-17"});
    let claims = key().verify(&token_by_hand(r#"{"typ":"JWT","alg":"HS256"}"#, &claims, &SECRET)).unwrap();
    assert_eq!((claims.publish, claims.subscribe, claims.admin), (false, true, false));
}

#[test]
fn each_refusal_has_its_name() {
    let hs256 = r#"{"alg":"HS256"}"#;
    let good = json!({"room": "demo", "name": "Ada", "exp": now() + 60});
    let with = |field: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[field] = value;
        token_by_hand(hs256, &claims, &SECRET)
    };
    let token = token_by_hand(hs256, &good, &SECRET);
    let unsigned = format!("{}.", &token[..token.rfind('.').unwrap()]);
    for (token, code) in [
        (String::new(), "token_missing"),
        ("x".into(), "token_malformed"),
        ("a.b.c".into(), "token_malformed"),
        ("x".repeat(5000), "token_malformed"),
        (unsigned, "token_signature"),
        (token_by_hand(hs256, &good, &[8; KEY_LEN]), "token_signature"),
        (token_by_hand(r#"{"alg":"none"}"#, &good, &SECRET), "token_algorithm"),
        (token_by_hand(r#"{"alg":"HS384"}"#, &good, &SECRET), "token_algorithm"),
        (token_by_hand(r#"{"alg":"RS256"}"#, &good, &SECRET), "token_algorithm"),
        (token_by_hand(r#"{"alg":"ES256"}"#, &good, &SECRET), "token_algorithm"),
        (token_by_hand(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, &good, &SECRET), "token_critical"),
        (token_by_hand(r#"{"alg":"HS256","crit":[]}"#, &good, &SECRET), "token_critical"),
        (with("exp", json!(now() - LEEWAY_S - 5)), "token_expired"),
        (with("nbf", json!(now() + LEEWAY_S + 5)), "token_immature"),
        (with("exp", json!("soon")), "token_claims"),
        (with("exp", json!(null)), "token_claims"),
        (with("room", json!("a/b")), "token_claims"),
        (with("room", json!("")), "token_claims"),
        (with("room", json!(7)), "token_claims"),
        (with("name", json!("")), "token_claims"),
        (with("name", json!("a\nb")), "token_claims"),
        (with("name", json!("x".repeat(65))), "token_claims"),
        (with("publish", json!("yes")), "token_claims"),
        (with("aud", json!("another")), "token_claims"),
    ] {
        assert_eq!(key().verify(&token).map_err(TokenError::code), Err(code), "{token}");
    }
    assert!(key().verify(&token).is_ok());
    assert!(key().verify(&with("exp", json!(now() - LEEWAY_S / 2))).is_ok(), "within the leeway");
}

/// NumericDate is any JSON number (RFC 7519 §2), and libraries write fractions: `Date.now() / 1000`, `time.time()`.
#[test]
fn times_may_have_a_fraction() {
    let now = now() as f64;
    let verify = |claims: &serde_json::Value| key().verify(&token_by_hand(r#"{"alg":"HS256"}"#, claims, &SECRET));
    let claims = json!({"room": "demo", "name": "Ada", "exp": now + 60.75, "iat": now - 0.25, "nbf": now - 0.5});
    let read = verify(&claims).unwrap();
    assert_eq!((read.exp as f64, read.iat as f64), (now + 60.0, now - 1.0), "rounded to the strict side");

    let with = |claim: &str, value: serde_json::Value| {
        let mut claims = claims.clone();
        claims[claim] = value;
        verify(&claims).map(|_| ()).map_err(TokenError::code)
    };
    let leeway = LEEWAY_S as f64;
    assert_eq!(with("exp", json!(now - leeway - 5.5)), Err("token_expired"));
    assert_eq!(with("exp", json!(now - leeway / 2.0 - 0.5)), Ok(()), "within the leeway");
    assert_eq!(with("exp", json!(-1.5)), Err("token_expired"));
    assert_eq!(with("nbf", json!(now + leeway + 5.5)), Err("token_immature"));
    assert_eq!(with("nbf", json!(now + leeway / 2.0 + 0.5)), Ok(()), "within the leeway");
    assert_eq!(with("nbf", json!(-3)), Ok(()));
    assert_eq!(with("iat", json!(-3.5)), Err("token_claims"), "it lasts for too long");
    assert_eq!(with("exp", json!(1.5e9)), Err("token_expired"));
    assert_eq!(with("exp", json!(now + TTL_MAX_S as f64 - 5.5)), Ok(()));
    assert_eq!(
        with("exp", json!(now + TTL_MAX_S as f64 + 5.5)),
        Err("token_claims"),
        "longer than a revocation is kept"
    );
    assert_eq!(with("iat", json!(now + leeway + 5.5)), Err("token_immature"), "it would escape from revocations");
    assert_eq!(with("iat", json!(now + leeway / 2.0 + 0.5)), Ok(()), "within the leeway");
    for absent in ["iat", "nbf", "jti", "aud", "publish", "admin"] {
        assert_eq!(with(absent, json!(null)), Ok(()), "null counts as absent: {absent}");
    }
    for unknown in [json!("x"), json!({"a": [1]}), json!(1e300)] {
        assert_eq!(with("urn:example:own", unknown.clone()), Ok(()));
        assert_eq!(with("iss", unknown), Ok(()));
    }
}

#[test]
fn a_refusal_names_the_claim() {
    let good = json!({"room": "demo", "name": "Ada", "exp": now() + 60, "iat": now()});
    let refusal = |claim: &str, value: Option<serde_json::Value>| {
        let mut claims = good.clone();
        match value {
            Some(value) => claims[claim] = value,
            None => drop(claims.as_object_mut().unwrap().remove(claim)),
        }
        let error = key().verify(&token_by_hand(r#"{"alg":"HS256"}"#, &claims, &SECRET)).unwrap_err();
        (error.code(), error.to_string())
    };
    let milliseconds = json!(now() * 1000);
    for (claim, value, said) in [
        ("exp", None, "exp is missing"),
        ("exp", Some(json!(null)), "exp is missing"),
        ("exp", Some(json!("1795418832")), "exp is not a number"),
        ("exp", Some(json!([])), "exp is not a number"),
        ("exp", Some(milliseconds.clone()), "exp is in seconds since 1970, and this looks like milliseconds"),
        ("exp", Some(json!(now() as f64 * 1000.0 + 0.5)), "looks like milliseconds"),
        ("iat", Some(milliseconds.clone()), "iat is in seconds since 1970, and this looks like milliseconds"),
        ("nbf", Some(milliseconds), "nbf is in seconds since 1970, and this looks like milliseconds"),
        ("exp", Some(json!(TIME_MAX_S)), "looks like milliseconds"),
        ("exp", Some(json!(1e300)), "exp is in seconds since 1970, and this is too far away"),
        ("exp", Some(json!(u64::MAX)), "too far away"),
        ("iat", Some(json!(true)), "iat is not a number"),
        ("nbf", Some(json!({})), "nbf is not a number"),
        ("room", None, "room is missing"),
        ("room", Some(json!(7)), "room is not a string"),
        ("room", Some(json!("a/b")), "room is neither"),
        ("name", None, "name is missing"),
        ("name", Some(json!(["Ada"])), "name is not a string"),
        ("name", Some(json!("a\nb")), "name is not 1 to 64"),
        ("publish", Some(json!("true")), "publish is neither true nor false"),
        ("subscribe", Some(json!(1)), "subscribe is neither true nor false"),
        ("admin", Some(json!("false")), "admin is neither true nor false"),
        ("jti", Some(json!(17)), "jti is not a string"),
        ("exp", Some(json!(now() + TTL_MAX_S + 60)), "exp is more than 366 days after iat"),
        ("made_by", Some(json!(["ab"])), "made_by is not what this server writes"),
        ("made_by", Some(json!("ab")), "made_by is not what this server writes"),
        ("made_by", Some(json!(vec![MAKER; MAKERS_MAX + 1])), "made_by is not what this server writes"),
        ("aud", Some(json!("another")), "aud is for somebody else"),
        ("aud", Some(json!(["a", "b"])), "aud is for somebody else"),
    ] {
        let (code, text) = refusal(claim, value.clone());
        assert_eq!(code, "token_claims", "{claim} {value:?}");
        assert!(text.contains(said), "{claim} {value:?}: {text}");
    }
    assert!(refusal("exp", Some(json!(1))).1.contains("exp"));
    assert!(refusal("nbf", Some(json!(now() + 3600))).1.contains("nbf"));
    // No JSON at all.
    for text in ["NaN", "Infinity", "1e400", "0x10", "01"] {
        let claims = format!(r#"{{"room":"demo","name":"Ada","exp":{text}}}"#);
        let head = format!("{}.{}", base64url(br#"{"alg":"HS256"}"#), base64url(claims.as_bytes()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), head.as_bytes());
        let token = format!("{head}.{}", base64url(tag.as_ref()));
        assert_eq!(key().verify(&token).map_err(TokenError::code), Err("token_malformed"), "{text}");
    }
}

#[test]
fn what_no_server_would_take_is_not_signed() {
    assert_eq!(key().sign(&Claims::new("a b", "Ada", 60)).map_err(TokenError::code), Err("token_claims"));
    assert_eq!(key().sign(&Claims::new("demo", "", 60)).map_err(TokenError::code), Err("token_claims"));
    assert_eq!(key().sign(&Claims::new("demo", "Ada", u64::MAX)).map_err(TokenError::code), Err("token_claims"));
}

#[test]
fn room_names() {
    for name in ["a", "Demo-1", "x_y.z", &"a".repeat(64)] {
        assert!(is_room_name(name), "{name}");
    }
    for name in ["", "*", "a b", "a/b", "ä", &"a".repeat(65), "a\n"] {
        assert!(!is_room_name(name), "{name}");
    }
}

#[test]
fn the_key_is_made_once_and_only_for_its_owner() {
    let folder = Folder::new("made");
    let token = TokenKey::load_or_create(&folder.0).unwrap().sign(&Claims::new("demo", "Ada", 60)).unwrap();
    let mode = std::fs::metadata(folder.0.join(KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(TokenKey::load_or_create(&folder.0).unwrap().verify(&token).is_ok());
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "no draft is left behind");
}

#[test]
fn threads_that_start_at_once_agree_on_the_key() {
    let folder = Folder::new("race");
    let tokens: Vec<String> = std::thread::scope(|scope| {
        let make = || TokenKey::load_or_create(&folder.0).unwrap().sign(&Claims::new("demo", "Ada", 60)).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let key = TokenKey::load_or_create(&folder.0).unwrap();
    assert!(tokens.iter().all(|token| key.verify(token).is_ok()));
}

#[test]
fn a_key_file_that_is_wrong_is_refused_with_advice() {
    let folder = Folder::new("wrong");
    write_key(&folder.0, "not a key\n", 0o600);
    assert!(matches!(TokenKey::load_or_create(&folder.0), Err(KeyError::NotAKey(_))));
    write_key(&folder.0, &"ab".repeat(32), 0o644);
    let error = TokenKey::load_or_create(&folder.0).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
    write_key(&folder.0, &"ab".repeat(32), 0o600);
    assert!(TokenKey::load_or_create(&folder.0).is_ok());
    let error = TokenKey::load_or_create(&folder.0.join("nowhere")).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

proptest! {
    #[test]
    fn hostile_text_is_refused(token in "\\PC{0,200}") {
        prop_assert!(key().verify(&token).is_err());
    }

    #[test]
    fn a_changed_character_is_refused(at in 0usize..1000, to in "[A-Za-z0-9_.-]") {
        let token = token_by_hand(r#"{"alg":"HS256"}"#, &json!({"room": "demo", "name": "Ada", "exp": now() + 60}), &SECRET);
        let at = at % (token.len() - 1); // the last digit of a base64url text has bits that carry nothing
        let mut changed = token.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != token);
        prop_assert!(key().verify(&changed).is_err());
    }
}

#[test]
fn keys_are_rotated_without_a_restart() {
    let folder = Folder::new("rotation");
    let server = TokenKeys::load_or_create(&folder.0).unwrap();
    let claims = Claims::new("demo", "Ada", 60);
    let first = server.sign(&claims).unwrap();
    let kid = TokenKeys::add(&folder.0).unwrap();
    let issuer = TokenKeys::load_or_create(&folder.0).unwrap();
    let second = issuer.sign(&claims).unwrap();
    assert_ne!(first, second);
    assert_eq!(issuer.verify(&first), Ok(claims.clone()), "tokens of the old key are good while it is there");
    assert!(TokenKey::load_or_create(&folder.0).unwrap().verify(&second).is_err(), "the newest key signs");
    let until = |token: &str, wanted: Result<(), &str>| {
        let begun = std::time::Instant::now();
        while server.verify(token).map(|_| ()).map_err(TokenError::code) != wanted {
            assert!(begun.elapsed() < 5 * RELOAD_INTERVAL, "the server does not notice");
            std::thread::sleep(RELOAD_INTERVAL / 20);
        }
    };
    until(&second, Ok(()));
    std::fs::remove_file(folder.0.join(KEYS_FOLDER).join(format!("{kid}.key"))).unwrap();
    until(&second, Err("token_key"));
    assert!(server.verify(&first).is_ok());
    let unknown = token_by_hand(r#"{"alg":"HS256","kid":"../token"}"#, &json!({"room": "demo"}), &SECRET);
    assert_eq!(server.verify(&unknown), Err(TokenError::Key));
}

#[test]
fn a_further_key_that_is_wrong_is_refused_with_advice() {
    let folder = Folder::new("further");
    TokenKeys::add(&folder.0).unwrap();
    let path = folder.0.join(KEYS_FOLDER).join("b.key");
    std::fs::write(&path, "ab".repeat(32)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = TokenKeys::load_or_create(&folder.0).unwrap_err();
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[test]
fn a_token_made_by_a_token_does_not_outlive_it_and_names_it() {
    let parent = Claims { admin: true, ..Claims::new("*", "backend", 5) };
    let child = Claims::new("demo", "Ada", 3600).made_by(&parent, parent.as_governor()).unwrap();
    assert_eq!(child.exp, parent.exp);
    let read = key().verify(&key().sign(&child).unwrap()).unwrap();
    assert_eq!(read, child);
    assert_eq!(read.made_by[0].token, parent.identity());
    assert!(read.made_by[0].governs_everything && !read.as_inviter().governs_everything);

    let mut last = parent;
    for _ in 0..MAKERS_MAX {
        last = Claims::new("demo", "Ada", 60).made_by(&last, last.as_governor()).unwrap();
    }
    assert!(key().sign(&last).unwrap().len() < 1024, "it fits an address");
    assert_eq!(Claims::new("demo", "Ada", 60).made_by(&last, last.as_governor()), None, "and so on, but not for ever");
}
