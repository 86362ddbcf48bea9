//! The engine from outside, in virtual time: joining, slots, leaving, resuming, limits, and clients that misbehave.
//! Offers are Chromium's, DTLS is real, the worker is the strict model of `world`.

use std::time::Duration;

use controlplane::engine::{Grant, Input, Settings};
use proptest::prelude::*;
use proto::plane::{Direction, PeerResumed, Report};
use proto::signal::{ClientSignal, ErrorCode, Kind, LeaveReason, PeerState, ServerSignal, Source, TrackDescription};

use crate::world::{self, PAGE, World, candidate, carried, error_of, grant, is_bye, is_state, names, page_tracks};

#[test]
fn three_join_with_one_offer_each_and_everybody_is_carried_to_everybody() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let told: Vec<ServerSignal> = world.drain(ada.socket);
    assert!(matches!(&told[0], ServerSignal::Candidate(c) if c.candidate.contains("127.0.0.1 40000 typ host")));
    assert!(matches!(&told[1], ServerSignal::Candidate(c) if c.candidate.is_empty()));
    assert!(matches!(&told[2], ServerSignal::Peers { peers } if peers.is_empty()));
    assert!(matches!(&told[3], ServerSignal::Slots { slots } if slots.len() == 15 && carried(slots).is_empty()));
    assert!(matches!(told[4], ServerSignal::Limits { send_bps_max: 2_000_000, .. }));
    assert!(is_state(&told[5], PeerState::Connecting) && is_state(&told[6], PeerState::Connected));
    assert_eq!(told.len(), 7);

    let bob = world.join("blue", "Bob");
    let told = world.drain(ada.socket);
    assert!(matches!(&told[0], ServerSignal::PeerJoined { peer } if peer.name == "Bob" && peer.tracks.len() == 3));
    let ServerSignal::Slots { slots } = &told[1] else { panic!("{told:?}") };
    assert_eq!(
        carried(slots),
        [("3".into(), bob.id.clone(), Source::Microphone), ("10".into(), bob.id.clone(), Source::Camera)]
    );
    assert!(matches!(told[2], ServerSignal::Limits { send_bps_max: 1_000_000, audio_bps_max: 32_000, .. }));
    assert_eq!(told.len(), 3, "no second answer, nothing else: {told:?}");

    let cyd = world.join("blue", "Cyd");
    let told = world.drain(cyd.socket);
    let ServerSignal::Peers { peers } = &told[2] else { panic!("{told:?}") };
    assert_eq!(names(peers), ["Ada", "Bob"]);
    let ServerSignal::Slots { slots } = &told[3] else { panic!("{told:?}") };
    assert_eq!(
        carried(slots),
        [
            ("3".into(), ada.id.clone(), Source::Microphone),
            ("4".into(), bob.id.clone(), Source::Microphone),
            ("10".into(), ada.id.clone(), Source::Camera),
            ("11".into(), bob.id.clone(), Source::Camera),
        ]
    );
    let worker = world.worker();
    assert_eq!((worker.peers.len(), worker.streams.len(), worker.slots.len()), (3, 9, 45));
    assert_eq!(worker.routes.len(), 12, "a microphone and a camera of two others for each of three");
    assert!(worker.refused.is_empty());
    let snapshot = world.engine.snapshot();
    assert_eq!((snapshot.rooms.len(), snapshot.rooms[0].peers.len(), snapshot.half_open), (1, 3, 0));
    assert_eq!(snapshot.rooms[0].peers[2].slots_used, 4);
    assert_eq!(snapshot.workers[0].pending, 0);
}

#[test]
fn the_worker_gets_the_keys_that_the_client_has() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let keys = ada.connected.as_ref().unwrap();
    let peer = &world.worker().peers[&ada.peer.unwrap().index];
    let (rx, tx) = (peer.rx.unwrap(), peer.tx.unwrap());
    assert_eq!((rx.direction, tx.direction), (Direction::Rx, Direction::Tx));
    assert_eq!((rx.profile, tx.profile), (keys.profile, keys.profile));
    assert_eq!((rx.key, rx.salt), (keys.tx.key, keys.tx.salt));
    assert_eq!((tx.key, tx.salt), (keys.rx.key, keys.rx.salt));
}

