//! The task that is this node in the cluster: it joins, renews its record, listens to the others, and goes on when the engine does
//! not. What it knows is in [`Nodes`]; what it decides is the [`Lease`]'s and the roster's.
//!
//! A start with settings that have not been in the cluster before joins before anything is bound, or says in one sentence why it
//! cannot. A start that has been there serves at once and joins beside that: a restart while the engine is away must not keep
//! a call from its controlplane.

use std::mem::{Discriminant, discriminant};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::asks::{Asks, Question};
use super::bus::Bus;
use super::claims;
use super::cluster::{Bucket, Cluster, ClusterError, Entry, Link, Watch, WriteError, pause, spread};
use super::documents::{Decisions, Documents};
use super::instance::{Instance, NODE_FILE};
use super::lease::{Found, Lease, Step};
use super::message::of_node;
use super::record::{CLUSTER_VERSION, RELAY_IPS_MAX, Record, Refusal};
use super::roster::{Change, Roster, Told};
use super::seal::Seals;
use super::settings::Settings;
use super::{Nodes, Refused};
use crate::auth::TokenKeys;
use crate::bus::Sender;
use crate::driver::{Handle, Load, OrderOutlet};
use crate::hex;

/// How long the records that stand in the bucket may take to be told.
const CURRENT_TIMEOUT: Duration = Duration::from_secs(2);

/// How soon something that failed is tried again, spread by chance. Less where leases are shorter.
const RETRY: Duration = Duration::from_secs(1);

/// How long the engine may take to say how much it carries.
const LOAD_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks and writes until it is known whether a name is free. Each takes part of a millisecond.
const CLAIM_STEPS_MAX: usize = 8;

/// This node in its cluster.
pub struct Member {
    nodes: Arc<Nodes>,
    settings: Settings,
    instance: Instance,
    session: Option<Session>,
    record: Record,
    load: LoadMeter,
    /// When the watch, or the whole session, is opened anew after a failure, at the earliest.
    reopen_at: Instant,
    /// How often the session could not be opened since it last was: a server that refuses us is not asked each second.
    failures: usize,
    /// When the bucket that is known was made.
    bucket_made_at: Option<String>,
    /// What has been said in the log since it was last well.
    said: Vec<Discriminant<ClusterError>>,
}

/// A connection and what is done by it.
struct Session {
    cluster: Cluster,
    bucket: Bucket,
    /// `None` until it is opened anew.
    watch: Option<Watch>,
}

/// What woke the task.
enum Woken {
    Link(Link),
    Told(Option<Entry>),
    Ready,
    Due,
    Stop(bool),
}

