//! Streams: what a peer sends under one SSRC, or the mirror of what a peer of another worker sends.

use std::cmp::Ordering;

use proto::id::{Mid, PeerId, Pt, Ssrc, StreamId};
use proto::plane::{
    Codec, Extension, ExtensionIds, MirrorOpen, Refusal, STREAM_SETS_PART_LEN, STREAM_SETS_PARTS_MAX, StreamCodec,
    StreamGate, StreamOpen, StreamRate, StreamSets,
};

use crate::bucket::Bucket;
use crate::bwe::Overuse;
use crate::config::{KEYFRAME_BURST, KEYFRAME_RATE, Micros};
use crate::dependency::{DescriptorError, Structure};
use crate::encodings::Encodings;
use crate::headroom::Headroom;
use crate::layer::Parts;
use crate::layering::{Described, Layering};
use crate::packet::RtpPacket;
use crate::picture::PictureNumbers;
use crate::playout::Lateness;
use crate::police::Police;
use crate::rate::Rate;
use crate::reception::Reception;
use crate::relay::Message;
use crate::repair::MissingPackets;
use crate::rtcp::SenderClock;
use crate::sets::ParameterSets;
use crate::silence::Silence;
use crate::simulcast::Encoding;
use crate::speech::Speech;
use crate::srtp::Window;
use crate::store::Kept;
use crate::tally::StreamCounts;

/// What the fan-out of one stream needs of one route, in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    pub(crate) route: u32,
    pub(crate) slot: u32,
    pub(crate) peer: u32,
    /// The receiver's payload types of the stream's codecs, by [`Format::index`]; 0 where it cannot receive one.
    pub(crate) pts: [Pt; 2],
    /// Its payload type of RED, or 0.
    pub(crate) red_pt: Pt,
    /// Video that has not had its first keyframe since the route was opened or the stream changed its codec.
    pub(crate) awaits_keyframe: bool,
    /// It asked for a keyframe: it may have lost the parameter sets, and gets them again.
    pub(crate) lacks_sets: bool,
}

/// One of a stream's codecs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Format {
    /// 0: the one that the stream was opened with, 1: the one that was added.
    pub(crate) index: usize,
    pub(crate) codec: Codec,
}

impl Format {
    /// That of a stream which has this payload type, or this one for its retransmissions.
    pub(crate) fn find(open: &StreamOpen, second: Option<&StreamCodec>, pt: Pt) -> Option<Format> {
        let is_its = |own: Pt, rtx: Pt| pt == own || (rtx != 0 && pt == rtx);
        if is_its(open.pt, open.rtx_pt) || is_its(open.pt, open.red_pt) {
            return Some(Format { index: 0, codec: open.codec });
        }
        let second = second.filter(|second| is_its(second.pt, second.rtx_pt))?;
        Some(Format { index: 1, codec: second.codec })
    }
}

/// A stream that another worker receives and relays.
pub(crate) struct Mirror {
    pub(crate) open: MirrorOpen,
    /// The publisher's header extension ids, as its last packet brought them.
    pub(crate) ids: ExtensionIds,
    /// Whether a packet came, since it was taken.
    pub(crate) has_begun: bool,
    /// Whether somebody here takes it, and wants it, as the worker that receives the stream was told.
    pub(crate) is_taken: bool,
    pub(crate) is_wanted: bool,
    /// … and what those who take it have room for.
    pub(crate) room: Headroom,
}

impl Mirror {
    /// What the worker that receives the stream is told; `mirror` is the id of this one.
    pub(crate) fn taken(&self, mirror: StreamId) -> Message<'static> {
        let Mirror { is_taken, is_wanted, room, .. } = *self;
        Message::Taken { stream: self.open.origin, mirror, is_taken, is_wanted, room }
    }
}

