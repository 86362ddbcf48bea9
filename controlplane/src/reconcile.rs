//! Desired state, installed state, and the commands that turn one into the other.
//!
//! The engine says what it wants by [`Plan::want`] and [`Plan::unwant`]; nothing is sent then. The driver pulls
//! the difference by [`Plan::reconcile`] as fast as the worker's command ring takes it. A join, a leave, a full
//! ring, lost events and the adoption of a predecessor's rooms all come down to the same difference.
//!
//! Both states are maps from a place to the command that fills it. What was sent counts as installed: the ring
//! loses nothing, and where the worker refuses, it says so. SRTP keys are sent once and forgotten: under keys
//! installed twice the SRTP index would start over, and a keystream would be used twice (RFC 3711 §9.1).

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{PeerId, RouteId, SlotId, StreamId, TapId};
use proto::plane::{
    Command, Commit, Describe, Direction, ExtensionIds, KEY_LEN_MAX, MirrorOpen, PeerClose, PeerIce, PeerKeys,
    PeerLimit, PeerOpen, RouteClose, RouteOpen, SALT_LEN_MAX, SlotClose, SlotOpen, StreamClose, StreamCodec,
    StreamOpen, TapClose, TapOpen, feedback,
};
use zeroize::Zeroize;

use crate::ids::Ids;

/// Commands of one batch, without its Commit. Bounds what a worker must hold staged.
pub(crate) const BATCH_LEN_MAX: usize = 512;

/// How often a worker's answer to Describe may come up short before what was heard is taken for the whole.
const DESCRIBE_TRIES_MAX: u32 = 4;

/// Kinds of places, in the order in which they are filled: each needs the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    Peer,
    Extensions,
    RxKeys,
    TxKeys,
    Limit,
    Stream,
    StreamCodec,
    Slot,
    Route,
    RouteCodec,
    Tap,
}

impl Class {
    const ALL: [Class; 11] = [
        Class::Peer,
        Class::Extensions,
        Class::RxKeys,
        Class::TxKeys,
        Class::Limit,
        Class::Stream,
        Class::StreamCodec,
        Class::Slot,
        Class::Route,
        Class::RouteCodec,
        Class::Tap,
    ];

    /// What goes with what fills a place of this kind, and has no close of its own.
    const fn parts(self) -> &'static [Class] {
        match self {
            Class::Peer => &[Class::Extensions, Class::RxKeys, Class::TxKeys, Class::Limit],
            Class::Stream => &[Class::StreamCodec],
            Class::Route => &[Class::RouteCodec],
            _ => &[],
        }
    }
}

/// One place in a worker's tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    class: Class,
    index: u32,
}

impl Place {
    const fn new(class: Class, index: u32) -> Self {
        Self { class, index }
    }

    /// The place that a command fills; `None` for commands that fill none.
    fn of(command: &Command) -> Option<Place> {
        Some(match command {
            Command::PeerOpen(c) => Place::new(Class::Peer, c.peer.index),
            Command::PeerExtensions(c) => Place::new(Class::Extensions, c.peer.index),
            Command::PeerKeys(c) => Place::keys(c.peer, c.direction),
            Command::PeerLimit(c) => Place::new(Class::Limit, c.peer.index),
            Command::StreamOpen(c) => Place::new(Class::Stream, c.stream.index),
            Command::StreamCodec(c) => Place::new(Class::StreamCodec, c.stream.index),
            Command::SlotOpen(c) => Place::new(Class::Slot, c.slot.index),
            Command::RouteOpen(c) => Place::new(Class::Route, c.route.index),
            Command::RouteCodec(c) => Place::new(Class::RouteCodec, c.route.index),
            Command::MirrorOpen(c) => Place::new(Class::Stream, c.stream.index),
            Command::TapOpen(c) => Place::new(Class::Tap, c.tap.index),
            Command::PeerClose(_)
            | Command::PeerIce(_)
            | Command::StreamClose(_)
            | Command::SlotClose(_)
            | Command::RouteClose(_)
            | Command::TapClose(_)
            | Command::Reset(_)
            | Command::Describe(_)
            | Command::Commit(_) => return None,
        })
    }

    const fn keys(peer: PeerId, direction: Direction) -> Place {
        match direction {
            Direction::Rx => Place::new(Class::RxKeys, peer.index),
            Direction::Tx => Place::new(Class::TxKeys, peer.index),
        }
    }
}

