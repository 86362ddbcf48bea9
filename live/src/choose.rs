//! Whose picture is shown: of whom is named; else of who shares a screen, else of the first with a camera. It stays so long as it can be.

use client::room::{Event, SlotContent};
use proto::signal::{Kind, PeerInfo, Source};

/// Who is in the room, and what its slots carry.
#[derive(Default, Debug)]
pub(crate) struct Choice {
    /// The name that people have given themselves, or an operator them.
    name: Option<String>,
    /// In the order in which they came.
    people: Vec<PeerInfo>,
    slots: Vec<SlotContent>,
    chosen: Option<SlotContent>,
}

impl Choice {
    pub(crate) fn new(name: Option<String>) -> Choice {
        Choice { name, ..Choice::default() }
    }

    /// Takes what is told of the room.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Joined { .. } => {
                self.slots.clear();
                self.chosen = None;
            }
            Event::Peers(peers) => {
                self.people.retain(|known| peers.iter().any(|info| info.peer == known.peer));
                peers.iter().for_each(|info| self.note(info));
            }
            Event::PeerJoined(info) | Event::PeerChanged(info) => self.note(info),
            Event::PeerLeft { peer, .. } => self.people.retain(|known| known.peer != *peer),
            Event::TrackChanged { peer, track } => {
                let known =
                    self.people.iter_mut().filter(|known| known.peer == *peer).flat_map(|known| &mut known.tracks);
                known.filter(|known| known.track == track.track).for_each(|known| *known = track.clone());
            }
            Event::Slots(slots) => self.slots.clone_from(slots),
            _ => (),
        }
    }

    fn note(&mut self, info: &PeerInfo) {
        match self.people.iter_mut().find(|known| known.peer == info.peer) {
            Some(known) => *known = info.clone(),
            None => self.people.push(info.clone()),
        }
    }

    /// What is chosen, when it is another than before.
    pub(crate) fn changed(&mut self) -> Option<Option<SlotContent>> {
        let best = self.slots.iter().filter_map(|slot| Some((self.rank(slot)?, slot))).min_by_key(|(rank, _)| *rank);
        let best = best.map(|(_, slot)| slot.clone());
        let is_other = best != self.chosen;
        self.chosen.clone_from(&best);
        is_other.then_some(best)
    }

    /// The least is chosen; None is never. Of two that are alike the one that is shown already, then the one who came first.
    fn rank(&self, slot: &SlotContent) -> Option<(bool, bool, usize)> {
        let (peer, track) = (slot.peer.as_ref()?, slot.track.as_ref()?);
        let place = self.people.iter().position(|known| known.peer == *peer)?;
        let person = &self.people[place];
        let is_on = person.tracks.iter().any(|known| known.track == *track && known.active);
        let is_named = self.name.as_ref().is_none_or(|name| *name == person.name);
        let is_shown = self.chosen.as_ref().is_some_and(|chosen| chosen.track == slot.track);
        let is_camera = slot.source != Some(Source::Screen);
        (slot.kind == Kind::Video && is_on && is_named).then_some((is_camera, !is_shown, place))
    }
}

#[cfg(test)]
mod tests {
    use proto::signal::{LeaveReason, TrackInfo};

    use super::*;

    fn person(peer: &str, sources: &[Source]) -> PeerInfo {
        let track = |source: &Source| TrackInfo {
            track: format!("{peer}/{source:?}"),
            kind: Kind::Video,
            source: *source,
            active: true,
            muted: false,
        };
        let tracks = sources.iter().map(track).collect();
        PeerInfo {
            peer: peer.to_owned(),
            name: peer.to_uppercase(),
            lookalike: false,
            quality: Default::default(),
            role: None,
            tracks,
        }
    }

    fn slots(of: &[(&str, Source)]) -> Event {
        let slot = |(slot, (peer, source)): (usize, &(&str, Source))| SlotContent {
            slot,
            kind: Kind::Video,
            peer: Some((*peer).to_owned()),
            track: Some(format!("{peer}/{source:?}")),
            source: Some(*source),
        };
        Event::Slots(of.iter().enumerate().map(slot).collect())
    }

    fn chosen(choice: &mut Choice, event: &Event) -> Option<Option<String>> {
        choice.take(event);
        choice.changed().map(|slot| slot.and_then(|slot| slot.track))
    }

    #[test]
    fn a_screen_comes_first_then_the_first_camera_that_is_on() {
        let mut choice = Choice::new(None);
        let (ada, bob) = (person("ada", &[Source::Camera]), person("bob", &[Source::Camera, Source::Screen]));
        assert_eq!(chosen(&mut choice, &Event::Peers(vec![ada.clone(), bob])), None);
        let both = [("bob", Source::Camera), ("ada", Source::Camera)];
        assert_eq!(chosen(&mut choice, &slots(&both)), Some(Some("ada/Camera".to_owned())));
        let all = [both[0], both[1], ("bob", Source::Screen)];
        assert_eq!(chosen(&mut choice, &slots(&all)), Some(Some("bob/Screen".to_owned())));
        assert_eq!(chosen(&mut choice, &slots(&both)), Some(Some("ada/Camera".to_owned())));
        // A camera that is switched off is none, and who is shown meanwhile stays.
        let mut track = ada.tracks[0].clone();
        track.active = false;
        let off = Event::TrackChanged { peer: "ada".to_owned(), track: track.clone() };
        assert_eq!(chosen(&mut choice, &off), Some(Some("bob/Camera".to_owned())));
        track.active = true;
        assert_eq!(chosen(&mut choice, &Event::TrackChanged { peer: "ada".to_owned(), track }), None);
        let left = Event::PeerLeft { peer: "bob".to_owned(), reason: LeaveReason::Left };
        assert_eq!(chosen(&mut choice, &left), Some(Some("ada/Camera".to_owned())));
    }

    #[test]
    fn who_is_named_is_shown_or_nobody() {
        let mut choice = Choice::new(Some("BOB".to_owned()));
        let (ada, bob) = (person("ada", &[Source::Screen]), person("bob", &[Source::Camera]));
        choice.take(&Event::Peers(vec![ada, bob]));
        assert_eq!(chosen(&mut choice, &slots(&[("ada", Source::Screen)])), None);
        let both = [("ada", Source::Screen), ("bob", Source::Camera)];
        assert_eq!(chosen(&mut choice, &slots(&both)), Some(Some("bob/Camera".to_owned())));
    }
}
