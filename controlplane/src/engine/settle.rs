//! What has changed becomes assignments, wiring and signals, once for each room, however many inputs have changed it.
//!
//! Code that changes something notes it by [`Engine::room_changed`], [`Engine::slots_changed`], [`Engine::tracks_changed`] or
//! [`Engine::peer_changed`], in whatever order; nothing is computed or told then. It is settled before the next output is
//! taken: a driver gives the engine all inputs that wait and then takes the outputs, so what a crowd does at once is settled once.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{PeerId, StreamId};
use proto::plane::{PeerRate, StreamRate};
use proto::signal::{Kind, PausedEncodings, PeerState, RatedEncoding, ServerSignal};

use super::{Engine, Handle, Hosted, Output, absence};
use crate::ids::{SlabId, SocketId};
use crate::member::{Member, Track};
use crate::peer::Peer;
use crate::placement::{Workers, plan_of};
use crate::policy::{Ceiling, Settings, Shares, kind_of};
use crate::room::Room;
use crate::shown::Videos;
use crate::view::{Desired, EncodingsWanted};

/// What has changed since the last input was settled.
#[derive(Default)]
pub(super) struct Changes {
    /// Rooms, and what of them.
    rooms: BTreeMap<String, RoomChanges>,
    /// Peers of which no more has changed than how far their transport is.
    peers: BTreeSet<Handle>,
    /// Answers that come after what they cause.
    answers: Vec<(SocketId, ServerSignal)>,
}

/// What has changed in a room.
#[derive(Default)]
struct RoomChanges {
    /// Whether everybody is to be told everything that is new.
    concerns_all: bool,
    assignment: Assignment,
    /// Whose tracks are on or off.
    tracks_of: BTreeSet<PeerId>,
    /// Whether connections are better or worse than was told.
    has_qualities: bool,
    /// Who shows what it receives in another way.
    shown_by: BTreeSet<PeerId>,
    /// Whether somebody began or ceased to speak, or it is time to look at who does.
    has_voices: bool,
}

/// Whether slots are to be assigned anew.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Assignment {
    #[default]
    Stays,
    /// If it goes by what has changed: tracks are on or off, or silent.
    OfTracks,
    /// Members, slots, rights or connections have changed.
    OfSlots,
}

impl Engine {
    /// Something has changed that clients of a room are told: who is in it, or what holds in it.
    pub(super) fn room_changed(&mut self, name: &str) {
        self.note(name).concerns_all = true;
    }

    /// Something has changed by which tracks are assigned to slots, or carried: members, slots, rights, connections.
    pub(super) fn slots_changed(&mut self, name: &str) {
        let changes = self.note(name);
        (changes.concerns_all, changes.assignment) = (true, Assignment::OfSlots);
    }

    /// A peer's tracks are on or off, and the same ones as before.
    pub(super) fn tracks_changed(&mut self, handle: Handle) {
        if let Some(name) = self.room_name(handle).cloned() {
            let changes = self.note(&name);
            changes.assignment = changes.assignment.max(Assignment::OfTracks);
            changes.tracks_of.insert(handle.peer);
        }
    }

    /// Connections in a room are better or worse than was told.
    pub(super) fn qualities_changed(&mut self, name: &str) {
        self.note(name).has_qualities = true;
    }

    /// A peer shows what it receives in another way.
    pub(super) fn shown_changed(&mut self, handle: Handle) {
        if let Some(name) = self.peers.get(&handle).map(|peer| peer.room.clone()) {
            self.note(&name).shown_by.insert(handle.peer);
        }
    }

    /// A peer has pinned something else. It matters only if not everything is received.
    pub(super) fn pins_changed(&mut self, handle: Handle) {
        if let Some(name) = self.peers.get(&handle).map(|peer| peer.room.clone()) {
            self.preference_changed(&name);
        }
    }

    /// Somebody in a room began or ceased to speak, or it is time to look at who does.
    pub(super) fn voices_changed(&mut self, name: &str) {
        self.note(name).has_voices = true;
    }

