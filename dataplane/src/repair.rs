//! Repair of losses, both ways: what answers to receivers' NACKs may cost (RFC 4585 §6.2.1; video by RTX, RFC 4588, audio by
//! the same packet again; the packets are in the [store](crate::store)), and the missing packets of publishers' streams that
//! we ask for ourselves.

use std::num::NonZeroU64;

use crate::config::{
    AUDIO_MISSING_MAX, AUDIO_REPAIR_BURST, AUDIO_REPAIR_TIME, COPIES_HELD, COPIES_MAX, COPIES_MOMENT, COPIES_REQUESTS,
    COPIES_WINDOW, MILLISECOND, MISSING_MAX, Micros, NACK_DELAY, NACK_REPEAT, NACK_REPEAT_RTT, NACK_TRIES_MAX,
    REFUSED_MAX, REPAIR_BURST, REPAIR_REPEAT_MIN, REPAIR_SHARE_DIVISOR,
};
use crate::srtp::SEALS;

/// A packet of a publisher's stream that has not arrived.
#[derive(Clone, Copy)]
struct MissingPacket {
    /// Low bits of the time at which it is to be asked for.
    ask_at: u32,
    /// Low bits of its index, and below them how often it was asked for.
    index_and_tries: u32,
}
const _: () = assert!(size_of::<MissingPacket>() == 8, "there is memory for `MISSING_MAX` of them in each stream");

impl MissingPacket {
    const TRIES_BITS: u32 = 8;
    /// Bits of an index: what is further behind the newest packet is not tracked.
    const INDEX_BITS: u32 = u32::BITS - Self::TRIES_BITS;

    fn new(index: u64, now: Micros) -> MissingPacket {
        MissingPacket { ask_at: (now + NACK_DELAY) as u32, index_and_tries: (index as u32) << Self::TRIES_BITS }
    }

    /// Its index, which is not above `newest`.
    fn index(&self, newest: u64) -> u64 {
        let behind = ((newest as u32) << Self::TRIES_BITS).wrapping_sub(self.index_and_tries & !0xff);
        newest - u64::from(behind >> Self::TRIES_BITS)
    }

    fn tries(&self) -> u8 {
        self.index_and_tries as u8
    }

    /// How long after `now` it is to be asked for; 0 if it is due.
    fn wait(&self, now: Micros) -> u32 {
        let wait = self.ask_at.wrapping_sub(now as u32);
        if wait > u32::MAX / 2 { 0 } else { wait }
    }
}

/// The missing packets of one stream, in order of their index.
pub(crate) struct MissingPackets {
    packets: Vec<MissingPacket>,
    is_audio: bool,
    /// Where the stream began. The first packet that arrived is not always the first that was sent.
    lowest: Option<u64>,
    /// Highest index so far, and when the packets were last looked at: what the low bits of each stand for.
    newest: u64,
    looked_at: Micros,
    /// Sequence numbers of packets that came as RTX and have not come as themselves; the oldest is overwritten.
    repaired: [u16; REPAIRED_MAX],
    /// Bit n: there is one in place n.
    are_repaired: u8,
    repaired_next: u8,
    pub(crate) is_timer_set: bool,
}

/// Repaired packets of one stream whose originals may still come. What was only late comes within a round trip.
const REPAIRED_MAX: usize = u8::BITS as usize;

/// What an arrival did to the missing packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Arrival {
    /// It was one of the missing packets.
    pub(crate) recovered: bool,
    /// Missing packets that were given up because there were too many: the stream needs a keyframe.
    pub(crate) lost: u32,
}

impl MissingPackets {
    /// None yet; the memory for all of them is taken here.
    pub(crate) fn new(is_audio: bool) -> Self {
        let max = if is_audio { AUDIO_MISSING_MAX } else { MISSING_MAX };
        MissingPackets {
            packets: Vec::with_capacity(max),
            is_audio,
            lowest: None,
            newest: 0,
            looked_at: 0,
            repaired: [0; REPAIRED_MAX],
            are_repaired: 0,
            repaired_next: 0,
            is_timer_set: false,
        }
    }

