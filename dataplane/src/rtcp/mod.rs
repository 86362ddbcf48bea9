//! RTCP as views over bytes and as a writer of compounds (RFC 3550 §6, RFC 4585, RFC 5104, RFC 5506).
//!
//! Feedback ends at the worker: what arrives is unprotected, read here and answered or turned into feedback of our own;
//! what leaves is written here and protected as one SRTCP packet. Nothing keeps state or allocates.

mod clock;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use self::clock::{SenderClock, ntp};
pub use self::writer::CompoundWriter;
use crate::headroom::Headroom;
use crate::twcc::{TransportCc, TransportCcError};

/// Bytes of the header that every RTCP packet starts with.
const HEADER_LEN: usize = 4;

/// Bytes of a report block (RFC 3550 §6.4.1).
const BLOCK_LEN: usize = 24;

/// Most report blocks of one packet: the count has five bits.
pub const REPORT_BLOCKS_MAX: usize = 31;

/// Longest CNAME, bytes (RFC 3550 §6.5).
pub const CNAME_LEN_MAX: usize = 255;

/// Packet types: RFC 3550 §12.1, RFC 4585 §6.1, RFC 3611 §5.
mod pt {
    pub(super) const SR: u8 = 200;
    pub(super) const RR: u8 = 201;
    pub(super) const SDES: u8 = 202;
    pub(super) const BYE: u8 = 203;
    pub(super) const APP: u8 = 204;
    pub(super) const RTPFB: u8 = 205;
    pub(super) const PSFB: u8 = 206;
    pub(super) const XR: u8 = 207;
}

/// Feedback message types of RTPFB and PSFB.
mod fmt {
    /// RFC 4585 §6.2.1.
    pub(super) const NACK: u8 = 1;
    /// draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1.
    pub(super) const TRANSPORT_CC: u8 = 15;
    /// RFC 4585 §6.3.1.
    pub(super) const PLI: u8 = 1;
    /// RFC 5104 §4.3.1.
    pub(super) const FIR: u8 = 4;
    /// RFC 4585 §6.4; REMB lives here (draft-alvestrand-rmcat-remb-03 §2.2).
    pub(super) const AFB: u8 = 15;
}

/// Why bytes are not RTCP, or not the packet that their type promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RtcpError {
    /// The version is not 2.
    #[error("not RTCP version 2")]
    Version,
    /// The length field passes the end of the datagram, or bytes are left that are no packet.
    #[error("an RTCP length passes the end")]
    Length,
    /// The padding count is 0 or more than the packet holds (RFC 3550 §6.4.1).
    #[error("invalid RTCP padding")]
    Padding,
    /// The packet is too short for its type or its counts.
    #[error("an RTCP packet is too short for its type")]
    Truncated,
    /// Transport-cc feedback that contradicts itself.
    #[error(transparent)]
    TransportCc(#[from] TransportCcError),
}

