//! A publisher that sends from more SSRCs than one in a section: simulcast by `ssrc-group:SIM`, announced or not, an SSRC that
//! changes and comes back, and SSRCs of no stream. Whatever becomes of a packet, its arrival is told, so that the
//! publisher's estimate of its way does not fall.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::id::StreamId;
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::transport_feedbacks::transport_layer_cc::{PacketStatusChunk, SymbolTypeTcc, TransportLayerCc};

use crate::world::*;

const FRAME: u64 = 33_000;

/// Alice sends video from several SSRCs of one section, Bob receives it.
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    open: StreamOpen,
    cc_seq: u16,
    seqs: std::collections::BTreeMap<u32, u16>,
    timestamp: u32,
    /// What Bob got.
    heard: Vec<rtp::packet::Packet>,
    acknowledged: BTreeSet<u16>,
    /// SSRCs that were asked for a keyframe.
    asked: Vec<u32>,
}

impl Call {
    fn new(codec: Codec, encodings: &[(u32, u32)]) -> Call {
        let mut world = World::new();
        let (alice, bob) = (world.connect(SrtpProfile::AeadAes128Gcm), world.connect(SrtpProfile::AeadAes128Gcm));
        let open = world.stream_open(&alice, codec);
        world.commit(&[open.into()]);
        if !encodings.is_empty() {
            world.commit(&[encodings_of(open.stream, encodings).into()]);
        }
        let slot = world.slot(&bob);
        world.route(open.stream, slot);
        assert!(!world.take_reports().iter().any(|r| matches!(r, Report::Event(Event::Refused(_)))));
        let (heard, acknowledged, asked) = Default::default();
        let (cc_seq, seqs, timestamp) = Default::default();
        Call { world, alice, bob, open, cc_seq, seqs, timestamp, heard, acknowledged, asked }
    }

    /// A packet of an SSRC in the section, as it leaves Alice.
    fn packet(&mut self, ssrc: u32, pt: u8, payload: &[u8]) -> Vec<u8> {
        let seq = self.seqs.entry(ssrc).or_insert(100);
        *seq += 1;
        self.cc_seq += 1;
        let mut packet = packet(ssrc, pt, *seq, self.timestamp, payload);
        packet.header.marker = true;
        packet.header.set_extension(4, self.open.mid.as_bytes().to_vec().into()).unwrap();
        packet.header.set_extension(3, Bytes::copy_from_slice(&self.cc_seq.to_be_bytes())).unwrap();
        self.alice.protect(&packet)
    }

    /// A datagram arrives; the payloads that Bob gets of it.
    fn arrives(&mut self, datagram: &[u8]) -> Vec<Bytes> {
        self.world.receive_in_turn(self.alice.remote, datagram);
        self.world.fan_out();
        let datagrams = self.world.take_sent(self.bob.remote);
        let packets = self.bob.unprotect(&datagrams);
        let payloads = packets.iter().map(|packet| packet.payload.clone()).collect();
        self.heard.extend(packets);
        payloads
    }

    /// A packet of an SSRC arrives.
    fn sends(&mut self, ssrc: u32, payload: &[u8]) -> Vec<Bytes> {
        let datagram = self.packet(ssrc, self.open.pt, payload);
        self.arrives(&datagram)
    }

    /// One frame of each of these SSRCs, all keyframes of those that were asked. How many of each Bob got.
    fn frame<const N: usize>(&mut self, ssrcs: [u32; N]) -> [usize; N] {
        self.timestamp += 3000;
        self.world.advance(FRAME);
        self.hear();
        ssrcs.map(|ssrc| {
            let is_first = !self.seqs.contains_key(&ssrc);
            let is_asked = self.asked.contains(&ssrc);
            self.asked.retain(|asked| *asked != ssrc);
            let payload = [if is_first || is_asked { SPS } else { DELTA }, &ssrc.to_be_bytes()].concat();
            let got = self.sends(ssrc, &payload);
            assert!(got.iter().all(|payload| payload.ends_with(&ssrc.to_be_bytes())));
            got.len()
        })
    }

