//! What leaves in a turn: packets sealed in one slab, chained by destination so that the io backend can send trains.
//!
//! A packet is written once into the slab and protected there in place. There are three doors in, and none of them
//! lets plaintext RTP out: `push_rtp` and `push_rtcp` protect what the caller wrote, and
//! `push_public` is for what is public or already sealed (STUN answers, injected DTLS).

use std::collections::VecDeque;
use std::net::SocketAddr;

use proto::id::StreamId;
use proto::plane::{DatagramHeader, Report, Tally};

use crate::config::{
    FRAME_LEN, OUTBOX_LEN, OUTBOX_PACKETS_MAX, PEER_SLOTS_MAX, PEER_STREAMS_MAX, PEERS_MAX, REPORTS_MAX,
    STREAM_ROUTES_MAX, TALLIES_MAX, WORKERS_MAX,
};
use crate::relay::{Message, Packet as RelayedPacket};
use crate::srtp::Crypto;

/// Where a datagram came from or goes to: one of the worker's sockets and the address at its other end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    /// Index of the worker's socket (one for each media address).
    pub socket: u8,
    /// The peer's address.
    pub remote: SocketAddr,
}

/// Whom a packet is for. Packets of one turn for one destination leave in order and, where they can, in trains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// Index of the peer in the worker's table.
    pub peer: u32,
    /// The peer's path.
    pub path: Path,
}

/// One packet in the slab, linked to the next for the same destination.
struct Packet {
    start: u32,
    len: u32,
    next: u32,
}

const END: u32 = u32::MAX;

struct ChainEnds {
    path: Path,
    head: u32,
    tail: u32,
}

/// The packets, reports, punts and tallies of one turn.
pub struct Outbox {
    slab: Box<[u8]>,
    used: usize,
    packets: Vec<Packet>,
    chains: Vec<ChainEnds>,
    /// By peer index: the chain that this turn began for it, valid if the stamp is this turn's.
    chain_of: Box<[(u32, u32)]>,
    stamp: u32,
    reports: VecDeque<Report>,
    reports_lost: u64,
    punts: VecDeque<(DatagramHeader, u32)>,
    relays: VecDeque<Relay>,
    tallies: Vec<Tally>,
    refused: u64,
}

/// A message for another worker. The bytes of a packet, head and payload, lie in the slab once for all workers.
struct Relay {
    to: u16,
    message: Message<'static>,
    start: u32,
    head_len: u16,
    payload_len: u16,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty outbox; all of its memory is taken here.
    pub fn new() -> Self {
        Outbox {
            slab: vec![0; OUTBOX_LEN].into_boxed_slice(),
            used: 0,
            packets: Vec::with_capacity(OUTBOX_PACKETS_MAX),
            chains: Vec::with_capacity(OUTBOX_PACKETS_MAX),
            chain_of: vec![(0, 0); PEERS_MAX].into_boxed_slice(),
            stamp: 1,
            reports: VecDeque::with_capacity(REPORTS_MAX),
            reports_lost: 0,
            punts: VecDeque::with_capacity(PUNTS_PER_TURN_MAX),
            relays: VecDeque::with_capacity(OUTBOX_RELAYS_MAX),
            tallies: Vec::with_capacity(TALLIES_MAX),
            refused: 0,
        }
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether the next datagram's widest fan-out, or the next peer's tallies, might not fit: flush first.
    pub fn is_nearly_full(&self) -> bool {
        self.used + (STREAM_ROUTES_MAX + 1) * FRAME_LEN > OUTBOX_LEN
            || self.packets.len() + STREAM_ROUTES_MAX > OUTBOX_PACKETS_MAX
            || self.relays.len() + WORKERS_MAX > OUTBOX_RELAYS_MAX
            || self.punts.len() == PUNTS_PER_TURN_MAX
            || self.tallies.len() + PEER_STREAMS_MAX + PEER_SLOTS_MAX > TALLIES_MAX
    }

    /// Forgets the packets, punts and tallies, which were handed over; reports stay until popped.
    pub fn clear(&mut self) {
        self.used = 0;
        self.packets.clear();
        self.chains.clear();
        self.punts.clear();
        self.relays.clear();
        self.tallies.clear();
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.chain_of.fill((0, 0));
            self.stamp = 1;
        }
    }

