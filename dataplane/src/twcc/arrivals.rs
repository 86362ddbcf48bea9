//! When a publisher's packets arrived, and the feedback written from it.

use super::chunk::{ChunkWriter, Symbol};
use super::{DELTA_TICK, REFERENCE_TICK};
use crate::config::Micros;

/// Longest feedback packet that an [`ArrivalLog`] fills, RTCP header and SSRCs included. Below the 1200 bytes that every
/// path carries, with room for a receiver report before it and the SRTCP trailer after it.
pub const FEEDBACK_LEN_MAX: usize = 1100;

/// RTCP header, sender and media SSRC, which [`crate::rtcp::CompoundWriter`] writes.
const FRAME_LEN: usize = 12;

/// Base sequence number, status count, reference time, feedback count.
const PREFIX_LEN: usize = 8;

/// Least room for a message that says something: three runs of missing packets fill the widest log, then one chunk and
/// one delta say what arrived.
const MESSAGE_LEN_MIN: usize = PREFIX_LEN + 3 * 2 + 2 + 4;

/// Age at which an arrival that was reported leaves the log, µs, as in libwebrtc. A packet that is later than this gets no
/// report.
const BACK_WINDOW: Micros = 500_000;

/// Bounds of a log's capacity. A quarter of the sequence space keeps "before" and "after" apart; 64 is one burst.
const CAPACITY_MIN: usize = 64;
const CAPACITY_MAX: usize = 1 << 14;

/// Times that are remembered together lie this close, µs; after a longer silence the log starts over. Half of what 32 bits
/// tell apart, less a margin for arrivals that are told in another order.
const SPAN_MAX: Micros = 1 << 30;

/// What the log has made of a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noted {
    /// It is higher than all before, and so many between have not come.
    Next {
        /// Of these.
        left_out: u32,
    },
    /// One of those that had not come.
    Late,
    /// It came before, or is too old.
    Known,
}

/// When the packets of one transport arrived, by transport-wide sequence number, and what of it was reported.
///
/// A ring over the newest sequence numbers; no allocation after [`ArrivalLog::new`]. A packet that arrives late, below what
/// was reported already, takes the next report back to itself, as libwebrtc's RemoteEstimatorProxy does: what is said
/// twice is said with the same time, and the sender heeds the first.
#[derive(Debug)]
pub struct ArrivalLog {
    /// Arrival of extended sequence number `s` at `s % len`; [`ArrivalLog::MISSING`] for each one outside `begin..end`.
    ///
    /// The low bits of the time: all that is in the log lies within [`SPAN_MAX`] of `latest`.
    arrivals: Box<[u32]>,
    /// Time of the last push.
    latest: Micros,
    /// Extended sequence numbers. `begin` is the lowest still accepted, `end` one past the highest that arrived.
    begin: i64,
    end: i64,
    /// The first to report. All below were reported; `next == end` when nothing new arrived.
    next: i64,
    feedback_count: u8,
}

impl ArrivalLog {
    const MISSING: u32 = u32::MAX;

    /// A log over the newest `capacity` sequence numbers, rounded up to a power of two from 64 to 16384.
    ///
    /// Between two reports no more packets than this may arrive, or the oldest go unreported; each takes 4 bytes.
    pub fn new(capacity: usize) -> ArrivalLog {
        let len = capacity.clamp(CAPACITY_MIN, CAPACITY_MAX).next_power_of_two();
        let arrivals = vec![Self::MISSING; len].into();
        ArrivalLog { arrivals, latest: 0, begin: 0, end: 0, next: 0, feedback_count: 0 }
    }

    /// Forgets all arrivals, for another occupant of the same place. The feedback count starts again.
    pub fn clear(&mut self) {
        self.arrivals.fill(Self::MISSING);
        (self.begin, self.end, self.next, self.feedback_count) = (0, 0, 0, 0);
    }

    /// Whether something arrived that was not reported.
    pub fn has_unreported(&self) -> bool {
        self.next < self.end
    }

