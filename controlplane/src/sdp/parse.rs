//! Reading an offer: lines, then what stands at the session and in each m-section, then what follows from both.

use std::collections::BTreeSet;

use proto::id::{Mid, Ssrc};
use proto::plane::{EXTENSION_COUNT_MAX, Extension, ExtensionIds, STREAM_ENCODINGS_MAX};

use super::codec::{CodecLines, add_audio_nack, choose_estimate, parse_pt};
use super::simulcast::{offered_encodings, parse_rid};
use super::{
    Direction, EXTENSIONS_MAX, FINGERPRINTS_MAX, Fingerprint, IceCredentials, MESSAGE_LEN_DEFAULT, Offer,
    OfferedEncoding, RIDS_MAX, SDP_LEN_MAX, SECTIONS_MAX, SSRCS_MAX, SdpError, Section, SectionExtension, SectionKind,
    SectionSsrcs, Setup, choose_codec,
};

/// Reads a client's offer.
///
/// What uprtc does not know is skipped, as RFC 8866 §5 asks, and so is a line of what it knows that cannot be read, if the
/// offer makes sense without it: it is as if the client had not offered that. Refused is what the transport or the order of the
/// sections depends on. The transport's attributes are those of the first section of the BUNDLE group that can be answered (RFC 9143 §7.3.1), or of the
/// session.
pub fn parse_offer(text: &str) -> Result<Offer, SdpError> {
    if text.len() > SDP_LEN_MAX {
        return Err(SdpError::TooLong { len: text.len() });
    }
    let mut lines = lines_of(text);
    if lines.next().map(|(_, line)| line) != Some("v=0") {
        return Err(SdpError::NoVersion);
    }
    let mut session = SessionLines::default();
    let mut sections: Vec<SectionLines> = Vec::new();
    for (line, content) in lines {
        let (kind, value) = split_line(line, content)?;
        match kind {
            b'm' if sections.len() == SECTIONS_MAX => return Err(too_many(line, "m-sections", SECTIONS_MAX)),
            b'm' => sections.push(SectionLines::open(line, value)?),
            b'a' => attribute(line, value, &mut session, sections.last_mut())?,
            _ => {}
        }
    }
    if sections.is_empty() {
        return Err(SdpError::NoSections);
    }
    assemble(session, sections)
}

/// The lines that are not empty, with their numbers. They may end in CRLF, or in LF or CR alone (RFC 8866 §5: be tolerant).
pub(super) fn lines_of(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text); // A byte order mark, of a client that reads from a file.
    let lines = text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'));
    (1..).zip(lines).filter(|(_, content)| !content.is_empty())
}

/// The letter and the value of a line. What is allowed in the value is for whoever reads it; NUL stands nowhere in SDP (RFC 8866
/// §9, `byte-string`).
pub(super) fn split_line(line: usize, content: &str) -> Result<(u8, &str), SdpError> {
    match content.as_bytes() {
        [kind @ b'a'..=b'z', b'=', value @ ..] if !value.contains(&0) => Ok((*kind, &content[2..])),
        _ => Err(SdpError::BadLine { line }),
    }
}

fn too_many(line: usize, what: &'static str, max: usize) -> SdpError {
    SdpError::TooMany { line, what, max }
}

/// `Err` with the line and its kind where `value` is none.
fn valid<T>(line: usize, what: &'static str, value: Option<T>) -> Result<T, SdpError> {
    value.ok_or(SdpError::BadValue { line, what })
}

/// Attributes that may stand at the session for all sections, or in a section for itself.
#[derive(Default)]
struct SharedLines<'a> {
    ufrag: Option<&'a str>,
    pwd: Option<&'a str>,
    fingerprints: Vec<Fingerprint>,
    setup: Option<Setup>,
    is_trickle: bool,
    direction: Option<Direction>,
    allows_mixed: bool,
    extensions: Vec<ExtensionLine<'a>>,
}

#[derive(Clone, Copy)]
struct ExtensionLine<'a> {
    id: u8,
    direction: Direction,
    uri: &'a str,
}

/// What stands before the first m-line.
#[derive(Default)]
struct SessionLines<'a> {
    shared: SharedLines<'a>,
    bundle: Option<Vec<&'a str>>,
    is_ice_lite: bool,
}