    /// How many are tracked, at most.
    fn max(&self) -> u64 {
        let max = if self.is_audio { AUDIO_MISSING_MAX } else { MISSING_MAX };
        max as u64
    }

    /// How often one is asked for, at most: audio for as long as that can help.
    fn tries_max(&self, rtt: Micros) -> u8 {
        let rounds = match self.is_audio {
            true => (AUDIO_REPAIR_TIME / (rtt + NACK_REPEAT)).min(NACK_TRIES_MAX.into()) as u8,
            false => NACK_TRIES_MAX,
        };
        rounds * self.asks(rtt)
    }

    /// How often in a round trip: the first NACK may be lost. Video once, where the next round trip is over as soon.
    fn asks(&self, rtt: Micros) -> u8 {
        if self.is_audio || rtt >= NACK_REPEAT_RTT { 2 } else { 1 }
    }

    /// A packet arrived: `highest` is the highest index before it, if any.
    pub(crate) fn arrived(&mut self, index: u64, highest: Option<u64>, now: Micros) -> Arrival {
        self.newest = index.max(highest.unwrap_or(0));
        self.looked_at = now;
        let Some(highest) = highest else {
            self.lowest = Some(index);
            return Arrival::default();
        };
        // Long after it was given up; it would be taken for another.
        let is_far =
            |packet: &MissingPacket| self.newest - packet.index(highest) >= 1 << (MissingPacket::INDEX_BITS - 1);
        if self.packets.first().is_some_and(is_far) {
            self.packets.clear();
        }
        let lowest = *self.lowest.get_or_insert(highest);
        if index < lowest {
            self.began_earlier(index, lowest, now);
            return Arrival::default();
        }
        if index < highest {
            if let Ok(at) = self.find(index) {
                self.packets.remove(at);
                return Arrival { recovered: true, lost: 0 };
            }
            return Arrival::default();
        }
        let missing = (index - highest).saturating_sub(1);
        if missing == 0 {
            return Arrival::default();
        }
        if self.packets.len() as u64 + missing > self.max() {
            let lost = self.packets.len() as u64 + missing;
            self.packets.clear();
            return Arrival { recovered: false, lost: lost.min(u64::from(u32::MAX)) as u32 };
        }
        self.packets.extend((highest + 1..index).map(|index| MissingPacket::new(index, now)));
        Arrival::default()
    }

    /// Whether a packet is missing.
    pub(crate) fn lacks(&self, index: u64) -> bool {
        self.find(index).is_ok()
    }

    fn find(&self, index: u64) -> Result<usize, usize> {
        self.packets.binary_search_by_key(&index, |packet| packet.index(self.newest))
    }

    /// A packet came as RTX, or in a later one.
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
        if self.packets.len() as u64 + missing > self.max() {
            return;
        }
        self.lowest = Some(index);
        self.packets.extend((index + 1..lowest).map(|index| MissingPacket::new(index, now)));
        self.packets.rotate_right(missing as usize);
    }

    /// Whether nothing is missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// How many packets are missing.
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// When the next missing packet is to be asked for.
    pub(crate) fn deadline(&self) -> Option<Micros> {
        let wait = self.packets.iter().map(|packet| packet.wait(self.looked_at)).min()?;
        Some(self.looked_at + Micros::from(wait))
    }

    /// Fills `seqs` with what is to be asked for now and returns how many; missing packets asked for too often are dropped
    /// and counted in `lost`. Asked again a round trip later.
    pub(crate) fn due(&mut self, now: Micros, rtt: Micros, seqs: &mut [u16], lost: &mut u32) -> usize {
        self.looked_at = now;
        let (before, tries_max, newest) = (self.packets.len(), self.tries_max(rtt), self.newest);
        self.packets.retain(|packet| packet.wait(now) > 0 || packet.tries() < tries_max);
        *lost += (before - self.packets.len()) as u32;
        let (mut count, asks, rtt) = (0, self.asks(rtt), rtt.max(REPAIR_REPEAT_MIN));
        for packet in self.packets.iter_mut().filter(|packet| packet.wait(now) == 0) {
            if count == seqs.len() {
                break;
            }
            seqs[count] = packet.index(newest) as u16;
            count += 1;
            packet.index_and_tries += 1; // Never more than `tries_max` times.
            let is_repeated = asks == 2 && packet.tries() % 2 == 1;
            packet.ask_at = (now + if is_repeated { NACK_REPEAT } else { rtt }) as u32;
        }
        count
    }

    /// Forgets all missing packets.
    pub(crate) fn clear(&mut self) {
        self.packets.clear();
        self.lowest = None;
        self.are_repaired = 0;
    }
}

