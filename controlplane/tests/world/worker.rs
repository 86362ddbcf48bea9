//! A worker's tables as the plane contract says them, strictly: a command that names what is not there, or opens what
//! is, is refused. It forwards nothing; it answers Describe and remembers everything. The simulator (`bench/sim`)
//! gives it each command that the real worker gets, and fails if the two do not refuse, commit and describe the same.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{PeerId, RouteId, SlotId, Ssrc, StreamId};
use proto::plane::{
    Codec, Command, Committed, Described, Direction, EncodingIdle, EncodingRate, Event, MirrorOpen, PeerCandidate,
    PeerEdge, PeerExpired, PeerExtensions, PeerKeys, PeerLimit, PeerOpen, PeerRate, PeerRemote, PeerSilent, Refusal,
    Refused, RelayOpen, RelayRate, Report, RouteCodec, RouteOpen, SlotOpen, SlotShown, StreamCodec, StreamEncoding,
    StreamEncodings, StreamGate, StreamOpen, StreamRate, StreamSets, StreamSilent, StreamSpeaks, TRACK_ENCODINGS_MAX,
    TapOpen,
};

/// A peer that is installed.
#[derive(Clone)]
pub struct Peer {
    pub open: PeerOpen,
    pub extensions: Option<PeerExtensions>,
    /// Its own ICE credentials, in parts.
    pub remote: Vec<PeerRemote>,
    pub candidates: Vec<PeerCandidate>,
    pub edge: Option<PeerEdge>,
    pub limit: Option<PeerLimit>,
    pub rate: Option<PeerRate>,
    pub rx: Option<PeerKeys>,
    pub tx: Option<PeerKeys>,
}

#[derive(Clone, Default)]
pub struct Worker {
    pub peers: BTreeMap<u32, Peer>,
    pub streams: BTreeMap<u32, StreamOpen>,
    /// In the same places as streams.
    pub mirrors: BTreeMap<u32, MirrorOpen>,
    pub taps: BTreeMap<u32, TapOpen>,
    pub relays: BTreeMap<u32, (RelayOpen, Option<RelayRate>)>,
    pub stream_rates: BTreeMap<u32, StreamRate>,
    pub stream_gates: BTreeMap<u32, StreamGate>,
    pub stream_codecs: BTreeMap<u32, StreamCodec>,
    /// What makes a stream one of several encodings of a track.
    pub encodings: BTreeMap<u32, StreamEncoding>,
    pub stream_encodings: BTreeMap<u32, StreamEncodings>,
    /// By stream, and in order.
    pub stream_sets: BTreeMap<u32, Vec<StreamSets>>,
    pub slots: BTreeMap<u32, SlotOpen>,
    pub shown: BTreeMap<u32, SlotShown>,
    pub routes: BTreeMap<u32, RouteOpen>,
    pub route_codecs: BTreeMap<u32, RouteCodec>,
    staged: Vec<Command>,
    /// Length of each batch, without its Commit.
    pub batches: Vec<usize>,
    pub refused: Vec<Refused>,
    /// Every key that was ever installed: none may be installed twice.
    keys_seen: BTreeSet<[u8; 32]>,
    /// SSRCs of slots that were closed: none of a peer may be opened again.
    closed_ssrcs: BTreeSet<(PeerId, Ssrc)>,
    /// Peers for which there is no room: opening them is refused.
    pub peers_max: Option<usize>,
    /// Peers without consent; said again at Describe.
    pub expired: Vec<PeerId>,
    /// Peers and streams that are silent; said again at Describe.
    pub silent_peers: BTreeSet<PeerId>,
    pub silent_streams: BTreeSet<StreamId>,
    /// Encodings that nobody wants; said again, too.
    pub idle_encodings: BTreeSet<StreamId>,
    /// What the receivers of encodings have room for; said again, too.
    pub encoding_rates: BTreeMap<StreamId, u32>,
    /// Streams in which somebody speaks, and how loud; said again, too.
    pub spoken: BTreeMap<StreamId, u8>,
}

