//! Which videos each peer receives in a room that limits their number (`videos-max`), commonly called last N.
//!
//! A pure rule before that of [`crate::slots`]: a video that is not chosen for a receiver is no wish of it, so no slot carries it. Chosen are, until
//! there are as many as the room allows:
//!
//! 1. screens,
//! 2. what the receiver has pinned,
//! 3. cameras, of whom was the dominant speaker last before whom was before, and who comes or switches on last after all others,
//! 4. what says that it is sent, and is not.
//!
//! The order of the cameras is one for the whole room, and changes only when another person becomes the dominant speaker: each change costs a
//! keyframe. Cameras that are off take no place and are not left out either.

use std::collections::{BTreeSet, HashMap, HashSet};

use proto::id::{PeerId, StreamId};
use proto::signal::{Kind, ShownVideo, Source};

use crate::policy::{TRACKS_CEILING, kind_of};
use crate::slots::Wish;

/// The order of a room's cameras.
#[derive(Default, Debug)]
pub(crate) struct LastN {
    cameras: Vec<(PeerId, StreamId)>,
}

impl LastN {
    /// Somebody has become the dominant speaker.
    pub(crate) fn speaks(&mut self, peer: PeerId) {
        self.cameras.sort_by_key(|(owner, _)| *owner != peer);
    }

    /// Takes up which cameras are sent now. What is new is last; of several the ones that more receivers are sent already, which is how an order
    /// begins that was not kept before.
    pub(crate) fn update(
        &mut self,
        wishes: &[Wish],
        carried: impl Iterator<Item = StreamId>,
        dominant: Option<PeerId>,
    ) {
        let live: Vec<&Wish> = wishes.iter().filter(|wish| is_live(wish) && wish.source == Source::Camera).collect();
        let streams: HashSet<StreamId> = live.iter().map(|wish| wish.stream).collect();
        self.cameras.retain(|(_, stream)| streams.contains(stream));
        let known: HashSet<StreamId> = self.cameras.iter().map(|(_, stream)| *stream).collect();
        let mut new: Vec<&Wish> = live.into_iter().filter(|wish| !known.contains(&wish.stream)).collect();
        if new.is_empty() {
            return;
        }
        let mut counts: HashMap<StreamId, usize> = HashMap::new();
        carried.for_each(|stream| *counts.entry(stream).or_default() += 1);
        new.sort_by_key(|wish| std::cmp::Reverse(counts.get(&wish.stream).copied().unwrap_or(0)));
        self.cameras.extend(new.into_iter().map(|wish| (wish.owner, wish.stream)));
        if let Some(peer) = dominant {
            self.speaks(peer);
        }
    }

    /// Forgets the order: the room has no limit.
    pub(crate) fn clear(&mut self) {
        self.cameras = Vec::new();
    }
}

/// What the receivers of a room are chosen from, prepared once for all of them.
pub(crate) struct Choices {
    max: usize,
    /// Whose each of the videos is that are sent, and whether it is a screen.
    videos: HashMap<StreamId, (PeerId, bool)>,
    /// The first of them in the order above, as many as a receiver can need that publishes some itself.
    first: Vec<StreamId>,
    /// Those of each owner, where somebody may have pinned them.
    of: HashMap<(PeerId, Source), Vec<StreamId>>,
}

impl Choices {
    pub(crate) fn new(max: usize, wishes: &[Wish], order: &LastN) -> Choices {
        let sent = || wishes.iter().filter(|wish| is_video(wish) && wish.is_active);
        let screens = sent().filter(|wish| wish.source == Source::Screen && !wish.yields());
        let screens = screens.map(|wish| wish.stream);
        let cameras = order.cameras.iter().map(|(_, stream)| *stream);
        let silent = sent().filter(|wish| wish.yields()).map(|wish| wish.stream);
        let mut of: HashMap<_, Vec<StreamId>> = HashMap::new();
        for wish in sent().filter(|wish| is_live(wish)) {
            of.entry((wish.owner, wish.source)).or_default().push(wish.stream);
        }
        let is_screen = |wish: &Wish| wish.source == Source::Screen && !wish.yields();
        Choices {
            max,
            videos: sent().map(|wish| (wish.stream, (wish.owner, is_screen(wish)))).collect(),
            first: screens.chain(cameras).chain(silent).take(max + TRACKS_CEILING).collect(),
            of,
        }
    }

