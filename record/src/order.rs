//! A slot's packets in their order: what comes late is waited for, so long as it can still be repaired.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use client::room::Packet;

/// How long a missing packet is waited for: four requests of a peer whose round trip is 60 ms. It is part of what a kill loses.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Packets that wait behind a missing one.
const HELD_MAX: usize = 1024;

/// A packet in its place.
#[derive(Debug)]
pub struct Ordered {
    /// The packet.
    pub packet: Packet,
    /// How many before it never came.
    pub lost: u64,
}

/// One slot's packets.
#[derive(Default, Debug)]
pub struct Order {
    next: Option<u64>,
    held: BTreeMap<u64, Packet>,
}

impl Order {
    /// Takes a packet as it came.
    pub fn push(&mut self, packet: Packet) {
        if self.next.is_none_or(|next| packet.number >= next) {
            self.held.insert(packet.number, packet);
        }
    }

    /// The next in order, if it is there or what is before it is given up.
    pub fn pop(&mut self, now: Instant) -> Option<Ordered> {
        let (&number, first) = self.held.first_key_value()?;
        let next = self.next.unwrap_or(number);
        let is_late = || now.duration_since(first.arrival) >= WAIT_MAX || self.held.len() > HELD_MAX;
        if number > next && !is_late() {
            return None;
        }
        let packet = self.held.remove(&number)?;
        self.next = Some(number + 1);
        Some(Ordered { packet, lost: number - next })
    }
}

#[cfg(test)]
mod tests {
    use client::room::Codec;
    use client::rtp::Header;

    use super::*;

    fn packet(number: u64, arrival: Instant) -> Packet {
        let header = Header { marker: false, pt: 0, seq: number as u16, timestamp: 0, ssrc: 0, len: 12 };
        Packet { slot: 0, codec: Codec::Opus, number, header, payload: Vec::new(), arrival }
    }

    #[test]
    fn what_is_late_is_waited_for_and_what_is_lost_is_counted() {
        let (mut order, now) = (Order::default(), Instant::now());
        let pop = |order: &mut Order, at| order.pop(at).map(|ordered| (ordered.packet.number, ordered.lost));
        order.push(packet(10, now));
        assert_eq!(pop(&mut order, now), Some((10, 0)));
        order.push(packet(12, now));
        assert_eq!(pop(&mut order, now), None);
        order.push(packet(11, now));
        assert_eq!((pop(&mut order, now), pop(&mut order, now)), (Some((11, 0)), Some((12, 0))));
        order.push(packet(15, now));
        let later = now + WAIT_MAX;
        assert_eq!((pop(&mut order, now), pop(&mut order, later)), (None, Some((15, 2))));
        order.push(packet(13, later));
        assert_eq!(pop(&mut order, later), None, "too late");
    }
}
