//! RTCP (RFC 3550 §6, RFC 4585 §6, RFC 5104 §4.3): a writer of compounds and a reader of what a sender must heed.

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
pub(crate) const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
/// Formats of feedback.
const NACK: u8 = 1;
const PLI: u8 = 1;
const FIR: u8 = 4;
const CNAME: u8 = 1;
/// Report blocks in one packet (§6.4.1: five bits).
pub const REPORT_BLOCKS_MAX: usize = 31;
/// Bytes of one.
const BLOCK_LEN: usize = 24;
/// From 1900 to 1970, seconds.
const NTP_EPOCH_SECONDS: u64 = 2_208_988_800;

/// 32.32 fixed-point seconds since 1900 (RFC 3550 §4) of microseconds since 1970.
pub fn ntp_time(micros: u64) -> u64 {
    let micros = u128::from(micros) + u128::from(NTP_EPOCH_SECONDS) * 1_000_000;
    ((micros << 32) / 1_000_000) as u64
}

/// What a sender report says of our own stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SenderInfo {
    /// Our stream.
    pub ssrc: u32,
    /// Now, as [`ntp_time`].
    pub ntp_time: u64,
    /// The same moment in the stream's RTP clock.
    pub rtp_time: u32,
    /// Packets sent.
    pub packets: u32,
    /// Their payloads' bytes.
    pub octets: u32,
}

/// What a receiver report says of a received stream (§6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReportBlock {
    /// The stream.
    pub ssrc: u32,
    /// Share lost since the report before, of 256.
    pub fraction_lost: u8,
    /// Lost in all; 24 bits.
    pub total_lost: u32,
    /// Extended highest sequence number.
    pub highest_seq: u32,
    /// Interarrival jitter in RTP ticks.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time.
    pub last_sender_report: u32,
    /// Since it came, in 1/65536 s.
    pub delay: u32,
}

/// A compound that is being written. Its buffer can be used again.
#[derive(Default, Debug)]
pub struct Compound(Vec<u8>);

impl Compound {
    /// Begins anew in the same buffer.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a packet that is finished by `write`.
    pub(crate) fn packet(&mut self, count: u8, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.0.len();
        self.0.extend([0x80 | count, kind, 0, 0]);
        write(&mut self.0);
        while !(self.0.len() - begin).is_multiple_of(4) {
            self.0.push(0);
        }
        let words = ((self.0.len() - begin) / 4 - 1) as u16;
        self.0[begin + 2..begin + 4].copy_from_slice(&words.to_be_bytes());
    }

    /// A sender report without report blocks.
    pub fn sender_report(&mut self, info: &SenderInfo) {
        self.sender_report_with(info, None);
    }

    /// A sender report, of [`REPORT_BLOCKS_MAX`] blocks at most.
    pub fn sender_report_with(&mut self, info: &SenderInfo, blocks: impl IntoIterator<Item = ReportBlock>) {
        let begin = self.0.len();
        let mut count = 0;
        self.packet(0, SENDER_REPORT, |out| {
            out.extend(info.ssrc.to_be_bytes());
            out.extend(info.ntp_time.to_be_bytes());
            for word in [info.rtp_time, info.packets, info.octets] {
                out.extend(word.to_be_bytes());
            }
            count = write_blocks(out, blocks);
        });
        self.0[begin] |= count;
    }

    /// A receiver report, of [`REPORT_BLOCKS_MAX`] blocks at most.
    pub fn receiver_report(&mut self, ssrc: u32, blocks: impl IntoIterator<Item = ReportBlock>) {
        let begin = self.0.len();
        let mut count = 0;
        self.packet(0, RECEIVER_REPORT, |out| {
            out.extend(ssrc.to_be_bytes());
            count = write_blocks(out, blocks);
        });
        self.0[begin] |= count;
    }

