//! One connection: its socket, the beginning of a frame that was read, and what waits to be written.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use super::Counts;
use super::frame::{self, Malformed, PREFIX_LEN};
use super::waiting::Waiting;
use crate::config::{Micros, TCP_FRAME_LEN_MAX, TCP_READ_LEN};
use crate::path::Path;

/// Room that one reading needs: the beginning of a frame from before, and what is read.
pub(super) const READING_LEN: usize = PREFIX_LEN + TCP_FRAME_LEN_MAX + TCP_READ_LEN;

/// Packets that one system call writes.
const PACKETS_MAX: usize = 64;

/// The memory of a connection, which another one takes over.
pub(super) struct Memory {
    waiting: Waiting,
    /// The beginning of a frame.
    begun: Box<[u8]>,
    begun_len: usize,
}

impl Memory {
    pub(super) fn new() -> Memory {
        Memory { waiting: Waiting::new(), begun: vec![0; PREFIX_LEN + TCP_FRAME_LEN_MAX].into(), begun_len: 0 }
    }
}

/// Why a connection is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The other end or the network has ended it.
    Closed,
    /// What comes by it is no frame.
    Malformed,
}

impl From<Malformed> for End {
    fn from(_: Malformed) -> End {
        End::Malformed
    }
}

pub(super) struct Connection {
    stream: OwnedFd,
    path: Path,
    memory: Memory,
    /// Since when it belongs to no peer, as of the last review.
    pub(super) unowned_since: Option<Micros>,
    /// Writing has failed.
    is_over: bool,
    /// The worker is woken when it can be written to.
    pub(super) awaits_room: bool,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Connection {
    pub(super) fn new(stream: OwnedFd, path: Path, memory: Memory, now: Micros) -> Connection {
        Connection { stream, path, memory, unowned_since: Some(now), is_over: false, awaits_room: false }
    }

    pub(super) fn path(&self) -> Path {
        self.path
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether something waits to be written.
    pub(super) fn is_waiting(&self) -> bool {
        !self.memory.waiting.is_empty()
    }

    /// Closes it.
    pub(super) fn into_memory(self) -> Memory {
        let mut memory = self.memory;
        memory.waiting.clear();
        memory.begun_len = 0;
        memory
    }

    /// Reads once, into a buffer of [`READING_LEN`]; how many bytes of whole frames it begins with now.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, End> {
        let Memory { begun, begun_len, .. } = &mut self.memory;
        buffer[..*begun_len].copy_from_slice(&begun[..*begun_len]);
        let len = match rustix::io::read(&self.stream, &mut buffer[*begun_len..][..TCP_READ_LEN]) {
            Ok(0) => return Err(End::Closed),
            Ok(len) => *begun_len + len,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(0),
            Err(_) => return Err(End::Closed),
        };
        let whole = frame::whole(&buffer[..len])?;
        *begun_len = len - whole;
        begun[..*begun_len].copy_from_slice(&buffer[whole..len]);
        Ok(whole)
    }

    /// Writes packets, or lets them wait; what may not wait is dropped. `is_video` is with each of them.
    pub(super) fn send<'p>(&mut self, packets: impl Iterator<Item = (&'p [u8], bool)>, counts: &mut Counts) {
        let (mut packets, mut batch) = (packets, [(&[][..], false); PACKETS_MAX]);
        loop {
            let count = batch.iter_mut().zip(&mut packets).map(|(place, packet)| *place = packet).count();
            if count == 0 {
                return;
            }
            self.send_batch(&batch[..count], counts);
        }
    }

    fn send_batch(&mut self, batch: &[(&[u8], bool)], counts: &mut Counts) {
        let mut written = if self.is_waiting() { 0 } else { self.write(batch) };
        for &(packet, is_video) in batch {
            let len = PREFIX_LEN + packet.len();
            if written >= len {
                written -= len;
                counts.sent += 1;
            } else if written > 0 {
                self.memory.waiting.keep_rest(packet, std::mem::take(&mut written));
                counts.sent += 1;
            } else if self.is_over {
                counts.dropped += 1;
            } else if self.memory.waiting.push(packet, is_video) {
                counts.sent += 1;
            } else {
                *if is_video { &mut counts.video_dropped } else { &mut counts.dropped } += 1;
            }
        }
    }

    /// One system call for a batch; how many bytes it took.
    fn write(&mut self, batch: &[(&[u8], bool)]) -> usize {
        let mut prefixes = [[0; PREFIX_LEN]; PACKETS_MAX];
        for (place, (packet, _)) in prefixes.iter_mut().zip(batch) {
            *place = frame::prefix(packet);
        }
        let mut slices = [IoSlice::new(&[]); 2 * PACKETS_MAX];
        for ((pair, prefix), (packet, _)) in slices.chunks_exact_mut(2).zip(&prefixes).zip(batch) {
            (pair[0], pair[1]) = (IoSlice::new(prefix), IoSlice::new(packet));
        }
        let (slices, mut control) = (&slices[..2 * batch.len()], SendAncillaryBuffer::default());
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let result = rustix::net::sendmsg(&self.stream, slices, &mut control, flags);
        self.note_written(result)
    }

    /// Writes of what waits as much as the kernel takes now.
    pub(super) fn write_waiting(&mut self) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let result = rustix::net::send(&self.stream, self.memory.waiting.bytes(), flags);
        let written = self.note_written(result);
        self.memory.waiting.written(written);
    }

    fn note_written(&mut self, result: rustix::io::Result<usize>) -> usize {
        match result {
            Ok(written) => written,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.is_over = true;
                0
            }
        }
    }
}
