//! The torture messages of RFC 4475, each with what becomes of it, and mutations of them: none may stop the agent, and each that can be
//! answered is.

use std::path::Path;

use super::tests::{agent, hop};
use super::*;

/// Messages by the names of the RFC: those that libFuzzer begins with as well are files of its corpus, the others stand in `torture.txt`.
pub(super) fn messages() -> Vec<(String, Vec<u8>)> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/sip");
    let files = std::fs::read_dir(&corpus).expect("the corpus of sip");
    let named = |path: &Path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap());
    let mut messages: Vec<(String, Vec<u8>)> = files.map(|file| named(&file.unwrap().path())).collect();
    for part in include_str!("torture.txt").split("==== ").skip(1) {
        let (name, body) = part.split_once('\n').expect("a name and a message");
        messages.push((name.to_owned(), bytes_of(body)));
    }
    messages.sort();
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
    let found: Vec<(String, Option<u16>)> =
        messages().into_iter().map(|(name, bytes)| (name, outcome(&bytes))).collect();
    let mut expected: Vec<(String, Option<u16>)> =
        expected.iter().map(|(name, status)| ((*name).to_owned(), *status)).collect();
    expected.sort();
    let wrong: Vec<_> = found.iter().zip(&expected).filter(|(found, expected)| found != expected).collect();
    assert!(wrong.is_empty() && found.len() == expected.len(), "{} of {}: {wrong:#?}", found.len(), expected.len());
}

/// A number that a variable says.
fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What is to be repeated, if a mutation fails.
struct Case {
    seed: u64,
    number: u64,
    bytes: Vec<u8>,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("MUTATIONS_SEED={}, mutation {}: {}", self.seed, self.number, self.bytes.escape_ascii());
        }
    }
}

/// One to ten edits of a message, mostly few: after many it is refused at its first line.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, corpus: &[(String, Vec<u8>)]) {
    for _ in 0..1 + random.u64() % 4 * (random.u64() % 4) {
        let (choice, byte) = (random.u64(), random.u64() as u8);
        let place = (choice >> 8) as usize % (bytes.len() + 1);
        match choice % 8 {
            0 | 1 if place < bytes.len() => bytes[place] = byte,
            2 => bytes.insert(place, byte),
            3 if place < bytes.len() => drop(bytes.remove(place)),
            // Seldom, as little is left.
            4 if byte < 32 => bytes.truncate(place),
            5 | 6 => {
                // A piece of another message, so that header fields are repeated and strange values met.
                let other = &corpus[usize::from(byte) % corpus.len()].1;
                let from = (choice >> 40) as usize % other.len();
                bytes.splice(place..place, other[from..(from + 60).min(other.len())].iter().copied());
            }
            // A digit more or less is a strange number, and a sign of the grammar is a strange place for it.
            _ => bytes.insert(place, b"0123456789;,:<>\"@\\ \r\n"[usize::from(byte) % 21]),
        }
    }
}

/// A request of a call of this number with this tag of ours.
fn within(method: &str, call: u64, cseq: u64, tag: &str) -> Vec<u8> {
    let body = if method == "INVITE" { "v=0\r\n" } else { "Signal=5\r\n" };
    let kind = if method == "INVITE" { "application/sdp" } else { "application/dtmf-relay" };
    let more = if method == "REFER" { "Refer-To: <sip:200@192.0.2.99?Replaces=a%40b%3Bto-tag%3Dc>\r\n" } else { "" };
    format!(
        "{method} sip:100@198.51.100.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.99:5060;branch=z9hG4bK{call}x{cseq};rport\r\n\
         From: <sip:a@192.0.2.99>;tag=a{call}\r\nTo: <sip:100@198.51.100.1>{tag}\r\nCall-ID: m{call}\r\n\
         CSeq: {cseq} {method}\r\nContact: <sip:a@192.0.2.99>\r\nMax-Forwards: 70\r\nContent-Type: {kind}\r\n{more}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Whether anybody would say that this request is to be answered; by its text, and not by our parser. Some that we answer are not among them.
fn is_answerable(bytes: &[u8]) -> bool {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let head = text.trim_start_matches(['\r', '\n']).split("\r\n\r\n").next().unwrap_or("").to_owned();
    let mut lines: Vec<String> = Vec::new();
    for line in head.split('\n') {
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.trim_end_matches('\r').to_owned()),
        }
    }
    let [method, _, version] = lines[0].split(' ').collect::<Vec<_>>()[..] else { return false };
    let is_request = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !is_request || method == "ACK" || version != "SIP/2.0" || lines.len() > 100 {
        return false;
    }
    let value = |long: &str, short: &str| {
        lines.iter().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            [long, short].iter().any(|own| name.trim_end().eq_ignore_ascii_case(own)).then(|| value.trim())
        })
    };
    let others = [("From", "f"), ("To", "t"), ("Call-ID", "i"), ("CSeq", "cseq")];
    let (true, Some(via)) = (others.iter().all(|(long, short)| value(long, short).is_some()), value("Via", "v")) else {
        return false;
    };
    let sent_by = via.strip_prefix("SIP/2.0/UDP ").or_else(|| via.strip_prefix("SIP/2.0/TCP "));
    let host = sent_by.and_then(|sent_by| sent_by.split(';').next()).unwrap_or("");
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

