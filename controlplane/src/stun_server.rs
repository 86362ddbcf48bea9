//! A STUN server (RFC 8489) on UDP: tells a client from which address its datagrams come, so that a call needs no
//! third party. Basic Binding requests only; there is no authentication and no TURN (docs/RFC.md).
//!
//! An attacker that can forge source addresses could have answers sent to somebody else. An answer is at most about three
//! times its request (RFC 8489 wants at least 32 bytes for 20), so what bounds the harm is the rate: for each
//! network and in all.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proto::stun::{ErrorCode, Message, Writer};
use tokio::net::UdpSocket;

use crate::rates::{self, Rule, Verdict};

/// Longest answer, bytes: an error with its reason, the unknown attributes and FINGERPRINT.
const ANSWER_LEN_MAX: usize = 256;

/// Longest request that is read, bytes; browsers send 20 to 28.
const REQUEST_LEN_MAX: usize = 576;

/// Answers a second that a network has even while all together want more than `total`. A client asks once or twice for a call.
const ASSURED: u32 = 8;

/// How many answers are given per second, with a burst of as many.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// To one network: an IPv4 /24 or an IPv6 /48. A client asks a few times per call, and a network may be an office.
    pub per_network: u32,
    /// To all together. When it is used up, the networks that had most wait first; one that had fewer than 8 in the last second does
    /// not, because networks can be forged, and forged ones must not cost an honest one its answer.
    pub total: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self { per_network: 100, total: 5_000 }
    }
}

/// What became of the datagrams that arrived.
#[derive(Debug, Default)]
pub struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    ignored: AtomicU64,
    limited: AtomicU64,
    crowded: AtomicU64,
}

impl Counts {
    /// Each fate with its count: `answered` with an address, `refused` with an error, `ignored` as no Binding
    /// request, `limited` by the rate of its network, `crowded` by that of all.
    pub fn read(&self) -> [(&'static str, u64); 5] {
        [
            ("answered", self.answered.load(Ordering::Relaxed)),
            ("refused", self.refused.load(Ordering::Relaxed)),
            ("ignored", self.ignored.load(Ordering::Relaxed)),
            ("limited", self.limited.load(Ordering::Relaxed)),
            ("crowded", self.crowded.load(Ordering::Relaxed)),
        ]
    }
}

/// Answers requests for ever.
pub async fn serve(socket: UdpSocket, rates: Rates, counts: &Counts) {
    let mut limiter = limiter(rates);
    let mut request = [0; REQUEST_LEN_MAX];
    let mut answer = [0; ANSWER_LEN_MAX];
    loop {
        // An error here is an ICMP message about some earlier answer, or a datagram with a bad checksum.
        let Ok((len, source)) = socket.recv_from(&mut request).await else { continue };
        let reply = respond(&request[..len], source, &mut answer);
        let (count, len) = match reply {
            Reply::None => (&counts.ignored, None),
            Reply::Address(len) | Reply::Error(len) => match limiter.take(Instant::now(), &network(source.ip())) {
                Verdict::OwnerLimited => (&counts.limited, None),
                Verdict::TotalLimited => (&counts.crowded, None),
                Verdict::Granted if reply == Reply::Address(len) => (&counts.answered, Some(len)),
                Verdict::Granted => (&counts.refused, Some(len)),
            },
        };
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(len) = len {
            let _ = socket.send_to(&answer[..len], source).await; // Lost like any datagram; the client asks again.
        }
    }
}

/// What to send back; the lengths are of what stands in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reply {
    None,
    Address(usize),
    Error(usize),
}

/// The answer to a datagram (RFC 8489 §6.3). What is not a Binding request, or fails its own FINGERPRINT, gets none.
fn respond(datagram: &[u8], source: SocketAddr, out: &mut [u8; ANSWER_LEN_MAX]) -> Reply {
    let Ok(request) = Message::parse(datagram) else { return Reply::None };
    if !request.is_binding_request() || (request.has_fingerprint() && !request.check_fingerprint()) {
        return Reply::None;
    }
    let id = request.transaction_id();
    let unknown = request.unknown_attributes();
    if unknown.is_empty() {
        let answer = Writer::binding_success(out, id, source).fingerprint().finish();
        return answer.map_or(Reply::None, Reply::Address);
    }
    let answer = Writer::binding_error(out, id, ErrorCode::UnknownAttribute).unknown_attributes(unknown);
    answer.fingerprint().finish().map_or(Reply::None, Reply::Error)
}

/// What the networks share.
fn limiter(Rates { per_network, total }: Rates) -> rates::Rates {
    let rule = Rule { per_owner: per_network, total, assured: ASSURED.min(per_network) };
    rates::Rates::with_random_seed(rule, rates::CELLS_IF_FORGED)
}

/// What one owner of addresses usually has: an IPv4 /24, an IPv6 /48.
fn network(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
        IpAddr::V6(ip) => 1 << 63 | (u128::from(ip) >> 80) as u64,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn allow(limiter: &mut rates::Rates, source: [u8; 4], now: Instant) -> bool {
        limiter.take(now, &network(source.into())) == Verdict::Granted
    }

    #[test]
    fn a_network_that_floods_is_limited_and_the_others_are_not() {
        let now = Instant::now();
        let mut limiter = limiter(Rates { per_network: 10, total: 100 });
        let allowed = (0..50).filter(|i| allow(&mut limiter, [192, 0, 2, *i], now)).count();
        assert_eq!(allowed, 10);
        assert!((0..50).all(|i| allow(&mut limiter, [10, 0, i, 1], now)));
        assert!(allow(&mut limiter, [192, 0, 2, 1], now + Duration::from_millis(150)));
        assert!(!allow(&mut limiter, [192, 0, 2, 1], now + Duration::from_millis(150)));
    }

    #[test]
    fn all_together_have_a_limit_and_who_had_most_waits_first() {
        let now = Instant::now();
        let mut limiter = limiter(Rates { per_network: 100, total: 200 });
        let mut had = [0; 20];
        for _ in 0..100 {
            for network in 0..20 {
                had[usize::from(network)] += u32::from(allow(&mut limiter, [10, 0, network, 1], now));
            }
        }
        assert!(had.iter().all(|&had| (8..=12).contains(&had)), "{had:?}");
        assert!(allow(&mut limiter, [192, 0, 2, 1], now), "who had nothing is answered");
    }

    #[test]
    fn forged_networks_do_not_cost_an_honest_one_its_answer() {
        let (begun, mut limiter) = (Instant::now(), limiter(Rates::default()));
        let mut answered = 0;
        for forged in 0..250_000u32 {
            let now = begun + Duration::from_micros(20 * u64::from(forged)); // 50,000 a second
            allow(&mut limiter, (forged << 8).to_be_bytes(), now);
            if forged % 25_000 == 24_999 {
                answered += u32::from(allow(&mut limiter, [203, 0, 113, 7], now));
            }
        }
        assert_eq!(answered, 10);
    }

    #[test]
    fn an_ipv6_customer_is_one_network() {
        let a: IpAddr = "2001:db8:1:2::3".parse().unwrap();
        let b: IpAddr = "2001:db8:1:ffff::4".parse().unwrap();
        let c: IpAddr = "2001:db8:2::1".parse().unwrap();
        assert_eq!(network(a), network(b));
        assert_ne!(network(a), network(c));
        assert_eq!(network("::ffff:192.0.2.1".parse().unwrap()), network("192.0.2.9".parse().unwrap()));
    }
}