/// Another worker that a stream is relayed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tap {
    pub(crate) tap: u32,
    pub(crate) worker: u16,
    pub(crate) mirror: StreamId,
    /// Whether somebody there takes it. Only of an encoding it may be that nobody does.
    pub(crate) is_taken: bool,
    /// Whether somebody there wants it, although it may not flow.
    pub(crate) is_wanted: bool,
    /// What those who take it there have room for.
    pub(crate) room: Headroom,
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
    /// Whether packets come: there was a first one, and no silence since.
    pub(crate) is_flowing: bool,
    pub(crate) silence: Silence,
    /// Whether its newest packet left a frame of video unfinished.
    pub(crate) is_in_frame: bool,
    /// Replay window of the primary SSRC. An RTX that replaces a missing packet counts as the packet's arrival, so the late
    /// original is a replay and no packet is forwarded twice.
    pub(crate) window: Window,
    pub(crate) rtx_window: Window,
    /// The parameter sets of H.264.
    pub(crate) sets: Option<Box<ParameterSets>>,
    /// From which SSRCs else it is sent.
    pub(crate) encodings: Encodings,
    /// What makes it one of several encodings of a track.
    pub(crate) encoding: Option<Box<Encoding>>,
    pub(crate) hops: Vec<Hop>,
    /// The slots that have a route from it, whether or not they take it now.
    pub(crate) receivers: Vec<u32>,
    /// The other workers that it is relayed to.
    pub(crate) taps: Vec<Tap>,
    pub(crate) reception: Reception,
    /// Of video: how late its packets come.
    pub(crate) lateness: Lateness,
    /// Repair towards its receivers.
    pub(crate) kept: Kept,
    /// Index from which on every packet was kept for repair: those before came while nobody received the stream.
    pub(crate) kept_from: u64,
    /// Repair from its publisher.
    pub(crate) missing: Option<MissingPackets>,
    pub(crate) keyframe: Keyframe,
    /// Whether its way fills up; of a stream whose sender takes REMB.
    pub(crate) overuse: Option<Box<Overuse>>,
    /// The last sender report: NTP time on the worker's clock, RTP timestamp, when it came.
    pub(crate) sender_report: Option<SenderClock>,
    pub(crate) rate: Rate,
    /// Of its bytes, the parts of its lower layers.
    pub(crate) parts: Parts,
    /// What it says of its layers, where it may.
    pub(crate) layering: Option<Box<Layering>>,
    pub(crate) counts: StreamCounts,
    /// Of audio: whether somebody speaks in it.
    pub(crate) speech: Option<Box<Speech>>,
    pub(crate) gate_open: Option<StreamGate>,
    /// How often packets of it began to be passed on again: what comes then does not continue what came before.
    pub(crate) cuts: u8,
    /// What may come of it, and as the controlplane said it.
    pub(crate) police: Option<Box<Police>>,
    pub(crate) rate_open: Option<StreamRate>,
}

impl Stream {
    /// A stream of a peer that sends so many others with video.
    pub(crate) fn new(open: StreamOpen, others: usize) -> Self {
        use proto::plane::feedback::{NACK, REMB};
        let is_video = open.codec.is_video();
        Stream {
            open,
            mirror: None,
            second: None,
            format: Format { index: 0, codec: open.codec },
            ssrc: open.ssrc,
            rtx_ssrc: open.rtx_ssrc,
            is_flowing: false,
            silence: Silence::default(),
            is_in_frame: false,
            window: Window::new(),
            rtx_window: Window::new(),
            sets: (open.codec == Codec::H264).then(Box::default),
            encodings: Encodings::default(),
            encoding: None,
            hops: Vec::new(),
            receivers: Vec::new(),
            taps: Vec::new(),
            reception: Reception::default(),
            lateness: Lateness::default(),
            kept: if is_video { Kept::video(others) } else { Kept::audio() },
            kept_from: 0,
            missing: (open.feedback & NACK != 0).then(|| MissingPackets::new(!is_video)),
            keyframe: Keyframe::new(),
            overuse: (open.feedback & REMB != 0).then(|| Box::new(Overuse::new())),
            sender_report: None,
            rate: Rate::default(),
            parts: Parts::default(),
            layering: (open.codec == Codec::Vp9).then(Box::default),
            counts: StreamCounts::default(),
            speech: (!is_video).then(Box::default),
            gate_open: None,
            cuts: 0,
            police: None,
            rate_open: None,
        }
    }

