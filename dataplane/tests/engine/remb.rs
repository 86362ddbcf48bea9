//! A publisher without transport-cc is told what it may send: as much as the controlplane set, less where its packets show
//! that the way bears less. The other end is the `rtcp` crate.

use bytes::Bytes;
use dataplane::rtp::abs_send_time;
use proto::id::StreamId;
use proto::plane::*;
use rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate as Remb;

use crate::world::*;

const SECOND: u64 = 1_000_000;
const FRAME: u64 = 33_333;
const LIMIT: u32 = 1_000_000;

/// Alice, who publishes a camera and a screen.
struct Call {
    world: World,
    alice: Peer,
    streams: [StreamId; 2],
    /// Whether her packets carry abs-send-time.
    is_stamped: bool,
    seq: u16,
    /// When her clock reads 0, in virtual time.
    begun: u64,
}

impl Call {
    fn new(feedback: u8, ids: ExtensionIds) -> Call {
        let mut world = World::new();
        let alice = world.connect(SrtpProfile::AeadAes128Gcm);
        let streams = [0, 1].map(|n| {
            let open = world.stream_open(&alice, Codec::Vp8);
            let pts = [(96, 97), (98, 99)][n];
            let open = StreamOpen { feedback: feedback | feedback::NACK, pt: pts.0, rtx_pt: pts.1, ..open };
            world.commit(&[open.into(), PeerExtensions { peer: alice.id, ids }.into()]);
            open.stream
        });
        let begun = world.now;
        Call { world, alice, streams, is_stamped: ids[Extension::AbsSendTime as usize] != 0, seq: 0, begun }
    }

    fn limit(&mut self, bps_max: u32) {
        self.world.commit(&[PeerLimit { peer: self.alice.id, bps_max }.into()]);
    }

    /// Alice sends frames of 40 kbit/s × 30 for so long, of which each arrives so much later as `delay` says (by the
    /// time since it began), and does not arrive if `is_lost`.
    fn send(&mut self, lasting: u64, delay: impl Fn(u64) -> u64, is_lost: impl Fn(u16) -> bool) {
        let start = self.world.now;
        for n in 0..lasting / FRAME {
            let sent = n * FRAME;
            let arrival = (start + sent + delay(sent)).max(self.world.now);
            self.world.advance(arrival - self.world.now);
            self.seq = self.seq.wrapping_add(1);
            let clock = start - self.begun + sent;
            let ssrc = self.world.ssrc_of(self.streams[0]);
            let mut packet = packet(ssrc, 96, self.seq, (clock * 90 / 1000) as u32, &[0x10; 1100]);
            if self.is_stamped {
                packet.header.set_extension(2, Bytes::copy_from_slice(&abs_send_time(clock))).unwrap();
            }
            let bytes = self.alice.protect(&packet);
            if !is_lost(self.seq) {
                self.world.receive(self.alice.remote, &bytes);
            }
        }
    }

    /// What Alice was told: bit/s, of which streams.
    fn told(&mut self) -> Vec<(u32, Vec<u32>)> {
        let datagrams = self.world.take_sent(self.alice.remote);
        let said = self.alice.unprotect_rtcp(&datagrams);
        said.iter()
            .filter_map(|packet| packet.as_any().downcast_ref::<Remb>())
            .map(|remb| (remb.bitrate as u32, remb.ssrcs.clone()))
            .collect()
    }

    fn last_told(&mut self) -> u32 {
        self.told().last().expect("she was told").0
    }
}

