//! The records of the plane contract: what is written is read back, and what was not written does no harm.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use proptest::prelude::*;
use proto::id::{Mid, PeerId, RelayId, RouteId, SlotId, StreamId, TapId};
use proto::plane::*;

fn mid() -> impl Strategy<Value = Mid> {
    "[a-zA-Z0-9!#$%&'*+.^_`{|}~-]{0,16}".prop_map(|text| Mid::parse(text.as_bytes()).expect("token characters"))
}

macro_rules! id_strategy {
    ($($name:ident: $id:ident),*) => {$(
        fn $name() -> impl Strategy<Value = $id> {
            (any::<u32>(), 1..=u32::MAX).prop_map(|(index, generation)| $id::new(index, generation))
        }
    )*};
}
id_strategy!(peer: PeerId, stream: StreamId, slot: SlotId, route: RouteId, tap: TapId, relay: RelayId);

fn path_state() -> impl Strategy<Value = PathState> {
    prop::sample::select(vec![PathState::Good, PathState::Unknown, PathState::Bad, PathState::Dead])
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn keys() -> impl Strategy<Value = PeerKeys> {
    let direction = prop::sample::select(vec![Direction::Rx, Direction::Tx]);
    let profile = prop::sample::select(vec![
        SrtpProfile::Aes128CmHmacSha1_80,
        SrtpProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm,
    ]);
    (peer(), direction, profile, any::<[u8; KEY_LEN_MAX]>(), any::<[u8; SALT_LEN_MAX]>())
        .prop_map(|(peer, direction, profile, key, salt)| PeerKeys { peer, direction, profile, key, salt })
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(vec![Codec::Opus, Codec::H264, Codec::Vp8])
}

fn stream_open() -> impl Strategy<Value = StreamOpen> {
    (stream(), peer(), any::<[u32; 2]>(), mid(), any::<[u8; 4]>(), codec()).prop_map(
        |(stream, peer, [ssrc, rtx_ssrc], mid, [pt, rtx_pt, feedback, red_pt], codec)| StreamOpen {
            stream,
            peer,
            ssrc,
            rtx_ssrc,
            mid,
            pt,
            rtx_pt,
            codec,
            feedback,
            red_pt,
        },
    )
}

fn slot_open() -> impl Strategy<Value = SlotOpen> {
    (slot(), peer(), any::<[u32; 3]>(), mid(), any::<[u16; 2]>()).prop_map(
        |(slot, peer, [ssrc, rtx_ssrc, timestamp_first], mid, [seq_first, rtx_seq_first])| SlotOpen {
            slot,
            peer,
            ssrc,
            rtx_ssrc,
            mid,
            seq_first,
            rtx_seq_first,
            timestamp_first,
        },
    )
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (peer(), any::<[u8; UFRAG_LEN]>(), any::<[u8; PWD_LEN]>()).prop_map(|(peer, ufrag, pwd)| PeerOpen {
            peer,
            ufrag,
            pwd
        }
        .into()),
        (peer(), any::<[u8; UFRAG_LEN]>(), any::<[u8; PWD_LEN]>()).prop_map(|(peer, ufrag, pwd)| PeerIce {
            peer,
            ufrag,
            pwd
        }
        .into()),
        (peer(), any::<ExtensionIds>()).prop_map(|(peer, ids)| PeerExtensions { peer, ids }.into()),
        keys().prop_map(Command::from),
        peer().prop_map(|peer| PeerClose { peer }.into()),
        (peer(), any::<[u8; 3]>(), any::<[u8; PEER_REMOTE_PART_LEN / 2]>(), any::<[u8; PEER_REMOTE_PART_LEN / 2]>())
            .prop_map(|(peer, [part, count, len], first, second)| {
                let bytes = [first, second].concat().try_into().expect("both halves");
                PeerRemote { peer, part, count, len, bytes }.into()
            }),
        (peer(), 0..PEER_CANDIDATES_MAX as u8, address(), any::<[u64; 2]>()).prop_map(
            |(peer, place, remote, [send_flow, receive_flow])| {
                PeerCandidate { peer, place, remote, send_flow, receive_flow }.into()
            }
        ),
        (peer(), peer(), any::<[u64; 2]>()).prop_map(|(peer, edge, [send_flow, receive_flow])| {
            PeerEdge { peer, edge, send_flow, receive_flow }.into()
        }),
        (relay(), address(), address(), any::<[u64; 2]>())
            .prop_map(|(relay, from, to, [flow, to_flow])| { RelayOpen { relay, flow, from, to, to_flow }.into() }),
        (relay(), any::<u32>()).prop_map(|(relay, bps_max)| RelayRate { relay, bps_max }.into()),
        relay().prop_map(|relay| RelayClose { relay }.into()),
        (peer(), any::<u32>()).prop_map(|(peer, bps_max)| PeerLimit { peer, bps_max }.into()),
        (peer(), any::<u32>(), any::<u32>()).prop_map(|(peer, bps_max, packets_max)| PeerRate {
            peer,
            bps_max,
            packets_max
        }
        .into()),
        (stream(), any::<u32>(), any::<u32>()).prop_map(|(stream, bps_max, packets_max)| StreamRate {
            stream,
            bps_max,
            packets_max
        }
        .into()),
        (stream(), prop::sample::select(vec![Gate::Open, Gate::Speech, Gate::Closed]))
            .prop_map(|(stream, gate)| StreamGate { stream, gate }.into()),
        stream_open().prop_map(Command::from),
        (stream(), codec(), any::<[u8; 2]>()).prop_map(|(stream, codec, [pt, rtx_pt])| StreamCodec {
            stream,
            codec,
            pt,
            rtx_pt
        }
        .into()),
        (route(), codec(), any::<[u8; 2]>()).prop_map(|(route, codec, [pt, rtx_pt])| RouteCodec {
            route,
            codec,
            pt,
            rtx_pt
        }
        .into()),
        (stream(), any::<[[u32; STREAM_ENCODINGS_MAX]; 2]>())
            .prop_map(|(stream, [ssrcs, rtx_ssrcs])| StreamEncodings { stream, ssrcs, rtx_ssrcs }.into()),
        (stream(), any::<[u8; 2]>(), prop::collection::vec(any::<u8>(), STREAM_SETS_PART_LEN)).prop_map(
            |(stream, [part, len], bytes)| {
                StreamSets { stream, part, len, bytes: bytes.try_into().expect("as many") }.into()
            }
        ),
        stream().prop_map(|stream| StreamClose { stream }.into()),
        slot_open().prop_map(Command::from),
        slot().prop_map(|slot| SlotClose { slot }.into()),
        (route(), stream(), slot(), any::<[u8; 3]>()).prop_map(|(route, stream, slot, [pt, rtx_pt, red_pt])| {
            RouteOpen { route, stream, slot, pt, rtx_pt, red_pt }.into()
        }),
        route().prop_map(|route| RouteClose { route }.into()),
        (tap(), stream(), any::<u16>(), stream()).prop_map(|(tap, stream, worker, mirror)| TapOpen {
            tap,
            stream,
            worker,
            mirror
        }
        .into()),
        tap().prop_map(|tap| TapClose { tap }.into()),
        (stream(), any::<u16>(), stream(), peer(), any::<[u8; 2]>(), codec()).prop_map(
            |(stream, worker, origin, publisher, [pt, rtx_pt], codec)| {
                MirrorOpen { stream, worker, origin, publisher, pt, rtx_pt, codec }.into()
            }
        ),
        Just(Reset {}.into()),
        Just(Describe {}.into()),
        any::<u64>().prop_map(|batch| Commit { batch }.into()),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let refusal = prop::sample::select(vec![
        Refusal::Malformed,
        Refusal::TableFull,
        Refusal::Unknown,
        Refusal::Occupied,
        Refusal::BatchFull,
    ]);
    prop_oneof![
        any::<u64>().prop_map(|batch| Committed { batch }.into()),
        (any::<u64>(), any::<u16>(), any::<u32>(), refusal).prop_map(|(batch, tag, index, refusal)| Refused {
            batch,
            tag,
            index,
            refusal
        }
        .into()),
        (peer(), address(), any::<u8>())
            .prop_map(|(peer, remote, nominated)| PeerPath { peer, remote, nominated }.into()),
        peer().prop_map(|peer| PeerExpired { peer }.into()),
        any::<u64>().prop_map(|count| Described { count }.into()),
        stream().prop_map(|stream| StreamSilent { stream }.into()),
        (stream(), any::<u32>()).prop_map(|(stream, bps)| EncodingRate { stream, bps }.into()),
        (stream(), 0..=127u8).prop_map(|(stream, loudness)| StreamSpeaks { stream, loudness }.into()),
        stream().prop_map(|stream| StreamQuiet { stream }.into()),
        stream().prop_map(|stream| StreamResumed { stream }.into()),
        peer().prop_map(|peer| PeerSilent { peer }.into()),
        peer().prop_map(|peer| PeerResumed { peer }.into()),
        peer().prop_map(|peer| PeerLosing { peer }.into()),
        (peer(), any::<u8>(), any::<[u32; 3]>(), path_state()).prop_map(
            |(peer, place, [rtt_us, loss_ppm, jitter_us], state)| {
                PathMeasured { peer, place, rtt_us, loss_ppm, jitter_us, state }.into()
            }
        ),
    ]
}

fn without_secrets(command: Command) -> Command {
    match command {
        Command::PeerKeys(keys) => {
            Command::PeerKeys(PeerKeys { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN_MAX], ..keys })
        }
        other => other,
    }
}

