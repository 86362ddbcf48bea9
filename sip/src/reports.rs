//! RTCP of one call toward its telephone (RFC 3550 §6), without sockets and clock: what is told every five seconds or so, and
//! what the telephone tells of what it hears.

use std::time::{Duration, Instant};

use client::random::Random;
use client::rtcp::{self, Compound, Packet, ReportBlock, SenderInfo};

use crate::limits::{Bucket, Rate};
use crate::reception::Reception;

/// Between two reports, on average; each is between half of it and one and a half (§6.2).
const INTERVAL: Duration = Duration::from_secs(5);
/// Compounds that are read. A telephone sends one in five seconds, and one more when something happens.
const READ: Rate = Rate { per_second: 5.0, burst: 20.0 };
/// A round trip beyond which it is a wrong number.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(30);

/// What became of a compound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Read {
    Taken,
    Malformed,
    TooMany,
}

/// What the telephone said last of what it hears.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct There {
    /// Packets that it has lost.
    pub(crate) lost: u32,
    pub(crate) jitter: Duration,
}

/// What of our own stream a report says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(crate) ssrc: u32,
    /// RTP time now.
    pub(crate) rtp_time: u32,
    pub(crate) packets: u32,
    pub(crate) octets: u32,
}

/// What of the telephone's stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theirs {
    pub(crate) ssrc: u32,
    pub(crate) reception: Reception,
    /// In RTP ticks.
    pub(crate) jitter: u32,
}

#[derive(Debug)]
pub(crate) struct Reports {
    random: Random,
    cname: String,
    /// Where NTP times begin: the clock of one stream need not be that of the day (RFC 3550 §6.4.1).
    epoch: Instant,
    next: Instant,
    /// Packets that we had sent by the last two reports.
    sent: [u32; 2],
    /// Expected and received packets of the telephone by the last report.
    before: (u64, u64),
    /// Middle of the NTP time of their last report, and when it came.
    heard: Option<(u32, Instant)>,
    read: Bucket,
    pub(crate) there: Option<There>,
    pub(crate) round_trip: Option<Duration>,
    /// Those that were measured, and their sum.
    pub(crate) round_trips: (u64, Duration),
}

impl Reports {
    pub(crate) fn new(now: Instant, mut random: Random) -> Reports {
        Reports {
            // RFC 7022: 96 bits by chance.
            cname: format!("{:016x}{:08x}", random.u64(), random.ssrc()),
            epoch: now,
            next: now + INTERVAL.mul_f64(share(&mut random) / 2.0),
            random,
            sent: [0, 0],
            before: (0, 0),
            heard: None,
            read: Bucket::full(now, READ),
            there: None,
            round_trip: None,
            round_trips: (0, Duration::ZERO),
        }
    }

    /// Seconds since a second before the epoch in 32.32 bits: a time of zero would say that there is none.
    fn ntp_time(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.epoch).as_nanos() + 1_000_000_000;
        ((nanos << 32) / 1_000_000_000) as u64
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A report, and with `is_last` the end of our source.
    pub(crate) fn write(&mut self, now: Instant, own: &Own, theirs: Option<&Theirs>, is_last: bool) -> Vec<u8> {
        let after = INTERVAL.mul_f64(share(&mut self.random));
        self.next = now + after;
        let block = theirs.map(|theirs| self.block(now, theirs));
        let mut compound = Compound::default();
        let ntp_time = self.ntp_time(now);
        // Who has sent since the report before the last one is a sender (§6.4).
        if own.packets != self.sent[0] {
            let (packets, octets) = (own.packets, own.octets);
            let info = SenderInfo { ssrc: own.ssrc, ntp_time, rtp_time: own.rtp_time, packets, octets };
            compound.sender_report_with(&info, block);
        } else {
            compound.receiver_report(own.ssrc, block);
        }
        self.sent = [self.sent[1], own.packets];
        compound.cname(own.ssrc, &self.cname);
        if is_last {
            compound.goodbye(own.ssrc);
        }
        compound.bytes().to_vec()
    }

