//! SDP (RFC 8866) as WebRTC uses it (RFC 8829, JSEP): the one offer of a client in, our one answer out.
//!
//! A call meets this after the signalling socket and before the engine gives out ids: [`parse_offer`] turns the text
//! into an [`Offer`] that holds only what uprtc can act on, [`choose_codecs`] says what each m-section would carry, the
//! engine decides who may send and receive, and [`write_answer`] writes that down. Everything is a pure function
//! of its arguments.
//!
//! What is served: RTP over one BUNDLE transport (RFC 9143) with rtcp-mux, Opus, and H.264, VP8, VP9 and AV1 with RTX, of which
//! a room uses one or two. What else stands
//! in an offer is not an error but is answered by a rejected m-section (port 0) or left out: other codecs and
//! FEC, simulcast beyond what [`choose_encodings`] takes, m-sections outside the BUNDLE group. The first `m=application` of data
//! channels (RFC 8841) is served on the same transport.
//!
//! Text from a client is never copied into an answer but for MIDs, protocols and format numbers, whose alphabets
//! are checked.

mod answer;
mod codec;
mod fragment;
mod offered;
mod opus;
mod parse;
mod simulcast;
mod sprop;

#[cfg(test)]
mod tests;

use std::fmt;

use proto::id::{Mid, Pt, Rid, Ssrc};
use proto::plane::{Codec, Extension, ExtensionIds, STREAM_ENCODINGS_MAX, feedback};

pub use answer::{AnswerParams, AnswerSection, SCTP_PORT, SlotDescription, write_answer};
pub use codec::{choose_codec, choose_codecs};
pub use fragment::{Fragment, parse_fragment, write_fragment};
pub use offered::codec_names;
pub use opus::OpusParams;
pub use parse::parse_offer;
pub use simulcast::choose_encodings;

/// Longest SDP that is read, bytes. Chromium 156 writes 55,771 for 2 senders, a screen sender and 15 slots when it
/// lists every codec it has, and phones with hardware codecs list more.
pub const SDP_LEN_MAX: usize = 256 * 1024;
/// m-sections of an offer. An eight-party room needs 18.
pub const SECTIONS_MAX: usize = 64;
/// Fingerprints of a transport that are kept: aiortc sends three, one for each hash.
pub const FINGERPRINTS_MAX: usize = 8;
/// Header extensions of an m-section that are kept; ids 1 to 14 are all that a one-byte header can carry.
pub const EXTENSIONS_MAX: usize = 64;
/// SSRCs of an m-section, and groups of them, that are kept: a simulcast sender without rids lists three pairs.
pub const SSRCS_MAX: usize = 32;
/// Restriction ids of an m-section that are kept (RFC 8851).
pub const RIDS_MAX: usize = 16;
/// Why an offer was refused. `line` counts from 1, `section` from 0 as in `sdpMLineIndex`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SdpError {
    /// Longer than [`SDP_LEN_MAX`].
    #[error("the SDP is {len} bytes, more than {SDP_LEN_MAX}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// It does not begin with `v=0`.
    #[error("not an SDP: the first line is not `v=0`")]
    NoVersion,
    /// It has no m-section.
    #[error("the offer has no m-section")]
    NoSections,
    /// A line that is not `<letter>=<value>`, or has NUL in it.
    #[error("line {line} is not an SDP line")]
    BadLine {
        /// Which.
        line: usize,
    },
    /// A line whose value is not what its RFC says.
    #[error("line {line}: `{what}` is not valid")]
    BadValue {
        /// Which.
        line: usize,
        /// The line's kind, as it is written.
        what: &'static str,
    },
    /// More of something than is read.
    #[error("line {line}: more than {max} {what}")]
    TooMany {
        /// Where the first one too many is.
        line: usize,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Something that the transport cannot do without.
    #[error("m-section {section}: no valid `{what}`")]
    Missing {
        /// The m-section that carries the transport.
        section: usize,
        /// What is missing.
        what: &'static str,
    },
    /// Two m-sections of one name.
    #[error("m-section {section}: its mid stands in another m-section too")]
    DuplicateMid {
        /// The second of them.
        section: usize,
    },
    /// Two streams of one SSRC in the BUNDLE group.
    #[error("m-section {section}: its SSRC {ssrc} stands in another m-section too")]
    DuplicateSsrc {
        /// The second of them.
        section: usize,
        /// Which.
        ssrc: Ssrc,
    },
}