/// The command that empties what `open` filled. Extensions, keys and limits go with their peer, second codecs with their stream
/// or route.
fn close_of(open: &Command) -> Option<Command> {
    match open {
        Command::PeerOpen(c) => Some(PeerClose { peer: c.peer }.into()),
        Command::StreamOpen(c) => Some(StreamClose { stream: c.stream }.into()),
        Command::MirrorOpen(c) => Some(StreamClose { stream: c.stream }.into()),
        Command::TapOpen(c) => Some(TapClose { tap: c.tap }.into()),
        Command::SlotOpen(c) => Some(SlotClose { slot: c.slot }.into()),
        Command::RouteOpen(c) => Some(RouteClose { route: c.route }.into()),
        _ => None,
    }
}

/// What makes `desired` of `installed` without closing it: an open peer takes other ICE credentials as it stands.
fn change_of(installed: Option<&Command>, desired: Option<&Command>) -> Option<Command> {
    match (installed, desired) {
        (Some(Command::PeerOpen(before)), Some(Command::PeerOpen(now))) if before.peer == now.peer => {
            Some(PeerIce { peer: now.peer, ufrag: now.ufrag, pwd: now.pwd }.into())
        }
        _ => None,
    }
}

/// SRTP keys that are not sent yet.
struct Secret(PeerKeys);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.key.zeroize();
        self.0.salt.zeroize();
    }
}

/// Keys as both states remember them: that they are there, not what they are.
fn blank(keys: PeerKeys) -> PeerKeys {
    PeerKeys { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN_MAX], ..keys }
}

/// How much is known of what the worker has installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// No worker.
    Down,
    /// It is to be asked.
    Ask,
    /// Describe is sent; echoes come in.
    Asked,
    /// Known. The difference may be sent.
    Known,
}

/// Sizes of the tables of one worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Capacity {
    /// Peers.
    pub(crate) peers: usize,
    /// Streams of all of them, and mirrors of other workers' streams. As many may be handed on.
    pub(crate) streams: usize,
    /// Slots of all of them. A slot takes one route, so this bounds the routes too.
    pub(crate) slots: usize,
}

/// What one worker should have and what it has. It also issues the ids, so that whatever ends gives its id back.
pub(crate) struct Plan {
    peers: Ids,
    streams: Ids,
    slots: Ids,
    routes: Ids,
    taps: Ids,
    desired: BTreeMap<Place, Command>,
    installed: BTreeMap<Place, Command>,
    /// Where the two differ.
    different: BTreeSet<Place>,
    /// Boxed so that the one copy of a key does not move.
    secrets: BTreeMap<Place, Box<Secret>>,
    phase: Phase,
    /// Echoes since Describe.
    heard: BTreeMap<Place, Command>,
    heard_count: u64,
    tries: u32,
    batch: u64,
}

impl Plan {
    /// Nothing desired, and the worker of this number not there yet.
    pub(crate) fn new(worker: usize, capacity: Capacity, first_generation: u32) -> Self {
        let ids = |max| Ids::new(worker, max, first_generation);
        Self {
            peers: ids(capacity.peers),
            streams: ids(capacity.streams),
            slots: ids(capacity.slots),
            routes: ids(capacity.slots),
            taps: ids(capacity.streams),
            desired: BTreeMap::new(),
            installed: BTreeMap::new(),
            different: BTreeSet::new(),
            secrets: BTreeMap::new(),
            phase: Phase::Down,
            heard: BTreeMap::new(),
            heard_count: 0,
            tries: 0,
            batch: 0,
        }
    }

    /// Places whose desired state is not sent yet.
    pub(crate) fn pending(&self) -> usize {
        self.different.len()
    }

    /// Peers desired now.
    pub(crate) fn peer_count(&self) -> usize {
        self.peers.taken()
    }

    /// Whether there is room for one more peer with so many streams and slots.
    pub(crate) fn has_room(&self, streams: usize, slots: usize) -> bool {
        self.peers.left() > 0 && self.has_room_for(streams, slots)
    }

    /// Whether a peer that is there can have so many streams and slots more.
    pub(crate) fn has_room_for(&self, streams: usize, slots: usize) -> bool {
        self.streams.left() >= streams && self.slots.left() >= slots
    }

