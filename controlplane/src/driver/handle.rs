//! The queue from the HTTP servers to the engine's task, and the queue of each socket back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proto::signal::ClientSignal;
use tokio::sync::{mpsc, oneshot, watch};

use super::orders::Orders;
use super::outgoing::{self, Outgoing, Outlet, SHARED_LEN};
use crate::bus::News;
use crate::engine::{
    Grant, Input, OperatorError, OperatorRequest, PeerMeasured, Reply, RequestId, ResourceError, ResourceReply,
    ResourceRequest, Settings, SocketId,
};
use crate::limited::Owner;
use crate::logbook::Logbook;
use crate::memory::Memory;
use crate::metrics::Sample;

/// Requests that may wait for the engine. A full queue holds back the sockets that fill it, each by itself.
pub const REQUESTS_MAX: usize = 1024;

/// What the HTTP servers hand to the engine's task.
#[derive(Debug)]
pub enum Request {
    /// Something for the engine that is answered by signals, or not at all.
    Input(Input),
    /// A socket was let in.
    Open {
        /// Its name.
        socket: SocketId,
        /// The room of its address.
        room: String,
        /// What its token allows.
        grant: Grant,
        /// The queue to it. Dropped without [`super::ToSocket::Close`] when it is full.
        outgoing: Outgoing,
    },
    /// Something for the engine that it answers once.
    Ask {
        /// Names the answer.
        id: RequestId,
        /// An input with this id.
        input: Input,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
    /// Say whether a newcomer would be let in now.
    MayJoin {
        /// Into which room.
        room: String,
        /// What its token allows.
        grant: Grant,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), ResourceError>>,
    },
    /// Hand a TCP connection over to a worker.
    Connection {
        /// Which worker.
        worker: usize,
        /// The connection, of which nothing was read.
        stream: std::net::TcpStream,
    },
    /// Say what there is, for metrics.
    Sample {
        /// Where the answer goes.
        reply: oneshot::Sender<Sample>,
    },
    /// Say how much is carried, for the other nodes.
    Load {
        /// Where the answer goes.
        reply: oneshot::Sender<Load>,
    },
    /// Say who is in a room, and what flows.
    Measure {
        /// Which.
        room: String,
        /// Where the answer goes; nobody for a room that is not there.
        reply: oneshot::Sender<Vec<PeerMeasured>>,
    },
    /// End: close every socket and let go of the workers, which go on forwarding.
    Stop {
        /// Whether clients are told that the server stops. If not, they come back and resume at the successor.
        for_good: bool,
    },
}

/// How much this edge carries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Peers.
    pub peers: usize,
    /// Each worker that is linked.
    pub workers: Vec<WorkerLoad>,
}

/// How much a worker carries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WorkerLoad {
    /// Processor time that it has taken since its start, microseconds.
    pub busy_micros: u64,
    /// Where it receives media over UDP.
    pub addresses: Vec<SocketAddr>,
}

/// Why a socket is closed by this side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closing {
    /// Everything is said.
    Done,
    /// This controlplane ends; a successor comes.
    Restarting,
}

/// The HTTP servers' end of the queue to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    readiness: watch::Receiver<bool>,
    sockets: Arc<AtomicU64>,
    asked: Arc<AtomicU64>,
    logbook: Arc<Logbook>,
    /// For signals that clients have not taken yet.
    signals: Arc<Memory>,
}

/// The engine's end of the queue.
#[derive(Debug)]
pub struct Inbox {
    /// What is asked.
    pub requests: mpsc::Receiver<Request>,
    /// Whether a dataplane is linked and joins can be served.
    pub readiness: watch::Sender<bool>,
    /// Where it is written down what happens.
    pub logbook: Arc<Logbook>,
    /// Where the engine's orders to the cluster go; none: this edge is in no cluster, and they are dropped.
    pub orders: Option<Orders>,
}

/// A queue between the HTTP servers and the engine.
pub fn channel() -> (Handle, Inbox) {
    let (requests, inbox) = mpsc::channel(REQUESTS_MAX);
    let (is_ready, readiness) = watch::channel(false);
    let logbook = Arc::new(Logbook::default());
    let [sockets, asked] = [(); 2].map(|()| Arc::new(AtomicU64::new(1)));
    let signals = Memory::new(SHARED_LEN);
    let handle = Handle { requests, readiness, sockets, asked, logbook: logbook.clone(), signals };
    (handle, Inbox { requests: inbox, readiness: is_ready, logbook, orders: None })
}

