//! The torture messages of RFC 4475, each with what becomes of it, and mutations of them: none may stop the agent.

use std::cell::RefCell;

use super::tests::{agent, hop};
use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Messages by the names of the RFC.
pub(super) fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let text = include_str!("torture.txt");
    let mut messages = Vec::new();
    for part in text.split("==== ").skip(1) {
        let (name, body) = part.split_once('\n').expect("a name and a message");
        messages.push((name, bytes_of(body)));
    }
    messages
}

/// `\xNN` is a byte, and a line break is CRLF.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = rest.strip_prefix(b"\\x").and_then(|hex| std::str::from_utf8(hex.get(..2)?).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => (bytes.push(escaped), rest = &rest[4..]).1,
            None if byte == b'\n' => (bytes.extend_from_slice(b"\r\n"), rest = after).1,
            None => (bytes.push(byte), rest = after).1,
        }
    }
    bytes
}

/// Status of the last answer to each message; None where it was dropped.
fn outcome(bytes: &[u8]) -> Option<u16> {
    let now = Instant::now();
    let mut agent = agent(now);
    agent.receive(now, hop("192.0.2.99:5060"), bytes);
    statuses(&mut agent).last().copied()
}

/// By the first lines alone: what answers a malformed request repeats what is malformed.
fn statuses(agent: &mut Agent) -> Vec<u16> {
    let status = |(_, bytes): (Hop, Vec<u8>)| {
        let line = String::from_utf8_lossy(&bytes[..11]).into_owned();
        // 0 for a request.
        line.strip_prefix("SIP/2.0 ").map_or(0, |status| status.parse().expect("a status"))
    };
    std::iter::from_fn(|| agent.poll_transmit()).map(status).collect()
}

/// 100 is an INVITE that was taken: the gateway looks whether there is such a number, and such media.
#[test]
fn each_message_has_its_answer() {
    let expected: &[(&str, Option<u16>)] = &[
        ("wsinv", Some(481)),
        ("intmeth", Some(501)),
        ("esc01", Some(100)),
        ("escnull", Some(405)),
        ("esc02", Some(501)),
        ("lwsdisp", Some(200)),
        ("longreq", Some(100)),
        ("dblreq", Some(405)),
        ("semiuri", Some(200)),
        ("transports", Some(200)),
        ("mpart01", Some(405)),
        ("unreason", None),
        ("noreason", None),
        ("badinv01", Some(400)),
        ("clerr", Some(400)),
        ("ncl", Some(400)),
        ("scalar02", Some(400)),
        ("scalarlg", None),
        ("quotbal", Some(400)),
        ("ltgtruri", Some(400)),
        ("lwsruri", Some(400)),
        ("lwsstart", Some(400)),
        ("trws", Some(400)),
        ("escruri", Some(100)),
        ("baddate", Some(100)),
        ("regbadct", Some(405)),
        ("badaspec", Some(400)),
        ("baddn", Some(400)),
        ("badvers", Some(505)),
        ("mismatch01", Some(400)),
        ("mismatch02", Some(400)),
        ("bigcode", None),
        ("badbranch", Some(200)),
        ("insuf", Some(400)),
        ("unkscm", Some(416)),
        ("novelsc", Some(416)),
        ("unksm2", Some(405)),
        ("bext01", Some(420)),
        ("invut", Some(415)),
        ("regaut01", Some(405)),
        ("multi01", Some(400)),
        ("mcl01", Some(400)),
        ("bcast", None),
        ("zeromf", Some(200)),
        ("cparam01", Some(405)),
        ("cparam02", Some(405)),
        ("regescrt", Some(405)),
        ("sdp01", Some(406)),
        ("inv2543", Some(100)),
    ];
    let messages = messages();
    let found: Vec<(&str, Option<u16>)> = messages.iter().map(|(name, bytes)| (*name, outcome(bytes))).collect();
    let wrong: Vec<_> = found.iter().zip(expected).filter(|(found, expected)| found != expected).collect();
    assert!(wrong.is_empty() && found.len() == expected.len(), "{} of {}: {wrong:#?}", found.len(), expected.len());
}

/// How many mutations are tried; the variable `MUTATIONS` says another number.
fn mutations() -> u32 {
    std::env::var("MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// An agent in the middle of a call, for which nothing that a stranger sends is fatal, and which answers within its bounds.
#[test]
fn mutations_of_them_stop_nothing() {
    let corpus = messages();
    let mut runner = TestRunner::new(Config { cases: mutations(), failure_persistence: None, ..Config::default() });
    let edits = prop::collection::vec((0usize..2000, any::<u8>(), 0u8..5), 1..12);
    let case = (0..corpus.len(), edits, any::<bool>());
    let now = Instant::now();
    let state = RefCell::new((agent(now), now));
    let result = runner.run(&case, |(which, edits, is_stream)| {
        let mut bytes = corpus[which].1.clone();
        for (place, byte, kind) in edits {
            let place = place % bytes.len().max(1);
            match kind {
                0 if place < bytes.len() => bytes[place] = byte,
                1 => bytes.insert(place.min(bytes.len()), byte),
                2 if place < bytes.len() => drop(bytes.remove(place)),
                3 => bytes.truncate(place),
                _ => {
                    // A piece of another message, so that header fields are repeated and strange values met.
                    let other = &corpus[(which + usize::from(byte)) % corpus.len()].1;
                    let from = usize::from(byte) * 3 % other.len().max(1);
                    let piece = other[from..(from + 60).min(other.len())].to_vec();
                    bytes.splice(place..place, piece);
                }
            }
        }
        if is_stream && let crate::message::Framed::Whole(len) = crate::message::framed(&bytes) {
            prop_assert!(len <= bytes.len());
            bytes.truncate(len);
        }
        let (agent, at) = &mut *state.borrow_mut();
        *at += Duration::from_millis(20);
        agent.receive(*at, hop("192.0.2.99:5060"), &bytes);
        let offers: Vec<u64> = std::iter::from_fn(|| agent.poll_event())
            .filter_map(|event| match event {
                Event::Incoming(incoming) => Some(incoming.call),
                Event::Offered { call, .. } => Some(call),
                _ => None,
            })
            .collect();
        for call in offers {
            agent.accept(*at, call, "v=0\r\n".to_owned());
        }
        agent.handle_timeout(*at);
        // Each answer to this message, and those that are repeated.
        prop_assert!(statuses(agent).len() <= 3 + 2 * agent.settings.calls_max);
        prop_assert!(agent.dialogs.len() <= agent.settings.calls_max);
        prop_assert_eq!(agent.dialogs.len(), agent.tags.len());
        Ok(())
    });
    result.unwrap();
    let (agent, _) = state.into_inner();
    assert!(agent.counters.get(Counter::Calls) > 20, "some were calls");
    assert_eq!(agent.counters.get(Counter::Messages), u64::from(mutations()));
}
