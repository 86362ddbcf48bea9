//! The way of media through a worker: unprotect, route, rewrite, protect, with another SRTP stack at both ends.

use bytes::Bytes;
use proto::id::Mid;
use proto::plane::*;

use crate::world::*;

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmHmacSha1_80];

#[test]
fn audio_reaches_each_receiver_under_its_own_names() {
    for (from, to) in PROFILES.iter().flat_map(|a| PROFILES.iter().map(move |b| (*a, *b))) {
        let mut world = World::new();
        let mut alice = world.connect(from);
        let mut bob = world.connect(to);
        let mut carol = world.connect(to);
        let stream = world.publish(&alice, Codec::Opus);
        let (in_bob, in_carol) = (world.slot(&bob), world.slot(&carol));
        world.route(stream, in_bob);
        world.route(stream, in_carol);

        let mut sent = packet(world.ssrc_of(stream), OPUS_PT, 65_535, 4_000_000_000, b"opus, really");
        sent.header.marker = true;
        sent.header.set_extension(1, Bytes::from_static(&[0x80 | 17])).unwrap();
        sent.header.set_extension(3, Bytes::from_static(&[0, 9])).unwrap();
        let protected = alice.protect(&sent);
        world.receive(alice.remote, &protected);

        for (receiver, slot) in [(&mut bob, in_bob), (&mut carol, in_carol)] {
            let datagrams = world.take_sent(receiver.remote);
            let got = receiver.unprotect(&datagrams);
            assert_eq!(got.len(), 1);
            let header = &got[0].header;
            assert_eq!(got[0].payload, sent.payload);
            assert_eq!(header.ssrc, 0x2000_0000 + slot.index, "the slot's SSRC");
            assert_eq!((header.payload_type, header.sequence_number, header.timestamp), (120, 1000, 90_000));
            assert!(header.marker);
            assert_eq!(header.get_extension(1).unwrap()[..], [0x80 | 17], "the audio level travels");
            assert_eq!(header.get_extension(4).unwrap()[..], *b"9", "the receiver's own MID");
            assert_eq!(header.get_extension(3).unwrap()[..], [0, 1], "a transport-wide number of its own");
            assert_eq!(header.get_extension(2).unwrap().len(), 3, "abs-send-time is written where negotiated");
        }
        assert!(world.take_sent(alice.remote).is_empty(), "nothing comes back to the sender");
        assert_eq!(world.counter(Counter::Forwarded), 1);
        assert_eq!(world.counter(Counter::Sent), 2);
    }
}

#[test]
fn sequence_numbers_and_roll_over_go_on_for_a_hundred_thousand_packets() {
    let mut world = World::new();
    let mut alice = world.connect(SrtpProfile::AeadAes128Gcm);
    let mut bob = world.connect(SrtpProfile::AeadAes128Gcm);
    let stream = world.publish(&alice, Codec::Opus);
    let slot = world.slot(&bob);
    world.route(stream, slot);
    for i in 0..100_000u32 {
        let sent = packet(world.ssrc_of(stream), OPUS_PT, (40_000 + i) as u16, i * 960, &i.to_be_bytes());
        let protected = alice.protect(&sent);
        world.receive(alice.remote, &protected);
        let datagrams = world.take_sent(bob.remote);
        let got = bob.unprotect(&datagrams);
        assert_eq!(got[0].payload, sent.payload);
        assert_eq!(got[0].header.sequence_number, (1000 + i) as u16);
        assert_eq!(got[0].header.timestamp, 90_000 + i * 960);
    }
}

