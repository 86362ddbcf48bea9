//! Taking over: the rooms that an earlier controlplane made, as the worker has them installed and the journal explains
//! them. Nothing that runs is touched; what is in one of the two alone is closed or dropped.
//!
//! A room may have peers on several workers, so peers are taken over worker by worker as each says what it has, and what
//! runs between them when all have said it. Until then the engine neither settles rooms nor sends commands.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::id::SlotId;
use proto::plane::{Command, MirrorOpen, TapOpen};
use proto::signal::LeaveReason;

use super::{Engine, Handle, Hosted, Output};
use crate::happening::Happening;
use crate::ids::SlabId;
use crate::journal::Entry;
use crate::member::{Looks, Member};
use crate::peer::Peer;
use crate::quality::{Judge, Redundancy};
use crate::shown::Videos;

impl Engine {
    /// What a worker has installed is known now.
    pub(super) fn described(&mut self, now: Instant, index: usize) {
        let Some(worker) = self.workers.get_mut(&index) else { return };
        match worker.journal.take() {
            Some(journal) => self.adopt(now, index, journal),
            None => {
                for peer in worker.plan.broken_peers() {
                    self.end_peer(Handle { worker: index, peer }, LeaveReason::MediaRestarted, true);
                }
                // What was silent is not known since when: some of what was said was lost.
                for room in self.rooms.keys().cloned().collect::<Vec<_>>() {
                    self.preference_changed(&room);
                    self.slots_changed(&room);
                }
            }
        }
        if let Some(worker) = self.workers.get_mut(&index) {
            worker.plan.forget_unknown_silence();
        }
    }

    fn adopt(&mut self, now: Instant, index: usize, journal: Vec<(u32, Vec<u8>)>) {
        let mut peers = 0;
        for (slot, bytes) in journal {
            let is_adopted = Entry::read(slot, &bytes).is_some_and(|entry| self.adopt_peer(now, index, entry));
            peers += usize::from(is_adopted);
            if !is_adopted && !self.hold_edge_entry(index, slot, &bytes) {
                self.outputs.push_back(Output::Journal { worker: index, slot, bytes: None });
            }
        }
        if peers > 0 {
            self.happened(Happening::Adopted { worker: index, peers });
        }
        if self.is_ready() {
            self.adopt_edges(now);
            self.adopt_media();
        }
    }

    /// What runs between the adopted peers; the last worker has said what it has.
    fn adopt_media(&mut self) {
        self.adopt_mirrors();
        self.adopt_routes();
        self.recall_shown();
        let expired = self.workers.iter_mut().flat_map(|(&worker, of_worker)| {
            std::mem::take(&mut of_worker.expired).into_iter().map(move |peer| Handle { worker, peer })
        });
        for handle in expired.collect::<Vec<_>>() {
            self.end_peer(handle, LeaveReason::TimedOut, true);
        }
        for room in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.slots_changed(&room);
        }
    }

    /// Takes over one peer, if the worker has all of it. The client comes back by its session.
    fn adopt_peer(&mut self, now: Instant, index: usize, entry: Entry) -> bool {
        if self.sessions.contains_key(&entry.session) {
            return false;
        }
        let Some(worker) = self.workers.get_mut(&index) else { return false };
        let streams: Vec<_> = entry.tracks.iter().flat_map(|track| track.streams()).collect();
        let slots: Vec<_> = entry.slots.iter().map(|slot| slot.slot).collect();
        if !worker.plan.adopt_peer(entry.peer, &streams, &slots) {
            return false;
        }
        let handle = Handle { worker: index, peer: entry.peer };
        let deadline = (!entry.is_resource).then(|| now + self.settings.resume_timeout);
        let rooms = (entry.room.clone(), entry.home);
        let mut peer = Peer::adopted(rooms, entry.session, entry.negotiated, deadline);
        peer.since = Some(now);
        self.sessions.insert(peer.session, handle);
        self.peers.insert(handle, peer);
        let member = Member {
            peer: entry.peer,
            id: entry.id,
            looks: Looks::of(&entry.grant.name),
            is_lookalike: false,
            judge: Judge::default(),
            redundancy: Redundancy::default(),
            grant: entry.grant,
            tracks: entry.tracks,
            slots: entry.slots,
            from: entry.from,
            hears: entry.hears,
            shown: Vec::new(), // Known when it is known what its slots carry.
            elsewhere: None,
        };
        self.enter_room(&entry.room, member);
        self.set_clock(handle);
        self.watch_token(now, handle);
        self.totals.adopted += 1;
        true
    }

    /// Takes over what is handed on between workers: a mirror with the tap that feeds it, and a publisher that is here.
    fn adopt_mirrors(&mut self) {
        let mirror = |command: &Command| if let Command::MirrorOpen(open) = command { Some(*open) } else { None };
        let tap = |command: &Command| if let Command::TapOpen(open) = command { Some(*open) } else { None };
        let taps: Vec<TapOpen> = self.workers.values().flat_map(|worker| worker.plan.installed(tap)).collect();
        let mirrors: Vec<MirrorOpen> = self.workers.values().flat_map(|worker| worker.plan.installed(mirror)).collect();
        for mirror in mirrors {
            let feeds = |tap: &&TapOpen| tap.mirror == mirror.stream && tap.stream == mirror.origin;
            let of_room = self.rooms.values_mut().find(|hosted| hosted.room.track(mirror.origin).is_some());
            if let (Some(tap), Some(Hosted { room, wiring, .. })) = (taps.iter().find(feeds), of_room) {
                wiring.adopt_relay(room, &mirror, tap, &mut self.workers);
            }
        }
    }

    /// How their receivers show what is in the slots.
    fn recall_shown(&mut self) {
        let Engine { rooms, workers, .. } = self;
        for Hosted { room, .. } in rooms.values_mut() {
            let videos = Videos::of(room);
            let said: Vec<_> = (room.members().iter())
                .filter_map(|member| {
                    Some((member.peer, videos.recall(member, &workers.get(&member.peer.worker())?.plan)))
                })
                .collect();
            for (peer, said) in said {
                if let Some(member) = room.member_mut(peer).filter(|_| !said.is_empty()) {
                    member.shown = said;
                }
            }
        }
    }

    /// Takes over the routes between adopted peers, so that what is seen in a slot stays there.
    fn adopt_routes(&mut self) {
        let mut room_of: BTreeMap<SlotId, String> = BTreeMap::new();
        for (name, hosted) in &self.rooms {
            for slot in hosted.room.members().iter().flat_map(|member| &member.slots) {
                room_of.insert(slot.slot, name.clone());
            }
        }
        let mut export_of: BTreeMap<SlotId, String> = BTreeMap::new();
        for (name, hosted) in &self.rooms {
            export_of.extend(hosted.remote.slots().map(|slot| (slot, name.clone())));
        }
        let route = |command: &Command| if let Command::RouteOpen(open) = command { Some(*open) } else { None };
        for worker in self.workers.values_mut() {
            for route in worker.plan.installed(route) {
                let of_export = export_of.get(&route.slot).and_then(|name| self.rooms.get_mut(name));
                if let Some(Hosted { room, wiring, .. }) = of_export {
                    wiring.adopt_route_remote(room, &route, &mut worker.plan);
                }
                let of_slot = room_of.get(&route.slot).and_then(|name| self.rooms.get_mut(name));
                if let Some(Hosted { room, wiring, .. }) = of_slot {
                    wiring.adopt_route(room, &route, &mut worker.plan);
                }
            }
        }
    }
}
