//! The two ends of one worker's link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::EventfdFlags;
use rustix::io::{IoSliceMut, ReadWriteFlags};

use super::atomic::{AtomicU64, Ordering};
use super::journal::{self, JournalError};
use super::region::{
    COMMANDS, CONTROL_ASLEEP, EVENTS, INJECTS, JOURNAL, LATENCY, PAGE, PEER_TALLIES, PUNTS, RESYNC, Region,
    SLOT_TALLIES, STREAM_TALLIES, WORKER_ASLEEP,
};
use super::ring::{Consumer, Producer};
use super::{COMMANDS_MAX, EVENTS_MAX, HANDSHAKES_KEPT, INJECTS_MAX, LinkError, PUNTS_MAX, page, wake};
use crate::histogram::{BUCKETS, Histogram};
use crate::id::{PeerId, SlotId, StreamId};
use crate::plane::{
    Command, Counter, DATAGRAM_RECORD_LEN, DatagramHeader, DatagramKind, PeerTally, RECORD_LEN, Record, Report,
    SlotTally, StreamTally, Tally,
};

/// The other side wrote a record that is not of this contract. It was popped; the next one may be fine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record from the other plane is not of this contract")]
pub struct Malformed;

/// One descriptor for each direction. An eventfd keeps the wake until it is read, so none is lost.
#[derive(Debug)]
pub(super) struct Wakes {
    /// Written by the controlplane, awaited by the worker. Blocking, so that io_uring waits in its read.
    pub(super) worker: OwnedFd,
    /// Written by the worker, awaited by the controlplane. Non-blocking, so that no worker ever waits in a write.
    pub(super) control: OwnedFd,
}

