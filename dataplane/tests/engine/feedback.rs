//! RTCP at a worker: repair both ways, keyframe requests, reports, transport-cc. The other end is the `rtcp` crate.

use bytes::Bytes;
use proto::plane::*;
use rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::sender_report::SenderReport;
use rtcp::transport_feedbacks::transport_layer_cc::{PacketStatusChunk, TransportLayerCc};
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const SECOND: u64 = 1_000_000;

type Rtcp = Box<dyn rtcp::packet::Packet + Send + Sync>;

/// Alice's camera in Bob's slot, past its first keyframe (sequence numbers 100 → 1000, timestamps 0 → 90000).
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    ssrc: u32,
    slot_ssrc: u32,
}

impl Call {
    fn new() -> Call {
        let mut world = World::new();
        let alice = world.connect(GCM);
        let bob = world.connect(GCM);
        let stream = world.publish(&alice, Codec::H264);
        let slot = world.slot(&bob);
        world.route(stream, slot);
        let ssrc = world.ssrc_of(stream);
        let mut call = Call { world, alice, bob, ssrc, slot_ssrc: 0x2000_0000 + slot.index };
        assert_eq!(call.video(100, SPS).len(), 1);
        call.said_to_alice();
        call
    }

    /// Alice sends a packet; what Bob gets of it.
    fn video(&mut self, seq: u16, payload: &[u8]) -> Vec<rtp::packet::Packet> {
        let packet = packet(self.ssrc, H264_PT, seq, u32::from(seq) * 3000 - 300_000, payload);
        let protected = self.alice.protect(&packet);
        self.arrives(&protected)
    }

    fn arrives(&mut self, protected: &[u8]) -> Vec<rtp::packet::Packet> {
        self.world.receive(self.alice.remote, protected);
        let datagrams = self.world.take_sent(self.bob.remote);
        self.bob.unprotect(&datagrams)
    }

    fn bob_says(&mut self, packet: &dyn rtcp::packet::Packet) {
        let protected = self.bob.protect_rtcp(packet);
        self.world.receive(self.bob.remote, &protected);
    }

    fn bob_lacks(&mut self, seqs: &[u16]) -> Vec<rtp::packet::Packet> {
        self.bob_says(&TransportLayerNack {
            sender_ssrc: 1,
            media_ssrc: self.slot_ssrc,
            nacks: nack_pairs_from_sequence_numbers(seqs),
        });
        let datagrams = self.world.take_sent(self.bob.remote);
        self.bob.unprotect(&datagrams)
    }

    fn said_to_alice(&mut self) -> Vec<Rtcp> {
        let datagrams = self.world.take_sent(self.alice.remote);
        self.alice.unprotect_rtcp(&datagrams)
    }

    fn keyframes_asked(&mut self) -> usize {
        self.said_to_alice()
            .iter()
            .filter_map(|p| p.as_any().downcast_ref::<PictureLossIndication>())
            .inspect(|pli| assert_eq!(pli.media_ssrc, self.ssrc))
            .count()
    }
}

fn find<T: 'static>(packets: &[Rtcp]) -> Vec<&T> {
    packets.iter().filter_map(|p| p.as_any().downcast_ref::<T>()).collect()
}

#[test]
fn a_subscribers_nack_is_answered_by_rtx_once_a_round_trip() {
    let mut call = Call::new();
    call.video(101, DELTA);
    call.video(103, b"\x41the one that is missing");
    let rtx = call.bob_lacks(&[1003, 1002, 40_000]);
    assert_eq!(rtx.len(), 1, "1002 has not come to us either, 40000 never was");
    let header = &rtx[0].header;
    assert_eq!(header.ssrc, 0x3000_0000 + (call.slot_ssrc - 0x2000_0000));
    assert_eq!((header.payload_type, header.sequence_number), (121, 2000), "a stream of its own");
    assert_eq!(header.timestamp, 90_000 + 9000, "RFC 4588 §4: the timestamp of the original");
    assert_eq!(rtx[0].payload[..2], 1003u16.to_be_bytes(), "then its original sequence number");
    assert_eq!(rtx[0].payload[2..], *b"\x41the one that is missing");
    assert!(call.bob_lacks(&[1003]).is_empty(), "asked again within a round trip");
    call.world.advance(150_000);
    assert_eq!(call.bob_lacks(&[1003])[0].header.sequence_number, 2001);
    assert_eq!(call.world.counter(Counter::RtxSent), 2);
    assert_eq!(call.world.counter(Counter::NackMissed), 2);
    assert_eq!(call.world.counter(Counter::NackThrottled), 1);
}

