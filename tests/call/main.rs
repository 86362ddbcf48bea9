//! Calls through the real executable: complete WebRTC peers of another stack (`bench::peer`) in rooms of a running
//! `uprtc run`, which prove by marks in the media that each hears and sees the others to the byte, in order and
//! without a hole, while things happen around them.

mod across;
#[path = "../harness/mod.rs"]
mod harness;
mod links;
#[path = "../nodes/nats.rs"]
#[allow(dead_code)]
mod nats;
mod network;
#[path = "../require/mod.rs"]
mod require;
mod server;

use std::collections::HashMap;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bench::dtls_srtp::{CHROMIUM, Profile};
use bench::media::Kind;
use bench::peer::{Loss, Peer, Settings};
use bench::report::{OddReport, Report};
use bench::send::CameraSettings;
use bench::signal::Socket;
use proto::signal::{ErrorCode, LeaveReason, PeerState, Quality};

use server::{Cable, Server, until};

/// Nothing here takes longer on a busy machine, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(30);

/// A peer and the number in the marks of what it sends.
struct Guest {
    id: u32,
    peer: Peer,
}

impl Guest {
    async fn join(server: &Server, room: &str, settings: Settings) -> Guest {
        let id = settings.publisher;
        let link = server.link(room, &format!("guest-{id}")).await;
        let peer = Peer::join(&link, settings).await.unwrap();
        Guest { id, peer }
    }

