//! Further offers of a peer that is in (RFC 8829 §5.2.2), in virtual time: what they may change, what they must leave
//! alone, and what a successor of the controlplane knows of it.

use std::fmt::Write;

use controlplane::dtls::Identity;
use controlplane::engine::{Grant, Settings};
use proptest::prelude::*;
use proto::signal::{ClientSignal, ErrorCode, ServerSignal, SlotInfo, Source, TrackDescription, VideoCodec};

use crate::world::{Client, World, carried, error_of, grant, with_fingerprint};

/// One m-section of an offer.
#[derive(Clone, Debug)]
struct Section {
    kind: &'static str,
    mid: String,
    direction: &'static str,
    /// 0: none is said.
    ssrc: u32,
    is_stopped: bool,
    is_vp8_only: bool,
}

fn section(kind: &'static str, mid: &str, direction: &'static str, ssrc: u32) -> Section {
    Section { kind, mid: mid.into(), direction, ssrc, is_stopped: false, is_vp8_only: false }
}

/// A browser's side of SDP, as far as it matters here.
#[derive(Clone, Debug)]
struct Offer {
    sections: Vec<Section>,
    ufrag: String,
    setup: &'static str,
    /// Id of the first header extension; the others follow.
    extmap: u8,
}

impl Offer {
    /// A microphone and a camera to send, and `slots` of each kind.
    fn new(ssrc: u32, slots: usize) -> Offer {
        let mut sections = vec![section("audio", "0", "sendonly", ssrc), section("video", "1", "sendonly", ssrc + 1)];
        for n in 0..2 * slots {
            let kind = if n < slots { "audio" } else { "video" };
            sections.push(section(kind, &(2 + n).to_string(), "recvonly", 0));
        }
        Offer { sections, ufrag: "first".into(), setup: "actpass", extmap: 1 }
    }

    fn sdp(&self) -> String {
        let mut sdp = String::from("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE");
        for section in self.sections.iter().filter(|section| !section.is_stopped) {
            write!(sdp, " {}", section.mid).unwrap();
        }
        sdp.push_str("\r\n");
        for section in &self.sections {
            self.write(section, &mut sdp);
        }
        sdp
    }

    fn write(&self, section: &Section, sdp: &mut String) {
        let Section { kind, mid, direction, ssrc, is_stopped, is_vp8_only } = section;
        let (formats, codecs) = match (*kind, is_vp8_only) {
            ("audio", _) => ("111", "a=rtpmap:111 opus/48000/2\r\n"),
            (_, true) => ("96 97", "a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"),
            _ => (
                "102 103 96 97",
                "a=rtpmap:102 H264/90000\r\na=fmtp:102 packetization-mode=1;profile-level-id=42e01f\r\n\
                 a=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\na=rtcp-fb:102 nack\r\na=rtcp-fb:102 nack pli\r\n\
                 a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n",
            ),
        };
        let port = if *is_stopped { 0 } else { 9 };
        write!(sdp, "m={kind} {port} UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\na=mid:{mid}\r\n").unwrap();
        if *is_stopped {
            return;
        }
        write!(sdp, "a=ice-ufrag:{0}\r\na=ice-pwd:{0:a<24}\r\n", self.ufrag).unwrap();
        write!(sdp, "a=fingerprint:sha-256 00\r\na=setup:{}\r\na={direction}\r\na=rtcp-mux\r\n", self.setup).unwrap();
        write!(sdp, "a=extmap:{} urn:ietf:params:rtp-hdrext:sdes:mid\r\n", self.extmap).unwrap();
        write!(sdp, "a=extmap:{} urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n{codecs}", self.extmap + 1).unwrap();
        if *ssrc != 0 && direction.starts_with("send") {
            write!(sdp, "a=ssrc:{ssrc} cname:c\r\n").unwrap();
        }
    }
}

/// Joins with an offer of one's own.
fn join(world: &mut World, name: &str, offer: &Offer) -> Client {
    let mut client = guest_with(world, grant(name), offer);
    world.connect(&mut client);
    world.drain(client.socket);
    client
}

fn guest_with(world: &mut World, grant: Grant, offer: &Offer) -> Client {
    let mut client = world.guest("blue", grant);
    world.offer(&mut client, &offer.sdp(), vec![]).expect("an answer");
    client
}

