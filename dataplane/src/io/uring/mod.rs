//! The `uring` backend: datagrams come and go through io_urings of the worker's own.
//!
//! They are the same sockets as the `udp` backend's, with the same options, so stamps, merges, trains and addresses are
//! the same. What differs is who asks. In: one multishot receive for each socket stays with the kernel, which
//! puts datagrams into buffers that it was given; a turn that finds none makes no system call. Out: a flush is one
//! `io_uring_enter`, each message an entry of its own.
//!
//! There are two rings. The one for receiving is entered by [`Inlet::receive`] alone, and with DEFER_TASKRUN the kernel
//! works for it only then. So a datagram waits in its *socket* until a turn takes it: parking may go on watching sockets
//! (`super::park`), and cannot sleep over one that is already in the ring. Sends, whose ring is entered in every flush,
//! would break that.
//!
//! docs/decisions/0018 has what it costs beside the `udp` backend.

mod inlet;
mod outlet;

use std::io;
use std::rc::Rc;

use io_uring::IoUring;

use super::udp::Socket;
use crate::slab::Slab;

pub(super) use self::inlet::Inlet;
pub(super) use self::outlet::Outlet;

/// Why a worker cannot have io_urings here.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The kernel is too old, or built without it.
    #[error("it takes Linux 6.1 or later with io_uring")]
    TooOld,
    /// A sandbox or the operator forbids it.
    #[error("io_uring is forbidden here (kernel.io_uring_disabled, or a container's seccomp profile)")]
    Forbidden,
    /// Anything else.
    #[error("{0}")]
    Other(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSYS | libc::EINVAL) => Refused::TooOld,
            Some(libc::EPERM | libc::EACCES) => Refused::Forbidden,
            _ => Refused::Other(error),
        }
    }
}

/// A worker's two rings.
pub(super) struct Uring {
    pub(super) inlet: Inlet,
    pub(super) outlet: Outlet,
}

impl Uring {
    /// Opens both for a worker's sockets, and the memory that datagrams will lie in.
    pub(super) fn open(sockets: &[Socket]) -> Result<(Uring, Rc<Slab>), Refused> {
        let (inlet, slab) = Inlet::open(sockets.len())?;
        Ok((Uring { inlet, outlet: Outlet::open(sockets)? }, slab))
    }
}