    /// Notes that the packet `seq` arrived at `at`. Only for authenticated packets. A repeated one keeps its first time, and
    /// one older than the window is not taken up.
    pub fn push(&mut self, seq: u16, at: Micros) -> Noted {
        if at.abs_diff(self.latest) > SPAN_MAX {
            self.arrivals.fill(Self::MISSING);
            (self.begin, self.next) = (self.end, self.end);
        } else if self.next == self.end {
            self.cull(at);
        }
        self.latest = at;
        if self.begin == self.end {
            // The first packet, or the first after a pause: any sequence number will do, and those just before it may come.
            (self.begin, self.end) = (i64::from(seq) + 1 - self.arrivals.len() as i64, i64::from(seq));
            self.next = self.end;
        }
        let ahead = seq.wrapping_sub(self.end as u16) as i16;
        let seq = self.end + i64::from(ahead);
        if seq < self.begin || (seq < self.end && self.arrival(seq).is_some()) {
            return Noted::Known;
        }
        let noted = u32::try_from(ahead).map_or(Noted::Late, |left_out| Noted::Next { left_out });
        if seq >= self.end {
            self.advance(seq + 1);
        }
        self.next = self.next.min(seq);
        // The one time that is no time is said a microsecond early.
        *self.place(seq) = (at as u32).min(Self::MISSING - 1);
        noted
    }

    fn place(&mut self, seq: i64) -> &mut u32 {
        let mask = self.arrivals.len() - 1;
        &mut self.arrivals[seq as usize & mask]
    }

    /// When the packet arrived, if it did.
    fn arrival(&self, seq: i64) -> Option<Micros> {
        let low = self.arrivals[seq as usize & (self.arrivals.len() - 1)];
        let behind = (self.latest as u32).wrapping_sub(low) as i32;
        (low != Self::MISSING).then(|| self.latest.saturating_add_signed(-i64::from(behind)))
    }

    /// Moves the window up so that it ends at `end`, and clears the places that change their owner.
    fn advance(&mut self, end: i64) {
        let begin = self.begin.max(end - self.arrivals.len() as i64);
        for seq in self.begin..begin.min(self.end) {
            *self.place(seq) = Self::MISSING;
        }
        (self.begin, self.end) = (begin, end);
        // What left the window unreported stays unsaid: to call it lost would be untrue.
        self.next = self.next.max(begin);
    }

    /// Lets go of what arrived longer than the back window before `now`. Run when all is reported, so that a late packet
    /// takes a report back by half a second at the most.
    fn cull(&mut self, now: Micros) {
        let oldest = now.saturating_sub(BACK_WINDOW);
        let mut keep_from = self.begin;
        for seq in self.begin..self.end {
            match self.arrival(seq) {
                None => {}
                Some(at) if at <= oldest => keep_from = seq + 1,
                Some(_) => break,
            }
        }
        for seq in self.begin..keep_from {
            *self.place(seq) = Self::MISSING;
        }
        self.begin = keep_from;
    }

    /// Writes one feedback message into `out`, from the base sequence number on, and returns its length: a multiple of 4,
    /// or 0 if nothing new arrived or there is no room. It covers as much as fits; call again while
    /// [`ArrivalLog::has_unreported`] says so.
    ///
    /// The end is padded with zeros that the status count already excludes. The P bit stays clear: RFC 3550 §6.4.1
    /// allows it in the last packet of a compound only, and this one can stand anywhere.
    pub fn write_feedback(&mut self, out: &mut [u8]) -> usize {
        let room = out.len().min(FEEDBACK_LEN_MAX - FRAME_LEN) & !3;
        if !self.has_unreported() || room < MESSAGE_LEN_MIN {
            return 0;
        }
        let base = self.next;
        let first = (base..self.end).find_map(|seq| self.arrival(seq));
        let first = first.expect("the highest sequence number of the log has arrived");
        let reference_time = first / REFERENCE_TICK;

        let (chunks_len, covered_end) = self.write_chunks(base, reference_time, &mut out[PREFIX_LEN..room]);
        let deltas_start = PREFIX_LEN + chunks_len;
        let deltas_len = self.write_deltas(base..covered_end, reference_time, &mut out[deltas_start..room]);
        let end = deltas_start + deltas_len;
        let padded = end.next_multiple_of(4);
        out[end..padded].fill(0);

        out[..2].copy_from_slice(&(base as u16).to_be_bytes());
        out[2..4].copy_from_slice(&((covered_end - base) as u16).to_be_bytes());
        out[4..8].copy_from_slice(&((reference_time as u32) << 8 | u32::from(self.feedback_count)).to_be_bytes());
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.next = covered_end;
        padded
    }

