//! Who speaks in a room, and whose voices are passed on where there are more than it passes on.
//!
//! Workers report in which streams somebody speaks, and how loud ([`proto::plane::StreamSpeaks`]). That is all that is known: a client that
//! claims to be loud is believed, and gets one place by it like anybody else.
//!
//! **Places.** In a large room a voice is passed on while it has one of a few places. Who begins to speak gets a free one, or that of who has
//! been quiet for the longest, at once; or else, two seconds after it was taken, that of the one who is least loud, if that is 6 dB less than
//! the newcomer. Who stops keeps its place for two seconds more. Everywhere else each voice has a place.
//!
//! **Who is shown** as speaking has spoken for 150 ms. The loudest comes first; two change places for 6 dB. The first becomes the *dominant*
//! speaker after a second in which it was the first, or at once if the one before does not speak, and stays it until another one does.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::id::{PeerId, StreamId};
use proto::plane::Gate;

/// How long a voice keeps its place at the least, and after its last word.
const HELD: Duration = Duration::from_secs(2);

/// How much louder one must be to take another's place, decibels: what is heard as clearly louder.
const LOUDER_BY: u8 = 6;

/// Speech that is shorter is not shown: a cough, a key.
const SHOWN_AFTER: Duration = Duration::from_millis(150);

/// How often who speaks is told at most.
const TOLD_INTERVAL: Duration = Duration::from_millis(250);

/// How long somebody is the first before it is the dominant speaker while the one before speaks too.
const DOMINANT_AFTER: Duration = Duration::from_secs(1);

/// Speakers that are told at most.
pub(crate) const SHOWN_MAX: usize = 8;

/// How long somebody counts as having spoken just now: its slots go to other speakers last.
const RECENT: Duration = Duration::from_secs(30);

/// How many count so at most, and as many again speak: what slots are kept for is bounded.
const RECENT_MAX: usize = 8;

/// Somebody who speaks, or did just now.
#[derive(Clone, Copy, Debug)]
struct Voice {
    peer: PeerId,
    loudness: u8,
    /// When it began to speak.
    began: Instant,
    /// When it stopped.
    quiet: Option<Instant>,
    /// When it got its place.
    place: Option<Instant>,
    /// Whether it ever had one.
    was_passed: bool,
}

impl Voice {
    fn is_over(&self, now: Instant) -> bool {
        self.quiet.is_some_and(|quiet| quiet + HELD <= now)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Speakers {
    voices: BTreeMap<StreamId, Voice>,
    /// Whose voices there were at the last look, and whether they had places.
    seen: Vec<(StreamId, bool)>,
    /// Who had a place until when, the newest first.
    recent: Vec<(StreamId, Instant)>,
    shown: Vec<PeerId>,
    /// Since when the first of them is the first.
    first_since: Option<Instant>,
    dominant: Option<PeerId>,
    told_at: Option<Instant>,
}

/// What a look has found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Look {
    /// Other streams than before have places, or wait for one.
    pub(crate) has_moved: bool,
    /// Others than before are shown, or in another order; or another one is dominant.
    pub(crate) has_news: bool,
    /// Another one is dominant.
    pub(crate) has_other_dominant: bool,
    /// When to look again.
    pub(crate) next: Option<Instant>,
}

impl Speakers {
    /// Somebody speaks in a stream, so loud: 127 plus dBov.
    pub(crate) fn speaks(&mut self, now: Instant, stream: StreamId, peer: PeerId, loudness: u8) {
        let began = Voice { peer, loudness, began: now, quiet: None, place: None, was_passed: false };
        let voice = self.voices.entry(stream).or_insert(began);
        if voice.quiet.take().is_some() {
            voice.began = now;
        }
        (voice.peer, voice.loudness) = (peer, loudness);
    }

    /// Nobody speaks in a stream any more.
    pub(crate) fn is_quiet(&mut self, now: Instant, stream: StreamId) {
        if let Some(voice) = self.voices.get_mut(&stream) {
            voice.quiet.get_or_insert(now);
        }
    }

    /// A peer has left the room.
    pub(crate) fn leave(&mut self, peer: PeerId) {
        self.voices.retain(|_, voice| voice.peer != peer);
        self.dominant = self.dominant.filter(|dominant| *dominant != peer);
    }