/// What stands in one m-section.
struct SectionLines<'a> {
    shared: SharedLines<'a>,
    media: &'a str,
    has_port: bool,
    protocol: &'a str,
    format: &'a str,
    mid: Mid,
    is_bundle_only: bool,
    is_rtcp_muxed: bool,
    is_rtcp_reduced: bool,
    codecs: CodecLines<'a>,
    ssrcs: Vec<Ssrc>,
    groups: Vec<(&'a str, Vec<Ssrc>)>,
    rids: Vec<OfferedEncoding>,
    simulcast: Option<&'a str>,
    sctp_port: Option<u16>,
    message_len_max: u32,
}

impl<'a> SectionLines<'a> {
    /// `m=<media> <port>[/<count>] <protocol> <format> …` (RFC 8866 §5.14).
    fn open(line: usize, value: &'a str) -> Result<SectionLines<'a>, SdpError> {
        let mut words = value.split(' ').filter(|word| !word.is_empty());
        let mut word = || words.next().filter(|w| w.bytes().all(|b| is_token_char(b) || b == b'/'));
        let media = valid(line, "m=", word().filter(|media| !media.contains('/')))?;
        let port = valid(line, "m=", word())?;
        let port = port.split('/').next().unwrap_or(port);
        let port = valid(line, "m=", port.parse::<u32>().ok())?; // Only whether it is 0 matters.
        let protocol = valid(line, "m=", word())?;
        let format = valid(line, "m=", word())?;
        let mut codecs = CodecLines::default();
        if matches!(media, "audio" | "video") {
            // What is no payload type is no codec of ours, and 128 different ones are all that there are.
            for pt in std::iter::once(format).chain(words).filter_map(parse_pt) {
                if !codecs.formats.contains(&pt) {
                    codecs.formats.push(pt);
                }
            }
        }
        Ok(SectionLines {
            shared: SharedLines::default(),
            media,
            has_port: port != 0,
            protocol,
            format,
            mid: Mid::NONE,
            is_bundle_only: false,
            is_rtcp_muxed: false,
            is_rtcp_reduced: false,
            codecs,
            ssrcs: Vec::new(),
            groups: Vec::new(),
            rids: Vec::new(),
            simulcast: None,
            sctp_port: None,
            message_len_max: MESSAGE_LEN_DEFAULT,
        })
    }
}

/// `token-char` of RFC 8866 §9.
const fn is_token_char(b: u8) -> bool {
    matches!(b, 0x21 | 0x23..=0x27 | 0x2a | 0x2b | 0x2d | 0x2e | 0x30..=0x39 | 0x41..=0x5a | 0x5e..=0x7e)
}

/// One `a=` line, for the session or for the section that is open.
fn attribute<'a>(
    line: usize,
    text: &'a str,
    session: &mut SessionLines<'a>,
    section: Option<&mut SectionLines<'a>>,
) -> Result<(), SdpError> {
    let (name, value) = text.split_once(':').unwrap_or((text, ""));
    match section {
        None => {
            session_attribute(name, value, session);
            shared_attribute(line, name, value, &mut session.shared)
        }
        Some(section) => {
            section_attribute(line, name, value, section)?;
            shared_attribute(line, name, value, &mut section.shared)
        }
    }
}

fn session_attribute<'a>(name: &str, value: &'a str, session: &mut SessionLines<'a>) {
    match name {
        // One transport is served: the first group is it, sections of another are left without.
        "group" if session.bundle.is_none() => {
            let mut words = value.split_ascii_whitespace();
            if words.next() == Some("BUNDLE") {
                session.bundle = Some(words.take(SECTIONS_MAX).collect());
            }
        }
        "ice-lite" => session.is_ice_lite = true,
        _ => {}
    }
}

fn shared_attribute<'a>(line: usize, name: &str, value: &'a str, shared: &mut SharedLines<'a>) -> Result<(), SdpError> {
    match name {
        "ice-ufrag" => shared.ufrag = ice_text(value).or(shared.ufrag),
        "ice-pwd" => shared.pwd = ice_text(value).or(shared.pwd),
        // With spaces between them (RFC 8839 §5.6); libdatachannel writes commas.
        "ice-options" => shared.is_trickle |= value.split([' ', ',']).any(|option| option == "trickle"),
        "extmap-allow-mixed" => shared.allows_mixed = true,
        "fingerprint" => {
            let is_room = shared.fingerprints.len() < FINGERPRINTS_MAX;
            shared.fingerprints.extend(parse_fingerprint(value).filter(|_| is_room));
        }
        "setup" => shared.setup = Some(valid(line, "a=setup", parse_setup(value))?),
        "extmap" => {
            let is_room = shared.extensions.len() < EXTENSIONS_MAX;
            shared.extensions.extend(parse_extmap(value).filter(|_| is_room));
        }
        _ => shared.direction = Direction::parse(name).or(shared.direction),
    }
    Ok(())
}

