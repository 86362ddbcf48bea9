//! Tracks that come in several encodings by RID (RFC 8853): what is answered, which streams they are on the worker, and that each
//! goes wherever the track goes.

use controlplane::engine::Settings;
use proto::plane::{EncodingIdle, EncodingRate, EncodingWanted, Extension, StreamEncoding};
use proto::signal::{ClientSignal, ErrorCode, ServerSignal, Source, TrackDescription};

use crate::world::{self, Client, World, carried, error_of, grant};

/// A microphone (mid 0), a camera in the encodings `q`, `h` and `f` (1), and a slot for video (2).
const SIMULCAST: &str = include_str!("../offers/chromium_simulcast.sdp");

fn tracks() -> Vec<TrackDescription> {
    let track = |mid: &str, source| TrackDescription { mid: mid.into(), source, active: true };
    vec![track("0", Source::Microphone), track("1", Source::Camera)]
}

fn join(world: &mut World, sdp: &str) -> Client {
    let mut client = world.guest("blue", grant("Ada"));
    world.offer(&mut client, sdp, tracks()).expect("an answer");
    world.connect(&mut client);
    client
}

/// The lines of an answer that are about encodings.
fn encoding_lines(answer: &str) -> Vec<&str> {
    let is_it = |line: &&str| ["a=rid:", "a=simulcast:"].iter().any(|start| line.starts_with(start));
    answer.lines().filter(is_it).chain(answer.lines().filter(|line| line.contains("stream-id"))).collect()
}

/// The encodings that a client's worker has of its track, by RID.
fn encodings(world: &World, client: &Client) -> Vec<StreamEncoding> {
    let worker = &world.workers[&client.worker];
    let own = worker.streams_of(client.peer.unwrap());
    let mut encodings: Vec<_> = worker.encodings.values().filter(|e| own.contains(&e.stream)).copied().collect();
    encodings.sort_by_key(|encoding| encoding.place);
    encodings
}

fn rids(encodings: &[StreamEncoding]) -> Vec<&str> {
    encodings.iter().map(|encoding| encoding.rid.as_str()).collect()
}

