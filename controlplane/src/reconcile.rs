//! Desired state, installed state, and the commands that turn one into the other.
//!
//! The engine says what it wants by [`Plan::want`] and [`Plan::unwant`]; nothing is sent then. The driver pulls
//! the difference by [`Plan::reconcile`] as fast as the worker's command ring takes it. A join, a leave, a full
//! ring, lost events and the adoption of a predecessor's rooms all come down to the same difference.
//!
//! Both states map a place to the command that fills it; where they agree, and mostly they do, it is written down once. What was sent counts as installed: the ring
//! loses nothing, and where the worker refuses, it says so. SRTP keys are sent once and forgotten: under keys
//! installed twice the SRTP index would start over, and a keystream would be used twice (RFC 3711 §9.1).

mod adopt;
mod place;
mod places;
mod silence;

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{PeerId, RelayId, RouteId, SlotId, StreamId, TapId};
use proto::plane::{
    Command, Commit, Describe, ExtensionIds, KEY_LEN_MAX, MirrorOpen, PEER_CANDIDATES_MAX, PeerKeys, PeerLimit,
    PeerOpen, PeerRemote, RELAYS_MAX, RelayOpen, RouteOpen, SALT_LEN_MAX, SHOWN_LINES_ANY, SlotOpen, SlotShown,
    StreamCodec, StreamEncoding, StreamEncodings, StreamGate, StreamOpen, StreamRate, StreamSets, TRACK_ENCODINGS_MAX,
    TapOpen, feedback, weight,
};
use zeroize::Zeroize;

use self::place::{Class, Place, change_of, close_of};
use self::places::Places;
use self::silence::Silence;
use crate::ids::Ids;

/// Commands of one batch, without its Commit. Bounds what a worker must hold staged.
pub(crate) const BATCH_LEN_MAX: usize = 512;

/// How often a worker's answer to Describe may come up short before what was echoed is taken for the whole.
const DESCRIBE_TRIES_MAX: u32 = 4;

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
    /// Peers of this edge.
    pub(crate) peers: usize,
    /// Ends of links to other edges, and transports over them.
    pub(crate) remote: usize,
    /// Streams of all of them, and mirrors of other workers' streams. As many may be handed on.
    pub(crate) streams: usize,
    /// Slots of all of them. A slot has a route from each encoding of a track, so this bounds the routes too.
    pub(crate) slots: usize,
}

/// What one worker should have and what it has. It also issues the ids, so that whatever ends gives its id back.
pub(crate) struct Plan {
    peers: Ids,
    /// Those that are not of clients of this edge: ends of links, and transports over them. They have places of their own.
    remote: BTreeSet<PeerId>,
    own_max: usize,
    streams: Ids,
    slots: Ids,
    routes: Ids,
    taps: Ids,
    relays: Ids,
    desired: Places,
    /// Where what is installed differs. Everywhere else the two are the same, and written down once.
    different: BTreeSet<Place>,
    /// What is installed in those places, if anything.
    apart: BTreeMap<Place, Command>,
    /// Boxed so that the one copy of a key does not move.
    secrets: BTreeMap<Place, Box<Secret>>,
    phase: Phase,
    /// Echoes since Describe.
    echoed: BTreeMap<Place, Command>,
    echo_count: u64,
    /// Who is silent.
    silence: Silence,
    /// The same, as it was said since Describe.
    described_silence: Silence,
    silence_max: usize,
    tries: u32,
    /// Number of the newest batch that was sent, and of the newest one that took effect.
    batch: u64,
    batch_in_effect: u64,
}

impl Plan {
    /// Nothing desired, and the worker of this number not there yet.
    pub(crate) fn new(worker: usize, capacity: Capacity, first_generation: u32) -> Self {
        let ids = |max| Ids::new(worker, max, first_generation);
        Self {
            peers: ids(capacity.peers + capacity.remote),
            remote: BTreeSet::new(),
            own_max: capacity.peers,
            streams: ids(capacity.streams),
            slots: ids(capacity.slots),
            routes: ids(TRACK_ENCODINGS_MAX * capacity.slots),
            taps: ids(capacity.streams),
            relays: ids(RELAYS_MAX),
            desired: Places::default(),
            different: BTreeSet::new(),
            apart: BTreeMap::new(),
            secrets: BTreeMap::new(),
            phase: Phase::Down,
            echoed: BTreeMap::new(),
            echo_count: 0,
            silence: Silence::default(),
            described_silence: Silence::default(),
            silence_max: capacity.peers + capacity.remote + 3 * capacity.streams,
            tries: 0,
            batch: 0,
            batch_in_effect: 0,
        }
    }