    /// One chain for each destination, in order of first use.
    pub fn chains(&self) -> impl Iterator<Item = Chain<'_>> {
        self.chains.iter().map(|ends| Chain { outbox: self, ends })
    }

    /// Writes an RTP packet and protects it. `write` puts header and payload into the frame and returns the length
    /// of the header and of both. False if the outbox is full.
    pub(crate) fn push_rtp(
        &mut self,
        to: Destination,
        crypto: &Crypto,
        ssrc: u32,
        index: u64,
        write: impl FnOnce(&mut [u8]) -> (usize, usize),
    ) -> bool {
        self.push(to, |frame| {
            let (header_len, len) = write(&mut frame[..FRAME_LEN - Crypto::OVERHEAD_MAX]);
            // No length: the key is used up (2^48 packets), and nothing leaves.
            crypto.protect_rtp(ssrc, index, header_len, frame, len).unwrap_or(0)
        })
    }

    /// Writes an RTCP compound packet and protects it. `write` returns its length; 0 sends nothing.
    pub(crate) fn push_rtcp(
        &mut self,
        to: Destination,
        crypto: &Crypto,
        index: u32,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        self.push(to, |frame| match write(&mut frame[..FRAME_LEN - Crypto::OVERHEAD_MAX]) {
            0 => 0,
            len => crypto.protect_rtcp(index, frame, len).unwrap_or(0),
        })
    }

    /// Sends bytes that need no protection of ours. `write` returns their length; 0 sends nothing.
    pub(crate) fn push_public(&mut self, to: Destination, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        self.push(to, write)
    }

    fn push(&mut self, to: Destination, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if self.used + FRAME_LEN > OUTBOX_LEN || self.packets.len() == OUTBOX_PACKETS_MAX {
            self.refused += 1;
            return false;
        }
        let start = self.used;
        let len = write(&mut self.slab[start..start + FRAME_LEN]);
        if len == 0 {
            return true;
        }
        // Frames start on a multiple of 16 bytes: AES works on aligned blocks of the payload's start.
        self.used = (start + len).next_multiple_of(16);
        self.link(to, Packet { start: start as u32, len: len as u32, next: END });
        true
    }

    /// Appends a packet to its destination's chain, or begins one.
    fn link(&mut self, to: Destination, packet: Packet) {
        let at = self.packets.len() as u32;
        self.packets.push(packet);
        let mark = &mut self.chain_of[to.peer as usize];
        if mark.0 == self.stamp {
            let ends = &mut self.chains[mark.1 as usize];
            if ends.path == to.path {
                self.packets[ends.tail as usize].next = at;
                ends.tail = at;
                return;
            }
        }
        *mark = (self.stamp, self.chains.len() as u32);
        self.chains.push(ChainEnds { path: to.path, head: at, tail: at });
    }

    /// Queues a report for the controlplane. False if the queue is full: then the newest is lost and counted.
    pub(crate) fn report(&mut self, report: Report) -> bool {
        if self.reports.len() == REPORTS_MAX {
            self.reports_lost += 1;
            return false;
        }
        self.reports.push_back(report);
        true
    }

    /// Takes the oldest report.
    pub fn pop_report(&mut self) -> Option<Report> {
        self.reports.pop_front()
    }

    /// How many more reports the queue takes.
    pub(crate) fn report_space(&self) -> usize {
        REPORTS_MAX - self.reports.len()
    }

    /// Reports lost since the last call because the queue was full.
    pub fn take_reports_lost(&mut self) -> u64 {
        std::mem::take(&mut self.reports_lost)
    }

    /// Queues a datagram for the controlplane. False if there is no room for it in this turn.
    pub(crate) fn punt(&mut self, header: DatagramHeader, payload: &[u8]) -> bool {
        if self.used + payload.len() > OUTBOX_LEN || self.punts.len() == PUNTS_PER_TURN_MAX {
            return false;
        }
        let start = self.used;
        self.slab[start..start + payload.len()].copy_from_slice(payload);
        self.used = (start + payload.len()).next_multiple_of(16);
        self.punts.push_back((header, start as u32));
        true
    }

    /// Takes the oldest punted datagram.
    pub fn pop_punt(&mut self) -> Option<(DatagramHeader, &[u8])> {
        let (header, start) = self.punts.pop_front()?;
        Some((header, &self.slab[start as usize..][..usize::from(header.len)]))
    }

    /// Queues a message without bytes for another worker. False if there is no room for it in this turn.
    pub(crate) fn tell(&mut self, to: u16, message: Message<'static>) -> bool {
        if self.relays.len() == OUTBOX_RELAYS_MAX {
            return false;
        }
        self.relays.push_back(Relay { to, message, start: 0, head_len: 0, payload_len: 0 });
        true
    }

    /// Queues a packet for each of these workers and their mirrors; how many of them get it.
    pub(crate) fn relay(
        &mut self,
        packet: &RelayedPacket<'_>,
        mirrors: impl ExactSizeIterator<Item = (u16, StreamId)>,
    ) -> usize {
        let RelayedPacket { head, payload, .. } = *packet;
        let len = head.len() + payload.len();
        if len > FRAME_LEN || self.used + len > OUTBOX_LEN || self.relays.len() + mirrors.len() > OUTBOX_RELAYS_MAX {
            return 0;
        }
        let start = self.used;
        self.slab[start..start + head.len()].copy_from_slice(head);
        self.slab[start + head.len()..start + len].copy_from_slice(payload);
        self.used = (start + len).next_multiple_of(16);
        let count = mirrors.len();
        self.relays.extend(mirrors.map(|(to, mirror)| Relay {
            to,
            message: Message::Packet(RelayedPacket { mirror, head: &[], payload: &[], ..*packet }),
            start: start as u32,
            head_len: head.len() as u16,
            payload_len: payload.len() as u16,
        }));
        count
    }

    /// Takes the oldest message for another worker, and which.
    pub fn pop_relay(&mut self) -> Option<(usize, Message<'_>)> {
        let Relay { to, message, start, head_len, payload_len } = self.relays.pop_front()?;
        let message = match message {
            Message::Packet(packet) => {
                let bytes = &self.slab[start as usize..][..usize::from(head_len) + usize::from(payload_len)];
                let (head, payload) = bytes.split_at(usize::from(head_len));
                Message::Packet(RelayedPacket { head, payload, ..packet })
            }
            other => other,
        };
        Some((usize::from(to), message))
    }

    /// Leaves a tally for the link. One that finds no room is left out: the next comes in a second.
    pub(crate) fn tally(&mut self, tally: Tally) {
        if self.tallies.len() < TALLIES_MAX {
            self.tallies.push(tally);
        }
    }

    /// The tallies of this turn.
    pub fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// Packets refused since the last call because the outbox was full.
    pub(crate) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

