//! What is wanted in a room, prepared once for all of its receivers, so that the rule of [`crate::slots`] looks at what
//! matters to a receiver and not at everything: in a room of N, N receivers would look at N owners each.
//!
//! Three things save work, and none changes what is assigned ([`tests`] compares with the rule over everything):
//!
//! - [`is_equivalent`]: a microphone or camera that is switched on or off moves nothing, unless somebody is silent.
//! - [`Wishes::is_settled`]: a receiver whose slots are all taken by what sends is left alone, unless a screen wants in.
//! - [`Wishes::shortlist`]: of owners who are alike, no more than a receiver has slots can come in.

use std::cmp::Reverse;
use std::collections::HashMap;

use proto::id::{PeerId, StreamId};
use proto::signal::Source;

use crate::slots::{Flow, Slots, Wish, rank};

/// The wishes of a room, in the order in which their owners joined.
pub(crate) struct Wishes<'a> {
    all: &'a [Wish],
    by_stream: HashMap<StreamId, usize>,
    /// Where an owner's wishes begin, and how many there are.
    by_owner: HashMap<PeerId, (usize, usize)>,
    /// Owners by whether they have a microphone and a camera, the best rank first: where their wishes begin.
    owners: [Vec<usize>; 4],
    /// Single wishes by their source, the best rank first.
    singles: [Vec<usize>; 4],
    /// Those that should have a slot, and the screens among them that may be given one.
    wanting: usize,
    screens: usize,
    /// Those in which somebody speaks.
    spoken: usize,
}

/// Whether a room whose wishes were `before` and are `now` is assigned as it was, if nothing else has changed in it.
pub(crate) fn is_equivalent(before: &[Wish], now: &[Wish]) -> bool {
    let is_alike = |(before, now): (&Wish, &Wish)| {
        let has_switched = Wish { is_active: now.is_active, ..*before } == *now && now.is_grouped();
        before == now || (has_switched && !now.yields())
    };
    // Who yields gives way to a live one, and which are live may just have changed.
    before.len() == now.len()
        && std::iter::zip(before, now).all(is_alike)
        && (before == now || !now.iter().any(Wish::yields))
}

impl<'a> Wishes<'a> {
    pub(crate) fn new(all: &'a [Wish]) -> Wishes<'a> {
        let mut wishes = Wishes {
            all,
            by_stream: all.iter().enumerate().map(|(at, wish)| (wish.stream, at)).collect(),
            by_owner: HashMap::new(),
            owners: Default::default(),
            singles: Default::default(),
            wanting: all.iter().filter(|wish| wish.wants_slot()).count(),
            screens: all.iter().filter(|wish| is_screen(wish)).count(),
            spoken: all.iter().filter(|wish| wish.is_spoken()).count(),
        };
        let mut begin = 0;
        for of_owner in all.chunk_by(|a, b| a.owner == b.owner) {
            wishes.by_owner.insert(of_owner[0].owner, (begin, of_owner.len()));
            let has = |source| of_owner.iter().any(|wish| wish.source == source);
            let class = usize::from(has(Source::Microphone)) | usize::from(has(Source::Camera)) << 1;
            wishes.owners[class].push(begin);
            begin += of_owner.len();
        }
        for (at, wish) in all.iter().enumerate().filter(|(_, wish)| wish.wants_slot() && wish.flow != Flow::Gone) {
            wishes.singles[wish.source as usize].push(at);
        }
        let mut owners = std::mem::take(&mut wishes.owners);
        let best = |begin: usize| wishes.owned_at(begin).iter().filter(|wish| wish.is_grouped()).map(rank).max();
        owners.iter_mut().for_each(|class| class.sort_by_key(|&begin| Reverse(best(begin))));
        wishes.owners = owners;
        wishes.singles.iter_mut().for_each(|class| class.sort_by_key(|&at| Reverse(rank(&all[at]))));
        wishes
    }

    fn owned_at(&self, begin: usize) -> &'a [Wish] {
        let len = self.by_owner.get(&self.all[begin].owner).map_or(0, |&(_, len)| len);
        &self.all[begin..begin + len]
    }

