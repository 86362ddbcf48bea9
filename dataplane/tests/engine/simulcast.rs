//! A track that comes in several encodings by RID (RFC 8853): each is a stream of its own, each slot takes one of them, and a change
//! from one to another is for the receiver no more than a keyframe.

use bytes::Bytes;
use proto::id::{Rid, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtcp::sender_report::SenderReport;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::studio::*;
use crate::world::*;

#[test]
fn the_best_encoding_that_flows_is_taken() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 10), [0, 1, 2], "from the first that comes to the best at once");
    let frames = studio.frame;
    assert!(studio.hear(&mut bob).is_empty());
    let first: Vec<u32> =
        bob.heard.iter().filter(|p| identity(&p.payload).0 == 2).map(|p| identity(&p.payload).1).collect();
    assert_eq!(first.first(), Some(&1), "its first keyframe was not missed");
    assert_eq!(first.len() as u32, 2 * frames);
    bob.is_one_stream();
    assert_eq!(studio.counter(Counter::EncodingsSwitched), 2);
    assert_eq!(studio.counter(Counter::HeldForKeyframe), 0, "the others cost nothing");
    assert_eq!(studio.asked_count, 0, "each began with a keyframe, and was not asked for another one");
}

#[test]
fn each_slot_takes_what_it_is_wanted_to_and_changes_at_a_keyframe() {
    let mut studio = Studio::new();
    let (mut bob, mut carol) = (studio.receiver(0), studio.receiver(0));
    studio.watch(&mut bob, &[0, 1, 2], 5);
    studio.want(&bob, Some(0));
    studio.listen();
    assert_eq!(studio.asked, [0], "the wanted one is asked for a keyframe, and no other");
    studio.asked.clear();
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5), [2], "until it comes nothing changes");
    studio.asked = vec![0];
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5), [0]);
    studio.want(&bob, Some(1));
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5), [0, 1]);
    studio.want(&bob, Some(9));
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5), [1, 2]);
    bob.is_one_stream();
    let carols = studio.hear(&mut carol);
    assert!(carols.len() >= 2 * 24 && carols.iter().skip(4).all(|(encoding, _)| *encoding == 2), "{carols:?}");
    carol.is_one_stream();
    let ranks: Vec<(u8, u32, bool)> = studio.worlds[0].forwarder.encodings_of(bob.slot.index).collect();
    let expected: Vec<(u8, u32, bool)> =
        (0..).zip(studio.streams).map(|(rank, open)| (rank, open.stream.index, true)).collect();
    assert_eq!(ranks, expected);
}

#[test]
fn a_paused_slot_is_sent_nothing_and_begins_at_a_keyframe() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    studio.want(&bob, None);
    assert!(studio.watch(&mut bob, &[0, 1, 2], 5).is_empty());
    assert_eq!(studio.counter(Counter::SlotsPaused), 1);
    studio.want(&bob, Some(1));
    studio.listen();
    assert_eq!(studio.asked, [1]);
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5), [1]);
    bob.is_one_stream();
    // So with a track of one encoding.
    let single =
        StreamOpen { stream: StreamId::new(900, 1), ..studio.worlds[0].stream_open(&studio.alice, Codec::H264) };
    studio.worlds[0].commit(&[single.into()]);
    let slot = studio.worlds[0].slot(&bob.peer);
    studio.worlds[0].route(single.stream, slot);
    studio.listen();
    let world = &mut studio.worlds[0];
    world.forwarder.want_encoding(world.now, slot.index, None, &mut world.egress.outbox);
    let mut send = |studio: &mut Studio, seq: u16, payload: &[u8]| {
        let datagram = studio.alice.protect(&packet(single.ssrc, H264_PT, seq, u32::from(seq) * 3000, payload));
        studio.arrives(&datagram);
        studio.settle();
        let sent = studio.worlds[0].take_sent(bob.peer.remote);
        bob.peer.unprotect(&sent).len()
    };
    assert_eq!(send(&mut studio, 1, SPS), 0);
    let world = &mut studio.worlds[0];
    world.forwarder.want_encoding(world.now, slot.index, Some(0), &mut world.egress.outbox);
    assert_eq!([(2, DELTA), (3, SPS), (4, DELTA)].map(|(seq, payload)| send(&mut studio, seq, payload)), [0, 1, 1]);
}