/// A ring that only this thread enters, and that works only while it is entered.
fn open_ring(entries: usize, completions: usize) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions as u32)
        .dontfork()
        .build(entries as u32)
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clock;
    use super::super::train::{Egress, Sent};
    use super::super::udp::Batch;
    use super::*;
    use crate::config::{BATCH_LEN_MAX, Micros};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
    use std::time::{Duration, Instant};

    const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

    /// Sockets with rings; none where the kernel refuses them.
    struct Rig {
        inlet: Inlet,
        egress: Egress,
        sockets: Vec<Socket>,
        batch: Batch,
        clock: Clock,
    }

    impl Rig {
        fn open(ips: &[IpAddr]) -> Option<Rig> {
            let sockets: Vec<Socket> = ips.iter().map(|&ip| Socket::bind((ip, 0).into()).unwrap()).collect();
            let (Uring { inlet, outlet }, slab) = match Uring::open(&sockets) {
                Ok(opened) => opened,
                Err(error) => {
                    crate::require::left_out("uring", "the uring backend", error);
                    return None;
                }
            };
            let mut egress = Egress::new();
            egress.set_outlet(Some(outlet));
            Some(Rig { inlet, egress, sockets, batch: Batch::of_ring(slab), clock: Clock::new(Instant::now()) })
        }

        fn local(&self, socket: usize) -> SocketAddr {
            self.sockets[socket].local()
        }

        /// One look for datagrams: socket, sender, time, bytes.
        fn look(&mut self) -> Vec<(u8, SocketAddr, Micros, Vec<u8>)> {
            let now = self.clock.now();
            self.inlet.receive(&self.sockets, &mut self.batch, &mut self.clock, now);
            self.batch.datagrams().map(|d| (d.path.socket, d.path.remote, d.at, d.bytes.to_vec())).collect()
        }

        /// Looks until `count` datagrams are here, or none comes for two seconds. It waits as a worker does.
        fn receive(&mut self, count: usize) -> Vec<(u8, SocketAddr, Micros, Vec<u8>)> {
            let mut got = self.look();
            while got.len() < count {
                let more = self.look();
                if more.is_empty() {
                    let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
                    let mut polled: Vec<_> = self.sockets.iter().map(|s| PollFd::new(s, PollFlags::IN)).collect();
                    if poll(&mut polled, Some(&patience)).unwrap() == 0 {
                        break;
                    }
                }
                got.extend(more);
            }
            got
        }

        fn send(&mut self, socket: usize, remote: SocketAddr, packets: &[Vec<u8>]) -> Sent {
            let chain = (remote, packets.iter().map(Vec::as_slice));
            self.egress.send(&mut self.sockets[socket], std::iter::once(chain));
            self.egress.finish()
        }
    }

    /// Packets of these lengths that tell their place in the sequence.
    fn packets(lengths: impl IntoIterator<Item = usize>) -> Vec<Vec<u8>> {
        lengths.into_iter().enumerate().map(|(i, len)| (0..len).map(|b| (b ^ (i * 7)) as u8).collect()).collect()
    }

    #[test]
    fn trains_of_odd_sizes_arrive_as_the_packets_that_left() {
        for ip in LOOPBACKS {
            let (Some(mut left), Some(mut right)) = (Rig::open(&[ip]), Rig::open(&[ip])) else { return };
            let lengths = [1200; 9].into_iter().chain([701]).chain([1; 5]).chain([0, 33, 33, 32, 33, 1472, 1473, 9000]);
            let sent = packets(lengths.chain([65_507]).chain([1200; 100]).chain([1199]));
            for _ in 0..20 {
                let flushed = left.send(0, right.local(0), &sent);
                assert_eq!(flushed.failed, 0);
                assert!(flushed.trains < 20, "{} sends for {} packets", flushed.trains, sent.len());
                let got = right.receive(sent.len());
                assert_eq!(got.len(), sent.len());
                for (i, ((_, remote, _, bytes), sent)) in got.iter().zip(&sent).enumerate() {
                    assert_eq!(*remote, left.local(0));
                    assert!(bytes == sent, "packet {i} of {} bytes arrived as {}", sent.len(), bytes.len());
                }
            }
        }
    }

    #[test]
    fn more_than_all_buffers_waits_in_the_socket_and_comes_in_order() {
        let Some(mut rig) = Rig::open(&LOOPBACKS[..1]) else { return };
        let sender = UdpSocket::bind((LOOPBACKS[0], 0)).unwrap();
        let count = 10 * BATCH_LEN_MAX as u32;
        for round in 0..5 {
            assert!(rig.look().is_empty());
            for i in 0..count {
                sender.send_to(&(round * count + i).to_ne_bytes(), rig.local(0)).unwrap();
            }
            let first = rig.look();
            assert_eq!(first.len(), BATCH_LEN_MAX, "a batch takes what fits");
            let got: Vec<_> = first.into_iter().chain(rig.receive(count as usize - BATCH_LEN_MAX)).collect();
            let order: Vec<u32> = got.iter().map(|g| u32::from_ne_bytes(g.3[..].try_into().unwrap())).collect();
            assert_eq!(order, (round * count..(round + 1) * count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn each_socket_is_heard_and_named() {
        let Some(mut rig) = Rig::open(&LOOPBACKS) else { return };
        let senders = LOOPBACKS.map(|ip| UdpSocket::bind((ip, 0)).unwrap());
        for round in 0..100u8 {
            for (socket, sender) in senders.iter().enumerate() {
                sender.send_to(&[round], rig.local(socket)).unwrap();
            }
            let mut got = rig.receive(2);
            got.sort_by_key(|g| g.0);
            let expected = |socket: usize| (socket as u8, senders[socket].local_addr().unwrap(), vec![round]);
            let heard: Vec<_> = got.into_iter().map(|(socket, remote, _, bytes)| (socket, remote, bytes)).collect();
            assert_eq!(heard, [expected(0), expected(1)]);
        }
    }

    #[test]
    fn a_busy_socket_does_not_keep_its_neighbour_waiting() {
        for busy in [0, 1] {
            let Some(mut rig) = Rig::open(&LOOPBACKS) else { return };
            let senders = LOOPBACKS.map(|ip| UdpSocket::bind((ip, 0)).unwrap());
            for _ in 0..20 * BATCH_LEN_MAX {
                senders[busy].send_to(b"flood", rig.local(busy)).unwrap();
            }
            let quiet = 1 - busy;
            for _ in 0..3 {
                senders[quiet].send_to(b"hello", rig.local(quiet)).unwrap();
                let heard = (0..5).any(|_| rig.look().iter().any(|got| usize::from(got.0) == quiet));
                assert!(heard, "socket {quiet} waits while {busy} is flooded");
            }
        }
    }

    #[test]
    fn the_time_of_arrival_is_the_kernels() {
        let Some(mut rig) = Rig::open(&LOOPBACKS[..1]) else { return };
        assert!(rig.look().is_empty());
        let before = rig.clock.now();
        UdpSocket::bind((LOOPBACKS[0], 0)).unwrap().send_to(b"stamp me", rig.local(0)).unwrap();
        let after = rig.clock.now();
        // The worker is busy elsewhere for a while.
        std::thread::sleep(Duration::from_millis(30));
        let at = rig.look().first().expect("loopback delivers at once").2;
        assert!((before - 1000..=after + 1000).contains(&at), "sent {before} to {after}, stamped {at}");
    }

    #[test]
    fn a_datagram_waits_in_its_socket_until_a_turn_takes_it() {
        let Some(mut rig) = Rig::open(&LOOPBACKS[..1]) else { return };
        let sender = UdpSocket::bind((LOOPBACKS[0], 0)).unwrap();
        for round in 0..100u8 {
            assert!(rig.look().is_empty());
            sender.send_to(&[round], rig.local(0)).unwrap();
            // What a flush does to its ring and every system call leave it there: parking sees it.
            assert_eq!(rig.send(0, sender.local_addr().unwrap(), &packets([9])), Sent { trains: 1, failed: 0 });
            let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(&rig.sockets[0], PollFlags::IN)], Some(&at_once)), Ok(1));
            assert_eq!(rig.look()[0].3, [round]);
        }
    }

    #[test]
    fn a_closed_port_at_the_other_end_is_harmless() {
        for ip in LOOPBACKS {
            let Some(mut rig) = Rig::open(&[ip]) else { return };
            let closed = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
            let friend = UdpSocket::bind((ip, 0)).unwrap();
            friend.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            for _ in 0..3 {
                assert!(rig.look().is_empty());
                assert_eq!(rig.send(0, closed, &packets([100, 100, 100])).failed, 0);
                assert_eq!(rig.send(0, friend.local_addr().unwrap(), &packets([5])).failed, 0);
                friend.recv(&mut [0; 10]).unwrap();
            }
            friend.send_to(b"still there?", rig.local(0)).unwrap();
            assert_eq!(rig.receive(1)[0].3, b"still there?");
        }
    }

    #[test]
    fn what_the_ring_does_not_take_is_tried_by_system_calls_and_counted() {
        let Some(mut rig) = Rig::open(&LOOPBACKS[..1]) else { return };
        for remote in ["127.0.0.1:0", "192.0.2.1:9"] {
            let sent = rig.send(0, remote.parse().unwrap(), &packets([100, 100, 100]));
            assert_eq!(sent, Sent { trains: 0, failed: 3 }, "{remote}");
        }
        assert!(rig.sockets[0].has_gso());
        // Taken and refused in one flush, the refused between the others.
        let friend = UdpSocket::bind((LOOPBACKS[0], 0)).unwrap();
        friend.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let there = friend.local_addr().unwrap();
        let (sent, nowhere) = (packets([100, 100, 40]), "127.0.0.1:0".parse().unwrap());
        let chains = [there, nowhere, there, nowhere, there].map(|remote| (remote, sent.iter().map(Vec::as_slice)));
        rig.egress.send(&mut rig.sockets[0], chains.into_iter());
        assert_eq!(rig.egress.finish(), Sent { trains: 3, failed: 6 });
        for _ in 0..3 {
            for packet in &sent {
                let mut buffer = [0; 200];
                let len = friend.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..len], packet[..]);
            }
        }
    }

    #[test]
    fn closed_rings_leave_the_port_free() {
        for _ in 0..20 {
            let Some(mut rig) = Rig::open(&LOOPBACKS) else { return };
            let addresses = [rig.local(0), rig.local(1)];
            let sender = UdpSocket::bind((LOOPBACKS[0], 0)).unwrap();
            assert!(rig.look().is_empty());
            // With a datagram that nobody takes.
            sender.send_to(b"late", addresses[0]).unwrap();
            rig.egress.set_outlet(None);
            drop(rig);
            for address in addresses {
                UdpSocket::bind(address).expect("the port is free at once");
            }
        }
    }

    #[test]
    fn reasons_are_told_apart() {
        let of = |code| Refused::from(io::Error::from_raw_os_error(code)).to_string();
        assert!(of(libc::EINVAL).contains("6.1") && of(libc::ENOSYS).contains("6.1"));
        assert!(of(libc::EPERM).contains("forbidden"));
        assert!(of(libc::ENOMEM).contains("memory"));
    }
}
