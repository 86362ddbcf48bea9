//! The core of a worker: bytes, commands and the time go in; packets, reports and a deadline come out. It knows no
//! socket, no clock and no runtime, so a simulator can drive it as well as a kernel can.
//!
//! Every datagram has one fate, and each fate is a counter: [`Counter::Forwarded`], [`Counter::Consumed`],
//! [`Counter::Punted`], or a named drop. Their sum is [`Counter::Received`], always; packets that another worker received
//! and handed on have a fate here, too, and are counted in by [`Counter::RelayReceived`].

mod candidate;
mod consent;
mod describe;
mod edit;
mod enter;
mod fanout;
mod flow;
mod flush;
mod hold;
mod keyframe;
mod layered;
mod link;
mod pace;
mod rates;
mod receive;
mod redundancy;
mod remb;
mod reports;
mod rtcp;
mod ssrc;
mod switch;
mod tally;
mod voice;

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::id::{PeerId, StreamId};
use proto::plane::{Command, Counter, Event, ExtensionIds, TapOpen};

use self::describe::Describing;
use self::fanout::{Pending, Waiting};
use self::flow::Relay;
pub use self::flush::{Counters, Flush};
use crate::bucket::Bucket;
use crate::config::{
    DATA_PUNT_BURST, DATA_PUNT_RATE, MILLISECOND, Micros, PEERS_MAX, PUNT_BURST, PUNT_RATE, RELAYS_MAX,
    REPORT_INTERVAL, ROUTES_MAX, SLOTS_MAX, STAGED_MAX, STREAMS_MAX, TAPS_MAX, TIMERS_PER_TURN_MAX, WAITING_MAX,
};
use crate::demux::Demux;
use crate::earlier::Earlier;
use crate::outbox::Outbox;
use crate::pacer::Queues;
use crate::repair::MissingPackets;
use crate::slot::{Route, Slot};
use crate::sockets::Sockets;
use crate::store::Store;
use crate::stream::Stream;
use crate::table::Table;
use crate::timer::{BUCKET, Timer, Timers};
use crate::transaction::TransactionIds;
use crate::transport::Transport;

/// How much a worker remembers. Strangers must not be able to make any of it grow without bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    /// Peers, streams, slots and routes that are open.
    pub objects: [usize; 4],
    /// Addresses from which a peer's packets are taken.
    pub paths: usize,
    /// Username fragments that are answered.
    pub ufrags: usize,
    /// SSRCs of peers' streams that are bound or remembered.
    pub ssrcs: usize,
    /// Missing packets of streams that are tracked.
    pub missing: usize,
    /// Timers that are pending.
    pub timers: usize,
    /// Commands that wait for their commit.
    pub staged: usize,
}

/// One worker's state and all it does with a packet.
pub struct Forwarder {
    peers: Table<Transport>,
    streams: Table<Stream>,
    slots: Table<Slot>,
    routes: Table<Route>,
    taps: Table<TapOpen>,
    relays: Table<Relay>,
    /// Mirrors of video that are open, by the other worker's publisher.
    mirrored: BTreeMap<(u16, PeerId), usize>,
    /// Which worker of its dataplane this is, and of how many.
    worker: (usize, usize),
    demux: Demux,
    /// By which of its sockets it reaches an address.
    sockets: Sockets,
    /// What is to be fanned out.
    pending: Pending,
    /// All packets in the clear.
    store: Store,
    /// Where a packet of RED is made.
    red: Box<Earlier>,
    /// Packets of video that wait until a receiver's path is ready for them.
    queues: Queues<Waiting>,
    timers: Timers,
    staged: Vec<Command>,
    /// Slots whose routes this commit has changed.
    touched: Vec<u32>,
    /// Peers whose candidates it has changed.
    touched_links: Vec<u32>,
    /// Number of commits so far, for refusals that come before one.
    batch: u64,
    /// How far an answer to `Describe` is.
    describing: Option<Describing>,
    counters: Box<Counters>,
    punts: Bucket,
    /// The same for application data.
    data_punts: Bucket,
    transaction_ids: TransactionIds,
    /// Of our checks (RFC 8445 §7.1.3).
    tie_breaker: u64,
    /// See [`assume_consent`](Self::assume_consent).
    assumes_consent: bool,
}