#[test]
fn two_encodings_are_never_mixed_in_one_frame() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    studio.want(&bob, Some(0));
    studio.frame += 1;
    // The best one's frame is under way when the wanted one's keyframe begins, and ends in the midst of it.
    studio.packets(&[
        (2, false, true, false),
        (0, true, true, false),
        (2, false, false, false),
        (0, true, false, false),
        (2, false, false, true),
        (0, true, false, true),
    ]);
    let frame = studio.frame;
    assert_eq!(studio.hear(&mut bob), [[(2, frame); 3], [(0, frame); 3]].concat());
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 3), [0]);
    // The keyframe is whole before the frame ends: it waits for its stream's next packet, and the other begins no new frame.
    studio.want(&bob, Some(2));
    studio.frame += 1;
    studio.packets(&[(0, false, true, false), (2, true, true, true), (0, false, false, true)]);
    let frame = studio.frame;
    assert_eq!(studio.hear(&mut bob), [(0, frame); 2]);
    studio.asked.clear();
    studio.frame(&[0, 1, 2], 1);
    assert_eq!(studio.hear(&mut bob), [(2, frame), (2, frame + 1)]);
    // The end of a frame is lost: the next frame of the wanted one does not wait for it any more.
    studio.want(&bob, Some(1));
    studio.frame += 1;
    let datagram = studio.packet(2, false, true, false);
    studio.arrives(&datagram);
    studio.asked = vec![1];
    studio.frame(&[1], 1);
    studio.frame(&[1], 1);
    let frame = studio.frame;
    assert_eq!(studio.hear(&mut bob), [(2, frame - 2), (1, frame - 1), (1, frame)]);
}

#[test]
fn a_keyframe_that_ends_in_nothing_does_not_stop_the_picture() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    studio.want(&bob, Some(0));
    studio.frame += 1;
    studio.packets(&[(2, false, true, false), (0, true, true, false), (2, false, false, true)]);
    // The wanted one ends here. Nothing was mixed, and within half a second the best one is back.
    let seen = studio.watch(&mut bob, &[1, 2], 15);
    assert!(seen == [2] || seen == [2, 1] || seen == [1], "{seen:?}");
    assert!(bob.heard.iter().filter(|packet| identity(&packet.payload).1 + 3 > studio.frame).count() > 0);
    bob.is_one_stream();
}

#[test]
fn an_encoding_that_stops_is_left_for_the_best_that_flows() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 10);
    let before = bob.heard.len();
    assert_eq!(studio.watch(&mut bob, &[0, 1], 30), [1]);
    let frames = (bob.heard.len() - before) / 2;
    assert!(frames >= 30 - 9, "{frames} of 30 frames: it was noticed within 300 ms");
    // Only the worst is left, and then the others are back.
    assert_eq!(studio.watch(&mut bob, &[0], 30), [0]);
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 10).last(), Some(&2));
    bob.is_one_stream();
    // All stop, and one goes on.
    studio.worlds[0].advance(10_000_000);
    assert_eq!(studio.watch(&mut bob, &[1], 30), [1]);
    assert_eq!(studio.watch(&mut bob, &[1, 2], 10).last(), Some(&2));
}

#[test]
fn a_publisher_that_stops_an_encoding_again_and_again_is_asked_for_the_other_each_time() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    for n in 0..6 {
        studio.asked = vec![2]; // It begins with a keyframe.
        assert_eq!(studio.watch(&mut bob, &[1, 2], 15).last(), Some(&2), "{n}");
        let before = bob.heard.len();
        assert_eq!(studio.watch(&mut bob, &[1], 20), [1], "{n}");
        let frames = (bob.heard.len() - before) / 2;
        assert!(frames >= 20 - 9, "time {n}: {frames} of 20 frames");
    }
    bob.is_one_stream();
}

