//! The way in: one multishot `recvmsg` for each socket, into buffers that the kernel was given.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, RecvMsgOut, Timespec};
use io_uring::{IoUring, cqueue, opcode};

use super::open_ring;
use crate::config::{BATCH_LEN_MAX, Micros};
use crate::io::address::remote_of;
use crate::io::clock::Clock;
use crate::io::udp::{Arrival, BUFFER_LEN, Batch, CONTROL_WORDS, Control, Socket};
use crate::slab::Slab;

/// Buffers that the kernel and the batch share: a batch full with each of them. A power of two.
const BUFFERS: usize = 2 * BATCH_LEN_MAX;

/// What the kernel writes before the control messages of a datagram: a header of 16 bytes and room for an address.
const NAME_LEN: usize = 32;
const CONTROL_LEN: usize = CONTROL_WORDS * 8;
const HEADER_LEN: usize = 16 + NAME_LEN + CONTROL_LEN;

/// From one buffer to the next. Aligned for what the kernel writes first; not a power of two, so that the buffers'
/// beginnings do not compete for the same places of the cache.
const STRIDE: usize = (HEADER_LEN + BUFFER_LEN).next_multiple_of(512);

/// How often a turn enters the kernel again: after a report of an error, or because there is more to take.
const ENTERS_MAX: usize = 4;

/// The group of buffers; there is one.
const GROUP: u16 = 0;

const _: () = assert!(BUFFERS.is_power_of_two() && BUFFERS <= 1 << 15);
const _: () = assert!(NAME_LEN >= mem::size_of::<libc::sockaddr_in6>() && HEADER_LEN.is_multiple_of(8));

/// One worker's ring for receiving. Dropping it takes the receives back from the kernel.
pub(in crate::io) struct Inlet {
    ring: IoUring,
    /// Lengths of the parts of a buffer, as the kernel was told.
    template: Box<libc::msghdr>,
    /// Where the buffers that the kernel may fill are listed.
    list: Slab,
    /// How many were ever listed.
    tail: u16,
    /// The buffers, which batches share.
    slab: Rc<Slab>,
    /// Of each socket, whether its receive is with the kernel.
    is_armed: Vec<bool>,
    /// The socket whose receive is queued first, so that a busy one cannot take all buffers each time.
    first: usize,
}

impl Inlet {
    /// A ring for so many sockets, and the memory of its buffers.
    pub(super) fn open(sockets: usize) -> io::Result<(Inlet, Rc<Slab>)> {
        let ring = open_ring(sockets.next_power_of_two(), BUFFERS + 2 * sockets)?;
        let list = Slab::new(BUFFERS * mem::size_of::<BufRingEntry>())?;
        let slab = Rc::new(Slab::new(BUFFERS * STRIDE)?);
        // SAFETY: the list is a mapping of this size, aligned to a page. It lives until the ring is gone: `drop` ends
        // all receives, and the ring is dropped before the list, as fields are in their order.
        unsafe { ring.submitter().register_buf_ring_with_flags(list.as_ptr() as u64, BUFFERS as u16, GROUP, 0) }?;
        // SAFETY: msghdr is a C structure of integers and pointers, for which all zeros is a value.
        let mut template: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        template.msg_namelen = NAME_LEN as libc::socklen_t;
        template.msg_controllen = CONTROL_LEN as _;
        let mut inlet =
            Inlet { ring, template, list, tail: 0, slab: slab.clone(), is_armed: vec![false; sockets], first: 0 };
        inlet.lend(0..BUFFERS as u16);
        Ok((inlet, slab))
    }

    /// Takes back the buffers of the batch, which must be of this ring, and fills it with what has come.
    pub(in crate::io) fn receive(&mut self, sockets: &[Socket], batch: &mut Batch, clock: &mut Clock, now: Micros) {
        assert!(batch.shares(&self.slab), "a batch belongs to one ring");
        self.first = (self.first + 1) % sockets.len().max(1);
        self.lend(batch.take_places().map(|place| (place / STRIDE) as u16));
        self.drain(batch, clock, now);
        for _ in 0..ENTERS_MAX {
            if batch.is_full() || !self.enter(sockets) {
                return;
            }
            self.drain(batch, clock, now);
        }
    }