fn section_attribute<'a>(
    line: usize,
    name: &str,
    value: &'a str,
    section: &mut SectionLines<'a>,
) -> Result<(), SdpError> {
    match name {
        "mid" => {
            let mid = Mid::parse(value.as_bytes()).filter(|mid| !mid.is_empty());
            section.mid = valid(line, "a=mid", mid)?;
        }
        "bundle-only" => section.is_bundle_only = true,
        "rtcp-mux" => section.is_rtcp_muxed = true,
        "rtcp-rsize" => section.is_rtcp_reduced = true,
        "rtpmap" => section.codecs.rtpmap(value),
        "fmtp" => section.codecs.fmtp(value),
        "rtcp-fb" => section.codecs.rtcp_fb(value),
        "ptime" => section.codecs.ptime = Some(value),
        "maxptime" => section.codecs.maxptime = Some(value),
        "ssrc" => add_ssrc(value.split(' ').next().unwrap_or(value), &mut section.ssrcs),
        "ssrc-group" if section.groups.len() < SSRCS_MAX => section.groups.extend(parse_ssrc_group(value)),
        "rid" if section.rids.len() < RIDS_MAX => section.rids.extend(parse_rid(value)),
        "sctp-port" => section.sctp_port = value.trim().parse().ok().filter(|port| *port != 0),
        // More than the longest that is sent anyhow is as good as any.
        "max-message-size" => section.message_len_max = value.trim().parse().unwrap_or(0),
        "simulcast" => section.simulcast = section.simulcast.or(Some(value)),
        _ => {}
    }
    Ok(())
}

/// Keeps each SSRC once, [`SSRCS_MAX`] at most; clients write several lines for one. 0 stands for "not known" between the
/// planes.
fn add_ssrc(text: &str, ssrcs: &mut Vec<Ssrc>) {
    let ssrc = text.parse::<Ssrc>().ok().filter(|ssrc| *ssrc != 0 && !ssrcs.contains(ssrc) && ssrcs.len() < SSRCS_MAX);
    ssrcs.extend(ssrc);
}

/// `ssrc-group:<semantics> <ssrc> …` (RFC 5576 §4.2).
fn parse_ssrc_group(value: &str) -> Option<(&str, Vec<Ssrc>)> {
    let mut words = value.split_ascii_whitespace();
    let semantics = words.next()?;
    let mut ssrcs = Vec::new();
    words.for_each(|word| add_ssrc(word, &mut ssrcs));
    Some((semantics, ssrcs))
}

/// A username fragment or a password of the client. They are in its checks, which our own credentials protect, so neither
/// their length nor their alphabet (RFC 8839 §5.4) matters here; what is longer than RFC 8839 allows is not kept.
pub(super) fn ice_text(value: &str) -> Option<&str> {
    Some(value.trim()).filter(|text| (1..=256).contains(&text.len()))
}

/// `fingerprint:<hash> <hex:hex:…>` (RFC 8122 §5).
fn parse_fingerprint(value: &str) -> Option<Fingerprint> {
    let (algorithm, hex) = value.split_once(' ')?;
    if algorithm.is_empty() || algorithm.len() > 32 || !algorithm.bytes().all(is_token_char) || hex.len() > 64 * 3 {
        return None;
    }
    let byte = |pair: &str| {
        let is_hex = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
        u8::from_str_radix(pair, 16).ok().filter(|_| is_hex)
    };
    let bytes = hex.trim().split(':').map(byte).collect::<Option<Vec<u8>>>()?;
    Some(Fingerprint { algorithm: algorithm.to_ascii_lowercase(), bytes })
}

/// `holdconn` is of no use to a peer that is joining.
fn parse_setup(value: &str) -> Option<Setup> {
    [Setup::ActPass, Setup::Active, Setup::Passive]
        .into_iter()
        .find(|setup| setup.as_str().eq_ignore_ascii_case(value.trim()))
}

