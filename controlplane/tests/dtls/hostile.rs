//! Bytes from somebody who means harm, or from a broken network card: never a panic, never disagreeing keys, never an
//! unbounded answer. The corpus is replayed first.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use controlplane::dtls::{Dtls, Identity};
use proptest::prelude::*;

use crate::pair::{End, Pair, Way, arrives};

static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::generate().unwrap());

/// Bytes that an end may send for one datagram that it gets: an address that ICE has validated is no amplifier's
/// victim, but a flight is all that it should draw.
const ANSWER_LEN_MAX: usize = 8 * 1200;

/// Feeds datagrams to an end and checks what every input must leave true.
fn feed(end: &mut End, now: Instant, datagrams: &[Vec<u8>]) {
    for datagram in datagrams {
        end.dtls.handle(now, datagram);
        let answer: usize = std::iter::from_fn(|| end.dtls.poll_transmit()).map(|d| d.len()).sum();
        assert!(answer <= ANSWER_LEN_MAX, "{answer} bytes in answer to {}", datagram.len());
        end.drain_events();
        if end.failed.is_some() || end.is_closed {
            assert_eq!(end.dtls.poll_timeout(), None, "what is over waits for nothing");
        }
    }
    end.dtls.handle_timeout(now + Duration::from_secs(1));
    while end.dtls.poll_transmit().is_some() {}
    end.drain_events();
}

/// What a corpus file says of each end after its datagrams.
fn outcome(end: &End) -> &'static str {
    assert!(end.connected.is_none(), "no keys without a peer");
    if end.failed.is_some() { "failed" } else { "waiting" }
}

/// A corpus file: `#` comments, `server: failed|waiting` and `client: …`, then one datagram a line in hex (blanks
/// ignored; `xx*N` repeats a byte).
#[test]
fn the_corpus_is_harmless() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/dtls");
    let (mut replayed, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let now = Instant::now();
        let mut server = End::new(Dtls::accept(&IDENTITY, now).unwrap());
        let mut client = End::new(Dtls::connect(&IDENTITY, now).unwrap());
        let lines = || text.lines().map(|l| l.trim()).filter(|l| !l.is_empty() && !l.starts_with('#'));
        let datagrams: Vec<_> = lines().filter(|l| !l.contains(':')).map(parse_hex).collect();
        feed(&mut server, now, &datagrams);
        feed(&mut client, now, &datagrams);
        for (name, end) in [("server", &server), ("client", &client)] {
            let expected = lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
            if Some(outcome(end)) != expected {
                wrong.push(format!("{name} of {}: {} {:?}", path.display(), outcome(end), end.failed));
            }
        }
        replayed += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(replayed >= 10, "the corpus is there");
}

fn parse_hex(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in line.split_whitespace() {
        let (hex, times) = word.split_once('*').map_or((word, 1), |(hex, times)| (hex, times.parse().unwrap()));
        let run: Vec<u8> = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        bytes.extend(run.repeat(times));
    }
    bytes
}

#[test]
fn what_is_no_datagram_of_ours_is_discarded() {
    let mut pair = Pair::new(|_, _, _| arrives());
    pair.server.dtls.handle(pair.now, &[]);
    pair.server.dtls.handle(pair.now, &[22; 1501]);
    pair.client.dtls.handle(pair.now, &[]);
    pair.client.dtls.handle(pair.now, &vec![22; 100_000]);
    pair.run(Duration::from_secs(1));
    pair.assert_agree();
}

/// A datagram that looks like DTLS from the outside: a content type, a version, an epoch, then anything.
fn looks_like_dtls() -> impl Strategy<Value = Vec<u8>> {
    let content_type = prop_oneof![20u8..=26, 0x20u8..=0x3f, any::<u8>()];
    let version = prop_oneof![Just([0xfe, 0xfd]), Just([0xfe, 0xff]), Just([0xfe, 0xfc]), any::<[u8; 2]>()];
    let epoch = prop_oneof![Just(0u16), 1u16..4, any::<u16>()];
    let handshake = (0u8..25, 0u32..0x2_0000, 0u16..4, 0u32..64);
    let body = prop::collection::vec(any::<u8>(), 0..300);
    (content_type, version, epoch, any::<u8>(), handshake, body).prop_map(
        |(content_type, version, epoch, number, (kind, len, seq, offset), body)| {
            let mut fragment = vec![kind];
            fragment.extend(&len.to_be_bytes()[1..]);
            fragment.extend(seq.to_be_bytes());
            fragment.extend(&offset.to_be_bytes()[1..]);
            fragment.extend(&(body.len() as u32).to_be_bytes()[1..]);
            fragment.extend(body);
            let mut datagram = vec![content_type];
            datagram.extend(version);
            datagram.extend(epoch.to_be_bytes());
            datagram.extend([0, 0, 0, 0, 0, number]);
            datagram.extend((fragment.len() as u16).to_be_bytes());
            datagram.extend(fragment);
            datagram
        },
    )
}

fn garbage() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let random = prop::collection::vec(any::<u8>(), 0..600);
    prop::collection::vec(prop_oneof![looks_like_dtls(), random], 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_before_the_handshake_gives_no_keys(datagrams in garbage()) {
        let now = Instant::now();
        for dtls in [Dtls::accept(&IDENTITY, now).unwrap(), Dtls::connect(&IDENTITY, now).unwrap()] {
            let mut end = End::new(dtls);
            feed(&mut end, now, &datagrams);
            prop_assert!(end.connected.is_none());
        }
    }

    /// Nothing that does not authenticate reaches a connection: it neither ends nor loses its peer.
    #[test]
    fn garbage_after_the_handshake_changes_nothing(datagrams in garbage()) {
        let mut pair = Pair::with_identities(IDENTITY.clone(), IDENTITY.clone(), |_, _, _| arrives());
        pair.run(Duration::from_secs(1));
        feed(&mut pair.server, pair.now, &datagrams);
        feed(&mut pair.client, pair.now, &datagrams);
        prop_assert!(pair.server.dtls.is_connected(), "{:?}", pair.server.failed);
        prop_assert!(pair.client.dtls.is_connected(), "{:?}", pair.client.failed);
        pair.client.dtls.close();
        pair.run(Duration::from_secs(1));
        prop_assert!(pair.server.is_closed, "the peer's close still arrives");
    }

    /// One datagram of a real handshake is spoilt on its way. Its first records are not authenticated, so it may end by
    /// an error, or hang until the caller's deadline (a spoilt random makes keys that open nothing), but never in two
    /// ends that believe different things.
    #[test]
    fn a_spoilt_datagram_never_gives_disagreeing_keys(
        to_server in any::<bool>(),
        which in 0usize..4,
        at in any::<prop::sample::Index>(),
        flip in 0u8..=255,
    ) {
        let spoilt_way = if to_server { Way::ToServer } else { Way::ToClient };
        let decide = move |way, n, datagram: &mut Vec<u8>| {
            if way == spoilt_way && n == which {
                let at = at.index(datagram.len());
                match flip {
                    0 => datagram.truncate(at), // Empty at worst, which is discarded.
                    _ => datagram[at] ^= flip,
                }
            }
            arrives()
        };
        let mut pair = Pair::with_identities(IDENTITY.clone(), IDENTITY.clone(), decide);
        pair.run(Duration::from_secs(20));
        prop_assert_eq!(pair.client.connected.is_some(), pair.server.connected.is_some());
        if pair.client.connected.is_some() {
            pair.assert_agree();
        }
    }
}
