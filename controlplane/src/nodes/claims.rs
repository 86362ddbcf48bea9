//! Who admits peers to which room, in a bucket of its own: one key for each room, and only who knows the revision that stands there may
//! replace it. The revision only rises, so it is the epoch of the claim.
//!
//! A claim that is given up is removed without a mark, so that the bucket holds the rooms that there are, and not all that ever were.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::cluster::{ClusterError, Line, Shelf, WriteError};
use super::message::key_of;
use super::record::{is_name, is_run};
use super::roster::Told;
use super::seal::{Kind, SealRefusal, Seals, WRAP_LEN_MAX};
use super::settings::Settings;
use super::{Nodes, Refused};
use crate::bus::{Claim, Sender};

/// Bytes of the bucket: 300,000 rooms.
const CLAIMS_LEN_MAX: i64 = 64 * 1024 * 1024;

/// Longest claim with its seal. Names of a room and a node have 96 bytes together.
const CLAIM_LEN_MAX: usize = 1024 + WRAP_LEN_MAX;

/// How long the answer may take, from when it is asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The bucket.
pub(super) fn shelf(line: &Line, settings: &Settings) -> Shelf {
    Shelf::new(line, settings, "rooms", (CLAIMS_LEN_MAX, CLAIM_LEN_MAX))
}

/// Errands that are under way at once. Each takes part of a millisecond if the engine is well.
const UNDER_WAY_MAX: usize = 64;

/// Errands that wait for that.
const WAITING_MAX: usize = 4096;

/// Writes and looks until it is known whose a room is. More are needed only while several nodes claim and give up at once.
const STEPS_MAX: usize = 4;

/// As it stands in the bucket.
#[derive(Serialize, Deserialize)]
struct Written {
    room: String,
    node: String,
    run: String,
}

/// What stands under the key of a room.
#[derive(PartialEq, Eq, Debug)]
enum Standing {
    /// The mark of an entry that was removed by hand.
    Vacant,
    Held(Sender),
    /// Nothing that a node has sealed. It takes no room.
    Refused(SealRefusal),
    /// Nothing that this version writes.
    Malformed,
}

fn read(seals: &Seals, room: &str, bytes: &[u8]) -> Standing {
    if bytes.is_empty() {
        return Standing::Vacant;
    }
    if bytes.len() > CLAIM_LEN_MAX {
        return Standing::Malformed;
    }
    let bytes = match seals.unwrap(Kind::Claim, &[&key_of(room)], bytes) {
        Ok(bytes) => bytes,
        Err(refusal) => return Standing::Refused(refusal),
    };
    match serde_json::from_slice(bytes) {
        Ok(Written { room: of, node, run }) if of == room && is_name(&node) && is_run(&run) => {
            Standing::Held(Sender { node, run })
        }
        _ => Standing::Malformed,
    }
}

/// Which of its own claims a node gives up: those of its earlier runs, which are dead.
fn is_left_over(seals: &Seals, key: &str, bytes: &[u8], own: &Sender) -> bool {
    let written = seals.unwrap(Kind::Claim, &[key], bytes).ok().and_then(|bytes| serde_json::from_slice(bytes).ok());
    written.is_some_and(|Written { node, run, .. }| node == own.node && run != own.run)
}

/// What is to be done in the bucket.
#[derive(Debug)]
pub(super) enum Errand {
    Claim { room: String, replaced: u64 },
    Release { room: String, revision: u64 },
}

impl Errand {
    fn room(&self) -> &str {
        match self {
            Errand::Claim { room, .. } | Errand::Release { room, .. } => room,
        }
    }
}

/// What came of it: an answer for a claim, none for what was given up.
pub(super) type Outcome = (String, Option<Claim>);

/// The errands of a node. Those of one room are done one after the other, others beside each other.
#[derive(Debug)]
pub(super) struct Claims {
    shelf: Arc<Shelf>,
    nodes: Arc<Nodes>,
    waiting: VecDeque<(Instant, Errand)>,
    /// Rooms with one under way.
    busy: BTreeSet<String>,
    under_way: JoinSet<Outcome>,
    /// When what earlier runs of this node have left is given up; `None`: it was, or is being.
    sweep_at: Option<Instant>,
    sweep_pause: Duration,
    sweeps: JoinSet<bool>,
}

