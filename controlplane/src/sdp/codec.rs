//! Payload types of an m-section: `rtpmap`, `fmtp` and `rtcp-fb` lines become the codecs that uprtc serves, and those
//! to answer with are chosen.

use std::collections::BTreeMap;

use proto::id::Pt;
use proto::plane::{Codec, Extension, feedback};

use super::{Av1Params, H264Params, OfferedCodec, OpusParams, Section, SectionKind, sprop};

/// The codec lines of one m-section as they come, keyed by payload type (at most 128 of each).
#[derive(Default)]
pub(super) struct CodecLines<'a> {
    /// Payload types of the m-line, in the client's order of preference.
    pub(super) formats: Vec<Pt>,
    rtpmaps: BTreeMap<Pt, &'a str>,
    fmtps: BTreeMap<Pt, &'a str>,
    /// Offered `rtcp-fb` of each payload type, as bits of [`feedback`].
    feedback: BTreeMap<Pt, u8>,
    feedback_for_all: u8,
    /// `ptime` and `maxptime` of the section.
    pub(super) ptime: Option<&'a str>,
    pub(super) maxptime: Option<&'a str>,
}

impl<'a> CodecLines<'a> {
    /// `rtpmap:<pt> <name>/<clock>[/<channels>]`
    pub(super) fn rtpmap(&mut self, value: &'a str) {
        if let Some((pt, encoding)) = split_pt(value) {
            self.rtpmaps.entry(pt).or_insert(encoding);
        }
    }

    /// `fmtp:<pt> <parameters>`
    pub(super) fn fmtp(&mut self, value: &'a str) {
        if let Some((pt, parameters)) = split_pt(value) {
            self.fmtps.entry(pt).or_insert(parameters);
        }
    }

    /// `rtcp-fb:<pt or *> <kind> [<detail>]` (RFC 4585 §4.2). Payload types outside the m-line are kept and never asked
    /// for: Firefox writes such lines.
    pub(super) fn rtcp_fb(&mut self, value: &'a str) {
        let Some((target, kind)) = value.split_once(' ') else { return };
        let entry = match (target, parse_pt(target)) {
            ("*", _) => &mut self.feedback_for_all,
            (_, Some(pt)) => self.feedback.entry(pt).or_default(),
            (_, None) => return,
        };
        *entry |= match kind.trim() {
            "nack" => feedback::NACK,
            "nack pli" => feedback::PLI,
            "ccm fir" => feedback::FIR,
            "transport-cc" => feedback::TRANSPORT_CC,
            "goog-remb" => feedback::REMB,
            _ => 0,
        };
    }

    /// The codecs that uprtc serves in an m-section of this kind, in the client's order.
    pub(super) fn assemble(&self, kind: SectionKind) -> Vec<OfferedCodec> {
        let rtx_pts = self.rtx_pts();
        let mut codecs: Vec<OfferedCodec> = Vec::new();
        for &pt in &self.formats {
            if is_rtcp_like(pt) {
                continue;
            }
            let Some(codec) = self.codec_of(pt, kind) else { continue };
            let h264 = if codec == Codec::H264 { self.h264_params(pt) } else { None };
            if codec == Codec::H264 && h264.is_none() {
                continue; // Of a form that is none of RFC 6184.
            }
            let sprop = self.parameter(pt, "sprop-parameter-sets").filter(|_| codec == Codec::H264);
            let av1 = if codec == Codec::Av1 { self.av1_params(pt) } else { None };
            let offered = self.feedback.get(&pt).copied().unwrap_or_default();
            codecs.push(OfferedCodec {
                codec,
                pt,
                rtx_pt: rtx_pts[usize::from(pt)],
                red_pt: if codec == Codec::Opus { self.red_pt(pt) } else { None },
                h264,
                av1,
                opus: (codec == Codec::Opus).then(|| self.opus_params(pt)),
                parameter_sets: sprop.map(sprop::parameter_sets).unwrap_or_default(),
                feedback: (offered | self.feedback_for_all) & feedback_served(codec),
            });
        }
        codecs
    }

    fn codec_of(&self, pt: Pt, kind: SectionKind) -> Option<Codec> {
        let mut encoding = self.rtpmaps.get(&pt)?.trim_end().split('/');
        let (name, clock, channels) = (encoding.next()?, encoding.next()?, encoding.next());
        match kind {
            // RFC 7587 §7: always `opus/48000/2`, whatever is sent. GStreamer writes the name in capitals, and leaves the
            // channels out when it offers before its encoder has run.
            SectionKind::Audio => {
                let is_opus = name.eq_ignore_ascii_case("opus") && clock == "48000";
                (is_opus && matches!(channels, None | Some("2"))).then_some(Codec::Opus)
            }
            SectionKind::Video if clock != "90000" => None,
            SectionKind::Video if name.eq_ignore_ascii_case("H264") => Some(Codec::H264),
            SectionKind::Video if name.eq_ignore_ascii_case("VP8") => Some(Codec::Vp8),
            // Of VP9 and AV1 the main profiles alone, which are what everybody who has them decodes.
            SectionKind::Video if name.eq_ignore_ascii_case("VP9") => {
                (self.parameter(pt, "profile-id").unwrap_or("0") == "0").then_some(Codec::Vp9)
            }
            SectionKind::Video if name.eq_ignore_ascii_case("AV1") => self.av1_params(pt).map(|_| Codec::Av1),
            SectionKind::Video => None,
            SectionKind::Application | SectionKind::Other => None,
        }
    }

