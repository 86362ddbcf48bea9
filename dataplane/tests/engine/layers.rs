//! A receiver whose path does not carry a whole VP8 video with three temporal layers, in virtual time: frames of the highest layers are
//! left out, and what is sent is a stream that never had them. Judged by the VP8 descriptor parser of the crate `rtp`.

use proto::id::{Rid, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtp::codecs::vp8::Vp8Packet;
use rtp::packetizer::Depacketizer;

use crate::layered::*;

/// Two of them are a frame: 170 kb/s with all headers.
const PACKET_LEN: usize = 480;
/// Layer, and whether the frame names the base layer alone: libwebrtc's pattern of L1T3.
const PATTERN: [(u8, bool); 4] = [(0, false), (2, true), (1, true), (2, false)];

struct Vp8 {
    frame: u32,
    base: u8,
    /// Packets of a keyframe.
    key: usize,
    /// Of the pattern, from the last keyframe on.
    place: usize,
}

impl Vp8 {
    fn new(key: usize) -> Vp8 {
        Vp8 { frame: 0, base: 250, key, place: 0 }
    }
}

impl Camera for Vp8 {
    const CODEC: Codec = Codec::Vp8;

    fn picture(&mut self, is_key: bool) -> Vec<Piece> {
        if is_key {
            self.place = 0;
        }
        let (layer, is_sync) = PATTERN[self.place % PATTERN.len()];
        self.place += 1;
        self.base = self.base.wrapping_add(u8::from(layer == 0));
        let id = (32_700 + self.frame) as u16 & 0x7fff;
        self.frame += 1;
        let count = if is_key { self.key } else { 2 };
        let piece = |at: usize| {
            let start = if at == 0 { 0x90 } else { 0x80 };
            let mut payload = vec![start, 0xe0, 0x80 | (id >> 8) as u8, id as u8, self.base];
            payload.push(layer << 6 | u8::from(is_sync) << 5);
            match (at, is_key) {
                (0, true) => payload.extend([0x10, 2, 0, 0x9d, 1, 0x2a, 64, 1, 180, 0]),
                (0, false) => payload.push(0x11),
                _ => payload.push(0x55),
            }
            payload.resize(PACKET_LEN, 7);
            Piece { payload, descriptor: None, marker: at + 1 == count }
        };
        (0..count).map(piece).collect()
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
    let mut call = Call::new(Vp8::new(2), 1_000_000);
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

#[test]
fn where_the_largest_of_several_encodings_alone_is_sent_its_layers_are_left_out() {
    let mut call = Call::new(Vp8::new(2), 1_000_000);
    let others = [0, 1].map(|_| call.world.publish(&call.alice, Codec::Vp8));
    let streams = [others[0], others[1], call.stream];
    let encoding = |(place, stream): (usize, &StreamId)| -> Command {
        let rid = Rid::parse(&b"lmh"[place..=place]).unwrap();
        StreamEncoding { stream: *stream, track: streams[0], place: place as u8, rid }.into()
    };
    let mut commands: Vec<Command> = vec![RouteClose { route: call.route }.into()];
    commands.extend(streams.iter().enumerate().map(encoding));
    commands.extend(streams.map(|stream| Command::from(call.world.route_open(stream, call.slot))));
    call.world.commit(&commands);
    frames(&call.run(5 * SECOND));
    let whole = frames(&call.run(4 * SECOND));
    assert!(whole.iter().sum::<usize>() >= 79, "{whole:?}");
    call.capacity = 130_000;
    call.run(8 * SECOND);
    let thin = frames(&call.run(8 * SECOND));
    println!("narrow {thin:?}, {} left out", call.world.counter(Counter::HeldForLayer));
    assert!(thin[0] >= 36 && thin[2] < 60, "{thin:?}");
    assert_eq!(call.world.counter(Counter::SlotsPaused), 0, "nobody is paused");
}

/// A keyframe that the path takes a second to carry: given up, it would be asked for again, and be as large again.
#[test]
fn a_keyframe_of_a_second_arrives_whole() {
    const KEY: usize = 30;
    let mut call = Call::new(Vp8::new(KEY), 1_000_000);
    call.run(5 * SECOND);
    call.capacity = 130_000;
    call.run(20 * SECOND);
    let pli = PictureLossIndication { sender_ssrc: 1, media_ssrc: 0x2000_0000 + call.slot.index };
    let pli = call.bob.protect_rtcp(&pli);
    call.world.receive(call.bob.remote, &pli);
    let received = call.run(6 * SECOND);
    let starts = |packet: &&rtp::packet::Packet| packet.payload[0] & 0x10 != 0 && packet.payload[6] == 0x10;
    let keys: Vec<u32> = received.iter().filter(starts).map(|packet| packet.header.timestamp).collect();
    println!("{} keyframes begun, {} packets", keys.len(), received.len());
    assert_eq!(keys.len(), 1, "it is asked for once");
    assert_eq!(received.iter().filter(|packet| packet.header.timestamp == keys[0]).count(), KEY);
    let seen = frames(&received);
    assert!(seen[0] >= 25, "and the pictures behind it follow: {seen:?}");
}
