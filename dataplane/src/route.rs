//! Who gets what: streams that peers send, slots through which peers receive, and the routes between them.

use std::cmp::Ordering;

use proto::id::{Mid, PeerId, Pt, Ssrc, StreamId};
use proto::plane::{
    Codec, ExtensionIds, MirrorOpen, Refusal, RouteCodec, RouteOpen, STREAM_SETS_PART_LEN, STREAM_SETS_PARTS_MAX,
    SlotOpen, StreamCodec, StreamOpen, StreamSets,
};

use crate::config::{KEYFRAME_REQUESTS_MAX, KEYFRAME_WINDOW, Micros};
use crate::remb::Overuse;
use crate::repair::{Budget, History, Holes, Places};
use crate::rewrite::Rewriter;
use crate::sets::ParameterSets;
use crate::silence::Silence;
use crate::srtp::Window;
use crate::ssrc::Encodings;
use crate::tally::{SlotCounts, StreamCounts};

/// What the fan-out of one stream needs of one route, in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    pub(crate) route: u32,
    pub(crate) slot: u32,
    pub(crate) peer: u32,
    pub(crate) ssrc: Ssrc,
    /// The receiver's payload types of the stream's codecs, by [`Format::place`]; 0 where it cannot receive one.
    pub(crate) pts: [Pt; 2],
    /// Video that has not had its first keyframe since the route was opened or the stream changed its codec.
    pub(crate) awaits_keyframe: bool,
    /// It asked for a keyframe: it may have lost the parameter sets, and gets them again.
    pub(crate) lacks_sets: bool,
}

/// One of a stream's codecs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// 0: the one that the stream was opened with, 1: the one that was added.
    pub(crate) place: usize,
    pub(crate) codec: Codec,
}

/// A stream that another worker receives and hands on.
pub(crate) struct Mirror {
    pub(crate) open: MirrorOpen,
    /// The publisher's header extension ids, as its last packet brought them.
    pub(crate) ids: ExtensionIds,
    /// Whether a packet came.
    pub(crate) has_begun: bool,
}

/// Another worker that a stream is handed on to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tap {
    pub(crate) tap: u32,
    pub(crate) worker: u16,
    pub(crate) mirror: StreamId,
}

/// No peer of this worker.
const NOBODY: PeerId = PeerId::new(u32::MAX, u32::MAX);

/// A stream that a peer sends, or the mirror of one.
pub(crate) struct Stream {
    pub(crate) open: StreamOpen,
    /// Where it comes from, unless from a peer of this worker.
    pub(crate) mirror: Option<Mirror>,
    /// Its second codec.
    pub(crate) second: Option<StreamCodec>,
    /// The codec that it is in: that of its newest packet.
    pub(crate) format: Format,
    pub(crate) ssrc: Ssrc,
    pub(crate) rtx_ssrc: Ssrc,
    /// Whether packets come: its first one was told, and no silence since.
    pub(crate) is_flowing: bool,
    /// Whether its first packet was told.
    pub(crate) is_started: bool,
    pub(crate) silence: Silence,
    /// Whether its newest packet left a frame of video unfinished.
    pub(crate) is_in_frame: bool,
    /// Replay window of the primary SSRC. An RTX that fills a hole counts as the packet's arrival, so the late
    /// original is a replay and no packet is forwarded twice.
    pub(crate) window: Window,
    pub(crate) rtx_window: Window,
    /// The parameter sets of H.264.
    pub(crate) sets: Option<Box<ParameterSets>>,
    /// From which SSRCs else it is sent.
    pub(crate) encodings: Encodings,
    pub(crate) hops: Vec<Hop>,
    /// Where else it goes: to receivers on other cores.
    pub(crate) taps: Vec<Tap>,
    pub(crate) reception: Reception,
    /// Repair towards its receivers; video with a negotiated RTX somewhere.
    pub(crate) places: Option<Places>,
    /// Index from which on every packet was kept for repair: those before came while nobody received the stream.
    pub(crate) kept_from: u64,
    /// Repair from its publisher.
    pub(crate) holes: Option<Holes>,
    pub(crate) keyframe: Keyframe,
    /// Whether its way fills up; of a stream whose sender takes REMB.
    pub(crate) overuse: Option<Box<Overuse>>,
    /// The last sender report: NTP time on the worker's clock, RTP timestamp, when it came.
    pub(crate) sender_report: Option<SenderClock>,
    pub(crate) counts: StreamCounts,
}

