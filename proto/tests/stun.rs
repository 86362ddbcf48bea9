//! STUN against the outside world: the vectors of RFC 5769, the corpus, and bytes from an enemy.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use proptest::prelude::*;
use proto::stun::{BINDING, Class, ErrorCode, IntegrityKey, Message, StunError, TransactionId, UNKNOWN_MAX, Writer};

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const ID: TransactionId = TransactionId([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);

fn corpus(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/stun").join(name)).expect(name)
}

#[test]
fn rfc_5769_section_2_1_sample_request() {
    let bytes = corpus("ok-rfc5769-2.1-request.bin");
    let message = Message::parse(&bytes).unwrap();
    assert!(message.is_binding_request());
    assert_eq!(message.transaction_id(), ID);
    assert_eq!(message.software(), Some(&b"STUN test client"[..]));
    assert_eq!(message.priority(), Some(0x6e00_01ff));
    assert_eq!(message.ice_controlled(), Some(0x932f_f9b1_5126_3b36));
    assert_eq!(message.ice_controlling(), None);
    assert!(!message.use_candidate());
    assert_eq!(message.username(), Some(&b"evtj:h6vY"[..]));
    assert!(message.check_integrity(&IntegrityKey::new(PASSWORD)));
    assert!(!message.check_integrity(&IntegrityKey::new(b"another password")));
    assert!(message.check_fingerprint());
    assert!(message.unknown_attributes().is_empty());
}

#[test]
fn rfc_5769_sections_2_2_and_2_3_sample_responses() {
    let addresses = ["192.0.2.1:32853", "[2001:db8:1234:5678:11:2233:4455:6677]:32853"];
    let files = ["ok-rfc5769-2.2-ipv4-response.bin", "ok-rfc5769-2.3-ipv6-response.bin"];
    for (address, file) in addresses.into_iter().zip(files) {
        let bytes = corpus(file);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, BINDING));
        assert_eq!(message.transaction_id(), ID);
        assert_eq!(message.software(), Some(&b"test vector"[..]));
        assert_eq!(message.mapped_address(), Some(address.parse().unwrap()));
        assert!(message.check_integrity(&IntegrityKey::new(PASSWORD)));
        assert!(message.check_fingerprint());
    }
}

#[test]
fn rfc_5769_section_2_4_long_term_credentials() {
    let bytes = corpus("ok-rfc5769-2.4-long-term.bin");
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.username(), Some("マトリックス".as_bytes()));
    // MD5 of username ":" realm ":" password, as `md5sum` gives it; we have no MD5 of our own.
    let key = u128::to_be_bytes(0xe8ca_7ad5_9d5e_b051_8e31_2911_d2da_b2a9);
    assert!(message.check_integrity(&IntegrityKey::new(&key)));
    assert!(!message.has_fingerprint() && !message.check_fingerprint());
    assert!(message.unknown_attributes().is_empty());
}

/// The writer's responses differ from the RFC's only in the padding bytes, which the RFC chose to be spaces. Without
/// them the RFC's own attributes must come out.
#[test]
fn a_success_response_has_the_rfc_address_bytes() {
    let mut out = [0; 128];
    let len =
        Writer::binding_success(&mut out, ID, "192.0.2.1:32853".parse().unwrap()).finish().expect("there is room");
    assert_eq!(out[20..len], corpus("ok-rfc5769-2.2-ipv4-response.bin")[36..48]);
    let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
    let len = Writer::binding_success(&mut out, ID, address).finish().expect("there is room");
    assert_eq!(out[20..len], corpus("ok-rfc5769-2.3-ipv6-response.bin")[36..60]);
}

#[test]
fn a_check_is_written_and_read() {
    let key = IntegrityKey::new(PASSWORD);
    let mut out = [0; 256];
    let len = Writer::binding_request(&mut out, ID)
        .username(b"them:us")
        .priority(1234)
        .ice_controlling(u64::MAX - 1)
        .use_candidate()
        .software("uprtc")
        .integrity(&key)
        .fingerprint()
        .finish()
        .unwrap();
    let message = Message::parse(&out[..len]).unwrap();
    assert!(message.is_binding_request());
    assert_eq!(message.username(), Some(&b"them:us"[..]));
    assert_eq!(message.priority(), Some(1234));
    assert_eq!(message.ice_controlling(), Some(u64::MAX - 1));
    assert!(message.use_candidate());
    assert!(message.check_integrity(&key) && message.check_fingerprint());
}

#[test]
fn errors_say_their_code_and_what_was_unknown() {
    let request = corpus("ok-unknown-required.bin");
    let request = Message::parse(&request).unwrap();
    assert_eq!(request.unknown_attributes(), [0x7ffe]);
    let mut out = [0; 128];
    let len = Writer::binding_error(&mut out, request.transaction_id(), ErrorCode::UnknownAttribute)
        .unknown_attributes(request.unknown_attributes())
        .fingerprint()
        .finish()
        .unwrap();
    let answer = Message::parse(&out[..len]).unwrap();
    assert_eq!(answer.class(), Class::Error);
    assert_eq!(answer.error_code(), Some(420));
    assert_eq!(answer.transaction_id(), request.transaction_id());
    assert!(out[..len].windows(8).any(|w| w == [0x00, 0x0a, 0x00, 0x02, 0x7f, 0xfe, 0, 0]));
    assert!(answer.check_fingerprint());
}

