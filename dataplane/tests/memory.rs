//! What a peer costs its worker in memory. All of it is taken by commands, for packets take none (`allocation.rs`), so
//! a meeting that is only opened holds what it will hold for its whole life.
//!
//! Bytes as they were asked for are counted, not pages: the result is the same on each machine and in each run.
#![allow(unsafe_code, reason = "a global allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use dataplane::Micros;
use dataplane::forward::{Counters, Flush, Forwarder};
use dataplane::outbox::Outbox;
use dataplane::store::Store;
use proto::id::{Mid, PeerId, RouteId, SlotId, StreamId};
use proto::plane::*;

/// Adds up what this thread gives back, less what it takes.
struct Counting;

thread_local! {
    static GIVEN_BACK: Cell<i64> = const { Cell::new(0) };
}

fn note(bytes: i64) {
    GIVEN_BACK.set(GIVEN_BACK.get() + bytes);
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain thread-local cell that needs
// neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(-(layout.size() as i64));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        note(layout.size() as i64 - len as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that something held: what is given back when it ends.
fn held_by<T>(thing: T) -> i64 {
    let before = GIVEN_BACK.get();
    drop(thing);
    GIVEN_BACK.get() - before
}

/// Peers of a meeting.
const EIGHT: u32 = 8;
/// Meetings in the smaller world. The larger one has twice as many, so each table doubles, and what grows is exact.
const MEETINGS: u32 = 8;

/// A worker that has commands of its own in hand.
struct Worker {
    forwarder: Forwarder,
    egress: Egress,
}

/// A way out on which only refusals are counted.
#[derive(Default)]
struct Egress {
    outbox: Outbox,
    refused: usize,
}

impl Flush for Egress {
    fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    fn flush(&mut self, _: Micros, _: &Store, _: &mut Counters) {
        let refused = |report: &Report| matches!(report, Report::Event(Event::Refused(_)));
        self.refused += std::iter::from_fn(|| self.outbox.pop_report()).filter(refused).count();
        self.outbox.clear();
    }

    fn note_latency(&mut self, _: Micros, _: u64) {}
}

impl Worker {
    fn apply(&mut self, command: impl Into<Command>) {
        self.forwarder.apply(0, &command.into().write(), &mut self.egress);
    }

    /// A peer of the meeting page that is connected: keys, microphone and camera, and a slot for each of seven others' tracks.
    fn join(&mut self, index: u32) {
        let peer = PeerId::new(index, 1);
        let ufrag = format!("{index:08}").into_bytes().try_into().expect("eight digits");
        self.apply(PeerOpen { peer, ufrag, pwd: [b'p'; PWD_LEN] });
        let remote = PeerRemote::parts(peer, b"abcd", &[b'q'; 24]).expect("credentials");
        remote.into_iter().for_each(|part| self.apply(part));
        self.apply(PeerExtensions { peer, ids: ExtensionIds::default() });
        for direction in [Direction::Rx, Direction::Tx] {
            let (key, salt) = ([index as u8; KEY_LEN_MAX], [0; SALT_LEN_MAX]);
            self.apply(PeerKeys { peer, direction, profile: SrtpProfile::AeadAes128Gcm, key, salt });
        }
        for (n, codec) in [Codec::Opus, Codec::H264].into_iter().enumerate() {
            let number = 2 * index + n as u32;
            let rtx = if codec.is_video() { (0x1_0000 + number, 103) } else { (0, 0) };
            self.apply(StreamOpen {
                stream: StreamId::new(number, 1),
                peer,
                ssrc: 0x1000 + number,
                rtx_ssrc: rtx.0,
                mid: Mid::parse(b"0").expect("a mid"),
                pt: 100 + n as u8,
                rtx_pt: rtx.1,
                codec,
                feedback: feedback::NACK | feedback::PLI | feedback::TRANSPORT_CC,
                red_pt: 0,
            });
        }
        for n in 0..2 * (EIGHT - 1) {
            let number = 2 * (EIGHT - 1) * index + n;
            self.apply(SlotOpen {
                slot: SlotId::new(number, 1),
                peer,
                ssrc: 0x2000_0000 + number,
                rtx_ssrc: if n % 2 == 1 { 0x3000_0000 + number } else { 0 },
                mid: Mid::parse(b"9").expect("a mid"),
                seq_first: 1,
                rtx_seq_first: 1,
                timestamp_first: 0,
            });
        }
    }

    /// The others of its meeting come into its slots.
    fn receive(&mut self, index: u32) {
        let meeting = index / EIGHT * EIGHT;
        let others = (meeting..meeting + EIGHT).filter(|&other| other != index);
        for (n, stream) in others.flat_map(|other| [2 * other, 2 * other + 1]).enumerate() {
            let number = 2 * (EIGHT - 1) * index + n as u32;
            let (route, slot) = (RouteId::new(number, 1), SlotId::new(number, 1));
            let stream = StreamId::new(stream, 1);
            // Audio comes again as itself.
            self.apply(RouteOpen {
                route,
                stream,
                slot,
                pt: 120,
                rtx_pt: if n % 2 == 0 { 120 } else { 121 },
                red_pt: 0,
            });
        }
    }
}

/// Bytes that a worker with so many meetings holds.
fn worker_with(meetings: u32, is_receiving: bool) -> i64 {
    let mut worker = Worker { forwarder: Forwarder::new([7; 16], 0), egress: Egress::default() };
    // Routes need both their ends, so everybody is there before anybody receives.
    for index in 0..meetings * EIGHT {
        worker.join(index);
    }
    worker.apply(Commit { batch: 1 });
    if is_receiving {
        (0..meetings * EIGHT).for_each(|index| worker.receive(index));
        worker.apply(Commit { batch: 2 });
    }
    worker.forwarder.flush(0, &mut worker.egress);
    assert_eq!(worker.egress.refused, 0, "all of it is installed");
    held_by(worker.forwarder)
}

fn bytes_per_peer(is_receiving: bool) -> i64 {
    let [few, many] = [MEETINGS, 2 * MEETINGS].map(|meetings| worker_with(meetings, is_receiving));
    (many - few) / i64::from(MEETINGS * EIGHT)
}

#[test]
fn a_peer_in_a_meeting_of_eight_takes_its_worker_so_much_memory() {
    let (idle, receiving) = (bytes_per_peer(false), bytes_per_peer(true));
    println!("{idle} bytes idle, {receiving} in a meeting of eight");
    assert!(idle <= 34_400, "{idle} bytes for an idle peer with its slots");
    // Of it 3.5 KB for what may leave again of the audio of seven others.
    assert!(receiving <= 39_000, "{receiving} bytes for a peer that receives seven others");
}
