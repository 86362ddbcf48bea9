//! Which codec a room speaks: H.264, or VP8 while somebody is in it who cannot decode H.264; or what it is set to.

use controlplane::engine::{Grant, OperatorRequest, ResourceReply, ResourceRequest, RoomPolicy};
use controlplane::policy::VideoCodecs;
use proto::plane::{Codec, PeerLimit, RouteCodec, RouteOpen, StreamOpen};
use proto::signal::{ClientSignal, LeaveReason, ServerSignal, VideoCodec};

use crate::world::{Client, PAGE, World, grant, page_tracks, with_fingerprint};

/// The page's offer by a browser that has H.264 no more, as Firefox without its plug-in.
fn without_h264() -> String {
    PAGE.replace(" H264/90000", " X264/90000")
}

fn join(world: &mut World, name: &str, offer: &str) -> Client {
    let mut client = world.guest("blue", grant(name));
    world.offer(&mut client, offer, page_tracks()).expect("an answer");
    world.connect(&mut client);
    client
}

/// The codecs told on a socket; takes all its signals.
fn told(world: &mut World, client: &Client) -> Vec<VideoCodec> {
    let codec = |signal| match signal {
        ServerSignal::Codec { video } => Some(video),
        _ => None,
    };
    world.drain(client.socket).into_iter().filter_map(codec).collect()
}

fn resume(world: &mut World, client: &mut Client) {
    client.socket = world.open(&client.room, grant("whoever"));
    world.say(client.socket, ClientSignal::Resume { session: client.session.clone() });
}

/// Routes of one client's camera to another's slots, and what was said of their second codec.
fn camera(world: &mut World, from: &Client, to: &Client) -> Vec<(RouteOpen, Option<RouteCodec>)> {
    let (from, to) = (from.peer.unwrap(), to.peer.unwrap());
    let worker = world.worker();
    let is_video = |route: &&RouteOpen| {
        let stream = &worker.streams[&route.stream.index];
        stream.peer == from && stream.codec.is_video() && worker.slots[&route.slot.index].peer == to
    };
    let with_codec = |route: &RouteOpen| (*route, worker.route_codecs.get(&route.route.index).copied());
    worker.routes.values().filter(is_video).map(with_codec).collect()
}

#[test]
fn a_peer_without_h264_moves_the_room_to_vp8_and_its_leaving_moves_it_back() {
    let mut world = World::new();
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    assert_eq!((told(&mut world, &ada), told(&mut world, &bob)), (vec![], vec![]), "H.264 needs no word");

    let fox = join(&mut world, "Fox", &without_h264());
    let vp8 = [VideoCodec::Vp8];
    assert_eq!(
        (told(&mut world, &ada), told(&mut world, &bob), told(&mut world, &fox)),
        (vp8.into(), vp8.into(), vp8.into())
    );
    let cyd = world.join("blue", "Cyd");
    assert_eq!(told(&mut world, &cyd), vp8, "who comes now is told too");
    assert!(told(&mut world, &ada).is_empty(), "and nobody else again");

    world.say(fox.socket, ClientSignal::Leave {});
    let h264 = [VideoCodec::H264];
    assert_eq!(
        (told(&mut world, &ada), told(&mut world, &bob), told(&mut world, &cyd)),
        (h264.into(), h264.into(), h264.into())
    );
    assert!(world.worker().refused.is_empty());
}

#[test]
fn routes_name_the_payload_types_of_both_codecs() {
    let mut world = World::new();
    let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
    let fox = join(&mut world, "Fox", &without_h264());
    assert!(fox.answer.contains(" VP8/90000") && !fox.answer.contains("264/90000"));
    assert!(ada.answer.contains(" UDP/TLS/RTP/SAVPF 108 109 96 97\r\n"), "H.264 first, VP8 second");

    let worker = world.worker();
    let of_ada = worker.streams_of(ada.peer.unwrap());
    let second: Vec<_> = of_ada.iter().filter_map(|stream| worker.stream_codecs.get(&stream.index)).collect();
    assert_eq!(second.len(), 2, "camera and screen");
    assert!(second.iter().all(|c| (c.codec, c.pt, c.rtx_pt) == (Codec::Vp8, 96, 97)));
    let of_fox = worker.streams_of(fox.peer.unwrap());
    assert!(of_fox.iter().all(|stream| !worker.stream_codecs.contains_key(&stream.index)));

    let [(route, Some(second))] = camera(&mut world, &ada, &bob)[..] else { panic!("one route, both codecs") };
    assert_eq!((route.pt, route.rtx_pt, second.codec, second.pt, second.rtx_pt), (108, 109, Codec::Vp8, 96, 97));
    let [(route, Some(second))] = camera(&mut world, &ada, &fox)[..] else { panic!("one route, both codecs") };
    assert_eq!((route.pt, route.rtx_pt, second.pt, second.rtx_pt), (0, 0, 96, 97), "no H.264 there");
    let [(route, None)] = camera(&mut world, &fox, &ada)[..] else { panic!("one route, one codec") };
    assert_eq!((route.pt, route.rtx_pt), (96, 97), "the stream's one codec is VP8");
}

