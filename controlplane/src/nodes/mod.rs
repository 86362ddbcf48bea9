//! Many edges: the nodes of a cluster, and how they know of each other. Nothing of this is there unless the operator names a
//! cluster.
//!
//! `record` is what a node says of itself, `roster` who is here, `lease` how this node has and keeps its own name, `message` what stands
//! in the headers of what nodes say to each other, `seal` by what they believe it: these are without I/O. `cluster` is the connection to the engine (NATS), `member` the
//! task that joins them, `bus` the one that carries what nodes say, `asks` the one that
//! carries what they ask each other, `claims` how a node has a room, and
//! `documents` the task that makes what operators decide good on every node.
//! docs/EDGES.md says how it behaves, docs/decisions/0062 why.

mod asks;
mod bus;
mod claims;
mod cluster;
mod documents;
mod edges;
mod instance;
mod lease;
mod member;
mod message;
mod record;
mod roster;
mod seal;
mod settings;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

pub use self::asks::{ANSWER_LEN_MAX, Question, Questions, Unanswered, questions};
use self::bus::{CLAIM_NAMES, Counts, Dropped};
pub use self::cluster::ClusterError;
use self::cluster::Line;
pub use self::documents::Decisions;
use self::documents::DocumentCounts;
pub(crate) use self::edges::Edge;
use self::lease::Lease;
pub use self::member::{Member, inspect};
pub use self::message::MESSAGE_LEN_MAX;
use self::message::MessageRefusal;
pub use self::record::{CLUSTER_VERSION, RELAY_IPS_MAX, Refusal, is_cluster_name, is_name};
use self::roster::{Roster, State};
pub use self::seal::{Kind, SEAL_LEN_MAX, SealRefusal, Seals};
pub use self::settings::{Credentials, CredentialsError, SERVERS_MAX, Settings, is_secure, is_server};
use crate::metrics::ClusterFigures;
use crate::shared::DocumentRefusal;

/// How often it is written to the log at most that something is refused which somebody says to this node: he may say it thousands of
/// times a second.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The nodes of the cluster, for those who only look: REST and metrics. The task of `member` keeps it up to date.
#[derive(Debug)]
pub struct Nodes {
    cluster: String,
    node: String,
    run: String,
    seals: Arc<Seals>,
    /// How much this run has sealed of what must not be taken twice.
    sealed: AtomicU64,
    inner: Mutex<Inner>,
    /// The connection, when there is one.
    lines: watch::Sender<Option<Line>>,
    /// Wakes the task of `bus` when something of [`Inner`] has changed.
    changed: Notify,
}

/// What the task knows.
#[derive(Debug)]
struct Inner {
    roster: Roster,
    lease: Lease,
    is_connected: bool,
    /// Why this node is not in the cluster, or not sure that it is.
    problem: Option<String>,
    reconnects: u64,
    bus: Counts,
    documents: DocumentCounts,
    /// Why what operators decide is not told to other nodes.
    documents_problem: Option<String>,
    /// When it was last written to the log that something was refused, of each kind of it.
    refusal_logged: [Option<Instant>; 4],
}

/// What is refused, for the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Refused {
    Record,
    Message,
    Claim,
    Document,
}

impl Inner {
    /// Whether this node's own record is known to stand.
    fn has_joined(&self) -> bool {
        let is_fresh = |at: Instant| at.elapsed() < self.roster.lease();
        self.is_connected && self.lease.is_held() && self.lease.renewed_at().is_some_and(is_fresh)
    }
}

/// The cluster as this node sees it.
#[derive(Clone, Debug)]
pub struct View {
    /// Its name.
    pub cluster: String,
    /// The name of this node.
    pub node: String,
    /// Whether the engine is connected.
    pub is_connected: bool,
    /// Whether this node's own record is known to stand.
    pub has_joined: bool,
    /// What is wrong, in one sentence.
    pub problem: Option<String>,
    /// All nodes that are known, this one too, by name.
    pub nodes: Vec<Node>,
    /// Keys under which something stands that is refused, and why.
    pub refused: Vec<(String, Refusal)>,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub node: String,
    /// Whether it is this one.
    pub is_self: bool,
    /// `here`, `gone` or `left`.
    pub state: &'static str,
    /// Where it is.
    pub region: String,
    /// In whose network.
    pub carrier: String,
    /// Version of its executable.
    pub software: String,
    /// Where its HTTP server is.
    pub http: Option<String>,
    /// SHA-256 of its DTLS certificate, hexadecimal.
    pub fingerprint: String,
    /// Where other nodes reach each of its workers.
    pub workers: Vec<Vec<SocketAddr>>,
    /// Peers that it carries.
    pub peers: u32,
    /// How busy its workers are, thousandths of a core.
    pub busy_permille: u32,
    /// When it started, seconds since 1970 by its own clock.
    pub started_at: u64,
    /// The revision of its record.
    pub revision: u64,
    /// Seconds since it was last heard.
    pub heard_s: f64,
}

