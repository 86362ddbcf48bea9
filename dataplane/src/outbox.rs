//! What leaves in a turn: packets sealed in one slab, chained by destination so that the io backend can send trains.
//!
//! A packet is written once, protected, into the slab, and the kernel may be given it where it lies. There are three doors
//! in, and none of them lets plaintext RTP out: `push_rtp` and `push_rtcp` protect what the caller wrote, and `push_public`
//! is for what is public or already sealed (STUN answers, injected DTLS).

use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;

use proto::id::StreamId;
use proto::plane::{DATAGRAM_LEN_MAX, DatagramHeader, Report, Tally};

use crate::config::{
    CHUNKS_MAX, FRAME_LEN, OUTBOX_LEN, OUTBOX_PACKETS_MAX, PACKETS_ENOUGH, PEER_SLOTS_MAX, PEER_STREAMS_MAX, PEERS_MAX,
    REPORTS_MAX, STREAM_ROUTES_MAX, TALLIES_MAX, TRAIN_WORTH, WORKERS_MAX,
};
use crate::io::Slab;
use crate::packet::Begun;
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

/// The start of a packet that was taken out.
const TAKEN: u32 = u32::MAX;

struct ChainEnds {
    to: Destination,
    head: u32,
    tail: u32,
    count: u32,
    len_max: u32,
    /// Packets as long as the one before: those that a train is made of.
    coupled: u32,
}

/// Bytes of the slab that one packet has to itself where it leaves from there: a size that AF_XDP takes.
pub(crate) const CHUNK_LEN: usize = 2048;
/// Of them, what lies before the packet: room for the headers of its frame.
pub(crate) const HEADROOM: usize = 96;
const _: () = assert!(HEADROOM + FRAME_LEN <= CHUNK_LEN && HEADROOM.is_multiple_of(16));

/// Where in the slab the next packet goes.
enum Places {
    /// One behind the other, until all are cleared: nothing refers to them after a flush.
    Dense { used: usize },
    /// Each in a chunk of its own, which may stay taken for as long as the kernel refers to it.
    Chunks { free: Vec<u32> },
}

impl Places {
    /// Where the next packet would begin.
    fn next(&self) -> Option<usize> {
        match self {
            Places::Dense { used } => (used + FRAME_LEN <= OUTBOX_LEN).then_some(*used),
            Places::Chunks { free } => free.last().map(|&chunk| chunk as usize * CHUNK_LEN + HEADROOM),
        }
    }

    /// Takes the place that `next` gave, for a packet of `len` bytes.
    fn take(&mut self, len: usize) {
        match self {
            // Packets start on a multiple of 16 bytes: AES works on aligned blocks of the payload's start.
            Places::Dense { used } => *used = (*used + len).next_multiple_of(16),
            Places::Chunks { free } => drop(free.pop()),
        }
    }

    /// Whether a widest fan-out might not find room.
    fn is_nearly_full(&self) -> bool {
        match self {
            Places::Dense { used } => used + STREAM_ROUTES_MAX * FRAME_LEN > OUTBOX_LEN,
            Places::Chunks { free } => free.len() < STREAM_ROUTES_MAX,
        }
    }
}

/// The packets, reports, punts and tallies of one turn.
pub struct Outbox {
    slab: Slab,
    places: Places,
    packets: Vec<Packet>,
    chains: Vec<ChainEnds>,
    /// By peer index: the chain that this turn began for it, valid if the stamp is this turn's.
    chain_of: Box<[(u32, u32)]>,
    stamp: u32,
    reports: VecDeque<Report>,
    reports_lost: u64,
    punts: VecDeque<(DatagramHeader, u32)>,
    /// Payloads of the punts since the last clearing, and how many.
    punted: Box<[u8]>,
    punts_used: usize,
    relays: VecDeque<Relay>,
    /// Heads and payloads of the packets among them, and how many bytes.
    relayed: Box<[u8]>,
    relayed_used: usize,
    tallies: Vec<Tally>,
    refused: u64,
}