#[test]
fn a_receiver_that_loses_much_gets_each_repair_twice() {
    let mut call = Call::new();
    call.video(101, DELTA);
    let lost = |call: &mut Call, fraction_lost| {
        let report = ReceptionReport { ssrc: call.slot_ssrc, fraction_lost, ..Default::default() };
        call.bob_says(&ReceiverReport { ssrc: 1, reports: vec![report], ..Default::default() });
        call.world.advance(150_000);
        let rtx = call.bob_lacks(&[1001]);
        assert!(rtx.iter().all(|rtx| rtx.payload[..2] == 1001u16.to_be_bytes()));
        rtx.iter().map(|rtx| rtx.header.sequence_number).collect::<Vec<_>>()
    };
    assert_eq!(lost(&mut call, 12), [2000], "4.7 %");
    assert_eq!(lost(&mut call, 26), [2001, 2002], "10 %: two packets with numbers of their own");
    assert_eq!(lost(&mut call, 0), [2003], "no longer");
    assert_eq!(call.world.counter(Counter::RtxSent), 4);
}

#[test]
fn a_publishers_hole_is_asked_for_and_filled_once_whichever_comes_first() {
    let mut call = Call::new();
    let late = packet(call.ssrc, H264_PT, 102, 0, b"\x41original");
    let late = call.alice.protect(&late);
    call.video(101, DELTA);
    call.video(104, DELTA);
    call.world.advance(20_000);
    let said = call.said_to_alice();
    let nacks = find::<TransportLayerNack>(&said);
    assert_eq!(nacks.len(), 1);
    assert_eq!(nacks[0].media_ssrc, call.ssrc);
    assert_eq!(nacks[0].nacks.iter().flat_map(|n| n.packet_list()).collect::<Vec<_>>(), [102, 103]);

    let mut rtx = packet(call.ssrc + 0x1_0000, RTX_PT, 7, 6000, &[&102u16.to_be_bytes()[..], b"\x41original"].concat());
    rtx.header.set_extension(3, Bytes::from_static(&[0, 1])).unwrap();
    let rtx = call.alice.protect(&rtx);
    let got = call.arrives(&rtx);
    assert_eq!((got[0].header.sequence_number, &got[0].payload[..]), (1002, &b"\x41original"[..]));
    assert!(call.arrives(&late).is_empty(), "the original, late: the packet had arrived");
    assert_eq!(call.world.counter(Counter::DroppedSrtpReplay), 1);
    assert_eq!(call.video(103, DELTA)[0].header.sequence_number, 1003);
    let again = packet(call.ssrc + 0x1_0000, RTX_PT, 8, 9000, &[&103u16.to_be_bytes()[..], DELTA].concat());
    let again = call.alice.protect(&again);
    assert!(call.arrives(&again).is_empty(), "and the other way round");
    assert_eq!(call.world.counter(Counter::DroppedRtxUseless), 1);
    assert_eq!(call.world.counter(Counter::Recovered), 2);
    call.world.advance(300_000);
    let said = call.said_to_alice();
    assert!(find::<TransportLayerNack>(&said).is_empty(), "nothing is missing any more");
}

#[test]
fn rtx_padding_is_a_probe_and_goes_nowhere() {
    let mut call = Call::new();
    let probe = packet(call.ssrc + 0x1_0000, RTX_PT, 1, 0, &[]);
    let probe = call.alice.protect(&probe);
    assert!(call.arrives(&probe).is_empty());
    assert_eq!(call.world.counter(Counter::DroppedRtxUseless), 1);
}

#[test]
fn keyframe_requests_are_merged_and_throttled() {
    let mut call = Call::new();
    call.world.advance(SECOND);
    call.said_to_alice();
    let pli = PictureLossIndication { sender_ssrc: 1, media_ssrc: call.slot_ssrc };
    let fir = FullIntraRequest {
        sender_ssrc: 1,
        media_ssrc: 0,
        fir: vec![FirEntry { ssrc: call.slot_ssrc, sequence_number: 1 }],
    };
    call.bob_says(&pli);
    call.bob_says(&fir);
    assert_eq!(call.keyframes_asked(), 1, "two requests, one of them at once");
    call.world.advance(210_000);
    assert_eq!(call.keyframes_asked(), 1, "the second is still unanswered");
    call.video(101, SPS);
    call.world.advance(3 * SECOND);
    assert_eq!(call.keyframes_asked(), 0, "answered");
    for seq in 102..112 {
        call.bob_says(&pli);
        call.world.advance(400_000);
        call.video(seq, SPS);
    }
    assert_eq!(call.keyframes_asked(), 0, "three in ten seconds of one receiver, and the first was when it entered");
}

