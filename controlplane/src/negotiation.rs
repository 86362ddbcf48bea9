//! From an offer to what the room and the worker need, and to its answer.
//!
//! [`Negotiation::read`] decides what becomes of each m-section, by the offer, the token and the room's policy; it can
//! refuse. [`crate::wiring::open_peer`] then opens streams and slots on the worker, and [`Negotiation::answer`] writes the
//! answer from their SSRCs; those two cannot fail.
//!
//! A subsequent offer (RFC 8829 §5.2.2) goes the same way with what was [`Before`] it. What it leaves as it was stays open
//! on the worker; a section that stops flowing keeps its stream or its slot for when it flows again, because a slot's SSRC
//! has one run of numbers under the peer's key; only a stopped section, or one whose codecs change, gives them up.

use proto::id::{Pt, Rid};
use proto::plane::{Codec, Extension, ExtensionIds};
use proto::signal::{ErrorCode, Kind, Source, TrackDescription, VideoCodec};

use crate::dtls::fingerprint_matches;
use crate::ice::Credentials;
use crate::member::{Format, Formats, Slot, Track};
use crate::negotiated::{DataChannels, Negotiated, Spent};
use crate::policy::{self, Grant, Settings, VideoCodecs};
use crate::refusal::Refusal;
use crate::sdp::{
    self, AnswerParams, AnswerSection, Fingerprint, IceCredentials, Offer, OfferedCodec, OpusParams, Section,
    SlotDescription,
};

/// An offer that can be served, and what becomes of each of its m-sections.
pub(crate) struct Negotiation {
    offer: Offer,
    sections: Vec<Verdict>,
}

/// What becomes of one m-section.
#[derive(Clone, Default, Debug)]
pub(crate) struct Verdict {
    /// None: rejected. Else what it is answered with, the best first.
    pub(crate) codecs: Vec<OfferedCodec>,
    /// What it publishes.
    pub(crate) track: Option<Shows>,
    /// In which encodings, if in several.
    pub(crate) encodings: Vec<Rid>,
    /// Whether it is a slot.
    pub(crate) is_slot: bool,
    /// Whether it is data channels that are served.
    pub(crate) is_data: bool,
}

impl Verdict {
    /// How many streams it publishes.
    pub(crate) fn stream_count(&self) -> usize {
        self.track.map_or(0, |_| self.encodings.len().max(1))
    }

    /// The payload type of RED in a section that is served, or 0.
    pub(crate) fn red_pt(&self) -> Pt {
        self.codecs[0].red_pt.unwrap_or(0)
    }

    /// How a section that is served names its codecs.
    pub(crate) fn formats(&self) -> Formats {
        let format = |codec: &OfferedCodec| Format { codec: codec.codec, pt: codec.pt, rtx_pt: codec.repair_pt() };
        (format(&self.codecs[0]), self.codecs.get(1).map(format))
    }
}

/// What a track shows, and whether it does so now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shows {
    pub(crate) source: Source,
    pub(crate) is_active: bool,
}

/// What an offer finds: nothing if it is the peer's first.
#[derive(Clone, Copy, Default)]
pub(crate) struct Before<'a> {
    /// What was negotiated.
    pub(crate) negotiated: Option<&'a Negotiated>,
    /// What the peer publishes.
    pub(crate) tracks: &'a [Track],
    /// What it receives through.
    pub(crate) slots: &'a [Slot],
}

impl<'a> Before<'a> {
    /// The track of a section.
    pub(crate) fn track(&self, index: usize, section: &Section) -> Option<&'a Track> {
        let mid = mid_text(index, section);
        self.tracks.iter().find(|track| track.mid == mid)
    }

    /// The slot of a section.
    pub(crate) fn slot(&self, index: usize, section: &Section) -> Option<&'a Slot> {
        let mid = mid_text(index, section);
        self.slots.iter().find(|slot| slot.mid == mid)
    }
}

/// Our side of the transport.
pub(crate) struct Ours<'a> {
    /// The id of a first answer (`o=`, RFC 8866 §5.2).
    pub(crate) session_id: u64,
    /// Our ICE credentials.
    pub(crate) credentials: &'a Credentials,
    /// Hash of our certificate.
    pub(crate) fingerprint: &'a Fingerprint,
    /// Our candidates.
    pub(crate) candidates: &'a [String],
}

