//! From the packets of a track, in order, to its frames as MP4 keeps them.
//!
//! A frame is what has one RTP timestamp. After a loss the frame that it fell into is dropped, and of video everything until the next
//! keyframe: what refers to a picture that is not there would be shown wrong.

pub mod av1;
pub mod h264;
pub mod opus;
pub mod vp8;
pub mod vp9;

use client::room::Codec;
use proto::signal::VideoCodec;

/// More than any frame of a camera or screen; what is longer is dropped.
const FRAME_LEN_MAX: usize = 8 * 1024 * 1024;

/// What a file says once of all its frames.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Config {
    /// RFC 7845, RFC 6716
    Opus,
    /// AAC-LC of 48 kHz and two channels (ISO/IEC 14496-3). No room has it; an encoder makes it.
    Aac,
    /// Parameter sets (ISO/IEC 14496-10), without start codes.
    H264 {
        /// Sequence parameter sets in the order of their ids.
        sps: Vec<Vec<u8>>,
        /// Picture parameter sets.
        pps: Vec<Vec<u8>>,
        /// Pixels.
        size: (u16, u16),
    },
    /// RFC 6386
    Vp8 {
        /// Pixels.
        size: (u16, u16),
    },
    /// Profile 0.
    Vp9 {
        /// Pixels.
        size: (u16, u16),
    },
    /// Main profile.
    Av1 {
        /// The OBU of the sequence header, with its size.
        sequence: Vec<u8>,
        /// Pixels.
        size: (u16, u16),
        /// Of the first operating point.
        level: u8,
        /// The high tier of it.
        tier: bool,
        /// Ten bits.
        is_high_depth: bool,
        /// Luma alone.
        is_monochrome: bool,
    },
}

impl Config {
    /// Whether it is sound.
    pub fn is_audio(&self) -> bool {
        matches!(self, Config::Opus | Config::Aac)
    }

    /// Pixels of a picture.
    pub fn size(&self) -> Option<(u16, u16)> {
        match self {
            Config::Opus | Config::Aac => None,
            Config::H264 { size, .. } | Config::Vp8 { size } | Config::Vp9 { size } | Config::Av1 { size, .. } => {
                Some(*size)
            }
        }
    }
}

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// RTP time.
    pub timestamp: u32,
    /// As MP4 keeps it.
    pub data: Vec<u8>,
    /// Whether it can be decoded without any other.
    pub is_key: bool,
    /// What the file must say for this frame, if it is a keyframe.
    pub config: Option<Config>,
}

/// What a codec makes of the packets of one frame.
trait Assemble {
    /// Takes a packet's payload. False: it is none of this codec, or of no use; the frame is dropped.
    fn take(&mut self, payload: &[u8]) -> bool;
    /// The bytes so far.
    fn len(&self) -> usize;
    /// The frame: data, whether it is a key, its configuration. Begins anew.
    fn finish(&mut self) -> Option<(Vec<u8>, bool, Option<Config>)>;
    /// Begins anew.
    fn clear(&mut self);
}

/// One codec.
enum Assembler {
    Opus(opus::Opus),
    H264(h264::H264),
    Vp8(vp8::Vp8),
    Vp9(vp9::Vp9),
    Av1(av1::Av1),
}

impl Assembler {
    fn as_dyn(&mut self) -> &mut dyn Assemble {
        match self {
            Assembler::Opus(codec) => codec,
            Assembler::H264(codec) => codec,
            Assembler::Vp8(codec) => codec,
            Assembler::Vp9(codec) => codec,
            Assembler::Av1(codec) => codec,
        }
    }
}

/// Frames of one track in one codec.
pub struct Depacketizer {
    assembler: Assembler,
    is_video: bool,
    /// Of the frame that is being collected.
    timestamp: Option<u32>,
    /// The frame that a loss fell into.
    dropped: Option<u32>,
    /// Nothing can be decoded before a keyframe.
    is_waiting: bool,
}

impl Depacketizer {
    /// Waits for the first frame, and of video for the first keyframe.
    pub fn new(codec: Codec) -> Depacketizer {
        let assembler = match codec {
            Codec::Opus => Assembler::Opus(opus::Opus::default()),
            Codec::Video(VideoCodec::H264) => Assembler::H264(h264::H264::default()),
            Codec::Video(VideoCodec::Vp8) => Assembler::Vp8(vp8::Vp8::default()),
            Codec::Video(VideoCodec::Vp9) => Assembler::Vp9(vp9::Vp9::default()),
            Codec::Video(VideoCodec::Av1) => Assembler::Av1(av1::Av1::default()),
        };
        let is_video = codec != Codec::Opus;
        Depacketizer { assembler, is_video, timestamp: None, dropped: None, is_waiting: is_video }
    }

    /// Whether a keyframe is needed before anything can be written.
    pub fn wants_keyframe(&self) -> bool {
        self.is_waiting
    }

    /// Frames were lost behind the depacketizer: what comes next must be a keyframe.
    pub fn await_keyframe(&mut self) {
        self.is_waiting = self.is_video;
    }

    /// Takes the next packet; `is_after_loss`: others before it never came.
    pub fn push(&mut self, is_after_loss: bool, timestamp: u32, marker: bool, payload: &[u8], out: &mut Vec<Frame>) {
        if is_after_loss && self.is_video {
            self.drop_frame(timestamp);
        }
        if self.timestamp.is_some_and(|of| of != timestamp) {
            self.finish(out);
        }
        if payload.is_empty() || self.dropped == Some(timestamp) {
            return;
        }
        self.dropped = None;
        self.timestamp = Some(timestamp);
        let codec = self.assembler.as_dyn();
        if codec.len() + payload.len() > FRAME_LEN_MAX || !codec.take(payload) {
            return self.drop_frame(timestamp);
        }
        if marker || !self.is_video {
            self.finish(out);
        }
    }

    fn drop_frame(&mut self, timestamp: u32) {
        self.assembler.as_dyn().clear();
        self.timestamp = None;
        self.dropped = Some(timestamp);
        self.is_waiting = self.is_video;
    }

    fn finish(&mut self, out: &mut Vec<Frame>) {
        let Some(timestamp) = self.timestamp.take() else { return };
        let Some((data, is_key, config)) = self.assembler.as_dyn().finish() else {
            // A picture of which nothing is left but what says how to decode; or one that is cut short.
            return;
        };
        if self.is_waiting && !(is_key && config.is_some()) {
            return;
        }
        self.is_waiting = false;
        out.push(Frame { timestamp, data, is_key, config });
    }
}

/// Bits from the first on, of untrusted bytes: beyond the end there is nothing.
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0 }
    }

    pub(crate) fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// At most 32.
    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0u32, |value, _| Some(value << 1 | u32::from(self.bit()?)))
    }

    /// ue(v) of ISO/IEC 14496-10 §9.1.
    pub(crate) fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.bits(zeros)?)
    }

    /// se(v) of §9.1.1.
    pub(crate) fn signed_exp_golomb(&mut self) -> Option<i32> {
        let value = self.exp_golomb()?;
        let half = value.div_ceil(2) as i32;
        Some(if value % 2 == 1 { half } else { -half })
    }
}
