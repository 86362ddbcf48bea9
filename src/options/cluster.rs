//! What is set of the cluster of edges that this one is a node of.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use controlplane::nodes::{self, is_secure};

use super::Options;

/// As the keys have it. Without servers this edge is alone, and the rest means nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<String>,
    pub(crate) name: String,
    /// Empty: the system's.
    pub(crate) ca: PathBuf,
    /// Empty: none.
    pub(crate) credentials: PathBuf,
    pub(crate) lease: Duration,
    pub(crate) node: String,
    pub(crate) region: String,
    pub(crate) carrier: String,
    /// Empty: the media addresses as announced.
    pub(crate) relay_ips: Vec<IpAddr>,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster {
            servers: Vec::new(),
            name: "uprtc".into(),
            ca: PathBuf::new(),
            credentials: PathBuf::new(),
            lease: Duration::from_secs(15),
            node: String::new(),
            region: String::new(),
            carrier: String::new(),
            relay_ips: Vec::new(),
        }
    }
}

impl Cluster {
    /// What single values cannot show.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.servers.is_empty() {
            return Ok(());
        }
        if self.node.is_empty() {
            return Err("cluster needs node: a name for this edge that no other in the cluster has".into());
        }
        let secure = self.servers.iter().filter(|server| is_secure(server)).count();
        if secure != 0 && secure != self.servers.len() {
            return Err("cluster names servers with TLS and without: give all tls://, or all nats://".into());
        }
        if secure == 0 && !self.ca.as_os_str().is_empty() {
            return Err("cluster-ca needs tls:// in cluster: nats:// does not look at certificates".into());
        }
        Ok(())
    }
}

impl Options {
    /// The cluster that this edge is a node of, if it is of one; where its HTTP is reached is not said there.
    pub(crate) fn cluster(&self) -> Option<nodes::Settings> {
        let Cluster { servers, name, ca, credentials, lease, node, region, carrier, relay_ips } = self.cluster.clone();
        let named = |path: PathBuf| (!path.as_os_str().is_empty()).then_some(path);
        (!servers.is_empty()).then(|| nodes::Settings {
            name,
            servers,
            ca: named(ca),
            credentials: named(credentials),
            node,
            region,
            carrier,
            relay_ips,
            http: None,
            announce: self.rooms.announce.clone(),
            lease,
        })
    }
}