    /// Places whose desired state is not sent yet.
    pub(crate) fn pending(&self) -> usize {
        self.different.len()
    }

    /// A batch took effect.
    pub(crate) fn committed(&mut self, batch: u64) {
        // A worker that another controlplane used before may still report a batch of that one.
        self.batch_in_effect = batch.min(self.batch);
    }

    /// Batches that were sent and have not taken effect yet.
    pub(crate) fn batches_in_flight(&self) -> u64 {
        self.batch - self.batch_in_effect
    }

    /// Peers of this edge that are desired now.
    pub(crate) fn peer_count(&self) -> usize {
        self.peers.taken() - self.remote.len()
    }

    /// Whether there is room for one more peer with so many streams and slots.
    pub(crate) fn has_room(&self, streams: usize, slots: usize) -> bool {
        self.peer_count() < self.own_max && self.peers.left() > 0 && self.has_room_for(streams, slots)
    }

    /// Whether a peer that is there can have so many streams and slots more.
    pub(crate) fn has_room_for(&self, streams: usize, slots: usize) -> bool {
        self.streams.left() >= streams && self.slots.left() >= slots
    }

    /// The id of a new peer of this edge, or `None` when it has as many as it may.
    pub(crate) fn issue_peer(&mut self) -> Option<PeerId> {
        (self.peer_count() < self.own_max).then(|| self.peers.issue())?
    }

    /// The same of an end of a link, or of a transport over one.
    pub(crate) fn issue_remote(&mut self) -> Option<PeerId> {
        let remote_max = self.peers.max() - self.own_max;
        let peer = (self.remote.len() < remote_max).then(|| self.peers.issue())??;
        self.remote.insert(peer);
        Some(peer)
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

    /// Desires that what others send each other is passed on, under a new id.
    pub(crate) fn want_relay(&mut self, open: impl FnOnce(RelayId) -> RelayOpen) -> Option<RelayId> {
        let id = self.relays.issue()?;
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
        self.set(place, Some(open), self.installed_at(place));
    }

    /// Desires that a peer or a stream sends no more than a rate, or that a stream is passed on by a gate, if it is there. Said again at
    /// each change of a room, so what is so already costs a look.
    pub(crate) fn want_rate(&mut self, rate: impl Into<Command>) {
        let rate = rate.into();
        let is_open = match rate {
            Command::PeerRate(rate) => self.credentials(rate.peer).is_some(),
            Command::StreamRate(rate) => self.publisher(rate.stream).is_some(),
            Command::StreamGate(gate) => self.publisher(gate.stream).is_some(),
            _ => false,
        };
        if is_open && Place::of(&rate).is_some_and(|place| self.desired.get(&place) != Some(rate)) {
            self.want(rate);
        }
    }

    /// Desires that a slot is shown so, if it is there. What no slot needs to be told is not told.
    pub(crate) fn want_shown(&mut self, shown: SlotShown) {
        let is_usual = (shown.lines, shown.weight) == (SHOWN_LINES_ANY, weight::OTHER);
        let before = self.shown(shown.slot);
        if self.slot(shown.slot).is_some() && before != Some(shown) && (before.is_some() || !is_usual) {
            self.want(shown);
        }
    }

    /// How a slot is desired to be shown, if anything was said of it.
    pub(crate) fn shown(&self, slot: SlotId) -> Option<SlotShown> {
        match self.desired.get(&Place::new(Class::SlotShown, slot.index)) {
            Some(Command::SlotShown(shown)) if shown.slot == slot => Some(shown),
            _ => None,
        }
    }

    /// Whether a stream has a gate that is not always open.
    pub(crate) fn has_gate(&self, stream: StreamId) -> bool {
        self.desired.get(&Place::new(Class::StreamGate, stream.index)).is_some()
    }

    /// Desires that a peer is known by these credentials of its own. Parts that longer ones before had stay, and mean nothing.
    pub(crate) fn want_remote(&mut self, peer: PeerId, ufrag: &str, pwd: &str) {
        let parts = PeerRemote::parts(peer, ufrag.as_bytes(), pwd.as_bytes());
        for part in parts.expect("an offer's credentials are of a length that RFC 8839 allows") {
            self.want(part);
        }
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
            Some(Command::PeerOpen(open)) if open.peer == peer => Some(open),
            _ => None,
        }
    }