    /// Looks at what has changed. `places` is how many voices may be passed on; a stream is `heard` if its track is on and nobody keeps it
    /// from the others.
    pub(crate) fn look(&mut self, now: Instant, places: usize, heard: impl Fn(StreamId) -> bool) -> Look {
        for (stream, voice) in &mut self.voices {
            if !heard(*stream) {
                voice.quiet.get_or_insert(now);
            }
        }
        let over: Vec<StreamId> =
            self.voices.iter().filter(|(_, voice)| voice.is_over(now)).map(|(stream, _)| *stream).collect();
        for stream in over {
            let voice = self.voices.remove(&stream);
            if voice.is_some_and(|voice| voice.was_passed) {
                self.recent.retain(|(recent, _)| *recent != stream);
                self.recent.insert(0, (stream, now));
                self.recent.truncate(RECENT_MAX);
            }
        }
        self.recent.retain(|(_, since)| *since + RECENT > now);
        self.give_places(now, places);
        let dominant = self.dominant;
        let has_news = self.show(now);
        let has_other_dominant = self.dominant != dominant;
        let next = self.next(now, places);
        let states = self.states();
        let has_moved = std::mem::replace(&mut self.seen, states.clone()) != states;
        Look { has_moved, has_news, has_other_dominant, next }
    }

    /// Who speaks, as it is told: the loudest first.
    pub(crate) fn shown(&self) -> &[PeerId] {
        &self.shown
    }

    /// Who is to be shown first: the one who speaks, or did last.
    pub(crate) fn dominant(&self) -> Option<PeerId> {
        self.dominant
    }

    /// When packets of a stream are passed on in a large room.
    pub(crate) fn gate_of(&self, stream: StreamId) -> Gate {
        match self.voices.get(&stream) {
            Some(Voice { place: None, .. }) => Gate::Closed,
            _ => Gate::Speech,
        }
    }

    /// The streams that have places.
    pub(crate) fn placed(&self) -> Vec<StreamId> {
        self.voices.iter().filter(|(_, voice)| voice.place.is_some()).map(|(stream, _)| *stream).collect()
    }

    /// The streams that had one just now.
    pub(crate) fn recent(&self) -> impl Iterator<Item = StreamId> {
        self.recent.iter().map(|(stream, _)| *stream)
    }

    /// Whose voice there is, and whether it has a place.
    fn states(&self) -> Vec<(StreamId, bool)> {
        self.voices.iter().map(|(stream, voice)| (*stream, voice.place.is_some())).collect()
    }

    fn give_places(&mut self, now: Instant, places: usize) {
        loop {
            let taken = self.voices.values().filter(|voice| voice.place.is_some()).count();
            let waits = self.voices.iter().filter(|(_, voice)| voice.quiet.is_none() && voice.place.is_none());
            let Some((&stream, &newcomer)) = waits.max_by_key(|(_, voice)| voice.loudness) else { break };
            if taken >= places {
                let Some(given_up) = self.weakest(now, newcomer.loudness) else { break };
                if let Some(voice) = self.voices.get_mut(&given_up) {
                    voice.place = None;
                }
            }
            if let Some(voice) = self.voices.get_mut(&stream) {
                (voice.place, voice.was_passed) = (Some(now), true);
            }
        }
        let surplus = |of: &Speakers| of.placed().len() > places;
        while surplus(self) {
            // The room has become a large one.
            let placed = self.voices.iter_mut().filter(|(_, voice)| voice.place.is_some());
            let Some((_, voice)) = placed.min_by_key(|(_, voice)| (voice.quiet.is_none(), voice.loudness)) else {
                break;
            };
            voice.place = None;
        }
    }

    /// Whose place somebody of this loudness gets.
    fn weakest(&self, now: Instant, loudness: u8) -> Option<StreamId> {
        let placed = || self.voices.iter().filter(|(_, voice)| voice.place.is_some());
        let quiet = placed().filter_map(|(stream, voice)| Some((voice.quiet?, *stream))).min();
        let is_held = |voice: &Voice| voice.place.is_some_and(|place| place + HELD > now);
        let least = placed().filter(|(_, voice)| !is_held(voice)).min_by_key(|(_, voice)| voice.loudness);
        let least = least.filter(|(_, voice)| loudness >= voice.loudness.saturating_add(LOUDER_BY));
        quiet.map(|(_, stream)| stream).or(least.map(|(stream, _)| *stream))
    }