/// A message for another worker. The bytes of a packet, head and payload, lie there once for all workers.
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
        Outbox::over(Slab::new(OUTBOX_LEN).expect("the kernel has memory for a start"), Places::Dense { used: 0 })
    }

    /// An outbox whose packets a kernel may go on reading where they lie.
    pub(crate) fn in_chunks(slab: Slab) -> Self {
        let count = (slab.len() / CHUNK_LEN).min(CHUNKS_MAX) as u32;
        let chunks = Places::Chunks { free: (0..count).rev().collect() };
        Outbox::over(slab, chunks)
    }

    fn over(slab: Slab, places: Places) -> Self {
        Outbox {
            slab,
            places,
            packets: Vec::with_capacity(OUTBOX_PACKETS_MAX),
            chains: Vec::with_capacity(OUTBOX_PACKETS_MAX),
            chain_of: vec![(0, 0); PEERS_MAX].into_boxed_slice(),
            stamp: 1,
            reports: VecDeque::with_capacity(REPORTS_MAX),
            reports_lost: 0,
            punts: VecDeque::with_capacity(PUNTS_PER_TURN_MAX),
            punted: vec![0; PUNTS_PER_TURN_MAX * DATAGRAM_LEN_MAX].into_boxed_slice(),
            punts_used: 0,
            relays: VecDeque::with_capacity(OUTBOX_RELAYS_MAX),
            relayed: vec![0; RELAYED_LEN].into_boxed_slice(),
            relayed_used: 0,
            tallies: Vec::with_capacity(TALLIES_MAX),
            refused: 0,
        }
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Whether there is room for so many packets more.
    pub(crate) fn has_room(&self, count: usize) -> bool {
        let has_places = match &self.places {
            Places::Dense { used } => used + count * FRAME_LEN <= OUTBOX_LEN,
            Places::Chunks { free } => free.len() >= count,
        };
        has_places && self.packets.len() + count <= OUTBOX_PACKETS_MAX
    }

    /// Packets that wait to be sent.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether nothing is gained by waiting for more packets, or there may not be room for them.
    #[inline]
    pub fn has_enough(&self) -> bool {
        self.packets.len() >= PACKETS_ENOUGH || self.places.is_nearly_full()
    }

    /// Whether to flush first: there are packets enough, or the next datagram's widest fan-out, or the next peer's tallies,
    /// might not fit.
    pub fn is_nearly_full(&self) -> bool {
        self.has_enough()
            || self.punts_used == PUNTS_PER_TURN_MAX
            || self.relays.len() + WORKERS_MAX > OUTBOX_RELAYS_MAX
            || self.relayed_used + FRAME_LEN > RELAYED_LEN
            || self.tallies.len() + PEER_STREAMS_MAX + PEER_SLOTS_MAX > TALLIES_MAX
    }

    /// Forgets the packets, punts and tallies, which were handed over; reports stay until popped.
    pub fn clear(&mut self) {
        match &mut self.places {
            Places::Dense { used } => *used = 0,
            Places::Chunks { free } => {
                let left = self.packets.iter().filter(|packet| packet.start != TAKEN);
                free.extend(left.map(|packet| packet.start / CHUNK_LEN as u32));
            }
        }
        self.packets.clear();
        self.chains.clear();
        self.punts.clear();
        self.punts_used = 0;
        self.relays.clear();
        self.relayed_used = 0;
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

    /// How many chains there are.
    pub(crate) fn chain_count(&self) -> usize {
        self.chains.len()
    }

    /// Where a chain goes, and how long its longest packet is.
    pub(crate) fn chain_to(&self, chain: usize) -> (Destination, usize) {
        let ends = &self.chains[chain];
        (ends.to, ends.len_max as usize)
    }

    /// Whether a chain is one long train, or nearly: a single walk through the kernel for many packets.
    pub(crate) fn is_train(&self, chain: usize) -> bool {
        let ends = &self.chains[chain];
        ends.coupled >= TRAIN_WORTH && ends.coupled + 2 >= ends.count
    }

    /// Packets of a chain.
    pub(crate) fn chain_len(&self, chain: usize) -> u64 {
        self.chains[chain].count.into()
    }

    /// Takes the packets of a chain out: each with the [`HEADROOM`] before it and where in the slab it begins. Their
    /// chunks stay taken until they are given back. How many there were.
    ///
    /// # Panics
    /// If the outbox was not made with chunks.
    pub(crate) fn take_chain(&mut self, chain: usize, mut each: impl FnMut(&mut [u8], &[u8], usize)) -> u64 {
        assert!(matches!(self.places, Places::Chunks { .. }), "packets that lie close have no room before them");
        let ends = &mut self.chains[chain];
        let mut at = mem::replace(&mut ends.head, END);
        let count = mem::take(&mut ends.count);
        while let Some(packet) = self.packets.get_mut(at as usize) {
            let start = mem::replace(&mut packet.start, TAKEN) as usize;
            let (before, rest) = self.slab.split_at_mut(start);
            each(&mut before[start - HEADROOM..], &rest[..packet.len as usize], start);
            at = packet.next;
        }
        count.into()
    }

    /// Takes back a chunk that the kernel is done with, by any address in it.
    pub(crate) fn give_back(&mut self, address: usize) {
        if let Places::Chunks { free } = &mut self.places {
            debug_assert!(free.len() < CHUNKS_MAX, "a chunk is given back once");
            free.push((address / CHUNK_LEN) as u32);
        }
    }

    /// Writes an RTP packet and protects it. `write` puts what it begins with into the frame, and says where the header
    /// ends and what comes behind. False if the outbox is full.
    pub(crate) fn push_rtp<'a>(
        &mut self,
        to: Destination,
        crypto: &Crypto,
        ssrc: u32,
        index: u64,
        write: impl FnOnce(&mut [u8]) -> Begun<'a>,
    ) -> bool {
        self.push(to, |frame| {
            let Begun { header_len, len, rest } = write(&mut frame[..FRAME_LEN - Crypto::OVERHEAD_MAX]);
            // No length: the key is used up (2^48 packets), and nothing leaves.
            crypto.protect_rtp(ssrc, index, header_len, frame, len, rest).unwrap_or(0)
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
        let Some(start) = self.places.next().filter(|_| self.packets.len() < OUTBOX_PACKETS_MAX) else {
            self.refused += 1;
            return false;
        };
        let len = write(&mut self.slab[start..start + FRAME_LEN]);
        if len == 0 {
            return true;
        }
        self.places.take(len);
        self.link(to, Packet { start: start as u32, len: len as u32, next: END });
        true
    }

    /// Appends a packet to its destination's chain, or begins one.
    fn link(&mut self, to: Destination, packet: Packet) {
        let (at, len) = (self.packets.len() as u32, packet.len);
        self.packets.push(packet);
        let mark = &mut self.chain_of[to.peer as usize];
        if mark.0 == self.stamp {
            let ends = &mut self.chains[mark.1 as usize];
            if ends.to.path == to.path {
                let last = &mut self.packets[ends.tail as usize];
                last.next = at;
                ends.coupled += u32::from(last.len == len);
                ends.tail = at;
                ends.count += 1;
                ends.len_max = ends.len_max.max(len);
                return;
            }
        }
        *mark = (self.stamp, self.chains.len() as u32);
        self.chains.push(ChainEnds { to, head: at, tail: at, count: 1, len_max: len, coupled: 0 });
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
        mem::take(&mut self.reports_lost)
    }

    /// Queues a datagram for the controlplane. False if there is no room for it in this turn.
    pub(crate) fn punt(&mut self, header: DatagramHeader, payload: &[u8]) -> bool {
        if self.punts_used == PUNTS_PER_TURN_MAX || payload.len() > DATAGRAM_LEN_MAX {
            return false;
        }
        let start = self.punts_used * DATAGRAM_LEN_MAX;
        self.punted[start..start + payload.len()].copy_from_slice(payload);
        self.punts_used += 1;
        self.punts.push_back((header, start as u32));
        true
    }

    /// Takes the oldest punted datagram.
    pub fn pop_punt(&mut self) -> Option<(DatagramHeader, &[u8])> {
        let (header, start) = self.punts.pop_front()?;
        Some((header, &self.punted[start as usize..][..usize::from(header.len)]))
    }

    /// Queues a message without bytes for another worker. False if there is no room for it in this turn.
    pub(crate) fn tell(&mut self, to: u16, message: Message<'static>) -> bool {
        if self.relays.len() == OUTBOX_RELAYS_MAX {
            return false;
        }
        self.relays.push_back(Relay { to, message, start: 0, head_len: 0, payload_len: 0 });
        true
    }

    /// Queues the parameter sets of a stream for the mirror of it on another worker; none of them are no message. False as in
    /// [`tell`](Self::tell).
    pub(crate) fn tell_sets(&mut self, to: u16, mirror: StreamId, sets: &[u8]) -> bool {
        if self.relayed_used + sets.len() > RELAYED_LEN || self.relays.len() == OUTBOX_RELAYS_MAX {
            return false;
        }
        if !sets.is_empty() {
            let start = self.relayed_used;
            self.relayed[start..start + sets.len()].copy_from_slice(sets);
            self.relayed_used += sets.len();
            let message = Message::Sets { mirror, sets: &[] };
            self.relays.push_back(Relay {
                to,
                message,
                start: start as u32,
                head_len: 0,
                payload_len: sets.len() as u16,
            });
        }
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
        if self.relayed_used + len > RELAYED_LEN || self.relays.len() + mirrors.len() > OUTBOX_RELAYS_MAX {
            return 0;
        }
        let start = self.relayed_used;
        let (of_head, of_payload) = self.relayed[start..start + len].split_at_mut(head.len());
        of_head.copy_from_slice(head);
        of_payload.copy_from_slice(payload);
        self.relayed_used += len;
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
                let bytes = &self.relayed[start as usize..][..usize::from(head_len) + usize::from(payload_len)];
                let (head, payload) = bytes.split_at(usize::from(head_len));
                Message::Packet(RelayedPacket { head, payload, ..packet })
            }
            Message::Sets { mirror, .. } => {
                Message::Sets { mirror, sets: &self.relayed[start as usize..][..usize::from(payload_len)] }
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
        mem::take(&mut self.refused)
    }
}

/// Punts that one turn hands over between two flushes.
const PUNTS_PER_TURN_MAX: usize = 256;

/// Messages for other workers that one turn hands over between two flushes. A packet may go to all of them.
const OUTBOX_RELAYS_MAX: usize = 2 * WORKERS_MAX + 1024;

/// Bytes of packets for other workers: those of a whole batch of single packets.
const RELAYED_LEN: usize = 64 * FRAME_LEN;

/// The packets of one destination, in order.
pub struct Chain<'a> {
    outbox: &'a Outbox,
    ends: &'a ChainEnds,
}

impl<'a> Chain<'a> {
    /// Where they go.
    pub fn path(&self) -> Path {
        self.ends.to.path
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