    /// The id of a new peer, or `None` when the table is full.
    pub(crate) fn issue_peer(&mut self) -> Option<PeerId> {
        self.peers.issue()
    }

    /// Desires a stream under a new id.
    pub(crate) fn want_stream(&mut self, open: impl FnOnce(StreamId) -> StreamOpen) -> Option<StreamId> {
        let id = self.streams.issue()?;
        self.want(open(id));
        Some(id)
    }

    /// Desires a slot under a new id.
    pub(crate) fn want_slot(&mut self, open: impl FnOnce(SlotId) -> SlotOpen) -> Option<SlotId> {
        let id = self.slots.issue()?;
        self.want(open(id));
        Some(id)
    }

    /// Desires a route under a new id.
    pub(crate) fn want_route(&mut self, open: impl FnOnce(RouteId) -> RouteOpen) -> Option<RouteId> {
        let id = self.routes.issue()?;
        self.want(open(id));
        Some(id)
    }

    /// Desires the mirror of another worker's stream under a new id.
    pub(crate) fn want_mirror(&mut self, open: impl FnOnce(StreamId) -> MirrorOpen) -> Option<StreamId> {
        let id = self.streams.issue()?;
        self.want(open(id));
        Some(id)
    }

    /// Desires that a stream is handed on, under a new id.
    pub(crate) fn want_tap(&mut self, open: impl FnOnce(TapId) -> TapOpen) -> Option<TapId> {
        let id = self.taps.issue()?;
        self.want(open(id));
        Some(id)
    }

    /// Desires what `open` opens. Keys are taken once; see the module's words.
    pub(crate) fn want(&mut self, open: impl Into<Command>) {
        let mut open = open.into();
        let place = Place::of(&open).expect("only what fills a place can be desired");
        if let Command::PeerKeys(keys) = &mut open {
            self.secrets.insert(place, Box::new(Secret(*keys)));
            keys.key.zeroize();
            keys.salt.zeroize();
        }
        self.desired.insert(place, open);
        self.compare(place);
    }

    /// Desires that a peer sends at most so much, bit/s, in those of these streams of it that take REMB; if none does,
    /// nothing is desired.
    pub(crate) fn limit(&mut self, peer: PeerId, mut streams: impl Iterator<Item = StreamId>, bps_max: u32) {
        let takes_remb = |stream: StreamId| {
            let open = self.desired.get(&Place::new(Class::Stream, stream.index));
            matches!(open, Some(Command::StreamOpen(open)) if open.feedback & feedback::REMB != 0)
        };
        if streams.any(takes_remb) {
            self.want(PeerLimit { peer, bps_max });
        }
    }

    /// The ICE credentials that are desired for a peer. Wanting others is an ICE restart.
    pub(crate) fn credentials(&self, peer: PeerId) -> Option<PeerOpen> {
        match self.desired.get(&Place::new(Class::Peer, peer.index)) {
            Some(Command::PeerOpen(open)) if open.peer == peer => Some(*open),
            _ => None,
        }
    }

    /// The header extension ids that are desired for a peer.
    pub(crate) fn extensions(&self, peer: PeerId) -> Option<ExtensionIds> {
        match self.desired.get(&Place::new(Class::Extensions, peer.index)) {
            Some(Command::PeerExtensions(extensions)) if extensions.peer == peer => Some(extensions.ids),
            _ => None,
        }
    }

    /// A stream as it is desired, and its second codec.
    pub(crate) fn stream(&self, stream: StreamId) -> Option<(StreamOpen, Option<StreamCodec>)> {
        let second = match self.desired.get(&Place::new(Class::StreamCodec, stream.index)) {
            Some(Command::StreamCodec(second)) => Some(*second),
            _ => None,
        };
        match self.desired.get(&Place::new(Class::Stream, stream.index)) {
            Some(Command::StreamOpen(open)) if open.stream == stream => Some((*open, second)),
            _ => None,
        }
    }

    /// A slot as it is desired.
    pub(crate) fn slot(&self, slot: SlotId) -> Option<SlotOpen> {
        match self.desired.get(&Place::new(Class::Slot, slot.index)) {
            Some(Command::SlotOpen(open)) if open.slot == slot => Some(*open),
            _ => None,
        }
    }