#[test]
fn who_only_listens_or_only_sends_counts_as_what_it_is() {
    let mut world = World::new();
    let ada = world.join("blue", "Ada");
    let enter = |world: &mut World, grant: Grant| {
        let mut client = world.guest("blue", grant);
        world.offer(&mut client, &without_h264(), vec![]).expect("an answer");
        client
    };
    let sender = enter(&mut world, Grant { subscribe: false, ..grant("sends VP8 and sees nobody") });
    assert!(told(&mut world, &ada).is_empty() && told(&mut world, &sender).is_empty());
    let viewer = enter(&mut world, Grant { publish: false, ..grant("sees VP8 and sends nothing") });
    assert_eq!(told(&mut world, &ada), [VideoCodec::Vp8]);
    assert!(told(&mut world, &viewer).is_empty(), "it has nothing to send");
    // Two who have no codec in common: the rule decides.
    let offer = PAGE.replace(" VP8/90000", " VP7/90000");
    let old = join(&mut world, "H.264 alone", &offer);
    assert_eq!(told(&mut world, &ada), [VideoCodec::H264]);
    world.say(old.socket, ClientSignal::Leave {});
    assert_eq!(told(&mut world, &ada), [VideoCodec::Vp8]);
}

#[test]
fn the_codec_survives_the_socket_and_the_controlplane() {
    let mut world = World::new();
    let mut ada = world.join("blue", "Ada");
    let mut fox = join(&mut world, "Fox", &without_h264());
    world.close(ada.socket);
    resume(&mut world, &mut ada);
    assert_eq!(told(&mut world, &ada), [VideoCodec::Vp8]);

    let batches = world.worker().batches.len();
    world.restart_controlplane();
    assert_eq!(world.worker().batches.len(), batches + 1, "it asks what is there, and changes nothing");
    resume(&mut world, &mut ada);
    resume(&mut world, &mut fox);
    assert_eq!(told(&mut world, &ada), [VideoCodec::Vp8]);
    let [(_, Some(second))] = camera(&mut world, &ada, &fox)[..] else { panic!("the route stands") };
    assert_eq!(second.pt, 96);
    let bob = world.join("blue", "Bob");
    assert!(matches!(camera(&mut world, &ada, &bob)[..], [(_, Some(_))]), "what was adopted has its second codec");
    told(&mut world, &ada);
    world.expire(&fox);
    let signals = world.drain(ada.socket);
    assert!(matches!(signals[0], ServerSignal::PeerLeft { reason: LeaveReason::TimedOut, .. }));
    assert!(signals.contains(&ServerSignal::Codec { video: VideoCodec::H264 }), "{signals:?}");
    for client in [&ada, &bob] {
        world.say(client.socket, ClientSignal::Leave {});
    }
    let worker = world.worker();
    assert!(worker.stream_codecs.is_empty() && worker.route_codecs.is_empty() && worker.refused.is_empty());
}

/// A room that is set to these codecs.
fn set(world: &mut World, codecs: &[VideoCodec]) {
    let policy = RoomPolicy { codecs: VideoCodecs::new(codecs), ..RoomPolicy::default() };
    world.operate(OperatorRequest::SetRoom { room: "blue".into(), policy }).unwrap();
    world.carry();
}

/// What a client's video streams were opened with.
fn videos(world: &mut World, client: &Client) -> Vec<StreamOpen> {
    let peer = client.peer.unwrap();
    let of_peer = world.worker().streams.values().filter(|open| open.peer == peer && open.codec.is_video());
    of_peer.copied().collect()
}

#[test]
fn a_room_set_to_one_codec_has_nothing_else() {
    for (video, codec, pts, named, format) in [
        (VideoCodec::Vp9, Codec::Vp9, (98, 99), "a=rtpmap:98 VP9/90000\r\n", "a=fmtp:98 profile-id=0\r\n"),
        (
            VideoCodec::Av1,
            Codec::Av1,
            (45, 46),
            "a=rtpmap:45 AV1/90000\r\n",
            "a=fmtp:45 level-idx=5;profile=0;tier=0\r\n",
        ),
    ] {
        let mut world = World::new();
        set(&mut world, &[video]);
        let socket = world.open("blue", grant("Ada"));
        let ServerSignal::Welcome { codecs, .. } = world.next(socket) else { panic!("a welcome") };
        assert_eq!(codecs, [video], "told before the offer");
        let (ada, bob) = (world.join("blue", "Ada"), world.join("blue", "Bob"));
        assert!(told(&mut world, &ada).is_empty() && told(&mut world, &bob).is_empty(), "nothing to choose");
        assert!(ada.answer.contains(named) && ada.answer.contains(format), "{}", ada.answer);
        assert!(!ada.answer.contains("H264") && !ada.answer.contains("VP8"));
        let opened = videos(&mut world, &ada);
        assert!(opened.iter().all(|open| (open.codec, (open.pt, open.rtx_pt)) == (codec, pts)), "{opened:?}");
        let [(route, None)] = camera(&mut world, &ada, &bob)[..] else { panic!("one route, one codec") };
        assert_eq!((route.pt, route.rtx_pt), pts);
        // Who has none of it is refused only if nothing is left; sound is.
        let silent =
            join(&mut world, "Fox", &PAGE.replace(" VP9/90000", " X9/90000").replace(" AV1/90000", " X1/90000"));
        assert!(silent.answer.contains("m=video 0 ") && videos(&mut world, &silent).is_empty());
        assert!(world.worker().refused.is_empty());
    }
}

