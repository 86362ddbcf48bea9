//! One room across two workers: Alice publishes on the first, Bob receives on the second, and both workers keep their
//! books, their names and their manners.

use bytes::Bytes;
use proto::id::{PeerId, SlotId, StreamId, TapId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::sender_report::SenderReport;
use rtcp::source_description::{SdesType, SourceDescription};
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MS: u64 = 1000;

struct Call {
    worlds: Vec<World>,
    alice: Peer,
    bob: Peer,
    /// Alice's camera where she is.
    stream: StreamOpen,
    mirror: MirrorOpen,
    tap: TapOpen,
    /// Bob's slot.
    slot: SlotOpen,
}

impl Call {
    fn new(codec: Codec) -> Call {
        let mut worlds: Vec<World> = (0..2).map(|index| World::among(index, 2)).collect();
        let alice = worlds[0].connect(GCM);
        let stream = worlds[0].stream_open(&alice, codec);
        worlds[0].commit(&[stream.into()]);
        let bob = worlds[1].connect(GCM);
        let slot = worlds[1].slot_open(&bob);
        let (mirror, tap) = worlds[1].mirror_open(&stream, 1);
        let route = worlds[1].route_open(mirror.stream, slot.slot);
        worlds[1].commit(&[slot.into(), mirror.into(), route.into()]);
        worlds[0].commit(&[tap.into()]);
        exchange(&mut worlds);
        let mut call = Call { worlds, alice, bob, stream, mirror, tap, slot };
        call.take_asked();
        call
    }

    /// Alice sends a packet; what Bob gets at once.
    fn send(&mut self, seq: u16, payload: &[u8]) -> Vec<rtp::packet::Packet> {
        let pt = self.stream.pt;
        let mut packet = packet(self.stream.ssrc, pt, seq, u32::from(seq) * 3000, payload);
        packet.header.set_extension(1, Bytes::from_static(&[0x80 | 17])).unwrap();
        let bytes = self.alice.protect(&packet);
        self.worlds[0].receive(self.alice.remote, &bytes);
        self.take()
    }

    /// What Bob is sent: RTP packets.
    fn take(&mut self) -> Vec<rtp::packet::Packet> {
        exchange(&mut self.worlds);
        let datagrams = self.worlds[1].take_sent(self.bob.remote);
        self.bob.unprotect(&datagrams)
    }

    /// How many keyframe requests Alice was sent.
    fn take_asked(&mut self) -> usize {
        exchange(&mut self.worlds);
        let datagrams = self.worlds[0].take_sent(self.alice.remote);
        let said = self.alice.unprotect_rtcp(&datagrams);
        said.iter().filter(|packet| packet.as_any().is::<PictureLossIndication>()).count()
    }

    fn advance(&mut self, by: u64) {
        for _ in 0..by / MS {
            self.worlds.iter_mut().for_each(|world| world.advance(MS));
            exchange(&mut self.worlds);
        }
    }

    /// Bob says something about his slot.
    fn bob_says(&mut self, packet: &dyn rtcp::packet::Packet) {
        let bytes = self.bob.protect_rtcp(packet);
        self.worlds[1].receive(self.bob.remote, &bytes);
        exchange(&mut self.worlds);
    }

    fn nack(&self, seqs: &[u16]) -> TransportLayerNack {
        let nacks = nack_pairs_from_sequence_numbers(seqs);
        TransportLayerNack { sender_ssrc: 1, media_ssrc: self.slot.ssrc, nacks }
    }

    fn counters<const N: usize>(&mut self, worker: usize, counters: [Counter; N]) -> [u64; N] {
        counters.map(|counter| self.worlds[worker].counter(counter))
    }
}

#[test]
fn a_packet_is_unprotected_once_and_has_a_fate_on_both_workers() {
    let mut call = Call::new(Codec::H264);
    let before = call.worlds.iter_mut().map(|world| world.counter(Counter::Received)).collect::<Vec<_>>();
    let got = call.send(7, SPS);
    assert_eq!((got.len(), &got[0].payload[..], got[0].header.ssrc), (1, SPS, call.slot.ssrc));
    assert_eq!((got[0].header.payload_type, got[0].header.sequence_number), (120, 1000));
    assert_eq!(got[0].header.get_extension(1).as_deref(), Some(&[0x80 | 17][..]), "what travels with media travels on");
    assert_eq!(call.send(8, DELTA)[0].header.sequence_number, 1001);
    assert_eq!(call.send(10, DELTA)[0].header.sequence_number, 1003, "a gap stays a gap");
    let fates = [Counter::Received, Counter::RelayReceived, Counter::Forwarded, Counter::Relayed, Counter::Sent];
    assert_eq!(call.counters(0, fates), [before[0] + 3, 0, 3, 3, 0]);
    assert_eq!(call.counters(1, fates), [before[1], 3, 3, 0, 3]);
}

#[test]
fn a_packet_keeps_the_time_of_its_arrival_on_the_other_worker() {
    let mut call = Call::new(Codec::H264);
    let arrived = call.worlds[0].now;
    assert_eq!(call.send(1, SPS).len(), 1);
    call.advance(30 * MS);
    let later = call.worlds[0].now;
    let packet = packet(call.stream.ssrc, call.stream.pt, 2, 6000, DELTA);
    let bytes = call.alice.protect(&packet);
    call.worlds[0].receive(call.alice.remote, &bytes);
    // The second worker gets to it after 7 ms.
    call.worlds[1].advance(7 * MS);
    assert_eq!(call.take().len(), 1);
    assert_eq!(call.worlds[1].written, [(arrived, 1), (later, 1)]);
}

#[test]
fn losses_of_a_receiver_are_mended_where_it_is() {
    let mut call = Call::new(Codec::H264);
    (1..=5).for_each(|seq| assert_eq!(call.send(seq, if seq == 1 { SPS } else { DELTA }).len(), 1));
    let nack = call.nack(&[1002]);
    call.bob_says(&nack);
    let repaired = call.take();
    assert_eq!((repaired.len(), &repaired[0].payload[..2]), (1, &1002u16.to_be_bytes()[..]));
    assert_eq!(&repaired[0].payload[2..], DELTA);
    assert_eq!(call.counters(1, [Counter::RtxSent, Counter::NackMissed]), [1, 0]);
    assert_eq!(
        call.counters(0, [Counter::NackReceived, Counter::RtxSent]),
        [0, 0],
        "the publisher's worker hears nothing"
    );
}

#[test]
fn what_the_publisher_repairs_is_handed_on_too() {
    let mut call = Call::new(Codec::H264);
    call.send(1, SPS);
    call.send(3, DELTA);
    call.advance(50 * MS);
    assert_eq!(call.counters(0, [Counter::NackSent]), [2], "the publisher's worker asks, and once more");
    let payload = [&2u16.to_be_bytes()[..], b"\x41late"].concat();
    let rtx = packet(call.stream.rtx_ssrc, RTX_PT, 900, 6000, &payload);
    let bytes = call.alice.protect(&rtx);
    call.worlds[0].receive(call.alice.remote, &bytes);
    let got = call.take();
    assert_eq!((got.len(), &got[0].payload[..], got[0].header.sequence_number), (1, &b"\x41late"[..], 1001));
    let nack = call.nack(&[1001]);
    call.bob_says(&nack);
    assert_eq!(&call.take()[0].payload[2..], b"\x41late", "and can be repaired there, under its own codec");
}

#[test]
fn requests_for_keyframes_cross_and_are_merged_on_both_sides() {
    let mut call = Call::new(Codec::H264);
    call.send(1, SPS);
    call.advance(2000 * MS);
    call.take_asked();
    let pli = PictureLossIndication { sender_ssrc: 1, media_ssrc: call.slot.ssrc };
    call.bob_says(&pli);
    assert_eq!(call.take_asked(), 1);
    for _ in 0..2 {
        call.advance(20 * MS);
        call.bob_says(&pli);
    }
    assert_eq!(call.take_asked(), 0, "the same request");
    call.advance(200 * MS);
    assert_eq!(call.take_asked(), 1, "it was not answered by then");
    call.send(2, SPS);
    call.advance(3000 * MS);
    assert_eq!(call.take_asked(), 0);
    let [received, relayed] = call.counters(1, [Counter::KeyframeRequestsReceived, Counter::KeyframeRequestsRelayed]);
    assert!(received == 3 && relayed >= 2, "{received} {relayed}");
    assert_eq!(call.counters(1, [Counter::KeyframeRequestsSent]), [0], "there is no publisher there");
}

#[test]
fn who_begins_to_watch_from_another_core_has_a_keyframe_asked_for() {
    let mut worlds: Vec<World> = (0..2).map(|index| World::among(index, 2)).collect();
    let alice = worlds[0].connect(GCM);
    let stream = worlds[0].publish(&alice, Codec::H264);
    let before = worlds[0].counter(Counter::KeyframeRequestsSent);
    let tap = TapOpen { tap: TapId::new(0, 1), stream, worker: 1, mirror: StreamId::new(0, 1) };
    worlds[0].commit(&[tap.into()]);
    assert_eq!(worlds[0].counter(Counter::KeyframeRequestsSent) - before, 1);
    worlds[0].advance(1500 * MS);
    assert!(worlds[0].counter(Counter::KeyframeRequestsSent) - before > 1, "and again while none comes");
}

#[test]
fn clocks_and_names_are_the_publishers() {
    let mut call = Call::new(Codec::H264);
    let microphone = call.worlds[0].stream_open(&call.alice, Codec::Opus);
    let (mirror, tap) = call.worlds[1].mirror_open(&microphone, 1);
    let slot = call.worlds[1].slot_open(&call.bob);
    let route = call.worlds[1].route_open(mirror.stream, slot.slot);
    call.worlds[0].commit(&[microphone.into(), tap.into()]);
    call.worlds[1].commit(&[slot.into(), mirror.into(), route.into()]);
    call.send(1, SPS);
    let voice = call.alice.protect(&packet(microphone.ssrc, OPUS_PT, 1, 960, b"word"));
    call.worlds[0].receive(call.alice.remote, &voice);
    for (ssrc, rtp_time) in [(call.stream.ssrc, 3000), (microphone.ssrc, 960)] {
        let report = SenderReport { ssrc, ntp_time: 5 << 32, rtp_time, ..Default::default() };
        let bytes = call.alice.protect_rtcp(&report);
        call.worlds[0].receive(call.alice.remote, &bytes);
    }
    call.advance(3000 * MS);
    let datagrams = call.worlds[1].take_sent(call.bob.remote);
    let said = call.bob.unprotect_rtcp(&datagrams);
    let reports: Vec<&SenderReport> = said.iter().filter_map(|packet| packet.as_any().downcast_ref()).collect();
    let of = |ssrc| reports.iter().rfind(|report| report.ssrc == ssrc).expect("each slot has its report");
    let (video, audio) = (of(call.slot.ssrc), of(slot.ssrc));
    assert_eq!(video.ntp_time, audio.ntp_time, "sent at one moment");
    // Both began at 90,000 in the output; 5 s of NTP time are their first packets.
    let [video_s, audio_s] = [(video.rtp_time, 90_000.0), (audio.rtp_time, 48_000.0)]
        .map(|(rtp, rate)| f64::from(rtp.wrapping_sub(90_000)) / rate);
    assert!((video_s - audio_s).abs() < 0.001, "lips and voice are together: {video_s} {audio_s}");
    let names: Vec<Bytes> = said
        .iter()
        .filter_map(|packet| packet.as_any().downcast_ref::<SourceDescription>())
        .flat_map(|sdes| sdes.chunks.iter().flat_map(|chunk| &chunk.items))
        .filter(|item| item.sdes_type == SdesType::SdesCname)
        .map(|item| item.text.clone())
        .collect();
    assert!(names.len() >= 2 && names.iter().all(|name| *name == names[0]), "{names:?}");
    assert_ne!(&names[0][..], format!("uprtc-{:08x}", call.alice.id.index).as_bytes(), "a local peer may have that");
}

#[test]
fn a_publisher_that_changes_its_ssrc_begins_a_segment() {
    let mut call = Call::new(Codec::H264);
    assert_eq!(call.send(1, SPS)[0].header.sequence_number, 1000);
    call.advance(dataplane::config::SSRC_SILENCE);
    call.take();
    call.stream.ssrc += 0x0100_0000;
    let mut renamed = packet(call.stream.ssrc, H264_PT, 30_000, 9, DELTA);
    renamed.header.set_extension(4, call.stream.mid.as_bytes().to_vec().into()).unwrap();
    let bytes = call.alice.protect(&renamed);
    call.worlds[0].receive(call.alice.remote, &bytes);
    assert_eq!(call.take().len(), 0, "not before a keyframe");
    assert_eq!(call.send(30_001, SPS)[0].header.sequence_number, 1001);
    assert_eq!(call.counters(1, [Counter::HeldForKeyframe]), [1]);
}

#[test]
fn what_comes_late_reaches_nobody() {
    let mut call = Call::new(Codec::H264);
    call.send(1, SPS);
    let bytes = call.alice.protect(&packet(call.stream.ssrc, H264_PT, 2, 0, DELTA));
    call.worlds[0].receive(call.alice.remote, &bytes);
    // While it is under way the mirror is closed, and its place taken by another.
    let StreamId { index, generation } = call.mirror.stream;
    let next = StreamId::new(index, generation + 1);
    let reopened = MirrorOpen { stream: next, ..call.mirror };
    let slot = SlotId::new(call.slot.slot.index, call.slot.slot.generation);
    let route = call.worlds[1].route_open(next, slot);
    call.worlds[1].commit(&[StreamClose { stream: call.mirror.stream }.into(), reopened.into(), route.into()]);
    assert_eq!(call.take().len(), 0);
    assert_eq!(call.counters(1, [Counter::DroppedRelayStale, Counter::RelayReceived]), [1, 2]);
    // The other way: a request for a stream whose place was taken.
    call.advance(1500 * MS);
    let asked = call.worlds[0].counter(Counter::KeyframeRequestsSent);
    call.worlds[1].advance(1500 * MS);
    assert!(!call.worlds[1].relayed.is_empty(), "the newcomer wants a keyframe");
    let newcomer =
        StreamOpen { stream: StreamId::new(call.stream.stream.index, 2), ssrc: 77, rtx_ssrc: 78, ..call.stream };
    call.worlds[0].commit(&[StreamClose { stream: call.stream.stream }.into(), newcomer.into()]);
    exchange(&mut call.worlds);
    assert_eq!(call.worlds[0].counter(Counter::KeyframeRequestsSent), asked);
}

#[test]
fn a_tap_ends_by_itself_and_with_its_stream() {
    let mut call = Call::new(Codec::Opus);
    assert_eq!(call.send(1, b"one").len(), 1);
    call.worlds[0].commit(&[TapClose { tap: call.tap.tap }.into()]);
    assert_eq!(call.send(2, b"two").len(), 0);
    call.worlds[0].commit(&[call.tap.into()]);
    assert_eq!(call.send(3, b"three").len(), 1);
    call.worlds[0].take_reports();
    call.worlds[0].commit(&[StreamClose { stream: call.stream.stream }.into(), TapClose { tap: call.tap.tap }.into()]);
    let refused = |r: &Report| matches!(r, Report::Event(Event::Refused(r)) if r.refusal == Refusal::Unknown);
    assert!(call.worlds[0].take_reports().iter().any(refused), "it went with the stream");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut call = Call::new(Codec::Opus);
    let refusal = |call: &mut Call, worker: usize, command: Command| {
        call.worlds[worker].take_reports();
        call.worlds[worker].commit(&[command]);
        call.worlds[worker].take_reports().into_iter().find_map(|report| match report {
            Report::Event(Event::Refused(refused)) => {
                assert_eq!(refused.tag, command.tag());
                Some(refused.refusal)
            }
            _ => None,
        })
    };
    let other = TapId::new(90, 1);
    for (worker, command, expected) in [
        (0, TapOpen { tap: other, worker: 0, ..call.tap }.into(), Refusal::Unknown), // itself
        (0, TapOpen { tap: other, worker: 2, ..call.tap }.into(), Refusal::Unknown), // there is none
        (0, TapOpen { tap: other, stream: StreamId::new(9, 9), ..call.tap }.into(), Refusal::Unknown),
        (0, TapOpen { tap: other, ..call.tap }.into(), Refusal::Occupied), // it goes there already
        (0, TapOpen { tap: TapId::new(u32::MAX, 1), ..call.tap }.into(), Refusal::Occupied),
        (0, TapClose { tap: other }.into(), Refusal::Unknown),
        (1, MirrorOpen { worker: 1, ..call.mirror }.into(), Refusal::Unknown),
        (1, call.mirror.into(), Refusal::Occupied),
        (1, MirrorOpen { stream: StreamId::new(u32::MAX, 1), ..call.mirror }.into(), Refusal::TableFull),
        // A mirror is not handed on: no packet goes in circles.
        (1, TapOpen { stream: call.mirror.stream, worker: 0, ..call.tap }.into(), Refusal::Occupied),
    ] {
        assert_eq!(refusal(&mut call, worker, command), Some(expected), "{command:?}");
    }
    assert_eq!(call.send(1, b"still").len(), 1);
}

#[test]
fn a_description_tells_taps_and_mirrors() {
    let mut call = Call::new(Codec::H264);
    for (worker, expected) in [(0, Command::from(call.tap)), (1, call.mirror.into())] {
        let world = &mut call.worlds[worker];
        world.take_reports();
        world.commit(&[Describe {}.into()]);
        while world.forwarder.is_describing() {
            world.forwarder.describe(100, &mut world.egress.outbox);
            world.collect();
        }
        let echoed = world.take_echoes();
        assert!(echoed.contains(&expected), "{echoed:?}");
        let is_nobodys =
            |c: &Command| matches!(c, Command::StreamOpen(open) if open.peer == PeerId::new(u32::MAX, u32::MAX));
        assert!(!echoed.iter().any(is_nobodys));
    }
    call.worlds[1].commit(&[Reset {}.into()]);
    call.send(1, SPS);
    assert_eq!(call.counters(1, [Counter::DroppedRelayStale]), [1]);
}