/// Offers again; the answer, and what else was told, or the error.
fn again(world: &mut World, client: &Client, offer: &Offer) -> Result<(String, Vec<ServerSignal>), ErrorCode> {
    say_again(world, client, &offer.sdp(), vec![])
}

fn say_again(
    world: &mut World,
    client: &Client,
    sdp: &str,
    tracks: Vec<TrackDescription>,
) -> Result<(String, Vec<ServerSignal>), ErrorCode> {
    world.drain(client.socket);
    let sdp = with_fingerprint(sdp, &client.identity);
    world.say(client.socket, ClientSignal::Offer { sdp, tracks });
    let mut told = world.drain(client.socket);
    assert!(!told.is_empty(), "an offer is answered");
    match told.remove(0) {
        ServerSignal::Answer { sdp } => Ok((sdp, told)),
        error => {
            let (code, is_fatal) = error_of(error);
            assert!(!is_fatal && told.is_empty(), "{told:?}");
            Err(code)
        }
    }
}

/// The m-section of a MID in an answer.
fn answered<'a>(sdp: &'a str, mid: &str) -> &'a str {
    let line = format!("a=mid:{mid}\r\n");
    sdp.split("\r\nm=").find(|section| section.contains(&line)).unwrap_or_else(|| panic!("{mid} in {sdp}"))
}

fn ssrc_of(section: &str) -> u32 {
    let line = section.lines().find_map(|line| line.strip_prefix("a=ssrc:")).expect("an SSRC");
    line.split(' ').next().unwrap().parse().unwrap()
}

fn attribute<'a>(sdp: &'a str, name: &str) -> &'a str {
    sdp.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {sdp}"))
}

fn slots_of(told: &[ServerSignal]) -> Option<&[SlotInfo]> {
    told.iter().rev().find_map(|signal| match signal {
        ServerSignal::Slots { slots } => Some(slots.as_slice()),
        _ => None,
    })
}

/// Mids of the tracks that a `peer_changed` tells of.
fn changed(told: &[ServerSignal]) -> Option<Vec<String>> {
    told.iter().find_map(|signal| match signal {
        ServerSignal::PeerChanged { peer } => {
            Some(peer.tracks.iter().map(|track| track.track.rsplit('/').next().unwrap().to_owned()).collect())
        }
        _ => None,
    })
}

/// Ada and Bob in a room, with a microphone, a camera and `slots` of each kind.
fn pair(world: &mut World, slots: usize) -> (Client, Offer, Client, Offer) {
    let (of_ada, of_bob) = (Offer::new(1_000, slots), Offer::new(2_000, slots));
    let (ada, bob) = (join(world, "Ada", &of_ada), join(world, "Bob", &of_bob));
    world.drain(ada.socket);
    (ada, of_ada, bob, of_bob)
}

#[test]
fn an_added_sender_is_told_and_carried() {
    let mut world = World::new();
    let (ada, mut offer, bob, _) = pair(&mut world, 2);
    offer.sections.push(section("video", "screen", "sendonly", 1_002));
    let tracks = vec![TrackDescription { mid: "screen".into(), source: Source::Screen, active: true }];
    let (answer, told) = say_again(&mut world, &ada, &offer.sdp(), tracks).unwrap();
    assert!(answered(&answer, "screen").contains("a=recvonly"));
    let [first, now] = [&ada.answer, &answer].map(|sdp| attribute(sdp, "o=- ").to_owned());
    let [first, now] = [&first, &now].map(|line| line.split(' ').take(2).collect::<Vec<_>>());
    assert_eq!((first[0], first[1], now[1]), (now[0], "1", "2"), "one session, another version");
    for name in ["a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=setup:"] {
        assert_eq!(attribute(&answer, name), attribute(&ada.answer, name));
    }
    assert!(matches!(told[..], [ServerSignal::Limits { video_bps_max: 406_871, .. }]), "{told:?}");

    let told = world.drain(bob.socket);
    assert_eq!(changed(&told).unwrap(), ["0", "1", "screen"]);
    assert_eq!(carried(slots_of(&told).unwrap()).len(), 3);
    assert!(told.len() == 2, "{told:?}");
    assert_eq!((world.worker().streams.len(), world.worker().routes.len()), (5, 5));
    assert!(world.worker().streams.values().any(|stream| stream.ssrc == 1_002 && stream.mid.as_str() == "screen"));
    assert_eq!(world.engine.snapshot().totals.renegotiated, 1);
    // It is a track like any other.
    world.say(ada.socket, ClientSignal::Track { mid: "screen".into(), active: false });
    assert!(matches!(world.drain(bob.socket)[0], ServerSignal::TrackChanged { .. }));
    assert!(world.worker().refused.is_empty());
}