#[test]
fn the_second_codec_of_a_room_is_for_who_lacks_the_first() {
    let mut world = World::new();
    set(&mut world, &[VideoCodec::Av1, VideoCodec::Vp8]);
    let ada = world.join("blue", "Ada");
    let old = join(&mut world, "Old", &PAGE.replace(" AV1/90000", " X1/90000"));
    assert_eq!(told(&mut world, &ada), [VideoCodec::Vp8]);
    // Set to something else while somebody is in: what was negotiated stands.
    set(&mut world, &[VideoCodec::H264]);
    let bob = world.join("blue", "Bob");
    assert_eq!(told(&mut world, &bob), [VideoCodec::Vp8]);
    assert!(bob.answer.contains(" AV1/90000") && !bob.answer.contains("H264"));
    world.say(old.socket, ClientSignal::Leave {});
    assert_eq!(told(&mut world, &bob), [VideoCodec::Av1]);
    for client in [&ada, &bob] {
        world.say(client.socket, ClientSignal::Leave {});
    }
    let cyd = world.join("blue", "Cyd");
    assert!(cyd.answer.contains("H264") && !cyd.answer.contains(" AV1/90000"), "and from then on it holds");
}

/// A publisher by HTTP, who hears no signals: its answer, and what its video was opened with.
fn whip(world: &mut World, name: &str) -> (String, Vec<StreamOpen>) {
    let mut client = world.guest("blue", grant(name));
    world.close(client.socket);
    let sdp = with_fingerprint(PAGE, &client.identity);
    let grant = Grant { subscribe: false, ..grant(name) };
    let ask = ResourceRequest::Open { room: "blue".into(), grant, from: vec![], sdp };
    let Ok(ResourceReply::Opened { sdp, tag, .. }) = world.ask(ask) else { panic!("a resource") };
    world.carry();
    client.peer =
        world.worker().peers.values().map(|peer| peer.open).find(|o| o.ufrag == tag.as_bytes()).map(|o| o.peer);
    let opened = videos(world, &client);
    (sdp, opened)
}

#[test]
fn who_hears_no_signals_is_answered_in_the_codec_that_the_room_speaks() {
    let mut world = World::new();
    let (sdp, opened) = whip(&mut world, "first");
    assert!(sdp.contains("H264") && opened.iter().all(|open| open.codec == Codec::H264));
    let fox = join(&mut world, "Fox", &without_h264());
    assert_eq!(told(&mut world, &fox), [VideoCodec::Vp8]);
    let (_, opened) = whip(&mut world, "second");
    assert!(!opened.is_empty() && opened.iter().all(|open| (open.codec, open.pt) == (Codec::Vp8, 96)));
    let seconds = &world.worker().stream_codecs;
    assert!(opened.iter().all(|open| !seconds.contains_key(&open.stream.index)), "and in no other");
}

#[test]
fn who_has_no_transport_cc_is_told_its_share_by_its_worker() {
    const AIORTC: &str = include_str!("../offers/aiortc.sdp");
    let mut world = World::new();
    let mut client = world.guest("blue", grant("aiortc"));
    world.offer(&mut client, AIORTC, vec![]).expect("an answer");
    world.connect(&mut client);
    let limit = |world: &mut World, client: &Client| {
        let peer = client.peer.unwrap();
        world.worker().peers[&peer.index].limit.map(|PeerLimit { bps_max, .. }| bps_max)
    };
    assert_eq!(limit(&mut world, &client), Some(1_713_781), "all but its voice, headers and reports");
    let ada = world.join("blue", "Ada");
    assert_eq!(limit(&mut world, &client), Some(822_296));
    assert_eq!(limit(&mut world, &ada), None, "a browser heeds the signal, and its own estimate");
    let batches = world.worker().batches.len();
    world.restart_controlplane();
    assert_eq!(world.worker().batches.len(), batches + 1, "the next controlplane finds it as it is");
    assert_eq!(limit(&mut world, &client), Some(822_296));
    world.expire(&ada);
    assert_eq!(limit(&mut world, &client), Some(1_713_781));
    assert!(world.worker().refused.is_empty());
}
