//! Which track is carried in which slot of one receiver.
//!
//! A pure rule, applied to each receiver whenever something in its room changes. What is carried stays where it is;
//! what is new takes what is free. Applying it twice changes nothing.
//!
//! **Sync groups.** Audio slot *k* and video slot *k* have the same `msid` stream, so a browser plays them in lip sync. A
//! group therefore belongs to one peer at a time, whose microphone and camera are in it: to synchronise the camera of one
//! peer with the microphone of another would delay both. A screen goes where no microphone is, if there is such a slot.
//!
//! **Shortage.** A screen goes first: it may push a camera out, a silent one before an idle one before a live one.
//! Microphones and cameras wait for a free slot, the live before the idle before the silent. A live one need not wait for
//! a slot of one that says it sends and does not: that gives way, and comes back to its slot when there is one to spare.
//!
//! **Speech.** Somebody who speaks and has no slot for it gets that of a microphone in which nobody does, and the group with it, so that the
//! picture goes with the voice: of one that is off before one that is on, of one who has not spoken for a while before one who just did, of one
//! who came later before one who came earlier. Who gave way comes back when there is a slot to spare, or by speaking.
//!
//! **Silence** counts for microphones and cameras that are on. A screen that stands still may send nothing. Who may be
//! gone altogether keeps what nobody else wants, and is given nothing new.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use proto::id::{PeerId, StreamId};
use proto::signal::{Kind, Source};

use crate::policy::kind_of;

/// Whether media comes in a track.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Flow {
    /// Its owner may not be there any more.
    Gone,
    /// It says that it sends, and does not.
    Silent,
    /// It does, or is off, or begins just now.
    Live,
    /// It is a microphone, and somebody spoke just now.
    Spoke,
    /// ... and somebody speaks.
    Speaking,
}

/// A track of somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wish {
    /// Whose.
    pub(crate) owner: PeerId,
    /// Which.
    pub(crate) stream: StreamId,
    /// What it shows.
    pub(crate) source: Source,
    /// Whether media is being sent.
    pub(crate) is_active: bool,
    /// Whether media comes.
    pub(crate) flow: Flow,
}

impl Wish {
    /// A muted microphone keeps its slot, so that it is received at once when it is back; a screen that is not shared has none.
    pub(crate) fn wants_slot(&self) -> bool {
        self.is_active || self.is_grouped()
    }

    /// Whether it should be received now, and can be.
    fn is_live(&self) -> bool {
        self.is_active && !self.yields()
    }

    /// Whether it gives its slot up to a live track.
    pub(crate) fn yields(&self) -> bool {
        self.flow == Flow::Gone || (self.flow == Flow::Silent && self.is_grouped())
    }

    /// Whether somebody speaks in it.
    pub(crate) fn is_spoken(&self) -> bool {
        self.flow == Flow::Speaking && self.source == Source::Microphone
    }

    pub(crate) fn is_grouped(&self) -> bool {
        matches!(self.source, Source::Microphone | Source::Camera)
    }
}

/// The slots of one receiver, audio and video, each by its sync group, and what they carry.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Slots {
    /// Audio slots.
    pub(crate) audio: Vec<Option<StreamId>>,
    /// Video slots.
    pub(crate) video: Vec<Option<StreamId>>,
    /// Groups without a slot of that kind, or with one that is paused: nothing is put there.
    closed: BTreeSet<(Kind, usize)>,
}

impl Slots {
    /// Takes a slot in at its group. One that is paused carries nothing.
    pub(crate) fn insert(&mut self, kind: Kind, group: usize, carries: Option<StreamId>, is_paused: bool) {
        let len = self.of(kind).len();
        if len <= group {
            self.of(kind).resize(group + 1, None);
            self.closed.extend((len..=group).map(|group| (kind, group)));
        }
        if !is_paused {
            self.of(kind)[group] = carries;
            self.closed.remove(&(kind, group));
        }
    }

    /// What a slot carries.
    pub(crate) fn carried_in(&self, kind: Kind, group: usize) -> Option<StreamId> {
        self.by_kind(kind).get(group).copied().flatten()
    }

    /// Whether a track has no slot, and should have one.
    pub(crate) fn lacks(&self, wish: &Wish) -> bool {
        wish.wants_slot() && !self.carries(wish.stream)
    }