#[test]
fn an_added_receiver_is_a_slot_at_once() {
    let mut world = World::new();
    let (ada, mut offer, _, _) = pair(&mut world, 0);
    assert_eq!(world.worker().slots.len(), 0);
    offer.sections.push(section("audio", "2", "recvonly", 0));
    offer.sections.push(section("video", "3", "recvonly", 0));
    let before = world.worker().streams.clone();
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    assert_eq!(carried(slots_of(&told).unwrap()).len(), 2);
    let worker = world.worker();
    assert_eq!((worker.slots.len(), worker.routes.len(), &worker.streams), (2, 2, &before));
    for (mid, slot) in [("2", 0), ("3", 1)] {
        let section = answered(&answer, mid);
        assert!(section.contains("a=sendonly") && section.contains("a=msid:uprtc-0 "));
        assert_eq!(ssrc_of(section), worker.slots.values().nth(slot).unwrap().ssrc);
    }
    assert!(worker.refused.is_empty());
}

#[test]
fn a_sender_that_pauses_is_gone_for_the_others_and_comes_back() {
    let mut world = World::new();
    let (ada, mut offer, bob, _) = pair(&mut world, 1);
    let before = world.worker().dump();
    offer.sections[1].direction = "inactive";
    let (answer, _) = again(&mut world, &ada, &offer).unwrap();
    assert!(answered(&answer, "1").contains("a=inactive"));
    let told = world.drain(bob.socket);
    assert_eq!(changed(&told).unwrap(), ["0"]);
    assert_eq!(carried(slots_of(&told).unwrap()).len(), 1);
    let (_, streams, slots, routes) = world.worker().dump();
    assert_eq!((&streams, &slots, routes.len()), (&before.1, &before.2, 3), "its stream waits for it");
    world.say(ada.socket, ClientSignal::Track { mid: "1".into(), active: true });
    assert_eq!(error_of(world.drain(ada.socket).pop().unwrap()).0, ErrorCode::UnknownTrack);

    offer.sections[1].direction = "sendonly";
    again(&mut world, &ada, &offer).unwrap();
    let told = world.drain(bob.socket);
    assert_eq!(changed(&told).unwrap(), ["0", "1"]);
    assert_eq!(carried(slots_of(&told).unwrap()).len(), 2);
    assert_eq!((world.worker().dump().1, world.worker().routes.len()), (before.1.clone(), 4));

    // Chromium comes back with another SSRC.
    offer.sections[1].direction = "inactive";
    again(&mut world, &ada, &offer).unwrap();
    (offer.sections[1].direction, offer.sections[1].ssrc) = ("sendonly", 1_007);
    again(&mut world, &ada, &offer).unwrap();
    let worker = world.worker();
    assert_eq!((worker.streams.len(), worker.routes.len()), (4, 4));
    assert!(worker.streams.values().any(|s| s.ssrc == 1_007) && worker.streams.values().all(|s| s.ssrc != 1_001));
    assert!(worker.refused.is_empty());
}