#[test]
fn the_answer_says_what_is_installed() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let peer = ada.peer.unwrap();
    assert_eq!(ada.answer.matches("\r\nm=").count(), 18);
    assert!(ada.answer.contains("a=ice-lite\r\n") && ada.answer.contains("a=setup:passive\r\n"));
    for slot in world.worker().slots.values().filter(|slot| slot.peer == peer) {
        assert!(ada.answer.contains(&format!("a=ssrc:{} cname:", slot.ssrc)), "{slot:?}");
        assert!(slot.seq_first < 0x8000 && slot.rtx_seq_first < 0x8000);
    }
    // Audio slot k and camera slot k are one MediaStream, so that they are played in lip sync.
    for k in 0..7 {
        assert!(ada.answer.matches(&format!("a=msid:uprtc-{k} ")).count() == 2, "lane {k}");
    }
    for stream in world.worker().streams.values() {
        let mid = stream.mid.as_str();
        assert!(ada.answer.contains(&format!("a=mid:{mid}\r\n")));
        assert!(stream.pt != 0 && (stream.rtx_pt != 0) == stream.codec.is_video());
    }
}

#[test]
fn routes_wait_for_keys() {
    let mut world = World::new();
    let _ada = world.join("blue", "Ada");
    let mut bob = world.guest("blue", grant("Bob"));
    world.offer(&mut bob, PAGE, page_tracks()).unwrap();
    // The model worker refuses to route to somebody without keys; Ada hears Bob's silence already.
    assert_eq!(world.worker().routes.len(), 2);
    world.connect(&mut bob);
    assert_eq!(world.worker().routes.len(), 4);
}

#[test]
fn who_leaves_frees_everything_and_the_others_see_it() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let before = world.worker().dump();
    let bob = world.join("blue", "Bob");
    world.drain(ada.socket);
    world.drain(bob.socket);
    world.say(bob.socket, ClientSignal::Leave {});
    assert!(is_bye(&world.next(bob.socket), LeaveReason::Left, false));
    assert!(world.closed.contains(&bob.socket));
    let told = world.drain(ada.socket);
    assert!(matches!(&told[0], ServerSignal::PeerLeft { peer, reason: LeaveReason::Left } if *peer == bob.id));
    assert!(matches!(&told[1], ServerSignal::Slots { slots } if carried(slots).is_empty()));
    assert!(matches!(told[2], ServerSignal::Limits { send_bps_max: 2_000_000, .. }));
    assert_eq!(world.worker().dump(), before);
    world.say(ada.socket, ClientSignal::Leave {});
    assert_eq!(world.worker().dump(), Default::default());
    assert!(world.journal.is_empty() && world.engine.snapshot().rooms.is_empty());
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_newcomer_takes_the_place_of_who_left_under_another_generation() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.say(bob.socket, ClientSignal::Leave {});
    let cyd = world.join("blue", "Cyd");
    let (was, is) = (bob.peer.unwrap(), cyd.peer.unwrap());
    assert_eq!(was.index, is.index);
    assert_ne!(was.generation, is.generation);
    let slots = world.slots(ada.socket).unwrap();
    assert_eq!(carried(&slots).iter().map(|(mid, _, _)| mid.as_str()).collect::<Vec<_>>(), ["3", "10"]);
    // What is late for Bob does not reach Cyd.
    world.expire(&bob);
    assert_eq!(world.engine.snapshot().rooms[0].peers.len(), 2);
}

#[test]
fn a_screen_takes_a_further_slot_and_gives_it_back() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.drain(ada.socket);
    world.drain(bob.socket);
    world.say(bob.socket, ClientSignal::Track { mid: "2".into(), active: true });
    let told = world.drain(ada.socket);
    let ServerSignal::TrackChanged { peer, track } = &told[0] else { panic!("{told:?}") };
    assert_eq!((peer, track.source, track.active), (&bob.id, Source::Screen, true));
    let ServerSignal::Slots { slots } = &told[1] else { panic!("{told:?}") };
    assert_eq!(carried(slots).last(), Some(&("17".into(), bob.id.clone(), Source::Screen)));
    // Two videos share Bob's bandwidth now, and nobody else's changes.
    let ServerSignal::Limits { video_bps_max, .. } = world.next(bob.socket) else { panic!() };
    assert_eq!((video_bps_max, told.len()), (406_871, 2));
    world.say(bob.socket, ClientSignal::Track { mid: "2".into(), active: false });
    assert_eq!(carried(&world.slots(ada.socket).unwrap()).len(), 2);
    assert_eq!(world.worker().routes.len(), 4);
}

