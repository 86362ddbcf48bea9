//! Writing our answer: ICE-lite, one BUNDLE transport, and in each m-section its codecs or none.

use std::fmt::Write;

use proto::id::{Rid, Ssrc};
use proto::plane::{Codec, Extension, feedback};
use proto::signal::MESSAGE_LEN_MAX;

use super::{Av1Params, Direction, Fingerprint, IceCredentials, Offer, OfferedCodec, Section, SectionKind, Setup};

/// Our port of SCTP, of which there is one on a transport: what all clients use, too.
pub const SCTP_PORT: u16 = 5000;

/// Our part of the answer: everything that does not follow from the offer.
#[derive(Clone, Debug)]
pub struct AnswerParams<'a> {
    /// `sess-id` of the `o=` line; at most 63 bits are used (RFC 8829 §5.2.1).
    pub session_id: u64,
    /// `sess-version`: 1 in the first answer, and one more in each after it (RFC 3264 §8).
    pub version: u32,
    /// The credentials issued to this peer.
    pub ice: IceCredentials,
    /// Hash of our certificate.
    pub fingerprint: &'a Fingerprint,
    /// [`Setup::answered`] of the offer's.
    pub setup: Setup,
    /// Our candidates, `candidate:…`, all that will ever be.
    pub candidates: &'a [String],
    /// One for each section of the offer, in its order.
    pub sections: Vec<AnswerSection<'a>>,
}

/// What becomes of one m-section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AnswerSection<'a> {
    /// Not served: port 0. For what cannot be served, not for what is not allowed: Chromium with `max-bundle` takes no
    /// answer that rejects the first section of its BUNDLE group ("Failed to setup RTCP mux").
    Rejected,
    /// Data channels.
    Data,
    /// Kept, but nothing flows: what the token does not allow, or what the client offers as inactive.
    Inactive {
        /// The codecs that would be used, at least one, the best first. So in the other variants.
        codecs: Vec<&'a OfferedCodec>,
        /// A slot that the client does not want to receive through now.
        paused: Option<SlotDescription>,
    },
    /// The client sends.
    Receive {
        /// In the first of these codecs, or in another when it is told to.
        codecs: Vec<&'a OfferedCodec>,
        /// In these encodings, or in one if there are none. They are of those that it offers.
        encodings: &'a [Rid],
        /// As above.
        paused: Option<SlotDescription>,
    },
    /// We send through a slot.
    Send {
        /// In any of these codecs.
        codecs: Vec<&'a OfferedCodec>,
        /// The slot.
        slot: SlotDescription,
    },
    /// Both: the section is a track of the client's and a slot at once.
    Both {
        /// In these codecs, both ways.
        codecs: Vec<&'a OfferedCodec>,
        /// As above.
        encodings: &'a [Rid],
        /// The slot.
        slot: SlotDescription,
    },
}

/// What the client is told of a slot. The strings are ours: tokens without spaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlotDescription {
    /// Its SSRC for the life of the call.
    pub ssrc: Ssrc,
    /// SSRC of its retransmissions; written only if a codec has an RTX payload type.
    pub rtx_ssrc: Option<Ssrc>,
    /// Canonical name of the sender (RFC 3550 §6.5.1). Streams of one name may be synchronised.
    pub cname: String,
    /// MediaStream id (RFC 8830): slots that share it are played in lip sync.
    pub msid_stream: String,
    /// MediaStreamTrack id.
    pub msid_track: String,
}

impl AnswerSection<'_> {
    /// Of a rejected section and of data none, of any other at least one.
    fn codecs(&self) -> &[&OfferedCodec] {
        match self {
            AnswerSection::Rejected | AnswerSection::Data => &[],
            AnswerSection::Inactive { codecs, .. }
            | AnswerSection::Receive { codecs, .. }
            | AnswerSection::Send { codecs, .. }
            | AnswerSection::Both { codecs, .. } => codecs,
        }
    }

    fn slot(&self) -> Option<&SlotDescription> {
        match self {
            AnswerSection::Send { slot, .. } | AnswerSection::Both { slot, .. } => Some(slot),
            AnswerSection::Inactive { paused, .. } | AnswerSection::Receive { paused, .. } => paused.as_ref(),
            AnswerSection::Rejected | AnswerSection::Data => None,
        }
    }

    fn encodings(&self) -> &[Rid] {
        match self {
            AnswerSection::Receive { encodings, .. } | AnswerSection::Both { encodings, .. } => encodings,
            _ => &[],
        }
    }

    /// Seen from us.
    fn direction(&self) -> Direction {
        match self {
            AnswerSection::Rejected | AnswerSection::Data | AnswerSection::Inactive { .. } => Direction::Inactive,
            AnswerSection::Receive { .. } => Direction::RecvOnly,
            AnswerSection::Send { .. } => Direction::SendOnly,
            AnswerSection::Both { .. } => Direction::SendRecv,
        }
    }
}

