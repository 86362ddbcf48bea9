//! What a publisher may send: bytes and packets of each peer, and of each of its tracks with all of its SSRCs (encodings and
//! retransmissions), by token buckets. The controlplane says the rates, from the policy of the room.
//!
//! A packet is judged once, when it has been authenticated and before it is anything else: strangers cannot use up what is a
//! peer's, and what a receiver's copy costs does not change. What is cut is for the sender like a loss on the way: it is not
//! acknowledged, so congestion control lowers its rate (RFC 8836 §2), and it is not asked for again.

use crate::bucket::Bucket;
use crate::config::{Micros, POLICE_BURST_LEN_MIN, POLICE_BURST_SECONDS};

/// The buckets of a peer or a track.
pub(crate) struct Police {
    bytes: Bucket,
    packets: Bucket,
}

/// A rate as a bucket has it: what may come at once, and what comes back in a second.
fn bucket_of(per_second: u32, burst_min: u32) -> (u32, u32) {
    (per_second.saturating_mul(POLICE_BURST_SECONDS).max(burst_min), per_second)
}

fn rates(bps: u32, packets: u32) -> [(u32, u32); 2] {
    [bucket_of(bps / 8, POLICE_BURST_LEN_MIN), bucket_of(packets, 1)]
}

impl Police {
    /// For so many bit/s and packets a second.
    pub(crate) fn new(bps: u32, packets: u32, now: Micros) -> Police {
        let [bytes, packets] = rates(bps, packets).map(|(burst, rate)| Bucket::new(burst, rate, now));
        Police { bytes, packets }
    }

    /// Other rates from now on.
    pub(crate) fn set(&mut self, bps: u32, packets: u32, now: Micros) {
        let [bytes, packets] = rates(bps, packets);
        self.bytes.set(bytes.0, bytes.1, now);
        self.packets.set(packets.0, packets.1, now);
    }

    #[inline]
    fn has_room(&mut self, len: u32, now: Micros) -> bool {
        self.bytes.has(len, now) && self.packets.has(1, now)
    }

    #[inline]
    fn spend(&mut self, len: u32) {
        self.bytes.spend(len);
        self.packets.spend(1);
    }
}

/// Lets a packet of `len` bytes pass if all of them have room for it: then it counts for all, else for none.
#[inline]
pub(crate) fn admit(police: [&mut Option<Box<Police>>; 2], len: usize, now: Micros) -> bool {
    let [first, second] = police;
    let len = len as u32;
    let has_room = |police: &mut Option<Box<Police>>| police.as_mut().is_none_or(|police| police.has_room(len, now));
    if !has_room(first) || !has_room(second) {
        return false;
    }
    for police in [first, second].into_iter().flatten() {
        police.spend(len);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SECOND;

    #[test]
    fn what_one_of_them_refuses_counts_for_neither() {
        let mut peer = Some(Box::new(Police::new(8_000_000, 1_000_000, 0)));
        let mut track = Some(Box::new(Police::new(80_000, 1_000_000, 0)));
        let burst = POLICE_BURST_LEN_MIN.max(10_000 * POLICE_BURST_SECONDS);
        let passed = (0..1000).filter(|_| admit([&mut peer, &mut track], 1000, 0)).count();
        assert_eq!(passed, burst as usize / 1000);
        let left = 1_000_000 * POLICE_BURST_SECONDS - passed as u32 * 1000;
        assert!(peer.as_mut().unwrap().bytes.has(left, 0), "the peer's other tracks have all the rest");
        assert!(admit([&mut peer, &mut None], 1000, 0) && admit([&mut None, &mut None], usize::MAX >> 33, 0));
    }

    #[test]
    fn tiny_packets_are_counted_too() {
        let mut track = Some(Box::new(Police::new(8_000_000, 100, 0)));
        let mut passed = |from: Micros, to: Micros| {
            (from..to).step_by(1000).filter(|now| admit([&mut None, &mut track], 20, *now)).count() as u32
        };
        assert!((100 * POLICE_BURST_SECONDS + 99..=100 * POLICE_BURST_SECONDS + 100).contains(&passed(0, SECOND)));
        assert!((999..=1001).contains(&passed(SECOND, 11 * SECOND)));
    }
}
