//! What the engine shows of itself, for REST and metrics.

use std::collections::BTreeMap;

use proto::id::{SlotId, StreamId};
use proto::plane::{SlotTally, StreamTally};
use proto::signal::{PeerInfo, PeerState, SlotInfo};
use serde::Serialize;

use crate::policy::{RoomPolicy, VideoCodecs};

/// What the engine holds now.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Each worker that was ever linked.
    pub workers: Vec<WorkerSnapshot>,
    /// Each room with somebody in it.
    pub rooms: Vec<RoomSnapshot>,
    /// Rooms that an operator made, with and without somebody in them.
    pub policies: BTreeMap<String, RoomPolicy>,
    /// Peers that a room without a policy admits.
    pub peers_max: u32,
    /// Bandwidth of a client in such a room, bit/s.
    pub client_bps_max: u32,
    /// Codecs of video of such a room.
    pub codecs: VideoCodecs,
    /// Signalling sockets open, with and without a peer.
    pub sockets: usize,
    /// DTLS handshakes under way.
    pub half_open: usize,
    /// Since the engine began.
    pub totals: Totals,
}

/// One worker as the engine sees it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct WorkerSnapshot {
    /// Its index.
    pub worker: usize,
    /// Whether it is linked and takes joins.
    pub is_ready: bool,
    /// Peers that it carries.
    pub peers: usize,
    /// How busy it was in the last seconds, thousandths of its core.
    pub busy_permille: u32,
    /// Objects whose desired state is not sent yet.
    pub pending: usize,
}

/// One room.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RoomSnapshot {
    /// Its name.
    pub room: String,
    /// The workers that carry it.
    pub workers: Vec<usize>,
    /// The codecs of video that it uses.
    pub codecs: VideoCodecs,
    /// Who is in it, in the order of joining.
    pub peers: Vec<PeerSnapshot>,
}

/// One peer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PeerSnapshot {
    /// Id, name and tracks, as other peers see it.
    #[serde(flatten)]
    pub info: PeerInfo,
    /// How far its transport is.
    pub state: PeerState,
    /// Whether it has a signalling socket now.
    pub has_socket: bool,
    /// Of each of its tracks, whether nothing comes of it although it is active.
    pub silent_tracks: Vec<bool>,
    /// Receive slots.
    pub slots: usize,
    /// Receive slots that carry a track.
    pub slots_used: usize,
}

/// A peer with what it has on its worker, whose tallies say what flows.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerPlaces {
    /// Its worker.
    pub worker: usize,
    /// The peer.
    pub peer: PeerSnapshot,
    /// The streams of its tracks, in their order.
    pub streams: Vec<StreamId>,
    /// Its slots that carry a track, and what they carry.
    pub slots: Vec<(SlotId, SlotInfo)>,
}

/// A peer with what flows.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerMeasured {
    /// The peer.
    pub peer: PeerSnapshot,
    /// What comes in each of its tracks, in their order; nothing before the worker has said it.
    pub streams: Vec<Option<StreamTally>>,
    /// Its slots that carry a track, and what goes through them.
    pub slots: Vec<(SlotInfo, Option<SlotTally>)>,
}

/// Counts since the engine began; all only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Totals {
    /// Peers whose offer was answered.
    pub joined: u64,
    /// Peers that are gone.
    pub left: u64,
    /// Of them, those whose successor was there.
    pub replaced: u64,
    /// Of them, those that were silent and gave way to a newcomer.
    pub gave_way: u64,
    /// Offers answered by an error.
    pub offers_refused: u64,
    /// Further offers of peers that were in, answered.
    pub renegotiated: u64,
    /// Sessions resumed on a new socket.
    pub resumed: u64,
    /// Peers adopted from an earlier controlplane.
    pub adopted: u64,
    /// DTLS handshakes begun.
    pub handshakes_begun: u64,
    /// DTLS handshakes completed with the right certificate.
    pub handshakes_completed: u64,
    /// Transports that failed, or did not complete ICE and DTLS in time.
    pub handshakes_failed: u64,
    /// Hellos passed over by the limits on handshakes.
    pub handshakes_passed_over: u64,
    /// Commands that a worker refused.
    pub commands_refused: u64,
}
