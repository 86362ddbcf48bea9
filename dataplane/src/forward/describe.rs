//! A description of what is installed, for a controlplane that adopts it.

use proto::plane::{
    Command, Described, EncodingIdle, EncodingRate, Event, PEER_CANDIDATES_MAX, PEER_REMOTE_PARTS_MAX, PeerExpired,
    PeerSilent, Report, STREAM_SETS_PARTS_MAX, StreamSilent, StreamSpeaks,
};

use super::{Forwarder, IntoReport};
use crate::outbox::Outbox;
use crate::slot::Slot;
use crate::stream::Stream;
use crate::transport::Transport;

/// Records that one object takes at most in one phase, beside an event.
const ECHOES_MAX: usize = 6;
const _: () = assert!(STREAM_SETS_PARTS_MAX <= ECHOES_MAX, "one phase holds a stream's parameter sets");
const _: () = assert!(PEER_CANDIDATES_MAX < ECHOES_MAX, "one phase holds a peer's candidates, and its link");
const _: () = assert!(PEER_REMOTE_PARTS_MAX < 2 * ECHOES_MAX, "two phases hold a peer's credentials, and its rate");

/// How far a description is: the kind of table and the index in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Describing {
    phase: u8,
    index: u32,
    count: u64,
}

impl Forwarder {
    /// Whether a description is under way: the worker calls [`describe`](Self::describe) while the event ring has
    /// room, and does not park.
    pub fn is_describing(&self) -> bool {
        self.describing.is_some()
    }

    /// Echoes up to `space` installed records into the outbox's reports.
    pub fn describe(&mut self, space: usize, out: &mut Outbox) {
        let Some(mut at) = self.describing else { return };
        // While there is space for one more than what an object takes, all of it fits.
        let mut space = space.min(out.report_space()).saturating_sub(ECHOES_MAX);
        while space > 0 {
            let len = match at.phase {
                0 => self.peers.len(),
                1..=3 => self.peers.len(),
                4 | 5 => self.streams.len(),
                6 => self.slots.len(),
                7 => self.routes.len(),
                8 => self.taps.len(),
                9 => self.relays.len(),
                _ => {
                    out.report(Described { count: at.count }.into_report());
                    self.describing = None;
                    return;
                }
            };
            if at.index as usize >= len {
                at = Describing { phase: at.phase + 1, index: 0, count: at.count };
                continue;
            }
            let (echoed, expired) = self.echo(at.phase, at.index, out);
            at.count += echoed as u64;
            at.index += 1;
            space = space.saturating_sub(echoed + expired);
        }
        self.describing = Some(at);
    }

    /// Reports one object; returns how many echoes and how many other events that took.
    fn echo(&self, phase: u8, index: u32, out: &mut Outbox) -> (usize, usize) {
        let mut records: [Option<Command>; ECHOES_MAX] = [None; ECHOES_MAX];
        match phase {
            0 => {
                if let Some(peer) = self.peers.at(index) {
                    records[0] = Some(peer.open.into());
                    records[1] = peer.extensions_open.map(Command::from);
                    records[2] = peer.keys_open[0].map(Command::from);
                    records[3] = peer.keys_open[1].map(Command::from);
                    records[4] = peer.estimate.as_ref().and_then(|estimate| estimate.limit()).map(Command::from);
                }
            }
            1 | 2 => {
                let parts = self.peers.at(index).into_iter().flat_map(|peer| &peer.remote_parts);
                let parts = parts.skip(usize::from(phase - 1) * ECHOES_MAX);
                records.iter_mut().zip(parts).for_each(|(record, part)| *record = Some((*part).into()));
                if phase == 2 {
                    records[ECHOES_MAX - 1] = self.peers.at(index).and_then(|peer| peer.rate_open).map(Command::from);
                }
            }
            3 => {
                let candidates = self.peers.at(index).into_iter().flat_map(|peer| peer.candidates());
                records.iter_mut().zip(candidates).for_each(|(record, told)| *record = Some((*told).into()));
                records[ECHOES_MAX - 1] =
                    self.peers.at(index).and_then(|peer| peer.edge_open().copied()).map(Command::from);
            }
            4 => {
                records[0] = self.streams.at(index).map(|s| match &s.mirror {
                    Some(mirror) => mirror.open.into(),
                    None => s.open.into(),
                });
                records[1] = self.streams.at(index).and_then(|s| s.second).map(Command::from);
                records[2] = self.streams.at(index).and_then(Stream::encodings_open).map(Command::from);
                records[3] = self.streams.at(index).and_then(|s| s.rate_open).map(Command::from);
                let encoding = self.streams.at(index).and_then(|s| s.encoding.as_ref());
                records[4] = encoding.map(|encoding| encoding.open.into());
                records[5] = self.streams.at(index).and_then(|s| s.gate_open).map(Command::from);
            }
            5 => {
                let sets = self.streams.at(index).into_iter().flat_map(|s| &s.sets).flat_map(|sets| &sets.of_sdp);
                records.iter_mut().zip(sets).for_each(|(record, sets)| *record = Some((*sets).into()));
            }
            6 => {
                records[0] = self.slots.at(index).map(|s| s.open.into());
                records[1] = self.slots.at(index).and_then(Slot::shown).map(Command::from);
            }
            7 => {
                records[0] = self.routes.at(index).map(|r| r.open.into());
                records[1] = self.routes.at(index).and_then(|r| r.second).map(Command::from);
            }
            8 => records[0] = self.taps.at(index).map(|&tap| tap.into()),
            _ => {
                records[0] = self.relays.at(index).map(|relay| relay.open.into());
                records[1] = self.relays.at(index).and_then(|relay| relay.rate).map(Command::from);
            }
        }
        let count = records.into_iter().flatten().map(|command| out.report(Report::Echo(command))).count();
        // The event may have been lost to the full ring that this description makes up for.
        let states = match phase {
            0 => [self.peers.at(index).and_then(state_of_peer), None, None],
            4 => self.streams.at(index).map(states_of_stream).unwrap_or_default(),
            _ => [None; 3],
        };
        (count, states.into_iter().flatten().map(|event| out.report(Report::Event(event))).count())
    }
}

/// What a description says of a peer beside what is installed.
fn state_of_peer(peer: &Transport) -> Option<Event> {
    match () {
        () if peer.is_expired => Some(PeerExpired { peer: peer.id }.into()),
        () if peer.silence.is_reported() => Some(PeerSilent { peer: peer.id }.into()),
        () => None,
    }
}

/// The same of a stream.
fn states_of_stream(stream: &Stream) -> [Option<Event>; 3] {
    let id = stream.open.stream;
    let is_idle = stream.encoding.as_ref().is_some_and(|encoding| encoding.is_idle);
    let spoken = stream.speech.as_ref().and_then(|speech| speech.speaks());
    let is_speaking = spoken.map(|loudness| StreamSpeaks { stream: id, loudness }.into());
    // Only video has encodings, and nobody speaks in it.
    let is_idle = is_idle.then(|| EncodingIdle { stream: id }.into());
    let told = stream.encoding.as_ref().map_or(0, |encoding| encoding.rates.told());
    let rate = (told > 0).then(|| EncodingRate { stream: id, bps: told }.into());
    [stream.silence.is_reported().then(|| StreamSilent { stream: id }.into()), is_idle.or(is_speaking), rate]
}