    /// Somebody in a room is silent, or not any more. It matters only if slots are short.
    pub(super) fn preference_changed(&mut self, name: &str) {
        if self.room(name).is_some_and(Room::is_short) {
            let changes = self.note(name);
            changes.assignment = changes.assignment.max(Assignment::OfTracks);
        }
    }

    /// A peer's transport is further, or its media path is silent or not any more.
    pub(super) fn peer_changed(&mut self, handle: Handle) {
        self.changes.peers.insert(handle);
    }

    /// Answers a client after everything that the same input causes.
    pub(super) fn answer_last(&mut self, socket: SocketId, signal: ServerSignal) {
        self.changes.answers.push((socket, signal));
    }

    fn note(&mut self, name: &str) -> &mut RoomChanges {
        self.changes.rooms.entry(name.to_owned()).or_default()
    }

    /// Brings workers and clients up to date with everything that was noted.
    pub(super) fn settle(&mut self) {
        let Changes { rooms, peers, answers } = std::mem::take(&mut self.changes);
        for (name, changes) in rooms {
            let RoomChanges { concerns_all, mut assignment, tracks_of, has_qualities, shown_by, has_voices } = changes;
            let voices = self.look_at_voices(&name, has_voices, concerns_all || !tracks_of.is_empty());
            let has_voices = voices.has_moved || voices.has_other_dominant;
            if has_voices && self.room(&name).is_some_and(Room::is_short) {
                assignment = assignment.max(Assignment::OfTracks);
            }
            // Not before everything that is installed is adopted: until then nobody knows what the slots carry.
            let is_assigned = assignment != Assignment::Stays && self.is_ready();
            let has_moved = is_assigned && self.assign(&name, assignment);
            match has_moved || concerns_all {
                true => self.tell_room(&name),
                false => self.tell_tracks(&name, &tracks_of),
            }
            if has_qualities {
                self.tell_qualities(&name);
            }
            if voices.has_news {
                self.tell_speakers(&name);
            }
            if concerns_all || !tracks_of.is_empty() || has_qualities {
                self.say_members(&name);
            }
            if is_assigned {
                self.want_in(&name);
            }
            let all = is_assigned || voices.has_other_dominant;
            if all || !shown_by.is_empty() {
                self.show(&name, |peer| all || shown_by.contains(&peer));
            }
        }
        for handle in peers {
            if self.is_elsewhere(handle) {
                self.want(handle);
            }
            self.tell_state(handle);
        }
        for (socket, signal) in answers {
            self.send(socket, signal);
        }
    }

    /// Assigns a room's tracks to its slots, and has that carried. Whether a slot carries something else now.
    fn assign(&mut self, name: &str, assignment: Assignment) -> bool {
        let videos_max = self.settings_of(name).videos_max as usize;
        let Engine { rooms, peers, workers, sockets, .. } = self;
        let Some(Hosted { room, wiring, speakers, remote, .. }) = rooms.get_mut(name) else { return false };
        let absence = absence::of_room(room, speakers, workers, sockets);
        let only_tracks = assignment == Assignment::OfTracks;
        let has_moved = room.assign(&absence, only_tracks, videos_max);
        if only_tracks && !has_moved {
            return false;
        }
        let is_connected = |peer| peers.get(&Handle::of(peer)).is_some_and(|peer| peer.transport.is_connected());
        wiring.update(room, remote.carried(room), is_connected, workers);
        has_moved
    }

    /// Tells everybody in a room how the tracks of these members are now, if they do not know it, and them what it means for them.
    fn tell_tracks(&mut self, name: &str, of: &BTreeSet<PeerId>) {
        let settings = self.settings_of(name);
        let Engine { rooms, peers, workers, sockets, outputs, .. } = self;
        let Some(Hosted { room, roster, .. }) = rooms.get_mut(name) else { return };
        let changes = roster.update(of.iter().filter_map(|&peer| room.member(peer)));
        if changes.is_empty() && of.is_empty() {
            return;
        }
        let (count, video) = (room.members().len(), room.video());
        for member in room.members() {
            let handle = Handle::of(member.peer);
            let is_own = of.contains(&member.peer);
            if is_own && member.elsewhere.is_none() {
                let limits = limits_of(member, count, &settings);
                limit_by_transport(member, limits, workers);
                police(member, limits, &settings, workers);
            }
            let Some((socket, view)) = sockets.view_mut(handle) else { continue };
            let tell = |signal| outputs.push_back(Output::Signal { socket, signal });
            match peers.get(&handle).filter(|_| is_own || !view.knows_roster()) {
                None => view.update_tracks(member.peer, &changes, tell),
                Some(peer) => {
                    let state = state_of(handle, peer, workers);
                    let limits = limits_of(member, count, &settings);
                    let (peers_max, changes) = (settings.peers_max, changes.as_slice());
                    let encodings = encodings_of(member, workers);
                    let desired = Desired {
                        name,
                        room,
                        peers_max,
                        changes,
                        member,
                        state,
                        limits,
                        video,
                        encodings: encodings.as_ref(),
                        redundant: redundant(member, workers),
                    };
                    view.update(&desired, tell);
                }
            }
        }
    }