/// One RTCP packet of a compound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// A sender's clocks and counts, and what it receives.
    SenderReport(SenderReport<'a>),
    /// What a peer receives.
    ReceiverReport(ReceiverReport<'a>),
    /// Source description. Signalling names our streams, so nothing of it is read.
    Sdes,
    /// Streams that end.
    Bye(Bye<'a>),
    /// Generic NACK: lost packets asked for again.
    Nack(Nack<'a>),
    /// Picture loss indication: a keyframe is wanted.
    Pli {
        /// Who asks.
        sender_ssrc: u32,
        /// The stream that should send one.
        media_ssrc: u32,
    },
    /// Full intra request: a keyframe is wanted.
    Fir(Fir<'a>),
    /// Transport-wide congestion control feedback.
    TransportCc(TransportCc<'a>),
    /// Receiver's estimate of the bandwidth.
    Remb(Remb<'a>),
    /// Extended report.
    Xr,
    /// What the receivers of streams have room for, as our workers tell each other between edges: an application-defined packet.
    Rooms(Rooms<'a>),
    /// Application-defined by others.
    App,
    /// A type or a feedback message that nothing here reads.
    Unknown {
        /// RTCP packet type.
        pt: u8,
        /// The five bits that hold a count or a feedback message type.
        fmt: u8,
    },
}

/// Sender report (RFC 3550 §6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderReport<'a> {
    /// The stream reported on.
    pub ssrc: u32,
    /// Wall clock in NTP format: seconds since 1900 in 32.32 fixed point.
    pub ntp: u64,
    /// The same instant on the stream's RTP clock.
    pub rtp_timestamp: u32,
    /// Packets sent so far; wraps.
    pub packets: u32,
    /// Payload bytes sent so far; wraps.
    pub octets: u32,
    blocks: &'a [u8],
}

impl<'a> SenderReport<'a> {
    /// The report blocks.
    pub fn blocks(&self) -> impl Iterator<Item = ReportBlock> + 'a {
        report_blocks(self.blocks)
    }
}

/// Receiver report (RFC 3550 §6.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiverReport<'a> {
    /// Who reports.
    pub ssrc: u32,
    blocks: &'a [u8],
}

impl<'a> ReceiverReport<'a> {
    /// The report blocks.
    pub fn blocks(&self) -> impl Iterator<Item = ReportBlock> + 'a {
        report_blocks(self.blocks)
    }
}

fn report_blocks(bytes: &[u8]) -> impl Iterator<Item = ReportBlock> + '_ {
    bytes.as_chunks().0.iter().map(ReportBlock::parse)
}

/// What a receiver says of one stream (RFC 3550 §6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReportBlock {
    /// The stream.
    pub ssrc: u32,
    /// Share of packets lost since the report before, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost in all; 24 bits signed, negative if duplicates outweigh loss. Written clamped to that range.
    pub cumulative_lost: i32,
    /// Highest sequence number received, its cycles in the upper half.
    pub highest_seq: u32,
    /// Interarrival jitter, in units of the stream's RTP clock.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report; 0 if there was none.
    pub last_sr: u32,
    /// Time since that report arrived, in 1/65536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    fn parse(bytes: &[u8; BLOCK_LEN]) -> ReportBlock {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        ReportBlock {
            ssrc: word(0),
            fraction_lost: bytes[4],
            // Shifted up and back down, which extends the sign of the 24 bits.
            cumulative_lost: ((word(4) << 8) as i32) >> 8,
            highest_seq: word(8),
            jitter: word(12),
            last_sr: word(16),
            delay_since_last_sr: word(20),
        }
    }

    fn words(&self) -> [u32; 6] {
        let lost = self.cumulative_lost.clamp(-(1 << 23), (1 << 23) - 1) as u32 & 0x00ff_ffff;
        let loss = u32::from(self.fraction_lost) << 24 | lost;
        [self.ssrc, loss, self.highest_seq, self.jitter, self.last_sr, self.delay_since_last_sr]
    }
}

/// Goodbye (RFC 3550 §6.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bye<'a> {
    ssrcs: &'a [u8],
}

impl<'a> Bye<'a> {
    /// The streams that end, at most 31.
    pub fn ssrcs(&self) -> impl Iterator<Item = u32> + 'a {
        words(self.ssrcs)
    }
}

/// Generic NACK (RFC 4585 §6.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Nack<'a> {
    /// Who asks.
    pub sender_ssrc: u32,
    /// The stream that lacks packets.
    pub media_ssrc: u32,
    entries: &'a [u8],
}

impl<'a> Nack<'a> {
    /// The sequence numbers asked for, in the order in which they are written: at most 17 for each 4 bytes.
    pub fn lost(&self) -> impl Iterator<Item = u16> + 'a {
        self.entries.as_chunks().0.iter().flat_map(|&[a, b, c, d]| {
            let (first, following) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let named =
                (0..16).filter(move |bit| following >> bit & 1 != 0).map(move |bit| first.wrapping_add(bit + 1));
            std::iter::once(first).chain(named)
        })
    }
}

/// Full intra request (RFC 5104 §4.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fir<'a> {
    /// Who asks.
    pub sender_ssrc: u32,
    entries: &'a [u8],
}

impl<'a> Fir<'a> {
    /// Each stream asked for a keyframe, with the command's sequence number: a repeated number is the same request.
    pub fn entries(&self) -> impl Iterator<Item = (u32, u8)> + 'a {
        self.entries
            .as_chunks()
            .0
            .iter()
            .map(|&[a, b, c, d, seq_nr, _, _, _]| (u32::from_be_bytes([a, b, c, d]), seq_nr))
    }
}

/// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03 §2.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remb<'a> {
    /// Who estimates.
    pub sender_ssrc: u32,
    /// The estimate, bits per second; saturates.
    pub bps: u64,
    ssrcs: &'a [u8],
}

impl<'a> Remb<'a> {
    /// The streams that share the bandwidth.
    pub fn ssrcs(&self) -> impl Iterator<Item = u32> + 'a {
        words(self.ssrcs)
    }
}

/// What the receivers of streams have room for (an APP packet of RFC 3550 §6.7 with the name `upRM`): of each stream its SSRC, and a word of which the highest bit
/// says whether it is needed, and the others how much, bit/s; all ones: nothing limits it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rooms<'a> {
    entries: &'a [u8],
}

impl<'a> Rooms<'a> {
    /// Of each stream its SSRC, and what its receivers have room for.
    pub fn rooms(&self) -> impl Iterator<Item = (u32, Headroom)> + 'a {
        self.entries.as_chunks().0.iter().map(|&[a, b, c, d, e, f, g, h]| {
            let word = u32::from_be_bytes([e, f, g, h]);
            let (is_needed, bps) = (word >> 31 != 0, word & ROOM_MAX);
            let bps = if bps == ROOM_MAX { u32::MAX } else { bps };
            (u32::from_be_bytes([a, b, c, d]), Headroom { bps, is_needed })
        })
    }
}

/// Name and subtype of [`Rooms`], and the most that its word can say.
const ROOMS_NAME: [u8; 4] = *b"upRM";
const ROOMS_SUBTYPE: u8 = 1;
const ROOM_MAX: u32 = u32::MAX >> 1;

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.as_chunks().0.iter().map(|&word| u32::from_be_bytes(word))
}

/// The packets of a compound, or of a reduced-size one (RFC 5506), which need not start with a report.
pub fn packets(compound: &[u8]) -> Packets<'_> {
    Packets { rest: compound }
}

/// Iterator of [`packets`].
///
/// A packet that is broken inside is an error and the ones after it follow; a broken frame (version, length) is an error
/// that ends the iteration, because nothing after it can be found.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Packet<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = Frame::split(self.rest);
        self.rest = frame.map_or(&[], |(_, rest)| rest);
        Some(frame.and_then(|(frame, _)| frame.parse()))
    }
}

/// One packet cut out of the compound by its header.
#[derive(Clone, Copy)]
struct Frame<'a> {
    pt: u8,
    /// Count or feedback message type, 5 bits.
    count: u8,
    has_padding: bool,
    body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The checks of RFC 3550 §A.2 on one packet of the compound, and the bytes after it.
    fn split(bytes: &'a [u8]) -> Result<(Frame<'a>, &'a [u8]), RtcpError> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(RtcpError::Length)?;
        if header[0] >> 6 != 2 {
            return Err(RtcpError::Version);
        }
        let len = HEADER_LEN + 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
        let (packet, rest) = bytes.split_at_checked(len).ok_or(RtcpError::Length)?;
        let frame = Frame {
            pt: header[1],
            count: header[0] & 0x1f,
            has_padding: header[0] & 0x20 != 0,
            body: &packet[HEADER_LEN..],
        };
        Ok((frame, rest))
    }

    fn parse(self) -> Result<Packet<'a>, RtcpError> {
        let body = self.unpadded()?;
        match (self.pt, self.count) {
            (pt::SR, count) => sender_report(body, count),
            (pt::RR, count) => {
                let ([ssrc], rest) = split_words::<1>(body)?;
                Ok(Packet::ReceiverReport(ReceiverReport { ssrc, blocks: counted(rest, count, BLOCK_LEN)? }))
            }
            (pt::SDES, _) => Ok(Packet::Sdes),
            (pt::BYE, count) => Ok(Packet::Bye(Bye { ssrcs: counted(body, count, 4)? })),
            (pt::APP, ROOMS_SUBTYPE) => {
                let ([_, name], rest) = split_words::<2>(body)?;
                if name != u32::from_be_bytes(ROOMS_NAME) {
                    return Ok(Packet::App);
                }
                Ok(Packet::Rooms(Rooms { entries: whole(rest, 8)? }))
            }
            (pt::APP, _) => Ok(Packet::App),
            (pt::XR, _) => Ok(Packet::Xr),
            (pt::RTPFB, fmt::TRANSPORT_CC) => Ok(Packet::TransportCc(TransportCc::parse(body)?)),
            (pt::RTPFB, fmt::NACK) => {
                let ([sender_ssrc, media_ssrc], rest) = split_words::<2>(body)?;
                Ok(Packet::Nack(Nack { sender_ssrc, media_ssrc, entries: whole(rest, 4)? }))
            }
            (pt::PSFB, fmt::PLI) => {
                let ([sender_ssrc, media_ssrc], _) = split_words::<2>(body)?;
                Ok(Packet::Pli { sender_ssrc, media_ssrc })
            }
            (pt::PSFB, fmt::FIR) => {
                // The media SSRC of the header is unused: each entry names its own (RFC 5104 §4.3.1.2).
                let ([sender_ssrc, _], rest) = split_words::<2>(body)?;
                Ok(Packet::Fir(Fir { sender_ssrc, entries: whole(rest, 8)? }))
            }
            (pt::PSFB, fmt::AFB) => application_feedback(body),
            (pt, fmt) => Ok(Packet::Unknown { pt, fmt }),
        }
    }

    /// The body without padding.
    ///
    /// RFC 3550 §6.4.1 wants a multiple of four, in the last packet of a compound only. Neither is asked for: libwebrtc
    /// declares the one to three bytes that fill the last word of transport-cc feedback as padding, wherever it stands.
    fn unpadded(&self) -> Result<&'a [u8], RtcpError> {
        if !self.has_padding {
            return Ok(self.body);
        }
        let padding = usize::from(*self.body.last().ok_or(RtcpError::Padding)?);
        let len = self.body.len().checked_sub(padding).ok_or(RtcpError::Padding)?;
        if padding == 0 { Err(RtcpError::Padding) } else { Ok(&self.body[..len]) }
    }
}

