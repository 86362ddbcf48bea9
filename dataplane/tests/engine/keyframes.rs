//! Nobody has a publisher send nothing but keyframes: who enters its stream again and again waits as long as who asks by PLI, and
//! however many do so, the publisher is asked once a second in the long run.

use proto::id::{SlotId, StreamId};
use proto::plane::*;
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;

use crate::world::*;

const GCM: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const MS: u64 = 1000;

/// A camera, and who receives it.
struct Show {
    world: World,
    camera: Peer,
    stream: StreamId,
    seq: u16,
    asked: u64,
}

impl Show {
    fn new() -> Show {
        let mut world = World::new();
        let camera = world.connect(GCM);
        let stream = world.publish(&camera, Codec::H264);
        Show { world, camera, stream, seq: 0, asked: 0 }
    }

    fn receiver(&mut self) -> (Peer, SlotId) {
        let peer = self.world.connect(GCM);
        let slot = self.world.slot(&peer);
        (peer, slot)
    }

    /// A tenth of a second in which the camera sends a frame.
    fn tenth(&mut self) {
        self.frame();
        self.world.advance(100 * MS);
    }

    /// The camera sends a frame, and a keyframe if it was asked.
    fn frame(&mut self) {
        let asked = self.world.counter(Counter::KeyframeRequestsSent);
        let payload = if asked > self.asked { SPS } else { DELTA };
        self.asked = asked;
        self.seq += 1;
        let packet = packet(self.world.ssrc_of(self.stream), H264_PT, self.seq, u32::from(self.seq) * 9000, payload);
        let protected = self.camera.protect(&packet);
        self.world.receive(self.camera.remote, &protected);
    }
}

#[test]
fn who_enters_a_stream_again_and_again_asks_no_more_often_than_who_says_pli() {
    let mut show = Show::new();
    let (mallory, slot) = show.receiver();
    let stream = show.stream;
    for _ in 0..600 {
        let route = show.world.route(stream, slot);
        show.tenth();
        show.world.commit(&[RouteClose { route }.into()]);
    }
    let asked = show.asked;
    assert!((10..=60).contains(&asked), "{asked} keyframes in a minute of 600 entries");
    show.world.take_sent(mallory.remote);

    // Another one has it at once, and Mallory within the pause.
    let (bob, bobs) = show.receiver();
    show.world.route(stream, bobs);
    show.tenth();
    show.tenth();
    let is_media = |datagrams: Vec<Vec<u8>>| datagrams.iter().any(|bytes| bytes[0] >> 6 == 2 && bytes[1] & 0x7f == 120);
    assert!(is_media(show.world.take_sent(bob.remote)), "a newcomer has a picture within two tenths");
    show.world.route(stream, slot);
    (0..21).for_each(|_| show.tenth());
    assert!(is_media(show.world.take_sent(mallory.remote)));
}

#[test]
fn many_who_ask_have_a_publisher_send_one_keyframe_a_second() {
    let mut show = Show::new();
    let stream = show.stream;
    let mut crowd: Vec<(Peer, SlotId)> = (0..30).map(|_| show.receiver()).collect();
    let slots: Vec<SlotId> = crowd.iter().map(|(_, slot)| *slot).collect();
    for slot in slots {
        show.world.route(stream, slot);
    }
    for tenth in 0..600 {
        // Each says PLI as often as it may: three times in ten seconds.
        let (peer, slot) = &mut crowd[tenth % 30];
        let pli = PictureLossIndication { sender_ssrc: 1, media_ssrc: 0x2000_0000 + slot.index };
        let protected = peer.protect_rtcp(&pli);
        let remote = peer.remote;
        show.world.receive(remote, &protected);
        show.tenth();
        show.world.sent.clear();
    }
    let asked = show.asked;
    assert!((50..=75).contains(&asked), "{asked} keyframes in a minute");
}

/// However many come within a second, the publisher is asked at most each 200 ms, and everybody has a picture within 300 ms.
#[test]
fn many_who_come_within_a_second_cause_few_keyframe_requests_and_wait_briefly() {
    for count in [1, 7, 40] {
        let mut show = Show::new();
        let stream = show.stream;
        let (_, first) = show.receiver();
        show.world.route(stream, first);
        (0..100).for_each(|_| show.tenth());
        let crowd: Vec<(Peer, SlotId)> = (0..count).map(|_| show.receiver()).collect();
        let before = show.asked;
        show.world.sent.clear();
        // Frames of a thirtieth of a second.
        let mut seen = vec![None; count];
        for at in 0..2000 {
            for (_, (_, slot)) in crowd.iter().enumerate().filter(|(n, _)| 1000 * n / count == at) {
                show.world.route(stream, *slot);
            }
            if at % 33 == 0 {
                show.frame();
                for (n, (peer, _)) in crowd.iter().enumerate() {
                    let has_media = show.world.take_sent(peer.remote).iter().any(|bytes| bytes[1] & 0x7f == 120);
                    if has_media && seen[n].is_none() {
                        seen[n] = Some(at - 1000 * n / count);
                    }
                }
                show.world.sent.clear();
            }
            show.world.advance(MS);
        }
        let asked = show.world.counter(Counter::KeyframeRequestsSent) - before;
        let waited: Vec<usize> = seen.into_iter().map(|waited| waited.expect("everybody has a picture")).collect();
        let longest = waited.iter().max().copied();
        println!("{count} within a second: {asked} requests; the last one waits for {longest:?} ms");
        assert!(asked <= 6, "{asked} requests for {count}");
        assert!(longest <= Some(300), "{waited:?}");
    }
}
