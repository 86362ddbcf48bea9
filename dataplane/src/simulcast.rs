//! A stream that is one of several encodings of a track (RFC 8853): what is known of it beside what every stream has. Which of
//! them a receiver is sent is [`crate::choice`]'s.

use proto::id::StreamId;
use proto::plane::{Codec, StreamEncoding};

use crate::config::{ENCODING_RESIZED, ENCODING_SILENCE, ENCODING_SILENCE_FRAMES, ENCODING_STOPPED, Micros};
use crate::headroom::{Headroom, Rates};
use crate::layers_allocation::Allocated;
use crate::sets::ParameterSets;
use crate::size::Size;
use crate::{picture, size};

/// One encoding.
pub(crate) struct Encoding {
    pub(crate) open: StreamEncoding,
    /// Of the pictures of its last keyframe.
    pub(crate) size: Size,
    /// Frames of the track's other encodings that have ended since its own last packet.
    frames_of_others: u8,
    /// Whether its first packet since a silence is being received: nobody knows yet whether it begins a keyframe.
    pub(crate) is_beginning: bool,
    /// Slots here that want it, whether or not it flows.
    pub(crate) wanted_by: u32,
    /// Reports in a row in which nobody wanted it.
    pub(crate) unwanted_reports: u8,
    /// Whether the controlplane was told that it is idle.
    pub(crate) is_idle: bool,
    /// What its publisher was told of its rate, and what it sends of its own.
    pub(crate) rates: Rates,
    /// Of a track from another edge: what that was told that its receivers here have room for.
    pub(crate) room_told: Headroom,
    /// Of a mirror: the rate at the worker that receives the stream, and what it is expected to cost there, bit/s.
    pub(crate) bps_there: u32,
    pub(crate) expected_there: u32,
    /// The rate that its publisher has said last, bit/s; when it said that it sends nothing of it; and when it said another size.
    pub(crate) told_bps: u32,
    stopped_at: Option<Micros>,
    resized_at: Option<Micros>,
}

impl Encoding {
    pub(crate) fn new(open: StreamEncoding) -> Box<Encoding> {
        Box::new(Encoding {
            open,
            size: Size::default(),
            frames_of_others: 0,
            is_beginning: false,
            wanted_by: 0,
            unwanted_reports: 0,
            is_idle: false,
            rates: Rates::default(),
            room_told: Headroom::NONE,
            bps_there: 0,
            expected_there: 0,
            told_bps: 0,
            stopped_at: None,
            resized_at: None,
        })
    }

    /// Of which track it is.
    pub(crate) fn track(&self) -> StreamId {
        self.open.track
    }

    /// A packet of it came.
    #[inline]
    pub(crate) fn received(&mut self, at: Micros) {
        self.frames_of_others = 0;
        // Packets count for more than what is said of them.
        self.stopped_at.take_if(|stopped_at| at >= stopped_at.saturating_add(ENCODING_STOPPED));
    }

    /// A frame of another encoding of the track ended. Whether the publisher has stopped this one, whose last packet came at
    /// `received_at`: the others go on without it.
    pub(crate) fn other_frame_ended(&mut self, received_at: Micros, at: Micros) -> bool {
        self.frames_of_others = self.frames_of_others.saturating_add(1);
        if self.stopped_at.is_some() && at >= received_at.saturating_add(ENCODING_STOPPED) {
            return true;
        }
        self.frames_of_others >= ENCODING_SILENCE_FRAMES && at >= received_at.saturating_add(ENCODING_SILENCE)
    }

    /// Its publisher says what it sends of it, in a packet of the time `at`. Whether its pictures have another size.
    pub(crate) fn told(&mut self, allocated: Allocated, at: Micros) -> bool {
        self.told_bps = allocated.kbps.saturating_mul(1000);
        self.stopped_at = if allocated.spatial == 0 { self.stopped_at.or(Some(at)) } else { None };
        let (width, height) = allocated.size;
        let size = Size { width, height };
        let is_due = self.resized_at.is_none_or(|last| at >= last.saturating_add(ENCODING_RESIZED));
        let is_resized = width > 0 && size != self.size && is_due;
        if is_resized {
            (self.size, self.resized_at) = (size, Some(at));
        }
        is_resized
    }

    /// A keyframe begins with this payload. Whether its pictures have another size than those before.
    pub(crate) fn note_size(&mut self, codec: Codec, sets: Option<&ParameterSets>, payload: &[u8]) -> bool {
        let size = match codec {
            Codec::Vp8 => picture::vp8(payload).and_then(|(_, frame)| size::vp8(frame)),
            Codec::H264 => sets.and_then(|sets| sets.iter().find_map(size::h264)),
            Codec::Opus | Codec::Vp9 | Codec::Av1 => None,
        };
        size.is_some_and(|size| std::mem::replace(&mut self.size, size) != size)
    }
}