    /// The CNAME of a source (§6.5.1), at most 255 bytes.
    pub fn cname(&mut self, ssrc: u32, cname: &str) {
        self.packet(1, SOURCE_DESCRIPTION, |out| {
            out.extend(ssrc.to_be_bytes());
            out.extend([CNAME, cname.len() as u8]);
            out.extend(cname.as_bytes());
            out.push(0); // Ends the list; the packet is padded after it.
        });
    }

    /// The end of a source (§6.6).
    pub fn goodbye(&mut self, ssrc: u32) {
        self.packet(1, GOODBYE, |out| out.extend(ssrc.to_be_bytes()));
    }

    /// A generic NACK (RFC 4585 §6.2.1) for sequence numbers in ascending order.
    pub fn nack(&mut self, sender_ssrc: u32, media_ssrc: u32, missing: &[u16]) {
        self.packet(NACK, TRANSPORT_FEEDBACK, |out| {
            out.extend(sender_ssrc.to_be_bytes());
            out.extend(media_ssrc.to_be_bytes());
            let mut rest = missing;
            while let [first, after @ ..] = rest {
                let near = after.iter().take_while(|seq| (1..=16).contains(&seq.wrapping_sub(*first)));
                let (mut bits, mut count) = (0u16, 0);
                for seq in near {
                    bits |= 1 << (seq.wrapping_sub(*first) - 1);
                    count += 1;
                }
                out.extend(first.to_be_bytes());
                out.extend(bits.to_be_bytes());
                rest = &after[count..];
            }
        });
    }

    /// A picture loss indication (RFC 4585 §6.3.1).
    pub fn pli(&mut self, sender_ssrc: u32, media_ssrc: u32) {
        self.packet(PLI, PAYLOAD_FEEDBACK, |out| {
            out.extend(sender_ssrc.to_be_bytes());
            out.extend(media_ssrc.to_be_bytes());
        });
    }
}

/// Writes as many as there may be; how many those were.
fn write_blocks(out: &mut Vec<u8>, blocks: impl IntoIterator<Item = ReportBlock>) -> u8 {
    let mut count = 0;
    for block in blocks.into_iter().take(REPORT_BLOCKS_MAX) {
        count += 1;
        let lost = u32::from(block.fraction_lost) << 24 | block.total_lost & 0xFF_FFFF;
        let rest = [block.highest_seq, block.jitter, block.last_sender_report, block.delay];
        for word in [block.ssrc, lost].into_iter().chain(rest) {
            out.extend(word.to_be_bytes());
        }
    }
    count
}

/// One packet of a received compound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// A sender report.
    SenderReport {
        /// Of this stream.
        ssrc: u32,
        /// Its NTP time.
        ntp_time: u64,
        /// Its RTP time.
        rtp_time: u32,
        /// [`report_blocks`] reads what the sender says of streams that it receives.
        blocks: &'a [u8],
    },
    /// A receiver report.
    ReceiverReport {
        /// Who says it.
        ssrc: u32,
        /// [`report_blocks`] reads what it says.
        blocks: &'a [u8],
    },
    /// A generic NACK; [`missing`] reads what it asks for.
    Nack {
        /// The stream.
        media_ssrc: u32,
        /// Pairs of a sequence number and a bit mask.
        pairs: &'a [u8],
    },
    /// A picture loss indication.
    Pli {
        /// The stream.
        media_ssrc: u32,
    },
    /// A full intra request (RFC 5104 §4.3.1) of one stream or more.
    Fir {
        /// Entries of eight bytes, each of which begins with an SSRC.
        entries: &'a [u8],
    },
    /// Another one, of this type.
    Other(u8),
}

/// The packets of a compound; it ends where the bytes are no RTCP.
pub fn packets(mut compound: &[u8]) -> impl Iterator<Item = Packet<'_>> {
    std::iter::from_fn(move || {
        let &[flags, kind, high, low] = compound.first_chunk()?;
        let len = 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        let body = compound.get(4..len).filter(|_| flags >> 6 == 2)?;
        compound = &compound[len..];
        Some(parse(flags & 0x1F, kind, body).unwrap_or(Packet::Other(kind)))
    })
}

