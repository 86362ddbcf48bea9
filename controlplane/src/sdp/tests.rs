use proto::plane::feedback;

use super::*;

/// What a room uses that nobody set otherwise.
const VIDEOS: [Codec; 2] = [Codec::H264, Codec::Vp8];

/// An offer of one audio and one video section, with lines added to the session and to the video section.
fn offer_with(session: &[&str], video: &[&str]) -> String {
    let mut lines = vec!["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE a v"];
    lines.extend([
        "a=ice-ufrag:abcd",
        "a=ice-pwd:abcdefghijklmnopqrstuv",
        "a=fingerprint:SHA-256 00:FF",
        "a=setup:actpass",
    ]);
    lines.extend(session);
    lines.extend(["m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:a", "a=rtcp-mux", "a=rtpmap:111 OPUS/48000/2"]);
    lines.extend(["m=video 9 UDP/TLS/RTP/SAVPF 96 97", "a=mid:v", "a=rtcp-mux"]);
    lines.extend(["a=rtpmap:96 H264/90000", "a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96"]);
    lines.extend(video);
    lines.join("\r\n") + "\r\n"
}

fn video(lines: &[&str]) -> Section {
    parse_offer(&offer_with(&[], lines)).unwrap().sections.remove(1)
}

fn refused(session: &[&str], video: &[&str]) -> SdpError {
    parse_offer(&offer_with(session, video)).unwrap_err()
}

#[test]
fn what_stands_at_the_session_serves_every_section() {
    let offer = parse_offer(&offer_with(&["a=ice-options:ice2 trickle", "a=recvonly"], &["a=sendonly"])).unwrap();
    assert_eq!(offer.ice.ufrag, "abcd");
    assert_eq!(offer.fingerprints, [Fingerprint { algorithm: "sha-256".into(), bytes: vec![0, 255] }]);
    assert!(offer.is_trickle);
    assert_eq!(offer.sections[0].direction, Direction::RecvOnly);
    assert_eq!(offer.sections[1].direction, Direction::SendOnly);
    assert!(!format!("{offer:?}").contains("abcdefghijklmnopqrstuv"), "a password is never shown");
}

#[test]
fn the_transport_is_that_of_the_first_section_that_can_be_answered() {
    let own = ["a=ice-ufrag:efgh", "a=ice-pwd:zyxwvutsrqponmlkjihgfe", "a=setup:passive"];
    let text = offer_with(&[], &own);
    assert_eq!(parse_offer(&text).unwrap().setup, Setup::ActPass);
    // Audio in a codec that is not served: the video section comes first then.
    let offer = parse_offer(&text.replace("OPUS", "G722")).unwrap();
    assert_eq!((offer.ice.ufrag.as_str(), offer.setup), ("efgh", Setup::Passive));
    assert_eq!(offer.setup.answered(), Setup::Active);
}

#[test]
fn h264_parameters_have_the_defaults_of_the_rfc() {
    let codec = video(&[]).codecs.remove(0);
    let h264 = codec.h264.unwrap();
    assert_eq!((h264.profile_level_id, h264.packetization_mode), ([0x42, 0x00, 0x0a], 0));
    assert!(!h264.level_asymmetry_allowed);
    assert_eq!((codec.pt, codec.rtx_pt, codec.feedback), (96, Some(97), 0));

    let codec = video(&["a=fmtp:96 packetization-mode=1; profile-level-id=64001F;x=y;level-asymmetry-allowed=1"]);
    let h264 = codec.codecs[0].h264.unwrap();
    assert_eq!((h264.profile_level_id, h264.packetization_mode), ([0x64, 0x00, 0x1f], 1));
    assert!(h264.level_asymmetry_allowed);
}

#[test]
fn feedback_for_all_payload_types_counts_for_each() {
    let codec = video(&["a=rtcp-fb:* nack", "a=rtcp-fb:96 nack pli", "a=rtcp-fb:120 ccm fir"]).codecs.remove(0);
    assert_eq!(codec.feedback, feedback::NACK | feedback::PLI);
}