#[test]
fn the_ssrc_of_a_sender_that_pauses_stays_its_own() {
    let mut world = World::new();
    let (ada, mut offer, _, _) = pair(&mut world, 1);
    offer.sections[1].direction = "inactive";
    again(&mut world, &ada, &offer).unwrap();
    let before = world.worker().dump();
    offer.sections.push(section("video", "thief", "sendonly", 1_001));
    assert_eq!(again(&mut world, &ada, &offer).unwrap_err(), ErrorCode::UnsupportedOffer);
    assert_eq!(world.worker().dump(), before);
    // Two may exchange theirs.
    offer = Offer::new(1_000, 1);
    (offer.sections[0].ssrc, offer.sections[1].ssrc) = (1_001, 1_000);
    again(&mut world, &ada, &offer).unwrap();
    assert_eq!((world.worker().streams.len(), world.worker().routes.len()), (4, 4));
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_receiver_that_pauses_is_sent_nothing_and_goes_on_under_its_ssrc() {
    let mut world = World::new();
    let (ada, mut offer, _, _) = pair(&mut world, 1);
    let before = world.worker().dump();
    let ssrc = ssrc_of(answered(&ada.answer, "3"));
    offer.sections[3].direction = "inactive";
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    let section = answered(&answer, "3");
    assert!(section.contains("a=inactive") && !section.contains("a=msid:"));
    assert_eq!(ssrc_of(section), ssrc, "the client keeps the SRTP state of it");
    let slots = slots_of(&told).unwrap();
    assert_eq!((slots.len(), carried(slots).len()), (2, 1));
    assert_eq!((world.worker().slots.len(), world.worker().routes.len()), (4, 3));
    assert_eq!(world.worker().dump().2, before.2, "no slot is opened anew: its packet index goes on");

    // What is added meanwhile takes no slot that rests.
    let cyd = join(&mut world, "Cyd", &Offer::new(3_000, 0));
    assert_eq!(carried(&world.slots(ada.socket).unwrap_or_default()).len(), 0);
    world.say(cyd.socket, ClientSignal::Leave {});

    offer.sections[3].direction = "recvonly";
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    assert_eq!(ssrc_of(answered(&answer, "3")), ssrc);
    assert!(answered(&answer, "3").contains("a=sendonly"));
    assert_eq!(carried(slots_of(&told).unwrap()).len(), 2);
    assert_eq!((world.worker().dump().2, world.worker().routes.len()), (before.2, 4));
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_slot_may_also_send() {
    let mut world = World::new();
    let (ada, mut offer, bob, _) = pair(&mut world, 2);
    let ssrc = ssrc_of(answered(&ada.answer, "5"));
    (offer.sections[5].direction, offer.sections[5].ssrc) = ("sendrecv", 1_005);
    let (answer, _) = again(&mut world, &ada, &offer).unwrap();
    assert!(answered(&answer, "5").contains("a=sendrecv"));
    assert_eq!(ssrc_of(answered(&answer, "5")), ssrc);
    assert_eq!(changed(&world.drain(bob.socket)).unwrap(), ["0", "1", "5"]);
    offer.sections[5].direction = "sendonly";
    let (answer, _) = again(&mut world, &ada, &offer).unwrap();
    let section = answered(&answer, "5");
    assert!(section.contains("a=recvonly") && !section.contains("a=msid:"));
    assert_eq!(ssrc_of(section), ssrc);
    assert!(world.drain(bob.socket).is_empty(), "nobody else is concerned");
}

#[test]
fn a_stopped_section_stays_rejected_until_it_is_another() {
    let mut world = World::new();
    let (ada, mut offer, bob, _) = pair(&mut world, 3);
    let was = ssrc_of(answered(&ada.answer, "3"));
    offer.sections[1].is_stopped = true;
    offer.sections[3].is_stopped = true;
    for _ in 0..2 {
        let (answer, _) = again(&mut world, &ada, &offer).unwrap();
        for mid in ["1", "3"] {
            assert!(answered(&answer, mid).starts_with(if mid == "1" { "video 0 " } else { "audio 0 " }));
        }
        assert!(answered(&answer, "4").contains("a=msid:uprtc-2 "), "the lanes of the others stay");
    }
    assert_eq!(changed(&world.drain(bob.socket)).unwrap(), ["0"]);
    assert_eq!((world.worker().streams.len(), world.worker().slots.len()), (3, 11));

    // RFC 8829 §5.2.2: its place is taken by a section with another mid, here of the other kind.
    offer.sections[1] = section("audio", "new", "recvonly", 0);
    offer.sections[3] = section("video", "cam", "sendonly", 1_009);
    let (answer, _) = again(&mut world, &ada, &offer).unwrap();
    let section = answered(&answer, "new");
    assert!(section.contains("a=sendonly") && section.contains("a=msid:uprtc-1 "), "the free lane");
    assert_ne!(ssrc_of(section), was, "an SSRC is a slot's once in the peer's life");
    assert!(answered(&answer, "cam").contains("a=recvonly"));
    assert_eq!(answer.match_indices("\r\nm=").count(), offer.sections.len());
    assert_eq!(changed(&world.drain(bob.socket)).unwrap(), ["0", "cam"]);
    assert_eq!((world.worker().streams.len(), world.worker().slots.len()), (4, 12));
    assert!(world.worker().refused.is_empty());
}

#[test]
fn ice_restarts_and_the_keys_stand() {
    let mut world = World::new();
    let (ada, mut offer, bob, _) = pair(&mut world, 1);
    let before = world.worker().dump();
    offer.ufrag = "second".into();
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    let [was, is] = [&ada.answer, &answer].map(|sdp| (attribute(sdp, "a=ice-ufrag:"), attribute(sdp, "a=ice-pwd:")));
    assert!(was.0 != is.0 && was.1 != is.1);
    assert!(answer.contains("a=candidate:") && answer.contains("a=end-of-candidates"));
    assert!(matches!(&told[..], [ServerSignal::Candidate(c), ServerSignal::Candidate(end)]
        if c.candidate.contains("127.0.0.1 40000 typ host") && end.candidate.is_empty()));
    let peer = &world.worker().peers[&ada.peer.unwrap().index];
    assert_eq!(peer.open.ufrag, is.0.as_bytes());
    assert!(peer.rx.is_some() && peer.tx.is_some());
    assert_eq!(world.worker().dump(), before, "media goes on by the old pair");
    assert!(world.drain(bob.socket).is_empty());
    // Offered once more with the same credentials, it is the same ICE session.
    let (again, _) = again(&mut world, &ada, &offer).unwrap();
    assert_eq!(attribute(&again, "a=ice-ufrag:"), is.0);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut world = World::new();
    let (ada, offer, bob, _) = pair(&mut world, 1);
    let (before, journal) = (world.worker().dump(), world.journal.clone());
    let changed = |change: &dyn Fn(&mut Offer)| {
        let mut offer = offer.clone();
        change(&mut offer);
        offer.sdp()
    };
    let cases: [(&str, String, ErrorCode); 8] = [
        ("no SDP", "v=0\r\n".into(), ErrorCode::BadSdp),
        ("a section less", changed(&|o| drop(o.sections.pop())), ErrorCode::UnsupportedOffer),
        ("another order", changed(&|o| o.sections.swap(2, 3)), ErrorCode::UnsupportedOffer),
        ("another mid", changed(&|o| o.sections[0].mid = "x".into()), ErrorCode::UnsupportedOffer),
        ("another kind", changed(&|o| o.sections[2].kind = "video"), ErrorCode::UnsupportedOffer),
        ("another role", changed(&|o| o.setup = "passive"), ErrorCode::UnsupportedOffer),
        ("ids moved", changed(&|o| o.extmap = 2), ErrorCode::UnsupportedOffer),
        ("all stopped", changed(&|o| o.sections.iter_mut().for_each(|s| s.is_stopped = true)), ErrorCode::BadSdp),
    ];
    for (what, sdp, code) in cases {
        assert_eq!(say_again(&mut world, &ada, &sdp, vec![]).unwrap_err(), code, "{what}");
    }
    let strange = Identity::generate().unwrap();
    let sdp = with_fingerprint(&offer.sdp(), &strange);
    world.say(ada.socket, ClientSignal::Offer { sdp, tracks: vec![] });
    assert_eq!(error_of(world.next(ada.socket)), (ErrorCode::UnsupportedOffer, false));
    let camera = TrackDescription { mid: "2".into(), source: Source::Camera, active: true };
    assert_eq!(say_again(&mut world, &ada, &offer.sdp(), vec![camera]).unwrap_err(), ErrorCode::UnsupportedOffer);

    assert_eq!((world.worker().dump(), &world.journal), (before, &journal));
    assert!(world.drain(bob.socket).is_empty());
    let totals = world.engine.snapshot().totals;
    assert_eq!((totals.offers_refused, totals.renegotiated), (10, 0));
    assert!(again(&mut world, &ada, &offer).is_ok(), "the call goes on");
}

#[test]
fn what_is_beyond_the_limits_is_answered_inactive() {
    let mut world = World::with(Settings { tracks_max: 3, slots_max: 3, ..Settings::default() }, 1);
    let (ada, mut offer, _, _) = pair(&mut world, 1);
    // Those that are there go before those that are new, wherever they stand.
    offer.sections[2].is_stopped = true;
    again(&mut world, &ada, &offer).unwrap();
    offer.sections[2] = section("video", "a", "sendrecv", 1_010);
    offer.sections.push(section("video", "b", "sendrecv", 1_011));
    offer.sections.push(section("video", "c", "sendrecv", 1_012));
    let (answer, _) = again(&mut world, &ada, &offer).unwrap();
    let directions = ["0", "1", "3", "a", "b", "c"].map(|mid| {
        let section = answered(&answer, mid);
        ["sendrecv", "sendonly", "recvonly", "inactive"].into_iter().find(|d| section.contains(&format!("a={d}\r\n")))
    });
    assert_eq!(
        directions.map(Option::unwrap),
        ["recvonly", "recvonly", "sendonly", "sendrecv", "sendonly", "inactive"]
    );
    assert!(world.worker().refused.is_empty());
}

#[test]
fn ssrcs_come_to_an_end_by_a_named_error() {
    let mut world = World::new();
    let (ada, mut offer, bob, _) = pair(&mut world, 1);
    let mut changes = 0;
    let code = loop {
        offer.sections[1].ssrc += 10;
        match again(&mut world, &ada, &offer) {
            Ok(_) => changes += 1,
            Err(code) => break code,
        }
    };
    assert_eq!((changes, code), (30, ErrorCode::TooMuch));
    offer.sections[1].ssrc -= 10;
    again(&mut world, &ada, &offer).expect("the call goes on");
    world.drain(bob.socket);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_slot_whose_codecs_change_is_another() {
    let mut world = World::new();
    let (ada, mut offer, bob, _) = pair(&mut world, 1);
    let was = ssrc_of(answered(&ada.answer, "3"));
    offer.sections[3].is_vp8_only = true;
    offer.sections[1].is_vp8_only = true;
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    assert_ne!(ssrc_of(answered(&answer, "3")), was);
    assert!(answered(&answer, "3").contains("a=msid:uprtc-0 "));
    assert_eq!(carried(slots_of(&told).unwrap()).len(), 2);
    // The room has no codec in common any more; Ada is the one who cannot do without VP8.
    let told = world.drain(bob.socket);
    assert!(carried(slots_of(&told).unwrap_or_default()).len() <= 2);
    let worker = world.worker();
    assert_eq!((worker.streams.len(), worker.slots.len(), worker.routes.len()), (4, 4, 4));
    assert!(worker.refused.is_empty());
    // Without an SSRC in signalling a stream is found by its packets, and those of an old one are not taken up again.
    let mut silent = Offer::new(0, 1);
    silent.sections.iter_mut().for_each(|section| section.ssrc = 0);
    let cyd = join(&mut world, "Cyd", &silent);
    again(&mut world, &cyd, &silent).unwrap();
    silent.sections[1].is_vp8_only = true;
    assert_eq!(again(&mut world, &cyd, &silent).unwrap_err(), ErrorCode::UnsupportedOffer);
}

#[test]
fn who_begins_to_send_video_is_told_in_which_codec() {
    let mut world = World::new();
    let mut of_bob = Offer::new(2_000, 1);
    of_bob.sections[3].is_vp8_only = true;
    let bob = join(&mut world, "Bob", &of_bob);
    let mut offer = Offer::new(1_000, 0);
    offer.sections.pop();
    let ada = join(&mut world, "Ada", &offer);
    offer.sections.push(section("video", "cam", "sendonly", 1_001));
    let (_, told) = again(&mut world, &ada, &offer).unwrap();
    let codecs = told.iter().filter(|signal| matches!(signal, ServerSignal::Codec { video: VideoCodec::Vp8 }));
    assert_eq!(codecs.count(), 1, "{told:?}");
    // A section that rests needs no codec.
    of_bob.sections[3].direction = "inactive";
    again(&mut world, &bob, &of_bob).unwrap();
    assert!(world.drain(ada.socket).contains(&ServerSignal::Codec { video: VideoCodec::H264 }));
}

#[test]
fn the_token_decides_about_new_sections_too() {
    let mut world = World::new();
    let mut offer = Offer::new(1_000, 1);
    let listener = Grant { publish: false, ..grant("Listener") };
    let mut listener = guest_with(&mut world, listener, &offer);
    world.connect(&mut listener);
    offer.sections.push(section("video", "more", "sendonly", 1_007));
    let (answer, _) = again(&mut world, &listener, &offer).unwrap();
    for mid in ["0", "1", "more"] {
        assert!(answered(&answer, mid).contains("a=inactive\r\n"));
    }
    assert_eq!(world.worker().streams.len(), 0);
}

#[test]
fn everything_may_rest() {
    let mut world = World::new();
    let (ada, mut offer, _, _) = pair(&mut world, 1);
    offer.sections.iter_mut().for_each(|section| section.direction = "inactive");
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    assert_eq!(answer.matches("a=inactive\r\n").count(), 4);
    assert!(carried(slots_of(&told).unwrap()).is_empty());
    assert_eq!(world.worker().routes.len(), 0);
    offer = Offer::new(1_000, 1);
    again(&mut world, &ada, &offer).unwrap();
    assert_eq!(world.worker().routes.len(), 4);
}

#[test]
fn an_offer_before_dtls_is_complete_is_one_more() {
    let mut world = World::new();
    let mut offer = Offer::new(1_000, 1);
    let mut ada = guest_with(&mut world, grant("Ada"), &offer);
    world.drain(ada.socket);
    offer.sections.push(section("video", "more", "sendonly", 1_007));
    offer.ufrag = "second".into();
    let (answer, _) = again(&mut world, &ada, &offer).unwrap();
    ada.answer = answer;
    world.connect(&mut ada);
    assert_eq!(world.worker().streams.len(), 3);
    assert_eq!(world.journal.len(), 1);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn a_successor_is_offered_further_all_the_same() {
    let mut world = World::new();
    let (mut ada, mut offer, bob, _) = pair(&mut world, 2);
    offer.sections[1].direction = "inactive";
    offer.sections[3].direction = "inactive";
    offer.sections[4].is_stopped = true;
    again(&mut world, &ada, &offer).unwrap();
    world.drain(bob.socket);
    let before = world.worker().dump();
    world.restart_controlplane();
    assert_eq!(world.worker().dump(), before);
    ada.socket = world.open("blue", grant("Ada"));
    world.say(ada.socket, ClientSignal::Resume { session: ada.session.clone() });
    assert_eq!(carried(&world.slots(ada.socket).unwrap()).len(), 2, "what rested rests");

    // The same offer finds the same call.
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    assert_eq!((attribute(&answer, "o=- ").split(' ').nth(1), told.len()), (Some("3"), 0));
    assert_eq!(attribute(&answer, "o=- ").split(' ').next(), attribute(&ada.answer, "o=- ").split(' ').next());
    // Another certificate of ours would be another DTLS association to the client.
    for name in ["a=ice-ufrag:", "a=ice-pwd:", "a=fingerprint:", "a=setup:"] {
        assert_eq!(attribute(&answer, name), attribute(&ada.answer, name));
    }
    assert_eq!(ssrc_of(answered(&answer, "3")), ssrc_of(answered(&ada.answer, "3")));
    assert_eq!(world.worker().dump(), before);

    let mut strange = offer.clone();
    strange.sections[0].mid = "x".into();
    assert_eq!(again(&mut world, &ada, &strange).unwrap_err(), ErrorCode::UnsupportedOffer);
    let sdp = with_fingerprint(&offer.sdp(), &Identity::generate().unwrap());
    world.say(ada.socket, ClientSignal::Offer { sdp, tracks: vec![] });
    assert_eq!(error_of(world.next(ada.socket)), (ErrorCode::UnsupportedOffer, false));

    offer = Offer { ufrag: "second".into(), ..Offer::new(1_000, 2) };
    offer.sections[4] = section("video", "back", "recvonly", 0);
    offer.sections.push(section("video", "screen", "sendonly", 1_006));
    let (answer, told) = again(&mut world, &ada, &offer).unwrap();
    assert_ne!(attribute(&answer, "a=ice-ufrag:"), attribute(&ada.answer, "a=ice-ufrag:"));
    assert!(answered(&answer, "back").contains("a=msid:uprtc-0 "));
    assert_eq!(carried(slots_of(&told).unwrap()).len(), 2);
    assert_eq!((world.worker().streams.len(), world.worker().slots.len()), (5, 8));
    assert!(world.worker().refused.is_empty());
    // And the one after that knows of it.
    let before = world.worker().dump();
    world.restart_controlplane();
    assert_eq!(world.worker().dump(), before);
}

/// One change of a client's offer.
fn change(offer: &mut Offer, step: u8, at: usize, n: u32) {
    let len = offer.sections.len();
    let at = at % len;
    let section_at = &mut offer.sections[at];
    match step {
        0 if len < 12 => {
            offer.sections.push(section(["audio", "video"][at % 2], &format!("n{n}"), "sendrecv", n * 7 + 5))
        }
        1 if section_at.is_stopped => {
            *section_at = section(["audio", "video"][n as usize % 2], &format!("n{n}"), "sendrecv", n * 7 + 6)
        }
        1 => section_at.is_stopped = true,
        2 => section_at.direction = ["sendrecv", "sendonly", "recvonly", "inactive"][n as usize % 4],
        3 => section_at.ssrc = n * 7 + 4,
        4 => offer.ufrag = format!("ufrag{n}"),
        5 => section_at.is_vp8_only ^= true,
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever two clients offer in whatever order, and wherever the controlplane is replaced: the worker refuses
    /// nothing, so no SSRC of a slot is opened twice; what is installed is what the rooms say; and what was refused is
    /// told and changes nothing.
    #[test]
    fn no_order_of_offers_confuses_the_engine(
        steps in prop::collection::vec((0usize..2, 0u8..8, any::<usize>(), 2usize..40), 1..40),
    ) {
        let mut world = World::with(Settings { tracks_max: 4, slots_max: 5, ..Settings::default() }, 1);
        let (ada, of_ada, bob, of_bob) = pair(&mut world, 2);
        let mut clients = [(ada, of_ada), (bob, of_bob)];
        for (n, (who, step, at, space)) in (10_000u32..).zip(steps) {
            world.space = space;
            if step == 7 {
                world.restart_controlplane();
                for (client, _) in &mut clients {
                    client.socket = world.open("blue", grant("x"));
                    world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
                    let told = world.drain(client.socket);
                    let is_back = |s: &ServerSignal| matches!(s, ServerSignal::Welcome { resumed: true, .. });
                    prop_assert!(told.iter().any(is_back));
                }
                continue;
            }
            let (client, offer) = &mut clients[who];
            let mut next = offer.clone();
            change(&mut next, step, at, n);
            let before = world.worker().dump();
            match again(&mut world, client, &next) {
                Ok((answer, _)) => {
                    prop_assert_eq!(answer.matches("\r\nm=").count(), next.sections.len());
                    let peer = client.peer.unwrap();
                    for slot in world.worker().slots.values().filter(|slot| slot.peer == peer) {
                        let line = format!("a=ssrc:{} ", slot.ssrc);
                        prop_assert!(answer.contains(&line));
                    }
                    *offer = next;
                }
                Err(_) => prop_assert_eq!(world.worker().dump(), before),
            }
            let snapshot = world.engine.snapshot();
            let worker = world.worker();
            prop_assert!(worker.refused.is_empty(), "{:?}", worker.refused);
            prop_assert_eq!(worker.peers.len(), 2);
            prop_assert!(worker.streams.len() <= 8 && worker.slots.len() <= 10);
            let used: usize = snapshot.rooms[0].peers.iter().map(|peer| peer.slots_used).sum();
            prop_assert_eq!(worker.routes.len(), used);
            prop_assert_eq!(snapshot.workers[0].pending, 0);
        }
        for (client, _) in &clients {
            world.say(client.socket, ClientSignal::Leave {});
        }
        prop_assert_eq!(world.worker().dump(), Default::default());
        prop_assert!(world.journal.is_empty());
    }
}
