//! RTP, RTCP and transport-cc against the `rtp` and `rtcp` crates, in both directions: what they write we read, and what
//! we write they read, with the same meaning.
//!
//! Their parsers may panic on malformed bytes, so only well-formed packets meet them; `hostile_wire.rs` has the others.

use std::any::Any;

use bytes::Bytes;
use dataplane::rtcp::{CompoundWriter, Packet, ReportBlock, packets};
use dataplane::rtp::{Header, HeaderWriter, WRITTEN_LEN_MAX, payload_len};
use dataplane::twcc::ArrivalLog;
use proptest::prelude::*;
use rtcp::goodbye::Goodbye;
use rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtcp::receiver_report::ReceiverReport;
use rtcp::reception_report::ReceptionReport;
use rtcp::sender_report::SenderReport;
use rtcp::source_description::{SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem};
use rtcp::transport_feedbacks::transport_layer_cc::{
    PacketStatusChunk, RecvDelta, RunLengthChunk, StatusChunkTypeTcc, StatusVectorChunk, SymbolSizeTypeTcc,
    SymbolTypeTcc, TransportLayerCc,
};
use rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use webrtc_util::marshal::{Marshal, Unmarshal};

type Theirs = Box<dyn rtcp::packet::Packet + Send + Sync>;

/// The compound as the `rtcp` crate reads it.
fn theirs(compound: &[u8]) -> Vec<Theirs> {
    rtcp::packet::unmarshal(&mut Bytes::copy_from_slice(compound)).expect("the rtcp crate reads it")
}

fn as_type<T: Any>(packet: &Theirs) -> &T {
    packet.as_any().downcast_ref().expect("the rtcp crate sees the same type")
}

/// What `write` puts into a compound.
fn written(write: impl FnOnce(&mut CompoundWriter<'_>)) -> Vec<u8> {
    let mut out = vec![0xee; 65_536];
    let mut writer = CompoundWriter::new(&mut out);
    write(&mut writer);
    let len = writer.finish();
    out.truncate(len);
    out
}

/// The only packet of a compound that the `rtcp` crate wrote.
fn read_ours<T>(packet: &impl Marshal, read: impl FnOnce(Packet<'_>) -> Option<T>) -> T {
    let bytes = packet.marshal().expect("the rtcp crate writes it");
    let mut all = packets(&bytes);
    let ours = all.next().expect("a packet").expect("a good packet");
    assert!(all.next().is_none(), "one packet only");
    read(ours).expect("the type that was written")
}

fn one_byte_elements() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    prop::collection::vec((1u8..=14, prop::collection::vec(any::<u8>(), 1..=16)), 0..8)
}

fn two_byte_elements() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    prop::collection::vec((1u8..=255, prop::collection::vec(any::<u8>(), 0..40)), 0..8)
}