#[test]
fn a_muted_microphone_keeps_its_slot() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.drain(ada.socket);
    world.say(bob.socket, ClientSignal::Track { mid: "0".into(), active: false });
    let told = world.drain(ada.socket);
    assert!(matches!(&told[..], [ServerSignal::TrackChanged { track, .. }] if !track.active), "{told:?}");
    world.say(bob.socket, ClientSignal::Track { mid: "0".into(), active: false });
    assert!(world.drain(ada.socket).is_empty(), "nothing changed, nothing is said");
}

#[test]
fn the_ninth_finds_the_room_full() {
    let mut world = World::new();
    let eight: Vec<_> = (0..8).map(|n| world.join("blue", &format!("P{n}"))).collect();
    assert_eq!(world.worker().routes.len(), 8 * 7 * 2);
    let mut ninth = world.guest("blue", grant("Ninth"));
    assert_eq!(world.offer(&mut ninth, PAGE, page_tracks()), Err(ErrorCode::RoomFull));
    assert!(world.closed.contains(&ninth.socket));
    world.say(eight[3].socket, ClientSignal::Leave {});
    world.join("blue", "Tenth");
    assert_eq!(world.worker().routes.len(), 8 * 7 * 2);
    for client in eight.iter().filter(|client| client.id != eight[3].id) {
        let slots = world.slots(client.socket).unwrap();
        assert_eq!(carried(&slots).len(), 14, "everybody else, heard and seen");
    }
}

#[test]
fn rooms_do_not_see_each_other() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let bob = world.join("red", "Bob");
    assert!(carried(&world.slots(ada.socket).unwrap()).is_empty());
    assert!(carried(&world.slots(bob.socket).unwrap()).is_empty());
    assert_eq!(world.worker().routes.len(), 0);
}

#[test]
fn a_new_room_goes_to_the_worker_with_the_fewest_peers() {
    let mut world = World::with(Settings::default(), 2);
    let workers: Vec<usize> =
        [("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")].map(|(room, name)| world.join(room, name).worker).into();
    assert_eq!(workers, [0, 0, 1, 1]);
    let fifth = world.join("d", "5");
    assert!(fifth.answer.contains(&format!(" {} typ host", 40_000 + fifth.worker)));
}

#[test]
fn the_servers_limits_are_kept() {
    let mut world =
        World::with(Settings { rooms_max: 1, peers_per_worker_max: 2, sockets_max: 4, ..Settings::default() }, 1);
    world.join("blue", "Ada");
    let mut red = world.guest("red", grant("Red"));
    assert_eq!(world.offer(&mut red, PAGE, page_tracks()), Err(ErrorCode::ServerFull));
    world.join("blue", "Bob");
    let mut cyd = world.guest("blue", grant("Cyd"));
    assert_eq!(world.offer(&mut cyd, PAGE, page_tracks()), Err(ErrorCode::ServerFull));
    world.guest("blue", grant("a"));
    world.guest("blue", grant("b"));
    let fifth = world.open("blue", grant("c"));
    assert_eq!(error_of(world.next(fifth)), (ErrorCode::ServerFull, true));
}

#[test]
fn without_a_dataplane_nobody_joins() {
    let mut world = World::unlinked(Settings::default());
    assert!(!world.engine.is_ready());
    let mut ada = world.guest("blue", grant("Ada"));
    assert_eq!(world.offer(&mut ada, PAGE, page_tracks()), Err(ErrorCode::NoDataplane));
    world.link(0);
    assert!(world.engine.is_ready());
    world.join("blue", "Ada");
}

#[test]
fn a_lost_socket_is_resumed_and_nobody_notices() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.drain(ada.socket);
    world.drain(bob.socket);
    let before = world.worker().dump();
    world.close(ada.socket);
    world.pass(Duration::from_secs(3600));
    assert!(world.drain(bob.socket).is_empty(), "media lives, so the peer stays");
    ada.socket = world.open("blue", grant("Ada"));
    world.drain(ada.socket);
    world.say(ada.socket, ClientSignal::Resume { session: ada.session.clone() });
    let told = world.drain(ada.socket);
    let ServerSignal::Welcome { session, peer, resumed: true, .. } = &told[0] else { panic!("{told:?}") };
    assert_eq!((session, peer), (&ada.session, &ada.id));
    assert!(is_state(&told[1], PeerState::Connected));
    assert!(matches!(&told[2], ServerSignal::Peers { peers } if names(peers) == ["Bob"]));
    assert!(matches!(&told[3], ServerSignal::Slots { slots } if carried(slots).len() == 2));
    assert!(matches!(told[4], ServerSignal::Limits { send_bps_max: 1_000_000, .. }));
    assert!(world.drain(bob.socket).is_empty());
    assert_eq!(world.worker().dump(), before);
    // A second socket of the same session replaces the first.
    let second = world.open("blue", grant("Ada"));
    world.say(second, ClientSignal::Resume { session: ada.session.clone() });
    assert!(is_bye(&world.drain(ada.socket)[0], LeaveReason::Replaced, false));
    assert!(world.closed.contains(&ada.socket));
    world.close(ada.socket);
    world.say(second, ClientSignal::Ping {});
    assert_eq!(world.drain(second).last(), Some(&ServerSignal::Pong {}));
}

