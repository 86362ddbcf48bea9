//! RTP headers and their extensions as views over bytes (RFC 3550 §5.1, RFC 8285): what a worker reads of each
//! packet that arrives, before SRTP is undone since the header is in the clear, and the writer of the header that
//! each subscriber gets.
//!
//! Nothing here keeps state or allocates. Lengths are checked once, in [`Header::parse`]; what comes after it is total.

use crate::config::Micros;

/// Bytes of the fixed part of the header (RFC 3550 §5.1).
pub const FIXED_LEN: usize = 12;
/// P, in the first byte: the last byte counts the padding (RFC 3550 §5.1).
pub const PADDING_BIT: u8 = 0x20;

/// The longest header that [`HeaderWriter`] can make, bytes: each of the 14 ids once, with 16 bytes.
pub const WRITTEN_LEN_MAX: usize = FIXED_LEN + 4 + (14 * 17usize).next_multiple_of(4);

/// The longest value in the one-byte form, bytes (RFC 8285 §4.2).
pub const EXTENSION_VALUE_LEN_MAX: usize = 16;

const VERSION: u8 = 2;
const ONE_BYTE_PROFILE: u16 = 0xbede;
/// The low four bits of the two-byte profile are application bits, which carry nothing for us (RFC 8285 §4.3).
const TWO_BYTE_PROFILE: u16 = 0x1000;
const TWO_BYTE_PROFILE_MASK: u16 = 0xfff0;

/// Why bytes are not an RTP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RtpError {
    /// Shorter than the fixed header.
    #[error("shorter than an RTP header")]
    TooShort,
    /// The version is not 2.
    #[error("not RTP version 2")]
    Version,
    /// The CSRC list or the header extension passes the end.
    #[error("the RTP header is longer than the packet")]
    HeaderLength,
}

/// How the elements of the extension block are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Form {
    /// No block, or one of another profile.
    #[default]
    Absent,
    OneByte,
    TwoByte,
}

/// Where the elements of the extension block lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Block {
    form: Form,
    start: usize,
    end: usize,
}

/// A parsed header. It borrows nothing, so the packet can be unprotected in place while it lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Marker bit; ends a video frame (RFC 6184 §5.1) or starts a talkspurt.
    pub marker: bool,
    /// Payload type, 0 to 127.
    pub pt: u8,
    /// Sequence number.
    pub seq: u16,
    /// Media timestamp, in units of the stream's RTP clock.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// Whether the plaintext ends in padding; see [`payload_len`].
    pub has_padding: bool,
    /// Bytes before the payload, CSRC list and extension block included.
    pub header_len: usize,
    extensions: Block,
}

impl Header {
    /// Reads the header of `packet`, protected or plain.
    pub fn parse(packet: &[u8]) -> Result<Header, RtpError> {
        let fixed: &[u8; FIXED_LEN] = packet.first_chunk().ok_or(RtpError::TooShort)?;
        if fixed[0] >> 6 != VERSION {
            return Err(RtpError::Version);
        }
        let csrc_end = FIXED_LEN + 4 * usize::from(fixed[0] & 0x0f);
        let (header_len, extensions) = if fixed[0] & 0x10 == 0 {
            (csrc_end, Block::default())
        } else {
            let prefix = packet.get(csrc_end..csrc_end + 4).ok_or(RtpError::HeaderLength)?;
            let start = csrc_end + 4;
            let end = start + 4 * usize::from(u16::from_be_bytes([prefix[2], prefix[3]]));
            let form = match u16::from_be_bytes([prefix[0], prefix[1]]) {
                ONE_BYTE_PROFILE => Form::OneByte,
                profile if profile & TWO_BYTE_PROFILE_MASK == TWO_BYTE_PROFILE => Form::TwoByte,
                _ => Form::Absent,
            };
            (end, Block { form, start, end })
        };
        if header_len > packet.len() {
            return Err(RtpError::HeaderLength);
        }
        Ok(Header {
            marker: fixed[1] & 0x80 != 0,
            pt: fixed[1] & 0x7f,
            seq: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            has_padding: fixed[0] & PADDING_BIT != 0,
            header_len,
            extensions,
        })
    }

    /// The header extension elements of `packet`, which is the packet that this header was parsed from.
    pub fn extensions<'a>(&self, packet: &'a [u8]) -> Extensions<'a> {
        let Block { form, start, end } = self.extensions;
        Extensions { form, rest: packet.get(start..end).unwrap_or_default() }
    }
}

