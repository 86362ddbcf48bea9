//! A receiver behind a narrow path, in virtual time: Alice sends a camera in two encodings and a microphone, Bob's path has a
//! capacity and a queue, and he sends transport-cc feedback. The worker estimates, allocates, paces and probes.

use std::collections::{BTreeMap, VecDeque};

use dataplane::twcc::ArrivalLog;
use proto::id::{Mid, Rid, SlotId, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};

use crate::world::*;

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
    cameras: Vec<Camera>,
    sound_ssrc: u32,
    sound_seq: u16,
    /// Bob's, of the first camera and the microphone.
    slots: [SlotId; 2],
    frames: u32,
    sounds: u32,
    started: u64,
    /// Bit/s; whether Bob sends feedback.
    capacity: u64,
    is_reporting: bool,
    /// Whether Alice does as she is told, up to 400 kb/s.
    follows: bool,
    says: Says,
    came: BTreeMap<u32, Came>,
    /// Whether each fourth packet is lost on Bob's path.
    path_loses: bool,
    /// Whether each fifth of Alice's packets of video is lost on its way to the worker.
    loses: bool,
    videos: u32,
    carried: u32,
    busy_until: u64,
    /// Arrivals at Bob to come, and feedback that is on its way back.
    on_the_way: VecDeque<(u64, Vec<u8>)>,
    reports: VecDeque<(u64, Vec<u8>)>,
    arrivals: ArrivalLog,
    reported_at: u64,
    seen: Seen,
}

/// What Bob says of what he receives.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Says {
    /// Transport-cc feedback.
    Arrivals,
    /// Receiver reports alone.
    Losses,
    /// REMB alone, bit/s.
    Remb(f32),
}

/// What came of one SSRC: the highest number, that of the last report, and packets since then.
#[derive(Default)]
struct Came {
    highest: Option<u16>,
    reported: Option<u16>,
    packets: u16,
}

/// A camera in two encodings, and Bob's slot for it.
struct Camera {
    ssrcs: [u32; 2],
    seqs: [u16; 2],
    wants_key: [bool; 2],
    slot: SlotId,
    /// The stream of the smaller encoding, and what Alice was told of its rate, bit/s; 0 for nothing.
    low: StreamId,
    told: u32,
}

