//! A section's stream as its worker is told of it: the command that opens it, and those of its parts.

use proto::id::{PeerId, Pt, Ssrc, StreamId};
use proto::plane::{
    Command, STREAM_SETS_PART_LEN, StreamCodec, StreamEncoding, StreamEncodings, StreamOpen, StreamSets, feedback,
};

use crate::member::{Format, Track};
use crate::negotiation::Verdict;
use crate::reconcile::Plan;
use crate::sdp::Section;

/// Which encoding of its track a stream is, if the track comes in several.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The stream of the first encoding.
    pub(super) track: StreamId,
    /// Which of the section's encodings.
    pub(super) place: usize,
}

/// The track that a section goes on with as it is.
pub(super) fn kept_track<'a>(
    section: &Section,
    verdict: &Verdict,
    peer: PeerId,
    track: Option<&'a Track>,
    plan: &Plan,
) -> Option<&'a Track> {
    let track = track.filter(|track| track.encodings.len() == verdict.encodings.len())?;
    let is_kept = |(place, stream): (usize, StreamId)| {
        let place = (!track.encodings.is_empty()).then_some(Place { track: track.stream, place });
        let open = plan.stream(stream);
        open.is_some_and(|open| stream_of(section, verdict, peer, (stream, place), Some(&open)) == open)
    };
    track.streams().enumerate().all(is_kept).then_some(track)
}

/// A section's stream as the worker is told of it: the command that opens it, and those of its parts. A client that does not
/// repeat its SSRCs still has them, and what it once told of its parameter sets stands.
pub(super) fn stream_of(
    section: &Section,
    verdict: &Verdict,
    peer: PeerId,
    (stream, place): (StreamId, Option<Place>),
    before: Option<&(StreamOpen, Vec<Command>)>,
) -> (StreamOpen, Vec<Command>) {
    if let Some(place) = place {
        return encoding_of(section, verdict, peer, stream, place);
    }
    let codec = &verdict.codecs[0];
    let known = before.filter(|_| section.ssrcs.primary.is_none());
    let (ssrc, rtx_ssrc) = match known {
        Some((before, _)) => (before.ssrc, before.rtx_ssrc),
        None => (section.ssrcs.primary.unwrap_or(0), section.ssrcs.rtx.unwrap_or(0)),
    };
    let open = StreamOpen {
        stream,
        peer,
        ssrc,
        rtx_ssrc,
        mid: section.mid,
        pt: codec.pt,
        rtx_pt: codec.rtx_pt.unwrap_or(0),
        codec: codec.codec,
        feedback: codec.feedback,
        red_pt: codec.red_pt.unwrap_or(0),
    };
    let second = verdict.formats().1;
    let second = second.map(|Format { codec, pt, rtx_pt }| StreamCodec { stream, codec, pt, rtx_pt }.into());
    let parts = second.into_iter().chain(encodings_of(section, stream, known)).chain(sets_of(verdict, stream, before));
    (open, parts.collect())
}

/// One encoding of a section's track. Its packets say whose they are by RID, so SSRCs that the client tells mean nothing, and its
/// parameter sets would be of one encoding, nobody knows of which.
fn encoding_of(
    section: &Section,
    verdict: &Verdict,
    peer: PeerId,
    stream: StreamId,
    Place { track, place }: Place,
) -> (StreamOpen, Vec<Command>) {
    let codec = &verdict.codecs[0];
    // Retransmissions that do not say whose they are would be asked for in vain.
    let has_rtx = section.names_repairs();
    let rtx_pt = |rtx_pt: Pt| if has_rtx { rtx_pt } else { 0 };
    let feedback = if has_rtx { codec.feedback } else { codec.feedback & !feedback::NACK };
    let open = StreamOpen {
        stream,
        peer,
        ssrc: 0,
        rtx_ssrc: 0,
        mid: section.mid,
        pt: codec.pt,
        rtx_pt: rtx_pt(codec.rtx_pt.unwrap_or(0)),
        codec: codec.codec,
        feedback,
        red_pt: 0,
    };
    let second = verdict.formats().1;
    let second =
        second.map(|second| StreamCodec { stream, codec: second.codec, pt: second.pt, rtx_pt: rtx_pt(second.rtx_pt) });
    let encoding = StreamEncoding { stream, track, place: place as u8, rid: verdict.encodings[place] };
    (open, second.map(Command::from).into_iter().chain([encoding.into()]).collect())
}

/// The SSRCs of a stream.
pub(super) fn ssrcs_of((open, parts): &(StreamOpen, Vec<Command>)) -> Vec<Ssrc> {
    let mut ssrcs = vec![open.ssrc, open.rtx_ssrc];
    for part in parts {
        if let Command::StreamEncodings(encodings) = part {
            ssrcs.extend(encodings.ssrcs.iter().chain(&encodings.rtx_ssrcs));
        }
    }
    ssrcs.retain(|ssrc| *ssrc != 0);
    ssrcs
}

/// How many SSRCs a new stream may take of those of a peer's life: its own and that of RTX, known or not, and those of its
/// other encodings.
pub(super) fn ssrcs_spent(section: &Section, verdict: &Verdict) -> usize {
    if !verdict.encodings.is_empty() {
        return 2 * verdict.encodings.len();
    }
    let others = section.ssrcs.others.into_iter().flat_map(|(media, rtx)| [media, rtx]);
    2 + others.filter(|ssrc| *ssrc != 0).count()
}

/// The other encodings of a section's stream.
fn encodings_of(section: &Section, stream: StreamId, known: Option<&(StreamOpen, Vec<Command>)>) -> Option<Command> {
    let is_it = |part: &Command| matches!(part, Command::StreamEncodings(_));
    let (ssrcs, rtx_ssrcs) = match known.and_then(|(_, parts)| parts.iter().copied().find(is_it)) {
        Some(Command::StreamEncodings(known)) => (known.ssrcs, known.rtx_ssrcs),
        _ => (section.ssrcs.others.map(|(media, _)| media), section.ssrcs.others.map(|(_, rtx)| rtx)),
    };
    ssrcs.iter().any(|ssrc| *ssrc != 0).then_some(StreamEncodings { stream, ssrcs, rtx_ssrcs }.into())
}

/// The parameter sets of a section's stream, in parts.
fn sets_of(verdict: &Verdict, stream: StreamId, before: Option<&(StreamOpen, Vec<Command>)>) -> Vec<Command> {
    if let Some((_, parts)) = before {
        let known = parts.iter().filter_map(|part| match part {
            Command::StreamSets(sets) => Some(StreamSets { stream, ..*sets }.into()),
            _ => None,
        });
        return known.collect();
    }
    let sets = verdict.codecs.iter().flat_map(|codec| &codec.parameter_sets);
    let bytes: Vec<u8> = sets.flat_map(|set| std::iter::once(set.len() as u8).chain(set.iter().copied())).collect();
    let part = |(part, of_part): (usize, &[u8])| {
        let mut bytes = [0; STREAM_SETS_PART_LEN];
        bytes[..of_part.len()].copy_from_slice(of_part);
        StreamSets { stream, part: part as u8, len: of_part.len() as u8, bytes }.into()
    };
    bytes.chunks(STREAM_SETS_PART_LEN).enumerate().map(part).collect()
}
