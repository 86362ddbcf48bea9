//! RTP and RTCP as they are after SRTP has been removed.

use dataplane::codec::starts_keyframe;
use dataplane::dependency::{SPATIAL_MAX, Structure, TARGETS_MAX, TEMPORAL_MAX};
use dataplane::layers_allocation::{LayersAllocation, STREAMS_MAX};
use dataplane::picture::{Last, PictureNumbers, Shift};
use dataplane::red::{BLOCKS_MAX, Red, Writer};
use dataplane::rtcp::{CompoundWriter, Packet, REPORT_BLOCKS_MAX, ReportBlock, packets};
use dataplane::rtp::{EXTENSION_VALUE_LEN_MAX, Header, HeaderWriter, WRITTEN_LEN_MAX, payload_len};
use dataplane::sets::{ParameterSets, SETS_MAX};
use dataplane::twcc::{ArrivalLog, FEEDBACK_LEN_MAX, TransportCc};
use proto::plane::Codec;

const CODECS: [Codec; 5] = [Codec::Opus, Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1];

/// Packets that [`SEPARATOR`](crate::SEPARATOR) divides, as RTP of one stream. What is read lies within the packet, a header that is written of it is read
/// again with the same content, the numbers of a picture stand where they were read, and parameter sets stay within their bounds.
pub fn rtp(data: &[u8]) {
    let mut sets = ParameterSets::new();
    let (mut last, mut shift) = ([Last::default(); CODECS.len()], [Shift::default(); CODECS.len()]);
    for (index, bytes) in crate::pieces(data).take(64).enumerate() {
        let Ok(header) = Header::parse(bytes) else { continue };
        assert!((12..=bytes.len()).contains(&header.header_len) && header.pt < 128);
        header_again(&header, bytes);
        for len in [0, 12, header.header_len, bytes.len() - 1] {
            // A caller may hand over another slice than the one that was parsed, such as one cut by authentication.
            header.extensions(&bytes[..len.min(bytes.len())]).count();
            payload_len(&header, &bytes[..len.min(bytes.len())]);
        }
        let Some(len) = payload_len(&header, bytes) else { continue };
        let payload = &bytes[header.header_len..][..len];
        for (codec, (last, shift)) in CODECS.into_iter().zip(last.iter_mut().zip(&mut shift)) {
            starts_keyframe(codec, payload);
            picture(codec, payload, last, shift);
        }
        sets.saw(index as u64, header.timestamp, header.marker, payload);
        sets_hold(&sets);
    }
    arrivals(data);
}

/// One payload of RED. Its blocks are all of it and lie one after the other, and what can be written of them is read again.
pub fn red(data: &[u8]) {
    let Some(red) = Red::parse(data) else { return };
    let mut writer = Writer::new();
    let (mut len, mut added) = (1 + red.payload.len(), Vec::new());
    let mut end = None;
    for (back, block) in red.earlier() {
        assert!(back >= 1 && back <= BLOCKS_MAX as u64 && block.offset < 1 << 14 && block.pt < 128);
        let range = block.payload.as_ptr_range();
        assert!(end.is_none_or(|end| end == range.start));
        end = Some(range.end);
        len += 4 + block.payload.len();
        if writer.add(block) {
            added.push(block);
        }
    }
    assert_eq!(len, data.len());
    assert!(end.is_none_or(|end| end == red.payload.as_ptr()));
    let bytes = [writer.finish(red.pt), red.payload].concat();
    let again = Red::parse(&bytes).expect("what is written is read");
    assert_eq!((again.pt, again.payload), (red.pt, red.payload));
    assert!(again.earlier().map(|(_, block)| block).eq(added));
}

/// Dependency descriptors of one stream, each behind its length (a byte). What cannot be read changes nothing; a frame is of layers that there can
/// be, and the same frame whether or not the structure that came with it was known, and whatever its number.
pub fn descriptors(mut data: &[u8]) {
    let mut structure = Structure::default();
    for _ in 0..64 {
        let Some((&len, rest)) = data.split_first() else { return };
        let (bytes, after) = rest.split_at(rest.len().min(len.into()));
        data = after;
        let before = structure;
        let Ok(frame) = structure.read(bytes, true) else {
            assert_eq!(structure, before, "nothing of it is taken");
            continue;
        };
        assert!(usize::from(frame.spatial) < SPATIAL_MAX && usize::from(frame.temporal) < TEMPORAL_MAX);
        assert!(structure.is_known() && (1..=TARGETS_MAX).contains(&structure.targets().into()));
        assert_eq!(structure.frame(bytes), Ok(frame));
        let mut late = before;
        assert_eq!(late.read(bytes, false).is_ok(), before == late, "a late one changes nothing");
        let mut renumbered = bytes.to_vec();
        renumbered[1..3].copy_from_slice(&frame.number.wrapping_add(1).to_be_bytes());
        let again = structure.frame(&renumbered).expect("its number alone has changed");
        assert_eq!(dataplane::dependency::Frame { number: frame.number, ..again }, frame);
        for (spatial, temporal) in [(0, 0), (frame.spatial, frame.temporal), (7, 7)] {
            let target = structure.target(spatial, temporal);
            assert!(target < structure.targets() && structure.is_within(target, target));
            assert!(structure.layers(target).0 <= structure.spatial_max());
        }
    }
}