    /// For each payload type the one that retransmits it: `rtx` whose `apt` it is (RFC 4588 §8.6).
    fn rtx_pts(&self) -> [Option<Pt>; 128] {
        let mut rtx_pts = [None; 128];
        for &rtx in self.formats.iter().filter(|rtx| !is_rtcp_like(**rtx)) {
            let name = self.rtpmaps.get(&rtx).and_then(|encoding| encoding.split('/').next());
            if !name.is_some_and(|name| name.eq_ignore_ascii_case("rtx")) {
                continue;
            }
            let apt = self.parameter(rtx, "apt").and_then(parse_pt);
            if let Some(apt) = apt {
                rtx_pts[usize::from(apt)].get_or_insert(rtx);
            }
        }
        rtx_pts
    }

    /// The payload type of RED (RFC 2198 §5) all of whose blocks are of this one, two at least.
    fn red_pt(&self, pt: Pt) -> Option<Pt> {
        let is_red = |red: &&Pt| {
            let mut encoding = self.rtpmaps.get(*red).into_iter().flat_map(|encoding| encoding.trim_end().split('/'));
            let is_named = encoding.next().is_some_and(|name| name.eq_ignore_ascii_case("red"));
            let blocks: Vec<Option<Pt>> =
                self.fmtps.get(*red).into_iter().flat_map(|blocks| blocks.trim().split('/')).map(parse_pt).collect();
            let is_of_it = blocks.len() > 1 && blocks.iter().all(|block| *block == Some(pt));
            is_named && encoding.next() == Some("48000") && is_of_it && !is_rtcp_like(**red)
        };
        self.formats.iter().find(is_red).copied()
    }

    /// A format parameter of a payload type.
    fn parameter(&self, pt: Pt, name: &str) -> Option<&'a str> {
        self.fmtps.get(&pt).and_then(|parameters| parameter(parameters, name))
    }

    /// Opus' parameters. Some clients write the packet times among them instead of as attributes.
    fn opus_params(&self, pt: Pt) -> OpusParams {
        OpusParams::read(|name| match name {
            "ptime" => self.ptime.or_else(|| self.parameter(pt, name)),
            "maxptime" => self.maxptime.or_else(|| self.parameter(pt, name)),
            name => self.parameter(pt, name),
        })
    }

    /// AV1's parameters, with the defaults of its payload format where they are absent; `None` beyond the main profile.
    fn av1_params(&self, pt: Pt) -> Option<Av1Params> {
        let number = |name, default: u8, max: u8| match self.parameter(pt, name) {
            None => Some(default),
            Some(text) => text.parse().ok().filter(|value| *value <= max),
        };
        number("profile", 0, 0)?;
        Some(Av1Params { level_idx: number("level-idx", 5, 31)?, tier: number("tier", 0, 1)? })
    }

    /// H.264's parameters, with the defaults of RFC 6184 §8.1 where they are absent; `None` if they cannot be read.
    fn h264_params(&self, pt: Pt) -> Option<H264Params> {
        const BASELINE_LEVEL_1: [u8; 3] = [0x42, 0x00, 0x0a];
        let profile_level_id = match self.parameter(pt, "profile-level-id") {
            None => BASELINE_LEVEL_1,
            Some(text) => parse_profile_level_id(text)?,
        };
        let packetization_mode = match self.parameter(pt, "packetization-mode") {
            None | Some("0") => 0,
            Some("1") => 1,
            Some(_) => return None, // 2 is interleaved, which is not served.
        };
        let level_asymmetry_allowed = self.parameter(pt, "level-asymmetry-allowed") == Some("1");
        Some(H264Params { profile_level_id, packetization_mode, level_asymmetry_allowed })
    }
}

/// What feedback uprtc gives or takes for a codec.
const fn feedback_served(codec: Codec) -> u8 {
    use feedback::{FIR, NACK, PLI, REMB, TRANSPORT_CC};
    if codec.is_video() { NACK | PLI | FIR | TRANSPORT_CC | REMB } else { NACK | TRANSPORT_CC }
}