/// Reads a record as every kind that it could be; whatever it reads must survive writing and reading again.
fn exercise(record: &Record) {
    if let Some(command) = Command::read(record) {
        assert_eq!(Command::read(&command.write()), Some(command));
    }
    if let Some(event) = Event::read(record) {
        assert_eq!(Event::read(&event.write()), Some(event));
    }
    match Report::read(record) {
        Some(Report::Event(event)) => assert_eq!(Event::read(record), Some(event)),
        Some(Report::Echo(command)) => {
            assert_eq!(Report::read(&Report::Echo(command).write()), Some(Report::Echo(without_secrets(command))));
        }
        None => {}
    }
}

proptest! {
    #[test]
    fn a_command_comes_back(command in command()) {
        prop_assert_eq!(Command::read(&command.write()), Some(command));
    }

    #[test]
    fn an_event_comes_back(event in event()) {
        prop_assert_eq!(Event::read(&event.write()), Some(event));
        prop_assert_eq!(Report::read(&Report::Event(event).write()), Some(Report::Event(event)));
    }

    #[test]
    fn an_echo_comes_back_without_secrets(command in command()) {
        let record = Report::Echo(command).write();
        prop_assert_eq!(Report::read(&record), Some(Report::Echo(without_secrets(command))));
        prop_assert_eq!(Command::read(&record), None, "an echo is no command");
    }

    #[test]
    fn no_byte_of_a_key_is_in_an_echo(mut keys in keys()) {
        keys.peer = PeerId::new(0, 1);
        keys.key = [0xee; KEY_LEN_MAX];
        keys.salt = [0xee; SALT_LEN_MAX];
        prop_assert!(!Report::Echo(keys.into()).write().contains(&0xee));
    }

    #[test]
    fn any_record_does_no_harm(record in any::<[u8; RECORD_LEN]>(), tag in 0u16..16, is_echo in any::<bool>()) {
        exercise(&record);
        let mut record = record;
        record[..2].copy_from_slice(&(tag | u16::from(is_echo) << 15).to_le_bytes());
        exercise(&record);
    }

    #[test]
    fn a_spoilt_record_does_no_harm(command in command(), at in 0..RECORD_LEN, byte in any::<u8>()) {
        let mut record = command.write();
        record[at] = byte;
        exercise(&record);
    }

    #[test]
    fn a_datagram_comes_back(peer in peer(), remote in address(), payload in prop::collection::vec(any::<u8>(), 0..1520)) {
        let mut record = [0; DATAGRAM_RECORD_LEN];
        let written = DatagramHeader::write(DatagramKind::Dtls, peer, remote, &payload, &mut record);
        prop_assert_eq!(written.is_some(), payload.len() <= DATAGRAM_LEN_MAX);
        if written.is_some() {
            let (header, read) = DatagramHeader::read(&record).unwrap();
            prop_assert_eq!(read, &payload[..]);
            let len = payload.len() as u16;
            prop_assert_eq!(header, DatagramHeader { kind: DatagramKind::Dtls, peer, remote, len });
        }
    }

    #[test]
    fn any_datagram_record_does_no_harm(head in any::<[u8; 32]>(), kind in 0u8..3, family in 0u8..8, len in any::<u16>()) {
        let mut record = [0xa5; DATAGRAM_RECORD_LEN];
        record[..32].copy_from_slice(&head);
        record[0] = kind;
        record[9] = family;
        record[28..30].copy_from_slice(&len.to_le_bytes());
        if let Some((header, payload)) = DatagramHeader::read(&record) {
            prop_assert!(payload.len() == usize::from(header.len) && payload.len() <= DATAGRAM_LEN_MAX);
        }
    }
}