/// One `video-layers-allocation`: as many streams as there can be, and nothing of those that are not sent.
pub fn allocations(data: &[u8]) {
    let Some(allocation) = LayersAllocation::read(data) else { return };
    assert!((1..=STREAMS_MAX).contains(&allocation.count.into()) && usize::from(allocation.stream) < STREAMS_MAX);
    for (at, stream) in allocation.streams.iter().enumerate() {
        assert!(stream.spatial < 16 && (at < allocation.count.into() || stream.spatial == 0));
        assert!(stream.spatial > 0 || (stream.kbps, stream.size) == (0, (0, 0)));
    }
}

fn header_again(header: &Header, bytes: &[u8]) {
    let within = bytes.as_ptr_range();
    let mut out = [0; WRITTEN_LEN_MAX];
    let mut writer = HeaderWriter::new(&mut out, header.marker, header.pt, header.seq, header.timestamp, header.ssrc);
    let mut written = Vec::new();
    for (id, value) in header.extensions(bytes) {
        let value_range = value.as_ptr_range();
        assert!(within.start <= value_range.start && value_range.end <= within.end && id != 0);
        let fits = (1..15).contains(&id) && (1..=EXTENSION_VALUE_LEN_MAX).contains(&value.len());
        if fits && writer.extension(id, value) {
            written.push((id, value.to_vec()));
        }
    }
    let len = writer.finish();
    let again = Header::parse(&out[..len]).expect("what is written is read");
    assert_eq!((again.marker, again.pt, again.seq), (header.marker, header.pt, header.seq));
    assert_eq!((again.timestamp, again.ssrc, again.header_len), (header.timestamp, header.ssrc, len));
    let read: Vec<(u8, Vec<u8>)> = again.extensions(&out).map(|(id, value)| (id, value.to_vec())).collect();
    assert_eq!(read, written);
}

/// Renumbers a picture and reads it again: the same numbers are there, and nothing else has changed its meaning.
fn picture(codec: Codec, payload: &[u8], last: &mut Last, shift: &mut Shift) {
    let numbers = PictureNumbers::read(codec, payload);
    *shift = shift.covering(&numbers, last);
    let mut copy = payload.to_vec();
    shift.write(&numbers, &mut copy);
    last.sent(&numbers, shift);
    let again = PictureNumbers::read(codec, &copy);
    let present =
        |numbers: &PictureNumbers| [numbers.id().is_some(), numbers.base().is_some(), numbers.key().is_some()];
    assert_eq!(present(&again), present(&numbers), "{codec:?} {payload:x?}");
    assert_eq!(starts_keyframe(codec, &copy), starts_keyframe(codec, payload));
}

fn sets_hold(sets: &ParameterSets) {
    assert!(sets.count() <= SETS_MAX && sets.iter().all(|set| !set.is_empty()));
    let mut merged = ParameterSets::new();
    merged.merge(sets.as_bytes());
    assert_eq!(merged.as_bytes(), sets.as_bytes(), "what is handed on is what there is");
}

/// Arrivals as the bytes say (two of sequence number, two of time): our reader reads the feedback that we write about them.
fn arrivals(data: &[u8]) {
    let mut log = ArrivalLog::new(1 << 10);
    let mut at = 0;
    for step in data.chunks_exact(4).take(512) {
        at += u64::from(u16::from_be_bytes([step[2], step[3]])) * 50;
        log.push(u16::from_be_bytes([step[0], step[1]]), at);
    }
    for _ in 0..1024 {
        if !log.has_unreported() {
            return;
        }
        let mut out = [0; FEEDBACK_LEN_MAX];
        let mut writer = CompoundWriter::new(&mut out);
        let len = writer.transport_cc(1, 2, &mut log);
        assert!(len > 0, "something is reported");
        let len = writer.finish();
        let Some(Ok(Packet::TransportCc(feedback))) = packets(&out[..len]).next() else { panic!("it is read") };
        statuses(&feedback, len);
    }
    panic!("feedback comes to an end");
}

