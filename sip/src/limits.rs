//! What one source may ask for, before anything is made for it: messages and INVITEs by address, and PINs that were wrong.
//! All tables are bounded; the one that was quiet for longest makes room.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Sources that are remembered.
const SOURCES_MAX: usize = 4096;
/// Messages of one source a second, and at once. A call has some ten.
const MESSAGES: Rate = Rate { per_second: 200.0, burst: 400.0 };
/// Wrong PINs after which a source is locked out.
pub(crate) const WRONG_PINS_MAX: u32 = 5;
/// How long it is, and how long wrong ones are remembered.
pub(crate) const LOCKED_FOR: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(now: Instant, rate: Rate) -> Bucket {
        Bucket { level: rate.burst, at: now }
    }

    pub(crate) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * rate.per_second;
        self.level = (self.level + gained).min(rate.burst);
        self.at = now;
        let is_left = self.level >= 1.0;
        self.level -= f64::from(u8::from(is_left));
        is_left
    }
}

#[derive(Clone, Copy, Debug)]
struct Source {
    messages: Bucket,
    invites: Bucket,
    wrong_pins: u32,
    /// Since the last wrong PIN.
    wrong_at: Instant,
    seen: Instant,
}

/// What is known of each source.
#[derive(Debug)]
pub(crate) struct Sources {
    table: HashMap<IpAddr, Source>,
    invites: Rate,
}

/// An IPv6 host has a whole /64.
fn owner(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => v4.into(),
            None => Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)).into(),
        },
        v4 => v4,
    }
}

impl Sources {
    pub(crate) fn new(invites: Rate) -> Sources {
        Sources { table: HashMap::new(), invites }
    }

    fn of(&mut self, now: Instant, address: IpAddr) -> &mut Source {
        let address = owner(address);
        if !self.table.contains_key(&address) && self.table.len() >= SOURCES_MAX {
            // Those that are locked out stay for longest.
            let quietest = self.table.iter().min_by_key(|(_, source)| (source.wrong_pins, source.seen));
            if let Some(quietest) = quietest.map(|(address, _)| *address) {
                self.table.remove(&quietest);
            }
        }
        let invites = Bucket::full(now, self.invites);
        let source = self.table.entry(address).or_insert_with(|| Source {
            messages: Bucket::full(now, MESSAGES),
            invites,
            wrong_pins: 0,
            wrong_at: now,
            seen: now,
        });
        source.seen = now;
        source
    }

    pub(crate) fn may_send(&mut self, now: Instant, address: IpAddr) -> bool {
        self.of(now, address).messages.take(now, MESSAGES)
    }

    pub(crate) fn may_invite(&mut self, now: Instant, address: IpAddr) -> bool {
        let rate = self.invites;
        self.of(now, address).invites.take(now, rate)
    }

    /// Counts a wrong PIN. Whether the source is locked out now.
    pub(crate) fn wrong_pin(&mut self, now: Instant, address: IpAddr) -> bool {
        let source = self.of(now, address);
        if now.saturating_duration_since(source.wrong_at) > LOCKED_FOR {
            source.wrong_pins = 0;
        }
        source.wrong_pins += 1;
        source.wrong_at = now;
        source.wrong_pins >= WRONG_PINS_MAX
    }

    pub(crate) fn is_locked(&mut self, now: Instant, address: IpAddr) -> bool {
        let source = self.of(now, address);
        source.wrong_pins >= WRONG_PINS_MAX && now.saturating_duration_since(source.wrong_at) <= LOCKED_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 2.0, burst: 4.0 };

    #[test]
    fn a_flood_is_cut_to_the_rate_and_others_are_not() {
        let (mut sources, begin) = (Sources::new(RATE), Instant::now());
        let (flood, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let passed =
            (0..10_000u32).filter(|&n| sources.may_invite(begin + Duration::from_millis(u64::from(n)), flood)).count();
        assert_eq!(passed, 4 + 19, "ten seconds at two a second, and the burst");
        assert!(sources.may_invite(begin + Duration::from_secs(10), other));
    }

    #[test]
    fn wrong_pins_lock_the_whole_network_of_a_host() {
        let (mut sources, now) = (Sources::new(RATE), Instant::now());
        let host = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]);
        let locked: Vec<bool> = (0..5).map(|n| sources.wrong_pin(now, host(n))).collect();
        assert_eq!(locked, [false, false, false, false, true]);
        assert!(sources.is_locked(now + LOCKED_FOR, host(77)));
        assert!(!sources.is_locked(now + LOCKED_FOR + Duration::from_secs(1), host(77)));
    }

    #[test]
    fn the_table_is_bounded_and_keeps_who_is_locked_out() {
        let (mut sources, now) = (Sources::new(RATE), Instant::now());
        let bad = "198.51.100.1".parse().unwrap();
        for _ in 0..WRONG_PINS_MAX {
            sources.wrong_pin(now, bad);
        }
        for n in 0..20_000u32 {
            sources.may_send(now, IpAddr::from(n.to_be_bytes()));
        }
        assert_eq!(sources.table.len(), SOURCES_MAX);
        assert!(sources.is_locked(now, bad));
    }
}