impl Worker {
    /// Takes a command; what it has to say comes at the Commit.
    pub fn apply(&mut self, command: Command) -> Vec<Report> {
        let Command::Commit(commit) = command else {
            self.staged.push(command);
            return Vec::new();
        };
        let mut reports = Vec::new();
        self.batches.push(self.staged.len());
        for command in std::mem::take(&mut self.staged) {
            if let Command::Describe(_) = command {
                self.describe(&mut reports);
            } else if let Err((index, refusal)) = self.take(command) {
                let refused = Refused { batch: commit.batch, tag: command.tag(), index, refusal };
                self.refused.push(refused);
                reports.push(Report::Event(refused.into()));
            }
        }
        reports.push(Report::Event(Committed { batch: commit.batch }.into()));
        reports
    }

    /// A refusal names the index of what the command opens or closes, whatever it missed.
    fn take(&mut self, command: Command) -> Result<(), (u32, Refusal)> {
        let index = match command {
            Command::StreamOpen(c) => c.stream.index,
            Command::RouteCodec(c) => c.route.index,
            Command::SlotOpen(c) => c.slot.index,
            Command::RouteOpen(c) => c.route.index,
            Command::TapOpen(c) => c.tap.index,
            _ => return self.carry_out(command),
        };
        self.carry_out(command).map_err(|(_, refusal)| (index, refusal))
    }

