//! The one offer, in the shape of Chromium's, and what the answer to it says (RFC 8866, RFC 8829).
//!
//! Written apart from the server's SDP code, by the captured offers of real browsers.

use std::collections::HashMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use proto::signal::Kind;

use crate::ice::Credentials;

/// Header extensions that the offer lists, with their ids; the same in every section (RFC 8843 §9.1).
const EXTENSIONS: [(u8, &str, bool, bool); 8] = [
    (1, AUDIO_LEVEL, true, false),
    (14, "urn:ietf:params:rtp-hdrext:toffset", false, true),
    (2, ABS_SEND_TIME, true, true),
    (13, "urn:3gpp:video-orientation", false, true),
    (3, TRANSPORT_CC, true, true),
    (5, "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay", false, true),
    (7, "http://www.webrtc.org/experiments/rtp-hdrext/video-timing", false, true),
    (4, MID, true, true),
];
/// RFC 6464.
pub const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
/// When the packet left, 6.18 fixed point.
pub const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
/// draft-holmer-rmcat-transport-wide-cc-extensions-01.
pub const TRANSPORT_CC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// RFC 9143 §15.
pub const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// Of sections in several encodings (RFC 8852 §4.1, §4.2), with their ids in the offer.
pub const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
/// The encoding that a retransmission is of.
pub const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
const RID_EXTENSIONS: [(u8, &str); 2] = [(10, RID), (11, REPAIRED_RID)];

/// A sending or receiving m-section of our offer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OfferSection {
    /// Its MID.
    pub mid: String,
    /// Audio or video.
    pub kind: Kind,
    /// SSRC and, for video, that of its RTX; None for a receive slot.
    pub ssrcs: Option<(u32, Option<u32>)>,
    /// Whether a track is attached to the sender. Chromium writes `msid:-` for one without.
    pub has_track: bool,
    /// RIDs of its encodings (RFC 8853), the smallest first. With them the offer names no SSRCs, as that of a browser.
    pub rids: Vec<String>,
}

/// What the offer says beyond its sections.
#[derive(Clone, Debug)]
pub struct Offer<'a> {
    /// Ours.
    pub ice: &'a Credentials,
    /// SHA-256 of our certificate.
    pub fingerprint: [u8; 32],
    /// In the order of the m-lines.
    pub sections: &'a [OfferSection],
}

/// `AB:CD:…`
pub fn write_fingerprint(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":")
}

/// Which codecs an offer lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Codecs {
    /// Those of a browser that prefers VP8.
    Browser,
    /// All that rooms use, and NACK for Opus.
    All,
}

/// Writes the offer.
pub fn write_offer(offer: &Offer<'_>) -> String {
    write_with(offer, Codecs::Browser)
}

/// The same for a peer that takes whatever a room may speak: VP9 and AV1 too, and lost packets of Opus again. Not RED, which
/// nobody here takes apart: without it a lossy path is sent copies of packets (docs/decisions/0055).
pub fn write_offer_of_all_codecs(offer: &Offer<'_>) -> String {
    write_with(offer, Codecs::All)
}

fn write_with(offer: &Offer<'_>, codecs: Codecs) -> String {
    let mut out = String::from("v=0\r\no=- 4611686018427387904 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE");
    for section in offer.sections {
        write!(out, " {}", section.mid).expect("a String takes everything");
    }
    out.push_str("\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS stream\r\n");
    for section in offer.sections {
        write_section(&mut out, offer, section, codecs).expect("a String takes everything");
    }
    out
}