#[test]
fn quality_goes_by_the_size_of_pictures_whatever_the_order() {
    let mut studio = Studio::among(1, ["h", "m", "l"]);
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[2, 1, 0], 10);
    assert_eq!(studio.watch(&mut bob, &[2, 1, 0], 3), [2]);
    let order: Vec<u32> =
        studio.worlds[0].forwarder.encodings_of(bob.slot.index).map(|(_, stream, _)| stream).collect();
    assert_eq!(order, studio.streams.map(|open| open.stream.index));
}

#[test]
fn timestamps_follow_the_capture_where_sender_reports_tell_it() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    for encoding in 0..3 {
        let rtp_time = (3000 * studio.frame).wrapping_add(ssrc(encoding).wrapping_mul(0x0123_4567));
        let report = SenderReport { ssrc: ssrc(encoding), ntp_time: 77 << 32, rtp_time, ..Default::default() };
        let datagram = studio.alice.protect_rtcp(&report);
        studio.arrives(&datagram);
    }
    studio.watch(&mut bob, &[0, 1, 2], 3);
    for want in [0, 2, 1, 2] {
        studio.want(&bob, Some(want));
        // The frame that it changes at comes late.
        studio.listen();
        studio.worlds[0].advance(20_000);
        studio.watch(&mut bob, &[0, 1, 2], 5);
    }
    for pair in bob.heard[12..].windows(2) {
        let frames = identity(&pair[1].payload).1 - identity(&pair[0].payload).1;
        let ticks = pair[1].header.timestamp.wrapping_sub(pair[0].header.timestamp);
        assert!(ticks.abs_diff(3000 * frames) <= 1, "{ticks} ticks for {frames} frames");
    }
    bob.is_one_stream();
}

#[test]
fn losses_are_repaired_both_ways_in_whatever_encoding() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    // A packet of the best encoding is lost on its way here, and comes as RTX with its repaired RID.
    studio.frame += 1;
    let lost = payload(2, studio.frame, false, true);
    let lost_packet = studio.packet(2, false, true, true);
    drop(lost_packet);
    let seq = studio.seqs[&ssrc(2)];
    studio.frame(&[2], 1);
    studio.worlds[0].advance(20_000);
    studio.listen();
    assert_eq!(studio.nacked, [(ssrc(2), seq)]);
    let mut rtx = packet(0xb002, RTX_PT, 7, 3000, &[&seq.to_be_bytes()[..], &lost].concat());
    rtx.header.marker = true;
    rtx.header.set_extension(4, Bytes::from_static(b"cam")).unwrap();
    rtx.header.set_extension(REPAIRED_RID, Bytes::from_static(b"h")).unwrap();
    let datagram = studio.alice.protect(&rtx);
    studio.arrives(&datagram);
    studio.settle();
    let got = studio.hear(&mut bob);
    assert!(got.ends_with(&[(2, studio.frame), (2, studio.frame - 1)]), "{got:?}");
    assert_eq!(studio.counter(Counter::Recovered), 1);
    // Bob changes to another encoding, and asks for a packet of before.
    let asked = bob.heard[bob.heard.len() - 4].clone();
    studio.want(&bob, Some(0));
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5).last(), Some(&0));
    let nack = TransportLayerNack {
        sender_ssrc: 1,
        media_ssrc: bob.ssrc,
        nacks: nack_pairs_from_sequence_numbers(&[asked.header.sequence_number]),
    };
    let datagram = bob.peer.protect_rtcp(&nack);
    studio.worlds[0].receive(bob.peer.remote, &datagram);
    studio.hear(&mut bob);
    let repair = bob.repaired.last().expect("it is repaired");
    assert_eq!(repair.payload[2..], asked.payload[..]);
    assert_eq!(repair.header.timestamp, asked.header.timestamp);
}

#[test]
fn a_keyframe_that_never_comes_leaves_the_slot_where_it_is() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    studio.want(&bob, Some(0));
    (studio.asked_count, studio.is_deaf) = (0, true);
    for _ in 0..1800 {
        studio.frame(&[0, 1, 2], 1);
        assert!(studio.hear(&mut bob).iter().all(|(encoding, _)| *encoding == 2));
    }
    // A minute: the burst, and one a second.
    assert!((10..=75).contains(&studio.asked_count), "asked {} times in a minute", studio.asked_count);
    bob.is_one_stream();
}