/// Adds NACK of audio where it is not offered, but the client is one that uses it if it is answered: libwebrtc answers NACKs of audio
/// always, and sends them if the other side says that it takes them, and offers neither (docs/decisions/0048). Such an offer has
/// transport-cc for Opus, and video in the same BUNDLE group with both `nack` and `goog-remb`.
pub(super) fn add_audio_nack(sections: &mut [Section]) {
    const LIBWEBRTC: u8 = feedback::NACK | feedback::REMB;
    let of_group = |section: &&Section| section.is_bundled;
    let mut offered = sections.iter().filter(of_group).flat_map(|section| &section.codecs);
    if !offered.any(|codec| codec.codec.is_video() && codec.feedback & LIBWEBRTC == LIBWEBRTC) {
        return;
    }
    let bundled = sections.iter_mut().filter(|section| section.is_bundled);
    for codec in bundled.flat_map(|section| &mut section.codecs).filter(|codec| !codec.codec.is_video()) {
        if codec.feedback & feedback::TRANSPORT_CC != 0 {
            codec.feedback |= feedback::NACK;
        }
    }
}

/// Leaves a section one of the two kinds of feedback on bandwidth: transport-cc, which needs its header extension, or else
/// REMB.
pub(super) fn choose_estimate(section: &mut Section) {
    let has_extension = section.extensions.iter().any(|offered| offered.extension == Extension::TransportCc);
    for codec in &mut section.codecs {
        let is_counted = has_extension && codec.feedback & feedback::TRANSPORT_CC != 0;
        codec.feedback &= if is_counted { !feedback::REMB } else { !feedback::TRANSPORT_CC };
    }
}

/// 64 to 95 with the marker bit are RTCP packet types on a muxed port (RFC 5761 §4).
const fn is_rtcp_like(pt: Pt) -> bool {
    matches!(pt, 64..=95)
}

pub(super) fn parse_pt(text: &str) -> Option<Pt> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&pt: &Pt| is_number && pt < 128)
}

fn split_pt(value: &str) -> Option<(Pt, &str)> {
    let (pt, rest) = value.split_once(' ')?;
    Some((parse_pt(pt)?, rest))
}

/// The value of a format parameter: `name=value` pairs with semicolons and optional spaces between them.
fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(n, value)| n.eq_ignore_ascii_case(name).then_some(value))
}

fn parse_profile_level_id(text: &str) -> Option<[u8; 3]> {
    let is_hex = text.len() == 6 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let value = u32::from_str_radix(text, 16).ok().filter(|_| is_hex)?;
    let [_, profile, iop, level] = value.to_be_bytes();
    Some([profile, iop, level])
}

/// The best of all codecs that uprtc knows, or `None` if no room could serve the section: stopped by the client, outside
/// the BUNDLE group, without rtcp-mux, or without such a codec.
pub fn choose_codec(section: &Section) -> Option<&OfferedCodec> {
    choose_codecs(section, &[Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1]).into_iter().next()
}

/// The codecs that an m-section is answered with, the best first: Opus, or those of video that the room uses, in its order
/// and each in one form. The client sends in the first until a signal tells it otherwise.
///
/// Everybody in a room should be able to decode what anybody sends, so H.264 is chosen by our order rather than the
/// client's: packetization-mode 1 before 0, and within it constrained baseline (42e0), baseline (4200), main
/// (4d00), high (64). Between equals the client's order decides.
pub fn choose_codecs<'a>(section: &'a Section, videos: &[Codec]) -> Vec<&'a OfferedCodec> {
    if !section.is_served() {
        return Vec::new();
    }
    let best = |wanted: &Codec| {
        let of_codec = section.codecs.iter().filter(|offered| offered.codec == *wanted && rank(offered).is_some());
        of_codec.min_by_key(|offered| rank(offered))
    };
    std::iter::once(&Codec::Opus).chain(videos).filter_map(best).collect()
}

/// Smaller is better; `None` is never chosen: interleaved packetization, and profiles beyond High, which hardware
/// decoders lack.
fn rank(codec: &OfferedCodec) -> Option<(u8, u8)> {
    let Some(h264) = codec.h264 else { return Some((0, 0)) };
    let mode = match h264.packetization_mode {
        1 => 0,
        0 => 1,
        _ => return None,
    };
    let [profile, iop, _] = h264.profile_level_id;
    // RFC 6184 §8.1, table 5: constraint_set1 makes a baseline stream a main one too, hence constrained.
    let profile = match (profile, iop & 0x40 != 0) {
        (0x42, true) => 0,
        (0x42, false) => 1,
        (0x4d, _) => 2,
        (0x64, _) => 3,
        _ => return None,
    };
    Some((mode, profile))
}

impl Section {
    /// Whether the section could be answered, were there a codec.
    pub(super) fn is_served(&self) -> bool {
        let is_rtp = matches!(self.kind, SectionKind::Audio | SectionKind::Video);
        is_rtp && !self.is_rejected && self.is_bundled && self.is_rtcp_muxed && is_secure_rtp(&self.protocol)
    }
}

/// Profiles of DTLS-SRTP, and the older names that JSEP asks to take for it (RFC 8829 §5.1.2).
fn is_secure_rtp(protocol: &str) -> bool {
    matches!(
        protocol,
        "UDP/TLS/RTP/SAVPF"
            | "UDP/TLS/RTP/SAVP"
            | "TCP/DTLS/RTP/SAVPF"
            | "TCP/DTLS/RTP/SAVP"
            | "RTP/SAVPF"
            | "RTP/SAVP"
    )
}