fn write_section(out: &mut String, offer: &Offer<'_>, section: &OfferSection, codecs: Codecs) -> std::fmt::Result {
    let is_audio = section.kind == Kind::Audio;
    let is_all = codecs == Codecs::All;
    let formats = match (is_audio, is_all) {
        (true, false) => "111 63 0 8",
        (true, true) => "111",
        (false, false) => "96 97 102 103 108 109 114 115",
        (false, true) => "102 103 108 109 96 97 98 99 112 113",
    };
    let name = if is_audio { "audio" } else { "video" };
    write!(out, "m={name} 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n")?;
    write!(out, "a=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=ice-options:trickle\r\n", offer.ice.ufrag, offer.ice.pwd)?;
    write!(out, "a=fingerprint:sha-256 {}\r\n", write_fingerprint(&offer.fingerprint))?;
    write!(out, "a=setup:actpass\r\na=mid:{}\r\n", section.mid)?;
    for (id, uri, in_audio, in_video) in EXTENSIONS {
        if (is_audio && in_audio) || (!is_audio && in_video) {
            write!(out, "a=extmap:{id} {uri}\r\n")?;
        }
    }
    if !section.rids.is_empty() {
        for (id, uri) in RID_EXTENSIONS {
            write!(out, "a=extmap:{id} {uri}\r\n")?;
        }
    }
    let track = format!("track-{}", section.mid);
    let msid = if section.has_track { format!("stream {track}") } else { format!("- {track}") };
    match section.ssrcs {
        Some(_) => write!(out, "a=sendonly\r\na=msid:{msid}\r\n")?,
        None => write!(out, "a=recvonly\r\n")?,
    }
    write!(out, "a=rtcp-mux\r\na=rtcp-rsize\r\na=rtcp-xr:rcvr-rtt=all\r\n")?;
    out.push_str(if is_audio { OPUS } else { VIDEO_CODECS });
    match (is_audio, is_all) {
        (true, false) => out.push_str(MORE_AUDIO_CODECS),
        (true, true) => out.push_str("a=rtcp-fb:111 nack\r\n"),
        (false, false) => (),
        (false, true) => out.push_str(MORE_VIDEO_CODECS),
    }
    let Some((ssrc, rtx)) = section.ssrcs else { return Ok(()) };
    if !section.rids.is_empty() {
        for rid in &section.rids {
            write!(out, "a=rid:{rid} send\r\n")?;
        }
        return write!(out, "a=simulcast:send {}\r\n", section.rids.join(";"));
    }
    if let Some(rtx) = rtx {
        write!(out, "a=ssrc-group:FID {ssrc} {rtx}\r\n")?;
    }
    for ssrc in [Some(ssrc), rtx].into_iter().flatten() {
        write!(out, "a=ssrc:{ssrc} cname:client\r\na=ssrc:{ssrc} msid:{msid}\r\n")?;
    }
    Ok(())
}

const OPUS: &str =
    "a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n";

/// RED and G.711 are offered so that an answer can be wrong about them.
const MORE_AUDIO_CODECS: &str = "a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n\
    a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n";

/// VP8 before H.264 as in Chromium, and ULPFEC and RED behind it.
const VIDEO_CODECS: &str = "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 goog-remb\r\na=rtcp-fb:96 transport-cc\r\n\
    a=rtcp-fb:96 ccm fir\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
    a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
    a=rtpmap:102 H264/90000\r\na=rtcp-fb:102 goog-remb\r\na=rtcp-fb:102 transport-cc\r\n\
    a=rtcp-fb:102 ccm fir\r\na=rtcp-fb:102 nack\r\na=rtcp-fb:102 nack pli\r\n\
    a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f\r\n\
    a=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n\
    a=rtpmap:108 H264/90000\r\na=rtcp-fb:108 goog-remb\r\na=rtcp-fb:108 transport-cc\r\n\
    a=rtcp-fb:108 ccm fir\r\na=rtcp-fb:108 nack\r\na=rtcp-fb:108 nack pli\r\n\
    a=fmtp:108 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    a=rtpmap:109 rtx/90000\r\na=fmtp:109 apt=108\r\n\
    a=rtpmap:114 red/90000\r\na=rtpmap:115 ulpfec/90000\r\n";

/// VP9 and AV1, each with RTX.
const MORE_VIDEO_CODECS: &str = "a=rtpmap:98 VP9/90000\r\na=rtcp-fb:98 transport-cc\r\na=rtcp-fb:98 ccm fir\r\n\
    a=rtcp-fb:98 nack\r\na=rtcp-fb:98 nack pli\r\na=fmtp:98 profile-id=0\r\n\
    a=rtpmap:99 rtx/90000\r\na=fmtp:99 apt=98\r\n\
    a=rtpmap:112 AV1/90000\r\na=rtcp-fb:112 transport-cc\r\na=rtcp-fb:112 ccm fir\r\n\
    a=rtcp-fb:112 nack\r\na=rtcp-fb:112 nack pli\r\na=fmtp:112 level-idx=5;profile=0;tier=0\r\n\
    a=rtpmap:113 rtx/90000\r\na=fmtp:113 apt=112\r\n";

