//! What flows from and to a peer, in the units of the interface. The tallies are numbers of another process: what
//! makes no sense is left out, and so is what is not known yet.

use std::time::Duration;

use proto::plane::{PeerTally, SlotTally, StreamTally};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::PeerMeasured;
use crate::quality::{WINDOW_US, loss_of, lost_of, rtt_of};

/// What comes from a peer in a track. Rates are of the last two to four seconds, counts since the track began. What is
/// not known is left out.
#[derive(Serialize, ToSchema)]
pub(super) struct UpMedia {
    /// Payload, without headers and retransmissions, bit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    bps: Option<u64>,
    /// Packets, without retransmissions, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    packets_per_s: Option<f64>,
    /// Fraction of the packets that the network lost on their way to the server, 0 to 1 (RFC 3550 §6.4.1). Some of them
    /// are repaired later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    loss: Option<f64>,
    /// Packets that came.
    packets: u64,
    /// Bytes of their payloads.
    bytes: u64,
    /// Packets that came as a retransmission alone.
    repaired: u64,
    /// Packets that the server asked for again by NACK, counted each time.
    nacks: u64,
    /// Keyframes that the server asked for.
    keyframe_requests: u64,
    /// Packets that the server dropped because the track, or the peer, sends more than the room allows.
    policed: u64,
}

/// What goes to a peer through a slot; as the media of a track.
#[derive(Serialize, ToSchema)]
pub(super) struct DownMedia {
    /// Payload, without headers and retransmissions, bit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    bps: Option<u64>,
    /// Packets, without retransmissions, per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    packets_per_s: Option<f64>,
    /// Fraction of the packets that the peer's last report misses, 0 to 1 (RFC 3550 §6.4.1). What its publisher's network
    /// lost and nobody repaired is in it. Left out if that report is older than 15 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    loss: Option<f64>,
    /// Round trip between server and peer by its last report that tells it, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    rtt_ms: Option<f64>,
    /// Packets that left.
    packets: u64,
    /// Bytes of their payloads.
    bytes: u64,
    /// Retransmissions that left.
    retransmitted: u64,
    /// Packets that the peer asked for again by NACK, counted each time.
    nacks: u64,
    /// Keyframes that the peer asked for.
    keyframe_requests: u64,
    /// Which encoding of the video the peer's path allows: 1 is the lowest, 0 is none, the video is paused. Left out for sound, and
    /// where nothing limits it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 3)]
    allocation: Option<u64>,
}

/// What the path towards a peer carries, by its transport-cc feedback.
#[derive(Serialize, ToSchema)]
pub(super) struct PathView {
    /// The estimate, bit/s, of all that is sent: media, repairs, padding and headers.
    estimate_bps: u64,
    /// What arrives, bit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    acknowledged_bps: Option<u64>,
    /// What would be sent if nothing limited it, bit/s.
    wanted_bps: u64,
    /// Fraction of the last seconds' packets that was lost, 0 to 1.
    #[schema(minimum = 0, maximum = 1)]
    loss: f64,
    /// Videos that are paused because the path does not carry them.
    paused: u64,
    /// Probes so far.
    probes: u64,
}

impl PathView {
    /// Of a peer's tally, if it has sent feedback.
    pub(super) fn of(tally: &PeerTally) -> Option<PathView> {
        let PeerTally { estimate_bps, acknowledged_bps, wanted_bps, loss_65536, paused, probes, .. } = *tally;
        Some(PathView {
            estimate_bps: estimate_bps?,
            acknowledged_bps,
            wanted_bps,
            loss: fraction(loss_65536.min(65_536) as f64, 65_536.0)?,
            paused,
            probes,
        })
    }
}

/// All media of a peer in one direction, over the last two to four seconds. What is not known is left out.
#[derive(Serialize, ToSchema)]
pub(super) struct TotalMedia {
    /// Payload, without headers and retransmissions, bit/s.
    bps: u64,
    /// Packets, without retransmissions, per second.
    packets_per_s: f64,
    /// Fraction of the packets that was lost, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    loss: Option<f64>,
}

impl UpMedia {
    /// Of a stream's tally.
    pub(super) fn of(tally: &StreamTally) -> UpMedia {
        UpMedia {
            bps: per_second(tally.window_bytes, tally.window_us).map(bits),
            packets_per_s: per_second(tally.window_packets, tally.window_us).map(tenths),
            loss: lost_of(tally).and_then(|(lost, expected)| fraction(lost, expected)),
            packets: tally.packets,
            bytes: tally.bytes,
            repaired: tally.repaired,
            nacks: tally.nacks,
            keyframe_requests: tally.keyframe_requests,
            policed: tally.policed,
        }
    }

