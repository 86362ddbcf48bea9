//! From an offer to what the room and the worker need, and to its answer.
//!
//! Two steps. [`Negotiation::read`] decides what becomes of each m-section, by the offer, the token and the room's
//! policy; it can refuse. [`Negotiation::open`] gives out the ids and writes the answer; it cannot.
//!
//! A further offer takes the same way with what stands [`Before`] it. What it leaves as it was stays open on the worker;
//! a section that stops flowing keeps its stream or its slot for when it flows again, because a slot's SSRC has one run
//! of numbers under the peer's key; only a stopped section, or one whose codecs change, gives them up.

use std::collections::BTreeSet;

use proto::id::{PeerId, SlotId, Ssrc, StreamId};
use proto::plane::{
    Codec, Command, Extension, ExtensionIds, PeerExtensions, PeerOpen, STREAM_SETS_PART_LEN, SlotOpen, StreamCodec,
    StreamEncodings, StreamOpen, StreamSets,
};
use proto::signal::{ErrorCode, Kind, Source, TrackDescription, VideoCodec};

use crate::dtls::fingerprint_matches;
use crate::ice::Credentials;
use crate::policy::{self, Grant, Settings, VideoCodecs};
use crate::random::Random;
use crate::reconcile::Plan;
use crate::room::{Format, Formats, Slot, Track};
use crate::sdp::{
    self, AnswerParams, AnswerSection, Fingerprint, IceCredentials, Offer, OfferedCodec, OpusParams, Section,
    SlotDescription,
};
use crate::terms::{Spent, Terms};

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

/// What an offer finds: nothing if it is the peer's first.
#[derive(Clone, Copy, Default)]
pub(crate) struct Before<'a> {
    /// What was agreed.
    pub(crate) terms: Option<&'a Terms>,
    /// What the peer publishes.
    pub(crate) tracks: &'a [Track],
    /// What it receives through.
    pub(crate) slots: &'a [Slot],
}

impl<'a> Before<'a> {
    fn track(&self, index: usize, section: &Section) -> Option<&'a Track> {
        let mid = mid_text(index, section);
        self.tracks.iter().find(|track| track.mid == mid)
    }

    fn slot(&self, index: usize, section: &Section) -> Option<&'a Slot> {
        let mid = mid_text(index, section);
        self.slots.iter().find(|slot| slot.mid == mid)
    }
}

