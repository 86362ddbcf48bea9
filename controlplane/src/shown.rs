//! How a receiver shows the videos of others, as it has said it, and what that means for its slots: how large a picture is enough, and
//! how important each video is to it ([`SlotShown`]). What comes of it is the worker's: it knows the path.

use std::collections::BTreeMap;

use proto::id::{PeerId, StreamId};
use proto::plane::{SHOWN_LINES_ANY, SlotShown, weight};
use proto::signal::{ErrorCode, Kind, ShownVideo, Source};

use crate::member::Member;
use crate::policy::{SLOTS_CEILING, kind_of};
use crate::reconcile::Plan;
use crate::refusal::Refusal;
use crate::room::Room;

/// Videos that a client may speak of: as many as it can receive.
const VIDEOS_MAX: usize = SLOTS_CEILING;

/// Bytes of a peer's id that are kept: ours have twelve.
const PEER_LEN_MAX: usize = 32;

/// What a client says is taken whole, or not at all. Whom it names may not be there: who has just left, or is just coming.
pub(crate) fn check(videos: &[ShownVideo]) -> Result<(), Refusal> {
    let bad = |message: String| Err(Refusal::new(ErrorCode::BadSignal, message));
    if videos.len() > VIDEOS_MAX {
        return bad(format!("more than {VIDEOS_MAX} videos are named"));
    }
    if videos.iter().any(|video| kind_of(video.source) != Kind::Video) {
        return bad("only a camera or a screen is shown".to_owned());
    }
    if videos.iter().any(|video| video.peer.len() > PEER_LEN_MAX) {
        return bad(format!("no peer has an id of more than {PEER_LEN_MAX} bytes"));
    }
    let is_double = |(at, video): (usize, &ShownVideo)| {
        videos[..at].iter().any(|other| (&other.peer, other.source) == (&video.peer, video.source))
    };
    match videos.iter().enumerate().any(is_double) {
        true => bad("a video is named twice".to_owned()),
        false => Ok(()),
    }
}

/// The videos of a room: whose each is, its owner's id, and what it shows.
pub(crate) struct Videos<'a>(BTreeMap<StreamId, (PeerId, &'a str, Source)>);

impl<'a> Videos<'a> {
    pub(crate) fn of(room: &'a Room) -> Videos<'a> {
        let tracks = room.members().iter().flat_map(|member| member.tracks.iter().map(move |track| (member, track)));
        let videos = tracks.filter(|(_, track)| kind_of(track.source) == Kind::Video);
        Videos(videos.map(|(of, track)| (track.stream, (of.peer, of.id.as_str(), track.source))).collect())
    }

    /// Tells a member's worker how its slots are shown. `speaks`: who speaks in the room.
    pub(crate) fn show(&self, member: &Member, speaks: impl Fn(PeerId) -> bool, plan: &mut Plan) {
        for slot in member.slots.iter().filter(|slot| slot.kind == Kind::Video) {
            let Some((owner, id, source)) = slot.carries.and_then(|stream| self.0.get(&stream)) else { continue };
            let said = member.shown.iter().find(|said| said.peer == *id && said.source == *source);
            let lines = said.and_then(|said| said.lines).unwrap_or(SHOWN_LINES_ANY);
            let weight = match source {
                Source::Screen => weight::SCREEN,
                _ if said.is_some_and(|said| said.pinned) => weight::PINNED,
                _ if speaks(*owner) => weight::SPEAKER,
                _ => weight::OTHER,
            };
            plan.want_shown(SlotShown { slot: slot.slot, lines, weight });
        }
    }

    /// What a member has said to an earlier controlplane, as its worker still knows it.
    pub(crate) fn recall(&self, member: &Member, plan: &Plan) -> Vec<ShownVideo> {
        let said = member.slots.iter().filter_map(|slot| {
            let (_, id, source) = slot.carries.and_then(|stream| self.0.get(&stream))?;
            let shown = plan.shown(slot.slot)?;
            let lines = Some(shown.lines).filter(|lines| *lines != SHOWN_LINES_ANY);
            let pinned = shown.weight == weight::PINNED;
            (lines.is_some() || pinned).then(|| ShownVideo { peer: (*id).to_owned(), source: *source, lines, pinned })
        });
        said.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(peer: &str, source: Source) -> ShownVideo {
        ShownVideo { peer: peer.to_owned(), source, lines: Some(360), pinned: false }
    }

    #[test]
    fn what_is_said_is_bounded_and_clear() {
        let many = |count: usize| (0..count).map(|n| video(&n.to_string(), Source::Camera)).collect::<Vec<_>>();
        assert!(check(&many(VIDEOS_MAX)).is_ok() && check(&[]).is_ok());
        assert!(check(&[video("a", Source::Camera), video("a", Source::Screen)]).is_ok());
        for bad in [
            many(VIDEOS_MAX + 1),
            vec![video("a", Source::Microphone)],
            vec![video("a", Source::ScreenAudio)],
            vec![video("a", Source::Camera), video("a", Source::Camera)],
            vec![video(&"a".repeat(PEER_LEN_MAX + 1), Source::Camera)],
        ] {
            assert_eq!(check(&bad).map_err(|refusal| refusal.code), Err(ErrorCode::BadSignal), "{bad:?}");
        }
    }
}
