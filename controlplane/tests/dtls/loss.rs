//! The course of a connection when the network is not kind: what is lost is sent again, by whoever must.

use std::time::Duration;

use proptest::prelude::*;

use crate::handshake::rsa_identity;
use crate::pair::{DELAY, Pair, Way, arrives, is_lost};

/// Every single loss costs at most the two first timeouts of a flight, 80 and 160 ms, beside the way itself.
const RECOVERY_MAX: Duration = Duration::from_millis(500);

/// Datagrams each way of a handshake without loss, until all is settled.
fn sent_without_loss() -> [usize; 2] {
    let mut pair = Pair::new(|_, _, _| arrives());
    pair.run(Duration::from_secs(5));
    pair.assert_agree();
    pair.sent
}

#[test]
fn any_one_datagram_may_be_lost() {
    let sent = sent_without_loss();
    assert!(sent[0] >= 2 && sent[1] >= 2, "{sent:?}: ClientHello, flight, flight, ACK at the least");
    for way in [Way::ToServer, Way::ToClient] {
        for lost in 0..sent[way as usize] {
            let mut pair = Pair::new(|w, n, _| if w == way && n == lost { is_lost() } else { arrives() });
            pair.run(RECOVERY_MAX);
            println!("{way:?} without datagram {lost}: sent {:?}", pair.sent);
            pair.assert_agree();
            pair.run(Duration::from_secs(5));
            assert_eq!(pair.client.dtls.poll_timeout(), None, "{way:?} {lost}: the client is settled");
            assert_eq!(pair.server.dtls.poll_timeout(), None, "{way:?} {lost}: the server is settled");
        }
    }
}

#[test]
fn any_one_datagram_of_a_large_certificate_may_be_lost() {
    let client = rsa_identity(4096);
    let server = rsa_identity(2048);
    for way in [Way::ToServer, Way::ToClient] {
        for lost in 0..5 {
            let decide = |w, n, _: &mut Vec<u8>| if w == way && n == lost { is_lost() } else { arrives() };
            let mut pair = Pair::with_identities(client.clone(), server.clone(), decide);
            pair.run(RECOVERY_MAX);
            pair.assert_agree();
        }
    }
}

/// The server is connected as soon as the client's last flight is there; it must still answer that flight when it
/// comes again, or the client never learns.
#[test]
fn a_lost_answer_to_the_last_flight_is_given_again() {
    let sent = sent_without_loss();
    let last = sent[Way::ToClient as usize] - 1;
    let mut pair = Pair::new(|way, n, _| if way == Way::ToClient && n == last { is_lost() } else { arrives() });
    pair.run(Duration::from_secs(5));
    pair.assert_agree();
    assert!(pair.sent[Way::ToServer as usize] > sent[Way::ToServer as usize], "the client asks again");
    assert!(pair.sent[Way::ToClient as usize] > last + 1, "the server answers again");
    assert_eq!(pair.client.dtls.poll_timeout(), None, "the client has its answer");
}

#[test]
fn a_long_silence_in_the_middle_ends_well() {
    for way in [Way::ToServer, Way::ToClient] {
        let decide = move |w, n, _: &mut Vec<u8>| if w == way && (1..5).contains(&n) { is_lost() } else { arrives() };
        let mut pair = Pair::new(decide);
        pair.run(Duration::from_secs(10));
        pair.assert_agree();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// A network that loses up to 40 %, doubles and reorders: both ends connect and agree.
    #[test]
    fn a_bad_network_only_delays(
        fates in prop::collection::vec((0u8..100, 0u64..60, 0u64..60), 256),
        loss in 0u8..40,
        doubled in 0u8..20,
    ) {
        let mut fates = fates.into_iter().cycle();
        let mut pair = Pair::new(move |_, _, _| {
            let (dice, extra, second) = fates.next().expect("cycles");
            let copies = if dice < loss { 0 } else { 1 + usize::from(dice >= 100 - doubled) };
            [extra, second].into_iter().take(copies).map(|ms| DELAY + Duration::from_millis(ms)).collect()
        });
        pair.run(Duration::from_secs(120));
        pair.assert_agree();
        prop_assert_eq!(pair.client.failed, None);
        prop_assert_eq!(pair.server.failed, None);
    }
}