    /// Whether a track may be put there.
    fn is_free(&self, kind: Kind, group: usize) -> bool {
        self.by_kind(kind).get(group) == Some(&None) && !self.closed.contains(&(kind, group))
    }

    fn by_kind(&self, kind: Kind) -> &[Option<StreamId>] {
        match kind {
            Kind::Audio => &self.audio,
            Kind::Video => &self.video,
        }
    }

    fn of(&mut self, kind: Kind) -> &mut Vec<Option<StreamId>> {
        match kind {
            Kind::Audio => &mut self.audio,
            Kind::Video => &mut self.video,
        }
    }

    /// What they carry.
    pub(crate) fn carried(&self) -> impl Iterator<Item = StreamId> {
        self.audio.iter().chain(&self.video).flatten().copied()
    }

    /// How many there are, of both kinds.
    pub(crate) fn len(&self) -> usize {
        self.audio.len() + self.video.len()
    }

    /// Whether a track may be put into one of them.
    pub(crate) fn has_free(&self) -> bool {
        [Kind::Audio, Kind::Video]
            .iter()
            .any(|&kind| (0..self.by_kind(kind).len()).any(|group| self.is_free(kind, group)))
    }

    fn carries(&self, stream: StreamId) -> bool {
        self.audio.contains(&Some(stream)) || self.video.contains(&Some(stream))
    }

    fn group_count(&self) -> usize {
        self.audio.len().max(self.video.len())
    }
}

/// Fills the slots with the tracks of others, given in the order in which their owners joined.
pub(crate) fn assign(slots: &mut Slots, wishes: &[Wish]) {
    release(slots, wishes);
    loop {
        fill(slots, wishes);
        if !displace(slots, wishes) && !give_way_to_speech(slots, wishes) {
            return;
        }
    }
}

/// Puts what has no slot into those that are free.
fn fill(slots: &mut Slots, wishes: &[Wish]) {
    let may_come = |slots: &Slots, wish: &Wish| wish.flow != Flow::Gone && slots.lacks(wish);
    let of_groups = |wish: &&Wish| wish.is_grouped() && may_come(slots, wish);
    let mut owners: Vec<PeerId> = wishes.iter().filter(of_groups).map(|wish| wish.owner).collect();
    owners.dedup();
    let best = |owner: &PeerId| wishes.iter().filter(|w| w.owner == *owner && w.is_grouped()).map(rank).max();
    owners.sort_by_key(|owner| Reverse(best(owner)));
    for owner in owners {
        assign_to_group(slots, wishes, owner);
    }
    let mut rest: Vec<&Wish> = wishes.iter().filter(|wish| may_come(slots, wish)).collect();
    rest.sort_by_key(|wish| Reverse(rank(wish)));
    for wish in rest {
        assign_anywhere(slots, wishes, wish);
    }
}

/// A slot whose track gives way to a live one.
struct Yielding {
    group: usize,
    flow: Flow,
    /// Whose track is in the other slot of the group and does not give way.
    beside: Option<PeerId>,
}

impl Yielding {
    /// All of them of a kind, those of who may be gone first.
    fn of(slots: &Slots, wishes: &[Wish], kind: Kind) -> Vec<Yielding> {
        let find = |stream: Option<StreamId>| wishes.iter().find(|wish| Some(wish.stream) == stream);
        let beside = |group| find(slots.carried_in(other(kind), group)).filter(|wish| !wish.yields());
        let places = slots.by_kind(kind).iter().enumerate();
        let yielding =
            places.filter_map(|(group, &stream)| Some((group, find(stream).filter(|wish| wish.yields())?.flow)));
        let mut yielding: Vec<Yielding> = yielding
            .map(|(group, flow)| Yielding { group, flow, beside: beside(group).map(|wish| wish.owner) })
            .collect();
        yielding.sort_by_key(|slot| slot.flow);
        yielding
    }

    /// Whether a track may come there: into another's group no more than into a free slot of it.
    fn is_for(&self, wish: &Wish) -> bool {
        self.beside.is_none_or(|owner| owner == wish.owner) || wish.source == Source::Screen
    }
}

