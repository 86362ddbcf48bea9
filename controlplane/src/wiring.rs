//! What workers carry so that each slot gets the track that is assigned to it.
//!
//! A room says which stream each slot should carry ([`crate::room`]). Here that becomes the desired state of the workers
//! ([`Plan`]): a route where stream and slot are on one worker; else the stream is handed on to the slot's worker, by a tap
//! where it comes in and a mirror where it goes out, one pair for each stream and receiving worker, and a route leads from
//! the mirror. [`peer`] opens and closes the transports, streams and slots themselves.

mod peer;
mod stream;

use std::collections::BTreeMap;

use proto::id::{PeerId, RouteId, SlotId, StreamId, TapId};
use proto::plane::{MirrorOpen, RouteCodec, RouteOpen, StreamCodec, StreamEncoding, TapOpen};

pub(crate) use self::peer::{check_subsequent, close_peer, open_peer};
use crate::ids::SlabId;
use crate::member::{Format, Formats, Member, Slot, Track, format_of};
use crate::placement::{Workers, plan_of};
use crate::reconcile::Plan;
use crate::room::Room;

/// Where a stream goes from the worker that receives it. In this order, because a route may need the mirror.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Target {
    /// To another worker of this edge.
    Worker(u16),
    /// Into a slot, wherever it is.
    Slot(SlotId),
}

/// How it goes there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leg {
    /// By a tap on the stream's worker, and a mirror on the other.
    Relay { tap: TapId, mirror: StreamId },
    /// By a route on the slot's worker.
    Route(RouteId),
}

/// A stream, and one place where it goes.
type Key = (StreamId, Target);

/// Everything that is carried in one room.
#[derive(Default, Debug)]
pub(crate) struct Wiring {
    /// In the order of their keys. A list, because a tree of so many small things is half empty.
    legs: Vec<(Key, Leg)>,
}

impl Wiring {
    /// Opens what the assignments of a room need, and closes what they do not. Nothing is carried to members without keys:
    /// a route would only drop packets, and the keyframe that opens a picture would be spent on nobody.
    /// `remote`: what other edges are sent, each stream and the slot where it goes.
    pub(crate) fn update<'a>(
        &mut self,
        room: &'a Room,
        remote: impl Iterator<Item = (StreamId, &'a Slot)>,
        is_connected: impl Fn(PeerId) -> bool,
        workers: &mut Workers,
    ) {
        let mut wanted = wanted(room, is_connected);
        for (stream, slot) in remote {
            want(&mut wanted, stream, slot);
        }
        self.close_where(|key| !wanted.contains_key(key), workers);
        if wanted.len() == self.legs.len() {
            return;
        }
        let members = room.members().iter();
        let tracks = members.flat_map(|member| member.tracks.iter().map(|track| (member.peer, track)));
        let tracks = tracks.flat_map(|of_track| of_track.1.streams().map(move |stream| (stream, of_track)));
        let tracks: BTreeMap<StreamId, (PeerId, &Track)> = tracks.collect();
        for ((stream, target), slot) in wanted {
            if self.leg((stream, target)).is_some() {
                continue;
            }
            let Some(&(owner, track)) = tracks.get(&stream) else { continue };
            let leg = match (target, slot) {
                (Target::Worker(to), _) => open_relay(owner, track, stream, to, workers),
                (Target::Slot(_), None) => None,
                (Target::Slot(_), Some(slot)) => self.open_route(stream, &track.formats, slot, workers),
            };
            if let Some(leg) = leg {
                self.insert((stream, target), leg);
            }
        }
        self.legs.shrink_to_fit();
    }

    /// Closes everything: the last member has gone.
    pub(crate) fn close_all(mut self, workers: &mut Workers) {
        self.close_where(|_| true, workers);
    }

    /// A member has left: closes what came from it and what went to it.
    pub(crate) fn leave(&mut self, member: &Member, workers: &mut Workers) {
        let is_its_own = |&(stream, target): &Key| {
            member.tracks.iter().any(|track| track.is_of(stream))
                || matches!(target, Target::Slot(slot) if member.slots.iter().any(|own| own.slot == slot))
        };
        self.close_where(is_its_own, workers);
    }

    /// Slots are about to be closed: closes what went to them.
    pub(crate) fn leave_slots(&mut self, is_meant: impl Fn(SlotId) -> bool, workers: &mut Workers) {
        self.close_where(|(_, target)| matches!(*target, Target::Slot(slot) if is_meant(slot)), workers);
    }