/// A point at which a stream's RTP clock and the worker's NTP clock are known together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SenderClock {
    pub(crate) ntp: u64,
    pub(crate) rtp: u32,
    pub(crate) at: Micros,
}

impl Stream {
    pub(crate) fn new(open: StreamOpen) -> Self {
        use proto::plane::feedback::{NACK, REMB};
        let is_video = open.codec.is_video();
        Stream {
            open,
            mirror: None,
            second: None,
            format: Format { place: 0, codec: open.codec },
            ssrc: open.ssrc,
            rtx_ssrc: open.rtx_ssrc,
            is_flowing: false,
            is_started: false,
            silence: Silence::default(),
            is_in_frame: false,
            window: Window::new(),
            rtx_window: Window::new(),
            sets: (open.codec == Codec::H264).then(Box::default),
            encodings: Encodings::default(),
            hops: Vec::new(),
            taps: Vec::new(),
            reception: Reception::default(),
            places: is_video.then(History::places),
            kept_from: 0,
            holes: (is_video && open.feedback & NACK != 0).then(Holes::new),
            keyframe: Keyframe::default(),
            overuse: (open.feedback & REMB != 0).then(|| Box::new(Overuse::new())),
            sender_report: None,
            counts: StreamCounts::default(),
        }
    }

    /// The mirror of a stream of another worker. It has no publisher here, and asks nobody for what it lacks.
    pub(crate) fn mirror(open: MirrorOpen) -> Self {
        let MirrorOpen { stream, pt, rtx_pt, codec, .. } = open;
        let (ssrc, mid) = (0, Mid::NONE);
        let as_stream = StreamOpen { stream, peer: NOBODY, ssrc, rtx_ssrc: 0, mid, pt, rtx_pt, codec, feedback: 0 };
        Stream {
            mirror: Some(Mirror { open, ids: ExtensionIds::default(), has_begun: false }),
            ..Stream::new(as_stream)
        }
    }

    /// Goes on under another SSRC, which counts anew; returns the window of the former.
    pub(crate) fn rename(&mut self, ssrc: Ssrc, window: Window) -> Window {
        let is_first = std::mem::replace(&mut self.ssrc, ssrc) == 0;
        self.reception.reset(self.window.highest());
        self.sender_report = None;
        self.kept_from = 0;
        if let Some(holes) = &mut self.holes {
            holes.clear();
        }
        for hop in &mut self.hops {
            hop.awaits_keyframe = self.open.codec.is_video();
        }
        if !is_first && let Some(sets) = &mut self.sets {
            sets.clear();
        }
        self.recall_sets();
        std::mem::replace(&mut self.window, window)
    }

    /// The parameter sets that SDP told hold until the stream brings its own. Of several encodings they would be of one, and
    /// nobody says of which.
    fn recall_sets(&mut self) {
        if let Some(sets) = self.sets.as_mut().filter(|_| !self.encodings.are_known()) {
            sets.recall_sdp();
        }
    }

    /// Takes a part of the parameter sets that SDP told.
    pub(crate) fn tell_sets(&mut self, told: &StreamSets) -> Result<(), Refusal> {
        let part = usize::from(told.part);
        let sets = self.sets.as_mut().ok_or(Refusal::Malformed)?;
        if part >= STREAM_SETS_PARTS_MAX || usize::from(told.len) > STREAM_SETS_PART_LEN {
            return Err(Refusal::Malformed);
        }
        match part.cmp(&sets.of_sdp.len()) {
            Ordering::Less => return Err(Refusal::Occupied),
            Ordering::Greater => return Err(Refusal::Malformed),
            Ordering::Equal => sets.of_sdp.push(*told),
        }
        self.recall_sets();
        Ok(())
    }

    /// Whether anybody gets it.
    pub(crate) fn is_received(&self) -> bool {
        !self.hops.is_empty() || !self.taps.is_empty()
    }

    /// A number for its publisher, the same for all that one sends and another for each publisher of this dataplane that
    /// a receiver may meet.
    pub(crate) fn publisher_number(&self) -> u32 {
        match &self.mirror {
            None => self.open.peer.index,
            Some(Mirror { open, .. }) => (u32::from(open.worker) + 1) << 16 | open.publisher.index & 0xffff,
        }
    }

