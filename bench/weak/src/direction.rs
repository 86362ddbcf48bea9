//! One direction of a link: a queue that drops what it has no room for, a sender of so many bits per second, and the way from there,
//! which takes time, loses and reorders. Times are microseconds of any clock that does not run backwards.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::counts::Counts;
use crate::settings::{Loss, Setting, Settings};

/// Most packets that are on their way at once: a second of a gigabit per second. More are dropped.
const FLYING_MAX: usize = 100_000;

/// A packet that waits.
struct Queued {
    came_us: u64,
    packet: Vec<u8>,
}

/// A packet on its way, in order of its arrival and then of its departure.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    arrives_us: u64,
    number: u64,
    packet: Vec<u8>,
}

/// One direction.
pub struct Direction {
    settings: Settings,
    random: Random,
    queue: VecDeque<Queued>,
    queue_bytes: u64,
    /// What is left to be sent of the first packet, bits × 1,000,000: what a rate in bits per second sends in microseconds.
    left: u64,
    /// Up to when it was sent.
    served_us: u64,
    flying: BinaryHeap<Reverse<Flying>>,
    departed: u64,
    last_arrival_us: u64,
    is_in_burst: bool,
    counts: Counts,
}

impl Direction {
    /// A direction that draws its random numbers from a seed.
    pub fn new(settings: Settings, seed: u64, now_us: u64) -> Direction {
        Direction {
            settings,
            random: Random(seed),
            queue: VecDeque::new(),
            queue_bytes: 0,
            left: 0,
            served_us: now_us,
            flying: BinaryHeap::new(),
            departed: 0,
            last_arrival_us: 0,
            is_in_burst: false,
            counts: Counts::new(now_us),
        }
    }

    /// What it has carried since the last mark, up to the time that it was given last.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Begins a new window of its counts.
    pub fn mark(&mut self, now_us: u64) {
        self.serve(now_us);
        self.counts = Counts::new(now_us);
    }

    /// Changes settings from now on. What is in the queue is sent at the new rate, and what is on its way arrives as before.
    pub fn set(&mut self, now_us: u64, change: &[Setting]) {
        self.serve(now_us);
        self.settings = self.settings.with(change);
        if !matches!(self.settings.loss, Loss::Burst(..)) {
            self.is_in_burst = false;
        }
    }

    /// Takes a packet.
    pub fn push(&mut self, now_us: u64, packet: Vec<u8>) {
        self.serve(now_us);
        let len = packet.len() as u64;
        self.counts.note_offered(now_us, packet.len());
        if !passes(&packet, &self.settings) {
            self.counts.note_lost();
            return;
        }
        let is_full = self.settings.rate_bps.is_some_and(|rate| {
            // A packet that alone is longer than the queue is sent if nothing waits.
            !self.queue.is_empty() && (self.queue_bytes + len) * 8_000_000 > rate * self.settings.queue_us
        });
        if is_full || self.flying.len() >= FLYING_MAX {
            self.counts.note_queue_drop(now_us);
            return;
        }
        if self.queue.is_empty() {
            self.left = len * 8_000_000;
        }
        self.queue_bytes += len;
        self.queue.push_back(Queued { came_us: now_us, packet });
        self.serve(now_us);
    }

    /// Delivers what has arrived. Returns when to call again, if there is something in the link.
    pub fn poll(&mut self, now_us: u64, mut deliver: impl FnMut(Vec<u8>)) -> Option<u64> {
        self.serve(now_us);
        while let Some(Reverse(first)) = self.flying.peek() {
            if first.arrives_us > now_us {
                break;
            }
            if let Some(Reverse(flying)) = self.flying.pop() {
                self.counts.note_delivered(flying.packet.len());
                deliver(flying.packet);
            }
        }
        let arrival = self.flying.peek().map(|Reverse(first)| first.arrives_us);
        let departure = match self.settings.rate_bps {
            Some(rate) if !self.queue.is_empty() => Some(self.served_us + self.left.div_ceil(rate)),
            _ => None,
        };
        arrival.into_iter().chain(departure).min()
    }

    /// Sends from the queue what the capacity permits up to now.
    fn serve(&mut self, now_us: u64) {
        let now_us = now_us.max(self.served_us);
        self.counts.note_capacity(self.settings.rate_bps, now_us - self.served_us);
        while !self.queue.is_empty() {
            if let Some(rate) = self.settings.rate_bps {
                let needed_us = self.left.div_ceil(rate);
                if self.served_us + needed_us > now_us {
                    self.left -= (now_us - self.served_us) * rate;
                    break;
                }
                self.served_us += needed_us;
            }
            let Some(Queued { came_us, packet }) = self.queue.pop_front() else { break };
            self.queue_bytes -= packet.len() as u64;
            self.left = self.queue.front().map_or(0, |next| next.packet.len() as u64 * 8_000_000);
            let left_us = self.served_us.max(came_us);
            self.depart(left_us, packet, left_us - came_us);
        }
        self.served_us = now_us;
    }

    /// The last bit of a packet was sent.
    fn depart(&mut self, now_us: u64, packet: Vec<u8>, queueing_us: u64) {
        self.counts.note_sent(now_us, packet.len(), queueing_us);
        if self.is_lost() {
            self.counts.note_lost();
            return;
        }
        let Settings { delay_us, jitter_us, reorder, reorder_us, .. } = self.settings;
        let jitter_us = (self.random.share() * jitter_us as f64) as u64;
        let mut arrives_us = now_us + delay_us + jitter_us;
        if reorder > 0.0 && self.random.share() < reorder {
            arrives_us += reorder_us;
        } else {
            arrives_us = arrives_us.max(self.last_arrival_us);
            self.last_arrival_us = arrives_us;
        }
        self.departed += 1;
        self.flying.push(Reverse(Flying { arrives_us, number: self.departed, packet }));
    }

    fn is_lost(&mut self) -> bool {
        match self.settings.loss {
            Loss::Random(share) => share > 0.0 && self.random.share() < share,
            Loss::Burst(share, length) => {
                // The share of time in the burst is begin / (begin + end), so that share of the packets is lost.
                let end = 1.0 / length;
                let begin = end * share / (1.0 - share);
                let change = if self.is_in_burst { end } else { begin };
                self.is_in_burst ^= self.random.share() < change;
                self.is_in_burst
            }
        }
    }
}

/// Whether the firewall lets an IP packet pass (RFC 791 §3.1, RFC 8200 §3: protocol 17 is UDP, 6 is TCP).
fn passes(packet: &[u8], settings: &Settings) -> bool {
    let (protocol, header_len) = match packet.first() {
        Some(first) if first >> 4 == 4 => (packet.get(9), usize::from(first & 0xF) * 4),
        _ => (packet.get(6), 40),
    };
    match (protocol, settings.tcp_port) {
        (Some(17), _) => settings.has_udp,
        // Both ports come first (RFC 9293 §3.1).
        (Some(6), Some(port)) => {
            let ports = packet.get(header_len..header_len + 4).unwrap_or_default();
            ports.chunks_exact(2).any(|bytes| bytes == port.to_be_bytes())
        }
        _ => true,
    }
}

/// SplitMix64: enough for a link, and the same for the same seed everywhere.
struct Random(u64);

impl Random {
    /// A number from 0 to below 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