/// Header extensions that are answered when offered. Those of RIDs are besides, in sections with several encodings.
const EXTENSIONS_ANSWERED: [Extension; 9] = [
    Extension::Mid,
    Extension::AbsSendTime,
    Extension::TransportCc,
    Extension::AudioLevel,
    Extension::PlayoutDelay,
    Extension::AbsCaptureTime,
    Extension::VideoOrientation,
    Extension::DependencyDescriptor,
    Extension::VideoLayersAllocation,
];

/// Writes the answer to `offer`.
///
/// # Panics
/// If `params` does not fit the offer: another number of sections, media in a direction that was not offered, or an
/// accepted section outside the BUNDLE group. That would be a mistake of ours, not of the client.
pub fn write_answer(offer: &Offer, params: &AnswerParams<'_>) -> String {
    check(offer, params);
    let mut out = String::with_capacity(1024 + 768 * offer.sections.len());
    // Writing into a String cannot fail.
    write_session(&mut out, offer, params).expect("a String takes everything");
    for (section, answer) in offer.sections.iter().zip(&params.sections) {
        match answer {
            AnswerSection::Rejected => write_rejected(&mut out, section),
            AnswerSection::Data => write_data(&mut out, section, params),
            answered => write_section(&mut out, section, answered, params),
        }
        .expect("a String takes everything");
    }
    out
}

fn check(offer: &Offer, params: &AnswerParams<'_>) {
    assert_eq!(offer.sections.len(), params.sections.len(), "an answer has as many m-sections as its offer");
    for (i, (section, answer)) in offer.sections.iter().zip(&params.sections).enumerate() {
        let (offered, ours) = (section.direction, answer.direction());
        if *answer == AnswerSection::Data {
            assert!(section.has_data_channels(), "m-section {i} is not one of data channels");
            continue;
        }
        let is_rejected = *answer == AnswerSection::Rejected;
        assert!(is_rejected || section.is_served(), "m-section {i} cannot be accepted");
        assert_eq!(is_rejected, answer.codecs().is_empty(), "m-section {i} is accepted in no codec");
        assert!(!ours.may_send() || offered.may_receive(), "the client did not offer to receive in m-section {i}");
        assert!(!ours.may_receive() || offered.may_send(), "the client did not offer to send in m-section {i}");
    }
}

/// Positions of the accepted sections in the order of the BUNDLE group (RFC 9143 §7.3.1: the first is the answerer-tagged
/// one).
fn accepted<'a>(offer: &'a Offer, params: &'a AnswerParams<'_>) -> impl Iterator<Item = usize> + 'a {
    offer.bundle.iter().copied().filter(|&i| params.sections[i] != AnswerSection::Rejected)
}

fn write_session(out: &mut String, offer: &Offer, params: &AnswerParams<'_>) -> std::fmt::Result {
    write!(out, "v=0\r\no=- {} {} IN IP4 ", params.session_id >> 1, params.version)?;
    write!(out, "127.0.0.1\r\ns=-\r\nt=0 0\r\n")?;
    write!(out, "a=ice-lite\r\n")?;
    if offer.has_bundle_group {
        write!(out, "a=group:BUNDLE")?;
        for i in accepted(offer, params) {
            write!(out, " {}", offer.sections[i].mid.as_str())?;
        }
        write!(out, "\r\n")?;
    }
    write!(out, "a=ice-options:trickle\r\na=msid-semantic: WMS *\r\n")?;
    // RFC 8285 §6: from then on a sender may use the two-byte form where a value needs it.
    let is_long = |extension: Extension| offer.extensions[extension as usize] != 0;
    match is_long(Extension::DependencyDescriptor) || is_long(Extension::VideoLayersAllocation) {
        false => Ok(()),
        true => write!(out, "a=extmap-allow-mixed\r\n"),
    }
}

/// Port 0, one of the offered formats, and the MID (RFC 3264 §6).
fn write_rejected(out: &mut String, section: &Section) -> std::fmt::Result {
    write!(out, "m={} 0 {} {}\r\nc=IN IP4 0.0.0.0\r\n", section.media, section.protocol, section.format)?;
    write_mid(out, section)?;
    match section.kind {
        SectionKind::Audio | SectionKind::Video => write!(out, "a=inactive\r\n"),
        SectionKind::Application | SectionKind::Other => Ok(()),
    }
}