/// Iterator over header extension elements: `(id, value)`, in packet order.
///
/// Padding is skipped. A malformed element ends the iteration and leaves those before it good, as RFC 8285 §4.2 asks
/// for the reserved id 15.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // A zero byte where an element could start is padding, in both forms (RFC 8285 §4.1.1).
        let first_element = self.rest.iter().position(|&byte| byte != 0)?;
        let bytes = std::mem::take(&mut self.rest).get(first_element..)?;
        let (id, prefix_len, len) = match self.form {
            Form::Absent => return None,
            Form::OneByte => (bytes[0] >> 4, 1, usize::from(bytes[0] & 0x0f) + 1),
            Form::TwoByte => (bytes[0], 2, usize::from(*bytes.get(1)?)),
        };
        // In the one-byte form 15 is reserved, and 0 with a length is no padding and no element either.
        if self.form == Form::OneByte && (id == 15 || id == 0) {
            return None;
        }
        let value = bytes.get(prefix_len..prefix_len + len)?;
        self.rest = &bytes[prefix_len + len..];
        Some((id, value))
    }
}

/// Length of the payload of the unprotected packet `plain`, without RTP padding (RFC 3550 §5.1).
///
/// A packet of padding alone (libwebrtc probes with them) has a payload of 0 bytes. `None` if the padding count is 0 or
/// longer than what follows the header.
pub fn payload_len(header: &Header, plain: &[u8]) -> Option<usize> {
    let len = plain.len().checked_sub(header.header_len)?;
    if !header.has_padding {
        return Some(len);
    }
    if len == 0 {
        return None;
    }
    let padding = usize::from(*plain.last()?);
    if padding == 0 { None } else { len.checked_sub(padding) }
}

/// Writes the header of an outgoing packet, without CSRCs, with extension elements in the one-byte form, or in the two-byte form if it is told to.
#[derive(Debug)]
pub struct HeaderWriter<'a> {
    out: &'a mut [u8],
    len: usize,
    has_long: bool,
}

impl<'a> HeaderWriter<'a> {
    /// Starts a header at the front of `out`; [`WRITTEN_LEN_MAX`] bytes are always enough.
    ///
    /// # Panics
    /// If `out` cannot hold the fixed header.
    pub fn new(out: &'a mut [u8], marker: bool, pt: u8, seq: u16, timestamp: u32, ssrc: u32) -> HeaderWriter<'a> {
        assert!(out.len() >= FIXED_LEN, "an outgoing packet has room for its RTP header");
        out[0] = VERSION << 6;
        out[1] = u8::from(marker) << 7 | (pt & 0x7f);
        out[2..4].copy_from_slice(&seq.to_be_bytes());
        out[4..8].copy_from_slice(&timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&ssrc.to_be_bytes());
        HeaderWriter { out, len: FIXED_LEN, has_long: false }
    }

    /// All elements are written in the two-byte form (RFC 8285 §4.3), in which values may have 255 bytes. Only for receivers that have
    /// negotiated `extmap-allow-mixed`, and before the first element.
    #[inline]
    pub fn use_two_bytes(&mut self) {
        self.has_long = self.len == FIXED_LEN;
    }

    /// Appends an element and returns whether it was written.
    ///
    /// Id 0 stands for "not negotiated" and writes nothing, so that callers need no branch. Nothing is written either for
    /// what the one-byte form cannot say (ids over 14, values that are empty or longer than 16 bytes, but for values of 255 bytes in the
    /// two-byte form) or where the room ends.
    #[inline]
    pub fn extension(&mut self, id: u8, value: &[u8]) -> bool {
        let (prefix_len, len_max) = if self.has_long { (2, 255) } else { (1, EXTENSION_VALUE_LEN_MAX) };
        if !matches!(id, 1..=14) || value.is_empty() || value.len() > len_max {
            return false;
        }
        let start = if self.len == FIXED_LEN { FIXED_LEN + 4 } else { self.len };
        let end = start + prefix_len + value.len();
        if end.next_multiple_of(4) > self.out.len() {
            return false;
        }
        if self.has_long {
            self.out[start..start + 2].copy_from_slice(&[id, value.len() as u8]);
        } else {
            self.out[start] = id << 4 | (value.len() - 1) as u8;
        }
        self.out[start + prefix_len..end].copy_from_slice(value);
        self.len = end;
        true
    }

    /// The last bytes that were written, which the caller knows to be of an element's value.
    #[inline]
    pub fn last(&mut self, len: usize) -> &mut [u8] {
        let start = self.len.saturating_sub(len).max(FIXED_LEN);
        &mut self.out[start..self.len]
    }

    /// Ends the header and returns its length; without elements there is no extension block (X = 0).
    pub fn finish(self) -> usize {
        if self.len == FIXED_LEN {
            return FIXED_LEN;
        }
        let end = self.len.next_multiple_of(4);
        self.out[self.len..end].fill(0);
        self.out[0] |= 0x10;
        let profile = if self.has_long { TWO_BYTE_PROFILE } else { ONE_BYTE_PROFILE };
        self.out[FIXED_LEN..FIXED_LEN + 2].copy_from_slice(&profile.to_be_bytes());
        let words = ((end - FIXED_LEN - 4) / 4) as u16;
        self.out[FIXED_LEN + 2..FIXED_LEN + 4].copy_from_slice(&words.to_be_bytes());
        end
    }
}

/// The value of the `abs-send-time` extension: seconds in 6.18 fixed point, which wraps every 64 s.
pub fn abs_send_time(now: Micros) -> [u8; 3] {
    // Reduced to one wrap first, so that the shift cannot overflow whatever the clock reads.
    let fixed_point = ((now % 64_000_000) << 18) / 1_000_000;
    let [.., a, b, c] = fixed_point.to_be_bytes();
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with the given first byte, extension block and payload.
    fn packet(first: u8, block: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, 0x80 | 96, 0x12, 0x34, 0, 0, 0, 9, 0xca, 0xfe, 0xba, 0xbe];
        bytes.extend_from_slice(block);
        bytes.extend_from_slice(payload);
        bytes
    }

