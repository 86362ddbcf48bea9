//! An AF_XDP socket that only sends: frames in memory that the kernel shares, a ring of what is to be sent and a ring of
//! what was (Documentation/networking/af_xdp.rst).
//!
//! It is bound in copy mode: the kernel copies each frame into a buffer of its own before the call that sends it
//! returns, on any device and without a driver's help. Zero-copy mode would take the device's receive queue away from
//! the sockets (docs/decisions/0015).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{c_int, c_void};

use super::header::{CHECKSUM_OFFSET, Checksums, Header};
use crate::config::{CHUNKS_MAX, SOCKET_BUFFER_BYTES};
use crate::outbox::CHUNK_LEN;
use crate::slab::Slab;

/// Places of both rings. There are no more frames than that, so neither can run over.
const RING_LEN: u32 = CHUNKS_MAX as u32;
const _: () = assert!(RING_LEN.is_power_of_two());
/// Places of the ring through which frames to receive into would be given. It must be there, and stays empty.
const FILL_LEN: u32 = 64;
/// Bytes before each frame that say what the device shall do with it: struct xsk_tx_metadata.
pub(super) const METADATA_LEN: usize = 24;

// linux/if_xdp.h, of which `libc` lacks a part.
const XDP_UMEM_TX_METADATA_LEN: u32 = 1 << 2;
const XDP_TX_METADATA: u32 = 1 << 1;
const XDP_TXMD_FLAGS_CHECKSUM: u64 = 1 << 1;
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;

/// Frames that one call may send, where the kernel lets us say so (Linux 6.17); else it is 32.
const BUDGET: c_int = 64;

#[repr(C)]
#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    len: u32,
    options: u32,
}

/// A mapped ring of one producer and one consumer: two indices, and places that they count through.
struct Queue<T> {
    map: NonNull<c_void>,
    map_len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    places: NonNull<T>,
}

impl<T: Copy> Queue<T> {
    /// Maps the ring that lies at `page_offset` of the socket's file.
    fn map(fd: &OwnedFd, offsets: &libc::xdp_ring_offset, page_offset: libc::off_t) -> io::Result<Queue<T>> {
        let map_len = offsets.desc as usize + RING_LEN as usize * mem::size_of::<T>();
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd.as_raw_fd(),
                page_offset,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map).expect("the kernel maps nothing at address 0");
        // SAFETY: the kernel laid the ring out at these offsets, all within the length that was mapped.
        let at = |offset: u64| unsafe { map.byte_add(offset as usize) };
        Ok(Queue {
            map,
            map_len,
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            places: at(offsets.desc).cast(),
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: it lies in the mapping, aligned by the kernel, and both sides access it as an atomic.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn place(&self, index: u32) -> NonNull<T> {
        // SAFETY: the mask keeps the index within the places that were mapped.
        unsafe { self.places.add((index & (RING_LEN - 1)) as usize) }
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.map.as_ptr(), self.map_len) };
    }
}

// SAFETY: the pointers are into a mapping that it owns; one thread at a time uses it.
unsafe impl<T> Send for Queue<T> {}

/// The socket with its two rings.
pub(super) struct Ring {
    outgoing: Queue<Descriptor>,
    finished: Queue<u64>,
    /// Index of the next place to fill, and how far the kernel has been told.
    next: u32,
    checksums: Checksums,
    socket: OwnedFd,
}