impl Negotiation {
    /// Reads an offer and decides what can be served of it.
    pub(crate) fn read(
        sdp: &str,
        described: &[TrackDescription],
        grant: &Grant,
        settings: &Settings,
        codecs: VideoCodecs,
        before: Before<'_>,
    ) -> Result<Negotiation, Refusal> {
        let offer = sdp::parse_offer(sdp).map_err(|error| Refusal::new(ErrorCode::BadSdp, error.to_string()))?;
        check_transport(&offer)?;
        check_described(&offer, described)?;
        if let Some(negotiated) = before.negotiated {
            negotiated.check(&offer)?;
        }
        if !grant.publish && !grant.subscribe {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token allows neither to publish nor to subscribe"));
        }
        let videos: Vec<Codec> = codecs.iter().map(policy::codec_of).collect();
        let sections = decide(&offer, described, grant, settings, &videos, before);
        if sections.iter().all(|verdict| verdict.codecs.is_empty() && !verdict.is_data) {
            let at = offer.sections.iter().position(|section| is_media(section) && !section.is_rejected);
            let message = match at {
                Some(at) => format!("no m-section can be served: {}", why_unserved(sdp, &offer, at, codecs)),
                None => "no m-section of audio, video or data channels that can be served is offered".to_owned(),
            };
            return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
        }
        // A peer that is in may send and receive nothing for a while.
        let is_empty = sections.iter().all(|verdict| verdict.track.is_none() && !verdict.is_slot && !verdict.is_data);
        if is_empty && before.negotiated.is_none() {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token allows nothing of what is offered"));
        }
        Ok(Negotiation { offer, sections })
    }

    /// For a publisher that gets no signals: its video is answered in one codec, the one that the room uses now if it has
    /// it, so that it cannot go on in another that somebody lacks.
    pub(crate) fn fix_video(&mut self, room: Option<VideoCodec>) {
        for codecs in
            self.sections.iter_mut().filter(|verdict| verdict.track.is_some()).map(|verdict| &mut verdict.codecs)
        {
            let is_used = |codec: &OfferedCodec| room.is_some_and(|video| policy::codec_of(video) == codec.codec);
            let used = codecs.iter().position(is_used).unwrap_or(0);
            codecs.swap(0, used);
            codecs.truncate(1);
        }
    }

    /// Declares for Opus what those want who would receive the peer, and what they are about to get whom it receives.
    pub(crate) fn tune(&mut self, receivers: &[OpusParams]) {
        for verdict in &mut self.sections {
            let (sends, is_slot) = (verdict.track.is_some(), verdict.is_slot);
            for opus in verdict.codecs.iter_mut().filter_map(|codec| codec.opus.as_mut()) {
                let sent = opus.sent();
                *opus = match (sends, is_slot) {
                    (true, false) => opus.answered(receivers),
                    (true, true) => OpusParams { sprop_stereo: sent.sprop_stereo, ..opus.answered(receivers) },
                    (false, _) => sent,
                };
            }
        }
    }

    /// What it declares of Opus where it receives; of several sections the first counts, as they hardly ever differ.
    pub(crate) fn hears(&self) -> Option<OpusParams> {
        let declared = |index: usize| sdp::choose_codecs(&self.offer.sections[index], &[]).first()?.opus;
        self.served().filter(|(_, _, verdict)| verdict.is_slot).find_map(|(index, ..)| declared(index))
    }

    /// All m-sections, in their order.
    pub(crate) fn sections(&self) -> impl Iterator<Item = (usize, &Section, &Verdict)> {
        let sections = self.offer.sections.iter().zip(&self.sections).enumerate();
        sections.map(|(index, (section, verdict))| (index, section, verdict))
    }

    /// The m-sections that are served, with their index.
    pub(crate) fn served(&self) -> impl Iterator<Item = (usize, &Section, &Verdict)> {
        self.sections().filter(|(_, _, verdict)| !verdict.codecs.is_empty())
    }

    /// How many streams it opens on the worker.
    pub(crate) fn stream_count(&self) -> usize {
        self.sections.iter().map(Verdict::stream_count).sum()
    }

    /// How many slots it opens on the worker.
    pub(crate) fn slot_count(&self) -> usize {
        self.sections.iter().filter(|verdict| verdict.is_slot).count()
    }

    /// Both, of a newcomer.
    pub(crate) fn needs(&self) -> (usize, usize) {
        (self.stream_count(), self.slot_count())
    }

    /// What the client offered.
    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The first m-section of media that is refused. A client without a signalling socket wants all of them or none.
    pub(crate) fn first_unserved(&self) -> Option<usize> {
        self.offer
            .sections
            .iter()
            .zip(&self.sections)
            .position(|(section, verdict)| is_media(section) && !section.is_rejected && verdict.codecs.is_empty())
    }

    /// Why that one is not, in a sentence for its developer; `sdp` is the offer's text.
    pub(crate) fn why_unserved(&self, sdp: &str, index: usize, codecs: VideoCodecs) -> String {
        why_unserved(sdp, &self.offer, index, codecs)
    }