#[test]
fn video_starts_at_a_keyframe_and_a_switch_goes_on_without_a_seam() {
    let mut world = World::new();
    let mut alice = world.connect(SrtpProfile::AeadAes128Gcm);
    let mut dave = world.connect(SrtpProfile::AeadAes128Gcm);
    let mut bob = world.connect(SrtpProfile::AeadAes128Gcm);
    let a = world.publish(&alice, Codec::H264);
    let d = world.publish(&dave, Codec::H264);
    let slot = world.slot(&bob);
    let route = world.route(a, slot);
    let (ssrc_a, ssrc_d) = (world.ssrc_of(a), world.ssrc_of(d));
    let mut got = Vec::new();
    let mut send = |world: &mut World, peer: &mut Peer, ssrc, seq, timestamp, payload| {
        let protected = peer.protect(&packet(ssrc, H264_PT, seq, timestamp, payload));
        world.receive(peer.remote, &protected);
        let datagrams = world.take_sent(bob.remote);
        let packets = bob.unprotect(&datagrams);
        got.extend(packets.iter().map(|p| (p.header.sequence_number, p.header.timestamp, p.payload.clone())));
        packets.len()
    };
    assert_eq!(send(&mut world, &mut alice, ssrc_a, 10, 1000, DELTA), 0, "held until a keyframe");
    assert_eq!(send(&mut world, &mut alice, ssrc_a, 11, 4000, SPS), 1);
    assert_eq!(send(&mut world, &mut alice, ssrc_a, 13, 7000, DELTA), 1);
    assert_eq!(send(&mut world, &mut alice, ssrc_a, 12, 4000, DELTA), 1, "late, and still wanted");
    assert_eq!(send(&mut world, &mut alice, ssrc_a, 10, 1000, DELTA), 0, "a replay");
    world.commit(&[RouteClose { route }.into()]);
    world.route(d, slot);
    world.advance(100_000);
    assert_eq!(send(&mut world, &mut alice, ssrc_a, 14, 10_000, DELTA), 0, "no longer routed");
    assert_eq!(send(&mut world, &mut dave, ssrc_d, 500, 77, DELTA), 0, "the newcomer waits for its keyframe");
    assert_eq!(send(&mut world, &mut dave, ssrc_d, 501, 3077, SPS), 1);
    assert_eq!(send(&mut world, &mut dave, ssrc_d, 499, 77, DELTA), 0, "older than the switch");
    let expected: Vec<(u16, u32, Bytes)> = vec![
        (1000, 90_000, SPS.into()),
        (1002, 93_000, DELTA.into()),
        (1001, 90_000, DELTA.into()),
        (1003, 93_000 + 9000, SPS.into()),
    ];
    assert_eq!(got, expected, "one stream without a seam, a tenth of a second later");
    assert_eq!(world.counter(Counter::HeldForKeyframe), 2);
    assert_eq!(world.counter(Counter::HeldStale), 1);
}

#[test]
fn an_ssrc_that_was_not_signalled_is_found_by_its_mid_and_bound_only_when_authentic() {
    let mut world = World::new();
    let mut alice = world.connect(SrtpProfile::AeadAes128Gcm);
    let mut bob = world.connect(SrtpProfile::AeadAes128Gcm);
    let mic = world.publish(&alice, Codec::Opus);
    let screen_sound = world.publish(&alice, Codec::Opus);
    let slot = world.slot(&bob);
    world.route(screen_sound, slot);
    let mut sent = packet(0xabcd, OPUS_PT, 5, 0, b"by mid");
    let nameless = alice.protect(&sent);
    world.receive(alice.remote, &nameless);
    assert_eq!(world.counter(Counter::DroppedUnknownStream), 1, "two streams have this payload type");
    sent.header.sequence_number = 6;
    sent.header.set_extension(4, screen_sound.index.to_string().into()).unwrap();
    let mut forged = alice.protect(&sent);
    *forged.last_mut().unwrap() ^= 1;
    world.receive(alice.remote, &forged);
    assert_eq!(world.counter(Counter::DroppedSrtpAuth), 1);
    sent.header.sequence_number = 7;
    let named = alice.protect(&sent);
    world.receive(alice.remote, &named);
    let datagrams = world.take_sent(bob.remote);
    assert_eq!(bob.unprotect(&datagrams)[0].payload, sent.payload);
    let nameless = alice.protect(&packet(0xabcd, OPUS_PT, 8, 960, b"bound now"));
    world.receive(alice.remote, &nameless);
    assert_eq!(world.take_sent(bob.remote).len(), 1);

    let mut renamed = packet(0xdcba, OPUS_PT, 300, 0, b"another ssrc");
    renamed.header.set_extension(4, screen_sound.index.to_string().into()).unwrap();
    let unheeded = alice.protect(&renamed);
    world.receive(alice.remote, &unheeded);
    assert!(world.take_sent(bob.remote).is_empty(), "the one before has not fallen silent");
    world.advance(dataplane::config::SSRC_SILENCE);
    world.take_sent(bob.remote);
    renamed.header.sequence_number += 1;
    let renamed = alice.protect(&renamed);
    world.receive(alice.remote, &renamed);
    assert_eq!(world.take_sent(bob.remote).len(), 1);
    world.receive(alice.remote, &named);
    assert!(world.take_sent(bob.remote).is_empty(), "a replay does not claim the stream back");
    let _ = mic;
}