#[test]
fn h264_is_chosen_by_our_order() {
    let chosen = |profiles: &[(&str, u8)]| {
        let formats: Vec<String> = (0..profiles.len()).map(|i| (100 + i).to_string()).collect();
        let mut text = offer_with(&[], &[]).replace("SAVPF 96 97", &format!("SAVPF {}", formats.join(" ")));
        for (pt, (profile, mode)) in formats.iter().zip(profiles) {
            text += &format!("a=rtpmap:{pt} h264/90000\r\n");
            text += &format!("a=fmtp:{pt} profile-level-id={profile};packetization-mode={mode}\r\n");
        }
        let offer = parse_offer(&text).unwrap();
        choose_codec(&offer.sections[1]).map(|codec| usize::from(codec.pt) - 100)
    };
    assert_eq!(chosen(&[("42001f", 1), ("42e01f", 0), ("42e01f", 1), ("64001f", 1)]), Some(2));
    assert_eq!(chosen(&[("64001f", 1), ("4d001f", 1), ("42001f", 1)]), Some(2));
    assert_eq!(chosen(&[("640c1f", 1), ("4d001f", 1), ("42e01f", 0)]), Some(1));
    assert_eq!(chosen(&[("42e01f", 0), ("64001f", 1)]), Some(1));
    assert_eq!(chosen(&[("42e01f", 1), ("42e034", 1)]), Some(0));
    assert_eq!(chosen(&[("42801f", 1), ("42401f", 1)]), Some(1), "constraint_set1 is what makes it constrained");
    assert_eq!(chosen(&[("42e01f", 2), ("f4001f", 1)]), None);
}

#[test]
fn vp8_is_answered_after_h264_and_alone() {
    let vp8 = ["a=rtpmap:98 vp8/90000", "a=rtpmap:99 rtx/90000", "a=fmtp:99 apt=98", "a=rtcp-fb:98 nack"];
    let text = offer_with(&[], &vp8).replace("SAVPF 96 97", "SAVPF 98 99 96 97");
    let chosen = |text: &str| {
        let offer = parse_offer(text).unwrap();
        choose_codecs(&offer.sections[1], &VIDEOS)
            .iter()
            .map(|c| (c.codec, c.pt, c.rtx_pt, c.feedback))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        chosen(&text),
        [(Codec::H264, 96, Some(97), 0), (Codec::Vp8, 98, Some(99), feedback::NACK)],
        "whatever the client prefers"
    );
    assert_eq!(chosen(&text.replace("H264", "AV1")), [(Codec::Vp8, 98, Some(99), feedback::NACK)]);
    assert_eq!(chosen(&text.replace("vp8/90000", "vp8/48000")).len(), 1);
    let answer = answered(&text, &[]);
    assert!(answer.contains("m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99\r\n"), "{answer}");
    assert!(
        answer.contains("a=rtpmap:98 VP8/90000\r\na=rtcp-fb:98 nack\r\na=rtpmap:99 rtx/90000\r\na=fmtp:99 apt=98\r\n")
    );
    assert!(!answer.contains("a=fmtp:98"));
}

#[test]
fn a_payload_type_that_looks_like_rtcp_is_not_taken() {
    let is_taken = |pt: u8| {
        let text = offer_with(&[], &[]).replace("SAVPF 111", &format!("SAVPF {pt}"));
        let offer = parse_offer(&text.replace("rtpmap:111", &format!("rtpmap:{pt}"))).unwrap();
        choose_codec(&offer.sections[0]).is_some()
    };
    assert_eq!([63, 64, 72, 95, 96].map(is_taken), [true, false, false, false, true]);
}

#[test]
fn sections_that_cannot_be_served_are_seen() {
    let text = offer_with(&[], &[]);
    let served = |text: &str| {
        let offer = parse_offer(text).unwrap();
        offer.sections.iter().map(|section| choose_codec(section).is_some()).collect::<Vec<_>>()
    };
    assert_eq!(served(&text), [true, true]);
    assert_eq!(served(&text.replace("m=video 9", "m=video 0")), [true, false]);
    assert_eq!(
        served(&text.replace("m=video 9", "m=video 0").replace("a=mid:v", "a=mid:v\r\na=bundle-only")),
        [true, true]
    );
    assert_eq!(served(&text.replace("BUNDLE a v", "BUNDLE v")), [false, true]);
    assert_eq!(served(&text.replace("a=group:BUNDLE a v", "a=x")), [true, false]);
    assert_eq!(served(&text.replace("a=mid:v\r\na=rtcp-mux", "a=mid:v")), [true, false]);
    assert_eq!(served(&text.replace("m=video 9 UDP/TLS/RTP/SAVPF", "m=video 9 RTP/AVP")), [true, false]);
    assert_eq!(served(&text.replace("m=audio", "m=text")), [false, true]);
}

