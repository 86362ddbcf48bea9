//! The queue from the engine to one signalling socket, bounded by count and by bytes. It never waits: a socket whose client does not read
//! is cut off, and resumes when its client reads again.
//!
//! Signals stand in it as the text that will be sent, so that what they hold is known to the byte. Each socket has a little for
//! itself; what is beyond that, as the list of who is in a large room, is taken from what all sockets share
//! ([`crate::memory`]) and given back when it has been sent.

use std::sync::{Arc, Mutex, PoisonError};

use proto::signal::ServerSignal;
use tokio::sync::mpsc;

use super::Closing;
use crate::data::{FLIGHT_SOCKET_MAX, LOSSY_LEN_MAX};
use crate::limited::Owner;
use crate::memory::{Lease, Memory};

/// Signals that may wait for one socket. A join into a full room costs its members about five; a socket that is
/// this far behind is dead or hostile.
pub const OUTGOING_MAX: usize = 256;

const _: () = assert!(FLIGHT_SOCKET_MAX <= OUTGOING_MAX / 2, "messages leave half of the queue for signals");

/// Bytes of signals that each socket may have waiting, whatever others have: with these, with what an idle socket holds (5 KiB) and with
/// a message that is not whole (22 KiB) it stays within 32 KiB. It is about twenty small signals.
pub const OUTGOING_LEN_FREE: usize = 4 * 1024;

/// Bytes of signals that may wait for all sockets beyond that. The owner that has most may have half of it, and that holds what 64
/// clients of a room of 1,000 are told when they resume in one turn of the driver: 0.7 MB each, if all have the longest names and four tracks.
pub(super) const SHARED_LEN: usize = 96 * 1024 * 1024;

/// What a signal in the queue takes beside its text.
const ENTRY_LEN: usize = size_of::<Signal>() + size_of::<Queued>();

/// What a socket is to do.
#[derive(Debug)]
pub enum ToSocket {
    /// Send a signal.
    Signal(Box<ServerSignal>),
    /// Find out whether anybody is there, and end if not.
    Probe,
    /// Close, after everything before it.
    Close(Closing),
}

/// The same, in the queue.
#[derive(Debug)]
pub enum Queued {
    /// Send this text. Boxed, because a queue has room for dozens and is mostly empty.
    Signal(Box<Signal>),
    /// As [`ToSocket::Probe`].
    Probe,
    /// As [`ToSocket::Close`].
    Close(Closing),
}

const _: () = assert!(size_of::<Queued>() <= 16, "each socket's queue has room for a block of 32 from its start");

/// A signal in the queue.
#[derive(Debug)]
pub struct Signal {
    /// JSON.
    text: String,
    charge: Charge,
}

impl Signal {
    /// Its text, and what is to be dropped when the text has been sent.
    pub fn into_parts(self) -> (String, Charge) {
        (self.text, self.charge)
    }
}

/// Bytes that a signal takes until this is dropped.
#[derive(Debug)]
pub struct Charge {
    waiting: Arc<Waiting>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.waiting.give(self.bytes);
    }
}

/// The socket is further behind than it may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overfull;

/// The engine's end of the queue.
#[derive(Debug)]
pub struct Outgoing {
    queue: mpsc::Sender<Queued>,
    waiting: Arc<Waiting>,
}

/// The socket's end of the queue.
pub type Outlet = mpsc::Receiver<Queued>;

/// Bytes of what is in a queue, or on its way out.
#[derive(Debug)]
struct Waiting(Mutex<(usize, Lease)>);

impl Waiting {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Has so many bytes more, if there is room for them.
    fn take(&self, bytes: usize) -> bool {
        let (waiting, lease) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_taken = lease.set((*waiting + bytes).saturating_sub(OUTGOING_LEN_FREE));
        *waiting += if is_taken { bytes } else { 0 };
        is_taken
    }

    fn give(&self, bytes: usize) {
        let (waiting, lease) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting -= bytes;
        lease.set(waiting.saturating_sub(OUTGOING_LEN_FREE)); // Less than before: it cannot be refused.
    }
}

/// A queue to a socket of this owner.
pub(super) fn queue(memory: &Arc<Memory>, owner: Owner) -> (Outgoing, Outlet) {
    let (queue, outlet) = mpsc::channel(OUTGOING_MAX);
    let waiting = Arc::new(Waiting(Mutex::new((0, memory.lease(owner)))));
    (Outgoing { queue, waiting }, outlet)
}