    /// Brings up to date who is shown, if it is time. Whether that is news.
    fn show(&mut self, now: Instant) -> bool {
        let mut loudest: BTreeMap<PeerId, u8> = BTreeMap::new();
        for voice in self.voices.values() {
            let is_shown = voice.quiet.is_none() && voice.place.is_some() && voice.began + SHOWN_AFTER <= now;
            if is_shown {
                let loudness = loudest.entry(voice.peer).or_default();
                *loudness = voice.loudness.max(*loudness);
            }
        }
        let of = |peer: &PeerId| loudest.get(peer).copied().unwrap_or(0);
        let mut shown: Vec<PeerId> = self.shown.iter().filter(|peer| loudest.contains_key(peer)).copied().collect();
        let mut new: Vec<PeerId> = loudest.keys().filter(|peer| !shown.contains(peer)).copied().collect();
        new.sort_by_key(|peer| Reverse(of(peer)));
        shown.extend(new);
        for end in (1..shown.len()).rev() {
            for at in 0..end {
                if of(&shown[at + 1]) >= of(&shown[at]).saturating_add(LOUDER_BY) {
                    shown.swap(at, at + 1);
                }
            }
        }
        shown.truncate(SHOWN_MAX);
        if self.told_at.is_some_and(|told_at| told_at + TOLD_INTERVAL > now) {
            return false;
        }
        if shown.first() != self.shown.first() {
            self.first_since = shown.first().map(|_| now);
        }
        let is_other = shown != self.shown;
        self.shown = shown;
        let dominant = self.dominant;
        if let Some(&first) = self.shown.first() {
            let is_settled = self.first_since.is_some_and(|since| since + DOMINANT_AFTER <= now);
            if is_settled || !dominant.is_some_and(|dominant| self.shown.contains(&dominant)) {
                self.dominant = Some(first);
            }
        }
        let has_news = is_other || self.dominant != dominant;
        if has_news {
            self.told_at = Some(now);
        }
        has_news
    }