#[test]
fn an_unknown_session_may_offer_anew() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    for (room, session) in [("blue", "0".repeat(64)), ("red", ada.session.clone())] {
        let mut client = world.guest(room, grant("Eve"));
        world.say(client.socket, ClientSignal::Resume { session });
        assert_eq!(error_of(world.next(client.socket)), (ErrorCode::UnknownSession, false));
        world.offer(&mut client, PAGE, page_tracks()).unwrap();
    }
}

#[test]
fn consent_that_expires_ends_the_peer() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.drain(ada.socket);
    world.close(bob.socket);
    world.expire(&bob);
    let left = world.drain(ada.socket);
    assert!(matches!(&left[0], ServerSignal::PeerLeft { reason: LeaveReason::TimedOut, .. }));
    world.expire(&ada);
    assert!(is_bye(&world.next(ada.socket), LeaveReason::TimedOut, true));
    assert_eq!(world.worker().dump(), Default::default());
}

#[test]
fn a_handshake_that_does_not_complete_ends_the_peer() {
    let mut world = World::new();
    let mut ada = world.guest("blue", grant("Ada"));
    world.offer(&mut ada, PAGE, page_tracks()).unwrap();
    world.pass(Duration::from_secs(9));
    assert_eq!(world.engine.snapshot().rooms.len(), 1);
    world.pass(Duration::from_secs(2));
    assert!(is_bye(world.drain(ada.socket).last().unwrap(), LeaveReason::TransportFailed, true));
    assert_eq!(world.worker().dump(), Default::default());
    assert_eq!(world.engine.poll_timeout(), None);
}

#[test]
fn a_guest_who_says_nothing_is_shown_out() {
    let mut world = World::new();
    let guest = world.guest("blue", grant("Ada"));
    world.pass(Duration::from_secs(21));
    assert!(is_bye(&world.next(guest.socket), LeaveReason::TimedOut, true));
    assert!(world.closed.contains(&guest.socket));
}

#[test]
fn a_strange_certificate_gets_no_keys() {
    let mut world = World::new();
    let mut eve = world.guest("blue", grant("Eve"));
    world.offer(&mut eve, PAGE, page_tracks()).unwrap();
    eve.identity = controlplane::dtls::Identity::generate().unwrap();
    world.check(&eve);
    eve.dtls = Some(controlplane::dtls::Dtls::connect(&eve.identity, world.now).unwrap());
    world.exchange(&mut eve);
    assert!(is_bye(world.drain(eve.socket).last().unwrap(), LeaveReason::TransportFailed, true));
    assert_eq!(world.worker().dump(), Default::default());
    assert_eq!(world.engine.snapshot().totals.handshakes_failed, 1);
}

#[test]
fn lost_flights_are_sent_again() {
    let mut world = World::new();
    let mut ada = world.guest("blue", grant("Ada"));
    world.offer(&mut ada, PAGE, page_tracks()).unwrap();
    world.check(&ada);
    let mut dtls = controlplane::dtls::Dtls::connect(&ada.identity, world.now).unwrap();
    while let Some(hello) = dtls.poll_transmit() {
        world.punt(&ada, hello);
    }
    // The first answer of the server is lost: its client has nobody to give it to.
    world.exchange(&mut ada);
    ada.dtls = Some(dtls);
    for _ in 0..20 {
        world.pass(Duration::from_millis(200));
        ada.dtls.as_mut().unwrap().handle_timeout(world.now);
        world.exchange(&mut ada);
    }
    assert!(ada.connected.is_some());
    assert_eq!(world.engine.snapshot().totals.handshakes_completed, 1);
}

