//! Somebody who is in a room through another edge, as this edge receives what it publishes: the transport over the link, and the streams
//! under the SSRCs that were chosen for them.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::id::{PeerId, Ssrc, StreamId};
use proto::plane::{PeerEdge, PeerExtensions, PeerOpen, StreamOpen};
use serde::{Deserialize, Serialize};

use super::media;
use super::message::{FLOW_BITS, TrackSaid, WantedStream};
use crate::hex;
use crate::ice::Credentials;
use crate::ids::SlabId;
use crate::member::{Encoding, Track};
use crate::policy::{STREAM_SSRCS_MAX, kind_of};
use crate::random::Random;
use crate::reconcile::Plan;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Import {
    /// The room.
    pub(crate) room: String,
    /// The name of the other edge's node.
    pub(crate) node: String,
    /// The worker there.
    pub(crate) theirs: u16,
    /// The transport, once there is something to receive.
    pub(crate) transport: Option<Transport>,
    /// SSRCs of each stream, and of its RTX. Not journaled: the worker has them.
    #[serde(skip)]
    ssrcs: BTreeMap<StreamId, (Ssrc, Ssrc)>,
    /// SSRCs that were ever chosen: the worker remembers each for as long as the transport lives.
    spent: usize,
    /// The other edge was told to send this. Not journaled: a successor says it anew.
    #[serde(skip)]
    pub(crate) told: Option<Vec<WantedStream>>,
    /// Since when nothing comes over the transport, while the cluster is away.
    #[serde(skip)]
    pub(crate) silent_since: Option<Instant>,
}

/// The transport over the link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Transport {
    /// Context of its keys.
    pub(crate) context: [u8; 16],
    /// Flow of what comes.
    pub(crate) flow: u64,
    /// Flow of what is sent back.
    pub(crate) back: u64,
    /// The connection that its keys are from, once it has them.
    pub(crate) connection: Option<String>,
    /// Whether the worker knows over which link it comes.
    pub(crate) is_attached: bool,
}

impl Transport {
    fn new(random: &mut Random) -> Transport {
        let mut flow = || (u64::from_le_bytes(random.bytes()) & ((1 << FLOW_BITS) - 1)).max(1);
        let (flow, back) = (flow(), flow());
        Transport { context: random.bytes(), flow, back, connection: None, is_attached: false }
    }

    /// The context of its keys as it is told.
    pub(crate) fn context(&self) -> String {
        hex::write(&self.context)
    }
}

impl Import {
    /// Somebody of whom nothing is open.
    pub(crate) fn new(room: &str, node: &str, theirs: u16) -> Import {
        Import {
            room: room.to_owned(),
            node: node.to_owned(),
            theirs,
            transport: None,
            ssrcs: BTreeMap::new(),
            spent: 0,
            told: None,
            silent_since: None,
        }
    }

    /// Whether all these streams may be had over the transport that there is.
    pub(crate) fn has_room_for(&self, said: &[TrackSaid], before: &[Track]) -> bool {
        let fresh = said.iter().filter(|said| !before.iter().any(|track| is_same(track, said)));
        self.spent + fresh.map(|said| 2 * said.rids.len().max(1)).sum::<usize>() <= STREAM_SSRCS_MAX
    }

    /// Opens the tracks that are said, and closes those that are not any more. Those that stay keep their streams.
    pub(crate) fn tracks(
        &mut self,
        peer: PeerId,
        said: &[TrackSaid],
        before: Vec<Track>,
        plan: &mut Plan,
        random: &mut Random,
    ) -> Vec<Track> {
        if !said.is_empty() && self.transport.is_none() {
            let Credentials { ufrag, pwd } = Credentials::from_random(peer.worker(), &random.bytes());
            plan.want(PeerOpen { peer, ufrag, pwd });
            plan.want(PeerExtensions { peer, ids: media::extensions() });
            self.transport = Some(Transport::new(random));
        }
        for track in before.iter().filter(|track| !said.iter().any(|said| is_same(track, said))) {
            for stream in track.streams() {
                self.ssrcs.remove(&stream);
                plan.unwant_stream(stream);
            }
        }
        let track = |said: &TrackSaid| {
            let kept = before.iter().find(|track| is_same(track, said)).cloned();
            let track = kept.or_else(|| self.open(peer, said, plan, random))?;
            Some(Track { is_active: said.active, is_muted: said.muted, ..track })
        };
        said.iter().filter_map(track).collect()
    }