    /// The mirror of a stream of another worker, whose publisher has so many others with video here. It has no publisher on this
    /// worker, and asks nobody for what it lacks.
    pub(crate) fn mirror(open: MirrorOpen, others: usize) -> Self {
        let MirrorOpen { stream, pt, rtx_pt, codec, .. } = open;
        let (ssrc, mid) = (0, Mid::NONE);
        let as_stream =
            StreamOpen { stream, peer: NOBODY, ssrc, rtx_ssrc: 0, mid, pt, rtx_pt, codec, feedback: 0, red_pt: 0 };
        Stream {
            layering: codec.is_video().then(Box::default),
            mirror: Some(Mirror {
                open,
                ids: ExtensionIds::default(),
                has_begun: false,
                is_taken: true,
                is_wanted: false,
                room: Headroom::NONE,
            }),
            ..Stream::new(as_stream, others)
        }
    }

    /// Goes on under another SSRC, which counts anew; returns the window of the former.
    pub(crate) fn rename(&mut self, ssrc: Ssrc, window: Window) -> Window {
        let is_first = std::mem::replace(&mut self.ssrc, ssrc) == 0;
        self.reception.reset(self.window.highest());
        self.sender_report = None;
        self.kept_from = 0;
        self.forget_layers();
        if let Some(missing) = &mut self.missing {
            missing.clear();
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

    /// The parameter sets of SDP hold until the stream brings its own. Of several encodings they would be of one, and
    /// nobody says of which.
    fn recall_sets(&mut self) {
        if let Some(sets) = self.sets.as_mut().filter(|_| !self.encodings.are_known()) {
            sets.recall_sdp();
        }
    }

    /// Adds a part of the parameter sets of SDP.
    pub(crate) fn add_sdp_sets(&mut self, told: &StreamSets) -> Result<(), Refusal> {
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

    /// Whether the newest packet was passed on.
    pub(crate) fn passes(&self) -> bool {
        self.speech.as_ref().is_none_or(|speech| speech.was_passed())
    }

    /// Whether anybody gets it.
    pub(crate) fn is_received(&self) -> bool {
        !self.hops.is_empty() || self.taps.iter().any(|tap| tap.is_taken)
    }

    /// Whether somebody takes it, or wants it, on whichever worker.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_received()
            || self.encoding.as_ref().is_some_and(|encoding| encoding.wanted_by > 0)
            || self.taps.iter().any(|tap| tap.is_wanted)
    }

    /// The track that it is of: itself, unless the track comes in several encodings.
    pub(crate) fn track(&self) -> StreamId {
        self.encoding.as_ref().map_or(self.open.stream, |encoding| encoding.track())
    }

    /// How much of it came in the last second and a half, bit/s: headers and payloads, without retransmissions.
    pub(crate) fn bps(&self, now: Micros) -> u32 {
        match (&self.mirror, &self.encoding) {
            (Some(mirror), Some(encoding)) if !mirror.is_taken => encoding.bps_there,
            _ => self.rate.bps(now),
        }
    }

    /// What it costs beside another encoding of its track, bit/s, or as any stream; 0 if nobody knows.
    pub(crate) fn expected_bps(&self, now: Micros) -> u32 {
        match (&self.mirror, &self.encoding) {
            (Some(_), Some(encoding)) => encoding.expected_there,
            (None, Some(encoding)) => encoding.rates.expected(now, self.rate.bps(now), self.is_flowing),
            (_, None) => self.rate.bps(now),
        }
    }

    /// A packet came that is counted in its rate.
    #[inline]
    pub(crate) fn measure(&mut self, format: Format, packet: &RtpPacket<'_>, at: Micros) {
        let len = packet.head.len() + packet.payload.len();
        self.rate.add(len, at);
        if self.known_layering().is_none() {
            let pictures = PictureNumbers::of(format.codec, packet.payload);
            self.parts.note(pictures.and_then(|pictures| pictures.temporal), len);
        }
    }

    /// Its packets may say of which layers they are. The packet path takes no memory: that for it is taken here.
    pub(crate) fn await_layers(&mut self) {
        if self.open.codec.is_video() {
            self.layering.get_or_insert_default();
        }
    }

    /// What comes from now on says anew of which layers it is.
    pub(crate) fn forget_layers(&mut self) {
        if let Some(layering) = &mut self.layering {
            **layering = Layering::default();
        }
        self.parts = Parts::default();
    }

    /// Reads what a packet says of its layers; the dependency descriptor has this id.
    #[inline]
    pub(crate) fn describe(
        &mut self,
        format: Format,
        packet: &RtpPacket<'_>,
        id: u8,
    ) -> Result<Option<Described>, DescriptorError> {
        let Some(layering) = &mut self.layering else { return Ok(None) };
        let is_newest = self.window.highest().is_none_or(|highest| packet.index >= highest);
        let described = layering.read(format.codec, packet, id, is_newest)?;
        if let Some(Described { frame, .. }) = &described {
            self.parts.note_described(frame, layering, packet.head.len() + packet.payload.len());
        }
        Ok(described)
    }

    /// What a packet that came before says, and what it refers to.
    pub(crate) fn described(
        &self,
        format: Format,
        packet: &RtpPacket<'_>,
        ids: &ExtensionIds,
    ) -> Option<(Described, &Structure)> {
        let layering = self.known_layering()?;
        let id = ids[Extension::DependencyDescriptor as usize];
        Some((layering.again(format.codec, packet, id)?, layering))
    }

    /// What is known of its layers, if anything is.
    #[inline]
    pub(crate) fn known_layering(&self) -> Option<&Layering> {
        self.layering.as_deref().filter(|layering| layering.is_known())
    }

    /// The same of a shared screen: a mean that a burst cannot move.
    pub(crate) fn steady_bps(&self, now: Micros) -> u32 {
        match (&self.mirror, &self.encoding) {
            (Some(mirror), Some(encoding)) if !mirror.is_taken => encoding.bps_there,
            _ => self.rate.steady_bps(now),
        }
    }

    /// What makes times on the workers' clock of its timestamps, in ticks, if a sender report has told it.
    #[inline]
    pub(crate) fn wall_offset(&self) -> Option<u32> {
        let clock = self.sender_report?;
        let ticks = (u128::from(clock.ntp) * u128::from(self.open.codec.clock_rate())) >> 32;
        Some((ticks as u32).wrapping_sub(clock.rtp))
    }

    /// Room for all of its receivers: they come and go with packets, which take no memory.
    pub(crate) fn reserve_hops(&mut self) {
        self.hops.reserve(self.receivers.len().saturating_sub(self.hops.len()));
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
            return Some(Format { index: 0, codec: self.open.codec });
        }
        self.second.filter(|second| second.pt == pt).map(|second| Format { index: 1, codec: second.codec })
    }

    /// Whether a packet of this payload type brings media of the stream.
    pub(crate) fn takes(&self, pt: Pt) -> bool {
        self.format_of(pt).is_some() || (pt == self.open.red_pt && pt != 0)
    }

    /// The codec of a packet, whether or not it came as a retransmission.
    pub(crate) fn format_of_either(&self, pt: Pt) -> Option<Format> {
        Format::find(&self.open, self.second.as_ref(), pt)
    }

    /// The codec whose retransmissions have this payload type.
    pub(crate) fn format_of_rtx(&self, rtx_pt: Pt) -> Option<Format> {
        if rtx_pt == 0 {
            return None;
        }
        if rtx_pt == self.open.rtx_pt {
            return Some(Format { index: 0, codec: self.open.codec });
        }
        self.second.filter(|second| second.rtx_pt == rtx_pt).map(|second| Format { index: 1, codec: second.codec })
    }

    /// Whether a receiver waits for a keyframe that it could use: in a codec that it has.
    pub(crate) fn awaits_keyframe(&self, slot: u32) -> bool {
        self.hops.iter().any(|hop| hop.slot == slot && hop.awaits_keyframe && hop.pts[self.format.index] != 0)
    }
}

/// Throttle of keyframe requests towards one publisher's stream.
pub(crate) struct Keyframe {
    /// When the last request left.
    pub(crate) asked: Option<Micros>,
    /// When the last one came.
    pub(crate) came: Option<Micros>,
    /// Somebody waits for one.
    pub(crate) is_wanted: bool,
    /// When the timer that looks again is set for.
    pub(crate) timer: Option<Micros>,
    pub(crate) fir_seq: u8,
    /// How many requests may leave, whoever causes them.
    pub(crate) bucket: Bucket,
    /// When a request was made because packets of the stream were cut.
    pub(crate) cut_asked: Option<Micros>,
}

impl Keyframe {
    fn new() -> Keyframe {
        let bucket = Bucket::new(KEYFRAME_BURST, KEYFRAME_RATE, 0);
        Keyframe { asked: None, came: None, is_wanted: false, timer: None, fir_seq: 0, bucket, cut_asked: None }
    }
}