#[test]
fn ssrcs_are_those_of_the_best_encoding_and_the_others_stand_beside_them() {
    let of = |lines: &[&str]| {
        let section = video(lines);
        (section.ssrcs.primary, section.ssrcs.rtx, section.has_simulcast)
    };
    assert_eq!(of(&[]), (None, None, false));
    assert_eq!(of(&["a=ssrc:7 cname:x"]), (Some(7), None, false));
    assert_eq!(of(&["a=ssrc-group:FID 7 8", "a=ssrc:8 cname:x", "a=ssrc:7 cname:x"]), (Some(7), Some(8), false));
    assert_eq!(of(&["a=ssrc-group:FID 7 8"]), (Some(7), Some(8), false));
    assert_eq!(of(&["a=ssrc:0 cname:x"]), (None, None, false), "0 stands for unknown");
    let munged = ["a=ssrc-group:SIM 1 2", "a=ssrc-group:FID 1 3", "a=ssrc-group:FID 2 4", "a=ssrc:1 x", "a=ssrc:2 x"];
    assert_eq!(of(&munged), (Some(2), Some(4), true));
    assert_eq!(video(&munged).ssrcs.others, [(1, 3), (0, 0), (0, 0)]);
    let many = ["a=ssrc-group:FID 5 15", "a=ssrc-group:SIM 1 2 3 4 5", "a=ssrc-group:FID 3 13", "a=ssrc:1 cname:x"];
    let ssrcs = video(&many).ssrcs;
    assert_eq!((ssrcs.primary, ssrcs.rtx, ssrcs.others), (Some(5), Some(15), [(4, 0), (3, 13), (2, 0)]));
    assert_eq!(ssrcs.all().collect::<Vec<_>>(), [5, 15, 4, 3, 13, 2]);
}

#[test]
fn extensions_have_one_numbering() {
    let mid = Extension::Mid.uri();
    let level = Extension::AudioLevel.uri();
    let offer = parse_offer(&offer_with(&[&format!("a=extmap:4/sendonly {mid}")], &[])).unwrap();
    assert_eq!(offer.extensions[Extension::Mid as usize], 4);
    assert_eq!(offer.sections[1].extensions[0].direction, Direction::SendOnly);
    // Two-byte ids and inactive ones are not served.
    let offer =
        parse_offer(&offer_with(&[&format!("a=extmap:15 {mid}"), &format!("a=extmap:3/inactive {level}")], &[]));
    assert_eq!(offer.unwrap().extensions, [0; 16]);

    // The first section's numbering counts; what differs is left out of the later one.
    let text = offer_with(&[], &[&format!("a=extmap:5 {mid}"), &format!("a=extmap:4 {level}"), "a=extmap:6 urn:x"]);
    let offer = parse_offer(&text.replace("a=mid:a", &format!("a=mid:a\r\na=extmap:4 {mid}"))).unwrap();
    assert_eq!(offer.extensions[Extension::Mid as usize], 4);
    assert_eq!(offer.extensions[Extension::AudioLevel as usize], 0);
    assert_eq!((offer.sections[0].extensions.len(), offer.sections[1].extensions.len()), (1, 0));
}

#[test]
fn refusals_say_where_and_what() {
    assert_eq!(parse_offer(""), Err(SdpError::NoVersion));
    assert_eq!(parse_offer("v=1\r\n"), Err(SdpError::NoVersion));
    assert_eq!(parse_offer("v=0\r\ns=-\r\n"), Err(SdpError::NoSections));
    assert_eq!(parse_offer("v=0\nnonsense\n"), Err(SdpError::BadLine { line: 2 }));
    assert_eq!(parse_offer("v=0\ns=a\rb\n"), Err(SdpError::BadLine { line: 3 }), "CR alone ends a line, too");
    assert_eq!(parse_offer("v=0\r\n\r\ns=a\0b\r\n"), Err(SdpError::BadLine { line: 3 }));
    assert_eq!(parse_offer(&"x".repeat(SDP_LEN_MAX + 1)), Err(SdpError::TooLong { len: SDP_LEN_MAX + 1 }));

    let text = offer_with(&[], &[]);
    let missing = |line: &str, what| {
        assert_eq!(parse_offer(&text.replace(line, "a=x")), Err(SdpError::Missing { section: 0, what }));
    };
    missing("a=ice-ufrag:abcd", "a=ice-ufrag");
    missing("a=ice-pwd:abcdefghijklmnopqrstuv", "a=ice-pwd");
    missing("a=fingerprint:SHA-256 00:FF", "a=fingerprint");
    assert_eq!(parse_offer(&text.replace("a=mid:v", "a=mid:a")), Err(SdpError::DuplicateMid { section: 1 }));
    let with_ssrc = text.replace("a=mid:", "a=ssrc:9 cname:x\r\na=mid:");
    assert_eq!(parse_offer(&with_ssrc), Err(SdpError::DuplicateSsrc { section: 1, ssrc: 9 }));
}