    fn of(&self, owner: PeerId) -> &'a [Wish] {
        self.by_owner.get(&owner).map_or(&[], |&(begin, len)| &self.all[begin..begin + len])
    }

    fn find(&self, stream: StreamId) -> Option<&'a Wish> {
        self.by_stream.get(&stream).map(|&at| &self.all[at])
    }

    /// Whether nothing can change in the slots of `own`: they are taken, by others' tracks that are sent or expected to rest,
    /// and no screen that could push a camera out is left over, and nobody who speaks.
    pub(crate) fn is_settled(&self, own: PeerId, slots: &Slots) -> bool {
        let (mut screens, mut spoken) = (0, 0);
        let stays = |stream: StreamId| {
            let wish = self.find(stream).filter(|wish| wish.owner != own && wish.wants_slot() && !wish.yields());
            screens += usize::from(wish.is_some_and(is_screen));
            spoken += usize::from(wish.is_some_and(Wish::is_spoken));
            wish.is_some()
        };
        let are_taken = slots.carried().all(stays) && !slots.has_free();
        let own = self.of(own);
        are_taken
            && screens + own.iter().filter(|wish| is_screen(wish)).count() == self.screens
            && spoken + own.iter().filter(|wish| wish.is_spoken()).count() == self.spoken
    }

    /// Whether something that others want to be seen or heard has no slot here.
    pub(crate) fn are_short(&self, own: PeerId, slots: &Slots) -> bool {
        let wants = |wish: &&Wish| wish.wants_slot();
        let own = self.of(own).iter().filter(wants).count();
        let carried = slots.carried().filter_map(|stream| self.find(stream)).filter(wants).count();
        own + carried < self.wanting
    }

    /// The wishes that can matter for these slots of `own`, in the order of the room. `beside`: so many of them may be left out after this.
    pub(crate) fn shortlist(&self, own: PeerId, slots: &Slots, beside: usize) -> Vec<Wish> {
        // Each of those that come in takes a slot or more.
        let count = slots.len() + beside;
        let mut chosen: Vec<usize> = Vec::with_capacity(8 * count);
        let mut carried = Vec::with_capacity(count);
        // Owners of what is carried: another track of theirs goes beside it.
        for owner in slots.carried().filter_map(|stream| self.find(stream)).map(|wish| wish.owner) {
            if owner != own && !carried.contains(&owner) {
                carried.push(owner);
                chosen.extend(self.range(owner));
            }
        }
        let is_new = |owner: PeerId| owner != own && !carried.contains(&owner);
        for class in &self.owners {
            let new = class.iter().filter(|&&begin| {
                let owned = self.owned_at(begin);
                is_new(owned[0].owner) && owned.iter().any(|wish| wish.is_grouped() && wish.flow != Flow::Gone)
            });
            new.take(count).for_each(|&begin| chosen.extend(begin..begin + self.owned_at(begin).len()));
        }
        for class in &self.singles {
            // With them all that their owners have: what is beside a track of one's own may come where a stranger's may not.
            let new = class.iter().map(|&at| self.all[at].owner).filter(|&owner| is_new(owner));
            new.take(count).for_each(|owner| chosen.extend(self.range(owner)));
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(|at| self.all[at]).collect()
    }

    /// The wishes of these owners but for `own`, in the order of the room.
    pub(crate) fn of_all(&self, own: PeerId, owners: &[Option<PeerId>]) -> Vec<Wish> {
        let others = owners.iter().flatten().filter(|&&owner| owner != own);
        let mut chosen: Vec<usize> = others.flat_map(|&owner| self.range(owner)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen.into_iter().map(|at| self.all[at]).collect()
    }

    fn range(&self, owner: PeerId) -> std::ops::Range<usize> {
        self.by_owner.get(&owner).map_or(0..0, |&(begin, len)| begin..begin + len)
    }
}

/// Whether a screen may be given a slot, also in a camera's place.
fn is_screen(wish: &Wish) -> bool {
    wish.source == Source::Screen && wish.wants_slot() && wish.flow != Flow::Gone
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::signal::Kind;

    use super::*;
    use crate::slots::assign;

    const SOURCES: [Source; 4] = [Source::Microphone, Source::Camera, Source::Screen, Source::ScreenAudio];

    fn any_room() -> impl Strategy<Value = Vec<Wish>> {
        let flow = prop::sample::select(vec![
            Flow::Gone,
            Flow::Silent,
            Flow::Live,
            Flow::Live,
            Flow::Live,
            Flow::Spoke,
            Flow::Speaking,
        ]);
        let owner = (
            prop::collection::vec((prop::sample::select(SOURCES.to_vec()), any::<bool>(), flow), 0..5),
            prop::bool::weighted(0.1),
        );
        prop::collection::vec(owner, 0..40).prop_map(|owners| {
            let mut stream = 0;
            let mut wishes = Vec::new();
            for (owner, (tracks, is_gone)) in owners.into_iter().enumerate() {
                for (source, is_active, flow) in tracks {
                    stream += 1;
                    let flow = match flow {
                        _ if is_gone => Flow::Gone,
                        Flow::Silent if is_active => Flow::Silent,
                        Flow::Spoke | Flow::Speaking if is_active && source == Source::Microphone => flow,
                        _ => Flow::Live,
                    };
                    let owner = PeerId::new(owner as u32, 1);
                    wishes.push(Wish { owner, stream: StreamId::new(stream, 1), source, is_active, flow });
                }
            }
            wishes
        })
    }

    fn others(own: PeerId, wishes: &[Wish]) -> Vec<Wish> {
        wishes.iter().filter(|wish| wish.owner != own).copied().collect()
    }

    proptest! {
        /// The short way and the rule over everything assign the same, from slots that were assigned before to others.
        #[test]
        fn a_shortlist_is_enough(before in any_room(), after in any_room(), audio in 0usize..7, video in 0usize..7, closed in 0usize..4) {
            let own = PeerId::new(3, 1);
            let mut slots = Slots::default();
            (0..audio).for_each(|group| slots.insert(Kind::Audio, group, None, group == closed));
            (0..video).for_each(|group| slots.insert(Kind::Video, group, None, group == closed + 1));
            assign(&mut slots, &others(own, &before));
            let (mut whole, mut short) = (slots.clone(), slots.clone());
            assign(&mut whole, &others(own, &after));
            let wishes = Wishes::new(&after);
            if wishes.is_settled(own, &slots) {
                prop_assert_eq!(&whole, &slots);
            }
            assign(&mut short, &wishes.shortlist(own, &slots, 0));
            prop_assert_eq!(&short, &whole);
            let lacks = others(own, &after).iter().any(|wish| whole.lacks(wish));
            prop_assert_eq!(wishes.are_short(own, &whole), lacks);
        }

        /// What is called equivalent is assigned as it was.
        #[test]
        fn what_is_equivalent_moves_nothing(before in any_room(), switches in prop::collection::vec(any::<bool>(), 200), audio in 0usize..7, video in 0usize..7) {
            let own = PeerId::new(3, 1);
            let mut slots = Slots::default();
            (0..audio).for_each(|group| slots.insert(Kind::Audio, group, None, false));
            (0..video).for_each(|group| slots.insert(Kind::Video, group, None, false));
            assign(&mut slots, &others(own, &before));
            let switched = std::iter::zip(&before, switches);
            let after: Vec<Wish> = switched.map(|(wish, is_active)| Wish { is_active, ..*wish }).collect();
            if is_equivalent(&before, &after) {
                let mut again = slots.clone();
                assign(&mut again, &others(own, &after));
                prop_assert_eq!(again, slots);
            }
        }
    }
}