    /// Writes chunks for as many packets as have room together with their deltas and whose deltas can be said; returns
    /// the bytes written and one past the last packet covered, which is one that arrived.
    fn write_chunks(&mut self, base: i64, reference_time: Micros, out: &mut [u8]) -> (usize, i64) {
        let mut clock = DeltaClock::new(reference_time);
        let mut chunks = ChunkWriter::new();
        let mut deltas_len = 0;
        let mut done = (chunks, base);
        for seq in base..self.end {
            let symbol = match self.arrival(seq) {
                None => Symbol::Missing,
                Some(at) => match clock.tick(at) {
                    Some(delta) => Symbol::of(delta),
                    None => break,
                },
            };
            deltas_len += symbol.delta_len();
            if !chunks.push(symbol, out) || chunks.len() + deltas_len > out.len() {
                break;
            }
            if symbol != Symbol::Missing {
                done = (chunks, seq + 1);
            }
        }
        // Statuses after the last arrival that fitted are taken back: their loss is not certain yet.
        let (chunks, covered_end) = done;
        (chunks.finish(out), covered_end)
    }

    fn write_deltas(&mut self, covered: std::ops::Range<i64>, reference_time: Micros, out: &mut [u8]) -> usize {
        let mut clock = DeltaClock::new(reference_time);
        let mut len = 0;
        for seq in covered {
            let Some(at) = self.arrival(seq) else { continue };
            let delta = clock.tick(at).expect("the same delta had its chunk written");
            match Symbol::of(delta) {
                Symbol::LargeDelta => out[len..len + 2].copy_from_slice(&delta.to_be_bytes()),
                _ => out[len] = delta as u8,
            }
            len += Symbol::of(delta).delta_len();
        }
        len
    }
}

/// Turns arrivals into deltas of ticks. Each is taken from the time that the receiver will have reconstructed, so that
/// rounding never adds up.
struct DeltaClock {
    ticks: i64,
}

impl DeltaClock {
    fn new(reference_time: Micros) -> DeltaClock {
        DeltaClock { ticks: (reference_time * (REFERENCE_TICK / DELTA_TICK)) as i64 }
    }

    /// The delta to `at`; `None` if 16 bits cannot hold it (±8.2 s), and a new packet must carry a new reference.
    fn tick(&mut self, at: Micros) -> Option<i16> {
        let ticks = (at / DELTA_TICK) as i64 + i64::from(at % DELTA_TICK >= DELTA_TICK / 2);
        let delta = i16::try_from(ticks - self.ticks).ok()?;
        self.ticks = ticks;
        Some(delta)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::twcc::TransportCc;

    /// What one feedback message says: its size, base, statuses with absolute times in ticks, and feedback count.
    struct Report {
        len: usize,
        base_seq: u16,
        statuses: Vec<(u16, Option<i64>)>,
        feedback_count: u8,
    }

    fn report_into(log: &mut ArrivalLog, room: usize) -> Option<Report> {
        let mut body = vec![0xee; 8 + room];
        let len = log.write_feedback(&mut body[8..]);
        if len == 0 {
            return None;
        }
        let feedback = TransportCc::parse(&body[..8 + len]).unwrap();
        let mut time = i64::from(feedback.reference_time) * 256;
        let statuses = feedback.statuses().map(|(seq, delta)| {
            (
                seq,
                delta.map(|delta| {
                    time += i64::from(delta);
                    time
                }),
            )
        });
        Some(Report {
            len,
            base_seq: feedback.base_seq,
            statuses: statuses.collect(),
            feedback_count: feedback.feedback_count,
        })
    }

    fn report(log: &mut ArrivalLog) -> Option<Report> {
        report_into(log, 2000)
    }

    fn statuses(log: &mut ArrivalLog) -> Vec<(u16, Option<i64>)> {
        let report = report(log).expect("something to report");
        assert!(!log.has_unreported());
        report.statuses
    }

    #[test]
    fn arrivals_are_reported_with_their_gaps() {
        let mut log = ArrivalLog::new(256);
        log.push(65_535, 1_000_000);
        log.push(1, 1_001_000);
        let first = report(&mut log).unwrap();
        assert_eq!((first.base_seq, first.feedback_count, first.len % 4), (65_535, 0, 0));
        assert_eq!(first.statuses, [(65_535, Some(4000)), (0, None), (1, Some(4004))]);
        assert!(report(&mut log).is_none());
        log.push(3, 1_002_000);
        let second = report(&mut log).unwrap();
        assert_eq!((second.base_seq, second.feedback_count), (2, 1), "the base follows the last report");
        assert_eq!(second.statuses, [(2, None), (3, Some(4008))]);
    }

    #[test]
    fn reordered_arrivals_have_negative_deltas() {
        let mut log = ArrivalLog::new(256);
        log.push(10, 1_000_000);
        log.push(12, 1_001_000);
        log.push(11, 1_002_000);
        log.push(9, 1_003_000);
        assert_eq!(statuses(&mut log), [(9, Some(4012)), (10, Some(4000)), (11, Some(4008)), (12, Some(4004))]);
    }

    #[test]
    fn a_late_packet_takes_the_report_back_to_itself() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(3, 1_001_000);
        assert_eq!(statuses(&mut log), [(1, Some(4000)), (2, None), (3, Some(4004))]);
        log.push(4, 1_100_000);
        log.push(2, 1_100_250);
        assert_eq!(statuses(&mut log), [(2, Some(4401)), (3, Some(4004)), (4, Some(4400))]);
    }