/// Puts one live track that has no slot where a silent one is; false if there is none, or no such place. With it goes what
/// is silent beside it: the group has another owner now.
fn displace(slots: &mut Slots, wishes: &[Wish]) -> bool {
    let mut lacking: Vec<&Wish> = wishes.iter().filter(|wish| wish.is_live() && slots.lacks(wish)).collect();
    if lacking.is_empty() {
        return false;
    }
    lacking.sort_by_key(|wish| Reverse(rank(wish)));
    let [audio, video] = [Kind::Audio, Kind::Video].map(|kind| Yielding::of(slots, wishes, kind));
    let of_kind = |kind| if kind == Kind::Audio { &audio } else { &video };
    let place = |wish: &&Wish| {
        let yielding = of_kind(kind_of(wish.source)).iter().find(|yielding| yielding.is_for(wish))?;
        Some((**wish, yielding))
    };
    let Some((wish, Yielding { group, beside, .. })) = lacking.iter().find_map(place) else { return false };
    let kind = kind_of(wish.source);
    slots.of(kind)[*group] = Some(wish.stream);
    let is_strangers = |stream: &StreamId| wishes.iter().any(|w| w.stream == *stream && w.owner != wish.owner);
    if beside.is_none()
        && let Some(stream) =
            slots.of(other(kind)).get_mut(*group).filter(|stream| stream.as_ref().is_some_and(is_strangers))
    {
        *stream = None;
    }
    true
}

/// Puts somebody who speaks and has no slot where nobody does; false if there is none, or no such place. What is beside it goes with it: the
/// group has another owner now.
fn give_way_to_speech(slots: &mut Slots, wishes: &[Wish]) -> bool {
    let find = |stream: Option<StreamId>| wishes.iter().find(|wish| Some(wish.stream) == stream);
    let Some(speaker) = wishes.iter().find(|wish| wish.is_spoken() && slots.lacks(wish)) else { return false };
    let order = |owner: PeerId| wishes.iter().position(|wish| wish.owner == owner);
    let places = slots.audio.iter().enumerate().filter_map(|(group, &stream)| {
        let quiet = find(stream).filter(|wish| !wish.is_spoken() && wish.source == Source::Microphone)?;
        Some((quiet.is_active, quiet.flow, Reverse(order(quiet.owner)), group))
    });
    let Some((.., group)) = places.min() else { return false };
    slots.audio[group] = Some(speaker.stream);
    let is_camera = |stream: Option<StreamId>| find(stream).is_some_and(|wish| wish.source == Source::Camera);
    if group >= slots.video.len() || !(slots.video[group].is_none() || is_camera(slots.video[group])) {
        return true; // A screen stays where it is.
    }
    let is_own = |stream: Option<StreamId>| find(stream).is_some_and(|wish| wish.owner == speaker.owner);
    let own = (0..slots.video.len()).find(|&k| is_camera(slots.video[k]) && is_own(slots.video[k]));
    match own.filter(|_| !slots.closed.contains(&(Kind::Video, group))) {
        Some(own) => slots.video.swap(own, group),
        None => slots.video[group] = None,
    }
    true
}

fn other(kind: Kind) -> Kind {
    match kind {
        Kind::Audio => Kind::Video,
        Kind::Video => Kind::Audio,
    }
}

/// The rule of a receiver that names whom it wants: the k-th of them, if there, is in the k-th slot of each kind with
/// its voice and its picture, and nobody else is anywhere.
pub(crate) fn assign_named(slots: &mut Slots, wishes: &[Wish], named: &[Option<PeerId>]) {
    let mut seen = BTreeSet::new();
    let owners: Vec<Option<PeerId>> = named.iter().map(|owner| owner.filter(|&owner| seen.insert(owner))).collect();
    for kind in [Kind::Audio, Kind::Video] {
        let closed = slots.closed.clone();
        for (k, slot) in slots.of(kind).iter_mut().enumerate().filter(|(k, _)| !closed.contains(&(kind, *k))) {
            let owner = owners.get(k).copied().flatten();
            let of_owner =
                wishes.iter().filter(|w| Some(w.owner) == owner && kind_of(w.source) == kind && w.wants_slot());
            // A screen is shown while the camera is off; of several alike, the first.
            let best =
                of_owner.enumerate().max_by_key(|(n, w)| (w.is_active, !w.yields(), w.is_grouped(), Reverse(*n)));
            *slot = best.map(|(_, wish)| wish.stream);
        }
    }
}