    fn carry_out(&mut self, command: Command) -> Result<(), (u32, Refusal)> {
        match command {
            Command::PeerOpen(open) => {
                if self.peers_max.is_some_and(|max| self.peers.len() >= max) {
                    return Err((open.peer.index, Refusal::TableFull));
                }
                let peer = Peer {
                    open,
                    remote: Vec::new(),
                    candidates: Vec::new(),
                    edge: None,
                    extensions: None,
                    limit: None,
                    rate: None,
                    rx: None,
                    tx: None,
                };
                vacant(self.peers.insert(open.peer.index, peer).is_some(), open.peer.index)
            }
            Command::PeerIce(c) => {
                let is_taken = self.peers.values().any(|peer| peer.open.ufrag == c.ufrag);
                self.peer(c.peer)?.open = PeerOpen { peer: c.peer, ufrag: c.ufrag, pwd: c.pwd };
                vacant(is_taken, c.peer.index)
            }
            Command::PeerRemote(c) => {
                let peer = self.peer(c.peer)?;
                peer.remote.retain(|part| part.part != c.part);
                peer.remote.push(c);
                Ok(())
            }
            Command::PeerCandidate(c) => {
                let peer = self.peer(c.peer)?;
                peer.candidates.retain(|candidate| candidate.place != c.place);
                peer.candidates.push(c);
                Ok(())
            }
            Command::PeerEdge(c) => {
                self.peer(c.peer)?.edge = Some(c);
                Ok(())
            }
            Command::PeerExtensions(c) => {
                self.peer(c.peer)?.extensions = Some(c);
                Ok(())
            }
            Command::PeerLimit(c) => {
                self.peer(c.peer)?.limit = Some(c);
                Ok(())
            }
            Command::PeerRate(c) => {
                self.peer(c.peer)?.rate = Some(c);
                Ok(())
            }
            Command::StreamRate(c) => {
                let is_open = self.streams.get(&c.stream.index).is_some_and(|open| open.stream == c.stream);
                if !is_open {
                    return Err((c.stream.index, Refusal::Unknown));
                }
                self.stream_rates.insert(c.stream.index, c);
                Ok(())
            }
            Command::StreamGate(c) => {
                let is_it = |open: &&StreamOpen| open.stream == c.stream;
                let open = self.streams.get(&c.stream.index).filter(is_it);
                match open.ok_or((c.stream.index, Refusal::Unknown))?.codec.is_video() {
                    true => return Err((c.stream.index, Refusal::Malformed)),
                    false => drop(self.stream_gates.insert(c.stream.index, c)),
                }
                Ok(())
            }
            Command::PeerKeys(c) => {
                assert_ne!(c.key, [0; 32], "blank keys");
                assert!(self.keys_seen.insert(c.key), "a key was installed twice: its keystream would be used again");
                let peer = self.peer(c.peer)?;
                match c.direction {
                    Direction::Rx => peer.rx = Some(c),
                    Direction::Tx => peer.tx = Some(c),
                }
                Ok(())
            }
            Command::PeerClose(c) => {
                self.peer(c.peer)?;
                self.peers.remove(&c.peer.index);
                self.silent_peers.remove(&c.peer);
                let (streams, slots) = (self.streams_of(c.peer), self.slots_of(c.peer));
                streams.into_iter().for_each(|stream| self.close_stream(stream));
                slots.into_iter().for_each(|slot| self.close_slot(slot));
                Ok(())
            }
            Command::StreamOpen(c) => {
                self.peer(c.peer)?;
                let mut of_peer = self.streams.values().filter(|open| open.peer == c.peer);
                let is_doubled = c.ssrc != 0 && of_peer.any(|open| [open.ssrc, open.rtx_ssrc].contains(&c.ssrc));
                let is_taken = is_doubled || self.mirrors.contains_key(&c.stream.index);
                vacant(is_taken || self.streams.insert(c.stream.index, c).is_some(), c.stream.index)
            }
            Command::MirrorOpen(c) => {
                let is_taken = self.streams.contains_key(&c.stream.index);
                vacant(is_taken || self.mirrors.insert(c.stream.index, c).is_some(), c.stream.index)
            }
            Command::TapOpen(c) => {
                assert!(self.streams.get(&c.stream.index).is_some_and(|open| open.stream == c.stream), "{c:?}");
                let is_taken = self.taps.values().any(|tap| (tap.stream, tap.worker) == (c.stream, c.worker));
                vacant(is_taken || self.taps.insert(c.tap.index, c).is_some(), c.tap.index)
            }
            Command::TapClose(c) => match self.taps.get(&c.tap.index) {
                Some(tap) if tap.tap == c.tap => {
                    self.taps.remove(&c.tap.index);
                    Ok(())
                }
                _ => Err((c.tap.index, Refusal::Unknown)),
            },
            Command::RelayOpen(c) => {
                let is_taken = self.relays.values().any(|(open, _)| open.flow == c.flow);
                vacant(is_taken || self.relays.insert(c.relay.index, (c, None)).is_some(), c.relay.index)
            }
            Command::RelayRate(c) => match self.relays.get_mut(&c.relay.index) {
                Some((open, rate)) if open.relay == c.relay => {
                    *rate = Some(c);
                    Ok(())
                }
                _ => Err((c.relay.index, Refusal::Unknown)),
            },
            Command::RelayClose(c) => match self.relays.get(&c.relay.index) {
                Some((open, _)) if open.relay == c.relay => {
                    self.relays.remove(&c.relay.index);
                    Ok(())
                }
                _ => Err((c.relay.index, Refusal::Unknown)),
            },
            Command::StreamCodec(c) => {
                let (codec, pt) = self.stream(c.stream)?;
                assert!(codec != c.codec && pt != c.pt && c.pt != 0, "{codec:?} {pt} {c:?}");
                vacant(self.stream_codecs.insert(c.stream.index, c).is_some(), c.stream.index)
            }
            Command::StreamEncoding(c) => {
                let (codec, _) = self.stream(c.stream)?;
                assert!(codec.is_video() && usize::from(c.place) < TRACK_ENCODINGS_MAX && !c.rid.is_empty(), "{c:?}");
                vacant(self.encodings.insert(c.stream.index, c).is_some(), c.stream.index)
            }
            Command::StreamEncodings(c) => {
                self.stream(c.stream)?;
                vacant(self.stream_encodings.insert(c.stream.index, c).is_some(), c.stream.index)
            }
            Command::StreamSets(c) => {
                self.stream(c.stream)?;
                let parts = self.stream_sets.entry(c.stream.index).or_default();
                assert_eq!(usize::from(c.part), parts.len(), "{c:?}");
                parts.push(c);
                Ok(())
            }
            Command::StreamClose(c) => {
                self.stream(c.stream)?;
                self.close_stream(c.stream);
                Ok(())
            }
            Command::SlotOpen(c) => {
                self.peer(c.peer)?;
                let is_spent = [c.ssrc, c.rtx_ssrc].iter().any(|&ssrc| self.closed_ssrcs.contains(&(c.peer, ssrc)));
                vacant(is_spent || self.slots.insert(c.slot.index, c).is_some(), c.slot.index)
            }
            Command::SlotShown(c) => {
                self.slot(c.slot)?;
                assert!(c.weight <= proto::plane::weight::SCREEN, "{c:?}");
                self.shown.insert(c.slot.index, c);
                Ok(())
            }
            Command::SlotClose(c) => {
                self.slot(c.slot)?;
                self.close_slot(c.slot);
                Ok(())
            }
            Command::RouteOpen(c) => {
                self.stream(c.stream)?;
                let slot = self.slot(c.slot)?;
                let keys = self.peer(slot.peer)?.tx;
                assert!(keys.is_some(), "a route to somebody who has no keys yet");
                let is_another =
                    |other: &RouteOpen| other.stream == c.stream || self.track(other.stream) != self.track(c.stream);
                let is_taken = self.routes.values().any(|route| route.slot == c.slot && is_another(route));
                vacant(is_taken || self.routes.insert(c.route.index, c).is_some(), c.route.index)
            }
            Command::RouteCodec(c) => {
                let route = self.routes.get(&c.route.index).filter(|route| route.route == c.route);
                let route = *route.ok_or((c.route.index, Refusal::Unknown))?;
                let of_stream = self.stream_codecs.get(&route.stream.index);
                assert!(of_stream.is_some_and(|second| second.codec == c.codec), "{route:?} {c:?}");
                vacant(self.route_codecs.insert(c.route.index, c).is_some(), c.route.index)
            }
            Command::RouteClose(c) => match self.routes.get(&c.route.index) {
                Some(route) if route.route == c.route => {
                    self.routes.remove(&c.route.index);
                    self.route_codecs.remove(&c.route.index);
                    Ok(())
                }
                _ => Err((c.route.index, Refusal::Unknown)),
            },
            Command::Reset(_) | Command::Describe(_) | Command::Commit(_) => unreachable!("not sent in a batch"),
        }
    }

