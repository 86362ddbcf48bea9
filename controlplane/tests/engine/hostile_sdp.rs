//! Hostile bytes for the parsers of the negotiation: whatever comes, they end soon, refuse with a name or accept, and
//! what they accept can be answered. `corpus/sdp/*` is replayed first: each file with the outcome that `OUTCOMES` there
//! says (`UPRTC_BLESS=1` writes it anew).

use std::fs;
use std::path::Path;

use controlplane::ice::is_candidate;
use controlplane::sdp::{SdpError, choose_codecs, parse_offer};
use proptest::prelude::*;

use crate::answering::{VIDEOS, answer};

/// Real offers to mutate, small enough for many rounds.
const SEEDS: [&str; 4] = [
    include_str!("../offers/chromium_page_prefers_h264.sdp"),
    include_str!("../offers/chromium_sendrecv_datachannel.sdp"),
    include_str!("../offers/chromium_simulcast.sdp"),
    include_str!("../offers/chromium_inactive.sdp"),
];

/// Parses, answers and reads the answer back: nothing of the offer may have become a line of its own in it.
fn outcome(text: &str) -> String {
    let offer = match parse_offer(text) {
        Ok(offer) => offer,
        Err(error) => return format!("refused: {error}"),
    };
    let answer = answer(&offer);
    let served = offer.sections.iter().filter(|section| !choose_codecs(section, &VIDEOS).is_empty()).count();
    match parse_offer(&answer) {
        Ok(again) => {
            assert_eq!(again.sections.len(), offer.sections.len(), "{answer}");
            let accepted = again.sections.iter().filter(|section| !section.is_rejected).count();
            assert_eq!(accepted, served, "{answer}");
        }
        // An answer that rejects everything has no transport.
        Err(SdpError::Missing { .. }) if served == 0 => {}
        Err(error) => panic!("our own answer does not parse: {error}\n{answer}"),
    }
    format!("answered: {served} of {} m-sections", offer.sections.len())
}

#[test]
fn the_corpus_has_the_outcomes_that_it_had() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/sdp");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sdp"));
    files.sort();
    let mut outcomes = String::new();
    for path in &files {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        outcomes += &format!("{}: {}\n", path.file_name().unwrap().to_str().unwrap(), outcome(&text));
    }
    let golden = dir.join("OUTCOMES");
    if std::env::var_os("UPRTC_BLESS").is_some() {
        fs::write(&golden, &outcomes).unwrap();
    }
    assert!(files.len() >= 10);
    assert_eq!(outcomes, fs::read_to_string(&golden).unwrap_or_default());
}

/// One change to the lines of an offer.
#[derive(Clone, Debug)]
enum Mutation {
    Delete(usize),
    Repeat(usize, usize),
    Swap(usize, usize),
    Replace(usize, usize, String),
    Byte(usize, usize, char),
    Insert(usize, String),
    Cut(usize),
}

fn line_soup() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        "[0-9]{1,12}",
        "[A-Za-z0-9+/:;=.-]{0,20}",
        Just("4294967295".to_owned()),
        Just("*".to_owned()),
        Just("\u{1F600}\0".to_owned()),
    ];
    let head = prop::sample::select(vec![
        "m=audio ",
        "m=video ",
        "m=video 9 UDP/TLS/RTP/SAVPF ",
        "m=application ",
        "a=mid:",
        "a=group:BUNDLE ",
        "a=rtpmap:",
        "a=rtpmap:96 ",
        "a=fmtp:",
        "a=fmtp:96 ",
        "a=rtcp-fb:",
        "a=extmap:",
        "a=ssrc:",
        "a=ssrc-group:FID ",
        "a=ssrc-group:",
        "a=rid:",
        "a=simulcast:send ",
        "a=fingerprint:sha-256 ",
        "a=setup:",
        "a=ice-ufrag:",
        "a=ice-pwd:",
        "a=candidate:",
        "a=bundle-only",
        "a=rtcp-mux",
        "a=sendonly",
        "a=inactive",
        "c=",
        "b=AS:",
        "v=",
        "",
        "a",
    ]);
    (head, prop::collection::vec(word, 0..6)).prop_map(|(head, words)| head.to_owned() + &words.join(" "))
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = 0..2000usize;
    prop_oneof![
        at.clone().prop_map(Mutation::Delete),
        (at.clone(), 1..80usize).prop_map(|(i, n)| Mutation::Repeat(i, n)),
        (at.clone(), at.clone()).prop_map(|(i, j)| Mutation::Swap(i, j)),
        (at.clone(), 0..60usize, "[ -~]{0,8}").prop_map(|(i, j, text)| Mutation::Replace(i, j, text)),
        (at.clone(), 0..60usize, any::<char>()).prop_map(|(i, j, c)| Mutation::Byte(i, j, c)),
        (at.clone(), line_soup()).prop_map(|(i, line)| Mutation::Insert(i, line)),
        at.prop_map(Mutation::Cut),
    ]
}

