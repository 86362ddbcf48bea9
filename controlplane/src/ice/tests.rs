use super::*;

#[test]
fn credentials_use_every_random_bit_once() {
    let zeros = Credentials::from_random(0, &[0; CREDENTIALS_RANDOM_LEN]);
    assert_eq!((zeros.ufrag_str(), zeros.pwd_str()), ("AAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAA"));
    // Those of the characters that name the worker are not used.
    for bit in WORKER_CHARS * 6..CREDENTIALS_RANDOM_LEN * 8 {
        let mut random = [0; CREDENTIALS_RANDOM_LEN];
        random[bit / 8] = 0x80 >> (bit % 8);
        let other = Credentials::from_random(0, &random);
        let chars = |c: &Credentials| [&c.ufrag[..], &c.pwd[..]].concat();
        let changed = chars(&zeros).iter().zip(chars(&other)).filter(|(a, b)| **a != *b).count();
        assert_eq!(changed, 1, "bit {bit}");
        assert!(chars(&other).iter().all(|c| ICE_CHARS.contains(c)));
    }
}

#[test]
fn a_username_fragment_names_the_worker() {
    for worker in 0..1024 {
        let credentials = Credentials::from_random(worker, &[0x5A; CREDENTIALS_RANDOM_LEN]);
        assert_eq!(Credentials::worker(&credentials.ufrag), Some(worker));
    }
    assert_eq!(Credentials::worker(b"AAAAAAA"), None);
    assert_eq!(Credentials::worker(b"A-AAAAAA"), None);
}

#[test]
fn a_password_is_never_shown() {
    let credentials = Credentials::from_random(0, b"twenty-four random bytes");
    let shown = format!("{credentials:?}");
    assert!(shown.contains(credentials.ufrag_str()) && !shown.contains(credentials.pwd_str()), "{shown}");
}

#[test]
fn host_candidates_follow_the_formula() {
    let lines = host_candidates(&["192.0.2.1:40000".parse().unwrap(), "[2001:db8::1]:40000".parse().unwrap()]);
    // RFC 8445 §5.1.2.1: 126 * 2^24 + 65535 * 2^8 + 255
    assert_eq!(lines[0], "candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host");
    assert_eq!(lines[1], "candidate:2 1 udp 2130706175 2001:db8::1 40000 typ host");
}

#[test]
fn tcp_candidates_are_passive_and_come_after_udp() {
    let lines = tcp_candidates(&["192.0.2.1:40000".parse().unwrap(), "[2001:db8::1]:40001".parse().unwrap()], 2);
    // RFC 6544 §4.2: 90 * 2^24 + (2^13 * 4 + 8191) * 2^8 + 255
    assert_eq!(lines[0], "candidate:3 1 tcp 1520435199 192.0.2.1 40000 typ host tcptype passive");
    assert_eq!(lines[1], "candidate:4 1 tcp 1520434943 2001:db8::1 40001 typ host tcptype passive");
}

#[test]
fn whatever_a_candidate_says_it_is_one() {
    for text in [
        // Chromium, mDNS, Firefox, ICE-TCP.
        "candidate:3922590405 1 udp 2122194687 127.0.0.1 52973 typ host generation 0 ufrag EJFI network-id 3 network-cost 50",
        "a=candidate:1 1 UDP 2113937151 9b36eaac-bb2e-49bb-bb78-21c41c499900.local 57133 typ host",
        "candidate:1 1 UDP 1685987327 198.51.100.7 45673 typ srflx raddr 0.0.0.0 rport 0",
        "candidate:2533496925 1 tcp 1518214911 ::1 9 typ host tcptype active generation 0",
        // A zone, an odd foundation, a transport and a type of others, priorities and ports beyond the RFC, odd extensions.
        "candidate:1 1 udp 1 fe80::1%eth0 1 typ host",
        "candidate:a_b/=+ 1 udp 1 192.0.2.1 1 typ host",
        "candidate:1 1 ssltcp 4294967296 192.0.2.1 99999 typ carrier-pigeon raddr  rport x ufrag a generation",
        "candidate:",
        // The end.
        "",
        "end-of-candidates",
        "a=end-of-candidates\r\n",
    ] {
        assert!(is_candidate(text), "{text}");
    }
    for text in ["nonsense", "v=0", r#"{"candidate":"candidate:1 1 udp 1 192.0.2.1 1 typ host"}"#, "null"] {
        assert!(!is_candidate(text), "{text}");
    }
}
