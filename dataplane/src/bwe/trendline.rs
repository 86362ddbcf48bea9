//! Whether a queue grows on a path, by the delays of groups of packets: the delay-based detector of Google Congestion Control
//! (draft-ietf-rmcat-gcc-02 §5) in the form that libwebrtc gave it later (`TrendlineEstimator`), whose constants these are. A
//! line through the smoothed delays of the last twenty groups, and a threshold that adapts to what it is compared with.

/// Groups on which the trend stands (`kDefaultTrendlineWindowSize`).
const WINDOW: usize = 20;
/// Groups up to which more of them make a trend more certain (`kMinNumDeltas`).
const GROUPS_CERTAIN: f64 = 60.0;
/// Weight of the past in the smoothed delay (`kDefaultTrendlineSmoothingCoeff`).
const SMOOTHING: f64 = 0.9;
/// Factor from the trend to what is compared with the threshold (`kDefaultTrendlineThresholdGain`).
const GAIN: f64 = 4.0;
/// The threshold, milliseconds, and how fast it follows what it is compared with (`k_up_`, `k_down_`).
const THRESHOLD: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
const UP: f64 = 0.0087;
const DOWN: f64 = 0.039;
/// A trend that far above the threshold is an accident, to which the threshold does not adapt (`kMaxAdaptOffsetMs`).
const ADAPT_MAX: f64 = 15.0;
/// Longest interval, milliseconds, for which the threshold adapts at once (`kMaxTimeDeltaMs`).
const ADAPT_INTERVAL_MAX: f64 = 100.0;
/// How long, in milliseconds of sending, the trend must stay above it (`kOverUsingTimeThreshold`).
const OVERUSE_MIN: f64 = 10.0;

/// The detector's result for the path.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Usage {
    /// Queues neither grow nor shrink.
    #[default]
    Normal,
    /// They drain.
    Under,
    /// They grow.
    Over,
}

/// The detector of one path.
pub(crate) struct Trendline {
    /// Arrival, milliseconds, and smoothed delay of the last groups, as a ring.
    points: [(f64, f64); WINDOW],
    count: usize,
    origin: f64,
    delay: f64,
    delay_smoothed: f64,
    trend: f64,
    threshold: f64,
    adapted_at: Option<f64>,
    over_for: Option<f64>,
    over_count: u32,
    usage: Usage,
}

impl Trendline {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        Trendline {
            points: [(0.0, 0.0); WINDOW],
            count: 0,
            origin: 0.0,
            delay: 0.0,
            delay_smoothed: 0.0,
            trend: 0.0,
            threshold: THRESHOLD,
            adapted_at: None,
            over_for: None,
            over_count: 0,
            usage: Usage::Normal,
        }
    }

    /// The result after the last group.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// A group arrived so many milliseconds after the one before, and was sent so many after it. `at`: milliseconds of the
    /// receiver's clock.
    pub(crate) fn group_arrived(&mut self, sent: f64, arrived: f64, at: f64) {
        if self.count == 0 {
            self.origin = at;
        }
        self.delay += arrived - sent;
        self.delay_smoothed = SMOOTHING * self.delay_smoothed + (1.0 - SMOOTHING) * self.delay;
        self.points[self.count % WINDOW] = (at - self.origin, self.delay_smoothed);
        self.count += 1;
        let trend_before = self.trend;
        if self.count >= WINDOW {
            self.trend = slope(&self.points).unwrap_or(self.trend);
        }
        if self.count >= 2 {
            let modified = (self.count as f64).min(GROUPS_CERTAIN) * self.trend * GAIN;
            self.judge(modified, trend_before, sent);
            self.adapt(modified, at);
        }
    }

    fn judge(&mut self, modified: f64, trend_before: f64, sent: f64) {
        if modified > self.threshold {
            // The first time it may have begun anywhere within the interval.
            let over_for = self.over_for.map_or(sent / 2.0, |so_far| so_far + sent);
            self.over_for = Some(over_for);
            self.over_count += 1;
            if over_for > OVERUSE_MIN && self.over_count > 1 && self.trend >= trend_before {
                (self.over_for, self.over_count) = (Some(0.0), 0);
                self.usage = Usage::Over;
            }
            return;
        }
        (self.over_for, self.over_count) = (None, 0);
        self.usage = if modified < -self.threshold { Usage::Under } else { Usage::Normal };
    }

    /// Lets the threshold follow, slowly upwards: flows that fill queues by themselves must not starve this one.
    fn adapt(&mut self, modified: f64, at: f64) {
        let since = self.adapted_at.replace(at).map_or(0.0, |before| at - before);
        let distance = modified.abs() - self.threshold;
        if distance > ADAPT_MAX {
            return;
        }
        let gain = if distance < 0.0 { DOWN } else { UP };
        let since = since.clamp(0.0, ADAPT_INTERVAL_MAX);
        self.threshold = (self.threshold + gain * distance * since).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
    }

    /// Whether all numbers are numbers, for tests.
    #[cfg(test)]
    pub(crate) fn is_sound(&self) -> bool {
        self.trend.is_finite()
            && self.delay_smoothed.is_finite()
            && (THRESHOLD_MIN..=THRESHOLD_MAX).contains(&self.threshold)
    }
}

/// Slope of the line through the points with the least squares, if they do not all arrive at once.
fn slope(points: &[(f64, f64); WINDOW]) -> Option<f64> {
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / WINDOW as f64;
    let (x_mean, y_mean) = (mean(|p| p.0), mean(|p| p.1));
    let (mut numerator, mut denominator) = (0.0, 0.0);
    for (x, y) in points {
        numerator += (x - x_mean) * (y - y_mean);
        denominator += (x - x_mean) * (x - x_mean);
    }
    (denominator != 0.0).then(|| numerator / denominator)
}