    fn block(&mut self, now: Instant, theirs: &Theirs) -> ReportBlock {
        let (expected, received) = (theirs.reception.expected(), theirs.reception.received());
        let (expected_now, received_now) =
            (expected.saturating_sub(self.before.0), received.saturating_sub(self.before.1));
        self.before = (expected, received);
        let lost_now = expected_now.saturating_sub(received_now);
        let (last_sender_report, delay) = self.heard.map_or((0, 0), |(middle, at)| {
            (middle, (now.saturating_duration_since(at).as_secs_f64() * 65_536.0) as u32)
        });
        ReportBlock {
            ssrc: theirs.ssrc,
            fraction_lost: (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            // 24 bits with a sign.
            total_lost: theirs.reception.lost().min(0x7F_FFFF) as u32,
            highest_seq: theirs.reception.highest(),
            jitter: theirs.jitter,
            last_sender_report,
            delay,
        }
    }

    /// Reads what came; `ssrc` is ours, and `rate` its ticks a second.
    pub(crate) fn read(&mut self, now: Instant, compound: &[u8], ssrc: u32, rate: u32) -> Read {
        if !self.read.take(now, READ) {
            return Read::TooMany;
        }
        if !rtcp::is_whole(compound) {
            return Read::Malformed;
        }
        for packet in rtcp::packets(compound) {
            let blocks = match packet {
                Packet::SenderReport { ntp_time, blocks, .. } => {
                    self.heard = Some(((ntp_time >> 16) as u32, now));
                    blocks
                }
                Packet::ReceiverReport { blocks, .. } => blocks,
                _ => continue,
            };
            for block in rtcp::report_blocks(blocks).filter(|block| block.ssrc == ssrc) {
                let jitter = Duration::from_secs_f64(f64::from(block.jitter) / f64::from(rate));
                // A negative sum says that packets came twice.
                let lost = if block.total_lost > 0x7F_FFFF { 0 } else { block.total_lost };
                self.there = Some(There { lost, jitter });
                if let Some(round_trip) = self.round_trip_of(now, &block) {
                    self.round_trip = Some(round_trip);
                    self.round_trips = (self.round_trips.0 + 1, self.round_trips.1 + round_trip);
                }
            }
        }
        Read::Taken
    }

    /// RFC 3550 §6.4.1: now, less the report of ours that they name, less the time for which they had it.
    fn round_trip_of(&self, now: Instant, block: &ReportBlock) -> Option<Duration> {
        let middle = (self.ntp_time(now) >> 16) as u32;
        let ticks = middle.wrapping_sub(block.last_sender_report).wrapping_sub(block.delay).cast_signed();
        let is_known = block.last_sender_report != 0;
        let round_trip = Duration::from_secs_f64(f64::from(ticks.max(0)) / 65_536.0);
        // Clocks are not exact: a little below zero is none.
        (is_known && ticks > -655 && round_trip <= ROUND_TRIP_MAX).then_some(round_trip)
    }
}

/// From a half to one and a half.
fn share(random: &mut Random) -> f64 {
    0.5 + f64::from(random.ssrc()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { ssrc: 7, rtp_time: 8000, packets: 50, octets: 8000 };

    fn reports(now: Instant, seed: u64) -> Reports {
        Reports::new(now, Random::from_seed(seed))
    }

    fn heard(ssrc: u32, seqs: impl IntoIterator<Item = u16>) -> Theirs {
        let mut reception = Reception::default();
        seqs.into_iter().for_each(|seq| reception.receive(seq));
        Theirs { ssrc, reception, jitter: 40 }
    }

    /// Two ends that report to each other over a network of 30 ms each way, in which one packet of five is lost.
    #[test]
    fn two_ends_know_loss_jitter_and_round_trip_of_each_other() {
        let begin = Instant::now();
        let (mut a, mut b) = (reports(begin, 1), reports(begin + Duration::from_secs(100), 2));
        let (own_a, own_b) = (OWN, Own { ssrc: 9, ..OWN });
        let way = Duration::from_millis(30);
        let theirs = heard(7, (0..100).filter(|seq| seq % 5 != 1));
        let mut now = begin + Duration::from_secs(101);
        let report = a.write(now, &own_a, None, false);
        now += way;
        assert_eq!(b.read(now, &report, 9, 8000), Read::Taken);
        assert_eq!((b.there, b.round_trip), (None, None), "it says nothing of ours");
        now += Duration::from_secs(3);
        let report = b.write(now, &own_b, Some(&theirs), false);
        let Some(Packet::SenderReport { blocks, .. }) = rtcp::packets(&report).next() else { panic!() };
        let block = rtcp::report_blocks(blocks).next().unwrap();
        assert_eq!((block.fraction_lost, block.total_lost, block.highest_seq), (51, 20, 99));
        now += way;
        assert_eq!(a.read(now, &report, 7, 8000), Read::Taken);
        assert_eq!(a.there, Some(There { lost: 20, jitter: Duration::from_millis(5) }));
        let round_trip = a.round_trip.unwrap();
        assert!(round_trip.abs_diff(2 * way) < Duration::from_millis(1), "{round_trip:?}");
        // Nothing is lost since.
        let report = b.write(now, &own_b, Some(&theirs), false);
        let Some(Packet::SenderReport { blocks, .. }) = rtcp::packets(&report).next() else { panic!() };
        assert_eq!(rtcp::report_blocks(blocks).next().unwrap().fraction_lost, 0);
    }

    #[test]
    fn reports_come_every_five_seconds_and_who_sends_nothing_only_receives() {
        let begin = Instant::now();
        let mut reports = reports(begin, 3);
        let mut at = Vec::new();
        let kinds = [50, 50, 50, 51].map(|packets| {
            let now = begin + at.iter().sum::<Duration>();
            at.push(reports.next - now);
            assert!(!reports.is_due(now) && reports.is_due(reports.next));
            reports.write(reports.next, &Own { packets, ..OWN }, None, packets == 51)
        });
        assert!(at[0] <= INTERVAL && at[1..].iter().all(|at| (2500..=7500).contains(&at.as_millis())), "{at:?}");
        let first = kinds
            .each_ref()
            .map(|compound| matches!(rtcp::packets(compound).next(), Some(Packet::SenderReport { .. })));
        assert_eq!(first, [true, true, false, true]);
        let all: Vec<Packet<'_>> = rtcp::packets(&kinds[3]).collect();
        assert_eq!(all[1..], [Packet::Other(202), Packet::Other(203)], "CNAME, and the end");
        assert!(kinds.iter().all(|compound| rtcp::is_whole(compound)));
    }

    /// What is cut, changed or sent too often is told apart from what is read, and times that cannot be are not measured.
    #[test]
    fn bad_reports_say_nothing() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut a = reports(now, 4);
        let whole = reports(now, 5).write(later, &Own { ssrc: 9, ..OWN }, Some(&heard(7, 0..10)), true);
        for len in 0..whole.len() {
            let at = later + Duration::from_secs(len as u64);
            let is_one = len == 52 || len == 52 + 36;
            assert_eq!(a.read(at, &whole[..len], 7, 8000) == Read::Taken, is_one, "{len}");
        }
        assert_eq!(a.round_trips.0, 0, "it knows of no report of ours");
        let mut random = Random::from_seed(6);
        for n in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random.u64() % 4 {
                let at = random.u64() as usize % bytes.len();
                bytes[at] = random.u64() as u8;
            }
            a.read(later + Duration::from_millis(200 * n), &bytes, 7, 8000);
            assert!(a.round_trip.is_none_or(|round_trip| round_trip <= ROUND_TRIP_MAX));
        }
        let end = later + Duration::from_secs(10_000);
        let flood: Vec<Read> = (0..1000).map(|n| a.read(end + Duration::from_millis(n), &whole, 7, 8000)).collect();
        let taken = flood.iter().filter(|read| **read == Read::Taken).count();
        assert!((20..=25).contains(&taken) && flood.last() == Some(&Read::TooMany), "{taken}");
    }
}