impl Outgoing {
    /// Puts something into the queue, if there is room for it. If the socket has gone, it is dropped; as is a message that is not reliable
    /// where much waits.
    pub fn push(&self, what: ToSocket) -> Result<(), Overfull> {
        let queued = match what {
            ToSocket::Probe => Queued::Probe,
            ToSocket::Close(closing) => Queued::Close(closing),
            ToSocket::Signal(signal) => {
                let is_lossy = matches!(&*signal, ServerSignal::Data(data) if !data.reliable);
                if is_lossy && (self.queue.capacity() < OUTGOING_MAX / 2 || self.waiting.len() > LOSSY_LEN_MAX) {
                    return Ok(()); // It would come late, and nobody is cut off because of it.
                }
                let text = text_of(&signal);
                let bytes = text.capacity() + ENTRY_LEN;
                if !self.waiting.take(bytes) {
                    return if is_lossy { Ok(()) } else { Err(Overfull) };
                }
                let charge = Charge { waiting: self.waiting.clone(), bytes };
                Queued::Signal(Box::new(Signal { text, charge }))
            }
        };
        match self.queue.try_send(queued) {
            Err(mpsc::error::TrySendError::Full(_)) => Err(Overfull),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

/// A signal as it is sent.
pub(crate) fn text_of(signal: &ServerSignal) -> String {
    let mut text = serde_json::to_string(signal).expect("signals have nothing that JSON cannot say");
    text.shrink_to_fit();
    text
}

#[cfg(test)]
mod tests {
    use proto::signal::{DataReceived, Kind, PeerInfo, Quality, Source, TrackInfo};

    use super::*;

    fn owner(room: &str) -> Owner {
        Owner::Room(room.into())
    }

    fn pong() -> ToSocket {
        ToSocket::Signal(Box::new(ServerSignal::Pong {}))
    }

    /// `peers` of a room with so many others, each with the longest name and four tracks.
    fn peers(count: usize) -> ToSocket {
        let others = (0..count).map(|n| {
            let peer = format!("{n:012x}");
            let track = |mid| TrackInfo {
                track: format!("{peer}/{mid}"),
                kind: Kind::Video,
                source: Source::ScreenAudio,
                active: false,
                muted: true,
            };
            let (name, tracks) = ("\u{1f600}".repeat(64), (0..4).map(track).collect());
            PeerInfo { name, lookalike: true, quality: Quality::Weak, role: None, tracks, peer }
        });
        ToSocket::Signal(Box::new(ServerSignal::Peers { peers: others.collect() }))
    }

    fn text(queued: Queued) -> (String, Charge) {
        match queued {
            Queued::Signal(signal) => signal.into_parts(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_waits_for_a_socket_is_bounded_by_count_and_by_bytes() {
        let memory = Memory::new(0);
        let (outgoing, _outlet) = queue(&memory, owner("a"));
        let small = (0..1000).take_while(|_| outgoing.push(pong()).is_ok()).count();
        assert!(small > 20 && small <= OUTGOING_MAX, "{small}");
        assert_eq!(queue(&memory, owner("a")).0.push(peers(20)), Err(Overfull), "more than a socket has for itself");

        let (outgoing, mut outlet) = queue(&memory, owner("a"));
        let large = || ToSocket::Signal(Box::new(ServerSignal::Answer { sdp: "x".repeat(1200) }));
        assert_eq!((0..9).filter(|_| outgoing.push(large()).is_ok()).count(), 3, "of 1.2 kB in 4 KiB");
        let (sent, charge) = text(outlet.try_recv().unwrap());
        assert_eq!(outgoing.push(large()), Err(Overfull), "a signal that is being sent takes its memory still");
        drop((sent, charge));
        assert_eq!(outgoing.push(large()), Ok(()));
    }

    #[test]
    fn messages_that_are_not_reliable_leave_half_of_the_queue_and_cut_nobody_off() {
        let memory = Memory::new(SHARED_LEN);
        let message = |reliable| {
            let (from, label, id) = (Some("a".to_owned()), "cursor".to_owned(), None);
            let (text, binary) = (Some("x".repeat(10)), None);
            ToSocket::Signal(Box::new(ServerSignal::Data(DataReceived {
                from,
                label,
                reliable,
                id,
                text,
                binary,
                more: false,
            })))
        };
        let (outgoing, mut outlet) = queue(&memory, owner("a"));
        (0..1000).for_each(|_| assert_eq!(outgoing.push(message(false)), Ok(())));
        assert_eq!((0..1000).take_while(|_| outgoing.push(message(true)).is_ok()).count(), OUTGOING_MAX / 2 - 1);
        let taken = std::iter::from_fn(|| outlet.try_recv().ok()).count();
        assert_eq!(taken, OUTGOING_MAX);
    }

    /// Resumed in one turn of the driver, before any socket has had its turn; another room is served beside it.
    #[test]
    fn the_signals_of_a_room_of_a_thousand_have_room() {
        let memory = Memory::new(SHARED_LEN);
        let sockets: Vec<_> = (0..64).map(|_| queue(&memory, owner("large"))).collect();
        let answer = || ToSocket::Signal(Box::new(ServerSignal::Answer { sdp: "x".repeat(30_000) }));
        for (outgoing, _) in &sockets {
            assert_eq!((outgoing.push(answer()), outgoing.push(peers(999))), (Ok(()), Ok(())));
        }
        let more = (0..1000).map(|_| queue(&memory, owner("large")));
        let more: Vec<_> = more.take_while(|(outgoing, _)| outgoing.push(peers(999)).is_ok()).collect();
        assert!(more.len() < 64, "one room does not take it all: {}", more.len());
        let (other, mut outlet) = queue(&memory, owner("other"));
        assert_eq!(other.push(peers(999)), Ok(()), "another room has its part");
        assert!(text(outlet.try_recv().unwrap()).0.len() > 600_000);
        drop((sockets, more));
        assert_eq!(queue(&memory, owner("large")).0.push(peers(999)), Ok(()), "what is gone is given back");
    }
}
