//! Rooms and peers of the whole cluster: what this server does not have itself is asked of the other nodes, and what they ask is answered.
//! The token of the operator is checked where the request comes in and is not sent on; a node proves by a signature with the signing key,
//! which all nodes have, that it may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::http::StatusCode;
use futures_util::future::join_all;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::limits::RoomView;
use super::views::PeerView;
use super::{PAGE_MAX, Problem, Site, ask_engine, engine_gone, sample};
use crate::auth::{Claims, is_room_name};
use crate::bus::Sender;
use crate::engine::OperatorRequest;
use crate::hex;
use crate::nodes::{Nodes, Question, Questions};

/// Bytes of a part of a list that one node answers with. A peer with 24 slots has about 8 KB.
const PART_LEN_MAX: usize = 512 * 1024;

/// The room in a proof. It permits nothing in it.
const PROOF_ROOM: &str = "proof-of-a-node";

/// Numbers of questions that are remembered of each node: an older one is taken for a repeated one.
const ASKED_KEPT: usize = 256;

/// Nodes of which that is remembered.
const NODES_KEPT: usize = 1024;

/// What nodes ask each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Ask {
    /// Rooms with somebody in them, by name.
    Rooms { after: Option<String> },
    /// One of them.
    Room { room: String },
    /// Who is in a room, by id.
    Peers { room: String, after: Option<String> },
    /// One of them.
    Peer { room: String, peer: String },
    /// Remove a peer.
    Remove { room: String, peer: String },
    /// Take a peer to another room.
    Move { room: String, peer: String, to: String },
    /// Mute or unmute a track.
    Mute { room: String, peer: String, mid: String, is_muted: bool },
}

/// An answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Value),
    Refused { status: u16, code: String, detail: String },
}

/// Part of a list, in the order of the keys.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) entries: Vec<(String, Value)>,
    /// Whether there are more behind them.
    has_more: bool,
}

impl Part {
    /// Of all entries, those behind `after`, as many as a page can have.
    pub(super) fn of(all: impl IntoIterator<Item = (String, Value)>, after: Option<&str>) -> Part {
        let all: BTreeMap<String, Value> =
            all.into_iter().filter(|(key, _)| after.is_none_or(|a| key.as_str() > a)).collect();
        let mut part = Part::default();
        let mut len = 0;
        for (key, entry) in all {
            len += entry.to_string().len() + key.len();
            if part.entries.len() > PAGE_MAX || !part.entries.is_empty() && len > PART_LEN_MAX {
                part.has_more = true;
                break;
            }
            part.entries.push((key, entry));
        }
        part
    }

    /// Up to where it says everything.
    fn end(&self) -> Option<&String> {
        self.entries.last().map(|(key, _)| key).filter(|_| self.has_more)
    }
}

/// What all nodes said: parts that are one list, up to where it is known; and who did not answer.
pub(super) struct Gathered {
    pub(super) parts: Vec<Part>,
    pub(super) unanswered: Vec<String>,
}

impl Gathered {
    /// The entries in order, those of one key as one. And the key behind which more may follow.
    pub(super) fn merge(self, combine: impl Fn(&mut Value, Value)) -> (Vec<(String, Value)>, Option<String>) {
        let end = self.parts.iter().filter_map(Part::end).min().cloned();
        let mut merged: BTreeMap<String, Value> = BTreeMap::new();
        for (key, entry) in self.parts.into_iter().flat_map(|part| part.entries) {
            match merged.entry(key) {
                std::collections::btree_map::Entry::Vacant(vacant) => drop(vacant.insert(entry)),
                std::collections::btree_map::Entry::Occupied(mut occupied) => combine(occupied.get_mut(), entry),
            }
        }
        merged.retain(|key, _| end.as_ref().is_none_or(|end| key <= end));
        (merged.into_iter().collect(), end)
    }
}

impl Ask {
    fn room(&self) -> Option<&str> {
        match self {
            Ask::Rooms { .. } => None,
            Ask::Room { room }
            | Ask::Peers { room, .. }
            | Ask::Peer { room, .. }
            | Ask::Remove { room, .. }
            | Ask::Move { room, .. }
            | Ask::Mute { room, .. } => Some(room),
        }
    }