#[test]
fn rids_that_were_not_offered_harm_nobody() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    let (forwarded, heard) = (studio.counter(Counter::Forwarded), bob.heard.len());
    let key = payload(2, 999, true, true);
    for (ssrc, rid) in [(0xc001, Some("x")), (0xc002, None), (0xc003, Some("H")), (0xc004, Some("hh"))] {
        let datagram = studio.packet_of(ssrc, rid, &key, true);
        studio.arrives(&datagram);
    }
    studio.settle();
    assert_eq!(studio.counter(Counter::DroppedUnknownStream), 4);
    assert_eq!((studio.counter(Counter::Forwarded), studio.hear(&mut bob).len()), (forwarded, 0));
    // A second SSRC for one RID does not take the stream away while the first one sends, nor does a RID that changes on an SSRC.
    for _ in 0..15 {
        let datagram = studio.packet_of(0xc005, Some("h"), &key, true);
        studio.arrives(&datagram);
        let own = payload(2, studio.frame, false, true);
        let datagram = studio.packet_of(ssrc(2), Some("l"), &own, true);
        studio.arrives(&datagram);
        studio.frame(&[0, 1], 2);
    }
    assert_eq!(studio.counter(Counter::DroppedOtherSsrc), 15);
    let got = studio.hear(&mut bob);
    assert!(got.len() == 15 && got.iter().all(|(encoding, frame)| *encoding == 2 && *frame != 999), "{got:?}");
    assert!(bob.heard.len() > heard);
    // Audio with a RID is audio.
    let open = studio.worlds[0].stream_open(&studio.alice, Codec::Opus);
    let audio = StreamOpen { ssrc: 0, ..open };
    studio.worlds[0].commit(&[audio.into()]);
    let slot = studio.worlds[0].slot(&bob.peer);
    studio.worlds[0].route(audio.stream, slot);
    let mut packet = packet(0xd001, OPUS_PT, 1, 960, b"audio");
    packet.header.set_extension(4, Bytes::copy_from_slice(audio.mid.as_bytes())).unwrap();
    packet.header.set_extension(RID, Bytes::from_static(b"h")).unwrap();
    let datagram = studio.alice.protect(&packet);
    studio.arrives(&datagram);
    studio.settle();
    let sent = studio.worlds[0].take_sent(bob.peer.remote);
    assert_eq!(bob.peer.unprotect(&sent).len(), 1);
}

#[test]
fn an_encoding_crosses_to_another_worker_only_if_somebody_there_takes_it() {
    let mut studio = Studio::among(2, RIDS);
    let mut bob = studio.receiver(1);
    let seen = studio.watch(&mut bob, &[0, 1, 2], 30);
    assert_eq!(seen.last(), Some(&2), "{seen:?}");
    let relayed = |studio: &mut Studio, bob: &mut Receiver, frames: usize| {
        let before = studio.counter(Counter::Relayed);
        let seen = studio.watch(bob, &[0, 1, 2], frames);
        (studio.counter(Counter::Relayed) - before, seen)
    };
    assert_eq!(relayed(&mut studio, &mut bob, 30), (60, vec![2]), "one of three");
    studio.want(&bob, Some(0));
    studio.watch(&mut bob, &[0, 1, 2], 10);
    assert_eq!(relayed(&mut studio, &mut bob, 30), (60, vec![0]));
    studio.want(&bob, None);
    studio.watch(&mut bob, &[0, 1, 2], 10);
    assert_eq!(relayed(&mut studio, &mut bob, 30), (0, vec![]), "nobody takes anything");
    let flowing: Vec<bool> = studio.worlds[1].forwarder.encodings_of(bob.slot.index).map(|(.., flows)| flows).collect();
    assert_eq!(flowing, [true; 3], "what flows there is known here");
    studio.want(&bob, Some(2));
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5), [2]);
    // It stops there, and that is known here.
    assert_eq!(studio.watch(&mut bob, &[0, 1], 30), [2, 1][..].iter().copied().filter(|e| *e != 2).collect::<Vec<_>>());
    bob.is_one_stream();
    for counter in [Counter::RelayFull, Counter::DroppedRelayStale] {
        assert_eq!(studio.counter(counter), 0, "{}", counter.name());
    }
}