    /// What is agreed of data channels, if they are served.
    pub(crate) fn data(&self) -> Option<DataChannels> {
        let (_, section, _) = self.sections().find(|(_, _, verdict)| verdict.is_data)?;
        Some(DataChannels { port: section.sctp_port?, len_max: section.message_len_max })
    }

    /// Index and name of the first m-section that is served: trickled candidates name it.
    pub(crate) fn first_served(&self) -> (usize, &str) {
        let at = self.sections.iter().position(|verdict| !verdict.codecs.is_empty() || verdict.is_data);
        let at = at.expect("an offer in which nothing is served is refused");
        (at, self.offer.sections[at].mid.as_str())
    }

    /// The header extension ids as they are answered: those of RIDs only if a track comes in several encodings.
    pub(crate) fn extensions(&self) -> ExtensionIds {
        let mut ids = self.offer.extensions;
        if self.sections.iter().all(|verdict| verdict.encodings.is_empty()) {
            ids[Extension::Rid as usize] = 0;
            ids[Extension::RepairedRid as usize] = 0;
        }
        ids
    }

    /// Writes the answer, for the slots as they were opened, by section, and says what is negotiated by it.
    pub(crate) fn answer(
        &self,
        ours: &Ours<'_>,
        before: Option<&Negotiated>,
        slots: Vec<Option<SlotDescription>>,
        spent: Spent,
    ) -> (String, Negotiated) {
        let (session_id, version) = match before {
            Some(before) => (before.description.0, before.description.1.wrapping_add(1)),
            None => (ours.session_id, 1),
        };
        let fingerprint = before.map(Negotiated::fingerprint);
        let sections = self.sections.iter().zip(slots).map(|(verdict, slot)| answer_section(verdict, slot));
        let params = AnswerParams {
            session_id,
            version,
            ice: IceCredentials {
                ufrag: ours.credentials.ufrag_str().to_owned(),
                pwd: ours.credentials.pwd_str().to_owned(),
            },
            fingerprint: fingerprint.as_ref().unwrap_or(ours.fingerprint),
            setup: before.map_or(self.offer.setup.answered(), Negotiated::setup),
            candidates: ours.candidates,
            sections: sections.collect(),
        };
        let mut negotiated = Negotiated::of(&self.offer, &params, spent);
        negotiated.data = self.data();
        negotiated.is_sdk = before.is_some_and(|before| before.is_sdk);
        (sdp::write_answer(&self.offer, &params), negotiated)
    }
}

fn answer_section(verdict: &Verdict, slot: Option<SlotDescription>) -> AnswerSection<'_> {
    if verdict.is_data {
        return AnswerSection::Data;
    }
    if verdict.codecs.is_empty() {
        return AnswerSection::Rejected;
    }
    let (codecs, encodings) = (verdict.codecs.iter().collect(), verdict.encodings.as_slice());
    match (verdict.track, slot) {
        (None, Some(slot)) if verdict.is_slot => AnswerSection::Send { codecs, slot },
        (Some(_), Some(slot)) if verdict.is_slot => AnswerSection::Both { codecs, encodings, slot },
        (None, paused) => AnswerSection::Inactive { codecs, paused },
        (Some(_), paused) => AnswerSection::Receive { codecs, encodings, paused },
    }
}

fn is_media(section: &Section) -> bool {
    matches!(section.kind, sdp::SectionKind::Audio | sdp::SectionKind::Video)
}

/// What an m-section of media lacks to be served.
fn why_unserved(sdp: &str, offer: &Offer, index: usize, codecs: VideoCodecs) -> String {
    let section = &offer.sections[index];
    if !section.is_bundled {
        return format!("m-section {index} is not in the BUNDLE group of the first one (RFC 9143)");
    }
    if !section.is_rtcp_muxed {
        return format!("m-section {index} has no a=rtcp-mux (RFC 5761)");
    }
    let (kind, served) = match section.kind {
        sdp::SectionKind::Audio => ("audio", "Opus (opus/48000/2)".to_owned()),
        _ => ("video", codecs.iter().map(|codec| codec.name().to_uppercase()).collect::<Vec<_>>().join(" or ")),
    };
    let offered = match sdp::codec_names(sdp, index) {
        names if names.is_empty() => "no codec by a=rtpmap".to_owned(),
        names => names.join(", "),
    };
    format!("m-section {index} offers {offered}, and this room has {kind} in {served}, over DTLS-SRTP")
}