impl Forwarder {
    /// A worker without peers. `seed` is a secret: it keys the hash tables that strangers' bytes index, and the transaction ids
    /// of our checks follow from it.
    pub fn new(seed: [u8; 16], now: Micros) -> Self {
        let mut transaction_ids = TransactionIds::new(seed);
        let tie_breaker = transaction_ids.number();
        Forwarder {
            peers: Table::new(PEERS_MAX),
            streams: Table::new(STREAMS_MAX),
            slots: Table::new(SLOTS_MAX),
            routes: Table::new(ROUTES_MAX),
            taps: Table::new(TAPS_MAX),
            relays: Table::new(RELAYS_MAX),
            mirrored: BTreeMap::new(),
            worker: (0, 1),
            demux: Demux::new(seed),
            sockets: Sockets::default(),
            pending: Pending::new(),
            store: Store::new(),
            red: Box::default(),
            queues: Queues::new(WAITING_MAX),
            timers: Timers::new(now),
            staged: Vec::with_capacity(STAGED_MAX),
            touched: Vec::new(),
            touched_links: Vec::new(),
            batch: 0,
            describing: None,
            counters: Box::new([0; Counter::COUNT]),
            punts: Bucket::new(PUNT_BURST, PUNT_RATE, now),
            data_punts: Bucket::new(DATA_PUNT_BURST, DATA_PUNT_RATE, now),
            transaction_ids,
            tie_breaker,
            assumes_consent: false,
        }
    }

    /// The same as worker `index` of so many, to which it may relay streams.
    pub fn among(self, index: usize, workers: usize) -> Self {
        Forwarder { worker: (index, workers), ..self }
    }

    /// The same with sockets of these addresses, in their order.
    pub fn with_sockets(self, ips: &[IpAddr]) -> Self {
        Forwarder { sockets: Sockets::new(ips), ..self }
    }

    /// From now on an address counts as having answered when a check comes from it. For benchmarks in which nobody is at the
    /// other end; nothing that ships may call it (`proto/tests/tidy.rs`).
    #[doc(hidden)]
    pub fn assume_consent(&mut self) {
        self.assumes_consent = true;
    }