    fn describe(&self, reports: &mut Vec<Report>) {
        let start = reports.len();
        let mut echo = |command: Command| {
            // Through the bytes, as on the real way: that blanks the keys.
            reports.push(Report::read(&Report::Echo(command).write()).expect("an echo reads back"));
        };
        for peer in self.peers.values() {
            echo(peer.open.into());
            peer.remote.iter().for_each(|&c| echo(c.into()));
            peer.candidates.iter().for_each(|&c| echo(c.into()));
            peer.edge.into_iter().for_each(|c| echo(c.into()));
            peer.extensions.into_iter().for_each(|c| echo(c.into()));
            peer.rx.into_iter().chain(peer.tx).for_each(|c| echo(c.into()));
            peer.limit.into_iter().for_each(|c| echo(c.into()));
            peer.rate.into_iter().for_each(|c| echo(c.into()));
        }
        self.streams.values().for_each(|&c| echo(c.into()));
        self.stream_rates.values().for_each(|&c| echo(c.into()));
        self.stream_gates.values().for_each(|&c| echo(c.into()));
        self.stream_codecs.values().for_each(|&c| echo(c.into()));
        self.encodings.values().for_each(|&c| echo(c.into()));
        self.stream_encodings.values().for_each(|&c| echo(c.into()));
        self.stream_sets.values().flatten().for_each(|&c| echo(c.into()));
        self.slots.values().for_each(|&c| echo(c.into()));
        self.shown.values().for_each(|&c| echo(c.into()));
        self.routes.values().for_each(|&c| echo(c.into()));
        self.route_codecs.values().for_each(|&c| echo(c.into()));
        self.mirrors.values().for_each(|&c| echo(c.into()));
        self.taps.values().for_each(|&c| echo(c.into()));
        for (open, rate) in self.relays.values() {
            echo((*open).into());
            rate.iter().for_each(|&c| echo(c.into()));
        }
        let count = (reports.len() - start) as u64;
        reports.extend(self.expired.iter().map(|&peer| Report::Event(PeerExpired { peer }.into())));
        let peers = self.silent_peers.iter().map(|&peer| Event::from(PeerSilent { peer }));
        let streams = self.silent_streams.iter().map(|&stream| Event::from(StreamSilent { stream }));
        let idle = self.idle_encodings.iter().map(|&stream| Event::from(EncodingIdle { stream }));
        let rates = self.encoding_rates.iter().map(|(&stream, &bps)| Event::from(EncodingRate { stream, bps }));
        let speaks = |(&stream, &loudness)| Event::from(StreamSpeaks { stream, loudness });
        let spoken = self.spoken.iter().map(speaks);
        reports.extend(peers.chain(streams).chain(idle).chain(rates).chain(spoken).map(Report::Event));
        reports.push(Report::Event(Event::Described(Described { count })));
    }