proptest! {
    #[test]
    fn the_rtp_crates_packets_are_read(
        (marker, padding) in any::<(bool, bool)>(),
        (pt, seq, timestamp, ssrc) in (0u8..128, any::<u16>(), any::<u32>(), any::<u32>()),
        csrc in prop::collection::vec(any::<u32>(), 0..=15),
        elements in prop_oneof![
            one_byte_elements().prop_map(|elements| (0xbede, elements)),
            two_byte_elements().prop_map(|elements| (0x1000, elements)),
        ],
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let (extension_profile, elements) = elements;
        let extensions: Vec<_> = elements
            .iter()
            .map(|(id, value)| rtp::header::Extension { id: *id, payload: Bytes::copy_from_slice(value) })
            .collect();
        let packet = rtp::packet::Packet {
            header: rtp::header::Header {
                version: 2, padding, extension: !elements.is_empty(), marker, payload_type: pt, sequence_number: seq,
                timestamp, ssrc, csrc, extension_profile, extensions, extensions_padding: 0,
            },
            payload: Bytes::copy_from_slice(&payload),
        };
        let bytes = packet.marshal().unwrap();
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!((header.marker, header.pt, header.seq), (marker, pt, seq));
        prop_assert_eq!((header.timestamp, header.ssrc, header.has_padding), (timestamp, ssrc, padding));
        prop_assert_eq!(payload_len(&header, &bytes), Some(payload.len()));
        prop_assert_eq!(&bytes[header.header_len..][..payload.len()], &payload[..]);
        let read: Vec<_> = header.extensions(&bytes).map(|(id, value)| (id, value.to_vec())).collect();
        prop_assert_eq!(read, elements);
    }

    #[test]
    fn the_rtp_crate_reads_our_headers(
        (marker, pt, seq, timestamp, ssrc) in (any::<bool>(), 0u8..128, any::<u16>(), any::<u32>(), any::<u32>()),
        elements in one_byte_elements(),
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut out = vec![0xee; WRITTEN_LEN_MAX];
        let mut writer = HeaderWriter::new(&mut out, marker, pt, seq, timestamp, ssrc);
        for (id, value) in &elements {
            prop_assert!(writer.extension(*id, value));
        }
        let len = writer.finish();
        out.truncate(len);
        out.extend_from_slice(&payload);
        let packet = rtp::packet::Packet::unmarshal(&mut Bytes::from(out)).unwrap();
        let header = &packet.header;
        prop_assert_eq!((header.marker, header.payload_type, header.sequence_number), (marker, pt, seq));
        prop_assert_eq!((header.timestamp, header.ssrc, header.padding), (timestamp, ssrc, false));
        prop_assert_eq!((header.csrc.len(), header.extension), (0, !elements.is_empty()));
        let read: Vec<_> = header.extensions.iter().map(|e| (e.id, e.payload.to_vec())).collect();
        prop_assert_eq!(read, elements);
        prop_assert_eq!(packet.payload, payload);
    }
}

fn report_block() -> impl Strategy<Value = ReportBlock> {
    (any::<u32>(), any::<u8>(), -(1i32 << 23)..1 << 23, any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>())
        .prop_map(|(ssrc, fraction_lost, cumulative_lost, highest_seq, jitter, last_sr, delay_since_last_sr)| {
            ReportBlock { ssrc, fraction_lost, cumulative_lost, highest_seq, jitter, last_sr, delay_since_last_sr }
        })
}

/// The block in the crate's form, which has the 24 bits of loss unsigned.
fn their_block(block: &ReportBlock) -> ReceptionReport {
    ReceptionReport {
        ssrc: block.ssrc,
        fraction_lost: block.fraction_lost,
        total_lost: block.cumulative_lost as u32 & 0xff_ffff,
        last_sequence_number: block.highest_seq,
        jitter: block.jitter,
        last_sender_report: block.last_sr,
        delay: block.delay_since_last_sr,
    }
}