impl Ring {
    /// Opens a socket that sends the chunks of `slab` through one queue of a device. The slab has to outlive what is in
    /// flight; the kernel holds its pages, so dropping it early costs nobody's memory.
    pub(super) fn open(slab: &Slab, device: u32, queue: u32, checksums: Checksums) -> io::Result<Ring> {
        // SAFETY: a new descriptor is ours alone.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let with_metadata = checksums == Checksums::Device;
        let memory = libc::xdp_umem_reg {
            addr: slab.as_ptr() as u64,
            len: slab.len() as u64,
            chunk_size: CHUNK_LEN as u32,
            headroom: 0,
            flags: if with_metadata { XDP_UMEM_TX_METADATA_LEN } else { 0 },
            tx_metadata_len: if with_metadata { METADATA_LEN as u32 } else { 0 },
        };
        set(&socket, libc::XDP_UMEM_REG, &memory)?;
        set(&socket, libc::XDP_UMEM_FILL_RING, &FILL_LEN)?;
        set(&socket, libc::XDP_UMEM_COMPLETION_RING, &RING_LEN)?;
        set(&socket, libc::XDP_TX_RING, &RING_LEN)?;
        // Older kernels do not know it, and send in smaller parts.
        let _ = set(&socket, XDP_MAX_TX_SKB_BUDGET, &BUDGET);
        let offsets = offsets(&socket)?;
        let outgoing = Queue::map(&socket, &offsets.tx, libc::XDP_PGOFF_TX_RING)?;
        let finished = Queue::map(&socket, &offsets.cr, libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t)?;
        let sockopt = rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES);
        if sockopt.is_err() {
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        }
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: libc::XDP_COPY,
            sxdp_ifindex: device,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the kernel reads one address of the stated length.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Ring { outgoing, finished, next: 0, checksums, socket })
    }

    /// Writes the header just before a packet and queues the frame. `room` is what lies before the packet in its chunk,
    /// `offset` is where in the slab the packet begins.
    #[inline]
    pub(super) fn push(&mut self, header: &Header, room: &mut [u8], packet: &[u8], offset: usize) {
        header.write(room, packet, self.checksums);
        let mut options = 0;
        if self.checksums == Checksums::Device {
            options = XDP_TX_METADATA;
            let end = room.len() - header.len();
            write_metadata(&mut room[end - METADATA_LEN..end], header.udp_start());
        }
        let descriptor =
            Descriptor { address: (offset - header.len()) as u64, len: (header.len() + packet.len()) as u32, options };
        // SAFETY: the place lies in the mapping. The kernel does not read it before `kick` publishes the index, and has
        // read what was there before: the ring has a place for each chunk, and a chunk is queued once.
        unsafe { self.outgoing.place(self.next).write(descriptor) };
        self.next = self.next.wrapping_add(1);
    }

    /// Frames that the kernel has not taken yet.
    pub(super) fn pending(&self) -> u32 {
        self.next.wrapping_sub(self.outgoing.consumer().load(Ordering::Acquire))
    }

    /// Has the kernel send what is queued, as far as the device takes it now.
    pub(super) fn kick(&mut self) -> io::Result<()> {
        self.outgoing.producer().store(self.next, Ordering::Release);
        let mut pending = self.pending();
        while pending > 0 {
            // SAFETY: no memory is given; the kernel reads the ring.
            let result = unsafe {
                libc::sendto(self.socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
            };
            let outcome = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
            let before = mem::replace(&mut pending, self.pending());
            match outcome {
                // It stops after its budget, and there is more.
                _ if pending < before => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // The device's queue, or the socket's buffer, is full.
                Ok(()) => return Ok(()),
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS | libc::EBUSY)) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives each frame that the kernel is done with, by its address in the slab.
    #[inline]
    pub(super) fn reap(&mut self, mut each: impl FnMut(usize)) {
        let end = self.finished.producer().load(Ordering::Acquire);
        let mut at = self.finished.consumer().load(Ordering::Relaxed);
        while at != end {
            // SAFETY: the kernel wrote this place before it published the index that was loaded above.
            each(unsafe { self.finished.place(at).read() } as usize);
            at = at.wrapping_add(1);
        }
        self.finished.consumer().store(at, Ordering::Release);
    }
}

/// Asks the device for UDP's checksum: from where UDP begins on, into UDP's field.
fn write_metadata(metadata: &mut [u8], udp_start: u16) {
    metadata[..8].copy_from_slice(&XDP_TXMD_FLAGS_CHECKSUM.to_ne_bytes());
    metadata[8..10].copy_from_slice(&udp_start.to_ne_bytes());
    metadata[10..12].copy_from_slice(&CHECKSUM_OFFSET.to_ne_bytes());
}

fn set<T>(socket: &OwnedFd, name: c_int, value: &T) -> io::Result<()> {
    let len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads one value of the stated length, which lives across the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, name, (&raw const *value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: it is a structure of integers, for which all zeros is a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
    let mut len = mem::size_of_val(&offsets) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into it.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, (&raw mut offsets).cast(), &mut len)
    };
    if result == 0 { Ok(offsets) } else { Err(io::Error::last_os_error()) }
}
