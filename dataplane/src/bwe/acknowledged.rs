//! The rate that arrives at the receiver, by what its feedback acknowledges (libwebrtc `RobustThroughputEstimator`, whose
//! constants these are): the lower of the rates of sending and arrival over a window, from which the longest gap between
//! arrivals is left out, so that a pause of the path does not count as a lower rate.

use crate::config::{Micros, SECOND};
use crate::twcc::DELTA_TICK;

/// The window: as many packets as this and as long as this, and never more than that.
const PACKETS_MIN: usize = 20;
const PACKETS_MAX: usize = 500;
const DURATION_MIN: i64 = SECOND as i64;
const DURATION_MAX: i64 = 5 * SECOND as i64;
/// Packets without which there is no rate.
const PACKETS_REQUIRED: usize = 10;
/// An arrival that is this much before the newest is of another clock (`kMaxReorderingTime`).
const REORDERING_MAX: i64 = SECOND as i64;
/// What arrives now: as long as this, and as many packets as this.
const RECENT: i64 = 250_000;
const RECENT_PACKETS: usize = 8;
/// Shortest duration by which is divided, µs.
const DIVISOR_MIN: i64 = 1000;

/// Packets in the ring: one more than stay.
const RING: usize = 512;

/// Feedback tells arrivals in ticks of this, and so they are kept: 16 bits of them are 16 s.
const TICK: i64 = DELTA_TICK as i64;
const _: () = assert!(DURATION_MAX + REORDERING_MAX < TICK << u16::BITS);

/// A packet that arrived: low bits of the ticks of arrival and of the time at which it was sent, and bytes.
#[derive(Clone, Copy)]
struct Packet {
    sent: u32,
    arrived: u16,
    len: u16,
}
const _: () = assert!(size_of::<Packet>() == 8, "each receiver has 512 of them");

/// The window of one path.
pub(super) struct Acknowledged {
    /// By arrival: `count` packets from `first`.
    ring: Box<[Packet; RING]>,
    first: usize,
    count: usize,
    /// Times that the low bits count from: the newest arrival, and some packet that was sent lately.
    arrived_newest: i64,
    sent_recent: Micros,
    /// How many of the newest came without a gap in the feedback.
    gapless: usize,
    /// The latest time of sending of those that left the window.
    discarded: Option<Micros>,
}

impl Acknowledged {
    pub(super) fn new() -> Self {
        let none = Packet { sent: 0, arrived: 0, len: 0 };
        Acknowledged {
            ring: Box::new([none; RING]),
            first: 0,
            count: 0,
            arrived_newest: 0,
            sent_recent: 0,
            gapless: 0,
            discarded: None,
        }
    }

    /// Bytes that it takes beyond itself.
    pub(super) const fn bytes(&self) -> usize {
        size_of::<[Packet; RING]>()
    }

    fn at(&self, index: usize) -> &Packet {
        &self.ring[(self.first + index) % RING]
    }

    fn arrived(&self, index: usize) -> i64 {
        self.arrived_newest - i64::from(self.behind(self.at(index)))
    }

    /// How long before the newest one a packet arrived, µs.
    fn behind(&self, packet: &Packet) -> u32 {
        u32::from(ticks(self.arrived_newest).wrapping_sub(packet.arrived)) * TICK as u32
    }

    fn sent(&self, index: usize) -> Micros {
        let behind = (self.sent_recent as u32).wrapping_sub(self.at(index).sent) as i32;
        self.sent_recent.saturating_add_signed(-i64::from(behind))
    }

    /// A feedback was lost: what it reported will be missing here.
    pub(super) fn gap(&mut self) {
        self.gapless = 0;
    }