/// ffmpeg has no header extensions, and GStreamer announces no SSRC when it offers early: then the payload type tells the
/// streams apart, and the one of RTX its repairs. So in RFC 9143 §9.2.
#[test]
fn without_header_extensions_streams_are_known_by_ssrc_or_payload_type() {
    let mut world = World::new();
    let mut encoder = world.open(SrtpProfile::Aes128CmHmacSha1_80);
    world.commit(&encoder.keys());
    world.commit(&[PeerExtensions { peer: encoder.id, ids: ExtensionIds::default() }.into()]);
    let check = encoder.check(true);
    world.receive(encoder.remote, &check);
    let mut bob = world.connect(SrtpProfile::AeadAes128Gcm);

    let signalled = world.stream_open(&encoder, Codec::Opus);
    let sound = StreamOpen { ssrc: 0, mid: Mid::NONE, pt: 97, ..world.stream_open(&encoder, Codec::Opus) };
    let pictures = StreamOpen { ssrc: 0, rtx_ssrc: 0, mid: Mid::NONE, ..world.stream_open(&encoder, Codec::H264) };
    let slots = [0; 3].map(|_| world.slot(&bob));
    for (open, slot) in [signalled, sound, pictures].into_iter().zip(slots) {
        world.commit(&[open.into()]);
        world.route(open.stream, slot);
    }
    let cases = [
        (packet(signalled.ssrc, OPUS_PT, 7, 0, b"by ssrc"), slots[0]),
        (packet(0xaaaa, 97, 7, 0, b"by payload type"), slots[1]),
        (packet(0xbbbb, H264_PT, 7, 0, SPS), slots[2]),
        (packet(0xbbbb, H264_PT, 9, 0, DELTA), slots[2]),
        // The repair of 8, under an SSRC that nobody announced either.
        (packet(0xcccc, RTX_PT, 500, 0, &[&[0, 8], DELTA].concat()), slots[2]),
    ];
    for (sent, slot) in cases {
        let protected = encoder.protect(&sent);
        world.receive(encoder.remote, &protected);
        let datagrams = world.take_sent(bob.remote);
        let got = bob.unprotect(&datagrams);
        assert_eq!(got.len(), 1, "{:?}", sent.header);
        assert_eq!(got[0].header.ssrc, 0x2000_0000 + slot.index, "{:?}", sent.header);
    }
    assert_eq!(world.counter(Counter::DroppedUnknownStream), 0);
    world.check_conservation();
}

#[test]
fn nothing_is_sent_to_a_peer_before_it_has_keys_and_a_path_and_after_its_consent_ends() {
    let mut world = World::new();
    let mut alice = world.connect(SrtpProfile::AeadAes128Gcm);
    let mut bob = world.open(SrtpProfile::AeadAes128Gcm);
    let stream = world.publish(&alice, Codec::Opus);
    let slot = world.slot(&bob);
    world.route(stream, slot);
    let mut seq = 0;
    let mut talk = |world: &mut World, alice: &mut Peer, to| {
        seq += 1;
        let protected = alice.protect(&packet(world.ssrc_of(stream), OPUS_PT, seq, 0, b"hello"));
        world.receive(alice.remote, &protected);
        world.take_sent(to)
    };
    assert!(talk(&mut world, &mut alice, bob.remote).is_empty());
    world.commit(&bob.keys());
    assert!(talk(&mut world, &mut alice, bob.remote).is_empty(), "keys, but no path");
    let check = bob.check(false);
    world.receive(bob.remote, &check);
    world.take_sent(bob.remote);
    let datagrams = talk(&mut world, &mut alice, bob.remote);
    assert_eq!(bob.unprotect(&datagrams).len(), 1);
    world.mute.insert(bob.remote);
    world.advance(29_000_000);
    world.take_sent(bob.remote);
    assert_eq!(talk(&mut world, &mut alice, bob.remote).len(), 1);
    let check = bob.check(true);
    world.receive(bob.remote, &check);
    world.advance(2_000_000);
    world.take_sent(bob.remote);
    assert!(talk(&mut world, &mut alice, bob.remote).is_empty(), "30 s without an answer, whoever checked from there");
    let expired = PeerExpired { peer: bob.id };
    assert!(world.reports.contains(&Report::Event(expired.into())));
    assert!(!world.reports.contains(&Report::Event(PeerExpired { peer: alice.id }.into())));
    let check = bob.check(true);
    world.receive(bob.remote, &check);
    assert!(world.take_sent(bob.remote).is_empty(), "consent does not come back by itself");
}