impl Claims {
    /// `sweep_pause`: after how long this run has claimed again what it goes on with.
    pub(super) fn new(shelf: Shelf, nodes: Arc<Nodes>, sweep_pause: Duration) -> Claims {
        Claims {
            shelf: Arc::new(shelf),
            nodes,
            waiting: VecDeque::new(),
            busy: BTreeSet::new(),
            under_way: JoinSet::new(),
            sweep_at: Some(Instant::now() + sweep_pause),
            sweep_pause,
            sweeps: JoinSet::new(),
        }
    }

    /// Begins an errand, or puts it off. Gives back the one that there is no room for.
    pub(super) fn push(&mut self, errand: Errand) -> Result<(), Errand> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(errand);
        }
        self.waiting.push_back((Instant::now() + ANSWER_TIMEOUT, errand));
        self.begin();
        Ok(())
    }

    /// Begins what may begin.
    fn begin(&mut self) {
        while self.under_way.len() < UNDER_WAY_MAX {
            let may_begin = |(_, errand): &(Instant, Errand)| !self.busy.contains(errand.room());
            let Some(at) = self.waiting.iter().position(may_begin) else { return };
            let Some((due, errand)) = self.waiting.remove(at) else { return };
            self.busy.insert(errand.room().to_owned());
            self.under_way.spawn(run(self.shelf.clone(), self.nodes.clone(), due, errand));
        }
    }

    /// The next outcome. Never ends while there is none.
    pub(super) async fn next(&mut self) -> Outcome {
        loop {
            let sweep_at = self.sweep_at;
            let due = async {
                match sweep_at {
                    Some(at) => sleep(at.saturating_duration_since(Instant::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // One that fails has panicked, or the process ends: nothing else aborts one.
                Some(Ok((room, claim))) = self.under_way.join_next() => {
                    self.busy.remove(&room);
                    self.begin();
                    return (room, claim);
                }
                Some(swept) = self.sweeps.join_next() => {
                    self.sweep_at = (!swept.unwrap_or_default()).then(|| Instant::now() + self.sweep_pause);
                }
                () = due => {
                    self.sweep_at = None;
                    self.sweeps.spawn(sweep(self.shelf.clone(), self.nodes.clone()));
                }
            }
        }
    }

    /// Whether there is nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }
}

/// Gives up what earlier runs of this node have left: rooms that nobody uses any more would else stay for ever. False: to be tried again.
async fn sweep(shelf: Arc<Shelf>, nodes: Arc<Nodes>) -> bool {
    let own = nodes.own();
    let swept = async {
        if shelf.make().await?.count == 0 {
            return Ok(0);
        }
        let (mut watch, mut left_over) = (shelf.watch().await?, Vec::new());
        while let Ok(Some(entry)) = timeout(ANSWER_TIMEOUT, watch.next()).await {
            if let Told::Put { key, revision, bytes } = entry.told()
                && is_left_over(&nodes.seals, key, bytes, &own)
            {
                left_over.push(revision);
            }
            if entry.is_current() {
                break;
            }
        }
        drop(watch);
        for revision in &left_over {
            shelf.remove(*revision).await?;
        }
        Ok::<usize, ClusterError>(left_over.len())
    };
    match swept.await {
        Ok(0) => true,
        Ok(count) => {
            tracing::info!(count, "claims of rooms are given up that an earlier run of this node had left");
            true
        }
        Err(error) => {
            tracing::debug!("claims of an earlier run of this node are not given up: {error}");
            false
        }
    }
}

async fn run(shelf: Arc<Shelf>, nodes: Arc<Nodes>, due: Instant, errand: Errand) -> Outcome {
    let rest = due.saturating_duration_since(Instant::now());
    match errand {
        Errand::Claim { room, replaced } => {
            let claim = timeout(rest, claim(&shelf, &nodes, &room, replaced)).await.unwrap_or(Claim::Unknown);
            (room, Some(claim))
        }
        Errand::Release { room, revision } => {
            // A claim that stays is found by whoever claims the room next.
            if let Ok(Err(error)) = timeout(rest, shelf.remove(revision)).await {
                tracing::debug!("a claim of a room is not given up: {error}");
            }
            (room, None)
        }
    }
}

async fn claim(shelf: &Shelf, nodes: &Nodes, room: &str, mut replaced: u64) -> Claim {
    let (key, own) = (key_of(room), nodes.own());
    let written = Written { room: room.to_owned(), node: own.node.clone(), run: own.run.clone() };
    let Ok(bytes) = serde_json::to_vec(&written) else { return Claim::Unknown };
    let bytes = nodes.seals.wrap(Kind::Claim, &[&key], &bytes);
    for _ in 0..STEPS_MAX {
        match shelf.write(&key, &bytes, replaced, None).await {
            Ok(revision) => return Claim::Ours { revision },
            Err(WriteError::Outrun) => {}
            Err(WriteError::NoBucket) => match shelf.make().await {
                Ok(_) => {
                    replaced = 0;
                    continue;
                }
                Err(error) => return unknown(room, &error),
            },
            Err(WriteError::Failed(error)) => return unknown(room, &error),
        }
        match shelf.look(&key).await {
            Ok(None) => replaced = 0,
            Ok(Some((revision, bytes))) => match read(&nodes.seals, room, &bytes) {
                Standing::Vacant => replaced = revision,
                Standing::Refused(refusal) => {
                    nodes.inner().bus.claims_refused[refusal as usize] += 1;
                    nodes.log_refusal(Refused::Claim, &key, SealRefusal::NAMES[refusal as usize]);
                    replaced = revision;
                }
                // A write of ours whose answer was lost.
                Standing::Held(owner) if owner == own => return Claim::Ours { revision },
                Standing::Held(owner) => return Claim::Theirs { owner, revision },
                Standing::Malformed => {
                    tracing::warn!(room, "what stands in the cluster's bucket of rooms cannot be read");
                    return Claim::Unknown;
                }
            },
            Err(error) => return unknown(room, &error),
        }
    }
    Claim::Unknown
}

fn unknown(room: &str, error: &dyn std::error::Error) -> Claim {
    tracing::debug!(room, "the cluster does not say whose a room is: {error}");
    Claim::Unknown
}

#[cfg(test)]
mod tests {
    use super::super::seal::tests::seals;
    use super::*;

    #[test]
    fn what_stands_in_the_bucket_is_checked() {
        let key = key_of("standup");
        let sealed = |text: &str| seals(7).wrap(Kind::Claim, &[&key], text.as_bytes());
        let read = |room: &str, bytes: &[u8]| read(&seals(7), room, bytes);
        let good = r#"{"room":"standup","node":"fra1","run":"0123456789abcdef"}"#;
        let sender = Sender { node: "fra1".into(), run: "0123456789abcdef".into() };
        assert_eq!(read("standup", &sealed(good)), Standing::Held(sender));
        assert_eq!(read("standup", good.as_bytes()), Standing::Refused(SealRefusal::Unsealed));
        let other = seals(8).wrap(Kind::Claim, &[&key], good.as_bytes());
        assert_eq!(read("standup", &other), Standing::Refused(SealRefusal::UnknownKey));
        assert_eq!(read("else", &sealed(&good.replace("standup", "else"))), Standing::Refused(SealRefusal::Forged));
        assert_eq!(read("standup", &[b'x'; CLAIM_LEN_MAX + 1]), Standing::Malformed);
        assert_eq!(read("standup", b""), Standing::Vacant);
        for bad in [
            "{}",
            "[",
            &good.replace("standup", "else"),
            &good.replace("fra1", "fra 1"),
            &good.replace("0123456789abcdef", "0123"),
        ] {
            assert_eq!(read("standup", &sealed(bad)), Standing::Malformed, "{bad}");
        }
        let own = |node: &str, run: &str| Sender { node: node.into(), run: run.into() };
        let is_left_over = |bytes: &[u8], own: &Sender| is_left_over(&seals(7), &key, bytes, own);
        assert!(is_left_over(&sealed(good), &own("fra1", "ffffffffffffffff")));
        assert!(!is_left_over(&sealed(good), &own("fra1", "0123456789abcdef")), "this run's");
        assert!(!is_left_over(&sealed(good), &own("fra2", "ffffffffffffffff")), "another node's");
        assert!(!is_left_over(good.as_bytes(), &own("fra1", "ffffffffffffffff")), "of another hand");
        assert!(!is_left_over(b"", &own("fra1", "ffffffffffffffff")));
        let longest = Written { room: "x".repeat(64), node: "y".repeat(32), run: "z".repeat(16) };
        assert!(serde_json::to_vec(&longest).unwrap().len() + WRAP_LEN_MAX <= CLAIM_LEN_MAX);
    }
}
