//! How good the connections of people are: whose links are to be reported, and what becomes of a report ([`crate::quality`]).

use std::collections::BTreeMap;

use proto::id::{PeerId, StreamId};
use proto::signal::Source;

use super::settle::{limits_of, redundant};
use super::{Engine, Handle};
use crate::ids::SlabId;
use crate::member::{Member, Track};
use crate::placement::Workers;
use crate::policy::{Settings, Shares};
use crate::quality::Link;
use crate::room::Room;
use crate::snapshot::LinkIds;

impl Engine {
    /// Whether there is anybody whose link may be worth a report.
    pub fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Whose links are to be reported: of those who are connected and not alone, because nobody else would be shown it.
    pub fn links(&self) -> Vec<LinkIds> {
        let rooms = self.rooms.values().map(|hosted| &hosted.room).filter(|room| room.members().len() > 1);
        let connected = |room: &'_ Room| {
            let several = room.tracks_in_several();
            let members = room.members().iter().filter(|member| self.is_connected(member.peer));
            members.map(|member| link_ids(member, &several)).collect::<Vec<_>>()
        };
        rooms.flat_map(connected).collect()
    }

    fn is_connected(&self, peer: PeerId) -> bool {
        self.peers.get(&Handle::of(peer)).is_some_and(|peer| peer.transport.is_connected())
    }

    /// Judges links, and notes the rooms that do not know of it yet.
    pub(super) fn links_reported(&mut self, links: &[(PeerId, Link)]) {
        for (peer, link) in links {
            let Some(name) = self.peers.get(&Handle::of(*peer)).map(|peer| peer.room.clone()) else { continue };
            let settings = self.settings_of(&name);
            let Engine { rooms, workers, .. } = self;
            let Some(hosted) = rooms.get_mut(&name) else { continue };
            let count = hosted.room.members().len();
            let Some(member) = hosted.room.member_mut(*peer) else { continue };
            let is_lost = is_lost(member, workers);
            member.judge.report(link, is_lost);
            let has_room = has_room(member, count, &settings);
            let has_changed = member.redundancy.report(link, has_room);
            let has_news = has_changed && redundant(member, workers).is_some();
            if !hosted.roster.knows_quality_of(member) {
                self.qualities_changed(&name);
            }
            if has_news {
                self.peer_changed(Handle::of(*peer));
            }
        }
    }

    /// A worker sees that packets of a peer are being lost: its audio is to have redundancy before a report says so.
    pub(super) fn loses(&mut self, handle: Handle) {
        let Some(name) = self.room_name(handle).cloned() else { return };
        let settings = self.settings_of(&name);
        let Engine { rooms, workers, .. } = self;
        let Some(room) = rooms.get_mut(&name).map(|hosted| &mut hosted.room) else { return };
        let count = room.members().len();
        // Nobody is reported on who is alone, and nobody hears it.
        let Some(member) = room.member_mut(handle.peer).filter(|_| count > 1) else { return };
        let has_room = has_room(member, count, &settings);
        if member.redundancy.loses(has_room) && redundant(member, workers).is_some() {
            self.peer_changed(handle);
        }
    }
}

/// Whether a member's share of the room's bandwidth holds its audio with redundancy.
fn has_room(member: &Member, count: usize, settings: &Settings) -> bool {
    let Shares { send, audio, .. } = limits_of(member, count, settings);
    send >= REDUNDANT_SHARE * audio
}

/// How often a member's share of the room's bandwidth holds its audio, at the least, if that is sent with redundancy: twice, and as much
/// for video.
const REDUNDANT_SHARE: u32 = 4;

/// What a member sends and receives; `several` are the tracks that come in several encodings.
fn link_ids(member: &Member, several: &BTreeMap<StreamId, &Track>) -> LinkIds {
    let streams_of = |carried: StreamId| match several.get(&carried) {
        Some(track) => track.streams().collect(),
        None => vec![carried],
    };
    let slots = member.slots.iter().filter_map(|slot| Some((slot.slot, slot.kind, streams_of(slot.carries?))));
    LinkIds {
        peer: member.peer,
        streams: member.published().flat_map(|track| track.streams()).collect(),
        slots: slots.collect(),
    }
}

/// Whether nothing comes from a member, or nothing of all the microphones and cameras that it says are on. A screen that stands still
/// sends nothing.
fn is_lost(member: &Member, workers: &Workers) -> bool {
    let Some(plan) = workers.get(&member.peer.worker()).map(|worker| &worker.plan) else { return false };
    let of_person = |track: &&Track| track.is_active && matches!(track.source, Source::Microphone | Source::Camera);
    let mut live = member.published().filter(of_person).peekable();
    let is_mute = live.peek().is_some() && live.all(|track| track.is_silent(plan));
    plan.is_peer_silent(member.peer) || is_mute
}
