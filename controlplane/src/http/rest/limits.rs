//! Rooms as REST shows them, and the limits that it takes for them. Everything that a request may say has its bounds here, and the
//! document shows them.

use proto::signal::VideoCodec;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Problem;
use crate::engine::{RoomPolicy, Snapshot};
use crate::policy::{
    CLIENT_BPS_CEILING, CLIENT_BPS_FLOOR, PEERS_MAX_CEILING, VIDEOS_MAX_CEILING, VOICES_MAX_CEILING, VideoCodecs,
};

/// A room that an operator made, or that somebody is in.
#[derive(Serialize, ToSchema)]
pub(super) struct RoomView {
    /// Its name.
    #[schema(example = "standup")]
    pub(super) room: String,
    /// Peers that are in it.
    peers: usize,
    /// Peers that it admits.
    peers_max: u32,
    /// Media of each client, up and down together, bit/s.
    client_bps_max: u32,
    /// Voices that are heard at the same time while it has more than eight microphones.
    voices_max: u32,
    /// Videos that each peer receives: screens, what it has pinned, and who spoke last. 0: as many as it has slots for.
    videos_max: u32,
    /// The codecs of video that it uses, the preferred first.
    codecs: Vec<CodecName>,
    /// Whether nobody else may come in.
    locked: bool,
    /// Whether it was made by `PUT` and stays when it is empty.
    made: bool,
    /// The workers that carry it, while somebody is in it.
    workers: Vec<usize>,
    /// The nodes of the cluster that carry it, while somebody is in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<String>,
    /// Nodes of the cluster that did not answer: who is connected to them is not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unanswered: Vec<String>,
}

impl RoomView {
    /// Every room, by name.
    pub(super) fn all(snapshot: &Snapshot) -> Vec<RoomView> {
        let live = snapshot.rooms.iter().map(|room| &room.room);
        let names: std::collections::BTreeSet<&String> = live.chain(snapshot.policies.keys()).collect();
        names.into_iter().filter_map(|name| Self::find(snapshot, name)).collect()
    }

    /// Those that somebody is in here, for the other nodes: which workers carry them means nothing there.
    pub(super) fn live(snapshot: &Snapshot, node: Option<String>) -> Vec<RoomView> {
        let rooms = snapshot.rooms.iter().filter(|room| !room.peers.is_empty());
        let views = rooms.filter_map(|room| Self::find(snapshot, &room.room));
        views.map(|view| RoomView { workers: Vec::new(), nodes: node.iter().cloned().collect(), ..view }).collect()
    }

    /// With the node that carries it, if that is this one.
    pub(super) fn on(self, node: Option<&String>) -> RoomView {
        RoomView { nodes: node.filter(|_| self.peers > 0).into_iter().cloned().collect(), ..self }
    }

    /// One room.
    pub(super) fn find(snapshot: &Snapshot, name: &str) -> Option<RoomView> {
        let live = snapshot.rooms.iter().find(|room| room.room == name);
        let made = snapshot.policies.get(name);
        if live.is_none() && made.is_none() {
            return None;
        }
        let policy = made.cloned().unwrap_or_default();
        Some(RoomView {
            room: name.to_owned(),
            peers: live.map_or(0, |room| room.peers.len()),
            peers_max: policy.peers_max.unwrap_or(snapshot.peers_max),
            client_bps_max: policy.client_bps_max.unwrap_or(snapshot.client_bps_max),
            voices_max: policy.voices_max.unwrap_or(snapshot.voices_max),
            videos_max: policy.videos_max.unwrap_or(snapshot.videos_max),
            codecs: live
                .map_or(policy.codecs.unwrap_or(snapshot.codecs), |room| room.codecs)
                .iter()
                .map(CodecName::of)
                .collect(),
            locked: policy.locked,
            made: made.is_some(),
            workers: live.map(|room| room.workers.clone()).unwrap_or_default(),
            nodes: Vec::new(),
            unanswered: Vec::new(),
        })
    }
}

/// A page of rooms, by name.
#[derive(Serialize, ToSchema)]
pub(super) struct RoomPage {
    /// The rooms.
    #[schema(value_type = Vec<RoomView>)]
    pub(super) rooms: Vec<Value>,
    /// Nodes of the cluster that did not answer: who is connected to them is not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unanswered: Vec<String>,
    /// `after` of the next page, if there is one.
    pub(super) next: Option<String>,
}

/// The limits of a room; what is left out or null is as the server is set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomLimits {
    /// Peers that it admits. Who is in stays in.
    #[schema(minimum = 1, maximum = 1_000)]
    #[serde(default)]
    peers_max: Option<u32>,
    /// Media of each client, up and down together, bit/s.
    #[schema(minimum = 64_000, maximum = 100_000_000)]
    #[serde(default)]
    client_bps_max: Option<u32>,
    /// The codecs of video that it uses, the preferred first, one or two different ones. Everybody sends the first until
    /// somebody comes who lacks it. A room that somebody is in keeps those that it has until the last has left.
    #[schema(min_items = 1, max_items = 2, value_type = Option<BTreeSet<CodecName>>)]
    #[serde(default)]
    codecs: Option<Vec<CodecName>>,
    /// Voices that are heard at the same time while it has more than eight microphones: those of the loudest who speak.
    #[schema(minimum = 1, maximum = 23)]
    #[serde(default)]
    voices_max: Option<u32>,
    /// Videos that each peer receives: screens, what it has pinned, and who spoke last. 0: as many as it has slots for.
    #[schema(minimum = 0, maximum = 24)]
    #[serde(default)]
    videos_max: Option<u32>,
    /// Whether nobody else may come in.
    #[serde(default)]
    locked: bool,
}

