//! The hardware addresses of a device's neighbours, as the kernel tells of them.

use std::collections::HashMap;
use std::net::IpAddr;

use super::header::Mac;
use super::netlink::Neighbour;
use crate::config::{Micros, SECOND};
use crate::hash::KeyedHash;

/// Neighbours that are remembered; the kernel's own table has 1024 by default (gc_thresh3).
const NEIGHBOURS_MAX: usize = 2048;
/// How often a stale neighbour is given a packet by the socket.
const NUDGE_INTERVAL: Micros = SECOND;

/// One neighbour.
#[derive(Clone, Copy)]
struct Known {
    mac: Option<Mac>,
    is_fresh: bool,
    /// When it may have a packet by the socket again.
    nudge_at: Micros,
}

/// All of them. A place once given is never another neighbour's.
pub(super) struct Neighbours {
    list: Vec<Known>,
    index_of: HashMap<IpAddr, u32, KeyedHash>,
}

impl Neighbours {
    /// None; all memory is taken here. `seed` keys the table.
    pub(super) fn new(seed: [u8; 16]) -> Neighbours {
        Neighbours {
            list: Vec::with_capacity(NEIGHBOURS_MAX),
            index_of: HashMap::with_capacity_and_hasher(2 * NEIGHBOURS_MAX, KeyedHash::new(seed)),
        }
    }

    /// The place of a neighbour, a new one unknown as yet; `None` if there are too many.
    pub(super) fn index(&mut self, ip: IpAddr) -> Option<u32> {
        if let Some(&place) = self.index_of.get(&ip) {
            return Some(place);
        }
        if self.list.len() == NEIGHBOURS_MAX {
            return None;
        }
        let place = self.list.len() as u32;
        self.list.push(Known { mac: None, is_fresh: false, nudge_at: 0 });
        self.index_of.insert(ip, place);
        Some(place)
    }

    /// Takes in what the kernel told.
    pub(super) fn learn(&mut self, told: &Neighbour) {
        if let Some(place) = self.index(told.ip) {
            let known = &mut self.list[place as usize];
            (known.mac, known.is_fresh) = (told.mac, told.is_fresh);
        }
    }

    /// Takes every address for unknown.
    pub(super) fn forget(&mut self) {
        for known in &mut self.list {
            known.mac = None;
        }
    }

    /// Where to send what is for a neighbour. `None`: this time, give it to the socket, because the address is unknown, or
    /// because it is stale and the kernel has to notice that it is in use.
    #[inline]
    pub(super) fn mac(&mut self, place: u32, now: Micros) -> Option<Mac> {
        let known = &mut self.list[place as usize];
        if !known.is_fresh && now >= known.nudge_at {
            known.nudge_at = now + NUDGE_INTERVAL;
            return None;
        }
        known.mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];

    fn told(last: u8, mac: Option<Mac>, is_fresh: bool) -> Neighbour {
        Neighbour { device: 1, ip: IpAddr::from([10, 0, 0, last]), mac, is_fresh }
    }

    #[test]
    fn a_stale_neighbour_has_one_packet_a_second_by_the_socket() {
        let mut neighbours = Neighbours::new([0; 16]);
        let place = neighbours.index(told(2, None, false).ip).unwrap();
        assert_eq!(neighbours.mac(place, SECOND), None, "nothing is known");
        neighbours.learn(&told(2, Some(MAC), true));
        assert_eq!(neighbours.mac(place, SECOND), Some(MAC));
        neighbours.learn(&told(2, Some(MAC), false));
        assert_eq!(neighbours.mac(place, 10 * SECOND), None);
        assert_eq!(neighbours.mac(place, 10 * SECOND + 1), Some(MAC));
        assert_eq!(neighbours.mac(place, 11 * SECOND), None);
        neighbours.learn(&told(2, None, false));
        assert_eq!(neighbours.mac(place, 11 * SECOND + 1), None);
    }

    #[test]
    fn the_table_has_an_end() {
        let mut neighbours = Neighbours::new([0; 16]);
        for index in 0..NEIGHBOURS_MAX as u32 {
            assert_eq!(neighbours.index(IpAddr::V4(index.into())), Some(index));
        }
        assert_eq!(neighbours.index(IpAddr::V4(u32::MAX.into())), None);
        assert_eq!(neighbours.index(IpAddr::V4(7.into())), Some(7));
    }
}