/// What a client offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// The client's ICE credentials.
    pub ice: IceCredentials,
    /// Hashes of the client's certificate, at least one.
    pub fingerprints: Vec<Fingerprint>,
    /// Who may start DTLS.
    pub setup: Setup,
    /// Id of each header extension that we serve, 0 where it is not offered: one numbering for the BUNDLE group, that of
    /// the first section where sections differ.
    pub extensions: ExtensionIds,
    /// Whether one- and two-byte header extensions may be mixed (RFC 8285 §6).
    pub extmap_allow_mixed: bool,
    /// Whether candidates may follow (RFC 8840).
    pub is_trickle: bool,
    /// Whether the client is ICE-lite too; then nobody would send checks and the offer cannot be served.
    pub is_ice_lite: bool,
    /// The m-sections in their order.
    pub sections: Vec<Section>,
    /// Positions of the m-sections that share one transport, in the order of `a=group:BUNDLE`; without that group the
    /// first RTP section stands alone.
    pub bundle: Vec<usize>,
    /// Whether the client wrote `a=group:BUNDLE`.
    pub has_bundle_group: bool,
}

impl Offer {
    /// The m-section of that MID.
    pub fn section(&self, mid: &Mid) -> Option<(usize, &Section)> {
        self.sections.iter().enumerate().find(|(_, section)| section.mid == *mid)
    }
}

/// An ICE username fragment and password (RFC 8839 §5.4).
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// Username fragment.
    pub ufrag: String,
    /// Password.
    pub pwd: String,
}

impl fmt::Debug for IceCredentials {
    /// Never shows the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// Hash of a DTLS certificate (RFC 8122 §5).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fingerprint {
    /// Name of the hash in lower case, such as `sha-256`.
    pub algorithm: String,
    /// Its value, 1 to 64 bytes.
    pub bytes: Vec<u8>,
}

impl Fingerprint {
    /// The SHA-256 fingerprint that our own answers carry.
    pub fn sha256(bytes: [u8; 32]) -> Fingerprint {
        Fingerprint { algorithm: "sha-256".to_owned(), bytes: bytes.to_vec() }
    }
}

/// Who starts DTLS (RFC 4145 §4, RFC 8842).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Setup {
    /// Either: the answerer chooses.
    ActPass,
    /// The one who says so is the DTLS client.
    Active,
    /// The one who says so is the DTLS server.
    Passive,
}

impl Setup {
    /// What we answer to it: passive, so that the client's first flight finds an address that ICE has validated,
    /// unless the client insists on being the server (ffmpeg's WHIP muxer).
    pub fn answered(self) -> Setup {
        match self {
            Setup::ActPass | Setup::Active => Setup::Passive,
            Setup::Passive => Setup::Active,
        }
    }

    /// As SDP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Setup::ActPass => "actpass",
            Setup::Active => "active",
            Setup::Passive => "passive",
        }
    }
}

/// Which way media flows, seen from who wrote the SDP (RFC 8866 §6.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// Both ways.
    SendRecv,
    /// The writer sends.
    SendOnly,
    /// The writer receives.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    /// Whether the writer sends.
    pub fn may_send(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// Whether the writer receives.
    pub fn may_receive(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// The same flow seen from the other side.
    pub fn reversed(self) -> Direction {
        match self {
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            both_or_neither => both_or_neither,
        }
    }

    /// As SDP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    fn parse(text: &str) -> Option<Direction> {
        match text {
            "sendrecv" => Some(Direction::SendRecv),
            "sendonly" => Some(Direction::SendOnly),
            "recvonly" => Some(Direction::RecvOnly),
            "inactive" => Some(Direction::Inactive),
            _ => None,
        }
    }
}

/// What an m-section is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SectionKind {
    /// `m=audio`
    Audio,
    /// `m=video`
    Video,
    /// `m=application`: data channels (RFC 8841).
    Application,
    /// Anything else, not served.
    Other,
}

/// One m-section of an offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Section {
    /// Its name, or none if the client gives no `a=mid`.
    pub mid: Mid,
    /// What it is for.
    pub kind: SectionKind,
    /// Which way the client wants media to flow.
    pub direction: Direction,
    /// Whether the client has stopped it: port 0 without `a=bundle-only`.
    pub is_rejected: bool,
    /// Whether it shares the transport that we serve.
    pub is_bundled: bool,
    /// Whether RTCP shares the RTP port (RFC 5761); without it the section is not served.
    pub is_rtcp_muxed: bool,
    /// Whether RTCP may be of reduced size (RFC 5506).
    pub is_rtcp_reduced: bool,
    /// The codecs that uprtc serves, in the client's order.
    pub codecs: Vec<OfferedCodec>,
    /// The SSRCs that the client announces.
    pub ssrcs: SectionSsrcs,
    /// Whether the client would send several encodings.
    pub has_simulcast: bool,
    /// Those encodings if it names them by RID (RFC 8853), in its order.
    pub encodings: Vec<OfferedEncoding>,
    /// The header extensions of it that we serve and that agree with [`Offer::extensions`].
    pub extensions: Vec<SectionExtension>,
    /// The first word of the m-line, a token.
    pub media: String,
    /// Its protocol, a token with slashes.
    pub protocol: String,
    /// The first of its formats, a token: a rejected m-line must still have one.
    pub format: String,
    /// Data channels only: the port of SCTP at the client (`a=sctp-port`, RFC 8841 §5).
    pub sctp_port: Option<u16>,
    /// Data channels only: the longest message that the client takes, bytes (`a=max-message-size`, RFC 8841 §6); 0 for any.
    pub message_len_max: u32,
}

