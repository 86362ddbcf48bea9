//! The task that makes what operators decide good on every node: it writes what was decided here into a bucket, and brings into force
//! what others wrote there. Which of two decisions is later, [`crate::shared`] says.
//!
//! The bucket is how nodes tell each other, and no more than that: each node has all documents in its own state folder, and what the bucket has
//! lost is written again by whoever has it. So NATS that is away, or that lost something, takes nothing back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use jsonwebtoken::get_current_timestamp;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::cluster::{Entry, Line, Made, Shelf, Standing, Watch, WriteError, spread};
use super::roster::Told;
use super::seal::{Kind, SealRefusal, WRAP_LEN_MAX};
use super::settings::Settings;
use super::{Nodes, Refused};
use crate::administering::Administering;
use crate::driver::Handle;
use crate::engine::{OperatorError, OperatorRequest};
use crate::registry::{Registry, Taken};
use crate::revocations::{KEPT_S, Revocation};
use crate::shared::{Content, DOCUMENT_LEN_MAX, Document, DocumentRefusal, Subject};

/// Bytes of the bucket: all revocations and rooms that a server can have, and what was taken back.
const BUCKET_LEN_MAX: i64 = 64 * 1024 * 1024;

/// How long a revocation stays in the bucket, and what was taken back: as long as any token could be concerned by it. NATS counts it.
const STAYS: Duration = Duration::from_secs(KEPT_S);

/// How long what stands in the bucket may take to be told.
const CURRENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is looked whether the bucket is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Documents that are written again in the place of what nobody has sealed, each time that it is looked whether the bucket is there:
/// whoever writes such things without end does not make this node write as much.
const MENDED_MAX: usize = 64;

/// Keys that are remembered for that.
const SPOILED_MAX: usize = 4096;

/// Writes and looks until one document stands.
const STEPS_MAX: usize = 8;

/// What the task has done, for metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct DocumentCounts {
    pub(super) taken: u64,
    pub(super) written: u64,
    /// In the order of [`DocumentRefusal::NAMES`].
    pub(super) refused: [u64; DocumentRefusal::NAMES.len()],
}

/// What the task needs of its edge.
#[derive(Clone, Debug)]
pub struct Decisions {
    /// What was decided.
    pub registry: Arc<Registry>,
    /// One decision at a time.
    pub administering: Arc<Administering>,
}

/// See the module.
pub(super) struct Documents {
    nodes: Arc<Nodes>,
    settings: Settings,
    decisions: Decisions,
    handle: Handle,
    /// Revisions of what stands in the bucket, by key.
    revisions: HashMap<String, u64>,
    /// When what failed is tried again.
    retry_at: Option<Instant>,
    has_changed: bool,
    /// The bucket is gone.
    is_lost: bool,
    /// Keys under which something stands that no node has sealed.
    spoiled: BTreeSet<String>,
    /// Keys under which stands what this node has, without a seal by the newest signing key.
    outdated: BTreeSet<String>,
    /// The keys by which all that this node has is sealed.
    sealed_by: Vec<String>,
}

/// Waits until the connection is another one.
async fn another(standing: &mut watch::Receiver<Standing>, connection: u64) {
    // A connection that ends for good is not made again.
    if standing.wait_for(|standing| standing.connections != connection).await.is_err() {
        std::future::pending().await
    }
}

/// Something in the way, which was said in the log.
struct Failed;

impl Documents {
    pub(super) fn new(nodes: Arc<Nodes>, settings: Settings, decisions: Decisions, handle: Handle) -> Documents {
        Documents {
            nodes,
            settings,
            decisions,
            handle,
            revisions: HashMap::new(),
            retry_at: None,
            has_changed: false,
            is_lost: false,
            spoiled: BTreeSet::new(),
            outdated: BTreeSet::new(),
            sealed_by: Vec::new(),
        }
    }

    /// The bucket.
    pub(super) fn shelf(line: &Line, settings: &Settings) -> Shelf {
        Shelf::new(line, settings, "shared", (BUCKET_LEN_MAX, DOCUMENT_LEN_MAX + WRAP_LEN_MAX))
    }

