//! Repair of losses, both ways: the history from which subscribers' NACKs are answered by RTX (RFC 4585 §6.2.1,
//! RFC 4588), and the holes of publishers' streams that we ask for ourselves.

use proto::id::{Ssrc, StreamId};

use crate::config::{
    FRAME_LEN, HISTORY_PACKETS, HISTORY_PER_STREAM, HOLES_MAX, Micros, NACK_DELAY, NACK_TRIES_MAX, REPAIR_BURST,
    REPAIR_REPEAT_MIN, REPAIR_SHARE_DIVISOR,
};

/// The last packets of all video streams of a worker, in the clear, oldest overwritten first. It belongs to the
/// worker, not to a stream: memory is bounded whatever the number of streams, and a quiet stream costs nothing.
pub(crate) struct History {
    bytes: Box<[u8]>,
    entries: Box<[Entry]>,
    next: usize,
}

/// Which packets an index counts: those of one SSRC of a stream. A stream that changes its SSRC counts anew, and a
/// repair must not find the new packet under the old number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    pub(crate) stream: StreamId,
    pub(crate) ssrc: Ssrc,
}

#[derive(Clone, Copy)]
struct Entry {
    source: Source,
    index: u64,
    len: u32,
}

const EMPTY: Entry = Entry { source: Source { stream: StreamId::new(u32::MAX, 0), ssrc: 0 }, index: 0, len: 0 };

/// Where a stream's packets lie in the [`History`], by the low bits of their index.
pub(crate) type Places = Box<[u16; HISTORY_PER_STREAM]>;
const _: () = assert!(HISTORY_PACKETS <= 1 << u16::BITS);

impl History {
    pub(crate) fn new() -> Self {
        History {
            bytes: vec![0; HISTORY_PACKETS * FRAME_LEN].into_boxed_slice(),
            entries: vec![EMPTY; HISTORY_PACKETS].into_boxed_slice(),
            next: 0,
        }
    }

    /// Forgets all packets.
    pub(crate) fn clear(&mut self) {
        self.entries.fill(EMPTY);
    }

    /// The places of a new stream.
    pub(crate) fn places() -> Places {
        Box::new([0; HISTORY_PER_STREAM])
    }

    /// Keeps a packet of a stream, given as head and payload.
    pub(crate) fn store(&mut self, source: Source, places: &mut Places, index: u64, parts: [&[u8]; 2]) {
        let [head, payload] = parts;
        let len = head.len() + payload.len();
        let held = &self.entries[places[index as usize % HISTORY_PER_STREAM] as usize];
        // A place that was never used points at somebody else's entry, or at an index that has another place.
        let has_place = |held: u64| (held - index).is_multiple_of(HISTORY_PER_STREAM as u64);
        let is_overtaken = held.source == source && held.index > index && has_place(held.index);
        if len > FRAME_LEN || is_overtaken {
            return;
        }
        let at = self.next;
        self.next = (self.next + 1) % HISTORY_PACKETS;
        let frame = &mut self.bytes[at * FRAME_LEN..][..len];
        frame[..head.len()].copy_from_slice(head);
        frame[head.len()..].copy_from_slice(payload);
        self.entries[at] = Entry { source, index, len: len as u32 };
        places[index as usize % HISTORY_PER_STREAM] = at as u16;
    }

    /// The packet of a stream with this index, if it is still there.
    pub(crate) fn find(&self, source: Source, places: &Places, index: u64) -> Option<&[u8]> {
        let at = places[index as usize % HISTORY_PER_STREAM] as usize;
        let entry = self.entries.get(at)?;
        (entry.source == source && entry.index == index).then(|| &self.bytes[at * FRAME_LEN..][..entry.len as usize])
    }
}

/// A packet of a publisher's stream that has not arrived.
#[derive(Clone, Copy)]
struct Hole {
    ask_at: Micros,
    /// Its index, which has 48 bits, and below that how often it was asked for: there is memory for [`HOLES_MAX`] of
    /// them in each stream.
    index_and_tries: u64,
}
const _: () = assert!(size_of::<Hole>() == 16);

impl Hole {
    const TRIES_BITS: u32 = 8;

    fn new(index: u64, now: Micros) -> Hole {
        Hole { ask_at: now + NACK_DELAY, index_and_tries: index << Self::TRIES_BITS }
    }

    fn index(&self) -> u64 {
        self.index_and_tries >> Self::TRIES_BITS
    }

