//! The jitter buffer of one stream: packets in, in any order; one at a time out, in theirs. Its delay follows the jitter, and
//! clocks that drift apart. In virtual time: it is asked once for each frame that is played.
//!
//! The delay is what lies between the end of the newest packet and what is played. It is to be twice the jitter (RFC 3550 §6.4.1)
//! and one packet, at most [`DELAY_MAX`]. When the buffer runs empty the next packet waits for twice the jitter; when the delay was
//! longer than needed for a second, packets are left out, one of [`APART`]. Where that was too early, as what follows is late, it takes longer the next time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longest delay that jitter can make.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// Packets that are kept; at 10 ms each that is more than a second.
const PACKETS_MAX: usize = 128;
/// How long the delay must be too long before a packet is left out: at least, and at most where it was too early before.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
const PATIENCE_MAX: Duration = Duration::from_secs(32);
/// Of so many packets one is left out, while there is a surplus: after a pause of the network 200 ms are gone in a second.
const APART: u32 = 5;
/// A jump of the RTP clock beyond which it is another one, seconds.
const JUMP: u64 = 5;

/// What is to be played now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Play {
    Packet(Vec<u8>),
    /// It did not come, and a later one did.
    Lost,
    /// There is nothing: silence, or the network stands.
    Nothing,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Put {
    Kept,
    /// Its time has passed.
    Late,
    Twice,
}

#[derive(Debug)]
pub(crate) struct Jitter {
    /// Ticks of the RTP clock a second.
    rate: u32,
    packets: BTreeMap<u64, Vec<u8>>,
    /// RTP time to be played next, extended.
    next: Option<u64>,
    newest: u64,
    /// Length of the last packet that was played, ticks.
    step: u64,
    /// Whether packets are gathered until the delay is there.
    is_filling: bool,
    filled_at: Option<Instant>,
    /// RFC 3550's estimate, seconds.
    jitter: f64,
    transit: Option<f64>,
    begin: Option<Instant>,
    /// Shortest delay since then.
    shortest: Option<(Duration, Instant)>,
    /// How long it must be too long, and when a packet was left out last.
    patience: Duration,
    left_out_at: Option<Instant>,
    /// Packets that are to be left out, and how many are played until the next one.
    surplus: u32,
    until_next: u32,
}

impl Jitter {
    pub(crate) fn new(rate: u32) -> Jitter {
        Jitter {
            rate,
            packets: BTreeMap::new(),
            next: None,
            newest: 0,
            step: u64::from(rate) / 50,
            is_filling: true,
            filled_at: None,
            jitter: 0.0,
            transit: None,
            begin: None,
            shortest: None,
            patience: PATIENCE_MIN,
            left_out_at: None,
            surplus: 0,
            until_next: 0,
        }
    }

    /// RFC 3550's estimate of the jitter.
    pub(crate) fn jitter(&self) -> Duration {
        Duration::from_secs_f64(self.jitter)
    }

    /// Takes a packet.
    pub(crate) fn put(&mut self, now: Instant, timestamp: u32, payload: &[u8]) -> Put {
        let Some(at) = self.extended(timestamp) else {
            // Another clock: from the beginning.
            *self = Jitter::new(self.rate);
            return self.put(now, timestamp, payload);
        };
        self.measure(now, at);
        if self.packets.contains_key(&at) {
            return Put::Twice;
        }
        if self.next.is_some_and(|next| at < next) && !self.is_filling {
            self.was_short(now);
            return Put::Late;
        }
        if self.packets.is_empty() && self.is_filling {
            self.filled_at = Some(now);
            self.next = Some(at);
            // Also where the clock was set back.
            self.newest = at;
        }
        self.next = self.next.map(|next| if self.is_filling { next.min(at) } else { next });
        self.newest = self.newest.max(at);
        self.packets.insert(at, payload.to_vec());
        if self.packets.len() > PACKETS_MAX {
            self.packets.pop_first();
            self.next = self.packets.first_key_value().map(|(at, _)| *at);
        }
        Put::Kept
    }

