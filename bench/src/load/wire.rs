//! A load peer's UDP socket: many datagrams for one system call, each with the kernel's time of arrival.

use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::RawFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, recvmmsg, setsockopt};
use nix::sys::time::TimeSpec;

/// Datagrams of one system call.
const BATCH_LEN: usize = 32;
/// Bytes of a buffer: more than any datagram of the server.
const BUFFER_LEN: usize = 2048;

/// Asks the kernel for times of arrival. Trains come as single datagrams, as they do to a browser.
pub(crate) fn prepare(socket: &UdpSocket) -> std::io::Result<()> {
    socket.set_nonblocking(true)?;
    Ok(setsockopt(socket, ReceiveTimestampns, &true)?)
}

/// Buffers for one call, used for every socket of a thread.
pub(crate) struct Wire {
    headers: MultiHeaders<()>,
    buffers: Vec<u8>,
}

/// A datagram as it came.
pub(crate) struct Arrived<'a> {
    pub(crate) bytes: &'a [u8],
    /// Microseconds since 1970 by the kernel.
    pub(crate) at: u64,
}

impl Wire {
    pub(crate) fn new() -> Wire {
        let control = nix::cmsg_space!(TimeSpec);
        Wire { headers: MultiHeaders::preallocate(BATCH_LEN, Some(control)), buffers: vec![0; BATCH_LEN * BUFFER_LEN] }
    }

    /// Hands what the socket has, up to a batch, to `take`. Whether there may be more.
    pub(crate) fn receive(&mut self, socket: RawFd, mut take: impl FnMut(Arrived<'_>)) -> bool {
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            self.buffers.chunks_mut(BUFFER_LEN).map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let flags = MsgFlags::MSG_DONTWAIT;
        let received = match recvmmsg(socket, &mut self.headers, slices.iter_mut(), flags, None) {
            Ok(received) => received,
            // What ICMP says of the other end comes as an error once, and is over.
            Err(Errno::EAGAIN | Errno::ECONNREFUSED | Errno::EINTR) => return false,
            Err(_) => return false,
        };
        let mut count = 0;
        for message in received {
            count += 1;
            let stamp = message.cmsgs().into_iter().flatten().find_map(|control| match control {
                ControlMessageOwned::ScmTimestampns(stamp) => Some(Duration::from(stamp).as_micros() as u64),
                _ => None,
            });
            let at = stamp.unwrap_or_else(wall_micros);
            let bytes = message.iovs().next().unwrap_or_default();
            take(Arrived { bytes, at });
        }
        count == BATCH_LEN
    }
}

/// Microseconds since 1970 now, by the clock of the kernel's stamps.
pub(crate) fn wall_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_was_sent_arrives_with_its_time() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        prepare(&receiver).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = wall_micros();
        for i in 0..40u8 {
            sender.send_to(&[i; 100], receiver.local_addr().unwrap()).unwrap();
        }
        let (mut wire, mut seen) = (Wire::new(), Vec::new());
        for _ in 0..2 {
            wire.receive(receiver.as_raw_fd(), |arrived| {
                assert_eq!(arrived.bytes, [arrived.bytes[0]; 100]);
                assert!(arrived.at + 1 >= before && arrived.at <= wall_micros());
                seen.push(arrived.bytes[0]);
            });
        }
        assert_eq!(seen, (0..40).collect::<Vec<u8>>());
        assert!(!wire.receive(receiver.as_raw_fd(), |_| panic!("nothing is left")));
    }
}
