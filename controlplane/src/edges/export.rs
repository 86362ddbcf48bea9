//! A publisher of ours as another edge receives it: the transport over the link, and a slot for each stream that the edge has ever
//! wanted of it.

use proto::id::{Mid, PeerId, SlotId, StreamId};
use proto::plane::SlotOpen;
use proto::signal::Kind;
use serde::{Deserialize, Serialize};

use super::media;
use super::message::{Want, WantedStream};
use crate::bus::Sender;
use crate::ids::SlabId;
use crate::member::{Member, Slot};
use crate::policy::kind_of;
use crate::random::Random;
use crate::reconcile::Plan;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Who receives.
    pub(crate) to: Sender,
    /// The transport's place on the worker.
    #[serde(with = "crate::ids::pair")]
    pub(crate) peer: PeerId,
    /// What is wanted, as it was told last.
    pub(crate) want: Want,
    /// Whether it has its keys.
    pub(crate) is_keyed: bool,
    slots: Vec<ExportSlot>,
}

/// A slot, and the stream that goes there and nowhere else.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ExportSlot {
    #[serde(with = "crate::ids::pair")]
    stream: StreamId,
    ssrc: u32,
    slot: Slot,
}

impl Export {
    /// A transport of which nothing is open but its peer.
    pub(crate) fn new(to: Sender, peer: PeerId, want: Want) -> Export {
        Export { to, peer, want, is_keyed: false, slots: Vec::new() }
    }

    /// Another want takes the place of the one before: opens the slots that it needs for the first time, and closes those of streams that
    /// are no more.
    pub(crate) fn update(&mut self, want: Want, publisher: &Member, plan: &mut Plan, random: &mut Random) {
        self.want = want;
        self.slots.retain(|open| {
            let stays = publisher.tracks.iter().any(|track| track.is_of(open.stream))
                && self.want.streams.iter().any(|wanted| wanted.ssrc == open.ssrc);
            if !stays {
                plan.unwant_slot(open.slot.slot);
            }
            stays
        });
        for wanted in &self.want.streams {
            let Some((stream, source)) = stream_of(publisher, wanted) else { continue };
            if self.slots.iter().any(|open| open.ssrc == wanted.ssrc) || !plan.has_room_for(0, 1) {
                continue;
            }
            let peer = self.peer;
            let slot = plan.want_slot(|slot| SlotOpen {
                slot,
                peer,
                ssrc: wanted.ssrc,
                rtx_ssrc: wanted.rtx_ssrc,
                mid: Mid::NONE,
                seq_first: random.u32() as u16 & 0x7fff,
                rtx_seq_first: random.u32() as u16 & 0x7fff,
                timestamp_first: random.u32(),
            });
            let Some(slot) = slot else { continue };
            let track = publisher.tracks.iter().find(|track| track.is_of(stream));
            let formats = track.map(|track| {
                let (first, second) = track.formats;
                (media::format(first.codec), second.map(|second| media::format(second.codec)))
            });
            let Some(formats) = formats else { continue };
            let kind = kind_of(source);
            let red_pt = if kind == Kind::Audio { media::RED_PT } else { 0 };
            let slot = Slot {
                slot,
                mid: String::new(),
                kind,
                sync_group: 0,
                is_paused: false,
                formats,
                red_pt,
                carries: Some(stream),
            };
            self.slots.push(ExportSlot { stream, ssrc: wanted.ssrc, slot });
        }
    }

    /// What is to be carried now: streams that are wanted, of tracks that may be passed on.
    pub(crate) fn carried<'a>(&'a self, publisher: &'a Member) -> impl Iterator<Item = (StreamId, &'a Slot)> {
        let is_on = |ssrc: u32| self.want.streams.iter().any(|wanted| wanted.ssrc == ssrc && wanted.on);
        let may_pass = |stream| {
            let mut tracks = publisher.published();
            tracks.any(|track| track.is_of(stream) && !publisher.is_withheld(track))
        };
        let slots = self.slots.iter().filter(move |open| self.is_keyed && is_on(open.ssrc) && may_pass(open.stream));
        slots.map(|open| (open.stream, &open.slot))
    }

    /// Closes all that it has on its worker. The routes are [`crate::wiring`]'s.
    pub(crate) fn close(self, plan: &mut Plan) {
        self.slots.iter().for_each(|open| plan.unwant_slot(open.slot.slot));
        plan.unwant_peer(self.peer);
    }

    /// Its slots.
    pub(crate) fn slots(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.slots.iter().map(|open| open.slot.slot)
    }

    /// Whether a slot is its.
    pub(crate) fn has_slot(&self, slot: SlotId) -> bool {
        self.slots.iter().any(|open| open.slot.slot == slot)
    }

    /// The worker that carries it.
    pub(crate) fn worker(&self) -> usize {
        self.peer.worker()
    }
}

/// The stream of a publisher that is wanted.
fn stream_of(publisher: &Member, wanted: &WantedStream) -> Option<(StreamId, proto::signal::Source)> {
    let track = publisher.published().find(|track| track.mid == wanted.mid)?;
    let stream = match wanted.rid.is_empty() {
        true => track.encodings.is_empty().then_some(track.stream)?,
        false => track.encodings.iter().find(|encoding| encoding.rid.as_str() == wanted.rid)?.stream,
    };
    Some((stream, track.source))
}
