//! Flows: what tells datagrams apart that lie between the same two addresses of edges.
//!
//! A datagram of a flow begins with a header of eight bytes: one that says so, and seven that are the flow's number. Behind it is
//! what the flow carries: SRTP and SRTCP of a transport between two edges, or what another edge passes on. The first byte is 8, one
//! of those (4 to 15) that RFC 7983 §7 and RFC 9443 §2 leave free beside STUN, ZRTP, DTLS, TURN channels, QUIC and RTP. The number
//! is chosen at random by who receives the flow.

/// Length of the header.
pub const HEADER_LEN: usize = 8;
/// First byte of each datagram of a flow.
pub const FIRST_BYTE: u8 = 8;
/// The largest number of a flow.
pub const FLOW_MAX: u64 = (1 << 56) - 1;

/// Whether this is the number of a flow. 0 is that of none.
pub const fn is_flow(flow: u64) -> bool {
    flow != 0 && flow <= FLOW_MAX
}

/// The header of a flow.
pub const fn header(flow: u64) -> [u8; HEADER_LEN] {
    (flow & FLOW_MAX | (FIRST_BYTE as u64) << 56).to_be_bytes()
}

/// The flow that a datagram's header names. `None` if it has no header, or a number that is of no flow.
pub fn parse(datagram: &[u8]) -> Option<u64> {
    let header = u64::from_be_bytes(*datagram.first_chunk()?);
    let flow = header & FLOW_MAX;
    (datagram[0] == FIRST_BYTE && is_flow(flow)).then_some(flow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_its_flow() {
        for flow in [1, 2, 0x0001_0203_0405_0607, FLOW_MAX] {
            let datagram = [&header(flow)[..], b"rest"].concat();
            assert_eq!((datagram[0], parse(&datagram)), (FIRST_BYTE, Some(flow)));
        }
        assert_eq!(header(0x0001_0203_0405_0607), [8, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(parse(&header(0)), None);
        assert_eq!(parse(&header(1)[..7]), None, "it is cut short");
        assert_eq!(parse(&[9, 0, 0, 0, 0, 0, 0, 1]), None);
        assert!(!is_flow(0) && !is_flow(FLOW_MAX + 1));
    }
}
