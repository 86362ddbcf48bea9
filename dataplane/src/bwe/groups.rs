//! Packets that were sent together, and how much later one group arrived than the one before it (libwebrtc
//! `InterArrivalDelta`, whose constants these are).

use crate::config::{MILLISECOND, SECOND};

/// Packets that were sent within this are one group (`kSendTimeGroupLength`).
const GROUP: i64 = 5 * MILLISECOND as i64;
/// Packets that arrive within this of each other, and sooner than they were sent, came out of one queue at once
/// (`kBurstDeltaThreshold`, `kMaxBurstDuration`).
const BURST_GAP: i64 = 5 * MILLISECOND as i64;
const BURST_MAX: i64 = 100 * MILLISECOND as i64;
/// Arrivals that move away from the feedback's times by this are of another clock (`kArrivalTimeOffsetThreshold`).
const CLOCK_JUMP: i64 = 3 * SECOND as i64;
/// Groups that arrive before their predecessors: after this many in a row the clock was set back
/// (`kReorderedResetThreshold`).
const REORDERED_MAX: u8 = 3;

#[derive(Clone, Copy)]
struct Group {
    sent_first: i64,
    sent_last: i64,
    arrived_first: i64,
    arrived_last: i64,
    /// When its last feedback came.
    at: i64,
}

/// How far apart two groups were, milliseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Deltas {
    pub(super) sent: f64,
    pub(super) arrived: f64,
}

/// The groups of one path.
#[derive(Default)]
pub(super) struct Groups {
    /// Complete, and being filled.
    before: Option<Group>,
    group: Option<Group>,
    reordered: u8,
}

impl Groups {
    /// A packet that was sent and arrived at these times, µs of two clocks, of which feedback came at `now`. The distance of
    /// the last two groups if this packet begins a third.
    pub(super) fn packet(&mut self, sent: i64, arrived: i64, now: i64) -> Option<Deltas> {
        let begun = Group { sent_first: sent, sent_last: sent, arrived_first: arrived, arrived_last: arrived, at: now };
        let Some(group) = &mut self.group else {
            self.group = Some(begun);
            return None;
        };
        if sent < group.sent_first {
            return None; // Overtaken by a group that was sent later.
        }
        if !group.is_left_by(sent, arrived) {
            group.sent_last = group.sent_last.max(sent);
            (group.arrived_last, group.at) = (arrived, now);
            return None;
        }
        let complete = *group;
        let mut deltas = None;
        if let Some(before) = &self.before {
            let arrived = complete.arrived_last.saturating_sub(before.arrived_last);
            if arrived.saturating_sub(complete.at - before.at) >= CLOCK_JUMP {
                *self = Groups::default();
                return None;
            }
            if arrived < 0 {
                self.reordered += 1;
                if self.reordered >= REORDERED_MAX {
                    *self = Groups::default();
                }
                return None;
            }
            self.reordered = 0;
            let sent = complete.sent_last - before.sent_last;
            deltas = Some(Deltas { sent: sent as f64 / 1000.0, arrived: arrived as f64 / 1000.0 });
        }
        (self.before, self.group) = (Some(complete), Some(begun));
        deltas
    }
}

impl Group {
    /// Whether a packet with these times is no longer part of it.
    fn is_left_by(&self, sent: i64, arrived: i64) -> bool {
        let (sent_gap, arrived_gap) = (sent - self.sent_last, arrived.saturating_sub(self.arrived_last));
        let is_burst = sent_gap == 0
            || (arrived_gap < sent_gap
                && arrived_gap <= BURST_GAP
                && arrived.saturating_sub(self.arrived_first) < BURST_MAX);
        !is_burst && sent - self.sent_first > GROUP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = MILLISECOND as i64;

    /// Deltas of packets given as (sent, arrived) in milliseconds.
    fn deltas(packets: &[(i64, i64)]) -> Vec<(f64, f64)> {
        let mut groups = Groups::default();
        let each = packets.iter().filter_map(|&(sent, arrived)| groups.packet(sent * MS, arrived * MS, arrived * MS));
        each.map(|deltas| (deltas.sent, deltas.arrived)).collect()
    }

    #[test]
    fn packets_within_five_milliseconds_are_one_group() {
        let packets = [(0, 50), (4, 55), (10, 61), (14, 64), (20, 71), (30, 90)];
        assert_eq!(deltas(&packets), [(10.0, 9.0), (6.0, 7.0)]);
    }

    #[test]
    fn a_burst_is_one_group_whatever_the_times_of_sending() {
        // The path held everything back until 100.
        let packets = [(0, 50), (10, 60), (20, 100), (30, 101), (40, 102), (50, 103), (70, 120), (80, 131)];
        assert_eq!(deltas(&packets), [(10.0, 10.0), (40.0, 43.0), (20.0, 17.0)]);
    }

    #[test]
    fn overtaken_packets_and_clocks_set_back_are_left_out() {
        assert_eq!(deltas(&[(0, 50), (10, 61), (8, 62), (20, 71), (30, 80)]), [(10.0, 12.0 - 1.0), (10.0, 10.0)]);
        let set_back = [(0, 5000), (10, 5010), (20, 20), (30, 30), (40, 40), (50, 50), (60, 60), (70, 70), (80, 80)];
        assert!(deltas(&set_back).iter().all(|&(sent, arrived)| sent == arrived), "{:?}", deltas(&set_back));
        // The arrival clock jumps ahead by ten seconds, the feedback's time does not.
        let mut groups = Groups::default();
        let jumped = |n: i64| if n < 5 { n * 10 * MS } else { n * 10 * MS + 10_000 * MS };
        for n in 0..10 {
            if let Some(deltas) = groups.packet(n * 10 * MS, jumped(n), n * 10 * MS) {
                assert_eq!(deltas, Deltas { sent: 10.0, arrived: 10.0 });
            }
        }
    }
}