fn mutate(lines: &mut Vec<String>, mutation: &Mutation) {
    let len = lines.len().max(1);
    let char_at = |line: &str, j: usize| line.char_indices().map(|(i, _)| i).nth(j).unwrap_or(line.len());
    match mutation {
        Mutation::Delete(i) if !lines.is_empty() => drop(lines.remove(i % len)),
        Mutation::Repeat(i, n) if !lines.is_empty() => {
            let line = lines[i % len].clone();
            lines.splice(i % len..i % len, std::iter::repeat_n(line, *n));
        }
        Mutation::Swap(i, j) if !lines.is_empty() => lines.swap(i % len, j % len),
        Mutation::Replace(i, j, text) if !lines.is_empty() => {
            let at = char_at(&lines[i % len], *j);
            lines[i % len].replace_range(at.., text);
        }
        Mutation::Byte(i, j, c) if !lines.is_empty() => {
            let at = char_at(&lines[i % len], *j);
            lines[i % len].insert(at, *c);
        }
        Mutation::Insert(i, line) => lines.insert(i % len, line.clone()),
        Mutation::Cut(i) => lines.truncate(i % len),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_offers_are_refused_or_answered(
        seed in prop::sample::select(&SEEDS[..]),
        mutations in prop::collection::vec(mutation(), 1..8),
    ) {
        let mut lines: Vec<String> = seed.split("\r\n").map(str::to_owned).collect();
        for change in &mutations {
            mutate(&mut lines, change);
        }
        outcome(&lines.join("\r\n"));
    }

    #[test]
    fn lines_in_any_order_are_refused_or_answered(lines in prop::collection::vec(line_soup(), 0..60)) {
        let transport = "a=ice-ufrag:abcd\na=ice-pwd:abcdefghijklmnopqrstuv\na=fingerprint:sha-256 00\n";
        outcome(&format!("v=0\n{transport}{}", lines.join("\n")));
    }

    #[test]
    fn any_text_is_refused_or_answered(text in any::<String>()) {
        outcome(&text);
        outcome(&format!("v=0\nm=video 9 UDP/TLS/RTP/SAVPF 96\n{text}"));
    }

    #[test]
    fn any_candidate_is_told_from_what_is_none(text in "(a=)?candidate:[ -~]{0,120}|.{0,80}") {
        let _ = is_candidate(&text);
        let is_one = is_candidate(&format!("candidate:{text}"));
        prop_assert!(is_one);
    }
}

/// The work is bounded by the length: the worst that fits takes a fraction of a second even unoptimised.
#[test]
fn the_largest_offers_end_soon() {
    let head = "v=0\na=ice-ufrag:abcd\na=ice-pwd:abcdefghijklmnopqrstuv\na=fingerprint:sha-256 00\n";
    let formats: Vec<String> = (0..128).map(|pt| pt.to_string()).collect();
    let mut section = format!("m=video 9 UDP/TLS/RTP/SAVPF {}\na=rtcp-mux\n", formats.join(" "));
    for pt in 0..128 {
        section += &format!("a=rtpmap:{pt} {}/90000\n", if pt % 2 == 0 { "H264" } else { "rtx" });
        section += &format!("a=fmtp:{pt} {}apt={}\n", ";".repeat(900), pt / 2 * 2);
    }
    let start = std::time::Instant::now();
    let text = head.to_owned() + &section;
    assert!(outcome(&(text.clone() + "a=mid:0\n")).starts_with("answered"));
    assert!(outcome(&text.repeat(4)).starts_with("refused"));
    let many = head.to_owned() + &"m=audio 9 UDP/TLS/RTP/SAVPF 111\na=rtcp-mux\na=rtpmap:111 opus/48000/2\n".repeat(64);
    assert_eq!(outcome(&many), "answered: 1 of 64 m-sections");
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}