/// Empties the slots of tracks that are gone or rest.
fn release(slots: &mut Slots, wishes: &[Wish]) {
    for slot in slots.audio.iter_mut().chain(&mut slots.video) {
        if !wishes.iter().any(|wish| Some(wish.stream) == *slot && wish.wants_slot()) {
            *slot = None;
        }
    }
}

/// Who goes first when slots are short.
pub(crate) fn rank(wish: &Wish) -> u8 {
    match (wish.source, wish.is_active) {
        _ if wish.yields() => 0,
        (Source::Screen, _) => 5,
        (Source::Microphone, true) if wish.is_spoken() => 4,
        (Source::Microphone | Source::Camera, true) => 3,
        (Source::ScreenAudio, _) => 2,
        (Source::Microphone | Source::Camera, false) => 1,
    }
}

/// Puts an owner's first microphone and first camera side by side: into the group it has, or into a fresh one.
fn assign_to_group(slots: &mut Slots, wishes: &[Wish], owner: PeerId) {
    let first = |source| wishes.iter().find(|w| w.owner == owner && w.source == source).map(|w| w.stream);
    let (microphone, camera) = (first(Source::Microphone), first(Source::Camera));
    let group_of = |slots: &[Option<StreamId>], stream: Option<StreamId>| {
        slots.iter().position(|slot| stream.is_some() && *slot == stream)
    };
    let group = group_of(&slots.audio, microphone)
        .or_else(|| group_of(&slots.video, camera))
        .or_else(|| empty_group_for(slots, microphone.is_some(), camera.is_some()));
    let Some(group) = group else { return };
    for (kind, stream) in [(Kind::Audio, microphone), (Kind::Video, camera)] {
        let Some(stream) = stream.filter(|&stream| !slots.carries(stream)) else { continue };
        if slots.is_free(kind, group) {
            slots.of(kind)[group] = Some(stream);
        }
    }
}

/// The first group with nothing in it, preferably one that has a slot for everything that is to go there.
fn empty_group_for(slots: &Slots, needs_audio: bool, needs_video: bool) -> Option<usize> {
    let is_empty = |group: &usize| {
        slots.audio.get(*group).is_none_or(Option::is_none) && slots.video.get(*group).is_none_or(Option::is_none)
    };
    let has = |group: usize, needs: bool, kind: Kind| needs && slots.is_free(kind, group);
    let fits = |group: &usize| {
        has(*group, needs_audio, Kind::Audio) == needs_audio && has(*group, needs_video, Kind::Video) == needs_video
    };
    let is_of_use = |group: &usize| has(*group, needs_audio, Kind::Audio) || has(*group, needs_video, Kind::Video);
    let empty = || (0..slots.group_count()).filter(is_empty);
    empty().find(fits).or_else(|| empty().find(is_of_use))
}

/// Puts a track where it disturbs nobody's lip sync; a screen, if need be, where it does, or in a camera's place.
fn assign_anywhere(slots: &mut Slots, wishes: &[Wish], wish: &Wish) {
    let kind = kind_of(wish.source);
    let is_screen = wish.source == Source::Screen;
    let owner_of = |stream: StreamId| wishes.iter().find(|w| w.stream == stream).map(|w| w.owner);
    let other = other(kind);
    let partners = slots.by_kind(other).to_vec();
    // No group, then an empty one, then the owner's own; another owner's only for a screen.
    let distance = |k: usize| match partners.get(k) {
        None => Some(0),
        Some(None) if !slots.is_free(other, k) => Some(0),
        Some(None) => Some(1),
        Some(Some(partner)) if owner_of(*partner) == Some(wish.owner) => Some(2),
        Some(Some(_)) => is_screen.then_some(3),
    };
    let free = (0..slots.by_kind(kind).len()).filter(|&k| slots.is_free(kind, k));
    let best = free.filter_map(|k| Some((distance(k)?, Reverse(k)))).min();
    let places = slots.of(kind);
    let place = match best {
        Some((_, Reverse(k))) => Some(k),
        None if is_screen => weakest_camera(places, wishes, wish.owner),
        None => None,
    };
    if let Some(k) = place {
        places[k] = Some(wish.stream);
    }
}