#[test]
fn a_slot_has_routes_from_the_encodings_of_one_track_alone() {
    let mut studio = Studio::new();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 5);
    let other = studio.worlds[0].stream_open(&studio.alice, Codec::Vp8);
    assert_eq!(studio.refusal(other.into()), None);
    let route = |studio: &mut Studio, stream| Command::from(studio.worlds[0].route_open(stream, bob.slot));
    let of_another = route(&mut studio, other.stream);
    assert_eq!(studio.refusal(of_another), Some(Refusal::Occupied));
    let first = studio.streams[0].stream;
    let again = route(&mut studio, first);
    assert_eq!(studio.refusal(again), Some(Refusal::Occupied), "one from each");
    for (part, refusal) in [
        (encoding_of(first, first, 0, "l"), Refusal::Occupied),
        (encoding_of(other.stream, first, 3, "x"), Refusal::Malformed),
        (encoding_of(StreamId::new(999, 1), first, 0, "x"), Refusal::Unknown),
        (StreamEncoding { rid: Rid::NONE, ..encoding_of(other.stream, first, 0, "x") }, Refusal::Malformed),
    ] {
        assert_eq!(studio.refusal(part.into()), Some(refusal), "{part:?}");
    }
    let twin = StreamOpen {
        ssrc: 0,
        rtx_ssrc: 0,
        mid: studio.streams[0].mid,
        ..studio.worlds[0].stream_open(&studio.alice, Codec::Vp8)
    };
    assert_eq!(studio.refusal(twin.into()), None);
    assert_eq!(
        studio.refusal(encoding_of(twin.stream, first, 2, "h").into()),
        Some(Refusal::Occupied),
        "its RID is another's"
    );
    // A route that is taken is closed, and the slot goes on with the best of the rest.
    studio.worlds[0].commit(&[RouteClose { route: bob.routes[2] }.into()]);
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 5), [1]);
    studio.worlds[0].commit(&[StreamClose { stream: studio.streams[1].stream }.into()]);
    assert_eq!(studio.watch(&mut bob, &[0, 2], 5), [0]);
    bob.is_one_stream();
    let echoes = |studio: &mut Studio| {
        studio.worlds[0].commit(&[Describe {}.into()]);
        let world = &mut studio.worlds[0];
        world.forwarder.describe(1000, &mut world.egress.outbox);
        world.collect();
        world.take_reports()
    };
    let reports = echoes(&mut studio);
    assert!(reports.contains(&Report::Echo(encoding_of(studio.streams[2].stream, first, 2, "h").into())));
    let routes = reports.iter().filter(|report| matches!(report, Report::Echo(Command::RouteOpen(_)))).count();
    assert_eq!(routes, 1);
    studio.worlds[0].commit(&[SlotClose { slot: bob.slot }.into()]);
    assert_eq!(studio.worlds[0].forwarder.sizes().objects[3], 0, "no route is left");
    studio.watch(&mut bob, &[0, 2], 5);
}

/// Which encodings were reported as idle (true) or wanted since the last call.
fn demand(studio: &mut Studio) -> Vec<(usize, bool)> {
    let streams = studio.streams.map(|open| open.stream);
    let at = |stream| streams.iter().position(|other| *other == stream).expect("one of the encodings");
    let reports = studio.worlds[0].take_reports();
    let told = reports.into_iter().filter_map(|report| match report {
        Report::Event(Event::EncodingIdle(event)) => Some((at(event.stream), true)),
        Report::Event(Event::EncodingWanted(event)) => Some((at(event.stream), false)),
        _ => None,
    });
    told.collect()
}

