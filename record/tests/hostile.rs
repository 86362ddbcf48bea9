//! Bytes that no encoder sends: whatever comes, the depacketizers, the order and the parser of parameter sets end, and what they give is
//! whole.

use std::time::{Duration, Instant};

use client::room::{Codec, Packet};
use client::rtp::Header;
use proptest::prelude::*;
use proto::signal::VideoCodec;
use record::depacketize::{Config, Depacketizer, Frame, h264, opus};
use record::mp4::{self, Sample};
use record::order::Order;

const CODECS: [Codec; 5] = [
    Codec::Opus,
    Codec::Video(VideoCodec::H264),
    Codec::Video(VideoCodec::Vp8),
    Codec::Video(VideoCodec::Vp9),
    Codec::Video(VideoCodec::Av1),
];

/// A payload that looks like one of H.264, VP8, VP9 or AV1 at its beginning, often enough to come far.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let begins: Vec<Vec<u8>> = vec![
        vec![],
        vec![0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xec],
        vec![0x68, 0xce, 0x0f, 0xc8],
        vec![0x65],
        vec![0x7C, 0x85],
        vec![0x7C, 0x45],
        vec![24, 0, 3],
        vec![0x10, 0, 0, 0, 0x9D, 0x01, 0x2A],
        vec![0x8C, 1, 0x82, 0x49, 0x83, 0x42, 0x20],
        vec![0xBA, 0xFF, 0xFF],
        vec![0x28, 11, 0x08, 0, 0, 0, 0x04, 0x3c, 0xff, 0xbc, 0xff, 0x98, 0x20, 0x30, 0x10],
        vec![0x50, 0x30],
        vec![0x90],
    ];
    (prop::sample::select(begins), prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(begin, rest)| [begin, rest].concat())
}

fn assert_whole(codec: Codec, frames: &[Frame]) {
    for frame in frames {
        assert!(!frame.data.is_empty());
        if let Some(config) = &frame.config {
            assert!(frame.is_key && config.size().is_none_or(|(width, height)| width > 0 && height > 0), "{config:?}");
            assert!(!mp4::header(&[config], 0).unwrap().is_empty());
        }
        if codec == Codec::Video(VideoCodec::H264) {
            let mut rest = &frame.data[..];
            while let [a, b, c, d, after @ ..] = rest {
                let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                assert!(len > 0 && len <= after.len(), "a unit beyond its frame");
                assert!(!matches!(after[0] & 0x1F, 7 | 8), "parameter sets are in the configuration");
                rest = &after[len..];
            }
            assert!(rest.is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn depacketizers_give_whole_frames_of_whatever_comes(
        packets in prop::collection::vec((any::<bool>(), 0u32..4, any::<bool>(), payload()), 0..60)
    ) {
        for codec in CODECS {
            let mut depacketizer = Depacketizer::new(codec);
            let mut frames = Vec::new();
            for (is_after_loss, timestamp, marker, payload) in &packets {
                depacketizer.push(*is_after_loss, *timestamp, *marker, payload, &mut frames);
            }
            assert_whole(codec, &frames);
            if codec != Codec::Opus {
                prop_assert!(frames.first().is_none_or(|first| first.is_key && first.config.is_some()), "{:?}", frames);
            }
            let samples: Vec<Sample> = (0..).zip(frames).map(|(start, frame)| {
                Sample { start, duration: opus::duration(&frame.data).unwrap_or(1), is_key: frame.is_key, data: frame.data }
            }).collect();
            mp4::fragment(1, &[&samples]).unwrap();
        }
    }

    #[test]
    fn parameter_sets_of_whatever_comes_have_a_size_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some((width, height)) = h264::parse_sps(&bytes) {
            prop_assert!(width > 0 && height > 0);
            let config = Config::H264 { sps: vec![bytes], pps: vec![vec![0x68]], size: (width, height) };
            prop_assert!(mp4::header(&[&config], 1).is_ok());
        }
    }

    #[test]
    fn packets_come_once_in_their_order_and_each_that_is_missing_is_counted(
        numbers in prop::collection::vec(0u64..200, 1..100)
    ) {
        let (mut order, now) = (Order::default(), Instant::now());
        let (mut last, mut missing): (Option<u64>, u64) = (None, 0);
        for (i, number) in numbers.iter().enumerate() {
            let at = now + Duration::from_millis(50 * i as u64);
            let header = Header { marker: false, pt: 0, seq: *number as u16, timestamp: 0, ssrc: 0, len: 12 };
            let packet =
                Packet { slot: 0, codec: Codec::Opus, number: *number, header, payload: Vec::new(), arrival: at };
            order.push(packet);
            let at = if i + 1 == numbers.len() { at + Duration::from_secs(10) } else { at };
            while let Some(ordered) = order.pop(at) {
                let number = ordered.packet.number;
                prop_assert_eq!(ordered.lost, last.map_or(0, |last| number - last - 1));
                (last, missing) = (Some(number), missing + ordered.lost);
            }
        }
        prop_assert!(last.is_some() && missing < 200);
    }
}