/// What repair may cost one receiver: a share of what it is sent. Bytes.
struct Credit(u32);

impl Credit {
    /// A media packet of this many bytes was sent.
    #[inline]
    fn earn(&mut self, len: usize, burst: u32) {
        self.0 = (self.0 + len as u32 / REPAIR_SHARE_DIVISOR).min(burst);
    }

    fn may_spend(&self, len: usize) -> bool {
        self.0 as usize >= len
    }

    fn spend(&mut self, len: usize) {
        self.0 -= len as u32;
    }
}

/// Repairs of a slot by RTX: their share, and each packet at most once a round trip, but for a copy where much is lost.
pub(crate) struct Budget {
    credit: Credit,
    repaired: [Repaired; REPAIRED_LEN],
}

/// Sequence numbers whose last repair is remembered, for each slot that has RTX.
const REPAIRED_LEN: usize = 1 << REPAIRED_BITS;
const REPAIRED_BITS: u32 = 7;
const _: () = assert!(size_of::<Budget>() <= 260, "a peer in a meeting of eight has seven of them");

/// Which of the sequence numbers that share their low bits was repaired last, and when, in one word: 7 bits of the time in
/// units of 8 ms, and the other 9 bits of the number; 0 for never. The time comes round after a second; a number that is asked for
/// again a second after it was repaired is refused once.
#[derive(Clone, Copy, Default)]
struct Repaired(u16);

impl Repaired {
    const UNIT_BITS: u32 = 13;
    /// Longest time that can be told apart.
    const INTERVAL_MAX: Micros = 120 << Self::UNIT_BITS;
    const NUMBER_BITS: u32 = u16::BITS - REPAIRED_BITS;

    fn new(seq: u16, now: Micros) -> Repaired {
        let at = ((now >> Self::UNIT_BITS) as u16) << Self::NUMBER_BITS;
        Repaired(at.max(1 << Self::NUMBER_BITS) | seq >> REPAIRED_BITS)
    }

    /// Whether it is of the same number, and surely less than seven eighths of a round trip before this one. Receivers ask again after the round
    /// trip that they know, which may be a little shorter than ours: a refusal would cost them a whole one more.
    fn forbids(self, next: Repaired, rtt: Micros) -> bool {
        let number = |repaired: Repaired| repaired.0 & ((1 << Self::NUMBER_BITS) - 1);
        let at = |repaired: Repaired| repaired.0 >> Self::NUMBER_BITS << Self::NUMBER_BITS;
        let since = Micros::from(at(next).wrapping_sub(at(self)) >> Self::NUMBER_BITS) << Self::UNIT_BITS;
        let (most, rtt) = (since + (1 << Self::UNIT_BITS), rtt.min(Self::INTERVAL_MAX));
        self.0 != 0 && number(self) == number(next) && (since < REPAIR_REPEAT_MIN || most < rtt * 7 / 8)
    }
}

impl Budget {
    pub(crate) fn new() -> Self {
        Budget { credit: Credit(REPAIR_BURST), repaired: [Repaired::default(); REPAIRED_LEN] }
    }

    /// A media packet of this many bytes was sent.
    #[inline]
    pub(crate) fn earn(&mut self, len: usize) {
        self.credit.earn(len, REPAIR_BURST);
    }

