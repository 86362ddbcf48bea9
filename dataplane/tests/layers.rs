//! A receiver whose path does not carry a whole VP8 video with three temporal layers, in virtual time: frames of the highest layers are
//! left out, and what is sent is a stream that never had them. Judged by the VP8 descriptor parser of the crate `rtp`.

mod world;

use std::collections::VecDeque;

use dataplane::twcc::ArrivalLog;
use proto::id::SlotId;
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
use rtp::codecs::vp8::Vp8Packet;
use rtp::packetizer::Depacketizer;
use webrtc_util::marshal::Unmarshal;
use world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1_000_000;
const DELAY: u64 = 25 * MILLISECOND;
/// 20 frames of two packets, 170 kb/s with all headers.
const FRAME: u64 = 50 * MILLISECOND;
const PACKET_LEN: usize = 480;
const STEP: u64 = 5 * MILLISECOND;
const FEEDBACK: u64 = 100 * MILLISECOND;
const TRANSPORT_CC: u8 = 3;
/// Layer, and whether the frame names the base layer alone: libwebrtc's pattern of L1T3.
const PATTERN: [(u8, bool); 4] = [(0, false), (2, true), (1, true), (2, false)];

struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    ssrc: u32,
    slot: SlotId,
    seq: u16,
    frame: u32,
    base: u8,
    /// Of the pattern, from the last keyframe on.
    place: usize,
    wants_key: bool,
    started: u64,
    capacity: u64,
    busy_until: u64,
    on_the_way: VecDeque<(u64, Vec<u8>)>,
    reports: VecDeque<(u64, Vec<u8>)>,
    arrivals: ArrivalLog,
    reported_at: u64,
    received: Vec<rtp::packet::Packet>,
}

impl Call {
    fn new(capacity: u64) -> Call {
        let mut world = World::new();
        let (alice, bob) = (world.connect(GCM), world.connect(GCM));
        let stream = world.publish(&alice, Codec::Vp8);
        let slot = world.slot(&bob);
        world.route(stream, slot);
        let (ssrc, started) = (world.ssrc_of(stream), world.now);
        Call {
            world,
            alice,
            bob,
            ssrc,
            slot,
            seq: 65_000,
            frame: 0,
            base: 250,
            place: 0,
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

    /// So much time passes; the packets of video that Bob received in it.
    fn run(&mut self, time: u64) -> Vec<rtp::packet::Packet> {
        let end = self.world.now + time;
        self.received.clear();
        while self.world.now < end {
            while u64::from(self.frame) * FRAME <= self.world.now - self.started {
                self.send_frame();
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

    fn send_frame(&mut self) {
        let is_key = std::mem::take(&mut self.wants_key);
        if is_key {
            self.place = 0;
        }
        let (layer, is_sync) = PATTERN[self.place % PATTERN.len()];
        self.place += 1;
        self.base = self.base.wrapping_add(u8::from(layer == 0));
        let id = (32_700 + self.frame) as u16 & 0x7fff;
        for at in 0..2 {
            let start = if at == 0 { 0x90 } else { 0x80 };
            let mut payload = vec![start, 0xe0, 0x80 | (id >> 8) as u8, id as u8, self.base];
            payload.push(layer << 6 | u8::from(is_sync) << 5);
            match (at, is_key) {
                (0, true) => payload.extend([0x10, 2, 0, 0x9d, 1, 0x2a, 64, 1, 180, 0]),
                (0, false) => payload.push(0x11),
                _ => payload.push(0x55),
            }
            payload.resize(PACKET_LEN, 7);
            let mut packet = packet(self.ssrc, H264_PT, self.seq, self.frame.wrapping_mul(4500), &payload);
            packet.header.marker = at == 1;
            self.seq = self.seq.wrapping_add(1);
            let bytes = self.alice.protect(&packet);
            self.world.receive(self.alice.remote, &bytes);
        }
        self.frame += 1;
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
                let mut body = [0; 1200];
                let len = self.arrivals.write_feedback(&mut body[8..]) + 8;
                let whole = len.next_multiple_of(4);
                let head = [0x8f, 205, 0, (whole / 4) as u8];
                let bytes = [&head[..], &body[..whole]].concat();
                let feedback = TransportLayerCc::unmarshal(&mut bytes.as_slice()).expect("feedback");
                self.reports.push_back((now + DELAY, self.bob.protect_rtcp(&feedback)));
            }
        }
        while self.reports.front().is_some_and(|(at, _)| *at <= now) {
            let (_, bytes) = self.reports.pop_front().unwrap();
            self.world.receive(self.bob.remote, &bytes);
        }
    }
}

/// Frames of what was received, by layer, after a look at the numbers: one follows the other.
fn frames(packets: &[rtp::packet::Packet]) -> [usize; 3] {
    let mut frames = [0; 3];
    let mut last: Option<(u16, u16, u8)> = None;
    for packet in packets {
        let mut vp8 = Vp8Packet::default();
        vp8.depacketize(&packet.payload).expect("VP8");
        let (seq, id, base) = (packet.header.sequence_number, vp8.picture_id, vp8.tl0_pic_idx);
        if let Some((seq_last, id_last, base_last)) = last {
            assert_eq!(seq, seq_last.wrapping_add(1), "sequence numbers close up");
            let is_next = vp8.s == 1;
            assert_eq!(id, (id_last + u16::from(is_next)) & 0x7fff, "PictureIDs close up");
            assert_eq!(base, base_last.wrapping_add(u8::from(is_next && vp8.tid == 0)), "TL0PICIDX counts the base");
        }
        last = Some((seq, id, base));
        frames[usize::from(vp8.tid)] += usize::from(vp8.s == 1);
    }
    frames
}

#[test]
fn layers_that_a_path_does_not_carry_are_left_out_and_come_back() {
    let mut call = Call::new(1_000_000);
    call.run(5 * SECOND);
    let whole = frames(&call.run(4 * SECOND));
    println!("wide {whole:?}");
    assert!(whole.iter().sum::<usize>() >= 79 && whole[2] >= 38, "{whole:?}");
    assert_eq!(call.world.counter(Counter::HeldForLayer), 0);
    call.capacity = 130_000;
    call.run(8 * SECOND);
    let thin = call.run(8 * SECOND);
    let thin = frames(&thin);
    println!("narrow {thin:?}, {} left out", call.world.counter(Counter::HeldForLayer));
    assert!(thin[0] >= 36 && thin[2] < 60, "{thin:?}");
    assert!(call.world.counter(Counter::HeldForLayer) > 40);
    assert_eq!(call.world.counter(Counter::SlotsPaused), 0, "nobody is paused");
    call.capacity = 1_000_000;
    call.run(12 * SECOND);
    let back = frames(&call.run(4 * SECOND));
    println!("wide again {back:?}");
    assert!(back.iter().sum::<usize>() >= 79 && back[2] >= 38, "{back:?}");
}