/// Whether these are whole packets of RTCP, one or more, and nothing behind the last one (RFC 3550 A.2). That a report is the first one
/// is not asked: reduced ones (RFC 5506) have none, and telephones send BYE alone.
pub fn is_whole(compound: &[u8]) -> bool {
    let mut rest = compound;
    while let Some(&[flags, kind, high, low]) = rest.first_chunk() {
        let len = 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        if flags >> 6 != 2 || !(192..224).contains(&kind) || len > rest.len() {
            return false;
        }
        rest = &rest[len..];
    }
    rest.is_empty() && !compound.is_empty()
}

/// The blocks of a report.
pub fn report_blocks(blocks: &[u8]) -> impl Iterator<Item = ReportBlock> + '_ {
    blocks.as_chunks::<BLOCK_LEN>().0.iter().map(|block| {
        let word = |at: usize| u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        ReportBlock {
            ssrc: word(0),
            fraction_lost: block[4],
            total_lost: word(4) & 0xFF_FFFF,
            highest_seq: word(8),
            jitter: word(12),
            last_sender_report: word(16),
            delay: word(20),
        }
    })
}

fn parse(count: u8, kind: u8, body: &[u8]) -> Option<Packet<'_>> {
    let word = |at: usize| Some(u32::from_be_bytes(*body.get(at..)?.first_chunk()?));
    Some(match (kind, count) {
        (SENDER_REPORT, _) => Packet::SenderReport {
            ssrc: word(0)?,
            ntp_time: u64::from(word(4)?) << 32 | u64::from(word(8)?),
            rtp_time: word(12)?,
            blocks: body.get(24..24 + BLOCK_LEN * usize::from(count))?,
        },
        (RECEIVER_REPORT, _) => {
            Packet::ReceiverReport { ssrc: word(0)?, blocks: body.get(4..4 + BLOCK_LEN * usize::from(count))? }
        }
        (TRANSPORT_FEEDBACK, NACK) => Packet::Nack { media_ssrc: word(4)?, pairs: &body[8..] },
        (PAYLOAD_FEEDBACK, PLI) => Packet::Pli { media_ssrc: word(4)? },
        (PAYLOAD_FEEDBACK, FIR) => Packet::Fir { entries: body.get(8..)? },
        _ => Packet::Other(kind),
    })
}

/// The sequence numbers that a NACK asks for.
pub fn missing(pairs: &[u8]) -> impl Iterator<Item = u16> + '_ {
    pairs.as_chunks::<4>().0.iter().flat_map(|pair| {
        let (first, bits) = (u16::from_be_bytes([pair[0], pair[1]]), u16::from_be_bytes([pair[2], pair[3]]));
        let after = (0..16).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| first.wrapping_add(bit + 1));
        std::iter::once(first).chain(after)
    })
}

/// The streams that a FIR asks for.
pub fn fir_ssrcs(entries: &[u8]) -> impl Iterator<Item = u32> + '_ {
    entries.as_chunks::<8>().0.iter().map(|entry| u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]))
}

#[cfg(test)]
mod tests {
    use rtcp::goodbye::Goodbye;
    use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
    use rtcp::receiver_report::ReceiverReport;
    use rtcp::sender_report::SenderReport;
    use rtcp::source_description::SourceDescription;
    use rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;

    use super::*;

