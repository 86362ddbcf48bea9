//! From a thread's start to its first turn.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::{io, process, thread};

use core_affinity::CoreId;
use proto::link::WorkerLink;

use super::Worker;
use crate::config::{Backend, Driver, Micros};
use crate::io::{Batch, Io, Listener, Socket, block_on};
use crate::outbox::Outbox;
use crate::relay::Exchange;

/// What a worker is told by the thread that started it.
pub(crate) enum Control {
    /// A controlplane has attached: serve this link from now on.
    Attach(Box<WorkerLink>),
    /// The controlplane has accepted a TCP connection of a peer: serve it from now on.
    Connection(OwnedFd),
    /// Close the sockets and end.
    Stop,
}

/// All that a worker's thread is started with.
pub(crate) struct WorkerSetup {
    /// Which worker it is, from 0.
    pub(crate) index: usize,
    /// The core to stay on.
    pub(crate) core: Option<CoreId>,
    /// How to wait.
    pub(crate) driver: Driver,
    /// How packets leave.
    pub(crate) backend: Backend,
    /// Its sockets, one for each media address.
    pub(crate) sockets: Vec<Socket>,
    /// Its listeners, in the order of the media addresses; none if it accepts no connections.
    pub(crate) listeners: Vec<Listener>,
    /// Keys the hash tables.
    pub(crate) seed: [u8; 16],
    /// See [`Config::spin_us`](crate::Config::spin_us).
    pub(crate) spin_us: Micros,
    /// What it is told.
    pub(crate) control: Receiver<Control>,
    /// The eventfd that wakes it. It is written after each message to `control`, and by other workers.
    pub(crate) wake: OwnedFd,
    /// How to reach the other workers.
    pub(crate) exchange: Arc<Exchange>,
}

/// Ends the process if a worker panics: a broken invariant ends the plane, and the other one carries it over.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

/// The body of a worker's thread. `started` is called before the first turn with whether it could start.
pub(crate) fn run(setup: WorkerSetup, started: impl FnOnce(io::Result<()>)) {
    let _guard = AbortOnPanic;
    if let Some(core) = setup.core
        && !core_affinity::set_for_current(core)
    {
        tracing::warn!(worker = setup.index, "cannot stay on core {}: the kernel may move this worker", core.id);
    }
    let driver = setup.driver;
    let mut started = Some(started);
    let mut report = |result| {
        if let Some(started) = started.take() {
            started(result);
        }
    };
    let ended = block_on(driver, async {
        match Worker::new(setup) {
            Ok(worker) => {
                report(Ok(()));
                worker.run().await;
            }
            Err(error) => report(Err(error)),
        }
    });
    if let Err(error) = ended {
        report(Err(error));
    }
}

/// The outbox that the way out needs: frames lie where the kernel reads them.
pub(super) fn open_outbox(setup: &WorkerSetup, io: &mut Io) -> Outbox {
    if setup.backend != Backend::Frames {
        return Outbox::new();
    }
    match io.open_frames(setup.index as u32, setup.seed) {
        Ok((outbox, line)) => {
            tracing::info!(worker = setup.index, "{line}");
            outbox
        }
        Err(error) => {
            tracing::warn!(worker = setup.index, "packets leave by udp and not as frames: {error}");
            Outbox::new()
        }
    }
}

/// The batch that the way in needs: a ring fills buffers of its own.
pub(super) fn open_batch(setup: &WorkerSetup, io: &mut Io) -> Batch {
    if setup.backend != Backend::Uring {
        return Batch::new();
    }
    match io.open_uring() {
        Ok(batch) => {
            tracing::info!(worker = setup.index, "packets come and leave through io_uring");
            batch
        }
        Err(error) => {
            tracing::warn!(
                worker = setup.index,
                "packets come and leave by system calls and not through io_uring: {error}"
            );
            Batch::new()
        }
    }
}