#[test]
fn simulcast_is_answered_and_each_encoding_is_a_stream() {
    let mut world = World::new();
    let ada = join(&mut world, SIMULCAST);
    let lines = encoding_lines(&ada.answer);
    assert_eq!(lines[..4], ["a=rid:q recv", "a=rid:h recv", "a=rid:f recv", "a=simulcast:recv q;h;f"]);
    assert_eq!(lines.len(), 6, "and both extensions, in that section alone: {lines:?}");
    let found = encodings(&world, &ada);
    assert_eq!(rids(&found), ["q", "h", "f"]);
    assert!(found.iter().all(|encoding| encoding.track == found[0].stream));
    let worker = world.worker();
    for encoding in &found {
        let open = worker.streams[&encoding.stream.index];
        assert_eq!((open.ssrc, open.rtx_ssrc, open.mid.as_str()), (0, 0, "1"), "packets say whose they are");
        assert!(open.rtx_pt != 0 && worker.stream_codecs.contains_key(&encoding.stream.index));
        assert!(worker.stream_rates.contains_key(&encoding.stream.index), "each is policed");
    }
    let ids = worker.peers.values().next().unwrap().extensions.unwrap().ids;
    assert!(ids[Extension::Rid as usize] != 0 && ids[Extension::RepairedRid as usize] != 0);

    // For others it is one track, in one slot.
    let bob = world.join("blue", "Bob");
    let slots = world.slots(bob.socket).unwrap();
    assert_eq!(carried(&slots).len(), 2);
    let video = |world: &World, client: &Client| {
        let worker = &world.workers[&client.worker];
        let slots = worker.slots_of(client.peer.unwrap());
        worker
            .routes
            .values()
            .filter(|r| slots.contains(&r.slot) && ![0, r.pt].contains(&r.rtx_pt))
            .map(|r| r.slot)
            .collect::<Vec<_>>()
    };
    let of_bob = video(&world, &bob);
    assert!(
        of_bob.len() == 3 && of_bob.iter().all(|slot| *slot == of_bob[0]),
        "a route from each encoding: {of_bob:?}"
    );
    assert_eq!(video(&world, &ada).len(), 1, "Bob sends one");
    assert!(world.worker().refused.is_empty());

    let before = world.worker().dump();
    world.restart_controlplane();
    assert_eq!(world.worker().dump(), before, "a successor takes it over as it is");
    assert_eq!(rids(&encodings(&world, &ada)), ["q", "h", "f"]);
    world.join("blue", "Cyd");
    for client in [&bob, &ada] {
        world.expire(client);
    }
    assert_eq!(world.worker().encodings.len(), 0);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn what_else_is_offered_is_one_encoding() {
    let replaced = |from: &str, to: &str| {
        assert!(SIMULCAST.contains(from), "{from}");
        SIMULCAST.replace(from, to)
    };
    let list = "a=simulcast:send q;h;f";
    let all = ["q", "h", "f"];
    for (offer, expected) in [
        (replaced(list, "a=simulcast:send ~q;h;~f"), &all[..]),
        (replaced(list, "a=simulcast:send f;q"), &["f", "q"]),
        (replaced(list, "a=simulcast:send q,h;f"), &["q", "f"]),
        (replaced(list, "a=simulcast:recv x send q;h;f;y"), &all),
        (replaced("a=rid:f send", "a=rid:f send\r\na=rid:g send\r\na=simulcast:send g;f;h;q"), &["g", "f", "h"]),
        (replaced("a=rid:f send", "a=rid:f send pt=108,96;max-width=1280"), &all),
        (replaced("a=rid:f send", "a=rid:f send pt=96"), &["q", "h"]),
        (replaced("a=rid:f send", "a=rid:f recv"), &["q", "h"]),
        // No simulcast: one that is left, none that is listed, no name for its packets.
        (replaced(list, "a=simulcast:send f"), &[]),
        (replaced(list, "a=simulcast:send q,h,f"), &[]),
        (replaced(list, "a=simulcast: send"), &[]),
        (replaced(list, "a=x"), &[]),
        (replaced("sdes:rtp-stream-id", "sdes:other"), &[]),
        (replaced("sdes:mid", "sdes:other"), &[]),
    ] {
        let mut world = World::new();
        let ada = join(&mut world, &offer);
        let found = encodings(&world, &ada);
        assert_eq!(rids(&found), expected);
        let lines = encoding_lines(&ada.answer);
        let expected = expected.iter().map(|rid| format!("a=rid:{rid} recv"));
        assert!(expected.eq(lines.iter().filter(|line| line.starts_with("a=rid")).map(|line| (*line).to_owned())));
        assert_eq!(found.is_empty(), lines.is_empty());
        let streams = world.worker().streams.len();
        assert_eq!(streams, 1 + found.len().max(1));
        if found.is_empty() {
            let ids = world.worker().peers.values().next().unwrap().extensions.unwrap().ids;
            assert_eq!((ids[Extension::Rid as usize], ids[Extension::RepairedRid as usize]), (0, 0));
        }
        world.join("blue", "Bob");
        assert!(world.worker().refused.is_empty());
    }
}

#[test]
fn repairs_without_a_name_are_not_asked_for() {
    let mut world = World::new();
    let ada = join(&mut world, &SIMULCAST.replace("sdes:repaired-rtp-stream-id", "sdes:other"));
    let found = encodings(&world, &ada);
    assert_eq!(found.len(), 3);
    let open = world.worker().streams[&found[0].stream.index];
    assert_eq!((open.rtx_pt, open.feedback & proto::plane::feedback::NACK), (0, 0));
}

#[test]
fn rooms_with_other_codecs_take_one_encoding() {
    let codecs = serde_json::from_str("[\"vp9\"]").unwrap();
    let mut world = World::with(Settings { codecs, ..Settings::default() }, 1);
    let ada = join(&mut world, SIMULCAST);
    assert!(encoding_lines(&ada.answer).is_empty() && encodings(&world, &ada).is_empty());
}

#[test]
fn every_encoding_goes_to_the_workers_of_those_who_receive_the_track() {
    let mut world = World::with(Settings { room_peers_per_worker: 1, ..Settings::default() }, 2);
    let ada = join(&mut world, SIMULCAST);
    let bob = world.join("blue", "Bob");
    assert_ne!(ada.worker, bob.worker);
    let (there, here) = (&world.workers[&ada.worker], &world.workers[&bob.worker]);
    let own = encodings(&world, &ada);
    for encoding in &own {
        let mirror = here.mirrors.values().find(|mirror| mirror.origin == encoding.stream).expect("its mirror");
        let part = here.encodings[&mirror.stream.index];
        assert_eq!((part.track, part.place, part.rid), (encoding.track, encoding.place, encoding.rid));
        assert!(here.routes.values().any(|route| route.stream == mirror.stream));
        assert!(there.taps.values().any(|tap| tap.mirror == mirror.stream));
    }
    assert!(there.refused.is_empty() && here.refused.is_empty());
    let before = (there.dump(), here.dump());
    world.restart_controlplane();
    assert_eq!((world.workers[&ada.worker].dump(), world.workers[&bob.worker].dump()), before);
    let mut cyd = world.guest("blue", grant("Cyd"));
    world.offer(&mut cyd, world::PAGE, world::page_tracks()).unwrap();
    world.expire(&ada);
    assert!(world.workers.values().all(|worker| worker.encodings.is_empty() && worker.refused.is_empty()));
}

#[test]
fn a_further_offer_leaves_the_encodings_as_they_are_or_is_refused() {
    let mut world = World::new();
    let ada = join(&mut world, SIMULCAST);
    world.join("blue", "Bob");
    world.drain(ada.socket);
    let before = world.worker().dump();
    let further = |world: &mut World, sdp: &str| {
        let sdp = world::with_fingerprint(sdp, &ada.identity);
        let sends = |track: &TrackDescription| track.mid == "0" || sdp.matches("a=sendonly").count() == 2;
        let tracks = tracks().into_iter().filter(sends).collect();
        world.say(ada.socket, ClientSignal::Offer { sdp, tracks });
        world.next(ada.socket)
    };
    let ServerSignal::Answer { sdp } = further(&mut world, SIMULCAST) else { panic!("an answer") };
    assert_eq!(encoding_lines(&sdp).len(), 6);
    assert_eq!(world.worker().dump(), before, "nothing was opened anew");
    world.drain(ada.socket);
    for other in ["a=simulcast:send h;q", "a=simulcast:send q;h", "a=x"] {
        let refused = further(&mut world, &SIMULCAST.replace("a=simulcast:send q;h;f", other));
        assert_eq!(error_of(refused).0, ErrorCode::UnsupportedOffer, "{other}");
    }
    assert_eq!(world.worker().dump(), before);
    // The camera is off, and comes again.
    let paused = SIMULCAST
        .replacen("a=sendonly", "a=keep", 1)
        .replacen("a=sendonly", "a=inactive", 1)
        .replace("a=keep", "a=sendonly");
    let ServerSignal::Answer { .. } = further(&mut world, &paused) else { panic!("an answer") };
    assert_eq!(encodings(&world, &ada).len(), 3, "its streams are kept");
    world.drain(ada.socket);
    let ServerSignal::Answer { sdp } = further(&mut world, SIMULCAST) else { panic!("an answer") };
    assert_eq!(encoding_lines(&sdp).len(), 6);
    assert_eq!(world.worker().streams.len(), before.1.len());
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_track_is_silent_when_all_its_encodings_are() {
    let mut world = World::new();
    let ada = join(&mut world, SIMULCAST);
    let own = encodings(&world, &ada);
    let silent = |world: &World| world.engine.snapshot().rooms[0].peers[0].silent_tracks.clone();
    for (n, encoding) in own.iter().enumerate() {
        assert_eq!(silent(&world), [false, false], "{n} of three");
        world.silence(0, proto::plane::StreamSilent { stream: encoding.stream }.into());
    }
    assert_eq!(silent(&world), [false, true]);
    world.silence(0, proto::plane::StreamResumed { stream: own[1].stream }.into());
    assert_eq!(silent(&world), [false, false]);
}

/// What a client was told of its encodings, the RIDs of each time.
fn paused(signals: &[ServerSignal]) -> Vec<Vec<String>> {
    let told = signals.iter().filter_map(|signal| match signal {
        ServerSignal::Encodings { paused, .. } => {
            assert!(paused.iter().all(|of_track| of_track.mid == "1" && !of_track.rids.is_empty()), "{paused:?}");
            Some(paused.iter().flat_map(|of_track| of_track.rids.clone()).collect())
        }
        _ => None,
    });
    told.collect()
}

#[test]
fn encodings_that_nobody_wants_are_told_to_their_publisher_and_again_after_it_has_resumed() {
    let mut world = World::new();
    let mut ada = join(&mut world, SIMULCAST);
    let bob = world.join("blue", "Bob");
    let own = encodings(&world, &ada);
    assert!(paused(&world.drain(ada.socket)).is_empty(), "nothing told is all sent");
    let idle = |n: usize| EncodingIdle { stream: own[n].stream }.into();
    world.silence(0, idle(1));
    assert_eq!(paused(&world.drain(ada.socket)), [["h"]]);
    world.silence(0, idle(1));
    assert!(paused(&world.drain(ada.socket)).is_empty(), "it knows");
    world.silence(0, idle(2));
    assert_eq!(paused(&world.drain(ada.socket)), [["h", "f"]]);
    world.silence(0, EncodingWanted { stream: own[2].stream }.into());
    assert_eq!(paused(&world.drain(ada.socket)), [["h"]]);
    assert!(paused(&world.drain(bob.socket)).is_empty(), "it is nobody else's business");

    // After a further answer, on a new socket, and by a successor of the controlplane.
    let sdp = world::with_fingerprint(SIMULCAST, &ada.identity);
    world.say(ada.socket, ClientSignal::Offer { sdp, tracks: tracks() });
    assert_eq!(paused(&world.drain(ada.socket)), [["h"]]);
    for restarts in [false, true] {
        if restarts {
            world.restart_controlplane();
        }
        ada.socket = world.open("blue", grant("Ada"));
        world.say(ada.socket, ClientSignal::Resume { session: ada.session.clone() });
        assert_eq!(paused(&world.drain(ada.socket)), [["h"]], "restarted: {restarts}");
    }
    world.silence(0, EncodingWanted { stream: own[1].stream }.into());
    assert_eq!(paused(&world.drain(ada.socket)), [[""; 0]]);
    ada.socket = world.open("blue", grant("Ada"));
    world.say(ada.socket, ClientSignal::Resume { session: ada.session.clone() });
    assert_eq!(paused(&world.drain(ada.socket)), [[""; 0]], "who resumes is told that all are to be sent");
    assert!(world.worker().refused.is_empty());
}

/// The rates that a client was told, each time.
fn rates(signals: &[ServerSignal]) -> Vec<Vec<(String, u32)>> {
    let told = signals.iter().filter_map(|signal| match signal {
        ServerSignal::Encodings { rates, .. } => {
            assert!(rates.iter().all(|of| of.mid == "1"), "{rates:?}");
            Some(rates.iter().map(|of| (of.rid.clone(), of.bps)).collect())
        }
        _ => None,
    });
    told.collect()
}

#[test]
fn rates_are_told_to_their_publisher_and_again_after_it_has_resumed() {
    let mut world = World::new();
    let mut ada = join(&mut world, SIMULCAST);
    let bob = world.join("blue", "Bob");
    let own = encodings(&world, &ada);
    let rate = |n: usize, bps| EncodingRate { stream: own[n].stream, bps }.into();
    world.drain(ada.socket);
    world.silence(0, rate(0, 160_000));
    let signals = world.drain(ada.socket);
    assert_eq!(rates(&signals), [[("q".to_owned(), 160_000)]]);
    let written = serde_json::to_value(&signals[0]).unwrap();
    let expected = serde_json::json!({
        "type": "encodings", "paused": [], "rates": [{ "mid": "1", "rid": "q", "bps": 160_000 }]
    });
    assert_eq!(written, expected);
    world.silence(0, rate(0, 160_000));
    assert!(rates(&world.drain(ada.socket)).is_empty(), "it knows");
    world.silence(0, rate(0, 120_000));
    world.silence(0, EncodingIdle { stream: own[2].stream }.into());
    let signals = world.drain(ada.socket);
    assert_eq!(rates(&signals).last(), Some(&vec![("q".to_owned(), 120_000)]), "beside what is paused");
    assert_eq!(paused(&signals).last(), Some(&vec!["f".to_owned()]));
    assert!(rates(&world.drain(bob.socket)).is_empty(), "it is nobody else's business");

    // After a further answer, on a new socket, and by a successor of the controlplane.
    let sdp = world::with_fingerprint(SIMULCAST, &ada.identity);
    world.say(ada.socket, ClientSignal::Offer { sdp, tracks: tracks() });
    assert_eq!(rates(&world.drain(ada.socket)), [[("q".to_owned(), 120_000)]]);
    for restarts in [false, true] {
        if restarts {
            world.restart_controlplane();
        }
        ada.socket = world.open("blue", grant("Ada"));
        world.say(ada.socket, ClientSignal::Resume { session: ada.session.clone() });
        assert_eq!(rates(&world.drain(ada.socket)), [[("q".to_owned(), 120_000)]], "restarted: {restarts}");
    }
    world.silence(0, rate(0, 0));
    let signals = world.drain(ada.socket);
    assert_eq!(rates(&signals), [[]], "its own rate again");
    let written = serde_json::to_value(&signals[0]).unwrap();
    assert!(written.get("rates").is_none(), "as clients that do not know rates were told before: {written}");
    assert!(world.worker().refused.is_empty());
}
