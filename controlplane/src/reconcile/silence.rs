//! Which peers and streams of a worker are silent, which encodings nobody wants, what the receivers of others have room for, and in which streams somebody speaks, as the worker has said it. Kept here, because a description says it
//! anew, whole, as it says what is installed.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{PeerId, StreamId};
use proto::plane::{Command, Event};

use super::Plan;
use super::place::{Class, Place};

/// Who is silent, and what is of no use to anybody.
#[derive(Clone, Default)]
pub(super) struct Silence {
    peers: BTreeSet<PeerId>,
    streams: BTreeSet<StreamId>,
    /// Encodings that nobody wants.
    idle: BTreeSet<StreamId>,
    /// What the receivers of encodings have room for, bit/s.
    rates: BTreeMap<StreamId, u32>,
    /// Streams in which somebody speaks, and how loud.
    spoken: BTreeMap<StreamId, u8>,
}

impl Silence {
    /// Takes an event in. Whether that changed anything.
    fn take(&mut self, event: &Event) -> bool {
        match event {
            Event::StreamSilent(event) => self.streams.insert(event.stream),
            Event::StreamResumed(event) => self.streams.remove(&event.stream),
            Event::PeerSilent(event) => self.peers.insert(event.peer),
            Event::PeerResumed(event) => self.peers.remove(&event.peer),
            Event::EncodingIdle(event) => self.idle.insert(event.stream),
            Event::EncodingWanted(event) => self.idle.remove(&event.stream),
            Event::EncodingRate(event) if event.bps == 0 => self.rates.remove(&event.stream).is_some(),
            Event::EncodingRate(event) => self.rates.insert(event.stream, event.bps) != Some(event.bps),
            Event::StreamSpeaks(event) => self.spoken.insert(event.stream, event.loudness) != Some(event.loudness),
            Event::StreamQuiet(event) => self.spoken.remove(&event.stream).is_some(),
            _ => false,
        }
    }

    fn count(&self) -> usize {
        self.peers.len() + self.streams.len() + self.idle.len() + self.rates.len() + self.spoken.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Silence::default();
    }
}

impl Plan {
    /// The worker says that a peer or a stream has fallen silent, or sends again, that nobody wants an encoding, or somebody does
    /// again, or that somebody speaks, or does not any more. Returns whose it is, if that is news.
    pub(crate) fn silence_changed(&mut self, event: &Event) -> Option<PeerId> {
        if self.is_asked() && self.described_silence.count() < self.silence_max {
            self.described_silence.take(event); // It may be of somebody who is about to be adopted.
        }
        let peer = match event {
            Event::StreamSilent(event) => self.publisher(event.stream),
            Event::StreamResumed(event) => self.publisher(event.stream),
            Event::EncodingIdle(event) => self.publisher(event.stream),
            Event::EncodingWanted(event) => self.publisher(event.stream),
            Event::EncodingRate(event) => self.publisher(event.stream),
            Event::StreamSpeaks(event) => self.publisher(event.stream),
            Event::StreamQuiet(event) => self.publisher(event.stream),
            Event::PeerSilent(event) => self.credentials(event.peer).map(|open| open.peer),
            Event::PeerResumed(event) => self.credentials(event.peer).map(|open| open.peer),
            _ => None,
        };
        peer.filter(|_| self.silence.take(event))
    }

    /// Whether nothing at all comes from a peer.
    pub(crate) fn is_peer_silent(&self, peer: PeerId) -> bool {
        self.silence.peers.contains(&peer)
    }

    /// Whether nothing comes of a stream.
    pub(crate) fn is_stream_silent(&self, stream: StreamId) -> bool {
        self.silence.streams.contains(&stream)
    }

    /// Whether nobody wants an encoding.
    pub(crate) fn is_encoding_idle(&self, stream: StreamId) -> bool {
        self.silence.idle.contains(&stream)
    }

    /// What the receivers of an encoding have room for, bit/s, if one of them needs more than it has.
    pub(crate) fn encoding_rate(&self, stream: StreamId) -> Option<u32> {
        self.silence.rates.get(&stream).copied()
    }

    /// How loud somebody speaks in a stream, if somebody does.
    pub(crate) fn spoken_in(&self, stream: StreamId) -> Option<u8> {
        self.silence.spoken.get(&stream).copied()
    }

    /// A description is complete: what it said of silence is all there is.
    pub(super) fn take_described_silence(&mut self) {
        self.silence = std::mem::take(&mut self.described_silence);
    }

    /// Drops what is said of those who were not adopted: they are closed, and nobody would say more of them.
    pub(crate) fn forget_unknown_silence(&mut self) {
        let mut silence = std::mem::take(&mut self.silence);
        silence.peers.retain(|&peer| self.credentials(peer).is_some());
        silence.streams.retain(|&stream| self.publisher(stream).is_some());
        silence.idle.retain(|&stream| self.publisher(stream).is_some());
        silence.rates.retain(|&stream, _| self.publisher(stream).is_some());
        silence.spoken.retain(|&stream, _| self.publisher(stream).is_some());
        self.silence = silence;
    }

    pub(super) fn forget_peer_silence(&mut self, peer: PeerId) {
        self.silence.peers.remove(&peer);
    }

    pub(super) fn forget_stream_silence(&mut self, stream: StreamId) {
        self.silence.streams.remove(&stream);
        self.silence.idle.remove(&stream);
        self.silence.rates.remove(&stream);
        self.silence.spoken.remove(&stream);
    }

    /// Who publishes a stream that is desired. Nobody does a mirror, here.
    pub(super) fn publisher(&self, stream: StreamId) -> Option<PeerId> {
        match self.desired.get(&Place::new(Class::Stream, stream.index)) {
            Some(Command::StreamOpen(open)) if open.stream == stream => Some(open.peer),
            _ => None,
        }
    }
}
