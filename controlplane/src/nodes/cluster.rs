//! The connection to the cluster's engine, NATS with JetStream, and the bucket that nodes meet in. The only code that names
//! `async-nats`, with what is below it: `line` is what nodes say to each other, `shelf` a bucket whose entries stay.
//!
//! A connection that breaks is made again by the library, with pauses that double up to two seconds and are spread by chance. A request that is not
//! answered within [`ANSWER_TIMEOUT`] has failed; whether it was carried out is not known then.

mod line;
mod shelf;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{
    ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError,
    RequestErrorKind,
};
use async_nats::jetstream::stream::{self, LastRawMessageErrorKind, StorageType};
use async_nats::jetstream::{ErrorCode, kv};
use async_nats::{ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

pub(super) use self::line::{Heard, Line, Message, Standing, Stuck};
pub(super) use self::shelf::{Made, Shelf};
use super::lease::{Found, held};
use super::record::RECORD_LEN_MAX;
use super::roster::Told;
use super::seal::Seals;
use super::settings::{Credentials, CredentialsError, Settings, is_secure};
use crate::auth::KeyError;

/// How long one server may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// And all of them together at the start.
const CONNECT_ALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may take. Where three servers elect a leader they answer after 4 to 7 s, and it is tried again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the server is asked whether it is there. A path that is silently gone is noticed after three times this.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Pauses before it is connected again: first and longest, each spread by chance over its second half.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(100);
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Events of the connection that may wait.
const EVENTS_MAX: usize = 64;

/// Messages of one subject that may wait for this node. One more is lost, and then everything is said anew. The records of all
/// nodes that are remembered come as messages, too.
const HEARD_MAX: usize = 16_384;

/// Copies of the bucket where the engine has several servers.
const REPLICAS: usize = 3;

/// Bytes of the bucket: what all nodes that are remembered can have in it.
const BUCKET_LEN_MAX: i64 = 32 * 1024 * 1024;

/// Why a node is not in the cluster. One sentence for the operator, without a secret.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file of credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// No server answers.
    #[error("no server of the cluster can be reached ({0}): NATS is to run at {1}")]
    Unreachable(String, String),
    /// The servers do not take the credentials.
    #[error("the cluster's servers refuse {}: put those of a NATS user in a file and set `cluster-credentials`", .0)]
    Denied(String),
    /// TLS cannot be agreed on.
    #[error("no TLS with the cluster's servers: {0}; `cluster-ca` names the certificates that they are trusted by")]
    Tls(String),
    /// The servers have no JetStream.
    #[error(
        "the cluster's servers have no JetStream for this user: set `jetstream {{ store_dir: … }}` in nats-server.conf"
    )]
    NoJetStream,
    /// The user may not do what a node does.
    #[error("the cluster's servers do not allow what a node does: {0}; docs/OPERATING.md lists the permissions")]
    NotPermitted(String),
    /// The bucket has another lease.
    #[error(
        "the cluster's bucket {bucket} has leases of {theirs:?}, and cluster-lease is {ours:?}: all nodes need the same"
    )]
    OtherLease {
        /// Its name.
        bucket: String,
        /// Of the bucket.
        theirs: Duration,
        /// Of the settings.
        ours: Duration,
    },
    /// Another instance has the name.
    #[error(
        "another node is called {node} in cluster {cluster}: give this one another name (`node`), or stop the other"
    )]
    NameTaken {
        /// The name.
        node: String,
        /// The cluster.
        cluster: String,
    },
    /// A node of another version is here.
    #[error(
        "node {node} speaks version {theirs} of the cluster, and this one version {ours}: run one version on all nodes"
    )]
    OtherVersion {
        /// Its name, the key of its record.
        node: String,
        /// Its version.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// Whoever is here has other signing keys.
    #[error(
        "node {node} of cluster {cluster} has other signing keys than this one: copy token.key and token-keys.d from its state folder"
    )]
    OtherKeys {
        /// One of them, the key of its record.
        node: String,
        /// The cluster.
        cluster: String,
    },
    /// The signing keys of this node cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The record of this node cannot be written.
    #[error(
        "this node's record cannot be written: {0} (256 workers at four addresses each at most; `relay-ips` chooses among them)"
    )]
    Record(super::record::Refusal),
    /// Whatever else.
    #[error("the cluster's engine: {0}")]
    Engine(String),
    /// What the node remembers cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// What happened to the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    Up,
    Down,
}