#[test]
fn what_follows_message_integrity_does_not_count() {
    let key = IntegrityKey::new(PASSWORD);
    let mut out = [0; 256];
    let len = Writer::binding_request(&mut out, ID).integrity(&key).use_candidate().fingerprint().finish().unwrap();
    let message = Message::parse(&out[..len]).unwrap();
    assert!(message.check_integrity(&key), "the integrity itself is right");
    assert!(!message.use_candidate(), "but nobody authenticated the nomination");
    let bytes = corpus("ok-unknown-required-after-integrity.bin");
    assert!(Message::parse(&bytes).unwrap().unknown_attributes().is_empty());
}

#[test]
fn only_the_first_of_two_counts() {
    let mut out = [0; 64];
    let len = Writer::binding_request(&mut out, ID).priority(1).priority(2).finish().unwrap();
    assert_eq!(Message::parse(&out[..len]).unwrap().priority(), Some(1));
}

#[test]
fn a_buffer_that_is_too_small_is_reported_and_not_overrun() {
    let key = IntegrityKey::new(PASSWORD);
    let mut whole = [0; 128];
    let write = |out: &mut [u8]| {
        Writer::binding_success(out, ID, "192.0.2.1:1".parse().unwrap()).integrity(&key).fingerprint().finish()
    };
    let len = write(&mut whole).unwrap();
    assert_eq!(len, 20 + 12 + 24 + 8);
    for short in 0..len {
        assert_eq!(write(&mut vec![0; short]), None, "{short} bytes");
    }
    assert_eq!(write(&mut vec![0; len]), Some(len));
}

#[test]
fn ipv4_mapped_into_ipv6_is_answered_as_ipv4() {
    let mut out = [0; 64];
    let len = Writer::binding_success(&mut out, ID, "[::ffff:192.0.2.1]:5".parse().unwrap()).finish().unwrap();
    assert_eq!(Message::parse(&out[..len]).unwrap().mapped_address(), Some("192.0.2.1:5".parse().unwrap()));
}

#[test]
fn the_corpus_is_judged_as_its_names_say() {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/stun")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = fs::read(&path).unwrap();
        exercise(&bytes);
        assert_eq!(Message::parse(&bytes).is_ok(), name.starts_with("ok-"), "{name}: {:?}", Message::parse(&bytes));
        count += 1;
    }
    assert!(count >= 20, "the corpus is missing");
    assert_eq!(Message::parse(&corpus("bad-too-many-attributes.bin")).unwrap_err(), StunError::TooManyAttributes);
    assert_eq!(Message::parse(&corpus("bad-fingerprint-not-last.bin")).unwrap_err(), StunError::FingerprintNotLast);
}

/// Touches everything that a message offers.
fn exercise(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else { return };
    let key = IntegrityKey::new(PASSWORD);
    let _ = (message.check_integrity(&key), message.check_fingerprint(), message.transaction_id());
    assert!(message.unknown_attributes().len() <= UNKNOWN_MAX);
    assert!(message.method() < 1 << 12);
    assert!(message.username().is_none_or(|username| username.len() <= bytes.len()));
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        exercise(&bytes);
    }

    #[test]
    fn bytes_that_begin_like_stun_do_no_harm(
        kind in 0u16..0x4000,
        body in prop::collection::vec((0usize..16, any::<u16>(), prop::collection::vec(any::<u8>(), 0..24)), 0..80),
    ) {
        const KINDS: [u16; 15] = [
            0x0001, 0x0006, 0x0008, 0x0009, 0x000a, 0x0014, 0x0015, 0x0020, 0x0024, 0x0025, 0x8022, 0x8028, 0x8029,
            0x802a, 0x7fff,
        ];
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend([0, 0, 0x21, 0x12, 0xa4, 0x42]);
        bytes.extend(ID.0);
        for (which, any_kind, value) in body {
            bytes.extend(KINDS.get(which).copied().unwrap_or(any_kind).to_be_bytes());
            bytes.extend((value.len() as u16).to_be_bytes());
            bytes.extend(&value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let len = (bytes.len() - 20) as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        exercise(&bytes);
    }

    /// Any flipped bit of a protected message is noticed.
    #[test]
    fn a_flipped_bit_is_noticed(bit in 0usize..8 * 108) {
        let mut bytes = corpus("ok-rfc5769-2.1-request.bin");
        bytes[bit / 8] ^= 1 << (bit % 8);
        exercise(&bytes);
        let key = IntegrityKey::new(PASSWORD);
        let is_accepted =
            Message::parse(&bytes).is_ok_and(|message| message.check_integrity(&key) && message.check_fingerprint());
        prop_assert!(!is_accepted);
    }

    #[test]
    fn any_address_comes_back(ip in any::<std::net::IpAddr>(), port in any::<u16>(), id in any::<[u8; 12]>()) {
        let address = SocketAddr::new(ip, port);
        let mut out = [0; 64];
        let len = Writer::binding_success(&mut out, TransactionId(id), address).fingerprint().finish().unwrap();
        let message = Message::parse(&out[..len]).unwrap();
        prop_assert_eq!(message.mapped_address(), Some(SocketAddr::new(ip.to_canonical(), port)));
        prop_assert!(message.check_fingerprint());
    }
}
