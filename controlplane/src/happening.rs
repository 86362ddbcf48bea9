//! What happened to people, for the operator's log. The engine says it as an output like any other and its driver writes it
//! down ([`crate::logbook`]): no session, token, key or address is in it.

use std::time::Duration;

use proto::id::PeerId;
use proto::plane::Refusal;
use proto::signal::{ErrorCode, LeaveReason, Source, VideoCodec};

/// Whom it happened to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Who {
    /// The room.
    pub room: String,
    /// Its id there, as REST shows it.
    pub peer: String,
    /// The name that others see.
    pub name: String,
}

/// How somebody comes in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A signalling socket.
    Socket,
    /// WHIP: it sends.
    Whip,
    /// WHEP: it receives.
    Whep,
}

impl Access {
    /// As the log names it.
    pub const fn name(self) -> &'static str {
        match self {
            Access::Socket => "socket",
            Access::Whip => "whip",
            Access::Whep => "whep",
        }
    }
}

/// One line of the log.
#[derive(Clone, PartialEq, Debug)]
pub enum Happening {
    /// An offer was answered: a peer is in a room.
    Joined {
        /// Who.
        who: Who,
        /// How.
        access: Access,
        /// Its worker.
        worker: usize,
        /// The codec of video of its room now; `None` for a peer that neither sends nor receives video.
        codec: Option<VideoCodec>,
        /// Whether it may send.
        may_publish: bool,
        /// Whether it may receive.
        may_subscribe: bool,
    },
    /// ICE and DTLS are complete.
    Connected {
        /// Who.
        who: Who,
        /// Since it joined.
        after: Duration,
        /// The version of DTLS.
        dtls: String,
    },
    /// A peer was taken back on another socket.
    Resumed {
        /// Who.
        who: Who,
    },
    /// Peers of an earlier controlplane were taken over.
    Adopted {
        /// Of which worker.
        worker: usize,
        /// How many.
        peers: usize,
    },
    /// A peer is gone.
    Left {
        /// Who.
        who: Who,
        /// Why.
        reason: LeaveReason,
        /// The same in more words, where there are any.
        detail: Option<String>,
        /// Since it joined, or since it was taken over.
        stayed: Duration,
    },
    /// An operator took a peer to another room.
    Moved {
        /// Who, with the room where it was.
        who: Who,
        /// Where it is.
        to: String,
    },
    /// An operator stopped a track, or let it go on.
    Muted {
        /// Whose.
        who: Who,
        /// Its m-section.
        mid: String,
        /// What it shows.
        source: Source,
        /// Which of the two.
        is_muted: bool,
    },
    /// Somebody at a signalling socket could not join.
    Refused {
        /// The room that was asked for.
        room: String,
        /// The name in the token.
        name: String,
        /// As the client was told.
        code: ErrorCode,
        /// As the client was told.
        message: String,
    },
    /// ClientHellos are not answered now, because their room has its part of the handshakes. Told once in a while for all rooms.
    HandshakesOverShare {
        /// The room of the newest one.
        room: String,
        /// How many there were since the start, of all rooms.
        count: u64,
    },
    /// Reliable messages for a peer were given up: it took them more slowly than they came.
    DataGivenUp {
        /// Who.
        who: Who,
    },
    /// A worker refused a command: we and it disagree, or its table is full.
    CommandRefused {
        /// Which worker.
        worker: usize,
        /// Whose command, as the planes name it.
        peer: PeerId,
        /// Why.
        refusal: Refusal,
    },
}
