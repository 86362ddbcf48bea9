//! Socket addresses as the kernel reads and writes them.

use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// What stands for the source of a datagram that has none. The kernel always gives one to a UDP socket; nobody is
/// known under this one, so the datagram would be dropped with a name.
const NOBODY: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// Whom a datagram is from.
///
/// # Safety
/// The header's name must be as the kernel returned it, aligned for a `sockaddr_storage`.
pub(super) unsafe fn remote_of(header: &libc::msghdr) -> SocketAddr {
    // SAFETY: passed on.
    unsafe { read_address(header.msg_name.cast(), header.msg_namelen) }.unwrap_or(NOBODY)
}

/// Reads a socket address that the kernel wrote.
///
/// # Safety
/// `name` must be aligned for a `sockaddr_storage` and point at the first `len` bytes of one.
unsafe fn read_address(name: *const libc::sockaddr_storage, len: libc::socklen_t) -> Option<SocketAddr> {
    let len = len as usize;
    if len < mem::size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: the family is the first field of every address, and the check above says that it is there.
    let family = unsafe { (&raw const (*name).ss_family).read() };
    match libc::c_int::from(family) {
        libc::AF_INET if len >= mem::size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family and the length say that a sockaddr_in is there; the storage is aligned for it.
            let address = unsafe { name.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(address.sin_port)))
        }
        libc::AF_INET6 if len >= mem::size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above, for a sockaddr_in6.
            let address = unsafe { name.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            // The flow label is no part of who somebody is; the scope of a link-local address is.
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id)))
        }
        _ => None,
    }
}

/// Writes a socket address for the kernel; its length.
pub(super) fn write_address(address: SocketAddr, name: &mut MaybeUninit<libc::sockaddr_storage>) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is at least as large as a sockaddr_in, and aligned for it.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in>().write(raw) };
            mem::size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: the storage is at least as large as a sockaddr_in6, and aligned for it.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in6>().write(raw) };
            mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}
