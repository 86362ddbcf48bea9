//! The packets that a transport sent, until feedback says what became of them.

use crate::config::{Micros, SECOND};

/// Age at which a packet that nobody reported leaves the history, as in libwebrtc (`kSendTimeHistoryWindow`). 32 bits of µs
/// tell times apart that lie within this.
const AGE_MAX: Micros = 60 * SECOND;

/// Bounds of the packets in a history, 8 bytes each. At the rates of a meeting 1024 are more than two seconds; 4096 are two
/// seconds of 16 Mb/s in packets of 1000 bytes.
const PACKETS_MIN: usize = 1024;
const PACKETS_MAX: usize = 4096;
/// Mean length for which the history is made, bytes: audio and video mixed.
const LEN_MEAN: u64 = 500;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// This number was not sent.
    Vacant,
    Sent,
    /// Reported as lost, with the number of the loss observation that counted it, modulo 32.
    Lost(u8),
    Received,
}

#[derive(Clone, Copy)]
struct Packet {
    /// Low bits of the time at which it left.
    sent: u32,
    len: u16,
    /// Its probe, 0 for none.
    probe: u8,
    state: StateByte,
}

/// A packet's [`State`] in one byte: observations are told apart modulo 32, twice as many as are kept.
#[derive(Clone, Copy)]
struct StateByte(u8);

impl StateByte {
    const fn new(state: State) -> Self {
        StateByte(match state {
            State::Vacant => 0,
            State::Sent => 1,
            State::Received => 2,
            State::Lost(observation) => 3 | observation << 3,
        })
    }

    const fn get(self) -> State {
        match self.0 & 7 {
            0 => State::Vacant,
            1 => State::Sent,
            2 => State::Received,
            _ => State::Lost(self.0 >> 3),
        }
    }
}

/// A packet as feedback found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) sent: Micros,
    pub(super) len: u16,
    /// 0 for none.
    pub(super) probe: u8,
    /// The observation, modulo 32, that counted it as lost before.
    pub(super) lost_in: Option<u8>,
}

/// What the history knows of a reported packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Report {
    /// Nothing: it left the history, or was never sent.
    Unknown,
    /// It was reported like this before.
    Repeated,
    /// New.
    Found(Found),
}

/// A ring over the newest packets by transport-wide sequence number. No allocation after [`History::new`].
pub(super) struct History {
    ring: Box<[Packet]>,
    /// Extended sequence numbers: `begin..end` are in the ring.
    begin: u64,
    end: u64,
    sent_last: Micros,
    expired_at: Micros,
}

