//! The worker's clock: monotonic microseconds, and the kernel's receive timestamps mapped onto them.
//!
//! The kernel stamps a datagram with CLOCK_REALTIME when it arrives (SO_TIMESTAMPNS), long before a busy worker
//! reads it. Congestion control needs that moment, on a clock that no time daemon steps: so the distance between
//! the two clocks is measured now and then, and subtracted.

use std::time::{Duration, Instant, SystemTime};

use crate::config::Micros;

/// Where the clock starts, so that `now - history` cannot pass zero in a young process.
const START: Micros = 3_600_000_000;

/// How long a measured distance between the clocks is trusted. Time daemons slew by at most 500 ppm, half a
/// millisecond in this time; a step is noticed at once (see [`Clock::map`]).
const DISTANCE_AGE_MAX: Micros = 1_000_000;

/// How long a datagram may plausibly have waited in the socket. An older stamp, or one from the future, means that
/// the wall clock was stepped after it or before it was measured.
const WAIT_MAX: Micros = 2_000_000;

/// Processor time of this thread, user and kernel, microseconds.
pub(super) fn processor_time() -> Micros {
    processor_time_ns() / 1000
}

/// The same in nanoseconds.
pub(super) fn processor_time_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own that lives through the call, which writes nothing else.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if result == 0 { time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 } else { 0 }
}

/// A monotonic clock and its distance to the wall clock.
#[derive(Debug)]
pub(super) struct Clock {
    origin: Instant,
    /// Wall clock minus this clock, nanoseconds.
    distance_ns: i128,
    measured_at: Micros,
}

impl Clock {
    /// A clock that reads [`START`] at `origin`. Workers share one origin, so that their times compare.
    pub(super) fn new(origin: Instant) -> Self {
        let mut clock = Self { origin, distance_ns: 0, measured_at: 0 };
        clock.measure();
        clock
    }

    /// Microseconds now.
    pub(super) fn now(&self) -> Micros {
        START + self.origin.elapsed().as_micros() as Micros
    }

    /// The standard library's instant of a time of this clock, for timers.
    pub(super) fn instant(&self, at: Micros) -> Instant {
        self.origin + Duration::from_micros(at.saturating_sub(START))
    }

    /// Measures the distance again when it has become old.
    pub(super) fn refresh(&mut self, now: Micros) {
        if now.saturating_sub(self.measured_at) >= DISTANCE_AGE_MAX {
            self.measure();
        }
    }

    /// The time on this clock of a kernel stamp, never later than `now`. A stamp that cannot be is measured again
    /// and, if it stays impossible, replaced by `now`.
    pub(super) fn map(&mut self, stamp: Duration, now: Micros) -> Micros {
        let at = self.map_with_current_distance(stamp);
        if plausible(at, now) {
            return at.min(now);
        }
        if self.measured_at != now {
            self.measure();
            self.measured_at = now;
        }
        let at = self.map_with_current_distance(stamp);
        if plausible(at, now) { at.min(now) } else { now }
    }

    fn map_with_current_distance(&self, stamp: Duration) -> Micros {
        let ns = stamp.as_nanos() as i128 - self.distance_ns;
        u64::try_from(ns / 1000).unwrap_or(0)
    }

    /// Reads both clocks, three times, and keeps the pair that was read closest together: an interrupt between the
    /// two readings would shift every timestamp for a second.
    fn measure(&mut self) {
        let mut closest = Duration::MAX;
        for _ in 0..3 {
            let before = self.origin.elapsed();
            let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let after = self.origin.elapsed();
            let apart = after - before;
            if apart < closest {
                closest = apart;
                let here = Duration::from_micros(START) + before + apart / 2;
                self.distance_ns = wall.as_nanos() as i128 - here.as_nanos() as i128;
            }
        }
        self.measured_at = self.now();
    }
}

/// Whether a datagram that is read at `now` can have arrived at `at`. The clocks are read a little apart, so a
/// stamp may lie a hair in the future.
fn plausible(at: Micros, now: Micros) -> bool {
    at <= now + 1_000 && now.saturating_sub(at) <= WAIT_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall() -> Duration {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_stamp_maps_to_the_moment_it_was_taken() {
        let mut clock = Clock::new(Instant::now());
        let before = clock.now();
        let stamp = wall();
        let after = clock.now();
        let at = clock.map(stamp, after + 50_000);
        assert!((before - 500..=after + 500).contains(&at), "{before} {at} {after}");
    }

    #[test]
    fn it_never_maps_into_the_future() {
        let mut clock = Clock::new(Instant::now());
        let now = clock.now();
        assert_eq!(clock.map(wall() + Duration::from_micros(900), now), now);
    }

    #[test]
    fn a_stepped_wall_clock_is_measured_again() {
        let mut clock = Clock::new(Instant::now());
        // As if the wall clock had been an hour behind when it was measured, and has been stepped since.
        clock.distance_ns -= 3_600_000_000_000;
        let stamp = wall();
        let now = clock.now() + 20_000;
        let at = clock.map(stamp, now);
        assert!(now - at > 15_000 && now - at < 30_000, "{at} {now}");
    }

    #[test]
    fn an_impossible_stamp_counts_as_now() {
        let mut clock = Clock::new(Instant::now());
        let now = clock.now();
        assert_eq!(clock.map(Duration::ZERO, now), now);
        assert_eq!(clock.map(wall() + Duration::from_secs(100), now), now);
        assert_eq!(clock.map(Duration::MAX, now), now);
    }

    #[test]
    fn an_hour_of_history_never_passes_zero() {
        let clock = Clock::new(Instant::now());
        assert!(clock.now() >= START);
        let at = clock.now() + 5_000;
        assert!(clock.instant(at) > Instant::now());
        assert!(clock.instant(0) <= Instant::now());
    }
}
