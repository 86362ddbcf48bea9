//! The core of the controlplane: signals, reports and punted datagrams in; signals, injected datagrams, journal
//! entries and commands out. It owns every room and every peer.
//!
//! Sans-IO: no socket, no clock, no runtime. A driver calls [`Engine::handle`] with what happened, then takes
//! [`Engine::poll_output`] until it is empty, gives each worker what [`Engine::reconcile`] yields as far as its
//! command ring has space, and calls [`Engine::handle_timeout`] when [`Engine::poll_timeout`] is due.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use proto::plane::{Command, DatagramHeader, Report};
use proto::signal::{ClientSignal, ServerSignal};

pub use crate::policy::{Grant, Settings};
pub use crate::snapshot::{PeerSnapshot, RoomSnapshot, Snapshot, Totals, WorkerSnapshot};

/// Names one signalling socket; the driver never uses a number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SocketId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The link to a worker is up. The engine asks what is installed and adopts what the journal explains.
    Linked {
        /// Which worker.
        worker: usize,
        /// Where its peers reach it: one candidate each.
        addresses: Vec<SocketAddr>,
        /// What an earlier controlplane left for us: slot and bytes.
        journal: Vec<(u32, Vec<u8>)>,
    },
    /// The dataplane behind a link is gone, and its SRTP state with it.
    Unlinked {
        /// Which worker.
        worker: usize,
    },
    /// A record of the worker's event ring.
    Report {
        /// Which worker.
        worker: usize,
        /// What it says.
        report: Report,
    },
    /// A punted datagram.
    Datagram {
        /// Which worker.
        worker: usize,
        /// From whom.
        header: DatagramHeader,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// A signalling socket was let in.
    SocketOpened {
        /// Its name from now on.
        socket: SocketId,
        /// The room of its address.
        room: String,
        /// What its token allows.
        grant: Grant,
    },
    /// A signal came on a socket.
    Signal {
        /// Which socket.
        socket: SocketId,
        /// What it says.
        signal: ClientSignal,
    },
    /// A signalling socket closed.
    SocketClosed {
        /// Which socket.
        socket: SocketId,
    },
    /// The worker lost events: read its state anew.
    Resync {
        /// Which worker.
        worker: usize,
    },
    /// The server stops: every socket is told. Media stands, for a successor to adopt.
    Stop,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Send a signal.
    Signal {
        /// On which socket.
        socket: SocketId,
        /// What.
        signal: ServerSignal,
    },
    /// Close a socket once what was sent before is out.
    CloseSocket {
        /// Which.
        socket: SocketId,
    },
    /// Send a datagram to a peer through its worker.
    Inject {
        /// Which worker.
        worker: usize,
        /// To whom; `len` is the payload's.
        header: DatagramHeader,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// Write or clear (`None`) a slot of the worker's journal.
    Journal {
        /// Which worker.
        worker: usize,
        /// Which slot.
        slot: u32,
        /// What a successor needs to adopt the peer. No keys.
        bytes: Option<Vec<u8>>,
    },
}

/// Rooms and peers of this edge.
pub struct Engine {
    outputs: VecDeque<Output>,
}

impl Engine {
    /// An engine without links. `seed` is as secret as every session and password drawn from it.
    pub fn new(_settings: Settings, _seed: [u8; 32]) -> Self {
        Self { outputs: VecDeque::new() }
    }

    /// Takes in what happened.
    pub fn handle(&mut self, _now: Instant, _input: Input) {}

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Engine::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// Commands that bring `worker` closer to what is desired: at most `space`, the last of them a Commit. All of
    /// them must be pushed. Yields nothing when nothing is to be done, or `space` is below two.
    pub fn reconcile(&mut self, _worker: usize, _space: usize, _out: &mut Vec<Command>) {}

    /// Whether a dataplane is linked and joins can be served.
    pub fn is_ready(&self) -> bool {
        false
    }

    /// Rooms, peers and totals as they are now, for REST and metrics.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}