    /// Ends a peer. Its streams, slots and routes are to be ended before.
    pub(crate) fn unwant_peer(&mut self, peer: PeerId) {
        self.unwant(Place::new(Class::Peer, peer.index));
        self.peers.release(peer);
    }

    /// Ends a stream.
    pub(crate) fn unwant_stream(&mut self, stream: StreamId) {
        self.unwant(Place::new(Class::Stream, stream.index));
        self.streams.release(stream);
    }

    /// Ends the handing on of a stream.
    pub(crate) fn unwant_tap(&mut self, tap: TapId) {
        self.unwant(Place::new(Class::Tap, tap.index));
        self.taps.release(tap);
    }

    /// Ends a slot.
    pub(crate) fn unwant_slot(&mut self, slot: SlotId) {
        self.unwant(Place::new(Class::Slot, slot.index));
        self.slots.release(slot);
    }

    /// Ends a route.
    pub(crate) fn unwant_route(&mut self, route: RouteId) {
        self.unwant(Place::new(Class::Route, route.index));
        self.routes.release(route);
    }

    /// Ends what fills a place, with its parts.
    fn unwant(&mut self, place: Place) {
        for class in std::iter::once(&place.class).chain(place.class.parts()) {
            let place = Place::new(*class, place.index);
            self.secrets.remove(&place);
            self.desired.remove(&place);
            self.compare(place);
        }
    }

    fn compare(&mut self, place: Place) {
        if self.desired.get(&place) == self.installed.get(&place) {
            self.different.remove(&place);
        } else {
            self.different.insert(place);
        }
    }

    /// Appends at most `space` commands that lead from installed to desired, the last of them a Commit. Closes come
    /// first and in reverse, so that nothing is closed under something that stands on it.
    pub(crate) fn reconcile(&mut self, space: usize, out: &mut Vec<Command>) {
        let Some(room) = space.min(BATCH_LEN_MAX).checked_sub(1).filter(|&room| room > 0) else { return };
        let start = out.len();
        match self.phase {
            Phase::Down | Phase::Asked => return,
            Phase::Ask => {
                self.phase = Phase::Asked;
                self.heard.clear();
                self.heard_count = 0;
                out.push(Describe {}.into());
            }
            Phase::Known => {
                let end = start + room;
                self.close(end, out);
                self.open(end, out);
            }
        }
        if out.len() > start {
            self.batch += 1;
            out.push(Commit { batch: self.batch }.into());
        }
    }

    fn close(&mut self, end: usize, out: &mut Vec<Command>) {
        let places: Vec<Place> = self.different.iter().rev().copied().collect();
        for place in places {
            let Some(installed) = self.installed.get(&place) else { continue };
            if change_of(Some(installed), self.desired.get(&place)).is_some() {
                continue;
            }
            if out.len() == end {
                return;
            }
            // Parts have no close of their own: they go when what they belong to does, just below.
            let Some(close) = close_of(installed) else { continue };
            out.push(close);
            self.installed.remove(&place);
            self.compare(place);
            for class in place.class.parts() {
                let place = Place::new(*class, place.index);
                self.installed.remove(&place);
                self.compare(place);
            }
        }
    }

    fn open(&mut self, end: usize, out: &mut Vec<Command>) {
        let is_open = |place: &Place| self.desired.contains_key(place);
        let places: Vec<Place> = self.different.iter().copied().filter(is_open).collect();
        for place in places {
            if out.len() == end {
                return;
            }
            let desired = self.desired[&place];
            match desired {
                // Keys that were sent before and are gone are not sent again: see `broken_peers`.
                Command::PeerKeys(_) => match self.secrets.remove(&place) {
                    Some(secret) => out.push(secret.0.into()),
                    None => continue,
                },
                open => out.push(change_of(self.installed.get(&place), Some(&open)).unwrap_or(open)),
            }
            self.installed.insert(place, desired);
            self.compare(place);
        }
    }

    /// A worker is linked: it is asked what it has.
    pub(crate) fn link(&mut self) {
        self.phase = Phase::Ask;
        self.tries = 0;
        self.installed.clear();
        self.different = self.desired.keys().copied().collect();
    }

    /// Events were lost: ask again. What is desired stands meanwhile.
    pub(crate) fn resync(&mut self) {
        if self.phase != Phase::Down {
            self.phase = Phase::Ask;
        }
    }

