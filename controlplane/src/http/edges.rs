//! The edges of the cluster, as far as clients can be sent there: for the list ([`super::rest`]), the page and WHIP and WHEP.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;

use super::{PublicUrl, Site};
use crate::nodes::Edge;

impl Site {
    /// The edges that can be joined at now and whose address is one that clients can use, in the order of [`crate::nodes::Nodes::edges`].
    /// None without a cluster.
    pub(super) fn edges(&self) -> Vec<(Edge, PublicUrl)> {
        let edges = self.nodes.iter().flat_map(|nodes| nodes.edges());
        edges.filter_map(|edge| Some((address(&edge.http)?, edge)).map(|(url, edge)| (edge, url))).collect()
    }
}

impl Site {
    /// Where a newcomer by WHIP or WHEP is better off, if the operator wants that: this edge is busier than the share that is set, and
    /// another one of its region is not.
    pub(super) fn relief(&self) -> Option<PublicUrl> {
        if self.limits.redirect_above == 0 {
            return None;
        }
        let edges = self.edges();
        let mut idle = idle(edges.iter().map(|(edge, _)| edge), self.limits.redirect_above * 10);
        // Not always the same one: its load is known only some seconds later.
        let chance = RandomState::new().build_hasher().finish() as usize;
        let node = (!idle.is_empty()).then(|| idle.swap_remove(chance % idle.len()))?.node.clone();
        edges.into_iter().find_map(|(edge, url)| (edge.node == node).then_some(url))
    }
}

/// The edges to which a newcomer is sent if this one is too busy; none if it is not.
fn idle<'a>(edges: impl Iterator<Item = &'a Edge> + Clone, above: u32) -> Vec<&'a Edge> {
    let Some(own) = edges.clone().find(|edge| edge.is_self).filter(|own| own.busy_permille > above) else {
        return Vec::new();
    };
    // By a quarter at least: what is known of it is some seconds old.
    let is_idle = |edge: &&Edge| edge.busy_permille <= above.min(own.busy_permille / 4 * 3);
    edges.filter(|edge| !edge.is_self && edge.region == own.region).filter(is_idle).collect()
}

/// An address to go to. One that stands for every address of a machine is none: its operator has not said `public-url`.
fn address(http: &str) -> Option<PublicUrl> {
    let is_unspecified = |url: &PublicUrl| url.host().parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    PublicUrl::parse(http).filter(|url| !is_unspecified(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(node: &str, region: &str, busy_permille: u32) -> Edge {
        let (node, region) = (node.to_owned(), region.to_owned());
        let is_self = node == "own";
        Edge { is_self, region, carrier: String::new(), http: format!("https://{node}"), peers: 0, busy_permille, node }
    }

    #[test]
    fn a_busy_edge_sends_newcomers_to_one_of_its_region_that_is_not() {
        let names = |own, above| {
            let others = [("a", "eu", 100), ("b", "us", 0), ("c", "eu", 601), ("d", "eu", 850), ("e", "eu", 675)];
            let edges: Vec<Edge> =
                [("own", "eu", own)].into_iter().chain(others).map(|(n, r, b)| edge(n, r, b)).collect();
            idle(edges.iter(), above).iter().map(|edge| edge.node.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(800, 800), "", "it is not busier than that");
        assert_eq!(names(801, 800), "a", "c and e are less busy, and not by a quarter");
        assert_eq!(names(900, 800), "a c e", "d is too busy itself, b is far");
        assert_eq!(names(900, 50), "", "all are");
        assert_eq!(idle([edge("a", "eu", 0)].iter(), 10).len(), 0, "this one is not in the list");
    }

    #[test]
    fn an_address_of_every_network_is_none() {
        for (url, is) in [
            ("http://0.0.0.0:8080", false),
            ("http://[::]:8080", false),
            ("https://ada@fra1.example", false),
            ("http://127.0.0.1:80", true),
            ("https://fra1.example/calls", true),
        ] {
            assert_eq!(address(url).is_some(), is, "{url}");
        }
    }
}
