//! What leaves in a turn: packets protected into one slab, chained by destination so that the io backend can send trains.
//!
//! A packet is written once, protected, into the slab, and the kernel may be given it where it lies. There are three doors
//! in, and none of them lets plaintext RTP out: `push_rtp` and `push_rtcp` protect what the caller wrote, and `push_public`
//! is for what is public or already protected (STUN answers, injected DTLS).

use std::collections::VecDeque;
use std::mem;

use proto::id::StreamId;
use proto::plane::{DATAGRAM_LEN_MAX, DatagramHeader, Report, Tally};

use crate::config::{
    CHUNKS_MAX, DESTINATIONS_MAX, FRAME_LEN, OUTBOX_LEN, OUTBOX_PACKETS_MAX, PACKETS_ENOUGH, PEER_SLOTS_MAX,
    PEER_STREAMS_MAX, REPORTS_MAX, SETS_LEN_MAX, STREAM_ROUTES_MAX, TALLIES_MAX, TRAIN_WORTH, WORKERS_MAX,
};
use crate::packet::Begun;
use crate::path::{Destination, FLOWS_LEN_MAX, Path};
use crate::relay::{Message, Packet as RelayedPacket};
use crate::slab::Slab;
use crate::srtp::{Crypto, RtcpSender, Sender, SentWindow};
use crate::store::{Handle, Store};

/// One packet in the slab, linked to the next for the same destination.
struct Packet {
    start: u32,
    len: u16,
    /// See [`Sender::is_video`].
    is_video: bool,
    next: u32,
}

const END: u32 = u32::MAX;
const _: () = assert!(FRAME_LEN <= u16::MAX as usize);

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
const _: () = assert!(HEADROOM + ROOM_LEN <= CHUNK_LEN && HEADROOM.is_multiple_of(16));

/// What one packet takes in the slab at most. Packets start behind as much as headers of flows take, so that what is protected
/// lies as it does without.
const ROOM_LEN: usize = FLOWS_LEN_MAX + FRAME_LEN;
const _: () = assert!(FLOWS_LEN_MAX.is_multiple_of(16));

/// Where in the slab the next packet goes.
enum Space {
    /// One behind the other, until all are cleared: nothing refers to them after a flush.
    Dense { used: usize },
    /// Each in a chunk of its own, which may stay taken for as long as the kernel refers to it.
    Chunks { free: Vec<u32> },
}

impl Space {
    /// Where the next packet would begin.
    #[inline]
    fn next(&self) -> Option<usize> {
        match self {
            Space::Dense { used } => (used + ROOM_LEN <= OUTBOX_LEN).then_some(*used),
            Space::Chunks { free } => free.last().map(|&chunk| chunk as usize * CHUNK_LEN + HEADROOM),
        }
    }

    /// Takes the space that `next` gave, for a packet of `len` bytes.
    #[inline]
    fn take(&mut self, len: usize) {
        match self {
            // Packets start on a multiple of 16 bytes: AES works on aligned blocks of the payload's start.
            Space::Dense { used } => *used = (*used + len).next_multiple_of(16),
            Space::Chunks { free } => drop(free.pop()),
        }
    }

    /// Whether there is room for so many packets.
    #[inline]
    fn has_room(&self, count: usize) -> bool {
        match self {
            Space::Dense { used } => used + count * ROOM_LEN <= OUTBOX_LEN,
            Space::Chunks { free } => free.len() >= count,
        }
    }
}

/// What became of a packet that was to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pushed {
    /// It leaves with the next flush.
    Written,
    /// There was nothing to write, or it may not leave under its index.
    Nothing,
    /// The outbox has no room for it. It was counted.
    Full,
}

/// The packets, reports, punts and tallies of one turn.
pub struct Outbox {
    slab: Slab,
    space: Space,
    packets: Vec<Packet>,
    chains: Vec<ChainEnds>,
    /// By index of the peer, or of whom datagrams are passed on to: the chain that this turn began for it, valid if the stamp is this turn's.
    chain_of: Box<[(u32, u32)]>,
    stamp: u32,
    reports: VecDeque<Report>,
    reports_lost: u64,
    punts: VecDeque<(DatagramHeader, u32)>,
    /// Payloads of the punts since the last clearing, and how many.
    punted: Box<[u8]>,
    punts_used: usize,
    relays: VecDeque<Relay>,
    /// The parameter sets among them, and how many bytes.
    sets: Box<[u8]>,
    sets_used: usize,
    tallies: Vec<Tally>,
    refused: u64,
}

/// A message for another worker, and where its bytes are.
struct Relay {
    to: u16,
    message: Message<'static>,
    bytes: RelayBytes,
}

enum RelayBytes {
    None,
    /// Head and payload of a packet.
    Stored(Handle),
    /// Parameter sets, in the outbox.
    Sets {
        start: u32,
        len: u16,
    },
}

