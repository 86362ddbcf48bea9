//! The edges of the cluster that a client can join at now, for those who choose one: `GET /v1/edges`, the page, and WHIP and WHEP
//! where they redirect. docs/decisions/0069 says why it is so.

use std::collections::BTreeMap;

use super::Nodes;
use super::roster::{Known, State};

/// Edges that a client is told of. It measures five of them, and the page's policy names them all.
pub(crate) const EDGES_MAX: usize = 32;

/// Edges whose busy share differs by less than this are as good as each other, thousandths of a core.
const BUSY_STEP: u32 = 50;

/// An edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Edge {
    /// The name of its node.
    pub(crate) node: String,
    /// Whether it is this one.
    pub(crate) is_self: bool,
    /// Where it is; may be empty.
    pub(crate) region: String,
    /// In whose network; may be empty.
    pub(crate) carrier: String,
    /// Where its HTTP server is.
    pub(crate) http: String,
    /// Peers that it carries.
    pub(crate) peers: u32,
    /// How busy its workers are, thousandths of a core.
    pub(crate) busy_permille: u32,
}

impl Nodes {
    /// The edges that can be joined at now: this one first, then by turns one of each region, this one's first, and of a region those
    /// that are less busy first. So a list that is cut has something of every region.
    pub(crate) fn edges(&self) -> Vec<Edge> {
        let inner = self.inner();
        let is_self = |name: &String| *name == self.node;
        let nodes = inner.roster.nodes();
        let own_region = nodes.get(&self.node).map_or("", |known| known.record.region.as_str());
        let joinable = nodes.iter().filter(|(name, known)| is_self(name) || is_joinable(known));
        let (own, others): (Vec<_>, Vec<_>) = joinable.partition(|(name, _)| is_self(name));
        let others = others.into_iter().map(|(name, known)| (&known.record.region, known.record.busy_permille, name));
        let ordered = by_turns(own_region, others.collect());
        let ordered = own.into_iter().map(|(name, _)| name).chain(ordered);
        let edge = |name: &String| {
            let record = &nodes.get(name)?.record;
            Some(Edge {
                node: name.clone(),
                is_self: is_self(name),
                region: record.region.clone(),
                carrier: record.carrier.clone(),
                http: record.http.clone()?,
                peers: record.peers,
                busy_permille: record.busy_permille,
            })
        };
        ordered.filter_map(edge).take(EDGES_MAX).collect()
    }

    /// Whether a page of this origin is the meeting page of an edge of this cluster.
    pub(crate) fn has_page(&self, origin: &str) -> bool {
        let is_of = |known: &Known| {
            let rest = known.record.http.as_deref().and_then(|url| url.strip_prefix(origin));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.inner().roster.nodes().values().any(is_of)
    }
}

/// Whether clients can be sent there: it is here, says where, and has a dataplane.
fn is_joinable(known: &Known) -> bool {
    known.state == State::Here && known.record.http.is_some() && !known.record.workers.is_empty()
}

/// Names of `(region, busy, name)`: one of each region by turns, `first` before the other regions, and in each the least busy first.
fn by_turns<'a>(first: &str, mut edges: Vec<(&'a String, u32, &'a String)>) -> impl Iterator<Item = &'a String> {
    edges.sort_by_key(|&(region, busy, name)| (region != first, region, busy / BUSY_STEP, name));
    let mut turns = BTreeMap::<&String, usize>::new();
    let mut ordered: Vec<(usize, &String)> = Vec::with_capacity(edges.len());
    for (region, _, name) in edges {
        let turn = turns.entry(region).or_default();
        ordered.push((*turn, name));
        *turn += 1;
    }
    ordered.sort_by_key(|&(turn, _)| turn); // Stable: in a turn the regions stay in their order.
    ordered.into_iter().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(first: &str, edges: &[(&str, u32, &str)]) -> String {
        let owned: Vec<(String, u32, String)> =
            edges.iter().map(|&(region, busy, name)| (region.to_owned(), busy, name.to_owned())).collect();
        let edges = owned.iter().map(|(region, busy, name)| (region, *busy, name)).collect();
        by_turns(first, edges).cloned().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_region_has_its_turn_and_the_idle_come_first() {
        let edges =
            [("us", 0, "nyc1"), ("eu", 900, "fra1"), ("eu", 60, "fra2"), ("eu", 70, "ams1"), ("ap", 10, "sin1")];
        assert_eq!(order("eu", &edges), "ams1 sin1 nyc1 fra2 fra1", "60 and 70 are as good as each other");
        assert_eq!(order("us", &edges), "nyc1 sin1 ams1 fra2 fra1");
        assert_eq!(order("", &edges), "sin1 ams1 nyc1 fra2 fra1", "this node's region may have no name");
        assert_eq!(order("eu", &[]), "");
    }
}