    fn extended(&self, timestamp: u32) -> Option<u64> {
        if self.begin.is_none() {
            return Some((1 << 32) + u64::from(timestamp));
        }
        let ahead = i64::from(timestamp.wrapping_sub(self.newest as u32).cast_signed());
        let is_near = ahead.unsigned_abs() <= JUMP * u64::from(self.rate) || (ahead > 0 && self.packets.is_empty());
        is_near.then(|| self.newest.saturating_add_signed(ahead))
    }

    fn measure(&mut self, now: Instant, at: u64) {
        let begin = *self.begin.get_or_insert(now);
        let transit = now.saturating_duration_since(begin).as_secs_f64() - at as f64 / f64::from(self.rate);
        if let Some(last) = self.transit {
            // A pause of the sender is no jitter.
            let moved = (transit - last).abs().min(DELAY_MAX.as_secs_f64());
            self.jitter += (moved - self.jitter) / 16.0;
        }
        self.transit = Some(transit);
    }

    /// How long packets shall wait.
    pub(crate) fn target(&self) -> Duration {
        let packet = self.packet();
        Duration::from_secs_f64(2.0 * self.jitter).saturating_add(packet).min(DELAY_MAX).max(packet)
    }

    /// How long a packet is.
    fn packet(&self) -> Duration {
        Duration::from_secs_f64(self.step as f64 / f64::from(self.rate))
    }

    /// What is buffered.
    pub(crate) fn delay(&self) -> Duration {
        let Some(next) = self.next.filter(|_| !self.packets.is_empty()) else { return Duration::ZERO };
        Duration::from_secs_f64((self.newest + self.step).saturating_sub(next) as f64 / f64::from(self.rate))
    }

    /// The next packet to be played.
    pub(crate) fn take(&mut self, now: Instant) -> Play {
        let Some(next) = self.next else { return Play::Nothing };
        if self.packets.is_empty() {
            self.is_filling = true;
            (self.shortest, self.surplus) = (None, 0);
            self.was_short(now);
            return Play::Nothing;
        }
        if self.is_filling {
            let has_waited =
                self.filled_at.is_none_or(|at| now.saturating_duration_since(at) >= self.target() - self.packet());
            if !has_waited {
                return Play::Nothing;
            }
            self.is_filling = false;
            self.next = self.packets.first_key_value().map(|(at, _)| *at);
            return self.take_next();
        }
        let delay = self.delay();
        if delay > DELAY_MAX + 3 * self.packet() {
            // More than jitter explains: what stood in the way has let go. Nobody talks with so much of it.
            let kept = self.newest.saturating_sub((self.target().as_secs_f64() * f64::from(self.rate)) as u64);
            self.packets = self.packets.split_off(&kept);
            self.next = self.packets.first_key_value().map(|(at, _)| *at);
            (self.shortest, self.surplus) = (None, 0);
            return self.take_next();
        }
        let (shortest, since) = self.shortest.unwrap_or((delay, now));
        self.shortest = Some((shortest.min(delay), since));
        if now.saturating_duration_since(since) >= self.patience {
            self.shortest = None;
            // Their clock runs faster, or the jitter has gone.
            let surplus = shortest.min(delay).saturating_sub(self.target());
            self.surplus = surplus.div_duration_f64(self.packet()).round() as u32;
            if self.surplus > 0 && self.left_out_at.replace(now).is_some() {
                self.patience = (self.patience / 2).max(PATIENCE_MIN);
            }
        }
        self.until_next = self.until_next.saturating_sub(1);
        if self.surplus > 0 && self.until_next == 0 && self.packets.remove(&next).is_some() {
            (self.surplus, self.until_next) = (self.surplus - 1, APART);
            self.next = self.packets.first_key_value().map(|(at, _)| *at);
        }
        self.take_next()
    }

