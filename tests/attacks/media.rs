//! Attacks by who is in a room: with media, handshakes, addresses and tracks of his own.

use std::io::Read;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use proto::signal::Kind;

use crate::door::{join, say};
use crate::peer::{Door, Peer, identity};
use crate::scene::{ATTACKER, Limits, OTHER, Scene, is_full};

/// A microphone of 9.6 Mb/s in another room of the same worker: it is cut to what a microphone may send, the call loses nothing,
/// and the counter says why.
#[test]
fn a_microphone_that_floods_takes_nothing_from_another_room() {
    let scene = Scene::start(&[]);
    let report = scene.under(|attacker| {
        let media = ["--fps", "0", "--audio-rate", "1000", "--audio-bytes", "1200"];
        let mut flood = scene.load(&["--seconds", "2"]);
        let flood = flood.args(media).args(["broadcast", "--viewers", "3"]).output().expect("a load runs");
        assert!(!flood.stdout.is_empty(), "{}", String::from_utf8_lossy(&flood.stderr));
        attacker.rest();
    });
    let cut = scene.counter("uprtc_worker_dropped_audio_rate_total");
    assert!(cut > 100.0, "{cut} packets were cut: {report:?}");
    report.assert_within(&Limits::default());
}

/// A camera of 50 Mb/s into a room of four with the default policy: what is let in of it is what a camera of the room may send, and who speaks in
/// the same room is heard without a loss.
#[test]
fn a_publisher_of_50_megabits_is_cut_to_its_policy_and_the_room_loses_nothing() {
    /// Four times the share of video in a room of four, 376,554 bit/s, with a quarter more and 48 kb/s for headers (docs/decisions/0040).
    const POLICY_BPS: f64 = 1_930_770.0;
    const FLOOD_BPS: f64 = 50_000_000.0;
    let scene = Scene::start(&[]);
    let token = scene.token(&["--room", "flooded", "--name", "Mallory", "--publish", "--subscribe"]);
    let honest = scene.token(&["--room", "flooded", "--name", "Ada", "--publish", "--subscribe"]);
    let identity = identity();
    let (mut flooded, mut seconds, mut let_in, mut heard) = (0, 0.0, 0.0, Vec::new());
    let report = scene.under(|attacker| {
        let offer =
            |token: &str, door| Peer::offer((attacker.scene, OTHER), (door, "flooded"), token, &identity).unwrap();
        let mut peers = [Door::WhipVideo, Door::Whip, Door::WhepVideo, Door::WhepVideo]
            .map(|door| offer(if door == Door::WhipVideo { &token } else { &honest }, door));
        for peer in &mut peers {
            peer.connect();
        }
        let [mallory, speaker, listeners @ ..] = &mut peers;
        let begun = Instant::now();
        let (mut spoken, mut before) = (0.0, None);
        // The bucket has two seconds of the policy, and is empty after a tenth of a second.
        while attacker.goes_on() || begun.elapsed() < Duration::from_secs(4) {
            let elapsed = begun.elapsed().as_secs_f64();
            while (flooded as f64) < elapsed * FLOOD_BPS / 8.0 {
                flooded += mallory.show(1150, (elapsed * 90_000.0) as u32);
            }
            while spoken < elapsed * 50.0 {
                speaker.speak(80);
                spoken += 1.0;
            }
            for peer in [&mut *mallory, &mut *speaker].into_iter().chain(&mut *listeners) {
                peer.turn(true);
            }
            if before.is_none() && elapsed > 1.0 {
                before = Some((elapsed, listeners[0].heard_in(Kind::Video)[0].bytes));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        seconds = begun.elapsed().as_secs_f64();
        let (from, bytes) = before.expect("a second has passed");
        let_in = 8.0 * (listeners[0].heard_in(Kind::Video)[0].bytes - bytes) as f64 / (seconds - from);
        heard = listeners.iter().map(|listener| listener.heard_in(Kind::Audio)[0]).collect();
    });
    let sent = 8.0 * flooded as f64 / seconds;
    println!(
        "sent {:.1} Mb/s, let in {:.3} Mb/s, {:.3} times the policy of {:.3}; the speaker's packets: {heard:?}",
        sent / 1e6,
        let_in / 1e6,
        let_in / POLICY_BPS,
        POLICY_BPS / 1e6
    );
    assert!(sent > 4.0 * POLICY_BPS, "the flood is {sent} bit/s");
    assert!((0.8 * POLICY_BPS..1.1 * POLICY_BPS).contains(&let_in), "{let_in} bit/s are let in");
    assert!(heard.iter().all(|heard| heard.packets > 50 && heard.missing == 0), "{heard:?}");
    assert!(scene.counter("uprtc_worker_dropped_video_rate_total") > 100.0);
    report.assert_within(&Limits::default());
}

/// One token's peers begin DTLS, again and again, and end no handshake; somebody joins another room meanwhile.
#[test]
fn handshakes_of_one_room() {
    let settings = ["half-open-max=64", "handshakes-per-second=100", "peers-max=200", "posts-per-second=1000"];
    let scene = Scene::start(&settings.map(|setting| ["--set", setting]).concat());
    let greedy = scene.token(&["--room", "greedy", "--name", "Mallory", "--publish"]);
    let calm = scene.token(&["--room", "calm", "--name", "Ada", "--publish"]);
    let (crowd, identity) = (if is_full() { 190 } else { 80 }, identity());
    let mut joins = Vec::new();
    let report = scene.under(|attacker| {
        std::thread::scope(|threads| {
            let joining = threads.spawn(|| {
                let mut joins = Vec::new();
                while attacker.goes_on() {
                    std::thread::sleep(Duration::from_millis(500)); // The crowd is there before the first one comes.
                    let begun = Instant::now();
                    let room = (Door::Whip, "calm");
                    let mut peer = Peer::offer((attacker.scene, OTHER), room, &calm, &identity).expect("it is let in");
                    peer.connect();
                    joins.push(begun.elapsed());
                }
                joins
            });
            let mut peers: Vec<Peer> = Vec::new();
            while attacker.goes_on() {
                if peers.len() < crowd {
                    let room = (Door::Whip, "greedy");
                    peers.extend(Peer::offer((attacker.scene, ATTACKER), room, &greedy, &identity));
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
                for peer in &mut peers {
                    peer.turn(false);
                }
            }
            joins = joining.join().unwrap();
        });
    });
    report.assert_within(&Limits::default());
    let most = Duration::from_secs(if is_full() { 2 } else { 6 });
    assert!(!joins.is_empty() && joins.iter().all(|took| *took <= most), "{joins:?}");
    assert!(scene.counter("uprtc_dtls_over_share_total") > 0.0, "{report:?}");
    assert_eq!(scene.counter("uprtc_dtls_passed_over_total"), 0.0, "something is always left for others");
    let log = scene.log();
    let line = log.lines().find(|line| line.contains("dtls_over_share")).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("greedy"), "{line}");
}

/// A peer has its checks come "from" somebody else, with USE-CANDIDATE, and keeps its consent by checks from its own address: its downlink
/// went there, 4.4 MB in ten seconds for one packet.
#[test]
fn media_for_somebody_who_never_asked() {
    const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 99);
    const REQUEST: [u8; 2] = [0, 1]; // A Binding request (RFC 8489 section 5).
    let scene = Scene::start(&[]);
    let token = scene.token(&["--room", "attack", "--name", "Mallory", "--publish", "--subscribe"]);
    let identity = identity();
    let victim = UdpSocket::bind((VICTIM, 0)).unwrap();
    victim.set_nonblocking(true).unwrap();
    let (mut forged, mut reflected, mut heard) = (0, 0, (0, 0));
    let report = scene.under(|attacker| {
        let offer = |door| Peer::offer((attacker.scene, ATTACKER), (door, "attack"), &token, &identity).unwrap();
        let (mut speaker, mut listener) = (offer(Door::Whip), offer(Door::Whep));
        speaker.connect();
        listener.connect();
        let (begun, mut next, mut check) = (Instant::now(), Instant::now(), None);
        while attacker.goes_on() || heard.0 == 0 {
            speaker.turn(true);
            speaker.speak(400);
            // Its own checks, with USE-CANDIDATE once one was answered, are sent again from the other address.
            let now = Instant::now();
            while let Some((to, bytes)) = listener.transport.poll_transmit(now) {
                let _ = listener.udp.send_to(&bytes, to);
                if bytes.starts_with(&REQUEST) && listener.transport.ice().mapped().is_some() {
                    check = Some(bytes);
                }
            }
            listener.turn(true);
            if let Some(check) = check.as_ref().filter(|_| now >= next && listener.received > 20) {
                heard.0 = if heard.0 == 0 { listener.received } else { heard.0 }; // When the first one is forged.
                forged += victim.send_to(check, listener.server()).unwrap();
                next = now + Duration::from_millis(100);
            }
            let mut datagram = [0; 2048];
            while let Ok((len, _)) = victim.recv_from(&mut datagram) {
                reflected += len;
            }
            heard.1 = listener.received;
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is heard: {heard:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    report.assert_within(&Limits::default());
    assert!(forged > 0 && reflected <= 3 * forged, "{forged} bytes came from there, {reflected} were sent there");
    assert!(heard.1 > heard.0 && heard.1 > 50, "the listener goes on hearing: {heard:?}");
}

/// Somebody in a large room turns a track off and on as often as signals may come; everybody in it is told.
#[test]
fn toggles_in_a_large_room() {
    let scene = Scene::start(&["--set", "peers-max=1000"]);
    let (token, identity) =
        (scene.token(&["--room", "large", "--name", "Mallory", "--publish", "--subscribe"]), identity());
    let mut crowd: Vec<(TcpStream, Peer)> = (0..if is_full() { 300 } else { 30 })
        .map(|_| {
            let (socket, mut peer) = join(&scene, "large", &token, &identity);
            peer.connect();
            socket.set_nonblocking(true).unwrap();
            (socket, peer)
        })
        .collect();
    let (mut toggles, mut told) = (0, 0);
    let report = scene.under(|attacker| {
        let (mut mallory, mut own) = join(&scene, "large", &token, &identity);
        own.connect();
        while attacker.goes_on() {
            let signal = format!(r#"{{"type":"track","mid":"0","active":{}}}"#, toggles % 2 == 1);
            say(&mut mallory, &signal).expect("it stays in");
            toggles += 1;
            own.turn(true);
            let next = Instant::now() + Duration::from_millis(23); // A little less than 50 a second.
            for (socket, peer) in &mut crowd {
                peer.turn(true);
                let mut bytes = [0; 4096];
                while let Ok(len @ 1..) = socket.read(&mut bytes) {
                    told += len;
                }
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    report.assert_within(&Limits::default());
    assert!(toggles > 40 && told > 100 * crowd.len() * toggles / 2, "{toggles} toggles, {told} bytes of signals");
}
