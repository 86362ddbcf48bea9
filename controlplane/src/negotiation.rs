//! From an offer to what the room and the worker need, and to the one answer.
//!
//! Two steps. [`Negotiation::read`] decides what becomes of each m-section, by the offer, the token and the room's
//! policy; it can refuse. [`Negotiation::open`] gives out the ids and writes the answer; it cannot.

use std::collections::BTreeSet;

use proto::id::{PeerId, Ssrc};
use proto::plane::{Codec, Extension, ExtensionIds, PeerExtensions, PeerOpen, SlotOpen, StreamCodec, StreamOpen};
use proto::signal::{ErrorCode, Kind, Source, TrackDescription, VideoCodec};

use crate::dtls::fingerprint_matches;
use crate::ice::Credentials;
use crate::policy::{self, Grant, Settings, VideoCodecs};
use crate::random::Random;
use crate::reconcile::Plan;
use crate::room::{Format, Formats, Slot, Track};
use crate::sdp::{
    self, AnswerParams, AnswerSection, Fingerprint, IceCredentials, Offer, OfferedCodec, Section, SlotDescription,
};

/// Why something that a client asked for is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    /// Its stable name.
    pub(crate) code: ErrorCode,
    /// One sentence for a developer.
    pub(crate) message: String,
}

impl Refusal {
    /// A refusal with a sentence.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// An offer that can be served, and what becomes of each of its m-sections.
pub(crate) struct Negotiation {
    offer: Offer,
    sections: Vec<Verdict>,
}

/// What becomes of one m-section.
#[derive(Clone, Default, Debug)]
struct Verdict {
    /// None: rejected. Else what it is answered with, the best first.
    codecs: Vec<OfferedCodec>,
    /// What it publishes.
    track: Option<Shows>,
    /// Whether it is a slot.
    is_slot: bool,
}

/// What a track shows, and whether it does so now.
#[derive(Clone, Copy, Debug)]
struct Shows {
    source: Source,
    is_active: bool,
}

/// What opening a negotiation gives.
pub(crate) struct Opened {
    /// What the peer publishes.
    pub(crate) tracks: Vec<Track>,
    /// What it receives through.
    pub(crate) slots: Vec<Slot>,
    /// The answer.
    pub(crate) sdp: String,
}

/// Our side of the transport.
pub(crate) struct Ours<'a> {
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
    ) -> Result<Negotiation, Refusal> {
        let offer = sdp::parse_offer(sdp).map_err(|error| Refusal::new(ErrorCode::BadSdp, error.to_string()))?;
        check_transport(&offer)?;
        check_described(&offer, described)?;
        if !grant.publish && !grant.subscribe {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token allows neither to publish nor to subscribe"));
        }
        let videos: Vec<Codec> = codecs.iter().map(policy::codec_of).collect();
        let (mut tracks, mut slots) = (0, 0);
        let mut sections = Vec::with_capacity(offer.sections.len());
        for section in &offer.sections {
            let codecs: Vec<OfferedCodec> = sdp::choose_codecs(section, &videos).into_iter().cloned().collect();
            let is_served = !codecs.is_empty();
            let sends = section.direction.may_send() && grant.publish && tracks < settings.tracks_max;
            let track = (is_served && sends).then(|| shows(section, described));
            let receives = section.direction.may_receive() && grant.subscribe && slots < settings.slots_max;
            let is_slot = is_served && receives;
            tracks += usize::from(track.is_some());
            slots += usize::from(is_slot);
            sections.push(Verdict { codecs, track, is_slot });
        }
        if sections.iter().all(|verdict| verdict.codecs.is_empty()) {
            let names: Vec<&str> = codecs.iter().map(VideoCodec::name).collect();
            let message = format!(
                "no m-section can be served: it takes opus or {} over DTLS-SRTP, BUNDLE and rtcp-mux",
                names.join(" or ")
            );
            return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
        }
        if tracks + slots == 0 {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token allows nothing of what is offered"));
        }
        Ok(Negotiation { offer, sections })
    }

    /// For a publisher whom no signal reaches: what it sends of video is answered in one codec, that which the room speaks
    /// now if it has it, so that it cannot go on in another that somebody lacks.
    pub(crate) fn fix_video(&mut self, room: Option<VideoCodec>) {
        for codecs in
            self.sections.iter_mut().filter(|verdict| verdict.track.is_some()).map(|verdict| &mut verdict.codecs)
        {
            let is_spoken = |codec: &OfferedCodec| room.is_some_and(|video| policy::codec_of(video) == codec.codec);
            let spoken = codecs.iter().position(is_spoken).unwrap_or(0);
            codecs.swap(0, spoken);
            codecs.truncate(1);
        }
    }

    /// How many streams it opens on the worker.
    pub(crate) fn stream_count(&self) -> usize {
        self.sections.iter().filter(|verdict| verdict.track.is_some()).count()
    }

    /// How many slots it opens on the worker.
    pub(crate) fn slot_count(&self) -> usize {
        self.sections.iter().filter(|verdict| verdict.is_slot).count()
    }

    /// What the client offered.
    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The first m-section of media that is refused. Whoever is told nothing afterwards wants all of them or none.
    pub(crate) fn first_unserved(&self) -> Option<usize> {
        self.offer.sections.iter().zip(&self.sections).position(|(section, verdict)| {
            let is_media = matches!(section.kind, sdp::SectionKind::Audio | sdp::SectionKind::Video);
            is_media && !section.is_rejected && verdict.codecs.is_empty()
        })
    }

    /// Index and name of the first m-section that is served: trickled candidates name it.
    pub(crate) fn first_served(&self) -> (usize, &str) {
        let at = self.sections.iter().position(|verdict| !verdict.codecs.is_empty());
        let at = at.expect("an offer in which nothing is served is refused");
        (at, self.offer.sections[at].mid.as_str())
    }

    /// Desires the peer with its streams and slots, and writes the answer. There must be room for them in `plan`.
    pub(crate) fn open(&self, peer: PeerId, ours: &Ours<'_>, plan: &mut Plan, random: &mut Random) -> Opened {
        let credentials = Credentials::from_random(&random.bytes());
        plan.want(PeerOpen { peer, ufrag: credentials.ufrag, pwd: credentials.pwd });
        plan.want(PeerExtensions { peer, ids: extensions_answered(&self.offer.extensions) });

        let mut opening =
            Opening { peer, used: self.offered_ssrcs(), plan, random, tracks: Vec::new(), slots: Vec::new() };
        let mut answers = Vec::with_capacity(self.sections.len());
        for (index, (section, verdict)) in self.offer.sections.iter().zip(&self.sections).enumerate() {
            answers.push(opening.section(index, section, verdict));
        }
        let Opening { tracks, slots, random, .. } = opening;
        let params = AnswerParams {
            session_id: u64::from_le_bytes(random.bytes()) >> 1,
            ice: IceCredentials { ufrag: credentials.ufrag_str().to_owned(), pwd: credentials.pwd_str().to_owned() },
            fingerprint: ours.fingerprint,
            setup: self.offer.setup.answered(),
            candidates: ours.candidates,
            sections: answers,
        };
        Opened { tracks, slots, sdp: sdp::write_answer(&self.offer, &params) }
    }

    fn offered_ssrcs(&self) -> BTreeSet<Ssrc> {
        self.offer.sections.iter().flat_map(|section| [section.ssrcs.primary, section.ssrcs.rtx]).flatten().collect()
    }
}

