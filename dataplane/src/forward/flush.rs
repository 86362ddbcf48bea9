//! How the core gets rid of what it writes.

use proto::plane::Counter;

use crate::config::Micros;
use crate::outbox::Outbox;
use crate::store::Store;

/// A worker's counters, by [`Counter`].
pub type Counters = [u64; Counter::COUNT];

/// Where a core's output goes: the outbox, and the code that empties it. In a worker it goes to the kernel, to the lanes to
/// other workers and to the link to the controlplane.
pub trait Flush {
    /// What waits to leave.
    fn outbox(&mut self) -> &mut Outbox;

    /// Hands over all that the outbox holds, and clears it. Packets for other workers are in the store. What cannot be handed over is lost, and is counted.
    fn flush(&mut self, now: Micros, store: &Store, counters: &mut Counters);

    /// Packets that arrived at this time have put so many copies into the outbox.
    fn note_latency(&mut self, at: Micros, copies: u64);
}