    /// A packet that was sent at `sent` has arrived, by the receiver's clock, at `arrived`.
    pub(super) fn packet(&mut self, sent: Micros, arrived: i64, len: u16) {
        let arrived = arrived.div_euclid(TICK) * TICK;
        if self.count > 0 && self.arrived_newest.saturating_sub(arrived) > REORDERING_MAX {
            (self.count, self.discarded) = (0, None);
            return;
        }
        // Whatever a packet that is that much later makes too old has to go first: 32 bits could not tell it apart.
        if self.count > 0 && arrived.saturating_sub(self.arrived_newest) > DURATION_MAX {
            while self.count > 0 {
                self.discard();
            }
        }
        if self.count == 0 {
            self.arrived_newest = arrived;
        }
        self.arrived_newest = self.arrived_newest.max(arrived);
        self.sent_recent = sent;
        if self.count == RING - 1 {
            self.discard();
        }
        let mut index = self.count;
        self.gapless = (self.gapless + 1).min(RING);
        self.count += 1;
        // In the order of arrival: packets come nearly sorted.
        while index > 0 && self.arrived(index - 1) > arrived {
            self.ring[(self.first + index) % RING] = *self.at(index - 1);
            index -= 1;
        }
        self.ring[(self.first + index) % RING] = Packet { sent: sent as u32, arrived: ticks(arrived), len };
        while self.is_first_outside() {
            self.discard();
        }
    }

    fn is_first_outside(&self) -> bool {
        if self.count < 2 {
            return false;
        }
        let duration = self.arrived_newest - self.arrived(0);
        self.count > PACKETS_MAX || duration > DURATION_MAX || (self.count > PACKETS_MIN && duration > DURATION_MIN)
    }

    fn discard(&mut self) {
        self.discarded = self.discarded.max(Some(self.sent(0)));
        (self.first, self.count) = ((self.first + 1) % RING, self.count - 1);
    }

    /// The rate of the last arrivals, bit/s. Noisy; but behind a full queue it is what the path carries now, when the window
    /// still remembers what it carried before.
    pub(super) fn recent_bps(&self) -> Option<f64> {
        let mut bytes = 0;
        for back in 1..self.count.min(self.gapless) {
            let index = self.count - back;
            bytes += u64::from(self.at(index).len);
            let duration = self.arrived_newest - self.arrived(index - 1);
            if duration >= RECENT && back >= RECENT_PACKETS {
                return Some(rate(bytes, duration));
            }
        }
        None
    }

    /// Bit/s, once there are enough packets.
    pub(super) fn bps(&self) -> Option<f64> {
        if self.count < PACKETS_REQUIRED {
            return None;
        }
        // Times as how long before the newest arrival, and before the packet that was sent lately.
        let discarded = self.discarded.map_or(i64::MAX, |at| self.sent_recent as i64 - at as i64);
        let (mut gap, mut gap_second, mut before) = (0, 0, None);
        let (mut sent_first, mut sent_last, mut sent_last_len) = (i64::MIN, i64::MAX, 0);
        let (mut arrived_len, mut sent_len, mut sent_count) = (0, 0, 0);
        for packet in self.packets() {
            let len = u64::from(packet.len);
            let arrived = self.behind(packet);
            if let Some(before) = before {
                let this: u32 = before - arrived;
                if this > gap {
                    (gap, gap_second) = (this, gap);
                } else {
                    gap_second = gap_second.max(this);
                }
                arrived_len += len; // The first marks the begin of the interval; its bytes came before.
            }
            before = Some(arrived);
            let sent = i64::from((self.sent_recent as u32).wrapping_sub(packet.sent) as i32);
            if sent > discarded {
                continue; // Sent before what left the window, and late.
            }
            if sent < sent_last {
                (sent_last, sent_last_len) = (sent, len);
            }
            sent_first = sent_first.max(sent);
            sent_len += len;
            sent_count += 1;
        }
        let duration = self.arrived_newest - self.arrived(0) - i64::from(gap) + i64::from(gap_second);
        let arrived = rate(arrived_len, duration);
        if sent_count < PACKETS_REQUIRED {
            return Some(arrived);
        }
        Some(arrived.min(rate(sent_len - sent_last_len, sent_first - sent_last)))
    }

    /// The packets of the window in the order of their arrival.
    fn packets(&self) -> impl Iterator<Item = &Packet> {
        let wrapped = (self.first + self.count).saturating_sub(RING);
        let end = (self.first + self.count).min(RING);
        self.ring[self.first..end].iter().chain(&self.ring[..wrapped])
    }
}

