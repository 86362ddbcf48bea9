//! RTP headers (RFC 3550 §5.1) with one-byte extensions (RFC 8285 §4.2), written and read in place.

/// The fixed header, and where the payload begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Marker bit.
    pub marker: bool,
    /// Payload type.
    pub pt: u8,
    /// Sequence number.
    pub seq: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Source.
    pub ssrc: u32,
    /// Bytes of the whole header, with CSRCs and extensions.
    pub len: usize,
}

const FIXED_LEN: usize = 12;
/// `defined by profile` of one-byte extensions.
const ONE_BYTE: [u8; 2] = [0xBE, 0xDE];

impl Header {
    /// Reads it; None if this is not RTP, or is cut short.
    pub fn parse(packet: &[u8]) -> Option<Header> {
        let fixed: &[u8; FIXED_LEN] = packet.first_chunk()?;
        if fixed[0] >> 6 != 2 {
            return None;
        }
        let mut len = FIXED_LEN + 4 * usize::from(fixed[0] & 0x0F);
        if fixed[0] & 0x10 != 0 {
            let head: &[u8; 4] = packet.get(len..)?.first_chunk()?;
            len += 4 + 4 * usize::from(u16::from_be_bytes([head[2], head[3]]));
        }
        (len <= packet.len()).then_some(Header {
            marker: fixed[1] & 0x80 != 0,
            pt: fixed[1] & 0x7F,
            seq: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            len,
        })
    }
}

/// What a packet carries, without its padding (RFC 3550 §5.1); None if the padding is longer than the packet, or of no length.
pub fn payload<'a>(packet: &'a [u8], header: &Header) -> Option<&'a [u8]> {
    let payload = packet.get(header.len..)?;
    if packet.first()? & 0x20 == 0 {
        return Some(payload);
    }
    let padding = usize::from(*payload.last()?);
    payload.len().checked_sub(padding).filter(|_| padding > 0).map(|len| &payload[..len])
}

/// The value of a one-byte header extension, if the packet has it.
pub fn extension(packet: &[u8], id: u8) -> Option<&[u8]> {
    let first = *packet.first()?;
    if first & 0x10 == 0 {
        return None;
    }
    let start = FIXED_LEN + 4 * usize::from(first & 0x0F);
    let head = packet.get(start..start + 4)?;
    if head[..2] != ONE_BYTE {
        return None;
    }
    let words = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let mut rest = packet.get(start + 4..start + 4 + 4 * words)?;
    while let [tag, after @ ..] = rest {
        if *tag == 0 {
            rest = after; // Padding.
            continue;
        }
        let value = after.get(..usize::from(tag & 0x0F) + 1)?;
        if tag >> 4 == id {
            return Some(value);
        }
        rest = &after[value.len()..];
    }
    None
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fields {
    /// Marker bit.
    pub marker: bool,
    /// Payload type.
    pub pt: u8,
    /// Sequence number.
    pub seq: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Source.
    pub ssrc: u32,
}

/// Writes a header with these extensions (id and value of 1 to 16 bytes). Its length: the payload follows there.
pub fn write(out: &mut [u8], fields: &Fields, extensions: &[(u8, &[u8])]) -> usize {
    out[0] = 0x80 | if extensions.is_empty() { 0 } else { 0x10 };
    out[1] = u8::from(fields.marker) << 7 | fields.pt;
    out[2..4].copy_from_slice(&fields.seq.to_be_bytes());
    out[4..8].copy_from_slice(&fields.timestamp.to_be_bytes());
    out[8..12].copy_from_slice(&fields.ssrc.to_be_bytes());
    if extensions.is_empty() {
        return FIXED_LEN;
    }
    out[12..14].copy_from_slice(&ONE_BYTE);
    let begin = FIXED_LEN + 4;
    let mut at = begin;
    for &(id, value) in extensions {
        out[at] = id << 4 | (value.len() - 1) as u8;
        out[at + 1..at + 1 + value.len()].copy_from_slice(value);
        at += 1 + value.len();
    }
    while !(at - begin).is_multiple_of(4) {
        out[at] = 0;
        at += 1;
    }
    out[14..16].copy_from_slice(&(((at - begin) / 4) as u16).to_be_bytes());
    at
}

#[cfg(test)]
mod tests {
    use webrtc_util::marshal::Unmarshal;

    use super::*;

    #[test]
    fn another_stack_reads_the_same_header() {
        let mut packet = [0; 64];
        let fields = Fields { marker: true, pt: 96, seq: 65_535, timestamp: 1 << 31, ssrc: 0xDEAD_BEEF };
        let len = write(&mut packet, &fields, &[(4, b"1"), (3, &[0x12, 0x34]), (2, &[1, 2, 3])]);
        let theirs = rtp::header::Header::unmarshal(&mut &packet[..]).unwrap();
        let ours = Header::parse(&packet).unwrap();
        assert_eq!((theirs.marker, theirs.payload_type, theirs.sequence_number), (ours.marker, ours.pt, ours.seq));
        assert_eq!((theirs.timestamp, theirs.ssrc), (ours.timestamp, ours.ssrc));
        assert_eq!((ours.len, ours.seq, ours.ssrc), (len, fields.seq, fields.ssrc));
        for (id, value) in [(4, &b"1"[..]), (3, &[0x12, 0x34]), (2, &[1, 2, 3])] {
            assert_eq!(theirs.get_extension(id).as_deref(), Some(value));
            assert_eq!(extension(&packet, id), Some(value));
        }
        assert_eq!(extension(&packet, 5), None);
        assert_eq!(write(&mut packet, &fields, &[]), 12);
    }

    #[test]
    fn padding_is_not_payload() {
        let mut packet = vec![0xA0, 96, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, b'a', b'b', 0, 2];
        let header = Header::parse(&packet).unwrap();
        assert_eq!(payload(&packet, &header), Some(&b"ab"[..]));
        *packet.last_mut().unwrap() = 5;
        assert_eq!(payload(&packet, &header), None);
        *packet.last_mut().unwrap() = 0;
        assert_eq!(payload(&packet, &header), None);
        assert_eq!(payload(&packet[..12], &header), None);
        packet[0] = 0x80;
        assert_eq!(payload(&packet, &header), Some(&b"ab\0\0"[..]));
    }

    #[test]
    fn an_extension_is_found_among_others_and_nothing_is_read_beyond_the_end() {
        let mut packet = vec![0x90, 96, 0, 9, 0, 0, 0, 0, 0, 0, 0, 7, 0xBE, 0xDE, 0, 2];
        packet.extend([0x40, b'1', 0, 0x31, 0x12, 0x34, 0, 0, 1, 2, 3]);
        assert_eq!(Header::parse(&packet).map(|header| (header.seq, header.ssrc, header.len)), Some((9, 7, 24)));
        assert_eq!((extension(&packet, 3), extension(&packet, 5)), (Some(&[0x12, 0x34][..]), None));
        for len in 0..packet.len() {
            extension(&packet[..len], 3);
            assert_eq!(Header::parse(&packet[..len]).is_some(), len >= 24);
        }
        packet[0] = 0x80;
        assert_eq!(extension(&packet, 3), None);
        packet[0] = 0x40;
        assert_eq!(Header::parse(&packet), None, "another version");
    }
}