    /// When something is due without a report.
    fn next(&self, now: Instant, places: usize) -> Option<Instant> {
        let told = self.told_at.map(|told_at| told_at + TOLD_INTERVAL);
        let dominant = self.first_since.filter(|_| self.dominant.as_ref() != self.shown.first());
        let is_full = self.placed().len() >= places;
        let of_voices = self.voices.values().flat_map(|voice| {
            let held = voice.place.filter(|_| is_full && voice.quiet.is_none()).map(|place| place + HELD);
            let over = voice.quiet.map(|quiet| quiet + HELD);
            [Some(voice.began + SHOWN_AFTER), over, held]
        });
        let recent = self.recent.iter().map(|(_, since)| *since + RECENT);
        let of_voices = of_voices.flatten().chain(recent);
        let times = of_voices.chain(told).chain(dominant.map(|since| since + DOMINANT_AFTER));
        times.filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A room in which stream n is that of peer n.
    struct Scene {
        speakers: Speakers,
        now: Instant,
        places: usize,
        /// What was told, and when.
        told: Vec<(Duration, Vec<u32>)>,
        start: Instant,
    }

    impl Scene {
        fn new(places: usize) -> Scene {
            let now = Instant::now();
            Scene { speakers: Speakers::default(), now, places, told: Vec::new(), start: now }
        }

        fn look(&mut self) -> Look {
            let look = self.speakers.look(self.now, self.places, |_| true);
            if look.has_news {
                let shown = self.speakers.shown().iter().map(|peer| peer.index).collect();
                self.told.push((self.now - self.start, shown));
            }
            look
        }

        fn speaks(&mut self, n: u32, loudness: u8) {
            self.speakers.speaks(self.now, StreamId::new(n, 1), PeerId::new(n, 1), loudness);
            self.look();
        }

        fn stops(&mut self, n: u32) {
            self.speakers.is_quiet(self.now, StreamId::new(n, 1));
            self.look();
        }

        /// Time passes, with a look whenever one is due.
        fn passes(&mut self, ms: u32) {
            let end = self.now + MS * ms;
            while let Some(next) = self.speakers.next(self.now, self.places).filter(|next| *next <= end) {
                self.now = next;
                self.look();
            }
            self.now = end;
        }

        fn placed(&self) -> Vec<u32> {
            self.speakers.placed().iter().map(|stream| stream.index).collect()
        }

        fn shown(&self) -> Vec<u32> {
            self.speakers.shown().iter().map(|peer| peer.index).collect()
        }

        fn dominant(&self) -> Option<u32> {
            self.speakers.dominant().map(|peer| peer.index)
        }
    }

    #[test]
    fn who_speaks_is_shown_the_loudest_first() {
        let mut scene = Scene::new(usize::MAX);
        scene.speaks(1, 90);
        assert!(scene.shown().is_empty(), "a cough");
        scene.passes(150);
        assert_eq!((scene.shown(), scene.dominant()), (vec![1], Some(1)));
        scene.speaks(2, 95);
        scene.passes(500);
        assert_eq!(scene.shown(), [1, 2], "not louder by 6 dB");
        scene.speaks(2, 96);
        scene.passes(500);
        assert_eq!((scene.shown(), scene.dominant()), (vec![2, 1], Some(1)));
        scene.passes(600);
        assert_eq!(scene.dominant(), Some(2));
        scene.stops(2);
        scene.passes(250);
        assert_eq!((scene.shown(), scene.dominant()), (vec![1], Some(1)));
        scene.stops(1);
        scene.passes(250);
        assert_eq!((scene.shown(), scene.dominant()), (vec![], Some(1)), "who spoke last");
        scene.passes(60_000);
        assert_eq!(scene.speakers.next(scene.now, scene.places), None, "nothing is due in a quiet room");
        scene.speakers.leave(PeerId::new(1, 1));
        assert_eq!(scene.dominant(), None);
    }

    #[test]
    fn a_newcomer_gets_a_free_place_or_a_quiet_ones_or_that_of_who_is_least_loud() {
        let mut scene = Scene::new(2);
        scene.speaks(1, 80);
        scene.speaks(2, 90);
        scene.speaks(3, 84);
        scene.passes(10_000);
        assert_eq!(scene.placed(), [1, 2]);
        let gate = |scene: &Scene, n| scene.speakers.gate_of(StreamId::new(n, 1));
        assert_eq!([1, 3, 4].map(|n| gate(&scene, n)), [Gate::Speech, Gate::Closed, Gate::Speech]);
        scene.speaks(3, 86);
        assert_eq!(scene.placed(), [2, 3], "louder by 6 dB");
        scene.speaks(1, 100);
        assert_eq!(scene.placed(), [1, 3], "who has been there for two seconds gives way");
        scene.speaks(2, 127);
        scene.passes(1_900);
        assert_eq!(scene.placed(), [1, 3], "both are new");
        scene.passes(200);
        assert_eq!(scene.placed(), [1, 2]);
        scene.stops(1);
        scene.passes(1_000);
        assert_eq!(scene.placed(), [2, 3], "3 waits, and gets the place at once");
        scene.stops(2);
        scene.stops(3);
        scene.passes(1_900);
        assert_eq!(scene.placed(), [2, 3]);
        scene.passes(200);
        assert!(scene.placed().is_empty());
        assert_eq!(scene.speakers.recent().count(), 3);
    }

    proptest! {
        /// Whatever is reported: never more places than there are, at most four changes a second are told, a speaker has a place if one
        /// is free, and nothing is due for ever.
        #[test]
        fn reports_of_any_kind_are_bounded(
            places in 1usize..5,
            reports in prop::collection::vec((0u32..12, prop::option::of(0u8..=127), 0u32..400), 1..200),
        ) {
            let mut scene = Scene::new(places);
            for (n, loudness, ms) in reports {
                match loudness {
                    Some(loudness) => scene.speaks(n, loudness),
                    None => scene.stops(n),
                }
                prop_assert!(scene.placed().len() <= places);
                let waits = scene.speakers.voices.values().any(|voice| voice.quiet.is_none() && voice.place.is_none());
                prop_assert!(!waits || scene.placed().len() == places);
                scene.passes(ms);
            }
            for two in scene.told.windows(2) {
                prop_assert!(two[1].0 - two[0].0 >= TOLD_INTERVAL);
            }
            for n in 0..12 {
                scene.stops(n);
            }
            scene.passes(40_000);
            prop_assert_eq!(scene.speakers.next(scene.now, places), None);
            prop_assert!(scene.shown().is_empty() && scene.placed().is_empty());
        }
    }
}