    /// Whether the packet `seq` of `len` bytes may be sent again now; if so it is accounted for.
    pub(crate) fn spend(&mut self, seq: u16, len: usize, rtt: Micros, now: Micros) -> bool {
        let (place, next) = (usize::from(seq) % REPAIRED_LEN, Repaired::new(seq, now));
        let may = !self.repaired[place].forbids(next, rtt) && self.spend_copy(len);
        if may {
            self.repaired[place] = next;
        }
        may
    }

    /// Whether its share is too small for a packet of so many bytes.
    pub(crate) fn is_spent(&self, len: usize) -> bool {
        !self.credit.may_spend(len)
    }

    /// Whether what was just sent again may be sent once more; if so it is accounted for.
    pub(crate) fn spend_copy(&mut self, len: usize) -> bool {
        let may = self.credit.may_spend(len);
        self.credit.spend(if may { len } else { 0 });
        may
    }
}

/// A packet of a slot that its receiver lacks and was refused, because its path is full, and when: of several the first. Until it is
/// repaired, or a keyframe comes, the receiver may be unable to decode anything, and what it asks for may be lost, too. In one word: the
/// millisecond, and below it the sequence number.
#[derive(Clone, Copy, Default)]
pub(crate) struct Refused(Option<NonZeroU64>);
const _: () = assert!(size_of::<Refused>() == 8, "each video that a receiver has takes one");

impl Refused {
    /// A packet was refused.
    pub(crate) fn refuse(&mut self, seq: u16, now: Micros) {
        let word = (now / MILLISECOND).max(1) << u16::BITS | u64::from(seq);
        self.0 = self.0.or(NonZeroU64::new(word));
    }

    /// A packet was sent again.
    pub(crate) fn repaired(&mut self, seq: u16) {
        self.0.take_if(|word| word.get() as u16 == seq);
    }

    /// Forgets it if a keyframe has come since, at `keyframe`. Whether one is needed now; said once.
    pub(crate) fn needs_keyframe(&mut self, keyframe: Option<Micros>, now: Micros) -> bool {
        let Some(at) = self.0.map(|word| (word.get() >> u16::BITS) * MILLISECOND) else { return false };
        let is_over = keyframe.is_some_and(|keyframe| keyframe >= at);
        let is_due = now.saturating_sub(at) >= REFUSED_MAX;
        if is_over || is_due {
            self.0 = None;
        }
        is_due && !is_over
    }
}

/// Repairs of a slot by the same packets again: what is known of the newest packets that left, by the low bits of their
/// sequence number, and what sending them again may cost. The headers are written anew for that; here is what they said of
/// the moment. [`crate::srtp`] sees to it that nothing else leaves than what left.
pub(crate) struct Again {
    credit: Credit,
    transport_cc_seqs: [u16; SEALS],
    abs_send_times: [[u8; 3]; SEALS],
    /// When each left, at first or again, in units of 16 ms that come round after 4 s.
    left_at: [u8; SEALS],
    /// Bit n: the one in place n was asked for and has left again.
    are_repaired: u32,
    /// Bit n: the one in place n left as RED, with the packet so many before it.
    with_earlier: [u32; COPIES_MAX as usize],
    /// Moments at which the receiver asked since the first of them, when that was, and when the last was.
    requests: u8,
    requested_first: Micros,
    requested_last: Micros,
    /// Copies beside the first, and until when there are so many.
    copies: u8,
    held_until: Micros,
}
const _: () = assert!(SEALS <= u32::BITS as usize);
const _: () = assert!(size_of::<Again>() <= 260, "a peer in a meeting of eight has seven of them");

impl Again {
    const UNIT_BITS: u32 = 14;

    pub(crate) fn new() -> Self {
        Again {
            credit: Credit(AUDIO_REPAIR_BURST),
            transport_cc_seqs: [0; SEALS],
            abs_send_times: [[0; 3]; SEALS],
            left_at: [0; SEALS],
            are_repaired: 0,
            with_earlier: [0; COPIES_MAX as usize],
            requests: 0,
            requested_first: 0,
            requested_last: 0,
            copies: 0,
            held_until: 0,
        }
    }