/// A connection to the engine.
#[derive(Debug)]
pub(super) struct Cluster {
    line: Line,
    events: Option<mpsc::Receiver<Link>>,
}

impl Clone for Cluster {
    /// For whoever needs no events.
    fn clone(&self) -> Cluster {
        Cluster::of(self.line.clone())
    }
}

impl Cluster {
    fn of(line: Line) -> Cluster {
        Cluster { line, events: None }
    }

    /// Connects. Where no server answers, that is known after some seconds.
    pub(super) async fn connect(settings: &Settings) -> Result<Cluster, ClusterError> {
        let credentials = Credentials::load(settings.credentials.as_deref())?;
        let (happened, events) = mpsc::channel(EVENTS_MAX);
        let denied = Arc::new(Mutex::new(None));
        let (stands, standing) = watch::channel(Standing::default());
        let options = options(settings, &credentials, happened, stands, denied.clone())?;
        let parsed: Result<Vec<ServerAddr>, _> = settings.servers.iter().map(|server| server.parse()).collect();
        let servers = parsed.map_err(|error: io::Error| ClusterError::Engine(error.to_string()))?;
        let connected = timeout(CONNECT_ALL_TIMEOUT, options.connect(servers)).await;
        let all = || settings.servers.join(", ");
        let client = match connected {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(not_connected(&error, &credentials, all())),
            Err(_) => return Err(ClusterError::Unreachable("no answer in time".into(), all())),
        };
        let jetstream = ContextBuilder::new().timeout(ANSWER_TIMEOUT).ack_timeout(ANSWER_TIMEOUT).build(client.clone());
        Ok(Cluster { line: Line { client, jetstream, standing, denied }, events: Some(events) })
    }

