//! From a datagram's first byte to its kind (RFC 7983), and from its address or username to the peer it belongs to.

use std::collections::HashMap;
use std::hash::Hasher;

use crate::config::PEER_PATHS_MAX;
use crate::hash::KeyedHash;
use crate::path::Path;
use proto::flow;
use proto::plane::UFRAG_LEN;

/// What a datagram is, as far as its first bytes tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    /// Of a flow between edges.
    Flow,
}

/// RFC 7983 §7 for the first byte, and [`flow`]; RFC 5761 §4 for the second: RTCP packet types 192 to 223 fall where RTP would
/// show payload types 64 to 95 with the marker, which are not used with rtcp-mux.
pub(crate) fn kind(datagram: &[u8]) -> Option<Kind> {
    match (datagram.first()?, datagram.get(1)) {
        (0..=3, _) => Some(Kind::Stun),
        (20..=63, _) => Some(Kind::Dtls),
        (&flow::FIRST_BYTE, _) => Some(Kind::Flow),
        (128..=191, Some(192..=223)) => Some(Kind::Rtcp),
        (128..=191, Some(_)) => Some(Kind::Rtp),
        _ => None,
    }
}

/// Who sends from where. Only authenticated checks write here, so a table of the size of all peers bounds it.
pub(crate) struct Demux {
    by_path: HashMap<PathKey, u32, KeyedHash>,
    /// The same of paths through other edges, which few peers have.
    by_relay: HashMap<(PathKey, u64), u32, KeyedHash>,
    by_ufrag: HashMap<[u8; UFRAG_LEN], u32, KeyedHash>,
    /// By the flow in which datagrams come.
    by_flow: HashMap<u64, FlowOwner, KeyedHash>,
}

/// Whose a flow is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FlowOwner {
    /// A transport between edges, by its index.
    Transport(u32),
    /// A candidate that another edge passes on from, of this peer.
    Candidate(u32),
    /// What is passed on, by the index of the relay.
    Relay(u32),
}

/// A path without what is behind it, as one flat key, which hashes in one go.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PathKey([u8; 19]);

impl std::hash::Hash for PathKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl From<Path> for PathKey {
    fn from(path: Path) -> Self {
        let mut key = [0; 19];
        match path.remote {
            std::net::SocketAddr::V4(a) => key[..4].copy_from_slice(&a.ip().octets()),
            std::net::SocketAddr::V6(a) => key[..16].copy_from_slice(&a.ip().octets()),
        }
        key[16..18].copy_from_slice(&path.remote.port().to_le_bytes());
        key[18] = path.socket << 1 | u8::from(path.remote.is_ipv6());
        PathKey(key)
    }
}

impl Demux {
    pub(crate) fn new(seed: [u8; 16]) -> Self {
        let hash = KeyedHash::new(seed);
        Demux {
            by_path: HashMap::with_hasher(hash),
            by_relay: HashMap::with_hasher(hash),
            by_ufrag: HashMap::with_hasher(hash),
            by_flow: HashMap::with_hasher(hash),
        }
    }

    /// The peer that an authenticated check has bound to this path.
    #[inline]
    pub(crate) fn peer_at(&self, path: Path) -> Option<u32> {
        match path.relay() {
            0 => self.by_path.get(&path.into()).copied(),
            relay => self.by_relay.get(&(path.into(), relay)).copied(),
        }
    }

    /// The peer to which we gave this username fragment.
    pub(crate) fn peer_named(&self, ufrag: &[u8]) -> Option<u32> {
        self.by_ufrag.get(<&[u8; UFRAG_LEN]>::try_from(ufrag).ok()?).copied()
    }

    /// Gives a path to a peer, whoever had it.
    pub(crate) fn bind(&mut self, path: Path, peer: u32) {
        match path.relay() {
            0 => self.by_path.insert(path.into(), peer),
            relay => self.by_relay.insert((path.into(), relay), peer),
        };
    }

    /// Forgets a path, unless it has passed to another peer.
    pub(crate) fn unbind(&mut self, path: Path, peer: u32) {
        if self.peer_at(path) == Some(peer) {
            match path.relay() {
                0 => self.by_path.remove(&path.into()),
                relay => self.by_relay.remove(&(path.into(), relay)),
            };
        }
    }

    /// Makes a peer known by the username fragment that we gave it, with memory for all of its paths.
    pub(crate) fn name(&mut self, ufrag: [u8; UFRAG_LEN], peer: u32) {
        self.by_ufrag.insert(ufrag, peer);
        self.by_path.reserve((self.by_ufrag.len() * PEER_PATHS_MAX).saturating_sub(self.by_path.len()));
    }

    pub(crate) fn unname(&mut self, ufrag: &[u8; UFRAG_LEN]) {
        self.by_ufrag.remove(ufrag);
    }

    /// Whose the datagrams are that come in this flow.
    #[inline]
    pub(crate) fn owner_of(&self, flow: u64) -> Option<FlowOwner> {
        self.by_flow.get(&flow).copied()
    }

    /// Gives a flow to somebody. False if another one has it.
    pub(crate) fn bind_flow(&mut self, flow: u64, owner: FlowOwner) -> bool {
        if matches!(owner, FlowOwner::Candidate(..)) {
            // Its path is bound when it is asked, which takes no memory.
            self.by_relay.reserve((self.by_flow.len() + 1).saturating_sub(self.by_relay.len()));
        }
        *self.by_flow.entry(flow).or_insert(owner) == owner
    }

    /// Forgets a flow, unless it is another one's.
    pub(crate) fn unbind_flow(&mut self, flow: u64, owner: FlowOwner) {
        if self.owner_of(flow) == Some(owner) {
            self.by_flow.remove(&flow);
        }
    }

    /// How many paths and names there are.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.by_path.len() + self.by_relay.len(), self.by_ufrag.len())
    }

    pub(crate) fn clear(&mut self) {
        self.by_path.clear();
        self.by_relay.clear();
        self.by_ufrag.clear();
        self.by_flow.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_kind() {
        assert_eq!(kind(&[0, 1]), Some(Kind::Stun));
        assert_eq!(kind(&[22, 254]), Some(Kind::Dtls));
        assert_eq!(kind(&[0x80, 111]), Some(Kind::Rtp));
        assert_eq!(kind(&[0x90, 0x80 | 96]), Some(Kind::Rtp), "marker and payload type 96 are not RTCP");
        assert_eq!(kind(&[0x80, 200]), Some(Kind::Rtcp));
        assert_eq!(kind(&[8, 1, 2]), Some(Kind::Flow));
        for other in [&[][..], &[4], &[7], &[9], &[19], &[64], &[127], &[128], &[192, 200], &[255]] {
            assert_eq!(kind(other), None, "{other:?}");
        }
    }

    #[test]
    fn addresses_of_two_families_never_meet() {
        let mut demux = Demux::new([7; 16]);
        let v4 = Path::new(0, "1.2.3.4:5".parse().unwrap());
        let v6 = Path::new(0, "[102:304::]:5".parse().unwrap());
        demux.bind(v4, 1);
        assert_eq!(demux.peer_at(v6), None);
        assert_eq!(demux.peer_at(v4.through(7)), None, "an edge that passes on is another path");
        assert_eq!(demux.peer_at(Path::new(1, v4.remote)), None);
        demux.bind(v4.through(7), 9);
        assert_eq!([7, 8].map(|flow| demux.peer_at(v4.through(flow))), [Some(9), None]);
        demux.bind(v4, 2);
        demux.unbind(v4, 1);
        assert_eq!(demux.peer_at(v4), Some(2), "the path had passed to another peer");
    }
}