/// A codec of video.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum CodecName {
    /// H.264
    H264,
    /// VP8
    Vp8,
    /// VP9
    Vp9,
    /// AV1
    Av1,
}

impl CodecName {
    fn of(video: VideoCodec) -> Self {
        match video {
            VideoCodec::H264 => CodecName::H264,
            VideoCodec::Vp8 => CodecName::Vp8,
            VideoCodec::Vp9 => CodecName::Vp9,
            VideoCodec::Av1 => CodecName::Av1,
        }
    }

    fn codec(self) -> VideoCodec {
        match self {
            CodecName::H264 => VideoCodec::H264,
            CodecName::Vp8 => VideoCodec::Vp8,
            CodecName::Vp9 => VideoCodec::Vp9,
            CodecName::Av1 => VideoCodec::Av1,
        }
    }
}

impl RoomLimits {
    /// The policy that it is, if it can be one.
    pub(super) fn policy(self) -> Result<RoomPolicy, Problem> {
        let RoomLimits { peers_max, client_bps_max, codecs, voices_max, videos_max, locked } = self;
        let codecs = codecs.map(listed).transpose()?;
        checked(RoomPolicy { peers_max, client_bps_max, codecs, voices_max, videos_max, locked })
    }
}

/// A policy within its bounds.
fn checked(policy: RoomPolicy) -> Result<RoomPolicy, Problem> {
    let RoomPolicy { peers_max, client_bps_max, voices_max, videos_max, .. } = policy;
    if peers_max.is_some_and(|peers| !(1..=PEERS_MAX_CEILING).contains(&peers)) {
        return Err(Problem::invalid(format!("peers_max is not 1 to {PEERS_MAX_CEILING}")));
    }
    if client_bps_max.is_some_and(|bps| !(CLIENT_BPS_FLOOR..=CLIENT_BPS_CEILING).contains(&bps)) {
        let detail = format!("client_bps_max is not {CLIENT_BPS_FLOOR} to {CLIENT_BPS_CEILING}");
        return Err(Problem::invalid(detail));
    }
    if voices_max.is_some_and(|voices| !(1..=VOICES_MAX_CEILING).contains(&voices)) {
        return Err(Problem::invalid(format!("voices_max is not 1 to {VOICES_MAX_CEILING}")));
    }
    if videos_max.is_some_and(|videos| videos > VIDEOS_MAX_CEILING) {
        return Err(Problem::invalid(format!("videos_max is not 0 to {VIDEOS_MAX_CEILING}")));
    }
    Ok(policy)
}

/// The codecs that are listed, if a room can have them.
fn listed(codecs: Vec<CodecName>) -> Result<VideoCodecs, Problem> {
    let codecs: Vec<VideoCodec> = codecs.into_iter().map(CodecName::codec).collect();
    VideoCodecs::new(&codecs).ok_or_else(|| Problem::invalid("codecs is not one or two different ones"))
}

/// Other limits of a room; what is left out stays, and null is as the server is set.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RoomChange {
    /// Peers that it admits. Who is in stays in.
    #[schema(minimum = 1, maximum = 1_000, value_type = Option<u32>)]
    #[serde(default, deserialize_with = "said")]
    peers_max: Option<Option<u32>>,
    /// Media of each client, up and down together, bit/s.
    #[schema(minimum = 64_000, maximum = 100_000_000, value_type = Option<u32>)]
    #[serde(default, deserialize_with = "said")]
    client_bps_max: Option<Option<u32>>,
    /// The codecs of video that it uses, the preferred first, one or two different ones. A room that somebody is in keeps
    /// those that it has until the last has left.
    #[schema(min_items = 1, max_items = 2, value_type = Option<BTreeSet<CodecName>>)]
    #[serde(default, deserialize_with = "said")]
    codecs: Option<Option<Vec<CodecName>>>,
    /// Voices that are heard at the same time while it has more than eight microphones: those of the loudest who speak.
    #[schema(minimum = 1, maximum = 23, value_type = Option<u32>)]
    #[serde(default, deserialize_with = "said")]
    voices_max: Option<Option<u32>>,
    /// Videos that each peer receives: screens, what it has pinned, and who spoke last. 0: as many as it has slots for.
    #[schema(minimum = 0, maximum = 24, value_type = Option<u32>)]
    #[serde(default, deserialize_with = "said")]
    videos_max: Option<Option<u32>>,
    /// Whether nobody else may come in.
    #[schema(value_type = Option<bool>)]
    #[serde(default, deserialize_with = "said")]
    locked: Option<Option<bool>>,
}

/// Tells null from a field that is left out.
pub(super) fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl RoomChange {
    /// What becomes of a policy, if it can be one.
    pub(super) fn made_in(self, before: RoomPolicy) -> Result<RoomPolicy, Problem> {
        checked(RoomPolicy {
            peers_max: self.peers_max.unwrap_or(before.peers_max),
            client_bps_max: self.client_bps_max.unwrap_or(before.client_bps_max),
            codecs: match self.codecs {
                Some(codecs) => codecs.map(listed).transpose()?,
                None => before.codecs,
            },
            voices_max: self.voices_max.unwrap_or(before.voices_max),
            videos_max: self.videos_max.unwrap_or(before.videos_max),
            locked: self.locked.map_or(before.locked, Option::unwrap_or_default),
        })
    }
}