    /// How many remote candidates are desired for a peer.
    pub(crate) fn candidates(&self, peer: PeerId) -> usize {
        let is_there = |place: &u8| self.desired.get(&Place::new(Class::Candidate(*place), peer.index)).is_some();
        (0..PEER_CANDIDATES_MAX as u8).filter(is_there).count()
    }

    /// The header extension ids that are desired for a peer.
    pub(crate) fn extensions(&self, peer: PeerId) -> Option<ExtensionIds> {
        match self.desired.get(&Place::new(Class::Extensions, peer.index)) {
            Some(Command::PeerExtensions(extensions)) if extensions.peer == peer => Some(extensions.ids),
            _ => None,
        }
    }

    /// A stream as it is desired, and the parts that make it what it is: a second codec, its RID, other encodings, parameter sets. What it
    /// may send, and when it is passed on, changes with the room and is none of them.
    pub(crate) fn stream(&self, stream: StreamId) -> Option<(StreamOpen, Vec<Command>)> {
        let part = |class: &Class| self.desired.get(&Place::new(*class, stream.index));
        match self.desired.get(&Place::new(Class::Stream, stream.index)) {
            Some(Command::StreamOpen(open)) if open.stream == stream => Some((
                open,
                Class::Stream.parts().iter().filter(|class| !class.is_of_room()).filter_map(part).collect(),
            )),
            _ => None,
        }
    }

    /// A slot as it is desired.
    pub(crate) fn slot(&self, slot: SlotId) -> Option<SlotOpen> {
        match self.desired.get(&Place::new(Class::Slot, slot.index)) {
            Some(Command::SlotOpen(open)) if open.slot == slot => Some(open),
            _ => None,
        }
    }

    /// Ends a peer. Its streams, slots and routes are to be ended before.
    pub(crate) fn unwant_peer(&mut self, peer: PeerId) {
        self.unwant(Place::new(Class::Peer, peer.index));
        self.forget_peer_silence(peer);
        self.remote.remove(&peer);
        self.peers.release(peer);
    }

    /// Ends a stream.
    pub(crate) fn unwant_stream(&mut self, stream: StreamId) {
        self.unwant(Place::new(Class::Stream, stream.index));
        self.forget_stream_silence(stream);
        self.streams.release(stream);
    }

    /// Ends the handing on of a stream.
    pub(crate) fn unwant_tap(&mut self, tap: TapId) {
        self.unwant(Place::new(Class::Tap, tap.index));
        self.taps.release(tap);
    }