/// `extmap:<id>[/<direction>] <uri> …` (RFC 8285 §5). Ids above 14 need two-byte headers, which are not served.
fn parse_extmap(value: &str) -> Option<ExtensionLine<'_>> {
    let mut words = value.split(' ');
    let (id, uri) = (words.next()?, words.next()?);
    let (id, direction) = match id.split_once('/') {
        Some((id, direction)) => (id, Direction::parse(direction)?),
        None => (id, Direction::SendRecv),
    };
    let id = id.parse().ok().filter(|id| (1..=14).contains(id))?;
    Some(ExtensionLine { id, direction, uri })
}

/// Puts sections and session together and checks what must hold between them.
fn assemble(session: SessionLines<'_>, lines: Vec<SectionLines<'_>>) -> Result<Offer, SdpError> {
    check_mids(&lines)?;
    let bundle = bundled(&session, &lines);
    let mut sections = Vec::with_capacity(lines.len());
    for (i, section) in lines.iter().enumerate() {
        sections.push(section_of(&session, section, bundle.contains(&i)));
    }
    check_ssrcs(&sections)?;
    let is_served = |&i: &usize| sections[i].is_served();
    let first = bundle.iter().copied().find(is_served).unwrap_or(0);
    let extmap_allow_mixed = session.shared.allows_mixed || lines.get(first).is_some_and(|of| of.shared.allows_mixed);
    if !extmap_allow_mixed {
        // What some packets have of them is longer than the one-byte form can say (RFC 8285 §4.2), and without that the others mean nothing.
        let long = [Extension::DependencyDescriptor, Extension::VideoLayersAllocation];
        let is_long = |offered: &SectionExtension| long.contains(&offered.extension);
        sections.iter_mut().for_each(|section| section.extensions.retain(|offered| !is_long(offered)));
    }
    let extensions = number_extensions(&mut sections);
    add_audio_nack(&mut sections);
    sections.iter_mut().for_each(choose_estimate);

    let is_answerable = |&&i: &&usize| choose_codec(&sections[i]).is_some();
    let at = bundle.iter().find(is_answerable).or(bundle.first()).copied().unwrap_or(0);
    let (own, shared) = (&lines[at].shared, &session.shared);
    let missing = |what| SdpError::Missing { section: at, what };
    let ufrag = own.ufrag.or(shared.ufrag).ok_or(missing("a=ice-ufrag"))?;
    let pwd = own.pwd.or(shared.pwd).ok_or(missing("a=ice-pwd"))?;
    let fingerprints = if own.fingerprints.is_empty() { &shared.fingerprints } else { &own.fingerprints };
    if fingerprints.is_empty() {
        return Err(missing("a=fingerprint"));
    }
    Ok(Offer {
        ice: IceCredentials { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() },
        fingerprints: fingerprints.clone(),
        // RFC 4145 §4: who says nothing is active.
        setup: own.setup.or(shared.setup).unwrap_or(Setup::Active),
        extensions,
        extmap_allow_mixed,
        is_trickle: own.is_trickle || shared.is_trickle,
        is_ice_lite: session.is_ice_lite,
        sections,
        bundle,
        has_bundle_group: session.bundle.is_some(),
    })
}

fn check_mids(lines: &[SectionLines<'_>]) -> Result<(), SdpError> {
    let mut mids = BTreeSet::new();
    for (section, lines) in lines.iter().enumerate() {
        if !lines.mid.is_empty() && !mids.insert(lines.mid) {
            return Err(SdpError::DuplicateMid { section });
        }
    }
    Ok(())
}

/// Positions of the sections that share the transport we serve, in the group's order.
fn bundled(session: &SessionLines<'_>, lines: &[SectionLines<'_>]) -> Vec<usize> {
    let Some(group) = &session.bundle else {
        let is_rtp = |lines: &SectionLines<'_>| matches!(lines.media, "audio" | "video") && lines.has_port;
        return lines.iter().position(is_rtp).into_iter().collect();
    };
    let mut bundle = Vec::with_capacity(lines.len());
    for mid in group {
        let at = lines.iter().position(|lines| !lines.mid.is_empty() && lines.mid.as_str() == *mid);
        bundle.extend(at.filter(|at| !bundle.contains(at)));
    }
    bundle
}

