//! Hostile bytes against the readers of `rtp`, `rtcp`, `twcc` and `codec`: whatever arrives, they end, stay within the
//! packet and say something that is consistent with itself.
//!
//! `corpus/rtp` and `corpus/rtcp` hold packets in hex, each with the outcome it must have; the properties also start
//! from these, because bytes that are nearly right reach further than random ones.

use std::path::Path;

use dataplane::codec::{h264_starts_keyframe, vp8_starts_keyframe};
use dataplane::rtcp::{self, Packet};
use dataplane::rtp::{Header, payload_len};
use proptest::prelude::*;

/// Reads a packet as RTP in every way there is and returns a line that says what was seen.
fn read_rtp(bytes: &[u8]) -> String {
    let header = match Header::parse(bytes) {
        Ok(header) => header,
        Err(error) => return format!("{error:?}"),
    };
    assert!((12..=bytes.len()).contains(&header.header_len), "the header lies within the packet");
    assert!(header.pt < 128);
    let elements: Vec<_> = header.extensions(bytes).collect();
    assert!(elements.iter().map(|(_, value)| 1 + value.len()).sum::<usize>() <= header.header_len - 12);
    assert!(elements.iter().all(|&(id, value)| id != 0 && is_within(bytes, value)));
    // A caller may hand over another slice than the one that was parsed, such as one cut by authentication.
    for len in 0..bytes.len().min(64) {
        header.extensions(&bytes[..len]).count();
        payload_len(&header, &bytes[..len]);
    }
    let payload = payload_len(&header, bytes);
    assert!(payload.is_none_or(|len| header.header_len + len <= bytes.len()));
    let keyframe = payload.map(|len| h264_starts_keyframe(&bytes[header.header_len..][..len]));
    let elements: Vec<_> = elements.iter().map(|(id, value)| (id, value.len())).collect();
    format!("pt {} payload {payload:?} keyframe {keyframe:?} extensions {elements:?}", header.pt)
}

fn is_within(outer: &[u8], inner: &[u8]) -> bool {
    let (outer, inner) = (outer.as_ptr_range(), inner.as_ptr_range());
    outer.start <= inner.start && inner.end <= outer.end
}

/// Reads a datagram as RTCP in every way there is and returns a line for each packet.
fn read_rtcp(bytes: &[u8]) -> Vec<String> {
    let lines: Vec<_> = rtcp::packets(bytes)
        .map(|packet| match packet {
            Ok(packet) => read_rtcp_packet(&packet, bytes.len()),
            Err(error) => format!("{error:?}"),
        })
        .collect();
    assert!(lines.len() <= bytes.len().div_ceil(4), "each packet takes at least a header");
    lines
}

fn read_rtcp_packet(packet: &Packet<'_>, len: usize) -> String {
    let counted = |name: &str, count: usize, each: usize| {
        assert!(count * each <= len, "{count} items of {each} bytes in {len}");
        format!("{name} {count}")
    };
    match packet {
        Packet::SenderReport(report) => counted("SenderReport", report.blocks().count(), 24),
        Packet::ReceiverReport(report) => counted("ReceiverReport", report.blocks().count(), 24),
        Packet::Bye(bye) => counted("Bye", bye.ssrcs().count(), 4),
        Packet::Fir(fir) => counted("Fir", fir.entries().count(), 8),
        Packet::Remb(remb) => format!("{} bps {}", counted("Remb", remb.ssrcs().count(), 4), remb.bps),
        Packet::Nack(nack) => {
            let lost = nack.lost().count();
            assert!(lost * 4 <= 17 * len, "at most 17 packets for each 4 bytes");
            format!("Nack {lost}")
        }
        Packet::TransportCc(feedback) => {
            let statuses = feedback.statuses();
            assert_eq!(statuses.len(), usize::from(feedback.status_count));
            let received = statuses.clone().filter(|(_, delta)| delta.is_some()).count();
            assert_eq!(statuses.count(), usize::from(feedback.status_count), "each status is there");
            assert!(received <= len, "each arrival has a delta");
            format!("TransportCc {} of {}", received, feedback.status_count)
        }
        other => format!("{other:?}"),
    }
}

/// A file of the corpus: packets in hex; text after `#` is a remark, after `#=` a line of the outcome.
struct Case {
    name: String,
    bytes: Vec<u8>,
    outcome: Vec<String>,
}

fn corpus(kind: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let files = std::fs::read_dir(folder).expect("the corpus is part of the source");
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let outcome = text.lines().filter_map(|line| line.strip_prefix("#= ")).map(str::to_owned).collect();
            let hex = text.lines().map(|line| line.split('#').next().unwrap());
            let bytes = hex.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            Case { name: path.display().to_string(), bytes, outcome }
        })
        .collect()
}

fn assert_outcomes(kind: &str, read: impl Fn(&[u8]) -> Vec<String>) {
    let cases = corpus(kind);
    assert!(cases.len() >= 10, "the corpus of {kind} is there");
    for case in cases {
        assert!(!case.outcome.is_empty() || case.bytes.is_empty(), "{} says what must come out", case.name);
        assert_eq!(read(&case.bytes), case.outcome, "{}", case.name);
    }
}

#[test]
fn the_rtp_corpus_has_its_outcomes() {
    assert_outcomes("rtp", |bytes| vec![read_rtp(bytes)]);
}

#[test]
fn the_rtcp_corpus_has_its_outcomes() {
    assert_outcomes("rtcp", read_rtcp);
}

/// A packet of the corpus with some bytes changed, and cut or extended.
fn mutated(kind: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<_> = corpus(kind).into_iter().map(|case| case.bytes).collect();
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let tail = prop::collection::vec(any::<u8>(), 0..24);
    (prop::sample::select(seeds), changes, any::<prop::sample::Index>(), tail).prop_map(
        |(mut bytes, changes, cut, tail)| {
            for (at, value) in changes.into_iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            // Half of the time the length stays.
            if tail.len() % 2 == 0 {
                bytes.truncate(cut.index(bytes.len() + 1));
                bytes.extend_from_slice(&tail);
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_as_rtp(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_rtp(&bytes);
    }

    #[test]
    fn nearly_right_rtp(bytes in mutated("rtp")) {
        read_rtp(&bytes);
    }

    #[test]
    fn any_bytes_as_rtcp(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_rtcp(&bytes);
    }

    #[test]
    fn nearly_right_rtcp(bytes in mutated("rtcp")) {
        read_rtcp(&bytes);
    }

    /// Random bytes behind a good frame, so that each type's own reader is reached every time.
    #[test]
    fn any_body_in_a_good_frame(
        (pt, count) in (prop_oneof![200u8..208, any::<u8>()], prop_oneof![Just(1u8), Just(4), Just(15), 0u8..32]),
        mut body in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        body.truncate(body.len() / 4 * 4);
        let mut bytes = vec![0x80 | count, pt, 0, (body.len() / 4) as u8];
        bytes.extend_from_slice(&body);
        prop_assert_eq!(read_rtcp(&bytes).len(), 1);
    }

    #[test]
    fn any_bytes_as_an_h264_payload(bytes in prop::collection::vec(any::<u8>(), 0..100), first in 0u8..32) {
        h264_starts_keyframe(&bytes);
        vp8_starts_keyframe(&bytes);
        // Types 7, 24 and 28 turn up one time in 32 each by themselves.
        let typed: Vec<u8> = std::iter::once(first).chain(bytes).collect();
        let starts = h264_starts_keyframe(&typed);
        prop_assert!(!starts || matches!(first, 7 | 24 | 28));
    }
}
