//! A call of two in virtual time, in which one sends video in layers and the other is behind a link of some capacity.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::VecDeque;

use bytes::Bytes;
use dataplane::twcc::ArrivalLog;
use proto::id::{RouteId, SlotId, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;

use crate::world::*;

pub const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
pub const MILLISECOND: u64 = 1000;
pub const SECOND: u64 = 1_000_000;
const DELAY: u64 = 25 * MILLISECOND;
/// 20 pictures a second.
pub const FRAME: u64 = 50 * MILLISECOND;
const STEP: u64 = 5 * MILLISECOND;
const FEEDBACK: u64 = 100 * MILLISECOND;
const TRANSPORT_CC: u8 = 3;
/// Id of the dependency descriptor, of those who have negotiated it.
pub const DESCRIPTOR: u8 = 12;

/// A packet of a picture.
pub struct Piece {
    pub payload: Vec<u8>,
    pub descriptor: Option<Vec<u8>>,
    pub marker: bool,
}

/// What somebody sends.
pub trait Camera {
    const CODEC: Codec;

    /// The packets of the next picture.
    fn picture(&mut self, is_key: bool) -> Vec<Piece>;
}

pub struct Call<C> {
    pub world: World,
    pub alice: Peer,
    pub bob: Peer,
    pub stream: StreamId,
    pub slot: SlotId,
    pub route: RouteId,
    pub camera: C,
    pub ssrc: u32,
    seq: u16,
    frame: u32,
    wants_key: bool,
    started: u64,
    pub capacity: u64,
    busy_until: u64,
    on_the_way: VecDeque<(u64, Vec<u8>)>,
    reports: VecDeque<(u64, Vec<u8>)>,
    arrivals: ArrivalLog,
    reported_at: u64,
    received: Vec<rtp::packet::Packet>,
}

/// The ids of a peer that has negotiated dependency descriptors.
pub fn described(peer: &Peer) -> Command {
    let mut ids = IDS;
    ids[Extension::DependencyDescriptor as usize] = DESCRIPTOR;
    PeerExtensions { peer: peer.id, ids }.into()
}

impl<C: Camera> Call<C> {
    pub fn new(camera: C, capacity: u64) -> Call<C> {
        let mut world = World::new();
        let (alice, bob) = (world.connect(GCM), world.connect(GCM));
        world.commit(&[described(&alice), described(&bob)]);
        let stream = world.publish(&alice, C::CODEC);
        let slot = world.slot(&bob);
        let route = world.route(stream, slot);
        let (ssrc, started) = (world.ssrc_of(stream), world.now);
        Call {
            world,
            alice,
            bob,
            stream,
            slot,
            route,
            camera,
            ssrc,
            seq: 65_000,
            frame: 0,
            wants_key: true,
            started,
            capacity,
            busy_until: 0,
            on_the_way: VecDeque::new(),
            reports: VecDeque::new(),
            arrivals: ArrivalLog::new(2048),
            reported_at: 0,
            received: Vec::new(),
        }
    }

    /// How large Bob shows it.
    pub fn show(&mut self, lines: u16) {
        self.world.commit(&[SlotShown { slot: self.slot, lines, weight: weight::OTHER }.into()]);
    }

    /// So much time passes; the packets of video that Bob received in it.
    pub fn run(&mut self, time: u64) -> Vec<rtp::packet::Packet> {
        let end = self.world.now + time;
        self.received.clear();
        while self.world.now < end {
            while u64::from(self.frame) * FRAME <= self.world.now - self.started {
                self.send_picture();
            }
            let sent = self.world.take_sent(self.alice.remote);
            let rtcp = self.alice.unprotect_rtcp(&sent);
            self.wants_key |=
                rtcp.iter().any(|packet| packet.as_any().downcast_ref::<PictureLossIndication>().is_some());
            self.world.advance(STEP);
            self.carry();
            self.report();
        }
        std::mem::take(&mut self.received)
    }

    fn send_picture(&mut self) {
        let is_key = std::mem::take(&mut self.wants_key);
        for piece in self.camera.picture(is_key) {
            let bytes = self.protect(&piece);
            self.world.receive(self.alice.remote, &bytes);
        }
        self.frame += 1;
    }

    /// The next packet of Alice.
    pub fn protect(&mut self, piece: &Piece) -> Vec<u8> {
        let mut packet = packet(self.ssrc, H264_PT, self.seq, self.frame.wrapping_mul(4500), &piece.payload);
        packet.header.marker = piece.marker;
        if let Some(descriptor) = &piece.descriptor {
            packet.header.extension = true;
            packet.header.extension_profile = if descriptor.len() > 16 { 0x1000 } else { 0xbede };
            packet.header.set_extension(DESCRIPTOR, Bytes::copy_from_slice(descriptor)).expect("an extension");
        }
        self.seq = self.seq.wrapping_add(1);
        self.alice.protect(&packet)
    }

    fn carry(&mut self) {
        let now = self.world.now;
        for datagram in self.world.take_sent(self.bob.remote) {
            let begins = self.busy_until.max(now);
            self.busy_until = begins + (datagram.len() as u64 + 28) * 8 * SECOND / self.capacity;
            self.on_the_way.push_back((self.busy_until + DELAY, datagram));
        }
        while self.on_the_way.front().is_some_and(|(at, _)| *at <= now) {
            let (at, datagram) = self.on_the_way.pop_front().unwrap();
            for packet in self.bob.unprotect(&[datagram]) {
                let number = packet.header.get_extension(TRANSPORT_CC).expect("each packet has a number");
                self.arrivals.push(u16::from_be_bytes([number[0], number[1]]), at);
                if packet.header.ssrc == 0x2000_0000 + self.slot.index {
                    self.received.push(packet);
                }
            }
        }
    }

    fn report(&mut self) {
        let now = self.world.now;
        if now - self.reported_at >= FEEDBACK {
            self.reported_at = now;
            while self.arrivals.has_unreported() {
                let feedback = feedback_of(&mut self.arrivals);
                self.reports.push_back((now + DELAY, self.bob.protect_rtcp(&feedback)));
            }
        }
        while self.reports.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = self.reports.pop_front().unwrap();
            self.world.receive(self.bob.remote, &bytes);
        }
    }
}