    /// The worker's counters; the io backend adds its own.
    pub fn counters(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// How much is remembered now. Walks all tables: for tests and diagnosis, not for the turn.
    pub fn sizes(&self) -> Sizes {
        let (paths, ufrags) = self.demux.sizes();
        Sizes {
            objects: [self.peers.occupied(), self.streams.occupied(), self.slots.occupied(), self.routes.occupied()],
            paths,
            ufrags,
            ssrcs: (0..self.peers.len() as u32).filter_map(|i| self.peers.at(i)).map(Transport::ssrc_count).sum(),
            missing: (0..self.streams.len() as u32)
                .filter_map(|i| self.streams.at(i)?.missing.as_ref())
                .map(MissingPackets::len)
                .sum(),
            timers: self.timers.len(),
            staged: self.staged.len(),
        }
    }

    #[inline]
    fn count(&mut self, counter: Counter, n: u64) {
        self.counters[counter as usize] += n;
    }

    /// When [`tick`](Self::tick) is due, if ever.
    pub fn deadline(&self) -> Option<Micros> {
        self.timers.deadline()
    }

    /// Runs what is due at `now`, as much as a turn may: reports of many peers at once would hold up their media.
    pub fn tick(&mut self, now: Micros, egress: &mut impl Flush) {
        self.run_timers(now, egress.outbox());
        self.flush_if_full(now, egress);
    }

    /// Hands over all that was written. Packets that are pending stay so.
    pub fn flush(&mut self, now: Micros, egress: &mut impl Flush) {
        self.counters[Counter::SendFailed as usize] += egress.outbox().take_refused();
        egress.flush(now, &self.store, &mut self.counters);
        if self.pending.is_empty() {
            self.store.end_turn();
        }
    }

    /// Does so if the next datagram, command or injected datagram might not find room in the outbox.
    #[inline]
    pub fn flush_if_full(&mut self, now: Micros, egress: &mut impl Flush) {
        if egress.outbox().is_full() {
            self.flush(now, egress);
        }
    }

    fn run_timers(&mut self, now: Micros, out: &mut Outbox) {
        for _ in 0..TIMERS_PER_TURN_MAX {
            let Some(timer) = self.timers.pop(now) else { break };
            match timer {
                Timer::Report { peer } if self.has_peer(peer) => {
                    self.tally(now, peer.index, out);
                    self.review_silence(now, peer.index, out);
                    self.review_speech(now, peer.index, out);
                    self.send_reports(now, peer.index, out);
                    self.review_sending(now, peer.index, out);
                }
                Timer::TransportCc { peer } if self.has_peer(peer) => self.send_transport_cc(now, peer.index, out),
                Timer::Consent { peer } if self.has_peer(peer) => self.check_consent(now, peer.index, out),
                Timer::Pace { peer } if self.has_peer(peer) => self.pace_due(now, peer.index, out),
                Timer::Check { peer } if self.has_peer(peer) => self.checks_due(now, peer.index, out),
                Timer::Nack { stream } if self.has_stream(stream) => self.send_nack(now, stream.index, out),
                Timer::Keyframe { stream } if self.has_stream(stream) => self.keyframe_due(now, stream.index, out),
                Timer::Taken { stream } if self.has_stream(stream) => self.taken_due(now, stream.index, out),
                _ => {} // Its object is gone.
            }
            if out.is_full() {
                break;
            }
        }
    }

    fn has_peer(&self, id: PeerId) -> bool {
        self.peers.find(id.index, id.generation).is_some()
    }

    fn has_stream(&self, id: StreamId) -> bool {
        self.streams.find(id.index, id.generation).is_some()
    }
}

/// The header extension ids in a stream's packets: its publisher's.
fn extension_ids(stream: &Stream, peers: &Table<Transport>) -> Option<ExtensionIds> {
    match &stream.mirror {
        Some(mirror) => Some(mirror.ids),
        None => peers.find(stream.open.peer.index, stream.open.peer.generation).map(|peer| peer.extension_ids),
    }
}

/// An event as a report.
trait IntoReport {
    /// See [`proto::plane::Report`].
    fn into_report(self) -> proto::plane::Report;
}

impl<T: Into<Event>> IntoReport for T {
    fn into_report(self) -> proto::plane::Report {
        proto::plane::Report::Event(self.into())
    }
}

/// Arms the report timer of a peer that sends or receives.
fn arm_reports(transport: &mut Transport, timers: &mut Timers, now: Micros) {
    if !transport.is_report_timer_set {
        transport.is_report_timer_set = true;
        // The first report soon, so that lip sync and the round trip do not wait; peers spread over 250 ms.
        let spread = Micros::from(transport.id.index % 25) * 10 * MILLISECOND;
        timers.set(now + REPORT_INTERVAL / 4 + spread, Timer::Report { peer: transport.id });
    }
}

/// Arms the timer of a receiver's pace if something waits for it.
fn arm_pace(transport: &mut Transport, timers: &mut Timers, now: Micros) {
    let Some(sending) = transport.sending.as_mut().filter(|sending| sending.has_more()) else { return };
    if !std::mem::replace(&mut sending.is_timer_set, true) {
        timers.set(now + BUCKET / 2, Timer::Pace { peer: transport.id });
    }
}
