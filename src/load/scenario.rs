//! Who joins where, and how a ramp grows it.

use std::time::Duration;

/// Who joins where.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Scenario {
    /// One sends by WHIP, `viewers` receive by WHEP.
    Broadcast {
        /// How many receive.
        viewers: usize,
    },
    /// Rooms in which everybody sends and receives, through the signalling socket.
    Meetings {
        /// How many rooms.
        rooms: usize,
        /// Peers of each.
        peers: usize,
    },
    /// Peers that come, send and receive for a while, and go, in rooms of three.
    Churn {
        /// Joins a second.
        rate: f64,
        /// How long each stays.
        stay: Duration,
    },
    /// Peers that joined and send nothing, in rooms of eight.
    Idle {
        /// How many.
        peers: usize,
    },
}

impl Scenario {
    /// Its word on the command line.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Scenario::Broadcast { .. } => "broadcast",
            Scenario::Meetings { .. } => "meetings",
            Scenario::Churn { .. } => "churn",
            Scenario::Idle { .. } => "idle",
        }
    }

    /// How large it is, and of what.
    pub(super) fn size(&self) -> (f64, &'static str) {
        match *self {
            Scenario::Broadcast { viewers } => (viewers as f64, "viewers"),
            Scenario::Meetings { rooms, .. } => (rooms as f64, "rooms"),
            Scenario::Churn { rate, .. } => (rate, "joins per second"),
            Scenario::Idle { peers } => (peers as f64, "peers"),
        }
    }

    /// The next step of a ramp: a quarter more.
    pub(super) fn grown(self) -> Scenario {
        let more = |count: usize| (count + count / 4).max(count + 1);
        match self {
            Scenario::Broadcast { viewers } => Scenario::Broadcast { viewers: more(viewers) },
            Scenario::Meetings { rooms, peers } => Scenario::Meetings { rooms: more(rooms), peers },
            Scenario::Churn { rate, stay } => Scenario::Churn { rate: rate * 1.25, stay },
            Scenario::Idle { peers } => Scenario::Idle { peers: more(peers) },
        }
    }
}
