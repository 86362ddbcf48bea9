//! What one look at the connections has brought: packets, and the ends of connections.

use super::connection::READING_LEN;
use super::frame::Packets;
use crate::config::{Micros, TCP_CONNECTIONS_MAX, TCP_READS_MAX};
use crate::path::{Datagram, Path};

/// Whole frames that one connection brought.
struct Section {
    path: Path,
    at: Micros,
    start: usize,
    len: usize,
}

/// Memory for one look, made once.
pub struct Inbox {
    memory: Box<[u8]>,
    /// In the order of their places.
    sections: Vec<Section>,
    places_used: usize,
    closed: Vec<Path>,
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Inbox {
        Inbox {
            memory: vec![0; TCP_READS_MAX * READING_LEN].into(),
            sections: Vec::with_capacity(TCP_READS_MAX),
            places_used: 0,
            closed: Vec::with_capacity(TCP_CONNECTIONS_MAX),
        }
    }

    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty() && self.closed.is_empty()
    }

    /// The connections that have ended. None of the packets came by them.
    pub fn closed(&self) -> impl Iterator<Item = Path> {
        self.closed.iter().copied()
    }

    /// The packets, of each connection in order.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let (mut rest, mut passed) = (&mut self.memory[..], 0);
        self.sections.iter().flat_map(move |&Section { path, at, start, len }| {
            let (_, from) = std::mem::take(&mut rest).split_at_mut(start - passed);
            let (frames, behind) = from.split_at_mut(len);
            (rest, passed) = (behind, start + len);
            Packets::new(frames).map(move |bytes| Datagram { path, at, bytes })
        })
    }

    pub(super) fn clear(&mut self) {
        self.sections.clear();
        self.closed.clear();
        self.places_used = 0;
    }

    /// Reads into the next place by `read`, which says how many bytes of whole frames there are.
    pub(super) fn fill<E>(
        &mut self,
        path: Path,
        at: Micros,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let start = self.places_used * READING_LEN;
        let len = read(&mut self.memory[start..][..READING_LEN])?;
        if len > 0 {
            self.places_used += 1;
            self.sections.push(Section { path, at, start, len });
        }
        Ok(())
    }

    /// A connection has ended: what it brought in this look came from nobody.
    pub(super) fn close(&mut self, path: Path) {
        self.sections.retain(|section| section.path != path);
        self.closed.push(path);
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}
