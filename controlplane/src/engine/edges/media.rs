//! What crosses between edges: what is wanted of people elsewhere, and what other edges want of ours.

use std::time::Instant;

use proto::plane::{Command, PeerEdge, PeerExtensions, PeerOpen};
use proto::signal::LeaveReason;

use super::super::{Engine, Handle, Hosted, Output};
use crate::bus::Sender;
use crate::edges::export::Export;
use crate::edges::link::LinkKey;
use crate::edges::media;
use crate::edges::message::{Person, Telling, Want};
use crate::hex;
use crate::ice::Credentials;
use crate::member::Member;
use crate::peer::keys_of_transport;
use crate::placement::plan_of;

/// Transports to other edges in one room: each publisher to each edge.
const EXPORTS_PER_ROOM_MAX: usize = 4096;

impl Engine {
    /// Somebody elsewhere publishes this now.
    pub(super) fn person_publishes(&mut self, now: Instant, handle: Handle, person: &Person) {
        let Engine { edges, rooms, workers, random, .. } = self;
        let Some(import) = edges.imports.get_mut(&handle) else { return };
        let Some(Hosted { room, .. }) = rooms.get_mut(&import.room) else { return };
        let (Some(member), Some(plan)) = (room.member_mut(handle.peer), plan_of(workers, handle.worker)) else {
            return;
        };
        if !import.has_room_for(&person.tracks, &member.tracks) {
            let name = import.room.clone();
            return self.person_anew(now, handle, &name, person);
        }
        let before = std::mem::take(&mut member.tracks);
        let was = before.clone();
        member.tracks = import.tracks(handle.peer, &person.tracks, before, plan, random);
        let is_same = member.tracks.len() == was.len()
            && member.tracks.iter().zip(&was).all(|(now, was)| now.streams().eq(was.streams()));
        let name = import.room.clone();
        match is_same {
            true if member.tracks == was => {}
            true => self.tracks_changed(handle),
            false => self.slots_changed(&name),
        }
        self.attach_import(now, handle);
        self.journal_import(handle);
    }

    /// A transport has had as many SSRCs as one may: another one takes its place.
    fn person_anew(&mut self, now: Instant, handle: Handle, name: &str, person: &Person) {
        let Some(node) = self.edges.imports.get(&handle).map(|import| import.node.clone()) else { return };
        self.forget_person(handle, LeaveReason::MediaRestarted);
        self.person_came(now, name, &node, person.clone());
    }

    /// Connects what is not connected to its link yet.
    pub(super) fn attach_imports(&mut self, now: Instant) {
        let is_loose = |import: &crate::edges::import::Import| {
            import.transport.as_ref().is_some_and(|t| !t.is_attached || t.connection.is_none()) || import.told.is_none()
        };
        let loose = self.edges.imports.iter().filter(|(_, import)| is_loose(import)).map(|(handle, _)| *handle);
        for handle in loose.collect::<Vec<_>>() {
            self.attach_import(now, handle);
        }
    }

    /// Connects somebody's transport to its link, and has it keyed as soon as the link is connected.
    pub(super) fn attach_import(&mut self, now: Instant, handle: Handle) {
        let Some(import) = self.edges.imports.get(&handle).filter(|import| import.transport.is_some()) else { return };
        let key = LinkKey { node: import.node.clone(), ours: handle.worker, theirs: import.theirs };
        let Some(link) = self.link_to(now, &key) else { return };
        let Engine { edges, workers, .. } = self;
        let (Some(import), Some(plan)) = (edges.imports.get_mut(&handle), plan_of(workers, handle.worker)) else {
            return;
        };
        if import.transport.as_ref().is_some_and(|transport| !transport.is_attached) {
            import.attach(handle.peer, link, plan);
        }
        let Some(transport) = import.transport.as_mut().filter(|transport| transport.connection.is_none()) else {
            return self.want(handle);
        };
        let Some(link) = edges.links.get(&key) else { return };
        if let (Some(connection), Some(keys)) = (link.connection(), link.keys(&transport.context)) {
            keys_of_transport(handle.peer, &keys).into_iter().for_each(|keys| plan.want(Command::PeerKeys(keys)));
            transport.connection = Some(connection);
            self.journal_import(handle);
            self.want(handle);
        }
    }