impl Member {
    /// A node with these settings. One that has not been in the cluster is in it when this returns; one that has been will be.
    ///
    /// `keys`: the signing keys, which all nodes of the cluster have. They believe each other by them.
    pub async fn join(
        settings: Settings,
        state: &Path,
        fingerprint: [u8; 32],
        keys: Arc<TokenKeys>,
    ) -> Result<Member, ClusterError> {
        let kept = |source| ClusterError::State { path: state.join(NODE_FILE), source };
        let mut instance = Instance::load_or_create(state).map_err(kept)?;
        let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let run = instance.begin(started_at).map_err(kept)?;
        let seals = Arc::new(Seals::new(Some(keys), &settings.name));
        let now = Instant::now();
        let lease = Lease::new(now, &instance.id, &run, settings.lease);
        let record = Record {
            version: CLUSTER_VERSION,
            node: settings.node.clone(),
            instance: instance.id.clone(),
            run,
            count: 0,
            region: settings.region.clone(),
            carrier: settings.carrier.clone(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            http: settings.http.clone(),
            fingerprint: hex::write(&fingerprint),
            workers: Vec::new(),
            peers: 0,
            busy_permille: 0,
            started_at,
            has_left: false,
        };
        let mut member = Member {
            nodes: Arc::new(Nodes::new(&settings, &record.run, lease, seals)),
            settings,
            instance,
            session: None,
            record,
            load: LoadMeter::default(),
            reopen_at: now,
            failures: 0,
            bucket_made_at: None,
            said: Vec::new(),
        };
        if !member.instance.has_joined(&member.settings) {
            member.open().await?;
            member.check_keys()?;
            member.claim().await?;
            if let Err(error) = member.try_to_speak().await {
                member.leave().await; // It was let in so far.
                return Err(error);
            }
        }
        Ok(member)
    }

    /// Its name, carrier and region.
    pub(crate) fn place(&self) -> (&str, &str, &str) {
        (&self.settings.node, &self.settings.carrier, &self.settings.region)
    }

    /// The view of it for others.
    pub fn nodes(&self) -> Arc<Nodes> {
        self.nodes.clone()
    }

    /// Connects, and learns who is here.
    async fn open(&mut self) -> Result<(), ClusterError> {
        let cluster = Cluster::connect(&self.settings).await?;
        let bucket = cluster.bucket(&self.settings).await?;
        self.look_at(&bucket);
        let mut watch = bucket.watch().await?;
        // Records may end while they are told: then there is nothing to wait for.
        if bucket.count() > 0 {
            let _ = timeout(CURRENT_TIMEOUT, take_current(&mut watch, |entry| drop(take(&self.nodes, entry)))).await;
        }
        let other = self.nodes.inner().roster.refused().iter().find_map(|(key, refusal)| match refusal {
            Refusal::OtherVersion(theirs) => Some((key.clone(), *theirs)),
            _ => None,
        });
        if let Some((node, theirs)) = other {
            return Err(ClusterError::OtherVersion { node, theirs, ours: CLUSTER_VERSION });
        }
        self.nodes.inner().is_connected = true;
        self.nodes.lines.send_replace(Some(cluster.line()));
        self.session = Some(Session { cluster, bucket, watch: Some(watch) });
        Ok(())
    }

    /// A start that has not been in the cluster ends here if it believes none of those that are here: it would be alone beside them.
    fn check_keys(&self) -> Result<(), ClusterError> {
        of_other_keys(&self.nodes.inner().roster, &self.settings)
    }

    /// Takes the name, or says who has it.
    async fn claim(&mut self) -> Result<(), ClusterError> {
        for _ in 0..CLAIM_STEPS_MAX {
            match self.carry_out().await? {
                Step::Wait(at) => sleep(at.saturating_duration_since(Instant::now())).await,
                Step::Look | Step::Write(_) => {}
            }
            let taken = self.nodes.inner().lease.taken_by().is_some();
            if taken {
                return Err(self.name_taken());
            }
            if self.nodes.inner().lease.is_held() {
                return Ok(());
            }
        }
        Err(self.name_taken())
    }

    /// Whether this node may speak to the others, and have rooms.
    async fn try_to_speak(&self) -> Result<(), ClusterError> {
        let Some(Session { cluster, .. }) = &self.session else { return Ok(()) };
        let line = cluster.line();
        line.echo(of_node(&self.settings.name, &self.settings.node)).await?;
        claims::shelf(&line, &self.settings).make().await?;
        Documents::shelf(&line, &self.settings).make().await.map(drop)
    }

    fn name_taken(&self) -> ClusterError {
        ClusterError::NameTaken { node: self.settings.node.clone(), cluster: self.settings.name.clone() }
    }

    /// Does the next step of the lease, if one is due, and says which it was.
    async fn carry_out(&mut self) -> Result<Step, ClusterError> {
        let Some(Session { bucket, .. }) = &self.session else { return Ok(Step::Look) };
        let step = self.nodes.inner().lease.step(Instant::now());
        let key = &self.settings.node;
        let failed = |nodes: &Nodes, error| {
            let (now, mut inner) = (Instant::now(), nodes.inner());
            inner.lease.failed(now, spread(RETRY.min(self.settings.lease / 3)));
            inner.roster.set_reachable(now, false);
            Err(error)
        };
        match step {
            Step::Wait(_) => {}
            Step::Look => match bucket.look(&self.nodes.seals, key).await {
                Ok(found) => self.nodes.inner().lease.found(Instant::now(), found),
                Err(error) => return failed(&self.nodes, error),
            },
            Step::Write(replaced) => {
                self.record.count = self.nodes.number();
                let bytes = match self.record.close(&self.nodes.seals) {
                    Ok(bytes) => bytes,
                    Err(refusal) => return failed(&self.nodes, ClusterError::Record(refusal)),
                };
                match bucket.write(key, bytes, replaced).await {
                    Ok(revision) => {
                        let (now, mut inner) = (Instant::now(), self.nodes.inner());
                        inner.lease.wrote(now, revision);
                        inner.roster.set_reachable(now, true);
                    }
                    Err(WriteError::NoBucket) => {
                        return failed(&self.nodes, ClusterError::Engine("the cluster's bucket is gone".into()));
                    }
                    Err(WriteError::Outrun) => self.nodes.inner().lease.outrun(Instant::now()),
                    Err(WriteError::Failed(error)) => return failed(&self.nodes, error),
                }
            }
        }
        Ok(step)
    }

    /// Is this node until `stop` says whether it is for good: then the others are told that it leaves. Otherwise a successor is expected
    /// within the lease.
    ///
    /// `bound`: where HTTP is, if the settings do not say it. `orders`: what the engine wants done in the cluster. `decisions`: what is to be
    /// good on every node. `questions`: where goes what other nodes ask.
    pub async fn run(
        mut self,
        handle: Handle,
        orders: Option<OrderOutlet>,
        decisions: Option<Decisions>,
        questions: Option<mpsc::Sender<Question>>,
        bound: String,
        stop: watch::Receiver<Option<bool>>,
    ) {
        self.record.http.get_or_insert(bound);
        if self.session.is_some() {
            self.well();
            self.nodes.inner().lease.hurry(Instant::now()); // Where HTTP is, is known now.
        }
        let own = Sender { node: self.record.node.clone(), run: self.record.run.clone() };
        let bus = Bus::new(self.nodes(), self.settings.clone(), own, handle.clone(), orders);
        let (ends, is_ended) = watch::channel(false);
        let bus = tokio::spawn(bus.run(self.nodes.lines.subscribe(), is_ended));
        let documents = decisions.map(|decisions| {
            let documents = Documents::new(self.nodes(), self.settings.clone(), decisions, handle.clone());
            Aborted(tokio::spawn(documents.run(self.nodes.lines.subscribe())))
        });
        let asks = questions.map(|questions| {
            Aborted(tokio::spawn(Asks::new(self.nodes(), questions).run(self.nodes.lines.subscribe())))
        });
        let for_good = self.be(handle, stop).await;
        drop((documents, asks));
        ends.send_replace(true);
        let _ = bus.await; // It ends by itself.
        if for_good {
            self.leave().await;
        }
    }

    /// Is this node until it is to stop; true: for good.
    async fn be(&mut self, mut handle: Handle, mut stop: watch::Receiver<Option<bool>>) -> bool {
        loop {
            self.nodes.changed.notify_one();
            let woken = tokio::select! {
                () = asked_to_stop(&mut stop) => Woken::Stop((*stop.borrow()).unwrap_or_default()),
                () = handle.readiness_changes() => Woken::Ready,
                woken = self.wait() => woken,
            };
            match woken {
                Woken::Stop(for_good) => return for_good,
                Woken::Ready => self.nodes.inner().lease.hurry(Instant::now()),
                Woken::Link(Link::Up) => self.reconnected(),
                Woken::Link(Link::Down) => self.disconnected(),
                Woken::Told(Some(entry)) => say(&self.nodes, take(&self.nodes, &entry)),
                Woken::Told(None) => self.lose_watch(),
                Woken::Due => {
                    // A stop does not wait for an engine that does not answer.
                    tokio::select! {
                        () = self.attend(&handle) => {}
                        () = asked_to_stop(&mut stop) => {}
                    }
                }
            }
        }
    }

    /// Writes into this node's record that it leaves, so that the others need not wait for its lease to end. That it is removed tells them
    /// nothing, because others than this node could remove it.
    pub async fn leave(&mut self) {
        let revision = self.nodes.inner().lease.revision();
        let (Some(Session { bucket, .. }), Some(revision)) = (&self.session, revision) else { return };
        let farewell = Record { has_left: true, count: self.nodes.number(), ..self.record.clone() };
        let Ok(bytes) = farewell.close(&self.nodes.seals) else { return };
        match bucket.write(&self.settings.node, bytes, revision).await {
            Ok(_) | Err(WriteError::Outrun | WriteError::NoBucket) => {}
            Err(WriteError::Failed(error)) => {
                tracing::warn!("the other nodes are not told that this one leaves: {error}");
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let (is_connected, due) = {
            let (now, inner) = (Instant::now(), self.nodes.inner());
            let step = match inner.lease.step(now) {
                Step::Wait(at) => at,
                Step::Look | Step::Write(_) => now,
            };
            (inner.is_connected, [Some(step), inner.roster.poll_timeout()])
        };
        let Some(Session { cluster, watch, .. }) = &mut self.session else {
            sleep(self.reopen_at.saturating_duration_since(Instant::now())).await;
            return Woken::Due;
        };
        // While it is not connected, the library tries, and says when it is.
        let reopen = watch.is_none().then_some(self.reopen_at);
        let due = due.into_iter().chain([reopen]).flatten().min().filter(|_| is_connected);
        let due = async {
            match due {
                Some(due) => sleep(due.saturating_duration_since(Instant::now())).await,
                None => std::future::pending().await,
            }
        };
        let told = async {
            match watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What is due needs a connection.
            biased;
            link = cluster.happened() => Woken::Link(link),
            entry = told => Woken::Told(entry),
            () = due => Woken::Due,
        }
    }

    /// Does what is due.
    async fn attend(&mut self, handle: &Handle) {
        if self.session.is_none() {
            if Instant::now() < self.reopen_at {
                return;
            }
            match self.open().await {
                Ok(()) => {
                    self.failures = 0;
                    self.nodes.inner().lease.hurry(Instant::now());
                }
                Err(error) => {
                    self.failures += 1;
                    self.reopen_at = Instant::now() + pause(self.failures);
                    return self.ill(&error);
                }
            }
        }
        self.reopen_watch().await;
        let step = self.nodes.inner().lease.step(Instant::now());
        if let Step::Write(_) = step {
            self.measure(handle).await;
        }
        match self.carry_out().await {
            Ok(Step::Write(_)) if self.nodes.inner().lease.is_held() => self.well(),
            Ok(_) => {
                let is_taken = self.nodes.inner().lease.taken_by().is_some();
                if is_taken {
                    let error = self.name_taken();
                    self.ill(&error);
                }
            }
            // The bucket may be gone, too.
            Err(error) => {
                self.lose_watch();
                self.ill(&error);
            }
        }
        let ended = self.nodes.inner().roster.handle_timeout(Instant::now());
        ended.into_iter().for_each(|change| say(&self.nodes, Some(change)));
    }

    async fn reopen_watch(&mut self) {
        let Some(Session { cluster, watch: None, .. }) = &self.session else { return };
        if Instant::now() < self.reopen_at {
            return;
        }
        let opened = async {
            let bucket = cluster.bucket(&self.settings).await?;
            let watch = bucket.watch().await?;
            Ok((bucket, watch))
        };
        match opened.await {
            Ok((bucket, watch)) => {
                self.look_at(&bucket);
                if let Some(session) = &mut self.session {
                    (session.bucket, session.watch) = (bucket, Some(watch));
                }
            }
            Err(error) => {
                self.put_off();
                self.ill(&error);
            }
        }
    }

    /// Notices if the bucket is another one than before.
    fn look_at(&mut self, bucket: &Bucket) {
        let was = self.bucket_made_at.replace(bucket.made_at());
        if was.is_some_and(|was| was != bucket.made_at()) {
            tracing::warn!("the cluster's bucket was lost and is made anew");
            self.nodes.inner().roster.begin_anew();
        }
    }

    fn lose_watch(&mut self) {
        if let Some(session) = &mut self.session
            && session.watch.take().is_some()
        {
            self.put_off();
        }
    }

    fn put_off(&mut self) {
        self.reopen_at = Instant::now() + spread(RETRY.min(self.settings.lease / 3));
    }

    fn reconnected(&mut self) {
        let now = Instant::now();
        let was_connected = {
            let mut inner = self.nodes.inner();
            inner.lease.hurry(now);
            std::mem::replace(&mut inner.is_connected, true)
        };
        if !was_connected {
            self.nodes.inner().reconnects += 1;
            // What was told meanwhile is told anew.
            self.lose_watch();
            self.reopen_at = now;
        }
    }

    fn disconnected(&mut self) {
        {
            let mut inner = self.nodes.inner();
            inner.is_connected = false;
            inner.roster.set_reachable(Instant::now(), false);
        }
        let servers = self.settings.servers.join(", ");
        self.ill(&ClusterError::Unreachable("the connection is lost".into(), servers));
    }

    /// Something is wrong: it is said once until it is well again, and each kind of trouble once.
    fn ill(&mut self, error: &ClusterError) {
        let text = error.to_string();
        let is_news = !self.said.contains(&discriminant(error));
        if is_news {
            self.said.push(discriminant(error));
            tracing::warn!(event = "cluster_lost", "{text}; calls go on without it, and it is tried again");
        }
        self.nodes.inner().problem = Some(text);
    }

    fn well(&mut self) {
        self.nodes.inner().problem = None;
        let is_first = !self.instance.has_joined(&self.settings);
        if is_first && let Err(error) = self.instance.remember(&self.settings) {
            tracing::warn!(%error, "the state folder does not remember the cluster: the next start waits for NATS");
        }
        if is_first || !self.said.is_empty() {
            let (cluster, node) = (&self.settings.name, &self.settings.node);
            tracing::info!(event = "cluster_joined", cluster, node, "this node is in the cluster");
        }
        self.said.clear();
    }

    /// Brings the record up to date with what this node carries.
    async fn measure(&mut self, handle: &Handle) {
        // An engine that is too busy to answer has the load that it had.
        if let Ok(Some(load)) = timeout(LOAD_TIMEOUT, handle.load()).await {
            self.record.peers = u32::try_from(load.peers).unwrap_or(u32::MAX);
            self.record.busy_permille = self.load.busy_permille(Instant::now(), &load);
            self.record.workers = load.workers.iter().map(|worker| self.settings.reached(&worker.addresses)).collect();
        }
    }
}

/// A task that ends with this.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until it is said whether the stop is for good.
async fn asked_to_stop(stop: &mut watch::Receiver<Option<bool>>) {
    // A sender that is gone has nothing more to say.
    if stop.wait_for(Option::is_some).await.is_err() {
        std::future::pending().await
    }
}

/// Whether all that stands in the bucket is sealed with other keys than this node's.
fn of_other_keys(roster: &Roster, settings: &Settings) -> Result<(), ClusterError> {
    let other = roster.refused().iter().find(|(_, refusal)| **refusal == Refusal::UnknownKey);
    match other.filter(|_| roster.nodes().is_empty()) {
        Some((node, _)) => {
            let node: String = node.chars().take(64).collect();
            Err(ClusterError::OtherKeys { node, cluster: settings.name.clone() })
        }
        None => Ok(()),
    }
}

/// Takes what stood in the bucket when the watch began.
async fn take_current(watch: &mut Watch, mut take: impl FnMut(&Entry)) {
    while let Some(entry) = watch.next().await {
        take(&entry);
        if entry.is_current() {
            return;
        }
    }
}

fn take(nodes: &Nodes, entry: &Entry) -> Option<Change> {
    let (now, told, own) = (Instant::now(), entry.told(), nodes.own());
    let mut inner = nodes.inner();
    if matches!(told, Told::Put { key, .. } if key == own.node) {
        inner.roster.told_of_itself(now);
    }
    inner.roster.take(now, &told)
}

/// A key of the bucket is written by others: the log shows no more of it than a name may have.
fn say(nodes: &Nodes, change: Option<Change>) {
    match change {
        None => {}
        Some(Change::Came(node)) => tracing::info!(event = "node_came", node, "a node is here"),
        Some(Change::Left(node)) => tracing::info!(event = "node_left", node, "a node has left"),
        Some(Change::Gone(node)) => tracing::warn!(event = "node_gone", node, "a node is gone: its lease has ended"),
        Some(Change::Refused(key, refusal)) if refusal.is_of_seal() => {
            nodes.log_refusal(Refused::Record, &key, refusal.name());
        }
        Some(Change::Refused(key, refusal)) => {
            let key: String = key.chars().take(64).collect();
            tracing::warn!(event = "record_refused", key, reason = refusal.name(), "a record is refused: {refusal}");
        }
    }
}

impl Settings {
    /// Where other nodes reach a worker that is bound to these addresses.
    fn reached(&self, bound: &[std::net::SocketAddr]) -> Vec<std::net::SocketAddr> {
        let announced = |ip| self.announce.iter().find(|(own, _)| *own == ip).map_or(ip, |(_, public)| *public);
        let mut reached: Vec<_> = match self.relay_ips.is_empty() {
            true => bound.iter().map(|at| std::net::SocketAddr::new(announced(at.ip()), at.port())).collect(),
            false => {
                let port = |ip: &std::net::IpAddr| {
                    let same = bound.iter().find(|at| at.ip() == *ip || announced(at.ip()) == *ip);
                    same.or(bound.first()).map(|at| at.port())
                };
                self.relay_ips.iter().filter_map(|ip| Some(std::net::SocketAddr::new(*ip, port(ip)?))).collect()
            }
        };
        reached.truncate(RELAY_IPS_MAX);
        reached
    }
}

/// How busy the workers are, from how long they have been busy since they were last asked.
#[derive(Debug, Default)]
struct LoadMeter {
    last: Option<(Instant, Vec<u64>)>,
}

impl LoadMeter {
    fn busy_permille(&mut self, now: Instant, load: &Load) -> u32 {
        let busy: Vec<u64> = load.workers.iter().map(|worker| worker.busy_micros).collect();
        let last = self.last.replace((now, busy.clone()));
        let Some((at, was)) = last.filter(|(_, was)| was.len() == busy.len() && !busy.is_empty()) else { return 0 };
        let elapsed = now.saturating_duration_since(at).as_micros().max(1) * busy.len() as u128;
        let spent: u64 = busy.iter().zip(was).map(|(now, was)| now.saturating_sub(was)).sum();
        (u128::from(spent) * 1000 / elapsed).min(1000) as u32
    }
}

/// Whether a node with these settings and this state folder would be let in: one sentence. It connects and looks, and makes and writes
/// nothing. Blocks for some seconds where no server answers.
pub fn inspect(settings: &Settings, state: &Path) -> Result<String, ClusterError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ClusterError::Engine(error.to_string()))?;
    let (cluster, node) = (settings.name.clone(), settings.node.clone());
    runtime.block_on(async {
        let connected = Cluster::connect(settings).await?;
        let Some(bucket) = connected.find(settings).await? else {
            return Ok(format!("cluster {cluster} answers; nobody has been in it yet"));
        };
        let seals = Arc::new(Seals::new(TokenKeys::load(state)?.map(Arc::new), &cluster));
        if bucket.count() > 0 {
            let (mut roster, mut watch) = (Roster::new(settings.lease, seals.clone()), bucket.watch().await?);
            let take = |entry: &Entry| drop(roster.take(Instant::now(), &entry.told()));
            let _ = timeout(CURRENT_TIMEOUT, take_current(&mut watch, take)).await;
            of_other_keys(&roster, settings)?;
        }
        match (bucket.look(&seals, &node).await?, Instance::load(state)) {
            (Found::Vacant(_), _) => Ok(format!("cluster {cluster} answers, and the name {node} is free")),
            (Found::Held { by: Some((instance, _)), .. }, Some(own)) if instance == own.id => {
                Ok(format!("cluster {cluster} answers, and {node} is in it"))
            }
            _ => Err(ClusterError::NameTaken { node, cluster }),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::WorkerLoad;

    #[test]
    fn a_worker_is_reached_as_announced_or_as_the_operator_says() {
        let mut settings = Settings {
            announce: vec![("10.0.0.5".parse().unwrap(), "203.0.113.7".parse().unwrap())],
            ..Settings::example()
        };
        let bound = ["10.0.0.5:40001".parse().unwrap(), "[2001:db8::1]:40003".parse().unwrap()];
        let shown = |settings: &Settings| settings.reached(&bound).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&settings), ["203.0.113.7:40001", "[2001:db8::1]:40003"]);
        settings.relay_ips = vec!["2001:db8::1".parse().unwrap(), "192.168.0.5".parse().unwrap()];
        assert_eq!(shown(&settings), ["[2001:db8::1]:40003", "192.168.0.5:40001"]);
        settings.relay_ips = vec!["203.0.113.7".parse().unwrap(); 9];
        assert_eq!(shown(&settings), ["203.0.113.7:40001"; RELAY_IPS_MAX]);
        assert!(settings.reached(&[]).is_empty());
    }

    #[test]
    fn load_is_the_mean_of_the_workers_since_the_last_look() {
        let (mut meter, now) = (LoadMeter::default(), Instant::now());
        let load = |busy: &[u64]| Load {
            peers: 0,
            workers: busy.iter().map(|&busy_micros| WorkerLoad { busy_micros, addresses: Vec::new() }).collect(),
        };
        assert_eq!(meter.busy_permille(now, &load(&[9_000_000, 0])), 0, "nothing to compare with");
        let later = now + Duration::from_secs(5);
        assert_eq!(meter.busy_permille(later, &load(&[11_000_000, 1_000_000])), 300);
        assert_eq!(meter.busy_permille(later, &load(&[99_000_000, 99_000_000])), 1000, "no more than all");
        assert_eq!(meter.busy_permille(later + Duration::from_secs(5), &load(&[0, 0])), 0, "another dataplane");
        assert_eq!(meter.busy_permille(later + Duration::from_secs(9), &load(&[])), 0);
    }
}