#[test]
fn a_value_that_is_not_valid_is_named() {
    let what = |line: &str| match refused(&[], &[line]) {
        SdpError::BadValue { line: 20, what } => what,
        other => panic!("{line}: {other}"),
    };
    assert_eq!(what("m=video x UDP/TLS/RTP/SAVPF 96"), "m=");
    assert_eq!(what("m=video 9 UDP/TLS/RTP/SAVPF"), "m=");
    assert_eq!(what("m=vi\"deo 9 UDP/TLS/RTP/SAVPF 96"), "m=");
    assert_eq!(what("a=mid:"), "a=mid");
    assert_eq!(what("a=mid:two words"), "a=mid");
    assert_eq!(what("a=setup:holdconn"), "a=setup");
}

/// A line that cannot be read, and that the offer makes sense without, is as good as none.
#[test]
fn odd_lines_are_passed_over() {
    let plain = parse_offer(&offer_with(&[], &[])).unwrap();
    let long = format!("a=identity:{}", "x".repeat(10_000));
    for odd in [
        "a=rtpmap:x H264/90000",
        "a=rtpmap:98",
        "a=fmtp:+96 x",
        "a=fmtp:98",
        "a=rtcp-fb:nack",
        "a=rtcp-fb:x nack",
        "a=ssrc:4294967296 cname:x",
        "a=ssrc:",
        "a=ssrc-group:",
        "a=ssrc-group:FID x",
        "a=rid:a b c",
        "a=rid:",
        "a=extmap:0 urn:x",
        "a=extmap:1/sideways urn:x",
        "a=extmap:",
        "a=ice-ufrag:",
        "a=fingerprint:sha-256 0:1",
        "a=fingerprint:",
        "a=candidate:1 1 udp 1 fe80::1%eth0 1 typ host",
        "a=candidate:\u{7}",
        "i=\u{1}",
        &long,
    ] {
        let offer = parse_offer(&offer_with(&[odd], &[odd])).unwrap_or_else(|error| panic!("{odd}: {error}"));
        assert_eq!(offer, plain, "{odd}");
    }
    let text = offer_with(&[], &[]);
    assert_eq!(parse_offer(&text.replace("\r\n", "\r")).as_ref(), Ok(&plain), "CR alone ends a line");
    assert_eq!(parse_offer(&text.replace("\r\n", "\n\n")).as_ref(), Ok(&plain), "blank lines");
    assert_eq!(parse_offer(&format!("\u{feff}\r\n{text}")).as_ref(), Ok(&plain), "a byte order mark, a blank line");
    assert_eq!(parse_offer(&text.replace("actpass", "ActPass ")).as_ref(), Ok(&plain));
    assert_eq!(parse_offer(&text.replace("SAVPF 96 97", "SAVPF 96 97 300 x 96")).as_ref(), Ok(&plain));
    assert_eq!(parse_offer(&text.replace("m=video 9 ", "m=video 99999 ")).as_ref(), Ok(&plain));
    let short = text.replace("abcdefghijklmnopqrstuv", "short").replace("a=ice-ufrag:abcd", "a=ice-ufrag:a-_=");
    assert_eq!(parse_offer(&short).map(|offer| offer.ice.ufrag), Ok("a-_=".to_owned()));

    // A codec whose form is not known is not offered, and the others are.
    for fmtp in ["profile-level-id=42e0zz", "packetization-mode=3"] {
        let codecs = video(&[&format!("a=fmtp:96 {fmtp}")]).codecs;
        assert_eq!(codecs, [], "{fmtp}");
    }
}