    /// Of all tracks together.
    pub(super) fn total(peer: &PeerMeasured) -> Option<TotalMedia> {
        let tallies = || peer.streams.iter().flatten();
        let lost = tallies().filter_map(lost_of).fold((0.0, 0.0), |sum, (lost, of)| (sum.0 + lost, sum.1 + of));
        total(tallies().map(|tally| (tally.window_us, tally.window_packets, tally.window_bytes)), lost)
    }
}

impl DownMedia {
    /// Of a slot's tally.
    pub(super) fn of(tally: &SlotTally) -> DownMedia {
        DownMedia {
            bps: per_second(tally.window_bytes, tally.window_us).map(bits),
            packets_per_s: per_second(tally.window_packets, tally.window_us).map(tenths),
            loss: loss_of(tally).and_then(|loss| fraction(loss, 1.0)),
            rtt_ms: rtt_of(tally).map(millis),
            packets: tally.packets,
            bytes: tally.bytes,
            retransmitted: tally.retransmitted,
            nacks: tally.nacks,
            keyframe_requests: tally.keyframe_requests,
            allocation: tally.allocation.filter(|allocation| *allocation <= 3),
        }
    }

    /// Of all slots together; each one's loss weighs as many packets as it has.
    pub(super) fn total(peer: &PeerMeasured) -> Option<TotalMedia> {
        let tallies = || peer.slots.iter().filter_map(|(_, tally)| tally.as_ref());
        let lost = tallies().filter_map(|tally| Some((loss_of(tally)?, tally.window_packets as f64)));
        let lost = lost.fold((0.0, 0.0), |sum, (loss, of)| (sum.0 + loss * of, sum.1 + of));
        total(tallies().map(|tally| (tally.window_us, tally.window_packets, tally.window_bytes)), lost)
    }

    /// The round trip to a peer, milliseconds: the mean of what its slots tell.
    pub(super) fn rtt_ms(peer: &PeerMeasured) -> Option<f64> {
        let told: Vec<Duration> = peer.slots.iter().filter_map(|(_, tally)| rtt_of(tally.as_ref()?)).collect();
        (!told.is_empty()).then(|| millis(told.iter().sum::<Duration>() / told.len() as u32))
    }
}

/// The sum of rates, if there is one.
fn total(windows: impl Iterator<Item = (u64, u64, u64)>, (lost, of): (f64, f64)) -> Option<TotalMedia> {
    let rates = windows.filter_map(|(us, packets, bytes)| Some((per_second(packets, us)?, per_second(bytes, us)?)));
    let (packets, bytes) = rates.reduce(|sum, rate| (sum.0 + rate.0, sum.1 + rate.1))?;
    Some(TotalMedia { bps: bits(bytes), packets_per_s: tenths(packets), loss: fraction(lost, of) })
}

fn per_second(count: u64, window_us: u64) -> Option<f64> {
    WINDOW_US.contains(&window_us).then(|| count as f64 * 1e6 / window_us as f64)
}

fn millis(time: Duration) -> f64 {
    tenths(time.as_micros() as f64 / 1000.0)
}