proptest! {
    #[test]
    fn reports_both_ways(
        (ssrc, ntp, rtp_timestamp, count, octets) in any::<(u32, u64, u32, u32, u32)>(),
        blocks in prop::collection::vec(report_block(), 0..=31),
    ) {
        let their_sr = SenderReport {
            ssrc, ntp_time: ntp, rtp_time: rtp_timestamp, packet_count: count, octet_count: octets,
            reports: blocks.iter().map(their_block).collect(),
            profile_extensions: Bytes::new(),
        };
        let their_rr = ReceiverReport {
            ssrc, reports: blocks.iter().map(their_block).collect(), profile_extensions: Bytes::new(),
        };

        read_ours(&their_sr, |packet| {
            let Packet::SenderReport(report) = packet else { return None };
            assert_eq!((report.ssrc, report.ntp, report.rtp_timestamp), (ssrc, ntp, rtp_timestamp));
            assert_eq!((report.packets, report.octets), (count, octets));
            assert_eq!(report.blocks().collect::<Vec<_>>(), blocks);
            Some(())
        });
        read_ours(&their_rr, |packet| {
            let Packet::ReceiverReport(report) = packet else { return None };
            assert_eq!((report.ssrc, report.blocks().collect::<Vec<_>>()), (ssrc, blocks.clone()));
            Some(())
        });

        let bytes = written(|writer| {
            writer.sender_report(ssrc, ntp, rtp_timestamp, count, octets, &blocks);
            writer.receiver_report(ssrc, &blocks);
        });
        let all = theirs(&bytes);
        prop_assert_eq!(all.len(), 2);
        prop_assert_eq!(as_type::<SenderReport>(&all[0]), &their_sr);
        prop_assert_eq!(as_type::<ReceiverReport>(&all[1]), &their_rr);
    }

    #[test]
    fn nacks_both_ways(
        (sender_ssrc, media_ssrc, start) in any::<(u32, u32, u16)>(),
        steps in prop::collection::vec(1u16..40, 1..200),
    ) {
        let lost: Vec<u16> = steps
            .iter()
            .scan(start, |seq, step| { *seq = seq.wrapping_add(*step); Some(*seq) })
            .collect();

        let bytes = written(|writer| { writer.nack(sender_ssrc, media_ssrc, &lost); });
        let all = theirs(&bytes);
        let theirs: &TransportLayerNack = as_type(&all[0]);
        prop_assert_eq!((theirs.sender_ssrc, theirs.media_ssrc), (sender_ssrc, media_ssrc));
        let read: Vec<u16> = theirs.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        prop_assert_eq!(&read, &lost);

        // The crate packs each ascending stretch by itself.
        let nacks = lost.chunk_by(|a, b| a < b).flat_map(nack_pairs_from_sequence_numbers).collect();
        let nack = TransportLayerNack { sender_ssrc, media_ssrc, nacks };
        let read = read_ours(&nack, |packet| match packet {
            Packet::Nack(nack) => Some((nack.sender_ssrc, nack.media_ssrc, nack.lost().collect::<Vec<_>>())),
            _ => None,
        });
        prop_assert_eq!(read, (sender_ssrc, media_ssrc, lost));
    }

    #[test]
    fn keyframe_requests_both_ways(
        (sender_ssrc, media_ssrc) in any::<(u32, u32)>(),
        entries in prop::collection::vec(any::<(u32, u8)>(), 1..10),
    ) {
        let their_pli = PictureLossIndication { sender_ssrc, media_ssrc };
        read_ours(&their_pli, |packet| (packet == Packet::Pli { sender_ssrc, media_ssrc }).then_some(()));
        let fir = entries.iter().map(|&(ssrc, sequence_number)| FirEntry { ssrc, sequence_number }).collect();
        let read = read_ours(&FullIntraRequest { sender_ssrc, media_ssrc: 0, fir }, |packet| match packet {
            Packet::Fir(fir) => Some((fir.sender_ssrc, fir.entries().collect::<Vec<_>>())),
            _ => None,
        });
        prop_assert_eq!(read, (sender_ssrc, entries.clone()));

        let (target, seq_nr) = entries[0];
        let bytes = written(|writer| {
            writer.pli(sender_ssrc, media_ssrc);
            writer.fir(sender_ssrc, target, seq_nr);
        });
        let all = theirs(&bytes);
        prop_assert_eq!(as_type::<PictureLossIndication>(&all[0]), &their_pli);
        let fir = vec![FirEntry { ssrc: target, sequence_number: seq_nr }];
        prop_assert_eq!(as_type::<FullIntraRequest>(&all[1]), &FullIntraRequest { sender_ssrc, media_ssrc: 0, fir });
    }

    #[test]
    fn descriptions_and_goodbyes_both_ways(
        ssrc: u32,
        cname in "[a-zA-Z0-9+/]{0,255}",
        sources in prop::collection::vec(any::<u32>(), 0..=31),
        reason in "[a-z ]{0,40}",
    ) {
        let item = SourceDescriptionItem { sdes_type: SdesType::SdesCname, text: cname.clone().into() };
        let sdes = SourceDescription { chunks: vec![SourceDescriptionChunk { source: ssrc, items: vec![item] }] };
        read_ours(&sdes, |packet| (packet == Packet::Sdes).then_some(()));
        let bye = Goodbye { sources: sources.clone(), reason: reason.into() };
        let read = read_ours(&bye, |packet| match packet {
            Packet::Bye(bye) => Some(bye.ssrcs().collect::<Vec<_>>()),
            _ => None,
        });
        prop_assert_eq!(read, sources);

        let bytes = written(|writer| {
            writer.sdes_cname(ssrc, &cname);
            writer.bye(ssrc);
        });
        let all = theirs(&bytes);
        prop_assert_eq!(as_type::<SourceDescription>(&all[0]), &sdes);
        prop_assert_eq!(as_type::<Goodbye>(&all[1]), &Goodbye { sources: vec![ssrc], reason: Bytes::new() });
    }

    #[test]
    fn our_bandwidth_estimates_are_read(sender_ssrc: u32, bps: u32, ssrcs in prop::collection::vec(any::<u32>(), 0..20)) {
        let bytes = written(|writer| {
            writer.pli(1, 2);
            writer.remb(sender_ssrc, bps, &ssrcs);
        });
        let all = theirs(&bytes);
        let theirs: &ReceiverEstimatedMaximumBitrate = as_type(&all[1]);
        // Eighteen bits of mantissa, which an f32 holds.
        let said = bps >> bps.checked_ilog2().unwrap_or(0).saturating_sub(17);
        let said = said << bps.checked_ilog2().unwrap_or(0).saturating_sub(17);
        prop_assert_eq!(theirs, &ReceiverEstimatedMaximumBitrate { sender_ssrc, bitrate: said as f32, ssrcs: ssrcs.clone() });
        let Some(Ok(Packet::Remb(ours))) = packets(&bytes).nth(1) else { panic!("a REMB") };
        prop_assert_eq!((ours.sender_ssrc, ours.bps, ours.ssrcs().collect::<Vec<_>>()), (sender_ssrc, u64::from(said), ssrcs));
    }

    #[test]
    fn their_bandwidth_estimates_are_read(
        sender_ssrc: u32,
        (mantissa, exponent) in (1u64 << 17..1 << 18, 0u32..46),
        ssrcs in prop::collection::vec(any::<u32>(), 0..20),
    ) {
        // An f32 holds 18 bits of mantissa exactly.
        let bps = mantissa << exponent;
        let remb = ReceiverEstimatedMaximumBitrate { sender_ssrc, bitrate: bps as f32, ssrcs: ssrcs.clone() };
        let read = read_ours(&remb, |packet| match packet {
            Packet::Remb(remb) => Some((remb.sender_ssrc, remb.bps, remb.ssrcs().collect::<Vec<_>>())),
            _ => None,
        });
        prop_assert_eq!(read, (sender_ssrc, bps, ssrcs));
    }
}