    /// What the worker told Alice.
    fn hear(&mut self) {
        let datagrams = self.world.take_sent(self.alice.remote);
        for packet in self.alice.unprotect_rtcp(&datagrams) {
            if let Some(pli) = packet.as_any().downcast_ref::<PictureLossIndication>() {
                self.asked.push(pli.media_ssrc);
            } else if let Some(feedback) = packet.as_any().downcast_ref::<TransportLayerCc>() {
                self.acknowledged.extend(arrived(feedback));
            }
        }
    }

    /// All that was sent has been told to have arrived, but for these.
    #[track_caller]
    fn all_acknowledged_but(&mut self, lost: &[u16]) {
        self.world.advance(200_000);
        self.hear();
        let missing: Vec<u16> = (1..=self.cc_seq).filter(|seq| !self.acknowledged.contains(seq)).collect();
        assert_eq!(missing, lost, "not acknowledged");
    }
}

fn encodings_of(stream: StreamId, encodings: &[(u32, u32)]) -> StreamEncodings {
    let mut open = StreamEncodings { stream, ssrcs: [0; STREAM_ENCODINGS_MAX], rtx_ssrcs: [0; STREAM_ENCODINGS_MAX] };
    for (place, (ssrc, rtx_ssrc)) in encodings.iter().enumerate() {
        (open.ssrcs[place], open.rtx_ssrcs[place]) = (*ssrc, *rtx_ssrc);
    }
    open
}

/// The transport-wide sequence numbers that a feedback packet says have arrived.
fn arrived(feedback: &TransportLayerCc) -> Vec<u16> {
    let symbols = feedback.packet_chunks.iter().flat_map(|chunk| match chunk {
        PacketStatusChunk::RunLengthChunk(run) => vec![run.packet_status_symbol; run.run_length.into()],
        PacketStatusChunk::StatusVectorChunk(vector) => vector.symbol_list.clone(),
    });
    let seqs = (0..feedback.packet_status_count).map(|n| feedback.base_sequence_number.wrapping_add(n));
    seqs.zip(symbols).filter(|(_, symbol)| *symbol != SymbolTypeTcc::PacketNotReceived).map(|(seq, _)| seq).collect()
}

const MIDDLE: (u32, u32) = (0xb1, 0xb2);
const LOW: (u32, u32) = (0xc1, 0xc2);

#[test]
fn of_simulcast_by_ssrcs_the_best_one_flows_and_all_are_told_to_have_arrived() {
    let mut call = Call::new(Codec::H264, &[MIDDLE, LOW]);
    let best = call.open.ssrc;
    for n in 0..100 {
        assert_eq!(call.frame([LOW.0, MIDDLE.0, best]), if n == 0 { [1, 1, 1] } else { [0, 0, 1] }, "{n}");
    }
    call.all_acknowledged_but(&[]);
    assert_eq!(call.world.counter(Counter::DroppedOtherSsrc), 2 * 99);
    assert_eq!(call.world.counter(Counter::DroppedUnknownStream), 0);
}

#[test]
fn the_best_that_is_sent_flows() {
    let mut call = Call::new(Codec::H264, &[MIDDLE, LOW]);
    let best = call.open.ssrc;
    for _ in 0..10 {
        call.frame([LOW.0, MIDDLE.0, best]);
    }
    // The publisher's way is narrower: its best encoding ends, as libwebrtc does it.
    let frames: usize = (0..60).map(|_| call.frame([LOW.0, MIDDLE.0])[1]).sum();
    assert!(frames > 60 - 16, "{frames}: after half a second, and a keyframe");
    // It is back, and is asked for the keyframe that the others need; until then the middle one goes on.
    let frames: usize = (0..30).map(|_| call.frame([LOW.0, MIDDLE.0, best]).iter().sum::<usize>()).sum();
    assert!((30..=31).contains(&frames), "{frames}: one or the other, and no gap");
    assert_eq!(call.frame([LOW.0, MIDDLE.0, best]), [0, 0, 1]);
    let seqs: Vec<u16> = call.heard.iter().map(|packet| packet.header.sequence_number).collect();
    assert!(seqs.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "one stream without a gap: {seqs:?}");
    call.all_acknowledged_but(&[]);
}

