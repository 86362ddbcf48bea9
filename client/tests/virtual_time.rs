//! The client's core in virtual time: checks, DTLS and SRTP with a server of `dimpl`, without a socket and without a clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::dtls::{Identity, Version};
use client::ice::{Agent, Credentials};
use client::random::Random;
use client::rtp;
use client::sdp::Answer;
use client::srtp::{MasterKeys, OVERHEAD_MAX, Profile, Session};
use client::transport::{Event, Kind, Received, Transport};
use dimpl::{Config, DtlsCertificate, Output, SrtpProfile};
use ring::digest::{SHA256, digest};

/// One way through the network.
const DELAY: Duration = Duration::from_millis(30);

fn certificate() -> DtlsCertificate {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let parameters = rcgen::CertificateParams::new(["server".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap().der().to_vec();
    DtlsCertificate { certificate, private_key: key.serialize_der() }
}

/// A server: an agent that answers checks, and DTLS.
struct Server {
    agent: Agent,
    dtls: dimpl::Dtls,
    session: Option<Session>,
}

impl Server {
    /// Takes a datagram; what it sends back.
    fn handle(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        if Kind::of(datagram) == Kind::Stun {
            return self.agent.handle(now, from, datagram).into_iter().collect();
        }
        self.dtls.handle_timeout(now).unwrap();
        self.dtls.handle_packet(datagram).unwrap();
        let (mut back, mut buffer) = (Vec::new(), [0; 2048]);
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => back.push(datagram.to_vec()),
                Output::KeyingMaterial(material, profile) => {
                    assert_eq!(profile, SrtpProfile::AEAD_AES_256_GCM, "the first of both");
                    let part = |at: usize, len: usize| material[at..at + len].to_vec();
                    let (tx, rx) = ((part(32, 32), part(76, 12)), (part(0, 32), part(64, 12)));
                    self.session = Some(Session::new(Profile::Gcm256, &MasterKeys { tx, rx }));
                }
                Output::Timeout(_) => return back,
                _ => (),
            }
        }
    }
}

/// What was sent when, in both directions, until there are keys, and one packet each way.
fn call(seed: u64, identity: &Identity, certificate: &DtlsCertificate) -> Vec<(Duration, bool, Kind)> {
    let begin = Instant::now();
    let mut now = begin;
    let mut random = Random::from_seed(seed);
    let (local, remote) = (Credentials::generate(&mut random), Credentials::generate(&mut random));
    let (client_at, server_at): (SocketAddr, SocketAddr) =
        ("192.0.2.1:1000".parse().unwrap(), "192.0.2.2:2000".parse().unwrap());
    let mut agent = Agent::new(now, remote.clone(), random.fork());
    agent.set_remote(&local);
    let config = Arc::new(Config::builder().dangerously_set_rng_seed(seed).build().unwrap());
    let mut server = Server { agent, dtls: dimpl::Dtls::new_auto(config, certificate.clone(), now), session: None };

    let mut transport = Transport::new(now, local, identity, random);
    transport.seed_dtls();
    transport.set_answer(&Answer {
        ice: remote,
        fingerprint: digest(&SHA256, &certificate.certificate).as_ref().try_into().unwrap(),
        is_ice_lite: true,
        setup: "passive".to_owned(),
        candidates: vec![server_at],
        tcp_candidates: Vec::new(),
        sections: Vec::new(),
    });
    let mut trace = Vec::new();
    // When it arrives, whether at the client, and what.
    let mut network: Vec<(Instant, bool, Vec<u8>)> = Vec::new();
    loop {
        transport.handle_timeout(now);
        while let Some((to, datagram)) = transport.poll_transmit(now) {
            assert_eq!(to, server_at);
            trace.push((now - begin, false, Kind::of(&datagram)));
            network.push((now + DELAY, false, datagram));
        }
        match transport.poll_event() {
            Some(Event::Connected(version)) => {
                assert_eq!(version, Version::V1_3);
                break;
            }
            Some(other) => panic!("{other:?}"),
            None => (),
        }
        network.sort_by_key(|(at, ..)| *at);
        let due = transport.poll_timeout().into_iter().chain(network.first().map(|(at, ..)| *at)).min();
        now = due.expect("something is always due").max(now);
        while network.first().is_some_and(|(at, ..)| *at <= now) {
            let (_, is_to_client, mut datagram) = network.remove(0);
            if is_to_client {
                assert_eq!(transport.receive(now, server_at, &mut datagram), Received::Consumed);
                continue;
            }
            for back in server.handle(now, client_at, &datagram) {
                trace.push((now - begin, true, Kind::of(&back)));
                network.push((now + DELAY, true, back));
            }
        }
        assert!(now - begin < Duration::from_secs(5), "{trace:?}");
    }

    // The last flight is on its way.
    network.sort_by_key(|(at, ..)| *at);
    for (at, _, datagram) in network.into_iter().filter(|(_, is_to_client, _)| !is_to_client) {
        server.handle(at, client_at, &datagram);
    }
    let theirs = server.session.as_mut().expect("both have keys");
    let mut plain = [0; 200];
    rtp::write(&mut plain, &rtp::Fields { marker: false, pt: 111, seq: 7, timestamp: 8, ssrc: 9 }, &[]);
    let mut packet = [0; 200 + OVERHEAD_MAX];
    packet[..200].copy_from_slice(&plain);
    let len = transport.session().unwrap().protect_rtp(&mut packet, 200);
    assert_eq!(theirs.unprotect_rtp(&mut packet[..len]), Ok(200));
    assert_eq!(packet[..200], plain);
    let len = theirs.protect_rtp(&mut packet, 200);
    assert_eq!(transport.receive(now, server_at, &mut packet[..len]), Received::Rtp(&mut plain));
    trace
}

#[test]
fn a_seed_gives_the_same_call_in_virtual_time() {
    let (identity, certificate) = (Identity::generate().unwrap(), certificate());
    let first = call(1, &identity, &certificate);
    assert_eq!(first, call(1, &identity, &certificate));
    // A check and its answer, then DTLS 1.3 in two round trips.
    let took = first.last().unwrap().0;
    assert!((4 * DELAY..8 * DELAY).contains(&took), "{took:?}: {first:?}");
}