    /// Runs for ever. `lines` brings the connection when there is one.
    pub(super) async fn run(mut self, mut lines: watch::Receiver<Option<Line>>) {
        let node = self.settings.node.clone();
        self.decisions.registry.note(|rules| rules.join(&node));
        let line = lines.wait_for(Option::is_some).await.ok().and_then(|line| line.clone());
        let Some(line) = line else { return };
        let shelf = Self::shelf(&line, &self.settings);
        let mut standing = line.standing();
        loop {
            let connection = {
                let up = standing.wait_for(|standing| standing.is_up).await;
                up.map(|standing| standing.connections)
            };
            let Ok(connection) = connection else { return };
            let opened = async {
                let made = shelf.make().await?;
                let watch = shelf.watch().await?;
                Ok::<_, super::ClusterError>((made, watch))
            };
            match opened.await {
                Ok((made, watch)) => {
                    self.nodes.inner().documents_problem = None;
                    self.attend(&shelf, made, watch, &mut standing, connection).await;
                }
                Err(error) => self.failed("what operators decide cannot be shared", &error),
            }
            sleep(spread(RETRY)).await;
        }
    }

    /// Until the bucket has to be watched anew.
    async fn attend(
        &mut self,
        shelf: &Shelf,
        made: Made,
        mut watch: Watch,
        standing: &mut watch::Receiver<Standing>,
        connection: u64,
    ) {
        self.revisions.clear();
        self.outdated.clear();
        self.sealed_by = self.nodes.seals.ids();
        if made.count > 0 {
            // First all of it, as fast as it comes, and then what it says: the queue of messages is shorter than the bucket.
            let current = async {
                let mut entries = Vec::new();
                while let Some(entry) = watch.next().await {
                    let is_current = entry.is_current();
                    entries.push(entry);
                    if is_current {
                        return Some(entries);
                    }
                }
                None
            };
            let Ok(Some(entries)) = timeout(CURRENT_TIMEOUT, current).await else { return };
            for entry in &entries {
                self.take(entry).await;
            }
        }
        // What the bucket does not have: decided while it was away, or lost by it; or not by a key that stays when older ones are removed.
        let (revisions, outdated) = (&self.revisions, std::mem::take(&mut self.outdated));
        self.say_again(|key| !revisions.contains_key(key) || outdated.contains(key));
        let decisions = self.decisions.clone();
        let mut look_at = Instant::now() + spread(LOOK_INTERVAL);
        loop {
            self.save().await;
            if self.push_all(shelf).await.is_err() {
                if std::mem::take(&mut self.is_lost) {
                    return;
                }
                self.retry_at = Some(Instant::now() + spread(RETRY));
            }
            let due = self.retry_at.map_or(look_at, |retry_at| retry_at.min(look_at));
            tokio::select! {
                entry = watch.next() => match entry {
                    Some(entry) => {
                        self.take(&entry).await;
                        // All that is there, so that it is written down once.
                        while let Some(Some(entry)) = watch.next().now_or_never() {
                            self.take(&entry).await;
                        }
                    }
                    None => return,
                },
                () = decisions.administering.decided() => {}
                () = sleep(due.saturating_duration_since(Instant::now())) => {
                    self.retry_at = None;
                    if Instant::now() >= look_at {
                        look_at = Instant::now() + spread(LOOK_INTERVAL);
                        self.mend();
                        // Made anew, it tells nothing of it.
                        if shelf.found().await.is_ok_and(|found| found.is_none_or(|found| found.at != made.at)) {
                            return;
                        }
                    }
                }
                () = another(standing, connection) => return,
            }
        }
    }

    /// Writes documents that this node has into the bucket once more.
    fn say_again(&self, is_to_be: impl Fn(&str) -> bool) {
        self.decisions.registry.note(|rules| {
            let subjects: Vec<Subject> = rules.ledger.subjects().cloned().collect();
            let again = subjects.into_iter().filter(|subject| is_to_be(&subject.key()));
            again.for_each(|subject| rules.ledger.unsay(subject));
        });
    }