impl History {
    /// A history for two seconds at a rate, bit/s, within the bounds above.
    pub(super) fn new(bps_max: u64) -> Self {
        let packets = usize::try_from(bps_max / 8 / LEN_MEAN * 2).unwrap_or(PACKETS_MAX);
        let len = packets.clamp(PACKETS_MIN, PACKETS_MAX).next_power_of_two();
        let vacant = Packet { sent: 0, len: 0, probe: 0, state: StateByte::new(State::Vacant) };
        History { ring: vec![vacant; len].into(), begin: 0, end: 0, sent_last: 0, expired_at: 0 }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.ring)
    }

    /// When the newest left.
    pub(super) fn sent_last(&self) -> Micros {
        self.sent_last
    }

    /// Packets that one feedback may report.
    pub(super) fn capacity(&self) -> usize {
        self.ring.len()
    }

    fn place(&mut self, seq: u64) -> &mut Packet {
        let mask = self.ring.len() - 1;
        &mut self.ring[seq as usize & mask]
    }

    /// A packet left. Numbers that go backwards begin a new sequence, and what was before is forgotten.
    pub(super) fn sent(&mut self, now: Micros, seq: u16, len: usize, probe: u8) {
        // Not at each packet: the oldest one is on a cache line of its own. 32 bits tell times apart that lie within an hour.
        if now.saturating_sub(self.expired_at) > AGE_MAX {
            self.expire(now);
        }
        let skipped = u64::from(seq.wrapping_sub(self.end as u16));
        if self.begin == self.end || skipped >= self.ring.len() as u64 {
            self.end = (self.end | 0xffff) + 1 + u64::from(seq);
            self.begin = self.end;
        } else {
            for _ in 0..skipped {
                let end = self.end;
                *self.place(end) = Packet { sent: now as u32, len: 0, probe: 0, state: StateByte::new(State::Vacant) };
                self.end += 1;
            }
        }
        let (end, len) = (self.end, len.min(usize::from(u16::MAX)) as u16);
        *self.place(end) = Packet { sent: now as u32, len, probe, state: StateByte::new(State::Sent) };
        self.end += 1;
        self.begin = self.begin.max(self.end.saturating_sub(self.ring.len() as u64));
        self.sent_last = now;
    }

    /// Forgets what is too old to be told apart by 32 bits.
    pub(super) fn expire(&mut self, now: Micros) {
        self.expired_at = now;
        if now.saturating_sub(self.sent_last) > AGE_MAX {
            self.begin = self.end;
        }
        while self.begin < self.end {
            let begin = self.begin;
            if Micros::from((now as u32).wrapping_sub(self.place(begin).sent)) <= AGE_MAX {
                break;
            }
            self.begin += 1;
        }
    }

    /// Feedback reports the packet: received, or lost, which `observation` counts. Run [`History::expire`] before.
    pub(super) fn report(&mut self, now: Micros, seq: u16, is_received: bool, observation: u8) -> Report {
        let back = u64::from((self.end as u16).wrapping_sub(seq));
        if back == 0 || back > self.end - self.begin {
            return Report::Unknown;
        }
        let ext = self.end - back;
        let packet = self.place(ext);
        let lost_in = match (packet.state.get(), is_received) {
            (State::Vacant, _) => return Report::Unknown,
            (State::Received, _) | (State::Lost(_), false) => return Report::Repeated,
            (State::Lost(observation), true) => Some(observation),
            (State::Sent, _) => None,
        };
        packet.state = StateByte::new(if is_received { State::Received } else { State::Lost(observation % 32) });
        let sent = now.saturating_sub(Micros::from((now as u32).wrapping_sub(packet.sent)));
        Report::Found(Found { sent, len: packet.len, probe: packet.probe, lost_in })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(history: &mut History, now: Micros, seq: u16) -> Option<Micros> {
        match history.report(now, seq, true, 0) {
            Report::Found(found) => Some(found.sent),
            _ => None,
        }
    }

    #[test]
    fn packets_are_found_once_across_the_wrap_of_numbers_and_times() {
        let mut history = History::new(2_000_000);
        assert_eq!((history.capacity(), history.bytes()), (1024, 8192));
        let start = (1 << 32) - 50_000;
        for n in 0..100 {
            history.sent(start + n * 1000, 65_500u16.wrapping_add(n as u16), 1200, 0);
        }
        let now = start + 200_000;
        for n in 0..100 {
            let seq = 65_500u16.wrapping_add(n as u16);
            assert_eq!(found(&mut history, now, seq), Some(start + n * 1000));
            assert_eq!(history.report(now, seq, true, 0), Report::Repeated);
        }
        assert_eq!(history.report(now, 65_499, true, 0), Report::Unknown);
        assert_eq!(history.report(now, 64, true, 0), Report::Unknown, "not sent yet");
    }

    #[test]
    fn a_lost_packet_may_arrive_later_and_says_who_counted_it() {
        let mut history = History::new(2_000_000);
        history.sent(1000, 7, 100, 3);
        assert!(matches!(history.report(2000, 7, false, 37), Report::Found(Found { lost_in: None, .. })));
        assert_eq!(history.report(2000, 7, false, 38), Report::Repeated);
        let expected = Found { sent: 1000, len: 100, probe: 3, lost_in: Some(5) };
        assert_eq!(history.report(3000, 7, true, 39), Report::Found(expected));
    }

    #[test]
    fn what_is_old_skipped_or_overwritten_is_unknown() {
        let mut history = History::new(2_000_000);
        history.sent(0, 1, 100, 0);
        history.sent(10, 4, 100, 0);
        assert_eq!(history.report(20, 2, true, 0), Report::Unknown, "skipped");
        history.sent(AGE_MAX + 5, 5, 100, 0);
        history.expire(AGE_MAX + 5);
        assert_eq!(history.report(AGE_MAX + 5, 1, true, 0), Report::Unknown, "old");
        assert_eq!(found(&mut history, AGE_MAX + 5, 4), Some(10));
        for seq in 6..1100 {
            history.sent(AGE_MAX + 6, seq, 100, 0);
        }
        assert_eq!(history.report(AGE_MAX + 6, 5, true, 0), Report::Unknown, "overwritten");
        history.sent(AGE_MAX + 7, 3, 100, 0);
        assert_eq!(history.report(AGE_MAX + 7, 1099, true, 0), Report::Unknown, "another sequence");
        assert_eq!(found(&mut history, AGE_MAX + 8, 3), Some(AGE_MAX + 7));
        // Two hours later 32 bits have wrapped.
        assert_eq!(found(&mut History::new(0), 7200 * SECOND, 3), None);
        history.expire(7200 * SECOND);
        assert_eq!(history.report(7200 * SECOND, 3, true, 0), Report::Unknown);
    }

    proptest! {
        #[test]
        fn a_found_packet_was_sent_at_that_time(
            steps in prop::collection::vec((0u64..2 * SECOND, 0u16..4, any::<u16>()), 1..300),
        ) {
            let mut history = History::new(1_000_000);
            let mut model = std::collections::HashMap::new();
            let (mut now, mut seq) = (5_000_000_000, 65_000u16);
            for (after, skip, asked) in steps {
                now += after;
                seq = seq.wrapping_add(skip).wrapping_add(1);
                history.sent(now, seq, 100, 0);
                model.insert(seq, now);
                history.expire(now);
                let asked = seq.wrapping_sub(asked % 200);
                if let Some(sent) = found(&mut history, now, asked) {
                    prop_assert_eq!(model.remove(&asked), Some(sent));
                }
            }
        }
    }
}
