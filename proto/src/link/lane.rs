//! The ring between two workers of one dataplane: one thread pushes, one pops, and neither locks or waits.
//!
//! It is the ring of the link in memory of this process, so its proofs are that ring's. A record is made of three parts
//! of any length (a header, a packet's head, its payload), which spares the sender from joining them first. The
//! [`Bell`] of a worker says from whom something has arrived: an idle worker looks at one word for all of its lanes,
//! and is woken through the kernel only if it has said that it sleeps.

use std::sync::Arc;

use super::atomic::{AtomicU64, Ordering};
use super::ring::{Consumer, LINE, Producer, copy_in, copy_out, ring_words};
use super::wake;

/// Records that may wait in one lane. At 30,000 packets a second from one core to another it is 34 ms of them, which is
/// longer than the longest turn of a worker that keeps up.
pub const LANE_LEN: usize = 1024;
/// Bytes of a record, with eight for the lengths of its parts, each of which begins on a multiple of eight.
pub const LANE_RECORD_LEN: usize = 1680;

const PARTS: usize = 3;

/// The memory of one lane, of which one thread has the [`LaneSender`] and another the [`LaneReceiver`]. More than one of
/// either would mix up records, and do no other harm.
#[derive(Debug)]
pub struct Lane {
    words: Box<[AtomicU64]>,
}

impl Lane {
    /// An empty lane: 1.7 MB.
    pub fn new() -> Arc<Lane> {
        let words = (0..ring_words(LANE_LEN, LANE_RECORD_LEN)).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Lane { words })
    }
}

/// The pushing end of a lane.
#[derive(Debug)]
pub struct LaneSender {
    lane: Arc<Lane>,
    ring: Producer<LANE_RECORD_LEN>,
}

impl LaneSender {
    /// The one sender of a fresh lane.
    pub fn new(lane: Arc<Lane>) -> Self {
        LaneSender { lane, ring: Producer::new(LANE_LEN) }
    }

    /// Pushes a record. False if the lane is full, or the parts are longer than a record.
    #[must_use]
    pub fn push(&mut self, parts: [&[u8]; PARTS]) -> bool {
        let lens = parts.map(<[u8]>::len);
        lens.iter().map(|len| len.next_multiple_of(8)).sum::<usize>() + 8 <= LANE_RECORD_LEN
            && self.ring.push_with(&self.lane.words, |words| {
                let [a, b, c] = lens.map(|len| len as u64);
                words[0].store(a | b << 16 | c << 32, Ordering::Relaxed);
                let mut rest = &words[1..];
                for part in parts {
                    copy_in(rest, part);
                    rest = &rest[part.len().div_ceil(8)..];
                }
            })
    }
}

/// The popping end of a lane.
#[derive(Debug)]
pub struct LaneReceiver {
    lane: Arc<Lane>,
    ring: Consumer<LANE_RECORD_LEN>,
    /// The record that was popped last, and the lengths of its parts.
    scratch: Box<[u8; LANE_RECORD_LEN]>,
    lens: [usize; PARTS],
}

impl LaneReceiver {
    /// The one receiver of a fresh lane.
    pub fn new(lane: Arc<Lane>) -> Self {
        LaneReceiver { lane, ring: Consumer::new(LANE_LEN), scratch: Box::new([0; LANE_RECORD_LEN]), lens: [0; PARTS] }
    }

    /// The parts of the oldest record, or `None` when none waits. Bound the number taken in one turn.
    pub fn pop(&mut self) -> Option<[&[u8]; PARTS]> {
        let LaneReceiver { lane, ring, scratch, lens } = self;
        let is_popped = ring.pop_with(&lane.words, |words| {
            let word = words[0].load(Ordering::Relaxed);
            *lens = [0, 16, 32].map(|shift| usize::from((word >> shift) as u16));
            let len = lens.iter().map(|len| len.next_multiple_of(8)).sum::<usize>().min(LANE_RECORD_LEN - 8);
            copy_out(&words[1..], &mut scratch[..len]);
        });
        is_popped.then(|| self.popped())
    }

    /// The parts of the record that was popped last.
    pub fn popped(&self) -> [&[u8]; PARTS] {
        let mut rest = &self.scratch[..];
        self.lens.map(|len| {
            let (part, after) = rest.split_at(len.next_multiple_of(8));
            rest = after;
            &part[..len]
        })
    }
}

/// Who has sent a worker something, and whether it sleeps. All workers share it; only its own takes and sleeps.
#[derive(Debug)]
pub struct Bell {
    /// Bit by sender.
    arrived: Box<[Line]>,
    asleep: Line,
}

/// A word that has its line to itself: what one worker writes in each turn shall not slow down its neighbour.
#[derive(Debug)]
#[repr(align(128))]
struct Line(AtomicU64);

const _: () = assert!(size_of::<Line>() == LINE * 8);

impl Bell {
    /// A bell that so many workers may ring.
    pub fn new(senders: usize) -> Self {
        let line = || Line(AtomicU64::new(0));
        Bell { arrived: (0..senders.div_ceil(64)).map(|_| line()).collect(), asleep: line() }
    }