/// What opening a negotiation gives.
pub(crate) struct Opened {
    /// What the peer publishes.
    pub(crate) tracks: Vec<Track>,
    /// What it receives through.
    pub(crate) slots: Vec<Slot>,
    /// What it declares of Opus where it receives.
    pub(crate) hears: Option<OpusParams>,
    /// What is agreed now.
    pub(crate) terms: Terms,
    /// Whether ICE starts over.
    pub(crate) is_restart: bool,
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
        before: Before<'_>,
    ) -> Result<Negotiation, Refusal> {
        let offer = sdp::parse_offer(sdp).map_err(|error| Refusal::new(ErrorCode::BadSdp, error.to_string()))?;
        check_transport(&offer)?;
        check_described(&offer, described)?;
        if let Some(terms) = before.terms {
            terms.check(&offer)?;
        }
        if !grant.publish && !grant.subscribe {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token allows neither to publish nor to subscribe"));
        }
        let videos: Vec<Codec> = codecs.iter().map(policy::codec_of).collect();
        let sections = decide(&offer, described, grant, settings, &videos, before);
        if sections.iter().all(|verdict| verdict.codecs.is_empty()) {
            let at = offer.sections.iter().position(|section| is_media(section) && !section.is_rejected);
            let message = match at {
                Some(at) => format!("no m-section can be served: {}", why_unserved(sdp, &offer, at, codecs)),
                None => "no m-section of audio or video is offered".to_owned(),
            };
            return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
        }
        // Who is in may rest altogether.
        let is_empty = sections.iter().all(|verdict| verdict.track.is_none() && !verdict.is_slot);
        if is_empty && before.terms.is_none() {
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
    fn hears(&self) -> Option<OpusParams> {
        let declared = |index: usize| sdp::choose_codecs(&self.offer.sections[index], &[]).first()?.opus;
        self.served().filter(|(_, _, verdict)| verdict.is_slot).find_map(|(index, ..)| declared(index))
    }

    /// Refuses a further offer that asks for more than a worker holds for one peer, or that it could not follow.
    pub(crate) fn check_further(&self, peer: PeerId, before: Before<'_>, plan: &Plan) -> Result<(), Refusal> {
        let ids = extensions_answered(&self.offer.extensions);
        if plan.extensions(peer).is_some_and(|was| is_renumbered(&was, &ids)) {
            let message = "an id of a header extension means another one now (RFC 8285 section 5)";
            return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
        }
        if let Some(ssrc) = self.doubled_ssrc(peer, before, plan) {
            let message = format!("SSRC {ssrc} is that of another m-section, which may rest");
            return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
        }
        let (mut fresh, mut spent) = ((0, 0), before.terms.map(|terms| terms.spent).unwrap_or_default());
        for (index, section, verdict) in self.served() {
            let (track, slot) = (before.track(index, section), before.slot(index, section));
            if verdict.track.is_some() && kept_stream(section, verdict, peer, track, plan).is_none() {
                let was = track.and_then(|track| plan.stream(track.stream));
                if was.is_some_and(|(was, _)| was.ssrc == 0) && section.ssrcs.primary.is_none() {
                    let message = format!("m-section {index} changes its codecs and says no SSRC");
                    return Err(Refusal::new(ErrorCode::UnsupportedOffer, message));
                }
                fresh.0 += usize::from(track.is_none());
                spent.streams += ssrcs_spent(section);
            }
            if verdict.is_slot && kept_slot(verdict, slot).is_none() {
                fresh.1 += usize::from(slot.is_none());
                spent.slots += 2;
            }
        }
        if spent.streams > policy::STREAM_SSRCS_MAX || spent.slots > policy::SLOT_SSRCS_MAX {
            let message = "the peer has had more SSRCs than one key may have: that needs a new RTCPeerConnection";
            return Err(Refusal::new(ErrorCode::TooMuch, message));
        }
        match plan.has_room_for(fresh.0, fresh.1) {
            true => Ok(()),
            false => Err(Refusal::new(ErrorCode::ServerFull, "the server has its limit of streams and slots")),
        }
    }

    /// An SSRC that two streams would have: not all of them stand in the offer.
    fn doubled_ssrc(&self, peer: PeerId, before: Before<'_>, plan: &Plan) -> Option<Ssrc> {
        let streams = self.served().filter_map(|(index, section, verdict)| {
            let was = before.track(index, section).and_then(|track| plan.stream(track.stream));
            let id = StreamId::new(0, 1); // Whichever.
            verdict.track.map(|_| stream_of(section, verdict, peer, id, was.as_ref())).or(was)
        });
        let mut seen = BTreeSet::new();
        streams.flat_map(|stream| ssrcs_of(&stream)).find(|&ssrc| !seen.insert(ssrc))
    }

    /// The m-sections that are served, with their index.
    fn served(&self) -> impl Iterator<Item = (usize, &Section, &Verdict)> {
        let sections = self.offer.sections.iter().zip(&self.sections).enumerate();
        sections.map(|(index, (section, verdict))| (index, section, verdict)).filter(|(_, _, v)| !v.codecs.is_empty())
    }

    /// How many streams it opens on the worker.
    pub(crate) fn stream_count(&self) -> usize {
        self.sections.iter().filter(|verdict| verdict.track.is_some()).count()
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

    /// The first m-section of media that is refused. Whoever is told nothing afterwards wants all of them or none.
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

    /// Index and name of the first m-section that is served: trickled candidates name it.
    pub(crate) fn first_served(&self) -> (usize, &str) {
        let at = self.sections.iter().position(|verdict| !verdict.codecs.is_empty());
        let at = at.expect("an offer in which nothing is served is refused");
        (at, self.offer.sections[at].mid.as_str())
    }

    /// Desires the peer with its streams and slots, and writes the answer. There must be room for them in `plan`.
    pub(crate) fn open(
        &self,
        peer: PeerId,
        ours: &Ours<'_>,
        before: Before<'_>,
        plan: &mut Plan,
        random: &mut Random,
    ) -> Opened {
        let is_restart = before.terms.is_some_and(|terms| terms.is_restart(&self.offer.ice));
        let credentials = match plan.credentials(peer).filter(|_| before.terms.is_some() && !is_restart) {
            Some(open) => Credentials { ufrag: open.ufrag, pwd: open.pwd },
            None => Credentials::from_random(&random.bytes()),
        };
        plan.want(PeerOpen { peer, ufrag: credentials.ufrag, pwd: credentials.pwd });
        plan.want(PeerExtensions { peer, ids: self.extensions(plan.extensions(peer)) });
        self.close_ended(before, plan);

        let mut used = self.offered_ssrcs();
        let slots = before.slots.iter().filter_map(|slot| plan.slot(slot.slot));
        used.extend(slots.flat_map(|slot| [slot.ssrc, slot.rtx_ssrc]));
        let spent = before.terms.map(|terms| terms.spent).unwrap_or_default();
        let mut opening = Opening { peer, before, used, spent, plan, random, tracks: Vec::new(), slots: Vec::new() };
        let mut answers = Vec::with_capacity(self.sections.len());
        for (index, (section, verdict)) in self.offer.sections.iter().zip(&self.sections).enumerate() {
            answers.push(opening.section(index, section, verdict));
        }
        let Opening { tracks, slots, random, spent, .. } = opening;
        let (id, version) = match before.terms {
            Some(terms) => (terms.description.0, terms.description.1.wrapping_add(1)),
            None => (u64::from_le_bytes(random.bytes()) >> 1, 1),
        };
        let fingerprint = before.terms.map(Terms::fingerprint);
        let params = AnswerParams {
            session_id: id,
            version,
            ice: IceCredentials { ufrag: credentials.ufrag_str().to_owned(), pwd: credentials.pwd_str().to_owned() },
            fingerprint: fingerprint.as_ref().unwrap_or(ours.fingerprint),
            setup: before.terms.map_or(self.offer.setup.answered(), Terms::setup),
            candidates: ours.candidates,
            sections: answers,
        };
        let terms = Terms::of(&self.offer, &params, spent);
        Opened { tracks, slots, hears: self.hears(), terms, is_restart, sdp: sdp::write_answer(&self.offer, &params) }
    }

    /// Ids as they are answered. Those of before stand, although no section has them any more: packets under way do.
    fn extensions(&self, before: Option<ExtensionIds>) -> ExtensionIds {
        let mut ids = before.unwrap_or_default();
        for (id, answered) in ids.iter_mut().zip(extensions_answered(&self.offer.extensions)) {
            *id = if answered == 0 { *id } else { answered };
        }
        ids
    }

    /// What was of sections that are stopped now gives back its ids, before others are issued.
    fn close_ended(&self, before: Before<'_>, plan: &mut Plan) {
        let stays = |mid: &str| self.served().any(|(index, section, _)| mid_text(index, section) == mid);
        for track in before.tracks.iter().filter(|track| !stays(&track.mid)) {
            plan.unwant_stream(track.stream);
        }
        for slot in before.slots.iter().filter(|slot| !stays(&slot.mid)) {
            close_slot(slot, plan);
        }
    }

    fn offered_ssrcs(&self) -> BTreeSet<Ssrc> {
        self.offer.sections.iter().flat_map(|section| section.ssrcs.all()).collect()
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
    let mut verdicts = Vec::with_capacity(chosen.len());
    for (index, (section, codecs)) in offer.sections.iter().zip(chosen).enumerate() {
        if codecs.is_empty() {
            verdicts.push(Verdict::default());
            continue;
        }
        let (was_track, was_slot) = (before.track(index, section), before.slot(index, section).is_some());
        let sends = section.direction.may_send() && grant.publish;
        let sends = sends && (was_track.is_some() || tracks < settings.tracks_max);
        let receives = section.direction.may_receive() && grant.subscribe;
        let is_slot = receives && (was_slot || slots < settings.slots_max);
        tracks += usize::from(sends && was_track.is_none());
        slots += usize::from(is_slot && !was_slot);
        verdicts.push(Verdict { codecs, track: sends.then(|| shows(section, described, was_track)), is_slot });
    }
    verdicts
}

/// The stream that a section goes on with as it is.
fn kept_stream(
    section: &Section,
    verdict: &Verdict,
    peer: PeerId,
    track: Option<&Track>,
    plan: &Plan,
) -> Option<StreamId> {
    let stream = track?.stream;
    let open = plan.stream(stream)?;
    (stream_of(section, verdict, peer, stream, Some(&open)) == open).then_some(stream)
}

/// A section's stream as the worker is told of it: the command that opens it, and those of its parts. A client that does not
/// repeat its SSRCs still has them, and what it once told of its parameter sets stands.
fn stream_of(
    section: &Section,
    verdict: &Verdict,
    peer: PeerId,
    stream: StreamId,
    before: Option<&(StreamOpen, Vec<Command>)>,
) -> (StreamOpen, Vec<Command>) {
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
    };
    let second = verdict.codecs.get(1).map(format);
    let second = second.map(|Format { codec, pt, rtx_pt }| StreamCodec { stream, codec, pt, rtx_pt }.into());
    let parts = second.into_iter().chain(encodings_of(section, stream, known)).chain(sets_of(verdict, stream, before));
    (open, parts.collect())
}

/// The SSRCs of a stream.
fn ssrcs_of((open, parts): &(StreamOpen, Vec<Command>)) -> Vec<Ssrc> {
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
fn ssrcs_spent(section: &Section) -> usize {
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

/// The slot that a section goes on with as it is.
fn kept_slot(verdict: &Verdict, slot: Option<&Slot>) -> Option<SlotId> {
    let codec = &verdict.codecs[0];
    slot.filter(|slot| slot.formats == formats(verdict) && slot.feedback == codec.feedback).map(|slot| slot.slot)
}

/// Ends a slot and what is routed into it.
fn close_slot(slot: &Slot, plan: &mut Plan) {
    if let Some(route) = slot.route {
        plan.unwant_route(route);
    }
    plan.unwant_slot(slot.slot);
}

/// The m-sections of one answer while they are opened.
struct Opening<'a> {
    peer: PeerId,
    before: Before<'a>,
    /// SSRCs of the transport, the client's and ours: no two streams of it may share one (RFC 3550 §8).
    used: BTreeSet<Ssrc>,
    spent: Spent,
    plan: &'a mut Plan,
    random: &'a mut Random,
    tracks: Vec<Track>,
    slots: Vec<Slot>,
}

impl Opening<'_> {
    fn section<'a>(&mut self, index: usize, section: &Section, verdict: &'a Verdict) -> AnswerSection<'a> {
        if verdict.codecs.is_empty() {
            return AnswerSection::Rejected;
        }
        self.track(index, section, verdict);
        let slot = self.slot(index, section, verdict);
        let codecs = verdict.codecs.iter().collect();
        match (verdict.track, slot) {
            (None, Some(slot)) if verdict.is_slot => AnswerSection::Send { codecs, slot },
            (Some(_), Some(slot)) if verdict.is_slot => AnswerSection::Both { codecs, slot },
            (None, resting) => AnswerSection::Inactive { codecs, resting },
            (Some(_), resting) => AnswerSection::Receive { codecs, resting },
        }
    }

    /// Opens a section's stream, or leaves it as it is; of one that does not send now it is kept.
    fn track(&mut self, index: usize, section: &Section, verdict: &Verdict) {
        let before = self.before.track(index, section);
        let Some(shows) = verdict.track else {
            self.tracks.extend(before.map(|track| Track { is_paused: true, ..track.clone() }));
            return;
        };
        let stream = match kept_stream(section, verdict, self.peer, before, self.plan) {
            Some(stream) => stream,
            None => self.stream(section, verdict, before),
        };
        self.tracks.push(Track {
            stream,
            mid: mid_text(index, section),
            source: shows.source,
            is_active: shows.is_active,
            formats: formats(verdict),
            is_muted: before.is_some_and(|track| track.is_muted),
            is_paused: false,
            audio_bps: verdict.codecs[0].opus.and_then(|opus| opus.maxaveragebitrate),
        });
    }

    fn stream(&mut self, section: &Section, verdict: &Verdict, before: Option<&Track>) -> StreamId {
        let was = before.and_then(|track| self.plan.stream(track.stream));
        if let Some(track) = before {
            self.plan.unwant_stream(track.stream);
        }
        self.spent.streams += ssrcs_spent(section);
        let peer = self.peer;
        let stream = self.plan.want_stream(|stream| stream_of(section, verdict, peer, stream, was.as_ref()).0);
        let stream = stream.expect("the engine made sure of room for the streams");
        for part in stream_of(section, verdict, peer, stream, was.as_ref()).1 {
            self.plan.want(part);
        }
        stream
    }

    /// Opens a section's slot, or leaves it as it is; one that does not receive now keeps its numbers.
    fn slot(&mut self, index: usize, section: &Section, verdict: &Verdict) -> Option<SlotDescription> {
        let before = self.before.slot(index, section);
        let slot = match before {
            Some(slot) if !verdict.is_slot || kept_slot(verdict, before).is_some() => {
                Slot { is_shut: !verdict.is_slot, ..slot.clone() }
            }
            _ if !verdict.is_slot => return None,
            _ => self.open_slot(index, section, verdict, before),
        };
        let (lane, kind) = (slot.lane, slot.kind);
        let open = self.plan.slot(slot.slot).expect("a slot of ours is desired");
        self.slots.push(slot);
        Some(SlotDescription {
            ssrc: open.ssrc,
            rtx_ssrc: (open.rtx_ssrc != 0).then_some(open.rtx_ssrc),
            cname: format!("uprtc-{lane}"),
            msid_stream: format!("uprtc-{lane}"),
            msid_track: format!("uprtc-{lane}-{}", if kind == Kind::Audio { "audio" } else { "video" }),
        })
    }

    fn open_slot(&mut self, index: usize, section: &Section, verdict: &Verdict, before: Option<&Slot>) -> Slot {
        if let Some(slot) = before {
            close_slot(slot, self.plan);
        }
        let (peer, formats, codec) = (self.peer, formats(verdict), &verdict.codecs[0]);
        let ssrc = self.fresh_ssrc();
        let has_rtx = formats.0.rtx_pt != 0 || formats.1.is_some_and(|second| second.rtx_pt != 0);
        let rtx_ssrc = if has_rtx { self.fresh_ssrc() } else { 0 };
        self.spent.slots += 2;
        let random = &mut *self.random;
        let slot = self.plan.want_slot(|slot| SlotOpen {
            slot,
            peer,
            ssrc,
            rtx_ssrc,
            mid: section.mid,
            seq_first: random.u32() as u16 & 0x7fff,
            rtx_seq_first: random.u32() as u16 & 0x7fff,
            timestamp_first: random.u32(),
        });
        let kind = kind_of_codec(codec.codec);
        Slot {
            slot: slot.expect("the engine made sure of room for the slots"),
            mid: mid_text(index, section),
            kind,
            lane: before.map_or_else(|| self.free_lane(kind), |slot| slot.lane),
            is_shut: false,
            formats,
            feedback: codec.feedback,
            carries: None,
            route: None,
        }
    }

    /// The first lane without a slot of that kind; those that are still to be gone through have theirs.
    fn free_lane(&self, kind: Kind) -> u8 {
        let stays = |slot: &&Slot| self.plan.slot(slot.slot).is_some();
        let slots = self.slots.iter().chain(self.before.slots.iter().filter(stays));
        let taken: BTreeSet<u8> = slots.filter(|slot| slot.kind == kind).map(|slot| slot.lane).collect();
        (0..=u8::MAX).find(|lane| !taken.contains(lane)).expect("slots_max bounds the slots")
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

/// How a section names a codec.
fn format(codec: &OfferedCodec) -> Format {
    Format { codec: codec.codec, pt: codec.pt, rtx_pt: codec.rtx_pt.unwrap_or(0) }
}

/// How a section that is served names its codecs.
fn formats(verdict: &Verdict) -> Formats {
    (format(&verdict.codecs[0]), verdict.codecs.get(1).map(format))
}

/// Whether an id of before is another extension's now.
fn is_renumbered(before: &ExtensionIds, now: &ExtensionIds) -> bool {
    let is_anothers =
        |extension: usize, id: u8| before.iter().position(|was| *was == id).is_some_and(|was| was != extension);
    now.iter().enumerate().any(|(extension, &id)| id != 0 && is_anothers(extension, id))
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
