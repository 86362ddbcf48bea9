//! How long what is sent to a client waits in a queue on its path, and how much that would be late goes there nevertheless.
//!
//! SCTP fills such a queue until packets are lost (RFC 9260 §7), and where the round trip is longer than its timeout for a message that is
//! not sent again, it takes each for lost and goes on. Messages that are not reliable would come late then, one behind the other. So the round
//! trip is measured here, by the numbers of chunks that go and of those that are acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What a queue may add to the round trip: the target of LEDBAT (RFC 6817 §2.5).
const TARGET: Duration = Duration::from_millis(100);

/// For how long it is longer before something is done: a client that had no processor for a moment is no queue (as in RFC 8289 §4.3).
const INTERVAL: Duration = Duration::from_millis(200);

/// For how long the least round trip is kept, at least, and for twice as long at most: the base of RFC 6817 §2.4.2, in two spans.
const SPAN: Duration = Duration::from_secs(30);

/// Bytes that go in a round trip where the queue is longer: one packet, so that something comes, and the queue becomes shorter.
const LEN: u32 = 1200;

/// Chunks whose way is measured at once; those that go while there are as many are not.
const CHUNKS_MAX: usize = 64;

const COMMON_HEADER_LEN: usize = 12;
const DATA: u8 = 0;
const I_DATA: u8 = 64;
const SACK: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Delay {
    /// Numbers of chunks on their way, in their order, and when they went first.
    chunks: VecDeque<(u32, Instant)>,
    /// The highest number that went.
    highest: Option<u32>,
    /// The round trip that was measured last.
    rtt: Option<Duration>,
    /// The least of the span before, and of this one.
    least: [Duration; 2],
    begun: Instant,
    /// Since when the queue is too long.
    long_since: Option<Instant>,
    /// When the next message may go where the queue is too long.
    next: Instant,
}

impl Delay {
    pub(crate) fn new(now: Instant) -> Delay {
        let least = [Duration::MAX; 2];
        Delay { chunks: VecDeque::new(), highest: None, rtt: None, least, begun: now, long_since: None, next: now }
    }

    /// A packet goes.
    pub(crate) fn sent(&mut self, now: Instant, packet: &[u8]) {
        for (kind, chunk) in chunks(packet) {
            if let (DATA | I_DATA, Some(number)) = (kind, word(chunk, 4))
                && self.highest.is_none_or(|highest| is_after(number, highest))
            {
                self.highest = Some(number);
                if self.chunks.len() < CHUNKS_MAX {
                    self.chunks.push_back((number, now));
                }
            }
        }
    }

    /// A packet comes. What counts is the highest number that it acknowledges: that something before is lost is no delay.
    pub(crate) fn received(&mut self, now: Instant, packet: &[u8]) {
        for (kind, chunk) in chunks(packet) {
            let (SACK, Some(cumulative)) = (kind, word(chunk, 4)) else { continue };
            let gaps = half(chunk, 12).map_or(0, usize::from);
            let ends = (0..gaps).map_while(|gap| half(chunk, 16 + 4 * gap + 2));
            let acked = cumulative.wrapping_add(ends.max().unwrap_or(0).into());
            while let Some((number, at)) = self.chunks.front().copied()
                && !is_after(number, acked)
            {
                self.chunks.pop_front();
                if number == acked {
                    self.measured(now, now.saturating_duration_since(at));
                }
            }
        }
    }

    fn measured(&mut self, now: Instant, rtt: Duration) {
        if now.saturating_duration_since(self.begun) >= SPAN {
            (self.least, self.begun) = ([self.least[1], Duration::MAX], now);
        }
        self.least[1] = self.least[1].min(rtt);
        self.rtt = Some(rtt);
    }

    /// Whether a message of this length, which is not reliable, is sent; then it counts.
    pub(crate) fn admits(&mut self, now: Instant, len: usize) -> bool {
        let Some(rtt) = self.rtt else { return true };
        let waits = self.chunks.front().map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at));
        let rtt = rtt.max(waits);
        if rtt <= self.least[0].min(self.least[1]) + TARGET {
            (self.long_since, self.next) = (None, now);
            return true;
        }
        if now.saturating_duration_since(*self.long_since.get_or_insert(now)) < INTERVAL {
            return true;
        }
        if now < self.next {
            return false;
        }
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.next = now + rtt.mul_f64(f64::from(len) / f64::from(LEN));
        true
    }
}