    fn tries(&self) -> u8 {
        self.index_and_tries as u8
    }
}

/// The holes of one stream, in order of their index.
pub(crate) struct Holes {
    holes: Vec<Hole>,
    /// Where the stream began. The first packet that arrived is not always the first that was sent.
    lowest: Option<u64>,
    /// Sequence numbers of packets that came as RTX and have not come as themselves; the oldest is overwritten.
    repaired: [u16; REPAIRED_MAX],
    /// Bit n: there is one in place n.
    are_repaired: u8,
    repaired_next: u8,
    pub(crate) is_timer_set: bool,
}

/// Repaired packets of one stream whose originals may still come. What was only late comes within a round trip.
const REPAIRED_MAX: usize = u8::BITS as usize;

/// What an arrival did to the holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Arrival {
    /// It filled a hole.
    pub(crate) recovered: bool,
    /// Holes that were given up because there were too many: the stream needs a keyframe.
    pub(crate) lost: u32,
}

impl Holes {
    /// None yet; the memory for all of them is taken here.
    pub(crate) fn new() -> Self {
        Holes {
            holes: Vec::with_capacity(HOLES_MAX),
            lowest: None,
            repaired: [0; REPAIRED_MAX],
            are_repaired: 0,
            repaired_next: 0,
            is_timer_set: false,
        }
    }

    /// A packet arrived: `highest` is the highest index before it, if any.
    pub(crate) fn arrived(&mut self, index: u64, highest: Option<u64>, now: Micros) -> Arrival {
        let Some(highest) = highest else {
            self.lowest = Some(index);
            return Arrival::default();
        };
        let lowest = *self.lowest.get_or_insert(highest);
        if index < lowest {
            self.began_earlier(index, lowest, now);
            return Arrival::default();
        }
        if index < highest {
            if let Ok(at) = self.holes.binary_search_by_key(&index, Hole::index) {
                self.holes.remove(at);
                return Arrival { recovered: true, lost: 0 };
            }
            return Arrival::default();
        }
        let missing = (index - highest).saturating_sub(1);
        if missing == 0 {
            return Arrival::default();
        }
        if self.holes.len() as u64 + missing > HOLES_MAX as u64 {
            let lost = self.holes.len() as u64 + missing;
            self.holes.clear();
            return Arrival { recovered: false, lost: lost.min(u64::from(u32::MAX)) as u32 };
        }
        self.holes.extend((highest + 1..index).map(|index| Hole::new(index, now)));
        Arrival::default()
    }

    /// A packet came as RTX.
    pub(crate) fn repaired(&mut self, index: u64) {
        let place = usize::from(self.repaired_next) % REPAIRED_MAX;
        self.repaired[place] = index as u16;
        self.are_repaired |= 1 << place;
        self.repaired_next = self.repaired_next.wrapping_add(1);
    }

    /// Whether the packet of this sequence number came as RTX alone; said once.
    pub(crate) fn take_repaired(&mut self, seq: u16) -> bool {
        let is_it = |place: &usize| self.repaired[*place] == seq && self.are_repaired >> place & 1 != 0;
        let place = (0..REPAIRED_MAX).find(is_it);
        self.are_repaired &= !place.map_or(0, |place| 1 << place);
        place.is_some()
    }

    /// The stream began with `index`, before what was thought to be its start: what lies between is missing too.
    fn began_earlier(&mut self, index: u64, lowest: u64, now: Micros) {
        let missing = lowest - index - 1;
        if self.holes.len() as u64 + missing > HOLES_MAX as u64 {
            return;
        }
        self.lowest = Some(index);
        self.holes.extend((index + 1..lowest).map(|index| Hole::new(index, now)));
        self.holes.rotate_right(missing as usize);
    }

    /// Whether nothing is missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.holes.is_empty()
    }

    /// How many packets are missing.
    pub(crate) fn len(&self) -> usize {
        self.holes.len()
    }

    /// When the next hole is to be asked for.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        self.holes.iter().map(|h| h.ask_at).min()
    }

    /// Fills `seqs` with what is to be asked for now and returns how many; holes asked for too often are dropped
    /// and counted in `lost`. Asked again a round trip later, a little later each time.
    pub(crate) fn due(&mut self, now: Micros, rtt: Micros, seqs: &mut [u16], lost: &mut u32) -> usize {
        let before = self.holes.len();
        self.holes.retain(|h| h.ask_at > now || h.tries() < NACK_TRIES_MAX);
        *lost += (before - self.holes.len()) as u32;
        let mut count = 0;
        for hole in self.holes.iter_mut().filter(|h| h.ask_at <= now) {
            if count == seqs.len() {
                break;
            }
            seqs[count] = hole.index() as u16;
            count += 1;
            hole.index_and_tries += 1; // Never more than `NACK_TRIES_MAX` times.
            hole.ask_at = now + rtt.max(REPAIR_REPEAT_MIN) * (4 + Micros::from(hole.tries())) / 4;
        }
        count
    }

    /// Forgets all holes.
    pub(crate) fn clear(&mut self) {
        self.holes.clear();
        self.lowest = None;
        self.are_repaired = 0;
    }
}