    /// Tells the edge of somebody elsewhere what is wanted of it here, if that is news.
    pub(in crate::engine) fn want(&mut self, handle: Handle) {
        let Engine { edges, rooms, workers, .. } = self;
        let Some(import) = edges.imports.get_mut(&handle).filter(|_| edges.is_connected) else { return };
        let Some(transport) = &import.transport else { return };
        let Some(connection) = transport.connection.clone() else { return };
        let Some(Hosted { room, wiring, .. }) = rooms.get(&import.room) else { return };
        let (Some(member), Some(worker)) = (room.member(handle.peer), workers.get(&handle.worker)) else { return };
        let is_on = |stream| wiring.carries(stream) && !worker.plan.is_encoding_idle(stream);
        let streams = import.wanted(&member.tracks, is_on);
        let is_news = match &import.told {
            Some(told) => *told != streams,
            None => streams.iter().any(|stream| stream.on),
        };
        if !is_news {
            return;
        }
        let want = Want {
            room: import.room.clone(),
            peer: member.id.clone(),
            ours: u16::try_from(handle.worker).unwrap_or(u16::MAX),
            theirs: import.theirs,
            connection,
            context: transport.context(),
            flow: transport.flow,
            back: transport.back,
            streams: streams.clone(),
        };
        import.told = Some(streams);
        let node = import.node.clone();
        self.tell_node(&node, &Telling::Want(want.into()));
    }

    /// Tells the edges of people elsewhere what is wanted of them in a room now.
    pub(in crate::engine) fn want_in(&mut self, name: &str) {
        if self.edges.imports.is_empty() {
            return;
        }
        let Some(room) = self.room(name) else { return };
        let elsewhere = room.members().iter().filter(|member| member.elsewhere.is_some());
        for handle in elsewhere.map(|member| Handle::of(member.peer)).collect::<Vec<_>>() {
            self.want(handle);
        }
    }

    /// Nothing is wanted of somebody elsewhere any more.
    pub(in crate::engine) fn unwant(&mut self, node: &str, room: &str, peer: &str) {
        self.tell_node(node, &Telling::Unwant { room: room.to_owned(), peer: peer.to_owned() });
    }