    /// Notes who is silent.
    pub fn note_silence(&mut self, event: &Event) {
        let _ = match event {
            Event::StreamSilent(event) => self.silent_streams.insert(event.stream),
            Event::StreamResumed(event) => self.silent_streams.remove(&event.stream),
            Event::PeerSilent(event) => self.silent_peers.insert(event.peer),
            Event::PeerResumed(event) => self.silent_peers.remove(&event.peer),
            Event::EncodingIdle(event) => self.idle_encodings.insert(event.stream),
            Event::EncodingWanted(event) => self.idle_encodings.remove(&event.stream),
            Event::EncodingRate(event) if event.bps == 0 => self.encoding_rates.remove(&event.stream).is_some(),
            Event::EncodingRate(event) => self.encoding_rates.insert(event.stream, event.bps).is_none(),
            Event::StreamSpeaks(event) => self.spoken.insert(event.stream, event.loudness).is_none(),
            Event::StreamQuiet(event) => self.spoken.remove(&event.stream).is_some(),
            other => panic!("{other:?} is no event of silence"),
        };
    }

    fn peer(&mut self, id: PeerId) -> Result<&mut Peer, (u32, Refusal)> {
        self.peers.get_mut(&id.index).filter(|peer| peer.open.peer == id).ok_or((id.index, Refusal::Unknown))
    }

    /// Codec and payload type of a stream or mirror.
    fn stream(&self, id: StreamId) -> Result<(Codec, u8), (u32, Refusal)> {
        let stream = self.streams.get(&id.index).filter(|c| c.stream == id).map(|c| (c.codec, c.pt));
        let mirror = self.mirrors.get(&id.index).filter(|c| c.stream == id).map(|c| (c.codec, c.pt));
        stream.or(mirror).ok_or((id.index, Refusal::Unknown))
    }

    /// The track that a stream is of.
    fn track(&self, id: StreamId) -> StreamId {
        self.encodings.get(&id.index).map_or(id, |encoding| encoding.track)
    }

    fn slot(&self, id: SlotId) -> Result<SlotOpen, (u32, Refusal)> {
        self.slots.get(&id.index).filter(|c| c.slot == id).copied().ok_or((id.index, Refusal::Unknown))
    }

    fn close_stream(&mut self, id: StreamId) {
        self.streams.remove(&id.index);
        self.silent_streams.remove(&id);
        self.idle_encodings.remove(&id);
        self.encoding_rates.remove(&id);
        self.spoken.remove(&id);
        self.mirrors.remove(&id.index);
        self.taps.retain(|_, tap| tap.stream != id);
        self.stream_rates.remove(&id.index);
        self.stream_gates.remove(&id.index);
        self.stream_codecs.remove(&id.index);
        self.encodings.remove(&id.index);
        self.stream_encodings.remove(&id.index);
        self.stream_sets.remove(&id.index);
        self.close_routes(|route| route.stream == id);
    }

    fn close_slot(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.remove(&id.index) {
            self.shown.remove(&id.index);
            let ssrcs = [slot.ssrc, slot.rtx_ssrc].into_iter().filter(|ssrc| *ssrc != 0);
            self.closed_ssrcs.extend(ssrcs.map(|ssrc| (slot.peer, ssrc)));
        }
        self.close_routes(|route| route.slot == id);
    }

    fn close_routes(&mut self, is_closed: impl Fn(&RouteOpen) -> bool) {
        self.routes.retain(|_, route| !is_closed(route));
        self.route_codecs.retain(|index, _| self.routes.contains_key(index));
    }

    pub fn streams_of(&self, peer: PeerId) -> Vec<StreamId> {
        self.streams.values().filter(|c| c.peer == peer).map(|c| c.stream).collect()
    }

    pub fn slots_of(&self, peer: PeerId) -> Vec<SlotId> {
        self.slots.values().filter(|c| c.peer == peer).map(|c| c.slot).collect()
    }

    /// Everything that is installed, to compare.
    pub fn dump(&self) -> (Vec<PeerId>, Vec<StreamOpen>, Vec<SlotOpen>, Vec<RouteId>) {
        (
            self.peers.values().map(|peer| peer.open.peer).collect(),
            self.streams.values().copied().collect(),
            self.slots.values().copied().collect(),
            self.routes.values().map(|route| route.route).collect(),
        )
    }
}

fn vacant(is_taken: bool, index: u32) -> Result<(), (u32, Refusal)> {
    if is_taken { Err((index, Refusal::Occupied)) } else { Ok(()) }
}