    /// How many copies of each packet are sent beside the first, because so many are lost.
    #[inline]
    pub(crate) fn copies(&self, now: Micros) -> u8 {
        match now.checked_sub(self.held_until) {
            None => self.copies,
            Some(since) => self.copies.saturating_sub(1 + (since / COPIES_HELD).min(COPIES_MAX.into()) as u8),
        }
    }

    /// The receiver has asked for a packet that it lost.
    fn requested(&mut self, now: Micros) {
        self.copies = self.copies(now);
        self.held_until = now + COPIES_HELD;
        if self.requests > 0 && now < self.requested_last + COPIES_MOMENT {
            return;
        }
        if self.requests == 0 || now > self.requested_first + COPIES_WINDOW {
            (self.requests, self.requested_first) = (0, now);
        }
        self.requests += 1;
        self.requested_last = now;
        if self.requests >= COPIES_REQUESTS {
            self.requests = 0;
            self.copies = (self.copies + 1).min(COPIES_MAX);
        }
    }

    /// A packet left now, with this transport-cc number and abs-send-time, as RED with the earlier packets of these bits, the lowest for the
    /// one before; its payload has so many bytes.
    #[inline]
    pub(crate) fn left(&mut self, seq: u16, moment: (u16, [u8; 3]), earlier: u8, len: usize, now: Micros) {
        let place = usize::from(seq) % SEALS;
        (self.transport_cc_seqs[place], self.abs_send_times[place]) = moment;
        self.left_at[place] = Self::unit(now);
        self.are_repaired &= !(1 << place);
        for (back, with) in self.with_earlier.iter_mut().enumerate() {
            *with = *with & !(1 << place) | u32::from(earlier >> back & 1) << place;
        }
        self.credit.earn(len, AUDIO_REPAIR_BURST);
    }

    fn unit(now: Micros) -> u8 {
        (now >> Self::UNIT_BITS) as u8
    }

    /// With which earlier packets a packet left as RED: as in [`left`](Self::left).
    pub(crate) fn earlier(&self, seq: u16) -> u8 {
        let place = usize::from(seq) % SEALS;
        (0..).zip(self.with_earlier).map(|(back, with)| ((with >> place & 1) as u8) << back).sum()
    }

    /// What the header of a packet said of the moment when it left: transport-cc number and abs-send-time.
    pub(crate) fn moment(&self, seq: u16) -> (u16, [u8; 3]) {
        let place = usize::from(seq) % SEALS;
        (self.transport_cc_seqs[place], self.abs_send_times[place])
    }

