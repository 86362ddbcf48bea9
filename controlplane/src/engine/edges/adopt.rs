//! Taking over what an earlier controlplane had with other edges: links, people elsewhere, and what was sent to others. Media goes on over
//! all of it; the connections that give keys are made anew.

use std::net::SocketAddr;
use std::time::Instant;

use super::super::{Engine, Handle, Hosted, Output};
use crate::edges::export::Export;
use crate::edges::import::Import;
use crate::edges::journal::EdgeEntry;
use crate::edges::link::{Link, LinkKey};
use crate::edges::message::Person;
use crate::edges::part::Part;
use crate::edges::paths::Ways;
use crate::member::Track;
use crate::placement::plan_of;

impl Engine {
    /// Keeps an entry until it is known which rooms there are. `false`: it is none.
    pub(in crate::engine) fn hold_edge_entry(&mut self, worker: usize, slot: u32, bytes: &[u8]) -> bool {
        let entry = EdgeEntry::read(slot, bytes).filter(|_| self.edges.node.is_some());
        let is_one = entry.is_some();
        self.edges.held.extend(entry.map(|entry| (worker, slot, entry)));
        is_one
    }

    /// All rooms are known.
    pub(in crate::engine) fn adopt_edges(&mut self, now: Instant) {
        let mut held = std::mem::take(&mut self.edges.held);
        // Transports need their links.
        held.sort_by_key(|(_, _, entry)| !matches!(entry, EdgeEntry::Link { .. }));
        for (worker, slot, entry) in held {
            let is_adopted = match entry {
                EdgeEntry::Link { peer, node, theirs, path, ways } => {
                    let key = LinkKey { node, ours: worker, theirs };
                    self.adopt_link(now, key, Handle { worker, peer }, path, ways)
                }
                EdgeEntry::Import { peer, run, person, tracks, import } => {
                    self.adopt_import(Handle { worker, peer }, &run, &person, tracks, import)
                }
                EdgeEntry::Export(export) => self.adopt_export(worker, export),
            };
            if !is_adopted {
                self.outputs.push_back(Output::Journal { worker, slot, bytes: None });
            }
        }
        self.set_look_timer(now);
    }

    fn adopt_link(&mut self, now: Instant, key: LinkKey, at: Handle, path: Option<SocketAddr>, ways: Ways) -> bool {
        let Some(plan) = plan_of(&mut self.workers, at.worker) else { return false };
        if self.edges.links.contains_key(&key) || !plan.adopt_link(at.peer) {
            return false;
        }
        let Some(open) = plan.credentials(at.peer) else { return false };
        self.edges.links.insert(key.clone(), Link::adopted(open, path, ways, plan, now));
        self.edges.link_of.insert(at, key);
        true
    }

    fn adopt_import(&mut self, at: Handle, run: &str, person: &Person, tracks: Vec<Track>, mut import: Import) -> bool {
        let Engine { edges, rooms, workers, .. } = self;
        let Some(Hosted { room, remote, .. }) = rooms.get_mut(&import.room) else { return false };
        let Some(plan) = plan_of(workers, at.worker) else { return false };
        let streams: Vec<_> = tracks.iter().flat_map(|track| track.streams()).collect();
        let is_there = room.members().iter().any(|other| other.id == person.id);
        if is_there || !plan.adopt_transport(at.peer, &streams, &[]) {
            return false;
        }
        import.adopted(streams.into_iter().filter_map(|stream| plan.stream(stream)).map(|(open, _)| open));
        let mut member = super::people::member_of(at.peer, &import.room, &import.node, person);
        member.tracks = tracks;
        let part = remote.parts.entry(import.node.clone()).or_insert_with(|| Part::new(run));
        part.adopt(person.clone());
        room.join(member);
        edges.imports.insert(at, import);
        true
    }

    fn adopt_export(&mut self, worker: usize, export: Export) -> bool {
        let Engine { rooms, workers, .. } = self;
        let Some(Hosted { room, remote, .. }) = rooms.get_mut(&export.want.room) else { return false };
        let is_there = room.members().iter().any(|other| other.id == export.want.peer && other.elsewhere.is_none());
        let key = (export.to.node.clone(), export.want.peer.clone());
        let Some(plan) = plan_of(workers, worker).filter(|_| is_there && !remote.exports.contains_key(&key)) else {
            return false;
        };
        if export.worker() != worker || !plan.adopt_transport(export.peer, &[], &export.slots().collect::<Vec<_>>()) {
            return false;
        }
        remote.exports.insert(key, export);
        true
    }

    /// Leaves a link for a successor.
    pub(super) fn journal_link(&mut self, key: &LinkKey) {
        let Some(link) = self.edges.links.get(key) else { return };
        let peer = link.peer;
        let entry = EdgeEntry::Link {
            peer,
            node: key.node.clone(),
            theirs: key.theirs,
            path: link.path(),
            ways: link.ways.clone(),
        };
        self.write_journal(Handle { worker: key.ours, peer }, entry.write());
    }

    /// Leaves somebody elsewhere for a successor, once there is something to receive.
    pub(super) fn journal_import(&mut self, handle: Handle) {
        let Some(import) = self.edges.imports.get(&handle) else { return };
        if import.transport.as_ref().is_none_or(|transport| transport.connection.is_none()) {
            return;
        }
        let Some(Hosted { room, remote, .. }) = self.rooms.get(&import.room) else { return };
        let Some(member) = room.member(handle.peer) else { return };
        let run = remote.parts.get(&import.node).map(|part| part.run().to_owned()).unwrap_or_default();
        let shows = member.elsewhere.as_ref().and_then(|elsewhere| elsewhere.shown());
        let person = Person { worker: import.theirs, shows, ..Person::of(member, 0) };
        let entry = EdgeEntry::Import {
            peer: handle.peer,
            run,
            person: person.into(),
            tracks: member.tracks.clone(),
            import: import.clone(),
        };
        self.write_journal(handle, entry.write());
    }

    /// Leaves a transport to another edge for a successor, once it has its keys.
    pub(super) fn journal_export(&mut self, room: &str, key: &(String, String)) {
        let export = self.rooms.get(room).and_then(|hosted| hosted.remote.exports.get(key));
        let Some(export) = export.filter(|export| export.is_keyed) else { return };
        let (at, entry) = (Handle::of(export.peer), EdgeEntry::Export(export.clone()));
        self.write_journal(at, entry.write());
    }
}
