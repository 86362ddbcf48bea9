//! The WebSocket of the signalling.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use controlplane::http::read_websocket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

/// Longest message here, bytes. The lengths at which a frame's head changes lie below.
const LEN_MAX: usize = 70_000;

/// Frames as a client sends them. However the bytes are cut on their way, the same texts come out, the same is answered, and it ends
/// with the same code; texts are no more than what came, and each frame is charged.
pub fn websocket(data: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    let read = |step: usize| {
        let mut answers = Vec::new();
        let stream = Stream { data, step, answers: &mut answers };
        let (texts, cost, code) = RUNTIME.with(|runtime| runtime.block_on(read_websocket(stream, LEN_MAX)));
        (texts, cost, code, answers)
    };
    let (texts, cost, code, answers) = read(usize::MAX);
    assert!(texts.iter().map(String::len).sum::<usize>() <= data.len(), "a text has no more than what came");
    assert!(cost >= 256 * texts.len(), "each frame is charged");
    assert!(answers.len() <= data.len(), "an answer is no longer than what is answered");
    assert!(code.is_none_or(|code| (1000..5000).contains(&code)));
    // The length decides how they are cut, so that a file always means the same.
    for step in [1, 2 + data.len() % 97] {
        assert_eq!(read(step), (texts.clone(), cost, code, answers.clone()), "cut at {step}");
    }
}

/// The client's bytes, so many at a time, and then its end.
struct Stream<'a> {
    data: &'a [u8],
    step: usize,
    /// What is written to it.
    answers: &'a mut Vec<u8>,
}

impl AsyncRead for Stream<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let len = self.step.min(self.data.len()).min(buf.remaining());
        let (now, later) = self.data.split_at(len);
        self.data = later;
        buf.put_slice(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let len = self.step.min(bytes.len());
        self.answers.extend(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
