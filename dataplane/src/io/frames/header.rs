//! Ethernet, IP and UDP in front of a packet. What stays the same for one destination is prepared once; lengths and
//! checksums are filled in for each packet.

use std::net::{IpAddr, SocketAddr};

/// Bytes of an Ethernet header without a VLAN tag.
const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
/// The longest header: Ethernet, IPv6, UDP.
pub(super) const HEADER_LEN_MAX: usize = ETHERNET_LEN + IPV6_LEN + UDP_LEN;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_UDP: u8 = 17;
/// Where UDP keeps its checksum.
pub(super) const CHECKSUM_OFFSET: u16 = 6;

/// A hardware address.
pub(super) type Mac = [u8; 6];

/// Who fills in UDP's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checksums {
    /// The device, or the kernel for it: the field is left with the sum of the pseudo header.
    Device,
    /// We do.
    Ours,
}

/// The header of all packets to one destination.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    bytes: [u8; HEADER_LEN_MAX],
    len: u8,
    /// Sum of the IPv4 header without its length; of the pseudo header without its length. Not folded.
    ip_sum: u32,
    pseudo_sum: u32,
}

impl Header {
    /// A header from one address of ours to one of theirs, of the same family. `hops` is the TTL or hop limit.
    pub(super) fn new(macs: (Mac, Mac), from: SocketAddr, to: SocketAddr, hops: u8) -> Option<Header> {
        let mut bytes = [0; HEADER_LEN_MAX];
        let (source, destination) = macs;
        bytes[..6].copy_from_slice(&destination);
        bytes[6..12].copy_from_slice(&source);
        let (len, addresses) = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                bytes[12..14].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
                let ip = &mut bytes[ETHERNET_LEN..][..IPV4_LEN];
                ip[0] = 0x45;
                // Don't fragment, as the kernel's sockets say; then the identification means nothing (RFC 6864 §4.1).
                ip[6] = 0x40;
                ip[8] = hops;
                ip[9] = PROTOCOL_UDP;
                ip[12..16].copy_from_slice(&from.octets());
                ip[16..20].copy_from_slice(&to.octets());
                (ETHERNET_LEN + IPV4_LEN + UDP_LEN, ETHERNET_LEN + 12..ETHERNET_LEN + IPV4_LEN)
            }
            (IpAddr::V6(v6_from), IpAddr::V6(v6_to)) => {
                bytes[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
                let ip = &mut bytes[ETHERNET_LEN..][..IPV6_LEN];
                ip[..4].copy_from_slice(&(6 << 28 | flow_label(from, to)).to_be_bytes());
                ip[6] = PROTOCOL_UDP;
                ip[7] = hops;
                ip[8..24].copy_from_slice(&v6_from.octets());
                ip[24..40].copy_from_slice(&v6_to.octets());
                (ETHERNET_LEN + IPV6_LEN + UDP_LEN, ETHERNET_LEN + 8..ETHERNET_LEN + IPV6_LEN)
            }
            _ => return None,
        };
        bytes[len - UDP_LEN..][..2].copy_from_slice(&from.port().to_be_bytes());
        bytes[len - UDP_LEN + 2..][..2].copy_from_slice(&to.port().to_be_bytes());
        let ip_sum = sum(&bytes[ETHERNET_LEN..len - UDP_LEN]) as u32;
        let pseudo_sum = sum(&bytes[addresses]) as u32 + u32::from(PROTOCOL_UDP);
        Some(Header { bytes, len: len as u8, ip_sum, pseudo_sum })
    }

    /// Bytes of it.
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Bytes of it that a device's MTU counts.
    pub(super) fn ip_len(&self) -> usize {
        self.len() - ETHERNET_LEN
    }

    /// Where UDP begins.
    pub(super) fn udp_start(&self) -> u16 {
        u16::from(self.len) - UDP_LEN as u16
    }

    /// Sends to another hardware address from here on.
    pub(super) fn set_destination(&mut self, mac: Mac) {
        self.bytes[..6].copy_from_slice(&mac);
    }

    /// Writes the header for `payload` into the end of `room`, just before it.
    pub(super) fn write(&self, room: &mut [u8], payload: &[u8], checksums: Checksums) {
        let len = self.len();
        let start = room.len() - len;
        let out = &mut room[start..];
        let udp_len = (UDP_LEN + payload.len()) as u16;
        out.copy_from_slice(&self.bytes[..len]);
        if out[12..14] == ETHERTYPE_IPV4.to_be_bytes() {
            let total = IPV4_LEN as u16 + udp_len;
            out[ETHERNET_LEN + 2..][..2].copy_from_slice(&total.to_be_bytes());
            let checksum = !fold(u64::from(self.ip_sum) + u64::from(total));
            out[ETHERNET_LEN + 10..][..2].copy_from_slice(&checksum.to_be_bytes());
        } else {
            out[ETHERNET_LEN + 4..][..2].copy_from_slice(&udp_len.to_be_bytes());
        }
        let udp = &mut out[len - UDP_LEN..];
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let pseudo = u64::from(self.pseudo_sum) + u64::from(udp_len);
        let checksum = match checksums {
            Checksums::Device => fold(pseudo),
            // A sum of zero is sent as all ones: zero says that there is none (RFC 768), which IPv6 forbids.
            Checksums::Ours => match !fold(pseudo + sum(&udp[..6]) + sum(payload)) {
                0 => 0xffff,
                checksum => checksum,
            },
        };
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The flow label that all packets of one path share and that differs between paths (RFC 6437 §3), so that networks
/// that spread flows over links keep each in order.
fn flow_label(from: SocketAddr, to: SocketAddr) -> u32 {
    let IpAddr::V6(ip) = to.ip() else { return 0 };
    let (high, low) = ((u128::from(ip) >> 64) as u64, u128::from(ip) as u64);
    let ports = u64::from(from.port()) << 16 | u64::from(to.port());
    let mixed = (high ^ low.rotate_left(32) ^ ports).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 44) as u32
}