#[test]
fn a_publisher_is_told_its_limit_each_second_and_of_all_its_streams() {
    let mut call = Call::new(feedback::REMB, IDS);
    call.world.advance(3 * SECOND);
    assert!(call.told().is_empty(), "without a limit there is nothing to tell");
    call.limit(LIMIT);
    call.send(10 * SECOND, |_| 20_000, |_| false);
    let told = call.told();
    let ssrcs: Vec<u32> = call.streams.iter().map(|stream| call.world.ssrc_of(*stream)).collect();
    assert!((9..=11).contains(&told.len()), "{told:?}");
    assert!(told.iter().all(|(bps, of)| *bps == LIMIT && *of == ssrcs), "{told:?}");
    assert_eq!(call.world.counter(Counter::RembSent), told.len() as u64);

    call.limit(LIMIT / 2);
    assert_eq!(call.last_told(), LIMIT / 2, "less is told at once");
    call.limit(LIMIT);
    assert!(call.told().is_empty());
    call.world.advance(SECOND);
    assert_eq!(call.last_told(), LIMIT, "and more with the next");
}

#[test]
fn who_has_transport_cc_is_not_told() {
    let mut call = Call::new(feedback::TRANSPORT_CC, IDS);
    call.limit(LIMIT);
    call.send(5 * SECOND, |_| 20_000, |_| false);
    assert!(call.told().is_empty());
}

#[test]
fn a_queue_on_the_way_lowers_it_at_once_and_it_recovers() {
    let without = {
        let mut ids = IDS;
        ids[Extension::AbsSendTime as usize] = 0;
        ids
    };
    for ids in [IDS, without] {
        let mut call = Call::new(feedback::REMB, ids);
        call.limit(LIMIT);
        call.send(5 * SECOND, |_| 20_000, |_| false);
        assert_eq!(call.last_told(), LIMIT);
        // Of what she sends a quarter does not pass.
        call.send(2 * SECOND, |at| 20_000 + at / 4, |_| false);
        let told = call.told();
        let lowered = told.iter().position(|(bps, _)| *bps < LIMIT).expect("the queue was noticed");
        // She sends about 270 kbit/s.
        assert!(told[lowered].0 < LIMIT * 2 / 3 && told.last().unwrap().0 < 260_000, "{told:?}");
        let last = told.last().unwrap().0;
        call.send(60 * SECOND, |_| 520_000, |_| false);
        let recovered = call.last_told();
        assert!(recovered > last && recovered > 300_000, "{recovered} after {last}");
    }
}

#[test]
fn loss_lowers_it_and_a_little_loss_does_not() {
    let mut call = Call::new(feedback::REMB, IDS);
    call.limit(LIMIT);
    call.send(5 * SECOND, |_| 20_000, |seq| seq % 40 == 7);
    assert_eq!(call.last_told(), LIMIT, "one in forty");
    call.send(4 * SECOND, |_| 20_000, |seq| seq % 4 == 1);
    let told = call.told();
    assert!(told.windows(2).all(|pair| pair[1].0 <= pair[0].0), "{told:?}");
    assert!(told.last().unwrap().0 < LIMIT * 7 / 10, "three seconds of a quarter lost: {told:?}");
}

#[test]
fn a_limit_is_described_and_goes_with_its_peer() {
    let mut call = Call::new(feedback::REMB, IDS);
    call.limit(7);
    call.limit(LIMIT);
    let mut described = || {
        call.world.commit(&[Describe {}.into()]);
        call.world.take_reports();
        while call.world.forwarder.is_describing() {
            call.world.forwarder.describe(32, &mut call.world.egress.outbox);
            call.world.collect();
        }
        let limits = call.world.take_reports().into_iter().filter_map(|report| match report {
            Report::Echo(Command::PeerLimit(limit)) => Some(limit),
            _ => None,
        });
        limits.collect::<Vec<_>>()
    };
    assert_eq!(described(), [PeerLimit { peer: call.alice.id, bps_max: LIMIT }]);
    call.world.commit(&[PeerClose { peer: call.alice.id }.into()]);
    let refused = |report: &Report| matches!(report, Report::Event(Event::Refused(refused)) if refused.refusal == Refusal::Unknown);
    call.world.take_reports();
    call.limit(LIMIT);
    assert!(call.world.take_reports().iter().any(refused));
}