#[test]
fn handshakes_are_bounded() {
    let mut world = World::with(Settings { half_open_max: 1, ..Settings::default() }, 1);
    let mut clients = [world.guest("blue", grant("a")), world.guest("blue", grant("b"))];
    for client in &mut clients {
        world.offer(client, PAGE, page_tracks()).unwrap();
        world.check(client);
        client.dtls = Some(controlplane::dtls::Dtls::connect(&client.identity, world.now).unwrap());
    }
    let [a, b] = &mut clients;
    let hello = a.dtls.as_mut().unwrap().poll_transmit().unwrap();
    world.punt(a, hello);
    world.exchange(b);
    let snapshot = world.engine.snapshot();
    assert_eq!((snapshot.half_open, snapshot.totals.handshakes_begun), (1, 1));
    assert!(b.connected.is_none() && snapshot.totals.handshakes_passed_over > 0);
    world.exchange(a);
    assert!(a.connected.is_some());
    // The hello that was passed over is sent again, as clients do.
    world.pass(Duration::from_secs(2));
    b.dtls.as_mut().unwrap().handle_timeout(world.now);
    world.exchange(b);
    assert!(b.connected.is_some());
}

#[test]
fn a_client_that_insists_on_being_the_server_is_called() {
    let mut world = World::new();
    let mut ada = world.guest("blue", grant("ffmpeg"));
    world.offer(&mut ada, &PAGE.replace("a=setup:actpass", "a=setup:passive"), page_tracks()).unwrap();
    assert!(ada.answer.contains("a=setup:active\r\n"));
    ada.dtls = Some(controlplane::dtls::Dtls::accept(&ada.identity, world.now).unwrap());
    world.check(&ada);
    world.exchange(&mut ada);
    assert!(ada.connected.is_some());
    assert!(world.worker().peers.values().all(|peer| peer.rx.is_some() && peer.tx.is_some()));
}

#[test]
fn closing_dtls_is_leaving() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    let bob = world.join("blue", "Bob");
    world.drain(bob.socket);
    world.close(ada.socket);
    ada.dtls.as_mut().unwrap().close();
    world.exchange(&mut ada);
    let told = world.drain(bob.socket);
    assert!(matches!(&told[0], ServerSignal::PeerLeft { reason: LeaveReason::Left, .. }), "{told:?}");
}

#[test]
fn tokens_decide_who_sends_and_who_receives() {
    let mut world = World::new();
    let speaker = Grant { subscribe: false, ..grant("Speaker") };
    let listener = Grant { publish: false, ..grant("Listener") };
    let mut speaker = world.guest("blue", speaker);
    world.offer(&mut speaker, PAGE, page_tracks()).unwrap();
    world.connect(&mut speaker);
    let mut listener = world.guest("blue", listener);
    world.offer(&mut listener, PAGE, page_tracks()).unwrap();
    world.connect(&mut listener);
    let worker = world.worker();
    assert_eq!((worker.streams.len(), worker.slots.len(), worker.routes.len()), (3, 15, 2));
    assert!(speaker.answer.matches("a=inactive\r\n").count() == 15 && !speaker.answer.contains("a=sendonly"));
    assert!(listener.answer.matches("a=inactive\r\n").count() == 3 && !listener.answer.contains("a=recvonly"));
    world.drain(listener.socket);
    world.say(listener.socket, ClientSignal::Track { mid: "0".into(), active: true });
    assert_eq!(error_of(world.next(listener.socket)), (ErrorCode::Forbidden, false));
    let mut nobody = world.guest("blue", Grant { publish: false, subscribe: false, ..grant("Nobody") });
    assert_eq!(world.offer(&mut nobody, PAGE, page_tracks()), Err(ErrorCode::Forbidden));
    let elsewhere = world.open("blue", Grant { room: "red".into(), ..grant("Red") });
    assert_eq!(error_of(world.next(elsewhere)), (ErrorCode::Forbidden, true));
}

#[test]
fn offers_that_cannot_be_served_are_named() {
    let mut world = World::new();
    let tracks = |mid: &str, source| vec![TrackDescription { mid: mid.into(), source, active: true }];
    let no_codecs = PAGE.replace("opus/48000", "speex/16000").replace(" H264/90000", " H263/90000");
    let no_codecs = no_codecs.replace(" VP8/90000", " VP7/90000");
    let cases: [(&str, Vec<TrackDescription>, ErrorCode); 7] = [
        ("", vec![], ErrorCode::BadSdp),
        ("v=0\r\n", vec![], ErrorCode::BadSdp),
        (&no_codecs, vec![], ErrorCode::UnsupportedOffer),
        (PAGE, tracks("99", Source::Camera), ErrorCode::UnsupportedOffer),
        (PAGE, tracks("3", Source::Microphone), ErrorCode::UnsupportedOffer),
        (PAGE, tracks("0", Source::Screen), ErrorCode::UnsupportedOffer),
        (PAGE, [page_tracks(), page_tracks()].concat(), ErrorCode::UnsupportedOffer),
    ];
    for (sdp, tracks, code) in cases {
        let mut client = world.guest("blue", grant("Ada"));
        assert_eq!(world.offer(&mut client, sdp, tracks), Err(code));
        assert!(world.closed.contains(&client.socket));
    }
    assert_eq!(world.worker().dump(), Default::default());
    assert_eq!(world.engine.snapshot().totals.offers_refused, 7);
}