    /// The other edge cannot give what is wanted under the keys that were named.
    pub(super) fn begin_anew(&mut self, now: Instant, from: &Sender, room: &str, peer: &str, context: &str) {
        let is_it = |member: &&Member| {
            member.id == peer && member.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.node == from.node)
        };
        let Some(member) = self.room(room).and_then(|room| room.members().iter().find(is_it)) else { return };
        let handle = Handle::of(member.peer);
        let person = Person::of(member, 0);
        let Some(import) = self.edges.imports.get(&handle) else { return };
        if import.transport.as_ref().is_none_or(|transport| transport.context() != context) {
            return;
        }
        let person = Person {
            worker: import.theirs,
            shows: member.elsewhere.as_ref().and_then(|elsewhere| elsewhere.shown()),
            ..person
        };
        self.person_anew(now, handle, room, &person);
    }

    /// Another edge wants something of a publisher of ours.
    pub(super) fn wanted(&mut self, now: Instant, from: &Sender, want: Want) {
        if !self.is_ready() || !self.sender_is_known(from) {
            return; // It says it again.
        }
        let key = (from.node.clone(), want.peer.clone());
        let worker = usize::from(want.theirs);
        let publisher = |engine: &Engine| {
            let room = engine.room(&want.room)?;
            room.members().iter().find(|member| member.id == want.peer && member.elsewhere.is_none()).cloned()
        };
        let Some(publisher) = publisher(self) else { return };
        let is_other = |export: &Export| {
            export.want.context != want.context || export.worker() != worker || export.want.ours != want.ours
        };
        let remote = self.rooms.get(&want.room).map(|hosted| &hosted.remote);
        let before = remote.and_then(|remote| remote.exports.get(&key));
        let is_full = remote.is_none_or(|remote| remote.exports.len() >= EXPORTS_PER_ROOM_MAX);
        let is_open = before.is_some_and(|export| !is_other(export));
        if before.is_some() && !is_open {
            self.close_export(&want.room, &from.node, &want.peer);
        }
        if !is_open {
            let link_key = LinkKey { node: from.node.clone(), ours: worker, theirs: want.ours };
            let Some(link) = self.link_to(now, &link_key).filter(|_| !is_full) else { return };
            let Engine { rooms, workers, random, .. } = self;
            let Some(Hosted { remote, .. }) = rooms.get_mut(&want.room) else { return };
            let Some(plan) = plan_of(workers, worker) else { return };
            let Some(peer) = plan.issue_remote() else {
                self.totals.people_left_out += 1;
                return;
            };
            let Credentials { ufrag, pwd } = Credentials::from_random(worker, &random.bytes());
            plan.want(PeerOpen { peer, ufrag, pwd });
            plan.want(PeerExtensions { peer, ids: media::extensions() });
            plan.want(PeerEdge { peer, edge: link, send_flow: want.flow, receive_flow: want.back });
            remote.exports.insert(key.clone(), Export::new(from.clone(), peer, want.clone()));
        }
        let Engine { rooms, workers, random, .. } = self;
        let Some(Hosted { remote, .. }) = rooms.get_mut(&want.room) else { return };
        let (Some(export), Some(plan)) = (remote.exports.get_mut(&key), plan_of(workers, worker)) else { return };
        let room = want.room.clone();
        export.to = from.clone();
        export.update(want, &publisher, plan, random);
        self.key_export(&room, &key);
        self.journal_export(&room, &key);
        self.slots_changed(&room);
    }

    /// Gives a transport to another edge its keys, if its link is connected, or has it begun anew if they cannot be had.
    pub(super) fn key_export(&mut self, room: &str, key: &(String, String)) {
        let Engine { edges, rooms, workers, .. } = self;
        let Some(Hosted { remote, .. }) = rooms.get_mut(room) else { return };
        let Some(export) = remote.exports.get_mut(key).filter(|export| !export.is_keyed) else { return };
        let worker = export.worker();
        let link_key = LinkKey { node: export.to.node.clone(), ours: worker, theirs: export.want.ours };
        let (Some(link), Some(plan)) = (edges.links.get(&link_key), plan_of(workers, worker)) else { return };
        let Some(connection) = link.connection() else { return };
        if connection != export.want.connection {
            let (node, context) = (export.to.node.clone(), export.want.context.clone());
            let anew = Telling::Anew { room: room.to_owned(), peer: key.1.clone(), context };
            self.close_export(room, &key.0, &key.1);
            return self.tell_node(&node, &anew);
        }
        let mut context = [0; 16];
        let keys = hex::read(&export.want.context, &mut context).and_then(|()| link.keys(&context));
        let Some(keys) = keys else { return };
        keys_of_transport(export.peer, &keys).into_iter().for_each(|keys| plan.want(Command::PeerKeys(keys)));
        export.is_keyed = true;
        self.journal_export(room, key);
        self.slots_changed(room);
    }

    /// Another edge receives nothing of a publisher of ours any more.
    pub(super) fn close_export(&mut self, room: &str, node: &str, peer: &str) {
        self.close_exports(room, |export| export.to.node == node && export.want.peer == peer);
    }

    /// Ends the transports of a room to other edges that are meant.
    pub(in crate::engine) fn close_exports(&mut self, room: &str, is_meant: impl Fn(&Export) -> bool) {
        let Engine { rooms, workers, outputs, .. } = self;
        let Some(Hosted { remote, wiring, .. }) = rooms.get_mut(room) else { return };
        let meant: Vec<_> = remote.exports.extract_if(.., |_, export| is_meant(export)).collect();
        for (_, export) in meant {
            let Handle { worker, peer } = Handle::of(export.peer);
            outputs.push_back(Output::Journal { worker, slot: peer.index, bytes: None });
            wiring.leave_slots(|slot| export.has_slot(slot), workers);
            if let Some(plan) = plan_of(workers, export.worker()) {
                export.close(plan);
            }
        }
    }
}