/// Splits `N` big-endian words off the front.
fn split_words<const N: usize>(bytes: &[u8]) -> Result<([u32; N], &[u8]), RtcpError> {
    let (head, rest) = bytes.split_at_checked(4 * N).ok_or(RtcpError::Truncated)?;
    let mut values = [0; N];
    for (value, word) in values.iter_mut().zip(words(head)) {
        *value = word;
    }
    Ok((values, rest))
}

/// The first `count` items of `size` bytes each; a profile's own extension may follow them.
fn counted(bytes: &[u8], count: u8, size: usize) -> Result<&[u8], RtcpError> {
    bytes.get(..usize::from(count) * size).ok_or(RtcpError::Truncated)
}

/// The bytes, if they are a whole number of items of `size` bytes and at least one (RFC 4585 §6.2.1, RFC 5104 §4.3.1.1).
fn whole(bytes: &[u8], size: usize) -> Result<&[u8], RtcpError> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(size) { Err(RtcpError::Truncated) } else { Ok(bytes) }
}

fn sender_report(body: &[u8], count: u8) -> Result<Packet<'_>, RtcpError> {
    let ([ssrc, ntp_seconds, ntp_fraction, rtp_timestamp, packets, octets], rest) = split_words::<6>(body)?;
    let ntp = u64::from(ntp_seconds) << 32 | u64::from(ntp_fraction);
    let blocks = counted(rest, count, BLOCK_LEN)?;
    Ok(Packet::SenderReport(SenderReport { ssrc, ntp, rtp_timestamp, packets, octets, blocks }))
}

/// Application layer feedback, of which only REMB has a meaning here.
fn application_feedback(body: &[u8]) -> Result<Packet<'_>, RtcpError> {
    let ([sender_ssrc, _], rest) = split_words::<2>(body)?;
    let Some(rest) = rest.strip_prefix(b"REMB") else {
        return Ok(Packet::Unknown { pt: pt::PSFB, fmt: fmt::AFB });
    };
    let ([estimate], rest) = split_words::<1>(rest)?;
    let count = (estimate >> 24) as u8;
    // Six bits of exponent over 18 of mantissa say up to 2^81; what u64 cannot hold is as good as no limit.
    let (exponent, mantissa) = (estimate >> 18 & 0x3f, u64::from(estimate & 0x3ffff));
    let bps = if mantissa.leading_zeros() >= exponent { mantissa << exponent } else { u64::MAX };
    Ok(Packet::Remb(Remb { sender_ssrc, bps, ssrcs: counted(rest, count, 4)? }))
}