    #[test]
    fn a_repeated_packet_keeps_its_first_time() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(1, 1_050_000);
        assert_eq!(statuses(&mut log), [(1, Some(4000))]);
        log.push(1, 1_060_000);
        assert!(!log.has_unreported());
    }

    #[test]
    fn what_is_older_than_the_back_window_is_let_go() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(3, 1_000_000);
        log.push(6, 1_400_000);
        statuses(&mut log);
        log.push(7, 1_600_000);
        log.push(2, 1_600_000);
        log.push(5, 1_600_000);
        assert_eq!(statuses(&mut log), [(5, Some(6400)), (6, Some(5600)), (7, Some(6400))], "2 is too late");
    }

    #[test]
    fn after_a_long_pause_any_sequence_number_starts_again() {
        let mut log = ArrivalLog::new(256);
        log.push(40_000, 1_000_000);
        statuses(&mut log);
        log.push(10, 60_000_000);
        assert_eq!(statuses(&mut log), [(10, Some(240_000))]);
    }

    #[test]
    fn a_delta_that_does_not_fit_starts_another_packet() {
        let mut log = ArrivalLog::new(256);
        log.push(1, 1_000_000);
        log.push(3, 1_000_000 + 8_192_000);
        let (first, second) = (report(&mut log).unwrap(), report(&mut log).unwrap());
        assert_eq!(first.statuses, [(1, Some(4000))], "the gap belongs to the packet that ends it");
        assert_eq!(second.statuses, [(2, None), (3, Some(36_768))]);
        assert_eq!(second.feedback_count, 1);

        log.clear();
        log.push(1, 1_000_000);
        log.push(2, 1_000_000 + 32_767 * 250);
        assert_eq!(statuses(&mut log), [(1, Some(4000)), (2, Some(4000 + 32_767))]);
    }

    #[test]
    fn the_reference_time_wraps_at_24_bits() {
        let mut log = ArrivalLog::new(256);
        log.push(1, ((1 << 24) + 5) * REFERENCE_TICK + 250);
        assert_eq!(statuses(&mut log), [(1, Some(5 * 256 + 1))]);
    }

    #[test]
    fn rounding_does_not_add_up() {
        let mut log = ArrivalLog::new(4096);
        // 100.1 µs apart: each delta alone would round to nothing.
        for n in 0..2000u64 {
            log.push(n as u16, 1_000_000 + n * 1001 / 10);
        }
        let mut reported = Vec::new();
        while let Some(report) = report(&mut log) {
            reported.extend(report.statuses);
        }
        assert_eq!(reported.len(), 2000);
        for (n, &(_, ticks)) in reported.iter().enumerate() {
            let error = ticks.unwrap() * 250 - (1_000_000 + n as i64 * 1001 / 10);
            assert!(error.abs() <= 125, "packet {n} is off by {error} µs");
        }
    }

    #[test]
    fn a_packet_stays_below_its_limit_and_the_rest_follows() {
        let mut log = ArrivalLog::new(8192);
        // Alternating far times need a large delta each.
        for n in 0..3000u16 {
            log.push(n, if n % 2 == 0 { 1_000_000 } else { 2_000_000 });
        }
        let (mut next, mut packets) = (0, 0);
        while let Some(report) = report(&mut log) {
            assert!(FRAME_LEN + report.len <= FEEDBACK_LEN_MAX);
            assert_eq!(usize::from(report.base_seq), next);
            next += report.statuses.len();
            packets += 1;
        }
        assert_eq!(next, 3000);
        // Two bytes of delta each, and hardly any for the chunks, which are runs: about 538 in a packet.
        assert_eq!(packets, 6);
    }

    #[test]
    fn without_room_nothing_is_lost() {
        let mut log = ArrivalLog::new(CAPACITY_MAX);
        log.push(1, 1_000_000);
        log.push(16_000, 1_001_000);
        assert!(report_into(&mut log, MESSAGE_LEN_MIN - 1).is_none());
        let mut said = 0;
        while let Some(report) = report_into(&mut log, MESSAGE_LEN_MIN) {
            assert!(report.len <= MESSAGE_LEN_MIN);
            said += report.statuses.len();
        }
        assert_eq!(said, 16_000);
    }

    #[test]
    fn overflow_of_the_log_drops_the_oldest_and_calls_none_lost() {
        let mut log = ArrivalLog::new(64);
        for n in 0..100 {
            log.push(n, 1_000_000);
        }
        let reported = statuses(&mut log);
        assert_eq!(reported.first(), Some(&(36, Some(4000))));
        assert!(reported.iter().all(|(_, time)| time.is_some()));
        log.push(20_000, 1_000_000);
        let jump = statuses(&mut log);
        assert_eq!((jump.len(), jump[63]), (64, (20_000, Some(4000))));
    }

    #[test]
    fn the_feedback_count_wraps() {
        let mut log = ArrivalLog::new(64);
        for n in 0..300u16 {
            log.push(n, 1_000_000 + u64::from(n));
            assert_eq!(report(&mut log).unwrap().feedback_count, n as u8);
        }
    }

    proptest! {
        /// Against a map: everything that arrived within the window is reported, at its own time, and nothing else is.
        #[test]
        fn reports_agree_with_an_oracle(
            start: u16,
            steps in prop::collection::vec((-20i64..60, 0u64..40_000, prop::bool::weighted(0.05)), 1..400),
            room in MESSAGE_LEN_MIN..1500,
        ) {
            let mut log = ArrivalLog::new(1 << 14);
            let mut arrived = BTreeMap::new();
            let mut told = BTreeMap::new();
            let (mut seq, mut now, mut count) = (i64::from(start), 1_000_000, 0u8);
            let mut drain = |log: &mut ArrivalLog, arrived: &BTreeMap<u16, i64>, told: &mut BTreeMap<u16, i64>| {
                while let Some(report) = report_into(log, room) {
                    assert!(report.len <= room);
                    assert_eq!(report.feedback_count, count);
                    count = count.wrapping_add(1);
                    assert!(report.statuses.last().unwrap().1.is_some(), "a report ends with an arrival");
                    for (seq, ticks) in report.statuses {
                        // Each is told as it is known now. What was forgotten after 500 ms may be told as missing.
                        if let Some(ticks) = ticks {
                            assert_eq!(arrived.get(&seq), Some(&ticks));
                            told.insert(seq, ticks);
                        } else {
                            assert!(!arrived.contains_key(&seq) || told.contains_key(&seq));
                        }
                    }
                }
            };
            for (jump, wait, is_due) in steps {
                (seq, now) = ((seq + jump).max(i64::from(start)), now + wait / 10);
                log.push(seq as u16, now);
                arrived.entry(seq as u16).or_insert((now as i64 + 125) / 250);
                if is_due {
                    drain(&mut log, &arrived, &mut told);
                }
            }
            drain(&mut log, &arrived, &mut told);
            // Nothing is older than 500 ms when it is 400 steps of at most 4 ms, unless it was told and let go: then a
            // repetition of it is refused or told again, and a first arrival below the window may stay untold.
            let lowest_kept = log.begin as u16;
            for (seq, ticks) in &arrived {
                let is_below = (seq.wrapping_sub(lowest_kept) as i16) < 0;
                prop_assert!(told.get(seq) == Some(ticks) || is_below, "{seq} was not told");
            }
        }
    }
}
