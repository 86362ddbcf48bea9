//! A TUN interface: IP packets as the kernel sends and receives them.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl};

/// `TUNSETIFF` of linux/if_tun.h.
const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI` of linux/if_tun.h: IP packets without a header of the interface's own. Without `IFF_VNET_HDR` the kernel
/// splits trains (`UDP_SEGMENT`) and writes checksums before it hands packets over.
const FLAGS: u16 = 0x0001 | 0x1000;
/// `sizeof(struct ifreq)`, and of its first field, the name.
const IFREQ_LEN: usize = 40;
const NAME_LEN: usize = 16;

/// An interface that exists as long as this does.
pub(crate) struct Tun(File);

impl Tun {
    /// Makes an interface in this process's network namespace.
    pub(crate) fn open(name: &str) -> io::Result<Tun> {
        if name.is_empty() || name.len() >= NAME_LEN {
            return Err(io::Error::other(format!("{name:?} cannot be the name of an interface")));
        }
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
        let mut request = [0u8; IFREQ_LEN];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[NAME_LEN..NAME_LEN + 2].copy_from_slice(&FLAGS.to_ne_bytes());
        // SAFETY: TUNSETIFF reads a struct ifreq, which is 40 bytes: a name that ends with 0 and the flags. `Setter`
        // passes a pointer to those bytes, and they live until the call returns. The kernel keeps no pointer.
        unsafe { ioctl(&file, Setter::<TUNSETIFF, [u8; IFREQ_LEN]>::new(request)) }?;
        Ok(Tun(file))
    }

    /// The next packet, if there is one.
    pub(crate) fn read<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.0.read(buffer) {
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // The interface is down.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a packet. Returns whether the interface took it.
    pub(crate) fn write(&mut self, packet: &[u8]) -> bool {
        self.0.write(packet).is_ok()
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