/// Why an answer cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AnswerError {
    /// A line or attribute that must be there is not.
    #[error("the answer lacks {0}")]
    Missing(&'static str),
    /// An attribute that we need does not parse.
    #[error("cannot read {0:?} in the answer")]
    Malformed(String),
    /// RFC 3264 §6: as many m-lines as the offer, in its order.
    #[error("the answer has m-sections {answered:?}, the offer has {offered:?}")]
    Sections {
        /// MIDs of the answer.
        answered: Vec<String>,
        /// MIDs of the offer.
        offered: Vec<String>,
    },
}

/// What the answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The server's credentials.
    pub ice: Credentials,
    /// SHA-256 of its certificate.
    pub fingerprint: [u8; 32],
    /// Whether it says `a=ice-lite`.
    pub is_ice_lite: bool,
    /// `passive`, so that we are the DTLS client.
    pub setup: String,
    /// Its addresses.
    pub candidates: Vec<SocketAddr>,
    /// Where it accepts TCP connections (RFC 6544).
    pub tcp_candidates: Vec<SocketAddr>,
    /// One for each section of the offer.
    pub sections: Vec<AnswerSection>,
}

/// One m-section of the answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AnswerSection {
    /// Its MID.
    pub mid: String,
    /// Port 0 in the m-line.
    pub is_rejected: bool,
    /// `sendonly`, `recvonly`, `inactive` or `sendrecv`, seen from the server.
    pub direction: String,
    /// The codec's name in `a=rtpmap`, of the first payload type.
    pub codec: String,
    /// Its payload type.
    pub pt: u8,
    /// Payload type of its retransmissions.
    pub rtx_pt: Option<u8>,
    /// All names in `a=rtpmap`.
    pub codecs: Vec<String>,
    /// The same with their payload types.
    pub payload_types: Vec<(u8, String)>,
    /// Payload types of retransmissions, and of what they retransmit.
    pub rtx_of: Vec<(u8, u8)>,
    /// SSRC of the slot, if the server sends.
    pub ssrc: Option<u32>,
    /// SSRC of its retransmissions.
    pub rtx_ssrc: Option<u32>,
    /// Header extensions: URI to id.
    pub extensions: HashMap<String, u8>,
}

/// Parses the answer to an offer with these sections.
pub fn parse_answer(text: &str, offered: &[OfferSection]) -> Result<Answer, AnswerError> {
    let mut answer = Answer {
        ice: Credentials { ufrag: String::new(), pwd: String::new() },
        fingerprint: [0; 32],
        is_ice_lite: false,
        setup: String::new(),
        candidates: Vec::new(),
        tcp_candidates: Vec::new(),
        sections: Vec::new(),
    };
    for line in text.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            answer.sections.push(parse_media(media).ok_or_else(|| AnswerError::Malformed(line.into()))?);
        } else if let Some(attribute) = line.strip_prefix("a=") {
            parse_attribute(&mut answer, attribute).ok_or_else(|| AnswerError::Malformed(line.into()))?;
        }
    }
    check_complete(&answer, offered)?;
    Ok(answer)
}

fn parse_media(media: &str) -> Option<AnswerSection> {
    let mut words = media.split(' ').skip(1);
    let port: u16 = words.next()?.parse().ok()?;
    let pt = words.nth(1)?.parse().ok()?;
    Some(AnswerSection { is_rejected: port == 0, pt, ..AnswerSection::default() })
}