    #[test]
    fn another_stack_reads_a_compound_as_it_was_meant() {
        let mut compound = Compound::default();
        let info = SenderInfo { ssrc: 7, ntp_time: ntp_time(1_500_000), rtp_time: 9, packets: 10, octets: 11 };
        let block =
            ReportBlock { ssrc: 8, fraction_lost: 3, total_lost: 70_000, highest_seq: 1 << 17, ..Default::default() };
        compound.sender_report_with(&info, [ReportBlock { ssrc: 6, ..block }]);
        compound.receiver_report(7, [block, ReportBlock { ssrc: 9, ..block }]);
        compound.cname(7, "client");
        let asked = [65_533, 65_535, 0, 15, 400];
        compound.nack(7, 8, &asked);
        compound.pli(7, 8);
        compound.goodbye(7);
        let packets_read = rtcp::packet::unmarshal(&mut compound.bytes().to_vec().as_slice()).unwrap();
        let [sender, receiver, source, nack, pli, goodbye] = &packets_read[..] else { panic!("{packets_read:?}") };
        let sender = sender.as_any().downcast_ref::<SenderReport>().unwrap();
        assert_eq!((sender.ssrc, sender.rtp_time, sender.packet_count, sender.octet_count), (7, 9, 10, 11));
        assert_eq!(sender.ntp_time, (NTP_EPOCH_SECONDS + 1) << 32 | 1 << 31);
        assert_eq!((sender.reports.len(), sender.reports[0].ssrc, sender.reports[0].total_lost), (1, 6, 70_000));
        let receiver = receiver.as_any().downcast_ref::<ReceiverReport>().unwrap();
        let read = &receiver.reports[0];
        assert_eq!((receiver.reports.len(), read.ssrc, read.fraction_lost, read.total_lost), (2, 8, 3, 70_000));
        assert_eq!(read.last_sequence_number, 1 << 17);
        let source = source.as_any().downcast_ref::<SourceDescription>().unwrap();
        assert_eq!((source.chunks[0].source, &source.chunks[0].items[0].text[..]), (7, &b"client"[..]));
        let nack = nack.as_any().downcast_ref::<TransportLayerNack>().unwrap();
        let read: Vec<u16> = nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        assert_eq!(read, asked);
        assert_eq!(pli.as_any().downcast_ref::<PictureLossIndication>().unwrap().media_ssrc, 8);
        assert_eq!(goodbye.as_any().downcast_ref::<Goodbye>().unwrap().sources, [7]);
    }

    #[test]
    fn what_is_written_is_read_and_what_is_cut_short_ends() {
        let mut compound = Compound::default();
        let block = ReportBlock { ssrc: 3, fraction_lost: 4, total_lost: 5, delay: 6, ..ReportBlock::default() };
        compound.sender_report_with(
            &SenderInfo { ssrc: 7, ntp_time: 1 << 40, rtp_time: 9, ..SenderInfo::default() },
            [block],
        );
        compound.nack(1, 8, &[5, 6, 22, 23]);
        compound.pli(1, 8);
        let bytes = compound.bytes().to_vec();
        let read: Vec<Packet<'_>> = packets(&bytes).collect();
        let Packet::SenderReport { ssrc: 7, ntp_time, rtp_time: 9, blocks } = read[0] else { panic!("{read:?}") };
        assert_eq!((ntp_time, report_blocks(blocks).collect::<Vec<_>>()), (1 << 40, vec![block]));
        assert!(is_whole(&bytes) && is_whole(&bytes[52..]) && !is_whole(&bytes[4..]));
        let Packet::Nack { media_ssrc: 8, pairs } = read[1] else { panic!("{read:?}") };
        assert_eq!(missing(pairs).collect::<Vec<_>>(), [5, 6, 22, 23]);
        assert_eq!(read[2], Packet::Pli { media_ssrc: 8 });
        for len in 0..bytes.len() {
            assert!(packets(&bytes[..len]).count() < 3);
            assert!(!is_whole(&bytes[..len]) || len == 52 || len == 52 + 20, "{len}");
        }
        let fir = [0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8, 1, 0, 0, 0];
        let Some(Packet::Fir { entries }) = packets(&fir).next() else { panic!() };
        assert_eq!(fir_ssrcs(entries).collect::<Vec<_>>(), [8]);
    }
}
