//! The `udp` backend's way out: packets become trains, trains become `sendmmsg`.
//!
//! Neighbours to one destination that are equally long, except that the last may be shorter, leave as one message
//! with UDP_SEGMENT: the kernel walks its UDP stack once for all of them and splits them at the device. Nothing is
//! copied here, the messages point at the packets where they were protected.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::address::write_address;
use super::udp::Socket;
use super::uring::Outlet;
use crate::config::{MESSAGES_MAX, SEND_WAIT_MAX, TRAIN_BYTES_MAX, TRAIN_SEGMENTS_MAX};

/// Packets that one `sendmmsg` may carry in all its messages.
const VECTORS_MAX: usize = 1024;
const _: () = assert!(VECTORS_MAX >= TRAIN_SEGMENTS_MAX);

/// Destinations remembered as refusing trains, see [`Refusing`].
const REFUSING_MAX: usize = 64;

/// Room for one UDP_SEGMENT control message: CMSG_SPACE(2), 24 bytes.
const CONTROL_WORDS: usize = 3;

/// What the sockets made of a flush.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Sent {
    /// Messages that the kernel took: trains and single packets.
    pub(super) trains: u64,
    /// Packets that it did not take.
    pub(super) failed: u64,
}

/// One message for `sendmmsg`: a train, or a single packet.
#[derive(Clone, Copy)]
struct Message {
    remote: SocketAddr,
    /// Its packets: `vectors[first..][..count]`.
    first: usize,
    count: usize,
    bytes: usize,
    /// Length of each packet but the last.
    segment: usize,
    /// Whether another packet may be coupled on.
    is_open: bool,
}

/// The outgoing half of a worker's io: the message under construction and all memory that sending needs.
pub(super) struct Egress {
    messages: Vec<Message>,
    vectors: Vec<libc::iovec>,
    names: Vec<MaybeUninit<libc::sockaddr_storage>>,
    controls: Vec<[u64; CONTROL_WORDS]>,
    headers: Vec<libc::mmsghdr>,
    /// What messages are offered to first, where there is one. The system call gets what it does not take.
    outlet: Option<Outlet>,
    refusing: Refusing,
    /// What is left of the time that this flush may wait for a full socket.
    patience: Duration,
    flushed: Sent,
    /// A device that cannot split trains was found in this flush.
    gso_lost: bool,
}

impl Egress {
    pub(super) fn new() -> Self {
        Self {
            messages: Vec::with_capacity(MESSAGES_MAX),
            vectors: Vec::with_capacity(VECTORS_MAX),
            names: vec![MaybeUninit::uninit(); MESSAGES_MAX],
            controls: vec![[0; CONTROL_WORDS]; MESSAGES_MAX],
            headers: Vec::with_capacity(MESSAGES_MAX),
            outlet: None,
            refusing: Refusing::new(),
            patience: SEND_WAIT_MAX,
            flushed: Sent::default(),
            gso_lost: false,
        }
    }

    /// Lets messages leave by a ring from here on; `None`: by system calls.
    pub(super) fn set_outlet(&mut self, outlet: Option<Outlet>) {
        self.outlet = outlet;
    }

    /// Sends what the chains hold, in order within each chain.
    pub(super) fn send<'p, P>(&mut self, socket: &mut Socket, chains: impl Iterator<Item = (SocketAddr, P)>)
    where
        P: Iterator<Item = &'p [u8]>,
    {
        self.send_through(socket, chains, &mut sendmmsg);
    }

    /// Ends a flush: what became of it, with a fresh allowance for the next one.
    pub(super) fn finish(&mut self) -> Sent {
        self.patience = SEND_WAIT_MAX;
        mem::take(&mut self.flushed)
    }

    /// Whether a device was found, since the last time this was asked, that cannot split trains.
    pub(super) fn take_gso_lost(&mut self) -> bool {
        mem::take(&mut self.gso_lost)
    }

    /// Forgets which destinations refuse trains, so that they get another chance.
    pub(super) fn forgive(&mut self) {
        self.refusing = Refusing::new();
    }

