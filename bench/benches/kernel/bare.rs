//! The bare loop: what the kernel alone asks for a packet that arrives and leaves again many times. `recvmmsg`, then
//! `sendmmsg` with everything but the packet prepared once; no crypto, no copy, no header. Nothing that sends by the
//! same system calls can be cheaper, so it is what the worker is held against.

#![allow(unsafe_code, reason = "recvmmsg, sendmmsg and UDP_SEGMENT have no safe form")]

use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

/// Messages in one `sendmmsg`, as the worker's.
const MESSAGES_MAX: usize = 64;
/// Datagrams in one `recvmmsg`.
const BATCH: usize = 32;
const BUFFER_LEN: usize = 2048;

/// A UDP_SEGMENT control message, laid out as CMSG_SPACE(2) asks on 64-bit Linux.
#[repr(C, align(8))]
struct SegmentSize {
    header: libc::cmsghdr,
    size: u16,
    rest: [u8; 6],
}

/// A socket with the memory of its loop.
pub(crate) struct Bare {
    socket: UdpSocket,
    buffers: Vec<[u8; BUFFER_LEN]>,
    /// Of the packets that came; each message to a sink points at all of them.
    vectors: Vec<libc::iovec>,
    incoming: Vec<libc::mmsghdr>,
    names: Vec<libc::sockaddr_in>,
    control: Box<SegmentSize>,
    outgoing: Vec<libc::mmsghdr>,
}

impl Bare {
    /// A loop that sends to all of `sinks`.
    pub(crate) fn new(socket: UdpSocket, sinks: &[SocketAddr]) -> Self {
        let names = sinks.iter().map(|sink| {
            let SocketAddr::V4(sink) = sink else { panic!("the sinks have IPv4 addresses") };
            libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: sink.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(sink.ip().octets()) },
                sin_zero: [0; 8],
            }
        });
        let header = libc::cmsghdr {
            cmsg_len: mem::size_of::<libc::cmsghdr>() + mem::size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        Bare {
            socket,
            buffers: vec![[0; BUFFER_LEN]; BATCH],
            vectors: Vec::with_capacity(BATCH),
            incoming: Vec::with_capacity(BATCH),
            names: names.collect(),
            control: Box::new(SegmentSize { header, size: 0, rest: [0; 6] }),
            outgoing: Vec::with_capacity(sinks.len()),
        }
    }

    /// Takes what has come and sends it to the first `fan_out` sinks, as one train for each if it is more than one
    /// packet. How many packets left.
    pub(crate) fn turn(&mut self, fan_out: usize) -> usize {
        let count = self.receive();
        if count == 0 {
            return 0;
        }
        self.prepare(count, fan_out);
        self.send() * count
    }

    fn receive(&mut self) -> usize {
        self.vectors.clear();
        self.incoming.clear();
        for buffer in &mut self.buffers {
            self.vectors.push(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER_LEN });
        }
        for vector in &mut self.vectors {
            self.incoming.push(message(ptr::null_mut(), 0, vector, 1));
        }
        // SAFETY: each header points at one vector, and each vector at a buffer of the stated length; they live in
        // `self` and are not touched during the call.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                self.incoming.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        usize::try_from(count).unwrap_or(0)
    }

    /// One message for each sink, all pointing at the same packets.
    fn prepare(&mut self, count: usize, fan_out: usize) {
        for (vector, message) in self.vectors.iter_mut().zip(&self.incoming[..count]) {
            vector.iov_len = message.msg_len as usize;
        }
        self.control.size = self.incoming[0].msg_len as u16;
        let control: *mut SegmentSize = &mut *self.control;
        let name_len = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
        self.outgoing.clear();
        for name in &mut self.names[..fan_out] {
            let mut message = message(ptr::from_mut(name).cast(), name_len, self.vectors.as_mut_ptr(), count);
            if count > 1 {
                message.msg_hdr.msg_control = control.cast();
                message.msg_hdr.msg_controllen = mem::size_of::<SegmentSize>();
            }
            self.outgoing.push(message);
        }
    }

    fn send(&mut self) -> usize {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            let rest = &mut self.outgoing[sent..];
            let count = rest.len().min(MESSAGES_MAX) as libc::c_uint;
            // SAFETY: `prepare` made every header: names, vectors, control and packets are of the stated sizes, live
            // in `self`, and are not touched during the call.
            let result =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
            match usize::try_from(result) {
                Ok(count) => sent += count,
                Err(_) => panic!("sendmmsg: {}", io::Error::last_os_error()),
            }
        }
        sent
    }
}

fn message(
    name: *mut libc::c_void,
    name_len: libc::socklen_t,
    vectors: *mut libc::iovec,
    count: usize,
) -> libc::mmsghdr {
    // SAFETY: msghdr is a C structure of integers and pointers, for which all zeros is a value.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = name;
    header.msg_namelen = name_len;
    header.msg_iov = vectors;
    header.msg_iovlen = count;
    libc::mmsghdr { msg_hdr: header, msg_len: 0 }
}