#[test]
fn signals_out_of_place_are_named_and_change_nothing() {
    let mut world = World::new();
    let guest = world.guest("blue", grant("Ada"));
    world.say(guest.socket, ClientSignal::Track { mid: "0".into(), active: true });
    assert_eq!(error_of(world.next(guest.socket)), (ErrorCode::NotJoined, false));
    let ada = world.join("blue", "Ada");
    world.drain(ada.socket);
    let before = world.worker().dump();
    for (signal, code) in [
        (ClientSignal::Offer { sdp: PAGE.into(), tracks: vec![] }, ErrorCode::UnsupportedOffer),
        (ClientSignal::Resume { session: ada.session.clone() }, ErrorCode::AlreadyJoined),
        (ClientSignal::Track { mid: "3".into(), active: true }, ErrorCode::UnknownTrack),
    ] {
        world.say(ada.socket, signal);
        assert_eq!(error_of(world.next(ada.socket)), (code, false));
    }
    for _ in 0..1000 {
        world.say(ada.socket, candidate("candidate:1 1 udp 2122260223 192.0.2.1 50000 typ host", "99"));
    }
    assert!(world.drain(ada.socket).is_empty());
    assert_eq!(world.worker().dump(), before);
}

#[test]
fn names_are_cut_to_what_people_can_read() {
    let mut world = World::new();
    let long = format!("a\u{7}\n{}", "b".repeat(500));
    let client = world.join("blue", &long);
    let name = world.engine.snapshot().rooms[0].peers[0].info.name.clone();
    assert_eq!((name.chars().count(), name.contains('\n')), (64, false));
    assert!(!world.closed.contains(&client.socket));
}

#[test]
fn stopping_says_goodbye_and_lets_media_stand() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let guest = world.guest("blue", grant("Guest"));
    world.drain(ada.socket);
    let before = world.worker().dump();
    world.input(Input::Stop);
    assert!(is_bye(&world.next(ada.socket), LeaveReason::ServerStopping, true));
    assert!(is_bye(&world.next(guest.socket), LeaveReason::ServerStopping, true));
    assert_eq!(world.worker().dump(), before);
    assert_eq!(world.journal.len(), 1);
    let late = world.open("blue", grant("Late"));
    assert!(is_bye(&world.next(late), LeaveReason::ServerStopping, true));
}