    /// Tells everybody in a room what they do not know yet, and limits those who get no signals by their transport.
    fn tell_room(&mut self, name: &str) {
        let settings = self.settings_of(name);
        let Engine { rooms, peers, workers, sockets, outputs, .. } = self;
        let Some(Hosted { room, roster, .. }) = rooms.get_mut(name) else { return };
        let room: &Room = room;
        let changes = roster.update(room.members());
        let (count, video) = (room.members().len(), room.video());
        for member in room.members() {
            let handle = Handle::of(member.peer);
            let Some(peer) = peers.get(&handle) else { continue };
            let limits = limits_of(member, count, &settings);
            limit_by_transport(member, limits, workers);
            police(member, limits, &settings, workers);
            let Some((socket, view)) = sockets.view_mut(handle) else { continue };
            let state = state_of(handle, peer, workers);
            let (peers_max, changes) = (settings.peers_max, changes.as_slice());
            let encodings = encodings_of(member, workers);
            let (encodings, redundant) = (encodings.as_ref(), redundant(member, workers));
            let desired =
                Desired { name, room, peers_max, changes, member, state, limits, video, encodings, redundant };
            view.update(&desired, |signal| outputs.push_back(Output::Signal { socket, signal }));
        }
    }

    /// Tells everybody in a room whose connections are better or worse than they know.
    fn tell_qualities(&mut self, name: &str) {
        let Engine { rooms, sockets, outputs, .. } = self;
        let Some(Hosted { room, roster, .. }) = rooms.get_mut(name) else { return };
        let Some(signal) = roster.update_qualities(room.members()) else { return };
        for member in room.members() {
            if let Some((socket, view)) = sockets.view_mut(Handle::of(member.peer))
                && view.knows_roster()
            {
                outputs.push_back(Output::Signal { socket, signal: signal.clone() });
            }
        }
    }

    /// Tells everybody in a room who speaks.
    fn tell_speakers(&mut self, name: &str) {
        let Engine { rooms, sockets, outputs, .. } = self;
        let Some(Hosted { room, .. }) = rooms.get_mut(name) else { return };
        let signal = room.who_speaks();
        for member in room.members() {
            if let Some((socket, view)) = sockets.view_mut(Handle::of(member.peer))
                && view.knows_roster()
            {
                outputs.push_back(Output::Signal { socket, signal: signal.clone() });
            }
        }
    }

    /// Tells workers how these members of a room show what is in their slots.
    fn show(&mut self, name: &str, concerns: impl Fn(PeerId) -> bool) {
        let Engine { rooms, workers, .. } = self;
        let Some(Hosted { room, speakers, .. }) = rooms.get_mut(name) else { return };
        let (videos, dominant) = (Videos::of(room), speakers.dominant());
        for member in room.members().iter().filter(|member| concerns(member.peer)) {
            if let Some(plan) = plan_of(workers, member.peer.worker()) {
                videos.show(member, |peer| Some(peer) == dominant, plan);
            }
        }
    }

