//! The edges of the cluster, as far as clients can be sent there: for the list ([`super::rest`]), the page and WHIP and WHEP.

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

/// An address to go to. One that stands for every address of a machine is none: its operator has not said `public-url`.
fn address(http: &str) -> Option<PublicUrl> {
    let is_unspecified = |url: &PublicUrl| url.host().parse().is_ok_and(|ip: IpAddr| ip.is_unspecified());
    PublicUrl::parse(http).filter(|url| !is_unspecified(url))
}

#[cfg(test)]
mod tests {
    use super::*;

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
