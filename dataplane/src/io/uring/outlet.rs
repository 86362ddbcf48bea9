//! The way out: each message an entry, each flush one system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};

use super::open_ring;
use crate::config::MESSAGES_MAX;
use crate::io::udp::Socket;

/// One worker's ring for sending.
pub(in crate::io) struct Outlet {
    ring: IoUring,
    /// The sockets by the numbers under which the ring knows them.
    sockets: Vec<RawFd>,
    /// Of each message of the last call, whether the kernel took it.
    taken: Vec<bool>,
}

impl Outlet {
    pub(super) fn open(sockets: &[Socket]) -> io::Result<Outlet> {
        let ring = open_ring(MESSAGES_MAX, 2 * MESSAGES_MAX)?;
        let sockets: Vec<RawFd> = sockets.iter().map(|socket| socket.as_fd().as_raw_fd()).collect();
        ring.submitter().register_files(&sockets)?;
        Ok(Outlet { ring, sockets, taken: vec![false; MESSAGES_MAX] })
    }

    /// Offers messages to the kernel, [`MESSAGES_MAX`] at most; of each, whether it was taken. One that was not may be
    /// offered again in another way, which then says why. The ring does not wait.
    ///
    /// # Safety
    /// Each header's name, vectors, control messages and packets must be valid for reading during the call.
    pub(in crate::io) unsafe fn send(&mut self, socket: BorrowedFd<'_>, headers: &[libc::mmsghdr]) -> &[bool] {
        let headers = &headers[..headers.len().min(MESSAGES_MAX)];
        let taken = &mut self.taken[..headers.len()];
        taken.fill(false);
        let Some(socket) = self.sockets.iter().position(|&fd| fd == socket.as_raw_fd()) else { return taken };
        let mut queue = self.ring.submission();
        for (index, header) in headers.iter().enumerate() {
            let entry = entry(Fixed(socket as u32), &header.msg_hdr).user_data(index as u64);
            // SAFETY: what the entry points at is valid until the end of this function by its contract, and all
            // entries are complete by then, see below.
            if unsafe { queue.push(&entry) }.is_err() {
                break;
            }
        }
        let mut waiting = queue.len();
        drop(queue);
        // MSG_DONTWAIT makes each send complete, or fail, while it is submitted: the first round has them all. Memory
        // depends on it, so it is counted and not believed.
        while waiting > 0 {
            match self.ring.submit_and_wait(waiting) {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                // The ring was opened for this, with entries that are all of one kind: only a broken invariant.
                Err(error) => panic!("the kernel refuses its own ring: {error}"),
            }
            for entry in self.ring.completion() {
                taken[entry.user_data() as usize] = entry.result() >= 0;
                waiting -= 1;
            }
        }
        taken
    }
}

impl Drop for Outlet {
    /// A ring that is closed lets go of its sockets some time later; their ports shall be free now.
    fn drop(&mut self) {
        let _ = self.ring.submitter().unregister_files();
    }
}

/// Interrupted, or short of memory for a moment.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
}

/// The entry of a message. A single packet needs no message around it.
fn entry(socket: Fixed, header: &libc::msghdr) -> io_uring::squeue::Entry {
    if header.msg_iovlen != 1 || !header.msg_control.is_null() {
        return opcode::SendMsg::new(socket, header).flags(libc::MSG_DONTWAIT as u32).build();
    }
    // SAFETY: there is one vector, by the contract of `send`.
    let packet = unsafe { &*header.msg_iov };
    opcode::Send::new(socket, packet.iov_base.cast(), packet.iov_len as u32)
        .dest_addr(header.msg_name.cast())
        .dest_addr_len(header.msg_namelen)
        .flags(libc::MSG_DONTWAIT)
        .build()
}