    /// Whether a stream goes anywhere.
    pub(crate) fn carries(&self, stream: StreamId) -> bool {
        let at = self.legs.partition_point(|((of_leg, _), _)| *of_leg < stream);
        self.legs.get(at).is_some_and(|((of_leg, _), _)| *of_leg == stream)
    }

    /// A worker is gone, and not among `workers` any more: closes on the others what came from there or went there.
    pub(crate) fn lose_worker(&mut self, worker: usize, workers: &mut Workers) {
        let is_lost = |&(stream, target): &Key| {
            stream.worker() == worker
                || match target {
                    Target::Worker(to) => usize::from(to) == worker,
                    Target::Slot(slot) => slot.worker() == worker,
                }
        };
        self.close_where(is_lost, workers);
    }

    /// Takes over a mirror and the tap that feeds it, as they are installed, if the stream is of this room.
    pub(crate) fn adopt_relay(&mut self, room: &Room, mirror: &MirrorOpen, tap: &TapOpen, workers: &mut Workers) {
        let to = mirror.stream.worker();
        let Ok(target) = u16::try_from(to).map(Target::Worker) else { return };
        let key = (mirror.origin, target);
        if room.track(mirror.origin).is_none() || self.leg(key).is_some() {
            return;
        }
        if !plan_of(workers, to).is_some_and(|plan| plan.adopt_mirror(mirror)) {
            return;
        }
        if plan_of(workers, mirror.origin.worker()).is_some_and(|plan| plan.adopt_tap(tap)) {
            self.insert(key, Leg::Relay { tap: tap.tap, mirror: mirror.stream });
        } else if let Some(plan) = plan_of(workers, to) {
            plan.unwant_stream(mirror.stream);
        }
    }

    /// Takes over a route that is installed, if both of its ends are of this room and its slot is empty, or has another encoding
    /// of the same track: what is seen in it stays there.
    pub(crate) fn adopt_route(&mut self, room: &mut Room, route: &RouteOpen, plan: &mut Plan) {
        let stream = self.origin_of(route.stream);
        let Some(track) = room.track(stream).map(|(_, track)| track.stream) else { return };
        let mut slots = room.slots_mut();
        let is_free = |slot: &Slot| slot.carries.is_none_or(|carried| carried == track);
        if let Some(slot) = slots.find(|slot| slot.slot == route.slot && is_free(slot))
            && plan.adopt_route(route)
        {
            slot.carries = Some(track);
            self.insert((stream, Target::Slot(slot.slot)), Leg::Route(route.route));
        }
    }

    /// The same of a route that leads to another edge, whose slot carries one stream and no other.
    pub(crate) fn adopt_route_remote(&mut self, room: &Room, route: &RouteOpen, plan: &mut Plan) {
        let stream = self.origin_of(route.stream);
        if room.track(stream).is_some() && plan.adopt_route(route) {
            self.insert((stream, Target::Slot(route.slot)), Leg::Route(route.route));
        }
    }

    /// The stream that a route starts from, where it comes in: the route may start from its mirror.
    fn origin_of(&self, here: StreamId) -> StreamId {
        let mirrored = self.legs.iter().find_map(|((stream, _), leg)| match leg {
            Leg::Relay { mirror, .. } if *mirror == here => Some(*stream),
            _ => None,
        });
        mirrored.unwrap_or(here)
    }

    /// Opens the route into a slot from where the stream is on the slot's worker.
    fn open_route(&self, stream: StreamId, formats: &Formats, slot: &Slot, workers: &mut Workers) -> Option<Leg> {
        let worker = slot.slot.worker();
        let relay = u16::try_from(worker).ok().and_then(|worker| self.leg((stream, Target::Worker(worker))));
        let here = match relay {
            Some(Leg::Relay { mirror, .. }) => mirror,
            _ if stream.worker() == worker => stream,
            _ => return None,
        };
        let plan = plan_of(workers, worker)?;
        let received = format_of(&slot.formats, formats.0.codec);
        let route = plan.want_route(|route| RouteOpen {
            route,
            stream: here,
            slot: slot.slot,
            pt: received.map_or(0, |format| format.pt),
            rtx_pt: received.map_or(0, |format| format.rtx_pt),
            red_pt: received.filter(|format| format.rtx_pt == format.pt).map_or(0, |_| slot.red_pt),
        })?;
        let second = formats.1.and_then(|second| format_of(&slot.formats, second.codec));
        if let Some(Format { codec, pt, rtx_pt }) = second {
            plan.want(RouteCodec { route, codec, pt, rtx_pt });
        }
        Some(Leg::Route(route))
    }