    /// The delay was too short: also because a packet was left out, if that was not long ago.
    fn was_short(&mut self, now: Instant) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) <= self.patience.saturating_mul(2);
        if self.left_out_at.take().is_some_and(is_recent) {
            self.patience = (self.patience * 2).min(PATIENCE_MAX);
        }
    }

    fn take_next(&mut self) -> Play {
        let (Some(next), Some((&first, _))) = (self.next, self.packets.first_key_value()) else { return Play::Nothing };
        // A pause of the sender, not a loss, when nothing near is missing.
        let is_pause = first > next + 10 * self.step;
        if first <= next || is_pause {
            let Some((at, payload)) = self.packets.pop_first() else { return Play::Nothing };
            if let Some((&after, _)) = self.packets.first_key_value()
                && after - at <= u64::from(self.rate) / 10
            {
                self.step = self.step.min(after - at).max(u64::from(self.rate) / 400);
            }
            self.next = Some(at + self.step);
            return Play::Packet(payload);
        }
        // Who plays conceals 20 ms, however long a packet is.
        self.next = Some((next + u64::from(self.rate) / 50).min(first));
        Play::Lost
    }

    /// Tells how long the packet was that was played last, ticks; 0 if that cannot be known.
    pub(crate) fn played(&mut self, ticks: u64) {
        if let Some(next) = self.next.as_mut().filter(|_| ticks > 0) {
            *next = *next - self.step + ticks;
            self.step = ticks;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `seconds` of a sender with this period and delays; what was played, and the delays of the buffer.
    fn play(seconds: u64, period: Duration, delay_of: impl Fn(u64) -> Option<u64>) -> (Vec<Play>, Vec<Duration>) {
        let (mut jitter, begin) = (Jitter::new(8000), Instant::now());
        let mut packets: Vec<(Duration, u64)> = (0..seconds * 1000 / 20)
            .filter_map(|n| Some((period * n as u32 + Duration::from_micros(delay_of(n)?), n)))
            .collect();
        packets.sort();
        let mut packets = packets.into_iter().peekable();
        let (mut played, mut delays) = (Vec::new(), Vec::new());
        for tick in 0..seconds * 50 {
            let now = Duration::from_millis(20) * tick as u32 + Duration::from_millis(5);
            while let Some((at, n)) = packets.next_if(|(at, _)| *at <= now) {
                jitter.put(begin + at, 1000 + 160 * n as u32, &n.to_be_bytes());
            }
            let what = jitter.take(begin + now);
            if matches!(what, Play::Packet(_)) {
                jitter.played(160);
            }
            played.push(what);
            delays.push(jitter.delay());
        }
        (played, delays)
    }

    fn numbers(played: &[Play]) -> Vec<u64> {
        let number = |play: &Play| match play {
            Play::Packet(payload) => Some(u64::from_be_bytes(payload.as_slice().try_into().unwrap())),
            _ => None,
        };
        played.iter().filter_map(number).collect()
    }

    #[test]
    fn an_even_stream_is_played_whole_with_little_delay() {
        let (played, delays) = play(10, Duration::from_millis(20), |_| Some(0));
        assert_eq!(numbers(&played), (0..500).collect::<Vec<_>>());
        assert!(delays.iter().all(|delay| *delay <= Duration::from_millis(40)), "{:?}", delays.iter().max());
    }

    #[test]
    fn disorder_and_jitter_are_played_in_order() {
        let spread = |n: u64| Some(n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 60_000);
        let (played, delays) = play(20, Duration::from_millis(20), spread);
        let numbers = numbers(&played);
        assert!(numbers.is_sorted(), "in order");
        // While it learns the jitter, some are late.
        assert!(numbers.len() >= 980, "{}", numbers.len());
        let later = &played[200..];
        let missed = later.iter().filter(|play| !matches!(play, Play::Packet(_))).count();
        assert!(missed <= 8, "{missed} of {} frames have nothing", later.len());
        assert!(
            delays.iter().all(|delay| *delay <= DELAY_MAX + Duration::from_millis(40)),
            "{:?}",
            delays.iter().max()
        );
    }

    #[test]
    fn what_a_pause_of_the_network_has_added_goes_again() {
        let (played, delays) =
            play(10, Duration::from_millis(20), |n| Some(103u64.saturating_sub(n).min(4) % 4 * 20_000));
        assert!(delays[104..110].iter().all(|delay| *delay >= Duration::from_millis(40)), "{:?}", &delays[100..110]);
        assert!(
            delays[400..].iter().all(|delay| *delay <= Duration::from_millis(20)),
            "{:?}",
            delays[400..].iter().max()
        );
        assert!(numbers(&played).len() >= 495, "{}", numbers(&played).len());
    }

    /// Telephones may have packets of any length; the buffer is asked for one when those before are played.
    #[test]
    fn packets_of_any_length_are_played_whole() {
        for len in [10, 20, 30, 40, 60, 120u64] {
            let (mut jitter, begin) = (Jitter::new(8000), Instant::now());
            let (mut played, mut come, mut left) = (0, 0, 0);
            for at in 0..60_000u64 {
                let now = begin + Duration::from_millis(at);
                // Each comes up to 3 ms late.
                while come * len + come * 7 % 4 <= at {
                    jitter.put(now, (come * len * 8) as u32, &[0; 8]);
                    come += 1;
                }
                if at % 20 != 7 {
                    continue;
                }
                while left < 20 {
                    match jitter.take(now) {
                        Play::Packet(_) => {
                            jitter.played(len * 8);
                            (left, played) = (left + len, played + 1);
                        }
                        // Concealed.
                        Play::Lost | Play::Nothing => left += 20,
                    }
                }
                left -= 20;
                let most = Duration::from_millis(2 * len + 20);
                assert!(at < 5000 || jitter.delay() <= most, "{len} ms: {:?} after {at}", jitter.delay());
            }
            assert!(come - played <= 3, "{len} ms: {played} of {come}");
        }
    }

    #[test]
    fn what_is_lost_is_said_at_its_place() {
        // Five come at once, so that later ones are there when one is missing.
        let (played, _) = play(10, Duration::from_millis(20), |n| (n % 10 != 7).then_some((4 - n % 5) * 20_000));
        let lost: Vec<usize> = (0..played.len()).filter(|at| played[*at] == Play::Lost).collect();
        assert!((45..=50).contains(&lost.len()), "{}", lost.len());
        let of = |at: usize| numbers(&played[at..=at]).first().copied();
        assert!(
            lost.iter()
                .skip(5)
                .all(|at| of(at - 1).is_none_or(|n| n % 10 == 6) && of(at + 1).is_none_or(|n| n % 10 == 8))
        );
        assert!(numbers(&played).len() >= 440, "but for the last ones, which come after the end");
    }

    #[test]
    fn a_clock_that_runs_fast_or_slow_does_not_fill_or_starve_the_buffer() {
        for period in [19_980, 20_020] {
            let (played, delays) = play(120, Duration::from_micros(period), |_| Some(0));
            let numbers = numbers(&played);
            assert!(numbers.len() >= 5980, "{period}: {}", numbers.len());
            assert!(
                delays.iter().all(|delay| *delay <= Duration::from_millis(140)),
                "{period}: {:?}",
                delays.iter().max()
            );
        }
    }

    #[test]
    fn after_a_pause_and_after_another_clock_it_goes_on() {
        let (mut jitter, now) = (Jitter::new(8000), Instant::now());
        let at = |ms: u64| now + Duration::from_millis(ms);
        assert_eq!(jitter.put(at(0), 1000, b"a"), Put::Kept);
        assert_eq!(jitter.put(at(1), 1000, b"a"), Put::Twice);
        assert_eq!(jitter.take(at(20)), Play::Packet(b"a".to_vec()));
        assert_eq!(jitter.take(at(40)), Play::Nothing);
        assert_eq!(jitter.put(at(9000), 1000 + 72_000, b"b"), Put::Kept);
        assert_eq!(jitter.take(at(9200)), Play::Packet(b"b".to_vec()));
        assert_eq!(jitter.put(at(9220), 4_000_000_000, b"c"), Put::Kept);
        assert_eq!(jitter.take(at(9500)), Play::Packet(b"c".to_vec()));
        // Set back by three seconds after silence, which is not taken for three seconds of delay.
        assert_eq!(jitter.take(at(9520)), Play::Nothing);
        for n in 0..10u32 {
            assert_eq!(jitter.put(at(9540 + 20 * u64::from(n)), 4_000_000_000 - 24_000 + 160 * n, b"d"), Put::Kept);
        }
        let heard = (0..20).filter(|n| jitter.take(at(9740 + 20 * n)) == Play::Packet(b"d".to_vec())).count();
        assert!(heard >= 8, "{heard}");
    }

    #[test]
    fn a_flood_is_bounded() {
        let (mut jitter, now) = (Jitter::new(8000), Instant::now());
        for n in 0..100_000u32 {
            jitter.put(now, n.wrapping_mul(1_234_567), &[0; 160]);
            assert!(jitter.packets.len() <= PACKETS_MAX);
        }
    }
}