/// What becomes of each m-section. What is open already goes before what is new, wherever it stands.
fn decide(
    offer: &Offer,
    described: &[TrackDescription],
    grant: &Grant,
    settings: &Settings,
    videos: &[Codec],
    before: Before<'_>,
) -> Vec<Verdict> {
    let chosen = |section| sdp::choose_codecs(section, videos).into_iter().cloned().collect();
    let chosen: Vec<Vec<OfferedCodec>> = offer.sections.iter().map(chosen).collect();
    let served = || offer.sections.iter().enumerate().filter(|(index, _)| !chosen[*index].is_empty());
    let mut tracks = served().filter(|(index, section)| before.track(*index, section).is_some()).count();
    let mut slots = served().filter(|(index, section)| before.slot(*index, section).is_some()).count();
    let was_simulcast = |track: &Track| !track.encodings.is_empty();
    let mut simulcasts = before.tracks.iter().filter(|track| was_simulcast(track)).count();
    let mut verdicts = Vec::with_capacity(chosen.len());
    let carries_data = settings.data_bps_max > 0 && (grant.data || grant.subscribe);
    for (index, (section, codecs)) in offer.sections.iter().zip(chosen).enumerate() {
        if codecs.is_empty() {
            // One SCTP association is all that a transport has.
            let is_data = carries_data && section.has_data_channels() && !verdicts.iter().any(|v: &Verdict| v.is_data);
            verdicts.push(Verdict { is_data, ..Verdict::default() });
            continue;
        }
        let (was_track, was_slot) = (before.track(index, section), before.slot(index, section).is_some());
        let sends = section.direction.may_send() && grant.publish;
        let sends = sends && (was_track.is_some() || tracks < settings.tracks_max);
        let receives = section.direction.may_receive() && grant.subscribe;
        let is_slot = receives && (was_slot || slots < settings.slots_max);
        tracks += usize::from(sends && was_track.is_none());
        slots += usize::from(is_slot && !was_slot);
        let was_simulcast = was_track.is_some_and(was_simulcast);
        let mut encodings = Vec::new();
        if sends && (was_simulcast || simulcasts < policy::SIMULCAST_TRACKS_MAX) {
            encodings = sdp::choose_encodings(section, &codecs);
            simulcasts += usize::from(!encodings.is_empty() && !was_simulcast);
        }
        let track = sends.then(|| shows(section, described, was_track));
        verdicts.push(Verdict { codecs, track, encodings, is_slot, is_data: false });
    }
    verdicts
}

/// What a transport cannot do without.
fn check_transport(offer: &Offer) -> Result<(), Refusal> {
    let unsupported = |message: &str| Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
    if offer.is_ice_lite {
        return unsupported("the client is ICE-lite, and so is this server: nobody would send checks");
    }
    // A hash that cannot be computed fails in the same way for every certificate.
    let is_usable = |f: &Fingerprint| fingerprint_matches(&[], &f.algorithm, &f.bytes).is_ok();
    if !offer.fingerprints.iter().any(is_usable) {
        return unsupported("no fingerprint is of sha-256, sha-384 or sha-512");
    }
    Ok(())
}

/// Each description must be of a section that sends, and can show what it says.
fn check_described(offer: &Offer, described: &[TrackDescription]) -> Result<(), Refusal> {
    let refuse = |mid: &str, why: &str| {
        // The MID is the client's text: cut, so that the error stays a sentence.
        let mid: String = mid.chars().take(16).collect();
        Err(Refusal::new(ErrorCode::UnsupportedOffer, format!("tracks names {mid:?}, {why}")))
    };
    for (n, description) in described.iter().enumerate() {
        let mid = &description.mid;
        let Some(section) = offer.sections.iter().find(|section| section.mid.as_str() == mid) else {
            return refuse(mid, "which is no m-section of the offer");
        };
        if !section.direction.may_send() {
            return refuse(mid, "in which the client does not send");
        }
        let is_kind = match policy::kind_of(description.source) {
            Kind::Audio => section.kind == sdp::SectionKind::Audio,
            Kind::Video => section.kind == sdp::SectionKind::Video,
        };
        if !is_kind {
            return refuse(mid, "whose kind does not fit its source");
        }
        if described[..n].iter().any(|other| other.mid == *mid) {
            return refuse(mid, "twice");
        }
    }
    Ok(())
}

/// What a sending section shows, by its description, or else as before, or else by its kind.
fn shows(section: &Section, described: &[TrackDescription], before: Option<&Track>) -> Shows {
    let kind = match section.kind {
        sdp::SectionKind::Audio => Kind::Audio,
        _ => Kind::Video,
    };
    match described.iter().find(|description| section.mid.as_str() == description.mid) {
        Some(description) => Shows { source: description.source, is_active: description.active },
        None => before.map_or(Shows { source: policy::default_source(kind), is_active: true }, |track| Shows {
            source: track.source,
            is_active: track.is_active,
        }),
    }
}

/// How a track or slot is named: by its MID, or by the section's index where the client gives none.
pub(crate) fn mid_text(index: usize, section: &Section) -> String {
    if section.mid.is_empty() { index.to_string() } else { section.mid.as_str().to_owned() }
}
