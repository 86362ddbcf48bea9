//! What the engine shows of itself, for REST and metrics.

use super::settle::state_of;
use super::{Engine, Handle};
use crate::ids::SlabId;
use crate::member::Member;
use crate::placement::Worker;
use crate::snapshot::{PeerIds, PeerSnapshot, RoomSnapshot, Snapshot, WorkerSnapshot};

impl Engine {
    /// Rooms, peers and totals as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let workers = self.workers.iter().map(|(&index, worker)| WorkerSnapshot {
            worker: index,
            is_ready: Worker::is_ready(worker),
            peers: worker.plan.peer_count(),
            busy_permille: worker.busy,
            pending: worker.plan.pending(),
            batches_in_flight: worker.plan.batches_in_flight(),
        });
        let rooms = self.rooms.iter().map(|(name, hosted)| RoomSnapshot {
            room: name.clone(),
            workers: workers_of(hosted.room.members()),
            codecs: hosted.room.codecs(),
            peers: hosted.room.members().iter().filter_map(|member| self.peer_snapshot(member)).collect(),
        });
        Snapshot {
            workers: workers.collect(),
            rooms: rooms.collect(),
            policies: self.policies.clone(),
            voices_max: self.settings.voices_max,
            videos_max: self.settings.videos_max,
            peers_max: self.settings.peers_max,
            client_bps_max: self.settings.client_bps_max,
            room_peers_ceiling: self.settings.room_peers_ceiling,
            room_client_bps_ceiling: self.settings.room_client_bps_ceiling,
            codecs: self.settings.codecs,
            sockets: self.sockets.len(),
            half_open: self.gate.half_open(),
            links: self.link_count(),
            edge_transports: self.edge_transport_count(),
            edge_relays: self.edge_relay_count(),
            elsewhere: self.elsewhere_count(),
            totals: self.totals,
        }
    }

    /// Who is in a room and how their workers name what they have, in the order of joining.
    pub fn ids_in(&self, room: &str) -> Option<Vec<PeerIds>> {
        let room = self.room(room)?;
        let ids = room.members().iter().filter_map(|member| {
            let slots = member.slots.iter().filter(|slot| slot.carries.is_some());
            Some(PeerIds {
                worker: member.peer.worker(),
                id: member.peer,
                peer: self.peer_snapshot(member)?,
                streams: member.published().map(|track| track.streams().collect()).collect(),
                slots: slots.map(|slot| (slot.slot, room.slot_info(slot))).collect(),
            })
        });
        Some(ids.collect())
    }

    fn peer_snapshot(&self, member: &Member) -> Option<PeerSnapshot> {
        let handle = Handle::of(member.peer);
        let peer = self.peers.get(&handle)?;
        let plan = &self.workers.get(&handle.worker)?.plan;
        Some(PeerSnapshot {
            info: member.info(),
            token: member.grant.token.clone(),
            made_by: member.grant.made_by.iter().map(|maker| maker.token.clone()).collect(),
            state: state_of(handle, peer, &self.workers),
            silent_tracks: member.published().map(|t| t.is_active && t.is_silent(plan)).collect(),
            is_speaking: self.room(&peer.room).is_some_and(|room| room.is_speaking(member.peer)),
            has_socket: self.sockets.of(handle).is_some(),
            slots: member.slots.len(),
            slots_used: member.slots.iter().filter(|slot| slot.carries.is_some()).count(),
        })
    }
}

/// The workers that carry these.
fn workers_of(members: &[Member]) -> Vec<usize> {
    let mut workers: Vec<usize> = members.iter().map(|member| member.peer.worker()).collect();
    workers.sort_unstable();
    workers.dedup();
    workers
}
