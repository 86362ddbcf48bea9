use super::*;

#[test]
fn credentials_use_every_random_bit_once() {
    let zeros = Credentials::from_random(&[0; CREDENTIALS_RANDOM_LEN]);
    assert_eq!((zeros.ufrag_str(), zeros.pwd_str()), ("AAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAA"));
    for bit in 0..CREDENTIALS_RANDOM_LEN * 8 {
        let mut random = [0; CREDENTIALS_RANDOM_LEN];
        random[bit / 8] = 0x80 >> (bit % 8);
        let other = Credentials::from_random(&random);
        let chars = |c: &Credentials| [&c.ufrag[..], &c.pwd[..]].concat();
        let changed = chars(&zeros).iter().zip(chars(&other)).filter(|(a, b)| **a != *b).count();
        assert_eq!(changed, 1, "bit {bit}");
        assert!(is_ice_chars(other.ufrag_str(), 4, 256) && is_ice_chars(other.pwd_str(), 22, 256));
    }
}

#[test]
fn a_password_is_never_shown() {
    let credentials = Credentials::from_random(b"twenty-four random bytes");
    let shown = format!("{credentials:?}");
    assert!(shown.contains(credentials.ufrag_str()) && !shown.contains(credentials.pwd_str()), "{shown}");
}

#[test]
fn host_candidates_follow_the_formula() {
    let lines = host_candidates(&["192.0.2.1:40000".parse().unwrap(), "[2001:db8::1]:40000".parse().unwrap()]);
    // RFC 8445 §5.1.2.1: 126 * 2^24 + 65535 * 2^8 + 255
    assert_eq!(lines[0], "candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host");
    assert_eq!(lines[1], "candidate:2 1 udp 2130706175 2001:db8::1 40000 typ host");
    for line in &lines {
        let candidate = Candidate::parse(line).unwrap();
        assert_eq!((candidate.kind, candidate.component), (CandidateKind::Host, 1));
    }
}

#[test]
fn candidates_of_real_clients_are_read() {
    let chromium = "candidate:3922590405 1 udp 2122194687 127.0.0.1 52973 typ host generation 0 ufrag EJFI network-id 3 network-cost 50";
    let candidate = Candidate::parse(chromium).unwrap();
    assert_eq!(candidate.address, CandidateAddress::Ip("127.0.0.1".parse().unwrap()));
    assert_eq!((candidate.port, candidate.priority), (52973, 2122194687));
    assert_eq!(candidate.ufrag.as_deref(), Some("EJFI"));

    let mdns = "a=candidate:1 1 UDP 2113937151 9b36eaac-bb2e-49bb-bb78-21c41c499900.local 57133 typ host";
    assert!(matches!(Candidate::parse(mdns).unwrap().address, CandidateAddress::Name(_)));
    let firefox = "candidate:1 1 UDP 1685987327 198.51.100.7 45673 typ srflx raddr 0.0.0.0 rport 0";
    assert_eq!(Candidate::parse(firefox).unwrap().kind, CandidateKind::ServerReflexive);
    let tcp = "candidate:2533496925 1 tcp 1518214911 ::1 9 typ host tcptype active generation 0";
    assert_eq!(Candidate::parse(tcp).unwrap().transport, CandidateTransport::Tcp);
}

#[test]
fn each_broken_field_is_named() {
    let field = |text: &str| match Candidate::parse(text).unwrap_err() {
        CandidateError::Missing { field } | CandidateError::Invalid { field } => field,
        other => panic!("{text}: {other}"),
    };
    assert_eq!(field("candidate:"), "foundation");
    assert_eq!(field("candidate:a_b 1 udp 1 1.1.1.1 1 typ host"), "foundation");
    assert_eq!(field("candidate:1 257 udp 1 1.1.1.1 1 typ host"), "component");
    assert_eq!(field("candidate:1 0 udp 1 1.1.1.1 1 typ host"), "component");
    assert_eq!(field("candidate:1 1 sctp 1 1.1.1.1 1 typ host"), "transport");
    assert_eq!(field("candidate:1 1 udp +1 1.1.1.1 1 typ host"), "priority");
    assert_eq!(field("candidate:1 1 udp 4294967296 1.1.1.1 1 typ host"), "priority");
    assert_eq!(field("candidate:1 1 udp 1 1.1.1.256 1 typ host"), "address");
    assert_eq!(field("candidate:1 1 udp 1 a_b.local 1 typ host"), "address");
    assert_eq!(field("candidate:1 1 udp 1 1.1.1.1 65536 typ host"), "port");
    assert_eq!(field("candidate:1 1 udp 1 1.1.1.1 1"), "typ");
    assert_eq!(field("candidate:1 1 udp 1 1.1.1.1 1 typ carrier-pigeon"), "type");
    assert_eq!(field("candidate:1 1 udp 1 1.1.1.1 1 typ host ufrag"), "extension value");
    assert_eq!(field("candidate:1 1 udp 1 1.1.1.1 1 typ host x a\r\nb"), "extension value");
    assert_eq!(Candidate::parse("v=0"), Err(CandidateError::NoPrefix));
    assert!(matches!(Candidate::parse(&"x".repeat(9999)), Err(CandidateError::TooLong { len: 9999 })));
}

#[test]
fn remote_candidates_are_counted_and_bounded() {
    let mut remote = RemoteCandidates::default();
    let line = "candidate:1 1 udp 1 192.0.2.9 1 typ host";
    for _ in 0..CANDIDATES_MAX {
        remote.add(line).unwrap();
    }
    assert_eq!(remote.add(line), Err(CandidateError::TooMany));
    assert_eq!((remote.count(), remote.has_ended()), (CANDIDATES_MAX, false));

    let mut remote = RemoteCandidates::default();
    assert_eq!(remote.add("nonsense"), Err(CandidateError::NoPrefix));
    remote.add("").unwrap();
    assert!(remote.has_ended());
    remote.add(line).unwrap();
    assert_eq!(remote.count(), 1);
}