/// The statuses of the crate's feedback, as our iterator gives them.
fn their_statuses(feedback: &TransportLayerCc) -> Vec<(u16, Option<i16>)> {
    let symbols = feedback.packet_chunks.iter().flat_map(|chunk| match chunk {
        PacketStatusChunk::RunLengthChunk(run) => vec![run.packet_status_symbol; usize::from(run.run_length)],
        PacketStatusChunk::StatusVectorChunk(vector) => vector.symbol_list.clone(),
    });
    let mut deltas = feedback.recv_deltas.iter();
    symbols
        .take(usize::from(feedback.packet_status_count))
        .enumerate()
        .map(|(n, symbol)| {
            let is_received = symbol != SymbolTypeTcc::PacketNotReceived;
            let delta = is_received.then(|| (deltas.next().expect("a delta").delta / 250) as i16);
            (feedback.base_sequence_number.wrapping_add(n as u16), delta)
        })
        .collect()
}

fn symbol() -> impl Strategy<Value = SymbolTypeTcc> {
    prop_oneof![
        Just(SymbolTypeTcc::PacketNotReceived),
        Just(SymbolTypeTcc::PacketReceivedSmallDelta),
        Just(SymbolTypeTcc::PacketReceivedLargeDelta),
    ]
}

fn chunk() -> impl Strategy<Value = PacketStatusChunk> {
    let run = (symbol(), 1u16..100).prop_map(|(packet_status_symbol, run_length)| {
        let type_tcc = StatusChunkTypeTcc::RunLengthChunk;
        PacketStatusChunk::RunLengthChunk(RunLengthChunk { type_tcc, packet_status_symbol, run_length })
    });
    let vector = |symbol_size, symbol_list| {
        let type_tcc = StatusChunkTypeTcc::StatusVectorChunk;
        PacketStatusChunk::StatusVectorChunk(StatusVectorChunk { type_tcc, symbol_size, symbol_list })
    };
    let one_bit = prop::collection::vec(any::<bool>(), 14)
        .prop_map(|bits| bits.into_iter().map(|bit| SymbolTypeTcc::from(u16::from(bit))).collect())
        .prop_map(move |symbols| vector(SymbolSizeTypeTcc::OneBit, symbols));
    let two_bit =
        prop::collection::vec(symbol(), 7).prop_map(move |symbols| vector(SymbolSizeTypeTcc::TwoBit, symbols));
    prop_oneof![run, one_bit, two_bit]
}

