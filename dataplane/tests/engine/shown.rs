//! How large its receiver shows a video, and how important it is to it (`SlotShown`), through real packets in virtual time, where
//! nothing is known of the receiver's path. What a narrow path makes of it is in `narrow.rs`.

use proto::id::SlotId;
use proto::plane::*;

use crate::studio::*;
use crate::world::*;

const MILLISECOND: u64 = 1000;

impl Studio {
    fn show(&mut self, receiver: &Receiver, lines: u16) {
        let shown = SlotShown { slot: receiver.slot, lines, weight: weight::OTHER };
        self.worlds[receiver.world].commit(&[shown.into()]);
        self.worlds.iter_mut().for_each(World::collect);
    }
}

#[test]
fn the_smallest_encoding_that_is_enough_is_sent() {
    for world in [0, 1] {
        let mut studio = Studio::among(2, RIDS);
        let mut bob = studio.receiver(world);
        assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 10).last(), Some(&2), "as large as it comes");
        for (lines, encoding) in [(90, 0), (180, 0), (210, 1), (360, 1), (540, 2), (180, 0), (2160, 2), (1, 0)] {
            studio.show(&bob, lines);
            let seen = studio.watch(&mut bob, &[0, 1, 2], 45);
            assert_eq!(seen.last(), Some(&encoding), "worker {world}, {lines} lines: {seen:?}");
        }
        studio.show(&bob, SHOWN_LINES_ANY);
        assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 10).last(), Some(&2));
        bob.is_one_stream();
    }
}

#[test]
fn what_is_hidden_costs_nothing_and_comes_back_with_a_keyframe_within_300_ms() {
    for world in [0, 1] {
        let mut studio = Studio::among(2, RIDS);
        let mut bob = studio.receiver(world);
        studio.watch(&mut bob, &[0, 1, 2], 40);
        studio.show(&bob, 0);
        studio.watch(&mut bob, &[0, 1, 2], 2);
        assert_eq!(studio.watch(&mut bob, &[0, 1, 2], 60), Vec::<usize>::new(), "worker {world}");
        assert_eq!(studio.counter(Counter::SlotsPaused), 0, "that is no want of bandwidth");
        let (asked, shown_at) = (studio.asked_count, studio.worlds[world].now);
        studio.show(&bob, 360);
        let first = loop {
            studio.frame(&[0, 1, 2], 2);
            if let Some((encoding, _)) = studio.hear(&mut bob).first() {
                break *encoding;
            }
        };
        assert!(studio.worlds[world].now - shown_at <= 300 * MILLISECOND, "{}", studio.worlds[world].now - shown_at);
        assert_eq!(first, 1, "and at once in the size that is shown");
        assert!(studio.asked_count > asked, "the publisher was asked for a keyframe");
        assert_eq!(bob.heard.last().map(|packet| packet.payload[4] & 1), Some(0), "that is what it begins with");
    }
}

#[test]
fn an_encoding_that_nobody_shows_large_enough_is_idle_until_somebody_does() {
    let mut studio = Studio::new();
    let (mut bob, mut carol) = (studio.receiver(0), studio.receiver(0));
    studio.show(&bob, 360);
    studio.show(&carol, 180);
    studio.worlds[0].take_reports();
    let said = |studio: &mut Studio| -> Vec<Event> {
        let reports = studio.worlds[0].take_reports();
        let is_it = |event: &Event| matches!(event, Event::EncodingIdle(_) | Event::EncodingWanted(_));
        reports
            .into_iter()
            .filter_map(|report| if let Report::Event(event) = report { Some(event) } else { None })
            .filter(is_it)
            .collect()
    };
    studio.watch(&mut bob, &[0, 1, 2], 200);
    studio.watch(&mut carol, &[0, 1, 2], 30);
    let best = studio.streams[2].stream;
    assert_eq!(said(&mut studio), [Event::EncodingIdle(EncodingIdle { stream: best })]);
    studio.show(&carol, 1080);
    assert_eq!(said(&mut studio), [Event::EncodingWanted(EncodingWanted { stream: best })], "at once");
}

#[test]
fn what_a_slot_was_told_is_described_and_goes_with_it() {
    let mut studio = Studio::new();
    let bob = studio.receiver(0);
    let shown = SlotShown { slot: bob.slot, lines: 360, weight: weight::PINNED };
    assert_eq!(studio.refusal(shown.into()), None);
    let described = |studio: &mut Studio| -> Vec<SlotShown> {
        let world = &mut studio.worlds[0];
        world.commit(&[Describe {}.into()]);
        while world.forwarder.is_describing() {
            world.forwarder.describe(usize::MAX, &mut world.egress.outbox);
            world.collect();
        }
        let shown = |report| if let Report::Echo(Command::SlotShown(shown)) = report { Some(shown) } else { None };
        world.take_reports().into_iter().filter_map(shown).collect()
    };
    assert_eq!(described(&mut studio), [shown]);
    let unknown = SlotShown { slot: SlotId::new(bob.slot.index, bob.slot.generation + 1), ..shown };
    assert_eq!(studio.refusal(unknown.into()), Some(Refusal::Unknown));
    assert_eq!(studio.refusal(SlotShown { weight: 4, ..shown }.into()), Some(Refusal::Malformed));
    assert_eq!(described(&mut studio), [shown], "what is refused changes nothing");
    studio.worlds[0].commit(&[SlotClose { slot: bob.slot }.into()]);
    assert_eq!(described(&mut studio), []);
}