    /// Whether there are more videos than anybody receives.
    pub(crate) fn are_too_many(&self) -> bool {
        self.videos.len() > self.max
    }

    /// The videos that `own` is to receive, with that many slots for video.
    pub(crate) fn of(&self, own: PeerId, slots: usize, pinned: &[(PeerId, Source)]) -> BTreeSet<StreamId> {
        let max = self.max.min(slots);
        let is_others = |stream: &StreamId| self.videos.get(stream).is_some_and(|(owner, _)| *owner != own);
        let is_screen = |stream: &StreamId| self.videos.get(stream).is_some_and(|(_, is_screen)| *is_screen);
        let screens = self.first.iter().filter(|stream| is_screen(stream));
        let pinned = pinned.iter().filter_map(|video| self.of.get(video)).flatten();
        let mut chosen = BTreeSet::new();
        for &stream in screens.chain(pinned).chain(&self.first).filter(|stream| is_others(stream)) {
            if chosen.len() == max {
                break;
            }
            chosen.insert(stream);
        }
        chosen
    }

    /// Whether this is a video that is sent, so that it may be left out.
    pub(crate) fn may_leave_out(&self, wish: &Wish) -> bool {
        self.videos.contains_key(&wish.stream)
    }
}

/// Of what a receiver shows, what it has pinned.
pub(crate) fn pinned(videos: &[ShownVideo]) -> impl Iterator<Item = (&str, Source)> {
    videos.iter().filter(|video| video.pinned).map(|video| (video.peer.as_str(), video.source))
}

fn is_video(wish: &Wish) -> bool {
    kind_of(wish.source) == Kind::Video
}