fn section_of(session: &SessionLines<'_>, lines: &SectionLines<'_>, is_bundled: bool) -> Section {
    let kind = match lines.media {
        "audio" => SectionKind::Audio,
        "video" => SectionKind::Video,
        "application" => SectionKind::Application,
        _ => SectionKind::Other,
    };
    let direction = lines.shared.direction.or(session.shared.direction).unwrap_or(Direction::SendRecv);
    let encodings = offered_encodings(lines.simulcast, &lines.rids);
    let has_sim_group = lines.groups.iter().any(|(semantics, ssrcs)| *semantics == "SIM" && ssrcs.len() > 1);
    Section {
        mid: lines.mid,
        kind,
        direction,
        is_rejected: !lines.has_port && !lines.is_bundle_only,
        is_bundled,
        is_rtcp_muxed: lines.is_rtcp_muxed,
        is_rtcp_reduced: lines.is_rtcp_reduced,
        codecs: lines.codecs.assemble(kind),
        ssrcs: section_ssrcs(lines),
        has_simulcast: has_sim_group || encodings.len() > 1,
        encodings,
        extensions: section_extensions(session, lines),
        media: lines.media.to_owned(),
        protocol: lines.protocol.to_owned(),
        format: lines.format.to_owned(),
        sctp_port: lines.sctp_port,
        message_len_max: lines.message_len_max,
    }
}

/// The SSRCs of the section. In `ssrc-group:SIM` libwebrtc lists the encodings from the smallest picture to the largest.
fn section_ssrcs(lines: &SectionLines<'_>) -> SectionSsrcs {
    let pairs = |semantics| {
        lines.groups.iter().filter_map(move |(name, ssrcs)| match ssrcs[..] {
            [media, repair] if *name == semantics => Some((media, repair)),
            _ => None,
        })
    };
    let is_repair = |ssrc| pairs("FID").chain(pairs("FEC-FR")).any(|(_, repair)| repair == ssrc);
    let rtx_of = |ssrc| pairs("FID").find(|&(media, _)| media == ssrc).map(|(_, repair)| repair);
    let simulcast = lines.groups.iter().find(|(name, ssrcs)| *name == "SIM" && ssrcs.len() > 1);
    let best_first =
        || simulcast.into_iter().flat_map(|(_, ssrcs)| ssrcs.iter().rev().copied()).filter(|&ssrc| !is_repair(ssrc));
    let listed = lines.ssrcs.iter().copied().find(|&ssrc| !is_repair(ssrc));
    let primary = best_first().next().or(listed).or_else(|| pairs("FID").next().map(|(media, _)| media));
    let mut others = [(0, 0); STREAM_ENCODINGS_MAX];
    for (place, ssrc) in others.iter_mut().zip(best_first().skip(1)) {
        *place = (ssrc, rtx_of(ssrc).unwrap_or(0));
    }
    SectionSsrcs { primary, rtx: primary.and_then(rtx_of), others }
}

/// Extensions that uprtc serves; the section's lines come before the session's, and the first of a URI counts.
fn section_extensions(session: &SessionLines<'_>, lines: &SectionLines<'_>) -> Vec<SectionExtension> {
    let mut extensions: Vec<SectionExtension> = Vec::new();
    for line in lines.shared.extensions.iter().chain(&session.shared.extensions) {
        let known = Extension::ALL.into_iter().find(|extension| extension.uri() == line.uri);
        let Some(extension) = known.filter(|_| line.direction != Direction::Inactive) else { continue };
        if extensions.iter().all(|other| other.extension != extension) {
            extensions.push(SectionExtension { extension, id: line.id, direction: line.direction });
        }
    }
    extensions
}

/// Keeps one numbering for the BUNDLE group (RFC 9143 §9): an id means one extension and an extension has one id. Clients
/// exist that number each section anew (werift); there the first section counts, and what differs is left out of the
/// later ones, so that it is not answered and never sent.
fn number_extensions(sections: &mut [Section]) -> ExtensionIds {
    let mut ids: ExtensionIds = [0; EXTENSION_COUNT_MAX];
    let mut owners = [None; 15];
    for section in sections.iter_mut().filter(|section| section.is_served()) {
        section.extensions.retain(|&SectionExtension { extension, id, .. }| {
            let (known, owner) = (&mut ids[extension as usize], &mut owners[usize::from(id)]);
            if *known == 0 && owner.is_none() {
                (*known, *owner) = (id, Some(extension));
            }
            *known == id && *owner == Some(extension)
        });
    }
    ids
}

fn check_ssrcs(sections: &[Section]) -> Result<(), SdpError> {
    let mut seen = BTreeSet::new();
    for (i, section) in sections.iter().enumerate().filter(|(_, section)| section.is_served()) {
        for ssrc in section.ssrcs.all() {
            if !seen.insert(ssrc) {
                return Err(SdpError::DuplicateSsrc { section: i, ssrc });
            }
        }
    }
    Ok(())
}
