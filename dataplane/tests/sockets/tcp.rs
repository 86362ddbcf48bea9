//! Peers over TCP (RFC 6544, RFC 4571), and connections of strangers: real sockets, every driver and backend.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown};

use dataplane::Config;
use proto::plane::{Counter, Event, Report};

use crate::rig::tcp::TcpClient;
use crate::rig::{Client, Folder, Ground, Rig, config, on_every_ground, wait_for, write_packet};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// A DTLS record that could be one: a handshake of two bytes.
const DTLS: &[u8] = &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 9, 9];

/// Runs a test with each backend that is on loopback; a cable has no TCP of its own.
fn on_loopback(test: impl Fn(Ground<'_>) + Sync) {
    on_every_ground(|ground| {
        if !ground.are_frames() {
            test(ground);
        }
    });
}

/// The payload of a packet for a peer.
fn open<'a>(client: &Client, slot_ssrc: u32, bytes: &'a mut [u8]) -> &'a [u8] {
    let header = dataplane::rtp::Header::parse(bytes).unwrap();
    let (ssrc, seq, start) = (header.ssrc, u64::from(header.seq), header.header_len);
    assert_eq!(ssrc, slot_ssrc);
    let len = client.receiver().unprotect_rtp(slot_ssrc, seq, start, bytes).expect("it is protected for this peer");
    &bytes[start..len]
}

#[test]
fn packets_go_both_ways_over_tcp() {
    on_loopback(|ground| {
        let mut rig = Rig::start(ground);
        let (mut alice, mut bob) = (rig.connect_tcp(1, V4), rig.connect_tcp(2, V6));
        let (ssrc, slot_ssrc) = rig.carry(&alice.client, &bob.client);
        let sender = alice.client.sender();
        let mut buffer = [0; 2048];
        for seq in 1..=200u16 {
            let payload = vec![seq as u8; 20 + usize::from(seq)];
            let len = write_packet(&mut buffer, &sender, ssrc, seq, &payload);
            alice.send(&buffer[..len]);
            let len = bob.receive_rtp(&mut buffer);
            assert_eq!(open(&bob.client, slot_ssrc, &mut buffer[..len]), payload);
        }
        rig.wait_for_counter(Counter::Forwarded, 200);
        rig.wait_for_counter(Counter::TcpSent, 200);
        rig.check_conservation();
        assert_eq!((rig.counter(Counter::TcpAccepted), rig.counter(Counter::TcpOpen)), (2, 2));
        assert_eq!((rig.counter(Counter::TcpDropped), rig.counter(Counter::SendFailed)), (0, 0));
    });
}

#[test]
fn dtls_goes_up_and_down_over_tcp() {
    on_loopback(|ground| {
        let mut rig = Rig::start(ground);
        let mut client = rig.connect_tcp(1, V4);
        let mut buffer = [0; 2048];
        for round in 0..5u8 {
            client.send(DTLS);
            let header = wait_for("a punt", || {
                rig.link().pop_punt().map(|punt| {
                    let (header, payload) = punt.unwrap();
                    assert_eq!(payload, DTLS);
                    header
                })
            });
            assert_eq!((header.peer, header.remote), (client.client.id, client.stream.local_addr().unwrap()));
            assert!(rig.link().push_inject(&header, &[22 + round; 90]));
            rig.link().notify();
            let len = client.receive(&mut buffer, |bytes| (20..64).contains(&bytes[0]));
            assert_eq!(buffer[..len], [22 + round; 90]);
        }
    });
}

#[test]
fn a_peer_moves_from_tcp_to_udp_when_udp_answers_and_back_by_a_new_connection() {
    let mut rig = Rig::start(Ground::any());
    let (mut alice, mut bob) = (rig.connect(1, V4), rig.connect_tcp(2, V4));
    let (ssrc, slot_ssrc) = rig.carry(&alice, &bob.client);
    let (sender, mut seq, mut buffer) = (alice.sender(), 0u16, [0; 2048]);
    let mut send = |alice: &mut Client| {
        seq += 1;
        let mut buffer = [0; 2048];
        let len = write_packet(&mut buffer, &sender, ssrc, seq, b"to bob");
        alice.socket.send(&buffer[..len]).unwrap();
    };
    send(&mut alice);
    let len = bob.receive_rtp(&mut buffer);
    assert_eq!(open(&bob.client, slot_ssrc, &mut buffer[..len]), b"to bob");

    // A check by UDP that nominates, and the answer to ours: media goes there. TCP that is nominated after it takes nothing away.
    let answered = rig.counter(Counter::ChecksAnswered);
    bob.client.check();
    bob.client.consent();
    rig.wait_for_counter(Counter::ChecksAnswered, answered + 1);
    bob.check();
    send(&mut alice);
    let len = bob.client.receive_rtp(&mut buffer);
    assert_eq!(open(&bob.client, slot_ssrc, &mut buffer[..len]), b"to bob");

    // A connection that was selected ends, and another one is believed by its own answer.
    let mut carol = rig.connect_tcp(3, V4);
    let (ssrc, slot_ssrc) = rig.carry(&bob.client, &carol.client);
    carol.stream.shutdown(Shutdown::Both).unwrap();
    wait_for("the end of the connection", || (rig.counter(Counter::TcpOpen) == 1).then_some(()));
    let TcpClient { client, .. } = carol;
    carol = rig.dial_as(client, V4);
    let path = |report: &Report| matches!(report, Report::Event(Event::PeerPath(path)) if path.peer == carol.client.id);
    rig.reports_until(path);
    let len = write_packet(&mut buffer, &bob.client.sender(), ssrc, 1, b"to carol");
    bob.client.socket.send(&buffer[..len]).unwrap();
    let len = carol.receive_rtp(&mut buffer);
    assert_eq!(open(&carol.client, slot_ssrc, &mut buffer[..len]), b"to carol");
}