    /// Waits until it got this much more of each of the others.
    async fn perceives(&self, others: &[u32], audio: u64, video: u64) -> Report {
        let before = self.peer.report();
        let more = |report: &Report, id, kind| report.track(id, kind).intact - before.track(id, kind).intact;
        let what = format!("{} to get {audio} packets and {video} frames of {others:?}", self.id);
        let is_met = |report: &Report| {
            others.iter().all(|&id| more(report, id, Kind::Audio) >= audio && more(report, id, Kind::Video) >= video)
        };
        self.peer.wait(&what, DEADLINE, is_met).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// By the sender reports of their slots, sound and picture of these publishers were captured when they were (lip sync).
    async fn hears_in_sync(&self, publishers: &[u32]) {
        let offset = |report: &Report, id, kind| report.track(id, kind).clock_offset;
        let has =
            |report: &Report, id| [Kind::Audio, Kind::Video].iter().all(|&kind| offset(report, id, kind).is_some());
        let is_met = |report: &Report| publishers.iter().all(|&id| has(report, id));
        let report = self.sees("a sender report of each slot", is_met).await;
        for &id in publishers {
            let of = |kind| offset(&report, id, kind).unwrap();
            let apart = (of(Kind::Audio) - of(Kind::Video)).abs();
            assert!(apart < 2_000, "{apart} µs between sound and picture of {id}: {report:#?}");
        }
    }

    async fn sees(&self, what: &str, is_met: impl FnMut(&Report) -> bool) -> Report {
        let what = format!("{} to see {what}", self.id);
        self.peer.wait(&what, DEADLINE, is_met).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

async fn join_all(server: &Server, room: &str, settings: impl IntoIterator<Item = Settings>) -> Vec<Guest> {
    let mut guests = Vec::new();
    for settings in settings {
        guests.push(Guest::join(server, room, settings).await);
    }
    guests
}

fn others(guests: &[Guest], id: u32) -> Vec<u32> {
    guests.iter().map(|guest| guest.id).filter(|&other| other != id).collect()
}

/// Everybody gets this much more of everybody else.
async fn converse(guests: &[Guest], audio: u64, video: u64) -> Vec<Report> {
    let mut reports = Vec::new();
    for guest in guests {
        reports.push(guest.perceives(&others(guests, guest.id), audio, video).await);
    }
    reports
}

/// What holds for every peer at any time: nothing changed, nothing misplaced, no second offer.
fn assert_sound(report: &Report) {
    assert_eq!(report.corrupt(), 0, "{report:#?}");
    // The server has keys with the client's Finished, the client only with the server's.
    assert_eq!(OddReport { early: 0, ..report.odd }, OddReport::default(), "{report:#?}");
    assert_eq!((report.offers, report.answers, report.handshakes), (1, 1, 1), "{report:#?}");
    assert!(report.failures.is_empty() && report.errors.is_empty() && !report.is_dtls_closed, "{report:#?}");
    assert_eq!(report.sent.nacked_in_vain, 0, "{report:#?}");
}

/// Of these publishers everything came, in order, from the first that came to the last.
fn assert_complete(report: &Report, publishers: &[u32]) {
    for &id in publishers {
        for kind in [Kind::Audio, Kind::Video] {
            let track = report.track(id, kind);
            assert_eq!((track.skipped, track.reordered), (0, 0), "{id} {kind:?} {report:#?}");
        }
    }
    assert!(report.streams.values().all(|stream| stream.lost == 0), "{report:#?}");
    assert_eq!(report.transport_missing, 0, "{report:#?}");
}

/// Who the `slots` signal says is in a slot is who is heard or seen in it.
fn assert_slots(report: &Report, publishers: &[u32]) {
    let ids: HashMap<&str, &str> =
        report.others.values().map(|info| (info.name.as_str(), info.peer.as_str())).collect();
    for &id in publishers {
        for kind in [Kind::Audio, Kind::Video] {
            let mid = report.track(id, kind).mid;
            assert_eq!(report.occupant(&mid), ids.get(format!("guest-{id}").as_str()).copied(), "{report:#?}");
        }
    }
}

#[tokio::test]
async fn three_hear_and_see_each_other_and_a_fourth_comes_and_goes() {
    let server = Server::start();
    // The third begins where sequence numbers wrap soon.
    let third = Settings { first_seq: Some(65_400), ..Settings::new(3) };
    let guests = join_all(&server, "three", [Settings::new(1), Settings::new(2), third]).await;
    for (guest, report) in guests.iter().zip(converse(&guests, 200, 80).await) {
        let others = others(&guests, guest.id);
        assert_sound(&report);
        assert_complete(&report, &others);
        assert_slots(&report, &others);
        guest.hears_in_sync(&others).await;
        assert_eq!(report.profile, Some(Profile::Gcm128));
        assert_eq!(report.state, Some(PeerState::Connected));
        assert!(report.sent.reported > 0 && report.sent.arrivals > 100, "{:?}", report.sent);
        assert_eq!((report.sent.reported_lost, report.sent.arrivals_lost), (0, 0), "{:?}", report.sent);
        assert!(report.streams.values().filter(|stream| stream.packets > 0).all(|stream| stream.sender_reports > 0));
    }

    let fourth = Guest::join(&server, "three", Settings::new(4)).await;
    let report = fourth.perceives(&[1, 2, 3], 100, 40).await;
    assert_sound(&report);
    assert_complete(&report, &[1, 2, 3]);
    assert_slots(&report, &[1, 2, 3]);
    let id = report.peer.clone();
    for guest in &guests {
        assert_slots(&guest.perceives(&[4], 50, 20).await, &[4]);
    }
    fourth.peer.leave().await;
    for guest in &guests {
        let left = (id.clone(), LeaveReason::Left);
        let is_seated = |report: &Report| report.slots.iter().any(|slot| slot.peer.as_ref() == Some(&id));
        // The slots are a signal of their own, which follows.
        guest.sees("the fourth leave", |report| report.left.contains(&left) && !is_seated(report)).await;
    }
    for (guest, report) in guests.iter().zip(converse(&guests, 50, 20).await) {
        assert_sound(&report);
        assert_complete(&report, &others(&guests, guest.id));
    }
}

#[tokio::test]
async fn who_cannot_use_udp_is_heard_and_seen_over_tcp() {
    let server = Server::start();
    let over_tcp = |id| Settings { is_tcp: true, ..Settings::new(id) };
    let guests = join_all(&server, "tcp", [over_tcp(1), Settings::new(2), over_tcp(3)]).await;
    for (guest, report) in guests.iter().zip(converse(&guests, 200, 80).await) {
        let others = others(&guests, guest.id);
        assert_sound(&report);
        assert_complete(&report, &others);
        assert_slots(&report, &others);
        guest.hears_in_sync(&others).await;
        assert!(report.sent.arrivals > 100 && report.sent.arrivals_lost == 0, "{:?}", report.sent);
    }
}

#[tokio::test]
async fn eight_fill_a_room_and_a_ninth_is_told() {
    let server = Server::start();
    let camera = CameraSettings { fps: 10, frame_len: 1500 };
    // Without an estimate: on a busy machine packets are late, and with one the server would rightly leave videos out for a moment.
    let settings = |id| Settings { camera, tells_arrivals: false, ..Settings::new(id) };
    let guests = join_all(&server, "eight", (1..=8).map(settings)).await;
    converse(&guests, 50, 10).await;
    let ninth = Guest::join(&server, "eight", settings(9)).await;
    let report = ninth.sees("that the room is full", |report| !report.errors.is_empty()).await;
    assert_eq!((report.errors[0].0, report.answers), (ErrorCode::RoomFull, 0));
    for (guest, report) in guests.iter().zip(converse(&guests, 50, 10).await) {
        let others = others(&guests, guest.id);
        assert_sound(&report);
        assert_complete(&report, &others);
        assert_slots(&report, &others);
        assert!(!report.others.contains_key(&ninth.peer.report().peer));
    }
}

#[tokio::test]
async fn noise_on_the_media_port_disturbs_nobody() {
    let server = Server::start();
    let guests = join_all(&server, "noise", (1..=2).map(Settings::new)).await;
    converse(&guests, 20, 10).await;
    let to = guests[0].peer.report().ice.selected.unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    // First bytes of STUN, DTLS, RTP, RTCP and nothing, of many lengths.
    let mut state = 1u32;
    for i in 0..2000usize {
        let mut noise = vec![0; 1 + i % 1300];
        noise.fill_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        noise[0] = [0, 22, 128, 129, 77][i % 5];
        stranger.send_to(&noise, to).unwrap();
        if i % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    for (guest, report) in guests.iter().zip(converse(&guests, 50, 20).await) {
        assert_sound(&report);
        assert_complete(&report, &others(&guests, guest.id));
    }
}

#[tokio::test]
async fn what_is_lost_both_ways_is_repaired() {
    let server = Server::start();
    let guests = join_all(&server, "loss", (1..=3).map(Settings::new)).await;
    converse(&guests, 10, 10).await;
    // 5 % of RTP and RTCP, each way, for each.
    guests.iter().for_each(|guest| guest.peer.set_loss(Loss { sent_every: Some(20), received_every: Some(20) }));
    converse(&guests, 400, 180).await;
    // Then what was lost last is repaired, too.
    guests.iter().for_each(|guest| guest.peer.set_loss(Loss::default()));
    for (guest, report) in guests.iter().zip(converse(&guests, 50, 50).await) {
        assert_eq!(report.corrupt(), 0);
        assert_eq!(OddReport { early: 0, ..report.odd }, OddReport::default());
        for id in others(&guests, guest.id) {
            let (video, audio) = (report.track(id, Kind::Video), report.track(id, Kind::Audio));
            assert_eq!((video.skipped, video.reordered), (0, 0), "{report:#?}");
            assert!(audio.skipped > 0, "audio has no repair, so there was no loss: {report:#?}");
            let stream = &report.streams[&video.mid];
            assert!(stream.repaired > 10 && stream.lost == 0, "{stream:?}");
        }
        // The server asked for what it missed, and got it.
        assert!(report.sent.repairs > 10, "{:?}", report.sent);
        assert!(report.sent.reported_lost > 0 && report.sent.arrivals_lost > 0, "{:?}", report.sent);
    }
}

#[tokio::test]
async fn who_loses_packets_is_shown_as_weak_and_then_as_good_again() {
    let server = Server::start();
    let guests = join_all(&server, "weak", (1..=3).map(Settings::new)).await;
    converse(&guests, 10, 10).await;
    // Packets are lost on their way from the first, and on their way to the second.
    guests[0].peer.set_loss(Loss { sent_every: Some(6), received_every: None });
    guests[1].peer.set_loss(Loss { sent_every: None, received_every: Some(6) });
    let ids: Vec<String> = guests.iter().map(|guest| guest.peer.report().peer).collect();
    let shown = |report: &Report, at: usize| report.others[&ids[at]].quality;
    guests[2].sees("two weak connections", |report| [0, 1].iter().all(|&at| shown(report, at) == Quality::Weak)).await;
    // What the first loses is lost for all who receive it, but none of them has a bad connection for that.
    let (begun, mut is_good) = (Instant::now(), true);
    let look = |report: &Report| {
        is_good &= shown(report, 2) == Quality::Good;
        shown(report, 1) == Quality::Weak && begun.elapsed() > Duration::from_secs(8)
    };
    guests[0].sees("the others", look).await;
    assert!(is_good, "the third loses nothing of its own");
    // Who comes now knows it from the list.
    let late = Guest::join(&server, "weak", Settings::new(4)).await;
    late.sees("who is weak", |report| report.others.len() == 3 && shown(report, 0) == Quality::Weak).await;
    guests.iter().for_each(|guest| guest.peer.set_loss(Loss::default()));
    for guest in [&guests[2], &late] {
        guest.sees("good ones again", |report| [0, 1].iter().all(|&at| shown(report, at) == Quality::Good)).await;
    }
}

#[tokio::test]
async fn a_muted_track_is_told_and_comes_back() {
    let server = Server::start();
    let guests = join_all(&server, "mute", (1..=2).map(Settings::new)).await;
    converse(&guests, 50, 20).await;
    let [first, second] = &guests[..] else { unreachable!() };
    let track = |mid: &str| format!("{}/{mid}", first.peer.report().peer);

    for active in [false, true] {
        first.peer.set_microphone(active);
        first.peer.set_camera(active);
        let report = second
            .sees("both tracks switched", |report| {
                [Peer::MICROPHONE, Peer::CAMERA].iter().all(|mid| report.switched.contains(&(track(mid), active)))
            })
            .await;
        let tracks = &report.others[&first.peer.report().peer].tracks;
        assert!(tracks.iter().filter(|info| !info.track.ends_with("/2")).all(|info| info.active == active));
        if active {
            let report = second.perceives(&[1], 50, 20).await;
            assert_sound(&report);
            assert_complete(&report, &[1]);
            assert!(report.track(1, Kind::Video).keyframes >= 2);
        } else {
            // What was on its way arrives; then it is silent while the other direction goes on.
            first.perceives(&[2], 25, 10).await;
            let before = second.peer.report().track(1, Kind::Audio).intact;
            first.perceives(&[2], 50, 20).await;
            assert_eq!(second.peer.report().track(1, Kind::Audio).intact, before);
        }
    }
}

#[tokio::test]
async fn peers_of_all_srtp_profiles_interwork() {
    let server = Server::start();
    let offers: [(&[Profile], Profile); 4] = [
        (&CHROMIUM, Profile::Gcm128),
        (&[Profile::Cm80], Profile::Cm80),
        (&[Profile::Gcm256], Profile::Gcm256),
        (&[Profile::Gcm128, Profile::Gcm256, Profile::Cm80], Profile::Gcm128),
    ];
    let settings = |(id, profiles): (u32, &[Profile])| Settings { profiles: profiles.to_vec(), ..Settings::new(id) };
    let guests = join_all(&server, "profiles", (1..).zip(offers.map(|(profiles, _)| profiles)).map(settings)).await;
    for ((guest, report), (_, agreed)) in guests.iter().zip(converse(&guests, 100, 40).await).zip(offers) {
        assert_eq!(report.profile, Some(agreed));
        assert_sound(&report);
        assert_complete(&report, &others(&guests, guest.id));
    }
}

#[tokio::test]
async fn a_peer_that_changes_its_address_stays() {
    let server = Server::start();
    let guests = join_all(&server, "move", (1..=2).map(Settings::new)).await;
    converse(&guests, 50, 20).await;
    for _ in 0..3 {
        let address = guests[0].peer.change_address().await.unwrap();
        guests[0].sees("its new address confirmed", |report| report.ice.mapped == Some(address)).await;
        for (guest, report) in guests.iter().zip(converse(&guests, 50, 20).await) {
            assert_sound(&report);
            assert_complete(&report, &others(&guests, guest.id));
        }
    }
}

#[tokio::test]
async fn media_flows_while_the_controlplane_is_dead_and_peers_resume() {
    let server = Server::start();
    let mut guests = join_all(&server, "crash", (1..=3).map(Settings::new)).await;
    converse(&guests, 50, 20).await;
    let slots: Vec<_> = guests.iter().map(|guest| guest.peer.report().slots).collect();

    server.kill("controlplane").await;
    for guest in &guests {
        guest.sees("its socket closed", |report| !report.is_signalled).await;
    }
    converse(&guests, 100, 40).await;
    for (guest, slots) in guests.iter().zip(slots) {
        resume(&server, "crash", guest).await;
        let report = guest.sees("that it was resumed", |report| report.resumed == 1).await;
        assert_eq!(report.slots, slots);
    }

    guests.push(Guest::join(&server, "crash", Settings::new(4)).await);
    for (guest, report) in guests.iter().zip(converse(&guests, 100, 40).await) {
        let others = others(&guests, guest.id);
        assert_eq!(report.corrupt(), 0, "{report:#?}");
        assert_eq!((report.offers, report.answers, report.handshakes), (1, 1, 1));
        assert_complete(&report, &others);
        assert_slots(&report, &others);
        for id in others {
            let gap = report.track(id, Kind::Audio).gap_max;
            assert!(gap < Duration::from_secs(2), "{gap:?} of silence from {id}");
        }
    }
}

/// Tries until the new controlplane lets it back.
async fn resume(server: &Server, room: &str, guest: &Guest) {
    let link = server.link(room, &format!("guest-{}", guest.id)).await;
    let begun = std::time::Instant::now();
    while let Err(error) = guest.peer.resume(&link).await {
        assert!(begun.elapsed() < DEADLINE, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_room_on_two_cores_is_one_room() {
    let server = Server::with(2, &["room-peers-per-worker=2"]);
    // Without an estimate, as in the room of eight.
    let settings = |id| Settings { tells_arrivals: false, ..Settings::new(id) };
    let mut guests = join_all(&server, "cores", (1..=4).map(settings)).await;
    for (guest, report) in guests.iter().zip(converse(&guests, 100, 40).await) {
        let others = others(&guests, guest.id);
        assert_sound(&report);
        assert_complete(&report, &others);
        assert_slots(&report, &others);
        guest.hears_in_sync(&others).await;
    }
    let ports: Vec<u16> = guests.iter().map(|guest| guest.peer.report().ice.selected.unwrap().port()).collect();
    assert!(ports[0] == ports[1] && ports[2] == ports[3] && ports[0] != ports[2], "two and two: {ports:?}");

    // 5 % of RTP and RTCP, each way, for each; then what was lost last is repaired, too.
    guests.iter().for_each(|guest| guest.peer.set_loss(Loss { sent_every: Some(20), received_every: Some(20) }));
    converse(&guests, 200, 90).await;
    guests.iter().for_each(|guest| guest.peer.set_loss(Loss::default()));
    for (guest, report) in guests.iter().zip(converse(&guests, 50, 50).await) {
        assert_eq!(report.corrupt(), 0);
        for id in others(&guests, guest.id) {
            let video = report.track(id, Kind::Video);
            assert_eq!((video.skipped, video.reordered), (0, 0), "{report:#?}");
            assert!(report.streams[&video.mid].repaired > 5, "{report:#?}");
        }
    }

    // Nothing of what crosses needs the controlplane.
    server.kill("controlplane").await;
    for guest in &guests {
        guest.sees("its socket closed", |report| !report.is_signalled).await;
    }
    converse(&guests, 100, 40).await;
    for guest in &guests {
        resume(&server, "cores", guest).await;
        guest.sees("that it was resumed", |report| report.resumed == 1).await;
    }

    // Somebody goes, and another comes, who waits for a keyframe of everybody.
    guests.remove(0).peer.leave().await;
    guests.push(Guest::join(&server, "cores", Settings::new(5)).await);
    for (guest, report) in guests.iter().zip(converse(&guests, 100, 40).await) {
        let others = others(&guests, guest.id);
        assert_eq!(report.corrupt(), 0, "{report:#?}");
        assert_eq!((report.offers, report.answers, report.handshakes), (1, 1, 1));
        assert_slots(&report, &others);
        for id in others {
            let gap = report.track(id, Kind::Audio).gap_max;
            assert!(gap < Duration::from_secs(2), "{gap:?} of silence from {id}");
        }
    }
    assert_eq!(guests[3].peer.report().ice.selected.unwrap().port(), ports[0], "the place that was left");
}

#[tokio::test]
async fn peers_of_a_dead_dataplane_are_told_to_join_again() {
    let server = Server::start();
    let guests = join_all(&server, "restart", (1..=2).map(Settings::new)).await;
    converse(&guests, 50, 20).await;
    server.kill("dataplane").await;
    for guest in guests {
        let bye = Some((LeaveReason::MediaRestarted, true));
        guest.sees("a bye", |report| report.bye == bye).await;
    }
    let mut guests = Vec::new();
    for id in [3, 4] {
        guests.push(join_again(&server, "restart", id).await);
    }
    for (guest, report) in guests.iter().zip(converse(&guests, 100, 40).await) {
        assert_sound(&report);
        assert_complete(&report, &others(&guests, guest.id));
    }
}

/// Tries until a dataplane is linked: before that an offer is answered by an error.
async fn join_again(server: &Server, room: &str, id: u32) -> Guest {
    let begun = std::time::Instant::now();
    loop {
        let guest = Guest::join(server, room, Settings::new(id)).await;
        let report = guest.sees("an answer or an error", |r| r.answers > 0 || !r.errors.is_empty()).await;
        if report.answers > 0 {
            return guest;
        }
        assert!(begun.elapsed() < DEADLINE, "{:?}", report.errors);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn sigterm_ends_everything() {
    let mut server = Server::start();
    let guests = join_all(&server, "end", (1..=2).map(Settings::new)).await;
    converse(&guests, 20, 10).await;
    assert_eq!(server.processes().len(), 3);
    let (status, _) = server.terminate(Duration::from_secs(5)).await;
    assert!(status.success(), "{status}");
    for guest in &guests {
        let bye = guest.sees("a bye", |report| report.bye.is_some()).await.bye;
        assert_eq!(bye.map(|(reason, _)| reason), Some(LeaveReason::ServerStopping));
    }
    until("the end of all processes", || server.processes().is_empty()).await;
}

#[tokio::test]
async fn a_stop_is_told_while_media_flows_and_who_comes_back_is_let_in_at_once() {
    const FULL: &[&str] = &["peers-max=2"];
    let mut server = Server::with(1, FULL);
    let guests = join_all(&server, "again", (1..=2).map(Settings::new)).await;
    converse(&guests, 20, 10).await;
    let tokens = [server.link("again", "guest-1").await, server.link("again", "guest-2").await];
    // A client that does not answer the goodbye holds the controlplane's end up for a second.
    let elsewhere = server.link("elsewhere", "Slow").await;
    let slow = Socket::connect(&elsewhere).await.unwrap();
    tokio::join!(server.restart(FULL), async {
        for guest in &guests {
            let bye = guest.sees("a bye", |report| report.bye.is_some()).await.bye;
            assert_eq!(bye, Some((LeaveReason::ServerStopping, true)));
        }
        guests[0].perceives(&[2], 10, 4).await; // Media flows on after it was told.
    });
    drop(slow);
    // The same tokens open the room again, whose two places are free.
    let again = [(3, &tokens[0]), (4, &tokens[1])];
    let mut guests = Vec::new();
    for (id, link) in again {
        let peer = Peer::join(&server.here(link), Settings::new(id)).await.unwrap();
        let guest = Guest { id, peer };
        let report = guest.sees("an answer or an error", |r| r.answers > 0 || !r.errors.is_empty()).await;
        assert!(report.errors.is_empty(), "{report:#?}");
        guests.push(guest);
    }
    converse(&guests, 20, 10).await;
}

/// A tab that crashes: everything of it ends without a word.
#[tokio::test]
async fn who_crashes_in_a_full_room_is_back_by_the_same_link_at_once() {
    let server = Server::with(1, &["peers-max=2"]);
    let link = server.link("full", "guest-1").await;
    let crashed = Guest { id: 1, peer: Peer::join(&link, Settings::new(1)).await.unwrap() };
    let other = Guest::join(&server, "full", Settings::new(2)).await;
    crashed.perceives(&[2], 20, 10).await;
    drop(crashed); // As a crash: nothing is said to anybody.
    let begun = std::time::Instant::now();
    let back = Guest { id: 3, peer: Peer::join(&link, Settings::new(3)).await.unwrap() };
    back.perceives(&[2], 20, 10).await;
    other.perceives(&[3], 20, 10).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: it need not wait for anything", begun.elapsed());
    let report = other.peer.report();
    assert_eq!(report.others.len(), 1, "{report:#?}");
    assert_eq!(server.metric("uprtc_peers_replaced_total"), 1);
    // A stranger is refused: both are there.
    let stranger = Guest::join(&server, "full", Settings::new(4)).await;
    let errors = stranger.sees("an error", |report| !report.errors.is_empty()).await.errors;
    assert!(errors.iter().any(|error| error.0 == ErrorCode::RoomFull), "{errors:?}");
}

/// Nothing comes from a peer any more, and its socket is gone: within ten seconds a stranger has its place.
#[tokio::test]
async fn a_stranger_takes_the_place_of_who_is_gone_long_before_consent_ends() {
    let server = Server::with(1, &["peers-max=2"]);
    let guests = join_all(&server, "gone", (1..=2).map(Settings::new)).await;
    converse(&guests, 20, 10).await;
    let mut guests = guests.into_iter();
    let (crashed, other) = (guests.next().unwrap(), guests.next().unwrap());
    drop(crashed); // As a crash: nothing is said to anybody.
    let begun = std::time::Instant::now();
    let stranger = loop {
        let stranger = Guest::join(&server, "gone", Settings::new(3)).await;
        let report = stranger.sees("an answer or an error", |r| r.answers > 0 || !r.errors.is_empty()).await;
        if report.answers > 0 {
            break stranger;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let took = begun.elapsed();
    assert!((Duration::from_secs(6)..Duration::from_secs(13)).contains(&took), "{took:?}");
    stranger.perceives(&[2], 20, 10).await;
    other.perceives(&[3], 20, 10).await;
}

/// Peers at the end of a cable, and the edge at its other end, which sends Ethernet frames. It takes root: the test starts
/// itself again in a network of its own.
#[test]
fn a_call_over_frames() {
    network::run_within("a_call_over_frames_inside", "a call over frames, which takes root and unshare");
}

#[tokio::test]
#[ignore = "started by a_call_over_frames, in a network of its own"]
async fn a_call_over_frames_inside() {
    let cable = Cable::lay();
    let server = Server::start_at(&cable, &["--io", "frames", "--set", "metrics=all"]);
    let settings = |id| Settings { ip: Cable::CLIENTS.into(), ..Settings::new(id) };
    let guests = join_all(&server, "frames", (1..=3).map(settings)).await;
    for (guest, report) in guests.iter().zip(converse(&guests, 200, 80).await) {
        let others = others(&guests, guest.id);
        assert_sound(&report);
        assert_complete(&report, &others);
        guest.hears_in_sync(&others).await;
    }
    let frames = server.metric("uprtc_worker_sent_frames_total");
    let sent = server.metric("uprtc_worker_sent_total");
    assert!(frames * 2 > sent, "{frames} frames of {sent} packets: trains go by the socket, most go as frames");
}