/// Bytes as bits; a float that is too large ends at the largest integer.
fn bits(bytes: f64) -> u64 {
    (bytes * 8.0).round() as u64
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// In steps of a hundredth of a percent.
fn fraction(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole * 10_000.0).round() / 10_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::id::{PeerId, SlotId, StreamId};
    use proto::plane::TALLY_WORDS_MAX;
    use proto::signal::{Kind, PeerInfo, PeerState, Quality, SlotInfo};

    use crate::engine::PeerSnapshot;

    const STREAM: StreamId = StreamId::new(3, 1);
    const SLOT: SlotId = SlotId::new(3, 1);
    const ID_WORD: u64 = 1 << 32 | 3;

    fn stream(words: &[u64]) -> StreamTally {
        let mut all = [0; TALLY_WORDS_MAX];
        all[0] = ID_WORD;
        all[1..=words.len()].copy_from_slice(words);
        StreamTally::read(STREAM, &all).unwrap()
    }

    fn slot(words: &[u64]) -> SlotTally {
        let mut all = [0; TALLY_WORDS_MAX];
        all[0] = ID_WORD;
        all[1..=words.len()].copy_from_slice(words);
        SlotTally::read(SLOT, &all).unwrap()
    }

    fn peer(streams: Vec<StreamTally>, slots: Vec<SlotTally>) -> PeerMeasured {
        let info = PeerInfo {
            peer: "0a".into(),
            name: "Ada".into(),
            lookalike: false,
            quality: Quality::Good,
            role: None,
            tracks: Vec::new(),
        };
        let carried = SlotInfo { mid: "3".into(), kind: Kind::Audio, peer: None, track: None, source: None };
        PeerMeasured {
            path: None,
            peer: PeerSnapshot {
                info,
                token: None,
                made_by: Vec::new(),
                state: PeerState::Connected,
                is_speaking: false,
                has_socket: true,
                silent_tracks: Vec::new(),
                slots: 2,
                slots_used: 2,
            },
            streams: streams.into_iter().map(Some).chain([None]).collect(),
            slots: slots.into_iter().map(|tally| (carried.clone(), Some(tally))).collect(),
        }
    }

    #[test]
    fn a_window_becomes_rates() {
        let media =
            serde_json::to_value(UpMedia::of(&stream(&[900, 90_000, 1000, 5, 6, 7, 8, 2_000_000, 90, 12_500, 100])));
        let wanted = serde_json::json!({"bps": 50_000, "packets_per_s": 45.0, "loss": 0.1, "packets": 900,
            "bytes": 90_000, "repaired": 5, "nacks": 6, "keyframe_requests": 7, "policed": 8});
        assert_eq!(media.unwrap(), wanted);
        let words = [50, 5000, 1, 2, 3, 64, 12_340, 4_000_000, 50, 5000, 2];
        let media = serde_json::to_value(DownMedia::of(&slot(&words))).unwrap();
        let wanted = serde_json::json!({"bps": 10_000, "packets_per_s": 12.5, "loss": 0.25, "rtt_ms": 12.3,
            "packets": 50, "bytes": 5000, "retransmitted": 1, "nacks": 2, "keyframe_requests": 3, "allocation": 2});
        assert_eq!(media, wanted);
        let path = PeerTally {
            peer: PeerId::new(3, 1),
            estimate_bps: Some(600_000),
            acknowledged_bps: None,
            wanted_bps: 900_000,
            loss_65536: 32_768,
            paused: 1,
            probes: 4,
        };
        let wanted =
            serde_json::json!({"estimate_bps": 600_000, "wanted_bps": 900_000, "loss": 0.5, "paused": 1, "probes": 4});
        assert_eq!(serde_json::to_value(PathView::of(&path).unwrap()).unwrap(), wanted);
        assert!(PathView::of(&PeerTally { estimate_bps: None, ..path }).is_none(), "who sends no feedback has no path");
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let media = serde_json::to_value(UpMedia::of(&stream(&[0; 11]))).unwrap();
        for field in ["bps", "packets_per_s", "loss"] {
            assert_eq!(media.get(field), None, "{field}");
        }
        let quiet = UpMedia::of(&stream(&[9, 9, 9, 0, 0, 0, 0, 2_000_000, 0, 0, 0]));
        assert_eq!((quiet.bps, quiet.loss), (Some(0), None), "nothing was to come, so nothing is lost");
        let unreported = DownMedia::of(&slot(&[1, 1, 0, 0, 0, u64::MAX, u64::MAX, 2_000_000, 1, 1, u64::MAX]));
        assert_eq!((unreported.loss, unreported.rtt_ms), (None, None));
        let nobody = peer(Vec::new(), Vec::new());
        assert!(UpMedia::total(&nobody).is_none() && DownMedia::total(&nobody).is_none());
        assert_eq!(DownMedia::rtt_ms(&nobody), None);
    }

    #[test]
    fn totals_add_up() {
        let tracks = vec![
            stream(&[0, 0, 0, 0, 0, 0, 0, 1_000_000, 90, 1000, 100]),
            stream(&[0, 0, 0, 0, 0, 0, 0, 2_000_000, 100, 1000, 100]),
        ];
        let slots = vec![
            slot(&[0, 0, 0, 0, 0, 128, 10_000, 1_000_000, 30, 500]),
            slot(&[0, 0, 0, 0, 0, 0, 20_000, 1_000_000, 10, 500]),
        ];
        let peer = peer(tracks, slots);
        let up = UpMedia::total(&peer).unwrap();
        assert_eq!((up.bps, up.packets_per_s, up.loss), (12_000, 140.0, Some(0.05)));
        let down = DownMedia::total(&peer).unwrap();
        assert_eq!((down.bps, down.packets_per_s, down.loss), (8_000, 40.0, Some(0.375)));
        assert_eq!(DownMedia::rtt_ms(&peer), Some(15.0));
    }

    proptest! {
        /// Whatever the other process writes, what is shown is JSON within its bounds.
        #[test]
        fn any_words_are_shown_within_bounds(words: [u64; 10]) {
            let (stream, slot) = (stream(&words), slot(&words));
            let peer = peer(vec![stream, stream], vec![slot, slot]);
            for loss in [UpMedia::of(&stream).loss, DownMedia::of(&slot).loss]
                .into_iter()
                .chain([UpMedia::total(&peer), DownMedia::total(&peer)].map(|total| total?.loss))
                .flatten()
            {
                prop_assert!((0.0..=1.0).contains(&loss), "{}", loss);
            }
            prop_assert!(DownMedia::rtt_ms(&peer).is_none_or(|rtt| (0.0..=60_000.0).contains(&rtt)));
            prop_assert!(UpMedia::of(&stream).packets_per_s.is_none_or(f64::is_finite));
        }
    }
}