/// A message for another worker.
pub struct Relayed<'a> {
    /// Which.
    pub to: usize,
    /// `None`: the packet is not in the store any more.
    pub message: Option<Message<'a>>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty outbox; all of its memory is taken here.
    pub fn new() -> Self {
        Outbox::over(Slab::new(OUTBOX_LEN).expect("the kernel has memory for a start"), Space::Dense { used: 0 })
    }

    /// An outbox whose packets a kernel may go on reading where they lie.
    pub(crate) fn in_chunks(slab: Slab) -> Self {
        let count = (slab.len() / CHUNK_LEN).min(CHUNKS_MAX) as u32;
        let chunks = Space::Chunks { free: (0..count).rev().collect() };
        Outbox::over(slab, chunks)
    }

    fn over(slab: Slab, space: Space) -> Self {
        Outbox {
            slab,
            space,
            packets: Vec::with_capacity(OUTBOX_PACKETS_MAX),
            chains: Vec::with_capacity(OUTBOX_PACKETS_MAX),
            chain_of: vec![(0, 0); DESTINATIONS_MAX].into_boxed_slice(),
            stamp: 1,
            reports: VecDeque::with_capacity(REPORTS_MAX),
            reports_lost: 0,
            punts: VecDeque::with_capacity(PUNTS_PER_TURN_MAX),
            punted: vec![0; PUNTS_PER_TURN_MAX * DATAGRAM_LEN_MAX].into_boxed_slice(),
            punts_used: 0,
            relays: VecDeque::with_capacity(OUTBOX_RELAYS_MAX),
            sets: vec![0; OUTBOX_SETS_LEN].into_boxed_slice(),
            sets_used: 0,
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
        self.space.has_room(count) && self.packets.len() + count <= OUTBOX_PACKETS_MAX
    }

    /// Packets that wait to be sent.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Length of the packet that was written last, bytes.
    #[inline]
    pub(crate) fn last_len(&self) -> usize {
        self.packets.last().map_or(0, |packet| packet.len as usize)
    }

    /// Whether it is to be flushed: nothing is gained by waiting for more packets, or there may be no room for the widest
    /// fan-out of one packet, for what one datagram has others do, or for the tallies of one peer.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.packets.len() >= PACKETS_ENOUGH
            || !self.space.has_room(STREAM_ROUTES_MAX)
            || self.punts_used == PUNTS_PER_TURN_MAX
            || self.relays.len() + WORKERS_MAX > OUTBOX_RELAYS_MAX
            || self.tallies.len() + PEER_STREAMS_MAX + PEER_SLOTS_MAX > TALLIES_MAX
    }

    /// Forgets the packets, punts and tallies, which were handed over; reports stay until popped.
    pub fn clear(&mut self) {
        match &mut self.space {
            Space::Dense { used } => *used = 0,
            Space::Chunks { free } => {
                let left = self.packets.iter().filter(|packet| packet.start != TAKEN);
                free.extend(left.map(|packet| packet.start / CHUNK_LEN as u32));
            }
        }
        self.packets.clear();
        self.chains.clear();
        self.punts.clear();
        self.punts_used = 0;
        self.relays.clear();
        self.sets_used = 0;
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
        assert!(matches!(self.space, Space::Chunks { .. }), "dense packets have no room before them");
        let ends = &mut self.chains[chain];
        let mut at = mem::replace(&mut ends.head, END);
        let count = mem::take(&mut ends.count);
        while let Some(packet) = self.packets.get_mut(at as usize) {
            let start = mem::replace(&mut packet.start, TAKEN) as usize;
            let (before, rest) = self.slab.split_at_mut(start);
            each(&mut before[start - HEADROOM..], &rest[..usize::from(packet.len)], start);
            at = packet.next;
        }
        count.into()
    }

    /// Takes back a chunk that the kernel is done with, by any address in it.
    pub(crate) fn give_back(&mut self, address: usize) {
        if let Space::Chunks { free } = &mut self.space {
            debug_assert!(free.len() < CHUNKS_MAX, "a chunk is given back once");
            free.push((address / CHUNK_LEN) as u32);
        }
    }

    /// Writes an RTP packet and protects it under an index of its sender. `write` puts what it begins with into the frame, and
    /// says where the header ends and what comes behind.
    #[inline]
    pub(crate) fn push_rtp<'a, W: SentWindow>(
        &mut self,
        to: Destination,
        crypto: &Crypto,
        sender: &mut Sender<W>,
        index: u64,
        write: impl FnOnce(&mut [u8]) -> Begun<'a>,
    ) -> Pushed {
        self.push(to, sender.is_video(), |frame| {
            let Begun { header_len, len, rest } = write(&mut frame[..FRAME_LEN - Crypto::OVERHEAD_MAX]);
            // No length: the index may not be used, and nothing leaves.
            sender.protect(crypto, index, header_len, frame, len, rest).unwrap_or(0)
        })
    }

    /// Writes an RTP packet that has left under this index, as it was written then, to leave again. Nothing leaves if it is not the
    /// same bytes.
    pub(crate) fn push_rtp_again<'a>(
        &mut self,
        to: Destination,
        crypto: &Crypto,
        sender: &mut Sender,
        index: u64,
        write: impl FnOnce(&mut [u8]) -> Begun<'a>,
    ) -> Pushed {
        self.push(to, sender.is_video(), |frame| {
            let Begun { header_len, len, rest } = write(&mut frame[..FRAME_LEN - Crypto::OVERHEAD_MAX]);
            sender.protect_again(crypto, index, header_len, frame, len, rest).unwrap_or(0)
        })
    }

    /// Writes an RTCP compound packet and protects it. `write` returns its length; 0 sends nothing.
    pub(crate) fn push_rtcp(
        &mut self,
        to: Destination,
        crypto: &Crypto,
        sender: &mut RtcpSender,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        self.push(to, false, |frame| match write(&mut frame[..FRAME_LEN - Crypto::OVERHEAD_MAX]) {
            0 => 0,
            len => sender.protect(crypto, frame, len).unwrap_or(0),
        }) != Pushed::Full
    }

    /// Sends bytes that need no protection of ours. `write` returns their length; 0 sends nothing.
    pub(crate) fn push_public(&mut self, to: Destination, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        self.push(to, false, write) != Pushed::Full
    }

    #[inline]
    fn push(&mut self, to: Destination, is_video: bool, write: impl FnOnce(&mut [u8]) -> usize) -> Pushed {
        let Some(start) = self.space.next().filter(|_| self.packets.len() < OUTBOX_PACKETS_MAX) else {
            self.refused += 1;
            return Pushed::Full;
        };
        if to.flows_len() > 0 {
            return self.push_in_flows(to, is_video, start, write);
        }
        let len = write(&mut self.slab[start..start + FRAME_LEN]);
        if len == 0 {
            return Pushed::Nothing;
        }
        self.space.take(len);
        self.link(to, Packet { start: start as u32, len: len as u16, is_video, next: END });
        Pushed::Written
    }

    /// The same with headers of flows before it.
    fn push_in_flows(
        &mut self,
        to: Destination,
        is_video: bool,
        start: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Pushed {
        let (flows, frame) = self.slab[start..start + ROOM_LEN].split_at_mut(FLOWS_LEN_MAX);
        let len = write(&mut frame[..FRAME_LEN]);
        if len == 0 {
            return Pushed::Nothing;
        }
        let before = FLOWS_LEN_MAX - to.flows_len();
        to.write_flows(&mut flows[before..]);
        self.space.take(FLOWS_LEN_MAX + len);
        let (start, len) = ((start + before) as u32, (to.flows_len() + len) as u16);
        self.link(to, Packet { start, len, is_video, next: END });
        Pushed::Written
    }

    /// Has the packet that was pushed last, to `from`, leave to another place of the same peer as well: the same bytes, in that place's
    /// flows. False if there is no room for it.
    #[cold]
    pub(crate) fn push_last_again(&mut self, from: Destination, to: Destination) -> bool {
        let Some(&Packet { start, len, is_video, .. }) = self.packets.last() else { return false };
        let Some(room) = self.space.next().filter(|_| self.packets.len() < OUTBOX_PACKETS_MAX) else {
            self.refused += 1;
            return false;
        };
        let (first, end) = (start as usize + from.flows_len(), start as usize + usize::from(len));
        let behind = room + FLOWS_LEN_MAX;
        self.slab.copy_within(first..end, behind);
        let begin = behind - to.flows_len();
        to.write_flows(&mut self.slab[begin..behind]);
        let (len, packet_len) = (end - first, behind + (end - first) - begin);
        self.space.take(FLOWS_LEN_MAX + len);
        self.link(to, Packet { start: begin as u32, len: packet_len as u16, is_video, next: END });
        true
    }

    /// Appends a packet to its destination's chain, or begins one.
    #[inline]
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
                ends.len_max = ends.len_max.max(len.into());
                return;
            }
        }
        *mark = (self.stamp, self.chains.len() as u32);
        self.chains.push(ChainEnds { to, head: at, tail: at, count: 1, len_max: len.into(), coupled: 0 });
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
    pub(crate) fn relay(&mut self, to: u16, message: Message<'static>) -> bool {
        self.push_relay(Relay { to, message, bytes: RelayBytes::None })
    }

    /// Queues the parameter sets of a stream for the mirror of it on another worker; none of them are no message. False as in
    /// [`relay`](Self::relay).
    pub(crate) fn relay_sets(&mut self, to: u16, mirror: StreamId, sets: &[u8]) -> bool {
        let (start, len) = (self.sets_used, sets.len());
        if len == 0 {
            return true;
        }
        if start + len > self.sets.len() {
            return false;
        }
        let bytes = RelayBytes::Sets { start: start as u32, len: len as u16 };
        if !self.push_relay(Relay { to, message: Message::Sets { mirror, sets: &[] }, bytes }) {
            return false;
        }
        self.sets[start..start + len].copy_from_slice(sets);
        self.sets_used += len;
        true
    }

    /// Queues a packet that is in the store for each of these so many workers and their mirrors; how many of them get it.
    pub(crate) fn relay_packet(
        &mut self,
        packet: RelayedPacket<'static>,
        handle: Handle,
        count: usize,
        mirrors: impl Iterator<Item = (u16, StreamId)>,
    ) -> usize {
        if self.relays.len() + count > OUTBOX_RELAYS_MAX {
            return 0;
        }
        for (to, mirror) in mirrors {
            let message = Message::Packet(RelayedPacket { mirror, ..packet });
            self.relays.push_back(Relay { to, message, bytes: RelayBytes::Stored(handle) });
        }
        count
    }

    fn push_relay(&mut self, relay: Relay) -> bool {
        let has_room = self.relays.len() < OUTBOX_RELAYS_MAX;
        if has_room {
            self.relays.push_back(relay);
        }
        has_room
    }

    /// Takes the oldest message for another worker.
    #[expect(clippy::manual_map, reason = "rustc 1.95 fails on a closure that builds a packet from another one")]
    pub fn pop_relay<'a>(&'a mut self, store: &'a Store) -> Option<Relayed<'a>> {
        let Relay { to, message, bytes } = self.relays.pop_front()?;
        let message = match (message, bytes) {
            (Message::Packet(packet), RelayBytes::Stored(handle)) => match store.packet(handle) {
                Some([head, payload]) => Some(Message::Packet(RelayedPacket { head, payload, ..packet })),
                None => None,
            },
            (Message::Sets { mirror, .. }, RelayBytes::Sets { start, len }) => {
                Some(Message::Sets { mirror, sets: &self.sets[start as usize..][..usize::from(len)] })
            }
            (other, _) => Some(other),
        };
        Some(Relayed { to: to.into(), message })
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

/// Bytes of parameter sets for other workers that one turn hands over between two flushes. What finds no room is made up for
/// when a keyframe is requested.
const OUTBOX_SETS_LEN: usize = 64 * SETS_LEN_MAX;

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
        self.packets_by_kind().map(|(packet, _)| packet)
    }

    /// The packets, and whether each is the first to be dropped: a packet of video.
    pub(crate) fn packets_by_kind(&self) -> impl Iterator<Item = (&'a [u8], bool)> + use<'a> {
        let outbox = self.outbox;
        let mut at = self.ends.head;
        std::iter::from_fn(move || {
            let packet = outbox.packets.get(at as usize)?;
            at = packet.next;
            Some((&outbox.slab[packet.start as usize..][..usize::from(packet.len)], packet.is_video))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn to(peer: u32, port: u16) -> Destination {
        Destination::new(peer, Path::new(0, SocketAddr::from(([127, 0, 0, 1], port))))
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
    fn headers_of_flows_lie_before_the_packet() {
        let mut outbox = Outbox::new();
        let relayed = to(1, 10).path.through(0x0a);
        for (peer, path, flow) in
            [(1, to(1, 10).path, 0), (2, to(1, 10).path, 0x0b), (3, relayed, 0), (4, relayed, 0x0b)]
        {
            let to = Destination { peer, path, flow };
            put(&mut outbox, to, b"one");
            put(&mut outbox, to, b"two");
        }
        let [relay, transport] = [0x0a, 0x0b].map(|flow| [&[8, 0, 0, 0, 0, 0, 0][..], &[flow]].concat());
        let with = |headers: &[u8]| (10, [b"one", b"two"].map(|rest| [headers, rest].concat()).to_vec());
        let both = [&relay[..], &transport].concat();
        assert_eq!(contents(&outbox), [with(b""), with(&transport), with(&relay), with(&both)]);
    }

    #[test]
    fn a_full_outbox_refuses_and_counts() {
        let mut outbox = Outbox::new();
        let mut accepted = 0;
        while put(&mut outbox, to(accepted % 7, 1), &[0; 1200]) {
            accepted += 1;
            assert!(accepted as usize <= OUTBOX_PACKETS_MAX);
        }
        assert!(outbox.is_full());
        assert_eq!(outbox.take_refused(), 1);
        assert_eq!(contents(&outbox).iter().map(|c| c.1.len()).sum::<usize>(), accepted as usize);
    }
}
