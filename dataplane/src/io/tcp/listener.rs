//! Where connections are accepted: one listener for each media address of a worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::super::udp::set_option;
use crate::config::{MILLISECOND, TCP_BACKLOG, TCP_BUFFER_BYTES, TCP_UNSENT_BYTES, TCP_USER_TIMEOUT};

/// One listening, non-blocking TCP socket of a worker. Connections inherit its options.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    local: SocketAddr,
}

impl Listener {
    /// Listens on one address; port 0 asks the kernel for a free one.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        // Connections of before keep the port for a minute after their end (TIME-WAIT), and a restart does not wait for that.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        set_options(&socket)?;
        rustix::net::listen(&socket, TCP_BACKLOG)?;
        let local = rustix::net::getsockname(&socket)?;
        let local = local.try_into().map_err(|_| io::Error::other("the socket has no IP address"))?;
        Ok(Listener { socket, local })
    }

    /// Where it listens, with the port that the kernel chose if it was asked to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

/// What connections inherit from their listener, and one that another process has accepted is given.
fn set_options(socket: &OwnedFd) -> io::Result<()> {
    // A fixed size ends the kernel's tuning, by which one receiver could have megabytes wait for it.
    sockopt::set_socket_send_buffer_size(socket, TCP_BUFFER_BYTES)?;
    sockopt::set_socket_recv_buffer_size(socket, TCP_BUFFER_BYTES)?;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_tcp_user_timeout(socket, (TCP_USER_TIMEOUT / MILLISECOND) as u32)?;
    let unsent = TCP_UNSENT_BYTES as libc::c_int;
    set_option(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, unsent)
}

/// Makes a connection that another process has accepted like those of a listener; who is at its other end.
pub(super) fn adopt(stream: &OwnedFd) -> io::Result<SocketAddr> {
    let remote =
        rustix::net::getpeername(stream)?.ok_or_else(|| io::Error::other("the connection has no other end"))?;
    set_options(stream)?;
    rustix::io::ioctl_fionbio(stream, true)?;
    remote.try_into().map_err(|_| io::Error::other("the connection has no IP address"))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
