//! What the engine shows of itself, for REST and metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::id::{PeerId, SlotId, StreamId};
use proto::plane::{PathState, PeerTally, SlotTally, StreamTally};
use proto::signal::{Kind, PeerInfo, PeerState, SlotInfo};
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
    /// Voices that are heard at the same time in a large room without a policy.
    pub voices_max: u32,
    /// Videos that each peer receives in a room without a policy; 0 for as many as it has slots for.
    pub videos_max: u32,
    /// Peers that a room without a policy admits.
    pub peers_max: u32,
    /// Bandwidth of a client in such a room, bit/s.
    pub client_bps_max: u32,
    /// Peers that a room's own admin may let it admit.
    pub room_peers_ceiling: u32,
    /// Bandwidth of a client that it may allow, bit/s.
    pub room_client_bps_ceiling: u32,
    /// Codecs of video of such a room.
    pub codecs: VideoCodecs,
    /// Signalling sockets open, with and without a peer.
    pub sockets: usize,
    /// DTLS handshakes under way.
    pub half_open: usize,
    /// Ends of links to other edges.
    pub links: usize,
    /// Transports over them: each of one publisher, to another edge or from one.
    pub edge_transports: usize,
    /// Pairs of other edges between whose workers this one passes on what they send each other.
    pub edge_relays: usize,
    /// People who are in rooms here through other edges.
    pub elsewhere: usize,
    /// Since the engine began.
    pub totals: Totals,
}

/// A path to another edge, as this one's probes measure it.
#[derive(Clone, PartialEq, Debug)]
pub struct EdgePath {
    /// The node at its other end.
    pub node: String,
    /// The node that it goes through; `None` for the direct path.
    pub through: Option<String>,
    /// Round trip; `None` as long as nothing was answered.
    pub round_trip: Option<Duration>,
    /// Mean difference of two round trips that follow each other.
    pub jitter: Duration,
    /// What did not arrive, of one.
    pub loss: f64,
    /// How it is.
    pub state: PathState,
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
    /// Batches of commands that were sent and have not taken effect yet.
    pub batches_in_flight: u64,
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
    /// What stands for the token that it came by.
    pub token: Option<String>,
    /// And for those that made it, the oldest first.
    pub made_by: Vec<String>,
    /// How far its transport is.
    pub state: PeerState,
    /// Whether others are told that it speaks.
    pub is_speaking: bool,
    /// Whether it has a signalling socket now.
    pub has_socket: bool,
    /// Of each of its tracks, whether nothing comes of it although it is active.
    pub silent_tracks: Vec<bool>,
    /// Receive slots.
    pub slots: usize,
    /// Receive slots that carry a track.
    pub slots_used: usize,
}

/// A peer with the ids of what it has on its worker, whose tallies say what flows.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerIds {
    /// Its worker.
    pub worker: usize,
    /// Its id there.
    pub id: PeerId,
    /// The peer.
    pub peer: PeerSnapshot,
    /// The streams of its tracks, in their order: of each one, or one for each encoding.
    pub streams: Vec<Vec<StreamId>>,
    /// Its slots that carry a track, and what they carry.
    pub slots: Vec<(SlotId, SlotInfo)>,
}

/// What a peer's link is judged by, on its worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkIds {
    /// Which peer.
    pub peer: PeerId,
    /// The streams of its tracks.
    pub streams: Vec<StreamId>,
    /// Its slots that carry a track, and the streams of those tracks, perhaps on another worker.
    pub slots: Vec<(SlotId, Kind, Vec<StreamId>)>,
}

/// A peer with what flows.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerMeasured {
    /// The peer.
    pub peer: PeerSnapshot,
    /// What its path carries towards it; nothing before the worker has said it.
    pub path: Option<PeerTally>,
    /// What comes in each of its tracks, in their order; nothing before the worker has said it.
    pub streams: Vec<Option<StreamTally>>,
    /// Its slots that carry a track, and what goes through them.
    pub slots: Vec<(SlotInfo, Option<SlotTally>)>,
}

/// What comes in all encodings of a track together; nothing if it is not known of any.
pub fn together(tallies: impl Iterator<Item = StreamTally>) -> Option<StreamTally> {
    tallies.reduce(|all, one| StreamTally {
        stream: all.stream,
        packets: all.packets.saturating_add(one.packets),
        bytes: all.bytes.saturating_add(one.bytes),
        expected: all.expected.saturating_add(one.expected),
        repaired: all.repaired.saturating_add(one.repaired),
        nacks: all.nacks.saturating_add(one.nacks),
        keyframe_requests: all.keyframe_requests.saturating_add(one.keyframe_requests),
        policed: all.policed.saturating_add(one.policed),
        window_us: all.window_us.max(one.window_us),
        window_packets: all.window_packets.saturating_add(one.window_packets),
        window_bytes: all.window_bytes.saturating_add(one.window_bytes),
        window_expected: all.window_expected.saturating_add(one.window_expected),
    })
}

/// Counts since the engine began.
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
    /// Subsequent offers of peers that were in, answered.
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
    /// Hellos passed over because their room had its part of the handshakes.
    pub handshakes_over_share: u64,
    /// Messages of data channels and sockets that were relayed.
    pub data_messages: u64,
    /// Those that were refused: not allowed, not well formed, or too much without an acknowledgement.
    pub data_refused: u64,
    /// How often what waited for a receiver was given up because it was too slow.
    pub data_given_up: u64,
    /// How often a message was not sent to a receiver because it is longer than the receiver takes.
    pub data_too_long: u64,
    /// Datagrams of data that were dropped because their peer, or all together, sent more than they may.
    pub data_over_rate: u64,
    /// Commands that a worker refused.
    pub commands_refused: u64,
    /// Connections to other edges that were made.
    pub links_connected: u64,
    /// Tries to make one that failed.
    pub links_failed: u64,
    /// Messages of other edges that were malformed or out of bounds.
    pub edge_messages_refused: u64,
    /// People elsewhere, and edges that want somebody's media, for whom a worker had no room.
    pub people_left_out: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_several_encodings_is_added_up() {
        let of = |n: u64, window_us| StreamTally {
            stream: StreamId::new(n as u32, 1),
            packets: n,
            bytes: 10 * n,
            expected: n + 1,
            repaired: 1,
            nacks: n,
            keyframe_requests: 2,
            policed: 0,
            window_us,
            window_packets: n,
            window_bytes: 10 * n,
            window_expected: u64::MAX,
        };
        let all = together([of(3, 50), of(4, 90), of(5, 0)].into_iter()).unwrap();
        assert_eq!((all.stream.index, all.packets, all.bytes, all.expected), (3, 12, 120, 15));
        assert_eq!((all.window_us, all.window_packets, all.window_expected), (90, 12, u64::MAX));
        assert_eq!(together(std::iter::empty()), None);
    }
}
