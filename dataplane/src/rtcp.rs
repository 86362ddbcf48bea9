//! RTCP as views over bytes and as a writer of compounds (RFC 3550 §6, RFC 4585, RFC 5104, RFC 5506).
//!
//! Feedback ends at the worker: what arrives is unprotected, read here and answered or turned into feedback of our own;
//! what leaves is written here and protected as one SRTCP packet. Nothing keeps state or allocates.

use crate::twcc::{ArrivalLog, TransportCc, TransportCcError};

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
    /// Application-defined.
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

/// Writes RTCP packets one after the other into a caller's buffer.
///
/// Each method returns the bytes that it wrote. It is all or nothing: 0 means that there was no room (or nothing to say),
/// and what was written before stays good. The order is the caller's; a compound starts with a report and a CNAME
/// unless reduced-size RTCP was negotiated (RFC 3550 §6.1, RFC 5506).
#[derive(Debug)]
pub struct CompoundWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> CompoundWriter<'a> {
    /// An empty compound at the front of `out`. Leave room behind it for the SRTCP trailer.
    pub fn new(out: &'a mut [u8]) -> CompoundWriter<'a> {
        CompoundWriter { out, len: 0 }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ends the compound and returns its length.
    pub fn finish(self) -> usize {
        self.len
    }

    /// Sender report (RFC 3550 §6.4.1) with `ntp` as 32.32 fixed point. Blocks beyond the first 31 follow in receiver
    /// reports of the same sender.
    pub fn sender_report(
        &mut self,
        ssrc: u32,
        ntp: u64,
        rtp_timestamp: u32,
        packets: u32,
        octets: u32,
        blocks: &[ReportBlock],
    ) -> usize {
        let start = self.len;
        let (first, more) = blocks.split_at(blocks.len().min(REPORT_BLOCKS_MAX));
        let head = [ssrc, (ntp >> 32) as u32, ntp as u32, rtp_timestamp, packets, octets];
        if !self.report(pt::SR, &head, first) || !self.receiver_reports(ssrc, more) {
            self.len = start;
        }
        self.len - start
    }

    /// Receiver report (RFC 3550 §6.4.2), one for each 31 blocks and one if there are none.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> usize {
        let start = self.len;
        let (first, more) = blocks.split_at(blocks.len().min(REPORT_BLOCKS_MAX));
        if !self.report(pt::RR, &[ssrc], first) || !self.receiver_reports(ssrc, more) {
            self.len = start;
        }
        self.len - start
    }

    fn receiver_reports(&mut self, ssrc: u32, blocks: &[ReportBlock]) -> bool {
        blocks.chunks(REPORT_BLOCKS_MAX).all(|blocks| self.report(pt::RR, &[ssrc], blocks))
    }

    fn report(&mut self, pt: u8, head: &[u32], blocks: &[ReportBlock]) -> bool {
        let words = head.iter().copied().chain(blocks.iter().flat_map(ReportBlock::words));
        self.packet(pt, blocks.len() as u8, head.len() + 6 * blocks.len(), words) > 0
    }

    /// Source description with a CNAME alone (RFC 3550 §6.5.1), cut after [`CNAME_LEN_MAX`] bytes.
    pub fn sdes_cname(&mut self, ssrc: u32, cname: &str) -> usize {
        const CNAME: u8 = 1;
        let text = &cname.as_bytes()[..cname.len().min(CNAME_LEN_MAX)];
        // The list of items ends with at least one zero byte, then the chunk is filled up to a word.
        let body_len = (4 + 2 + text.len() + 1).next_multiple_of(4);
        self.reserve(pt::SDES, 1, body_len, |body| {
            body[..4].copy_from_slice(&ssrc.to_be_bytes());
            body[4..6].copy_from_slice(&[CNAME, text.len() as u8]);
            let (value, end) = body[6..].split_at_mut(text.len());
            value.copy_from_slice(text);
            end.fill(0);
        })
    }

    /// Generic NACK (RFC 4585 §6.2.1) for `lost`, in ascending order, across the wrap if need be. Each 4-byte entry names
    /// one packet and any of the 16 after it. Nothing is written for an empty list.
    pub fn nack(&mut self, sender_ssrc: u32, media_ssrc: u32, lost: &[u16]) -> usize {
        let count = nack_entries(lost).count();
        if count == 0 {
            return 0;
        }
        let words = [sender_ssrc, media_ssrc].into_iter().chain(nack_entries(lost));
        self.packet(pt::RTPFB, fmt::NACK, 2 + count, words)
    }

    /// Picture loss indication (RFC 4585 §6.3.1).
    pub fn pli(&mut self, sender_ssrc: u32, media_ssrc: u32) -> usize {
        self.packet(pt::PSFB, fmt::PLI, 2, [sender_ssrc, media_ssrc])
    }

    /// Full intra request (RFC 5104 §4.3.1) to one stream. `seq_nr` goes up by one with each new request.
    pub fn fir(&mut self, sender_ssrc: u32, media_ssrc: u32, seq_nr: u8) -> usize {
        self.packet(pt::PSFB, fmt::FIR, 4, [sender_ssrc, 0, media_ssrc, u32::from(seq_nr) << 24])
    }

    /// One packet of transport-wide feedback with what `log` has to report; 0 if that is nothing. What did not fit stays in
    /// the log for the next packet, in another datagram if there is no room here.
    pub fn transport_cc(&mut self, sender_ssrc: u32, media_ssrc: u32, log: &mut ArrivalLog) -> usize {
        let message_start = self.len + HEADER_LEN + 8;
        let Some(room) = self.out.get_mut(message_start..) else { return 0 };
        let message_len = log.write_feedback(room);
        if message_len == 0 {
            return 0;
        }
        self.reserve(pt::RTPFB, fmt::TRANSPORT_CC, 8 + message_len, |body| {
            body[..4].copy_from_slice(&sender_ssrc.to_be_bytes());
            body[4..8].copy_from_slice(&media_ssrc.to_be_bytes());
        })
    }

    /// Goodbye of one stream (RFC 3550 §6.6).
    pub fn bye(&mut self, ssrc: u32) -> usize {
        self.packet(pt::BYE, 1, 1, [ssrc])
    }

    /// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03 §2.2): what these streams may send together, bit/s.
    /// Names at most 255 of them. What 18 bits of mantissa cannot say is rounded down.
    pub fn remb(&mut self, sender_ssrc: u32, bps: u32, ssrcs: &[u32]) -> usize {
        let ssrcs = &ssrcs[..ssrcs.len().min(usize::from(u8::MAX))];
        let exponent = (u32::BITS - bps.leading_zeros()).saturating_sub(18);
        let estimate = (ssrcs.len() as u32) << 24 | exponent << 18 | bps >> exponent;
        let head = [sender_ssrc, 0, u32::from_be_bytes(*b"REMB"), estimate];
        self.packet(pt::PSFB, fmt::AFB, head.len() + ssrcs.len(), head.into_iter().chain(ssrcs.iter().copied()))
    }

    /// Appends a packet whose body is `count` words.
    fn packet(&mut self, pt: u8, fmt: u8, count: usize, words: impl IntoIterator<Item = u32>) -> usize {
        self.reserve(pt, fmt, 4 * count, |body| {
            for (place, word) in body.as_chunks_mut().0.iter_mut().zip(words) {
                *place = word.to_be_bytes();
            }
        })
    }

    /// Appends a header and has `write` fill the body after it, if there is room for both.
    fn reserve(&mut self, pt: u8, fmt: u8, body_len: usize, write: impl FnOnce(&mut [u8])) -> usize {
        let words = (body_len / 4) as u16;
        let end = self.len + HEADER_LEN + body_len;
        let Some(packet) = self.out.get_mut(self.len..end) else { return 0 };
        let (header, body) = packet.split_at_mut(HEADER_LEN);
        header[..2].copy_from_slice(&[2 << 6 | fmt, pt]);
        header[2..].copy_from_slice(&words.to_be_bytes());
        write(body);
        self.len = end;
        HEADER_LEN + body_len
    }
}

