//! A STUN server (RFC 8489) on UDP: tells a client from which address its datagrams come, so that a call needs no
//! third party. Basic Binding requests only; there is no authentication and no TURN (docs/RFC.md).
//!
//! Whoever can forge source addresses could have answers sent to somebody else. An answer is at most about three
//! times its request (RFC 8489 wants at least 32 bytes for 20), so what bounds the harm is the rate: for each
//! network and in all.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proto::stun::{ErrorCode, Message, Writer};
use tokio::net::UdpSocket;

/// Longest answer, bytes: an error with its reason, the unknown attributes and FINGERPRINT.
const ANSWER_LEN_MAX: usize = 256;

/// Longest request that is read, bytes; browsers send 20 to 28.
const REQUEST_LEN_MAX: usize = 576;

/// Networks that are told apart. More share a bucket by chance, and then their rate.
const BUCKETS: usize = 4096;

/// How many answers are given per second, with a burst of as many.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rates {
    /// To one network: an IPv4 /24 or an IPv6 /48. A client asks a few times per call, and a network may be an office.
    pub per_network: u32,
    /// To all together.
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
}

impl Counts {
    /// Each fate with its count: `answered` with an address, `refused` with an error, `ignored` as no Binding
    /// request, `limited` by the rates.
    pub fn read(&self) -> [(&'static str, u64); 4] {
        [
            ("answered", self.answered.load(Ordering::Relaxed)),
            ("refused", self.refused.load(Ordering::Relaxed)),
            ("ignored", self.ignored.load(Ordering::Relaxed)),
            ("limited", self.limited.load(Ordering::Relaxed)),
        ]
    }
}

/// Answers requests for ever.
pub async fn serve(socket: UdpSocket, rates: Rates, counts: &Counts) {
    let mut limiter = Limiter::new(rates, Instant::now());
    let mut request = [0; REQUEST_LEN_MAX];
    let mut answer = [0; ANSWER_LEN_MAX];
    loop {
        // An error here is an ICMP message about some earlier answer, or a datagram with a bad checksum.
        let Ok((len, source)) = socket.recv_from(&mut request).await else { continue };
        let reply = respond(&request[..len], source, &mut answer);
        let (count, len) = match reply {
            Reply::None => (&counts.ignored, None),
            _ if !limiter.allow(source.ip(), Instant::now()) => (&counts.limited, None),
            Reply::Address(len) => (&counts.answered, Some(len)),
            Reply::Error(len) => (&counts.refused, Some(len)),
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

/// Token buckets in a table of fixed size, found by a keyed hash that no sender can predict.
struct Limiter {
    rates: Rates,
    networks: Vec<Bucket>,
    all: Bucket,
    hasher: RandomState,
}

impl Limiter {
    fn new(rates: Rates, now: Instant) -> Limiter {
        Limiter {
            rates,
            networks: vec![Bucket::full(rates.per_network, now); BUCKETS],
            all: Bucket::full(rates.total, now),
            hasher: RandomState::new(),
        }
    }

    fn allow(&mut self, source: IpAddr, now: Instant) -> bool {
        let at = self.hasher.hash_one(network(source)) as usize % BUCKETS;
        // The network's bucket first, so that one network cannot empty the other for everybody.
        self.networks[at].take(self.rates.per_network, now) && self.all.take(self.rates.total, now)
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f32,
    at: Instant,
}

impl Bucket {
    fn full(rate: u32, now: Instant) -> Bucket {
        Bucket { left: rate as f32, at: now }
    }

    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f32() * rate as f32;
        self.left = (self.left + earned).min(rate as f32);
        self.at = now;
        let has_any = self.left >= 1.0;
        if has_any {
            self.left -= 1.0;
        }
        has_any
    }
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

    #[test]
    fn a_network_that_floods_is_limited_and_the_others_are_not() {
        let now = Instant::now();
        let mut limiter = Limiter::new(Rates { per_network: 10, total: 100 }, now);
        let allowed = (0..50).filter(|i| limiter.allow(IpAddr::from([192, 0, 2, *i]), now)).count();
        assert_eq!(allowed, 10);
        let others = (0..50).filter(|i| limiter.allow(IpAddr::from([10, 0, *i, 1]), now)).count();
        assert!(others >= 45, "{others} of 50"); // Two of them may share a bucket with the flood, not most.
        assert!(limiter.allow(IpAddr::from([192, 0, 2, 1]), now + Duration::from_millis(150)));
        assert!(!limiter.allow(IpAddr::from([192, 0, 2, 1]), now + Duration::from_millis(150)));
    }

    #[test]
    fn all_together_have_a_limit() {
        let now = Instant::now();
        let mut limiter = Limiter::new(Rates { per_network: 10, total: 20 }, now);
        let allowed = (0..=255).filter(|i| limiter.allow(IpAddr::from([10, 0, *i, 1]), now)).count();
        assert_eq!(allowed, 20);
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