    /// The next thing that happens to the connection. Never ends.
    pub(super) async fn happened(&mut self) -> Link {
        let event = match &mut self.events {
            Some(events) => events.recv().await,
            None => None,
        };
        match event {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// The connection, for those who speak over it.
    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    async fn stream(&self, name: &str) -> Result<Option<stream::Info>, ClusterError> {
        match self.line.jetstream.get_stream(name).await {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
            Err(error) if is_not_there(&error.kind()) => Ok(None),
            Err(error) => Err(self.no_stream(&error)),
        }
    }

    /// The bucket of the nodes, if it is there.
    pub(super) async fn find(&self, settings: &Settings) -> Result<Option<Bucket>, ClusterError> {
        let name = format!("uprtc-{}", settings.name);
        let Some(info) = self.stream(&format!("KV_{name}")).await? else { return Ok(None) };
        if info.config.max_age != settings.lease && info.state.messages > 0 {
            return Err(ClusterError::OtherLease { bucket: name, theirs: info.config.max_age, ours: settings.lease });
        }
        let store = self.line.jetstream.get_key_value(&name).await.map_err(|error| self.failed(&error))?;
        Ok(Some(Bucket { store, info, denied: self.line.denied.clone() }))
    }

    /// The same, made if it is not there, and mended if it is not as it should be.
    pub(super) async fn bucket(&self, settings: &Settings) -> Result<Bucket, ClusterError> {
        let wanted = config(settings);
        match self.find(settings).await? {
            Some(bucket) => self.mend(&bucket.info.config, wanted).await.map(|()| bucket),
            None => {
                self.make(wanted).await?;
                let made = self.find(settings).await?;
                made.ok_or_else(|| ClusterError::Engine("the bucket that was made is not there".into()))
            }
        }
    }

    /// On as many servers as there should be, or on one.
    async fn make(&self, config: stream::Config) -> Result<(), ClusterError> {
        let few = stream::Config { num_replicas: 1, ..config.clone() };
        let made = match self.line.client.server_info().cluster {
            None => self.line.jetstream.create_stream(few).await,
            Some(_) => match self.line.jetstream.create_stream(config).await {
                Err(error) if is_for_want_of_servers(&error.kind()) => self.line.jetstream.create_stream(few).await,
                made => made,
            },
        };
        match made {
            Ok(_) => Ok(()),
            // Another node was faster.
            Err(error) if code(&error.kind()) == Some(ErrorCode::STREAM_NAME_EXIST) => Ok(()),
            Err(error) => Err(self.not_made(&error)),
        }
    }

    /// What another hand, or a time with fewer servers, has made of the bucket.
    async fn mend(&self, is: &stream::Config, wanted: stream::Config) -> Result<(), ClusterError> {
        if is.num_replicas < REPLICAS && self.line.client.server_info().cluster.is_some() {
            // There may still be too few servers.
            let _ = self.line.jetstream.update_stream(&wanted).await;
        }
        let of = |config: &stream::Config| {
            (config.max_age, config.max_message_size, config.max_messages_per_subject, config.allow_message_ttl)
        };
        if of(is) != of(&wanted) {
            let mended = stream::Config { num_replicas: is.num_replicas, ..wanted };
            self.line.jetstream.update_stream(&mended).await.map_err(|error| self.not_made(&error))?;
        }
        Ok(())
    }

    fn no_stream(&self, error: &GetStreamError) -> ClusterError {
        match error.kind() {
            GetStreamErrorKind::JetStream(error) if is_without_jetstream(error.error_code()) => {
                ClusterError::NoJetStream
            }
            GetStreamErrorKind::Request if is_without_answerer(error) => self.unanswered(),
            _ => self.failed(error),
        }
    }

    fn not_made(&self, error: &CreateStreamError) -> ClusterError {
        match error.kind() {
            CreateStreamErrorKind::JetStreamUnavailable => self.unanswered(),
            CreateStreamErrorKind::JetStream(error) if is_without_jetstream(error.error_code()) => {
                ClusterError::NoJetStream
            }
            _ => self.failed(error),
        }
    }

    /// Nobody listens where JetStream would. Servers that are electing a leader are silent, too, but say that they have it.
    fn unanswered(&self) -> ClusterError {
        match self.line.client.server_info().jetstream {
            true => ClusterError::Engine("JetStream does not answer: is a majority of its servers up?".into()),
            false => ClusterError::NoJetStream,
        }
    }

    fn failed(&self, error: &dyn std::error::Error) -> ClusterError {
        failed(&self.line.denied, error)
    }
}

/// The bucket that nodes meet in.
pub(super) struct Bucket {
    store: kv::Store,
    /// As it was when it was found.
    info: stream::Info,
    denied: Arc<Mutex<Option<String>>>,
}

/// Why nothing was written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Something else was written before it.
    Outrun,
    /// There is no such bucket.
    NoBucket,
    /// It cannot be, or it is not known whether it was.
    Failed(ClusterError),
}

impl Bucket {
    /// When it was made. A bucket that is made anew begins its revisions anew.
    pub(super) fn made_at(&self) -> String {
        format!("{:?}", self.info.created)
    }

    /// How many records were in it when it was found.
    pub(super) fn count(&self) -> u64 {
        self.info.state.messages
    }

    /// What stands under a key now, by the word of the bucket's leader.
    pub(super) async fn look(&self, seals: &Seals, key: &str) -> Result<Found, ClusterError> {
        let subject = format!("{}{key}", self.store.prefix);
        let message = match self.store.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(Found::Vacant(0)),
            Err(error) => return Err(failed(&self.denied, &error)),
        };
        let is_mark = ["KV-Operation", "Nats-Marker-Reason"].iter().any(|&name| message.headers.get(name).is_some());
        Ok(if is_mark { Found::Vacant(message.sequence) } else { held(seals, key, message.sequence, &message.payload) })
    }