/// Packs ascending sequence numbers into entries of a packet id and a mask of the 16 after it.
fn nack_entries(mut lost: &[u16]) -> impl Iterator<Item = u32> + '_ {
    std::iter::from_fn(move || {
        let (&first, rest) = lost.split_first()?;
        let mut mask = 0u16;
        lost = rest;
        while let Some((&seq, rest)) = lost.split_first() {
            let distance = seq.wrapping_sub(first);
            if distance > 16 {
                break;
            }
            // Distance 0 is a repeated number, which the entry names already.
            mask |= (1u32 << distance >> 1) as u16;
            lost = rest;
        }
        Some(u32::from(first) << 16 | u32::from(mask))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(compound: &[u8]) -> Packet<'_> {
        let mut all = packets(compound);
        let packet = all.next().unwrap().unwrap();
        assert!(all.next().is_none());
        packet
    }

    fn errors(compound: &[u8]) -> Vec<RtcpError> {
        packets(compound).filter_map(Result::err).collect()
    }

    /// What `write` puts into a compound.
    fn written(write: impl FnOnce(&mut CompoundWriter<'_>)) -> Vec<u8> {
        let mut out = [0xee; 2048];
        let mut writer = CompoundWriter::new(&mut out);
        write(&mut writer);
        let len = writer.finish();
        out[..len].to_vec()
    }

    const BLOCK: ReportBlock = ReportBlock {
        ssrc: 0xbc5e_9a40,
        fraction_lost: 128,
        cumulative_lost: -5,
        highest_seq: 0x0001_46e1,
        jitter: 273,
        last_sr: 0x09f3_6432,
        delay_since_last_sr: 150_137,
    };

    #[test]
    fn a_sender_report_says_what_was_written() {
        let bytes = written(|w| assert_eq!(w.sender_report(7, 1 << 63 | 5, 9, 10, 11, &[BLOCK]), 28 + 24));
        assert_eq!(bytes[..4], [0x81, 200, 0, 12]);
        let Packet::SenderReport(report) = only(&bytes) else { panic!("not a sender report") };
        assert_eq!((report.ssrc, report.ntp, report.rtp_timestamp), (7, 1 << 63 | 5, 9));
        assert_eq!((report.packets, report.octets), (10, 11));
        assert_eq!(report.blocks().collect::<Vec<_>>(), [BLOCK]);
    }

    #[test]
    fn blocks_beyond_31_follow_in_receiver_reports() {
        let blocks = vec![BLOCK; 70];
        let of = |write: fn(&mut CompoundWriter<'_>, &[ReportBlock])| {
            let mut bytes = vec![0; 4096];
            let mut writer = CompoundWriter::new(&mut bytes);
            write(&mut writer, &blocks);
            let len = writer.finish();
            let counts = packets(&bytes[..len]).map(|packet| match packet.unwrap() {
                Packet::SenderReport(report) => (true, report.blocks().count()),
                Packet::ReceiverReport(report) => (false, report.blocks().count()),
                other => panic!("{other:?}"),
            });
            counts.collect::<Vec<_>>()
        };
        let sender = of(|w, blocks| assert!(w.sender_report(1, 2, 3, 4, 5, blocks) > 0));
        assert_eq!(sender, [(true, 31), (false, 31), (false, 8)]);
        let receiver = of(|w, blocks| assert!(w.receiver_report(1, blocks) > 0));
        assert_eq!(receiver, [(false, 31), (false, 31), (false, 8)]);
    }

    #[test]
    fn cumulative_loss_is_24_bits_signed_and_clamped() {
        let through = |lost| {
            let bytes = written(|w| {
                w.receiver_report(1, &[ReportBlock { cumulative_lost: lost, ..BLOCK }]);
            });
            let Packet::ReceiverReport(report) = only(&bytes) else { panic!("not a receiver report") };
            report.blocks().next().unwrap().cumulative_lost
        };
        assert_eq!([through(0), through(-1), through(8_388_607)], [0, -1, 8_388_607]);
        assert_eq!([through(i32::MAX), through(i32::MIN)], [8_388_607, -8_388_608]);
    }

    #[test]
    fn a_nack_is_packed_and_unpacked() {
        let lost = [65_534, 65_535, 0, 14, 15, 100];
        let bytes = written(|w| assert_eq!(w.nack(1, 2, &lost), 12 + 3 * 4, "65534..=14, 15, 100"));
        let Packet::Nack(nack) = only(&bytes) else { panic!("not a NACK") };
        assert_eq!((nack.sender_ssrc, nack.media_ssrc), (1, 2));
        assert_eq!(nack.lost().collect::<Vec<_>>(), lost);
        assert!(written(|w| assert_eq!(w.nack(1, 2, &[]), 0)).is_empty());
    }

    #[test]
    fn a_nack_entry_reaches_16_packets_on() {
        assert_eq!(nack_entries(&[10, 10, 26]).collect::<Vec<_>>(), [10 << 16 | 0x8000]);
        assert_eq!(nack_entries(&[10, 27]).collect::<Vec<_>>(), [10 << 16, 27 << 16]);
        assert_eq!(nack_entries(&[10, 11]).collect::<Vec<_>>(), [10 << 16 | 1]);
    }

    #[test]
    fn keyframe_requests() {
        let bytes = written(|w| {
            assert_eq!(w.pli(1, 2), 12);
            assert_eq!(w.fir(1, 2, 200), 20);
        });
        let all: Vec<_> = packets(&bytes).map(Result::unwrap).collect();
        assert_eq!(all[0], Packet::Pli { sender_ssrc: 1, media_ssrc: 2 });
        let Packet::Fir(fir) = all[1] else { panic!("not a FIR") };
        assert_eq!((fir.sender_ssrc, fir.entries().collect::<Vec<_>>()), (1, vec![(2, 200)]));
    }

    #[test]
    fn a_cname_ends_with_a_zero_and_fills_its_word() {
        for (cname, len) in [("", 4 + 8), ("a", 4 + 8), ("ab", 4 + 12), ("abcdef", 4 + 16)] {
            let bytes = written(|w| assert_eq!(w.sdes_cname(5, cname), len, "{cname}"));
            assert_eq!(only(&bytes), Packet::Sdes);
            assert_eq!(bytes.last(), Some(&0));
            assert_eq!(bytes[9] as usize, cname.len());
        }
        let long = "x".repeat(300);
        assert_eq!(written(|w| assert!(w.sdes_cname(5, &long) > 0))[9], 255);
    }

    #[test]
    fn remb_estimates_saturate() {
        let remb = |exponent_mantissa: [u8; 3]| {
            let mut bytes = vec![0x8f, 206, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
            bytes.extend_from_slice(b"REMB\x01");
            bytes.extend_from_slice(&exponent_mantissa);
            bytes.extend_from_slice(&[0, 0, 0, 9]);
            let Packet::Remb(remb) = only(&bytes) else { panic!("not a REMB") };
            assert_eq!((remb.sender_ssrc, remb.ssrcs().collect::<Vec<_>>()), (1, vec![9]));
            remb.bps
        };
        // From draft-alvestrand-rmcat-remb's layout: exponent in six bits, mantissa in eighteen.
        assert_eq!(remb([0x02, 0, 0]), 1 << 17);
        assert_eq!(remb([1 << 2, 0, 3]), 6);
        assert_eq!(remb([46 << 2 | 3, 0xff, 0xff]), 0x3ffff << 46);
        assert_eq!(remb([47 << 2 | 3, 0xff, 0xff]), u64::MAX);
        assert_eq!(remb([63 << 2, 0, 1]), 1 << 63);
        assert_eq!(remb([63 << 2, 0, 0]), 0);
    }

    #[test]
    fn other_packets_are_named_and_skipped() {
        let app = [0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e'];
        let xr = [0x80, 207, 0, 1, 0, 0, 0, 1];
        let afb = [0x8f, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, b'J', b'U', b'N', b'K'];
        let sli = [0x82, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        let bye = [0x82, 203, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        let bytes: Vec<u8> = [&app[..], &xr, &afb, &sli, &bye].concat();
        let all: Vec<_> = packets(&bytes).map(Result::unwrap).collect();
        assert_eq!(all[..2], [Packet::App, Packet::Xr]);
        assert_eq!(all[2..4], [Packet::Unknown { pt: 206, fmt: 15 }, Packet::Unknown { pt: 206, fmt: 2 }]);
        let Packet::Bye(bye) = all[4] else { panic!("not a BYE") };
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_broken_packet_does_not_hide_those_after_it() {
        let good = written(|w| assert!(w.pli(1, 2) > 0));
        let cut_report = [0x81, 201, 0, 1, 0, 0, 0, 1];
        let bytes = [&cut_report[..], &good].concat();
        let all: Vec<_> = packets(&bytes).collect();
        assert_eq!(all, [Err(RtcpError::Truncated), Ok(Packet::Pli { sender_ssrc: 1, media_ssrc: 2 })]);
    }

    #[test]
    fn a_broken_frame_ends_the_iteration() {
        assert_eq!(errors(&[0x80, 201, 0]), [RtcpError::Length]);
        assert_eq!(errors(&[0x80, 201, 0, 2, 0, 0, 0, 1]), [RtcpError::Length]);
        assert_eq!(errors(&[0x40, 201, 0, 0, 0x80]), [RtcpError::Version]);
        let mut trailing = written(|w| assert!(w.pli(1, 2) > 0));
        trailing.push(0x80);
        assert_eq!(errors(&trailing), [RtcpError::Length]);
        assert_eq!(packets(&[]).count(), 0);
    }

    #[test]
    fn padding_is_taken_off() {
        let padded = |padding: u8| [0xa1, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, padding];
        assert_eq!(only(&padded(4)), Packet::Pli { sender_ssrc: 1, media_ssrc: 2 });
        assert_eq!(errors(&padded(0)), [RtcpError::Padding]);
        assert_eq!(errors(&padded(13)), [RtcpError::Padding]);
        assert_eq!(errors(&padded(8)), [RtcpError::Truncated], "the padding takes the media SSRC");
        assert_eq!(errors(&[0xa0, 200, 0, 0]), [RtcpError::Padding]);
    }

    #[test]
    fn without_room_nothing_is_written_and_the_rest_stays() {
        let mut log = ArrivalLog::new(64);
        log.push(1, 1_000);
        let mut out = [0; 20];
        let mut writer = CompoundWriter::new(&mut out);
        assert_eq!(writer.pli(1, 2), 12);
        assert_eq!(writer.pli(1, 2), 0);
        assert_eq!(writer.fir(1, 2, 3), 0);
        assert_eq!(writer.nack(1, 2, &[1]), 0);
        assert_eq!(writer.sdes_cname(1, "a name that is long"), 0);
        assert_eq!(writer.sender_report(1, 2, 3, 4, 5, &[]), 0);
        assert_eq!(writer.receiver_report(1, &[BLOCK]), 0);
        assert_eq!(writer.transport_cc(1, 2, &mut log), 0);
        assert!(log.has_unreported(), "what could not be written is still to be reported");
        assert_eq!((writer.bye(9), writer.len(), writer.finish()), (8, 20, 20));
        let all: Vec<_> = packets(&out).map(Result::unwrap).collect();
        assert!(matches!(all[..], [Packet::Pli { .. }, Packet::Bye(_)]));
    }

    #[test]
    fn a_report_that_fits_only_in_part_is_taken_back() {
        let mut out = [0; 4 + 4 + 31 * 24 + 8];
        let mut writer = CompoundWriter::new(&mut out);
        assert_eq!(writer.receiver_report(1, &[BLOCK; 32]), 0);
        assert!(writer.is_empty());
    }

    #[test]
    fn feedback_is_framed() {
        let mut log = ArrivalLog::new(64);
        log.push(5, 64_000);
        let bytes = written(|w| {
            assert_eq!(w.transport_cc(1, 2, &mut log), 12 + 12);
            assert_eq!(w.transport_cc(1, 2, &mut log), 0, "all is said");
        });
        let Packet::TransportCc(feedback) = only(&bytes) else { panic!("not transport-cc") };
        assert_eq!((feedback.sender_ssrc, feedback.media_ssrc), (1, 2));
        assert_eq!(feedback.statuses().collect::<Vec<_>>(), [(5, Some(0))]);
    }
}