    fn open(&mut self, peer: PeerId, said: &TrackSaid, plan: &mut Plan, random: &mut Random) -> Option<Track> {
        if !plan.has_room_for(said.rids.len().max(1), 0) {
            return None;
        }
        let formats = media::formats(said);
        let mut encodings: Vec<Encoding> = Vec::new();
        let rids = said.encodings().map(Some).chain(said.rids.is_empty().then_some(None));
        let mut first = None;
        for (place, rid) in (0u8..).zip(rids) {
            let is_video = formats.0.codec.is_video();
            let ssrcs = (self.fresh_ssrc(random), if is_video { self.fresh_ssrc(random) } else { 0 });
            let ssrcs = (ssrcs.0, if ssrcs.0 == ssrcs.1 { 0 } else { ssrcs.1 });
            self.spent += 2;
            let mut parts = Vec::new();
            let stream = plan.want_stream(|stream| {
                let encoding = rid.map(|rid| (first.unwrap_or(stream), place, rid));
                let (open, more) = media::stream_of(peer, stream, ssrcs, formats, encoding);
                parts = more;
                open
            })?;
            parts.into_iter().for_each(|part| plan.want(part));
            self.ssrcs.insert(stream, ssrcs);
            first.get_or_insert(stream);
            encodings.extend(rid.map(|rid| Encoding { stream, rid }));
        }
        Some(Track {
            stream: first?,
            encodings,
            mid: said.mid.clone(),
            source: said.source,
            is_active: said.active,
            formats,
            is_muted: said.muted,
            is_paused: false,
            audio_bps: None,
        })
    }

    fn fresh_ssrc(&self, random: &mut Random) -> Ssrc {
        loop {
            let ssrc = random.nonzero_u32();
            if self.ssrcs.values().all(|&(media, rtx)| media != ssrc && rtx != ssrc) {
                return ssrc;
            }
        }
    }

    /// The streams are as an earlier controlplane has opened them.
    pub(crate) fn adopted(&mut self, streams: impl Iterator<Item = StreamOpen>) {
        self.ssrcs = streams.map(|open| (open.stream, (open.ssrc, open.rtx_ssrc))).collect();
    }

    /// The worker is told over which link it comes.
    pub(crate) fn attach(&mut self, peer: PeerId, link: PeerId, plan: &mut Plan) {
        if let Some(transport) = &mut self.transport {
            transport.is_attached = true;
            let (send_flow, receive_flow) = (transport.back, transport.flow);
            plan.want(PeerEdge { peer, edge: link, send_flow, receive_flow });
        }
    }

    /// What is wanted now: of each stream, whether it is `on`.
    pub(crate) fn wanted(&self, tracks: &[Track], on: impl Fn(StreamId) -> bool) -> Vec<WantedStream> {
        let of_track = |track: &Track| {
            let rid = |stream: StreamId| {
                let encoding = track.encodings.iter().find(|encoding| encoding.stream == stream);
                encoding.map(|encoding| encoding.rid.as_str().to_owned()).unwrap_or_default()
            };
            let wanted = |stream: StreamId| {
                let &(ssrc, rtx_ssrc) = self.ssrcs.get(&stream)?;
                Some(WantedStream { mid: track.mid.clone(), rid: rid(stream), ssrc, rtx_ssrc, on: on(stream) })
            };
            track.streams().filter_map(wanted).collect::<Vec<_>>()
        };
        tracks.iter().flat_map(of_track).collect()
    }
}

/// Whether a track is as it is said, but for whether it is on.
fn is_same(track: &Track, said: &TrackSaid) -> bool {
    track.mid == said.mid
        && track.source == said.source
        && track.formats == media::formats(said)
        && track.encodings.iter().map(|encoding| encoding.rid).eq(said.encodings())
        && kind_of(track.source) == kind_of(said.source)
}