#[test]
fn an_announced_ssrc_is_not_taken_away_by_others_in_its_section() {
    let mut call = Call::new(Codec::H264, &[]);
    let announced = call.open.ssrc;
    for n in 0..100 {
        assert_eq!(call.frame([announced, 0xb1, 0xc1]), [1, 0, 0], "{n}");
    }
    call.all_acknowledged_but(&[]);
    assert_eq!(call.world.counter(Counter::DroppedOtherSsrc), 200);
}

#[test]
fn a_stream_follows_its_publisher_to_another_ssrc_and_back() {
    for codec in [Codec::H264, Codec::Opus] {
        let mut call = Call::new(codec, &[]);
        let (a, b) = (call.open.ssrc, 0xb1);
        for _ in 0..10 {
            assert_eq!(call.frame([a]), [1]);
        }
        let late = call.packet(a, call.open.pt, DELTA);
        let frames: usize = (0..100).map(|_| call.frame([b])[0]).sum();
        assert!(frames >= 30, "{codec:?}: {frames} of three seconds");
        let frames: usize = (0..100).map(|_| call.frame([a])[0]).sum();
        assert!(frames >= 95, "{codec:?}: {frames} of three seconds, and it is announced");
        assert!(call.arrives(&late).is_empty(), "a packet of before the change");
        call.all_acknowledged_but(&[11]); // It is too late for feedback.
    }
}

#[test]
fn what_belongs_to_no_stream_has_arrived_all_the_same_and_once() {
    let mut call = Call::new(Codec::H264, &[]);
    call.frame([call.open.ssrc]);
    let unknown_pt = call.packet(0xd1, 99, DELTA);
    assert!(call.arrives(&unknown_pt).is_empty());
    assert_eq!(call.world.counter(Counter::DroppedUnknownStream), 1);
    let of_the_stream = call.packet(call.open.ssrc, 99, DELTA);
    assert!(call.arrives(&of_the_stream).is_empty());
    call.all_acknowledged_but(&[]);
    assert!(call.arrives(&unknown_pt).is_empty());
    assert_eq!(call.world.counter(Counter::DroppedSrtpReplay), 1);
    let mut forged = call.packet(0xd1, 99, DELTA);
    *forged.last_mut().unwrap() ^= 1;
    assert!(call.arrives(&forged).is_empty());
    assert_eq!(call.world.counter(Counter::DroppedSrtpAuth), 1);
    let last = call.cc_seq;
    call.frame([call.open.ssrc]);
    call.all_acknowledged_but(&[last]);
    // Its section is closed, and the packets that were under way arrive.
    call.world.commit(&[StreamClose { stream: call.open.stream }.into()]);
    assert!(call.sends(call.open.ssrc, DELTA).is_empty());
    call.all_acknowledged_but(&[last]);
}

#[test]
fn a_late_packet_whose_repair_was_faster_has_arrived() {
    let mut call = Call::new(Codec::H264, &[]);
    call.frame([call.open.ssrc]);
    let late = call.packet(call.open.ssrc, H264_PT, DELTA);
    call.frame([call.open.ssrc]);
    let repair = call.packet(call.open.rtx_ssrc, RTX_PT, &[&102u16.to_be_bytes()[..], DELTA].concat());
    assert_eq!(call.arrives(&repair), [Bytes::from_static(DELTA)]);
    assert!(call.arrives(&late).is_empty());
    assert!(call.arrives(&late).is_empty());
    assert_eq!(call.world.counter(Counter::DroppedSrtpReplay), 2);
    call.all_acknowledged_but(&[]);
}