/// One step of a client that has read half of the documentation.
#[derive(Clone, Debug)]
enum Step {
    Open {
        room: u8,
        publish: bool,
        subscribe: bool,
    },
    Offer {
        client: u8,
        page: bool,
    },
    Connect {
        client: u8,
    },
    Say {
        client: u8,
        signal: u8,
        mid: u8,
        flag: bool,
    },
    Close {
        client: u8,
    },
    Expire {
        client: u8,
    },
    Pass {
        ms: u16,
    },
    Junk {
        client: u8,
        bytes: Vec<u8>,
    },
    Resync,
    Space {
        space: u8,
    },
    Silence {
        client: u8,
        is_all: bool,
    },
    Resume {
        client: u8,
    },
    /// What follows from the next inputs is carried together.
    Hold {
        count: u8,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..2, any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(room, publish, subscribe)| Step::Open { room, publish, subscribe }),
        4 => (any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(client, page)| Step::Offer { client, page }),
        4 => any::<u8>().prop_map(|client| Step::Connect { client }),
        4 => (any::<u8>(), 0u8..6, 0u8..4, any::<bool>())
            .prop_map(|(client, signal, mid, flag)| Step::Say { client, signal, mid, flag }),
        1 => any::<u8>().prop_map(|client| Step::Close { client }),
        1 => any::<u8>().prop_map(|client| Step::Expire { client }),
        1 => (0u16..15_000).prop_map(|ms| Step::Pass { ms }),
        1 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(client, bytes)| Step::Junk { client, bytes }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(client, is_all)| Step::Silence { client, is_all }),
        1 => any::<u8>().prop_map(|client| Step::Resume { client }),
        2 => (1u8..6).prop_map(|count| Step::Hold { count }),
        1 => Just(Step::Resync),
        1 => (2u8..40).prop_map(|space| Step::Space { space }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever clients do and in whatever order: the worker refuses nothing, a key is never installed twice, a room
    /// never holds more than it admits, what is installed is what the rooms say, and when all have left, nothing is.
    #[test]
    fn no_order_of_events_confuses_the_engine(steps in prop::collection::vec(any_step(), 1..60)) {
        let mut world = World::with(Settings { peers_max: 4, ..Settings::default() }, 1);
        let mut clients: Vec<world::Client> = Vec::new();
        for step in steps {
            let at = |client: u8| (!clients.is_empty()).then(|| usize::from(client) % clients.len().max(1));
            match step {
                Step::Hold { count } => world.held = count.into(),
                Step::Open { room, publish, subscribe } => {
                    let grant = Grant { publish, subscribe, ..grant("x") };
                    clients.push(world.guest(if room == 0 { "blue" } else { "red" }, grant));
                }
                Step::Offer { client, page } => if let Some(k) = at(client) {
                    let sdp = world::with_fingerprint(if page { PAGE } else { "v=0" }, &clients[k].identity);
                    world.say(clients[k].socket, ClientSignal::Offer { sdp, tracks: page_tracks() });
                    for signal in world.drain(clients[k].socket) {
                        if let ServerSignal::Answer { sdp } = signal {
                            let ufrag = sdp.lines().find_map(|l| l.strip_prefix("a=ice-ufrag:")).unwrap().as_bytes();
                            let peer = world.worker().peers.values().find(|p| p.open.ufrag == ufrag);
                            clients[k].peer = peer.map(|p| p.open.peer);
                            clients[k].answer = sdp;
                        }
                    }
                },
                Step::Connect { client } => if let Some(k) = at(client).filter(|&k| clients[k].peer.is_some()) {
                    world.check(&clients[k]);
                    if clients[k].dtls.is_none() {
                        let dtls = controlplane::dtls::Dtls::connect(&clients[k].identity, world.now).unwrap();
                        clients[k].dtls = Some(dtls);
                    }
                    world.exchange(&mut clients[k]);
                },
                Step::Say { client, signal, mid, flag } => if let Some(k) = at(client) {
                    let signal = match signal {
                        0 => ClientSignal::Ping {},
                        1 => ClientSignal::Leave {},
                        2 => ClientSignal::Resume { session: clients[usize::from(mid) % clients.len()].session.clone() },
                        3 => candidate("candidate:1 1 udp 1 192.0.2.1 5 typ host", &mid.to_string()),
                        _ => ClientSignal::Track { mid: mid.to_string(), active: flag },
                    };
                    world.say(clients[k].socket, signal);
                },
                Step::Close { client } => if let Some(k) = at(client) { world.close(clients[k].socket) },
                Step::Expire { client } => if let Some(k) = at(client).filter(|&k| clients[k].peer.is_some()) {
                    world.expire(&clients[k]);
                },
                Step::Pass { ms } => world.pass(Duration::from_millis(ms.into())),
                Step::Junk { client, bytes } => if let Some(k) = at(client).filter(|&k| clients[k].peer.is_some()) {
                    world.punt(&clients[k], bytes);
                },
                Step::Silence { client, is_all } => if let Some(k) = at(client).filter(|&k| clients[k].peer.is_some()) {
                    if is_all { world.fall_silent(&clients[k]) } else { world.streams_silent(&clients[k]) }
                },
                Step::Resume { client } => if let Some(k) = at(client).filter(|&k| clients[k].peer.is_some()) {
                    world.streams_resume(&clients[k]);
                    world.silence(0, PeerResumed { peer: clients[k].peer.unwrap() }.into());
                },
                Step::Resync => world.input(Input::Resync { worker: 0 }),
                Step::Space { space } => world.space = space.into(),
            }
            if world.held > 0 {
                continue;
            }
            world.carry();
            let snapshot = world.engine.snapshot();
            let peers: usize = snapshot.rooms.iter().map(|room| room.peers.len()).sum();
            prop_assert!(snapshot.rooms.iter().all(|room| (1..=4).contains(&room.peers.len())));
            prop_assert_eq!(world.worker().peers.len(), peers);
            prop_assert_eq!(snapshot.workers[0].pending, 0);
            let connected: Vec<_> = snapshot.rooms.iter().flat_map(|room| &room.peers)
                .filter(|peer| matches!(peer.state, PeerState::Connected | PeerState::Interrupted)).collect();
            prop_assert_eq!(world.worker().routes.len(), connected.iter().map(|peer| peer.slots_used).sum::<usize>());
            prop_assert_eq!(world.journal.len(), connected.len());
            prop_assert!(world.worker().refused.is_empty());
        }
        world.held = 0;
        world.carry();
        for client in clients.iter().filter(|client| client.peer.is_some()) {
            world.expire(client);
        }
        world.pass(Duration::from_secs(60));
        prop_assert_eq!(world.worker().dump(), Default::default());
        prop_assert_eq!(world.engine.snapshot().half_open, 0);
        prop_assert_eq!(world.engine.poll_timeout(), None);
    }

    /// A worker may say anything, too.
    #[test]
    fn no_report_confuses_the_engine(records in prop::collection::vec((0u16..16, any::<bool>(), any::<[u8; 8]>(), any::<[u8; 32]>()), 1..100)) {
        let mut world = World::new();
        world.join("blue", "Ada");
        for (tag, echo, id, rest) in records {
            let mut record = [0u8; 64];
            record[..2].copy_from_slice(&(tag | u16::from(echo) << 15).to_le_bytes());
            record[2..10].copy_from_slice(&id.map(|b| b & 1));
            record[10..42].copy_from_slice(&rest);
            if let Some(report) = Report::read(&record) {
                world.engine.handle(world.now, Input::Report { worker: 0, report });
                while world.engine.poll_output().is_some() {}
            }
        }
        let _ = world.engine.snapshot();
    }
}