fn parse_attribute(answer: &mut Answer, attribute: &str) -> Option<()> {
    let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
    match (name, answer.sections.last_mut()) {
        ("ice-lite", _) => answer.is_ice_lite = true,
        ("ice-ufrag", _) => answer.ice.ufrag = value.into(),
        ("ice-pwd", _) => answer.ice.pwd = value.into(),
        ("setup", _) => answer.setup = value.into(),
        ("fingerprint", _) => answer.fingerprint = parse_fingerprint(value)?,
        ("candidate", _) => match parse_candidate(attribute)? {
            Candidate::Udp(address) => answer.candidates.push(address),
            Candidate::Tcp(address) => answer.tcp_candidates.push(address),
        },
        ("mid", Some(section)) => section.mid = value.into(),
        ("sendonly" | "recvonly" | "inactive" | "sendrecv", Some(section)) => section.direction = name.into(),
        ("rtpmap", Some(section)) => {
            let (pt, codec) = value.split_once(' ')?;
            if pt.parse() == Ok(section.pt) {
                section.codec = codec.into();
            }
            section.codecs.push(codec.into());
            section.payload_types.extend(pt.parse().ok().map(|pt| (pt, codec.into())));
        }
        ("fmtp", Some(section)) => {
            let (pt, parameters) = value.split_once(' ')?;
            if parameters == format!("apt={}", section.pt) {
                section.rtx_pt = Some(pt.parse().ok()?);
            }
            if let Some(original) = parameters.strip_prefix("apt=") {
                section.rtx_of.push((pt.parse().ok()?, original.parse().ok()?));
            }
        }
        ("ssrc", Some(section)) => {
            let ssrc = value.split(' ').next()?.parse().ok()?;
            section.ssrc.get_or_insert(ssrc);
        }
        ("ssrc-group", Some(section)) => {
            let mut words = value.strip_prefix("FID ")?.split(' ');
            section.ssrc = Some(words.next()?.parse().ok()?);
            section.rtx_ssrc = Some(words.next()?.parse().ok()?);
        }
        ("extmap", Some(section)) => {
            let (id, uri) = value.split_once(' ')?;
            section.extensions.insert(uri.into(), id.split('/').next()?.parse().ok()?);
        }
        _ => (),
    }
    Some(())
}

fn parse_fingerprint(value: &str) -> Option<[u8; 32]> {
    let digits = value.strip_prefix("sha-256 ")?.split(':');
    let bytes: Vec<u8> = digits.map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// The address of a host candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Candidate {
    /// Of UDP.
    Udp(SocketAddr),
    /// Of TCP, where connections are accepted.
    Tcp(SocketAddr),
}

/// A host candidate (RFC 8839 §5.1, RFC 6544 §4.5), as in the answer or trickled.
pub fn parse_candidate(candidate: &str) -> Option<Candidate> {
    let words: Vec<&str> = candidate.split(' ').collect();
    let [_, "1", protocol, _, ip, port, "typ", "host", ref more @ ..] = words[..] else { return None };
    let ip: IpAddr = ip.parse().ok()?;
    let address = SocketAddr::new(ip, port.parse().ok()?);
    match (protocol.to_ascii_lowercase().as_str(), more) {
        ("udp", _) => Some(Candidate::Udp(address)),
        ("tcp", ["tcptype", "passive", ..]) => Some(Candidate::Tcp(address)),
        _ => None,
    }
}