impl Nodes {
    fn new(settings: &Settings, run: &str, lease: Lease, seals: Arc<Seals>) -> Nodes {
        Nodes {
            cluster: settings.name.clone(),
            node: settings.node.clone(),
            run: run.to_owned(),
            seals: seals.clone(),
            sealed: AtomicU64::new(0),
            lines: watch::channel(None).0,
            inner: Mutex::new(Inner {
                roster: Roster::new(settings.lease, seals),
                lease,
                is_connected: false,
                problem: None,
                reconnects: 0,
                bus: Counts::default(),
                documents: DocumentCounts::default(),
                documents_problem: None,
                refusal_logged: [None; 4],
            }),
            changed: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of what this run seals next: of a record, a message or a question.
    fn number(&self) -> u64 {
        self.sealed.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts what somebody said in the name of `node`, and what is not believed.
    fn refuse_message(&self, refusal: MessageRefusal, node: Option<&str>) {
        self.inner().bus.refused[refusal as usize] += 1;
        self.log_refusal(Refused::Message, node.unwrap_or_default(), MessageRefusal::NAMES[refusal as usize]);
    }

    /// A line in the log, if there was none of its kind lately. `of`: whose, or under which key; others wrote it, so no more of it is shown
    /// than a name may have.
    fn log_refusal(&self, refused: Refused, of: &str, reason: &str) {
        let now = Instant::now();
        let last = &mut self.inner().refusal_logged[refused as usize];
        if last.is_some_and(|last| now.duration_since(last) < LOG_INTERVAL) {
            return;
        }
        *last = Some(now);
        let of: String = of.chars().filter(|letter| !letter.is_control()).take(64).collect();
        match refused {
            Refused::Record => {
                tracing::warn!(
                    event = "record_refused",
                    key = of,
                    reason,
                    "a record is refused: no node has sealed it"
                );
            }
            Refused::Message => {
                tracing::warn!(
                    event = "message_refused",
                    node = of,
                    reason,
                    "what is said in a node's name is not believed"
                );
            }
            Refused::Claim => {
                tracing::warn!(event = "claim_refused", key = of, reason, "who is said to have a room is not believed");
            }
            Refused::Document => {
                tracing::warn!(
                    event = "document_refused",
                    key = of,
                    reason,
                    "what another node decided is not believed"
                );
            }
        }
    }

    /// The name of this node.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// What is known now.
    pub fn view(&self) -> View {
        let (inner, now) = (self.inner(), Instant::now());
        let node = |(name, known): (&String, &roster::Known)| {
            let record = known.record.clone();
            Node {
                node: name.clone(),
                is_self: *name == self.node,
                state: match known.state {
                    State::Here => "here",
                    State::Gone => "gone",
                    State::Left => "left",
                },
                region: record.region,
                carrier: record.carrier,
                software: record.software,
                http: record.http,
                fingerprint: record.fingerprint,
                workers: record.workers,
                peers: record.peers,
                busy_permille: record.busy_permille,
                started_at: record.started_at,
                revision: known.revision,
                heard_s: now.saturating_duration_since(known.heard_at).as_secs_f64(),
            }
        };
        View {
            cluster: self.cluster.clone(),
            node: self.node.clone(),
            is_connected: inner.is_connected,
            has_joined: inner.has_joined(),
            problem: inner.problem.clone(),
            nodes: inner.roster.nodes().iter().map(node).collect(),
            refused: inner.roster.refused().iter().map(|(key, &refusal)| (key.clone(), refusal)).collect(),
        }
    }

    /// What `/metrics` shows.
    pub fn figures(&self) -> ClusterFigures {
        let inner = self.inner();
        let here = inner.roster.nodes().values().filter(|known| known.state == State::Here).count();
        ClusterFigures {
            is_connected: inner.is_connected,
            has_joined: inner.has_joined(),
            nodes: here,
            lease_age: inner.lease.renewed_at().map(|at| at.elapsed()),
            reconnects: inner.reconnects,
            refusals: Refusal::NAMES.into_iter().zip(inner.roster.refusals()).collect(),
            is_speaking: inner.bus.is_connected,
            rooms: inner.bus.rooms,
            messages: vec![("said", inner.bus.said), ("heard", inner.bus.heard)],
            messages_refused: MessageRefusal::NAMES.into_iter().zip(inner.bus.refused).collect(),
            orders_dropped: Dropped::NAMES.into_iter().zip(inner.bus.dropped).collect(),
            overruns: inner.bus.overruns,
            documents: vec![("taken", inner.documents.taken), ("written", inner.documents.written)],
            documents_refused: DocumentRefusal::NAMES.into_iter().zip(inner.documents.refused).collect(),
            claims: CLAIM_NAMES.into_iter().zip(inner.bus.claims).collect(),
            claims_refused: SealRefusal::NAMES.into_iter().zip(inner.bus.claims_refused).collect(),
        }
    }
}