#[test]
fn slots_are_told_by_kind_and_in_the_order_of_the_offer() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let slots = world.slots(ada.socket).unwrap();
    let mids: Vec<String> = (3..18).map(|mid| mid.to_string()).collect();
    assert_eq!(slots.iter().map(|slot| slot.mid.clone()).collect::<Vec<_>>(), mids);
    assert_eq!(slots.iter().filter(|slot| slot.kind == Kind::Audio).count(), 7);
}

/// Two people whose names look the same are both marked for everybody, one person in two windows is not.
#[test]
fn names_that_look_alike_are_marked_while_both_are_there() {
    let mut world = World::new();
    let by = |token: &str, name: &str| Grant { token: Some(token.into()), ..grant(name) };
    let enter = |world: &mut World, grant: Grant| {
        let mut client = world.guest("blue", grant);
        world.offer(&mut client, PAGE, page_tracks()).unwrap();
        world.connect(&mut client);
        client
    };
    let marked = |world: &World| -> Vec<String> {
        let peers = world.engine.snapshot().rooms[0].peers.iter().map(|peer| peer.info.clone()).collect::<Vec<_>>();
        peers.into_iter().filter(|info| info.lookalike).map(|info| info.name).collect()
    };
    let ada = enter(&mut world, by("1", "Ada"));
    let window = enter(&mut world, by("1", "Ada"));
    let bob = enter(&mut world, by("2", "Bob"));
    assert_eq!(marked(&world), [""; 0], "one token is one person");
    world.drain(bob.socket);
    let fake = enter(&mut world, by("3", "\u{410}d\u{430}"));
    assert_eq!(marked(&world), ["Ada", "Ada", "\u{410}d\u{430}"]);
    let told = world.drain(bob.socket);
    let changed = |peer: &str| {
        told.iter().any(
            |signal| matches!(signal, ServerSignal::PeerChanged { peer: info } if info.peer == peer && info.lookalike),
        )
    };
    assert!(changed(&ada.id) && changed(&window.id), "{told:?}");
    let is_joined = |signal: &ServerSignal| matches!(signal, ServerSignal::PeerJoined { peer } if peer.peer == fake.id && peer.lookalike);
    assert!(told.iter().any(is_joined), "{told:?}");

    // A successor of the controlplane sees it too, and it ends when one of them leaves.
    world.restart_controlplane();
    assert_eq!(marked(&world).len(), 3);
    let socket = world.open("blue", by("3", "\u{410}d\u{430}"));
    world.say(socket, ClientSignal::Resume { session: fake.session.clone() });
    world.say(socket, ClientSignal::Leave {});
    world.carry();
    assert_eq!(marked(&world), [""; 0]);
}