    /// What this server answers, by what it has itself.
    pub(super) async fn answer(self, site: &Site) -> Result<Value, Problem> {
        if self.room().is_some_and(|room| !is_room_name(room)) {
            return Err(Problem::room_name());
        }
        match self {
            Ask::Rooms { after } => {
                let rooms = RoomView::live(&sample(site).await?.snapshot, site.node());
                let all = rooms.iter().map(|view| (view.room.clone(), shown(view)));
                Ok(shown(&Part::of(all, after.as_deref())))
            }
            Ask::Room { room } => {
                let rooms = RoomView::live(&sample(site).await?.snapshot, site.node());
                let found = rooms.iter().find(|view| view.room == room);
                found.map(shown).ok_or_else(no_room)
            }
            Ask::Peers { room, after } => {
                let peers = peers_in(site, &room).await?;
                let all = peers.iter().map(|view| (view.peer.clone(), shown(view)));
                Ok(shown(&Part::of(all, after.as_deref())))
            }
            Ask::Peer { room, peer } => find(site, &room, &peer).await,
            Ask::Remove { room, peer } => {
                ask_engine(site, OperatorRequest::RemovePeer { room, peer }).await?;
                Ok(Value::Null)
            }
            Ask::Move { room, peer, to } => {
                let order = OperatorRequest::MovePeer { room, peer: peer.clone(), to: to.clone() };
                ask_engine(site, order).await?;
                find(site, &to, &peer).await
            }
            Ask::Mute { room, peer, mid, is_muted } => {
                let order = OperatorRequest::MuteTrack { room: room.clone(), peer: peer.clone(), mid, is_muted };
                ask_engine(site, order).await?;
                find(site, &room, &peer).await
            }
        }
    }

    /// The same of the one node that has what is asked for: this one, or another.
    pub(super) async fn of_one(self, site: &Site) -> Result<Value, Problem> {
        let own = self.clone().answer(site).await;
        let Some(nodes) = site.nodes.as_ref() else { return own };
        let problem = match own {
            Err(problem) if is_absence(&problem) => problem,
            own => return own,
        };
        let mut silent = Vec::new();
        let mut absence = problem;
        for (node, answer) in ask_all(site, nodes, &self).await {
            match answer {
                None => silent.push(node),
                Some(Err(problem)) if problem.code() == "no_room" => {}
                Some(Err(problem)) if is_absence(&problem) => absence = problem,
                Some(answer) => return answer,
            }
        }
        if silent.is_empty() {
            return Err(absence);
        }
        let detail = format!("{}; these nodes do not answer: {}", absence.detail(), silent.join(", "));
        Err(Problem::new(absence.status(), absence.code(), detail))
    }

    /// Parts of all nodes, this one's `own` first.
    pub(super) async fn of_all(self, site: &Site, own: Part) -> Gathered {
        let mut gathered = Gathered { parts: vec![own], unanswered: Vec::new() };
        let Some(nodes) = site.nodes.as_ref() else { return gathered };
        for (node, answer) in ask_all(site, nodes, &self).await {
            match answer.and_then(Result::ok).and_then(|value| serde_json::from_value(value).ok()) {
                Some(part) => gathered.parts.push(part),
                None => gathered.unanswered.push(node),
            }
        }
        gathered
    }
}

/// JSON of what is shown.
pub(super) fn shown(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Whether a node says that it does not have what is asked for.
fn is_absence(problem: &Problem) -> bool {
    ["no_room", "no_peer"].contains(&problem.code())
}

/// Who is in a room on this server.
pub(super) async fn peers_in(site: &Site, room: &str) -> Result<Vec<PeerView>, Problem> {
    let peers = site.handle.measure(room).await.ok_or_else(engine_gone)?;
    Ok(peers.iter().map(|measured| PeerView::of(measured, site.node())).collect())
}

async fn find(site: &Site, room: &str, peer: &str) -> Result<Value, Problem> {
    let peers = peers_in(site, room).await?;
    let found = peers.iter().find(|found| found.peer == peer);
    found.map(shown).ok_or_else(no_peer)
}

pub(super) fn no_peer() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_peer", "there is no such peer in the room")
}

pub(super) fn no_room() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no_room", "there is no such room")
}