#[test]
fn an_encoding_that_nobody_wants_is_idle_after_five_seconds_and_wanted_at_once() {
    for workers in [1, 2] {
        let mut studio = Studio::among(workers, RIDS);
        let mut bob = studio.receiver(workers - 1);
        studio.watch(&mut bob, &[0, 1, 2], 120);
        assert!(demand(&mut studio).is_empty(), "not within four seconds");
        studio.watch(&mut bob, &[0, 1, 2], 80);
        assert_eq!(demand(&mut studio), [(1, true)], "the smallest is always of use");
        // It is paused, and wanted again; the best one is not.
        assert_eq!(studio.watch(&mut bob, &[0, 2], 30), [2]);
        studio.want(&bob, Some(1));
        studio.settle();
        assert_eq!(demand(&mut studio), [(1, false)]);
        assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 10).last(), Some(&1));
        studio.watch(&mut bob, &[0, 1, 2], 200);
        assert_eq!(demand(&mut studio), [(2, true)]);
        studio.worlds[0].commit(&[Describe {}.into()]);
        let world = &mut studio.worlds[0];
        world.forwarder.describe(1000, &mut world.egress.outbox);
        world.collect();
        assert_eq!(demand(&mut studio), [(2, true)], "a description repeats it");
        // Nobody is there any more, and the next one wants the best.
        let routes: Vec<Command> = bob.routes.iter().map(|route| RouteClose { route: *route }.into()).collect();
        studio.worlds[bob.world].commit(&routes);
        studio.watch(&mut bob, &[0, 1], 240);
        assert_eq!(demand(&mut studio), [(1, true)]);
        if workers == 1 {
            let world = &mut studio.worlds[0];
            let slot = world.slot_open(&bob.peer);
            let routes = studio.streams.map(|open| world.route_open(open.stream, slot.slot).into());
            world.commit(&[&[slot.into()][..], &routes].concat());
            assert_eq!(demand(&mut studio), [(2, false)]);
        }
    }
}

/// What the publisher is told of its encodings' rates since the last call.
fn rates(studio: &mut Studio) -> Vec<(StreamId, u32)> {
    let told = studio.worlds[0].take_reports().into_iter().filter_map(|report| match report {
        Report::Event(Event::EncodingRate(rate)) => Some((rate.stream, rate.bps)),
        _ => None,
    });
    told.collect()
}

#[test]
fn the_least_of_all_receivers_on_whichever_worker_says_how_much_room_there_is() {
    let mut studio = Studio::among(2, RIDS);
    let low = studio.streams[0].stream;
    let mut all = [studio.receiver(0), studio.receiver(1)];
    // The small encoding has about 40 kb/s, the large one ten times as much.
    let mut watch = |studio: &mut Studio, rembs: [f32; 2], seconds: usize| {
        for n in 0..30 * seconds {
            studio.frame_in(&[(0, 2), (2, 20)]);
            for (receiver, bitrate) in all.iter_mut().zip(rembs) {
                studio.hear(receiver);
                if n % 30 == 0 && bitrate > 0.0 {
                    let remb = ReceiverEstimatedMaximumBitrate { sender_ssrc: 5, bitrate, ssrcs: vec![receiver.ssrc] };
                    let bytes = receiver.peer.protect_rtcp(&remb);
                    studio.worlds[receiver.world].receive(receiver.peer.remote, &bytes);
                }
            }
        }
        rates(studio)
    };
    watch(&mut studio, [3e6, 3e6], 4);
    let told = watch(&mut studio, [3e6, 3e6], 4);
    assert_eq!(told, [], "both take the large one");
    // Who is on the other worker has room for twice what it gets.
    let told = watch(&mut studio, [3e6, 200_000.0], 8);
    let of_low = |told: &[(StreamId, u32)]| told.iter().all(|(stream, _)| *stream == low);
    let one = told.last().expect("it is told").1;
    assert!(of_low(&told) && (45_000..140_000).contains(&one), "{told:?}");
    // Somebody here has less.
    let told = watch(&mut studio, [52_000.0, 200_000.0], 8);
    let both = told.last().expect("it is told").1;
    assert!(of_low(&told) && both < one && both < 52_000, "{told:?}");
    let told = watch(&mut studio, [3e6, 3e6], 8);
    assert_eq!(told.last(), Some(&(low, 0)), "nobody needs it any more");
}