fn statuses(feedback: &TransportCc<'_>, len: usize) {
    let statuses: Vec<(u16, Option<i16>)> = feedback.statuses().collect();
    assert_eq!(statuses.len(), usize::from(feedback.status_count));
    assert!(statuses.iter().filter(|(_, delta)| delta.is_some()).count() <= len, "each arrival has a delta");
    let is_in_order = statuses.iter().zip(0u16..).all(|((seq, _), n)| *seq == feedback.base_seq.wrapping_add(n));
    assert!(is_in_order);
}

/// A compound RTCP packet. Each packet has no more items than it has room for; reports and lists of lost packets that are written of it
/// are read again with the same content.
pub fn rtcp(data: &[u8]) {
    let mut count = 0;
    for packet in packets(data) {
        count += 1;
        match packet {
            Ok(Packet::SenderReport(report)) => {
                let blocks: Vec<ReportBlock> = report.blocks().collect();
                let (ntp, timestamp, sent) = (report.ntp, report.rtp_timestamp, (report.packets, report.octets));
                assert!(blocks.len() <= REPORT_BLOCKS_MAX && blocks.len() * 24 <= data.len());
                again(
                    data.len(),
                    |writer| writer.sender_report(report.ssrc, ntp, timestamp, sent.0, sent.1, &blocks),
                    |packet| match packet {
                        Packet::SenderReport(again) => {
                            assert_eq!((again.ssrc, again.ntp, again.rtp_timestamp), (report.ssrc, ntp, timestamp));
                            assert_eq!((again.packets, again.octets), sent);
                            again.blocks().collect::<Vec<_>>() == blocks
                        }
                        _ => false,
                    },
                );
            }
            Ok(Packet::ReceiverReport(report)) => {
                let blocks: Vec<ReportBlock> = report.blocks().collect();
                assert!(blocks.len() <= REPORT_BLOCKS_MAX && blocks.len() * 24 <= data.len());
                again(
                    data.len(),
                    |writer| writer.receiver_report(report.ssrc, &blocks),
                    |packet| matches!(packet, Packet::ReceiverReport(again) if again.blocks().eq(blocks.iter().copied())),
                );
            }
            Ok(Packet::Nack(nack)) => {
                let lost: Vec<u16> = nack.lost().collect();
                assert!(lost.len() * 4 <= 17 * data.len(), "at most 17 packets for each 4 bytes");
                again(
                    data.len(),
                    |writer| writer.nack(nack.sender_ssrc, nack.media_ssrc, &lost),
                    |packet| matches!(packet, Packet::Nack(again) if same(again.lost(), &lost)),
                );
            }
            Ok(Packet::Remb(remb)) => {
                let ssrcs: Vec<u32> = remb.ssrcs().collect();
                assert!(ssrcs.len() * 4 <= data.len());
                let bps = u32::try_from(remb.bps).unwrap_or(u32::MAX);
                again(
                    data.len(),
                    |writer| writer.remb(remb.sender_ssrc, bps, &ssrcs),
                    |packet| matches!(packet, Packet::Remb(again) if again.bps <= bps.into() && again.ssrcs().eq(ssrcs.iter().copied())),
                );
            }
            Ok(Packet::Bye(bye)) => assert!(bye.ssrcs().count() * 4 <= data.len()),
            Ok(Packet::Fir(fir)) => assert!(fir.entries().count() * 8 <= data.len()),
            Ok(Packet::TransportCc(feedback)) => statuses(&feedback, data.len()),
            Ok(_) | Err(_) => {}
        }
    }
    assert!(count <= data.len().div_ceil(4), "each packet takes at least a header");
}

/// Whether all of these are there, in whatever order.
fn same(again: impl Iterator<Item = u16>, lost: &[u16]) -> bool {
    let (mut again, mut lost): (Vec<u16>, Vec<u16>) = (again.collect(), lost.to_vec());
    for list in [&mut again, &mut lost] {
        list.sort_unstable();
        list.dedup();
    }
    again == lost
}

/// Writes a packet of what one of `len` bytes said, and reads it again. A lost packet may take a word of its own, and a word names 17.
fn again(len: usize, write: impl FnOnce(&mut CompoundWriter<'_>) -> usize, is_same: impl FnOnce(&Packet<'_>) -> bool) {
    let mut out = vec![0; 17 * len + 64];
    let mut writer = CompoundWriter::new(&mut out);
    write(&mut writer);
    let len = writer.finish();
    if let Some(packet) = packets(&out[..len]).next() {
        assert!(is_same(&packet.expect("what is written is read")));
    }
}