/// What is kept of each kind is bounded; what is beyond that is as good as not said.
#[test]
fn everything_is_counted() {
    let with = |line: &dyn Fn(usize) -> String| {
        let lines: Vec<String> = (1..=1000).map(line).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        parse_offer(&offer_with(&lines, &lines)).unwrap()
    };
    assert_eq!(with(&|i| format!("a=ssrc:{i} cname:x")).sections[1].ssrcs.primary, Some(1));
    assert_eq!(with(&|i| format!("a=ssrc-group:FID {i} {}", i + 1000)).sections[1].ssrcs.rtx, Some(1001));
    let all: Vec<String> = (1..=1000).map(|i| i.to_string()).collect();
    let rid = |i| match i {
        1 => format!("a=rid:{i} send\r\na=simulcast:send {}", all.join(";")),
        _ => format!("a=rid:{i} send"),
    };
    assert_eq!(with(&rid).sections[1].encodings.len(), RIDS_MAX);
    assert_eq!(with(&|i| format!("a=extmap:{} urn:{i}", i % 14 + 1)).sections[1].extensions.len(), 0);
    assert_eq!(with(&|i| format!("a=fingerprint:sha-256 0{}", i % 9)).fingerprints.len(), FINGERPRINTS_MAX);
    with(&|i| format!("a=candidate:{i} 1 udp 1 192.0.2.1 1 typ host"));

    let sections = |n: usize| {
        let lines: Vec<String> = (0..n).map(|i| format!("m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:{i}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        parse_offer(&offer_with(&[], &lines)).map(|offer| offer.sections.len())
    };
    assert_eq!(sections(SECTIONS_MAX - 2), Ok(SECTIONS_MAX));
    let too_many = sections(SECTIONS_MAX - 1);
    assert!(matches!(too_many, Err(SdpError::TooMany { what: "m-sections", max: SECTIONS_MAX, .. })), "{too_many:?}");
}

/// An answer to `text` that accepts what can be accepted, without slots.
fn answered(text: &str, candidates: &[String]) -> String {
    let offer = parse_offer(text).unwrap();
    let slot = SlotDescription {
        ssrc: 5,
        rtx_ssrc: Some(6),
        cname: "uprtc".into(),
        msid_stream: "s".into(),
        msid_track: "t".into(),
    };
    let section = |section| match choose_codecs(section, &VIDEOS) {
        none if none.is_empty() => AnswerSection::Rejected,
        codecs if section.direction.may_receive() => AnswerSection::Send { codecs, slot: slot.clone() },
        codecs => AnswerSection::Receive { codecs, encodings: &[], paused: None },
    };
    let params = AnswerParams {
        session_id: u64::MAX,
        version: 1,
        ice: IceCredentials { ufrag: "ours".into(), pwd: "ours-too".into() },
        fingerprint: &Fingerprint::sha256([0xab; 32]),
        setup: offer.setup.answered(),
        candidates,
        sections: offer.sections.iter().map(section).collect(),
    };
    write_answer(&offer, &params)
}

#[test]
fn candidates_stand_in_each_accepted_section() {
    let candidates = ["candidate:1".to_owned(), "candidate:2".to_owned()];
    let answer = answered(&offer_with(&[], &[]).replace("OPUS", "G722"), &candidates);
    let (audio, video) = answer.split_once("m=video").unwrap();
    assert!(audio.contains("a=group:BUNDLE v\r\n") && audio.contains("m=audio 0 ") && !audio.contains("candidate"));
    assert!(video.contains("a=candidate:1\r\na=candidate:2\r\na=end-of-candidates\r\n"));
    assert_eq!(answer.matches("a=end-of-candidates").count(), 1);
    let both = answered(&offer_with(&[], &[]), &candidates);
    assert_eq!(both.matches("a=candidate:1\r\na=candidate:2\r\na=end-of-candidates\r\n").count(), 2);
    assert!(answer.contains(&format!("o=- {} 1 IN", i64::MAX)), "a session id has 63 bits");
}

#[test]
fn what_was_not_offered_is_not_answered() {
    let answer = answered(&offer_with(&[], &["a=rtcp-fb:96 goog-remb"]), &[]);
    assert!(!answer.contains("rtcp-rsize") && !answer.contains("nack") && !answer.contains("transport-cc"));
    assert!(answer.contains("a=rtcp-fb:96 goog-remb"), "REMB serves who has no transport-cc");
    let both = ["a=rtcp-fb:96 goog-remb", "a=rtcp-fb:96 transport-cc"];
    let extension = format!("a=extmap:3 {}", Extension::TransportCc.uri());
    let answer = answered(&offer_with(&[], &[both[0], both[1], &extension]), &[]);
    assert!(!answer.contains("goog-remb") && answer.contains("a=rtcp-fb:96 transport-cc"));
    let answer = answered(&offer_with(&[], &both), &[]);
    assert!(answer.contains("goog-remb") && !answer.contains("transport-cc"), "without numbers nothing is counted");
}

#[test]
fn a_slot_without_rtx_promises_no_repair() {
    let with = offer_with(&[], &["a=rtcp-fb:96 nack", "a=recvonly"]);
    let without = with.replace("apt=96", "apt=95");
    assert!(answered(&with, &[]).contains("a=ssrc-group:FID 5 6\r\n") && answered(&with, &[]).contains("96 nack\r\n"));
    let answer = answered(&without, &[]);
    assert!(!answer.contains("FID") && !answer.contains("a=ssrc:6 ") && !answer.contains("nack"));
    // A sender that has no RTX may still be asked: it sends the packet itself again.
    assert!(answered(&without.replace("a=recvonly", "a=sendonly"), &[]).contains("a=rtcp-fb:96 nack\r\n"));
}

#[test]
fn an_offer_without_mid_is_answered_without() {
    let text =
        offer_with(&[], &[]).replace("a=group:BUNDLE a v", "a=x").replace("a=mid:a", "a=x").replace("a=mid:v", "a=x");
    let answer = answered(&text, &[]);
    assert!(!answer.contains("a=mid") && !answer.contains("BUNDLE") && answer.contains("m=video 0 "));
}

#[test]
fn extensions_are_answered_from_our_side() {
    let extensions = [format!("a=extmap:4/sendonly {}", Extension::Mid.uri()), "a=extmap:5 urn:other".to_owned()];
    let answer = answered(&offer_with(&[&extensions[0], &extensions[1]], &[]), &[]);
    assert!(answer.contains(&format!("a=extmap:4/recvonly {}\r\n", Extension::Mid.uri())));
    assert!(!answer.contains("urn:other"));
}

#[test]
fn long_extensions_need_the_two_byte_form() {
    for uri in [Extension::DependencyDescriptor, Extension::VideoLayersAllocation].map(Extension::uri) {
        let line = format!("a=extmap:12 {uri}");
        let without = answered(&offer_with(&[], &[&line]), &[]);
        assert!(!without.contains(uri) && !without.contains("allow-mixed"), "{without}");
        let session = offer_with(&[], &[&line]).replace("a=group:", "a=extmap-allow-mixed\r\na=group:");
        for offer in [session, offer_with(&["a=extmap-allow-mixed"], &[&line, "a=extmap-allow-mixed"])] {
            let answer = answered(&offer, &[]);
            assert!(answer.contains(&format!("a=extmap:12 {uri}\r\n")), "{answer}");
            let at = |what: &str| answer.find(what).unwrap_or_else(|| panic!("{what} in {answer}"));
            assert!(at("a=extmap-allow-mixed\r\n") < at("m=audio"), "for the session");
        }
    }
    let alone = answered(&offer_with(&["a=extmap-allow-mixed"], &["a=extmap-allow-mixed"]), &[]);
    assert!(!alone.contains("allow-mixed"), "nothing else needs it");
}

#[test]
#[should_panic(expected = "the client did not offer to receive in m-section 1")]
fn media_that_was_not_offered_is_our_mistake() {
    let offer = parse_offer(&offer_with(&["a=sendonly"], &[])).unwrap();
    let slot = SlotDescription {
        ssrc: 5,
        rtx_ssrc: None,
        cname: "uprtc".into(),
        msid_stream: "s".into(),
        msid_track: "t".into(),
    };
    let codecs = choose_codecs(&offer.sections[1], &VIDEOS);
    let params = AnswerParams {
        session_id: 1,
        version: 1,
        ice: offer.ice.clone(),
        fingerprint: &offer.fingerprints[0],
        setup: Setup::Passive,
        candidates: &[],
        sections: vec![AnswerSection::Rejected, AnswerSection::Send { codecs, slot }],
    };
    write_answer(&offer, &params);
}