fn check_complete(answer: &Answer, offered: &[OfferSection]) -> Result<(), AnswerError> {
    let mids = |mids: &mut dyn Iterator<Item = &String>| mids.cloned().collect::<Vec<_>>();
    let answered = mids(&mut answer.sections.iter().map(|section| &section.mid));
    let offered = mids(&mut offered.iter().map(|section| &section.mid));
    if answered != offered {
        return Err(AnswerError::Sections { answered, offered });
    }
    if answer.ice.ufrag.is_empty() || answer.ice.pwd.is_empty() {
        return Err(AnswerError::Missing("ICE credentials"));
    }
    if answer.fingerprint == [0; 32] {
        return Err(AnswerError::Missing("a sha-256 fingerprint"));
    }
    if answer.setup.is_empty() {
        return Err(AnswerError::Missing("a=setup"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> Vec<OfferSection> {
        let section = |mid: &str, kind, ssrcs| {
            let (mid, has_track) = (mid.to_owned(), mid != "2");
            OfferSection { mid, kind, ssrcs, has_track, rids: Vec::new() }
        };
        vec![
            section("0", Kind::Audio, Some((10, None))),
            section("1", Kind::Video, Some((11, Some(12)))),
            section("2", Kind::Video, Some((13, Some(14)))),
            section("3", Kind::Audio, None),
            section("4", Kind::Video, None),
        ]
    }

    const ANSWER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE 0 1 3 4\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=recvonly\r\na=ice-ufrag:abcd\r\na=ice-pwd:secret\r\n\
        a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:FF\r\n\
        a=setup:passive\r\na=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\n\
        a=candidate:2 1 tcp 1520435199 127.0.0.1 40001 typ host tcptype passive\r\na=end-of-candidates\r\n\
        a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=rtpmap:111 opus/48000/2\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 108 109\r\na=mid:1\r\na=recvonly\r\na=rtpmap:108 H264/90000\r\n\
        a=rtpmap:109 rtx/90000\r\na=fmtp:109 apt=108\r\n\
        m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=mid:2\r\na=inactive\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:3\r\na=sendonly\r\na=rtpmap:111 opus/48000/2\r\na=ssrc:77 cname:uprtc\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 108 109\r\na=mid:4\r\na=sendonly\r\na=rtpmap:108 H264/90000\r\n\
        a=fmtp:109 apt=108\r\na=ssrc-group:FID 78 79\r\na=ssrc:78 cname:uprtc\r\na=ssrc:79 cname:uprtc\r\n";

    #[test]
    fn an_answer_is_read() {
        let answer = parse_answer(ANSWER, &sections()).unwrap();
        assert!(answer.is_ice_lite);
        assert_eq!(answer.candidates, [SocketAddr::from(([127, 0, 0, 1], 40_000))]);
        assert_eq!(answer.tcp_candidates, [SocketAddr::from(([127, 0, 0, 1], 40_001))]);
        assert_eq!(answer.fingerprint[31], 0xFF);
        let [audio, video, screen, audio_slot, video_slot] = &answer.sections[..] else { panic!() };
        assert_eq!((audio.pt, audio.rtx_pt, audio.extensions[MID]), (111, None, 4));
        assert_eq!((video.pt, video.rtx_pt, video.ssrc), (108, Some(109), None));
        assert!(screen.is_rejected);
        assert_eq!((audio_slot.ssrc, audio_slot.rtx_ssrc), (Some(77), None));
        assert_eq!((video_slot.ssrc, video_slot.rtx_ssrc), (Some(78), Some(79)));
    }

    #[test]
    fn an_answer_to_another_offer_is_refused() {
        let shorter = &sections()[..4];
        assert!(matches!(parse_answer(ANSWER, shorter), Err(AnswerError::Sections { .. })));
        let without = ANSWER.replace("a=setup:passive\r\n", "");
        assert_eq!(parse_answer(&without, &sections()), Err(AnswerError::Missing("a=setup")));
        let broken = ANSWER.replace(" 40000 typ", " 99999 typ");
        assert!(matches!(parse_answer(&broken, &sections()), Err(AnswerError::Malformed(_))));
    }

    #[test]
    fn the_offer_has_a_line_for_every_stream() {
        let ice = Credentials::generate(&mut crate::random::Random::from_seed(1));
        let text = write_offer(&Offer { ice: &ice, fingerprint: [0xAB; 32], sections: &sections() });
        assert!(text.contains("a=group:BUNDLE 0 1 2 3 4\r\n"));
        assert_eq!(text.matches("\r\nm=").count(), 5);
        assert_eq!(text.matches("a=recvonly\r\n").count(), 2);
        assert!(text.contains("a=ssrc-group:FID 13 14\r\n"));
        assert!(text.contains("a=msid:- track-2\r\n"));
        assert!(text.lines().all(|line| line.as_bytes()[1] == b'='));
    }

    #[test]
    fn several_encodings_are_offered_by_rid_and_without_ssrcs() {
        let ice = Credentials::generate(&mut crate::random::Random::from_seed(1));
        let mut sections = sections();
        sections[1].rids = ["l", "h"].map(str::to_owned).into();
        let text = write_offer(&Offer { ice: &ice, fingerprint: [0xAB; 32], sections: &sections });
        assert!(text.contains("a=rid:l send\r\na=rid:h send\r\na=simulcast:send l;h\r\n"));
        assert_eq!([RID, REPAIRED_RID].map(|uri| text.matches(uri).count()), [1, 1]);
        assert!(!text.contains("a=ssrc:11 ") && text.contains("a=ssrc:13 "));
    }

    #[test]
    fn what_is_not_taken_apart_is_not_offered() {
        let mut random = crate::random::Random::from_seed(1);
        let ice = Credentials::generate(&mut random);
        let text = write_offer_of_all_codecs(&Offer { ice: &ice, fingerprint: [0xAB; 32], sections: &sections() });
        assert_eq!(text.matches("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n").count(), 2);
        assert_eq!(text.matches("m=video 9 UDP/TLS/RTP/SAVPF 102 103 108 109 96 97 98 99 112 113\r\n").count(), 3);
        assert!(text.contains("a=rtcp-fb:111 nack\r\n") && !text.contains("a=rtpmap:63 "));
    }
}