/// The m-sections of one answer while they are opened.
struct Opening<'a> {
    peer: PeerId,
    /// SSRCs of the transport, the client's and ours: no two streams of it may share one (RFC 3550 §8).
    used: BTreeSet<Ssrc>,
    plan: &'a mut Plan,
    random: &'a mut Random,
    tracks: Vec<Track>,
    slots: Vec<Slot>,
}

impl Opening<'_> {
    fn section<'a>(&mut self, index: usize, section: &Section, verdict: &'a Verdict) -> AnswerSection<'a> {
        let Some(codec) = verdict.codecs.first() else { return AnswerSection::Rejected };
        let formats = (format(codec), verdict.codecs.get(1).map(format));
        if let Some(shows) = verdict.track {
            self.track(index, section, codec, formats, shows);
        }
        let slot = verdict.is_slot.then(|| self.slot(index, section, codec, formats));
        let codecs = verdict.codecs.iter().collect();
        match (verdict.track, slot) {
            (None, None) => AnswerSection::Inactive { codecs },
            (Some(_), None) => AnswerSection::Receive { codecs },
            (None, Some(slot)) => AnswerSection::Send { codecs, slot },
            (Some(_), Some(slot)) => AnswerSection::Both { codecs, slot },
        }
    }

    fn track(&mut self, index: usize, section: &Section, codec: &OfferedCodec, formats: Formats, shows: Shows) {
        let peer = self.peer;
        let stream = self.plan.want_stream(|stream| StreamOpen {
            stream,
            peer,
            ssrc: section.ssrcs.primary.unwrap_or(0),
            rtx_ssrc: section.ssrcs.rtx.unwrap_or(0),
            mid: section.mid,
            pt: codec.pt,
            rtx_pt: codec.rtx_pt.unwrap_or(0),
            codec: codec.codec,
            feedback: codec.feedback,
        });
        let stream = stream.expect("the engine made sure of room for the streams");
        if let Some(Format { codec, pt, rtx_pt }) = formats.1 {
            self.plan.want(StreamCodec { stream, codec, pt, rtx_pt });
        }
        self.tracks.push(Track {
            stream,
            mid: mid_text(index, section),
            source: shows.source,
            is_active: shows.is_active,
            formats,
            is_muted: false,
        });
    }

    fn slot(&mut self, index: usize, section: &Section, codec: &OfferedCodec, formats: Formats) -> SlotDescription {
        let peer = self.peer;
        let ssrc = self.fresh_ssrc();
        let has_rtx = formats.0.rtx_pt != 0 || formats.1.is_some_and(|second| second.rtx_pt != 0);
        let rtx_ssrc = has_rtx.then(|| self.fresh_ssrc());
        let random = &mut *self.random;
        let slot = self.plan.want_slot(|slot| SlotOpen {
            slot,
            peer,
            ssrc,
            rtx_ssrc: rtx_ssrc.unwrap_or(0),
            mid: section.mid,
            seq_first: random.u32() as u16 & 0x7fff,
            rtx_seq_first: random.u32() as u16 & 0x7fff,
            timestamp_first: random.u32(),
        });
        let kind = kind_of_codec(codec.codec);
        let lane = self.slots.iter().filter(|slot| slot.kind == kind).count();
        self.slots.push(Slot {
            slot: slot.expect("the engine made sure of room for the slots"),
            mid: mid_text(index, section),
            kind,
            formats,
            feedback: codec.feedback,
            carries: None,
            route: None,
        });
        SlotDescription {
            ssrc,
            rtx_ssrc,
            cname: format!("uprtc-{lane}"),
            msid_stream: format!("uprtc-{lane}"),
            msid_track: format!("uprtc-{lane}-{}", if kind == Kind::Audio { "audio" } else { "video" }),
        }
    }

    fn fresh_ssrc(&mut self) -> Ssrc {
        loop {
            let ssrc = self.random.nonzero_u32();
            if self.used.insert(ssrc) {
                return ssrc;
            }
        }
    }
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

