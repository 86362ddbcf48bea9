//! What a worker says of streams and slots: counts since they began, and what came in the last seconds.

use bytes::Bytes;
use proto::id::{SlotId, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::sender_report::SenderReport;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const SECOND: u64 = 1_000_000;

/// Alice's camera in Bob's slot.
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    stream: StreamId,
    slot: SlotId,
    ssrc: u32,
}

impl Call {
    fn new() -> Call {
        let mut world = World::new();
        let (alice, bob) = (world.connect(GCM), world.connect(GCM));
        let stream = world.publish(&alice, Codec::H264);
        let slot = world.slot(&bob);
        world.route(stream, slot);
        let ssrc = world.ssrc_of(stream);
        Call { world, alice, bob, stream, slot, ssrc }
    }

    /// A packet every 20 ms, but not those that `is_lost` names.
    fn video(&mut self, seqs: std::ops::Range<u16>, is_lost: impl Fn(u16) -> bool) {
        for seq in seqs {
            if !is_lost(seq) {
                self.arrives(seq, self.ssrc);
            }
            self.world.advance(20_000);
        }
    }

    fn arrives(&mut self, seq: u16, ssrc: u32) {
        let payload = if seq.is_multiple_of(25) { SPS } else { DELTA };
        let protected = self.alice.protect(&packet(ssrc, H264_PT, seq, u32::from(seq) * 1800, payload));
        self.world.receive(self.alice.remote, &protected);
    }

    fn bob_says(&mut self, packet: &dyn rtcp::packet::Packet) {
        let protected = self.bob.protect_rtcp(packet);
        self.world.receive(self.bob.remote, &protected);
    }

    fn of_stream(&self) -> StreamTally {
        self.world.streams[&self.stream]
    }

    fn of_slot(&self) -> SlotTally {
        self.world.slots[&self.slot]
    }
}

#[test]
fn a_stream_says_how_much_comes_and_how_much_is_lost() {
    let mut call = Call::new();
    call.video(100..400, |seq| seq % 10 == 3);
    call.world.advance(SECOND);
    let tally = call.of_stream();
    assert_eq!((tally.packets, tally.expected), (270, 300));
    assert_eq!(tally.bytes, 12 * SPS.len() as u64 + 258 * DELTA.len() as u64);
    assert!(tally.nacks >= 30, "each was asked for: {}", tally.nacks);
    assert!((1..=call.world.counter(Counter::KeyframeRequestsSent)).contains(&tally.keyframe_requests));

    call.video(400..600, |seq| seq % 4 == 3);
    let tally = call.of_stream();
    let window = tally.window_us as f64 / SECOND as f64;
    assert!((1.75..4.6).contains(&window), "{window} s");
    let (came, expected) = (tally.window_packets as f64 / window, tally.window_expected as f64 / window);
    assert!((35.0..40.0).contains(&came) && (47.0..51.0).contains(&expected), "{came} of {expected} a second");
}

#[test]
fn a_repaired_packet_is_counted_apart() {
    let mut call = Call::new();
    call.video(100..110, |seq| seq == 105);
    let rtx =
        packet(call.ssrc + 0x1_0000, RTX_PT, 7, 105 * 1800, &[&105u16.to_be_bytes()[..], b"\x41original"].concat());
    let rtx = call.alice.protect(&rtx);
    call.world.receive(call.alice.remote, &rtx);
    call.world.advance(SECOND);
    let tally = call.of_stream();
    assert_eq!((tally.packets, tally.expected, tally.repaired), (9, 10, 1));
    assert_eq!(call.of_slot().packets, 10, "it left like the others");
}

#[test]
fn counts_go_on_through_another_ssrc() {
    let mut call = Call::new();
    call.video(100..110, |_| false);
    call.world.advance(dataplane::config::SSRC_SILENCE);
    for seq in 7000..7005 {
        let mut packet = packet(77, H264_PT, seq, 0, SPS);
        let mid = Bytes::from(call.stream.index.to_string());
        packet.header.set_extension(IDS[Extension::Mid as usize], mid).unwrap();
        let protected = call.alice.protect(&packet);
        call.world.receive(call.alice.remote, &protected);
    }
    call.world.advance(SECOND);
    let tally = call.of_stream();
    assert_eq!((tally.packets, tally.expected), (15, 15), "the jump between the two is no loss");
}

#[test]
fn a_slot_says_what_its_receiver_reports_while_it_is_new() {
    let mut call = Call::new();
    call.video(100..150, |_| false);
    let tally = call.of_slot();
    assert_eq!((tally.loss_256, tally.rtt_us, tally.nacks), (None, None, 0), "not reported yet, so not known");

    let report = SenderReport { ssrc: call.ssrc, ntp_time: 0xe000_0001_8000_0000, ..Default::default() };
    let protected = call.alice.protect_rtcp(&report);
    call.world.receive(call.alice.remote, &protected);
    call.world.take_sent(call.bob.remote);
    call.world.advance(1_300_000);
    let datagrams = call.world.take_sent(call.bob.remote);
    let heard = call.bob.unprotect_rtcp(&datagrams);
    let sr = heard.iter().rev().find_map(|p| p.as_any().downcast_ref::<SenderReport>()).expect("one a second");
    call.world.advance(80_000);
    let ssrc = 0x2000_0000 + call.slot.index;
    let block = ReceptionReport {
        ssrc,
        fraction_lost: 64,
        last_sender_report: (sr.ntp_time >> 16) as u32,
        delay: 65_536 * 30 / 1000,
        ..Default::default()
    };
    call.bob_says(&ReceiverReport { ssrc: 1, reports: vec![block], profile_extensions: Bytes::new() });
    let nacks = nack_pairs_from_sequence_numbers(&[1010, 1020]);
    call.bob_says(&TransportLayerNack { sender_ssrc: 1, media_ssrc: ssrc, nacks });
    call.bob_says(&PictureLossIndication { sender_ssrc: 1, media_ssrc: ssrc });
    call.world.advance(SECOND * 9 / 8);
    let tally = call.of_slot();
    assert_eq!((tally.packets, tally.loss_256), (50, Some(64)));
    assert_eq!(
        (tally.nacks, tally.retransmitted, tally.keyframe_requests),
        (2, 4, 1),
        "a quarter is lost: each is repaired twice"
    );
    let rtt = tally.rtt_us.expect("told by the report");
    assert!((50_000..SECOND).contains(&rtt), "{rtt}");

    // Checks go on, reports do not.
    for _ in 0..4 {
        let check = call.bob.check(true);
        call.world.receive(call.bob.remote, &check);
        call.world.advance(5 * SECOND);
    }
    let tally = call.of_slot();
    assert_eq!((tally.loss_256, tally.rtt_us), (None, None), "what was true long ago is not known now");
    assert_eq!((tally.packets, tally.window_packets), (50, 0));
}
