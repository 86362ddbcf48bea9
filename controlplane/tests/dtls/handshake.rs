//! The course of a connection when the network is kind.

use std::time::Duration;

use boring::asn1::Asn1Time;
use boring::hash::MessageDigest;
use boring::pkey::PKey;
use boring::rsa::Rsa;
use boring::x509::X509;
use controlplane::dtls::{Dtls, DtlsVersion, Identity, fingerprint_matches};
use proto::plane::SrtpProfile;

use crate::pair::{Pair, arrives, is_lost};

#[test]
fn both_ends_derive_the_same_keys() {
    let mut pair = Pair::new(|_, _, _| arrives());
    pair.run(Duration::from_secs(1));
    pair.assert_agree();
    let connected = pair.server.connected.as_ref().unwrap();
    assert_eq!(connected.version, DtlsVersion::V1_3);
    assert_eq!(connected.profile, SrtpProfile::AeadAes128Gcm);
    assert_ne!(connected.rx.key[..16], [0; 16]);
    assert_eq!(connected.rx.key[16..], [0; 16], "a 128-bit key is padded with zeros");
    assert_eq!(connected.rx.salt[12..], [0; 2], "a salt of GCM is padded with zeros");
}

#[test]
fn each_connection_has_its_own_keys() {
    let [a, b] = [(); 2].map(|()| {
        let mut pair = Pair::new(|_, _, _| arrives());
        pair.run(Duration::from_secs(1));
        pair.server.connected.unwrap()
    });
    assert!(a.rx != b.rx && a.tx != b.tx);
}

#[test]
fn another_certificate_than_the_offered_one_is_detected() {
    let mut pair = Pair::new(|_, _, _| arrives());
    pair.run(Duration::from_secs(1));
    let der = &pair.server.connected.as_ref().unwrap().peer_certificate_der;
    let offered = pair.client_identity.fingerprint_sha256();
    let other = pair.server_identity.fingerprint_sha256();
    assert_eq!(fingerprint_matches(der, "sha-256", &offered), Ok(true));
    assert_eq!(fingerprint_matches(der, "sha-256", &other), Ok(false));
}

#[test]
fn a_settled_connection_wants_no_timer() {
    let mut pair = Pair::new(|_, _, _| arrives());
    pair.run(Duration::from_secs(5));
    pair.assert_agree();
    assert_eq!(pair.client.dtls.poll_timeout(), None);
    assert_eq!(pair.server.dtls.poll_timeout(), None);
    let sent = pair.sent;
    pair.run(Duration::from_secs(3600));
    assert_eq!(pair.sent, sent);
}

#[test]
fn close_tells_the_peer_and_nobody_else() {
    let mut pair = Pair::new(|_, _, _| arrives());
    pair.run(Duration::from_secs(1));
    assert!(pair.server.dtls.is_connected());
    pair.server.dtls.close();
    assert!(!pair.server.dtls.is_connected());
    pair.run(Duration::from_secs(1));
    assert!(pair.client.is_closed && !pair.server.is_closed);
    assert!(!pair.client.dtls.is_connected());
    assert_eq!(pair.client.dtls.poll_timeout(), None);
    let sent = pair.sent;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.sent, sent, "a closed connection is silent");
}

#[test]
fn close_before_the_handshake_is_silent() {
    let mut pair = Pair::new(|_, _, _| is_lost());
    pair.collect();
    pair.client.dtls.close();
    assert_eq!(pair.client.dtls.poll_timeout(), None);
    let sent = pair.sent;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.sent, sent);
    assert!(pair.client.failed.is_none());
}

#[test]
fn an_unanswered_client_hello_is_repeated_ever_more_rarely() {
    let mut pair = Pair::new(|_, _, _| is_lost());
    pair.run(Duration::from_secs(10));
    // 0, 80, 240, 560 ms and so on, doubling: the eighth repetition would come after 20 s.
    assert_eq!(pair.sent, [7, 0], "ClientHellos within ten seconds");
    assert!(pair.client.failed.is_none(), "the deadline is the caller's");
    assert!(pair.now - pair.client.dtls.started_at() >= Duration::from_secs(10));
}

/// A self-signed certificate of an RSA key, as GStreamer and older stacks have.
pub(crate) fn rsa_identity(bits: u32) -> Identity {
    let key = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    Identity::from_der(&builder.build().to_der().unwrap(), &key.private_key_to_der_pkcs8().unwrap()).unwrap()
}

#[test]
fn rsa_peers_are_accepted_in_either_role() {
    let ecdsa = Identity::generate().unwrap();
    for (client, server) in [(rsa_identity(2048), ecdsa.clone()), (ecdsa, rsa_identity(4096))] {
        let mut pair = Pair::with_identities(client, server, |_, _, _| arrives());
        pair.run(Duration::from_secs(1));
        pair.assert_agree();
    }
}

#[test]
fn the_engine_may_move_a_connection_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Dtls>();
    assert_send::<Identity>();

    // The clock that BoringSSL sees is per thread; a connection that moves takes its time along.
    let mut pair = Pair::new(|_, _, _| arrives());
    pair.collect();
    let mut pair = std::thread::spawn(move || {
        pair.step(pair.now + Duration::from_secs(1));
        pair
    })
    .join()
    .unwrap();
    pair.run(Duration::from_secs(1));
    pair.assert_agree();
}

#[test]
fn connections_of_different_age_share_a_thread() {
    let mut old = Pair::new(|_, _, _| arrives());
    old.run(Duration::from_secs(3600));
    let mut young = Pair::new(|_, _, _| is_lost());
    young.run(Duration::from_millis(100));
    let due = young.client.dtls.poll_timeout();
    old.server.dtls.handle_timeout(old.now);
    old.client.dtls.handle(old.now, &[22; 100]);
    assert_eq!(young.client.dtls.poll_timeout(), due);
    young.run(Duration::from_secs(10));
    assert_eq!(young.sent, [7, 0], "the old connection's time did not leak into the young one");
}