    /// Says that worker `from` has pushed something. Whether the worker sleeps and must be woken by who asks. Call it
    /// once after pushing, not after each push.
    #[must_use]
    pub fn ring(&self, from: usize) -> bool {
        // Release: the records are pushed before the bit that tells of them can be seen.
        self.arrived[from / 64].0.fetch_or(1 << (from % 64), Ordering::Release);
        wake::must_wake(&self.asleep.0)
    }

    /// Takes note of who has rung among workers `64 * group` to `64 * group + 63`, by bit.
    pub fn take(&self, group: usize) -> u64 {
        let Some(Line(word)) = self.arrived.get(group) else { return 0 };
        // Acquire: pairs with the release in `ring`. A plain look first, so that an idle worker writes nothing.
        if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::Acquire) }
    }

    /// How many groups of workers there are to [`take`](Self::take).
    pub fn groups(&self) -> usize {
        self.arrived.len()
    }

    /// Declares that the worker is about to park. False: it was rung after all, so it must not park (and is awake).
    #[must_use]
    pub fn sleep(&self) -> bool {
        wake::fall_asleep(&self.asleep.0);
        let is_idle = self.arrived.iter().all(|Line(word)| word.load(Ordering::Relaxed) == 0);
        if !is_idle {
            self.awake();
        }
        is_idle
    }

    /// Declares that the worker is awake, so that ringing needs no system call.
    pub fn awake(&self) {
        wake::wake_up(&self.asleep.0);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn lane() -> (LaneSender, LaneReceiver) {
        let lane = Lane::new();
        (LaneSender::new(lane.clone()), LaneReceiver::new(lane))
    }

    #[test]
    fn parts_of_any_length_come_as_they_were() {
        let (mut sender, mut receiver) = lane();
        let bytes: Vec<u8> = (0..=255).cycle().take(LANE_RECORD_LEN).collect();
        let cases = [[0, 0, 0], [1, 0, 7], [56, 12, 1200], [8, 16, 24], [56, 20, LANE_RECORD_LEN - 8 - 56 - 24]];
        for lens in cases {
            assert!(sender.push(lens.map(|len| &bytes[..len])), "{lens:?}");
        }
        for lens in cases {
            assert_eq!(receiver.pop(), Some(lens.map(|len| &bytes[..len])));
        }
        assert_eq!(receiver.pop(), None);
        assert!(!sender.push([&[], &[], &bytes[..LANE_RECORD_LEN - 7]]), "longer than a record");
        assert_eq!(receiver.pop(), None);
    }

    #[test]
    fn a_full_lane_refuses_and_recovers() {
        let (mut sender, mut receiver) = lane();
        for value in 0..LANE_LEN as u32 {
            assert!(sender.push([&value.to_le_bytes(), &[], &[]]));
        }
        assert!(!sender.push([&[], &[], &[]]));
        assert_eq!(receiver.pop(), Some([&0u32.to_le_bytes()[..], &[], &[]]));
        assert!(sender.push([&[], &[], &[]]));
    }

    #[test]
    fn a_bell_tells_who_rang_and_wakes_only_a_sleeper_once() {
        let bell = Bell::new(70);
        assert_eq!((bell.groups(), bell.take(0), bell.take(1)), (2, 0, 0));
        assert!(!bell.ring(3), "who is awake looks by itself");
        assert!(!bell.sleep(), "somebody rang");
        assert_eq!(bell.take(0), 1 << 3);
        assert!(bell.sleep());
        assert!(bell.ring(69));
        assert!(!bell.ring(3), "it is being woken already");
        bell.awake();
        assert_eq!((bell.take(0), bell.take(1), bell.take(2)), (1 << 3, 1 << 5, 0));
    }

    #[test]
    fn two_threads_pass_everything_in_order_and_lose_no_wake() {
        let count = if cfg!(miri) { 40 } else { 100_000u64 };
        let (mut sender, mut receiver) = lane();
        let bell = Bell::new(2);
        let (woken, wakes) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let bell = &bell;
            scope.spawn(move || {
                for value in 0..count {
                    while !sender.push([&value.to_le_bytes(), &[1; 5], &[]]) {
                        std::thread::yield_now();
                    }
                    if bell.ring(1) {
                        woken.send(()).unwrap();
                    }
                }
            });
            let mut expected = 0;
            while expected < count {
                if bell.take(0) == 0 {
                    if bell.sleep() {
                        wakes.recv().expect("who sleeps while there is more to come is woken");
                    }
                    continue;
                }
                while let Some(parts) = receiver.pop() {
                    assert_eq!(parts, [&expected.to_le_bytes()[..], &[1; 5], &[]]);
                    expected += 1;
                }
            }
        });
    }
}

/// Every interleaving of ringing and sleeping: `RUSTFLAGS="--cfg loom" cargo test -p proto --lib link::`.
#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    #[test]
    fn who_is_rung_either_stays_awake_or_is_woken() {
        loom::model(|| {
            let bell = Arc::new(Bell::new(2));
            let theirs = bell.clone();
            let sender = thread::spawn(move || theirs.ring(1));
            let parks = bell.take(0) == 0 && bell.sleep();
            let must_wake = sender.join().unwrap();
            assert!(!parks || must_wake, "parked with something in a lane and nobody to wake it");
        });
    }
}