    /// The worker says that something is installed.
    pub(crate) fn echo(&mut self, command: Command) {
        if self.phase == Phase::Asked
            && let Some(place) = Place::of(&command)
        {
            let shape = match command {
                Command::PeerKeys(keys) => blank(keys).into(),
                other => other,
            };
            self.heard_count += 1;
            self.heard.insert(place, shape);
        }
    }

    /// The worker says that this was all. Returns whether the installed state is known now.
    pub(crate) fn described(&mut self, count: u64) -> bool {
        if self.phase != Phase::Asked {
            return false;
        }
        if self.heard_count != count && self.tries < DESCRIBE_TRIES_MAX {
            self.tries += 1;
            self.phase = Phase::Ask;
            return false;
        }
        self.tries = 0;
        self.phase = Phase::Known;
        self.installed = std::mem::take(&mut self.heard);
        let places: BTreeSet<Place> = self.installed.keys().chain(self.desired.keys()).copied().collect();
        self.different.clear();
        for place in places {
            self.compare(place);
        }
        true
    }

    /// Peers whose keys were sent and are not there: they cannot be mended, only begun anew.
    pub(crate) fn broken_peers(&self) -> Vec<PeerId> {
        let is_lost = |place: &&Place| {
            matches!(place.class, Class::RxKeys | Class::TxKeys)
                && !self.installed.contains_key(place)
                && !self.secrets.contains_key(place)
        };
        let mut peers: Vec<PeerId> = self
            .different
            .iter()
            .filter(is_lost)
            .filter_map(|place| match self.desired.get(place) {
                Some(Command::PeerKeys(keys)) => Some(keys.peer),
                _ => None,
            })
            .collect();
        peers.sort();
        peers.dedup();
        peers
    }

    /// The peer that a refused command belongs to, if the command opened something that is still desired.
    pub(crate) fn owner_of_refused(&self, tag: u16, index: u32) -> Option<PeerId> {
        Class::ALL
            .iter()
            .filter_map(|&class| self.desired.get(&Place::new(class, index)))
            .find(|command| {
                command.tag() == tag || change_of(Some(command), Some(command)).is_some_and(|c| c.tag() == tag)
            })
            .and_then(|command| self.owner(command))
    }

    fn owner(&self, command: &Command) -> Option<PeerId> {
        match command {
            Command::PeerOpen(c) => Some(c.peer),
            Command::PeerExtensions(c) => Some(c.peer),
            Command::PeerKeys(c) => Some(c.peer),
            Command::PeerLimit(c) => Some(c.peer),
            Command::StreamOpen(c) => Some(c.peer),
            Command::MirrorOpen(c) => Some(c.publisher),
            Command::TapOpen(c) => self.owner(self.desired.get(&Place::new(Class::Stream, c.stream.index))?),
            Command::SlotOpen(c) => Some(c.peer),
            Command::RouteOpen(c) => match self.desired.get(&Place::new(Class::Slot, c.slot.index)) {
                Some(Command::SlotOpen(slot)) => Some(slot.peer),
                _ => None,
            },
            Command::StreamCodec(c) => self.owner(self.desired.get(&Place::new(Class::Stream, c.stream.index))?),
            Command::RouteCodec(c) => self.owner(self.desired.get(&Place::new(Class::Route, c.route.index))?),
            _ => None,
        }
    }

    /// Desires a peer as it is installed, with the streams and slots named. `false`, and nothing is desired, unless
    /// all of it is there and both keys are.
    pub(crate) fn adopt_peer(&mut self, peer: PeerId, streams: &[StreamId], slots: &[SlotId]) -> bool {
        let mut places = vec![
            Place::new(Class::Peer, peer.index),
            Place::new(Class::RxKeys, peer.index),
            Place::new(Class::TxKeys, peer.index),
        ];
        places.extend(streams.iter().map(|stream| Place::new(Class::Stream, stream.index)));
        places.extend(slots.iter().map(|slot| Place::new(Class::Slot, slot.index)));
        let is_there = |place: &Place| match self.installed.get(place) {
            Some(Command::StreamOpen(c)) => c.peer == peer && streams.contains(&c.stream),
            Some(Command::SlotOpen(c)) => c.peer == peer && slots.contains(&c.slot),
            Some(Command::MirrorOpen(_)) => false,
            Some(other) => self.owner(other) == Some(peer),
            None => false,
        };
        if !places.iter().all(is_there) || !self.adopt_ids(peer, streams, slots) {
            return false;
        }
        places.extend([Class::Extensions, Class::Limit].map(|class| Place::new(class, peer.index)));
        places.extend(streams.iter().map(|stream| Place::new(Class::StreamCodec, stream.index)));
        for place in places {
            if let Some(&command) = self.installed.get(&place) {
                self.desired.insert(place, command);
                self.compare(place);
            }
        }
        true
    }