    fn tell_state(&mut self, handle: Handle) {
        let encodings = self.member(handle).and_then(|member| encodings_of(member, &self.workers));
        let redundant = self.member(handle).and_then(|member| redundant(member, &self.workers));
        let Engine { peers, workers, sockets, outputs, .. } = self;
        let (Some(peer), Some((socket, view))) = (peers.get(&handle), sockets.view_mut(handle)) else { return };
        if let Some(signal) = view.update_state(state_of(handle, peer, workers)) {
            outputs.push_back(Output::Signal { socket, signal });
        }
        // Who was not told yet who is in the room is told everything soon, in its order.
        if let Some(signal) = encodings.filter(|_| view.knows_roster()).and_then(|e| view.update_encodings(Some(&e))) {
            outputs.push_back(Output::Signal { socket, signal });
        }
        if let Some(signal) = redundant.filter(|_| view.knows_roster()).and_then(|on| view.update_redundancy(on)) {
            outputs.push_back(Output::Signal { socket, signal });
        }
    }
}

/// How far a peer's transport is, as its client and REST are told.
pub(super) fn state_of(handle: Handle, peer: &Peer, workers: &Workers) -> PeerState {
    let is_silent = || workers.get(&handle.worker).is_some_and(|worker| worker.plan.is_peer_silent(handle.peer));
    match peer.transport.state() {
        PeerState::Connected if is_silent() => PeerState::Interrupted,
        state => state,
    }
}

/// Which encodings of a member's tracks nobody wants, and what the receivers of others have room for. `None`: no track of it comes in
/// several encodings.
fn encodings_of(member: &Member, workers: &Workers) -> Option<EncodingsWanted> {
    let plan = &workers.get(&member.peer.worker())?.plan;
    let mut tracks = member.published().filter(|track| !track.encodings.is_empty()).peekable();
    tracks.peek()?;
    let mut wanted = EncodingsWanted::default();
    for track in tracks {
        let idle = track.encodings.iter().filter(|encoding| plan.is_encoding_idle(encoding.stream));
        let rids: Vec<_> = idle.map(|encoding| encoding.rid.as_str().to_owned()).collect();
        if !rids.is_empty() {
            wanted.paused.push(PausedEncodings { mid: track.mid.clone(), rids });
        }
        wanted.rates.extend(track.encodings.iter().filter_map(|encoding| {
            let bps = plan.encoding_rate(encoding.stream)?;
            Some(RatedEncoding { mid: track.mid.clone(), rid: encoding.rid.as_str().to_owned(), bps })
        }));
    }
    Some(wanted)
}

/// Whether a member is to send its audio with redundancy. `None`: its answer has none.
pub(super) fn redundant(member: &Member, workers: &Workers) -> Option<bool> {
    let plan = &workers.get(&member.peer.worker())?.plan;
    let has_red = |track: &Track| plan.stream(track.stream).is_some_and(|(open, _)| open.red_pt != 0);
    member.published().any(has_red).then_some(member.redundancy.is_on())
}

/// A member's share of the bandwidth.
pub(super) fn limits_of(member: &Member, count: usize, settings: &Settings) -> Shares {
    settings.shares(count, member.live(Kind::Audio), member.live(Kind::Video), member.audio_answered())
}

/// Peers that ignore signals, or get none, are limited by REMB.
fn limit_by_transport(member: &Member, limits: Shares, workers: &mut Workers) {
    let Some(plan) = plan_of(workers, member.peer.worker()) else { return };
    let streams: Vec<StreamId> = member.tracks.iter().flat_map(|track| track.streams()).collect();
    let videos = member.live(Kind::Video).max(1) as u32;
    plan.limit(member.peer, streams.into_iter(), limits.video.saturating_mul(videos));
}

/// What a member may send at all, whatever it makes of signals and REMB.
fn police(member: &Member, limits: Shares, settings: &Settings, workers: &mut Workers) {
    let Some(plan) = plan_of(workers, member.peer.worker()) else { return };
    let Ceiling { bps, packets } = settings.peer_ceiling();
    plan.want_rate(PeerRate { peer: member.peer, bps_max: bps, packets_max: packets });
    for track in &member.tracks {
        let kind = kind_of(track.source);
        let Ceiling { bps, packets } = settings.track_ceiling(kind, limits, track.audio_bps);
        for stream in track.streams() {
            plan.want_rate(StreamRate { stream, bps_max: bps, packets_max: packets });
        }
    }
}