/// What repair may cost one receiver: a share of what it is sent, and each packet at most once a round trip.
pub(crate) struct Budget {
    credit: u32,
    repaired: [Repaired; REPAIRED_LEN],
}

/// Sequence numbers whose last repair is remembered, for each slot that has RTX.
const REPAIRED_LEN: usize = 1 << REPAIRED_BITS;
const REPAIRED_BITS: u32 = 7;
const _: () = assert!(size_of::<Budget>() <= 516, "a peer in a meeting of eight has seven of them");

/// Which of the sequence numbers that share their low bits was repaired last, and when, in one word: 23 bits of the time in
/// units of 128 µs, and the other 9 bits of the number; 0 for never. The time comes round after 18 minutes; a number that
/// comes round at the same moment is refused once.
#[derive(Clone, Copy, Default)]
struct Repaired(u32);

impl Repaired {
    const UNIT_BITS: u32 = 7;
    const NUMBER_BITS: u32 = u16::BITS - REPAIRED_BITS;

    fn new(seq: u16, now: Micros) -> Repaired {
        let at = ((now >> Self::UNIT_BITS) as u32) << Self::NUMBER_BITS;
        Repaired(at.max(1 << Self::NUMBER_BITS) | u32::from(seq >> REPAIRED_BITS))
    }

    /// Whether it is of the same number, less than `interval` before this one.
    fn forbids(self, next: Repaired, interval: Micros) -> bool {
        let number = |repaired: Repaired| repaired.0 & ((1 << Self::NUMBER_BITS) - 1);
        let at = |repaired: Repaired| repaired.0 >> Self::NUMBER_BITS << Self::NUMBER_BITS;
        let since = Micros::from(at(next).wrapping_sub(at(self)) >> Self::NUMBER_BITS) << Self::UNIT_BITS;
        self.0 != 0 && number(self) == number(next) && since < interval
    }
}

impl Budget {
    pub(crate) fn new() -> Self {
        Budget { credit: REPAIR_BURST, repaired: [Repaired::default(); REPAIRED_LEN] }
    }

    /// A media packet of this many bytes was sent.
    #[inline]
    pub(crate) fn earn(&mut self, len: usize) {
        self.credit = (self.credit + len as u32 / REPAIR_SHARE_DIVISOR).min(REPAIR_BURST);
    }