    /// All of the ids or none: the journal is input, and the tables may be smaller than those of who wrote it.
    fn adopt_ids(&mut self, peer: PeerId, streams: &[StreamId], slots: &[SlotId]) -> bool {
        if !self.peers.adopt_all(&[peer]) {
            return false;
        }
        if !self.streams.adopt_all(streams) {
            self.peers.release(peer);
            return false;
        }
        if !self.slots.adopt_all(slots) {
            self.peers.release(peer);
            streams.iter().for_each(|&stream| self.streams.release(stream));
            return false;
        }
        true
    }

    /// Desires a route as it is installed. `false` if its id is not to be had.
    pub(crate) fn adopt_route(&mut self, route: &RouteOpen) -> bool {
        let is_free = self.routes.adopt(route.route);
        if is_free {
            self.want(*route);
            if let Some(&second) = self.installed.get(&Place::new(Class::RouteCodec, route.route.index)) {
                self.want(second);
            }
        }
        is_free
    }

    /// Desires a mirror as it is installed. `false` if its id is not to be had.
    pub(crate) fn adopt_mirror(&mut self, mirror: &MirrorOpen) -> bool {
        let is_free = self.streams.adopt(mirror.stream);
        if is_free {
            self.want(*mirror);
            if let Some(&second) = self.installed.get(&Place::new(Class::StreamCodec, mirror.stream.index)) {
                self.want(second);
            }
        }
        is_free
    }

    /// Desires a tap as it is installed. `false` if its id is not to be had.
    pub(crate) fn adopt_tap(&mut self, tap: &TapOpen) -> bool {
        let is_free = self.taps.adopt(tap.tap);
        if is_free {
            self.want(*tap);
        }
        is_free
    }

    /// What is installed, wanted or not, as far as `pick` wants it.
    pub(crate) fn installed<T>(&self, pick: impl Fn(&Command) -> Option<T>) -> Vec<T> {
        self.installed.values().filter_map(pick).collect()
    }

    /// Whether the worker has said what it has.
    pub(crate) fn is_known(&self) -> bool {
        self.phase == Phase::Known
    }
}

#[cfg(test)]
#[path = "../tests/world/worker.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod worker;

#[cfg(test)]
mod tests {
    use super::worker::Worker;
    use super::*;
    use proptest::prelude::*;
    use proto::id::Mid;
    use proto::plane::{
        Codec, Event, PWD_LEN, PeerExtensions, Report, RouteCodec, SrtpProfile, StreamCodec, UFRAG_LEN,
    };

    const CAPACITY: Capacity = Capacity { peers: 4, streams: 8, slots: 8 };

    fn linked() -> (Plan, Worker) {
        let (mut plan, mut worker) = (Plan::new(0, CAPACITY, 1), Worker::default());
        plan.link();
        converge(&mut plan, &mut worker, 100);
        (plan, worker)
    }

    /// Pulls and applies until nothing is left; returns how many pulls it took.
    fn converge(plan: &mut Plan, worker: &mut Worker, space: usize) -> usize {
        for pulls in 0.. {
            let mut commands = Vec::new();
            plan.reconcile(space, &mut commands);
            if commands.is_empty() {
                assert_eq!(plan.pending(), 0);
                return pulls;
            }
            assert!(commands.len() <= space && matches!(commands.last(), Some(Command::Commit(_))));
            for command in commands {
                hear(plan, worker.apply(command));
            }
        }
        unreachable!("the difference shrinks with each pull")
    }

    fn hear(plan: &mut Plan, reports: Vec<Report>) {
        for report in reports {
            match report {
                Report::Echo(command) => plan.echo(command),
                Report::Event(Event::Described(described)) => {
                    plan.described(described.count);
                }
                Report::Event(_) => {}
            }
        }
    }