/// libnice, under GStreamer, checks no more once it has nominated, and keeps its pair alive by indications. It answers checks.
/// ffmpeg does not even that.
#[test]
fn a_peer_that_answers_or_sends_is_there_without_checks_and_media_goes_only_to_who_answers() {
    let mut world = World::new();
    let mut alice = world.connect(SrtpProfile::Aes128CmHmacSha1_80);
    let mut bob = world.connect(SrtpProfile::AeadAes128Gcm);
    let stream = world.publish(&alice, Codec::H264);
    let slot = world.slot(&bob);
    world.route(stream, slot);
    let ssrc = world.ssrc_of(stream);
    let expired =
        |world: &World, peer: &Peer| world.reports.contains(&Report::Event(PeerExpired { peer: peer.id }.into()));
    world.advance(100_000_000);
    assert!(!expired(&world, &alice) && !expired(&world, &bob), "both answer");

    world.mute.extend([alice.remote, bob.remote]);
    let mut last = Vec::new();
    let (mut heard, mut to_alice) = (0, 0);
    for second in 0..100 {
        last = alice.protect(&packet(ssrc, H264_PT, second, u32::from(second), SPS));
        world.receive(alice.remote, &last);
        let report = rtcp::receiver_report::ReceiverReport { ssrc: 5, ..Default::default() };
        let report = bob.protect_rtcp(&report);
        world.receive(bob.remote, &report);
        world.advance(1_000_000);
        let datagrams = world.take_sent(bob.remote);
        heard += bob.unprotect(&datagrams).len();
        to_alice += world.take_sent(alice.remote).iter().map(Vec::len).sum::<usize>();
    }
    assert!(!expired(&world, &alice), "media");
    assert!(!expired(&world, &bob), "reports");
    assert!((25..=36).contains(&heard), "a receiver that answers no more is sent nothing after 30 s: {heard}");
    assert!(to_alice > 0);
    assert_eq!(world.counter(Counter::ConsentsLapsed), 2);

    // What is replayed is not heard, nor what comes by a path that is not the selected one, nor checks.
    let elsewhere = "127.0.0.2:4444".parse().unwrap();
    let check = alice.check(false);
    world.receive(elsewhere, &check);
    for second in 100..132 {
        world.receive(alice.remote, &check);
        world.receive(alice.remote, &last);
        let aside = alice.protect(&packet(ssrc, H264_PT, second, 0, DELTA));
        world.receive(elsewhere, &aside);
        world.advance(1_000_000);
    }
    assert!(expired(&world, &alice));
    assert!(expired(&world, &bob), "it was silent");
    world.reports.clear();
    let late = bob.protect_rtcp(&rtcp::receiver_report::ReceiverReport { ssrc: 5, ..Default::default() });
    world.receive(bob.remote, &late);
    world.take_sent(bob.remote);
    let unseen = alice.protect(&packet(ssrc, H264_PT, 200, 200, SPS));
    world.receive(alice.remote, &unseen);
    assert!(world.take_sent(bob.remote).is_empty(), "media does not take lost consent back");
}