    /// Writes again what others have written over, and everything when a signing key was added or removed: what is sealed by none of the
    /// keys that there are tells a new node nothing.
    fn mend(&mut self) {
        let ids = self.nodes.seals.ids();
        if ids != self.sealed_by {
            self.sealed_by = ids;
            self.say_again(|_| true);
        }
        let spoiled: BTreeSet<String> = self.spoiled.iter().take(MENDED_MAX).cloned().collect();
        if !spoiled.is_empty() {
            self.spoiled.retain(|key| !spoiled.contains(key));
            self.say_again(|key| spoiled.contains(key));
        }
    }

    /// What stands under a key, if a node has sealed it.
    fn open(&self, key: &str, bytes: &[u8]) -> Result<Document, DocumentRefusal> {
        if bytes.len() > DOCUMENT_LEN_MAX + WRAP_LEN_MAX {
            return Err(DocumentRefusal::TooLong);
        }
        let opened = self.nodes.seals.unwrap(Kind::Document, &[key], bytes);
        Document::parse(
            key,
            opened.map_err(|refusal| match refusal {
                SealRefusal::Unsealed => DocumentRefusal::Unsealed,
                SealRefusal::UnknownKey => DocumentRefusal::UnknownKey,
                SealRefusal::Forged => DocumentRefusal::Forged,
            })?,
        )
    }

    /// Brings into force what stands in the bucket, if it is later than what is known.
    async fn take(&mut self, entry: &Entry) {
        let Told::Put { key, revision, bytes } = entry.told() else { return };
        self.revisions.insert(key.to_owned(), revision);
        self.take_bytes(key, bytes).await;
    }

    async fn take_bytes(&mut self, key: &str, bytes: &[u8]) {
        let taken = match self.open(key, bytes) {
            Ok(document) => {
                let taken = self.take_document(&document).await;
                self.sealed_as_known(key, &document, bytes);
                taken
            }
            Err(refusal) => {
                if self.spoiled.len() < SPOILED_MAX {
                    self.spoiled.insert(key.to_owned());
                }
                Err(refusal)
            }
        };
        if let Err(refusal) = taken {
            self.nodes.inner().documents.refused[refusal as usize] += 1;
            self.nodes.log_refusal(Refused::Document, key, DocumentRefusal::NAMES[refusal as usize]);
        }
    }

    /// What this node has stands in the bucket: by a seal that stays, then it need not be written, or by another one.
    fn sealed_as_known(&mut self, key: &str, document: &Document, bytes: &[u8]) {
        let is_known = |rules: &crate::registry::Rules| rules.document(&document.subject).as_ref() == Some(document);
        if self.decisions.registry.read(is_known) {
            match self.nodes.seals.is_of_newest(bytes) {
                true => self.said(document),
                false => drop(self.outdated.insert(key.to_owned())),
            }
        }
    }

    async fn take_document(&mut self, document: &Document) -> Result<(), DocumentRefusal> {
        let Decisions { registry, administering } = self.decisions.clone();
        let _turn = administering.turn().await;
        let now = get_current_timestamp();
        match registry.read(|rules| rules.compare(document, now)) {
            Taken::Later => {}
            Taken::Earlier => return registry.change(|rules| rules.take(document, now)).map(drop),
            Taken::Known => return Ok(()), // Often: whatever this node wrote itself comes back.
        }
        let order = match (&document.subject, &document.content) {
            (Subject::Room(room), Some(Content::Policy(policy))) => {
                Some(OperatorRequest::SetRoom { room: room.clone(), policy: policy.clone() })
            }
            (Subject::Room(room), _) => Some(OperatorRequest::DeleteRoom { room: room.clone() }),
            (Subject::Revocation(..), Some(Content::Revocation(Revocation { room, whose, .. }))) => {
                Some(OperatorRequest::Revoke { room: room.clone(), whose: whose.clone() })
            }
            (Subject::Revocation(..), _) => None,
        };
        let is_limits = matches!(order, Some(OperatorRequest::SetRoom { .. }));
        // Limits first, because the engine may have its number of rooms; what is revoked first in force, so that nobody comes back in.
        if is_limits && self.order(order.clone()).await == Some(OperatorError::TooManyRooms) {
            return Err(DocumentRefusal::TooMany);
        }
        registry.change(|rules| rules.take(document, now))?;
        if !is_limits {
            self.order(order).await;
        }
        self.has_changed = true;
        self.nodes.inner().documents.taken += 1;
        Ok(())
    }