/// Data channels (RFC 8841 §5, §6, §10): no direction, and neither RTP nor RTCP.
fn write_data(out: &mut String, section: &Section, params: &AnswerParams<'_>) -> std::fmt::Result {
    write!(out, "m={} 9 {} {}\r\nc=IN IP4 0.0.0.0\r\n", section.media, section.protocol, section.format)?;
    write_mid(out, section)?;
    write_transport(out, params)?;
    write!(out, "a=sctp-port:{SCTP_PORT}\r\na=max-message-size:{MESSAGE_LEN_MAX}\r\n")
}

fn write_mid(out: &mut String, section: &Section) -> std::fmt::Result {
    match section.mid.is_empty() {
        true => Ok(()),
        false => write!(out, "a=mid:{}\r\n", section.mid.as_str()),
    }
}

fn write_section(
    out: &mut String,
    section: &Section,
    answer: &AnswerSection<'_>,
    params: &AnswerParams<'_>,
) -> std::fmt::Result {
    let codecs = answer.codecs();
    write!(out, "m={} 9 {}", section.media, section.protocol)?;
    for pt in codecs.iter().flat_map(|codec| std::iter::once(codec.pt).chain(codec.rtx_pt).chain(codec.red_pt)) {
        write!(out, " {pt}")?;
    }
    write!(out, "\r\nc=IN IP4 0.0.0.0\r\n")?;
    write_mid(out, section)?;
    write!(out, "a={}\r\n", answer.direction().as_str())?;
    write_transport(out, params)?;
    write!(out, "a=rtcp-mux\r\n")?;
    if section.is_rtcp_reduced {
        write!(out, "a=rtcp-rsize\r\n")?;
    }
    write_extensions(out, section, !answer.encodings().is_empty())?;
    for codec in codecs {
        write_codec(out, codec, answer.direction())?;
    }
    write_encodings(out, answer.encodings())?;
    if let Some(opus) = codecs.iter().find_map(|codec| codec.opus) {
        opus.write_packet_times(out)?;
    }
    let has_rtx = codecs.iter().any(|codec| codec.rtx_pt.is_some());
    let Some(slot) = answer.slot() else { return Ok(()) };
    if answer.direction().may_send() {
        write!(out, "a=msid:{} {}\r\n", slot.msid_stream, slot.msid_track)?;
    }
    write_ssrcs(out, slot, has_rtx)
}

