//! Writing: compounds of RTCP.

use super::{CNAME_LEN_MAX, HEADER_LEN, REPORT_BLOCKS_MAX, ROOM_MAX, ROOMS_NAME, ROOMS_SUBTYPE, ReportBlock, fmt, pt};
use crate::headroom::Headroom;
use crate::twcc::ArrivalLog;

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

    /// What the receivers of streams have room for; see [`Rooms`](super::Rooms).
    pub fn rooms(&mut self, sender_ssrc: u32, rooms: &[(u32, Headroom)]) -> usize {
        let entry = |&(ssrc, Headroom { bps, is_needed }): &(u32, Headroom)| {
            [ssrc, bps.min(ROOM_MAX) | u32::from(is_needed) << 31]
        };
        let words = [sender_ssrc, u32::from_be_bytes(ROOMS_NAME)].into_iter().chain(rooms.iter().flat_map(entry));
        self.packet(pt::APP, ROOMS_SUBTYPE, 2 + 2 * rooms.len(), words)
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
pub(super) fn nack_entries(mut lost: &[u16]) -> impl Iterator<Item = u32> + '_ {
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
