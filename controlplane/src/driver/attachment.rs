//! The dataplane that the driver is attached to: the links of its workers, and how it is found and waited for.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use proto::link::{Attached, ControlLink, Endpoint, LinkError, LinkSocket};
use proto::plane::{Counter, DatagramHeader};
use tokio::io::unix::AsyncFd;

/// Waits between two tries to attach: first and longest. A restarted dataplane is found within the longest.
const ATTACH_RETRY_MIN: Duration = Duration::from_millis(20);
const ATTACH_RETRY_MAX: Duration = Duration::from_millis(500);

/// How often a dataplane that stays away is mentioned in the log.
const ATTACH_LOG_INTERVAL: Duration = Duration::from_secs(30);

/// One worker of the attachment.
pub(super) struct Worker {
    pub(super) link: ControlLink,
    pub(super) wake: AsyncFd<OwnedFd>,
    /// As last read; they stand while the worker is in the middle of publishing.
    pub(super) counters: [u64; Counter::COUNT],
    /// Processor time that it had taken when the engine was last told of it, microseconds.
    pub(super) busy_micros: u64,
    /// Datagrams of data that its ring had no room for.
    pub(super) data_waiting: VecDeque<(DatagramHeader, Vec<u8>)>,
    /// Where it receives media over UDP.
    pub(super) addresses: Vec<SocketAddr>,
}

/// The dataplane that we are attached to.
pub(super) struct Attachment {
    pub(super) workers: Vec<Worker>,
    pub(super) socket: LinkSocket,
    pub(super) socket_ready: AsyncFd<OwnedFd>,
}

impl Attachment {
    /// Ready when a worker has woken us or the dataplane is gone.
    pub(super) fn poll_woken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut is_woken = false;
        for descriptor in self.workers.iter().map(|worker| &worker.wake).chain([&self.socket_ready]) {
            match descriptor.poll_read_ready(cx) {
                Poll::Ready(Ok(mut guard)) => {
                    guard.clear_ready();
                    is_woken = true;
                }
                Poll::Ready(Err(_)) => is_woken = true,
                Poll::Pending => {}
            }
        }
        if is_woken { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A descriptor that tokio can wait for. It is a duplicate, so that the link keeps its own.
#[expect(
    deprecated,
    reason = "deprecated for types that lie about their descriptor; OwnedFd does not, and \
    the form that replaces it is unsafe, which has no place in this module"
)]
pub(super) fn readiness(descriptor: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor.try_clone_to_owned()?, tokio::io::Interest::READABLE)
}

/// Attaches to the dataplane, however long it takes to come.
pub(super) async fn attach(link: Endpoint) -> Attached {
    let mut wait = ATTACH_RETRY_MIN;
    let mut said: Option<(Instant, String)> = None;
    loop {
        let error = match try_attach(link.clone()).await {
            Ok(attached) => return attached,
            Err(error) => error.to_string(),
        };
        let is_news = said.as_ref().is_none_or(|(at, text)| at.elapsed() > ATTACH_LOG_INTERVAL || *text != error);
        if is_news {
            tracing::warn!("waiting for the dataplane: {error}");
            said = Some((Instant::now(), error));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ATTACH_RETRY_MAX);
    }
}

/// One try, on a thread that may wait: the handshake is made of blocking calls, bounded to a few seconds.
async fn try_attach(link: Endpoint) -> Result<Attached, LinkError> {
    tokio::task::spawn_blocking(move || proto::link::attach(link)).await.expect("attaching does not panic")
}