/// What each other node answers; `None`: nothing in time.
async fn ask_all(site: &Site, nodes: &Nodes, ask: &Ask) -> Vec<(String, Option<Result<Value, Problem>>)> {
    let Ok(payload) = serde_json::to_vec(ask) else { return Vec::new() };
    let one = async |other: Sender| {
        let proof = |count| prove(site, &nodes.own(), count, &other, &payload);
        let bytes = nodes.ask(&other, payload.clone(), proof).await;
        let answer = bytes.ok().and_then(|bytes| serde_json::from_slice::<Answer>(&bytes).ok());
        let answer = answer.map(|answer| match answer {
            Answer::Done(value) => Ok(value),
            Answer::Refused { status, code, detail } => Err(refused(status, &code, detail)),
        });
        (other.node, answer)
    };
    join_all(nodes.others().into_iter().map(one)).await
}

/// A refusal of another node.
fn refused(status: u16, code: &str, detail: String) -> Problem {
    const CODES: [&str; 10] = [
        "no_room",
        "no_peer",
        "no_track",
        "too_many_rooms",
        "room_locked",
        "room_full",
        "other_codecs",
        "not_ready",
        "room_name",
        "server_stopping",
    ];
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let code = CODES.into_iter().find(|known| *known == code).unwrap_or("refused");
    Problem::new(status, code, detail)
}

/// What stands for one question: who asks, which of its questions it is, whom, and what.
fn fingerprint(from: &Sender, count: u64, other: &Sender, payload: &[u8]) -> String {
    let mut text = [&from.node, &from.run, &count.to_string(), &other.node, &other.run].map(String::as_str).join("\n");
    text.push('\n');
    let bytes = [text.as_bytes(), payload].concat();
    hex::write(&digest(&SHA256, &bytes).as_ref()[..24])
}

/// A token that permits nothing and has the question for a name: only who has the signing key can make it. Empty: it cannot be made, and
/// the other node refuses.
fn prove(site: &Site, from: &Sender, count: u64, other: &Sender, payload: &[u8]) -> String {
    let claims = Claims::new(PROOF_ROOM, &fingerprint(from, count, other, payload), 1);
    site.keys.sign(&claims).unwrap_or_default()
}

/// Numbers of questions that each node has asked.
#[derive(Default)]
struct Seen(BTreeMap<Sender, BTreeSet<u64>>);

impl Seen {
    /// Whether this one is new: it is not one that was sent again by somebody who listened.
    fn take(&mut self, from: &Sender, count: u64) -> bool {
        if self.0.len() >= NODES_KEPT && !self.0.contains_key(from) {
            self.0.pop_first();
        }
        let counts = self.0.entry(from.clone()).or_default();
        let is_old = counts.len() >= ASKED_KEPT && counts.first().is_some_and(|first| count < *first);
        let is_new = !is_old && counts.insert(count);
        if counts.len() > ASKED_KEPT {
            counts.pop_first();
        }
        is_new
    }
}

/// Answers what other nodes ask, for as long as they may.
pub async fn answer_nodes(site: Arc<Site>, mut questions: Questions) {
    let Some(own) = site.nodes.as_ref().map(|nodes| nodes.own()) else { return };
    let mut seen = Seen::default();
    while let Some(Question { from, count, proof, payload, answer }) = questions.recv().await {
        // Of nodes whose clocks differ, a proof may have expired; that it is not an old one its number says.
        let is_proved = site
            .keys
            .verify_late(&proof)
            .is_ok_and(|claims| claims.room == PROOF_ROOM && claims.name == fingerprint(&from, count, &own, &payload));
        if !is_proved || !seen.take(&from, count) {
            let node = from.node;
            tracing::warn!(event = "question_refused", node, "a node asks without the signing key of this one");
            continue;
        }
        let site = site.clone();
        tokio::spawn(async move {
            let answered = match serde_json::from_slice::<Ask>(&payload) {
                Ok(ask) => ask.answer(&site).await,
                Err(_) => Err(Problem::invalid("this node does not know the question: run one version on all")),
            };
            let answered = match answered {
                Ok(value) => Answer::Done(value),
                Err(problem) => Answer::Refused {
                    status: problem.status().as_u16(),
                    code: problem.code().to_owned(),
                    detail: problem.detail().to_owned(),
                },
            };
            let _ = answer.send(serde_json::to_vec(&answered).unwrap_or_default()); // Who asked may have given up.
        });
    }
}