fn memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// An agent with calls, of which one is of somebody else: whatever a stranger sends, each request that can be answered is, where it came
/// from; nothing grows; and the other call goes on. `MUTATIONS` says how many, `MUTATIONS_SEED` which (`make torture`).
#[test]
fn mutations_of_them_stop_nothing() {
    let (many, seed) = (variable("MUTATIONS", 10_000), variable("MUTATIONS_SEED", 1));
    let (corpus, mut random) = (messages(), Random::from_seed(seed));
    let mut now = Instant::now();
    let mut agent = super::tests::trunked(now, false);
    let (_, other) = super::tests::up(&mut agent, now, "");
    let (mut answers, mut must, mut digits, mut transfers) = (0u64, 0u64, 0u64, 0u64);
    // A call of the stranger: its number, the last CSeq, our tag.
    let mut call: (u64, u64, String) = (0, 0, String::new());
    let mut settled = None;
    for number in 0..many {
        now += Duration::from_millis(20);
        let stranger = hop(if number % 3 == 0 { "192.0.2.98:49152" } else { "192.0.2.99:5060" });
        let mut bytes = if number % 64 == 0 {
            // A call that nothing is wrong with.
            call = (number, 1, String::new());
            within("INVITE", number, 1, "")
        } else if number % 4 == 0 && !call.2.is_empty() {
            call.1 += 1;
            let methods = ["INVITE", "INFO", "OPTIONS", "ACK", "CANCEL", "BYE", "PRACK", "UPDATE", "REFER"];
            within(methods[random.u64() as usize % methods.len()], call.0, call.1, &call.2)
        } else {
            corpus[random.u64() as usize % corpus.len()].1.clone()
        };
        if number % 64 != 0 {
            mutate(&mut random, &mut bytes, &corpus);
        }
        let case = Case { seed, number, bytes };
        if let crate::message::Framed::Whole(len) | crate::message::Framed::Ping(len) =
            crate::message::framed(&case.bytes)
        {
            assert!(len <= case.bytes.len());
        }
        let dropped = agent.counters.get(Counter::DroppedFull) + agent.counters.get(Counter::DroppedRate);
        agent.receive(now, stranger, &case.bytes);
        while let Some(event) = agent.poll_event() {
            match event {
                Event::Incoming(incoming) => agent.accept(now, incoming.call, "v=0\r\n".to_owned()),
                Event::Offered { call, .. } => agent.accept(now, call, "v=0\r\n".to_owned()),
                Event::Digit { .. } => digits += 1,
                Event::Referred { call, .. } => {
                    transfers += 1;
                    agent.tell_referrer(now, call, 486);
                }
                _ => (),
            }
        }
        let sent: Vec<(Hop, Vec<u8>)> = std::iter::from_fn(|| agent.poll_transmit()).collect();
        let answered = sent.iter().filter(|(_, bytes)| bytes.starts_with(b"SIP/2.0 ")).count();
        // A copy is answered where the first one was; nobody else is answered.
        let is_strangers = |to: &Hop| ["192.0.2.98", "192.0.2.99"].contains(&&*to.address.ip().to_string());
        assert!(sent.iter().all(|(to, bytes)| !bytes.starts_with(b"SIP/2.0 ") || is_strangers(to)));
        assert!(sent.len() <= 4, "{} answers", sent.len());
        answers += answered as u64;
        if is_answerable(&case.bytes) {
            must += 1;
            let drops = agent.counters.get(Counter::DroppedFull) + agent.counters.get(Counter::DroppedRate) - dropped;
            assert_eq!((answered > 0, drops), (true, 0), "it has its answer");
        }
        if number % 64 == 0 {
            let ok = sent.last().and_then(|(_, bytes)| Message::parse(bytes).ok());
            // 486 while the stranger has all calls that it may have.
            let tag = ok.filter(|ok| ok.status() == 200).and_then(|ok| Some(format!(";tag={}", ok.tag("To")?)));
            call.2 = tag.unwrap_or_default();
        }
        agent.handle_timeout(now);
        let repeated = std::iter::from_fn(|| agent.poll_transmit()).count();
        assert!(repeated <= crate::transaction::TRANSACTIONS_MAX + 2 * agent.settings.calls_max);
        assert!(agent.dialogs.len() <= agent.settings.calls_max && agent.dialogs.len() == agent.tags.len());
        if number % 1000 == 999 {
            for (method, cseq) in [("INFO", number + 2), ("OPTIONS", number + 3)] {
                let more = "Content-Type: application/dtmf-relay\r\n";
                let request = super::tests::request(method, cseq as u32, &other, more, "Signal=7");
                agent.receive(now, hop("192.0.2.1:5060"), &request);
                assert_eq!(statuses(&mut agent), [200], "the other call goes on");
            }
            let is_digit = |event| matches!(event, Event::Digit { digit: b'7', call: 1 });
            assert!(std::iter::from_fn(|| agent.poll_event()).any(is_digit), "its digit comes");
            if number >= many / 5 {
                settled.get_or_insert_with(memory_kib);
            }
        }
    }
    let calls = agent.counters.get(Counter::Calls);
    println!(
        "{many} mutations: {must} had to be answered, {answers} answers, {calls} calls, {digits} digits, {transfers} transfers"
    );
    let reached = [(calls, 200), (must, 4), (digits, 1000), (transfers, 1000)];
    assert!(reached.iter().all(|(count, part)| *count > many / part), "the mutations reach what they are for");
    // Other tests of this process have memory of their own, and fewer mutations say little.
    if let Some(settled) = settled.filter(|_| many >= 100_000) {
        let more = memory_kib().saturating_sub(settled);
        println!("memory: {settled} KiB after a fifth, then {more} KiB more");
        assert!(more < 16 * 1024, "{more} KiB more");
    }
}