    /// The codec that has this payload type.
    #[inline]
    pub(crate) fn format_of(&self, pt: Pt) -> Option<Format> {
        if pt == self.open.pt {
            return Some(Format { place: 0, codec: self.open.codec });
        }
        self.second.filter(|second| second.pt == pt).map(|second| Format { place: 1, codec: second.codec })
    }

    /// The codec whose retransmissions have this payload type.
    pub(crate) fn format_of_rtx(&self, rtx_pt: Pt) -> Option<Format> {
        if rtx_pt == 0 {
            return None;
        }
        if rtx_pt == self.open.rtx_pt {
            return Some(Format { place: 0, codec: self.open.codec });
        }
        self.second.filter(|second| second.rtx_pt == rtx_pt).map(|second| Format { place: 1, codec: second.codec })
    }

    /// Whether a receiver waits for a keyframe that it could use: in a codec that it has.
    pub(crate) fn awaits_keyframe(&self, slot: u32) -> bool {
        self.hops.iter().any(|hop| hop.slot == slot && hop.awaits_keyframe && hop.pts[self.format.place] != 0)
    }
}

/// Throttle of keyframe requests towards one publisher's stream.
#[derive(Default)]
pub(crate) struct Keyframe {
    /// When the last request left.
    pub(crate) asked: Option<Micros>,
    /// Somebody waits for one.
    pub(crate) is_wanted: bool,
    /// When the timer that looks again is set for.
    pub(crate) timer: Option<Micros>,
    pub(crate) fir_seq: u8,
}

/// Reception statistics of a stream, for receiver reports (RFC 3550 §6.4.1, App. A.3, A.8).
#[derive(Default)]
pub(crate) struct Reception {
    first_index: Option<u64>,
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    /// Expected and received at the last review of the peer's estimate.
    reviewed: (u64, u64),
    jitter_q4: u32,
    transit_last: Option<u32>,
    last_sr_middle: u32,
    last_sr_at: Option<Micros>,
    /// Packets received and expected of the SSRCs that the stream had before.
    former: (u64, u64),
}