/// A hundred peers that read nothing: their connections fill, and what finds no room is dropped and counted. Another peer gets
/// everything.
#[test]
fn peers_that_read_nothing_harm_nobody() {
    const DEAF: u32 = 100;
    const PACKETS: u16 = 1500;
    let mut rig = Rig::start(Ground::any());
    let (alice, bob) = (rig.connect(1, V4), rig.connect(2, V4));
    let (ssrc, slot_ssrc) = rig.carry(&alice, &bob);
    let deaf: Vec<TcpClient> = (0..DEAF)
        .map(|index| {
            let client = rig.connect_tcp(10 + index, V4);
            rig.route(&alice, &client.client);
            client
        })
        .collect();
    let (sender, mut buffer) = (alice.sender(), [0; 2048]);
    for seq in 1..=PACKETS {
        let len = write_packet(&mut buffer, &sender, ssrc, seq, &[seq as u8; 1000]);
        alice.socket.send(&buffer[..len]).unwrap();
        let len = bob.receive_rtp(&mut buffer);
        assert_eq!(open(&bob, slot_ssrc, &mut buffer[..len]), [seq as u8; 1000], "in order, and none is missing");
    }
    let copies = u64::from(DEAF) * u64::from(PACKETS);
    wait_for("all copies to be sent or dropped", || {
        (rig.counter(Counter::TcpSent) + rig.counter(Counter::TcpDropped) >= copies).then_some(())
    });
    assert!(rig.counter(Counter::TcpDropped) > copies / 10, "{}", rig.counter(Counter::TcpDropped));
    assert_eq!(rig.counter(Counter::TcpOpen), u64::from(DEAF), "they are slow, and no more than that");
    rig.check_conservation();
    // One of them reads after all: what it gets are whole packets.
    let mut client = deaf.into_iter().next().unwrap();
    for _ in 0..50 {
        let len = client.receive_rtp(&mut buffer);
        open(&client.client, 0x2000 + client.client.id.index, &mut buffer[..len]);
    }
}

#[test]
fn what_is_no_frame_ends_the_connection_and_nothing_else() {
    on_loopback(|ground| {
        let mut rig = Rig::start(ground);
        let mut client = rig.connect_tcp(1, V4);
        for (junk, counter) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Counter::TcpMalformed),
            (&[0, 1, 9][..], Counter::TcpMalformed),
            (&[0xff; 40][..], Counter::TcpMalformed),
        ] {
            let before = rig.counter(counter);
            let mut stranger = rig.dial(V4);
            stranger.write_all(junk).unwrap();
            let ended = stranger.read(&mut [0; 9]);
            assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
            rig.wait_for_counter(counter, before + 1);
            client.check();
        }
        // A packet of nobody has a fate like any other, and the connection goes on.
        let mut stranger = rig.dial(V6);
        stranger.write_all(&[&[0, 0, 0, 15][..], DTLS, &[0, 20], &[0; 20]].concat()).unwrap();
        rig.wait_for_counter(Counter::DroppedUnknownAddress, 1);
        rig.wait_for_counter(Counter::DroppedStunMalformed, 1);
        rig.check_conservation();
        drop(stranger);
        wait_for("its end", || (rig.counter(Counter::TcpOpen) == 1).then_some(()));
    });
}

#[test]
fn a_peer_that_leaves_leaves_no_connection() {
    let mut rig = Rig::start(Ground::any());
    let mut client = rig.connect_tcp(1, V4);
    rig.commit(&[proto::plane::PeerClose { peer: client.client.id }.into()]);
    client.stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    client.stream.read_to_end(&mut Vec::new()).expect("the worker closes it");
    rig.wait_for_counter(Counter::TcpUnowned, 1);
}

#[test]
fn tcp_is_served_at_the_port_of_udp_or_at_another_one() {
    let rigs = (0..20).map(|_| Rig::start(Ground::any()));
    let rig = rigs.into_iter().find(|rig| rig.addresses() == rig.tcp_addresses()).expect("twenty tries");
    assert_eq!(rig.attached.workers[0].1.tcp_addresses, rig.tcp_addresses(), "the controlplane is told");
    let folder = Folder::new();
    let without =
        dataplane::Dataplane::start(&Config { ice_tcp: false, ..config(&folder, Default::default()) }).unwrap();
    assert_eq!(without.tcp_addresses(), [[]; 1]);
    assert!(std::net::TcpStream::connect(without.addresses()[0][0]).is_err());
    // A port that somebody else has is no reason not to start.
    let holder = std::net::TcpListener::bind((V4, 0)).unwrap();
    let port = holder.local_addr().unwrap().port();
    let folder = Folder::new();
    let config = Config { media_port: port, media_ips: vec![V4], ..config(&folder, Default::default()) };
    let Ok(moved) = dataplane::Dataplane::start(&config) else { return };
    assert_eq!(moved.addresses()[0][0].port(), port);
    assert_ne!(moved.tcp_addresses()[0][0].port(), port);
}