    /// Whether the packet `seq` with a payload of `len` bytes, which the receiver asks for, may be sent again now; if so it is
    /// accounted for. Not while it is on its way: it was asked for before it could arrive, as happens where it came late from
    /// its publisher.
    pub(crate) fn spend(&mut self, seq: u16, len: usize, rtt: Micros, now: Micros) -> bool {
        let (place, unit) = (usize::from(seq) % SEALS, Self::unit(now));
        let since = Micros::from(unit.wrapping_sub(self.left_at[place])) << Self::UNIT_BITS;
        let is_under_way = match self.are_repaired >> place & 1 {
            0 => since + (1 << Self::UNIT_BITS) < rtt,
            _ => since < rtt.max(REPAIR_REPEAT_MIN),
        };
        if is_under_way {
            return false;
        }
        self.requested(now);
        if !self.credit.may_spend(len) {
            return false;
        }
        self.credit.spend(len);
        self.left_at[place] = unit;
        self.are_repaired |= 1 << place;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_asked_for_after_a_delay_then_each_round_trip_then_given_up() {
        let mut missing = MissingPackets::new(false);
        let mut seqs = [0; 64];
        let mut lost = 0;
        assert_eq!(missing.arrived(65_534, None, 0), Arrival::default());
        assert_eq!(missing.arrived(65_538, Some(65_534), 0), Arrival::default());
        assert_eq!(missing.due(NACK_DELAY - 1, 50_000, &mut seqs, &mut lost), 0, "reordering gets its chance");
        assert!(missing.arrived(65_536, Some(65_538), 1).recovered);
        assert_eq!(missing.due(NACK_DELAY, 50_000, &mut seqs, &mut lost), 2);
        assert_eq!(&seqs[..2], &[65_535, 1], "65537 is sequence number 1 of the next round");
        let mut now = NACK_DELAY + NACK_REPEAT;
        assert_eq!(missing.due(now - 1, 50_000, &mut seqs, &mut lost), 0);
        assert_eq!(missing.due(now, 50_000, &mut seqs, &mut lost), 2, "the first NACK may be lost");
        assert_eq!(missing.due(now + 49_999, 50_000, &mut seqs, &mut lost), 0);
        let mut asked = 2;
        while !missing.is_empty() {
            now += 10_000;
            asked += usize::from(missing.due(now, 50_000, &mut seqs, &mut lost) == 2);
        }
        assert_eq!((asked, lost), (2 * usize::from(NACK_TRIES_MAX), 2), "twice in each round trip");
    }

    #[test]
    fn on_a_short_way_video_is_asked_for_once_in_a_round_trip() {
        let (mut missing, mut seqs, mut lost) = (MissingPackets::new(false), [0; 64], 0);
        missing.arrived(1, None, 0);
        missing.arrived(3, Some(1), 0);
        let rtt = NACK_REPEAT_RTT - 1;
        let asked = (0..2_000).filter(|ms| missing.due(1000 * ms, rtt, &mut seqs, &mut lost) == 1);
        let first: Vec<u64> = asked.take(3).collect();
        assert_eq!(first, [10, 55, 100]);
    }

    #[test]
    fn a_stream_that_begins_out_of_order_is_asked_for_from_its_true_start() {
        let mut missing = MissingPackets::new(false);
        let (mut seqs, mut lost) = ([0; 64], 0);
        missing.arrived(10, None, 0);
        missing.arrived(12, Some(10), 0);
        missing.arrived(7, Some(12), 0);
        assert_eq!(missing.due(NACK_DELAY, 50_000, &mut seqs, &mut lost), 3);
        assert_eq!(seqs[..3], [8, 9, 11]);
        assert!(missing.arrived(9, Some(12), 1).recovered && missing.arrived(8, Some(12), 1).recovered);
        missing.clear();
        assert_eq!(missing.arrived(40_000, Some(40_001), 2), Arrival::default(), "known from before: not its start");
        assert_eq!(missing.len(), 0);
    }

    #[test]
    fn what_came_as_rtx_may_come_once_more_as_itself() {
        let mut missing = MissingPackets::new(false);
        assert!(!missing.take_repaired(0), "nothing came");
        (0..10).for_each(|index| missing.repaired(0x1_0000 + index));
        assert_eq!((0..11).filter(|seq| missing.take_repaired(*seq)).count(), REPAIRED_MAX, "the oldest are forgotten");
        assert!(!missing.take_repaired(9), "said once");
    }

    #[test]
    fn an_outage_is_not_tracked_packet_by_packet() {
        let mut missing = MissingPackets::new(false);
        assert_eq!(missing.arrived(MISSING_MAX as u64 + 2, Some(0), 0).lost, MISSING_MAX as u32 + 1);
        assert!(missing.is_empty());
    }

    /// How often a missing packet of audio is asked for, and when last.
    fn asked_of_audio(rtt: Micros) -> (usize, Micros) {
        let mut missing = MissingPackets::new(true);
        let (mut seqs, mut lost, mut asked) = ([0; 64], 0, (0, 0));
        missing.arrived(1, None, 0);
        missing.arrived(3, Some(1), 0);
        for now in (0..2_000_000).step_by(1000) {
            if missing.due(now, rtt, &mut seqs, &mut lost) == 1 {
                asked = (asked.0 + 1, now);
            }
        }
        assert!(missing.is_empty() && lost == 1);
        asked
    }

    #[test]
    fn audio_is_asked_for_while_it_can_help() {
        assert_eq!(asked_of_audio(100_000), (6, 255_000), "twice in each round trip");
        assert_eq!(asked_of_audio(20_000).0, 2 * usize::from(NACK_TRIES_MAX));
        assert_eq!(asked_of_audio(300_000), (2, NACK_DELAY + NACK_REPEAT));
        assert_eq!(asked_of_audio(401_000).0, 0, "it would come too late");
        let mut missing = MissingPackets::new(true);
        missing.arrived(0, None, 0);
        assert_eq!(missing.arrived(AUDIO_MISSING_MAX as u64 + 2, Some(0), 0).lost, AUDIO_MISSING_MAX as u32 + 1);
    }

    #[test]
    fn what_leaves_again_is_a_share_and_never_twice_in_a_round_trip() {
        let mut again = Again::new();
        again.left(7, (700, [7; 3]), 0b10, 0, 900_000);
        again.left(8, (800, [8; 3]), 0, 0, 900_000);
        assert_eq!((again.earlier(7), again.earlier(8)), (0b10, 0));
        assert_eq!((again.moment(7), again.moment(8)), ((700, [7; 3]), (800, [8; 3])));
        assert!(!again.spend(7, 100, 100_000, 960_000), "asked for before it could arrive");
        assert!(again.copies(960_000) == 0 && again.requests == 0, "which is no loss");
        let now = 1_020_000;
        assert!(again.spend(7, 100, 100_000, now) && again.spend(8, 100, 100_000, now));
        assert!(!again.spend(7, 100, 100_000, now + 80_000));
        assert!(again.spend(7, 100, 100_000, now + 120_000));
        let sent =
            (0..1000).filter(|seq| again.spend(*seq, 100, 20_000, now + 1_000_000 + u64::from(*seq) * 1000)).count();
        assert!(sent * 100 <= AUDIO_REPAIR_BURST as usize, "{sent} packets");
        again.left(1001, (1, [0; 3]), 0, 200, now + 2_500_000);
        assert!(again.spend(1001, 100, 100_000, now + 3_000_000));
        assert!(!again.spend(1001, 100, 100_000, now + 3_500_000), "half of what was sent");
    }

    #[test]
    fn who_loses_much_gets_more_copies() {
        let mut again = Again::new();
        // One packet in a hundred, and a burst: seldom enough.
        for ms in (0..20_000u64).step_by(2_000) {
            (0..10).for_each(|n| again.requested(ms * 1000 + n * 5_000));
            assert_eq!(again.copies(ms * 1000 + 60_000), 0, "{ms}");
        }
        let mut now = 30_000_000;
        let mut ask = |again: &mut Again, count| {
            for _ in 0..count {
                now += 400_000;
                again.requested(now);
            }
            now
        };
        let last = ask(&mut again, 3);
        assert_eq!([last, last + COPIES_HELD - 1, last + COPIES_HELD].map(|at| again.copies(at)), [1, 1, 0]);
        let last = ask(&mut again, 1);
        assert_eq!(again.copies(last + COPIES_HELD - 1), 1, "it loses some all the same");
        let last = ask(&mut again, 9);
        assert_eq!(again.copies(last), COPIES_MAX);
        let later = [1, 2, 3, 1000].map(|times| again.copies(last + times * COPIES_HELD));
        assert_eq!(later, [1, 0, 0, 0], "one fewer after the other");
    }

    #[test]
    fn repair_is_a_share_and_never_twice_in_a_round_trip() {
        let mut budget = Budget::new();
        assert!(budget.spend(7, 1000, 100_000, 0));
        assert!(!budget.spend(7, 1000, 100_000, 75_000));
        assert!(budget.spend(7, 1000, 100_000, 98_000), "its receiver knows of a round trip that is a little shorter");
        assert!(budget.spend(7, 1000, 100_000, 200_000));
        let mut sent = 3000;
        for seq in 8..u16::MAX {
            sent += if budget.spend(seq, 1000, 100_000, 300_000) { 1000 } else { break };
        }
        assert!(sent <= REPAIR_BURST);
        budget.earn(2000);
        assert!(budget.spend(9999, 1000, 100_000, 300_001));
        assert!(!budget.spend(9998, 1000, 100_000, 300_001));
    }
}