impl Reception {
    /// An authentic packet arrived.
    #[inline]
    pub(crate) fn received(&mut self, index: u64, timestamp: u32, clock_rate: u32, at: Micros) {
        self.first_index.get_or_insert(index);
        self.received += 1;
        let arrival = (u128::from(at) * u128::from(clock_rate) / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(last) = self.transit_last.replace(transit) {
            let d = (transit.wrapping_sub(last) as i32).unsigned_abs();
            // RFC 3550 App. A.8, in sixteenths. A jump of a minute is a new clock, not jitter.
            if d < 60 * clock_rate {
                self.jitter_q4 = self.jitter_q4.wrapping_add(d).wrapping_sub((self.jitter_q4 + 8) >> 4);
            }
        }
    }

    /// A sender report came.
    pub(crate) fn sender_report(&mut self, ntp: u64, at: Micros) {
        self.last_sr_middle = (ntp >> 16) as u32;
        self.last_sr_at = Some(at);
    }

    /// The report block for the time since the last one.
    pub(crate) fn report(&mut self, ssrc: Ssrc, highest: u64, now: Micros) -> Option<crate::rtcp::ReportBlock> {
        let first = self.first_index?;
        let expected = highest.saturating_sub(first) + 1;
        let expected_interval = expected.saturating_sub(self.expected_prior);
        let received_interval = self.received - self.received_prior;
        self.expected_prior = expected;
        self.received_prior = self.received;
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction_lost = (lost_interval * 256).checked_div(expected_interval).unwrap_or(0).min(255);
        let cumulative = (expected as i64 - self.received as i64).clamp(-0x80_0000, 0x7f_ffff);
        Some(crate::rtcp::ReportBlock {
            ssrc,
            fraction_lost: fraction_lost as u8,
            cumulative_lost: cumulative as i32,
            highest_seq: highest as u32,
            jitter: self.jitter_q4 >> 4,
            last_sr: self.last_sr_middle,
            delay_since_last_sr: self
                .last_sr_at
                .map_or(0, |at| (u128::from(now.saturating_sub(at)) * 65_536 / 1_000_000) as u32),
        })
    }

    /// Packets that were expected since the last call, and how many of them did not come.
    pub(crate) fn lost_since_review(&mut self, highest: u64) -> (u64, u64) {
        let Some(first) = self.first_index else { return (0, 0) };
        let (expected, received) = (highest.saturating_sub(first) + 1, self.received);
        let (expected_before, received_before) = std::mem::replace(&mut self.reviewed, (expected, received));
        let expected = expected.saturating_sub(expected_before);
        (expected, expected.saturating_sub(received - received_before))
    }

    /// Packets received and expected since the stream was opened; `highest` is the index of the newest.
    pub(crate) fn totals(&self, highest: Option<u64>) -> (u64, u64) {
        let (received, expected) = self.former;
        let span = self.first_index.zip(highest).map_or(0, |(first, highest)| highest.saturating_sub(first) + 1);
        (received + self.received, expected + span)
    }

    /// Starts over for a new SSRC; `highest` is the last index of the one before.
    pub(crate) fn reset(&mut self, highest: Option<u64>) {
        *self = Reception { former: self.totals(highest), ..Reception::default() };
    }
}

/// An m-section through which a peer receives.
pub(crate) struct Slot {
    pub(crate) open: SlotOpen,
    /// The route that fills it, if any.
    pub(crate) route: Option<u32>,
    pub(crate) rewriter: Rewriter,
    /// Guards the keystream: no index leaves twice under one key.
    pub(crate) sent_window: Window,
    pub(crate) rtx_index: u64,
    pub(crate) packets: u64,
    pub(crate) octets: u64,
    pub(crate) counts: SlotCounts,
    /// The last sender report: the middle 32 bits of its NTP time, and when it left.
    pub(crate) sender_report_sent: Option<(u32, Micros)>,
    pub(crate) budget: Option<Box<Budget>>,
    /// Keyframe requests of this receiver: start of the window and how many in it.
    keyframe_window: (Micros, u8),
}

impl Slot {
    pub(crate) fn new(open: SlotOpen) -> Self {
        Slot {
            route: None,
            rewriter: Rewriter::new(open.seq_first, open.timestamp_first),
            sent_window: Window::new(),
            rtx_index: u64::from(open.rtx_seq_first),
            packets: 0,
            octets: 0,
            counts: SlotCounts::default(),
            sender_report_sent: None,
            budget: (open.rtx_ssrc != 0).then(|| Box::new(Budget::new())),
            keyframe_window: (0, 0),
            open,
        }
    }

    /// Whether this receiver may cause another keyframe request now.
    pub(crate) fn may_ask_keyframe(&mut self, now: Micros) -> bool {
        if now >= self.keyframe_window.0 + KEYFRAME_WINDOW {
            self.keyframe_window = (now, 0);
        }
        self.keyframe_window.1 = self.keyframe_window.1.saturating_add(1);
        self.keyframe_window.1 <= KEYFRAME_REQUESTS_MAX
    }
}

/// A route: what was asked for, and the dense indices it stands on.
pub(crate) struct Route {
    pub(crate) open: RouteOpen,
    /// What the receiver gave the stream's second codec.
    pub(crate) second: Option<RouteCodec>,
}

impl Route {
    /// The receiver's payload type for retransmissions of a stream's codec, 0 for none.
    pub(crate) fn rtx_pt(&self, format: Format) -> Pt {
        match format.place {
            0 => self.open.rtx_pt,
            _ => self.second.map_or(0, |second| second.rtx_pt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_what_is_missing_since_the_last() {
        let mut reception = Reception::default();
        assert_eq!(reception.report(1, 0, 0), None, "nothing was received yet");
        for index in (100..200).filter(|i| i % 4 != 0) {
            reception.received(index, index as u32 * 960, 48_000, index * 20_000);
        }
        reception.sender_report(0x0001_2345_6789_0000, 3_000_000);
        let block = reception.report(7, 199, 4_000_000).unwrap();
        assert_eq!((block.ssrc, block.highest_seq, block.cumulative_lost), (7, 199, 24), "100 is where it began");
        assert_eq!(block.fraction_lost, (24 * 256 / 99) as u8);
        assert_eq!((block.last_sr, block.delay_since_last_sr), (0x2345_6789, 65_536));
        assert_eq!(block.jitter, 0, "packets came exactly in time");
        let block = reception.report(7, 199, 4_000_000).unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost), (0, 24));
    }
}