    #[test]
    fn other_credentials_change_a_peer_and_close_nothing() {
        let (mut plan, mut worker) = linked();
        let (peer, ..) = want_peer(&mut plan, 1);
        let restart = |plan: &mut Plan, fill: u8| {
            plan.want(PeerOpen { peer, ufrag: [fill; UFRAG_LEN], pwd: [fill; PWD_LEN] });
        };
        restart(&mut plan, b'0'); // before the peer was ever sent: it is opened with these
        converge(&mut plan, &mut worker, 100);
        let before = worker.dump();
        restart(&mut plan, b'1');
        let mut commands = Vec::new();
        plan.reconcile(100, &mut commands);
        assert!(matches!(commands[..], [Command::PeerIce(ice), Command::Commit(_)] if ice.ufrag == [b'1'; UFRAG_LEN]));
        commands.into_iter().for_each(|command| hear(&mut plan, worker.apply(command)));
        plan.resync();
        converge(&mut plan, &mut worker, 100);
        assert_eq!((worker.dump(), plan.pending()), (before, 0));
        assert_eq!(worker.peers[&peer.index].open, plan.credentials(peer).unwrap());
        let tag = Command::from(PeerIce { peer, ufrag: [0; UFRAG_LEN], pwd: [0; PWD_LEN] }).tag();
        assert_eq!(plan.owner_of_refused(tag, peer.index), Some(peer));
        assert!(worker.refused.is_empty());
    }

    /// A peer with a stream and a slot.
    fn want_peer(plan: &mut Plan, key: u8) -> (PeerId, StreamId, SlotId) {
        let peer = plan.issue_peer().unwrap();
        plan.want(PeerOpen { peer, ufrag: [b'u'; UFRAG_LEN], pwd: [b'p'; PWD_LEN] });
        plan.want(PeerExtensions { peer, ids: [1; 16] });
        for (direction, key) in [(Direction::Rx, key), (Direction::Tx, key | 0x80)] {
            let profile = SrtpProfile::AeadAes128Gcm;
            plan.want(PeerKeys { peer, direction, profile, key: [key; KEY_LEN_MAX], salt: [key; SALT_LEN_MAX] });
        }
        let stream = plan.want_stream(|stream| StreamOpen {
            stream,
            peer,
            ssrc: 1,
            rtx_ssrc: 0,
            mid: Mid::NONE,
            pt: 111,
            rtx_pt: 0,
            codec: Codec::H264,
            feedback: 0,
        });
        plan.want(StreamCodec { stream: stream.unwrap(), codec: Codec::Vp8, pt: 96, rtx_pt: 97 });
        let slot = plan.want_slot(|slot| SlotOpen {
            slot,
            peer,
            ssrc: 2,
            rtx_ssrc: 0,
            mid: Mid::NONE,
            seq_first: 0,
            rtx_seq_first: 0,
            timestamp_first: 0,
        });
        (peer, stream.unwrap(), slot.unwrap())
    }

    fn want_route(plan: &mut Plan, stream: StreamId, slot: SlotId) -> RouteId {
        let open = |route| RouteOpen { route, stream, slot, pt: 111, rtx_pt: 0, feedback: 0 };
        let route = plan.want_route(open).unwrap();
        plan.want(RouteCodec { route, codec: Codec::Vp8, pt: 98, rtx_pt: 99 });
        route
    }

    #[test]
    fn keys_go_down_once_and_are_forgotten() {
        let (mut plan, mut worker) = linked();
        let (peer, ..) = want_peer(&mut plan, 7);
        assert_eq!(plan.secrets.len(), 2);
        converge(&mut plan, &mut worker, 100);
        assert_eq!(worker.peers[&0].rx.unwrap().key, [7; KEY_LEN_MAX]);
        assert!(plan.secrets.is_empty());
        let shown = format!("{:?} {:?}", plan.desired, plan.installed);
        assert!(!shown.contains("[7, 7,"), "{shown}");
        plan.resync();
        converge(&mut plan, &mut worker, 100);
        assert!(plan.broken_peers().is_empty());
        worker.peers.get_mut(&0).unwrap().rx = None;
        plan.resync();
        let mut commands = Vec::new();
        plan.reconcile(100, &mut commands);
        commands.into_iter().for_each(|command| hear(&mut plan, worker.apply(command)));
        assert_eq!(plan.broken_peers(), [peer]);
    }

