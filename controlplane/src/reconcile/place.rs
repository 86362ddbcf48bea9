//! The places in a worker's tables, and the commands that fill, empty and change them.

use proto::id::PeerId;
use proto::plane::{
    Command, Direction, PEER_CANDIDATES_MAX, PEER_REMOTE_PARTS_MAX, PeerClose, PeerIce, RelayClose, RouteClose,
    STREAM_SETS_PARTS_MAX, SlotClose, StreamClose, TapClose,
};

/// Kinds of places, in the order in which they are filled: each needs the ones before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Class {
    Peer,
    /// One part of the peer's own ICE credentials.
    Remote(u8),
    /// One remote candidate of the peer.
    Candidate(u8),
    Edge,
    Extensions,
    RxKeys,
    TxKeys,
    Limit,
    PeerRate,
    Stream,
    StreamRate,
    StreamGate,
    StreamCodec,
    StreamEncoding,
    StreamEncodings,
    /// One part of a stream's parameter sets.
    StreamSets(u8),
    Slot,
    SlotShown,
    Route,
    RouteCodec,
    Tap,
    Relay,
    RelayRate,
}

const _: () = assert!(STREAM_SETS_PARTS_MAX == 5, "Class::ALL has a place for each part");
const _: () = assert!(PEER_REMOTE_PARTS_MAX == 8, "Class::ALL has a place for each part");
const _: () = assert!(PEER_CANDIDATES_MAX == 4, "Class::ALL has a place for each");

impl Class {
    pub(super) const ALL: &'static [Class] = &[
        Class::Peer,
        Class::Remote(0),
        Class::Remote(1),
        Class::Remote(2),
        Class::Remote(3),
        Class::Remote(4),
        Class::Remote(5),
        Class::Remote(6),
        Class::Remote(7),
        Class::Candidate(0),
        Class::Candidate(1),
        Class::Candidate(2),
        Class::Candidate(3),
        Class::Edge,
        Class::Extensions,
        Class::RxKeys,
        Class::TxKeys,
        Class::Limit,
        Class::PeerRate,
        Class::Stream,
        Class::StreamRate,
        Class::StreamGate,
        Class::StreamCodec,
        Class::StreamEncoding,
        Class::StreamEncodings,
        Class::StreamSets(0),
        Class::StreamSets(1),
        Class::StreamSets(2),
        Class::StreamSets(3),
        Class::StreamSets(4),
        Class::Slot,
        Class::SlotShown,
        Class::Route,
        Class::RouteCodec,
        Class::Tap,
        Class::Relay,
        Class::RelayRate,
    ];

    /// What goes with what fills a place of this kind, and has no close of its own: it follows in the list.
    pub(super) fn parts(self) -> &'static [Class] {
        let at = Self::ALL.iter().position(|class| *class == self).filter(|_| !self.is_part());
        let rest = at.map_or(&[][..], |at| &Self::ALL[at + 1..]);
        let count = rest.iter().take_while(|class| class.is_part()).count();
        &rest[..count]
    }

    /// Whether it follows from the room of a stream, and not from what was negotiated.
    pub(super) const fn is_of_room(self) -> bool {
        matches!(self, Class::StreamRate | Class::StreamGate)
    }

    const fn is_part(self) -> bool {
        !matches!(self, Class::Peer | Class::Stream | Class::Slot | Class::Route | Class::Tap | Class::Relay)
    }
}

/// One place in a worker's tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) class: Class,
    pub(super) index: u32,
}

impl Place {
    pub(super) const fn new(class: Class, index: u32) -> Self {
        Self { class, index }
    }

