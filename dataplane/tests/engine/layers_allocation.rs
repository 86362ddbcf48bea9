//! A publisher that says what it sends of its encodings (`video-layers-allocation`), in virtual time: a receiver changes when that is said, and does not have to
//! wait until an encoding has been silent.

use bytes::Bytes;
use dataplane::layers_allocation::LayersAllocation;
use proptest::prelude::*;
use proto::plane::*;

use crate::studio::*;
use crate::world::*;

const ALLOCATION: u8 = 12;
/// l and m are sent, and h is not: 100 and 300 kbit/s.
const TWO: [u8; 7] = [0x60, 0x11, 0x00, 0x00, 100, 0xac, 0x02];

fn negotiated() -> Studio {
    let mut studio = Studio::new();
    let mut ids = IDS;
    (ids[Extension::Rid as usize], ids[Extension::RepairedRid as usize]) = (RID, REPAIRED_RID);
    ids[Extension::VideoLayersAllocation as usize] = ALLOCATION;
    let peer = studio.alice.id;
    studio.worlds[0].commit(&[PeerExtensions { peer, ids }.into()]);
    studio
}

/// A frame of an encoding in one packet, with what it says of all.
fn says(studio: &mut Studio, encoding: usize, allocation: &[u8]) {
    studio.frame += 1;
    studio.worlds[0].advance(FRAME);
    let of = ssrc(encoding);
    let seq = studio.seqs.get_mut(&of).expect("it was sent before");
    *seq = seq.wrapping_add(1);
    let timestamp = (3000 * studio.frame).wrapping_add(of.wrapping_mul(0x0123_4567));
    let mut packet = packet(of, H264_PT, *seq, timestamp, &payload(encoding, studio.frame, false, true));
    packet.header.marker = true;
    packet.header.extension = true;
    packet.header.extension_profile = 0x1000;
    packet.header.set_extension(ALLOCATION, Bytes::copy_from_slice(allocation)).unwrap();
    let datagram = studio.alice.protect(&packet);
    studio.arrives(&datagram);
    studio.settle();
}

/// Frames of l and m until a keyframe of m is asked for, behind the one in which something is said once, or nothing.
fn frames_until_changed(said: Option<&[u8]>) -> u32 {
    let mut studio = negotiated();
    let mut bob = studio.receiver(0);
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 30).last(), Some(&2));
    let (asked, began) = (studio.asked_count, studio.frame);
    said.into_iter().for_each(|said| says(&mut studio, 0, said));
    while studio.asked_count == asked {
        studio.watch(&mut bob, &[0, 1], 1);
        assert!(studio.frame < began + 30, "it is never asked for");
    }
    assert_eq!(studio.watch(&mut bob, &[0, 1], 3).last(), Some(&1));
    studio.frame - began
}

#[test]
fn a_receiver_leaves_an_encoding_when_its_publisher_says_that_it_has_stopped_it() {
    // What is in flight of h may come for 50 ms. It is said once, in the next frame: the keyframe comes 167 ms sooner.
    assert_eq!(frames_until_changed(Some(&TWO)), 6);
    assert_eq!(frames_until_changed(None), 11);
    let cut = frames_until_changed(Some(&TWO[..6]));
    assert!((11..=12).contains(&cut), "what is cut short says nothing: {cut}");
}

#[test]
fn packets_count_for_more_than_what_is_said_of_them() {
    let mut studio = negotiated();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 30);
    // Who says that it sends nothing and sends all the same.
    says(&mut studio, 2, &[0]);
    says(&mut studio, 2, &TWO);
    let asked = studio.asked_count;
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 60), [2]);
    for _ in 0..10 {
        says(&mut studio, 2, &[0]);
    }
    assert_eq!(studio.watch(&mut bob, &[2], 10), [2]);
    assert_eq!(studio.asked_count, asked, "no keyframe is asked for");
    assert_eq!((studio.counter(Counter::AllocationsReceived), studio.counter(Counter::AllocationsMalformed)), (12, 0));
}

#[test]
fn the_size_that_is_said_decides_which_encoding_is_the_best() {
    let mut studio = negotiated();
    let mut bob = studio.receiver(0);
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 30).last(), Some(&2));
    // l has become 1920x1080, and the others what they were.
    let sizes: [[u16; 2]; 3] = [[1919, 1079], [639, 359], [1279, 719]];
    let mut all = vec![0x21, 0x00, 100, 0xac, 0x02, 0xd0, 0x0f];
    sizes.iter().for_each(|size| all.extend(size.iter().flat_map(|side| side.to_be_bytes()).chain([15])));
    says(&mut studio, 1, &all);
    assert!(studio.asked.is_empty());
    studio.worlds[0].advance(FRAME);
    studio.listen();
    assert_eq!(studio.asked, [0], "its keyframe, which says that it is small");
    assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 10), [2]);
}

#[test]
fn sizes_that_change_with_each_packet_are_taken_ten_times_a_second_at_most() {
    let mut studio = negotiated();
    let mut bob = studio.receiver(0);
    studio.watch(&mut bob, &[0, 1, 2], 30);
    let (asked, began) = (studio.asked_count, studio.worlds[0].now);
    for n in 0..120u16 {
        let mut said = vec![0x21, 0x00, 100, 0xac, 0x02, 0xd0, 0x0f];
        (0..3).for_each(|place| said.extend([1, 0, (n + place) as u8 & 1, 0, 15]));
        says(&mut studio, usize::from(n % 3), &said);
        studio.listen();
        studio.hear(&mut bob);
    }
    let seconds = (studio.worlds[0].now - began).div_ceil(1_000_000) as usize;
    assert!(studio.asked_count - asked <= 10 * seconds, "{} keyframes in {seconds} s", studio.asked_count - asked);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_malformed_does_nothing_but_count(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 1..12)) {
        let mut studio = negotiated();
        let mut bob = studio.receiver(0);
        studio.watch(&mut bob, &[0, 1, 2], 30);
        let malformed: Vec<_> = values.iter().filter(|value| LayersAllocation::read(value).is_none()).collect();
        let asked = studio.asked_count;
        for value in &malformed {
            says(&mut studio, 2, value);
        }
        prop_assert_eq!(studio.counter(Counter::AllocationsMalformed), malformed.len() as u64);
        prop_assert_eq!(studio.counter(Counter::AllocationsReceived), 0);
        prop_assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 30), [2]);
        prop_assert_eq!(studio.asked_count, asked);
        // Whatever else is said, the video goes on.
        for value in &values {
            says(&mut studio, 2, value);
        }
        prop_assert!(!studio.watch(&mut bob, &[0, 1, 2], 60).is_empty());
    }
}