#[test]
fn the_repairs_of_another_encoding_fill_no_holes() {
    let mut call = Call::new(Codec::H264, &[MIDDLE]);
    let best = call.open.ssrc;
    call.frame([best]);
    call.packet(best, H264_PT, DELTA);
    call.frame([best, MIDDLE.0]);
    let of_middle = call.packet(MIDDLE.1, RTX_PT, &[&102u16.to_be_bytes()[..], b"\x41middle"].concat());
    assert!(call.arrives(&of_middle).is_empty());
    let of_best = call.packet(call.open.rtx_ssrc, RTX_PT, &[&102u16.to_be_bytes()[..], b"\x41best"].concat());
    assert_eq!(call.arrives(&of_best), [Bytes::from_static(b"\x41best")]);
    // The middle one takes over, and so do its repairs.
    for _ in 0..40 {
        call.frame([MIDDLE.0]);
    }
    let lost = call.seqs[&MIDDLE.0] + 1;
    call.packet(MIDDLE.0, H264_PT, DELTA);
    call.frame([MIDDLE.0]);
    let of_middle = call.packet(MIDDLE.1, RTX_PT, &[&lost.to_be_bytes()[..], b"\x41middle"].concat());
    assert_eq!(call.arrives(&of_middle), [Bytes::from_static(b"\x41middle")]);
}

#[test]
fn ssrcs_are_bounded_and_an_old_one_is_no_replay_again() {
    let mut call = Call::new(Codec::Opus, &[]);
    call.frame([call.open.ssrc]);
    let mut packets = Vec::new();
    for ssrc in 1..500 {
        let datagram = call.packet(0x5000 + ssrc, OPUS_PT, b"one of many");
        call.arrives(&datagram);
        packets.push(datagram);
    }
    let known = call.world.forwarder.sizes().ssrcs;
    assert!(known <= dataplane::config::PEER_SSRCS_MAX, "{known}");
    assert!(call.world.counter(Counter::DroppedUnknownStream) >= 400);
    call.world.advance(10_000_000);
    let taken = call.world.counter(Counter::Forwarded) + call.world.counter(Counter::DroppedOtherSsrc);
    packets.iter().for_each(|datagram| drop(call.arrives(datagram)));
    let again = call.world.counter(Counter::Forwarded) + call.world.counter(Counter::DroppedOtherSsrc);
    assert_eq!(again, taken, "each is a replay");
    assert_eq!(call.frame([call.open.ssrc]), [1]);
}

#[test]
fn encodings_are_described_refused_when_taken_and_go_with_their_stream() {
    let mut call = Call::new(Codec::H264, &[MIDDLE, LOW]);
    let open = encodings_of(call.open.stream, &[MIDDLE, LOW]);
    let refusal = |call: &mut Call, command: Command| {
        call.world.commit(&[command]);
        call.world.take_reports().into_iter().find_map(|report| match report {
            Report::Event(Event::Refused(refused)) => Some(refused.refusal),
            _ => None,
        })
    };
    assert_eq!(refusal(&mut call, open.into()), Some(Refusal::Occupied), "once a stream");
    let second = StreamOpen {
        mid: proto::id::Mid::parse(b"second").unwrap(),
        ..call.world.stream_open(&call.alice, Codec::H264)
    };
    assert_eq!(refusal(&mut call, second.into()), None);
    for pair in [(call.open.ssrc, 0), (0xe1, call.open.rtx_ssrc), (0xe1, 0xe1)] {
        assert_eq!(
            refusal(&mut call, encodings_of(second.stream, &[pair]).into()),
            Some(Refusal::Occupied),
            "{pair:?}"
        );
    }
    let unknown = encodings_of(StreamId::new(999, 1), &[LOW]);
    assert_eq!(refusal(&mut call, unknown.into()), Some(Refusal::Unknown));
    call.frame([LOW.0, MIDDLE.0]);
    let replayed = call.packet(LOW.0, H264_PT, DELTA);
    call.arrives(&replayed);
    call.world.commit(&[StreamClose { stream: call.open.stream }.into()]);
    let again = StreamOpen { stream: StreamId::new(call.open.stream.index, 2), ..call.open };
    assert_eq!(refusal(&mut call, again.into()), None);
    assert_eq!(refusal(&mut call, encodings_of(again.stream, &[MIDDLE, LOW]).into()), None);
    call.arrives(&replayed);
    assert_eq!(call.world.counter(Counter::DroppedSrtpReplay), 1, "its window went on");
    call.world.commit(&[Describe {}.into()]);
    call.world.forwarder.describe(100, &mut call.world.egress.outbox);
    call.world.collect();
    let echo = Report::Echo(encodings_of(again.stream, &[MIDDLE, LOW]).into());
    assert!(call.world.take_reports().contains(&echo));
}