    #[test]
    fn keys_of_who_is_gone_before_they_were_sent_never_leave() {
        let (mut plan, mut worker) = linked();
        let (peer, stream, slot) = want_peer(&mut plan, 7);
        plan.unwant_slot(slot);
        plan.unwant_stream(stream);
        plan.unwant_peer(peer);
        assert!(plan.secrets.is_empty());
        assert_eq!(converge(&mut plan, &mut worker, 100), 0);
    }

    #[test]
    fn an_answer_that_comes_up_short_is_asked_for_again() {
        let (mut plan, mut worker) = linked();
        want_peer(&mut plan, 7);
        converge(&mut plan, &mut worker, 100);
        plan.resync();
        let mut asked = 0;
        for lose in [true, true, false] {
            let mut commands = Vec::new();
            plan.reconcile(100, &mut commands);
            assert!(matches!(commands[0], Command::Describe(_)));
            asked += 1;
            for command in commands {
                let mut reports = worker.apply(command);
                if lose && reports.len() > 2 {
                    reports.remove(1);
                }
                hear(&mut plan, reports);
            }
        }
        assert_eq!((asked, converge(&mut plan, &mut worker, 100)), (3, 0));
    }

    #[test]
    fn a_batch_has_a_length_that_a_worker_can_hold() {
        let capacity = Capacity { peers: 1000, streams: 1000, slots: 1000 };
        let mut plan = Plan::new(0, capacity, 1);
        let mut worker = Worker::default();
        plan.link();
        for _ in 0..BATCH_LEN_MAX {
            let peer = plan.issue_peer().unwrap();
            plan.want(PeerOpen { peer, ufrag: [0; UFRAG_LEN], pwd: [0; PWD_LEN] });
            plan.want(PeerExtensions { peer, ids: [0; 16] });
        }
        converge(&mut plan, &mut worker, 1 << 20);
        assert!(worker.batches.iter().all(|&len| len < BATCH_LEN_MAX));
        assert_eq!(worker.peers.len(), BATCH_LEN_MAX);
    }

    proptest! {
        /// Whatever is wanted and unwanted between pulls of whatever size, the worker refuses nothing and ends with
        /// what is desired.
        #[test]
        fn the_difference_always_leads_there(steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>(), 2usize..9), 1..80)) {
            let (mut plan, mut worker) = linked();
            let mut peers: Vec<(PeerId, StreamId, SlotId)> = Vec::new();
            let mut routes: Vec<RouteOpen> = Vec::new();
            for (n, (step, index, space)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 if plan.has_room(1, 1) => peers.push(want_peer(&mut plan, n as u8 + 1)),
                    2 if !peers.is_empty() => {
                        let (peer, stream, slot) = peers.remove(index.index(peers.len()));
                        routes.retain(|route| {
                            let stays = route.stream != stream && route.slot != slot;
                            if !stays {
                                plan.unwant_route(route.route);
                            }
                            stays
                        });
                        plan.unwant_slot(slot);
                        plan.unwant_stream(stream);
                        plan.unwant_peer(peer);
                    }
                    3 if !peers.is_empty() => {
                        let (stream, slot) = (peers[index.index(peers.len())].1, peers[n % peers.len()].2);
                        if routes.iter().all(|route| route.slot != slot) {
                            let route = want_route(&mut plan, stream, slot);
                            routes.push(RouteOpen { route, stream, slot, pt: 111, rtx_pt: 0, feedback: 0 });
                        }
                    }
                    4 => plan.resync(),
                    _ => {
                        let mut commands = Vec::new();
                        plan.reconcile(space, &mut commands);
                        prop_assert!(commands.len() <= space);
                        commands.into_iter().for_each(|command| hear(&mut plan, worker.apply(command)));
                    }
                }
            }
            converge(&mut plan, &mut worker, 5);
            prop_assert!(worker.refused.is_empty(), "{:?}", worker.refused);
            prop_assert_eq!(worker.peers.len(), peers.len());
            let mut desired: Vec<RouteId> = routes.iter().map(|route| route.route).collect();
            desired.sort();
            prop_assert_eq!(worker.dump().3, desired);
            prop_assert_eq!((worker.stream_codecs.len(), worker.route_codecs.len()), (peers.len(), routes.len()));
        }
    }
}