/// Length of a message that a client takes that says nothing (RFC 8841 §6.1).
pub const MESSAGE_LEN_DEFAULT: u32 = 64 * 1024;

impl Section {
    /// Whether it is data channels that can be served: SCTP over the DTLS of the BUNDLE transport (RFC 8841 §4).
    pub fn has_data_channels(&self) -> bool {
        let is_over_dtls = matches!(self.protocol.as_str(), "UDP/DTLS/SCTP" | "TCP/DTLS/SCTP");
        self.kind == SectionKind::Application
            && self.is_bundled
            && !self.is_rejected
            && is_over_dtls
            && self.format == "webrtc-datachannel"
            && self.sctp_port.is_some()
    }
}

/// An encoding that a client would send (RFC 8851).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferedEncoding {
    /// Its id.
    pub rid: Rid,
    /// The payload types that it keeps to; `None`: all of the section.
    pub pts: Option<Vec<Pt>>,
}

/// A header extension of an m-section (RFC 8285 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SectionExtension {
    /// Which.
    pub extension: Extension,
    /// The client's id for it, 1 to 14.
    pub id: u8,
    /// In which packets it may stand, seen from the client.
    pub direction: Direction,
}

/// SSRCs that a client announces (RFC 5576). Chromium does so even for a sender without a track; a client that sends
/// by rid does not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SectionSsrcs {
    /// Of the media, in its best encoding.
    pub primary: Option<Ssrc>,
    /// Of its retransmissions (`ssrc-group:FID`).
    pub rtx: Option<Ssrc>,
    /// The other encodings that are sent at the same time (`ssrc-group:SIM`), the better one first: media and
    /// retransmissions of each, 0 for none.
    pub others: [(Ssrc, Ssrc); STREAM_ENCODINGS_MAX],
}

impl SectionSsrcs {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Ssrc> + use<> {
        let others = self.others.into_iter().flat_map(|(media, rtx)| [media, rtx]).filter(|ssrc| *ssrc != 0);
        [self.primary, self.rtx].into_iter().flatten().chain(others)
    }
}

/// A codec of an m-section that uprtc serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferedCodec {
    /// Which.
    pub codec: Codec,
    /// Its payload type, never one that RTCP could be mistaken for (64 to 95, RFC 5761 §4).
    pub pt: Pt,
    /// Payload type of its retransmissions (RFC 4588).
    pub rtx_pt: Option<Pt>,
    /// Opus only: payload type of RED (RFC 2198) that carries it.
    pub red_pt: Option<Pt>,
    /// H.264 only: what it can decode.
    pub h264: Option<H264Params>,
    /// AV1 only: what it can decode.
    pub av1: Option<Av1Params>,
    /// Opus only: what the client declares; in an answer, what is declared to it.
    pub opus: Option<OpusParams>,
    /// H.264 only: the parameter sets that it sends by (`sprop-parameter-sets`), as NAL units. Empty where they are not
    /// told, or are longer than is kept.
    pub parameter_sets: Vec<Vec<u8>>,
    /// Bits of [`proto::plane::feedback`] that both sides know. REMB is among them only where transport-cc is not.
    pub feedback: u8,
}

impl OfferedCodec {
    /// Payload type of what repairs it: that of RTX, its own where lost packets are sent again as they are, or 0.
    pub fn repair_pt(&self) -> Pt {
        let is_resent = !self.codec.is_video() && self.feedback & feedback::NACK != 0;
        self.rtx_pt.unwrap_or(if is_resent { self.pt } else { 0 })
    }
}

/// Format parameters of AV1's main profile (AV1 RTP payload format §7.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Av1Params {
    /// Level index, 0 to 31.
    pub level_idx: u8,
    /// 0: main tier, 1: high tier.
    pub tier: u8,
}

/// Format parameters of H.264 (RFC 6184 §8.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct H264Params {
    /// profile_idc, profile-iop, level_idc.
    pub profile_level_id: [u8; 3],
    /// 0: single NAL units; 1: STAP-A and FU-A too.
    pub packetization_mode: u8,
    /// Whether each direction may have its own level.
    pub level_asymmetry_allowed: bool,
}
