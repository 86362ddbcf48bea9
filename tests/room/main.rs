//! Peers of the `client` crate's `room` in rooms of a running `uprtc run`: what they are told and brought, while planes are killed;
//! and `uprtc record`, `uprtc live` and `uprtc feed`, which are such peers.

mod cost;
mod feeding;
#[path = "../harness/mod.rs"]
mod harness;
mod live;
mod media;
mod orders;
mod recording;
#[path = "../require/mod.rs"]
mod require;
mod server;
mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::room::{Codec, EndReason, Event, JoinError, Packet, Room};
use proto::signal::{ErrorCode, Kind, LeaveReason, VideoCodec};

use server::{Server, wait};

/// Bytes that a worker takes for an H.264 keyframe: parameter sets and a slice of it, each with its NAL unit's header. The slice
/// has a number.
fn keyframe(number: u32) -> [Vec<u8>; 3] {
    let slice = [&[SLICE][..], &number.to_be_bytes()].concat();
    [vec![0x67, 0x42, 0xe0, 0x1f], vec![0x68, 0xce, 0x3c, 0x80], slice]
}

/// NAL unit header of a slice of a keyframe.
const SLICE: u8 = 0x65;

/// Talks until it is told to stop, 50 packets of audio and 25 pictures a second, then leaves.
async fn talk(mut room: Room, stop: Arc<AtomicBool>) {
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    let mut number = 0u32;
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            _ = interval.tick() => {
                // Who has to join anew has no task for a moment, and its queue may be full.
                let _ = room.send_audio(960 * number, number.to_be_bytes().to_vec());
                if number.is_multiple_of(2) {
                    let timestamp = 1800 * number;
                    for nal in keyframe(number) {
                        let _ = room.send_video(timestamp, nal[0] == SLICE, nal);
                    }
                }
                number += 1;
            }
            event = room.next() => assert!(!matches!(event, Event::Ended(_)), "{event:?}"),
        }
    }
    room.leave().await;
}

struct Talker {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Talker {
    async fn join(server: &Server, room: &str, name: &str) -> Talker {
        let mut settings = server.settings(room, name);
        (settings.sends_audio, settings.sends_video) = (true, Some(VideoCodec::H264));
        let (stop, room) = (Arc::new(AtomicBool::new(false)), Room::join(settings).await.unwrap());
        Talker { task: tokio::spawn(talk(room, Arc::clone(&stop))), stop }
    }