/// Type and bytes of each chunk of a packet (RFC 9260 §3.2), as far as they are whole.
fn chunks(packet: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = packet.get(COMMON_HEADER_LEN..).unwrap_or_default();
    std::iter::from_fn(move || {
        let len = usize::from(half(rest, 2)?);
        let chunk = rest.get(..len).filter(|_| len >= 4)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((chunk[0], chunk))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Serial numbers (RFC 1982).
fn is_after(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(chunks: &[&[u8]]) -> Vec<u8> {
        let mut packet = vec![0; COMMON_HEADER_LEN];
        for chunk in chunks {
            packet.extend([&chunk[..2], &(chunk.len() as u16 + 2).to_be_bytes(), &chunk[2..]].concat());
            packet.resize(packet.len().next_multiple_of(4), 0);
        }
        packet
    }

    fn data(number: u32) -> Vec<u8> {
        packet(&[&[&[I_DATA, 3][..], &number.to_be_bytes(), b"message"].concat()])
    }

    fn sack(cumulative: u32, gaps: &[[u16; 2]]) -> Vec<u8> {
        let gaps_len = (gaps.len() as u16).to_be_bytes();
        let gaps: Vec<u8> = gaps.iter().flatten().flat_map(|edge| edge.to_be_bytes()).collect();
        packet(&[&[&[SACK, 0][..], &cumulative.to_be_bytes(), &[0; 4], &gaps_len, &[0; 2], &gaps].concat()])
    }

    /// A chunk goes, and is acknowledged after so long.
    fn measure(delay: &mut Delay, now: &mut Instant, number: u32, ms: u64) {
        delay.sent(*now, &data(number));
        *now += Duration::from_millis(ms);
        delay.received(*now, &sack(number, &[]));
    }

    /// How many messages of a second are sent, of one each 10 ms.
    fn sent(delay: &mut Delay, from: Instant, len: usize) -> usize {
        (0..100).map(|n| from + Duration::from_millis(10 * n)).filter(|now| delay.admits(*now, len)).count()
    }

    #[test]
    fn beyond_a_queue_of_100_ms_a_packet_goes_in_a_round_trip() {
        let mut now = Instant::now();
        let mut delay = Delay::new(now);
        assert_eq!(sent(&mut delay, now, 1200), 100, "nothing is known yet");
        for (number, rtt, len, count) in [
            (u32::MAX, 50, 1200, 100),
            (0, 150, 1200, 100),
            (1, 250, 1200, 20 + 4),
            (2, 250, 120, 34),
            (3, 250, 12_000, 1),
            (4, 140, 1200, 100),
        ] {
            measure(&mut delay, &mut now, number, rtt);
            now += Duration::from_secs(3);
            assert_eq!(sent(&mut delay, now, len), count, "{rtt} ms, {len} bytes");
            now += Duration::from_secs(1);
        }
    }

    #[test]
    fn what_is_lost_is_no_delay_and_what_does_not_come_back_is_one() {
        let mut now = Instant::now();
        let mut delay = Delay::new(now);
        measure(&mut delay, &mut now, 10, 50);
        for number in 11..=15 {
            delay.sent(now, &data(number));
        }
        now += Duration::from_millis(60);
        // 11 and 13 have not come.
        delay.received(now, &sack(10, &[[2, 2], [4, 5]]));
        assert_eq!((delay.rtt, delay.chunks.len()), (Some(Duration::from_millis(60)), 0));
        delay.sent(now, &data(11));
        assert!(delay.chunks.is_empty(), "it goes again, and says nothing of the path");
        delay.sent(now, &data(16));
        assert!((0..=150).all(|ms| delay.admits(now + Duration::from_millis(ms), 1200)));
        // Who has no processor for a moment loses nothing.
        assert!((151..351).all(|ms| delay.admits(now + Duration::from_millis(ms), 1200)));
        let late = now + Duration::from_millis(400);
        assert!(delay.admits(late, 1200) && !delay.admits(late + Duration::from_millis(200), 1200));
    }

    #[test]
    fn a_path_that_is_another_one_is_taken_for_what_it_is() {
        let mut now = Instant::now();
        let mut delay = Delay::new(now);
        measure(&mut delay, &mut now, 0, 50);
        let mut counts = Vec::new();
        // Longer by 200 ms from now on.
        for number in 1..80 {
            measure(&mut delay, &mut now, number, 250);
            counts.push(sent(&mut delay, now, 1200));
            now += Duration::from_millis(1000);
        }
        assert!(counts[1..20].iter().all(|count| *count <= 5), "{counts:?}");
        assert!(counts[50..].iter().all(|count| *count == 100), "{counts:?}");
    }

    #[test]
    fn whatever_comes_is_read_within_its_bounds() {
        use proptest::prelude::*;
        proptest!(|(packets in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..64)), 0..200))| {
            let now = Instant::now();
            let mut delay = Delay::new(now);
            for (number, (is_sent, mut packet)) in (0..).zip(packets) {
                if packet.len() > 16 {
                    packet[12] = if is_sent { DATA } else { SACK };
                    packet[14] = 0;
                }
                let now = now + Duration::from_millis(number);
                if is_sent { delay.sent(now, &packet) } else { delay.received(now, &packet) }
                delay.admits(now, packet.len());
                prop_assert!(delay.chunks.len() <= CHUNKS_MAX);
            }
        });
    }
}