/// In each accepted section, as browsers do, although RFC 9143 §7.1.3 wants it in the tagged one alone: stacks exist
/// that look nowhere else than in the section at hand. So with the candidates: aiortc looks for those of a bundle in its
/// last section.
fn write_transport(out: &mut String, params: &AnswerParams<'_>) -> std::fmt::Result {
    write!(out, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\n", params.ice.ufrag, params.ice.pwd)?;
    write!(out, "a=fingerprint:{} ", params.fingerprint.algorithm)?;
    for (i, byte) in params.fingerprint.bytes.iter().enumerate() {
        write!(out, "{}{byte:02X}", if i == 0 { "" } else { ":" })?;
    }
    write!(out, "\r\na=setup:{}\r\n", params.setup.as_str())?;
    for candidate in params.candidates {
        write!(out, "a={candidate}\r\n")?;
    }
    write!(out, "a=end-of-candidates\r\n")
}

/// With the client's ids; an extension that it only sends is one that we only receive (RFC 8285 §5).
fn write_extensions(out: &mut String, section: &Section, has_rids: bool) -> std::fmt::Result {
    let is_of_rids = |extension| has_rids && [Extension::Rid, Extension::RepairedRid].contains(&extension);
    let is_answered = |extension| EXTENSIONS_ANSWERED.contains(&extension) || is_of_rids(extension);
    for extension in section.extensions.iter().filter(|offered| is_answered(offered.extension)) {
        write!(out, "a=extmap:{}", extension.id)?;
        if extension.direction != Direction::SendRecv {
            write!(out, "/{}", extension.direction.reversed().as_str())?;
        }
        write!(out, " {}\r\n", extension.extension.uri())?;
    }
    Ok(())
}

/// The encodings that the client may send (RFC 8853 §5.3.2). None is paused, also if the client offers it so: browsers never send
/// one again that an answer has paused.
fn write_encodings(out: &mut String, encodings: &[Rid]) -> std::fmt::Result {
    for rid in encodings {
        write!(out, "a=rid:{} recv\r\n", rid.as_str())?;
    }
    match encodings {
        [] => Ok(()),
        rids => write!(out, "a=simulcast:recv {}\r\n", rids.iter().map(Rid::as_str).collect::<Vec<_>>().join(";")),
    }
}

fn write_codec(out: &mut String, codec: &OfferedCodec, direction: Direction) -> std::fmt::Result {
    let pt = codec.pt;
    match codec.codec {
        Codec::Opus => write!(out, "a=rtpmap:{pt} opus/48000/2\r\n")?,
        Codec::H264 => write!(out, "a=rtpmap:{pt} H264/90000\r\n")?,
        Codec::Vp8 => write!(out, "a=rtpmap:{pt} VP8/90000\r\n")?,
        Codec::Vp9 => write!(out, "a=rtpmap:{pt} VP9/90000\r\n")?,
        Codec::Av1 => write!(out, "a=rtpmap:{pt} AV1/90000\r\n")?,
    }
    write_feedback(out, codec, direction)?;
    write_format(out, codec)?;
    if let Some(red_pt) = codec.red_pt {
        write!(out, "a=rtpmap:{red_pt} red/48000/2\r\na=fmtp:{red_pt} {pt}/{pt}\r\n")?;
    }
    match codec.rtx_pt {
        None => Ok(()),
        Some(rtx_pt) => write!(out, "a=rtpmap:{rtx_pt} rtx/90000\r\na=fmtp:{rtx_pt} apt={pt}\r\n"),
    }
}

/// Format parameters. Those of Opus are what is wanted of the client ([`super::OpusParams`]), the others are as they were offered: profiles are used symmetrically, and what a client says of levels it may hear.
fn write_format(out: &mut String, codec: &OfferedCodec) -> std::fmt::Result {
    let pt = codec.pt;
    match codec.codec {
        Codec::Opus => write!(out, "a=fmtp:{pt} {}\r\n", codec.opus.unwrap_or_default()),
        // RFC 6184 §8.2.2: profile and packetization mode are used symmetrically; the level may differ only if both
        // allow it, and repeating the offered one is right in either case.
        Codec::H264 => codec.h264.map_or(Ok(()), |h264| {
            let [profile, iop, level] = h264.profile_level_id;
            let asymmetry = u8::from(h264.level_asymmetry_allowed);
            write!(out, "a=fmtp:{pt} level-asymmetry-allowed={asymmetry};")?;
            write!(out, "packetization-mode={};", h264.packetization_mode)?;
            write!(out, "profile-level-id={profile:02x}{iop:02x}{level:02x}\r\n")
        }),
        // VP8 is decoded in any size and rate that the bandwidth allows.
        Codec::Vp8 => Ok(()),
        Codec::Vp9 => write!(out, "a=fmtp:{pt} profile-id=0\r\n"),
        Codec::Av1 => codec.av1.map_or(Ok(()), |Av1Params { level_idx, tier }| {
            write!(out, "a=fmtp:{pt} level-idx={level_idx};profile=0;tier={tier}\r\n")
        }),
    }
}

fn write_feedback(out: &mut String, codec: &OfferedCodec, direction: Direction) -> std::fmt::Result {
    let pt = codec.pt;
    let has = |bit| codec.feedback & bit != 0;
    if has(feedback::TRANSPORT_CC) {
        write!(out, "a=rtcp-fb:{pt} transport-cc\r\n")?;
    }
    if has(feedback::REMB) {
        write!(out, "a=rtcp-fb:{pt} goog-remb\r\n")?;
    }
    if has(feedback::FIR) {
        write!(out, "a=rtcp-fb:{pt} ccm fir\r\n")?;
    }
    // Losses of video on our way to a client are repaired by RTX alone: without it, asking again would be in vain.
    let is_repaired = codec.repair_pt() != 0;
    if has(feedback::NACK) && (is_repaired || !direction.may_send()) {
        write!(out, "a=rtcp-fb:{pt} nack\r\n")?;
    }
    if has(feedback::PLI) {
        write!(out, "a=rtcp-fb:{pt} nack pli\r\n")?;
    }
    Ok(())
}

/// Of a slot that rests too: a client that forgot its SSRCs would forget how far their packet index is, and could not
/// tell the packets that come when the slot is wanted again.
fn write_ssrcs(out: &mut String, slot: &SlotDescription, has_rtx: bool) -> std::fmt::Result {
    let rtx_ssrc = slot.rtx_ssrc.filter(|_| has_rtx);
    if let Some(rtx_ssrc) = rtx_ssrc {
        write!(out, "a=ssrc-group:FID {} {rtx_ssrc}\r\n", slot.ssrc)?;
    }
    for ssrc in std::iter::once(slot.ssrc).chain(rtx_ssrc) {
        write!(out, "a=ssrc:{ssrc} cname:{}\r\n", slot.cname)?;
    }
    Ok(())
}