    fn elements(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        Header::parse(bytes).unwrap().extensions(bytes).map(|(id, value)| (id, value.to_vec())).collect()
    }

    #[test]
    fn the_fixed_header_is_read() {
        let bytes = packet(0x80, &[], &[1, 2, 3]);
        let header = Header::parse(&bytes).unwrap();
        assert!(header.marker && !header.has_padding);
        assert_eq!((header.pt, header.seq, header.timestamp, header.ssrc), (96, 0x1234, 9, 0xcafe_babe));
        assert_eq!(header.header_len, 12);
        assert_eq!(payload_len(&header, &bytes), Some(3));
        assert_eq!(elements(&bytes), []);
    }

    #[test]
    fn lengths_and_version_are_checked() {
        assert_eq!(Header::parse(&[0x80; 11]), Err(RtpError::TooShort));
        assert_eq!(Header::parse(&packet(0x40, &[], &[])), Err(RtpError::Version));
        assert_eq!(Header::parse(&packet(0x82, &[0; 7], &[])), Err(RtpError::HeaderLength));
        assert_eq!(Header::parse(&packet(0x82, &[0; 8], &[])).unwrap().header_len, 20);
        assert_eq!(Header::parse(&packet(0x90, &[0xbe, 0xde, 0], &[])), Err(RtpError::HeaderLength));
        assert_eq!(Header::parse(&packet(0x90, &[0xbe, 0xde, 0, 2, 0, 0, 0, 0], &[])), Err(RtpError::HeaderLength));
        assert_eq!(Header::parse(&packet(0x90, &[0xbe, 0xde, 0, 1, 0, 0, 0, 0], &[])).unwrap().header_len, 20);
    }

    #[test]
    fn one_byte_elements_with_padding_between() {
        // RFC 8285 §4.2: id 1 with 1 byte, padding, id 2 with 3 bytes, padding to the word.
        let bytes = packet(0x90, &[0xbe, 0xde, 0, 2, 0x10, 0xaa, 0, 0x22, 1, 2, 3, 0], &[7]);
        assert_eq!(elements(&bytes), [(1, vec![0xaa]), (2, vec![1, 2, 3])]);
    }

    #[test]
    fn two_byte_elements_of_any_length() {
        let bytes = packet(0x90, &[0x10, 0x05, 0, 2, 200, 0, 0, 15, 2, 8, 9, 0], &[7]);
        assert_eq!(elements(&bytes), [(200, vec![]), (15, vec![8, 9])]);
    }

    #[test]
    fn another_profile_has_no_elements() {
        assert_eq!(elements(&packet(0x90, &[0xab, 0xac, 0, 1, 0x10, 0xaa, 0, 0], &[])), []);
    }

    #[test]
    fn a_malformed_element_ends_the_iteration_and_keeps_those_before() {
        let reserved = packet(0x90, &[0xbe, 0xde, 0, 2, 0x10, 0xaa, 0xf0, 0xbb, 0x20, 0xcc, 0, 0], &[]);
        assert_eq!(elements(&reserved), [(1, vec![0xaa])]);
        let zero_with_length = packet(0x90, &[0xbe, 0xde, 0, 2, 0x10, 0xaa, 0x01, 0xbb, 0xbb, 0x20, 0xcc, 0], &[]);
        assert_eq!(elements(&zero_with_length), [(1, vec![0xaa])]);
        let past_the_end = packet(0x90, &[0xbe, 0xde, 0, 1, 0x10, 0xaa, 0x21, 0xbb], &[0xbb; 8]);
        assert_eq!(elements(&past_the_end), [(1, vec![0xaa])]);
        let two_byte_cut = packet(0x90, &[0x10, 0, 0, 1, 1, 1, 9, 7], &[0; 8]);
        assert_eq!(elements(&two_byte_cut), [(1, vec![9])]);
    }