impl Wakes {
    /// Fresh descriptors: an earlier process that still holds the old ones cannot wake anybody.
    pub(super) fn create() -> rustix::io::Result<Wakes> {
        Ok(Wakes {
            worker: rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?,
            control: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(super) fn try_clone(&self) -> std::io::Result<Wakes> {
        Ok(Wakes { worker: self.worker.try_clone()?, control: self.control.try_clone()? })
    }
}

/// A datagram being written or read, in memory of its own: records are never parsed where the other side can write.
type Scratch = Box<[u8; DATAGRAM_RECORD_LEN]>;

fn scratch() -> Scratch {
    Box::new([0; DATAGRAM_RECORD_LEN])
}

/// The worker's end. It may be moved to the worker's thread, and nothing in it allocates, locks or waits.
///
/// When a new controlplane attaches, the worker is given a new link. It should pop what the old one still holds (at
/// most [`COMMANDS_MAX`] commands), drop its staged edits, and then read the new one only.
#[derive(Debug)]
pub struct WorkerLink {
    region: Arc<Region>,
    wakes: Wakes,
    commands: Consumer<RECORD_LEN>,
    injects: Consumer<DATAGRAM_RECORD_LEN>,
    events: Producer<RECORD_LEN>,
    punts: Producer<DATAGRAM_RECORD_LEN>,
    scratch: Scratch,
}

impl WorkerLink {
    pub(super) fn new(region: Arc<Region>, wakes: Wakes) -> Self {
        Self {
            region,
            wakes,
            commands: Consumer::new(COMMANDS_MAX),
            injects: Consumer::new(INJECTS_MAX),
            events: Producer::new(EVENTS_MAX),
            punts: Producer::new(PUNTS_MAX),
            scratch: scratch(),
        }
    }

    /// The oldest command, unparsed ([`Command::read`] checks it), or `None` when none waits.
    ///
    /// A controlplane may push as fast as this pops: bound the number taken in one turn.
    pub fn pop_command(&mut self) -> Option<Record> {
        let mut record = [0; RECORD_LEN];
        self.commands.pop(&self.region[COMMANDS], &mut record).then_some(record)
    }

    /// The oldest datagram to send for the controlplane: header and payload. Bound the number taken in one turn.
    pub fn pop_inject(&mut self) -> Option<Result<(DatagramHeader, &[u8]), Malformed>> {
        self.injects
            .pop(&self.region[INJECTS], &mut self.scratch)
            .then(|| DatagramHeader::read(&self.scratch).ok_or(Malformed))
    }

    /// Pushes a report ([`Report::write`]); false if the ring is full. Then count it and [`Self::raise_resync`].
    pub fn push_report(&mut self, report: &Record) -> bool {
        self.events.push(&self.region[EVENTS], report)
    }

    /// How many reports may be pushed now. Echoes of a description should leave room for events.
    pub fn report_space(&mut self) -> usize {
        self.events.space(&self.region[EVENTS])
    }

    /// Pushes a datagram for the controlplane; false if the ring is full, for data already before that ([`HANDSHAKES_KEPT`]), or the payload longer than
    /// [`DATAGRAM_LEN_MAX`](crate::plane::DATAGRAM_LEN_MAX). The length in the header is taken from the payload.
    pub fn push_punt(&mut self, header: &DatagramHeader, payload: &[u8]) -> bool {
        if header.kind == DatagramKind::Data && self.punts.space(&self.region[PUNTS]) <= HANDSHAKES_KEPT {
            return false;
        }
        write_datagram(header, payload, &mut self.scratch) && self.punts.push(&self.region[PUNTS], &self.scratch)
    }

    /// Publishes the counters on the stats page.
    pub fn publish(&mut self, counters: &[u64; Counter::COUNT]) {
        page::publish(&self.region[PAGE], counters);
    }

    /// Publishes what a stream or a slot has carried. One whose index is beyond the rows has none.
    pub fn publish_tally(&mut self, tally: &Tally) {
        match tally {
            Tally::Stream(tally) => {
                page::publish_row(&self.region[STREAM_TALLIES], tally.stream.index, &tally.write());
            }
            Tally::Slot(tally) => page::publish_row(&self.region[SLOT_TALLIES], tally.slot.index, &tally.write()),
            Tally::Peer(tally) => page::publish_row(&self.region[PEER_TALLIES], tally.peer.index, &tally.write()),
        }
    }

    /// Publishes one bucket of the latencies, and their sum.
    pub fn publish_latency(&mut self, latencies: &Histogram, bucket: usize) {
        page::publish_latency(&self.region[LATENCY], latencies, bucket);
    }

    /// Publishes all buckets: a link that is new knows none.
    pub fn publish_latencies(&mut self, latencies: &Histogram) {
        (0..BUCKETS).for_each(|bucket| self.publish_latency(latencies, bucket));
    }

    /// Tells the controlplane that it missed an event and must ask for a description.
    pub fn raise_resync(&mut self) {
        self.region[RESYNC].store(1, Ordering::Release);
    }

    /// Declares that the worker is about to park. False: something has come after all, so it must not park (and is
    /// awake). True: it may wait for [`Self::wake_fd`] and must call [`Self::awake`] afterwards.
    #[must_use]
    pub fn sleep(&mut self) -> bool {
        wake::fall_asleep(self.flag());
        let is_idle =
            self.commands.waiting(&self.region[COMMANDS]) == 0 && self.injects.waiting(&self.region[INJECTS]) == 0;
        if !is_idle {
            self.awake();
        }
        is_idle
    }

    /// Declares that the worker is awake, so that pushing to it needs no system call.
    pub fn awake(&mut self) {
        wake::wake_up(self.flag());
    }

    /// The eventfd to await while asleep. It is blocking: an io_uring read of its 8 bytes waits for a wake and takes
    /// it; who polls it instead must [`Self::clear_wake`] afterwards.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wakes.worker.as_fd()
    }

    /// Takes a wake that was polled for but not read. Never waits.
    pub fn clear_wake(&mut self) {
        clear_wake(self.wakes.worker.as_fd());
    }

    /// Wakes the controlplane if it sleeps. Call it once after pushing, not after each push.
    pub fn notify(&mut self) {
        notify(&self.region[CONTROL_ASLEEP], self.wakes.control.as_fd());
    }

    /// Which attachment this is; each later one has a higher number.
    pub fn epoch(&self) -> u64 {
        self.region.epoch()
    }

    fn flag(&self) -> &AtomicU64 {
        &self.region[WORKER_ASLEEP]
    }
}

/// The controlplane's end.
#[derive(Debug)]
pub struct ControlLink {
    region: Arc<Region>,
    wakes: Wakes,
    commands: Producer<RECORD_LEN>,
    injects: Producer<DATAGRAM_RECORD_LEN>,
    events: Consumer<RECORD_LEN>,
    punts: Consumer<DATAGRAM_RECORD_LEN>,
    scratch: Scratch,
}

impl ControlLink {
    pub(super) fn new(region: Arc<Region>, wakes: Wakes) -> Self {
        Self {
            region,
            wakes,
            commands: Producer::new(COMMANDS_MAX),
            injects: Producer::new(INJECTS_MAX),
            events: Consumer::new(EVENTS_MAX),
            punts: Consumer::new(PUNTS_MAX),
            scratch: scratch(),
        }
    }

    /// Pushes a command; false if the ring is full. Keep it then, and push it when the worker has read some.
    #[must_use]
    pub fn push_command(&mut self, command: &Command) -> bool {
        self.commands.push(&self.region[COMMANDS], &command.write())
    }

    /// How many commands may be pushed now, 0 to [`COMMANDS_MAX`].
    pub fn command_space(&mut self) -> usize {
        self.commands.space(&self.region[COMMANDS])
    }

    /// Pushes a datagram for the worker to send; false if the ring is full, for data already before that ([`HANDSHAKES_KEPT`]), or the payload longer than
    /// [`DATAGRAM_LEN_MAX`](crate::plane::DATAGRAM_LEN_MAX). The length in the header is taken from the payload.
    #[must_use]
    pub fn push_inject(&mut self, header: &DatagramHeader, payload: &[u8]) -> bool {
        if header.kind == DatagramKind::Data && self.injects.space(&self.region[INJECTS]) <= HANDSHAKES_KEPT {
            return false;
        }
        write_datagram(header, payload, &mut self.scratch) && self.injects.push(&self.region[INJECTS], &self.scratch)
    }

    /// The oldest report, or `None` when none waits. Bound the number taken at once.
    pub fn pop_report(&mut self) -> Option<Result<Report, Malformed>> {
        let mut record = [0; RECORD_LEN];
        self.events.pop(&self.region[EVENTS], &mut record).then(|| Report::read(&record).ok_or(Malformed))
    }

    /// The oldest punted datagram: header and payload. Bound the number taken at once.
    pub fn pop_punt(&mut self) -> Option<Result<(DatagramHeader, &[u8]), Malformed>> {
        self.punts
            .pop(&self.region[PUNTS], &mut self.scratch)
            .then(|| DatagramHeader::read(&self.scratch).ok_or(Malformed))
    }

    /// The worker's counters at one moment, all zero before it first publishes. `None` if it seems to have died while
    /// publishing: show the previous ones.
    pub fn counters(&self) -> Option<[u64; Counter::COUNT]> {
        page::read(&self.region[PAGE])
    }

    /// How long packets took through the worker, microseconds: see [`crate::histogram`]. The words are read one after the
    /// other while the worker counts on, so a packet may be in one and not yet in another.
    pub fn latencies(&self) -> Histogram {
        page::read_latency(&self.region[LATENCY])
    }

    /// What a stream has carried; `None` before the worker has first said it. Ask for what is installed only: reading a
    /// row that nobody has written takes memory for it.
    pub fn stream_tally(&self, stream: StreamId) -> Option<StreamTally> {
        StreamTally::read(stream, &page::read_row(&self.region[STREAM_TALLIES], stream.index)?)
    }

    /// What a slot has carried; as [`Self::stream_tally`].
    pub fn slot_tally(&self, slot: SlotId) -> Option<SlotTally> {
        SlotTally::read(slot, &page::read_row(&self.region[SLOT_TALLIES], slot.index)?)
    }

    /// What a peer's path carries; as [`Self::stream_tally`].
    pub fn peer_tally(&self, peer: PeerId) -> Option<PeerTally> {
        PeerTally::read(peer, &page::read_row(&self.region[PEER_TALLIES], peer.index)?)
    }

    /// Whether the worker had to drop an event since this was last asked. Then its state must be read again.
    pub fn take_resync(&mut self) -> bool {
        self.region[RESYNC].load(Ordering::Relaxed) != 0 && self.region[RESYNC].swap(0, Ordering::Acquire) != 0
    }

    /// Declares that the controlplane is about to wait. False: something has come after all, so it must not wait (and
    /// is awake). True: it may wait for [`Self::wake_fd`] and must call [`Self::awake`] afterwards.
    #[must_use]
    pub fn sleep(&mut self) -> bool {
        wake::fall_asleep(self.flag());
        let is_idle = self.events.waiting(&self.region[EVENTS]) == 0
            && self.punts.waiting(&self.region[PUNTS]) == 0
            && self.region[RESYNC].load(Ordering::Relaxed) == 0;
        if !is_idle {
            self.awake();
        }
        is_idle
    }

    /// Declares that the controlplane is awake, so that pushing to it needs no system call.
    pub fn awake(&mut self) {
        wake::wake_up(self.flag());
    }

    /// The eventfd to await while asleep, non-blocking. [`Self::clear_wake`] after it became readable.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wakes.control.as_fd()
    }

    /// Takes the wake, so that the descriptor is readable again only after the next one. Never waits.
    pub fn clear_wake(&mut self) {
        clear_wake(self.wakes.control.as_fd());
    }

    /// Wakes the worker if it sleeps. Call it once after pushing, not after each push.
    pub fn notify(&mut self) {
        notify(&self.region[WORKER_ASLEEP], self.wakes.worker.as_fd());
    }

    /// Which attachment this is; each later one has a higher number.
    pub fn epoch(&self) -> u64 {
        self.region.epoch()
    }

    /// Writes a journal entry of at most [`JOURNAL_ENTRY_LEN_MAX`](super::JOURNAL_ENTRY_LEN_MAX) bytes. If this
    /// process is killed in the middle, the slot keeps its previous entry.
    pub fn journal_write(&mut self, slot: u32, bytes: &[u8]) -> Result<(), JournalError> {
        journal::write(&self.region[JOURNAL], slot, bytes)
    }

    /// Removes a journal entry.
    pub fn journal_clear(&mut self, slot: u32) -> Result<(), JournalError> {
        journal::clear(&self.region[JOURNAL], slot)
    }

    /// The journal's entries in slot order: after attaching, what the predecessor left.
    pub fn journal_entries(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        journal::entries(&self.region[JOURNAL])
    }

    fn flag(&self) -> &AtomicU64 {
        &self.region[CONTROL_ASLEEP]
    }
}

/// Both ends of one link in this process, for tests and the simulator.
pub fn pair() -> Result<(WorkerLink, ControlLink), LinkError> {
    let os = |source: std::io::Error| LinkError::Os { what: "make an eventfd", source };
    let (region, _) = Region::create(1)?;
    let region = Arc::new(region);
    let wakes = Wakes::create().map_err(|errno| os(errno.into()))?;
    let worker = WorkerLink::new(region.clone(), wakes.try_clone().map_err(os)?);
    Ok((worker, ControlLink::new(region, wakes)))
}

fn write_datagram(header: &DatagramHeader, payload: &[u8], scratch: &mut Scratch) -> bool {
    DatagramHeader::write(header.kind, header.peer, header.remote, payload, scratch).is_some()
}

fn notify(flag: &AtomicU64, wake_fd: BorrowedFd<'_>) {
    if wake::must_wake(flag) {
        // An eventfd refuses only when its count is full, and then the sleeper is being woken already.
        let _ = rustix::io::write(wake_fd, &1u64.to_ne_bytes());
    }
}

fn clear_wake(wake_fd: BorrowedFd<'_>) {
    // NOWAIT also on the blocking descriptor; an offset of all ones means "no offset". Nothing to read is no error.
    let mut count = [0; 8];
    let _ = rustix::io::preadv2(wake_fd, &mut [IoSliceMut::new(&mut count)], u64::MAX, ReadWriteFlags::NOWAIT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PeerId;
    use crate::link::SLOT_TALLIES_MAX;
    use crate::plane::{Commit, Committed, DATAGRAM_LEN_MAX, Event, Reset};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    const HEADER: DatagramHeader = DatagramHeader {
        kind: DatagramKind::Dtls,
        peer: PeerId::new(3, 1),
        remote: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9),
        len: 4,
    };

    fn is_readable(fd: BorrowedFd<'_>) -> bool {
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn records_pass_both_ways_in_order() {
        let (mut worker, mut control) = pair().unwrap();
        assert!(control.push_command(&Reset {}.into()));
        assert!(control.push_command(&Commit { batch: 7 }.into()));
        assert_eq!(Command::read(&worker.pop_command().unwrap()), Some(Reset {}.into()));
        assert_eq!(Command::read(&worker.pop_command().unwrap()), Some(Commit { batch: 7 }.into()));
        assert_eq!(worker.pop_command(), None);

        let report = Report::Event(Event::Committed(Committed { batch: 7 }));
        assert!(worker.push_report(&report.write()));
        assert_eq!(control.pop_report(), Some(Ok(report)));
        assert_eq!(control.pop_report(), None);
    }

    #[test]
    fn datagrams_pass_both_ways() {
        let (mut worker, mut control) = pair().unwrap();
        assert!(control.push_inject(&HEADER, b"down"));
        assert_eq!(worker.pop_inject(), Some(Ok((HEADER, &b"down"[..]))));
        assert!(worker.pop_inject().is_none());
        assert!(worker.push_punt(&HEADER, b"up.."));
        assert_eq!(control.pop_punt(), Some(Ok((HEADER, &b"up.."[..]))));
        assert!(!worker.push_punt(&HEADER, &[0; DATAGRAM_LEN_MAX + 1]), "longer than a record");
        assert!(control.pop_punt().is_none());
    }

    #[test]
    fn data_leaves_places_for_handshakes() {
        let (mut worker, mut control) = pair().unwrap();
        let data = DatagramHeader { kind: DatagramKind::Data, ..HEADER };
        let count = |push: &mut dyn FnMut(&DatagramHeader) -> bool, header| {
            (0..2 * PUNTS_MAX).take_while(|_| push(header)).count()
        };
        let mut punt = |header: &DatagramHeader| worker.push_punt(header, b"data");
        assert_eq!(count(&mut punt, &data), PUNTS_MAX - HANDSHAKES_KEPT);
        assert_eq!(count(&mut punt, &HEADER), HANDSHAKES_KEPT);
        let mut inject = |header: &DatagramHeader| control.push_inject(header, b"data");
        assert_eq!(count(&mut inject, &data), INJECTS_MAX - HANDSHAKES_KEPT);
        assert_eq!(count(&mut inject, &HEADER), HANDSHAKES_KEPT);
    }

    #[test]
    fn a_full_ring_refuses_and_recovers() {
        let (mut worker, mut control) = pair().unwrap();
        for batch in 0..COMMANDS_MAX as u64 {
            assert!(control.push_command(&Commit { batch }.into()));
        }
        assert_eq!(control.command_space(), 0);
        assert!(!control.push_command(&Reset {}.into()));
        assert!(worker.pop_command().is_some());
        assert_eq!(control.command_space(), 1);
        assert!(control.push_command(&Reset {}.into()));
    }

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let (mut worker, mut control) = pair().unwrap();
        assert!(control.push_command(&Reset {}.into()));
        control.notify();
        assert!(!is_readable(worker.wake_fd()), "an awake worker reads its ring anyway");
        assert!(!worker.sleep(), "a command waits");
        worker.pop_command().unwrap();

        assert!(worker.sleep());
        assert!(control.push_command(&Reset {}.into()));
        control.notify();
        assert!(is_readable(worker.wake_fd()));
        worker.clear_wake();
        assert!(!is_readable(worker.wake_fd()));
        control.notify();
        assert!(!is_readable(worker.wake_fd()), "it was woken already");
        worker.clear_wake();
        worker.awake();
    }

    #[test]
    fn a_lost_event_wakes_the_controlplane() {
        let (mut worker, mut control) = pair().unwrap();
        assert!(control.sleep());
        worker.raise_resync();
        worker.notify();
        assert!(is_readable(control.wake_fd()));
        control.clear_wake();
        assert!(!control.sleep(), "resync is work");
        assert!(control.take_resync());
        assert!(!control.take_resync(), "it is read and cleared");
        assert!(control.sleep());
    }

    #[test]
    fn counters_are_zero_until_published() {
        let (mut worker, control) = pair().unwrap();
        assert_eq!(control.counters(), Some([0; Counter::COUNT]));
        let counters = std::array::from_fn(|i| i as u64 + 1);
        worker.publish(&counters);
        assert_eq!(control.counters(), Some(counters));
    }

    #[test]
    fn a_tally_is_read_by_who_has_the_id() {
        let (mut worker, control) = pair().unwrap();
        let (stream, slot) = (StreamId::new(5, 2), SlotId::new(SLOT_TALLIES_MAX as u32 - 1, 1));
        assert_eq!((control.stream_tally(stream), control.slot_tally(slot)), (None, None), "never written");
        let of_stream = StreamTally {
            stream,
            packets: 1,
            bytes: 2,
            expected: 3,
            repaired: 4,
            nacks: 5,
            keyframe_requests: 6,
            policed: 11,
            window_us: 7,
            window_packets: 8,
            window_bytes: 9,
            window_expected: 10,
        };
        worker.publish_tally(&Tally::Stream(of_stream));
        assert_eq!(control.stream_tally(stream), Some(of_stream));
        assert_eq!(control.stream_tally(StreamId::new(5, 3)), None, "the next occupant");
        let of_slot = SlotTally {
            slot,
            packets: 1,
            bytes: 2,
            retransmitted: 3,
            nacks: 4,
            keyframe_requests: 5,
            loss_256: None,
            rtt_us: Some(0),
            window_us: 0,
            window_packets: 0,
            window_bytes: 0,
            allocation: Some(0),
        };
        worker.publish_tally(&Tally::Slot(of_slot));
        assert_eq!(control.slot_tally(slot), Some(of_slot));
        let beyond = SlotId::new(SLOT_TALLIES_MAX as u32, 1);
        worker.publish_tally(&Tally::Slot(SlotTally { slot: beyond, ..of_slot }));
        assert_eq!(control.slot_tally(beyond), None);
    }
}