    /// [`Self::send`] with the system call as a parameter, so that tests can let it fail.
    fn send_through<'p, P, K>(
        &mut self,
        socket: &mut Socket,
        chains: impl Iterator<Item = (SocketAddr, P)>,
        kernel: &mut K,
    ) where
        P: Iterator<Item = &'p [u8]>,
        K: FnMut(BorrowedFd<'_>, &mut [libc::mmsghdr]) -> io::Result<usize>,
    {
        // The vectors point at packets that are borrowed for 'p, longer than this function runs; both lists are
        // empty again when it returns.
        for (remote, packets) in chains {
            let may_couple = socket.has_gso && !self.refusing.contains(remote);
            // A chain begins with a message of its own: the one before it goes elsewhere.
            let mut has_begun = false;
            for packet in packets {
                if self.vectors.len() == VECTORS_MAX {
                    self.transmit(socket, kernel);
                    has_begun = false;
                }
                if has_begun && may_couple && self.couple(packet) {
                    continue;
                }
                if self.messages.len() == MESSAGES_MAX {
                    self.transmit(socket, kernel);
                }
                self.begin(remote, packet);
                has_begun = true;
            }
        }
        self.transmit(socket, kernel);
    }

    /// Couples the packet to the last message. False if it does not fit there.
    fn couple(&mut self, packet: &[u8]) -> bool {
        let Some(last) = self.messages.last_mut() else { return false };
        let fits = last.is_open
            && !packet.is_empty()
            && packet.len() <= last.segment
            && last.count < TRAIN_SEGMENTS_MAX
            && last.bytes + packet.len() <= TRAIN_BYTES_MAX;
        if fits {
            last.count += 1;
            last.bytes += packet.len();
            last.is_open = packet.len() == last.segment;
            self.vectors.push(vector(packet));
        }
        fits
    }

    /// Begins a message.
    fn begin(&mut self, remote: SocketAddr, packet: &[u8]) {
        let (first, bytes) = (self.vectors.len(), packet.len());
        self.vectors.push(vector(packet));
        self.messages.push(Message { remote, first, count: 1, bytes, segment: bytes, is_open: true });
    }

    /// Gives all messages to the kernel, as often as it takes, and empties the lists.
    fn transmit<K>(&mut self, socket: &mut Socket, kernel: &mut K)
    where
        K: FnMut(BorrowedFd<'_>, &mut [libc::mmsghdr]) -> io::Result<usize>,
    {
        self.write_headers();
        self.offer_to_ring(socket);
        let mut next = 0;
        // An ICMP message about an earlier packet may be reported instead of sending this one; it is taken by being
        // returned, so each message gets a second try.
        let mut was_retried = false;
        while next < self.messages.len() {
            match kernel(socket.as_fd(), &mut self.headers[next..]) {
                Ok(sent) => {
                    debug_assert!(sent > 0, "sendmmsg reports an error if it could not send the first message");
                    self.flushed.trains += sent as u64;
                    next += sent.max(1);
                    was_retried = false;
                    continue;
                }
                Err(error) => match error.raw_os_error().unwrap_or(0) {
                    libc::EINTR => continue,
                    libc::EAGAIN => {
                        if self.wait_until_writable(socket) {
                            continue;
                        }
                        self.flushed.failed += self.messages[next..].iter().map(|m| m.count as u64).sum::<u64>();
                        break;
                    }
                    libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH if !was_retried => {
                        was_retried = true;
                        continue;
                    }
                    code @ (libc::EIO | libc::EINVAL | libc::EMSGSIZE) if self.messages[next].count > 1 => {
                        self.send_singly(next, code, socket, kernel);
                    }
                    _ => self.flushed.failed += self.messages[next].count as u64,
                },
            }
            next += 1;
            was_retried = false;
        }
        self.messages.clear();
        self.vectors.clear();
        self.headers.clear();
    }

    /// Offers all messages to the ring, if there is one, and leaves in the lists what it did not take. Then a later
    /// message has left before an earlier one; that is when a send buffer is full, or a path refuses.
    fn offer_to_ring(&mut self, socket: &Socket) {
        let Some(outlet) = &mut self.outlet else { return };
        // SAFETY: as for `sendmmsg` below.
        let taken = unsafe { outlet.send(socket.as_fd(), &self.headers) };
        let count = taken.iter().filter(|&&is_taken| is_taken).count();
        self.flushed.trains += count as u64;
        if count < taken.len() {
            let mut of_message = taken.iter();
            self.messages.retain(|_| of_message.next() != Some(&true));
            let mut of_header = taken.iter();
            self.headers.retain(|_| of_header.next() != Some(&true));
        } else {
            self.messages.clear();
        }
    }

    /// One header for each message, pointing at its name, its packets and its segment size.
    fn write_headers(&mut self) {
        self.headers.clear();
        let vectors = self.vectors.as_mut_ptr();
        let places = self.names.iter_mut().zip(&mut self.controls);
        for (message, (name, control)) in self.messages.iter().zip(places) {
            // SAFETY: msghdr is a C structure of integers and pointers, for which all zeros is a value.
            let mut header: libc::msghdr = unsafe { mem::zeroed() };
            header.msg_namelen = write_address(message.remote, name);
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_iov = vectors.wrapping_add(message.first);
            header.msg_iovlen = message.count as _;
            if message.count > 1 {
                write_segment_size(&mut header, control, message.segment as u16);
            }
            self.headers.push(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
    }

    /// Sends the packets of a refused train one by one, and remembers who refused: EIO is the device, which cannot
    /// checksum what it splits; the others are this destination, whose path is narrower than a packet. A
    /// destination that takes no single packet either says nothing about trains.
    fn send_singly<K>(&mut self, index: usize, code: i32, socket: &mut Socket, kernel: &mut K)
    where
        K: FnMut(BorrowedFd<'_>, &mut [libc::mmsghdr]) -> io::Result<usize>,
    {
        let Message { remote, first, count, .. } = self.messages[index];
        let train = self.headers[index];
        let mut sent = 0;
        for vector in first..first + count {
            let mut single = train;
            single.msg_hdr.msg_iov = self.vectors.as_mut_ptr().wrapping_add(vector);
            single.msg_hdr.msg_iovlen = 1;
            single.msg_hdr.msg_control = std::ptr::null_mut();
            single.msg_hdr.msg_controllen = 0;
            loop {
                match kernel(socket.as_fd(), std::slice::from_mut(&mut single)) {
                    Ok(_) => sent += 1,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.wait_until_writable(socket) => {
                        continue;
                    }
                    Err(_) => self.flushed.failed += 1,
                }
                break;
            }
        }
        self.flushed.trains += sent;
        if sent == 0 {
            return;
        }
        if code == libc::EIO {
            self.gso_lost |= mem::replace(&mut socket.has_gso, false);
        } else {
            self.refusing.insert(remote);
        }
    }

    /// Waits for room in the socket's send buffer, as long as this flush may still wait. Whether there is room.
    fn wait_until_writable(&mut self, socket: &Socket) -> bool {
        if self.patience.is_zero() {
            return false;
        }
        let started = Instant::now();
        let timeout = Timespec { tv_sec: 0, tv_nsec: self.patience.subsec_nanos().into() };
        let mut polled = [PollFd::new(socket, PollFlags::OUT)];
        let ready = rustix::event::poll(&mut polled, Some(&timeout));
        // A socket may be writable by poll's measure (half of its buffer is free) and still too full for a train: so
        // each wait costs something, and the waits of one flush end.
        self.patience = self.patience.saturating_sub(started.elapsed().max(Duration::from_micros(20)));
        // An interrupted wait says nothing: try to send.
        !matches!(ready, Ok(0))
    }
}

const _: () = assert!(SEND_WAIT_MAX.as_secs() == 0, "the wait is given to poll in nanoseconds");

/// Where a packet lies. The kernel only reads through it, though the type would let it write.
fn vector(packet: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() }
}

fn sendmmsg(fd: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    // SAFETY: Egress made every header: name, vectors and control are of the stated sizes and live in it, the packets
    // behind the vectors are borrowed by its caller, and nothing of it is touched until the call returns.
    let count = unsafe {
        libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), headers.len() as libc::c_uint, libc::MSG_DONTWAIT as _)
    };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Attaches the UDP_SEGMENT control message that makes a message a train.
fn write_segment_size(header: &mut libc::msghdr, control: &mut [u64; CONTROL_WORDS], segment: u16) {
    const SEGMENT_LEN: libc::c_uint = mem::size_of::<u16>() as libc::c_uint;
    // SAFETY: CMSG_SPACE only computes.
    const _: () = assert!(unsafe { libc::CMSG_SPACE(SEGMENT_LEN) } as usize == mem::size_of::<[u64; CONTROL_WORDS]>());
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(control) as _;
    // SAFETY: the control area is aligned for a cmsghdr and large enough for one with two bytes of data (asserted
    // above), so CMSG_FIRSTHDR and CMSG_DATA stay inside it.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(header);
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(SEGMENT_LEN) as _;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(segment);
    }
}

/// Destinations whose path takes no trains: a small direct-mapped memory that forgets by overwriting and is cleared
/// now and then. Forgetting one costs a failed system call, so no peer gains anything by crowding out another.
struct Refusing {
    places: [Option<SocketAddr>; REFUSING_MAX],
    is_empty: bool,
}

impl Refusing {
    const fn new() -> Self {
        Self { places: [None; REFUSING_MAX], is_empty: true }
    }

    fn contains(&self, remote: SocketAddr) -> bool {
        !self.is_empty && self.places[place(remote)] == Some(remote)
    }

    fn insert(&mut self, remote: SocketAddr) {
        self.places[place(remote)] = Some(remote);
        self.is_empty = false;
    }
}

fn place(remote: SocketAddr) -> usize {
    let last = match remote {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(v6) => v6.ip().octets()[15],
    };
    (usize::from(remote.port()) ^ usize::from(last)) % REFUSING_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    /// One message as the kernel saw it.
    #[derive(Clone, PartialEq, Eq, Debug)]
    struct Seen {
        port: u16,
        packets: Vec<Vec<u8>>,
        segment: Option<u16>,
    }

    fn see(header: &libc::msghdr) -> Seen {
        // SAFETY: the header was made by `write_headers`; this reads what a kernel would.
        unsafe {
            let vectors = std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen);
            let bytes = |v: &libc::iovec| std::slice::from_raw_parts(v.iov_base.cast::<u8>(), v.iov_len).to_vec();
            let segment = libc::CMSG_FIRSTHDR(header).as_ref().map(|message| {
                assert_eq!((message.cmsg_level, message.cmsg_type), (libc::SOL_UDP, libc::UDP_SEGMENT));
                libc::CMSG_DATA(message).cast::<u16>().read_unaligned()
            });
            let port = u16::from_be((*header.msg_name.cast::<libc::sockaddr_in>()).sin_port);
            Seen { port, packets: vectors.iter().map(bytes).collect(), segment }
        }
    }

    fn refuse(code: i32) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(code))
    }

    fn socket() -> Socket {
        let mut socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        socket.has_gso = true;
        socket
    }

    /// Packets of these lengths, each filled with its number.
    fn packets(lengths: &[usize]) -> Vec<Vec<u8>> {
        lengths.iter().enumerate().map(|(i, &len)| vec![i as u8; len]).collect()
    }

    type Chains = Vec<(u16, Vec<Vec<u8>>)>;

    fn send<K>(egress: &mut Egress, socket: &mut Socket, chains: &Chains, kernel: &mut K) -> Sent
    where
        K: FnMut(BorrowedFd<'_>, &mut [libc::mmsghdr]) -> io::Result<usize>,
    {
        let chains = chains
            .iter()
            .map(|(port, packets)| ((Ipv4Addr::LOCALHOST, *port).into(), packets.iter().map(Vec::as_slice)));
        egress.send_through(socket, chains, kernel);
        egress.finish()
    }

    /// Sends to a kernel that takes everything; lengths of the packets of each message.
    fn trains(socket: &mut Socket, chains: &Chains) -> Vec<Vec<usize>> {
        let mut seen = Vec::new();
        send(&mut Egress::new(), socket, chains, &mut |_, headers| {
            seen.extend(headers.iter().map(|h| see(&h.msg_hdr)));
            Ok(headers.len())
        });
        for message in &seen {
            let first = message.packets[0].len();
            assert_eq!(message.segment, (message.packets.len() > 1).then_some(first as u16));
        }
        seen.iter().map(|m| m.packets.iter().map(Vec::len).collect()).collect()
    }

    #[test]
    fn a_train_has_equal_packets_and_perhaps_a_shorter_last() {
        let chains = vec![(1, packets(&[100, 100, 70, 100, 120, 120])), (2, packets(&[120, 1])), (3, packets(&[9]))];
        assert_eq!(
            trains(&mut socket(), &chains),
            [vec![100, 100, 70], vec![100], vec![120, 120], vec![120, 1], vec![9]]
        );
    }

    #[test]
    fn a_train_stays_within_what_every_kernel_takes() {
        let mut socket = socket();
        let small = trains(&mut socket, &vec![(1, packets(&[10; 150]))]);
        assert_eq!(small.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
        let large = trains(&mut socket, &vec![(1, packets(&[1400; 100]))]);
        assert_eq!(large.iter().map(Vec::len).collect::<Vec<_>>(), [46, 46, 8]);
    }

    #[test]
    fn an_empty_packet_travels_alone() {
        let chains = vec![(1, packets(&[50, 0, 0, 50]))];
        assert_eq!(trains(&mut socket(), &chains), [vec![50], vec![0], vec![0], vec![50]]);
    }

    #[test]
    fn without_segmentation_all_travel_alone() {
        let mut socket = socket();
        socket.has_gso = false;
        assert_eq!(trains(&mut socket, &vec![(1, packets(&[50, 50]))]), [vec![50], vec![50]]);
    }

    #[test]
    fn a_short_count_is_continued() {
        let chains: Chains = (0..100).map(|port| (port, packets(&[20, 20, 20]))).collect();
        let mut ports = Vec::new();
        let flushed = send(&mut Egress::new(), &mut socket(), &chains, &mut |_, headers| {
            let count = headers.len().min(7);
            ports.extend(headers[..count].iter().map(|h| see(&h.msg_hdr).port));
            Ok(count)
        });
        assert_eq!(ports, (0..100).collect::<Vec<_>>());
        assert_eq!(flushed, Sent { trains: 100, failed: 0 });
    }

    #[test]
    fn a_full_buffer_is_waited_for_briefly() {
        let chains = vec![(1, packets(&[20])), (2, packets(&[20]))];
        let mut calls = 0;
        let flushed = send(&mut Egress::new(), &mut socket(), &chains, &mut |_, headers| {
            calls += 1;
            if calls % 2 == 1 { refuse(libc::EAGAIN) } else { Ok(headers.len().min(1)) }
        });
        assert_eq!(flushed, Sent { trains: 2, failed: 0 });
    }

    #[test]
    fn a_buffer_that_stays_full_costs_the_packets_and_not_the_turn() {
        let chains: Chains = (0..70).map(|port| (port, packets(&[20, 20, 10]))).collect();
        let (mut egress, mut socket) = (Egress::new(), socket());
        let mut calls = 0;
        let flushed = send(&mut egress, &mut socket, &chains, &mut |_, _| {
            calls += 1;
            refuse(libc::EAGAIN)
        });
        assert_eq!(flushed, Sent { trains: 0, failed: 210 });
        assert!(calls <= 60, "{calls} system calls for nothing");
        let flushed = send(&mut egress, &mut socket, &chains, &mut |_, headers| Ok(headers.len()));
        assert_eq!(flushed, Sent { trains: 70, failed: 0 }, "the next flush may wait again");
    }

    #[test]
    fn a_device_that_cannot_split_gets_single_packets_from_then_on() {
        let chains = vec![(1, packets(&[20, 20])), (2, packets(&[20, 20]))];
        let (mut egress, mut socket) = (Egress::new(), socket());
        let mut no_gso = |_: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]| match headers
            .iter()
            .position(|h| see(&h.msg_hdr).segment.is_some())
        {
            Some(0) => refuse(libc::EIO),
            Some(count) => Ok(count),
            None => Ok(headers.len()),
        };
        let flushed = send(&mut egress, &mut socket, &chains, &mut no_gso);
        assert_eq!(flushed, Sent { trains: 4, failed: 0 });
        assert!(!socket.has_gso());
        assert!(egress.take_gso_lost() && !egress.take_gso_lost());
        assert_eq!(trains(&mut socket, &chains), [[20], [20], [20], [20]]);
    }

    #[test]
    fn a_narrow_path_loses_trains_for_its_destination_alone_and_for_a_time() {
        let chains = vec![(1, packets(&[20, 20])), (2, packets(&[20, 20]))];
        let (mut egress, mut socket) = (Egress::new(), socket());
        let mut seen = Vec::new();
        let mut narrow = |_: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]| {
            let message = see(&headers[0].msg_hdr);
            if message.port == 1 && message.segment.is_some() {
                return refuse(libc::EMSGSIZE);
            }
            seen.push((message.port, message.packets.len()));
            Ok(1)
        };
        for _ in 0..2 {
            assert_eq!(send(&mut egress, &mut socket, &chains, &mut narrow), Sent { trains: 3, failed: 0 });
        }
        egress.forgive();
        let mut all = |_: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]| Ok(headers.len());
        assert_eq!(send(&mut egress, &mut socket, &chains, &mut all), Sent { trains: 2, failed: 0 });
        assert_eq!(seen, [(1, 1), (1, 1), (2, 2), (1, 1), (1, 1), (2, 2)]);
        assert!(socket.has_gso());
    }

    #[test]
    fn a_destination_that_takes_nothing_says_nothing_about_trains() {
        let (mut egress, mut socket) = (Egress::new(), socket());
        for code in [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::EPERM, libc::ENOBUFS, libc::ENETUNREACH] {
            let chains = vec![(1, packets(&[20, 20])), (2, packets(&[20, 20]))];
            let flushed = send(&mut egress, &mut socket, &chains, &mut |_, headers| {
                if see(&headers[0].msg_hdr).port == 1 { refuse(code) } else { Ok(1) }
            });
            assert_eq!(flushed, Sent { trains: 1, failed: 2 }, "error {code}");
            assert!(socket.has_gso() && egress.refusing.is_empty);
        }
    }

    #[test]
    fn a_report_about_an_earlier_packet_costs_nothing() {
        let mut calls = 0;
        let chains = vec![(1, packets(&[20])), (2, packets(&[20]))];
        let flushed = send(&mut Egress::new(), &mut socket(), &chains, &mut |_, headers| {
            calls += 1;
            if calls == 1 { refuse(libc::ECONNREFUSED) } else { Ok(headers.len()) }
        });
        assert_eq!(flushed, Sent { trains: 2, failed: 0 });
    }

    /// Runs a test in a thread with a network namespace of its own, prepared by these commands; leaves it out where
    /// that is not permitted, or the tools are missing.
    fn in_network(commands: &'static [&'static str], test: fn()) {
        let run = |command: &&str| {
            let mut words = command.split(' ');
            let status = std::process::Command::new(words.next().unwrap()).args(words).status();
            status.is_ok_and(|status| status.success())
        };
        let body = move || {
            // SAFETY: it moves only the calling thread, which ends with the test.
            let is_moved = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
            if is_moved && commands.iter().all(run) {
                test();
            } else {
                let error = std::io::Error::last_os_error();
                crate::require::left_out("namespaces", "trains over a device, which takes root", error);
            }
        };
        std::thread::spawn(body).join().unwrap();
    }

    #[test]
    fn a_slow_device_costs_packets_and_a_millisecond() {
        const SLOW: &str = "tc qdisc add dev lo root tbf rate 8mbit burst 20kb limit 64mb";
        in_network(&["ip link set lo up", SLOW], || {
            let (mut egress, mut socket) = (Egress::new(), socket());
            let friend = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = friend.local_addr().unwrap().port();
            rustix::net::sockopt::set_socket_send_buffer_size_force(&socket, 100_000).unwrap();
            let started = Instant::now();
            let flushed = send(&mut egress, &mut socket, &vec![(port, packets(&[1200; 1000]))], &mut sendmmsg);
            let took = started.elapsed();
            assert!(flushed.failed > 100 && flushed.trains > 0, "{flushed:?}");
            assert!(took < Duration::from_millis(200), "{took:?} with at most one of waiting");
            // Once the device has caught up, all is as before.
            let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
            let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut polled, Some(&patience)).unwrap(), 1);
            let chains = vec![(port, packets(&[1200; 10]))];
            assert_eq!(send(&mut egress, &mut socket, &chains, &mut sendmmsg), Sent { trains: 1, failed: 0 });
        });
    }

    #[test]
    fn a_narrow_device_gets_single_packets_and_loses_none() {
        in_network(&["ip link set lo mtu 1000", "ip link set lo up"], || {
            let (mut egress, mut socket) = (Egress::new(), socket());
            let friend = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            friend.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let sent = packets(&[1200; 5]);
            let chains = vec![(friend.local_addr().unwrap().port(), sent.clone())];
            for _ in 0..2 {
                assert_eq!(send(&mut egress, &mut socket, &chains, &mut sendmmsg), Sent { trains: 5, failed: 0 });
                let mut buffer = [0; 2000];
                for packet in &sent {
                    assert_eq!(friend.recv(&mut buffer).unwrap(), packet.len());
                }
            }
            assert!(socket.has_gso() && !egress.refusing.is_empty);
        });
    }

    proptest! {
        /// Whatever the kernel answers, a packet leaves once, in its chain's order, or is counted as failed.
        #[test]
        fn packets_are_neither_lost_uncounted_nor_doubled(
            lengths in prop::collection::vec(prop::collection::vec(0usize..4, 0..20), 0..40),
            answers in prop::collection::vec(0u8..12, 0..60),
        ) {
            let chains: Chains = lengths
                .iter()
                .enumerate()
                .map(|(port, lengths)| {
                    let packet = |(i, &len): (usize, &usize)| vec![i as u8; len * 400];
                    (port as u16, lengths.iter().enumerate().map(packet).collect())
                })
                .collect();
            let mut left = chains.iter().map(|_| Vec::new()).collect::<Vec<_>>();
            let mut answers = answers.into_iter();
            let flushed = send(&mut Egress::new(), &mut socket(), &chains, &mut |_, headers| {
                let taken = match answers.next() {
                    Some(0) => return refuse(libc::EAGAIN),
                    Some(1) => return refuse(libc::EIO),
                    Some(2) => return refuse(libc::EINVAL),
                    Some(3) => return refuse(libc::EINTR),
                    Some(4) => return refuse(libc::ECONNREFUSED),
                    Some(5) => return refuse(libc::EPERM),
                    Some(few) => headers.len().min(usize::from(few) - 5),
                    None => headers.len(),
                };
                for header in &headers[..taken] {
                    let message = see(&header.msg_hdr);
                    left[usize::from(message.port)].extend(message.packets);
                }
                Ok(taken)
            });
            let sent: usize = left.iter().map(Vec::len).sum();
            let total: usize = chains.iter().map(|(_, packets)| packets.len()).sum();
            prop_assert_eq!(sent as u64 + flushed.failed, total as u64);
            for (left, (_, packets)) in left.iter().zip(&chains) {
                let mut rest = packets.iter();
                prop_assert!(left.iter().all(|packet| rest.any(|p| p == packet)), "reordered or doubled");
            }
        }
    }
}