#[test]
fn a_new_receiver_makes_the_publisher_send_a_keyframe_until_it_comes() {
    let mut call = Call::new();
    call.world.advance(SECOND);
    call.said_to_alice();
    let carol = call.world.open(GCM);
    let slot = call.world.slot(&carol);
    call.world.route(proto::id::StreamId::new(call.ssrc - 0x1000, 1), slot);
    assert_eq!(call.keyframes_asked(), 0, "not before the receiver is there");
    call.world.commit(&carol.keys());
    let check = carol.check(true);
    call.world.receive(carol.remote, &check);
    assert_eq!(call.keyframes_asked(), 1);
    call.video(101, DELTA);
    call.world.advance(2_100_000);
    assert_eq!(call.keyframes_asked(), 2, "once a second while none comes");
    call.video(102, SPS);
    call.world.advance(3 * SECOND);
    assert_eq!(call.keyframes_asked(), 0);
}

#[test]
fn publishers_get_receiver_reports_and_receivers_get_the_publishers_clock() {
    let mut call = Call::new();
    for seq in (101..200).filter(|s| s % 10 != 0) {
        call.video(seq, DELTA);
    }
    let ntp = 0xe000_0001_8000_0000;
    let report = SenderReport {
        ssrc: call.ssrc,
        ntp_time: ntp,
        rtp_time: 6000,
        packet_count: 1,
        octet_count: 2,
        ..Default::default()
    };
    let protected = call.alice.protect_rtcp(&report);
    call.world.receive(call.alice.remote, &protected);
    let reported = call.world.now;
    call.world.take_sent(call.bob.remote);
    call.world.advance(SECOND);

    let said = call.said_to_alice();
    let reports = find::<ReceiverReport>(&said);
    let block = &reports[0].reports[0];
    assert_eq!((block.ssrc, block.last_sequence_number, block.total_lost), (call.ssrc, 199, 9));
    assert_eq!(u32::from(block.fraction_lost), 9 * 256 / 100);
    assert_eq!(block.last_sender_report, (ntp >> 16) as u32);
    assert!(block.delay > 0 && block.delay <= 65_536);

    let datagrams = call.world.take_sent(call.bob.remote);
    let heard = call.bob.unprotect_rtcp(&datagrams);
    let reports = find::<SenderReport>(&heard);
    let sr = reports.last().expect("a sender report each second");
    assert_eq!(sr.ssrc, call.slot_ssrc);
    assert_eq!(sr.packet_count, 91);
    // The clocks moved on together from the publisher's report: RTP 6000 is 96 000 in the slot.
    let elapsed = (u128::from(sr.rtp_time.wrapping_sub(96_000)) * 1_000_000 / 90_000) as u64;
    assert!(elapsed <= SECOND + 20_000, "{elapsed}");
    assert!(reported + elapsed <= call.world.now);

    // A receiver that answers 30 ms after it heard: the round trip is what remains.
    call.world.advance(80_000);
    let sent_at = reported + elapsed;
    let answer = ReceiverReport {
        ssrc: 1,
        reports: vec![ReceptionReport {
            ssrc: call.slot_ssrc,
            last_sender_report: (sr.ntp_time >> 16) as u32,
            delay: 65_536 * 30 / 1000,
            ..Default::default()
        }],
        profile_extensions: Bytes::new(),
    };
    call.bob_says(&answer);
    assert!(sent_at < call.world.now);
}

#[test]
fn transport_cc_tells_when_packets_arrived() {
    let mut call = Call::new();
    for (seq, delay) in [(10u16, 0), (11, 2_000), (13, 1_000)] {
        call.world.now += delay;
        let mut packet = packet(call.ssrc, H264_PT, 91 + seq, 0, DELTA);
        packet.header.set_extension(3, Bytes::copy_from_slice(&seq.to_be_bytes())).unwrap();
        let protected = call.alice.protect(&packet);
        call.arrives(&protected);
    }
    call.world.advance(110_000);
    let said = call.said_to_alice();
    let feedbacks = find::<TransportLayerCc>(&said);
    assert_eq!(feedbacks.len(), 1);
    let feedback = feedbacks[0];
    assert_eq!((feedback.base_sequence_number, feedback.packet_status_count), (10, 4));
    assert_eq!(feedback.media_ssrc, call.ssrc);
    assert!(!feedback.packet_chunks.is_empty());
    let deltas: Vec<i64> = feedback.recv_deltas.iter().map(|d| d.delta).collect();
    assert_eq!(deltas[1..], [2000, 1000], "microseconds between arrivals; 12 did not come");
    assert!(matches!(
        feedback.packet_chunks[0],
        PacketStatusChunk::StatusVectorChunk(_) | PacketStatusChunk::RunLengthChunk(_)
    ));
    call.world.advance(SECOND);
    let said = call.said_to_alice();
    assert!(find::<TransportLayerCc>(&said).is_empty(), "nothing new, nothing said");
}

