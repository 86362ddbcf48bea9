//! What one direction has carried since the last mark.

use std::fmt::Write;

/// Width of a step of the series, microseconds.
pub const STEP_US: u64 = 100_000;
/// Longest series, steps: ten minutes. Later packets count in the last step.
const STEPS_MAX: usize = 6_000;
/// Width of a bucket of queueing delays, microseconds.
const BUCKET_US: u64 = 500;
/// Buckets: up to 4 s. Longer delays count in the last one; the maximum is exact.
const BUCKETS: usize = 8_000;

/// A tenth of a second.
#[derive(Clone, Copy, Default)]
struct Step {
    offered_bytes: u64,
    sent_bytes: u64,
    dropped: u32,
    queueing_us_max: u64,
}

/// Counters of a window.
pub struct Counts {
    begun_us: u64,
    offered: Sum,
    sent: Sum,
    delivered: Sum,
    /// Packets that the queue had no room for.
    queue_drops: u64,
    /// Packets that were lost on the link.
    lost: u64,
    /// Bits that the capacity permitted; meaningless once it was unlimited.
    capacity_bits: f64,
    was_unlimited: bool,
    queueing: Vec<u32>,
    queueing_us_max: u64,
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    packets: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, len: usize) {
        self.packets += 1;
        self.bytes += len as u64;
    }
}

impl Counts {
    /// A window that begins now.
    pub fn new(now_us: u64) -> Counts {
        Counts {
            begun_us: now_us,
            offered: Sum::default(),
            sent: Sum::default(),
            delivered: Sum::default(),
            queue_drops: 0,
            lost: 0,
            capacity_bits: 0.0,
            was_unlimited: false,
            queueing: vec![0; BUCKETS],
            queueing_us_max: 0,
            steps: Vec::new(),
        }
    }

    /// Packets and bytes that came to the link.
    pub fn offered(&self) -> (u64, u64) {
        (self.offered.packets, self.offered.bytes)
    }

    /// Packets and bytes that left the queue, those lost after it included.
    pub fn sent(&self) -> (u64, u64) {
        (self.sent.packets, self.sent.bytes)
    }

    /// Packets that the queue dropped, and packets lost after it.
    pub fn drops(&self) -> (u64, u64) {
        (self.queue_drops, self.lost)
    }

    /// Packets that came out.
    pub fn delivered(&self) -> u64 {
        self.delivered.packets
    }

    /// Share of the capacity that was used, if it had a limit all the time.
    pub fn utilisation(&self) -> Option<f64> {
        let has_limit = !self.was_unlimited && self.capacity_bits > 0.0;
        has_limit.then(|| self.sent.bytes as f64 * 8.0 / self.capacity_bits)
    }

    /// Queueing delay that this share of the packets did not exceed, microseconds, to half a millisecond.
    pub fn queueing_us(&self, share: f64) -> u64 {
        let wanted = (self.sent.packets as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, &count) in self.queueing.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted && seen > 0 {
                return (bucket as u64 * BUCKET_US).min(self.queueing_us_max);
            }
        }
        0
    }

    /// The longest queueing delay, microseconds.
    pub fn queueing_us_max(&self) -> u64 {
        self.queueing_us_max
    }

    pub(crate) fn note_offered(&mut self, now_us: u64, len: usize) {
        self.offered.add(len);
        self.step(now_us).offered_bytes += len as u64;
    }

    pub(crate) fn note_queue_drop(&mut self, now_us: u64) {
        self.queue_drops += 1;
        self.step(now_us).dropped += 1;
    }

    /// A packet has left the queue: so long after it came that its last bit is sent.
    pub(crate) fn note_sent(&mut self, now_us: u64, len: usize, queueing_us: u64) {
        self.sent.add(len);
        self.queueing[((queueing_us / BUCKET_US) as usize).min(BUCKETS - 1)] += 1;
        self.queueing_us_max = self.queueing_us_max.max(queueing_us);
        let step = self.step(now_us);
        step.sent_bytes += len as u64;
        step.queueing_us_max = step.queueing_us_max.max(queueing_us);
    }

    pub(crate) fn note_lost(&mut self) {
        self.lost += 1;
    }

    pub(crate) fn note_delivered(&mut self, len: usize) {
        self.delivered.add(len);
    }

    pub(crate) fn note_capacity(&mut self, rate_bps: Option<u64>, us: u64) {
        match rate_bps {
            Some(rate) => self.capacity_bits += rate as f64 * us as f64 / 1e6,
            None => self.was_unlimited |= us > 0,
        }
    }

    fn step(&mut self, now_us: u64) -> &mut Step {
        let at = (now_us.saturating_sub(self.begun_us) / STEP_US) as usize;
        let at = at.min(STEPS_MAX - 1);
        if self.steps.len() <= at {
            self.steps.resize(at + 1, Step::default());
        }
        &mut self.steps[at]
    }

    /// As a JSON object.
    pub fn write_json(&self, out: &mut String) {
        let ms = |us: u64| us as f64 / 1e3;
        let utilisation = self.utilisation().map_or("null".to_owned(), |share| format!("{share:.4}"));
        let _ = write!(
            out,
            "{{\"offered\":{},\"offered_bytes\":{},\"sent\":{},\"sent_bytes\":{},\"delivered\":{},\"delivered_bytes\":{},\
             \"queue_drops\":{},\"lost\":{},\"utilisation\":{utilisation},\"queueing_ms_p50\":{},\"queueing_ms_p95\":{},\
             \"queueing_ms_max\":{},\"step_ms\":{},\"steps\":[",
            self.offered.packets,
            self.offered.bytes,
            self.sent.packets,
            self.sent.bytes,
            self.delivered.packets,
            self.delivered.bytes,
            self.queue_drops,
            self.lost,
            ms(self.queueing_us(0.5)),
            ms(self.queueing_us(0.95)),
            ms(self.queueing_us_max),
            ms(STEP_US),
        );
        for (at, step) in self.steps.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let Step { offered_bytes, sent_bytes, dropped, queueing_us_max } = step;
            let queueing = ms(*queueing_us_max);
            let _ = write!(out, "{comma}[{offered_bytes},{sent_bytes},{dropped},{queueing}]");
        }
        out.push_str("]}");
    }
}