    /// Puts a record in the place of a revision, 0 for none, and gives back its own.
    pub(super) async fn write(&self, key: &str, record: Vec<u8>, replaced: u64) -> Result<u64, WriteError> {
        let written = self.store.update(key, record.into(), replaced).await;
        written.map_err(|error| match error.kind() {
            kv::UpdateErrorKind::WrongLastRevision => WriteError::Outrun,
            _ => WriteError::Failed(failed(&self.denied, &error)),
        })
    }

    /// Tells all that stands there, and then whatever is put or removed.
    pub(super) async fn watch(&self) -> Result<Watch, ClusterError> {
        let watch = timeout(ANSWER_TIMEOUT, self.store.watch_with_history(">")).await;
        let watch = watch.map_err(|_| ClusterError::Engine("no answer in time".into()))?;
        watch.map(Watch).map_err(|error| failed(&self.denied, &error))
    }
}

/// Something that the bucket tells.
pub(super) struct Entry(kv::Entry);

impl Entry {
    pub(super) fn told(&self) -> Told<'_> {
        let kv::Entry { key, revision, value, operation, .. } = &self.0;
        match operation {
            kv::Operation::Put => Told::Put { key, revision: *revision, bytes: value },
            _ => Told::Removed { key },
        }
    }

    /// Whether everything that stood there when the watch began has been told with it.
    pub(super) fn is_current(&self) -> bool {
        self.0.delta == 0
    }
}

/// See [`Bucket::watch`].
pub(super) struct Watch(kv::Watch);

impl Watch {
    /// The next entry; `None` if there are none to come any more: then a new watch is needed.
    pub(super) async fn next(&mut self) -> Option<Entry> {
        self.0.next().await?.ok().map(Entry)
    }
}

fn options(
    settings: &Settings,
    credentials: &Credentials,
    happened: mpsc::Sender<Link>,
    stands: watch::Sender<Standing>,
    denied: Arc<Mutex<Option<String>>>,
) -> Result<ConnectOptions, ClusterError> {
    // Not before the first connection: then nothing is in a crowd.
    let is_again = Arc::new(AtomicBool::new(false));
    let was_up = is_again.clone();
    let mut options = ConnectOptions::new()
        .name(format!("uprtc {}", settings.node))
        // So that a user of its own need not be able to listen to what others are answered.
        .custom_inbox_prefix(format!("_INBOX.{}", settings.node))
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .request_timeout(Some(ANSWER_TIMEOUT))
        .subscription_capacity(HEARD_MAX)
        .require_tls(settings.servers.iter().any(|server| is_secure(server)))
        // The servers are those that the operator named: they get the credentials, and no others.
        .ignore_discovered_servers()
        .reconnect_delay_callback(move |attempts| match is_again.load(Ordering::Relaxed) {
            true => pause(attempts),
            false => Duration::ZERO,
        })
        .event_callback(move |event| {
            match event {
                Event::Connected => {
                    was_up.store(true, Ordering::Relaxed);
                    stands.send_modify(|standing| {
                        (standing.is_up, standing.up_at) = (true, Some(Instant::now()));
                        standing.connections += 1;
                    });
                    let _ = happened.try_send(Link::Up);
                }
                Event::Disconnected | Event::Closed => {
                    stands.send_modify(|standing| standing.is_up = false);
                    let _ = happened.try_send(Link::Down);
                }
                Event::SlowConsumer(_) => stands.send_modify(|standing| standing.overruns += 1),
                Event::ServerError(ServerError::Other(said)) => {
                    *denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
                }
                _ => {}
            }
            async {}
        });
    if let Some(ca) = &settings.ca {
        options = options.add_root_certificates(ca.clone());
    }
    let malformed = || settings.credentials.clone().map(CredentialsError::Malformed);
    Ok(match credentials {
        Credentials::None => options,
        Credentials::Password(user, password) => options.user_and_password(user.clone(), password.to_string()),
        Credentials::Nkey(seed) => options.nkey(seed.to_string()),
        Credentials::Jwt(file) => options.credentials(file).map_err(|error| match malformed() {
            Some(error) => ClusterError::from(error),
            None => ClusterError::Engine(error.to_string()),
        })?,
    })
}

