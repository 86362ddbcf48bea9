//! An answerer that accepts all it can, for the tests that need an answer but no engine.

use controlplane::ice::{Credentials, host_candidates};
use proto::plane::Codec;

use controlplane::sdp::{
    AnswerParams, AnswerSection, Direction, Fingerprint, IceCredentials, Offer, OpusParams, SlotDescription,
    choose_codecs, choose_encodings, write_answer,
};

/// What a room uses that nobody set otherwise.
pub(crate) const VIDEOS: [Codec; 2] = [Codec::H264, Codec::Vp8];

/// Accepts all that can be accepted, with SSRCs that count up.
fn sections(offer: &Offer) -> Vec<AnswerSection<'_>> {
    let answered = |(i, section): (u32, _)| {
        let codecs = choose_codecs(section, &VIDEOS);
        if codecs.is_empty() {
            return AnswerSection::Rejected;
        }
        let slot = SlotDescription {
            ssrc: 1000 + i,
            rtx_ssrc: codecs[0].codec.is_video().then_some(2000 + i),
            cname: "uprtc".into(),
            msid_stream: format!("uprtc-{i}"),
            msid_track: format!("slot-{i}"),
        };
        let chosen: Vec<_> = codecs.iter().map(|codec| (*codec).clone()).collect();
        let encodings = choose_encodings(section, &chosen).leak();
        match section.direction {
            Direction::SendRecv => AnswerSection::Both { codecs, encodings, slot },
            Direction::SendOnly => AnswerSection::Receive { codecs, encodings, paused: None },
            Direction::RecvOnly => AnswerSection::Send { codecs, slot },
            Direction::Inactive => AnswerSection::Inactive { codecs, paused: None },
        }
    };
    (0u32..).zip(&offer.sections).map(answered).collect()
}

/// The offer with what is declared of Opus in its answer, in a room with nobody else.
fn tuned(offer: &Offer) -> Offer {
    let mut offer = offer.clone();
    for section in &mut offer.sections {
        for opus in section.codecs.iter_mut().filter_map(|codec| codec.opus.as_mut()) {
            let sent = opus.sent();
            *opus = match section.direction {
                Direction::SendOnly => opus.answered(&[]),
                Direction::SendRecv => OpusParams { sprop_stereo: sent.sprop_stereo, ..opus.answered(&[]) },
                Direction::RecvOnly | Direction::Inactive => sent,
            };
        }
    }
    offer
}

/// The answer with fixed credentials, so that it can be compared to a file.
pub(crate) fn answer(offer: &Offer) -> String {
    let offer = &tuned(offer);
    let ours = Credentials::from_random(0, b"not random: test vectors");
    let fingerprint = Fingerprint::sha256(std::array::from_fn(|i| i as u8));
    let candidates = host_candidates(&["127.0.0.1:40000".parse().unwrap(), "[::1]:40000".parse().unwrap()]);
    let params = AnswerParams {
        session_id: 0x0123_4567_89ab_cdef,
        version: 1,
        ice: IceCredentials { ufrag: ours.ufrag_str().into(), pwd: ours.pwd_str().into() },
        fingerprint: &fingerprint,
        setup: offer.setup.answered(),
        candidates: &candidates,
        sections: sections(offer),
    };
    write_answer(offer, &params)
}