    async fn leave(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

fn packet(event: Event) -> Option<Packet> {
    if let Event::Packet(packet) = event { Some(packet) } else { None }
}

/// Takes audio for so long: how many packets, and that the numbers in them ascend without a hole.
async fn hear(room: &mut Room, time: Duration) -> u32 {
    let (begun, mut last, mut count) = (Instant::now(), None, 0);
    while begun.elapsed() < time {
        let packet = wait(room, "audio", |event| packet(event).filter(|packet| packet.codec == Codec::Opus)).await;
        let said = u32::from_be_bytes(packet.payload[..].try_into().unwrap());
        assert!(last.is_none_or(|last| said == last + 1), "{said} after {last:?}");
        (last, count) = (Some(said), count + 1);
    }
    count
}

#[tokio::test]
async fn a_peer_hears_sees_and_is_told_who_it_is_while_the_controlplane_is_killed() {
    let server = Server::start();
    let mut listener = Room::join(server.settings("r", "Listener")).await.unwrap();
    wait(&mut listener, "its own join", |event| {
        matches!(event, Event::Joined { room, .. } if room == "r").then_some(())
    })
    .await;
    let talker = Talker::join(&server, "r", "Talker").await;
    let info =
        wait(&mut listener, "the talker", |event| if let Event::PeerJoined(info) = event { Some(info) } else { None })
            .await;
    assert_eq!((&info.name[..], info.tracks.len()), ("Talker", 2));

    // Who is in which slot, in which codec, and by which clock. Sound and picture of one number were sent at once.
    let (mut contents, mut codecs, mut clocks, mut times) =
        (Vec::new(), HashMap::new(), HashMap::new(), HashMap::new());
    let (audio, video) = wait(&mut listener, "sound and picture of one number, and both clocks", |event| {
        match event {
            Event::Slots(slots) => contents = slots,
            Event::Clock(clock) => drop(clocks.insert(clock.slot, clock)),
            Event::Packet(Packet { slot, codec, header, payload, .. }) => {
                codecs.insert(slot, codec);
                let (rate, number) = match &payload[..] {
                    [SLICE, number @ ..] => (90_000.0, number),
                    number if codec == Codec::Opus => (48_000.0, number),
                    _ => return None,
                };
                let clock = clocks.get(&slot)?;
                let ticks = f64::from(header.timestamp.wrapping_sub(clock.rtp_time) as i32);
                let at = clock.ntp_time as f64 / (1u64 << 32) as f64 + ticks / rate;
                let number = u32::from_be_bytes(number.try_into().unwrap());
                let other = times.insert(number, (slot, at)).filter(|other: &(usize, f64)| other.0 != slot)?;
                return Some(if codec == Codec::Opus { (at, other.1) } else { (other.1, at) });
            }
            _ => (),
        }
        None
    })
    .await;
    assert!((audio - video).abs() < 0.005, "{audio} {video}: their clocks differ");
    for content in contents.iter().filter(|content| content.peer.as_ref() == Some(&info.peer)) {
        let codec = if content.kind == Kind::Audio { Codec::Opus } else { Codec::Video(VideoCodec::H264) };
        assert_eq!(codecs.get(&content.slot), Some(&codec), "{content:?}");
    }
    assert_eq!(contents.iter().filter(|content| content.peer.is_some()).count(), 2, "{contents:?}");

    // Media does not depend on the controlplane.
    let before = hear(&mut listener, Duration::from_secs(1)).await;
    server.kill(&["controlplane"]);
    let (mut is_interrupted, mut during) = (false, 0);
    wait(&mut listener, "the signalling socket again", |event| {
        match event {
            Event::Interrupted => is_interrupted = true,
            Event::Packet(packet) => during += u32::from(packet.codec == Codec::Opus),
            Event::Resumed => return Some(()),
            Event::Joined { .. } => panic!("it joined anew"),
            _ => (),
        }
        None
    })
    .await;
    assert!(is_interrupted && during > 0, "{during}");
    assert!(before > 35 && hear(&mut listener, Duration::from_secs(1)).await > 35);
    talker.leave().await;
    let left = wait(&mut listener, "the talker to leave", |event| match event {
        Event::PeerLeft { peer, reason } => Some((peer, reason)),
        _ => None,
    });
    assert_eq!(left.await, (info.peer, LeaveReason::Left));
    assert_eq!(listener.overflowed(), 0);
    listener.leave().await;
}

#[tokio::test]
async fn a_peer_that_nobody_knows_any_more_joins_anew() {
    let server = Server::start();
    let talker = Talker::join(&server, "r", "Talker").await;
    let mut listener = Room::join(server.settings("r", "Listener")).await.unwrap();
    wait(&mut listener, "media", packet).await;
    server.kill(&["controlplane", "dataplane"]);
    let mut joins = 0;
    wait(&mut listener, "another join and media", |event| {
        joins += u32::from(matches!(event, Event::Joined { .. }));
        packet(event).filter(|_| joins > 0)
    })
    .await;
    assert!(hear(&mut listener, Duration::from_secs(1)).await > 35);
    listener.leave().await;
    talker.leave().await;
}

#[tokio::test]
async fn who_is_refused_or_removed_is_told_why() {
    let server = Server::start();
    let mut settings = server.settings("r", "Nobody");
    settings.token = "no.to.ken".to_owned();
    let error = Room::join(settings).await.unwrap_err();
    assert!(client::room::is_final(&error) && error.to_string().contains("token_malformed"), "{error}");
    let mut settings = server.settings("r", "Nobody");
    (settings.audio_slots, settings.video_slots) = (Some(0), Some(0));
    let error = Room::join(settings).await.unwrap_err();
    assert!(
        matches!(error, JoinError::Refused { code: ErrorCode::UnsupportedOffer | ErrorCode::BadSdp, .. }),
        "{error}"
    );

    let mut room = Room::join(server.settings("r", "Ada")).await.unwrap();
    let peer =
        wait(&mut room, "its id", |event| if let Event::Joined { peer, .. } = event { Some(peer) } else { None }).await;
    let admin = ["token", "--state", server.folder.path(), "--room", "*", "--name", "a", "--admin"];
    let token = String::from_utf8(harness::uprtc(&admin).output().unwrap().stdout).unwrap();
    let (path, token) = (format!("/v1/rooms/r/peers/{peer}"), token.trim());
    let request = client::http::Request { method: "DELETE", path: &path, token: Some(token), content: None };
    let address = client::http::Server::plain(&server.http);
    let response = address.request(request, Duration::from_secs(10)).await.unwrap();
    assert!((200..300).contains(&response.status), "{response:?}");
    let ended = loop {
        if let Event::Ended(reason) = room.next().await {
            break reason;
        }
    };
    assert_eq!(ended, EndReason::Bye(LeaveReason::Removed));
    assert!(matches!(room.next().await, Event::Ended(_)), "and it stays so");
}