/// How long to wait before try number `attempts`, from 1.
pub(super) fn pause(attempts: usize) -> Duration {
    let doublings = attempts.saturating_sub(1).min(6) as u32;
    let longest = (RECONNECT_PAUSE_MIN * 2u32.pow(doublings)).min(RECONNECT_PAUSE_MAX);
    spread(longest)
}

/// A time from half of this one to all of it, by chance.
pub(super) fn spread(longest: Duration) -> Duration {
    let chance = getrandom::u32().unwrap_or(u32::MAX);
    longest / 2 + (longest / 2).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

fn config(settings: &Settings) -> stream::Config {
    let name = format!("uprtc-{}", settings.name);
    stream::Config {
        name: format!("KV_{name}"),
        description: Some("nodes of uprtc".into()),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_bytes: BUCKET_LEN_MAX,
        max_age: settings.lease,
        max_message_size: RECORD_LEN_MAX as i32,
        // Leases end in any case; revisions go on after a restart of the engine.
        storage: StorageType::File,
        num_replicas: REPLICAS,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Default::default()
    }
}

fn not_connected(error: &ConnectError, credentials: &Credentials, servers: String) -> ClusterError {
    let is_tls = || {
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
        source.is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
    };
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            ClusterError::Denied(match credentials {
                Credentials::None => "a node without credentials".into(),
                _ => "the credentials of this node".into(),
            })
        }
        ConnectErrorKind::Tls => ClusterError::Tls(said(error)),
        ConnectErrorKind::Io if is_tls() => ClusterError::Tls(said(error)),
        _ => ClusterError::Unreachable(said(error), servers),
    }
}

/// An error of the library on one line.
fn said(error: &dyn std::error::Error) -> String {
    error.to_string().replace(['\n', '\r'], " ")
}

/// A request that failed; because it was not allowed, if the server said so.
fn failed(denied: &Mutex<Option<String>>, error: &dyn std::error::Error) -> ClusterError {
    match denied.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(said) => ClusterError::NotPermitted(said),
        None => ClusterError::Engine(said(error)),
    }
}

fn code(kind: &CreateStreamErrorKind) -> Option<ErrorCode> {
    if let CreateStreamErrorKind::JetStream(error) = kind { Some(error.error_code()) } else { None }
}

fn is_not_there(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_for_want_of_servers(kind: &CreateStreamErrorKind) -> bool {
    let codes =
        [ErrorCode::CLUSTER_NO_PEERS, ErrorCode::INSUFFICIENT_RESOURCES, ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED];
    code(kind).is_some_and(|code| codes.contains(&code))
}

fn is_without_jetstream(code: ErrorCode) -> bool {
    [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT].contains(&code)
}

/// Whether nobody listens where JetStream would.
fn is_without_answerer(error: &GetStreamError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<RequestError>());
    source.is_some_and(|error| error.kind() == RequestErrorKind::NoResponders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_two_seconds_and_are_spread() {
        for (attempts, longest) in [(0, 100), (1, 100), (2, 200), (5, 1600), (7, 2000), (usize::MAX, 2000)] {
            let all: Vec<Duration> = (0..200).map(|_| pause(attempts)).collect();
            let longest = Duration::from_millis(longest);
            assert!(all.iter().all(|&pause| longest / 2 <= pause && pause <= longest), "{attempts}: {all:?}");
            assert!(all.iter().any(|&pause| pause != all[0]), "nodes do not come back all at once");
        }
    }
}
