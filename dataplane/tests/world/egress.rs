//! The way out of a core in a test: all that leaves is collected.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use dataplane::Micros;
use dataplane::forward::{Counters, Flush};
use dataplane::outbox::Outbox;
use dataplane::relay::{Message, Packet};
use dataplane::store::Store;
use proto::id::{PeerId, SlotId, StreamId};
use proto::plane::*;

/// What a worker's core wrote, in the order in which it left.
#[derive(Default)]
pub struct Collector {
    pub outbox: Outbox,
    /// What left: where to, and the bytes.
    pub sent: VecDeque<(SocketAddr, Vec<u8>)>,
    pub reports: Vec<Report>,
    pub punts: Vec<(DatagramHeader, Vec<u8>)>,
    /// What it relayed to other workers: which, and what.
    pub relayed: VecDeque<(usize, Relayed)>,
    /// When packets arrived that were fanned out together, and how many copies of them were written.
    pub written: Vec<(Micros, u64)>,
    /// The newest tallies.
    pub streams: BTreeMap<StreamId, StreamTally>,
    pub slots: BTreeMap<SlotId, SlotTally>,
    pub paths: BTreeMap<PeerId, PeerTally>,
    /// How often it was flushed.
    pub flushes: usize,
    /// Nothing can leave: a device has stalled.
    pub is_stalled: bool,
}

impl Flush for Collector {
    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn flush(&mut self, _: Micros, store: &Store, _: &mut Counters) {
        self.flushes += 1;
        if self.is_stalled {
            return;
        }
        for chain in self.outbox.chains() {
            let remote = chain.path().remote;
            self.sent.extend(chain.packets().map(|p| (remote, p.to_vec())));
        }
        while let Some(report) = self.outbox.pop_report() {
            // What crosses the link is bytes.
            self.reports.push(Report::read(&report.write()).expect("a report survives the link"));
        }
        while let Some((header, payload)) = self.outbox.pop_punt() {
            self.punts.push((header, payload.to_vec()));
        }
        while let Some(relayed) = self.outbox.pop_relay(store) {
            let message = relayed.message.expect("what is relayed is in the store until the flush");
            self.relayed.push_back((relayed.to, Relayed::new(message)));
        }
        for tally in self.outbox.tallies() {
            match tally {
                Tally::Stream(tally) => drop(self.streams.insert(tally.stream, *tally)),
                Tally::Slot(tally) => drop(self.slots.insert(tally.slot, *tally)),
                Tally::Peer(tally) => drop(self.paths.insert(tally.peer, *tally)),
            }
        }
        self.outbox.clear();
    }

    fn note_latency(&mut self, at: Micros, copies: u64) {
        self.written.push((at, copies));
    }
}

/// A message between workers, with bytes of its own.
#[derive(Clone, Debug)]
pub struct Relayed {
    message: Message<'static>,
    head: Vec<u8>,
    payload: Vec<u8>,
}

impl Relayed {
    fn new(message: Message<'_>) -> Relayed {
        let (message, head, payload) = match message {
            Message::Packet(packet) => {
                let bare = Packet { head: &[], payload: &[], ..packet };
                (Message::Packet(bare), packet.head.to_vec(), packet.payload.to_vec())
            }
            Message::Clock { mirror, ssrc, ntp, rtp, at } => {
                (Message::Clock { mirror, ssrc, ntp, rtp, at }, Vec::new(), Vec::new())
            }
            Message::Sets { mirror, sets } => (Message::Sets { mirror, sets: &[] }, Vec::new(), sets.to_vec()),
            Message::KeyframeWanted { stream } => (Message::KeyframeWanted { stream }, Vec::new(), Vec::new()),
            Message::Taken { stream, mirror, is_taken, is_wanted, room } => {
                (Message::Taken { stream, mirror, is_taken, is_wanted, room }, Vec::new(), Vec::new())
            }
            Message::Encoding { mirror, is_flowing, size, bps, expected } => {
                (Message::Encoding { mirror, is_flowing, size, bps, expected }, Vec::new(), Vec::new())
            }
        };
        Relayed { message, head, payload }
    }

    /// As it was sent.
    pub fn message(&self) -> Message<'_> {
        match self.message {
            Message::Packet(bare) => Message::Packet(Packet { head: &self.head, payload: &self.payload, ..bare }),
            Message::Sets { mirror, .. } => Message::Sets { mirror, sets: &self.payload },
            other => other,
        }
    }
}