    /// The place that a command fills; `None` for commands that fill none.
    pub(super) fn of(command: &Command) -> Option<Place> {
        Some(match command {
            Command::PeerOpen(c) => Place::new(Class::Peer, c.peer.index),
            Command::PeerRemote(c) if usize::from(c.part) < PEER_REMOTE_PARTS_MAX => {
                Place::new(Class::Remote(c.part), c.peer.index)
            }
            Command::PeerCandidate(c) if usize::from(c.place) < PEER_CANDIDATES_MAX => {
                Place::new(Class::Candidate(c.place), c.peer.index)
            }
            Command::PeerEdge(c) => Place::new(Class::Edge, c.peer.index),
            Command::PeerExtensions(c) => Place::new(Class::Extensions, c.peer.index),
            Command::PeerKeys(c) => Place::keys(c.peer, c.direction),
            Command::PeerLimit(c) => Place::new(Class::Limit, c.peer.index),
            Command::PeerRate(c) => Place::new(Class::PeerRate, c.peer.index),
            Command::StreamOpen(c) => Place::new(Class::Stream, c.stream.index),
            Command::StreamRate(c) => Place::new(Class::StreamRate, c.stream.index),
            Command::StreamGate(c) => Place::new(Class::StreamGate, c.stream.index),
            Command::StreamCodec(c) => Place::new(Class::StreamCodec, c.stream.index),
            Command::StreamEncoding(c) => Place::new(Class::StreamEncoding, c.stream.index),
            Command::StreamEncodings(c) => Place::new(Class::StreamEncodings, c.stream.index),
            Command::StreamSets(c) if usize::from(c.part) < STREAM_SETS_PARTS_MAX => {
                Place::new(Class::StreamSets(c.part), c.stream.index)
            }
            Command::SlotOpen(c) => Place::new(Class::Slot, c.slot.index),
            Command::SlotShown(c) => Place::new(Class::SlotShown, c.slot.index),
            Command::RouteOpen(c) => Place::new(Class::Route, c.route.index),
            Command::RouteCodec(c) => Place::new(Class::RouteCodec, c.route.index),
            Command::MirrorOpen(c) => Place::new(Class::Stream, c.stream.index),
            Command::TapOpen(c) => Place::new(Class::Tap, c.tap.index),
            Command::RelayOpen(c) => Place::new(Class::Relay, c.relay.index),
            Command::RelayRate(c) => Place::new(Class::RelayRate, c.relay.index),
            Command::PeerClose(_)
            | Command::PeerIce(_)
            | Command::PeerRemote(_)
            | Command::PeerCandidate(_)
            | Command::StreamSets(_)
            | Command::StreamClose(_)
            | Command::SlotClose(_)
            | Command::RouteClose(_)
            | Command::TapClose(_)
            | Command::RelayClose(_)
            | Command::Reset(_)
            | Command::Describe(_)
            | Command::Commit(_) => return None,
        })
    }

    pub(super) const fn keys(peer: PeerId, direction: Direction) -> Place {
        match direction {
            Direction::Rx => Place::new(Class::RxKeys, peer.index),
            Direction::Tx => Place::new(Class::TxKeys, peer.index),
        }
    }
}

/// The command that empties what `open` filled. Credentials, candidates, extensions, keys and limits go with their peer, second codecs with their stream
/// or route.
pub(super) fn close_of(open: &Command) -> Option<Command> {
    match open {
        Command::PeerOpen(c) => Some(PeerClose { peer: c.peer }.into()),
        Command::StreamOpen(c) => Some(StreamClose { stream: c.stream }.into()),
        Command::MirrorOpen(c) => Some(StreamClose { stream: c.stream }.into()),
        Command::TapOpen(c) => Some(TapClose { tap: c.tap }.into()),
        Command::RelayOpen(c) => Some(RelayClose { relay: c.relay }.into()),
        Command::SlotOpen(c) => Some(SlotClose { slot: c.slot }.into()),
        Command::RouteOpen(c) => Some(RouteClose { route: c.route }.into()),
        _ => None,
    }
}

/// What makes `desired` of `installed` without closing it: an open peer takes other ICE credentials as it stands.
pub(super) fn change_of(installed: Option<&Command>, desired: Option<&Command>) -> Option<Command> {
    match (installed, desired) {
        (Some(Command::PeerOpen(before)), Some(Command::PeerOpen(now))) if before.peer == now.peer => {
            Some(PeerIce { peer: now.peer, ufrag: now.ufrag, pwd: now.pwd }.into())
        }
        _ => None,
    }
}
