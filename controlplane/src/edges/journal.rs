//! What a controlplane leaves for its successor of links to other edges, and of the transports over them: beside the peers of its own
//! ([`crate::journal`]), in the same places, and as they without keys and secrets.

use std::net::SocketAddr;

use proto::id::PeerId;
use serde::{Deserialize, Serialize};

use super::export::Export;
use super::import::Import;
use super::message::Person;
use super::paths::Ways;
use crate::journal::ENTRY_LEN_MAX;
use crate::member::Track;

/// Something on a worker that belongs to another edge.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "edge", rename_all = "snake_case")]
pub(crate) enum EdgeEntry {
    /// The end of a link.
    Link {
        /// Its place.
        #[serde(with = "crate::ids::pair")]
        peer: PeerId,
        /// The other node.
        node: String,
        /// The worker there.
        theirs: u16,
        /// Where the path leads.
        path: Option<SocketAddr>,
        /// By which ways the other end is reached.
        #[serde(default)]
        ways: Ways,
    },
    /// Somebody who is in a room through another edge.
    Import {
        /// The place of the transport.
        #[serde(with = "crate::ids::pair")]
        peer: PeerId,
        /// The run of the other node.
        run: String,
        /// Who.
        person: Box<Person>,
        /// What is received.
        tracks: Vec<Track>,
        /// How.
        import: Import,
    },
    /// A publisher of ours as another edge receives it.
    Export(Export),
}

impl EdgeEntry {
    /// The bytes of the entry. `None` if it is too long, which nothing within the bounds of messages is.
    pub(crate) fn write(&self) -> Option<Vec<u8>> {
        let bytes = serde_json::to_vec(self).expect("an entry has only strings, numbers and lists");
        (bytes.len() <= ENTRY_LEN_MAX).then_some(bytes)
    }

    /// Reads the entry of a place. `None` if it is none, or that of another place.
    pub(crate) fn read(slot: u32, bytes: &[u8]) -> Option<EdgeEntry> {
        let entry: EdgeEntry = serde_json::from_slice(bytes).ok()?;
        let peer = match &entry {
            EdgeEntry::Link { peer, .. } | EdgeEntry::Import { peer, .. } => *peer,
            EdgeEntry::Export(export) => export.peer,
        };
        (peer.index == slot && peer.generation != 0).then_some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::{person, want};
    use super::*;
    use crate::bus::Sender;
    use proptest::prelude::*;

    #[test]
    fn entries_come_back() {
        let peer = PeerId::new(7, 9);
        let link = EdgeEntry::Link {
            peer,
            node: "fra1".into(),
            theirs: 3,
            path: Some(SocketAddr::from(([10, 0, 0, 1], 40_000))),
            ways: Ways::default(),
        };
        let import = EdgeEntry::Import {
            peer,
            run: "1".into(),
            person: person("abc").into(),
            tracks: Vec::new(),
            import: Import::new("demo", "fra1", 2),
        };
        let to = Sender { node: "fra1".into(), run: "1".into() };
        let export = EdgeEntry::Export(Export::new(to, peer, want()));
        for entry in [link, import, export] {
            let bytes = entry.write().expect("it is short");
            let read = EdgeEntry::read(7, &bytes).expect("it reads");
            assert_eq!(format!("{read:?}"), format!("{entry:?}"));
            assert!(EdgeEntry::read(8, &bytes).is_none(), "of another place");
            assert!(crate::journal::Entry::read(7, &bytes).is_none(), "no peer of our own");
        }
    }

    proptest! {
        #[test]
        fn what_is_no_entry_is_refused(bytes: Vec<u8>, at in 0usize..300, byte in any::<u8>()) {
            prop_assert!(EdgeEntry::read(0, &bytes).is_none());
            let to = Sender { node: "fra1".into(), run: "1".into() };
            let mut bytes = EdgeEntry::Export(Export::new(to, PeerId::new(0, 1), want())).write().unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = EdgeEntry::read(0, &bytes);
        }
    }
}