/// The video slot whose camera gives way to a screen of `owner`: a silent one first, then an idle one, then the owner's
/// own, then the last.
fn weakest_camera(video: &[Option<StreamId>], wishes: &[Wish], owner: PeerId) -> Option<usize> {
    let camera = |k: &usize| wishes.iter().find(|w| Some(w.stream) == video[*k] && w.source == Source::Camera);
    let strength = |k: &usize| camera(k).map(|c| (rank(c), c.owner != owner, Reverse(*k)));
    (0..video.len()).filter(|k| camera(k).is_some()).min_by_key(strength)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wish(owner: u32, source: Source, is_active: bool) -> Wish {
        Wish { owner: PeerId::new(owner, 1), stream: stream(owner, source), source, is_active, flow: Flow::Live }
    }

    /// The same of an owner of whom this is known.
    fn person_who_is(owner: u32, flow: Flow) -> [Wish; 3] {
        person(owner).map(|wish| Wish { flow, ..wish })
    }

    fn stream(owner: u32, source: Source) -> StreamId {
        StreamId::new(owner * 4 + source as u32, 1)
    }

    fn empty(audio: usize, video: usize) -> Slots {
        let mut slots = Slots::default();
        (0..audio).for_each(|group| slots.insert(Kind::Audio, group, None, false));
        (0..video).for_each(|group| slots.insert(Kind::Video, group, None, false));
        slots
    }

    fn person(owner: u32) -> [Wish; 3] {
        [wish(owner, Source::Microphone, true), wish(owner, Source::Camera, true), wish(owner, Source::Screen, false)]
    }

    fn assigned(mut slots: Slots, wishes: &[Wish]) -> Slots {
        assign(&mut slots, wishes);
        slots
    }

    #[test]
    fn a_microphone_and_its_camera_share_a_group_and_the_screen_has_none() {
        let mut wishes = [person(1), person(2)].concat();
        let slots = assigned(empty(7, 8), &wishes);
        assert_eq!(slots.audio[..2], [Some(stream(1, Source::Microphone)), Some(stream(2, Source::Microphone))]);
        assert_eq!(slots.video[..2], [Some(stream(1, Source::Camera)), Some(stream(2, Source::Camera))]);
        assert_eq!(slots.video[2..], [None; 6]);
        wishes[2].is_active = true;
        let shared = assigned(slots.clone(), &wishes);
        assert_eq!(shared.video[7], Some(stream(1, Source::Screen)));
        wishes[2].is_active = false;
        assert_eq!(assigned(shared, &wishes), slots);
    }

    #[test]
    fn a_named_peer_is_in_the_slots_of_its_position_and_nobody_else_is() {
        let mut wishes = [person(1), person(2), person(3)].concat();
        let named = [Some(PeerId::new(3, 1)), None, Some(PeerId::new(1, 1)), Some(PeerId::new(3, 1))];
        let mut slots = empty(4, 2);
        assign_named(&mut slots, &wishes, &named);
        let microphone = |owner| Some(stream(owner, Source::Microphone));
        assert_eq!(slots.audio, [microphone(3), None, microphone(1), None]);
        assert_eq!(slots.video, [Some(stream(3, Source::Camera)), None]);
        // The one who came later fills its place; a screen stands in for a camera that is off.
        wishes[7].is_active = false;
        wishes[8].is_active = true;
        let later = [Some(PeerId::new(3, 1)), Some(PeerId::new(2, 1))];
        assign_named(&mut slots, &wishes, &later);
        assert_eq!(slots.audio, [microphone(3), microphone(2), None, None]);
        assert_eq!(slots.video, [Some(stream(3, Source::Screen)), Some(stream(2, Source::Camera))]);
    }

    #[test]
    fn who_speaks_takes_the_group_of_who_does_not() {
        let speaking = |owner, flow| {
            let [microphone, camera, screen] = person(owner);
            [Wish { flow, ..microphone }, camera, screen]
        };
        let of = |owner| (Some(stream(owner, Source::Microphone)), Some(stream(owner, Source::Camera)));
        let groups = |slots: &Slots| std::iter::zip(slots.audio.clone(), slots.video.clone()).collect::<Vec<_>>();
        let full = assigned(empty(3, 3), &[person(1), person(2), person(3), person(4)].concat());
        assert_eq!(groups(&full), [of(1), of(2), of(3)]);
        let wishes = [person(1), person(2), person(3), speaking(4, Flow::Speaking)].concat();
        let after = assigned(full.clone(), &wishes);
        assert_eq!(groups(&after), [of(1), of(2), of(4)], "that of who came last");
        assert_eq!(assigned(after.clone(), &wishes), after);
        let wishes =
            [person(1), speaking(2, Flow::Spoke), speaking(3, Flow::Speaking), speaking(4, Flow::Spoke)].concat();
        let third = assigned(after.clone(), &wishes);
        assert_eq!(groups(&third), [of(3), of(2), of(4)], "nobody has spoken in the first for a while");
        let all = [1, 2, 3, 4].map(|owner| speaking(owner, Flow::Speaking)).concat();
        assert_eq!(assigned(third.clone(), &all), third, "all speak");
        // Fewer slots of audio than of video: the picture moves beside the voice.
        let few = assigned(empty(1, 2), &[person(1), person(2)].concat());
        assert_eq!(groups(&few)[0], of(1));
        let heard = assigned(few, &[person(1), speaking(2, Flow::Speaking)].concat());
        assert_eq!(groups(&heard)[0], of(2));
        assert_eq!(heard.video[1], of(1).1, "and the other picture stays");
    }

    #[test]
    fn a_leaving_peer_frees_its_group_and_moves_nobody() {
        let full = assigned(empty(3, 3), &[person(1), person(2), person(3)].concat());
        let without = assigned(full.clone(), &[person(1), person(3)].concat());
        assert_eq!((without.audio[1], without.video[1]), (None, None));
        assert_eq!((without.audio[2], without.video[2]), (full.audio[2], full.video[2]));
        let again = assigned(without, &[person(1), person(3), person(4)].concat());
        assert_eq!(again.audio[1], Some(stream(4, Source::Microphone)));
        assert_eq!(again.video[1], Some(stream(4, Source::Camera)));
    }

    #[test]
    fn a_microphone_keeps_cameras_of_others_out_of_its_group() {
        let wishes = [wish(1, Source::Microphone, true), wish(2, Source::Camera, true)];
        let slots = assigned(empty(2, 2), &wishes);
        assert_eq!(slots.audio[0], Some(stream(1, Source::Microphone)));
        assert_eq!(slots.video, [None, Some(stream(2, Source::Camera))]);
    }

    #[test]
    fn a_screen_goes_first_when_slots_are_short() {
        let mut wishes = [person(1), person(2)].concat();
        let slots = assigned(empty(2, 2), &wishes);
        wishes[5].is_active = true;
        let own = assigned(slots.clone(), &wishes);
        assert_eq!(own.video, [Some(stream(1, Source::Camera)), Some(stream(2, Source::Screen))]);
        wishes[1].is_active = false;
        let idle = assigned(slots, &wishes);
        assert_eq!(idle.video, [Some(stream(2, Source::Screen)), Some(stream(2, Source::Camera))]);
        wishes[5].is_active = false;
        let after = assigned(own, &wishes);
        assert_eq!(after.video, [Some(stream(1, Source::Camera)), Some(stream(2, Source::Camera))]);
    }

    /// Three groups of which the first has no audio slot now and the second no video slot.
    fn partly_closed() -> Slots {
        let mut slots = empty(3, 3);
        for place in [(Kind::Audio, 0), (Kind::Video, 1)] {
            slots.closed.insert(place);
        }
        slots
    }

    #[test]
    fn a_paused_slot_carries_nothing_and_moves_nobody() {
        let wishes = [person(1), person(2)].concat();
        let slots = assigned(partly_closed(), &wishes);
        assert_eq!(slots.audio, [None, Some(stream(2, Source::Microphone)), Some(stream(1, Source::Microphone))]);
        assert_eq!(slots.video, [Some(stream(2, Source::Camera)), None, Some(stream(1, Source::Camera))]);
        let mut opened = slots;
        opened.closed.clear();
        let after = assigned(opened.clone(), &wishes);
        assert_eq!(after, opened, "who is somewhere stays there");
        let mut named = partly_closed();
        assign_named(&mut named, &wishes, &[Some(PeerId::new(2, 1)), Some(PeerId::new(1, 1))]);
        assert_eq!(named.audio, [None, Some(stream(1, Source::Microphone)), None]);
        assert_eq!(named.video, [Some(stream(2, Source::Camera)), None, None]);
    }

    #[test]
    fn a_group_without_a_slot_is_closed() {
        let mut slots = Slots::default();
        slots.insert(Kind::Video, 2, None, false);
        assert_eq!(
            assigned(slots.clone(), &[person(1), person(2)].concat()).video,
            [None, None, Some(stream(1, Source::Camera))]
        );
        slots.insert(Kind::Video, 0, None, true);
        assert!(!slots.is_free(Kind::Video, 0) && slots.carried_in(Kind::Video, 0).is_none());
    }

    #[test]
    fn the_live_go_before_the_idle() {
        let wishes = [wish(1, Source::Microphone, false), wish(2, Source::Microphone, true)];
        assert_eq!(assigned(empty(1, 0), &wishes).audio, [Some(stream(2, Source::Microphone))]);
    }

    #[test]
    fn a_silent_track_gives_its_slot_to_a_live_one_and_keeps_it_while_nobody_needs_it() {
        for flow in [Flow::Silent, Flow::Gone] {
            let full = assigned(empty(1, 1), &person(1));
            let alone = assigned(full.clone(), &person_who_is(1, flow));
            assert_eq!(alone, full, "nobody else wants it");
            let both = [person_who_is(1, flow), person(2)].concat();
            let after = assigned(full.clone(), &both);
            let of_two = [Some(stream(2, Source::Microphone)), Some(stream(2, Source::Camera))];
            assert_eq!([after.audio[0], after.video[0]], of_two, "{flow:?}");
            // When it sends again, the first waits: nobody is moved back and forth.
            assert_eq!(assigned(after.clone(), &[person(1), person(2)].concat()), after);
        }
    }

    #[test]
    fn a_newcomer_gets_live_tracks_and_never_those_of_peers_that_may_be_gone() {
        let room = [person_who_is(1, Flow::Gone), person(2)].concat();
        let one = assigned(empty(1, 1), &room);
        assert_eq!(
            (one.audio[0], one.video[0]),
            (Some(stream(2, Source::Microphone)), Some(stream(2, Source::Camera)))
        );
        let wide = assigned(empty(7, 8), &room);
        let carried: Vec<StreamId> = wide.audio.iter().chain(&wide.video).flatten().copied().collect();
        assert_eq!(carried, [stream(2, Source::Microphone), stream(2, Source::Camera)]);
        // Who is silent for a moment comes after all others.
        let room = [person_who_is(1, Flow::Silent), person(2)].concat();
        assert_eq!(assigned(empty(1, 1), &room), one);
        assert_eq!(assigned(empty(2, 2), &room).audio[1], Some(stream(1, Source::Microphone)));
    }

    #[test]
    fn a_live_microphone_keeps_its_group_though_the_camera_beside_it_is_silent() {
        let mut room = [person(1), person(2)].concat();
        room[1].flow = Flow::Silent;
        let full = assigned(empty(1, 1), &person(1));
        assert_eq!(assigned(full.clone(), &room), full, "a stranger's face is not put beside a voice");
        // The owner's own second camera may come there.
        let second = Wish { stream: StreamId::new(77, 1), flow: Flow::Live, ..room[1] };
        room.insert(2, second);
        assert_eq!(assigned(full, &room).video[0], Some(second.stream));
    }

    #[test]
    fn a_screen_that_stands_still_gives_way_to_nobody() {
        let mut room = [person(1), person(2)].concat();
        room[2] = Wish { is_active: true, flow: Flow::Silent, ..room[2] };
        let slots = assigned(empty(0, 1), &room);
        assert_eq!(slots.video, [Some(stream(1, Source::Screen))]);
        // Of several cameras a silent one gives way to it first.
        let mut room = [person(1), person_who_is(2, Flow::Silent), person(3)].concat();
        room[1].is_active = false;
        let full = assigned(empty(3, 3), &room);
        room[2].is_active = true;
        let shared = assigned(full, &room);
        let cameras: Vec<_> = shared.video.iter().flatten().collect();
        assert!(!cameras.contains(&&stream(2, Source::Camera)), "{cameras:?}");
        assert!(cameras.contains(&&stream(1, Source::Camera)) && cameras.contains(&&stream(1, Source::Screen)));
    }

    fn any_wishes() -> impl Strategy<Value = Vec<Wish>> {
        let source =
            prop::sample::select(vec![Source::Microphone, Source::Camera, Source::Screen, Source::ScreenAudio]);
        let flow = prop::sample::select(vec![Flow::Gone, Flow::Silent, Flow::Live, Flow::Live]);
        // Whether somebody may be gone is a matter of all its tracks.
        let gone = prop::collection::vec(prop::bool::weighted(0.2), 8);
        (prop::collection::btree_set((0u32..8, source), 0..24), gone).prop_flat_map(move |(tracks, gone)| {
            let len = tracks.len();
            prop::collection::vec((any::<bool>(), flow.clone()), len).prop_map(move |states| {
                let state = |(&(owner, source), &(active, flow)): (&(u32, Source), &(bool, Flow))| {
                    let flow = match flow {
                        _ if gone[owner as usize] => Flow::Gone,
                        Flow::Silent if active => Flow::Silent,
                        _ => Flow::Live,
                    };
                    Wish { flow, ..wish(owner, source, active) }
                };
                tracks.iter().zip(&states).map(state).collect()
            })
        })
    }

    proptest! {
        /// Whatever the room was and becomes: no track is carried twice or in a slot of the other kind, nothing that
        /// rests is carried, what was carried and is still wanted stays unless a screen needs the place or it is silent and
        /// a live one does, who may be gone gets nothing new, no live one waits for a slot that a silent one has, a second
        /// pass changes nothing, and with slots for everything everything that is wanted is carried.
        #[test]
        fn the_laws_of_assignment(before in any_wishes(), after in any_wishes(), audio in 0usize..9, video in 0usize..9) {
            let old = assigned(empty(audio, video), &before);
            let new = assigned(old.clone(), &after);
            let carried: Vec<StreamId> = new.audio.iter().chain(&new.video).flatten().copied().collect();
            for (k, stream) in carried.iter().enumerate() {
                prop_assert!(!carried[..k].contains(stream));
                let wish = after.iter().find(|w| w.stream == *stream).unwrap();
                prop_assert!(wish.wants_slot());
                prop_assert_eq!(new.audio.contains(&Some(*stream)), kind_of(wish.source) == Kind::Audio);
            }
            for (was, is) in old.audio.iter().zip(&new.audio).chain(old.video.iter().zip(&new.video)) {
                let still_wanted = after.iter().any(|w| Some(w.stream) == *was && w.wants_slot());
                let is_screen = after.iter().any(|w| Some(w.stream) == *is && w.source == Source::Screen);
                let yields = after.iter().any(|w| Some(w.stream) == *was && w.yields());
                prop_assert!(!still_wanted || was == is || is_screen || yields);
                let is_displaced = still_wanted && was != is && !is_screen;
                let someone_came = after.iter().any(|w| w.is_live() && new.carries(w.stream) && !old.carries(w.stream));
                prop_assert!(!is_displaced || someone_came, "a slot was taken for nobody");
            }
            for wish in after.iter().filter(|w| w.flow == Flow::Gone) {
                prop_assert!(!new.carries(wish.stream) || old.carries(wish.stream), "{wish:?} came back from the dead");
            }
            for wish in after.iter().filter(|w| w.is_live() && new.lacks(w)) {
                let yielding = Yielding::of(&new, &after, kind_of(wish.source));
                prop_assert!(!yielding.iter().any(|slot| slot.is_for(wish)), "{wish:?} waits for a silent one");
            }
            prop_assert_eq!(assigned(new.clone(), &after), new);
            let wide = assigned(empty(16, 24), &after);
            for wish in after.iter().filter(|w| w.wants_slot() && w.flow != Flow::Gone) {
                prop_assert!(wide.carries(wish.stream), "{wish:?} is not carried");
            }
        }
    }
}
