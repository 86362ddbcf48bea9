//! In which numbers media crosses between two edges. Both ends are ours, so nothing is negotiated: payload types, header extensions and
//! feedback are the same for all.

use proto::id::{Mid, PeerId, Pt, Rid, Ssrc, StreamId};
use proto::plane::{
    Codec, Command, EXTENSION_COUNT_MAX, Extension, ExtensionIds, StreamCodec, StreamEncoding, StreamOpen, feedback,
};
use proto::signal::Kind;

use super::message::TrackSaid;
use crate::member::{Format, Formats};
use crate::policy::{codec_of, kind_of};

/// Payload type of RED with blocks of Opus.
pub(crate) const RED_PT: Pt = 63;

/// Payload types of a codec. Audio comes again as itself.
pub(crate) const fn format(codec: Codec) -> Format {
    let (pt, rtx_pt) = match codec {
        Codec::Opus => (111, 111),
        Codec::H264 => (102, 103),
        Codec::Vp8 => (96, 97),
        Codec::Vp9 => (98, 99),
        Codec::Av1 => (45, 46),
    };
    Format { codec, pt, rtx_pt }
}

/// The codecs of a track.
pub(crate) fn formats(track: &TrackSaid) -> Formats {
    let mut codecs = track.codecs.iter().map(|&video| format(codec_of(video)));
    let first = if kind_of(track.source) == Kind::Audio { Some(format(Codec::Opus)) } else { codecs.next() };
    (first.unwrap_or(format(Codec::H264)), codecs.next())
}

/// Header extensions, each under its own place as id. Streams are known by SSRC, so none names them.
pub(crate) fn extensions() -> ExtensionIds {
    let mut ids = [0; EXTENSION_COUNT_MAX];
    // Feedback goes by the transport-wide number, so nobody needs the time of sending.
    let names = |extension: &Extension| {
        matches!(extension, Extension::Mid | Extension::Rid | Extension::RepairedRid | Extension::AbsSendTime)
    };
    for extension in Extension::ALL.into_iter().filter(|extension| !names(extension)) {
        ids[extension as usize] = extension as u8 + 1;
    }
    ids
}

/// The stream of a track, or of one of its encodings, where it comes in: the command that opens it, and those of its parts.
/// `encoding`: the stream of the track's first encoding, and which one this is.
pub(crate) fn stream_of(
    peer: PeerId,
    stream: StreamId,
    (ssrc, rtx_ssrc): (Ssrc, Ssrc),
    formats: Formats,
    encoding: Option<(StreamId, u8, Rid)>,
) -> (StreamOpen, Vec<Command>) {
    let Format { codec, pt, rtx_pt } = formats.0;
    let is_video = codec.is_video();
    let of_video = if is_video { feedback::PLI } else { 0 };
    let open = StreamOpen {
        stream,
        peer,
        ssrc,
        rtx_ssrc,
        mid: Mid::NONE,
        pt,
        rtx_pt: if is_video { rtx_pt } else { 0 },
        codec,
        feedback: feedback::NACK | feedback::TRANSPORT_CC | of_video,
        red_pt: if is_video { 0 } else { RED_PT },
    };
    let second = formats.1.map(|Format { codec, pt, rtx_pt }| StreamCodec { stream, codec, pt, rtx_pt }.into());
    let encoding = encoding.map(|(track, place, rid)| StreamEncoding { stream, track, place, rid }.into());
    (open, second.into_iter().chain(encoding).collect())
}
