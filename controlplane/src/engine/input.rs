//! What the engine is told, and what it wants done.

use std::time::Duration;

use proto::id::PeerId;
use proto::link::Addresses;
use proto::plane::{DatagramHeader, Report};
use proto::signal::{ClientSignal, ServerSignal};

use super::operator::{OperatorError, OperatorRequest};
use super::resource::{ResourceError, ResourceReply, ResourceRequest};
use crate::bus::{News, Order};
use crate::happening::Happening;
use crate::ids::SocketId;
use crate::policy::{Grant, Settings};
use crate::quality::Link;

/// Names one request that is answered by [`Output::Reply`]; the driver never uses a number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// The link to a worker is up. The engine asks what is installed and adopts what the journal explains. All workers of
    /// a dataplane are linked before a report of any of them comes: their rooms may have peers on several.
    Linked {
        /// Which worker.
        worker: usize,
        /// Where it is bound, by UDP and by TCP: one candidate each, as [`Settings::announced`] says.
        addresses: Addresses,
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
    /// The client at a socket brought another token, which was checked for its room.
    Granted {
        /// Which socket.
        socket: SocketId,
        /// What the token allows.
        grant: Grant,
    },
    /// A signalling socket closed.
    SocketClosed {
        /// Which socket.
        socket: SocketId,
    },
    /// A client of WHIP or WHEP asks something; answered by [`Reply::Resource`].
    Resource {
        /// Names the answer.
        id: RequestId,
        /// What.
        request: ResourceRequest,
    },
    /// An operator or an application's server asks something; answered by [`Reply::Operator`].
    Operator {
        /// Names the answer.
        id: RequestId,
        /// What.
        request: OperatorRequest,
    },
    /// What the wall clock says now, since 1970: tokens expire by it. Told again whenever it may matter, as it may be set.
    WallClock(Duration),
    /// The worker lost events: read its state anew.
    Resync {
        /// Which worker.
        worker: usize,
    },
    /// How busy a worker's core was lately.
    Busy {
        /// Which worker.
        worker: usize,
        /// Thousandths of the time since it was last told.
        permille: u32,
    },
    /// What the links of peers were like in the last seconds: of those that [`super::Engine::links`] names, about once a second.
    Links(Vec<(PeerId, Link)>),
    /// The cluster tells something.
    Cluster(News),
    /// Other settings for those who come from now on; see [`Settings::reload`].
    Settings(Box<Settings>),
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
    /// Find out whether anybody is still at a socket, and report it closed if not.
    ProbeSocket {
        /// Which.
        socket: SocketId,
    },
    /// Close a socket once what was sent before is out.
    CloseSocket {
        /// Which.
        socket: SocketId,
    },
    /// Answer a request. Each is answered once, before the input that brought it has been handled.
    Reply {
        /// Which.
        id: RequestId,
        /// What.
        reply: Reply,
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
    /// Do something in the cluster.
    Cluster(Order),
    /// Tell the operator.
    Happened(Box<Happening>),
}

/// The answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// To [`Input::Resource`].
    Resource(Result<ResourceReply, ResourceError>),
    /// To [`Input::Operator`].
    Operator(Result<(), OperatorError>),
}
