//! From RTP time to the time of the recording, by sender reports (RFC 3550 §6.4.1).
//!
//! All slots of a peer are reported in one clock of the server, so that what was captured at one moment is at one moment in all files.
//! Where no report of a slot comes, its frames count from when the soonest of them came.

use std::time::{Duration, Instant};

/// A report that says less than this else than what is believed changes nothing, so that frames are as far apart as they were captured.
const TOLERANCE_MICROS: i64 = 4_000;

/// How the server's clock and that of the recording go together: fixed by the first report of a peer.
#[derive(Clone, Copy, Default, Debug)]
pub struct ServerClock {
    /// Of the recording's time less the server's, microseconds.
    offset: Option<i64>,
}

impl ServerClock {
    /// Microseconds since the recording began, of a moment in the server's clock that was told at `arrival`.
    pub fn micros(&mut self, ntp_time: u64, arrival: i64) -> i64 {
        let server = ((u128::from(ntp_time) * 1_000_000) >> 32) as i64;
        server + *self.offset.get_or_insert(arrival - server)
    }
}

/// The clock of one slot while it carries one track.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    rate: i64,
    /// Extended RTP time of the last packet.
    last: Option<i64>,
    /// RTP time and microseconds since the recording began.
    anchor: Option<(i64, i64)>,
    is_reported: bool,
}

impl Clock {
    /// One of so many ticks a second.
    pub fn new(rate: u32) -> Clock {
        Clock { rate: i64::from(rate), last: None, anchor: None, is_reported: false }
    }

    /// Whether a report has told the time.
    pub fn is_reported(&self) -> bool {
        self.is_reported
    }

    /// Takes a report.
    pub fn report(&mut self, timestamp: u32, micros: i64) {
        let timestamp = self.extend(timestamp);
        let is_else = self.anchor.is_none_or(|_| (self.of(timestamp) - micros).abs() > TOLERANCE_MICROS);
        if is_else || !self.is_reported {
            self.anchor = Some((timestamp, micros));
        }
        self.is_reported = true;
    }

    /// A frame came: until a report tells the time, the frame that came soonest does.
    pub fn arrived(&mut self, timestamp: u32, arrival: i64) {
        let timestamp = self.extend(timestamp);
        self.last = Some(self.last.map_or(timestamp, |last| last.max(timestamp)));
        if self.anchor.is_none_or(|_| !self.is_reported && self.of(timestamp) > arrival) {
            self.anchor = Some((timestamp, arrival));
        }
    }

    /// Microseconds since the recording began of a frame that came at `arrival`.
    pub fn micros(&mut self, timestamp: u32, arrival: i64) -> i64 {
        self.arrived(timestamp, arrival);
        self.of(self.extend(timestamp))
    }

    fn of(&self, timestamp: i64) -> i64 {
        let (at, micros) = self.anchor.unwrap_or((timestamp, 0));
        micros + (timestamp - at) * 1_000_000 / self.rate
    }

    fn extend(&self, timestamp: u32) -> i64 {
        let near = self.last.or(self.anchor.map(|anchor| anchor.0));
        near.map_or(i64::from(timestamp), |near| near + i64::from(timestamp.wrapping_sub(near as u32) as i32))
    }
}

/// Microseconds from the start of the recording to a moment.
pub fn since(began: Instant, at: Instant) -> i64 {
    let micros = |time: Duration| time.as_micros() as i64;
    at.checked_duration_since(began).map_or_else(|| -micros(began.duration_since(at)), micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_report_the_frame_that_came_soonest_tells_the_time() {
        let mut clock = Clock::new(90_000);
        // The first one was 300 ms late.
        clock.arrived(0, 300_000);
        clock.arrived(9_000, 310_000);
        clock.arrived(18_000, 205_000);
        assert_eq!((clock.micros(0, 300_000), clock.micros(9_000, 310_000)), (5_000, 105_000));
        clock.report(18_000, 200_000);
        assert_eq!(clock.micros(27_000, 290_000), 300_000, "a report counts for more");
    }

    #[test]
    fn reports_put_two_tracks_at_one_time_however_late_their_packets_come() {
        let mut server = ServerClock::default();
        let (mut audio, mut video) = (Clock::new(48_000), Clock::new(90_000));
        // Video comes 80 ms behind audio; both were captured at once.
        assert_eq!(audio.micros(1000, 500_000), 500_000);
        assert_eq!(video.micros(u32::MAX - 899, 580_000), 580_000);
        let ntp = (86_400u64 << 32) + (1 << 31);
        let at = server.micros(ntp, 1_000_000);
        audio.report(1000 + 24_000, at);
        video.report(44_100, server.micros(ntp, 1_040_000));
        assert!(audio.is_reported() && video.is_reported());
        assert_eq!(audio.micros(1000 + 48_000, 1_500_000), 1_500_000);
        assert_eq!(video.micros(89_100, 1_580_000), 1_500_000);
        // Jitter of a report moves nothing, a drift does.
        video.report(89_100, 1_502_000);
        assert_eq!(video.micros(89_100, 0), 1_500_000);
        video.report(89_100, 1_510_000);
        assert_eq!(video.micros(89_100, 0), 1_510_000);
    }
}
