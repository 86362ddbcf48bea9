//! The datagrams between BoringSSL and the caller: what `boring` takes for a socket.

use std::collections::VecDeque;
use std::io::{self, Read, Write};

/// Datagrams that wait for [`Wire::pop`]. The longest flight, an RSA-4096 certificate with a request and a key
/// exchange in the least fragments, stays under ten; what exceeds the bound is dropped as a network would, and sent
/// again by the timer.
const OUTBOX_LEN_MAX: usize = 32;

/// One datagram in, a bounded queue of them out.
#[derive(Default, Debug)]
pub(super) struct Wire {
    inbox: Option<Vec<u8>>,
    outbox: VecDeque<Vec<u8>>,
}

impl Wire {
    /// Puts a datagram before BoringSSL; not an empty one, which would read as the end of the stream.
    pub(super) fn push(&mut self, datagram: &[u8]) {
        debug_assert!(!datagram.is_empty(), "an empty datagram reads as the end of the stream");
        self.inbox = Some(datagram.to_vec());
    }

    /// Takes the next datagram that BoringSSL wrote.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let datagram = self.outbox.pop_front();
        if self.outbox.is_empty() {
            // A connection lives for hours after its few flights; it should not keep their queue.
            self.outbox = VecDeque::new();
        }
        datagram
    }
}

impl Read for Wire {
    /// One datagram a call, as recv(2) gives it.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let datagram = self.inbox.take().ok_or(io::ErrorKind::WouldBlock)?;
        let len = datagram.len().min(buf.len());
        buf[..len].copy_from_slice(&datagram[..len]);
        Ok(len)
    }
}

impl Write for Wire {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        if self.outbox.len() < OUTBOX_LEN_MAX {
            self.outbox.push_back(datagram.to_vec());
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_keep_their_bounds_and_order() {
        let mut wire = Wire::default();
        assert_eq!(wire.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        wire.push(b"one");
        let mut buf = [0; 8];
        assert_eq!(wire.read(&mut buf).unwrap(), 3);
        assert_eq!(wire.read(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        wire.write_all(b"first").unwrap();
        wire.write_all(b"second").unwrap();
        assert_eq!(wire.pop().as_deref(), Some(&b"first"[..]));
        assert_eq!(wire.pop().as_deref(), Some(&b"second"[..]));
        assert_eq!(wire.pop(), None);
    }

    #[test]
    fn the_outbox_is_bounded() {
        let mut wire = Wire::default();
        for _ in 0..2 * OUTBOX_LEN_MAX {
            assert_eq!(wire.write(b"datagram").unwrap(), 8);
        }
        assert_eq!(std::iter::from_fn(|| wire.pop()).count(), OUTBOX_LEN_MAX);
    }
}
