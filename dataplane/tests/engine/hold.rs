//! How long receivers are told to hold pictures back (playout-delay), in virtual time: by how late packets come from a publisher, and by what the
//! receiver's own path loses.

use bytes::Bytes;
use dataplane::twcc::ArrivalLog;
use proto::plane::*;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1_000_000;
const FRAME: u64 = 40 * MILLISECOND;
const FEEDBACK: u64 = 100 * MILLISECOND;
const TRANSPORT_CC: u8 = 3;
const PLAYOUT_DELAY: u8 = 6;
/// Of video in a slot.
const SLOT_PT: u8 = 120;

/// Alice's camera, 25 frames a second in a packet each, to Bob, who has the extension, and to Carol, who has not.
struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    carol: Peer,
    ssrc: u32,
    frames: u16,
    /// What Alice says of her own; nothing if it is empty.
    own: &'static [u8],
    /// Packets for Bob, and each so many of them are lost.
    packets: u32,
    loses: Option<u32>,
    arrivals: ArrivalLog,
    reported_at: u64,
}

impl Call {
    fn new() -> Call {
        let mut world = World::new();
        let [alice, bob, carol] = [(); 3].map(|()| world.connect(GCM));
        let mut ids = IDS;
        ids[Extension::PlayoutDelay as usize] = PLAYOUT_DELAY;
        for peer in [alice.id, bob.id] {
            world.commit(&[PeerExtensions { peer, ids }.into()]);
        }
        let stream = world.publish(&alice, Codec::H264);
        for receiver in [&bob, &carol] {
            let slot = world.slot(receiver);
            world.route(stream, slot);
        }
        let ssrc = world.ssrc_of(stream);
        let arrivals = ArrivalLog::new(512);
        let (frames, packets, reported_at) = (0, 0, world.now);
        Call { world, alice, bob, carol, ssrc, frames, own: &[], packets, loses: None, arrivals, reported_at }
    }

    /// Frames for so long, of which each so many comes 130 ms later than it should. What Bob is told at the end: how long, in ms.
    fn runs(&mut self, time: u64, late: Option<u16>) -> Option<u16> {
        let is_late = |frame: u16| late.is_some_and(|each| frame % each == each - 1);
        let mut told = None;
        for _ in 0..time / FRAME {
            let frame = self.frames;
            self.frames += 1;
            if !is_late(frame) {
                self.sends(frame);
            }
            self.world.advance(10 * MILLISECOND);
            if let Some(before) = frame.checked_sub(3).filter(|before| is_late(*before)) {
                self.sends(before);
            }
            self.world.advance(FRAME - 10 * MILLISECOND);
            told = self.bob_gets();
        }
        told
    }

    fn sends(&mut self, frame: u16) {
        let payload = if frame == 0 { SPS } else { DELTA };
        let mut packet = packet(self.ssrc, H264_PT, 100 + frame, u32::from(frame) * 3600, payload);
        if !self.own.is_empty() {
            packet.header.set_extension(PLAYOUT_DELAY, Bytes::from_static(self.own)).unwrap();
        }
        let protected = self.alice.protect(&packet);
        self.world.receive(self.alice.remote, &protected);
    }

    /// Bob takes what came and reports on it. What the last packet of the camera tells him.
    fn bob_gets(&mut self) -> Option<u16> {
        let datagrams = self.world.take_sent(self.bob.remote);
        let mut told = None;
        for packet in self.bob.unprotect(&datagrams) {
            let number = packet.header.get_extension(TRANSPORT_CC).expect("it was negotiated");
            self.packets += 1;
            if self.loses.is_none_or(|each| !self.packets.is_multiple_of(each)) {
                self.arrivals.push(u16::from_be_bytes([number[0], number[1]]), self.world.now);
            }
            if packet.header.payload_type == SLOT_PT {
                let value = packet.header.get_extension(PLAYOUT_DELAY);
                told = value.map(|value| (u16::from(value[0]) << 4 | u16::from(value[1]) >> 4) * 10);
            }
        }
        if self.world.now >= self.reported_at + FEEDBACK && self.arrivals.has_unreported() {
            self.reported_at = self.world.now;
            let feedback = feedback_of(&mut self.arrivals);
            let protected = self.bob.protect_rtcp(&feedback);
            self.world.receive(self.bob.remote, &protected);
        }
        told
    }

    fn carol_is_told(&mut self) -> bool {
        let datagrams = self.world.take_sent(self.carol.remote);
        let packets = self.carol.unprotect(&datagrams);
        assert!(packets.len() > 10);
        packets.iter().any(|packet| packet.header.get_extension(PLAYOUT_DELAY).is_some())
    }
}

#[test]
fn pictures_wait_for_what_comes_late_from_their_publisher() {
    let mut call = Call::new();
    assert_eq!(call.runs(3 * SECOND, None), None, "nothing is late");
    assert_eq!(call.runs(8 * SECOND, Some(100)), None, "one in a hundred is");
    assert_eq!(call.runs(4 * SECOND, Some(10)), Some(180), "130 ms, a step, and something to spare");
    assert!(!call.carol_is_told(), "she has not negotiated it");
    assert_eq!(call.runs(12 * SECOND, None), Some(180), "for 10 s after the last of 8 s that were worse");
    assert_eq!(call.runs(8 * SECOND, None), Some(0), "then it is taken back");
    assert_eq!(call.runs(11 * SECOND, None), None, "and that said for a while");
}

#[test]
fn pictures_wait_for_repairs_where_the_receivers_path_loses_some() {
    let mut call = Call::new();
    call.loses = Some(50);
    assert_eq!(call.runs(10 * SECOND, None), None, "2 %");
    call.loses = Some(10);
    assert_eq!(
        call.runs(5 * SECOND, None),
        Some(180),
        "a round trip of 100 ms, until the loss is seen, and something to spare"
    );
    call.loses = Some(3);
    assert_eq!(call.runs(5 * SECOND, None), Some(280), "two of them");
    assert!(!call.carol_is_told());
}

#[test]
fn what_a_publisher_says_itself_is_not_changed() {
    let mut call = Call::new();
    call.own = &[0, 0x50, 0x64];
    assert_eq!(call.runs(4 * SECOND + FRAME, Some(10)), Some(50));
}
