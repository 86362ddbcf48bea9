//! A receiver behind a narrow path, in virtual time: Alice sends a camera in two encodings and a microphone, Bob's path has a
//! capacity and a queue, and he sends transport-cc feedback. The worker estimates, allocates, paces and probes.

mod world;

use std::collections::VecDeque;

use dataplane::twcc::ArrivalLog;
use proto::id::{Rid, SlotId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;
use webrtc_util::marshal::Unmarshal;
use world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MILLISECOND: u64 = 1000;
const SECOND: u64 = 1_000_000;
/// One way.
const DELAY: u64 = 25 * MILLISECOND;
const QUEUE_MAX: u64 = 300 * MILLISECOND;
/// 20 frames and 50 packets of sound in a second.
const FRAME: u64 = 50 * MILLISECOND;
const SOUND: u64 = 20 * MILLISECOND;
const STEP: u64 = 5 * MILLISECOND;
const FEEDBACK: u64 = 100 * MILLISECOND;
/// Payloads of a frame: 160 and 480 kb/s. A keyframe has four times as many.
const PACKETS: [usize; 2] = [1, 3];
const PACKET_LEN: usize = 1000;
const TRANSPORT_CC: u8 = 3;

struct Call {
    world: World,
    alice: Peer,
    bob: Peer,
    ssrcs: [u32; 2],
    sound_ssrc: u32,
    /// Bob's, of the camera and the microphone.
    slots: [SlotId; 2],
    seqs: [u16; 3],
    frames: u32,
    sounds: u32,
    wants_key: [bool; 2],
    started: u64,
    /// Bit/s; whether Bob sends feedback.
    capacity: u64,
    is_reporting: bool,
    busy_until: u64,
    /// Arrivals at Bob to come, and feedback that is on its way back.
    on_the_way: VecDeque<(u64, Vec<u8>)>,
    reports: VecDeque<(u64, Vec<u8>)>,
    arrivals: ArrivalLog,
    reported_at: u64,
    seen: Seen,
}

/// What Bob received since it was last looked at.
#[derive(Default, Debug)]
struct Seen {
    /// Packets of each encoding, and of sound.
    packets: [usize; 3],
    repeated: usize,
    /// Frames that ended.
    frames: usize,
    /// Waits in the path's queue, ms.
    queue_ms: Vec<u64>,
    dropped: usize,
    /// Longest time between two frames, ms.
    longest_ms: u64,
    last_frame: u64,
}

impl Seen {
    fn queue_p95(&self) -> u64 {
        let mut waits = self.queue_ms.clone();
        waits.sort_unstable();
        waits.get(waits.len() * 95 / 100).copied().unwrap_or(0)
    }
}

impl Call {
    fn new(capacity: u64) -> Call {
        let mut world = World::new();
        let (alice, bob) = (world.connect(GCM), world.connect(GCM));
        let streams = [Codec::H264, Codec::H264].map(|codec| world.stream_open(&alice, codec));
        let encoding = |place: usize| StreamEncoding {
            stream: streams[place].stream,
            track: streams[0].stream,
            place: place as u8,
            rid: Rid::parse([b"l", b"h"][place]).unwrap(),
        };
        world.commit(&[streams[0].into(), streams[1].into(), encoding(0).into(), encoding(1).into()]);
        let sound = world.publish(&alice, Codec::Opus);
        let slots = [world.slot(&bob), world.slot(&bob)];
        let ssrcs = streams.map(|open| open.ssrc);
        let sound_ssrc = world.ssrc_of(sound);
        let routes = [
            world.route_open(streams[0].stream, slots[0]).into(),
            world.route_open(streams[1].stream, slots[0]).into(),
            world.route_open(sound, slots[1]).into(),
        ];
        world.commit(&routes);
        let started = world.now;
        Call {
            world,
            alice,
            bob,
            ssrcs,
            sound_ssrc,
            slots,
            seqs: [100, 200, 300],
            frames: 0,
            sounds: 0,
            wants_key: [true; 2],
            started,
            capacity,
            is_reporting: true,
            busy_until: 0,
            on_the_way: VecDeque::new(),
            reports: VecDeque::new(),
            arrivals: ArrivalLog::new(2048),
            reported_at: 0,
            seen: Seen::default(),
        }
    }

    /// So much time passes; what Bob received in it.
    fn run(&mut self, time: u64) -> Seen {
        let end = self.world.now + time;
        self.seen = Seen { last_frame: self.world.now, ..Seen::default() };
        while self.world.now < end {
            self.send();
            self.world.advance(STEP);
            self.carry();
            self.report();
        }
        std::mem::take(&mut self.seen)
    }

    fn send(&mut self) {
        let elapsed = self.world.now - self.started;
        while u64::from(self.sounds) * SOUND <= elapsed {
            let packet = packet(self.sound_ssrc, OPUS_PT, self.seqs[2], self.sounds * 960, &[7; 80]);
            (self.sounds, self.seqs[2]) = (self.sounds + 1, self.seqs[2].wrapping_add(1));
            let bytes = self.alice.protect(&packet);
            self.world.receive(self.alice.remote, &bytes);
        }
        while u64::from(self.frames) * FRAME <= elapsed {
            for (encoding, packets) in PACKETS.into_iter().enumerate() {
                let is_key = std::mem::take(&mut self.wants_key[encoding]);
                let count = packets * if is_key { 4 } else { 1 };
                for at in 0..count {
                    let mut payload = vec![encoding as u8; PACKET_LEN];
                    let start = if is_key && at == 0 { SPS } else { DELTA };
                    payload[..start.len()].copy_from_slice(start);
                    let seq = self.seqs[encoding];
                    let mut packet = packet(self.ssrcs[encoding], H264_PT, seq, self.frames * 4500, &payload);
                    packet.header.marker = at + 1 == count;
                    self.seqs[encoding] = seq.wrapping_add(1);
                    let bytes = self.alice.protect(&packet);
                    self.world.receive(self.alice.remote, &bytes);
                }
            }
            self.frames += 1;
        }
        let sent = self.world.take_sent(self.alice.remote);
        for packet in self.alice.unprotect_rtcp(&sent) {
            if let Some(pli) = packet.as_any().downcast_ref::<PictureLossIndication>() {
                for (wants, ssrc) in self.wants_key.iter_mut().zip(self.ssrcs) {
                    *wants |= ssrc == pli.media_ssrc;
                }
            }
        }
    }

    /// What left for Bob goes through his path.
    fn carry(&mut self) {
        let now = self.world.now;
        for datagram in self.world.take_sent(self.bob.remote) {
            let begins = self.busy_until.max(now);
            if begins - now > QUEUE_MAX {
                self.seen.dropped += 1;
                continue;
            }
            self.seen.queue_ms.push((begins - now) / MILLISECOND);
            self.busy_until = begins + (datagram.len() as u64 + 28) * 8 * SECOND / self.capacity;
            self.on_the_way.push_back((self.busy_until + DELAY, datagram));
        }
        while self.on_the_way.front().is_some_and(|(at, _)| *at <= now) {
            let (at, datagram) = self.on_the_way.pop_front().unwrap();
            for packet in self.bob.unprotect(&[datagram]) {
                let number = packet.header.get_extension(TRANSPORT_CC).expect("each packet has a number");
                self.arrivals.push(u16::from_be_bytes([number[0], number[1]]), at);
                self.note(at, &packet);
            }
        }
    }

    fn note(&mut self, at: u64, packet: &rtp::packet::Packet) {
        let is_of = |slot: SlotId| packet.header.ssrc == 0x2000_0000 + slot.index;
        if is_of(self.slots[1]) {
            self.seen.packets[2] += 1;
        } else if is_of(self.slots[0]) {
            let encoding = usize::from(packet.payload[PACKET_LEN - 1]);
            self.seen.packets[encoding] += 1;
            if packet.header.marker {
                self.seen.frames += 1;
                self.seen.longest_ms = self.seen.longest_ms.max((at - self.seen.last_frame.min(at)) / MILLISECOND);
                self.seen.last_frame = at;
            }
        } else {
            self.seen.repeated += 1;
        }
    }

    fn report(&mut self) {
        let now = self.world.now;
        if now - self.reported_at >= FEEDBACK && self.is_reporting {
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

/// Packets of sound in a second.
const SOUNDS: usize = 50;

#[test]
fn a_wide_path_gets_the_best_and_nothing_waits() {
    let mut call = Call::new(10_000_000);
    call.run(6 * SECOND);
    let seen = call.run(10 * SECOND);
    assert_eq!(seen.packets[0], 0, "{:?}", seen.packets);
    assert!(seen.frames >= 198 && seen.packets[2] >= 10 * SOUNDS - 2, "{:?}", seen.packets);
    assert!(seen.longest_ms <= 80 && seen.dropped == 0, "{} ms between frames", seen.longest_ms);
    let waited = call.world.counter(Counter::Paced);
    call.run(5 * SECOND);
    assert_eq!(call.world.counter(Counter::Paced), waited, "nothing waits");
}

#[test]
fn a_narrow_path_gets_what_fits_at_its_pace() {
    let mut call = Call::new(320_000);
    let first = call.run(5 * SECOND);
    assert!(first.packets[2] >= 5 * SOUNDS - 15, "sound from the start: {:?}", first.packets);
    let seen = call.run(20 * SECOND);
    assert_eq!((seen.dropped, seen.packets[1]), (0, 0), "{:?}", seen.packets);
    assert!(seen.frames >= 20 * 19, "{} frames", seen.frames);
    assert!(seen.longest_ms <= 500, "{} ms without a frame", seen.longest_ms);
    assert!(seen.queue_p95() <= 100, "{} ms in the queue", seen.queue_p95());
    assert!(seen.packets[2] >= 20 * SOUNDS - 5, "{:?}", seen.packets);
}

#[test]
fn a_path_that_narrows_is_left_in_time_and_taken_again() {
    let mut call = Call::new(2_000_000);
    call.run(10 * SECOND);
    call.capacity = 320_000;
    let drop = call.run(4 * SECOND);
    assert!(drop.packets[2] >= 4 * SOUNDS - 40, "{:?}", drop.packets);
    assert_eq!(call.world.counter(Counter::SlotsPaused), 0, "a smaller encoding is no pause");
    let low = call.run(10 * SECOND);
    assert_eq!((low.packets[1], low.dropped), (0, 0), "{:?}", low.packets);
    assert!(low.queue_p95() <= 100 && low.frames >= 190, "{} ms, {} frames", low.queue_p95(), low.frames);
    call.capacity = 2_000_000;
    call.run(10 * SECOND);
    let back = call.run(5 * SECOND);
    assert!(back.packets[0] == 0 && back.packets[1] >= 290, "{:?}", back.packets);
}

#[test]
fn where_no_video_fits_there_is_sound_and_later_video_again() {
    let mut call = Call::new(120_000);
    call.run(6 * SECOND);
    let seen = call.run(10 * SECOND);
    assert!(seen.packets[2] >= 10 * SOUNDS - 5 && seen.dropped == 0, "{:?}, {} dropped", seen.packets, seen.dropped);
    assert!(seen.queue_p95() <= 150, "{} ms", seen.queue_p95());
    assert!(call.world.counter(Counter::SlotsPaused) > 0);
    let path = call.world.paths[&call.bob.id];
    assert!(path.paused == 1 && path.estimate_bps.is_some_and(|bps| bps < 250_000), "{path:?}");
    assert_eq!(call.world.egress.slots[&call.slots[0]].allocation, Some(0));
    call.capacity = 2_000_000;
    call.run(12 * SECOND);
    let back = call.run(3 * SECOND);
    assert!(back.packets[1] >= 170, "{:?}", back.packets);
    assert!(call.world.counter(Counter::ProbePacketsSent) > 0);
}

#[test]
fn who_sends_no_feedback_has_no_limit() {
    let mut call = Call::new(10_000_000);
    call.is_reporting = false;
    call.run(3 * SECOND);
    let seen = call.run(5 * SECOND);
    assert!(seen.packets[0] == 0 && seen.frames >= 99, "{:?}", seen.packets);
    assert_eq!(call.world.counter(Counter::ProbePacketsSent), 0);
}

#[test]
fn what_waits_for_a_peer_that_leaves_is_forgotten() {
    let mut call = Call::new(60_000);
    for _ in 0..20 {
        call.run(SECOND / 4);
        if call.world.counter(Counter::Paced) > 0 {
            break;
        }
    }
    let bob = call.bob.id;
    call.world.commit(&[PeerClose { peer: bob }.into()]);
    call.run(SECOND);
    assert_eq!(call.world.take_sent(call.bob.remote).len(), 0);
}