    /// Lists buffers for the kernel. Nobody else may have them.
    fn lend(&mut self, buffers: impl Iterator<Item = u16>) {
        let (entries, memory) = (self.list.as_ptr().cast::<BufRingEntry>(), self.slab.as_ptr());
        for buffer in buffers {
            let index = usize::from(self.tail) % BUFFERS;
            // SAFETY: the list has BUFFERS entries, all zeros or written here, which the kernel reads only below its
            // tail. No reference to them is kept.
            let entry = unsafe { &mut *entries.add(index) };
            entry.set_addr(memory.wrapping_add(usize::from(buffer) * STRIDE) as u64);
            entry.set_len((HEADER_LEN + BUFFER_LEN) as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: the tail lies in the first entry, which is mapped and initialised, is aligned for an u16, and is
        // written only here. Release: the kernel sees the entries before it.
        unsafe {
            let tail = BufRingEntry::tail(entries).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }

    /// Gives the kernel what it has to do for us, and lets it. False: there was nothing to do.
    fn enter(&mut self, sockets: &[Socket]) -> bool {
        let has_armed = self.arm(sockets);
        let queue = self.ring.submission();
        if !has_armed && !queue.taskrun() && !queue.cq_overflow() {
            return false;
        }
        drop(queue);
        // It fails only if interrupted or short of memory, and then the next turn tries again: what was to be
        // submitted is still in the queue.
        self.ring.submit().is_ok()
    }

    /// Queues a receive for each socket that has none. Whether there is one to submit.
    fn arm(&mut self, sockets: &[Socket]) -> bool {
        let mut queue = self.ring.submission();
        for turn in 0..sockets.len() {
            let index = (self.first + turn) % sockets.len();
            let is_armed = &mut self.is_armed[index];
            if *is_armed {
                continue;
            }
            let socket = Fd(sockets[index].as_fd().as_raw_fd());
            let template: *const libc::msghdr = &*self.template;
            let entry = opcode::RecvMsgMulti::new(socket, template, GROUP).build().user_data(index as u64);
            // SAFETY: the template lives as long as the ring and has no pointers; the buffers of the group are mapped
            // for as long, and each is either listed for the kernel or named by one arrival. The descriptor is open:
            // the kernel keeps the socket by itself from here on.
            *is_armed = unsafe { queue.push(&entry) }.is_ok();
        }
        !queue.is_empty()
    }

    /// Takes completions into the batch, as far as there is room.
    fn drain(&mut self, batch: &mut Batch, clock: &mut Clock, now: Micros) {
        while !batch.is_full() {
            // Bound to a name it would keep the queue borrowed.
            let Some(entry) = ({ self.ring.completion().next() }) else { return };
            let (socket, flags) = (entry.user_data() as usize, entry.flags());
            if !cqueue::more(flags) {
                // An error was reported (an ICMP message about an earlier send), or there were no buffers.
                self.is_armed[socket] = false;
            }
            let Some(buffer) = cqueue::buffer_select(flags) else { continue };
            match self.read(socket, buffer, clock, now) {
                Some(arrival) if entry.result() >= 0 => batch.note_arrival(arrival),
                _ => self.lend([buffer].into_iter()),
            }
        }
    }

    /// What lies in a buffer that the kernel has filled.
    fn read(&self, socket: usize, buffer: u16, clock: &mut Clock, now: Micros) -> Option<Arrival> {
        let place = usize::from(buffer) * STRIDE;
        // SAFETY: the buffer is ours since its completion, so nobody writes to it; it lies in the slab, whose bytes are
        // all initialised.
        let bytes = unsafe { slice::from_raw_parts(self.slab.as_ptr().add(place), HEADER_LEN + BUFFER_LEN) };
        let out = RecvMsgOut::parse(bytes, &self.template).ok()?;
        let mut header = *self.template;
        header.msg_control = out.control_data().as_ptr().cast_mut().cast();
        header.msg_controllen = out.control_data().len() as _;
        header.msg_name = out.name_data().as_ptr().cast_mut().cast();
        header.msg_namelen = out.name_data().len() as libc::socklen_t;
        // SAFETY: name and control messages are the kernel's for this datagram, of the stated lengths, in a buffer
        // that is aligned to 8 bytes, and at multiples of 8 in it.
        let (remote, control) = unsafe { (remote_of(&header), Control::parse(&header)) };
        Some(Arrival::new(socket as u8, remote, control, place + HEADER_LEN, out.payload_data().len(), clock, now))
    }
}

impl Drop for Inlet {
    /// Takes the receives back, so that the ring keeps neither buffers nor sockets, and with them ports.
    fn drop(&mut self) {
        let patience = Timespec::new().sec(1);
        for _ in 0..self.is_armed.len() {
            if self.ring.submitter().register_sync_cancel(Some(patience), CancelBuilder::any()).is_err() {
                break;
            }
        }
        // The end of a receive is told like its datagrams, for which the ring must be entered.
        for _ in 0..1000 {
            while let Some(entry) = { self.ring.completion().next() } {
                if !cqueue::more(entry.flags()) {
                    self.is_armed[entry.user_data() as usize] = false;
                }
            }
            if !self.is_armed.contains(&true) || self.ring.submit().is_err() {
                return;
            }
        }
    }
}