impl Handle {
    /// Announces a socket; what it is to send comes out of the queue, and takes memory of the room that its token is for until it is
    /// sent. `None`: the engine has ended.
    pub async fn open(&self, room: &str, grant: Grant) -> Option<(SocketId, Outlet)> {
        let socket = SocketId(self.sockets.fetch_add(1, Ordering::Relaxed));
        let owner = Owner::tenant(&grant.room, || grant.token.clone().unwrap_or_default());
        let (outgoing, outlet) = outgoing::queue(&self.signals, owner);
        let request = Request::Open { socket, room: room.to_owned(), grant, outgoing };
        self.requests.send(request).await.ok().map(|()| (socket, outlet))
    }

    /// Hands over a signal. Waits while the engine is behind, which holds back this one socket.
    pub async fn signal(&self, socket: SocketId, signal: ClientSignal) {
        self.input(Input::Signal { socket, signal }).await;
    }

    /// Hands over what another token of the client at a socket allows.
    pub async fn grant(&self, socket: SocketId, grant: Grant) {
        self.input(Input::Granted { socket, grant }).await;
    }

    /// Says that a socket is gone. Every socket that was opened says it once.
    pub async fn close(&self, socket: SocketId) {
        self.input(Input::SocketClosed { socket }).await;
    }

    /// Brings other settings into the running engine.
    pub async fn reload(&self, settings: Settings) {
        self.input(Input::Settings(Box::new(settings))).await;
    }

    /// Hands over what the cluster tells. Waits while the engine is behind.
    pub async fn cluster(&self, news: News) {
        self.input(Input::Cluster(news)).await;
    }

    /// Asks for a peer without a socket. `None`: the engine has ended.
    pub async fn ask_resource(&self, request: ResourceRequest) -> Option<Result<ResourceReply, ResourceError>> {
        match self.ask(|id| Input::Resource { id, request }).await? {
            Reply::Resource(result) => Some(result),
            Reply::Operator(_) => None,
        }
    }

    /// Asks for what an operator wants. `None`: the engine has ended.
    pub async fn ask_operator(&self, request: OperatorRequest) -> Option<Result<(), OperatorError>> {
        match self.ask(|id| Input::Operator { id, request }).await? {
            Reply::Operator(result) => Some(result),
            Reply::Resource(_) => None,
        }
    }

    /// Whether a newcomer would be let into a room now. `None`: the engine has ended.
    pub async fn may_join(&self, room: &str, grant: Grant) -> Option<Result<(), ResourceError>> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::MayJoin { room: room.to_owned(), grant, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Hands a TCP connection over to a worker, which reads what the client has sent from its beginning. It is closed if there is no
    /// such worker.
    pub async fn hand_over(&self, worker: usize, stream: tokio::net::TcpStream) {
        if let Ok(stream) = stream.into_std() {
            let _ = self.requests.send(Request::Connection { worker, stream }).await; // An engine that has ended closes it.
        }
    }

    /// What there is now. `None`: the engine has ended.
    pub async fn sample(&self) -> Option<Sample> {
        let (reply, sample) = oneshot::channel();
        self.requests.send(Request::Sample { reply }).await.ok()?;
        sample.await.ok()
    }

    /// How much is carried now. `None`: the engine has ended.
    pub async fn load(&self) -> Option<Load> {
        let (reply, load) = oneshot::channel();
        self.requests.send(Request::Load { reply }).await.ok()?;
        load.await.ok()
    }

    /// Waits until [`Handle::is_ready`] has changed since this was last waited for. Not when the engine ends.
    pub async fn readiness_changes(&mut self) {
        if self.readiness.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Who is in a room, in the order of joining, and what flows. `None`: the engine has ended.
    pub async fn measure(&self, room: &str) -> Option<Vec<PeerMeasured>> {
        let (reply, peers) = oneshot::channel();
        self.requests.send(Request::Measure { room: room.to_owned(), reply }).await.ok()?;
        peers.await.ok()
    }

    /// Ends the driver; see [`Request::Stop`].
    pub async fn stop(&self, for_good: bool) {
        let _ = self.requests.send(Request::Stop { for_good }).await; // It has stopped already.
    }

    async fn input(&self, input: Input) {
        let _ = self.requests.send(Request::Input(input)).await; // An engine that has ended needs none.
    }

    async fn ask(&self, input: impl FnOnce(RequestId) -> Input) -> Option<Reply> {
        let id = RequestId(self.asked.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Ask { id, input: input(id), reply }).await.ok()?;
        answer.await.ok()
    }

    /// Where those are written down who are turned away before the engine is asked.
    pub(crate) fn logbook(&self) -> &Arc<Logbook> {
        &self.logbook
    }

    /// Whether a dataplane is linked and joins can be served.
    pub fn is_ready(&self) -> bool {
        *self.readiness.borrow()
    }
}