/// Punts that one turn hands over between two flushes.
const PUNTS_PER_TURN_MAX: usize = 256;

/// Messages for other workers that one turn hands over between two flushes. A packet may go to all of them.
const OUTBOX_RELAYS_MAX: usize = 2 * WORKERS_MAX + 1024;

/// The packets of one destination, in order.
pub struct Chain<'a> {
    outbox: &'a Outbox,
    ends: &'a ChainEnds,
}

impl<'a> Chain<'a> {
    /// Where they go.
    pub fn path(&self) -> Path {
        self.ends.path
    }

    /// The packets. Neighbours of equal length may leave as a train, of which the last may be shorter.
    pub fn packets(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let outbox = self.outbox;
        let mut at = self.ends.head;
        std::iter::from_fn(move || {
            let packet = outbox.packets.get(at as usize)?;
            at = packet.next;
            Some(&outbox.slab[packet.start as usize..][..packet.len as usize])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(peer: u32, port: u16) -> Destination {
        Destination { peer, path: Path { socket: 0, remote: SocketAddr::from(([127, 0, 0, 1], port)) } }
    }

    fn put(outbox: &mut Outbox, to: Destination, bytes: &[u8]) -> bool {
        outbox.push_public(to, |frame| {
            frame[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        })
    }

    fn contents(outbox: &Outbox) -> Vec<(u16, Vec<Vec<u8>>)> {
        outbox.chains().map(|c| (c.path().remote.port(), c.packets().map(<[u8]>::to_vec).collect())).collect()
    }

    #[test]
    fn packets_are_chained_by_destination_in_order() {
        let mut outbox = Outbox::new();
        put(&mut outbox, to(1, 10), b"a");
        put(&mut outbox, to(2, 20), b"b");
        put(&mut outbox, to(1, 10), b"cc");
        put(&mut outbox, to(1, 11), b"moved");
        put(&mut outbox, to(1, 11), b"on");
        let packets = |list: &[&str]| list.iter().map(|s| s.as_bytes().to_vec()).collect::<Vec<_>>();
        assert_eq!(
            contents(&outbox),
            [(10, packets(&["a", "cc"])), (20, packets(&["b"])), (11, packets(&["moved", "on"]))]
        );
        outbox.clear();
        assert!(outbox.is_empty());
        put(&mut outbox, to(1, 10), b"next turn");
        assert_eq!(contents(&outbox), [(10, packets(&["next turn"]))]);
    }

    #[test]
    fn a_full_outbox_refuses_and_counts() {
        let mut outbox = Outbox::new();
        let mut accepted = 0;
        while put(&mut outbox, to(accepted % 7, 1), &[0; 1200]) {
            accepted += 1;
            assert!(accepted as usize <= OUTBOX_PACKETS_MAX);
        }
        assert!(outbox.is_nearly_full());
        assert_eq!(outbox.take_refused(), 1);
        assert_eq!(contents(&outbox).iter().map(|c| c.1.len()).sum::<usize>(), accepted as usize);
    }
}
