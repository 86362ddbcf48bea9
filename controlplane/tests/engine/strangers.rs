//! The captured offers (`offers/README.md`) at the two doors of the engine, in virtual time: each client joins a room with what
//! it really offers, and the worker is told what it needs to tell its streams apart.

use std::fs;
use std::path::Path;

use controlplane::dtls::Dtls;
use controlplane::engine::{Grant, ResourceError, ResourceReply, ResourceRequest, Settings};
use proto::plane::{Codec, StreamOpen};
use proto::signal::ErrorCode;

use crate::world::{self, Client, World, grant};

fn offer(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offers").join(format!("{name}.sdp"));
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// ICE and DTLS in the role that the answer leaves to the client.
fn connect(world: &mut World, client: &mut Client) {
    if client.answer.contains("a=setup:passive") {
        return world.connect(client);
    }
    client.dtls = Some(Dtls::accept(&client.identity, world.now).unwrap());
    world.check(client);
    world.exchange(client);
    assert!(client.connected.is_some());
}

/// Joins over the socket.
fn join(world: &mut World, name: &str) -> Result<Client, ErrorCode> {
    join_with(world, name, &offer(name))
}

/// Joins over the socket with this offer.
fn join_with(world: &mut World, name: &str, sdp: &str) -> Result<Client, ErrorCode> {
    let mut client = world.guest("blue", grant(name));
    world.offer(&mut client, sdp, Vec::new())?;
    connect(world, &mut client);
    Ok(client)
}

/// Publishes over WHIP.
fn publish(world: &mut World, name: &str) -> Result<Client, ResourceError> {
    let grant = Grant { subscribe: false, ..grant(name) };
    let mut client = world.guest("elsewhere", grant.clone());
    world.close(client.socket);
    let sdp = world::with_fingerprint(&offer(name), &client.identity);
    let reply = world.ask(ResourceRequest::Open { room: "blue".into(), grant, from: Vec::new(), sdp })?;
    world.carry();
    let ResourceReply::Opened { sdp, tag, .. } = reply else { panic!("{reply:?}") };
    client.answer = sdp;
    let opens = world.worker().peers.values().map(|peer| peer.open);
    client.peer = opens.into_iter().find(|open| open.ufrag == tag.as_bytes()).map(|open| open.peer);
    connect(world, &mut client);
    Ok(client)
}

/// What the worker knows of a client's streams, video last.
fn streams(world: &mut World, client: &Client) -> Vec<StreamOpen> {
    let mut streams: Vec<_> =
        world.worker().streams.values().copied().filter(|open| Some(open.peer) == client.peer).collect();
    streams.sort_by_key(|open| open.codec.is_video());
    streams
}

/// Eight at a time, as many as a room has places.
#[test]
fn all_of_them_meet() {
    let names = [
        "chromium_page",
        "firefox_page",
        "safari",
        "libwebrtc_106",
        "aiortc",
        "werift",
        "libdatachannel",
        "ffmpeg",
        "gstreamer",
        "gstreamer_early",
        "gstreamer_play",
    ];
    for names in names.chunks(8) {
        let mut world = World::new();
        for name in names {
            let client = join(&mut world, name).unwrap_or_else(|code| panic!("{name}: {code:?}"));
            let peer = &world.worker().peers[&client.peer.unwrap().index];
            assert!(peer.rx.is_some() && peer.tx.is_some(), "{name}");
        }
        assert!(world.worker().refused.is_empty(), "{:?}", world.worker().refused);
        assert_eq!(world.worker().peers.len(), names.len());
    }
}

#[test]
fn publishers_without_header_extensions_are_known_by_what_they_announce() {
    let mut world = World::new();
    let ffmpeg = publish(&mut world, "ffmpeg").unwrap();
    assert!(ffmpeg.answer.contains("a=setup:active\r\n"));
    let known: Vec<_> =
        streams(&mut world, &ffmpeg).iter().map(|s| (s.codec, s.pt, s.rtx_pt, s.ssrc, s.rtx_ssrc)).collect();
    let video = (Codec::H264, 106, 105, 2_363_151_762, 2_363_151_763);
    assert_eq!(known, [(Codec::Opus, 111, 0, 2_363_151_761, 0), video]);

    // No SSRC, no extension for the MID: the payload types are all there is, and they differ.
    let early = publish(&mut world, "gstreamer_early").unwrap();
    let known: Vec<_> = streams(&mut world, &early).iter().map(|s| (s.codec, s.pt, s.ssrc, s.rtx_ssrc)).collect();
    assert_eq!(known, [(Codec::Opus, 97, 0, 0), (Codec::H264, 96, 0, 0)]);
    assert!(!early.answer.contains("extmap"));
}

/// What pages did before rids, by editing the offer (`ssrc-group:SIM`): the encodings are listed from the smallest picture to
/// the largest.
#[test]
fn the_encodings_of_old_simulcast_are_one_stream_of_the_best() {
    let mut world = World::new();
    let sdp = offer("chromium_sendrecv").replace(
        "a=ssrc-group:FID 712528808 4113694763",
        "a=ssrc-group:SIM 712528808 22 33\r\na=ssrc-group:FID 712528808 4113694763\r\na=ssrc-group:FID 22 23\r\n\
         a=ssrc-group:FID 33 34\r\na=ssrc:22 cname:x\r\na=ssrc:23 cname:x\r\na=ssrc:33 cname:x\r\na=ssrc:34 cname:x",
    );
    let client = join_with(&mut world, "page", &sdp).unwrap();
    let video = streams(&mut world, &client)[1];
    assert_eq!((video.ssrc, video.rtx_ssrc), (33, 34));
    let encodings = world.worker().stream_encodings[&video.stream.index];
    assert_eq!((encodings.ssrcs, encodings.rtx_ssrcs), ([22, 712_528_808, 0], [23, 4_113_694_763, 0]));
    // A successor finds them, and asks for nothing else.
    let batches = world.worker().batches.len();
    world.restart_controlplane();
    assert_eq!(world.worker().batches.len(), batches + 1);
    assert_eq!(world.worker().stream_encodings[&video.stream.index], encodings);
    assert!(world.worker().refused.is_empty());
}

#[test]
fn parameter_sets_of_the_offer_are_told_to_the_worker() {
    let mut world = World::new();
    let client = publish(&mut world, "gstreamer").unwrap();
    let video = streams(&mut world, &client)[1];
    let parts = &world.worker().stream_sets[&video.stream.index];
    let bytes: Vec<u8> = parts.iter().flat_map(|part| &part.bytes[..part.len.into()]).copied().collect();
    let sps = b"\x67\x42\xc0\x0d\xda\x05\x06\x7e\x7c\x05\xa8\x30\x30\x35\x28\x00\x00\x03\x00\x08\x00\x00\x03\x00\xf4\x78\xa1\x55";
    assert_eq!(bytes, [&[sps.len() as u8], &sps[..], &[4, 0x68, 0xce, 0x3c, 0x80]].concat());
    let batches = world.worker().batches.len();
    world.restart_controlplane();
    assert_eq!(world.worker().batches.len(), batches + 1, "a successor finds them");
    let silent = publish(&mut world, "ffmpeg").unwrap();
    let video = streams(&mut world, &silent)[1];
    assert!(!world.worker().stream_sets.contains_key(&video.stream.index));
}

#[test]
fn data_channels_alone_are_enough_to_join_where_they_are_served() {
    let client = join(&mut World::new(), "chromium_datachannel_only").unwrap();
    assert!(client.answer.contains("a=sctp-port:5000\r\n"), "{}", client.answer);
    let mut without = World::with(Settings { data_bps_max: 0, ..Settings::default() }, 1);
    assert_eq!(join(&mut without, "chromium_datachannel_only").err(), Some(ErrorCode::UnsupportedOffer));
}

#[test]
fn what_has_no_media_is_refused() {
    let mut world = World::new();
    let refused = publish(&mut world, "gstreamer_play").err();
    assert!(
        matches!(refused, Some(ResourceError::Refused { code: ErrorCode::UnsupportedOffer, .. })),
        "a player at the publishers' door: {refused:?}"
    );
}