    fn leg(&self, key: Key) -> Option<Leg> {
        let at = self.legs.binary_search_by_key(&key, |(of_leg, _)| *of_leg).ok()?;
        Some(self.legs[at].1)
    }

    fn insert(&mut self, key: Key, leg: Leg) {
        match self.legs.binary_search_by_key(&key, |(of_leg, _)| *of_leg) {
            Ok(at) => self.legs[at].1 = leg,
            Err(at) => self.legs.insert(at, (key, leg)),
        }
    }

    fn close_where(&mut self, is_over: impl Fn(&Key) -> bool, workers: &mut Workers) {
        self.legs.retain(|(key, leg)| {
            let is_over = is_over(key);
            if is_over {
                close(*leg, workers);
            }
            !is_over
        });
    }
}

fn close(leg: Leg, workers: &mut Workers) {
    match leg {
        Leg::Relay { tap, mirror } => {
            if let Some(plan) = plan_of(workers, tap.worker()) {
                plan.unwant_tap(tap);
            }
            if let Some(plan) = plan_of(workers, mirror.worker()) {
                plan.unwant_stream(mirror);
            }
        }
        Leg::Route(route) => {
            if let Some(plan) = plan_of(workers, route.worker()) {
                plan.unwant_route(route);
            }
        }
    }
}

/// Where the streams of a room should go, and for slots the slot. Of a track that comes in several encodings each goes there, and
/// the workers choose which of them is sent.
fn wanted(room: &Room, is_connected: impl Fn(PeerId) -> bool) -> BTreeMap<Key, Option<&Slot>> {
    let in_several = room.tracks_in_several();
    let mut wanted = BTreeMap::new();
    for slot in room.members().iter().filter(|member| is_connected(member.peer)).flat_map(|member| &member.slots) {
        let Some(carried) = slot.carries else { continue };
        let track = in_several.get(&carried);
        let only = track.is_none().then_some(carried);
        for stream in only.into_iter().chain(track.into_iter().flat_map(|track| track.streams())) {
            want(&mut wanted, stream, slot);
        }
    }
    wanted
}

/// A stream goes into a slot, over the slot's worker.
fn want<'a>(wanted: &mut BTreeMap<Key, Option<&'a Slot>>, stream: StreamId, slot: &'a Slot) {
    let worker = slot.slot.worker();
    if let Some(worker) = u16::try_from(worker).ok().filter(|_| stream.worker() != worker) {
        wanted.insert((stream, Target::Worker(worker)), None);
    }
    wanted.insert((stream, Target::Slot(slot.slot)), Some(slot));
}

/// Has a stream of a track of `publisher` handed on to another worker; `None` if a table is full.
fn open_relay(publisher: PeerId, track: &Track, origin: StreamId, target: u16, workers: &mut Workers) -> Option<Leg> {
    let to = usize::from(target);
    let (Format { codec, pt, rtx_pt }, second) = track.formats;
    let from = origin.worker();
    let worker = u16::try_from(from).ok()?;
    let plan = plan_of(workers, to)?;
    let rtx_pt = if codec.is_video() { rtx_pt } else { 0 }; // Audio comes again as itself.
    let mirror = plan.want_mirror(|stream| MirrorOpen { stream, worker, origin, publisher, pt, rtx_pt, codec })?;
    if let Some(Format { codec, pt, rtx_pt }) = second {
        plan.want(StreamCodec { stream: mirror, codec, pt, rtx_pt });
    }
    let place = track.encodings.iter().position(|encoding| encoding.stream == origin);
    if let Some(place) = place {
        let (track, rid) = (track.stream, track.encodings[place].rid);
        plan.want(StreamEncoding { stream: mirror, track, place: place as u8, rid });
    }
    let open = |tap| TapOpen { tap, stream: origin, worker: target, mirror };
    match plan_of(workers, from).and_then(|plan| plan.want_tap(open)) {
        Some(tap) => Some(Leg::Relay { tap, mirror }),
        None => {
            plan_of(workers, to)?.unwant_stream(mirror);
            None
        }
    }
}
