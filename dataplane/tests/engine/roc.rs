//! The roll-over counter of a sender (RFC 3711 §3.3.1) where nothing that we have heard tells it: the first packets of an
//! SSRC are lost at the end of the sequence numbers, or so many in a row that the nearest guess is the wrong one.

use bytes::Bytes;
use proto::plane::*;

use crate::world::*;

const PROFILES: [SrtpProfile; 3] =
    [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmHmacSha1_80];

/// Alice publishes, Bob receives.
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    open: StreamOpen,
}

impl Call {
    fn new(profile: SrtpProfile, codec: Codec) -> Call {
        let mut world = World::new();
        let (alice, bob) = (world.connect(profile), world.connect(SrtpProfile::AeadAes128Gcm));
        let open = world.stream_open(&alice, codec);
        world.commit(&[open.into()]);
        let slot = world.slot(&bob);
        world.route(open.stream, slot);
        Call { world, alice, bob, open }
    }

    /// The packet of an index, as Alice protects it. She must be asked for all of them in their order.
    fn packet(&mut self, index: u64) -> Vec<u8> {
        let payload = index.to_be_bytes();
        let payload = if self.open.codec.is_video() { [SPS, &payload].concat() } else { payload.to_vec() };
        let packet = packet(self.open.ssrc, self.open.pt, index as u16, index as u32 * 960, &payload);
        self.alice.protect(&packet)
    }

    /// What Bob gets of a datagram of Alice.
    fn arrives(&mut self, datagram: &[u8]) -> Vec<Bytes> {
        self.world.receive(self.alice.remote, datagram);
        let datagrams = self.world.take_sent(self.bob.remote);
        self.bob.unprotect(&datagrams).into_iter().map(|packet| packet.payload).collect()
    }
}

#[test]
fn a_stream_whose_first_packets_are_lost_before_the_wrap_is_understood() {
    for profile in PROFILES {
        let mut call = Call::new(profile, Codec::Opus);
        let lost: Vec<Vec<u8>> = (65_530..65_536).map(|index| call.packet(index)).collect();
        for index in 65_536..65_540u64 {
            let datagram = call.packet(index);
            assert_eq!(call.arrives(&datagram), [Bytes::copy_from_slice(&index.to_be_bytes())], "{profile:?} {index}");
            assert!(call.arrives(&datagram).is_empty(), "once");
        }
        // Those of before were late, not lost: they are of ROC 0 and older than the segment that runs.
        for datagram in &lost {
            assert!(call.arrives(datagram).is_empty());
        }
        assert_eq!(call.world.counter(Counter::HeldStale), 6);
        assert_eq!(call.world.counter(Counter::DroppedSrtpAuth), 0);
    }
}

#[test]
fn so_is_a_repair_stream_and_one_that_nobody_announced() {
    let mut call = Call::new(SrtpProfile::AeadAes128Gcm, Codec::H264);
    for index in [10, 12] {
        let datagram = call.packet(index);
        call.arrives(&datagram);
    }
    let rtx = |seq: u16, osn: u16| packet(0x1_1111, RTX_PT, seq, 0, &[&osn.to_be_bytes()[..], DELTA].concat());
    call.alice.protect(&rtx(65_535, 9));
    let mut repair = rtx(0, 11);
    repair.header.set_extension(4, call.open.mid.as_bytes().to_vec().into()).unwrap();
    let repair = call.alice.protect(&repair);
    // The announced SSRC of RTX has not been heard: another one may be it.
    assert_eq!(call.arrives(&repair), [Bytes::from_static(DELTA)]);
}

#[test]
fn a_pause_of_more_than_half_the_sequence_numbers_is_not_for_ever() {
    for (profile, pause) in PROFILES.into_iter().flat_map(|p| [33_000, 50_000, 64_900, 65_600, 90_000].map(|n| (p, n)))
    {
        let mut call = Call::new(profile, Codec::Opus);
        let first = call.packet(100);
        assert_eq!(call.arrives(&first).len(), 1);
        for index in 101..101 + pause {
            call.packet(index);
        }
        let mut heard = 0;
        let last = 101 + pause + 1200;
        for index in 101 + pause..last {
            let datagram = call.packet(index);
            heard += call.arrives(&datagram).len();
        }
        // Where the sequence numbers look like those just heard they are taken for replays until they have passed by.
        let least = if (64_500..65_536).contains(&pause) { 100 } else { 1198 };
        assert!(heard >= least, "{profile:?} {pause}: {heard}");
        let datagram = call.packet(last);
        assert_eq!(call.arrives(&datagram), [Bytes::copy_from_slice(&last.to_be_bytes())]);
        assert!(call.arrives(&first).is_empty(), "what is old stays old");
    }
}

#[test]
fn a_stream_that_is_opened_again_after_such_a_pause_is_understood() {
    let mut call = Call::new(SrtpProfile::AeadAes128Gcm, Codec::Opus);
    let first = call.packet(40_000);
    assert_eq!(call.arrives(&first).len(), 1);
    for index in 40_001..80_000 {
        call.packet(index);
    }
    let again = StreamOpen { stream: proto::id::StreamId::new(call.open.stream.index, 2), ..call.open };
    call.world.commit(&[StreamClose { stream: call.open.stream }.into(), again.into()]);
    let slot = call.world.slot(&call.bob);
    call.world.route(again.stream, slot);
    let datagram = call.packet(80_000);
    assert_eq!(call.arrives(&datagram).len(), 1);
    assert!(call.arrives(&first).is_empty());
}

/// Who forges has no more work done for it than before, but for so many tries a second.
#[test]
fn forged_packets_are_tried_twice_at_a_bounded_rate_and_keep_nobody_out() {
    let mut call = Call::new(SrtpProfile::AeadAes128Gcm, Codec::Opus);
    let mallory = packet(call.open.ssrc, OPUS_PT, 7, 0, b"a forged packet of some length");
    let mut forged = call.alice.protect(&mallory);
    *forged.last_mut().unwrap() ^= 1;
    let tries = |call: &mut Call| call.world.counter(Counter::SrtpSecondTries);
    for _ in 0..10_000 {
        assert!(call.arrives(&forged).is_empty());
    }
    let burst = tries(&mut call);
    assert!((1..=dataplane::config::SECOND_TRIES_BURST.into()).contains(&burst), "{burst}");
    call.world.advance(1_000_000);
    for _ in 0..10_000 {
        call.arrives(&forged);
    }
    let second = tries(&mut call) - burst;
    assert!(second <= u64::from(dataplane::config::SECOND_TRIES_RATE) + 1, "{second}");
    // What is authentic passes among them, and needs no second try.
    for index in 100..200 {
        call.arrives(&forged);
        let datagram = call.packet(index);
        assert_eq!(call.arrives(&datagram).len(), 1);
    }
    assert_eq!(call.world.counter(Counter::DroppedSrtpAuth), 20_100);
}