/// Low bits of a time, in ticks.
fn ticks(at: i64) -> u16 {
    at.div_euclid(TICK) as u16
}

/// Bit/s of so many bytes in so many µs.
fn rate(bytes: u64, duration: i64) -> f64 {
    (bytes * 8 * SECOND / duration.max(DIVISOR_MIN) as u64) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1000;

    fn fed(packets: impl Iterator<Item = (u64, u64)>) -> Acknowledged {
        let mut acknowledged = Acknowledged::new();
        packets.for_each(|(sent, arrived)| acknowledged.packet(sent, arrived as i64, 1000));
        acknowledged
    }

    #[test]
    fn a_steady_rate_is_measured_and_a_pause_of_the_path_is_not_a_lower_rate() {
        assert_eq!(fed((0..9).map(|n| (n * 10 * MS, n * 10 * MS))).bps(), None, "too few");
        assert_eq!(fed((0..200).map(|n| (n * 10 * MS, n * 10 * MS))).bps(), Some(800_000.0));
        let paused = |n: u64| n * 10 * MS + if n > 120 { 300 * MS } else { 0 };
        assert_eq!(fed((0..200).map(|n| (n * 10 * MS, paused(n)))).bps(), Some(800_000.0));
    }

    #[test]
    fn a_bottleneck_shows_and_so_does_a_sender_that_is_slower_than_what_comes_out_of_a_queue() {
        let slowed = fed((0..200).map(|n| (n * 10 * MS, n * 20 * MS))).bps().unwrap();
        assert!((slowed - 400_000.0).abs() < 1.0, "{slowed}");
        let drained = fed((0..200).map(|n| (n * 10 * MS, n * 5 * MS))).bps().unwrap();
        assert!((drained - 800_000.0).abs() < 1.0, "{drained}");
    }

    #[test]
    fn a_drop_shows_at_once_in_what_arrives_now() {
        // From 2 s on 100 kb/s come through, of 800.
        let acknowledged =
            fed((0..250).map(|n| (n * 10 * MS, n * 10 * MS + if n > 200 { (n - 200) * 70 * MS } else { 0 })));
        assert_eq!(acknowledged.recent_bps(), Some(100_000.0));
        let acknowledged =
            fed((0..205).map(|n| (n * 10 * MS, n * 10 * MS + if n > 200 { (n - 200) * 70 * MS } else { 0 })));
        assert!(acknowledged.bps().unwrap() > 500_000.0 && acknowledged.recent_bps().unwrap() < 300_000.0);
        assert_eq!(fed((0..20).map(|n| (n * 10 * MS, n * 10 * MS))).recent_bps(), None);
    }

    #[test]
    fn another_clock_starts_over() {
        let mut acknowledged = fed((0..50).map(|n| (n * 10 * MS, 10_000 * MS + n * 10 * MS)));
        acknowledged.packet(510 * MS, 0, 1000);
        assert_eq!(acknowledged.bps(), None);
        acknowledged.packet(520 * MS, i64::MAX / 2, 1000);
        acknowledged.packet(530 * MS, i64::MIN / 2, 1000);
        assert_eq!(acknowledged.bps(), None);
    }

    proptest! {
        #[test]
        fn whatever_arrives_it_stays_sorted_and_within_its_bounds(
            packets in prop::collection::vec((0u64..50_000, -3_000_000i64..3_000_000), 1..1500),
        ) {
            let mut acknowledged = Acknowledged::new();
            let (mut sent, mut arrived) = (1 << 33, 0i64);
            for (after, moved) in packets {
                sent += after;
                arrived += moved / 20;
                acknowledged.packet(sent, arrived, 1200);
                prop_assert!(acknowledged.count <= PACKETS_MAX + 1);
                prop_assert!((1..acknowledged.count).all(|n| acknowledged.arrived(n - 1) <= acknowledged.arrived(n)));
                prop_assert!(acknowledged.bps().is_none_or(|bps| bps.is_finite() && bps >= 0.0));
            }
        }
    }
}