    /// Has the engine do something. Nobody there is no error.
    async fn order(&self, order: Option<OperatorRequest>) -> Option<OperatorError> {
        self.handle.ask_operator(order?).await?.err()
    }

    /// Writes down what came into force. What cannot be written is written again later, as of a request.
    async fn save(&mut self) {
        if std::mem::take(&mut self.has_changed) {
            let registry = self.decisions.registry.clone();
            if !matches!(tokio::task::spawn_blocking(move || registry.save()).await, Ok(Ok(()))) {
                tracing::error!(
                    "the registry cannot be written: what another node decided holds, but not after a restart"
                );
            }
        }
    }

    /// Writes into the bucket what was decided here.
    async fn push_all(&mut self, shelf: &Shelf) -> Result<(), Failed> {
        let unsaid: BTreeSet<Subject> = self.decisions.registry.read(|rules| rules.ledger.unsaid().clone());
        for subject in unsaid {
            self.push(shelf, &subject).await?;
        }
        Ok(())
    }

    async fn push(&mut self, shelf: &Shelf, subject: &Subject) -> Result<(), Failed> {
        let key = subject.key();
        for _ in 0..STEPS_MAX {
            let document = self.decisions.registry.read(|rules| rules.document(subject));
            let is_unsaid = self.decisions.registry.read(|rules| rules.ledger.unsaid().contains(subject));
            let (Some(document), true) = (document, is_unsaid) else { return Ok(()) };
            let bytes = match document.write() {
                Ok(bytes) => self.nodes.seals.wrap(Kind::Document, &[&key], &bytes),
                // It came from a file of an earlier version, or of another hand.
                Err(_) => {
                    self.said(&document);
                    return Ok(());
                }
            };
            let stays = (!matches!(document.content, Some(Content::Policy(_)))).then_some(STAYS);
            let replaced = self.revisions.get(&key).copied().unwrap_or_default();
            match shelf.write(&key, &bytes, replaced, stays).await {
                Ok(revision) => {
                    self.revisions.insert(key, revision);
                    self.said(&document);
                    self.nodes.inner().documents.written += 1;
                    return Ok(());
                }
                Err(WriteError::Outrun) => match shelf.look(&key).await {
                    Ok(Some((revision, bytes))) => {
                        self.revisions.insert(key.clone(), revision);
                        // Nothing is the mark of a hand that deleted it: then it is written again.
                        if !bytes.is_empty() {
                            self.take_bytes(&key, &bytes).await;
                        }
                    }
                    Ok(None) => drop(self.revisions.remove(&key)),
                    Err(error) => return self.not_written(&error),
                },
                Err(WriteError::NoBucket) => {
                    self.is_lost = true;
                    return Err(Failed);
                }
                Err(WriteError::Failed(error)) => return self.not_written(&error),
            }
        }
        Err(Failed)
    }

    /// The bucket has this document, unless something was decided meanwhile.
    fn said(&self, document: &Document) {
        self.decisions.registry.note(|rules| {
            if rules.ledger.stamp(&document.subject) == Some(&document.stamp) {
                rules.ledger.said(&document.subject);
            }
        });
    }

    fn not_written(&self, error: &super::ClusterError) -> Result<(), Failed> {
        self.failed("what was decided here holds here, and is not told to the other nodes yet", error);
        Err(Failed)
    }

    fn failed(&self, what: &str, error: &super::ClusterError) {
        let text = format!("{what}: {error}");
        let mut inner = self.nodes.inner();
        if inner.documents_problem.replace(text.clone()).as_ref() != Some(&text) {
            tracing::warn!(event = "cluster_lost", "{text}");
        }
    }
}
