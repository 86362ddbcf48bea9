//! Offers captured from real clients (`offers/*.sdp`; `offers/README.md` says from which) against the answers that we write
//! to them (`*.answer.sdp` beside them, compared to the byte; the client of each capture has accepted its like). `UPRTC_BLESS=1 cargo test -p controlplane --test engine negotiation`
//! writes the answers anew after a wanted change: show them to a browser again then.

use std::fs;
use std::path::{Path, PathBuf};

use controlplane::sdp::{Direction, Offer, Section, SectionKind, Setup, choose_codec, choose_codecs, parse_offer};
use proto::plane::{Codec, Extension, feedback};

use crate::answering::{VIDEOS, answer};

fn offers_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/offers")
}

fn offer(name: &str) -> Offer {
    let text = fs::read_to_string(offers_dir().join(format!("{name}.sdp"))).unwrap_or_else(|e| panic!("{name}: {e}"));
    parse_offer(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn captured_offers_are_answered_to_the_byte() {
    let mut count = 0;
    for entry in fs::read_dir(offers_dir()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(stem) = name.strip_suffix(".sdp").filter(|stem| !stem.ends_with(".answer")) else { continue };
        let ours = answer(&offer(stem));
        let golden = path.with_file_name(format!("{stem}.answer.sdp"));
        if std::env::var_os("UPRTC_BLESS").is_some() {
            fs::write(&golden, &ours).unwrap();
        }
        assert_eq!(ours, fs::read_to_string(&golden).unwrap_or_default(), "{name}");
        count += 1;
    }
    assert!(count >= 20, "only {count} captured offers");
}

/// werift numbers each section anew, aiortc hashes its certificate three times and has no transport-cc.
#[test]
fn the_habits_of_other_clients_are_known() {
    let werift = offer("werift");
    assert_eq!(werift.extensions[Extension::Mid as usize], 1);
    assert!(!werift.sections[0].extensions.is_empty() && werift.sections[1].extensions.is_empty());
    let aiortc = offer("aiortc");
    let lengths: Vec<usize> = aiortc.fingerprints.iter().map(|fingerprint| fingerprint.bytes.len()).collect();
    assert_eq!(lengths, [32, 48, 64]);
    assert!(answer(&aiortc).contains("goog-remb") && !answer(&aiortc).contains("transport-cc"));
    assert!(offer("libdatachannel").is_trickle, "ice-options with a comma");
}

/// NACK of audio is answered to who offers it, and to libwebrtc, which does not and uses it (docs/decisions/0048). Who offers
/// neither gets what it knows.
#[test]
fn audio_nack_is_answered_to_those_who_use_it() {
    let is_answered = |offer: &Offer| {
        let answer = answer(offer);
        let audio =
            answer.split("m=audio").nth(1).expect("an m-section of audio").split("m=video").next().expect("text");
        audio.contains(" nack\r\n")
    };
    for name in ["chromium_page", "chromium_recvonly", "firefox_page", "safari", "libwebrtc_106"] {
        assert!(is_answered(&offer(name)), "{name}");
    }
    for name in ["aiortc", "werift", "ffmpeg", "gstreamer", "gstreamer_play", "libdatachannel"] {
        assert!(!is_answered(&offer(name)), "{name}");
    }
    let text = fs::read_to_string(offers_dir().join("chromium_sendrecv.sdp")).unwrap();
    let with = |from: &str, to: &str| is_answered(&parse_offer(&text.replace(from, to)).unwrap());
    assert!(with("", ""));
    assert!(!with("goog-remb", "x-other") && !with("a=rtcp-fb:111 transport-cc", "a=x:y"), "not the set of libwebrtc");
    assert!(with("a=rtcp-fb:111 transport-cc", "a=rtcp-fb:111 nack"), "offered");
}

/// ffmpeg insists on being the DTLS server and has neither header extensions nor PLI.
#[test]
fn ffmpeg_is_called_and_known_by_its_ssrcs() {
    let offer = offer("ffmpeg");
    assert_eq!((offer.setup, offer.setup.answered()), (Setup::Passive, Setup::Active));
    assert_eq!(offer.extensions, [0; 16]);
    let video = choose_codec(&offer.sections[1]).unwrap();
    assert_eq!((video.codec, video.pt, video.rtx_pt, video.feedback), (Codec::H264, 106, Some(105), feedback::NACK));
    assert!(offer.sections[0].ssrcs.primary.is_some() && offer.sections[1].ssrcs.rtx.is_some());
    let answer = answer(&offer);
    assert!(answer.contains("a=setup:active\r\n") && !answer.contains("passive") && !answer.contains("extmap"));
}

/// GStreamer bundles by `m=audio 0` with `bundle-only`, which is no rejection, and has credentials of 32 characters.
#[test]
fn gstreamer_is_served_in_all_its_sections() {
    for (name, ssrcs, mode) in [("gstreamer", 2, 1), ("gstreamer_early", 0, 0), ("gstreamer_play", 0, 1)] {
        let offer = offer(name);
        assert_eq!((offer.ice.ufrag.len(), offer.ice.pwd.len()), (32, 32), "{name}");
        assert_eq!(offer.sections.iter().filter_map(|section| section.ssrcs.primary).count(), ssrcs, "{name}");
        let chosen: Vec<_> = offer.sections.iter().map(|section| choose_codec(section).expect(name)).collect();
        let h264 = chosen.iter().find_map(|codec| codec.h264).expect(name);
        assert_eq!(h264.packetization_mode, mode, "{name}");
        let (is_opus, pt) = chosen.iter().map(|codec| (codec.codec == Codec::Opus, codec.pt)).max().unwrap();
        assert!(is_opus && pt == 97, "{name}");
        let answer = answer(&offer);
        assert!(!answer.contains(" 0 UDP/") && answer.contains("a=rtpmap:97 opus/48000/2\r\n"), "{name}: {answer}");
    }
}

/// An old libwebrtc without H.264 shares VP8 with all browsers. Safari prefers High profile, and is answered with the
/// constrained baseline that everybody decodes.
#[test]
fn libwebrtc_of_others_is_answered_with_what_all_share() {
    for section in offer("libwebrtc_106").sections.iter().filter(|section| section.kind == SectionKind::Video) {
        let codecs: Vec<_> = choose_codecs(section, &VIDEOS).iter().map(|c| (c.codec, c.pt, c.rtx_pt)).collect();
        assert_eq!(codecs, [(Codec::Vp8, 96, Some(97))]);
    }
    let safari = offer("safari");
    let codecs: Vec<_> =
        choose_codecs(&safari.sections[1], &VIDEOS).iter().map(|c| (c.codec, c.pt, c.rtx_pt)).collect();
    assert_eq!(codecs, [(Codec::H264, 98, Some(99)), (Codec::Vp8, 106, Some(107))]);
    let answer = answer(&safari);
    assert!(answer.contains("profile-level-id=42e01f") && !answer.contains("640c1f") && !answer.contains("H265"));
    assert!(answer.contains("m=application 0 "), "data channels are not served");
}

/// The answer, read back as if it were an offer, says what was decided.
#[test]
fn answers_are_well_formed_sdp() {
    for name in ["chromium_page", "chromium_sendrecv_datachannel", "chromium_simulcast"] {
        let offer = offer(name);
        let answer = parse_offer(&answer(&offer)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(answer.is_ice_lite && answer.is_trickle && answer.setup == Setup::Passive);
        assert_eq!(answer.sections.len(), offer.sections.len());
        for (theirs, ours) in offer.sections.iter().zip(&answer.sections) {
            assert_eq!((ours.mid, ours.kind, &ours.protocol), (theirs.mid, theirs.kind, &theirs.protocol));
            assert_eq!(ours.is_rejected, choose_codec(theirs).is_none());
            if !ours.is_rejected {
                assert_eq!(ours.direction, theirs.direction.reversed());
                let codecs: Vec<Codec> = ours.codecs.iter().map(|codec| codec.codec).collect();
                let video = [Codec::H264, Codec::Vp8];
                assert_eq!(codecs, if ours.kind == SectionKind::Audio { &[Codec::Opus][..] } else { &video });
                assert!(!ours.has_simulcast && ours.encodings.is_empty());
            }
        }
    }
}

#[test]
fn our_page_has_three_senders_and_fifteen_slots() {
    let offer = offer("chromium_page");
    let of = |kind, direction| {
        let is = |s: &&Section| s.kind == kind && s.direction == direction;
        offer.sections.iter().filter(is).count()
    };
    assert_eq!(of(SectionKind::Audio, Direction::SendOnly), 1);
    assert_eq!(of(SectionKind::Video, Direction::SendOnly), 2);
    assert_eq!(of(SectionKind::Audio, Direction::RecvOnly), 7);
    assert_eq!(of(SectionKind::Video, Direction::RecvOnly), 8);
    assert_eq!(offer.bundle, (0..18).collect::<Vec<_>>());
    assert!(offer.is_trickle && offer.extmap_allow_mixed && !offer.is_ice_lite && offer.setup == Setup::ActPass);
    assert_eq!((offer.fingerprints.len(), offer.fingerprints[0].bytes.len()), (1, 32));

    let video = choose_codec(&offer.sections[1]).unwrap();
    assert_eq!((video.codec, video.pt, video.rtx_pt), (Codec::H264, 108, Some(109)));
    assert_eq!(video.h264.unwrap().profile_level_id, [0x42, 0xe0, 0x1f]);
    assert_eq!(video.feedback, feedback::NACK | feedback::PLI | feedback::FIR | feedback::TRANSPORT_CC);
    let vp8 = choose_codecs(&offer.sections[1], &VIDEOS)[1];
    assert_eq!((vp8.codec, vp8.pt, vp8.rtx_pt, vp8.feedback), (Codec::Vp8, 96, Some(97), video.feedback));
    let audio = choose_codec(&offer.sections[0]).unwrap();
    // NACK of audio is not offered by Chromium, and used if it is answered (docs/decisions/0048).
    assert_eq!((audio.codec, audio.pt, audio.feedback), (Codec::Opus, 111, feedback::TRANSPORT_CC | feedback::NACK));
    // The screen sender has no track yet, and still its SSRCs.
    assert!(offer.sections[2].ssrcs.primary.is_some() && offer.sections[2].ssrcs.rtx.is_some());
    assert_eq!(offer.extensions[Extension::Mid as usize], 4);
    assert_eq!(offer.extensions[Extension::TransportCc as usize], 3);
    assert_eq!(offer.extensions[Extension::AudioLevel as usize], 1);
}

/// Firefox without its H.264 plug-in: rtcp-fb lines for payload types that it does not offer, extensions that only go one
/// way, and VP8.
#[test]
fn firefox_without_h264_is_answered_with_vp8() {
    let offer = offer("firefox_page");
    assert_eq!(offer.sections.len(), 18);
    for section in offer.sections.iter().filter(|section| section.kind == SectionKind::Video) {
        let codecs: Vec<_> =
            choose_codecs(section, &VIDEOS).iter().map(|c| (c.codec, c.pt, c.rtx_pt, c.feedback)).collect();
        let feedback = feedback::NACK | feedback::PLI | feedback::FIR | feedback::TRANSPORT_CC;
        assert_eq!(codecs, [(Codec::Vp8, 120, Some(124), feedback)]);
    }
    assert!(!answer(&offer).contains("H264"));
}

#[test]
fn simulcast_by_rid_is_answered() {
    let offer = offer("chromium_simulcast");
    assert!(offer.sections[1].has_simulcast);
    let rids: Vec<&str> = offer.sections[1].encodings.iter().map(|encoding| encoding.rid.as_str()).collect();
    assert_eq!(rids, ["q", "h", "f"]);
    assert_eq!(offer.sections[1].ssrcs.primary, None);
    let answer = answer(&offer);
    assert!(answer.contains("a=rid:f recv\r\na=simulcast:recv q;h;f\r\n") && answer.contains("stream-id"));
}
