//! A connection whose other end must take what is written to it: so many bytes a second on the average, and after a pause
//! that is not too long. Slow and steady is served; who reads nothing is let go of.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::limited::{Limited, Owner, What};

/// How slow the other end may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Longest time in which nothing is taken.
    pub(super) grace: Duration,
    /// Bytes a second that earn further time, up to the grace.
    pub(super) least: u32,
}

impl Pace {
    /// How long so many bytes may take, in addition to the grace.
    pub(super) fn time_for(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 / f64::from(self.least.max(1)))
    }
}

/// How much longer the other end may take nothing.
#[derive(Clone, Copy, Debug)]
struct Slack {
    pace: Pace,
    left: Duration,
    /// Since when it takes nothing.
    since: Option<Instant>,
}

impl Slack {
    fn new(pace: Pace) -> Slack {
        Slack { pace, left: pace.grace, since: None }
    }

    /// So many bytes were taken.
    fn taken(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now - since);
        }
        self.left = (self.left + self.pace.time_for(bytes)).min(self.pace.grace);
    }

    /// Nothing is taken now; says when that is too long.
    fn blocked(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.left
    }
}

/// A stream with a deadline for what it writes.
pub(super) struct Paced<S> {
    stream: S,
    slack: Slack,
    /// Runs while the other end takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
    /// Where it is counted that the other end was too slow, and who that is.
    report: Option<(Arc<Limited>, Owner)>,
}

impl<S: Unpin> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace) -> Paced<S> {
        Paced { stream, slack: Slack::new(pace), timer: None, report: None }
    }

    /// The same, counting who is too slow.
    pub(super) fn reporting(self, limited: Arc<Limited>, source: Owner) -> Paced<S> {
        Paced { report: Some((limited, source)), ..self }
    }

    /// Takes note of what became of a write.
    fn note(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.timer = None;
                self.slack.taken(Instant::now(), bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(error) => Poll::Ready(error),
            Poll::Pending => {
                let slack = &mut self.slack;
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(slack.blocked(Instant::now()))));
                ready!(timer.as_mut().poll(cx));
                if let Some((limited, source)) = self.report.take() {
                    limited.note(What::Writing, &source);
                }
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.note(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn who_reads_nothing_is_let_go_of() {
        let (ours, _theirs) = duplex(4096);
        let mut ours = Paced::new(ours, Pace { grace: Duration::from_millis(50), least: 1000 });
        let written = ours.write_all(&[0; 100_000]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn slow_and_steady_is_served_and_slower_is_not() {
        let pace = Pace { grace: Duration::from_secs(10), least: 1000 };
        for (bytes_per_second, pause, is_served) in
            [(1_000, 1, true), (2_000, 9, true), (1_000, 11, false), (900, 5, false), (1, 1, false)]
        {
            let (mut slack, mut now) = (Slack::new(pace), Instant::now());
            let lasts = (0..200).all(|_| {
                let deadline = slack.blocked(now);
                now += Duration::from_secs(pause);
                slack.taken(now, bytes_per_second * pause as usize);
                now <= deadline
            });
            assert_eq!(lasts, is_served, "{bytes_per_second} bytes a second, every {pause} s");
        }
    }
}