/// A room as it is on all nodes.
pub(super) async fn room_of(site: &Site, room: &str) -> Result<Value, Problem> {
    let own = RoomView::find(&sample(site).await?.snapshot, room);
    let own = own.map(|view| shown(&view.on(site.node().as_ref())));
    let Some(nodes) = site.nodes.as_ref() else { return own.ok_or_else(no_room) };
    let (mut found, mut silent) = (own, Vec::new());
    for (node, answer) in ask_all(site, nodes, &Ask::Room { room: room.to_owned() }).await {
        match (answer, &mut found) {
            (Some(Ok(other)), Some(found)) => join_rooms(found, other),
            (Some(Ok(other)), None) => found = Some(other),
            (Some(Err(problem)), _) if is_absence(&problem) => {}
            (Some(Err(_)) | None, _) => silent.push(node),
        }
    }
    let mut found = found.ok_or_else(no_room)?;
    if !silent.is_empty() {
        found["unanswered"] = json!(silent);
    }
    Ok(found)
}

/// Adds what another node says of a room that is on several.
pub(super) fn join_rooms(view: &mut Value, other: Value) {
    let peers = view["peers"].as_u64().unwrap_or(0);
    let more = other["peers"].as_u64().unwrap_or(0);
    if peers == 0 && more > 0 {
        view["codecs"] = other["codecs"].clone(); // Those that are in use.
    }
    view["peers"] = json!(peers.saturating_add(more));
    if let Value::Array(others) = &other["nodes"] {
        // Without anybody here there is no such field.
        let mut nodes = view["nodes"].as_array().cloned().unwrap_or_default();
        nodes.extend(others.iter().cloned());
        view["nodes"] = json!(nodes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(keys: &[&str], has_more: bool) -> Part {
        Part {
            entries: keys.iter().map(|key| ((*key).to_owned(), json!({"peers": 1, "nodes": [key]}))).collect(),
            has_more,
        }
    }

    #[test]
    fn lists_of_nodes_are_one_up_to_where_all_are_known() {
        let gathered = Gathered {
            parts: vec![part(&["a", "c", "e"], false), part(&["b", "c"], true), part(&[], false), part(&["d"], false)],
            unanswered: Vec::new(),
        };
        let (merged, end) = gathered.merge(join_rooms);
        let keys: Vec<&str> = merged.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!((keys, end.as_deref()), (vec!["a", "b", "c"], Some("c")), "d may follow something of the second");
        assert_eq!(merged[2].1, json!({"peers": 2, "nodes": ["c", "c"]}));
    }

    #[test]
    fn a_part_is_bounded_by_count_and_by_bytes() {
        let all = |len: usize| (0..300).map(move |n| (format!("k{n:03}"), json!("x".repeat(len))));
        let few = Part::of(all(10), Some("k100"));
        assert_eq!((few.entries.len(), few.entries[0].0.as_str(), few.has_more), (PAGE_MAX + 1, "k101", true));
        let large = Part::of(all(100_000), None);
        assert_eq!((large.entries.len(), large.has_more), (5, true));
        assert_eq!(Part::of(all(1_000_000), Some("k298")).entries.len(), 1, "one in any case");
        assert!(!Part::of(all(1), Some("k250")).has_more);
    }

    #[test]
    fn a_question_that_is_sent_again_is_noticed() {
        let from = |node: usize| Sender { node: format!("n{node}"), run: "r".into() };
        let mut seen = Seen::default();
        for count in (1..1000).filter(|count| count % 2 == 1) {
            assert!(seen.take(&from(1), count) && !seen.take(&from(1), count), "{count}");
        }
        assert!(seen.take(&from(1), 990), "overtaken on the way");
        assert!(!seen.take(&from(1), 2), "too old to be known");
        (0..2 * NODES_KEPT).for_each(|node| {
            seen.take(&from(node), 1);
        });
        assert!(seen.0.len() <= NODES_KEPT);
    }

    #[test]
    fn what_stands_for_a_question_is_of_all_of_it() {
        let sender = |node: &str, run: &str| Sender { node: node.into(), run: run.into() };
        let (a, b) = (sender("a", "1"), sender("b", "2"));
        let base = fingerprint(&a, 1, &b, b"x");
        assert_eq!(base.len(), 48);
        for other in [
            fingerprint(&sender("a", "2"), 1, &b, b"x"),
            fingerprint(&a, 2, &b, b"x"),
            fingerprint(&a, 1, &sender("b", "3"), b"x"),
            fingerprint(&a, 1, &b, b"y"),
        ] {
            assert_ne!(base, other);
        }
    }
}