/// What Bob received since it was last looked at.
#[derive(Default, Debug)]
struct Seen {
    /// Packets of each encoding of the first camera, and of sound.
    packets: [usize; 3],
    /// Packets of each encoding of the other cameras.
    others: [usize; 2],
    /// When the first packet of the first camera came.
    first_at: Option<u64>,
    repeated: usize,
    /// Frames that ended.
    frames: usize,
    /// Waits in the path's queue, ms.
    queue_ms: Vec<u64>,
    /// Bytes on the path.
    bytes: u64,
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
        Call::with(1, capacity, Says::Arrivals)
    }

    fn with_cameras(cameras: usize, capacity: u64) -> Call {
        Call::with(cameras, capacity, Says::Arrivals)
    }

    fn saying(says: Says, capacity: u64) -> Call {
        Call::with(1, capacity, says)
    }

    fn with(cameras: usize, capacity: u64, says: Says) -> Call {
        let mut world = World::new();
        let alice = world.connect(GCM);
        let bob = if says == Says::Arrivals { world.connect(GCM) } else { world.connect_unlimited(GCM) };
        let mut camera = |camera: usize| {
            let streams = [Codec::H264, Codec::H264].map(|codec| world.stream_open(&alice, codec));
            let streams = streams.map(|open| StreamOpen { mid: Mid::parse(&[b'0' + camera as u8]).unwrap(), ..open });
            let encoding = |place: usize| StreamEncoding {
                stream: streams[place].stream,
                track: streams[0].stream,
                place: place as u8,
                rid: Rid::parse([b"l", b"h"][place]).unwrap(),
            };
            world.commit(&[streams[0].into(), streams[1].into(), encoding(0).into(), encoding(1).into()]);
            let slot = world.slot(&bob);
            let routes = streams.map(|open| world.route_open(open.stream, slot).into());
            world.commit(&routes);
            let (ssrcs, low) = (streams.map(|open| open.ssrc), streams[0].stream);
            Camera { ssrcs, seqs: [100, 200], wants_key: [true; 2], slot, low, told: 0 }
        };
        let cameras: Vec<Camera> = (0..cameras).map(&mut camera).collect();
        let sound = world.publish(&alice, Codec::Opus);
        let slots = [cameras[0].slot, world.slot(&bob)];
        let sound_ssrc = world.ssrc_of(sound);
        let route = world.route_open(sound, slots[1]);
        world.commit(&[route.into()]);
        let started = world.now;
        Call {
            world,
            alice,
            bob,
            cameras,
            sound_ssrc,
            sound_seq: 300,
            slots,
            frames: 0,
            sounds: 0,
            started,
            capacity,
            is_reporting: true,
            follows: false,
            says,
            came: BTreeMap::new(),
            path_loses: false,
            loses: false,
            videos: 0,
            carried: 0,
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
            let packet = packet(self.sound_ssrc, OPUS_PT, self.sound_seq, self.sounds * 960, &[7; 80]);
            (self.sounds, self.sound_seq) = (self.sounds + 1, self.sound_seq.wrapping_add(1));
            let bytes = self.alice.protect(&packet);
            self.world.receive(self.alice.remote, &bytes);
        }
        for report in self.world.take_reports() {
            let Report::Event(Event::EncodingRate(rate)) = report else { continue };
            let camera = self.cameras.iter_mut().find(|camera| camera.low == rate.stream);
            camera.expect("only the smaller encoding has room").told = rate.bps;
        }
        while u64::from(self.frames) * FRAME <= elapsed {
            for camera in &mut self.cameras {
                for (encoding, packets) in PACKETS.into_iter().enumerate() {
                    // At 20 frames per second a byte is 160 bit/s.
                    let len = (camera.told / 160).clamp(PACKET_LEN as u32, 2500) as usize / 2;
                    let is_raised = self.follows && encoding == 0 && 2 * len > PACKET_LEN;
                    let (packets, len) = if is_raised { (2 * packets, len) } else { (packets, PACKET_LEN) };
                    let is_key = std::mem::take(&mut camera.wants_key[encoding]);
                    let count = packets * if is_key { 4 } else { 1 };
                    for at in 0..count {
                        let mut payload = vec![encoding as u8; len];
                        let start = if is_key && at == 0 { SPS } else { DELTA };
                        payload[..start.len()].copy_from_slice(start);
                        let seq = camera.seqs[encoding];
                        let mut packet = packet(camera.ssrcs[encoding], H264_PT, seq, self.frames * 4500, &payload);
                        packet.header.marker = at + 1 == count;
                        camera.seqs[encoding] = seq.wrapping_add(1);
                        let bytes = self.alice.protect(&packet);
                        self.videos += 1;
                        if !self.loses || !self.videos.is_multiple_of(5) {
                            self.world.receive(self.alice.remote, &bytes);
                        }
                    }
                }
            }
            self.frames += 1;
        }
        let sent = self.world.take_sent(self.alice.remote);
        for packet in self.alice.unprotect_rtcp(&sent) {
            if let Some(pli) = packet.as_any().downcast_ref::<PictureLossIndication>() {
                for camera in &mut self.cameras {
                    for (wants, ssrc) in camera.wants_key.iter_mut().zip(camera.ssrcs) {
                        *wants |= ssrc == pli.media_ssrc;
                    }
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
            self.seen.bytes += datagram.len() as u64 + 28;
            self.busy_until = begins + (datagram.len() as u64 + 28) * 8 * SECOND / self.capacity;
            self.carried += 1;
            if !self.path_loses || !self.carried.is_multiple_of(4) {
                self.on_the_way.push_back((self.busy_until + DELAY, datagram));
            }
        }
        while self.on_the_way.front().is_some_and(|(at, _)| *at <= now) {
            let (at, datagram) = self.on_the_way.pop_front().unwrap();
            for packet in self.bob.unprotect(&[datagram]) {
                if let Some(number) = packet.header.get_extension(TRANSPORT_CC) {
                    self.arrivals.push(u16::from_be_bytes([number[0], number[1]]), at);
                }
                let (came, seq) = (self.came.entry(packet.header.ssrc).or_default(), packet.header.sequence_number);
                came.highest =
                    Some(came.highest.map_or(seq, |h| if (seq.wrapping_sub(h) as i16) > 0 { seq } else { h }));
                came.packets += 1;
                self.note(at, &packet);
            }
        }
    }

    fn note(&mut self, at: u64, packet: &rtp::packet::Packet) {
        let is_of = |slot: SlotId| packet.header.ssrc == 0x2000_0000 + slot.index;
        if is_of(self.slots[1]) {
            self.seen.packets[2] += 1;
        } else if is_of(self.slots[0]) {
            let encoding = usize::from(*packet.payload.last().unwrap());
            self.seen.packets[encoding] += 1;
            self.seen.first_at.get_or_insert(at);
            if packet.header.marker {
                self.seen.frames += 1;
                self.seen.longest_ms = self.seen.longest_ms.max((at - self.seen.last_frame.min(at)) / MILLISECOND);
                self.seen.last_frame = at;
            }
        } else if self.cameras[1..].iter().any(|camera| is_of(camera.slot)) {
            self.seen.others[usize::from(*packet.payload.last().unwrap())] += 1;
        } else {
            self.seen.repeated += 1;
        }
    }

    /// Bob shows the cameras so: lines and weight.
    fn show(&mut self, shown: &[(u16, u8)]) {
        let slots = self.cameras.iter().map(|camera| camera.slot);
        let told = slots.zip(shown).map(|(slot, &(lines, weight))| SlotShown { slot, lines, weight }.into());
        let told: Vec<Command> = told.collect();
        self.world.commit(&told);
    }

    fn report(&mut self) {
        let now = self.world.now;
        if self.says != Says::Arrivals {
            return self.report_otherwise();
        }
        if now - self.reported_at >= FEEDBACK && self.is_reporting {
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

impl Call {
    /// Bob lacks these packets of the first camera.
    fn lack(&mut self, seqs: &[u16]) {
        let media_ssrc = 0x2000_0000 + self.slots[0].index;
        let nacks = nack_pairs_from_sequence_numbers(seqs);
        let bytes = self.bob.protect_rtcp(&TransportLayerNack { sender_ssrc: 5, media_ssrc, nacks });
        self.world.receive(self.bob.remote, &bytes);
    }

    /// Repairs that were refused, keyframes wanted for that, and keyframes asked of Alice.
    fn counts(&mut self) -> [u64; 3] {
        [Counter::NackThrottled, Counter::KeyframesForRefusedRepairs, Counter::KeyframeRequestsSent]
            .map(|counter| self.world.counter(counter))
    }

    /// Once a second.
    fn report_otherwise(&mut self) {
        if self.world.now - self.reported_at < SECOND || !self.is_reporting {
            return;
        }
        self.reported_at = self.world.now;
        let report = |(&ssrc, came): (&u32, &mut Came)| {
            let (highest, packets) = (came.highest?, std::mem::take(&mut came.packets));
            let expected = came.reported.replace(highest).map_or(packets, |before| highest.wrapping_sub(before)).max(1);
            let lost = expected.saturating_sub(packets);
            let fraction_lost = (256 * u32::from(lost) / u32::from(expected)).min(255) as u8;
            Some(ReceptionReport { ssrc, fraction_lost, ..ReceptionReport::default() })
        };
        let reports = self.came.iter_mut().filter_map(report).collect();
        match self.says {
            Says::Remb(bitrate) => self.say_remb(bitrate),
            _ => self.say_reports(reports),
        }
    }

    fn say_remb(&mut self, bitrate: f32) {
        let ssrcs = self.came.keys().copied().collect();
        let bytes = self.bob.protect_rtcp(&ReceiverEstimatedMaximumBitrate { sender_ssrc: 5, bitrate, ssrcs });
        self.world.receive(self.bob.remote, &bytes);
    }

    fn say_reports(&mut self, reports: Vec<ReceptionReport>) {
        let bytes = self.bob.protect_rtcp(&ReceiverReport { ssrc: 5, reports, ..ReceiverReport::default() });
        self.world.receive(self.bob.remote, &bytes);
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

/// 500 kb/s carry the small encoding of one camera and not the large one: what is left over is the small one's.
#[test]
fn what_falls_between_two_encodings_is_used() {
    let used = |follows: bool| {
        let mut call = Call { follows, ..Call::new(500_000) };
        call.run(10 * SECOND);
        let seen = call.run(20 * SECOND);
        assert!(seen.packets[1] == 0 && seen.frames >= 395 && seen.longest_ms <= 200, "{seen:?}");
        assert!(seen.dropped == 0 && seen.queue_p95() <= 100, "{} ms", seen.queue_p95());
        (seen.bytes * 8 / 20, call)
    };
    let (fixed, _) = used(false);
    let (followed, mut call) = used(true);
    assert!(fixed < 320_000 && followed > 360_000, "{fixed} and {followed} bit/s of 500,000");
    let told = call.cameras[0].told;
    assert!((250_000..450_000).contains(&told), "{told}");

    // A description says it again.
    call.world.commit(&[Describe {}.into()]);
    call.world.forwarder.describe(1000, &mut call.world.egress.outbox);
    call.world.collect();
    let rate = EncodingRate { stream: call.cameras[0].low, bps: told };
    assert!(call.world.take_reports().contains(&Report::Event(rate.into())));

    // Less is told within the time in which the estimate falls, and nothing any more when the large one fits.
    call.capacity = 300_000;
    call.run(SECOND);
    assert!(call.cameras[0].told < told * 3 / 4, "{} of {told}", call.cameras[0].told);
    call.capacity = 2_000_000;
    call.run(15 * SECOND);
    let seen = call.run(2 * SECOND);
    assert_eq!((seen.packets[0], call.cameras[0].told), (0, 0), "the large one is what Bob gets: {seen:?}");
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

/// What the estimate has no room for is not sent again, and NACKs and keyframe requests may be lost on the way here.
#[test]
fn who_is_refused_a_repair_and_never_gets_it_gets_a_keyframe() {
    let refused = |asks_again: bool| {
        let mut call = Call { path_loses: true, ..Call::new(10_000_000) };
        call.run(20 * SECOND);
        let before = call.counts();
        let last = call.came[&(0x2000_0000 + call.slots[0].index)].highest.unwrap();
        let lacked: Vec<u16> = (0..30).map(|back| last.wrapping_sub(30 - back)).collect();
        call.lack(&lacked);
        let refused = (call.counts()[0] - before[0]) as usize;
        assert!((1..30).contains(&refused), "{refused} of 30: the path has room for some");
        let repaired = call.world.counter(Counter::RtxSent);
        for _ in 0..40 {
            call.run(20 * MILLISECOND);
            if asks_again && call.world.counter(Counter::RtxSent) == repaired {
                call.lack(&lacked[30 - refused..][..1]);
            }
        }
        assert_eq!(call.counts()[1..], before[1..], "it may ask again");
        // Not before no queue was there for a while.
        call.run(5 * SECOND);
        let after = call.counts();
        call.run(10 * SECOND);
        assert_eq!(call.counts()[1..], after[1..], "once");
        [after[1] - before[1], after[2] - before[2]]
    };
    assert_eq!(refused(false), [1, 1]);
    assert_eq!(refused(true), [0, 0], "it has been repaired");
}

#[test]
fn what_is_hidden_frees_the_path_and_comes_back_at_once() {
    use weight::OTHER;
    let mut call = Call::with_cameras(2, 500_000);
    call.run(8 * SECOND);
    let both = call.run(10 * SECOND);
    assert!(both.packets[0] >= 190 && both.others[0] >= 190, "both small: {both:?}");
    call.show(&[(0, OTHER), (SHOWN_LINES_ANY, OTHER)]);
    call.run(SECOND / 2);
    let hidden = call.run(10 * SECOND);
    assert_eq!(hidden.packets[..2], [0, 0], "nothing of it");
    assert_eq!(call.world.egress.slots[&call.slots[0]].allocation, None, "nor is it paused for want of bandwidth");
    assert_eq!((call.world.counter(Counter::SlotsPaused), call.world.paths[&call.bob.id].paused), (0, 0));
    assert!(hidden.others[0] + hidden.others[1] >= 199, "the other one goes on: {:?}", hidden.others);
    let shown_at = call.world.now;
    call.show(&[(SHOWN_LINES_ANY, OTHER); 2]);
    let back = call.run(2 * SECOND);
    let after = (back.first_at.expect("it is back") - shown_at) / MILLISECOND;
    assert!(after <= 300, "after {after} ms");
    assert!(back.packets[0] >= 35, "{:?}", back.packets);
}

#[test]
fn what_is_pinned_keeps_its_large_encoding_where_the_path_carries_no_more() {
    use weight::{OTHER, PINNED};
    let mut call = Call::with_cameras(3, 1_200_000);
    call.show(&[(SHOWN_LINES_ANY, PINNED), (SHOWN_LINES_ANY, OTHER), (SHOWN_LINES_ANY, OTHER)]);
    call.run(10 * SECOND);
    call.capacity = 750_000;
    call.run(12 * SECOND);
    let seen = call.run(20 * SECOND);
    assert!(seen.packets[1] >= 18 * 60, "its large encoding: {:?}", seen.packets);
    assert!(seen.queue_p95() <= 150, "{} ms in the queue", seen.queue_p95());
    // Without that all three are small.
    call.show(&[(SHOWN_LINES_ANY, OTHER); 3]);
    call.run(10 * SECOND);
    let seen = call.run(10 * SECOND);
    assert!(seen.others[0] >= 300 && seen.packets[2] >= 490, "everybody is seen: {seen:?}");
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

#[test]
fn a_receiver_with_remb_alone_gets_what_it_says_and_what_it_says_in_error_is_nothing() {
    let mut call = Call::saying(Says::Remb(2e6), 10_000_000);
    call.run(3 * SECOND);
    let wide = call.run(5 * SECOND);
    assert_eq!(wide.packets[0], 0, "2 Mb/s carry the large one: {wide:?}");
    call.says = Says::Remb(300_000.0);
    call.run(3 * SECOND);
    let narrow = call.run(5 * SECOND);
    assert!(narrow.packets[1] == 0 && narrow.frames >= 95, "{narrow:?}");
    assert!(narrow.bytes * 8 / 5 <= 300_000, "{} bit/s", narrow.bytes * 8 / 5);
    assert_eq!(call.world.paths[&call.bob.id].estimate_bps, Some(300_000));
    // 0 says nothing, and neither does more than there is.
    for bps in [0.0, 9.3e18, f32::MAX] {
        call.says = Says::Remb(bps);
        call.run(6 * SECOND);
        let seen = call.run(2 * SECOND);
        assert_eq!(seen.packets[0], 0, "{bps}: {seen:?}");
        call.says = Says::Remb(300_000.0);
        call.run(4 * SECOND);
    }
    // Nobody repeats it.
    call.is_reporting = false;
    call.run(12 * SECOND);
    let seen = call.run(2 * SECOND);
    assert_eq!(seen.packets[0], 0, "{seen:?}");
    assert_eq!(call.world.paths[&call.bob.id].estimate_bps, None, "nothing limits it");
    // The least that can be said: sound goes on, and what is said harms nobody else.
    call.is_reporting = true;
    call.says = Says::Remb(1.0);
    call.run(4 * SECOND);
    let seen = call.run(4 * SECOND);
    assert!(seen.packets[1] == 0 && seen.packets[2] >= 4 * SOUNDS - 2, "{seen:?}");
}

#[test]
fn a_receiver_with_reports_alone_is_limited_by_its_losses() {
    // A queue of 300 ms, behind which the rest is lost: 480 kb/s and sound into 400.
    let mut call = Call::saying(Says::Losses, 400_000);
    let first = call.run(6 * SECOND);
    assert!(first.packets[1] > 0 && first.dropped > 0, "nothing is known before: {first:?}");
    let seen = call.run(60 * SECOND);
    let packets: usize = seen.packets.iter().sum::<usize>() + seen.repeated;
    assert!(seen.packets[0] >= 1100 && seen.dropped * 50 < packets, "{} of {packets} lost", seen.dropped);
    assert!(seen.queue_p95() <= 250, "{} ms in the queue", seen.queue_p95());
    assert!(call.world.paths[&call.bob.id].estimate_bps.is_some_and(|bps| bps < 900_000));
    call.capacity = 10_000_000;
    call.run(70 * SECOND);
    let seen = call.run(5 * SECOND);
    assert_eq!(seen.packets[0], 0, "without losses it grows: {seen:?}");
}

#[test]
fn what_a_publisher_loses_limits_no_receiver() {
    let mut call = Call { loses: true, ..Call::saying(Says::Losses, 10_000_000) };
    call.run(20 * SECOND);
    assert_eq!(call.world.paths.get(&call.bob.id).and_then(|path| path.estimate_bps), None);
    let seen = call.run(5 * SECOND);
    assert_eq!(seen.packets[0], 0, "{seen:?}");
}

#[test]
fn a_flood_of_remb_and_of_reports_that_lie_does_bounded_work_and_harms_its_sender_alone() {
    let mut call = Call::saying(Says::Losses, 10_000_000);
    call.run(3 * SECOND);
    // 4000 REMB a second, of which each says the contrary of the one before.
    let asked = call.world.counter(Counter::KeyframeRequestsSent);
    let until = call.world.now + 5 * SECOND;
    while call.world.now < until {
        (0..10).for_each(|_| [0.0, 9.3e18, 60_000.0, 2e6].into_iter().for_each(|bps| call.say_remb(bps)));
        call.run(2 * STEP);
    }
    let asked_for = call.world.counter(Counter::KeyframeRequestsSent) - asked;
    assert!(asked_for <= 20, "{asked_for} keyframes in 5 s");
    // All is lost, and more than was sent, 31 times in each report, a hundred times a second.
    let until = call.world.now + 10 * SECOND;
    while call.world.now < until {
        let lie =
            |&ssrc: &u32| ReceptionReport { ssrc, fraction_lost: 255, total_lost: 0x00ff_ffff, ..Default::default() };
        let lies = call.came.keys().map(lie).collect::<Vec<_>>().into_iter().cycle().take(31).collect();
        call.say_reports(lies);
        call.run(2 * STEP);
    }
    let asked_for = call.world.counter(Counter::KeyframeRequestsSent) - asked - asked_for;
    assert!(asked_for <= 20, "{asked_for} keyframes in 10 s");
    call.is_reporting = false;
    let seen = call.run(4 * SECOND);
    assert!(seen.packets[1] == 0 && seen.packets[2] >= 4 * SOUNDS - 2, "sound goes on: {:?}", seen.packets);
    // Who says the truth again has all again.
    call.is_reporting = true;
    call.run(150 * SECOND);
    let seen = call.run(5 * SECOND);
    assert_eq!(seen.packets[0], 0, "{:?}", seen.packets);
}