#[test]
fn a_peer_that_moves_keeps_its_keys_and_media_never_moves_it() {
    let mut world = World::new();
    let mut alice = world.connect(SrtpProfile::AeadAes128Gcm);
    let mut bob = world.connect(SrtpProfile::AeadAes128Gcm);
    let stream = world.publish(&alice, Codec::Opus);
    let slot = world.slot(&bob);
    world.route(stream, slot);
    let mobile = "127.0.0.2:4444".parse().unwrap();
    let ssrc = world.ssrc_of(stream);

    let stolen = alice.protect(&packet(ssrc, OPUS_PT, 1, 0, b"from elsewhere"));
    world.receive(mobile, &stolen);
    assert_eq!(world.counter(Counter::DroppedUnknownAddress), 1, "authentic or not, media proves no address");
    let check = alice.check(true);
    world.receive(mobile, &check);
    assert_eq!(world.take_sent(mobile).len(), 1);
    world.receive(mobile, &stolen);
    assert_eq!(world.take_sent(bob.remote).len(), 1);

    let check = bob.check(true);
    let moved = "127.0.0.3:5555".parse().unwrap();
    world.receive(moved, &check);
    world.take_sent(moved);
    let protected = alice.protect(&packet(ssrc, OPUS_PT, 2, 0, b"follows"));
    world.receive(mobile, &protected);
    assert!(world.take_sent(bob.remote).is_empty());
    let datagrams = world.take_sent(moved);
    assert_eq!(bob.unprotect(&datagrams)[0].payload[..], *b"follows");
}

#[test]
fn only_a_right_check_is_answered() {
    let mut world = World::new();
    let alice = world.open(SrtpProfile::AeadAes128Gcm);
    let mut check = alice.check(true);
    let last = check.len() - 1;
    check[last] ^= 1;
    world.receive(alice.remote, &check);
    assert_eq!(world.counter(Counter::DroppedStunIntegrity), 1, "fingerprint");
    let mut stranger = world.open(SrtpProfile::AeadAes128Gcm);
    stranger.pwd = *b"another-password-of-24-c";
    let check = stranger.check(true);
    world.receive(stranger.remote, &check);
    assert_eq!(world.counter(Counter::DroppedStunIntegrity), 2, "password");
    let mut nobody = stranger;
    nobody.ufrag = *b"nobody00";
    let check = nobody.check(true);
    world.receive(nobody.remote, &check);
    assert_eq!(world.counter(Counter::DroppedStunUnknownUfrag), 1);
    assert!(world.sent.is_empty(), "no answer to any of them");
    assert!(!world.reports.iter().any(|r| matches!(r, Report::Event(Event::PeerPath(_)))));
}

#[test]
fn packets_of_one_frame_leave_equally_long_and_say_what_they_said() {
    let mut world = World::new();
    let mut alice = world.connect(SrtpProfile::AeadAes128Gcm);
    let mut bob = world.connect(SrtpProfile::AeadAes128Gcm);
    let (video, audio) = (world.publish(&alice, Codec::H264), world.publish(&alice, Codec::Opus));
    for stream in [video, audio] {
        let slot = world.slot(&bob);
        world.route(stream, slot);
    }
    let mut seq = 1;
    // Lengths of one frame's payloads; what left, by length, and what the receiver reads.
    let mut frame = |stream, pt, lens: &[usize]| {
        let mut left = Vec::new();
        for (k, &len) in lens.iter().enumerate() {
            let mut payload = vec![7; len];
            payload[..SPS.len()].copy_from_slice(SPS);
            let mut packet = packet(world.ssrc_of(stream), pt, seq, u32::from(seq) * 100, &payload);
            packet.header.marker = k + 1 == lens.len();
            seq += 1;
            world.receive(alice.remote, &alice.protect(&packet));
            let datagrams = world.take_sent(bob.remote);
            let [datagram] = &datagrams[..] else { panic!("{} datagrams", datagrams.len()) };
            let [read] = &bob.unprotect(&datagrams)[..] else { panic!("not one packet") };
            assert_eq!(read.payload, payload, "padding is no payload");
            left.push((datagram.len(), read.header.padding));
        }
        left
    };
    // As libwebrtc cuts a frame: some are a byte longer than the others.
    let left = frame(video, H264_PT, &[1000, 1000, 1001, 1001]);
    assert!(left.iter().all(|(len, _)| *len == left[0].0 && (*len - 16) % 16 == 0), "{left:?}");
    let [(alone, is_padded)] = frame(video, H264_PT, &[777])[..] else { panic!("one packet") };
    assert!(!is_padded, "no neighbour, no padding");
    let again = frame(video, H264_PT, &[777, 777]);
    assert!(again[0].0 >= alone && again[0].0 < alone + 16);
    assert!(frame(video, H264_PT, &[1300, 1300]).iter().all(|(_, is_padded)| !is_padded), "no path gets too narrow");
    assert!(frame(audio, OPUS_PT, &[81, 82]).iter().all(|(_, is_padded)| !is_padded), "audio has no trains");
}