#[test]
fn the_corpus_is_judged_as_its_names_say() {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/plane")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let record: Record = fs::read(&path).unwrap().try_into().expect("a record has 64 bytes");
        exercise(&record);
        let is_valid = match name.split('-').nth(1) {
            Some("command") => Command::read(&record).is_some(),
            Some("report") => Report::read(&record).is_some(),
            _ => panic!("{name} does not say what it is"),
        };
        assert_eq!(is_valid, name.starts_with("ok-"), "{name}");
        count += 1;
    }
    assert!(count >= 14, "the corpus is missing");
}

#[test]
fn counters_have_a_name_each() {
    let mut names: Vec<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    assert_eq!(names.len(), Counter::COUNT);
    assert!(Counter::ALL.iter().enumerate().all(|(place, &counter)| counter as usize == place));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Counter::COUNT, "two counters share a name");
}

/// The sentences are what operators read in `/metrics`: one for each counter, of its own, that needs no source beside it.
#[test]
fn each_counter_says_in_one_sentence_what_it_counts() {
    let mut seen = std::collections::BTreeSet::new();
    for counter in Counter::ALL {
        let (name, help) = (counter.name(), counter.help());
        assert!(seen.insert(help), "{name}: another counter has the same sentence: {help}");
        assert!(help.starts_with(|first: char| first.is_ascii_uppercase()), "{name}: {help}");
        let is_one = help.ends_with('.') && !help.trim_end_matches('.').contains(". ");
        assert!(is_one, "{name}: not one sentence: {help}");
        let pointers = ["::", "[`", "See ", "As in ", "of them"];
        assert!(!pointers.iter().any(|pointer| help.contains(pointer)), "{name} points elsewhere: {help}");
        assert!((20..=160).contains(&help.len()) || counter.is_gauge(), "{name}: {} bytes: {help}", help.len());
    }
}
