//! Which streams and peers have fallen silent, for the controlplane: it gives their slots and places to those who are there.
//!
//! Looked at when a peer's reports are due, about once a second: something is silent when nothing of it came between so many
//! looks. So it costs a packet nothing, and a worker that was held up for a while takes nobody for silent because of that.
//! The packet or check that ends a silence says so at once. In this way a stream causes at most two events in two seconds.

use proto::plane::{PeerResumed, PeerSilent, StreamResumed, StreamSilent};

use crate::config::{Micros, PEER_QUIET_REPORTS, STREAM_QUIET_REPORTS};
use crate::forward::{Forwarder, IntoReport};
use crate::outbox::Outbox;
use crate::route::Stream;

/// Whether something is silent, as it was told to the controlplane.
#[derive(Default)]
pub(crate) struct Silence {
    /// What had come of it at the last look; it changes with whatever comes.
    seen: u64,
    /// Looks since it changed.
    quiet: u8,
    is_told: bool,
}

impl Silence {
    /// Looks at what has come by now. True if it is silent from this look on.
    fn begins(&mut self, seen: u64, quiet_max: u8) -> bool {
        if std::mem::replace(&mut self.seen, seen) != seen {
            self.quiet = 0;
            return false;
        }
        self.quiet = self.quiet.saturating_add(1);
        self.quiet >= quiet_max && !std::mem::replace(&mut self.is_told, true)
    }

    /// Something came. True if it was silent until now.
    #[inline]
    pub(crate) fn ends(&mut self) -> bool {
        self.is_told && {
            *self = Silence { seen: self.seen, quiet: 0, is_told: false };
            true
        }
    }

    /// Whether the controlplane was told that it is silent.
    pub(crate) fn is_told(&self) -> bool {
        self.is_told
    }
}

impl Forwarder {
    /// Tells which of a peer's streams, and whether the peer itself, are silent from now on.
    pub(crate) fn review_silence(&mut self, peer: u32, out: &mut Outbox) {
        let Forwarder { peers, streams, .. } = self;
        let Some(transport) = peers.at_mut(peer).filter(|transport| !transport.is_expired) else { return };
        for &index in &transport.streams {
            let Some(stream) = streams.at_mut(index) else { continue };
            let (packets, _) = stream.reception.totals(None);
            if stream.silence.begins(packets, STREAM_QUIET_REPORTS) {
                stream.is_flowing = false;
                out.report(StreamSilent { stream: stream.open.stream }.into_report());
            }
        }
        let heard: Micros = transport.last_heard().unwrap_or_default();
        if transport.silence.begins(heard, PEER_QUIET_REPORTS) {
            out.report(PeerSilent { peer: transport.id }.into_report());
        }
    }

    /// A check or an authentic packet has renewed a peer's consent.
    #[inline]
    pub(crate) fn peer_renewed(&mut self, peer: u32, out: &mut Outbox) {
        if let Some(transport) = self.peers.at_mut(peer)
            && transport.silence.ends()
        {
            out.report(PeerResumed { peer: transport.id }.into_report());
        }
    }
}

impl Stream {
    /// An authentic packet came of a stream that was silent.
    pub(crate) fn resume(&mut self, out: &mut Outbox) {
        if self.silence.ends() {
            out.report(StreamResumed { stream: self.open.stream }.into_report());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_after_so_many_looks_and_ends_with_what_comes() {
        let mut silence = Silence::default();
        assert!(!silence.begins(0, 2) && !silence.ends());
        assert!(silence.begins(0, 2), "nothing ever came");
        assert!(!silence.begins(0, 2), "it is told once");
        assert!(silence.ends() && !silence.ends());
        assert!(!silence.begins(7, 2) && !silence.begins(7, 2) && silence.begins(7, 2));
        assert!(silence.is_told());
    }

    #[test]
    fn what_comes_now_and_then_is_not_silent() {
        let mut silence = Silence::default();
        assert!((1..100).all(|look| !silence.begins(look / 2, 2)));
    }
}
