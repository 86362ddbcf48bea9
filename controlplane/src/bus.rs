//! What the engine asks of the cluster, and what it is told by it. Between them is the task of [`crate::nodes`], which knows how
//! the cluster is reached; the engine knows no server and no subject.
//!
//! Nothing here is certain to arrive: an order that is lost while the cluster is away is not repeated by anybody but the engine, which
//! says everything anew after [`News::Connected`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the engine wants done in the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Listen to what other nodes say of a room, from now on.
    Listen {
        /// Its name.
        room: String,
    },
    /// Do not listen to it any more.
    Ignore {
        /// Its name.
        room: String,
    },
    /// Say something to all nodes that listen to a room.
    Say {
        /// Its name.
        room: String,
        /// What.
        payload: Vec<u8>,
    },
    /// Tell one node something.
    Tell {
        /// Its name.
        node: String,
        /// What.
        payload: Vec<u8>,
    },
    /// Become the node that admits peers to a room, in the place of what stands under this revision (0: nothing). Answered by
    /// [`News::Claimed`].
    Claim {
        /// Its name.
        room: String,
        /// What is replaced.
        replaced: u64,
    },
    /// Cease to be it, if the claim still has this revision.
    Release {
        /// Its name.
        room: String,
        /// That of the claim.
        revision: u64,
    },
}

/// What the cluster tells the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// The cluster is there (again), or away. What was said while it was away is lost, in both directions.
    Connected(bool),
    /// The other nodes that are here, all of them, whenever that changes.
    Nodes(Vec<NodeNews>),
    /// Another node said something of a room.
    Said {
        /// The room.
        room: String,
        /// Who.
        from: Sender,
        /// What.
        payload: Vec<u8>,
    },
    /// Another node told this one something.
    Told {
        /// Who.
        from: Sender,
        /// What.
        payload: Vec<u8>,
    },
    /// The answer to [`Order::Claim`].
    Claimed {
        /// The room.
        room: String,
        /// Whose it is now.
        claim: Claim,
    },
}

/// Who says something: a node, in the run that began with its process.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// Its name.
    pub node: String,
    /// Another one after each start.
    pub run: String,
}

/// Who admits peers to a room. The revision only rises, so it is the epoch of the claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Claim {
    /// This node.
    Ours {
        /// Of the claim.
        revision: u64,
    },
    /// Another one, which may be gone.
    Theirs {
        /// Who claimed it.
        owner: Sender,
        /// Of the claim.
        revision: u64,
    },
    /// The cluster does not say it.
    Unknown,
}

/// Another node of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeNews {
    /// Its name and run.
    pub node: Sender,
    /// Where it is.
    pub region: String,
    /// In whose network.
    pub carrier: String,
    /// SHA-256 of its DTLS certificate.
    pub fingerprint: [u8; 32],
    /// Where each of its workers is reached.
    pub workers: Vec<Vec<SocketAddr>>,
}