/// What a sending section shows, by its description or else by its kind.
fn shows(section: &Section, described: &[TrackDescription]) -> Shows {
    let kind = match section.kind {
        sdp::SectionKind::Audio => Kind::Audio,
        _ => Kind::Video,
    };
    match described.iter().find(|description| section.mid.as_str() == description.mid) {
        Some(description) => Shows { source: description.source, is_active: description.active },
        None => Shows { source: policy::default_source(kind), is_active: true },
    }
}

/// How a section names a codec.
fn format(codec: &OfferedCodec) -> Format {
    Format { codec: codec.codec, pt: codec.pt, rtx_pt: codec.rtx_pt.unwrap_or(0) }
}

fn kind_of_codec(codec: Codec) -> Kind {
    if codec.is_video() { Kind::Video } else { Kind::Audio }
}

/// How a track or slot is named: by its MID, or by the section's index where the client gives none.
fn mid_text(index: usize, section: &Section) -> String {
    if section.mid.is_empty() { index.to_string() } else { section.mid.as_str().to_owned() }
}

/// The extensions that stand in the answer: those of rids do not, because simulcast does not.
fn extensions_answered(offered: &ExtensionIds) -> ExtensionIds {
    let mut ids = *offered;
    ids[Extension::Rid as usize] = 0;
    ids[Extension::RepairedRid as usize] = 0;
    ids
}