fn is_live(wish: &Wish) -> bool {
    is_video(wish) && wish.is_active && !wish.yields()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::Flow;
    use proptest::prelude::*;

    const SOURCES: [Source; 3] = [Source::Microphone, Source::Camera, Source::Screen];

    fn peer(n: u32) -> PeerId {
        PeerId::new(n, 1)
    }

    fn wish(owner: u32, source: Source, is_active: bool, flow: Flow) -> Wish {
        Wish { owner: peer(owner), stream: stream(owner, source), source, is_active, flow }
    }

    fn stream(owner: u32, source: Source) -> StreamId {
        StreamId::new(owner * 4 + source as u32, 1)
    }

    fn cameras(count: u32) -> Vec<Wish> {
        (0..count).map(|owner| wish(owner, Source::Camera, true, Flow::Live)).collect()
    }

    fn order_of(wishes: &[Wish], dominant: Option<PeerId>) -> LastN {
        let mut order = LastN::default();
        order.update(wishes, std::iter::empty(), dominant);
        order
    }

    fn owners(chosen: &BTreeSet<StreamId>) -> Vec<u32> {
        chosen.iter().map(|stream| stream.index / 4).collect()
    }

    #[test]
    fn who_spoke_last_is_seen_and_who_speaks_oneself_sees_one_more() {
        let wishes = cameras(6);
        let mut order = order_of(&wishes, None);
        let seen = |order: &LastN, own| owners(&Choices::new(2, &wishes, order).of(peer(own), 24, &[]));
        assert_eq!(seen(&order, 5), [0, 1], "who came first, as long as nobody has spoken");
        order.speaks(peer(4));
        order.speaks(peer(3));
        assert_eq!(seen(&order, 5), [3, 4]);
        assert_eq!(seen(&order, 4), [0, 3], "nobody sees himself");
        order.speaks(peer(4));
        assert_eq!(seen(&order, 5), [3, 4], "only who was not seen changes anything");
    }

    #[test]
    fn screens_go_first_then_pins_and_a_pin_of_nobody_is_nothing() {
        let mut wishes = cameras(6);
        wishes.push(wish(5, Source::Screen, true, Flow::Silent));
        let order = order_of(&wishes, Some(peer(2)));
        let choices = Choices::new(3, &wishes, &order);
        assert!(choices.are_too_many());
        let pinned = [(peer(4), Source::Camera), (peer(77), Source::Camera), (peer(3), Source::Screen)];
        let chosen = choices.of(peer(1), 24, &pinned);
        let expected = [stream(2, Source::Camera), stream(4, Source::Camera), stream(5, Source::Screen)];
        assert_eq!(chosen, expected.into());
        assert_eq!(choices.of(peer(1), 1, &pinned), [stream(5, Source::Screen)].into(), "no more than there are slots");
        assert_eq!(choices.of(peer(5), 24, &[]).len(), 3, "not its own screen, and three all the same");
    }

    #[test]
    fn an_order_that_was_not_kept_begins_with_what_is_carried() {
        let wishes = cameras(6);
        let mut order = LastN::default();
        let carried = [3, 3, 5].map(|owner| stream(owner, Source::Camera));
        order.update(&wishes, carried.into_iter(), None);
        assert_eq!(owners(&Choices::new(2, &wishes, &order).of(peer(0), 24, &[])), [3, 5]);
    }

    fn any_wishes() -> impl Strategy<Value = Vec<Wish>> {
        let flow = prop::sample::select(vec![Flow::Gone, Flow::Silent, Flow::Live, Flow::Live, Flow::Speaking]);
        let track = (0u32..12, prop::sample::select(SOURCES.to_vec()));
        prop::collection::btree_map(track, (any::<bool>(), flow), 0..30).prop_map(|tracks| {
            let wish = |((owner, source), (is_active, flow))| wish(owner, source, is_active, flow);
            tracks.into_iter().map(wish).collect()
        })
    }

    proptest! {
        /// Whatever is sent and pinned: no receiver has more videos than the room allows or than it has slots, none is its own or is off, a place stays
        /// empty only if there is nothing for it, and nothing is left out for what matters less.
        #[test]
        fn the_laws_of_last_n(
            before in any_wishes(),
            after in any_wishes(),
            max in 1usize..6,
            slots in 0usize..6,
            spoke in prop::collection::vec(0u32..12, 0..4),
            pins in prop::collection::vec((0u32..12, any::<bool>()), 0..4),
        ) {
            let mut order = order_of(&before, None);
            spoke.iter().for_each(|&owner| order.speaks(peer(owner)));
            order.update(&after, std::iter::empty(), None);
            let choices = Choices::new(max, &after, &order);
            let pinned: Vec<_> = pins.iter().map(|&(owner, is_screen)| (peer(owner), if is_screen { Source::Screen } else { Source::Camera })).collect();
            for own in 0..12 {
                let chosen = choices.of(peer(own), slots, &pinned);
                let sent = || after.iter().filter(|w| is_video(w) && w.is_active && w.owner != peer(own));
                prop_assert_eq!(chosen.len(), max.min(slots).min(sent().count()));
                prop_assert!(chosen.iter().all(|stream| sent().any(|w| w.stream == *stream)));
                let weight = |w: &Wish| match w.source {
                    _ if w.yields() => 0,
                    Source::Screen => 3,
                    _ if pinned.contains(&(w.owner, w.source)) => 2,
                    _ => 1,
                };
                let least = sent().filter(|w| chosen.contains(&w.stream)).map(weight).min().unwrap_or(0);
                let most = sent().filter(|w| !chosen.contains(&w.stream)).map(weight).max().unwrap_or(0);
                prop_assert!(chosen.is_empty() || least >= most, "{least} {most}");
            }
        }
    }
}