    /// Ends passing on.
    pub(crate) fn unwant_relay(&mut self, relay: RelayId) {
        self.unwant(Place::new(Class::Relay, relay.index));
        self.relays.release(relay);
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
            self.set(place, None, self.installed_at(place));
        }
    }

    /// What the worker has in a place.
    fn installed_at(&self, place: Place) -> Option<Command> {
        let is_apart = self.different.contains(&place);
        if is_apart { self.apart.get(&place).copied() } else { self.desired.get(&place) }
    }

    /// What the worker has in a place is this from now on.
    fn install(&mut self, place: Place, installed: Option<Command>) {
        self.set(place, self.desired.get(&place), installed);
    }

    fn set(&mut self, place: Place, desired: Option<Command>, installed: Option<Command>) {
        self.desired.put(place, desired);
        if desired == installed {
            self.different.remove(&place);
            self.apart.remove(&place);
        } else {
            self.different.insert(place);
            match installed {
                Some(installed) => drop(self.apart.insert(place, installed)),
                None => drop(self.apart.remove(&place)),
            }
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
                self.echoed.clear();
                self.echo_count = 0;
                self.described_silence.clear();
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
            let Some(installed) = self.installed_at(place) else { continue };
            if change_of(Some(&installed), self.desired.get(&place).as_ref()).is_some() {
                continue;
            }
            if out.len() == end {
                return;
            }
            // Parts have no close of their own: they go when what they belong to does, just below.
            let Some(close) = close_of(&installed) else { continue };
            out.push(close);
            self.install(place, None);
            for class in place.class.parts() {
                self.install(Place::new(*class, place.index), None);
            }
        }
    }

    fn open(&mut self, end: usize, out: &mut Vec<Command>) {
        let open = |&place: &Place| Some((place, self.desired.get(&place)?));
        let places: Vec<(Place, Command)> = self.different.iter().filter_map(open).collect();
        for (place, desired) in places {
            if out.len() == end {
                return;
            }
            match desired {
                // Keys that were sent before and are gone are not sent again: see `broken_peers`.
                Command::PeerKeys(_) => match self.secrets.remove(&place) {
                    Some(secret) => out.push(secret.0.into()),
                    None => continue,
                },
                open => out.push(change_of(self.installed_at(place).as_ref(), Some(&open)).unwrap_or(open)),
            }
            self.install(place, Some(desired));
        }
    }

    /// A worker is linked: it is asked what it has.
    pub(crate) fn link(&mut self) {
        self.phase = Phase::Ask;
        self.tries = 0;
        self.batch_in_effect = self.batch; // What a lost link carried will not take effect.
        self.apart.clear();
        self.different = self.desired.keys().collect();
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
            self.echo_count += 1;
            self.echoed.insert(place, shape);
        }
    }

    /// The worker says that this was all. Returns whether the installed state is known now.
    pub(crate) fn described(&mut self, count: u64) -> bool {
        if self.phase != Phase::Asked {
            return false;
        }
        if self.echo_count != count && self.tries < DESCRIBE_TRIES_MAX {
            self.tries += 1;
            self.phase = Phase::Ask;
            return false;
        }
        self.tries = 0;
        self.phase = Phase::Known;
        self.take_described_silence();
        let echoed = std::mem::take(&mut self.echoed);
        let places: BTreeSet<Place> = echoed.keys().copied().chain(self.desired.keys()).collect();
        self.different.clear();
        self.apart.clear();
        for place in places {
            self.install(place, echoed.get(&place).copied());
        }
        true
    }

    /// Peers whose keys were sent and are not there: they cannot be mended, only begun anew.
    pub(crate) fn broken_peers(&self) -> Vec<PeerId> {
        let is_lost = |place: &&Place| {
            matches!(place.class, Class::RxKeys | Class::TxKeys)
                && !self.apart.contains_key(place)
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
            .and_then(|command| self.owner(&command))
    }

    fn owner(&self, command: &Command) -> Option<PeerId> {
        match command {
            Command::PeerOpen(c) => Some(c.peer),
            Command::PeerRemote(c) => Some(c.peer),
            Command::PeerCandidate(c) => Some(c.peer),
            Command::PeerEdge(c) => Some(c.peer),
            Command::PeerExtensions(c) => Some(c.peer),
            Command::PeerKeys(c) => Some(c.peer),
            Command::PeerLimit(c) => Some(c.peer),
            Command::PeerRate(c) => Some(c.peer),
            Command::StreamOpen(c) => Some(c.peer),
            Command::MirrorOpen(c) => Some(c.publisher),
            Command::TapOpen(c) => self.owner(&self.desired.get(&Place::new(Class::Stream, c.stream.index))?),
            Command::SlotOpen(c) => Some(c.peer),
            Command::RouteOpen(c) => match self.desired.get(&Place::new(Class::Slot, c.slot.index)) {
                Some(Command::SlotOpen(slot)) => Some(slot.peer),
                _ => None,
            },
            Command::StreamCodec(StreamCodec { stream, .. })
            | Command::StreamEncoding(StreamEncoding { stream, .. })
            | Command::StreamEncodings(StreamEncodings { stream, .. })
            | Command::StreamRate(StreamRate { stream, .. })
            | Command::StreamGate(StreamGate { stream, .. })
            | Command::StreamSets(StreamSets { stream, .. }) => {
                self.owner(&self.desired.get(&Place::new(Class::Stream, stream.index))?)
            }
            Command::SlotShown(c) => self.owner(&self.desired.get(&Place::new(Class::Slot, c.slot.index))?),
            Command::RouteCodec(c) => self.owner(&self.desired.get(&Place::new(Class::Route, c.route.index))?),
            _ => None,
        }
    }

    fn is_asked(&self) -> bool {
        self.phase == Phase::Asked
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
mod tests;