    /// Whether the packet `seq` of `len` bytes may be sent again now; if so it is accounted for.
    pub(crate) fn spend(&mut self, seq: u16, len: usize, rtt: Micros, now: Micros) -> bool {
        let (last, next) = (&mut self.repaired[usize::from(seq) % REPAIRED_LEN], Repaired::new(seq, now));
        if last.forbids(next, rtt.max(REPAIR_REPEAT_MIN)) || (self.credit as usize) < len {
            return false;
        }
        self.credit -= len as u32;
        *last = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_finds_what_is_recent_and_only_that() {
        let [a, b, renamed] =
            [(0, 7), (1, 7), (0, 8)].map(|(stream, ssrc)| Source { stream: StreamId::new(stream, 1), ssrc });
        let mut history = History::new();
        let (mut in_a, mut in_b) = (History::places(), History::places());
        assert_eq!(history.find(a, &in_a, 0), None, "an unused place is not a packet");
        for i in 0..HISTORY_PACKETS as u64 {
            history.store(a, &mut in_a, i, [&i.to_be_bytes()[..3], &i.to_be_bytes()[3..]]);
        }
        let last = HISTORY_PACKETS as u64 - 1;
        assert_eq!(history.find(a, &in_a, last), Some(&last.to_be_bytes()[..]));
        assert_eq!(history.find(a, &in_a, last - HISTORY_PER_STREAM as u64), None);
        history.store(b, &mut in_b, last, [b"", b"b"]);
        assert_eq!(history.find(b, &in_b, last), Some(&b"b"[..]));
        assert_eq!(history.find(a, &in_b, last), None, "another stream's packet is not found");
        assert_eq!(history.find(renamed, &in_a, last), None, "nor that of the stream's former SSRC");
        history.store(a, &mut in_a, last - HISTORY_PER_STREAM as u64, [b"", b"very late"]);
        let (mut young, mut in_young) = (History::new(), History::places());
        young.store(a, &mut in_young, 9, [b"", b"9"]);
        young.store(a, &mut in_young, 8, [b"", b"8"]);
        assert_eq!(young.find(a, &in_young, 8), Some(&b"8"[..]), "out of order, into a place that was never used");
        assert!(history.find(a, &in_a, last).is_some(), "what comes very late does not push out what is newer");
    }

    #[test]
    fn holes_are_asked_for_after_a_delay_then_each_round_trip_then_given_up() {
        let mut holes = Holes::new();
        let mut seqs = [0; 64];
        let mut lost = 0;
        assert_eq!(holes.arrived(65_534, None, 0), Arrival::default());
        assert_eq!(holes.arrived(65_538, Some(65_534), 0), Arrival::default());
        assert_eq!(holes.due(NACK_DELAY - 1, 50_000, &mut seqs, &mut lost), 0, "reordering gets its chance");
        assert!(holes.arrived(65_536, Some(65_538), 1).recovered);
        assert_eq!(holes.due(NACK_DELAY, 50_000, &mut seqs, &mut lost), 2);
        assert_eq!(&seqs[..2], &[65_535, 1], "65537 is sequence number 1 of the next round");
        assert_eq!(holes.due(NACK_DELAY + 50_000, 50_000, &mut seqs, &mut lost), 0);
        let mut now = NACK_DELAY;
        let mut asked = 1;
        while !holes.is_empty() {
            now += 10_000;
            asked += usize::from(holes.due(now, 50_000, &mut seqs, &mut lost) == 2);
        }
        assert_eq!((asked, lost), (usize::from(NACK_TRIES_MAX), 2));
    }

    #[test]
    fn a_stream_that_begins_out_of_order_is_asked_for_from_its_true_start() {
        let mut holes = Holes::new();
        let (mut seqs, mut lost) = ([0; 64], 0);
        holes.arrived(10, None, 0);
        holes.arrived(12, Some(10), 0);
        holes.arrived(7, Some(12), 0);
        assert_eq!(holes.due(NACK_DELAY, 50_000, &mut seqs, &mut lost), 3);
        assert_eq!(seqs[..3], [8, 9, 11]);
        assert!(holes.arrived(9, Some(12), 1).recovered && holes.arrived(8, Some(12), 1).recovered);
        holes.clear();
        assert_eq!(holes.arrived(40_000, Some(40_001), 2), Arrival::default(), "known from before: not its start");
        assert_eq!(holes.len(), 0);
    }

    #[test]
    fn what_came_as_rtx_may_come_once_more_as_itself() {
        let mut holes = Holes::new();
        assert!(!holes.take_repaired(0), "nothing came");
        (0..10).for_each(|index| holes.repaired(0x1_0000 + index));
        assert_eq!((0..11).filter(|seq| holes.take_repaired(*seq)).count(), REPAIRED_MAX, "the oldest are forgotten");
        assert!(!holes.take_repaired(9), "said once");
    }

    #[test]
    fn an_outage_is_not_tracked_hole_by_hole() {
        let mut holes = Holes::new();
        assert_eq!(holes.arrived(HOLES_MAX as u64 + 2, Some(0), 0).lost, HOLES_MAX as u32 + 1);
        assert!(holes.is_empty());
    }

    #[test]
    fn repair_is_a_share_and_never_twice_in_a_round_trip() {
        let mut budget = Budget::new();
        assert!(budget.spend(7, 1000, 100_000, 0));
        assert!(!budget.spend(7, 1000, 100_000, 99_999));
        assert!(budget.spend(7, 1000, 100_000, 200_000));
        let mut sent = 2000;
        for seq in 8..u16::MAX {
            sent += if budget.spend(seq, 1000, 100_000, 300_000) { 1000 } else { break };
        }
        assert!(sent <= REPAIR_BURST);
        budget.earn(2000);
        assert!(budget.spend(9999, 1000, 100_000, 300_001));
        assert!(!budget.spend(9998, 1000, 100_000, 300_001));
    }
}