/// Sum of 16-bit words in network order, an odd byte at the end as the high half of one (RFC 1071). Not folded.
fn sum(bytes: &[u8]) -> u64 {
    // In words of 32 bits, which the sum may be taken in as well (RFC 1071 §2 (C)); four sums at once for the compiler to
    // do in one register.
    let mut sums = [0u64; 4];
    let blocks = bytes.chunks_exact(16);
    let rest = blocks.remainder();
    for block in blocks {
        for (sum, word) in sums.iter_mut().zip(block.chunks_exact(4)) {
            *sum += u64::from(u32::from_ne_bytes(word.try_into().expect("four bytes")));
        }
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    for (sum, word) in sums.iter_mut().zip(last.chunks_exact(4)) {
        *sum += u64::from(u32::from_ne_bytes(word.try_into().expect("four bytes")));
    }
    // The order of bytes may be changed after the summing (RFC 1071 §2 (B)).
    u64::from(u16::from_be(fold(sums.iter().sum())))
}

/// Adds the carries in until there are none.
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MACS: (Mac, Mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    /// As RFC 1071 §4.1 writes it.
    fn plain_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn frame(from: &str, to: &str, payload: &[u8], checksums: Checksums) -> Vec<u8> {
        let header = Header::new(MACS, from.parse().unwrap(), to.parse().unwrap(), 64).unwrap();
        let mut room = vec![0xee; HEADER_LEN_MAX + 9];
        header.write(&mut room, payload, checksums);
        [&room[room.len() - header.len()..], payload].concat()
    }

    /// The pseudo header of RFC 768 or RFC 8200 §8.1 and everything behind IP.
    fn covered_by_udp(frame: &[u8]) -> Vec<u8> {
        let is_v4 = frame[14] >> 4 == 4;
        let (addresses, udp) = if is_v4 { (&frame[26..34], &frame[34..]) } else { (&frame[22..54], &frame[54..]) };
        [addresses, &[0, PROTOCOL_UDP], &(udp.len() as u16).to_be_bytes(), udp].concat()
    }

    #[test]
    fn an_ipv4_header_is_as_the_rfcs_say() {
        let frame = frame("10.0.0.1:40000", "192.0.2.7:50001", b"hello", Checksums::Ours);
        assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(frame[14..26], [0x45, 0, 0, 33, 0, 0, 0x40, 0, 64, 17, frame[24], frame[25]]);
        assert_eq!(frame[26..34], [10, 0, 0, 1, 192, 0, 2, 7]);
        assert_eq!(plain_sum(&frame[14..34]), 0xffff);
        assert_eq!(frame[34..40], [0x9c, 0x40, 0xc3, 0x51, 0, 13]);
        assert_eq!(plain_sum(&covered_by_udp(&frame)), 0xffff);
        assert_eq!(&frame[42..], b"hello");
    }

    #[test]
    fn an_ipv6_header_is_as_the_rfcs_say() {
        let frame = frame("[2001:db8::1]:40000", "[2001:db8::2]:50001", b"hello", Checksums::Ours);
        assert_eq!(frame[12..15], [0x86, 0xdd, 0x60 | frame[14] & 0xf]);
        assert_eq!(frame[18..22], [0, 13, 17, 64]);
        assert_eq!(plain_sum(&covered_by_udp(&frame)), 0xffff);
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
        let empty = frame("[2001:db8::1]:1", "[2001:db8::2]:2", &[0, 0], Checksums::Ours);
        // The payload that makes the sum 0xffff, and its complement zero.
        let mend = u16::from_be_bytes([empty[60], empty[61]]).to_be_bytes();
        let frame = frame("[2001:db8::1]:1", "[2001:db8::2]:2", &mend, Checksums::Ours);
        assert_eq!(frame[60..62], [0xff, 0xff]);
        assert_eq!(plain_sum(&covered_by_udp(&frame)), 0xffff);
    }

    #[test]
    fn families_do_not_mix() {
        let (v4, v6) = ("10.0.0.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert!(Header::new(MACS, v4, v6, 64).is_none() && Header::new(MACS, v6, v4, 64).is_none());
    }

    proptest! {
        #[test]
        fn checksums_are_those_of_the_plain_algorithm(
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
            from: [u8; 16], to: [u8; 16], ports: [u16; 2], is_v4: bool,
        ) {
            let ip = |bytes: [u8; 16]| match is_v4 {
                true => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
                false => IpAddr::from(bytes),
            };
            let (from, to) = (SocketAddr::new(ip(from), ports[0]), SocketAddr::new(ip(to), ports[1]));
            let header = Header::new(MACS, from, to, 64).unwrap();
            let write = |checksums| {
                let mut room = vec![0; header.len()];
                header.write(&mut room, &payload, checksums);
                [&room[..], &payload].concat()
            };
            let frame = write(Checksums::Ours);
            prop_assert_eq!(plain_sum(&covered_by_udp(&frame)), 0xffff);
            if is_v4 {
                prop_assert_eq!(plain_sum(&frame[14..34]), 0xffff);
            }
            // What a device does: sum from where UDP begins, the field included, and put the complement there.
            let mut frame = write(Checksums::Device);
            let start = usize::from(header.udp_start());
            let sum = !plain_sum(&frame[start..]);
            frame[start + usize::from(CHECKSUM_OFFSET)..][..2].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(plain_sum(&covered_by_udp(&frame)), 0xffff);
        }
    }
}