#[test]
fn each_sender_of_a_peer_counts_its_own_rtcp() {
    let mut call = Call::new();
    for ssrc in [call.ssrc, 1, call.ssrc + 1] {
        let report = ReceiverReport { ssrc, ..Default::default() };
        let protected = call.alice.protect_rtcp(&report);
        call.world.receive(call.alice.remote, &protected);
        call.world.receive(call.alice.remote, &protected);
    }
    assert_eq!(call.world.counter(Counter::DroppedSrtcp), 3, "each is taken once, and its replay is not");
}

#[test]
fn reports_that_cannot_be_sent_do_not_hold_the_worker() {
    let (done, outcome) = std::sync::mpsc::channel();
    // On a thread of its own, because what this guards against is a turn that never ends.
    std::thread::spawn(move || {
        let mut world = World::new();
        let mut alice = world.open(GCM);
        let [rx, _no_tx] = alice.keys();
        world.commit(&[rx]);
        let check = alice.check(true);
        world.receive(alice.remote, &check);
        let stream = world.publish(&alice, Codec::Opus);
        let protected = alice.protect(&packet(world.ssrc_of(stream), OPUS_PT, 1, 0, b"heard"));
        world.receive(alice.remote, &protected);
        assert_eq!(world.counter(Counter::Forwarded), 1);
        world.advance(3 * SECOND);
        done.send(world.counter(Counter::Forwarded)).unwrap();
    });
    let outcome = outcome.recv_timeout(std::time::Duration::from_secs(20));
    assert_eq!(outcome, Ok(1), "a report to a peer without keys is given up");
}

#[test]
fn a_new_hole_does_not_wait_for_the_retry_of_an_old_one() {
    let mut call = Call::new();
    call.video(102, DELTA);
    call.world.advance(35_000);
    let asked = |call: &mut Call| {
        let said = call.said_to_alice();
        let nacks = find::<TransportLayerNack>(&said);
        nacks.iter().map(|nack| nack.nacks.iter().flat_map(|n| n.packet_list()).collect()).collect::<Vec<Vec<_>>>()
    };
    assert_eq!(asked(&mut call), [[101], [101]], "and again in a round trip");
    call.video(104, DELTA);
    call.world.advance(20_000);
    assert_eq!(asked(&mut call), [[103]]);
    call.world.advance(15_000);
    assert_eq!(asked(&mut call), [[103]], "the first may be lost");
}

#[test]
fn a_new_ssrc_without_a_keyframe_is_asked_for_one() {
    let mut call = Call::new();
    call.world.advance(5 * SECOND);
    call.said_to_alice();
    let mut renamed = packet(0xabcd, H264_PT, 7, 0, DELTA);
    renamed.header.set_extension(4, (call.ssrc - 0x1000).to_string().into()).unwrap();
    let renamed = call.alice.protect(&renamed);
    assert!(call.arrives(&renamed).is_empty(), "the picture before and this one have nothing in common");
    call.ssrc = 0xabcd;
    assert_eq!(call.keyframes_asked(), 1);
}

#[test]
fn the_reports_of_many_slots_fit_every_path() {
    let mut call = Call::new();
    let report = SenderReport { ssrc: call.ssrc, ntp_time: 1 << 40, rtp_time: 6000, ..Default::default() };
    let stream = proto::id::StreamId::new(call.ssrc - 0x1000, 1);
    for _ in 1..60 {
        let slot = call.world.slot(&call.bob);
        call.world.route(stream, slot);
    }
    let mut bob_speaks = Vec::new();
    for _ in 0..16 {
        let stream = call.world.publish(&call.bob, Codec::Opus);
        bob_speaks.push(call.world.ssrc_of(stream));
    }
    for ssrc in bob_speaks {
        let word = call.bob.protect(&packet(ssrc, OPUS_PT, 1, 0, b"word"));
        call.world.receive(call.bob.remote, &word);
    }
    let protected = call.alice.protect_rtcp(&report);
    call.world.receive(call.alice.remote, &protected);
    call.video(101, SPS);
    call.world.take_sent(call.bob.remote);
    call.world.advance(SECOND);
    let datagrams = call.world.take_sent(call.bob.remote);
    assert!(datagrams.iter().all(|d| d.len() <= 1200), "{:?}", datagrams.iter().map(Vec::len).collect::<Vec<_>>());
    let said = call.bob.unprotect_rtcp(&datagrams);
    let reports = find::<SenderReport>(&said);
    assert_eq!(reports.len(), 60);
    assert_eq!(reports.iter().map(|r| r.reports.len()).sum::<usize>(), 16);
}