    #[test]
    fn extensions_of_a_shorter_slice_are_none() {
        let bytes = packet(0x90, &[0xbe, 0xde, 0, 1, 0x10, 0xaa, 0, 0], &[]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.extensions(&bytes[..14]).count(), 0);
    }

    #[test]
    fn padding_is_no_payload() {
        let len = |payload: &[u8]| {
            let bytes = packet(0xa0, &[], payload);
            payload_len(&Header::parse(&bytes).unwrap(), &bytes)
        };
        assert_eq!(len(&[1, 2, 0, 2]), Some(2));
        assert_eq!(len(&[0, 0, 3]), Some(0), "padding alone is a probe");
        assert_eq!(len(&[1, 0]), None, "a count of 0 counts not even itself");
        assert_eq!(len(&[1, 3]), None, "the padding would reach into the header");
        assert_eq!(len(&[]), None, "the last header byte is no padding count");
    }

    #[test]
    fn a_written_header_reads_back() {
        let mut out = [0xee; WRITTEN_LEN_MAX];
        let mut writer = HeaderWriter::new(&mut out, true, 111, 65_535, u32::MAX, 0x0102_0304);
        assert!(writer.extension(1, b"0"));
        assert!(!writer.extension(0, b"not negotiated"));
        assert!(writer.extension(14, &[7; 16]));
        assert!(!writer.extension(15, b"x") && !writer.extension(2, b"") && !writer.extension(2, &[0; 17]));
        let len = writer.finish();
        assert_eq!(len, 12 + 4 + 20);
        let header = Header::parse(&out[..len]).unwrap();
        assert_eq!((header.marker, header.pt, header.seq), (true, 111, 65_535));
        assert_eq!((header.timestamp, header.ssrc, header.header_len), (u32::MAX, 0x0102_0304, len));
        assert_eq!(elements(&out[..len]), [(1, b"0".to_vec()), (14, vec![7; 16])]);
    }

    #[test]
    fn without_elements_there_is_no_block() {
        let mut out = [0xee; 12];
        let mut writer = HeaderWriter::new(&mut out, false, 96, 1, 2, 3);
        assert!(!writer.extension(1, b"0"), "no room");
        assert_eq!(writer.finish(), 12);
        assert_eq!(out[0], 0x80);
    }

    #[test]
    fn every_id_at_full_length_fits_the_stated_maximum() {
        let mut out = [0; WRITTEN_LEN_MAX];
        let mut writer = HeaderWriter::new(&mut out, false, 96, 1, 2, 3);
        assert!((1..=14).all(|id| writer.extension(id, &[id; 16])));
        assert_eq!(writer.finish(), WRITTEN_LEN_MAX);
    }

    #[test]
    fn long_values_are_written_in_the_two_byte_form() {
        let mut out = [0xee; WRITTEN_LEN_MAX];
        let mut writer = HeaderWriter::new(&mut out, false, 96, 1, 2, 3);
        writer.use_two_bytes();
        assert!(writer.extension(1, b"0") && writer.extension(13, &[7; 100]) && !writer.extension(2, &[0; 256]));
        let len = writer.finish();
        assert_eq!(elements(&out[..len]), [(1, b"0".to_vec()), (13, vec![7; 100])]);
        let mut writer = HeaderWriter::new(&mut out, false, 96, 1, 2, 3);
        assert!(writer.extension(1, b"0"));
        writer.use_two_bytes();
        assert!(!writer.extension(2, &[0; 17]), "the form is chosen before the first element");
    }

    #[test]
    fn abs_send_time_is_6_18_fixed_point() {
        assert_eq!(abs_send_time(0), [0, 0, 0]);
        assert_eq!(abs_send_time(1_000_000), [0x04, 0, 0]);
        assert_eq!(abs_send_time(500_000), [0x02, 0, 0]);
        assert_eq!(abs_send_time(63_999_999), [0xff, 0xff, 0xff]);
        assert_eq!(abs_send_time(64_000_000), [0, 0, 0]);
        assert_eq!(abs_send_time(u64::MAX), abs_send_time(u64::MAX % 64_000_000));
    }
}
