//! Voices: who speaks is told to the controlplane, and what of a stream of audio is passed on ([`crate::speech`]).

use proto::plane::{Refusal, StreamGate, StreamQuiet, StreamSpeaks};

use super::{Forwarder, IntoReport};
use crate::config::Micros;
use crate::outbox::Outbox;
use crate::rtp::Header;
use crate::slot::{Slot, interrupt};
use crate::speech::{Passes, Spoken};
use crate::stream::Stream;
use crate::table::Table;

/// An authentic packet came, and if it is the newest of its stream it may tell a level. Whether it is passed on.
#[inline]
pub(super) fn arrived(
    stream: &mut Stream,
    level: Option<&[u8]>,
    header: &Header,
    at: Micros,
    slots: &mut Table<Slot>,
    out: &mut Outbox,
) -> bool {
    let Some(speech) = &mut stream.speech else { return true };
    if let Some(&[level, ..]) = level {
        let spoken = speech.heard(level & 0x7f, header.timestamp, stream.open.codec.clock_rate(), at);
        if let Some(spoken) = spoken {
            tell(stream, spoken, out);
        }
    }
    let Some(speech) = &mut stream.speech else { return true };
    match speech.passes(at) {
        Passes::On => true,
        Passes::No => false,
        Passes::Anew => {
            stream.cuts = stream.cuts.wrapping_add(1);
            interrupt(stream, slots);
            true
        }
    }
}

fn tell(stream: &Stream, spoken: Spoken, out: &mut Outbox) {
    let id = stream.open.stream;
    out.report(match spoken {
        Spoken::Speaks(loudness) => StreamSpeaks { stream: id, loudness }.into_report(),
        Spoken::Quiet => StreamQuiet { stream: id }.into_report(),
    });
}

impl Forwarder {
    /// Tells in which of a peer's streams nobody speaks any more because nothing comes.
    pub(super) fn review_speech(&mut self, now: Micros, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        for &index in peers.at(peer).into_iter().flat_map(|transport| &transport.streams) {
            let Some(stream) = streams.at_mut(index) else { continue };
            if let Some(spoken) = stream.speech.as_mut().and_then(|speech| speech.unheard(now)) {
                tell(stream, spoken, out);
            }
        }
    }

    /// When packets of a stream are passed on from now on.
    pub(super) fn gate(&mut self, open: &StreamGate) -> Result<(), Refusal> {
        let stream = self.streams.find_mut(open.stream.index, open.stream.generation);
        let stream = stream.filter(|stream| stream.mirror.is_none()).ok_or(Refusal::Unknown)?;
        stream.speech.as_mut().ok_or(Refusal::Malformed)?.set_gate(open.gate);
        stream.gate_open = Some(*open);
        Ok(())
    }
}