/// A receive delta of the kind that `symbol` announces.
fn delta_for(symbol: SymbolTypeTcc, random: i16) -> Option<RecvDelta> {
    let ticks = match symbol {
        SymbolTypeTcc::PacketReceivedSmallDelta => i64::from(random as u8),
        SymbolTypeTcc::PacketReceivedLargeDelta => i64::from(random),
        _ => return None,
    };
    Some(RecvDelta { type_tcc_packet: symbol, delta: ticks * 250 })
}

proptest! {
    #[test]
    fn the_rtcp_crate_reads_our_feedback(
        start: u16,
        steps in prop::collection::vec((-6i64..40, 0u64..200_000), 1..300),
    ) {
        let mut log = ArrivalLog::new(1 << 14);
        let (mut seq, mut at) = (i64::from(start), 5_000_000);
        for (jump, wait) in steps {
            (seq, at) = (seq + jump, at + wait);
            log.push(seq as u16, at);
        }
        let mut feedback_count = 0;
        while log.has_unreported() {
            let bytes = written(|writer| {
                // Before and after other packets: the zeros that fill the last word must disturb neither.
                writer.pli(1, 2);
                assert!(writer.transport_cc(3, 4, &mut log) > 0);
                writer.bye(5);
            });
            let all = theirs(&bytes);
            prop_assert_eq!(all.len(), 3);
            let theirs: &TransportLayerCc = as_type(&all[1]);
            let Some(Ok(Packet::TransportCc(ours))) = packets(&bytes).nth(1) else { panic!("no feedback") };
            prop_assert_eq!((theirs.sender_ssrc, theirs.media_ssrc), (3, 4));
            prop_assert_eq!((ours.reference_time, ours.base_seq), (theirs.reference_time, theirs.base_sequence_number));
            prop_assert_eq!((theirs.fb_pkt_count, ours.feedback_count), (feedback_count, feedback_count));
            prop_assert_eq!(ours.statuses().collect::<Vec<_>>(), their_statuses(theirs));
            feedback_count = feedback_count.wrapping_add(1);
        }
    }

    #[test]
    fn the_rtcp_crates_feedback_is_read(
        (sender_ssrc, media_ssrc, base_sequence_number, fb_pkt_count) in any::<(u32, u32, u16, u8)>(),
        reference_time in 0u32..1 << 24,
        packet_chunks in prop::collection::vec(chunk(), 1..20),
        randoms in prop::collection::vec(any::<i16>(), 2000),
    ) {
        let symbols: Vec<_> = packet_chunks
            .iter()
            .flat_map(|chunk| match chunk {
                PacketStatusChunk::RunLengthChunk(run) => {
                    vec![run.packet_status_symbol; usize::from(run.run_length)]
                }
                PacketStatusChunk::StatusVectorChunk(vector) => vector.symbol_list.clone(),
            })
            .collect();
        let recv_deltas = symbols.iter().zip(randoms).filter_map(|(&symbol, random)| delta_for(symbol, random)).collect();
        let theirs = TransportLayerCc {
            sender_ssrc, media_ssrc, base_sequence_number, packet_status_count: symbols.len() as u16,
            reference_time, fb_pkt_count, packet_chunks, recv_deltas,
        };
        let read = read_ours(&theirs, |packet| match packet {
            Packet::TransportCc(ours) => {
                assert_eq!((ours.sender_ssrc, ours.media_ssrc), (sender_ssrc, media_ssrc));
                assert_eq!((ours.base_seq, ours.feedback_count), (base_sequence_number, fb_pkt_count));
                assert_eq!(ours.reference_time, reference_time);
                Some(ours.statuses().collect::<Vec<_>>())
            }
            _ => None,
        });
        prop_assert_eq!(read, their_statuses(&theirs));
    }
}
